//! To which user and which group files belong: all to the mounting user, to their makers on this machine, or by numbers that travel.
//!
//! Changing to another user needs root.

use crate::nobody::{NOBODY, as_nobody, beside_nobody, fuse_with_mode, nobodys};
use rustix::fs::{XattrFlags, setxattr};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, fchown, lchown, symlink};
use std::path::Path;
use std::process::Command;
use syncmount_tests::support::*;

/// A user that no test process is.
const OTHER: u32 = 54_321;
/// A group that none is in.
const GROUP: u32 = 54_322;

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let found = fs::symlink_metadata(path.as_ref()).unwrap_or_else(|error| panic!("{:?}: {error}", path.as_ref()));
    (found.uid(), found.gid())
}

/// Files of root, of others, and of root with another group.
fn others_files(at: &Path) {
    fs::create_dir_all(at.join("dir/inner")).unwrap();
    for (name, (uid, gid)) in [("mine", (0, 0)), ("theirs", (OTHER, GROUP)), ("dir/grouped", (0, GROUP))] {
        fs::write(at.join(name), name).unwrap();
        chown(at.join(name), Some(uid), Some(gid)).unwrap();
    }
    fs::hard_link(at.join("theirs"), at.join("dir/linked")).unwrap();
    symlink("theirs", at.join("pointer")).unwrap();
    lchown(at.join("pointer"), Some(OTHER), Some(GROUP)).unwrap();
    chown(at.join("dir/inner"), Some(OTHER), None).unwrap();
    chown(at.join("dir"), Some(OTHER), Some(GROUP)).unwrap();
    fs::set_permissions(at.join("dir"), fs::Permissions::from_mode(0o2775)).unwrap();
}

const ALL: [&str; 7] = ["mine", "theirs", "dir", "dir/grouped", "dir/linked", "dir/inner", "pointer"];

fn owners(at: &Path) -> Vec<(u32, u32)> {
    ALL.iter().map(|name| owner(at.join(name))).collect()
}

#[track_caller]
fn sh(script: &str, dir: &Path) {
    run(Command::new("sh").args(["-ec", script]).current_dir(dir)).good();
}

/// A shell script of another user, with these groups.
fn as_user(uid: u32, groups: &str, script: &str, dir: &Path) -> Said {
    let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let groups = if groups.is_empty() { "--clear-groups".to_owned() } else { format!("--groups={groups}") };
    run(Command::new("setpriv").args([&uid, &gid, &groups]).args(["sh", "-ec", script]).current_dir(dir))
}

#[test]
fn roots_archives_and_copies_keep_the_owners_on_this_machine() {
    let world = World::new();
    let native = world.path("native");
    others_files(&native);
    let a = world.mount("A");
    sh("tar -C native -cf archive.tar .; mkdir A/Sync/tar; tar -C A/Sync/tar -xpf archive.tar", &world.path("."));
    sh("rsync -aH native/ A/Sync/rsync", &world.path("."));
    sh("cp -a native A/Sync/cp", &world.path("."));
    let expected = owners(&native);
    for way in ["tar", "rsync", "cp"] {
        assert_eq!(owners(&a.path(way)), expected, "{way}");
    }
    sh("test -z \"$(rsync -aHni native/ A/Sync/rsync)\"", &world.path("."));
    // What is executed as its owner is not executed as the next one.
    fs::set_permissions(a.path("tar/mine"), fs::Permissions::from_mode(0o6755)).unwrap();
    chown(a.path("tar/mine"), Some(0), Some(GROUP)).unwrap();
    assert_eq!(fs::metadata(a.path("tar/mine")).unwrap().mode() & 0o7777, 0o755);
    chown(a.path("tar/mine"), Some(0), Some(0)).unwrap();
    // Cut off, and mounted again: by node, as modes are.
    a.wait_synced();
    fs::rename(a.path("cp"), a.path("moved")).unwrap();
    a.kill();
    a.mount();
    for way in ["tar", "rsync", "moved"] {
        assert_eq!(owners(&a.path(way)), expected, "{way}");
    }
    let b = world.mount("B");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert!(owners(&b.path("tar")).iter().all(|owner| *owner == (0, 0)), "{:?}", owners(&b.path("tar")));
}

#[test]
fn where_all_belongs_to_the_mounting_user_only_the_group_can_be_another() {
    let world = World::new();
    let a = world.mount_with("A", &["--owners", "user"]);
    fs::write(a.path("file"), "x").unwrap();
    let refused = chown(a.path("file"), Some(OTHER), None).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    chown(a.path("file"), Some(0), Some(GROUP)).unwrap();
    fs::create_dir(a.path("shared")).unwrap();
    chown(a.path("shared"), None, Some(GROUP)).unwrap();
    fs::set_permissions(a.path("shared"), fs::Permissions::from_mode(0o2775)).unwrap();
    sh("mkdir shared/inner; : > shared/inner/file; mkfifo shared/pipe; ln -s x shared/link", &a.folder);
    let expected = |a: &Device| {
        for name in ["file", "shared", "shared/inner", "shared/inner/file", "shared/pipe", "shared/link"] {
            assert_eq!(owner(a.path(name)), (0, GROUP), "{name}");
        }
    };
    expected(&a);
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    expected(&a);
}

#[test]
fn an_ordinary_users_copies_keep_the_groups_that_the_user_is_in() {
    let world = World::new();
    let device = nobodys(&world, "N");
    as_nobody(&device, &fuse_with_mode("666")).good();
    let source = device.home.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "x").unwrap();
    for path in [source.join("file"), source.clone()] {
        chown(path, Some(NOBODY), Some(GROUP)).unwrap();
    }
    let client = crate::nobody::client(&device).as_raw_nonzero().to_string();
    let script = format!(
        "cd {home}; rsync -a source/ Sync/rsync; cp -a source Sync/cp; tar -cf - source | tar -C Sync --same-owner -xpf -; \
         for at in rsync cp source; do stat -c %u:%g Sync/$at Sync/$at/file; done",
        home = device.home.display()
    );
    let mut command = Command::new("nsenter");
    device.environment(&mut command);
    let user = ["setpriv", "--reuid=65534", "--regid=65534", &format!("--groups={GROUP}"), "sh", "-ec", &script]
        .map(str::to_owned);
    let said = run(command.args(["--mount", "--target", &client]).args(user));
    assert_eq!(said.good(), format!("{NOBODY}:{GROUP}\n").repeat(6));
    let refused = beside_nobody(&device, &format!("chgrp {} cp/file", GROUP + 1));
    assert!(refused.code != Some(0) && refused.stderr.contains("not permitted"), "{refused:?}");
    device_ends(&device);
}

fn device_ends(device: &Device) {
    crate::nobody::ask_beside(device, "umount", &[]).good();
}

#[test]
fn files_belong_to_their_makers_where_other_users_are_let_in() {
    let world = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let a = world.mount_with("A", &["--allow-other"]);
    fs::create_dir(a.path("open")).unwrap();
    fs::set_permissions(a.path("open"), fs::Permissions::from_mode(0o1777)).unwrap();
    as_user(
        OTHER,
        "",
        "umask 077; echo one > own; echo two >> own; mkdir dir; ln -s own link; cat own",
        &a.path("open"),
    )
    .good();
    for name in ["own", "dir", "link"] {
        assert_eq!(owner(a.path("open").join(name)), (OTHER, OTHER), "{name}");
    }
    let stranger = as_user(NOBODY, "", "cat own", &a.path("open"));
    assert!(stranger.code != Some(0) && stranger.stderr.contains("Permission denied"), "{stranger:?}");
    let stranger = as_user(NOBODY, "", "rm -f own", &a.path("open"));
    assert!(stranger.stderr.contains("not permitted"), "the directory is sticky: {stranger:?}");
    // It goes on after its removal, and the owner of what another file replaces is its own.
    let held = File::open(a.path("open/own")).unwrap();
    as_user(OTHER, "", "echo three > new; mv new own", &a.path("open")).good();
    assert_eq!(held.metadata().unwrap().uid(), OTHER);
    fchown(&held, Some(NOBODY), None).unwrap();
    assert_eq!((held.metadata().unwrap().uid(), held.metadata().unwrap().gid()), (NOBODY, OTHER));
    assert_eq!(owner(a.path("open/own")), (OTHER, OTHER));
    drop(held);
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    assert_eq!(owner(a.path("open/own")), (OTHER, OTHER));
    assert_eq!(owner(a.path("open")), (0, 0));
}

#[test]
fn owners_travel_where_both_devices_say_so_and_survive_one_that_does_not() {
    let world = World::new();
    fs::set_permissions(world.path(""), fs::Permissions::from_mode(0o755)).unwrap();
    let [a, b] = ["A", "B"].map(|name| world.mount_with(name, &["--allow-other", "--owners", "synced"]));
    let plain = world.mount_with("C", &["--owners", "user"]);
    others_files(&a.path("tree"));
    fs::create_dir(a.path("open")).unwrap();
    fs::set_permissions(a.path("open"), fs::Permissions::from_mode(0o777)).unwrap();
    as_user(OTHER, "", "echo one > made; mkdir dir", &a.path("open")).good();
    let expected = owners(&a.path("tree"));
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    until("the owners at B", || {
        let found = owners(&b.path("tree"));
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
    assert_eq!([b.path("open/made"), b.path("open/dir")].map(owner), [(OTHER, OTHER); 2]);
    assert_eq!(owner(b.path("open")), (0, 0));

    // A device without them edits, sets attributes, renames: nothing of it takes an owner away.
    assert_become_equal(&a.folder, &plain.folder, DirTimes::Ignored);
    assert!(owners(&plain.path("tree")).iter().all(|owner| *owner == (0, 0)));
    let mut file = fs::OpenOptions::new().append(true).open(plain.path("tree/theirs")).unwrap();
    file.write_all(b", and more").unwrap();
    drop(file);
    fs::set_permissions(plain.path("tree/dir"), fs::Permissions::from_mode(0o2770)).unwrap();
    setxattr(plain.path("tree/theirs"), "user.note", b"x", XattrFlags::empty()).unwrap();
    fs::rename(plain.path("tree"), plain.path("moved")).unwrap();
    plain.wait_synced();
    for device in [&a, &b] {
        until("the edit", || {
            let text = fs::read_to_string(device.path("moved/theirs")).map_err(|error| error.to_string())?;
            if text == "theirs, and more" { Ok(()) } else { Err(text) }
        });
        assert_eq!(owners(&device.path("moved")), expected);
    }

    // Two changes at once: an owner here, bytes there.
    world.while_offline(|| {
        chown(a.path("moved/mine"), Some(OTHER), None).unwrap();
        fs::write(b.path("moved/mine"), "edited at B").unwrap();
    });
    for device in [&a, &b] {
        until("both changes", || {
            let text = fs::read_to_string(device.path("moved/mine")).map_err(|error| error.to_string())?;
            let found = (text, owner(device.path("moved/mine")));
            if found == ("edited at B".to_owned(), (OTHER, 0)) { Ok(()) } else { Err(format!("{found:?}")) }
        });
    }
    a.kill();
    a.mount();
    assert_eq!(owner(a.path("moved/mine")), (OTHER, 0));
    let late = world.mount_with("D", &["--owners=synced"]);
    assert_eq!(owners(&late.path("moved"))[1..], expected[1..]);
}
