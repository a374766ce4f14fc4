//! Deterministic simulation: several engines and the real service in one process, one seed for one world.
//!
//! Time, network, disks and users are values in here; the engine and the server's rules are the shipped code, the driver's
//! part of a client is retold step by step. A world is lived through (users act, messages get lost, doubled and late,
//! processes end at any point, power is cut, disks are set back to backups, clocks are wrong), then healed, driven to rest,
//! and judged. Equal seeds give equal worlds, step by step.
//!
//! What users and misfortune do is a list that is made beforehand ([`plan`]); leaving out some of it leaves the chance of
//! the rest as it is, so that a world that fails can be shrunk ([`shrink`]). That the judge would notice is proved with
//! faults that are planted where the model wires engine, disk, network and server together ([`planted`]): the shipped code
//! has no switch for them.

pub mod bytes;
pub mod device;
pub mod disk;
mod driver;
mod fate;
pub mod oracle;
pub mod plan;
pub mod planted;
mod rival;
mod rng;
pub mod server;
pub mod shrink;
mod user;
pub mod view;
pub mod world;

pub use plan::{Faults, Scenario};
pub use planted::Planted;
pub use rng::Rng;

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where to begin with worlds that nobody has lived through: drawn from the time of day.
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Rng::new(since.as_nanos() as u64).below(1 << 40)
}

/// Everything that decides what happens in a world.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setup {
    /// All chance.
    pub seed: u64,
    /// What kind of world it is.
    pub scenario: Scenario,
    /// The entries of the plan that happen; `None`: all.
    pub keep: Option<BTreeSet<usize>>,
    /// Faults that are switched off, by name.
    pub calm: BTreeSet<&'static str>,
    /// A bug for the judge to find.
    pub planted: Option<Planted>,
    /// Whether the trace is wanted as text.
    pub verbose: bool,
}

impl Setup {
    /// The world of a seed.
    pub fn of(seed: u64) -> Self {
        let scenario = Scenario::of(seed);
        Self { seed, scenario, keep: None, calm: BTreeSet::new(), planted: None, verbose: false }
    }

    /// The same with a bug in it.
    pub fn with(self, planted: Planted) -> Self {
        Self { planted: Some(planted), scenario: planted.scenario(self.scenario), ..self }
    }

    /// The command that repeats this world.
    pub fn reproduction(&self) -> String {
        let mut line = format!("SYNCMOUNT_SIM_SEED={}", self.seed);
        let mut add = |name: &str, value: String| line += &format!(" SYNCMOUNT_SIM_{name}={value}");
        self.keep.iter().for_each(|keep| add("KEEP", shrink::ranges(keep)));
        if !self.calm.is_empty() {
            add("CALM", self.calm.iter().copied().collect::<Vec<_>>().join(","));
        }
        self.planted.iter().for_each(|planted| add("PLANTED", planted.name().to_owned()));
        line + " cargo test -p syncmount-tests --test sim one_seed -- --nocapture"
    }
}

/// What happened, as a digest and, if wanted, as text.
pub struct Trace {
    digest: Sha256,
    text: Option<String>,
    lines: u64,
}

impl Trace {
    fn new(verbose: bool) -> Self {
        Self { digest: Sha256::new(), text: verbose.then(String::new), lines: 0 }
    }

    /// One more line.
    pub fn line(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        self.lines += 1;
        self.digest.update(line.as_bytes());
        if let Some(text) = &mut self.text {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
    }
}

/// What became of a world.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of everything that happened and of the tree at the end.
    pub digest: String,
    /// How many lines the trace has.
    pub lines: u64,
    /// How many nodes the tree has at the end.
    pub nodes: usize,
    /// The trace, if it was asked for.
    pub trace: String,
    /// The broken promise, if one is.
    pub failure: Option<String>,
}

/// Lives through a world and judges it.
pub fn run(setup: &Setup) -> Report {
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(world::World::new(setup));
        world.live();
        if world.violation.is_none() {
            world.heal();
        }
        match world.violation.clone() {
            Some(what) => Err(what),
            None => world.judge(),
        }
    }));
    let outcome = outcome.unwrap_or_else(|panic| Err(format!("panic: {}", panic_text(&*panic))));
    let mut trace = world.map_or_else(|| Trace::new(setup.verbose), |world| world.trace);
    trace.line(|| format!("{outcome:?}"));
    Report {
        digest: trace.digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
        lines: trace.lines,
        nodes: outcome.as_ref().map_or(0, view::View::len),
        trace: trace.text.unwrap_or_default(),
        failure: outcome.err(),
    }
}

pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}
