//! What is in the cache, how many bytes it takes, who was used last, and which contents are open.
//!
//! One short lock, never held across IO. Promises: what is reserved here never sums to more than the limit, except for what
//! was found on the disk at the start and not yet evicted; a content that is kept is no victim.

use super::entry::Entry;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
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
    /// What each content takes from the disk that may be evicted.
    charges: LruCache<ContentHash, u64>,
    /// The same of those that are kept.
    kept_charges: HashMap<ContentHash, u64>,
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

    /// What a content takes, which is about to change.
    fn charge_mut(&mut self, hash: &ContentHash) -> Option<&mut u64> {
        if self.kept_charges.contains_key(hash) { self.kept_charges.get_mut(hash) } else { self.charges.peek_mut(hash) }
    }

    fn charge(&mut self, hash: &ContentHash, charge: u64) {
        self.used += charge;
        self.charges.promote(hash);
        match self.charge_mut(hash) {
            Some(sum) => *sum += charge,
            None => self.put_charge(hash, charge),
        }
    }

    fn put_charge(&mut self, hash: &ContentHash, charge: u64) {
        if self.is_kept(hash) {
            self.kept_charges.insert(*hash, charge);
        } else {
            self.charges.put(*hash, charge);
        }
    }

    fn forget(&mut self, hash: &ContentHash) -> Option<Arc<Entry>> {
        self.used -= self.charges.pop(hash).or_else(|| self.kept_charges.remove(hash)).unwrap_or(0);
        self.open.pop(hash)
    }
}

impl Index {
    pub(super) fn new(limit: u64) -> Self {
        let tables = Tables {
            used: 0,
            charges: LruCache::unbounded(),
            kept_charges: HashMap::new(),
            kept: HashMap::new(),
            round: 0,
            open: LruCache::unbounded(),
        };
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

    /// A content is open from now on and counts `charge`, whatever was found of it on the disk: where holes take room, what
    /// is not there yet must not count twice once it comes.
    pub(super) fn opened(&self, entry: &Arc<Entry>, charge: u64) {
        let mut tables = self.tables.lock();
        if let Some(sum) = tables.charge_mut(entry.hash()) {
            let found = std::mem::replace(sum, charge);
            tables.used = tables.used - found + charge;
            tables.charges.promote(entry.hash());
        } else {
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
        if let Some(sum) = tables.charge_mut(hash) {
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

    /// A content is kept from now on, whether it is here yet or not. False if this round has said so already.
    pub(super) fn keep(&self, hash: &ContentHash) -> bool {
        let mut tables = self.tables.lock();
        let round = tables.round;
        let is_news = tables.kept.insert(mark(hash), round) != Some(round);
        if let Some(charge) = tables.charges.pop(hash) {
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
        let Tables { kept, kept_charges, charges, round, .. } = &mut *tables;
        kept.retain(|_, said| said == round);
        for (hash, charge) in kept_charges.extract_if(|hash, _| !kept.contains_key(&mark(hash))) {
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
