//! The disk of one device: what survives the end of the process, and the less that survives a cut of its power.
//!
//! Models what the client's store does. A record is one append to a journal: a process that dies loses none, a power cut
//! leaves a prefix of those that were not synced. Staging files and cached contents have bytes and names that are synced
//! or not; after a cut each may be as it was, older, cut short, full of holes or gone, whatever became of the others.

use super::Rng;
use super::bytes::{PIECE, content_of};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::{ContentHash, NodeId};
use syncmount_engine::{Draft, Engine, Position, Record, Restored, Row};

/// What records add up to.
#[derive(Clone, Default)]
struct Kept {
    rows: BTreeMap<NodeId, Row>,
    position: Position,
    unanswered: Vec<NodeId>,
    retired: BTreeSet<u64>,
    /// Staging files whose bytes of this generation were synced.
    marks: BTreeMap<u64, u64>,
}

type Rows = Vec<(NodeId, Option<Row>)>;

/// One append to the journal.
#[derive(Clone)]
enum Entry {
    Record(Record, Rows),
    /// A retired staging file has been removed.
    Removed(u64),
    /// The bytes of a staging file, of this generation, are synced; or may be overwritten from now on.
    Marked(u64, Option<u64>),
}

impl Kept {
    fn apply(&mut self, entry: &Entry) {
        let (record, rows) = match entry {
            Entry::Record(record, rows) => (record, rows),
            Entry::Removed(id) => {
                self.retired.remove(id);
                self.marks.remove(id);
                return;
            }
            Entry::Marked(id, Some(generation)) => {
                self.marks.insert(*id, *generation);
                return;
            }
            Entry::Marked(id, None) => {
                self.marks.remove(id);
                return;
            }
        };
        for (id, row) in rows {
            match row {
                Some(row) => self.rows.insert(*id, row.clone()),
                None => self.rows.remove(id),
            };
        }
        if let Some(position) = record.position {
            self.position = position;
        }
        if let Some(unanswered) = &record.unanswered {
            self.unanswered.clone_from(unanswered);
        }
        self.retired.extend(&record.retired);
    }
}

/// A staging file.
#[derive(Clone, Debug, Default)]
struct Staged {
    bytes: Vec<u8>,
    /// What a power cut leaves at least.
    synced: Option<Vec<u8>>,
    name_synced: bool,
}

impl Staged {
    fn is_synced(&self) -> bool {
        self.synced.as_ref() == Some(&self.bytes)
    }

    /// Each piece has its new bytes, its old ones, or none.
    fn cut(&mut self, rng: &mut Rng) {
        if self.is_synced() {
            return;
        }
        let old = self.synced.clone().unwrap_or_default();
        match rng.below(5) {
            0 => {}
            1 => self.bytes.clone_from(&old),
            2 => {
                let len = rng.index(self.bytes.len() + 1);
                self.bytes.truncate(len);
            }
            _ => {
                for start in (0..self.bytes.len()).step_by(PIECE) {
                    let end = self.bytes.len().min(start + PIECE);
                    match (rng.below(3), old.get(start..end)) {
                        (0, _) => {}
                        (1, Some(old)) => self.bytes[start..end].copy_from_slice(old),
                        _ => self.bytes[start..end].fill(0),
                    }
                }
            }
        }
        self.synced = Some(self.bytes.clone());
    }
}

/// A cached content.
#[derive(Clone, Debug)]
struct Cached {
    bytes: Vec<u8>,
    synced: bool,
    /// Whether the bytes are known to be right: not after a power cut, until they have been read and compared.
    trusted: bool,
}

/// A staging file whose name went without a sync: a power cut may bring it back.
#[derive(Clone, Debug)]
struct Gone {
    file: Staged,
    /// It was renamed to this content.
    to: Option<ContentHash>,
}

/// The disk of a device.
#[derive(Clone, Default)]
pub struct Disk {
    now: Kept,
    durable: Kept,
    journal: Vec<Entry>,
    staging: BTreeMap<u64, Staged>,
    gone: BTreeMap<u64, Gone>,
    cache: BTreeMap<ContentHash, Cached>,
    next_staging: u64,
    generation: u64,
    /// The power was cut, and no session has ended in order since.
    pub suspect: bool,
    /// Planted fault: cached contents are trusted after a power cut.
    pub trusts_cache: bool,
    /// Contents of staging files that were set aside.
    pub lost_and_found: Vec<Vec<u8>>,
}

impl Disk {
    /// Keeps a record of this engine: it survives the process.
    pub fn keep(&mut self, engine: &Engine, record: Record) {
        let rows = engine.rows(&record).collect();
        self.append(Entry::Record(record, rows));
    }

    fn append(&mut self, entry: Entry) {
        self.now.apply(&entry);
        self.journal.push(entry);
    }

    /// Planted fault: the feed position is kept before what belongs to it.
    pub fn keep_cursor(&mut self, cursor: Cursor) {
        let position = Position { cursor: Some(cursor), ..self.now.position };
        let mut record = Record::default();
        record.position = Some(position);
        self.append(Entry::Record(record, Rows::new()));
    }

    /// Whether records wait to be folded.
    pub fn is_unfolded(&self) -> bool {
        !self.journal.is_empty()
    }

    /// All records survive a power cut from now on.
    pub fn sync_journal(&mut self) {
        self.durable = self.now.clone();
        self.journal.clear();
    }

    /// The bytes of a staging file and the names of all survive a power cut from now on.
    pub fn sync_staging(&mut self, id: Option<u64>) {
        if let Some(file) = id.and_then(|id| self.staging.get_mut(&id)) {
            file.synced = Some(file.bytes.clone());
        }
        self.staging.values_mut().for_each(|file| file.name_synced = true);
        self.gone.clear();
    }

    /// What the operating system does in its own time: some of what is not synced gets written.
    pub fn write_back(&mut self, rng: &mut Rng) {
        for file in self.staging.values_mut() {
            if rng.chance(300) {
                file.synced = Some(file.bytes.clone());
            }
            file.name_synced |= rng.chance(300);
        }
        self.cache.values_mut().for_each(|entry| entry.synced |= rng.chance(300));
        self.gone.retain(|_, _| !rng.chance(300));
    }

    /// The session ends in order.
    pub fn close(&mut self) {
        self.sync_journal();
        for file in self.staging.values_mut() {
            file.synced = Some(file.bytes.clone());
        }
        self.sync_staging(None);
        self.cache.values_mut().for_each(|entry| entry.synced = true);
        self.suspect = false;
    }

    /// The power is cut.
    pub fn cut(&mut self, rng: &mut Rng) {
        let len = self.journal.len();
        let left = match rng.below(4) {
            0 => 0,
            1 => len,
            _ => rng.index(len + 1),
        };
        for entry in std::mem::take(&mut self.journal).iter().take(left) {
            self.durable.apply(entry);
        }
        self.now = self.durable.clone();
        self.staging.retain(|_, file| file.name_synced || !rng.chance(300));
        for (id, gone) in std::mem::take(&mut self.gone) {
            if rng.chance(500) {
                gone.to.map(|hash| self.cache.remove(&hash));
                self.staging.insert(id, gone.file);
            }
        }
        for file in self.staging.values_mut() {
            file.cut(rng);
            file.name_synced = true;
        }
        self.cache.retain(|_, entry| entry.synced || !rng.chance(300));
        for entry in self.cache.values_mut() {
            if !entry.synced && rng.chance(400) {
                entry.bytes.truncate(rng.index(entry.bytes.len() + 1));
            }
            (entry.synced, entry.trusted) = (true, self.trusts_cache);
        }
        self.suspect = true;
    }

    /// The disk is set back to an earlier copy of it. Numbers that tell one thing from another go on.
    pub fn set_back(&mut self, backup: &Self) {
        let (next_staging, generation) = (self.next_staging, self.generation);
        *self = backup.clone();
        self.next_staging = self.next_staging.max(next_staging);
        self.generation = self.generation.max(generation);
        self.close();
        self.suspect = backup.suspect;
    }

    /// What an engine starts from. Staging files that were on their way out are gone.
    pub fn restore(&mut self) -> Restored {
        for id in self.now.retired.clone() {
            self.unstage(id);
        }
        let rows = self.now.rows.iter().map(|(id, row)| (*id, row.clone())).collect();
        let Position { cursor, ahead } = self.now.position;
        Restored { rows, cursor, ahead, unanswered: self.now.unanswered.clone() }
    }

    /// The kept rows.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.now.rows.values()
    }

    /// A number that no state of any draft has had on this device, as in the driver. Far apart, because a restart counts on
    /// by ones.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1000;
        self.generation
    }

    /// A new, empty staging file.
    pub fn stage(&mut self) -> u64 {
        self.next_staging += 1;
        self.staging.insert(self.next_staging, Staged::default());
        self.next_staging
    }

    /// Writes into a staging file. One whose name is gone ends with those who have it open.
    pub fn write(&mut self, staging: u64, at: usize, bytes: &[u8]) {
        let Some(file) = self.staging.get_mut(&staging) else { return };
        let end = at + bytes.len();
        if file.bytes.len() < end {
            file.bytes.resize(end, 0);
        }
        file.bytes[at..end].copy_from_slice(bytes);
    }

    /// Cuts a staging file off.
    pub fn truncate(&mut self, staging: u64, len: usize) {
        if let Some(file) = self.staging.get_mut(&staging) {
            file.bytes.truncate(len);
        }
    }

    /// The length of a staging file.
    pub fn staged_len(&self, staging: u64) -> Option<u64> {
        self.staging.get(&staging).map(|file| file.bytes.len() as u64)
    }

    /// The bytes of a draft are synced: after a power cut they count.
    pub fn mark(&mut self, staging: u64, generation: u64) {
        self.append(Entry::Marked(staging, Some(generation)));
    }

    /// They are about to be overwritten.
    pub fn unmark(&mut self, staging: u64) {
        if self.has_mark(staging) {
            self.append(Entry::Marked(staging, None));
            self.sync_journal();
        }
    }

    /// Whether a staging file has bytes that were promised.
    pub fn has_mark(&self, staging: u64) -> bool {
        self.now.marks.contains_key(&staging)
    }

    /// Whether a draft's bytes, of this very generation, were synced.
    pub fn is_marked(&self, draft: &Draft) -> bool {
        draft.staging.is_some_and(|id| self.now.marks.get(&id) == Some(&draft.generation))
    }

    /// The bytes of a draft: those in its staging file, else those of `base`, else zeros. `None` if bytes of either are
    /// needed and not there.
    pub fn draft_bytes(&self, draft: &Draft, base: Option<&[u8]>) -> Option<Arc<[u8]>> {
        let mut bytes = vec![0; draft.size as usize];
        let covered = draft.present.first().is_some_and(|range| *range == (0, draft.size)) || draft.size == 0;
        if let (Some(_), false) = (&draft.base, covered) {
            let base = base?;
            let len = (draft.base_len as usize).min(base.len()).min(bytes.len());
            bytes[..len].copy_from_slice(&base[..len]);
        }
        for (start, end) in draft.present.iter().map(|(start, end)| (*start as usize, (*end).min(draft.size) as usize))
        {
            let file = self.staging.get(&draft.staging?)?;
            bytes[start..end].copy_from_slice(file.bytes.get(start..end)?);
        }
        Some(bytes.into())
    }

    /// A staging file is not needed any more.
    pub fn unstage(&mut self, id: u64) {
        if let Some(file) = self.staging.remove(&id) {
            self.gone.insert(id, Gone { file, to: None });
        }
        self.append(Entry::Removed(id));
    }

    /// A staging file becomes a cached content, by a rename.
    pub fn adopt(&mut self, id: u64, hash: ContentHash, size: u64) {
        if let Some(mut file) = self.staging.remove(&id) {
            file.bytes.resize(size as usize, 0);
            let entry = Cached { bytes: file.bytes.clone(), synced: file.is_synced(), trusted: true };
            self.cache.insert(hash, entry);
            self.gone.insert(id, Gone { file, to: Some(hash) });
        }
        self.append(Entry::Removed(id));
    }

    /// A staging file that cannot be used, or belongs to nobody, is kept for its owner.
    pub fn set_aside(&mut self, id: u64) {
        if let Some(file) = self.staging.remove(&id).filter(|file| !file.bytes.is_empty()) {
            self.lost_and_found.push(file.bytes);
        }
    }

    /// Keeps a content that has been fetched.
    pub fn cache(&mut self, hash: ContentHash, bytes: &[u8]) {
        self.cache.entry(hash).or_insert_with(|| Cached { bytes: bytes.to_vec(), synced: false, trusted: true });
    }

    /// A cached content. One from before a power cut counts only if its bytes are right.
    pub fn cached(&self, hash: ContentHash) -> Option<&[u8]> {
        let entry = self.cache.get(&hash)?;
        (entry.trusted || content_of(&entry.bytes).hash == hash).then_some(&entry.bytes)
    }

    /// A cached content whose bytes would be given to a reader although they are other ones.
    pub fn wrong_byte(&self) -> Option<ContentHash> {
        self.cache
            .iter()
            .find(|(hash, entry)| entry.trusted && content_of(&entry.bytes).hash != **hash)
            .map(|(hash, _)| *hash)
    }

    /// Whether a kept row or a retirement still needs the staging file.
    pub fn refers(&self, staging: u64) -> bool {
        let needs = |row: &Row| {
            let draft = row.local.as_ref().and_then(|local| local.body.draft());
            draft.is_some_and(|draft| draft.staging == Some(staging))
        };
        self.now.retired.contains(&staging) || self.now.rows.values().any(needs)
    }

    /// Ids of all staging files, without those that go at the next start.
    pub fn stagings(&self) -> BTreeSet<u64> {
        self.staging.keys().copied().filter(|id| !self.now.retired.contains(id)).collect()
    }
}
