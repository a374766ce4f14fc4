//! A world with a lying client.

use super::device::Device;
use super::forger::{Forger, is_flood};
use super::host::{BEGIN, Host, SECOND, Straight};
use super::judge::{self, Owed, all_agree};
use super::{Tally, questions, rest};
use crate::sim::Rng;
use crate::sim::server::at_once;
use syncmount_common::protocol::changes::{Cursor, Device as Named};
use syncmount_common::protocol::commit::{CommitRequest, Op};
use syncmount_common::{ChunkHash, DeviceId, Epoch, OpId, envelope};
use syncmount_server::FIRST_FOLDER;
use syncmount_server::service::{HoldRule, Poll, Service};

/// The folder of no other device.
const OTHER_FOLDER: &str = "other";

/// Contents of at most this size are read byte by byte at the end.
const SMALL: u64 = 1 << 20;

/// What the keeper of the server removes in one commit.
const CLEARED_AT_ONCE: usize = 500;

struct World {
    rng: Rng,
    host: Host,
    devices: Vec<Device>,
    /// The service as the honest devices' token has it, and as the liar's has it.
    honest: Service,
    lying: Service,
    forger: Forger,
    /// The folder that the liar writes to.
    folder: &'static str,
    floods: bool,
    epochs: Vec<(&'static str, Epoch)>,
    now: i64,
    tally: Tally,
}

/// The service on behalf of a new token.
fn with_token(host: &Host, name: &str) -> Service {
    let token = at_once(host.service.add_token(name)).expect("a token");
    let credential = at_once(host.service.credential(token.reveal())).expect("the tokens").expect("the token");
    host.service.acting_for(credential)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::of(&[seed, 3]);
        let host = Host::new(seed);
        at_once(host.service.add_folder(OTHER_FOLDER)).expect("a folder");
        let chunk = (ChunkHash::of(Forger::CHUNK), envelope::seal(Forger::CHUNK).into());
        at_once(host.service.put(vec![chunk])).expect("a chunk");
        let honest = with_token(&host, "home");
        let lying = if rng.chance(500) { honest.clone() } else { with_token(&host, "guest") };
        let folder = if rng.chance(800) { FIRST_FOLDER } else { OTHER_FOLDER };
        let devices: Vec<Device> = (0..2).map(|index| Device::new(seed, index)).collect();
        let forger = Forger::new(seed, devices.iter().map(|device| device.named.id).collect());
        let epochs = [FIRST_FOLDER, OTHER_FOLDER].map(|folder| (folder, host.end(folder).0)).to_vec();
        let floods = rng.chance(80);
        let (now, tally) = (BEGIN, Tally::default());
        Self { rng, host, devices, honest, lying, forger, folder, floods, epochs, now, tally }
    }

    fn pass_time(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
        self.host.set_clock(self.now);
        self.devices.iter_mut().for_each(|device| device.wait(seconds));
    }

    fn sync(&mut self, index: usize) -> Result<(), String> {
        let device = &mut self.devices[index];
        device.sync(&mut Straight::new(&mut self.host, self.honest.clone()))?;
        if let Some(unsound) = device.engine.unsound() {
            return Err(format!("{} stops: {unsound}", device.named.name));
        }
        // A folder that the liar has filled takes nothing; that is no fault, and its keeper mends it.
        match device.rejections.iter().find(|reason| !reason.contains("more than a folder can hold")) {
            Some(reason) => Err(format!("an honest commit of {} is refused: {reason}", device.named.name)),
            None => Ok(()),
        }
    }

    fn end(&self) -> Cursor {
        at_once(self.host.service.folder(self.folder)).expect("the folder").cursor
    }

    fn lie(&mut self) -> Result<(), String> {
        let (nodes, end) = (self.host.nodes(self.folder).map_err(|error| error.to_string())?, self.end());
        if self.rng.chance(200) {
            return self.lying_poll(end);
        }
        let floods = self.floods && !nodes.iter().any(is_flood);
        let request = self.forger.commit(&nodes, end, floods);
        self.tally.lies += 1;
        let service = self.lying.clone();
        if self.host.take(&service, self.folder, request).is_err() {
            self.tally.refused += 1;
            return self.epochs_stay();
        }
        self.epochs_stay()?;
        questions::ask(&self.host, self.folder)
    }

    fn lying_poll(&mut self, end: Cursor) -> Result<(), String> {
        let forged = self.forger.forged(end);
        let since = Some(if self.rng.chance(500) { forged } else { end });
        let known = self.rng.chance(500).then(|| self.forger.forged(end));
        let device = self.forger.devices.first().copied();
        let poll = Poll { since, known, limit: 10, inline: 64, device, session: None, extra: true };
        // Refused or not: it must change nothing.
        let _ = at_once(self.lying.page(self.folder, poll));
        self.epochs_stay()
    }

    /// No history has begun again: the store was not set back.
    fn epochs_stay(&self) -> Result<(), String> {
        for (folder, epoch) in &self.epochs {
            let (now, _) = self.host.end(folder);
            if now != *epoch {
                return Err(format!("the history of `{folder}` has begun again, and no operator has set it back"));
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), String> {
        let index = self.rng.index(self.devices.len());
        match self.rng.below(20) {
            0..=5 => {
                self.devices[index].act();
                self.devices[index].keep()?;
            }
            6..=10 => self.sync(index)?,
            11..=17 => self.lie()?,
            18 => self.devices[index].restart()?,
            _ => {
                let seconds = [1, 40, 700][self.rng.index(3)];
                self.pass_time(seconds);
            }
        }
        Ok(())
    }

    /// The keeper of the server removes the files that fill the folder.
    fn clear_flood(&mut self) -> Result<(), String> {
        self.host.service.set_hold_rule(HoldRule { removes: 0, ..HoldRule::default() });
        let nodes = self.host.nodes(FIRST_FOLDER).map_err(|error| error.to_string())?;
        let flood: Vec<Op> =
            nodes.iter().filter(|node| is_flood(node)).map(|node| Op::Remove { id: node.id, base: node.rev }).collect();
        for (index, ops) in (0..).zip(flood.chunks(CLEARED_AT_ONCE)) {
            let request = CommitRequest {
                op_id: OpId::from_bytes([0xB0 + index; 16]),
                epoch: self.host.end(FIRST_FOLDER).0,
                device: Named { id: DeviceId::from_bytes([0xBB; 16]), name: "keeper".to_owned() },
                session: None,
                known: None,
                contents: Vec::new(),
                changed: Vec::new(),
                concluded: false,
                times: Vec::new(),
                touched: Vec::new(),
                owners: Vec::new(),
                versions: Vec::new(),
                ops: ops.to_vec(),
            };
            let service = self.host.service.clone();
            self.host.take(&service, FIRST_FOLDER, request).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn run(&mut self) -> Result<(), String> {
        (0..self.devices.len()).try_for_each(|index| self.sync(index))?;
        let steps = 20 + self.rng.below(30);
        (0..steps).try_for_each(|_| self.step())?;
        self.devices.iter_mut().for_each(Device::finish_all);
        let mut owed = Owed::default();
        self.devices.iter().for_each(|device| owed.note(device, &self.host));
        self.clear_flood()?;
        rest::come_to_rest(self, |world| {
            world.pass_time(700);
            (0..world.devices.len()).try_for_each(|index| world.sync(index))?;
            Ok(rest::picture(&world.devices, &world.host))
        })?;
        rest::is_at_rest(&self.devices, &self.host)?;
        self.epochs_stay()?;
        questions::ask(&self.host, FIRST_FOLDER)?;
        questions::ask(&self.host, OTHER_FOLDER)?;
        owed.check(&self.host)?;
        all_agree(&self.devices, &self.host)?;
        judge::acknowledged_is_there(&self.host, SMALL)
    }
}

/// Lives through the world of a seed.
pub(super) fn run(seed: u64) -> Result<Tally, String> {
    let mut world = World::new(seed);
    world.run()?;
    Ok(Tally { taken: world.host.acknowledged().len() as u64, ..world.tally })
}
