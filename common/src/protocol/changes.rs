//! `GET /v1/folders/FOLDER/changes`: the change feed.
//!
//! Query: `since=EPOCH:SEQ` (absent: from the begin), `wait=SECONDS` (0 to [`WAIT_S_MAX`]: hold the answer until there is a
//! change), `limit=N` (1 to [`PAGE_NODES_MAX`]), `inline=BYTES` (0 to [`INLINE_LEN_MAX`]: chunks of contents up to this size
//! ride along), `device=ID` (who asks: what it wrote itself does not ride along). With `inline` above 0 the reply is framed ([`crate::frame`]): the page as header, then chunks. Otherwise it
//! is plain JSON. A cursor from another epoch or past the end gets the error `resync`, never an empty page.

use crate::ids::{DeviceId, Epoch, FolderId, Seq};
use crate::node::Node;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The longest time the server holds a poll, in seconds.
pub const WAIT_S_MAX: u64 = 55;

/// The largest number of nodes in one page.
pub const PAGE_NODES_MAX: usize = 10_000;

/// The largest content whose bytes may ride along in a page.
pub const INLINE_LEN_MAX: u64 = 64 * 1024;

/// How many bytes of bodies one page carries at most.
pub const INLINE_TOTAL_MAX: usize = 8 * 1024 * 1024;

/// A position in a folder's history: everything up to and including `seq` of `epoch` is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The life of the history.
    pub epoch: Epoch,
    /// The last change known.
    pub seq: Seq,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.epoch, self.seq)
    }
}

/// A text is not `EPOCH:SEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is written EPOCH:SEQ, an UUID and a number")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (epoch, seq) = text.split_once(':').ok_or(ParseCursorError)?;
        Ok(Self {
            epoch: epoch.parse().map_err(|_| ParseCursorError)?,
            seq: seq.parse().map_err(|_| ParseCursorError)?,
        })
    }
}

/// A device that a page's nodes name as author.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// What people call it: at most 64 characters, used in the names of conflict copies.
    pub name: String,
}

/// Nodes changed since a cursor, each once, in the order of their revs, in their current state.
///
/// The nodes of a page are a complete state of the folder only if `more` is false: a client collects pages until then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangesPage {
    /// The folder.
    pub folder: FolderId,
    /// Where to go on from: at least the rev of the last node.
    pub cursor: Cursor,
    /// Whether the next page has more of the same state.
    pub more: bool,
    /// The changed nodes, tombstones too.
    pub nodes: Vec<Node>,
    /// The names of the devices that the nodes name as authors.
    pub devices: Vec<Device>,
}
