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
    /// The extent that stood behind the last chunk that both have.
    next: usize,
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
        Self { manifest, starts, places, next: 0, fresh: 0 }
    }

    /// Whether the draft's next chunk is one of these.
    pub(super) fn has(&mut self, chunk: &ChunkHash) -> bool {
        let wanted = prefix(chunk);
        let from = self.places.partition_point(|(found, _)| *found < wanted);
        let Some((_, index)) = self.places.get(from).filter(|(found, _)| *found == wanted) else { return false };
        (self.next, self.fresh) = (*index as usize + 1, 0);
        true
    }

    /// The chunk that stood where the draft's next one, which is new, stands now.
    pub(super) fn similar(&mut self) -> Option<Similar> {
        let index = self.next;
        (self.next, self.fresh) = (index + 1, self.fresh + 1);
        if self.fresh > SIMILAR_MAX {
            return None;
        }
        match (self.manifest.extents().get(index)?, self.starts.get(index)?) {
            (Extent::Chunk { hash, len }, at) => Some(Similar { hash: *hash, at: *at, len: *len }),
            (Extent::Hole { .. }, _) => None,
        }
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
        assert!((0..3).all(|n| beneath.has(&chunk(n))) && !beneath.has(&chunk(99)));
        assert_eq!(beneath.similar(), Some(Similar { hash: chunk(3), at: 1 + 2 + 3, len: 4 }));
        assert_eq!(beneath.similar().map(|found| found.len), Some(5));
        assert!(beneath.has(&chunk(2)));
        assert_eq!((0..9).filter_map(|_| beneath.similar()).count(), SIMILAR_MAX as usize, "then it is another file");
        assert!(beneath.has(&chunk(8)));
        assert_eq!(beneath.similar(), None, "nothing stood there");
    }
}
