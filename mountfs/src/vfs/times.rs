//! Times that are kept here only, and for as long as the mount lasts.
//!
//! When entries of a directory were last changed: to send that would change the directory for all devices with every new
//! file. When a file was last read, if a program has set it: nothing here notes reads.

use super::Stat;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use syncmount_common::{NodeId, NodeKind, Timestamp};

/// Access times that are remembered; the ones that were asked for least recently are forgotten first.
const ATIMES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// When the entries of one directory were changed.
#[derive(Clone, Copy)]
struct Entries {
    /// By a program here; what other devices do is not the doing of anybody who looks at this.
    here: Option<Timestamp>,
    anywhere: Timestamp,
}

/// The times.
pub(super) struct Times {
    dirs: Mutex<HashMap<NodeId, Entries>>,
    atimes: Mutex<LruCache<NodeId, Timestamp>>,
}

impl Default for Times {
    fn default() -> Self {
        Self { dirs: Mutex::default(), atimes: Mutex::new(LruCache::new(ATIMES_MAX)) }
    }
}

impl Times {
    /// What `stat` shows.
    pub(super) fn of(&self, node: NodeId, mut stat: Stat) -> Stat {
        if stat.kind == NodeKind::Dir
            && let Some(entries) = self.dirs.lock().get(&node)
        {
            stat.mtime = entries.here.unwrap_or(stat.mtime);
            stat.atime = stat.mtime;
            stat.ctime = stat.ctime.max(entries.anywhere);
        }
        if let Some(atime) = self.atimes.lock().get(&node) {
            stat.atime = *atime;
        }
        stat
    }

    pub(super) fn entries_changed(&self, dir: NodeId, now: Timestamp) {
        self.dirs.lock().insert(dir, Entries { here: Some(now), anywhere: now });
    }

    pub(super) fn entries_came(&self, dir: NodeId, now: Timestamp) {
        self.dirs.lock().entry(dir).or_insert(Entries { here: None, anywhere: now }).anywhere = now;
    }

    /// The attributes that the tree has count from now on.
    pub(super) fn attrs_came(&self, node: NodeId) {
        if let Some(entries) = self.dirs.lock().get_mut(&node) {
            entries.here = None;
        }
    }

    /// A program has set the times, or some of them.
    pub(super) fn set_atime(&self, node: NodeId, atime: Option<Timestamp>, mtime: Option<Timestamp>) {
        match atime {
            Some(atime) if Some(atime) == mtime => drop(self.atimes.lock().pop(&node)),
            Some(atime) => drop(self.atimes.lock().put(node, atime)),
            None => {}
        }
    }

    /// The directory is gone.
    pub(super) fn forget(&self, dir: NodeId) {
        self.dirs.lock().remove(&dir);
    }
}
