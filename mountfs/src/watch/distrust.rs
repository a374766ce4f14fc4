//! After the machine stopped without warning: what is found in the folder may be what the disk had lost, not what its user did.
//!
//! A file that was saved or created in the last seconds can be its former self, empty, full of zeros, or not there at all. So
//! what the first look finds, written before this session and with other bytes than are known, does not replace what the server
//! has: both are kept, and what was emptied does not take the name. What that look misses is not taken for removed if it had
//! changed shortly before the machine stopped. Knows nothing of the disk.

use super::index::Index;
use crate::driver::ItemId;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{NodeId, Timestamp};
use syncmount_engine::{Body, Draft, Engine, FileBody, State};

/// What was changed so long before the last change of all may not have reached the disk, in nanoseconds: twice the time
/// after which systems write what is not synced.
const UNWRITTEN_NS: i64 = 60 * 1_000_000_000;

/// A file that is written all the time does not keep the first look from being over for longer.
const RESTLESS_FOR: Duration = Duration::from_secs(60);

/// What is distrusted.
#[derive(Debug)]
pub(crate) struct Distrust {
    /// What was written before is: this session began then.
    before: Timestamp,
    /// What has changed since is missed rather than removed.
    since: Timestamp,
    /// Items that the first look missed; `None` before it.
    lost: Option<HashSet<ItemId>>,
    /// What it found is told: from now on its user is believed.
    is_over: bool,
    begun: Instant,
}

impl Distrust {
    /// In a session that begins now, with the tree as it was kept.
    pub(crate) fn new(engine: &Engine, now: Timestamp) -> Self {
        let last =
            engine.ids().filter_map(|id| Some(engine.entry(id)?.changed)).filter(|changed| *changed <= now).max();
        let since = Timestamp(last.map_or(0, |last| last.0.saturating_sub(UNWRITTEN_NS)));
        Self { before: now, since, lost: None, is_over: false, begun: Instant::now() }
    }

    /// The first look missed these; what later ones miss was removed.
    pub(crate) fn first_look(&mut self, missing: impl Iterator<Item = ItemId>, index: &Index, engine: &Engine) {
        if self.lost.is_none() {
            let changed = |id: &ItemId| Some(engine.entry(index.node(*id)?)?.changed);
            let with_inner = |id| std::iter::once(id).chain(index.below(id, |_| true));
            let is_recent = |id: &ItemId| changed(id).is_some_and(|changed| changed >= self.since);
            self.lost = Some(missing.flat_map(with_inner).filter(is_recent).collect());
        }
    }

    /// What a look has found is told, and some files were `restless`: they are looked at once more.
    pub(crate) fn conclude(&mut self, restless: bool) {
        self.is_over |= self.lost.is_some() && (!restless || self.begun.elapsed() > RESTLESS_FOR);
    }

    /// Whether everything has been looked at.
    pub(crate) const fn has_looked(&self) -> bool {
        self.lost.is_some()
    }

    /// What a file that was found with other bytes is merged against: as if the server had just brought what it has. `found`
    /// is taken for older than that if it was emptied.
    pub(crate) fn edited(&self, engine: &Engine, node: NodeId, base: &mut Option<State>, found: &mut State) {
        let is_sent = |here: &&Arc<State>| matches!(here.body, Body::File(FileBody::Clean(_)));
        let Some(here) = engine.local(node).filter(is_sent) else { return };
        let is_draft = matches!(found.body, Body::File(FileBody::Draft(_)));
        let is_doubtful = !self.is_over && is_draft && found.attrs.mtime < self.before;
        if let Some(base) = base.as_mut().filter(|base| is_doubtful && base.body != found.body) {
            base.body = unknown();
            if found.body.size() == 0 && here.body.size() > 0 {
                found.attrs.mtime = found.attrs.mtime.min(here.attrs.mtime);
            }
        }
    }

    /// The same of an item that is gone.
    pub(crate) fn gone(&self, engine: &Engine, id: ItemId, node: NodeId, base: &mut Option<State>) {
        let is_lost = self.lost.as_ref().is_some_and(|lost| lost.contains(&id));
        // What the server does not have had its bytes in the folder only.
        let is_elsewhere = engine.local(node).is_some_and(|here| here.body.draft().is_none());
        if let Some(base) = base.as_mut().filter(|_| is_lost && is_elsewhere) {
            base.body = unknown();
        }
    }
}

/// Bytes that are those of no other body.
fn unknown() -> Body {
    Body::File(FileBody::Draft(Box::new(Draft { generation: u64::MAX, ..Draft::empty() })))
}
