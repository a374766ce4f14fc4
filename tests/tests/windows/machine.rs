//! A Windows machine: the client for Windows, run by wine, with a plain folder that is kept in step.

use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use syncmount::status::{Phase, Status};
use syncmount_tests::support::{Said, World, run, until};

/// Where the programs for Windows lie; `./dev windows test` says so.
const PROGRAMS: &str = "SYNCMOUNT_WINDOWS_PROGRAMS";

/// One machine with one folder. What runs in its name ends when it is dropped.
pub(crate) struct Windows {
    home: PathBuf,
    /// The folder, as Linux sees it.
    pub(crate) folder: PathBuf,
    url: String,
    token_file: PathBuf,
    watch: Option<Child>,
}

impl Windows {
    /// A machine in this world whose folder is not kept in step yet.
    pub(crate) fn new(world: &World, name: &str) -> Self {
        let home = world.path(name);
        let folder = home.join("Sync");
        fs::create_dir_all(&folder).unwrap();
        let server = world.server();
        Self { home, folder, url: server.url(), token_file: server.token_file(), watch: None }
    }

    /// A path in the folder, as Linux sees it.
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    fn program(name: &str) -> Command {
        let dir =
            std::env::var_os(PROGRAMS).expect("run this with `./dev windows test`: it needs wine and programs for it");
        let mut command = Command::new("wine");
        command.arg(PathBuf::from(dir).join(name));
        command
    }

    /// Starts to keep the folder in step, and returns when everything has been looked at.
    #[track_caller]
    pub(crate) fn watch(&mut self) {
        assert!(self.watch.is_none(), "it is kept in step already");
        let log = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let mut command = Self::program("syncmount.exe");
        command.arg("watch").arg(on_windows(&self.folder)).args(["-f", "--scan-interval", "5s", "--server", &self.url]);
        command.arg("--token-file").arg(on_windows(&self.token_file));
        command.arg("--cache-dir").arg(on_windows(&self.home.join("state")));
        command.current_dir(&self.home).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.watch = Some(command.spawn().unwrap());
        until("the folder on Windows", || {
            if let Some(ended) = self.watch.as_mut().unwrap().try_wait().unwrap() {
                panic!("it ended with {ended}:\n{}", self.log_tail());
            }
            match self.try_status() {
                Ok(status) if status.phase == Phase::Live => Ok(()),
                other => Err(format!("{other:?}\n{}", self.log_tail())),
            }
        });
    }

    /// Runs `syncmount.exe COMMAND FOLDER OPTIONS…`.
    pub(crate) fn ask(&self, command: &str, options: &[&str]) -> Said {
        run(Self::program("syncmount.exe").arg(command).arg(on_windows(&self.folder)).args(options))
    }

    /// Runs `syncmount.exe FOLDER --server … OPTIONS…`, which is expected to end.
    pub(crate) fn starts(&self, options: &[&str]) -> Said {
        let mut command = Self::program("syncmount.exe");
        command.arg(on_windows(&self.folder)).args(["-f", "--server", &self.url]);
        command.arg("--token-file").arg(on_windows(&self.token_file)).args(options);
        run(command.arg("--cache-dir").arg(on_windows(&self.home.join("state"))))
    }

    /// It ends in order by itself.
    #[track_caller]
    pub(crate) fn has_ended(&mut self) {
        let mut child = self.watch.take().expect("it was kept in step");
        let status = until("the end", || child.try_wait().unwrap().ok_or_else(|| self.log_tail()));
        assert!(status.success(), "{status}\n{}", self.log_tail());
    }

    fn try_status(&self) -> Result<Status, String> {
        let said = self.ask("status", &["--json"]);
        serde_json::from_str(&said.stdout).map_err(|error| format!("{error}: {said:?}"))
    }

    /// What `syncmount.exe status --json` says.
    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        self.try_status().unwrap()
    }

    /// Everything here is at the server, and everything there is here.
    #[track_caller]
    pub(crate) fn wait_synced(&self) {
        let said = self.ask("wait", &["--timeout", "120s"]);
        assert_eq!(said.code, Some(0), "{said:?}\n{}", self.log_tail());
    }

    /// Ctrl-C, and until it has ended in order.
    #[track_caller]
    pub(crate) fn ctrl_c(&mut self) {
        let child = self.watch.as_ref().expect("it is kept in step");
        kill_process(Pid::from_child(child), Signal::INT).unwrap();
        self.has_ended();
    }

    /// `kill -9`.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let mut child = self.watch.take().expect("it is kept in step");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Has a program on Windows do something: lines as `user.c` takes them, with paths in the folder as `{name}`.
    #[track_caller]
    pub(crate) fn does(&self, lines: &[&str]) {
        let mut user = User::start();
        for line in lines {
            user.line(&self.with_paths(line));
        }
    }

    /// A program on Windows that has a file open such that nobody else may touch it.
    #[track_caller]
    pub(crate) fn holds(&self, name: &str) -> User {
        let mut user = User::start();
        user.line(&self.with_paths(&format!("hold {{{name}}}")));
        user
    }

    fn with_paths(&self, line: &str) -> String {
        let folder = on_windows(&self.folder).into_string().unwrap();
        let mut out = String::new();
        for (number, part) in line.split(['{', '}']).enumerate() {
            match number % 2 {
                0 => out.push_str(part),
                _ => out.push_str(&format!(r"{folder}\{}", part.replace('/', r"\"))),
            }
        }
        out
    }

    fn log(&self) -> PathBuf {
        self.home.join("log")
    }

    /// The last lines of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Windows {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of Windows\n{}", self.log_tail());
        }
        if let Some(mut child) = self.watch.take() {
            // Both fail if it has ended by itself, which is fine here.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A program on Windows that does what it is told. What it holds it gives up when dropped.
pub(crate) struct User {
    child: Child,
    stdin: Option<ChildStdin>,
    answers: BufReader<std::process::ChildStdout>,
}

impl User {
    fn start() -> Self {
        let mut command = Windows::program("user.exe");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), child, answers }
    }

    #[track_caller]
    fn line(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "{line}");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        drop(self.stdin.take());
        drop(self.child.wait());
    }
}

/// A path of Linux as wine's programs see it.
fn on_windows(path: &Path) -> OsString {
    let path = path.to_str().expect("temporary directories are text");
    format!("Z:{}", path.replace('/', r"\")).into()
}
