//! Chunks and manifests that are answered by their differences to others that whoever asks has.
//!
//! Owns what that may cost: two at a time, few that wait, and none that can hardly save anything. It is a favour: what it does not
//! work for (the other one is not here, is damaged or is nothing alike, or there is too much to do) is answered as a whole. Every
//! token may read every chunk and manifest whose name it knows, so naming one tells nothing that asking for it would not.

use super::chunks::{check_list, wanted};
use super::{Result, Service, ServiceError};
use crate::meta::ReadTx;
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use std::collections::HashMap;
use std::sync::Arc;
use syncmount_common::delta::{self, EXTENTS_MIN};
use syncmount_common::envelope::{self, DELTA_LENS};
use syncmount_common::protocol::chunks::{Alike, DELTAS_MAX};
use syncmount_common::{ChunkHash, ContentHash, Manifest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Differences that are made at the same time: each takes a few milliseconds of a processor for each MiB, and some MiB.
const RUNNING_MAX: usize = 2;

/// Differences that run or wait. Whoever comes later does not wait.
const WAITING_MAX: usize = 16;

/// Chunks that travel in fewer bytes are not worth a difference.
const WHOLE_LEN_MIN: usize = 16 * 1024;

/// A chunk that is so many times as long as the other is another thing.
const LENS_RATIO_MAX: u32 = 8;

/// How many differences may be made, and wait to be.
pub(super) struct Turns {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let places = |max| Arc::new(Semaphore::new(max));
        Self { running: places(RUNNING_MAX), waiting: places(WAITING_MAX) }
    }
}

/// A turn; it goes where the work goes, which goes on when nobody waits for it any more.
struct Turn {
    _running: OwnedSemaphorePermit,
    _waiting: OwnedSemaphorePermit,
}

impl Turns {
    /// `None` if there is too much to do.
    async fn take(&self) -> Option<Turn> {
        let waiting = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
        let running = Arc::clone(&self.running).acquire_owned().await.ok()?;
        Some(Turn { _running: running, _waiting: waiting })
    }
}

/// What a content consists of, as it is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ToldManifest {
    /// All of it.
    Whole(Manifest),
    /// Its difference ([`delta`]) to the other one.
    Difference(Vec<u8>),
}

impl Service {
    /// The envelopes of these chunks, in this order, each verified; those of `alike` tell the difference to the other chunk where
    /// that is smaller. Fails before the first one if any is unknown.
    pub async fn fetch_alike(
        &self,
        chunks: Vec<ChunkHash>,
        alike: Vec<Alike>,
    ) -> Result<impl Stream<Item = Result<(ChunkHash, Bytes)>> + Send + 'static> {
        check_list(&chunks)?;
        if alike.len() > DELTAS_MAX {
            let text = format!("{} chunks to be told by their differences, at most {DELTAS_MAX}", alike.len());
            return Err(ServiceError::TooLarge(text));
        }
        let (wanted, bases) = self.read(move |tx| Ok((wanted(tx, chunks)?, bases(tx, alike)?))).await?;
        let (service, bases) = (self.clone(), Arc::new(bases));
        let told = self.envelopes(wanted).and_then(move |(hash, envelope)| {
            let (service, base) = (service.clone(), bases.get(&hash).copied());
            async move { service.tell(hash, envelope, base).await }
        });
        Ok(self.while_admitted(told))
    }

    async fn tell(&self, hash: ChunkHash, envelope: Bytes, base: Option<ChunkHash>) -> Result<(ChunkHash, Bytes)> {
        let told = match base.filter(|_| envelope.len() >= WHOLE_LEN_MIN) {
            Some(base) => self.difference(hash, envelope.clone(), base).await?,
            None => None,
        };
        Ok((hash, told.unwrap_or(envelope)))
    }

    /// The envelope has its charge; what else this takes is bounded by the turns.
    async fn difference(&self, hash: ChunkHash, envelope: Bytes, base: ChunkHash) -> Result<Option<Bytes>> {
        let Some(turn) = self.0.turns.take().await else { return Ok(None) };
        let beneath = match self.delta_base(base).await {
            Ok(Some(beneath)) => beneath,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, %base, "a chunk is told as a whole");
                return Ok(None);
            }
        };
        let job = move || {
            let raw = envelope::open(&hash, &envelope).map_err(|_| ServiceError::Damaged(hash))?;
            let told = envelope::seal_against(&base, &beneath, &raw);
            drop(turn);
            Ok(told.filter(|told| told.len() < envelope.len()).map(Bytes::from))
        };
        self.0.offload.run(job).await?
    }

    /// What a content consists of, as the difference to what `base` consists of if there is that and it is smaller.
    pub async fn manifest_alike(&self, hash: ContentHash, base: Option<ContentHash>) -> Result<ToldManifest> {
        let whole = self.manifest(hash).await?;
        let Some(base) = base.filter(|_| whole.extents().len() >= EXTENTS_MIN) else {
            return Ok(ToldManifest::Whole(whole));
        };
        let Some(turn) = self.0.turns.take().await else { return Ok(ToldManifest::Whole(whole)) };
        let Some(base) = self.handy_manifest(base).await? else {
            return Ok(ToldManifest::Whole(whole));
        };
        let job = move || {
            let told = delta::between(&base, &whole);
            drop(turn);
            told.map_or(ToldManifest::Whole(whole), ToldManifest::Difference)
        };
        self.0.offload.run(job).await
    }
}

/// The other chunk of each, if it is here and a difference to it is possible.
fn bases(tx: &dyn ReadTx, alike: Vec<Alike>) -> Result<HashMap<ChunkHash, ChunkHash>> {
    let mut bases = HashMap::with_capacity(alike.len());
    for Alike { chunk, base } in alike {
        if let (Some(len), Some(base_len)) = (tx.chunk_len(&chunk)?, tx.chunk_len(&base)?)
            && is_possible(len, base_len)
            && chunk != base
        {
            bases.insert(chunk, base);
        }
    }
    Ok(bases)
}

fn is_possible(len: u32, base_len: u32) -> bool {
    let fits = |len: u32| DELTA_LENS.contains(&(len as usize));
    fits(len) && fits(base_len) && len / LENS_RATIO_MAX <= base_len && base_len / LENS_RATIO_MAX <= len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_run_some_wait_and_others_are_answered_as_a_whole() {
        let turns = Turns::default();
        let mut running = Vec::new();
        for _ in 0..RUNNING_MAX {
            running.push(turns.take().await.unwrap());
        }
        let mut waiting: Vec<_> = (RUNNING_MAX..WAITING_MAX).map(|_| Box::pin(turns.take())).collect();
        for wait in &mut waiting {
            assert!(futures::poll!(wait).is_pending());
        }
        assert!(turns.take().await.is_none());
        drop(running.pop());
        assert!(waiting.remove(0).await.is_some());
        assert!(futures::poll!(&mut waiting[0]).is_ready(), "the turn before was dropped at once");
    }

    #[test]
    fn a_difference_is_possible_between_chunks_of_about_the_same_size() {
        let (min, max) = (*DELTA_LENS.start() as u32, *DELTA_LENS.end() as u32);
        assert!(is_possible(min, min) && is_possible(max, max) && is_possible(300_000, 200_000));
        assert!(!is_possible(min - 1, min) && !is_possible(max, max + 1));
        assert!(!is_possible(max, min) && !is_possible(min, max));
    }
}
