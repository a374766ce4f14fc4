//! What is pinned: kept on this machine whole, fetched without being asked for and never evicted.
//!
//! A pin is a place (a name in a directory) and the node that stood there: who saves a file by putting a new one in its place
//! has it pinned still, and so has who renames it. It is kept with the state and ends with its file.
//!
//! A **survey** walks everything that is pinned and tells the cache what to keep; it is made anew when names change, at most a
//! twentieth of the time. What single files become in between is taken note of at once.

use super::{Client, content::ReadError};
use crate::store::{Cache, Record};
use crate::system::files;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{Content, ContentHash, NodeId, NodeKind, Placement};
use syncmount_engine::{Body, Changed, Engine, FileBody};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// More pins than this are directories that should be pinned.
const PINS_MAX: usize = 10_000;

/// What is pinned may take so many tenths of the cache: the rest of it is for what is read now.
pub const KEPT_TENTHS: u64 = 9;

/// How often everything pinned is looked at, whatever has happened.
const SURVEY_EVERY: Duration = Duration::from_secs(600);
/// The same while the disk has no room for all.
const ROOM_EVERY: Duration = Duration::from_secs(30);
/// The shortest pause between two surveys.
const SURVEY_PAUSE: Duration = Duration::from_secs(1);
/// A survey takes at most one part in so many of the time.
const SURVEY_SHARE: u32 = 20;
/// How often it is counted again what has arrived while more is on its way.
const COUNT_EVERY: Duration = Duration::from_secs(2);
/// Nodes that are looked at under one lock.
const SURVEY_STEP: usize = 256;

/// A name that is free for this long was not freed by who saves a file and puts a new one there.
const RENAMED_AFTER: Duration = Duration::from_secs(3);
/// Nor was a file that is gone for this long.
const GONE_AFTER: Duration = Duration::from_secs(60);

/// Contents that wait to be fetched; of more than this the next survey tells.
const QUEUE_MAX: usize = 10_000;
/// Contents that are fetched at the same time, and how much of one is asked for at once: readers come in between.
const FETCHES_MAX: usize = 4;
const FETCH_STEP: u64 = 2 * 1024 * 1024;
/// How long one step waits for the server.
const FETCH_DEADLINE: Duration = Duration::from_secs(45);

const PIN: &str = "pin/";

/// Why something cannot be pinned or unpinned; one sentence each.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// It was removed meanwhile.
    #[error("it is gone")]
    Gone,
    /// Too many.
    #[error("{PINS_MAX} files and directories are pinned already; pin a directory with what is to be kept in it")]
    TooMany,
    /// There is no such pin.
    #[error("it is not pinned")]
    NotPinned,
    /// It is in something pinned.
    #[error("it is kept because {0} is pinned; unpin that")]
    Inherited(String),
    /// The state cannot be written.
    #[error("it cannot be kept in mind: {0}")]
    Io(#[from] io::Error),
}

/// What has been found of one pin.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pinned {
    /// Where it is, from the top of the folder; empty for the whole folder.
    pub path: String,
    /// Files in it, and their bytes.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// Those that are not here yet.
    pub missing_files: u64,
    /// Their bytes.
    pub missing_bytes: u64,
    /// Files for which the cache has no room.
    pub left_out: u64,
    /// Whether a survey has been there since it was pinned; else there are no numbers.
    pub counted: bool,
}

/// What the last survey has found of all pins together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PinnedAll {
    /// Files, each once.
    pub files: u64,
    /// Bytes of contents, each once.
    pub bytes: u64,
    /// Bytes of contents that are not here yet.
    pub missing_bytes: u64,
    /// Files for which the cache has no room.
    pub left_out: u64,
}

#[derive(Default)]
struct Survey {
    /// One by one; files that are in several count in each.
    pins: Vec<Pinned>,
    all: PinnedAll,
}

#[derive(Clone, Debug)]
struct Pin {
    /// None for the whole folder.
    place: Option<Placement>,
    /// Since when nothing stands there any more.
    vacant_since: Option<Instant>,
}

#[derive(Default)]
struct Book {
    pins: HashMap<NodeId, Pin>,
    places: HashMap<Placement, NodeId>,
}

impl Book {
    /// Answers with the pin that had the place before.
    fn add(&mut self, node: NodeId, place: Option<Placement>) -> Option<NodeId> {
        self.remove(node);
        let former = place.as_ref().and_then(|place| self.places.insert(place.clone(), node));
        former.iter().for_each(|former| drop(self.pins.remove(former)));
        self.pins.insert(node, Pin { place, vacant_since: None });
        former
    }

    fn remove(&mut self, node: NodeId) -> bool {
        let Some(pin) = self.pins.remove(&node) else { return false };
        if let Some(place) = &pin.place
            && self.places.get(place) == Some(&node)
        {
            self.places.remove(place);
        }
        true
    }

    /// The pin by which a node itself is pinned.
    fn own(&self, engine: &Engine, node: NodeId) -> Option<NodeId> {
        if self.pins.contains_key(&node) {
            return Some(node);
        }
        engine.local(node)?.names.iter().find_map(|place| self.places.get(place)).copied()
    }

    /// The pinned node that a node is or is in.
    fn covering(&self, engine: &Engine, node: NodeId) -> Option<NodeId> {
        if self.pins.is_empty() {
            return None;
        }
        let (mut seen, mut todo) = (HashSet::new(), vec![node]);
        while let Some(id) = todo.pop() {
            if let Some(pin) = self.own(engine, id) {
                return Some(pin);
            }
            let names = engine.local(id).map(|state| state.names.as_slice()).unwrap_or_default();
            todo.extend(names.iter().map(|place| place.parent).filter(|parent| seen.insert(*parent)));
        }
        None
    }
}

/// What is pinned. The lock of the pins comes behind the engine's.
#[derive(Default)]
pub(super) struct Pins {
    book: RwLock<Book>,
    survey: Mutex<Survey>,
    /// Contents that came since the last survey.
    fresh: Mutex<Vec<Arc<Content>>>,
    /// A survey is due.
    stale: Mutex<bool>,
    /// Contents for which the disk has no room, and how many bytes it lacks for each.
    waiting: Mutex<HashMap<ContentHash, u64>>,
    /// Contents that are known to be here whole.
    whole: Mutex<HashSet<ContentHash>>,
    wake: Notify,
}

impl Pins {
    /// The pins as they were kept.
    pub(super) fn load(kept: impl Iterator<Item = (NodeId, Option<Placement>)>) -> Self {
        let pins = Self::default();
        let mut book = pins.book.write();
        for (node, place) in kept {
            book.add(node, place);
        }
        *pins.stale.lock() = !book.pins.is_empty();
        drop(book);
        pins
    }

    /// Notes that a content waits for room on the disk, and how many bytes more it needs; or that it does not.
    fn note_room(&self, hash: &ContentHash, waits: Option<u64>) {
        let mut waiting = self.waiting.lock();
        match waits {
            Some(bytes) => drop(waiting.insert(*hash, bytes)),
            None => drop(waiting.remove(hash)),
        }
    }

    /// How many contents wait for room on the disk.
    fn waiting_count(&self) -> usize {
        self.waiting.lock().len()
    }

    fn is_empty(&self) -> bool {
        self.book.read().pins.is_empty()
    }

    fn make_stale(&self) {
        *self.stale.lock() = true;
        self.wake.notify_one();
    }

    /// Names were changed: what is in a pinned directory may be something else.
    pub(super) fn names_changed(&self) {
        if !self.is_empty() {
            self.make_stale();
        }
    }

    /// What the cache must keep from the first moment on.
    pub(super) fn contents(&self, engine: &Engine) -> Vec<ContentHash> {
        let book = self.book.read();
        let mut todo: Vec<NodeId> = book.pins.keys().copied().collect();
        let mut hashes = Vec::new();
        while let Some(id) = todo.pop() {
            let Some(state) = engine.local(id) else { continue };
            hashes.extend(contents_of(&state.body).map(|content| content.hash));
            todo.extend(engine.children(id).map(|(_, child)| child));
        }
        hashes
    }
}

/// The contents that a body needs to be whole here.
pub(super) fn contents_of(body: &Body) -> impl Iterator<Item = &Arc<Content>> {
    let content = match body {
        Body::File(FileBody::Clean(content)) => Some(content),
        // What was written is here; what lies beneath may not be.
        Body::File(FileBody::Draft(draft)) => draft.base.as_ref(),
        Body::Dir | Body::Symlink(_) => None,
    };
    content.into_iter().filter(|content| content.size > 0)
}

/// The record of a pin, or of its end.
fn record(node: NodeId, pin: Option<&Option<Placement>>) -> io::Result<(String, Option<Vec<u8>>)> {
    let value = pin.map(|place| postcard::to_stdvec(place).map_err(io::Error::other)).transpose()?;
    Ok((format!("{PIN}{node}"), value))
}

/// The pins among the settings that were kept.
pub(super) fn kept(meta: &HashMap<String, Vec<u8>>) -> io::Result<Vec<(NodeId, Option<Placement>)>> {
    let pins = meta.iter().filter_map(|(key, value)| Some((key.strip_prefix(PIN)?, value)));
    pins.map(|(node, value)| {
        let place = postcard::from_bytes(value).map_err(io::Error::other)?;
        Ok((node.parse().map_err(io::Error::other)?, place))
    })
    .collect()
}

impl Client {
    /// Keeps a file, or a directory with all that is and will be in it, on this machine. Durable when it returns.
    pub fn pin(&self, node: NodeId) -> Result<(), PinError> {
        let kept = self.look(|engine| {
            let place = engine.local(node).ok_or(PinError::Gone)?.names.first().cloned();
            let mut book = self.pins.book.write();
            if book.pins.len() >= PINS_MAX {
                return Err(PinError::TooMany);
            }
            let mut kept = vec![record(node, Some(&place))?];
            if let Some(former) = book.add(node, place) {
                kept.push(record(former, None)?);
            }
            // What an earlier pin of it held is not what this one has.
            let path = engine.path(node);
            self.pins.survey.lock().pins.retain(|pin| Some(&pin.path) != path.as_ref());
            Ok(kept)
        })?;
        self.keep_pins(kept)?;
        self.pins.make_stale();
        Ok(())
    }

    /// The end of a pin.
    pub fn unpin(&self, node: NodeId) -> Result<(), PinError> {
        let kept = self.look(|engine| {
            let mut book = self.pins.book.write();
            let Some(own) = book.own(engine, node) else {
                let covering = book.covering(engine, node).ok_or(PinError::NotPinned)?;
                let path = engine.path(covering).filter(|path| !path.is_empty());
                return Err(PinError::Inherited(path.unwrap_or_else(|| "the whole folder".into())));
            };
            book.remove(own);
            Ok(record(own, None)?)
        })?;
        self.keep_pins(vec![kept])?;
        self.pins.make_stale();
        Ok(())
    }

    fn keep_pins(&self, meta: Vec<(String, Option<Vec<u8>>)>) -> io::Result<()> {
        self.state.append(&Record { rows: Vec::new(), meta })?;
        self.state.sync()
    }

    /// Whether a node is pinned or in something that is.
    pub fn is_pinned(&self, node: NodeId) -> bool {
        self.look(|engine| self.pins.book.read().covering(engine, node).is_some())
    }

    /// What the last survey has found of all pins together.
    pub fn pinned_all(&self) -> PinnedAll {
        self.pins.survey.lock().all
    }

    /// How many pinned contents wait for room on the disk, and how many bytes more the one that needs least does.
    pub fn pins_waiting_for_room(&self) -> Option<(usize, u64)> {
        let waiting = self.pins.waiting.lock();
        Some((waiting.len(), *waiting.values().min()?))
    }

    /// What it has found of each. Pins that it does not know yet are listed with nothing in them.
    pub fn pinned(&self) -> Vec<Pinned> {
        let mut left: BTreeSet<String> = self.look(|engine| {
            let book = self.pins.book.read();
            book.pins.keys().filter_map(|node| engine.path(*node)).collect()
        });
        let survey = self.pins.survey.lock();
        let mut pins: Vec<Pinned> = survey.pins.iter().filter(|pin| left.remove(&pin.path)).cloned().collect();
        drop(survey);
        pins.extend(left.into_iter().map(|path| Pinned { path, ..Pinned::default() }));
        pins.sort_by(|left, right| left.path.cmp(&right.path));
        pins
    }

    /// Something here was renamed or has got one more name.
    pub fn names_changed(&self) {
        self.pins.names_changed();
    }

    /// A node has other bytes or another place now: if it is pinned it is kept at once.
    pub(super) fn keep_if_pinned(&self, changed: &Changed) {
        if self.pins.is_empty() || changed.removed {
            return;
        }
        let is_dir = self.look(|engine| engine.local(changed.node).map(|state| state.kind()) == Some(NodeKind::Dir));
        if is_dir && !changed.places.is_empty() {
            self.pins.make_stale();
        }
        self.keep_bytes_if_pinned(changed.node);
    }

    /// The same for a file whose bytes have come to the cache.
    pub(super) fn keep_bytes_if_pinned(&self, node: NodeId) {
        if self.pins.is_empty() {
            return;
        }
        let contents: Vec<Arc<Content>> = self.look(|engine| {
            let is_pinned = self.pins.book.read().covering(engine, node).is_some();
            let body = engine.local(node).filter(|_| is_pinned).map(|state| &state.body);
            body.map(|body| contents_of(body).cloned().collect()).unwrap_or_default()
        });
        let mut fresh = self.pins.fresh.lock();
        for content in contents {
            self.cache.keep(&content.hash);
            if fresh.len() < QUEUE_MAX {
                fresh.push(content);
            } else {
                *self.pins.stale.lock() = true;
            }
        }
        drop(fresh);
        self.pins.wake.notify_one();
    }

    /// What was known to be here may not be any more.
    pub(super) fn doubt_pinned(&self) {
        self.pins.whole.lock().clear();
        self.pins.names_changed();
    }

    /// Looks at the pins themselves: where each file has gone, and whether it is there at all.
    fn follow_pins(&self) -> io::Result<()> {
        let mut meta = Vec::new();
        self.look(|engine| {
            let mut book = self.pins.book.write();
            for node in book.pins.keys().copied().collect::<Vec<_>>() {
                let Some(Pin { place: Some(place), vacant_since }) = book.pins.get(&node).cloned() else { continue };
                let local = engine.local(node);
                let holder = engine.child(place.parent, place.name.as_bytes());
                let vacant_since = vacant_since.unwrap_or_else(Instant::now);
                let moved = match (holder, local) {
                    (Some(holder), _) if holder == node => None,
                    // Another file has taken the place: whoever saved it means that one.
                    (Some(holder), _) => Some(Some((holder, Some(place)))),
                    (None, Some(state)) if vacant_since.elapsed() >= RENAMED_AFTER => {
                        Some(Some((node, state.names.first().cloned())))
                    }
                    (None, None) if vacant_since.elapsed() >= GONE_AFTER => Some(None),
                    (None, _) => {
                        if let Some(pin) = book.pins.get_mut(&node) {
                            pin.vacant_since = Some(vacant_since);
                        }
                        *self.pins.stale.lock() = true;
                        continue;
                    }
                };
                match moved {
                    None => {
                        if let Some(pin) = book.pins.get_mut(&node) {
                            pin.vacant_since = None;
                        }
                    }
                    Some(goes_on) => {
                        book.remove(node);
                        meta.push(record(node, None)?);
                        if let Some((heir, place)) = goes_on {
                            meta.push(record(heir, Some(&place))?);
                            book.add(heir, place);
                        }
                    }
                }
            }
            io::Result::Ok(())
        })?;
        if meta.is_empty() { Ok(()) } else { self.keep_pins(meta) }
    }

    /// Walks everything that is pinned, tells the cache what to keep, and gives what is not here yet.
    fn survey_pins(&self) -> io::Result<VecDeque<Arc<Content>>> {
        *self.pins.stale.lock() = false;
        self.follow_pins()?;
        let pins: Vec<(NodeId, bool, String)> = self.look(|engine| {
            let book = self.pins.book.read();
            let place = |node: NodeId| {
                let mut parents = engine.local(node)?.names.iter().map(|place| place.parent);
                let is_inner = parents.any(|parent| book.covering(engine, parent).is_some());
                Some((node, is_inner, engine.path(node)?))
            };
            book.pins.keys().filter_map(|node| place(*node)).collect()
        });
        self.cache.begin_round();
        let mut walk = Walk::new(self, self.cache.room() / 10 * KEPT_TENTHS);
        for (node, is_inner, path) in pins {
            walk.pin(node, is_inner, path);
        }
        self.cache.end_round();
        let Walk { survey, whole, missing, is_more, .. } = walk;
        let lacking: HashSet<ContentHash> = missing.iter().map(|content| content.hash).collect();
        self.pins.waiting.lock().retain(|hash, _| lacking.contains(hash));
        *self.pins.whole.lock() = whole;
        *self.pins.survey.lock() = survey;
        if is_more {
            self.pins.make_stale();
        }
        Ok(missing)
    }

    fn is_whole(&self, hash: &ContentHash) -> bool {
        self.cache.get(hash).is_some_and(|entry| entry.is_whole())
    }

    /// Fetches one content, for as long as it is to be kept. False if there is no need any more.
    fn fetch_whole(self: &Arc<Self>, content: &Content) -> Result<bool, ReadError> {
        if self.is_whole(&content.hash) {
            return Ok(false);
        }
        let entry = self.cached(content, Instant::now() + FETCH_DEADLINE)?;
        let free = files::free_bytes(self.staging.lost_and_found())?;
        let room = self.cache_space.promise(entry.missing_bytes(), free);
        let waits = room.as_ref().err().copied();
        self.pins.note_room(&content.hash, waits);
        if waits.is_some() {
            return Ok(false);
        }
        let mut at = 0;
        while let Some(next) = entry.next_missing(at) {
            if !self.cache.is_kept(&content.hash) {
                return Ok(false);
            }
            let start = next.start.max(at);
            let end = content.size.min(start + FETCH_STEP);
            self.fetch(&entry, start..end, 0, Instant::now() + FETCH_DEADLINE)?;
            at = end;
        }
        Ok(true)
    }
}

/// One survey.
struct Walk<'a> {
    client: &'a Client,
    survey: Survey,
    known_whole: HashSet<ContentHash>,
    whole: HashSet<ContentHash>,
    missing: VecDeque<Arc<Content>>,
    is_more: bool,
    room: u64,
    /// Contents for which room was taken.
    charged: HashSet<ContentHash>,
}

impl<'a> Walk<'a> {
    fn new(client: &'a Client, room: u64) -> Self {
        let known_whole = client.pins.whole.lock().clone();
        let (survey, whole, missing) = (Survey::default(), HashSet::new(), VecDeque::new());
        Self { client, survey, known_whole, whole, missing, is_more: false, room, charged: HashSet::new() }
    }

    fn pin(&mut self, node: NodeId, is_inner: bool, path: String) {
        let mut found = Pinned { path, counted: true, ..Pinned::default() };
        let mut todo = vec![node];
        while !todo.is_empty() {
            let some: Vec<NodeId> = todo.drain(todo.len().saturating_sub(SURVEY_STEP)..).collect();
            let mut files: Vec<Vec<Arc<Content>>> = Vec::new();
            self.client.look(|engine| {
                for id in some {
                    let Some(state) = engine.local(id) else { continue };
                    match state.kind() {
                        NodeKind::Dir => todo.extend(engine.children(id).map(|(_, child)| child)),
                        NodeKind::File => files.push(contents_of(&state.body).cloned().collect()),
                        NodeKind::Symlink => {}
                    }
                }
            });
            files.into_iter().for_each(|contents| self.file(&contents, &mut found, is_inner));
        }
        self.survey.pins.push(found);
    }

    fn file(&mut self, contents: &[Arc<Content>], found: &mut Pinned, is_inner: bool) {
        found.files += 1;
        self.survey.all.files += u64::from(!is_inner);
        let (mut is_missing, mut is_left_out) = (false, false);
        for content in contents {
            found.bytes += content.size;
            if !self.is_here(content, &mut is_left_out) {
                is_missing = true;
                found.missing_bytes += content.size;
            }
        }
        found.missing_files += u64::from(is_missing);
        found.left_out += u64::from(is_left_out);
        self.survey.all.left_out += u64::from(is_left_out && !is_inner);
    }

    /// Has a content kept, and fetched if need be, as far as there is room for it.
    fn is_here(&mut self, content: &Arc<Content>, is_left_out: &mut bool) -> bool {
        if self.whole.contains(&content.hash) {
            return true;
        }
        let is_whole = self.known_whole.contains(&content.hash) || self.client.is_whole(&content.hash);
        let charge = Cache::charge(content.size);
        if charge > self.room && !self.charged.contains(&content.hash) {
            *is_left_out = true;
            return is_whole;
        }
        if !self.client.cache.keep(&content.hash) {
            // Counted before, and missing.
            return is_whole;
        }
        self.room -= charge;
        self.charged.insert(content.hash);
        self.survey.all.bytes += content.size;
        if is_whole {
            self.whole.insert(content.hash);
            return true;
        }
        self.survey.all.missing_bytes += content.size;
        if self.missing.len() < QUEUE_MAX {
            self.missing.push_back(content.clone());
        } else {
            self.is_more = true;
        }
        false
    }
}

type Fetched = (Arc<Content>, Result<bool, ReadError>);

/// Keeps what is pinned, for as long as the client runs.
pub(super) async fn keep_pinned(client: Arc<Client>) {
    let mut queue: VecDeque<Arc<Content>> = VecDeque::new();
    let mut running: JoinSet<Fetched> = JoinSet::new();
    let (mut last, mut pause, mut has_news) = (Instant::now(), Duration::ZERO, false);
    loop {
        let is_stale = *client.pins.stale.lock();
        let is_idle = client.pins.is_empty() && !is_stale;
        let due = match (is_stale, client.pins.waiting_count()) {
            (true, _) => last + pause,
            (false, 0) => last + SURVEY_EVERY,
            (false, _) => last + ROOM_EVERY.max(pause),
        };
        if Instant::now() >= due && !is_idle {
            let begin = Instant::now();
            let worker = client.clone();
            match tokio::task::spawn_blocking(move || worker.survey_pins()).await {
                Ok(Ok(missing)) => queue = missing,
                Ok(Err(error)) => client.link.failed(&format!("what is pinned cannot be looked at: {error}")),
                Err(error) => client.link.failed(&error.to_string()),
            }
            last = Instant::now();
            pause = SURVEY_PAUSE.max(begin.elapsed() * SURVEY_SHARE);
            continue;
        }
        for content in client.pins.fresh.lock().drain(..) {
            queue.push_front(content);
        }
        if queue.len() > 2 * QUEUE_MAX {
            queue.truncate(QUEUE_MAX);
            *client.pins.stale.lock() = true;
        }
        while running.len() < FETCHES_MAX
            && let Some(content) = queue.pop_front()
        {
            running.spawn(fetch(client.clone(), content));
        }
        tokio::select! {
            Some(fetched) = running.join_next() => {
                has_news |= matches!(fetched, Ok((_, Ok(true))));
                queue.extend(note_fetched(&client, fetched));
                if has_news && last.elapsed() >= pause.max(COUNT_EVERY) {
                    // So that it can be seen how far it is.
                    *client.pins.stale.lock() = true;
                }
                if queue.is_empty() && running.is_empty() && std::mem::take(&mut has_news) {
                    // So that the numbers are those of now.
                    *client.pins.stale.lock() = true;
                }
            }
            () = client.pins.wake.notified() => {}
            () = tokio::time::sleep_until(due.into()), if !is_idle => {}
        }
    }
}

async fn fetch(client: Arc<Client>, content: Arc<Content>) -> Fetched {
    client.link.wait_online(Duration::from_secs(3600)).await;
    let wanted = content.clone();
    let fetched = tokio::task::spawn_blocking(move || client.fetch_whole(&wanted)).await;
    (content, fetched.unwrap_or_else(|error| Err(io::Error::other(error).into())))
}

/// The content, if it is to be tried again; of what failed otherwise the next survey tells.
fn note_fetched(client: &Client, fetched: Result<Fetched, tokio::task::JoinError>) -> Option<Arc<Content>> {
    match fetched {
        Ok((_, Ok(_))) => None,
        Ok((content, Err(ReadError::Unreachable))) => Some(content),
        Ok((_, Err(error))) => {
            client.link.failed(&format!("a pinned file cannot be fetched: {error}"));
            None
        }
        Err(error) => {
            client.link.failed(&format!("a pinned file cannot be fetched: {error}"));
            None
        }
    }
}
