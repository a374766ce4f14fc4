//! Pushing changes into the kernel's caches.
//!
//! A thread of its own that serves no request and holds no lock: a notification from a handler, or under a lock that a
//! handler wants, would wait for itself for ever.

use crate::vfs::{Opened, Vfs};
use fuser::{INodeNo, Notifier, ReplyDirectory, ReplyDirectoryPlus};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use syncmount_common::Name;
use syncmount_engine::Changed;

/// One thing that the kernel must not believe any more.
enum Stale {
    /// What a name in a directory stands for, that it stands for nothing, and the listing of the directory.
    Entry(u64, Name),
    /// Attributes.
    Attrs(u64),
    /// Attributes and bytes.
    Data(u64),
}

/// The answer that ends a listing.
pub(super) enum ListingEnd {
    Plain(ReplyDirectory),
    Plus(ReplyDirectoryPlus),
}

impl ListingEnd {
    fn tell(self) {
        match self {
            Self::Plain(reply) => reply.ok(),
            Self::Plus(reply) => reply.ok(),
        }
    }
}

/// Where the client's changes are handed over.
pub(super) struct Invalidations {
    queue: Sender<Stale>,
    ends: Sender<(u64, ListingEnd)>,
}

impl Invalidations {
    /// The queues and the end that [`spawn`] takes.
    pub(super) fn new() -> (Self, InvalidationQueue) {
        let (queue, stale) = channel();
        let (ends, ended) = channel();
        (Self { queue, ends }, InvalidationQueue { stale, ended })
    }

    /// Queues what a change makes stale, as far as the kernel knows it. The queue is as long as the kernel's caches at most:
    /// names and nodes that it does not know are left out.
    pub(super) fn push(&self, vfs: &Vfs, changed: &Changed) {
        for place in &changed.places {
            if let Some(parent) = vfs.inodes.known(place.parent) {
                self.send(Stale::Entry(parent, place.name.clone()));
            }
        }
        for ino in vfs.inodes.known_all(changed.node) {
            self.send(if changed.content { Stale::Data(ino) } else { Stale::Attrs(ino) });
        }
    }

    /// Queues what the kernel has just cached for an inode although it came through a handle whose bytes are another
    /// file's by now.
    pub(super) fn push_astray(&self, vfs: &Vfs, opened: Option<&Opened>) {
        if let Some(ino) = opened.and_then(|opened| vfs.astray(opened)) {
            self.send(Stale::Data(ino));
        }
    }

    /// Has the kernel forget what it remembers of a directory's listing before it hears that the listing is at its end. Then
    /// it takes what it has as a whole, and the first part of it may be older than the last change: an answer to a reader
    /// that was not running for a while goes in although the directory has changed meanwhile.
    pub(super) fn end_listing(&self, ino: u64, end: ListingEnd) {
        if let Err(unsent) = self.ends.send((ino, end)) {
            unsent.0.1.tell();
        }
    }

    fn send(&self, stale: Stale) {
        if self.queue.send(stale).is_err() {
            tracing::debug!("a change after the end of the mount");
        }
    }
}

pub(super) struct InvalidationQueue {
    stale: Receiver<Stale>,
    ended: Receiver<(u64, ListingEnd)>,
}

/// Runs until the other end is gone.
fn drain(queue: &Receiver<Stale>, notifier: &Notifier) {
    for stale in queue {
        if let Err(error) = tell(notifier, stale) {
            tracing::debug!("the kernel did not take an invalidation: {error}");
        }
    }
}

/// Runs until the other end is gone. An end must not wait for an invalidation of an entry: that waits for the directory's
/// lock, which the reader of the listing holds.
fn end_listings(queue: &Receiver<(u64, ListingEnd)>, notifier: &Notifier) {
    for (ino, end) in queue {
        if let Err(error) = notifier.inval_inode(INodeNo(ino), 0, 0) {
            tracing::debug!("the kernel did not forget a listing: {error}");
        }
        end.tell();
    }
}

fn tell(notifier: &Notifier, stale: Stale) -> io::Result<()> {
    match stale {
        Stale::Entry(parent, name) => {
            notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(name.as_bytes()))?;
            notifier.inval_inode(INodeNo(parent), 0, 0)
        }
        Stale::Attrs(ino) => notifier.inval_inode(INodeNo(ino), -1, 0),
        Stale::Data(ino) => notifier.inval_inode(INodeNo(ino), 0, 0),
    }
}

/// Threads that drain the queues.
pub(super) fn spawn(queue: InvalidationQueue, notifiers: [Notifier; 2]) -> io::Result<()> {
    let InvalidationQueue { stale, ended } = queue;
    let [of_stale, of_ends] = notifiers;
    let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
    thread("invalidate").spawn(move || drain(&stale, &of_stale))?;
    thread("listings").spawn(move || end_listings(&ended, &of_ends))?;
    Ok(())
}

pub(super) type Shared = Arc<Invalidations>;
