//! Writing to files: bytes into staging files, the news of it into the tree.
//!
//! The tree is told before the first byte of a draft is written (so that a change from the feed can see that somebody is
//! at it), and again when the writer closes the file or has been quiet for a while.

use super::shown::Change;
use super::{Client, content::ReadError};
use crate::files::{Backing, Inner, Last, OpenFile, Overlay, StagingFile};
use crate::system::at;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use syncmount_common::{Content, NodeId, Timestamp};
use syncmount_engine::{Body, DraftUpdate, Engine, Expected, FileBody, Refusal, State};

/// A file that stays open is sent when its writer has been quiet for this long …
const QUIET: Duration = Duration::from_secs(2);
/// … or at the latest after this.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a change from the feed that crosses a write is waited for.
const STALE_PATIENCE: Duration = Duration::from_secs(5);

/// Why a file cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is gone, or no file.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Bytes beneath could not be had.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Beyond the largest file.
    #[error("the file would be larger than a file can be")]
    TooLarge,
}

impl Client {
    /// Opens a file of the tree.
    pub fn open(&self, node: NodeId, writer: bool) -> Result<Arc<OpenFile>, WriteError> {
        self.files.open(node, writer, || self.inner_of(node))
    }

    /// Opens for reading what was taken away just now, as it was; `None` for what cannot be read as it was.
    pub fn open_gone(&self, node: NodeId, was: &State) -> Option<Arc<OpenFile>> {
        let Body::File(FileBody::Clean(content)) = &was.body else { return None };
        let backing = Backing::Clean(content.clone());
        let inner = || {
            Ok::<_, std::convert::Infallible>(Inner {
                node,
                backing,
                generation: 0,
                told: 0,
                told_ready: true,
                mtime: was.attrs.mtime,
                written: Instant::now(),
                unsent_since: None,
                orphan: Some(Last { attrs: was.attrs, owner: None }),
                apart: None,
                shown: Vec::new(),
            })
        };
        self.files.open(node, false, inner).ok()
    }

    /// A staging file of its own for a file that is about to be made.
    pub fn new_staging(&self) -> io::Result<StagingFile> {
        let (id, file) = self.staging.create()?;
        self.unsynced_names.store(true, Ordering::Release);
        Ok(StagingFile { id, file: Arc::new(file) })
    }

    /// Opens for writing what was made with this staging file a moment ago.
    pub fn open_made(&self, node: NodeId, staging: StagingFile) -> Result<Arc<OpenFile>, WriteError> {
        let staging_of = |id| if id == staging.id { Ok(Some(staging)) } else { self.draft_file(id) };
        self.files.open(node, true, || self.inner_with(node, staging_of))
    }

    pub(super) fn inner_of(&self, node: NodeId) -> Result<Inner, WriteError> {
        self.inner_with(node, |id| self.draft_file(id))
    }

    fn inner_with(
        &self,
        node: NodeId,
        staging_of: impl FnOnce(u64) -> io::Result<Option<StagingFile>>,
    ) -> Result<Inner, WriteError> {
        let state = self.look(|engine| engine.local(node).cloned()).ok_or(Refusal::NotFound)?;
        let (backing, generation, told_ready) = match &state.body {
            Body::Dir => return Err(Refusal::IsDir.into()),
            Body::Symlink(_) => return Err(Refusal::NotFound.into()),
            Body::File(FileBody::Clean(content)) => (Backing::Clean(content.clone()), 0, true),
            Body::File(FileBody::Draft(draft)) => {
                let staging = match draft.staging {
                    Some(id) => staging_of(id)?,
                    None => None,
                };
                (Backing::Draft(Overlay::restore(draft, staging)), draft.generation, draft.ready)
            }
        };
        Ok(Inner {
            node,
            backing,
            generation,
            told: generation,
            told_ready,
            mtime: state.attrs.mtime,
            written: Instant::now(),
            unsent_since: None,
            orphan: None,
            apart: None,
            shown: Vec::new(),
        })
    }

    /// Writes all of `data`, or returns an error.
    pub fn write(&self, file: &Arc<OpenFile>, offset: u64, data: &[u8]) -> Result<(), WriteError> {
        self.require_room(data.len() as u64)?;
        self.edit(file, &Change::Bytes(offset, data), |inner| {
            let Backing::Draft(overlay) = &mut inner.backing else { return Ok(()) };
            let end = offset.checked_add(data.len() as u64).filter(|end| *end <= self.largest);
            let end = end.ok_or(WriteError::TooLarge)?;
            let staging = overlay.staging.as_ref().ok_or_else(|| io::Error::other("a draft without a staging file"))?;
            at::write_all_at(&staging.file, data, offset)?;
            overlay.wrote(offset..end);
            Ok(())
        })
    }

    /// An error if a file may not reach up to `end`: the disk of the cache holds no file of that size, or none travels.
    pub const fn require_size(&self, end: u64) -> Result<(), WriteError> {
        if end <= self.largest { Ok(()) } else { Err(WriteError::TooLarge) }
    }

    /// Cuts or extends.
    pub fn set_size(&self, file: &Arc<OpenFile>, size: u64) -> Result<(), WriteError> {
        // One that is larger already, by another device, may be cut shorter.
        if size > self.largest && size > file.inner.read().backing.size() {
            return Err(WriteError::TooLarge);
        }
        self.edit(file, &Change::Size(size), |inner| {
            let Backing::Draft(overlay) = &mut inner.backing else { return Ok(()) };
            overlay.set_size(size)?;
            Ok(())
        })
    }

    /// Makes a part of the file read as zeros, as far as the file goes.
    pub fn zero(&self, file: &Arc<OpenFile>, range: std::ops::Range<u64>) -> Result<(), WriteError> {
        self.edit(file, &Change::Zeros(range.clone()), |inner| {
            let Backing::Draft(overlay) = &mut inner.backing else { return Ok(()) };
            Ok(overlay.zero(range)?)
        })
    }

    /// Takes a range of a content that the server has as the next bytes of the file, without copying any. `false`, and
    /// nothing is done, unless the file is the content up to there.
    pub fn share(
        &self,
        file: &Arc<OpenFile>,
        content: &Arc<Content>,
        range: std::ops::Range<u64>,
    ) -> Result<bool, WriteError> {
        let is_begin = |backing: &Backing| match backing {
            Backing::Draft(overlay) => overlay.is_begin_of(content, range.start),
            Backing::Clean(own) => own.size == range.start && (own.size == 0 || own.hash == content.hash),
        };
        self.require_size(range.end)?;
        if !is_begin(&file.inner.read().backing) {
            return Ok(false);
        }
        let mut shared = false;
        self.edit(file, &Change::Shared, |inner| {
            // Somebody may have written since.
            shared = is_begin(&inner.backing);
            if let (true, Backing::Draft(overlay)) = (shared, &mut inner.backing) {
                overlay.share(content.clone(), range.end);
            }
            Ok(())
        })?;
        Ok(shared)
    }

    pub(super) fn edit(
        &self,
        file: &Arc<OpenFile>,
        change: &Change<'_>,
        edit: impl FnOnce(&mut Inner) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let mut inner = file.inner.write();
        if inner.apart.is_some() {
            self.begin_beside(file, &mut inner)?;
        }
        if needs_begin(&inner) {
            inner = self.begin(file, inner)?;
        }
        self.make_shown_private(&mut inner)?;
        Self::mirror_before(&inner, change)?;
        let edited = edit(&mut inner);
        self.note_change(&inner, change);
        if let Err(error) = edited {
            inner.shown.iter().filter(|shown| !shown.is_mapped()).for_each(|shown| shown.step_out(None));
            return Err(error);
        }
        Self::mirror_after(&inner, change);
        let now = Instant::now();
        inner.generation = self.next_generation();
        inner.mtime = self.now();
        inner.written = now;
        inner.unsent_since.get_or_insert(now);
        self.follow_writer(&inner, now);
        Ok(())
    }

    /// Makes a version that another device's has replaced a conflict copy that somebody is writing to.
    fn begin_beside(&self, file: &Arc<OpenFile>, inner: &mut Inner) -> Result<(), WriteError> {
        let staging = self.new_staging()?;
        let id = staging.id;
        let mut overlay = match &inner.backing {
            Backing::Clean(content) => Overlay::over(content.clone()),
            Backing::Draft(overlay) => overlay.copied_to(&staging.file)?,
        };
        overlay.staging = Some(staging);
        let generation = self.next_generation();
        let update = update_of(inner, &overlay, generation, false);
        match self.change(|engine, now| engine.write_beside(inner.node, update, now))? {
            Ok(copy) => {
                inner.node = copy;
                inner.apart = None;
                inner.backing = Backing::Draft(overlay);
                (inner.generation, inner.told, inner.told_ready) = (generation, generation, false);
                self.files.attach(copy, file);
                Ok(())
            }
            // Removed since: what is written ends with those who have it open.
            Err(Refusal::NotFound) => {
                self.staging.remove(id)?;
                inner.orphan = inner.apart.take().map(|attrs| Last { attrs, owner: None });
                Ok(())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Makes the file a draft that the tree knows somebody is writing to.
    fn begin<'a>(
        &self,
        file: &'a OpenFile,
        mut inner: parking_lot::RwLockWriteGuard<'a, Inner>,
    ) -> Result<parking_lot::RwLockWriteGuard<'a, Inner>, WriteError> {
        let mut fresh = None;
        let deadline = Instant::now() + STALE_PATIENCE;
        loop {
            let mut overlay = match &inner.backing {
                Backing::Clean(content) => Overlay::over(content.clone()),
                Backing::Draft(overlay) => overlay.clone(),
            };
            if overlay.staging.is_none() {
                if fresh.is_none() {
                    fresh = Some(self.new_staging()?);
                }
                overlay.staging.clone_from(&fresh);
            }
            let generation = match inner.backing {
                Backing::Clean(_) => self.next_generation(),
                Backing::Draft(_) => inner.generation,
            };
            if let Some(staging) = &overlay.staging {
                self.unmark(staging.id)?;
            }
            match self.tell_as(&inner, &overlay, generation, false) {
                Err(WriteError::Refused(Refusal::Stale)) if Instant::now() < deadline => {
                    drop(inner);
                    std::thread::sleep(Duration::from_millis(1));
                    inner = file.inner.write();
                    if !needs_begin(&inner) {
                        break;
                    }
                }
                told => {
                    // What was removed while it is open goes on for those who have it open, and ends with them: its new
                    // staging file needs no name.
                    if let (Err(WriteError::Refused(Refusal::NotFound)), Some(nameless)) = (&told, &fresh) {
                        self.staging.remove(nameless.id)?;
                    }
                    if let Err(error) = told
                        && !matches!(error, WriteError::Refused(Refusal::NotFound))
                    {
                        // After an error of the journal the tree refers to it, and says so with the next record.
                        if let (WriteError::Refused(_), Some(unused)) = (&error, fresh) {
                            self.staging.remove(unused.id)?;
                        }
                        return Err(error);
                    }
                    if overlay.staging.as_ref().map(|s| s.id) == fresh.as_ref().map(|s| s.id) {
                        fresh = None;
                    }
                    inner.backing = Backing::Draft(overlay);
                    inner.generation = generation;
                    inner.told = generation;
                    inner.told_ready = false;
                    break;
                }
            }
        }
        if let Some(unused) = fresh {
            self.staging.remove(unused.id)?;
        }
        Ok(inner)
    }

    /// Tells the tree how far the file has been written, and that it may be sent.
    pub fn tell(&self, file: &OpenFile) -> Result<(), WriteError> {
        self.tell_if(file, |_| true).0
    }

    /// A descriptor of a writer's is closed: tells the tree, and that the file may be sent unless nothing is left of it. One that
    /// has been emptied is about to be written as a rule.
    pub fn tell_closed(&self, file: &OpenFile) -> Result<(), WriteError> {
        self.end_rest(file);
        self.tell_if(file, |inner| inner.backing.size() > 0).0
    }

    /// A writer is done: tells the tree, and that the file may be sent if no other writer is left.
    pub fn end_writing(&self, file: &OpenFile) -> Result<(), WriteError> {
        self.end_rest(file);
        let (told, inner) = self.tell_if(file, |_| file.writers() <= 1);
        // While nobody else can: of two who end at once, one is the last.
        file.end_writing();
        drop(inner);
        told
    }

    /// `is_ready` is asked while nobody can write, which goes on while what is returned is kept.
    fn tell_if<'a>(
        &self,
        file: &'a OpenFile,
        is_ready: impl Fn(&Inner) -> bool,
    ) -> (Result<(), WriteError>, parking_lot::RwLockWriteGuard<'a, Inner>) {
        let deadline = Instant::now() + STALE_PATIENCE;
        loop {
            let mut inner = file.inner.write();
            let ready = is_ready(&inner);
            match self.tell_once(&mut inner, ready) {
                Err(WriteError::Refused(Refusal::Stale)) if Instant::now() < deadline => {
                    drop(inner);
                    std::thread::sleep(Duration::from_millis(1));
                }
                told => return (told, inner),
            }
        }
    }

    fn tell_once(&self, inner: &mut Inner, ready: bool) -> Result<(), WriteError> {
        let is_news = inner.generation != inner.told || (ready && !inner.told_ready);
        let Backing::Draft(overlay) = &inner.backing else { return Ok(()) };
        if !is_news || inner.orphan.is_some() {
            return Ok(());
        }
        // Made and never written: there is nothing that would have to be proved after a power cut.
        let unwritten =
            (ready && inner.generation == 0 && overlay.is_blank() && overlay.staging.is_some()).then(Overlay::empty);
        match self.tell_as(inner, unwritten.as_ref().unwrap_or(overlay), inner.generation, ready) {
            Ok(()) => {
                if let Some(unwritten) = unwritten {
                    inner.backing = Backing::Draft(unwritten);
                }
                inner.told = inner.generation;
                inner.told_ready = ready;
                if ready {
                    inner.unsent_since = None;
                }
                Ok(())
            }
            // Removed while it was open.
            Err(WriteError::Refused(Refusal::NotFound)) => Ok(()),
            Err(error) => {
                // After an error of the journal the tree has it, and the next record that is kept says so: who writes again
                // has to begin again.
                if ready && !matches!(error, WriteError::Refused(_)) {
                    (inner.told, inner.told_ready) = (UNCERTAIN, true);
                }
                Err(error)
            }
        }
    }

    pub(super) fn tell_as(
        &self,
        inner: &Inner,
        overlay: &Overlay,
        generation: u64,
        ready: bool,
    ) -> Result<(), WriteError> {
        let expected = match &inner.backing {
            Backing::Clean(content) => Expected::Clean(content.hash),
            Backing::Draft(known) => Expected::Draft(known.staging.as_ref().map(|staging| staging.id)),
        };
        let update = update_of(inner, overlay, generation, ready);
        let tell = |engine: &mut Engine, now| engine.write_draft(inner.node, expected, update, now);
        // Of what may not be sent yet nothing follows.
        if ready { self.change(tell)? } else { self.change_quietly(tell)? }?;
        Ok(())
    }

    /// Sets the mtime that the user wants the file to have.
    pub fn set_mtime(&self, file: &OpenFile, mtime: Timestamp) {
        file.inner.write().mtime = mtime;
    }

    pub(super) fn sync_names(&self) -> io::Result<()> {
        let _syncing = self.syncing_names.lock();
        if !self.unsynced_names.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let synced = self.staging.sync();
        if synced.is_err() {
            self.unsynced_names.store(true, Ordering::Release);
        }
        synced
    }

    /// Makes the bytes and the news of them survive a power cut.
    pub fn sync_file(&self, file: &OpenFile) -> Result<(), WriteError> {
        // Whoever asks for durability has finished a step: other devices may see it.
        file.begin_rest();
        self.tell(file)?;
        Ok(self.sync_told(file)?)
    }

    fn end_rest(&self, file: &OpenFile) {
        if file.end_rest() {
            self.rested.notify_waiters();
        }
    }

    /// Returns when the draft may be prepared: at once but for one that was synced by a program that goes on writing, and one with
    /// a name that comes and goes.
    pub(super) async fn rest(&self, node: NodeId, generation: u64) {
        loop {
            // Before it is asked whether it rests, so that no end of that is missed.
            let rested = self.rested.notified();
            let now = Instant::now();
            let rest = self.files.get(node).and_then(|file| file.rest(generation, now));
            let Some(wait) = rest.or_else(|| self.fleeting.stay(node, now)) else { return };
            tokio::select! {
                () = rested => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Returns when the server has the file as it was told to the tree, or with an error at the deadline.
    pub fn await_sent(&self, file: &OpenFile, deadline: Instant) -> Result<(), WriteError> {
        file.end_rest();
        self.fleeting.end_stay(file.inner.read().node);
        self.rested.notify_waiters();
        loop {
            let (node, clean) = {
                let inner = file.inner.read();
                (inner.node, matches!(inner.backing, Backing::Clean(_)))
            };
            let sent = clean || self.look(|engine| engine.entry(node).is_none_or(|entry| !entry.is_dirty()));
            if sent {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(ReadError::Unreachable.into());
            }
            self.hurried.notify_one();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Files that stay open are sent when their writers pause. Until then the tree is told how far they are, so that the end of
    /// this process costs their writers what they wrote since the last beat of the clock and no more.
    pub(super) fn tell_quiet_files(&self) {
        for file in self.files.all() {
            let (is_due, is_news) = {
                let inner = file.inner.read();
                let is_quiet = inner.written.elapsed() >= QUIET;
                let is_due = inner.unsent_since.is_some_and(|since| is_quiet || since.elapsed() >= PATIENCE);
                (is_due, !inner.told_ready && inner.generation != inner.told)
            };
            let told = match (is_due, is_news) {
                (true, _) => self.tell(&file),
                (false, true) => self.tell_if(&file, |inner| inner.told_ready).0,
                (false, false) => Ok(()),
            };
            if let Err(error) = told {
                self.link.failed(&error.to_string());
            }
        }
    }

    /// What has been written so far may be sent, although the writers are not done.
    pub(super) fn tell_open_files(&self) {
        for file in self.files.all() {
            self.end_rest(&file);
            if let Err(error) = self.tell(&file) {
                self.link.failed(&error.to_string());
            }
        }
    }

    /// Of an open file what the tree does not know yet.
    pub fn open_attrs(&self, node: NodeId) -> Option<OpenAttrs> {
        let file = self.files.get(node)?;
        let inner = file.inner.read();
        let unsaid = inner.generation != inner.told || inner.orphan.is_some();
        unsaid.then(|| OpenAttrs {
            size: inner.backing.size(),
            allocated: inner.backing.allocated(),
            mtime: inner.mtime,
            orphan: inner.orphan,
        })
    }
}

/// What an open file is that was written to or removed.
pub struct OpenAttrs {
    /// Its length in bytes.
    pub size: u64,
    /// How many of them are not in holes.
    pub allocated: u64,
    /// When it was written to last, or what that was set to.
    pub mtime: Timestamp,
    /// The last attributes if it was removed.
    pub orphan: Option<Last>,
}

fn update_of(inner: &Inner, overlay: &Overlay, generation: u64, ready: bool) -> DraftUpdate {
    DraftUpdate {
        generation,
        size: overlay.size,
        staging: overlay.staging.as_ref().map(|staging| staging.id),
        present: overlay.present_pairs(),
        base: overlay.base.clone(),
        base_len: overlay.base_len,
        mtime: inner.mtime,
        ready,
    }
}

/// No draft has this generation: what the tree knows was not kept when it was told.
const UNCERTAIN: u64 = u64::MAX;

fn needs_begin(inner: &Inner) -> bool {
    match &inner.backing {
        Backing::Clean(_) => true,
        Backing::Draft(overlay) => overlay.staging.is_none() || (inner.told_ready && inner.orphan.is_none()),
    }
}
