//! `syncmount wait` for a watched folder: everything that was in it when somebody asked.

use std::fs;
use std::path::Path;
use std::process::Command;
use syncmount_tests::support::*;

/// Fails unless the server has a file with these bytes, now.
#[track_caller]
fn assert_at_server(world: &World, name: &str, content: &str) {
    let url = world.server().url();
    let token = world.server().token_file();
    let auth = format!("Authorization: Bearer {}", fs::read_to_string(token).unwrap().trim());
    let url = format!("{url}/v1/folders/default/files/{name}");
    let said = run(Command::new("curl").args(["-sS", "--fail", "-H", &auth, &url]));
    assert_eq!(said.good(), content, "{name}");
}

/// Writes into a folder and asks at once.
fn write_and_wait(world: &World, device: &Device, name: &str, content: &str) {
    let path = device.path(name);
    fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).unwrap();
    fs::write(path, content).unwrap();
    device.wait_synced();
    assert_at_server(world, name, content);
}

#[test]
fn what_was_written_a_moment_ago_is_waited_for_by_everybody_who_asks() {
    let world = World::new();
    let a = world.watch("A");
    for round in 0..10 {
        write_and_wait(&world, &a, &format!("file{round}"), "one");
        write_and_wait(&world, &a, "again", &format!("{round}"));
        write_and_wait(&world, &a, &format!("d{round}/e/f/file"), "deep");
    }
    // Whoever asks while others wait is not answered with what those have asked for.
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (world, a) = (&world, &a);
            scope.spawn(move || {
                for round in 0..12 {
                    write_and_wait(world, a, &format!("t{thread}/file{round}"), &format!("{thread} {round}"));
                }
            });
        }
    });
}

#[test]
fn what_cannot_be_done_hides_nothing_from_who_waits() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    write_and_wait(&world, &a, "d/shared", "1");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::write(b.path("d/~$local.docx"), "mine").unwrap();
    fs::remove_dir_all(a.path("d")).unwrap();
    until("it to be listed", || {
        let problems = b.status().problems;
        if problems.iter().any(|problem| problem.path == "d") { Ok(()) } else { Err(format!("{problems:?}")) }
    });
    for round in 0..10 {
        write_and_wait(&world, &b, &format!("file{round}"), "one");
    }
}

#[test]
fn who_does_not_wait_is_told_the_truth() {
    let world = World::new();
    let a = world.watch("A");
    let said = a.ask("umount", &["--timeout", "0s"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.stderr.contains("still watched") && said.stderr.contains("has not been seen yet"), "{said:?}");
    a.wait_synced();
    a.ask("umount", &[]).good();
}
