//! The same on Windows, which has no calls on names in open directories: each directory on the way is held open so that it
//! can be neither renamed nor removed, and is checked to be one and no reparse point that leads elsewhere. As long as all
//! are held, the path of the last one is certain, and calls on one name in it are calls by that path. The last step never
//! follows a reparse point either.

use super::{Calls, Found, names};
use crate::system::windows::Facts;
use crate::system::{durable, windows};
use crate::watch::platform::{self, Print, PrintKind};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use syncmount_common::{Owner, SymlinkTarget, Timestamp};

/// Whether two files can change places in one step.
pub(super) const CAN_EXCHANGE: bool = false;

const PRIVILEGE_NOT_HELD: i32 = 1314;
const FILE_FLAG_BACKUP_SEMANTICS: u32 = 0x0200_0000;
const FILE_FLAG_OPEN_REPARSE_POINT: u32 = 0x0020_0000;
const FILE_WRITE_ATTRIBUTES: u32 = 0x0100;
const FILE_LIST_DIRECTORY: u32 = 0x0001;
const FILE_READ_ATTRIBUTES: u32 = 0x0080;
const SHARE_ALL: u32 = 7;
/// Reading and writing, but neither renaming nor removing.
const SHARE_IN_PLACE: u32 = 3;

/// The root of a folder. It is not held itself: its owner may move it, which is noticed.
pub(super) struct Top {
    path: PathBuf,
    identity: AtomicU64,
}

impl Top {
    pub(super) fn open(path: &Path, _: bool) -> io::Result<Self> {
        let identity = hold(path, 0)?.1.id;
        Ok(Self { path: path.to_path_buf(), identity: AtomicU64::new(identity) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn dir(&self) -> io::Result<Handle> {
        let (pin, facts) = hold(&self.path, 0)?;
        if facts.id != self.identity.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(Handle { path: self.path.clone(), pins: vec![Arc::new(pin)] })
    }

    pub(super) fn is_at_its_path(&self) -> io::Result<bool> {
        Ok(hold(&self.path, 0)?.1.id == self.identity.load(Ordering::Relaxed))
    }

    pub(super) fn reopen(&self) -> io::Result<()> {
        self.identity.store(hold(&self.path, 0)?.1.id, Ordering::Relaxed);
        Ok(())
    }
}

impl Calls for Top {
    type Dir = Handle;

    fn child(&self, dir: &Handle, name: &OsStr) -> io::Result<Handle> {
        dir.child(name)
    }

    fn at_once(&self, _: &Handle, _: &Path) -> Option<io::Result<Handle>> {
        None
    }
}

/// Opens a directory so that it stays where it is as long as that lives. A symlink that was not followed is none.
fn hold(path: &Path, flags: u32) -> io::Result<(File, Facts)> {
    let mut options = OpenOptions::new();
    options.access_mode(FILE_LIST_DIRECTORY | FILE_READ_ATTRIBUTES).share_mode(SHARE_IN_PLACE);
    let dir = options.custom_flags(FILE_FLAG_BACKUP_SEMANTICS | flags).open(path)?;
    let facts = windows::facts(&dir)?;
    if facts.is_dir { Ok((dir, facts)) } else { Err(io::ErrorKind::NotADirectory.into()) }
}

/// A directory that is held, and all above it up to the root.
pub(super) struct Handle {
    path: PathBuf,
    pins: Vec<Arc<File>>,
}

impl Handle {
    pub(super) fn child(&self, name: &OsStr) -> io::Result<Self> {
        let path = self.path.join(name);
        let mut pins = self.pins.clone();
        pins.push(Arc::new(hold(&path, FILE_FLAG_OPEN_REPARSE_POINT)?.0));
        Ok(Self { path, pins })
    }

    pub(super) fn print(&self) -> io::Result<Print> {
        let dir = self.pins.last().ok_or(io::ErrorKind::NotFound)?;
        Print::of_file(dir)
    }

    pub(super) fn look(&self, name: &OsStr) -> io::Result<Found> {
        let facts = windows::facts(&windows::open_for_attributes(&self.path.join(name))?)?;
        // This system tells no other time. What is mounted in a directory is a reparse point, of which nothing is shared.
        Ok(Found { print: Print::of_facts(&facts), touched: facts.modified, is_mount_point: false, owner: None })
    }

    pub(super) fn names(&self, take: &mut dyn FnMut(OsString) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            if !take(entry?.file_name()) {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        durable::sync_dir(&self.path)
    }

    pub(super) fn family(&self) -> io::Result<[u64; 3]> {
        Ok([0; 3])
    }

    pub(super) fn set_mode(&self, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn make_private(&self, name: &OsStr) -> io::Result<()> {
        windows::make_private_dir(&self.path.join(name))
    }

    pub(super) fn is_private(&self) -> io::Result<bool> {
        // Its access list is that with which it was made.
        Ok(true)
    }

    pub(super) fn is_spelled_so(&self, name: &OsStr) -> bool {
        // What cannot be found out is taken for what it seems.
        windows::spelling(&self.path.join(name)).map_or(true, |found| found.is_none_or(|found| found == name))
    }

    pub(super) fn read_link(&self, name: &OsStr) -> io::Result<OsString> {
        fs::read_link(self.path.join(name)).map(PathBuf::into_os_string)
    }

    pub(super) fn make_link(&self, name: &OsStr, target: &SymlinkTarget) -> io::Result<()> {
        let (path, target) = (self.path.join(name), platform::os_name(target.as_bytes()));
        let made = if self.path.join(&target).is_dir() {
            std::os::windows::fs::symlink_dir(target, &path)
        } else {
            std::os::windows::fs::symlink_file(target, &path)
        };
        let why = match made {
            Ok(()) if fs::symlink_metadata(&path).is_ok_and(|made| made.is_symlink()) => return Ok(()),
            Ok(()) => "this system makes no symlinks",
            Err(error) if error.raw_os_error() == Some(PRIVILEGE_NOT_HELD) => {
                "making symlinks is a privilege here, which the developer mode of Windows gives"
            }
            Err(error) => return Err(error),
        };
        Err(io::Error::new(io::ErrorKind::Unsupported, why))
    }

    pub(super) fn make_dir(&self, name: &OsStr) -> io::Result<()> {
        fs::create_dir(self.path.join(name))
    }

    pub(super) fn remove_dir(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_dir(self.path.join(name))
    }

    pub(super) fn remove_file(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    pub(super) fn open_to_read(&self, name: &OsStr) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).share_mode(SHARE_ALL).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
        options.open(self.path.join(name))
    }

    pub(super) fn create_private(&self, name: &OsStr) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path.join(name))
    }

    pub(super) fn open_marker(&self, name: &OsStr, create: bool) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(create).custom_flags(FILE_FLAG_OPEN_REPARSE_POINT);
        options.open(self.path.join(name))
    }

    pub(super) fn set_owner_of(&self, _: &OsStr, _: &Print, _: Owner) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn set_mode_of(&self, _: &OsStr, _: &Print, _: u32) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn set_mtime(&self, name: &OsStr, _: PrintKind, mtime: Timestamp) -> io::Result<()> {
        let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
        let mut options = OpenOptions::new();
        options.access_mode(FILE_WRITE_ATTRIBUTES).share_mode(SHARE_ALL).custom_flags(flags);
        let file = options.open(self.path.join(name))?;
        file.set_times(FileTimes::new().set_modified(platform::system_time(mtime)))
    }

    pub(super) fn rename_new(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        let (from, target) = (self.path.join(name), to.path.join(other));
        if self.path == to.path && name.eq_ignore_ascii_case(other) {
            // In one step it is not done everywhere.
            let between = self.path.join(format!("{}case.part", names::PART_PREFIX));
            windows::rename_new(&from, &between)?;
            return windows::rename_new(&between, &target);
        }
        windows::rename_new(&from, &target)
    }

    pub(super) fn rename_over(&self, name: &OsStr, to: &Self, other: &OsStr) -> io::Result<()> {
        let target = to.path.join(other);
        let mut options = OpenOptions::new();
        options.access_mode(FILE_READ_ATTRIBUTES | FILE_WRITE_ATTRIBUTES).share_mode(SHARE_ALL);
        if let Ok(old) = options.custom_flags(FILE_FLAG_OPEN_REPARSE_POINT).open(&target) {
            let mut permissions = old.metadata()?.permissions();
            if permissions.readonly() {
                #[expect(clippy::permissions_set_readonly_false, reason = "there are no other bits on this system")]
                permissions.set_readonly(false);
                old.set_permissions(permissions)?;
            }
        }
        fs::rename(self.path.join(name), target)
    }

    pub(super) fn exchange(&self, _: &OsStr, _: &Self, _: &OsStr) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
