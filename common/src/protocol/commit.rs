//! `POST /v1/folders/FOLDER/commit`: an ordered batch of operations, all or nothing.
//!
//! The body is a [`CommitRequest`] as JSON, or framed with the request as header and small chunks behind it. Names must be
//! unique, parents alive and the tree free of cycles when the whole batch has been applied; in between they need not be, so
//! two files can swap names in one batch. The reply is [`Committed`], or an error: `conflict` with [`ConflictDetails`] (a
//! node has moved on since the rev that the operation was based on, or the tree has: poll the feed and plan again),
//! `missing` with [`MissingDetails`] (put the chunks and send the same again), `held` with [`super::holds::HeldDetails`]
//! (this device removes too much of the folder: somebody has to allow it), `superseded` (the device has another session
//! now, [`super::session`]). Nothing is stored with an error. The same op id again gets the first `Committed` again, also in
//! a session that is over: the commit was taken when the session was not.

use super::changes::{Cursor, Device};
use crate::delta::Delta;
use crate::hash::{ChunkHash, ContentHash, FileHash};
use crate::ids::{Epoch, NodeId, OpId, Rev, Seq};
use crate::manifest::Manifest;
use crate::name::Name;
use crate::node::{Attrs, Node, NodeKind, NodeOwner, Placement, SymlinkTarget, TouchedDir};
use crate::protocol::session::Session;
use crate::protocol::tag;
use crate::time::Timestamp;
use crate::xattr::Xattrs;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// The largest number of operations in one batch.
pub const OPS_MAX: usize = 10_000;

/// Directories that one batch or one page names at most as touched.
pub const TOUCHED_MAX: usize = 2 * OPS_MAX;

/// The largest body of one commit, in bytes. A client cuts its batches so that the JSON of one has at most 16 MiB, unless a
/// single content needs more: a server parses what is longer only while it does nothing else with much memory.
pub const COMMIT_LEN_MAX: usize = 64 * 1024 * 1024;

/// A content that the batch's operations may refer to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct NewContent {
    /// What it consists of. Each chunk is known to the server or rides along.
    pub manifest: Manifest,
    /// SHA-256 of the whole file. A server refuses one that the manifest shows to be wrong, and keeps none; earlier ones did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<FileHash>,
}

/// A content told by how it differs from another one that the server has. Only for servers that take it
/// ([`super::features::Feature::ContentDeltas`]). If the server does not have the other one, the error `missing` names the content itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct ChangedContent {
    /// Its name, which the manifest that comes of it must have.
    pub content: ContentHash,
    /// The other one.
    pub base: ContentHash,
    /// The difference of the manifests ([`crate::delta`]).
    pub delta: Delta,
    /// SHA-256 of the whole file. A server refuses one that the manifest shows to be wrong, and keeps none; earlier ones did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<FileHash>,
}

/// The batch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct CommitRequest {
    /// Chosen by the client, new for each batch.
    pub op_id: OpId,
    /// The epoch that the revs belong to.
    pub epoch: Epoch,
    /// Who commits.
    pub device: Device,
    /// The session in which it does. Absent: the commit is not checked for that.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "schema", schema(value_type = Option<String>))]
    pub session: Option<Session>,
    /// The newest position in the folder's history that the client knows: the revs are those of a history that has it. A
    /// server that does not have it was set back, and says `resync`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub known: Option<Cursor>,
    /// Contents that are new to the server, as far as the client knows.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub contents: Vec<NewContent>,
    /// More of them, told by their differences: at most [`OPS_MAX`], of at most [`crate::delta::EXTENTS_SUM_MAX`] extents in sum.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub changed: Vec<ChangedContent>,
    /// What the batch removes was found missing in a plain folder, where no program's own call is seen: it could have gone in
    /// another way. A server's stop for mass deletes counts it also where the device has just made it. Only for a server
    /// that ignores what it does not know ([`super::features::Feature::ExtraFields`]).
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub concluded: bool,
    /// When each of the operations was done, by the client's clock; empty, or as many as there are operations. Absent: when the
    /// server has taken the batch. Only for a server that ignores what it does not know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub times: Vec<Timestamp>,
    /// What the mtimes of directories have become in which the batch makes, moves or removes entries, at most [`TOUCHED_MAX`]. Of the
    /// others the times of the operations count. Only for a server that ignores what it does not know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub touched: Vec<TouchedDir>,
    /// Of the files that the batch removes those that were conflict copies. Only for a server that ignores what it does not know.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub versions: Vec<BecomesVersion>,
    /// Owners of nodes that the batch makes or changes, each once. The owner of any other node stays as it is. Only for a server that
    /// keeps them ([`super::features::Feature::Owners`]).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub owners: Vec<NodeOwner>,
    /// What to do. A node appears at most once.
    pub ops: Vec<Op>,
}

/// What a removed file had is a version of another one beside it from now on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct BecomesVersion {
    /// The file that the batch removes. It has one name.
    pub id: NodeId,
    /// The other one's name in the same directory.
    pub of: Name,
}

/// One operation on one node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(tag = "op", rename_all = "snake_case", try_from = "OpFields")]
pub enum Op {
    /// Makes a node, or brings a removed one back.
    Create {
        /// Its id, made by the client.
        id: NodeId,
        /// 0 for a new id, the tombstone's rev for a node that comes back.
        base: Rev,
        /// What it is.
        kind: NodeKind,
        /// Where; at least one, exactly one for a directory.
        names: Vec<Placement>,
        /// Mode and mtime.
        attrs: Attrs,
        /// Extended attributes.
        #[serde(skip_serializing_if = "Xattrs::is_empty", default)]
        xattrs: Xattrs,
        /// For files: the bytes.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        content: Option<ContentHash>,
        /// For symlinks: the target.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        target: Option<SymlinkTarget>,
    },
    /// Changes a node in the parts that are given. The root can change its attributes only.
    Update {
        /// Which.
        id: NodeId,
        /// The rev it was based on.
        base: Rev,
        /// Its new names: a move, a rename, a link.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        names: Option<Vec<Placement>>,
        /// Its new mode and mtime.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        attrs: Option<Attrs>,
        /// Its new extended attributes, all of them.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        xattrs: Option<Xattrs>,
        /// Its new bytes.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        content: Option<ContentHash>,
    },
    /// Removes a node. A directory must be empty when the batch has been applied.
    Remove {
        /// Which.
        id: NodeId,
        /// The rev it was based on.
        base: Rev,
    },
}

/// The fields of any [`Op`] as they stand in JSON: read in one pass, so that a field that no operation has is seen as such.
#[derive(Deserialize)]
struct OpFields {
    op: OpName,
    id: NodeId,
    base: Rev,
    kind: Option<NodeKind>,
    names: Option<Vec<Placement>>,
    attrs: Option<Attrs>,
    xattrs: Option<Xattrs>,
    content: Option<ContentHash>,
    target: Option<SymlinkTarget>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OpName {
    Create,
    Update,
    Remove,
}

impl TryFrom<OpFields> for Op {
    type Error = String;

    fn try_from(fields: OpFields) -> Result<Self, String> {
        let OpFields { op, id, base, kind, names, attrs, xattrs, content, target } = fields;
        let given = [
            ("kind", kind.is_some(), op == OpName::Create),
            ("names", names.is_some(), op != OpName::Remove),
            ("attrs", attrs.is_some(), op != OpName::Remove),
            ("xattrs", xattrs.is_some(), op != OpName::Remove),
            ("content", content.is_some(), op != OpName::Remove),
            ("target", target.is_some(), op == OpName::Create),
        ];
        if let Some((name, ..)) = given.iter().find(|(_, given, allowed)| *given && !allowed) {
            return Err(format!("unknown field `{name}` in an operation of this kind"));
        }
        let missing = |name: &str| format!("missing field `{name}`");
        Ok(match op {
            OpName::Create => Self::Create {
                id,
                base,
                kind: kind.ok_or_else(|| missing("kind"))?,
                names: names.ok_or_else(|| missing("names"))?,
                attrs: attrs.ok_or_else(|| missing("attrs"))?,
                xattrs: xattrs.unwrap_or_default(),
                content,
                target,
            },
            OpName::Update => Self::Update { id, base, names, attrs, xattrs, content },
            OpName::Remove => Self::Remove { id, base },
        })
    }
}

impl Op {
    /// The node that the operation is about.
    pub const fn id(&self) -> NodeId {
        match self {
            Self::Create { id, .. } | Self::Update { id, .. } | Self::Remove { id, .. } => *id,
        }
    }

    /// The rev that the operation is based on.
    pub const fn base(&self) -> Rev {
        match self {
            Self::Create { base, .. } | Self::Update { base, .. } | Self::Remove { base, .. } => *base,
        }
    }
}

/// The whole batch is durable. Operation `i` got rev `first_seq + i`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Committed {
    /// The rev of the first operation.
    pub first_seq: Seq,
    /// The rev of the last one; `first_seq - 1` for an empty batch.
    pub last_seq: Seq,
    /// The tag of the history up to `last_seq`: what a cursor that ends there has.
    #[serde(with = "tag", default)]
    #[cfg_attr(feature = "schema", schema(value_type = String))]
    pub tag: u64,
}

/// What stands against an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConflictReason {
    /// The node has another rev than the operation was based on, or exists already, or does not exist.
    Rev,
    /// Another node has that name.
    NameTaken,
    /// The parent has been removed or never existed.
    ParentGone,
    /// The parent is not a directory.
    ParentNotDir,
    /// The directory still has entries.
    NotEmpty,
    /// The directory would lie inside itself.
    Cycle,
}

/// Why one operation of a batch cannot be done.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Conflict {
    /// Index of the operation in the batch.
    pub index: u32,
    /// What stands against it.
    pub reason: ConflictReason,
    /// The current state of the node, if there is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub current: Option<Node>,
}

/// `details` of the error `conflict` (409).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct ConflictDetails {
    /// Every operation that cannot be done, at most 100.
    pub conflicts: Vec<Conflict>,
}

/// `details` of the error `missing` (409).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct MissingDetails {
    /// Chunks that the batch's contents need and the server does not have.
    pub chunks: Vec<ChunkHash>,
    /// Contents that operations name but that neither the server nor the batch describes.
    pub contents: Vec<ContentHash>,
}
