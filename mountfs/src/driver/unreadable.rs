//! Files whose bytes the server could not give when they were read: told in the status until they are read, or are others.

use super::{Client, content::ReadError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use syncmount_common::{Content, ContentHash, NodeId};

/// More are not told of.
const COUNT_MAX: usize = 1000;

/// What could not be read, and why.
#[derive(Default)]
pub(super) struct Unreadable {
    files: Mutex<HashMap<NodeId, (ContentHash, String)>>,
    /// Read on every read: whether there are any.
    has_some: AtomicBool,
}

impl Client {
    /// Remembers how a read of a file's content ended.
    pub fn note_read<T>(&self, node: NodeId, content: &Content, read: &Result<T, ReadError>) {
        match read {
            Err(ReadError::Unavailable(reason)) => {
                let mut files = self.unreadable.files.lock();
                if files.len() < COUNT_MAX || files.contains_key(&node) {
                    files.insert(node, (content.hash, reason.clone()));
                    self.unreadable.has_some.store(true, Ordering::Relaxed);
                }
            }
            Ok(_) if self.unreadable.has_some.load(Ordering::Relaxed) => {
                let mut files = self.unreadable.files.lock();
                files.remove(&node);
                self.unreadable.has_some.store(!files.is_empty(), Ordering::Relaxed);
            }
            _ => {}
        }
    }

    /// Files that could not be read, with the reason. Those that have other bytes by now are forgotten.
    pub fn unreadable(&self) -> Vec<(String, String)> {
        if !self.unreadable.has_some.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let engine = self.engine.read();
        let mut files = self.unreadable.files.lock();
        files.retain(|node, (content, _)| {
            engine.local(*node).and_then(|local| local.body.content_hash()).is_some_and(|now| now == *content)
        });
        self.unreadable.has_some.store(!files.is_empty(), Ordering::Relaxed);
        let told = |(node, (_, reason)): (&NodeId, &(ContentHash, String))| {
            let reason = format!("its bytes are not on this machine, and they cannot be had: {reason}");
            Some((engine.path(*node)?, reason))
        };
        let mut told: Vec<_> = files.iter().filter_map(told).collect();
        told.sort();
        told
    }
}
