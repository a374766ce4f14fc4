//! Going into the background the way `sshfs` does: the command returns when the mount is live, or says why it is not.
//!
//! The program starts itself again rather than forking, so that no thread and no runtime is torn apart. The new process
//! gets its configuration, token included, through its stdin and speaks through its stdout, one line each: `wait WHY`
//! while it needs time, then `live`, or `error CODE SENTENCE`. After that both are `/dev/null`. It must keep this promise:
//! if the one who started it gives up, the mount does not stay.

use crate::cli::{Durability, MountChoices, Owners, WatchChoices};
use crate::config::{MountConfig, Secret, StartError};
use crate::ready::{OnLive, Ready, one_line};
use crate::{logging, mountpoint};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How long the new process may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long it may take to end in order once it has failed.
const END_MAX: Duration = Duration::from_secs(10);
const HANDOVER_LEN_MAX: u64 = 1 << 20;
const LINE_LEN_MAX: u64 = 64 << 10;

/// The flag with which the program starts itself again.
pub const CHILD_FLAG: &str = "--background-child";

/// [`MountConfig`] on its way: paths as bytes, because they need not be text.
#[derive(Serialize, Deserialize)]
struct Handover {
    mountpoint: Vec<u8>,
    server: String,
    folder: String,
    token: String,
    cache_dir: Vec<u8>,
    cache_size: u64,
    read_only: bool,
    allow_other: bool,
    owners: Owners,
    passthrough: bool,
    durability: Durability,
    log_file: Option<Vec<u8>>,
    insecure_http: bool,
    device_name: String,
    choices: MountChoices,
    watch: WatchChoices,
}

impl Handover {
    fn pack(config: &MountConfig) -> Self {
        let bytes = |path: &PathBuf| path.clone().into_os_string().into_vec();
        Self {
            mountpoint: bytes(&config.mountpoint),
            server: config.server.clone(),
            folder: config.folder.clone(),
            token: config.token.expose().into(),
            cache_dir: bytes(&config.cache_dir),
            cache_size: config.cache_size,
            read_only: config.read_only,
            allow_other: config.allow_other,
            owners: config.owners,
            passthrough: config.passthrough,
            durability: config.durability,
            log_file: config.log_file.as_ref().map(bytes),
            insecure_http: config.insecure_http,
            device_name: config.device_name.clone(),
            choices: config.choices.clone(),
            watch: config.watch,
        }
    }

    fn unpack(self) -> Result<MountConfig, StartError> {
        let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
        Ok(MountConfig {
            mountpoint: path(self.mountpoint),
            server: self.server,
            folder: self.folder,
            token: Secret::parse(&self.token, "the handover")?,
            cache_dir: path(self.cache_dir),
            cache_size: self.cache_size,
            read_only: self.read_only,
            allow_other: self.allow_other,
            owners: self.owners,
            passthrough: self.passthrough,
            durability: self.durability,
            foreground: false,
            log_file: self.log_file.map(path),
            insecure_http: self.insecure_http,
            device_name: self.device_name,
            choices: self.choices,
            watch: self.watch,
        })
    }
}

/// Starts the program again with the same `arguments` (without its own name) in the background and waits until the mount
/// is live. `on_wait` is called with the reason if that takes longer.
pub fn start(config: &MountConfig, arguments: &[OsString], on_wait: impl FnMut(&str)) -> Result<(), StartError> {
    let log_file = config.log_file.clone().unwrap_or_else(|| "/dev/null".into());
    let log = logging::open(&log_file).map_err(StartError::io("open the log file", &log_file))?;
    let program = std::env::current_exe().map_err(StartError::io("find", "/proc/self/exe"))?;
    let mut command = Command::new(&program);
    // A command comes first.
    let words = usize::from(arguments.first().is_some_and(|word| word == "watch"));
    command.args(&arguments[..words]).arg(CHILD_FLAG).args(&arguments[words..]).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
    let mut child = command.spawn().map_err(StartError::io("start", &program))?;
    let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        unreachable!("both were asked for as pipes");
    };
    let Err(failure) = hand_over(config, stdin).and_then(|()| listen(stdout, SILENCE_MAX, on_wait)) else {
        return Ok(());
    };
    let ask = matches!(failure, Failure::Silent | Failure::Handover(_));
    let how = end(&mut child, ask).map_or_else(|error| error.to_string(), describe);
    // A process that died between mounting and speaking leaves a dead mount; the first error is the one to tell.
    if let Err(error) = mountpoint::clear_if_dead(&config.mountpoint) {
        tracing::warn!(%error, "after a failed start");
    }
    Err(match failure {
        Failure::Told { code, sentence } => StartError::Background { sentence, code },
        Failure::Silent => StartError::BackgroundSilent { seconds: SILENCE_MAX.as_secs(), log_file },
        Failure::Closed => StartError::BackgroundDied { how, log_file },
        Failure::Handover(error) => StartError::io("hand the configuration to", &program)(error),
    })
}

/// Why the new process does not hold a live mount.
#[derive(Debug)]
enum Failure {
    /// It said so.
    Told { code: u8, sentence: String },
    /// It said nothing for too long.
    Silent,
    /// It ended without a word.
    Closed,
    /// It could not be given its configuration.
    Handover(io::Error),
}

fn hand_over(config: &MountConfig, mut stdin: impl Write) -> Result<(), Failure> {
    let json = serde_json::to_vec(&Handover::pack(config)).map_err(io::Error::from);
    match json.and_then(|json| stdin.write_all(&json)) {
        Ok(()) => Ok(()),
        // It has ended before it had read everything; it has a reason, which `listen` hears.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::Handover(error)),
    }
}

/// Reads what the new process says, in a thread of its own so that silence has an end.
fn listen(
    pipe: impl Read + Send + 'static,
    silence_max: Duration,
    mut on_wait: impl FnMut(&str),
) -> Result<(), Failure> {
    let (said, hear) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        while let Some(line) = read_line(&mut pipe) {
            if said.send(line).is_err() {
                return;
            }
        }
    });
    loop {
        let line = match hear.recv_timeout(silence_max) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Timeout) => return Err(Failure::Silent),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err(Failure::Closed),
        };
        match line.split_once(' ').unwrap_or((&line, "")) {
            ("live", "") => return Ok(()),
            ("wait", why) => on_wait(why),
            ("error", rest) => {
                let (code, sentence) = rest.split_once(' ').unwrap_or(("1", rest));
                return Err(Failure::Told { code: code.parse().unwrap_or(1), sentence: sentence.into() });
            }
            _ => return Err(Failure::Closed),
        }
    }
}

fn read_line(pipe: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    let read = pipe.take(LINE_LEN_MAX).read_line(&mut line);
    // A broken pipe and one that was closed mean the same here: the process says no more.
    matches!(read, Ok(1..)).then(|| line.trim_end_matches('\n').to_string())
}

/// Sees to it that the process ends: by itself or on request, at last by force.
fn end(child: &mut Child, ask: bool) -> io::Result<ExitStatus> {
    if ask {
        // ESRCH cannot be: it is our child and not waited for. Should it fail anyway, the kill below does it.
        let _ = rustix::process::kill_process(Pid::from_child(child), Signal::TERM);
    }
    let begin = Instant::now();
    while begin.elapsed() < END_MAX {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill()?;
    child.wait()
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "unknown".into(),
    }
}

/// The other side of [`start`]: leaves the terminal, takes the configuration over and gets the word to give. Call this
/// before any thread exists. An error has been told to the one who waits.
pub fn adopt() -> Result<(MountConfig, Pipe), StartError> {
    take_over().inspect_err(|error| {
        // If nobody listens, the exit code is all that is left.
        let _ = writeln!(io::stdout(), "error {} {}", error.exit_code(), one_line(&error.to_string()));
    })
}

fn take_over() -> Result<(MountConfig, Pipe), StartError> {
    let io = StartError::io;
    rustix::process::setsid().map_err(io::Error::from).map_err(io("leave", "the terminal"))?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(HANDOVER_LEN_MAX).read_to_end(&mut bytes).map_err(io("read", "the handover"))?;
    let handover: Handover =
        serde_json::from_slice(&bytes).map_err(io::Error::from).map_err(io("read", "the handover"))?;
    let pipe = speak_elsewhere().map_err(io("open", "/dev/null"))?;
    Ok((handover.unpack()?, pipe))
}

/// The way to the one who waits.
#[derive(Debug)]
pub struct Pipe(File);

impl Pipe {
    /// The word to give over it.
    pub fn ready(self, on_live: OnLive) -> Ready {
        Ready::over(self.0, on_live)
    }
}

/// Moves stdout out of the way, so that neither a stray print nor a child of ours can speak on the pipe or hold it open.
fn speak_elsewhere() -> io::Result<Pipe> {
    let pipe = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(Pipe(pipe.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Mode;
    use std::ffi::OsStr;
    use std::os::fd::OwnedFd;
    use std::os::unix::ffi::OsStrExt;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pipe() -> (impl Read + Send + 'static, Pipe) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, Pipe(File::from(OwnedFd::from(writer))))
    }

    fn hear(bytes: &'static [u8]) -> (Result<(), Failure>, Vec<String>) {
        let mut waits = Vec::new();
        let heard = listen(bytes, Duration::from_secs(5), |why| waits.push(why.to_string()));
        (heard, waits)
    }

    #[test]
    fn what_the_new_process_says_is_understood() {
        hear(b"live\n").0.unwrap();
        let (heard, waits) = hear(b"wait 10 of 20 names\nwait more\nlive\n");
        heard.unwrap();
        assert_eq!(waits, ["10 of 20 names", "more"]);
        let Err(Failure::Told { code, sentence }) = hear(b"error 2 the folder is missing\n").0 else { panic!() };
        assert_eq!((code, sentence.as_str()), (2, "the folder is missing"));
        for bad in [&b""[..], b"liv", b"\xff\xfe\n", b"hello world\n", b"wait x\n"] {
            assert!(matches!(hear(bad).0, Err(Failure::Closed)), "{bad:?}");
        }
    }

    #[test]
    fn silence_has_an_end() {
        let (reader, _writer) = pipe();
        assert!(matches!(listen(reader, Duration::from_millis(50), |_| ()), Err(Failure::Silent)));
    }

    #[test]
    fn live_is_said_once_and_then_failures_are_for_the_log() {
        let (reader, writer) = pipe();
        let count = Arc::new(AtomicUsize::new(0));
        let counter = count.clone();
        let ready = writer.ready(Box::new(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        }));
        ready.wait("two\nlines");
        let clone = ready.clone();
        clone.live().unwrap();
        ready.live().unwrap();
        assert!(!ready.failed(1, "late"));
        let mut waits = Vec::new();
        listen(reader, Duration::from_secs(5), |why| waits.push(why.to_string())).unwrap();
        assert_eq!(waits, ["two lines"]);
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_failure_is_told_with_its_code_and_nothing_is_remembered() {
        let (reader, writer) = pipe();
        let ready = writer.ready(Box::new(|| panic!("it never was live")));
        assert!(ready.failed(2, "no such\nfolder"));
        let told = listen(reader, Duration::from_secs(5), |_| ());
        let Err(Failure::Told { code, sentence }) = told else { panic!() };
        assert_eq!((code, sentence.as_str()), (2, "no such folder"));
    }

    #[test]
    fn a_mount_whose_starter_has_gone_is_told_so() {
        let (reader, writer) = pipe();
        drop(reader);
        let ready = writer.ready(Box::new(|| panic!("nobody waits for it")));
        ready.wait("x");
        assert!(ready.live().is_err());
    }

    #[test]
    fn the_foreground_tells_nobody() {
        assert!(!Ready::foreground(Box::new(|| ())).failed(1, "x"));
        Ready::foreground(Box::new(|| ())).live().unwrap();
    }

    #[test]
    fn the_configuration_arrives_whole_even_with_odd_paths() {
        let config = MountConfig {
            mountpoint: OsStr::from_bytes(b"/mnt/\xff\n").into(),
            server: "http://h".into(),
            folder: "f".into(),
            token: Secret::parse("t", "test").unwrap(),
            cache_dir: "/c".into(),
            cache_size: 7,
            read_only: true,
            allow_other: true,
            owners: Owners::Synced,
            passthrough: true,
            durability: Durability::Server,
            foreground: false,
            log_file: Some("/l".into()),
            insecure_http: true,
            device_name: "d".into(),
            choices: MountChoices { mode: Some(Mode::Mount), read_only: Some(true), ..MountChoices::default() },
            watch: WatchChoices { scan_interval: Some(Duration::from_millis(1500)), ..WatchChoices::default() },
        };
        let json = serde_json::to_vec(&Handover::pack(&config)).unwrap();
        assert_eq!(serde_json::from_slice::<Handover>(&json).unwrap().unpack().unwrap(), config);
    }

    #[test]
    fn a_process_that_ends_is_described() {
        let mut child = Command::new("sh").args(["-c", "exit 3"]).spawn().unwrap();
        assert_eq!(describe(end(&mut child, false).unwrap()), "exit code 3");
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        assert_eq!(describe(end(&mut child, true).unwrap()), "signal 15");
    }
}
