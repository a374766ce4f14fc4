//! What the tests of the server share: services over both kinds of store, requests in few words.

use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use syncmount_common::protocol::changes::{Cursor, Device};
use syncmount_common::protocol::commit::{CommitRequest, Committed, Conflict, ConflictReason, NewContent, Op};
use syncmount_common::{
    Attrs, ChunkHash, ContentHash, DeviceId, Epoch, Extent, Manifest, Name, Node, NodeId, NodeKind, OpId, Placement,
    Rev, SymlinkTarget, Timestamp, Xattrs, envelope,
};
use syncmount_server::blob::ObjectPacks;
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::service::{Offload, ServiceError};
use syncmount_server::{Environment, FIRST_FOLDER, Service};

pub const ROOT: NodeId = NodeId::ROOT;
pub const F: &str = FIRST_FOLDER;

/// A clock that ticks when it is read, and numbers that look random: the same in every run.
pub fn environment() -> Environment {
    let (time, state) = (AtomicU64::new(1_700_000_000_000), AtomicU64::new(1));
    let now = move || Timestamp(time.fetch_add(1, Ordering::Relaxed) as i64 * 1_000_000);
    let random = move |bytes: &mut [u8]| {
        for byte in bytes {
            let next = state.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            *byte = (next >> 56) as u8;
        }
    };
    Environment::new(now, random)
}

/// A service and the directory that it may live in.
pub struct World {
    pub service: Service,
    pub kind: &'static str,
    _directory: Option<tempfile::TempDir>,
}

/// One service over each kind of store.
pub async fn worlds() -> [World; 2] {
    [in_memory().await, on_disk().await]
}

pub async fn in_memory() -> World {
    World { service: Service::in_memory(environment()).await.unwrap(), kind: "memory", _directory: None }
}

pub async fn on_disk() -> World {
    let directory = tempfile::tempdir().unwrap();
    let meta = Arc::new(SqliteStore::open(&directory.path().join("meta.sqlite")).unwrap());
    let packs = directory.path().join("packs");
    std::fs::create_dir(&packs).unwrap();
    let packs = Arc::new(ObjectPacks::local(&packs).unwrap());
    let service = Service::new(meta, packs, environment(), Offload::Blocking, None);
    service.add_folder(F).await.unwrap();
    World { service, kind: "disk", _directory: Some(directory) }
}

/// Bytes that do not compress, the same for each seed.
pub fn some_bytes(seed: u32, len: usize) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// Commits files in the root, each of one chunk.
pub async fn send(service: &Service, names: &[(&str, &[u8])]) {
    let mut commit = request(service.folder(F).await.unwrap().cursor.epoch, Vec::new());
    let mut chunks = Vec::new();
    for (name, bytes) in names {
        let (body, chunk) = content(bytes);
        commit.ops.push(create(id(), ROOT, name, hash_of(&body)));
        commit.contents.push(body);
        chunks.push(chunk);
    }
    service.commit(F, commit, chunks).await.unwrap();
}

/// The packs in a server's data directory.
pub fn packs(directory: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(directory.join("packs")).unwrap().map(|entry| entry.unwrap().path());
    folders.flat_map(|folder| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())).collect()
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn unique() -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

pub fn id() -> NodeId {
    NodeId::from_bytes(unique())
}

pub fn op_id() -> OpId {
    OpId::from_bytes(unique())
}

pub fn device() -> Device {
    Device { id: DeviceId::from_bytes([7; 16]), name: "laptop".to_owned() }
}

pub fn at(parent: NodeId, name: &str) -> Placement {
    Placement { parent, name: Name::try_from(name).unwrap() }
}

pub const ATTRS: Attrs = Attrs { mode: 0o644, mtime: Timestamp(5) };

/// A content of one chunk, and the chunk.
pub fn content(bytes: &[u8]) -> (NewContent, (ChunkHash, Bytes)) {
    let hash = ChunkHash::of(bytes);
    let manifest = Manifest::new(vec![Extent::Chunk { hash, len: bytes.len() as u32 }]).unwrap();
    (NewContent { manifest, sha256: None }, (hash, envelope::seal(bytes).into()))
}

pub fn chunk(bytes: &[u8]) -> (ChunkHash, Bytes) {
    content(bytes).1
}

pub fn mkdir(id: NodeId, parent: NodeId, name: &str) -> Op {
    let (names, attrs) = (vec![at(parent, name)], Attrs { mode: 0o755, ..ATTRS });
    Op::Create {
        id,
        base: 0,
        kind: NodeKind::Dir,
        names,
        attrs,
        xattrs: Xattrs::default(),
        content: None,
        target: None,
    }
}

pub fn create(id: NodeId, parent: NodeId, name: &str, content: ContentHash) -> Op {
    let (names, content) = (vec![at(parent, name)], Some(content));
    Op::Create {
        id,
        base: 0,
        kind: NodeKind::File,
        names,
        attrs: ATTRS,
        xattrs: Xattrs::default(),
        content,
        target: None,
    }
}

pub fn symlink(id: NodeId, parent: NodeId, name: &str, target: &str) -> Op {
    let target = Some(SymlinkTarget::new(target.as_bytes()).unwrap());
    let names = vec![at(parent, name)];
    Op::Create {
        id,
        base: 0,
        kind: NodeKind::Symlink,
        names,
        attrs: ATTRS,
        xattrs: Xattrs::default(),
        content: None,
        target,
    }
}

pub fn rename(id: NodeId, base: Rev, parent: NodeId, name: &str) -> Op {
    Op::Update { id, base, names: Some(vec![at(parent, name)]), attrs: None, xattrs: None, content: None }
}

pub fn write(id: NodeId, base: Rev, content: ContentHash) -> Op {
    Op::Update { id, base, names: None, attrs: None, xattrs: None, content: Some(content) }
}

pub fn remove(id: NodeId, base: Rev) -> Op {
    Op::Remove { id, base }
}

pub fn request(epoch: Epoch, ops: Vec<Op>) -> CommitRequest {
    CommitRequest {
        op_id: op_id(),
        epoch,
        device: device(),
        session: None,
        known: None,
        contents: Vec::new(),
        changed: Vec::new(),
        concluded: false,
        times: Vec::new(),
        touched: Vec::new(),
        owners: Vec::new(),
        versions: Vec::new(),
        ops,
    }
}

pub fn empty() -> NewContent {
    NewContent { manifest: Manifest::default(), sha256: None }
}

pub fn hash_of(content: &NewContent) -> ContentHash {
    content.manifest.content_hash()
}

impl World {
    /// A world of a service over stores of its own.
    pub fn of(service: Service) -> Self {
        Self { service, kind: "memory", _directory: None }
    }

    pub async fn cursor(&self) -> Cursor {
        self.service.folder(F).await.unwrap().cursor
    }

    /// Commits operations that refer to the empty content or to none.
    pub async fn commit(&self, ops: Vec<Op>) -> Result<Committed, ServiceError> {
        let mut request = request(self.cursor().await.epoch, ops);
        request.contents.push(empty());
        self.service.commit(F, request, Vec::new()).await
    }

    /// Commits and answers the first rev.
    pub async fn ok(&self, ops: Vec<Op>) -> Rev {
        self.commit(ops).await.unwrap().first_seq
    }

    /// The reasons why operations conflict; and that nothing has changed.
    pub async fn conflicts(&self, ops: Vec<Op>) -> Vec<(u32, ConflictReason)> {
        let before = self.all().await;
        let refused = self.commit(ops).await;
        assert_eq!(self.all().await, before, "a refused batch leaves no trace ({})", self.kind);
        let Err(ServiceError::Conflict(conflicts)) = refused else { panic!("{refused:?}") };
        conflicts.iter().map(|Conflict { index, reason, .. }| (*index, *reason)).collect()
    }

    /// Everything that the feed tells.
    pub async fn all(&self) -> Vec<Node> {
        self.service.changes(F, None, 10_000, 0).await.unwrap().page.nodes
    }

    pub async fn node(&self, id: NodeId) -> Node {
        self.all().await.into_iter().find(|node| node.id == id).unwrap()
    }
}
