//! Whether the server can be reached. One place decides, everybody else waits for it.

use crate::ports::RemoteError;
use parking_lot::Mutex;
use std::time::{Duration, Instant};
use syncmount_common::Timestamp;
use tokio::sync::watch;

/// The connection's state, shared by all tasks.
pub struct Link {
    online: watch::Sender<bool>,
    last_error: Mutex<Option<(Timestamp, String)>>,
    lost: Mutex<Option<Instant>>,
}

impl Default for Link {
    fn default() -> Self {
        Self { online: watch::Sender::new(false), last_error: Mutex::new(None), lost: Mutex::new(None) }
    }
}

impl Link {
    /// Whether the last attempt reached the server.
    pub fn is_online(&self) -> bool {
        *self.online.borrow()
    }

    /// The last error and when it happened. Kept after the connection is back, for the curious.
    pub fn last_error(&self) -> Option<(Timestamp, String)> {
        self.last_error.lock().clone()
    }

    /// The server has answered.
    pub fn up(&self) {
        if !self.online.send_replace(true) {
            *self.lost.lock() = None;
            tracing::info!("the server can be reached");
        }
    }

    /// A request failed in a way that another request now would too.
    pub fn down(&self, error: &RemoteError) {
        *self.last_error.lock() = Some((super::now(), error.to_string()));
        self.lost.lock().get_or_insert_with(Instant::now);
        if self.online.send_replace(false) {
            tracing::warn!("{error}; changes are kept here and sent later");
        }
    }

    /// Until when the server is waited for by somebody who has `patience`, counted from when it was lost: who asks again
    /// after a wait that was in vain is told at once.
    pub fn deadline(&self, patience: Duration) -> Instant {
        let now = Instant::now();
        let since = if self.is_online() { now } else { self.lost.lock().unwrap_or(now) };
        now.max(since + patience)
    }

    /// Something went wrong that says nothing about the connection.
    pub fn failed(&self, error: &str) {
        *self.last_error.lock() = Some((super::now(), error.to_owned()));
    }

    /// Returns when the server can be reached, or after `limit`; whether it can.
    pub async fn wait_online(&self, limit: Duration) -> bool {
        let mut online = self.online.subscribe();
        tokio::time::timeout(limit, online.wait_for(|online| *online)).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Returns when the server is known to be out of reach.
    pub async fn wait_offline(&self) {
        let mut online = self.online.subscribe();
        if online.wait_for(|online| !*online).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
