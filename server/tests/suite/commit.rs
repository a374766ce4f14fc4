//! What a commit may do and what it refuses, over every kind of store.

use crate::support::*;
use bytes::Bytes;
use syncmount_common::node::LEVELS_MAX;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::{ConflictReason, NewContent, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{Attrs, ChunkHash, Epoch, Extent, FileHash, Manifest, NodeId, NodeKind, Xattrs};
use syncmount_server::service::ServiceError;

#[tokio::test]
async fn revs_are_gapless_and_the_feed_tells_the_state() {
    for world in worlds().await {
        let (dir, file, link) = (id(), id(), id());
        let ops = vec![mkdir(dir, ROOT, "d"), create(file, dir, "f", hash_of(&empty())), symlink(link, dir, "l", "f")];
        let committed = world.commit(ops).await.unwrap();
        assert_eq!((committed.first_seq, committed.last_seq), (1, 3));
        assert_eq!(world.ok(vec![rename(file, 2, ROOT, "g")]).await, 4);
        let nodes = world.all().await;
        assert_eq!(nodes.iter().map(|node| (node.id, node.rev)).collect::<Vec<_>>(), [(dir, 1), (link, 3), (file, 4)]);
        let moved = &nodes[2];
        assert_eq!((moved.names.clone(), moved.content_rev), (vec![at(ROOT, "g")], 2));
        let nothing = world.commit(Vec::new()).await.unwrap();
        assert_eq!((nothing.first_seq, nothing.last_seq), (5, 4));
        let info = world.service.folder(F).await.unwrap();
        assert_eq!((info.nodes, info.bytes, info.cursor.seq), (3, 0, 4));
    }
}

#[tokio::test]
async fn the_counters_follow() {
    for world in worlds().await {
        let (file, (body, chunk)) = (id(), content(b"twelve bytes"));
        let mut commit = request(world.cursor().await.epoch, vec![create(file, ROOT, "f", hash_of(&body))]);
        commit.contents.push(body);
        world.service.commit(F, commit, vec![chunk]).await.unwrap();
        assert_eq!(world.service.folder(F).await.unwrap().bytes, 12);
        world.ok(vec![write(file, 1, hash_of(&empty()))]).await;
        assert_eq!(world.service.folder(F).await.unwrap().bytes, 0);
        world.ok(vec![remove(file, 2)]).await;
        assert_eq!(world.service.folder(F).await.unwrap().nodes, 0);
    }
}

#[tokio::test]
async fn two_files_swap_their_names_in_one_batch() {
    for world in worlds().await {
        let (a, b, none) = (id(), id(), hash_of(&empty()));
        world.ok(vec![create(a, ROOT, "a", none), create(b, ROOT, "b", none)]).await;
        world.ok(vec![rename(a, 1, ROOT, "b"), rename(b, 2, ROOT, "a")]).await;
        assert_eq!(world.node(a).await.names, [at(ROOT, "b")]);
        assert_eq!(world.node(b).await.names, [at(ROOT, "a")]);
    }
}

#[tokio::test]
async fn a_wrong_base_is_a_conflict_with_the_present_state() {
    for world in worlds().await {
        let (file, none) = (id(), hash_of(&empty()));
        world.ok(vec![create(file, ROOT, "f", none)]).await;
        world.ok(vec![rename(file, 1, ROOT, "g")]).await;
        let wrong = [write(file, 1, none), remove(file, 1), create(file, ROOT, "h", none), write(id(), 1, none)];
        for op in wrong {
            assert_eq!(world.conflicts(vec![op]).await, [(0, ConflictReason::Rev)]);
        }
        let Err(ServiceError::Conflict(conflicts)) = world.commit(vec![remove(file, 1)]).await else { panic!() };
        assert_eq!(conflicts[0].current.as_ref().unwrap(), &world.node(file).await);
    }
}

#[tokio::test]
async fn the_tree_keeps_its_shape() {
    for world in worlds().await {
        let (dir, sub, file, link, none) = (id(), id(), id(), id(), hash_of(&empty()));
        let ops = vec![mkdir(dir, ROOT, "d"), mkdir(sub, dir, "s"), create(file, sub, "f", none)];
        world.ok(ops).await;
        world.ok(vec![symlink(link, ROOT, "l", "d")]).await;
        let (x, y) = (id(), id());
        let cases = [
            (vec![mkdir(x, ROOT, "d")], vec![(0, ConflictReason::NameTaken)]),
            (vec![mkdir(x, ROOT, "x"), mkdir(y, ROOT, "x")], vec![(1, ConflictReason::NameTaken)]),
            (vec![mkdir(x, file, "x")], vec![(0, ConflictReason::ParentNotDir)]),
            (vec![mkdir(x, link, "x")], vec![(0, ConflictReason::ParentNotDir)]),
            (vec![mkdir(x, id(), "x")], vec![(0, ConflictReason::ParentGone)]),
            (vec![remove(dir, 1)], vec![(0, ConflictReason::NotEmpty)]),
            (vec![rename(dir, 1, sub, "d")], vec![(0, ConflictReason::Cycle)]),
            (vec![rename(dir, 1, dir, "d")], vec![(0, ConflictReason::Cycle)]),
            (vec![mkdir(x, x, "x")], vec![(0, ConflictReason::Cycle)]),
            (vec![mkdir(x, y, "x"), mkdir(y, x, "y")], vec![(0, ConflictReason::Cycle), (1, ConflictReason::Cycle)]),
            (
                vec![remove(sub, 2), rename(file, 3, sub, "again")],
                vec![(0, ConflictReason::NotEmpty), (1, ConflictReason::ParentGone)],
            ),
        ];
        for (ops, expected) in cases {
            assert_eq!(world.conflicts(ops.clone()).await, expected, "{ops:?}");
        }
        // In the final state all is well: the directory is emptied by the same batch.
        world.ok(vec![remove(sub, 2), rename(file, 3, dir, "f")]).await;
    }
}

#[tokio::test]
async fn directories_lie_in_each_other_up_to_a_depth() {
    for world in worlds().await {
        let dirs: Vec<NodeId> = (0..LEVELS_MAX).map(|_| id()).collect();
        let above = [ROOT].into_iter().chain(dirs.iter().copied());
        world.ok(dirs.iter().zip(above).map(|(dir, above)| mkdir(*dir, above, "d")).collect()).await;
        let (last, other, inner) = (dirs[LEVELS_MAX - 1], id(), id());
        let file = create(id(), last, "f", hash_of(&empty()));
        world.ok(vec![file, mkdir(other, ROOT, "other"), mkdir(inner, other, "inner")]).await;
        let rev = world.node(other).await.rev;
        for op in [mkdir(id(), last, "x"), rename(other, rev, last, "x")] {
            let refused = world.commit(vec![op]).await;
            assert!(matches!(&refused, Err(ServiceError::Invalid(why)) if why.contains("2048")), "{refused:?}");
        }
        // What lies in something that is moved is not counted.
        world.ok(vec![rename(other, rev, dirs[LEVELS_MAX - 2], "x")]).await;
    }
}

#[tokio::test]
async fn a_removed_node_comes_back_on_its_tombstone() {
    for world in worlds().await {
        let (file, none) = (id(), hash_of(&empty()));
        world.ok(vec![create(file, ROOT, "f", none)]).await;
        world.ok(vec![remove(file, 1)]).await;
        let tombstone = world.node(file).await;
        assert!(tombstone.deleted && tombstone.names.is_empty() && tombstone.content.is_none());
        assert_eq!(world.conflicts(vec![create(file, ROOT, "f", none)]).await, [(0, ConflictReason::Rev)]);
        let revive = |kind, content| Op::Create {
            id: file,
            base: 2,
            kind,
            names: vec![at(ROOT, "again")],
            attrs: ATTRS,
            xattrs: Xattrs::default(),
            content,
            target: None,
        };
        let refused = world.commit(vec![revive(NodeKind::Dir, None)]).await;
        assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");
        world.ok(vec![revive(NodeKind::File, Some(none))]).await;
        let back = world.node(file).await;
        assert_eq!((back.deleted, back.rev, back.content_rev), (false, 3, 3));
    }
}

#[tokio::test]
async fn the_same_op_id_gets_the_first_answer_again() {
    for world in worlds().await {
        let file = id();
        let mut commit = request(world.cursor().await.epoch, vec![create(file, ROOT, "f", hash_of(&empty()))]);
        commit.contents.push(empty());
        let first = world.service.commit(F, commit.clone(), Vec::new()).await.unwrap();
        world.ok(vec![remove(file, 1)]).await;
        assert_eq!(world.service.commit(F, commit, Vec::new()).await.unwrap(), first);
        assert_eq!(world.cursor().await.seq, 2);
    }
}

#[tokio::test]
async fn another_epoch_means_resync() {
    for world in worlds().await {
        let other = Epoch::from_bytes([9; 16]);
        let refused = world.service.commit(F, request(other, Vec::new()), Vec::new()).await;
        assert_eq!(refused.unwrap_err().code(), ErrorCode::Resync);
        let cursor = world.cursor().await;
        for since in [Cursor { epoch: other, seq: 0, tag: 0 }, Cursor { seq: cursor.seq + 1, ..cursor }] {
            let refused = world.service.changes(F, Some(since), 10, 0).await;
            assert_eq!(refused.unwrap_err().code(), ErrorCode::Resync);
        }
    }
}

#[tokio::test]
async fn what_is_malformed_is_refused() {
    for world in worlds().await {
        let (dir, link, none) = (id(), id(), hash_of(&empty()));
        world.ok(vec![mkdir(dir, ROOT, "d"), symlink(link, ROOT, "l", "d")]).await;
        let before = world.all().await;
        let attrs = Attrs { mode: 0o10000, ..ATTRS };
        let two = vec![at(ROOT, "x"), at(ROOT, "y")];
        let make = |kind, names, content| {
            vec![Op::Create {
                id: id(),
                base: 0,
                kind,
                names,
                attrs: ATTRS,
                xattrs: Xattrs::default(),
                content,
                target: None,
            }]
        };
        let cases = [
            vec![mkdir(ROOT, dir, "root")],
            vec![remove(ROOT, 0)],
            vec![rename(ROOT, 0, dir, "root")],
            vec![Op::Update { id: dir, base: 1, names: None, attrs: Some(attrs), xattrs: None, content: None }],
            vec![Op::Update { id: dir, base: 1, names: Some(two.clone()), attrs: None, xattrs: None, content: None }],
            vec![Op::Update { id: dir, base: 1, names: Some(Vec::new()), attrs: None, xattrs: None, content: None }],
            vec![write(dir, 1, none)],
            vec![write(link, 2, none)],
            make(NodeKind::Dir, two, None),
            make(NodeKind::File, Vec::new(), Some(none)),
            make(NodeKind::File, vec![at(ROOT, "x")], None),
            make(NodeKind::File, vec![at(ROOT, "x"), at(ROOT, "x")], Some(none)),
            make(NodeKind::Dir, vec![at(ROOT, "x")], Some(none)),
            make(NodeKind::Symlink, vec![at(ROOT, "x")], None),
            vec![remove(dir, 1), remove(dir, 1)],
        ];
        for ops in cases {
            let refused = world.commit(ops.clone()).await;
            assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{ops:?}: {refused:?}");
        }
        assert_eq!(world.all().await, before);
    }
}

#[tokio::test]
async fn the_root_changes_its_attributes() {
    for world in worlds().await {
        let attrs = Some(Attrs { mode: 0o700, ..ATTRS });
        world.ok(vec![Op::Update { id: ROOT, base: 0, names: None, attrs, xattrs: None, content: None }]).await;
        assert_eq!(world.node(ROOT).await.attrs.mode, 0o700);
        assert_eq!(world.service.folder(F).await.unwrap().nodes, 0, "the root is not counted");
    }
}

#[tokio::test]
async fn what_the_server_lacks_is_named() {
    for world in worlds().await {
        let (body, (hash, envelope)) = content(b"body");
        let unknown = hash_of(&content(b"unknown").0);
        let mut commit = request(
            world.cursor().await.epoch,
            vec![create(id(), ROOT, "a", hash_of(&body)), create(id(), ROOT, "b", unknown)],
        );
        commit.contents.push(body);
        let Err(ServiceError::Missing(missing)) = world.service.commit(F, commit.clone(), Vec::new()).await else {
            panic!()
        };
        assert_eq!((missing.chunks, missing.contents), (vec![hash], vec![unknown]));
        commit.ops.pop();
        world.service.put(vec![(hash, envelope)]).await.unwrap();
        assert_eq!(world.service.commit(F, commit, Vec::new()).await.unwrap().last_seq, 1);
    }
}

#[tokio::test]
async fn hashes_and_lengths_that_lie_are_refused() {
    for world in worlds().await {
        let epoch = world.cursor().await.epoch;
        let (honest, (hash, envelope)) = content(b"honest");
        let told = NewContent { sha256: Some(FileHash::of(b"lie")), ..honest.clone() };
        let mut commit = request(epoch, vec![create(id(), ROOT, "a", hash_of(&told))]);
        commit.contents.push(told);
        let refused = world.service.commit(F, commit, vec![(hash, envelope.clone())]).await;
        assert!(matches!(refused, Err(ServiceError::HashMismatch(_))), "{refused:?}");

        let longer =
            NewContent { manifest: Manifest::new(vec![Extent::Chunk { hash, len: 7 }]).unwrap(), sha256: None };
        let mut commit = request(epoch, vec![create(id(), ROOT, "a", hash_of(&longer))]);
        commit.contents.push(longer);
        let refused = world.service.commit(F, commit, vec![(hash, envelope.clone())]).await;
        assert!(matches!(refused, Err(ServiceError::Invalid(_))), "{refused:?}");

        let (other, _) = chunk(b"other");
        let refused = world.service.put(vec![(hash, envelope.clone()), (other, envelope)]).await;
        assert!(matches!(refused, Err(ServiceError::HashMismatch(_))), "{refused:?}");
        assert_eq!(world.service.missing(vec![hash, other, hash]).await.unwrap().missing, [hash, other]);
        assert_eq!(world.cursor().await.seq, 0);
    }
}

#[tokio::test]
async fn the_sha256_of_a_short_file_is_implied() {
    for world in worlds().await {
        let (file, (body, chunk)) = (id(), content(b"short"));
        let mut commit = request(world.cursor().await.epoch, vec![create(file, ROOT, "f", hash_of(&body))]);
        commit.contents.push(body);
        world.service.commit(F, commit, vec![chunk]).await.unwrap();
        assert_eq!(world.node(file).await.content.unwrap().sha256, Some(FileHash::of(b"short")));
    }
}

#[tokio::test]
async fn the_feed_comes_in_pages_and_small_contents_ride_along() {
    for world in worlds().await {
        let bodies: Vec<_> = (0..5u8).map(|byte| content(&[byte; 100])).collect();
        let mut ops: Vec<_> = bodies
            .iter()
            .zip(["a", "b", "c", "d", "e"])
            .map(|(body, name)| create(id(), ROOT, name, hash_of(&body.0)))
            .collect();
        ops.push(mkdir(id(), ROOT, "z"));
        let mut commit = request(world.cursor().await.epoch, ops);
        commit.contents = bodies.iter().map(|body| body.0.clone()).collect();
        world.service.commit(F, commit, bodies.iter().map(|body| body.1.clone()).collect()).await.unwrap();
        let first = world.service.changes(F, None, 4, 100).await.unwrap();
        assert!(first.page.more && first.page.nodes.len() == 4 && first.chunks.len() == 4);
        assert_eq!(first.page.devices, [device()]);
        let rest = world.service.changes(F, Some(first.page.cursor), 4, 99).await.unwrap();
        assert!(!rest.page.more && rest.page.nodes.len() == 2 && rest.chunks.is_empty(), "99 is less than 100");
        assert_eq!(rest.page.cursor.seq, 6);
        let none = world.service.changes(F, Some(rest.page.cursor), 4, 0).await.unwrap();
        assert!(none.page.nodes.is_empty() && !none.page.more);
        for limit in [0, 10_001] {
            assert!(matches!(world.service.changes(F, None, limit, 0).await, Err(ServiceError::Invalid(_))));
        }
    }
}

#[tokio::test]
async fn hard_links_are_names_of_one_node() {
    for world in worlds().await {
        let (file, none) = (id(), hash_of(&empty()));
        world.ok(vec![create(file, ROOT, "a", none)]).await;
        let both = vec![at(ROOT, "a"), at(ROOT, "b")];
        world
            .ok(vec![Op::Update {
                id: file,
                base: 1,
                names: Some(both.clone()),
                attrs: None,
                xattrs: None,
                content: None,
            }])
            .await;
        assert_eq!(world.node(file).await.names, both);
        assert_eq!(world.conflicts(vec![mkdir(id(), ROOT, "b")]).await, [(0, ConflictReason::NameTaken)]);
    }
}

#[tokio::test]
async fn a_batch_and_its_conflicts_are_bounded() {
    let world = in_memory().await;
    let many: Vec<_> = (0..10_001).map(|index| mkdir(id(), ROOT, &index.to_string())).collect();
    assert!(matches!(world.commit(many.clone()).await, Err(ServiceError::TooLarge(_))));
    assert_eq!(world.ok(many[..10_000].to_vec()).await, 1);
    assert_eq!(world.conflicts(many[..200].to_vec()).await.len(), 100);
}

#[tokio::test]
async fn concurrent_commits_each_get_their_own_revs() {
    for world in worlds().await {
        let epoch = world.cursor().await.epoch;
        let names: Vec<_> = (0..200).map(|index| (index % 100).to_string()).collect();
        let commits = names.iter().map(|name| {
            let commit = request(epoch, vec![mkdir(id(), ROOT, name)]);
            let service = world.service.clone();
            async move { service.commit(F, commit, Vec::new()).await }
        });
        let answers = futures::future::join_all(commits).await;
        let mut revs: Vec<_> = answers.iter().flatten().map(|committed| committed.first_seq).collect();
        revs.sort_unstable();
        assert_eq!(revs, (1..=100).collect::<Vec<_>>(), "one of each two with the same name is refused");
    }
}

/// Its extents are looked up before the transaction, what is not found then once more in it.
#[tokio::test]
async fn the_chunks_of_a_long_manifest_are_there_or_ride_along() {
    for world in worlds().await {
        let (stored, fresh, absent) = (chunk(b"stored"), chunk(b"fresh"), chunk(b"absent"));
        let (first, stored_len) = (id(), 6);
        let extent = |chunk: &(ChunkHash, Bytes), len| Extent::Chunk { hash: chunk.0, len };
        let (body, _) = content(b"stored");
        let mut commit = request(world.cursor().await.epoch, vec![create(first, ROOT, "first", hash_of(&body))]);
        commit.contents.push(body);
        world.service.commit(F, commit, vec![stored.clone()]).await.unwrap();

        let long = |end: Vec<Extent>| {
            let mut extents = vec![extent(&stored, stored_len); 5000];
            extents.extend(end);
            NewContent { manifest: Manifest::new(extents).unwrap(), sha256: None }
        };
        let commit = async |body: NewContent, chunks| {
            let ops = vec![create(id(), ROOT, &format!("{}", hash_of(&body)), hash_of(&body))];
            let mut commit = request(world.cursor().await.epoch, ops);
            commit.contents.push(body);
            world.service.commit(F, commit, chunks).await
        };
        let odd = long(vec![extent(&stored, stored_len - 1)]);
        assert!(
            matches!(commit(odd, Vec::new()).await, Err(ServiceError::Invalid(text)) if text.contains("has 6 bytes"))
        );
        let lacking = long(vec![extent(&fresh, 5), extent(&absent, 6)]);
        let answer = commit(lacking, vec![fresh.clone()]).await;
        assert!(matches!(&answer, Err(ServiceError::Missing(missing)) if missing.chunks == [absent.0]), "{answer:?}");
        commit(long(vec![extent(&fresh, 5)]), vec![fresh]).await.unwrap();
        commit(long(Vec::new()), Vec::new()).await.unwrap();
    }
}
