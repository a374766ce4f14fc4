//! What goes to another disk in the folder, where no rename leads.

use super::apply::{Announced, Outcome};
use super::folder::Folder;
use super::host::Host;
use super::index::{Item, Known};
use crate::driver::ItemId;
use std::io;
use syncmount_common::NodeId;

impl<H: Host> Folder<H> {
    /// A directory on another disk, or under another quota, gets what comes into it from a directory of its own.
    pub(super) fn elsewhere(&mut self, new: &Announced, error: io::Error) -> io::Result<Outcome> {
        if error.kind() != io::ErrorKind::CrossesDevices || !self.foreign.insert(new.dir) {
            return Err(error);
        }
        self.todo.insert(new.node);
        Ok(Outcome::Later(None))
    }

    /// No rename leads from one disk to another: what is to be there is fetched, and what is here is removed a little later, so
    /// that its bytes can be copied.
    pub(super) fn carry_over(&mut self, id: ItemId, item: &Item) -> io::Result<Outcome> {
        if item.known == Known::Draft {
            return Ok(Outcome::Later(Some("it goes to another disk once what was written to it is sent".into())));
        }
        let inner: Vec<NodeId> = {
            let index = self.index.lock();
            index.children(id).filter_map(|(_, child)| index.node(child)).collect()
        };
        let gone = self.disown(id)?;
        self.postpone(gone, None);
        self.todo.extend(inner.into_iter().chain([item.node]));
        Ok(Outcome::Later(None))
    }
}
