//! A server and two devices for one measurement, or a plain directory in their place.

use super::Bench;
use super::disk::Disk;
use super::meter;
use super::rival::{Rival, RivalServer};
use crate::support::{Device, World};
use rustix::process::Pid;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

/// No measurement waits longer for something to come.
const PATIENCE: Duration = Duration::from_secs(600);

/// Where a workload runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Side {
    /// A directory of the disk beneath.
    Native,
    /// Two mounts.
    Mount,
    /// Two mounts whose files the kernel reads by itself where it may.
    Passed,
    /// Two watched folders.
    Watch,
    /// Two mounts of `rclone`.
    Rclone,
}

impl Side {
    /// Whether it is a program of somebody else's.
    pub(super) fn is_other(self) -> bool {
        self == Self::Rclone
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Mount => "mount",
            Self::Passed => "passed",
            Self::Watch => "watch",
            Self::Rclone => "rclone",
        })
    }
}

/// A device, of whoever keeps its folder in step.
pub(super) enum Party {
    /// This project's.
    Own(Device),
    /// Somebody else's.
    Other(Rival),
}

impl Party {
    pub(super) fn folder(&self) -> &Path {
        match self {
            Self::Own(device) => &device.folder,
            Self::Other(rival) => &rival.folder,
        }
    }

    pub(super) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder().join(name)
    }

    pub(super) fn mount(&mut self) -> io::Result<()> {
        match self {
            Self::Own(device) => {
                device.mount();
                Ok(())
            }
            Self::Other(rival) => rival.mount(),
        }
    }

    /// Takes it down, whatever is pending.
    pub(super) fn stop(&mut self) -> io::Result<()> {
        match self {
            Self::Own(device) => {
                device.stop();
                Ok(())
            }
            Self::Other(rival) => rival.stop(),
        }
    }

    /// The process that serves the folder.
    pub(super) fn pid(&self) -> io::Result<Pid> {
        let pid = match self {
            // The only one whose control socket answers, which is asked by a process that has ended then.
            Self::Own(device) => i32::try_from(device.status().pid).ok().and_then(Pid::from_raw),
            Self::Other(rival) => rival.pid(),
        };
        pid.ok_or_else(|| io::Error::other("the device has ended"))
    }

    /// Changes that are not at the server yet.
    pub(super) fn pending(&self) -> io::Result<u64> {
        match self {
            Self::Own(device) => {
                let status = device.status();
                Ok(status.pending_files + status.pending_nodes)
            }
            Self::Other(_) => Err(io::Error::other("it does not tell")),
        }
    }

    fn requests(&self) -> Option<u64> {
        match self {
            Self::Own(device) => Some(device.status().requests),
            Self::Other(_) => None,
        }
    }

    fn wait_synced(&self) {
        match self {
            Self::Own(device) => device.wait_synced(),
            // It does not tell. Silence does.
            Self::Other(_) => {}
        }
    }
}

/// What two devices have between them.
enum Server {
    Own(Box<World>),
    Other(RivalServer),
}

/// Two devices with one folder between them, freshly started.
pub(super) struct Pair {
    pub(super) a: Party,
    pub(super) b: Party,
    server: Server,
    _disk: Disk,
}

impl Pair {
    pub(super) fn new(side: Side) -> io::Result<Self> {
        let disk = Disk::new()?;
        if side.is_other() {
            let server = RivalServer::start(disk.path())?;
            let (a, b) = (Party::Other(server.mount("A")?), Party::Other(server.mount("B")?));
            return Ok(Self { a, b, server: Server::Other(server), _disk: disk });
        }
        let world = World::lasting_in(disk.path(), Duration::from_secs(3600));
        let start = |name| match side {
            Side::Watch => world.watch(name),
            Side::Passed => world.mount_with(name, &["--passthrough", "always"]),
            Side::Native | Side::Mount | Side::Rclone => world.mount(name),
        };
        let (a, b) = (Party::Own(start("A")), Party::Own(start("B")));
        Ok(Self { a, b, server: Server::Own(Box::new(world)), _disk: disk })
    }

    /// One more device of this project's, not started.
    pub(super) fn another(&self, name: &str) -> io::Result<Party> {
        match &self.server {
            Server::Own(world) => Ok(Party::Own(world.device(name))),
            Server::Other(_) => Err(io::Error::other("there are two devices of that kind")),
        }
    }

    pub(super) fn server(&self) -> Pid {
        match &self.server {
            Server::Own(world) => world.server().pid(),
            Server::Other(server) => server.pid(),
        }
    }

    fn processes(&self) -> io::Result<[(&'static str, Pid); 3]> {
        Ok([("server", self.server()), ("A", self.a.pid()?), ("B", self.b.pid()?)])
    }

    /// From now on everything that the three use counts.
    pub(super) fn meter(&self) -> io::Result<Meter<'_>> {
        let processes = self.processes()?;
        let requests = self.requests();
        // Last, so that the questions above do not count.
        let mut from = [Duration::ZERO; 3];
        for (from, (_, pid)) in from.iter_mut().zip(processes) {
            *from = meter::cpu(pid)?;
        }
        Ok(Meter { pair: self, processes, requests, from, wire: meter::wire()? })
    }

    /// Requests of both devices since they were started, if they tell.
    fn requests(&self) -> Option<u64> {
        self.a.requests().zip(self.b.requests()).map(|(a, b)| a + b)
    }

    /// Until both have nothing to do any more.
    pub(super) fn rest(&self) -> io::Result<()> {
        self.a.wait_synced();
        self.b.wait_synced();
        let mut before = meter::wire()?;
        let silence = Duration::from_millis(if matches!(self.server, Server::Own(_)) { 300 } else { 3000 });
        await_it("the end of all traffic", silence, || {
            let now = meter::wire()?;
            Ok((std::mem::replace(&mut before, now) == now).then_some(()))
        })
    }
}

/// What was used since it was made.
pub(super) struct Meter<'a> {
    pair: &'a Pair,
    processes: [(&'static str, Pid); 3],
    requests: Option<u64>,
    from: [Duration; 3],
    wire: u64,
}

impl Meter<'_> {
    /// Bytes on the wire so far.
    pub(super) fn wire(&self) -> io::Result<u64> {
        Ok(meter::wire()? - self.wire)
    }

    /// Enters what was used for `what`.
    pub(super) fn enter(self, bench: &mut Bench, side: Side, what: &str) -> io::Result<()> {
        let wire = self.wire()?;
        let mut total = Duration::ZERO;
        for ((name, pid), from) in self.processes.into_iter().zip(self.from) {
            let used = meter::cpu(pid)?.saturating_sub(from);
            total += used;
            bench.amount(side, &format!("{what}: CPU of {name}"), "s ", used.as_secs_f64());
            bench.amount(side, &format!("{what}: peak memory of {name}"), "MiB", meter::peak(pid)?);
        }
        bench.amount(side, &format!("{what}: CPU of all"), "s ", total.as_secs_f64());
        bench.amount(side, &format!("{what}: wire"), "KiB", wire as f64 / 1024.0);
        // A status is asked over a socket that is no network, and costs no request.
        if let Some((now, before)) = self.pair.requests().zip(self.requests) {
            bench.amount(side, &format!("{what}: requests"), "", (now - before) as f64);
        }
        Ok(())
    }
}

/// The directory in which a local workload runs, and what must live as long.
pub(super) struct Ground {
    pub(super) dir: PathBuf,
    pub(super) pair: Option<Pair>,
    _native: Option<Disk>,
}

impl Ground {
    pub(super) fn new(side: Side) -> io::Result<Self> {
        let (dir, pair, native) = match side {
            Side::Native => {
                let disk = Disk::new()?;
                (disk.path().to_path_buf(), None, Some(disk))
            }
            Side::Mount | Side::Passed | Side::Watch | Side::Rclone => {
                let pair = Pair::new(side)?;
                (pair.a.folder().to_path_buf(), Some(pair), None)
            }
        };
        Ok(Self { dir, pair, _native: native })
    }

    /// Client and caller share one processor from now on, server and the other device have another: without that the time
    /// is that of waking an idle processor.
    pub(super) fn share_one_processor(&self) -> io::Result<meter::Pinned> {
        if let Some(pair) = &self.pair {
            let other = usize::from(thread::available_parallelism()?.get() > 1);
            for (name, pid) in pair.processes()? {
                meter::pin(pid, if name == "A" { 0 } else { other })?;
            }
        }
        meter::Pinned::new()
    }
}

/// Asks every `pause` until there is an answer.
pub(super) fn await_it<T>(
    what: &str,
    pause: Duration,
    mut ask: impl FnMut() -> io::Result<Option<T>>,
) -> io::Result<T> {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if begin.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("waited {PATIENCE:?} for {what}")));
        }
        thread::sleep(pause);
    }
}

/// The bytes of a file, or `None` if it is not there.
pub(super) fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}
