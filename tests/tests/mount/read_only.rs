//! A mount with `--read-only` shows everything and changes nothing.

use super::curl::Curl;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use syncmount_common::protocol::files::Versions;
use syncmount_tests::support::*;

#[test]
fn options_count_at_later_starts_until_they_are_taken_back() {
    let world = World::new();
    let b = world.mount_with("B", &["--read-only", "--device-name", "pi-2", "--durability", "server"]);
    fs::write(b.path("new"), "x").unwrap_err();
    b.fusermount_u();
    let b = world.device("B");
    let token = world.server().token_file();
    // The process in the background has another working directory than the one that a folder is typed in.
    for folder in ["Sync", "./Sync", b.folder.to_str().unwrap()] {
        let said = b.syncmount(&[folder, "--token-file", token.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        let expected = "as at the last start here: --read-only --durability=server --device-name=pi-2";
        assert!(said.stderr.contains(expected), "{said:?}");
        assert_eq!(fs::write(b.path("new"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS), "{folder}");
        b.fusermount_u();
    }
    let b = b.with(&["--read-only=false", "--durability=local"]);
    let said = b.try_mount();
    assert!(said.code == Some(0) && !said.stderr.contains("--read-only"), "{said:?}");
    fs::write(b.path("new"), "written").unwrap();
    b.wait_synced();
    b.fusermount_u();
    let b = world.device("B");
    b.mount();
    fs::write(b.path("new"), "again").unwrap();
    b.wait_synced();
    let versions: Versions = Curl::of(&world).json("/new?versions");
    assert!(versions.versions.iter().all(|version| version.device == "pi-2"), "{versions:?}");
}

#[test]
fn a_folder_that_was_watched_is_watched_again() {
    let world = World::new();
    let device = world.watch_with("W", &["--scan-interval", "90s"]);
    fs::write(device.path("file"), "in a plain folder").unwrap();
    device.wait_synced();
    device.stop();
    let token = world.server().token_file();
    for _ in 0..2 {
        let said = device.syncmount(&["Sync", "--token-file", token.to_str().unwrap()]);
        assert_eq!(said.code, Some(0), "{said:?}");
        assert!(said.stderr.contains("as at the last start here: --mode=watch --scan-interval=90s"), "{said:?}");
        assert!(mounts_below(&device.folder).is_empty());
        assert_eq!(fs::read_to_string(device.path("file")).unwrap(), "in a plain folder");
        assert_eq!(device.status().mode, syncmount::status::Mode::Watch);
        device.stop();
    }
}

#[test]
fn a_read_only_mount_refuses_every_change_and_follows_the_others() {
    let world = World::new();
    let a = world.mount("A");
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("file"), "content").unwrap();
    a.wait_synced();
    let b = world.mount_with("B", &["--read-only"]);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);

    let (file, new) = (b.path("file"), b.path("new"));
    for (what, result) in [
        ("create", File::create(&new).map(|_| ())),
        ("open for writing", OpenOptions::new().write(true).open(&file).map(|_| ())),
        ("O_TRUNC", File::create(&file).map(|_| ())),
        ("mkdir", fs::create_dir(&new)),
        ("unlink", fs::remove_file(&file)),
        ("rmdir", fs::remove_dir(b.path("dir"))),
        ("rename", fs::rename(&file, &new)),
        ("symlink", symlink("x", &new)),
        ("chmod", fs::set_permissions(&file, Permissions::from_mode(0o600))),
        ("utimens", set_mtime(&file, 1, 1)),
    ] {
        let error = result.expect_err(what);
        assert_eq!(error.raw_os_error(), Some(libc::EROFS), "{what}: {error}");
    }
    assert_equal(&a.folder, &b.folder, DirTimes::Ignored);

    fs::write(a.path("file"), "changed").unwrap();
    fs::write(a.path("dir/new"), "new").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(b.path("dir/new")).unwrap(), "new");
    assert_eq!(b.status().pending_nodes, 0);
}
