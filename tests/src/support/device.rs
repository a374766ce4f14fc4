//! One device: a home of its own, a mount point, and the program `syncmount` run in both.

use super::program::{Said, Version, run};
use super::server::tail;
use super::until::until;
use super::world::mounts_below;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use syncmount::status::Status;

/// A device with one mount point. What runs in its name ends when it is dropped.
pub struct Device {
    /// What it is called in the test.
    pub name: String,
    /// Its home; the XDG directories lie in it.
    pub home: PathBuf,
    /// Its mount point.
    pub folder: PathBuf,
    url: String,
    token_file: PathBuf,
    options: Vec<OsString>,
    watched: bool,
    version: Version,
}

impl Device {
    /// A device below `root` that is not mounted yet.
    pub(super) fn new(root: &Path, name: &str, url: String, token_file: PathBuf) -> Self {
        let home = root.join(name);
        let folder = home.join("Sync");
        fs::create_dir_all(&folder).expect("the temporary directory is writable");
        Self {
            name: name.into(),
            home,
            folder,
            url,
            token_file,
            options: Vec::new(),
            watched: false,
            version: Version::Current,
        }
    }

    /// The same with a plain folder that is watched in the place of a mount.
    pub fn watched(mut self) -> Self {
        self.watched = true;
        self
    }

    /// The same with the programs of another version.
    pub const fn of(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// The same with more options of `syncmount`.
    pub fn with(mut self, options: &[impl AsRef<OsStr>]) -> Self {
        self.options.extend(options.iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// A path in the mount.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// `syncmount` as this device's user runs it.
    pub fn program(&self) -> Command {
        let mut command = Command::new(self.version.program("syncmount"));
        self.environment(&mut command);
        command
    }

    /// Gives any command this device's environment.
    pub fn environment(&self, command: &mut Command) {
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env_clear().env("PATH", path).env("HOME", &self.home).current_dir(&self.home);
        for (variable, dir) in [
            ("XDG_CONFIG_HOME", ".config"),
            ("XDG_DATA_HOME", ".data"),
            ("XDG_STATE_HOME", ".state"),
            ("XDG_CACHE_HOME", ".cache"),
            ("XDG_RUNTIME_DIR", ".run"),
        ] {
            command.env(variable, self.home.join(dir));
        }
    }

    /// Runs `syncmount` with these words and nothing else.
    #[track_caller]
    pub fn syncmount(&self, words: &[impl AsRef<OsStr>]) -> Said {
        run(self.program().args(words))
    }

    /// Runs `syncmount COMMAND FOLDER OPTIONS…`.
    #[track_caller]
    pub fn ask(&self, command: &str, options: &[&str]) -> Said {
        run(self.program().arg(command).arg(&self.folder).args(options))
    }

    /// The words that mount this device.
    pub fn mount_words(&self) -> Vec<OsString> {
        let words = [self.folder.as_os_str(), "--server".as_ref(), self.url.as_ref(), "--token-file".as_ref()];
        let words = words.into_iter().chain([self.token_file.as_os_str()]);
        let command = self.watched.then_some(OsStr::new("watch"));
        let words = command.into_iter().chain(words).map(OsStr::to_owned);
        words.chain(self.options.iter().cloned()).collect()
    }

    /// Mounts, whatever comes of it.
    #[track_caller]
    pub fn try_mount(&self) -> Said {
        self.syncmount(&self.mount_words())
    }

    /// Mounts.
    #[track_caller]
    pub fn mount(&self) {
        let said = self.try_mount();
        assert_eq!(said.code, Some(0), "{}: {said:?}\n{}", self.name, self.log_tail());
        assert!(self.watched || self.is_mounted(), "{} says that it is mounted, the kernel does not", self.name);
    }

    /// What `syncmount status --json` says.
    #[track_caller]
    pub fn status(&self) -> Status {
        let said = self.ask("status", &["--json"]);
        // It ends with 1 while the server cannot be reached.
        assert!(matches!(said.code, Some(0 | 1)), "{said:?}");
        serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"))
    }

    /// `syncmount wait`: everything is at the server.
    #[track_caller]
    pub fn wait_synced(&self) {
        let said = self.ask("wait", &["--timeout", "120s"]);
        assert_eq!(
            said.code,
            Some(0),
            "{}: {said:?}\n{}\n{}",
            self.name,
            self.ask("status", &[]).stdout,
            self.log_tail()
        );
    }

    /// Whether the kernel has a mount at this device's mount point.
    pub fn is_mounted(&self) -> bool {
        mounts_below(&self.folder).contains(&self.folder)
    }

    /// `fusermount3 -u`, and until its process has sent what it could and ended.
    #[track_caller]
    pub fn fusermount_u(&self) {
        run(Command::new("fusermount3").arg("-u").arg(&self.folder)).good();
        self.await_end();
    }

    /// `syncmount umount`, whatever is pending.
    #[track_caller]
    pub fn stop(&self) {
        let said = self.ask("umount", &["--force", "--timeout", "0s"]);
        assert_eq!(said.code, Some(0), "{}: {said:?}\n{}", self.name, self.log_tail());
        self.await_end();
    }

    /// Until no process runs in the name of this device.
    #[track_caller]
    pub fn await_end(&self) {
        until("the end of the process", || match self.processes().as_slice() {
            [] => Ok(()),
            left => Err(format!("{} still has {left:?}\n{}", self.name, self.log_tail())),
        });
    }

    /// `kill -9` of the mount's process; the dead mount stays.
    #[track_caller]
    pub fn kill(&self) {
        let pid = self.status().pid;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, Signal::KILL).expect("the mount's process runs");
        // A process gives up its memory, and with it its name for us, before its files and their locks.
        until("the process to be gone", || if has_ended(pid) { Ok(()) } else { Err(format!("{pid:?} is there")) });
        self.await_end();
        if self.watched {
            return;
        }
        // The kernel learns of the end of a mount a moment later. Unlike attributes, which may be remembered, this question
        // always goes to the process behind the mount.
        until("the kernel to notice", || match rustix::fs::statvfs(&self.folder) {
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            other => Err(format!("{:?}", other.map(|_| "it answers"))),
        });
    }

    /// The processes of `syncmount` that run with this device's home.
    pub fn processes(&self) -> Vec<Pid> {
        processes_at(&self.home)
    }

    /// The last lines of its logs.
    pub fn log_tail(&self) -> String {
        let dir = self.home.join(".state/syncmount/log");
        let logs = fs::read_dir(dir).into_iter().flatten().flatten();
        logs.map(|entry| tail(&entry.path())).collect::<Vec<_>>().join("\n")
    }

    /// Takes the mount away by force and ends what runs.
    fn clear(&self) {
        for _ in mounts_below(&self.folder) {
            // Whatever is left, the world's end reports.
            drop(Command::new("fusermount3").args(["-u", "-z"]).arg(&self.folder).output());
        }
        for pid in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {}\n{}", self.name, self.log_tail());
        }
        self.clear();
    }
}

/// The living processes of `syncmount` whose home is `home` or lies in it.
pub(super) fn processes_at(home: &Path) -> Vec<Pid> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|number| is_syncmount(*number) && has_home(*number, home)).filter_map(Pid::from_raw).collect()
}

/// Whether a process has given up everything. It may wait for its parent still; its files are gone with the last of its
/// threads, which need not be the first one.
fn has_ended(pid: Pid) -> bool {
    let dir = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
    let threads = fs::read_dir(dir.join("task")).map_or(0, Iterator::count);
    stat.rsplit_once(") ").is_none_or(|(_, rest)| threads <= 1 && rest.starts_with(['Z', 'X']))
}

fn is_syncmount(number: i32) -> bool {
    fs::read_to_string(format!("/proc/{number}/comm")).is_ok_and(|name| name.trim_end() == "syncmount")
}

fn has_home(number: i32, home: &Path) -> bool {
    // A process that has ended and was not waited for yet has no environment any more.
    let environment = fs::read(format!("/proc/{number}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    variables.any(|variable| {
        variable.strip_prefix(b"HOME=").is_some_and(|path| Path::new(OsStr::from_bytes(path)).starts_with(home))
    })
}
