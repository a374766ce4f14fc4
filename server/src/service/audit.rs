//! One pack against what the index says of it. Pure: bytes and rows in, findings out.

use crate::blob::pack::{RECORD_HEAD_LEN, Record, salvage};
use crate::meta::{PackId, PackSlice, PackedChunk};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use syncmount_common::{ChunkHash, envelope};

/// What is right and wrong with a pack.
#[derive(Default)]
pub(super) struct Audit {
    /// Rows whose bytes are there and hash right.
    pub(super) sound: u64,
    /// Rows whose bytes are gone or wrong.
    pub(super) bad: Vec<PackedChunk>,
    /// Chunks that the rows lead to but that a rebuild from the pack would not find: their record's head is damaged.
    pub(super) headless: Vec<Record>,
    /// Records whose bytes hash right and that no row of this pack names.
    pub(super) strays: Vec<PackedChunk>,
    /// Bytes that belong to no sound record.
    pub(super) unreadable: u64,
}

/// Compares a pack with its rows.
pub(super) fn audit(pack: PackId, bytes: &Bytes, rows: Vec<PackedChunk>) -> Audit {
    let records: HashMap<u64, (ChunkHash, &[u8])> =
        salvage(bytes).map(|(hash, offset, envelope)| (offset, (hash, envelope))).collect();
    let readable: usize = records.values().map(|(_, envelope)| RECORD_HEAD_LEN + envelope.len()).sum();
    let mut audit = Audit { unreadable: (bytes.len() - readable) as u64, ..Audit::default() };
    let mut named = HashSet::new();
    for row in rows {
        match envelope_of(bytes, &row) {
            Some(envelope) => {
                audit.sound += 1;
                named.insert(row.slice.offset);
                if !records.contains_key(&row.slice.offset) {
                    audit.headless.push(Record { hash: row.hash, raw_len: row.raw_len, envelope });
                }
            }
            None => audit.bad.push(row),
        }
    }
    let strays = records.into_iter().filter(|(offset, _)| !named.contains(offset));
    audit.strays = strays.filter_map(|(offset, (hash, envelope))| stray(pack, offset, hash, envelope)).collect();
    audit
}

/// The envelope that a row leads to, if it is the one that the row means.
fn envelope_of(bytes: &Bytes, row: &PackedChunk) -> Option<Bytes> {
    let start = usize::try_from(row.slice.offset).ok()?;
    let end = start.checked_add(row.slice.len as usize).filter(|end| *end <= bytes.len())?;
    let envelope = bytes.slice(start..end);
    let raw = envelope::open(&row.hash, &envelope).ok()?;
    (raw.len() == row.raw_len as usize).then_some(envelope)
}

fn stray(pack: PackId, offset: u64, hash: ChunkHash, bytes: &[u8]) -> Option<PackedChunk> {
    let raw_len = envelope::open(&hash, bytes).ok()?.len() as u32;
    Some(PackedChunk { hash, raw_len, slice: PackSlice { pack, offset, len: bytes.len() as u32 } })
}
