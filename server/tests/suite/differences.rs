//! Contents and chunks that are told by their differences to others.

use crate::client::*;
use crate::support::*;
use bytes::Bytes;
use serde_json::json;
use syncmount_common::delta::{self, Delta, EXTENTS_SUM_MAX};
use syncmount_common::frame::Frame;
use syncmount_common::protocol::chunks::{ChunkList, DELTAS_MAX, PutReply};
use syncmount_common::protocol::commit::{ChangedContent, CommitRequest, NewContent};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{ChunkHash, ContentHash, Extent, Manifest, envelope};

const COMMIT: &str = "/v1/folders/default/commit";

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

fn raw(number: u32) -> Vec<u8> {
    number.to_le_bytes().to_vec()
}

fn manifest(numbers: impl Iterator<Item = u32>) -> Manifest {
    Manifest::new(numbers.map(|number| Extent::Chunk { hash: ChunkHash::of(&raw(number)), len: 4 }).collect()).unwrap()
}

/// A server that has a file of a hundred chunks, the chunk 100 besides, and that file's manifest.
async fn with_a_file() -> (Served, Manifest) {
    let served = serve().await;
    let chunks: Vec<_> = (0..101).map(|number| chunk(&raw(number))).collect();
    good::<PutReply>(served.framed("/v1/chunks", frames(None, &chunks).freeze()).send().await.unwrap()).await;
    let base = manifest(0..100);
    let ops = vec![create(id(), ROOT, "base", base.content_hash())];
    let contents = vec![NewContent { manifest: base.clone(), sha256: None }];
    let request = CommitRequest { contents, ..served.request(ops).await };
    assert!(served.post(COMMIT, &request).send().await.unwrap().status().is_success());
    (served, base)
}

async fn changed(served: &Served, content: ContentHash, base: ContentHash, delta: Vec<u8>) -> CommitRequest {
    let changed = vec![ChangedContent { content, base, delta: Delta(delta), sha256: None }];
    CommitRequest { changed, contents: Vec::new(), ..served.request(vec![create(id(), ROOT, "new", content)]).await }
}

#[tokio::test]
async fn a_content_that_is_told_by_its_difference_is_as_any_other() {
    let (served, base) = with_a_file().await;
    let features = served.get("/healthz").send().await.unwrap();
    let features: Vec<_> = features.headers().get_all("syncmount-features").iter().collect();
    assert_eq!(features, ["content-deltas", "chunk-deltas"]);
    let target = manifest((0..100).map(|number| if number == 50 { 100 } else { number }));
    let name = target.content_hash();
    let told = delta::between(&base, &target).unwrap();
    assert!(told.len() < 100, "{}", told.len());
    let request = changed(&served, name, base.content_hash(), told).await;
    for _ in 0..2 {
        // The second time it is the first answer again.
        assert!(served.post(COMMIT, &request).send().await.unwrap().status().is_success());
    }
    let whole = served.get(&format!("/v1/contents/{name}")).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(Manifest::decode(&whole).unwrap(), target);
}

#[tokio::test]
async fn differences_that_lead_nowhere_are_refused() {
    let (served, base) = with_a_file().await;
    let before = served.page(None, "").await.nodes;
    let (target, other) = (manifest(1..101), manifest(0..99));
    let (name, told) = (target.content_hash(), delta::between(&base, &target).unwrap());
    let base = base.content_hash();
    // What is referred to is not here: the content is asked for as a whole.
    let request = changed(&served, name, other.content_hash(), told.clone()).await;
    let answer = refused(served.post(COMMIT, &request), 409, ErrorCode::Missing).await;
    assert_eq!(answer.details.unwrap(), json!({ "chunks": [], "contents": [name] }));
    // Chunks that nobody has put.
    let (unknown, stranger) = (manifest((0..100).map(|number| if number == 7 { 777 } else { number })), 777);
    let told_unknown = delta::between(&manifest(0..100), &unknown).unwrap();
    let request = changed(&served, unknown.content_hash(), base, told_unknown).await;
    let answer = refused(served.post(COMMIT, &request), 409, ErrorCode::Missing).await;
    assert_eq!(answer.details.unwrap()["chunks"], json!([ChunkHash::of(&raw(stranger))]));

    let kept = |from: u32, count: u32| [&b"smd\x01\x01"[..], &from.to_le_bytes(), &count.to_le_bytes()].concat();
    let many = |count: u32| {
        let mut all = kept(0, 100);
        (1..count).for_each(|_| all.extend_from_slice(&kept(0, 100)[4..]));
        all
    };
    for (delta, status, code) in [
        (told[..told.len() - 1].to_vec(), 422, ErrorCode::Invalid),
        (Vec::new(), 422, ErrorCode::Invalid),
        (kept(50, 51), 422, ErrorCode::Invalid),
        (kept(0, 99), 422, ErrorCode::HashMismatch),
        (many(EXTENTS_SUM_MAX as u32 / 100 + 1), 413, ErrorCode::TooLarge),
    ] {
        refused(served.post(COMMIT, &changed(&served, name, base, delta).await), status, code).await;
    }
    // Each is within the bounds, all together are not.
    let mut request = changed(&served, name, base, told.clone()).await;
    request.changed = vec![request.changed[0].clone(); 10_001];
    refused(served.post(COMMIT, &request), 413, ErrorCode::TooLarge).await;
    let large = Manifest::new((0..1000).flat_map(|_| manifest(0..100).extents().to_vec()).collect()).unwrap();
    let mut request = changed(&served, large.content_hash(), base, many(1000)).await;
    request.changed = vec![request.changed[0].clone(); EXTENTS_SUM_MAX / 100_000 + 1];
    refused(served.post(COMMIT, &request), 413, ErrorCode::TooLarge).await;
    assert_eq!(served.page(None, "").await.nodes, before);
}

#[tokio::test]
async fn a_chunk_that_is_told_by_its_difference_is_stored_as_any_other() {
    let served = serve().await;
    let beneath = noise(300_000, 1);
    let base = chunk(&beneath);
    let mut raw = beneath.clone();
    raw[150_000..150_100].fill(7);
    let hash = ChunkHash::of(&raw);
    let told = Bytes::from(envelope::seal_against(&base.0, &beneath, &raw).unwrap());
    let put = |chunks: &[(ChunkHash, Bytes)]| served.framed("/v1/chunks", frames(None, chunks).freeze());

    let answer = refused(put(&[chunk(b"neighbour"), (hash, told.clone())]), 409, ErrorCode::Missing).await;
    assert_eq!(answer.details.unwrap()["chunks"], json!([base.0]));
    assert_eq!(served.missing(&[hash, chunk(b"neighbour").0]).await.len(), 2, "nothing was stored");

    good::<PutReply>(put(std::slice::from_ref(&base)).send().await.unwrap()).await;
    for stored in [1, 0] {
        let reply: PutReply = good(put(&[(hash, told.clone())]).send().await.unwrap()).await;
        assert_eq!((reply.received, reply.stored), (1, stored));
    }
    let list = ChunkList { chunks: vec![hash] };
    let body = served.post("/v1/chunks/fetch", &list).send().await.unwrap().bytes().await.unwrap();
    let sent = unframed(&body);
    let [Frame::Chunk(name, stored), Frame::End] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((*name, envelope::base(stored)), (hash, None), "it depends on nothing");
    assert_eq!(envelope::open(&hash, stored).unwrap(), raw);

    let other = ChunkHash::of(b"other");
    let mut longer = told.to_vec();
    longer[4] ^= 1;
    let mut endless = told.to_vec();
    endless[4..8].fill(0xFF);
    let zeros = Bytes::from(envelope::seal(&vec![0; 4 << 20]));
    let bomb = [&told[..40], &zeros[8..]].concat();
    for (name, envelope, code) in [
        (other, told.clone(), ErrorCode::HashMismatch),
        (other, longer.into(), ErrorCode::Invalid),
        (other, endless.into(), ErrorCode::Invalid),
        (other, told.slice(..told.len() - 1), ErrorCode::HashMismatch),
        (other, told.slice(..20), ErrorCode::Invalid),
        (other, bomb.into(), ErrorCode::Invalid),
    ] {
        let len = envelope.len();
        let refusal = put(&[(name, envelope)]).send().await.unwrap();
        let answer: syncmount_common::protocol::error::ErrorBody = refusal.json().await.unwrap();
        assert_eq!(answer.code, code, "{len}: {}", answer.message);
        assert_eq!(served.missing(&[other]).await, [other]);
    }
    let many = vec![(hash, told); DELTAS_MAX + 1];
    refused(put(&many), 413, ErrorCode::TooLarge).await;
}
