//! The past in SQL: commits, earlier states, holds.

use super::columns::{number, sought, to_column};
use super::{Fault, Result, Tx, past};
use crate::meta::{
    CommitRow, Counts, FolderKey, HoldRow, Mark, MetaError, Origin, Principal, ReadHistory, WriteHistory,
};
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

const fn mark_column(mark: Mark) -> i64 {
    match mark {
        Mark::None => 0,
        Mark::Counted => 1,
        Mark::Heir => 2,
    }
}

/// The four columns from `first` on.
fn counts(row: &Row<'_>, first: usize) -> Result<Counts> {
    let count = |column| number(row.get(first + column).fault()?);
    Ok(Counts { created: count(0)?, changed: count(1)?, removed: count(2)?, counted: count(3)? })
}

pub(super) fn commit(row: &Row<'_>) -> Result<CommitRow> {
    Ok(CommitRow {
        first_seq: number(row.get(0).fault()?)?,
        last_seq: number(row.get(1).fault()?)?,
        tag: tag(row, 2)?,
        time: Timestamp(row.get(3).fault()?),
        device: DeviceId::from_bytes(row.get(4).fault()?),
        counts: counts(row, 5)?,
        token: row.get(9).fault()?,
    })
}

const HOLD_COLUMNS: &str = "h.device, h.since, h.removes, h.nodes, h.denied, h.allowed_until";

/// The columns that [`HOLD_COLUMNS`] names, of `holds h`.
pub(super) fn hold(row: &Row<'_>) -> Result<HoldRow> {
    Ok(HoldRow {
        device: DeviceId::from_bytes(row.get(0).fault()?),
        since: Timestamp(row.get(1).fault()?),
        removes: number(row.get(2).fault()?)?,
        nodes: number(row.get(3).fault()?)?,
        denied: row.get(4).fault()?,
        allowed_until: row.get::<_, Option<i64>>(5).fault()?.map(Timestamp),
    })
}

/// The condition on the columns `token` and `device` for a principal, and its parameters `?2` and `?3`.
fn by(principal: &Principal) -> (&'static str, Option<&str>, Option<&[u8; 16]>) {
    match principal {
        Principal::Token(name) => ("token = ?2 AND ?3 IS NULL", Some(name), None),
        Principal::Device(device) => ("token IS NULL AND ?2 IS NULL AND device = ?3", None, Some(device.as_bytes())),
    }
}

const COUNTS: &str = "SELECT coalesce(sum(created), 0), coalesce(sum(changed), 0), coalesce(sum(removed), 0), \
                      coalesce(sum(counted), 0) FROM commits";

impl ReadHistory for Tx<'_> {
    fn tag_at(&self, folder: FolderKey, seq: Seq) -> Result<u64> {
        if seq == 0 {
            return Ok(0);
        }
        let sql = "SELECT tag FROM commits WHERE folder = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1";
        Ok(self.first(sql, params![folder.0, sought(seq)], |row| tag(row, 0))?.unwrap_or(0))
    }

    fn newest_by(&self, folder: FolderKey, device: DeviceId) -> Result<Option<(Seq, u64)>> {
        let sql = "SELECT last_seq, tag FROM commits WHERE folder = ? AND device = ? ORDER BY last_seq DESC LIMIT 1";
        self.first(sql, params![folder.0, device.as_bytes()], |row| Ok((number(row.get(0).fault()?)?, tag(row, 1)?)))
    }

    fn commits(&self, folder: FolderKey, limit: usize) -> Result<Vec<CommitRow>> {
        let sql = "SELECT first_seq, last_seq, tag, time, device, created, changed, removed, counted, token FROM commits \
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
        let row = self.first(&sql, params![folder.0, sought(seq)], |row| counts(row, 0))?;
        Ok(row.unwrap_or_default())
    }

    fn counts_by(&self, folder: FolderKey, principal: &Principal, time: Timestamp) -> Result<Counts> {
        let (condition, token, device) = by(principal);
        let sql = format!("{COUNTS} WHERE folder = ?1 AND {condition} AND time > ?4");
        let row = self.first(&sql, params![folder.0, token, device, time.0], |row| counts(row, 0))?;
        Ok(row.unwrap_or_default())
    }

    fn origin(&self, folder: FolderKey, seq: Seq) -> Result<Option<Origin>> {
        let sql =
            "SELECT device, token, time FROM commits WHERE folder = ? AND last_seq >= ? ORDER BY last_seq LIMIT 1";
        self.first(sql, params![folder.0, sought(seq)], |row| {
            let (device, token) = (DeviceId::from_bytes(row.get(0).fault()?), row.get(1).fault()?);
            Ok(Origin { device, token, time: Timestamp(row.get(2).fault()?) })
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

    fn is_heir(&self, folder: FolderKey, node: NodeId) -> Result<bool> {
        let sql = "SELECT 1 FROM history WHERE folder = ? AND node = ? AND mark = 2 LIMIT 1";
        Ok(self.first(sql, params![folder.0, node.as_bytes()], |_| Ok(()))?.is_some())
    }

    fn states_at(&self, folder: FolderKey, seq: Seq) -> Result<Vec<(NodeId, Option<Node>)>> {
        // With `min`, the other columns are those of the row that has it.
        let sql = "SELECT node, min(rev), state FROM history WHERE folder = ? AND rev > ? GROUP BY node";
        self.all(sql, params![folder.0, sought(seq)], |row| {
            let id = NodeId::from_bytes(row.get(0).fault()?);
            let state = row.get_ref(2).fault()?.as_blob_or_null().ok().flatten();
            Ok((id, state.map(|state| past::decode(id, state)).transpose()?))
        })
    }

    fn removed_by(
        &self,
        folder: FolderKey,
        principal: &Principal,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<(NodeId, Node)>> {
        let (condition, token, device) = by(principal);
        // What was written before removes were marked one by one is taken from the commits that had any.
        let sql = format!(
            "WITH burst AS (SELECT first_seq, last_seq, counted FROM commits \
             WHERE folder = ?1 AND {condition} AND time > ?4 AND time <= ?5 AND counted > 0) \
             SELECT h.node, h.state FROM burst b CROSS JOIN history h CROSS JOIN nodes n \
             WHERE h.folder = ?1 AND h.rev BETWEEN b.first_seq AND b.last_seq AND coalesce(h.mark, 1) = 1 \
             AND h.state IS NOT NULL AND n.folder = ?1 AND n.id = h.node AND n.rev = h.rev AND n.deleted ORDER BY h.rev"
        );
        self.all(&sql, params![folder.0, token, device, from.0, until.0], |row| {
            let id = NodeId::from_bytes(row.get(0).fault()?);
            let state = row.get_ref(1).fault()?.as_blob_or_null().ok().flatten();
            Ok((id, past::decode(id, state.ok_or(MetaError::Damaged("an earlier state has the wrong type"))?)?))
        })
    }

    fn past(&self, folder: FolderKey, rev: Seq) -> Result<Option<Node>> {
        let sql = "SELECT node, state FROM history WHERE folder = ? AND rev = ?";
        let found = self.first(sql, params![folder.0, to_column(rev)?], |row| {
            let id = NodeId::from_bytes(row.get(0).fault()?);
            let state = row.get_ref(1).fault()?.as_blob_or_null().ok().flatten();
            state.map(|state| past::decode(id, state)).transpose()
        });
        Ok(found?.flatten())
    }

    fn hold(&self, folder: FolderKey, principal: &Principal) -> Result<Option<HoldRow>> {
        let (condition, token, device) = by(principal);
        let sql = format!("SELECT {HOLD_COLUMNS} FROM holds h WHERE folder = ?1 AND {condition}");
        self.first(&sql, params![folder.0, token, device], hold)
    }

    fn holds(&self, folder: FolderKey) -> Result<Vec<(Principal, Device, HoldRow)>> {
        let sql = format!(
            "SELECT {HOLD_COLUMNS}, h.token, d.name FROM holds h LEFT JOIN devices d ON d.id = h.device \
             WHERE h.folder = ? ORDER BY h.since DESC"
        );
        self.all(&sql, [folder.0], |row| {
            let hold = hold(row)?;
            let token: Option<String> = row.get(6).fault()?;
            let name = row.get::<_, Option<String>>(7).fault()?.unwrap_or_default();
            let principal = token.map_or(Principal::Device(hold.device), Principal::Token);
            Ok((principal, Device { id: hold.device, name }, hold))
        })
    }
}

impl WriteHistory for Tx<'_> {
    fn add_commit(&self, folder: FolderKey, commit: &CommitRow) -> Result<()> {
        let sql = "INSERT INTO commits (folder, first_seq, last_seq, tag, time, device, token, created, changed, removed, \
                   counted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
        let Counts { created, changed, removed, counted } = commit.counts;
        let params = params![
            folder.0,
            to_column(commit.first_seq)?,
            to_column(commit.last_seq)?,
            tag_column(commit.tag),
            commit.time.0,
            commit.device.as_bytes(),
            commit.token,
            to_column(created)?,
            to_column(changed)?,
            to_column(removed)?,
            to_column(counted)?,
        ];
        self.run(sql, params).map(drop)
    }

    fn add_past(&self, folder: FolderKey, rev: Seq, node: NodeId, state: Option<&Node>, mark: Mark) -> Result<()> {
        let sql = "INSERT INTO history (folder, rev, node, state, mark) VALUES (?, ?, ?, ?, ?)";
        let state = state.map(past::encode);
        self.run(sql, params![folder.0, to_column(rev)?, node.as_bytes(), state, mark_column(mark)]).map(drop)
    }

    fn set_epoch(&self, folder: FolderKey, epoch: Epoch) -> Result<()> {
        self.run("UPDATE folders SET epoch = ? WHERE key = ?", params![epoch.as_bytes(), folder.0]).map(drop)
    }

    fn put_hold(&self, folder: FolderKey, principal: &Principal, hold: &HoldRow) -> Result<()> {
        let (condition, token, device) = by(principal);
        self.run(&format!("DELETE FROM holds WHERE folder = ?1 AND {condition}"), params![folder.0, token, device])?;
        let sql = "INSERT INTO holds (folder, token, device, since, removes, nodes, denied, allowed_until) \
                   VALUES (?, ?, ?, ?, ?, ?, ?, ?)";
        let HoldRow { device, since, removes, nodes, denied, allowed_until } = *hold;
        let until = allowed_until.map(|until| until.0);
        let (device, removes, nodes) = (device.as_bytes(), to_column(removes)?, to_column(nodes)?);
        self.run(sql, params![folder.0, token, device, since.0, removes, nodes, denied, until]).map(drop)
    }
}
