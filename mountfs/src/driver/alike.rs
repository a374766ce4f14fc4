//! Chunks of a new version that come as their differences to what stood in their places in an earlier one.
//!
//! Owns which chunk is named as the other one, how a chunk is made of it and a difference, and when asking does not pay. Nothing
//! depends on it: whatever fails here, the chunk is fetched as a whole.

use super::Client;
use super::former::Places;
use super::known::Similar;
use crate::ports::{ChunkSink, Difference, RemoteError};
use crate::store::Entry;
use crate::system::at;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;
use syncmount_common::envelope::{self, DELTA_LENS};
use syncmount_common::protocol::chunks::{Alike, DELTAS_MAX};
use syncmount_common::{ChunkHash, Content, Extent, Manifest};

/// So many extents before and behind a chunk are looked at for one that both versions have.
const NEIGHBOURS_MAX: usize = 64;

/// A chunk that is so many times as long as the other is another thing.
const LENS_RATIO_MAX: u64 = 4;

/// So many differences are asked for before the first one has paid …
const CREDIT: usize = 16;

/// … and so many at most after many have.
const CREDIT_MAX: usize = 256;

/// How many differences to an earlier version may be asked for still. Each that is asked for costs one, each that comes brings two:
/// of a version that has little in common with the one before, few are asked for.
pub(super) struct Credit(usize);

impl Default for Credit {
    fn default() -> Self {
        Self(CREDIT)
    }
}

impl Credit {
    fn take(&mut self, wanted: usize) -> usize {
        let taken = wanted.min(self.0);
        self.0 -= taken;
        taken
    }

    fn paid(&mut self) {
        self.0 = (self.0 + 2).min(CREDIT_MAX);
    }
}

/// Where the bytes of an earlier version are.
#[derive(Clone)]
pub(super) enum Source {
    Cached(Arc<Content>),
    File(Arc<File>),
}

/// An earlier version.
pub(super) struct Former {
    source: Source,
    extents: Vec<(u64, Extent)>,
    size: u64,
    places: Arc<Places>,
}

impl Former {
    pub(super) fn new(source: Source, manifest: &Manifest, places: Arc<Places>) -> Self {
        Self { source, extents: manifest.with_offsets().collect(), size: manifest.size(), places }
    }

    /// The chunk that stood where the extent `index` of a new version stands. What both have before and behind it says by how
    /// much it was moved; where nothing does, it was not.
    fn similar(&self, new: &[(u64, Extent)], index: usize) -> Option<Similar> {
        let (start, extent) = new.get(index)?;
        let moved = [self.moved_before(new, index), self.moved_behind(new, index)];
        let moved = if moved == [None; 2] { [Some(0), None] } else { moved };
        let found = moved.into_iter().flatten().filter_map(|moved| {
            let start = start.checked_add_signed(moved)?;
            self.overlapping(start, start.checked_add(extent.len())?)
        });
        let (overlap, found) = found.max_by_key(|(overlap, _)| *overlap)?;
        let (len, other) = (extent.len(), u64::from(found.len));
        let is_alike = overlap >= len / 2 && other / LENS_RATIO_MAX <= len;
        (is_alike && DELTA_LENS.contains(&(found.len as usize))).then_some(found)
    }

    fn moved_before(&self, new: &[(u64, Extent)], index: usize) -> Option<i64> {
        let before = new[..index].iter().rev().take(NEIGHBOURS_MAX).find_map(|place| self.moved(place));
        before.or_else(|| (index <= NEIGHBOURS_MAX).then_some(0))
    }

    fn moved_behind(&self, new: &[(u64, Extent)], index: usize) -> Option<i64> {
        let behind = new[index + 1..].iter().take(NEIGHBOURS_MAX).find_map(|place| self.moved(place));
        let (last, extent) = new.last()?;
        let at_end = || (new.len() - index <= NEIGHBOURS_MAX).then(|| apart(last + extent.len(), self.size))?;
        behind.or_else(at_end)
    }

    /// By how much a chunk of the new version that this one has was moved.
    fn moved(&self, (start, extent): &(u64, Extent)) -> Option<i64> {
        match extent {
            Extent::Chunk { hash, .. } => apart(*start, self.places.at(hash)?),
            Extent::Hole { .. } => None,
        }
    }

    /// The chunk that has most of these bytes, and how many of them.
    fn overlapping(&self, start: u64, end: u64) -> Option<(u64, Similar)> {
        let first = self.extents.partition_point(|(at, extent)| at + extent.len() <= start);
        let within = self.extents[first..].iter().take_while(|(at, _)| *at < end);
        let chunks = within.filter_map(|(at, extent)| match extent {
            Extent::Chunk { hash, len } => {
                let overlap = end.min(at + u64::from(*len)) - start.max(*at);
                Some((overlap, Similar { hash: *hash, at: *at, len: *len }))
            }
            Extent::Hole { .. } => None,
        });
        chunks.max_by_key(|(overlap, _)| *overlap)
    }
}

fn apart(from: u64, to: u64) -> Option<i64> {
    to.checked_signed_diff(from)
}

/// A chunk that is wanted, and one of an earlier version that it is probably like.
#[derive(Clone)]
pub(super) struct Likely {
    chunk: ChunkHash,
    base: Similar,
    source: Source,
}

impl Likely {
    fn alike(&self) -> Alike {
        Alike { chunk: self.chunk, base: self.base.hash }
    }
}

/// For chunks of a new version that are wanted, those of earlier ones that they are probably like, as far as they are here and
/// asking may pay.
pub(super) fn likely(
    new: &Manifest,
    wanted: &[(ChunkHash, u32)],
    formers: &[Former],
    credit: &Mutex<Credit>,
    is_here: impl Fn(&Source, &Similar) -> bool,
) -> Vec<Likely> {
    if formers.is_empty() {
        return Vec::new();
    }
    let mut left: HashSet<ChunkHash> =
        wanted.iter().filter(|(_, len)| DELTA_LENS.contains(&(*len as usize))).map(|(hash, _)| *hash).collect();
    let places: Vec<(u64, Extent)> = new.with_offsets().collect();
    let mut found = Vec::new();
    for (index, (_, extent)) in places.iter().enumerate() {
        let Extent::Chunk { hash, .. } = extent else { continue };
        if left.is_empty() {
            break;
        }
        if !left.remove(hash) {
            continue;
        }
        found.extend(formers.iter().find_map(|former| {
            let base = former.similar(&places, index).filter(|base| is_here(&former.source, base))?;
            Some(Likely { chunk: *hash, base, source: former.source.clone() })
        }));
    }
    drop_kept(&mut found, new);
    found.truncate(DELTAS_MAX);
    let taken = credit.lock().take(found.len());
    found.truncate(taken);
    found
}

/// What the new version has still has not become something else in it.
fn drop_kept(found: &mut Vec<Likely>, new: &Manifest) {
    let bases: HashSet<ChunkHash> = found.iter().map(|likely| likely.base.hash).collect();
    let kept: HashSet<ChunkHash> = new.chunks().map(|(hash, _)| hash).filter(|hash| bases.contains(hash)).collect();
    found.retain(|likely| !kept.contains(&likely.base.hash));
}

impl Client {
    /// For chunks of a content that are wanted, those in the cache that they are probably like.
    pub(super) async fn likely_in_cache(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        wanted: &[(ChunkHash, u32)],
        credit: &Arc<Mutex<Credit>>,
    ) -> Vec<Likely> {
        let Some(formers) = self.formers.of(entry.hash()).filter(|_| self.remote.gives_deltas()) else {
            return Vec::new();
        };
        let (client, entry, wanted, credit) = (self.clone(), entry.clone(), wanted.to_vec(), credit.clone());
        let work = move || {
            let Some(new) = entry.manifest() else { return Vec::new() };
            let formers: Vec<_> = formers.iter().filter_map(|former| client.former_in_cache(former)).collect();
            likely(&new, &wanted, &formers, &credit, |source, base| client.is_base_here(source, base))
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| {
            tracing::error!(%error, "chunks are fetched as a whole");
            Vec::new()
        })
    }

    fn former_in_cache(&self, content: &Arc<Content>) -> Option<Former> {
        let manifest = self.manifest_here(content)?;
        Some(Former::new(Source::Cached(content.clone()), &manifest, self.places(content)?))
    }

    /// By what is known without reading it.
    fn is_base_here(&self, source: &Source, base: &Similar) -> bool {
        match source {
            Source::Cached(content) => self
                .cache
                .get(&content.hash)
                .is_some_and(|entry| entry.missing(base.at..base.at + u64::from(base.len)).is_empty()),
            Source::File(_) => true,
        }
    }

    /// Gets chunks as [`crate::ports::Remote::fetch`] does, those that are likely like others by their differences to these.
    pub(super) async fn fetch_told(
        self: &Arc<Self>,
        chunks: &[ChunkHash],
        likely: Vec<Likely>,
        credit: &Mutex<Credit>,
        sink: &mut ChunkSink<'_>,
    ) -> Result<(), RemoteError> {
        if likely.is_empty() {
            return self.remote.fetch(chunks, sink).await;
        }
        let alike: Vec<Alike> = likely.iter().map(Likely::alike).collect();
        let mut came = HashSet::new();
        let mut noting = |hash, raw| {
            came.insert(hash);
            sink(hash, raw)
        };
        let whole: Vec<ChunkHash> = match self.remote.fetch_alike(chunks, &alike, &mut noting).await {
            Ok(differences) => self.rebuild_all(likely, differences, credit, sink).await?,
            Err(error) if error.is_of_an_answer() => {
                tracing::warn!(%error, "chunks are fetched as a whole");
                chunks.iter().filter(|hash| !came.contains(*hash)).copied().collect()
            }
            Err(error) => return Err(error),
        };
        if whole.is_empty() { Ok(()) } else { self.remote.fetch(&whole, sink).await }
    }

    /// Hands over what can be made of differences, one at a time, and answers with the chunks of which nothing can.
    async fn rebuild_all(
        self: &Arc<Self>,
        likely: Vec<Likely>,
        differences: Vec<Difference>,
        credit: &Mutex<Credit>,
        sink: &mut ChunkSink<'_>,
    ) -> Result<Vec<ChunkHash>, RemoteError> {
        let mut likely: HashMap<ChunkHash, Likely> = likely.into_iter().map(|likely| (likely.chunk, likely)).collect();
        let mut failed = Vec::new();
        for Difference { alike, envelope } in differences {
            let raw = match likely.remove(&alike.chunk) {
                Some(likely) => {
                    let client = self.clone();
                    tokio::task::spawn_blocking(move || client.rebuild(&likely, &envelope)).await.unwrap_or_else(
                        |error| {
                            tracing::error!(%error, "a chunk is fetched as a whole");
                            None
                        },
                    )
                }
                None => None,
            };
            match raw {
                Some(raw) => {
                    credit.lock().paid();
                    sink(alike.chunk, raw).map_err(RemoteError::Local)?;
                }
                None => failed.push(alike.chunk),
            }
        }
        Ok(failed)
    }

    /// The other chunk may be gone or damaged since it was named.
    fn rebuild(&self, likely: &Likely, envelope: &[u8]) -> Option<Vec<u8>> {
        let beneath = self.read_base(likely)?;
        match envelope::open_against(&likely.chunk, envelope, &beneath) {
            Ok(raw) => Some(raw),
            Err(error) => {
                tracing::warn!(%error, chunk = %likely.chunk, "a difference leads nowhere; the chunk is fetched as a whole");
                None
            }
        }
    }

    fn read_base(&self, Likely { base, source, .. }: &Likely) -> Option<Vec<u8>> {
        let file = match source {
            Source::Cached(content) => return self.read_former(content, &base.hash, base.len),
            Source::File(file) => file,
        };
        let mut raw = vec![0; base.len as usize];
        if let Err(error) = at::read_exact_at(file, &mut raw, base.at) {
            tracing::debug!(%error, "an older version cannot be read any more; a chunk is fetched as a whole");
            return None;
        }
        base.hash.matches(&raw).then_some(raw)
    }
}

#[cfg(test)]
#[path = "alike_tests.rs"]
mod tests;
