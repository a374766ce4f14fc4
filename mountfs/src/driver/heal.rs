//! Bytes that the server has lost and that are on this machine.
//!
//! The server names contents and chunks of them in its pages. What the cache or the watched folder has of them is sent, one
//! content at a time, beside everything else. Each chunk is compared with its hash before it goes; nothing is fetched for it but
//! a manifest that is not here, and what is not here is left to other devices. The same is not tried again within [`PAUSE`],
//! whatever the server says.

use super::{Client, ItemId};
use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::protocol::changes::{WANTED_MAX, WantedContent};
use syncmount_common::{ChunkHash, Content, Extent};
use syncmount_engine::backoff::Backoff;
use tokio::sync::Notify;

/// How long it is before the same chunk is tried again.
const PAUSE: Duration = Duration::from_secs(60);

/// Chunks whose last try is remembered.
const TRIED_MAX: NonZeroUsize = NonZeroUsize::new(16 * WANTED_MAX).unwrap();

/// Contents that wait.
const QUEUE_MAX: usize = WANTED_MAX;

/// Chunks are sent so many bytes at a time.
const SEND_LEN: usize = 3 * 1024 * 1024;

/// How often sending is tried until the server asks again.
const TRIES: u32 = 5;

/// How long a manifest that is not here is waited for, and a server that cannot be reached.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the server has asked for.
pub(super) struct Healing {
    queue: Mutex<VecDeque<WantedContent>>,
    tried: Mutex<LruCache<ChunkHash, Instant>>,
    wake: Notify,
}

impl Default for Healing {
    fn default() -> Self {
        Self { queue: Mutex::default(), tried: Mutex::new(LruCache::new(TRIED_MAX)), wake: Notify::new() }
    }
}

impl Healing {
    /// Queues what has not been tried a moment ago; of a page that names more than a page may, the first part.
    pub(super) fn ask(&self, wanted: Vec<WantedContent>, now: Instant) {
        if wanted.is_empty() {
            return;
        }
        let (mut queue, mut tried) = (self.queue.lock(), self.tried.lock());
        let mut room = WANTED_MAX;
        for WantedContent { content, size, mut chunks } in wanted {
            chunks.truncate(room);
            room -= chunks.len();
            chunks.retain(|chunk| {
                let is_due = tried.get(chunk).is_none_or(|last| now.saturating_duration_since(*last) >= PAUSE);
                if is_due {
                    tried.put(*chunk, now);
                }
                is_due
            });
            if !chunks.is_empty() && queue.len() < QUEUE_MAX {
                queue.push_back(WantedContent { content, size, chunks });
            }
        }
        self.wake.notify_one();
    }

    /// All that waits.
    fn take(&self) -> VecDeque<WantedContent> {
        std::mem::take(&mut *self.queue.lock())
    }
}

/// Sends what is wanted and here.
pub(super) async fn run(client: Arc<Client>) {
    loop {
        client.healing.wake.notified().await;
        let mut queue = client.healing.take();
        // Once for all: small files cannot be looked up by their contents.
        let contents = queue.iter().map(|wanted| wanted.content).collect();
        let worker = client.clone();
        let holders = tokio::task::spawn_blocking(move || worker.holders(&contents)).await.unwrap_or_else(|error| {
            tracing::warn!("the folder could not be searched for what the server has lost: {error}");
            HashMap::new()
        });
        while let Some(wanted) = queue.pop_front() {
            let holder = holders.get(&wanted.content).copied();
            let mut backoff = Backoff::default();
            for _ in 0..TRIES {
                let (worker, lost) = (client.clone(), wanted.clone());
                let healed = tokio::task::spawn_blocking(move || worker.heal(lost, holder)).await;
                match healed.unwrap_or_else(|error| Err(error.to_string())) {
                    Ok(0) => break,
                    Ok(count) => {
                        tracing::info!(content = %wanted.content, "sent {count} chunks that the server had lost");
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(content = %wanted.content, "what the server has lost could not be sent: {error}");
                    }
                }
                tokio::time::sleep(backoff.failed(client.random())).await;
                client.link.wait_online(PATIENCE).await;
            }
        }
    }
}

impl Client {
    /// The server asks for bytes that it has lost.
    pub(super) fn is_asked_for(&self, wanted: Vec<WantedContent>) {
        self.healing.ask(wanted, Instant::now());
    }

    /// Sends those of the chunks that are in the cache or in the folder's `holder`; answers how many.
    fn heal(&self, wanted: WantedContent, holder: Option<ItemId>) -> Result<usize, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let content = Content { hash: wanted.content, size: wanted.size, sha256: None, manifest: None };
        let file = holder.map_or(Ok(None), |item| self.open_item(item)).map_err(|error| text(&error))?;
        if file.is_none() && self.cache.get(&content.hash).is_none() {
            return Ok(0);
        }
        let manifest = self.manifest(&content, Instant::now() + PATIENCE).map_err(|error| text(&error))?;
        let mut lost: HashSet<ChunkHash> = wanted.chunks.into_iter().collect();
        let (mut batch, mut len, mut sent) = (Vec::new(), 0, 0);
        for (offset, extent) in manifest.with_offsets() {
            let Extent::Chunk { hash, len: raw_len } = extent else { continue };
            if !lost.remove(&hash) {
                continue;
            }
            let here = self.sealed_here(file.as_ref(), &content, (offset, &hash, raw_len));
            let Some(sealed) = here.map_err(|error| text(&error))? else { continue };
            len += sealed.len();
            batch.push((hash, sealed));
            if len >= SEND_LEN {
                sent += self.give(&mut batch)?;
                len = 0;
            }
        }
        Ok(sent + self.give(&mut batch)?)
    }

    fn give(&self, batch: &mut Vec<(ChunkHash, Bytes)>) -> Result<usize, String> {
        let batch = std::mem::take(batch);
        if !batch.is_empty() {
            self.runtime.block_on(self.remote.put(&batch)).map_err(|error| error.to_string())?;
        }
        Ok(batch.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::ContentHash;

    fn wanted(content: u8, chunks: impl IntoIterator<Item = u32>) -> WantedContent {
        let chunks = chunks.into_iter().map(|chunk| ChunkHash::of(&chunk.to_le_bytes())).collect();
        WantedContent { content: ContentHash::from_bytes([content; 32]), size: 9, chunks }
    }

    #[test]
    fn the_same_is_not_tried_again_at_once_and_a_page_is_bounded() {
        let (healing, now) = (Healing::default(), Instant::now());
        healing.ask(vec![wanted(1, 0..3), wanted(2, 2..4)], now);
        assert_eq!(healing.take(), [wanted(1, 0..3), wanted(2, 3..4)], "a chunk is sent once");
        healing.ask(vec![wanted(1, 0..3)], now + PAUSE / 2);
        assert_eq!(healing.take(), []);
        healing.ask(vec![wanted(1, 0..3)], now + PAUSE);
        assert_eq!(healing.take(), [wanted(1, 0..3)]);
        healing.ask(vec![wanted(3, 10..10_000), wanted(4, 20_000..20_001)], now);
        assert_eq!(healing.take().iter().map(|wanted| wanted.chunks.len()).collect::<Vec<_>>(), [WANTED_MAX]);
        for content in 0..=255 {
            healing.ask((0..9).map(|part| wanted(content, [part + 9 * u32::from(content) + 30_000])).collect(), now);
        }
        assert_eq!(healing.take().len(), QUEUE_MAX);
    }
}
