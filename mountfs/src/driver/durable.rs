//! Which drafts would survive a power cut.
//!
//! A staging file that was synced is marked with the generation of its bytes. The mark is taken off, durably, before the
//! first of these bytes is overwritten; the mark of a small file has the hash of its bytes instead, so that it needs neither
//! that nor to be kept after the bytes: programs that sync often, as databases do, wait for one sync and not for three. After
//! a power cut a draft counts only if its mark or its hash proves its bytes: a file of the right length and without holes may
//! still be half old and half new.

use super::{Client, WriteError, rows};
use crate::files::{Backing, Inner, OpenFile, Overlay, Segment, StagingFile};
use crate::store::Loaded;
use crate::system::at;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use syncmount_common::hash::{FileHash, FileHasher};
use syncmount_common::{Extent, Manifest, NodeId};
use syncmount_engine::{Body, Draft, FileBody};

/// How many drafts are synced at a time, so that a pass ends.
const PASS_MAX: usize = 256;

/// Staging files of which at most so much counts are marked with their hash: more takes longer to hash than a sync takes.
const HASHED_MAX: u64 = 256 * 1024;

/// That the bytes of a staging file are synced, or that they are if they have this hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    /// Of the bytes.
    pub(super) generation: u64,
    /// Of the bytes that count, one after the other.
    pub(super) hash: Option<FileHash>,
}

/// The marks by staging file. But for the time of a start, one with a hash is here only after the sync, and so says the same as
/// one without.
#[derive(Default)]
pub(super) struct Marks(Mutex<HashMap<u64, Mark>>);

impl Marks {
    pub(super) fn load(loaded: &Loaded) -> Self {
        Self(Mutex::new(rows::durable(loaded).collect()))
    }

    fn get(&self, staging: u64) -> Option<Mark> {
        self.0.lock().get(&staging).copied()
    }

    pub(super) fn is_marked(&self, staging: u64) -> bool {
        self.0.lock().contains_key(&staging)
    }

    fn has(&self, staging: u64, generation: u64) -> bool {
        self.get(staging).is_some_and(|mark| mark.generation == generation)
    }

    /// What is left of them once drafts have been looked at after a start: this process does not know whether the sync that belongs
    /// to a mark with a hash has ended.
    pub(super) fn leave_proofs(&self) {
        self.0.lock().retain(|_, mark| mark.hash.is_none());
    }

    pub(super) fn forget(&self, staging: u64) {
        self.0.lock().remove(&staging);
    }
}

/// The hash of what counts in a staging file. `None` if that is much, or the file is shorter than it should be.
fn hash_of_staged(overlay: &Overlay) -> io::Result<Option<FileHash>> {
    let Some(staging) = &overlay.staging else { return Ok(None) };
    let segments = overlay.segments(0..overlay.size);
    let staged = || {
        segments.iter().filter_map(|segment| match segment {
            Segment::Staging(range) => Some(range),
            Segment::Zero(_) | Segment::Base(_) => None,
        })
    };
    if staged().map(|range| range.end - range.start).sum::<u64>() > HASHED_MAX {
        return Ok(None);
    }
    let mut hasher = FileHasher::default();
    for range in staged() {
        let mut bytes = vec![0; usize::try_from(range.end - range.start).map_err(io::Error::other)?];
        match at::read_exact_at(&staging.file, &mut bytes, range.start) {
            Ok(()) => hasher.update(&bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Ok(Some(hasher.finish()))
}

impl Client {
    /// Makes the bytes of a file, and what the tree was told of it, survive a power cut.
    pub(super) fn sync_told(&self, file: &OpenFile) -> io::Result<()> {
        let Some((staging, mark)) = self.mark_with_hash(&file.inner.read())? else {
            self.sync_bytes(file)?;
            return self.sync_journal();
        };
        let names_and_journal = || {
            if self.unsynced_names.load(Ordering::Acquire) {
                return beside(&|| self.sync_names(), || self.sync_journal());
            }
            self.sync_journal()?;
            // Somebody else may be at it, and this file's name one of those.
            self.sync_names()
        };
        beside(&|| staging.file.sync_data(), names_and_journal)?;
        self.note_mark(&file.inner.read(), staging.id, mark);
        Ok(())
    }

    /// Keeps a mark with the hash of the bytes, of a small file whose tree is told of them and that has none yet. It is not synced
    /// here, and counts here once everything is.
    fn mark_with_hash(&self, inner: &Inner) -> io::Result<Option<(StagingFile, Mark)>> {
        let Backing::Draft(overlay) = &inner.backing else { return Ok(None) };
        let Some(staging) = overlay.staging.as_ref().filter(|_| is_told(inner) && inner.shown.is_empty()) else {
            return Ok(None);
        };
        if super::item_of_draft(staging.id).is_some() || self.marks.has(staging.id, inner.generation) {
            return Ok(None);
        }
        // One without a hash is taken off before it is written to, and so is not there any more.
        let Some(hash) = hash_of_staged(overlay)? else { return Ok(None) };
        let mark = Mark { generation: inner.generation, hash: Some(hash) };
        self.state.append(&rows::marked_durable(staging.id, &mark))?;
        Ok(Some((staging.clone(), mark)))
    }

    fn note_mark(&self, inner: &Inner, synced: u64, mark: Mark) {
        let is_same = matches!(&inner.backing, Backing::Draft(Overlay { staging: Some(it), .. }) if it.id == synced);
        if is_same && is_told(inner) && inner.generation == mark.generation {
            self.marks.0.lock().insert(synced, mark);
        }
    }

    /// Syncs the bytes of a file and, if nobody writes to it meanwhile, marks them. The record is not synced here.
    pub(super) fn sync_bytes(&self, file: &OpenFile) -> io::Result<()> {
        let (staging, generation) = {
            let inner = file.inner.read();
            match &inner.backing {
                Backing::Draft(Overlay { staging: Some(staging), .. }) => (staging.clone(), inner.generation),
                Backing::Draft(_) | Backing::Clean(_) => return Ok(()),
            }
        };
        if self.marks.has(staging.id, generation) {
            return Ok(());
        }
        staging.file.sync_data()?;
        self.sync_names()?;
        self.mark(&file.inner.write(), &staging, generation)
    }

    /// The same for a file that is locked already.
    pub(super) fn sync_held(&self, inner: &Inner) -> io::Result<()> {
        let Backing::Draft(Overlay { staging: Some(staging), .. }) = &inner.backing else { return Ok(()) };
        if self.marks.has(staging.id, inner.generation) {
            return Ok(());
        }
        staging.file.sync_data()?;
        self.sync_names()?;
        self.mark(inner, staging, inner.generation)
    }

    /// The lock on `inner` keeps writers away until the mark is kept.
    fn mark(&self, inner: &Inner, synced: &StagingFile, generation: u64) -> io::Result<()> {
        let same = matches!(&inner.backing, Backing::Draft(Overlay { staging: Some(it), .. }) if it.id == synced.id);
        if same && is_told(inner) && inner.generation == generation {
            let mark = Mark { generation, hash: None };
            self.state.append(&rows::marked_durable(synced.id, &mark))?;
            self.marks.0.lock().insert(synced.id, mark);
        }
        Ok(())
    }

    /// The bytes of a staging file are about to be overwritten.
    pub(super) fn unmark(&self, staging: u64) -> io::Result<()> {
        match self.marks.get(staging) {
            // It proves nothing of other bytes.
            None | Some(Mark { hash: Some(_), .. }) => {}
            Some(Mark { hash: None, .. }) => {
                self.state.append(&rows::not_durable(staging))?;
                self.state.sync()?;
            }
        }
        self.marks.forget(staging);
        Ok(())
    }

    /// A staging file is about to go. If its bytes were promised, what has become of them must be durable first.
    pub(super) fn keep_before_dropping(&self, staging: u64) -> io::Result<()> {
        if self.marks.is_marked(staging) { self.state.sync() } else { Ok(()) }
    }

    /// What takes the place of a file must survive a power cut before the place is taken, or nothing would be left of
    /// either. (Programs that save beside a file and rename over it often forget to sync.) Whoever does that has finished a
    /// step, also if a descriptor is open still.
    pub fn sync_replacement(&self, node: NodeId) -> Result<(), WriteError> {
        if let Some(file) = self.files.get(node) {
            self.tell(&file)?;
        }
        let unmarked = self.look(|engine| match engine.local(node).map(|state| &state.body) {
            Some(Body::File(FileBody::Draft(draft))) => self.is_unmarked(draft),
            _ => false,
        });
        if !unmarked {
            return Ok(());
        }
        self.sync_draft(node)?;
        // The server may take the new name before it has the bytes.
        Ok(self.state.sync()?)
    }

    fn is_unmarked(&self, draft: &Draft) -> bool {
        let is_ours = |staging: &u64| super::item_of_draft(*staging).is_none();
        let staging = draft.staging.filter(is_ours);
        draft.ready && staging.is_some_and(|staging| !self.marks.has(staging, draft.generation))
    }

    fn sync_draft(&self, node: NodeId) -> io::Result<()> {
        let file = match self.open(node, false) {
            Ok(file) => file,
            Err(WriteError::Io(error)) => return Err(error),
            // Gone meanwhile.
            Err(_) => return Ok(()),
        };
        let synced = self.sync_bytes(&file);
        self.close_file(&file);
        synced
    }

    /// Syncs drafts that were waiting to be sent in the last pass already, `waiting`: what is written without a server
    /// survives a power cut a little later, although nobody asked for it.
    pub(super) fn sync_waiting(&self, waiting: &mut HashSet<(NodeId, u64)>) -> io::Result<()> {
        let unmarked: HashSet<(NodeId, u64)> = self.look(|engine| {
            let unmarked = engine.stagings().filter(|(_, draft)| self.is_unmarked(draft));
            unmarked.map(|(node, draft)| (node, draft.generation)).collect()
        });
        let due = unmarked.intersection(waiting).take(PASS_MAX);
        let synced = due.into_iter().try_for_each(|(node, _)| self.sync_draft(*node));
        *waiting = unmarked;
        synced
    }

    /// Whether the bytes of a draft are what its record says, after the machine went down.
    pub(super) fn is_proven(&self, draft: &Draft) -> io::Result<bool> {
        let Some(id) = draft.staging else { return Ok(true) };
        if !draft.ready {
            return Ok(false);
        }
        let staging = StagingFile { id, file: Arc::new(self.staging.file(id)?) };
        let overlay = Overlay::restore(draft, Some(staging));
        match self.marks.get(id).filter(|mark| mark.generation == draft.generation) {
            Some(Mark { hash: None, .. }) => return Ok(true),
            Some(Mark { hash: Some(hash), .. }) if hash_of_staged(&overlay)? == Some(hash) => return Ok(true),
            Some(_) | None => {}
        }
        let Some(content) = &draft.prepared else { return Ok(false) };
        let Some(manifest) = self.manifest_here(content) else { return Ok(false) };
        self.is_intact(&overlay, &manifest)
    }

    /// Whether the disk has no data in any of the segments that are in the staging file.
    fn is_all_hole(&self, overlay: &Overlay, segments: &[Segment]) -> io::Result<bool> {
        for segment in segments {
            let is_hole = match segment {
                Segment::Staging(range) => overlay.next_staged(range.clone())?.is_empty(),
                Segment::Zero(_) => true,
                Segment::Base(_) => false,
            };
            if !is_hole {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_intact(&self, overlay: &Overlay, manifest: &Manifest) -> io::Result<bool> {
        if manifest.size() != overlay.size {
            return Ok(false);
        }
        for (start, extent) in manifest.with_offsets() {
            let segments = overlay.segments(start..start + extent.len());
            if segments.iter().all(|segment| !matches!(segment, Segment::Staging(_))) {
                continue;
            }
            let Extent::Chunk { hash, len } = extent else {
                if self.is_all_hole(overlay, &segments)? {
                    continue;
                }
                return Ok(false);
            };
            let mut raw = vec![0; len as usize];
            match self.read_draft_local(overlay, start, &mut raw) {
                Ok(Some(got)) if got == raw.len() && hash.matches(&raw) => {}
                Ok(_) => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

/// Does both at the same time, or one after the other if there is no thread for that.
fn beside(work: &(dyn Fn() -> io::Result<()> + Sync), meanwhile: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    std::thread::scope(|scope| match std::thread::Builder::new().spawn_scoped(scope, work) {
        Ok(thread) => {
            let done = meanwhile();
            thread.join().map_err(|_| io::Error::other("a sync has panicked"))??;
            done
        }
        Err(error) => {
            tracing::debug!(%error, "synced one after the other");
            work()?;
            meanwhile()
        }
    })
}

/// Whether the tree knows these bytes, and may send them.
fn is_told(inner: &Inner) -> bool {
    inner.told == inner.generation && inner.told_ready
}

#[cfg(test)]
mod tests {
    use super::super::recover::tests::{cut_power, open};
    use super::*;
    use std::time::Duration;
    use syncmount_common::{Attrs, Name, Timestamp};

    #[test]
    fn who_syncs_waits_for_a_sync_of_names_that_another_has_begun() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = open(dir.path(), &runtime);
        let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
        let (name, attrs) = (Name::try_from("file").unwrap(), Attrs { mode: 0o644, mtime: Timestamp(0) });
        let node = client.change(|engine, now| engine.create(NodeId::ROOT, name, attrs, body, now)).unwrap().unwrap();
        let file = client.open(node, true).unwrap();
        client.write(&file, 0, b"bytes").unwrap();
        // Another has taken the names, this file's among them, and is not done with them.
        let others = client.syncing_names.lock();
        client.unsynced_names.store(false, Ordering::Release);
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| done.send(client.sync_file(&file).map_err(|error| error.to_string())).unwrap());
            assert!(is_done.recv_timeout(Duration::from_millis(300)).is_err(), "its name is not synced");
            drop(others);
            is_done.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
        });
        client.close_file(&file);
        drop((file, client));
        cut_power(dir.path());
        assert!(open(dir.path(), &runtime).look(|engine| engine.local(node).is_some()));
    }

    #[test]
    fn an_error_of_either_is_the_error_of_both() {
        let bad = || Err(io::Error::other("bad"));
        assert!(beside(&|| Ok(()), || Ok(())).is_ok());
        assert!(beside(&bad, || Ok(())).is_err() && beside(&|| Ok(()), bad).is_err());
    }
}
