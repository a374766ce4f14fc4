//! The commands that talk to a mount which is running: `status`, `umount`, `wait`.
//!
//! They change nothing themselves; they ask the mount's process and say what it answers. Results go to stdout, what is
//! on the way to stderr.

use crate::cli::{StatusArgs, UmountArgs, WaitArgs};
use crate::config::{Dirs, StartError};
use crate::control::{self, ControlClient, ControlError, Drained};
use crate::mountpoint::{self, MountTable};
use crate::progress::DrainProgress;
use crate::status::{self, Status};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// With a time limit, how long `umount` waits for the process to end after the mount has gone.
const END_MIN: Duration = Duration::from_secs(10);

/// Why a command did not do what it says; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The mount point cannot be looked at.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The mount's process cannot be asked, or refused.
    #[error(transparent)]
    Control(#[from] ControlError),
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
    #[error("{mountpoint} is still mounted, because the time ran out; left: {left}; --force unmounts and keeps that")]
    StillMounted {
        /// The mount point.
        mountpoint: PathBuf,
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
    /// stdout failed.
    #[error("cannot write to stdout: {0}")]
    Output(#[from] io::Error),
}

/// `syncmount status [FOLDER] [--json]`.
pub async fn status(args: &StatusArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let Some(given) = &args.mountpoint else { return status_of_all(args.json, dirs).await };
    let mountpoint = mountpoint::find_mounted(given)?;
    let mut client = connect(dirs, &mountpoint).await?;
    let status = client.status().await?;
    if args.json {
        return print_json(&status);
    }
    Ok(writeln!(io::stdout(), "{}", status.describe(status::now()))?)
}

async fn status_of_all(json: bool, dirs: &Dirs) -> Result<(), CommandError> {
    let (alive, silent) = control::running(dirs).await?;
    for error in silent {
        eprintln!("syncmount: {error}");
    }
    let dead = dead_mounts(dirs)?;
    for path in &dead {
        eprintln!("syncmount: {}", CommandError::Dead(path.clone()));
    }
    if json {
        return print_json(&alive);
    }
    if alive.is_empty() && dead.is_empty() {
        writeln!(io::stdout(), "Nothing is mounted.")?;
    }
    for status in &alive {
        writeln!(io::stdout(), "{}", status.describe(status::now()))?;
    }
    Ok(())
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

fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value).map_err(io::Error::from)?;
    Ok(writeln!(stdout)?)
}

/// `syncmount umount FOLDER`. Without `--force` it unmounts nothing before everything is sent.
pub async fn umount(args: &UmountArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let mountpoint = mountpoint::find_mounted(&args.mountpoint)?;
    let mut client = match connect(dirs, &mountpoint).await {
        Err(CommandError::Dead(_)) => return clear(&mountpoint),
        other => other?,
    };
    let limit = args.timeout.0;
    match drain(&mut client, limit).await? {
        Drained::TimedOut(status) if !args.force => {
            return Err(CommandError::StillMounted { mountpoint, left: status.pending() });
        }
        Drained::TimedOut(status) => {
            let left = status.pending();
            client.stop(true).await?;
            eprintln!("syncmount: not sent: {left}; the next `syncmount {}` sends it", mountpoint.display());
        }
        Drained::All(status) => {
            client.stop(args.force).await?;
            if let Err(error) = check_unsent(&mountpoint, &status) {
                eprintln!("syncmount: {error}");
            }
        }
        Drained::Ended => eprintln!("syncmount: {}", CommandError::Ended(mountpoint.clone())),
    }
    let limit = limit.map(|limit| limit.max(END_MIN));
    if !client.gone(limit).await? {
        return Err(CommandError::StillRunning(mountpoint));
    }
    // A process that was killed in between leaves its mount behind.
    mountpoint::clear_if_dead(&mountpoint)?;
    Ok(())
}

fn clear(mountpoint: &Path) -> Result<(), CommandError> {
    mountpoint::clear_if_dead(mountpoint)?;
    eprintln!("syncmount: cleared the dead mount at {}; what was pending is kept", mountpoint.display());
    Ok(())
}

/// `syncmount wait FOLDER`.
pub async fn wait(args: &WaitArgs, dirs: &Dirs) -> Result<(), CommandError> {
    let mountpoint = mountpoint::find_mounted(&args.mountpoint)?;
    let mut client = connect(dirs, &mountpoint).await?;
    match drain(&mut client, args.timeout.0).await? {
        Drained::All(status) => check_unsent(&mountpoint, &status),
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

fn check_unsent(mountpoint: &Path, status: &Status) -> Result<(), CommandError> {
    match status.unsent().count() {
        0 => Ok(()),
        count => Err(CommandError::Unsent { mountpoint: mountpoint.into(), count }),
    }
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
            let mountpoint = self.root.path().canonicalize().unwrap();
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
        assert!(matches!(
            status(&missing, &world.dirs).await,
            Err(CommandError::Start(StartError::MountpointMissing(_)))
        ));
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
