//! Every row of every table, read as this program reads it, and the references between rows. Rows are streamed: no table is
//! held in memory.

use super::columns::{self, MANIFEST_INLINE_LEN_MAX, NODE_COLUMNS, number};
use super::{Fault, Result, Tx, history, past, read, scrub, strict};
use crate::meta::{FolderFault, FolderKey, Totals};
use rusqlite::Row;
use rusqlite::types::{Type, ValueRef};
use syncmount_common::NodeId;

/// Faults of one table that are told one by one; the others are counted.
const FAULTS_MAX: usize = 100;

/// How the rows of a table are read: the table, the query, and the decoder of a row.
type Reader = (&'static str, &'static str, fn(&Row<'_>) -> Result<()>);

/// Nodes are not among them: their columns are [`NODE_COLUMNS`].
const READERS: &[Reader] = &[
    ("folders", "SELECT key, id, name, epoch, seq, nodes, bytes, history_from FROM folders", |row| {
        read::folder(row)?;
        number(row.get(7).fault()?).map(drop)
    }),
    ("names", "SELECT parent, name, node FROM names", |row| {
        columns::placement(row, 0)?;
        bytes::<16>(row, 2)
    }),
    ("versions", "SELECT parent, name, rev, node, content, mtime, received, device FROM versions", |row| {
        columns::placement(row, 0)?;
        number(row.get(2).fault()?)?;
        bytes::<16>(row, 3)?;
        bytes::<32>(row, 4)?;
        bytes::<16>(row, 7)
    }),
    ("contents", "SELECT key, hash, size, manifest, sha256 FROM contents", |row| {
        scrub::raw_content(row)?;
        row.get::<_, Option<[u8; 32]>>(4).fault().map(drop)
    }),
    ("packs", "SELECT id FROM packs", |row| bytes::<16>(row, 0)),
    ("chunks", "SELECT hash, offset, len, raw_len FROM chunks", |row| {
        columns::chunk_hash(row, 0)?;
        number(row.get(1).fault()?)?;
        row.get::<_, u32>(2).fault()?;
        row.get::<_, u32>(3).fault().map(drop)
    }),
    ("small_chunks", "SELECT hash, raw_len FROM small_chunks", |row| {
        columns::chunk_hash(row, 0)?;
        row.get::<_, u32>(1).fault().map(drop)
    }),
    ("devices", "SELECT id, name FROM devices", |row| {
        bytes::<16>(row, 0)?;
        row.get::<_, String>(1).fault().map(drop)
    }),
    ("answers", "SELECT op, first_seq, last_seq FROM answers", |row| {
        bytes::<16>(row, 0)?;
        number(row.get(1).fault()?)?;
        number(row.get(2).fault()?).map(drop)
    }),
    ("tokens", "SELECT name, created, hash FROM tokens", |row| {
        read::token(row)?;
        bytes::<32>(row, 2)
    }),
    (
        "commits",
        "SELECT first_seq, last_seq, tag, time, device, created, changed, removed, counted, token FROM commits",
        |row| history::commit(row).map(drop),
    ),
    ("history", "SELECT node, state, rev, mark FROM history", |row| {
        let id = NodeId::from_bytes(row.get(0).fault()?);
        let state = row.get_ref(1).fault()?.as_blob_or_null().ok().flatten();
        state.map(|state| past::decode(id, state)).transpose()?;
        row.get::<_, Option<i64>>(3).fault()?;
        number(row.get(2).fault()?).map(drop)
    }),
    ("holds", "SELECT device, since, removes, nodes, denied, allowed_until, token FROM holds", |row| {
        row.get::<_, Option<String>>(6).fault()?;
        history::hold(row).map(drop)
    }),
    ("settings", "SELECT name, value FROM settings", |row| {
        row.get::<_, String>(0).fault()?;
        row.get::<_, String>(1).fault().map(drop)
    }),
    ("lost_chunks", "SELECT hash FROM lost_chunks", |row| columns::chunk_hash(row, 0).map(drop)),
    ("wanted", "SELECT folder, content, chunk FROM wanted", |row| {
        row.get::<_, i64>(0).fault()?;
        bytes::<32>(row, 1)?;
        columns::chunk_hash(row, 2).map(drop)
    }),
    ("loose_packs", "SELECT pack, token, entered FROM loose_packs", |row| {
        row.get::<_, i64>(0).fault()?;
        row.get::<_, String>(1).fault()?;
        row.get::<_, i64>(2).fault().map(drop)
    }),
    ("empty_packs", "SELECT id FROM empty_packs", |row| bytes::<16>(row, 0)),
    ("sessions", "SELECT device, number, nonce, committed FROM sessions", |row| {
        bytes::<16>(row, 0)?;
        number(row.get(1).fault()?)?;
        number(row.get(3).fault()?).map(drop)
    }),
];

/// A fault of a node, and the query that finds the nodes that have it. Columns: the folder's name and the node.
const REFERENCES: &[(&str, &str)] = &[
    (
        "has a name, but is not there",
        "SELECT f.name, m.node FROM names m LEFT JOIN folders f ON f.key = m.folder \
         LEFT JOIN nodes n ON n.folder = m.folder AND n.id = m.node WHERE n.id IS NULL OR n.deleted",
    ),
    (
        "lies in what is no directory",
        "SELECT f.name, m.node FROM names m LEFT JOIN folders f ON f.key = m.folder \
         LEFT JOIN nodes n ON n.folder = m.folder AND n.id = m.parent WHERE n.id IS NULL OR n.deleted OR n.kind <> 1",
    ),
    (
        "has no name",
        "SELECT f.name, n.id FROM nodes n LEFT JOIN folders f ON f.key = n.folder \
         WHERE NOT n.deleted AND n.id <> zeroblob(16) AND NOT EXISTS \
         (SELECT 1 FROM names m WHERE m.folder = n.folder AND m.node = n.id)",
    ),
    (
        "was changed after the folder's last change",
        "SELECT f.name, n.id FROM nodes n JOIN folders f ON f.key = n.folder WHERE n.rev > f.seq",
    ),
    (
        "has an earlier version whose content is not there",
        "SELECT f.name, v.node FROM versions v LEFT JOIN folders f ON f.key = v.folder \
         WHERE NOT EXISTS (SELECT 1 FROM contents c WHERE c.hash = v.content)",
    ),
    (
        "is the folder's root, but is not there",
        "SELECT f.name, zeroblob(16) FROM folders f WHERE NOT EXISTS \
         (SELECT 1 FROM nodes n WHERE n.folder = f.key AND n.id = zeroblob(16) AND n.kind = 1 AND NOT n.deleted)",
    ),
];

/// A value of exactly `N` bytes.
fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> Result<()> {
    row.get::<_, [u8; N]>(column).fault().map(drop)
}

/// Faults that one query found: sentences for the first ones, and the number of all.
struct Faults {
    told: Vec<String>,
    count: usize,
}

impl Faults {
    fn add(&mut self, text: String) {
        self.count += 1;
        if self.told.len() < FAULTS_MAX {
            self.told.push(text);
        }
    }

    fn end(self, what: &str) -> Vec<String> {
        let Self { mut told, count } = self;
        if count > told.len() {
            told.push(format!("{what}: {} more of them", count - told.len()));
        }
        told
    }
}

/// A column as it was declared.
struct Column {
    name: String,
    declared: String,
    required: bool,
}

impl Column {
    fn takes(&self, value: ValueRef<'_>) -> bool {
        match value.data_type() {
            Type::Null => !self.required,
            Type::Integer => self.declared == "INTEGER",
            Type::Text => self.declared == "TEXT" && value.as_str().is_ok(),
            Type::Blob => self.declared == "BLOB",
            Type::Real => self.declared == "REAL",
        }
    }
}

impl Tx<'_> {
    pub(super) fn all_row_faults(&self) -> Result<Vec<String>> {
        let mut faults = Vec::new();
        let sql = "SELECT name, strict FROM pragma_table_list WHERE schema = 'main' AND type = 'table' \
                   AND name NOT LIKE 'sqlite%' ORDER BY name";
        let tables = self.all(sql, [], |row| Ok((row.get::<_, String>(0).fault()?, row.get::<_, bool>(1).fault()?)))?;
        for (table, is_strict) in tables {
            if !is_strict {
                faults.push(format!("the table `{table}` takes values of any type"));
            }
            faults.extend(self.value_faults(&table)?);
        }
        for (table, sql, read) in READERS {
            faults.extend(self.read_faults(table, sql, *read));
        }
        let nodes = format!("SELECT {NODE_COLUMNS} FROM nodes n LEFT JOIN contents c ON c.hash = n.content");
        let nodes = nodes.replace(":inline", &MANIFEST_INLINE_LEN_MAX.to_string());
        faults.extend(self.read_faults("nodes", &nodes, |row| columns::node(row).map(drop)));
        for (fault, sql) in REFERENCES {
            faults.extend(self.reference_faults(fault, sql));
        }
        Ok(faults)
    }

    /// Values that their columns should not hold.
    fn value_faults(&self, table: &str) -> Result<Vec<String>> {
        let sql = "SELECT name, type, \"notnull\" FROM pragma_table_info(?) ORDER BY cid";
        let columns = self.all(sql, [table], |row| {
            let (name, declared) = (row.get(0).fault()?, row.get(1).fault()?);
            Ok(Column { name, declared, required: row.get(2).fault()? })
        })?;
        let mut faults = Faults { told: Vec::new(), count: 0 };
        let visited = self.visit(&format!("SELECT * FROM \"{table}\""), |number, row| {
            for (index, column) in columns.iter().enumerate() {
                let value = row.get_ref(index).fault()?;
                if !column.takes(value) {
                    let kind = value.data_type();
                    faults.add(format!(
                        "the table `{table}`, row {number}: `{}` holds a value of type {kind}",
                        column.name
                    ));
                }
            }
            Ok(())
        });
        if let Err(error) = visited {
            faults.add(format!("the table `{table}` cannot be read to its end: {error}"));
        }
        Ok(faults.end(&format!("the table `{table}`")))
    }

    /// Rows that this program cannot read.
    fn read_faults(&self, table: &str, sql: &str, read: fn(&Row<'_>) -> Result<()>) -> Vec<String> {
        let mut faults = Faults { told: Vec::new(), count: 0 };
        let visited = self.visit(sql, |number, row| {
            if let Err(error) = read(row) {
                faults.add(format!("the table `{table}`, row {number}: {error}"));
            }
            Ok(())
        });
        if let Err(error) = visited {
            faults.add(format!("the table `{table}` cannot be read to its end: {error}"));
        }
        faults.end(&format!("the table `{table}`"))
    }

    fn reference_faults(&self, fault: &str, sql: &str) -> Vec<String> {
        let mut faults = Faults { told: Vec::new(), count: 0 };
        let visited = self.visit(sql, |_, row| {
            let folder = row.get_ref(0).fault()?.as_str().unwrap_or("?").to_owned();
            let node =
                row.get::<_, [u8; 16]>(1).map_or_else(|_| "?".to_owned(), |id| NodeId::from_bytes(id).to_string());
            faults.add(format!("{folder}: node {node} {fault}"));
            Ok(())
        });
        if let Err(error) = visited {
            faults.add(format!("whether a node {fault} cannot be told: {error}"));
        }
        faults.end(fault)
    }

    /// Goes over rows, which are numbered from 1.
    fn visit(&self, sql: &str, mut each: impl FnMut(u64, &Row<'_>) -> Result<()>) -> Result<()> {
        let mut statement = self.0.prepare(sql).fault()?;
        let mut rows = statement.query([]).fault()?;
        let mut number = 0;
        while let Some(row) = rows.next().fault()? {
            number += 1;
            each(number, row)?;
        }
        Ok(())
    }

    pub(super) fn all_miscounted(&self) -> Result<Vec<FolderFault>> {
        let rows = self.all("SELECT key, name, nodes, bytes FROM folders", [], |row| {
            let name = row.get_ref(1).fault()?.as_str().unwrap_or("?").to_owned();
            let said = |column| row.get::<_, i64>(column).ok().and_then(|said| u64::try_from(said).ok());
            let said = said(2).zip(said(3)).map(|(nodes, bytes)| Totals { nodes, bytes });
            Ok((FolderKey(row.get(0).fault()?), name, said))
        })?;
        let mut wrong = Vec::new();
        for (key, name, said) in rows {
            let counted = strict::totals(self.0, key)?;
            if said != Some(counted) {
                wrong.push(FolderFault { key, name, said, counted });
            }
        }
        Ok(wrong)
    }
}
