//! Programs save in many ways. Each ends as one file with the new bytes, and never as a conflict.

use std::fs;
use std::path::Path;
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
