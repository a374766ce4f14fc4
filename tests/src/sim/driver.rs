//! The driver's part of each device: keeps what the engine decides, carries out its effects, sends its commits, follows
//! the feed. The order of every change is the shipped driver's: decide, keep, answer, carry out.

use super::bytes::{PIECE, content_of, sealed};
use super::device::{Backing, Preparing, Sending, Wait};
use super::world::{Event, Reply, Request, World};
use super::{Planted, view};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use syncmount_common::protocol::changes::Ask;
use syncmount_common::protocol::commit::{Committed, ConflictDetails};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{Content, ContentHash, DeviceId, NodeId, NodeKind, OpId};
use syncmount_engine::{CommitAnswer, Draft, Effect, Engine, PrepareAnswer};
use syncmount_server::service::{Changes, ServiceError};

/// How long a record stays in the journal only.
const FOLD_AFTER_NS: i64 = 2_000_000_000;

impl World {
    /// A device's process starts.
    pub fn boot(&mut self, index: usize) {
        if self.devices[index].engine.is_some() {
            return;
        }
        let (seed, now, planted) = (self.rng.number(), self.clock(index), self.planted);
        let device = &mut self.devices[index];
        // What an earlier session left in the journal is folded before anything else.
        device.disk.sync_journal();
        let had_memory = device.kept.is_some();
        if let Err(what) = device.boot(index, seed, now, planted) {
            self.violated(format!("device {index} at start: {what}"));
            return;
        }
        if !had_memory {
            self.check_fsynced(index);
            self.rename_fsynced(index);
        }
        self.declare_all(index);
        if self.keep(index) {
            // Everything has been looked at; what is written from now on survives this process.
            let disk = &mut self.devices[index].disk;
            disk.sync_journal();
            disk.suspect = false;
            self.changed(index);
        } else {
            // A client that cannot keep what it found at its start ends.
            self.crash(index);
        }
        self.poll_soon(index, 0);
    }

    /// The journal is folded, and the operating system writes what it likes.
    pub fn fold(&mut self, index: usize) {
        let device = &mut self.devices[index];
        device.fold_due = false;
        if device.engine.is_some() && device.disk.is_unfolded() {
            device.disk.sync_journal();
            device.disk.write_back(&mut self.rng);
            self.sync_waiting(index);
        }
    }

    /// What waits to be sent is synced now and then although nobody asked for it.
    fn sync_waiting(&mut self, index: usize) {
        let device = &self.devices[index];
        let drafts = device.engine.iter().flat_map(|engine| engine.stagings());
        let waiting: BTreeMap<NodeId, Draft> = drafts
            .filter(|(_, draft)| draft.ready && !device.disk.is_marked(draft))
            .map(|(id, draft)| (id, draft.clone()))
            .collect();
        for node in waiting.into_keys() {
            if self.rng.chance(300) {
                self.sync_draft(index, node);
            }
        }
    }

    /// Syncs the bytes of a file and marks them, unless somebody has written to it since the tree was told.
    pub fn sync_draft(&mut self, index: usize, node: NodeId) {
        let device = &mut self.devices[index];
        let Ok(file) = device.open(node) else { return };
        let Some(staging) = file.staging() else { return };
        if self.planted != Some(Planted::FsyncWithoutBytes) {
            device.disk.sync_staging(Some(staging));
        }
        if file.told == file.generation && file.told_ready {
            device.disk.mark(staging, file.generation);
        }
    }

    /// A device may crash at this point.
    fn may_crash(&mut self, index: usize) -> bool {
        let crashes = self.rng.below(100_000) < self.faults().crash_point;
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
        device.disk.keep(engine, record);
        device.kept = Some(view::of_engine(engine, None));
        if !std::mem::replace(&mut device.fold_due, true) {
            let late = self.rng.delay_ms(1, 5_000);
            self.at(FOLD_AFTER_NS + late, Event::Fold(index));
        }
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
            if self.planted == Some(Planted::CopySkipped) {
                skip_copies(engine, now);
            }
            if !self.keep(index) {
                return;
            }
            self.check_feed(index);
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

    fn run(&mut self, index: usize, effect: Effect) {
        match effect {
            Effect::Prepare { node, generation, upload } => {
                let draft = self.devices[index].snapshot(node, generation);
                let work = Preparing { node, generation, draft, bytes: Arc::default(), upload };
                self.work(index, Wait::Prepare(work), 1, 20_000);
            }
            Effect::Settle { node, generation, .. } => {
                self.work(index, Wait::Settle { node, generation }, 1, 1_000);
            }
            Effect::Supply { node, content } => self.supply(index, node, content),
            Effect::DropStaging(id) => {
                self.keep_before_dropping(index, Some(id));
                self.devices[index].disk.unstage(id);
            }
            Effect::DraftMoved { from, to } => self.devices[index].moved(from, to),
            Effect::ReadRules => {
                if let Some(engine) = &mut self.devices[index].engine {
                    super::device::apply_rules(engine);
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
        let ticket = self.number();
        self.devices[index].waits.insert(ticket, wait);
        ticket
    }

    /// Uploads from the cache what the server lacks. What is not in the cache is not on this device.
    fn supply(&mut self, index: usize, node: NodeId, content: Arc<Content>) {
        let Some(bytes) = self.devices[index].disk.cached(content.hash).map(<[u8]>::to_vec) else { return };
        let ticket = self.ticket(index, Wait::Supply(node, content));
        self.send(index, ticket, Request::Put(sealed(&bytes)));
    }

    fn supplied(&mut self, index: usize, node: NodeId, hash: ContentHash) {
        let content = self.library.get(hash).map(|bytes| Arc::new(content_of(bytes)));
        if let (Some(engine), Some(content)) = (&mut self.devices[index].engine, content) {
            engine.supplied(node, &content);
            self.changed(index);
        }
    }

    /// Somebody wants to read a content that is not in the cache.
    pub fn fetch(&mut self, index: usize, hash: ContentHash) {
        let ticket = self.ticket(index, Wait::Fetch(hash));
        self.send(index, ticket, Request::Fetch(hash));
    }

    fn fetched(&mut self, index: usize, hash: ContentHash, mut bytes: Vec<u8>) {
        if self.rng.chance(self.faults().garbled)
            && let Some(byte) = bytes.last_mut()
        {
            *byte ^= 1;
        }
        if content_of(&bytes).hash == hash || self.planted == Some(Planted::BytesUnverified) {
            self.devices[index].disk.cache(hash, &bytes);
        }
    }

    /// Work on a device is done.
    pub fn done(&mut self, index: usize, ticket: u64) {
        match self.devices[index].waits.remove(&ticket) {
            Some(Wait::Prepare(work)) => self.prepare(index, work),
            Some(Wait::Settle { node, generation }) => self.settle(index, node, generation),
            Some(Wait::Again(work)) => {
                self.prepared(index, work.node, work.generation, PrepareAnswer::Unreachable);
            }
            _ => {}
        }
    }

    fn prepare(&mut self, index: usize, mut work: Preparing) {
        let (node, generation) = (work.node, work.generation);
        let outdated = self.devices[index].is_outdated(node, generation);
        let Some(draft) = work.draft.clone().filter(|_| !outdated) else {
            return self.prepared(index, node, generation, PrepareAnswer::Outdated);
        };
        if self.rng.chance(self.faults().prepare_failed) {
            let answer = PrepareAnswer::Failed("the disk made a noise".to_owned());
            return self.prepared(index, node, generation, answer);
        }
        let device = &self.devices[index];
        let mut from_server = None;
        let mut base = None;
        if let Some(content) = &draft.base {
            if device.online && device.disk.cached(content.hash).is_none() {
                from_server = self.server.bytes(content.hash).ok();
            }
            base = device.disk.cached(content.hash).or(from_server.as_deref());
        }
        let Some(bytes) = device.disk.draft_bytes(&draft, base) else {
            if device.online {
                let answer = PrepareAnswer::Failed("bytes beneath it are nowhere".to_owned());
                return self.prepared(index, node, generation, answer);
            }
            return self.work(index, Wait::Again(work), 1_000, 60_000);
        };
        let content = content_of(&bytes);
        self.ledger.found.insert(node, content.hash);
        self.trace.line(|| format!("    device {index} finds {:?} in {node:?}", String::from_utf8_lossy(&bytes)));
        if work.upload || bytes.len() > PIECE {
            let chunks = sealed(&bytes);
            work.bytes = bytes;
            let ticket = self.ticket(index, Wait::Upload(work));
            self.send(index, ticket, Request::Put(chunks));
        } else {
            self.devices[index].outbox.extend(sealed(&bytes));
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

    fn uploaded(&mut self, index: usize, work: Preparing, answer: Result<(), ServiceError>) {
        let outdated = self.devices[index].is_outdated(work.node, work.generation);
        let mut generation = work.generation;
        let answer = match answer {
            _ if outdated && self.planted == Some(Planted::GenerationIgnored) => {
                generation = self.devices[index].files.get(&work.node).map_or(generation, |file| file.told);
                PrepareAnswer::Ready(Arc::new(content_of(&work.bytes)))
            }
            _ if outdated => PrepareAnswer::Outdated,
            Ok(()) => PrepareAnswer::Ready(Arc::new(content_of(&work.bytes))),
            Err(error) if error.code() == ErrorCode::InsufficientStorage => {
                return self.work(index, Wait::Again(work), 1_000, 60_000);
            }
            Err(error) => PrepareAnswer::Failed(error.to_string()),
        };
        self.prepared(index, work.node, generation, answer);
    }

    /// After a power cut the name of a staging file whose bytes were promised must not be gone while its row is not.
    fn keep_before_dropping(&mut self, index: usize, staging: Option<u64>) {
        let device = &mut self.devices[index];
        let is_marked = staging.is_some_and(|id| device.disk.has_mark(id));
        if is_marked && self.planted != Some(Planted::RenamedBeforeSync) {
            device.disk.sync_journal();
        }
    }

    fn settle(&mut self, index: usize, node: NodeId, generation: u64) {
        let Ok(file) = self.devices[index].open(node) else { return };
        let Backing::Draft(draft) = &file.backing else { return };
        self.keep_before_dropping(index, draft.staging);
        let device = &mut self.devices[index];
        if file.generation != generation || file.told != generation {
            return;
        }
        let whole = draft.present.first() == Some(&(0, draft.size)) && draft.staging.is_some();
        let base = draft.base.as_ref().and_then(|base| device.disk.cached(base.hash));
        let bytes = device.disk.draft_bytes(draft, base);
        let Some(engine) = &mut device.engine else { return };
        let staging = engine.settle(node, generation);
        if !self.keep(index) {
            // The driver leaves the file as it is; the row says that it is clean.
            return self.changed(index);
        }
        let device = &mut self.devices[index];
        if let Some(staging) = staging {
            let content = device.engine.as_ref().and_then(|engine| engine.local(node)?.body.content().cloned());
            let Some(content) = content else { return };
            if let Some(open) = device.files.get_mut(&node) {
                (open.backing, open.told_ready) = (Backing::Clean(content.clone()), true);
            }
            if bytes.as_ref().is_some_and(|bytes| content_of(bytes).hash != content.hash) {
                self.violated(format!("device {index} settled {node:?} as other bytes than it staged"));
                return;
            }
            match (staging, bytes) {
                (Some(id), _) if whole => device.disk.adopt(id, content.hash, content.size),
                (id, bytes) => {
                    bytes.iter().for_each(|bytes| device.disk.cache(content.hash, bytes));
                    id.iter().for_each(|id| device.disk.unstage(*id));
                }
            }
        }
        self.changed(index);
    }

    /// A device looks for a commit to send.
    pub fn commit(&mut self, index: usize) {
        let now = self.clock(index);
        let device = &mut self.devices[index];
        device.commit_due = false;
        let Some(engine) = &mut device.engine else { return };
        engine.check();
        let Some(request) = engine.next_commit(now) else { return };
        while !self.keep(index) {
            if self.devices[index].engine.is_none() {
                return;
            }
        }
        let is_connected = !self.rng.chance(self.faults().lost);
        let device = &mut self.devices[index];
        let small = request.contents.iter().filter(|content| content.manifest.size() <= PIECE as u64);
        let hashes = small.flat_map(|content| content.manifest.chunks());
        let chunks = hashes.filter_map(|(hash, _)| Some((hash, device.outbox.get(&hash)?.clone()))).collect();
        if !is_connected {
            if let Some(engine) = &mut self.devices[index].engine {
                engine.committed(request.op_id, CommitAnswer::NotSent, now);
                self.changed(index);
            }
            return;
        }
        device.sending = Some(Sending { request: Rc::new(request), chunks: Rc::new(chunks), ticket: 0 });
        self.send_commit(index);
    }

    fn send_commit(&mut self, index: usize) {
        let ticket = self.ticket(index, Wait::Commit);
        let Some(sending) = &mut self.devices[index].sending else { return };
        sending.ticket = ticket;
        let mut request = sending.request.clone();
        if self.planted == Some(Planted::RetryWithNewOpId) {
            Rc::make_mut(&mut request).op_id = OpId::from_bytes(u128::from(ticket).to_be_bytes());
        }
        let request = Request::Commit(request, sending.chunks.clone());
        self.send(index, ticket, request);
    }

    fn committed(&mut self, index: usize, answer: Result<Committed, ServiceError>) {
        let refuses = self.rng.chance(self.faults().rejected);
        let answer = match answer {
            Ok(done) => CommitAnswer::Committed(done),
            Err(error) if error.code() == ErrorCode::InsufficientStorage => {
                let (delay, ticket) = (self.rng.delay_ms(1_000, 60_000), self.ticket(index, Wait::Commit));
                return self.at(delay, Event::Timeout(index, ticket));
            }
            Err(ServiceError::Conflict(conflicts)) if refuses => {
                CommitAnswer::Rejected(format!("a proxy does not like {} conflicts", conflicts.len()))
            }
            Err(ServiceError::Missing(missing)) if refuses => {
                CommitAnswer::Rejected(format!("a proxy does not like {} chunks missing", missing.chunks.len()))
            }
            Err(ServiceError::Conflict(conflicts)) => {
                if self.is_undisturbed() && !self.scenario.faults.forgets() {
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
        let wants_page = !matches!(answer, CommitAnswer::Committed(_));
        if !wants_page {
            for (hash, _) in sending.chunks.iter() {
                device.outbox.remove(hash);
            }
        }
        if let Some(engine) = &mut device.engine {
            engine.committed(sending.request.op_id, answer, now);
            self.changed(index);
        }
        if wants_page {
            self.page_wanted(index);
        }
    }

    /// Somebody has committed something: held polls are answered.
    pub fn wake_listeners(&mut self) {
        for index in 0..self.devices.len() {
            if std::mem::take(&mut self.devices[index].listens) && self.devices[index].online && self.rng.chance(900) {
                let delay = self.rng.delay_ms(1, 1_000);
                self.poll_soon(index, delay);
            }
        }
    }

    /// The next page is asked for then, and at no other time.
    pub fn poll_soon(&mut self, index: usize, after: i64) {
        let plan = self.number();
        self.devices[index].poll_plan = plan;
        self.at(after, Event::Poll(index, plan));
    }

    /// A device asks for a page.
    pub fn poll(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        if device.waits.values().any(|wait| matches!(wait, Wait::Poll { .. })) {
            return;
        }
        if engine.has_news() {
            return self.poll_soon(index, 20_000_000_000);
        }
        let (ask, now, device) = (engine.next_page(), engine.wants_page_now(), engine.device());
        let limit = if self.rng.chance(500) { 1 + self.rng.index(5) } else { 1 + self.rng.index(50) };
        if ask.since.is_none() {
            // Everything is read anew, perhaps in a history that was set back.
            self.devices[index].cursor = None;
        }
        let inline = if ask.since.is_some() { PIECE as u64 } else { 0 };
        let ticket = self.ticket(index, Wait::Poll { ask, now });
        self.send(index, ticket, Request::Changes(ask, limit, inline, device));
    }

    /// A held poll is given up for one that is answered at once; now and then its answer is quicker.
    fn page_wanted(&mut self, index: usize) {
        if !self.rng.chance(100) {
            self.devices[index].waits.retain(|_, wait| !matches!(wait, Wait::Poll { .. }));
        }
        self.poll_soon(index, 0);
    }

    fn page(&mut self, index: usize, ask: Ask, now: bool, answer: Result<Changes, ServiceError>) {
        // Instead of a held poll: asked again when there is something, or after a while.
        let mut pause = self.rng.delay_ms(1_000, if self.healed { 600_000 } else { 3_600_000 });
        self.devices[index].listens = true;
        if let Ok(changes) = &answer {
            self.take_inline(index, changes);
        }
        let planted = self.planted;
        let clock = self.clock(index);
        let Some(engine) = &mut self.devices[index].engine else { return };
        match answer {
            Ok(Changes { mut page, .. }) => {
                if !page.nodes.is_empty() || page.more || ask.since != Some(page.cursor) || now {
                    match planted {
                        Some(Planted::EchoTakenForForeign) => disown(&mut page.nodes, engine.device()),
                        Some(Planted::AbsentTakenForRemoved) if ask.since.is_none() && !page.more => {
                            remove_absent(engine, &page.nodes, clock);
                        }
                        Some(Planted::CursorFirst) => self.devices[index].disk.keep_cursor(page.cursor),
                        _ => {}
                    }
                    if let Some(engine) = &mut self.devices[index].engine {
                        engine.page(ask, page);
                    }
                    pause = 0;
                }
            }
            Err(ServiceError::Resync(_)) => {
                engine.begin_resync();
                self.devices[index].cursor = None;
            }
            Err(error) => return self.violated(format!("the server refuses a poll of device {index}: {error}")),
        }
        self.changed(index);
        self.poll_soon(index, pause.max(1_000_000));
    }

    /// Small contents that came with a page are cached.
    fn take_inline(&mut self, index: usize, changes: &Changes) {
        for content in changes.page.nodes.iter().filter_map(|node| node.content.as_ref()) {
            let chunks = || content.manifest.iter().flat_map(|manifest| manifest.chunks());
            let rides = |hash| changes.chunks.iter().any(|(rider, _)| *rider == hash);
            if chunks().next().is_some()
                && chunks().all(|(hash, _)| rides(hash))
                && let Some(bytes) = self.library.get(content.hash).cloned()
            {
                self.fetched(index, content.hash, bytes.to_vec());
            }
        }
    }

    /// An answer arrives.
    pub fn answer(&mut self, index: usize, ticket: u64, reply: Reply) {
        let Some(wait) = self.devices[index].waits.remove(&ticket) else { return };
        match (wait, reply) {
            (Wait::Commit, Reply::Committed(answer)) => self.committed(index, answer),
            (Wait::Poll { ask, now }, Reply::Changes(answer)) => self.page(index, ask, now, *answer),
            (Wait::Upload(work), Reply::Put(answer)) => self.uploaded(index, work, answer),
            (Wait::Supply(node, content), Reply::Put(Ok(()))) => self.supplied(index, node, content.hash),
            (Wait::Supply(..), Reply::Put(Err(error))) if error.code() == ErrorCode::InsufficientStorage => {}
            (Wait::Fetch(hash), Reply::Fetched(Ok(bytes))) => self.fetched(index, hash, bytes),
            (Wait::Fetch(_), Reply::Fetched(Err(_))) => {}
            (wait, reply) => self.violated(format!("{reply:?} answers {wait:?}")),
        }
    }

    /// A device gives up waiting for an answer.
    pub fn timeout(&mut self, index: usize, ticket: u64) {
        match self.devices[index].waits.remove(&ticket) {
            Some(Wait::Commit) => self.send_commit(index),
            Some(Wait::Poll { .. }) => {
                let pause = self.rng.delay_ms(100, 30_000);
                self.poll_soon(index, pause);
            }
            Some(Wait::Upload(work)) => {
                self.prepared(index, work.node, work.generation, PrepareAnswer::Unreachable);
            }
            // These have no time limit; the ticket is another's.
            Some(wait @ (Wait::Prepare(_) | Wait::Again(_) | Wait::Settle { .. })) => {
                self.devices[index].waits.insert(ticket, wait);
            }
            Some(Wait::Supply(..) | Wait::Fetch(_)) | None => {}
        }
    }
}

/// Planted: conflict copies vanish before anybody has seen them.
fn skip_copies(engine: &mut Engine, now: syncmount_common::Timestamp) {
    let new = |id: &NodeId| engine.entry(*id).is_some_and(|entry| entry.synced.is_none());
    let copies: Vec<NodeId> = engine.conflicts().filter(new).collect();
    for copy in copies {
        remove(engine, copy, now);
    }
}

/// Planted: files that the server does not have go.
fn remove_absent(engine: &mut Engine, nodes: &[syncmount_common::Node], now: syncmount_common::Timestamp) {
    let there: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let gone: BTreeSet<NodeId> = engine.ids().filter(|id| !there.contains(id)).collect();
    for node in gone {
        if engine.entry(node).is_some_and(|entry| !entry.is_dirty()) {
            remove(engine, node, now);
        }
    }
}

fn remove(engine: &mut Engine, node: NodeId, now: syncmount_common::Timestamp) {
    let state = engine.local(node).filter(|state| state.kind() == NodeKind::File).cloned();
    for place in state.iter().flat_map(|state| &state.names) {
        // It is there: the engine has just said so.
        let _ = engine.remove(place.parent, place.name.as_bytes(), false, now);
    }
}

/// Planted: what this device did itself is told as another's doing.
fn disown(nodes: &mut [syncmount_common::Node], me: DeviceId) {
    let other = DeviceId::from_bytes([0xEE; 16]);
    for node in nodes {
        for author in [&mut node.author, &mut node.content_author] {
            if *author == me {
                *author = other;
            }
        }
    }
}
