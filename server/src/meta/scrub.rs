//! What a check of the whole store asks and a repair writes. Everything comes in pages, so that memory stays bounded.

use super::{ContentUse, FolderKey, PackId, PackedChunk, Result, SmallChunk};
use std::collections::HashSet;
use syncmount_common::{ChunkHash, ContentHash};

/// A content's row as it is stored, sound or not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawContent {
    /// Its place in the order of rows.
    pub key: i64,
    /// Its name.
    pub hash: ContentHash,
    /// The size that the row states.
    pub size: u64,
    /// What should be its manifest's encoding.
    pub manifest: Vec<u8>,
}

/// A folder's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Live nodes without the root.
    pub nodes: u64,
    /// Sum of the sizes of live files in bytes, at most [`super::FOLDER_BYTES_MAX`].
    pub bytes: u64,
}

/// A folder whose counters are not those of its nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FolderFault {
    /// The folder.
    pub key: FolderKey,
    /// What people call it.
    pub name: String,
    /// What its row says; `None` if that cannot be read.
    pub said: Option<Totals>,
    /// What its nodes say.
    pub counted: Totals,
}

/// What a consistent view tells a check.
pub trait ReadScrub {
    /// What the database says of its own soundness; empty if all is well.
    fn integrity(&self) -> Result<Vec<String>>;
    /// Reads every row of every table as this program reads it, and follows the references between rows. One sentence for each
    /// fault, at most 100 of a kind.
    fn row_faults(&self) -> Result<Vec<String>>;
    /// Recounts a folder's live nodes and the sizes of its files.
    fn totals(&self, folder: FolderKey) -> Result<Totals>;
    /// Recounts all folders; those whose counters are wrong.
    fn miscounted(&self) -> Result<Vec<FolderFault>>;
    /// The packs that the index names.
    fn indexed_packs(&self) -> Result<Vec<PackId>>;
    /// The index's rows about one pack, by offset.
    fn indexed_in(&self, pack: PackId) -> Result<Vec<PackedChunk>>;
    /// Small chunks after the row `after`, of up to `bytes` in sum (at least one if there is any), and the last one's row.
    fn small_after(&self, after: i64, bytes: u64) -> Result<(Vec<SmallChunk>, i64)>;
    /// Contents after the row `after` with manifests of up to `bytes` in sum (at least one if there is any).
    fn contents_after(&self, after: i64, bytes: u64) -> Result<Vec<RawContent>>;
    /// Live nodes and kept versions that consist of one of these contents, at most `limit`.
    fn uses(&self, contents: &HashSet<ContentHash>, limit: usize) -> Result<Vec<ContentUse>>;
}

/// What a repair writes.
pub trait WriteScrub: ReadScrub {
    /// Takes a chunk out of the index: it counts as missing then, and is noted as lost.
    fn drop_chunk(&self, hash: &ChunkHash) -> Result<()>;
    /// Sets a folder's counters.
    fn set_totals(&self, folder: FolderKey, totals: Totals) -> Result<()>;
}
