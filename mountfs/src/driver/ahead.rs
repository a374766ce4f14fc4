//! What is cut, hashed and sent of a large file while a program still writes it, so that little is left to do when it is
//! closed.
//!
//! Follows the part of a staging file that was written without a gap from its begin, some MiB at a time, and remembers the
//! chunks that it found there and the hash of all of it. Whatever changes these bytes takes away what was known of them, under
//! the lock under which they are changed. What is known is kept in memory only and proves nothing: a draft becomes a content in
//! [`super::prepare`], which takes from here what it need not do again. Bytes are hashed here once at most: what is written a
//! second time waits for that.

use super::known::Beneath;
use super::prepare::{Cutter, PrepareError};
use super::shown::Change;
use super::{Client, folder};
use crate::files::{Backing, Inner, Overlay, StagingFile};
use crate::store::RangeSet;
use parking_lot::{Condvar, Mutex};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::chunker::ChunkSizes;
use syncmount_common::hash::FileHasher;
use syncmount_common::{ChunkHash, Content, NodeId};
use syncmount_engine::Engine;
use tokio::sync::Notify;

/// A file is followed from this size on: what is smaller is sent in a moment when it is closed.
const BEGIN: u64 = 8 * 1024 * 1024;

/// So much must have been written since the last look.
const STEP: u64 = 8 * 1024 * 1024;

/// What is cut in one go, after which others have their turn.
const PASS_MAX: u64 = 64 * 1024 * 1024;

/// Who writes faster, measured over a while, would be slowed down by being followed, and is closed in a moment anyway.
const PACE_MAX: u64 = 150 * 1024 * 1024;
const PACE_OVER: Duration = Duration::from_millis(250);

/// Files that are remembered.
const FILES_MAX: usize = 16;

/// Changes remembered while a file is looked at; more are taken for a change of everything.
const CHANGES_MAX: usize = 1024;

/// How long a look is waited for before the file is prepared without it.
const REST_MAX: Duration = Duration::from_secs(120);
const REST_STEP: Duration = Duration::from_millis(50);

/// What is known of the begin of a draft.
#[derive(Clone, Default)]
pub(super) struct Ahead {
    /// Chunks whose bytes are as they were when they were cut, and which the server has, by where they begin.
    pub(super) chunks: BTreeMap<u64, (ChunkHash, u32)>,
    /// How far it was cut.
    pub(super) end: u64,
    /// The hash of everything before `end`, unless something there has changed since.
    pub(super) hasher: Option<FileHasher>,
}

impl Ahead {
    fn begin() -> Self {
        Self { hasher: Some(FileHasher::default()), ..Self::default() }
    }

    /// Bytes were changed.
    fn changed(&mut self, range: &Range<u64>) {
        if range.is_empty() || range.start >= self.end {
            return;
        }
        self.hasher = None;
        let before = self.chunks.range(..range.start).next_back();
        let first = before.filter(|(start, (_, len))| *start + u64::from(*len) > range.start).map(|(start, _)| *start);
        let gone: Vec<u64> =
            first.into_iter().chain(self.chunks.range(range.clone()).map(|(start, _)| *start)).collect();
        for start in gone {
            self.chunks.remove(&start);
        }
    }

    /// What a look has found behind the end, and what was changed meanwhile.
    fn extend(&mut self, found: Self, changed: &RangeSet) {
        self.end = found.end;
        self.hasher = found.hasher.filter(|_| self.hasher.is_some());
        self.chunks.extend(found.chunks);
        for range in changed.iter() {
            self.changed(&range);
        }
    }
}

/// How fast a file is written.
struct Pace {
    since: Instant,
    at: u64,
}

impl Pace {
    /// `None` if it is too early to say.
    fn is_slow(&mut self, at: u64, now: Instant) -> Option<bool> {
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < PACE_OVER {
            return None;
        }
        let written = u128::from(at.saturating_sub(self.at));
        *self = Self { since: now, at };
        Some(written * 1_000_000 <= u128::from(PACE_MAX) * elapsed.as_micros())
    }
}

/// A file that is followed.
pub(super) struct Followed {
    state: Mutex<State>,
    rested: Condvar,
}

struct State {
    node: NodeId,
    staging: StagingFile,
    base: Option<Arc<Content>>,
    /// How far it has been written without a gap, and its size.
    written: u64,
    size: u64,
    sizes: ChunkSizes,
    ahead: Ahead,
    pace: Pace,
    beneath: Option<Beneath>,
    is_queued: bool,
    /// While it is looked at: what was changed since that began.
    changed: Option<RangeSet>,
    /// Those who prepare it, or wait to: it is not looked at meanwhile.
    preparing: u32,
    /// It is nothing that can be followed.
    is_left: bool,
}

/// What one look is about.
struct Look {
    overlay: Overlay,
    sizes: ChunkSizes,
    from: u64,
    hasher: Option<FileHasher>,
    beneath: Option<Beneath>,
}

impl State {
    fn new(inner: &Inner, overlay: &Overlay, staging: StagingFile, written: u64, now: Instant) -> Self {
        Self {
            node: inner.node,
            staging,
            base: overlay.base.clone(),
            written,
            size: overlay.size,
            sizes: ChunkSizes::for_content(overlay.size),
            ahead: Ahead::begin(),
            pace: Pace { since: now, at: written },
            beneath: None,
            is_queued: false,
            changed: None,
            preparing: 0,
            is_left: false,
        }
    }

    fn note(&mut self, change: &Change<'_>) {
        let range = range_of(change);
        if !matches!(change, Change::Bytes(..) | Change::Taken(..)) {
            self.written = self.written.min(range.start);
        }
        self.ahead.changed(&range);
        if let Some(changed) = &mut self.changed {
            changed.insert(range);
            if changed.count() > CHANGES_MAX {
                changed.insert(0..u64::MAX);
            }
        }
    }

    /// How far it is cut before it is closed: behind that it may become so large that it is cut otherwise.
    fn reach(&self) -> u64 {
        self.written.min(self.sizes.size_max().map_or(u64::MAX, |max| max / 3))
    }

    fn is_behind(&self) -> bool {
        let step = STEP.max(2 * self.sizes.max as u64);
        !self.is_left && self.reach() >= self.ahead.end.saturating_add(step)
    }

    /// Whether it is to be looked at, and nobody knows that yet.
    fn becomes_due(&mut self, now: Instant) -> bool {
        let is_due = self.is_behind()
            && !self.is_queued
            && self.changed.is_none()
            && self.preparing == 0
            && self.pace.is_slow(self.written, now) == Some(true);
        self.is_queued |= is_due;
        is_due
    }

    /// Files of another size are cut otherwise: from the begin, if it has grown.
    fn fit_sizes(&mut self) {
        let sizes = ChunkSizes::for_content(self.size);
        if sizes != self.sizes {
            self.is_left = sizes.average < self.sizes.average;
            (self.sizes, self.ahead, self.beneath) = (sizes, Ahead::begin(), None);
        }
    }

    fn begin_look(&mut self) -> Option<Look> {
        self.is_queued = false;
        self.fit_sizes();
        if !self.is_behind() || self.preparing > 0 || self.changed.is_some() {
            return None;
        }
        self.changed = Some(RangeSet::new());
        let (from, to) = (self.ahead.end, self.reach().min(self.ahead.end + PASS_MAX));
        let mut overlay = Overlay { staging: Some(self.staging.clone()), base: self.base.clone(), ..Overlay::empty() };
        overlay.wrote(from..to);
        let (hasher, beneath) = (self.ahead.hasher.clone(), self.beneath.take());
        Some(Look { overlay, sizes: self.sizes, from, hasher, beneath })
    }
}

/// All of them, by the numbers of their staging files, which are never given twice.
#[derive(Default)]
pub(super) struct Followers {
    files: Mutex<HashMap<u64, Arc<Followed>>>,
    due: Mutex<VecDeque<Arc<Followed>>>,
    stirred: Notify,
}

impl Followers {
    fn get(&self, staging: u64) -> Option<Arc<Followed>> {
        self.files.lock().get(&staging).cloned()
    }

    fn get_or_begin(&self, staging: u64, begin: impl FnOnce() -> State) -> Option<Arc<Followed>> {
        let mut files = self.files.lock();
        if let Some(followed) = files.get(&staging) {
            return Some(followed.clone());
        }
        if files.len() >= FILES_MAX {
            return None;
        }
        let followed = Arc::new(Followed { state: Mutex::new(begin()), rested: Condvar::new() });
        files.insert(staging, followed.clone());
        Some(followed)
    }

    fn push(&self, followed: Arc<Followed>) {
        self.due.lock().push_back(followed);
        self.stirred.notify_one();
    }
}

/// While it lives the file is not looked at.
pub(super) struct Resting(Arc<Followed>);

impl Drop for Resting {
    fn drop(&mut self) {
        self.0.state.lock().preparing -= 1;
    }
}

/// Ends a look, however that ends.
struct Looking<'a>(&'a Followed);

impl Drop for Looking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        // Nothing was handed over: what was read is not known.
        if state.changed.take().is_some() {
            state.is_left = true;
        }
        drop(state);
        self.0.rested.notify_all();
    }
}

/// The part of a file that a change is about; what lies behind a new size is changed too.
fn range_of(change: &Change<'_>) -> Range<u64> {
    match change {
        Change::Bytes(offset, data) => *offset..offset.saturating_add(data.len() as u64),
        Change::Size(size) => *size..u64::MAX,
        Change::Zeros(range) | Change::Taken(_, range) => range.clone(),
        Change::Shared => 0..u64::MAX,
    }
}

/// What has been written without a gap from the begin, of a draft that may be followed.
fn followable(inner: &Inner) -> Option<(&Overlay, &StagingFile, u64)> {
    let Backing::Draft(overlay) = &inner.backing else { return None };
    let staging = overlay.staging.as_ref().filter(|staging| folder::item_of_draft(staging.id).is_none())?;
    let is_own = overlay.base.is_none() || overlay.base_len == 0;
    let first = overlay.present.iter().next().filter(|first| first.start == 0 && is_own)?;
    (inner.orphan.is_none() && inner.apart.is_none()).then_some((overlay, staging, first.end))
}

impl Client {
    /// The bytes of a file were changed, or a part of them before that failed. To be called before anybody else may look at them.
    pub(super) fn note_change(&self, inner: &Inner, change: &Change<'_>) {
        let Backing::Draft(Overlay { staging: Some(staging), .. }) = &inner.backing else { return };
        if let Some(followed) = self.followers.get(staging.id) {
            followed.state.lock().note(change);
        }
    }

    /// The same draft has been written further: whether it is time to look at it.
    pub(super) fn follow_writer(&self, inner: &Inner, now: Instant) {
        let Some((overlay, staging, written)) = followable(inner).filter(|(_, _, written)| *written >= BEGIN) else {
            return;
        };
        let begin = || State::new(inner, overlay, staging.clone(), written, now);
        let Some(followed) = self.followers.get_or_begin(staging.id, begin) else { return };
        let mut state = followed.state.lock();
        (state.node, state.written, state.size) = (inner.node, written, overlay.size);
        state.base.clone_from(&overlay.base);
        if state.becomes_due(now) {
            drop(state);
            self.followers.push(followed);
        }
    }

    /// Drafts that are over, or that only those see who have them open, are not followed any more.
    pub(super) fn leave_ended(&self) {
        let followed: Vec<(u64, NodeId)> = {
            let files = self.followers.files.lock();
            files.iter().map(|(staging, followed)| (*staging, followed.state.lock().node)).collect()
        };
        if followed.is_empty() {
            return;
        }
        // Those are few, and there may be millions of drafts. One that went on as another node begins anew.
        let is_over = |engine: &Engine, (staging, node): &(u64, NodeId)| {
            let draft = engine.local(*node).and_then(|state| state.body.draft());
            draft.and_then(|draft| draft.staging) != Some(*staging)
        };
        let over: Vec<_> =
            self.look(|engine| followed.into_iter().filter(|followed| is_over(engine, followed)).collect());
        let mut files = self.followers.files.lock();
        for (staging, _) in over {
            files.remove(&staging);
        }
    }

    /// The server lacks chunks that it should have.
    pub(super) fn forget_ahead(&self, overlay: &Overlay) {
        if let Some(staging) = &overlay.staging {
            self.followers.files.lock().remove(&staging.id);
        }
    }

    /// What is known of a draft. `None` as well if that has to be waited for too long or the draft has changed meanwhile.
    pub(super) fn take_ahead<E>(
        &self,
        overlay: &Overlay,
        unchanged: impl Fn() -> Result<(), E>,
    ) -> Result<Option<(Ahead, Resting)>, E> {
        let followed = overlay.staging.as_ref().and_then(|staging| self.followers.get(staging.id));
        let Some(followed) = followed else { return Ok(None) };
        followed.state.lock().preparing += 1;
        let resting = Resting(followed.clone());
        let deadline = Instant::now() + REST_MAX;
        let mut state = followed.state.lock();
        while state.changed.is_some() && Instant::now() < deadline {
            followed.rested.wait_for(&mut state, REST_STEP);
            parking_lot::MutexGuard::unlocked(&mut state, &unchanged)?;
        }
        let is_fit = state.changed.is_none() && state.sizes == ChunkSizes::for_content(overlay.size);
        let ahead = state.ahead.clone();
        drop(state);
        Ok(is_fit.then_some((ahead, resting)))
    }

    /// Cuts what has been written of a file since the last look, and sends it. Blocks.
    fn look_ahead(self: &Arc<Self>, followed: &Followed) {
        let node = followed.state.lock().node;
        let may_be_sent = self.link.is_online() && self.look(|engine| engine.may_be_sent(node));
        let look = {
            let mut state = followed.state.lock();
            if may_be_sent {
                state.begin_look()
            } else {
                state.is_queued = false;
                None
            }
        };
        let Some(mut look) = look else { return };
        let _ending = Looking(followed);
        if look.beneath.is_none()
            && let Some(base) = &look.overlay.base
        {
            look.beneath = self.manifest_here(base).map(Beneath::new);
        }
        let is_wanted = || followed.state.lock().preparing > 0;
        let mut cutter = Cutter::ahead(self, &look.overlay, look.sizes, look.from, look.hasher, look.beneath);
        let cut = cutter.contiguous(look.from..look.overlay.size, is_wanted);
        let (found, beneath, sent) = cutter.end_ahead(look.from);
        let cut = cut.and_then(|is_data| sent.map(|()| is_data));
        let mut state = followed.state.lock();
        let Some(changed) = state.changed.take() else { return };
        state.beneath = beneath;
        match cut {
            Ok(is_data) => {
                state.is_left |= !is_data;
                state.ahead.extend(found, &changed);
            }
            // Not read a second time either: it is sent when the file is prepared.
            Err(PrepareError::Away) => {
                state.ahead.extend(Ahead { chunks: BTreeMap::new(), ..found }, &changed);
            }
            Err(PrepareError::Remote(error)) if error.is_retryable() => {
                state.ahead.extend(Ahead { chunks: BTreeMap::new(), ..found }, &changed);
            }
            // Whoever prepares it meets that again, and says so.
            Err(error) => {
                tracing::debug!(%error, "a file is not followed any more while it is written");
                state.is_left = true;
            }
        }
    }
}

/// Looks at files that are being written, one at a time.
pub(super) async fn run(client: Arc<Client>) {
    loop {
        let Some(followed) = client.followers.due.lock().pop_front() else {
            client.followers.stirred.notified().await;
            continue;
        };
        let worker = client.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || worker.look_ahead(&followed)).await {
            tracing::error!(%error, "a file is not followed while it is written");
        }
    }
}

#[cfg(test)]
#[path = "ahead_tests.rs"]
mod tests;
