//! Each kind of change arrives at the other side, whichever side made it and however that side shows the folder.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use syncmount_tests::support::*;

/// Everything that can be done to a small tree, and that is seen by others.
fn changes(root: &Path, name: &str) {
    let at = |path: &str| root.join(format!("{name}{path}"));
    fs::create_dir_all(at("/deep/er")).unwrap();
    fs::write(at("/a"), "one").unwrap();
    fs::write(at("/deep/er/b"), vec![7; 300_000]).unwrap();
    symlink("a", at("/link")).unwrap();
    fs::write(at("/empty"), "").unwrap();
    fs::write(at("/gone"), "1").unwrap();
    fs::create_dir(at("/gone too")).unwrap();
    fs::set_permissions(at("/a"), fs::Permissions::from_mode(0o750)).unwrap();
}

fn more_changes(root: &Path, name: &str) {
    let at = |path: &str| root.join(format!("{name}{path}"));
    fs::write(at("/a"), "two, and longer").unwrap();
    fs::rename(at("/deep"), at("/moved")).unwrap();
    fs::rename(at("/empty"), at("/moved/full")).unwrap();
    fs::write(at("/moved/full"), "no more").unwrap();
    fs::remove_file(at("/gone")).unwrap();
    fs::remove_dir(at("/gone too")).unwrap();
    fs::remove_file(at("/link")).unwrap();
    fs::create_dir(at("/link")).unwrap();
    fs::set_permissions(at("/moved/er"), fs::Permissions::from_mode(0o700)).unwrap();
    set_mtime(&at("/a"), 1_000_000_000, 123_456_789).unwrap();
}

fn all_ways(a: &Device, b: &Device) {
    for act in [changes, more_changes] {
        act(&a.folder, "from a");
        act(&b.folder, "from b");
        for device in [a, b, a] {
            device.wait_synced();
        }
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    }
    assert_eq!(fs::read_to_string(b.path("from a/a")).unwrap(), "two, and longer");
    assert_eq!(fs::read_to_string(a.path("from b/moved/full")).unwrap(), "no more");
    for device in [a, b] {
        assert_eq!(device.status().problems, [], "{}", device.name);
    }
}

#[test]
fn two_watched_folders_show_the_same() {
    let world = World::new();
    all_ways(&world.watch("A"), &world.watch("B"));
}

#[test]
fn a_watched_folder_and_a_mount_show_the_same() {
    let world = World::new();
    all_ways(&world.watch("A"), &world.mount("B"));
}

#[test]
fn a_rename_of_a_directory_sends_no_bytes_again() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let mut dice = Dice::new("a_rename_of_a_directory_sends_no_bytes_again");
    fs::create_dir(a.path("d")).unwrap();
    for number in 0..5 {
        fs::write(a.path(format!("d/{number}")), bytes(&mut dice, 400_000)).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let before = (a.status().bytes_sent, b.status().bytes_received);
    fs::rename(a.path("d"), a.path("e")).unwrap();
    fs::rename(a.path("e/0"), a.path("f")).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let after = (a.status().bytes_sent, b.status().bytes_received);
    assert!(after.0 - before.0 < 50_000 && after.1 - before.1 < 50_000, "{before:?} {after:?}");
}

#[test]
fn an_edit_of_a_large_file_sends_and_fetches_what_is_new() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let mut content = bytes(&mut Dice::new("an_edit_of_a_large_file_sends_and_fetches_what_is_new"), 20_000_000);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let before = (a.status().bytes_sent, b.status().bytes_received);
    content.splice(9_000_000..9_000_000, *b"an insertion");
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let after = (a.status().bytes_sent, b.status().bytes_received);
    assert!(after.0 - before.0 < 4_000_000 && after.1 - before.1 < 4_000_000, "{before:?} {after:?}");
}

#[test]
fn what_was_in_the_folder_before_is_shared_and_what_is_equal_is_adopted() {
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.device("B").watched());
    let mut dice = Dice::new("what_was_in_the_folder_before");
    for number in 0..20 {
        let content = bytes(&mut dice, 100_000);
        for device in [&a, &b] {
            fs::create_dir_all(device.path("same")).unwrap();
            fs::write(device.path(format!("same/{number}")), &content).unwrap();
        }
    }
    fs::write(a.path("only a"), "a").unwrap();
    fs::write(b.path("only b"), "b").unwrap();
    a.mount();
    a.wait_synced();
    b.mount();
    b.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&a.folder).unwrap().len(), 23, "nothing was doubled");
    let status = b.status();
    assert!(status.bytes_sent < 100_000 && status.bytes_received < 100_000, "{status:?}");
}

#[test]
fn names_of_editors_and_of_the_rules_stay_here() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::write(a.path(".syncignore"), "*.log\n").unwrap();
    a.wait_synced();
    for name in ["x.log", "~$report.docx", "shared"] {
        fs::write(a.path(name), name).unwrap();
    }
    a.wait_synced();
    until("the shared file at the other side", || fs::read(b.path("shared")).map(drop).map_err(|e| e.to_string()));
    let names = Tree::read_names(&b.folder).unwrap();
    assert_eq!(names.paths(), [".syncignore", "shared"].map(Path::new));
}
