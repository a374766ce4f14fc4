//! The real service over stores in memory, called without sockets; what it has acknowledged is written down.

use super::{Planted, Rng};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, PAGE_NODES_MAX};
use syncmount_common::protocol::commit::{CommitRequest, Committed, Op};
use syncmount_common::{
    ChunkHash, ContentHash, DeviceId, Node, NodeId, NodeKind, Owner, Placement, Rev, Seq, Timestamp, envelope,
};
use syncmount_engine::State;
use syncmount_server::FIRST_FOLDER;
use syncmount_server::blob::{BlobError, PackStore};
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::meta::{MetaError, PackId};
use syncmount_server::service::{Changes, Environment, Offload, Result, Service, ServiceError};

/// With the planted fault, this many commits share one sync that comes after their answers.
const SYNC_EVERY: u64 = 4;

/// Packs that can be copied as a whole.
#[derive(Default)]
struct Packs(Mutex<BTreeMap<PackId, Bytes>>);

type Job<'a, T> = Pin<Box<dyn Future<Output = std::result::Result<T, BlobError>> + Send + 'a>>;

impl PackStore for Packs {
    fn put(&self, pack: PackId, pieces: Vec<Bytes>) -> Job<'_, ()> {
        self.0.lock().insert(pack, pieces.concat().into());
        Box::pin(async { Ok(()) })
    }

    fn list(&self) -> Job<'_, Vec<(PackId, u64)>> {
        Box::pin(async { Ok(self.0.lock().iter().map(|(pack, bytes)| (*pack, bytes.len() as u64)).collect()) })
    }

    fn remove(&self, pack: PackId) -> Job<'_, ()> {
        self.0.lock().remove(&pack);
        Box::pin(async { Ok(()) })
    }

    fn read(&self, pack: PackId, range: Range<u64>) -> Job<'_, Bytes> {
        let lost = || BlobError::Lost(format!("{pack:?}"));
        let packs = self.0.lock();
        let bytes = packs.get(&pack).filter(|bytes| bytes.len() as u64 >= range.end).ok_or_else(lost);
        let bytes = bytes.map(|bytes| bytes.slice(range.start as usize..range.end as usize));
        Box::pin(async { bytes })
    }
}

/// What the server's stores have, and what is written down about it. A backup is a copy.
struct Stores {
    meta: Arc<SqliteStore>,
    packs: Arc<Packs>,
    end: Seq,
    committed: BTreeSet<ContentHash>,
    answered: BTreeSet<[u8; 16]>,
    revs: BTreeMap<Rev, (NodeId, Option<State>)>,
}

impl Stores {
    fn copy(&self) -> Self {
        let meta = self.meta.fork().expect("a database in memory");
        let packs = Packs(Mutex::new(self.packs.0.lock().clone()));
        let (committed, answered, revs) = (self.committed.clone(), self.answered.clone(), self.revs.clone());
        Self { meta: Arc::new(meta), packs: Arc::new(packs), end: self.end, committed, answered, revs }
    }
}

/// The server of a world.
pub struct Server {
    stores: Stores,
    backup: Option<Stores>,
    synced: Option<Stores>,
    service: Service,
    clock: Arc<AtomicI64>,
    rng: Arc<Mutex<Rng>>,
    planted: Option<Planted>,
    commits: u64,
    /// No space is left.
    pub full: bool,
    /// How often the stores were set back.
    pub set_backs: u64,
    /// Every place that a node was given by an acknowledged commit.
    pub places: BTreeMap<(NodeKind2, Placement), BTreeSet<NodeId>>,
    kinds: BTreeMap<NodeId, NodeKind2>,
}

/// [`NodeKind`] with an order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NodeKind2 {
    /// A file.
    File,
    /// A directory.
    Dir,
    /// A symlink.
    Symlink,
}

impl From<NodeKind> for NodeKind2 {
    fn from(kind: NodeKind) -> Self {
        match kind {
            NodeKind::File => Self::File,
            NodeKind::Dir => Self::Dir,
            NodeKind::Symlink => Self::Symlink,
        }
    }
}

/// A service in memory completes every future at once.
///
/// # Panics
/// If it does not: then the world would not be deterministic.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the service in memory waits for something"),
    }
}

fn service(stores: &Stores, clock: &Arc<AtomicI64>, rng: &Arc<Mutex<Rng>>) -> Service {
    let (clock, rng) = (clock.clone(), rng.clone());
    let environment = Environment::new(
        move || Timestamp(clock.load(Ordering::Relaxed)),
        move |bytes| {
            let mut rng = rng.lock();
            bytes.iter_mut().for_each(|byte| *byte = rng.number() as u8);
        },
    );
    Service::new(stores.meta.clone(), stores.packs.clone(), environment, Offload::Inline, None)
}

impl Server {
    /// A server with an empty folder.
    ///
    /// # Panics
    /// If SQLite cannot keep a database in memory.
    pub fn new(seed: u64, now: i64) -> Self {
        Self::with(seed, now, None)
    }

    /// The same with a bug.
    ///
    /// # Panics
    /// As above.
    pub fn with(seed: u64, now: i64, planted: Option<Planted>) -> Self {
        let meta = Arc::new(SqliteStore::in_memory().expect("a database in memory"));
        let (packs, committed, answered, revs) = Default::default();
        let stores = Stores { meta, packs, end: 0, committed, answered, revs };
        let clock = Arc::new(AtomicI64::new(now));
        let rng = Arc::new(Mutex::new(Rng::new(seed)));
        let service = service(&stores, &clock, &rng);
        at_once(service.add_folder(FIRST_FOLDER)).expect("a folder");
        let (places, kinds) = Default::default();
        let synced = (planted == Some(Planted::AckBeforeSync)).then(|| stores.copy());
        let (backup, commits, full, set_backs) = (None, 0, false, 0);
        Self { stores, backup, synced, service, clock, rng, planted, commits, full, set_backs, places, kinds }
    }

    /// The server process ends and another one starts over the same stores.
    pub fn restart(&mut self) {
        self.service = service(&self.stores, &self.clock, &self.rng);
    }

    /// Moves small chunks from the metadata store into packs, as the server does now and then.
    pub fn flush(&self) -> Result<()> {
        at_once(self.service.flush_small_chunks()).map(drop)
    }

    /// Its power is cut. What it has acknowledged is there, unless it answered before it synced.
    pub fn cut(&mut self) {
        if let Some(synced) = &self.synced {
            self.stores = synced.copy();
        }
        self.restart();
    }

    /// Makes a backup.
    pub fn back_up(&mut self) {
        self.backup = Some(self.stores.copy());
    }

    /// Puts the backup back; `false` if there is none.
    pub fn set_back(&mut self) -> bool {
        let Some(backup) = &self.backup else { return false };
        self.stores = backup.copy();
        self.set_backs += 1;
        self.restart();
        true
    }

    /// Its keeper says that a backup was put back.
    pub fn told_restored(&self) -> Result<()> {
        at_once(self.service.restored()).map(drop)
    }

    /// The time by its clock.
    pub fn set_clock(&self, now: i64) {
        self.clock.store(now, Ordering::Relaxed);
    }

    /// The end of the feed.
    pub const fn end(&self) -> Seq {
        self.stores.end
    }

    /// Contents that an acknowledged commit named, in this life of the stores.
    pub const fn committed(&self) -> &BTreeSet<ContentHash> {
        &self.stores.committed
    }

    /// What each rev made of its node; `None`: a tombstone.
    pub const fn revs(&self) -> &BTreeMap<Rev, (NodeId, Option<State>)> {
        &self.stores.revs
    }

    /// A commit arrives.
    pub fn commit(&mut self, request: &CommitRequest, chunks: &[(ChunkHash, Bytes)]) -> Result<Committed> {
        if self.full {
            return Err(MetaError::Full.into());
        }
        let done = at_once(self.service.commit(FIRST_FOLDER, request.clone(), chunks.to_vec()))?;
        if self.stores.answered.insert(*request.op_id.as_bytes()) {
            request.ops.iter().for_each(|op| self.note(op));
            let since = Cursor { epoch: request.epoch, seq: self.stores.end, tag: 0 };
            let made = owned(self.page(Some(since))?);
            let revs = made.iter().map(|node| (node.rev, (node.id, State::of_node(node))));
            self.stores.revs.extend(revs);
            self.stores.end = self.stores.end.max(done.last_seq);
            self.commits += 1;
            if self.synced.is_some() && self.commits.is_multiple_of(SYNC_EVERY) {
                self.synced = Some(self.stores.copy());
            }
        }
        Ok(done)
    }

    fn note(&mut self, op: &Op) {
        match op {
            Op::Create { id, kind, names, content, .. } => {
                self.kinds.insert(*id, (*kind).into());
                self.stores.committed.extend(content);
                self.note_places(*id, names);
            }
            Op::Update { id, names, content, .. } => {
                self.stores.committed.extend(content);
                self.note_places(*id, names.as_deref().unwrap_or_default());
            }
            Op::Remove { .. } => {}
        }
    }

    fn note_places(&mut self, id: NodeId, names: &[Placement]) {
        let Some(kind) = self.kinds.get(&id) else { return };
        for place in names {
            self.places.entry((*kind, place.clone())).or_default().insert(id);
        }
    }

    /// A poll arrives.
    pub fn changes(&self, ask: Ask, limit: usize) -> Result<ChangesPage> {
        self.changes_with(ask, limit, 0, None).map(|changes| changes.page)
    }

    /// A poll arrives. Chunks of contents up to `inline` bytes ride along, but those that `device`, who asks, has written.
    pub fn changes_with(&self, ask: Ask, limit: usize, inline: u64, device: Option<DeviceId>) -> Result<Changes> {
        let Ask { since, known } = ask;
        let poll = syncmount_server::service::Poll { since, known, limit, inline, device, session: None, extra: true };
        let mut changes = at_once(self.service.page(FIRST_FOLDER, poll))?;
        if self.planted == Some(Planted::TombstoneLost) {
            let met = |node: &Node| !node.deleted || !node.rev.is_multiple_of(8);
            changes.page.nodes.retain(met);
        }
        Ok(changes)
    }

    fn page(&self, since: Option<Cursor>) -> Result<ChangesPage> {
        self.changes(Ask { since, known: None }, PAGE_NODES_MAX)
    }

    /// Chunks arrive.
    pub fn put(&self, chunks: Vec<(ChunkHash, Bytes)>) -> Result<()> {
        if self.full {
            return Err(BlobError::Full.into());
        }
        at_once(self.service.put(chunks)).map(drop)
    }

    /// All nodes that were ever there, in their present state, and the end of the feed.
    pub fn nodes(&self) -> Result<(Vec<Node>, Cursor)> {
        let mut nodes = Vec::new();
        let mut since = None;
        loop {
            let page = self.page(since)?;
            let (cursor, more) = (page.cursor, page.more);
            nodes.extend(owned(page));
            since = Some(cursor);
            if !more {
                return Ok((nodes, cursor));
            }
        }
    }

    /// The bytes of a content, read the way a client does.
    pub fn bytes(&self, hash: ContentHash) -> Result<Vec<u8>> {
        let manifest = at_once(self.service.manifest(hash))?;
        let mut out = Vec::new();
        for (chunk, _) in manifest.chunks() {
            let sealed = at_once(self.service.chunk(chunk))?;
            let raw = envelope::open(&chunk, &sealed).map_err(|_| ServiceError::Damaged(chunk))?;
            out.extend_from_slice(&raw);
        }
        Ok(out)
    }
}

/// The nodes of a page with their owners, as states have them.
fn owned(page: ChangesPage) -> Vec<Node> {
    let owners: BTreeMap<NodeId, Owner> = page.owners.iter().flatten().map(|owned| (owned.id, owned.owner)).collect();
    let with_owner = |node: Node| Node { xattrs: node.xattrs.with_owner(owners.get(&node.id).copied()), ..node };
    page.nodes.into_iter().map(with_owner).collect()
}
