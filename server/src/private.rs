//! Files and directories for the server's user only: how they are made, and whether others may write a directory.
//!
//! A name in the data directory may have been planted as a symlink that leads elsewhere. No new file is made through one.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

/// Makes a new file, for its user only. Fails if anything has the name, a symlink that leads nowhere included.
pub(crate) fn make_file(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().write(true).create_new(true))
}

/// Opens a file to write, which is made if there is none. Fails if it is a symlink.
pub(crate) fn open_or_make_file(path: &Path) -> io::Result<File> {
    match make_file(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => open(path, OpenOptions::new().write(true)),
        made => made,
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        options.mode(0o600).custom_flags(flags);
    }
    options.open(path)
}

/// Replaces the file at `path` by one with this line, for its user only. Durable when it returns.
pub(crate) fn replace_file(path: &Path, line: &str) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // What a crash has left there, or what was planted; a symlink goes, not what it leads to.
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = make_file(&fresh)?;
    writeln!(file, "{line}")?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Makes a directory, for its user only, and what is missing above it. All of it survives a power cut when this returns.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    match builder.create(directory) {
        Ok(()) => {}
        Err(_) if directory.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_directory(directory.parent().ok_or(error)?)?;
            builder.create(directory)?;
        }
        Err(error) => return Err(error),
    }
    let parent = directory.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Directories cannot be synced here; the rename is as durable as the platform makes it.
#[cfg(not(unix))]
fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether a user other than the server's, root aside, may write a directory: by its mode, or because it is theirs. Where
/// there are no modes, nothing is known and the answer is no.
pub(crate) fn others_may_write(directory: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = directory.metadata()?;
        Ok(metadata.mode() & 0o022 != 0 || !is_ours(metadata.uid()))
    }
    #[cfg(not(unix))]
    {
        directory.metadata().map(|_| false)
    }
}

/// Whether a file was made by the server's user, or by root.
pub(crate) fn is_own_file(path: &Path) -> io::Result<bool> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        path.metadata().map(|metadata| is_ours(metadata.uid()))
    }
    #[cfg(not(unix))]
    {
        path.metadata().map(|_| true)
    }
}

#[cfg(unix)]
fn is_ours(uid: u32) -> bool {
    uid == 0 || uid == rustix::process::geteuid().as_raw()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    #[test]
    fn no_file_is_made_through_a_planted_symlink() {
        let directory = tempfile::tempdir().unwrap();
        let (path, outside) = (directory.path().join("token"), directory.path().join("outside"));
        for existing in [false, true] {
            if existing {
                fs::write(&outside, "precious").unwrap();
            }
            symlink(&outside, directory.path().join("token.new")).unwrap();
            symlink(&outside, &path).unwrap();
            assert!(make_file(&path).is_err() && open_or_make_file(&path).is_err());
            replace_file(&path, "secret").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "secret\n");
            assert_eq!(path.symlink_metadata().unwrap().permissions().mode(), 0o100_600);
            assert_eq!(fs::read_to_string(&outside).ok().as_deref(), existing.then_some("precious"));
            fs::remove_file(&path).unwrap();
        }
        assert!(open_or_make_file(&path).is_ok() && open_or_make_file(&path).is_ok() && make_file(&path).is_err());
    }

    #[test]
    fn a_directory_that_others_may_write_is_known_by_its_mode() {
        let directory = tempfile::tempdir().unwrap();
        for (mode, expected) in [(0o700, false), (0o755, false), (0o770, true), (0o702, true), (0o1777, true)] {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(others_may_write(directory.path()).unwrap(), expected, "{mode:o}");
        }
    }
}
