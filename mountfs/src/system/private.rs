//! Files and directories that are nobody else's business.
//!
//! On Linux and macOS that is the mode. On Windows a directory gets a list of who may enter it: this user, the system, and
//! administrators; files inherit it.

use super::durable::sync_dir;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

/// Says that a file which is made by opening is for its owner only.
pub(crate) fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options
}

/// Says that a symlink is not followed.
pub(crate) fn no_follow(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW);
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::custom_flags(
        options,
        windows_sys::Win32::Storage::FileSystem::FILE_FLAG_OPEN_REPARSE_POINT,
    );
    options
}

#[cfg(unix)]
fn make_dir(dir: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

#[cfg(windows)]
use super::windows::make_private_dir as make_dir;

/// Makes `dir` and its parents where they are missing, durably, and what it makes for its owner only.
pub(crate) fn create_dir_all(dir: &Path) -> io::Result<()> {
    match make_dir(dir) {
        Ok(()) => {}
        Err(_) if dir.is_dir() => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dir_all(dir.parent().ok_or(error)?)?;
            // Another program that starts at the same time may have made it by now.
            make_dir(dir).or_else(|error| if dir.is_dir() { Ok(()) } else { Err(error) })?;
        }
        Err(error) => return Err(error),
    }
    match dir.parent() {
        Some(parent) if parent.as_os_str().is_empty() => sync_dir(Path::new(".")),
        Some(parent) => sync_dir(parent),
        None => Ok(()),
    }
}

/// The same, and `dir` for its owner only although it was there (on Windows as whoever made it has decided).
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    create_dir_all(dir)?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let metadata = fs::metadata(dir)?;
        if metadata.permissions().mode() & 0o777 != 0o700 {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
        }
    }
    Ok(())
}

/// Whether `dir` is a directory that only this user can change. On Windows only whether it is one: the directories of a user
/// are closed to others there.
pub(crate) fn is_private_dir(dir: &Path) -> bool {
    fs::symlink_metadata(dir).is_ok_and(|found| {
        #[cfg(unix)]
        let is_closed = {
            use std::os::unix::fs::MetadataExt as _;
            found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o022 == 0
        };
        #[cfg(windows)]
        let is_closed = true;
        found.is_dir() && is_closed
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn directories_are_made_with_what_is_missing_above() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b c/ä");
        create_private_dir(&dir).unwrap();
        create_private_dir(&dir).unwrap();
        assert!(is_private_dir(&dir));
        let mut options = OpenOptions::new();
        let path = dir.join("x");
        no_follow(private(options.create_new(true).write(true))).open(&path).unwrap().write_all(b"x").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        assert!(!is_private_dir(&path));
        assert!(create_dir_all(&path.join("below")).is_err());
    }

    #[test]
    fn programs_that_start_at_once_make_the_same_directories() {
        for _ in 0..200 {
            let root = tempfile::tempdir().unwrap();
            let dir = root.path().join("a/b/c");
            let start = std::sync::Barrier::new(2);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        start.wait();
                        create_private_dir(&dir).unwrap();
                    });
                }
            });
        }
    }

    #[test]
    #[cfg(unix)]
    fn what_is_private_is_closed_to_others() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("a/b");
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(!is_private_dir(&dir));
        create_private_dir(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        private(OpenOptions::new().create_new(true).write(true)).open(dir.join("x")).unwrap();
        assert_eq!(mode(&dir.join("x")), 0o600);
        std::os::unix::fs::symlink("x", dir.join("link")).unwrap();
        assert!(no_follow(OpenOptions::new().read(true)).open(dir.join("link")).is_err());
    }
}
