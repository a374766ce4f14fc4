//! The real server under little memory and few file descriptors, and how much memory it has taken.

use crate::client::Client;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// What every server must do with, in MiB, whatever is asked of it.
#[cfg(target_os = "linux")]
const MEMORY_MAX: u64 = 256;

/// Descriptors that the server may open. Few on purpose.
pub const FILES: u32 = 256;

/// A server process. At its end it must not have taken more memory than it may.
pub struct Program {
    child: Child,
}

/// The program with this limit on open files.
pub fn limited(files: u32) -> Command {
    let program = std::env::var("SYNCMOUNT_SERVER_PROGRAM");
    let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_syncmount-server").to_owned());
    let mut command = if cfg!(unix) {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\"")]).arg(program);
        shell
    } else {
        Command::new(program)
    };
    command.env_remove("RUST_LOG").env("MALLOC_ARENA_MAX", "2").stdin(Stdio::null());
    command
}

impl Program {
    /// Starts a server over `data` on a free port; answers a client for it as well.
    pub fn start(mut command: Command, data: &Path, options: &[&str]) -> (Self, Client) {
        command.arg("--data").arg(data).args(["--listen", "127.0.0.1:0"]).args(options);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let lines: Vec<String> =
            BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
        let token = std::fs::read_to_string(lines[0].strip_prefix("token in ").unwrap()).unwrap();
        let url = lines[1].strip_prefix("listening on ").unwrap().to_owned();
        (Self { child }, Client::new(url, token.trim().to_owned()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has had so far, in MiB.
    #[cfg(target_os = "linux")]
    pub fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the server still runs");
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024
    }

    /// Fails if it has taken too much.
    fn check(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the server has ended");
        #[cfg(target_os = "linux")]
        {
            let peak = self.peak_mib();
            eprintln!("the server has had {peak} MiB at most");
            assert!(peak < MEMORY_MAX, "the server has taken {peak} MiB");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.check();
        }
        // Both fail if the process has ended by itself, which has been seen.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Client {
    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.url.strip_prefix("http://").unwrap().parse().unwrap()
    }
}
