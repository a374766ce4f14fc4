//! Group commit: the one thread that writes takes everything queued, runs it in one transaction, and syncs once.
//!
//! Each job has its own savepoint, so that one that is refused leaves no trace and does not disturb its neighbours.
//! Nobody is told of success before the whole transaction is durable. The queue's bound is the API's bound on requests.

use super::{Fault, MetaError, Result, Tx};
use crate::meta::{Verdict, WriteDone, WriteJob, WriteRun};
use parking_lot::Mutex;
use rusqlite::Connection;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Notify;

/// How often the thread looks whether another process has changed the database: a few microseconds each time.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

/// Jobs in one transaction. More would only make the first wait for the last.
const GROUP_MAX: usize = 256;

pub(super) struct Writer {
    queue: Mutex<Option<mpsc::Sender<WriteJob>>>,
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    changed_outside: Arc<Notify>,
}

impl Writer {
    pub(super) fn start(connection: Connection) -> Result<Self> {
        let (queue, jobs) = mpsc::channel();
        let outside = Outside { version: data_version(&connection)?, changed: Arc::default() };
        let changed_outside = Arc::clone(&outside.changed);
        let thread = std::thread::Builder::new()
            .name("meta-writer".to_owned())
            .spawn(move || serve(connection, &jobs, outside))
            .map_err(|error| MetaError::Store(Arc::new(error)))?;
        Ok(Self { queue: Mutex::new(Some(queue)), thread: Mutex::new(Some(thread)), changed_outside })
    }

    pub(super) fn queue(&self, job: WriteJob) {
        let refused = match &*self.queue.lock() {
            Some(queue) => queue.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = refused {
            (job.done)(Err(MetaError::Stopped));
        }
    }

    /// Ends when another process has changed the database since the last call.
    pub(super) fn changed_outside(&self) -> impl Future<Output = ()> + Send + 'static {
        let changed = Arc::clone(&self.changed_outside);
        async move { changed.notified().await }
    }

    pub(super) fn close(&self) -> Result<()> {
        drop(self.queue.lock().take());
        let Some(thread) = self.thread.lock().take() else { return Ok(()) };
        if thread.thread().id() == std::thread::current().id() {
            // A job was the last owner of the store: the thread ends by itself when it is done with it.
            return Ok(());
        }
        thread.join().map_err(|_| MetaError::Stopped)?
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the metadata store did not close cleanly");
        }
    }
}

/// What other processes do with the database, as far as the connection that writes sees it.
struct Outside {
    version: i64,
    changed: Arc<Notify>,
}

impl Outside {
    fn look(&mut self, connection: &Connection) {
        match data_version(connection) {
            Ok(version) if version == self.version => {}
            Ok(version) => {
                self.version = version;
                self.changed.notify_one();
            }
            // The next look may tell.
            Err(error) => tracing::debug!(%error, "whether another process changed the database is not known"),
        }
    }
}

/// A number that changes when another connection changes the database. The connections of this process beside the writer's
/// only read.
fn data_version(connection: &Connection) -> Result<i64> {
    connection.prepare_cached("PRAGMA data_version").fault()?.query_row([], |row| row.get(0)).fault()
}

fn serve(connection: Connection, jobs: &mpsc::Receiver<WriteJob>, mut outside: Outside) -> Result<()> {
    loop {
        match jobs.recv_timeout(LOOK_INTERVAL) {
            Ok(first) => {
                let mut group = vec![first];
                group.extend(jobs.try_iter().take(GROUP_MAX - 1));
                run_group(&connection, group).tell();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        outside.look(&connection);
    }
    // Another process may still read the log; then it stays for the next start.
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).fault()?;
    connection.close().map_err(|(_, error)| error).fault()
}

/// What is left to do after a transaction: tell everybody.
pub(super) struct Finished {
    result: Result<()>,
    waiting: Vec<WriteDone>,
}

impl Finished {
    pub(super) fn tell(self) {
        for done in self.waiting {
            done(self.result.clone());
        }
    }
}

pub(super) fn run_group(connection: &Connection, group: Vec<WriteJob>) -> Finished {
    let mut waiting = Vec::with_capacity(group.len());
    let result = transaction(connection, group, &mut waiting);
    if let Err(error) = &result {
        tracing::error!(%error, requests = waiting.len(), "a metadata transaction failed");
        undo(connection);
    }
    Finished { result, waiting }
}

fn transaction(connection: &Connection, group: Vec<WriteJob>, waiting: &mut Vec<WriteDone>) -> Result<()> {
    let (runs, dones): (Vec<_>, Vec<_>) = group.into_iter().map(|job| (job.run, job.done)).unzip();
    waiting.extend(dones);
    execute(connection, "BEGIN IMMEDIATE")?;
    for run in runs {
        savepoint(connection, run)?;
    }
    execute(connection, "COMMIT")
}

fn savepoint(connection: &Connection, run: WriteRun) -> Result<()> {
    execute(connection, "SAVEPOINT job")?;
    let verdict = catch_unwind(AssertUnwindSafe(|| run(&Tx(connection)))).unwrap_or_else(|_| {
        tracing::error!("a metadata job panicked; it is undone");
        Verdict::RollBack
    });
    if connection.is_autocommit() {
        // SQLite itself has undone everything, as it does when the disk is full.
        return Err(MetaError::Full);
    }
    if verdict == Verdict::RollBack {
        execute(connection, "ROLLBACK TO job")?;
    }
    execute(connection, "RELEASE job")
}

fn execute(connection: &Connection, sql: &str) -> Result<()> {
    connection.prepare_cached(sql).fault()?.execute([]).fault().map(drop)
}

fn undo(connection: &Connection) {
    if !connection.is_autocommit()
        && let Err(error) = execute(connection, "ROLLBACK")
    {
        tracing::error!(%error, "a failed metadata transaction could not be rolled back");
    }
}
