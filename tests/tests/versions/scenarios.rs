//! What people do with a folder, each with programs of given versions.

use super::{Pair, become_same, mounted};
use rustix::fs::{XattrFlags, getxattr, setxattr};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use syncmount::status::ProblemKind;
use syncmount_tests::support::*;

const MIB: usize = 1 << 20;

#[track_caller]
fn until_reads(path: &Path, expected: &[u8]) {
    until("the bytes", || match fs::read(path) {
        Ok(found) if found == expected => Ok(()),
        other => Err(format!("{}: {:?}", path.display(), other.map(|found| found.len()))),
    });
}

/// The names in a directory, sorted.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

pub(super) fn a_device_joins_a_filled_folder(pair: Pair) {
    let mut dice = Dice::new("a_device_joins");
    let world = pair.world();
    let a = pair.a(&world, &[]);
    random_tree(&mut dice, &a.folder, 150).unwrap();
    a.wait_synced();
    let b = pair.b(&world, &[]);
    become_same(&a, &b);
}

pub(super) fn both_write(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    for (device, name) in [(&a, "a"), (&b, "b")] {
        fs::create_dir_all(device.path(format!("{name}/deep/er"))).unwrap();
        fs::write(device.path(format!("{name}/deep/er/file")), name).unwrap();
        fs::write(device.path(format!("{name}/empty")), "").unwrap();
    }
    become_same(&a, &b);
    assert_eq!(fs::read(a.path("b/deep/er/file")).unwrap(), b"b");
    assert_eq!(fs::read(b.path("a/empty")).unwrap(), b"");
}

pub(super) fn files_are_edited_in_place(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    let mut content = vec![7; 300_000];
    fs::write(a.path("file"), &content).unwrap();
    a.wait_synced();
    until_reads(&b.path("file"), &content);
    for (round, device, other) in [(1, &b, &a), (2, &a, &b)] {
        content[round * 1000..][..4].copy_from_slice(b"here");
        let file = OpenOptions::new().write(true).open(device.path("file")).unwrap();
        file.write_all_at(b"here", round as u64 * 1000).unwrap();
        drop(file);
        until_reads(&other.path("file"), &content);
    }
    become_same(&a, &b);
}

pub(super) fn files_grow_and_shrink(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path("log"), "one\n").unwrap();
    a.wait_synced();
    until_reads(&b.path("log"), b"one\n");
    OpenOptions::new().append(true).open(b.path("log")).unwrap().write_all(b"two\n").unwrap();
    until_reads(&a.path("log"), b"one\ntwo\n");
    OpenOptions::new().write(true).open(a.path("log")).unwrap().set_len(4).unwrap();
    until_reads(&b.path("log"), b"one\n");
    become_same(&a, &b);
}

pub(super) fn files_are_renamed(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("one"), "1").unwrap();
    become_same(&a, &b);
    fs::rename(b.path("one"), b.path("dir/two")).unwrap();
    become_same(&a, &b);
    assert!(!a.path("one").exists());
    assert_eq!(fs::read(a.path("dir/two")).unwrap(), b"1");
}

pub(super) fn directories_are_renamed(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::create_dir_all(a.path("dir/below")).unwrap();
    for number in 0..20 {
        fs::write(a.path(format!("dir/below/{number}")), number.to_string()).unwrap();
    }
    become_same(&a, &b);
    fs::rename(a.path("dir"), a.path("moved")).unwrap();
    fs::write(a.path("moved/below/0"), "edited").unwrap();
    become_same(&a, &b);
    assert_eq!(names(&b.folder), ["moved"]);
    assert_eq!(fs::read(b.path("moved/below/0")).unwrap(), b"edited");
    assert_eq!(fs::read_dir(b.path("moved/below")).unwrap().count(), 20);
}

pub(super) fn editors_save_by_renaming(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path("text"), "0").unwrap();
    become_same(&a, &b);
    for (round, device) in [&a, &b, &a].into_iter().enumerate() {
        let text = format!("version {round}");
        fs::write(device.path(".text.new"), &text).unwrap();
        fs::rename(device.path(".text.new"), device.path("text")).unwrap();
        become_same(&a, &b);
        assert_eq!(fs::read_to_string(a.path("text")).unwrap(), text);
    }
    assert_eq!(names(&b.folder), ["text"]);
}

pub(super) fn names_are_swapped(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path("one"), "1").unwrap();
    fs::write(a.path("two"), "2").unwrap();
    become_same(&a, &b);
    fs::rename(b.path("one"), b.path("three")).unwrap();
    fs::rename(b.path("two"), b.path("one")).unwrap();
    fs::rename(b.path("three"), b.path("two")).unwrap();
    become_same(&a, &b);
    assert_eq!(names(&a.folder), ["one", "two"]);
    assert_eq!([fs::read(a.path("one")).unwrap(), fs::read(a.path("two")).unwrap()], [b"2", b"1"]);
}

pub(super) fn files_and_trees_are_removed(pair: Pair) {
    let mut dice = Dice::new("files_and_trees_are_removed");
    let (_world, a, b) = pair.mounts();
    fs::create_dir(a.path("tree")).unwrap();
    random_tree(&mut dice, &a.path("tree"), 60).unwrap();
    fs::write(a.path("file"), "1").unwrap();
    fs::write(a.path("stays"), "1").unwrap();
    become_same(&a, &b);
    fs::remove_file(b.path("file")).unwrap();
    fs::remove_dir_all(b.path("tree")).unwrap();
    become_same(&a, &b);
    assert_eq!(names(&a.folder), ["stays"]);
}

/// Both do something while neither reaches the server. What is in the folder afterwards, without the notes of copies.
fn offline(
    pair: Pair,
    before: &[&str],
    on_a: impl FnOnce(&Device),
    on_b: impl FnOnce(&Device),
) -> Vec<(String, String)> {
    let (world, a, b) = pair.mounts();
    for name in before {
        fs::write(a.path(name), "before").unwrap();
    }
    become_same(&a, &b);
    world.while_offline(|| {
        on_a(&a);
        on_b(&b);
    });
    become_same(&a, &b);
    let text = |name: &str| fs::read_to_string(a.path(name)).unwrap();
    let found = names(&a.folder).into_iter().map(|name| {
        let known = name.split_once(" (conflict, ").map_or(name.as_str(), |(stem, _)| stem);
        (known.to_owned(), text(&name))
    });
    found.collect()
}

fn write_at(path: &Path, text: &str, seconds: i64) {
    fs::write(path, text).unwrap();
    set_mtime(path, seconds, 0).unwrap();
}

fn pairs(found: &[(&str, &str)]) -> Vec<(String, String)> {
    found.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

pub(super) fn both_edit_one_file_offline(pair: Pair) {
    let mut found = offline(
        pair,
        &["file"],
        |a| write_at(&a.path("file"), "by A", 1_900_000_000),
        |b| write_at(&b.path("file"), "by B", 1_900_000_100),
    );
    found.sort();
    assert_eq!(found, pairs(&[("file", "by A"), ("file", "by B")]));
}

pub(super) fn both_make_one_file_offline(pair: Pair) {
    let mut found = offline(
        pair,
        &[],
        |a| fs::write(a.path("file"), "by A").unwrap(),
        |b| fs::write(b.path("file"), "by B").unwrap(),
    );
    found.sort();
    assert_eq!(found, pairs(&[("file", "by A"), ("file", "by B")]));
}

pub(super) fn one_edits_what_the_other_removes(pair: Pair) {
    let found = offline(
        pair,
        &["one", "two"],
        |a| {
            fs::write(a.path("one"), "edited by A").unwrap();
            fs::remove_file(a.path("two")).unwrap();
        },
        |b| {
            fs::remove_file(b.path("one")).unwrap();
            fs::write(b.path("two"), "edited by B").unwrap();
        },
    );
    assert_eq!(found, pairs(&[("one", "edited by A"), ("two", "edited by B")]));
}

pub(super) fn links_arrive(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path("file"), "1").unwrap();
    fs::hard_link(a.path("file"), a.path("other name")).unwrap();
    symlink("file", a.path("link")).unwrap();
    symlink("/nowhere/else", a.path("dangling")).unwrap();
    become_same(&a, &b);
    assert_eq!(fs::read_link(b.path("dangling")).unwrap(), Path::new("/nowhere/else"));
    assert_eq!(fs::metadata(b.path("file")).unwrap().ino(), fs::metadata(b.path("other name")).unwrap().ino());
    fs::write(b.path("other name"), "2").unwrap();
    until_reads(&a.path("file"), b"2");
}

/// Programs of before owners do not know the option; with the others they are kept, at least on the machine where they were set.
pub(super) fn owners_survive_devices_and_servers_that_know_none(pair: Pair) {
    let knows = |version| matches!(version, Version::Current).then_some("--owners=synced");
    let world = pair.world();
    let options = |version| knows(version).into_iter().collect::<Vec<&str>>();
    let (a, b) = (pair.a(&world, &options(pair.client)), pair.b(&world, &options(pair.server)));
    for (index, device) in [&a, &b].into_iter().enumerate() {
        let (name, other) = (format!("of {index}"), [&b, &a][index]);
        fs::write(device.path(&name), "one").unwrap();
        let is_known = knows([pair.client, pair.server][index]).is_some();
        if is_known {
            chown(device.path(&name), Some(54_321), Some(54_322)).unwrap();
        }
        device.wait_synced();
        until_reads(&other.path(&name), b"one");
        setxattr(other.path(&name), "user.note", b"x", XattrFlags::empty()).unwrap();
        fs::write(other.path(&name), "two, from the other device").unwrap();
        other.wait_synced();
        until_reads(&device.path(&name), b"two, from the other device");
        let found = fs::metadata(device.path(&name)).unwrap();
        let expected = if is_known { (54_321, 54_322) } else { (0, 0) };
        assert_eq!((found.uid(), found.gid()), expected);
    }
    become_same(&a, &b);
}

pub(super) fn attributes_arrive(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path("file"), "1").unwrap();
    fs::set_permissions(a.path("file"), fs::Permissions::from_mode(0o751)).unwrap();
    setxattr(a.path("file"), "user.color", b"blue", XattrFlags::empty()).unwrap();
    set_mtime(&a.path("file"), 1_000_000_000, 123_456_789).unwrap();
    become_same(&a, &b);
    let found = fs::metadata(b.path("file")).unwrap();
    assert_eq!((found.mode() & 0o777, found.mtime(), found.mtime_nsec()), (0o751, 1_000_000_000, 123_456_789));
    let mut value = [0; 16];
    let len = getxattr(b.path("file"), "user.color", &mut value[..]).unwrap();
    assert_eq!(&value[..len], b"blue");
}

pub(super) fn holes_stay_holes(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    let file = File::create(a.path("sparse")).unwrap();
    file.set_len(1 << 40).unwrap();
    file.write_all_at(b"in the middle", 1 << 39).unwrap();
    drop(file);
    a.wait_synced();
    assert!(a.status().bytes_sent < MIB as u64);
    until("the file", || match fs::metadata(b.path("sparse")).map(|found| found.len()) {
        Ok(len) if len == 1 << 40 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut found = [0; 13];
    File::open(b.path("sparse")).unwrap().read_exact_at(&mut found, 1 << 39).unwrap();
    assert_eq!(&found, b"in the middle");
}

pub(super) fn names_are_bytes(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    let names: [&[u8]; 6] = [b"caf\xc3\xa9", b"cafe\xcc\x81", b"\xff\xfe not text", b" ", b"a\nb", &[b'x'; 255]];
    for name in names {
        fs::write(a.path(Path::new(OsStr::from_bytes(name))), name).unwrap();
    }
    become_same(&a, &b);
    for name in names {
        assert_eq!(fs::read(b.path(Path::new(OsStr::from_bytes(name)))).unwrap(), name);
    }
}

pub(super) fn many_small_files_arrive(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    for number in 0..1_200 {
        fs::write(a.path(format!("{number}")), format!("file {number}")).unwrap();
    }
    become_same(&a, &b);
    assert_eq!(fs::read_dir(&b.folder).unwrap().count(), 1_200);
}

pub(super) fn a_large_file_arrives_and_is_edited(pair: Pair) {
    let mut dice = Dice::new("a_large_file_arrives_and_is_edited");
    let (_world, a, b) = pair.mounts();
    let mut content = bytes(&mut dice, 24 * MIB);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    until_reads(&b.path("large"), &content);
    let before = b.status().bytes_sent;
    content[12 * MIB..][..9].copy_from_slice(b"different");
    OpenOptions::new().write(true).open(b.path("large")).unwrap().write_all_at(b"different", 12 * MIB as u64).unwrap();
    b.wait_synced();
    until_reads(&a.path("large"), &content);
    // A chunk is 1 MiB at most; a changed one may move the cut of the next.
    let sent = b.status().bytes_sent - before;
    assert!(sent < 3 * MIB as u64, "{sent} bytes were sent for nine");
}

pub(super) fn a_large_file_is_copied(pair: Pair) {
    let mut dice = Dice::new("a_large_file_is_copied");
    let (_world, a, b) = pair.mounts();
    let content = bytes(&mut dice, 10 * MIB);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    let before = a.status().bytes_sent;
    fs::copy(a.path("large"), a.path("copy")).unwrap();
    a.wait_synced();
    let sent = a.status().bytes_sent - before;
    assert!(sent < MIB as u64, "{sent} bytes were sent for what the server has");
    until_reads(&b.path("copy"), &content);
}

pub(super) fn the_server_is_away_for_a_while(pair: Pair) {
    let (world, a, b) = pair.mounts();
    fs::write(a.path("before"), "1").unwrap();
    become_same(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("by a"), "offline").unwrap();
        fs::rename(a.path("before"), a.path("renamed")).unwrap();
        fs::write(b.path("by b"), "offline").unwrap();
        assert_eq!(fs::read(b.path("before")).unwrap(), b"1");
    });
    become_same(&a, &b);
    assert_eq!(names(&a.folder), ["by a", "by b", "renamed"]);
}

pub(super) fn the_server_is_killed(pair: Pair) {
    let mut dice = Dice::new("the_server_is_killed");
    let (world, a, b) = pair.mounts();
    let writer = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            for number in 0..60 {
                fs::write(a.path(number.to_string()), vec![number; 20_000]).unwrap();
            }
            fs::write(a.path("large"), bytes(&mut dice, 8 * MIB)).unwrap();
        });
        for _ in 0..2 {
            world.server().kill();
            world.server().start();
        }
        writing.join()
    });
    writer.unwrap();
    become_same(&a, &b);
    assert_eq!(fs::read_dir(&b.folder).unwrap().count(), 61);
    world.server().stop();
    world.server().assert_sound();
    world.server().start();
}

pub(super) fn the_server_is_restored_from_a_backup(pair: Pair) {
    let (world, a, b) = pair.mounts();
    fs::write(a.path("early"), "1").unwrap();
    become_same(&a, &b);
    let data = world.server().data().to_owned();
    let backup = world.path("backup");
    let copy = |from: &Path, to: &Path| {
        run(Command::new("cp").arg("-a").arg(from).arg(to)).good();
    };
    world.while_offline(|| copy(&data, &backup));
    fs::write(b.path("late"), "2").unwrap();
    fs::write(b.path("early"), "1 and more").unwrap();
    become_same(&a, &b);
    world.while_offline(|| {
        fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
    });
    become_same(&a, &b);
    until_reads(&a.path("late"), b"2");
    until_reads(&b.path("early"), b"1 and more");
}

pub(super) fn a_line_breaks_in_the_middle_of_a_file(pair: Pair) {
    let mut dice = Dice::new("a_line_breaks");
    let world = pair.world();
    let (proxy, a) = world.device_behind_proxy("A");
    let a = mounted(a.of(pair.client));
    let b = pair.b(&world, &[]);
    let content = bytes(&mut dice, 6 * MIB);
    proxy.break_after(2 * MIB as u64);
    fs::write(a.path("large"), &content).unwrap();
    until("the line to break", || if proxy.is_cut() { Ok(()) } else { Err("it holds".into()) });
    proxy.mend();
    a.wait_synced();
    until_reads(&b.path("large"), &content);
}

pub(super) fn a_client_is_killed(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    for number in 0..100 {
        let file = File::create(a.path(number.to_string())).unwrap();
        (&file).write_all(b"there").unwrap();
        file.sync_all().unwrap();
    }
    a.kill();
    a.mount();
    become_same(&a, &b);
    for number in 0..100 {
        assert_eq!(fs::read(b.path(number.to_string())).unwrap(), b"there");
    }
}

pub(super) fn a_client_is_restarted_and_fetches_nothing_again(pair: Pair) {
    let mut dice = Dice::new("a_client_is_restarted");
    let (_world, a, b) = pair.mounts();
    let content = bytes(&mut dice, 3 * MIB);
    fs::write(a.path("file"), &content).unwrap();
    a.wait_synced();
    until_reads(&b.path("file"), &content);
    for device in [&a, &b] {
        device.fusermount_u();
        device.mount();
        assert_eq!(fs::read(device.path("file")).unwrap(), content);
        let received = device.status().bytes_received;
        assert!(received < MIB as u64 / 2, "{received} bytes came for what was there");
    }
}

pub(super) fn unsent_changes_survive_an_unmount(pair: Pair) {
    let (world, a, b) = pair.mounts();
    fs::write(a.path("file"), "before").unwrap();
    become_same(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("file"), "offline").unwrap();
        fs::write(a.path("new"), vec![3; 200_000]).unwrap();
        a.stop();
    });
    a.mount();
    become_same(&a, &b);
    assert_eq!(fs::read(b.path("file")).unwrap(), b"offline");
    assert_eq!(fs::read(b.path("new")).unwrap(), vec![3; 200_000]);
}

pub(super) fn a_token_is_revoked(pair: Pair) {
    let world = pair.world();
    let (token, file) = (world.server().command(&["token", "add", "laptop"]), world.path("token"));
    fs::write(&file, &token).unwrap();
    let b = pair.b(&world, &[]);
    let a = world.device("A").of(pair.client);
    let words = a.mount_words();
    let words = words
        .iter()
        .map(|word| if word.as_os_str() == world.server().token_file() { file.clone().into() } else { word.clone() });
    a.syncmount(&words.collect::<Vec<_>>()).good();
    fs::write(a.path("before"), "1").unwrap();
    become_same(&a, &b);
    world.server().command(&["token", "revoke", "laptop"]);
    fs::write(a.path("after"), "kept here").unwrap();
    until("it is told", || match a.ask("status", &[]).stdout {
        said if said.contains("token") => Ok(()),
        said => Err(said),
    });
    assert!(!b.path("after").exists());
    let other = world.server().command(&["token", "add", "laptop again"]);
    fs::write(&file, &other).unwrap();
    a.stop();
    a.mount();
    become_same(&a, &b);
    assert_eq!(fs::read(b.path("after")).unwrap(), b"kept here");
}

pub(super) fn a_second_folder_is_apart(pair: Pair) {
    let world = pair.world();
    world.server().command(&["folder", "add", "photos"]);
    let a = pair.a(&world, &["--folder", "photos"]);
    let b = pair.b(&world, &["--folder", "photos"]);
    let c = mounted(world.device("C").of(pair.client));
    fs::write(a.path("photo"), "1").unwrap();
    become_same(&a, &b);
    c.wait_synced();
    assert_eq!(names(&c.folder), [""; 0]);
}

pub(super) fn ignored_names_stay(pair: Pair) {
    let (_world, a, b) = pair.mounts();
    fs::write(a.path(".syncignore"), "*.tmp\n").unwrap();
    // What comes behind the rules is seen when they are in force.
    fs::write(a.path("first"), "1").unwrap();
    a.wait_synced();
    until_reads(&b.path("first"), b"1");
    fs::write(a.path("scratch.tmp"), "1").unwrap();
    fs::write(b.path("other.tmp"), "2").unwrap();
    for (device, name) in [(&a, "by a"), (&b, "by b")] {
        fs::write(device.path(name), name).unwrap();
        device.wait_synced();
    }
    until_reads(&b.path("by a"), b"by a");
    until_reads(&a.path("by b"), b"by b");
    assert_eq!(names(&a.folder), [".syncignore", "by a", "by b", "first", "scratch.tmp"]);
    assert_eq!(names(&b.folder), [".syncignore", "by a", "by b", "first", "other.tmp"]);
}

pub(super) fn a_file_is_pinned(pair: Pair) {
    let mut dice = Dice::new("a_file_is_pinned");
    let (world, a, b) = pair.mounts();
    let content = bytes(&mut dice, 2 * MIB);
    fs::write(b.path("file"), &content).unwrap();
    become_same(&b, &a);
    run(a.program().arg("pin").arg(a.path("file"))).good();
    until("the pin", || {
        let mut state = [0; 32];
        let len =
            getxattr(a.path("file"), "user.syncmount.state", &mut state[..]).map_err(|error| error.to_string())?;
        if &state[..len] == b"pinned" { Ok(()) } else { Err(String::from_utf8_lossy(&state[..len]).into_owned()) }
    });
    world.while_offline(|| assert_eq!(fs::read(a.path("file")).unwrap(), content));
}

pub(super) fn removals_are_held(pair: Pair) {
    let world = pair.world();
    world.server().restart_with(&["--hold-removes", "3", "--hold-part", "0.3"]);
    let (a, b) = (pair.a(&world, &[]), pair.b(&world, &[]));
    for number in 0..10 {
        fs::write(b.path(number.to_string()), "1").unwrap();
    }
    become_same(&b, &a);
    world.while_offline(|| (0..9).for_each(|number| fs::remove_file(a.path(number.to_string())).unwrap()));
    until("A to be held", || match a.status().problems {
        problems if problems.iter().any(|problem| problem.kind == ProblemKind::Held) => Ok(()),
        problems => Err(format!("{problems:?}")),
    });
    assert!(fs::read_dir(&b.folder).unwrap().count() > 1, "the others have them still");
}

pub(super) fn a_folder_is_watched(pair: Pair) {
    let mut dice = Dice::new("a_folder_is_watched");
    let world = pair.world();
    let b = pair.b(&world, &[]);
    fs::create_dir(b.path("tree")).unwrap();
    random_tree(&mut dice, &b.path("tree"), 40).unwrap();
    b.wait_synced();
    let watched = pair.watched(&world);
    become_same(&watched, &b);
    fs::write(watched.path("by watch"), "1").unwrap();
    fs::write(b.path("by mount"), "2").unwrap();
    fs::rename(watched.path("tree"), watched.path("moved")).unwrap();
    become_same(&watched, &b);
    until_reads(&b.path("by watch"), b"1");
    until_reads(&watched.path("by mount"), b"2");
}

pub(super) fn curl_reads_and_writes(pair: Pair) {
    let world = pair.world();
    let a = pair.a(&world, &[]);
    let token = fs::read_to_string(world.server().token_file()).unwrap();
    let auth = format!("Authorization: Bearer {}", token.trim());
    let url = format!("{}/v1/folders/default/files/", world.server().url());
    let curl = |words: &[&str], name: &str| {
        let said = run(Command::new("curl").args(["-sSf", "-H", &auth]).args(words).arg(format!("{url}{name}")));
        said.good().to_owned()
    };
    let local = world.path("report");
    fs::write(&local, vec![b'r'; 200_000]).unwrap();
    curl(&["-T", local.to_str().unwrap()], "report.txt");
    until_reads(&a.path("report.txt"), &vec![b'r'; 200_000]);
    fs::write(a.path("answer"), "from the mount").unwrap();
    a.wait_synced();
    assert_eq!(curl(&[], "answer"), "from the mount");
    curl(&["-X", "DELETE"], "report.txt");
    until("the removal", || if a.path("report.txt").exists() { Err("it is there".into()) } else { Ok(()) });
}

/// An update of the client: what it had not sent is sent, and what it has is not fetched again.
pub(super) fn a_client_is_of_the_new_version_from_now_on(pair: Pair) {
    let mut dice = Dice::new("a_client_is_of_the_new_version");
    let (world, a, b) = pair.mounts();
    let content = bytes(&mut dice, MIB);
    fs::write(a.path("file"), &content).unwrap();
    become_same(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("unsent"), "1").unwrap();
        a.stop();
    });
    let a = mounted(a.of(Version::Current));
    assert_eq!(fs::read(a.path("file")).unwrap(), content);
    become_same(&a, &b);
    assert_eq!(fs::read(b.path("unsent")).unwrap(), b"1");
    let received = a.status().bytes_received;
    assert!(received < MIB as u64 / 2, "{received} bytes came for what was there");
}

/// An update of the server beneath mounts that stay.
pub(super) fn a_server_is_of_the_new_version_from_now_on(pair: Pair) {
    let (world, a, b) = pair.mounts();
    fs::write(a.path("before"), vec![1; 200_000]).unwrap();
    become_same(&a, &b);
    world.server().restart_as(Version::Current);
    fs::write(a.path("after"), "2").unwrap();
    become_same(&a, &b);
    assert_eq!(fs::read(b.path("before")).unwrap(), vec![1; 200_000]);
    assert_eq!(names(&b.folder), ["after", "before"]);
}

/// An update of the server, after which a backup of its database of before is put back.
pub(super) fn a_backup_of_before_the_upgrade_is_put_back(pair: Pair) {
    let (world, a, b) = pair.mounts();
    fs::write(a.path("early"), "1").unwrap();
    become_same(&a, &b);
    let (data, backup) = (world.server().data().to_owned(), world.path("backup"));
    let copy = |from: &Path, to: &Path| {
        run(Command::new("cp").arg("-a").arg(from).arg(to)).good();
    };
    world.while_offline(|| copy(&data, &backup));
    fs::write(b.path("late"), "2").unwrap();
    become_same(&a, &b);
    world.server().restart_as(Version::Current);
    fs::write(a.path("later"), "3").unwrap();
    become_same(&a, &b);
    world.while_offline(|| {
        // The key of the cursors lies beside the database and stays.
        let key = fs::read(data.join("cursor.key")).unwrap();
        fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
        fs::write(data.join("cursor.key"), key).unwrap();
    });
    become_same(&a, &b);
    until_reads(&a.path("late"), b"2");
    until_reads(&b.path("later"), b"3");
    assert_eq!(names(&a.folder), ["early", "late", "later"]);
}
