//! Conflict copies that are removed and become versions of their files.

use crate::support::*;
use syncmount_common::protocol::commit::{BecomesVersion, CommitRequest, Op};
use syncmount_common::{Name, NodeId};
use syncmount_server::service::{Path, ServiceError};

const COPY: &str = ".index (conflict, B, 2026-11-22 10.15.30)";

async fn batch(world: &World, ops: Vec<Op>, versions: &[(NodeId, &str)]) -> CommitRequest {
    let version = |(id, of): &(NodeId, &str)| BecomesVersion { id: *id, of: Name::try_from(*of).unwrap() };
    let versions = versions.iter().map(version).collect();
    CommitRequest { versions, ..request(world.cursor().await.epoch, ops) }
}

fn path(text: &str) -> Path {
    Path::new(text.split('/').map(|name| name.as_bytes().to_vec())).unwrap()
}

async fn versions(world: &World, text: &str) -> Vec<u64> {
    let versions = world.service.versions(F, &path(text)).await.unwrap().versions;
    versions.iter().map(|version| version.size).collect()
}

#[tokio::test]
async fn what_a_removed_copy_had_is_a_version_of_its_file() {
    for world in worlds().await {
        let (dir, file, copy) = (id(), id(), id());
        let (one, one_chunk) = content(b"kept");
        let (two, two_chunk) = content(b"that lost");
        let mut made = batch(
            &world,
            vec![
                mkdir(dir, NodeId::ROOT, "dir"),
                create(file, dir, "index", hash_of(&one)),
                create(copy, dir, COPY, hash_of(&two)),
            ],
            &[],
        )
        .await;
        made.contents = vec![one, two];
        let done = world.service.commit(F, made, vec![one_chunk, two_chunk]).await.unwrap();
        assert_eq!(versions(&world, "dir/index").await, [4]);
        let gone = batch(&world, vec![remove(copy, done.last_seq)], &[(copy, "index")]).await;
        let gone = world.service.commit(F, gone, Vec::new()).await.unwrap();
        assert_eq!(versions(&world, "dir/index").await, [9, 4], "{}", world.kind);
        let opened = world.service.open(F, &path("dir/index"), Some(gone.last_seq)).await.unwrap();
        assert_eq!(opened.info.size, 9);
        // It is one of the file's also when that is gone, and the copy's own history is as it was.
        world.ok(vec![remove(file, done.first_seq + 1)]).await;
        assert_eq!(versions(&world, "dir/index").await, [9, 4]);
        assert_eq!(versions(&world, &format!("dir/{COPY}")).await, [9]);
    }
}

#[tokio::test]
async fn only_a_removed_file_becomes_a_version_and_of_one_file_only() {
    let world = in_memory().await;
    let (file, other, dir) = (id(), id(), id());
    let ops = vec![
        create(file, NodeId::ROOT, "f", hash_of(&empty())),
        create(other, NodeId::ROOT, "g", hash_of(&empty())),
        mkdir(dir, NodeId::ROOT, "dir"),
    ];
    let mut made = batch(&world, ops, &[]).await;
    made.contents = vec![empty()];
    let first = world.service.commit(F, made, Vec::new()).await.unwrap().first_seq;
    for named in [&[(file, "g"), (other, "f")][..], &[(file, "g"), (file, "h")], &[(id(), "g")]] {
        let ops = vec![remove(file, first), remove(dir, first + 2), rename(other, first + 1, NodeId::ROOT, "h")];
        let wrong = batch(&world, ops, named).await;
        let refused = world.service.commit(F, wrong, Vec::new()).await;
        assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");
    }
    // A directory has nothing that could be one.
    let gone = batch(&world, vec![remove(dir, first + 2)], &[(dir, "g")]).await;
    world.service.commit(F, gone, Vec::new()).await.unwrap();
    assert_eq!(versions(&world, "g").await, [0]);
}
