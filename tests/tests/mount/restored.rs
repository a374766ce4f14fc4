//! Backups that are put back, of a client and of the server, and cache folders that are copied: nothing is lost, and nothing
//! that is newer is overwritten.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use syncmount::status::ProblemKind;
use syncmount_tests::support::*;

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg("--").arg(from).arg(to)).good();
}

/// Puts what was copied away in the place of what is there.
fn put_back(backup: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    copy(backup, to);
}

fn mount_over(world: &World, name: &str, cache: &Path) -> Device {
    world.mount_with(name, &[OsStr::new("--cache-dir"), cache.as_os_str()])
}

/// All files with their contents.
fn contents(device: &Device) -> BTreeMap<String, String> {
    let names = Tree::read_names(&device.folder).unwrap();
    let files = names.paths().into_iter().filter(|name| device.path(name).is_file());
    files.map(|name| (name.to_str().unwrap().to_owned(), fs::read_to_string(device.path(name)).unwrap())).collect()
}

/// What two devices agree on once everything has arrived.
fn settled(a: &Device, b: &Device) -> BTreeMap<String, String> {
    // Once more, because what the second sends can give the first something to do.
    for device in [a, b, a, b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    contents(a)
}

fn is_another_device(device: &Device) -> bool {
    let problems = device.status().problems;
    let told =
        problems.iter().filter(|it| it.kind == ProblemKind::Note && it.reason.contains("goes on as a new device"));
    assert!(told.clone().count() <= 1, "it is said once: {problems:?}");
    told.count() == 1
}

/// Takes the copies of the file `stem` out of what was found, and gives their contents.
fn take_copies(found: &mut BTreeMap<String, String>, stem: &str) -> Vec<String> {
    let begin = format!("{stem} (conflict, ");
    let copies: Vec<String> = found.keys().filter(|name| name.starts_with(&begin)).cloned().collect();
    copies.iter().filter_map(|name| found.remove(name)).collect()
}

fn expect(found: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    let expected: BTreeMap<String, String> =
        expected.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect();
    assert_eq!(*found, expected);
}

/// What happens between the backup and the day on which it is put back.
fn live_on(a: &Device, b: &Device) {
    fs::write(a.path("edited by A"), "1 since").unwrap();
    fs::write(a.path("created since"), "new").unwrap();
    fs::remove_file(a.path("removed by A")).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    fs::write(b.path("edited by B"), "2 since").unwrap();
    fs::remove_file(b.path("deleted by B")).unwrap();
    fs::rename(b.path("moved by B"), b.path("moved")).unwrap();
    b.wait_synced();
    assert_become_equal(&b.folder, &a.folder, DirTimes::Ignored);
}

fn begin(a: &Device, b: &Device) {
    for name in ["report", "edited by A", "edited by B", "removed by A", "deleted by B", "moved by B"] {
        fs::write(a.path(name), "0").unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

const LIVED_ON: [(&str, &str); 4] =
    [("edited by A", "1 since"), ("created since", "new"), ("edited by B", "2 since"), ("moved", "0")];

#[test]
fn a_client_that_is_set_back_to_a_backup_overwrites_and_deletes_nothing() {
    let world = World::new();
    let (cache, backup) = (world.path("cache of A"), world.path("backup"));
    let (a, b) = (mount_over(&world, "A", &cache), world.mount("B"));
    begin(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("report"), "a draft of the day of the backup").unwrap();
        fs::write(a.path("unsent"), "made on the day of the backup").unwrap();
        a.fusermount_u();
        copy(&cache, &backup);
    });
    a.mount();
    a.wait_synced();
    assert!(!is_another_device(&a));
    fs::write(a.path("report"), "the newest report").unwrap();
    live_on(&a, &b);
    a.fusermount_u();

    put_back(&backup, &cache);
    a.mount();
    let mut found = settled(&a, &b);
    assert_eq!(take_copies(&mut found, "report"), ["a draft of the day of the backup"]);
    let also = [("report", "the newest report"), ("unsent", "made on the day of the backup")];
    expect(&found, &[&LIVED_ON[..], &also].concat());
    assert!(is_another_device(&a) && !is_another_device(&b));

    // From now on it is a device like any other.
    a.fusermount_u();
    a.mount();
    fs::write(a.path("report"), "once more").unwrap();
    assert_eq!(settled(&a, &b).get("report").map(String::as_str), Some("once more"));
    assert!(!is_another_device(&a));
}

#[test]
fn a_backup_that_was_made_while_the_client_ran_is_recognised_too() {
    let world = World::new();
    let (cache, backup) = (world.path("cache of A"), world.path("backup"));
    let (a, b) = (mount_over(&world, "A", &cache), world.mount("B"));
    begin(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("report"), "a draft of the day of the backup").unwrap();
        // Until nothing moves in the folder any more: a backup that catches it in motion is another matter.
        std::thread::sleep(Duration::from_secs(4));
        copy(&cache, &backup);
        fs::write(a.path("report"), "the newest report").unwrap();
    });
    live_on(&a, &b);
    a.fusermount_u();
    put_back(&backup, &cache);
    a.mount();
    let mut found = settled(&a, &b);
    assert_eq!(take_copies(&mut found, "report"), ["a draft of the day of the backup"]);
    expect(&found, &[&LIVED_ON[..], &[("report", "the newest report")]].concat());
    assert!(is_another_device(&a));
}

#[test]
fn a_cache_folder_that_is_used_on_two_machines_at_once_loses_nothing() {
    let world = World::new();
    let (cache, other) = (world.path("cache of A"), world.path("cache of the other"));
    let (a, b) = (mount_over(&world, "A", &cache), world.mount("B"));
    begin(&a, &b);
    a.fusermount_u();
    copy(&cache, &other);
    a.mount();
    let copied = mount_over(&world, "copy of A", &other);
    for round in 0..5 {
        fs::write(a.path(format!("A {round}")), "by A").unwrap();
        fs::write(copied.path(format!("copy {round}")), "by the copy").unwrap();
        fs::write(a.path(format!("both {round}")), format!("by A in {round}")).unwrap();
        fs::write(copied.path(format!("both {round}")), format!("by the copy in {round}")).unwrap();
    }
    world.while_offline(|| {
        fs::write(a.path("report"), "by A").unwrap();
        fs::write(copied.path("report"), "by the copy").unwrap();
    });
    b.wait_synced();
    let found = settled(&a, &copied);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let has = |stem: &str, content: &str| found.iter().any(|(name, found)| name.starts_with(stem) && found == content);
    for round in 0..5 {
        assert!(has(&format!("A {round}"), "by A") && has(&format!("copy {round}"), "by the copy"), "{found:?}");
        let both = format!("both {round}");
        assert!(has(&both, &format!("by A in {round}")) && has(&both, &format!("by the copy in {round}")), "{found:?}");
    }
    assert!(has("report", "by A") && has("report", "by the copy"), "{found:?}");
    assert!(!is_another_device(&a) && is_another_device(&copied), "the one that came second");
}

#[test]
fn a_server_that_is_set_back_to_a_backup_gets_everything_back_from_its_clients() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    begin(&a, &b);
    let (data, backup) = (world.server().data().to_owned(), world.path("backup"));
    world.while_offline(|| copy(&data, &backup));
    live_on(&a, &b);
    world.while_offline(|| {
        fs::write(a.path("written while it was away"), "by A").unwrap();
        put_back(&backup, &data);
    });
    until("the resync", || {
        let found = settled(&a, &b);
        if found.contains_key("deleted by B") { Ok(()) } else { Err(format!("{found:?}")) }
    });
    let mut found = settled(&a, &b);
    // What an older version on the server is taken for depends on who asks; it is never in the way of the newer one.
    let copies = take_copies(&mut found, "edited by A").into_iter().chain(take_copies(&mut found, "edited by B"));
    assert!(copies.into_iter().all(|content| content == "0"));
    let back = [("report", "0"), ("removed by A", "0"), ("deleted by B", "0"), ("written while it was away", "by A")];
    expect(&found, &[&LIVED_ON[..], &back].concat());
    assert!(!is_another_device(&a) && !is_another_device(&b), "it was not they who were set back");
}
