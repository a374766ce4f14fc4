//! Real programs, led astray: a lying server, another user of the folder who swaps directories for symlinks at any moment, and
//! an honest user of it. The same in one process and step by step is `tests/tests/astray.rs`; here the swaps come in the
//! middle of a row of system calls, and what the server says goes through the driver.

use parking_lot::Mutex;
use rand::RngExt as _;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags, openat, renameat, renameat_with, symlinkat, unlinkat};
use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::FileHash;
use syncmount_tests::astray::{DRIVEN, Liar, Refusal};
use syncmount_tests::support::*;

const DIRS: [&str; 3] = ["d0", "d1", "d2"];

/// How long it is led astray.
const SPAN: Duration = Duration::from_millis(1200);

/// More requests than this within a second are no pause. The other device makes about 50 changes in that time, each of which is
/// worth a page, a manifest and some chunks.
const REQUESTS_MAX: u64 = 250;

/// So many runs at a time: most of each is waiting.
const THREADS: u64 = 6;

#[test]
fn the_programs_are_not_led_astray() {
    let given = std::env::var("SYNCMOUNT_SEED").ok().map(|seed| seed.parse().expect("SYNCMOUNT_SEED is a number"));
    let seeds = given.map_or(0..sized(8, 300), |seed| seed..seed + 1);
    let next = AtomicU64::new(seeds.start);
    let [lies, swaps, files, requests] = <[AtomicU64; 4]>::default();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let _named = Named(seed);
                    let done = run(seed);
                    lies.fetch_add(done.lies, Ordering::Relaxed);
                    swaps.fetch_add(done.swaps, Ordering::Relaxed);
                    files.fetch_add(done.files, Ordering::Relaxed);
                    requests.fetch_max(done.requests, Ordering::Relaxed);
                }
            });
        }
    });
    let runs = seeds.end - seeds.start;
    let [lies, swaps, files, requests] = [lies, swaps, files, requests].map(AtomicU64::into_inner);
    eprintln!(
        "{runs} runs: {lies} lies, {swaps} swaps, {files} files to be found, at most {requests} requests a second"
    );
    assert!(swaps > 10 * runs && lies > runs && files > 5 * runs, "it was led astray");
}

/// Says how a run is repeated if it fails.
struct Named(u64);

impl Drop for Named {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.0;
            eprintln!(
                "repeat with: SYNCMOUNT_SEED={seed} cargo test -p syncmount-tests the_programs_are_not_led_astray"
            );
        }
    }
}

/// What happened in a run.
struct Done {
    lies: u64,
    swaps: u64,
    /// Files that the user wrote and that had to be found.
    files: u64,
    /// Requests a second while it was lied to.
    requests: u64,
}

fn run(seed: u64) -> Done {
    let mut dice = Dice::fixed(seed);
    let world = World::new();
    // So much is removed here that it would be held back.
    world.server().restart_with(&["--hold-removes", "0"]);
    let a = world.watch("A");
    for dir in DIRS {
        fs::create_dir_all(a.path(dir).join("sub")).unwrap();
        for name in ["f0", "sub/f1", "keys"] {
            let len = [2000, 70_000][dice.random_range(0..2)];
            fs::write(a.path(dir).join(name), bytes(&mut dice, len)).unwrap();
        }
    }
    a.wait_synced();

    let (liar, b) = world.device_behind_liar("B");
    let b = b.watched();
    let around = Around::of(&b, &DIRS);
    fs::create_dir(b.home.join("aside")).unwrap();
    fs::create_dir(a.home.join("gone")).unwrap();
    let written = Mutex::new(BTreeSet::new());
    let mut lies = Liar::about(seed, &DRIVEN);
    let joins = dice.random_bool(0.7);
    if joins {
        join(&mut dice, &a, &b, &mut lies, &mut written.lock());
    }
    // A first start at a server that says no folder is refused: it is lied to before that only about hashes.
    let lies = std::sync::Arc::new(Mutex::new(lies));
    tell(&liar, &lies);
    lies.lock().is_lying = joins && lies.lock().is_about_contents();
    b.mount();
    lies.lock().is_lying = true;

    let (over, swaps) = (AtomicBool::new(false), AtomicU64::new(0));
    let (before, begin) = (liar.asked(), Instant::now());
    std::thread::scope(|scope| {
        let (rogue, user, other) = (dice.fork(), dice.fork(), dice.fork());
        scope.spawn(|| swap(rogue, &b, &over, &swaps));
        scope.spawn(|| write(user, &b, &over, &written));
        scope.spawn(|| change(other, &a, &over));
        let end = Instant::now() + SPAN;
        while Instant::now() < end && around.changes().is_empty() {
            std::thread::sleep(Duration::from_millis(100));
        }
        // It can always say what it is at.
        b.status();
        over.store(true, Ordering::Relaxed);
    });
    let requests = (liar.asked() - before) * 1000 / begin.elapsed().as_millis() as u64;
    assert!(requests < REQUESTS_MAX, "{requests} requests a second");
    around.assert_untouched();

    liar.be_honest();
    let mut server = world.server();
    server.stop();
    // Its keeper says that nothing which was told before counts.
    server.command(&["restored"]);
    server.start();
    drop(server);
    until("both folders to be equal", || {
        let read = |device: &Device| Tree::read(&device.folder, DirTimes::Ignored).map_err(|error| error.to_string());
        match read(&a)?.differences(&read(&b)?).as_slice() {
            [] => Ok(()),
            some => Err(format!("lies about {:?}: {some:#?}\n{:?}", lies.lock().kinds(), b.status().problems)),
        }
    });
    b.wait_synced();
    a.wait_synced();
    around.assert_untouched();
    let mut there = BTreeSet::new();
    [&b.folder, &a.folder, &b.home.join("aside"), &a.home.join("gone")]
        .into_iter()
        .for_each(|dir| hashes(dir, &mut there));
    let files = written.lock().len() as u64;
    let lost: Vec<FileHash> = written.into_inner().into_iter().filter(|hash| !there.contains(hash)).collect();
    assert!(lost.is_empty(), "{} files that the user wrote are nowhere", lost.len());
    b.stop();
    a.stop();
    let lies = lies.lock().told;
    Done { lies, swaps: swaps.into_inner(), files, requests }
}

/// The folder has files before it joins: of the same names and sizes as those of the server, with other bytes.
fn join(dice: &mut Dice, a: &Device, b: &Device, lies: &mut Liar, written: &mut BTreeSet<FileHash>) {
    for dir in DIRS {
        fs::create_dir_all(b.path(dir).join("sub")).unwrap();
        for name in ["f0", "sub/f1", "keys"] {
            let len = fs::metadata(a.path(dir).join(name)).unwrap().len() as usize;
            let content = bytes(dice, len);
            fs::write(b.path(dir).join(name), &content).unwrap();
            lies.note(name.rsplit('/').next().unwrap(), &content);
            written.insert(FileHash::of(&content));
        }
    }
}

/// From now on the client is told what `lies` makes of what the honest server says.
fn tell(liar: &syncmount_tests::support::Liar, lies: &std::sync::Arc<Mutex<Liar>>) {
    let lies = lies.clone();
    liar.lie(move |asked, answer| {
        let mut lies = lies.lock();
        if !answer.status.is_success() {
            return;
        }
        if asked.is_changes() {
            let mut refused = None;
            answer.edit_page(|page| match lies.page(page.clone()) {
                Ok(lie) => *page = lie,
                Err(refusal) => refused = Some(refusal),
            });
            let Some(refusal) = refused else { return };
            let (status, code) = match refusal {
                Refusal::Silence => (axum::http::StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
                Refusal::Resync => (axum::http::StatusCode::GONE, "resync"),
            };
            let body = serde_json::json!({ "code": code, "message": "no", "retryable": code == "unavailable" });
            answer.status = status;
            answer.headers.insert("content-type", axum::http::HeaderValue::from_static("application/json"));
            answer.body = serde_json::to_vec(&body).unwrap();
        } else if !asked.is_commit() && (asked.path.contains("/contents") || asked.path.contains("/chunks")) {
            answer.body = lies.body(std::mem::take(&mut answer.body));
        }
    });
}

fn dir_at(path: &Path) -> Option<OwnedFd> {
    openat(CWD, path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// A directory in the folder or one further down, reached by no symlink.
fn inner(device: &Device, dir: &str, is_deep: bool) -> Option<OwnedFd> {
    let top = dir_at(&device.path(dir))?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if is_deep { openat(&top, "sub", flags, Mode::empty()).ok() } else { Some(top) }
}

/// Swaps directories, and that of files on their way, for symlinks to the sentinels, and puts them back.
fn swap(mut dice: Dice, device: &Device, over: &AtomicBool, swaps: &AtomicU64) {
    let mut count = 0;
    let mut asides: Vec<(PathBuf, &str, &str)> = Vec::new();
    let put_back = |(aside, dir, name): &(PathBuf, &str, &str)| {
        let above = dir_at(&device.path(dir));
        above.is_some_and(|above| {
            // Only a symlink is taken away: nothing else is unlinked without a look at it.
            if fs::read_link(device.path(dir).join(name)).is_ok() {
                _ = unlinkat(&above, *name, rustix::fs::AtFlags::empty());
            }
            renameat_with(CWD, aside, &above, *name, RenameFlags::NOREPLACE).is_ok()
        })
    };
    while !over.load(Ordering::Relaxed) {
        let (dir, name) = match dice.random_range(0..8) {
            0 | 1 => (DIRS[dice.random_range(0..3)], "sub"),
            2 => ("", ".syncmount-work-0.part"),
            _ => ("", DIRS[dice.random_range(0..3)]),
        };
        let outside = match (dir, name) {
            ("", ".syncmount-work-0.part") => PathBuf::from(Around::FROM_FOLDER),
            ("", name) => Path::new(Around::FROM_FOLDER).join(name),
            (dir, name) => Path::new("..").join(Around::FROM_FOLDER).join(dir).join(name),
        };
        let Some(above) = dir_at(&device.path(dir)) else { continue };
        count += 1;
        let aside = device.home.join(format!("aside/{count}"));
        let is_dir = openat(&above, name, OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).is_ok();
        if is_dir && renameat(&above, name, CWD, &aside).is_ok() {
            asides.push((aside, dir, name));
            if symlinkat(&outside, &above, name).is_ok() {
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(Duration::from_micros(dice.random_range(0..3000)));
        if dice.random_bool(0.9) {
            asides.retain(|aside| !put_back(aside));
        }
        std::thread::sleep(Duration::from_micros(dice.random_range(0..9000)));
    }
    asides.retain(|aside| !put_back(aside));
}

/// The honest user writes new files, and follows no symlink.
fn write(mut dice: Dice, device: &Device, over: &AtomicBool, written: &Mutex<BTreeSet<FileHash>>) {
    let mut count = 0;
    while !over.load(Ordering::Relaxed) {
        count += 1;
        let (dir, is_deep, len) = (DIRS[dice.random_range(0..3)], dice.random(), dice.random_range(1..40_000));
        let content = bytes(&mut dice, len);
        if let Some(dir) = inner(device, dir, is_deep) {
            let name = format!("u{count}");
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = openat(&dir, &name, flags, Mode::from_raw_mode(0o644));
            if file.is_ok_and(|file| fs::File::from(file).write_all(&content).is_ok()) {
                written.lock().insert(FileHash::of(&content));
                if dice.random_bool(0.3) {
                    _ = renameat_with(&dir, &name, &dir, format!("r{count}"), RenameFlags::NOREPLACE);
                }
            }
        }
        std::thread::sleep(Duration::from_millis(dice.random_range(5..60)));
    }
}

/// What the other device does: it makes, changes and removes what has the names of what lies outside. Whatever it takes away it
/// keeps beside its folder.
fn change(mut dice: Dice, device: &Device, over: &AtomicBool) {
    let mut count = 0;
    let mut throw_away = |path: &Path| {
        count += 1;
        fs::rename(path, device.home.join(format!("gone/{count}")))
    };
    while !over.load(Ordering::Relaxed) {
        let dir = device.path(DIRS[dice.random_range(0..3)]).join(["", "sub"][dice.random_range(0..2)]);
        let (file, keys) = (dir.join(["f0", "f1"][dice.random_range(0..2)]), dir.join("keys"));
        let len = dice.random_range(1..80_000);
        let done = match dice.random_range(0..8) {
            0..4 => {
                _ = throw_away(&file);
                fs::File::create_new(&file).and_then(|mut file| file.write_all(&bytes(&mut dice, len)))
            }
            4 => throw_away(&keys).and_then(|()| Ok(renameat_with(CWD, &file, CWD, &keys, RenameFlags::NOREPLACE)?)),
            5 => set_mtime(&file, 1_600_000_000, 0),
            6 => fs::create_dir(dir.join(format!("n{len}"))),
            _ => throw_away(&keys),
        };
        // What is not there cannot be changed.
        drop(done);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What all files below a directory are.
fn hashes(dir: &Path, found: &mut BTreeSet<FileHash>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => hashes(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.extend(fs::read(entry.path()).map(|bytes| FileHash::of(&bytes))),
            _ => {}
        }
    }
}
