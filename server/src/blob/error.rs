//! Why the chunk store cannot answer.

use std::error::Error;
use std::sync::Arc;

/// A fault of the store, never of a request.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BlobError {
    /// No space is left for packs.
    #[error("the disk that holds the packs is full")]
    Full,
    /// The index names a pack, or a part of one, that is not there.
    #[error("a pack is missing or cut short: {0}")]
    Lost(String),
    /// Anything else that the object store reports.
    #[error("the object store failed: {0}")]
    Store(Arc<dyn Error + Send + Sync>),
}

impl From<object_store::Error> for BlobError {
    fn from(error: object_store::Error) -> Self {
        if is_full(&error) {
            return Self::Full;
        }
        match error {
            object_store::Error::NotFound { path, .. } => Self::Lost(path),
            other => Self::Store(Arc::new(other)),
        }
    }
}

/// The object store wraps the operating system's error several layers deep.
fn is_full(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let kind = error.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        if matches!(kind, Some(std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)) {
            return true;
        }
        next = error.source();
    }
    false
}
