//! The command as people and scripts use it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::sync::atomic::{self, AtomicBool};
use std::time::Duration;
use syncmount_tests::support::*;

#[test]
fn once_sends_and_fetches_everything_and_ends() {
    let world = World::new();
    let (a, b) = (world.device("A").watched().with(&["--once"]), world.watch("B"));
    fs::create_dir(a.path("d")).unwrap();
    fs::write(a.path("d/from a"), vec![1; 500_000]).unwrap();
    fs::write(b.path("from b"), "b").unwrap();
    b.wait_synced();
    a.try_mount().good();
    assert!(a.processes().is_empty());
    assert_eq!(fs::read_to_string(a.path("from b")).unwrap(), "b");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    world.server().stop();
    fs::write(a.path("unsent"), "1").unwrap();
    let said = a.try_mount();
    assert!(said.refusal().contains("could be sent"), "{said:?}");
}

#[test]
fn once_ends_beside_a_log_that_is_written_all_the_time() {
    let world = World::new();
    let (a, b) = (world.device("A").watched().with(&["--once"]), world.watch("B"));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut log = OpenOptions::new().create(true).append(true).open(a.path("log")).unwrap();
            for line in 0..20_000 {
                if is_over.load(atomic::Ordering::Relaxed) {
                    return;
                }
                log.write_all(format!("line {line:06}\n").as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(3));
            }
        });
        until("the log", || fs::metadata(a.path("log")).map(drop).map_err(|error| error.to_string()));
        for round in 0..2 {
            fs::write(a.path(format!("file {round}")), vec![1; 500_000]).unwrap();
            let said = a.try_mount();
            let tells = |said: &Said| said.stderr.contains("the first is log: it is being written");
            assert!(said.code == Some(0) || tells(&said), "{said:?}");
            until("the file at the other side", || match fs::metadata(b.path(format!("file {round}"))) {
                Ok(found) if found.len() == 500_000 => Ok(()),
                found => Err(format!("{found:?}")),
            });
        }
        is_over.store(true, atomic::Ordering::Relaxed);
        writer.join().unwrap();
    });
    a.try_mount().good();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let log = fs::read_to_string(b.path("log")).unwrap();
    assert!(log.lines().enumerate().all(|(number, line)| line == format!("line {number:06}")));
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    for name in ["edit", "move", "remove"] {
        fs::write(a.path(name), name).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    a.stop();
    fs::write(a.path("edit"), "edited").unwrap();
    fs::rename(a.path("move"), a.path("moved")).unwrap();
    fs::remove_file(a.path("remove")).unwrap();
    fs::write(a.path("new"), "1").unwrap();
    fs::write(b.path("theirs"), "1").unwrap();
    b.wait_synced();
    let before = Tree::read(&a.folder, DirTimes::Compared).unwrap();
    let words = [a.mount_words(), vec!["--dry-run".into()]].concat();
    for _ in 0..2 {
        let said = a.syncmount(&words);
        let lines: Vec<&str> = said.good().lines().collect();
        let expected =
            ["remove remove elsewhere", "rename move to moved elsewhere", "send edit", "send new", "fetch theirs"];
        assert_eq!(lines, expected);
    }
    assert!(before == Tree::read(&a.folder, DirTimes::Compared).unwrap(), "nothing has changed here");
    let names = Tree::read_names(&b.folder).unwrap();
    assert_eq!(names.len(), 4, "nor there");
    a.mount();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn the_mode_chooses_and_is_remembered_by_nobody() {
    let world = World::new();
    let a = world.device("A").with(&["--mode", "watch"]);
    fs::write(a.path("file"), "was here before").unwrap();
    a.try_mount().good();
    assert!(!a.is_mounted());
    a.wait_synced();
    let said = a.ask("status", &[]);
    assert!(said.good().contains("watched"), "{said:?}");
    a.stop();
}

/// Of what the program itself has renamed last, it does not know when the system says that it was touched.
#[test]
fn verify_finds_what_was_changed_under_its_time() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::write(a.path("file"), "one").unwrap();
    set_mtime(&a.path("file"), 1_500_000_000, 0).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::rename(b.path("file"), b.path("moved")).unwrap();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    a.wait_synced();
    a.stop();
    fs::write(a.path("moved"), "two").unwrap();
    set_mtime(&a.path("moved"), 1_500_000_000, 0).unwrap();
    a.mount();
    a.wait_synced();
    assert_eq!(fs::read_to_string(b.path("moved")).unwrap(), "one", "it looks as ever");
    a.stop();
    let a = a.with(&["--verify"]);
    a.mount();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(b.path("moved")).unwrap(), "two");
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_is_confined_and_says_so() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.device("B").watched().with(&["--no-confinement"]));
    b.mount();
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/file"), vec![7; 300_000]).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::rename(b.path("dir/file"), b.path("moved")).unwrap();
    b.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for (device, filters, said) in [(&a, "2", "files, ports, system calls"), (&b, "0", "nothing")] {
        assert_eq!(device.status().confined, said);
        assert!(device.ask("status", &[]).good().contains(&format!("confined   {said}")));
        for pid in device.processes() {
            for task in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())).unwrap() {
                let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
                let line = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap();
                assert_eq!(line.trim(), filters);
            }
        }
    }
}
