//! Why a request is not done. Every variant has one error code; which HTTP status that is, only the API knows.

use super::hold::Held;
use super::tokens::ADMIN_TOKEN;
use crate::blob::BlobError;
use crate::meta::MetaError;
use syncmount_common::ChunkHash;
use syncmount_common::protocol::commit::{Conflict, MissingDetails};
use syncmount_common::protocol::error::ErrorCode;

/// What the service's operations answer.
pub type Result<T> = std::result::Result<T, ServiceError>;

/// A refused or failed request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ServiceError {
    /// The request has the wrong shape.
    #[error("{0}")]
    BadRequest(String),
    /// A value is out of range.
    #[error("{0}")]
    Invalid(String),
    /// The token that the request came with is not valid any more.
    #[error("the token is wrong or has been revoked")]
    Revoked,
    /// Only the token `admin` and the command line at the server may do this.
    #[error(
        "only the token named `{ADMIN_TOKEN}` may decide this, or the command line at the server: `syncmount-server holds`"
    )]
    NotOperator,
    /// There is no such thing.
    #[error("{0}")]
    NotFound(String),
    /// Chunks that nobody has put.
    #[error("{} of the chunks asked for are not known to this server", .0.len())]
    UnknownChunks(Vec<ChunkHash>),
    /// What is at the path does not take this method.
    #[error("{0}")]
    MethodNotAllowed(String),
    /// Operations of a batch do not fit the present state.
    #[error("the folder has moved on: {} of the operations cannot be done; read the feed and plan again", .0.len())]
    Conflict(Vec<Conflict>),
    /// The path does not fit the present tree.
    #[error("{0}")]
    PathConflict(String),
    /// A batch needs what the server does not have.
    #[error("{} chunks and {} contents are missing: put them and send the same again", .0.chunks.len(), .0.contents.len())]
    Missing(MissingDetails),
    /// `If-Match` or `If-None-Match` does not hold.
    #[error("{0}")]
    PreconditionFailed(String),
    /// A list is longer than allowed.
    #[error("{0}")]
    TooLarge(String),
    /// Bytes do not have the hash that names them.
    #[error("{0}")]
    HashMismatch(String),
    /// The cursor or epoch is not of this history.
    #[error("{0}")]
    Resync(String),
    /// The cursor is not of this history, and this server has never told it.
    #[error(
        "the cursor is not of this history and is none that this server has told: read the feed from the begin and merge"
    )]
    UnprovenCursor,
    /// The same request may be answered later.
    #[error("{reason}: try again in {seconds} seconds")]
    Later {
        /// Why not now.
        reason: String,
        /// When, in seconds from now.
        seconds: u64,
    },
    /// The device has another session now.
    #[error(
        "another session speaks for this device: its cache folder was set back to an older state or is in use elsewhere; \
         go on as another device"
    )]
    Superseded,
    /// The device may not remove more before somebody allows it.
    #[error(transparent)]
    Held(Box<Held>),
    /// Others kept changing what the request is about.
    #[error("{0}")]
    Busy(String),
    /// A stored chunk does not open, or its pack is gone.
    #[error(
        "the stored bytes are damaged (chunk {0}): devices that have the file are asked for it; \
         `syncmount-server check --repair` looks for other copies on the server"
    )]
    Damaged(ChunkHash),
    /// The disk has less free than what is kept for removals.
    #[error(
        "the server's disk has less than {} MiB free: nothing more is stored until it has; what is removed is removed all the \
         same", .kept >> 20
    )]
    NoRoom {
        /// Bytes that are kept free.
        kept: u64,
    },
    /// A job on another thread died.
    #[error("a job panicked")]
    Panicked,
    /// The metadata store failed.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// The chunk store failed.
    #[error(transparent)]
    Blob(#[from] BlobError),
}

impl ServiceError {
    /// What it is for programs.
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::BadRequest(_) => ErrorCode::BadRequest,
            Self::Invalid(_) => ErrorCode::Invalid,
            Self::Revoked | Self::NotOperator => ErrorCode::Unauthorized,
            Self::NotFound(_) | Self::UnknownChunks(_) => ErrorCode::NotFound,
            Self::MethodNotAllowed(_) => ErrorCode::MethodNotAllowed,
            Self::Conflict(_) | Self::PathConflict(_) => ErrorCode::Conflict,
            Self::Missing(_) => ErrorCode::Missing,
            Self::PreconditionFailed(_) => ErrorCode::PreconditionFailed,
            Self::TooLarge(_) => ErrorCode::TooLarge,
            Self::HashMismatch(_) => ErrorCode::HashMismatch,
            Self::Resync(_) | Self::UnprovenCursor => ErrorCode::Resync,
            Self::Superseded => ErrorCode::Superseded,
            Self::Held(_) => ErrorCode::Held,
            Self::NoRoom { .. } | Self::Meta(MetaError::Full) | Self::Blob(BlobError::Full) => {
                ErrorCode::InsufficientStorage
            }
            Self::Busy(_) | Self::Later { .. } | Self::Meta(MetaError::Stopped | MetaError::Locked) => ErrorCode::Busy,
            Self::Meta(MetaError::Damaged(_) | MetaError::TooNew { .. } | MetaError::Store(_))
            | Self::Blob(BlobError::Lost(_) | BlobError::Store(_))
            | Self::Damaged(_)
            | Self::Panicked => ErrorCode::Internal,
        }
    }
}
