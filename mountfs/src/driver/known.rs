//! What the server is known to have, so that it is neither asked about it nor sent it again.
//!
//! Bounded, and only a memory: a chunk that the server has lost since is asked for in the answer to the commit, and is then
//! sent whatever was known.

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use syncmount_common::{ChunkHash, Manifest};

/// Chunks that are remembered: those of some 8 GiB.
const CHUNKS_MAX: usize = 32 * 1024;

/// The first bytes of a chunk's hash. That two chunks share them is as good as impossible, and would cost one more request.
type Prefix = u64;

fn prefix(chunk: &ChunkHash) -> Prefix {
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

/// The chunks of one content that the server has.
#[derive(Default)]
pub(super) struct ChunksOf(Vec<Prefix>);

impl ChunksOf {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let mut all: Vec<Prefix> = manifest.chunks().map(|(hash, _)| prefix(&hash)).collect();
        all.sort_unstable();
        Self(all)
    }

    pub(super) fn has(&self, chunk: &ChunkHash) -> bool {
        self.0.binary_search(&prefix(chunk)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::Extent;

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
        let extents = (0..9).map(|n| Extent::Chunk { hash: chunk(n), len: 1 }).collect();
        let content = ChunksOf::new(&Manifest::new(extents).unwrap());
        assert!((0..9).all(|n| content.has(&chunk(n))) && !content.has(&chunk(9)));
    }
}
