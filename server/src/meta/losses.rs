//! Chunks that the store had and has no more, and packs of which nothing has been needed yet.

use super::{FolderKey, PackId, Result};
use std::collections::HashSet;
use syncmount_common::{ChunkHash, ContentHash, Timestamp};

/// A lost chunk of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WantedChunk {
    /// The content that lacks it.
    pub content: ContentHash,
    /// Size of the content in bytes.
    pub size: u64,
    /// The chunk.
    pub chunk: ChunkHash,
}

/// A pack's row. It never leaves the server.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PackKey(pub i64);

/// What a consistent view tells about lost chunks and loose packs.
pub trait ReadLosses {
    /// Lost chunks whose contents have not been looked for, at most `limit`.
    fn lost(&self, limit: usize) -> Result<Vec<ChunkHash>>;
    /// Which folders have which of these contents, in a live node or in a kept version. Reads every node and version.
    fn folders_with(&self, contents: &HashSet<ContentHash>) -> Result<HashSet<(FolderKey, ContentHash)>>;
    /// Lost chunks of a folder's contents, from the content `from` on in the order of hashes, at most `limit`.
    fn wanted(&self, folder: FolderKey, from: &ContentHash, limit: usize) -> Result<Vec<WantedChunk>>;
    /// The loose pack that a chunk lies in.
    fn loose_pack_of(&self, chunk: &ChunkHash) -> Result<Option<PackKey>>;
    /// Loose packs that came at or before `until`, at most `limit`; none of a token that has brought one after `active`
    /// that is loose.
    fn stale_packs(&self, until: Timestamp, active: Timestamp, limit: usize) -> Result<Vec<PackKey>>;
    /// The chunks that the index has in a pack.
    fn chunks_in(&self, pack: PackKey) -> Result<Vec<ChunkHash>>;
    /// Packs that have lost their last chunk to [`WriteLosses::drop_pack`] and have not been removed, at most `limit`.
    fn empty_packs(&self, limit: usize) -> Result<Vec<PackId>>;
}

/// What a transaction notes about such chunks.
pub trait WriteLosses: ReadLosses {
    /// A chunk that something may consist of is not in the index.
    fn lose(&self, chunk: &ChunkHash) -> Result<()>;
    /// The contents of these lost chunks have been looked for.
    fn looked_for(&self, chunks: &[ChunkHash]) -> Result<()>;
    /// A content of a folder lacks a chunk; nothing is noted if the index has that.
    fn want(&self, folder: FolderKey, content: &ContentHash, chunk: &ChunkHash) -> Result<()>;
    /// A chunk is in the index again. Whether a content lacked it.
    fn found(&self, chunk: &ChunkHash) -> Result<bool>;
    /// The chunks of a pack came alone, from this token: so far no content names any of them.
    fn set_loose(&self, pack: PackId, token: &str, now: Timestamp) -> Result<()>;
    /// A content names a chunk of this pack.
    fn tie(&self, pack: PackKey) -> Result<()>;
    /// All loose packs count as come now.
    fn renew_loose(&self, now: Timestamp) -> Result<()>;
    /// Takes the chunks of a pack out of the index if it still is loose, and notes it as empty. How many there were.
    fn drop_pack(&self, pack: PackKey) -> Result<u64>;
    /// A pack that had nothing left is no more.
    fn pack_is_gone(&self, pack: PackId) -> Result<()>;
}
