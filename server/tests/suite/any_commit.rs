//! Whatever a client commits: what is accepted stops no endpoint, and what would is refused.

use crate::client::{Served, good, refused, serve_here};
use crate::support::*;
use proptest::prelude::*;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::json;
use std::sync::atomic::{AtomicU64, Ordering};
use syncmount_common::protocol::commit::{CommitRequest, NewContent, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_common::protocol::session::Session;
use syncmount_common::{Attrs, Extent, Manifest, NodeId, Timestamp};
use syncmount_server::{Limits, Running};

/// The largest file that a commit may name.
const LARGEST: u64 = (1 << 53) - 1;

/// A content of zeros that are stored nowhere.
fn hole(len: u64) -> NewContent {
    NewContent { manifest: Manifest::new(vec![Extent::Hole { len }]).unwrap(), sha256: None }
}

/// Every endpoint that only reads, and what an undo would do.
async fn all_answer(served: &Served<Running>, folder: &str, files: &[(String, NewContent)]) {
    let base = format!("/v1/folders/{folder}");
    let mut paths = vec!["/healthz".to_owned(), "/v1/folders".to_owned(), base.clone()];
    for rest in ["/changes", "/changes?inline=65536", "/changes?limit=1", "/holds", "/files", "/files?info"] {
        paths.push(format!("{base}{rest}"));
    }
    for (name, content) in files {
        let rest = ["?info", "?versions"].map(|query| format!("{base}/files/{name}{query}"));
        paths.extend(rest);
        paths.push(format!("/v1/contents/{}", hash_of(content)));
    }
    for path in paths {
        let response = served.get(&path).send().await.unwrap();
        let status = response.status();
        // A file that was removed since is not there.
        assert!(status.is_success() || status == 404, "{path}: {status} {}", response.text().await.unwrap());
    }
    for (name, _) in files {
        let path = format!("{base}/files/{name}");
        let part = served.get(&path).header("range", "bytes=0-9").send().await.unwrap().status();
        assert!(part.is_success() || part == 404 || part == 416, "{path}: {part}");
    }
    let undo = served.post(&format!("{base}/undo"), &json!({"to": 0, "dry_run": true})).send().await.unwrap();
    assert!(undo.status().is_success(), "undo: {}", undo.text().await.unwrap());
    let service = served.server.service();
    service.history(folder, 100).await.unwrap();
    let recounted = service.scrub(false).await.unwrap();
    assert_eq!(recounted.problems, [] as [String; 0]);
}

#[derive(Clone, Debug)]
enum Act {
    Make { len: u64, mtime: i64, mode: u32 },
    Write { file: usize, len: u64 },
    Touch { file: usize, mtime: i64, mode: u32 },
    Remove { file: usize },
    Link { file: usize },
}

fn number() -> impl Strategy<Value = u64> {
    let edges = [1, 4096, LARGEST - 1, LARGEST, LARGEST + 1, 1 << 62, i64::MAX as u64];
    prop_oneof![4 => proptest::sample::select(edges.to_vec()), 1 => 1..=i64::MAX as u64]
}

fn time() -> impl Strategy<Value = i64> {
    prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(-1), any::<i64>()]
}

fn act() -> impl Strategy<Value = Act> {
    let mode = prop_oneof![Just(0), Just(0o7777), Just(0o10000), any::<u32>()];
    prop_oneof![
        4 => (number(), time(), mode.clone()).prop_map(|(len, mtime, mode)| Act::Make { len, mtime, mode }),
        2 => (0..9_usize, number()).prop_map(|(file, len)| Act::Write { file, len }),
        1 => (0..9_usize, time(), mode).prop_map(|(file, mtime, mode)| Act::Touch { file, mtime, mode }),
        1 => (0..9_usize).prop_map(|file| Act::Remove { file }),
        1 => (0..9_usize).prop_map(|file| Act::Link { file }),
    ]
}

struct File {
    id: NodeId,
    rev: u64,
    name: String,
}

/// A batch of these acts, and the contents that it names.
fn batch(acts: &[Act], files: &[File], next: &mut u64) -> (Vec<Op>, Vec<NewContent>, Vec<(NodeId, String)>) {
    let (mut ops, mut contents, mut made) = (Vec::new(), Vec::new(), Vec::new());
    let chosen = |file: usize| files.get(file % files.len().max(1));
    for act in acts {
        match *act {
            Act::Make { len, mtime, mode } => {
                let (id, name, content) = (id(), format!("file-{next}"), hole(len));
                *next += 1;
                let mut op = create(id, ROOT, &name, hash_of(&content));
                if let Op::Create { attrs, .. } = &mut op {
                    *attrs = Attrs { mode, mtime: Timestamp(mtime) };
                }
                ops.push(op);
                contents.push(content);
                made.push((id, name));
            }
            Act::Write { file, len } => {
                let content = hole(len);
                ops.extend(chosen(file).map(|file| write(file.id, file.rev, hash_of(&content))));
                contents.push(content);
            }
            Act::Touch { file, mtime, mode } => {
                let attrs = Some(Attrs { mode, mtime: Timestamp(mtime) });
                let touch = |file: &File| Op::Update {
                    id: file.id,
                    base: file.rev,
                    names: None,
                    attrs,
                    xattrs: None,
                    content: None,
                };
                ops.extend(chosen(file).map(touch));
            }
            Act::Remove { file } => ops.extend(chosen(file).map(|file| remove(file.id, file.rev))),
            Act::Link { file } => {
                let second = |file: &File| Op::Update {
                    id: file.id,
                    base: file.rev,
                    names: Some(vec![at(ROOT, &file.name), at(ROOT, &format!("link-of-{}", file.name))]),
                    attrs: None,
                    xattrs: None,
                    content: None,
                };
                ops.extend(chosen(file).map(second));
            }
        }
    }
    (ops, contents, made)
}

/// Commits the batches one after the other; answers how many were accepted.
async fn play(batches: &[(Vec<Act>, u64)]) -> usize {
    let (served, folder) = (serve_here(Limits::default()).await, F);
    let base = format!("/v1/folders/{folder}");
    let (mut files, mut told, mut next, mut accepted) = (Vec::<File>::new(), Vec::new(), 0, 0);
    for (acts, number) in batches {
        let (ops, contents, made) = batch(acts, &files, &mut next);
        let info: FolderInfo = good(served.get(&base).send().await.unwrap()).await;
        let session = Session { number: (*number).max(1), nonce: *number, acknowledged: *number, unanswered: None };
        let request = CommitRequest {
            contents: contents.clone(),
            session: Some(session).filter(|_| number.is_multiple_of(2)),
            ..request(info.cursor.epoch, ops.clone())
        };
        let response = served.post(&format!("{base}/commit"), &request).send().await.unwrap();
        let status = response.status();
        assert!(!status.is_server_error(), "{status}: {}", response.text().await.unwrap());
        if !status.is_success() {
            continue;
        }
        accepted += 1;
        for (rev, op) in (info.cursor.seq + 1..).zip(&ops) {
            match (op, files.iter().position(|file| file.id == op.id())) {
                (Op::Remove { .. }, Some(at)) => drop(files.remove(at)),
                (_, Some(at)) => files[at].rev = rev,
                (_, None) => {
                    let (id, name) = made.iter().find(|(id, _)| *id == op.id()).unwrap().clone();
                    files.push(File { id, rev, name });
                }
            }
        }
        told.extend(made.into_iter().map(|(_, name)| name).zip(contents));
        all_answer(&served, folder, &told).await;
    }
    served.server.stop().await.unwrap();
    accepted
}

#[test]
fn after_any_accepted_commit_every_endpoint_answers() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let batches = proptest::collection::vec((proptest::collection::vec(act(), 1..5), 0..=i64::MAX as u64), 1..6);
    let accepted = AtomicU64::new(0);
    let config = Config { cases: 48, failure_persistence: None, ..Config::default() };
    let played = TestRunner::new(config).run(&batches, |batches| {
        accepted.fetch_add(runtime.block_on(play(&batches)) as u64, Ordering::Relaxed);
        Ok(())
    });
    played.unwrap_or_else(|error| panic!("{error}"));
    assert!(accepted.into_inner() > 20, "hardly any commit was accepted: the worlds are too tame");
}

#[tokio::test]
async fn a_file_that_no_device_can_hold_is_refused_and_the_folder_goes_on() {
    let served = serve_here(Limits::default()).await;
    let commit = |content: NewContent, name: &str, epoch| {
        let commit = request(epoch, vec![create(id(), ROOT, name, hash_of(&content))]);
        served.post(&format!("/v1/folders/{F}/commit"), &CommitRequest { contents: vec![content], ..commit })
    };
    let epoch = served.folder().await.cursor.epoch;
    for len in [LARGEST + 1, 1 << 60, i64::MAX as u64] {
        let answer = refused(commit(hole(len), "huge", epoch), 422, ErrorCode::Invalid).await;
        assert!(answer.message.contains("9007199254740991"), "{}", answer.message);
    }
    for index in 0..3 {
        assert!(commit(hole(LARGEST), &format!("large-{index}"), epoch).send().await.unwrap().status().is_success());
    }
    let info = served.folder().await;
    assert_eq!((info.nodes, info.bytes), (3, 3 * LARGEST));
    all_answer(&served, F, &[("large-0".to_owned(), hole(LARGEST))]).await;
}

#[tokio::test]
async fn a_folder_takes_no_more_than_its_sum_can_say_and_gives_room_back() {
    let served = serve_here(Limits::default()).await;
    let (content, name) = (hole(LARGEST), |index: u64| format!("f{index}"));
    let epoch = served.folder().await.cursor.epoch;
    let files: Vec<_> = (0..1024).map(|_| id()).collect();
    let make = |range: std::ops::Range<u64>| {
        let ops = range.map(|index| create(files[index as usize], ROOT, &name(index), hash_of(&content))).collect();
        let commit = CommitRequest { contents: vec![content.clone()], ..request(epoch, ops) };
        served.post(&format!("/v1/folders/{F}/commit"), &commit)
    };
    // 1,024 of them have 2^63 - 1,024 bytes: it still fits, 1,025 would not.
    assert!(make(0..1024).send().await.unwrap().status().is_success());
    assert_eq!(served.folder().await.bytes, 1024 * LARGEST);
    let more = create(id(), ROOT, "more", hash_of(&hole(4096)));
    let commit = CommitRequest { contents: vec![hole(4096)], ..request(epoch, vec![more]) };
    let answer = refused(served.post(&format!("/v1/folders/{F}/commit"), &commit), 422, ErrorCode::Invalid).await;
    assert!(answer.message.contains("more than a folder can hold"), "{}", answer.message);
    served.commit(vec![remove(files[0], 1)]).await;
    let again = CommitRequest { op_id: op_id(), ..commit };
    assert!(served.post(&format!("/v1/folders/{F}/commit"), &again).send().await.unwrap().status().is_success());
    assert_eq!(served.folder().await.bytes, 1023 * LARGEST + 4096);
}

#[tokio::test]
async fn a_number_that_no_row_has_is_not_found() {
    let served = serve_here(Limits::default()).await;
    served.ask(Method::PUT, &format!("/v1/folders/{F}/files/f")).body("bytes").send().await.unwrap();
    for number in [1 << 53, i64::MAX as u64, 1 << 63, u64::MAX] {
        let version = served.get(&format!("/v1/folders/{F}/files/f?version={number}"));
        refused(version, 404, ErrorCode::NotFound).await;
        let undo = served.post(&format!("/v1/folders/{F}/undo"), &json!({ "to": number }));
        refused(undo, 422, ErrorCode::Invalid).await;
    }
}
