//! What has happened to a folder: its commits with their tags, the earlier states of nodes, and who is held.
//!
//! A commit's row is what a cursor, a person looking for the right moment, and the stop for mass deletes need. The
//! state that a change replaced is kept with the change's rev, so that the state of the folder at any sequence number since
//! [`ReadHistory::history_from`] can be told. Nothing here is ever taken back.

use super::{FolderKey, Result};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::holds::{Hold, HoldState};
use syncmount_common::{DeviceId, Epoch, Node, NodeId, Seq, Timestamp};

/// One commit that changed something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitRow {
    /// The rev of its first operation.
    pub first_seq: Seq,
    /// The rev of its last one.
    pub last_seq: Seq,
    /// Random, never 0.
    pub tag: u64,
    /// When the server took it.
    pub time: Timestamp,
    /// Who made it.
    pub device: DeviceId,
    /// What it did.
    pub counts: Counts,
}

/// How many nodes a commit made, changed and removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Made or brought back.
    pub created: u64,
    /// Given other names, attributes or content.
    pub changed: u64,
    /// Removed.
    pub removed: u64,
    /// Those of the removed that count for the stop for mass deletes.
    pub counted: u64,
}

/// One device that is kept from removing more, or was allowed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldRow {
    /// When it was held.
    pub since: Timestamp,
    /// How many nodes it would have removed by then.
    pub removes: u64,
    /// How many nodes the folder had before.
    pub nodes: u64,
    /// Whether somebody has said no.
    pub denied: bool,
    /// Until when it may go on, if somebody has said yes.
    pub allowed_until: Option<Timestamp>,
}

/// What a consistent view tells about the past.
pub trait ReadHistory {
    /// The tag of the commit that `seq` belongs to; 0 if there is none.
    fn tag_at(&self, folder: FolderKey, seq: Seq) -> Result<u64>;
    /// The end and the tag of the newest commit of a device; none if it has made none.
    fn newest_by(&self, folder: FolderKey, device: DeviceId) -> Result<Option<(Seq, u64)>>;
    /// The newest commits, at most `limit`, newest first.
    fn commits(&self, folder: FolderKey, limit: usize) -> Result<Vec<CommitRow>>;
    /// The end of the newest commit at or before `time`; 0 if there is none.
    fn seq_at(&self, folder: FolderKey, time: Timestamp) -> Result<Seq>;
    /// What everybody did after `seq`, in sum.
    fn counts_past(&self, folder: FolderKey, seq: Seq) -> Result<Counts>;
    /// What one device did after `time`, in sum.
    fn device_counts(&self, folder: FolderKey, device: DeviceId, time: Timestamp) -> Result<Counts>;
    /// Who made the commit that `seq` belongs to, and when.
    fn origin(&self, folder: FolderKey, seq: Seq) -> Result<Option<(DeviceId, Timestamp)>>;
    /// The rev with which a node came, or came back last.
    fn born(&self, folder: FolderKey, node: NodeId) -> Result<Seq>;
    /// The earliest sequence number whose state is known.
    fn history_from(&self, folder: FolderKey) -> Result<Seq>;
    /// The states that the nodes changed after `seq` had at `seq`; none for a node that did not exist.
    fn states_at(&self, folder: FolderKey, seq: Seq) -> Result<Vec<(NodeId, Option<Node>)>>;
    /// A device's hold.
    fn hold(&self, folder: FolderKey, device: DeviceId) -> Result<Option<HoldRow>>;
    /// All holds, the newest first.
    fn holds(&self, folder: FolderKey) -> Result<Vec<(Device, HoldRow)>>;
}

/// What a transaction adds to the past.
pub trait WriteHistory: ReadHistory {
    /// Enters a commit.
    fn add_commit(&self, folder: FolderKey, commit: &CommitRow) -> Result<()>;
    /// Keeps the state that the change `rev` of `node` replaced; none if the node is new.
    fn add_past(&self, folder: FolderKey, rev: Seq, node: NodeId, state: Option<&Node>) -> Result<()>;
    /// Begins a new life of a folder's history.
    fn set_epoch(&self, folder: FolderKey, epoch: Epoch) -> Result<()>;
    /// Enters a hold or what was decided about it.
    fn put_hold(&self, folder: FolderKey, device: DeviceId, hold: &HoldRow) -> Result<()>;
}

impl HoldRow {
    /// Whether it may remove what it likes at `now`.
    pub fn allows(&self, now: Timestamp) -> bool {
        self.allowed_until.is_some_and(|until| now < until)
    }

    /// Whether its removes are refused. A permission that has run out leaves nothing behind.
    pub const fn stops(&self) -> bool {
        self.allowed_until.is_none()
    }

    /// As it is told.
    pub fn told(&self, device: Device) -> Hold {
        let Self { since, removes, nodes, denied, allowed_until: until } = *self;
        let state = match (until, denied) {
            (Some(_), _) => HoldState::Allowed,
            (None, true) => HoldState::Denied,
            (None, false) => HoldState::Waiting,
        };
        Hold { device, state, since, removes, nodes, until }
    }
}
