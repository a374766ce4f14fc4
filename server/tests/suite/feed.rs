//! The change feed over HTTP: held polls, inline bodies, resync, and the end of the server.

use crate::client::*;
use crate::support::*;
use std::time::{Duration, Instant};
use syncmount_common::frame::Frame;
use syncmount_common::protocol::changes::{ChangesPage, Cursor};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_server::Limits;

/// Longer than anything here takes, shorter than a held poll.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_held_poll_ends_with_the_change() {
    let served = serve().await;
    let cursor = served.folder().await.cursor;
    let poller = served.client.clone();
    let begin = Instant::now();
    let held = tokio::spawn(async move { poller.page(Some(cursor), "wait=55").await });
    served.commit(vec![mkdir(id(), ROOT, "d")]).await;
    let page = held.await.unwrap();
    assert_eq!((page.nodes.len(), page.cursor.seq), (1, 1));
    assert!(begin.elapsed() < SOON, "the change itself ends the poll");
}

#[tokio::test]
async fn no_wake_up_is_lost_between_polls() {
    let served = serve().await;
    let (poller, mut cursor) = (served.client.clone(), served.folder().await.cursor);
    let follow = tokio::spawn(async move {
        let mut seen = 0;
        while seen < 100 {
            let page = poller.page(Some(cursor), "wait=55").await;
            (seen, cursor) = (seen + page.nodes.len(), page.cursor);
        }
        seen
    });
    for index in 0..100 {
        served.commit(vec![mkdir(id(), ROOT, &index.to_string())]).await;
    }
    assert_eq!(tokio::time::timeout(SOON, follow).await.unwrap().unwrap(), 100);
}

#[tokio::test]
async fn a_held_poll_ends_with_its_time() {
    let served = serve().await;
    let cursor = served.folder().await.cursor;
    let begin = Instant::now();
    let page = served.page(Some(cursor), "wait=1").await;
    assert!(page.nodes.is_empty() && !page.more && page.cursor == cursor);
    assert!(begin.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn a_stop_ends_held_polls_at_once() {
    let served = serve_here(Limits::default()).await;
    let (poller, cursor) = (served.client.clone(), served.folder().await.cursor);
    let held = tokio::spawn(async move { poller.changes(Some(cursor), "wait=55").send().await });
    // A second poll that ends by itself: by then the first one has arrived.
    served.page(Some(cursor), "wait=1").await;
    let begin = Instant::now();
    served.server.stop().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let page: ChangesPage = good(held.await.unwrap().unwrap()).await;
    assert!(page.nodes.is_empty() && page.cursor == cursor);
}

#[tokio::test]
async fn small_bodies_ride_along_in_frames() {
    let served = serve().await;
    let (body, chunk) = content(b"small");
    let mut commit = served.request(vec![create(id(), ROOT, "f", hash_of(&body))]).await;
    commit.contents.push(body);
    let framed = frames(Some(&serde_json::to_vec(&commit).unwrap()), std::slice::from_ref(&chunk));
    let committed = served.framed(&format!("/v1/folders/{F}/commit"), framed.freeze()).send().await.unwrap();
    assert!(committed.status().is_success());
    let reply = served.changes(None, "inline=65536").send().await.unwrap().bytes().await.unwrap();
    let all = unframed(&reply);
    let [Frame::Header(header), Frame::Chunk(hash, envelope), Frame::End] = &all[..] else { panic!("{all:?}") };
    assert_eq!((*hash, envelope), (chunk.0, &chunk.1));
    assert_eq!(serde_json::from_slice::<ChangesPage>(header).unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn a_cursor_of_another_history_means_resync() {
    let served = serve().await;
    let cursor = served.folder().await.cursor;
    for wrong in [Cursor { seq: 1, ..cursor }, Cursor { epoch: syncmount_common::Epoch::from_bytes([1; 16]), ..cursor }]
    {
        refused(served.changes(Some(wrong), "wait=55"), 410, ErrorCode::Resync).await;
    }
    for bad in ["since=7", "since=x:1", "limit=0", "limit=10001", "inline=65537"] {
        refused(served.changes(None, bad), 422, ErrorCode::Invalid).await;
    }
    for bad in ["wait=x", "limit=-1", "unknown=1"] {
        refused(served.changes(None, bad), 400, ErrorCode::BadRequest).await;
    }
    refused(served.get("/v1/folders/nope/changes"), 404, ErrorCode::NotFound).await;
}

#[tokio::test]
async fn polls_and_other_requests_have_bounds_of_their_own() {
    let no_polls = serve_here(Limits { polls_max: 0, ..Limits::default() }).await;
    let body = refused(no_polls.changes(None, ""), 503, ErrorCode::Busy).await;
    assert!(body.retryable);
    assert_eq!(no_polls.changes(None, "").send().await.unwrap().headers()["retry-after"], "1");
    no_polls.commit(vec![mkdir(id(), ROOT, "d")]).await;
    let only_polls = serve_here(Limits { requests_max: 0, ..Limits::default() }).await;
    refused(only_polls.get("/v1/folders"), 503, ErrorCode::Busy).await;
    assert!(only_polls.page(None, "wait=0").await.nodes.is_empty());
}
