//! The few things that the store asks of the disk, in one place: what the system offers, and replacing a file as a whole.

use std::fs;
use std::io;
use std::path::Path;

pub(super) use crate::system::alone::{is_told_in, open_nameless};
pub(super) use crate::system::at::{read_exact_at, write_all_at, write_at};
pub(super) use crate::system::boot;
pub(super) use crate::system::durable::{sync_below, sync_dir, sync_file};
pub(super) use crate::system::files::{free_bytes, is_at, make_read_only, remove_if_there, rename, stored_bytes};
pub(super) use crate::system::holes;
pub(super) use crate::system::private::create_private_dir;

/// Replaces `path` as a whole: whoever reads it sees the old bytes or the new ones.
pub(super) fn replace(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let temporary = path.with_extension("new");
    fs::write(&temporary, bytes)?;
    if durable {
        sync_file(&temporary)?;
    }
    rename(&temporary, path)?;
    match path.parent() {
        Some(dir) if durable => sync_dir(dir),
        _ => Ok(()),
    }
}

/// Bytes that the files directly in `dir` take from the disk.
pub(super) fn stored_in(dir: &Path) -> io::Result<u64> {
    let mut sum: u64 = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // Removed meanwhile, it takes nothing.
        if let Some(found) = if_there(entry.metadata())?
            && found.is_file()
        {
            sum = sum.saturating_add(stored_bytes(&entry.path(), &found));
        }
    }
    Ok(sum)
}

/// What `result` has, `None` if it is about a file that is not there.
pub(super) fn if_there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        for (bytes, durable) in [(&b"one"[..], true), (b"two", false), (b"three", true)] {
            replace(&path, bytes, durable).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
