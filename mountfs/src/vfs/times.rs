//! Times that are kept here only, and for as long as the mount lasts: when a file was last read, if a program has set it.
//! Nothing here notes reads.

use super::Stat;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use syncmount_common::{NodeId, Timestamp};

/// Access times that are remembered; the ones that were asked for least recently are forgotten first.
const ATIMES_MAX: NonZeroUsize = NonZeroUsize::new(65_536).unwrap();

/// The times.
pub(super) struct Times {
    atimes: Mutex<LruCache<NodeId, Timestamp>>,
}

impl Default for Times {
    fn default() -> Self {
        Self { atimes: Mutex::new(LruCache::new(ATIMES_MAX)) }
    }
}

impl Times {
    /// What `stat` shows.
    pub(super) fn of(&self, node: NodeId, mut stat: Stat) -> Stat {
        if let Some(atime) = self.atimes.lock().get(&node) {
            stat.atime = *atime;
        }
        stat
    }

    /// A program has set the times, or some of them.
    pub(super) fn set_atime(&self, node: NodeId, atime: Option<Timestamp>, mtime: Option<Timestamp>) {
        match atime {
            Some(atime) if Some(atime) == mtime => drop(self.atimes.lock().pop(&node)),
            Some(atime) => drop(self.atimes.lock().put(node, atime)),
            None => {}
        }
    }
}
