//! The disk of a run: the folder, the sentinels beside it, and the two that act on the folder without the client's knowledge.
//!
//! The honest user writes, renames and removes, and follows no symlink. The rogue swaps directories and files for symlinks
//! that lead to the sentinels, back again, and takes the names that the client uses for files on their way.

use crate::pairs_folder::WORK;
use crate::sim::Rng;
use crate::support::{Around, set_mtime};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Directories that are there at the begin; each has one called `sub`.
pub(super) const DIRS: [&str; 3] = ["d0", "d1", "d2"];

const FILES: [&str; 4] = ["f0", "f1", "keys", "link"];

/// Sizes of what is written: of one, two and forty pieces, so that different bytes often have one size. The manifest of the
/// last does not travel inside a node.
const SIZES: [usize; 3] = [60, 200, 5000];

/// One disk.
pub(super) struct Ground {
    home: TempDir,
    around: Around,
    rng: Rng,
    /// How likely an act is between two steps of the client, in 1000.
    pub(super) rate: u64,
    /// Whether the rogue acts, too.
    pub(super) has_rogue: bool,
    /// The mtime of what is written next: each has one of its own.
    clock: i64,
    count: u64,
    /// What the user has written and not given up by writing over it or removing it.
    pub(super) written: BTreeSet<Vec<u8>>,
    /// What the rogue has taken away: where it is, and where it was.
    asides: Vec<(PathBuf, PathBuf)>,
    pub(super) log: Vec<String>,
    pub(super) swaps: u64,
}

/// A path as one of several that may be there: in the root, in a directory, or one further down.
pub(super) fn some_path(rng: &mut Rng) -> String {
    let name = FILES[rng.index(FILES.len())];
    let dir = DIRS[rng.index(DIRS.len())];
    match rng.below(4) {
        0 => name.to_owned(),
        1 | 2 => format!("{dir}/{name}"),
        _ => format!("{dir}/sub/{name}"),
    }
}

/// Bytes that no other party writes.
pub(super) fn some_bytes(rng: &mut Rng, who: &str, count: u64) -> String {
    format!("{who}-{count:06}-{:0<size$}", "", size = SIZES[rng.index(SIZES.len())])
}

impl Ground {
    pub(super) fn new(seed: u64, now: i64) -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("syncmount-").tempdir()?;
        for dir in ["Sync", "aside", "gone"] {
            fs::create_dir(home.path().join(dir))?;
        }
        fs::write(home.path().join("Sync/.syncmount-folder"), "")?;
        let around = Around::beside(home.path(), &DIRS);
        Ok(Self {
            around,
            home,
            rng: Rng::of(&[seed, 1]),
            rate: 0,
            has_rogue: false,
            clock: now,
            count: 0,
            written: BTreeSet::new(),
            asides: Vec::new(),
            log: Vec::new(),
            swaps: 0,
        })
    }

    pub(super) fn root(&self) -> PathBuf {
        self.home.path().join("Sync")
    }

    pub(super) fn at(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Nothing outside the folder has changed, and nothing was made there.
    pub(super) fn check_outside(&self) -> Result<(), String> {
        let mut changes = self.around.changes();
        let names = fs::read_dir(self.home.path()).map_err(|error| error.to_string())?;
        let mut names: Vec<_> = names.flatten().map(|entry| entry.file_name()).collect();
        names.sort();
        if names != ["Sync", "aside", "gone", "outside"] {
            changes.push(format!("{names:?}"));
        }
        if changes.is_empty() { Ok(()) } else { Err(format!("outside of the folder: {changes:#?}")) }
    }

    /// All bytes of regular files that are in the folder or that the rogue has.
    pub(super) fn bytes_there(&self) -> BTreeSet<Vec<u8>> {
        let mut found = BTreeSet::new();
        for dir in [self.root(), self.home.path().join("aside")] {
            read_files(&dir, &mut found);
        }
        found
    }

    /// Something happens, perhaps.
    pub(super) fn between(&mut self) {
        if self.rng.chance(self.rate) {
            self.act();
        }
    }

    /// Something happens.
    pub(super) fn act(&mut self) {
        let is_rogue = self.has_rogue && self.rng.chance(600);
        let done = if is_rogue { self.rogue() } else { self.user() };
        // What cannot be done, since something else is there, is not done.
        if let Ok(note) = done
            && !note.is_empty()
        {
            self.log.push(note);
        }
    }

    /// Whether the directories above a path are there, and no symlinks.
    fn is_plain(&self, path: &str) -> bool {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        let mut at = self.root();
        above.split('/').filter(|name| !name.is_empty()).all(|name| {
            at.push(name);
            fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir())
        })
    }

    fn is_file(&self, path: &str) -> bool {
        self.is_plain(path) && fs::symlink_metadata(self.at(path)).is_ok_and(|found| found.is_file())
    }

    fn is_free(&self, path: &str) -> bool {
        self.is_plain(path) && fs::symlink_metadata(self.at(path)).is_err()
    }

    fn stamp(&mut self, path: &Path) -> io::Result<()> {
        self.clock += 1_000_000;
        set_mtime(path, self.clock / 1_000_000_000, self.clock % 1_000_000_000)
    }

    /// What the user has at a path is the user's to destroy.
    fn give_up(&mut self, path: &str) {
        let mut given_up = BTreeSet::new();
        let at = self.at(path);
        match fs::symlink_metadata(&at) {
            Ok(found) if found.is_dir() => read_files(&at, &mut given_up),
            Ok(found) if found.is_file() => given_up.extend(fs::read(&at)),
            _ => {}
        }
        self.written.retain(|bytes| !given_up.contains(bytes));
    }

    /// The user writes a file, in its place or by renaming another one over it.
    pub(super) fn write(&mut self, path: &str, bytes: &[u8], in_place: bool) -> io::Result<String> {
        if !self.is_file(path) && !self.is_free(path) {
            return Ok(String::new());
        }
        self.give_up(path);
        let there = self.at(path);
        if in_place {
            fs::write(&there, bytes)?;
            self.stamp(&there)?;
        } else {
            self.count += 1;
            let beside = self.home.path().join(format!("gone/{}", self.count));
            fs::write(&beside, bytes)?;
            self.stamp(&beside)?;
            fs::rename(&beside, &there)?;
        }
        self.written.insert(bytes.to_vec());
        Ok(format!("user: write {path} {} bytes, in place: {in_place}", bytes.len()))
    }

    fn user(&mut self) -> io::Result<String> {
        let path = some_path(&mut self.rng);
        match self.rng.below(14) {
            0..7 => {
                self.count += 1;
                let bytes = some_bytes(&mut self.rng, "mine", self.count);
                let in_place = self.rng.chance(600);
                self.write(&path, bytes.as_bytes(), in_place)
            }
            7 if self.is_file(&path) => {
                self.give_up(&path);
                self.throw_away(&path)?;
                Ok(format!("user: rm {path}"))
            }
            8 => {
                let dir = path.rsplit_once('/').map_or("d1/sub", |(dir, _)| dir).to_owned();
                let is_dir = fs::symlink_metadata(self.at(&dir)).is_ok_and(|found| found.is_dir());
                if !self.is_plain(&dir) || !is_dir || !self.rng.chance(400) {
                    return self.make_dirs();
                }
                self.give_up(&dir);
                self.throw_away(&dir)?;
                Ok(format!("user: rm -r {dir}"))
            }
            9 | 10 => {
                let to = some_path(&mut self.rng);
                if path == to || !self.is_file(&path) || !(self.is_file(&to) || self.is_free(&to)) {
                    return Ok(String::new());
                }
                self.give_up(&to);
                fs::rename(self.at(&path), self.at(&to))?;
                Ok(format!("user: mv {path} {to}"))
            }
            11 => self.make_dirs(),
            12 if self.is_file(&path) => {
                let mode = [0o644, 0o600, 0o755, 0o400][self.rng.index(4)];
                fs::set_permissions(self.at(&path), Permissions::from_mode(mode))?;
                Ok(format!("user: chmod {path} {mode:o}"))
            }
            13 if self.is_free(&path) => {
                symlink("nowhere", self.at(&path))?;
                self.stamp(&self.at(&path))?;
                Ok(format!("user: ln {path}"))
            }
            _ => Ok(String::new()),
        }
    }

    fn make_dirs(&mut self) -> io::Result<String> {
        for dir in DIRS {
            for path in [dir.to_owned(), format!("{dir}/sub")] {
                if self.is_free(&path) {
                    fs::create_dir(self.at(&path))?;
                    return Ok(format!("user: mkdir {path}"));
                }
            }
        }
        Ok(String::new())
    }

    /// Removes it in a way that keeps the disk from giving its number to another.
    fn throw_away(&mut self, path: &str) -> io::Result<()> {
        self.count += 1;
        fs::rename(self.at(path), self.home.path().join(format!("gone/{}", self.count)))
    }

    fn take_aside(&mut self, path: &str, target: &Path) -> io::Result<String> {
        self.count += 1;
        let (there, aside) = (self.at(path), self.home.path().join(format!("aside/{}", self.count)));
        fs::rename(&there, &aside)?;
        self.asides.push((aside, there.clone()));
        symlink(target, &there)?;
        self.stamp(&there)?;
        self.swaps += 1;
        Ok(format!("rogue: {path} leads to {}", target.display()))
    }

    fn rogue(&mut self) -> io::Result<String> {
        let path = some_path(&mut self.rng);
        let up = "../".repeat(path.matches('/').count());
        let outside = PathBuf::from(up).join(Around::FROM_FOLDER);
        match self.rng.below(12) {
            0..3 => {
                // A directory of the three, or the one in it.
                let dir = path.rsplit_once('/').map_or("d0", |(dir, _)| dir);
                let up = "../".repeat(dir.matches('/').count());
                let is_dir = fs::symlink_metadata(self.at(dir)).is_ok_and(|found| found.is_dir());
                if !self.is_plain(dir) || !is_dir {
                    return Ok(String::new());
                }
                let target = Path::new(&up).join(Around::FROM_FOLDER).join(dir);
                self.take_aside(dir, &target)
            }
            3 if self.is_file(&path) => self.take_aside(&path, &outside.join("keys")),
            4 | 5 if self.is_free(&path) => {
                symlink(outside.join("keys"), self.at(&path))?;
                self.stamp(&self.at(&path))?;
                Ok(format!("rogue: {path} is a symlink"))
            }
            6 | 7 if fs::symlink_metadata(self.at(WORK)).is_ok_and(|found| found.is_dir()) => {
                self.take_aside(WORK, Path::new(Around::FROM_FOLDER))
            }
            6 | 7 if self.is_free(WORK) => {
                match self.rng.below(3) {
                    0 => symlink(Around::FROM_FOLDER, self.at(WORK))?,
                    1 => fs::hard_link(self.around.path().join("in/keys"), self.at(WORK))?,
                    _ => symlink(Path::new(Around::FROM_FOLDER).join("none"), self.at(WORK))?,
                }
                self.swaps += 1;
                Ok(format!("rogue: {WORK} is taken"))
            }
            8 => {
                // The symlink goes, and nothing comes back yet.
                let is_link = fs::symlink_metadata(self.at(&path)).is_ok_and(|found| found.is_symlink());
                if !self.is_plain(&path) || !is_link {
                    return Ok(String::new());
                }
                fs::remove_file(self.at(&path))?;
                Ok(format!("rogue: rm {path}"))
            }
            _ => {
                if self.asides.is_empty() {
                    return Ok(String::new());
                }
                let which = self.rng.index(self.asides.len());
                self.put_back(which)
            }
        }
    }

    /// Puts something back where it was, if nothing but a symlink is there.
    fn put_back(&mut self, which: usize) -> io::Result<String> {
        let (aside, place) = self.asides[which].clone();
        let path = place.strip_prefix(self.root()).map_err(io::Error::other)?.display().to_string();
        if !self.is_plain(&path) {
            return Ok(String::new());
        }
        match fs::symlink_metadata(&place) {
            Ok(found) if found.is_symlink() => fs::remove_file(&place)?,
            Ok(_) => return Ok(String::new()),
            Err(_) => {}
        }
        fs::rename(&aside, &place)?;
        self.asides.swap_remove(which);
        Ok(format!("rogue: {path} is back"))
    }

    /// The rogue stops, and everything is put back that can be.
    pub(super) fn calm(&mut self) {
        (self.rate, self.has_rogue) = (0, false);
        for which in (0..self.asides.len()).rev() {
            // What has no place any more stays where it is.
            let _ = self.put_back(which);
        }
        if fs::symlink_metadata(self.at(WORK)).is_ok_and(|found| !found.is_dir()) {
            let _ = fs::remove_file(self.at(WORK));
        }
    }
}

/// The bytes of all regular files in a directory and below it.
fn read_files(dir: &Path, found: &mut BTreeSet<Vec<u8>>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => read_files(&entry.path(), found),
            Ok(kind) if kind.is_file() => found.extend(fs::read(entry.path())),
            _ => {}
        }
    }
}
