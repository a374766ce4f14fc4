//! Whether a mount can be put at a place, what a process that was killed has left there, and how a mount is taken away.

use super::table::MountTable;
use super::{check_state_is_outside, is_dead};
use crate::config::{Dirs, MountConfig, StartError};
use crate::control;
#[cfg(target_os = "linux")]
use rustix::mount::UnmountFlags;
#[cfg(target_os = "linux")]
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
#[cfg(target_os = "linux")]
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Mounts can lie on each other; more than this many dead ones are not cleared by themselves.
const DEAD_MOUNTS_MAX: usize = 8;

/// How long a process that does not answer any more may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// A mount's process that is alive answers within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// A mount that does not answer for this long is hung.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Everything that must hold before a mount begins. Clears a dead mount of ours, and answers whether there was one;
/// changes nothing else.
pub fn prepare(config: &MountConfig, dirs: &Dirs) -> Result<bool, StartError> {
    let mountpoint = &config.mountpoint;
    let cleared = make_way(mountpoint, dirs)?;
    let table = MountTable::read()?;
    if let Some(outer) = table.around(mountpoint).filter(|mount| mount.is_ours()) {
        return Err(StartError::InsideMount { path: mountpoint.clone(), outer: outer.mountpoint.clone() });
    }
    check_directory(mountpoint)?;
    check_state_is_outside(config, dirs, &table)?;
    check_fuse()?;
    check_others(config.allow_other)?;
    Ok(cleared)
}

/// Why nothing can be mounted on this machine; `None` if it can.
pub fn why_no_fuse() -> Option<StartError> {
    check_fuse().err()
}

/// Refuses a mount point in use, clears one that is dead.
pub(super) fn make_way(mountpoint: &Path, dirs: &Dirs) -> Result<bool, StartError> {
    for cleared in 0..DEAD_MOUNTS_MAX {
        let ours = MountTable::read()?.at(mountpoint).filter(|mount| mount.is_ours()).is_some();
        match (ours, control::is_served(dirs, mountpoint)?) {
            (true, _) if dies_soon(mountpoint, dirs)? => {}
            (true, true) => return Err(StartError::AlreadyMounted(mountpoint.into())),
            (false, true) => return Err(StartError::StillRunning(mountpoint.into())),
            (false, false) => return refuse_dead_foreign_mount(mountpoint).map(|()| cleared > 0),
            (true, false) => match probe(mountpoint) {
                Probe::Dead => clear(mountpoint)?,
                Probe::Alive => return Err(StartError::AlreadyMounted(mountpoint.into())),
                Probe::Hung => return Err(StartError::Hung(mountpoint.into())),
            },
        }
    }
    let reason = format!("there are more than {DEAD_MOUNTS_MAX} on each other");
    Err(StartError::CannotClear { path: mountpoint.into(), reason })
}

/// A process that was killed a moment ago gives up its lock and its mount one after the other, and until it has given up
/// the mount the kernel answers from its caches. Answers whether both were on their way out, once they are out.
fn dies_soon(mountpoint: &Path, dirs: &Dirs) -> Result<bool, StartError> {
    if control::is_served(dirs, mountpoint)? {
        if control::answers(dirs, mountpoint, ANSWERS_WITHIN)? {
            return Ok(false);
        }
    } else if probe(mountpoint) == Probe::Dead {
        return Ok(false);
    }
    let begin = Instant::now();
    while begin.elapsed() < ENDS_WITHIN {
        if !control::is_served(dirs, mountpoint)? && probe(mountpoint) == Probe::Dead {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(false)
}

/// Takes away what a process of ours left at `mountpoint` when it was killed. Whatever is alive stays.
/// Answers whether there was something.
pub fn clear_if_dead(mountpoint: &Path) -> Result<bool, StartError> {
    let mut cleared = false;
    for _ in 0..DEAD_MOUNTS_MAX {
        let ours = MountTable::read()?.at(mountpoint).filter(|mount| mount.is_ours()).is_some();
        if !ours || probe(mountpoint) != Probe::Dead {
            break;
        }
        clear(mountpoint)?;
        cleared = true;
    }
    Ok(cleared)
}

fn clear(mountpoint: &Path) -> Result<(), StartError> {
    tracing::info!(mountpoint = %mountpoint.display(), "clearing a dead mount");
    unmount(mountpoint, true).map_err(|error| match error {
        UnmountError::NoFusermount => StartError::NoFusermount,
        other => StartError::CannotClear { path: mountpoint.into(), reason: other.to_string() },
    })
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    Alive,
    Dead,
    Hung,
}

/// Asks the mount for its free space, which the kernel never remembers (the root's attributes it does, also of a dead mount).
/// From a thread of its own: an answer may never come.
fn probe(mountpoint: &Path) -> Probe {
    let (answer, answered) = mpsc::channel();
    let path = mountpoint.to_path_buf();
    std::thread::spawn(move || {
        // The receiver is gone if this took too long; then nobody wants to know any more.
        let _ = answer.send(rustix::fs::statvfs(&path).map_err(io::Error::from));
    });
    match answered.recv_timeout(PROBE_TIMEOUT) {
        Ok(Err(error)) if is_dead(&error) => Probe::Dead,
        Ok(_) => Probe::Alive,
        Err(_) => Probe::Hung,
    }
}

fn refuse_dead_foreign_mount(mountpoint: &Path) -> Result<(), StartError> {
    match MountTable::read()?.at(mountpoint) {
        Some(mount) if mount.fs_type.starts_with("fuse") && probe(mountpoint) == Probe::Dead => {
            Err(StartError::DeadForeignMount { path: mountpoint.into(), fs_type: mount.fs_type.clone() })
        }
        _ => Ok(()),
    }
}

fn check_directory(path: &Path) -> Result<(), StartError> {
    let metadata = fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => StartError::MountpointMissing(path.into()),
        _ => StartError::io("look at", path)(error),
    })?;
    if !metadata.is_dir() {
        return Err(StartError::NotADirectory(path.into()));
    }
    if fs::read_dir(path).map_err(StartError::io("list", path))?.next().is_some() {
        return Err(StartError::NotEmpty(path.into()));
    }
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK).map_err(|_| StartError::NotWritable(path.into()))
}

#[cfg(target_os = "linux")]
fn check_fuse() -> Result<(), StartError> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => {
            return Err(StartError::NoFuseDevice);
        }
        Err(error) => return Err(StartError::FuseDenied(error)),
    }
    if !crate::system::is_root() && fusermount().is_none() {
        return Err(StartError::NoFusermount);
    }
    Ok(())
}

#[cfg(target_os = "macos")]
fn check_fuse() -> Result<(), StartError> {
    if Path::new("/Library/Filesystems/macfuse.fs").exists() { Ok(()) } else { Err(StartError::NoMacFuse) }
}

#[cfg(target_os = "linux")]
/// For everybody but root the machine's owner has to allow it.
fn check_others(allow_other: bool) -> Result<(), StartError> {
    let allows = |text: String| text.lines().any(|line| line.trim() == "user_allow_other");
    if allow_other && !crate::system::is_root() && !fs::read_to_string("/etc/fuse.conf").is_ok_and(allows) {
        return Err(StartError::OthersNotAllowed);
    }
    Ok(())
}

#[cfg(target_os = "macos")]
fn check_others(_allow_other: bool) -> Result<(), StartError> {
    Ok(())
}

#[cfg(target_os = "linux")]
/// The program that mounts and unmounts for ordinary users, found in the places where the FUSE library looks too.
fn fusermount() -> Option<PathBuf> {
    find_fusermount(std::env::var_os("FUSERMOUNT_PATH"), &std::env::var_os("PATH").unwrap_or_default())
}

#[cfg(target_os = "linux")]
fn find_fusermount(given: Option<OsString>, path: &OsStr) -> Option<PathBuf> {
    if let Some(given) = given {
        return Some(PathBuf::from(given)).filter(|program| program.is_file());
    }
    let dirs = std::env::split_paths(path).chain(["/usr/bin", "/bin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    let dirs: Vec<PathBuf> = dirs.collect();
    let programs =
        ["fusermount3", "fusermount"].into_iter().flat_map(|name| dirs.iter().map(move |dir| dir.join(name)));
    programs.into_iter().find(|program| program.is_file())
}

/// Why a mount is still there.
#[derive(Debug, thiserror::Error)]
pub enum UnmountError {
    /// Files are open in it, or a process has its working directory there.
    #[error(
        "{0} is in use: a file is open or a shell stands in it; `fuser -vm {0}` shows which, --force unmounts anyway"
    )]
    Busy(PathBuf),
    /// The helper for ordinary users is missing.
    #[error("fusermount3 is missing; install it, on Debian and Ubuntu with `sudo apt-get install fuse3`")]
    NoFusermount,
    /// The system refused.
    #[error("cannot unmount {path}: {reason}")]
    Failed {
        /// The mount point.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

#[cfg(target_os = "linux")]
/// Takes the mount at `mountpoint` away. `lazy` does it even if files are open: they stay usable as long as the process
/// behind the mount lives. May be called by that process itself; touches nothing inside of the mount.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), UnmountError> {
    if crate::system::is_root() {
        let lazily = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
        // Without NOFOLLOW a symlink put in place of the mount point could lead to another mount.
        match rustix::mount::unmount(mountpoint, lazily | UnmountFlags::NOFOLLOW) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::BUSY) => return Err(UnmountError::Busy(mountpoint.into())),
            // Root of a container without the right to mount has mounted through the helper too.
            Err(rustix::io::Errno::PERM) if fusermount().is_some() => {}
            Err(error) => {
                let reason = io::Error::from(error).to_string();
                return Err(UnmountError::Failed { path: mountpoint.into(), reason });
            }
        }
    }
    unmount_by_helper(mountpoint, lazy)
}

/// Takes the mount at `mountpoint` away. `lazy` does it even if files are open. May be called by the process behind it; touches
/// nothing inside of the mount.
#[cfg(target_os = "macos")]
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), UnmountError> {
    use std::os::unix::ffi::OsStrExt as _;
    let failed = |reason: String| UnmountError::Failed { path: mountpoint.into(), reason };
    let path = std::ffi::CString::new(mountpoint.as_os_str().as_bytes()).map_err(|error| failed(error.to_string()))?;
    // SAFETY: the path ends with NUL and lives until the call returns.
    if unsafe { libc::unmount(path.as_ptr(), if lazy { libc::MNT_FORCE } else { 0 }) } == 0 {
        return Ok(());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EBUSY) => Err(UnmountError::Busy(mountpoint.into())),
        error => Err(failed(error.to_string())),
    }
}

#[cfg(target_os = "linux")]
fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<(), UnmountError> {
    let failed = |reason: String| UnmountError::Failed { path: mountpoint.into(), reason };
    let program = fusermount().ok_or(UnmountError::NoFusermount)?;
    let mut command = Command::new(&program);
    command.arg("-u").args(lazy.then_some("-z")).arg("--").arg(mountpoint).env("LC_ALL", "C").stdin(Stdio::null());
    let output = command.output().map_err(|error| failed(format!("{}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    if said.contains("busy") {
        return Err(UnmountError::Busy(mountpoint.into()));
    }
    Err(failed(said.lines().next_back().unwrap_or("fusermount3 failed and said nothing").trim().to_string()))
}

/// Whether the process behind the mount at `mountpoint` has gone. Takes up to 5 s if the mount does not answer.
pub fn is_dead_mount(mountpoint: &Path) -> bool {
    probe(mountpoint) == Probe::Dead
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::{canonical, is_mounted};
    use super::*;
    use crate::config::Secret;
    use crate::mountpoint::table::tests as mounts;

    struct World {
        root: tempfile::TempDir,
        dirs: Dirs,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let dirs = Dirs::below(&root.path().canonicalize().unwrap());
            fs::create_dir(root.path().join("Sync")).unwrap();
            Self { root, dirs }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.path().canonicalize().unwrap().join(name)
        }

        fn config(&self) -> MountConfig {
            MountConfig {
                mountpoint: self.path("Sync"),
                server: "http://h".into(),
                folder: "default".into(),
                token: Secret::parse("t", "test").unwrap(),
                cache_dir: self.path("cache"),
                cache_size: 1 << 30,
                read_only: false,
                allow_other: false,
                owners: crate::cli::Owners::User,
                passthrough: true,
                durability: crate::cli::Durability::Local,
                foreground: true,
                log_file: None,
                insecure_http: false,
                choices: crate::cli::MountChoices::default(),
                watch: crate::cli::WatchChoices::default(),
                device_name: "d".into(),
            }
        }

        fn outside(&self, config: &MountConfig) -> Result<(), StartError> {
            check_state_is_outside(config, &self.dirs, &MountTable::default())
        }
    }

    #[test]
    fn only_an_empty_directory_can_be_mounted_on() {
        let world = World::new();
        check_directory(&world.path("Sync")).unwrap();
        assert!(matches!(check_directory(&world.path("none")), Err(StartError::MountpointMissing(_))));
        fs::write(world.path("file"), "").unwrap();
        assert!(matches!(check_directory(&world.path("file")), Err(StartError::NotADirectory(_))));
        fs::write(world.path("Sync/.hidden"), "").unwrap();
        assert!(matches!(check_directory(&world.path("Sync")), Err(StartError::NotEmpty(_))));
        assert!(matches!(canonical(&world.path("file/below")), Err(StartError::NotADirectory(_))));
    }

    #[test]
    fn a_free_directory_passes_and_one_inside_a_mount_of_ours_does_not() {
        let world = World::new();
        assert!(!make_way(&world.path("Sync"), &world.dirs).unwrap());
        assert!(!clear_if_dead(&world.path("Sync")).unwrap());
        assert!(!is_mounted(&world.path("Sync")).unwrap());
        assert!(mounts::table().around(Path::new("/home/u/Sync/deep")).unwrap().is_ours());
    }

    #[test]
    fn state_stays_out_of_the_mount() {
        let world = World::new();
        world.outside(&world.config()).unwrap();
        let inside = MountConfig { cache_dir: world.path("Sync/cache"), ..world.config() };
        let error = world.outside(&inside).unwrap_err().to_string();
        assert!(error.contains("cache directory") && error.contains("--cache-dir"), "{error}");
        let around = MountConfig { cache_dir: world.path(""), ..world.config() };
        assert!(matches!(world.outside(&around), Err(StartError::MountInsideCache { .. })));
        let same = MountConfig { cache_dir: world.path("Sync"), ..world.config() };
        assert!(matches!(world.outside(&same), Err(StartError::MountInsideCache { .. })));
        let log = MountConfig { log_file: Some(world.path("Sync/log")), ..world.config() };
        assert!(matches!(world.outside(&log), Err(StartError::StateInsideMount { option: "--log-file", .. })));
        let dirs = Dirs { state: world.path("Sync/state"), ..world.dirs.clone() };
        let result = check_state_is_outside(&world.config(), &dirs, &MountTable::default());
        assert!(matches!(result, Err(StartError::StateInsideMount { .. })));
    }

    #[test]
    fn a_cache_in_another_mount_of_ours_is_refused() {
        let world = World::new();
        let config = MountConfig { cache_dir: "/home/u/Sync/cache".into(), ..world.config() };
        let result = check_state_is_outside(&config, &world.dirs, &mounts::table());
        assert!(matches!(result, Err(StartError::StateInsideMount { .. })));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_helper_is_found_on_the_path_or_where_the_variable_says() {
        let world = World::new();
        fs::write(world.path("fusermount3"), "").unwrap();
        let here = world.path("");
        let found = find_fusermount(None, here.as_os_str()).unwrap();
        assert_eq!(found.canonicalize().unwrap(), world.path("fusermount3"));
        assert_eq!(find_fusermount(Some("/none/fusermount3".into()), here.as_os_str()), None);
    }

    #[test]
    fn unmounting_what_is_not_mounted_is_an_error_and_no_panic() {
        let world = World::new();
        assert!(unmount(&world.path("Sync"), false).is_err());
    }
}
