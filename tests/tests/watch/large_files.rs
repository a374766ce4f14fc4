//! Files that are large, or written while they are read.

use std::fs::{self, OpenOptions};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

#[test]
fn a_large_file_arrives_whole_and_its_bytes_are_not_kept_twice() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let content = bytes(&mut Dice::new("a_large_file_arrives_whole"), 100_000_000);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for device in [&a, &b] {
        assert!(device.status().cache_used < 1_000_000, "{}", device.name);
        let du = run(std::process::Command::new("du").arg("-sm").arg(device.home.join(".data")));
        let used: u64 = du.good().split_whitespace().next().unwrap().parse().unwrap();
        assert!(used < 30, "{used} MB of state");
    }
}

#[test]
fn what_a_device_has_in_another_file_does_not_come_over_the_wire() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let content = bytes(&mut Dice::new("what_a_device_has_in_another_file"), 20_000_000);
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/report"), &content).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let before = b.status().bytes_received;
    assert!(before > 20_000_000, "{before}");

    fs::copy(a.path("dir/report"), a.path("copy")).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let after_copy = b.status().bytes_received;
    assert!(after_copy - before < 100_000, "{} bytes for a copy", after_copy - before);

    // As programs save: the new version is written beside the old one, and both are there for a while.
    fs::write(a.path("dir/report.new"), [b"x", content.as_slice()].concat()).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::rename(a.path("dir/report.new"), a.path("dir/report")).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let after_save = b.status().bytes_received;
    assert!(after_save - after_copy < 2_000_000, "{} bytes for one byte more", after_save - after_copy);
    assert_eq!(fs::read(b.path("dir/report")).unwrap().len(), content.len() + 1);
}

#[test]
fn of_a_new_version_comes_the_difference_to_the_file_that_is_there() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    // What comes depends on where chunks are cut, so the bytes are the same each time.
    let mut dice = Dice::fixed(1);
    let content = bytes(&mut dice, 40_000_000);
    fs::write(a.path("file"), &content).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for at in [20_000_000, 0, 39_990_000] {
        let before = b.status().bytes_received;
        let change = bytes(&mut dice, 4096);
        let mut file = OpenOptions::new().write(true).open(a.path("file")).unwrap();
        file.seek(SeekFrom::Start(at)).unwrap();
        file.write_all(&change).unwrap();
        drop(file);
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        let received = b.status().bytes_received - before;
        assert!((4096..32_000).contains(&received), "{received} bytes came for 4 KiB at {at}");
    }
}

#[test]
fn a_file_that_is_written_all_the_time_is_never_sent_mixed() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let begin = Instant::now();
    let mut round = 0_u8;
    // Whole rewrites in place: each version is one byte, repeated.
    while begin.elapsed() < Duration::from_secs(6) {
        round = round.wrapping_add(1);
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(a.path("file")).unwrap();
        file.write_all(&vec![round; 3_000_000]).unwrap();
        drop(file);
        std::thread::sleep(Duration::from_millis(150));
        if let Ok(found) = fs::read(b.path("file")) {
            assert!(found.iter().all(|byte| *byte == found[0]), "a mixed version");
        }
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&b.folder).unwrap().len(), 1, "and no conflict");
}
