//! What one request asks for is done whole or not at all: removed, undone, put back, with `kill -9` at any moment.

use crate::client::*;
use crate::process::{Process, run, start_with, stdout};
use crate::support::{at, create, empty, hash_of, id, mkdir};
use reqwest::{Method, StatusCode};
use serde_json::json;
use std::path::Path;
use std::time::Instant;
use syncmount_common::NodeId;
use syncmount_common::protocol::commit::Op;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::undo::UndoReply;

const ROOT: NodeId = NodeId::ROOT;

/// For every change, and for `./dev cases`.
fn sized<T>(everyday: T, cases: T) -> T {
    if std::env::var_os("SYNCMOUNT_CASES").is_some() { cases } else { everyday }
}

/// So many files in directories of a hundred, below `d`; answers how many nodes they are together.
async fn fill(client: &Client, files: usize) -> u64 {
    let (top, none) = (id(), hash_of(&empty()));
    let mut ops = vec![mkdir(top, ROOT, "d")];
    for dir in 0..files.div_ceil(100) {
        let parent = id();
        ops.push(mkdir(parent, top, &dir.to_string()));
        ops.extend((0..100.min(files - 100 * dir)).map(|file| create(id(), parent, &file.to_string(), none)));
    }
    for batch in ops.chunks(9_000) {
        client.commit(batch.to_vec()).await;
    }
    ops.len() as u64
}

fn begin(data: &Path) -> Process {
    start_with(data, &["--hold-removes", "0"])
}

/// Removes everything, or brings it back.
fn change(client: &Client, is_there: bool, full: u64) -> reqwest::RequestBuilder {
    if is_there {
        return client.ask(Method::DELETE, "/v1/folders/default/files/d?recursive");
    }
    client.post("/v1/folders/default/undo", &json!({"to": full}))
}

#[tokio::test]
async fn what_one_request_asks_for_is_done_whole_or_not_at_all_whenever_the_server_is_killed() {
    let (files, rounds) = sized((3_000, 12), (200_000, 12));
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = begin(&data);
    let nodes = fill(&process.client(), files).await;
    let full = process.client().folder().await.cursor.seq;
    assert_eq!((nodes, full), (process.client().folder().await.nodes, nodes));
    // How long it takes when nothing happens, there and back.
    let since = Instant::now();
    for is_there in [true, false] {
        let done = change(&process.client(), is_there, full).send().await.unwrap();
        assert!(done.status().is_success(), "{done:?}");
    }
    let takes = since.elapsed() / 2;
    eprintln!("{nodes} nodes: {takes:?} each way");
    let (mut process, mut is_there, mut ends, mut wait) = (process, true, [0, 0], takes);
    for round in 0..rounds {
        let before = process.client().folder().await;
        let request = change(&process.client(), is_there, full);
        let asked = tokio::spawn(async move { request.send().await.is_ok_and(|reply| reply.status().is_success()) });
        tokio::time::sleep(wait).await;
        process.kill();
        let was_answered = asked.await.unwrap();
        process = begin(&data);
        let after = process.client().folder().await;
        let is_done = after.cursor.seq != before.cursor.seq;
        assert!(is_done || !was_answered, "round {round}: what was answered is not there");
        let expected = if is_there == is_done { 0 } else { nodes };
        assert_eq!(after.nodes, expected, "round {round}: half done");
        let steps = if is_done { nodes } else { 0 };
        assert_eq!(after.cursor.seq - before.cursor.seq, steps, "round {round}");
        ends[usize::from(is_done)] += 1;
        // The moments gather around the end of the transaction.
        wait = if is_done { wait * 2 / 3 } else { wait * 3 / 2 };
        is_there = after.nodes > 0;
    }
    eprintln!("not done, done: {ends:?}");
    assert!(ends[0] > 0 && ends[1] > 0, "{ends:?}: the moments were all the same");
    // Each is one entry of the history, whatever it is about.
    let history = run(&data, &["history", "--folder", "default", "--limit", "1000"]);
    let lines = stdout(&history).lines().count();
    let commits = files.div_ceil(9_000) + usize::from(files % 9_000 > 8_900);
    assert!(lines >= 2 + ends[1], "{lines} entries");
    assert!(lines <= commits + 4 + ends[1], "{lines} entries for {commits} commits and {} changes", 2 + ends[1]);
    process.kill();
    let checked = run(&data, &["check"]);
    assert!(checked.status.success(), "{}", stdout(&checked));
}

#[tokio::test]
async fn what_is_held_back_is_held_back_whole_and_others_go_on() {
    let served = serve_with(&["--hold-removes", "100"]).await;
    let nodes = fill(&served, 1000).await;
    let held = served.ask(Method::DELETE, "/v1/folders/default/files/d?recursive");
    refused(held, 423, ErrorCode::Held).await;
    assert_eq!(served.folder().await.nodes, nodes, "nothing is removed");
    // Another token is another credential.
    let other = served.another("other").await;
    let one = other.ask(Method::DELETE, "/v1/folders/default/files/d/0/0").send().await.unwrap();
    assert_eq!(one.status(), StatusCode::NO_CONTENT);
    // An undo is judged as a whole as well.
    let undo = other.post("/v1/folders/default/undo", &json!({"to": 0}));
    refused(undo, 423, ErrorCode::Held).await;
    assert_eq!(served.folder().await.nodes, nodes - 1);
    let undone = served.post("/v1/folders/default/undo", &json!({"to": nodes})).send().await.unwrap();
    let undone: UndoReply = good(undone).await;
    assert_eq!(undone, UndoReply { created: 1, ..UndoReply::default() });
}

#[tokio::test]
async fn a_name_outside_of_what_is_removed_keeps_its_file() {
    let served = serve().await;
    let (dir, file, none) = (id(), id(), hash_of(&empty()));
    served.commit(vec![mkdir(dir, ROOT, "d"), create(file, dir, "a", none)]).await;
    let names = Some(vec![at(dir, "a"), at(ROOT, "outside")]);
    served.commit(vec![Op::Update { id: file, base: 2, names, attrs: None, xattrs: None, content: None }]).await;
    let done = served.ask(Method::DELETE, "/v1/folders/default/files/d?recursive").send().await.unwrap();
    assert_eq!(done.status(), StatusCode::NO_CONTENT);
    assert_eq!(served.folder().await.nodes, 1);
}
