//! What this client keeps on the disk, in bytes: for the status, and so that contents fill what the others leave of the limit.
//!
//! Contents, their manifests and the records of the tree share the limit, and contents give way. What is not sent yet, what is
//! open and what lies in `lost+found` may exceed it: it exists nowhere else.

use super::Client;
use std::io;
use std::time::{Duration, Instant};

/// What was counted is not counted again for this long, and for so many times as long as it took.
const FRESH: Duration = Duration::from_millis(200);
const FRESH_TIMES: u32 = 20;

/// How much the records may grow, in parts of the limit, before it is judged again what can be kept of pinned files.
const GROWTH_PARTS: u64 = 20;

/// What was counted last, and when that is to be done again.
#[derive(Default)]
pub(super) struct Counted {
    aside: u64,
    until: Option<Instant>,
}

impl Client {
    /// Bytes that all files of this client take from the disk, as far as they have been counted.
    pub fn kept_bytes(&self) -> u64 {
        let own = self.cache.used() + self.cache.maps() + self.manifests.bytes();
        own.saturating_add(self.counted_aside())
    }

    /// Staging, `lost+found` and the records: the first may be many files.
    fn counted_aside(&self) -> u64 {
        let mut counted = self.counted.lock();
        let begun = Instant::now();
        if counted.until.is_some_and(|until| until > begun) {
            return counted.aside;
        }
        let found = self.staging.stored_bytes().and_then(|bytes| Ok(bytes + self.state.stored_bytes()?));
        match found {
            Ok(bytes) => counted.aside = bytes,
            Err(error) => tracing::warn!(%error, "what is kept on this disk cannot be counted"),
        }
        counted.until = Some(Instant::now() + FRESH.max(begun.elapsed() * FRESH_TIMES));
        counted.aside
    }

    /// Leaves the room to contents that manifests and records do not take.
    pub(super) fn share_limit(&self) -> io::Result<()> {
        self.prune_manifests()?;
        let before = self.cache.room();
        self.cache.set_beside(self.cache.maps() + self.manifests.bytes() + self.state.stored_bytes()?)?;
        if self.cache.room() + self.cache.limit() / GROWTH_PARTS < before {
            self.pins.names_changed();
        }
        Ok(())
    }
}
