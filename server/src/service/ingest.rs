//! Taking chunks in: verified, stored durably if they are many, and entered into the index by whoever asked.
//!
//! Memory is bounded by one batch and, while it is verified, one chunk's raw bytes. Until the index names them, stored chunks do not exist for anybody: a request that is
//! cut short leaves at most unreferenced bytes in a pack.

use super::room::Place;
use super::small::SMALL_SUM_MAX;
use super::{Result, Service, ServiceError};
use crate::blob::pack::Record;
use crate::meta::{PackId, PackedChunk, SmallChunk, WriteTx};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use syncmount_common::envelope::{self, EnvelopeError};
use syncmount_common::protocol::chunks::DELTAS_MAX;
use syncmount_common::protocol::commit::MissingDetails;
use syncmount_common::{ChunkHash, ContentHash, FileHash};

/// Chunks are verified and stored in batches of about this many bytes.
pub const BATCH_LEN: usize = 3 * 1024 * 1024;

/// Chunks are verified in groups of up to so many raw bytes: what is small may unpack to much.
const GROUP_LEN_MAX: u64 = 16 * 1024 * 1024;

/// Chunks on their way into the store.
pub struct Ingest {
    service: Service,
    batch: Vec<Unverified>,
    batch_len: usize,
    deltas: usize,
    fresh: Fresh,
}

struct Unverified {
    hash: ChunkHash,
    envelope: Bytes,
    /// Sealed by this process a moment ago.
    trusted: bool,
}

/// Chunks that wait for a transaction to enter them into the index.
#[derive(Clone, Default)]
pub struct Fresh {
    pub(super) small: Vec<SmallChunk>,
    pub(super) packed: Vec<PackedChunk>,
    pub(super) received: u64,
    /// The content that this process has cut from a file's bytes, and their SHA-256.
    pub(super) hashed: Option<(ContentHash, FileHash)>,
}

impl Fresh {
    /// The SHA-256 of a content's bytes, if this process has just computed it.
    pub(super) fn sha256_of(&self, content: &ContentHash) -> Option<FileHash> {
        self.hashed.filter(|(hashed, _)| hashed == content).map(|(_, sha256)| sha256)
    }

    /// Enters the chunks.
    pub(super) fn enter(&self, tx: &dyn WriteTx) -> Result<Entered> {
        let mut entered = Entered::default();
        for chunk in &self.packed {
            entered.note(tx, &chunk.hash, tx.add_packed(chunk)?)?;
        }
        for chunk in &self.small {
            entered.note(tx, &chunk.hash, tx.add_small(chunk)?)?;
        }
        Ok(entered)
    }

    /// The packs that were written for them.
    pub(super) fn packs(&self) -> HashSet<PackId> {
        self.packed.iter().map(|chunk| chunk.slice.pack).collect()
    }

    pub(super) fn small_bytes(&self) -> u64 {
        self.small.iter().map(|chunk| chunk.envelope.len() as u64).sum()
    }
}

/// What became of chunks that were entered.
#[derive(Clone, Copy, Default)]
pub(super) struct Entered {
    /// How many of them were new.
    pub(super) stored: u64,
    /// Whether any of them was lost and some content lacked it.
    pub(super) heals: bool,
}

impl Entered {
    fn note(&mut self, tx: &dyn WriteTx, chunk: &ChunkHash, is_new: bool) -> Result<()> {
        if is_new {
            self.stored += 1;
            self.heals |= tx.found(chunk)?;
        }
        Ok(())
    }
}

impl Service {
    /// Begins to take chunks in.
    pub fn ingest(&self) -> Ingest {
        Ingest { service: self.clone(), batch: Vec::new(), batch_len: 0, deltas: 0, fresh: Fresh::default() }
    }
}

impl Ingest {
    /// Takes one chunk. It is verified at the latest when [`Self::finish`] returns.
    pub async fn add(&mut self, hash: ChunkHash, envelope: Bytes) -> Result<()> {
        if let Some(base) = envelope::base(&envelope) {
            let envelope = self.whole(hash, base, envelope).await?;
            return self.add_sealed(hash, envelope).await;
        }
        self.push(Unverified { hash, envelope, trusted: false }).await
    }

    /// A chunk that is told by its difference to one that is here, sealed as any other.
    async fn whole(&mut self, hash: ChunkHash, base: ChunkHash, envelope: Bytes) -> Result<Bytes> {
        self.deltas += 1;
        if self.deltas > DELTAS_MAX {
            return Err(ServiceError::TooLarge(format!("more than {DELTAS_MAX} chunks told by their differences")));
        }
        // The other chunk and both forms of this one are in memory until it is sealed: so few at a time as long chunks.
        let turn = Arc::clone(&self.service.0.rebuilding).acquire_owned().await.map_err(|_| ServiceError::Panicked)?;
        let beneath = match self.service.delta_base(base).await {
            Err(ServiceError::UnknownChunks(chunks)) => {
                return Err(ServiceError::Missing(MissingDetails { chunks, contents: Vec::new() }));
            }
            found => found?.ok_or_else(|| refusal(&hash, EnvelopeError::BadLength))?,
        };
        let open = move || {
            let _turn = turn;
            match envelope::open_against(&hash, &envelope, &beneath) {
                Ok(raw) => Ok(envelope::seal(&raw).into()),
                Err(error) => Err(refusal(&hash, error)),
            }
        };
        self.service.0.offload.run(open).await?
    }

    /// Takes a chunk whose hash this process has just computed.
    pub(super) async fn add_sealed(&mut self, hash: ChunkHash, envelope: Bytes) -> Result<()> {
        self.push(Unverified { hash, envelope, trusted: true }).await
    }

    async fn push(&mut self, chunk: Unverified) -> Result<()> {
        self.fresh.received += 1;
        self.batch_len += chunk.envelope.len();
        self.batch.push(chunk);
        if self.batch_len >= BATCH_LEN { self.store_batch().await } else { Ok(()) }
    }

    /// Verifies and stores what is there so far, so that it no longer takes memory.
    pub async fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() { Ok(()) } else { self.store_batch().await }
    }

    /// Verifies and stores what is left.
    pub async fn finish(mut self) -> Result<Fresh> {
        if self.batch_len > SMALL_SUM_MAX || !self.fresh.packed.is_empty() {
            self.store_batch().await?;
        } else {
            self.keep_batch().await?;
        }
        Ok(self.fresh)
    }

    async fn store_batch(&mut self) -> Result<()> {
        let records = self.verified_batch().await?;
        let hashes: Vec<_> = records.iter().map(|record| record.hash).collect();
        let mut unknown: HashSet<_> = self.service.missing(hashes).await?.missing.into_iter().collect();
        let records: Vec<_> = records.into_iter().filter(|record| unknown.remove(&record.hash)).collect();
        if !records.is_empty() {
            self.service.require_room(records.iter().map(|record| record.len() as u64).sum(), Place::Pack)?;
        }
        let packed = self.service.0.chunks.append(records).await?;
        self.fresh.packed.extend(packed);
        Ok(())
    }

    async fn keep_batch(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            self.service.require_room(self.batch_len as u64, Place::Rows)?;
        }
        let records = self.verified_batch().await?;
        let keep =
            |record: Record| SmallChunk { hash: record.hash, raw_len: record.raw_len, envelope: record.envelope };
        self.fresh.small = records.into_iter().map(keep).collect();
        Ok(())
    }

    async fn verified_batch(&mut self) -> Result<Vec<Record>> {
        self.batch_len = 0;
        let batch = std::mem::take(&mut self.batch);
        let mut records = Vec::with_capacity(batch.len());
        for (group, longest) in groups(batch) {
            let turn = self.service.turn(longest).await?;
            let verify_all = move || {
                let _turn = turn;
                group.into_iter().map(verify).collect::<Result<Vec<_>>>()
            };
            records.extend(self.service.0.offload.run(verify_all).await??);
        }
        Ok(records)
    }
}

/// Cuts a batch where the raw bytes become too many; tells also how many the longest chunk has. A header that lies is found
/// when the chunk is opened.
fn groups(batch: Vec<Unverified>) -> Vec<(Vec<Unverified>, u32)> {
    let mut groups: Vec<(Vec<Unverified>, u32)> = Vec::new();
    let mut room = 0;
    for chunk in batch {
        // Chunks that were sealed here are not opened.
        let len = if chunk.trusted { 0 } else { envelope::raw_len(&chunk.envelope).unwrap_or(0) };
        match groups.last_mut().filter(|_| u64::from(len) <= room) {
            Some((group, longest)) => {
                room -= u64::from(len);
                *longest = len.max(*longest);
                group.push(chunk);
            }
            None => {
                room = GROUP_LEN_MAX.saturating_sub(u64::from(len));
                groups.push((vec![chunk], len));
            }
        }
    }
    groups
}

fn verify(chunk: Unverified) -> Result<Record> {
    let Unverified { hash, envelope, trusted } = chunk;
    let raw_len = if trusted {
        envelope::raw_len(&envelope)
    } else {
        envelope::open(&hash, &envelope).map(|raw| raw.len() as u32)
    };
    let raw_len = raw_len.map_err(|error| refusal(&hash, error))?;
    Ok(Record { hash, raw_len, envelope })
}

fn refusal(hash: &ChunkHash, error: EnvelopeError) -> ServiceError {
    match error {
        EnvelopeError::HashMismatch | EnvelopeError::Damaged => {
            ServiceError::HashMismatch(format!("chunk {hash}: {error}; nothing was stored, send it again"))
        }
        EnvelopeError::Malformed | EnvelopeError::Unsupported | EnvelopeError::BadLength => {
            ServiceError::Invalid(format!("chunk {hash}: {error}"))
        }
    }
}

/// The SHA-256 of a file that is one chunk is the chunk's hash.
pub(super) const fn file_hash_of(chunk: &ChunkHash) -> FileHash {
    FileHash::from_bytes(*chunk.as_bytes())
}
