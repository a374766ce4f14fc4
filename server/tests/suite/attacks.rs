//! Requests that would make the server take much more memory than they have bytes. After each attack it has had less than it
//! may, which `Program` checks, and goes on to serve.

use crate::client::*;
use crate::liar::{Liar, is_closed_within, status};
use crate::support::*;
use bytes::Bytes;
use serde_json::json;
use std::time::Duration;
use syncmount_common::protocol::chunks::{ChunkList, PutReply};
use syncmount_common::protocol::commit::{ChangedContent, CommitRequest, Committed, NewContent};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{ChunkHash, ContentHash, Extent, Manifest, delta, envelope};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
const LONGEST: usize = 16 * MIB;
const COMMIT: &str = "POST /v1/folders/default/commit";
const JSON: &str = "application/json";
const FRAMES: &str = "application/vnd.syncmount.frames";

/// Chunks of the greatest length that are stored in next to nothing.
fn zeros(count: u64) -> Vec<(ChunkHash, Bytes)> {
    let mut raw = vec![0; LONGEST];
    let one = |index: u64| {
        raw[..8].copy_from_slice(&index.to_le_bytes());
        (ChunkHash::of(&raw), Bytes::from(envelope::seal(&raw)))
    };
    (0..count).map(one).collect()
}

fn noise(len: usize, mut state: u64) -> Vec<u8> {
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

async fn put(served: &Served, chunks: &[(ChunkHash, Bytes)]) {
    let reply = served.framed("/v1/chunks", frames(None, chunks).freeze()).send().await.unwrap();
    good::<PutReply>(reply).await;
}

fn list(chunks: &[(ChunkHash, Bytes)]) -> Vec<u8> {
    serde_json::to_vec(&ChunkList { chunks: chunks.iter().map(|(hash, _)| *hash).collect() }).unwrap()
}

/// The server still does what it is asked, by the same credential.
async fn still_serves(served: &Served) {
    served.commit(vec![mkdir(id(), ROOT, "afterwards")]).await;
    assert!(!served.page(None, "").await.nodes.is_empty());
}

/// Reads nothing for a while, as a client that wants the server to hold what it has to say; then goes away.
async fn say_nothing(streams: Vec<TcpStream>) {
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(streams);
}

/// Commits a file of these extents; answers its content.
async fn file_of(served: &Served, extents: Vec<Extent>) -> ContentHash {
    let manifest = Manifest::new(extents).unwrap();
    let hash = manifest.content_hash();
    let mut request = served.request(vec![create(id(), ROOT, "huge", hash)]).await;
    request.contents = vec![NewContent { manifest, sha256: None }];
    let path = format!("/v1/folders/{F}/commit");
    good::<Committed>(served.post(&path, &request).send().await.unwrap()).await;
    hash
}

#[tokio::test]
async fn chunks_that_unpack_to_a_gibibyte() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let chunks = zeros(64);
    assert!(list(&chunks).len() + chunks.iter().map(|(_, envelope)| envelope.len()).sum::<usize>() < 150_000);
    put(&served, &chunks).await;
    for mut fetch in liar.crowd(3, "POST /v1/chunks/fetch", JSON, &list(&chunks)).await {
        assert_eq!(status(&mut fetch).await, Some(200));
        assert!(!is_closed_within(&mut fetch, Duration::from_secs(1)).await, "the connection may be used again");
    }
    let extents = chunks.iter().map(|(hash, _)| Extent::Chunk { hash: *hash, len: LONGEST as u32 });
    file_of(&served, extents.collect()).await;
    let path = format!("GET /v1/folders/{F}/files/huge");
    say_nothing(liar.crowd(24, &path, JSON, b"").await).await;
    let part = served.get(&path["GET ".len()..]).header("range", "bytes=1073741820-").send().await.unwrap();
    assert_eq!(part.bytes().await.unwrap(), [0; 4][..]);
    let part = format!("GET /v1/chunks/{}?from=0&len={LONGEST}", chunks[0].0);
    say_nothing(liar.crowd(24, &part, JSON, b"").await).await;
    still_serves(&served).await;
}

#[tokio::test]
async fn long_chunks_that_are_asked_for_and_not_taken() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let chunks: Vec<_> = (0..2).map(|seed| chunk(&noise(LONGEST, seed))).collect();
    put(&served, &chunks).await;
    say_nothing(liar.crowd(40, "POST /v1/chunks/fetch", JSON, &list(&chunks)).await).await;
    let whole = format!("GET /v1/chunks/{}", chunks[0].0);
    say_nothing(liar.crowd(40, &whole, JSON, b"").await).await;
    let part = format!("{whole}?from=0&len={LONGEST}");
    say_nothing(liar.crowd(40, &part, JSON, b"").await).await;
    let got = served.get(&whole["GET ".len()..]).send().await.unwrap().bytes().await.unwrap();
    assert_eq!(got, chunks[0].1);
    still_serves(&served).await;
}

#[tokio::test]
async fn one_chunk_asked_for_many_times() {
    let served = serve().await;
    let known = chunk(b"known");
    put(&served, std::slice::from_ref(&known)).await;
    let many = ChunkList { chunks: vec![known.0; 2] };
    refused(served.post("/v1/chunks/fetch", &many), 422, ErrorCode::Invalid).await;
    assert!(served.missing(&[known.0, known.0]).await.is_empty(), "this may repeat: the answer does not");
}

/// JSON that needs much memory when it is parsed, in three ways.
fn large_json(request: &CommitRequest, len: usize) -> [Vec<u8>; 3] {
    let with = |key: &str, one: serde_json::Value| {
        let mut json = serde_json::to_value(request).unwrap();
        json[key] = json!(["@"]);
        let one = one.to_string();
        let many = vec![one.as_str(); len / (one.len() + 1)].join(",");
        json.to_string().replace("\"@\"", &many).into_bytes()
    };
    let extent = [Extent::Chunk { hash: ChunkHash::of(b"x"), len: 1 }, Extent::Hole { len: 1 }];
    let manifest = Manifest::new(extent.into_iter().cycle().take(len * 3 / 4 / 46 * 2).collect()).unwrap();
    [
        with("ops", json!({"op": "remove", "id": id(), "base": 1})),
        with("contents", json!({"manifest": Manifest::default()})),
        with("contents", json!({"manifest": manifest})),
    ]
}

#[tokio::test]
async fn large_json_from_many_at_once() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let request = served.request(vec![]).await;
    let bodies = large_json(&request, 20 * MIB);
    let commits = (0..18).map(|index| liar.send(COMMIT, JSON, &bodies[index % bodies.len()]));
    for commit in futures::future::join_all(commits).await {
        let answer = status(&mut commit.unwrap()).await;
        assert!(matches!(answer, Some(200 | 409 | 413 | 422 | 503)), "{answer:?}");
    }
    let framed = frames(Some(&bodies[0]), &[]).freeze();
    for mut commit in liar.crowd(6, COMMIT, FRAMES, &framed).await {
        assert_eq!(status(&mut commit).await, Some(413));
    }
    still_serves(&served).await;
}

#[tokio::test]
async fn large_json_of_clients_that_go_away_at_once() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let request = served.request(vec![]).await;
    let bodies = large_json(&request, 12 * MIB);
    for body in &bodies {
        drop(liar.crowd(12, COMMIT, JSON, body).await);
    }
    still_serves(&served).await;
}

#[tokio::test]
async fn a_manifest_of_a_million_extents() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let one = chunk(b"x");
    put(&served, std::slice::from_ref(&one)).await;
    let extents = vec![Extent::Chunk { hash: one.0, len: 1 }; 1 << 20];
    let hash = file_of(&served, extents.clone()).await;
    say_nothing(liar.crowd(30, &format!("GET /v1/contents/{hash}"), JSON, b"").await).await;
    say_nothing(liar.crowd(30, &format!("GET /v1/folders/{F}/files/huge"), JSON, b"").await).await;
    // A difference of a few bytes stands for as many.
    let base = Manifest::new(extents).unwrap();
    let target = Manifest::new([base.extents(), &[Extent::Hole { len: 1 }]].concat()[1..].to_vec()).unwrap();
    let delta = delta::Delta(delta::between(&base, &target).unwrap());
    let mut request = served.request(vec![]).await;
    request.changed = vec![ChangedContent { content: target.content_hash(), base: hash, delta, sha256: None }];
    let body = serde_json::to_vec(&request).unwrap();
    assert!(body.len() < 1000);
    drop((base, target));
    let mut answers = Vec::new();
    for mut commit in liar.crowd(6, COMMIT, JSON, &body).await {
        answers.push(status(&mut commit).await);
    }
    assert!(
        answers.iter().all(|answer| matches!(answer, Some(200 | 503))) && answers.contains(&Some(200)),
        "{answers:?}"
    );
    still_serves(&served).await;
}

#[tokio::test]
async fn pages_and_listings_that_are_asked_for_and_not_taken() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let name = "n".repeat(200);
    for part in 0..10 {
        served.commit((0..1000).map(|index| mkdir(id(), ROOT, &format!("{name}{part}-{index}"))).collect()).await;
    }
    let path = format!("/v1/folders/{F}");
    // More connections than one address may have are closed at once, so that not all of these are served.
    say_nothing(liar.crowd(60, &format!("GET {path}/changes?inline=65536"), JSON, b"").await).await;
    say_nothing(liar.crowd(60, &format!("GET {path}/files/?limit=10000"), JSON, b"").await).await;
    let listing = served.get(&format!("{path}/files/?limit=10000")).send().await.unwrap();
    assert!(listing.bytes().await.unwrap().len() > 2_000_000);
    assert_eq!(served.page(None, "").await.nodes.len(), 10_000);
}

#[tokio::test]
async fn extended_attributes_that_many_nodes_have() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let value = "x".repeat(60 * 1024);
    let path = format!("/v1/folders/{F}");
    let mut nodes = Vec::new();
    for part in 0..40 {
        let made: Vec<_> = (0..100).map(|_| id()).collect();
        let ops = (0..).zip(&made).map(|(n, node)| mkdir(*node, ROOT, &format!("{part}-{n}"))).collect();
        let mut json = serde_json::to_value(served.request(ops).await).unwrap();
        for op in json["ops"].as_array_mut().unwrap() {
            op["xattrs"] = json!([{"name": "user.large", "value": value}]);
        }
        let first =
            good::<Committed>(served.post(&format!("{path}/commit"), &json).send().await.unwrap()).await.first_seq;
        nodes.extend((first..).zip(made));
    }
    // A listing tells nothing of them.
    say_nothing(liar.crowd(8, &format!("GET {path}/files/"), JSON, b"").await).await;
    let listing = served.get(&format!("{path}/files/")).send().await.unwrap();
    assert!(listing.status().is_success());
    // A small commit about all of them does not read them all at once.
    let renames = |nodes: &[(u64, syncmount_common::NodeId)]| -> Vec<_> {
        nodes.iter().map(|(rev, node)| rename(*node, *rev, ROOT, &format!("renamed-{rev}"))).collect()
    };
    let request = served.request(renames(&nodes)).await;
    refused(served.post(&format!("{path}/commit"), &request), 413, ErrorCode::TooLarge).await;
    served.commit(renames(&nodes[..100])).await;
    still_serves(&served).await;
}

#[tokio::test]
async fn uploads_that_begin_and_do_not_go_on() {
    let served = serve().await;
    let liar = Liar::new(&served);
    let half = vec![7; 2 * MIB];
    let drips: Vec<_> = (0..60)
        .map(|index| (format!("PUT /v1/folders/{F}/files/f{index}"), "content-length: 67108864\r\n".to_owned()))
        .chain((0..10).map(|_| (COMMIT.to_owned(), format!("content-type: {JSON}\r\ncontent-length: 60000000\r\n"))))
        .collect();
    let begun = futures::future::join_all(drips.iter().map(|(line, head)| async {
        let begun = tokio::time::timeout(Duration::from_secs(2), liar.begin(line, head, &half)).await;
        begun.ok().and_then(Result::ok)
    }));
    let begun: Vec<_> = begun.await.into_iter().flatten().collect();
    assert!(!begun.is_empty());
    // Another credential has room all the same.
    let other = served.another("laptop").await;
    let file = other.ask(reqwest::Method::PUT, &format!("/v1/folders/{F}/files/mine")).body(vec![1; 4 * MIB]);
    assert_eq!(file.send().await.unwrap().status(), 201);
    drop(begun);
}
