//! What systems do differently about values: identity of files, permission bits, spellings, errors. Which calls are made is
//! [`super::beneath`]'s; together they are the only places of watch mode that know which system it runs on.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::File;
use std::io;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncmount_common::{Owner, Timestamp};

/// What kind of thing lies somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum PrintKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
    /// Something that cannot be shared.
    Other,
}

/// What something looks like without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Print {
    pub(crate) kind: PrintKind,
    /// Size in bytes; 0 for directories.
    pub(crate) size: u64,
    /// When it was last modified, in nanoseconds since 1970 as far as the disk keeps them; 0 for directories, whose time
    /// changes with each entry.
    pub(crate) mtime: i64,
    /// Permission bits; on systems without them the same for all.
    pub(crate) mode: u32,
    /// Stands for the file whatever its name is. Files that were removed and made anew differ.
    pub(crate) file: u64,
}

impl Print {
    /// Of a file that is open.
    #[cfg(unix)]
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let kind = match metadata.file_type() {
            kind if kind.is_symlink() => PrintKind::Symlink,
            kind if kind.is_dir() => PrintKind::Dir,
            kind if kind.is_file() => PrintKind::File,
            _ => PrintKind::Other,
        };
        let mtime = metadata.modified().map_or(0, nanoseconds);
        // The birth tells a file from one that got its number after it was removed. The device is left out: it may have
        // another number after each start of the machine.
        let birth = metadata.created().map_or(0, nanoseconds);
        Ok(Self::of_parts(kind, metadata.len(), mtime, metadata.mode(), metadata.ino(), birth))
    }

    /// Of what the system tells of an open file. The number under which the volume has it is its identity. (The time of birth
    /// would be had without opening it, but a new file inherits that of one of its name which was removed a moment ago.)
    #[cfg(windows)]
    pub(crate) fn of_facts(facts: &crate::system::windows::Facts) -> Self {
        let kind = match (facts.is_link, facts.is_dir) {
            (true, _) => PrintKind::Symlink,
            (false, true) => PrintKind::Dir,
            (false, false) => PrintKind::File,
        };
        Self {
            kind,
            size: if facts.is_dir { 0 } else { facts.size },
            mtime: if facts.is_dir { 0 } else { facts.modified },
            mode: if facts.is_dir { 0o755 } else { 0o644 },
            file: one_number(&[facts.id, facts.is_dir.into()]),
        }
    }

    /// Of a file that is open.
    #[cfg(windows)]
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        crate::system::windows::facts(file).map(|facts| Self::of_facts(&facts))
    }

    /// Of what the system tells these things, `ino` and `birth` (nanoseconds since 1970, 0 if unknown) being its identity.
    #[cfg(unix)]
    pub(crate) fn of_parts(kind: PrintKind, size: u64, mtime: i64, mode: u32, ino: u64, birth: i64) -> Self {
        let is_dir = kind == PrintKind::Dir;
        Self {
            kind,
            size: if is_dir { 0 } else { size },
            mtime: if is_dir { 0 } else { mtime },
            mode: mode & syncmount_common::node::MODE_MASK,
            file: one_number(&[ino, birth.cast_unsigned()]),
        }
    }

    /// Whether bytes that looked like this can be taken for those that look like `other`.
    pub(crate) fn same_bytes(&self, other: &Self) -> bool {
        self.kind == other.kind && self.size == other.size && self.mtime == other.mtime && self.file == other.file
    }

    /// Whether this is the same file, with whatever bytes.
    pub(crate) fn same_file(&self, other: &Self) -> bool {
        self.kind == other.kind && self.file == other.file
    }
}

/// The same for the same parts at all times: it is kept.
fn one_number(parts: &[u64]) -> u64 {
    parts.iter().fold(0x9E37_79B9_7F4A_7C15, |number, part| {
        let mixed = (number ^ part).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed ^ (mixed >> 29)
    })
}

/// Whether an error says that nothing is there. All others say that it is not known.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(unix)]
fn nanoseconds(time: SystemTime) -> i64 {
    let clamp = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => clamp(since),
        Err(before) => -clamp(before.duration()),
    }
}

/// A time as the system's library has it.
pub(crate) fn system_time(time: Timestamp) -> SystemTime {
    let length = Duration::from_nanos(time.0.unsigned_abs());
    let shifted = if time.0 >= 0 { UNIX_EPOCH.checked_add(length) } else { UNIX_EPOCH.checked_sub(length) };
    shifted.unwrap_or(UNIX_EPOCH)
}

/// A name as the system spells it.
pub(crate) fn os_name(bytes: &[u8]) -> OsString {
    system::os_name(bytes)
}

/// The bytes of a name as the system spells it; `None` if it cannot be spelled in bytes that others understand.
pub(crate) fn name_bytes(name: &std::ffi::OsStr) -> Option<&[u8]> {
    system::name_bytes(name)
}

/// Sets the permission bits of an open file, as far as the system has them.
pub(crate) fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
    system::set_file_mode(file, mode)
}

/// The user and the group of this process, to whom belongs what it makes.
pub(crate) fn own() -> Owner {
    system::own()
}

/// Gives an open file to a user and a group, as far as the system has them.
pub(crate) fn set_file_owner(file: &File, owner: Owner) -> io::Result<()> {
    system::set_file_owner(file, owner)
}

/// Sets the mtime of an open file.
pub(crate) fn set_file_mtime(file: &File, mtime: Timestamp) -> io::Result<()> {
    file.set_modified(system_time(mtime))
}

/// Whether an error says that a program has the file open and nobody else may touch it now.
pub(crate) fn is_locked(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| system::LOCKED.contains(&code))
}

/// Whether an error says that there is no room for another watch. The sentence says what to do.
pub(crate) const WATCH_LIMIT: &str = system::WATCH_LIMIT;

#[cfg(unix)]
mod system {
    use std::ffi::{OsStr, OsString};
    use std::fs::{File, Permissions};
    use std::io;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::PermissionsExt;
    use syncmount_common::Owner;

    pub(super) const LOCKED: &[i32] = &[libc::ETXTBSY, libc::EBUSY];

    #[cfg(target_os = "linux")]
    pub(super) const WATCH_LIMIT: &str = "raise it with `sudo sysctl fs.inotify.max_user_watches=1048576` (and a line in \
                                          /etc/sysctl.d to keep it)";
    #[cfg(not(target_os = "linux"))]
    pub(super) const WATCH_LIMIT: &str = "close programs that watch many files";

    pub(super) fn os_name(bytes: &[u8]) -> OsString {
        OsString::from_vec(bytes.to_vec())
    }

    pub(super) fn name_bytes(name: &OsStr) -> Option<&[u8]> {
        Some(name.as_bytes())
    }

    pub(super) fn own() -> Owner {
        Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() }
    }

    pub(super) fn set_file_owner(file: &File, owner: Owner) -> io::Result<()> {
        std::os::unix::fs::fchown(file, Some(owner.uid), Some(owner.gid))
    }

    pub(super) fn set_file_mode(file: &File, mode: u32) -> io::Result<()> {
        file.set_permissions(Permissions::from_mode(mode))
    }
}

#[cfg(windows)]
mod system {
    use std::ffi::{OsStr, OsString};
    use std::fs::File;
    use std::io;
    use syncmount_common::Owner;

    /// Access denied, sharing violation, lock violation.
    pub(super) const LOCKED: &[i32] = &[5, 32, 33];

    pub(super) const WATCH_LIMIT: &str = "close programs that watch many files";

    pub(super) fn os_name(bytes: &[u8]) -> OsString {
        String::from_utf8_lossy(bytes).into_owned().into()
    }

    pub(super) fn name_bytes(name: &OsStr) -> Option<&[u8]> {
        name.to_str().map(str::as_bytes)
    }

    /// No file has such an owner.
    pub(super) fn own() -> Owner {
        Owner { uid: u32::MAX, gid: u32::MAX }
    }

    pub(super) fn set_file_owner(_: &File, _: Owner) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn set_file_mode(_: &File, _: u32) -> io::Result<()> {
        Ok(())
    }
}
