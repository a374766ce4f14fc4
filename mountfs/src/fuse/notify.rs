//! Pushing changes into the kernel's caches.
//!
//! A thread of its own that serves no request and holds no lock: a notification from a handler, or under a lock that a
//! handler wants, would wait for itself for ever.

use crate::vfs::{Opened, Vfs};
use fuser::{INodeNo, Notifier};
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

/// Where the client's changes are handed over.
pub(super) struct Invalidations {
    queue: Sender<Stale>,
}

impl Invalidations {
    /// The queue and the end that [`drain`] takes.
    pub(super) fn new() -> (Self, InvalidationQueue) {
        let (queue, receiver) = channel();
        (Self { queue }, InvalidationQueue(receiver))
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

    fn send(&self, stale: Stale) {
        if self.queue.send(stale).is_err() {
            tracing::debug!("a change after the end of the mount");
        }
    }
}

pub(super) struct InvalidationQueue(Receiver<Stale>);

/// Runs until the other end is gone.
pub(super) fn drain(queue: &InvalidationQueue, notifier: &Notifier) {
    for stale in &queue.0 {
        if let Err(error) = tell(notifier, &stale) {
            tracing::debug!("the kernel did not take an invalidation: {error}");
        }
    }
}

fn tell(notifier: &Notifier, stale: &Stale) -> io::Result<()> {
    match stale {
        Stale::Entry(parent, name) => {
            notifier.inval_entry(INodeNo(*parent), OsStr::from_bytes(name.as_bytes()))?;
            notifier.inval_inode(INodeNo(*parent), 0, 0)
        }
        Stale::Attrs(ino) => notifier.inval_inode(INodeNo(*ino), -1, 0),
        Stale::Data(ino) => notifier.inval_inode(INodeNo(*ino), 0, 0),
    }
}

/// A thread that drains the queue.
pub(super) fn spawn(queue: InvalidationQueue, notifier: Notifier) -> io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name("invalidate".into()).spawn(move || drain(&queue, &notifier))
}

pub(super) type Shared = Arc<Invalidations>;
