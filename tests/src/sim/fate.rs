//! What misfortune does: processes end, power fails, disks fill up and are set back to backups, networks and clocks go.

use super::device::Device;
use super::plan::{Deed, Entry};
use super::world::{Event, World};
use std::collections::BTreeSet;
use syncmount_common::{ContentHash, NodeId};
use syncmount_engine::Engine;

/// No more devices than this, with all twins.
const DEVICES_MAX: usize = 6;

impl World {
    /// An entry of the plan comes true.
    pub fn deed(&mut self, entry: Entry) {
        match entry.deed {
            Deed::Act => self.act(entry.device),
            Deed::Rivals => self.rivals(),
            Deed::Misfortune(name) => self.misfortune(name, entry.device),
        }
    }

    fn misfortune(&mut self, name: &str, index: usize) {
        match name {
            "offline" => {
                self.devices[index].online = false;
                let spell = self.rng.delay_ms(1_000, 400_000_000);
                self.at(spell, Event::Online(index));
            }
            "crash" => self.crash(index),
            "cut" => self.cut(index),
            "restart" => self.restart(index),
            "clock-set" => self.set_clock(index),
            "full" => {
                self.devices[index].full = true;
                let spell = self.rng.delay_ms(1_000, 40_000_000);
                self.at(spell, Event::Room(index));
            }
            "backup" => self.devices[index].backup = Some(Box::new(self.devices[index].disk.clone())),
            "set-back" => self.set_back(index),
            "twin" => self.twin(index),
            "server-restart" => {
                if let Err(error) = self.server.flush() {
                    self.violated(format!("the server cannot pack small chunks: {error}"));
                }
                self.server.restart();
            }
            "server-cut" => self.server.cut(),
            "server-full" => {
                self.server.full = true;
                let spell = self.rng.delay_ms(1_000, 4_000_000);
                self.at(spell, Event::ServerRoom);
            }
            "server-backup" => self.server.back_up(),
            "server-set-back" => self.set_back_server(),
            _ => self.violated(format!("nobody knows what `{name}` is")),
        }
    }

    /// Sets a device's clock right or wrong, by seconds or years.
    pub fn set_clock(&mut self, index: usize) {
        const SECOND: i64 = 1_000_000_000;
        let year = 365 * 24 * 3600 * SECOND;
        let skews = [0, 0, SECOND, -SECOND, 90 * SECOND, -3600 * SECOND, year, -3 * year, -50 * year];
        self.devices[index].skew = self.rng.pick(&skews).copied().unwrap_or(0);
    }

    /// A device's process ends without warning.
    pub fn crash(&mut self, index: usize) {
        if self.devices[index].engine.is_none() {
            return;
        }
        self.trace.line(|| format!("    device {index} crashes"));
        self.devices[index].crash(&self.library);
        self.boot_later(index);
    }

    fn boot_later(&mut self, index: usize) {
        let pause = self.rng.delay_ms(1, 600_000);
        self.at(pause, Event::Boot(index));
    }

    /// A device ends in order and starts again.
    fn restart(&mut self, index: usize) {
        if self.devices[index].engine.is_none() {
            return;
        }
        self.close_all(index);
        // A crash point may have come before the end.
        if self.devices[index].engine.is_some() && self.keep(index) {
            self.devices[index].crash(&self.library);
            self.devices[index].disk.close();
            self.boot_later(index);
        }
    }

    /// The power of a device is cut.
    pub fn cut(&mut self, index: usize) {
        self.lose(index, |world| world.devices[index].disk.cut(&mut world.rng));
    }

    /// A device's disk is set back to its backup.
    fn set_back(&mut self, index: usize) {
        if let Some(backup) = self.devices[index].backup.take() {
            let only_here = self.devices[index].holds(self.server.committed(), &self.library, |stays| stays);
            self.lose(index, |world| world.devices[index].disk.set_back(&backup));
            self.excuse_only_here(&only_here);
            self.devices[index].fsynced.clear();
            self.devices[index].backup = Some(backup);
        }
    }

    /// Something happens to a disk while its device is down. What nobody has afterwards, and the server never had, is gone
    /// and may be.
    fn lose(&mut self, index: usize, what: impl FnOnce(&mut Self)) {
        let was_up = self.devices[index].engine.is_some();
        let before = self.held();
        self.devices[index].crash(&self.library);
        what(self);
        self.devices[index].forget_memory();
        self.excuse(&before);
        self.ledger.upheaval = true;
        self.devices.iter_mut().for_each(|device| device.expected = None);
        self.trace.line(|| format!("    device {index} has lost a part of its memory"));
        if was_up {
            self.boot_later(index);
        }
    }

    /// A copy of a device's disk begins a life of its own.
    fn twin(&mut self, index: usize) {
        let (true, Some(backup)) = (self.devices.len() < DEVICES_MAX, &self.devices[index].backup) else { return };
        let backup = backup.clone();
        let twin = self.devices.len();
        let mut device = Device::new(twin);
        device.disk.set_back(&backup);
        device.disk.trusts_cache = backup.trusts_cache;
        device.ignores = self.devices[index].ignores;
        device.applies_owners = self.devices[index].applies_owners;
        device.forget_memory();
        self.devices.push(device);
        self.ledger.upheaval = true;
        self.devices.iter_mut().for_each(|device| device.expected = None);
        self.set_clock(twin);
        self.boot_later(twin);
        self.at(1_000_000, Event::Tick(twin));
    }

    /// The server's stores are set back to their backup.
    fn set_back_server(&mut self) {
        let before = self.held();
        if !self.server.set_back() {
            return;
        }
        self.excuse(&before);
        self.ledger.upheaval = true;
        self.devices.iter_mut().for_each(|device| (device.expected, device.cursor) = (None, None));
        self.trace.line(|| "    the server has lost a part of its memory".to_owned());
        if self.rng.chance(300)
            && let Err(error) = self.server.told_restored()
        {
            self.violated(format!("the server cannot begin a new epoch: {error}"));
        }
    }

    /// Byte strings that the server or a device has.
    fn held(&self) -> BTreeSet<ContentHash> {
        self.held_by(|_| true)
    }

    /// Those of them that a device has in nodes that count.
    fn held_by(&self, counts: impl Fn(bool) -> bool) -> BTreeSet<ContentHash> {
        self.on_devices(counts).chain(self.server.committed().iter().copied()).collect()
    }

    fn on_devices(&self, counts: impl Fn(bool) -> bool) -> impl Iterator<Item = ContentHash> {
        let server = self.server.committed();
        self.devices.iter().flat_map(move |device| device.holds(server, &self.library, &counts))
    }

    /// What a disk alone had as it is now, because a user had taken it out of the folder, went with it: the server has it in
    /// its history at most.
    fn excuse_only_here(&mut self, before: &BTreeSet<ContentHash>) {
        let Ok((nodes, _)) = self.server.nodes() else { return };
        let current = nodes.iter().filter_map(|node| node.content.as_ref()).map(|content| content.hash);
        let elsewhere: BTreeSet<ContentHash> = self.on_devices(|_| true).chain(current).collect();
        self.ledger.excused.extend(before.difference(&elsewhere));
    }

    fn excuse(&mut self, before: &BTreeSet<ContentHash>) {
        let after = self.held();
        self.ledger.excused.extend(before.difference(&after));
    }

    /// Files whose bytes nobody has any more cannot be sent: their users see that in the status and remove them.
    pub fn give_up_lost(&mut self) {
        // What stays on a device is given to nobody.
        let held = self.held_by(|stays| !stays);
        for index in 0..self.devices.len() {
            let Some(engine) = &self.devices[index].engine else { continue };
            let ids: BTreeSet<NodeId> = engine.problems().map(|(id, _)| id).collect();
            let lost: Vec<NodeId> = ids.into_iter().filter(|id| !self.is_held(engine, index, *id, &held)).collect();
            for node in lost {
                self.remove_lost(index, node);
            }
        }
    }

    fn is_held(&self, engine: &Engine, index: usize, node: NodeId, held: &BTreeSet<ContentHash>) -> bool {
        let Some(state) = engine.local(node) else { return true };
        let device = &self.devices[index];
        match state.body.draft() {
            None => state.body.content_hash().is_none_or(|hash| held.contains(&hash)),
            Some(draft) => {
                let has_base = draft.base.as_ref().is_none_or(|base| held.contains(&base.hash));
                has_base || device.disk.draft_bytes(draft, None).is_some()
            }
        }
    }
}
