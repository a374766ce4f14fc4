//! Whether the server can be reached. One place decides, and one task asks: the poll of the change feed. Everything else waits
//! for it.
//!
//! Only what fails on the way to the server, or for want of a right to ask it, marks the link, and polls that fail. A poll that is
//! answered proves that the server is there, not that others reach it: as long as other requests fail, the polls that are to find
//! it again come more and more seldom. A server that answers polls with errors may still have the bytes that are asked of it.

use crate::ports::{RemoteError, Scope};
use parking_lot::Mutex;
use std::time::{Duration, Instant};
use syncmount_common::Timestamp;
use syncmount_engine::backoff::Backoff;
use tokio::sync::watch;

/// A request other than a poll that failed so long ago does not count any more.
const DISTRUST: Duration = Duration::from_secs(60);

/// After so long without the server a reader does not wait long for it …
const AWAY_KNOWN: Duration = Duration::from_secs(10);

/// … but for so long, if no other has waited in vain a moment ago: what is here in another form is put together meanwhile, and
/// the server may be back …
const AWAY_PATIENCE: Duration = Duration::from_millis(800);

/// … and for so long if another has.
const AWAY_AGAIN: Duration = Duration::from_millis(50);

/// How long ago that may be.
const AWAY_ASKED: Duration = Duration::from_secs(5);

/// How far the server can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Reach {
    /// It answers.
    Online,
    /// It answers polls with errors.
    Answering,
    /// It cannot be reached, or does not know this client.
    Away,
}

/// The connection's state, shared by all tasks.
pub struct Link {
    reach: watch::Sender<Reach>,
    last_error: Mutex<Option<(Timestamp, String)>>,
    lost: Mutex<Option<Lost>>,
    probes: Mutex<Probes>,
}

/// Since when the server cannot be reached, and why.
struct Lost {
    since: Instant,
    why: String,
    /// When a reader began to wait for it that knew that it was away.
    asked: Option<Instant>,
}

struct Probes {
    /// Of polls that do not reach the server.
    backoff: Backoff,
    /// Of polls that are answered with errors, and of other requests that fail although polls are answered.
    flaps: Backoff,
    /// A failure since the last pause.
    is_due: bool,
    /// That failure is one of those of `flaps`.
    is_flap: bool,
    /// When a request other than a poll has failed last, if none has succeeded since.
    distrusted: Option<Instant>,
}

impl Default for Link {
    fn default() -> Self {
        let probes = Probes {
            backoff: Backoff::soon(),
            flaps: Backoff::default(),
            is_due: false,
            is_flap: false,
            distrusted: None,
        };
        Self {
            reach: watch::Sender::new(Reach::Away),
            last_error: Mutex::new(None),
            lost: Mutex::new(None),
            probes: Mutex::new(probes),
        }
    }
}

impl Link {
    /// Whether the last attempt reached the server.
    pub fn is_online(&self) -> bool {
        *self.reach.borrow() == Reach::Online
    }

    /// Whether a request may be answered although polls are not.
    pub fn is_reachable(&self) -> bool {
        *self.reach.borrow() != Reach::Away
    }

    /// Whether the server has been asked in vain, and nothing has been heard of it since.
    pub fn is_lost(&self) -> bool {
        !self.is_reachable() && self.lost.lock().is_some()
    }

    /// The last error and when it happened. Kept after the connection is back, for the curious.
    pub fn last_error(&self) -> Option<(Timestamp, String)> {
        self.last_error.lock().clone()
    }

    /// Why the server cannot be used at present.
    pub fn trouble(&self) -> Option<String> {
        if self.is_online() {
            return None;
        }
        self.lost.lock().as_ref().map(|lost| lost.why.clone())
    }

    /// The server has answered a request other than a poll.
    pub fn up(&self) {
        let mut probes = self.probes.lock();
        probes.distrusted = None;
        probes.is_due = false;
        probes.backoff.succeeded();
        probes.flaps.succeeded();
        drop(probes);
        self.set_online();
    }

    /// The server has answered a poll.
    pub fn polled(&self) {
        let mut probes = self.probes.lock();
        probes.backoff.succeeded();
        probes.distrusted = probes.distrusted.filter(|since| since.elapsed() < DISTRUST);
        if probes.distrusted.is_none() {
            probes.is_due = false;
            probes.flaps.succeeded();
        }
        drop(probes);
        self.set_online();
    }

    fn set_online(&self) {
        if self.reach.send_replace(Reach::Online) != Reach::Online {
            *self.lost.lock() = None;
            tracing::info!("the server can be reached");
        }
    }

    /// A request other than a poll failed in a way that any request now would.
    pub fn down(&self, error: &RemoteError) {
        let mut probes = self.probes.lock();
        probes.distrusted = Some(Instant::now());
        probes.is_flap |= self.is_online();
        drop(probes);
        self.lose(error);
    }

    /// A poll failed.
    pub fn poll_failed(&self, error: &RemoteError) {
        self.probes.lock().is_flap |= error.scope() == Scope::Subject;
        self.lose(error);
    }

    fn lose(&self, error: &RemoteError) {
        let why = error.to_string();
        self.probes.lock().is_due = true;
        *self.last_error.lock() = Some((super::now(), why.clone()));
        let mut lost = self.lost.lock();
        let (since, asked) = lost.as_ref().map_or_else(|| (Instant::now(), None), |lost| (lost.since, lost.asked));
        *lost = Some(Lost { since, why, asked });
        drop(lost);
        let reach = if error.scope() == Scope::Subject { Reach::Answering } else { Reach::Away };
        if self.reach.send_replace(reach) == Reach::Online {
            tracing::warn!("{error}; changes are kept here and sent later");
        }
    }

    /// How long the next poll waits: a while if anything has failed since it was asked last. `random` is uniform over all of
    /// `u64`.
    pub fn pause(&self, random: u64) -> Option<Duration> {
        let mut probes = self.probes.lock();
        if !std::mem::take(&mut probes.is_due) {
            return None;
        }
        let is_flap = std::mem::take(&mut probes.is_flap);
        Some(if is_flap { probes.flaps.failed(random) } else { probes.backoff.failed(random) })
    }

    /// Until when the server is waited for by a caller that has `patience`, counted from when it was lost: a caller that asks again
    /// after a wait that was in vain is told at once.
    pub fn deadline(&self, patience: Duration) -> Instant {
        let now = Instant::now();
        let since = if self.is_online() { now } else { self.lost.lock().as_ref().map_or(now, |lost| lost.since) };
        now.max(since + patience)
    }

    /// How long a reader waits for what only the server has: `longest`, and less than a second if it has been away for 10 seconds.
    /// A program that reads one file after another would wait as long for each of them.
    pub fn patience(&self, longest: Duration) -> Duration {
        let mut lost = self.lost.lock();
        let Some(lost) = lost.as_mut().filter(|lost| lost.since.elapsed() >= AWAY_KNOWN && !self.is_reachable()) else {
            return longest;
        };
        let is_again = lost.asked.is_some_and(|asked| asked.elapsed() < AWAY_ASKED);
        if is_again {
            return AWAY_AGAIN;
        }
        lost.asked = Some(Instant::now());
        AWAY_PATIENCE
    }

    /// Something went wrong that says nothing about the connection.
    pub fn failed(&self, error: &str) {
        *self.last_error.lock() = Some((super::now(), error.to_owned()));
    }

    /// Returns when the server can be reached, or after `limit`; whether it can.
    pub async fn wait_online(&self, limit: Duration) -> bool {
        self.wait_for(limit, |reach| reach == Reach::Online).await
    }

    /// Returns when [`Self::is_reachable`], or after `limit`; whether it is.
    pub async fn wait_reachable(&self, limit: Duration) -> bool {
        self.wait_for(limit, |reach| reach != Reach::Away).await
    }

    async fn wait_for(&self, limit: Duration, is_it: impl Fn(Reach) -> bool + Send) -> bool {
        let mut reach = self.reach.subscribe();
        tokio::time::timeout(limit, reach.wait_for(|reach| is_it(*reach))).await.is_ok_and(|seen| seen.is_ok())
    }

    /// Returns when the server is known to be out of reach.
    pub async fn wait_offline(&self) {
        let mut reach = self.reach.subscribe();
        if reach.wait_for(|reach| *reach != Reach::Online).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> RemoteError {
        RemoteError::Unreachable("gone".into())
    }

    #[test]
    fn a_reader_does_not_wait_long_for_a_server_that_has_been_away() {
        let link = Link::default();
        let longest = Duration::from_secs(43);
        assert_eq!(link.patience(longest), longest, "it has not been asked yet");
        link.poll_failed(&away());
        assert_eq!(link.patience(longest), longest);
        link.lost.lock().as_mut().unwrap().since = Instant::now().checked_sub(AWAY_KNOWN).unwrap();
        assert_eq!(link.patience(longest), AWAY_PATIENCE);
        link.poll_failed(&away());
        assert_eq!(link.patience(longest), AWAY_AGAIN, "it is still away, and that was found a moment ago");
        link.lost.lock().as_mut().unwrap().asked = Instant::now().checked_sub(AWAY_ASKED);
        assert_eq!(link.patience(longest), AWAY_PATIENCE);
        link.polled();
        assert_eq!(link.patience(longest), longest);
    }

    #[test]
    fn a_server_that_is_back_is_trusted_at_once() {
        let link = Link::default();
        assert!(link.pause(0).is_none() && link.trouble().is_none());
        for _ in 0..9 {
            link.poll_failed(&away());
            assert!(link.pause(u64::MAX).is_some_and(|wait| wait <= Duration::from_secs(2)));
            assert!(link.pause(0).is_none(), "each failure counts once");
        }
        assert!(link.trouble().is_some_and(|why| why.contains("gone")));
        link.polled();
        assert!(link.is_online() && link.trouble().is_none());
        link.poll_failed(&away());
        assert!(link.pause(u64::MAX).is_some_and(|wait| wait <= Duration::from_millis(250)));
    }

    #[test]
    fn a_server_that_answers_polls_with_errors_may_have_bytes() {
        let link = Link::default();
        assert!(!link.is_reachable());
        let waits: Vec<_> = (0..9)
            .map(|_| {
                link.poll_failed(&RemoteError::Busy);
                link.pause(u64::MAX).expect("a pause after each failure")
            })
            .collect();
        assert!(waits[8] > Duration::from_secs(3), "{waits:?}");
        assert!(!link.is_online() && link.is_reachable() && link.trouble().is_some());
        link.poll_failed(&RemoteError::Unauthorized);
        assert!(!link.is_reachable());
        link.polled();
        assert!(link.is_online() && link.is_reachable());
    }

    #[test]
    fn polls_that_are_answered_do_not_hide_that_others_fail() {
        let link = Link::default();
        let waits: Vec<_> = (0..9)
            .map(|_| {
                link.polled();
                link.down(&away());
                link.pause(u64::MAX).expect("a pause after each failure")
            })
            .collect();
        assert!(waits[..5].is_sorted() && waits[8] > Duration::from_secs(3), "{waits:?}");
        link.up();
        link.down(&away());
        assert!(link.pause(u64::MAX).is_some_and(|wait| wait <= Duration::from_millis(250)));
    }
}
