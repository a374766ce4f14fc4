//! Bytes that the server has lost come back from the devices that have them, without anything done by hand.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use syncmount_tests::support::*;

/// Long enough for chunks of their own in packs.
const LARGE: usize = 3 << 20;

/// More files, and so chunks, than the server names at a time.
const MANY: usize = 1300;

/// All packs below the server's data directory.
fn packs(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![data.join("packs")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found
}

/// Turns bits of every pack over, some in each 8 KiB: few chunks are left sound.
fn damage(world: &World) {
    let data = world.server().data().to_owned();
    let packs = packs(&data);
    assert!(!packs.is_empty());
    for pack in packs {
        let mut bytes = fs::read(&pack).unwrap();
        for at in (1000..bytes.len()).step_by(8 << 10) {
            bytes[at] ^= 0x55;
        }
        fs::write(&pack, bytes).unwrap();
    }
}

/// Reads a file until that succeeds.
fn comes_back(device: &Device, name: &str, expected: &[u8]) {
    until("the bytes to come back", || match fs::read(device.path(name)) {
        Ok(found) if found == expected => Ok(()),
        Ok(found) => Err(format!("{} other bytes", found.len())),
        Err(error) => Err(format!("{name}: {error}; {:?}", device.status().problems)),
    });
}

fn check(world: &World, options: &[&str]) -> (bool, String) {
    let said = world.while_offline(|| world.server().check(options));
    (said.code == Some(0), said.stdout)
}

fn what_a_read_finds_damaged_is_sent_again(holder_watches: bool) {
    let mut dice = Dice::new("healing");
    let world = World::new();
    let holder = if holder_watches { world.watch("A") } else { world.mount("A") };
    let reader = world.mount("B");
    let large = bytes(&mut dice, LARGE);
    fs::write(holder.path("large"), &large).unwrap();
    holder.wait_synced();
    damage(&world);
    comes_back(&reader, "large", &large);
    reader.wait_synced();
    let (is_sound, said) = check(&world, &[]);
    assert!(is_sound || !said.contains(":/large"), "{said}");
}

#[test]
fn what_a_read_finds_damaged_comes_back_from_a_mount() {
    what_a_read_finds_damaged_is_sent_again(false);
}

#[test]
fn what_a_read_finds_damaged_comes_back_from_a_watched_folder() {
    what_a_read_finds_damaged_is_sent_again(true);
}

/// What one device alone has.
fn what_a_repair_finds_damaged_comes_back(holder_watches: bool) {
    let mut dice = Dice::new("healing-repair");
    let world = World::new();
    let holder = if holder_watches { world.watch("A") } else { world.mount("A") };
    fs::write(holder.path("large"), bytes(&mut dice, LARGE)).unwrap();
    // More chunks than one page names.
    fs::create_dir(holder.path("many")).unwrap();
    for number in 0..MANY {
        fs::write(holder.path("many").join(format!("{number}")), bytes(&mut dice, 20_000)).unwrap();
    }
    holder.wait_synced();
    damage(&world);
    let (is_sound, said) = check(&world, &["--repair"]);
    assert!(!is_sound && said.contains("devices that have them are asked"), "{said}");
    until("the store to be whole", || {
        std::thread::sleep(Duration::from_secs(2));
        let (is_sound, said) = check(&world, &[]);
        if is_sound { Ok(()) } else { Err(format!("{:.2000} {:?}", said, holder.status().problems)) }
    });
}

#[test]
fn what_a_repair_finds_damaged_comes_back_from_a_mount_although_it_is_not_read() {
    what_a_repair_finds_damaged_comes_back(false);
}

#[test]
fn what_a_repair_finds_damaged_comes_back_from_a_watched_folder_although_it_is_not_read() {
    what_a_repair_finds_damaged_comes_back(true);
}

#[test]
fn what_the_server_forgot_comes_back_and_nothing_stays_listed() {
    let mut dice = Dice::new("healing-forgot");
    let world = World::new();
    let (a, b, c) = (world.mount("A"), world.mount("B"), world.watch("C"));
    fs::write(a.path("first"), "first").unwrap();
    a.wait_synced();
    // What comes now is in the log of the database only, and that is lost.
    let mut written = Vec::new();
    world.while_offline(|| ());
    for (number, len) in [100, 5000, 300_000, LARGE, 20 << 20].into_iter().enumerate() {
        let (name, content) = (format!("file {number}"), bytes(&mut dice, len));
        let by = if number % 2 == 0 { &a } else { &c };
        fs::write(by.path(&name), &content).unwrap();
        written.push((name, content));
    }
    a.wait_synced();
    c.wait_synced();
    b.wait_synced();
    let log = world.server().data().join("meta.sqlite-wal");
    world.server().kill();
    assert!(fs::metadata(&log).unwrap().len() > 0);
    fs::remove_file(&log).unwrap();
    world.server().start();
    for (name, content) in &written {
        comes_back(&b, name, content);
    }
    for device in [&a, &b, &c] {
        device.wait_synced();
        until("nothing to be listed", || match device.status().problems {
            problems if problems.is_empty() => Ok(()),
            problems => Err(format!("{problems:?}")),
        });
    }
}
