//! What lies in the folder, reached from the handle of its root one name at a time. The only place of watch mode that
//! touches the folder.
//!
//! A path is never given to the system: a user who may write in the folder could swap one of its directories for a symlink
//! between two calls, or before one. So each directory on the way is opened in the one above, symlinks not followed, and
//! the last step is a call on one plain name in an open directory. What was swapped meanwhile is not there, or is the
//! directory that it was. Where the system walks like that in one call, that is a shortcut of the same.

#[cfg(test)]
mod tests;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

use super::names;
use super::platform::{self, Print, PrintKind};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;
use syncmount_common::{Owner, SymlinkTarget, Timestamp};

/// How many names are tried for a directory that only this process may enter.
const WORK_NAMES: u32 = 16;

/// What is at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Found {
    /// What it looks like.
    pub(crate) print: Print,
    /// When it was last touched in any way, in nanoseconds since 1970.
    pub(crate) touched: i64,
    /// It is the root of a file system that is mounted there.
    pub(crate) is_mount_point: bool,
    /// The user and the group that it belongs to, on systems that have them as numbers.
    pub(crate) owner: Option<Owner>,
}

/// The calls that a walk is made of.
trait Calls {
    /// An open directory.
    type Dir;

    /// Opens what has this one plain name in a directory, if that is a directory. A symlink is none, wherever it leads.
    fn child(&self, dir: &Self::Dir, name: &OsStr) -> io::Result<Self::Dir>;

    /// All steps in one call, if the system has such a call; `None`: step by step.
    fn at_once(&self, top: &Self::Dir, below: &Path) -> Option<io::Result<Self::Dir>>;
}

/// Opens the directory at `below`, which has plain names only.
fn walk<C: Calls>(calls: &C, top: C::Dir, below: &Path) -> io::Result<C::Dir> {
    if below.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if below.as_os_str().is_empty() {
        return Ok(top);
    }
    if let Some(found) = calls.at_once(&top, below) {
        return found;
    }
    let mut dir = top;
    for name in below.iter() {
        dir = calls.child(&dir, name)?;
    }
    Ok(dir)
}

/// The folder's root.
#[derive(Clone)]
pub(crate) struct Root(Arc<system::Top>);

impl Root {
    /// The root at `path`, which its owner has named: symlinks in that are followed, once.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(system::Top::open(path, true)?)))
    }

    /// The same without the shortcut.
    #[cfg(test)]
    pub(crate) fn open_stepwise(path: &Path) -> io::Result<Self> {
        Ok(Self(Arc::new(system::Top::open(path, false)?)))
    }

    /// What its owner calls it.
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The directory at a path below the root.
    pub(crate) fn dir(&self, below: &Path) -> io::Result<Dir> {
        let top = self.0.dir()?;
        walk(&*self.0, top, below).map(|dir| Dir(Arc::new(dir)))
    }

    /// The place at a path below the root, which is not the root itself. The directories above it must be there.
    pub(crate) fn spot(&self, below: &Path) -> io::Result<Spot> {
        let name = below.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        self.dir(below.parent().unwrap_or(Path::new("")))?.spot(name)
    }

    /// What is at a path below the root; `None` if nothing is there.
    pub(crate) fn print(&self, below: &Path) -> io::Result<Option<Print>> {
        if below.as_os_str().is_empty() {
            return self.dir(below)?.print().map(Some);
        }
        match self.spot(below).and_then(|spot| spot.print()) {
            Err(error) if platform::is_absent(&error) => Ok(None),
            print => print,
        }
    }

    /// Whether the root still is at its path, with its marker in it.
    pub(crate) fn is_reachable(&self) -> bool {
        self.is_at_its_path() && self.print(Path::new(names::MARKER)).is_ok_and(|marker| marker.is_some())
    }

    /// Whether its path leads to the very directory that is open.
    pub(crate) fn is_at_its_path(&self) -> bool {
        self.0.is_at_its_path().unwrap_or(false)
    }

    /// Goes on with what is at its path by now, for all that hold this root. A disk that was unmounted and mounted again is
    /// reached by a new handle only.
    pub(crate) fn reopen(&self) -> io::Result<()> {
        self.0.reopen()
    }
}

/// A directory of the folder. It stays the same one whatever happens to its names.
#[derive(Clone)]
pub(crate) struct Dir(Arc<system::Handle>);

impl Dir {
    /// The place with one plain name in it.
    pub(crate) fn spot(&self, name: &OsStr) -> io::Result<Spot> {
        let mut parts = Path::new(name).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(plain)), None) if plain == name => {
                Ok(Spot { dir: self.clone(), name: name.to_owned() })
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    /// What it looks like itself.
    pub(crate) fn print(&self) -> io::Result<Print> {
        self.0.print()
    }

    /// The names in it, in no order, until `take` says that it is enough or one cannot be read.
    pub(crate) fn names(&self, mut take: impl FnMut(OsString) -> bool) -> io::Result<()> {
        self.0.names(&mut take)
    }

    /// What something takes over from the directory that it is made in, beside names: disk, group, access list. Where two
    /// directories are alike in that, what is made in the one may be moved to the other.
    pub(crate) fn family(&self) -> io::Result<[u64; 3]> {
        self.0.family()
    }

    /// Makes the names in it survive a power cut.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    /// Does something in it. If its owner has made it read-only it is writable meanwhile.
    pub(crate) fn in_writable<T>(&self, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
        let error = match act() {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
            done => return done,
        };
        let print = self.print()?;
        if print.mode & 0o300 == 0o300 {
            return Err(error);
        }
        self.0.set_mode(print.mode | 0o300)?;
        let done = act();
        self.0.set_mode(print.mode)?;
        done
    }

    /// The directory in this one which only this process's user may enter, made if it is not there.
    pub(crate) fn private(&self) -> io::Result<(OsString, Self)> {
        for number in 0..WORK_NAMES {
            let spot = self.spot(names::work_name(number).as_ref())?;
            match self.in_writable(|| self.0.make_private(spot.name())) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                Ok(()) | Err(_) => {}
            }
            match self.child(spot.name()) {
                Ok(dir) if dir.0.is_private()? => return Ok((spot.name, dir)),
                // Something else is there, or another user has just put it there.
                Ok(_) => {}
                Err(error) if platform::is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other("everything that a directory for files on their way could be called is taken"))
    }

    fn child(&self, name: &OsStr) -> io::Result<Self> {
        self.0.child(name).map(|dir| Self(Arc::new(dir)))
    }
}

impl fmt::Debug for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dir")
    }
}

/// One plain name in an open directory, whether anything has it or not.
#[derive(Clone, Debug)]
pub(crate) struct Spot {
    dir: Dir,
    name: OsString,
}

impl Spot {
    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// What is there; `None` if nothing is.
    pub(crate) fn look(&self) -> io::Result<Option<Found>> {
        match self.dir.0.look(&self.name) {
            Err(error) if platform::is_absent(&error) => Ok(None),
            look => look.map(Some),
        }
    }

    /// What it looks like; `None` if nothing is there.
    pub(crate) fn print(&self) -> io::Result<Option<Print>> {
        Ok(self.look()?.map(|found| found.print))
    }

    /// The directory that is there.
    pub(crate) fn open_dir(&self) -> io::Result<Dir> {
        self.dir.child(&self.name)
    }

    /// Whether something that is there has its name in just this spelling. Systems that do not tell cases apart find it
    /// under others, too.
    pub(crate) fn is_spelled_so(&self) -> bool {
        cfg!(target_os = "linux") || self.dir.0.is_spelled_so(&self.name)
    }

    /// Where the symlink there points to.
    pub(crate) fn read_link(&self) -> io::Result<SymlinkTarget> {
        let target = self.dir.0.read_link(&self.name)?;
        let bytes = platform::name_bytes(&target).ok_or(io::ErrorKind::InvalidData)?;
        SymlinkTarget::new(bytes).map_err(io::Error::other)
    }

    /// Makes a symlink.
    pub(crate) fn make_link(&self, target: &SymlinkTarget) -> io::Result<()> {
        self.dir.0.make_link(&self.name, target)
    }

    /// Makes a directory.
    pub(crate) fn make_dir(&self) -> io::Result<()> {
        self.dir.0.make_dir(&self.name)
    }

    /// Removes a directory that is empty.
    pub(crate) fn remove_dir(&self) -> io::Result<()> {
        self.dir.0.remove_dir(&self.name)
    }

    /// Removes a file or a symlink.
    pub(crate) fn remove_file(&self) -> io::Result<()> {
        self.dir.0.remove_file(&self.name)
    }

    /// Opens a file for reading, without keeping others from it and without waiting for one that is a pipe.
    pub(crate) fn open_to_read(&self) -> io::Result<File> {
        self.dir.0.open_to_read(&self.name)
    }

    /// Makes a file for this user alone that is not there yet.
    pub(crate) fn create_private(&self) -> io::Result<File> {
        self.dir.0.create_private(&self.name)
    }

    /// Opens the file there for reading and writing, and makes it with `create` if nothing is there.
    pub(crate) fn open_marker(&self, create: bool) -> io::Result<File> {
        self.dir.0.open_marker(&self.name, create)
    }

    /// Sets the permission bits of the file or directory there, as far as the system has them. Nothing happens to anything
    /// else than what looked like `print`.
    pub(crate) fn set_mode(&self, print: &Print, mode: u32) -> io::Result<()> {
        self.dir.0.set_mode_of(&self.name, print, mode)
    }

    /// Gives what is there to a user and a group, as far as the system has them; a symlink itself. Nothing happens to anything else
    /// than what looked like `print`.
    pub(crate) fn set_owner(&self, print: &Print, owner: Owner) -> io::Result<()> {
        self.dir.0.set_owner_of(&self.name, print, owner)
    }

    /// Sets the mtime of what is there: a file, a directory or a symlink itself.
    pub(crate) fn set_mtime(&self, kind: PrintKind, mtime: Timestamp) -> io::Result<()> {
        self.dir.0.set_mtime(&self.name, kind, mtime)
    }

    /// Renames to a name that is free. It is an error if the name is not, where the system can tell in one step.
    pub(crate) fn rename_new(&self, to: &Self) -> io::Result<()> {
        self.dir.0.rename_new(&self.name, &to.dir.0, &to.name)
    }

    /// Puts the file here in the place of the one at `to`, at once. `is_expected` looks at what was there, where it is by
    /// then; if it says no, everything is as it was, and the answer is `false`.
    pub(crate) fn replace(&self, to: &Self, is_expected: impl Fn(&Self) -> io::Result<bool>) -> io::Result<bool> {
        if system::CAN_EXCHANGE {
            match self.dir.0.exchange(&self.name, &to.dir.0, &to.name) {
                Ok(()) => {
                    // What was there can still be looked at: a program may have written to it a moment ago.
                    let replaced = is_expected(self)
                        .and_then(|expected| if expected { self.remove_file().map(|()| true) } else { Ok(false) });
                    if !matches!(replaced, Ok(true)) {
                        self.dir.0.exchange(&self.name, &to.dir.0, &to.name)?;
                    }
                    return replaced;
                }
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
                Err(error) => return Err(error),
            }
        }
        if !is_expected(to)? {
            return Ok(false);
        }
        self.dir.0.rename_over(&self.name, &to.dir.0, &to.name).map(|()| true)
    }
}
