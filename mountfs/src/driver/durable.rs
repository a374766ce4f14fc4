//! Which drafts would survive a power cut.
//!
//! A staging file that was synced is marked with the generation of its bytes. The mark is taken off, durably, before the
//! first of these bytes is overwritten. After a power cut a draft counts only if its mark or its hash proves its bytes: a
//! file of the right length and without holes may still be half old and half new.

use super::{Client, WriteError, rows};
use crate::files::{Backing, Inner, OpenFile, Overlay, StagingFile};
use crate::store::Loaded;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use syncmount_common::{Extent, Manifest, NodeId};
use syncmount_engine::{Body, Draft, FileBody};

/// How many drafts are synced at a time, so that a pass ends.
const PASS_MAX: usize = 256;

/// Generations of synced bytes by staging file.
#[derive(Default)]
pub(super) struct Marks(Mutex<HashMap<u64, u64>>);

impl Marks {
    pub(super) fn load(loaded: &Loaded) -> Self {
        Self(Mutex::new(rows::durable(loaded).collect()))
    }

    fn has(&self, staging: u64, generation: u64) -> bool {
        self.0.lock().get(&staging) == Some(&generation)
    }

    pub(super) fn forget(&self, staging: u64) {
        self.0.lock().remove(&staging);
    }
}

impl Client {
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
        let is_told = inner.generation == generation && inner.told == generation && inner.told_ready;
        let same = matches!(&inner.backing, Backing::Draft(Overlay { staging: Some(it), .. }) if it.id == synced.id);
        if is_told && same {
            self.state.append(&rows::marked_durable(synced.id, generation))?;
            self.marks.0.lock().insert(synced.id, generation);
        }
        Ok(())
    }

    /// The bytes of a staging file are about to be overwritten.
    pub(super) fn unmark(&self, staging: u64) -> io::Result<()> {
        if !self.marks.0.lock().contains_key(&staging) {
            return Ok(());
        }
        self.state.append(&rows::not_durable(staging))?;
        self.state.sync()?;
        self.marks.forget(staging);
        Ok(())
    }

    /// A staging file is about to go. If its bytes were promised, what has become of them must be durable first.
    pub(super) fn keep_before_dropping(&self, staging: u64) -> io::Result<()> {
        let is_marked = self.marks.0.lock().contains_key(&staging);
        if is_marked { self.state.sync() } else { Ok(()) }
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
        self.files.close(&file);
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
        if self.marks.has(id, draft.generation) {
            return Ok(true);
        }
        let Some(content) = &draft.prepared else { return Ok(false) };
        let Some(manifest) = self.manifest_here(content) else { return Ok(false) };
        let staging = StagingFile { id, file: Arc::new(self.staging.file(id)?) };
        self.is_intact(&Overlay::restore(draft, Some(staging)), &manifest)
    }

    /// Whether the disk has no data in any of the segments that are in the staging file.
    fn is_all_hole(&self, overlay: &Overlay, segments: &[crate::files::Segment]) -> io::Result<bool> {
        use crate::files::Segment;
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
        use crate::files::Segment;
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
