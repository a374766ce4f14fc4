//! One device: engine, disk, open files, and what it waits for. Does what the client's driver does, one step at a time.

use super::disk::Disk;
use super::view::{self, View};
use bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use syncmount_common::protocol::changes::{Cursor, Device as Named};
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::{ChunkHash, Content, ContentHash, NodeId, Timestamp};
use syncmount_engine::{Body, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, Refusal};

/// A file that a user's process has open for writing. The rules are those of the client's open files.
#[derive(Clone, Debug)]
pub struct OpenFile {
    /// The staging file, if there is one.
    pub staging: Option<u64>,
    /// What it was opened over, while nothing has been written.
    pub clean: Option<Arc<Content>>,
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
    /// Whether the tree must be told before the next byte is written.
    pub fn needs_begin(&self) -> bool {
        self.clean.is_some() || self.staging.is_none() || (self.told_ready && !self.orphan)
    }

    /// What the tree is believed to know.
    pub fn expected(&self) -> Expected {
        match &self.clean {
            Some(content) => Expected::Clean(content.hash),
            None => Expected::Draft(self.staging),
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
        /// Where it was asked from.
        from: Option<Cursor>,
        /// Whether it was wanted at once.
        now: bool,
    },
    /// A draft is being cut and hashed.
    Prepare(Preparing),
    /// Its chunks are being uploaded.
    Upload(Preparing),
    /// Chunks of a content that the server lacks are being uploaded.
    Supply(NodeId, Arc<Content>),
    /// A draft is becoming a cached content.
    Settle {
        /// Whose draft.
        node: NodeId,
        /// Which state of its bytes.
        generation: u64,
    },
}

/// A draft on its way to becoming a content.
#[derive(Clone, Debug)]
pub struct Preparing {
    /// Whose.
    pub node: NodeId,
    /// Which state of its bytes.
    pub generation: u64,
    /// The bytes; `None` if it was outdated when the work began.
    pub bytes: Option<Arc<[u8]>>,
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
    /// The last plan to ask for a page; others are off.
    pub poll_plan: u64,
    /// Effects whose record could not be kept yet.
    pub unkept: VecDeque<Effect>,
    /// The bytes that each staging file was last declared ready with.
    pub ready: BTreeMap<u64, ContentHash>,
    /// What the user would see after a crash now.
    pub kept: View,
    /// What the user of the only active device must see at any time.
    pub expected: Option<View>,
}

impl Device {
    /// A device that has never run.
    pub fn new(named: Named) -> Self {
        Self {
            named,
            engine: None,
            disk: Disk::default(),
            skew: 0,
            online: true,
            files: BTreeMap::new(),
            outbox: BTreeMap::new(),
            sending: None,
            waits: BTreeMap::new(),
            commit_due: false,
            poll_plan: 0,
            unkept: VecDeque::new(),
            ready: BTreeMap::new(),
            kept: View::new(),
            expected: None,
        }
    }

    /// The process ends without warning.
    pub fn crash(&mut self) {
        self.engine = None;
        self.files.clear();
        self.outbox.clear();
        self.sending = None;
        self.waits.clear();
        self.commit_due = false;
        self.unkept.clear();
        self.expected = self.expected.is_some().then(|| self.resolved(&self.kept));
    }

    fn resolved(&self, kept: &View) -> View {
        let mut view = kept.clone();
        for seen in view.values_mut() {
            if let view::Inside::Staged(id) = &seen.inside {
                let bytes = id.and_then(|id| self.disk.read(id)).unwrap_or_default();
                seen.inside = view::Inside::Bytes(super::bytes::content_of(&bytes).hash);
            }
        }
        view
    }

    /// The process starts. `Err` if what it finds is not what was kept.
    pub fn boot(&mut self, seed: u64, now: Timestamp) -> Result<(), String> {
        let restored = self.disk.restore();
        let engine = Engine::new(Identity { device: self.named.clone(), seed }, restored);
        engine.check();
        if let Some(difference) = view::difference(&self.kept, &view::of_engine(&engine, None)) {
            return Err(format!("kept and restored differ at {difference}"));
        }
        self.engine = Some(engine);
        self.resume(now)
    }

    /// Drafts of files that were open go on as if they had been closed; staging files of nobody go.
    fn resume(&mut self, now: Timestamp) -> Result<(), String> {
        let Some(engine) = self.engine.as_mut() else { return Ok(()) };
        let drafts: BTreeMap<NodeId, _> = engine.stagings().map(|(id, draft)| (id, draft.clone())).collect();
        let mut unknown = self.disk.stagings();
        for (node, draft) in drafts {
            let bytes = match draft.staging {
                Some(id) => self.disk.read(id).ok_or(format!("the staging file {id} of {node:?} is gone"))?,
                None => Arc::default(),
            };
            draft.staging.map(|id| unknown.remove(&id));
            if draft.ready {
                continue;
            }
            let size = bytes.len() as u64;
            let update = DraftUpdate {
                generation: draft.generation + u64::from(size != draft.size),
                size,
                staging: draft.staging,
                present: vec![(0, size)],
                base: None,
                base_len: 0,
                mtime: engine.local(node).map_or(now, |state| state.attrs.mtime),
                ready: true,
            };
            engine.write_draft(node, Expected::Draft(draft.staging), update, now).map_err(|error| error.to_string())?;
        }
        for id in unknown {
            self.disk.unstage(id);
        }
        Ok(())
    }

    /// The bytes to prepare, as the driver finds them.
    pub fn snapshot(&self, node: NodeId, generation: u64) -> Option<Arc<[u8]>> {
        let staging = match self.files.get(&node) {
            Some(file) if file.clean.is_none() && file.generation == generation => file.staging,
            Some(_) => return None,
            None => {
                let state = self.engine.as_ref()?.local(node)?;
                let draft = state.body.draft().filter(|draft| draft.generation == generation)?;
                draft.staging
            }
        };
        Some(staging.and_then(|id| self.disk.read(id)).unwrap_or_default())
    }

    /// Whether a file was written after the work on `generation` began.
    pub fn is_outdated(&self, node: NodeId, generation: u64) -> bool {
        self.files.get(&node).is_some_and(|file| file.generation != generation)
    }

    /// Opens a file for writing, or finds it open.
    pub fn open(&mut self, node: NodeId) -> Result<OpenFile, Refusal> {
        if let Some(file) = self.files.get(&node) {
            return Ok(file.clone());
        }
        let state = self.engine.as_ref().and_then(|engine| engine.local(node)).ok_or(Refusal::NotFound)?;
        let (clean, staging, generation, told_ready) = match &state.body {
            Body::File(FileBody::Clean(content)) => (Some(content.clone()), None, 0, true),
            Body::File(FileBody::Draft(draft)) => (None, draft.staging, draft.generation, draft.ready),
            Body::Dir => return Err(Refusal::IsDir),
            Body::Symlink(_) => return Err(Refusal::NotFound),
        };
        let mtime = state.attrs.mtime;
        Ok(OpenFile { staging, clean, generation, told: generation, told_ready, mtime, orphan: false })
    }

    /// Open files follow their nodes after a change from the feed.
    pub fn refresh_open(&mut self, changed: &syncmount_engine::Changed) {
        let Some(file) = self.files.get_mut(&changed.node) else { return };
        let Some(engine) = &self.engine else { return };
        match engine.local(changed.node) {
            None => file.orphan = true,
            Some(state) => {
                file.orphan = false;
                if let (Body::File(FileBody::Clean(content)), true) = (&state.body, changed.content) {
                    file.clean = Some(content.clone());
                    file.staging = None;
                    file.told = file.generation;
                    file.told_ready = true;
                    file.mtime = state.attrs.mtime;
                }
            }
        }
    }

    /// The name of the bytes that the user sees in a node, if it is known that they are worth keeping.
    pub fn bytes_of(&self, node: NodeId) -> Option<ContentHash> {
        match &self.engine.as_ref()?.local(node)?.body {
            Body::File(FileBody::Clean(content)) => Some(content.hash),
            Body::File(FileBody::Draft(draft)) => self.ready.get(&draft.staging?).copied(),
            Body::Dir | Body::Symlink(_) => None,
        }
    }
}
