//! Programs save in many ways. Each ends as one file with the new bytes, and never as a conflict.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
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
