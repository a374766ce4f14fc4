//! What a server does whose disk is nearly full, or whose packs are damaged.

use crate::client::*;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use syncmount_common::protocol::error::{ErrorBody, ErrorCode};
use syncmount_common::protocol::files::FileInfo;
use syncmount_server::Limits;

fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

fn path(name: &str) -> String {
    format!("/v1/folders/default/files/{name}")
}

#[tokio::test]
async fn below_the_reserve_nothing_is_stored_and_what_is_removed_is_removed() {
    let served = serve_here(Limits::default()).await;
    let put = |name: &str, body: Vec<u8>| served.ask(Method::PUT, &path(name)).body(body);
    for (name, len) in [("large", 1_000_000), ("small", 100)] {
        assert_eq!(put(name, noise(len)).send().await.unwrap().status(), StatusCode::CREATED);
    }
    let service = served.server.service();
    service.set_reserve(1 << 60);
    for (name, len) in [("more", 1_000_001), ("less", 101)] {
        let told = refused(put(name, noise(len)), 507, ErrorCode::InsufficientStorage).await;
        assert!(told.retryable && told.message.contains("MiB free"), "{told:?}");
    }
    // What needs no room: a copy of what is there, a directory, and removals.
    assert_eq!(put("copy", noise(1_000_000)).send().await.unwrap().status(), StatusCode::CREATED);
    let dir = served.ask(Method::PUT, &format!("{}?dir", path("dir"))).send().await.unwrap();
    assert_eq!(dir.status(), StatusCode::CREATED);
    for name in ["large", "small"] {
        let gone = served.ask(Method::DELETE, &path(name)).send().await.unwrap();
        assert_eq!(gone.status(), StatusCode::NO_CONTENT);
    }
    service.set_reserve(0);
    assert_eq!(put("more", noise(1_000_001)).send().await.unwrap().status(), StatusCode::CREATED);
    served.server.stop().await.unwrap();
}

#[tokio::test]
async fn only_what_never_changes_may_be_kept_on_the_way() {
    let served = serve_here(Limits::default()).await;
    let kept = async |request: reqwest::RequestBuilder| {
        let response = request.send().await.unwrap();
        response.headers()["cache-control"].to_str().unwrap().to_owned()
    };
    assert_eq!(kept(served.ask(Method::PUT, &path("file")).body(noise(10))).await, "no-store");
    for path in ["file", "file?info", "", "none"] {
        assert_eq!(kept(served.get(&format!("/v1/folders/default/files/{path}"))).await, "no-store", "{path}");
    }
    for path in ["/healthz", "/openapi.json", "/v1/folders", "/v1/folders/default/changes?wait=0", "/nowhere"] {
        assert_eq!(kept(served.get(path)).await, "no-store", "{path}");
    }
    let info: FileInfo = good(served.get(&format!("{}?info", path("file"))).send().await.unwrap()).await;
    let content = format!("/v1/contents/{}", info.content.unwrap());
    assert!(kept(served.get(&content)).await.contains("immutable"));
    served.server.stop().await.unwrap();
}

/// The only file below `directory` whose name ends so.
fn only_file(directory: &Path, end: &str) -> PathBuf {
    let mut found = Vec::new();
    let mut todo = vec![directory.to_path_buf()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else if entry.path().to_string_lossy().ends_with(end) {
                found.push(entry.path());
            }
        }
    }
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

#[tokio::test]
async fn damage_is_told_before_the_first_byte_and_is_over_when_the_bytes_come_again() {
    let served = serve_here(Limits::default()).await;
    let put = || served.ask(Method::PUT, &path("file")).body(noise(300_000));
    assert_eq!(put().send().await.unwrap().status(), StatusCode::CREATED);
    let pack = only_file(&served.directory.path().join("data/packs"), ".pack");
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&pack, bytes).unwrap();
    let told = refused(served.get(&path("file")), 500, ErrorCode::Internal).await;
    assert!(told.message.contains("damaged"), "{told:?}");
    // From then on the chunk is one of those that the server does not have, by name.
    let chunk = told.message.split("(chunk ").nth(1).unwrap().split(')').next().unwrap().to_owned();
    let fetch = served.post("/v1/chunks/fetch", &json!({"chunks": [chunk]}));
    let told: ErrorBody = refused(fetch, 404, ErrorCode::NotFound).await;
    assert_eq!(told.details.unwrap()["chunks"], json!([chunk]));
    let missing: Value =
        good(served.post("/v1/chunks/missing", &json!({"chunks": [chunk]})).send().await.unwrap()).await;
    assert_eq!(missing["missing"], json!([chunk]));
    assert_eq!(put().send().await.unwrap().status(), StatusCode::OK);
    let got = served.get(&path("file")).send().await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), noise(300_000));
    served.server.stop().await.unwrap();
}

#[tokio::test]
async fn a_fetch_of_what_is_damaged_names_it() {
    let served = serve_here(Limits::default()).await;
    let put = served.ask(Method::PUT, &path("file")).body(noise(300_000));
    assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED);
    let info: FileInfo = good(served.get(&format!("{}?info", path("file"))).send().await.unwrap()).await;
    let manifest = served.get(&format!("/v1/contents/{}", info.content.unwrap())).send().await.unwrap();
    let manifest = syncmount_common::Manifest::decode(&manifest.bytes().await.unwrap()).unwrap();
    let chunks: Vec<_> = manifest.chunks().map(|(hash, _)| hash).collect();
    let pack = only_file(&served.directory.path().join("data/packs"), ".pack");
    let bytes: Vec<u8> = fs::read(&pack).unwrap().into_iter().map(|byte| byte ^ 1).collect();
    fs::write(&pack, bytes).unwrap();
    let told = refused(served.post("/v1/chunks/fetch", &json!({"chunks": chunks})), 404, ErrorCode::NotFound).await;
    assert_eq!(told.details.unwrap()["chunks"], json!([chunks[0]]));
    served.server.stop().await.unwrap();
}
