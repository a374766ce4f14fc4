//! A mount with `--read-only` shows everything and changes nothing.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use syncmount_tests::support::*;

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
