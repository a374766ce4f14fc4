//! The command line as it is typed: words and options, nothing checked beyond their form.
//!
//! What they mean together (which server, which token, which cache) is decided once, in [`crate::config`]; nothing else
//! looks at a flag.

#![allow(rustdoc::bare_urls, reason = "what describes an option is what --help prints of it")]

use crate::config::DEVICE_NAME_CHARS_MAX;
use clap::builder::{PathBufValueParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

mod examples;

const EXIT_CODES: &str = "\
Examples:
  syncmount login https://files.example.org
  syncmount ~/Sync --server https://files.example.org
  syncmount ~/Sync                      # as at the last start

Exit codes: 0 done, 1 failed (one sentence on stderr says why and what to do), 2 wrong usage.

A folder that has the name of a command is given with a path: `syncmount ./status`.";

/// A synced folder you can trust: mounts a shared folder, or talks to a mount that is running.
#[derive(Parser, Debug, PartialEq)]
#[command(
    name = "syncmount",
    version,
    after_help = EXIT_CODES,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    override_usage = "syncmount [OPTIONS] <FOLDER> --server <URL>\n       syncmount <COMMAND>"
)]
pub struct Cli {
    /// A command; without one, `FOLDER` is mounted.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to mount. Present if `command` is not.
    #[command(flatten)]
    pub mount: Option<MountArgs>,
}

/// Where a change must be before close and fsync return.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// On this machine.
    #[default]
    Local,
    /// On the server; an error after a while if it cannot be reached.
    Server,
}

/// To whom files belong, and where that is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owners {
    /// To the user who mounts the folder. Groups are kept on this machine.
    #[default]
    User,
    /// To their makers, or to the users they were given to, on this machine.
    Local,
    /// To users and groups whose numbers travel.
    Synced,
}

impl Owners {
    /// How it is where nothing is chosen.
    pub const fn of_mount(is_shared: bool) -> Self {
        if is_shared { Self::Local } else { Self::User }
    }
}

/// Which files the kernel may read by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Passthrough {
    /// Those of a folder that is mounted read-only.
    #[default]
    Auto,
    /// Those of every folder.
    Always,
    /// None.
    Never,
}

impl Passthrough {
    /// Whether that is so for a folder.
    pub const fn is_for(self, read_only: bool) -> bool {
        match self {
            Self::Auto => read_only,
            Self::Always => true,
            Self::Never => false,
        }
    }
}

/// How a folder is to be on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Mounted where there is FUSE, else watched.
    #[default]
    Auto,
    /// Mounted.
    Mount,
    /// A plain folder that is kept in step.
    Watch,
}

/// `syncmount watch FOLDER …`: keeps a plain folder in step.
#[derive(Args, Clone, Debug, PartialEq, Default)]
pub struct WatchArgs {
    /// The folder; what is in it already is shared
    #[arg(value_name = "FOLDER")]
    pub folder_path: PathBuf,
    /// The server, like https://files.example.org [default: that of the last start here, or of the only login]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Which of the server's folders [default: that of the last start here, or `default`]
    #[arg(long, value_name = "NAME")]
    pub folder: Option<String>,
    /// Read the token from this file [default: SYNCMOUNT_TOKEN, else the saved login]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Allow http:// to another machine: the token and all files can be read on the way, by a proxy too
    #[arg(long)]
    pub insecure_http: bool,
    /// Where the state is kept [default: one per server and folder]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// Send and fetch everything once, then end; exit code 1 if something remains
    #[arg(long)]
    pub once: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Read every file at the start, also those that look as ever
    #[arg(long)]
    pub verify: bool,
    /// This is the folder, although its marker is gone or its disk is another: compare all that is in it with what the server
    /// has, and remove nothing
    #[arg(long)]
    pub accept: bool,
    /// What counts for later starts too.
    #[command(flatten)]
    pub choices: WatchChoices,
    /// Apply the numbers of users and groups that travel with files, and send them (`synced`; root only): user 1000 is another
    /// person elsewhere. Else what is made here belongs to you
    #[arg(long, value_enum, value_name = "HOW")]
    pub owners: Option<Owners>,
    /// What conflict copies and versions call this machine [default: its host name]
    #[arg(long, value_name = "NAME", value_parser = parse_device_name)]
    pub device_name: Option<String>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Write the log to this file [default: a file in the state directory; with -f, stderr]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Log more; twice for everything. RUST_LOG has precedence
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Set by the program when it starts itself again for the background.
    #[arg(long, hide = true)]
    pub background_child: bool,
}

impl WatchArgs {
    /// What decides which server, token and state these are: the same as for a mount.
    pub fn as_mount(&self) -> MountArgs {
        MountArgs {
            mountpoint: self.folder_path.clone(),
            server: self.server.clone(),
            folder: self.folder.clone(),
            token_file: self.token_file.clone(),
            insecure_http: self.insecure_http,
            cache_dir: self.cache_dir.clone(),
            mode: Some(Mode::Watch),
            owners: self.owners,
            device_name: self.device_name.clone(),
            watch: self.choices,
            foreground: self.foreground,
            log_file: self.log_file.clone(),
            verbose: self.verbose,
            background_child: self.background_child,
            ..MountArgs::default()
        }
    }
}

/// `syncmount FOLDER …`: mounts a shared folder.
#[derive(Args, Clone, Debug, PartialEq, Default)]
pub struct MountArgs {
    /// Where to mount: an empty directory
    #[arg(value_name = "FOLDER", required = true, value_parser = PathBufValueParser::new().try_map(folder_to_mount))]
    pub mountpoint: PathBuf,
    /// The server, like https://files.example.org [default: that of the last mount here, or of the only login]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
    /// Which of the server's folders [default: that of the last mount here, or `default`]
    #[arg(long, value_name = "NAME")]
    pub folder: Option<String>,
    /// Read the token from this file [default: SYNCMOUNT_TOKEN, else the saved login]
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Allow http:// to another machine: the token and all files can be read on the way, by a proxy too
    #[arg(long)]
    pub insecure_http: bool,
    /// Where cached content and everything not yet sent is kept [default: one per server and folder]
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// How much content is kept on this machine, like 500M, 1.5G or 1T [default: 10G or a quarter of the disk]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub cache_size: Option<u64>,
    /// How the folder is to be here: mounted, or a plain folder that is watched; auto mounts where it can [default: as at the
    /// last start, else auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Refuse every change through this mount
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub read_only: Option<bool>,
    /// Let other users of this machine in, as far as modes allow
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub allow_other: Option<bool>,
    /// To whom files belong: all to you (`user`), to their makers on this machine (`local`), or by number on all devices that
    /// say so (`synced`: user 1000 is another person elsewhere) [default: local for root and with --allow-other, else user]
    #[arg(long, value_enum, value_name = "HOW")]
    pub owners: Option<Owners>,
    /// Where the kernel reads by itself what is here (for root, or with syncmount-helper): auto does so in a folder mounted
    /// read-only [default: auto]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub passthrough: Option<Passthrough>,
    /// When close and fsync return: once this machine has kept the change, or once the server has it [default: local]
    #[arg(long, value_enum, value_name = "WHERE")]
    pub durability: Option<Durability>,
    /// What conflict copies and versions call this machine [default: its host name]
    #[arg(long, value_name = "NAME", value_parser = parse_device_name)]
    pub device_name: Option<String>,
    /// What counts for later starts of a plain folder.
    #[arg(skip)]
    pub watch: WatchChoices,
    /// Stay in the foreground
    #[arg(short, long)]
    pub foreground: bool,
    /// Write the log to this file [default: a file in the state directory; with -f, stderr]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Log more; twice for everything. RUST_LOG has precedence
    #[arg(short, long, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// Set by the program when it starts itself again for the background.
    #[arg(long, hide = true)]
    pub background_child: bool,
}

/// Options of a mount that count for later starts too, until others are given.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MountChoices {
    /// The most bytes of content to keep.
    pub cache_size: Option<u64>,
    /// Mounted, or a plain folder.
    pub mode: Option<Mode>,
    /// Every change is refused.
    pub read_only: Option<bool>,
    /// Other users may come in.
    pub allow_other: Option<bool>,
    /// To whom files belong.
    pub owners: Option<Owners>,
    /// Where the kernel reads by itself.
    pub passthrough: Option<Passthrough>,
    /// Where a change must be before close and fsync return.
    pub durability: Option<Durability>,
    /// What this machine is called.
    pub device_name: Option<String>,
}

impl MountArgs {
    /// What counts for later starts too.
    pub fn choices(&self) -> MountChoices {
        MountChoices {
            cache_size: self.cache_size,
            mode: self.mode,
            read_only: self.read_only,
            allow_other: self.allow_other,
            owners: self.owners,
            passthrough: self.passthrough,
            durability: self.durability,
            device_name: self.device_name.clone(),
        }
    }

    /// The same arguments with other choices.
    pub fn with(self, choices: MountChoices) -> Self {
        let MountChoices { cache_size, mode, read_only, allow_other, owners, passthrough, durability, device_name } =
            choices;
        Self { cache_size, mode, read_only, allow_other, owners, passthrough, durability, device_name, ..self }
    }
}

impl MountChoices {
    /// These, and those of `earlier` that are left open.
    pub(crate) fn or(self, earlier: Self) -> Self {
        Self {
            cache_size: self.cache_size.or(earlier.cache_size),
            mode: self.mode.or(earlier.mode),
            read_only: self.read_only.or(earlier.read_only),
            allow_other: self.allow_other.or(earlier.allow_other),
            owners: self.owners.or(earlier.owners),
            passthrough: self.passthrough.or(earlier.passthrough),
            durability: self.durability.or(earlier.durability),
            device_name: self.device_name.or(earlier.device_name),
        }
    }
}

/// Options of a plain folder that count for later starts too, until others are given.
#[derive(Args, Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WatchChoices {
    /// How often everything is looked at without a hint from the system, like 30s, 10m or 1h [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub scan_interval: Option<Duration>,
    /// Set the set-user-ID and set-group-ID bits here too; without it they are kept and not set
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub apply_setid: Option<bool>,
    /// Do not confine the process to the folder and its own files where the kernel can (Landlock, seccomp)
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_confinement: Option<bool>,
}

impl WatchChoices {
    /// These, and those of `earlier` that are left open.
    pub(crate) fn or(self, earlier: Self) -> Self {
        Self {
            scan_interval: self.scan_interval.or(earlier.scan_interval),
            apply_setid: self.apply_setid.or(earlier.apply_setid),
            no_confinement: self.no_confinement.or(earlier.no_confinement),
        }
    }
}

/// The commands beside mounting.
#[derive(Subcommand, Debug, PartialEq)]
pub enum Command {
    /// Keep a plain folder in step, where there is no FUSE
    #[command(after_help = examples::WATCH)]
    Watch(WatchArgs),
    /// Ask for a server's token, check it and save it
    #[command(after_help = examples::LOGIN)]
    Login(LoginArgs),
    /// Forget a server's token
    #[command(after_help = examples::LOGOUT)]
    Logout(LogoutArgs),
    /// Show what a mount is doing; without FOLDER, all running mounts
    #[command(after_help = examples::STATUS)]
    Status(StatusArgs),
    /// Keep files and directories on this machine, with all that is and will be in them
    #[command(after_help = examples::PIN)]
    Pin(PinArgs),
    /// The end of that: they may make room for others again
    #[command(after_help = examples::UNPIN)]
    Unpin(UnpinArgs),
    /// Say that what lies at a path of a watched folder is right, although a disk is gone from there
    #[command(after_help = examples::ACCEPT)]
    Accept(AcceptArgs),
    /// Send what is pending, then unmount
    #[command(visible_alias = "unmount", after_help = examples::UMOUNT)]
    Umount(UmountArgs),
    /// Return when nothing is pending
    #[command(after_help = examples::WAIT)]
    Wait(WaitArgs),
    /// Have a folder come up with your session
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Look after the content that is kept on this machine
    #[command(subcommand)]
    Cache(CacheCommand),
}

/// `syncmount login URL`.
#[derive(Args, Debug, PartialEq)]
pub struct LoginArgs {
    /// The server, like https://files.example.org
    #[arg(value_name = "URL")]
    pub server: String,
    /// Read the token from this file instead of asking
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Allow http:// to another machine: the token and all files can be read on the way, by a proxy too
    #[arg(long)]
    pub insecure_http: bool,
}

/// `syncmount logout URL`.
#[derive(Args, Debug, PartialEq)]
pub struct LogoutArgs {
    /// The server whose token is forgotten
    #[arg(value_name = "URL")]
    pub server: String,
}

/// `syncmount status [FOLDER]`.
#[derive(Args, Debug, PartialEq)]
pub struct StatusArgs {
    /// A mounted folder
    #[arg(value_name = "FOLDER")]
    pub mountpoint: Option<PathBuf>,
    /// For programs: one JSON object, or without FOLDER an array of them
    #[arg(long)]
    pub json: bool,
}

/// `syncmount pin PATH…`.
#[derive(Args, Debug, PartialEq, Default)]
pub struct PinArgs {
    /// Files and directories in folders that are mounted
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
    /// Show what is pinned in the folders that PATH is in, and how much of it is here
    #[arg(long)]
    pub list: bool,
    /// For programs: one JSON array
    #[arg(long, requires = "list")]
    pub json: bool,
    /// Return when all of it is here
    #[arg(long, conflicts_with = "list")]
    pub wait: bool,
    /// How long to wait, like 30s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, default_value = "unlimited", requires = "wait")]
    pub timeout: Timeout,
}

/// `syncmount accept PATH…`.
#[derive(Args, Debug, PartialEq)]
pub struct AcceptArgs {
    /// A watched folder, or what lies in one. It is compared with what the server has as if it were new; nothing of what is
    /// missing there counts as removed, and what is missing is fetched
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// `syncmount unpin PATH…`.
#[derive(Args, Debug, PartialEq)]
pub struct UnpinArgs {
    /// What was pinned
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// `syncmount umount FOLDER`.
#[derive(Args, Debug, PartialEq)]
pub struct UmountArgs {
    /// A mounted folder
    #[arg(value_name = "FOLDER")]
    pub mountpoint: PathBuf,
    /// How long to wait until everything is sent, like 30s, 5m or 1h; then the mount stays as it is
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, default_value = "unlimited")]
    pub timeout: Timeout,
    /// Unmount even if files are open or the time has run out; what was not sent is kept and sent by the next mount
    #[arg(long)]
    pub force: bool,
}

/// `syncmount wait FOLDER`.
#[derive(Args, Debug, PartialEq)]
pub struct WaitArgs {
    /// A mounted folder
    #[arg(value_name = "FOLDER")]
    pub mountpoint: PathBuf,
    /// How long to wait, like 30s, 5m or 1h
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, default_value = "unlimited")]
    pub timeout: Timeout,
}

/// `syncmount service …`.
#[derive(Subcommand, Debug, PartialEq)]
pub enum ServiceCommand {
    /// Write the service for a folder, or say the command that makes it
    #[command(after_help = examples::INSTALL)]
    Install(ServiceArgs),
    /// Remove the service of a folder, or say the command that does
    #[command(after_help = examples::UNINSTALL)]
    Uninstall(ServiceArgs),
}

/// `syncmount service install FOLDER`.
#[derive(Args, Debug, PartialEq)]
pub struct ServiceArgs {
    /// A folder that is mounted or watched, or was
    #[arg(value_name = "FOLDER")]
    pub folder_path: PathBuf,
    /// How the folder is to be here: mounted, or a plain folder that is watched; auto mounts where it can [default: as at the
    /// last start, else auto]
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<Mode>,
    /// Show what would be written and run, and do nothing
    #[arg(long)]
    pub print: bool,
}

/// `syncmount cache …`.
#[derive(Subcommand, Debug, PartialEq)]
pub enum CacheCommand {
    /// Read everything in a cache and drop what is damaged; it is fetched again when somebody reads it
    #[command(after_help = examples::VERIFY)]
    Verify(VerifyArgs),
}

/// `syncmount cache verify FOLDER`.
#[derive(Args, Debug, PartialEq)]
pub struct VerifyArgs {
    /// A folder that is mounted, or was
    #[arg(value_name = "FOLDER", required_unless_present = "cache_dir", conflicts_with = "cache_dir")]
    pub mountpoint: Option<PathBuf>,
    /// A cache that no mount uses now
    #[arg(long, value_name = "DIR")]
    pub cache_dir: Option<PathBuf>,
    /// For programs: one JSON object
    #[arg(long)]
    pub json: bool,
}

const COMMANDS: [&str; 12] =
    ["watch", "login", "logout", "status", "pin", "unpin", "accept", "umount", "wait", "service", "cache", "help"];

impl Cli {
    /// What was typed, with the program's name before it. A slip in the first word is told before what follows it.
    pub fn of(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let words: Vec<OsString> = words.into_iter().collect();
        // The process in the background has another working directory, and its words have been read once.
        let is_child = words.iter().any(|word| word == "--background-child");
        let goes_on = words.get(2).and_then(|word| word.to_str()).is_some_and(|word| !word.starts_with('-'));
        let slip = words.get(1).and_then(|word| slip(word.to_str()?, goes_on)).filter(|_| !is_child);
        match slip {
            Some(slip) => Err(Self::command().error(ErrorKind::InvalidSubcommand, slip)),
            None => Self::try_parse_from(words),
        }
    }
}

/// What other programs call a command, and what it is here.
const ELSEWHERE: [(&str, &str); 14] = [
    ("mount", "syncmount FOLDER"),
    ("start", "syncmount FOLDER"),
    ("unmount", "syncmount umount"),
    ("stop", "syncmount umount"),
    ("eject", "syncmount umount"),
    ("ls", "syncmount status"),
    ("list", "syncmount status"),
    ("ps", "syncmount status"),
    ("info", "syncmount status"),
    ("sync", "syncmount wait"),
    ("flush", "syncmount wait"),
    ("version", "syncmount --version"),
    ("signin", "syncmount login"),
    ("install", "syncmount service install"),
];

/// After options clap takes a command's word for a folder; who types it means the command.
fn folder_to_mount(path: PathBuf) -> Result<PathBuf, String> {
    match path.to_str() {
        Some(word) if COMMANDS.contains(&word) => {
            Err(format!("`{word}` is a command and comes first; a folder of that name is given as ./{word}"))
        }
        _ => Ok(path),
    }
}

/// What to say of a first word that is nearly a command, or has another behind it as a command has, and nothing that is there.
fn slip(word: &str, goes_on: bool) -> Option<String> {
    let is_command = COMMANDS.contains(&word) || word == "unmount" || word.starts_with('-');
    let is_missing = || std::fs::symlink_metadata(word).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    if is_command || word.contains(std::path::is_separator) || !is_missing() {
        return None;
    }
    let none = format!("there is no directory and no command `{word}`");
    match meant(word) {
        Some(meant) => Some(format!("{none}; did you mean `{meant}`? A folder is given as ./{word}")),
        None => goes_on.then(|| format!("{none}; `syncmount --help` lists the commands")),
    }
}

/// The command that a word without a slash is nearly.
fn meant(word: &str) -> Option<String> {
    let elsewhere = ELSEWHERE.iter().find(|(name, _)| *name == word).map(|(_, here)| (*here).to_owned());
    elsewhere.or_else(|| {
        let far = |name: &&str| strsim::damerau_levenshtein(name, word);
        let near = COMMANDS.into_iter().min_by_key(far).filter(|name| far(name) <= name.len() / 3);
        near.map(|name| format!("syncmount {name}"))
    })
}

/// The shortest and the longest pause between two looks at everything.
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const INTERVAL_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_timeout(text)?.0 {
        Some(time) if (INTERVAL_MIN..=INTERVAL_MAX).contains(&time) => Ok(time),
        _ => Err("write a time from 1s to 168h, like 30s, 10m or 1h".into()),
    }
}

/// How long to wait; `None` means as long as it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Timeout(pub Option<Duration>);

/// The longest timeout: a year. Longer ones are taken for mistakes.
const TIMEOUT_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

fn parse_timeout(text: &str) -> Result<Timeout, String> {
    const FORM: &str = "write a number with ms, s, m, h or d, like 500ms, 30s or 1d";
    if text == "unlimited" {
        return Ok(Timeout(None));
    }
    let (number, unit) = number_and_unit(text).ok_or(FORM)?;
    let unit = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 24.0 * 3600.0,
        _ => return Err(format!("{FORM}, or `unlimited`")),
    };
    let timeout = Duration::try_from_secs_f64(number * unit).ok().filter(|timeout| *timeout <= TIMEOUT_MAX);
    match timeout {
        Some(timeout) => Ok(Timeout(Some(timeout))),
        None => Err("more than a year; for no limit write `unlimited`".into()),
    }
}

/// Digits, with a point between them if need be, and the letters behind.
fn number_and_unit(text: &str) -> Option<(f64, &str)> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit()) && digits.ends_with(|c: char| c.is_ascii_digit());
    let plain = digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    let number: f64 = digits.parse().ok().filter(|_| is_number && plain)?;
    Some((number, &text[digits.len()..]))
}

/// The smallest cache that is of any use.
const CACHE_SIZE_MIN: u64 = 1 << 20;

/// Bytes, with the units that people write: `10G`, `10GiB` and `10GB` are all 10 × 2³⁰.
fn parse_size(text: &str) -> Result<u64, String> {
    const FORM: &str = "write a size like 500M, 1.5G or 1T";
    let (number, unit) = number_and_unit(text).ok_or(FORM)?;
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        "T" | "TB" | "TIB" => 40,
        _ => return Err(FORM.into()),
    };
    let size = number * (1u64 << shift) as f64;
    if size >= i64::MAX as f64 {
        return Err("more than any disk holds".into());
    }
    let size = size as u64;
    if size < CACHE_SIZE_MIN { Err("the smallest cache is 1M".into()) } else { Ok(size) }
}

/// Part of the names of conflict copies.
fn parse_device_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_');
    let count = text.chars().count();
    if (1..=DEVICE_NAME_CHARS_MAX).contains(&count) && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err(format!("write up to {DEVICE_NAME_CHARS_MAX} letters and digits, with - or _ between them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Cli, ErrorKind> {
        Cli::try_parse_from(std::iter::once(&"syncmount").chain(words)).map_err(|error| error.kind())
    }

    fn mount(words: &[&str]) -> MountArgs {
        let cli = parse(words).unwrap();
        assert_eq!(cli.command, None);
        cli.mount.unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        command.build();
        assert!(command.get_subcommands().map(clap::Command::get_name).eq(COMMANDS));
    }

    #[test]
    fn each_help_has_examples_that_can_be_typed() {
        fn look(command: &clap::Command, path: &str) -> usize {
            let inner: Vec<&clap::Command> =
                command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(!lines.is_empty() || !inner.is_empty(), "{path} has no examples");
            for line in &lines {
                assert!(line.starts_with(path) && help.starts_with("Examples:"), "{path}: {line}");
                let words = line.split(" #").next().unwrap().split_whitespace();
                if let Err(error) = Cli::try_parse_from(words) {
                    panic!("{line}: {error}");
                }
            }
            inner.iter().map(|inner| look(inner, &format!("{path} {}", inner.get_name()))).sum::<usize>() + lines.len()
        }
        assert!(look(&Cli::command(), "syncmount") > 20);
    }

    #[test]
    fn a_folder_and_a_server_are_a_mount() {
        let args = mount(&["/mnt/x", "--server", "http://h:1"]);
        assert_eq!(args.mountpoint, PathBuf::from("/mnt/x"));
        assert_eq!(args.server.as_deref(), Some("http://h:1"));
        assert!(!args.foreground && args.folder.is_none() && args.choices() == MountChoices::default());
    }

    #[test]
    fn every_option_of_the_mount() {
        let args = mount(&[
            "--server=http://h:1",
            "--folder=photos",
            "--token-file=/t",
            "--cache-dir=/c",
            "--cache-size=10G",
            "--read-only",
            "--allow-other",
            "--owners=synced",
            "--passthrough=always",
            "--durability=server",
            "--mode=mount",
            "--device-name=pi-2",
            "-f",
            "--log-file=/l",
            "-vv",
            "x",
        ]);
        let expected = MountArgs {
            mountpoint: "x".into(),
            server: Some("http://h:1".into()),
            folder: Some("photos".into()),
            token_file: Some("/t".into()),
            insecure_http: false,
            cache_dir: Some("/c".into()),
            cache_size: Some(10 << 30),
            mode: Some(Mode::Mount),
            read_only: Some(true),
            allow_other: Some(true),
            owners: Some(Owners::Synced),
            passthrough: Some(Passthrough::Always),
            durability: Some(Durability::Server),
            device_name: Some("pi-2".into()),
            watch: WatchChoices::default(),
            foreground: true,
            log_file: Some("/l".into()),
            verbose: 2,
            background_child: false,
        };
        assert_eq!(args, expected);
    }

    #[test]
    fn a_choice_can_be_taken_back() {
        assert_eq!(mount(&["x", "--read-only=false"]).read_only, Some(false));
        assert_eq!(mount(&["--read-only", "x"]).read_only, Some(true), "the folder is no value of it");
        assert_eq!(parse(&["x", "--read-only=maybe"]), Err(ErrorKind::InvalidValue));
        assert_eq!(parse(&["x", "--device-name", "a/b"]), Err(ErrorKind::ValueValidation));
        assert_eq!(parse(&["x", "--device-name", ""]), Err(ErrorKind::ValueValidation));
    }

    #[test]
    fn the_server_may_be_left_out() {
        assert_eq!(mount(&["x"]).server, None);
    }

    #[test]
    fn a_known_word_is_the_command_and_a_path_is_a_folder() {
        assert!(matches!(parse(&["status"]).unwrap().command, Some(Command::Status(_))));
        assert_eq!(mount(&["./status"]).mountpoint, PathBuf::from("./status"));
        let Some(Command::Status(args)) = parse(&["status", "./status", "--json"]).unwrap().command else { panic!() };
        assert_eq!(args, StatusArgs { mountpoint: Some("./status".into()), json: true });
    }

    #[test]
    fn a_word_that_is_nearly_a_command_is_no_folder() {
        for (words, meant) in [
            (&["statsu"][..], "syncmount status"),
            (&["logni", "--server", "http://h"], "syncmount login"),
            (&["ls"], "syncmount status"),
            (&["version"], "syncmount --version"),
            (&["mount", "x"], "syncmount FOLDER"),
            (&["umonut", "x"], "syncmount umount"),
        ] {
            let said = Cli::of(std::iter::once(&"syncmount").chain(words).map(OsString::from)).unwrap_err().to_string();
            assert!(said.contains(&format!("did you mean `{meant}`")), "{words:?}: {said}");
        }
        for folder in ["x", "Sync", "photos", "./statsu", "a/ls", "/ls", "src", "work"] {
            assert_eq!(mount(&[folder]).mountpoint, PathBuf::from(folder));
        }
        assert!(matches!(parse(&["unmount", "x"]).unwrap().command, Some(Command::Umount(_))));
    }

    #[test]
    fn commands_and_mount_options_do_not_mix() {
        assert_eq!(parse(&["--read-only", "status"]), Err(ErrorKind::ValueValidation));
        assert_eq!(parse(&["x", "status"]), Err(ErrorKind::ArgumentConflict));
        assert_eq!(parse(&["status", "--read-only"]), Err(ErrorKind::UnknownArgument));
    }

    #[test]
    fn nothing_at_all_shows_the_help_and_options_alone_are_refused() {
        assert_eq!(parse(&[]), Err(ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand));
        assert_eq!(parse(&["--server", "http://h"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse(&["umount"]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse(&["login"]), Err(ErrorKind::MissingRequiredArgument));
    }

    #[test]
    fn umount_waits_without_limit_unless_told() {
        let Some(Command::Umount(args)) = parse(&["umount", "x"]).unwrap().command else { panic!() };
        assert_eq!(args, UmountArgs { mountpoint: "x".into(), timeout: Timeout(None), force: false });
        let Some(Command::Umount(args)) = parse(&["umount", "x", "--timeout", "2m", "--force"]).unwrap().command else {
            panic!()
        };
        assert_eq!(args.timeout, Timeout(Some(Duration::from_secs(120))));
        assert!(args.force);
    }

    #[test]
    fn a_cache_is_named_in_one_way() {
        let verify = |words: &[&str]| match parse(&[&["cache", "verify"], words].concat())?.command {
            Some(Command::Cache(CacheCommand::Verify(args))) => Ok(args),
            other => panic!("{other:?}"),
        };
        let folder = VerifyArgs { mountpoint: Some("x".into()), cache_dir: None, json: true };
        assert_eq!(verify(&["x", "--json"]), Ok(folder));
        assert_eq!(verify(&["--cache-dir", "/c"]).unwrap().cache_dir, Some("/c".into()));
        assert_eq!(verify(&["x", "--cache-dir", "/c"]), Err(ErrorKind::ArgumentConflict));
        assert_eq!(verify(&[]), Err(ErrorKind::MissingRequiredArgument));
        assert_eq!(parse(&["cache"]), Err(ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand));
    }

    #[test]
    fn timeouts() {
        let seconds = |text| parse_timeout(text).map(|timeout| timeout.0.map(|limit| limit.as_secs_f64()));
        for (text, expected) in
            [("0", 0.0), ("30", 30.0), ("30s", 30.0), ("1h", 3600.0), ("1d", 86400.0), ("500ms", 0.5), ("1.5m", 90.0)]
        {
            assert_eq!(seconds(text), Ok(Some(expected)), "{text}");
        }
        assert_eq!(seconds("unlimited"), Ok(None));
        for bad in ["", "s", "-1", ".5", "5.", "1e3s", "inf", "nan", "1 s", "99999999999h", "1y", "1,5s", "é"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("10G"), Ok(10 << 30));
        assert_eq!(parse_size("10GiB"), Ok(10 << 30));
        assert_eq!(parse_size("500m"), Ok(500 << 20));
        assert_eq!(parse_size("1T"), Ok(1 << 40));
        assert_eq!(parse_size("1048576"), Ok(1 << 20));
        assert_eq!(parse_size("1.5G"), Ok(3 << 29));
        for bad in [
            "",
            "G",
            ".5G",
            "1.G",
            "1e3G",
            "infG",
            "-1G",
            "10 G",
            "10X",
            "1K",
            "0",
            "99999999T",
            "18446744073709551615",
            "é",
        ] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert_eq!(parse(&["x", "--cache-size", "lots"]), Err(ErrorKind::ValueValidation));
    }
}
