//! Where the engine meets the world: the only place that locks it, keeps its records, and carries out its effects.
//!
//! Order of every change: the engine decides, the journal has the record, the caller is answered, effects run. Locks are
//! taken in the order open files, one open file, engine, journal; none is held across the network.

mod ahead;
mod alike;
mod around;
mod border;
mod clock;
mod content;
mod difference;
mod digest;
mod durable;
mod fleeting;
mod folder;
mod former;
mod heal;
mod kept;
mod known;
mod link;
mod manifests;
mod outbox;
mod parts;
mod pins;
mod prepare;
mod pump;
mod recover;
mod rows;
mod rules;
mod server_room;
mod session;
mod settle;
mod shown;
mod space;
mod troubles;
mod unreadable;
mod verify;
mod write;

pub use content::{Presence, ReadError};
pub(crate) use folder::OLD_LEN_MIN;
pub use folder::{FolderBytes, ItemId, ItemRow, draft_of_item, item_of_draft};
pub use link::Link;
pub use pins::{KEPT_TENTHS, PinError, Pinned, PinnedAll};
pub use pump::Pump;
pub use recover::OpenError;
#[cfg(test)]
pub(crate) use recover::tests as recovery_tests;
pub use verify::verify_closed;
pub use write::OpenAttrs;
pub use write::WriteError;

use crate::files::OpenFiles;
use crate::ports::Remote;
use crate::store::Cache;
use crate::store::Lost;
use crate::store::Record;
use crate::store::StagingDir;
use crate::store::State;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use syncmount_common::{NodeId, Timestamp};
use syncmount_engine::backoff::Backoff;
use syncmount_engine::{Changed, Engine, Pending};
use tokio::sync::Notify;

/// Told of every change that came through the feed; must return at once.
pub type OnChanged = Box<dyn Fn(&Changed) + Send + Sync>;

/// One folder on this device: engine, store and server put together.
pub struct Client {
    engine: RwLock<Engine>,
    state: State,
    staging: StagingDir,
    cache: Cache,
    manifests: manifests::Manifests,
    around: around::Around,
    downloads: content::Downloads,
    parts: parts::Parts,
    known: known::KnownChunks,
    healing: heal::Healing,
    formers: former::Formers,
    digests: digest::Digests,
    fleeting: fleeting::Fleeting,
    followers: ahead::Followers,
    outbox: outbox::Outbox,
    /// How many bytes the server has of files that are being sent, with the generation of their drafts.
    advances: Mutex<HashMap<NodeId, (u64, u64)>>,
    server_room: server_room::ServerRoom,
    counted: Mutex<kept::Counted>,
    /// Files that the server has and whose staging file is here still: they were open and the cache had no room for them.
    unsettled: Mutex<HashSet<NodeId>>,
    /// Those of which something went wrong.
    unsettled_later: Mutex<HashMap<NodeId, settle::Pause>>,
    unreadable: unreadable::Unreadable,
    /// Drafts whose bytes did not reach the server: when each is tried again.
    stumbles: Mutex<HashMap<NodeId, Backoff>>,
    /// Taken under the engine's lock where both are needed.
    voice: Mutex<session::Voice>,
    remote: Arc<dyn Remote>,
    runtime: tokio::runtime::Handle,
    /// Whether the server can be reached, and what went wrong last.
    pub link: Link,
    /// Files that are open.
    pub files: OpenFiles,
    wake: Notify,
    /// The tree has changed since the clock last rested.
    stirred: Notify,
    commit_wake: Notify,
    /// A file that was not to be sent yet is to be sent now.
    rested: Notify,
    /// Somebody waits for what is to be sent.
    hurried: Notify,
    page_wanted: Notify,
    /// Effects whose record is not kept yet.
    unkept: Mutex<Vec<syncmount_engine::Effect>>,
    on_changed: Mutex<Option<OnChanged>>,
    /// Sentences about what happened since the start, for the status.
    notes: Mutex<Vec<String>>,
    /// What lay in `lost+found` when it was last looked at.
    lost: Mutex<Vec<Lost>>,
    room: Room,
    /// The largest size that a file may be given here, in bytes.
    largest: u64,
    /// Bytes that are about to be fetched to the disk of the cache, and to that of a watched folder.
    cache_space: space::Space,
    folder_space: space::Space,
    /// Numbers that no state of any draft has had before in this process: an answer about an earlier draft of a file must
    /// not be taken for one about the present draft.
    generations: AtomicU64,
    /// Staging files were made whose names are not durable yet.
    unsynced_names: AtomicBool,
    /// Staging files that nothing refers to any more and whose bytes were promised.
    leaving: Mutex<Vec<u64>>,
    /// Held while names are synced: whoever finds nothing to do must not go on before it is done.
    syncing_names: Mutex<()>,
    marks: durable::Marks,
    rules: rules::RuleBook,
    pins: pins::Pins,
    /// Where drafts lie that are files of a watched folder.
    folder: std::sync::OnceLock<Arc<dyn FolderBytes>>,
    /// What was kept of that folder's items.
    items: Mutex<Vec<(ItemId, Vec<u8>)>>,
    was_cut: bool,
}

impl Client {
    /// The time by this machine's clock.
    pub fn now(&self) -> Timestamp {
        now()
    }

    /// What is shown has times: see [`Engine::show_times`]. To be called before anything else.
    pub fn show_times(&self) -> io::Result<()> {
        self.change_quietly(|engine, _| engine.show_times())
    }

    /// Whether owners travel: see [`Engine::apply_owners`]. To be called before anything is heard of the server.
    pub fn apply_owners(&self, applied: bool) {
        self.engine.write().apply_owners(applied);
    }

    /// Looks at the tree.
    pub fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&self.engine.read())
    }

    /// Changes the tree. When this returns `Ok` the change survives the end of this process.
    pub fn change<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> T) -> io::Result<T> {
        self.change_then(change, |_| Ok(()))
    }

    /// The same for a change from which nothing follows at once as a rule: nobody is woken unless something does.
    pub fn change_quietly<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> T) -> io::Result<T> {
        let mut engine = self.engine.write();
        let out = change(&mut engine, now());
        self.keep(&mut engine)?;
        let wakes = engine.wants_poll();
        drop(engine);
        if wakes {
            self.wake.notify_one();
        }
        self.stirred.notify_one();
        Ok(out)
    }

    /// The same, with one more step while nobody else can see the change.
    fn change_then<T>(
        &self,
        change: impl FnOnce(&mut Engine, Timestamp) -> T,
        then: impl FnOnce(&T) -> io::Result<()>,
    ) -> io::Result<T> {
        let mut engine = self.engine.write();
        let out = change(&mut engine, now());
        self.keep(&mut engine)?;
        then(&out)?;
        drop(engine);
        self.woken();
        Ok(out)
    }

    /// The tree has changed: there may be work, and it is no time to rest.
    fn woken(&self) {
        self.wake.notify_one();
        self.stirred.notify_one();
    }

    fn keep(&self, engine: &mut Engine) -> io::Result<()> {
        self.keep_with(engine, Record::default())
    }

    /// The same with something of the driver's own in the same record.
    fn keep_with(&self, engine: &mut Engine, own: Record) -> io::Result<()> {
        let record = engine.take_record();
        if record.is_empty() && own == Record::default() {
            return Ok(());
        }
        let mut meta = rows::encode_meta(&record);
        meta.extend(own.meta);
        let kept = engine.rows(&record).map(rows::encode).chain(own.rows.into_iter().map(Ok));
        let kept = self.state.append_rows(kept, meta);
        if kept.is_err() {
            engine.keep_failed(record);
        }
        kept
    }

    /// An error if the disk is too full to take another change from a user: some room is kept for the client's own
    /// records, so that what was accepted earlier can still be sent.
    pub fn require_room(&self, bytes: u64) -> io::Result<()> {
        let dir = self.staging.lost_and_found();
        match self.room.require(dir, bytes) {
            // What the server has gives way to what it has not.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                let wanted = bytes.saturating_add(RECHECK_BYTES);
                if self.cache.give_up(wanted)? == 0 { Err(error) } else { self.room.require(dir, bytes) }
            }
            required => required,
        }
    }

    /// Makes all changes so far survive a power cut.
    pub fn sync_journal(&self) -> io::Result<()> {
        // What could not be kept when it was done is no less a change.
        self.keep(&mut self.engine.write())?;
        self.state.sync()
    }

    /// Who this device is.
    pub fn device(&self) -> syncmount_common::DeviceId {
        self.engine.read().device()
    }

    /// How much is not at the server yet.
    pub fn pending(&self) -> Pending {
        let engine = self.engine.read();
        let pending = engine.pending();
        let mut advances = self.advances.lock();
        let generation = |node| Some(engine.local(node)?.body.draft()?.generation);
        advances.retain(|node, (of, _)| engine.unsent_bytes(*node) > 0 && generation(*node) == Some(*of));
        let sent: u64 = advances.iter().map(|(node, (_, bytes))| engine.unsent_bytes(*node).min(*bytes)).sum();
        Pending { bytes: pending.bytes - sent, ..pending }
    }

    /// Paths of the conflict copies made since the start that are still there.
    pub fn conflicts(&self) -> Vec<String> {
        let engine = self.engine.read();
        engine.conflicts().filter_map(|id| engine.path(id)).collect()
    }

    /// Files that could not be sent: path and reason.
    pub fn problems(&self) -> Vec<(String, String)> {
        let engine = self.engine.read();
        let path = |id| engine.path(id).unwrap_or_else(|| "(removed)".into());
        engine.problems().map(|(id, reason)| (path(id), reason.to_owned())).collect()
    }

    /// How many removals the server holds back, and its words about that.
    pub fn held(&self) -> Option<(u64, String)> {
        self.engine.read().held().map(|(count, reason)| (count, reason.to_owned()))
    }

    /// What is wrong with what the server says, as a path (empty if it is about no file that is known here) and a reason.
    pub fn unsound(&self) -> Option<(String, String)> {
        let engine = self.engine.read();
        let unsound = engine.unsound()?;
        let path = unsound.node.filter(|node| *node != NodeId::ROOT).and_then(|node| engine.path(node));
        let name = unsound.name.as_ref().map(|name| format!(", named {name:?} there")).unwrap_or_default();
        let reason = format!(
            "what the server says is no folder ({unsound}{name}): nothing of it is taken and nothing is sent until the \
             server says something else"
        );
        Some((path.unwrap_or_default(), reason))
    }

    /// Sentences about what happened since the start and concerns no single file.
    pub fn notes(&self) -> Vec<String> {
        self.notes.lock().clone()
    }

    /// Bytes that were set aside after an unclean stop, now or at any earlier start, and still lie there.
    pub fn lost(&self) -> Vec<Lost> {
        self.lost.lock().clone()
    }

    /// Looks what lies in `lost+found`: its owner may have cleared it.
    fn look_for_lost(&self) {
        match self.staging.lost() {
            Ok(lost) => *self.lost.lock() = lost,
            Err(error) => self.link.failed(&format!("lost+found cannot be read: {error}")),
        }
    }

    /// The content cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The folder in which files lie while they are written.
    pub fn staging(&self) -> &StagingDir {
        &self.staging
    }

    /// Who is told of changes that came through the feed.
    pub fn set_on_changed(&self, on_changed: Option<OnChanged>) {
        *self.on_changed.lock() = on_changed;
    }

    pub(crate) fn next_generation(&self) -> u64 {
        self.generations.fetch_add(1, Ordering::Relaxed)
    }

    /// Uniform over all of `u64`.
    fn random(&self) -> u64 {
        self.engine.write().random()
    }

    pub(crate) fn note(&self, sentence: String) {
        tracing::warn!("{sentence}");
        let mut notes = self.notes.lock();
        if notes.len() < 1000 && !notes.contains(&sentence) {
            notes.push(sentence);
        }
    }

    /// The server holds removals back.
    fn note_held(&self, denied: bool) {
        if denied {
            self.note(
                "the server's owner has refused to let this device remove so much; what it removed is back".into(),
            );
        }
    }

    /// Somebody waits for everything to be sent.
    pub fn hurry(&self) {
        self.tell_open_files();
        self.hurried.notify_one();
        self.wake.notify_one();
    }

    /// Ends the work with the store: everything is durable and marked as cleanly closed.
    pub fn close(&self) -> Result<(), crate::store::StateError> {
        if let Err(error) = self.drop_leaving() {
            tracing::warn!(
                "a staging file that is not needed any more was not removed; the next start does it: {error}"
            );
        }
        if let Err(error) = self.cache.close() {
            // A cache can be read again; it is the state that must not fail.
            tracing::warn!("the cache was not closed in order: {error}");
        }
        self.state.close()
    }
}

fn now() -> Timestamp {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp::from_parts(since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => Timestamp(-i64::try_from(before.duration().as_nanos()).unwrap_or(i64::MAX)),
    }
}

/// Free space that is left to the client itself.
pub const RESERVE_BYTES: u64 = 32 * 1024 * 1024;

/// How much may be written between two looks at the disk.
const RECHECK_BYTES: u64 = 8 * 1024 * 1024;

/// Free space on the disk, looked up seldom enough to cost nothing.
#[derive(Default)]
struct Room {
    left: Mutex<(u64, Option<std::time::Instant>)>,
}

impl Room {
    fn require(&self, path: &std::path::Path, bytes: u64) -> io::Result<()> {
        let mut left = self.left.lock();
        let fresh = left.1.is_some_and(|at| at.elapsed().as_millis() < 500);
        if !fresh || left.0 < bytes {
            let free = crate::system::files::free_bytes(path)?.saturating_sub(RESERVE_BYTES);
            if free < bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            *left = (free.min(RECHECK_BYTES.max(bytes)), Some(std::time::Instant::now()));
        }
        left.0 -= bytes;
        Ok(())
    }
}
