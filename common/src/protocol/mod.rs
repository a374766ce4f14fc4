//! Requests and replies, one file per resource, named like the server's handlers.
//!
//! The protocol version is the `/v1/` of every path and is sent as a header too. Each side names in [`features`] what it
//! knows beyond version 1, and is sent nothing else. Unknown fields are ignored where the peer has named
//! [`features::Feature::ExtraFields`] and refused where it has not ([`json`]): a peer of before that feature may mean more
//! by a new field than an addition. `docs/protocol.md` says how a field is added, deprecated and removed.

pub mod changes;
pub mod chunks;
pub mod commit;
pub mod error;
pub mod features;
pub mod files;
pub mod folders;
pub mod holds;
pub mod json;
pub mod session;
pub mod tag;
pub mod text_or_hex;
pub mod undo;

/// Header that names the protocol version in requests and replies.
pub const VERSION_HEADER: &str = "syncmount-protocol";

/// The version that this program speaks.
pub const VERSION: &str = "1";
