//! Lost and loose chunks, in SQL.

use super::columns::{self, number};
use super::{Fault, Result, Tx};
use crate::meta::{FolderKey, PackId, PackKey, ReadLosses, WantedChunk, WriteLosses};
use rusqlite::params;
use std::collections::HashSet;
use syncmount_common::{ChunkHash, ContentHash, Timestamp};

impl ReadLosses for Tx<'_> {
    fn lost(&self, limit: usize) -> Result<Vec<ChunkHash>> {
        self.all("SELECT hash FROM lost_chunks LIMIT ?", [limit as i64], |row| columns::chunk_hash(row, 0))
    }

    fn folders_with(&self, contents: &HashSet<ContentHash>) -> Result<HashSet<(FolderKey, ContentHash)>> {
        let sql = "SELECT folder, content FROM nodes WHERE content IS NOT NULL \
                   UNION ALL SELECT folder, content FROM versions";
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query([]).fault()?;
        let mut found = HashSet::new();
        while let Some(row) = rows.next().fault()? {
            let content = ContentHash::from_bytes(row.get(1).fault()?);
            if contents.contains(&content) {
                found.insert((FolderKey(row.get(0).fault()?), content));
            }
        }
        Ok(found)
    }

    fn wanted(&self, folder: FolderKey, from: &ContentHash, limit: usize) -> Result<Vec<WantedChunk>> {
        let sql = "SELECT w.content, c.size, w.chunk FROM wanted w JOIN contents c ON c.hash = w.content \
                   WHERE w.folder = ? AND w.content >= ? ORDER BY w.content, w.chunk LIMIT ?";
        self.all(sql, params![folder.0, from.as_bytes(), limit as i64], |row| {
            Ok(WantedChunk {
                content: ContentHash::from_bytes(row.get(0).fault()?),
                size: number(row.get(1).fault()?)?,
                chunk: columns::chunk_hash(row, 2)?,
            })
        })
    }

    fn loose_pack_of(&self, chunk: &ChunkHash) -> Result<Option<PackKey>> {
        let sql = "SELECT l.pack FROM chunks c JOIN loose_packs l ON l.pack = c.pack WHERE c.hash = ?";
        self.first(sql, [chunk.as_bytes()], |row| row.get(0).fault().map(PackKey))
    }

    fn stale_packs(&self, until: Timestamp, active: Timestamp, limit: usize) -> Result<Vec<PackKey>> {
        let sql = "SELECT l.pack FROM loose_packs l WHERE l.entered <= ?1 AND NOT EXISTS \
                   (SELECT 1 FROM loose_packs o WHERE o.token = l.token AND o.entered > ?2) LIMIT ?3";
        self.all(sql, params![until.0, active.0, limit as i64], |row| row.get(0).fault().map(PackKey))
    }

    fn chunks_in(&self, pack: PackKey) -> Result<Vec<ChunkHash>> {
        self.all("SELECT hash FROM chunks WHERE pack = ?", [pack.0], |row| columns::chunk_hash(row, 0))
    }

    fn empty_packs(&self, limit: usize) -> Result<Vec<PackId>> {
        self.all("SELECT id FROM empty_packs LIMIT ?", [limit as i64], |row| row.get(0).fault().map(PackId))
    }
}

impl WriteLosses for Tx<'_> {
    fn lose(&self, chunk: &ChunkHash) -> Result<()> {
        self.run("INSERT OR IGNORE INTO lost_chunks (hash) VALUES (?)", [chunk.as_bytes()]).map(drop)
    }

    fn looked_for(&self, chunks: &[ChunkHash]) -> Result<()> {
        let sql = "DELETE FROM lost_chunks WHERE hash = ?";
        chunks.iter().try_for_each(|chunk| self.run(sql, [chunk.as_bytes()]).map(drop))
    }

    fn want(&self, folder: FolderKey, content: &ContentHash, chunk: &ChunkHash) -> Result<()> {
        let sql = "INSERT OR IGNORE INTO wanted (folder, content, chunk) SELECT ?1, ?2, ?3 \
                   WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE hash = ?3) \
                   AND NOT EXISTS (SELECT 1 FROM small_chunks WHERE hash = ?3)";
        self.run(sql, params![folder.0, content.as_bytes(), chunk.as_bytes()]).map(drop)
    }

    fn found(&self, chunk: &ChunkHash) -> Result<bool> {
        self.run("DELETE FROM lost_chunks WHERE hash = ?", [chunk.as_bytes()])?;
        self.run("DELETE FROM wanted WHERE chunk = ?", [chunk.as_bytes()])
    }

    fn set_loose(&self, pack: PackId, token: &str, now: Timestamp) -> Result<()> {
        let sql =
            "INSERT OR IGNORE INTO loose_packs (pack, token, entered) SELECT key, ?2, ?3 FROM packs WHERE id = ?1";
        self.run(sql, params![pack.0, token, now.0]).map(drop)
    }

    fn tie(&self, pack: PackKey) -> Result<()> {
        self.run("DELETE FROM loose_packs WHERE pack = ?", [pack.0]).map(drop)
    }

    fn renew_loose(&self, now: Timestamp) -> Result<()> {
        self.run("UPDATE loose_packs SET entered = ?", [now.0]).map(drop)
    }

    fn drop_pack(&self, pack: PackKey) -> Result<u64> {
        if !self.run("DELETE FROM loose_packs WHERE pack = ?", [pack.0])? {
            return Ok(0);
        }
        let dropped = self.statement("DELETE FROM chunks WHERE pack = ?")?.execute([pack.0]).fault()?;
        self.run("INSERT OR IGNORE INTO empty_packs (id) SELECT id FROM packs WHERE key = ?", [pack.0])?;
        Ok(dropped as u64)
    }

    fn pack_is_gone(&self, pack: PackId) -> Result<()> {
        self.run("DELETE FROM empty_packs WHERE id = ?", [pack.0])?;
        let sql = "DELETE FROM packs WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM chunks WHERE pack = packs.key)";
        self.run(sql, [pack.0]).map(drop)
    }
}
