//! Whether the chunks that a batch's manifests name are stored, with the lengths that the manifests say.
//!
//! A manifest may have a million extents, and there is one writer for all clients. So the extents of a large batch are
//! looked up before the transaction, a part at a time between the reads of other requests. What is found then is not looked
//! up again, unless any chunk was taken out of the index meanwhile. What is not found may be stored by the batch itself.
//!
//! A loose pack with a chunk that a content names is no longer loose ([`super::loose`]).

use super::batch::Batch;
use super::{Result, Service, ServiceError};
use crate::meta::{PackKey, ReadTx, WriteTx};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncmount_common::protocol::commit::MissingDetails;
use syncmount_common::{ContentHash, Extent, Manifest};

/// Extents that are looked up at a time, some milliseconds. A batch of no more is looked up by the writer.
const EXTENTS_AT_A_TIME: usize = 1024;

/// Missing hashes told in one answer.
const MISSING_MAX: usize = 10_000;

/// What is to be looked up in the transaction.
#[derive(Default)]
pub(super) struct Presence {
    /// The places of extents that were not found before, by content. Of a content that is not here, all are to be looked up.
    open: HashMap<ContentHash, Vec<u32>>,
    /// The loose packs of those that were found.
    loose: HashSet<PackKey>,
    /// How often chunks had been taken out of the index before.
    drops: u64,
}

impl Service {
    /// Looks the chunks of a large batch up. Finds nothing in a small one.
    pub(super) async fn presence(&self, batch: &Arc<Batch>) -> Result<Presence> {
        let lens = batch.contents.values().map(|described| described.manifest.extents().len());
        let mut presence = Presence { drops: self.0.losses.drops(), ..Presence::default() };
        if lens.sum::<usize>() <= EXTENTS_AT_A_TIME {
            return Ok(presence);
        }
        for (hash, described) in &batch.contents {
            let mut open = Vec::new();
            for begin in (0..described.manifest.extents().len()).step_by(EXTENTS_AT_A_TIME) {
                let (batch, hash) = (batch.clone(), *hash);
                let part = self.read(move |tx| {
                    let (mut open, mut loose) = (Vec::new(), Vec::new());
                    let Some(described) = batch.contents.get(&hash) else { return Ok((open, loose)) };
                    let extents = described.manifest.extents().iter().zip(0..).skip(begin).take(EXTENTS_AT_A_TIME);
                    for (extent, index) in extents {
                        match (look_up(tx, extent)?, extent) {
                            (Found::Stored, Extent::Chunk { hash, .. }) => loose.extend(tx.loose_pack_of(hash)?),
                            (Found::Stored, Extent::Hole { .. }) => {}
                            _ => open.push(index),
                        }
                    }
                    Ok((open, loose))
                });
                let (part, loose) = part.await?;
                open.extend(part);
                presence.loose.extend(loose);
            }
            presence.open.insert(*hash, open);
        }
        Ok(presence)
    }
}

impl Presence {
    /// Looks up what was not found before, and ties it. Enters what is missing into `missing`, and ends when that is full. An
    /// error if a chunk has another length than `manifest` says. `drops`: how often chunks have been taken out of the index.
    pub(super) fn check(
        &self,
        tx: &dyn WriteTx,
        drops: u64,
        hash: &ContentHash,
        manifest: &Manifest,
        missing: &mut MissingDetails,
    ) -> Result<()> {
        let extents = manifest.extents();
        let places: Box<dyn Iterator<Item = u32>> = match self.open.get(hash).filter(|_| drops == self.drops) {
            Some(open) => Box::new(open.iter().copied()),
            None => Box::new(0..extents.len() as u32),
        };
        for extent in places.filter_map(|place| extents.get(place as usize)) {
            if missing.chunks.len() == MISSING_MAX {
                break;
            }
            match (look_up(tx, extent)?, extent) {
                (Found::Missing, Extent::Chunk { hash, .. }) => missing.chunks.push(*hash),
                (Found::Other(found), Extent::Chunk { hash, len }) => {
                    let text = format!("chunk {hash} has {found} bytes, the manifest says {len}");
                    return Err(ServiceError::Invalid(text));
                }
                (Found::Stored, Extent::Chunk { hash, .. }) => {
                    if let Some(pack) = tx.loose_pack_of(hash)? {
                        tx.tie(pack)?;
                    }
                }
                (_, Extent::Hole { .. }) => (),
            }
        }
        self.loose.iter().try_for_each(|pack| Ok(tx.tie(*pack)?))
    }
}

enum Found {
    /// As the manifest says; a hole needs nothing.
    Stored,
    Missing,
    /// With this length.
    Other(u32),
}

fn look_up(tx: &(impl ReadTx + ?Sized), extent: &Extent) -> Result<Found> {
    let Extent::Chunk { hash, len } = extent else { return Ok(Found::Stored) };
    Ok(match tx.chunk_len(hash)? {
        Some(found) if found == *len => Found::Stored,
        Some(found) => Found::Other(found),
        None => Found::Missing,
    })
}
