//! `GET /v1/folders/FOLDER/changes`: the change feed.
//!
//! Query: `since=EPOCH:SEQ:TAG` (absent: from the begin), `wait=SECONDS` (0 to [`WAIT_S_MAX`]: hold the answer until there is a
//! change), `limit=N` (1 to [`PAGE_NODES_MAX`]), `inline=BYTES` (0 to [`INLINE_LEN_MAX`]: chunks of contents up to this size
//! ride along), `device=ID` (who asks: what it wrote itself does not ride along), `session=SESSION` (in which session that
//! device asks, [`super::session`]; once another one has asked or committed, the answer is the error `superseded`),
//! `known=EPOCH:SEQ:TAG` (a position past `since` that the asker knows, as the end of a commit of its own). With
//! `inline` above 0 the reply is framed ([`crate::frame`]): the page as header, then chunks. Otherwise it is plain JSON. A
//! `since` or `known` that is not of this history (another epoch, past the end, another tag) gets the error `resync`, never
//! an empty page.

use crate::hash::{ChunkHash, ContentHash};
use crate::ids::{DeviceId, Epoch, FolderId, Seq};
use crate::node::{Node, NodeOwner, TouchedDir};
use crate::protocol::tag;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// The longest time the server holds a poll, in seconds.
pub const WAIT_S_MAX: u64 = 55;

/// The largest number of nodes in one page.
pub const PAGE_NODES_MAX: usize = 10_000;

/// The largest content whose bytes may ride along in a page.
pub const INLINE_LEN_MAX: u64 = 64 * 1024;

/// How many bytes of bodies one page carries at most.
pub const INLINE_TOTAL_MAX: usize = 8 * 1024 * 1024;

/// How many chunks one page names at most that the server has lost.
pub const WANTED_MAX: usize = 1000;

/// A position in a folder's history: everything up to and including `seq` of `epoch` is known.
///
/// As text `EPOCH:SEQ:TAG`, the tag as 16 hexadecimal digits; `EPOCH:SEQ` has no tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Cursor {
    /// The life of the history.
    pub epoch: Epoch,
    /// The last change known.
    pub seq: Seq,
    /// The tag of this position; 0: none, and the server does not check it. It tells a server that was restored from a backup
    /// and has gone on since that this position is not in its history.
    #[serde(with = "tag", default)]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub tag: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{:016x}", self.epoch, self.seq, self.tag)
    }
}

/// What is known of a history when the next page of it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub struct Ask {
    /// Everything up to here is known; absent: nothing is.
    pub since: Option<Cursor>,
    /// A later position that is known too, as the end of an own commit. The page is of a history that has it, or it is not
    /// given.
    pub known: Option<Cursor>,
}

/// A text is neither `EPOCH:SEQ:TAG` nor `EPOCH:SEQ`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a cursor is written EPOCH:SEQ:TAG, an UUID, a number and 16 hexadecimal digits")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (epoch, rest) = text.split_once(':').ok_or(ParseCursorError)?;
        let (seq, tag) = rest.split_once(':').map_or((rest, None), |(seq, tag)| (seq, Some(tag)));
        Ok(Self {
            epoch: epoch.parse().map_err(|_| ParseCursorError)?,
            seq: seq.parse().map_err(|_| ParseCursorError)?,
            tag: tag.map_or(Some(0), tag::parse).ok_or(ParseCursorError)?,
        })
    }
}

/// A device that a page's nodes name as author.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Device {
    /// Its id.
    pub id: DeviceId,
    /// What people call it: at most 64 characters, used in the names of conflict copies.
    pub name: String,
}

/// Nodes changed since a cursor, each once, in the order of their revs, in their current state.
///
/// The nodes of a page are a complete state of the folder only if `more` is false: a client collects pages until then.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
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
    /// The end of the newest commit of the device that asked, if it said who it is and has one: what it must have been told
    /// of its own doing to know that this page goes on from there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub own: Option<Cursor>,
    /// Some of the folder's contents of which the server has lost bytes: a device that has them sends the chunks. At most
    /// [`WANTED_MAX`] chunks in sum; each page may name others. Only for a peer that ignores fields it does not know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub wanted: Vec<WantedContent>,
    /// Directories whose entries have changed since the position that was asked for, with the mtimes that they have now; not those of
    /// `nodes`. Only for a peer that ignores fields it does not know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub touched: Vec<TouchedDir>,
    /// The owners of those of `nodes` that have one; absent from a server that keeps none, and for a peer that does not ignore fields
    /// it does not know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub owners: Option<Vec<NodeOwner>>,
}

/// A content that the server knows and of which it lacks chunks that it once had.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct WantedContent {
    /// Its name; its manifest can be asked for.
    pub content: ContentHash,
    /// Size of the file in bytes.
    pub size: u64,
    /// Chunks of it that are lost, each once.
    pub chunks: Vec<ChunkHash>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_with_and_without_a_tag() {
        let cursor = Cursor { epoch: Epoch::from_bytes([7; 16]), seq: 9, tag: 0xFEDC_BA98_7654_3210 };
        assert_eq!(cursor.to_string().parse(), Ok(cursor));
        assert!(cursor.to_string().ends_with(":9:fedcba9876543210"));
        let bare = format!("{}:9", cursor.epoch);
        assert_eq!(bare.parse(), Ok(Cursor { tag: 0, ..cursor }));
        let json = serde_json::to_string(&cursor).unwrap();
        assert!(json.contains(r#""tag":"fedcba9876543210""#), "{json}");
        assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
        for bad in ["", "9", &format!("{bare}:"), &format!("{bare}:1"), &format!("{bare}:+edcba9876543210")] {
            assert_eq!(bad.parse::<Cursor>(), Err(ParseCursorError), "{bad}");
        }
    }
}
