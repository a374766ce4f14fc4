//! The real binary: its command line, its data directory, and what survives `kill -9`.

use crate::client::{Client, good, refused};
use crate::support::*;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use syncmount_common::protocol::commit::Committed;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::folders::FolderList;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmount-server"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

struct Process {
    child: Child,
    client: Client,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail if the process has ended by itself, which is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn start(data: &Path) -> Process {
    let mut command = binary();
    command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    let url = lines[1].strip_prefix("listening on ").unwrap().to_owned();
    let file = lines[0].strip_prefix("token in ").unwrap();
    assert_eq!(Path::new(file), data.join("admin.token"));
    let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
    assert!(token.len() == 64 && !lines.concat().contains(&token), "the token is not printed");
    Process { child, client: Client::new(url, token) }
}

fn run(data: &Path, arguments: &[&str]) -> Output {
    binary().args(arguments).arg("--data").arg(data).output().unwrap()
}

fn stdout(output: &Output) -> &str {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::str::from_utf8(&output.stdout).unwrap().trim()
}

/// One sentence on stderr, and an exit code that is not 0.
fn failure(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(!output.status.success() && text.trim().lines().count() == 1, "{text}");
    text
}

impl Process {
    fn terminate(mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

#[tokio::test]
async fn tokens_are_added_listed_and_revoked_beside_a_running_server() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let added = run(&data, &["token", "add", "laptop"]);
    let laptop = Client { token: stdout(&added).to_owned(), ..process.client.clone() };
    good::<FolderList>(laptop.get("/v1/folders").send().await.unwrap()).await;
    assert_eq!(stdout(&run(&data, &["token", "list"])), "admin\nlaptop");
    assert!(failure(&run(&data, &["token", "add", "laptop"])).contains("laptop"));
    stdout(&run(&data, &["token", "revoke", "laptop"]));
    refused(laptop.get("/v1/folders"), 401, ErrorCode::Unauthorized).await;
    assert!(failure(&run(&data, &["token", "revoke", "laptop"])).contains("no token"));
    stdout(&run(&data, &["folder", "add", "photos"]));
    assert!(failure(&run(&data, &["folder", "add", "photos"])).contains("photos"));
    assert_eq!(stdout(&run(&data, &["folder", "list"])).lines().count(), 2);
    let list: FolderList = good(process.client.get("/v1/folders").send().await.unwrap()).await;
    assert_eq!(list.folders.iter().map(|folder| &folder.name[..]).collect::<Vec<_>>(), ["default", "photos"]);
}

#[tokio::test]
async fn what_was_acknowledged_survives_kill_9() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let mut names = Vec::new();
    for round in 0..5 {
        let mut process = start(&data);
        let (client, begin) = (process.client.clone(), names.len());
        let writer = tokio::spawn(async move {
            let mut acknowledged = Vec::new();
            for index in begin.. {
                let name = format!("f{index}");
                let request = client.request(vec![create(id(), ROOT, &name, hash_of(&empty()))]).await;
                let path = format!("/v1/folders/{F}/commit");
                let Ok(reply) = client.post(&path, &request).send().await else { break };
                acknowledged.push((name, good::<Committed>(reply).await));
                if index - begin == 20 {
                    break;
                }
            }
            acknowledged
        });
        let acknowledged = writer.await.unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        names.extend(acknowledged);
        let again = start(&data);
        let page = again.client.page(None, "").await;
        assert!(page.nodes.len() >= names.len(), "round {round}");
        for (name, committed) in &names {
            let node = page.nodes.iter().find(|node| node.rev == committed.first_seq).unwrap();
            assert_eq!(node.names, [at(ROOT, name)]);
        }
        assert!(again.terminate().success());
    }
}

#[tokio::test]
async fn uploads_under_kill_9_are_whole_or_not_there() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let body: Vec<u8> = (0..3_000_000u32).map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut acknowledged = Vec::new();
    for round in 0..5u64 {
        let mut process = start(&data);
        let puts: Vec<_> = (0..4)
            .map(|index| {
                let (client, path) = (process.client.clone(), format!("/v1/folders/{F}/files/f{round}-{index}"));
                let body = body.clone();
                tokio::spawn(async move {
                    let sent = client.ask(reqwest::Method::PUT, &path).body(body).send().await;
                    sent.is_ok_and(|reply| reply.status().is_success()).then_some(path)
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(20 + 40 * round)).await;
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for put in puts {
            acknowledged.extend(put.await.unwrap());
        }
    }
    let process = start(&data);
    let page = process.client.page(None, "").await;
    assert!(page.nodes.len() >= acknowledged.len());
    let paths = page.nodes.iter().map(|node| format!("/v1/folders/{F}/files/{}", node.names[0].name));
    for path in acknowledged.iter().cloned().chain(paths) {
        let bytes = process.client.get(&path).send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap();
        assert!(bytes == body, "{path}");
    }
}

#[tokio::test]
async fn a_stop_with_a_held_poll_ends_quickly_and_well() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let (client, cursor) = (process.client.clone(), process.client.folder().await.cursor);
    let held = tokio::spawn(async move { client.page(Some(cursor), "wait=55").await });
    process.client.page(Some(cursor), "wait=1").await;
    let begin = Instant::now();
    assert!(tokio::task::spawn_blocking(|| process.terminate()).await.unwrap().success());
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(held.await.unwrap().nodes.is_empty());
    let log = data.join("meta.sqlite-wal");
    assert!(!log.exists() || log.metadata().unwrap().len() == 0, "the log is empty after an orderly end");
}

#[test]
fn mistakes_are_told_in_one_sentence() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let second = binary().arg("--data").arg(&data).args(["--listen", "127.0.0.1:0"]).output().unwrap();
    assert!(failure(&second).contains("another syncmount-server is running"));
    let taken = process.client.url.strip_prefix("http://").unwrap();
    let other = directory.path().join("other");
    let output = binary().arg("--data").arg(&other).args(["--listen", taken]).output().unwrap();
    assert!(failure(&output).contains("cannot listen on"));
    let output = binary().arg("--data").arg(&other).args(["--listen", "nonsense"]).output().unwrap();
    assert!(failure(&output).contains("nonsense"));
    std::fs::write(directory.path().join("file"), "").unwrap();
    let output = binary().arg("--data").arg(directory.path().join("file/x")).output().unwrap();
    assert!(failure(&output).contains("data directory"));
    assert!(failure(&run(&directory.path().join("nowhere"), &["token", "list"])).contains("holds no server's data"));
    let bare = binary().output().unwrap();
    assert!(!bare.status.success() && String::from_utf8_lossy(&bare.stderr).contains("--data"));
    assert!(!directory.path().join("nowhere").exists(), "a question makes nothing");
}

#[cfg(unix)]
#[test]
fn what_lies_in_the_data_directory_is_for_its_user_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in std::fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }
    assert!(process.terminate().success());
}
