//! The length of requests that what lies between refuses: a proxy takes bodies up to a limit of its own, and tells it only by
//! refusing what is longer, or by breaking the connection in the middle of it. What it has refused is not sent to it again for
//! a while. A connection that broke may have had other reasons: what can be cut is made shorter, and nothing else follows at
//! first.

use crate::ports::RemoteError;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// So long after a refusal a longer request is tried again, a little before the files that wait for it come back: a proxy may
/// have been set up differently.
const KEPT: Duration = Duration::from_secs(45);

/// Shorter bodies pass everywhere: that the connection broke says nothing about them.
const SHORT: u64 = 64 * 1024;

/// After so many broken connections in a row a body is taken for too long.
const BREAKS_MAX: u32 = 3;

/// What became of long bodies lately.
#[derive(Default)]
pub(super) struct BodyLimit {
    /// The shortest one, in bytes, that was refused for its length.
    refused: Mutex<Option<(Instant, u64)>>,
    broken: Mutex<Option<Broken>>,
}

/// Bodies in the middle of which the connection broke, with none as long that has passed since.
#[derive(Clone, Copy)]
struct Broken {
    since: Instant,
    /// The length of the shortest, in bytes.
    len: u64,
    /// How many there were.
    count: u32,
}

impl BodyLimit {
    /// The connection broke with a body of `len` bytes on its way.
    pub(super) fn broke(&self, len: u64) {
        if len <= SHORT {
            return;
        }
        let mut broken = self.broken.lock();
        let known = broken.filter(|known| known.since.elapsed() < KEPT);
        let begin = Broken { since: Instant::now(), len, count: 0 };
        let known = known.unwrap_or(begin);
        *broken = Some(Broken { len: known.len.min(len), count: known.count + 1, ..known });
    }

    /// A body of `len` bytes has passed.
    pub(super) fn passed(&self, len: u64) {
        let mut broken = self.broken.lock();
        if broken.is_some_and(|known| len >= known.len) {
            *broken = None;
        }
    }

    fn broken(&self) -> Option<Broken> {
        self.broken.lock().filter(|known| known.since.elapsed() < KEPT)
    }

    /// Whether the connection broke with a body that was no longer than `len`, so that it had better be cut.
    pub(super) fn is_doubtful(&self, len: u64) -> bool {
        self.broken().is_some_and(|known| len >= known.len)
    }

    /// An error if the connection broke again and again with bodies that were no longer than `len`.
    pub(super) fn check_breaks(&self, len: u64) -> Result<(), RemoteError> {
        match self.broken().filter(|known| known.count >= BREAKS_MAX && len >= known.len) {
            None => Ok(()),
            Some(Broken { len, .. }) => Err(RemoteError::TooLarge(format!(
                "the connection breaks whenever a request has {len} bytes or more: a proxy before the server may limit the size \
                 of a request's body"
            ))),
        }
    }

    fn shortest(&self) -> Option<u64> {
        let mut known = self.refused.lock();
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
        let mut known = self.refused.lock();
        let since = known.map_or_else(Instant::now, |(since, _)| since);
        let shortest = known.map_or(len, |(_, shortest)| shortest.min(len));
        *known = Some((since, shortest));
        too_large(shortest)
    }

    /// How long bodies that can be cut are made at most: half of what was refused, and of that with which the connection broke.
    pub(super) fn room(&self, most: usize) -> usize {
        let broken = self.broken().map(|known| (known.len / 2).max(SHORT));
        let limit = self.shortest().map(|limit| limit / 2).into_iter().chain(broken).min();
        limit.map_or(most, |limit| most.min(usize::try_from(limit).unwrap_or(most)))
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
        *limit.refused.lock() = long_ago.map(|since| (since, 800));
        limit.check(800).unwrap();
    }

    #[test]
    fn what_the_connection_breaks_with_is_cut_and_only_refused_when_that_goes_on() {
        let (limit, most) = (BodyLimit::default(), 4 << 20);
        limit.broke(SHORT);
        assert_eq!(limit.room(most), most, "short ones break for other reasons");
        limit.broke(1 << 20);
        assert_eq!(limit.room(most), 1 << 19);
        assert!(limit.is_doubtful(1 << 20) && !limit.is_doubtful((1 << 20) - 1));
        limit.check_breaks(1 << 20).unwrap();
        limit.broke(2 << 20);
        limit.broke(1 << 19);
        assert!(limit.check_breaks(1 << 19).unwrap_err().to_string().contains("524288 bytes"));
        limit.check_breaks((1 << 19) - 1).unwrap();
        limit.check(most as u64).unwrap();
        limit.broke(SHORT + 1);
        assert_eq!(limit.room(most) as u64, SHORT, "nothing is cut below that");
        limit.passed(SHORT);
        assert!(limit.is_doubtful(most as u64));
        limit.passed(SHORT + 1);
        assert_eq!(limit.room(most), most);
    }
}
