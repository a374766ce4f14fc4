//! How long to wait before trying an unreachable server again.

use std::time::Duration;

/// Exponential backoff with jitter: about 0.25 s at first, doubling up to 8 s, each between half and all of it, so that
/// many clients do not return at once. Randomness comes from the caller.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

const FIRST_MS: u64 = 250;
const LAST_MS: u64 = 8_000;

impl Backoff {
    /// The wait after one more failure. `random` is uniform over all of `u64`.
    pub fn failed(&mut self, random: u64) -> Duration {
        let full = FIRST_MS.saturating_mul(1 << self.failures.min(16)).min(LAST_MS);
        self.failures = self.failures.saturating_add(1);
        Duration::from_millis(full / 2 + random % (full / 2 + 1))
    }

    /// The server answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_limit_and_starts_anew() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..40).map(|_| backoff.failed(u64::MAX / 2).as_millis()).collect();
        assert!(waits[0] >= 125 && waits[0] <= 250);
        assert!(waits[39] >= 4_000 && waits[39] <= 8_000);
        backoff.succeeded();
        assert!(backoff.failed(0).as_millis() <= 250);
    }
}
