//! Files of our own: which file a name leads to, how much room there is, and patience with others who hold a file.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::Duration;

/// How many milliseconds to wait between attempts: two seconds in all. A virus scanner looks at a file for a few.
const WAITS_MS: [u64; 8] = [1, 4, 15, 60, 120, 300, 500, 1000];

/// Whether somebody else has the file open in a way that does not go with what was tried. Only Windows knows such a thing:
/// access denied (also for a file that is going), sharing violation, lock violation.
pub(crate) fn is_held(error: &io::Error) -> bool {
    cfg!(windows) && matches!(error.raw_os_error(), Some(5 | 32 | 33))
}

/// Tries again for a while if somebody else holds the file at this moment.
pub(crate) fn patiently<T>(attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    retry(attempt, is_held, std::thread::sleep)
}

fn retry<T>(
    mut attempt: impl FnMut() -> io::Result<T>,
    is_worth_it: impl Fn(&io::Error) -> bool,
    wait: impl Fn(Duration),
) -> io::Result<T> {
    for pause in WAITS_MS {
        match attempt() {
            Err(error) if is_worth_it(&error) => wait(Duration::from_millis(pause)),
            done => return done,
        }
    }
    attempt()
}

/// Gives a file of our own another name, in place of whatever has it.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    patiently(|| fs::rename(from, to))
}

/// Removes a file of our own that may be gone already. Tells whether it was there. Its name is free afterwards, also if
/// somebody has the file open.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match patiently(|| remove(path)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(unix)]
fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path)
}

/// Where a file that is open keeps its name until it is closed (FAT, network drives, Windows of old) it goes under another.
#[cfg(windows)]
fn remove(path: &Path) -> io::Result<()> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    let aside = path.with_extension(format!("{}-{number}.gone", std::process::id()));
    match fs::rename(path, &aside) {
        Ok(()) => fs::remove_file(&aside),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
        Err(_) => fs::remove_file(path),
    }
}

/// Keeps a complete file from being written to by mistake. Not on Windows: there such a file can neither be removed nor
/// replaced nor flushed.
pub(crate) fn make_read_only(file: &File) -> io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    let mut permissions = file.metadata()?.permissions();
    permissions.set_readonly(true);
    file.set_permissions(permissions)
}

/// Whether `path` leads to the file that is open as `file`; false if it leads nowhere. A symlink is not followed.
#[cfg(unix)]
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        found => found?,
    };
    let open = file.metadata()?;
    Ok((found.dev(), found.ino()) == (open.dev(), open.ino()))
}

/// Whether `path` leads to the file that is open as `file`; false if it leads nowhere. A symlink is not followed.
#[cfg(windows)]
pub(crate) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    use super::windows::{facts, open_for_attributes};
    match patiently(|| open_for_attributes(path)) {
        Ok(found) => Ok(facts(&found)?.id == facts(file)?.id),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Bytes that may still be written to the file system below `dir`, and its size.
#[cfg(unix)]
pub(crate) fn disk_space(dir: &Path) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), stat.f_blocks.saturating_mul(stat.f_frsize)))
}

#[cfg(windows)]
pub(crate) use super::windows::disk_space;

/// Bytes that may still be written to the file system below `dir`.
pub(crate) fn free_bytes(dir: &Path) -> io::Result<u64> {
    disk_space(dir).map(|(free, _)| free)
}

/// Bytes that may still be written to the file system on which `file` is. Windows does not tell that of an open file, and nothing
/// is refused there before it is tried.
pub(crate) fn free_bytes_beside(file: &File) -> io::Result<u64> {
    #[cfg(unix)]
    {
        let stat = rustix::fs::fstatvfs(file)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        Ok(u64::MAX)
    }
}

/// The largest size, up to `limit` bytes, that a file can have on the file system on which `file` is, and that this process may
/// give it. Asked by seeking, which Linux refuses beyond that size; other systems do not say so before a file is made longer.
pub(crate) fn largest(file: &File, limit: u64) -> u64 {
    #[cfg(unix)]
    {
        use rustix::fs::{SeekFrom, seek};
        use rustix::process::{Resource, getrlimit};
        let allowed = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX).min(limit);
        let is_possible = |size: u64| seek(file, SeekFrom::Start(size)).is_ok();
        if is_possible(allowed) {
            return allowed;
        }
        // Possible up to the first, not up to the second.
        let (mut some, mut more) = (0, allowed);
        while more - some > 1 {
            let middle = some + (more - some) / 2;
            if is_possible(middle) { some = middle } else { more = middle }
        }
        some
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        limit
    }
}

/// Bytes of the file at `path` that are on disk rather than holes, never more than its length.
pub(crate) fn stored_bytes(path: &Path, metadata: &fs::Metadata) -> u64 {
    #[cfg(unix)]
    let allocated = {
        let _ = path;
        std::os::unix::fs::MetadataExt::blocks(metadata).saturating_mul(512)
    };
    // What cannot be asked counts as stored.
    #[cfg(windows)]
    let allocated = super::windows::allocated_bytes(path).unwrap_or(u64::MAX);
    metadata.len().min(allocated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_largest_file_is_what_the_disk_takes() {
        let file = tempfile::tempfile().unwrap();
        let largest = largest(&file, 1 << 62);
        file.set_len(largest).unwrap();
        assert!(largest == 1 << 62 || file.set_len(largest + 1).is_err(), "{largest}");
        assert_eq!(super::largest(&file, 1000), 1000);
    }
    use std::cell::{Cell, RefCell};

    const DENIED: i32 = 5;
    const SHARING: i32 = 32;
    const LOCKED: i32 = 33;

    fn held(error: &io::Error) -> bool {
        matches!(error.raw_os_error(), Some(DENIED | SHARING | LOCKED))
    }

    /// What comes of an attempt that fails with these errors, one after the other, and then succeeds.
    fn attempts(errors: &[i32]) -> (io::Result<usize>, usize) {
        let (count, waits) = (Cell::new(0), RefCell::new(0));
        let attempt = || {
            count.set(count.get() + 1);
            errors.get(count.get() - 1).map_or(Ok(count.get()), |code| Err(io::Error::from_raw_os_error(*code)))
        };
        let result = retry(attempt, held, |_| *waits.borrow_mut() += 1);
        (result, waits.into_inner())
    }

    #[test]
    fn a_file_that_others_hold_is_tried_again_for_a_while() {
        assert_eq!(attempts(&[]).0.unwrap(), 1);
        let (result, waits) = attempts(&[SHARING, DENIED, LOCKED]);
        assert_eq!((result.unwrap(), waits), (4, 3));
        let (result, waits) = attempts(&[SHARING; 100]);
        assert_eq!((result.unwrap_err().raw_os_error(), waits), (Some(SHARING), WAITS_MS.len()));
    }

    #[test]
    fn other_errors_are_told_at_once() {
        let (result, waits) = attempts(&[2]);
        assert_eq!((result.unwrap_err().raw_os_error(), waits), (Some(2), 0));
        let (result, waits) = attempts(&[SHARING, 2]);
        assert_eq!((result.unwrap_err().raw_os_error(), waits), (Some(2), 1));
    }

    #[test]
    fn a_file_is_told_from_another_of_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let file = File::open(&a).unwrap();
        assert!(is_at(&file, &a).unwrap() && !is_at(&file, &b).unwrap());
        assert!(!is_at(&file, &dir.path().join("none")).unwrap());
        rename(&a, &dir.path().join("c")).unwrap();
        assert!(is_at(&file, &dir.path().join("c")).unwrap(), "under its new name");
        assert!(!is_at(&file, &a).unwrap(), "not under its old one");
        assert!(remove_if_there(&b).unwrap() && !remove_if_there(&b).unwrap());
    }

    #[test]
    fn the_disk_has_a_size_and_room() {
        let dir = tempfile::tempdir().unwrap();
        let (free, size) = disk_space(dir.path()).unwrap();
        assert!(0 < free && free <= size);
        assert!(disk_space(&dir.path().join("none")).is_err());
        let path = dir.path().join("x");
        fs::write(&path, vec![1; 100_000]).unwrap();
        let stored = stored_bytes(&path, &fs::metadata(&path).unwrap());
        assert!((1..=100_000).contains(&stored), "{stored}");
    }
}
