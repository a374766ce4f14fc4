//! A token that is revoked ends what goes on with it, not only what comes next.

use crate::client::{Client, Served, good, refused, serve_here};
use crate::support::*;
use futures::StreamExt as _;
use std::time::{Duration, Instant};
use syncmount_common::protocol::changes::ChangesPage;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_server::service::{Path, Poll, ServiceError};
use syncmount_server::{Limits, Running, Service};

/// Longer than any poll may take to hear of a revocation, shorter than it may be held.
const SOON: Duration = Duration::from_secs(10);

async fn laptop(served: &Served<Running>) -> Client {
    let token = served.server.service().add_token("laptop").await.unwrap();
    Client { token: token.reveal().to_owned(), ..served.client.clone() }
}

/// The service on behalf of a new token of that name.
async fn acting(service: &Service, name: &str) -> Service {
    let token = service.add_token(name).await.unwrap();
    service.acting_for(service.credential(token.reveal()).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_held_poll_of_a_revoked_token_is_refused_at_once_and_others_stay() {
    let served = serve_here(Limits::default()).await;
    let (laptop, cursor) = (laptop(&served).await, served.folder().await.cursor);
    let held = {
        let laptop = laptop.clone();
        tokio::spawn(
            async move { refused(laptop.changes(Some(cursor), "wait=50"), 401, ErrorCode::Unauthorized).await },
        )
    };
    let other = {
        let client = served.client.clone();
        tokio::spawn(
            async move { good::<ChangesPage>(client.changes(Some(cursor), "wait=50").send().await.unwrap()).await },
        )
    };
    // Both are held by now: a poll that waits for a second has come back meanwhile.
    served.page(Some(cursor), "wait=1").await;
    let begin = Instant::now();
    served.server.service().revoke_token("laptop").await.unwrap();
    assert!(held.await.unwrap().message.contains("revoked"));
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    assert!(!other.is_finished(), "the poll of another token stays");
    served.commit(vec![mkdir(id(), ROOT, "new")]).await;
    assert_eq!(other.await.unwrap().nodes.len(), 1);
}

#[tokio::test]
async fn no_poll_tells_a_revoked_token_what_is_new() {
    for world in worlds().await {
        let laptop = acting(&world.service, "laptop").await;
        let cursor = world.cursor().await;
        let poll =
            Poll { since: Some(cursor), known: None, limit: 10, inline: 0, device: None, session: None, extra: false };
        let held = laptop.poll(F, poll, std::future::pending());
        let mut held = std::pin::pin!(held);
        assert!(futures::poll!(&mut held).is_pending());
        world.service.revoke_token("laptop").await.unwrap();
        // The same name again is another token.
        acting(&world.service, "laptop").await;
        world.ok(vec![mkdir(id(), ROOT, "secret")]).await;
        assert!(matches!(held.await, Err(ServiceError::Revoked)), "{}", world.kind);
    }
}

#[tokio::test]
async fn a_stream_ends_where_the_token_is_revoked() {
    let world = in_memory().await;
    let laptop = acting(&world.service, "laptop").await;
    let path = Path::new([b"large".to_vec()]).unwrap();
    let mut upload = world.service.upload(F, &path, Default::default(), None, None).await.unwrap();
    let noise = |index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8;
    for piece in 0..32 {
        let bytes: Vec<u8> = (0..1_000_000).map(|index| noise(index + piece * 1_000_000)).collect();
        upload.push(&bytes).await.unwrap();
    }
    upload.finish().await.unwrap();
    let opened = laptop.open(F, &path, None).await.unwrap();
    let mut bytes = laptop.stream(&opened.manifest, 0..opened.manifest.size());
    let chunks: Vec<_> = opened.manifest.chunks().map(|(hash, _)| hash).collect();
    assert!(chunks.len() > 2, "{}", chunks.len());
    let fetched = laptop.fetch_alike(chunks, Vec::new()).await.unwrap();
    let mut fetched = std::pin::pin!(fetched);
    assert!(bytes.next().await.unwrap().is_ok() && fetched.next().await.unwrap().is_ok());
    world.service.revoke_token("laptop").await.unwrap();
    assert!(matches!(bytes.next().await, Some(Err(ServiceError::Revoked))));
    assert!(matches!(fetched.next().await, Some(Err(ServiceError::Revoked))));
}

#[tokio::test]
async fn a_commit_whose_token_was_revoked_on_its_way_is_refused() {
    let world = in_memory().await;
    let laptop = acting(&world.service, "laptop").await;
    let mut commit = request(world.cursor().await.epoch, vec![mkdir(id(), ROOT, "late")]);
    commit.contents.push(empty());
    let path = Path::new([b"late".to_vec()]).unwrap();
    let upload = laptop.upload(F, &path, Default::default(), None, None).await.unwrap();
    world.service.revoke_token("laptop").await.unwrap();
    assert!(matches!(laptop.commit(F, commit, Vec::new()).await, Err(ServiceError::Revoked)));
    assert!(matches!(upload.finish().await, Err(ServiceError::Revoked)));
    assert!(matches!(laptop.put(vec![chunk(b"late")]).await, Err(ServiceError::Revoked)));
    assert!(world.all().await.is_empty());
}
