//! The real binary: its command line, its data directory, and what survives `kill -9`.

use crate::client::{Client, good, refused};
use crate::support::*;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::time::{Duration, Instant};
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::Committed;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::folders::FolderList;

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmount-server"));
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

pub struct Process {
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
    start_with(data, &[])
}

/// The same; the second is what it logs.
#[cfg(target_os = "linux")]
pub fn start_logging(data: &Path, options: &[&str]) -> (Process, ChildStderr) {
    let mut process = launch(data, options, Stdio::piped());
    let log = process.child.stderr.take().unwrap();
    (process, log)
}

/// What a process that has ended logged.
#[cfg(target_os = "linux")]
pub fn rest_of_log(mut log: ChildStderr) -> String {
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    text
}

pub fn start_with(data: &Path, options: &[&str]) -> Process {
    launch(data, options, Stdio::null())
}

fn launch(data: &Path, options: &[&str], log: Stdio) -> Process {
    let mut command = binary();
    command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]).args(options).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().unwrap();
    let lines: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    let url = lines[1].strip_prefix("listening on ").unwrap().to_owned();
    let file = lines[0].strip_prefix("token in ").unwrap();
    assert_eq!(Path::new(file), data.join("admin.token"));
    let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
    assert!(token.len() == 64 && !lines.concat().contains(&token), "the token is not printed");
    Process { child, client: Client::new(url, token) }
}

/// Starts a server of which only the beginning is of interest: what it says, and its log, until it listens.
fn begin(data: &Path, options: &[&str]) -> (Child, String) {
    let log = data.with_extension("log");
    let stderr = std::fs::File::create(&log).unwrap();
    let mut command = binary();
    command.arg("--data").arg(data).args(options).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().unwrap();
    let said: Vec<String> = BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(said.len() == 2 && said[1].starts_with("listening on"), "{said:?} {log}");
    (child, log)
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A server that does not start, and its one sentence.
fn refusal(data: &Path, options: &[&str]) -> String {
    failure(&binary().arg("--data").arg(data).args(options).output().unwrap())
}

/// Makes the data look as if an earlier version had made it.
fn seem_upgraded(data: &Path) {
    let database = rusqlite::Connection::open(data.join("meta.sqlite")).unwrap();
    database.execute("INSERT INTO settings (name, value) VALUES ('upgraded', '')", []).unwrap();
}

#[test]
fn an_address_that_other_machines_reach_needs_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let open = ["--listen", "0.0.0.0:0"];
    let said = refusal(&data, &open);
    assert!(
        said.contains("--behind-proxy") && said.contains("--insecure-http") && said.contains("0.0.0.0:0"),
        "{said}"
    );
    assert!(!data.exists(), "nothing is made");
    for word in ["--insecure-http", "--behind-proxy"] {
        let (child, log) = begin(&data, &[&open[..], &[word]].concat());
        assert!(!log.contains("plain HTTP"), "{log}");
        end(child);
        refusal(&data, &open);
    }
    let (child, log) = begin(&data, &["--listen", "127.0.0.2:0"]);
    assert!(!log.contains("plain HTTP"), "{log}");
    end(child);
}

#[test]
fn a_server_that_listened_in_the_open_before_its_upgrade_goes_on_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    end(begin(&data, &["--listen", "127.0.0.1:0"]).0);
    seem_upgraded(&data);
    for listen in ["0.0.0.0:0", "127.0.0.1:0", "0.0.0.0:0"] {
        let (child, log) = begin(&data, &["--listen", listen]);
        assert_eq!(log.contains("plain HTTP"), listen == "0.0.0.0:0", "{log}");
        end(child);
    }
    let other = directory.path().join("other");
    end(begin(&other, &["--listen", "127.0.0.1:0"]).0);
    seem_upgraded(&other);
    end(begin(&other, &["--listen", "127.0.0.1:0"]).0);
    assert!(refusal(&other, &["--listen", "0.0.0.0:0"]).contains("plain HTTP"), "it did not listen there before");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let (data, local) = (directory.path().join("data"), ["--listen", "127.0.0.1:0"]);
    let mode = |mode| std::fs::set_permissions(&data, std::fs::Permissions::from_mode(mode)).unwrap();
    std::fs::create_dir(&data).unwrap();
    mode(0o770);
    assert!(refusal(&data, &local).contains("chmod go-w"));
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0, "nothing is made");
    mode(0o755);
    end(begin(&data, &local).0);
    mode(0o777);
    assert!(refusal(&data, &local).contains("others may write"), "also one that is in use");
    seem_upgraded(&data);
    for _ in 0..2 {
        let (child, log) = begin(&data, &local);
        assert!(log.contains("others may write"), "what was so before the upgrade goes on: {log}");
        end(child);
    }
}

#[test]
fn no_planted_symlink_is_followed() {
    let directory = tempfile::tempdir().unwrap();
    let outside = directory.path().join("outside");
    for (name, starts) in [("admin.new", true), ("admin.token", true), ("server.lock", false), ("meta.sqlite", false)] {
        let data = directory.path().join(name.replace('.', "-"));
        std::fs::create_dir(&data).unwrap();
        std::os::unix::fs::symlink(&outside, data.join(name)).unwrap();
        if starts {
            end(begin(&data, &["--listen", "127.0.0.1:0"]).0);
            assert!(data.join("admin.token").symlink_metadata().unwrap().is_file());
        } else {
            assert!(refusal(&data, &["--listen", "127.0.0.1:0"]).contains(name));
        }
        assert!(outside.symlink_metadata().is_err(), "{name}");
    }
}

pub fn run(data: &Path, arguments: &[&str]) -> Output {
    binary().args(arguments).arg("--data").arg(data).output().unwrap()
}

pub fn stdout(output: &Output) -> &str {
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
    #[cfg(target_os = "linux")]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// As a power cut ends it, but for the disk.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn terminate(mut self) -> std::process::ExitStatus {
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
    // A port alone is one of this machine's.
    let port = taken.rsplit_once(':').unwrap().1;
    let output = binary().arg("--data").arg(&other).args(["--listen", port]).output().unwrap();
    assert!(failure(&output).contains(&format!("cannot listen on 127.0.0.1:{port}")));
    let output = binary().arg("--data").arg(&other).args(["--listen", "nonsense"]).output().unwrap();
    assert!(failure(&output).contains("nonsense"));
    assert!(!other.exists(), "nothing is made where nothing can be served");
    std::fs::write(directory.path().join("file"), "").unwrap();
    let output = binary().arg("--data").arg(directory.path().join("file/x")).output().unwrap();
    assert!(failure(&output).contains("data directory"));
    assert!(failure(&run(&directory.path().join("nowhere"), &["token", "list"])).contains("holds no server's data"));
    let bare = binary().output().unwrap();
    assert!(!bare.status.success() && String::from_utf8_lossy(&bare.stderr).contains("--data"));
    assert!(!directory.path().join("nowhere").exists(), "a question makes nothing");
}

#[cfg(target_os = "linux")]
#[test]
fn a_command_of_a_user_who_may_not_look_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    drop(start(&data));
    // Changing to another user needs root. The program is where others may not be able to reach it.
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]);
    let program = directory.path().join("syncmount-server");
    std::fs::copy(env!("CARGO_BIN_EXE_syncmount-server"), &program).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(directory.path(), open).unwrap();
    let output = command.arg(&program).args(["token", "list", "--data"]).arg(&data).output().unwrap();
    let said = failure(&output);
    assert!(said.contains("you may not look into") && said.contains("as the user of the server"), "{said}");
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

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let (path, target) = (entry.as_ref().unwrap().path(), to.join(entry.unwrap().file_name()));
        if path.is_dir() { copy(&path, &target) } else { std::fs::copy(&path, &target).map(drop).unwrap() }
    }
}

async fn make(client: &Client, name: &str) -> Cursor {
    client.commit(vec![mkdir(id(), ROOT, name)]).await;
    client.page(None, "").await.cursor
}

#[tokio::test]
async fn a_restored_backup_is_recognised() {
    let directory = tempfile::tempdir().unwrap();
    let (data, backup) = (directory.path().join("data"), directory.path().join("backup"));
    let process = start(&data);
    let known = make(&process.client, "a").await;
    assert!(process.terminate().success());
    copy(&data, &backup);
    let process = start(&data);
    let lost = make(&process.client, "b").await;
    assert!(process.terminate().success());
    // Further steps: how many commits the restored server has made when the client from the lost future comes.
    for further in 0..4 {
        std::fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
        let process = start(&data);
        process.client.page(Some(known), "").await;
        for index in 0..further {
            make(&process.client, &format!("c{index}")).await;
        }
        refused(process.client.changes(Some(lost), ""), 410, ErrorCode::Resync).await;
        let now = process.client.folder().await.cursor;
        assert_ne!(now.epoch, known.epoch, "{further}");
        refused(process.client.changes(Some(lost), ""), 410, ErrorCode::Resync).await;
        refused(process.client.changes(Some(known), ""), 410, ErrorCode::Resync).await;
        assert_eq!(process.client.folder().await.cursor, now, "the epoch changes once");
        assert!(process.terminate().success());
    }
    assert!(stdout(&run(&data, &["restored"])).contains("new history"));
    let process = start(&data);
    let epoch = process.client.folder().await.cursor.epoch;
    assert_ne!(epoch, known.epoch);
    stdout(&run(&data, &["restored"]));
    assert_ne!(process.client.folder().await.cursor.epoch, epoch, "beside a running server too");
}

#[tokio::test]
async fn the_past_is_listed_and_undone_beside_a_running_server() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    make(&process.client, "a").await;
    make(&process.client, "b").await;
    let history = run(&data, &["history", "--folder", F]);
    let lines: Vec<_> = stdout(&history).lines().collect();
    assert!(lines[0].starts_with("2..2\t20") && lines[0].ends_with("Z\tlaptop\t+1 ~0 -0"), "{lines:?}");
    assert_eq!((lines.len(), stdout(&run(&data, &["history", "--limit", "1"])).lines().count()), (2, 1));
    let dry = run(&data, &["undo", "--to", "1", "--dry-run"]);
    assert_eq!(stdout(&dry), "0 entries would be back, 0 changed, 1 removed");
    assert_eq!(process.client.folder().await.nodes, 2);
    stdout(&run(&data, &["undo", "--to", "1"]));
    assert_eq!(process.client.folder().await.nodes, 1);
    assert!(failure(&run(&data, &["undo", "--to", "7"])).contains("from 0 to 3"));
    assert!(failure(&run(&data, &["history", "--folder", "none"])).contains("no folder `none`"));
}

#[tokio::test]
async fn what_commands_do_beside_a_running_server_reaches_held_polls() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let cursor = make(&process.client, "a").await;
    let laptop = stdout(&run(&data, &["token", "add", "laptop"])).to_owned();
    let laptop = Client { token: laptop, ..process.client.clone() };
    let revoked =
        tokio::spawn(
            async move { refused(laptop.changes(Some(cursor), "wait=50"), 401, ErrorCode::Unauthorized).await },
        );
    let client = process.client.clone();
    let held = tokio::spawn(async move { client.page(Some(cursor), "wait=50").await });
    process.client.page(Some(cursor), "wait=1").await;
    let begin = Instant::now();
    stdout(&run(&data, &["token", "revoke", "laptop"]));
    revoked.await.unwrap();
    assert!(!held.is_finished(), "a poll of another token stays");
    stdout(&run(&data, &["undo", "--to", "0"]));
    assert!(held.await.unwrap().nodes[0].deleted);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn holds_are_decided_on_the_command_line() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start_with(&data, &["--hold-removes", "1", "--hold-part", "0.25"]);
    let files: Vec<_> = (0..4).map(|_| id()).collect();
    process
        .client
        .commit(files.iter().zip(["a", "b", "c", "d"]).map(|(file, name)| mkdir(*file, ROOT, name)).collect())
        .await;
    let mut commit = process.client.request((1..3).map(|rev| remove(files[rev as usize - 1], rev)).collect()).await;
    (commit.device.id, commit.device.name) = (syncmount_common::DeviceId::from_bytes([9; 16]), "old phone".to_owned());
    let path = format!("/v1/folders/{F}/commit");
    refused(process.client.post(&path, &commit), 423, ErrorCode::Held).await;
    let list = run(&data, &["holds", "list"]);
    assert!(
        stdout(&list).starts_with("old phone\t") && stdout(&list).ends_with("removes 2 of 4\ttoken:admin"),
        "{}",
        stdout(&list)
    );
    let denied = run(&data, &["holds", "deny", "old phone"]);
    assert!(
        stdout(&denied).contains("\tdenied\t") && stdout(&denied).contains("0 entries that it had removed are back"),
        "{}",
        stdout(&denied)
    );
    assert!(failure(&run(&data, &["holds", "allow", "tablet"])).contains("tablet"));
    assert!(stdout(&run(&data, &["holds", "allow", "old phone", "--folder", F])).contains("\tallowed until 20"));
    good::<Committed>(process.client.post(&path, &commit).send().await.unwrap()).await;
    let off = directory.path().join("off");
    assert!(failure_of_usage(&off, &["--hold-part", "2"]).contains("from 0 to 1"));
}

fn failure_of_usage(data: &Path, arguments: &[&str]) -> String {
    let output = run(data, arguments);
    assert_eq!(output.status.code(), Some(2));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_check_needs_the_server_stopped_and_tells_by_its_exit_code() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let process = start(&data);
    let url = format!("/v1/folders/{F}/files/docs/noise");
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let body: Vec<u8> = (0..2_000_000).map(next).collect();
    process.client.ask(reqwest::Method::PUT, &url).body(body).send().await.unwrap().error_for_status().unwrap();
    assert!(failure(&run(&data, &["check"])).contains("stop it first"));
    assert!(process.terminate().success());
    assert!(stdout(&run(&data, &["check"])).starts_with("all is well"));
    rusqlite::Connection::open(data.join("meta.sqlite")).unwrap().execute("DELETE FROM chunks", []).unwrap();
    let damaged = run(&data, &["check"]);
    let text = String::from_utf8(damaged.stdout).unwrap();
    assert_eq!(damaged.status.code(), Some(1), "{text}");
    assert!(text.starts_with("default:/docs/noise: ") && text.contains("--repair"), "{text}");
    assert!(stdout(&run(&data, &["check", "--repair"])).starts_with("all is well now"));
    assert!(stdout(&run(&data, &["check"])).starts_with("all is well"));
    assert!(failure(&run(&directory.path().join("none"), &["check"])).contains("holds no server's data"));
}
