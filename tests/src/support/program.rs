//! The programs under test, and running a command to its end without waiting for ever.

use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No command of these tests takes this long unless it hangs.
const COMMAND_MAX: Duration = Duration::from_secs(180);

/// The program `name`, beside this test's own executable.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has an executable");
    // A test lies in target/PROFILE/deps, a program in target/PROFILE.
    let dirs = test.ancestors().skip(1).take(2);
    let found = dirs.map(|dir| dir.join(name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: run `cargo build --workspace --bins` first (./dev test does)"))
}

/// A version of the programs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Version {
    /// That of this source.
    Current,
    /// That of the commit in `tests/landed`, which people run today.
    Landed,
}

impl Version {
    /// The program `name` of this version.
    pub fn program(self, name: &str) -> PathBuf {
        match self {
            Self::Current => program(name),
            Self::Landed => landed(name),
        }
    }
}

/// Where `./dev landed` has put the programs of the landed version.
const LANDED: &str = "SYNCMOUNT_LANDED";

fn landed(name: &str) -> PathBuf {
    let path = std::env::var_os(LANDED).map(|dir| PathBuf::from(dir).join(name)).filter(|path| path.is_file());
    path.unwrap_or_else(|| {
        panic!("the landed {name} is missing: run `export {LANDED}=$(./dev landed)` first (./dev test does)")
    })
}

/// What a command has said, and how it ended.
#[derive(Debug)]
pub struct Said {
    /// The exit code; `None` after a signal.
    pub code: Option<i32>,
    /// Its stdout.
    pub stdout: String,
    /// Its stderr.
    pub stderr: String,
}

impl Said {
    /// Its stdout, if it ended with 0.
    #[track_caller]
    pub fn good(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// The sentence with which it failed: one line on stderr that begins with the program's name, nothing on stdout.
    #[track_caller]
    pub fn refusal(&self) -> &str {
        assert!(matches!(self.code, Some(1 | 2)), "{self:?}");
        assert_eq!(self.stdout, "", "{self:?}");
        let line = self.stderr.strip_suffix('\n').unwrap_or_else(|| panic!("no whole line: {self:?}"));
        assert!(!line.contains('\n'), "more than one line: {self:?}");
        line.strip_prefix("syncmount: ").unwrap_or_else(|| panic!("who says this? {self:?}"))
    }
}

/// Runs a command to its end. One that does not end is killed, and the test fails.
#[track_caller]
pub fn run(command: &mut Command) -> Said {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = collect(child.stdout.take().expect("stdout is a pipe"));
    let stderr = collect(child.stderr.take().expect("stderr is a pipe"));
    let begin = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            break status;
        }
        if begin.elapsed() > COMMAND_MAX {
            child.kill().expect("a child can be killed");
            panic!("{command:?} has not ended within {COMMAND_MAX:?}");
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    };
    let text = |from: mpsc::Receiver<Vec<u8>>| {
        let bytes = from.recv_timeout(Duration::from_secs(20));
        let bytes = bytes.unwrap_or_else(|_| panic!("{command:?} has ended and its output is still held open"));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
}

fn collect(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is what there is to show.
        drop(pipe.read_to_end(&mut bytes));
        drop(send.send(bytes));
    });
    receive
}
