//! Undo over every kind of store: the listing is what it was, and an undo can be undone.

use crate::client::{good, refused, serve_here};
use crate::support::*;
use std::collections::BTreeMap;
use syncmount_common::protocol::commit::Op;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::undo::{UndoReply, UndoRequest};
use syncmount_common::{Attrs, Node, NodeId, NodeKind};
use syncmount_server::Limits;
use syncmount_server::service::{ServiceError, UNDO_DEVICE};

type Tree = BTreeMap<NodeId, (Vec<syncmount_common::Placement>, Attrs, Option<syncmount_common::ContentHash>)>;

async fn tree(world: &World) -> Tree {
    let live = world.all().await.into_iter().filter(|node| !node.deleted);
    // A directory is as new as the newest change of its entries, and that is the undo.
    let mtime = |kind, mtime| if kind == NodeKind::Dir { ATTRS.mtime } else { mtime };
    live.map(|Node { id, names, kind, attrs, content, .. }| {
        let attrs = Attrs { mtime: mtime(kind, attrs.mtime), ..attrs };
        (id, (names, attrs, content.map(|it| it.hash)))
    })
    .collect()
}

async fn put(world: &World, ops: impl FnOnce(syncmount_common::ContentHash) -> Vec<Op>, bytes: &[u8]) {
    let (body, chunk) = content(bytes);
    let mut commit = request(world.cursor().await.epoch, ops(hash_of(&body)));
    commit.contents.push(body);
    world.service.commit(F, commit, vec![chunk]).await.unwrap();
}

#[tokio::test]
async fn a_folder_goes_back_and_forth() {
    for world in worlds().await {
        let (docs, old, file, link, gone) = (id(), id(), id(), id(), id());
        let ops = vec![mkdir(docs, ROOT, "docs"), mkdir(old, docs, "old"), symlink(link, docs, "link", "old")];
        world.ok(ops).await;
        put(&world, |hash| vec![create(file, docs, "report", hash), create(gone, old, "gone", hash)], b"first").await;
        let (then, info) = (tree(&world).await, world.service.folder(F).await.unwrap());
        // Rename, replace, remove, a new directory under an old name, and a move into it.
        put(&world, |hash| vec![write(file, 4, hash)], b"second, longer").await;
        world.ok(vec![remove(gone, 5), remove(old, 2), remove(link, 3)]).await;
        let (fresh, inner) = (id(), id());
        world.ok(vec![mkdir(fresh, docs, "old"), mkdir(inner, fresh, "inner"), rename(file, 6, inner, "moved")]).await;
        world.ok(vec![rename(docs, 1, ROOT, "papers")]).await;
        let (later, end) = (tree(&world).await, world.cursor().await.seq);
        let expected = UndoReply { created: 3, changed: 2, removed: 2 };
        assert_eq!(world.service.undo(F, info.cursor.seq, true).await.unwrap(), expected);
        assert_eq!(world.cursor().await.seq, end, "a dry run does nothing");
        assert_eq!(world.service.undo(F, info.cursor.seq, false).await.unwrap(), expected);
        assert_eq!(tree(&world).await, then, "{}", world.kind);
        let now = world.service.folder(F).await.unwrap();
        assert_eq!((now.nodes, now.bytes, now.cursor.seq), (info.nodes, info.bytes, end + 7));
        assert_eq!(world.node(file).await.author, UNDO_DEVICE.0);
        assert_eq!(world.service.undo(F, info.cursor.seq, false).await.unwrap(), UndoReply::default());
        world.service.undo(F, end, false).await.unwrap();
        assert_eq!(tree(&world).await, later, "an undo can be undone");
        world.service.undo(F, 0, false).await.unwrap();
        assert!(tree(&world).await.is_empty());
        assert_eq!(world.service.folder(F).await.unwrap().nodes, 0);
        let versions = world.service.history(F, 1).await.unwrap();
        assert_eq!(versions[0].device, "undo");
    }
}

#[tokio::test]
async fn the_roots_attributes_go_back_too() {
    let world = in_memory().await;
    let attrs = Attrs { mode: 0o700, ..ATTRS };
    world
        .ok(vec![Op::Update { id: ROOT, base: 0, names: None, attrs: Some(attrs), xattrs: None, content: None }])
        .await;
    world.service.undo(F, 0, false).await.unwrap();
    let root = world.node(ROOT).await;
    assert_eq!((root.attrs.mode, root.rev, root.kind), (0o755, 2, NodeKind::Dir));
}

#[tokio::test]
async fn a_large_undo_is_one_commit() {
    let world = in_memory().await;
    let dirs: Vec<_> = (0..100).map(|_| id()).collect();
    world.ok(dirs.iter().enumerate().map(|(index, dir)| mkdir(*dir, ROOT, &format!("d{index}"))).collect()).await;
    let files = |dir: &NodeId| {
        (0..90).map(|index| create(id(), *dir, &format!("f{index}"), hash_of(&empty()))).collect::<Vec<_>>()
    };
    world.ok(dirs.iter().flat_map(files).collect()).await;
    let (then, seq) = (tree(&world).await, world.cursor().await.seq);
    world.service.undo(F, 0, false).await.unwrap();
    assert!(world.all().await.iter().all(|node| node.deleted));
    world.service.undo(F, seq, false).await.unwrap();
    assert_eq!(tree(&world).await, then);
    let commits = world.service.history(F, 100).await.unwrap();
    let nodes = 100 + 100 * 90;
    let undone: Vec<_> = commits.iter().filter(|past| past.device == "undo").collect();
    assert!(undone.iter().all(|past| past.commit.last_seq - past.commit.first_seq + 1 == nodes), "{undone:?}");
    assert_eq!(undone.len(), 2);
}

#[tokio::test]
async fn the_api_undoes_and_refuses() {
    let served = serve_here(Limits::default()).await;
    served.commit(vec![mkdir(id(), ROOT, "a")]).await;
    let path = format!("/v1/folders/{F}/undo");
    let ask = |to, dry_run| served.post(&path, &UndoRequest { to, dry_run });
    let reply: UndoReply = good(ask(0, true).send().await.unwrap()).await;
    assert_eq!((reply.removed, served.folder().await.nodes), (1, 1));
    good::<UndoReply>(ask(0, false).send().await.unwrap()).await;
    assert_eq!(served.folder().await.nodes, 0);
    let body = refused(ask(99, false), 422, ErrorCode::Invalid).await;
    assert!(body.message.contains("99"));
    refused(served.post(&path, &serde_json::json!({ "to": 0, "force": true })), 400, ErrorCode::BadRequest).await;
    refused(served.post("/v1/folders/none/undo", &UndoRequest { to: 0, dry_run: true }), 404, ErrorCode::NotFound)
        .await;
    let refused = served.server.service().undo("none", 0, false).await;
    assert!(matches!(refused, Err(ServiceError::NotFound(_))));
}
