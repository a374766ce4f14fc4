//! Folder -> held pollers. Tells those who wait for a change that there is one.
//!
//! A poller takes its ticket before it reads: a change between the read and the wait is then never missed. In process
//! only; several servers over one store will need the store's own notifications here.

use crate::meta::FolderKey;
use parking_lot::Mutex;
use std::collections::HashMap;
use tokio::sync::watch;

/// Wakes the pollers of a folder.
#[derive(Default)]
pub struct Wake {
    folders: Mutex<HashMap<FolderKey, watch::Sender<()>>>,
}

/// A poller's place: sees every change after it was taken.
pub struct Ticket(watch::Receiver<()>);

impl Wake {
    /// Takes a place among the pollers of a folder.
    pub fn ticket(&self, folder: FolderKey) -> Ticket {
        Ticket(self.folders.lock().entry(folder).or_default().subscribe())
    }

    /// The folder has changed, durably.
    pub fn changed(&self, folder: FolderKey) {
        if let Some(sender) = self.folders.lock().get(&folder) {
            sender.send_replace(());
        }
    }

    /// Something has changed that may concern every poller, such as which tokens are valid.
    pub fn all(&self) {
        for sender in self.folders.lock().values() {
            sender.send_replace(());
        }
    }
}

impl Ticket {
    /// Ends at the next change, or at once if there was one since the ticket was taken or since the last call.
    pub async fn wait(&mut self) {
        if self.0.changed().await.is_err() {
            // The sender lives as long as the service; without it there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;

    #[test]
    fn a_change_between_ticket_and_wait_is_not_missed() {
        let wake = Wake::default();
        let (mine, other) = (FolderKey(1), FolderKey(2));
        let mut ticket = wake.ticket(mine);
        assert!(ticket.wait().now_or_never().is_none());
        wake.changed(other);
        assert!(ticket.wait().now_or_never().is_none(), "another folder's changes do not wake");
        wake.changed(mine);
        assert!(ticket.wait().now_or_never().is_some());
        assert!(ticket.wait().now_or_never().is_none(), "a change wakes once");
        wake.all();
        assert!(ticket.wait().now_or_never().is_some());
    }
}
