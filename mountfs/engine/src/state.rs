//! What one node looks like from one point of view, and the form in which the client keeps it on disk.

use crate::owners::OwnerHere;
use crate::scope::Scope;
use serde::{Deserialize, Deserializer, Serialize};
use smallvec::SmallVec;
use std::sync::Arc;
use syncmount_common::node::TYPE_MASK;
use syncmount_common::{Attrs, Content, ContentHash, Node, NodeKind, Placement, Rev, SymlinkTarget, Timestamp, Xattrs};

/// Where a node is found. Nearly all have one name, which needs no memory of its own.
pub type Names = SmallVec<[Placement; 1]>;

/// A node as the user sees it, or as both sides last agreed on it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct State {
    /// Where it is found, sorted, each once; empty for the root only.
    pub names: Names,
    /// Mode and mtime.
    pub attrs: Attrs,
    /// What is inside.
    pub body: Body,
    /// Extended attributes, and the owner that travels. Kept apart: rows that were written before there were any go on to be read.
    #[serde(skip)]
    pub xattrs: Xattrs,
}

/// What is inside a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Body {
    /// Entries, which are nodes of their own.
    Dir,
    /// A target.
    Symlink(SymlinkTarget),
    /// Bytes.
    File(FileBody),
}

/// The bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FileBody {
    /// A content that the server has.
    Clean(#[serde(deserialize_with = "shared")] Arc<Content>),
    /// Bytes written here that the server may not have yet.
    Draft(Box<Draft>),
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Content>, D::Error> {
    Content::deserialize(from).map(Content::shared)
}

/// A file that was written here. Its bytes are those of a staging file where `present` says so, else those of `base`,
/// else zeros.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Draft {
    /// Grows with every write; tells one state of the bytes from another.
    pub generation: u64,
    /// Size of the file in bytes.
    pub size: u64,
    /// Id of the staging file; `None` while nothing has been written.
    pub staging: Option<u64>,
    /// The ranges (begin, end) that the staging file holds, sorted and disjoint.
    pub present: Vec<(u64, u64)>,
    /// What the other bytes are taken from.
    pub base: Option<Arc<Content>>,
    /// How many bytes of `base` still count: a file that was cut shorter and grew again reads zeros there.
    pub base_len: u64,
    /// Whether the writer has finished (closed the file, or has been quiet for long enough) so that it may be sent.
    pub ready: bool,
    /// The content that these bytes turned out to be, of this very generation.
    pub prepared: Option<Arc<Content>>,
}

impl Draft {
    /// A new empty file.
    pub fn empty() -> Self {
        Self {
            generation: 0,
            size: 0,
            staging: None,
            present: Vec::new(),
            base: None,
            base_len: 0,
            ready: false,
            prepared: None,
        }
    }
}

impl Body {
    /// File, directory or symlink.
    pub const fn kind(&self) -> NodeKind {
        match self {
            Self::Dir => NodeKind::Dir,
            Self::Symlink(_) => NodeKind::Symlink,
            Self::File(_) => NodeKind::File,
        }
    }

    /// The draft, if it is a file written here.
    pub fn draft(&self) -> Option<&Draft> {
        match self {
            Self::File(FileBody::Draft(draft)) => Some(draft),
            _ => None,
        }
    }

    /// The content, if it is known: clean, or a draft that has been prepared.
    pub fn content(&self) -> Option<&Arc<Content>> {
        match self {
            Self::File(FileBody::Clean(content)) => Some(content),
            Self::File(FileBody::Draft(draft)) => draft.prepared.as_ref(),
            _ => None,
        }
    }

    /// The name of the content, if it is known.
    pub fn content_hash(&self) -> Option<ContentHash> {
        self.content().map(|content| content.hash)
    }

    /// Size in bytes: of the file, or of a symlink's target.
    pub fn size(&self) -> u64 {
        match self {
            Self::Dir => 0,
            Self::Symlink(target) => target.as_bytes().len() as u64,
            Self::File(FileBody::Clean(content)) => content.size,
            Self::File(FileBody::Draft(draft)) => draft.size,
        }
    }

    /// Whether both are known to stand for the same bytes (or the same target, or are both directories).
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Dir, Self::Dir) => true,
            (Self::Symlink(a), Self::Symlink(b)) => a == b,
            (Self::File(_), Self::File(_)) => {
                self.content_hash().is_some_and(|hash| Some(hash) == other.content_hash())
            }
            _ => false,
        }
    }
}

/// Names as a state has them: sorted, each once, so that equal sets are equal.
pub(crate) fn in_order(names: impl IntoIterator<Item = Placement>) -> Names {
    let mut names: Names = names.into_iter().collect();
    names.sort_unstable();
    names.dedup();
    names
}

impl State {
    /// File, directory or symlink.
    pub const fn kind(&self) -> NodeKind {
        self.body.kind()
    }

    /// What it is if it is a pipe or a socket: the type bits of its mode. Such a node has no bytes and never leaves this machine.
    pub fn special(&self) -> Option<u32> {
        Some(self.attrs.mode & TYPE_MASK).filter(|bits| *bits != 0)
    }

    /// Whether nothing has to be sent to turn `synced` into this. A prepared draft counts as its content.
    pub fn agrees_with(&self, synced: &Self) -> bool {
        self.names == synced.names
            && self.attrs == synced.attrs
            && self.xattrs == synced.xattrs
            && self.body.same_as(&synced.body)
    }

    /// The state that a live node of the feed describes; `None` for a tombstone or a node without what its kind needs.
    pub fn of_node(node: &Node) -> Option<Self> {
        if node.deleted {
            return None;
        }
        let body = match node.kind {
            NodeKind::Dir => Body::Dir,
            NodeKind::Symlink => Body::Symlink(node.target.clone()?),
            NodeKind::File => Body::File(FileBody::Clean(node.content.clone()?.shared())),
        };
        Some(Self { names: in_order(node.names.iter().cloned()), attrs: node.attrs, body, xattrs: node.xattrs.clone() })
    }
}

/// A node as it is kept on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Row {
    /// What the user sees; `None` if it was removed here and the server may still have it.
    pub local: Option<Arc<State>>,
    /// What both sides agreed on.
    pub synced: RowSynced,
    /// When it last changed here.
    pub changed: Timestamp,
    /// Whether the node is to be known although it is not there: a commit with its creation may have reached the server
    /// without an answer, or the feed has not told yet of its removal.
    pub offered: bool,
    /// Whether the node is part of the folder. Kept apart: rows that were written before there were others go on to be read.
    #[serde(skip)]
    pub scope: Scope,
    /// The names with which its creation may have reached the server, if it has had others since. Kept apart as well.
    #[serde(skip)]
    pub sent_names: Option<Names>,
    /// What this machine alone keeps of its owner. Kept apart as well.
    #[serde(skip)]
    pub owner_here: OwnerHere,
}

/// What both sides agreed on, in the form kept on disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RowSynced {
    /// The server has never answered about this node.
    Never,
    /// Exactly what the user sees: the ordinary case.
    SameAsLocal {
        /// The node's rev.
        rev: Rev,
        /// The rev of its content.
        content_rev: Rev,
    },
    /// Something else; `state` is `None` for a tombstone.
    Differs {
        /// The node's rev.
        rev: Rev,
        /// The rev of its content.
        content_rev: Rev,
        /// What the server has.
        state: Option<Arc<State>>,
    },
}
