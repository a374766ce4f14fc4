//! Room on a disk for what is about to be fetched: a fetch begins only if the disk can hold all of it beside those that have begun.

use super::RESERVE_BYTES;
use parking_lot::Mutex;

/// The bytes of fetches that have begun, of one disk.
#[derive(Debug, Default)]
pub(super) struct Space {
    promised: Mutex<u64>,
}

impl Space {
    /// Promises `needed` bytes of those that are `free` on the disk. If they are not there: how many bytes more would have to be.
    /// What a fetch has written counts twice until it ends, so that the answer may come too late and never too early.
    pub(super) fn promise(&self, needed: u64, free: u64) -> Result<Promise<'_>, u64> {
        let mut promised = self.promised.lock();
        let all = promised.saturating_add(needed).saturating_add(RESERVE_BYTES);
        if needed > 0 && all > free {
            return Err(all - free);
        }
        *promised += needed;
        Ok(Promise { space: self, bytes: needed })
    }
}

/// Given back at its end.
#[derive(Debug)]
pub(super) struct Promise<'a> {
    space: &'a Space,
    bytes: u64,
}

impl Drop for Promise<'_> {
    fn drop(&mut self) {
        *self.space.promised.lock() -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_promised_to_one_is_not_promised_to_another() {
        let space = Space::default();
        let free = RESERVE_BYTES + 1000;
        let first = space.promise(600, free).unwrap();
        assert_eq!(space.promise(500, free).unwrap_err(), 100);
        let second = space.promise(400, free).unwrap();
        drop(first);
        assert_eq!(space.promise(601, free).unwrap_err(), 1);
        drop(second);
        drop(space.promise(1000, free).unwrap());
        assert_eq!(space.promise(u64::MAX, free).unwrap_err(), u64::MAX - free);
        space.promise(0, 0).expect("nothing needs no room");
    }
}
