//! The length of requests that what lies between refuses: a proxy takes bodies up to a limit of its own, and tells it only by
//! refusing what is longer. What it has refused is not sent to it again for a while.

use crate::ports::RemoteError;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// So long after a refusal a longer request is tried again, a little before the files that wait for it come back: a proxy may
/// have been set up differently.
const KEPT: Duration = Duration::from_secs(45);

/// The shortest body, in bytes, that was refused lately for its length.
#[derive(Default)]
pub(super) struct BodyLimit(Mutex<Option<(Instant, u64)>>);

impl BodyLimit {
    fn shortest(&self) -> Option<u64> {
        let mut known = self.0.lock();
        if known.is_some_and(|(since, _)| since.elapsed() >= KEPT) {
            *known = None;
        }
        known.map(|(_, len)| len)
    }

    /// An error if a body of `len` bytes would be refused.
    pub(super) fn check(&self, len: u64) -> Result<(), RemoteError> {
        match self.shortest() {
            Some(limit) if len >= limit => Err(too_large(limit)),
            _ => Ok(()),
        }
    }

    /// A body of `len` bytes was refused.
    pub(super) fn refused(&self, len: u64) -> RemoteError {
        let mut known = self.0.lock();
        let since = known.map_or_else(Instant::now, |(since, _)| since);
        let shortest = known.map_or(len, |(_, shortest)| shortest.min(len));
        *known = Some((since, shortest));
        too_large(shortest)
    }

    /// How long bodies that can be cut are made at most: half of what was refused.
    pub(super) fn room(&self, most: usize) -> usize {
        self.shortest().map_or(most, |limit| most.min(usize::try_from(limit / 2).unwrap_or(most)))
    }
}

fn too_large(limit: u64) -> RemoteError {
    RemoteError::TooLarge(format!(
        "what answers in the server's place (a proxy before it) refuses a request of {limit} bytes as too large: raise its \
         limit for the size of a request's body"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_not_sent_again() {
        let limit = BodyLimit::default();
        limit.check(u64::MAX).unwrap();
        assert_eq!(limit.room(1000), 1000);
        assert!(limit.refused(800).to_string().contains("800 bytes"));
        limit.refused(900);
        limit.check(799).unwrap();
        assert!(limit.check(800).is_err());
        assert_eq!((limit.room(1000), limit.room(100)), (400, 100));
        let long_ago = Instant::now().checked_sub(KEPT);
        *limit.0.lock() = long_ago.map(|since| (since, 800));
        limit.check(800).unwrap();
    }
}
