//! What a watched folder needs of whoever has the tree.

use crate::driver::{Client, ItemRow};
use std::io;
use std::sync::Arc;
use syncmount_common::{Content, Manifest, Timestamp};
use syncmount_engine::Engine;

/// The tree behind a folder, and the place where items are kept with it.
pub trait Host {
    /// Looks at the tree.
    fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T;
    /// Changes the tree and keeps what is told of items with it, both or neither.
    fn change<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> (T, Vec<ItemRow>)) -> io::Result<T>;
    /// Keeps what is told of items.
    fn keep(&self, items: Vec<ItemRow>) -> io::Result<()>;
    /// The next number of a state of a draft.
    fn next_generation(&self) -> u64;
    /// The whole folder has been looked at.
    fn has_looked(&self) -> io::Result<()> {
        Ok(())
    }
    /// The manifest of a content that a file is to be compared with, if it can be had now.
    fn manifest(&self, content: &Content) -> Option<Arc<Manifest>> {
        content.manifest.clone().map(Arc::new)
    }
}

impl Host for Arc<Client> {
    fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        Client::look(self, look)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> (T, Vec<ItemRow>)) -> io::Result<T> {
        self.change_with_items(change)
    }

    fn keep(&self, items: Vec<ItemRow>) -> io::Result<()> {
        self.keep_items(items)
    }

    fn next_generation(&self) -> u64 {
        self.draft_generation()
    }

    fn has_looked(&self) -> io::Result<()> {
        self.end_suspicion()
    }

    fn manifest(&self, content: &Content) -> Option<Arc<Manifest>> {
        self.manifest_to_compare(content)
    }
}
