//! Chunks that were read without the cache, because everything in it is in use.
//!
//! A program reads a file in parts that are smaller than a chunk: the last few chunks stay in memory, so that none is fetched
//! for each of its parts. Knows no files.

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use syncmount_common::ChunkHash;

/// As many chunks are remembered: one for each of a few programs that read at the same time.
const CHUNKS_MAX: NonZeroUsize = NonZeroUsize::new(4).unwrap();

/// The last chunks. Their bytes are verified.
pub(super) struct Around(Mutex<LruCache<ChunkHash, Arc<Vec<u8>>>>);

impl Default for Around {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(CHUNKS_MAX)))
    }
}

impl Around {
    pub(super) fn get(&self, hash: &ChunkHash) -> Option<Arc<Vec<u8>>> {
        self.0.lock().get(hash).cloned()
    }

    pub(super) fn remember(&self, hash: ChunkHash, raw: Vec<u8>) -> Arc<Vec<u8>> {
        let raw = Arc::new(raw);
        self.0.lock().put(hash, raw.clone());
        raw
    }

    /// The reader is likely to have gone on: to be called every few seconds.
    pub(super) fn fade(&self) {
        self.0.lock().pop_lru();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_remembered_and_go_one_by_one() {
        let around = Around::default();
        let hash = |seed: u8| ChunkHash::of(&[seed]);
        for seed in 0..5 {
            around.remember(hash(seed), vec![seed]);
        }
        assert_eq!(around.get(&hash(0)), None);
        assert_eq!(*around.get(&hash(1)).unwrap(), [1]);
        around.fade();
        assert_eq!((around.get(&hash(2)), around.get(&hash(1)).is_some()), (None, true), "the longest unused one");
        (0..3).for_each(|_| around.fade());
        assert!((0..5).all(|seed| around.get(&hash(seed)).is_none()));
    }
}
