//! An honest device: the shipped engine, a model of its disk, and what its driver does, step by step.

use super::host::{BEGIN, PageAnswer, SECOND, Wire};
use super::judge;
use crate::sim::Rng;
use crate::sim::bytes::{content_of, sealed};
use crate::sim::view;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::protocol::changes::{ChangesPage, Cursor, Device as Named};
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::{Content, ContentHash, DeviceId, Name, NodeId, Timestamp, envelope};
use syncmount_engine::{
    Body, CommitAnswer, Draft, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, Position, PrepareAnswer,
    Restored, Row,
};

/// Effects of one step: more of them do not end.
const EFFECTS_MAX: usize = 10_000;

/// Requests of one call of [`Device::sync`]. A server that always has more is left alone then, as the driver pauses.
const REQUESTS_MAX: usize = 60;

/// Rows of one record, beside one for each node: what was removed has rows to delete. No world has more nodes.
const MORE_ROWS_MAX: usize = 1_500;

/// What survives the process, beside staging files and cache.
#[derive(Default)]
struct Kept {
    rows: BTreeMap<NodeId, Row>,
    position: Position,
    unanswered: Vec<NodeId>,
}

/// A device with one user.
pub(super) struct Device {
    pub(super) engine: Engine,
    pub(super) rng: Rng,
    pub(super) named: Named,
    /// The time by its clock.
    pub(super) now: i64,
    pub(super) staging: BTreeMap<u64, Arc<[u8]>>,
    /// Contents whose bytes it has. Nothing is evicted.
    pub(super) cache: BTreeMap<ContentHash, Arc<[u8]>>,
    /// Staging files of what its user wrote and did not do away with, until a server says that it has it.
    pub(super) unacknowledged: BTreeSet<u64>,
    /// Numbers of staging files and generations.
    pub(super) next: u64,
    sending: Option<CommitRequest>,
    kept: Kept,
    /// How many unsound states it has refused.
    pub(super) refused: u64,
    /// Commits that the service itself, not a liar, has refused for good.
    pub(super) rejections: Vec<String>,
}

impl Device {
    pub(super) fn new(seed: u64, index: u64) -> Self {
        let mut rng = Rng::of(&[seed, 10, index]);
        let id = DeviceId::new_v7(index + 1, &[index as u8 + 1; 10]);
        let named = Named { id, name: format!("device {index}") };
        let mut engine = Engine::new(Identity { device: named.clone(), seed: rng.number() }, Restored::default());
        engine.show_times();
        Self {
            engine,
            rng,
            named,
            now: BEGIN + index as i64,
            staging: BTreeMap::new(),
            cache: BTreeMap::new(),
            unacknowledged: BTreeSet::new(),
            next: 0,
            sending: None,
            kept: Kept::default(),
            refused: 0,
            rejections: Vec::new(),
        }
    }

    pub(super) const fn now(&self) -> Timestamp {
        Timestamp(self.now)
    }

    pub(super) const fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Whether a commit has no answer yet.
    pub(super) const fn is_waiting(&self) -> bool {
        self.sending.is_some()
    }

    /// Time goes on: what failed is tried again.
    pub(super) fn wait(&mut self, seconds: i64) {
        self.now += seconds * SECOND;
        self.engine.tick(self.now());
    }

    /// The process ends without warning and starts again.
    pub(super) fn restart(&mut self) -> Result<(), String> {
        let before = view::of_engine(&self.engine, None);
        let Kept { rows, position, unanswered } = &self.kept;
        let restored = Restored {
            rows: rows.iter().map(|(id, row)| (*id, row.clone())).collect(),
            cursor: position.cursor,
            ahead: position.ahead,
            unanswered: unanswered.clone(),
        };
        let in_doubt = !unanswered.is_empty();
        self.sending = None;
        self.engine = Engine::new(Identity { device: self.named.clone(), seed: self.rng.number() }, restored);
        self.engine.show_times();
        if in_doubt {
            self.engine.look_first();
        }
        if let Some(difference) = view::difference(&before, &view::of_engine(&self.engine, None)) {
            return Err(format!("{} starts with another tree than it ended with at {difference}", self.named.name));
        }
        self.finish_all();
        self.keep()
    }

    /// Writers close their files.
    pub(super) fn finish_all(&mut self) {
        let open: Vec<(NodeId, Draft)> =
            self.engine.stagings().filter(|(_, draft)| !draft.ready).map(|(id, draft)| (id, draft.clone())).collect();
        for (node, draft) in open {
            let mtime = self.engine.local(node).map_or(self.now(), |state| state.attrs.mtime);
            let (staging, now) = (draft.staging, self.now());
            let update = self.update(staging, draft.size, mtime, true);
            let done = self.engine.write_draft(node, Expected::Draft(staging), update, now);
            debug_assert!(done.is_ok(), "the draft is as the engine has just said");
        }
    }

    /// What the engine is told of a draft whose bytes are all in its staging file.
    pub(super) fn update(&mut self, staging: Option<u64>, size: u64, mtime: Timestamp, ready: bool) -> DraftUpdate {
        let generation = self.number();
        let present = if size > 0 { vec![(0, size)] } else { Vec::new() };
        DraftUpdate { generation, size, staging, present, base: None, base_len: 0, mtime, ready }
    }

    /// Talks to the server until there is nothing to say, or until it is to be left alone for a while.
    pub(super) fn sync(&mut self, wire: &mut dyn Wire) -> Result<(), String> {
        for _ in 0..REQUESTS_MAX {
            self.carry_out(wire)?;
            let now = self.now();
            if self.sending.is_none() {
                self.sending = self.engine.next_commit(now);
                self.keep()?;
            }
            if let Some(request) = self.sending.clone() {
                match wire.commit(&request) {
                    Some(answer) => {
                        self.answered(&request, answer);
                        continue;
                    }
                    // Sent again with the same op id the next time; the feed is read meanwhile.
                    None if self.engine.has_news() => return Ok(()),
                    None => {}
                }
            }
            if !self.ask(wire)? {
                return Ok(());
            }
        }
        self.carry_out(wire)
    }

    fn answered(&mut self, request: &CommitRequest, answer: CommitAnswer) {
        if let CommitAnswer::Rejected(reason) = &answer {
            self.rejections.push(reason.clone());
        }
        let now = self.now();
        self.sending = None;
        self.engine.committed(request.op_id, answer, now);
    }

    /// Asks for a page; whether to go on.
    fn ask(&mut self, wire: &mut dyn Wire) -> Result<bool, String> {
        if self.engine.has_news() {
            return Ok(true);
        }
        let (ask, wanted) = (self.engine.next_page(), self.engine.wants_page_now());
        let limit = if self.rng.chance(500) { 1 + self.rng.index(4) } else { 1 + self.rng.index(60) };
        match wire.page(ask, limit, self.engine.device()) {
            PageAnswer::Lost => return Ok(false),
            PageAnswer::Resync => self.engine.begin_resync(),
            PageAnswer::Page(page) => {
                if page.nodes.is_empty() && !page.more && ask.since == Some(page.cursor) && !wanted {
                    return Ok(false);
                }
                let Some(page) = checked(*page) else { return Ok(false) };
                let cursor = self.engine.cursor();
                self.engine.page(ask, page);
                self.carry_out(wire)?;
                if self.engine.unsound().is_some() {
                    self.check_refused(cursor)?;
                    if self.engine.begins_state() {
                        // The driver waits before it asks for another state.
                        self.refused += 1;
                        return Ok(false);
                    }
                }
            }
        }
        // A commit without an answer: the state that has come waits for it.
        Ok(self.sending.is_none())
    }

    /// An unsound state is not merged, and nothing is sent.
    fn check_refused(&mut self, cursor: Option<Cursor>) -> Result<(), String> {
        let now = self.now();
        if self.engine.cursor() != cursor {
            return Err("the position has moved on with an unsound state".to_owned());
        }
        if !self.engine.is_committing() && self.engine.next_commit(now).is_some() {
            return Err("something is sent although the server's state is unsound".to_owned());
        }
        if self.engine.stagings().any(|(node, _)| self.engine.may_be_sent(node)) {
            return Err("bytes may be sent although the server's state is unsound".to_owned());
        }
        Ok(())
    }

    /// Keeps what the engine has decided, and carries it out.
    pub(super) fn carry_out(&mut self, wire: &mut dyn Wire) -> Result<(), String> {
        let now = self.now();
        let mut count = 0;
        while let Some(effect) = self.engine.poll(now) {
            count += 1;
            if count > EFFECTS_MAX {
                return Err("effects without end".to_owned());
            }
            self.run(effect, wire)?;
        }
        self.keep()?;
        self.engine.check();
        judge::sound(&self.engine)?;
        self.check_written()
    }

    /// Keeps what has changed, as the driver does before anything else happens.
    pub(super) fn keep(&mut self) -> Result<(), String> {
        let record = self.engine.take_record();
        let rows: Vec<(NodeId, Option<Row>)> = self.engine.rows(&record).collect();
        if rows.len() > self.engine.len() + MORE_ROWS_MAX {
            return Err(format!("a record of {} rows for {} nodes", rows.len(), self.engine.len()));
        }
        for (id, row) in rows {
            match row {
                Some(row) => drop(self.kept.rows.insert(id, row)),
                None => drop(self.kept.rows.remove(&id)),
            }
        }
        self.kept.position = record.position.unwrap_or(self.kept.position);
        if let Some(unanswered) = record.unanswered {
            self.kept.unanswered = unanswered;
        }
        Ok(())
    }

    fn run(&mut self, effect: Effect, wire: &mut dyn Wire) -> Result<(), String> {
        let now = self.now();
        match effect {
            Effect::Prepare { node, generation, .. } => {
                let answer = self.prepare(node, generation, wire)?;
                self.engine.prepared(node, generation, answer, now);
            }
            Effect::Settle { node, generation, content } => return self.settle(node, generation, &content),
            Effect::Supply { node, content } => {
                if let Some(bytes) = self.cache.get(&content.hash) {
                    wire.put(sealed(bytes));
                    self.engine.supplied(node, &Arc::new(content_of(bytes)));
                }
            }
            Effect::DropStaging(id) => return self.drop_staging(id, wire),
            Effect::ReadRules => {
                let version = self.engine.rules_version();
                self.engine.set_rules(Arc::new(|_: &[&Name], _| false), version);
                while self.engine.rescope(100) {}
            }
            Effect::DraftMoved { .. } | Effect::Changed(_) => {}
        }
        Ok(())
    }

    fn prepare(&mut self, node: NodeId, generation: u64, wire: &mut dyn Wire) -> Result<PrepareAnswer, String> {
        if self.engine.unsound().is_some() {
            return Err("bytes are wanted for a server whose state is unsound".to_owned());
        }
        let draft = self.engine.local(node).and_then(|state| state.body.draft());
        let Some(draft) = draft.filter(|draft| draft.generation == generation) else {
            return Ok(PrepareAnswer::Outdated);
        };
        let bytes = match draft.staging {
            Some(id) => self.staging.get(&id).cloned().ok_or("a draft has no staging file")?,
            None => Arc::default(),
        };
        wire.put(sealed(&bytes));
        Ok(PrepareAnswer::Ready(Arc::new(content_of(&bytes))))
    }

    fn settle(&mut self, node: NodeId, generation: u64, content: &Content) -> Result<(), String> {
        let Some(Some(id)) = self.engine.settle(node, generation) else { return Ok(()) };
        let bytes = self.staging.remove(&id).ok_or("a settled draft has no staging file")?;
        self.unacknowledged.remove(&id);
        if content_of(&bytes).hash != content.hash {
            return Err("a draft is settled as other bytes than it has".to_owned());
        }
        self.cache.insert(content.hash, bytes);
        Ok(())
    }

    /// A staging file goes. Its bytes are at the server then, or the server says so.
    fn drop_staging(&mut self, id: u64, wire: &mut dyn Wire) -> Result<(), String> {
        let Some(bytes) = self.staging.remove(&id) else { return Ok(()) };
        if !self.unacknowledged.remove(&id) {
            return Ok(());
        }
        let hash = content_of(&bytes).hash;
        let is_told =
            self.engine.contents().any(|(id, content)| content.hash == hash && self.engine.entry(id).is_some());
        if wire.host().has_acknowledged(hash) || is_told {
            return Ok(());
        }
        Err(format!("{:?} is dropped and no server has it", String::from_utf8_lossy(&bytes)))
    }

    /// What was written here and is at no server belongs to a node.
    fn check_written(&self) -> Result<(), String> {
        let there: BTreeSet<u64> = self.engine.stagings().filter_map(|(_, draft)| draft.staging).collect();
        match self.unacknowledged.difference(&there).find_map(|id| self.staging.get(id)) {
            Some(lost) => {
                Err(format!("{:?} was written, never acknowledged, and is gone", String::from_utf8_lossy(lost)))
            }
            None => Ok(()),
        }
    }

    /// A process reads a file: what it gets has the hash that it asked for, or it gets an error.
    pub(super) fn read(&mut self, node: NodeId, wire: &mut dyn Wire) -> Result<(), String> {
        const READ_MAX: u64 = 1 << 20;
        let Some(Body::File(FileBody::Clean(content))) = self.engine.local(node).map(|state| state.body.clone()) else {
            return Ok(());
        };
        if content.size > READ_MAX || self.cache.contains_key(&content.hash) {
            return Ok(());
        }
        let Some((manifest, chunks)) = wire.content(content.hash) else { return Ok(()) };
        if manifest.content_hash() != content.hash || manifest.chunks().count() != chunks.len() {
            return Ok(());
        }
        let mut bytes = Vec::new();
        for ((hash, len), (_, sealed)) in manifest.chunks().zip(chunks) {
            match envelope::open(&hash, &sealed) {
                Ok(raw) if raw.len() == len as usize => bytes.extend_from_slice(&raw),
                _ => return Ok(()),
            }
        }
        if manifest.size() == bytes.len() as u64 && content_of(&bytes).manifest.as_ref() == Some(&manifest) {
            self.cache.insert(content.hash, bytes.into());
        }
        Ok(())
    }
}

/// What the client's HTTP layer lets pass: contents whose hash and size are those of their manifest.
fn checked(mut page: ChangesPage) -> Option<ChangesPage> {
    for node in &mut page.nodes {
        node.content = node.content.take().map(Content::checked).transpose().ok()?;
    }
    Some(page)
}
