//! Time, randomness and the key of cursors, as values that the owner of a service brings. The simulator brings its own.

use super::cursor::{CursorKey, stored_tag};
use crate::meta::PackId;
use std::time::{SystemTime, UNIX_EPOCH};
use syncmount_common::{Epoch, FolderId, NodeId, OpId, Timestamp};

type Fill = dyn Fn(&mut [u8]) + Send + Sync;

/// Where time and randomness come from.
pub struct Environment {
    now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    random: Box<Fill>,
    cursor_key: CursorKey,
}

impl Environment {
    /// An environment of one's own, with a key that everyone knows.
    pub fn new(
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
        random: impl Fn(&mut [u8]) + Send + Sync + 'static,
    ) -> Self {
        Self { now: Box::new(now), random: Box::new(random), cursor_key: CursorKey::KNOWN }
    }

    /// The machine's clock and the system's random numbers, and a key that is forgotten with it.
    pub fn system() -> Self {
        let system = Self::new(system_now, system_random);
        let key = CursorKey::new(system.random(), system.now());
        system.with_cursor_key(key)
    }

    /// The same with another key.
    pub fn with_cursor_key(self, cursor_key: CursorKey) -> Self {
        Self { cursor_key, ..self }
    }

    pub(super) const fn cursor_key(&self) -> CursorKey {
        self.cursor_key
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Random bytes.
    pub fn random<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.random)(&mut bytes);
        bytes
    }

    pub(super) fn folder_id(&self) -> FolderId {
        FolderId::new_v7(self.now().unix_ms(), &self.random())
    }

    pub(super) fn epoch(&self) -> Epoch {
        Epoch::new_v7(self.now().unix_ms(), &self.random())
    }

    pub(super) fn node_id(&self) -> NodeId {
        NodeId::new_v7(self.now().unix_ms(), &self.random())
    }

    pub(super) fn op_id(&self) -> OpId {
        OpId::new_v7(self.now().unix_ms(), &self.random())
    }

    /// A tag to be stored with a commit; never 0, which stands for none.
    pub(super) fn tag(&self) -> u64 {
        stored_tag(u32::from_le_bytes(self.random()))
    }

    pub(super) fn pack_id(&self) -> PackId {
        PackId(*OpId::new_v7(self.now().unix_ms(), &self.random()).as_bytes())
    }
}

fn system_now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_parts(i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos())
}

/// # Panics
/// If the operating system has no random numbers: then no token and no id would be safe.
#[expect(clippy::expect_used, reason = "there is nothing safe to go on with")]
fn system_random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random numbers");
}
