//! A world with a lying server.

use super::device::Device;
use super::host::{Host, Straight};
use super::judge::{self, Owed, all_agree};
use super::wire::{Liar, Lying};
use super::{Tally, rest};
use crate::sim::Rng;
use crate::sim::server::at_once;
use syncmount_common::{NodeId, NodeKind};

/// Contents of at most this size are read byte by byte at the end.
const SMALL: u64 = 1 << 20;

/// How often users do away with files whose bytes no party has.
const CLEARINGS: usize = 5;

struct World {
    rng: Rng,
    host: Host,
    devices: Vec<Device>,
    /// Who lies to which device.
    liars: Vec<Option<Liar>>,
    now: i64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, 0]);
        let count = 2 + rng.below(2);
        let devices = (0..count).map(|index| Device::new(seed, index)).collect();
        // At least one is lied to, and often all are.
        let first = rng.below(count);
        let all = rng.chance(300);
        let liars = (0..count).map(|index| (index == first || all).then(|| Liar::new(seed, index))).collect();
        Self { rng, host: Host::new(seed), devices, liars, now: super::host::BEGIN }
    }

    fn pass_time(&mut self, seconds: i64) {
        self.now += seconds * super::host::SECOND;
        self.host.set_clock(self.now);
        self.devices.iter_mut().for_each(|device| device.wait(seconds));
    }

    fn sync(&mut self, index: usize) -> Result<(), String> {
        match &mut self.liars[index] {
            Some(liar) => self.devices[index].sync(&mut Lying::new(&mut self.host, liar)),
            None => self.sync_honestly(index),
        }
    }

    fn sync_honestly(&mut self, index: usize) -> Result<(), String> {
        let service = self.host.service.clone();
        self.devices[index].sync(&mut Straight::new(&mut self.host, service))
    }

    fn read(&mut self, index: usize) -> Result<(), String> {
        let files = self.devices[index].seen(NodeKind::File);
        let Some(node) = self.rng.pick(&files).copied() else { return Ok(()) };
        match &mut self.liars[index] {
            Some(liar) => self.devices[index].read(node, &mut Lying::new(&mut self.host, liar)),
            None => {
                let service = self.host.service.clone();
                self.devices[index].read(node, &mut Straight::new(&mut self.host, service))
            }
        }
    }

    fn step(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.devices.len());
        match self.rng.below(20) {
            0..=7 => {
                self.devices[index].act();
                self.devices[index].keep()?;
            }
            8..=15 => self.sync(index)?,
            16 => self.read(index)?,
            17 => self.devices[index].restart()?,
            18 => {
                self.devices[index].finish_all();
                self.devices[index].keep()?;
            }
            _ => {
                let seconds = [1, 40, 700][self.rng.index(3)];
                self.pass_time(seconds);
            }
        }
        Ok(())
    }

    /// Everybody talks to the honest service until nothing changes any more.
    fn come_to_rest(&mut self) -> Result<(), String> {
        rest::come_to_rest(self, |world| {
            world.pass_time(700);
            (0..world.devices.len()).try_for_each(|index| world.sync_honestly(index))?;
            Ok(rest::picture(&world.devices, &world.host))
        })?;
        rest::is_at_rest(&self.devices, &self.host)
    }

    /// Users remove files whose bytes no party has: files that the liar made up.
    fn clear(&mut self) -> bool {
        let mut cleared = false;
        for device in &mut self.devices {
            let problems: Vec<NodeId> = device.engine.problems().map(|(node, _)| node).collect();
            for node in problems {
                let names = device.engine.local(node).map(|state| state.names.clone()).unwrap_or_default();
                names.iter().for_each(|place| device.remove(place.parent, &place.name, node));
                cleared = true;
            }
        }
        cleared
    }

    fn live(&mut self) -> Result<(), String> {
        // A folder to lie about.
        for _ in 0..self.rng.below(12) {
            let index = self.rng.index(self.devices.len());
            self.devices[index].act();
            self.devices[index].keep()?;
        }
        (0..self.devices.len()).try_for_each(|index| self.sync_honestly(index))?;
        let steps = 20 + self.rng.below(60);
        (0..steps).try_for_each(|_| self.step())
    }

    fn heal(&mut self) -> Result<(), String> {
        self.devices.iter_mut().for_each(Device::finish_all);
        let mut owed = Owed::default();
        self.devices.iter().for_each(|device| owed.note(device, &self.host));
        self.come_to_rest().map_err(|what| format!("after the lies: {what}"))?;
        at_once(self.host.service.restored()).map_err(|error| error.to_string())?;
        for _ in 0..CLEARINGS {
            self.come_to_rest().map_err(|what| format!("after the history began again: {what}"))?;
            if !self.clear() {
                break;
            }
        }
        owed.check(&self.host)?;
        all_agree(&self.devices, &self.host)?;
        judge::acknowledged_is_there(&self.host, SMALL)
    }
}

/// Lives through the world of a seed.
pub(super) fn run(seed: u64) -> Result<Tally, String> {
    let mut world = World::new(seed);
    world.live()?;
    world.heal()?;
    Ok(Tally {
        lies: world.liars.iter().flatten().map(|liar| liar.told).sum(),
        refused: world.devices.iter().map(|device| device.refused).sum(),
        taken: world.host.acknowledged().len() as u64,
    })
}
