//! Programs that are killed while their call waits here. The kernel ends them only with the answer, whatever they wait for.
//!
//! The kernel's own word for it (an interrupt of the request) does not reach this program, so that the waiting process is looked at:
//! a signal that ends it is pending as SIGKILL until it has its answer. Only for calls that change nothing: what they do goes on.

use fuser::{Errno, ReplyData, ReplyEmpty};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// How often a process is looked at whose call waits.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// SIGKILL in a mask of signals.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// An answer that can say why there is none.
pub(super) trait Refuse: Send + 'static {
    fn refuse(self, why: Errno);
}

impl Refuse for ReplyData {
    fn refuse(self, why: Errno) {
        self.error(why);
    }
}

impl Refuse for ReplyEmpty {
    fn refuse(self, why: Errno) {
        self.error(why);
    }
}

/// The answer to a call that waits: given by [`Waiting::take`], or before that to a process that was killed.
pub(super) struct Waiting<R>(Arc<Mutex<Option<R>>>);

impl<R: Refuse> Waiting<R> {
    /// Looks at the process until the answer is taken. `thread` is what the kernel calls the one that waits; 0 is none that can be
    /// seen from here.
    pub(super) fn of(thread: u32, reply: R, runtime: &Handle) -> Self {
        let slot = Arc::new(Mutex::new(Some(reply)));
        let waits = Arc::downgrade(&slot);
        if thread != 0 {
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(LOOK_PAUSE).await;
                    let Some(slot) = waits.upgrade().filter(|slot| slot.lock().is_some()) else { return };
                    if is_killed(thread) {
                        if let Some(reply) = slot.lock().take() {
                            reply.refuse(Errno::EINTR);
                        }
                        return;
                    }
                }
            });
        }
        Self(slot)
    }

    /// The answer, if it is still to be given.
    pub(super) fn take(self) -> Option<R> {
        self.0.lock().take()
    }
}

fn is_killed(thread: u32) -> bool {
    // One that cannot be seen waits for its answer.
    std::fs::read_to_string(format!("/proc/{thread}/status")).is_ok_and(|status| has_kill(&status))
}

fn has_kill(status: &str) -> bool {
    let pending = |line: &str| line.strip_prefix("SigPnd:").or(line.strip_prefix("ShdPnd:")).map(str::to_owned);
    let masks = status.lines().filter_map(pending);
    masks.into_iter().any(|mask| u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask & KILL != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_sigkill_is_seen_and_no_other_signal() {
        let status =
            |own: u64, shared: u64| format!("Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t100\n");
        assert!(has_kill(&status(0x100, 0)) && has_kill(&status(0, 0x100)) && has_kill(&status(0x4102, 0)));
        assert!(!has_kill(&status(0, 0)) && !has_kill(&status(0x4002, 0x10000)) && !has_kill("SigPnd:\tx"));
        assert!(!is_killed(std::process::id()) && !is_killed(u32::MAX));
    }
}
