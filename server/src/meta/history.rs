//! What has happened to a folder: its commits with their tags, the earlier states of nodes, and who is held.
//!
//! A commit's row is what a cursor, a person looking for the right moment, and the stop for mass deletes need. The
//! state that a change replaced is kept with the change's rev, so that the state of the folder at any sequence number since
//! [`ReadHistory::history_from`] can be told. Nothing here is ever taken back.

use super::{FolderKey, Result};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::holds::{Hold, HoldState};
use syncmount_common::{DeviceId, Epoch, Node, NodeId, Seq, Timestamp};

/// What a change means to the stop for mass deletes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mark {
    /// Nothing.
    #[default]
    None,
    /// It is a remove that counts.
    Counted,
    /// The node took the name of one that others could miss: it is no more its maker's own than that one was.
    Heir,
}

/// One commit that changed something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitRow {
    /// The rev of its first operation.
    pub first_seq: Seq,
    /// The rev of its last one.
    pub last_seq: Seq,
    /// Random, never 0. Clients are told another one that is made from it.
    pub tag: u64,
    /// When the server took it.
    pub time: Timestamp,
    /// Who made it.
    pub device: DeviceId,
    /// The name of the token that it came with. None: it came from the server itself, or before tokens were noted.
    pub token: Option<String>,
    /// What it did.
    pub counts: Counts,
}

/// Whose removes are counted together. A client says itself which device it is, so a device counts only where there is
/// no token.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Principal {
    /// What came with the token of this name, from any device.
    Token(String),
    /// What came from this device without a token, or before tokens were noted.
    Device(DeviceId),
}

/// Where a commit came from, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The device that it says it is from.
    pub device: DeviceId,
    /// The name of its token, if that is known.
    pub token: Option<String>,
    /// When the server took it.
    pub time: Timestamp,
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

/// A token (or a device without one) that is kept from removing more, or was allowed to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HoldRow {
    /// The device whose commit was the first to be refused.
    pub device: DeviceId,
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
    /// The tag that is stored with the commit that `seq` belongs to; 0 if there is none.
    fn tag_at(&self, folder: FolderKey, seq: Seq) -> Result<u64>;
    /// The end and the stored tag of the newest commit of a device; none if it has made none.
    fn newest_by(&self, folder: FolderKey, device: DeviceId) -> Result<Option<(Seq, u64)>>;
    /// The newest commits, at most `limit`, newest first.
    fn commits(&self, folder: FolderKey, limit: usize) -> Result<Vec<CommitRow>>;
    /// The end of the newest commit at or before `time`; 0 if there is none.
    fn seq_at(&self, folder: FolderKey, time: Timestamp) -> Result<Seq>;
    /// What everybody did after `seq`, in sum.
    fn counts_past(&self, folder: FolderKey, seq: Seq) -> Result<Counts>;
    /// What one principal did after `time`, in sum.
    fn counts_by(&self, folder: FolderKey, principal: &Principal, time: Timestamp) -> Result<Counts>;
    /// Who made the commit that `seq` belongs to, and when.
    fn origin(&self, folder: FolderKey, seq: Seq) -> Result<Option<Origin>>;
    /// The rev with which a node came, or came back last.
    fn born(&self, folder: FolderKey, node: NodeId) -> Result<Seq>;
    /// The earliest sequence number whose state is known.
    fn history_from(&self, folder: FolderKey) -> Result<Seq>;
    /// Whether a node has ever taken the name of one that others could miss.
    fn is_heir(&self, folder: FolderKey, node: NodeId) -> Result<bool>;
    /// The states that the nodes changed after `seq` had at `seq`; none for a node that did not exist.
    fn states_at(&self, folder: FolderKey, seq: Seq) -> Result<Vec<(NodeId, Option<Node>)>>;
    /// The nodes that a principal's counted removes after `from`, up to `until`, took away and that have not changed
    /// since; each with its state before.
    fn removed_by(
        &self,
        folder: FolderKey,
        principal: &Principal,
        from: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<(NodeId, Node)>>;
    /// The state that the change `rev` replaced; none if it made its node, or if there is no such change.
    fn past(&self, folder: FolderKey, rev: Seq) -> Result<Option<Node>>;
    /// A principal's hold.
    fn hold(&self, folder: FolderKey, principal: &Principal) -> Result<Option<HoldRow>>;
    /// All holds, the newest first, each with its device.
    fn holds(&self, folder: FolderKey) -> Result<Vec<(Principal, Device, HoldRow)>>;
}

/// What a transaction adds to the past.
pub trait WriteHistory: ReadHistory {
    /// Enters a commit.
    fn add_commit(&self, folder: FolderKey, commit: &CommitRow) -> Result<()>;
    /// Keeps the state that the change `rev` of `node` replaced; none if the node is new.
    fn add_past(&self, folder: FolderKey, rev: Seq, node: NodeId, state: Option<&Node>, mark: Mark) -> Result<()>;
    /// Begins a new life of a folder's history.
    fn set_epoch(&self, folder: FolderKey, epoch: Epoch) -> Result<()>;
    /// Enters a hold or what was decided about it.
    fn put_hold(&self, folder: FolderKey, principal: &Principal, hold: &HoldRow) -> Result<()>;
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
        let Self { device: _, since, removes, nodes, denied, allowed_until: until } = *self;
        let state = match (until, denied) {
            (Some(_), _) => HoldState::Allowed,
            (None, true) => HoldState::Denied,
            (None, false) => HoldState::Waiting,
        };
        Hold { device, state, since, removes, nodes, until }
    }
}
