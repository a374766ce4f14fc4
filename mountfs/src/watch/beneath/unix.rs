//! The same on systems of the family of Unix: `openat` and its relatives.

use super::{Calls, Found};
use crate::watch::platform::{Print, PrintKind};
use parking_lot::RwLock;
use rustix::fd::{AsFd as _, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use syncmount_common::{Owner, SymlinkTarget, Timestamp};

/// Whether two files can change places in one step.
pub(super) const CAN_EXCHANGE: bool = cfg!(any(target_os = "linux", target_vendor = "apple"));

/// How a directory is opened to go on from it. Where the system has it this needs no right to list it.
#[cfg(target_os = "linux")]
const PASS: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const PASS: OFlags = OFlags::RDONLY;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The root of a folder.
pub(super) struct Top {
    path: PathBuf,
    handle: RwLock<OwnedFd>,
    /// The system walks below a directory in one call.
    has_shortcut: bool,
}

impl Top {
    pub(super) fn open(path: &Path, may_shorten: bool) -> io::Result<Self> {
        let handle = open_top(path)?;
        let has_shortcut = may_shorten && shortcut(handle.as_fd(), Path::new(".")).is_some_and(|found| found.is_ok());
        Ok(Self { path: path.to_path_buf(), handle: RwLock::new(handle), has_shortcut })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dir(&self) -> io::Result<Handle> {
        Ok(Handle(self.handle.read().try_clone()?))
    }

    pub(super) fn is_at_its_path(&self) -> io::Result<bool> {
        let (there, here) = (Handle(open_top(&self.path)?), self.dir()?);
        // Two disks may call their roots the same.
        let is_same_disk = rustix::fs::fstat(&there.0)?.st_dev == rustix::fs::fstat(&here.0)?.st_dev;
        let is_it = is_same_disk && there.print()?.same_file(&here.print()?);
        if is_it {
            // A disk that was unmounted and mounted again: beneath the old handle nothing that is mounted in it is to be seen.
            *self.handle.write() = there.0;
        }
        Ok(is_it)
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        *self.handle.write() = open_top(&self.path)?;
        Ok(())
    }
}

fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, path, PASS | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Calls for Top {
    type Dir = Handle;

    fn child(&self, dir: &Handle, name: &OsStr) -> io::Result<Handle> {
        dir.child(name)
    }

    fn at_once(&self, top: &Handle, below: &Path) -> Option<io::Result<Handle>> {
        if !self.has_shortcut {
            return None;
        }
        shortcut(top.0.as_fd(), below).map(|found| found.map(Handle))
    }
}

/// `None`: it cannot be said in one call.
#[cfg(target_os = "linux")]
fn shortcut(top: BorrowedFd<'_>, below: &Path) -> Option<io::Result<OwnedFd>> {
    use rustix::fs::ResolveFlags;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(top, below, PASS | DIRECTORY, Mode::empty(), within) {
        // Something was renamed meanwhile; or the path is longer than the system takes in one call.
        Err(Errno::AGAIN | Errno::NAMETOOLONG) => None,
        found => Some(found.map_err(no_directory)),
    }
}

#[cfg(not(target_os = "linux"))]
fn shortcut(_: BorrowedFd<'_>, _: &Path) -> Option<io::Result<OwnedFd>> {
    None
}

/// A symlink is no directory here, and neither is what lies elsewhere.
fn no_directory(error: Errno) -> io::Error {
    match error {
        Errno::LOOP | Errno::XDEV => io::ErrorKind::NotADirectory.into(),
        error => error.into(),
    }
}

/// An open directory.
pub(super) struct Handle(OwnedFd);

impl Handle {
    pub(super) fn child(&self, name: &OsStr) -> io::Result<Self> {
        let opened = rustix::fs::openat(&self.0, name, PASS | DIRECTORY, Mode::empty());
        opened.map(Self).map_err(no_directory)
    }

    /// The same directory, open to be read.
    fn listable(&self) -> io::Result<OwnedFd> {
        Ok(rustix::fs::openat(&self.0, ".", OFlags::RDONLY | DIRECTORY, Mode::empty())?)
    }

    pub(super) fn print(&self) -> io::Result<Print> {
        Ok(look(self.0.as_fd(), OsStr::new(""))?.print)
    }

    pub(super) fn look(&self, name: &OsStr) -> io::Result<Found> {
        look(self.0.as_fd(), name)
    }

    pub(super) fn names(&self, take: &mut dyn FnMut(OsString) -> bool) -> io::Result<()> {
        for entry in rustix::fs::Dir::new(self.listable()?)? {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." && !take(OsString::from_vec(name.to_vec())) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.listable()?)?)
    }

    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the types of these numbers differ")]
    pub(super) fn family(&self) -> io::Result<[u64; 3]> {
        let stat = rustix::fs::fstat(&self.0)?;
        let gives_group = stat.st_mode & 0o2000 != 0;
        let group = if gives_group { u64::from(stat.st_gid) + 1 } else { 0 };
        Ok([stat.st_dev as u64, group, u64::from(self.gives_access())])
    }

    /// Whether what is made in it gets its access list from it.
    #[cfg(target_os = "linux")]
    fn gives_access(&self) -> bool {
        let nothing: &mut [u8] = &mut [];
        let given = self.listable().map(|dir| rustix::fs::fgetxattr(dir, "system.posix_acl_default", nothing));
        given.is_ok_and(|given| given.is_ok())
    }

    #[cfg(not(target_os = "linux"))]
    fn gives_access(&self) -> bool {
        false
    }

    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        match self.listable() {
            Ok(dir) => Ok(rustix::fs::fchmod(dir, Mode::from_raw_mode(mode as _))?),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => by_number(self.0.as_fd(), mode),
            Err(error) => Err(error),
        }
    }

    pub(super) fn make_private(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::RWXU)?)
    }

    pub(super) fn is_private(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.0)?;
        let is_mine = stat.st_uid == rustix::process::geteuid().as_raw();
        if is_mine && stat.st_mode & 0o777 != 0o700 {
            self.set_mode(0o700)?;
        }
        Ok(is_mine)
    }

    pub(super) fn is_spelled_so(&self, name: &OsStr) -> bool {
        let mut found = false;
        let listed = self.names(&mut |other| {
            found = other == name;
            !found
        });
        // What cannot be found out is taken for what it seems.
        found || listed.is_err()
    }

    pub(super) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.0, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    pub(super) fn make_link(&self, name: &OsStr, target: &SymlinkTarget) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(OsStr::from_bytes(target.as_bytes()), &self.0, name)?)
    }

    pub(super) fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o777))?)
    }

    pub(super) fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR)?)
    }

    pub(super) fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    fn open_file(&self, name: &OsStr, flags: OFlags, mode: Mode) -> io::Result<File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(File::from(rustix::fs::openat(&self.0, name, flags, mode)?))
    }

    pub(super) fn open_to_read(&self, name: &OsStr) -> io::Result<File> {
        self.open_file(name, OFlags::RDONLY, Mode::empty())
    }

    pub(super) fn create_private(&self, name: &OsStr) -> io::Result<File> {
        self.open_file(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL, Mode::RUSR | Mode::WUSR)
    }

    pub(super) fn open_marker(&self, name: &OsStr, create: bool) -> io::Result<File> {
        let flags = if create { OFlags::RDWR | OFlags::CREATE } else { OFlags::RDWR };
        self.open_file(name, flags, Mode::from_raw_mode(0o666))
    }

    pub(super) fn set_mode_of(&self, name: &OsStr, print: &Print, mode: u32) -> io::Result<()> {
        let bits = Mode::from_raw_mode(mode as _);
        let is_it = |handle: BorrowedFd<'_>| Ok::<_, io::Error>(look(handle, OsStr::new(""))?.print.same_file(print));
        match self.open_to_read(name) {
            Ok(file) if is_it(file.as_fd())? => Ok(rustix::fs::fchmod(&file, bits)?),
            Ok(_) => Err(io::ErrorKind::NotFound.into()),
            // Its owner may not read it, and may change its mode all the same.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let handle = rustix::fs::openat(&self.0, name, UNREAD | OFlags::CLOEXEC, Mode::empty())?;
                if !is_it(handle.as_fd())? {
                    return Err(io::ErrorKind::NotFound.into());
                }
                by_number(handle.as_fd(), mode)
            }
            Err(error) => Err(error),
        }
    }

    /// By a handle of the very thing: a name may be another's by then. A file with a second name is refused, which may be
    /// elsewhere, where another user could not have it given away.
    pub(super) fn set_owner_of(&self, name: &OsStr, print: &Print, owner: Owner) -> io::Result<()> {
        let (uid, gid) = (Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)));
        let flags = if cfg!(target_os = "linux") {
            UNREAD
        } else {
            OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK)
        };
        let handle = rustix::fs::openat(&self.0, name, flags | OFlags::CLOEXEC, Mode::empty())?;
        if !look(handle.as_fd(), OsStr::new(""))?.print.same_file(print) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if print.kind == PrintKind::File && rustix::fs::fstat(&handle)?.st_nlink > 1 {
            return Err(io::Error::other("it has several names"));
        }
        chown_handle(handle.as_fd(), uid, gid)
    }

    pub(super) fn set_mtime(&self, name: &OsStr, _: PrintKind, mtime: Timestamp) -> io::Result<()> {
        let (seconds, nanoseconds) = mtime.parts();
        let time = Timespec { tv_sec: seconds as _, tv_nsec: nanoseconds as _ };
        let keep = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT as _ };
        let times = Timestamps { last_access: keep, last_modification: time };
        Ok(rustix::fs::utimensat(&self.0, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    pub(super) fn rename_over(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.0, name, &to.0, other)?)
    }

    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn rename_new(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        use rustix::fs::RenameFlags;
        match rustix::fs::renameat_with(&self.0, name, &to.0, other, RenameFlags::NOREPLACE) {
            Err(error) if lacks_flags(error) => self.rename_if_free(name, to, other),
            renamed => Ok(renamed?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn rename_new(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        self.rename_if_free(name, to, other)
    }

    fn rename_if_free(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        match to.look(other) {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.rename_over(name, to, other),
            Err(error) => Err(error),
        }
    }

    /// Two things change places. [`io::ErrorKind::Unsupported`] if the disk cannot do that.
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    pub(super) fn exchange(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        use rustix::fs::RenameFlags;
        match rustix::fs::renameat_with(&self.0, name, &to.0, other, RenameFlags::EXCHANGE) {
            Err(error) if lacks_flags(error) => Err(io::ErrorKind::Unsupported.into()),
            exchanged => Ok(exchanged?),
        }
    }

    #[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
    pub(super) fn exchange(&self, _: &OsStr, _: &Self, _: &OsStr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
fn lacks_flags(error: Errno) -> bool {
    matches!(error, Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP)
}

/// How something is opened that its owner may not read.
#[cfg(target_os = "linux")]
const UNREAD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW);
#[cfg(not(target_os = "linux"))]
const UNREAD: OFlags = OFlags::WRONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// Sets the mode of what this very handle stands for, which may be open for nothing.
#[cfg(target_os = "linux")]
fn by_number(handle: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    use rustix::fd::AsRawFd as _;
    // The kernel's own link: it leads to what is open, whatever has its name by now.
    let link = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(rustix::fs::chmod(link, Mode::from_raw_mode(mode as _))?)
}

#[cfg(not(target_os = "linux"))]
fn by_number(handle: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(handle, Mode::from_raw_mode(mode as _))?)
}

#[cfg(target_os = "linux")]
fn chown_handle(handle: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    Ok(rustix::fs::chownat(handle, "", uid, gid, AtFlags::EMPTY_PATH)?)
}

#[cfg(not(target_os = "linux"))]
fn chown_handle(handle: BorrowedFd<'_>, uid: Option<Uid>, gid: Option<Gid>) -> io::Result<()> {
    Ok(rustix::fs::fchown(handle, uid, gid)?)
}

/// What has a name in an open directory (the directory itself without one).
#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the types of these numbers differ")]
#[cfg(target_os = "linux")]
fn look(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
    use rustix::fs::{StatxAttributes, StatxFlags, statx};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let found = match statx(dir, name, flags, StatxFlags::BASIC_STATS | StatxFlags::BTIME) {
        Err(Errno::NOSYS) => {
            let found = rustix::fs::statat(dir, name, flags)?;
            let mtime = nanoseconds(found.st_mtime as i64, found.st_mtime_nsec as i64);
            let print =
                Print::of_parts(kind(found.st_mode), found.st_size as u64, mtime, found.st_mode, found.st_ino, 0);
            let touched = nanoseconds(found.st_ctime as i64, found.st_ctime_nsec as i64);
            let is_mount_point = print.kind == PrintKind::Dir && rustix::fs::fstat(dir)?.st_dev != found.st_dev;
            let owner = Some(Owner { uid: found.st_uid, gid: found.st_gid });
            return Ok(Found { print, touched, is_mount_point, owner });
        }
        found => found?,
    };
    let time = |time: rustix::fs::StatxTimestamp| nanoseconds(time.tv_sec, i64::from(time.tv_nsec));
    let has_birth = found.stx_mask & StatxFlags::BTIME.bits() != 0;
    let birth = if has_birth { time(found.stx_btime) } else { 0 };
    let mode = u32::from(found.stx_mode);
    let print = Print::of_parts(kind(mode), found.stx_size, time(found.stx_mtime), mode, found.stx_ino, birth);
    let is_mount_point = print.kind == PrintKind::Dir
        && if found.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
            found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)
        } else {
            let device = rustix::fs::fstat(dir)?.st_dev;
            (found.stx_dev_major, found.stx_dev_minor) != (rustix::fs::major(device), rustix::fs::minor(device))
        };
    let owner = Some(Owner { uid: found.stx_uid, gid: found.stx_gid });
    Ok(Found { print, touched: time(found.stx_ctime), is_mount_point, owner })
}

#[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "the types of these numbers differ")]
#[cfg(not(target_os = "linux"))]
fn look(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Found> {
    let found = if name.is_empty() {
        rustix::fs::fstat(dir)?
    } else {
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?
    };
    #[cfg(target_vendor = "apple")]
    let birth = nanoseconds(found.st_birthtime, found.st_birthtime_nsec);
    #[cfg(not(target_vendor = "apple"))]
    let birth = 0;
    let mtime = nanoseconds(found.st_mtime as i64, found.st_mtime_nsec as i64);
    let mode = u32::from(found.st_mode);
    let print = Print::of_parts(kind(mode), found.st_size as u64, mtime, mode, found.st_ino as u64, birth);
    let touched = nanoseconds(found.st_ctime as i64, found.st_ctime_nsec as i64);
    let is_mount_point = print.kind == PrintKind::Dir && rustix::fs::fstat(dir)?.st_dev != found.st_dev;
    let owner = Some(Owner { uid: found.st_uid, gid: found.st_gid });
    Ok(Found { print, touched, is_mount_point, owner })
}

fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

fn kind(mode: u32) -> PrintKind {
    match rustix::fs::FileType::from_raw_mode(mode as _) {
        rustix::fs::FileType::RegularFile => PrintKind::File,
        rustix::fs::FileType::Directory => PrintKind::Dir,
        rustix::fs::FileType::Symlink => PrintKind::Symlink,
        _ => PrintKind::Other,
    }
}
