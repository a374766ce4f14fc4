//! The format of a pack: records one after another, each with its own header, so that an index can be rebuilt from packs.
//!
//! A record is `magic [4] | hash [32] | envelope length u32 LE | CRC-32 u32 LE | envelope`. The CRC covers the hash, the
//! length and the envelope: it tells a torn or damaged record without decompressing it.

use bytes::{BufMut as _, Bytes, BytesMut};
use syncmount_common::ChunkHash;
use syncmount_common::envelope::ENVELOPE_LEN_MAX;

/// Length of a record's header in bytes.
pub const RECORD_HEAD_LEN: usize = 44;

const MAGIC: [u8; 4] = *b"smp\x01";

/// Envelopes from this length on are not copied into the pack's pieces.
const COPY_LEN_MAX: usize = 64 * 1024;

/// A chunk as it goes into a pack.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its name.
    pub hash: ChunkHash,
    /// Length of its raw bytes.
    pub raw_len: u32,
    /// Its envelope, verified.
    pub envelope: Bytes,
}

impl Record {
    /// Bytes that it takes in a pack.
    pub fn len(&self) -> usize {
        RECORD_HEAD_LEN + self.envelope.len()
    }

    /// Never: a record has a header.
    pub const fn is_empty(&self) -> bool {
        false
    }
}

/// Puts a pack together.
#[derive(Default)]
pub struct Builder {
    pieces: Vec<Bytes>,
    open: BytesMut,
    len: u64,
}

impl Builder {
    /// Appends a record; answers the offset of its envelope.
    pub fn push(&mut self, hash: &ChunkHash, envelope: &Bytes) -> u64 {
        let len = envelope.len() as u32;
        self.open.put_slice(&MAGIC);
        self.open.put_slice(hash.as_bytes());
        self.open.put_u32_le(len);
        self.open.put_u32_le(crc(hash, envelope));
        if envelope.len() < COPY_LEN_MAX {
            self.open.put_slice(envelope);
        } else {
            self.pieces.push(self.open.split().freeze());
            self.pieces.push(envelope.clone());
        }
        let offset = self.len + RECORD_HEAD_LEN as u64;
        self.len = offset + u64::from(len);
        offset
    }

    /// The pack, in pieces.
    pub fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.pieces.push(self.open.freeze());
        }
        self.pieces
    }
}

fn crc(hash: &ChunkHash, envelope: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(hash.as_bytes());
    hasher.update(&(envelope.len() as u32).to_le_bytes());
    hasher.update(envelope);
    hasher.finalize()
}

/// A pack's bytes are not records from some offset on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the pack is damaged at offset {offset}")]
pub struct DamagedPack {
    /// Where the first bad record begins.
    pub offset: u64,
}

/// The records of a pack with the offsets of their envelopes, up to the first damaged one.
pub fn scan(pack: &[u8]) -> impl Iterator<Item = Result<(ChunkHash, u64, &[u8]), DamagedPack>> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset == pack.len() {
            return None;
        }
        let record = record_at(pack, offset).ok_or(DamagedPack { offset: offset as u64 });
        offset = record.map_or(pack.len(), |(_, start, envelope)| start as usize + envelope.len());
        Some(record)
    })
}

/// The sound records of a pack, also those behind damage: after it, the search goes on at the next record that is sound.
pub fn salvage(pack: &[u8]) -> impl Iterator<Item = (ChunkHash, u64, &[u8])> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        while offset < pack.len() {
            if let Some(record) = record_at(pack, offset) {
                offset = record.1 as usize + record.2.len();
                return Some(record);
            }
            let rest = &pack[offset + 1..];
            offset += 1 + rest.windows(MAGIC.len()).position(|window| window == MAGIC).unwrap_or(rest.len());
        }
        None
    })
}

fn record_at(pack: &[u8], offset: usize) -> Option<(ChunkHash, u64, &[u8])> {
    let rest = pack[offset..].strip_prefix(&MAGIC)?;
    let (hash, rest) = rest.split_first_chunk()?;
    let (len, rest) = rest.split_first_chunk()?;
    let (sum, rest) = rest.split_first_chunk()?;
    let len = u32::from_le_bytes(*len) as usize;
    let envelope = rest.get(..len).filter(|_| len <= ENVELOPE_LEN_MAX)?;
    let hash = ChunkHash::from_bytes(*hash);
    let sound = crc(&hash, envelope) == u32::from_le_bytes(*sum);
    sound.then_some((hash, (offset + RECORD_HEAD_LEN) as u64, envelope))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack() -> (Vec<u8>, Vec<(ChunkHash, u64, Bytes)>) {
        let mut builder = Builder::default();
        let envelopes = [Bytes::from_static(b"one"), Bytes::from(vec![2; COPY_LEN_MAX]), Bytes::from_static(b"three")];
        let records = envelopes.map(|envelope| {
            let hash = ChunkHash::of(&envelope);
            (hash, builder.push(&hash, &envelope), envelope)
        });
        (builder.finish().concat(), records.to_vec())
    }

    #[test]
    fn an_index_can_be_rebuilt_from_a_pack() {
        let (bytes, records) = pack();
        let found: Vec<_> = scan(&bytes).map(Result::unwrap).collect();
        assert_eq!(found.len(), records.len());
        for ((hash, offset, envelope), found) in records.iter().zip(found) {
            assert_eq!((*hash, *offset, &envelope[..]), found);
            assert_eq!(&bytes[*offset as usize..][..envelope.len()], &envelope[..]);
        }
    }

    #[test]
    fn damage_ends_the_scan_where_it_is() {
        let (bytes, records) = pack();
        let second = records[1].1 as usize;
        for (at, good) in [(2, 0), (second - 1, 1), (second + 5, 1), (bytes.len() - 1, 2)] {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let found: Vec<_> = scan(&damaged).collect();
            assert_eq!(found.len(), good + 1, "damage at {at}");
            assert!(found[good].is_err() && found[..good].iter().all(Result::is_ok));
            assert_eq!(salvage(&damaged).count(), 2, "all but the damaged one");
        }
        assert!(scan(&bytes[..bytes.len() - 1]).last().unwrap().is_err(), "a torn end is noticed");
    }
}
