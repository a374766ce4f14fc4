//! What the server has taken becomes an ordinary cached content.

use super::{Client, rows};
use crate::files::{Backing, Overlay};
use std::io;
use std::sync::Arc;
use std::time::Instant;
use syncmount_common::{Content, Extent, NodeId};

impl Client {
    /// Does what [`syncmount_engine::Effect::Settle`] asks for. Blocks for local disks only.
    pub(super) fn settle(self: &Arc<Self>, node: NodeId, generation: u64, content: &Arc<Content>) -> io::Result<()> {
        if self.settle_item(node, generation, content)? {
            return Ok(());
        }
        let Ok(file) = self.files.open(node, false, || self.inner_of(node)) else { return Ok(()) };
        let settled = self.settle_open(&file, node, generation, content);
        self.files.close(&file);
        settled
    }

    fn settle_open(
        self: &Arc<Self>,
        file: &crate::files::OpenFile,
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
            self.copy_to_cache(&overlay, content)?;
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
                Some(self.cache.adoption(&content.hash, content.size, path)?)
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
                None => self.staging.remove(id)?,
            }
            self.state.append(&rows::removed(id))?;
            self.marks.forget(id);
        }
        Ok(())
    }

    /// Fills the new content's cache entry with what is on this machine: what was written, and what lay beneath.
    fn copy_to_cache(self: &Arc<Self>, overlay: &Overlay, content: &Content) -> io::Result<()> {
        if content.size == 0 {
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
