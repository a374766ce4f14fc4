//! The plain file API over HTTP.

use crate::client::*;
use crate::support::*;
use bytes::Bytes;
use reqwest::{Method, RequestBuilder};
use syncmount_common::protocol::commit::NewContent;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::files::{FileInfo, Listing, Versions};
use syncmount_common::{Extent, FileHash, Manifest, NodeKind};

const FILES: &str = "/v1/folders/default/files";

impl Served {
    fn file(&self, path: &str) -> RequestBuilder {
        self.get(&format!("{FILES}/{path}"))
    }

    fn put(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.ask(Method::PUT, &format!("{FILES}/{path}")).body(body)
    }

    fn delete(&self, path: &str) -> RequestBuilder {
        self.ask(Method::DELETE, &format!("{FILES}/{path}"))
    }

    async fn store(&self, path: &str, body: &'static str) -> FileInfo {
        good(self.put(path, body).send().await.unwrap()).await
    }

    async fn text(&self, path: &str) -> String {
        self.file(path).send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let listing: Listing = good(self.file(path).send().await.unwrap()).await;
        listing.entries.into_iter().map(|entry| entry.name.unwrap().to_string()).collect()
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7u64;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

#[tokio::test]
async fn a_large_file_is_streamed_in_and_out() {
    let served = serve().await;
    let bytes = Bytes::from(noise(20 << 20));
    let pieces: Vec<_> =
        bytes.chunks(70_001).map(|piece| Ok::<_, std::io::Error>(Bytes::copy_from_slice(piece))).collect();
    let body = reqwest::Body::wrap_stream(futures::stream::iter(pieces));
    let info: FileInfo = good(served.put("a/b/large.bin?mtime=1000000007", body).send().await.unwrap()).await;
    assert_eq!((info.size, info.sha256), (20 << 20, Some(FileHash::of(&bytes))));
    assert_eq!(info.mtime.0, 1_000_000_007);
    let back = served.file("a/b/large.bin").send().await.unwrap();
    assert_eq!(back.headers()["etag"], format!("\"{}\"", info.content.unwrap()));
    assert_eq!(back.headers()["content-length"], bytes.len().to_string());
    assert!(back.bytes().await.unwrap() == bytes);
    let part = served.file("a/b/large.bin").header("range", "bytes=5000000-7999999").send().await.unwrap();
    assert_eq!(part.status(), 206);
    assert_eq!(part.headers()["content-range"], format!("bytes 5000000-7999999/{}", bytes.len()));
    assert!(part.bytes().await.unwrap() == bytes[5_000_000..8_000_000]);
    let head = served.ask(Method::HEAD, &format!("{FILES}/a/b/large.bin")).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], bytes.len().to_string());
    assert!(head.bytes().await.unwrap().is_empty());
    let manifest = served.get(&format!("/v1/contents/{}", info.content.unwrap())).send().await.unwrap();
    assert_eq!(Manifest::decode(&manifest.bytes().await.unwrap()).unwrap().size(), 20 << 20);
}

#[tokio::test]
async fn ranges_outside_the_file_are_refused() {
    let served = serve().await;
    served.store("f", "0123456789").await;
    let range = |range: &str| served.file("f").header("range", range.to_owned());
    assert_eq!(range("bytes=-3").send().await.unwrap().text().await.unwrap(), "789");
    assert_eq!(range("bytes=8-").send().await.unwrap().text().await.unwrap(), "89");
    let outside = range("bytes=10-").send().await.unwrap();
    assert_eq!((outside.status().as_u16(), &outside.headers()["content-range"]), (416, &"bytes */10".parse().unwrap()));
    refused(range("bytes=10-"), 416, ErrorCode::RangeNotSatisfiable).await;
    served.store("empty", "").await;
    assert_eq!(served.text("empty").await, "");
}

#[tokio::test]
async fn holes_read_as_zeros() {
    let served = serve().await;
    let (hash, envelope) = chunk(b"end");
    let manifest = Manifest::new(vec![Extent::Hole { len: 100_000 }, Extent::Chunk { hash, len: 3 }]).unwrap();
    let content = NewContent { manifest, sha256: None };
    let mut request = served.request(vec![create(id(), ROOT, "sparse", hash_of(&content))]).await;
    request.contents.push(content);
    let body = frames(Some(&serde_json::to_vec(&request).unwrap()), &[(hash, envelope)]);
    served.framed(&format!("/v1/folders/{F}/commit"), body.freeze()).send().await.unwrap();
    let bytes = served.file("sparse").send().await.unwrap().bytes().await.unwrap();
    assert!(bytes.len() == 100_003 && bytes[..100_000].iter().all(|byte| *byte == 0) && bytes.ends_with(b"end"));
    let part = served.file("sparse").header("range", "bytes=99999-100000").send().await.unwrap();
    assert_eq!(part.bytes().await.unwrap(), &b"\0e"[..]);
}

#[tokio::test]
async fn conditions_decide() {
    let served = serve().await;
    let first = served.store("f", "one").await;
    let tag = |info: &FileInfo| format!("\"{}\"", info.content.unwrap());
    let same = served.file("f").header("if-none-match", tag(&first)).send().await.unwrap();
    assert_eq!((same.status().as_u16(), same.headers()["etag"].to_str().unwrap()), (304, &tag(&first)[..]));
    refused(served.put("f", "x").header("if-none-match", "*"), 412, ErrorCode::PreconditionFailed).await;
    refused(served.put("new", "x").header("if-match", "*"), 412, ErrorCode::PreconditionFailed).await;
    refused(served.put("f", "x").header("if-match", "\"other\""), 412, ErrorCode::PreconditionFailed).await;
    refused(served.put("f", "x").header("if-match", "unquoted"), 400, ErrorCode::BadRequest).await;
    assert_eq!(served.text("f").await, "one");
    let second = served.put("f", "two").header("if-match", tag(&first)).send().await.unwrap();
    assert_eq!(second.status(), 200);
    refused(served.delete("f").header("if-match", tag(&first)), 412, ErrorCode::PreconditionFailed).await;
    let made = served.put("new", "x").header("if-none-match", "*").send().await.unwrap();
    assert_eq!(made.status(), 201);
}

#[tokio::test]
async fn versions_outlive_what_replaced_them() {
    let served = serve().await;
    for body in ["one", "two"] {
        served.store("f", body).await;
    }
    assert_eq!(served.delete("f").send().await.unwrap().status(), 204);
    served.store("f", "three").await;
    let list: Versions = good(served.file("f?versions").send().await.unwrap()).await;
    let sizes: Vec<_> = list.versions.iter().map(|version| version.size).collect();
    assert_eq!(sizes, [5, 3, 3]);
    assert!(list.versions.iter().all(|version| version.device == "web" && version.received.0 > 0));
    let oldest = list.versions[2].rev;
    assert_eq!(served.text(&format!("f?version={oldest}")).await, "one");
    served.delete("f").send().await.unwrap();
    assert_eq!(served.text(&format!("f?version={oldest}")).await, "one", "also when the file is gone");
    refused(served.file("f?version=99"), 404, ErrorCode::NotFound).await;
    refused(served.file("g?versions"), 404, ErrorCode::NotFound).await;
}

#[tokio::test]
async fn directories_are_made_listed_and_removed() {
    let served = serve().await;
    let made = served.put("d/e?dir", "").send().await.unwrap();
    assert_eq!(made.status(), 201);
    assert_eq!(served.put("d/e?dir", "").send().await.unwrap().status(), 200, "it is there already");
    for name in ["b", "a", "c"] {
        served.store(&format!("d/{name}"), "x").await;
    }
    assert_eq!(served.names("d").await, ["a", "b", "c", "e"]);
    assert_eq!(served.names("d/?limit=2").await, ["a", "b"]);
    assert_eq!(served.names("d?after=b").await, ["c", "e"]);
    assert_eq!(served.names("").await, ["d"]);
    let info: FileInfo = good(served.file("d?info").send().await.unwrap()).await;
    assert_eq!((info.kind, info.size), (NodeKind::Dir, 0));
    refused(served.delete("d"), 409, ErrorCode::Conflict).await;
    refused(served.put("d", "x"), 405, ErrorCode::MethodNotAllowed).await;
    refused(served.put("d/a?dir", ""), 409, ErrorCode::Conflict).await;
    refused(served.put("d/a/below", "x"), 409, ErrorCode::Conflict).await;
    refused(served.file("d/a/below"), 409, ErrorCode::Conflict).await;
    refused(served.delete(""), 405, ErrorCode::MethodNotAllowed).await;
    refused(served.put("", "x"), 405, ErrorCode::MethodNotAllowed).await;
    refused(served.delete("d/zzz"), 404, ErrorCode::NotFound).await;
    refused(served.file("d?limit=0"), 422, ErrorCode::Invalid).await;
    refused(served.file("d?unknown"), 400, ErrorCode::BadRequest).await;
    assert_eq!(served.delete("d/e").send().await.unwrap().status(), 204);
    assert_eq!(served.delete("d?recursive").send().await.unwrap().status(), 204);
    assert!(served.names("").await.is_empty());
    assert_eq!(served.folder().await.nodes, 0);
}

#[tokio::test]
async fn a_hard_link_loses_the_name_that_is_removed() {
    let served = serve().await;
    let (file, dir, none) = (id(), id(), hash_of(&empty()));
    served.commit(vec![mkdir(dir, ROOT, "d"), create(file, dir, "a", none)]).await;
    let names = Some(vec![at(dir, "a"), at(dir, "b"), at(ROOT, "outside")]);
    let link = syncmount_common::protocol::commit::Op::Update {
        id: file,
        base: 2,
        names,
        attrs: None,
        xattrs: None,
        content: None,
    };
    served.commit(vec![link]).await;
    assert_eq!(served.delete("d/a").send().await.unwrap().status(), 204);
    assert_eq!(served.names("d").await, ["b"]);
    assert_eq!(served.delete("d?recursive").send().await.unwrap().status(), 204);
    assert_eq!(served.names("").await, ["outside"]);
}

#[tokio::test]
async fn names_of_any_bytes_have_paths() {
    let served = serve().await;
    for path in ["sp%20ace", "100%25", "%C3%BC", "%FF%FE", "q%3F", "a+b"] {
        served.store(path, "x").await;
        assert_eq!(served.text(path).await, "x");
    }
    assert_eq!(served.names("").await.len(), 6);
    assert_eq!(served.names("?after=100%25").await.len(), 5);
}

#[tokio::test]
async fn a_symlink_is_told_and_not_followed() {
    let served = serve().await;
    served.commit(vec![symlink(id(), ROOT, "l", "target")]).await;
    let info: FileInfo = good(served.file("l?info").send().await.unwrap()).await;
    assert_eq!(info.target.unwrap().as_bytes(), b"target");
    refused(served.file("l"), 405, ErrorCode::MethodNotAllowed).await;
    refused(served.put("l", "x"), 405, ErrorCode::MethodNotAllowed).await;
    assert_eq!(served.delete("l").send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn concurrent_uploads_to_one_path_all_become_versions() {
    let served = serve().await;
    let puts = (0..8).map(|index| served.put("same/way/f", format!("body {index}")).send());
    for reply in futures::future::join_all(puts).await {
        good::<FileInfo>(reply.unwrap()).await;
    }
    let list: Versions = good(served.file("same/way/f?versions").send().await.unwrap()).await;
    assert_eq!(list.versions.len(), 8);
}

/// A content of two chunks; what it is of, and a hash that is not theirs.
async fn told_a_lie(served: &Served) -> (NewContent, Vec<u8>) {
    let (one, two) = (chunk(b"one"), chunk(b"two"));
    let extents = [&one, &two].map(|chunk| Extent::Chunk { hash: chunk.0, len: 3 });
    let lie = Some(FileHash::of(b"what another device has"));
    let content = NewContent { manifest: Manifest::new(extents.to_vec()).unwrap(), sha256: lie };
    let mut request = served.request(vec![create(id(), ROOT, "file", hash_of(&content))]).await;
    request.contents.push(content.clone());
    let body = frames(Some(&serde_json::to_vec(&request).unwrap()), &[one, two]);
    let done = served.framed(&format!("/v1/folders/{F}/commit"), body.freeze()).send().await.unwrap();
    assert!(done.status().is_success());
    (content, b"onetwo".to_vec())
}

#[tokio::test]
async fn a_hash_that_a_client_tells_is_told_to_no_other() {
    let served = serve().await;
    let (content, bytes) = told_a_lie(&served).await;
    let told = async || {
        let node = served.page(None, "").await.nodes.remove(0);
        let info: FileInfo = good(served.file("file?info").send().await.unwrap()).await;
        let list: Listing = good(served.get(FILES).send().await.unwrap()).await;
        let versions: Versions = good(served.file("file?versions").send().await.unwrap()).await;
        [node.content.unwrap().sha256, info.sha256, list.entries[0].sha256, versions.versions[0].sha256]
    };
    assert_eq!(told().await, [None; 4]);
    // Nor if the same content is sent again, with another lie.
    let again = create(id(), ROOT, "other", hash_of(&content));
    let mut request = served.request(vec![again]).await;
    request.contents.push(NewContent { sha256: Some(FileHash::of(b"a second lie")), ..content });
    let done = served.post(&format!("/v1/folders/{F}/commit"), &request).send().await.unwrap();
    assert!(done.status().is_success());
    assert_eq!(told().await, [None; 4]);
    let info: FileInfo = good(served.file("other?info=sha256").send().await.unwrap()).await;
    assert_eq!(info.sha256, Some(FileHash::of(&bytes)), "that of the bytes themselves");
    assert_eq!(told().await, [Some(FileHash::of(&bytes)); 4], "it belongs to the content");
}

#[tokio::test]
async fn a_hash_is_computed_of_files_that_it_can_be_computed_of() {
    let served = serve().await;
    let hole = |len| NewContent { manifest: Manifest::new(vec![Extent::Hole { len }]).unwrap(), sha256: None };
    let (small, large) = (hole(40_000_000), hole(1 << 50));
    let ops = vec![
        create(id(), ROOT, "small", hash_of(&small)),
        create(id(), ROOT, "large", hash_of(&large)),
        mkdir(id(), ROOT, "directory"),
    ];
    let mut request = served.request(ops).await;
    request.contents.extend([small, large]);
    let done = served.post(&format!("/v1/folders/{F}/commit"), &request).send().await.unwrap();
    assert!(done.status().is_success());
    let info: FileInfo = good(served.file("small?info=sha256").send().await.unwrap()).await;
    assert_eq!(info.sha256, Some(FileHash::of(&vec![0; 40_000_000])));
    refused(served.file("large?info=sha256"), 413, ErrorCode::TooLarge).await;
    let info: FileInfo = good(served.file("directory?info=sha256").send().await.unwrap()).await;
    assert_eq!(info.sha256, None);
    refused(served.file("nothing?info=sha256"), 404, ErrorCode::NotFound).await;
}
