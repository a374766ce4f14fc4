//! `kill -9`, of the client and of the server: nothing that was closed is lost, and nobody who writes notices.

use rand::RngExt;
use std::fs;
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
