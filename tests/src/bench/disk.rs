//! A fresh disk for each measurement: an ext4 that has seen many removals makes files several times slower for minutes,
//! so that figures would depend on what was measured before.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Bytes of a disk. It takes room only for what is written.
const LEN: u64 = 24 << 30;

/// A directory on a file system of its own, if that can be had here; else on the one beneath.
pub(super) struct Disk {
    mounted: Option<PathBuf>,
    dir: TempDir,
}

impl Disk {
    pub(super) fn new() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("syncmount-bench-").tempdir()?;
        let (image, root) = (dir.path().join("image"), dir.path().join("disk"));
        std::fs::create_dir(&root)?;
        File::create(&image)?.set_len(LEN)?;
        let made =
            succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-E", "lazy_itable_init=0"]).arg(&image))
                && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&root));
        if !made {
            eprintln!("bench: no fresh file system can be mounted here, so that of {} is used", dir.path().display());
        }
        Ok(Self { mounted: made.then_some(root), dir })
    }

    /// Where to measure.
    pub(super) fn path(&self) -> &Path {
        self.mounted.as_deref().unwrap_or_else(|| self.dir.path())
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|said| said.status.success())
}

impl Drop for Disk {
    fn drop(&mut self) {
        let Some(root) = &self.mounted else { return };
        // What was taken away from it by force needs a moment to let go.
        for _ in 0..100 {
            if succeeds(Command::new("umount").arg(root)) {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
        eprintln!("bench: {} cannot be unmounted", root.display());
    }
}
