//! Two mounts of one folder show the same.

use std::process::Command;
use syncmount_tests::support::*;

#[test]
fn a_tree_copied_into_one_mount_and_edited_on_both_is_equal_on_both_and_after_a_fresh_start() {
    let mut dice = Dice::new("a_tree_copied_into_one_mount");
    let world = World::new();
    let (a, mut b) = (world.mount("A"), world.mount("B"));
    let mirror = world.path("mirror");
    std::fs::create_dir(&mirror).unwrap();
    random_tree(&mut dice, &mirror, 800).unwrap();

    run(Command::new("cp").arg("-a").arg(mirror.join(".")).arg(&a.folder)).good();
    assert_equal(&mirror, &a.folder, DirTimes::Compared);
    a.wait_synced();
    assert_become_equal(&mirror, &b.folder, DirTimes::Compared);

    // Different subtrees, at the same time.
    let seeds = [(&a, 0..4), (&b, 4..8)].map(|(device, subtrees)| (device, subtrees, dice.fork()));
    std::thread::scope(|scope| {
        for (device, subtrees, mut dice) in seeds {
            let twin = Twin { mount: &device.folder, mirror: &mirror };
            scope.spawn(move || {
                for number in subtrees {
                    random_edits(&mut dice, &twin, &format!("t{number}"), 40);
                }
            });
        }
    });
    for device in [&a, &b] {
        device.wait_synced();
    }
    for device in [&a, &b] {
        assert_become_equal(&mirror, &device.folder, DirTimes::Ignored);
        assert_eq!(device.status().problems, []);
    }

    b.fusermount_u();
    b = b.with(&["--cache-dir".as_ref(), world.path("empty cache").as_os_str()]);
    b.mount();
    assert_become_equal(&mirror, &b.folder, DirTimes::Ignored);
    assert_equal(&mirror, &a.folder, DirTimes::Ignored);
}

#[test]
fn folders_of_one_server_do_not_mix() {
    let world = World::new();
    world.server().command(&["folder", "add", "photos"]);
    let (default, photos) = (world.mount("A"), world.mount_with("B", &["--folder", "photos"]));
    std::fs::write(default.path("only here"), "1").unwrap();
    std::fs::write(photos.path("only there"), "2").unwrap();
    for device in [&default, &photos] {
        device.wait_synced();
    }
    let third = world.mount_with("C", &["--folder", "photos"]);
    assert_become_equal(&photos.folder, &third.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&third.folder).unwrap().paths(), ["only there"].map(std::path::Path::new));
    assert_eq!(Tree::read_names(&default.folder).unwrap().paths(), ["only here"].map(std::path::Path::new));
}
