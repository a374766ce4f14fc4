//! Disks that come and go, and what lies in a folder on them.

use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, unmount};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Files by their paths below a directory.
pub(crate) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A file system that is mounted at one path after another. Needs root, as every mount of this kind does.
pub(crate) struct Disk {
    home: PathBuf,
    /// Where it is mounted.
    pub(crate) at: Option<PathBuf>,
}

impl Disk {
    pub(crate) fn new(home: PathBuf) -> Self {
        fs::create_dir_all(&home).unwrap();
        mount("tmpfs", &home, "tmpfs", MountFlags::empty(), None)
            .expect("this test mounts disks and must be run as root");
        Self { home, at: None }
    }

    pub(crate) fn mount(&mut self, at: &Path) {
        mount_bind(&self.home, at).unwrap();
        self.at = Some(at.into());
    }

    /// As `umount -l`: also what is in use.
    pub(crate) fn unmount(&mut self) {
        unmount(self.at.take().unwrap(), UnmountFlags::DETACH).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        for path in self.at.iter().chain([&self.home]) {
            // It may have gone with the one that it was mounted in.
            let _ = unmount(path, UnmountFlags::DETACH);
        }
    }
}

/// All files below a directory, with their bytes.
pub(crate) fn files_below(dir: &Path) -> Files {
    fn add(root: &Path, dir: &Path, found: &mut Files) {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            if entry.file_type().unwrap().is_dir() {
                add(root, &path, found);
            } else if !entry.file_name().to_string_lossy().starts_with(".syncmount-") {
                found.insert(path.strip_prefix(root).unwrap().into(), fs::read(&path).unwrap());
            }
        }
    }
    let mut found = Files::new();
    add(dir, dir, &mut found);
    found
}
