//! Chunks by hash.
//!
//! In a put, up to [`DELTAS_MAX`] chunks may be told by their differences to chunks that the server has
//! ([`crate::envelope::seal_against`]), if it says that it takes that ([`super::features::Feature::ChunkDeltas`]). If it does not have one of these,
//! the error `missing` names it.
//!
//! In the same way a fetch may name for up to [`DELTAS_MAX`] chunks one that the asker has, if the server says that it takes that
//! ([`super::features::Feature::FetchDeltas`]). The frame of such a chunk has an envelope that tells the difference if that is smaller; else, also if
//! the server does not have the other chunk or has too much to do, it has the chunk as ever. `GET /v1/contents/HASH?base=HASH`
//! does the same with manifests: what tells a difference has a media type of its own ([`crate::delta::CONTENT_TYPE`]).
//!
//! `POST /v1/chunks/missing` asks which of many hashes the server lacks. `POST /v1/chunks` stores a framed body of chunks
//! (safe to repeat: a chunk is named by what it is). `POST /v1/chunks/fetch` answers many hashes with one framed stream, in
//! the order asked. `GET /v1/chunks/HASH` answers one envelope, `GET /v1/contents/HASH` a manifest's encoding; both never
//! change and may be cached for ever. `GET /v1/chunks/HASH?from=N&len=N` answers a part of a chunk: framed, as a chunk of
//! its own that is named by the SHA-256 of the part. The server has verified the whole chunk before it answers; whoever
//! asks can only see that the part has not changed on the way. A server that does not know parts answers the whole chunk.

use crate::hash::ChunkHash;
use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// The largest number of hashes in one request.
pub const HASHES_MAX: usize = 10_000;

/// The largest body of one put, in bytes.
pub const PUT_LEN_MAX: usize = 64 * 1024 * 1024;

/// The largest number of chunks in one put or fetch that are told by their differences: each makes the server read another one.
pub const DELTAS_MAX: usize = 256;

/// A list of chunk hashes: the body of `missing`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct ChunkList {
    /// At most [`HASHES_MAX`].
    pub chunks: Vec<ChunkHash>,
}

/// The chunks that are wanted: the body of `fetch`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct FetchList {
    /// At most [`HASHES_MAX`], none of them twice.
    pub chunks: Vec<ChunkHash>,
    /// Some of them, at most [`DELTAS_MAX`], that may be answered by their differences. Only for servers that take it
    /// ([`super::features::Feature::FetchDeltas`]).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub alike: Vec<Alike>,
}

/// A chunk that is wanted, and one that whoever asks for it has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Alike {
    /// The one that is wanted.
    pub chunk: ChunkHash,
    /// The other one. It need not be known to the server, nor be alike: that costs its time for nothing.
    pub base: ChunkHash,
}

/// Which of the hashes asked for the server does not have, without repetition, in the order asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct MissingReply {
    /// To be put.
    pub missing: Vec<ChunkHash>,
}

/// What a put did. The chunks are durable when this is sent.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct PutReply {
    /// How many chunks the body held.
    pub received: u64,
    /// How many of them the server did not have before.
    pub stored: u64,
}
