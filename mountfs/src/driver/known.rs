//! What the server is known to have, so that it is neither asked about it nor sent it again.
//!
//! Bounded, and only a memory: a chunk that the server has lost since is asked for in the answer to the commit, and is then
//! sent whatever was known.

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use syncmount_common::{ChunkHash, Extent, Manifest};

/// Chunks that are remembered: those of some 8 GiB.
const CHUNKS_MAX: usize = 32 * 1024;

/// The first bytes of a chunk's hash. That two chunks share them is as good as impossible, and would cost one more request.
pub(super) type Prefix = u64;

pub(super) fn prefix(chunk: &ChunkHash) -> Prefix {
    chunk.as_bytes().first_chunk().map_or(0, |bytes| Prefix::from_le_bytes(*bytes))
}

/// Chunks that the server was told or has told of.
pub(super) struct KnownChunks(Mutex<LruCache<Prefix, ()>>);

impl Default for KnownChunks {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(CHUNKS_MAX).unwrap_or(NonZeroUsize::MIN))))
    }
}

impl KnownChunks {
    /// The server has this chunk.
    pub(super) fn note(&self, chunk: &ChunkHash) {
        self.0.lock().put(prefix(chunk), ());
    }

    /// Whether the server has it, as far as is known.
    pub(super) fn has(&self, chunk: &ChunkHash) -> bool {
        self.0.lock().get(&prefix(chunk)).is_some()
    }

    /// The server lacks something that it should have.
    pub(super) fn forget(&self) {
        self.0.lock().clear();
    }
}

/// A chunk that the server has and that another one probably differs little from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Similar {
    pub(super) hash: ChunkHash,
    /// Where it lies in its content.
    pub(super) at: u64,
    pub(super) len: u32,
}

/// So many new chunks behind one that is known may be like those that were there.
const SIMILAR_MAX: u32 = 4;

/// The content beneath a draft, whose chunks the server has, and how far the draft has been compared with it.
pub(super) struct Beneath {
    manifest: Arc<Manifest>,
    /// Where each extent begins.
    starts: Vec<u64>,
    /// Where each chunk is, ordered by prefix.
    places: Vec<(Prefix, u32)>,
    /// By how much the last chunk that both have was moved: from its place in the draft to its place here.
    moved: i64,
    /// New chunks since then.
    fresh: u32,
}

impl Beneath {
    pub(super) fn new(manifest: Arc<Manifest>) -> Self {
        let chunk = |(index, extent): (u32, &Extent)| match extent {
            Extent::Chunk { hash, .. } => Some((prefix(hash), index)),
            Extent::Hole { .. } => None,
        };
        let mut places: Vec<_> = (0..).zip(manifest.extents()).filter_map(chunk).collect();
        places.sort_unstable();
        let starts = manifest.with_offsets().map(|(start, _)| start).collect();
        Self { manifest, starts, places, moved: 0, fresh: 0 }
    }

    /// Whether the draft's chunk that begins at `at` is one of these.
    pub(super) fn has(&mut self, chunk: &ChunkHash, at: u64) -> bool {
        let wanted = prefix(chunk);
        let from = self.places.partition_point(|(found, _)| *found < wanted);
        let Some((_, index)) = self.places.get(from).filter(|(found, _)| *found == wanted) else { return false };
        let moved = self.starts.get(*index as usize).and_then(|start| start.checked_signed_diff(at));
        (self.moved, self.fresh) = (moved.unwrap_or(0), 0);
        true
    }

    /// The chunk that stood where most of a new one of the draft, which begins at `at`, stands now. A chunk that was cut in two
    /// by a change is it for both.
    pub(super) fn similar(&mut self, at: u64, len: u64) -> Option<Similar> {
        self.fresh = self.fresh.saturating_add(1);
        if self.fresh > SIMILAR_MAX {
            return None;
        }
        let begin = at.checked_add_signed(self.moved)?;
        let end = begin.checked_add(len)?;
        let first = self.starts.partition_point(|start| *start <= begin).checked_sub(1)?;
        let extents = self.manifest.extents()[first..].iter().zip(&self.starts[first..]);
        let within = extents.take_while(|(_, start)| **start < end).filter_map(|(extent, start)| match extent {
            Extent::Chunk { hash, len } => {
                let overlap = end.min(start + u64::from(*len)).checked_sub(begin.max(*start))?;
                (overlap > 0).then_some((overlap, Similar { hash: *hash, at: *start, len: *len }))
            }
            Extent::Hole { .. } => None,
        });
        within.max_by_key(|(overlap, _)| *overlap).map(|(_, similar)| similar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_is_known_until_it_is_forgotten() {
        let known = KnownChunks::default();
        let chunk = |n: u32| ChunkHash::of(&n.to_le_bytes());
        known.note(&chunk(0));
        assert!(known.has(&chunk(0)) && !known.has(&chunk(1)));
        (1..=CHUNKS_MAX as u32).for_each(|n| known.note(&chunk(n)));
        assert!(!known.has(&chunk(0)) && known.has(&chunk(1)), "it is bounded");
        known.forget();
        assert!(!known.has(&chunk(1)));
    }

    #[test]
    fn a_new_chunk_is_like_the_one_that_stood_there() {
        let chunk = |n: u32| ChunkHash::of(&n.to_le_bytes());
        let extents = (0..9).map(|n| Extent::Chunk { hash: chunk(n), len: n + 1 }).collect();
        let mut beneath = Beneath::new(Arc::new(Manifest::new(extents).unwrap()));
        let place = |n: u32| u64::from(n * (n + 1) / 2);
        assert!((0..3).all(|n| beneath.has(&chunk(n), place(n))) && !beneath.has(&chunk(99), place(3)));
        let fourth = Similar { hash: chunk(3), at: 6, len: 4 };
        assert_eq!(beneath.similar(6, 4), Some(fourth));
        assert_eq!(beneath.similar(12, 9).map(|found| found.len), Some(6), "it has most of this one");
        assert!(beneath.has(&chunk(2), 3));
        assert_eq!([beneath.similar(6, 1), beneath.similar(7, 3)], [Some(fourth); 2], "it was cut in two");
        assert!(beneath.has(&chunk(2), 103));
        assert_eq!(beneath.similar(106, 4), Some(fourth), "it was moved");
        assert_eq!((0..9).filter_map(|_| beneath.similar(106, 4)).count(), SIMILAR_MAX as usize - 1, "another file");
        assert!(beneath.has(&chunk(8), place(8)));
        assert_eq!(beneath.similar(place(9), 5), None, "nothing stood there");
    }
}
