//! Every byte string of a world: what it is called, how it is cut, and who made it.

use super::Rng;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest, envelope};

/// Longer byte strings are cut into chunks of this length.
pub const PIECE: usize = 128;

/// Byte strings that several users may write independently of each other.
const COMMON: [&[u8]; 5] = [b"", b"a", b"the same everywhere", b"b", &[b'c'; 2 * PIECE + 7]];

/// The bytes by the name of their content.
#[derive(Default)]
pub struct Library {
    bytes: BTreeMap<ContentHash, Arc<[u8]>>,
}

impl Library {
    /// The content that these bytes are, remembered.
    pub fn enter(&mut self, bytes: &Arc<[u8]>) -> Content {
        let content = content_of(bytes);
        self.bytes.entry(content.hash).or_insert_with(|| bytes.clone());
        content
    }

    /// The bytes of a content that somebody has made.
    pub fn get(&self, hash: ContentHash) -> Option<&Arc<[u8]>> {
        self.bytes.get(&hash)
    }
}

/// A byte string that others write too.
pub fn common(rng: &mut Rng) -> Arc<[u8]> {
    COMMON[rng.index(COMMON.len())].into()
}

/// A byte string that nobody else writes: of one, two or three pieces, so that different bytes often have one size.
pub fn unique(rng: &mut Rng, tag: (usize, usize)) -> Arc<[u8]> {
    let (text, fill) = (mark(tag), [0, 0, PIECE, 2 * PIECE][rng.index(4)]);
    (text + &"x".repeat(fill)).into_bytes().into()
}

/// Some bytes that make whatever they are written over one of a kind.
pub fn mark((deed, count): (usize, usize)) -> String {
    format!("unique {deed:04}.{count}")
}

/// Whether only one user can have written these bytes.
pub fn is_unique(bytes: &[u8]) -> bool {
    bytes.windows(7).any(|window| window == b"unique ")
}

/// One chunk for each piece.
pub fn content_of(bytes: &[u8]) -> Content {
    let extents =
        bytes.chunks(PIECE).map(|piece| Extent::Chunk { hash: ChunkHash::of(piece), len: piece.len() as u32 });
    Content::of(Manifest::new(extents.collect()).unwrap_or_default(), None)
}

/// The chunks that the bytes are, as they travel.
pub fn sealed(bytes: &[u8]) -> Vec<(ChunkHash, Bytes)> {
    bytes.chunks(PIECE).map(|piece| (ChunkHash::of(piece), Bytes::from(envelope::seal(piece)))).collect()
}
