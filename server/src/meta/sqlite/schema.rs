//! The tables, and how a database of an older format becomes one of the newest.

use super::{Fault, MetaError, Result};
use rusqlite::Connection;

/// Each step takes the database from format `index` to `index + 1`.
const STEPS: &[&str] = &[FIRST, HISTORY, SESSIONS, NEWEST, XATTRS];

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

/// A history of everything. What happened before this step is known as one commit without details, so that its end has a
/// tag like every other; `born` is the rev with which a node came.
const HISTORY: &str = "
ALTER TABLE folders ADD COLUMN history_from INTEGER NOT NULL DEFAULT 0;
UPDATE folders SET history_from = seq;
ALTER TABLE nodes ADD COLUMN born INTEGER NOT NULL DEFAULT 0;
CREATE TABLE commits (
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
) WITHOUT ROWID;
CREATE INDEX commits_by_device ON commits (folder, device, time);
INSERT INTO commits SELECT key, seq, 1, random() | 1, CAST(strftime('%s') AS INTEGER) * 1000000000,
    zeroblob(16), nodes, 0, 0, 0 FROM folders WHERE seq > 0;
CREATE TABLE history (
    folder INTEGER NOT NULL,
    rev INTEGER NOT NULL,
    node BLOB NOT NULL,
    state BLOB,
    PRIMARY KEY (folder, rev)
) WITHOUT ROWID;
CREATE TABLE holds (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    since INTEGER NOT NULL,
    removes INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    allowed_until INTEGER,
    PRIMARY KEY (folder, device)
) WITHOUT ROWID;
CREATE INDEX chunks_by_pack ON chunks (pack, offset);
";

/// Who speaks for a device.
const SESSIONS: &str = "
CREATE TABLE sessions (
    folder INTEGER NOT NULL,
    device BLOB NOT NULL,
    number INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    committed INTEGER NOT NULL,
    PRIMARY KEY (folder, device)
) WITHOUT ROWID;
";

/// The newest commit of each device is at hand.
const NEWEST: &str = "CREATE INDEX commits_by_author ON commits (folder, device, last_seq);";

/// Extended attributes, in their canonical encoding; null: none.
const XATTRS: &str = "
ALTER TABLE nodes ADD COLUMN xattrs BLOB;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_the_first_format_gets_a_tag_where_it_ends() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(FIRST).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        let folders = "INSERT INTO folders VALUES (1, x'01', 'old', x'02', 7, 3, 0), (2, x'03', 'new', x'04', 0, 0, 0)";
        connection.execute_batch(folders).unwrap();
        migrate(&mut connection).unwrap();
        let sql =
            "SELECT f.history_from, c.last_seq, c.tag <> 0 FROM folders f LEFT JOIN commits c ON c.folder = f.key";
        let mut statement = connection.prepare(sql).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
        let rows: Vec<(i64, Option<i64>, Option<bool>)> = rows.map(std::result::Result::unwrap).collect();
        assert_eq!(rows, [(7, Some(7), Some(true)), (0, None, None)]);
    }
}
