//! `kill -9`, of the client and of the server: nothing that was closed is lost, and nobody who writes notices.

use rand::RngExt;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use syncmount_tests::support::*;

/// A tree to copy, outside of the mounts.
fn source(world: &World, dice: &mut Dice, files: usize) -> PathBuf {
    let source = world.path("source");
    fs::create_dir(&source).unwrap();
    random_tree(dice, &source, files).unwrap();
    source
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).good();
}

#[test]
fn what_cp_has_copied_arrives_although_the_client_is_killed_at_once() {
    let mut dice = Dice::new("what_cp_has_copied_arrives_although_the_client");
    let world = World::new();
    let source = source(&world, &mut dice, 300);
    let (a, b) = (world.mount("A"), world.mount("B"));
    copy(&source, &a.folder);
    a.kill();
    let refused = fs::read_dir(&a.folder).map(|_| ()).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::ENOTCONN), "a dead mount shows nothing, rather than an empty folder");
    a.mount();
    assert_equal(&source, &a.folder, DirTimes::Compared);
    a.wait_synced();
    assert_become_equal(&source, &b.folder, DirTimes::Compared);
    assert_eq!(a.status().problems, []);
}

#[test]
fn what_cp_has_copied_without_a_server_arrives_although_the_client_is_killed_at_once() {
    let mut dice = Dice::new("what_cp_has_copied_without_a_server");
    let world = World::new();
    let source = source(&world, &mut dice, 300);
    let (a, b) = (world.mount("A"), world.mount("B"));
    world.while_offline(|| {
        copy(&source, &a.folder);
        a.kill();
        a.mount();
        assert_equal(&source, &a.folder, DirTimes::Compared);
        assert!(!a.status().connected && a.status().pending_files > 100, "{:?}", a.status());
        a.kill();
    });
    a.mount();
    a.wait_synced();
    assert_become_equal(&source, &b.folder, DirTimes::Compared);
    assert_equal(&source, &a.folder, DirTimes::Compared);
    assert_eq!(a.status().problems, []);
}

#[test]
fn edits_survive_a_client_that_is_killed_again_and_again() {
    let mut dice = Dice::new("edits_survive_a_client");
    let world = World::new();
    let mirror = source(&world, &mut dice, 80);
    let (a, b) = (world.mount("A"), world.mount("B"));
    copy(&mirror, &a.folder);
    for round in 0..5 {
        let twin = Twin { mount: &a.folder, mirror: &mirror };
        random_edits(&mut dice, &twin, &format!("t{round}"), 25);
        a.kill();
        a.mount();
        assert_equal(&mirror, &a.folder, DirTimes::Ignored);
    }
    a.wait_synced();
    assert_become_equal(&mirror, &b.folder, DirTimes::Ignored);
    assert_eq!(a.status().problems, []);
}

#[test]
fn a_writer_sees_no_error_while_the_server_is_killed_again_and_again() {
    let mut dice = Dice::new("a_writer_sees_no_error");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let source = source(&world, &mut dice, 300);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| copy(&source, &a.folder));
        for _ in 0..8 {
            std::thread::sleep(Duration::from_millis(dice.random_range(50..400)));
            world.server().kill();
            std::thread::sleep(Duration::from_millis(dice.random_range(0..300)));
            world.server().start();
        }
        writer.join().unwrap();
    });
    a.wait_synced();
    assert_become_equal(&source, &b.folder, DirTimes::Compared);
    assert_equal(&source, &a.folder, DirTimes::Compared);
    for device in [&a, &b] {
        assert_eq!(device.status().problems, []);
    }
}

#[test]
fn a_file_that_was_being_cut_when_the_client_was_killed_is_still_there() {
    let world = World::new();
    let a = world.mount("A");
    world.while_offline(|| {
        fs::write(a.path("file"), "closed and not sent yet").unwrap();
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(a.path("file")).unwrap();
        std::io::Write::write_all(&mut file, b"short").unwrap();
        a.kill();
        drop(file);
        a.mount();
        assert_eq!(fs::read(a.path("file")).unwrap(), b"short");
        assert_eq!(a.status().problems, []);
        a.kill();
    });
    a.mount();
    a.wait_synced();
}

#[test]
fn what_is_written_to_a_file_that_stays_open_survives_a_client_that_is_killed_a_second_later() {
    let mut dice = Dice::new("what_is_written_to_a_file_that_stays_open");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut expected = bytes(&mut dice, 3 << 20);
    fs::write(a.path("table"), &expected).unwrap();
    fs::write(a.path("log"), "begin\n").unwrap();
    a.wait_synced();
    let mut file = File::options().write(true).open(a.path("table")).unwrap();
    file.seek(SeekFrom::Start(1 << 20)).unwrap();
    let mut writer = Writer::begin(file);
    let mut log = Writer::begin(File::options().append(true).open(a.path("log")).unwrap());
    // Never quiet for so long that it would be sent.
    for part in 0..6 {
        let (begin, piece) = ((1 << 20) + part * 4096, bytes(&mut dice, 4096));
        writer.write(&piece);
        expected[begin..begin + 4096].copy_from_slice(&piece);
        std::thread::sleep(Duration::from_millis(400));
    }
    // What the last second has brought may be lost.
    writer.write(b"unproven");
    log.write(b"one line\n");
    until("the line", || match fs::metadata(a.path("log")).map(|found| found.len()) {
        Ok(15) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for pid in a.processes() {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    a.await_end();
    drop((writer, log));
    a.mount();
    assert_eq!(fs::read_to_string(a.path("log")).unwrap(), "begin\none line\n");
    let sure = (1 << 20) + 3 * 4096;
    let found = fs::read(a.path("table")).unwrap();
    let differs = found.iter().zip(&expected).position(|(found, expected)| found != expected);
    assert_eq!(found.len(), expected.len());
    assert!(differs.is_none_or(|at| at >= sure), "differs from {differs:?} on; up to {sure} it must not");
    let end = (1 << 20) + 6 * 4096 + 8;
    assert!(found[end..] == expected[end..]);
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(a.status().problems, []);
}
