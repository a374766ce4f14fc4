//! Small chunks on their way into a commit, held in memory for the moment between hashing and the server's answer.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use syncmount_common::ChunkHash;

/// The most bytes held; what does not fit is uploaded at once instead.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// What has waited for longer gives way when room is needed.
const HELD_FOR: Duration = Duration::from_secs(10);

#[derive(Default)]
struct Held {
    chunks: HashMap<ChunkHash, (Bytes, Instant)>,
    bytes: usize,
}

impl Held {
    /// Chunks of files that were changed or removed before their commit. One that was still wanted is asked for by the
    /// server and uploaded then.
    fn forget_old(&mut self, now: Instant) {
        self.chunks.retain(|_, (_, since)| now.duration_since(*since) < HELD_FOR);
        self.bytes = self.chunks.values().map(|(envelope, _)| envelope.len()).sum();
    }
}

/// Envelopes by chunk.
#[derive(Default)]
pub(super) struct Outbox(Mutex<Held>);

impl Outbox {
    /// Holds an envelope until [`Self::done`]; `false` if there is no room.
    pub(super) fn hold(&self, hash: ChunkHash, envelope: &Bytes) -> bool {
        let mut held = self.0.lock();
        let now = Instant::now();
        if let Some((_, since)) = held.chunks.get_mut(&hash) {
            *since = now;
            return true;
        }
        if held.bytes + envelope.len() > BYTES_MAX {
            held.forget_old(now);
        }
        if held.bytes + envelope.len() > BYTES_MAX {
            return false;
        }
        held.bytes += envelope.len();
        held.chunks.insert(hash, (envelope.clone(), now));
        true
    }

    pub(super) fn get(&self, hash: &ChunkHash) -> Option<Bytes> {
        self.0.lock().chunks.get(hash).map(|(envelope, _)| envelope.clone())
    }

    /// The server has the chunk, or nobody wants to send it any more.
    pub(super) fn done(&self, hash: &ChunkHash) {
        let mut held = self.0.lock();
        if let Some((envelope, _)) = held.chunks.remove(hash) {
            held.bytes -= envelope.len();
        }
    }
}
