//! Random trees and random edits, repeatable by their seed.

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::ops::{Deref, DerefMut};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

/// The variable that repeats a run.
const SEED: &str = "SYNCMOUNT_SEED";

/// A random generator whose seed is printed, so that a failure can be repeated.
pub struct Dice(StdRng);

impl Dice {
    /// For the test `name`: a new seed each time, or that of the variable `SYNCMOUNT_SEED`.
    pub fn new(name: &str) -> Self {
        let given = std::env::var(SEED).ok().map(|text| text.parse().expect("SYNCMOUNT_SEED is a number"));
        let seed: u64 = given.unwrap_or_else(fresh_seed);
        eprintln!("repeat with: {SEED}={seed} cargo test -p syncmount-tests {name}");
        Self(StdRng::seed_from_u64(seed))
    }

    /// A fixed one, for runs that are the same each time.
    pub fn fixed(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Another generator for another thread, determined by this one.
    pub fn fork(&mut self) -> Self {
        Self(StdRng::seed_from_u64(self.0.random()))
    }
}

/// The standard library's own randomness is enough for a seed.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(std::time::SystemTime::now())
}

impl Deref for Dice {
    type Target = StdRng;

    fn deref(&self) -> &StdRng {
        &self.0
    }
}

impl DerefMut for Dice {
    fn deref_mut(&mut self) -> &mut StdRng {
        &mut self.0
    }
}

/// Random bytes that no compression makes smaller.
pub fn bytes(rng: &mut StdRng, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    rng.fill_bytes(&mut out);
    out
}

/// Sets the mtime of a file, directory or symlink itself.
pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) -> io::Result<()> {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes a file with these bytes and this mode.
pub fn make_file(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, content)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Sizes as they are in real folders: most are small, some are empty, a few have megabytes.
fn file_len(rng: &mut StdRng) -> usize {
    match rng.random_range(0..100) {
        0..8 => 0,
        8..70 => rng.random_range(1..8 * 1024),
        70..92 => rng.random_range(8 * 1024..100 * 1024),
        92..98 => rng.random_range(100 * 1024..600 * 1024),
        _ => rng.random_range(600 * 1024..=3 * 1024 * 1024),
    }
}

/// Text that compresses, or noise that does not.
fn content(rng: &mut StdRng) -> Vec<u8> {
    let len = file_len(rng);
    if rng.random_bool(0.3) {
        let line = format!("line {}\n", rng.random::<u32>()).into_bytes();
        return line.into_iter().cycle().take(len).collect();
    }
    bytes(rng, len)
}

/// Names from plain to as odd as they may be. `number` makes them unique.
fn name(rng: &mut StdRng, number: usize) -> OsString {
    let odd: Vec<u8> = match rng.random_range(0..14) {
        0 => format!("with spaces  {number} ").into_bytes(),
        1 => format!("Größe-ß-日本-{number}.txt").into_bytes(),
        2 => format!("new\nline\t{number}").into_bytes(),
        3 => [b"bytes-\xff\xfe-".as_slice(), number.to_string().as_bytes()].concat(),
        4 => format!("{number}-{}", "x".repeat(255)).into_bytes()[..255].to_vec(),
        5 => format!(".hidden-{number}").into_bytes(),
        6 => format!("-rf {number};*?\"'\\$(x)").into_bytes(),
        _ => format!("file-{number}.bin").into_bytes(),
    };
    OsString::from_vec(odd)
}

/// Seconds and nanoseconds of some moment between 1971 and 2025.
fn moment(rng: &mut StdRng) -> (i64, i64) {
    (rng.random_range(40_000_000..1_760_000_000), rng.random_range(0..1_000_000_000))
}

const FILE_MODES: [u32; 6] = [0o644, 0o600, 0o755, 0o700, 0o640, 0o664];
const DIR_MODES: [u32; 3] = [0o755, 0o700, 0o750];

fn pick<T: Clone>(rng: &mut StdRng, from: &[T]) -> T {
    from[rng.random_range(0..from.len())].clone()
}

/// Makes a tree of `files` files and symlinks below `root`, in the top directories `t0` to `t7` and below them.
pub fn random_tree(rng: &mut StdRng, root: &Path, files: usize) -> io::Result<()> {
    let mut dirs: Vec<PathBuf> = (0..8).map(|number| root.join(format!("t{number}"))).collect();
    for number in 0..files / 12 {
        let parent = pick(rng, &dirs);
        let deep = parent.components().count() > root.components().count() + 6;
        dirs.push(if deep { root.join(format!("t0/d{number}")) } else { parent.join(format!("d {number}")) });
    }
    for dir in &dirs {
        fs::create_dir_all(dir)?;
    }
    for number in 0..files {
        let path = pick(rng, &dirs).join(name(rng, number));
        match rng.random_range(0..20) {
            0 => symlink(format!("nowhere/{number}"), &path)?,
            1 => symlink("..", &path)?,
            _ => make_file(&path, &content(rng), pick(rng, &FILE_MODES))?,
        }
        let (seconds, nanos) = moment(rng);
        set_mtime(&path, seconds, nanos)?;
    }
    // The deepest first, because making an entry changes its directory's time.
    for dir in dirs.iter().rev() {
        fs::set_permissions(dir, fs::Permissions::from_mode(pick(rng, &DIR_MODES)))?;
        let (seconds, nanos) = moment(rng);
        set_mtime(dir, seconds, nanos)?;
    }
    Ok(())
}

/// A mount and a plain directory to which the same is done: what the mount must look like.
pub struct Twin<'a> {
    /// The mount.
    pub mount: &'a Path,
    /// The plain directory.
    pub mirror: &'a Path,
}

impl Twin<'_> {
    /// Does the same to both.
    #[track_caller]
    pub fn apply(&self, what: &str, act: impl Fn(&Path) -> io::Result<()>) {
        for root in [self.mirror, self.mount] {
            act(root).unwrap_or_else(|error| panic!("{what} in {}: {error}", root.display()));
        }
    }
}

/// What lies in a subtree of the mirror, by paths relative to it.
#[derive(Default)]
struct Found {
    files: Vec<PathBuf>,
    dirs: Vec<PathBuf>,
}

fn find(root: &Path, subtree: &Path, found: &mut Found) -> io::Result<()> {
    found.dirs.push(subtree.to_path_buf());
    let mut entries = fs::read_dir(root.join(subtree))?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = subtree.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_dir() {
            find(root, &path, found)?;
        } else if kind.is_file() {
            found.files.push(path);
        }
    }
    Ok(())
}

/// Makes `count` random changes below `subtree`: contents, sizes, modes, names, directories, symlinks, removals.
#[track_caller]
pub fn random_edits(rng: &mut StdRng, twin: &Twin<'_>, subtree: &str, count: usize) {
    for number in 0..count {
        let mut found = Found::default();
        find(twin.mirror, Path::new(subtree), &mut found).expect("the mirror can be read");
        edit(rng, twin, &found, number);
    }
}

fn edit(rng: &mut StdRng, twin: &Twin<'_>, found: &Found, number: usize) {
    let dir = pick(rng, &found.dirs);
    let fresh = dir.join(format!("new {number} {}", rng.random::<u16>()));
    let (seconds, nanos) = moment(rng);
    let stamp = |path: &Path| set_mtime(path, seconds, nanos);
    let Some(file) = (!found.files.is_empty()).then(|| pick(rng, &found.files)) else {
        let content = content(rng);
        return twin
            .apply("create", |root| fs::write(root.join(&fresh), &content).and_then(|()| stamp(&root.join(&fresh))));
    };
    match rng.random_range(0..13) {
        0 | 1 => {
            let content = content(rng);
            let target = if rng.random() { &fresh } else { &file };
            twin.apply("write", |root| fs::write(root.join(target), &content).and_then(|()| stamp(&root.join(target))));
        }
        2 => {
            let more = bytes(rng, 5000);
            twin.apply("append", |root| {
                OpenOptions::new().append(true).open(root.join(&file))?.write_all(&more)?;
                stamp(&root.join(&file))
            });
        }
        3 => {
            let (part, at) = (bytes(rng, 3000), rng.random_range(0..200_000));
            twin.apply("pwrite", |root| {
                OpenOptions::new().write(true).open(root.join(&file))?.write_all_at(&part, at)?;
                stamp(&root.join(&file))
            });
        }
        4 => {
            let len = rng.random_range(0..150_000);
            twin.apply("truncate", |root| {
                OpenOptions::new().write(true).open(root.join(&file))?.set_len(len)?;
                stamp(&root.join(&file))
            });
        }
        5 => twin.apply("rename", |root| fs::rename(root.join(&file), root.join(&fresh))),
        6 => {
            let target = pick(rng, &found.files);
            twin.apply("rename over", |root| fs::rename(root.join(&file), root.join(&target)));
        }
        7 => {
            // Never the subtree's own root, never into itself.
            let moved = pick(rng, &found.dirs);
            if moved != found.dirs[0] && !fresh.starts_with(&moved) {
                twin.apply("rename directory", |root| fs::rename(root.join(&moved), root.join(&fresh)));
            }
        }
        8 => twin.apply("unlink", |root| fs::remove_file(root.join(&file))),
        9 => {
            let removed = pick(rng, &found.dirs);
            let weight = found.files.iter().filter(|path| path.starts_with(&removed)).count();
            if removed != found.dirs[0] && weight < 12 {
                twin.apply("remove directory", |root| fs::remove_dir_all(root.join(&removed)));
            }
        }
        10 => {
            let mode = pick(rng, &FILE_MODES);
            twin.apply("chmod", |root| fs::set_permissions(root.join(&file), fs::Permissions::from_mode(mode)));
        }
        11 => {
            let content = content(rng);
            twin.apply("mkdir", |root| {
                fs::create_dir(root.join(&fresh))?;
                let inner = root.join(&fresh).join(OsStr::from_bytes(b"in \xfe side"));
                fs::write(&inner, &content)?;
                stamp(&inner)
            });
        }
        _ => twin.apply("symlink over", |root| {
            symlink(&file, root.join(&fresh))?;
            stamp(&root.join(&fresh))?;
            fs::rename(root.join(&fresh), root.join(&file))
        }),
    }
}
