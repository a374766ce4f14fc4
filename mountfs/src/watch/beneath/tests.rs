//! Each way to walk, and what is swapped meanwhile.

use super::*;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

/// A folder, and its root opened in each way.
fn folder() -> (TempDir, Vec<Root>) {
    let dir = tempfile::tempdir().unwrap();
    let roots = vec![Root::open(dir.path()).unwrap(), Root::open_stepwise(dir.path()).unwrap()];
    (dir, roots)
}

fn spot(root: &Root, below: &str) -> Spot {
    root.spot(Path::new(below)).unwrap()
}

/// Directories by their paths, as a system has them of which calls take one name. What leads elsewhere is `false`.
#[derive(Default)]
struct Fake {
    dirs: RefCell<BTreeMap<String, bool>>,
    asked: RefCell<Vec<String>>,
    /// After so many calls what is at the path leads elsewhere.
    swaps: Option<(usize, &'static str)>,
}

impl Calls for Fake {
    type Dir = String;

    fn child(&self, dir: &String, name: &OsStr) -> io::Result<String> {
        let path = format!("{dir}/{}", name.to_str().unwrap());
        self.asked.borrow_mut().push(path.clone());
        if let Some((after, swapped)) = self.swaps
            && self.asked.borrow().len() > after
        {
            self.dirs.borrow_mut().insert(swapped.to_owned(), false);
        }
        match self.dirs.borrow().get(&path) {
            Some(true) => Ok(path),
            Some(false) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn at_once(&self, _: &String, _: &Path) -> Option<io::Result<String>> {
        None
    }
}

fn fake(swaps: Option<(usize, &'static str)>) -> Fake {
    let dirs = ["top/a", "top/a/b", "top/a/b/c"].map(|path| (path.to_owned(), true));
    Fake { dirs: RefCell::new(dirs.into()), swaps, ..Fake::default() }
}

#[test]
fn each_step_is_a_call_on_one_name_in_the_directory_before() {
    let calls = fake(None);
    assert_eq!(walk(&calls, "top".into(), Path::new("a/b/c")).unwrap(), "top/a/b/c");
    assert_eq!(*calls.asked.borrow(), ["top/a", "top/a/b", "top/a/b/c"]);
    assert_eq!(walk(&calls, "top".into(), Path::new("")).unwrap(), "top");
    for elsewhere in ["/etc", "../x", "a/../b", "./a"] {
        let refused = walk(&calls, "top".into(), Path::new(elsewhere)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput, "{elsewhere}");
    }
}

#[test]
fn what_is_swapped_on_the_way_ends_the_walk() {
    for (after, swapped) in [(0, "top/a"), (1, "top/a/b"), (2, "top/a/b/c")] {
        let refused = walk(&fake(Some((after, swapped))), "top".into(), Path::new("a/b/c")).unwrap_err();
        assert!(platform::is_absent(&refused), "{swapped}");
    }
    // What is behind already does not matter: the directory is the one that it was.
    assert!(walk(&fake(Some((1, "top/a"))), "top".into(), Path::new("a/b/c")).is_ok());
}

#[test]
fn a_place_has_one_plain_name() {
    let (_dir, roots) = folder();
    for root in roots {
        let top = root.dir(Path::new("")).unwrap();
        for name in ["", ".", "..", "a/b", "/a", "a/", "a/."] {
            assert!(top.spot(OsStr::new(name)).is_err(), "{name}");
        }
        assert!(top.spot(OsStr::new("a b")).is_ok());
        assert!(root.spot(Path::new("")).is_err() && root.spot(Path::new("a/..")).is_err());
    }
}

#[test]
fn a_file_keeps_its_identity_under_another_name_and_another_one_has_another() {
    let (dir, roots) = folder();
    for root in roots {
        let at = |name: &str| root.print(Path::new(name)).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let a = at("a").unwrap();
        assert_eq!(Print::of_file(&spot(&root, "a").open_to_read().unwrap()).unwrap(), a, "also of the open file");
        spot(&root, "a").rename_new(&spot(&root, "b")).unwrap();
        assert!(a.same_bytes(&at("b").unwrap()));
        spot(&root, "b").remove_file().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(dir.path().join("a"), "1").unwrap();
        // NTFS gives no number twice; a disk of Linux, which wine shows, does.
        let is_another = !a.same_file(&at("a").unwrap());
        assert!(is_another || cfg!(windows), "also if the disk gives it the same number");
        assert_eq!(at("b"), None);
        spot(&root, "a").remove_file().unwrap();
    }
}

#[test]
fn what_is_not_what_was_expected_is_not_replaced() {
    let (dir, roots) = folder();
    for root in roots {
        for expected in [false, true] {
            fs::write(dir.path().join("new"), "new").unwrap();
            fs::write(dir.path().join("old"), "old").unwrap();
            assert_eq!(spot(&root, "new").replace(&spot(&root, "old"), |_| Ok(expected)).unwrap(), expected);
            let there = fs::read_to_string(dir.path().join("old")).unwrap();
            assert_eq!(there, if expected { "new" } else { "old" });
            assert_eq!(dir.path().join("new").exists(), !expected);
        }
    }
}

#[test]
fn a_name_that_is_taken_is_not_taken_over() {
    let (dir, roots) = folder();
    for root in roots {
        fs::write(dir.path().join("a"), "a").unwrap();
        fs::write(dir.path().join("b"), "b").unwrap();
        let (a, b) = (spot(&root, "a"), spot(&root, "b"));
        assert_eq!(a.rename_new(&b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        b.remove_file().unwrap();
        a.rename_new(&b).unwrap();
        assert_eq!(fs::read(dir.path().join("b")).unwrap(), b"a");
    }
}

#[test]
fn times_are_kept() {
    let (dir, roots) = folder();
    fs::write(dir.path().join("a"), "a").unwrap();
    for root in roots {
        for time in [0, 1_700_000_000_123_456_700, -5_000_000_000] {
            spot(&root, "a").set_mtime(PrintKind::File, Timestamp(time)).unwrap();
            assert_eq!(root.print(Path::new("a")).unwrap().unwrap().mtime, time);
        }
    }
}

#[test]
fn directories_are_listed_made_and_removed() {
    let (dir, roots) = folder();
    for root in roots {
        spot(&root, "d").make_dir().unwrap();
        fs::write(dir.path().join("d/f"), "1").unwrap();
        let mut names = Vec::new();
        root.dir(Path::new("d"))
            .unwrap()
            .names(|name| {
                names.push(name);
                true
            })
            .unwrap();
        assert_eq!(names, ["f"]);
        assert_eq!(spot(&root, "d").remove_dir().unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
        spot(&root, "d/f").remove_file().unwrap();
        spot(&root, "d").remove_dir().unwrap();
        root.dir(Path::new("")).unwrap().sync().unwrap();
    }
}

#[test]
fn a_private_directory_is_used_again_and_goes_when_it_is_empty() {
    let (_dir, roots) = folder();
    for root in roots {
        let top = root.dir(Path::new("")).unwrap();
        let (name, work) = top.private().unwrap();
        assert!(names::is_work(platform::name_bytes(&name).unwrap()));
        let again = top.private().unwrap();
        assert!(again.0 == name && again.1.print().unwrap().same_file(&work.print().unwrap()));
        drop((work, again));
        top.spot(&name).unwrap().remove_dir().unwrap();
    }
}

#[cfg(unix)]
mod on_unix {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    /// A folder in which `d` was a directory and leads out of it by now.
    fn swapped() -> (TempDir, TempDir, Vec<Root>) {
        let (dir, roots) = folder();
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("f"), "outside").unwrap();
        symlink(outside.path(), dir.path().join("d")).unwrap();
        (dir, outside, roots)
    }

    #[test]
    fn nothing_is_reached_through_a_symlink() {
        let (dir, outside, roots) = swapped();
        for root in &roots {
            for below in ["d/f", "d/x/y"] {
                let refused = root.spot(Path::new(below)).unwrap_err();
                assert!(platform::is_absent(&refused), "{refused}");
                assert_eq!(root.print(Path::new(below)).unwrap(), None);
            }
            assert!(root.dir(Path::new("d")).is_err());
            // The symlink itself is what has the name.
            let link = spot(root, "d");
            assert_eq!(link.print().unwrap().unwrap().kind, PrintKind::Symlink);
            assert!(link.open_dir().is_err() && link.open_to_read().is_err() && link.open_marker(true).is_err());
            assert!(link.create_private().is_err() && link.make_dir().is_err());
            link.set_mtime(PrintKind::Symlink, Timestamp(5_000_000_000)).unwrap();
        }
        assert_ne!(
            fs::metadata(outside.path()).unwrap().modified().unwrap(),
            std::time::UNIX_EPOCH + Duration::from_secs(5)
        );
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
        drop(dir);
    }

    #[test]
    fn a_directory_that_is_open_stays_the_same_one() {
        let (dir, outside, roots) = swapped();
        for (number, root) in roots.iter().enumerate() {
            fs::create_dir(dir.path().join("e")).unwrap();
            let open = root.dir(Path::new("e")).unwrap();
            let aside = dir.path().join(format!("aside{number}"));
            fs::rename(dir.path().join("e"), &aside).unwrap();
            symlink(outside.path(), dir.path().join("e")).unwrap();
            open.spot(OsStr::new("new")).unwrap().create_private().unwrap();
            assert!(aside.join("new").exists() && !outside.path().join("new").exists());
            fs::remove_file(dir.path().join("e")).unwrap();
        }
    }

    #[test]
    fn a_mode_is_set_of_what_was_meant_and_of_nothing_else() {
        let (dir, outside, roots) = swapped();
        let secret = outside.path().join("f");
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let path = dir.path().join("a");
        for root in &roots {
            fs::write(&path, "1").unwrap();
            let a = spot(root, "a");
            let print = a.print().unwrap().unwrap();
            for bits in [0o640, 0o000, 0o444] {
                a.set_mode(&print, bits).unwrap();
                assert_eq!(mode(&path), bits);
            }
            fs::remove_file(&path).unwrap();
            symlink(&secret, &path).unwrap();
            assert!(a.set_mode(&print, 0o777).is_err());
            fs::remove_file(&path).unwrap();
            fs::hard_link(&secret, &path).unwrap();
            assert!(a.set_mode(&print, 0o777).is_err(), "another file has its name");
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(mode(&secret), 0o600);
    }

    #[test]
    fn a_directory_of_another_user_is_not_taken_for_a_private_one() {
        let (dir, roots) = folder();
        let planted = dir.path().join(names::work_name(0));
        symlink("/", &planted).unwrap();
        for root in &roots {
            let (name, work) = root.dir(Path::new("")).unwrap().private().unwrap();
            assert_eq!(name, OsString::from(names::work_name(1)));
            assert_eq!(mode(&dir.path().join(&name)), 0o700);
            drop(work);
        }
        if rustix::process::geteuid().is_root() {
            let theirs = dir.path().join(names::work_name(1));
            std::os::unix::fs::chown(&theirs, Some(12345), None).unwrap();
            for root in &roots {
                assert_eq!(root.dir(Path::new("")).unwrap().private().unwrap().0, OsString::from(names::work_name(2)));
            }
        }
        // One that was opened up is closed again.
        let mine = dir.path().join(names::work_name(2));
        fs::create_dir_all(&mine).unwrap();
        fs::set_permissions(&mine, fs::Permissions::from_mode(0o777)).unwrap();
        roots[0].dir(Path::new("")).unwrap().private().unwrap();
        let closed = [1, 2].map(|number| mode(&dir.path().join(names::work_name(number))));
        assert!(closed.contains(&0o700), "{closed:?}");
    }

    /// Everything that is done to a place, done to each name that lies outside too.
    fn do_all(root: &Root, turn: u32) {
        let name = ["f", "sub/f", "new", "sub/new"][turn as usize % 4];
        let Ok(spot) = root.spot(&Path::new("d").join(name)) else { return };
        let other = root.spot(Path::new("d/other"));
        // Whatever becomes of it here: what counts is what lies outside.
        drop(spot.create_private().map(|file| file.set_len(3)));
        if let Ok(Some(print)) = spot.print() {
            drop(spot.set_mode(&print, 0o777));
        }
        drop(spot.set_mtime(PrintKind::File, Timestamp(5)));
        drop(spot.dir().in_writable(|| spot.make_dir()));
        drop(spot.make_link(&SymlinkTarget::new(&b"x"[..]).unwrap()));
        if let Ok(other) = other {
            drop(spot.rename_new(&other));
            drop(spot.replace(&other, |_| Ok(turn.is_multiple_of(2))));
            drop(other.remove_file());
        }
        drop(spot.remove_file());
        drop(spot.remove_dir());
        drop(root.dir(Path::new("d/sub")).and_then(|dir| dir.private()));
    }

    #[test]
    fn swaps_at_any_moment_lead_nowhere() {
        use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
        let (dir, roots) = folder();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("sub")).unwrap();
        let names = ["f", "other", "sub/f"];
        for name in names {
            fs::write(outside.path().join(name), name).unwrap();
            fs::set_permissions(outside.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
        }
        let look = || {
            let file = |name: &&str| {
                let path = outside.path().join(name);
                (fs::read(&path).ok(), mode(&path), fs::metadata(&path).and_then(|found| found.modified()).ok())
            };
            let listed = |below: &str| fs::read_dir(outside.path().join(below)).unwrap().count();
            (names.iter().map(file).collect::<Vec<_>>(), listed(""), listed("sub"))
        };
        let before = look();
        for root in &roots {
            let (over, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
            std::thread::scope(|scope| {
                for thread in 0..3 {
                    let (dir, outside, over, swaps) = (dir.path(), outside.path(), &over, &swaps);
                    scope.spawn(move || {
                        let (place, aside) = (dir.join("d"), dir.join(format!("aside{thread}")));
                        while !over.load(Ordering::Relaxed) {
                            // The three are in each other's way: what one has made another one takes.
                            if fs::rename(&place, &aside).is_err() {
                                drop(fs::create_dir_all(aside.join("sub")));
                            }
                            swaps.fetch_add(u32::from(symlink(outside, &place).is_ok()), Ordering::Relaxed);
                            std::thread::yield_now();
                            drop(fs::remove_file(&place));
                            if fs::symlink_metadata(&aside).is_ok_and(|found| found.is_symlink()) {
                                drop(fs::remove_file(&aside));
                            }
                            if fs::rename(&aside, &place).is_err() {
                                drop(fs::remove_dir_all(&aside));
                            }
                        }
                    });
                }
                let end = std::time::Instant::now() + Duration::from_millis(1500);
                let mut turn = 0;
                while std::time::Instant::now() < end {
                    turn += 1;
                    do_all(root, turn);
                }
                over.store(true, Ordering::Relaxed);
            });
            assert!(swaps.into_inner() > 100);
            assert_eq!(look(), before);
            drop(fs::remove_file(dir.path().join("d")));
        }
    }

    #[test]
    fn both_ways_see_the_same() {
        let (dir, outside, roots) = swapped();
        fs::create_dir_all(dir.path().join("x/y")).unwrap();
        fs::write(dir.path().join("x/y/z"), "1").unwrap();
        for below in ["x", "x/y", "x/y/z", "x/y/z/none", "d", "d/f", "none", "none/x", ""] {
            let seen = roots.iter().map(|root| root.print(Path::new(below)).unwrap()).collect::<Vec<_>>();
            assert_eq!(seen[0], seen[1], "{below}");
        }
        drop(outside);
    }
}
