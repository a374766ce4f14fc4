//! What makes names and whole directories survive a power cut.

use std::fs::File;
use std::io;
use std::path::Path;

/// Makes the names in a directory survive a power cut.
#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes the names in a directory survive a power cut: on NTFS a directory that is flushed writes the log of all changes to
/// names up to now. A file system that refuses (FAT, some network drives) does not promise anything about names.
#[cfg(windows)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    use std::os::windows::fs::OpenOptionsExt as _;
    use windows_sys::Win32::Foundation::{
        ERROR_ACCESS_DENIED, ERROR_INVALID_FUNCTION, ERROR_INVALID_HANDLE, ERROR_NOT_SUPPORTED, GENERIC_WRITE,
    };
    use windows_sys::Win32::Storage::FileSystem::FILE_FLAG_BACKUP_SEMANTICS;
    const CANNOT: [u32; 4] = [ERROR_ACCESS_DENIED, ERROR_INVALID_FUNCTION, ERROR_INVALID_HANDLE, ERROR_NOT_SUPPORTED];
    let mut options = File::options();
    options.access_mode(GENERIC_WRITE).custom_flags(FILE_FLAG_BACKUP_SEMANTICS);
    // Whoever is just making the directory may allow nobody to write to it.
    match super::files::patiently(|| options.open(dir)).and_then(|dir| dir.sync_all()) {
        Err(error) if error.raw_os_error().is_some_and(|code| CANNOT.contains(&(code as u32))) && dir.is_dir() => {
            Ok(())
        }
        synced => synced,
    }
}

/// Makes the bytes of the file at `path` survive a power cut, whoever has written them.
pub(crate) fn sync_file(path: &Path) -> io::Result<()> {
    // Windows flushes only for those who may write.
    File::options().read(true).write(cfg!(windows)).open(path)?.sync_all()
}

/// Makes everything below `dir` survive a power cut.
#[cfg(target_os = "linux")]
pub(crate) fn sync_below(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// Makes everything below `dir` survive a power cut: file by file, because the whole disk can only be flushed by an
/// administrator (Windows) or without waiting for it (macOS). Files without changes cost a call each.
#[cfg(not(target_os = "linux"))]
pub(crate) fn sync_below(dir: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            sync_below(&entry.path())?;
        } else if kind.is_file() {
            match flush(&entry.path()) {
                // Removed meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                flushed => flushed?,
            }
        }
    }
    sync_dir(dir)
}

/// Hands the bytes of a file to the disk; [`sync_dir`] of its directory makes the disk write what it was handed.
#[cfg(all(unix, not(target_os = "linux")))]
fn flush(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(File::open(path)?)?)
}

#[cfg(windows)]
fn flush(path: &Path) -> io::Result<()> {
    super::files::patiently(|| sync_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_directories_can_be_made_durable_and_missing_ones_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "x").unwrap();
        sync_file(&path).unwrap();
        sync_dir(path.parent().unwrap()).unwrap();
        sync_below(dir.path()).unwrap();
        for missing in [sync_dir(&dir.path().join("none")), sync_file(&dir.path().join("none"))] {
            assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
        }
    }
}
