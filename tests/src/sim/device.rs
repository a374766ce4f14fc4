//! One device: engine, disk, open files, and what it waits for. Does what the client's driver does, one step at a time.

use super::bytes::{Library, content_of};
use super::disk::Disk;
use super::view::{self, View};
use super::{Planted, Rng};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use syncmount_common::protocol::changes::{Ask, Cursor, Device as Named};
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::{ChunkHash, Content, ContentHash, DeviceId, Manifest, Name, NodeId, Timestamp};
use syncmount_engine::{Body, Draft, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, Refusal, Scope};

/// Where an open file's bytes come from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A content that the server has.
    Clean(Arc<Content>),
    /// Bytes written here: as a draft has them.
    Draft(Box<Draft>),
}

/// A file that a user's process has open for writing. The rules are those of the client's open files.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// What it has.
    pub backing: Backing,
    /// Counts writes.
    pub generation: u64,
    /// The generation that the tree knows.
    pub told: u64,
    /// Whether the tree knows that it may be sent.
    pub told_ready: bool,
    /// When it was last written.
    pub mtime: Timestamp,
    /// Removed while it was open.
    pub orphan: bool,
}

impl OpenFile {
    /// The staging file, if there is one.
    pub fn staging(&self) -> Option<u64> {
        match &self.backing {
            Backing::Clean(_) => None,
            Backing::Draft(draft) => draft.staging,
        }
    }

    /// Whether the tree must be told before the next byte is written.
    pub fn needs_begin(&self) -> bool {
        self.staging().is_none() || (self.told_ready && !self.orphan)
    }

    /// What the tree is believed to know.
    pub fn expected(&self) -> Expected {
        match &self.backing {
            Backing::Clean(content) => Expected::Clean(content.hash),
            Backing::Draft(draft) => Expected::Draft(draft.staging),
        }
    }

    /// The draft that it is or is about to become, with all of the old content beneath.
    pub fn draft(&self) -> Draft {
        match &self.backing {
            Backing::Clean(content) => {
                let (size, base) = (content.size, Some(content.clone()));
                Draft { size, base, base_len: size, ..Draft::empty() }
            }
            Backing::Draft(draft) => Draft::clone(draft),
        }
    }
}

/// What a device waits for, by ticket.
#[derive(Clone, Debug)]
pub enum Wait {
    /// The answer to the commit in flight.
    Commit,
    /// A page of the feed.
    Poll {
        /// How it was asked for.
        ask: Ask,
        /// Whether it was wanted at once.
        now: bool,
    },
    /// A draft is being cut and hashed.
    Prepare(Preparing),
    /// Its chunks are being uploaded.
    Upload(Preparing),
    /// The server could not be reached or had no room: the draft waits to be prepared again.
    Again(Preparing),
    /// Chunks of a content that the server lacks are being uploaded.
    Supply(NodeId, Arc<Content>),
    /// A draft is becoming a cached content.
    Settle {
        /// Whose draft.
        node: NodeId,
        /// Which state of its bytes.
        generation: u64,
    },
    /// The bytes of a content that somebody wants to read.
    Fetch(ContentHash),
}

/// A draft on its way to becoming a content.
#[derive(Clone, Debug)]
pub struct Preparing {
    /// Whose.
    pub node: NodeId,
    /// Which state of its bytes.
    pub generation: u64,
    /// The draft then; `None` if it was outdated when the work began.
    pub draft: Option<Box<Draft>>,
    /// What it turned out to be.
    pub bytes: Arc<[u8]>,
    /// Whether chunks must be uploaded.
    pub upload: bool,
}

/// The commit in flight.
#[derive(Clone)]
pub struct Sending {
    /// What is sent.
    pub request: Rc<CommitRequest>,
    /// The chunks beside it.
    pub chunks: Rc<Vec<(ChunkHash, Bytes)>>,
    /// Of the latest attempt.
    pub ticket: u64,
}

/// A device of a world.
pub struct Device {
    /// Who it is.
    pub named: Named,
    /// The running engine; `None` while the process is down.
    pub engine: Option<Engine>,
    /// What survives it.
    pub disk: Disk,
    /// By how much its clock is wrong.
    pub skew: i64,
    /// Whether the server can be reached.
    pub online: bool,
    /// Nothing more can be written to its disk by users.
    pub full: bool,
    /// Open files by node.
    pub files: BTreeMap<NodeId, OpenFile>,
    /// Small chunks that wait for their commit.
    pub outbox: BTreeMap<ChunkHash, Bytes>,
    /// The commit in flight.
    pub sending: Option<Sending>,
    /// What it waits for.
    pub waits: BTreeMap<u64, Wait>,
    /// Whether the next look for a commit is in the queue of events.
    pub commit_due: bool,
    /// Whether the next folding of the journal is.
    pub fold_due: bool,
    /// The last plan to ask for a page; others are off.
    pub poll_plan: u64,
    /// Effects whose record could not be kept yet.
    pub unkept: VecDeque<Effect>,
    /// Bytes that must survive a power cut, by the node that has them.
    pub fsynced: BTreeMap<NodeId, ContentHash>,
    /// What the user would see after a crash now; `None` after a power cut or when the disk was set back.
    pub kept: Option<View>,
    /// What the user of the only active device must see at any time.
    pub expected: Option<View>,
    /// A copy of its disk.
    pub backup: Option<Box<Disk>>,
    /// It has lost a part of its memory, or shares it: the next start is that of another device.
    pub is_other: bool,
    /// It has been told that there is nothing new, and would hear of it if there was.
    pub listens: bool,
    /// The feed position at the last look.
    pub cursor: Option<Cursor>,
    /// How often it has become another device.
    pub lives: u64,
    /// Names that end in `~` stay here.
    pub ignores: bool,
    /// Whether it applies the owners that travel.
    pub applies_owners: bool,
}

/// What the driver does when rules may have changed.
pub fn apply_rules(engine: &mut Engine) {
    let is_ignored = |path: &[&Name], _: bool| path.iter().any(|name| name.as_bytes().ends_with(b"~"));
    engine.set_rules(Arc::new(is_ignored), engine.rules_version());
    while engine.rescope(1) {}
}

impl Device {
    /// A device that has never run.
    pub fn new(index: usize) -> Self {
        let named = Named { id: id_of(index, 0), name: format!("device {}", (b'A' + index as u8) as char) };
        Self {
            named,
            engine: None,
            disk: Disk::default(),
            skew: 0,
            online: true,
            full: false,
            files: BTreeMap::new(),
            outbox: BTreeMap::new(),
            sending: None,
            waits: BTreeMap::new(),
            commit_due: false,
            fold_due: false,
            poll_plan: 0,
            unkept: VecDeque::new(),
            fsynced: BTreeMap::new(),
            kept: Some(View::new()),
            expected: None,
            backup: None,
            is_other: false,
            listens: false,
            cursor: None,
            lives: 0,
            ignores: false,
            applies_owners: false,
        }
    }

    /// What is open as `from` goes on as `to`.
    pub fn moved(&mut self, from: NodeId, to: NodeId) {
        if let Some(file) = self.files.remove(&from) {
            self.files.insert(to, file);
        }
        if let Some(hash) = self.fsynced.remove(&from) {
            self.fsynced.insert(to, hash);
        }
    }

    /// The process ends without warning.
    pub fn crash(&mut self, library: &Library) {
        self.engine = None;
        self.files.clear();
        self.outbox.clear();
        self.sending = None;
        self.waits.clear();
        self.commit_due = false;
        self.unkept.clear();
        if let (Some(_), Some(kept)) = (&self.expected, &self.kept) {
            self.expected = Some(view::resolved(kept, &self.disk, library));
        }
    }

    /// What is known to be on the disk is not what it was: neither what was kept nor what the user saw counts any more.
    pub fn forget_memory(&mut self) {
        (self.kept, self.expected, self.cursor) = (None, None, None);
        self.is_other = true;
    }

    /// The process starts. `Err` if what it finds is not what was kept.
    pub fn boot(&mut self, index: usize, seed: u64, now: Timestamp, planted: Option<Planted>) -> Result<(), String> {
        if (self.is_other || self.disk.suspect) && planted != Some(Planted::IdentityKept) {
            self.lives += 1;
            self.named.id = id_of(index, self.lives);
        }
        self.is_other = false;
        let restored = self.disk.restore();
        let in_doubt = !restored.unanswered.is_empty();
        let mut engine = Engine::new(Identity { device: self.named.clone(), seed }, restored);
        engine.apply_owners(self.applies_owners);
        if in_doubt {
            engine.look_first();
        }
        if self.ignores {
            apply_rules(&mut engine);
        }
        engine.show_times();
        engine.check();
        if let Some(kept) = &self.kept
            && let Some(difference) = view::difference(kept, &view::of_engine(&engine, None))
        {
            return Err(format!("kept and restored differ at {difference}"));
        }
        self.engine = Some(engine);
        self.recover(now, planted)
    }

    /// Staging files are compared with the drafts they belong to. Drafts of files that were open go on as if they had been
    /// closed; staging files of nobody are set aside.
    fn recover(&mut self, now: Timestamp, planted: Option<Planted>) -> Result<(), String> {
        let Some(engine) = &self.engine else { return Ok(()) };
        let drafts: BTreeMap<NodeId, Draft> = engine.stagings().map(|(id, draft)| (id, draft.clone())).collect();
        let known: BTreeSet<u64> = drafts.values().filter_map(|draft| draft.staging).collect();
        for (node, draft) in drafts {
            let Some(usable) = self.usable(&draft, planted) else {
                self.abandon(node, draft.staging, now)?;
                continue;
            };
            if !usable.ready || usable.prepared.is_none() || usable != draft {
                let is_as_told = usable == draft || usable.staging.is_none();
                let generation = if is_as_told { draft.generation } else { self.disk.next_generation() };
                self.resume(node, draft.staging, &usable, generation, now)?;
            }
        }
        for id in self.disk.stagings().into_iter().filter(|id| !known.contains(id)).collect::<Vec<_>>() {
            self.disk.set_aside(id);
        }
        Ok(())
    }

    /// A draft as its staging file is, if the bytes that it needs are on the disk. After a power cut only those count that
    /// something proves: that they were synced, or their hash.
    fn usable(&self, draft: &Draft, planted: Option<Planted>) -> Option<Draft> {
        let checks = self.disk.suspect && planted != Some(Planted::SuspectUnchecked);
        let Some(id) = draft.staging else { return (draft.ready || !checks).then(|| draft.clone()) };
        let Some(len) = self.disk.staged_len(id) else { return self.settled(draft) };
        let is_short = len < draft.present.last().map_or(0, |(_, end)| *end);
        if is_short && (draft.ready || self.disk.suspect) || checks && !self.is_proven(draft) {
            return None;
        }
        Some(left_behind(draft, &self.disk))
    }

    /// A draft whose staging file has become a cached content, while the record of that did not survive.
    fn settled(&self, draft: &Draft) -> Option<Draft> {
        let base = draft.prepared.clone().filter(|content| self.disk.cached(content.hash).is_some())?;
        Some(Draft { staging: None, present: Vec::new(), base_len: draft.size, base: Some(base), ..draft.clone() })
    }

    fn is_proven(&self, draft: &Draft) -> bool {
        draft.ready && (self.disk.is_marked(draft) || self.is_as_prepared(draft))
    }

    /// Whether the pieces that were written have the hashes that they had before the machine went down.
    fn is_as_prepared(&self, draft: &Draft) -> bool {
        let Some(manifest) = draft.prepared.as_ref().and_then(|content| content.manifest.as_ref()) else {
            return false;
        };
        let base = draft.base.as_ref().and_then(|base| self.disk.cached(base.hash));
        let has_base = draft.base.is_none() || base.is_some();
        let Some(bytes) = self.disk.draft_bytes(draft, base.or(Some(&[]))) else { return false };
        manifest.size() == draft.size
            && manifest.with_offsets().all(|(at, extent)| {
                let (start, end) = (at, at + extent.len());
                let is_written = draft.present.iter().any(|(from, to)| *from < end && start < *to);
                let is_covered = has_base || draft.present.iter().any(|(from, to)| *from <= start && end <= *to);
                let chunk = content_of(&bytes[start as usize..end as usize]);
                let whole =
                    Manifest::new(vec![extent]).is_ok_and(|manifest| Content::of(manifest, None).hash == chunk.hash);
                !is_written || is_covered && whole
            })
    }

    fn abandon(&mut self, node: NodeId, staging: Option<u64>, now: Timestamp) -> Result<(), String> {
        let engine = self.engine.as_mut().ok_or("the process is down")?;
        engine.abandon_draft(node, now);
        let record = engine.take_record();
        self.disk.keep(engine, record);
        self.kept = self.kept.is_some().then(|| view::of_engine(engine, None));
        staging.iter().for_each(|id| self.disk.set_aside(*id));
        if self.disk.suspect { Ok(()) } else { Err(format!("the bytes of {node:?} are gone")) }
    }

    fn resume(
        &mut self,
        node: NodeId,
        known: Option<u64>,
        draft: &Draft,
        generation: u64,
        now: Timestamp,
    ) -> Result<(), String> {
        let engine = self.engine.as_mut().ok_or("the process is down")?;
        let mtime = engine.local(node).map_or(now, |state| state.attrs.mtime);
        let update = update(draft, generation, mtime, true);
        engine.write_draft(node, Expected::Draft(known), update, now).map_err(|error| error.to_string())
    }

    /// The draft to prepare, as the driver finds it.
    pub fn snapshot(&self, node: NodeId, generation: u64) -> Option<Box<Draft>> {
        match self.files.get(&node).map(|file| (&file.backing, file.generation)) {
            Some((Backing::Draft(draft), current)) if current == generation => Some(draft.clone()),
            Some(_) => None,
            None => {
                let state = self.engine.as_ref()?.local(node)?;
                state.body.draft().filter(|draft| draft.generation == generation).map(|draft| Box::new(draft.clone()))
            }
        }
    }

    /// Whether a file was written after the work on `generation` began.
    pub fn is_outdated(&self, node: NodeId, generation: u64) -> bool {
        self.files.get(&node).is_some_and(|file| file.generation != generation)
    }

    /// Whether the tree has this generation as the draft of a file.
    pub fn has_draft(&self, node: NodeId, generation: u64) -> bool {
        let local = self.engine.as_ref().and_then(|engine| engine.local(node));
        local.and_then(|state| state.body.draft()).is_some_and(|draft| draft.generation == generation)
    }

    /// Opens a file for writing, or finds it open.
    pub fn open(&mut self, node: NodeId) -> Result<OpenFile, Refusal> {
        if let Some(file) = self.files.get(&node) {
            return Ok(file.clone());
        }
        let state = self.engine.as_ref().and_then(|engine| engine.local(node)).ok_or(Refusal::NotFound)?;
        let (backing, generation, told_ready) = match &state.body {
            Body::File(FileBody::Clean(content)) => (Backing::Clean(content.clone()), 0, true),
            Body::File(FileBody::Draft(draft)) => (Backing::Draft(draft.clone()), draft.generation, draft.ready),
            Body::Dir => return Err(Refusal::IsDir),
            Body::Symlink(_) => return Err(Refusal::NotFound),
        };
        let mtime = state.attrs.mtime;
        Ok(OpenFile { backing, generation, told: generation, told_ready, mtime, orphan: false })
    }

    /// Open files follow their nodes after a change from the feed.
    pub fn refresh_open(&mut self, changed: &syncmount_engine::Changed) {
        if changed.content || changed.removed {
            self.fsynced.remove(&changed.node);
        }
        let Some(file) = self.files.get_mut(&changed.node) else { return };
        let Some(engine) = &self.engine else { return };
        match engine.local(changed.node) {
            None => file.orphan = true,
            // Removed here and brought back by an edit elsewhere: those who had it open go on with what they have.
            Some(_) if file.orphan => {
                self.files.remove(&changed.node);
            }
            Some(state) => {
                if let (Body::File(FileBody::Clean(content)), true) = (&state.body, changed.content) {
                    file.backing = Backing::Clean(content.clone());
                    file.told = file.generation;
                    file.told_ready = true;
                    file.mtime = state.attrs.mtime;
                }
            }
        }
    }

    /// The names of the bytes that a user sees in a node: those that the tree knows, and those that were written since.
    pub fn bytes_of(&self, node: NodeId, library: &Library) -> Vec<ContentHash> {
        let hash = |draft: &Draft| {
            let base = draft.base.as_ref().and_then(|base| library.get(base.hash));
            self.disk.draft_bytes(draft, base.map(|bytes| &**bytes)).map(|bytes| content_of(&bytes).hash)
        };
        let known = self.engine.as_ref().and_then(|engine| engine.local(node)).and_then(|state| match &state.body {
            Body::File(FileBody::Clean(content)) => Some(content.hash),
            Body::File(FileBody::Draft(draft)) => hash(draft),
            Body::Dir | Body::Symlink(_) => None,
        });
        let open = self.files.get(&node).and_then(|file| match &file.backing {
            Backing::Clean(_) => None,
            Backing::Draft(draft) => hash(draft),
        });
        known.into_iter().chain(open).collect()
    }

    /// The contents that this device could give back to a server that has lost them: bytes on its disk that a node of its
    /// tree has. `counts` is told whether the node stays on this machine.
    pub fn holds(
        &self,
        server: &BTreeSet<ContentHash>,
        library: &Library,
        counts: impl Fn(bool) -> bool,
    ) -> BTreeSet<ContentHash> {
        let bodies: Vec<Body> = match &self.engine {
            Some(engine) => {
                let ids = engine.ids().filter(|id| counts(engine.stays_here(*id)));
                ids.filter_map(|id| Some(engine.local(id)?.body.clone())).collect()
            }
            None => {
                let rows = self.disk.rows().filter(|row| counts(row.scope != Scope::Shared));
                rows.filter_map(|row| Some(row.local.as_ref()?.body.clone())).collect()
            }
        };
        bodies.iter().filter_map(|body| self.held(body, server, library)).collect()
    }

    fn held(&self, body: &Body, server: &BTreeSet<ContentHash>, library: &Library) -> Option<ContentHash> {
        match body {
            Body::File(FileBody::Clean(content)) => self.disk.cached(content.hash).map(|_| content.hash),
            Body::File(FileBody::Draft(draft)) => {
                let mut draft = Draft::clone(draft);
                if self.engine.is_none() {
                    // As the next start will find it.
                    draft.prepared = draft.prepared.filter(|_| draft.ready);
                    draft = self.usable(&draft, None)?;
                }
                let base = draft.base.as_ref().and_then(|base| {
                    let from_server = || library.get(base.hash).filter(|_| server.contains(&base.hash));
                    self.disk.cached(base.hash).or_else(|| from_server().map(|bytes| &**bytes))
                });
                self.disk.draft_bytes(&draft, base).map(|bytes| content_of(&bytes).hash)
            }
            Body::Dir | Body::Symlink(_) => None,
        }
    }
}

/// A draft that was being written when the process ended, whose staging file is longer than it was told: what the writer
/// had handed over counts.
fn grown(draft: &Draft, len: u64) -> Draft {
    Draft { size: len, present: vec![(0, len)], prepared: None, ..draft.clone() }
}

/// The same with a staging file that the writer had cut.
fn cut_off(draft: &Draft, len: u64) -> Draft {
    let present = draft.present.iter().filter(|(start, _)| *start < len).map(|(start, end)| (*start, len.min(*end)));
    let (present, base_len) = (present.collect(), draft.base_len.min(len));
    Draft { size: len, present, base_len, prepared: None, ..draft.clone() }
}

/// A draft that nobody writes to any more, because the process has ended.
pub fn left_behind(draft: &Draft, disk: &Disk) -> Draft {
    let reaches = draft.present.last().map_or(0, |(_, end)| *end);
    match draft.staging.and_then(|id| disk.staged_len(id)) {
        Some(len) if !draft.ready && len < reaches => cut_off(draft, len),
        Some(len) if !draft.ready && draft.base.is_none() && len > draft.size => grown(draft, len),
        _ => draft.clone(),
    }
}

/// A draft as the tree is told of it.
pub fn update(draft: &Draft, generation: u64, mtime: Timestamp, ready: bool) -> DraftUpdate {
    DraftUpdate {
        generation,
        size: draft.size,
        staging: draft.staging,
        present: draft.present.clone(),
        base: draft.base.clone(),
        base_len: draft.base_len,
        mtime,
        ready,
    }
}

/// The id that a device has in one of its lives.
fn id_of(index: usize, life: u64) -> DeviceId {
    let mut random = [index as u8; 10];
    random[..8].copy_from_slice(&Rng::of(&[index as u64, life]).number().to_le_bytes());
    DeviceId::new_v7(1_000 + index as u64, &random)
}
