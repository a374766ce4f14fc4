//! Other tools for the same task, measured from outside in the same way: what a user would install and start.
//!
//! Each runs with the options that serve it best here: caches that last, changes sent at once, the other side looked at
//! every second, which is as often as they can be told to.

use super::pair::await_it;
use crate::support::mounts_below;
use rustix::process::Pid;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where the programs are looked for is the caller's `PATH`.
const RCLONE: &str = "rclone";

/// Whether what a side needs is installed.
pub(super) fn check() -> io::Result<()> {
    let said = Command::new(RCLONE).arg("version").output();
    let said = said.map_err(|error| io::Error::new(error.kind(), format!("{RCLONE} cannot be started: {error}")))?;
    if said.status.success() { Ok(()) } else { Err(io::Error::other(format!("{RCLONE} does not work: {said:?}"))) }
}

/// A process that ends with this value.
struct Running(Child);

impl Running {
    fn start(command: &mut Command, log: &Path) -> io::Result<Self> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().map(Self).map_err(|error| io::Error::new(error.kind(), format!("{command:?}: {error}")))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.0)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `rclone serve webdav`: one folder for both devices.
pub(super) struct RivalServer {
    running: Running,
    address: SocketAddr,
    root: PathBuf,
}

impl RivalServer {
    pub(super) fn start(root: &Path) -> io::Result<Self> {
        // Nobody else takes the port meanwhile: the network is this bench's own, or the error says so.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let data = root.join("server");
        fs::create_dir(&data)?;
        let mut command = Command::new(RCLONE);
        command.args(["serve", "webdav", "--config", "/dev/null", "--addr", &address.to_string()]).arg(&data);
        let running = Running::start(&mut command, &root.join("server.log"))?;
        await_it("rclone's server", Duration::from_millis(20), || {
            Ok(TcpStream::connect(address).is_ok().then_some(()))
        })?;
        Ok(Self { running, address, root: root.to_path_buf() })
    }

    pub(super) fn pid(&self) -> Pid {
        self.running.pid()
    }

    /// A device, mounted.
    pub(super) fn mount(&self, name: &str) -> io::Result<Rival> {
        let home = self.root.join(name);
        let folder = home.join("Sync");
        fs::create_dir_all(&folder)?;
        let mut rival = Rival { url: format!("http://{}", self.address), home, folder, running: None };
        rival.mount()?;
        Ok(rival)
    }
}

/// `rclone mount` of that folder.
pub(super) struct Rival {
    url: String,
    home: PathBuf,
    pub(super) folder: PathBuf,
    running: Option<Running>,
}

impl Rival {
    pub(super) fn mount(&mut self) -> io::Result<()> {
        let mut command = Command::new(RCLONE);
        command.args(["mount", ":webdav:"]).arg(&self.folder).args(["--webdav-url", &self.url]);
        command.args(["--config", "/dev/null", "--cache-dir"]).arg(self.home.join("cache"));
        command.args(["--vfs-cache-mode", "full", "--vfs-write-back", "10ms", "--vfs-cache-max-age", "24h"]);
        command.args(["--dir-cache-time", "1s", "--attr-timeout", "1s"]);
        self.running = Some(Running::start(&mut command, &self.home.join("log"))?);
        await_it("rclone's mount", Duration::from_millis(20), || Ok(self.is_mounted().then_some(())))
    }

    /// Takes the mount down and waits for the end of its process.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        let said = Command::new("fusermount3").arg("-u").arg(&self.folder).output()?;
        if !said.status.success() {
            return Err(io::Error::other(format!("{} stays mounted: {said:?}", self.folder.display())));
        }
        let Some(mut running) = self.running.take() else { return Ok(()) };
        await_it("the end of rclone", Duration::from_millis(20), || Ok(running.0.try_wait()?.map(drop)))
    }

    fn is_mounted(&self) -> bool {
        mounts_below(&self.folder).contains(&self.folder)
    }

    pub(super) fn pid(&self) -> Option<Pid> {
        self.running.as_ref().map(Running::pid)
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        if self.is_mounted() {
            // Whatever stays, the disk's unmounting reports.
            drop(Command::new("fusermount3").args(["-u", "-z"]).arg(&self.folder).output());
        }
    }
}
