//! Appends chunks to packs and reads them back.
//!
//! Appends that come while a pack is being written gather and share the next one, so that many small requests cost few
//! objects and few syncs. There is no background task and no timer: whoever has the turn writes for everybody who waits.

use super::pack::{Builder, Record};
use super::{BlobError, PackStore};
use crate::meta::{PackId, PackSlice, PackedChunk};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use syncmount_common::ChunkHash;
use tokio::sync::Semaphore;

/// A pack is closed when it has this many bytes.
const PACK_LEN_MAX: usize = 64 * 1024 * 1024;

/// Packs that are open for reading at the same time: each takes a file descriptor.
const READS_MAX: usize = 32;

/// Neighbours are read in one go up to this many bytes …
const RUN_LEN_MAX: u64 = 2 * 1024 * 1024;

/// … and across gaps up to this size: reading 64 KiB too much costs less than another request. No gap is longer than what is
/// wanted before it, so that half of what is read is wanted.
const GAP_LEN_MAX: u64 = 64 * 1024;

/// Chunks in packs.
pub struct ChunkStore {
    packs: Arc<dyn PackStore>,
    new_id: Box<dyn Fn() -> PackId + Send + Sync>,
    queue: Mutex<VecDeque<Arc<Waiting>>>,
    turn: tokio::sync::Mutex<()>,
    reads: Semaphore,
}

struct Waiting {
    records: Vec<Record>,
    result: Mutex<Option<Result<Vec<PackedChunk>, BlobError>>>,
}

impl Waiting {
    fn len(&self) -> usize {
        self.records.iter().map(Record::len).sum()
    }
}

/// Takes a caller that has gone away out of the queue.
struct Queued<'store> {
    store: &'store ChunkStore,
    waiting: Arc<Waiting>,
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.store.queue.lock().retain(|other| !Arc::ptr_eq(other, &self.waiting));
    }
}

impl ChunkStore {
    /// Chunks in the packs of `packs`; `new_id` names the new ones.
    pub fn new(packs: Arc<dyn PackStore>, new_id: impl Fn() -> PackId + Send + Sync + 'static) -> Self {
        let (queue, turn, reads) = (Mutex::default(), tokio::sync::Mutex::default(), Semaphore::new(READS_MAX));
        Self { packs, new_id: Box::new(new_id), queue, turn, reads }
    }

    /// Stores chunks. They are durable when their places are told.
    pub async fn append(&self, records: Vec<Record>) -> Result<Vec<PackedChunk>, BlobError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let waiting = Arc::new(Waiting { records, result: Mutex::default() });
        self.queue.lock().push_back(Arc::clone(&waiting));
        let queued = Queued { store: self, waiting };
        let _turn = self.turn.lock().await;
        loop {
            if let Some(result) = queued.waiting.result.lock().take() {
                return result;
            }
            self.write_next().await;
        }
    }

    /// Writes one pack of what is queued. Whoever is in it stays queued until it is written: if the caller that has the
    /// turn goes away, the next one starts over.
    async fn write_next(&self) {
        let group = self.next_group();
        let mut builder = Builder::default();
        let pack = (self.new_id)();
        let places: Vec<_> = places(&group, pack, &mut builder);
        let written = self.packs.put(pack, builder.finish()).await;
        for (waiting, chunks) in group.iter().zip(places) {
            *waiting.result.lock() = Some(written.clone().map(|()| chunks));
        }
        self.queue.lock().retain(|other| other.result.lock().is_none());
    }

    fn next_group(&self) -> Vec<Arc<Waiting>> {
        let mut room = PACK_LEN_MAX;
        let mut group = Vec::new();
        for waiting in self.queue.lock().iter() {
            if !group.is_empty() && waiting.len() > room {
                break;
            }
            room = room.saturating_sub(waiting.len());
            group.push(Arc::clone(waiting));
        }
        group
    }

    /// All packs and their lengths in bytes.
    pub async fn packs(&self) -> Result<Vec<(PackId, u64)>, BlobError> {
        self.packs.list().await
    }

    /// A whole pack. Packs are bounded, and so is this.
    pub async fn pack(&self, pack: PackId, len: u64) -> Result<Bytes, BlobError> {
        self.packs.read(pack, 0..len).await
    }

    /// Removes a pack whose chunks nothing names any more.
    pub async fn remove(&self, pack: PackId) -> Result<(), BlobError> {
        self.packs.remove(pack).await
    }

    /// Reads the slices of one run, in the order of the run.
    pub async fn read(&self, run: &Run) -> Result<Vec<Bytes>, BlobError> {
        // The semaphore is never closed.
        let _read = self.reads.acquire().await.ok();
        let bytes = self.packs.read(run.pack, run.range.clone()).await?;
        let part = |slice: &PackSlice| {
            let start = (slice.offset - run.range.start) as usize;
            bytes.slice(start..start + slice.len as usize)
        };
        Ok(run.slices.iter().map(part).collect())
    }
}

fn places(group: &[Arc<Waiting>], pack: PackId, builder: &mut Builder) -> Vec<Vec<PackedChunk>> {
    let mut known: HashMap<ChunkHash, u64> = HashMap::new();
    let mut place = |record: &Record| {
        let offset = *known.entry(record.hash).or_insert_with(|| builder.push(&record.hash, &record.envelope));
        let slice = PackSlice { pack, offset, len: record.envelope.len() as u32 };
        PackedChunk { hash: record.hash, raw_len: record.raw_len, slice }
    };
    group.iter().map(|waiting| waiting.records.iter().map(&mut place).collect()).collect()
}

/// Neighbouring slices of one pack, to be read in one go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Which pack.
    pub pack: PackId,
    /// What is read of it.
    pub range: Range<u64>,
    /// The slices wanted, in the order asked.
    pub slices: Vec<PackSlice>,
    /// Bytes of them.
    wanted: u64,
}

impl Run {
    fn of(slice: PackSlice) -> Self {
        let range = slice.offset..slice.offset + u64::from(slice.len);
        Self { pack: slice.pack, range, slices: vec![slice], wanted: u64::from(slice.len) }
    }

    fn takes(&mut self, slice: PackSlice) -> bool {
        let end = slice.offset + u64::from(slice.len);
        let gap_max = self.wanted.min(GAP_LEN_MAX);
        let near = slice.offset >= self.range.end && slice.offset - self.range.end <= gap_max;
        let fits = slice.pack == self.pack && near && end - self.range.start <= RUN_LEN_MAX;
        if fits {
            self.range.end = end;
            self.wanted += u64::from(slice.len);
            self.slices.push(slice);
        }
        fits
    }
}

/// Cuts a list of slices into runs; the order stays.
pub fn runs(slices: impl IntoIterator<Item = PackSlice>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for slice in slices {
        if !runs.last_mut().is_some_and(|run| run.takes(slice)) {
            runs.push(Run::of(slice));
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::{Fault, FaultyPacks, ObjectPacks, Operation};
    use super::*;
    use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

    fn ids() -> impl Fn() -> PackId {
        let next = AtomicU8::new(0);
        move || PackId([next.fetch_add(1, Ordering::Relaxed); 16])
    }

    fn record(text: &str) -> Record {
        let envelope = Bytes::copy_from_slice(text.as_bytes());
        Record { hash: ChunkHash::of(&envelope), raw_len: text.len() as u32, envelope }
    }

    #[tokio::test]
    async fn what_is_appended_together_shares_a_pack_and_reads_back() {
        let puts = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&puts);
        let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), move |operation| {
            count.fetch_add(usize::from(operation == Operation::Put), Ordering::Relaxed);
            None
        });
        let store = ChunkStore::new(Arc::new(packs), ids());
        let turn = store.turn.lock().await;
        let mut appends = futures::future::join_all(["a", "b", "a"].map(|text| store.append(vec![record(text)])));
        assert!(futures::poll!(&mut appends).is_pending());
        drop(turn);
        let places = appends.await.into_iter().map(|place| place.unwrap()[0]).collect::<Vec<_>>();
        assert_eq!(puts.load(Ordering::Relaxed), 1, "one pack for all");
        assert_eq!(places[0], places[2], "the same chunk is stored once");
        let run = Run::of(places[1].slice);
        assert_eq!(store.read(&run).await.unwrap(), ["b"]);
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_does_not_take_others_with_it() {
        let store = ChunkStore::new(Arc::new(ObjectPacks::in_memory()), ids());
        let turn = store.turn.lock().await;
        let mut gone = Box::pin(store.append(vec![record("gone")]));
        let mut stays = Box::pin(store.append(vec![record("stays")]));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut stays).is_pending());
        drop(gone);
        drop(turn);
        assert_eq!(stays.await.unwrap().len(), 1);
        assert!(store.queue.lock().is_empty());
    }

    #[tokio::test]
    async fn a_fault_reaches_everybody_who_waited_for_the_pack() {
        let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), |_| Some(Fault::Full));
        let store = ChunkStore::new(Arc::new(packs), ids());
        let both = futures::future::join(store.append(vec![record("a")]), store.append(vec![record("b")])).await;
        assert!(matches!(both, (Err(BlobError::Full), Err(BlobError::Full))));
        assert!(store.queue.lock().is_empty());
    }

    #[test]
    fn neighbours_are_read_in_one_go() {
        let slice = |pack, offset, len| PackSlice { pack: PackId([pack; 16]), offset, len };
        let first = slice(1, 0, GAP_LEN_MAX as u32);
        let near = slice(1, 2 * GAP_LEN_MAX, 10);
        let cut = runs([first, near, slice(2, 0, 1), slice(1, 0, 1), slice(1, 3, 1), slice(1, 1 << 30, 1)]);
        assert_eq!(cut.iter().map(|run| run.slices.len()).collect::<Vec<_>>(), [2, 1, 1, 1, 1]);
        assert_eq!(cut[0].range, 0..near.offset + 10);
        assert_eq!(runs([slice(1, 0, 3 << 20), slice(1, 3 << 20, 1)]).len(), 2, "runs are bounded");
    }
}
