//! A whole tree as it is seen: kind, mode, size, mtime, target and SHA-256 of everything in it.

use super::until::{PATIENCE, until};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Whether the times of directories are compared. They are not kept in step while entries come and go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirTimes {
    /// Compared, as after `cp -a`, which sets them last.
    Compared,
    /// Left out.
    Ignored,
}

/// What an entry is.
#[derive(Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A file, by size and SHA-256.
    File {
        /// Size in bytes.
        size: u64,
        /// SHA-256 in hexadecimal digits; empty if it was not read.
        sha256: String,
    },
    /// A symlink.
    Symlink(PathBuf),
    /// Anything else, which must not be.
    Other,
}

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    mode: u32,
    /// Seconds and nanoseconds; `None` if it is not compared.
    mtime: Option<(i64, i64)>,
}

/// A tree at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Tree(BTreeMap<PathBuf, Entry>);

impl Tree {
    /// Reads everything below `root`.
    pub fn read(root: &Path, dir_times: DirTimes) -> io::Result<Self> {
        Self::read_as(root, dir_times, true)
    }

    /// The same with `root` itself, the times of directories, and what has a name of the client's own.
    pub fn read_whole(root: &Path) -> io::Result<Self> {
        let mut tree = Self::read_all(root, DirTimes::Compared, true, |_| true)?;
        tree.0.insert(PathBuf::new(), read_entry(root, DirTimes::Compared, true)?);
        Ok(tree)
    }

    /// The same without the files' bytes.
    pub fn read_names(root: &Path) -> io::Result<Self> {
        Self::read_as(root, DirTimes::Ignored, false)
    }

    fn read_as(root: &Path, dir_times: DirTimes, bytes: bool) -> io::Result<Self> {
        // Not what a watched folder has for itself.
        Self::read_all(root, dir_times, bytes, |name| !name.as_bytes().starts_with(b".syncmount-"))
    }

    fn read_all(root: &Path, dir_times: DirTimes, bytes: bool, counts: impl Fn(&OsStr) -> bool) -> io::Result<Self> {
        let mut entries = BTreeMap::new();
        let mut pending = vec![root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            for found in fs::read_dir(&dir).map_err(|error| named(&dir, &error))? {
                let path = found?.path();
                if !path.file_name().is_some_and(&counts) {
                    continue;
                }
                let entry = read_entry(&path, dir_times, bytes).map_err(|error| named(&path, &error))?;
                let name = path.strip_prefix(root).map_err(io::Error::other)?.to_path_buf();
                if entry.kind == Kind::Dir {
                    pending.push(path);
                }
                entries.insert(name, entry);
            }
        }
        Ok(Self(entries))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The paths, sorted.
    pub fn paths(&self) -> Vec<&Path> {
        self.0.keys().map(PathBuf::as_path).collect()
    }

    /// What differs, one line each; empty if nothing does.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let missing = |ours: &Self, theirs: &Self, side: &str| -> Vec<String> {
            let missing = ours.0.iter().filter(|(path, _)| !theirs.0.contains_key(*path));
            missing.map(|(path, entry)| format!("{side} {}: {entry:?}", escaped(path))).collect()
        };
        let changed = self.0.iter().filter_map(|(path, left)| {
            let right = other.0.get(path)?;
            (left != right).then(|| format!("{}:\n    left  {left:?}\n    right {right:?}", escaped(path)))
        });
        [missing(self, other, "only left"), missing(other, self, "only right"), changed.collect()].concat()
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", escaped(path)))
}

fn read_entry(path: &Path, dir_times: DirTimes, bytes: bool) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let mut mtime = Some((metadata.mtime(), metadata.mtime_nsec()));
    let kind = if metadata.is_dir() {
        mtime = mtime.filter(|_| dir_times == DirTimes::Compared);
        Kind::Dir
    } else if metadata.is_symlink() {
        Kind::Symlink(fs::read_link(path)?)
    } else if metadata.is_file() {
        let sha256 = if bytes { sha256(path)? } else { String::new() };
        Kind::File { size: metadata.size(), sha256 }
    } else {
        Kind::Other
    };
    Ok(Entry { kind, mode: metadata.mode() & 0o7777, mtime })
}

/// The SHA-256 of a file, in hexadecimal digits.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buf = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            got => hasher.update(&buf[..got]),
        }
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Dir => write!(f, "directory")?,
            Kind::File { size, sha256 } => write!(f, "file, {size} bytes, {sha256}")?,
            Kind::Symlink(target) => write!(f, "symlink to {}", escaped(target))?,
            Kind::Other => write!(f, "special")?,
        }
        write!(f, ", mode {:o}", self.mode)?;
        self.mtime.map_or(Ok(()), |(seconds, nanos)| write!(f, ", mtime {seconds}.{nanos:09}"))
    }
}

/// A path for a person: what is not printable ASCII is written as escapes.
pub fn escaped(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}

fn shown(differences: &[String]) -> String {
    let more = differences.len().saturating_sub(12);
    let list = differences.iter().take(12).map(|line| format!("\n  {line}")).collect::<String>();
    format!("{} differences{list}{}", differences.len(), if more > 0 { "\n  …" } else { "" })
}

/// Both trees are the same, now.
#[track_caller]
pub fn assert_equal(left: &Path, right: &Path, dir_times: DirTimes) {
    let read = |root| Tree::read(root, dir_times).unwrap_or_else(|error| panic!("{error}"));
    let differences = read(left).differences(&read(right));
    assert!(
        differences.is_empty(),
        "left is {}, right is {}: {}",
        left.display(),
        right.display(),
        shown(&differences)
    );
}

/// `right` becomes the same as `left` within [`PATIENCE`].
#[track_caller]
pub fn assert_become_equal(left: &Path, right: &Path, dir_times: DirTimes) {
    let what =
        format!("{} (right) to become equal to {} (left), at most {PATIENCE:?}", right.display(), left.display());
    until(&what, || {
        let read = |root| Tree::read(root, dir_times).map_err(|error| error.to_string());
        match read(left)?.differences(&read(right)?).as_slice() {
            [] => Ok(()),
            differences => Err(shown(differences)),
        }
    });
}
