//! Content-defined chunking: where a content is cut depends on its bytes, so an insertion moves few cut points.
//!
//! FastCDC (Xia et al., "The Design of Fast Content-Defined Chunking for Data Deduplication Based Storage Systems", 2020)
//! with the chunk sizes below. The sizes are part of the format: two devices that cut the same bytes differently would
//! still agree on what the bytes are, but would send them twice. Golden tests hold the cut points.

use crate::manifest::CHUNK_LEN_MAX;
use fastcdc::v2020::FastCDC;

/// Chunk sizes in bytes for contents up to a certain size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkSizes {
    /// No chunk but the last is shorter. A content up to this size is one chunk.
    pub min: usize,
    /// What the cut points aim at.
    pub average: usize,
    /// No chunk is longer.
    pub max: usize,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const GIB: u64 = 1024 * MIB as u64;

const ORDINARY: ChunkSizes = ChunkSizes { min: 64 * KIB, average: 256 * KIB, max: MIB };
const LARGE: ChunkSizes = ChunkSizes { min: 256 * KIB, average: MIB, max: 4 * MIB };
const HUGE: ChunkSizes = ChunkSizes { min: MIB, average: 4 * MIB, max: CHUNK_LEN_MAX as usize };

const ORDINARY_MAX: u64 = 6 * GIB;
const LARGE_MAX: u64 = 96 * GIB;

impl ChunkSizes {
    /// The sizes for a content of `size` bytes. The limits are no round numbers on purpose: a file that people made
    /// exactly 4 GiB large and that grows by a byte keeps its cut points.
    pub const fn for_content(size: u64) -> Self {
        if size <= ORDINARY_MAX {
            ORDINARY
        } else if size <= LARGE_MAX {
            LARGE
        } else {
            HUGE
        }
    }

    /// The size of the largest content that is cut so, if there is one.
    pub fn size_max(self) -> Option<u64> {
        [(ORDINARY, ORDINARY_MAX), (LARGE, LARGE_MAX)].into_iter().find(|(sizes, _)| *sizes == self).map(|(_, max)| max)
    }
}

/// Cuts a stream of bytes that is pushed into it. Holds at most two chunks of the largest size.
pub struct Chunker {
    sizes: ChunkSizes,
    pending: Vec<u8>,
    start: usize,
}

impl Chunker {
    /// A chunker at the begin of a content (or at a cut point of one).
    pub fn new(sizes: ChunkSizes) -> Self {
        Self { sizes, pending: Vec::new(), start: 0 }
    }

    /// Takes the next bytes; `emit` is called with each chunk that they complete.
    pub fn push<E>(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while !bytes.is_empty() {
            let room = (2 * self.sizes.max).saturating_sub(self.pending.len());
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.pending.extend_from_slice(now);
            bytes = later;
            while self.pending.len() - self.start >= self.sizes.max {
                self.cut_one(&mut emit)?;
            }
            self.pending.drain(..self.start);
            self.start = 0;
        }
        Ok(())
    }

    /// Cuts what is left; the chunker is ready for another content afterwards.
    pub fn finish<E>(&mut self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        while self.start < self.pending.len() {
            self.cut_one(&mut emit)?;
        }
        self.pending.clear();
        self.start = 0;
        Ok(())
    }

    fn cut_one<E>(&mut self, emit: &mut impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let source = &self.pending[self.start..];
        let len = if source.len() <= self.sizes.min {
            source.len()
        } else {
            FastCDC::new(source, self.sizes.min, self.sizes.average, self.sizes.max).cut(0, source.len()).1
        };
        emit(&source[..len])?;
        self.start += len;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::ChunkHash;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        (0..len.div_ceil(8))
            .flat_map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()
            })
            .take(len)
            .collect()
    }

    fn cut(bytes: &[u8], piece: usize, sizes: ChunkSizes) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        let mut chunker = Chunker::new(sizes);
        let mut emit = |chunk: &[u8]| {
            chunks.push(chunk.to_vec());
            Ok::<_, Infallible>(())
        };
        for part in bytes.chunks(piece) {
            chunker.push(part, &mut emit).unwrap();
        }
        chunker.finish(&mut emit).unwrap();
        chunks
    }

    #[test]
    fn golden_cut_points() {
        let lens: Vec<usize> = cut(&noise(4 * MIB, 1), MIB, ORDINARY).iter().map(Vec::len).collect();
        assert_eq!(lens.iter().sum::<usize>(), 4 * MIB);
        assert_eq!(lens, GOLDEN, "changing the cut points makes every stored content unknown");
    }

    const GOLDEN: &[usize] = &[
        364837, 167313, 342136, 276446, 196010, 161430, 537706, 368693, 206500, 237255, 368600, 327633, 427977, 211768,
    ];

    #[test]
    fn a_change_in_the_middle_keeps_the_chunks_around_it() {
        let before = noise(8 * MIB, 2);
        let mut after = before.clone();
        after.splice(4 * MIB..4 * MIB, [1, 2, 3]);
        let known: std::collections::HashSet<_> =
            cut(&before, MIB, ORDINARY).iter().map(|chunk| ChunkHash::of(chunk)).collect();
        let fresh = cut(&after, MIB, ORDINARY).iter().filter(|chunk| !known.contains(&ChunkHash::of(chunk))).count();
        assert!(fresh <= 2, "{fresh} chunks are new");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn pieces_do_not_matter_and_nothing_is_lost(len in 0usize..3_000_000, piece in 1usize..2_000_000, seed: u64) {
            let bytes = noise(len, seed);
            let chunks = cut(&bytes, piece, ORDINARY);
            prop_assert_eq!(&chunks.concat(), &bytes);
            prop_assert!(chunks.iter().all(|chunk| chunk.len() <= ORDINARY.max));
            prop_assert!(chunks.iter().rev().skip(1).all(|chunk| chunk.len() >= ORDINARY.min));
            prop_assert_eq!(chunks, cut(&bytes, usize::MAX, ORDINARY));
        }
    }

    #[test]
    fn a_content_up_to_the_minimum_is_one_chunk() {
        assert_eq!(cut(&noise(ORDINARY.min, 3), 1000, ORDINARY).len(), 1);
        assert!(cut(&[], 1, ORDINARY).is_empty());
    }
}
