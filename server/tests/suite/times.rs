//! Times: when nodes were changed, and mtimes of directories whose entries came, went or were renamed.

use crate::support::*;
use syncmount_common::node::TouchedDir;
use syncmount_common::protocol::changes::{ChangesPage, Cursor};
use syncmount_common::protocol::commit::{Committed, Op};
use syncmount_common::{Attrs, NodeId, Placement, Timestamp};
use syncmount_server::service::Poll;

const DIR: NodeId = NodeId::from_bytes([0xD1; 16]);
const OTHER: NodeId = NodeId::from_bytes([0xD2; 16]);

fn node(number: u32) -> NodeId {
    let mut bytes = [0xAA; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

/// A batch whose operations were all done at `time`; `touched` is what the client shows.
async fn commit(world: &World, ops: Vec<Op>, time: i64, touched: &[(NodeId, i64)]) -> Committed {
    let mut batch = request(world.cursor().await.epoch, ops);
    batch.contents.push(empty());
    batch.times = vec![Timestamp(time); batch.ops.len()];
    batch.touched = touched.iter().map(|(dir, mtime)| TouchedDir { dir: *dir, mtime: Timestamp(*mtime) }).collect();
    world.service.commit(F, batch, Vec::new()).await.unwrap()
}

async fn page(world: &World, since: Option<Cursor>, extra: bool) -> ChangesPage {
    let poll = Poll { since, known: None, limit: 10_000, inline: 0, device: None, session: None, extra };
    world.service.page(F, poll).await.unwrap().page
}

async fn mtime(world: &World, dir: NodeId) -> i64 {
    world.node(dir).await.attrs.mtime.0
}

fn new(id: NodeId, parent: NodeId, name: &str) -> Op {
    create(id, parent, name, hash_of(&empty()))
}

fn told(page: &ChangesPage) -> Vec<(NodeId, i64)> {
    page.touched.iter().map(|touched| (touched.dir, touched.mtime.0)).collect()
}

#[tokio::test]
async fn a_directory_is_as_new_as_the_newest_change_of_its_entries() {
    let world = in_memory().await;
    let base = ATTRS.mtime.0;
    let made =
        commit(&world, vec![mkdir(DIR, NodeId::ROOT, "dir"), mkdir(OTHER, NodeId::ROOT, "other")], base, &[]).await;
    let start = world.cursor().await;
    // Whatever its operation is told with, a client's own view of the directory counts.
    let file = commit(&world, vec![new(node(1), DIR, "a")], base + 500_000, &[(DIR, base + 400_000), (OTHER, 1)]).await;
    let news = page(&world, Some(start), true).await;
    assert_eq!(told(&news), [(DIR, base + 400_000)], "the other one has not changed");
    assert_eq!(
        news.nodes.iter().map(|node| (node.id, node.changed)).collect::<Vec<_>>(),
        [(node(1), Some(Timestamp(base + 500_000)))]
    );
    let old = page(&world, Some(start), false).await;
    assert!(old.touched.is_empty() && old.nodes.iter().all(|node| node.changed.is_none()), "{old:?}");
    let whole = page(&world, None, true).await;
    assert!(whole.touched.is_empty() && whole.nodes.iter().all(|node| node.changed.is_some()), "{whole:?}");
    assert_eq!(world.node(DIR).await.rev, made.first_seq, "its own rev stays");
    // A clock that is behind: later than it was all the same. A move is a change of both.
    let moved = commit(&world, vec![rename(node(1), file.first_seq, OTHER, "a")], base - 7, &[]).await;
    assert_eq!((mtime(&world, DIR).await, mtime(&world, OTHER).await), (base + 401_000, base + 1000));
    // Bytes and attributes of an entry are none of the directory.
    let at = world.cursor().await;
    commit(&world, vec![write(node(1), moved.first_seq, hash_of(&empty()))], base + 900_000, &[]).await;
    assert_eq!(told(&page(&world, Some(at), true).await), []);
    // What is set stands, also beside entries that come with it.
    let attrs = Some(Attrs { mtime: Timestamp(5), ..ATTRS });
    let set = Op::Update { id: DIR, base: made.first_seq, names: None, attrs, xattrs: None, content: None };
    commit(&world, vec![set, new(node(2), DIR, "b")], base + 900_000, &[(DIR, base)]).await;
    assert_eq!(mtime(&world, DIR).await, 5);
    let at = world.cursor().await;
    commit(&world, vec![remove(node(2), world.node(node(2)).await.rev)], base + 950_000, &[]).await;
    assert_eq!(told(&page(&world, Some(at), true).await), [(DIR, base + 950_000)]);
}

#[tokio::test]
async fn an_undo_makes_directories_newer() {
    let world = in_memory().await;
    commit(&world, vec![mkdir(DIR, NodeId::ROOT, "dir"), new(node(1), DIR, "a")], 7, &[]).await;
    let then = world.cursor().await.seq;
    let made = world.node(DIR).await;
    let (mode, names) = (Attrs { mode: 0o700, mtime: Timestamp(9) }, Some(vec![at(NodeId::ROOT, "renamed")]));
    let update = Op::Update { id: DIR, base: made.rev, names, attrs: Some(mode), xattrs: None, content: None };
    commit(&world, vec![update], 8, &[]).await;
    commit(&world, vec![remove(node(1), world.node(node(1)).await.rev)], 20, &[]).await;
    let gone = world.node(DIR).await;
    world.service.undo(F, then, false).await.unwrap();
    let back = world.node(DIR).await;
    assert_eq!((back.attrs.mode, &back.names), (made.attrs.mode, &made.names));
    assert!(back.attrs.mtime > gone.attrs.mtime, "{gone:?}, then {back:?}");
}

#[tokio::test]
async fn the_last_mtime_of_all_has_none_behind_it() {
    let world = in_memory().await;
    commit(&world, vec![mkdir(DIR, NodeId::ROOT, "dir")], 1, &[]).await;
    commit(&world, vec![new(node(1), DIR, "a")], i64::MAX, &[(DIR, i64::MAX)]).await;
    assert_eq!((mtime(&world, DIR).await, world.node(DIR).await.rev), (i64::MAX, 1));
    let (base, attrs) = (1, Some(Attrs { mtime: Timestamp(i64::MAX), ..ATTRS }));
    let set = Op::Update { id: DIR, base, names: None, attrs, xattrs: None, content: None };
    commit(&world, vec![set], 2, &[]).await;
    commit(&world, vec![new(node(2), DIR, "b")], 3, &[]).await;
    assert_eq!(mtime(&world, DIR).await, i64::MAX);
}

#[tokio::test]
async fn a_page_tells_of_so_many_directories_and_the_next_of_the_others() {
    const NAMES: u32 = 9000;
    let world = in_memory().await;
    let dirs = |part: u32| (0..NAMES).map(move |number| node(part * NAMES + number));
    for part in 0..3 {
        let ops = dirs(part).map(|id| mkdir(id, NodeId::ROOT, &format!("{id}"))).collect();
        commit(&world, ops, 1, &[]).await;
    }
    let many = |part: u32| {
        let names: Vec<Placement> = dirs(part).map(|dir| at(dir, "linked")).collect();
        let Op::Create { id, base, kind, attrs, xattrs, content, target, .. } =
            new(node(90_000 + part), NodeId::ROOT, "x")
        else {
            unreachable!()
        };
        Op::Create { id, base, kind, names, attrs, xattrs, content, target }
    };
    let start = world.cursor().await;
    commit(&world, (0..3).map(many).collect(), 2, &[]).await;
    let (mut since, mut found, mut nodes) = (start, Vec::new(), 0);
    for pages in 1.. {
        let page = page(&world, Some(since), true).await;
        found.extend(told(&page));
        nodes += page.nodes.len();
        since = page.cursor;
        if !page.more {
            assert!(pages > 1);
            break;
        }
        assert!(pages < 9 && page.nodes.len() < 3);
    }
    found.sort_unstable();
    found.dedup();
    // The root is not touched.
    assert_eq!((found.len(), nodes), (3 * NAMES as usize, 3));
}
