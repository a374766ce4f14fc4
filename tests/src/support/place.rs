//! How many worlds there are at a time: each has several processes, and a machine with two cores has no use for more.

use parking_lot::{Condvar, Mutex};

const PLACES: usize = 2;

static TAKEN: Mutex<usize> = Mutex::new(0);
static FREED: Condvar = Condvar::new();

/// The right to have a world; given back when dropped.
pub(super) struct Place(());

impl Place {
    /// Waits for a free one.
    pub(super) fn take() -> Self {
        let mut taken = TAKEN.lock();
        FREED.wait_while(&mut taken, |taken| *taken >= PLACES);
        *taken += 1;
        Self(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *TAKEN.lock() -= 1;
        FREED.notify_one();
    }
}
