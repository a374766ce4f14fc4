//! Deterministic simulation: several engines and the real service in one process, one seed for one world.
//!
//! Time, network, disks and users are values in here; the engine and the server's rules are the shipped code. A world is
//! lived through (users act, messages get lost, doubled and late, processes end at any point, clocks are wrong), then
//! healed, driven to rest, and judged. Equal seeds give equal worlds, step by step.

pub mod bytes;
pub mod device;
pub mod disk;
pub mod oracle;
mod rng;
pub mod server;
mod user;
pub mod view;
pub mod world;

pub use rng::Rng;

use sha2::{Digest, Sha256};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often things go wrong, in cases of 1000 where nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// A message does not arrive.
    pub lost: u64,
    /// A commit arrives twice.
    pub doubled: u64,
    /// The longest way of a message, in milliseconds.
    pub delay_ms: u64,
    /// A device crashes at one of its crash points, in cases of 100,000; after an action, in cases of 1000.
    pub crash: u64,
    /// A record cannot be kept.
    pub keep_failed: u64,
    /// A draft cannot be prepared.
    pub prepare_failed: u64,
    /// Something in between refuses a commit that the server did not do.
    pub rejected: u64,
    /// A device loses the network for a while after an action.
    pub offline: u64,
    /// A device's clock is set after an action.
    pub clock_set: u64,
    /// The server is restarted after an action.
    pub server_restart: u64,
}

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost: 0,
        doubled: 0,
        delay_ms: 20,
        crash: 0,
        keep_failed: 0,
        prepare_failed: 0,
        rejected: 0,
        offline: 0,
        clock_set: 0,
        server_restart: 0,
    };

    /// Much goes wrong.
    pub const MANY: Self = Self {
        lost: 100,
        doubled: 100,
        delay_ms: 30_000,
        crash: 300,
        keep_failed: 5,
        prepare_failed: 30,
        rejected: 50,
        offline: 60,
        clock_set: 20,
        server_restart: 20,
    };

    /// Whether a device may forget that it has sent a commit.
    pub const fn forgets(&self) -> bool {
        self.crash > 0 || self.doubled > 0 || self.rejected > 0
    }
}

/// What kind of world it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Scenario {
    /// How many devices there are.
    pub devices: usize,
    /// How many of them have users that do something; with 1, no conflict may come of it.
    pub active: usize,
    /// How many actions all users do.
    pub actions: u32,
    /// What goes wrong.
    pub faults: Faults,
    /// How often a byte string is one that others write too, in cases of 1000.
    pub common: u64,
    /// All users make the same tree: no conflict may come of it.
    pub alike: bool,
}

impl Scenario {
    /// The kind of world that a seed stands for: two to five devices, one or all of them active, few faults or many.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5ce9_a710);
        let devices = [2, 2, 2, 3, 3, 5][rng.index(6)];
        let active = if rng.chance(250) { 1 } else { devices };
        let faults = match rng.below(4) {
            0 => Faults::NONE,
            1 => Faults { crash: 0, keep_failed: 0, clock_set: 0, rejected: 0, ..Faults::MANY },
            _ => Faults::MANY,
        };
        let actions = 10 + rng.below(110) as u32;
        Self { devices, active, actions, faults, common: [0, 100, 400][rng.index(3)], alike: false }
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
    /// What kind of world it was.
    pub scenario: Scenario,
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

/// Lives through the world of a seed and judges it.
pub fn run(seed: u64, scenario: Scenario, verbose: bool) -> Report {
    let mut world = None;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let world = world.insert(world::World::new(seed, scenario, verbose));
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
    let mut trace = world.map_or_else(|| Trace::new(verbose), |world| world.trace);
    trace.line(|| format!("{outcome:?}"));
    Report {
        scenario,
        digest: trace.digest.finalize().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
        lines: trace.lines,
        nodes: outcome.as_ref().map_or(0, view::View::len),
        trace: trace.text.unwrap_or_default(),
        failure: outcome.err(),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

/// The command that repeats the world of a seed.
pub fn reproduction(seed: u64) -> String {
    format!("SYNCMOUNT_SIM_SEED={seed} cargo test -p syncmount-tests --test sim one_seed -- --nocapture")
}
