//! The event loop: one queue ordered by virtual time, and one network that misbehaves.

use super::bytes::Library;
use super::device::{Device, Wait};
use super::oracle::Ledger;
use super::plan::{Entry, Faults};
use super::server::Server;
use super::{Planted, Rng, Scenario, Setup, view};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;
use syncmount_common::protocol::changes::{Ask, Cursor};
use syncmount_common::protocol::commit::{CommitRequest, Committed};
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Timestamp};
use syncmount_server::service::{Changes, ServiceError};

/// 2026-11-22, in nanoseconds.
pub(super) const BEGIN: i64 = 1_795_305_600_000_000_000;

/// How many conflict copies of a file stay.
const SIM_COPIES_MAX: usize = 1;

/// How often the clock of a device ticks.
const TICK_MS: u64 = 60_000;

/// Steps after the network is healed within which the world must come to rest.
const SETTLING_STEPS_MAX: usize = 10_000;

/// Steps of a world until then; most take a tenth.
const LIVING_STEPS_MAX: usize = 100_000;

/// How often users look whether a file cannot be sent because nobody has its bytes any more.
const LOOK_FOR_LOST_STEPS: usize = 500;

/// Name the chance of an event, of an entry of the plan, and of everything before and after.
const EVENT: u64 = 3;
const DEED: u64 = 4;
const HEAL: u64 = 5;

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// An entry of the plan.
    Deed(usize, Entry),
    /// A device's process starts.
    Boot(usize),
    /// A device finds the network again.
    Online(usize),
    /// A device's disk has room again.
    Room(usize),
    /// The server's disk has.
    ServerRoom,
    /// A device's power is cut, because it has just promised something.
    Cut(usize),
    /// A device folds its journal.
    Fold(usize),
    /// What failed is tried again.
    Tick(usize),
    /// A device looks for a commit to send.
    Commit(usize),
    /// A device asks for a page, unless another time was set for it meanwhile.
    Poll(usize, u64),
    /// Work on a device is done.
    Done(usize, u64),
    /// A request arrives at the server, if that is still the one that it was sent to: a backup takes longer to put back than
    /// any connection lives.
    Deliver(usize, u64, Request, u64),
    /// An answer arrives at the device.
    Answer(usize, u64, Reply),
    /// A device gives up waiting for an answer.
    Timeout(usize, u64),
}

impl Event {
    /// Names the event's chance, apart from the moment.
    fn name(&self) -> [u64; 3] {
        match self {
            Self::Deed(number, _) => [DEED, *number as u64, 0],
            Self::Boot(index) => [EVENT, 1, *index as u64],
            Self::Online(index) => [EVENT, 2, *index as u64],
            Self::Room(index) => [EVENT, 3, *index as u64],
            Self::ServerRoom => [EVENT, 4, 0],
            Self::Fold(index) => [EVENT, 5, *index as u64],
            Self::Tick(index) => [EVENT, 6, *index as u64],
            Self::Commit(index) => [EVENT, 7, *index as u64],
            Self::Poll(index, _) => [EVENT, 8, *index as u64],
            Self::Done(index, _) => [EVENT, 9, *index as u64],
            Self::Deliver(index, ..) => [EVENT, 10, *index as u64],
            Self::Answer(index, ..) => [EVENT, 11, *index as u64],
            Self::Timeout(index, _) => [EVENT, 12, *index as u64],
            Self::Cut(index) => [EVENT, 13, *index as u64],
        }
    }
}

/// What is asked of the server.
#[derive(Clone)]
pub enum Request {
    /// A commit with chunks.
    Commit(Rc<CommitRequest>, Rc<Vec<(ChunkHash, Bytes)>>),
    /// A page of so many nodes, with chunks of contents up to so many bytes, for this device.
    Changes(Ask, usize, u64, DeviceId),
    /// Chunks.
    Put(Vec<(ChunkHash, Bytes)>),
    /// The bytes of a content.
    Fetch(ContentHash),
}

/// What the server says.
#[derive(Clone)]
pub enum Reply {
    /// To a commit.
    Committed(Result<Committed, ServiceError>),
    /// To a poll.
    Changes(Box<Result<Changes, ServiceError>>),
    /// To a put.
    Put(Result<(), ServiceError>),
    /// To a fetch.
    Fetched(Result<Vec<u8>, ServiceError>),
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit(request, chunks) => {
                write!(f, "Commit({:?}, {:?}, {} chunks)", request.op_id, request.ops, chunks.len())
            }
            Self::Changes(ask, limit, inline, _) => {
                let seq = |position: Option<Cursor>| position.map(|position| position.seq);
                write!(f, "Changes({:?}, {:?}, {limit}, {inline})", seq(ask.since), seq(ask.known))
            }
            Self::Put(chunks) => write!(f, "Put({} chunks)", chunks.len()),
            Self::Fetch(hash) => write!(f, "Fetch({hash:?})"),
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Committed(answer) => write!(f, "{answer:?}"),
            Self::Changes(answer) => match &**answer {
                Ok(Changes { page, chunks }) => {
                    write!(f, "Page(to {}, more {}, {} chunks", page.cursor.seq, page.more, chunks.len())?;
                    page.nodes.iter().try_for_each(|node| write!(f, ", {} {node:?}", node.rev))?;
                    write!(f, ")")
                }
                Err(error) => write!(f, "{error:?}"),
            },
            Self::Put(answer) => write!(f, "{answer:?}"),
            Self::Fetched(answer) => write!(f, "{:?}", answer.as_ref().map(Vec::len)),
        }
    }
}

/// Everything there is.
pub struct World {
    /// What kind of world it is.
    pub scenario: Scenario,
    /// A bug for the judge to find.
    pub planted: Option<Planted>,
    /// The chance of the present event.
    pub rng: Rng,
    /// True time, in nanoseconds.
    pub now: i64,
    /// The server.
    pub server: Server,
    /// The devices.
    pub devices: Vec<Device>,
    /// All byte strings.
    pub library: Library,
    /// What users did, for the judgement at the end.
    pub ledger: Ledger,
    /// What happened, a line each.
    pub trace: super::Trace,
    /// The first broken promise.
    pub violation: Option<String>,
    /// The present entry of the plan and how many byte strings it has made.
    pub tag: (usize, usize),
    /// No more faults, no more users.
    pub healed: bool,
    seed: u64,
    faults: Faults,
    deeds_left: usize,
    queue: BTreeMap<(i64, u64), Event>,
    next: u64,
}

impl World {
    /// A world that nothing has happened in.
    pub fn new(setup: &Setup) -> Self {
        let (scenario, seed) = (setup.scenario, setup.seed);
        let mut rng = Rng::of(&[seed]);
        let entries = setup.entries();
        let mut world = Self {
            planted: setup.planted,
            server: Server::with(rng.number(), BEGIN, setup.planted),
            rng,
            now: BEGIN,
            devices: (0..scenario.devices).map(Device::new).collect(),
            library: Library::default(),
            ledger: Ledger::default(),
            trace: super::Trace::new(setup.verbose),
            violation: None,
            tag: (0, 0),
            healed: false,
            seed,
            faults: setup.faults(),
            deeds_left: entries.len(),
            queue: BTreeMap::new(),
            next: 0,
            scenario,
        };
        world.library.enter(&std::sync::Arc::default());
        world.begin();
        for (number, entry) in entries {
            world.at(entry.at, Event::Deed(number, entry));
        }
        world
    }

    fn begin(&mut self) {
        for index in 0..self.devices.len() {
            self.rng = Rng::of(&[self.seed, index as u64]);
            self.devices[index].disk.trusts_cache = self.planted == Some(Planted::CacheTrusted);
            self.devices[index].ignores = self.scenario.ignores && index % 2 == 0;
            self.devices[index].applies_owners = index != 1;
            self.set_clock(index);
            let late = if self.rng.chance(800) { 0 } else { self.rng.delay_ms(1_000, 1_000_000) };
            let tick = self.rng.delay_ms(1, 1_000);
            self.at(late, Event::Boot(index));
            self.at(tick, Event::Tick(index));
        }
        if self.scenario.active == 1 {
            self.devices[0].expected = Some(view::View::new());
        }
    }

    /// The faults that are possible now.
    pub fn faults(&self) -> Faults {
        if self.healed { Faults::NONE } else { self.faults }
    }

    /// The time by a device's clock.
    pub fn clock(&self, index: usize) -> Timestamp {
        Timestamp(self.now.saturating_add(self.devices[index].skew))
    }

    /// A promise is broken.
    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A number that nothing has had yet.
    pub fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Schedules an event.
    pub fn at(&mut self, after: i64, event: Event) {
        let number = self.number();
        self.queue.insert((self.now + after, number), event);
    }

    /// Runs until users have done all they do.
    pub fn live(&mut self) {
        let mut steps = 0;
        while self.deeds_left > 0 && self.step() {
            steps += 1;
            if steps > LIVING_STEPS_MAX {
                return self.violated("somebody does the same again and again".to_owned());
            }
        }
    }

    /// Repairs everything and runs until nothing is left to do. Says so if that does not happen.
    pub fn heal(&mut self) {
        self.healed = true;
        self.trace.line(|| "-- healed --".to_owned());
        self.server.full = false;
        for index in 0..self.devices.len() {
            self.rng = Rng::of(&[self.seed, HEAL, index as u64]);
            (self.devices[index].online, self.devices[index].full) = (true, false);
            self.boot(index);
            self.close_all(index);
            self.changed(index);
            self.poll_soon(index, 0);
        }
        for step in 1..SETTLING_STEPS_MAX {
            if (step % 8 == 0 && self.is_quiet()) || !self.step() {
                return;
            }
            if step % LOOK_FOR_LOST_STEPS == 0 {
                self.give_up_lost();
            }
        }
        let waiting: Vec<_> = (0..self.devices.len()).filter_map(|index| self.unrest(index)).collect();
        self.violated(format!("livelock: {}", waiting.join("; ")));
    }

    fn is_quiet(&self) -> bool {
        (0..self.devices.len()).all(|index| self.unrest(index).is_none())
    }

    fn unrest(&self, index: usize) -> Option<String> {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return Some(format!("{index} is down")) };
        let end = self.server.end();
        // After a set-back the number says nothing about the history that it is of.
        let is_behind = match self.server.set_backs {
            0 => engine.cursor().is_none_or(|cursor| cursor.seq != end),
            _ => self.server.nodes().is_ok_and(|(_, cursor)| engine.cursor() != Some(cursor)),
        };
        let busy = device.waits.values().any(|wait| !matches!(wait, Wait::Poll { .. }));
        let reasons = [
            (engine.has_work(), "has work"),
            (engine.is_committing(), "commits"),
            (engine.has_news() || engine.wants_page_now(), "has or wants news"),
            (engine.stagings().any(|(id, _)| !engine.stays_here(id)), "has drafts"),
            (is_behind, "is behind"),
            (busy, "waits"),
        ];
        let reasons: Vec<_> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect();
        let drafts = || engine.stagings().map(|(id, draft)| format!("{id:?} {draft:?}")).collect::<Vec<_>>();
        let problems = || engine.problems().map(|(id, why)| format!("{id:?} {why}")).collect::<Vec<_>>();
        (!reasons.is_empty()).then(|| format!("{index} {} {:?} {:?}", reasons.join(", "), drafts(), problems()))
    }

    /// One event; `false` if there is none or a promise is broken.
    fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        let [kind, which, whom] = event.name();
        self.rng = Rng::of(&[self.seed, kind, which, whom, if kind == DEED { 0 } else { at as u64 }]);
        self.now = at;
        self.server.set_clock(at);
        self.trace.line(|| format!("{:>14.6} {event:?}", (at - BEGIN) as f64 / 1e9));
        self.happen(event);
        self.violation.is_none()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Deed(number, entry) => {
                self.deeds_left -= 1;
                self.tag = (number, 0);
                self.deed(entry);
            }
            Event::Boot(index) => self.boot(index),
            Event::Online(index) => {
                self.devices[index].online = true;
                self.poll_soon(index, 0);
            }
            Event::Room(index) => self.devices[index].full = false,
            Event::ServerRoom => self.server.full = false,
            Event::Cut(index) if !self.healed => self.cut(index),
            Event::Cut(_) => {}
            Event::Fold(index) => self.fold(index),
            Event::Tick(index) => {
                let now = self.clock(index);
                if let Some(engine) = &mut self.devices[index].engine {
                    engine.tick(now);
                    // Far fewer than elsewhere, so that there are some.
                    let surplus = engine.surplus_copies(SIM_COPIES_MAX);
                    let hashes = surplus.iter().filter_map(|id| engine.local(*id)?.body.content_hash());
                    self.ledger.versioned.extend(hashes);
                    self.ledger.removed.extend(&surplus);
                    engine.become_versions_of_files(surplus, now);
                    self.changed(index);
                }
                self.at(TICK_MS as i64 * 1_000_000, Event::Tick(index));
            }
            Event::Commit(index) => self.commit(index),
            Event::Poll(index, plan) if self.devices[index].poll_plan == plan => self.poll(index),
            Event::Poll(..) => {}
            Event::Done(index, ticket) => self.done(index, ticket),
            Event::Deliver(index, ticket, request, life) if life == self.server.set_backs => {
                self.deliver(index, ticket, &request);
            }
            Event::Deliver(..) => {}
            Event::Answer(index, ticket, reply) => self.answer(index, ticket, reply),
            Event::Timeout(index, ticket) => self.timeout(index, ticket),
        }
    }

    /// Sends a request on its way. It may never arrive, arrive late, in part, or, if it is a commit, twice.
    pub fn send(&mut self, index: usize, ticket: u64, mut request: Request) {
        let faults = self.faults();
        let (patience, life) = (self.rng.delay_ms(5_000, 60_000), self.server.set_backs);
        self.at(patience, Event::Timeout(index, ticket));
        if matches!(request, Request::Commit(..)) && self.rng.chance(faults.doubled) {
            let delay = self.rng.delay_ms(1, 3_600_000);
            self.at(delay, Event::Deliver(index, 0, request.clone(), life));
        }
        if !self.devices[index].online || self.rng.chance(faults.lost) {
            return;
        }
        let delay = self.rng.delay_ms(1, faults.delay_ms);
        let mut ticket = ticket;
        if let Request::Put(chunks) = &mut request
            && chunks.len() > 1
            && self.rng.chance(faults.torn)
        {
            chunks.truncate(self.rng.index(chunks.len()));
            ticket = 0;
        }
        self.at(delay, Event::Deliver(index, ticket, request, life));
    }

    fn deliver(&mut self, index: usize, ticket: u64, request: &Request) {
        let reply = match request {
            Request::Commit(request, chunks) => {
                let end = self.server.end();
                let answer = self.server.commit(request, chunks);
                if self.server.end() != end {
                    self.wake_listeners();
                }
                Reply::Committed(answer)
            }
            Request::Changes(ask, limit, inline, device) => {
                Reply::Changes(Box::new(self.server.changes_with(*ask, *limit, *inline, Some(*device))))
            }
            Request::Put(chunks) => Reply::Put(self.server.put(chunks.clone())),
            Request::Fetch(hash) => Reply::Fetched(self.server.bytes(*hash)),
        };
        let faults = self.faults();
        if ticket == 0 || !self.devices[index].online || self.rng.chance(faults.lost) {
            return;
        }
        let delay = self.rng.delay_ms(1, faults.delay_ms);
        self.at(delay, Event::Answer(index, ticket, reply));
    }
}
