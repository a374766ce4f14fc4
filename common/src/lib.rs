//! What both sides of syncmount must agree on: hashes, chunks, manifests, names, nodes and the protocol.
//!
//! Pure by rule: no IO, no clock, no threads, no async. Everything here is a value or a function of values, so that the
//! client, the server and the simulator share one truth about what bytes mean.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod chunker;
pub mod delta;
pub mod envelope;
pub mod frame;
pub mod hash;
pub mod ids;
pub mod manifest;
pub mod name;
pub mod node;
pub mod portable;
pub mod protocol;
pub mod text;
pub mod time;
#[cfg(feature = "usage")]
pub mod usage;
pub mod xattr;

pub use hash::{ChunkHash, ContentHash, FileHash};
pub use ids::{DeviceId, Epoch, FolderId, NodeId, OpId, Rev, Seq};
pub use manifest::{Extent, Manifest};
pub use name::Name;
pub use node::{Attrs, Content, Node, NodeKind, Owner, Placement, SymlinkTarget};
pub use time::Timestamp;
pub use xattr::{XattrError, Xattrs};
