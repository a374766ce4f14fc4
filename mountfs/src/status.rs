//! What a mount says about itself: the one shape that `syncmount status --json` prints and the control socket carries,
//! and how a person reads it.

use crate::config::MountConfig;
use indicatif::{HumanBytes, HumanCount, HumanDuration};
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};
use syncmount_common::Timestamp;
use syncmount_common::text::shown;

/// The most problems that a status lists; the others are counted.
pub const PROBLEMS_MAX: usize = 1000;

/// The state of one mount at one moment. Points in time are nanoseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Where it is mounted, or the folder that is watched.
    pub mountpoint: String,
    /// How the folder is there.
    #[serde(default)]
    pub mode: Mode,
    /// The server's URL.
    pub server: String,
    /// The folder on the server.
    pub folder: String,
    /// The process behind the mount.
    pub pid: u32,
    /// Whether the server answered last.
    pub connected: bool,
    /// Why the server cannot be used at present; none while it can, and before it was asked first.
    #[serde(default)]
    pub trouble: Option<String>,
    /// What the mount is about.
    pub phase: Phase,
    /// Files whose content the server does not have yet. What failed for good is in `problems` instead.
    pub pending_files: u64,
    /// The bytes of these contents that are still to be sent.
    pub pending_bytes: u64,
    /// Nodes with another change to send: new, renamed, removed, other attributes. Without what the server holds back.
    pub pending_nodes: u64,
    /// Changes from elsewhere that a watched folder does not show yet. What failed is in `problems` instead.
    #[serde(default)]
    pub incoming: u64,
    /// A watched folder is being looked at: what was done there a moment ago may not be counted yet.
    #[serde(default)]
    pub looking: bool,
    /// A watched folder is not what it was: nothing is done until it is, and nothing is waited for. `problems` says why.
    #[serde(default)]
    pub paused: bool,
    /// Files, directories and symlinks whose names stay on this machine. They are never pending.
    #[serde(default)]
    pub only_here: u64,
    /// Bytes that all files of this device's cache folder take from the disk: contents, and what is not sent yet, what describes
    /// it, and `lost+found`.
    pub cache_used: u64,
    /// The most that contents, their descriptions and the records may take.
    pub cache_limit: u64,
    /// What is pinned.
    #[serde(default)]
    pub pinned: PinnedSum,
    /// The last thing that went wrong, whether or not it has been overcome.
    pub last_error: Option<LastError>,
    /// Which parts of the wall around the process the system holds, as words; empty: none was asked for.
    #[serde(default)]
    pub confined: String,
    /// What needs a person's eye, at most [`PROBLEMS_MAX`].
    pub problems: Vec<Problem>,
    /// How many more problems there are than listed.
    pub problems_more: u64,
    /// How often a file was opened that the kernel then read by itself, since `since`.
    #[serde(default)]
    pub passed_through: u64,
    /// Conflict copies of what git makes again that have become versions of their files since `since`.
    #[serde(default)]
    pub copies_removed: u64,
    /// Requests sent to the server since `since`.
    #[serde(default)]
    pub requests: u64,
    /// Bytes sent to the server since `since`.
    pub bytes_sent: u64,
    /// Bytes received from the server since `since`.
    pub bytes_received: u64,
    /// When the process started.
    pub since: Timestamp,
    /// The file that its log is written to; none if that goes to stderr.
    #[serde(default)]
    pub log: Option<String>,
}

/// How much is pinned, each content once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedSum {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that are not here yet.
    pub missing_bytes: u64,
}

/// One pin, as `syncmount pin --list` shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    /// The file or directory, relative to the mount point; empty for the whole folder.
    pub path: String,
    /// Files in it.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Files that are not here yet.
    pub missing_files: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Files for which `--cache-size` leaves no room.
    #[serde(default)]
    pub left_out: u64,
    /// Whether what is in it has been counted; else the numbers are 0. Absent from a process of before.
    #[serde(default)]
    pub counted: Option<bool>,
}

impl Pin {
    /// Whether its numbers are known.
    pub fn is_counted(&self) -> bool {
        self.counted.unwrap_or(self.files > 0)
    }

    /// The pin as a person reads it.
    pub fn describe(&self) -> String {
        let path = if self.path.is_empty() { "." } else { &self.path };
        if self.counted == Some(false) {
            return format!("{}: not counted yet", shown(path));
        }
        let what = format!("{}, {}", counted(self.files, "file", "files"), HumanBytes(self.bytes));
        match self.missing_files {
            0 => format!("{}: {what}", shown(path)),
            _ => format!("{}: {what}, {} still to be fetched", shown(path), HumanBytes(self.missing_bytes)),
        }
    }
}

/// How a folder is on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Mounted.
    #[default]
    Mount,
    /// A plain folder that is kept in step.
    Watch,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mount => "mounted",
            Self::Watch => "watched",
        })
    }
}

/// What a mount is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// It comes up; nothing is mounted yet.
    Starting,
    /// It is mounted.
    Live,
    /// Somebody waits for everything to be sent, or it is unmounted and sends the rest.
    Draining,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastError {
    /// When.
    pub at: Timestamp,
    /// One sentence.
    pub message: String,
}

/// One file that needs a person's eye.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind of problem.
    pub kind: ProblemKind,
    /// The file, relative to the mount point; empty if it is about more than one.
    pub path: String,
    /// One sentence: why.
    pub reason: String,
}

/// What can be wrong with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// Its change could not be sent and is not tried again by itself. It is kept on this machine.
    Unsent,
    /// The server holds removals back until somebody allows them.
    Held,
    /// It is one side of a conflict; both are kept.
    Conflict,
    /// Found after an unclean stop and set aside, because it may be incomplete.
    SetAside,
    /// A watched folder cannot show it as it is, or it cannot be read there. It is tried again.
    Unapplied,
    /// Something to know: what happened since the start and concerns no single file, or a rule that counts for nothing.
    Note,
}

impl Status {
    /// That of a mount which begins now: nothing pending, nothing known of the server.
    pub fn starting(config: &MountConfig, since: Timestamp) -> Self {
        Self {
            mountpoint: config.mountpoint.to_string_lossy().into_owned(),
            mode: Mode::Mount,
            server: config.server.clone(),
            folder: config.folder.clone(),
            pid: std::process::id(),
            connected: false,
            trouble: None,
            phase: Phase::Starting,
            pending_files: 0,
            pending_bytes: 0,
            pending_nodes: 0,
            incoming: 0,
            looking: false,
            paused: false,
            only_here: 0,
            cache_used: 0,
            cache_limit: config.cache_size,
            pinned: PinnedSum::default(),
            last_error: None,
            confined: String::new(),
            problems: Vec::new(),
            problems_more: 0,
            passed_through: 0,
            copies_removed: 0,
            requests: 0,
            bytes_sent: 0,
            bytes_received: 0,
            since,
            log: config.log_file.as_ref().map(|path| path.to_string_lossy().into_owned()),
        }
    }

    /// Whether the server has everything that can be sent now, and a watched folder shows what can be shown.
    pub fn is_drained(&self) -> bool {
        let is_sent = self.pending_files == 0 && self.pending_bytes == 0 && self.pending_nodes == 0;
        self.phase != Phase::Starting && (self.paused || is_sent && self.incoming == 0 && !self.looking)
    }

    /// The problems that keep a change from the server.
    pub fn unsent(&self) -> impl Iterator<Item = &Problem> {
        self.problems.iter().filter(|problem| matches!(problem.kind, ProblemKind::Unsent | ProblemKind::Held))
    }

    /// What is pending, in words: `3 files, 1.2 MiB`.
    pub fn pending(&self) -> String {
        let files = counted(self.pending_files, "file", "files");
        let nodes = counted(self.pending_nodes, "other change", "other changes");
        let to_send = match (self.pending_files, self.pending_bytes, self.pending_nodes) {
            (0, 0, 0) => None,
            (0, 0, _) => Some(nodes),
            (_, bytes, 0) => Some(format!("{files}, {}", HumanBytes(bytes))),
            (_, bytes, _) => Some(format!("{files}, {}, and {nodes}", HumanBytes(bytes))),
        };
        let incoming = counted(self.incoming, "change from elsewhere", "changes from elsewhere");
        let to_show = (self.incoming > 0).then(|| format!("{incoming} that the folder does not show yet"));
        let unseen = self.looking.then(|| "what was done in the folder a moment ago and has not been seen yet".into());
        let parts: Vec<String> = [to_send, to_show, unseen].into_iter().flatten().collect();
        if parts.is_empty() { "nothing".into() } else { parts.join("; ") }
    }

    /// The status as a person reads it. `now` tells how long ago things were.
    pub fn describe(&self, now: Timestamp) -> String {
        let phase = match (self.phase, self.mode) {
            (Phase::Starting, _) => "starting",
            (Phase::Live, Mode::Mount) => "live",
            (Phase::Live, Mode::Watch) => "live, watched",
            (Phase::Draining, _) => "sending what is pending",
        };
        let connected = if self.connected { "connected" } else { "not connected: changes wait on this machine" };
        let mut out = shown(&self.mountpoint);
        let mut line = |name: &str, text: &str| {
            // Writing into a String cannot fail.
            let _ = write!(out, "\n  {name:<11}{text}");
        };
        line("server", &shown(&format!("{}, folder {}", self.server, self.folder)));
        line("state", &format!("{phase}, {connected}"));
        if let Some(trouble) = &self.trouble {
            line("because", &shown(trouble));
        }
        line("pending", &self.pending());
        if self.only_here > 0 {
            line(
                "only here",
                &format!("{}, by .syncignore and its defaults", counted(self.only_here, "name", "names")),
            );
        }
        line("cache", &format!("{} of {}", HumanBytes(self.cache_used), HumanBytes(self.cache_limit)));
        if self.pinned.files > 0 {
            let files = counted(self.pinned.files, "file", "files");
            let missing = match self.pinned.missing_bytes {
                0 => String::new(),
                bytes => format!(", {} still to be fetched", HumanBytes(bytes)),
            };
            line("pinned", &format!("{files}, {}{missing}", HumanBytes(self.pinned.bytes)));
        }
        let sent = format!("{} sent, {} received", HumanBytes(self.bytes_sent), HumanBytes(self.bytes_received));
        line("moved", &format!("{sent} in {}", age(self.since, now)));
        if self.copies_removed > 0 {
            let copies = counted(self.copies_removed, "conflict copy", "conflict copies");
            line("versions", &format!("{copies} became versions of their files"));
        }
        if !self.confined.is_empty() {
            line("confined", &self.confined);
        }
        if let Some(log) = &self.log {
            line("log", &shown(log));
        }
        if let Some(error) = &self.last_error {
            line("last error", &format!("{} ago: {}", age(error.at, now), shown(&error.message)));
        }
        for problem in &self.problems {
            line(problem.kind.word(), &shown(&problem.sentence()));
        }
        if self.problems_more > 0 {
            line("", &format!("and {} more", HumanCount(self.problems_more)));
        }
        out
    }
}

impl Problem {
    fn sentence(&self) -> String {
        if self.path.is_empty() { self.reason.clone() } else { format!("{}: {}", self.path, self.reason) }
    }
}

impl ProblemKind {
    fn word(self) -> &'static str {
        match self {
            Self::Unsent => "not sent",
            Self::Held => "held back",
            Self::Conflict => "conflict",
            Self::SetAside => "set aside",
            Self::Unapplied => "waits",
            Self::Note => "note",
        }
    }
}

/// The time now, as it travels.
pub fn now() -> Timestamp {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_parts(since_1970.as_secs() as i64, since_1970.subsec_nanos())
}

fn counted(number: u64, one: &str, several: &str) -> String {
    format!("{} {}", HumanCount(number), if number == 1 { one } else { several })
}

fn age(then: Timestamp, now: Timestamp) -> String {
    let nanos = u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0);
    HumanDuration(Duration::from_secs(nanos / 1_000_000_000)).to_string()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> Status {
        Status {
            mountpoint: "/home/u/Sync".into(),
            mode: Mode::Mount,
            server: "http://h".into(),
            folder: "default".into(),
            pid: 7,
            connected: true,
            trouble: None,
            phase: Phase::Live,
            pending_files: 0,
            pending_bytes: 0,
            pending_nodes: 0,
            incoming: 0,
            looking: false,
            paused: false,
            only_here: 0,
            cache_used: 1 << 20,
            cache_limit: 10 << 30,
            pinned: PinnedSum { files: 2, bytes: 4096, missing_bytes: 0 },
            confined: String::new(),
            last_error: None,
            problems: Vec::new(),
            problems_more: 0,
            passed_through: 0,
            copies_removed: 0,
            requests: 3,
            bytes_sent: 0,
            bytes_received: 5 << 20,
            since: Timestamp::from_parts(1000, 0),
            log: Some("/state/log".into()),
        }
    }

    #[test]
    fn the_json_has_the_documented_names() {
        let mut status = sample();
        status.last_error = Some(LastError { at: Timestamp(5), message: "x".into() });
        status.problems = vec![Problem { kind: ProblemKind::SetAside, path: "a".into(), reason: "because".into() }];
        let json = serde_json::to_value(&status).unwrap();
        let expected = serde_json::json!({
            "mountpoint": "/home/u/Sync", "mode": "mount", "server": "http://h", "folder": "default", "pid": 7, "connected": true, "trouble": null,
            "phase": "live", "pending_files": 0, "pending_bytes": 0, "pending_nodes": 0, "incoming": 0,
            "looking": false, "paused": false, "only_here": 0, "cache_used": 1048576, "cache_limit": 10737418240u64,
            "pinned": {"files": 2, "bytes": 4096, "missing_bytes": 0}, "last_error": {"at": 5, "message": "x"},
            "problems": [{"kind": "set_aside", "path": "a", "reason": "because"}], "problems_more": 0,
            "passed_through": 0, "copies_removed": 0, "requests": 3, "bytes_sent": 0, "bytes_received": 5242880, "since": 1000000000000u64,
            "confined": "", "log": "/state/log",
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);
    }

    #[test]
    fn what_is_pending_in_words() {
        let pending = |files, bytes, nodes| {
            Status { pending_files: files, pending_bytes: bytes, pending_nodes: nodes, ..sample() }.pending()
        };
        assert_eq!(pending(0, 0, 0), "nothing");
        assert_eq!(pending(1, 1024, 0), "1 file, 1.00 KiB");
        assert_eq!(pending(2000, 0, 1), "2,000 files, 0 B, and 1 other change");
        assert_eq!(pending(0, 0, 3), "3 other changes");
        let watched = Status { incoming: 1, pending_nodes: 2, looking: true, ..sample() }.pending();
        assert_eq!(
            watched,
            "2 other changes; 1 change from elsewhere that the folder does not show yet; what was done in the folder a \
             moment ago and has not been seen yet"
        );
    }

    #[test]
    fn a_person_reads_it() {
        let mut status = sample();
        status.last_error = Some(LastError { at: Timestamp::from_parts(1000, 0), message: "no\x1bway".into() });
        status.problems =
            vec![Problem { kind: ProblemKind::Unsent, path: "a/b".into(), reason: "the server is full".into() }];
        status.problems.push(Problem { kind: ProblemKind::Held, path: String::new(), reason: "7 removals".into() });
        status.problems_more = 4;
        let expected = "\
/home/u/Sync
  server     http://h, folder default
  state      live, connected
  pending    nothing
  cache      1.00 MiB of 10.00 GiB
  pinned     2 files, 4.00 KiB
  moved      0 B sent, 5.00 MiB received in 2 minutes
  log        /state/log
  last error 2 minutes ago: no\\u{1b}way
  not sent   a/b: the server is full
  held back  7 removals
             and 4 more";
        assert_eq!(status.describe(Timestamp::from_parts(1120, 0)), expected);
    }

    #[test]
    fn a_mount_that_starts_has_sent_nothing_yet() {
        assert!(sample().is_drained());
        assert!(!Status { phase: Phase::Starting, ..sample() }.is_drained());
        assert!(!Status { pending_nodes: 1, ..sample() }.is_drained());
        assert!(!Status { incoming: 1, ..sample() }.is_drained() && !Status { looking: true, ..sample() }.is_drained());
    }
}
