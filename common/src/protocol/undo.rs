//! `POST /v1/folders/FOLDER/undo`: brings a folder back to an earlier state, as new changes.
//!
//! Nothing is taken out of the history: every node that differs from its state at `to` gets a new rev, by the device
//! `undo`. So an undo can be undone. It is done whole or not at all, as one commit however large it is; a server that is
//! killed meanwhile has done nothing of it or everything.

use crate::ids::Seq;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// What to go back to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct UndoRequest {
    /// The state after this change; 0 is the empty folder.
    pub to: Seq,
    /// Only counts what would be done.
    #[serde(default)]
    pub dry_run: bool,
}

/// What was done, or would be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct UndoReply {
    /// Nodes that were gone and are back.
    pub created: u64,
    /// Nodes that got other names, attributes or content.
    pub changed: u64,
    /// Nodes that did not exist then and are removed.
    pub removed: u64,
}
