//! Another user of the folder swaps directories for symlinks while changes from elsewhere come into them.

use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, renameat, symlinkat, unlinkat};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

const DIRS: [&str; 3] = ["d0", "d1", "d2"];

#[test]
fn swapped_directories_lead_nowhere() {
    let seconds = sized(4, 60);
    let world = World::lasting(Duration::from_secs(seconds + 400));
    let a = world.watch("A");
    DIRS.iter().for_each(|dir| fs::create_dir_all(a.path(dir).join("sub")).unwrap());
    a.wait_synced();
    let b = world.watch("B");
    b.wait_synced();
    let around = Around::of(&b, &DIRS);
    let (over, swaps, made) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for (number, dir) in DIRS.iter().enumerate() {
            let (b, over, swaps) = (&b, &over, &swaps);
            scope.spawn(move || swap(b, dir, number, over, swaps));
        }
        scope.spawn(|| change(&a.folder, &over, &made));
        let end = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < end && around.changes().is_empty() {
            std::thread::sleep(Duration::from_millis(20));
        }
        over.store(true, Ordering::Relaxed);
    });
    around.assert_untouched();
    let (swaps, made) = (swaps.into_inner(), made.into_inner());
    assert!(swaps > 200 && made > 20, "{swaps} swaps while {made} changes were made");
    assert_eq!(b.processes().len(), 1, "it goes on");
    // So much was made and removed that the server may hold removals back; all else goes on.
    fs::write(a.path("after"), "1").unwrap();
    until("what is made after that", || fs::read(b.path("after")).map(drop).map_err(|error| error.to_string()));
    b.stop();
    around.assert_untouched();
}

/// Swaps a directory, or one in it, for a symlink that leads out of the folder, and back. It follows none itself.
fn swap(device: &Device, dir: &str, number: usize, over: &AtomicBool, swaps: &AtomicU64) {
    let aside = device.home.join(format!("aside{number}"));
    let outside = Path::new(Around::FROM_FOLDER).join(dir);
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut turn = 0_u32;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        let is_inner = turn.is_multiple_of(3);
        let above = if is_inner { device.path(dir) } else { device.folder.clone() };
        let (name, target) =
            if is_inner { ("sub", Path::new("..").join(&outside).join("sub")) } else { (dir, outside.clone()) };
        let Ok(above) = openat(CWD, &above, flags, Mode::empty()) else { continue };
        // What the other side did meanwhile may be in the way of each step.
        if renameat(&above, name, CWD, &aside).is_err() {
            _ = unlinkat(&above, name, AtFlags::empty());
            _ = mkdirat(&above, name, Mode::from_raw_mode(0o755));
            continue;
        }
        if symlinkat(&target, &above, name).is_ok() {
            swaps.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(Duration::from_micros(u64::from(turn % 7) * 150));
            _ = unlinkat(&above, name, AtFlags::empty());
        }
        if renameat(CWD, &aside, &above, name).is_err() {
            drop(fs::remove_dir_all(&aside));
            drop(fs::remove_file(&aside));
        }
        std::thread::sleep(Duration::from_micros(u64::from(turn % 5) * 300));
    }
}

/// Makes, changes and removes what has the names of what lies outside. On this side the symlinks lead nowhere.
fn change(folder: &Path, over: &AtomicBool, made: &AtomicU64) {
    let mut turn = 0_u32;
    while !over.load(Ordering::Relaxed) {
        turn += 1;
        let dir = folder.join(DIRS[turn as usize % 3]).join(if turn.is_multiple_of(2) { "sub" } else { "" });
        let file = dir.join(format!("f{}", turn / 6 % 2));
        let done = match turn / 12 % 5 {
            0 => fs::write(&file, vec![turn as u8; 20_000]),
            1 => fs::set_permissions(&file, fs::Permissions::from_mode(0o640 + turn % 8)),
            2 => fs::write(dir.join(format!("new{turn}")), "new")
                .and_then(|()| fs::create_dir(dir.join(format!("dir{turn}")))),
            3 => fs::rename(&file, dir.join("keys")),
            _ => fs::remove_file(dir.join("keys")),
        };
        made.fetch_add(u64::from(done.is_ok()), Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(4));
    }
}
