//! The bits with which a file is executed as its owner or group: kept everywhere, and set on a disk only if its owner says so.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use syncmount_tests::support::*;

fn mode(device: &Device, name: &str) -> Option<u32> {
    fs::symlink_metadata(device.path(name)).ok().map(|found| found.permissions().mode() & 0o7777)
}

#[track_caller]
fn await_mode(device: &Device, name: &str, wanted: u32) {
    until("the mode", || match mode(device, name) {
        Some(found) if found == wanted => Ok(()),
        other => Err(format!("{name} of {} is {other:?}, not {wanted}", device.name)),
    });
}

#[test]
fn a_watched_folder_keeps_bits_that_it_does_not_set() {
    let world = World::new();
    let (mount, plain) = (world.mount("Mount"), world.watch("Plain"));
    let all = world.watch_with("All", &["--apply-setid"]);
    fs::write(mount.path("tool"), "1").unwrap();
    fs::create_dir(mount.path("dir")).unwrap();
    fs::set_permissions(mount.path("tool"), Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(mount.path("dir"), Permissions::from_mode(0o3775)).unwrap();
    mount.wait_synced();
    let on_mount = [mode(&mount, "tool"), mode(&mount, "dir")];
    assert_eq!(on_mount, [Some(0o6755), Some(0o3775)], "a mount keeps all of them");
    for (device, file, dir) in [(&plain, 0o755, 0o1775), (&all, 0o6755, 0o3775)] {
        await_mode(device, "tool", file);
        await_mode(device, "dir", dir);
    }
    // Another mode, other bytes and a look at everything take nothing away that the disk never had.
    fs::set_permissions(plain.path("tool"), Permissions::from_mode(0o700)).unwrap();
    plain.wait_synced();
    await_mode(&mount, "tool", 0o6700);
    fs::write(plain.path("new"), "two").unwrap();
    fs::set_permissions(plain.path("new"), Permissions::from_mode(0o750)).unwrap();
    fs::rename(plain.path("new"), plain.path("tool")).unwrap();
    plain.wait_synced();
    until("the new bytes", || match fs::read_to_string(mount.path("tool")) {
        Ok(text) if text == "two" => Ok(()),
        other => Err(format!("{other:?}")),
    });
    await_mode(&mount, "tool", 0o6750);
    plain.stop();
    plain.mount();
    plain.wait_synced();
    assert_eq!((mode(&mount, "tool"), mode(&mount, "dir")), (Some(0o6750), Some(0o3775)));
    assert_eq!(mode(&plain, "tool"), Some(0o750));
    // Where they are set, that they are missing is a change as any other.
    await_mode(&all, "tool", 0o6750);
    fs::set_permissions(all.path("tool"), Permissions::from_mode(0o755)).unwrap();
    all.wait_synced();
    await_mode(&mount, "tool", 0o755);
}

#[test]
fn a_mount_executes_nothing_as_another_user() {
    let world = World::new();
    let mount = world.mount("Mount");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let folder = mount.folder.to_str().unwrap();
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(folder)).expect("it is mounted");
    let options = line.split(' ').nth(5).unwrap();
    assert!(options.split(',').any(|option| option == "nosuid"), "{line}");
}
