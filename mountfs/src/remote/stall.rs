//! The watchdog of one request: it may take as long as it needs, but not stand still.
//!
//! A total time limit would cut a large upload on a slow line; no limit at all would let a dead line hold a request for
//! ever. Here the limit is on the time without any progress.

use crate::ports::RemoteError;
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a request or reply body may stand still.
pub(super) const STALL: Duration = Duration::from_secs(30);

/// How long the server may take between the last byte of a request and the first of its reply.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// When the request is given up unless something moves.
#[derive(Clone)]
pub(super) struct Deadline(Arc<Mutex<Instant>>);

impl Deadline {
    /// A deadline that far from now.
    pub(super) fn after(patience: Duration) -> Self {
        Self(Arc::new(Mutex::new(Instant::now() + patience)))
    }

    /// Something moved: the deadline is that far from now again.
    pub(super) fn extend(&self, patience: Duration) {
        *self.0.lock() = Instant::now() + patience;
    }

    /// Runs `work` until it is done or the deadline has passed.
    pub(super) async fn guard<T>(
        &self,
        work: impl Future<Output = Result<T, RemoteError>> + Send,
    ) -> Result<T, RemoteError> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.passed() => Err(RemoteError::Unreachable("it stopped answering".to_owned())),
        }
    }

    async fn passed(&self) {
        loop {
            let at = *self.0.lock();
            if Instant::now() >= at {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn standing_still_ends_it_and_progress_does_not() {
        runtime().block_on(async {
            let patience = Duration::from_millis(200);
            let deadline = Deadline::after(patience);
            let moving = async {
                for _ in 0..6 {
                    tokio::time::sleep(patience / 4).await;
                    deadline.extend(patience);
                }
                Ok(7)
            };
            assert_eq!(deadline.guard(moving).await.unwrap(), 7);
            let stuck = deadline.guard(futures::future::pending::<Result<(), RemoteError>>()).await;
            assert!(matches!(stuck, Err(RemoteError::Unreachable(_))));
        });
    }
}
