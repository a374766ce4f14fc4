//! Contents and chunks that are told by their differences to others.

use crate::client::*;
use crate::support::*;
use bytes::Bytes;
use serde_json::json;
use syncmount_common::delta::{self, Delta, EXTENTS_SUM_MAX};
use syncmount_common::frame::Frame;
use syncmount_common::protocol::chunks::{Alike, ChunkList, DELTAS_MAX, FetchList, PutReply};
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
    assert_eq!(features, ["content-deltas, chunk-deltas, fetch-deltas, extra-fields, owners"]);
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

/// A chunk of noise, the same with a small change, and both put.
async fn with_alike(served: &Served, len: usize) -> ((Vec<u8>, ChunkHash), (Vec<u8>, ChunkHash)) {
    let beneath = noise(len, len as u64);
    let mut raw = beneath.clone();
    raw[len / 2..len / 2 + 100].fill(7);
    let chunks = [chunk(&beneath), chunk(&raw)];
    good::<PutReply>(served.framed("/v1/chunks", frames(None, &chunks).freeze()).send().await.unwrap()).await;
    ((beneath, chunks[0].0), (raw, chunks[1].0))
}

async fn fetch(served: &Served, chunks: &[ChunkHash], alike: &[(ChunkHash, ChunkHash)]) -> Vec<(ChunkHash, Bytes)> {
    let alike = alike.iter().map(|(chunk, base)| Alike { chunk: *chunk, base: *base }).collect();
    let list = FetchList { chunks: chunks.to_vec(), alike };
    let reply = served.post("/v1/chunks/fetch", &list).send().await.unwrap();
    assert!(reply.status().is_success(), "{}", reply.status());
    let frames = unframed(&reply.bytes().await.unwrap());
    let chunk = |frame| match frame {
        Frame::Chunk(hash, envelope) => Some((hash, envelope)),
        Frame::Header(_) | Frame::End => None,
    };
    frames.into_iter().filter_map(chunk).collect()
}

#[tokio::test]
async fn a_chunk_is_answered_by_its_difference_to_one_that_the_asker_has() {
    let served = serve().await;
    let ((beneath, base), (raw, hash)) = with_alike(&served, 300_000).await;
    let ((_, small_base), (small_raw, small)) = with_alike(&served, 17_000).await;
    let got = fetch(&served, &[small, hash, base], &[(hash, base), (small, small_base)]).await;
    let names: Vec<_> = got.iter().map(|(hash, _)| *hash).collect();
    assert_eq!(names, [small, hash, base], "in the order asked");
    let (_, told) = &got[1];
    assert_eq!(envelope::base(told), Some(base));
    assert!(told.len() < 500, "{} bytes for 100", told.len());
    assert_eq!(envelope::open_against(&hash, told, &beneath).unwrap(), raw);
    assert_eq!(envelope::open(&base, &got[2].1).unwrap(), beneath, "of this one nothing was said");
    assert_eq!(envelope::base(&got[0].1), Some(small_base));
    // Who names none gets all of it, as ever.
    let list = ChunkList { chunks: vec![hash, small] };
    let body = served.post("/v1/chunks/fetch", &list).send().await.unwrap().bytes().await.unwrap();
    let sent = unframed(&body);
    let [Frame::Chunk(_, whole), Frame::Chunk(_, small_whole), Frame::End] = sent.as_slice() else {
        panic!("{sent:?}")
    };
    assert_eq!(envelope::open(&hash, whole).unwrap(), raw);
    assert_eq!(envelope::open(&small, small_whole).unwrap(), small_raw);
}

#[tokio::test]
async fn what_no_difference_serves_is_answered_as_a_whole() {
    let served = serve().await;
    let ((_, base), (raw, hash)) = with_alike(&served, 300_000).await;
    let other = chunk(&noise(300_000, 5));
    let short = chunk(&noise(9_000, 6));
    let shorter = chunk(&raw[..20_000]);
    let zeros = [chunk(&vec![0; 300_000]), chunk(&vec![1; 300_000])];
    let chunks = [other.clone(), short.clone(), shorter.clone(), zeros[0].clone(), zeros[1].clone()];
    good::<PutReply>(served.framed("/v1/chunks", frames(None, &chunks).freeze()).send().await.unwrap()).await;
    let ((_, long_base), (long_raw, long)) = with_alike(&served, (4 << 20) + 1).await;
    let expected = Bytes::from(envelope::seal(&raw));
    for (case, base) in [
        ("not known", ChunkHash::of(b"nobody has put this")),
        ("nothing alike", other.0),
        ("too short", short.0),
        ("much shorter", shorter.0),
        ("itself", hash),
    ] {
        assert_eq!(fetch(&served, &[hash], &[(hash, base)]).await, [(hash, expected.clone())], "{case}");
    }
    assert_eq!(fetch(&served, &[short.0], &[(short.0, base)]).await, [short], "it is short");
    let [(_, whole)] = fetch(&served, &[long], &[(long, long_base)]).await.try_into().unwrap();
    assert_eq!(envelope::open(&long, &whole).unwrap(), long_raw, "it is too long");
    let got = fetch(&served, &[zeros[0].0], &[(zeros[0].0, zeros[1].0)]).await;
    assert_eq!(got, zeros[..1], "it travels in a few bytes anyway");
    let stranger = (ChunkHash::of(b"not asked for"), base);
    assert_eq!(fetch(&served, &[hash], &[stranger]).await, [(hash, expected)]);
}

#[tokio::test]
async fn who_may_not_ask_and_what_asks_too_much_is_refused() {
    let served = serve().await;
    let ((_, base), (_, hash)) = with_alike(&served, 300_000).await;
    let alike = |count| FetchList { chunks: vec![hash], alike: vec![Alike { chunk: hash, base }; count] };
    refused(served.post("/v1/chunks/fetch", &alike(DELTAS_MAX + 1)), 413, ErrorCode::TooLarge).await;
    assert!(served.post("/v1/chunks/fetch", &alike(DELTAS_MAX)).send().await.unwrap().status().is_success());
    let half = json!({ "chunks": [hash], "alike": [{ "chunk": hash }] });
    refused(served.post("/v1/chunks/fetch", &half), 400, ErrorCode::BadRequest).await;
    let unknown = ChunkHash::of(b"unknown");
    let list = FetchList { chunks: vec![unknown], alike: vec![Alike { chunk: unknown, base }] };
    refused(served.post("/v1/chunks/fetch", &list), 404, ErrorCode::NotFound).await;
    // A token may read every chunk; without one nothing is told, whatever is named.
    let stranger = Client::new(served.url.clone(), "wrong".to_owned());
    refused(stranger.post("/v1/chunks/fetch", &alike(1)), 401, ErrorCode::Unauthorized).await;
    let content = ContentHash::of(b"any");
    refused(stranger.get(&format!("/v1/contents/{content}?base={content}")), 401, ErrorCode::Unauthorized).await;
}

#[tokio::test]
async fn many_differences_at_once_are_all_answered_rightly() {
    let served = serve().await;
    let ((beneath, base), (raw, hash)) = with_alike(&served, 300_000).await;
    let (chunks, alike) = ([hash, base], [(hash, base)]);
    let fetches = (0..60).map(|_| fetch(&served, &chunks, &alike));
    for got in futures::future::join_all(fetches).await {
        assert_eq!(got.len(), 2);
        let opened = match envelope::base(&got[0].1) {
            Some(_) => envelope::open_against(&hash, &got[0].1, &beneath),
            None => envelope::open(&hash, &got[0].1),
        };
        assert!(opened.unwrap() == raw);
    }
}

#[tokio::test]
async fn a_manifest_is_answered_by_its_difference_to_one_that_the_asker_has() {
    let (served, base) = with_a_file().await;
    let target = manifest((0..100).map(|number| if number == 50 { 100 } else { number }));
    let short = manifest(0..10);
    let ops = vec![create(id(), ROOT, "new", target.content_hash()), create(id(), ROOT, "short", short.content_hash())];
    let contents = [&target, &short].map(|manifest| NewContent { manifest: manifest.clone(), sha256: None }).to_vec();
    let request = CommitRequest { contents, ..served.request(ops).await };
    assert!(served.post(COMMIT, &request).send().await.unwrap().status().is_success());

    let get = |wanted: &Manifest, base: ContentHash| {
        let asked = served.get(&format!("/v1/contents/{}?base={base}", wanted.content_hash()));
        async move {
            let reply = asked.send().await.unwrap();
            assert!(reply.headers()["cache-control"].to_str().unwrap().contains("immutable"));
            (reply.headers()["content-type"].to_str().unwrap().to_owned(), reply.bytes().await.unwrap())
        }
    };
    let (media, told) = get(&target, base.content_hash()).await;
    assert_eq!(media, delta::CONTENT_TYPE);
    assert!(told.len() < 100, "{}", told.len());
    assert_eq!(delta::apply(&base, &told, &target.content_hash(), 100).unwrap(), target);
    for (case, wanted, base) in [
        ("not known", &target, ContentHash::of(b"unknown")),
        ("nothing alike", &target, short.content_hash()),
        ("short", &short, target.content_hash()),
    ] {
        let (media, whole) = get(wanted, base).await;
        assert_eq!(
            (media.as_str(), Manifest::decode(&whole).unwrap()),
            ("application/octet-stream", wanted.clone()),
            "{case}"
        );
    }
    let unknown = ContentHash::of(b"unknown");
    refused(served.get(&format!("/v1/contents/{unknown}?base={}", base.content_hash())), 404, ErrorCode::NotFound)
        .await;
    refused(served.get(&format!("/v1/contents/{}?base=x", base.content_hash())), 400, ErrorCode::BadRequest).await;
}
