//! The tables, and how a database of an older format becomes one of the newest.

use super::strict::{self, STRICT};
use super::{Fault, MetaError, Result};
use rusqlite::{Connection, TransactionBehavior};

/// Each step takes the database from format `index` to `index + 1`.
const STEPS: &[&str] = &[FIRST, HISTORY, SESSIONS, NEWEST, XATTRS, STRICT, TOKENS_COUNT, LOSSES, TIMES];

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

/// The stop for mass deletes counts by token: who came with which is noted, and which removes count. A hold is that of a
/// token, or, from before, that of a device. Settings: what this server does otherwise than a new one.
const TOKENS_COUNT: &str = "
ALTER TABLE commits ADD COLUMN token TEXT;
CREATE INDEX commits_by_token ON commits (folder, token, time);
ALTER TABLE history ADD COLUMN mark INTEGER;
CREATE INDEX history_of_heirs ON history (folder, node) WHERE mark = 2;
CREATE TABLE holds_by_principal (
    key INTEGER PRIMARY KEY,
    folder INTEGER NOT NULL,
    token TEXT,
    device BLOB NOT NULL,
    since INTEGER NOT NULL,
    removes INTEGER NOT NULL,
    nodes INTEGER NOT NULL,
    denied INTEGER NOT NULL,
    allowed_until INTEGER
) STRICT;
INSERT INTO holds_by_principal (folder, device, since, removes, nodes, denied, allowed_until)
    SELECT folder, device, since, removes, nodes, denied, allowed_until FROM holds;
DROP TABLE holds;
ALTER TABLE holds_by_principal RENAME TO holds;
CREATE UNIQUE INDEX holds_of_tokens ON holds (folder, token) WHERE token IS NOT NULL;
CREATE UNIQUE INDEX holds_of_devices ON holds (folder, device) WHERE token IS NULL;
CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO settings SELECT 'upgraded', '' WHERE EXISTS (SELECT 1 FROM folders);
";

/// Chunks that are gone, and in which contents of which folders they are missing; packs whose chunks came alone and of which no
/// content has named any since; packs that have nothing left.
const LOSSES: &str = "
CREATE TABLE lost_chunks (
    hash BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE wanted (
    folder INTEGER NOT NULL,
    content BLOB NOT NULL,
    chunk BLOB NOT NULL,
    PRIMARY KEY (folder, content, chunk)
) STRICT, WITHOUT ROWID;
CREATE INDEX wanted_by_chunk ON wanted (chunk);
CREATE TABLE loose_packs (
    pack INTEGER PRIMARY KEY,
    token TEXT NOT NULL,
    entered INTEGER NOT NULL
) STRICT;
CREATE INDEX loose_packs_by_token ON loose_packs (token, entered);
CREATE TABLE empty_packs (
    id BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
";

/// When a node was last changed, and the rev of the last change of a directory's entries: its mtime is of then, or was set since.
const TIMES: &str = "
ALTER TABLE nodes ADD COLUMN changed INTEGER;
ALTER TABLE nodes ADD COLUMN entries_rev INTEGER;
CREATE INDEX nodes_by_entries ON nodes (folder, entries_rev) WHERE entries_rev IS NOT NULL;
";

/// Brings the database to the newest format, in one transaction per step.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).fault()?;
    let known = STEPS.len() as i64;
    if found > known || found < 0 {
        return Err(MetaError::TooNew { found, known });
    }
    if found == known {
        return Ok(());
    }
    if found > 0 {
        tracing::info!(from = found, to = known, "the database gets a newer format");
    }
    // A table that is replaced must not take the rows that refer to it along. Inside a transaction this cannot be set.
    let keys: bool = connection.query_row("PRAGMA foreign_keys", [], |row| row.get(0)).fault()?;
    connection.pragma_update(None, "foreign_keys", false).fault()?;
    (found..known).try_for_each(|step| advance(connection, step))?;
    connection.pragma_update(None, "foreign_keys", keys).fault()
}

/// Does the step that leads from the format `from` to the next one, unless another process has done it meanwhile.
fn advance(connection: &mut Connection, from: i64) -> Result<()> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).fault()?;
    let found: i64 = tx.query_row("PRAGMA user_version", [], |row| row.get(0)).fault()?;
    if found > from {
        return Ok(());
    }
    let sql = STEPS[from as usize];
    if sql == STRICT {
        strict::recount(&tx)?;
    }
    tx.execute_batch(sql).fault()?;
    tx.pragma_update(None, "user_version", from + 1).fault()?;
    tx.commit().fault()
}

#[cfg(test)]
mod tests {
    use super::super::Tx;
    use super::*;
    use crate::meta::{FolderKey, HoldRow, Principal, ReadHistory as _, ReadTx as _, WriteHistory as _};
    use syncmount_common::{DeviceId, Timestamp};

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

    #[test]
    fn holds_of_devices_go_on_after_the_upgrade() {
        let mut connection = Connection::open_in_memory().unwrap();
        let before = STEPS.iter().position(|step| *step == TOKENS_COUNT).unwrap();
        for step in &STEPS[..before] {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", before as i64).unwrap();
        let folders =
            "INSERT INTO folders (key, id, name, epoch, seq, nodes, bytes) VALUES (1, x'01', 'old', x'02', 7, 3, 0)";
        let device = DeviceId::from_bytes([7; 16]);
        connection.execute_batch(folders).unwrap();
        connection.execute("INSERT INTO holds VALUES (1, ?, 5, 1200, 2000, 1, NULL)", [device.as_bytes()]).unwrap();
        let commit = "INSERT INTO commits VALUES (1, 7, 1, 9, 5, ?, 0, 0, 7, 7)";
        connection.execute(commit, [device.as_bytes()]).unwrap();
        migrate(&mut connection).unwrap();
        assert!(Tx(&connection).setting("upgraded").unwrap().is_some(), "a server was there before");
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh).unwrap();
        assert!(Tx(&fresh).setting("upgraded").unwrap().is_none());
        let (tx, folder, principal) = (Tx(&connection), FolderKey(1), Principal::Device(device));
        let hold = tx.hold(folder, &principal).unwrap().unwrap();
        assert!((hold.removes, hold.nodes, hold.denied) == (1200, 2000, true) && hold.stops(), "{hold:?}");
        assert_eq!(tx.counts_by(folder, &principal, Timestamp(0)).unwrap().counted, 7);
        let token = Principal::Token("laptop".to_owned());
        assert!(tx.hold(folder, &token).unwrap().is_none());
        tx.put_hold(folder, &token, &HoldRow { removes: 1, ..hold }).unwrap();
        tx.put_hold(folder, &token, &HoldRow { removes: 2, ..hold }).unwrap();
        let holds: Vec<_> = tx.holds(folder).unwrap().into_iter().map(|(who, _, hold)| (who, hold.removes)).collect();
        assert_eq!(holds.len(), 2);
        assert!(holds.contains(&(token, 2)) && holds.contains(&(principal, 1200)), "{holds:?}");
    }
}
