//! The connections that read. A reader sees the last durable state and never waits for the writer.

use super::{BUSY_TIMEOUT, Fault, MetaError, ReadJob, Result, STATEMENTS_MAX, Tx};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Reads at the same time. They are short and mostly from the page cache: more than a few threads only compete.
const READERS_MAX: usize = 8;

pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), permits: Arc::new(Semaphore::new(READERS_MAX)) }
    }

    pub(super) async fn read(self: Arc<Self>, job: ReadJob) -> Result<()> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| MetaError::Stopped)?;
        let blocking = tokio::task::spawn_blocking(move || {
            let result = self.run_on_idle(job);
            drop(permit);
            result
        });
        blocking.await.map_err(|_| MetaError::Stopped)?
    }

    /// Lets running reads end and drops idle connections, so that the writer's last checkpoint can empty the log.
    pub(super) fn close(&self) {
        self.permits.close();
        self.idle.lock().clear();
    }

    fn run_on_idle(&self, job: ReadJob) -> Result<()> {
        let idle = self.idle.lock().pop();
        let connection = idle.map_or_else(|| self.open(), Ok)?;
        let result = run(&connection, job);
        if result.is_ok() && !self.permits.is_closed() {
            self.idle.lock().push(connection);
        }
        result
    }

    fn open(&self) -> Result<Connection> {
        let connection = Connection::open(&self.path).fault()?;
        connection.busy_timeout(BUSY_TIMEOUT).fault()?;
        connection.pragma_update(None, "query_only", true).fault()?;
        connection.pragma_update(None, "cache_size", -8192).fault()?;
        connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
        Ok(connection)
    }
}

/// Runs a job inside a transaction that ends without a trace.
pub(super) fn run(connection: &Connection, job: ReadJob) -> Result<()> {
    let tx = connection.unchecked_transaction().fault()?;
    job(&Tx(&tx));
    tx.rollback().fault()
}
