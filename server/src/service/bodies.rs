//! Reading chunks back: neighbours in one go, a little ahead of the reader, and nothing passes unverified.

use super::{Result, Service, ServiceError};
use crate::blob::{Run, runs};
use crate::meta::{ChunkPlace, PackSlice};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use syncmount_common::{ChunkHash, envelope};

/// Runs read ahead of a consumer. Two keep the disk busy while one is sent; more would only hold memory.
const READ_AHEAD: usize = 2;

/// A chunk in both its forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// Its name.
    pub hash: ChunkHash,
    /// As it is stored and travels.
    pub envelope: Bytes,
    /// Its bytes.
    pub raw: Bytes,
}

/// Small chunks are in hand already; they are verified in groups of this many.
const SMALL_GROUP_MAX: usize = 64;

enum Step {
    Small(Vec<(ChunkHash, Bytes)>),
    Packed(Vec<ChunkHash>, Run),
}

impl Service {
    /// The bodies of chunks whose places are known, in order.
    pub(super) fn bodies(
        &self,
        places: Vec<(ChunkHash, ChunkPlace)>,
    ) -> impl Stream<Item = Result<Body>> + Send + 'static {
        let service = self.clone();
        futures::stream::iter(steps(places))
            .map(move |step| {
                let service = service.clone();
                async move { service.take_step(step).await }
            })
            .buffered(READ_AHEAD)
            .map_ok(|bodies| futures::stream::iter(bodies.into_iter().map(Ok)))
            .try_flatten()
    }

    async fn take_step(&self, step: Step) -> Result<Vec<Body>> {
        let sealed: Vec<(ChunkHash, Bytes)> = match step {
            Step::Small(chunks) => chunks,
            Step::Packed(hashes, run) => {
                let read = self.0.chunks.read(&run).await;
                let envelopes = read.inspect_err(|error| {
                    tracing::error!(%error, pack = ?run.pack, "a pack cannot be read");
                })?;
                hashes.into_iter().zip(envelopes).collect()
            }
        };
        self.0.offload.run(move || sealed.into_iter().map(open).collect()).await?
    }
}

fn open((hash, envelope): (ChunkHash, Bytes)) -> Result<Body> {
    match envelope::open(&hash, &envelope) {
        Ok(raw) => Ok(Body { hash, envelope, raw: raw.into() }),
        Err(error) => {
            tracing::error!(%hash, %error, "a stored chunk is damaged");
            Err(ServiceError::Damaged(hash))
        }
    }
}

fn steps(places: Vec<(ChunkHash, ChunkPlace)>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut packed: Vec<(ChunkHash, PackSlice)> = Vec::new();
    for (hash, place) in places {
        match place {
            ChunkPlace::Packed(slice) => packed.push((hash, slice)),
            ChunkPlace::Small(envelope) => {
                steps.extend(packed_steps(std::mem::take(&mut packed)));
                add_small(&mut steps, hash, envelope);
            }
        }
    }
    steps.extend(packed_steps(packed));
    steps
}

fn add_small(steps: &mut Vec<Step>, hash: ChunkHash, envelope: Bytes) {
    match steps.last_mut() {
        Some(Step::Small(group)) if group.len() < SMALL_GROUP_MAX => group.push((hash, envelope)),
        _ => steps.push(Step::Small(vec![(hash, envelope)])),
    }
}

fn packed_steps(packed: Vec<(ChunkHash, PackSlice)>) -> impl Iterator<Item = Step> {
    let (hashes, slices): (Vec<_>, Vec<_>) = packed.into_iter().unzip();
    let mut hashes = hashes.into_iter();
    runs(slices).into_iter().map(move |run| Step::Packed(hashes.by_ref().take(run.slices.len()).collect(), run))
}
