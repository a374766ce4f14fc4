//! Small chunks: kept in the metadata store at first, so that a commit of small files costs one sync and no pack, and
//! moved into a proper pack when enough have come together.

use super::{Result, Service};
use crate::blob::pack::Record;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Chunks of one request up to this sum are kept in the metadata store.
pub(super) const SMALL_SUM_MAX: usize = 256 * 1024;

/// When the metadata store holds more than this, a pack is due.
const FLUSH_AT: u64 = 8 * 1024 * 1024;

/// At most so much goes into one pack.
const FLUSH_LEN_MAX: u64 = 32 * 1024 * 1024;

/// How much has come together since the last look.
#[derive(Default)]
pub(super) struct Gauge {
    bytes: AtomicU64,
    due: Notify,
    flushing: tokio::sync::Mutex<()>,
}

impl Gauge {
    pub(super) fn add(&self, bytes: u64) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes >= FLUSH_AT {
            self.due.notify_one();
        }
    }
}

impl Service {
    /// Ends when enough small chunks have come together for a pack.
    pub async fn small_chunks_due(&self) {
        self.0.small.due.notified().await;
    }

    /// Learns how many bytes of small chunks an earlier run has left.
    pub async fn measure_small_chunks(&self) -> Result<u64> {
        let bytes = self.read(|tx| Ok(tx.small_bytes()?)).await?;
        self.0.small.bytes.store(0, Ordering::Relaxed);
        self.0.small.add(bytes);
        Ok(bytes)
    }

    /// Moves all small chunks into packs; answers how many. Readers find each of them at every moment: the pack is durable
    /// before the index changes, and the index changes in one step.
    pub async fn flush_small_chunks(&self) -> Result<usize> {
        let _only_one = self.0.small.flushing.lock().await;
        let mut moved = 0;
        loop {
            let count = self.flush_one_pack().await?;
            moved += count;
            if count == 0 {
                self.0.small.bytes.store(0, Ordering::Relaxed);
                return Ok(moved);
            }
        }
    }

    async fn flush_one_pack(&self) -> Result<usize> {
        let small = self.read(|tx| Ok(tx.small_chunks(FLUSH_LEN_MAX)?)).await?;
        let records = small
            .into_iter()
            .map(|chunk| Record { hash: chunk.hash, raw_len: chunk.raw_len, envelope: chunk.envelope })
            .collect();
        let packed = self.0.chunks.append(records).await?;
        let count = packed.len();
        self.write(move |tx| packed.iter().try_for_each(|chunk| Ok(tx.move_small(chunk)?))).await?;
        Ok(count)
    }
}
