//! How values become columns and come back. A column that does not hold what was written is damage, never a panic.

use super::{Fault, MetaError, Result};
use rusqlite::Row;
use syncmount_common::node::INLINE_EXTENTS_MAX;
use syncmount_common::{
    Attrs, ChunkHash, Content, ContentHash, DeviceId, FileHash, Manifest, Name, Node, NodeId, NodeKind, Placement,
    SymlinkTarget, Timestamp, Xattrs,
};

/// A manifest's encoding up to this length is read with its node: 4 bytes of magic and 37 per chunk.
pub(super) const MANIFEST_INLINE_LEN_MAX: usize = 4 + 37 * INLINE_EXTENTS_MAX;

/// The columns that [`node`] reads, of `nodes n LEFT JOIN contents c`. The bound on the manifest is its column's
/// parameter `:inline`: a long one lies on overflow pages, which are not touched this way.
pub(super) const NODE_COLUMNS: &str = "n.id, n.rev, n.kind, n.deleted, n.mode, n.mtime, n.target, n.author, \
     n.content_rev, n.content_author, n.content, c.size, c.sha256, \
     CASE WHEN length(c.manifest) <= :inline THEN c.manifest END, n.xattrs, n.changed";

/// The first column behind [`NODE_COLUMNS`].
pub(super) const AFTER_NODE: usize = 16;

/// A node from its columns, without its names.
pub(super) fn node(row: &Row<'_>) -> Result<Node> {
    Ok(Node {
        id: NodeId::from_bytes(row.get(0).fault()?),
        rev: number(row.get(1).fault()?)?,
        kind: kind(row.get(2).fault()?)?,
        deleted: row.get(3).fault()?,
        names: Vec::new(),
        attrs: Attrs { mode: row.get(4).fault()?, mtime: Timestamp(row.get(5).fault()?) },
        target: row.get::<_, Option<Vec<u8>>>(6).fault()?.map(target).transpose()?,
        author: DeviceId::from_bytes(row.get(7).fault()?),
        content_rev: number(row.get(8).fault()?)?,
        content_author: DeviceId::from_bytes(row.get(9).fault()?),
        content: content(row)?,
        xattrs: row.get_ref(14).fault()?.as_blob_or_null().ok().flatten().map_or(Ok(Xattrs::default()), xattrs)?,
        changed: row.get::<_, Option<i64>>(15).fault()?.map(Timestamp),
    })
}

fn content(row: &Row<'_>) -> Result<Option<Content>> {
    let Some(hash) = row.get::<_, Option<[u8; 32]>>(10).fault()? else { return Ok(None) };
    let size: Option<i64> = row.get(11).fault()?;
    Ok(Some(Content {
        hash: ContentHash::from_bytes(hash),
        size: number(size.ok_or(MetaError::Damaged("a node names a content that is not there"))?)?,
        sha256: row.get::<_, Option<[u8; 32]>>(12).fault()?.map(FileHash::from_bytes),
        manifest: row.get_ref(13).fault()?.as_blob_or_null().ok().flatten().map(manifest).transpose()?,
    }))
}

pub(super) fn manifest(column: &[u8]) -> Result<Manifest> {
    Manifest::decode(column).map_err(|_| MetaError::Damaged("a manifest is malformed"))
}

/// A placement from the columns `parent`, `name` that begin at `first`.
pub(super) fn placement(row: &Row<'_>, first: usize) -> Result<Placement> {
    let parent = NodeId::from_bytes(row.get(first).fault()?);
    Ok(Placement { parent, name: name(row.get(first + 1).fault()?)? })
}

pub(super) fn chunk_hash(row: &Row<'_>, column: usize) -> Result<ChunkHash> {
    row.get(column).fault().map(ChunkHash::from_bytes)
}

/// A count, size or sequence number. SQLite has signed integers only; nothing counted here reaches 2^63.
pub(super) fn to_column(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| MetaError::Damaged("a number is too large to be stored"))
}

/// A number that rows are searched for. One that no row can hold is past every row.
pub(super) fn sought(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn number(column: i64) -> Result<u64> {
    u64::try_from(column).map_err(|_| MetaError::Damaged("a count is negative"))
}

pub(super) fn kind(column: i64) -> Result<NodeKind> {
    match column {
        0 => Ok(NodeKind::File),
        1 => Ok(NodeKind::Dir),
        2 => Ok(NodeKind::Symlink),
        _ => Err(MetaError::Damaged("a node has an unknown kind")),
    }
}

pub(super) const fn kind_column(kind: NodeKind) -> i64 {
    match kind {
        NodeKind::File => 0,
        NodeKind::Dir => 1,
        NodeKind::Symlink => 2,
    }
}

pub(super) fn name(column: Vec<u8>) -> Result<Name> {
    Name::new(column).map_err(|_| MetaError::Damaged("a name is invalid"))
}

pub(super) fn xattrs(column: &[u8]) -> Result<Xattrs> {
    Xattrs::decode(column).map_err(|_| MetaError::Damaged("extended attributes are malformed"))
}

pub(super) fn target(column: Vec<u8>) -> Result<SymlinkTarget> {
    SymlinkTarget::new(column).map_err(|_| MetaError::Damaged("a symlink's target is invalid"))
}
