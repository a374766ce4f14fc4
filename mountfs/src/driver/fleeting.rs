//! Names that come and go: a database makes, syncs and removes its rollback journal with each transaction, many times a second.
//! What has such a name is not sent before it has been there for a moment, for it will be gone.
//!
//! Owns which names do that. Must not know what is in the files.

use super::Client;
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};
use syncmount_common::NodeId;

/// A name that is made anew within this time after it was removed …
const AGAIN: Duration = Duration::from_secs(1);
/// … so many times in a row comes and goes.
const TIMES: u32 = 3;
/// How long what has such a name is not sent.
const STAY: Duration = Duration::from_millis(100);
/// Names that are remembered.
const NAMES_MAX: usize = 256;

/// A directory, and a name in it.
type Place = (NodeId, Box<[u8]>);

struct Gone {
    at: Instant,
    times: u32,
}

/// What is known of them.
pub(super) struct Fleeting {
    gone: Mutex<LruCache<Place, Gone>>,
    /// What is not to be sent before.
    staying: Mutex<HashMap<NodeId, Instant>>,
}

impl Default for Fleeting {
    fn default() -> Self {
        let gone = LruCache::new(NonZeroUsize::new(NAMES_MAX).unwrap_or(NonZeroUsize::MIN));
        Self { gone: Mutex::new(gone), staying: Mutex::default() }
    }
}

impl Fleeting {
    fn removed(&self, parent: NodeId, name: &[u8], now: Instant) {
        let mut gone = self.gone.lock();
        gone.get_or_insert_mut((parent, name.into()), || Gone { at: now, times: 0 }).at = now;
    }

    fn made(&self, parent: NodeId, name: &[u8], node: NodeId, now: Instant) {
        let comes_and_goes = {
            let mut gone = self.gone.lock();
            let Some(before) = gone.get_mut(&(parent, name.into())) else { return };
            let is_again = now.saturating_duration_since(before.at) < AGAIN;
            before.times = if is_again { before.times + 1 } else { 0 };
            before.times >= TIMES
        };
        if comes_and_goes {
            let mut staying = self.staying.lock();
            staying.retain(|_, until| *until > now);
            staying.insert(node, now + STAY);
        }
    }

    /// How long a node is not to be sent yet.
    pub(super) fn stay(&self, node: NodeId, now: Instant) -> Option<Duration> {
        let until = *self.staying.lock().get(&node)?;
        (until > now).then(|| until - now)
    }

    pub(super) fn end_stay(&self, node: NodeId) {
        self.staying.lock().remove(&node);
    }
}

impl Client {
    /// A file was made by a program.
    pub fn note_made(&self, parent: NodeId, name: &[u8], node: NodeId) {
        self.fleeting.made(parent, name, node, Instant::now());
    }

    /// A file was removed by a program.
    pub fn note_removed(&self, parent: NodeId, name: &[u8]) {
        self.fleeting.removed(parent, name, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> NodeId {
        NodeId::from_bytes([number; 16])
    }

    #[test]
    fn a_name_that_comes_and_goes_again_and_again_is_known_for_it() {
        let (fleeting, mut now) = (Fleeting::default(), Instant::now());
        let step = AGAIN / 4;
        for round in 0..6 {
            fleeting.made(node(1), b"table-journal", node(10 + round), now);
            let stays = fleeting.stay(node(10 + round), now);
            assert_eq!(stays.is_some(), u32::from(round) >= TIMES, "in round {round}");
            now += step;
            assert_eq!(fleeting.stay(node(10 + round), now), None, "not for ever");
            fleeting.removed(node(1), b"table-journal", now);
            now += step;
        }
        fleeting.made(node(2), b"table-journal", node(20), now);
        assert_eq!(fleeting.stay(node(20), now), None, "in another directory it is another name");
        now += AGAIN;
        fleeting.made(node(1), b"table-journal", node(21), now);
        assert_eq!(fleeting.stay(node(21), now), None, "it was away for long");
    }

    #[test]
    fn only_so_many_are_remembered() {
        let (fleeting, now) = (Fleeting::default(), Instant::now());
        for number in 0..10 * NAMES_MAX {
            for _ in 0..=TIMES {
                fleeting.removed(node(1), number.to_string().as_bytes(), now);
                fleeting.made(
                    node(1),
                    number.to_string().as_bytes(),
                    node(2),
                    now + Duration::from_secs(number as u64),
                );
            }
        }
        assert!(fleeting.gone.lock().len() <= NAMES_MAX && fleeting.staying.lock().len() <= 1);
    }
}
