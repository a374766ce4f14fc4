//! What a check asks, in SQL.

use super::columns::{self, number};
use super::{Fault, Result, Tx, strict};
use crate::meta::{
    ContentUse, FolderFault, FolderKey, PackId, PackSlice, PackedChunk, RawContent, ReadScrub, SmallChunk, Totals,
    WriteLosses as _, WriteScrub,
};
use bytes::Bytes;
use rusqlite::{Row, params};
use std::collections::HashSet;
use syncmount_common::{ChunkHash, ContentHash, NodeId, Placement};

pub(super) fn raw_content(row: &Row<'_>) -> Result<RawContent> {
    Ok(RawContent {
        key: row.get(0).fault()?,
        hash: ContentHash::from_bytes(row.get(1).fault()?),
        size: number(row.get(2).fault()?)?,
        manifest: row.get(3).fault()?,
    })
}

fn small(row: &Row<'_>) -> Result<(i64, SmallChunk)> {
    let envelope = Bytes::from(row.get::<_, Vec<u8>>(3).fault()?);
    Ok((row.get(0).fault()?, SmallChunk { hash: columns::chunk_hash(row, 1)?, raw_len: row.get(2).fault()?, envelope }))
}

/// Columns: folder, node, parent, name, content, rev; the rev is null for a live node.
fn content_use(row: &Row<'_>, contents: &HashSet<ContentHash>) -> Result<Option<ContentUse>> {
    let content = ContentHash::from_bytes(row.get(4).fault()?);
    if !contents.contains(&content) {
        return Ok(None);
    }
    let rev = row.get::<_, Option<i64>>(5).fault()?.map(number).transpose()?;
    let placement: Placement = columns::placement(row, 2)?;
    let folder = row.get(0).fault()?;
    Ok(Some(ContentUse { folder, node: NodeId::from_bytes(row.get(1).fault()?), placement, content, rev }))
}

impl Tx<'_> {
    /// Rows from the first on until `enough` says so of one.
    fn until<T>(
        &self,
        sql: &str,
        after: i64,
        read: impl Fn(&Row<'_>) -> Result<T>,
        mut enough: impl FnMut(&T) -> bool,
    ) -> Result<Vec<T>> {
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query([after]).fault()?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().fault()? {
            let value = read(row)?;
            let last = enough(&value);
            out.push(value);
            if last {
                break;
            }
        }
        Ok(out)
    }
}

/// Says when `bytes` have come together.
fn budget(bytes: u64) -> impl FnMut(usize) -> bool {
    let mut sum = 0;
    move |len| {
        sum += len as u64;
        sum >= bytes
    }
}

impl ReadScrub for Tx<'_> {
    fn integrity(&self) -> Result<Vec<String>> {
        let lines = self.all("PRAGMA integrity_check", [], |row| row.get::<_, String>(0).fault())?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    fn row_faults(&self) -> Result<Vec<String>> {
        self.all_row_faults()
    }

    fn totals(&self, folder: FolderKey) -> Result<Totals> {
        strict::totals(self.0, folder)
    }

    fn miscounted(&self) -> Result<Vec<FolderFault>> {
        self.all_miscounted()
    }

    fn indexed_packs(&self) -> Result<Vec<PackId>> {
        self.all("SELECT id FROM packs ORDER BY id", [], |row| row.get(0).fault().map(PackId))
    }

    fn indexed_in(&self, pack: PackId) -> Result<Vec<PackedChunk>> {
        let sql = "SELECT hash, raw_len, offset, len FROM chunks WHERE pack = (SELECT key FROM packs WHERE id = ?) \
                   ORDER BY offset";
        self.all(sql, [pack.0], |row| {
            let slice = PackSlice { pack, offset: number(row.get(2).fault()?)?, len: row.get(3).fault()? };
            Ok(PackedChunk { hash: columns::chunk_hash(row, 0)?, raw_len: row.get(1).fault()?, slice })
        })
    }

    fn small_after(&self, after: i64, bytes: u64) -> Result<(Vec<SmallChunk>, i64)> {
        let sql = "SELECT key, hash, raw_len, envelope FROM small_chunks WHERE key > ? ORDER BY key";
        let mut full = budget(bytes);
        let rows = self.until(sql, after, small, |(_, chunk)| full(chunk.envelope.len()))?;
        let last = rows.last().map_or(after, |(key, _)| *key);
        Ok((rows.into_iter().map(|(_, chunk)| chunk).collect(), last))
    }

    fn contents_after(&self, after: i64, bytes: u64) -> Result<Vec<RawContent>> {
        let sql = "SELECT key, hash, size, manifest FROM contents WHERE key > ? ORDER BY key";
        let mut full = budget(bytes);
        self.until(sql, after, raw_content, |content| full(content.manifest.len()))
    }

    fn uses(&self, contents: &HashSet<ContentHash>, limit: usize) -> Result<Vec<ContentUse>> {
        let sql = "SELECT f.name, n.id, m.parent, m.name, n.content, NULL FROM nodes n \
                   JOIN folders f ON f.key = n.folder JOIN names m ON m.folder = n.folder AND m.node = n.id \
                   WHERE n.content IS NOT NULL \
                   UNION ALL SELECT f.name, v.node, v.parent, v.name, v.content, v.rev FROM versions v \
                   JOIN folders f ON f.key = v.folder LEFT JOIN nodes n ON n.folder = v.folder AND n.id = v.node \
                   WHERE n.content IS NOT v.content";
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query(params![]).fault()?;
        let mut found = Vec::new();
        while found.len() < limit
            && let Some(row) = rows.next().fault()?
        {
            found.extend(content_use(row, contents)?);
        }
        Ok(found)
    }
}

impl WriteScrub for Tx<'_> {
    fn drop_chunk(&self, hash: &ChunkHash) -> Result<()> {
        self.run("DELETE FROM chunks WHERE hash = ?", [hash.as_bytes()])?;
        self.run("DELETE FROM small_chunks WHERE hash = ?", [hash.as_bytes()])?;
        self.lose(hash)
    }

    fn set_totals(&self, folder: FolderKey, totals: Totals) -> Result<()> {
        strict::set_totals(self.0, folder, totals)
    }
}
