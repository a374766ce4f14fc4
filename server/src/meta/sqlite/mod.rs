//! The default metadata store: one SQLite database in WAL mode, fully synchronous.
//!
//! One thread owns the connection that writes; readers run on blocking threads over a small pool of connections and
//! never wait for the writer. In memory there is one connection and no thread: everything runs where it is called, so
//! that the simulator is deterministic. Nothing outside this directory knows SQL.

mod columns;
mod history;
mod losses;
mod past;
mod read;
mod readers;
mod rows;
mod schema;
mod scrub;
mod strict;
mod write;
mod writer;

use super::{MetaError, MetaStore, ReadJob, ReadTx, Result, WriteJob, WriteTx};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use readers::Readers;
use rusqlite::backup::Backup;
use rusqlite::{Connection, ErrorCode};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use writer::Writer;

/// How long a write waits for another process (`token add` beside a running server).
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Statements kept prepared per connection; there are about 95 in all.
const STATEMENTS_MAX: usize = 112;

/// One open transaction.
struct Tx<'conn>(&'conn Connection);

/// Metadata in SQLite.
pub struct SqliteStore(Backend);

enum Backend {
    File { readers: Arc<Readers>, writer: Writer },
    Memory(Arc<Mutex<Connection>>),
}

impl SqliteStore {
    /// Opens or makes the database at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = Connection::open(path).fault()?;
        connection.busy_timeout(BUSY_TIMEOUT).fault()?;
        connection.pragma_update(None, "journal_mode", "WAL").fault()?;
        connection.pragma_update(None, "synchronous", "FULL").fault()?;
        connection.pragma_update(None, "cache_size", -32_768).fault()?;
        connection.pragma_update(None, "journal_size_limit", 64 * 1024 * 1024).fault()?;
        prepare(&mut connection)?;
        let readers = Arc::new(Readers::new(path.to_owned()));
        Ok(Self(Backend::File { readers, writer: Writer::start(connection)? }))
    }

    /// A database that lives as long as the value.
    pub fn in_memory() -> Result<Self> {
        // Simulations make thousands of them: the steps to the newest format are done once.
        static EMPTY: Mutex<Option<Connection>> = Mutex::new(None);
        let mut empty = EMPTY.lock();
        let from = match &mut *empty {
            Some(from) => from,
            none => {
                let mut made = Connection::open_in_memory().fault()?;
                prepare(&mut made)?;
                none.insert(made)
            }
        };
        Self::copy(from)
    }

    /// A database in memory with what this one, in memory too, has now: what a backup of it is, in simulations.
    pub fn fork(&self) -> Result<Self> {
        let Backend::Memory(from) = &self.0 else { return Err(MetaError::Stopped) };
        Self::copy(&from.lock())
    }

    fn copy(from: &Connection) -> Result<Self> {
        let mut to = Connection::open_in_memory().fault()?;
        Backup::new(from, &mut to).and_then(|backup| backup.step(-1)).fault()?;
        prepare(&mut to)?;
        Ok(Self(Backend::Memory(Arc::new(Mutex::new(to)))))
    }
}

fn prepare(connection: &mut Connection) -> Result<()> {
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    schema::migrate(connection)
}

impl MetaStore for SqliteStore {
    fn read(&self, job: ReadJob) -> BoxFuture<'static, Result<()>> {
        match &self.0 {
            Backend::File { readers, .. } => Box::pin(Arc::clone(readers).read(job)),
            Backend::Memory(connection) => {
                let connection = Arc::clone(connection);
                Box::pin(async move { readers::run(&connection.lock(), job) })
            }
        }
    }

    fn write(&self, job: WriteJob) {
        match &self.0 {
            Backend::File { writer, .. } => writer.queue(job),
            Backend::Memory(connection) => {
                // The lock is released before `done` runs: what it wakes may want to read.
                let finished = writer::run_group(&connection.lock(), vec![job]);
                finished.tell();
            }
        }
    }

    fn changed_outside(&self) -> BoxFuture<'static, ()> {
        match &self.0 {
            Backend::File { writer, .. } => Box::pin(writer.changed_outside()),
            Backend::Memory(_) => Box::pin(std::future::pending()),
        }
    }

    fn close(&self) -> Result<()> {
        match &self.0 {
            Backend::File { readers, writer } => {
                readers.close();
                writer.close()
            }
            Backend::Memory(_) => Ok(()),
        }
    }
}

/// Turns SQLite's errors into this layer's.
trait Fault<T> {
    fn fault(self) -> Result<T>;
}

impl<T> Fault<T> for rusqlite::Result<T> {
    fn fault(self) -> Result<T> {
        self.map_err(|error| match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => MetaError::Full,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => MetaError::Locked,
            _ => MetaError::Store(Arc::new(error)),
        })
    }
}
