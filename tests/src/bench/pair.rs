//! A server and two devices for one measurement, or a plain directory in their place.

use super::Bench;
use super::disk::Disk;
use super::meter;
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
    /// Two watched folders.
    Watch,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Native => "native",
            Self::Mount => "mount",
            Self::Watch => "watch",
        })
    }
}

/// Two devices with one folder between them, freshly started.
pub(super) struct Pair {
    pub(super) a: Device,
    pub(super) b: Device,
    pub(super) world: World,
    _disk: Disk,
}

impl Pair {
    pub(super) fn new(side: Side) -> io::Result<Self> {
        let disk = Disk::new()?;
        let world = World::lasting_in(disk.path(), Duration::from_secs(3600));
        let start = if side == Side::Watch { World::watch } else { World::mount };
        let (a, b) = (start(&world, "A"), start(&world, "B"));
        Ok(Self { a, b, world, _disk: disk })
    }

    fn processes(&self) -> [(&'static str, Pid); 3] {
        let of = |device: &Device| device.processes().first().copied().expect("the device runs");
        [("server", self.world.server().pid()), ("A", of(&self.a)), ("B", of(&self.b))]
    }

    /// From now on everything that the three use counts.
    pub(super) fn meter(&self) -> io::Result<Meter<'_>> {
        let processes = self.processes();
        let requests = self.requests();
        // Last, so that the questions above do not count.
        let mut from = [Duration::ZERO; 3];
        for (from, (_, pid)) in from.iter_mut().zip(processes) {
            *from = meter::cpu(pid)?;
        }
        Ok(Meter { pair: self, processes, requests, from, wire: meter::wire()? })
    }

    /// Requests of both devices since they were started.
    fn requests(&self) -> u64 {
        self.a.status().requests + self.b.status().requests
    }

    /// Until both have nothing to do any more.
    pub(super) fn rest(&self) -> io::Result<()> {
        self.a.wait_synced();
        self.b.wait_synced();
        let mut before = meter::wire()?;
        await_it("the end of all traffic", Duration::from_millis(300), || {
            let now = meter::wire()?;
            Ok((std::mem::replace(&mut before, now) == now).then_some(()))
        })
    }
}

/// What was used since it was made.
pub(super) struct Meter<'a> {
    pair: &'a Pair,
    processes: [(&'static str, Pid); 3],
    requests: u64,
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
        let requests = self.pair.requests() - self.requests;
        bench.amount(side, &format!("{what}: requests"), "", requests as f64);
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
            Side::Mount | Side::Watch => {
                let pair = Pair::new(side)?;
                (pair.a.folder.clone(), Some(pair), None)
            }
        };
        Ok(Self { dir, pair, _native: native })
    }

    /// Client and caller share one processor from now on, server and the other device have another: without that the time
    /// is that of waking an idle processor.
    pub(super) fn share_one_processor(&self) -> io::Result<meter::Pinned> {
        if let Some(pair) = &self.pair {
            let other = usize::from(thread::available_parallelism()?.get() > 1);
            for (name, pid) in pair.processes() {
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
