//! The real service over stores in memory, called without sockets; what it has acknowledged is written down.

use super::Rng;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use syncmount_common::protocol::changes::{ChangesPage, Cursor, PAGE_NODES_MAX};
use syncmount_common::protocol::commit::{CommitRequest, Committed, Op};
use syncmount_common::{ChunkHash, ContentHash, Node, NodeId, NodeKind, Placement, Seq, Timestamp, envelope};
use syncmount_server::FIRST_FOLDER;
use syncmount_server::blob::ObjectPacks;
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::service::{Environment, Offload, Result, Service, ServiceError};

/// The server of a world.
pub struct Server {
    meta: Arc<SqliteStore>,
    packs: Arc<ObjectPacks>,
    service: Service,
    clock: Arc<AtomicI64>,
    rng: Arc<Mutex<Rng>>,
    /// The end of the feed.
    pub end: Seq,
    /// Contents that an acknowledged commit named.
    pub committed: BTreeSet<ContentHash>,
    /// Every place that a node was given by an acknowledged commit.
    pub places: BTreeMap<(NodeKind2, Placement), BTreeSet<NodeId>>,
    kinds: BTreeMap<NodeId, NodeKind2>,
    answered: BTreeSet<[u8; 16]>,
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
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the service in memory waits for something"),
    }
}

fn service(
    meta: &Arc<SqliteStore>,
    packs: &Arc<ObjectPacks>,
    clock: &Arc<AtomicI64>,
    rng: &Arc<Mutex<Rng>>,
) -> Service {
    let (clock, rng) = (clock.clone(), rng.clone());
    let environment = Environment::new(
        move || Timestamp(clock.load(Ordering::Relaxed)),
        move |bytes| {
            let mut rng = rng.lock();
            bytes.iter_mut().for_each(|byte| *byte = rng.number() as u8);
        },
    );
    Service::new(meta.clone(), packs.clone(), environment, Offload::Inline, None)
}

impl Server {
    /// A server with an empty folder.
    ///
    /// # Panics
    /// If SQLite cannot keep a database in memory.
    pub fn new(seed: u64, now: i64) -> Self {
        let meta = Arc::new(SqliteStore::in_memory().expect("a database in memory"));
        let packs = Arc::new(ObjectPacks::in_memory());
        let clock = Arc::new(AtomicI64::new(now));
        let rng = Arc::new(Mutex::new(Rng::new(seed)));
        let service = service(&meta, &packs, &clock, &rng);
        at_once(service.add_folder(FIRST_FOLDER)).expect("a folder");
        let (end, committed, places, kinds, answered) = Default::default();
        Self { meta, packs, service, clock, rng, end, committed, places, kinds, answered }
    }

    /// The server process ends and another one starts over the same stores.
    pub fn restart(&mut self) {
        self.service = service(&self.meta, &self.packs, &self.clock, &self.rng);
    }

    /// The time by its clock.
    pub fn set_clock(&self, now: i64) {
        self.clock.store(now, Ordering::Relaxed);
    }

    /// A commit arrives.
    pub fn commit(&mut self, request: &CommitRequest, chunks: &[(ChunkHash, Bytes)]) -> Result<Committed> {
        let done = at_once(self.service.commit(FIRST_FOLDER, request.clone(), chunks.to_vec()))?;
        self.end = self.end.max(done.last_seq);
        if self.answered.insert(*request.op_id.as_bytes()) {
            request.ops.iter().for_each(|op| self.note(op));
        }
        Ok(done)
    }

    fn note(&mut self, op: &Op) {
        match op {
            Op::Create { id, kind, names, content, .. } => {
                self.kinds.insert(*id, (*kind).into());
                self.committed.extend(content);
                self.note_places(*id, names);
            }
            Op::Update { id, names, content, .. } => {
                self.committed.extend(content);
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
    pub fn changes(&self, since: Option<Cursor>, limit: usize) -> Result<ChangesPage> {
        at_once(self.service.changes(FIRST_FOLDER, since, limit, 0)).map(|changes| changes.page)
    }

    /// Chunks arrive.
    pub fn put(&self, chunks: Vec<(ChunkHash, Bytes)>) -> Result<()> {
        at_once(self.service.put(chunks)).map(drop)
    }

    /// All nodes that were ever there, in their present state, and the end of the feed.
    pub fn nodes(&self) -> Result<(Vec<Node>, Cursor)> {
        let mut nodes = Vec::new();
        let mut since = None;
        loop {
            let page = self.changes(since, PAGE_NODES_MAX)?;
            nodes.extend(page.nodes);
            since = Some(page.cursor);
            if !page.more {
                return Ok((nodes, page.cursor));
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
