//! What is pinned is on this machine, whatever else is read and whether or not there is a server.

use rustix::fs::getxattr;
use std::fs;
use std::path::Path;
use syncmount::status::Pin;
use syncmount_tests::support::*;

const MIB: usize = 1 << 20;

fn state(path: &Path) -> String {
    let mut buf = [0; 32];
    match getxattr(path, "user.syncmount.state", &mut buf[..]) {
        Ok(len) => String::from_utf8_lossy(&buf[..len]).into_owned(),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
pub(super) fn becomes(path: &Path, wanted: &str) {
    until("the state", || match state(path) {
        found if found == wanted => Ok(()),
        found => Err(format!("{}: {found}, not {wanted}", path.display())),
    });
}

#[track_caller]
fn pin(device: &Device, command: &str, name: &str) -> Said {
    run(device.program().arg(command).arg(device.path(name)))
}

#[track_caller]
fn pins(device: &Device) -> Vec<Pin> {
    let said = run(device.program().arg("pin").arg(&device.folder).args(["--list", "--json"]));
    serde_json::from_str(said.good()).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

/// Two devices, one with little room, and a folder with more than fits there.
fn on_two_devices(name: &str, act: impl FnOnce(&World, &Device, &Device, &mut Dice)) {
    let mut dice = Dice::new(name);
    let world = World::new();
    let a = world.mount("A");
    fs::create_dir_all(a.path("dir/below")).unwrap();
    for name in ["dir/one", "dir/below/two", "other"] {
        fs::write(a.path(name), bytes(&mut dice, 2 * MIB)).unwrap();
    }
    for number in 0..6 {
        fs::write(a.path(format!("much {number}")), bytes(&mut dice, 4 * MIB)).unwrap();
    }
    a.wait_synced();
    let b = world.mount_with("B", &["--cache-size", "16M"]);
    act(&world, &a, &b, &mut dice);
}

/// Reads more than the cache of `b` can hold, and not what the kernel has still in mind.
#[track_caller]
fn read_much(a: &Device, b: &Device) {
    for number in 0..6 {
        let name = format!("much {number}");
        let file = fs::File::open(b.path(&name)).unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        assert!(fs::read(b.path(&name)).unwrap() == fs::read(a.path(&name)).unwrap());
    }
}

#[test]
fn what_is_pinned_is_fetched_and_stays_whatever_else_is_read() {
    on_two_devices("what_is_pinned_is_fetched", |world, a, b, dice| {
        assert_eq!(state(&b.path("dir/one")), "remote");
        pin(b, "pin", "dir").good();
        for name in ["dir/one", "dir/below/two"] {
            becomes(&b.path(name), "pinned");
        }
        assert_eq!((state(&b.path("dir")), state(&b.path("other"))), ("pinned".into(), "remote".into()));
        let all = Pin { path: "dir".into(), files: 2, bytes: 4 * MIB as u64, counted: Some(true), ..Pin::default() };
        until("the list", || match pins(b) {
            found if found == [all.clone()] => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let sum = b.status().pinned;
        assert_eq!((sum.files, sum.bytes, sum.missing_bytes), (2, 4 * MIB as u64, 0));
        assert!(b.ask("status", &[]).good().contains("2 files, 4.00 MiB"), "a person reads it too");
        read_much(a, b);
        // What comes later, and what changes, is fetched without anybody reading it.
        fs::write(a.path("dir/below/late"), bytes(dice, MIB)).unwrap();
        fs::write(a.path("dir/one"), bytes(dice, MIB)).unwrap();
        a.wait_synced();
        for name in ["dir/one", "dir/below/late"] {
            until("the new bytes", || match fs::metadata(b.path(name)).map(|found| found.len()) {
                Ok(len) if len == MIB as u64 => Ok(()),
                other => Err(format!("{other:?}")),
            });
            becomes(&b.path(name), "pinned");
        }
        read_much(a, b);
        // It is all there without the server, also after a remount.
        b.fusermount_u();
        world.while_offline(|| {
            b.mount();
            assert_equal(&a.path("dir"), &b.path("dir"), DirTimes::Ignored);
            assert_eq!(state(&b.path("dir/below/two")), "pinned");
            assert_eq!(pins(b)[0].path, "dir");
        });
        assert_eq!(b.status().problems, []);
    });
}

#[test]
fn a_pin_goes_with_its_file_and_ends_with_it() {
    on_two_devices("a_pin_goes_with_its_file", |_, a, b, _| {
        pin(b, "pin", "dir/one").good();
        pin(b, "pin", "dir/below").good();
        for name in ["dir/one", "dir/below/two"] {
            becomes(&b.path(name), "pinned");
        }
        // As editors save: a backup beside it, or a new file in its place.
        fs::rename(b.path("dir/one"), b.path("dir/one~")).unwrap();
        fs::write(b.path("dir/one"), "saved").unwrap();
        fs::remove_file(b.path("dir/one~")).unwrap();
        becomes(&b.path("dir/one"), "pinned");
        fs::write(b.path("dir/fresh"), "saved again").unwrap();
        fs::rename(b.path("dir/fresh"), b.path("dir/one")).unwrap();
        becomes(&b.path("dir/one"), "pinned");
        let both = ["dir/below", "dir/one"];
        until("two pins", || match pins(b) {
            found if found.iter().map(|pin| &pin.path).eq(both) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        // Renamed here and elsewhere.
        fs::rename(b.path("dir/one"), b.path("renamed")).unwrap();
        fs::rename(a.path("dir/below"), a.path("moved")).unwrap();
        becomes(&b.path("moved/two"), "pinned");
        becomes(&b.path("renamed"), "pinned");
        // Moved in, by its directory.
        fs::rename(b.path("other"), b.path("moved/other")).unwrap();
        becomes(&b.path("moved/other"), "pinned");
        let refused = pin(b, "unpin", "moved/two");
        assert!(
            refused.refusal().ends_with("moved/two: it is kept because moved is pinned; unpin that"),
            "{refused:?}"
        );
        assert!(pin(b, "unpin", "much 1").refusal().ends_with("much 1: it is not pinned"));
        pin(b, "unpin", "moved").good();
        assert_eq!(state(&b.path("moved/two")), "cached");
        becomes(&b.path("renamed"), "pinned");
        fs::remove_file(b.path("renamed")).unwrap();
        assert_eq!(pins(b), []);
        // What is not pinned any more makes room.
        until("the end of the pins", || match b.status().pinned.files {
            0 => Ok(()),
            other => Err(other.to_string()),
        });
        read_much(a, b);
        assert_eq!(state(&b.path("moved/two")), "remote");
    });
}

#[test]
fn more_pinned_than_there_is_room_for_is_told_and_everything_can_be_read() {
    on_two_devices("more_pinned_than_there_is_room_for", |_, a, b, _| {
        run(b.program().arg("pin").arg(&b.folder)).good();
        let told = until("the word", || match b.status().problems.as_slice() {
            [problem] => Ok(problem.reason.clone()),
            other => Err(format!("{other:?}")),
        });
        assert!(told.contains("--cache-size"), "{told}");
        read_much(a, b);
        assert!(b.status().cache_used <= 17 * MIB as u64);
        assert_eq!(pins(b)[0].path, "");
        run(b.program().arg("unpin").arg(&b.folder)).good();
        until("no word any more", || match b.status().problems.as_slice() {
            [] => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
}

#[test]
fn who_pins_can_wait_until_it_is_here_and_a_list_counts_what_was_pinned_just_now() {
    on_two_devices("who_pins_can_wait", |world, _, b, _| {
        for name in ["dir", "dir/below"] {
            pin(b, "pin", name).good();
            let found = pins(b);
            let found = found.iter().find(|pin| pin.path == name).unwrap();
            assert!(found.counted == Some(true) && found.files > 0, "{found:?}");
        }
        let wait = |name: &str| run(b.program().args(["pin", "--wait", "--timeout", "60s"]).arg(b.path(name)));
        let said = wait("other");
        assert!(said.good().ends_with("other: all of it is here\n"), "{said:?}");
        assert_eq!(state(&b.path("other")), "pinned");
        // Without the server it waits no longer than it may, and says what it waits for.
        world.while_offline(|| {
            until("the end of the connection", || if b.status().connected { Err("still".into()) } else { Ok(()) });
            let said = run(b.program().args(["pin", "--wait", "--timeout", "1s"]).arg(b.path("much 1")));
            assert!(said.code == Some(1) && said.stderr.contains("the time ran out; left: much 1: 1 file"), "{said:?}");
            assert!(said.stderr.contains("waiting for"), "{said:?}");
        });
        assert!(wait("much 1").good().contains("all of it is here"));
        // What does not fit is not waited for.
        let said = run(b.program().args(["pin", "--wait"]).arg(&b.folder));
        assert!(said.code == Some(1) && said.stderr.contains("--cache-size"), "{said:?}");
    });
}

#[test]
fn what_cannot_be_pinned_is_refused_with_a_reason() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.watch("B"));
    fs::write(a.path("file"), "content").unwrap();
    until("the file at B", || fs::read(b.path("file")).map_err(|error| error.to_string()));
    assert!(pin(&b, "pin", "file").refusal().contains("is on this machine anyhow"));
    assert!(run(a.program().arg("pin").arg(&a.home)).refusal().contains("is in no folder that is mounted here"));
    assert!(pin(&a, "pin", "none").refusal().contains("cannot look at"));
}
