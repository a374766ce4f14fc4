//! How long to wait before trying again what has failed.

use std::time::Duration;

/// Exponential backoff with jitter: about 0.25 s at first, doubling up to 8 s, each between half and all of it, so that
/// many clients do not return at once. Randomness comes from the caller.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// The waits so far.
    waited: Duration,
    /// Waits of up to [`SOON_MS`] as long as all of them are shorter than [`SOON_FOR`].
    is_soon: bool,
}

const FIRST_MS: u64 = 250;
const LAST_MS: u64 = 8_000;

/// The longest wait while what failed may well be back within a moment …
const SOON_MS: u64 = 2_000;
/// … which is for so long.
const SOON_FOR: Duration = Duration::from_secs(60);

impl Backoff {
    /// For what is found within two seconds when it is back after less than a minute: a server that is restarted.
    pub fn soon() -> Self {
        Self { is_soon: true, ..Self::default() }
    }

    /// The wait after one more failure. `random` is uniform over all of `u64`.
    pub fn failed(&mut self, random: u64) -> Duration {
        let last = if self.is_soon && self.waited < SOON_FOR { SOON_MS } else { LAST_MS };
        let full = FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(last);
        self.failures = self.failures.saturating_add(1);
        let wait = Duration::from_millis(full / 2 + random % (full / 2 + 1));
        self.waited = self.waited.saturating_add(wait);
        wait
    }

    /// What was tried has succeeded.
    pub fn succeeded(&mut self) {
        self.failures = 0;
        self.waited = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_begins_again() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.failed(u64::MAX / 2).as_millis()).collect();
        assert!(waits[0] >= 125 && waits[0] <= 250);
        assert!(waits[39] >= 4_000 && waits[39] <= 8_000);
        backoff.succeeded();
        assert!(backoff.failed(0).as_millis() <= 250);
    }

    #[test]
    fn what_may_be_back_in_a_moment_is_asked_for_every_two_seconds() {
        let mut backoff = Backoff::soon();
        let (mut at, mut tries) = (Duration::ZERO, 0);
        while at < SOON_FOR {
            let wait = backoff.failed(u64::MAX);
            assert!(wait <= Duration::from_millis(SOON_MS), "{wait:?} at {at:?}");
            (at, tries) = (at + wait, tries + 1);
        }
        assert!((30..70).contains(&tries), "{tries} tries");
        assert!(backoff.failed(u64::MAX) > Duration::from_secs(4));
        backoff.succeeded();
        (0..10).for_each(|_| assert!(backoff.failed(u64::MAX) <= Duration::from_millis(SOON_MS)));
    }
}
