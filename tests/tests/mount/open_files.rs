//! Programs that have a file open while another device changes it.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use syncmount_tests::support::*;

fn two_with_file(text: &str) -> (World, Device, Device) {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("file"), text).unwrap();
    until("the file at B", || match fs::read_to_string(b.path("file")) {
        Ok(found) if found == text => Ok(()),
        other => Err(format!("{other:?}")),
    });
    (world, a, b)
}

fn read(file: &File) -> String {
    let mut bytes = vec![0; 100];
    let len = file.read_at(&mut bytes, 0).unwrap();
    String::from_utf8_lossy(&bytes[..len]).into_owned()
}

#[test]
fn who_reads_sees_the_new_bytes() {
    let (_world, a, b) = two_with_file("old text");
    let open = File::open(b.path("file")).unwrap();
    assert_eq!(read(&open), "old text");
    for text in ["new text", "a longer text than before", "short"] {
        fs::write(a.path("file"), text).unwrap();
        until("the new bytes in the open file", || match read(&open) {
            found if found == text => Ok(()),
            found => Err(found),
        });
    }
}

/// The texts of all files of the folder, in order, once it is the same on both devices.
fn texts(a: &Device, b: &Device) -> Vec<String> {
    for device in [b, a, b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let entries = fs::read_dir(&a.folder).unwrap();
    let mut texts: Vec<String> = entries.map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    texts.sort();
    texts
}

#[test]
fn who_writes_goes_on_with_its_own_bytes_and_both_versions_are_kept() {
    let (_world, a, b) = two_with_file("old text");
    let mut open = File::options().write(true).truncate(true).open(b.path("file")).unwrap();
    open.write_all(b"first half, ").unwrap();
    fs::write(a.path("file"), "from A").unwrap();
    until("the other version", || match fs::read_dir(&b.folder).unwrap().count() {
        1 => Err("one entry".into()),
        _ => Ok(()),
    });
    open.write_all(b"second half").unwrap();
    drop(open);
    let mut texts = texts(&a, &b);
    // A process that another test starts just now inherits the open file and closes it: then this was a version too.
    texts.retain(|text| text != "first half, ");
    assert_eq!(texts, ["first half, second half", "from A"]);
}

#[test]
fn who_goes_on_writing_after_its_bytes_were_sent_and_replaced_elsewhere_writes_beside() {
    let (_world, a, b) = two_with_file("old text");
    for (name, append) in [("file", false), ("log", true)] {
        fs::write(b.path(name), "").unwrap();
        let mut open = File::options().write(true).append(append).open(b.path(name)).unwrap();
        open.write_all(b"first half, ").unwrap();
        open.sync_all().unwrap();
        b.wait_synced();
        until("the first half at A", || match fs::read_to_string(a.path(name)) {
            Ok(text) if text == "first half, " => Ok(()),
            other => Err(format!("{other:?}")),
        });
        fs::write(a.path(name), "from A").unwrap();
        let read = || fs::read_to_string(b.path(name)).map_err(|error| error.to_string());
        until("A's version at B", || if read()? == "from A" { Ok(()) } else { Err(read()?) });
        open.write_all(b"second half").unwrap();
        // Also while the file is still open, and for who opens it then.
        until("A's version at B, still", || if read()? == "from A" { Ok(()) } else { Err(read()?) });
        drop(open);
        assert_eq!(texts(&a, &b), ["first half, second half", "from A"], "{name}");
        for entry in fs::read_dir(&a.folder).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        assert!(texts(&a, &b).is_empty());
    }
}

#[test]
fn a_file_that_is_removed_elsewhere_goes_on_for_who_has_it_open() {
    let (_world, a, b) = two_with_file("still here");
    let open = File::open(b.path("file")).unwrap();
    fs::remove_file(a.path("file")).unwrap();
    until("the file to go at B", || if b.path("file").exists() { Err("it is there".into()) } else { Ok(()) });
    assert_eq!(read(&open), "still here");
    assert_eq!(open.metadata().unwrap().len(), 10);
    drop(open);
    assert_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn modes_and_times_travel() {
    let (_world, a, b) = two_with_file("text");
    fs::create_dir(a.path("dir")).unwrap();
    for (name, mode, seconds) in [("file", 0o750, 1_000_000_001), ("dir", 0o711, 1_000_000_002)] {
        fs::set_permissions(a.path(name), fs::Permissions::from_mode(mode)).unwrap();
        set_mtime(&a.path(name), seconds, 123_456_789).unwrap();
        until("mode and mtime at B", || {
            let found = fs::metadata(b.path(name)).map_err(|error| error.to_string())?;
            let told = (found.mode() & 0o7777, found.mtime(), found.mtime_nsec());
            if told == (mode, seconds, 123_456_789) { Ok(()) } else { Err(format!("{name}: {told:?}")) }
        });
    }
}
