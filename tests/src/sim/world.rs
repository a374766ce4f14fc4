//! The event loop: one queue ordered by virtual time, one network that misbehaves, and the driver's part of each device.

use super::bytes::{Library, content_of, sealed};
use super::device::{Device, Preparing, Sending, Wait};
use super::oracle::Ledger;
use super::server::Server;
use super::view;
use super::{Faults, Rng, Scenario};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use syncmount_common::protocol::changes::{ChangesPage, Cursor, Device as Named};
use syncmount_common::protocol::commit::{CommitRequest, Committed, ConflictDetails};
use syncmount_common::{ChunkHash, Content, DeviceId, NodeId, Timestamp};
use syncmount_engine::{CommitAnswer, Effect, PrepareAnswer};
use syncmount_server::service::ServiceError;

/// 2026-11-22, in nanoseconds.
const BEGIN: i64 = 1_795_305_600_000_000_000;

/// How often the clock of a device ticks.
const TICK_MS: u64 = 30_000;

/// Steps after the network is healed within which the world must come to rest.
const SETTLING_STEPS_MAX: usize = 10_000;

/// Something that happens at a moment.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user does something.
    Act(usize),
    /// A device's process ends without warning.
    Crash(usize),
    /// It starts.
    Boot(usize),
    /// A device loses or finds the network.
    Online(usize, bool),
    /// A device's clock is set.
    SetClock(usize),
    /// What failed is tried again.
    Tick(usize),
    /// A device looks for a commit to send.
    Commit(usize),
    /// A device asks for a page, unless another time was set for it meanwhile.
    Poll(usize, u64),
    /// Work on a device is done.
    Done(usize, u64),
    /// A request arrives at the server.
    Deliver(usize, u64, Request),
    /// An answer arrives at the device.
    Answer(usize, u64, Reply),
    /// A device gives up waiting for an answer.
    Timeout(usize, u64),
    /// The server's process is replaced.
    RestartServer,
}

/// What is asked of the server.
#[derive(Clone)]
pub enum Request {
    /// A commit with chunks.
    Commit(Rc<CommitRequest>, Rc<Vec<(ChunkHash, Bytes)>>),
    /// A page of so many nodes.
    Changes(Option<Cursor>, usize),
    /// Chunks.
    Put(Vec<(ChunkHash, Bytes)>),
}

/// What the server says.
#[derive(Clone)]
pub enum Reply {
    /// To a commit.
    Committed(Result<Committed, ServiceError>),
    /// To a poll.
    Changes(Result<ChangesPage, ServiceError>),
    /// To a put.
    Put(Result<(), ServiceError>),
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Commit(request, chunks) => {
                write!(f, "Commit({:?}, {:?}, {} chunks)", request.op_id, request.ops, chunks.len())
            }
            Self::Changes(since, limit) => write!(f, "Changes({:?}, {limit})", since.map(|cursor| cursor.seq)),
            Self::Put(chunks) => write!(f, "Put({} chunks)", chunks.len()),
        }
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Committed(answer) => write!(f, "{answer:?}"),
            Self::Changes(Ok(page)) => {
                write!(f, "Page(to {}, more {}", page.cursor.seq, page.more)?;
                page.nodes.iter().try_for_each(|node| write!(f, ", {} {node:?}", node.rev))?;
                write!(f, ")")
            }
            Self::Changes(Err(error)) => write!(f, "{error:?}"),
            Self::Put(answer) => write!(f, "{answer:?}"),
        }
    }
}

/// Everything there is.
pub struct World {
    /// What kind of world it is.
    pub scenario: Scenario,
    /// All chance.
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
    /// How many actions of users are to come.
    pub actions_left: u32,
    queue: BTreeMap<(i64, u64), Event>,
    next: u64,
    /// No more faults, no more users.
    healed: bool,
}

impl World {
    /// A world that nothing has happened in.
    pub fn new(seed: u64, scenario: Scenario, verbose: bool) -> Self {
        let mut rng = Rng::new(seed);
        let server = Server::new(rng.number(), BEGIN);
        let devices = (0..scenario.devices).map(|index| {
            let id = DeviceId::new_v7(1_000 + index as u64, &[index as u8; 10]);
            Device::new(Named { id, name: format!("device {}", (b'A' + index as u8) as char) })
        });
        let mut world = Self {
            rng,
            now: BEGIN,
            server,
            devices: devices.collect(),
            library: Library::default(),
            ledger: Ledger::default(),
            trace: super::Trace::new(verbose),
            violation: None,
            actions_left: scenario.actions,
            queue: BTreeMap::new(),
            next: 0,
            healed: false,
            scenario,
        };
        world.begin();
        world
    }

    fn begin(&mut self) {
        for index in 0..self.devices.len() {
            self.set_clock(index);
            let late = if self.rng.chance(800) { 0 } else { self.rng.delay_ms(1_000, 1_000_000) };
            self.at(late, Event::Boot(index));
            self.at(self.rng.clone().delay_ms(1, 1_000), Event::Tick(index));
            if index < self.scenario.active {
                self.at(late + 1, Event::Act(index));
            }
        }
        if self.scenario.active == 1 {
            self.devices[0].expected = Some(view::View::new());
        }
    }

    /// The faults that are possible now.
    pub fn faults(&self) -> Faults {
        if self.healed { Faults::NONE } else { self.scenario.faults }
    }

    /// The time by a device's clock.
    pub fn clock(&self, index: usize) -> Timestamp {
        Timestamp(self.now.saturating_add(self.devices[index].skew))
    }

    /// A promise is broken.
    pub fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// Schedules an event.
    pub fn at(&mut self, after: i64, event: Event) {
        self.next += 1;
        self.queue.insert((self.now + after, self.next), event);
    }

    /// Runs until users have done all they do.
    pub fn live(&mut self) {
        while self.actions_left > 0 && self.step() {}
    }

    /// Repairs everything and runs until nothing is left to do. Says so if that does not happen.
    pub fn heal(&mut self) {
        self.healed = true;
        self.trace.line(|| "-- healed --".to_owned());
        for index in 0..self.devices.len() {
            self.devices[index].online = true;
            if self.devices[index].engine.is_none() {
                self.boot(index);
            }
            self.close_all(index);
            self.poll_soon(index, 0);
        }
        for step in 0..SETTLING_STEPS_MAX {
            if (step % 8 == 0 && self.is_quiet()) || !self.step() {
                return;
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
        let end = self.server.end;
        let busy = device.waits.values().any(|wait| !matches!(wait, Wait::Poll { .. }));
        let reasons = [
            (engine.has_work(), "has work"),
            (engine.is_committing(), "commits"),
            (engine.has_news() || engine.wants_page_now(), "has or wants news"),
            (engine.stagings().next().is_some(), "has drafts"),
            (engine.cursor().is_none_or(|cursor| cursor.seq != end), "is behind"),
            (busy, "waits"),
        ];
        let reasons: Vec<_> = reasons.iter().filter(|(holds, _)| *holds).map(|(_, text)| *text).collect();
        let drafts = || engine.stagings().map(|(id, draft)| format!("{id:?} {draft:?}")).collect::<Vec<_>>();
        (!reasons.is_empty()).then(|| format!("{index} {} {:?}", reasons.join(", "), drafts()))
    }

    /// One event; `false` if there is none or a promise is broken.
    fn step(&mut self) -> bool {
        let Some(((at, _), event)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.server.set_clock(at);
        self.trace.line(|| format!("{:>14.6} {event:?}", (at - BEGIN) as f64 / 1e9));
        self.happen(event);
        self.violation.is_none()
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(..) | Event::Crash(..) | Event::SetClock(..) if self.healed => {}
            Event::Act(index) => self.act_and_go_on(index),
            Event::Crash(index) => self.crash(index),
            Event::Boot(index) => self.boot(index),
            Event::Online(index, online) => {
                self.devices[index].online = online;
                if online {
                    self.poll_soon(index, 0);
                }
            }
            Event::SetClock(index) => self.set_clock(index),
            Event::Tick(index) => {
                let now = self.clock(index);
                if let Some(engine) = &mut self.devices[index].engine {
                    engine.tick(now);
                    self.changed(index);
                }
                self.at(TICK_MS as i64 * 1_000_000, Event::Tick(index));
            }
            Event::Commit(index) => self.commit(index),
            Event::Poll(index, plan) if self.devices[index].poll_plan == plan => self.poll(index),
            Event::Poll(..) => {}
            Event::Done(index, ticket) => self.done(index, ticket),
            Event::Deliver(index, ticket, request) => self.deliver(index, ticket, &request),
            Event::Answer(index, ticket, reply) => self.answer(index, ticket, reply),
            Event::Timeout(index, ticket) => self.timeout(index, ticket),
            Event::RestartServer => self.server.restart(),
        }
    }

    fn set_clock(&mut self, index: usize) {
        const SECOND: i64 = 1_000_000_000;
        let year = 365 * 24 * 3600 * SECOND;
        let skews = [0, 0, SECOND, -SECOND, 90 * SECOND, -3600 * SECOND, year, -3 * year, -50 * year];
        self.devices[index].skew = self.rng.pick(&skews).copied().unwrap_or(0);
    }

    fn crash(&mut self, index: usize) {
        self.trace.line(|| format!("    device {index} crashes"));
        self.devices[index].crash();
        let pause = self.rng.delay_ms(1, 600_000);
        self.at(pause, Event::Boot(index));
    }

    fn boot(&mut self, index: usize) {
        if self.devices[index].engine.is_some() {
            return;
        }
        let (seed, now) = (self.rng.number(), self.clock(index));
        if let Err(what) = self.devices[index].boot(seed, now) {
            self.violated(format!("device {index} at start: {what}"));
            return;
        }
        self.declare_all(index);
        self.changed(index);
        self.poll_soon(index, 0);
    }

    /// A device may crash at this point.
    fn may_crash(&mut self, index: usize) -> bool {
        let crashes = self.faults().crash > 0 && self.rng.below(100_000) < self.faults().crash;
        if crashes {
            self.crash(index);
        }
        crashes
    }

    /// Keeps what has changed; `false` if that failed or the device crashed before.
    pub fn keep(&mut self, index: usize) -> bool {
        if self.may_crash(index) {
            return false;
        }
        let fails = self.rng.chance(self.faults().keep_failed);
        let device = &mut self.devices[index];
        let Some(engine) = &mut device.engine else { return false };
        let record = engine.take_record();
        if record.is_empty() {
            return true;
        }
        engine.check();
        if fails {
            engine.keep_failed(record);
            return false;
        }
        device.disk.keep(record);
        device.kept = view::of_engine(engine, None);
        true
    }

    /// To be called after every change of an engine: keeps, carries out effects, looks for a commit.
    pub fn changed(&mut self, index: usize) {
        for _ in 0..10_000 {
            let now = self.clock(index);
            let device = &mut self.devices[index];
            let Some(engine) = &mut device.engine else { return };
            while let Some(effect) = engine.poll(now) {
                device.unkept.push_back(effect);
            }
            if !self.keep(index) {
                return;
            }
            let effects = std::mem::take(&mut self.devices[index].unkept);
            if effects.is_empty() {
                break;
            }
            for effect in effects {
                self.trace.line(|| format!("    device {index} {effect:?}"));
                self.run(index, effect);
            }
        }
        self.check_expected(index);
        let delay = self.rng.delay_ms(1, 30);
        let device = &mut self.devices[index];
        let work = device.engine.as_ref().is_some_and(|engine| engine.has_work() && !engine.is_committing());
        if work && !device.commit_due {
            device.commit_due = true;
            self.at(delay, Event::Commit(index));
        }
    }

    fn check_expected(&mut self, index: usize) {
        let device = &self.devices[index];
        let (Some(expected), Some(engine)) = (&device.expected, &device.engine) else { return };
        if let Some(difference) = view::difference(expected, &view::of_engine(engine, Some(&device.disk))) {
            self.violated(format!("the only active device sees what its user did not do at {difference}"));
        }
    }

    fn run(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Prepare { node, generation, upload } => {
                let bytes = self.devices[index].snapshot(node, generation);
                self.work(index, Wait::Prepare(Preparing { node, generation, bytes, upload }), 1, 20_000);
            }
            Effect::Settle { node, generation, .. } => {
                self.work(index, Wait::Settle { node, generation }, 1, 1_000);
            }
            Effect::Supply { node, content } => self.supply(index, node, content),
            Effect::DropStaging(id) => self.devices[index].disk.unstage(id),
            Effect::DraftMoved { from, to } => {
                let files = &mut self.devices[index].files;
                if let Some(file) = files.remove(&from) {
                    files.insert(to, file);
                }
            }
            Effect::Changed(changed) => self.devices[index].refresh_open(&changed),
        }
    }

    /// Work on the device itself, done after a while.
    fn work(&mut self, index: usize, wait: Wait, low: u64, high: u64) {
        let (delay, ticket) = (self.rng.delay_ms(low, high), self.ticket(index, wait));
        self.at(delay, Event::Done(index, ticket));
    }

    fn ticket(&mut self, index: usize, wait: Wait) -> u64 {
        self.next += 1;
        self.devices[index].waits.insert(self.next, wait);
        self.next
    }

    fn supply(&mut self, index: usize, node: NodeId, content: Arc<Content>) {
        let bytes = self.library.get(content.hash).cloned();
        let chunks = bytes.and_then(|bytes| sealed(&bytes)).into_iter().collect();
        let ticket = self.ticket(index, Wait::Supply(node, content));
        self.send(index, ticket, Request::Put(chunks));
    }

    fn supplied(&mut self, index: usize, node: NodeId, content: &Arc<Content>) {
        if let Some(engine) = &mut self.devices[index].engine {
            engine.supplied(node, content);
            self.changed(index);
        }
    }

    fn done(&mut self, index: usize, ticket: u64) {
        match self.devices[index].waits.remove(&ticket) {
            Some(Wait::Prepare(work)) => self.prepare(index, work),
            Some(Wait::Settle { node, generation }) => self.settle(index, node, generation),
            _ => {}
        }
    }

    fn prepare(&mut self, index: usize, work: Preparing) {
        let (node, generation) = (work.node, work.generation);
        let Some(bytes) = work.bytes.clone().filter(|_| !self.devices[index].is_outdated(node, generation)) else {
            return self.prepared(index, node, generation, PrepareAnswer::Outdated);
        };
        if self.rng.chance(self.faults().prepare_failed) {
            let answer = PrepareAnswer::Failed("the disk made a noise".to_owned());
            return self.prepared(index, node, generation, answer);
        }
        let content = self.library.enter(&bytes);
        let Some((hash, envelope)) = sealed(&bytes) else {
            return self.prepared(index, node, generation, PrepareAnswer::Ready(Arc::new(content)));
        };
        if work.upload {
            let ticket = self.ticket(index, Wait::Upload(work));
            self.send(index, ticket, Request::Put(vec![(hash, envelope)]));
        } else {
            self.devices[index].outbox.insert(hash, envelope);
            self.prepared(index, node, generation, PrepareAnswer::Ready(Arc::new(content)));
        }
    }

    fn prepared(&mut self, index: usize, node: NodeId, generation: u64, answer: PrepareAnswer) {
        let now = self.clock(index);
        if let Some(engine) = &mut self.devices[index].engine {
            engine.prepared(node, generation, answer, now);
            self.changed(index);
        }
    }

    fn settle(&mut self, index: usize, node: NodeId, generation: u64) {
        let device = &mut self.devices[index];
        let Ok(file) = device.open(node) else { return };
        if file.clean.is_some() || file.generation != generation || file.told != generation {
            return;
        }
        let Some(engine) = &mut device.engine else { return };
        let staging = engine.settle(node, generation);
        if !self.keep(index) {
            // The driver leaves the file as it is; the row says that it is clean.
            return self.changed(index);
        }
        let device = &mut self.devices[index];
        if let Some(staging) = staging {
            let content = device.engine.as_ref().and_then(|engine| engine.local(node)?.body.content().cloned());
            if let Some(open) = device.files.get_mut(&node) {
                (open.clean, open.staging, open.told_ready) = (content.clone(), None, true);
            }
            let bytes = staging.and_then(|id| device.disk.read(id)).unwrap_or_default();
            if content.is_none_or(|content| content.hash != content_of(&bytes).hash) {
                self.violated(format!("device {index} settled {node:?} as other bytes than it staged"));
                return;
            }
            staging.iter().for_each(|id| device.disk.unstage(*id));
        }
        self.changed(index);
    }

    fn commit(&mut self, index: usize) {
        let now = self.clock(index);
        let device = &mut self.devices[index];
        device.commit_due = false;
        let Some(engine) = &mut device.engine else { return };
        let Some(request) = engine.next_commit(now) else { return };
        while !self.keep(index) {
            if self.devices[index].engine.is_none() {
                return;
            }
        }
        let device = &mut self.devices[index];
        let hashes = request.contents.iter().flat_map(|content| content.manifest.chunks());
        let chunks = hashes.filter_map(|(hash, _)| Some((hash, device.outbox.get(&hash)?.clone()))).collect();
        device.sending = Some(Sending { request: Rc::new(request), chunks: Rc::new(chunks), ticket: 0 });
        self.send_commit(index);
    }

    fn send_commit(&mut self, index: usize) {
        let ticket = self.ticket(index, Wait::Commit);
        let Some(sending) = &mut self.devices[index].sending else { return };
        sending.ticket = ticket;
        let request = Request::Commit(sending.request.clone(), sending.chunks.clone());
        self.send(index, ticket, request);
    }

    fn poll_soon(&mut self, index: usize, after: i64) {
        self.next += 1;
        self.devices[index].poll_plan = self.next;
        self.at(after, Event::Poll(index, self.next));
    }

    fn poll(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        if device.waits.values().any(|wait| matches!(wait, Wait::Poll { .. })) {
            return;
        }
        if engine.has_news() {
            return self.poll_soon(index, 20_000_000_000);
        }
        let (from, now) = (engine.next_page_from(), engine.wants_page_now());
        let limit = if self.rng.chance(500) { 1 + self.rng.index(5) } else { 1 + self.rng.index(50) };
        let ticket = self.ticket(index, Wait::Poll { from, now });
        self.send(index, ticket, Request::Changes(from, limit));
    }

    /// Sends a request on its way. It may never arrive, arrive late, or, if it is a commit, arrive twice.
    fn send(&mut self, index: usize, ticket: u64, request: Request) {
        let faults = self.faults();
        if ticket != 0 {
            let patience = self.rng.delay_ms(5_000, 60_000);
            self.at(patience, Event::Timeout(index, ticket));
        }
        if matches!(request, Request::Commit(..)) && self.rng.chance(faults.doubled) {
            let delay = self.rng.delay_ms(1, 3_600_000);
            self.at(delay, Event::Deliver(index, 0, request.clone()));
        }
        if self.devices[index].online && !self.rng.chance(faults.lost) {
            let delay = self.rng.delay_ms(1, faults.delay_ms);
            self.at(delay, Event::Deliver(index, ticket, request));
        }
    }

    fn deliver(&mut self, index: usize, ticket: u64, request: &Request) {
        let reply = match request {
            Request::Commit(request, chunks) => Reply::Committed(self.server.commit(request, chunks)),
            Request::Changes(since, limit) => Reply::Changes(self.server.changes(*since, *limit)),
            Request::Put(chunks) => Reply::Put(self.server.put(chunks.clone())),
        };
        let faults = self.faults();
        if ticket == 0 || !self.devices[index].online || self.rng.chance(faults.lost) {
            return;
        }
        let delay = self.rng.delay_ms(1, faults.delay_ms);
        self.at(delay, Event::Answer(index, ticket, reply));
    }

    fn answer(&mut self, index: usize, ticket: u64, reply: Reply) {
        let Some(wait) = self.devices[index].waits.remove(&ticket) else { return };
        match (wait, reply) {
            (Wait::Commit, Reply::Committed(answer)) => self.committed(index, answer),
            (Wait::Poll { from, now }, Reply::Changes(answer)) => self.page(index, from, now, answer),
            (Wait::Upload(work), Reply::Put(answer)) => {
                let outdated = self.devices[index].is_outdated(work.node, work.generation);
                let content = content_of(&work.bytes.unwrap_or_default());
                let answer = match answer {
                    _ if outdated => PrepareAnswer::Outdated,
                    Ok(()) => PrepareAnswer::Ready(Arc::new(content)),
                    Err(error) => PrepareAnswer::Failed(error.to_string()),
                };
                self.prepared(index, work.node, work.generation, answer);
            }
            (Wait::Supply(node, content), Reply::Put(Ok(()))) => self.supplied(index, node, &content),
            (wait, reply) => self.violated(format!("{reply:?} answers {wait:?}")),
        }
    }

    fn committed(&mut self, index: usize, answer: Result<Committed, ServiceError>) {
        let refuses = self.rng.chance(self.faults().rejected);
        let answer = match answer {
            Ok(done) => CommitAnswer::Committed(done),
            Err(ServiceError::Conflict(conflicts)) if refuses => {
                CommitAnswer::Rejected(format!("a proxy does not like {} conflicts", conflicts.len()))
            }
            Err(ServiceError::Missing(missing)) if refuses => {
                CommitAnswer::Rejected(format!("a proxy does not like {} chunks missing", missing.chunks.len()))
            }
            Err(ServiceError::Conflict(conflicts)) => {
                if self.scenario.active == 1 && !self.scenario.faults.forgets() {
                    self.violated(format!("the only active device has a conflict: {conflicts:?}"));
                }
                CommitAnswer::Conflict(ConflictDetails { conflicts })
            }
            Err(ServiceError::Missing(missing)) => CommitAnswer::Missing(missing),
            Err(ServiceError::Resync(_)) => CommitAnswer::Resync,
            Err(error) => return self.violated(format!("the server refuses a commit of device {index}: {error}")),
        };
        let now = self.clock(index);
        let device = &mut self.devices[index];
        let Some(sending) = device.sending.take() else { return };
        for (hash, _) in sending.chunks.iter() {
            device.outbox.remove(hash);
        }
        let wants_page = !matches!(answer, CommitAnswer::Committed(_));
        if let Some(engine) = &mut device.engine {
            engine.committed(sending.request.op_id, answer, now);
            self.changed(index);
        }
        if wants_page {
            self.page_wanted(index);
        }
    }

    /// A held poll is given up for one that is answered at once; now and then its answer is quicker.
    fn page_wanted(&mut self, index: usize) {
        if !self.rng.chance(100) {
            self.devices[index].waits.retain(|_, wait| !matches!(wait, Wait::Poll { .. }));
        }
        self.poll_soon(index, 0);
    }

    fn page(&mut self, index: usize, from: Option<Cursor>, now: bool, answer: Result<ChangesPage, ServiceError>) {
        let Some(engine) = &mut self.devices[index].engine else { return };
        // Instead of a held poll: asked again after a while, less often the longer it takes.
        let mut pause = self.rng.delay_ms(1, if self.healed { 20_000 } else { 600_000 });
        match answer {
            Ok(page) => {
                if !page.nodes.is_empty() || page.more || from != Some(page.cursor) || now {
                    engine.page(from, page);
                    pause = 0;
                }
            }
            Err(ServiceError::Resync(_)) => engine.begin_resync(),
            Err(error) => return self.violated(format!("the server refuses a poll of device {index}: {error}")),
        }
        self.changed(index);
        self.poll_soon(index, pause.max(1_000_000));
    }

    fn timeout(&mut self, index: usize, ticket: u64) {
        match self.devices[index].waits.remove(&ticket) {
            Some(Wait::Commit) => self.send_commit(index),
            Some(Wait::Poll { .. }) => {
                let pause = self.rng.delay_ms(100, 30_000);
                self.poll_soon(index, pause);
            }
            Some(Wait::Upload(work)) => {
                self.prepared(index, work.node, work.generation, PrepareAnswer::Unreachable);
            }
            _ => {}
        }
    }

    fn act_and_go_on(&mut self, index: usize) {
        self.actions_left = self.actions_left.saturating_sub(1);
        if self.devices[index].engine.is_some() {
            self.act(index);
        }
        self.misfortune(index);
        let pause =
            if self.rng.chance(700) { self.rng.delay_ms(1, 2_000) } else { self.rng.delay_ms(1_000, 7_200_000) };
        self.at(pause, Event::Act(index));
    }

    /// Things that happen to a device every now and then.
    fn misfortune(&mut self, near: usize) {
        let faults = self.faults();
        let index = if self.rng.chance(800) { near } else { self.rng.index(self.devices.len()) };
        if self.rng.chance(faults.offline) {
            self.devices[index].online = false;
            let spell = self.rng.delay_ms(1_000, 40_000_000);
            self.at(spell, Event::Online(index, true));
        }
        if self.rng.chance(faults.crash.min(50)) {
            let soon = self.rng.delay_ms(1, 5_000);
            self.at(soon, Event::Crash(index));
        }
        if self.rng.chance(faults.clock_set) {
            self.at(1, Event::SetClock(index));
        }
        if self.rng.chance(faults.server_restart) {
            self.at(1, Event::RestartServer);
        }
    }
}
