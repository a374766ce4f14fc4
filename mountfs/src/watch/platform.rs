//! What systems do differently: identity of files, permissions, replacing by rename, syncing directories, locked files.
//!
//! The only place of watch mode that knows which system it runs on.

use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncmount_common::{SymlinkTarget, Timestamp};

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
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self::with(&metadata, system::identity_of_file(file, &metadata)?))
    }

    /// Of what is at `path`, of which `metadata` was just asked, symlinks not followed.
    pub(crate) fn found(path: &Path, metadata: &Metadata) -> io::Result<Self> {
        Ok(Self::with(metadata, system::identity(path, metadata)?))
    }

    fn with(metadata: &Metadata, identity: [u64; 2]) -> Self {
        let kind = match metadata.file_type() {
            kind if kind.is_symlink() => PrintKind::Symlink,
            kind if kind.is_dir() => PrintKind::Dir,
            kind if kind.is_file() => PrintKind::File,
            _ => PrintKind::Other,
        };
        let is_dir = kind == PrintKind::Dir;
        let mtime = metadata.modified().map_or(0, nanoseconds);
        Self {
            kind,
            size: if is_dir { 0 } else { metadata.len() },
            mtime: if is_dir { 0 } else { mtime },
            mode: system::mode(metadata),
            file: one_number(&identity),
        }
    }

    /// Of what is at `path`; `None` if nothing is there.
    pub(crate) fn at(path: &Path) -> io::Result<Option<Self>> {
        match fs::symlink_metadata(path) {
            Ok(metadata) => match Self::found(path, &metadata) {
                Err(error) if is_absent(&error) => Ok(None),
                print => print.map(Some),
            },
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
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

fn nanoseconds(time: SystemTime) -> i64 {
    let clamp = |length: Duration| i64::try_from(length.as_nanos()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => clamp(since),
        Err(before) => -clamp(before.duration()),
    }
}

fn system_time(time: Timestamp) -> SystemTime {
    let length = Duration::from_nanos(time.0.unsigned_abs());
    let shifted = if time.0 >= 0 { UNIX_EPOCH.checked_add(length) } else { UNIX_EPOCH.checked_sub(length) };
    shifted.unwrap_or(UNIX_EPOCH)
}

/// When what `metadata` tells of was last touched in any way, by this machine's clock where the system keeps that.
pub(crate) fn touched(metadata: &Metadata) -> i64 {
    system::changed(metadata).unwrap_or_else(|| metadata.modified().map_or(0, nanoseconds))
}

/// Whether something that is there has its name in just this spelling. Systems that do not tell cases apart find it under
/// others, too.
pub(crate) fn is_spelled_so(path: &Path) -> bool {
    if cfg!(target_os = "linux") {
        return true;
    }
    // A symlink would lead elsewhere; what cannot be found out is taken for what it seems.
    let is_link = fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink());
    is_link || fs::canonicalize(path).map_or(true, |found| found.file_name() == path.file_name())
}

/// A name as the system spells it.
pub(crate) fn os_name(bytes: &[u8]) -> OsString {
    system::os_name(bytes)
}

/// The bytes of a name as the system spells it; `None` if it cannot be spelled in bytes that others understand.
pub(crate) fn name_bytes(name: &std::ffi::OsStr) -> Option<&[u8]> {
    system::name_bytes(name)
}

/// Where a symlink points to.
pub(crate) fn read_link(path: &Path) -> io::Result<SymlinkTarget> {
    let target = fs::read_link(path)?;
    let bytes = name_bytes(target.as_os_str()).ok_or(io::ErrorKind::InvalidData)?;
    SymlinkTarget::new(bytes).map_err(io::Error::other)
}

/// Makes a symlink.
pub(crate) fn make_link(target: &SymlinkTarget, path: &Path) -> io::Result<()> {
    system::make_link(target, path)
}

/// Renames something to a name that is free. It is an error if the name is not, where the system can tell in one step.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    system::rename_new(from, to)
}

/// Puts the file `from` in the place of the file `to`, at once. `is_expected` looks at what was there; if it says no,
/// everything is as it was, and the answer is `false`.
pub(crate) fn replace(from: &Path, to: &Path, is_expected: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
    system::replace(from, to, is_expected)
}

/// Does something in a directory. One that its owner has made read-only is writable meanwhile.
pub(crate) fn in_writable<T>(dir: &Path, act: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let error = match act() {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        done => return done,
    };
    let Some(print) = Print::at(dir)?.filter(|print| print.mode & 0o300 != 0o300) else { return Err(error) };
    set_mode(dir, print.mode | 0o300)?;
    let done = act();
    set_mode(dir, print.mode)?;
    done
}

/// Makes the names in a directory survive a power cut.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    system::sync_dir(path)
}

/// Sets the permission bits of a file or directory, as far as the system has them.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    system::set_mode(path, mode)
}

/// Sets the mtime of a file, directory or symlink.
pub(crate) fn set_mtime(path: &Path, kind: PrintKind, mtime: Timestamp) -> io::Result<()> {
    system::set_mtime(path, kind, mtime)
}

/// Sets the mtime of an open file.
pub(crate) fn set_file_mtime(file: &File, mtime: Timestamp) -> io::Result<()> {
    file.set_modified(system_time(mtime))
}

/// Opens a file for reading, without following a symlink and without keeping others from it.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    system::open_to_read(path)
}

/// Makes a file for this user alone that is not there yet.
pub(crate) fn create_private(path: &Path) -> io::Result<File> {
    system::create_private(path)
}

/// Whether an error says that a program has the file open and nobody else may touch it now.
pub(crate) fn is_locked(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| system::LOCKED.contains(&code))
}

/// Whether an error says that there is no room for another watch. The sentence says what to do.
pub(crate) const WATCH_LIMIT: &str = system::WATCH_LIMIT;

#[cfg(unix)]
mod system {
    use super::{PrintKind, Timestamp};
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File, Metadata, OpenOptions, Permissions};
    use std::io;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
    use std::path::Path;
    use syncmount_common::SymlinkTarget;

    pub(super) const LOCKED: &[i32] = &[libc::ETXTBSY, libc::EBUSY];

    #[cfg(target_os = "linux")]
    pub(super) const WATCH_LIMIT: &str = "raise it with `sudo sysctl fs.inotify.max_user_watches=1048576` (and a line in \
                                          /etc/sysctl.d to keep it)";
    #[cfg(not(target_os = "linux"))]
    pub(super) const WATCH_LIMIT: &str = "close programs that watch many files";

    pub(super) fn mode(metadata: &Metadata) -> u32 {
        metadata.mode() & syncmount_common::node::MODE_MASK
    }

    /// The birth tells a file from one that got its number after it was removed. The device is left out: it may have
    /// another number after each start of the machine.
    pub(super) fn identity(_: &Path, metadata: &Metadata) -> io::Result<[u64; 2]> {
        Ok([metadata.ino(), metadata.created().map_or(0, super::nanoseconds).cast_unsigned()])
    }

    pub(super) fn identity_of_file(_: &File, metadata: &Metadata) -> io::Result<[u64; 2]> {
        identity(Path::new(""), metadata)
    }

    pub(super) fn changed(metadata: &Metadata) -> Option<i64> {
        Some(metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec()))
    }

    pub(super) fn os_name(bytes: &[u8]) -> OsString {
        OsString::from_vec(bytes.to_vec())
    }

    pub(super) fn name_bytes(name: &OsStr) -> Option<&[u8]> {
        Some(name.as_bytes())
    }

    pub(super) fn make_link(target: &SymlinkTarget, path: &Path) -> io::Result<()> {
        std::os::unix::fs::symlink(OsStr::from_bytes(target.as_bytes()), path)
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::RenameFlags;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            Err(error) if lacks_flags(error) => rename_if_free(from, to),
            renamed => Ok(renamed?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        rename_if_free(from, to)
    }

    fn rename_if_free(from: &Path, to: &Path) -> io::Result<()> {
        match fs::symlink_metadata(to) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::rename(from, to),
            Err(error) => Err(error),
        }
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    fn lacks_flags(error: rustix::io::Errno) -> bool {
        use rustix::io::Errno;
        matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
    }

    /// Both change places, so that what was there can still be looked at: a program may have written to it a moment ago.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn replace(from: &Path, to: &Path, is_expected: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        use rustix::fs::RenameFlags;
        match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            Err(error) if lacks_flags(error) => return replace_plainly(from, to, is_expected),
            exchanged => exchanged?,
        }
        let expected = is_expected(from);
        if matches!(expected, Ok(true)) {
            fs::remove_file(from)?;
        } else {
            rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)?;
        }
        expected
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn replace(from: &Path, to: &Path, is_expected: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        replace_plainly(from, to, is_expected)
    }

    fn replace_plainly(from: &Path, to: &Path, is_expected: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        if !is_expected(to)? {
            return Ok(false);
        }
        fs::rename(from, to).map(|()| true)
    }

    pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    pub(super) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
        fs::set_permissions(path, Permissions::from_mode(mode))
    }

    pub(super) fn set_mtime(path: &Path, _: PrintKind, mtime: Timestamp) -> io::Result<()> {
        let (seconds, nanoseconds) = mtime.parts();
        let time = Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ };
        let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
        let times = Timestamps { last_access: keep, last_modification: time };
        Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
        // A pipe in the place of the file must not be waited for.
        OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)
    }

    pub(super) fn create_private(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }
}

#[cfg(windows)]
mod system {
    use super::{PrintKind, Timestamp};
    use crate::system::{durable, windows};
    use std::ffi::{OsStr, OsString};
    use std::fs::{self, File, FileTimes, Metadata, OpenOptions};
    use std::io;
    use std::os::windows::fs::OpenOptionsExt;
    use std::path::Path;
    use syncmount_common::SymlinkTarget;

    /// Access denied, sharing violation, lock violation.
    pub(super) const LOCKED: &[i32] = &[5, 32, 33];

    pub(super) const WATCH_LIMIT: &str = "close programs that watch many files";

    const PRIVILEGE_NOT_HELD: i32 = 1314;
    const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
    const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
    const FILE_WRITE_ATTRIBUTES: u32 = 0x0100;
    const SHARE_ALL: u32 = 7;

    pub(super) fn mode(metadata: &Metadata) -> u32 {
        if metadata.is_dir() { 0o755 } else { 0o644 }
    }

    /// The number under which the volume has the file. (The time of birth would be had without opening it, but a new file
    /// inherits that of one of its name which was removed a moment ago.)
    pub(super) fn identity(path: &Path, metadata: &Metadata) -> io::Result<[u64; 2]> {
        identity_of_file(&windows::open_for_attributes(path)?, metadata)
    }

    pub(super) fn identity_of_file(file: &File, metadata: &Metadata) -> io::Result<[u64; 2]> {
        Ok([windows::file_id(file)?, u64::from(metadata.is_dir())])
    }

    pub(super) fn changed(_: &Metadata) -> Option<i64> {
        None
    }

    pub(super) fn os_name(bytes: &[u8]) -> OsString {
        String::from_utf8_lossy(bytes).into_owned().into()
    }

    pub(super) fn name_bytes(name: &OsStr) -> Option<&[u8]> {
        name.to_str().map(str::as_bytes)
    }

    pub(super) fn make_link(target: &SymlinkTarget, path: &Path) -> io::Result<()> {
        let target = os_name(target.as_bytes());
        let is_dir = path.parent().is_some_and(|dir| dir.join(&target).is_dir());
        let made = if is_dir {
            std::os::windows::fs::symlink_dir(target, path)
        } else {
            std::os::windows::fs::symlink_file(target, path)
        };
        let why = match made {
            Ok(()) if fs::symlink_metadata(path).is_ok_and(|made| made.is_symlink()) => return Ok(()),
            Ok(()) => "this system makes no symlinks",
            Err(error) if error.raw_os_error() == Some(PRIVILEGE_NOT_HELD) => {
                "making symlinks is a privilege here, which the developer mode of Windows gives"
            }
            Err(error) => return Err(error),
        };
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
        let is_case_only = from.parent() == to.parent()
            && from.file_name().map(OsStr::to_ascii_lowercase) == to.file_name().map(OsStr::to_ascii_lowercase);
        if is_case_only {
            // In one step it is not done everywhere.
            let between = from.with_file_name(format!("{}case.part", crate::watch::names::PART_PREFIX));
            windows::rename_new(from, &between)?;
            return windows::rename_new(&between, to);
        }
        windows::rename_new(from, to)
    }

    pub(super) fn replace(from: &Path, to: &Path, is_expected: impl Fn(&Path) -> io::Result<bool>) -> io::Result<bool> {
        if !is_expected(to)? {
            return Ok(false);
        }
        if fs::metadata(to).is_ok_and(|metadata| metadata.permissions().readonly()) {
            let mut permissions = fs::metadata(to)?.permissions();
            #[expect(clippy::permissions_set_readonly_false, reason = "there are no other bits on this system")]
            permissions.set_readonly(false);
            fs::set_permissions(to, permissions)?;
        }
        fs::rename(from, to).map(|()| true)
    }

    pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
        durable::sync_dir(path)
    }

    pub(super) fn set_mode(_: &Path, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn set_mtime(path: &Path, kind: PrintKind, mtime: Timestamp) -> io::Result<()> {
        let flags = if kind == PrintKind::Symlink { FILE_FLAG_OPEN_REPARSE_POINT } else { 0 };
        let file = OpenOptions::new()
            .access_mode(FILE_WRITE_ATTRIBUTES)
            .share_mode(SHARE_ALL)
            .custom_flags(FILE_FLAG_BACKUP_SEMANTICS | flags)
            .open(path)?;
        file.set_times(FileTimes::new().set_modified(super::system_time(mtime)))
    }

    pub(super) fn open_to_read(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).share_mode(SHARE_ALL).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(path)
    }

    pub(super) fn create_private(path: &Path) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_identity_under_another_name_and_another_one_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Print::at(&dir.path().join(name)).unwrap();
        fs::write(dir.path().join("a"), "1").unwrap();
        let a = at("a").unwrap();
        fs::rename(dir.path().join("a"), dir.path().join("b")).unwrap();
        assert!(a.same_bytes(&at("b").unwrap()));
        fs::remove_file(dir.path().join("b")).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(dir.path().join("a"), "1").unwrap();
        // NTFS gives no number twice; a disk of Linux, which wine shows, does.
        let is_another = !a.same_file(&at("a").unwrap());
        assert!(is_another || cfg!(windows), "also if the disk gives it the same number");
        assert_eq!(at("b"), None);
    }

    #[test]
    fn what_is_not_what_was_expected_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let (new, old) = (dir.path().join("new"), dir.path().join("old"));
        for expected in [false, true] {
            fs::write(&new, "new").unwrap();
            fs::write(&old, "old").unwrap();
            assert_eq!(replace(&new, &old, |_| Ok(expected)).unwrap(), expected);
            assert_eq!(fs::read_to_string(&old).unwrap(), if expected { "new" } else { "old" });
            assert_eq!(new.exists(), !expected);
        }
    }

    #[test]
    fn a_name_that_is_taken_is_not_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        assert_eq!(rename_new(&a, &b).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        fs::remove_file(&b).unwrap();
        rename_new(&a, &b).unwrap();
    }

    #[test]
    fn times_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs::write(&path, "a").unwrap();
        for time in [0, 1_700_000_000_123_456_700, -5_000_000_000] {
            set_mtime(&path, PrintKind::File, Timestamp(time)).unwrap();
            assert_eq!(Print::at(&path).unwrap().unwrap().mtime, time);
        }
    }
}
