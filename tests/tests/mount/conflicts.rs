//! Two devices change the same while they cannot speak: both versions are kept, and nothing else is made.

use super::curl::Curl;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use syncmount_common::protocol::files::Versions;
use syncmount_tests::support::*;

/// Two devices that know the same files, changed while offline as `on_a` and `on_b` say, and then the same again.
fn apart(files: &[(&str, &str)], on_a: impl FnOnce(&Device), on_b: impl FnOnce(&Device)) -> BTreeMap<String, String> {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for (name, content) in files {
        fs::create_dir_all(a.path(name).parent().unwrap()).unwrap();
        fs::write(a.path(name), content).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    world.while_offline(|| {
        on_a(&a);
        on_b(&b);
        for device in [&a, &b] {
            assert_eq!(
                device
                    .syncmount(&["wait".as_ref(), device.folder.as_os_str(), "--timeout".as_ref(), "0".as_ref()])
                    .code,
                Some(1)
            );
        }
    });
    // One device after the other, and once more, because what the second sends can give the first something to do.
    for device in [&a, &b, &a, &b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let contents = |device: &Device| -> BTreeMap<String, String> {
        let names = Tree::read_names(&device.folder).unwrap();
        let files = names.paths().into_iter().filter(|name| device.path(name).is_file());
        files.map(|name| (name.to_str().unwrap().to_owned(), fs::read_to_string(device.path(name)).unwrap())).collect()
    };
    let found = contents(&a);
    assert_eq!(found, contents(&b));
    found
}

fn write_at(path: &Path, content: &str, seconds: i64) {
    fs::write(path, content).unwrap();
    set_mtime(path, seconds, 0).unwrap();
}

fn expect(found: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
    assert_eq!(*found, expected);
}

/// Takes the one conflict copy of `stem` and `extension` out of what was found.
#[track_caller]
fn take_copy(found: &mut BTreeMap<String, String>, stem: &str, extension: &str) -> String {
    let begin = format!("{stem} (conflict, {}, ", hostname());
    let end = format!("){extension}");
    let is_copy = |name: &&String| {
        let time = name.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(&end));
        let shape = |time: &str| time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
        time.is_some_and(|time| shape(time) == "0000-00-00 00.00.00")
    };
    let copies: Vec<String> = found.keys().filter(is_copy).cloned().collect();
    let [copy] = copies.as_slice() else { panic!("{copies:?} for {stem}{extension} in {found:?}") };
    found.remove(copy).unwrap()
}

#[test]
fn edits_of_different_files_merge() {
    let found = apart(
        &[("one", "1"), ("two", "2"), ("dir/three", "3"), ("dir/four", "4")],
        |a| {
            fs::write(a.path("one"), "1 by A").unwrap();
            fs::rename(a.path("dir/three"), a.path("dir/moved")).unwrap();
            fs::create_dir(a.path("both")).unwrap();
            fs::write(a.path("both/a"), "new at A").unwrap();
        },
        |b| {
            fs::write(b.path("two"), "2 by B").unwrap();
            fs::remove_file(b.path("dir/four")).unwrap();
            fs::create_dir(b.path("both")).unwrap();
            fs::write(b.path("both/b"), "new at B").unwrap();
        },
    );
    let expected =
        [("one", "1 by A"), ("two", "2 by B"), ("dir/moved", "3"), ("both/a", "new at A"), ("both/b", "new at B")];
    expect(&found, &expected);
}

#[test]
fn of_two_edits_the_newer_keeps_the_name_and_the_other_is_beside_it() {
    let mut found = apart(
        &[("report.txt", "0"), ("dir/notes", "0")],
        |a| {
            write_at(&a.path("report.txt"), "older, by A", 1_700_000_000);
            write_at(&a.path("dir/notes"), "newer, by A", 1_700_000_200);
        },
        |b| {
            write_at(&b.path("report.txt"), "newer, by B", 1_700_000_100);
            write_at(&b.path("dir/notes"), "older, by B", 1_700_000_100);
        },
    );
    assert_eq!(take_copy(&mut found, "report", ".txt"), "older, by A");
    assert_eq!(take_copy(&mut found, "dir/notes", ""), "older, by B");
    expect(&found, &[("report.txt", "newer, by B"), ("dir/notes", "newer, by A")]);
}

#[test]
fn an_edit_survives_a_delete_whichever_comes_first() {
    let found = apart(
        &[
            ("edited by A", "0"),
            ("edited by B", "0"),
            ("dir/edited by B", "0"),
            ("dir/other", "0"),
            ("deleted by both", "0"),
        ],
        |a| {
            fs::write(a.path("edited by A"), "1").unwrap();
            fs::remove_file(a.path("edited by B")).unwrap();
            fs::remove_dir_all(a.path("dir")).unwrap();
            fs::remove_file(a.path("deleted by both")).unwrap();
        },
        |b| {
            fs::remove_file(b.path("edited by A")).unwrap();
            fs::write(b.path("edited by B"), "2").unwrap();
            fs::write(b.path("dir/edited by B"), "3").unwrap();
            fs::remove_file(b.path("deleted by both")).unwrap();
        },
    );
    expect(&found, &[("edited by A", "1"), ("edited by B", "2"), ("dir/edited by B", "3")]);
}

#[test]
fn the_same_content_is_no_conflict() {
    let found = apart(
        &[("edited", "0")],
        |a| {
            write_at(&a.path("edited"), "the same", 1_700_000_000);
            write_at(&a.path("new"), "the same too", 1_700_000_000);
        },
        |b| {
            write_at(&b.path("edited"), "the same", 1_700_000_100);
            write_at(&b.path("new"), "the same too", 1_700_000_100);
        },
    );
    expect(&found, &[("edited", "the same"), ("new", "the same too")]);
}

#[test]
fn two_new_files_of_one_name_are_both_kept() {
    let mut found = apart(
        &[],
        |a| write_at(&a.path("new.tar.gz"), "by A", 1_700_000_100),
        |b| write_at(&b.path("new.tar.gz"), "by B", 1_700_000_000),
    );
    assert_eq!(take_copy(&mut found, "new.tar", ".gz"), "by B");
    expect(&found, &[("new.tar.gz", "by A")]);
}

#[test]
fn one_device_alone_never_makes_a_conflict() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for round in 0..30 {
        fs::write(a.path("log"), format!("round {round}")).unwrap();
        if round % 10 == 5 {
            world.while_offline(|| fs::write(a.path("log"), format!("offline {round}")).unwrap());
        }
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&b.folder).unwrap().paths(), ["log"].map(Path::new));
    assert_eq!(fs::read_to_string(b.path("log")).unwrap(), "round 29");
}

/// Writes to the disk and syncs until it is dropped, so that everything else on it is slow.
struct Writer {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn beside(world: &World) -> Self {
        let (path, ends) = (world.path("busy"), Arc::new(AtomicBool::new(false)));
        let until = ends.clone();
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let mut file = fs::File::create(&path).unwrap();
                for _ in 0..32 {
                    file.write_all(&[7; 1 << 20]).unwrap();
                    file.sync_data().unwrap();
                }
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

#[test]
fn the_newer_of_two_new_files_keeps_the_name_also_beside_a_busy_disk() {
    let (rounds, files) = sized((1, 40), (25, 40));
    let world = World::lasting(Duration::from_secs(3600));
    let (a, b) = (world.mount("A"), world.mount("B"));
    let _writer = Writer::beside(&world);
    for round in 0..rounds {
        let name = |number: usize| format!("r{round} f{number}.txt");
        let write = |device: &Device, who: &str, newer: usize| {
            for number in 0..files {
                let later = i64::from(number % 2 == newer) * 100;
                write_at(&device.path(name(number)), &format!("by {who}"), 1_700_000_000 + later);
            }
        };
        world.while_offline(|| {
            std::thread::scope(|scope| {
                scope.spawn(|| write(&a, "A", 0));
                scope.spawn(|| write(&b, "B", 1));
            });
        });
        for device in [&a, &b, &a, &b] {
            device.wait_synced();
        }
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        for number in 0..files {
            let expected = if number % 2 == 0 { "by A" } else { "by B" };
            assert_eq!(fs::read_to_string(a.path(name(number))).unwrap(), expected, "{}", name(number));
        }
        let all = Tree::read_names(&a.folder).unwrap().paths().len();
        assert_eq!(all, (round + 1) * files * 2, "each has its copy");
    }
}

#[test]
fn two_devices_that_append_in_turn_keep_ten_copies_and_every_line() {
    let rounds = sized(100, 2000);
    let world = World::lasting(Duration::from_secs(3600));
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::write(a.path("log"), "begun\n").unwrap();
    a.wait_synced();
    until("the file at B", || fs::read(b.path("log")).map(drop).map_err(|error| error.to_string()));
    let append = |device: &Device, who: &str| {
        for round in 0..rounds {
            let mut file = fs::OpenOptions::new().append(true).create(true).open(device.path("log")).unwrap();
            file.write_all(format!("{who} {round}\n").as_bytes()).unwrap();
            drop(file);
            std::thread::sleep(Duration::from_millis(30));
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| append(&a, "A"));
        scope.spawn(|| append(&b, "B"));
    });
    let names = || {
        for device in [&a, &b, &a, &b] {
            device.wait_synced();
        }
        Tree::read_names(&a.folder).unwrap().paths().into_iter().map(Path::to_path_buf).collect::<Vec<_>>()
    };
    let names = until("the copies to be few", || match names() {
        names if names.len() <= 11 => Ok(names),
        names => Err(format!("{names:?}")),
    });
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let removed = a.status().copies_removed + b.status().copies_removed;
    assert!(names.len() == 11 && removed > 0, "{removed} of {names:?}");
    // Each line is in the file, in a copy of it or in one of its versions.
    let curl = Curl::of(&world);
    let mut found = BTreeSet::new();
    let mut look = |text: String| found.extend(text.lines().map(str::to_owned));
    names.iter().for_each(|name| look(fs::read_to_string(a.path(name)).unwrap()));
    let versions: Versions = curl.json("/log?versions");
    for version in &versions.versions {
        look(curl.good(&[], &format!("/log?version={}", version.rev)));
    }
    let wrote = |who: &str| (0..rounds).map(|round| format!("{who} {round}")).collect::<Vec<_>>();
    let lost: Vec<String> =
        [wrote("A"), wrote("B")].concat().into_iter().filter(|line| !found.contains(line)).collect();
    assert!(lost.is_empty(), "{} versions, lost: {lost:?}", versions.versions.len());
}
