//! Why the metadata store cannot answer.

use std::sync::Arc;

/// A fault of the store, never of a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// No space is left for the database.
    #[error("the disk that holds the metadata is full")]
    Full,
    /// The store has been closed, or a job died.
    #[error("the metadata store has stopped")]
    Stopped,
    /// Another process holds the database for too long.
    #[error("the metadata store is locked by another process")]
    Locked,
    /// The store holds something that this program never writes.
    #[error("the metadata store is damaged: {0}")]
    Damaged(&'static str),
    /// The database was written by a newer version of this program.
    #[error("the database has format {found}, this program knows formats up to {known}: use a newer program")]
    TooNew {
        /// The format found.
        found: i64,
        /// The newest format known.
        known: i64,
    },
    /// Anything else that the database reports.
    #[error("the metadata store failed: {0}")]
    Store(Arc<dyn std::error::Error + Send + Sync>),
}
