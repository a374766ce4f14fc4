//! A server and the devices around it, in one temporary directory.

use super::device::{Device, processes_at};
use super::liar::Liar;
use super::lossy_disk::{LossyDisk, Ordering};
use super::program::Version;
use super::proxy::Proxy;
use super::server::{Server, tail};
use super::small_disk::SmallDisk;
use parking_lot::{Mutex, MutexGuard};
use rustix::process::{Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;
use tempfile::TempDir;

/// A test that takes this long hangs. Its processes are killed, so that its system calls return and it fails.
const TEST_MAX: Duration = Duration::from_secs(400);

/// One world. Devices must be dropped before it; what they leave is cleared with it.
pub struct World {
    /// Tells the watchdog that the test has ended.
    _ended: Sender<()>,
    server: Mutex<Server>,
    root: TempDir,
}

impl World {
    /// A world with a server that runs.
    #[expect(clippy::new_without_default, reason = "it starts processes")]
    pub fn new() -> Self {
        Self::lasting(TEST_MAX)
    }

    /// The same for a test that may take longer than others.
    pub fn lasting(limit: Duration) -> Self {
        Self::lasting_in(&std::env::temp_dir(), limit)
    }

    /// The same in a directory of `parent`.
    pub fn lasting_in(parent: &Path, limit: Duration) -> Self {
        Self::of(Version::Current, parent, limit)
    }

    /// A world whose server is of this version.
    pub fn with_server(version: Version) -> Self {
        Self::of(version, &std::env::temp_dir(), TEST_MAX)
    }

    fn of(version: Version, parent: &Path, limit: Duration) -> Self {
        let root = temporary_dir(parent);
        let server = Mutex::new(Server::start_in(root.path(), root.path().join("server"), version));
        Self { _ended: watch(root.path().into(), limit), server, root }
    }

    /// A world whose server has its data on a disk that forgets.
    pub fn on_lossy_disk(ordering: Ordering) -> (Self, LossyDisk) {
        let root = temporary_dir(&std::env::temp_dir());
        let disk = LossyDisk::new(root.path().join("server-disk"), ordering);
        let server = Mutex::new(Server::start_in(root.path(), disk.path().join("server"), Version::Current));
        (Self { _ended: watch(root.path().into(), TEST_MAX), server, root }, disk)
    }

    /// A world whose server has its data on a disk of this size, as `mount -o size=` takes it.
    pub fn on_small_disk(size: &str) -> (Self, SmallDisk) {
        let root = temporary_dir(&std::env::temp_dir());
        let disk = SmallDisk::new(root.path().join("server-disk"), size);
        let server = Mutex::new(Server::start_in(root.path(), disk.path().join("server"), Version::Current));
        (Self { _ended: watch(root.path().into(), TEST_MAX), server, root }, disk)
    }

    /// The server, to stop and start.
    pub fn server(&self) -> MutexGuard<'_, Server> {
        self.server.lock()
    }

    /// A path in the world's directory, outside of every mount.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A device that is not mounted.
    pub fn device(&self, name: &str) -> Device {
        let server = self.server.lock();
        Device::new(self.root.path(), name, server.url(), server.token_file())
    }

    /// A device that is not mounted and reaches the server over a line of its own.
    pub fn device_behind_proxy(&self, name: &str) -> (Proxy, Device) {
        let server = self.server.lock();
        let proxy = Proxy::new(server.address());
        let device = Device::new(self.root.path(), name, proxy.url(), server.token_file());
        (proxy, device)
    }

    /// A device that is not mounted and hears of the server only through one that may lie.
    pub fn device_behind_liar(&self, name: &str) -> (Liar, Device) {
        let server = self.server.lock();
        let liar = Liar::new(server.address());
        let device = Device::new(self.root.path(), name, liar.url(), server.token_file());
        (liar, device)
    }

    /// A device with a live mount.
    #[track_caller]
    pub fn mount(&self, name: &str) -> Device {
        self.mount_with(name, &[] as &[&str])
    }

    /// A device with a live mount that was given more options.
    #[track_caller]
    pub fn mount_with(&self, name: &str, options: &[impl AsRef<OsStr>]) -> Device {
        let device = self.device(name).with(options);
        device.mount();
        device
    }

    /// A device with a watched folder.
    #[track_caller]
    pub fn watch(&self, name: &str) -> Device {
        self.watch_with(name, &[] as &[&str])
    }

    /// A device with a watched folder that was given more options.
    #[track_caller]
    pub fn watch_with(&self, name: &str, options: &[impl AsRef<OsStr>]) -> Device {
        let device = self.device(name).watched().with(options);
        device.mount();
        device
    }

    /// Does something while the server is not there.
    #[track_caller]
    pub fn while_offline<T>(&self, act: impl FnOnce() -> T) -> T {
        self.server().stop();
        let done = act();
        self.server().start();
        done
    }
}

fn temporary_dir(parent: &Path) -> TempDir {
    tempfile::Builder::new().prefix("syncmount-").tempdir_in(parent).expect("there is a temporary directory")
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the server\n{}", tail(self.server.lock().log()));
        }
        sweep(self.root.path());
    }
}

/// Ends every process and takes away every mount below `root`: nothing may reach into a mount when the directory goes.
fn sweep(root: &Path) {
    for pid in processes_at(root) {
        let _ = kill_process(pid, Signal::KILL);
    }
    for mountpoint in mounts_below(root).iter().rev() {
        drop(Command::new("umount").args(["-l", "--"]).arg(mountpoint).output());
    }
    let left = mounts_below(root);
    assert!(left.is_empty() || std::thread::panicking(), "cannot be unmounted: {left:?}");
}

fn watch(root: PathBuf, limit: Duration) -> Sender<()> {
    let (ended, end) = channel();
    std::thread::spawn(move || {
        if end.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            eprintln!("a test takes longer than {limit:?}: killing the processes in {}", root.display());
            sweep(&root);
        }
    });
    ended
}

/// The mount points at or below a path, in the order in which they were made, by the kernel's table.
pub fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("the kernel tells its mounts");
    let mountpoints = table.lines().filter_map(|line| line.split(' ').nth(4)).map(|field| field.replace("\\040", " "));
    mountpoints.map(PathBuf::from).filter(|mountpoint| mountpoint.starts_with(path)).collect()
}

/// What conflict copies call every device of this machine.
pub fn hostname() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name.split('.').next().unwrap_or_default().to_owned()
}
