//! Chunks by hash: which are missing, put, fetch, get; and manifests by content hash.

use super::{Body, Fresh, Result, Service, ServiceError};
use crate::meta::{self, ChunkPlace, ReadTx};
use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use std::collections::HashSet;
use std::ops::Range;
use syncmount_common::protocol::chunks::{HASHES_MAX, MissingReply, PutReply};
use syncmount_common::{ChunkHash, ContentHash, Manifest, envelope};

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
        let service = self.clone();
        let job = move |tx: &dyn meta::WriteTx| fresh.enter(tx);
        let stored = meta::write(&*self.0.meta, job, move |_| service.0.small.add(small_bytes)).await?;
        Ok(PutReply { received, stored })
    }

    /// The envelopes of these chunks, in this order, each verified. Fails before the first one if any is unknown.
    pub async fn fetch(&self, chunks: Vec<ChunkHash>) -> Result<impl Stream<Item = Result<Body>> + Send + 'static> {
        check_count(&chunks)?;
        let places = self.read(move |tx| places(tx, chunks)).await?;
        Ok(self.bodies(places))
    }

    /// The envelope of one chunk, verified.
    pub async fn chunk(&self, hash: ChunkHash) -> Result<Bytes> {
        let bodies: Vec<Body> = self.fetch(vec![hash]).await?.try_collect().await?;
        let body = bodies.into_iter().next().ok_or(ServiceError::Damaged(hash))?;
        Ok(body.envelope)
    }

    /// The raw bytes of one chunk, verified.
    pub(super) async fn raw_chunk(&self, hash: ChunkHash) -> Result<Bytes> {
        let bodies: Vec<Body> = self.fetch(vec![hash]).await?.try_collect().await?;
        Ok(bodies.into_iter().next().ok_or(ServiceError::Damaged(hash))?.raw)
    }

    /// A part of a chunk, sealed as a chunk of its own that is named by the hash of the part. The whole chunk is verified first.
    pub async fn part(&self, hash: ChunkHash, range: Range<u32>) -> Result<(ChunkHash, Bytes)> {
        let raw = self.raw_chunk(hash).await?;
        let range = range.start as usize..range.end as usize;
        if range.is_empty() || range.end > raw.len() {
            let text = format!("the chunk {hash} has {} bytes: there is no part {range:?} of it", raw.len());
            return Err(ServiceError::Invalid(text));
        }
        let part = raw.slice(range);
        self.0.offload.run(move || (ChunkHash::of(&part), envelope::seal(&part).into())).await
    }

    /// What a content consists of.
    pub async fn manifest(&self, hash: ContentHash) -> Result<Manifest> {
        self.read(move |tx| {
            let unknown = || ServiceError::NotFound(format!("this server does not know the content {hash}"));
            tx.manifest(&hash)?.ok_or_else(unknown)
        })
        .await
    }
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
