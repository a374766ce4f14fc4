//! What time brings: files whose writers have gone quiet are told, what failed is tried again, what has waited for long is
//! synced. Rests while nothing is written and nothing waits, so that a folder in which nothing happens costs nothing.

use super::Client;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::NodeId;
use syncmount_engine::COPIES_MAX;

use crate::files::Backing;

const BEAT: Duration = Duration::from_millis(500);

/// Between two beats while there is nothing to wait for; `lost+found` is looked at about as often.
const RESTING: Duration = Duration::from_secs(5);

/// What has waited to be sent for this long, or at most twice as long, is synced although nobody asked for it.
const SYNC_WAITING_AFTER: Duration = Duration::from_secs(5);

struct Clock {
    synced: Instant,
    looked: Instant,
    /// Drafts that were not synced at the last pass.
    waiting: HashSet<(NodeId, u64)>,
}

impl Clock {
    fn new() -> Self {
        Self { synced: Instant::now(), looked: Instant::now(), waiting: HashSet::new() }
    }

    fn beat(&mut self, client: &Client) {
        client.tell_quiet_files();
        client.leave_ended();
        client.report("what was sent cannot be removed from the staging files", client.drop_leaving());
        if self.looked.elapsed() >= RESTING {
            client.look_for_lost();
            client.report("the cache cannot be brought to its size", client.share_limit());
            client.settle_again(Instant::now());
            client.around.fade();
            self.looked = Instant::now();
        }
        client.report("the state cannot be kept", client.tick());
        if self.synced.elapsed() >= SYNC_WAITING_AFTER {
            client.report("changes cannot be made durable", client.sync_waiting(&mut self.waiting));
            self.synced = Instant::now();
        }
    }
}

pub(super) async fn run(client: Arc<Client>) {
    let mut clock = Clock::new();
    loop {
        if client.is_calm() {
            tokio::select! {
                () = client.stirred.notified() => tokio::time::sleep(BEAT).await,
                () = tokio::time::sleep(RESTING) => {}
            }
        } else {
            tokio::time::sleep(BEAT).await;
        }
        let worker = client.clone();
        let beat = tokio::task::spawn_blocking(move || {
            clock.beat(&worker);
            clock
        });
        clock = match beat.await {
            Ok(clock) => clock,
            Err(error) => {
                client.report("a regular look did not come to its end", Err(io::Error::other(error)));
                Clock::new()
            }
        };
    }
}

impl Client {
    /// Nobody is at anything that time alone would change: no file written, nothing to send or to remove, nothing that failed.
    fn is_calm(&self) -> bool {
        let is_written = |file: &crate::files::OpenFile| matches!(file.inner.read().backing, Backing::Draft(_));
        self.look(|engine| !engine.has_work() && engine.stagings().next().is_none())
            && self.leaving.lock().is_empty()
            && !self.files.all().iter().any(|file| is_written(file))
    }

    fn tick(&self) -> io::Result<()> {
        let mut engine = self.engine.write();
        let now = super::now();
        let tries = engine.tick(now);
        if self.remote.ignores_unknown_fields() {
            // A program that has one open may be about to write to it.
            let surplus =
                engine.surplus_copies(COPIES_MAX).into_iter().filter(|id| self.files.get(*id).is_none()).collect();
            engine.become_versions_of_files(surplus, now);
        }
        self.keep(&mut engine)?;
        // Whatever waits for nothing but to be looked at again waits no longer than a beat.
        let waits = engine.has_work() || engine.wants_poll();
        drop(engine);
        if tries || waits {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Tells of what failed on this machine. `what` says in a sentence what did not happen.
    pub(super) fn report(&self, what: &str, result: io::Result<()>) {
        let Err(error) = result else { return };
        if self.state.is_closed() {
            // What comes after an end in order is done again at the next start.
            tracing::debug!("{what}: {error}");
        } else {
            self.link.failed(&format!("{what}: {error}"));
            tracing::error!("{what}: {error}");
        }
    }
}
