//! Two devices change the same while they cannot speak, and one or both of them watch.

use std::fs;
use std::path::Path;
use syncmount_tests::support::*;

fn write_at(path: &Path, content: &str, seconds: i64) {
    fs::write(path, content).unwrap();
    set_mtime(path, seconds, 0).unwrap();
}

fn apart(a: &Device, b: &Device, world: &World) {
    for (name, content) in [("both", "0"), ("equal", "0"), ("edited", "0"), ("removed", "0")] {
        write_at(&a.path(name), content, 1000);
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    world.while_offline(|| {
        write_at(&a.path("both"), "newer", 3000);
        write_at(&b.path("both"), "older", 2000);
        write_at(&a.path("equal"), "same", 3000);
        write_at(&b.path("equal"), "same", 2000);
        fs::remove_file(a.path("edited")).unwrap();
        write_at(&b.path("edited"), "stays", 2000);
        fs::remove_file(a.path("removed")).unwrap();
        fs::remove_file(b.path("removed")).unwrap();
        write_at(&a.path("made"), "newer", 3000);
        write_at(&b.path("made"), "older", 2000);
    });
    for device in [a, b, a, b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let read = |name: &str| fs::read_to_string(a.path(name)).unwrap();
    assert_eq!([read("both"), read("equal"), read("edited"), read("made")], ["newer", "same", "stays", "newer"]);
    assert!(!a.path("removed").exists());
    let names = Tree::read_names(&a.folder).unwrap();
    let copies: Vec<&Path> = names.paths().into_iter().filter(|path| escaped(path).contains("(conflict, ")).collect();
    assert_eq!(copies.len(), 2, "{copies:?}");
    for copy in copies {
        assert_eq!(fs::read_to_string(a.path(copy)).unwrap(), "older");
    }
}

#[test]
fn two_watched_folders_keep_both_versions() {
    let world = World::new();
    apart(&world.watch("A"), &world.watch("B"), &world);
}

#[test]
fn a_watched_folder_and_a_mount_keep_both_versions() {
    let world = World::new();
    apart(&world.watch("A"), &world.mount("B"), &world);
}

#[test]
fn a_mount_and_a_watched_folder_keep_both_versions() {
    let world = World::new();
    apart(&world.mount("A"), &world.watch("B"), &world);
}

/// The folder is not watched while the other side changes the same: the edit was made without having seen that.
#[test]
fn an_edit_of_what_has_changed_unseen_overwrites_nothing() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    write_at(&a.path("file"), "0", 1000);
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    a.stop();
    write_at(&b.path("file"), "of b", 3000);
    write_at(&a.path("file"), "of a", 2000);
    b.wait_synced();
    a.mount();
    for device in [&a, &b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(a.path("file")).unwrap(), "of b");
    assert_eq!(Tree::read_names(&a.folder).unwrap().len(), 2);
}
