//! A folder that was not watched for a while, for whatever reason, catches up in both directions.

use std::fs;
use syncmount_tests::support::*;

#[test]
fn changes_on_both_sides_meanwhile_meet_after_a_stop_and_after_kill_9() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    for name in ["edit a", "edit b", "remove a", "remove b", "move a", "move b"] {
        fs::create_dir(a.path(name)).unwrap();
        fs::write(a.path(name).join("file"), name).unwrap();
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let ends: [fn(&Device); 2] = [Device::stop, Device::kill];
    for (round, end) in ends.into_iter().enumerate() {
        end(&a);
        for (device, side) in [(&a, "a"), (&b, "b")] {
            let at = |what: &str| device.path(format!("{what} {side}"));
            fs::write(at("edit").join("file"), format!("edited {round}")).unwrap();
            fs::remove_dir_all(at("remove")).unwrap();
            fs::create_dir(at("remove")).unwrap();
            fs::write(at("remove").join(format!("new {round}")), "new").unwrap();
            let to = at("move").join(format!("moved {round}"));
            fs::rename(at("move").join(if round == 0 { "file" } else { "moved 0" }), to).unwrap();
        }
        b.wait_synced();
        a.mount();
        a.wait_synced();
        b.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        assert_eq!(fs::read_to_string(b.path("edit a/file")).unwrap(), format!("edited {round}"));
        assert_eq!(fs::read_to_string(a.path("edit b/file")).unwrap(), format!("edited {round}"));
        assert!(!Tree::read_names(&a.folder).unwrap().paths().iter().any(|path| escaped(path).contains("conflict")));
    }
}

#[test]
fn a_folder_that_is_killed_again_and_again_loses_nothing() {
    let mut dice = Dice::new("a_folder_that_is_killed_again_and_again_loses_nothing");
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let mirror = world.path("mirror");
    fs::create_dir_all(mirror.join("t0")).unwrap();
    fs::create_dir(a.path("t0")).unwrap();
    for _ in 0..6 {
        let twin = Twin { mount: &a.folder, mirror: &mirror };
        random_edits(&mut dice, &twin, "t0", 40);
        a.kill();
        b.kill();
        random_edits(&mut dice, &twin, "t0", 10);
        a.mount();
        b.mount();
    }
    a.wait_synced();
    assert_become_equal(&mirror, &a.folder, DirTimes::Ignored);
    assert_become_equal(&mirror, &b.folder, DirTimes::Ignored);
}

#[test]
fn a_server_that_is_away_deletes_nothing_and_gets_everything_later() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::write(a.path("before"), "1").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    world.while_offline(|| {
        fs::write(a.path("meanwhile"), "2").unwrap();
        fs::remove_file(b.path("before")).unwrap();
        b.stop();
        b.mount();
    });
    for device in [&a, &b, &a] {
        device.wait_synced();
    }
    until("the same at both", || match (a.path("before").exists(), b.path("meanwhile").exists()) {
        (false, true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}
