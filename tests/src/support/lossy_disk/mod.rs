//! A disk that forgets: a filesystem in memory that knows what a power cut would leave of it.
//!
//! Bytes are durable after fsync of their file, names after fsync of their directory (or of anything, on a journalled disk).
//! [`LossyDisk::power_cut`] decides by a seed what becomes of everything else. The death of a process loses nothing.
//!
//! The kernel does not tell a filesystem of this kind about `syncfs`; a test that relies on it calls
//! [`LossyDisk::sync_all`] in its place. The process that has a disk must not map its files: a page fault would wait for
//! the very process that it has stopped.

mod bytes;
mod fuse;
mod names;

use super::until::until;
use bytes::Bytes;
use fuse::{InodeKind, Inodes, Translator};
use fuser::{BackgroundSession, Config, MountOption, Session};
use names::Names;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The inode of the root directory.
const ROOT: u64 = 1;

/// What a disk orders by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ordering {
    /// Nothing: a name is durable when its directory was synced, as POSIX has it.
    Loose,
    /// Any fsync makes all names durable that were made before, as ext4 and XFS do.
    Journalled,
}

/// What a power cut leaves of all that was not synced.
enum Cut {
    /// Nothing.
    Nothing,
    /// All names and sizes, no byte: blocks that were never written are holes.
    MetadataOnly,
    /// Each name and each block by chance, about this share of them.
    Some { share: f64, rng: Box<StdRng> },
}

impl Cut {
    fn of(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        match rng.random_range(0..6) {
            0 => Self::Nothing,
            1 => Self::MetadataOnly,
            harm => Self::Some { share: [0.5, 0.1, 0.8, 0.95][harm - 2], rng: Box::new(rng) },
        }
    }
}

/// Everything on a disk.
struct Disk {
    ordering: Ordering,
    inodes: Inodes,
    names: Names,
}

impl Disk {
    fn sync_file(&mut self, inode: u64) {
        if let Some(InodeKind::File(bytes)) = self.inodes.kind_mut(inode) {
            bytes.sync();
        }
        if self.ordering == Ordering::Journalled {
            self.names.sync_all();
        }
    }

    fn sync_dir(&mut self, inode: u64) {
        match self.ordering {
            Ordering::Loose => self.names.sync(inode),
            Ordering::Journalled => self.names.sync_all(),
        }
    }

    fn sync_all(&mut self) {
        self.inodes.files_mut().for_each(Bytes::sync);
        self.names.sync_all();
    }

    fn power_cut(&mut self, mut cut: Cut) {
        self.names.power_cut(&mut cut);
        self.inodes.keep_only(|inode| inode == ROOT || self.names.place(inode).is_some());
        self.inodes.files_mut().for_each(|bytes| bytes.power_cut(&mut cut));
    }
}

/// A mounted disk. It is gone when this is dropped.
pub struct LossyDisk {
    path: PathBuf,
    disk: Arc<Mutex<Disk>>,
    session: Option<BackgroundSession>,
}

impl LossyDisk {
    /// An empty disk, mounted at `path`, which is made.
    pub fn new(path: PathBuf, ordering: Ordering) -> Self {
        fs::create_dir(&path).expect("the mount point can be made");
        let disk = Disk { ordering, inodes: Inodes::new(), names: Names::default() };
        let mut new = Self { path, disk: Arc::new(Mutex::new(disk)), session: None };
        new.mount();
        new
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn mount(&mut self) {
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName("lossy-disk".into()),
            MountOption::DefaultPermissions,
            MountOption::NoDev,
            MountOption::NoSuid,
        ];
        config.n_threads = Some(2);
        config.clone_fd = true;
        let session = Session::new(Translator::new(self.disk.clone()), &self.path, &config);
        let session = session.expect("this test mounts a FUSE filesystem and may do so");
        self.session = Some(session.spawn().expect("threads can be started"));
    }

    /// Until the kernel has given up everything that it kept of the disk.
    fn unmount(&mut self) {
        let Some(session) = self.session.take() else { return };
        until("the disk to be free", || {
            rustix::mount::unmount(&self.path, rustix::mount::UnmountFlags::empty()).map_err(|error| error.to_string())
        });
        session.join().expect("the disk served until it was unmounted");
    }

    /// Everything that was written so far is durable.
    pub fn sync_all(&self) {
        self.disk.lock().sync_all();
    }

    /// Whether a file or the name of a file or directory would be lost if nothing unsynced was kept.
    pub fn is_all_durable(&self) -> bool {
        let mut disk = self.disk.lock();
        disk.names.is_synced() && disk.inodes.files_mut().all(|bytes| bytes.is_synced())
    }

    /// The power goes, and comes back. Nobody may have anything open on the disk; processes have died before.
    pub fn power_cut(&mut self, seed: u64) {
        self.cut(Cut::of(seed));
    }

    fn cut(&mut self, cut: Cut) {
        self.unmount();
        self.disk.lock().power_cut(cut);
        self.mount();
    }
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // Whoever still uses it after a panic must not keep the panic from being shown.
        let flags = rustix::mount::UnmountFlags::DETACH;
        if self.session.is_some()
            && let Err(error) = rustix::mount::unmount(&self.path, flags)
        {
            eprintln!("{} cannot be unmounted: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests;
