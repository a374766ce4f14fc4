//! What the server has no room for: a body of a size that it has refused is not sent again within the same minute, so that many
//! files that have to wait cost few requests, while what is smaller may still find room.

use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// So long after the first refusal the server is asked again: a little before the files that wait come back.
const KEPT: Duration = Duration::from_secs(45);

/// After so many refusals in that time everything with a body waits.
const REFUSALS_MAX: u32 = 8;

/// What was refused lately.
#[derive(Default)]
pub(super) struct ServerRoom(Mutex<Option<Refused>>);

#[derive(Clone, Copy)]
struct Refused {
    since: Instant,
    count: u32,
    /// The size of the smallest, in bytes.
    len: u64,
}

impl ServerRoom {
    /// Whether a body of so many bytes may be sent now.
    pub(super) fn takes(&self, len: u64) -> bool {
        let mut refused = self.0.lock();
        if refused.is_some_and(|refused| refused.since.elapsed() >= KEPT) {
            *refused = None;
        }
        refused.is_none_or(|refused| refused.count < REFUSALS_MAX && len < refused.len)
    }

    /// Whether no body at all may be sent now.
    pub(super) fn is_closed(&self) -> bool {
        !self.takes(0)
    }

    /// A body of so many bytes was refused for want of room.
    pub(super) fn refused(&self, len: u64) {
        let mut refused = self.0.lock();
        let before = refused.unwrap_or(Refused { since: Instant::now(), count: 0, len });
        *refused = Some(Refused { count: before.count + 1, len: before.len.min(len), ..before });
    }

    /// A body of so many bytes was stored.
    pub(super) fn stored(&self, len: u64) {
        let mut refused = self.0.lock();
        if refused.is_some_and(|refused| len >= refused.len) {
            *refused = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_is_asked_a_few_times_a_minute() {
        let room = ServerRoom::default();
        assert!(room.takes(u64::MAX));
        room.refused(1000);
        assert!(room.takes(999) && !room.takes(1000) && !room.is_closed());
        room.stored(500);
        assert!(!room.takes(1000));
        room.stored(1000);
        assert!(room.takes(u64::MAX), "there is room again");
        (0..REFUSALS_MAX).for_each(|count| room.refused(u64::from(1000 - count)));
        assert!(room.is_closed() && !room.takes(1));
        let long_ago = Instant::now().checked_sub(KEPT).unwrap();
        room.0.lock().as_mut().unwrap().since = long_ago;
        assert!(room.takes(1000) && !room.is_closed());
    }
}
