//! Chunks by hash: which are missing, put, fetch, get; and manifests by content hash.

use super::bodies::Wanted;
use super::ingest::Entered;
use super::tokens::{Credential, admit};
use super::{Allowance, Charge, Fresh, Result, Service, ServiceError};
use crate::meta::{self, ChunkPlace, ReadTx};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use std::collections::HashSet;
use std::ops::Range;
use syncmount_common::envelope::{self, DELTA_LENS};
use syncmount_common::protocol::chunks::{HASHES_MAX, MissingReply, PutReply};
use syncmount_common::{ChunkHash, ContentHash, Manifest};

impl Service {
    /// Which of these chunks the server does not have.
    pub async fn missing(&self, chunks: Vec<ChunkHash>) -> Result<MissingReply> {
        check_count(&chunks)?;
        self.read(move |tx| {
            let mut seen = HashSet::new();
            let mut missing = Vec::new();
            for hash in chunks {
                if seen.insert(hash) && tx.chunk_len(&hash)?.is_none() {
                    missing.push(hash);
                }
            }
            Ok(MissingReply { missing })
        })
        .await
    }

    /// Stores chunks, all or none. Durable when it returns.
    pub async fn put(&self, chunks: Vec<(ChunkHash, Bytes)>) -> Result<PutReply> {
        let mut ingest = self.ingest();
        for (hash, envelope) in chunks {
            ingest.add(hash, envelope).await?;
        }
        self.put_fresh(ingest.finish().await?).await
    }

    /// Enters chunks that have been taken in. Durable when it returns.
    pub async fn put_fresh(&self, fresh: Fresh) -> Result<PutReply> {
        let (received, small_bytes) = (fresh.received, fresh.small_bytes());
        let (service, credential, now) = (self.clone(), self.2.clone(), self.0.environment.now());
        let job = move |tx: &dyn meta::WriteTx| {
            admit(tx, credential.as_ref())?;
            let entered = fresh.enter(tx)?;
            if !entered.heals {
                let token = credential.as_ref().map_or("", Credential::name);
                fresh.packs().into_iter().try_for_each(|pack| tx.set_loose(pack, token, now))?;
            }
            Ok(entered)
        };
        let then = move |entered: &Entered| {
            service.0.small.add(small_bytes);
            if entered.heals {
                service.0.losses.note_healed();
            }
        };
        let entered = self.transact(job, then).await?;
        Ok(PutReply { received, stored: entered.stored })
    }

    /// The envelopes of these chunks, in this order, each verified. Fails before the first one if any is unknown.
    pub async fn fetch(
        &self,
        chunks: Vec<ChunkHash>,
    ) -> Result<impl Stream<Item = Result<(ChunkHash, Bytes)>> + Send + 'static> {
        check_list(&chunks)?;
        let wanted = self.read(move |tx| wanted(tx, chunks)).await?;
        Ok(self.envelopes(wanted))
    }

    /// The envelope of one chunk, verified.
    pub async fn chunk(&self, hash: ChunkHash) -> Result<Bytes> {
        let found: Vec<_> = self.fetch(vec![hash]).await?.try_collect().await?;
        found.into_iter().next().map(|(_, envelope)| envelope).ok_or(ServiceError::Damaged(hash))
    }

    /// The length of one chunk's raw bytes.
    async fn chunk_len(&self, hash: ChunkHash) -> Result<u32> {
        self.read(move |tx| Ok(wanted(tx, vec![hash])?[0].1)).await
    }

    /// The raw bytes of one chunk, verified. They are counted by the caller, which bounds how many there are at a time.
    async fn raw_chunk(&self, hash: ChunkHash, len: u32) -> Result<Bytes> {
        let uncounted = self.within(Allowance::default());
        let found: Vec<_> = uncounted.raw_bodies([(hash, len)]).try_collect().await?;
        found.into_iter().next().map(|(_, raw)| raw).ok_or(ServiceError::Damaged(hash))
    }

    /// The raw bytes of a chunk that others may be told by their differences to; `None` if its length excludes that.
    pub(super) async fn delta_base(&self, hash: ChunkHash) -> Result<Option<Bytes>> {
        let len = self.chunk_len(hash).await?;
        if !DELTA_LENS.contains(&(len as usize)) {
            return Ok(None);
        }
        self.raw_chunk(hash, len).await.map(Some)
    }

    /// A part of a chunk, sealed as a chunk of its own that is named by the hash of the part. The whole chunk is verified first.
    pub async fn part(&self, hash: ChunkHash, range: Range<u32>) -> Result<(ChunkHash, Bytes)> {
        let len = self.chunk_len(hash).await?;
        if range.is_empty() || range.end > len {
            let text = format!("the chunk {hash} has {len} bytes: there is no part {range:?} of it");
            return Err(ServiceError::Invalid(text));
        }
        let charge = self.1.charge(PART_COST * u64::from(len)).await?;
        let (service, range) = (self.clone(), range.start as usize..range.end as usize);
        let work = async move {
            let part = service.raw_chunk(hash, len).await?.slice(range);
            let turn = service.turn(part.len() as u32).await?;
            let seal = move || {
                let _turn = turn;
                (ChunkHash::of(&part), charge.on(envelope::seal(&part).into()))
            };
            service.0.offload.run(seal).await
        };
        self.0.offload.finish(work).await?
    }

    /// What a content consists of. Its memory is held until the reply has been sent.
    pub async fn manifest(&self, hash: ContentHash) -> Result<Manifest> {
        let unknown = || ServiceError::NotFound(format!("this server does not know the content {hash}"));
        self.known_manifest(hash).await?.ok_or_else(unknown)
    }

    /// The same, `None` if it is not known.
    pub(super) async fn known_manifest(&self, hash: ContentHash) -> Result<Option<Manifest>> {
        let Some(len) = self.read(move |tx| Ok(tx.manifest_len(&hash)?)).await? else { return Ok(None) };
        let charge = self.1.charge_manifests(MANIFEST_COST * len).await?;
        self.1.keep(charge.clone());
        self.read_manifest(hash, charge).await
    }

    /// The same if it is known and there is memory for it at once.
    pub(super) async fn handy_manifest(&self, hash: ContentHash) -> Result<Option<Manifest>> {
        let Some(len) = self.read(move |tx| Ok(tx.manifest_len(&hash)?)).await? else { return Ok(None) };
        let Some(charge) = self.1.try_charge_manifests(MANIFEST_COST * len) else { return Ok(None) };
        self.1.keep(charge.clone());
        self.read_manifest(hash, charge).await
    }

    async fn read_manifest(&self, hash: ContentHash, charge: Charge) -> Result<Option<Manifest>> {
        self.read(move |tx| {
            let _charge = charge;
            Ok(tx.manifest(&hash)?)
        })
        .await
    }
}

/// A part takes memory for the chunk as it is stored, its raw bytes, and the part as it is sent, which may be all of it.
const PART_COST: u64 = 3;

/// A manifest takes memory for its encoding as it is stored, its extents, and its encoding as it is sent.
const MANIFEST_COST: u64 = 3;

/// Refuses lists that are too long, or that name a chunk twice: what is sent must not be a multiple of what is stored.
pub(super) fn check_list(chunks: &[ChunkHash]) -> Result<()> {
    check_count(chunks)?;
    let mut seen = HashSet::with_capacity(chunks.len());
    match chunks.iter().find(|hash| !seen.insert(**hash)) {
        None => Ok(()),
        Some(twice) => Err(ServiceError::Invalid(format!("the chunk {twice} is asked for twice in one request"))),
    }
}

/// These chunks and the lengths of their raw bytes, in this order.
pub(super) fn wanted(tx: &dyn ReadTx, chunks: Vec<ChunkHash>) -> Result<Vec<Wanted>> {
    let mut wanted = Vec::with_capacity(chunks.len());
    let mut unknown = Vec::new();
    for hash in chunks {
        match tx.chunk_len(&hash)? {
            Some(len) => wanted.push((hash, len)),
            None => unknown.push(hash),
        }
    }
    if unknown.is_empty() { Ok(wanted) } else { Err(ServiceError::UnknownChunks(unknown)) }
}

pub(super) fn check_count(chunks: &[ChunkHash]) -> Result<()> {
    if chunks.len() <= HASHES_MAX {
        return Ok(());
    }
    Err(ServiceError::TooLarge(format!("{} hashes in one request, at most {HASHES_MAX} are allowed", chunks.len())))
}

/// Where these chunks are, in this order.
pub(super) fn places(tx: &dyn ReadTx, chunks: Vec<ChunkHash>) -> Result<Vec<(ChunkHash, ChunkPlace)>> {
    let mut places = Vec::with_capacity(chunks.len());
    let mut unknown = Vec::new();
    for hash in chunks {
        match tx.chunk(&hash)? {
            Some(place) => places.push((hash, place)),
            None => unknown.push(hash),
        }
    }
    if unknown.is_empty() { Ok(places) } else { Err(ServiceError::UnknownChunks(unknown)) }
}
