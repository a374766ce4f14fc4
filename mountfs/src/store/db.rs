//! The SQLite file behind the journal. The only SQL of the client.
//!
//! Promise: [`Db::apply`] is atomic and durable when it returns, together with the sequence number it applied up to.

use super::state::{Record, StateError};
use rusqlite::{Connection, ErrorCode, params};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// The version of the tables below. A program refuses a file with a higher one.
const SCHEMA: i64 = 1;

const TABLES: &str = "
    CREATE TABLE rows (id BLOB PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
    CREATE TABLE folded (only INTEGER PRIMARY KEY CHECK (only = 0), seq INTEGER NOT NULL);
    INSERT INTO folded VALUES (0, 0);
";

/// Exclusive: the lock file keeps others out anyway, and SQLite needs no shared memory then. FULL: a transaction is on the
/// disk when it is done.
const SETTINGS: &str = "
    PRAGMA locking_mode = EXCLUSIVE;
    PRAGMA journal_mode = WAL;
    PRAGMA synchronous = FULL;
    PRAGMA cache_size = -16384;
    PRAGMA journal_size_limit = 4194304;
";

/// A file of fewer pages is not worth being written once more: 16 MiB.
const VACUUM_PAGES_MIN: i64 = 4096;

/// Rows and settings as they are stored.
pub(super) struct Contents {
    pub(super) rows: Vec<([u8; 16], Vec<u8>)>,
    pub(super) meta: HashMap<String, Vec<u8>>,
}

/// A row's id, and what it is from now on.
pub type RowChange = ([u8; 16], Option<Vec<u8>>);

/// Several records, merged: what is left to do for each key.
#[derive(Default)]
pub(super) struct Merged<'a> {
    rows: BTreeMap<[u8; 16], Option<&'a [u8]>>,
    meta: BTreeMap<&'a str, Option<&'a [u8]>>,
}

impl<'a> Merged<'a> {
    /// Adds a record that is newer than those added before.
    pub(super) fn add(&mut self, record: &'a Record) {
        self.rows.extend(record.rows.iter().map(|(id, data)| (*id, data.as_deref())));
        self.meta.extend(record.meta.iter().map(|(key, value)| (key.as_str(), value.as_deref())));
    }
}

/// An open file.
pub(super) struct Db {
    connection: Connection,
    path: PathBuf,
}

impl Db {
    /// Opens or makes the file. `check` looks for damage first: a second per 200 MB.
    pub(super) fn open(path: &Path, check: bool) -> Result<Self, StateError> {
        let mut db = Connection::open(path)
            .map(|connection| Self { connection, path: path.to_owned() })
            .map_err(|error| sql_error(path, &error))?;
        db.settle().map_err(|error| sql_error(path, &error))?;
        match db.schema()? {
            0 => db.create().map_err(|error| sql_error(path, &error))?,
            SCHEMA => {}
            found => return Err(StateError::Newer { path: path.to_owned(), found, known: SCHEMA }),
        }
        if check {
            db.check()?;
        }
        Ok(db)
    }

    fn settle(&self) -> rusqlite::Result<()> {
        self.connection.execute_batch(SETTINGS)
    }

    fn schema(&self) -> Result<i64, StateError> {
        self.one("PRAGMA user_version")
    }

    fn create(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        transaction.execute_batch(TABLES)?;
        transaction.pragma_update(None, "user_version", SCHEMA)?;
        transaction.commit()
    }

    fn check(&self) -> Result<(), StateError> {
        let verdict: String = self.one("PRAGMA quick_check(1)")?;
        if verdict == "ok" {
            return Ok(());
        }
        Err(StateError::Damaged { path: self.path.clone(), what: verdict })
    }

    fn one<T: rusqlite::types::FromSql>(&self, sql: &str) -> Result<T, StateError> {
        self.connection.query_row(sql, [], |row| row.get(0)).map_err(|error| sql_error(&self.path, &error))
    }

    /// Makes the file small again where most of a large one is of rows that are gone. Takes a second per 200 MB that are left,
    /// and so long as much room again.
    pub(super) fn give_back_room(&self) -> Result<(), StateError> {
        let (pages, free): (i64, i64) = (self.one("PRAGMA page_count")?, self.one("PRAGMA freelist_count")?);
        if pages < VACUUM_PAGES_MIN || free < pages / 4 * 3 {
            return Ok(());
        }
        // Without the room for it the file is as good as it was.
        if let Err(error) = self.connection.execute_batch("VACUUM") {
            tracing::warn!(%error, "the file of the records stays larger than it has to be");
        }
        Ok(())
    }

    /// The sequence number of the last record in it.
    pub(super) fn folded(&self) -> Result<u64, StateError> {
        let seq: i64 = self.one("SELECT seq FROM folded")?;
        let damaged =
            |_| StateError::Damaged { path: self.path.clone(), what: "a negative sequence number".to_owned() };
        u64::try_from(seq).map_err(damaged)
    }

    /// Stores what `merged` says, as of record `seq`.
    pub(super) fn apply(&mut self, merged: &Merged<'_>, seq: u64) -> Result<(), StateError> {
        let rows = merged.rows.iter().map(|(id, data)| Ok((*id, *data)));
        let meta = merged.meta.iter().map(|(key, value)| (*key, *value));
        self.try_apply(rows, meta, seq).map_err(|error| sql_error(&self.path, &error))
    }

    /// Stores a record whose rows are made one by one, in the order of their ids at best.
    pub(super) fn apply_rows(
        &mut self,
        rows: impl Iterator<Item = io::Result<RowChange>>,
        meta: &[(String, Option<Vec<u8>>)],
        seq: u64,
    ) -> Result<(), StateError> {
        let meta = meta.iter().map(|(key, value)| (key.as_str(), value.as_deref()));
        self.try_apply(rows, meta, seq).map_err(|error| sql_error(&self.path, &error))?;
        self.let_pages_go();
        Ok(())
    }

    fn try_apply<'m>(
        &mut self,
        rows: impl Iterator<Item = io::Result<([u8; 16], Option<impl AsRef<[u8]>>)>>,
        meta: impl Iterator<Item = (&'m str, Option<&'m [u8]>)>,
        seq: u64,
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO rows VALUES (?1, ?2)")?;
            let mut remove = transaction.prepare_cached("DELETE FROM rows WHERE id = ?1")?;
            for row in rows {
                let (id, data) = row.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
                match data {
                    Some(data) => put.execute(params![&id[..], data.as_ref()])?,
                    None => remove.execute([&id[..]])?,
                };
            }
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO meta VALUES (?1, ?2)")?;
            let mut remove = transaction.prepare_cached("DELETE FROM meta WHERE key = ?1")?;
            for (key, value) in meta {
                match value {
                    Some(value) => put.execute(params![key, value])?,
                    None => remove.execute([key])?,
                };
            }
        }
        transaction.execute("UPDATE folded SET seq = ?1", [seq.cast_signed()])?;
        transaction.commit()
    }

    /// Everything in it: a second per million rows.
    pub(super) fn load(&self) -> Result<Contents, StateError> {
        let contents = self.try_load().map_err(|error| sql_error(&self.path, &error))?;
        self.let_pages_go();
        Ok(contents)
    }

    /// Whoever has passed very many rows does not ask for the last of them next: copies of their pages only cost memory.
    fn let_pages_go(&self) {
        if let Err(error) = self.connection.execute_batch("PRAGMA shrink_memory") {
            // What was stored is stored; more memory is in use.
            tracing::warn!(%error, "SQLite keeps its pages in memory");
        }
    }

    fn try_load(&self) -> rusqlite::Result<Contents> {
        let mut contents = Contents { rows: Vec::new(), meta: HashMap::new() };
        let mut statement = self.connection.prepare("SELECT id, data FROM rows")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            contents.rows.push((row.get(0)?, row.get_ref(1)?.as_blob()?.to_vec()));
        }
        let mut statement = self.connection.prepare("SELECT key, value FROM meta")?;
        let mut meta = statement.query([])?;
        while let Some(row) = meta.next()? {
            contents.meta.insert(row.get(0)?, row.get(1)?);
        }
        Ok(contents)
    }

    /// Moves everything from SQLite's own log into the file.
    pub(super) fn checkpoint(&self) -> Result<(), StateError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|error| sql_error(&self.path, &error))
    }
}

fn sql_error(path: &Path, error: &rusqlite::Error) -> StateError {
    let path = path.to_owned();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StateError::Damaged { path, what: error.to_string() }
        }
        None if matches!(error, rusqlite::Error::QueryReturnedNoRows) => {
            StateError::Damaged { path, what: "a table is empty".to_owned() }
        }
        Some(ErrorCode::DiskFull) => StateError::Full { path },
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            StateError::NotWritable { path, reason: error.to_string() }
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StateError::InUse { path, by: None },
        _ => StateError::Sql { path, reason: error.to_string() },
    }
}
