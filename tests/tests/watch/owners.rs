//! Owners of a watched folder: root's with `--owners synced` has those that travel on its disk, others leave them alone.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use syncmount_tests::support::*;

const OTHER: u32 = 54_321;
const GROUP: u32 = 54_322;

#[track_caller]
fn await_owner(device: &Device, name: &str, wanted: (u32, u32)) {
    until("the owner", || match fs::symlink_metadata(device.path(name)) {
        Ok(found) if (found.uid(), found.gid()) == wanted => Ok(()),
        other => Err(format!("{name} of {}: {:?}", device.name, other.map(|found| (found.uid(), found.gid())))),
    });
}

#[track_caller]
fn await_text(device: &Device, name: &str, wanted: &str) {
    until("the bytes", || match fs::read_to_string(device.path(name)) {
        Ok(text) if text == wanted => Ok(()),
        other => Err(format!("{name} of {}: {other:?}", device.name)),
    });
}

const SYNCED: [&str; 2] = ["--owners", "synced"];

#[test]
fn owners_are_on_the_disk_of_roots_watched_folder_and_are_told_from_there() {
    let world = World::new();
    let mount = world.mount_with("Mount", &SYNCED);
    let (all, plain) = (world.watch_with("All", &SYNCED), world.watch("Plain"));
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/file"), "one").unwrap();
    symlink("file", mount.path("dir/link")).unwrap();
    fs::set_permissions(mount.path("dir/file"), Permissions::from_mode(0o640)).unwrap();
    let names = ["dir", "dir/file", "dir/link"];
    for name in names {
        lchown(mount.path(name), Some(OTHER), Some(GROUP)).unwrap();
    }
    for name in names {
        await_owner(&all, name, (OTHER, GROUP));
        await_owner(&plain, name, (0, 0));
    }
    // Given away on the disk: bytes and modes stay.
    for name in names {
        lchown(all.path(name), Some(OTHER + 5), None).unwrap();
    }
    for name in names {
        await_owner(&mount, name, (OTHER + 5, GROUP));
    }
    assert_eq!(fs::metadata(mount.path("dir/file")).unwrap().mode() & 0o7777, 0o640);
    // New bytes come with the owner that the file has, wherever they were written.
    for (device, text) in [(&plain, "one, two"), (&mount, "one, two, three")] {
        await_text(device, "dir/file", text.rsplit_once(',').unwrap().0);
        let mut file = OpenOptions::new().append(true).open(device.path("dir/file")).unwrap();
        file.write_all(&text.as_bytes()[text.rfind(',').unwrap()..]).unwrap();
        drop(file);
        device.wait_synced();
        await_text(&all, "dir/file", text);
        await_owner(&all, "dir/file", (OTHER + 5, GROUP));
    }
    // What is made or saved by renaming in the folder belongs to its maker.
    fs::write(all.path("new"), "new").unwrap();
    chown(all.path("new"), Some(OTHER), Some(OTHER)).unwrap();
    fs::write(all.path("dir/saved"), "saved").unwrap();
    fs::rename(all.path("dir/saved"), all.path("dir/file")).unwrap();
    all.wait_synced();
    await_text(&mount, "dir/file", "saved");
    await_owner(&mount, "dir/file", (0, 0));
    await_owner(&mount, "new", (OTHER, OTHER));
    // Nothing of it is forgotten, or taken for a change, by a start.
    for device in [&all, &plain] {
        device.stop();
    }
    chown(all.path("new"), Some(OTHER), Some(GROUP)).unwrap();
    fs::write(mount.path("later"), "x").unwrap();
    chown(mount.path("later"), Some(OTHER), Some(GROUP)).unwrap();
    for device in [&all, &plain] {
        device.mount();
    }
    for device in [&all, &plain, &mount] {
        device.wait_synced();
    }
    for name in ["new", "later"] {
        await_owner(&mount, name, (OTHER, GROUP));
        await_owner(&all, name, (OTHER, GROUP));
    }
    await_owner(&mount, "dir", (OTHER + 5, GROUP));
    await_owner(&all, "dir", (OTHER + 5, GROUP));
    await_owner(&plain, "dir", (0, 0));
}

#[test]
fn a_folder_applies_the_owners_that_came_before_it_was_told_to() {
    let world = World::new();
    let mount = world.mount_with("Mount", &SYNCED);
    let plain = world.watch("Plain");
    fs::write(mount.path("file"), "x").unwrap();
    chown(mount.path("file"), Some(OTHER), Some(GROUP)).unwrap();
    mount.wait_synced();
    await_text(&plain, "file", "x");
    await_owner(&plain, "file", (0, 0));
    // What others own here and no one has told is told; what this process has made is no one's.
    fs::create_dir(plain.path("dir")).unwrap();
    for name in ["theirs", "made"] {
        fs::write(plain.path(name), name).unwrap();
    }
    for name in ["theirs", "dir"] {
        chown(plain.path(name), Some(OTHER + 1), Some(GROUP)).unwrap();
    }
    plain.wait_synced();
    plain.stop();
    let plain = plain.with(&SYNCED);
    plain.mount();
    await_owner(&plain, "file", (OTHER, GROUP));
    plain.wait_synced();
    for name in ["theirs", "dir"] {
        await_owner(&mount, name, (OTHER + 1, GROUP));
        await_owner(&plain, name, (OTHER + 1, GROUP));
    }
    assert_eq!(fs::metadata(mount.path("file")).unwrap().uid(), OTHER);
    // It is remembered, with all that was seen.
    plain.stop();
    chown(plain.path("made"), Some(OTHER + 2), None).unwrap();
    let plain = world.device("Plain").watched();
    plain.mount();
    await_owner(&mount, "made", (OTHER + 2, 0));
    plain.wait_synced();
    await_owner(&mount, "dir", (OTHER + 1, GROUP));
}

#[test]
fn a_file_that_another_user_has_linked_into_the_folder_is_not_given_away() {
    let world = World::new();
    let mount = world.mount_with("Mount", &SYNCED);
    let all = world.watch_with("All", &SYNCED);
    let outside = world.path("outside");
    fs::write(&outside, "of root").unwrap();
    fs::write(mount.path("file"), "of root").unwrap();
    mount.wait_synced();
    await_text(&all, "file", "of root");
    all.stop();
    fs::remove_file(all.path("file")).unwrap();
    fs::hard_link(&outside, all.path("file")).unwrap();
    chown(mount.path("file"), Some(OTHER), Some(GROUP)).unwrap();
    fs::set_permissions(mount.path("file"), Permissions::from_mode(0o600)).unwrap();
    mount.wait_synced();
    all.mount();
    all.wait_synced();
    fs::write(mount.path("later"), "x").unwrap();
    mount.wait_synced();
    await_text(&all, "later", "x");
    all.wait_synced();
    let found = fs::metadata(&outside).unwrap();
    assert_eq!((found.uid(), found.gid()), (0, 0));
}
