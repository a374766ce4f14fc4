//! Nodes: what a folder consists of, as it travels and as both sides keep it.

use crate::hash::{ContentHash, FileHash};
use crate::ids::{DeviceId, NodeId, Rev};
use crate::manifest::{FILE_SIZE_MAX, Manifest};
use crate::name::Name;
use crate::time::Timestamp;
use crate::xattr::Xattrs;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::{Arc, OnceLock};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// The largest number of names that one node may have.
pub const NAMES_MAX: usize = 10_000;

/// How many directories may lie in each other below the root, counted for a directory that is made or moved itself. What is
/// moved with it may lie deeper.
pub const LEVELS_MAX: usize = 2048;

/// Manifests up to this many extents travel inside the node; longer ones are fetched by content hash.
pub const INLINE_EXTENTS_MAX: usize = 32;

/// What a node is. It never changes: a file that becomes a directory is another node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
}

/// Where a node is found: a directory and a name in it. A hard-linked file or symlink has several.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Placement {
    /// The directory.
    pub parent: NodeId,
    /// The name in it.
    pub name: Name,
}

/// What a node has beside its content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Attrs {
    /// Permission bits, 0 to 0o7777.
    pub mode: u32,
    /// When the content was last changed, by the clock of the device that changed it.
    pub mtime: Timestamp,
}

/// The user and the group that a node belongs to, by their numbers, on the machines that apply them. A node of which no owner is
/// known belongs to the user who mounts the folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

impl Owner {
    /// Whether there can be such an owner: the largest number says "as before" in the calls of a system.
    pub const fn is_valid(self) -> bool {
        self.uid != u32::MAX && self.gid != u32::MAX
    }
}

/// A node and its owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct NodeOwner {
    /// The node.
    pub id: NodeId,
    /// Its owner. At most 4,294,967,294 each.
    pub owner: Owner,
}

/// The bits that [`Attrs::mode`] may have.
pub const MODE_MASK: u32 = 0o7777;

/// The bits of a mode that say what kind of file it is, as on Linux. They never travel.
pub const TYPE_MASK: u32 = 0o170_000;

/// A content as a node refers to it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Content {
    /// Names the manifest.
    pub hash: ContentHash,
    /// Size of the file in bytes.
    pub size: u64,
    /// SHA-256 of the whole file; absent if it is not known. Servers of earlier versions told what another client had told
    /// them, unchecked: it is no proof that two files have the same bytes.
    pub sha256: Option<FileHash>,
    /// The manifest itself if it has at most [`INLINE_EXTENTS_MAX`] extents; otherwise `GET /v1/contents/HASH` has it.
    pub manifest: Option<Manifest>,
}

impl Content {
    /// The content that `manifest` describes.
    pub fn of(manifest: Manifest, sha256: Option<FileHash>) -> Self {
        let hash = manifest.content_hash();
        let size = manifest.size();
        Self { hash, size, sha256, manifest: Some(manifest) }
    }

    /// The same for many to hold. Empty files are many: all hold one.
    pub fn shared(self) -> Arc<Self> {
        static EMPTY: OnceLock<Arc<Content>> = OnceLock::new();
        if self.size > 0 {
            return Arc::new(self);
        }
        let empty = EMPTY.get_or_init(|| Arc::new(Self::of(Manifest::default(), Some(FileHash::of(b"")))));
        if self == **empty { empty.clone() } else { Arc::new(self) }
    }

    /// A content as a peer tells it, with no more than what can be checked: a manifest has the hash and the size that it is
    /// told with, a SHA-256 is only what the manifest proves, and the manifest of a file that may not travel is left out.
    pub fn checked(mut self) -> Result<Self, ContentError> {
        if self.manifest.as_ref().is_some_and(|manifest| manifest.size() != self.size) {
            return Err(ContentError::OtherSize);
        }
        if self.manifest.as_ref().is_some_and(|manifest| manifest.content_hash() != self.hash) {
            return Err(ContentError::OtherHash);
        }
        self.keep_proved();
        if self.size > FILE_SIZE_MAX {
            // Earlier servers took such files. One of them must not keep the others away; its bytes are refused when they are wanted.
            self.manifest = None;
        }
        Ok(self)
    }

    /// Forgets a SHA-256 that the manifest does not prove.
    pub fn keep_proved(&mut self) {
        self.sha256 = self.manifest.as_ref().and_then(Manifest::file_hash);
    }

    /// The same, with the manifest left out if it is too long to travel inside a node.
    pub fn for_travel(mut self) -> Self {
        if self.manifest.as_ref().is_some_and(|manifest| manifest.extents().len() > INLINE_EXTENTS_MAX) {
            self.manifest = None;
        }
        self
    }
}

/// Why what a peer tells of a content is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The manifest describes another number of bytes.
    #[error("the manifest of a content has another size than the content")]
    OtherSize,
    /// The manifest does not have the hash that names the content.
    #[error("the manifest of a content does not have the hash it is named by")]
    OtherHash,
}

/// The longest target of a symlink, in bytes, as on Linux.
pub const TARGET_LEN_MAX: usize = 4095;

/// Where a symlink points: 1 to 4095 bytes without NUL, never interpreted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SymlinkTarget(Box<[u8]>);

/// A symlink's target is empty, too long, or has a NUL byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a symlink's target has 1 to 4095 bytes and no NUL")]
pub struct TargetError;

impl SymlinkTarget {
    /// Checks `bytes` and takes them as a target.
    pub fn new(bytes: impl Into<Box<[u8]>>) -> Result<Self, TargetError> {
        let bytes = bytes.into();
        let valid = (1..=TARGET_LEN_MAX).contains(&bytes.len()) && !bytes.contains(&0);
        if valid { Ok(Self(bytes)) } else { Err(TargetError) }
    }

    /// The bytes of the target.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SymlinkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl Serialize for SymlinkTarget {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        crate::protocol::text_or_hex::serialize(&self.0, to)
    }
}

impl<'de> Deserialize<'de> for SymlinkTarget {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::new(crate::protocol::text_or_hex::deserialize(from)?).map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for SymlinkTarget {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        Name::schema()
    }
}

#[cfg(feature = "schema")]
impl ToSchema for SymlinkTarget {}

/// The state of a node at one revision, as the server tells it. A removed node is a tombstone: `deleted`, no names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Node {
    /// Who it is.
    pub id: NodeId,
    /// The sequence number of its last change.
    pub rev: Rev,
    /// What it is.
    pub kind: NodeKind,
    /// Whether it has been removed.
    pub deleted: bool,
    /// Where it is found, in order; empty for a tombstone and for the root.
    pub names: Vec<Placement>,
    /// Mode and mtime. The mtime of a directory is the later of the one that was set and that of the newest change of its entries.
    pub attrs: Attrs,
    /// Extended attributes.
    #[serde(skip_serializing_if = "Xattrs::is_empty", default)]
    pub xattrs: Xattrs,
    /// For files: the bytes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub content: Option<Content>,
    /// For symlinks: the target.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub target: Option<SymlinkTarget>,
    /// The device that made the last change.
    pub author: DeviceId,
    /// The sequence number of the last change of the content.
    pub content_rev: Rev,
    /// The device that made it.
    pub content_author: DeviceId,
    /// When it was last changed in any way, by the clock of the device that did it; absent if that is not known. Only for a peer
    /// that ignores fields it does not know.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub changed: Option<Timestamp>,
}

/// A directory whose entries were changed, and what its mtime has become by that. This changes no rev.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct TouchedDir {
    /// The directory.
    pub dir: NodeId,
    /// Its mtime.
    pub mtime: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_checked() {
        assert!(SymlinkTarget::new(&b"../a/b"[..]).is_ok());
        for bad in [vec![], vec![b'a'; 4096], vec![b'a', 0]] {
            assert_eq!(SymlinkTarget::new(bad), Err(TargetError));
        }
    }

    #[test]
    fn of_a_told_content_only_what_can_be_checked_is_taken() {
        use crate::hash::ChunkHash;
        use crate::manifest::Extent;

        let chunk = |bytes: &[u8]| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
        let lie = Some(FileHash::of(b"something else"));
        let one = Content::of(Manifest::new(vec![chunk(b"abc")]).unwrap(), lie);
        assert_eq!(one.clone().checked().unwrap().sha256, Some(FileHash::of(b"abc")));
        let two = Content::of(Manifest::new(vec![chunk(b"abc"), chunk(b"def")]).unwrap(), lie);
        assert_eq!(two.clone().checked().unwrap(), Content { sha256: None, ..two.clone() });
        let long = Content { manifest: None, ..two };
        assert_eq!(long.checked().unwrap().sha256, None);
        assert_eq!(Content { size: 4, ..one.clone() }.checked(), Err(ContentError::OtherSize));
        let same_size = Content::of(Manifest::new(vec![chunk(b"abd")]).unwrap(), None);
        assert_eq!(Content { hash: same_size.hash, ..one }.checked(), Err(ContentError::OtherHash));
        let hole = |len| Content::of(Manifest::new(vec![Extent::Hole { len }]).unwrap(), None).checked().unwrap();
        assert!(hole(FILE_SIZE_MAX).manifest.is_some() && hole(FILE_SIZE_MAX + 1).manifest.is_none());
    }

    #[test]
    fn short_manifests_travel_inside() {
        let content = Content::of(Manifest::default(), None);
        assert!(content.for_travel().manifest.is_some());
    }
}
