//! The past in SQL: commits, earlier states, holds.

use super::columns::{number, to_column};
use super::{Fault, Result, Tx, past};
use crate::meta::{CommitRow, Counts, FolderKey, HoldRow, ReadHistory, WriteHistory};
use rusqlite::{Row, params};
use syncmount_common::protocol::changes::Device;
use syncmount_common::{DeviceId, Epoch, Node, NodeId, Seq, Timestamp};

/// SQLite's integers are signed; a tag is 64 bits without a meaning.
const fn tag_column(tag: u64) -> i64 {
    tag.cast_signed()
}

fn tag(row: &Row<'_>, column: usize) -> Result<u64> {
    row.get::<_, i64>(column).fault().map(i64::cast_unsigned)
}

/// The four columns from `first` on.
fn counts(row: &Row<'_>, first: usize) -> Result<Counts> {
    let count = |column| number(row.get(first + column).fault()?);
    Ok(Counts { created: count(0)?, changed: count(1)?, removed: count(2)?, counted: count(3)? })
}

fn commit(row: &Row<'_>) -> Result<CommitRow> {
    Ok(CommitRow {
        first_seq: number(row.get(0).fault()?)?,
        last_seq: number(row.get(1).fault()?)?,
        tag: tag(row, 2)?,
        time: Timestamp(row.get(3).fault()?),
        device: DeviceId::from_bytes(row.get(4).fault()?),
        counts: counts(row, 5)?,
    })
}

/// The five columns from `first` on.
fn hold(row: &Row<'_>, first: usize) -> Result<HoldRow> {
    Ok(HoldRow {
        since: Timestamp(row.get(first).fault()?),
        removes: number(row.get(first + 1).fault()?)?,
        nodes: number(row.get(first + 2).fault()?)?,
        denied: row.get(first + 3).fault()?,
        allowed_until: row.get::<_, Option<i64>>(first + 4).fault()?.map(Timestamp),
    })
}

const COUNTS: &str = "SELECT coalesce(sum(created), 0), coalesce(sum(changed), 0), coalesce(sum(removed), 0), \
                      coalesce(sum(counted), 0) FROM commits";

impl ReadHistory for Tx<'_> {
    fn tag_at(&self, folder: FolderKey, seq: Seq) -> Result<u64> {
        if seq == 0 {
            return Ok(0);
        }
        let sql = "SELECT tag FROM commits WHERE folder = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1";
        // What nobody can have stored is past every commit.
        let seq = to_column(seq).unwrap_or(i64::MAX);
        Ok(self.first(sql, params![folder.0, seq], |row| tag(row, 0))?.unwrap_or(0))
    }

    fn newest_by(&self, folder: FolderKey, device: DeviceId) -> Result<Option<(Seq, u64)>> {
        let sql = "SELECT last_seq, tag FROM commits WHERE folder = ? AND device = ? ORDER BY last_seq DESC LIMIT 1";
        self.first(sql, params![folder.0, device.as_bytes()], |row| Ok((number(row.get(0).fault()?)?, tag(row, 1)?)))
    }

    fn commits(&self, folder: FolderKey, limit: usize) -> Result<Vec<CommitRow>> {
        let sql = "SELECT first_seq, last_seq, tag, time, device, created, changed, removed, counted FROM commits \
                   WHERE folder = ? ORDER BY last_seq DESC LIMIT ?";
        self.all(sql, params![folder.0, i64::try_from(limit).unwrap_or(i64::MAX)], commit)
    }

    fn seq_at(&self, folder: FolderKey, time: Timestamp) -> Result<Seq> {
        let sql = "SELECT last_seq FROM commits WHERE folder = ? AND time <= ? ORDER BY last_seq DESC LIMIT 1";
        let seq = self.first(sql, params![folder.0, time.0], |row| number(row.get(0).fault()?))?;
        Ok(seq.unwrap_or(0))
    }

    fn counts_past(&self, folder: FolderKey, seq: Seq) -> Result<Counts> {
        let sql = format!("{COUNTS} WHERE folder = ? AND last_seq > ?");
        let row = self.first(&sql, params![folder.0, to_column(seq)?], |row| counts(row, 0))?;
        Ok(row.unwrap_or_default())
    }

    fn device_counts(&self, folder: FolderKey, device: DeviceId, time: Timestamp) -> Result<Counts> {
        let sql = format!("{COUNTS} WHERE folder = ? AND device = ? AND time > ?");
        let row = self.first(&sql, params![folder.0, device.as_bytes(), time.0], |row| counts(row, 0))?;
        Ok(row.unwrap_or_default())
    }

    fn origin(&self, folder: FolderKey, seq: Seq) -> Result<Option<(DeviceId, Timestamp)>> {
        let sql = "SELECT device, time FROM commits WHERE folder = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1";
        self.first(sql, params![folder.0, to_column(seq)?], |row| {
            Ok((DeviceId::from_bytes(row.get(0).fault()?), Timestamp(row.get(1).fault()?)))
        })
    }

    fn born(&self, folder: FolderKey, node: NodeId) -> Result<Seq> {
        let sql = "SELECT born FROM nodes WHERE folder = ? AND id = ?";
        let born = self.first(sql, params![folder.0, node.as_bytes()], |row| number(row.get(0).fault()?))?;
        Ok(born.unwrap_or(0))
    }

    fn history_from(&self, folder: FolderKey) -> Result<Seq> {
        let sql = "SELECT history_from FROM folders WHERE key = ?";
        Ok(self.first(sql, [folder.0], |row| number(row.get(0).fault()?))?.unwrap_or(0))
    }

    fn states_at(&self, folder: FolderKey, seq: Seq) -> Result<Vec<(NodeId, Option<Node>)>> {
        // With `min`, the other columns are those of the row that has it.
        let sql = "SELECT node, min(rev), state FROM history WHERE folder = ? AND rev > ? GROUP BY node";
        self.all(sql, params![folder.0, to_column(seq)?], |row| {
            let id = NodeId::from_bytes(row.get(0).fault()?);
            let state = row.get_ref(2).fault()?.as_blob_or_null().ok().flatten();
            Ok((id, state.map(|state| past::decode(id, state)).transpose()?))
        })
    }

    fn hold(&self, folder: FolderKey, device: DeviceId) -> Result<Option<HoldRow>> {
        let sql = "SELECT since, removes, nodes, denied, allowed_until FROM holds WHERE folder = ? AND device = ?";
        self.first(sql, params![folder.0, device.as_bytes()], |row| hold(row, 0))
    }

    fn holds(&self, folder: FolderKey) -> Result<Vec<(Device, HoldRow)>> {
        let sql = "SELECT h.device, d.name, h.since, h.removes, h.nodes, h.denied, h.allowed_until FROM holds h \
                   LEFT JOIN devices d ON d.id = h.device WHERE h.folder = ? ORDER BY h.since DESC";
        self.all(sql, [folder.0], |row| {
            let name = row.get::<_, Option<String>>(1).fault()?.unwrap_or_default();
            Ok((Device { id: DeviceId::from_bytes(row.get(0).fault()?), name }, hold(row, 2)?))
        })
    }
}

impl WriteHistory for Tx<'_> {
    fn add_commit(&self, folder: FolderKey, commit: &CommitRow) -> Result<()> {
        let sql = "INSERT INTO commits (folder, first_seq, last_seq, tag, time, device, created, changed, removed, counted) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let Counts { created, changed, removed, counted } = commit.counts;
        let params = params![
            folder.0,
            to_column(commit.first_seq)?,
            to_column(commit.last_seq)?,
            tag_column(commit.tag),
            commit.time.0,
            commit.device.as_bytes(),
            to_column(created)?,
            to_column(changed)?,
            to_column(removed)?,
            to_column(counted)?,
        ];
        self.run(sql, params).map(drop)
    }

    fn add_past(&self, folder: FolderKey, rev: Seq, node: NodeId, state: Option<&Node>) -> Result<()> {
        let sql = "INSERT INTO history (folder, rev, node, state) VALUES (?, ?, ?, ?)";
        self.run(sql, params![folder.0, to_column(rev)?, node.as_bytes(), state.map(past::encode)]).map(drop)
    }

    fn set_epoch(&self, folder: FolderKey, epoch: Epoch) -> Result<()> {
        self.run("UPDATE folders SET epoch = ? WHERE key = ?", params![epoch.as_bytes(), folder.0]).map(drop)
    }

    fn put_hold(&self, folder: FolderKey, device: DeviceId, hold: &HoldRow) -> Result<()> {
        let sql = "INSERT OR REPLACE INTO holds (folder, device, since, removes, nodes, denied, allowed_until) \
                   VALUES (?, ?, ?, ?, ?, ?, ?)";
        let HoldRow { since, removes, nodes, denied, allowed_until } = *hold;
        let until = allowed_until.map(|until| until.0);
        let (removes, nodes) = (to_column(removes)?, to_column(nodes)?);
        self.run(sql, params![folder.0, device.as_bytes(), since.0, removes, nodes, denied, until]).map(drop)
    }
}
