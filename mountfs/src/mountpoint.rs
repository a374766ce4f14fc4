//! The place of a mount: whether one can be put there, what is there already, and how it is taken away.
//!
//! Looks before it leaps: nothing here touches a mount of somebody else in a way that could hang (the kernel's table is
//! read instead), and a dead mount of ours, left by a process that was killed, is cleared rather than reported.

use crate::config::{Dirs, MountConfig, StartError};
use crate::control;
use rustix::mount::UnmountFlags;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What a mount of ours gives as name and as subtype, so that it is recognised: the helper for ordinary users writes the
/// subtype into the kernel's table (`fuse.syncmount`), a mount by root itself only the name.
pub const FS_NAME: &str = "syncmount";

const FS_TYPE: &str = "fuse.syncmount";

/// Mounts can lie on each other; more than this many dead ones are not cleared by themselves.
const DEAD_MOUNTS_MAX: usize = 8;

/// A mount that does not answer for this long is hung.
/// How long a process that does not answer any more may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(3);
/// A mount's process that is alive answers within this time.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// As many symlinks as the kernel follows.
const SYMLINKS_MAX: usize = 40;

/// One line of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The type, like `ext4` or `fuse.syncmount`.
    pub fs_type: String,
    /// What is mounted: a device, or a name that the filesystem gave.
    pub source: String,
}

impl Mount {
    /// Whether this program made it.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE || (self.fs_type == "fuse" && self.source == FS_NAME)
    }
}

/// The mounts that this process sees, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// Reads `/proc/self/mountinfo`; touches none of the mounts.
    pub fn read() -> Result<Self, StartError> {
        let path = "/proc/self/mountinfo";
        fs::read(path).map(|bytes| Self::parse(&bytes)).map_err(StartError::io("read", path))
    }

    fn parse(bytes: &[u8]) -> Self {
        Self(bytes.split(|byte| *byte == b'\n').filter_map(parse_line).collect())
    }

    /// The topmost mount exactly at `path`.
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        self.0.iter().rfind(|mount| mount.mountpoint == path)
    }

    /// The mount that `path` belongs to.
    pub fn around(&self, path: &Path) -> Option<&Mount> {
        let depth = |mount: &&Mount| mount.mountpoint.as_os_str().len();
        self.0.iter().filter(|mount| path.starts_with(&mount.mountpoint)).max_by_key(depth)
    }

    /// All mounts of ours.
    pub fn ours(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|mount| mount.is_ours())
    }
}

/// `36 35 98:0 /root /mount/point options [optional …] - type source options`
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mountpoint = unescape(fields.nth(4)?);
    let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
    let mut text = || Some(String::from_utf8_lossy(&unescape(fields.next()?)).into_owned());
    let (fs_type, source) = (text()?, text()?);
    Some(Mount { mountpoint: PathBuf::from(OsString::from_vec(mountpoint)), fs_type, source })
}

/// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                rest = after;
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

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
    let error = match fs::canonicalize(path) {
        Ok(path) => return Ok(path),
        Err(error) => error,
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(error) };
    if !is_dead(&error) || symlinks_max == 0 {
        return Err(error);
    }
    let path = fs::canonicalize(parent)?.join(name);
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
        if let Ok(canonical) = fs::canonicalize(&out) {
            out = canonical;
        }
    }
    Ok(out)
}

fn is_dead(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOTCONN)
}

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
    Ok(cleared)
}

/// Refuses a mount point in use, clears one that is dead.
fn make_way(mountpoint: &Path, dirs: &Dirs) -> Result<bool, StartError> {
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

fn check_fuse() -> Result<(), StartError> {
    match fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => {}
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)) => {
            return Err(StartError::NoFuseDevice);
        }
        Err(error) => return Err(StartError::FuseDenied(error)),
    }
    if !is_root() && fusermount().is_none() {
        return Err(StartError::NoFusermount);
    }
    Ok(())
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The program that mounts and unmounts for ordinary users, found in the places where the FUSE library looks too.
fn fusermount() -> Option<PathBuf> {
    find_fusermount(std::env::var_os("FUSERMOUNT_PATH"), &std::env::var_os("PATH").unwrap_or_default())
}

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

/// Takes the mount at `mountpoint` away. `lazy` does it even if files are open: they stay usable as long as the process
/// behind the mount lives. May be called by that process itself; touches nothing inside of the mount.
pub fn unmount(mountpoint: &Path, lazy: bool) -> Result<(), UnmountError> {
    if is_root() {
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

/// Whether the process behind the mount at `mountpoint` has gone. Takes up to 5 s if the mount does not answer.
pub fn is_dead_mount(mountpoint: &Path) -> bool {
    probe(mountpoint) == Probe::Dead
}

/// A path for a person's eyes: bytes that are not text and characters that would steer a terminal are written as escapes.
pub fn shown(path: &Path) -> String {
    let mut out = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
        }
        out.extend(chunk.invalid().iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    const TABLE: &str = "\
21 27 0:19 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 27 0:35 / /home/u/My\\040Files rw - fuse.sshfs host:/x rw,user_id=0
41 27 0:36 / /home/u/Sync rw,nosuid,nodev master:2 propagate_from:3 - fuse.syncmount syncmount rw,user_id=1000
42 27 0:37 / /mnt/a\\134b\\011c\\012d\\043 rw - tmpfs tmpfs rw
43 41 0:38 / /home/u/Sync/inner rw - tmpfs none rw
44 27 0:39 / /home/u/Sync rw - fuse syncmount rw,user_id=0,group_id=0
nonsense
45 27 0:39 / /cut rw
";

    fn table() -> MountTable {
        MountTable::parse(TABLE.as_bytes())
    }

    #[test]
    fn the_table_is_read_with_its_escapes() {
        let table = table();
        let paths: Vec<_> = table.0.iter().map(|mount| mount.mountpoint.to_str().unwrap()).collect();
        let expected =
            ["/sys", "/", "/home/u/My Files", "/home/u/Sync", "/mnt/a\\b\tc\nd#", "/home/u/Sync/inner", "/home/u/Sync"];
        assert_eq!(paths, expected);
        assert_eq!((table.0[3].fs_type.as_str(), table.0[3].source.as_str()), (FS_TYPE, FS_NAME));
        assert_eq!(table.ours().count(), 2);
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(b"a\\04"), b"a\\04");
        assert_eq!(unescape(b"\\"), b"\\");
        assert_eq!(unescape(b"\\999\\377"), b"\\999\xff");
        assert_eq!(unescape(b"\\\\040"), b"\\ ");
    }

    #[test]
    fn a_path_belongs_to_the_innermost_mount() {
        let table = table();
        let around = |path: &str| table.around(Path::new(path)).map(|mount| mount.fs_type.clone());
        assert_eq!(around("/home/u/Sync/x/y").as_deref(), Some("fuse"));
        assert_eq!(around("/home/u/Sync/inner/y").as_deref(), Some("tmpfs"));
        assert_eq!(around("/home/u/Sync2").as_deref(), Some("ext4"));
        assert!(table.at(Path::new("/home/u")).is_none());
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(MountTable::read().unwrap().at(Path::new("/")).is_some());
    }

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
                durability: crate::cli::Durability::Local,
                foreground: true,
                log_file: None,
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
        assert!(table().around(Path::new("/home/u/Sync/deep")).unwrap().is_ours());
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
        let result = check_state_is_outside(&config, &world.dirs, &table());
        assert!(matches!(result, Err(StartError::StateInsideMount { .. })));
    }

    #[test]
    fn paths_are_named_in_one_way_whether_they_exist_or_not() {
        let world = World::new();
        std::os::unix::fs::symlink("Sync", world.path("link")).unwrap();
        assert_eq!(canonical(&world.path("link")).unwrap(), world.path("Sync"));
        assert_eq!(absolute(&world.path("link/a/../b")).unwrap(), world.path("Sync/b"));
        assert_eq!(absolute(&world.path("none/x")).unwrap(), world.path("none/x"));
        assert!(absolute(Path::new("none")).unwrap().is_absolute());
    }

    #[test]
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

    #[test]
    fn shown_paths_cannot_steer_a_terminal() {
        assert_eq!(shown(Path::new("/a b/ä")), "/a b/ä");
        assert_eq!(shown(Path::new("/a\x1b[2J\n")), "/a\\u{1b}[2J\\n");
        assert_eq!(shown(Path::new(OsStr::from_bytes(b"/\xff"))), "/\\xff");
    }
}
