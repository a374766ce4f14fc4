//! Programs save in many ways. Each ends as one file with the new bytes, and never as a conflict.

use rand::RngExt as _;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;
use syncmount_tests::support::*;

fn vim(path: &Path, content: &str) {
    let backup = path.with_file_name("file.txt~");
    fs::rename(path, &backup).unwrap();
    fs::write(path, content).unwrap();
    fs::remove_file(backup).unwrap();
}

fn rename_over(path: &Path, content: &str) {
    let fresh = path.with_file_name("file.txt.new");
    fs::write(&fresh, content).unwrap();
    fs::rename(fresh, path).unwrap();
}

fn remove_first(path: &Path, content: &str) {
    fs::remove_file(path).unwrap();
    fs::write(path, content).unwrap();
}

fn in_place(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
}

fn word(path: &Path, content: &str) {
    let (fresh, old) = (path.with_file_name("~WRD0001.tmp"), path.with_file_name("~WRL0002.tmp"));
    fs::write(&fresh, content).unwrap();
    fs::rename(path, &old).unwrap();
    fs::rename(fresh, path).unwrap();
    fs::remove_file(old).unwrap();
}

#[test]
fn a_file_that_is_saved_is_one_file_however_it_is_saved() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::write(a.path("file.txt"), "begin").unwrap();
    a.wait_synced();
    for round in 0..3 {
        for (name, save) in [
            ("vim", vim as fn(&Path, &str)),
            ("over", rename_over),
            ("remove", remove_first),
            ("in", in_place),
            ("word", word),
        ] {
            let device = if round % 2 == 0 { &a } else { &b };
            until("the last save at both", || {
                let at = |device: &Device| fs::read(device.path("file.txt")).map_err(|error| error.to_string());
                if at(&a)? == at(&b)? { Ok(()) } else { Err("they differ".into()) }
            });
            let content = format!("{name} {round}");
            save(&device.path("file.txt"), &content);
            device.wait_synced();
            for device in [&a, &b] {
                until(&content, || match fs::read_to_string(device.path("file.txt")) {
                    Ok(found) if found == content => Ok(()),
                    found => Err(format!("{} has {found:?}", device.name)),
                });
            }
        }
    }
    for device in [&a, &b] {
        device.wait_synced();
        let names = Tree::read_names(&device.folder).unwrap();
        assert_eq!(names.paths(), [Path::new("file.txt")], "{}", device.name);
        assert_eq!(device.status().problems, []);
    }
}

#[test]
fn a_file_that_is_written_after_its_rename_gives_its_name_up_at_once() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    for name in ["log", "next"] {
        fs::write(a.path(name), name).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::rename(a.path("log"), a.path("log.1")).unwrap();
    fs::rename(a.path("next"), a.path("log")).unwrap();
    // It does not come to rest while the other file, which is at rest, has its name already.
    let mut open = OpenOptions::new().append(true).open(a.path("log.1")).unwrap();
    for _ in 0..60 {
        open.write_all(b"more").unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(open);
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(b.path("log")).unwrap(), "next");
    assert_eq!(fs::read_to_string(b.path("log.1")).unwrap(), format!("log{}", "more".repeat(60)));
    assert_eq!(Tree::read_names(&b.folder).unwrap().len(), 2, "and nothing else");
}

/// Encrypted containers, and whatever puts the old time back after a write.
#[test]
fn an_edit_in_place_that_keeps_size_and_time_is_sent() {
    let mut dice = Dice::new("an_edit_in_place_that_keeps_size_and_time");
    let world = World::new();
    let (a, b) = (world.watch("A"), world.mount("B"));
    let mut content = bytes(&mut dice, 3 << 20);
    fs::write(a.path("container"), &content).unwrap();
    a.wait_synced();
    let mtime = fs::metadata(a.path("container")).unwrap().modified().unwrap();
    for round in 0..4 {
        let at = dice.random_range(0..content.len() - 100);
        content[at..at + 100].fill(round);
        // The last two while it is not watched.
        if round >= 2 {
            a.stop();
        }
        let file = File::options().write(true).open(a.path("container")).unwrap();
        file.write_all_at(&content[at..at + 100], at as u64).unwrap();
        file.set_modified(mtime).unwrap();
        drop(file);
        if round >= 2 {
            a.mount();
        }
        until("the edit is there", || match fs::read(b.path("container")) {
            Ok(found) if found == content => Ok(()),
            _ => Err(format!("round {round}")),
        });
    }
    assert_eq!(fs::metadata(b.path("container")).unwrap().modified().unwrap(), mtime);
    // What only looks like that sends nothing.
    a.wait_synced();
    let sent = a.status().bytes_sent;
    fs::hard_link(a.path("container"), world.path("link")).unwrap();
    let file = File::options().write(true).open(a.path("container")).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    std::thread::sleep(Duration::from_secs(3));
    a.wait_synced();
    let more = a.status().bytes_sent - sent;
    assert!(more < 64 << 10, "{more} bytes were sent of a file that is as it was");
}

/// A folder has a file of its own for each name of a file on the disk, and the system tells only of the name that was used.
#[test]
fn a_change_through_one_name_of_a_file_is_seen_at_the_others() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("one"), "first").unwrap();
    for name in ["two", "dir/three"] {
        fs::hard_link(a.path("one"), a.path(name)).unwrap();
    }
    a.wait_synced();
    let names = ["one", "two", "dir/three"];
    for (round, name) in names.into_iter().chain(["two"]).enumerate() {
        if round == 3 {
            // The last two names of it are still one file.
            fs::remove_file(a.path("one")).unwrap();
        }
        let text = format!("written through {name} in round {round}");
        fs::write(a.path(name), &text).unwrap();
        let there = names.into_iter().skip(usize::from(round == 3));
        until("all names have it", || {
            match there.clone().find(|name| fs::read_to_string(b.path(name)).ok().as_ref() != Some(&text)) {
                None => Ok(()),
                Some(name) => Err(name.to_owned()),
            }
        });
    }
}
