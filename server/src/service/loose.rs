//! Chunks of uploads that were given up: they came alone, no content names them, and they go after a week.
//!
//! A pack whose chunks are stored without a commit is noted as *loose*, with the token that brought it; the commit of a content
//! that names one of them ends that. An upload that takes longer than a week keeps its packs as long as it goes on: those of a
//! token that has brought another loose one within a day stay. Before a pack goes, all contents are looked through for its
//! chunks. A pack goes as a whole or not at all.

use super::{Result, Service};
use crate::meta::{PackKey, WriteTx};
use std::collections::HashSet;
use std::sync::Arc;
use syncmount_common::{ChunkHash, Timestamp};

/// How long a loose pack stays.
const KEPT_NS: i64 = 7 * DAY_NS;

/// For how long after its last loose pack an upload counts as going on.
const ACTIVE_NS: i64 = DAY_NS;

const DAY_NS: i64 = 24 * 3_600_000_000_000;

/// Packs that are looked at for one transaction …
const PACKS_MAX: usize = 10_000;

/// … with so many chunks, or one pack: some MB of hashes. All manifests are read once for them.
const CHUNKS_MAX: usize = 200_000;

impl Service {
    /// Drops what has been loose for a week; answers how many packs were removed.
    pub async fn drop_given_up(&self) -> Result<u64> {
        let now = self.0.environment.now().0;
        let ago = |time: i64| Timestamp(now.saturating_sub(time));
        let (until, active) = (ago(KEPT_NS), ago(ACTIVE_NS));
        loop {
            let stale = self.read(move |tx| Ok(tx.stale_packs(until, active, PACKS_MAX)?)).await?;
            if stale.is_empty() {
                return self.remove_empty_packs().await;
            }
            self.drop_unused(stale).await?;
        }
    }

    /// Of as many of the packs as may be looked at, drops those of which no content names a chunk; the others are no longer loose.
    async fn drop_unused(&self, packs: Vec<PackKey>) -> Result<()> {
        let packs = self
            .read(move |tx| {
                let (mut taken, mut count) = (Vec::new(), 0);
                for pack in packs {
                    let chunks = tx.chunks_in(pack)?;
                    count += chunks.len();
                    taken.push((pack, chunks));
                    if count >= CHUNKS_MAX {
                        break;
                    }
                }
                Ok(taken)
            })
            .await?;
        let chunks = packs.iter().flat_map(|(_, chunks)| chunks.iter().copied()).collect();
        let uses = self.uses_of(Arc::new(chunks), 1).await?;
        let used: HashSet<ChunkHash> = uses.into_iter().map(|(_, chunk)| chunk).collect();
        let (dropping, dropped) = (self.clone(), self.clone());
        let job = move |tx: &dyn WriteTx| {
            dropping.0.losses.note_drop();
            for (pack, chunks) in &packs {
                if chunks.iter().any(|chunk| used.contains(chunk)) {
                    tx.tie(*pack)?;
                } else {
                    // A commit since has tied what it names.
                    tx.drop_pack(*pack)?;
                }
            }
            Ok(())
        };
        self.transact(job, move |()| dropped.0.losses.note_drop()).await
    }

    /// The index no longer names them, durably: a crash in between leaves a pack that is removed the next time.
    async fn remove_empty_packs(&self) -> Result<u64> {
        let mut removed = 0;
        loop {
            let empty = self.read(|tx| Ok(tx.empty_packs(PACKS_MAX)?)).await?;
            if empty.is_empty() {
                return Ok(removed);
            }
            for pack in empty {
                self.0.chunks.remove(pack).await?;
                self.write(move |tx| Ok(tx.pack_is_gone(pack)?)).await?;
                removed += 1;
            }
        }
    }
}
