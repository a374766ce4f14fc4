//! Chunks that the store has lost: which contents lack them, so that devices are asked for the bytes.
//!
//! A chunk that is taken out of the index is noted as lost in the same transaction. A survey looks for the contents that consist
//! of lost chunks, once for all of them, and notes those as wanted. Polls tell what is wanted, a part at a time; whatever device
//! has the bytes sends them, and the transaction that enters a chunk ends the search for it.

use super::{Result, Service};
use crate::meta::{FolderKey, ReadTx, WantedChunk, WriteTx};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use syncmount_common::protocol::changes::{WANTED_MAX, WantedContent};
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Manifest};
use tokio::sync::Notify;

/// Chunks that one survey is about, some 3 MiB.
const LOST_MAX: usize = 100_000;

/// A chunk is asked for by so many contents at most: with one of them it comes back for all.
const USES_MAX: usize = 4;

/// Devices of which it is known what they were told. Another one is told at once.
const DEVICES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// Manifests are read in pages of about so many bytes.
const PAGE_LEN: u64 = 16 * 1024 * 1024;

/// What is known in memory about losses.
pub(super) struct Losses {
    due: Notify,
    /// Grows when there is something to ask devices for, or more of it.
    asked: AtomicU64,
    /// What [`Self::asked`] was when a device was told of losses last.
    told: Mutex<LruCache<DeviceId, u64>>,
    /// Something has come back since the last survey: the device that had it may have more.
    heals: AtomicBool,
    /// Grows in each transaction that takes chunks out of the index.
    dropped: AtomicU64,
}

impl Default for Losses {
    fn default() -> Self {
        let told = Mutex::new(LruCache::new(DEVICES_MAX));
        Self {
            due: Notify::new(),
            asked: AtomicU64::new(1),
            told,
            heals: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
        }
    }
}

impl Losses {
    /// To be called in the transaction: what was looked up before it may be gone.
    pub(super) fn note_drop(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// How often chunks were taken out of the index. Exact inside of a transaction.
    pub(super) fn drops(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How often there was something to ask for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether a device's poll need not be held, because a page of it with something to ask for would be news: it was not told
    /// since [`Self::asked`] was `asked`. It counts as told then.
    pub(super) fn is_news(&self, device: Option<DeviceId>, asked: u64) -> bool {
        device.is_some_and(|device| self.told.lock().put(device, asked) != Some(asked))
    }

    /// A lost chunk that a content lacked is there again.
    pub(super) fn note_healed(&self) {
        self.heals.store(true, Ordering::Relaxed);
        self.due.notify_one();
    }

    /// There are lost chunks whose contents have not been looked for.
    pub(super) fn survey_is_due(&self) {
        self.due.notify_one();
    }
}

impl Service {
    /// Ends when [`Self::survey_losses`] has something to do. What an earlier process has left is not told.
    pub async fn survey_due(&self) {
        self.0.losses.due.notified().await;
    }

    /// Looks for the contents that lack lost chunks, and has devices asked for them; answers how many chunks were lost. If some
    /// came back since the last time, devices are asked for more: as they send what they were told, pages go on with the rest.
    pub async fn survey_losses(&self) -> Result<usize> {
        if self.0.losses.heals.swap(false, Ordering::Relaxed) {
            self.0.losses.asked.fetch_add(1, Ordering::Relaxed);
            self.0.wake.all();
        }
        let lost = self.read(|tx| Ok(tx.lost(LOST_MAX)?)).await?;
        if lost.is_empty() {
            return Ok(0);
        }
        let chunks = Arc::new(lost.iter().copied().collect());
        let uses = self.uses_of(chunks, USES_MAX).await?;
        let contents: HashSet<_> = uses.iter().map(|(content, _)| *content).collect();
        let folders = self.read(move |tx| Ok(tx.folders_with(&contents)?)).await?;
        let keys: BTreeSet<_> = folders.iter().map(|(folder, _)| folder.0).collect();
        let (count, is_full) = (lost.len(), lost.len() == LOST_MAX);
        let job = move |tx: &dyn WriteTx| {
            let mut used: HashMap<ContentHash, Vec<ChunkHash>> = HashMap::new();
            for (content, chunk) in uses {
                used.entry(content).or_default().push(chunk);
            }
            for (folder, content) in folders {
                let chunks = used.get(&content).into_iter().flatten();
                chunks.into_iter().try_for_each(|chunk| tx.want(folder, &content, chunk))?;
            }
            Ok(tx.looked_for(&lost)?)
        };
        let service = self.clone();
        self.transact(job, move |()| service.ask_devices(keys.into_iter().map(FolderKey))).await?;
        if is_full {
            self.0.losses.survey_is_due();
        }
        Ok(count)
    }

    /// Answers the polls that are held for these folders.
    fn ask_devices(&self, folders: impl IntoIterator<Item = FolderKey>) {
        self.0.losses.asked.fetch_add(1, Ordering::Relaxed);
        folders.into_iter().for_each(|folder| self.0.wake.changed(folder));
    }

    /// Contents that consist of these chunks, at most `uses_max` of them for each. Reads every manifest.
    pub(super) async fn uses_of(
        &self,
        chunks: Arc<HashSet<ChunkHash>>,
        uses_max: usize,
    ) -> Result<Vec<(ContentHash, ChunkHash)>> {
        let mut uses = Vec::new();
        let mut counts: HashMap<ChunkHash, usize> = HashMap::new();
        let mut after = 0;
        loop {
            let chunks = Arc::clone(&chunks);
            let (last, found) = self.read(move |tx| page(tx, after, &chunks)).await?;
            for (content, chunk) in found {
                let count = counts.entry(chunk).or_default();
                *count += 1;
                if *count <= uses_max {
                    uses.push((content, chunk));
                }
            }
            match last {
                Some(last) => after = last,
                None => return Ok(uses),
            }
        }
    }
}

type Uses = Vec<(ContentHash, ChunkHash)>;

/// What the contents of one page have of these chunks, and the page's last row; none behind the last page.
fn page(tx: &dyn ReadTx, after: i64, chunks: &HashSet<ChunkHash>) -> Result<(Option<i64>, Uses)> {
    let page = tx.contents_after(after, PAGE_LEN)?;
    let mut uses = Vec::new();
    for content in &page {
        // One that cannot be read is for a check to tell.
        let Ok(manifest) = Manifest::decode(&content.manifest) else { continue };
        let mut seen = HashSet::new();
        let here = manifest.chunks().map(|(hash, _)| hash).filter(|hash| chunks.contains(hash) && seen.insert(*hash));
        uses.extend(here.map(|hash| (content.hash, hash)));
    }
    Ok((page.last().map(|content| content.key), uses))
}

/// Some of what a folder's contents lack, beginning at any of them so that all are told in the course of time.
pub(super) fn wanted(tx: &dyn ReadTx, folder: FolderKey, from: &ContentHash) -> Result<Vec<WantedContent>> {
    let mut found = tx.wanted(folder, from, WANTED_MAX)?;
    if found.len() < WANTED_MAX {
        let begin = tx.wanted(folder, &ContentHash::from_bytes([0; 32]), WANTED_MAX - found.len())?;
        found.extend(begin.into_iter().take_while(|wanted| wanted.content < *from));
    }
    let mut wanted: Vec<WantedContent> = Vec::new();
    for WantedChunk { content, size, chunk } in found {
        match wanted.last_mut().filter(|last| last.content == content) {
            Some(last) => last.chunks.push(chunk),
            None => wanted.push(WantedContent { content, size, chunks: vec![chunk] }),
        }
    }
    Ok(wanted)
}
