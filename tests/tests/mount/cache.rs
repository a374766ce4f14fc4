//! The cache obeys its limit.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;

/// The largest chunk of a file of this size: what may come in while something else goes.
const TOLERANCE: u64 = MIB;

fn on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => on_disk(&entry.path()),
            Ok(found) => found.blocks() * 512,
            // Evicted while we count.
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_small_cache_stays_within_its_limit_and_every_byte_is_right() {
    let mut dice = Dice::new("a_small_cache_stays_within_its_limit");
    let world = World::new();
    let cache = world.path("cache of B");
    let a = world.mount("A");
    let b =
        world.mount_with("B", &["--cache-size".as_ref(), "20M".as_ref(), "--cache-dir".as_ref(), cache.as_os_str()]);
    let files = 25;
    for number in 0..files {
        fs::write(a.path(number.to_string()), bytes(&mut dice, 4 * MIB as usize)).unwrap();
    }
    a.wait_synced();
    until("the files at B", || match fs::read_dir(&b.folder).map(Iterator::count) {
        Ok(count) if count == files => Ok(()),
        other => Err(format!("{other:?}")),
    });
    assert_eq!(b.status().cache_limit, 20 * MIB);
    // Twice, so that what was evicted is fetched again.
    for number in (0..files).chain(0..files / 2) {
        let name = number.to_string();
        assert_eq!(sha256(&b.path(&name)).unwrap(), sha256(&a.path(&name)).unwrap(), "file {name}");
        let used = b.status().cache_used;
        assert!(used <= 20 * MIB + TOLERANCE, "{used} bytes after file {name}");
        let disk = on_disk(&cache.join("cache"));
        assert!(disk <= 20 * MIB + 2 * TOLERANCE, "{disk} bytes on the disk after file {name}");
    }
    assert!(b.status().cache_used > 4 * MIB, "it does keep something");
    assert!(b.status().bytes_received > 100 * MIB, "everything was fetched");
}

#[test]
fn a_file_larger_than_the_cache_can_be_read_and_written() {
    let mut dice = Dice::new("a_file_larger_than_the_cache");
    let world = World::new();
    let (a, b) = (world.mount_with("A", &["--cache-size", "8M"]), world.mount_with("B", &["--cache-size", "8M"]));
    fs::write(a.path("large"), bytes(&mut dice, 30 * MIB as usize)).unwrap();
    let expected = sha256(&a.path("large")).unwrap();
    a.wait_synced();
    until("the file at B", || match fs::metadata(b.path("large")).map(|found| found.len()) {
        Ok(len) if len == 30 * MIB => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for device in [&b, &a] {
        assert_eq!(sha256(&device.path("large")).unwrap(), expected, "at {}", device.name);
        let used = device.status().cache_used;
        assert!(used <= 8 * MIB + TOLERANCE, "{used} bytes at {}", device.name);
    }
}
