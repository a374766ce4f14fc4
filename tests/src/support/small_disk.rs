//! A small disk of its own, in memory. Needs root, as every mount of this kind does.

use super::program::run;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Mounted until it is dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// One of this size, as `mount -o size=` takes it, at a path where nothing is yet.
    ///
    /// # Panics
    /// If it cannot be mounted.
    pub fn new(path: PathBuf, size: &str) -> Self {
        fs::create_dir(&path).expect("the place is free");
        let said = run(Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path));
        assert_eq!(said.code, Some(0), "this test mounts a tmpfs and must be run as root: {said:?}");
        Self(path)
    }

    /// It has this size from now on.
    ///
    /// # Panics
    /// If it cannot.
    pub fn resize(&self, size: &str) {
        let said = run(Command::new("mount").args(["-o", &format!("remount,size={size}")]).arg(&self.0));
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}
