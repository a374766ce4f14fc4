//! The marker in the root of a watched folder: it tells a folder that its owner has emptied from one whose disk is gone.
//! Its lock keeps a second process away. A root that is proved to be the same in another way gets its marker again: tools
//! that remove what they do not know (`git clean`, `rsync --delete`) take it away.

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
    Missing(String),
    /// It was kept in step before, and has the marker of another folder.
    #[error("{0}")]
    Other(String),
    /// The disk.
    #[error("the marker {MARKER} in {folder} cannot be used: {error}")]
    Io {
        /// The folder.
        folder: String,
        /// What the system says.
        error: io::Error,
    },
}

impl MarkerError {
    /// A folder whose marker is missing and that is not proved in another way.
    pub(crate) fn missing(root: &Path) -> Self {
        Self::Missing(missing(root))
    }
}

/// The marker, locked as long as this lives.
#[derive(Debug)]
pub(crate) struct Marker {
    file: File,
    id: u64,
}

/// A marker is shorter, in bytes.
const LEN_MAX: u64 = 4 << 10;

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
                return Err(MarkerError::missing(root.path()));
            }
            Err(error) => return Err(io(error)),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MarkerError::InUse(folder)),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let text = text(id);
        let found = read(&mut file).map_err(io)?;
        if is_known && found != text {
            return Err(MarkerError::Other(other(root.path())));
        }
        if found != text {
            write(&mut file, &text).map_err(io)?;
        }
        spot.dir().sync().map_err(io)?;
        Ok(Self { file, id })
    }

    /// What the folder is called.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Makes it once more in `root`, which is proved to be the folder.
    pub(crate) fn give_again(&mut self, root: &Root) -> Result<(), MarkerError> {
        // One that was renamed meanwhile is locked by this process.
        drop(self.file.unlock());
        *self = Self::take(root, self.id, false)?;
        Ok(())
    }

    /// Takes it where the folder is by now.
    pub(crate) fn follow(&mut self, root: &Root) -> Result<(), MarkerError> {
        drop(self.file.unlock());
        *self = Self::take(root, self.id, true)?;
        Ok(())
    }
}

fn text(id: u64) -> String {
    format!("{ABOUT}{id:016x}\n")
}

/// What a file has in it, as far as that could be a marker.
fn read(file: &mut File) -> io::Result<String> {
    let mut found = Vec::new();
    file.take(LEN_MAX).read_to_end(&mut found)?;
    Ok(String::from_utf8_lossy(&found).into_owned())
}

/// The sentence with which a folder without its marker is left alone.
fn missing(root: &Path) -> String {
    format!(
        "{} is not what it was: its marker {MARKER} is missing, and so is most of what was in it. Is its disk mounted? \
         Nothing was removed anywhere. Once the folder is back, start again; if this is the folder all the same, start with \
         --accept: what is in it is compared with what the server has, and nothing is removed",
        root.display()
    )
}

fn other(root: &Path) -> String {
    format!(
        "{} is not what it was: its marker {MARKER} is that of another folder. Nothing was removed anywhere. If this is the \
         folder all the same, start with --accept: what is in it is compared with what the server has, and nothing is \
         removed",
        root.display()
    )
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
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::Missing(_))));
        let marker = Marker::take(&root, 7, false).unwrap();
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::InUse(_))));
        drop(marker);
        drop(Marker::take(&root, 7, true).unwrap());
        assert!(matches!(Marker::take(&root, 8, true), Err(MarkerError::Other(_))), "another folder");
    }

    #[test]
    fn a_marker_that_was_taken_away_is_given_again_and_locked() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path()).unwrap();
        let mut marker = Marker::take(&root, 7, false).unwrap();
        let path = dir.path().join(MARKER);
        std::fs::remove_file(&path).unwrap();
        marker.give_again(&root).unwrap();
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::InUse(_))));
        std::fs::rename(&path, dir.path().join("moved")).unwrap();
        marker.give_again(&root).unwrap();
        assert!(matches!(Marker::take(&root, 7, true), Err(MarkerError::InUse(_))));
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
