//! What the server knows: folders, nodes, contents, where chunks lie, devices, tokens, answers to commits, the past.
//!
//! Owns the traits that a metadata store fulfils. A store gives two things: a consistent view to read from, and a
//! transaction to write in, which is durable before its `done` is called. The rules that decide what is written live in
//! the service; this layer knows nothing of HTTP, of bodies of chunks beyond small ones, or of who may do what.

mod error;
mod history;
mod losses;
mod scrub;
pub mod sqlite;

pub use error::MetaError;
pub use history::{CommitRow, Counts, HoldRow, Mark, Origin, Principal, ReadHistory, WriteHistory};
pub use losses::{PackKey, ReadLosses, WantedChunk, WriteLosses};
pub use scrub::{FolderFault, RawContent, ReadScrub, Totals, WriteScrub};

use bytes::Bytes;
use futures::channel::oneshot;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use std::sync::Arc;
use syncmount_common::node::TouchedDir;
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::Committed;
use syncmount_common::protocol::files::Version;
use syncmount_common::{
    ChunkHash, ContentHash, DeviceId, Epoch, FileHash, FolderId, Manifest, Name, Node, NodeId, OpId, Placement, Rev,
    Seq, Timestamp,
};

/// What this layer's operations answer.
pub type Result<T> = std::result::Result<T, MetaError>;

/// The largest sum of sizes that a folder's row can say, in bytes.
pub const FOLDER_BYTES_MAX: u64 = i64::MAX as u64;

/// A folder inside one store. It never leaves the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FolderKey(pub i64);

/// One folder's row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderRow {
    /// Names the folder in this store.
    pub key: FolderKey,
    /// Names it everywhere.
    pub id: FolderId,
    /// What people call it.
    pub name: String,
    /// The life of its history.
    pub epoch: Epoch,
    /// The last sequence number given out.
    pub seq: Seq,
    /// Live nodes without the root.
    pub nodes: u64,
    /// Sum of the sizes of live files, at most [`FOLDER_BYTES_MAX`].
    pub bytes: u64,
}

/// What a content's row says beside its manifest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRow {
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the whole file, if this server has computed it.
    pub sha256: Option<FileHash>,
}

/// A pack object of the chunk store.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackId(pub [u8; 16]);

/// Where an envelope lies inside a pack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackSlice {
    /// Which pack.
    pub pack: PackId,
    /// Offset of the envelope's first byte.
    pub offset: u64,
    /// Length of the envelope in bytes.
    pub len: u32,
}

/// Where a known chunk is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkPlace {
    /// In a pack.
    Packed(PackSlice),
    /// In the metadata store itself: its envelope.
    Small(Bytes),
}

/// A chunk that lies in a pack and is to be entered into the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PackedChunk {
    /// Its name.
    pub hash: ChunkHash,
    /// Length of its raw bytes.
    pub raw_len: u32,
    /// Where its envelope lies.
    pub slice: PackSlice,
}

/// A chunk whose envelope is to be kept in the metadata store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SmallChunk {
    /// Its name.
    pub hash: ChunkHash,
    /// Length of its raw bytes.
    pub raw_len: u32,
    /// The envelope.
    pub envelope: Bytes,
}

/// One entry of a node's history, as it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionRow {
    /// Whose content it was.
    pub node: NodeId,
    /// The rev that made it.
    pub rev: Seq,
    /// Where the node lay at that time.
    pub placement: Placement,
    /// The bytes.
    pub content: ContentHash,
    /// The writer's modification time.
    pub mtime: Timestamp,
    /// When the server took it.
    pub received: Timestamp,
    /// Who wrote it.
    pub device: DeviceId,
}

/// Where a content is used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ContentUse {
    /// The folder's name.
    pub folder: String,
    /// The file.
    pub node: NodeId,
    /// Where it lies, or lay.
    pub placement: Placement,
    /// What it consists of.
    pub content: ContentHash,
    /// For an earlier version: which.
    pub rev: Option<Seq>,
}

/// The session in which a device spoke last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionRow {
    /// Grows with each start of the device.
    pub number: u64,
    /// Drawn at each start.
    pub nonce: u64,
    /// Where the newest commit ends that the device made in any session; 0 if it has made none.
    pub committed: Seq,
}

/// One token, without its secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRow {
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
}

/// A consistent view of the store. All answers belong to one moment.
pub trait ReadTx: ReadHistory + ReadLosses + ReadScrub {
    /// Fails if the store does not answer. Reads no row.
    fn probe(&self) -> Result<()>;
    /// The folder of that name, or of that id if no name matches.
    fn folder(&self, name_or_id: &str) -> Result<Option<FolderRow>>;
    /// All folders by name.
    fn folders(&self) -> Result<Vec<FolderRow>>;
    /// A node, tombstones too.
    fn node(&self, folder: FolderKey, id: NodeId) -> Result<Option<Node>>;
    /// At most `limit` nodes with a rev above `since`, in rev order, and whether more follow. Fewer if they have many names
    /// or large extended attributes.
    fn changed(&self, folder: FolderKey, since: Seq, limit: usize) -> Result<(Vec<Node>, bool)>;
    /// Directories whose entries were last changed by revs above `since` up to `end`, and that were not changed themselves by such
    /// a rev; in the order of these revs, at most `limit`.
    fn touched(&self, folder: FolderKey, since: Seq, end: Seq, limit: usize) -> Result<Vec<(TouchedDir, Rev)>>;
    /// The node that has `name` in `parent`.
    fn child(&self, folder: FolderKey, parent: NodeId, name: &Name) -> Result<Option<NodeId>>;
    /// At most `limit` entries of a directory after the name `after`, by name.
    fn children(
        &self,
        folder: FolderKey,
        parent: NodeId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, Node)>>;
    /// Whether any live node lies in `parent`.
    fn has_children(&self, folder: FolderKey, parent: NodeId) -> Result<bool>;
    /// What is known about a content.
    fn content(&self, hash: &ContentHash) -> Result<Option<ContentRow>>;
    /// The length of the encoding of a content's manifest, in bytes.
    fn manifest_len(&self, hash: &ContentHash) -> Result<Option<u64>>;
    /// A content's manifest.
    fn manifest(&self, hash: &ContentHash) -> Result<Option<Manifest>>;
    /// The raw length of a chunk, if it is known.
    fn chunk_len(&self, hash: &ChunkHash) -> Result<Option<u32>>;
    /// Where a chunk is, if it is known.
    fn chunk(&self, hash: &ChunkHash) -> Result<Option<ChunkPlace>>;
    /// How many bytes of envelopes the metadata store itself holds.
    fn small_bytes(&self) -> Result<u64>;
    /// Small chunks of up to `bytes` in sum (at least one if there is any).
    fn small_chunks(&self, bytes: u64) -> Result<Vec<SmallChunk>>;
    /// The name of a device.
    fn device(&self, id: DeviceId) -> Result<Option<Device>>;
    /// The versions of `node` and of whatever had that path, newest first.
    fn versions(&self, folder: FolderKey, node: NodeId, place: &Placement, limit: usize) -> Result<Vec<Version>>;
    /// The content that the version `rev` of `node`, or of whatever had that path, consists of.
    fn version(&self, folder: FolderKey, node: NodeId, place: &Placement, rev: Seq) -> Result<Option<ContentHash>>;
    /// The first answer to an op id, with the stored tag.
    fn answer(&self, folder: FolderKey, op: OpId) -> Result<Option<Committed>>;
    /// The session in which a device spoke last.
    fn session(&self, folder: FolderKey, device: DeviceId) -> Result<Option<SessionRow>>;
    /// The token with this SHA-256.
    fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>>;
    /// All tokens by name.
    fn tokens(&self) -> Result<Vec<TokenRow>>;
    /// A note about this server that is kept from run to run.
    fn setting(&self, name: &str) -> Result<Option<String>>;
}

/// A transaction. Everything in it becomes visible and durable together, or not at all.
pub trait WriteTx: ReadTx + WriteHistory + WriteLosses + WriteScrub {
    /// A new folder with a root; `false` if the name or id is taken.
    fn add_folder(&self, id: FolderId, name: &str, epoch: Epoch, root: &Node) -> Result<bool>;
    /// Moves a folder's end and sets its counters.
    fn advance(&self, folder: FolderKey, seq: Seq, totals: Totals) -> Result<()>;
    /// Writes a node's row. Names are written by [`Self::add_name`].
    fn put_node(&self, folder: FolderKey, node: &Node) -> Result<()>;
    /// The entries of a directory were changed at `at`, last with `rev`: its mtime is that, but later than it was unless it is
    /// the very same. Nothing happens to what is no live directory.
    fn touch_dir(&self, folder: FolderKey, dir: NodeId, at: Timestamp, rev: Rev) -> Result<()>;
    /// Takes all names of a node away.
    fn clear_names(&self, folder: FolderKey, node: NodeId) -> Result<()>;
    /// Gives a node a name; `false` if another node has it.
    fn add_name(&self, folder: FolderKey, node: NodeId, place: &Placement) -> Result<bool>;
    /// Enters a content; fills in the SHA-256 of the file if it was not known. It must be one that this server has computed.
    fn add_content(&self, hash: &ContentHash, manifest: &Manifest, sha256: Option<FileHash>) -> Result<()>;
    /// Keeps the SHA-256 of a content's bytes, which this server has computed.
    fn set_sha256(&self, hash: &ContentHash, sha256: &FileHash) -> Result<()>;
    /// Enters a version into the history.
    fn add_version(&self, folder: FolderKey, version: &VersionRow) -> Result<()>;
    /// Enters a device or its new name.
    fn put_device(&self, device: &Device) -> Result<()>;
    /// Keeps the answer to an op id; the oldest beyond `keep` are dropped now and then.
    fn add_answer(&self, folder: FolderKey, op: OpId, answer: Committed, keep: u64) -> Result<()>;
    /// Enters the session in which a device speaks.
    fn put_session(&self, folder: FolderKey, device: DeviceId, session: &SessionRow) -> Result<()>;
    /// Enters a chunk that lies in a pack; `false` if it was known.
    fn add_packed(&self, chunk: &PackedChunk) -> Result<bool>;
    /// Keeps a small chunk; `false` if it was known.
    fn add_small(&self, chunk: &SmallChunk) -> Result<bool>;
    /// Replaces a small chunk by one in a pack.
    fn move_small(&self, chunk: &PackedChunk) -> Result<()>;
    /// Enters a token; `false` if the name is taken.
    fn add_token(&self, name: &str, hash: &[u8; 32], created: Timestamp) -> Result<bool>;
    /// Revokes a token; `false` if there is none of that name.
    fn remove_token(&self, name: &str) -> Result<bool>;
    /// Keeps a note, or drops it.
    fn put_setting(&self, name: &str, value: Option<&str>) -> Result<()>;
}

/// Whether a write keeps what it did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Part of the group's transaction.
    Keep,
    /// Undone, as if it had never run.
    RollBack,
}

/// What to do with a consistent view.
pub type ReadJob = Box<dyn FnOnce(&dyn ReadTx) + Send>;

/// What to do inside a transaction.
pub type WriteRun = Box<dyn FnOnce(&dyn WriteTx) -> Verdict + Send>;

/// Whom to tell of a transaction's end.
pub type WriteDone = Box<dyn FnOnce(Result<()>) + Send>;

/// One request to write.
pub struct WriteJob {
    /// Runs inside the transaction.
    pub run: WriteRun,
    /// Called once the transaction is durable, or has failed. Called also if whoever asked has gone away.
    pub done: WriteDone,
}

/// Keeps metadata. Requests that are queued at the same time share one transaction, and so one fsync.
pub trait MetaStore: Send + Sync + 'static {
    /// Runs a job on a consistent view.
    fn read(&self, job: ReadJob) -> BoxFuture<'static, Result<()>>;
    /// Queues a write.
    fn write(&self, job: WriteJob);
    /// Ends when another process has changed the store since the last call, after a moment. In memory, never.
    fn changed_outside(&self) -> BoxFuture<'static, ()>;
    /// Finishes what is queued and leaves the store tidy; later writes fail. Blocks.
    fn close(&self) -> Result<()>;
}

/// Reads through `job` and hands its answer back.
pub async fn read<T, E>(
    store: &dyn MetaStore,
    job: impl FnOnce(&dyn ReadTx) -> std::result::Result<T, E> + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<MetaError> + Send + 'static,
{
    let (slot, answer) = slot_pair();
    store.read(Box::new(move |tx| *slot.lock() = Some(job(tx)))).await?;
    let taken = answer.lock().take();
    taken.unwrap_or_else(|| Err(MetaError::Stopped.into()))
}

/// Writes through `job` and hands its answer back once it is durable. An error undoes the job. `then` runs when the
/// answer is durable, even if the caller has gone away by then.
pub async fn write<T, E>(
    store: &dyn MetaStore,
    job: impl FnOnce(&dyn WriteTx) -> std::result::Result<T, E> + Send + 'static,
    then: impl FnOnce(&T) + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<MetaError> + Send + 'static,
{
    let (slot, answer) = slot_pair();
    let (tell, told) = oneshot::channel();
    let run = move |tx: &dyn WriteTx| {
        let result = job(tx);
        let verdict = if result.is_ok() { Verdict::Keep } else { Verdict::RollBack };
        *slot.lock() = Some(result);
        verdict
    };
    let done = move |durable: Result<()>| {
        let result = match (durable, answer.lock().take()) {
            (Ok(()), Some(result)) => result,
            (Ok(()), None) => Err(MetaError::Stopped.into()),
            (Err(error), _) => Err(error.into()),
        };
        if let Ok(value) = &result {
            then(value);
        }
        // Nobody listens if the caller has gone away.
        drop(tell.send(result));
    };
    store.write(WriteJob { run: Box::new(run), done: Box::new(done) });
    told.await.unwrap_or_else(|_| Err(MetaError::Stopped.into()))
}

type Slot<T, E> = Arc<Mutex<Option<std::result::Result<T, E>>>>;

fn slot_pair<T, E>() -> (Slot<T, E>, Slot<T, E>) {
    let slot = Arc::new(Mutex::new(None));
    (Arc::clone(&slot), slot)
}
