//! What is in the cache, how many bytes it takes, who was used last, and which contents are open.
//!
//! One short lock, never held across IO. Promise: what is reserved here never sums to more than the limit, except for what
//! was found on the disk at the start and not yet evicted.

use super::entry::Entry;
use lru::LruCache;
use parking_lot::Mutex;
use std::sync::Arc;
use syncmount_common::ContentHash;

/// Contents that nobody uses are kept open up to this number: opening one again takes longer than a read.
const IDLE_OPEN_MAX: usize = 128;

pub(super) struct Index {
    limit: u64,
    tables: Mutex<Tables>,
}

struct Tables {
    used: u64,
    /// What each content takes from the disk.
    charges: LruCache<ContentHash, u64>,
    open: LruCache<ContentHash, Arc<Entry>>,
}

impl Tables {
    fn is_pinned(&self, hash: &ContentHash) -> bool {
        self.open.peek(hash).is_some_and(|entry| Arc::strong_count(entry) > 1)
    }

    fn charge(&mut self, hash: &ContentHash, charge: u64) {
        self.used += charge;
        match self.charges.get_mut(hash) {
            Some(sum) => *sum += charge,
            None => drop(self.charges.put(*hash, charge)),
        }
    }

    fn forget(&mut self, hash: &ContentHash) -> Option<Arc<Entry>> {
        self.used -= self.charges.pop(hash).unwrap_or(0);
        self.open.pop(hash)
    }
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        let tables = Tables { used: 0, charges: LruCache::unbounded(), open: LruCache::unbounded() };
        Self { limit, tables: Mutex::new(tables) }
    }

    pub(super) fn used(&self) -> u64 {
        self.tables.lock().used
    }

    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn is_over(&self) -> bool {
        self.used() > self.limit
    }

    /// The content if it is open; it counts as just used.
    pub(super) fn touch(&self, hash: &ContentHash) -> Option<Arc<Entry>> {
        let mut tables = self.tables.lock();
        tables.charges.promote(hash);
        tables.open.get(hash).cloned()
    }

    /// The content is open from now on. One that was found on the disk costs `charge` unless it was counted already.
    pub(super) fn opened(&self, entry: &Arc<Entry>, charge: u64) {
        let mut tables = self.tables.lock();
        if tables.charges.get(entry.hash()).is_none() {
            tables.charge(entry.hash(), charge);
        }
        tables.open.put(*entry.hash(), entry.clone());
    }

    /// Counts bytes that are about to be written, if the limit allows.
    pub(super) fn reserve(&self, hash: &ContentHash, charge: u64, entry: Option<&Entry>) -> bool {
        let mut tables = self.tables.lock();
        if entry.is_some_and(Entry::is_detached) {
            return true;
        }
        let fits = tables.used.saturating_add(charge) <= self.limit;
        if fits {
            tables.charge(hash, charge);
        }
        fits
    }

    /// Bytes that were counted are not there (any more).
    pub(super) fn release(&self, hash: &ContentHash, charge: u64, entry: Option<&Entry>) {
        let mut tables = self.tables.lock();
        if entry.is_some_and(Entry::is_detached) {
            return;
        }
        if let Some(sum) = tables.charges.peek_mut(hash) {
            let charge = charge.min(*sum);
            *sum -= charge;
            tables.used -= charge;
        }
    }

    /// Forgets a content. Whoever has it open goes on without being counted.
    pub(super) fn detach(&self, hash: &ContentHash) {
        let mut tables = self.tables.lock();
        let entry = tables.forget(hash);
        if let Some(entry) = &entry {
            entry.detach();
        }
        drop(tables);
    }

    /// The content that was not used for the longest time and that nobody has open.
    pub(super) fn victim(&self) -> Option<ContentHash> {
        let mut tables = self.tables.lock();
        for _ in 0..tables.charges.len() {
            let (hash, _) = tables.charges.peek_lru()?;
            let hash = *hash;
            if !tables.is_pinned(&hash) {
                return Some(hash);
            }
            // In use is as good as just used; and the next search need not pass it again.
            tables.charges.promote(&hash);
        }
        None
    }

    /// Forgets a content unless somebody has it open by now.
    pub(super) fn forget_unpinned(&self, hash: &ContentHash) -> bool {
        let mut tables = self.tables.lock();
        if tables.is_pinned(hash) {
            return false;
        }
        let entry = tables.forget(hash);
        drop(tables);
        // Closing a file takes time; it is done without the lock.
        drop(entry);
        true
    }

    /// Open contents that nobody uses and that are too many, the longest unused first.
    pub(super) fn idle(&self) -> Option<ContentHash> {
        let mut tables = self.tables.lock();
        let excess = tables.open.len().saturating_sub(IDLE_OPEN_MAX);
        for _ in 0..excess {
            let (hash, entry) = tables.open.peek_lru()?;
            if Arc::strong_count(entry) == 1 {
                return Some(*hash);
            }
            let hash = *hash;
            tables.open.promote(&hash);
        }
        None
    }

    /// Takes a content out of the open ones unless somebody uses it by now.
    pub(super) fn take_idle(&self, hash: &ContentHash) -> Option<Arc<Entry>> {
        let mut tables = self.tables.lock();
        if tables.is_pinned(hash) { None } else { tables.open.pop(hash) }
    }

    /// Every content that is open.
    pub(super) fn all_open(&self) -> Vec<Arc<Entry>> {
        self.tables.lock().open.iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// Contents that are open and not whole. The others must not be held even for a moment: they would pass for pinned.
    pub(super) fn open_partial(&self) -> Vec<Arc<Entry>> {
        let tables = self.tables.lock();
        tables.open.iter().map(|(_, entry)| entry).filter(|entry| !entry.is_whole()).cloned().collect()
    }

    /// Contents found on the disk, the most recently used first. They count as used before everything known so far.
    pub(super) fn add_older(&self, found: &[(ContentHash, u64)]) {
        let mut tables = self.tables.lock();
        for (hash, charge) in found {
            if !tables.charges.contains(hash) {
                tables.charge(hash, *charge);
                tables.charges.demote(hash);
            }
        }
    }
}
