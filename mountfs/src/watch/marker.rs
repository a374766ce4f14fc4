//! The marker in the root of a watched folder: it tells a folder that its owner has emptied from one whose disk is gone.
//! Its lock keeps a second process away.

use super::beneath::Root;
use super::names::MARKER;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

/// Why a folder cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MarkerError {
    /// Another process keeps it in step.
    #[error("another syncmount keeps {0} in step already")]
    InUse(String),
    /// It was kept in step before, and its marker is not there.
    #[error("{0}")]
    Lost(String),
    /// The disk.
    #[error("the marker {MARKER} in {folder} cannot be used: {error}")]
    Io {
        /// The folder.
        folder: String,
        /// What the system says.
        error: io::Error,
    },
}

/// The marker, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Marker {
    _file: File,
}

const ABOUT: &str = "syncmount keeps this folder in step. Without this file it stops, and removes nothing.\n";

impl Marker {
    /// Takes the folder as the one called `id`. `is_known`: it was kept in step before, and must have its marker.
    pub(crate) fn take(root: &Root, id: u64, is_known: bool) -> Result<Self, MarkerError> {
        let folder = root.path().display().to_string();
        let io = |error| MarkerError::Io { folder: folder.clone(), error };
        let spot = root.spot(Path::new(MARKER)).map_err(io)?;
        let mut file = match spot.open_marker(!is_known) {
            Ok(file) => file,
            Err(error) if is_known && error.kind() == io::ErrorKind::NotFound => {
                return Err(MarkerError::Lost(super::runner::lost(root.path())));
            }
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MarkerError::InUse(folder)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let text = format!("{ABOUT}{id:016x}\n");
        let mut found = String::new();
        file.read_to_string(&mut found).map_err(io)?;
        if is_known && found != text {
            return Err(MarkerError::Lost(super::runner::lost(root.path())));
        }
        if found != text {
            write(&mut file, &text).map_err(io)?;
        }
        spot.dir().sync().map_err(io)?;
        Ok(Self { _file: file })
    }
}

fn write(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_its_marker_is_not_taken() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::Lost(_))));
        let marker = Marker::take(&root, 7, false).unwrap();
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::InUse(_))));
        drop(marker);
        drop(Marker::take(&root, 7, true).unwrap());
        assert!(matches!(Marker::take(&root, 8, true), Err(MarkerError::Lost(_))), "another folder");
    }

    #[cfg(unix)]
    #[test]
    fn a_marker_that_is_a_symlink_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::NamedTempFile::new().unwrap());
        std::fs::write(outside.path(), "precious").unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join(MARKER)).unwrap();
        let root = Root::open(dir.path()).unwrap();
        for is_known in [false, true] {
            assert!(matches!(Marker::take(&root, 7, is_known), Err(MarkerError::Io { .. })));
        }
        assert_eq!(std::fs::read_to_string(outside.path()).unwrap(), "precious");
    }
}
