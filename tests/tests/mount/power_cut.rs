//! The power goes: under the client, under the server, under both. What was fsynced or acknowledged is there afterwards, and
//! nobody ever sees a file that is empty, short or mixed.
//!
//! The programs keep their folders on disks that forget what was not synced. They are killed, the disk loses what the seed
//! says, and they start again as after a boot.

use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use syncmount::status::ProblemKind;
use syncmount_tests::support::*;

/// Names that the writer uses.
const NAMES: [&str; 9] = ["f0", "f1", "f2", "f3", "f4", "d0/f5", "d0/f6", "d1/f7", "d1/d2/f8"];

/// What is known of one path.
#[derive(Default)]
struct Known {
    /// What it is after the last promise (fsync, or the server's acknowledgement); `None` is "nothing".
    promised: Option<Vec<u8>>,
    /// What it became since then, step by step.
    since: Vec<Option<Vec<u8>>>,
    /// Every byte string that was ever there as a whole.
    ever: BTreeSet<Vec<u8>>,
    /// What was written here has been overwritten in place since the promise, so nobody knows what the disk has of it.
    doubtful: bool,
    /// What the server has acknowledged last.
    acknowledged: Option<Vec<u8>>,
    /// What it became since then.
    unacknowledged: Vec<Option<Vec<u8>>>,
}

impl Known {
    fn now(&self) -> Option<&Vec<u8>> {
        self.since.last().unwrap_or(&self.promised).as_ref()
    }

    fn becomes(&mut self, state: Option<Vec<u8>>) {
        self.ever.extend(state.clone());
        self.unacknowledged.push(state.clone());
        self.since.push(state);
    }

    fn promise(&mut self) {
        if let Some(now) = self.since.pop() {
            self.promised = now;
        }
        self.since.clear();
        self.doubtful = false;
    }

    fn allows(&self, found: Option<&Vec<u8>>) -> bool {
        let is = |state: &Option<Vec<u8>>| state.as_ref() == found;
        is(&self.promised) || self.since.iter().any(is)
    }
}

/// Bytes that were fsynced and not changed since, and where renames may have brought them.
struct Pin {
    bytes: Vec<u8>,
    places: Vec<String>,
}

/// Writes, and keeps the book on what it was promised.
struct Writer {
    folder: PathBuf,
    known: BTreeMap<String, Known>,
    pins: Vec<Pin>,
    /// By its present name: the names that a file has had since its bytes were promised.
    trails: BTreeMap<String, Vec<String>>,
    number: u32,
}

impl Writer {
    fn new(folder: &Path) -> Self {
        for dir in ["d0", "d1/d2"] {
            fs::create_dir_all(folder.join(dir)).unwrap();
        }
        Self { folder: folder.to_owned(), known: BTreeMap::new(), pins: Vec::new(), trails: BTreeMap::new(), number: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn known(&mut self, name: &str) -> &mut Known {
        self.known.entry(name.to_owned()).or_default()
    }

    fn existing(&self, dice: &mut Dice) -> Option<String> {
        let names: Vec<_> = self.known.iter().filter(|(_, known)| known.now().is_some()).collect();
        (!names.is_empty()).then(|| names[dice.random_range(0..names.len())].0.clone())
    }

    /// What was pinned at `name` is not what one would see there any more.
    fn unpin(&mut self, name: &str) {
        self.pins.retain(|pin| pin.places.last().is_none_or(|place| place != name));
    }

    fn wrote(&mut self, name: &str, content: Vec<u8>, synced: bool, in_place: bool) {
        self.unpin(name);
        let known = self.known(name);
        known.becomes(Some(content.clone()));
        if synced {
            known.promise();
            self.pins.push(Pin { bytes: content, places: vec![name.to_owned()] });
            self.trails.insert(name.to_owned(), vec![name.to_owned()]);
            return;
        }
        let trail = self.trails.entry(name.to_owned()).or_insert_with(|| vec![name.to_owned()]).clone();
        for place in trail.iter().filter(|_| in_place) {
            self.known(place).doubtful = true;
        }
    }

    /// Everything that was done so far is at the server.
    fn acknowledged(&mut self) {
        self.trails = self.trails.keys().map(|name| (name.clone(), vec![name.clone()])).collect();
        for known in self.known.values_mut() {
            known.promise();
            known.acknowledged.clone_from(&known.promised);
            known.unacknowledged.clear();
        }
    }

    fn whole(&mut self, dice: &mut Dice, name: &str, synced: bool) {
        let content = content(dice);
        let mut file = File::create(self.path(name)).unwrap();
        content.chunks(64 * 1024).for_each(|piece| file.write_all(piece).unwrap());
        if synced {
            file.sync_all().unwrap();
        }
        drop(file);
        self.wrote(name, content, synced, true);
    }

    fn append(&mut self, dice: &mut Dice, name: &str, synced: bool) {
        let more = content(dice);
        let mut file = OpenOptions::new().append(true).open(self.path(name)).unwrap();
        file.write_all(&more).unwrap();
        if synced {
            file.sync_all().unwrap();
        }
        drop(file);
        let content = [self.known(name).now().unwrap().as_slice(), &more].concat();
        self.wrote(name, content, synced, true);
    }

    fn patch(&mut self, dice: &mut Dice, name: &str, synced: bool) {
        let mut content = self.known(name).now().unwrap().clone();
        if content.is_empty() {
            return;
        }
        let at = dice.random_range(0..content.len());
        let len = dice.random_range(1..=(content.len() - at).min(60_000));
        let change = bytes(dice, len);
        content[at..at + len].copy_from_slice(&change);
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.write_all_at(&change, at as u64).unwrap();
        if synced {
            file.sync_data().unwrap();
        }
        drop(file);
        self.wrote(name, content, synced, true);
    }

    /// As editors save: beside it, then over it.
    fn save(&mut self, dice: &mut Dice, name: &str, synced: bool) {
        self.number += 1;
        let temporary = format!("save-{}", self.number);
        self.whole(dice, &temporary, synced);
        self.rename(&temporary, name);
        if synced {
            File::open(self.path(name).parent().unwrap()).unwrap().sync_all().unwrap();
            self.known(name).promise();
            self.known(&temporary).promise();
        }
    }

    fn rename(&mut self, from: &str, to: &str) {
        if from == to {
            return;
        }
        fs::rename(self.path(from), self.path(to)).unwrap();
        self.unpin(to);
        for pin in &mut self.pins {
            if pin.places.last().is_some_and(|place| place == from) {
                pin.places.push(to.to_owned());
            }
        }
        let mut trail = self.trails.remove(from).unwrap_or_else(|| vec![from.to_owned()]);
        trail.push(to.to_owned());
        self.trails.insert(to.to_owned(), trail);
        let moved = self.known(from).now().cloned();
        // Its bytes are as doubtful as they were; what it replaces must not be lost for that.
        let doubtful = self.known(from).doubtful;
        let source = self.known(from);
        let earlier: Vec<_> = source.unacknowledged.iter().chain([&source.acknowledged]).cloned().collect();
        source.becomes(None);
        let target = self.known(to);
        let had_something = target.now().is_some();
        target.becomes(moved);
        // The new name may reach the server before the last bytes do.
        target.unacknowledged.extend(earlier);
        target.doubtful |= doubtful && !had_something;
        if !had_something {
            // Nothing was promised there, so whatever the moved file may be is allowed: nothing, too.
            target.since.insert(0, None);
        }
    }

    fn remove(&mut self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
        self.unpin(name);
        self.trails.remove(name);
        self.known(name).becomes(None);
    }

    fn step(&mut self, dice: &mut Dice) {
        let name = NAMES[dice.random_range(0..NAMES.len())].to_owned();
        let synced = dice.random_bool(0.35);
        match (dice.random_range(0..12), self.existing(dice)) {
            (0 | 1, Some(existing)) => self.append(dice, &existing, synced),
            (2..5, Some(existing)) => self.patch(dice, &existing, synced),
            (5 | 6, Some(existing)) => self.rename(&existing, &name),
            (7, Some(existing)) => self.remove(&existing),
            (8 | 9, _) => self.save(dice, &name, synced),
            _ => self.whole(dice, &name, synced),
        }
    }

    fn steps(&mut self, dice: &mut Dice, count: usize) {
        for _ in 0..count {
            self.step(dice);
            if dice.random_bool(0.08) {
                // Long enough for the journal to be folded, and for what is quiet to be sent.
                std::thread::sleep(Duration::from_millis(dice.random_range(0..2500)));
            }
        }
    }

    /// What was fsynced and left alone is there.
    fn assert_pins(&self, what: &str) {
        for Pin { bytes, places } in &self.pins {
            let found: Vec<_> = places.iter().map(|place| fs::read(self.path(place))).collect();
            assert!(
                found.iter().flatten().any(|found| found == bytes),
                "{what}: {} bytes were fsynced at {} and are not at {places:?}: {:?}; there are {:?}",
                bytes.len(),
                places[0],
                found.iter().map(|found| found.as_ref().map(Vec::len)).collect::<Vec<_>>(),
                Tree::read_names(&self.folder).unwrap().paths()
            );
        }
    }

    /// Where such bytes have ever been.
    fn whence(&self, found: Option<&Vec<u8>>) -> Vec<&str> {
        let been = self.known.iter().filter(|(_, known)| found.is_some_and(|found| known.ever.contains(found)));
        been.map(|(name, _)| name.as_str()).collect()
    }

    /// Every path is as it may be, and there are no others. What is doubtful is what the server had, or nothing, and that
    /// is told.
    fn assert_allowed(&self, device: &Device, what: &str) {
        let is_told = device
            .status()
            .problems
            .iter()
            .any(|problem| problem.kind == ProblemKind::SetAside || problem.reason.contains("did not survive"));
        for (name, known) in &self.known {
            let found = fs::read(self.path(name)).ok();
            let len = |state: Option<&Vec<u8>>| state.map(Vec::len);
            let may_be_old = known.doubtful && is_told;
            // The server may have had it under an earlier name, and without being waited for.
            let is_old = found.as_ref().is_none_or(|found| !self.whence(Some(found)).is_empty());
            assert!(
                known.allows(found.as_ref()) || (may_be_old && is_old),
                "{what}: {name} has {:?} bytes (known at {:?}); promised {:?}, then {:?}, doubtful {}, acknowledged {:?}",
                len(found.as_ref()),
                self.whence(found.as_ref()),
                len(known.promised.as_ref()),
                known.since.iter().map(|state| len(state.as_ref())).collect::<Vec<_>>(),
                known.doubtful,
                len(known.acknowledged.as_ref()),
            );
        }
        let names = Tree::read_names(&self.folder).unwrap();
        let files = names.paths().into_iter().filter(|path| self.folder.join(path).is_file());
        for path in files.filter(|path| !self.known.contains_key(path.to_str().unwrap())) {
            // After a power cut the client does not know what of its own it may have sent, and keeps both.
            let found = fs::read(self.folder.join(path)).unwrap();
            let is_copy = path.to_str().unwrap().contains(" (conflict, ") && !self.whence(Some(&found)).is_empty();
            assert!(is_copy, "{what}: {} was never written, {} bytes", path.display(), found.len());
        }
    }

    /// Every path is as the server may have it.
    fn assert_kept_by_server(&self, folder: &Path, what: &str) {
        for (name, known) in &self.known {
            let found = fs::read(folder.join(name)).ok();
            assert!(
                found == known.acknowledged || known.unacknowledged.contains(&found),
                "{what}: {name} has {:?} bytes at the server (known at {:?}), acknowledged {:?}",
                found.as_ref().map(Vec::len),
                self.whence(found.as_ref()),
                known.acknowledged.as_ref().map(Vec::len)
            );
        }
    }

    /// What is there now is what the next round begins with.
    fn take_over(&mut self) {
        for (name, known) in &mut self.known {
            known.becomes(fs::read(self.folder.join(name)).ok());
            known.promise();
        }
        self.acknowledged();
    }
}

fn content(dice: &mut Dice) -> Vec<u8> {
    let most = [600, 9000, 90_000, 700_000][dice.random_range(0..4)];
    let len = dice.random_range(0..most);
    bytes(dice, len)
}

/// The disk of a client was on a machine that has booted again.
fn another_boot(cache: &Path) {
    let marker = cache.join("session");
    let text = fs::read_to_string(&marker).expect("the note of a session is durable before anything else is done");
    let (_, verdict) = text.split_once('\n').unwrap();
    fs::write(&marker, format!("another boot\n{verdict}")).unwrap();
}

/// All that was set aside is listed.
fn assert_told(device: &Device, cache: &Path) {
    let lost = fs::read_dir(cache.join("lost+found")).unwrap().flatten().filter(|entry| entry.file_name() != "INDEX");
    let problems = device.status().problems;
    let told = problems.iter().filter(|problem| problem.kind == ProblemKind::SetAside).count();
    assert_eq!(lost.count(), told, "{problems:?}");
}

fn ordering(dice: &mut Dice) -> Ordering {
    if dice.random_bool(0.5) { Ordering::Loose } else { Ordering::Journalled }
}

fn on_disk(world: &World, name: &str, ordering: Ordering) -> (LossyDisk, Device, PathBuf) {
    let disk = LossyDisk::new(world.path(&format!("disk of {name}")), ordering);
    let cache = disk.path().join("cache");
    let device = world.mount_with(name, &["--cache-dir".as_ref(), cache.as_os_str()]);
    (disk, device, cache)
}

fn assert_sees_the_same(a: &Device, b: &Device) {
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

fn client_loses_power(seed: u64) {
    eprintln!("client, seed {seed}");
    let mut dice = Dice::fixed(seed);
    let world = World::new();
    let (mut disk, a, cache) = on_disk(&world, "A", ordering(&mut dice));
    let b = world.mount("B");
    let mut writer = Writer::new(&a.folder);
    writer.steps(&mut dice, 10);
    a.wait_synced();
    writer.acknowledged();
    for round in 0..2 {
        let what = format!("seed {seed}, round {round}");
        writer.steps(&mut dice, 8);
        let offline = dice.random_bool(0.6);
        if offline {
            world.server().stop();
        }
        writer.steps(&mut dice, 12);
        // Somebody is in the middle of writing; what begins another program closes a copy of it.
        let (name, begin) = (format!("open-{round}"), bytes(&mut dice, 150_000));
        let mut open = File::create(a.path(&name)).unwrap();
        open.write_all(&begin).unwrap();
        writer.wrote(&name, begin, false, true);
        a.kill();
        drop(open);
        disk.power_cut(dice.random());
        another_boot(&cache);
        a.mount();
        assert_told(&a, &cache);
        if offline {
            world.server().start();
        }
        a.wait_synced();
        // What the server knew and the disk forgot comes with the feed.
        assert_sees_the_same(&a, &b);
        writer.assert_pins(&what);
        writer.assert_allowed(&a, &what);
        writer.take_over();
        writer.pins.clear();
    }
    a.fusermount_u();
    // The kernel does not tell this disk of the `syncfs` with which a session ends.
    disk.sync_all();
    a.mount();
    assert_sees_the_same(&b, &a);
}

fn server_loses_power(seed: u64, client_too: bool) {
    eprintln!("server{}, seed {seed}", if client_too { " and client" } else { "" });
    let mut dice = Dice::fixed(seed);
    let (world, mut server_disk) = World::on_lossy_disk(ordering(&mut dice));
    let (mut disk, a, cache) = on_disk(&world, "A", ordering(&mut dice));
    let mut writer = Writer::new(&a.folder);
    for round in 0..2 {
        let what = format!("seed {seed}, round {round}");
        writer.steps(&mut dice, 10);
        a.wait_synced();
        writer.acknowledged();
        writer.pins.clear();
        writer.steps(&mut dice, 6);
        world.server().kill();
        a.kill();
        server_disk.power_cut(dice.random());
        world.server().assert_sound();
        world.server().start();
        // Somebody who has nothing of his own sees what the server kept.
        let fresh = world.mount(&format!("C{round}"));
        until("all that was acknowledged", || {
            let kept = writer.known.iter().filter(|(_, it)| it.acknowledged.is_some() && it.unacknowledged.is_empty());
            let missing: Vec<_> = kept.filter(|(name, _)| !fresh.path(name).exists()).map(|(name, _)| name).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
        });
        writer.assert_kept_by_server(&fresh.folder, &what);
        if client_too {
            disk.power_cut(dice.random());
            another_boot(&cache);
        }
        a.mount();
        assert_told(&a, &cache);
        a.wait_synced();
        assert_sees_the_same(&a, &fresh);
        writer.assert_pins(&what);
        writer.assert_allowed(&a, &what);
        assert!(client_too || a.status().problems.is_empty(), "{:?}", a.status().problems);
        writer.take_over();
        writer.pins.clear();
        fresh.fusermount_u();
    }
    world.server().stop();
    world.server().assert_sound();
}

/// Fixed ones and one that is new each time; or the one that is asked for, or as many as `SYNCMOUNT_CUTS=FROM..TO` says.
fn seeds(name: &str, fixed: std::ops::Range<u64>) -> Vec<u64> {
    let fresh = Dice::new(name).random();
    if std::env::var_os("SYNCMOUNT_SEED").is_some() {
        return vec![fresh];
    }
    match std::env::var("SYNCMOUNT_CUTS") {
        Ok(range) => {
            let (from, to) = range.split_once("..").expect("SYNCMOUNT_CUTS is FROM..TO");
            (from.parse().expect("FROM is a number")..to.parse().expect("TO is a number")).collect()
        }
        Err(_) => fixed.chain([fresh]).collect(),
    }
}

#[test]
fn what_was_fsynced_survives_and_nothing_broken_is_sent() {
    seeds("what_was_fsynced_survives", 0..4).into_iter().for_each(client_loses_power);
}

#[test]
fn what_the_server_has_acknowledged_survives() {
    seeds("what_the_server_has_acknowledged_survives", 0..2)
        .into_iter()
        .for_each(|seed| server_loses_power(seed, false));
}

#[test]
fn both_lose_power_at_once() {
    seeds("both_lose_power_at_once", 0..2).into_iter().for_each(|seed| server_loses_power(seed, true));
}

#[test]
fn what_waits_for_a_server_is_synced_without_being_asked() {
    let mut dice = Dice::new("what_waits_for_a_server");
    let world = World::new();
    let (mut disk, a, cache) = on_disk(&world, "A", ordering(&mut dice));
    let mirror = world.path("mirror");
    fs::create_dir(&mirror).unwrap();
    random_tree(&mut dice, &mirror, 60).unwrap();
    world.while_offline(|| {
        run(std::process::Command::new("cp").arg("-a").arg(mirror.join(".")).arg(&a.folder)).good();
        // Twice the time after which what waits is synced, and some for a loaded machine.
        std::thread::sleep(Duration::from_secs(14));
        a.kill();
        disk.power_cut(dice.random());
        another_boot(&cache);
        a.mount();
        assert_equal(&mirror, &a.folder, DirTimes::Ignored);
    });
    let b = world.mount("B");
    a.wait_synced();
    assert_become_equal(&mirror, &b.folder, DirTimes::Ignored);
}

#[test]
fn what_is_ignored_survives_if_it_was_synced_or_waited_and_is_set_aside_else() {
    let world = World::new();
    let (mut disk, a, cache) = on_disk(&world, "A", Ordering::Journalled);
    a.wait_synced();
    fs::write(a.path("waited~"), "x".repeat(50_000)).unwrap();
    fs::write(a.path("doc"), "y".repeat(50_000)).unwrap();
    a.wait_synced();
    // What leaves the folder is durable before it is gone elsewhere.
    fs::rename(a.path("doc"), a.path("doc~")).unwrap();
    std::thread::sleep(Duration::from_secs(14));
    let mut synced = File::create(a.path("synced~")).unwrap();
    synced.write_all(&[b'z'; 50_000]).unwrap();
    synced.sync_all().unwrap();
    fs::write(a.path("late~"), "w".repeat(50_000)).unwrap();
    a.kill();
    drop(synced);
    disk.power_cut(1);
    another_boot(&cache);
    a.mount();
    for (name, byte) in [("waited~", "x"), ("doc~", "y"), ("synced~", "z")] {
        assert!(fs::read_to_string(a.path(name)).unwrap() == byte.repeat(50_000), "{name}");
    }
    a.wait_synced();
    assert!(!a.path("doc").exists());
    let late = fs::read_to_string(a.path("late~")).unwrap_or_else(|_| "w".repeat(50_000));
    assert!(late == "w".repeat(50_000), "whole or not at all");
}

/// What is gone from a watched folder goes at the server too. A power cut may bring the file back where it was: this machine
/// must know then that it had sent the removal, and take the file for a new one.
#[test]
fn what_left_a_watched_folder_and_comes_back_with_a_power_cut_stays() {
    let world = World::new();
    let mut disk = LossyDisk::new(world.path("disk of A"), Ordering::Journalled);
    let cache = disk.path().join("cache");
    let mut a = world.device("A").watched().with(&["--cache-dir".as_ref(), cache.as_os_str()]);
    a.folder = disk.path().join("Sync");
    fs::create_dir(&a.folder).unwrap();
    let b = world.mount("B");
    a.mount();
    for round in 0..3 {
        let (name, outside) = (format!("doc {round}"), disk.path().join(format!("outside {round}")));
        let bytes = format!("round {round}").into_bytes();
        let mut file = File::create(a.path(&name)).unwrap();
        file.write_all(&bytes).unwrap();
        file.sync_all().unwrap();
        drop(file);
        until("the file is there", || match fs::read(b.path(&name)) {
            Ok(found) if found == bytes => Ok(()),
            found => Err(format!("{found:?}")),
        });
        a.wait_synced();
        // What is known of it is on the disk.
        std::thread::sleep(Duration::from_secs(4));
        fs::rename(a.path(&name), &outside).unwrap();
        until("it is gone", || if b.path(&name).exists() { Err(String::new()) } else { Ok(()) });
        a.kill();
        disk.power_cut(round);
        another_boot(&cache);
        a.mount();
        a.wait_synced();
        let found = [a.path(&name), outside].map(|path| fs::read(path).ok());
        assert!(found.contains(&Some(bytes)), "round {round}: {found:?}");
    }
}

/// A file that was saved just before the machine stops may be its former self afterwards, empty, full of zeros, or gone. None of
/// that takes the place of what the server has.
#[test]
fn what_a_watched_folder_lost_with_the_power_does_not_overwrite_the_server() {
    let world = World::new();
    let cache = world.path("cache of A");
    let a = world.watch_with("A", &["--cache-dir".as_ref(), cache.as_os_str()]);
    let b = world.mount("B");
    let names = ["emptied", "zeroed", "older", "longer", "gone", "dir/gone"];
    fs::create_dir(a.path("dir")).unwrap();
    for name in ["older", "untouched"] {
        fs::write(a.path(name), format!("{name}, first")).unwrap();
    }
    a.wait_synced();
    let first = fs::metadata(a.path("older")).unwrap().modified().unwrap();
    for name in names {
        fs::write(a.path(name), format!("{name}, as it was sent")).unwrap();
    }
    a.wait_synced();
    a.kill();
    let set = |name: &str, bytes: &[u8], mtime| {
        fs::write(a.path(name), bytes).unwrap();
        File::options().write(true).open(a.path(name)).unwrap().set_modified(mtime).unwrap();
    };
    let saved = fs::metadata(a.path("emptied")).unwrap().modified().unwrap();
    let later = saved + Duration::from_millis(10);
    set("emptied", b"", later);
    set("zeroed", &[0; 24], saved);
    set("older", b"older, first", first);
    // What was still in memory when it was sent, with the time of that: it is not known to be worse.
    set("longer", b"longer, and saved once more", later);
    fs::remove_file(a.path("gone")).unwrap();
    fs::remove_dir_all(a.path("dir")).unwrap();
    another_boot(&cache);
    a.mount();
    a.wait_synced();
    for name in names.into_iter().filter(|name| *name != "longer") {
        let sent = format!("{name}, as it was sent").into_bytes();
        until("what was sent is there", || match fs::read(b.path(name)) {
            Ok(found) if found == sent => Ok(()),
            found => Err(format!("{name}: {found:?}")),
        });
    }
    assert_eq!(fs::read(b.path("longer")).unwrap(), b"longer, and saved once more");
    assert_eq!(fs::read(b.path("untouched")).unwrap(), b"untouched, first");
    assert_sees_the_same(&a, &b);
    let copies = fs::read_dir(&b.folder).unwrap().map(|entry| entry.unwrap().path());
    let copies =
        copies.filter(|path| path.to_string_lossy().contains("(conflict, ")).map(|path| fs::read(path).unwrap());
    let expected: [&[u8]; 4] = [b"", &[0; 24], b"longer, as it was sent", b"older, first"];
    assert_eq!(copies.collect::<BTreeSet<_>>(), expected.map(<[u8]>::to_vec).into());
    // From then on its user is believed.
    fs::remove_file(a.path("gone")).unwrap();
    fs::write(a.path("emptied"), "").unwrap();
    // Also if an old version is put back.
    set("older", b"older, from a backup", first);
    a.wait_synced();
    until("a user is believed", || match fs::metadata(b.path("emptied")) {
        Ok(found) if found.len() == 0 && !b.path("gone").exists() => Ok(()),
        found => Err(format!("{found:?}")),
    });
    until("what was put back", || match fs::read_to_string(b.path("older")) {
        Ok(found) if found == "older, from a backup" => Ok(()),
        found => Err(format!("{found:?}")),
    });
}
