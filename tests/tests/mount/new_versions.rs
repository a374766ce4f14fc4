//! New versions of files whose earlier ones are in the cache: only what is new comes over the wire.

use super::cache_verify::cached_files;
use super::pins::becomes;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;
const LEN: u64 = 64 * MIB;

/// What 4 KiB of a new version may cost: themselves, what tells the rest, and the feed. One chunk would be more.
const LITTLE: u64 = 32 * 1024;

/// A file whose first version both devices have whole.
struct Shared<'a> {
    a: &'a Device,
    b: &'a Device,
    dice: Dice,
    content: Vec<u8>,
}

impl<'a> Shared<'a> {
    /// What comes depends on where chunks are cut, so the bytes are the same each time.
    fn new(seed: u64, a: &'a Device, b: &'a Device) -> Self {
        let mut dice = Dice::fixed(seed);
        let content = bytes(&mut dice, LEN as usize);
        fs::write(a.path("file"), &content).unwrap();
        a.wait_synced();
        let shared = Self { a, b, dice, content };
        let received = shared.received(|| shared.read_whole());
        assert!(received > LEN, "{received} bytes came of the first version");
        shared
    }

    /// Bytes that B receives meanwhile.
    fn received(&self, act: impl FnOnce()) -> u64 {
        let before = self.b.status().bytes_received;
        act();
        self.b.status().bytes_received - before
    }

    /// Until B shows the last version.
    fn await_version(&self) {
        let expected = fs::metadata(self.a.path("file")).unwrap();
        until("the version at B", || match fs::metadata(self.b.path("file")) {
            Ok(found) if (found.len(), found.mtime_nsec()) == (expected.len(), expected.mtime_nsec()) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }

    fn read_whole(&self) {
        self.await_version();
        assert!(fs::read(self.b.path("file")).unwrap() == self.content, "other bytes at B");
    }

    fn change(&mut self, at: u64) -> Vec<u8> {
        let change = bytes(&mut self.dice, 4096);
        self.content[at as usize..at as usize + change.len()].copy_from_slice(&change);
        change
    }

    /// Changes 4 KiB at A.
    fn edit(&mut self, at: u64) {
        let change = self.change(at);
        OpenOptions::new().write(true).open(self.a.path("file")).unwrap().write_all_at(&change, at).unwrap();
        self.a.wait_synced();
    }

    /// The same as programs save: a new file, and a rename over the old one.
    fn save(&mut self, at: u64) {
        self.change(at);
        fs::write(self.a.path("file.part"), &self.content).unwrap();
        fs::rename(self.a.path("file.part"), self.a.path("file")).unwrap();
        self.a.wait_synced();
    }
}

/// The files in a cache that hold whole contents of this size.
fn objects(cache: &Path) -> Vec<PathBuf> {
    let is_ours = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.len() == LEN);
    cached_files(&cache.join("cache/objects")).into_iter().filter(is_ours).collect()
}

#[test]
fn of_a_new_version_comes_what_the_old_one_in_the_cache_has_not() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut file = Shared::new(1, &a, &b);
    file.edit(LEN / 2 + 12_345);
    let edited = file.received(|| file.read_whole());
    assert!((4096..LITTLE).contains(&edited), "{edited} bytes came for 4 KiB");
    file.save(LEN / 4);
    let saved = file.received(|| file.read_whole());
    assert!((4096..LITTLE).contains(&saved), "{saved} bytes came for 4 KiB of a file that was saved anew");

    // Versions that nobody has read here are no loss.
    for part in 0..6 {
        file.edit(part * 3 * MIB);
    }
    let last = file.received(|| file.read_whole());
    assert!((6 * 4096..MIB).contains(&last), "{last} bytes came for 24 KiB at six places");

    // Nor is a device that was away.
    b.fusermount_u();
    file.edit(LEN - 5000);
    b.mount();
    let away = file.received(|| file.read_whole());
    assert!((4096..LITTLE).contains(&away), "{away} bytes came for 4 KiB that were changed meanwhile");
}

#[test]
fn what_is_pinned_comes_by_its_difference_without_being_read() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut file = Shared::new(2, &a, &b);
    run(b.program().arg("pin").arg(b.path("file"))).good();
    let received = file.b.status().bytes_received;
    file.edit(LEN / 3);
    file.await_version();
    becomes(&b.path("file"), "pinned");
    let received = b.status().bytes_received - received;
    assert!((4096..LITTLE).contains(&received), "{received} bytes came for 4 KiB");
    assert_eq!(file.received(|| file.read_whole()) / 4096, 0, "all of it is here");
}

#[test]
fn a_difference_to_bytes_that_went_bad_does_no_harm() {
    let world = World::new();
    let cache = world.path("cache of B");
    let a = world.mount("A");
    let b = world.mount_with("B", &["--cache-dir".as_ref(), cache.as_os_str()]);
    let mut file = Shared::new(3, &a, &b);
    let [old] = objects(&cache).try_into().unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o600)).unwrap();
    // Where the new version differs, so that the chunk beneath is the one that is damaged.
    OpenOptions::new().write(true).open(&old).unwrap().write_all_at(b"damage", LEN / 2 + 2000).unwrap();
    file.edit(LEN / 2);
    let received = file.received(|| file.read_whole());
    assert!((LITTLE..2 * MIB).contains(&received), "{received} bytes came in the place of one damaged chunk");
    file.edit(LEN / 2 + 100);
    let received = file.received(|| file.read_whole());
    assert!((4096..LITTLE).contains(&received), "{received} bytes came when all was right again");
}

#[test]
fn who_reads_a_little_of_a_new_version_fetches_nothing_that_is_here() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut file = Shared::new(4, &a, &b);
    file.edit(LEN / 2);
    file.await_version();
    let reader = File::open(b.path("file")).unwrap();
    rustix::fs::fadvise(&reader, 0, None, rustix::fs::Advice::Random).unwrap();
    let mut found = vec![0; 4096];
    let received = file.received(|| {
        for at in (0..30).map(|part| part * MIB + 777) {
            reader.read_exact_at(&mut found, at).unwrap();
            assert!(found == file.content[at as usize..at as usize + 4096], "other bytes at {at}");
        }
    });
    // The list of the chunks, and a request for each read, would be more.
    assert!(received < 32 * 1024, "{received} bytes came for what was here");
}

#[test]
fn what_became_of_the_old_version_in_the_cache_does_no_harm() {
    let world = World::new();
    let cache = world.path("cache of B");
    let a = world.mount("A");
    let b = world.mount_with("B", &["--cache-dir".as_ref(), cache.as_os_str()]);
    let mut file = Shared::new(5, &a, &b);

    // Damaged here and there: what is right of it is of use still.
    file.edit(LEN / 2);
    let [old] = objects(&cache).try_into().unwrap();
    fs::set_permissions(&old, fs::Permissions::from_mode(0o600)).unwrap();
    let damaged = OpenOptions::new().write(true).open(&old).unwrap();
    for part in 0..10 {
        damaged.write_all_at(b"damage", part * 2 * MIB + 9999).unwrap();
    }
    let received = file.received(|| file.read_whole());
    assert!((MIB..40 * MIB).contains(&received), "{received} bytes came in the place of ten damaged parts");

    // Cut short while it is in use.
    file.edit(LEN / 3);
    for object in objects(&cache) {
        fs::set_permissions(&object, fs::Permissions::from_mode(0o600)).unwrap();
        OpenOptions::new().write(true).open(&object).unwrap().set_len(5 * MIB).unwrap();
    }
    let received = file.received(|| file.read_whole());
    assert!(received > 50 * MIB, "{received} bytes came although nearly nothing was here");

    // Gone.
    b.fusermount_u();
    file.edit(LEN / 4);
    objects(&cache).iter().for_each(|object| fs::remove_file(object).unwrap());
    b.mount();
    let received = file.received(|| file.read_whole());
    assert!(received > LEN, "{received} bytes came although nothing was here");
}

#[test]
fn a_cache_with_room_for_one_version_gives_the_old_one_for_the_new_one() {
    let world = World::new();
    let a = world.mount("A");
    let b = world.mount_with("B", &["--cache-size", "80M"]);
    let mut file = Shared::new(6, &a, &b);
    for at in [0, LEN / 2, LEN - 4096] {
        file.edit(at);
        file.read_whole();
        let used = b.status().cache_used;
        assert!((LEN / 2..=81 * MIB).contains(&used), "{used} bytes in the cache");
    }
}
