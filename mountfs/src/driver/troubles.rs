//! What could not be had lately: what the server does not give is not asked for again without a pause, however often it is read.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};
use syncmount_engine::backoff::Backoff;

/// What has failed is remembered for so long after its pause.
const KEPT: Duration = Duration::from_secs(60);

/// More than this is not remembered.
const COUNT_MAX: usize = 10_000;

/// Why something could not be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Failure {
    /// The same request may succeed.
    Later,
    /// This machine has no room for it.
    NoRoom,
    /// The server has said why it does not give it.
    Refused(String),
}

struct Trouble {
    backoff: Backoff,
    at: Instant,
    until: Instant,
    failure: Failure,
}

/// What could not be had, by its name.
pub(super) struct Troubles<K>(HashMap<K, Trouble>);

impl<K> Default for Troubles<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash + Copy> Troubles<K> {
    /// `key` could not be had. `random` is uniform over all of `u64`.
    pub(super) fn note(&mut self, key: K, failure: Failure, random: u64) {
        let now = Instant::now();
        if self.0.len() >= COUNT_MAX {
            self.0.retain(|_, trouble| trouble.until + KEPT > now);
        }
        let known = self.0.remove(&key).filter(|trouble| trouble.until + KEPT > now);
        let mut backoff = known.map(|trouble| trouble.backoff).unwrap_or_default();
        let until = now + backoff.failed(random);
        if self.0.len() < COUNT_MAX {
            self.0.insert(key, Trouble { backoff, at: now, until, failure });
        }
    }

    /// `key` is here.
    pub(super) fn end(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// Whether it has failed lately.
    pub(super) fn has(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// When it may be asked for again; `None`: now.
    pub(super) fn due(&self, key: &K) -> Option<Instant> {
        let until = self.0.get(key)?.until;
        (until > Instant::now()).then_some(until)
    }

    /// What became of it, if it was tried after `since` or is not to be tried yet.
    pub(super) fn failure(&self, key: &K, since: Instant) -> Option<&Failure> {
        let trouble = self.0.get(key)?;
        (trouble.at >= since || trouble.until > Instant::now()).then_some(&trouble.failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fails_again_and_again_is_asked_for_more_and_more_seldom() {
        let mut troubles = Troubles::default();
        let begin = Instant::now();
        assert!(troubles.due(&1).is_none() && troubles.failure(&1, begin).is_none());
        let mut waits = Vec::new();
        for _ in 0..8 {
            troubles.note(1, Failure::Refused("gone".into()), u64::MAX);
            waits.push(troubles.due(&1).unwrap() - Instant::now());
        }
        assert!(waits[..5].is_sorted() && waits[7] > Duration::from_secs(3), "{waits:?}");
        assert_eq!(troubles.failure(&1, Instant::now()), Some(&Failure::Refused("gone".into())));
        troubles.end(&1);
        assert!(troubles.due(&1).is_none() && !troubles.has(&1));
    }
}
