//! The plain file API, for people and scripts: `/v1/folders/FOLDER/files/PATH`.
//!
//! `GET` of a file answers its bytes (`Range`, `ETag`, `If-None-Match`), of a directory its [`Listing`]. `?info` answers
//! [`FileInfo`] (`?info=sha256` waits until the SHA-256 is computed, if it is not known; an earlier server takes that for
//! `?info`), `?versions` answers [`Versions`], `?version=REV` an older version's bytes. `PUT` stores the body as the
//! file (`If-Match`, `If-None-Match: *`; missing directories are made; `?mtime=NANOSECONDS`), with `?dir` it makes a
//! directory. `DELETE` removes a file, an empty directory, or with `?recursive` a whole one. `PATH` is percent-encoded.

use crate::hash::{ContentHash, FileHash};
use crate::ids::{NodeId, Rev};
use crate::name::Name;
use crate::node::{NodeKind, SymlinkTarget};
use crate::time::Timestamp;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// What is known about one entry of the folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct FileInfo {
    /// The last component of its path; absent for the root.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<Name>,
    /// The node behind it.
    pub id: NodeId,
    /// File, directory or symlink.
    pub kind: NodeKind,
    /// The rev of its last change.
    pub rev: Rev,
    /// Permission bits.
    pub mode: u32,
    /// When its content was last changed.
    pub mtime: Timestamp,
    /// Size in bytes; 0 for directories.
    pub size: u64,
    /// SHA-256 of the whole file, if the server has computed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<FileHash>,
    /// Names the content; the `ETag` of the file is this in quotes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<ContentHash>,
    /// Where a symlink points.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<SymlinkTarget>,
}

/// The entries of a directory, by name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Listing {
    /// The directory itself.
    pub directory: FileInfo,
    /// Its entries, at most the page's `limit` (default and maximum 10,000), those after the name `after` in the query.
    pub entries: Vec<FileInfo>,
    /// Whether more follow after the last entry.
    pub more: bool,
}

/// One version of a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Version {
    /// The rev that made it; `?version=REV` gets its bytes.
    pub rev: Rev,
    /// When its content was changed, by the writer's clock.
    pub mtime: Timestamp,
    /// When the server took it.
    pub received: Timestamp,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the whole file, if the server has computed it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<FileHash>,
    /// Names the content.
    pub content: ContentHash,
    /// The name of the device that wrote it.
    pub device: String,
}

/// The versions of a file, newest first. Files that had the same path earlier and were replaced are included.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Versions {
    /// At most 1,000.
    pub versions: Vec<Version>,
}
