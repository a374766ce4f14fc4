//! The commands that talk to a mount which is running: `status`, `umount`, `wait`, `cache verify`.
//!
//! They change nothing themselves; they ask the mount's process and say what it answers. Only a cache that no mount uses
//! is checked right here. Results go to stdout, what is on the way to stderr.

use crate::cli::{AcceptArgs, PinArgs, StatusArgs, UmountArgs, UnpinArgs, VerifyArgs, WaitArgs};
use crate::config::{self, Dirs, StartError};
use crate::control::{self, ControlClient, ControlError, Drained};
use crate::driver::{self, OpenError};
use crate::mountpoint::{self, MountTable};
use crate::progress::{DrainProgress, PinProgress, VerifyProgress};
use crate::status::{self, Mode, Pin, Status};
use crate::store::StateError;
use crate::terminal;
use crate::verify_report::VerifyReport;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// With a time limit, how long `umount` waits for the process to end after the mount has gone.
const END_MIN: Duration = Duration::from_secs(10);

/// How often it is asked how far pins are.
const LOOK_PAUSE: Duration = Duration::from_millis(200);

/// For how long a pin may not be listed that is waited for.
const ABSENT_MAX: Duration = Duration::from_secs(5);

/// How long a list waits for what is not counted.
const COUNT_MAX: Duration = Duration::from_secs(10);

/// Why a command did not do what it says; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The mount point cannot be looked at.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The mount's process cannot be asked, or refused.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Nothing is there.
    #[error("{0} does not exist; `syncmount status` lists the folders of this machine")]
    NoFolder(PathBuf),
    /// There is no mount.
    #[error("{0} is not mounted; mount it with `syncmount {0}`")]
    NotMounted(PathBuf),
    /// The mount is there and its process is not.
    #[error("the process behind {0} has gone; `syncmount {0}` mounts it again, `syncmount umount {0}` clears it")]
    Dead(PathBuf),
    /// The mount is alive and cannot be asked.
    #[error("{0} is mounted by another user or in another container; ask for it there")]
    NotOurs(PathBuf),
    /// Time ran out before a unmount.
    #[error("{mountpoint} is still {mode}, because the time ran out; left: {left}; --force ends it and keeps that")]
    StillMounted {
        /// The mount point.
        mountpoint: PathBuf,
        /// What it is.
        mode: Mode,
        /// What is pending.
        left: String,
    },
    /// Time ran out.
    #[error("the time ran out; left: {left}")]
    StillPending {
        /// What is pending.
        left: String,
    },
    /// The process ended while it was waited for.
    #[error(
        "the process behind {0} has ended meanwhile; what it had not sent is kept, `syncmount {0}` goes on with it"
    )]
    Ended(PathBuf),
    /// Nothing is pending, but some changes were refused.
    #[error("{count} changes could not be sent and are kept on this machine; `syncmount status {mountpoint}` says why")]
    Unsent {
        /// The mount point.
        mountpoint: PathBuf,
        /// How many of those listed.
        count: usize,
    },
    /// The process is busy with its end.
    #[error("{0} is unmounted, but its process is still sending; `syncmount wait {0}` waits for it")]
    StillRunning(PathBuf),
    /// Nothing was ever mounted there.
    #[error("nothing was mounted at {0} before; name its cache with --cache-dir")]
    NeverMounted(PathBuf),
    /// A directory without a cache.
    #[error("there is no cache in {0}")]
    NoCache(PathBuf),
    /// A mount has the cache.
    #[error("the cache in {0} is in use; name the folder instead: `syncmount cache verify FOLDER`")]
    CacheInUse(PathBuf),
    /// The cache cannot be opened or read.
    #[error(transparent)]
    Cache(OpenError),
    /// Bytes had gone bad.
    #[error("{0} damaged; the disk may be failing")]
    Damaged(String),
    /// A path that cannot be found.
    #[error("cannot look at {path}: {error}")]
    NoPath {
        /// As it was given.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// A path outside of all folders.
    #[error("{0} is in no folder that is mounted here")]
    InNoFolder(PathBuf),
    /// The process refuses it.
    #[error("{path}: {error}")]
    Refused {
        /// As it was given.
        path: PathBuf,
        /// Its sentence.
        error: Box<ControlError>,
    },
    /// The server cannot be used at present.
    #[error("{mountpoint} is not connected to {server}: {trouble}; what is done there is kept and sent later")]
    NotConnected {
        /// The mount point.
        mountpoint: String,
        /// The server's URL.
        server: String,
        /// Why.
        trouble: String,
    },
    /// Of several folders, some are of no use at present.
    #[error("{count} of {all} folders do not answer or are not connected; the lines above say why")]
    NotAllWell {
        /// How many.
        count: usize,
        /// Of how many.
        all: usize,
    },
    /// There is no room for what is pinned.
    #[error(
        "{path}: {files} files that are pinned do not fit; mount it with a larger --cache-size, or unpin something"
    )]
    NoRoom {
        /// As it was given.
        path: PathBuf,
        /// How many files.
        files: u64,
    },
    /// A pin ended while it was waited for.
    #[error("{0} is not pinned any more, or goes by another name in `syncmount pin --list`")]
    PinEnded(PathBuf),
    /// stdout failed.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
}

/// `syncmount status [FOLDER] [--json]`.
pub async fn status(args: &StatusArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let Some(given) = &args.mountpoint else { return status_of_all(args.json, dirs).await };
    let mountpoint = folder_meant(given, dirs)?;
    let mut client = connect(dirs, &mountpoint).await?;
    let status = client.status().await?;
    if args.json {
        terminal::say_json(&status)?;
    } else {
        terminal::say(status.describe(status::now()))?;
    }
    check_connected(&status)
}

fn check_connected(status: &Status) -> Result<(), CommandError> {
    if status.connected {
        return Ok(());
    }
    let trouble = status.trouble.clone().unwrap_or_else(|| "it has not answered yet".into());
    Err(CommandError::NotConnected { mountpoint: status.mountpoint.clone(), server: status.server.clone(), trouble })
}

async fn status_of_all(json: bool, dirs: &Dirs) -> Result<(), CommandError> {
    let (alive, errors) = control::running(dirs).await?;
    let silent = errors.len();
    for error in errors {
        terminal::complain(error);
    }
    let dead = dead_mounts(dirs)?;
    for path in &dead {
        terminal::complain(CommandError::Dead(path.clone()));
    }
    if json {
        terminal::say_json(&alive)?;
    } else if alive.is_empty() && dead.is_empty() {
        terminal::say("Nothing is mounted.")?;
    } else {
        for status in &alive {
            terminal::say(status.describe(status::now()))?;
        }
    }
    let ill = alive.iter().filter(|status| !status.connected).count() + silent;
    match (ill, alive.len() + silent, &alive[..]) {
        (0, ..) => Ok(()),
        (1, 1, [status]) => check_connected(status),
        (count, all, _) => Err(CommandError::NotAllWell { count, all }),
    }
}

fn dead_mounts(dirs: &Dirs) -> Result<Vec<PathBuf>, StartError> {
    let mut dead: Vec<PathBuf> = Vec::new();
    for mount in MountTable::read()?.ours() {
        let path = &mount.mountpoint;
        if !dead.contains(path) && !control::is_served(dirs, path)? && mountpoint::is_dead_mount(path) {
            dead.push(path.clone());
        }
    }
    Ok(dead)
}

/// `syncmount umount FOLDER`. Without `--force` it unmounts nothing before everything is sent.
pub async fn umount(args: &UmountArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let mountpoint = folder_meant(&args.mountpoint, dirs)?;
    let mut client = match connect(dirs, &mountpoint).await {
        Err(CommandError::Dead(_)) => return clear(&mountpoint),
        other => other?,
    };
    let limit = args.timeout.0;
    let mut all_sent = false;
    match drain(&mut client, limit).await? {
        Drained::TimedOut(status) if !args.force => {
            return Err(CommandError::StillMounted { mountpoint, mode: status.mode, left: status.pending() });
        }
        Drained::TimedOut(status) => {
            let left = status.pending();
            client.stop(true).await?;
            terminal::complain(format_args!(
                "left: {left}; the next `syncmount {}` goes on with it",
                mountpoint.display()
            ));
        }
        Drained::All(status) => {
            client.stop(args.force).await?;
            match check_unsent(&mountpoint, &status) {
                Ok(()) => all_sent = !status.paused,
                Err(error) => terminal::complain(error),
            }
        }
        Drained::Ended => terminal::complain(CommandError::Ended(mountpoint.clone())),
    }
    let limit = limit.map(|limit| limit.max(END_MIN));
    if !client.gone(limit).await? {
        return Err(CommandError::StillRunning(mountpoint));
    }
    // A process that was killed in between leaves its mount behind.
    mountpoint::clear_if_dead(&mountpoint)?;
    let path = mountpoint.display();
    let how = if all_sent { "the server has everything" } else { "what was not sent is kept for the next start" };
    Ok(terminal::say(format_args!("{path}: ended; {how}"))?)
}

fn clear(mountpoint: &Path) -> Result<(), CommandError> {
    mountpoint::clear_if_dead(mountpoint)?;
    terminal::complain(format_args!("cleared the dead mount at {}; what was pending is kept", mountpoint.display()));
    Ok(())
}

/// `syncmount wait FOLDER`.
pub async fn wait(args: &WaitArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let mountpoint = folder_meant(&args.mountpoint, dirs)?;
    let mut client = connect(dirs, &mountpoint).await?;
    match drain(&mut client, args.timeout.0).await? {
        Drained::All(status) => {
            check_unsent(&mountpoint, &status)?;
            Ok(terminal::say(format_args!("{}: {}", mountpoint.display(), what_is_sent(&status)))?)
        }
        Drained::TimedOut(status) => Err(CommandError::StillPending { left: status.pending() }),
        Drained::Ended => Err(CommandError::Ended(mountpoint)),
    }
}

async fn drain(client: &mut ControlClient, limit: Option<Duration>) -> Result<Drained, ControlError> {
    let mut progress = DrainProgress::new();
    let drained = client.drain(limit, |status| progress.update(status)).await;
    progress.finish();
    drained
}

/// What may be said when nothing is waited for any more. Of a folder that is paused it is not known what is in it.
fn what_is_sent(status: &Status) -> &'static str {
    if status.paused { "paused, and nothing is sent; `syncmount status` says why" } else { "the server has everything" }
}

fn check_unsent(mountpoint: &Path, status: &Status) -> Result<(), CommandError> {
    match status.unsent().count() {
        0 => Ok(()),
        count => Err(CommandError::Unsent { mountpoint: mountpoint.into(), count }),
    }
}

/// `syncmount cache verify FOLDER`.
pub async fn verify_cache(args: &VerifyArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let report = match (&args.mountpoint, &args.cache_dir) {
        (Some(given), _) => verify_cache_of(&mountpoint::find_mounted(given)?, dirs).await?,
        (None, Some(given)) => verify_unused(&mountpoint::absolute(given)?)?,
        (None, None) => unreachable!("clap asks for one of them"),
    };
    if args.json {
        terminal::say_json(&report)?;
    } else {
        terminal::say(report.describe())?;
    }
    match report.damaged {
        0 => Ok(()),
        1 => Err(CommandError::Damaged("1 content in the cache was".into())),
        count => Err(CommandError::Damaged(format!("{count} contents in the cache were"))),
    }
}

async fn verify_cache_of(mountpoint: &Path, dirs: &Dirs) -> Result<VerifyReport, CommandError> {
    if let Some(mut client) = ControlClient::connect(dirs, mountpoint).await? {
        let progress = VerifyProgress::new();
        let report = client.verify_cache(|report| progress.update(report)).await;
        progress.finish();
        return Ok(report?);
    }
    match config::earlier_cache_dir(dirs, mountpoint)? {
        Some(cache_dir) => verify_unused(&cache_dir),
        None => Err(CommandError::NeverMounted(mountpoint.into())),
    }
}

fn verify_unused(cache_dir: &Path) -> Result<VerifyReport, CommandError> {
    // Opening it would make one.
    if !cache_dir.join("state.sqlite").exists() {
        return Err(CommandError::NoCache(cache_dir.into()));
    }
    let progress = VerifyProgress::new();
    let verified = driver::verify_closed(cache_dir, &mut |verified| {
        progress.update(&verified.into());
        true
    });
    progress.finish();
    let (verified, repaired) = verified.map_err(|error| match error {
        OpenError::State(StateError::InUse { .. }) => CommandError::CacheInUse(cache_dir.into()),
        error => CommandError::Cache(error),
    })?;
    for sentence in repaired {
        terminal::complain(sentence);
    }
    Ok((&verified).into())
}

/// `syncmount pin PATH…`.
pub async fn pin(args: &PinArgs, dirs: &Dirs) -> Result<(), CommandError> {
    if args.list {
        return list_pins(args, dirs).await;
    }
    set_pins(&args.paths, true, dirs).await?;
    if args.wait { wait_for_pins(args, dirs).await } else { Ok(()) }
}

/// `syncmount unpin PATH…`.
pub async fn unpin(args: &UnpinArgs, dirs: &Dirs) -> Result<(), CommandError> {
    set_pins(&args.paths, false, dirs).await
}

async fn set_pins(paths: &[PathBuf], keep: bool, dirs: &Dirs) -> Result<(), CommandError> {
    for given in paths {
        let (path, mountpoint) = folder_of(given, dirs)?;
        let metadata = path.symlink_metadata();
        let metadata = metadata.map_err(|error| CommandError::NoPath { path: given.clone(), error })?;
        let mut client = connect(dirs, &mountpoint).await?;
        let pinned = client.pin(inode_number(&metadata), keep).await;
        pinned.map_err(|error| CommandError::Refused { path: given.clone(), error: Box::new(error) })?;
        let done = if keep { "pinned" } else { "not pinned any more" };
        terminal::say(format_args!("{}: {done}", path.display()))?;
    }
    Ok(())
}

/// Waits until what was pinned just now is here.
async fn wait_for_pins(args: &PinArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let begin = Instant::now();
    for given in &args.paths {
        let (path, mountpoint) = folder_of(given, dirs)?;
        let below = path.strip_prefix(&mountpoint).unwrap_or(Path::new("")).to_path_buf();
        let mut client = connect(dirs, &mountpoint).await?;
        let (mut last_seen, mut progress) = (Instant::now(), PinProgress::new());
        loop {
            let pins = client.pins().await?;
            let Some(pin) = pins.iter().find(|pin| Path::new(&pin.path) == below) else {
                // A program that saves it may have taken it away for a moment.
                if last_seen.elapsed() < ABSENT_MAX {
                    tokio::time::sleep(LOOK_PAUSE).await;
                    continue;
                }
                return Err(CommandError::PinEnded(given.clone()));
            };
            last_seen = Instant::now();
            if pin.is_counted() && pin.missing_files == 0 {
                break;
            }
            if pin.left_out > 0 {
                return Err(CommandError::NoRoom { path: given.clone(), files: pin.left_out });
            }
            if args.timeout.0.is_some_and(|limit| begin.elapsed() >= limit) {
                return Err(CommandError::StillPending { left: pin.describe() });
            }
            progress.update(pin, &client.status().await?);
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        progress.finish();
        terminal::say(format_args!("{}: all of it is here", path.display()))?;
    }
    Ok(())
}

async fn list_pins(args: &PinArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let mut all: Vec<(PathBuf, Vec<Pin>)> = Vec::new();
    for given in &args.paths {
        let (_, mountpoint) = folder_of(given, dirs)?;
        if all.iter().all(|(known, _)| *known != mountpoint) {
            all.push((mountpoint.clone(), counted_pins(&mountpoint, dirs).await?));
        }
    }
    let pins = all.into_iter().flat_map(|(_, pins)| pins);
    if args.json {
        return Ok(terminal::say_json(&pins.collect::<Vec<_>>())?);
    }
    for pin in pins {
        terminal::say(pin.describe())?;
    }
    Ok(())
}

/// The pins of a folder. What has been pinned a moment ago is waited for until it is counted.
async fn counted_pins(mountpoint: &Path, dirs: &Dirs) -> Result<Vec<Pin>, CommandError> {
    let mut client = connect(dirs, mountpoint).await?;
    let begin = Instant::now();
    loop {
        let pins = client.pins().await?;
        if pins.iter().all(|pin| pin.counted != Some(false)) || begin.elapsed() >= COUNT_MAX {
            return Ok(pins);
        }
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

/// The folder that is meant: also a watched one that is not at its path at present.
fn folder_meant(given: &Path, dirs: &Dirs) -> Result<PathBuf, CommandError> {
    match mountpoint::find_mounted(given) {
        Err(StartError::MountpointMissing(path)) => match place_of_missing(given) {
            Some(place) if control::is_served(dirs, &place)? => Ok(place),
            _ => Err(CommandError::NoFolder(path)),
        },
        found => Ok(found?),
    }
}

/// Where a path leads that nothing is at, without symlinks.
fn place_of_missing(given: &Path) -> Option<PathBuf> {
    let lexical = std::path::absolute(given).ok()?;
    Some(dunce::canonicalize(lexical.parent()?).ok()?.join(lexical.file_name()?))
}

/// `syncmount accept PATH…`.
pub async fn accept(args: &AcceptArgs, dirs: &Dirs) -> Result<(), CommandError> {
    for given in &args.paths {
        // What is accepted may be that nothing is there.
        let path = dunce::canonicalize(given).or_else(|error| place_of_missing(given).ok_or(error));
        let path = path.map_err(|error| CommandError::NoPath { path: given.clone(), error })?;
        let folder = folder_above(given, &path, dirs)?;
        let below = path.strip_prefix(&folder).unwrap_or(Path::new("")).to_path_buf();
        let accepted = connect(dirs, &folder).await?.accept(below).await;
        accepted.map_err(|error| CommandError::Refused { path: given.clone(), error: Box::new(error) })?;
        terminal::say(format_args!("{}: accepted; it is compared with what the server has", path.display()))?;
    }
    Ok(())
}

/// A path without symlinks, and the folder that it is in.
fn folder_of(given: &Path, dirs: &Dirs) -> Result<(PathBuf, PathBuf), CommandError> {
    let path = dunce::canonicalize(given).map_err(|error| CommandError::NoPath { path: given.into(), error })?;
    let folder = folder_above(given, &path, dirs)?;
    Ok((path, folder))
}

/// The folder that a path without symlinks is in.
fn folder_above(given: &Path, path: &Path, dirs: &Dirs) -> Result<PathBuf, CommandError> {
    for folder in path.ancestors() {
        if control::is_served(dirs, folder)? {
            return Ok(folder.into());
        }
    }
    Err(CommandError::InNoFolder(given.into()))
}

#[cfg(unix)]
fn inode_number(metadata: &std::fs::Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

/// Without mounts there is nothing to pin, and the folder says so.
#[cfg(not(unix))]
fn inode_number(_: &std::fs::Metadata) -> u64 {
    0
}

/// The process behind `mountpoint`, or why there is none.
async fn connect(dirs: &Dirs, mountpoint: &Path) -> Result<ControlClient, CommandError> {
    if let Some(client) = ControlClient::connect(dirs, mountpoint).await? {
        return Ok(client);
    }
    let path = mountpoint.to_path_buf();
    if !mountpoint::is_mounted(mountpoint)? {
        return Err(CommandError::NotMounted(path));
    }
    Err(if mountpoint::is_dead_mount(mountpoint) { CommandError::Dead(path) } else { CommandError::NotOurs(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Timeout;
    use crate::control::{ControlHandler, ControlServer, ControlSocket};
    use crate::status::{Problem, ProblemKind, tests::sample};
    use std::sync::Arc;
    use tokio::runtime::Handle;

    struct Fake(Status);

    impl ControlHandler for Fake {
        fn status(&self) -> Status {
            self.0.clone()
        }
        fn begin_drain(&self) {}
        fn end_drain(&self) {}
        fn stop(&self, _force: bool) -> Result<(), String> {
            panic!("more is pending, and it was not forced")
        }
        fn pin(&self, _: u64, _: bool) -> Result<(), String> {
            Err("it is not pinned".into())
        }
        fn pins(&self) -> Vec<Pin> {
            vec![Pin { path: "a".into(), files: 1, counted: Some(true), ..Pin::default() }]
        }
        fn verify_cache(&self, progress: &mut dyn FnMut(VerifyReport) -> bool) -> Result<VerifyReport, String> {
            let half = VerifyReport { contents: 2, good: 1, ..VerifyReport::default() };
            assert!(progress(half.clone()), "somebody listens");
            Ok(VerifyReport { damaged: self.0.pending_files, ..half })
        }
    }

    struct World {
        root: tempfile::TempDir,
        dirs: Dirs,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let dirs = Dirs::below(root.path());
            Self { root, dirs }
        }

        fn serve(&self, status: Status) -> ControlServer {
            let mountpoint = dunce::canonicalize(self.root.path()).unwrap();
            let socket = ControlSocket::claim(&self.dirs, &mountpoint).unwrap();
            ControlServer::start(&Handle::current(), socket, Arc::new(Fake(status))).unwrap()
        }

        fn umount(&self, force: bool) -> UmountArgs {
            let timeout = Timeout(Some(Duration::from_millis(50)));
            UmountArgs { mountpoint: self.root.path().into(), timeout, force }
        }

        fn wait(&self) -> WaitArgs {
            WaitArgs { mountpoint: self.root.path().into(), timeout: Timeout(Some(Duration::from_millis(50))) }
        }
    }

    #[tokio::test]
    async fn what_is_not_mounted_is_said_to_be_so() {
        let world = World::new();
        for result in [
            umount(&world.umount(false), &world.dirs).await,
            wait(&world.wait(), &world.dirs).await,
            status(&StatusArgs { mountpoint: Some(world.root.path().into()), json: false }, &world.dirs).await,
        ] {
            assert!(matches!(result, Err(CommandError::NotMounted(_))), "{result:?}");
        }
        let missing = StatusArgs { mountpoint: Some(world.root.path().join("none")), json: true };
        assert!(matches!(status(&missing, &world.dirs).await, Err(CommandError::NoFolder(_))));
    }

    #[tokio::test]
    async fn a_wait_that_takes_too_long_says_what_is_left() {
        let world = World::new();
        let _server = world.serve(Status { pending_files: 3, pending_bytes: 1024, ..sample() });
        let error = wait(&world.wait(), &world.dirs).await.unwrap_err().to_string();
        assert!(error.contains("3 files, 1.00 KiB"), "{error}");
        let error = umount(&world.umount(false), &world.dirs).await.unwrap_err();
        assert!(matches!(&error, CommandError::StillMounted { .. }), "{error}");
    }

    #[tokio::test]
    async fn a_wait_does_not_hide_what_was_refused() {
        let world = World::new();
        let problem = |kind| Problem { kind, path: "a".into(), reason: "full".into() };
        let conflict = Status { problems: vec![problem(ProblemKind::Conflict)], ..sample() };
        let server = world.serve(conflict);
        wait(&world.wait(), &world.dirs).await.unwrap();
        drop(server);
        let unsent = Status { problems: vec![problem(ProblemKind::Unsent)], ..sample() };
        let _server = world.serve(unsent);
        assert!(matches!(wait(&world.wait(), &world.dirs).await, Err(CommandError::Unsent { count: 1, .. })));
    }

    #[test]
    fn of_a_paused_folder_it_is_not_said_that_everything_is_sent() {
        let paused = Status { paused: true, pending_files: 1, ..sample() };
        assert!(paused.is_drained(), "nothing is waited for");
        assert!(what_is_sent(&paused).starts_with("paused"));
        assert_eq!(what_is_sent(&sample()), "the server has everything");
    }

    #[tokio::test]
    async fn a_damaged_cache_is_an_error_and_one_that_is_not_there_too() {
        let world = World::new();
        let root = world.root.path();
        let args = |mountpoint, cache_dir| VerifyArgs { mountpoint, cache_dir, json: false };
        let folder = || args(Some(root.to_path_buf()), None);
        let verify = async |args: VerifyArgs| verify_cache(&args, &world.dirs).await;
        assert!(matches!(verify(folder()).await, Err(CommandError::NeverMounted(_))));
        assert!(matches!(verify(args(None, Some(root.into()))).await, Err(CommandError::NoCache(_))));
        let server = world.serve(sample());
        verify(folder()).await.unwrap();
        drop(server);
        let _server = world.serve(Status { pending_files: 1, ..sample() });
        assert!(matches!(verify(folder()).await, Err(CommandError::Damaged(_))));
    }

    #[tokio::test]
    async fn what_is_in_no_folder_cannot_be_pinned_and_a_refusal_names_the_path() {
        let world = World::new();
        let inside = world.root.path().join("inside");
        std::fs::write(&inside, "").unwrap();
        let args = |list| PinArgs { paths: vec![inside.clone()], list, ..PinArgs::default() };
        assert!(matches!(pin(&args(false), &world.dirs).await, Err(CommandError::InNoFolder(_))));
        let missing = UnpinArgs { paths: vec![world.root.path().join("none")] };
        assert!(matches!(unpin(&missing, &world.dirs).await, Err(CommandError::NoPath { .. })));
        let _server = world.serve(sample());
        let error = unpin(&UnpinArgs { paths: vec![inside.clone()] }, &world.dirs).await.unwrap_err().to_string();
        assert!(error.ends_with("inside: it is not pinned"), "{error}");
        pin(&args(true), &world.dirs).await.unwrap();
    }

    #[tokio::test]
    async fn a_status_without_a_connection_fails_after_it_has_been_printed() {
        let world = World::new();
        let trouble = Some("no connection".to_owned());
        let _server = world.serve(Status { connected: false, trouble, ..sample() });
        for mountpoint in [None, Some(world.root.path().to_path_buf())] {
            let said = status(&StatusArgs { mountpoint, json: true }, &world.dirs).await;
            let error = said.unwrap_err().to_string();
            assert!(error.contains("is not connected to http://h: no connection"), "{error}");
        }
    }

    #[tokio::test]
    async fn status_prints_one_or_all() {
        let world = World::new();
        let _server = world.serve(sample());
        for mountpoint in [None, Some(world.root.path().to_path_buf())] {
            for json in [false, true] {
                status(&StatusArgs { mountpoint: mountpoint.clone(), json }, &world.dirs).await.unwrap();
            }
        }
    }
}
