//! Checking the content cache against bytes that went bad on the disk, beside a running mount and without one.

use super::manifests::Manifests;
use super::{Client, OpenError, rows};
use crate::store::{Cache, State, Verified};
use std::collections::{HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use syncmount_common::{Content, ContentHash, Manifest, NodeId};
use syncmount_engine::{Body, Changed, RowSynced};

type Contents = HashMap<ContentHash, Arc<Content>>;

/// Told after every chunk; false ends the work.
type Progress<'a> = dyn FnMut(&Verified) -> bool + 'a;

/// Checks the cache in `dir`, which no mount uses. Also answers what had to be repaired to open it, in sentences for people.
pub fn verify_closed(dir: &Path, progress: &mut Progress<'_>) -> Result<(Verified, Vec<String>), OpenError> {
    let (state, loaded) = State::open(dir)?;
    let (suspect, repaired) = (loaded.suspect, loaded.repaired.clone());
    let (restored, _) = rows::decode(loaded)?;
    let mut contents = Contents::new();
    for (_, row) in &restored.rows {
        let synced = match &row.synced {
            RowSynced::Differs { state, .. } => state.as_ref(),
            RowSynced::Never | RowSynced::SameAsLocal { .. } => None,
        };
        row.local.iter().chain(synced).for_each(|state| collect(&state.body, &mut contents));
    }
    drop(restored);
    let manifests = Manifests::open(dir.join("manifests"))?;
    // Nothing is evicted here: the limit is the mount's business.
    let cache = Cache::open(&dir.join("cache"), u64::MAX, suspect)?;
    let verified = cache.verify_all(&mut |hash| manifest_of(&contents, &manifests, hash), progress)?;
    cache.close()?;
    if !suspect {
        // Otherwise the next mount has to look for the damage that a power cut has done to more than the cache.
        state.close()?;
    }
    Ok((verified, repaired))
}

impl Client {
    /// Checks the cache while it is in use. Who shows the folder is told of files whose bytes were damaged, so that nothing
    /// keeps them.
    pub fn verify_cache(&self, progress: &mut Progress<'_>) -> io::Result<Verified> {
        for file in self.files.all() {
            // What is damaged is written anew, and with it what the kernel shows of it.
            if let Err(error) = self.take_mapped(&file) {
                tracing::warn!("what was changed through a mapping cannot be kept yet: {error}");
            }
        }
        let mut known = None;
        let mut manifest_of = |hash: &ContentHash| {
            let contents = known.get_or_insert_with(|| self.contents());
            manifest_of(contents, &self.manifests, hash)
        };
        let verified = self.cache.verify_all(&mut manifest_of, progress)?;
        self.show_anew(&verified.damaged.iter().copied().collect());
        self.doubt_pinned();
        Ok(verified)
    }

    fn contents(&self) -> Contents {
        let engine = self.engine.read();
        let mut contents = Contents::new();
        for entry in engine.ids().filter_map(|id| engine.entry(id)) {
            let states = entry.local.iter().chain(entry.synced_state());
            states.for_each(|state| collect(&state.body, &mut contents));
        }
        contents
    }

    fn show_anew(&self, damaged: &HashSet<ContentHash>) {
        if damaged.is_empty() {
            return;
        }
        let shown: Vec<NodeId> = self.look(|engine| {
            let mut of_body = Contents::new();
            let mut has_damaged = |body: &Body| {
                of_body.clear();
                collect(body, &mut of_body);
                of_body.keys().any(|hash| damaged.contains(hash))
            };
            let nodes = engine.ids().filter_map(|id| Some((id, engine.local(id)?)));
            nodes.filter(|(_, state)| has_damaged(&state.body)).map(|(id, _)| id).collect()
        });
        for file in shown.iter().filter_map(|node| self.files.get(*node)) {
            // What the kernel shows of it may be what was damaged.
            file.inner.read().shown.iter().for_each(|shown| shown.step_out(None));
        }
        if let Some(on_changed) = &*self.on_changed.lock() {
            for node in shown {
                on_changed(&Changed { node, places: Vec::new(), content: true, removed: false, last_attrs: None });
            }
        }
    }
}

/// The contents that a body is made of.
fn collect(body: &Body, into: &mut Contents) {
    let beneath = body.draft().and_then(|draft| draft.base.as_ref());
    into.extend(body.content().into_iter().chain(beneath).map(|content| (content.hash, content.clone())));
}

fn manifest_of(contents: &Contents, manifests: &Manifests, hash: &ContentHash) -> Option<Arc<Manifest>> {
    let inside = contents.get(hash).and_then(|content| content.manifest.clone());
    inside.map(Arc::new).or_else(|| manifests.known(hash))
}
