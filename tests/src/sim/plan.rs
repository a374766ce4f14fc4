//! What users and misfortune do in a world, made beforehand: a list in the order of time. Each entry has chance of its own,
//! so that any of them can be left out and the others stay what they are.

use super::{Rng, Setup};

/// Names the chance of the plan, of what is done, and of a scenario.
const PLAN: u64 = 1;
const KIND: u64 = 2;

/// How often things go wrong, in cases of 1000 where nothing else is said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Faults {
    /// A message does not arrive.
    pub lost: u64,
    /// A commit arrives twice.
    pub doubled: u64,
    /// A body of several chunks is cut off in the middle.
    pub torn: u64,
    /// The bytes of a content arrive changed.
    pub garbled: u64,
    /// The longest way of a message, in milliseconds.
    pub delay_ms: u64,
    /// A device crashes at one of its crash points, in cases of 100,000.
    pub crash_point: u64,
    /// A record cannot be kept.
    pub keep_failed: u64,
    /// A draft cannot be prepared.
    pub prepare_failed: u64,
    /// Something in between refuses a commit that the server did not do.
    pub rejected: u64,
    /// From here on, after an action: a device loses the network for a while.
    pub offline: u64,
    /// A device's process ends without warning.
    pub crash: u64,
    /// A device's power is cut.
    pub cut: u64,
    /// A device is restarted in order.
    pub restart: u64,
    /// A device's clock is set.
    pub clock_set: u64,
    /// A device's disk is full for a while.
    pub full: u64,
    /// A device's disk is copied: what a later one of the next two goes back to.
    pub backup: u64,
    /// A device's disk is set back to the copy.
    pub set_back: u64,
    /// The copy begins a life of its own as another device.
    pub twin: u64,
    /// The server is restarted.
    pub server_restart: u64,
    /// The server's power is cut.
    pub server_cut: u64,
    /// The server's disk is full for a while.
    pub server_full: u64,
    /// The server's stores are copied.
    pub server_backup: u64,
    /// They are set back to the copy.
    pub server_set_back: u64,
}

type Switch = (&'static str, fn(&mut Faults) -> &mut u64);

/// All faults by name.
pub const SWITCHES: [Switch; 22] = [
    ("lost", |faults| &mut faults.lost),
    ("doubled", |faults| &mut faults.doubled),
    ("torn", |faults| &mut faults.torn),
    ("garbled", |faults| &mut faults.garbled),
    ("crash-point", |faults| &mut faults.crash_point),
    ("keep-failed", |faults| &mut faults.keep_failed),
    ("prepare-failed", |faults| &mut faults.prepare_failed),
    ("rejected", |faults| &mut faults.rejected),
    ("offline", |faults| &mut faults.offline),
    ("crash", |faults| &mut faults.crash),
    ("cut", |faults| &mut faults.cut),
    ("restart", |faults| &mut faults.restart),
    ("clock-set", |faults| &mut faults.clock_set),
    ("full", |faults| &mut faults.full),
    ("backup", |faults| &mut faults.backup),
    ("set-back", |faults| &mut faults.set_back),
    ("twin", |faults| &mut faults.twin),
    ("server-restart", |faults| &mut faults.server_restart),
    ("server-cut", |faults| &mut faults.server_cut),
    ("server-full", |faults| &mut faults.server_full),
    ("server-backup", |faults| &mut faults.server_backup),
    ("server-set-back", |faults| &mut faults.server_set_back),
];

impl Faults {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        lost: 0,
        doubled: 0,
        torn: 0,
        garbled: 0,
        delay_ms: 20,
        crash_point: 0,
        keep_failed: 0,
        prepare_failed: 0,
        rejected: 0,
        offline: 0,
        crash: 0,
        cut: 0,
        restart: 0,
        clock_set: 0,
        full: 0,
        backup: 0,
        set_back: 0,
        twin: 0,
        server_restart: 0,
        server_cut: 0,
        server_full: 0,
        server_backup: 0,
        server_set_back: 0,
    };

    /// Networks and servers are bad, devices are not.
    pub const NETWORK: Self = Self {
        lost: 100,
        doubled: 100,
        torn: 100,
        garbled: 50,
        delay_ms: 30_000,
        prepare_failed: 30,
        offline: 60,
        restart: 10,
        server_restart: 20,
        server_cut: 10,
        server_full: 10,
        ..Self::NONE
    };

    /// Processes end at any point as well.
    pub const CRASHES: Self =
        Self { crash_point: 300, keep_failed: 5, rejected: 50, crash: 50, clock_set: 20, full: 10, ..Self::NETWORK };

    /// The power fails.
    pub const CUTS: Self = Self { cut: 60, ..Self::CRASHES };

    /// Backups are put back as well.
    pub const BACKUPS: Self =
        Self { cut: 10, backup: 60, set_back: 20, twin: 10, server_backup: 60, server_set_back: 20, ..Self::CRASHES };

    /// Whether a device may forget that it has sent a commit.
    pub const fn forgets(&self) -> bool {
        self.crash > 0 || self.crash_point > 0 || self.restart > 0 || self.doubled > 0 || self.rejected > 0
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
    /// How often two users do something at the same time that does not go together, in cases of 1000.
    pub rivals: u64,
    /// All users make the same tree: no conflict may come of it.
    pub alike: bool,
    /// Names that end in `~` stay on every second device.
    pub ignores: bool,
}

impl Scenario {
    /// The kind of world that a seed stands for: two to five devices, one or all of them active, few faults or many.
    pub fn of(seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, KIND]);
        let devices = [2, 2, 2, 3, 3, 4, 5][rng.index(7)];
        let active = if rng.chance(200) { 1 } else { devices };
        let faults = match rng.below(10) {
            0 => Faults::NONE,
            1 => Faults { doubled: 0, restart: 0, ..Faults::NETWORK },
            2 => Faults::NETWORK,
            3 | 4 => Faults::CRASHES,
            5 | 6 => Faults::CUTS,
            _ => Faults::BACKUPS,
        };
        let actions = 10 + rng.below(110) as u32;
        let (common, rivals) = ([0, 100, 400][rng.index(3)], [0, 200, 500][rng.index(3)]);
        let scenario = Self { devices, active, actions, faults, common, rivals, alike: false, ignores: false };
        if rng.chance(80) { scenario.alike() } else { Self { ignores: rng.chance(250), ..scenario } }
    }

    /// The same as a world in which all make the same tree, whatever the network and the clocks do.
    fn alike(self) -> Self {
        let faults = Faults { prepare_failed: 0, full: 0, clock_set: 20, ..Faults::NETWORK };
        Self { active: self.devices, alike: true, rivals: 0, actions: self.actions.min(60), faults, ..self }
    }
}

/// Something that a user or misfortune does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deed {
    /// A user does something.
    Act,
    /// Two users do something that does not go together, one of them at least offline.
    Rivals,
    /// A misfortune of this name.
    Misfortune(&'static str),
}

/// One entry of the plan.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// When, in nanoseconds from the begin.
    pub at: i64,
    /// To which device, if it is about one.
    pub device: usize,
    /// What.
    pub deed: Deed,
}

/// The switches that are events of their own rather than ways in which other events end.
const MISFORTUNES: std::ops::Range<usize> = 8..22;

/// The plan of a world: everything that can happen; what is left out of it is marked elsewhere.
pub fn plan(seed: u64, scenario: &Scenario) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut at = 0;
    for step in 0..u64::from(scenario.actions) {
        let mut rng = Rng::of(&[seed, PLAN, step]);
        let device = rng.index(scenario.active);
        let rivals = scenario.active > 1 && rng.chance(scenario.rivals);
        at += if rng.chance(850) { rng.delay_ms(1, 2_000) } else { rng.delay_ms(1_000, 7_200_000) };
        entries.push(Entry { at, device, deed: if rivals { Deed::Rivals } else { Deed::Act } });
        for (name, rate) in &SWITCHES[MISFORTUNES] {
            let mut faults = scenario.faults;
            let happens = rng.chance(*rate(&mut faults));
            let device = if rng.chance(800) { device } else { rng.index(scenario.devices) };
            let late = rng.delay_ms(1, 5_000);
            if happens {
                entries.push(Entry { at: at + late, device, deed: Deed::Misfortune(name) });
            }
        }
    }
    entries
}

impl Setup {
    /// The entries of the plan that happen, each with its number.
    pub fn entries(&self) -> Vec<(usize, Entry)> {
        let calm = |entry: &Entry| matches!(entry.deed, Deed::Misfortune(name) if self.calm.contains(name));
        let kept = |number: &usize| self.keep.as_ref().is_none_or(|keep| keep.contains(number));
        let plan = plan(self.seed, &self.scenario).into_iter().enumerate();
        plan.filter(|(number, entry)| kept(number) && !calm(entry)).collect()
    }

    /// The faults that are not switched off.
    pub fn faults(&self) -> Faults {
        let mut faults = self.scenario.faults;
        for (_, rate) in SWITCHES.iter().filter(|(name, _)| self.calm.contains(name)) {
            *rate(&mut faults) = 0;
        }
        faults
    }
}
