//! The commands beside mounting, and the foreground.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::process::Stdio;
use std::time::Duration;
use syncmount::status::{Phase, Status};
use syncmount_tests::support::*;

#[test]
fn what_is_not_mounted_is_said_to_be_so() {
    let world = World::new();
    let device = world.device("A");
    for command in ["status", "wait", "umount"] {
        let said = device.ask(command, &[]);
        assert!(said.refusal().contains("is not mounted"), "{said:?}");
        assert!(
            device.syncmount(&[command.as_ref(), world.path("none").as_os_str()]).refusal().contains("does not exist")
        );
    }
    let none: Vec<Status> = serde_json::from_str(device.syncmount(&["status", "--json"]).good()).unwrap();
    assert_eq!(none, []);
    for words in
        [vec!["--server", "http://h"], vec!["status", "--no-such"], vec!["umount"], vec!["x", "--cache-size", "lots"]]
    {
        assert_eq!(device.syncmount(&words).code, Some(2), "{words:?}");
    }
    assert!(device.syncmount(&["--version"]).good().starts_with("syncmount "));
    assert!(device.syncmount(&["--help"]).good().contains("--cache-size"));
}

#[test]
fn a_status_says_what_there_is() {
    let world = World::new();
    let device = world.mount_with("A", &["--cache-size", "64M"]);
    let status = device.status();
    assert_eq!(status.mountpoint, device.folder.canonicalize().unwrap().to_str().unwrap());
    assert_eq!(status.server.trim_end_matches('/'), world.server().url());
    assert_eq!((status.folder.as_str(), status.phase, status.cache_limit), ("default", Phase::Live, 64 << 20));
    assert!(fs::metadata(format!("/proc/{}", status.pid)).is_ok());
    until("a connection", || if device.status().connected { Ok(()) } else { Err("none".into()) });
    let all: Vec<Status> = serde_json::from_str(device.syncmount(&["status", "--json"]).good()).unwrap();
    assert_eq!(all.iter().map(|one| one.pid).collect::<Vec<_>>(), [status.pid]);
    for said in [device.ask("status", &[]), device.syncmount(&["status"])] {
        assert!(said.good().contains(&status.mountpoint), "{said:?}");
    }
    // A path inside of the mount means the mount.
    fs::create_dir(device.path("dir")).unwrap();
    device.syncmount(&["status".as_ref(), device.path("dir").as_os_str()]).good();

    world.while_offline(|| {
        until("the end of the connection", || if device.status().connected { Err("still".into()) } else { Ok(()) });
        fs::write(device.path("file"), vec![7; 100_000]).unwrap();
        let status = device.status();
        assert_eq!((status.pending_files, status.pending_bytes), (1, 100_000));
        assert!(status.last_error.is_some());
        for said in [device.ask("status", &[]), device.syncmount(&["status"])] {
            assert!(said.code == Some(1) && said.stdout.contains("1 file"), "{said:?}");
            assert!(said.stderr.contains("is not connected to"), "{said:?}");
        }
    });
    device.wait_synced();
    let status = device.status();
    assert_eq!((status.pending_files, status.pending_bytes, status.pending_nodes), (0, 0, 0));
}

#[test]
fn umount_sends_first_and_says_what_is_left_when_time_runs_out() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    world.while_offline(|| {
        fs::write(a.path("file"), "pending").unwrap();
        let said = a.ask("wait", &["--timeout", "1s"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("the time ran out; left: 1 file"), "{said:?}");
        let said = a.ask("umount", &["--timeout", "1s"]);
        assert_eq!(said.code, Some(1));
        assert!(said.stderr.contains("still mounted") && said.stderr.contains("1 file"), "{said:?}");
        assert_eq!(a.status().phase, Phase::Live);
        assert_eq!(fs::read_to_string(a.path("file")).unwrap(), "pending");

        let said = a.ask("umount", &["--timeout", "1s", "--force"]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stderr.contains("left: 1 file"), "{said:?}");
        assert!(!a.is_mounted() && a.processes().is_empty());
    });
    a.mount();
    a.ask("umount", &[]).good();
    assert!(!a.is_mounted() && a.processes().is_empty());
    until("the file at B", || fs::read_to_string(b.path("file")).map_err(|error| error.to_string()));
}

#[test]
fn each_success_is_one_line_and_an_end_in_order_is_nothing_to_warn_of() {
    let world = World::new();
    for (device, is_watched) in [(world.device("A"), false), (world.device("B").watched(), true)] {
        let said = device.try_mount();
        let one_line = |said: &Said, what: &str| {
            assert!(said.code == Some(0) && said.stderr.is_empty(), "{said:?}");
            assert!(said.stdout.lines().count() == 1 && said.stdout.contains(what), "{said:?}");
        };
        one_line(&said, "; log: ");
        let log = device.status().log.expect("it has a log");
        assert!(said.stdout.trim_end().ends_with(&log) && fs::metadata(&log).is_ok(), "{said:?}");
        let status = device.ask("status", &[]).stdout;
        assert!(status.contains(&format!("log        {log}")), "{status}");
        for number in 0..40 {
            fs::write(device.path(format!("f{number}")), [1; 70_000]).unwrap();
        }
        one_line(&device.ask("wait", &[]), ": the server has everything");
        if !is_watched {
            one_line(&run(device.program().arg("pin").arg(device.path("f1"))), "f1: pinned");
            one_line(&run(device.program().arg("unpin").arg(device.path("f1"))), "f1: not pinned any more");
        }
        one_line(&device.ask("umount", &[]), ": ended; the server has everything");
        let log = fs::read_to_string(&log).unwrap();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        device.mount();
        device.ask("umount", &[]).good();
        let log = device.log_tail();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
    }
}

#[test]
fn what_is_left_to_send_of_a_large_file_shrinks_while_it_is_sent() {
    const SIZE: u64 = 48 << 20;
    let mut dice = Dice::new("what_is_left_to_send_of_a_large_file");
    let world = World::new();
    let (liar, device) = world.device_behind_liar("A");
    device.mount();
    device.wait_synced();
    liar.lie(|asked, _| {
        if asked.is_framed {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    fs::write(device.path("large"), bytes(&mut dice, SIZE as usize)).unwrap();
    let mut seen = Vec::new();
    until("the end", || {
        let status = device.status();
        if status.pending_files == 1 {
            seen.push(status.pending_bytes);
        }
        if status.pending_files + status.pending_nodes == 0 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    seen.dedup();
    assert!(seen.iter().filter(|left| **left > 0 && **left < SIZE).count() > 2, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] > pair[1]), "it does not grow again: {seen:?}");
}

#[test]
fn an_undo_at_the_server_reaches_a_device_that_only_listens() {
    let world = World::new();
    let a = world.mount("A");
    fs::write(a.path("f1"), "one").unwrap();
    a.wait_synced();
    let history = world.server().command(&["history"]);
    let last = history.lines().next().unwrap().split_whitespace().next().unwrap().rsplit('.').next().unwrap();
    fs::remove_file(a.path("f1")).unwrap();
    a.wait_synced();
    // It holds a request at the server by now, and none would be made for most of a minute.
    until("a held request", || match (a.status().requests, std::thread::sleep(Duration::from_secs(1))) {
        (before, ()) if a.status().requests == before => Ok(()),
        (before, ()) => Err(before.to_string()),
    });
    let before = a.status().requests;
    assert_eq!(world.server().command(&["undo", "--to", last]), "1 entry is back, 0 changed, 0 removed");
    until("the file", || fs::read_to_string(a.path("f1")).map_err(|error| error.to_string()));
    assert!(a.status().requests - before < 5, "the answer to the request it held has told it");
}

#[test]
fn umount_does_not_pull_the_folder_away_from_who_uses_it() {
    let world = World::new();
    let device = world.mount("A");
    let open = fs::File::create(device.path("open")).unwrap();
    let said = device.ask("umount", &[]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("in use") || said.stderr.contains("busy"), "{said:?}");
    assert_eq!(device.status().phase, Phase::Live);
    drop(open);
    until("the unmount", || match device.ask("umount", &[]) {
        said if said.code == Some(0) => Ok(()),
        said => Err(said.stderr),
    });
    assert!(!device.is_mounted());
}

#[test]
fn a_mount_is_remembered() {
    let world = World::new();
    world.server().command(&["folder", "add", "photos"]);
    let device = world.mount_with("A", &["--folder", "photos", "--cache-size", "64M"]);
    fs::write(device.path("file"), "x").unwrap();
    device.ask("umount", &[]).good();
    let token = fs::read_to_string(world.server().token_file()).unwrap();
    let said = run(device.program().arg(&device.folder).env("SYNCMOUNT_TOKEN", token.trim()));
    assert_eq!(said.code, Some(0), "{said:?}");
    assert_eq!(device.status().folder, "photos");
    assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "x");
}

#[test]
fn the_foreground_ends_in_order_on_a_signal() {
    let world = World::new();
    let device = world.device("A");
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = device.program();
        command.arg("-f").args(device.mount_words()).stdin(Stdio::null()).stderr(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        until("the mount", || match device.ask("status", &["--json"]).code {
            Some(0) if device.is_mounted() => Ok(()),
            code => Err(format!("{code:?}")),
        });
        assert_eq!(device.status().pid, child.id(), "it stays in the foreground");
        fs::write(device.path("file"), "x").unwrap();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let status = until("its end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(status.code(), Some(0), "after {signal:?}");
        assert!(!device.is_mounted());
    }
    device.mount();
    assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "x");
}

#[test]
fn a_name_with_spaces_and_a_symlink_lead_to_the_same_mount() {
    let world = World::new();
    let device = world.device("An odd näme");
    device.mount();
    let link = world.path("link");
    std::os::unix::fs::symlink(&device.folder, &link).unwrap();
    let said = device.syncmount(&["status".as_ref(), link.as_os_str(), "--json".as_ref()]);
    let status: Status = serde_json::from_str(said.good()).unwrap();
    assert_eq!(status.pid, device.status().pid);
    device.syncmount(&["umount".as_ref(), link.as_os_str()]).good();
    assert!(!device.is_mounted());
}
