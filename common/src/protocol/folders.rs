//! `GET /v1/folders`, `GET /v1/folders/FOLDER`.

use super::changes::Cursor;
use super::holds::Hold;
use crate::ids::FolderId;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// A shared folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct FolderInfo {
    /// Its id, which never changes.
    pub id: FolderId,
    /// What people call it, and what paths of the API name it by.
    pub name: String,
    /// The end of its feed.
    pub cursor: Cursor,
    /// Number of files, directories and symlinks, without the root.
    pub nodes: u64,
    /// Sum of the files' sizes in bytes.
    pub bytes: u64,
    /// Free space for new data on the server in bytes, if it is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub free_bytes: Option<u64>,
    /// Devices that are kept from removing more until somebody decides.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub held: Vec<Hold>,
}

/// All folders that the token may use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct FolderList {
    /// By name.
    pub folders: Vec<FolderInfo>,
}
