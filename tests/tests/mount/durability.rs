//! What it means that `close` and `fsync` have returned.

use std::fs::{self, File};
use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

/// What curl reads of a file of the folder, from the server.
fn at_server(world: &World, name: &str) -> String {
    let (url, token) = {
        let server = world.server();
        (server.url(), fs::read_to_string(server.token_file()).unwrap())
    };
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--header", &format!("Authorization: Bearer {}", token.trim())]);
    run(curl.arg(format!("{url}/v1/folders/default/files/{name}"))).good().to_owned()
}

#[test]
fn with_durability_server_a_closed_file_is_at_the_server() {
    let world = World::new();
    let a = world.mount_with("A", &["--durability", "server"]);
    for round in 0..20 {
        let text = format!("round {round}");
        fs::write(a.path("file"), &text).unwrap();
        assert_eq!(at_server(&world, "file"), text, "asked for right after close");
        let mut file = File::options().append(true).open(a.path("file")).unwrap();
        file.write_all(b", synced").unwrap();
        file.sync_all().unwrap();
        assert_eq!(at_server(&world, "file"), format!("{text}, synced"), "asked for right after fsync");
    }
    // Nothing but the server has it now.
    a.kill();
    fs::remove_dir_all(a.home.join(".cache")).ok();
    fs::remove_dir_all(a.home.join(".data")).ok();
    fs::remove_dir_all(a.home.join(".state")).ok();
    assert_eq!(at_server(&world, "file"), "round 19, synced");
}

#[test]
fn with_durability_server_who_waits_for_a_lost_server_is_told_and_the_bytes_are_sent_later() {
    let world = World::new();
    let (a, b) = (world.mount_with("A", &["--durability", "server"]), world.mount("B"));
    let mut file = File::create(a.path("file")).unwrap();
    world.while_offline(|| {
        file.write_all(b"written while the server was away").unwrap();
        let begin = Instant::now();
        let error = file.sync_all().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ETIMEDOUT), "{error}");
        assert!((40..70).contains(&begin.elapsed().as_secs()), "{:?}", begin.elapsed());
        // Who has waited in vain does not wait again.
        let begin = Instant::now();
        assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::ETIMEDOUT));
        drop(file);
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    });
    a.wait_synced();
    until("the file at B", || match fs::read_to_string(b.path("file")) {
        Ok(text) if text == "written while the server was away" => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn without_it_a_closed_file_does_not_wait_for_the_server() {
    let world = World::new();
    let a = world.mount("A");
    world.while_offline(|| {
        let begin = Instant::now();
        let mut file = File::create(a.path("file")).unwrap();
        file.write_all(b"here").unwrap();
        file.sync_all().unwrap();
        drop(file);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    });
    a.wait_synced();
    assert_eq!(at_server(&world, "file"), "here");
}
