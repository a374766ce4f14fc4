//! A folder, or a disk in it, that goes away and comes back: nothing that is missing then counts as removed.

use super::disks::{Disk, Files, files_below};
use rand::RngExt as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use syncmount::status::Status;
use syncmount_tests::support::*;

/// Three files and three directories with a file each.
fn fill(dir: &Path) {
    for number in 0..3 {
        fs::write(dir.join(format!("f{number}")), format!("file {number}")).unwrap();
        fs::create_dir(dir.join(format!("d{number}"))).unwrap();
        fs::write(dir.join(format!("d{number}/g")), format!("inner file {number}")).unwrap();
    }
}

#[track_caller]
fn assert_full(dir: &Path) {
    for number in 0..3 {
        assert_eq!(fs::read_to_string(dir.join(format!("f{number}"))).unwrap(), format!("file {number}"));
        assert_eq!(fs::read_to_string(dir.join(format!("d{number}/g"))).unwrap(), format!("inner file {number}"));
    }
}

/// A wait that does not say that all is well.
#[track_caller]
fn assert_not_synced(device: &Device) {
    let said = device.ask("wait", &["--timeout", "120s"]);
    assert!(said.refusal().contains("could not be sent"), "{said:?}\n{}", device.log_tail());
}

#[track_caller]
fn await_status(device: &Device, what: &str, is_it: impl Fn(&Status) -> bool) {
    until(what, || {
        let status = device.status();
        if is_it(&status) { Ok(()) } else { Err(format!("{status:?}")) }
    });
}

fn is_told(status: &Status, path: &str, text: &str) -> bool {
    status.problems.iter().any(|problem| problem.path == path && problem.reason.contains(text))
}

#[track_caller]
fn await_text(path: &Path, text: &str) {
    until("the text", || match fs::read_to_string(path) {
        Ok(found) if found == text => Ok(()),
        found => Err(format!("{}: {found:?}", path.display())),
    });
}

#[test]
fn a_folder_that_is_moved_away_pauses_until_it_is_back() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fill(&a.folder);
    a.wait_synced();
    let away = a.home.join("away");
    fs::rename(&a.folder, &away).unwrap();
    fs::create_dir(&a.folder).unwrap();
    assert_not_synced(&a);
    fs::write(b.path("from B"), "B").unwrap();
    fs::write(away.join("f0"), "written meanwhile").unwrap();
    b.wait_synced();
    await_status(&a, "a pause", |status| status.paused && is_told(status, "", "is not what it was"));
    assert_eq!(fs::read_dir(&a.folder).unwrap().count(), 0, "nothing is put into another directory");
    assert_full(&b.folder);
    fs::remove_dir(&a.folder).unwrap();
    await_status(&a, "a pause", |status| status.paused);
    fs::rename(&away, &a.folder).unwrap();
    await_status(&a, "the end of the pause", |status| !status.paused && status.problems.is_empty());
    a.wait_synced();
    await_text(&b.path("f0"), "written meanwhile");
    await_text(&a.path("from B"), "B");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn a_folder_whose_disk_is_unmounted_pauses_until_it_is_mounted_again() {
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.watch("B"));
    let mut disk = Disk::new(world.path("disk"));
    disk.mount(&a.folder);
    fill(&a.folder);
    a.mount();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    disk.unmount();
    assert_not_synced(&a);
    disk.mount(&a.folder);
    await_status(&a, "the end of the pause", |status| !status.paused);
    fs::write(a.path("new"), "on the disk that is back").unwrap();
    a.wait_synced();
    await_text(&b.path("new"), "on the disk that is back");
    // As at the end of the machine: the disk goes first, and then the client is told to end.
    disk.unmount();
    let said = a.ask("umount", &[]);
    assert!(said.code == Some(0) && said.stderr.contains("could not be sent"), "{said:?}");
    a.await_end();
    assert!(a.try_mount().refusal().contains("marker"), "it does not start without its disk");
    disk.mount(&a.folder);
    a.mount();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_full(&b.folder);
}

/// A disk in the folder that goes in each of these ways, watched or not, takes nothing with it.
#[test]
fn a_disk_in_the_folder_that_is_unmounted_takes_nothing_with_it() {
    for is_watched in [true, false] {
        for dir_goes in [false, true] {
            let world = World::new();
            let (a, b) = (world.device("A").watched(), world.watch("B"));
            let mut disk = Disk::new(world.path("disk"));
            let inner = a.path("above/inner");
            fs::create_dir_all(&inner).unwrap();
            disk.mount(&inner);
            fill(&inner);
            fs::write(a.path("outer"), "1").unwrap();
            a.mount();
            a.wait_synced();
            assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
            if !is_watched {
                a.stop();
            }
            disk.unmount();
            if dir_goes {
                // As programs do that mount what is plugged in.
                fs::remove_dir(&inner).unwrap();
            }
            if !is_watched {
                a.mount();
            }
            assert_not_synced(&a);
            let told = if dir_goes { "above" } else { "above/inner" };
            await_status(&a, "word of it", |status| {
                status.problems.iter().any(|it| it.path.starts_with(told) && it.reason.contains("mounted"))
            });
            // Everything else goes on, and nothing of the disk is changed in its absence.
            fs::write(a.path("outer"), "2").unwrap();
            await_text(&b.path("outer"), "2");
            assert_full(&b.path("above/inner"));
            fs::write(b.path("above/inner/f0"), "from B").unwrap();
            fs::remove_file(b.path("above/inner/f1")).unwrap();
            fs::write(b.path("above/inner/new"), "from B").unwrap();
            fs::write(b.path("outer"), "3").unwrap();
            b.wait_synced();
            await_text(&a.path("outer"), "3");
            assert!(dir_goes || fs::read_dir(&inner).unwrap().count() == 0, "nothing is put where the disk is missing");
            assert!(!dir_goes || !inner.exists(), "a directory is put where the disk is missing");
            if dir_goes {
                fs::create_dir(&inner).unwrap();
            }
            disk.mount(&inner);
            await_text(&inner.join("f0"), "from B");
            await_text(&inner.join("new"), "from B");
            a.wait_synced();
            assert!(!inner.join("f1").exists());
            assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
            assert_eq!(fs::read_to_string(b.path("above/inner/f2")).unwrap(), "file 2");
            a.stop();
        }
    }
}

#[test]
fn a_disk_on_which_everything_was_renamed_meanwhile_is_known_again() {
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.watch("B"));
    let mut disk = Disk::new(world.path("disk"));
    fs::create_dir(a.path("disk")).unwrap();
    disk.mount(&a.path("disk"));
    fs::write(a.path("disk/one"), "one").unwrap();
    a.mount();
    a.wait_synced();
    await_text(&b.path("disk/one"), "one");
    a.stop();
    fs::rename(a.path("disk/one"), a.path("disk/another")).unwrap();
    fs::write(a.path("disk/new"), "new").unwrap();
    a.mount();
    a.wait_synced();
    assert!(a.status().problems.is_empty(), "{:?}", a.status().problems);
    await_text(&b.path("disk/another"), "one");
    await_text(&b.path("disk/new"), "new");
    until("the old name to go", || if b.path("disk/one").exists() { Err("it is there".to_owned()) } else { Ok(()) });
    a.stop();
}

#[test]
fn what_was_on_another_disk_comes_back_once_that_is_accepted() {
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.watch("B"));
    // Made within one tick of the clock, their roots look the same.
    let (mut disk, mut other) = (Disk::new(world.path("disk")), Disk::new(world.path("other")));
    let inner = a.path("inner");
    fs::create_dir(&inner).unwrap();
    disk.mount(&inner);
    fill(&inner);
    a.mount();
    a.wait_synced();
    disk.unmount();
    assert_not_synced(&a);
    // Another one, with a file of its own and one that is equal.
    other.mount(&inner);
    fs::write(inner.join("f0"), "file 0").unwrap();
    fs::write(inner.join("own"), "own").unwrap();
    assert_not_synced(&a);
    await_status(&a, "word of it", |status| is_told(status, "inner", "another disk"));
    assert!(!b.path("inner/own").exists());
    a.syncmount(&["accept".as_ref(), inner.as_os_str()]).good();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_full(&b.path("inner"));
    assert_eq!(fs::read_to_string(b.path("inner/own")).unwrap(), "own");
    // That one goes as well, and is not to come back.
    other.unmount();
    assert_not_synced(&a);
    a.syncmount(&["accept".as_ref(), inner.as_os_str()]).good();
    a.wait_synced();
    assert_full(&inner);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    // A disk over what is shared hides it and removes nothing.
    disk.mount(&inner);
    fs::remove_file(inner.join("f1")).unwrap();
    assert_not_synced(&a);
    assert_full(&b.folder.join("inner"));
    disk.unmount();
    a.wait_synced();
    // What its owner removes goes everywhere, now as ever.
    fs::remove_dir_all(&inner).unwrap();
    a.wait_synced();
    until("the removal", || if b.path("inner").exists() { Err("it is there".to_owned()) } else { Ok(()) });
    let said = a.syncmount(&["accept".as_ref(), inner.as_os_str()]);
    assert!(said.refusal().contains("nothing is known"), "{said:?}");
}

#[test]
fn a_marker_that_a_program_takes_away_is_made_again() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fill(&a.folder);
    a.wait_synced();
    let source = a.home.join("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("f0"), "of the source").unwrap();
    fs::create_dir(source.join("d0")).unwrap();
    // It removes everything that the source does not have.
    run(Command::new("rsync").args(["-a", "--delete"]).arg(format!("{}/", source.display())).arg(&a.folder)).good();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(Tree::read_names(&b.folder).unwrap().len(), Tree::read_names(&source).unwrap().len());
    assert!(a.path(".syncmount-folder").exists());
    // The same while it is not watched: most of what was in it is there.
    a.stop();
    fs::remove_file(a.path(".syncmount-folder")).unwrap();
    fs::write(a.path("f1"), "1").unwrap();
    a.mount();
    a.wait_synced();
    await_text(&b.path("f1"), "1");
    assert!(a.path(".syncmount-folder").exists() && a.try_mount().refusal().contains("another"));
}

#[test]
fn another_directory_is_the_folder_once_it_is_accepted() {
    let world = World::new();
    let (a, b) = (world.watch_with("A", &["--no-confinement"]), world.watch("B"));
    fill(&a.folder);
    a.wait_synced();
    let replace = || {
        fs::rename(&a.folder, a.home.join("away")).unwrap();
        fs::create_dir(&a.folder).unwrap();
        fs::write(a.path("f0"), "file 0").unwrap();
        fs::write(a.path("own"), "own").unwrap();
    };
    replace();
    assert_not_synced(&a);
    a.syncmount(&["accept".as_ref(), a.folder.as_os_str()]).good();
    a.wait_synced();
    assert_full(&a.folder);
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    // The same with a start, which is refused before.
    a.stop();
    fs::remove_dir_all(a.home.join("away")).unwrap();
    replace();
    fs::remove_file(a.path("own")).unwrap();
    assert!(a.try_mount().refusal().contains("--accept"));
    let a = a.with(&["--accept"]);
    a.mount();
    a.wait_synced();
    assert_full(&a.folder);
    assert_eq!(fs::read_to_string(a.path("own")).unwrap(), "own", "what is missing in it is no removal");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn a_folder_that_was_restored_from_a_backup_removes_nothing() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fill(&a.folder);
    a.wait_synced();
    let backup = a.home.join("backup");
    run(Command::new("cp").arg("-a").arg(&a.folder).arg(&backup)).good();
    fs::write(a.path("since"), "since the backup").unwrap();
    fs::write(a.path("f0"), "newer").unwrap();
    a.wait_synced();
    a.stop();
    fs::remove_dir_all(&a.folder).unwrap();
    fs::rename(&backup, &a.folder).unwrap();
    a.mount();
    a.wait_synced();
    await_text(&a.path("since"), "since the backup");
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read_to_string(b.path("since")).unwrap(), "since the backup");
    let found: Vec<String> = fs::read_dir(&b.folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("f0"))
        .map(|path| fs::read_to_string(path).unwrap())
        .collect();
    assert!(found.contains(&"newer".to_owned()), "{found:?}");
}

#[test]
fn another_watched_folder_in_a_folder_is_left_alone() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    fs::create_dir(a.path("inner")).unwrap();
    fs::write(a.path("inner/shared"), "1").unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    let (marker, part) = (a.path("inner/.syncmount-folder"), a.path("inner/.syncmount-0123456789abcdef.part"));
    fs::write(&part, "being put together by another process").unwrap();
    fs::write(&marker, "another folder").unwrap();
    fs::create_dir(a.path("new")).unwrap();
    fs::write(a.path("new/.syncmount-folder"), "a third folder").unwrap();
    fs::write(a.path("new/file"), "its file").unwrap();
    await_status(&a, "word of it", |status| {
        ["inner", "new"].iter().all(|path| is_told(status, path, "another watched"))
    });
    // Neither looks into the other.
    fs::write(a.path("inner/shared"), "2").unwrap();
    fs::write(b.path("inner/from B"), "B").unwrap();
    fs::write(a.path("outer"), "1").unwrap();
    b.wait_synced();
    await_text(&b.path("outer"), "1");
    assert_not_synced(&a);
    assert_eq!(fs::read_to_string(b.path("inner/shared")).unwrap(), "1");
    assert!(part.exists() && !a.path("inner/from B").exists() && !b.path("new").exists());
    a.stop();
    a.mount();
    assert!(part.exists() && !a.path("inner/from B").exists() && !b.path("new").exists());
    fs::remove_file(marker).unwrap();
    fs::remove_dir_all(a.path("new")).unwrap();
    await_text(&b.path("inner/shared"), "2");
    await_text(&a.path("inner/from B"), "B");
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
}

#[test]
fn names_that_look_like_the_programs_own_stay_here_and_are_listed() {
    let world = World::new();
    let (a, b) = (world.watch("A"), world.watch("B"));
    let names = [".syncmount-notes", ".syncmount-mine.part", ".syncmount-mark-x.part"];
    for name in names {
        fs::write(a.path(name), "mine").unwrap();
    }
    fs::write(a.path("shared"), "1").unwrap();
    a.wait_synced();
    await_status(&a, "word of it", |status| names.iter().all(|name| is_told(status, name, "stays on this machine")));
    await_text(&b.path("shared"), "1");
    a.stop();
    a.mount();
    a.wait_synced();
    for name in names {
        assert_eq!(fs::read_to_string(a.path(name)).unwrap(), "mine", "{name}");
        assert!(!b.path(name).exists(), "{name}");
    }
}

/// A rename elsewhere may lead from one disk to another here.
#[test]
fn what_is_moved_elsewhere_goes_from_one_disk_to_another_here() {
    let mut dice = Dice::new("what_is_moved_elsewhere_goes_from_one_disk");
    let world = World::new();
    let (a, b) = (world.device("A").watched(), world.mount("B"));
    let mut disk = Disk::new(world.path("disk"));
    fs::create_dir(a.path("disk")).unwrap();
    disk.mount(&a.path("disk"));
    a.mount();
    let large = bytes(&mut dice, 3 << 20);
    fs::create_dir_all(a.path("dir/inner/deep")).unwrap();
    for (name, bytes) in
        [("small", &b"some"[..]), ("dir/large", &large), ("dir/inner/deep/file", b"deep"), ("empty", b"")]
    {
        fs::write(a.path(name), bytes).unwrap();
    }
    std::os::unix::fs::symlink("inner", a.path("dir/link")).unwrap();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for (from, to) in [("", "disk"), ("disk", "")] {
        for name in ["small", "dir", "empty"] {
            fs::rename(b.path(from).join(name), b.path(to).join(name)).unwrap();
        }
        b.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
        assert!(a.path(to).join("dir/inner/deep/file").exists() && !a.path(from).join("dir").exists());
        assert!(a.status().problems.is_empty(), "{:?}", a.status().problems);
        a.wait_synced();
        assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    }
    a.stop();
}

/// A watched folder on a disk of its own, with another disk in it, and what has to be in it.
struct Ground<'a> {
    a: &'a Device,
    b: &'a Device,
    outer: Disk,
    inner: Disk,
    files: Files,
    dice: Dice,
    count: u64,
}

impl Ground<'_> {
    fn pause(&mut self) {
        let pause = [0, 5, 50, 300, 1_500][self.dice.random_range(0..5)];
        std::thread::sleep(Duration::from_millis(pause));
    }

    /// Its user's changes: each device has names of its own.
    fn edit(&mut self, device: &Device, prefix: &str) {
        let own: Vec<PathBuf> = self
            .files
            .keys()
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
            .cloned()
            .collect();
        let one = (!own.is_empty()).then(|| own[self.dice.random_range(0..own.len())].clone());
        self.count += 1;
        let dir = ["", "dir", "dir/sub", "disk"][self.dice.random_range(0..4)];
        let fresh = Path::new(dir).join(format!("{prefix}{}", self.count));
        let bytes = format!("bytes {}", self.count).into_bytes();
        match (self.dice.random_range(0..10), one) {
            (0..2, Some(path)) => {
                fs::rename(device.path(&path), device.path(&fresh))
                    .or_else(|_| {
                        // From one disk to another.
                        fs::copy(device.path(&path), device.path(&fresh))?;
                        fs::remove_file(device.path(&path))
                    })
                    .unwrap();
                let moved = self.files.remove(&path).unwrap();
                self.files.insert(fresh, moved);
            }
            (2, Some(path)) => {
                fs::remove_file(device.path(&path)).unwrap();
                self.files.remove(&path);
            }
            (3..6, Some(path)) => {
                fs::write(device.path(&path), &bytes).unwrap();
                self.files.insert(path, bytes);
            }
            _ => {
                fs::write(device.path(&fresh), &bytes).unwrap();
                self.files.insert(fresh, bytes);
            }
        }
    }

    /// What happens while the folder, or the disk in it, is not there. The other device goes on.
    fn meanwhile(&mut self) {
        for _ in 0..self.dice.random_range(0..4) {
            match self.dice.random_range(0..4) {
                0 => self.edit(self.b, "b"),
                // Whoever asks makes everything be looked at.
                1 => drop(self.a.ask("wait", &["--timeout", "1s"])),
                _ => self.pause(),
            }
        }
    }

    fn misfortune(&mut self) {
        let folder = self.a.folder.clone();
        match self.dice.random_range(0..5) {
            // Another directory takes its place, or none. It is the parent of the mount that is renamed: a root cannot be.
            0 | 1 => {
                let (home, away) = (folder.parent().unwrap(), folder.parent().unwrap().with_file_name("away"));
                fs::rename(home, &away).unwrap();
                let is_replaced = self.dice.random_bool(0.6);
                if is_replaced {
                    fs::create_dir_all(&folder).unwrap();
                    if self.dice.random_bool(0.5) {
                        fs::write(folder.join("none of it"), "x").unwrap();
                    }
                }
                self.meanwhile();
                if is_replaced {
                    fs::remove_dir_all(home).unwrap();
                }
                fs::rename(&away, home).unwrap();
            }
            2 => {
                self.outer.unmount();
                self.meanwhile();
                self.outer.mount(&folder);
                // It went with the one that it was mounted in.
                self.inner.at = None;
                self.pause();
                self.inner.mount(&folder.join("disk"));
            }
            3 => {
                self.inner.unmount();
                self.meanwhile();
                self.inner.mount(&folder.join("disk"));
            }
            _ => {
                if self.dice.random_bool(0.5) {
                    self.a.kill();
                } else {
                    self.a.stop();
                }
                self.edit(self.a, "a");
                self.a.mount();
            }
        }
    }

    fn check(&mut self) {
        until("the folder to go on", || {
            let said = self.a.ask("wait", &["--timeout", "30s"]);
            if said.code == Some(0) { Ok(()) } else { Err(format!("{said:?}, {:?}", self.a.status().problems)) }
        });
        for device in [self.b, self.a] {
            device.wait_synced();
        }
        for device in [self.b, self.a] {
            until("what nobody removed to be there", || {
                let found = files_below(&device.folder);
                if found == self.files {
                    return Ok(());
                }
                let differs = |path: &&PathBuf| found.get(*path) != self.files.get(*path);
                let paths: Vec<_> = found.keys().chain(self.files.keys()).filter(differs).collect();
                Err(format!("{} differs at {paths:?}; {:?}", device.name, self.a.status().problems))
            });
        }
    }
}

#[test]
fn whatever_goes_away_and_comes_back_removes_nothing() {
    let dice = Dice::new("whatever_goes_away_and_comes_back");
    let world = World::lasting(Duration::from_secs(sized(300, 1_800)));
    let mut a = world.device("A").watched().with(&["--scan-interval", "1s"]);
    a.folder = world.path("home/Sync");
    fs::create_dir_all(&a.folder).unwrap();
    let (mut outer, mut inner) = (Disk::new(world.path("outer")), Disk::new(world.path("inner")));
    outer.mount(&a.folder);
    fs::create_dir_all(a.path("dir/sub")).unwrap();
    fs::create_dir(a.path("disk")).unwrap();
    inner.mount(&a.path("disk"));
    let b = world.mount("B");
    a.mount();
    // The disk is known by what is on it: what nothing of is left on, because all was moved away while the folder was not watched, is
    // taken for another one, as it says.
    fs::write(a.path("disk/kept"), "kept").unwrap();
    let files = Files::from([(PathBuf::from("disk/kept"), b"kept".to_vec())]);
    let mut ground = Ground { a: &a, b: &b, outer, inner, files, dice, count: 0 };
    let rounds = sized(6, 400);
    for _ in 0..rounds {
        for _ in 0..ground.dice.random_range(0..8) {
            ground.edit(&a, "a");
        }
        if ground.dice.random_bool(0.5) {
            a.wait_synced();
            b.wait_synced();
        }
        ground.misfortune();
        ground.check();
    }
}
