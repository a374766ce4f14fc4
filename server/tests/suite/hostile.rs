//! Requests that no honest client sends: each gets a 4xx in the one shape, and nothing is stored.

use crate::client::*;
use crate::support::*;
use serde_json::{Value, json};
use std::time::Duration;
use syncmount_common::envelope;
use syncmount_common::protocol::chunks::{ChunkList, HASHES_MAX, PUT_LEN_MAX};
use syncmount_common::protocol::commit::COMMIT_LEN_MAX;
use syncmount_common::protocol::error::{ErrorBody, ErrorCode};
use syncmount_common::{ChunkHash, Manifest};
use syncmount_server::Limits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const COMMIT: &str = "/v1/folders/default/commit";

/// A sound commit as JSON, to be spoilt.
async fn sound(served: &Served) -> Value {
    let (body, _) = content(b"hostile");
    let mut request = served.request(vec![create(id(), ROOT, "f", hash_of(&body))]).await;
    request.contents = vec![body];
    serde_json::to_value(request).unwrap()
}

async fn nothing_stored(served: &Client) {
    assert_eq!(served.folder().await.cursor.seq, 0);
    let hostile = ChunkHash::of(b"hostile");
    assert_eq!(served.missing(&[hostile]).await, [hostile]);
}

/// Sends a spoilt commit with its chunk; answers the refusal.
async fn commit(served: &Served, json: &Value, status: u16, code: ErrorCode) -> ErrorBody {
    let body = frames(Some(&serde_json::to_vec(json).unwrap()), &[chunk(b"hostile")]);
    let answer = refused(served.framed(COMMIT, body.freeze()), status, code).await;
    nothing_stored(served).await;
    answer
}

#[tokio::test]
async fn names_that_are_no_path_components() {
    let served = serve().await;
    let good = sound(&served).await;
    let long = "x".repeat(256);
    for name in [json!(".."), json!("."), json!(""), json!("a/b"), json!("a\0"), json!(long), json!({"hex": "2e2e"})] {
        let mut spoilt = good.clone();
        spoilt["ops"][0]["names"][0]["name"] = name;
        commit(&served, &spoilt, 422, ErrorCode::Invalid).await;
    }
    for path in ["..", ".", "a/../b", "a%2Fb", "a%00", "%2e%2e", "a//b", &long] {
        let put = raw(&served, &format!("PUT /v1/folders/default/files/{path}"), "content-length: 1\r\n", b"x").await;
        assert_eq!((put.0, put.1.code), (422, ErrorCode::Invalid), "{path}");
    }
    nothing_stored(&served).await;
}

#[tokio::test]
async fn fields_that_are_unknown_missing_or_of_a_wrong_type() {
    let served = serve().await;
    let good = sound(&served).await;
    let spoil = |pointer: &str, key: &str, value: Option<Value>| {
        let mut spoilt = good.clone();
        let object = spoilt.pointer_mut(pointer).unwrap().as_object_mut().unwrap();
        match value {
            Some(value) => drop(object.insert(key.to_owned(), value)),
            None => drop(object.remove(key)),
        }
        spoilt
    };
    for pointer in ["", "/device", "/ops/0", "/ops/0/names/0", "/ops/0/attrs", "/contents/0"] {
        commit(&served, &spoil(pointer, "surprise", Some(json!(1))), 400, ErrorCode::BadRequest).await;
    }
    commit(&served, &spoil("/ops/0", "attrs", None), 400, ErrorCode::BadRequest).await;
    commit(&served, &spoil("/ops/0", "base", Some(json!(-1))), 400, ErrorCode::BadRequest).await;
    commit(&served, &spoil("/ops/0", "op", Some(json!("explode"))), 400, ErrorCode::BadRequest).await;
    commit(&served, &spoil("/ops/0/attrs", "mode", Some(json!(0o10_0000))), 422, ErrorCode::Invalid).await;
    for name in [json!(""), json!("x".repeat(65)), json!("a\nb")] {
        commit(&served, &spoil("/device", "name", Some(name)), 422, ErrorCode::Invalid).await;
    }
    commit(&served, &json!([]), 400, ErrorCode::BadRequest).await;
}

#[tokio::test]
async fn manifests_and_hashes_that_lie() {
    let served = serve().await;
    let good = sound(&served).await;
    let set = |pointer: &str, value: Value| {
        let mut spoilt = good.clone();
        *spoilt.pointer_mut(pointer).unwrap() = value;
        spoilt
    };
    for manifest in ["", "!!!", "AAAA", "c21tAQE=", "c21tAQIAAAAAAAAAAA==", "c21tAQIBAAAAAAAAAAIBAAAAAAAAAA=="] {
        let answer = commit(&served, &set("/contents/0/manifest", json!(manifest)), 422, ErrorCode::Invalid).await;
        assert!(answer.message.contains("JSON"));
    }
    let huge = [&b"smm\x01\x02"[..], &u64::MAX.to_le_bytes()].concat();
    assert!(Manifest::decode(&huge).is_err());
    let lie = json!(ChunkHash::of(b"another file"));
    let mut told = good.clone();
    told["contents"][0]["sha256"] = lie.clone();
    commit(&served, &told, 422, ErrorCode::HashMismatch).await;
    // A manifest that says more bytes than its chunk has.
    let longer =
        Manifest::new(vec![syncmount_common::Extent::Chunk { hash: ChunkHash::of(b"hostile"), len: 8 }]).unwrap();
    let mut spoilt = set("/contents/0/manifest", json!(longer));
    spoilt["ops"][0]["content"] = json!(longer.content_hash());
    commit(&served, &spoilt, 422, ErrorCode::Invalid).await;
    // A content that nobody describes.
    commit(&served, &set("/ops/0/content", lie), 409, ErrorCode::Missing).await;
}

#[tokio::test]
async fn trees_that_are_none() {
    let served = serve().await;
    let (a, b, file, link) = (id(), id(), id(), id());
    let none = hash_of(&empty());
    let cases = [
        vec![mkdir(a, b, "a"), mkdir(b, a, "b")],
        vec![mkdir(a, a, "a")],
        vec![create(file, ROOT, "f", none), mkdir(a, file, "d")],
        vec![symlink(link, ROOT, "l", "f"), mkdir(a, link, "d")],
        vec![mkdir(a, id(), "d")],
        vec![mkdir(a, ROOT, "x"), mkdir(b, ROOT, "x")],
    ];
    for ops in cases {
        let request = served.request(ops).await;
        let answer = refused(served.post(COMMIT, &request), 409, ErrorCode::Conflict).await;
        assert!(!answer.details.unwrap()["conflicts"].as_array().unwrap().is_empty());
    }
    nothing_stored(&served).await;
}

#[tokio::test]
async fn bodies_that_are_cut_off_or_malformed() {
    let served = serve().await;
    let good = serde_json::to_vec(&sound(&served).await).unwrap();
    let whole = frames(Some(&good), &[chunk(b"hostile")]).freeze();
    for len in [0, 1, 4, 5, 20, whole.len() - 6, whole.len() - 1] {
        refused(served.framed(COMMIT, whole.slice(..len)), 400, ErrorCode::BadRequest).await;
    }
    let put = frames(None, &[chunk(b"hostile")]).freeze();
    for len in [0, 3, 40, put.len() - 5, put.len() - 1] {
        refused(served.framed("/v1/chunks", put.slice(..len)), 400, ErrorCode::BadRequest).await;
    }
    for tail in [&b"x"[..], &put] {
        let longer = [&put[..], tail].concat();
        refused(served.framed("/v1/chunks", longer), 400, ErrorCode::BadRequest).await;
    }
    refused(served.framed("/v1/chunks", vec![9; 100]), 400, ErrorCode::BadRequest).await;
    refused(served.framed("/v1/chunks", vec![2, 0xff, 0xff, 0xff, 0xff]), 413, ErrorCode::TooLarge).await;
    refused(served.framed("/v1/chunks", whole), 400, ErrorCode::BadRequest).await;
    nothing_stored(&served).await;
}

#[tokio::test]
async fn a_connection_that_ends_in_the_middle_of_a_body() {
    let served = serve().await;
    let put = frames(None, &[chunk(b"hostile")]);
    let head = format!("content-type: application/vnd.syncmount.frames\r\ncontent-length: {}\r\n", put.len() + 5);
    send(&served, "POST /v1/chunks", &head, &put).await.shutdown().await.unwrap();
    let file = send(&served, "PUT /v1/folders/default/files/f", "content-length: 100\r\n", b"hostile").await;
    drop(file);
    refused(served.get("/v1/folders/default/files/f"), 404, ErrorCode::NotFound).await;
    nothing_stored(&served).await;
}

#[tokio::test]
async fn chunks_that_are_not_what_they_are_called() {
    let served = serve().await;
    let (hash, envelope) = chunk(b"hostile");
    let other = ChunkHash::of(b"other");
    let mut damaged = envelope.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let mut lies = envelope.to_vec();
    lies[4] += 1;
    let zero = [1, 0, 0, 0, 0, 0, 0, 0];
    let cases: [(ChunkHash, Vec<u8>, ErrorCode); 6] = [
        (other, envelope.to_vec(), ErrorCode::HashMismatch),
        (hash, damaged, ErrorCode::HashMismatch),
        (hash, lies, ErrorCode::Invalid),
        (hash, zero.to_vec(), ErrorCode::Invalid),
        (hash, Vec::new(), ErrorCode::Invalid),
        (hash, [9; 20].to_vec(), ErrorCode::Invalid),
    ];
    for (name, body, code) in cases {
        let good = chunk(b"good neighbour");
        let framed = frames(None, &[good.clone(), (name, body.into())]);
        refused(served.framed("/v1/chunks", framed.freeze()), 422, code).await;
        assert_eq!(served.missing(&[good.0, other]).await, [good.0, other]);
    }
    // Says a small length and unpacks to a large one.
    let mut bomb = envelope::seal(&vec![0; 1 << 20]);
    bomb[4..8].copy_from_slice(&7u32.to_le_bytes());
    refused(served.framed("/v1/chunks", frames(None, &[(hash, bomb.into())]).freeze()), 422, ErrorCode::HashMismatch)
        .await;
    nothing_stored(&served).await;
}

#[tokio::test]
async fn bodies_and_lists_that_are_too_large() {
    let served = serve().await;
    let json = "content-type: application/json\r\n";
    let framed = "content-type: application/vnd.syncmount.frames\r\n";
    for (path, kind, len) in [
        (COMMIT, json, COMMIT_LEN_MAX + 1),
        (COMMIT, framed, COMMIT_LEN_MAX + 1),
        ("/v1/chunks", framed, PUT_LEN_MAX + 1),
        ("/v1/chunks/missing", json, 2 << 20),
        ("/v1/chunks/fetch", json, 2 << 20),
    ] {
        let head = format!("{kind}content-length: {len}\r\n");
        let (status, body) = raw(&served, &format!("POST {path}"), &head, b"").await;
        assert_eq!((status, body.code), (413, ErrorCode::TooLarge), "{path}");
    }
    let many = ChunkList { chunks: vec![ChunkHash::of(b"x"); HASHES_MAX + 1] };
    refused(served.post("/v1/chunks/missing", &many), 413, ErrorCode::TooLarge).await;
    refused(served.post("/v1/chunks/fetch", &many), 413, ErrorCode::TooLarge).await;
    // Without an announced length, the bytes themselves are counted.
    let chunked = format!("{json}transfer-encoding: chunked\r\n");
    let body = format!("200000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x20_0000));
    let (status, body) = raw(&served, "POST /v1/chunks/missing", &chunked, body.as_bytes()).await;
    assert_eq!((status, body.code), (413, ErrorCode::TooLarge));
    nothing_stored(&served).await;
}

#[tokio::test]
async fn who_has_no_token_gets_nothing() {
    let served = serve().await;
    let anonymous = |path: &str| served.http.get(format!("{}{path}", served.url));
    for path in ["/v1/folders", "/v1/folders/default/changes?wait=55", "/v1/folders/default/files/", "/v1/chunks/x"] {
        refused(anonymous(path), 401, ErrorCode::Unauthorized).await;
        refused(anonymous(path).bearer_auth("wrong"), 401, ErrorCode::Unauthorized).await;
        refused(anonymous(path).basic_auth("a", Some(&served.token)), 401, ErrorCode::Unauthorized).await;
        refused(anonymous(path).bearer_auth(format!("{}0", served.token)), 401, ErrorCode::Unauthorized).await;
    }
    let reply = anonymous("/v1/folders").send().await.unwrap();
    assert_eq!(reply.headers()["www-authenticate"], "Bearer");
    assert_eq!(anonymous("/healthz").send().await.unwrap().text().await.unwrap(), "ok");
    let description: Value = good(anonymous("/openapi.json").send().await.unwrap()).await;
    assert!(description["paths"]["/v1/folders/{folder}/commit"]["post"].is_object());
}

#[tokio::test]
async fn what_does_not_exist_is_told_in_the_same_shape() {
    let served = serve().await;
    refused(served.get("/nope"), 404, ErrorCode::NotFound).await;
    refused(served.get("/v1/nope"), 404, ErrorCode::NotFound).await;
    refused(served.get(COMMIT), 405, ErrorCode::MethodNotAllowed).await;
    let unknown = refused(served.get("/v1/folders/nope"), 404, ErrorCode::NotFound).await;
    assert!(unknown.message.contains("GET /v1/folders"), "says how to list folders");
    let list = ChunkList { chunks: Vec::new() };
    let text = serde_json::to_string(&list).unwrap();
    let plain = served.ask(reqwest::Method::POST, "/v1/chunks/missing").header("content-type", "text/plain").body(text);
    refused(plain, 415, ErrorCode::UnsupportedMediaType).await;
    let put = served.ask(reqwest::Method::POST, "/v1/chunks").body("x");
    refused(put, 415, ErrorCode::UnsupportedMediaType).await;
}

#[tokio::test]
async fn who_sends_slowly_does_not_hold_the_server() {
    let short = Duration::from_millis(200);
    let served = serve_here(Limits { stall_time: short, head_time: short, ..Limits::default() }).await;
    let head = "content-type: application/json\r\ncontent-length: 100\r\n";
    let (status, body) = raw(&served, "POST /v1/chunks/missing", head, b"{").await;
    assert_eq!((status, body.code, body.retryable), (408, ErrorCode::Timeout, true));
    let mut stream = TcpStream::connect(served.address()).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost:").await.unwrap();
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.unwrap();
    assert!(!rest.starts_with(b"HTTP/1.1 200"), "the connection is closed without an answer to half a request");
    nothing_stored(&served).await;
}

/// Sends a request as it is; answers the connection.
async fn send(served: &Client, line: &str, head: &str, body: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(served.address()).await.unwrap();
    let token = &served.token;
    let text =
        format!("{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n{head}\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.write_all(body).await.unwrap();
    stream
}

/// Sends a request that HTTP clients refuse to send; answers status and error.
async fn raw(served: &Client, line: &str, head: &str, body: &[u8]) -> (u16, ErrorBody) {
    let mut stream = send(served, line, head, body).await;
    let mut reply = Vec::new();
    // The server may close before it has taken the whole body: what it said first counts.
    let mut piece = [0; 4096];
    while let Ok(len) = stream.read(&mut piece).await
        && len > 0
    {
        reply.extend_from_slice(&piece[..len]);
    }
    let text = String::from_utf8(reply).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{line}: {text}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}: {body}")))
}
