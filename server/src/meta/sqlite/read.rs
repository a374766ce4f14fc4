//! Every question, as one SQL statement or two.

use super::columns::{self, AFTER_NODE, MANIFEST_INLINE_LEN_MAX, NODE_COLUMNS, number, sought};
use super::{Fault, ReadTx, Result, Tx};
use crate::meta::{
    ChunkPlace, ContentRow, FolderKey, FolderRow, PackId, PackSlice, ReadHistory as _, SessionRow, SmallChunk, TokenRow,
};
use bytes::Bytes;
use rusqlite::{CachedStatement, OptionalExtension as _, Params, Row, named_params, params};
use syncmount_common::node::TouchedDir;
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::Committed;
use syncmount_common::protocol::files::Version;
use syncmount_common::{
    ChunkHash, ContentHash, DeviceId, Epoch, FileHash, FolderId, Manifest, Name, Node, NodeId, OpId, Placement, Rev,
    Seq, Timestamp,
};

/// Names and extended attributes of about this many bytes are answered at once.
const WEIGHT_MAX: usize = 8 * 1024 * 1024;

const INLINE: i64 = MANIFEST_INLINE_LEN_MAX as i64;

impl Tx<'_> {
    pub(super) fn statement(&self, sql: &str) -> Result<CachedStatement<'_>> {
        self.0.prepare_cached(sql).fault()
    }

    /// The first row, if there is one.
    pub(super) fn first<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl FnOnce(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query(params).fault()?;
        rows.next().fault()?.map(read).transpose()
    }

    /// All rows, in order.
    pub(super) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        read: impl Fn(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let mut statement = self.statement(sql)?;
        let mut rows = statement.query(params).fault()?;
        let mut out = Vec::new();
        while let Some(row) = rows.next().fault()? {
            out.push(read(row)?);
        }
        Ok(out)
    }

    fn names(&self, folder: FolderKey, node: NodeId) -> Result<Vec<Placement>> {
        self.all(
            "SELECT parent, name FROM names WHERE folder = ? AND node = ? ORDER BY parent, name",
            params![folder.0, node.as_bytes()],
            |row| columns::placement(row, 0),
        )
    }

    fn with_names(&self, folder: FolderKey, mut node: Node) -> Result<Node> {
        if !node.deleted {
            node.names = self.names(folder, node.id)?;
        }
        Ok(node)
    }
}

const FOLDER_COLUMNS: &str = "key, id, name, epoch, seq, nodes, bytes";

pub(super) fn folder(row: &Row<'_>) -> Result<FolderRow> {
    Ok(FolderRow {
        key: FolderKey(row.get(0).fault()?),
        id: FolderId::from_bytes(row.get(1).fault()?),
        name: row.get(2).fault()?,
        epoch: Epoch::from_bytes(row.get(3).fault()?),
        seq: number(row.get(4).fault()?)?,
        nodes: number(row.get(5).fault()?)?,
        bytes: number(row.get(6).fault()?)?,
    })
}

pub(super) fn token(row: &Row<'_>) -> Result<TokenRow> {
    Ok(TokenRow { name: row.get(0).fault()?, created: Timestamp(row.get(1).fault()?) })
}

fn version(row: &Row<'_>) -> Result<Version> {
    Ok(Version {
        rev: number(row.get(0).fault()?)?,
        mtime: Timestamp(row.get(1).fault()?),
        received: Timestamp(row.get(2).fault()?),
        size: number(row.get(3).fault()?)?,
        sha256: row.get::<_, Option<[u8; 32]>>(4).fault()?.map(FileHash::from_bytes),
        content: ContentHash::from_bytes(row.get(5).fault()?),
        device: row.get::<_, Option<String>>(6).fault()?.unwrap_or_default(),
    })
}

fn small(row: &Row<'_>) -> Result<SmallChunk> {
    Ok(SmallChunk {
        hash: columns::chunk_hash(row, 0)?,
        raw_len: row.get(1).fault()?,
        envelope: Bytes::from(row.get::<_, Vec<u8>>(2).fault()?),
    })
}

impl ReadTx for Tx<'_> {
    fn probe(&self) -> Result<()> {
        self.first("SELECT 1", [], |_| Ok(())).map(drop)
    }

    fn folder(&self, name_or_id: &str) -> Result<Option<FolderRow>> {
        let by_name = format!("SELECT {FOLDER_COLUMNS} FROM folders WHERE name = ?");
        let found = self.first(&by_name, [name_or_id], folder)?;
        let Some(id) = name_or_id.parse::<FolderId>().ok().filter(|_| found.is_none()) else { return Ok(found) };
        self.first(&format!("SELECT {FOLDER_COLUMNS} FROM folders WHERE id = ?"), [id.as_bytes()], folder)
    }

    fn folders(&self) -> Result<Vec<FolderRow>> {
        self.all(&format!("SELECT {FOLDER_COLUMNS} FROM folders ORDER BY name"), [], folder)
    }

    fn node(&self, folder: FolderKey, id: NodeId) -> Result<Option<Node>> {
        let sql = format!(
            "SELECT {NODE_COLUMNS} FROM nodes n LEFT JOIN contents c ON c.hash = n.content \
             WHERE n.folder = :folder AND n.id = :id"
        );
        let params = named_params! {":folder": folder.0, ":id": id.as_bytes(), ":inline": INLINE};
        let found = self.first(&sql, params, columns::node)?;
        found.map(|node| self.with_names(folder, node)).transpose()
    }

    fn changed(&self, folder: FolderKey, since: Seq, limit: usize) -> Result<(Vec<Node>, bool)> {
        let sql = format!(
            "SELECT {NODE_COLUMNS} FROM nodes n LEFT JOIN contents c ON c.hash = n.content \
             WHERE n.folder = :folder AND n.rev > :since ORDER BY n.rev LIMIT :limit"
        );
        let params = named_params! {
            ":folder": folder.0, ":since": sought(since), ":limit": limit as i64 + 1, ":inline": INLINE
        };
        let mut statement = self.statement(&sql)?;
        let mut rows = statement.query(params).fault()?;
        let (mut nodes, mut weight) = (Vec::new(), 0);
        while let Some(row) = rows.next().fault()? {
            if nodes.len() == limit || weight >= WEIGHT_MAX {
                return Ok((nodes, true));
            }
            let node = self.with_names(folder, columns::node(row)?)?;
            weight += node.xattrs.len() + node.names.iter().map(|place| place.name.as_bytes().len()).sum::<usize>();
            nodes.push(node);
        }
        Ok((nodes, false))
    }

    fn touched(&self, folder: FolderKey, since: Seq, end: Seq, limit: usize) -> Result<Vec<(TouchedDir, Rev)>> {
        let sql = "SELECT id, mtime, entries_rev FROM nodes WHERE folder = ?1 AND entries_rev > ?2 AND entries_rev <= ?3 \
                   AND (rev <= ?2 OR rev > ?3) AND NOT deleted ORDER BY entries_rev LIMIT ?4";
        self.all(sql, params![folder.0, sought(since), sought(end), limit as i64], |row| {
            let dir = NodeId::from_bytes(row.get(0).fault()?);
            Ok((TouchedDir { dir, mtime: Timestamp(row.get(1).fault()?) }, number(row.get(2).fault()?)?))
        })
    }

    fn child(&self, folder: FolderKey, parent: NodeId, name: &Name) -> Result<Option<NodeId>> {
        self.first(
            "SELECT node FROM names WHERE folder = ? AND parent = ? AND name = ?",
            params![folder.0, parent.as_bytes(), name.as_bytes()],
            |row| row.get(0).fault().map(NodeId::from_bytes),
        )
    }

    fn children(
        &self,
        folder: FolderKey,
        parent: NodeId,
        after: Option<&Name>,
        limit: usize,
    ) -> Result<Vec<(Name, Node)>> {
        let sql = format!(
            "SELECT {NODE_COLUMNS}, m.parent, m.name FROM names m \
             JOIN nodes n ON n.folder = m.folder AND n.id = m.node LEFT JOIN contents c ON c.hash = n.content \
             WHERE m.folder = :folder AND m.parent = :parent AND m.name > :after ORDER BY m.name LIMIT :limit"
        );
        let params = named_params! {
            ":folder": folder.0, ":parent": parent.as_bytes(), ":after": after.map_or(&[][..], Name::as_bytes),
            ":limit": limit as i64, ":inline": INLINE
        };
        self.all(&sql, params, |row| {
            let place = columns::placement(row, AFTER_NODE)?;
            let node = Node { names: vec![place.clone()], ..columns::node(row)? };
            Ok((place.name, node))
        })
    }

    fn has_children(&self, folder: FolderKey, parent: NodeId) -> Result<bool> {
        let sql = "SELECT 1 FROM names WHERE folder = ? AND parent = ? LIMIT 1";
        self.first(sql, params![folder.0, parent.as_bytes()], |_| Ok(())).map(|found| found.is_some())
    }

    fn content(&self, hash: &ContentHash) -> Result<Option<ContentRow>> {
        self.first("SELECT size, sha256 FROM contents WHERE hash = ?", [hash.as_bytes()], |row| {
            let sha256 = row.get::<_, Option<[u8; 32]>>(1).fault()?.map(FileHash::from_bytes);
            Ok(ContentRow { size: number(row.get(0).fault()?)?, sha256 })
        })
    }

    fn manifest_len(&self, hash: &ContentHash) -> Result<Option<u64>> {
        let sql = "SELECT length(manifest) FROM contents WHERE hash = ?";
        self.first(sql, [hash.as_bytes()], |row| number(row.get(0).fault()?))
    }

    fn manifest(&self, hash: &ContentHash) -> Result<Option<Manifest>> {
        self.first("SELECT manifest FROM contents WHERE hash = ?", [hash.as_bytes()], |row| {
            columns::manifest(&row.get::<_, Vec<u8>>(0).fault()?)
        })
    }

    fn chunk_len(&self, hash: &ChunkHash) -> Result<Option<u32>> {
        let sql = "SELECT raw_len FROM chunks WHERE hash = ?1 \
                   UNION ALL SELECT raw_len FROM small_chunks WHERE hash = ?1 LIMIT 1";
        self.first(sql, [hash.as_bytes()], |row| row.get(0).fault())
    }

    fn chunk(&self, hash: &ChunkHash) -> Result<Option<ChunkPlace>> {
        let sql = "SELECT p.id, c.offset, c.len FROM chunks c JOIN packs p ON p.key = c.pack WHERE c.hash = ?";
        let packed = self.first(sql, [hash.as_bytes()], |row| {
            let pack = PackId(row.get(0).fault()?);
            let slice = PackSlice { pack, offset: number(row.get(1).fault()?)?, len: row.get(2).fault()? };
            Ok(ChunkPlace::Packed(slice))
        })?;
        if packed.is_some() {
            return Ok(packed);
        }
        self.first("SELECT envelope FROM small_chunks WHERE hash = ?", [hash.as_bytes()], |row| {
            row.get::<_, Vec<u8>>(0).fault().map(|envelope| ChunkPlace::Small(envelope.into()))
        })
    }

    fn small_bytes(&self) -> Result<u64> {
        let sum = self.first("SELECT coalesce(sum(length(envelope)), 0) FROM small_chunks", [], |row| {
            number(row.get(0).fault()?)
        })?;
        Ok(sum.unwrap_or(0))
    }

    fn small_chunks(&self, bytes: u64) -> Result<Vec<SmallChunk>> {
        let mut statement = self.statement("SELECT hash, raw_len, envelope FROM small_chunks ORDER BY key")?;
        let mut rows = statement.query([]).fault()?;
        let mut chunks = Vec::new();
        let mut sum = 0;
        while sum < bytes
            && let Some(row) = rows.next().fault()?
        {
            let chunk = small(row)?;
            sum += chunk.envelope.len() as u64;
            chunks.push(chunk);
        }
        Ok(chunks)
    }

    fn device(&self, id: DeviceId) -> Result<Option<Device>> {
        self.first("SELECT name FROM devices WHERE id = ?", [id.as_bytes()], |row| {
            Ok(Device { id, name: row.get(0).fault()? })
        })
    }

    fn versions(&self, folder: FolderKey, node: NodeId, place: &Placement, limit: usize) -> Result<Vec<Version>> {
        let sql = "SELECT v.rev, v.mtime, v.received, c.size, c.sha256, v.content, d.name FROM ( \
                   SELECT * FROM versions WHERE folder = ?1 AND node = ?2 UNION \
                   SELECT * FROM versions WHERE folder = ?1 AND parent = ?3 AND name = ?4) v \
                   JOIN contents c ON c.hash = v.content LEFT JOIN devices d ON d.id = v.device \
                   ORDER BY v.rev DESC LIMIT ?5";
        let (parent, name) = (place.parent.as_bytes(), place.name.as_bytes());
        self.all(sql, params![folder.0, node.as_bytes(), parent, name, limit as i64], version)
    }

    fn version(&self, folder: FolderKey, node: NodeId, place: &Placement, rev: Seq) -> Result<Option<ContentHash>> {
        let sql = "SELECT content FROM versions WHERE folder = ?1 AND node = ?2 AND rev = ?5 UNION \
                   SELECT content FROM versions WHERE folder = ?1 AND parent = ?3 AND name = ?4 AND rev = ?5";
        let (parent, name) = (place.parent.as_bytes(), place.name.as_bytes());
        self.first(sql, params![folder.0, node.as_bytes(), parent, name, sought(rev)], |row| {
            row.get(0).fault().map(ContentHash::from_bytes)
        })
    }

    fn answer(&self, folder: FolderKey, op: OpId) -> Result<Option<Committed>> {
        let sql = "SELECT first_seq, last_seq FROM answers WHERE folder = ? AND op = ?";
        let found = self.first(sql, params![folder.0, op.as_bytes()], |row| {
            Ok((number(row.get(0).fault()?)?, number(row.get(1).fault()?)?))
        })?;
        let committed =
            |(first_seq, last_seq)| Ok(Committed { first_seq, last_seq, tag: self.tag_at(folder, last_seq)? });
        found.map(committed).transpose()
    }

    fn session(&self, folder: FolderKey, device: DeviceId) -> Result<Option<SessionRow>> {
        let sql = "SELECT number, nonce, committed FROM sessions WHERE folder = ? AND device = ?";
        self.first(sql, params![folder.0, device.as_bytes()], |row| {
            let nonce = row.get::<_, i64>(1).fault()?.cast_unsigned();
            Ok(SessionRow { number: number(row.get(0).fault()?)?, nonce, committed: number(row.get(2).fault()?)? })
        })
    }

    fn token(&self, hash: &[u8; 32]) -> Result<Option<TokenRow>> {
        self.first("SELECT name, created FROM tokens WHERE hash = ?", [hash], token)
    }

    fn tokens(&self) -> Result<Vec<TokenRow>> {
        self.all("SELECT name, created FROM tokens ORDER BY name", [], token)
    }

    fn setting(&self, name: &str) -> Result<Option<String>> {
        self.first("SELECT value FROM settings WHERE name = ?", [name], |row| row.get(0).fault())
    }
}

impl Tx<'_> {
    /// The key of a pack's row, which is made if need be.
    pub(super) fn pack_key(&self, pack: PackId) -> Result<i64> {
        let find = "SELECT key FROM packs WHERE id = ?";
        let mut find = self.statement(find)?;
        if let Some(key) = find.query_row([pack.0], |row| row.get(0)).optional().fault()? {
            return Ok(key);
        }
        self.statement("INSERT INTO packs (id) VALUES (?)")?.insert([pack.0]).fault()
    }
}
