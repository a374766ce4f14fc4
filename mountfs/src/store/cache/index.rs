//! What is in the cache, how many bytes it takes, who was used last, and which contents are open.
//!
//! One short lock, never held across IO. Promises: what is reserved here never sums to more than the limit, except for what
//! was found on the disk at the start and not yet evicted; a content that is kept is no victim.

use super::entry::Entry;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use syncmount_common::ContentHash;

/// Contents that nobody uses are kept open up to this number: opening one again takes longer than a read.
const IDLE_OPEN_MAX: usize = 128;

pub(super) struct Index {
    limit: u64,
    /// Bytes of the limit that other files have than those of contents.
    beside: AtomicU64,
    tables: Mutex<Tables>,
}

struct Tables {
    used: u64,
    /// What each content takes from the disk that may be evicted.
    charges: LruCache<ContentHash, u64>,
    /// The same of those that are kept, and their sum.
    kept_charges: HashMap<ContentHash, u64>,
    kept_sum: u64,
    /// What the maps of partial contents take from the disk, and their sum. It is not part of `used`: a map must not take the
    /// room of the chunk that it is about.
    maps: HashMap<ContentHash, u64>,
    maps_sum: u64,
    /// What is kept, by a part of its hash (two that share it are both kept), and the round that has said so last.
    kept: HashMap<u64, u64>,
    round: u64,
    open: LruCache<ContentHash, Arc<Entry>>,
}

fn mark(hash: &ContentHash) -> u64 {
    hash.as_bytes().iter().take(8).fold(0, |mark, byte| mark << 8 | u64::from(*byte))
}

impl Tables {
    fn is_in_use(&self, hash: &ContentHash) -> bool {
        self.open.peek(hash).is_some_and(|entry| Arc::strong_count(entry) > 1)
    }

    fn is_kept(&self, hash: &ContentHash) -> bool {
        self.kept.contains_key(&mark(hash))
    }

    fn is_counted(&self, hash: &ContentHash) -> bool {
        self.charges.contains(hash) || self.kept_charges.contains_key(hash)
    }

    /// What a content is counted as.
    fn counted(&self, hash: &ContentHash) -> Option<u64> {
        self.kept_charges.get(hash).or_else(|| self.charges.peek(hash)).copied()
    }

    /// Counts a content as `charge` from now on, in the place of what it was counted as.
    fn count(&mut self, hash: &ContentHash, charge: u64) {
        let before = self.counted(hash).unwrap_or(0);
        self.used = self.used - before + charge;
        if self.kept_charges.contains_key(hash) || (!self.charges.contains(hash) && self.is_kept(hash)) {
            self.kept_sum = self.kept_sum - before + charge;
            self.kept_charges.insert(*hash, charge);
        } else if let Some(sum) = self.charges.peek_mut(hash) {
            *sum = charge;
        } else {
            self.charges.put(*hash, charge);
        }
    }

    fn charge(&mut self, hash: &ContentHash, charge: u64) {
        self.charges.promote(hash);
        self.count(hash, self.counted(hash).unwrap_or(0) + charge);
    }

    fn set_map(&mut self, hash: &ContentHash, charge: Option<u64>) {
        let before = match charge {
            Some(charge) => self.maps.insert(*hash, charge),
            None => self.maps.remove(hash),
        };
        self.maps_sum = self.maps_sum - before.unwrap_or(0) + charge.unwrap_or(0);
    }

    /// What cannot be evicted, without one content.
    fn in_use(&self, except: Option<&ContentHash>) -> u64 {
        let charge = |hash: &ContentHash| self.charges.peek(hash).copied().unwrap_or(0);
        let open = self.open.iter().filter(|(hash, entry)| Arc::strong_count(entry) > 1 && Some(*hash) != except);
        let kept = except.and_then(|hash| self.kept_charges.get(hash)).copied().unwrap_or(0);
        open.map(|(hash, _)| charge(hash)).sum::<u64>().saturating_add(self.kept_sum - kept)
    }

    fn forget(&mut self, hash: &ContentHash) -> Option<Arc<Entry>> {
        self.set_map(hash, None);
        if let Some(charge) = self.kept_charges.remove(hash) {
            self.kept_sum -= charge;
            self.used -= charge;
        }
        self.used -= self.charges.pop(hash).unwrap_or(0);
        self.open.pop(hash)
    }
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        let tables = Tables {
            used: 0,
            charges: LruCache::unbounded(),
            kept_charges: HashMap::new(),
            kept_sum: 0,
            maps: HashMap::new(),
            maps_sum: 0,
            kept: HashMap::new(),
            round: 0,
            open: LruCache::unbounded(),
        };
        Self { limit, beside: AtomicU64::new(0), tables: Mutex::new(tables) }
    }

    pub(super) fn used(&self) -> u64 {
        self.tables.lock().used
    }

    pub(super) const fn limit(&self) -> u64 {
        self.limit
    }

    /// Other files have so many bytes of the limit. They leave at least half of it to contents.
    pub(super) fn set_beside(&self, bytes: u64) {
        self.beside.store(bytes.min(self.limit / 2), Ordering::Relaxed);
    }

    /// The part of the limit that contents may fill.
    pub(super) fn room(&self) -> u64 {
        self.limit - self.beside.load(Ordering::Relaxed)
    }

    /// The same, with a tenth of the limit for what is not kept, whatever is kept.
    fn room_in(&self, tables: &Tables) -> u64 {
        self.room().max(tables.kept_sum.saturating_add(self.limit / 10)).min(self.limit)
    }

    /// Whether so many bytes more were too many.
    pub(super) fn is_over(&self, more: u64) -> bool {
        let tables = self.tables.lock();
        tables.used.saturating_add(more) > self.room_in(&tables)
    }

    /// Bytes that the maps of partial contents take from the disk.
    pub(super) fn maps(&self) -> u64 {
        self.tables.lock().maps_sum
    }

    /// What the map of a content takes from now on, if it has one.
    pub(super) fn set_map(&self, hash: &ContentHash, charge: Option<u64>, entry: Option<&Entry>) {
        let mut tables = self.tables.lock();
        if !entry.is_some_and(Entry::is_detached) {
            tables.set_map(hash, charge);
        }
    }

    /// Whether there is room for a content of this charge once everything else is evicted that can be.
    pub(super) fn can_hold(&self, charge: u64) -> bool {
        let tables = self.tables.lock();
        let room = self.room_in(&tables);
        tables.used.saturating_add(charge) <= room || tables.in_use(None).saturating_add(charge) <= room
    }

    /// How much this content may have once everything else is evicted that can be, or `enough` if there is room for that now.
    pub(super) fn spare(&self, hash: &ContentHash, enough: u64) -> u64 {
        let tables = self.tables.lock();
        let room = self.room_in(&tables);
        if tables.used.saturating_add(enough) <= room {
            return enough;
        }
        room.saturating_sub(tables.in_use(Some(hash)))
    }

    /// The content if it is open; it counts as just used.
    pub(super) fn touch(&self, hash: &ContentHash) -> Option<Arc<Entry>> {
        let mut tables = self.tables.lock();
        tables.charges.promote(hash);
        tables.open.get(hash).cloned()
    }

    /// A content is open from now on and counts `charge`, whatever was found of it on the disk: where holes take room, what
    /// is not there yet must not count twice once it comes.
    pub(super) fn opened(&self, entry: &Arc<Entry>, charge: u64) {
        let mut tables = self.tables.lock();
        tables.charges.promote(entry.hash());
        tables.count(entry.hash(), charge);
        tables.open.put(*entry.hash(), entry.clone());
    }

    /// Counts bytes that are about to be written, if the limit allows.
    pub(super) fn reserve(&self, hash: &ContentHash, charge: u64, entry: Option<&Entry>) -> bool {
        let mut tables = self.tables.lock();
        if entry.is_some_and(Entry::is_detached) {
            return true;
        }
        let fits = tables.used.saturating_add(charge) <= self.room_in(&tables);
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
        if let Some(sum) = tables.counted(hash) {
            tables.count(hash, sum.saturating_sub(charge));
        }
    }

    /// What was counted as `before` takes `after` bytes.
    pub(super) fn recharge(&self, hash: &ContentHash, before: u64, after: u64, entry: &Entry) {
        let mut tables = self.tables.lock();
        if entry.is_detached() {
            return;
        }
        if let Some(sum) = tables.counted(hash) {
            tables.count(hash, sum.saturating_sub(before) + after);
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

    /// A content is kept from now on, whether it is here yet or not. False if this round has said so already.
    pub(super) fn keep(&self, hash: &ContentHash) -> bool {
        let mut tables = self.tables.lock();
        let round = tables.round;
        let is_news = tables.kept.insert(mark(hash), round) != Some(round);
        if let Some(charge) = tables.charges.pop(hash) {
            tables.kept_sum += charge;
            tables.kept_charges.insert(*hash, charge);
        }
        is_news
    }

    pub(super) fn is_kept(&self, hash: &ContentHash) -> bool {
        self.tables.lock().is_kept(hash)
    }

    /// From now on it is said anew what is kept.
    pub(super) fn begin_round(&self) {
        self.tables.lock().round += 1;
    }

    /// It was said: everything else may be evicted.
    pub(super) fn end_round(&self) {
        let mut tables = self.tables.lock();
        let Tables { kept, kept_charges, kept_sum, charges, round, .. } = &mut *tables;
        kept.retain(|_, said| said == round);
        for (hash, charge) in kept_charges.extract_if(|hash, _| !kept.contains_key(&mark(hash))) {
            *kept_sum -= charge;
            charges.put(hash, charge);
        }
    }

    /// The content that was not used for the longest time, that nobody has open and that is not kept.
    pub(super) fn victim(&self) -> Option<ContentHash> {
        let mut tables = self.tables.lock();
        for _ in 0..tables.charges.len() {
            let (hash, _) = tables.charges.peek_lru()?;
            let hash = *hash;
            if !tables.is_in_use(&hash) {
                return Some(hash);
            }
            // In use is as good as just used; and the next search need not pass it again.
            tables.charges.promote(&hash);
        }
        None
    }

    /// Forgets a content unless somebody has it open by now.
    pub(super) fn forget_unused(&self, hash: &ContentHash) -> bool {
        let mut tables = self.tables.lock();
        if tables.is_in_use(hash) {
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
        if tables.is_in_use(hash) { None } else { tables.open.pop(hash) }
    }

    /// Every content that is open.
    pub(super) fn all_open(&self) -> Vec<Arc<Entry>> {
        self.tables.lock().open.iter().map(|(_, entry)| entry.clone()).collect()
    }

    /// Contents that are open, not whole and not kept. The others must not be held even for a moment: they would pass for
    /// ones that somebody uses.
    pub(super) fn open_partial(&self) -> Vec<Arc<Entry>> {
        let tables = self.tables.lock();
        let open = tables.open.iter().map(|(_, entry)| entry);
        open.filter(|entry| !entry.is_whole() && !tables.is_kept(entry.hash())).cloned().collect()
    }

    /// Contents found on the disk, the most recently used first. They count as used before everything known so far.
    pub(super) fn add_older(&self, found: &[(ContentHash, u64)]) {
        let mut tables = self.tables.lock();
        for (hash, charge) in found {
            if !tables.is_counted(hash) {
                tables.charge(hash, *charge);
                tables.charges.demote(hash);
            }
        }
    }
}
