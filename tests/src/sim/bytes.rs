//! Every byte string of a world: what it is called, and who made it.

use super::Rng;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest, envelope};

/// Byte strings that several users may write independently of each other.
const COMMON: [&[u8]; 4] = [b"", b"a", b"the same everywhere", b"b"];

/// The bytes by the name of their content.
#[derive(Default)]
pub struct Library {
    bytes: BTreeMap<ContentHash, Arc<[u8]>>,
    tags: u64,
}

impl Library {
    /// A byte string for a user to write: now and then a common one, else one that nobody has written before. One of
    /// two lengths, so that different bytes often have one size.
    pub fn invent(&mut self, rng: &mut Rng, common_per_mille: u64) -> Arc<[u8]> {
        if rng.chance(common_per_mille) {
            return COMMON[rng.index(COMMON.len())].into();
        }
        self.tags += 1;
        let text = format!("unique {:06}", self.tags);
        let text = if rng.chance(500) { text + &"x".repeat(200) } else { text };
        text.into_bytes().into()
    }

    /// The content that these bytes are, remembered.
    pub fn enter(&mut self, bytes: &Arc<[u8]>) -> Content {
        let content = content_of(bytes);
        self.bytes.entry(content.hash).or_insert_with(|| bytes.clone());
        content
    }

    /// The bytes of a content.
    pub fn get(&self, hash: ContentHash) -> Option<&Arc<[u8]>> {
        self.bytes.get(&hash)
    }
}

/// Whether only one user can have written these bytes.
pub fn is_unique(bytes: &[u8]) -> bool {
    bytes.starts_with(b"unique ")
}

/// One chunk, or nothing for no bytes.
pub fn content_of(bytes: &[u8]) -> Content {
    let hash = ChunkHash::of(bytes);
    let extents = if bytes.is_empty() { Vec::new() } else { vec![Extent::Chunk { hash, len: bytes.len() as u32 }] };
    Content::of(Manifest::new(extents).unwrap_or_default(), None)
}

/// The chunk that the bytes are, as it travels.
pub fn sealed(bytes: &[u8]) -> Option<(ChunkHash, Bytes)> {
    (!bytes.is_empty()).then(|| (ChunkHash::of(bytes), Bytes::from(envelope::seal(bytes))))
}
