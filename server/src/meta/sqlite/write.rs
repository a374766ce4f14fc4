//! Every change, as one SQL statement or two.

use super::columns::{kind_column, to_column};
use super::{Fault, Result, Tx, WriteTx};
use crate::meta::{FolderKey, PackedChunk, SessionRow, SmallChunk, Totals, VersionRow};
use rusqlite::{Params, params};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::Committed;
use syncmount_common::{
    ContentHash, DeviceId, Epoch, FileHash, FolderId, Manifest, Node, NodeId, NodeKind, OpId, Placement, Rev, Seq,
    Timestamp,
};

/// How often old answers are dropped: once in so many commits, so that it costs nothing.
const PRUNE_EVERY: i64 = 1000;

/// By how much the mtime of a directory grows at least with a change of its entries, in nanoseconds.
const MTIME_STEP_NS: i64 = 1000;

impl Tx<'_> {
    /// Runs a statement and says whether it changed anything.
    pub(super) fn run(&self, sql: &str, params: impl Params) -> Result<bool> {
        self.statement(sql)?.execute(params).fault().map(|rows| rows > 0)
    }

    fn prune_answers(&self, folder: FolderKey, keep: u64) -> Result<()> {
        let sql = "DELETE FROM answers WHERE folder = ?1 AND key <= \
                   (SELECT key FROM answers WHERE folder = ?1 ORDER BY key DESC LIMIT 1 OFFSET ?2)";
        self.run(sql, params![folder.0, to_column(keep)?]).map(drop)
    }
}

impl WriteTx for Tx<'_> {
    fn add_folder(&self, id: FolderId, name: &str, epoch: Epoch, root: &Node) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO folders (id, name, epoch, seq, nodes, bytes) VALUES (?, ?, ?, 0, 0, 0)";
        let added = self.run(sql, params![id.as_bytes(), name, epoch.as_bytes()])?;
        if added {
            self.put_node(FolderKey(self.0.last_insert_rowid()), root)?;
        }
        Ok(added)
    }

    fn advance(&self, folder: FolderKey, seq: Seq, totals: Totals) -> Result<()> {
        let sql = "UPDATE folders SET seq = ?, nodes = ?, bytes = ? WHERE key = ?";
        let (nodes, bytes) = (to_column(totals.nodes)?, to_column(totals.bytes)?);
        self.run(sql, params![to_column(seq)?, nodes, bytes, folder.0]).map(drop)
    }

    fn put_node(&self, folder: FolderKey, node: &Node) -> Result<()> {
        let sql = "INSERT INTO nodes (folder, id, rev, kind, deleted, mode, mtime, content, target, author, \
                   content_rev, content_author, xattrs, changed, born) \
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?3) \
                   ON CONFLICT (folder, id) DO UPDATE SET rev = excluded.rev, deleted = excluded.deleted, \
                   mode = excluded.mode, mtime = excluded.mtime, content = excluded.content, \
                   target = excluded.target, author = excluded.author, content_rev = excluded.content_rev, \
                   content_author = excluded.content_author, xattrs = excluded.xattrs, changed = excluded.changed, \
                   born = CASE WHEN deleted THEN excluded.born ELSE born END";
        let params = params![
            folder.0,
            node.id.as_bytes(),
            to_column(node.rev)?,
            kind_column(node.kind),
            node.deleted,
            node.attrs.mode,
            node.attrs.mtime.0,
            node.content.as_ref().map(|content| content.hash.as_bytes()),
            node.target.as_ref().map(|target| target.as_bytes()),
            node.author.as_bytes(),
            to_column(node.content_rev)?,
            node.content_author.as_bytes(),
            (!node.xattrs.is_empty()).then(|| node.xattrs.encode()),
            node.changed.map(|changed| changed.0),
        ];
        self.run(sql, params).map(drop)
    }

    fn touch_dir(&self, folder: FolderKey, dir: NodeId, at: Timestamp, rev: Rev) -> Result<()> {
        // No sum may leave the range of the column.
        let sql = "UPDATE nodes SET mtime = CASE WHEN mtime = ?3 THEN mtime ELSE max(?3, min(mtime, ?5 - ?6) + ?6) END, \
                   entries_rev = ?4, changed = max(coalesce(changed, ?3), ?3, min(mtime, ?5 - ?6) + ?6) \
                   WHERE folder = ?1 AND id = ?2 AND kind = ?7 AND NOT deleted";
        let kind = kind_column(NodeKind::Dir);
        let params = params![folder.0, dir.as_bytes(), at.0, to_column(rev)?, i64::MAX, MTIME_STEP_NS, kind];
        self.run(sql, params).map(drop)
    }

    fn clear_names(&self, folder: FolderKey, node: NodeId) -> Result<()> {
        self.run("DELETE FROM names WHERE folder = ? AND node = ?", params![folder.0, node.as_bytes()]).map(drop)
    }

    fn add_name(&self, folder: FolderKey, node: NodeId, place: &Placement) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO names (folder, parent, name, node) VALUES (?, ?, ?, ?)";
        self.run(sql, params![folder.0, place.parent.as_bytes(), place.name.as_bytes(), node.as_bytes()])
    }

    fn add_content(&self, hash: &ContentHash, manifest: &Manifest, sha256: Option<FileHash>) -> Result<()> {
        let sql = "INSERT INTO contents (hash, size, sha256, manifest) VALUES (?, ?, ?, ?) \
                   ON CONFLICT (hash) DO UPDATE SET sha256 = coalesce(sha256, excluded.sha256)";
        let sha256 = sha256.as_ref().map(FileHash::as_bytes);
        self.run(sql, params![hash.as_bytes(), to_column(manifest.size())?, sha256, manifest.encode()]).map(drop)
    }

    fn set_sha256(&self, hash: &ContentHash, sha256: &FileHash) -> Result<()> {
        self.run("UPDATE contents SET sha256 = ? WHERE hash = ?", [sha256.as_bytes(), hash.as_bytes()]).map(drop)
    }

    fn add_version(&self, folder: FolderKey, version: &VersionRow) -> Result<()> {
        let sql = "INSERT INTO versions (folder, node, rev, parent, name, content, mtime, received, device) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let params = params![
            folder.0,
            version.node.as_bytes(),
            to_column(version.rev)?,
            version.placement.parent.as_bytes(),
            version.placement.name.as_bytes(),
            version.content.as_bytes(),
            version.mtime.0,
            version.received.0,
            version.device.as_bytes(),
        ];
        self.run(sql, params).map(drop)
    }

    fn put_device(&self, device: &Device) -> Result<()> {
        let sql = "INSERT INTO devices (id, name) VALUES (?, ?) \
                   ON CONFLICT (id) DO UPDATE SET name = excluded.name WHERE name <> excluded.name";
        self.run(sql, params![device.id.as_bytes(), device.name]).map(drop)
    }

    fn add_answer(&self, folder: FolderKey, op: OpId, answer: Committed, keep: u64) -> Result<()> {
        let sql = "INSERT INTO answers (folder, op, first_seq, last_seq) VALUES (?, ?, ?, ?)";
        let (first, last) = (to_column(answer.first_seq)?, to_column(answer.last_seq)?);
        let key = self.statement(sql)?.insert(params![folder.0, op.as_bytes(), first, last]).fault()?;
        if key % PRUNE_EVERY == 0 { self.prune_answers(folder, keep) } else { Ok(()) }
    }

    fn put_session(&self, folder: FolderKey, device: DeviceId, session: &SessionRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO sessions (folder, device, number, nonce, committed) VALUES (?, ?, ?, ?, ?)";
        let (number, committed) = (to_column(session.number)?, to_column(session.committed)?);
        let nonce = session.nonce.cast_signed();
        self.run(sql, params![folder.0, device.as_bytes(), number, nonce, committed]).map(drop)
    }

    fn add_packed(&self, chunk: &PackedChunk) -> Result<bool> {
        let pack = self.pack_key(chunk.slice.pack)?;
        let sql = "INSERT OR IGNORE INTO chunks (hash, pack, offset, len, raw_len) SELECT ?1, ?2, ?3, ?4, ?5 \
                   WHERE NOT EXISTS (SELECT 1 FROM small_chunks WHERE hash = ?1)";
        let offset = to_column(chunk.slice.offset)?;
        self.run(sql, params![chunk.hash.as_bytes(), pack, offset, chunk.slice.len, chunk.raw_len])
    }

    fn add_small(&self, chunk: &SmallChunk) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO small_chunks (hash, raw_len, envelope) SELECT ?1, ?2, ?3 \
                   WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE hash = ?1)";
        self.run(sql, params![chunk.hash.as_bytes(), chunk.raw_len, &chunk.envelope[..]])
    }

    fn move_small(&self, chunk: &PackedChunk) -> Result<()> {
        self.run("DELETE FROM small_chunks WHERE hash = ?", [chunk.hash.as_bytes()])?;
        self.add_packed(chunk).map(drop)
    }

    fn add_token(&self, name: &str, hash: &[u8; 32], created: Timestamp) -> Result<bool> {
        let sql = "INSERT OR IGNORE INTO tokens (name, hash, created) VALUES (?, ?, ?)";
        self.run(sql, params![name, hash, created.0])
    }

    fn remove_token(&self, name: &str) -> Result<bool> {
        self.run("DELETE FROM tokens WHERE name = ?", [name])
    }

    fn put_setting(&self, name: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.run("INSERT OR REPLACE INTO settings (name, value) VALUES (?, ?)", [name, value]),
            None => self.run("DELETE FROM settings WHERE name = ?", [name]),
        }
        .map(drop)
    }
}
