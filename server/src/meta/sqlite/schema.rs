//! The tables, and how a database of an older format becomes one of the newest.

use super::{Fault, MetaError, Result};
use rusqlite::Connection;

/// Each step takes the database from format `index` to `index + 1`.
const STEPS: &[&str] = &[FIRST];

/// Keys are clustered (`WITHOUT ROWID`) where rows are small, so that a directory's names lie side by side; tables with
/// long values (manifests, envelopes) keep a rowid, because overflow pages make clustered ones slow to search.
const FIRST: &str = "
CREATE TABLE folders (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    epoch BLOB NOT NULL,
    seq INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE nodes (
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
    PRIMARY KEY (folder, id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX nodes_by_rev ON nodes (folder, rev);
CREATE TABLE names (
    folder INTEGER NOT NULL,
    parent BLOB NOT NULL,
    name BLOB NOT NULL,
    node BLOB NOT NULL,
    PRIMARY KEY (folder, parent, name)
) WITHOUT ROWID;
CREATE INDEX names_by_node ON names (folder, node);
CREATE TABLE versions (
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
) WITHOUT ROWID;
CREATE INDEX versions_by_path ON versions (folder, parent, name, rev);
CREATE TABLE contents (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    sha256 BLOB,
    manifest BLOB NOT NULL
);
CREATE TABLE packs (
    key INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE
);
CREATE TABLE chunks (
    hash BLOB PRIMARY KEY,
    pack INTEGER NOT NULL REFERENCES packs(key),
    offset INTEGER NOT NULL,
    len INTEGER NOT NULL,
    raw_len INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE small_chunks (
    key INTEGER PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    raw_len INTEGER NOT NULL,
    envelope BLOB NOT NULL
);
CREATE TABLE devices (
    id BLOB PRIMARY KEY,
    name TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE answers (
    key INTEGER PRIMARY KEY AUTOINCREMENT,
    folder INTEGER NOT NULL,
    op BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    UNIQUE (folder, op)
);
CREATE INDEX answers_by_age ON answers (folder, key);
CREATE TABLE tokens (
    name TEXT PRIMARY KEY,
    hash BLOB NOT NULL UNIQUE,
    created INTEGER NOT NULL
);
";

/// Brings the database to the newest format, in one transaction per step.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).fault()?;
    let known = STEPS.len() as i64;
    if found > known || found < 0 {
        return Err(MetaError::TooNew { found, known });
    }
    for (step, sql) in (found..).zip(&STEPS[found as usize..]) {
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).fault()?;
        tx.execute_batch(sql).fault()?;
        tx.pragma_update(None, "user_version", step + 1).fault()?;
        tx.commit().fault()?;
    }
    Ok(())
}
