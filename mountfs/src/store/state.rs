//! The state: rows by id and settings by name, all as bytes.
//!
//! Promises: when [`State::append`] returns, the record survives the death of this process, as a whole; when
//! [`State::sync`] returns, everything appended before survives a power cut; after either, opening finds all records up to
//! some point and none behind it. Takes memory for one journal segment, however many rows there are. Must not know what a
//! row means.
//!
//! A record is one write to the journal. A thread folds the journal into SQLite, every two seconds or whenever a segment is
//! full, by reading the segment again: the same path as after a crash, so that it is walked all the time.

use super::db::{Db, Merged, RowChange};
use super::disk;
use super::journal::{self, Journal, Media, Replay, ReplayError};
use super::session::Session;
use parking_lot::{Condvar, Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a record stays in the journal only.
const FOLD_AFTER: Duration = Duration::from_secs(2);
/// How long to wait after a fold that failed.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Records of more rows or bytes go into SQLite directly: they would fill the journal with what is folded at once.
const DIRECT_ROWS: usize = 4_000;
const DIRECT_LEN: usize = 4 * 1024 * 1024;
/// An append that finds more closed segments than this folds them before it goes on: 64 MiB of journal.
const BACKLOG_SEGMENTS: usize = 8;

const JOURNAL: &str = "journal";

/// A change of some rows and settings, atomic as a whole. `None` removes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// By id.
    pub rows: Vec<RowChange>,
    /// By name.
    pub meta: Vec<(String, Option<Vec<u8>>)>,
}

impl Record {
    fn is_direct(&self) -> bool {
        let len = |value: &Option<Vec<u8>>| value.as_ref().map_or(0, Vec::len);
        self.rows.len() > DIRECT_ROWS
            || self.rows.iter().map(|(_, data)| len(data)).sum::<usize>() > DIRECT_LEN
            || self.meta.iter().map(|(key, value)| key.len() + len(value)).sum::<usize>() > DIRECT_LEN
    }
}

/// What was found when the state was opened.
#[derive(Debug, Default)]
pub struct Loaded {
    /// All rows, by id.
    pub rows: Vec<([u8; 16], Vec<u8>)>,
    /// All settings.
    pub meta: HashMap<String, Vec<u8>>,
    /// What had to be repaired, in sentences for people.
    pub repaired: Vec<String>,
    /// The machine went down while the state was open: files beside it that were not synced may be cut short or empty.
    pub suspect: bool,
}

/// Why the state cannot be opened or stored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error("{} is in use by another syncmount{}", path.display(), by.map(|pid| format!(" (process {pid})")).unwrap_or_default())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that has it, if it left its number.
        by: Option<u32>,
    },
    /// No permission, or a read-only file system.
    #[error("{} cannot be written: {reason}", path.display())]
    NotWritable {
        /// What.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The disk is full.
    #[error("there is no space left on the disk of {}: free some and start again", path.display())]
    Full {
        /// What could not grow.
        path: PathBuf,
    },
    /// What is in the file makes no sense.
    #[error("{} is damaged ({what}): move the directory away and start again, unsent changes lie in its `staging`", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A newer version of the program wrote it.
    #[error("{} was written by a newer version of syncmount (format {found}, this one knows {known}): update", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
        /// The newest format that this program knows.
        known: i64,
    },
    /// SQLite has another complaint.
    #[error("{}: {reason}", path.display())]
    Sql {
        /// The file.
        path: PathBuf,
        /// The complaint.
        reason: String,
    },
    /// Any other failure of the file system.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// What.
        source: io::Error,
    },
}

impl StateError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::NotWritable { path, reason: source.to_string() }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { path, source },
        }
    }

    fn replay(path: &Path, error: ReplayError) -> Self {
        match error {
            ReplayError::Io(error) => Self::io(path, error),
            ReplayError::Format => Self::Damaged { path: path.to_owned(), what: error.to_string() },
        }
    }
}

impl From<StateError> for io::Error {
    fn from(error: StateError) -> Self {
        let kind = match &error {
            StateError::Full { .. } => io::ErrorKind::StorageFull,
            StateError::NotWritable { .. } => io::ErrorKind::PermissionDenied,
            StateError::InUse { .. } => io::ErrorKind::ResourceBusy,
            StateError::Damaged { .. } | StateError::Newer { .. } => io::ErrorKind::InvalidData,
            StateError::Io { source, .. } => source.kind(),
            StateError::Sql { .. } => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

/// The open state of one directory.
pub struct State {
    shared: Arc<Shared>,
    folder: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    dir: PathBuf,
    session: Session,
    queue: Mutex<Queue>,
    /// Something happened to the queue.
    wake: Condvar,
    /// Taken before the queue where both are needed. `None` once closed.
    db: Mutex<Option<Db>>,
    synced: Mutex<Synced>,
    synced_changed: Condvar,
}

struct Queue {
    journal: Journal,
    stopping: bool,
    /// A sync of the journal failed: what the kernel says about those bytes from now on proves nothing. Fold them instead.
    distrusted: bool,
}

#[derive(Default)]
struct Synced {
    seq: u64,
    running: bool,
}

impl State {
    /// Opens or makes the state in `dir`, for this process only.
    pub fn open(dir: &Path) -> Result<(Self, Loaded), StateError> {
        Self::open_with(dir, journal::files(), FOLD_AFTER)
    }

    fn open_with(dir: &Path, media: Media, fold_after: Duration) -> Result<(Self, Loaded), StateError> {
        let journal_dir = dir.join(JOURNAL);
        disk::create_private_dir(dir).map_err(|error| StateError::io(dir, error))?;
        disk::create_private_dir(&journal_dir).map_err(|error| StateError::io(&journal_dir, error))?;
        let session = Session::begin(dir)?;
        let mut db = Db::open(&dir.join("state.sqlite"), session.suspect)?;
        let repaired = recover(&journal_dir, &mut db)?;
        db.give_back_room()?;
        let contents = db.load()?;
        let folded = db.folded()?;
        let journal =
            Journal::begin(&journal_dir, media, folded + 1).map_err(|error| StateError::io(&journal_dir, error))?;
        let loaded = Loaded { rows: contents.rows, meta: contents.meta, repaired, suspect: session.suspect };
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            session,
            queue: Mutex::new(Queue { journal, stopping: false, distrusted: false }),
            wake: Condvar::new(),
            db: Mutex::new(Some(db)),
            synced: Mutex::new(Synced { seq: folded, running: false }),
            synced_changed: Condvar::new(),
        });
        let folder = spawn_folder(&shared, fold_after).map_err(|error| StateError::io(dir, error))?;
        Ok((Self { shared, folder: Mutex::new(Some(folder)) }, loaded))
    }

    /// Appends a record. It survives the death of this process when this returns; after an error it is not there.
    pub fn append(&self, record: &Record) -> io::Result<()> {
        if record.is_direct() {
            let rows = record.rows.iter().cloned().map(Ok);
            return Ok(self.shared.append_direct(rows, &record.meta)?);
        }
        let payload = postcard::to_allocvec(record).map_err(io::Error::other)?;
        self.shared.append(&payload)
    }

    /// The same with rows that are made as they are needed, so that very many never lie in memory at once. Best in the order of
    /// their ids. An error of one is an error of the whole record.
    pub fn append_rows(
        &self,
        rows: impl Iterator<Item = io::Result<RowChange>>,
        meta: Vec<(String, Option<Vec<u8>>)>,
    ) -> io::Result<()> {
        if rows.size_hint().0 > DIRECT_ROWS {
            return Ok(self.shared.append_direct(rows, &meta)?);
        }
        self.append(&Record { rows: rows.collect::<io::Result<_>>()?, meta })
    }

    /// Everything appended before survives a power cut when this returns. Callers that come together share one `fdatasync`.
    pub fn sync(&self) -> io::Result<()> {
        self.shared.sync()
    }

    /// Bytes that the records take from the disk.
    pub fn stored_bytes(&self) -> io::Result<u64> {
        Ok(disk::stored_in(&self.shared.dir)? + disk::stored_in(&self.shared.dir.join(JOURNAL))?)
    }

    /// After a power cut: whatever lies beside the state has been looked at. Until then every start is told that it is suspect.
    pub fn end_suspicion(&self) -> io::Result<()> {
        self.sync()?;
        self.shared.session.end_suspicion()
    }

    /// Folds everything appended before into SQLite, durably.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        self.shared.fold_all()?;
        self.shared.with_db(|db| db.checkpoint())
    }

    /// Folds everything, makes it and all other files of the file system durable, and notes that the session ended cleanly.
    /// Whatever else keeps files there (the cache, staging files) must be closed before. Nothing can be appended afterwards.
    pub fn close(&self) -> Result<(), StateError> {
        self.stop();
        self.checkpoint()?;
        *self.shared.db.lock() = None;
        let session = &self.shared.session;
        session.end().map_err(|error| StateError::io(Path::new("session"), error))
    }

    /// Whether it takes nothing any more, because it was closed in order.
    pub fn is_closed(&self) -> bool {
        self.shared.queue.lock().stopping
    }

    fn stop(&self) {
        self.shared.queue.lock().stopping = true;
        self.shared.wake.notify_all();
        if let Some(folder) = self.folder.lock().take()
            && folder.join().is_err()
        {
            tracing::error!("the thread that folds the journal has panicked");
        }
    }
}

/// Without [`State::close`] this is like a crash: nothing is lost, and nothing is noted.
impl Drop for State {
    fn drop(&mut self) {
        self.stop();
    }
}

fn closed() -> io::Error {
    io::Error::other("the state has been closed")
}

impl Shared {
    fn append(&self, payload: &[u8]) -> io::Result<()> {
        let mut queue = self.open_queue()?;
        if queue.journal.closed_count() > BACKLOG_SEGMENTS {
            drop(queue);
            self.fold_all()?;
            queue = self.open_queue()?;
        }
        let was_empty = queue.journal.is_empty();
        queue.journal.append(payload)?;
        if was_empty || queue.journal.has_closed() {
            self.wake.notify_all();
        }
        Ok(())
    }

    fn open_queue(&self) -> io::Result<MutexGuard<'_, Queue>> {
        let queue = self.queue.lock();
        if queue.stopping { Err(closed()) } else { Ok(queue) }
    }

    fn append_direct(
        &self,
        rows: impl Iterator<Item = io::Result<RowChange>>,
        meta: &[(String, Option<Vec<u8>>)],
    ) -> Result<(), StateError> {
        self.with_db(|db| {
            self.fold_into(db)?;
            let mut queue = self.open_queue().map_err(|error| StateError::io(Path::new("journal"), error))?;
            queue.journal.rotate();
            while fold_oldest(db, queue.journal.oldest_closed())? {
                drop_oldest(&mut queue)?;
            }
            let seq = queue.journal.next_seq();
            db.apply_rows(rows, meta, seq)?;
            queue.journal.skip(seq);
            drop(queue);
            self.note_synced(seq);
            Ok(())
        })
    }

    fn with_db<T>(&self, work: impl FnOnce(&mut Db) -> Result<T, StateError>) -> Result<T, StateError> {
        match self.db.lock().as_mut() {
            Some(db) => work(db),
            None => Err(StateError::io(Path::new("state.sqlite"), closed())),
        }
    }

    fn fold_all(&self) -> Result<(), StateError> {
        self.with_db(|db| self.fold_into(db))
    }

    /// Folds what the journal has now. What is appended meanwhile waits for the next time.
    fn fold_into(&self, db: &mut Db) -> Result<(), StateError> {
        let (last_seq, count, is_distrusted) = {
            let mut queue = self.queue.lock();
            queue.journal.rotate();
            let last_seq = queue.journal.next_seq() - 1;
            (last_seq, queue.journal.closed_count(), std::mem::take(&mut queue.distrusted))
        };
        for _ in 0..count {
            let oldest = self.queue.lock().journal.oldest_closed();
            if let Err(error) = fold_oldest(db, oldest) {
                self.queue.lock().distrusted |= is_distrusted;
                return Err(error);
            }
            drop_oldest(&mut self.queue.lock())?;
        }
        self.note_synced(last_seq);
        Ok(())
    }

    fn note_synced(&self, seq: u64) {
        let mut synced = self.synced.lock();
        synced.seq = synced.seq.max(seq);
        self.synced_changed.notify_all();
    }

    fn sync(&self) -> io::Result<()> {
        let target = self.queue.lock().journal.next_seq() - 1;
        let mut synced = self.synced.lock();
        while synced.seq < target && synced.running {
            self.synced_changed.wait(&mut synced);
        }
        if synced.seq >= target {
            return Ok(());
        }
        synced.running = true;
        drop(synced);
        let outcome = self.sync_now();
        let mut synced = self.synced.lock();
        synced.running = false;
        self.synced_changed.notify_all();
        drop(synced);
        self.note_synced(outcome?);
        Ok(())
    }

    fn sync_now(&self) -> io::Result<u64> {
        let (unsynced, is_distrusted) = {
            let queue = self.queue.lock();
            (queue.journal.unsynced(), queue.distrusted)
        };
        if is_distrusted {
            self.fold_all()?;
            return Ok(unsynced.last_seq);
        }
        let outcome = unsynced.write();
        let mut queue = self.queue.lock();
        match outcome {
            Ok(()) => queue.journal.synced(&unsynced),
            Err(_) => queue.distrusted = true,
        }
        outcome.map(|()| unsynced.last_seq)
    }

    fn fold_when_due(&self, fold_after: Duration) {
        while self.wait_until_due(fold_after) {
            let Err(error) = self.fold_all() else { continue };
            tracing::warn!(%error, "the journal cannot be folded now; it grows until it can");
            if let Err(error) = self.sync() {
                tracing::warn!(%error, "the journal cannot be synced now");
            }
            let mut queue = self.queue.lock();
            if !queue.stopping {
                self.wake.wait_for(&mut queue, RETRY_AFTER);
            }
        }
    }

    /// Waits until there is something to fold and it is time. False if it is time to stop.
    fn wait_until_due(&self, fold_after: Duration) -> bool {
        let mut queue = self.queue.lock();
        while queue.journal.is_empty() && !queue.stopping {
            self.wake.wait(&mut queue);
        }
        let due = Instant::now() + fold_after;
        while !queue.stopping && !queue.journal.has_closed() && Instant::now() < due {
            self.wake.wait_until(&mut queue, due);
        }
        !queue.stopping
    }
}

fn spawn_folder(shared: &Arc<Shared>, fold_after: Duration) -> io::Result<JoinHandle<()>> {
    let shared = shared.clone();
    std::thread::Builder::new().name("state-fold".to_owned()).spawn(move || shared.fold_when_due(fold_after))
}

fn drop_oldest(queue: &mut Queue) -> Result<(), StateError> {
    queue.journal.drop_oldest().map_err(|error| StateError::io(Path::new("journal"), error))
}

/// Folds a segment that this process wrote. False if there is none.
fn fold_oldest(db: &mut Db, oldest: Option<(PathBuf, u64)>) -> Result<bool, StateError> {
    let Some((path, last_seq)) = oldest else { return Ok(false) };
    let replay = Replay::read(&path).map_err(|error| StateError::replay(&path, error))?;
    let outcome = fold(db, &path, &replay)?;
    if outcome.is_whole && db.folded()? >= last_seq {
        return Ok(true);
    }
    Err(StateError::Damaged { path, what: "it has changed since it was written".to_owned() })
}

struct Folded {
    /// Every record followed on the one before, and nothing was behind the last.
    is_whole: bool,
}

/// Applies the records that follow on what the database has, up to the first that does not.
fn fold(db: &mut Db, path: &Path, replay: &Replay) -> Result<Folded, StateError> {
    let before = db.folded()?;
    let (mut last, mut is_whole, mut records) = (before, replay.torn_len == 0, Vec::new());
    for (seq, payload) in replay.records().filter(|(seq, _)| *seq > before) {
        if seq != last + 1 {
            is_whole = false;
            break;
        }
        let record: Record = postcard::from_bytes(payload)
            .map_err(|error| StateError::Damaged { path: path.to_owned(), what: error.to_string() })?;
        records.push(record);
        last = seq;
    }
    if last > before {
        let mut merged = Merged::default();
        records.iter().for_each(|record| merged.add(record));
        db.apply(&merged, last)?;
    }
    Ok(Folded { is_whole })
}

/// Folds the segments that an earlier session left behind. Tells what could not be used.
fn recover(dir: &Path, db: &mut Db) -> Result<Vec<String>, StateError> {
    let segments = journal::segments(dir).map_err(|error| StateError::io(dir, error))?;
    let mut repaired = Vec::new();
    let mut rest = segments.iter();
    while let Some(segment) = rest.next() {
        let replay = Replay::read(&segment.path).map_err(|error| StateError::replay(&segment.path, error))?;
        let outcome = fold(db, &segment.path, &replay)?;
        if outcome.is_whole || rest.len() == 0 && replay.torn_len > 0 {
            repaired.extend(torn_sentence(&replay));
            disk::remove_if_there(&segment.path).map_err(|error| StateError::io(&segment.path, error))?;
            continue;
        }
        let set_aside = std::iter::once(segment).chain(rest.by_ref());
        repaired.push(set_segments_aside(set_aside).map_err(|error| StateError::io(dir, error))?);
    }
    Ok(repaired)
}

fn torn_sentence(replay: &Replay) -> Option<String> {
    (replay.torn_len > 0)
        .then(|| format!("the last {} bytes of the journal were never completed and were dropped", replay.torn_len))
}

/// Nothing behind a gap may be used: it was made on top of what is missing.
fn set_segments_aside<'a>(segments: impl Iterator<Item = &'a journal::SegmentFile>) -> io::Result<String> {
    let mut names = Vec::new();
    for segment in segments {
        disk::rename(&segment.path, &segment.path.with_extension("damaged"))?;
        names.push(format!("{:08}", segment.number));
    }
    Ok(format!("the journal has a gap; its segments {} are set aside as *.damaged", names.join(", ")))
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
