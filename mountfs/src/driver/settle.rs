//! What the server has taken becomes an ordinary cached content.

use super::{Client, rows};
use crate::files::{Backing, OpenFile, Overlay};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::text::shown;
use syncmount_common::{Content, Extent, NodeId};
use syncmount_engine::Engine;

/// The shortest and the longest time until what could not be settled is tried again.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(320);

/// When what could not be settled is tried again.
#[derive(Debug, Default)]
pub(super) struct Pause {
    last: Duration,
    /// `None` while it is tried.
    due: Option<Instant>,
}

impl Pause {
    fn failed(&mut self, now: Instant) {
        self.last = (self.last * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.due = Some(now + self.last);
    }

    /// True once.
    fn is_over(&mut self, now: Instant) -> bool {
        self.due.take_if(|due| *due <= now).is_some()
    }
}

impl Client {
    /// Does what [`syncmount_engine::Effect::Settle`] asks for. Blocks for local disks only.
    pub(super) fn settle(self: &Arc<Self>, node: NodeId, generation: u64, content: &Arc<Content>) -> io::Result<()> {
        if self.settle_item(node, generation, content)? {
            return Ok(());
        }
        let Ok(file) = self.files.open(node, false, || self.inner_of(node)) else { return Ok(()) };
        let settled = self.settle_open(&file, node, generation, content);
        self.close_file(&file);
        let (path, is_due) = self.look(|engine| {
            let draft = engine.local(node).and_then(|state| state.body.draft());
            (engine.path(node).unwrap_or_default(), draft.is_some_and(|draft| draft.generation == generation))
        });
        match settled {
            Err(error) if is_due || error.kind() != io::ErrorKind::NotFound => {
                self.unsettled_later.lock().entry(node).or_default().failed(Instant::now());
                Err(io::Error::new(error.kind(), format!("{}: {error}", shown(&path))))
            }
            // Of what was removed or replaced in the meantime the files have gone too.
            _ => {
                self.unsettled_later.lock().remove(&node);
                Ok(())
            }
        }
    }

    /// Closes one handle. What could not be settled while the file was open is settled with the last.
    pub fn close_file(&self, file: &Arc<OpenFile>) {
        let Some(node) = self.files.close(file) else { return };
        if self.unsettled.lock().remove(&node) {
            let again = self.change_quietly(|engine, _| engine.settle_again(node));
            self.report("the state cannot be kept", again);
        }
    }

    /// Tries again what could not be settled, what failed with growing pauses, except files that are open: those are settled with
    /// the last handle.
    pub(super) fn settle_again(&self, now: Instant) {
        let mut nodes: Vec<NodeId> = self.unsettled.lock().extract_if(|node| self.files.get(*node).is_none()).collect();
        {
            let mut later = self.unsettled_later.lock();
            let is_draft =
                |node| self.look(|engine| engine.local(node).is_some_and(|state| state.body.draft().is_some()));
            later.retain(|node, _| is_draft(*node));
            nodes.extend(later.iter_mut().filter_map(|(node, pause)| pause.is_over(now).then_some(*node)));
        }
        if !nodes.is_empty() {
            let again = |engine: &mut Engine, _| nodes.iter().for_each(|node| engine.settle_again(*node));
            self.report("the state cannot be kept", self.change_quietly(again));
        }
    }

    fn settle_open(
        self: &Arc<Self>,
        file: &Arc<OpenFile>,
        node: NodeId,
        generation: u64,
        content: &Arc<Content>,
    ) -> io::Result<()> {
        let overlay = match &file.inner.read().backing {
            Backing::Draft(overlay) => overlay.clone(),
            Backing::Clean(_) => return Ok(()),
        };
        let whole = overlay.is_self_contained() && overlay.staging.is_some();
        if !whole {
            match self.copy_to_cache(&overlay, content) {
                // Neither the cache nor the disk has room for all of it. The server has it.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                copied => copied?,
            }
        }
        if let Some(staging) = &overlay.staging {
            self.keep_before_dropping(staging.id)?;
        }
        let mut inner = file.inner.write();
        if inner.generation != generation || inner.told != generation || inner.node != node {
            return Ok(());
        }
        let path = overlay.staging.as_ref().filter(|_| whole).map(|staging| self.staging.path(staging.id));
        let mut adoption = match (&path, &overlay.staging) {
            (Some(path), Some(staging)) => {
                // A sparse file may be shorter than its size says; one that a dead process was writing to may be longer.
                if staging.file.metadata()?.len() != content.size {
                    staging.file.set_len(content.size)?;
                }
                match self.cache.adoption(&content.hash, content.size, path) {
                    Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                        if self.stays_open(file, node) {
                            return Ok(());
                        }
                        None
                    }
                    adoption => Some(adoption?),
                }
            }
            _ => None,
        };
        // What takes long is done before and after: everybody else waits here.
        let adopt = |settled: &Option<Option<u64>>| match (&mut adoption, settled) {
            (Some(adoption), Some(Some(_))) => adoption.take(),
            _ => Ok(()),
        };
        let staging = self.change_then(|engine, _| engine.settle(node, generation), adopt)?;
        let Some(staging) = staging else { return Ok(()) };
        inner.backing = Backing::Clean(Arc::new(Content::clone(content).for_travel()));
        inner.told_ready = true;
        drop(inner);
        self.keep_bytes_if_pinned(node);
        if let Some(id) = staging {
            match adoption {
                Some(adoption) => drop(adoption.finish()?),
                None => {
                    if whole {
                        // Its bytes are nowhere else on this machine: that the draft is over must be known first.
                        self.state.sync()?;
                    }
                    self.staging.remove(id)?;
                }
            }
            self.state.append(&rows::removed(id))?;
            self.marks.forget(id);
        }
        Ok(())
    }

    /// Whether a file that the cache has no room for is open elsewhere: then its bytes stay as they are until it is closed.
    fn stays_open(&self, file: &OpenFile, node: NodeId) -> bool {
        // Noted first: a handle that is closed after the look finds the note.
        self.unsettled.lock().insert(node);
        file.handles() > 1 || !self.unsettled.lock().remove(&node)
    }

    /// Fills the new content's cache entry with what is on this machine: what was written, and what lay beneath.
    fn copy_to_cache(self: &Arc<Self>, overlay: &Overlay, content: &Content) -> io::Result<()> {
        // What was written here would only push out what it brought itself.
        let is_too_much = overlay.written_bytes() > self.cache.room() / 2;
        if content.size == 0 || is_too_much {
            return Ok(());
        }
        let Ok(entry) = self.cached(content, Instant::now()) else { return Ok(()) };
        if entry.is_whole() {
            return Ok(());
        }
        let Ok(manifest) = self.manifest(content, Instant::now()) else { return Ok(()) };
        for (offset, extent) in manifest.with_offsets() {
            let Extent::Chunk { hash, len } = extent else { continue };
            let mut raw = vec![0; len as usize];
            // What is not here stays away: it is fetched when somebody reads it.
            if self.read_draft_local(overlay, offset, &mut raw)? == Some(raw.len()) && hash.matches(&raw) {
                entry.put(&hash, &raw)?;
            }
        }
        Ok(())
    }

    /// Removes a staging file that no row refers to any more; one whose bytes were promised a little later, together with others.
    pub(super) fn drop_staging(&self, id: u64) -> io::Result<()> {
        if self.marks.is_marked(id) {
            self.leaving.lock().push(id);
            return Ok(());
        }
        self.remove_staging(id)
    }

    /// Removes the staging files whose bytes were promised: what has become of them is durable first.
    pub(super) fn drop_leaving(&self) -> io::Result<()> {
        if self.leaving.lock().is_empty() {
            return Ok(());
        }
        let leaving = std::mem::take(&mut *self.leaving.lock());
        if let Err(error) = self.state.sync() {
            self.leaving.lock().extend(leaving);
            return Err(error);
        }
        // After an error the next start removes it.
        leaving.into_iter().map(|id| self.remove_staging(id)).fold(Ok(()), Result::and)
    }

    fn remove_staging(&self, id: u64) -> io::Result<()> {
        if super::item_of_draft(id).is_none() {
            self.staging.remove(id)?;
        }
        self.state.append(&rows::removed(id))?;
        self.marks.forget(id);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_is_tried_once_after_each_pause_and_the_pauses_grow() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        assert!(!pause.is_over(now));
        for seconds in [5, 10, 20, 40, 80, 160, 320, 320] {
            pause.failed(now);
            assert!(!pause.is_over(now + Duration::from_secs(seconds - 1)));
            now += Duration::from_secs(seconds);
            assert!(pause.is_over(now) && !pause.is_over(now));
        }
    }
}
