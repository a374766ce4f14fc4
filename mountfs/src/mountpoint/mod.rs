//! The place of a mount: whether one can be put there, what is there already, and how it is taken away.
//!
//! Looks before it leaps: nothing here touches a mount of somebody else in a way that could hang (the kernel's table is
//! read instead), and a dead mount of ours, left by a process that was killed, is cleared rather than reported. Where this
//! program mounts nothing, folders only have their names here.

#[cfg(all(feature = "mount", unix))]
mod kernel;
#[cfg(not(all(feature = "mount", unix)))]
mod no_kernel;
mod table;

#[cfg(all(feature = "mount", unix))]
pub use kernel::{UnmountError, clear_if_dead, is_dead_mount, prepare, unmount, why_no_fuse};
#[cfg(not(all(feature = "mount", unix)))]
pub use no_kernel::{clear_if_dead, is_dead_mount};
pub use table::{FS_NAME, Mount, MountTable};

use crate::cli::Owners;
use crate::config::{Dirs, MountConfig, StartError};
use crate::control;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use syncmount_common::text;

/// As many symlinks as the kernel follows.
const SYMLINKS_MAX: usize = 40;

/// The one name of a mount point: absolute, without symlinks. Works for one whose mount is dead.
pub fn canonical(given: &Path) -> Result<PathBuf, StartError> {
    let absolute = std::path::absolute(given).map_err(StartError::io("find", given))?;
    resolve(&absolute, SYMLINKS_MAX).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::MountpointMissing(absolute.clone()),
        io::ErrorKind::NotADirectory => StartError::NotADirectory(absolute.clone()),
        _ => StartError::io("look at", &absolute)(error),
    })
}

fn resolve(path: &Path, symlinks_max: usize) -> io::Result<PathBuf> {
    let error = match dunce::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
    if !is_dead(&error) || symlinks_max == 0 {
        return Err(error);
    }
    let path = dunce::canonicalize(parent)?.join(name);
    match fs::read_link(&path) {
        Ok(target) => resolve(&path.with_file_name("").join(target), symlinks_max - 1),
        Err(_) => Ok(path),
    }
}

/// An absolute path without symlinks as far as it exists; the rest of it is taken as it is written.
pub fn absolute(given: &Path) -> Result<PathBuf, StartError> {
    let absolute = std::path::absolute(given).map_err(StartError::io("find", given))?;
    let mut out = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => drop(out.pop()),
            other => out.push(other),
        }
        if let Ok(canonical) = dunce::canonicalize(&out) {
            out = canonical;
        }
    }
    Ok(out)
}

/// The mount point that a user means by `given`: itself, or the mount of ours that it lies in. Asks no mount for anything
/// if the table has it.
pub fn find_mounted(given: &Path) -> Result<PathBuf, StartError> {
    let lexical = std::path::absolute(given).map_err(StartError::io("find", given))?;
    let table = MountTable::read()?;
    if table.at(&lexical).is_some_and(|mount| mount.is_ours()) {
        return Ok(lexical);
    }
    let path = canonical(given)?;
    let around = table.around(&path).filter(|mount| mount.is_ours());
    Ok(around.map_or_else(|| path.clone(), |mount| mount.mountpoint.clone()))
}

/// Whether a mount of ours, alive or dead, is at `mountpoint`.
pub fn is_mounted(mountpoint: &Path) -> Result<bool, StartError> {
    Ok(MountTable::read()?.at(mountpoint).is_some_and(|mount| mount.is_ours()))
}

/// A path for a person's eyes.
pub fn shown(path: &Path) -> String {
    text::shown_bytes(path.as_os_str().as_encoded_bytes())
}

/// Everything that must hold before a folder is watched. Clears a dead mount of ours, and answers whether there was one.
pub fn prepare_watch(config: &MountConfig, dirs: &Dirs) -> Result<bool, StartError> {
    let folder = &config.mountpoint;
    if config.owners == Owners::Synced && !crate::system::is_root() {
        return Err(StartError::OwnersNeedRoot);
    }
    #[cfg(all(feature = "mount", unix))]
    let cleared = kernel::make_way(folder, dirs)?;
    #[cfg(not(all(feature = "mount", unix)))]
    let cleared = false;
    let table = MountTable::read()?;
    if let Some(outer) = table.around(folder).filter(|mount| mount.is_ours()) {
        return Err(StartError::InsideMount { path: folder.clone(), outer: outer.mountpoint.clone() });
    }
    if !fs::metadata(folder).map_err(StartError::io("look at", folder))?.is_dir() {
        return Err(StartError::NotADirectory(folder.clone()));
    }
    check_state_is_outside(config, dirs, &table)?;
    Ok(cleared)
}

/// State inside of a mount that it belongs to would make the process wait for itself.
fn check_state_is_outside(config: &MountConfig, dirs: &Dirs, table: &MountTable) -> Result<(), StartError> {
    if config.mountpoint.starts_with(&config.cache_dir) {
        let (mountpoint, cache_dir) = (config.mountpoint.clone(), config.cache_dir.clone());
        return Err(StartError::MountInsideCache { mountpoint, cache_dir });
    }
    let sockets = control::run_dirs(dirs).into_iter().map(|dir| ("directory of sockets", dir, "XDG_RUNTIME_DIR"));
    let places = [
        ("cache directory", config.cache_dir.clone(), "--cache-dir"),
        ("state directory", dirs.state.clone(), "XDG_STATE_HOME"),
    ];
    let log = config.log_file.iter().map(|path| ("log file", path.clone(), "--log-file"));
    for (what, inner, option) in places.into_iter().chain(sockets).chain(log) {
        let inner = absolute(&inner)?;
        let outer = table.around(&inner).filter(|mount| mount.is_ours());
        let around = if inner.starts_with(&config.mountpoint) {
            Some(&config.mountpoint)
        } else {
            outer.map(|mount| &mount.mountpoint)
        };
        if let Some(mountpoint) = around.cloned() {
            return Err(StartError::StateInsideMount { what, inner, mountpoint, option });
        }
    }
    Ok(())
}

/// Whether the process behind a mount has gone.
fn is_dead(error: &io::Error) -> bool {
    cfg!(unix) && error.kind() == io::ErrorKind::NotConnected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let path = dunce::canonicalize(root.path()).unwrap();
        fs::create_dir(path.join("Sync")).unwrap();
        (root, path)
    }

    #[test]
    fn paths_are_named_in_one_way_whether_they_exist_or_not() {
        let (_root, path) = world();
        assert_eq!(canonical(&path.join("Sync/../Sync")).unwrap(), path.join("Sync"));
        assert_eq!(absolute(&path.join("Sync/a/../b")).unwrap(), path.join("Sync").join("b"));
        assert_eq!(absolute(&path.join("none/x")).unwrap(), path.join("none").join("x"));
        assert!(absolute(Path::new("none")).unwrap().is_absolute());
        assert!(matches!(canonical(&path.join("none")), Err(StartError::MountpointMissing(_))));
        assert!(!is_mounted(&path.join("Sync")).unwrap());
        assert_eq!(find_mounted(&path.join("Sync")).unwrap(), path.join("Sync"));
    }

    #[test]
    #[cfg(unix)] // Making a symlink is a privilege on Windows.
    fn symlinks_are_followed() {
        let (_root, path) = world();
        std::os::unix::fs::symlink("Sync", path.join("link")).unwrap();
        assert_eq!(canonical(&path.join("link")).unwrap(), path.join("Sync"));
        assert_eq!(absolute(&path.join("link/a/../b")).unwrap(), path.join("Sync/b"));
    }

    #[test]
    fn shown_paths_cannot_steer_a_terminal() {
        assert_eq!(shown(Path::new("/a b/ä")), "/a b/ä");
        assert_eq!(shown(Path::new("/a\x1b[2J\n")), "/a\\u{1b}[2J\\n");
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt as _;
            assert_eq!(shown(Path::new(std::ffi::OsStr::from_bytes(b"/\xff"))), "/\\xff");
        }
    }
}
