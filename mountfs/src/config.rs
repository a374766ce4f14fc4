//! What a mount is to be, decided and checked once: from flags, environment, saved logins and earlier mounts.
//!
//! Owns the user's directories and the memory of what was mounted where. Does not look at the mount point itself (that is
//! [`crate::mountpoint`]) and never talks to the server.

use crate::cli::{Durability, MountArgs, MountChoices, Owners, WatchChoices};
use crate::login::Logins;
use crate::mountpoint;
use crate::remembered;
use crate::remote::{HttpRemote, ServerUrl, SetupError, UrlError};
use crate::system::{self, files, private};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use syncmount_common::{FileHash, Name};

/// The folder that every server has from its first start.
pub const DEFAULT_FOLDER: &str = "default";

/// The variable that brings a token.
pub const TOKEN_VARIABLE: &str = "SYNCMOUNT_TOKEN";

const DEFAULT_CACHE_SIZE: u64 = 10 << 30;
const TOKEN_LEN_MAX: usize = 4096;
const SETTINGS_FILE_LEN_MAX: u64 = 4 << 20;
pub(crate) const DEVICE_NAME_CHARS_MAX: usize = 40;

/// Why a mount does not begin. Each is one sentence that says what happened and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The URL is not one of a server.
    #[error(transparent)]
    ServerUrl(#[from] UrlError),
    /// No server is named and none can be concluded.
    #[error("which server? Nothing was mounted at {mountpoint} before and {logins}; give one with --server URL")]
    NoServer {
        /// The mount point.
        mountpoint: PathBuf,
        /// What the saved logins are.
        logins: String,
    },
    /// The folder's name cannot be one.
    #[error("`{0}` is not the name of a folder: 1 to 255 bytes without `/` and control characters")]
    FolderName(String),
    /// There is no token.
    #[error("there is no token for {server}; run `syncmount login {server}`, or give --token-file or {TOKEN_VARIABLE}")]
    NoToken {
        /// The server.
        server: String,
    },
    /// The token is no token.
    #[error("{origin} does not hold a token: {reason}")]
    BadToken {
        /// Where it was read.
        origin: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A file of settings was changed into something that cannot be read.
    #[error("{path} is damaged ({reason}); correct it or move it away")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What the parser says.
        reason: String,
    },
    /// A file or directory cannot be used.
    #[error("cannot {verb} {path}: {error}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The user has no home directory.
    #[error("this user has no home directory; set HOME, or XDG_CONFIG_HOME, XDG_STATE_HOME and XDG_DATA_HOME")]
    NoHome,
    /// The mount point does not exist.
    #[error("{0} does not exist; make it with `mkdir -p {0}`")]
    MountpointMissing(PathBuf),
    /// The mount point is a file or something else.
    #[error("{0} is not a directory; give an empty directory to mount on")]
    NotADirectory(PathBuf),
    /// The mount point has entries.
    #[error("{0} is not empty and the mount would hide what is in it; move that away or give another directory")]
    NotEmpty(PathBuf),
    /// The user may not mount there.
    #[error("you may not write to {0}, so you may not mount on it; use a directory of your own")]
    NotWritable(PathBuf),
    /// A syncmount mount is there and alive.
    #[error("{0} is mounted already; `syncmount status {0}` shows it, `syncmount umount {0}` ends it")]
    AlreadyMounted(PathBuf),
    /// Another process has the mount point, although nothing is mounted there.
    #[error(
        "another syncmount process has {0}; `syncmount status {0}` shows what it does, `syncmount umount {0}` ends it"
    )]
    StillRunning(PathBuf),
    /// A mount of another filesystem there is dead.
    #[error("a dead {fs_type} mount is at {path}; clear it with `fusermount3 -u -z {path}`")]
    DeadForeignMount {
        /// The mount point.
        path: PathBuf,
        /// What was mounted.
        fs_type: String,
    },
    /// The mount there answers nobody.
    #[error("the mount at {0} does not answer; clear it with `fusermount3 -u -z {0}` and try again")]
    Hung(PathBuf),
    /// A dead mount could not be cleared.
    #[error("a dead mount is at {path} and cannot be cleared: {reason}; try `sudo umount -l {path}`")]
    CannotClear {
        /// The mount point.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The mount point lies in another mount of ours.
    #[error("{path} lies inside the syncmount mount {outer}; mount on a directory outside of it")]
    InsideMount {
        /// The mount point.
        path: PathBuf,
        /// The mount around it.
        outer: PathBuf,
    },
    /// State would be stored in the mount that it belongs to.
    #[error("the {what} {inner} lies inside the mount point {mountpoint}; give one outside of it with {option}")]
    StateInsideMount {
        /// Cache directory, log file, …
        what: &'static str,
        /// Its path.
        inner: PathBuf,
        /// The mount point.
        mountpoint: PathBuf,
        /// What changes it.
        option: &'static str,
    },
    /// The mount point lies in the cache.
    #[error("the mount point {mountpoint} lies inside the cache directory {cache_dir}; give another with --cache-dir")]
    MountInsideCache {
        /// The mount point.
        mountpoint: PathBuf,
        /// The cache directory.
        cache_dir: PathBuf,
    },
    /// There is no FUSE.
    #[error(
        "/dev/fuse is missing; load it with `sudo modprobe fuse`, or start the container with \
         `--device /dev/fuse --cap-add SYS_ADMIN`"
    )]
    NoFuseDevice,
    /// FUSE is forbidden.
    #[error("/dev/fuse cannot be opened ({0}); as root run `chmod 666 /dev/fuse`, or in a container allow the device")]
    FuseDenied(io::Error),
    /// There is no FUSE on this Mac.
    #[error(
        "macFUSE is missing; install it from https://macfuse.github.io, or keep a plain folder in step with `syncmount watch`"
    )]
    NoMacFuse,
    /// This program cannot mount at all.
    #[error("this syncmount cannot mount a folder{why}; keep a plain one in step with `syncmount watch {folder}`")]
    CannotMount {
        /// Beginning with a space: what it lacks.
        why: &'static str,
        /// What was to be mounted on.
        folder: PathBuf,
    },
    /// Nothing would be encrypted.
    #[error(
        "{0} is another machine and http:// encrypts nothing: the token and all files could be read on the way; use https://, \
         or give --insecure-http"
    )]
    InClear(String),
    /// A folder that was mounted cannot be mounted any more.
    #[error("{0}; the folder was mounted here before, and only `--mode watch` makes it a plain one")]
    MountedBefore(Box<StartError>),
    /// An option that a plain folder cannot keep.
    #[error("{0} needs a mount, and this folder is kept in step as a plain one; leave the option out")]
    MountOnly(&'static str),
    /// Only root gives files of a plain folder to other users.
    #[error(
        "--owners=synced is for root in a plain folder: no one else may give files away; leave it out, or give --owners=user"
    )]
    OwnersNeedRoot,
    /// The helper for ordinary users is missing.
    #[error("fusermount3 is missing; install it, on Debian and Ubuntu with `sudo apt-get install fuse3`")]
    NoFusermount,
    /// The machine does not let users open their mounts to others.
    #[error("--allow-other needs the line `user_allow_other` in /etc/fuse.conf; root can add it")]
    OthersNotAllowed,
    /// The path of the control socket does not fit into an address.
    #[error("no directory for the control socket has a path short enough; set XDG_RUNTIME_DIR to a short one")]
    SocketPathTooLong,
    /// The background process ended with an error of its own, which it has told in full.
    #[error("{sentence}")]
    Background {
        /// What it said.
        sentence: String,
        /// The exit code that it asked for.
        code: u8,
    },
    /// The background process ended and said nothing.
    #[error("the background process ended unexpectedly ({how}); see its log {log_file}")]
    BackgroundDied {
        /// Exit code or signal.
        how: String,
        /// Where it wrote.
        log_file: PathBuf,
    },
    /// The background process did not come up in time.
    #[error("the mount did not come up: nothing was heard for {seconds} s; see the log {log_file}")]
    BackgroundSilent {
        /// How long the silence was.
        seconds: u64,
        /// Where it wrote.
        log_file: PathBuf,
    },
}

impl StartError {
    /// What the process exits with: 2 if the command must be written differently, else 1.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::ServerUrl(_)
            | Self::NoServer { .. }
            | Self::FolderName(_)
            | Self::CannotMount { .. }
            | Self::InClear(_)
            | Self::OwnersNeedRoot
            | Self::MountOnly(_) => 2,
            Self::Background { code, .. } => *code,
            Self::MountedBefore(why) => why.exit_code(),
            Self::NoToken { .. }
            | Self::BadToken { .. }
            | Self::Damaged { .. }
            | Self::Io { .. }
            | Self::NoHome
            | Self::MountpointMissing(_)
            | Self::NotADirectory(_)
            | Self::NotEmpty(_)
            | Self::NotWritable(_)
            | Self::AlreadyMounted(_)
            | Self::StillRunning(_)
            | Self::DeadForeignMount { .. }
            | Self::Hung(_)
            | Self::CannotClear { .. }
            | Self::InsideMount { .. }
            | Self::StateInsideMount { .. }
            | Self::MountInsideCache { .. }
            | Self::NoFuseDevice
            | Self::FuseDenied(_)
            | Self::NoMacFuse
            | Self::OthersNotAllowed
            | Self::NoFusermount
            | Self::SocketPathTooLong
            | Self::BackgroundDied { .. }
            | Self::BackgroundSilent { .. } => 1,
        }
    }

    /// For `map_err`: an IO error with what was tried on which path.
    pub(crate) fn io(verb: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| Self::Io { verb, path, error }
    }
}

/// A token. It shows itself to nobody by accident: `Debug` hides it and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a token as it was read: surrounding white space is dropped, the rest must be visible ASCII. `origin` says
    /// in an error where it was read.
    pub fn parse(text: &str, origin: &str) -> Result<Self, StartError> {
        let bad = |reason| Err(StartError::BadToken { origin: origin.into(), reason });
        match text.trim() {
            "" => bad("it is empty"),
            long if long.len() > TOKEN_LEN_MAX => bad("it is longer than 4096 bytes"),
            odd if odd.bytes().any(|byte| !byte.is_ascii_graphic()) => {
                bad("a token is one word of visible ASCII characters")
            }
            token => Ok(Self(token.into())),
        }
    }

    /// Reads the token in a file.
    pub fn read_file(path: &Path) -> Result<Self, StartError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(TOKEN_LEN_MAX as u64 + 16).read_to_string(&mut text))
            .map_err(StartError::io("read the token in", path))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// The token itself, for the `Authorization` header and the file of saved logins.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Where this user's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Saved logins.
    pub config: PathBuf,
    /// What was mounted where, logs.
    pub state: PathBuf,
    /// Default caches. Not the system's cache directory: cleaners empty that, and what is not yet sent lies here too.
    pub data: PathBuf,
    /// For sockets, if the system provides it.
    pub runtime: Option<PathBuf>,
}

impl Dirs {
    /// The directories of the user who runs this, by the XDG rules.
    pub fn of_user() -> Result<Self, StartError> {
        let dirs = directories::ProjectDirs::from("", "", "syncmount").ok_or(StartError::NoHome)?;
        Ok(Self {
            config: dirs.config_dir().into(),
            state: dirs.state_dir().unwrap_or(dirs.data_local_dir()).into(),
            data: dirs.data_local_dir().into(),
            runtime: dirs.runtime_dir().map(Path::to_path_buf),
        })
    }

    /// Directories below one of a test's own.
    #[cfg(test)]
    pub(crate) fn below(root: &Path) -> Self {
        let [config, state, data] = ["config", "state", "data"].map(|name| root.join(name));
        Self { config, state, data, runtime: None }
    }
}

/// What a mount depends on beside its flags.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The user's directories.
    pub dirs: Dirs,
    /// `SYNCMOUNT_TOKEN`, if it is set and not empty.
    pub token: Option<String>,
}

impl Environment {
    /// That of this process.
    pub fn of_process() -> Result<Self, StartError> {
        let token = match std::env::var(TOKEN_VARIABLE) {
            Ok(token) => Some(token).filter(|token| !token.is_empty()),
            Err(std::env::VarError::NotPresent) => None,
            Err(std::env::VarError::NotUnicode(_)) => {
                let reason = "a token is one word of visible ASCII characters";
                return Err(StartError::BadToken { origin: TOKEN_VARIABLE.into(), reason });
            }
        };
        Ok(Self { dirs: Dirs::of_user()?, token })
    }
}

/// One mount, ready to be started. All paths are absolute, so that the working directory no longer matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountConfig {
    /// Where it is mounted; canonical.
    pub mountpoint: PathBuf,
    /// The server's URL without a slash at its end: append `/v1/…`.
    pub server: String,
    /// The name of the folder on the server.
    pub folder: String,
    /// The bearer token.
    pub token: Secret,
    /// Holds the journal, staging files and cached content; never inside the mount.
    pub cache_dir: PathBuf,
    /// The most bytes of content to keep.
    pub cache_size: u64,
    /// Every change is refused.
    pub read_only: bool,
    /// Other users may come in.
    pub allow_other: bool,
    /// To whom files belong.
    pub owners: Owners,
    /// The kernel shows files that are whole in the cache by itself, where it may.
    pub passthrough: bool,
    /// Where a change must be before close and fsync return.
    pub durability: Durability,
    /// The process stays with the terminal.
    pub foreground: bool,
    /// Where the log goes; `None` is stderr. Always set in the background.
    pub log_file: Option<PathBuf>,
    /// The token may go through a proxy that can read it.
    pub insecure_http: bool,
    /// What conflict copies and versions call this machine. Can be part of a file name.
    pub device_name: String,
    /// What was chosen, now or at an earlier start, and whether it is mounted or watched.
    pub choices: MountChoices,
    /// What was chosen for a plain folder.
    pub watch: WatchChoices,
}

impl MountConfig {
    /// Decides everything that `args` leave open and checks everything that needs no look at the mount point's inside.
    pub fn resolve(args: &MountArgs, env: &Environment) -> Result<Self, StartError> {
        let mountpoint = mountpoint::canonical(&args.mountpoint)?;
        let earlier = Mounts::read(&env.dirs)?.at(&mountpoint);
        let logins = Logins::read(&env.dirs)?;
        let server = match (&args.server, &earlier) {
            (Some(given), _) => server_url(given)?,
            (None, Some(earlier)) => earlier.server.clone(),
            (None, None) => only_server(&logins, &mountpoint)?,
        };
        let earlier = earlier.filter(|earlier| earlier.server == server);
        let is_known = earlier.is_some() || logins.servers().any(|known| known == server);
        let folder = match (&args.folder, &earlier) {
            (Some(given), _) => folder_name(given)?,
            (None, Some(earlier)) => earlier.folder.clone(),
            (None, None) => DEFAULT_FOLDER.into(),
        };
        let earlier = earlier.filter(|earlier| earlier.folder == folder);
        let token = find_token(args, env, &logins, &server)?;
        // What was saved or mounted already goes on; its status says how it goes.
        refuse_in_clear(&server, args.insecure_http || is_known)?;
        let cache_dir = match (&args.cache_dir, earlier) {
            (Some(given), _) => mountpoint::absolute(given)?,
            (None, Some(earlier)) => earlier.cache_dir,
            (None, None) => default_cache_dir(&env.dirs, &server, &folder),
        };
        let log_file = match &args.log_file {
            Some(given) => Some(mountpoint::absolute(given)?),
            None if args.foreground => None,
            None => Some(default_log_file(&env.dirs, &mountpoint)),
        };
        let choices = args.choices();
        let cache_size = choices.cache_size.unwrap_or_else(|| default_cache_size(&cache_dir));
        let read_only = choices.read_only.unwrap_or_default();
        let allow_other = choices.allow_other.unwrap_or_default();
        // A mount of root's, as one that lets others in, has files of more than one user.
        let owners = choices.owners.unwrap_or(Owners::of_mount(allow_other || system::is_root()));
        Ok(Self {
            mountpoint,
            server,
            folder,
            token,
            cache_dir,
            cache_size,
            read_only,
            allow_other,
            owners,
            passthrough: choices.passthrough.unwrap_or_default().is_for(read_only),
            durability: choices.durability.unwrap_or_default(),
            foreground: args.foreground,
            log_file,
            insecure_http: args.insecure_http,
            device_name: choices.device_name.clone().unwrap_or_else(|| device_name(&system::host_name())),
            choices,
            watch: args.watch,
        })
    }

    /// The folder of its server, which is at `url`.
    pub(crate) fn remote(&self, url: &ServerUrl) -> Result<HttpRemote, SetupError> {
        HttpRemote::new_through(url, &self.folder, self.token.expose(), self.insecure_http)
    }

    /// Makes the cache directory, for this user alone.
    pub fn create_cache_dir(&self) -> Result<(), StartError> {
        create_private_dir(&self.cache_dir).map_err(StartError::io("make the cache directory", &self.cache_dir))
    }

    /// Notes that this folder is mounted here, so that the next `syncmount FOLDER` needs no options.
    pub fn remember(&self, dirs: &Dirs) -> Result<(), StartError> {
        Mounts::change(dirs, |mounts| mounts.set(self))?;
        remembered::keep(self, dirs)
    }
}

/// Whether the arguments name another folder than the one that was last mounted there.
pub(crate) fn is_other_folder(args: &MountArgs, mountpoint: &Path, dirs: &Dirs) -> Result<bool, StartError> {
    let Some(earlier) = Mounts::read(dirs)?.at(mountpoint) else { return Ok(false) };
    let is_other_server = |given: &String| server_url(given).is_ok_and(|server| server != earlier.server);
    let is_other_name = |given: &String| *given != earlier.folder;
    Ok(args.server.as_ref().is_some_and(is_other_server) || args.folder.as_ref().is_some_and(is_other_name))
}

/// The cache of what was last mounted at `mountpoint`; `None` if nothing was.
pub fn earlier_cache_dir(dirs: &Dirs, mountpoint: &Path) -> Result<Option<PathBuf>, StartError> {
    Ok(Mounts::read(dirs)?.at(mountpoint).map(|earlier| earlier.cache_dir))
}

/// Checks the URL of a server and writes it in one way: no slash at the end, lower-case host, no default port.
pub fn server_url(given: &str) -> Result<String, StartError> {
    Ok(given.parse::<ServerUrl>()?.to_string())
}

fn only_server(logins: &Logins, mountpoint: &Path) -> Result<String, StartError> {
    let servers: Vec<&str> = logins.servers().collect();
    let described = match servers.as_slice() {
        [only] => return Ok((*only).to_string()),
        [] => "no login is saved".to_string(),
        several => format!("there are logins for {}", several.join(", ")),
    };
    Err(StartError::NoServer { mountpoint: mountpoint.into(), logins: described })
}

fn folder_name(given: &str) -> Result<String, StartError> {
    if Name::try_from(given).is_err() || given.chars().any(char::is_control) {
        return Err(StartError::FolderName(given.escape_default().to_string()));
    }
    Ok(given.into())
}

/// Refuses a server to which a token would go in clear over a network, unless that is `allowed`.
pub(crate) fn refuse_in_clear(server: &str, allowed: bool) -> Result<(), StartError> {
    let is_in_clear = server.parse::<ServerUrl>()?.is_in_clear();
    if is_in_clear && !allowed { Err(StartError::InClear(server.into())) } else { Ok(()) }
}

fn find_token(args: &MountArgs, env: &Environment, logins: &Logins, server: &str) -> Result<Secret, StartError> {
    if let Some(path) = &args.token_file {
        return Secret::read_file(path);
    }
    if let Some(token) = &env.token {
        return Secret::parse(token, TOKEN_VARIABLE);
    }
    logins.token(server)?.ok_or_else(|| StartError::NoToken { server: server.into() })
}

/// One cache per server and folder, wherever it is mounted: what is pending there is sent by the next mount of it.
fn default_cache_dir(dirs: &Dirs, server: &str, folder: &str) -> PathBuf {
    let readable: String =
        folder.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).take(32).collect();
    dirs.data.join(format!("{readable}-{}", short_hash(format!("{server}\n{folder}").as_bytes())))
}

fn default_log_file(dirs: &Dirs, mountpoint: &Path) -> PathBuf {
    dirs.state.join("log").join(format!("{}.log", short_hash(mountpoint.as_os_str().as_encoded_bytes())))
}

/// 16 hexadecimal digits that stand for `bytes` in a file name.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    FileHash::of(bytes).to_string()[..16].to_string()
}

fn default_cache_size(cache_dir: &Path) -> u64 {
    let disk = cache_dir.ancestors().find_map(|dir| files::disk_space(dir).ok()).map_or(u64::MAX, |(_, size)| size);
    (disk / 4).clamp(64 << 20, DEFAULT_CACHE_SIZE)
}

/// The host's name without its domain, such that it can stand in a file name.
fn device_name(host: &str) -> String {
    let short = host.split('.').next().unwrap_or_default();
    let name: String = short
        .chars()
        .map(|c| if c.is_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' })
        .take(DEVICE_NAME_CHARS_MAX)
        .collect();
    if name.is_empty() { "device".into() } else { name }
}

/// Makes `dir` and what is missing above it, each for this user alone.
pub(crate) fn create_private_dir(dir: &Path) -> io::Result<()> {
    private::create_dir_all(dir)
}

/// Replaces a small file of settings: after a crash it is the old one or the new one, never a part, and only its owner
/// can read it.
pub(crate) fn write_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    files::remove_if_there(&temporary)?;
    let mut file = private::private(fs::OpenOptions::new().write(true).create_new(true)).open(&temporary)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all()).and_then(|()| files::rename(&temporary, path));
    if let Err(error) = written {
        // The write's error is the one to report; a left-over temporary file is replaced by the next attempt.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    system::durable::sync_dir(dir)
}

/// Holds the lock over the settings in `dir` while it lives, so that two commands do not overwrite each other's change.
pub(crate) fn lock_settings(dir: &Path) -> Result<File, StartError> {
    create_private_dir(dir).map_err(StartError::io("make the directory", dir))?;
    let path = dir.join("lock");
    let lock = private::private(fs::OpenOptions::new().create(true).write(true).truncate(false)).open(&path);
    lock.and_then(|file| file.lock().map(|()| file)).map_err(StartError::io("lock", &path))
}

/// Reads a TOML file of settings; a missing one is the default.
pub(crate) fn read_settings<T: Default + serde::de::DeserializeOwned>(path: &Path) -> Result<T, StartError> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(SETTINGS_FILE_LEN_MAX).read_to_string(&mut text)) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(T::default()),
        Err(error) => return Err(StartError::io("read", path)(error)),
    }
    toml::from_str(&text)
        .map_err(|error| StartError::Damaged { path: path.into(), reason: error.message().replace('\n', " ") })
}

/// Writes what [`read_settings`] reads.
pub(crate) fn write_settings<T: Serialize>(path: &Path, value: &T) -> Result<(), StartError> {
    let text = toml::to_string(value).map_err(|error| StartError::Io {
        verb: "write",
        path: path.into(),
        error: io::Error::other(error),
    })?;
    write_private_file(path, text.as_bytes()).map_err(StartError::io("write", path))
}

/// Which folder was mounted where.
#[derive(Default, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mounts {
    #[serde(default, rename = "mount")]
    mounts: Vec<EarlierMount>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct EarlierMount {
    mountpoint: PathBuf,
    server: String,
    folder: String,
    cache_dir: PathBuf,
}

impl Mounts {
    fn path(dirs: &Dirs) -> PathBuf {
        dirs.state.join("mounts.toml")
    }

    fn read(dirs: &Dirs) -> Result<Self, StartError> {
        read_settings(&Self::path(dirs))
    }

    fn change(dirs: &Dirs, change: impl FnOnce(&mut Self)) -> Result<(), StartError> {
        let _lock = lock_settings(&dirs.state)?;
        let mut mounts = Self::read(dirs)?;
        change(&mut mounts);
        write_settings(&Self::path(dirs), &mounts)
    }

    fn at(&self, mountpoint: &Path) -> Option<EarlierMount> {
        self.mounts.iter().find(|mount| mount.mountpoint == mountpoint).cloned()
    }

    /// Paths that are not UTF-8 cannot be written to the file and are not remembered.
    fn set(&mut self, config: &MountConfig) {
        self.mounts.retain(|mount| mount.mountpoint != config.mountpoint);
        if config.mountpoint.to_str().is_some() && config.cache_dir.to_str().is_some() {
            self.mounts.push(EarlierMount {
                mountpoint: config.mountpoint.clone(),
                server: config.server.clone(),
                folder: config.folder.clone(),
                cache_dir: config.cache_dir.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct World {
        root: tempfile::TempDir,
        env: Environment,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            fs::create_dir(root.path().join("Sync")).unwrap();
            let dirs = Dirs::below(root.path());
            Self { root, env: Environment { dirs, token: None } }
        }

        fn args(&self, server: Option<&str>) -> MountArgs {
            MountArgs { mountpoint: self.path("Sync"), server: server.map(Into::into), ..MountArgs::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            dunce::canonicalize(self.root.path()).unwrap().join(name)
        }

        fn log_in(&self, server: &str, token: &str) {
            Logins::save(&self.env.dirs, server, &Secret::parse(token, "test").unwrap()).unwrap();
        }
    }

    #[test]
    fn urls_are_written_in_one_way() {
        for (given, expected) in [
            ("http://localhost:8080", "http://localhost:8080"),
            ("http://localhost:8080/", "http://localhost:8080"),
            ("HTTPS://Files.Example.org:443/", "https://files.example.org"),
            ("https://example.org/sync//", "https://example.org/sync"),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(server_url(given).unwrap(), expected);
        }
    }

    #[test]
    fn urls_of_the_wrong_form_are_refused_with_what_to_write() {
        for bad in [
            "",
            "localhost:8080",
            "localhost",
            "ftp://x",
            "http://",
            "httpx://host",
            "http://x?y",
            "http://x#y",
            "http://a b",
            "http://x:99999",
            "/etc",
        ] {
            let error = server_url(bad).unwrap_err();
            assert!(matches!(error, StartError::ServerUrl(_)), "{bad}");
            assert_eq!(error.exit_code(), 2);
        }
        let error = server_url("http://user:geheim@host").unwrap_err().to_string();
        assert!(!error.contains("geheim"), "{error}");
    }

    #[test]
    fn tokens_are_one_word_and_never_shown() {
        let token = Secret::parse(" abc\n", "test").unwrap();
        assert_eq!(token.expose(), "abc");
        assert_eq!(format!("{token:?}"), "Secret(…)");
        for bad in ["", " \n", "a b", "ä", &"x".repeat(5000)] {
            assert!(matches!(Secret::parse(bad, "test"), Err(StartError::BadToken { .. })));
        }
    }

    #[test]
    fn the_token_comes_from_the_option_then_the_variable_then_the_login() {
        let mut world = World::new();
        let mut args = world.args(Some("http://h:1/"));
        let resolve = |args: &MountArgs, world: &World| MountConfig::resolve(args, &world.env);
        assert!(matches!(resolve(&args, &world), Err(StartError::NoToken { server }) if server == "http://h:1"));
        world.log_in("http://h:1", "saved");
        assert_eq!(resolve(&args, &world).unwrap().token.expose(), "saved");
        world.env.token = Some("variable".into());
        assert_eq!(resolve(&args, &world).unwrap().token.expose(), "variable");
        args.token_file = Some(world.path("token"));
        assert!(matches!(resolve(&args, &world), Err(StartError::Io { .. })));
        fs::write(world.path("token"), "file\n").unwrap();
        assert_eq!(resolve(&args, &world).unwrap().token.expose(), "file");
    }

    #[test]
    fn http_to_another_machine_is_refused_unless_it_is_asked_for_or_goes_on() {
        let mut world = World::new();
        world.env.token = Some("variable".into());
        let resolve = |args: &MountArgs, world: &World| MountConfig::resolve(args, &world.env);
        for fine in ["https://h", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"] {
            resolve(&world.args(Some(fine)), &world).unwrap();
        }
        let args = world.args(Some("http://h"));
        let refused = resolve(&args, &world).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(matches!(&refused, StartError::InClear(server) if server == "http://h"), "{refused}");
        let asked = MountArgs { insecure_http: true, ..args.clone() };
        let config = resolve(&asked, &world).unwrap();
        assert!(config.insecure_http);
        config.remember(&world.env.dirs).unwrap();
        assert!(!resolve(&args, &world).unwrap().insecure_http, "it goes on, and its proxy is asked for again");
        let other = world.args(Some("http://other"));
        assert!(matches!(resolve(&other, &world), Err(StartError::InClear(_))));
        world.log_in("http://other", "saved-by-an-earlier-version");
        resolve(&other, &world).unwrap();
    }

    #[test]
    fn without_a_server_the_only_login_decides() {
        let world = World::new();
        let error = MountConfig::resolve(&world.args(None), &world.env).unwrap_err();
        assert!(error.to_string().contains("no login is saved"), "{error}");
        world.log_in("http://one", "a");
        let config = MountConfig::resolve(&world.args(None), &world.env).unwrap();
        assert_eq!((config.server.as_str(), config.folder.as_str()), ("http://one", "default"));
        world.log_in("http://two", "b");
        let error = MountConfig::resolve(&world.args(None), &world.env).unwrap_err();
        assert!(error.to_string().contains("http://one, http://two"), "{error}");
    }

    #[test]
    fn what_was_mounted_before_needs_no_options() {
        let world = World::new();
        world.log_in("http://one", "a");
        world.log_in("http://two", "b");
        let mut args = world.args(Some("http://two"));
        args.folder = Some("photos".into());
        args.cache_dir = Some(world.path("cache"));
        let first = MountConfig::resolve(&args, &world.env).unwrap();
        first.remember(&world.env.dirs).unwrap();
        first.remember(&world.env.dirs).unwrap();
        assert_eq!(MountConfig::resolve(&world.args(None), &world.env).unwrap(), first);

        let other_folder = MountArgs { folder: Some("music".into()), ..world.args(None) };
        let config = MountConfig::resolve(&other_folder, &world.env).unwrap();
        assert_eq!((config.server.as_str(), config.folder.as_str()), ("http://two", "music"));
        assert_ne!(config.cache_dir, first.cache_dir);

        let config = MountConfig::resolve(&world.args(Some("http://one")), &world.env).unwrap();
        assert_eq!(config.folder, "default");
        assert_ne!(config.cache_dir, first.cache_dir);
    }

    #[test]
    fn paths_become_absolute_and_the_log_has_a_place() {
        let world = World::new();
        world.log_in("http://one", "a");
        let mut args = world.args(None);
        let config = MountConfig::resolve(&args, &world.env).unwrap();
        assert!(config.log_file.unwrap().starts_with(&world.env.dirs.state));
        assert!(config.cache_dir.starts_with(&world.env.dirs.data));
        args.foreground = true;
        assert_eq!(MountConfig::resolve(&args, &world.env).unwrap().log_file, None);
        args.cache_dir = Some("relative/cache".into());
        assert!(MountConfig::resolve(&args, &world.env).unwrap().cache_dir.is_absolute());
    }

    #[test]
    fn a_missing_mount_point_is_said_first() {
        let world = World::new();
        let args = MountArgs { mountpoint: world.path("nothing"), ..MountArgs::default() };
        let error = MountConfig::resolve(&args, &world.env).unwrap_err();
        assert!(matches!(&error, StartError::MountpointMissing(_)), "{error}");
        assert!(error.to_string().contains("mkdir -p"));
    }

    #[test]
    fn names_of_folders_and_devices() {
        for bad in ["", "..", "a/b", "a\nb", &"x".repeat(256)] {
            assert!(matches!(folder_name(bad), Err(StartError::FolderName(_))));
        }
        assert_eq!(folder_name("Fotos 2026").unwrap(), "Fotos 2026");
        assert_eq!(device_name("laptop.example.org"), "laptop");
        assert_eq!(device_name("a/b\0c"), "a_b_c");
        assert_eq!(device_name(""), "device");
        assert_eq!(device_name(&"x".repeat(100)).len(), 40);
    }

    #[test]
    fn private_files_are_replaced_whole_and_belong_to_their_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        create_private_dir(path.parent().unwrap()).unwrap();
        for text in ["one", "two"] {
            write_private_file(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
            #[cfg(unix)]
            {
                use std::os::unix::fs::PermissionsExt as _;
                assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            }
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn damaged_settings_are_named_and_not_overwritten() {
        let world = World::new();
        world.log_in("http://one", "a");
        let config = MountConfig::resolve(&world.args(None), &world.env).unwrap();
        fs::create_dir_all(&world.env.dirs.state).unwrap();
        fs::write(Mounts::path(&world.env.dirs), "mount = 7").unwrap();
        for result in
            [config.remember(&world.env.dirs), MountConfig::resolve(&world.args(None), &world.env).map(|_| ())]
        {
            assert!(matches!(result, Err(StartError::Damaged { .. })));
        }
        assert_eq!(fs::read_to_string(Mounts::path(&world.env.dirs)).unwrap(), "mount = 7");
    }

    #[test]
    fn the_default_cache_has_a_limit() {
        let size = default_cache_size(Path::new("/nowhere/at/all"));
        assert!((64 << 20..=10 << 30).contains(&size));
    }
}
