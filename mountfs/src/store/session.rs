//! Who uses the directory now, and how the last use ended.
//!
//! Promises: at most one process has a directory open, and a session that was not ended cleanly before the machine went down
//! is noticed. What was written in such a session may be missing or cut short wherever it was not synced.

use super::disk;
use super::state::StateError;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const LOCK: &str = "lock";
const MARKER: &str = "session";
const SUSPECT: &str = "suspect";

/// The use of a directory by this process. Ends, not cleanly, when dropped.
pub(super) struct Session {
    dir: PathBuf,
    /// Locked while it is open.
    _lock: File,
    /// Whether the machine went down in an earlier session.
    pub(super) suspect: bool,
    /// It did, and not everything has been looked at yet.
    is_open: AtomicBool,
}

impl Session {
    /// Takes the directory for this process.
    pub(super) fn begin(dir: &Path) -> Result<Self, StateError> {
        let lock = take_lock(dir)?;
        let boot = disk::boot::current();
        let suspect = was_cut(dir, boot.as_deref()).map_err(|error| StateError::io(dir, error))?;
        let verdict = if suspect { SUSPECT } else { "" };
        write_marker(dir, boot, verdict).map_err(|error| StateError::io(dir, error))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock, suspect, is_open: AtomicBool::new(suspect) })
    }

    /// All that could have suffered has been looked at and judged, and the judgement is durable: if this process dies, what
    /// it has written since is there.
    pub(super) fn end_suspicion(&self) -> io::Result<()> {
        write_marker(&self.dir, disk::boot::current(), "")?;
        self.is_open.store(false, Ordering::Release);
        Ok(())
    }

    /// Everything in the directory is made durable, and the session counts as ended cleanly, unless the suspicion is still there.
    pub(super) fn end(&self) -> io::Result<()> {
        disk::sync_below(&self.dir)?;
        if self.is_open.load(Ordering::Acquire) {
            return Ok(());
        }
        disk::remove_if_there(&self.dir.join(MARKER))?;
        disk::sync_dir(&self.dir)
    }
}

fn write_marker(dir: &Path, boot: Option<String>, verdict: &str) -> io::Result<()> {
    let marker = format!("{}\n{verdict}\n", boot.unwrap_or_default());
    disk::replace(&dir.join(MARKER), marker.as_bytes(), true)
}

/// Whether the last session neither ended cleanly nor in this run of the machine. The suspicion stays until a session has
/// looked at everything: one that died while it was looking for damage has not found all of it.
fn was_cut(dir: &Path, boot: Option<&str>) -> io::Result<bool> {
    let Some(marker) = disk::if_there(std::fs::read_to_string(dir.join(MARKER)))? else { return Ok(false) };
    let mut lines = marker.lines();
    let recorded = lines.next().unwrap_or_default();
    let same_boot = boot.is_some_and(|boot| disk::boot::is_same(recorded, boot));
    Ok(!same_boot || lines.next() == Some(SUSPECT))
}

fn take_lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(LOCK);
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(|error| StateError::io(&path, error))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(StateError::InUse { path: dir.to_owned(), by: holder(&mut file) }),
        Err(TryLockError::Error(error)) => return Err(StateError::io(&path, error)),
    }
    let note = file.set_len(0).and_then(|()| file.write_all(std::process::id().to_string().as_bytes()));
    note.map_err(|error| StateError::io(&path, error))?;
    Ok(file)
}

/// The process that wrote its number into the lock file.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marker(dir: &Path) -> String {
        std::fs::read_to_string(dir.join(MARKER)).unwrap()
    }

    #[test]
    fn only_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Session::begin(dir.path()).unwrap();
        match Session::begin(dir.path()) {
            Err(StateError::InUse { by, .. }) => assert_eq!(by, Some(std::process::id())),
            _ => panic!("two sessions at once"),
        }
        drop(first);
        Session::begin(dir.path()).unwrap();
    }

    #[test]
    fn only_a_cut_of_power_makes_suspicious_until_everything_has_been_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!Session::begin(dir.path()).unwrap().suspect);
        assert!(!Session::begin(dir.path()).unwrap().suspect, "a dead process is no reason");
        let after_restart = marker(dir.path()).replace(disk::boot::current().unwrap().as_str(), "another boot");
        std::fs::write(dir.path().join(MARKER), after_restart).unwrap();
        assert!(Session::begin(dir.path()).unwrap().suspect);
        let again = Session::begin(dir.path()).unwrap();
        assert!(again.suspect, "it was not ended cleanly");
        again.end().unwrap();
        drop(again);
        let again = Session::begin(dir.path()).unwrap();
        assert!(again.suspect, "not everything has been looked at");
        again.end_suspicion().unwrap();
        drop(again);
        assert!(!Session::begin(dir.path()).unwrap().suspect, "everything had been looked at");
        let ended = Session::begin(dir.path()).unwrap();
        ended.end().unwrap();
        drop(ended);
        assert!(!Session::begin(dir.path()).unwrap().suspect);
    }
}
