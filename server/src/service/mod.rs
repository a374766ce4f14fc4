//! The rules of the server: what a commit may do, what a poll answers, when a chunk counts as stored.
//!
//! Works on the traits of [`crate::meta`] and [`crate::blob`]; knows no HTTP and no SQL. A service in memory completes
//! every future at once on the thread that polls it (held polls aside), so that the simulator can drive it step by step.

mod alike;
mod audit;
mod batch;
mod bodies;
mod changes;
mod chunks;
mod commit;
mod cursor;
mod difference;
mod environment;
mod error;
mod file_hash;
mod files;
mod folders;
mod history;
mod hold;
mod ingest;
mod loose;
mod losses;
mod memory;
mod path;
mod presence;
mod put_back;
mod record;
mod remove;
mod room;
mod scrub;
mod session;
mod small;
mod structure;
mod tokens;
mod undo;
mod upload;
mod whole;

pub use alike::ToldManifest;
pub use changes::{Changes, Poll};
pub use cursor::CursorKey;
pub use environment::Environment;
pub use error::{Result, ServiceError};
pub use files::{Bytestream, Opened, Precondition, Tag, Tags, WEB_DEVICE};
pub use folders::FOLDER_NAME_LEN_MAX;
pub use history::PastCommit;
pub use hold::{Denied, Held, HoldRule, PresentHold};
pub use ingest::{BATCH_LEN, Fresh, Ingest};
pub use memory::{Account, Allowance, Budget, Charge, FREE_LEN};
pub use path::Path;
pub use room::RESERVE_DEFAULT;
pub use scrub::Scrubbed;
pub use tokens::{ADMIN_TOKEN, Credential, Token};
pub use undo::UNDO_DEVICE;
pub use upload::Upload;

use crate::blob::{ChunkStore, ObjectPacks, PackStore};
use crate::meta::sqlite::SqliteStore;
use crate::meta::{self, FolderRow, MetaError, MetaStore, ReadTx, WriteTx};
use crate::wake::Wake;
use parking_lot::Mutex;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// The server without its sockets, the memory that what is asked of it may take, and the token that it works on behalf of
/// (without one: the server itself). Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Service(Arc<Inner>, Allowance, Option<Credential>);

struct Inner {
    meta: Arc<dyn MetaStore>,
    chunks: ChunkStore,
    environment: Arc<Environment>,
    wake: Wake,
    small: small::Gauge,
    turns: alike::Turns,
    strays: cursor::Strays,
    hashing: file_hash::Hashing,
    losses: losses::Losses,
    /// Turns to unpack long chunks.
    unpacking: Arc<Semaphore>,
    /// Turns to rebuild chunks that are told by their differences.
    rebuilding: Arc<Semaphore>,
    hold_rule: Mutex<HoldRule>,
    revocations: tokens::Revocations,
    offload: Offload,
    room: room::Room,
}

/// Where hashing and compression run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offload {
    /// Where they are asked for: no thread, no runtime, deterministic.
    Inline,
    /// On the blocking threads of the runtime.
    Blocking,
}

impl Offload {
    async fn run<T: Send + 'static>(self, job: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self {
            Self::Inline => Ok(job()),
            Self::Blocking => tokio::task::spawn_blocking(job).await.map_err(|_| ServiceError::Panicked),
        }
    }

    /// Goes on with `work` to its end, also if its caller goes away.
    async fn finish<T: Send + 'static>(self, work: impl Future<Output = T> + Send + 'static) -> Result<T> {
        match self {
            Self::Inline => Ok(work.await),
            Self::Blocking => tokio::spawn(work).await.map_err(|_| ServiceError::Panicked),
        }
    }
}

impl Service {
    /// A service over stores that exist. The same stores may be given to another service after this one is dropped: that
    /// is what a restart is.
    pub fn new(
        meta: Arc<dyn MetaStore>,
        packs: Arc<dyn PackStore>,
        environment: Environment,
        offload: Offload,
        directory: Option<PathBuf>,
    ) -> Self {
        let environment = Arc::new(environment);
        let ids = Arc::clone(&environment);
        let chunks = ChunkStore::new(packs, move || ids.pack_id());
        let (wake, small, turns) = (Wake::default(), small::Gauge::default(), alike::Turns::default());
        let (strays, hashing, hold_rule) = (cursor::Strays::default(), file_hash::Hashing::default(), Mutex::default());
        let revocations = tokens::Revocations::default();
        let [unpacking, rebuilding] = [(); 2].map(|()| Arc::new(Semaphore::new(bodies::TURNS)));
        let inner = Inner {
            meta,
            chunks,
            environment,
            wake,
            small,
            turns,
            strays,
            hashing,
            losses: losses::Losses::default(),
            unpacking,
            rebuilding,
            hold_rule,
            revocations,
            offload,
            room: room::Room::new(directory),
        };
        Self(Arc::new(inner), Allowance::default(), None)
    }

    /// The same service, for one request that may take so much memory.
    pub fn within(&self, allowance: Allowance) -> Self {
        Self(Arc::clone(&self.0), allowance, self.2.clone())
    }

    /// A service that lives in memory and has the folder `default`.
    pub async fn in_memory(environment: Environment) -> Result<Self> {
        let meta = Arc::new(SqliteStore::in_memory()?);
        let packs = Arc::new(ObjectPacks::in_memory());
        let service = Self::new(meta, packs, environment, Offload::Inline, None);
        service.add_folder(crate::FIRST_FOLDER).await?;
        Ok(service)
    }

    /// Reads on a consistent view.
    async fn read<T: Send + 'static>(&self, job: impl FnOnce(&dyn ReadTx) -> Result<T> + Send + 'static) -> Result<T> {
        meta::read(&*self.0.meta, job).await
    }

    /// Writes, all or nothing; durable when it returns.
    async fn write<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn WriteTx) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.transact(job, |_| ()).await
    }

    /// The same; `then` is called once it is durable, before anything that begins later sees it.
    async fn transact<T: Send + 'static>(
        &self,
        job: impl FnOnce(&dyn WriteTx) -> Result<T> + Send + 'static,
        then: impl FnOnce(&T) + Send + 'static,
    ) -> Result<T> {
        let done = meta::write(&*self.0.meta, job, then).await;
        if matches!(done, Err(ServiceError::Meta(MetaError::Full))) {
            self.disk_is_full();
        }
        done
    }

    /// A note about this server that is kept from run to run.
    pub async fn setting(&self, name: &'static str) -> Result<Option<String>> {
        self.read(move |tx| Ok(tx.setting(name)?)).await
    }

    /// Keeps a note about this server, or drops it. Durable when it returns.
    pub async fn set(&self, name: &'static str, value: Option<String>) -> Result<()> {
        self.write(move |tx| Ok(tx.put_setting(name, value.as_deref())?)).await
    }

    /// Whether the store answers. What the rows of folders hold does not matter.
    pub async fn check(&self) -> Result<()> {
        self.read(|tx| Ok(tx.probe()?)).await
    }

    /// Finishes what is queued and leaves the store tidy. Blocks.
    pub fn close(&self) -> Result<()> {
        Ok(self.0.meta.close()?)
    }
}

/// The folder that a request names.
fn folder(tx: &(impl ReadTx + ?Sized), name: &str) -> Result<FolderRow> {
    tx.folder(name)?.ok_or_else(|| {
        ServiceError::NotFound(format!(
            "there is no folder `{name}` on this server; `GET /v1/folders` lists the folders there are"
        ))
    })
}
