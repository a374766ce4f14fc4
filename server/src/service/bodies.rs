//! Reading chunks back: neighbours in one go, a little ahead of the consumer, and nothing passes unverified.
//!
//! What is read is bounded in raw bytes, however small it is stored: a few bytes may stand for a chunk of the greatest
//! length. Each step has its charge before it reads, and the bytes have it until they are freed.

use super::chunks::places;
use super::memory::Charge;
use super::{Result, Service, ServiceError};
use crate::blob::{BlobError, Run, runs};
use crate::meta::{ChunkPlace, PackSlice, ReadTx, WriteTx};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use syncmount_common::{ChunkHash, envelope};

/// Steps read ahead of a consumer. Two keep the disk busy while one is sent; more would only hold memory.
const READ_AHEAD: usize = 2;

/// Chunks of one step, and their raw bytes unless it is a single chunk.
const STEP_CHUNKS_MAX: usize = 64;
const STEP_LEN_MAX: u64 = 256 * 1024;

/// A chunk of more raw bytes is unpacked when it has a turn among all of them.
pub(super) const TURN_LEN_MIN: u32 = 1024 * 1024;

/// Long chunks that are unpacked at the same time.
pub(super) const TURNS: usize = 2;

/// A chunk's name and the length of its raw bytes.
pub(super) type Wanted = (ChunkHash, u32);

/// What is wanted of chunks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Envelope,
    Raw,
}

impl Form {
    /// What a step of so many raw bytes may take at most: what is read of a pack is up to twice what is wanted of it.
    const fn cost(self, raw: u64) -> u64 {
        match self {
            Self::Envelope => 2 * raw,
            Self::Raw => 3 * raw,
        }
    }
}

impl Service {
    /// The envelopes of chunks, verified, in order.
    pub(super) fn envelopes(
        &self,
        wanted: impl IntoIterator<Item = Wanted, IntoIter: Send + 'static>,
    ) -> impl Stream<Item = Result<(ChunkHash, Bytes)>> + Send + 'static {
        self.bodies(steps(wanted.into_iter()), Form::Envelope)
    }

    /// The raw bytes of chunks, verified, in order.
    pub(super) fn raw_bodies(
        &self,
        wanted: impl IntoIterator<Item = Wanted, IntoIter: Send + 'static>,
    ) -> impl Stream<Item = Result<(ChunkHash, Bytes)>> + Send + 'static {
        self.bodies(steps(wanted.into_iter()), Form::Raw)
    }

    fn bodies(
        &self,
        steps: impl Iterator<Item = Vec<Wanted>> + Send + 'static,
        form: Form,
    ) -> impl Stream<Item = Result<(ChunkHash, Bytes)>> + Send + 'static {
        let service = self.clone();
        futures::stream::iter(steps)
            .map(move |step| {
                let service = service.clone();
                async move {
                    let raw = step.iter().map(|(_, len)| u64::from(*len)).sum();
                    let charge = service.1.charge(form.cost(raw)).await?;
                    // A consumer that goes away does not free memory that is in use.
                    let taker = service.clone();
                    service.0.offload.finish(async move { taker.take_sound(step, form, charge).await }).await?
                }
            })
            .buffered(READ_AHEAD)
            .map_ok(|bodies| futures::stream::iter(bodies.into_iter().map(Ok)))
            .try_flatten()
    }

    async fn take_sound(&self, step: Vec<Wanted>, form: Form, charge: Charge) -> Result<Vec<(ChunkHash, Bytes)>> {
        let first = step.first().map(|(hash, _)| *hash);
        let taken = self.take_step(step, form, charge).await;
        match (taken, first) {
            (Err(ServiceError::Damaged(hash)), _) => {
                if let Err(error) = self.set_aside(hash).await {
                    tracing::error!(%hash, %error, "a damaged chunk could not be taken out of the index");
                }
                Err(ServiceError::Damaged(hash))
            }
            // The disk that holds it may not be there: no reason to forget where it was.
            (Err(ServiceError::Blob(BlobError::Lost(_))), Some(hash)) => Err(ServiceError::Damaged(hash)),
            (taken, _) => taken,
        }
    }

    /// Takes a chunk out of the index that does not open, not even when it is read once more: it counts as missing, so that a
    /// device that has it sends it again. Its bytes stay in their pack.
    async fn set_aside(&self, hash: ChunkHash) -> Result<()> {
        let place_of = move |tx: &dyn ReadTx| Ok(tx.chunk(&hash)?);
        let Some(place) = self.read(place_of).await? else { return Ok(()) };
        let again = self.sealed(vec![(hash, place.clone())]).await?;
        let opens = move || again.iter().all(|(hash, envelope)| envelope::open(hash, envelope).is_ok());
        if self.0.offload.run(opens).await? {
            return Ok(());
        }
        let (dropping, dropped) = (self.clone(), self.clone());
        let drop = move |tx: &dyn WriteTx| {
            dropping.0.losses.note_drop();
            // Sent again meanwhile, it may lie elsewhere.
            if tx.chunk(&hash)? == Some(place) {
                tx.drop_chunk(&hash)?;
            }
            Ok(())
        };
        let then = move |&(): &()| {
            dropped.0.losses.note_drop();
            dropped.0.losses.survey_is_due();
        };
        self.transact(drop, then).await?;
        tracing::error!(%hash, "a damaged chunk counts as missing from now on, until a device sends it again");
        Ok(())
    }

    async fn take_step(&self, step: Vec<Wanted>, form: Form, charge: Charge) -> Result<Vec<(ChunkHash, Bytes)>> {
        let longest = step.iter().map(|(_, len)| *len).max().unwrap_or(0);
        let hashes: Vec<_> = step.into_iter().map(|(hash, _)| hash).collect();
        let places = self.read(move |tx| places(tx, hashes)).await?;
        let sealed = self.sealed(places).await?;
        let turn = self.turn(longest).await?;
        let open_all = move || {
            let opened = sealed.into_iter().map(|(hash, envelope)| {
                let raw = open(hash, &envelope)?;
                let bytes = if form == Form::Raw { raw } else { envelope };
                Ok((hash, charge.on(bytes)))
            });
            let opened = opened.collect();
            drop(turn);
            opened
        };
        self.0.offload.run(open_all).await?
    }

    /// Envelopes as they are stored, in the order of their places.
    async fn sealed(&self, places: Vec<(ChunkHash, ChunkPlace)>) -> Result<Vec<(ChunkHash, Bytes)>> {
        let slices = places.iter().filter_map(|(_, place)| match place {
            ChunkPlace::Packed(slice) => Some(*slice),
            ChunkPlace::Small(_) => None,
        });
        let mut packed = Vec::new();
        for run in runs(slices) {
            packed.extend(self.read_run(&run).await?);
        }
        let mut packed = packed.into_iter();
        let envelope = |(hash, place)| match place {
            ChunkPlace::Small(envelope) => Ok((hash, envelope)),
            ChunkPlace::Packed(PackSlice { .. }) => Ok((hash, packed.next().ok_or(ServiceError::Damaged(hash))?)),
        };
        places.into_iter().map(envelope).collect()
    }

    async fn read_run(&self, run: &Run) -> Result<Vec<Bytes>> {
        let read = self.0.chunks.read(run).await;
        Ok(read.inspect_err(|error| tracing::error!(%error, pack = ?run.pack, "a pack cannot be read"))?)
    }

    /// A turn to unpack a chunk of so many raw bytes; short ones need none. It goes where the work goes.
    pub(super) async fn turn(&self, raw_len: u32) -> Result<Option<tokio::sync::OwnedSemaphorePermit>> {
        if raw_len <= TURN_LEN_MIN {
            return Ok(None);
        }
        let turn = std::sync::Arc::clone(&self.0.unpacking).acquire_owned().await;
        turn.map(Some).map_err(|_| ServiceError::Panicked)
    }
}

fn open(hash: ChunkHash, sealed: &Bytes) -> Result<Bytes> {
    envelope::open(&hash, sealed).map(Bytes::from).map_err(|error| {
        tracing::error!(%hash, %error, "a stored chunk is damaged");
        ServiceError::Damaged(hash)
    })
}

/// Cuts a list of chunks into steps; the order stays.
fn steps(wanted: impl Iterator<Item = Wanted> + Send + 'static) -> impl Iterator<Item = Vec<Wanted>> + Send + 'static {
    let mut wanted = wanted.peekable();
    std::iter::from_fn(move || {
        let mut step = vec![wanted.next()?];
        let mut room = STEP_LEN_MAX.saturating_sub(u64::from(step[0].1));
        while step.len() < STEP_CHUNKS_MAX
            && let Some(next) = wanted.next_if(|(_, len)| u64::from(*len) <= room)
        {
            room -= u64::from(next.1);
            step.push(next);
        }
        Some(step)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_bounded_in_raw_bytes_and_in_chunks() {
        let cut = |lens: &[u32]| -> Vec<usize> {
            let hash = ChunkHash::of(b"x");
            let wanted: Vec<_> = lens.iter().map(|len| (hash, *len)).collect();
            steps(wanted.into_iter()).map(|step| step.len()).collect()
        };
        let (half, long) = (STEP_LEN_MAX as u32 / 2, 16 << 20);
        assert_eq!(cut(&[half, half, half, 1, long, long, 1]), [2, 2, 1, 1, 1]);
        assert_eq!(cut(&[1; STEP_CHUNKS_MAX + 1]), [STEP_CHUNKS_MAX, 1]);
        assert_eq!(cut(&[]), [0; 0]);
    }
}
