//! Chunks over HTTP.

use crate::client::*;
use crate::support::*;
use syncmount_common::frame::Frame;
use syncmount_common::protocol::chunks::{ChunkList, PutReply};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{ChunkHash, Manifest, envelope};

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

#[tokio::test]
async fn what_is_put_can_be_fetched_in_any_order() {
    let served = serve().await;
    let chunks: Vec<_> = (0..30).map(|index| chunk(&noise(if index % 2 == 0 { 300_000 } else { 50 }, index))).collect();
    let mut hashes: Vec<_> = chunks.iter().map(|chunk| chunk.0).collect();
    assert_eq!(served.missing(&hashes).await, hashes);
    let reply = served.framed("/v1/chunks", frames(None, &chunks).freeze()).send().await.unwrap();
    let reply: PutReply = good(reply).await;
    assert_eq!((reply.received, reply.stored), (30, 30));
    assert!(served.missing(&hashes).await.is_empty());
    hashes.reverse();
    let body = served.post("/v1/chunks/fetch", &ChunkList { chunks: hashes.clone() }).send().await.unwrap();
    let all = unframed(&body.bytes().await.unwrap());
    let expected: Vec<_> =
        chunks.iter().rev().map(|(hash, body)| Frame::Chunk(*hash, body.clone())).chain([Frame::End]).collect();
    assert!(all == expected, "the frames are the chunks, in the order asked");
    let one = served.get(&format!("/v1/chunks/{}", chunks[0].0)).send().await.unwrap();
    assert!(one.headers()["cache-control"].to_str().unwrap().contains("immutable"));
    assert_eq!(one.bytes().await.unwrap(), chunks[0].1);
}

#[tokio::test]
async fn concurrent_puts_are_all_stored() {
    let served = serve().await;
    let puts = (0..16).map(|seed| {
        let (client, chunks) = (served.client.clone(), vec![chunk(&noise(300_000, seed)), chunk(b"shared by all")]);
        tokio::spawn(async move {
            let sent = client.framed("/v1/chunks", frames(None, &chunks).freeze()).send().await.unwrap();
            good::<PutReply>(sent).await;
            client.missing(&chunks.iter().map(|chunk| chunk.0).collect::<Vec<_>>()).await
        })
    });
    for put in futures::future::join_all(puts).await {
        assert!(put.unwrap().is_empty());
    }
}

#[tokio::test]
async fn what_is_unknown_is_named_before_the_first_byte() {
    let served = serve().await;
    let unknown = ChunkHash::of(b"unknown");
    let known = chunk(b"known");
    served.framed("/v1/chunks", frames(None, std::slice::from_ref(&known)).freeze()).send().await.unwrap();
    let list = ChunkList { chunks: vec![known.0, unknown] };
    let body = refused(served.post("/v1/chunks/fetch", &list), 404, ErrorCode::NotFound).await;
    assert_eq!(body.details.unwrap()["chunks"][0], unknown.to_string());
    refused(served.get(&format!("/v1/chunks/{unknown}")), 404, ErrorCode::NotFound).await;
    refused(served.get(&format!("/v1/contents/{unknown}")), 404, ErrorCode::NotFound).await;
    refused(served.get("/v1/chunks/xyz"), 422, ErrorCode::Invalid).await;
}

#[tokio::test]
async fn a_content_is_told_by_its_hash() {
    let served = serve().await;
    served.commit(vec![create(id(), ROOT, "f", hash_of(&empty()))]).await;
    let reply = served.get(&format!("/v1/contents/{}", hash_of(&empty()))).send().await.unwrap();
    assert_eq!(reply.headers()["content-type"], "application/octet-stream");
    assert_eq!(Manifest::decode(&reply.bytes().await.unwrap()).unwrap(), Manifest::default());
}

#[tokio::test]
async fn a_part_of_a_chunk_is_named_by_its_own_hash() {
    let served = serve().await;
    let raw = noise(300_000, 7);
    let chunk = chunk(&raw);
    good::<PutReply>(
        served.framed("/v1/chunks", frames(None, std::slice::from_ref(&chunk)).freeze()).send().await.unwrap(),
    )
    .await;
    let url = format!("/v1/chunks/{}", chunk.0);
    for (query, range) in [
        ("?from=0&len=1", 0..1),
        ("?from=4096&len=4096", 4096..8192),
        ("?len=300000", 0..300_000),
        ("?from=299999&len=1", 299_999..300_000),
    ] {
        let reply = served.get(&format!("{url}{query}")).send().await.unwrap();
        assert_eq!(reply.headers()["content-type"], "application/vnd.syncmount.frames");
        let part = &raw[range];
        let frames = unframed(&reply.bytes().await.unwrap());
        let [Frame::Chunk(name, envelope), Frame::End] = frames.as_slice() else { panic!("{frames:?}") };
        assert_eq!(*name, ChunkHash::of(part), "{query}");
        assert_eq!(envelope::open(name, envelope).unwrap(), part, "{query}");
    }
    for query in [
        "?from=0&len=0",
        "?len=0",
        "?from=0&len=300001",
        "?from=300000&len=1",
        "?from=4294967295&len=1",
        "?from=4294967295&len=4294967295",
        "?from=0",
    ] {
        refused(served.get(&format!("{url}{query}")), 422, ErrorCode::Invalid).await;
    }
    for query in ["?from=-1&len=1", "?from=0&len=4294967296", "?len=x", "?until=7"] {
        refused(served.get(&format!("{url}{query}")), 400, ErrorCode::BadRequest).await;
    }
    let unknown = ChunkHash::of(b"unknown");
    refused(served.get(&format!("/v1/chunks/{unknown}?from=0&len=1")), 404, ErrorCode::NotFound).await;
}
