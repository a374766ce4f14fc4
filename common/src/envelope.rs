//! How a chunk travels and rests: a header of 8 bytes and the data, plain or compressed.
//!
//! `version u8 = 1 | codec u8 | key id u16 LE (reserved, 0) | raw length u32 LE | data`. The hash that names a chunk is
//! over the raw bytes, so that the codec may change without changing any name.
//!
//! On its way to somebody who has a similar chunk, a chunk may be told by its difference to that one (codec 2): the data begin
//! with the other chunk's hash. Such an envelope is opened where it arrives, and by a server sealed anew; none is ever stored.

#![allow(
    clippy::missing_const_for_thread_local,
    reason = "for targets whose thread-locals have keys the lint does not see that the initializers are const"
)]

use crate::hash::{ChunkHash, HASH_LEN};
use crate::manifest::CHUNK_LEN_MAX;
use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};
use zstd::bulk::{Compressor, Decompressor};

/// Length of the header in bytes.
pub const HEADER_LEN: usize = 8;

/// The longest envelope: zstd may grow data that does not compress, but then [`seal`] stores it plain.
pub const ENVELOPE_LEN_MAX: usize = HEADER_LEN + CHUNK_LEN_MAX as usize;

const VERSION: u8 = 1;
const CODEC_NONE: u8 = 0;
const CODEC_ZSTD: u8 = 1;
const CODEC_DELTA: u8 = 2;

/// Raw lengths of chunks that may be told by their difference, and of those they may differ from.
pub const DELTA_LENS: std::ops::RangeInclusive<usize> = 16 * 1024..=4 * 1024 * 1024;

/// Two of the longest such chunks fit into the window: all of the memory that a difference can make its receiver take.
const DELTA_WINDOW_LOG: u32 = 23;

/// Below this many bytes compression saves less than a frame costs.
const COMPRESS_LEN_MIN: usize = 128;
const ZSTD_LEVEL: i32 = 1;

/// Why an envelope is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// Shorter than a header, or the data is not as long as the header says.
    #[error("the chunk's envelope is cut short or too long")]
    Malformed,
    /// A version, codec or key id that this program does not know.
    #[error("the chunk's envelope has an unknown version, codec or key id")]
    Unsupported,
    /// A raw length of 0 or above the limit.
    #[error("the chunk's raw length is out of range")]
    BadLength,
    /// The data do not decompress to what the header says.
    #[error("the chunk's data is damaged")]
    Damaged,
    /// The raw bytes have another hash than the name says.
    #[error("the chunk's bytes do not have the hash it is named by")]
    HashMismatch,
}

/// Wraps raw bytes (1 to [`CHUNK_LEN_MAX`]), compressed if that makes them smaller.
///
/// # Panics
/// If the length is out of range: chunks come from the chunker, which keeps it.
pub fn seal(raw: &[u8]) -> Vec<u8> {
    assert!(!raw.is_empty() && raw.len() <= CHUNK_LEN_MAX as usize, "a chunk of {} bytes", raw.len());
    let compressed = if raw.len() >= COMPRESS_LEN_MIN && looks_compressible(raw) {
        compress(raw).ok().filter(|data| data.len() + data.len() / 16 < raw.len())
    } else {
        None
    };
    let (codec, data) = compressed.as_deref().map_or((CODEC_NONE, raw), |data| (CODEC_ZSTD, data));
    let mut out = Vec::with_capacity(HEADER_LEN + data.len());
    out.extend_from_slice(&[VERSION, codec, 0, 0]);
    out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    out.extend_from_slice(data);
    out
}

/// A sample of a long chunk is compressed first: most large files (archives, pictures, video) do not shrink, and
/// finding that out on 4 KiB costs a hundredth of finding it out on the whole.
fn looks_compressible(raw: &[u8]) -> bool {
    const SAMPLE: usize = 4096;
    if raw.len() <= 4 * SAMPLE {
        return true;
    }
    let middle = raw.len() / 2;
    let sample = &raw[middle..middle + SAMPLE];
    compress(sample).is_ok_and(|data| data.len() < SAMPLE - SAMPLE / 16)
}

/// What zstd needs to work in takes longer to set up than a small chunk to compress, so each thread keeps one; for large chunks
/// it is large, and does not matter.
const KEPT_LEN_MAX: usize = 64 * 1024;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

fn compress(raw: &[u8]) -> io::Result<Vec<u8>> {
    if raw.len() > KEPT_LEN_MAX {
        return zstd::bulk::compress(raw, ZSTD_LEVEL);
    }
    COMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(compressor) => compressor.compress(raw),
        None => kept.insert(Compressor::new(ZSTD_LEVEL)?).compress(raw),
    })
}

fn decompress(data: &[u8], raw_len: usize) -> io::Result<Vec<u8>> {
    if raw_len > KEPT_LEN_MAX {
        return zstd::bulk::decompress(data, raw_len);
    }
    DECOMPRESSOR.with_borrow_mut(|kept| match kept {
        Some(decompressor) => decompressor.decompress(data, raw_len),
        None => kept.insert(Decompressor::new()?).decompress(data, raw_len),
    })
}

/// The raw length that the header states. Checks the header, not the data.
pub fn raw_len(envelope: &[u8]) -> Result<u32, EnvelopeError> {
    let header: &[u8; HEADER_LEN] = envelope.first_chunk().ok_or(EnvelopeError::Malformed)?;
    let [version, codec, key_low, key_high, len @ ..] = *header;
    if version != VERSION || codec > CODEC_ZSTD || key_low != 0 || key_high != 0 {
        return Err(EnvelopeError::Unsupported);
    }
    match u32::from_le_bytes(len) {
        0 => Err(EnvelopeError::BadLength),
        len if len > CHUNK_LEN_MAX => Err(EnvelopeError::BadLength),
        len => Ok(len),
    }
}

/// Unwraps an envelope and verifies that its bytes are the ones that `hash` names.
pub fn open(hash: &ChunkHash, envelope: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let len = raw_len(envelope)? as usize;
    let data = &envelope[HEADER_LEN..];
    let raw = if envelope[1] == CODEC_ZSTD {
        decompress(data, len).map_err(|_| EnvelopeError::Damaged)?
    } else {
        data.to_vec()
    };
    if raw.len() != len {
        return Err(EnvelopeError::Malformed);
    }
    if hash.matches(&raw) { Ok(raw) } else { Err(EnvelopeError::HashMismatch) }
}

/// Wraps `raw` as its difference to the chunk `base`, whose raw bytes are `beneath`; `None` unless that is less than half as
/// long as `raw`.
pub fn seal_against(base: &ChunkHash, beneath: &[u8], raw: &[u8]) -> Option<Vec<u8>> {
    if !DELTA_LENS.contains(&raw.len()) || !DELTA_LENS.contains(&beneath.len()) {
        return None;
    }
    let mut out = vec![VERSION, CODEC_DELTA, 0, 0];
    out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
    out.extend_from_slice(base.as_bytes());
    let out = difference(out, beneath, raw).ok()?;
    (out.len() < raw.len() / 2).then_some(out)
}

fn difference(out: Vec<u8>, beneath: &[u8], raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(out, ZSTD_LEVEL, beneath)?;
    encoder.long_distance_matching(true)?;
    encoder.window_log((beneath.len() + raw.len()).next_power_of_two().ilog2().min(DELTA_WINDOW_LOG))?;
    encoder.write_all(raw)?;
    encoder.finish()
}

/// The chunk that is needed to open an envelope that tells a difference; `None` for any other envelope.
pub fn base(envelope: &[u8]) -> Option<ChunkHash> {
    let (header, data) = envelope.split_first_chunk::<HEADER_LEN>()?;
    if header[..2] != [VERSION, CODEC_DELTA] {
        return None;
    }
    data.first_chunk().map(|hash| ChunkHash::from_bytes(*hash))
}

/// Unwraps an envelope that tells a difference to the chunk whose raw bytes are `beneath`, and verifies that its bytes are the
/// ones that `hash` names.
pub fn open_against(hash: &ChunkHash, envelope: &[u8], beneath: &[u8]) -> Result<Vec<u8>, EnvelopeError> {
    let (header, data) = envelope.split_first_chunk::<HEADER_LEN>().ok_or(EnvelopeError::Malformed)?;
    let [version, codec, key_low, key_high, len @ ..] = *header;
    if version != VERSION || codec != CODEC_DELTA || key_low != 0 || key_high != 0 {
        return Err(EnvelopeError::Unsupported);
    }
    let len = u32::from_le_bytes(len) as usize;
    if !DELTA_LENS.contains(&len) || !DELTA_LENS.contains(&beneath.len()) {
        return Err(EnvelopeError::BadLength);
    }
    let data = data.get(HASH_LEN..).ok_or(EnvelopeError::Malformed)?;
    let raw = apply(data, beneath, len).map_err(|_| EnvelopeError::Damaged)?;
    if raw.len() != len {
        return Err(EnvelopeError::Malformed);
    }
    if hash.matches(&raw) { Ok(raw) } else { Err(EnvelopeError::HashMismatch) }
}

/// At most one byte more than there should be.
fn apply(data: &[u8], beneath: &[u8], len: usize) -> io::Result<Vec<u8>> {
    let mut decoder = zstd::stream::read::Decoder::with_ref_prefix(data, beneath)?;
    decoder.window_log_max(DELTA_WINDOW_LOG)?;
    let mut raw = Vec::with_capacity(len + 1);
    decoder.take(len as u64 + 1).read_to_end(&mut raw)?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens(raw in proptest::collection::vec(any::<u8>(), 1..70_000), zeros in 0usize..70_000) {
            let mut raw = raw;
            raw.resize(raw.len() + zeros, 0);
            let envelope = seal(&raw);
            prop_assert!(envelope.len() <= HEADER_LEN + raw.len());
            prop_assert_eq!(raw_len(&envelope).unwrap() as usize, raw.len());
            prop_assert_eq!(open(&ChunkHash::of(&raw), &envelope).unwrap(), raw);
        }

        #[test]
        fn what_is_damaged_spoils_nothing_after_it(
            raw in proptest::collection::vec(0u8..4, 200..70_000),
            at in any::<prop::sample::Index>(),
        ) {
            let (hash, envelope) = (ChunkHash::of(&raw), seal(&raw));
            let mut cut = envelope.clone();
            cut.truncate(HEADER_LEN + at.index(envelope.len() - HEADER_LEN));
            prop_assert!(open(&hash, &cut).is_err());
            prop_assert_eq!(open(&hash, &envelope).unwrap(), raw);
        }

        #[test]
        fn anything_else_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert!(open(&ChunkHash::of(b"x"), &bytes).is_err());
        }
    }

    fn noise(len: usize, mut state: u64) -> Vec<u8> {
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        };
        (0..len).map(next).collect()
    }

    #[test]
    fn a_small_change_of_noise_is_a_small_difference() {
        for len in [*DELTA_LENS.start(), 256 * 1024, 1024 * 1024, *DELTA_LENS.end()] {
            let beneath = noise(len, 1);
            let base = ChunkHash::of(&beneath);
            let mut raw = beneath.clone();
            raw[len / 2..len / 2 + 1000].copy_from_slice(&noise(1000, 2));
            raw.splice(len / 4..len / 4, *b"inserted");
            raw.truncate(*DELTA_LENS.end());
            let sealed = seal_against(&base, &beneath, &raw).unwrap();
            assert!(sealed.len() < 2500, "{} bytes for a change of {len}", sealed.len());
            assert_eq!(super::base(&sealed), Some(base));
            assert_eq!(open_against(&ChunkHash::of(&raw), &sealed, &beneath).unwrap(), raw);
            assert_eq!(open(&ChunkHash::of(&raw), &sealed), Err(EnvelopeError::Unsupported), "it is never stored");
            assert_eq!(super::base(&seal(&raw)), None);
        }
        let (one, other) = (noise(100_000, 1), noise(100_000, 2));
        assert_eq!(seal_against(&ChunkHash::of(&one), &one, &other), None, "nothing in common");
        assert_eq!(seal_against(&ChunkHash::of(&one), &one, &one[..1000]), None, "too short");
    }

    #[test]
    fn differences_that_lie_are_found() {
        let beneath = noise(50_000, 1);
        let mut raw = beneath.clone();
        raw[7] ^= 1;
        let hash = ChunkHash::of(&raw);
        let good = seal_against(&ChunkHash::of(&beneath), &beneath, &raw).unwrap();
        let with = |at: usize, bytes: &[u8]| {
            let mut lie = good.clone();
            lie[at..at + bytes.len()].copy_from_slice(bytes);
            open_against(&hash, &lie, &beneath)
        };
        assert_eq!(with(4, &49_999_u32.to_le_bytes()), Err(EnvelopeError::Malformed));
        assert_eq!(with(4, &50_001_u32.to_le_bytes()), Err(EnvelopeError::Malformed));
        assert_eq!(with(4, &u32::MAX.to_le_bytes()), Err(EnvelopeError::BadLength));
        assert_eq!(with(4, &7_u32.to_le_bytes()), Err(EnvelopeError::BadLength));
        assert_eq!(with(2, &[1]), Err(EnvelopeError::Unsupported));
        assert_eq!(with(1, &[1]), Err(EnvelopeError::Unsupported));
        assert!(open_against(&hash, &good, &noise(50_000, 3)).is_err(), "another base");
        assert_eq!(open_against(&hash, &good, &beneath[..100]), Err(EnvelopeError::BadLength));
        assert_eq!(open_against(&ChunkHash::of(b"other"), &good, &beneath), Err(EnvelopeError::HashMismatch));
        for len in 0..good.len() {
            assert!(open_against(&hash, &good[..len], &beneath).is_err(), "{len}");
        }
        // A frame that stands for far more than it says: nothing but one byte too many is unpacked.
        let zeros = zstd::bulk::compress(&vec![0; 200 << 20], 1).unwrap();
        let bomb = [&good[..HEADER_LEN + HASH_LEN], &zeros].concat();
        assert!(open_against(&hash, &bomb, &beneath).is_err());
    }

    #[test]
    fn lies_are_found() {
        let raw = vec![7; 1000];
        let hash = ChunkHash::of(&raw);
        let good = seal(&raw);
        assert!(good.len() < 100, "a thousand equal bytes compress");
        assert_eq!(open(&ChunkHash::of(b"other"), &good), Err(EnvelopeError::HashMismatch));
        assert_eq!(open(&hash, &good[..5]), Err(EnvelopeError::Malformed));
        assert_eq!(open(&hash, &good[..good.len() - 1]), Err(EnvelopeError::Damaged));
        let mut lies = good.clone();
        lies[4..8].copy_from_slice(&999u32.to_le_bytes());
        assert_eq!(open(&hash, &lies), Err(EnvelopeError::Damaged));
        lies[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(open(&hash, &lies), Err(EnvelopeError::BadLength));
        let mut keyed = good;
        keyed[2] = 1;
        assert_eq!(open(&hash, &keyed), Err(EnvelopeError::Unsupported));
    }
}
