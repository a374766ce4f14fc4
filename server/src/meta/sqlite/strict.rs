//! The step after which no column takes a value of another type than its own.
//!
//! A sum of sizes that SQLite added up itself became a floating-point number when it grew too large, and nothing could
//! read the row any more. So sums are made in Rust ([`totals`]) and every table is STRICT. A STRICT table refuses what the
//! old one took: the folders' counters are recounted first, and each value is cast to its column's type on the way, which
//! changes nothing in a sound row.

use super::columns::{number, to_column};
use super::{Fault, Result};
use crate::meta::{FOLDER_BYTES_MAX, FolderKey, Totals};
use rusqlite::{Connection, params};

/// Every table as it was, but STRICT. The SHA-256 that a client had told of a file of several chunks is dropped: it was never
/// checked. That of a single chunk (4 bytes of magic, a tag, 4 of length, then the hash) is the chunk's own hash, and that of
/// no bytes is known.
pub(super) const STRICT: &str = "
CREATE TABLE strict_folders (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    epoch BLOB NOT NULL,
    seq INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    history_from INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO strict_folders SELECT CAST(key AS INTEGER), CAST(id AS BLOB), CAST(name AS TEXT),
    CAST(epoch AS BLOB), CAST(seq AS INTEGER), CAST(nodes AS INTEGER), CAST(bytes AS INTEGER),
    CAST(history_from AS INTEGER) FROM folders;
DROP TABLE folders;
ALTER TABLE strict_folders RENAME TO folders;
CREATE TABLE strict_nodes (
    folder INTEGER NOT NULL REFERENCES folders(key),
    id BLOB NOT NULL,
    rev INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    content BLOB,
    target BLOB,
    author BLOB NOT NULL,
    content_rev INTEGER NOT NULL,
    content_author BLOB NOT NULL,
    born INTEGER NOT NULL DEFAULT 0,
    xattrs BLOB,
    PRIMARY KEY (folder, id)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_nodes SELECT CAST(folder AS INTEGER), CAST(id AS BLOB), CAST(rev AS INTEGER),
    CAST(kind AS INTEGER), CAST(deleted AS INTEGER), CAST(mode AS INTEGER), CAST(mtime AS INTEGER),
    CAST(content AS BLOB), CAST(target AS BLOB), CAST(author AS BLOB), CAST(content_rev AS INTEGER),
    CAST(content_author AS BLOB), CAST(born AS INTEGER), CAST(xattrs AS BLOB) FROM nodes;
DROP TABLE nodes;
ALTER TABLE strict_nodes RENAME TO nodes;
CREATE UNIQUE INDEX nodes_by_rev ON nodes (folder, rev);
CREATE TABLE strict_names (
    folder INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    node BLOB NOT NULL,
    PRIMARY KEY (folder, parent, name)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_names SELECT CAST(folder AS INTEGER), CAST(parent AS BLOB), CAST(name AS BLOB),
    CAST(node AS BLOB) FROM names;
DROP TABLE names;
ALTER TABLE strict_names RENAME TO names;
CREATE INDEX names_by_node ON names (folder, node);
CREATE TABLE strict_versions (
    folder INTEGER NOT NULL,
    node BLOB NOT NULL,
    rev INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    content BLOB NOT NULL,
    mtime INTEGER NOT NULL,
    received INTEGER NOT NULL,
    device BLOB NOT NULL,
    PRIMARY KEY (folder, node, rev)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_versions SELECT CAST(folder AS INTEGER), CAST(node AS BLOB), CAST(rev AS INTEGER),
    CAST(parent AS BLOB), CAST(name AS BLOB), CAST(content AS BLOB), CAST(mtime AS INTEGER),
    CAST(received AS INTEGER), CAST(device AS BLOB) FROM versions;
DROP TABLE versions;
ALTER TABLE strict_versions RENAME TO versions;
CREATE INDEX versions_by_path ON versions (folder, parent, name, rev);
CREATE TABLE strict_contents (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    sha256 BLOB,
    manifest BLOB NOT NULL
) STRICT;
INSERT INTO strict_contents SELECT CAST(key AS INTEGER), CAST(hash AS BLOB), CAST(size AS INTEGER),
    CASE WHEN length(manifest) = 4 THEN
    x'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855'
    WHEN length(manifest) = 41 AND substr(manifest, 5, 1) = x'01' THEN substr(manifest, 10) END,
    CAST(manifest AS BLOB) FROM contents;
DROP TABLE contents;
ALTER TABLE strict_contents RENAME TO contents;
CREATE TABLE strict_packs (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE
) STRICT;
INSERT INTO strict_packs SELECT CAST(key AS INTEGER), CAST(id AS BLOB) FROM packs;
DROP TABLE packs;
ALTER TABLE strict_packs RENAME TO packs;
CREATE TABLE strict_chunks (
    hash BLOB PRIMARY KEY,
    pack INTEGER NOT NULL REFERENCES packs(key),
    offset INTEGER NOT NULL,
    len INTEGER NOT NULL,
    raw_len INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO strict_chunks SELECT CAST(hash AS BLOB), CAST(pack AS INTEGER), CAST(offset AS INTEGER),
    CAST(len AS INTEGER), CAST(raw_len AS INTEGER) FROM chunks;
DROP TABLE chunks;
ALTER TABLE strict_chunks RENAME TO chunks;
CREATE INDEX chunks_by_pack ON chunks (pack, offset);
CREATE TABLE strict_small_chunks (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    raw_len INTEGER NOT NULL,
    envelope BLOB NOT NULL
) STRICT;
INSERT INTO strict_small_chunks SELECT CAST(key AS INTEGER), CAST(hash AS BLOB), CAST(raw_len AS INTEGER),
    CAST(envelope AS BLOB) FROM small_chunks;
DROP TABLE small_chunks;
ALTER TABLE strict_small_chunks RENAME TO small_chunks;
CREATE TABLE strict_devices (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO strict_devices SELECT CAST(id AS BLOB), CAST(name AS TEXT) FROM devices;
DROP TABLE devices;
ALTER TABLE strict_devices RENAME TO devices;
CREATE TABLE strict_answers (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    folder INTEGER NOT NULL,
    op BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    UNIQUE (folder, op)
) STRICT;
INSERT INTO strict_answers SELECT CAST(key AS INTEGER), CAST(folder AS INTEGER), CAST(op AS BLOB),
    CAST(first_seq AS INTEGER), CAST(last_seq AS INTEGER) FROM answers;
DROP TABLE answers;
ALTER TABLE strict_answers RENAME TO answers;
CREATE INDEX answers_by_age ON answers (folder, key);
CREATE TABLE strict_tokens (
    name TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;
INSERT INTO strict_tokens SELECT CAST(name AS TEXT), CAST(hash AS BLOB), CAST(created AS INTEGER) FROM tokens;
DROP TABLE tokens;
ALTER TABLE strict_tokens RENAME TO tokens;
CREATE TABLE strict_commits (
    folder INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    tag INTEGER NOT NULL,
    time INTEGER NOT NULL,
    device BLOB NOT NULL,
    created INTEGER NOT NULL,
    changed INTEGER NOT NULL,
    removed INTEGER NOT NULL,
    counted INTEGER NOT NULL,
    PRIMARY KEY (folder, last_seq)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_commits SELECT CAST(folder AS INTEGER), CAST(last_seq AS INTEGER),
    CAST(first_seq AS INTEGER), CAST(tag AS INTEGER), CAST(time AS INTEGER), CAST(device AS BLOB),
    CAST(created AS INTEGER), CAST(changed AS INTEGER), CAST(removed AS INTEGER), CAST(counted AS INTEGER) FROM commits;
DROP TABLE commits;
ALTER TABLE strict_commits RENAME TO commits;
CREATE INDEX commits_by_device ON commits (folder, device, time);
CREATE INDEX commits_by_author ON commits (folder, device, last_seq);
CREATE TABLE strict_history (
    folder INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    node BLOB NOT NULL,
    state BLOB,
    PRIMARY KEY (folder, rev)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_history SELECT CAST(folder AS INTEGER), CAST(rev AS INTEGER), CAST(node AS BLOB),
    CAST(state AS BLOB) FROM history;
DROP TABLE history;
ALTER TABLE strict_history RENAME TO history;
CREATE TABLE strict_holds (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    since INTEGER NOT NULL,
    removes INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    allowed_until INTEGER,
    PRIMARY KEY (folder, device)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_holds SELECT CAST(folder AS INTEGER), CAST(device AS BLOB), CAST(since AS INTEGER),
    CAST(removes AS INTEGER), CAST(nodes AS INTEGER), CAST(denied AS INTEGER), CAST(allowed_until AS INTEGER) FROM holds;
DROP TABLE holds;
ALTER TABLE strict_holds RENAME TO holds;
CREATE TABLE strict_sessions (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    number INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    PRIMARY KEY (folder, device)
) STRICT, WITHOUT ROWID;
INSERT INTO strict_sessions SELECT CAST(folder AS INTEGER), CAST(device AS BLOB), CAST(number AS INTEGER),
    CAST(nonce AS INTEGER), CAST(committed AS INTEGER) FROM sessions;
DROP TABLE sessions;
ALTER TABLE strict_sessions RENAME TO sessions;
";

/// Sets every folder's counters to what its nodes say, so that they fit their columns.
pub(super) fn recount(connection: &Connection) -> Result<()> {
    let mut statement = connection.prepare("SELECT key FROM folders").fault()?;
    let keys = statement.query_map([], |row| row.get(0)).fault()?;
    for key in keys {
        let folder = FolderKey(key.fault()?);
        set_totals(connection, folder, totals(connection, folder)?)?;
    }
    Ok(())
}

/// What a folder's live nodes say. A content's size is cast, because before this step a damaged row may hold anything.
pub(super) fn totals(connection: &Connection, folder: FolderKey) -> Result<Totals> {
    let sql = "SELECT CAST(c.size AS INTEGER) FROM nodes n LEFT JOIN contents c ON c.hash = n.content \
               WHERE n.folder = ? AND NOT n.deleted AND n.id <> zeroblob(16)";
    let mut statement = connection.prepare_cached(sql).fault()?;
    let mut rows = statement.query([folder.0]).fault()?;
    let mut totals = Totals::default();
    while let Some(row) = rows.next().fault()? {
        let size = row.get::<_, Option<i64>>(0).fault()?.unwrap_or(0).max(0);
        totals.nodes += 1;
        totals.bytes = totals.bytes.saturating_add(number(size)?).min(FOLDER_BYTES_MAX);
    }
    Ok(totals)
}

/// Writes a folder's counters.
pub(super) fn set_totals(connection: &Connection, folder: FolderKey, totals: Totals) -> Result<()> {
    let sql = "UPDATE folders SET nodes = ?, bytes = ? WHERE key = ?";
    let (nodes, bytes) = (to_column(totals.nodes)?, to_column(totals.bytes)?);
    connection.prepare_cached(sql).fault()?.execute(params![nodes, bytes, folder.0]).fault().map(drop)
}
