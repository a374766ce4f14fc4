//! A server of the real program, on one port and one data directory however often it is started.

use super::Said;
use super::program::Version;
use super::until::until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A server process, or the place for one.
pub struct Server {
    data: PathBuf,
    log: PathBuf,
    /// `127.0.0.1:PORT`; the port is 0 until the first start.
    address: String,
    options: Vec<String>,
    child: Option<Child>,
    version: Version,
}

impl Server {
    /// Starts a server with this data directory, on a free port; its log lies in `root`.
    pub(super) fn start_in(root: &Path, data: PathBuf, version: Version) -> Self {
        let mut server = Self {
            data,
            log: root.join("server.log"),
            address: "127.0.0.1:0".into(),
            options: Vec::new(),
            child: None,
            version,
        };
        server.start();
        server
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `127.0.0.1:PORT`.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The file with the first token.
    pub fn token_file(&self) -> PathBuf {
        self.data.join("admin.token")
    }

    /// Where it writes its log.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// The directory that holds everything.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Stops it and starts it with these options, now and later.
    #[track_caller]
    pub fn restart_with(&mut self, options: &[&str]) {
        self.stop();
        self.options = options.iter().map(|option| (*option).to_owned()).collect();
        self.start();
    }

    /// Stops it and starts it as a server of another version, now and later.
    #[track_caller]
    pub fn restart_as(&mut self, version: Version) {
        self.stop();
        self.version = version;
        self.start();
    }

    /// Starts it where it was before. Another process may have taken the port for a moment, so this is tried again.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        until("the server", || self.try_start());
    }

    fn try_start(&mut self) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(|error| error.to_string())?;
        let mut command = Command::new(self.version.program("syncmount-server"));
        command
            .arg("--data")
            .arg(&self.data)
            .args(["--listen", &self.address])
            .args(&self.options)
            .env_remove("RUST_LOG");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let stdout = BufReader::new(child.stdout.take().expect("stdout is a pipe"));
        let address = stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("listening on http://").map(str::to_owned));
        let Some(address) = address else {
            drop(child.kill());
            drop(child.wait());
            return Err(format!("it did not come up: {}", tail(&self.log)));
        };
        self.address = address;
        self.child = Some(child);
        Ok(())
    }

    /// Its process.
    #[track_caller]
    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the server runs"))
    }

    /// `kill -9`.
    #[track_caller]
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGTERM, and until it has ended in order.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("the server runs");
        kill_process(Pid::from_child(&child), Signal::TERM).expect("a child can be asked to end");
        let status = until("the server's end", || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        assert!(status.success(), "the server ended with {status}: {}", tail(&self.log));
    }

    /// `syncmount-server check` finds nothing wrong. The server must not run.
    #[track_caller]
    pub fn assert_sound(&self) {
        let said = self.check(&[]);
        assert_eq!(said.code, Some(0), "{said:?}");
    }

    /// `syncmount-server check` with these options. The server must not run.
    #[track_caller]
    pub fn check(&self, options: &[&str]) -> Said {
        assert!(self.child.is_none(), "the server runs");
        super::run(
            Command::new(self.version.program("syncmount-server"))
                .arg("check")
                .arg("--data")
                .arg(&self.data)
                .args(options),
        )
    }

    /// Runs one of the server's commands, like `folder add photos`, and gives what it printed.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> String {
        let said = super::run(
            Command::new(self.version.program("syncmount-server")).args(words).arg("--data").arg(&self.data),
        );
        said.good().trim().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail if it has ended by itself, which is fine here.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// The last lines of a log.
pub(super) fn tail(path: &Path) -> String {
    let Ok(file) = File::open(path) else { return format!("(no {})", path.display()) };
    let lines: Vec<String> = BufReader::new(file).lines().map_while(Result::ok).collect();
    lines[lines.len().saturating_sub(25)..].join("\n")
}
