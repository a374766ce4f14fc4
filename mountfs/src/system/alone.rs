//! Whether anybody beside this process has a file of ours open or mapped, and how a file that has lost its names is written.
//!
//! Only Linux says so. Elsewhere everything here is refused, and whoever asks does without.

use std::fs::File;
use std::io;
use std::path::Path;

/// Whether nobody but `file` itself has what it leads to open or mapped, in whatever process.
#[cfg(target_os = "linux")]
pub(crate) fn is_alone(file: &File) -> io::Result<bool> {
    // A lease for writing is given only where there is no other open file, and what is mapped counts as open.
    match lease(file, libc::F_WRLCK) {
        Ok(()) => lease(file, libc::F_UNLCK).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(target_os = "linux")]
fn lease(file: &File, kind: libc::c_int) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: the descriptor is open for as long as `file` is borrowed, and the call touches no memory of ours.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_alone(_: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether nobody beside `file`, which nobody may write through, has what it leads to open for writing, or mapped so.
#[cfg(target_os = "linux")]
pub(crate) fn is_only_read(file: &File) -> io::Result<bool> {
    match lease(file, libc::F_RDLCK) {
        Ok(()) => lease(file, libc::F_UNLCK).map(|()| true),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_only_read(_: &File) -> io::Result<bool> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Opens once more what `file` leads to, whatever has become of its names.
#[cfg(target_os = "linux")]
pub(crate) fn open_again(file: &File, write: bool) -> io::Result<File> {
    use std::os::fd::AsRawFd as _;
    File::options().read(true).write(write).open(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_again(_: &File, _: bool) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Whether [`is_alone`] can be believed for files in `dir`. Whoever opens a file in the moment in which it is asked about would
/// end this process by a signal, which is ignored from now on.
#[cfg(target_os = "linux")]
pub(crate) fn is_told_in(dir: &Path) -> io::Result<bool> {
    // SAFETY: no handler is installed; the signal is ignored.
    if unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    let path = dir.join(".alone");
    let file = File::create(&path)?;
    let told = File::open(&path).and_then(|other| {
        let shared = is_alone(&file)?;
        drop(other);
        Ok(!shared && is_alone(&file)?)
    });
    super::files::remove_if_there(&path)?;
    told
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn is_told_in(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// Opens a file for writing that has no name any more. An error if it has one.
#[cfg(target_os = "linux")]
pub(crate) fn open_nameless(file: &File) -> io::Result<File> {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    if file.metadata()?.nlink() != 0 {
        return Err(io::Error::other("a file that is to be changed has a name"));
    }
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    open_again(file, true)
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn open_nameless(_: &File) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn who_has_a_file_open_or_mapped_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(is_told_in(dir.path()).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("file");
        fs::write(&path, [7; 4096]).unwrap();
        let file = File::open(&path).unwrap();
        assert!(is_alone(&file).unwrap());
        let same = file.try_clone().unwrap();
        assert!(is_alone(&file).unwrap(), "the same open file is nobody else");
        drop(same);
        for write in [false, true] {
            let other = File::options().read(true).write(write).open(&path).unwrap();
            assert!(!is_alone(&file).unwrap());
            assert_eq!(is_only_read(&file).unwrap(), !write);
            drop(other);
            assert!(is_alone(&file).unwrap());
        }
        assert!(open_nameless(&file).is_err());
        fs::remove_file(&path).unwrap();
        let writable = open_nameless(&file).unwrap();
        crate::system::at::write_all_at(&writable, b"x", 0).unwrap();
        assert!(!is_alone(&file).unwrap());
        drop(file);
        assert!(is_alone(&writable).unwrap());
    }
}
