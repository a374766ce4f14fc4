//! Requests and replies, one file per resource, named like the server's handlers.
//!
//! The protocol version is the `/v1/` of every path and is sent as a header too; unknown fields are refused, so a change
//! that an old peer could misread cannot pass unnoticed. What a server takes beyond that it says in a header of each reply,
//! and nobody else is sent it.

pub mod changes;
pub mod chunks;
pub mod commit;
pub mod error;
pub mod files;
pub mod folders;
pub mod holds;
pub mod session;
pub mod tag;
pub mod text_or_hex;
pub mod undo;

/// Header that names the protocol version in requests and replies.
pub const VERSION_HEADER: &str = "syncmount-protocol";

/// The version that this program speaks.
pub const VERSION: &str = "1";

/// Header, once or several times, in which a server names what it takes beyond the first of its version.
pub const FEATURES_HEADER: &str = "syncmount-features";

/// Contents told by their differences ([`commit::ChangedContent`]).
pub const CONTENT_DELTAS: &str = "content-deltas";

/// Chunks told by their differences ([`chunks`]).
pub const CHUNK_DELTAS: &str = "chunk-deltas";

/// The other direction: whoever asks for a chunk or a manifest may name one that is there and probably alike ([`chunks::FetchList`]).
pub const FETCH_DELTAS: &str = "fetch-deltas";
