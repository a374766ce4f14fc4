//! A server whose disk is full: what fits is taken, what does not is listed and asked about with pauses, and what makes room
//! always arrives.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;
use syncmount::status::ProblemKind;
use syncmount_tests::support::*;

const LARGE: usize = 40 << 20;

fn is_there(path: &Path) -> Result<(), String> {
    fs::metadata(path).map(drop).map_err(|error| format!("{}: {error}", path.display()))
}

fn unsent(device: &Device) -> Vec<String> {
    let problems = device.status().problems.into_iter();
    let unsent = problems.filter(|problem| problem.kind == ProblemKind::Unsent && problem.reason.contains("no space"));
    unsent.map(|problem| problem.path).collect()
}

fn asks_with_pauses_and_lets_others_pass(is_watched: bool) {
    let mut dice = Dice::new("full_server");
    let (world, disk) = World::on_small_disk("200m");
    let (a, b) = (world.device("A"), world.watch("B"));
    let a = if is_watched { a.watched() } else { a };
    a.mount();
    for name in ["first", "to be renamed", "to be removed"] {
        fs::write(a.path(name), name).unwrap();
    }
    a.wait_synced();
    for number in 0..5 {
        fs::write(a.path(format!("large {number}")), bytes(&mut dice, LARGE)).unwrap();
    }
    let listed = || match unsent(&a) {
        listed if listed.len() >= 2 => Ok(listed),
        listed => Err(format!("{listed:?}: {:?}", a.status())),
    };
    let listed = until("what does not fit to be listed", listed);
    assert!(listed.len() < 5, "some of them fit: {listed:?}");
    // Nothing but a few questions goes over the wire, and what is small passes.
    let before = a.status();
    fs::write(a.path("small"), "small").unwrap();
    fs::rename(a.path("to be renamed"), a.path("renamed")).unwrap();
    fs::remove_file(a.path("to be removed")).unwrap();
    let gone = |name: &str| if b.path(name).exists() { Err(name.to_owned()) } else { Ok(()) };
    until("a small file", || is_there(&b.path("small")));
    until("a new name", || is_there(&b.path("renamed")));
    until("a removal", || gone("to be removed"));
    thread::sleep(Duration::from_secs(10));
    let after = a.status();
    assert!(after.requests - before.requests < 40, "{} requests", after.requests - before.requests);
    assert!(after.bytes_sent - before.bytes_sent < 20 << 20, "{} bytes", after.bytes_sent - before.bytes_sent);
    // Another program takes what was kept free.
    let filler = disk.path().join("filler");
    let mut file = File::create(&filler).unwrap();
    let block = vec![7; 64 * 1024];
    while file.write_all(&block).is_ok() {}
    fs::remove_file(a.path("first")).unwrap();
    until("a removal on a disk without any room", || gone("first"));
    assert!(!disk.path().join("server/ballast").exists());
    if is_watched && !sized(false, true) {
        return;
    }
    // There is room again: what waits is sent by itself, which may take a minute.
    fs::remove_file(&filler).unwrap();
    disk.resize("500m");
    for left in &listed {
        until("the files that there is room for now", || match fs::metadata(b.path(left)) {
            Ok(found) if found.len() == LARGE as u64 => Ok(()),
            found => Err(format!("{found:?}: {:?}", a.status().problems)),
        });
        assert!(fs::read(a.path(left)).unwrap() == fs::read(b.path(left)).unwrap());
    }
    a.wait_synced();
    assert!(unsent(&a).is_empty());
}

#[test]
fn a_full_server_is_asked_with_pauses_and_takes_what_fits() {
    asks_with_pauses_and_lets_others_pass(false);
}

#[test]
fn a_full_server_of_a_watched_folder_is_asked_with_pauses_and_takes_what_fits() {
    asks_with_pauses_and_lets_others_pass(true);
}
