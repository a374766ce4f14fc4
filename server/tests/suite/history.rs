//! Tags: which history a cursor belongs to; and the list of commits.

use crate::support::*;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::{DeviceId, Epoch};
use syncmount_server::service::{Poll, ServiceError};

async fn is_refused(world: &World, cursor: Cursor) -> bool {
    match world.service.changes(F, Some(cursor), 10, 0).await {
        Ok(_) => false,
        Err(ServiceError::Resync(_)) => true,
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
        assert_eq!(tags[..4], [first.tag, first.tag, first.tag, second.tag]);
        assert_eq!(world.cursor().await, since.unwrap());
    }
}

#[tokio::test]
async fn a_cursor_of_a_lost_future_begins_a_new_epoch_once() {
    for world in worlds().await {
        world.ok(vec![mkdir(id(), ROOT, "a")]).await;
        let now = world.cursor().await;
        let untagged = Cursor { tag: 0, ..now };
        assert!(!is_refused(&world, now).await && !is_refused(&world, untagged).await);
        let held = world.service.poll(F, poll_from(now), std::future::pending());
        let (held, ()) = futures::future::join(held, async {
            assert!(is_refused(&world, Cursor { tag: now.tag ^ 1, ..now }).await);
        })
        .await;
        assert!(matches!(held, Err(ServiceError::Resync(_))), "who waits is told at once");
        let second = world.cursor().await;
        assert_ne!(second.epoch, now.epoch);
        for stale in [now, untagged, Cursor { seq: 9, ..now }, Cursor { epoch: Epoch::from_bytes([1; 16]), ..now }] {
            assert!(is_refused(&world, stale).await);
        }
        assert_eq!(world.cursor().await, second, "a cursor of another epoch proves nothing");
        assert!(is_refused(&world, Cursor { seq: 9, ..second }).await, "past the end");
        let third = world.cursor().await;
        assert!(third.epoch != second.epoch && (third.seq, third.tag) == (second.seq, second.tag));
        let stale = request(second.epoch, vec![mkdir(id(), ROOT, "b")]);
        assert!(matches!(world.service.commit(F, stale, Vec::new()).await, Err(ServiceError::Resync(_))));
        world.ok(vec![mkdir(id(), ROOT, "b")]).await;
        assert_eq!(world.service.restored().await.unwrap(), 1);
        assert!(is_refused(&world, third).await);
    }
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
        let other = Cursor { tag: end.tag ^ 1, ..end };
        let commit = |known, name| {
            let request = request(end.epoch, vec![mkdir(id(), ROOT, name)]);
            world.service.commit(F, CommitRequest { known: Some(known), ..request }, Vec::new())
        };
        commit(end, "b").await.unwrap();
        assert!(matches!(commit(other, "c").await, Err(ServiceError::Resync(_))));
        assert_eq!(world.all().await.len(), 2, "nothing of it is stored: a and b are there");
        let renewed = world.cursor().await;
        assert_ne!(renewed.epoch, end.epoch, "it proves that the store was set back");
        let ask = Poll { known: Some(Cursor { tag: 7, ..renewed }), ..poll_from(Cursor { seq: 1, tag: 0, ..renewed }) };
        assert!(matches!(world.service.page(F, ask).await, Err(ServiceError::Resync(_))));
        assert_ne!(world.cursor().await.epoch, renewed.epoch);
    }
}

fn poll_from(cursor: Cursor) -> Poll {
    Poll { since: Some(cursor), known: None, limit: 10, inline: 0, device: None, session: None }
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
