//! Tags: which history a cursor belongs to; and the list of commits.

use crate::client::{Served, refused, serve_here, serve_over};
use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{DeviceId, Epoch, Timestamp};
use syncmount_server::blob::ObjectPacks;
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::meta::{self, CommitRow, Counts, Totals, WriteTx};
use syncmount_server::service::{CursorKey, Offload, Poll, ServiceError};
use syncmount_server::{Environment, Limits, Running, Service};

async fn is_refused(world: &World, cursor: Cursor) -> bool {
    match world.service.changes(F, Some(cursor), 10, 0).await {
        Ok(_) => false,
        Err(ServiceError::Resync(_) | ServiceError::UnprovenCursor) => true,
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn every_position_has_the_tag_of_its_commit() {
    for world in worlds().await {
        assert_eq!(world.cursor().await.tag, 0, "nothing has happened yet");
        let first = world.commit((0..3).map(|index| mkdir(id(), ROOT, &format!("a{index}"))).collect()).await.unwrap();
        assert!(first.tag != 0 && world.cursor().await.tag == first.tag);
        let mut commit = request(world.cursor().await.epoch, vec![mkdir(id(), ROOT, "b")]);
        commit.contents.push(empty());
        let second = world.service.commit(F, commit.clone(), Vec::new()).await.unwrap();
        assert_ne!(first.tag, second.tag);
        assert_eq!(world.commit(Vec::new()).await.unwrap().tag, second.tag, "an empty batch is no new position");
        world.ok(vec![mkdir(id(), ROOT, "c")]).await;
        assert_eq!(world.service.commit(F, commit, Vec::new()).await.unwrap(), second, "a repeated answer has its tag");
        let mut since = None;
        let mut tags = Vec::new();
        loop {
            let page = world.service.changes(F, since, 1, 0).await.unwrap().page;
            tags.push(page.cursor.tag);
            since = Some(page.cursor);
            if !page.more {
                break;
            }
        }
        let random = |tag: u64| tag >> 32;
        let [one, two, three, four, ..] = tags[..] else { panic!("{tags:?}") };
        assert_eq!(
            (three, four),
            (first.tag, second.tag),
            "where a commit ends, the tag is the one that it was answered with"
        );
        assert_eq!((random(one), random(two)), (random(first.tag), random(first.tag)));
        assert!(one != two && two != three, "each position has a proof of its own");
        assert_eq!(world.cursor().await, since.unwrap());
    }
}

/// Stores in memory, of which a backup is a copy, and a clock that stands.
struct Stores {
    meta: Arc<SqliteStore>,
    packs: Arc<ObjectPacks>,
    clock: Arc<AtomicI64>,
    key: CursorKey,
}

const MINUTE: i64 = 60 * 1_000_000_000;
const DAY: i64 = 24 * 60 * MINUTE;

impl Stores {
    /// An empty store with a key that was made at 0. It is day `now` by the clock.
    async fn at_day(now: i64) -> Self {
        let (meta, packs) = (Arc::new(SqliteStore::in_memory().unwrap()), Arc::new(ObjectPacks::in_memory()));
        let (clock, key) = (Arc::new(AtomicI64::new(now * DAY)), CursorKey::new([7; 32], Timestamp(0)));
        let stores = Self { meta, packs, clock, key };
        stores.world().service.add_folder(F).await.unwrap();
        stores
    }

    fn backup(&self) -> Self {
        let (packs, clock) = (Arc::clone(&self.packs), Arc::clone(&self.clock));
        Self { meta: Arc::new(self.meta.fork().unwrap()), packs, clock, key: self.key }
    }

    fn world(&self) -> World {
        let (clock, random) = (Arc::clone(&self.clock), environment());
        let now = move || Timestamp(clock.load(Ordering::Relaxed));
        let fill = move |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte = random.random::<1>()[0]);
        let environment = Environment::new(now, fill).with_cursor_key(self.key);
        World::of(Service::new(self.meta.clone(), self.packs.clone(), environment, Offload::Inline, None))
    }

    fn pass(&self, time: i64) {
        self.clock.fetch_add(time, Ordering::Relaxed);
    }

    /// What is told of the newest commit as an earlier version would have told it; and it is stored so.
    async fn make_old(&self, world: &World, tag: u64) -> Cursor {
        let end = world.cursor().await;
        let commit = CommitRow {
            first_seq: end.seq + 1,
            last_seq: end.seq + 1,
            tag,
            time: Timestamp(0),
            device: device().id,
            token: None,
            counts: Counts::default(),
        };
        let totals = Totals { nodes: 0, bytes: 0 };
        let job = move |tx: &dyn WriteTx| {
            let key = tx.folder(F)?.unwrap().key;
            tx.add_commit(key, &commit)?;
            tx.advance(key, commit.last_seq, totals)
        };
        meta::write(&*self.meta, job, |()| ()).await.unwrap();
        let cursor = world.cursor().await;
        assert_eq!(cursor, Cursor { seq: end.seq + 1, tag, ..end }, "it is told as it was");
        cursor
    }
}

#[tokio::test]
async fn a_cursor_of_a_lost_future_begins_a_new_epoch_once() {
    let stores = Stores::at_day(100).await;
    let before = stores.world();
    before.ok(vec![mkdir(id(), ROOT, "a")]).await;
    let (backup, early) = (stores.backup(), before.cursor().await);
    before.ok(vec![mkdir(id(), ROOT, "b"), mkdir(id(), ROOT, "c")]).await;
    let late = before.cursor().await;
    let middle = before.service.changes(F, Some(early), 1, 0).await.unwrap().page.cursor;
    assert_eq!((middle.seq, late.seq), (2, 3));
    for lost in [late, middle] {
        let world = backup.backup().world();
        world.ok(vec![mkdir(id(), ROOT, "another")]).await;
        assert!(!is_refused(&world, early).await && !is_refused(&world, Cursor { tag: 0, ..early }).await);
        let now = world.cursor().await;
        let held = world.service.poll(F, poll_from(now), std::future::pending());
        let (held, ()) = futures::future::join(held, async {
            assert!(is_refused(&world, lost).await);
        })
        .await;
        assert!(matches!(held, Err(ServiceError::Resync(_))), "who waits is told at once");
        let second = world.cursor().await;
        assert!(second.epoch != now.epoch && second.seq == now.seq);
        for stale in [now, late, middle, Cursor { seq: 9, ..now }, Cursor { epoch: Epoch::from_bytes([1; 16]), ..now }]
        {
            assert!(is_refused(&world, stale).await);
        }
        assert_eq!(world.cursor().await, second, "a cursor of another epoch proves nothing");
        let stale = request(now.epoch, vec![mkdir(id(), ROOT, "b")]);
        assert!(matches!(world.service.commit(F, stale, Vec::new()).await, Err(ServiceError::Resync(_))));
        world.ok(vec![mkdir(id(), ROOT, "b")]).await;
        assert_eq!(world.service.restored().await.unwrap(), 1);
        assert!(is_refused(&world, second).await);
    }
}

#[tokio::test]
async fn a_cursor_that_was_never_told_writes_nothing() {
    let stores = Stores::at_day(100).await;
    let world = stores.world();
    world.ok(vec![mkdir(id(), ROOT, "a"), mkdir(id(), ROOT, "b")]).await;
    let end = world.cursor().await;
    let made_up = [
        Cursor { seq: 9, ..end },
        Cursor { seq: 9, tag: 0, ..end },
        Cursor { seq: u64::MAX, ..end },
        Cursor { tag: end.tag ^ (1 << 32), ..end },
        Cursor { seq: 0, ..end },
        Cursor { seq: 1, tag: 0x0123_4567_89AB_CDEF, ..end },
    ];
    for cursor in made_up {
        let answer = world.service.changes(F, Some(cursor), 10, 0).await;
        assert!(matches!(answer, Err(ServiceError::UnprovenCursor)), "{cursor}: {answer:?}");
        let known = CommitRequest { known: Some(cursor), ..request(end.epoch, vec![mkdir(id(), ROOT, "c")]) };
        let answer = world.service.commit(F, known, Vec::new()).await;
        assert!(matches!(answer, Err(ServiceError::UnprovenCursor)), "{cursor}: {answer:?}");
        assert_eq!(world.cursor().await, end, "nothing has changed");
    }
    assert!(!is_refused(&world, Cursor { seq: 1, ..end }).await, "that of the whole commit is good inside of it");
}

#[tokio::test]
async fn cursors_without_a_mac_renew_for_30_days_and_not_often() {
    let stores = Stores::at_day(10).await;
    let before = stores.world();
    let backup = stores.backup();
    let old = stores.make_old(&before, 0x0123_4567_89AB_CDEF).await;
    assert!(!is_refused(&before, old).await, "the history has it");
    let world = backup.world();
    assert!(is_refused(&world, old).await);
    let second = world.cursor().await;
    assert_ne!(second.epoch, old.epoch, "an earlier version may have told it");
    // Another one, which may be genuine too, is not taken for a lie, but has to wait.
    let other = Cursor { seq: 5, tag: 77, ..second };
    for minutes in [0, 9] {
        stores.pass(minutes * MINUTE);
        match world.service.changes(F, Some(other), 10, 0).await {
            Err(error @ ServiceError::Later { seconds, .. }) => {
                assert_eq!((seconds, error.code()), (60 * (10 - minutes as u64), ErrorCode::Busy));
            }
            answer => panic!("{answer:?}"),
        }
        assert_eq!(world.cursor().await, second);
    }
    stores.pass(MINUTE);
    assert!(is_refused(&world, other).await);
    let third = world.cursor().await;
    assert_ne!(third.epoch, second.epoch);
    stores.pass(20 * DAY);
    let answer = world.service.changes(F, Some(Cursor { seq: 5, tag: 77, ..third }), 10, 0).await;
    assert!(matches!(answer, Err(ServiceError::UnprovenCursor)), "{answer:?}");
    assert_eq!(world.cursor().await, third);
    assert!(!is_refused(&before, old).await, "what the history has is good for ever");
}

#[tokio::test]
async fn a_history_is_known_again_under_another_key() {
    let mut stores = Stores::at_day(100).await;
    let world = stores.world();
    world.ok(vec![mkdir(id(), ROOT, "a")]).await;
    let early = world.cursor().await;
    let backup = stores.backup();
    world.ok(vec![mkdir(id(), ROOT, "b")]).await;
    let late = world.cursor().await;
    stores.key = CursorKey::new([8; 32], Timestamp(100 * DAY));
    let world = stores.world();
    assert!(!is_refused(&world, early).await && !is_refused(&world, late).await);
    assert_ne!(world.cursor().await.tag, late.tag, "it is told with the new key");
    let set_back = Stores { key: stores.key, ..backup }.world();
    assert!(is_refused(&set_back, late).await);
    assert_ne!(set_back.cursor().await.epoch, late.epoch, "for 30 days it is believed without a proof");
}

#[tokio::test]
async fn what_a_client_knows_beyond_its_place_in_the_feed_must_be_in_the_history_too() {
    for world in worlds().await {
        let since = world.cursor().await;
        let done = world.commit(vec![mkdir(id(), ROOT, "a")]).await.unwrap();
        let end = world.cursor().await;
        let ask = |known| Poll { known: Some(known), device: Some(device().id), ..poll_from(since) };
        let page = world.service.page(F, ask(end)).await.unwrap().page;
        assert_eq!((page.cursor, page.own), (end, Some(Cursor { seq: done.last_seq, tag: done.tag, ..end })));
        let stranger = Poll { device: Some(DeviceId::from_bytes([99; 16])), ..ask(end) };
        assert_eq!(world.service.page(F, stranger).await.unwrap().page.own, None);
        let other = Cursor { tag: end.tag ^ (1 << 32), ..end };
        let commit = |known, name| {
            let request = request(end.epoch, vec![mkdir(id(), ROOT, name)]);
            world.service.commit(F, CommitRequest { known: Some(known), ..request }, Vec::new())
        };
        commit(end, "b").await.unwrap();
        assert!(matches!(commit(other, "c").await, Err(ServiceError::UnprovenCursor)));
        assert_eq!(world.all().await.len(), 2, "nothing of it is stored: a and b are there");
        let ask = Poll { known: Some(Cursor { tag: 7, ..end }), ..poll_from(Cursor { seq: 1, tag: 0, ..end }) };
        assert!(matches!(world.service.page(F, ask).await, Err(ServiceError::UnprovenCursor)));
    }
}

/// The epoch, and a number that grows with each write to the database by another connection than this one.
async fn standing(served: &Served<impl Sized>, database: &rusqlite::Connection) -> (Epoch, i64) {
    let version = database.query_row("PRAGMA data_version", [], |row| row.get(0)).unwrap();
    (served.folder().await.cursor.epoch, version)
}

/// A server whose key of cursors was made at `made`.
async fn with_key(made: Timestamp) -> Served<Running> {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("cursor.key"), CursorKey::new([7; 32], made).to_text()).unwrap();
    serve_over(directory, Limits::default()).await
}

#[tokio::test]
async fn made_up_cursors_are_counted_for_their_credential_and_write_nothing() {
    // Of a new server there are no cursors of an earlier version.
    for served in [with_key(Timestamp(0)).await, serve_here(Limits::default()).await] {
        refuses_made_up_cursors(served).await;
    }
}

async fn refuses_made_up_cursors(served: Served<Running>) {
    served.commit(vec![mkdir(id(), ROOT, "a")]).await;
    let end = served.folder().await.cursor;
    let database = rusqlite::Connection::open(served.directory.path().join("data/meta.sqlite")).unwrap();
    let before = standing(&served, &database).await;
    for number in 0..100 {
        let made_up = Cursor { seq: number, tag: 0x0123_4567_89AB_CDEF + number, ..end };
        refused(served.changes(Some(made_up), "wait=0"), 410, ErrorCode::Resync).await;
    }
    assert_eq!(standing(&served, &database).await, before);
    let service = served.server.service();
    assert_eq!((service.wrong_cursors("admin"), service.wrong_cursors("laptop")), (100, 0));
    assert_eq!(served.page(Some(end), "wait=0").await.cursor, end);
}

#[tokio::test]
async fn cursors_that_may_be_of_an_earlier_version_are_put_off() {
    let served = with_key(Environment::system().now()).await;
    served.commit(vec![mkdir(id(), ROOT, "a")]).await;
    let end = served.folder().await.cursor;
    refused(served.changes(Some(Cursor { seq: 9, ..end }), "wait=0"), 410, ErrorCode::Resync).await;
    let second = served.folder().await.cursor;
    assert_ne!(second.epoch, end.epoch);
    let database = rusqlite::Connection::open(served.directory.path().join("data/meta.sqlite")).unwrap();
    let before = standing(&served, &database).await;
    for seq in 5..50 {
        let answer = served.changes(Some(Cursor { seq, ..second }), "wait=0").send().await.unwrap();
        let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!(answer.status() == 503 && (500..=600).contains(&wait), "{} {wait}", answer.status());
    }
    assert_eq!(standing(&served, &database).await, before);
}

fn poll_from(cursor: Cursor) -> Poll {
    Poll { since: Some(cursor), known: None, limit: 10, inline: 0, device: None, session: None, extra: false }
}

#[tokio::test]
async fn commits_are_listed_with_what_they_did() {
    for world in worlds().await {
        let (a, b) = (id(), id());
        world.ok(vec![mkdir(a, ROOT, "a"), mkdir(b, ROOT, "b")]).await;
        world.ok(vec![rename(a, 1, b, "a")]).await;
        world.ok(vec![remove(a, 3), mkdir(id(), ROOT, "c")]).await;
        world.ok(Vec::new()).await;
        let list = world.service.history(F, 10).await.unwrap();
        let told = |past: &syncmount_server::service::PastCommit| {
            let counts = past.commit.counts;
            (past.commit.first_seq, past.commit.last_seq, (counts.created, counts.changed, counts.removed))
        };
        assert_eq!(
            list.iter().map(told).collect::<Vec<_>>(),
            [(4, 5, (1, 0, 1)), (3, 3, (0, 1, 0)), (1, 2, (2, 0, 0))]
        );
        assert!(list.iter().all(|past| past.device == "laptop"));
        assert!(list[0].commit.time > list[2].commit.time);
        assert_eq!(world.service.history(F, 1).await.unwrap().len(), 1);
    }
}
