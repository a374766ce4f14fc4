//! The judgement at the end of a world: nothing lost, nothing removed that nobody removed, everybody sees the same.

use super::bytes::{content_of, is_unique};
use super::view::{self, Inside, View};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::{ContentHash, Node, NodeId};

/// What users did, as far as it decides what may be missing at the end.
#[derive(Default)]
pub struct Ledger {
    /// Bytes that only one user wrote and that were declared ready, and kept, at a device.
    declared: BTreeMap<ContentHash, Arc<[u8]>>,
    /// Contents that a user who saw them overwrote or removed.
    pub destroyed: BTreeSet<ContentHash>,
    /// Nodes that a user who saw them removed or replaced.
    pub removed: BTreeSet<NodeId>,
}

impl Ledger {
    /// A user has been told that these bytes are safe.
    pub fn declare(&mut self, hash: ContentHash, bytes: &Arc<[u8]>) {
        if is_unique(bytes) {
            self.declared.insert(hash, bytes.clone());
        }
    }
}

impl World {
    /// Judges a world that has come to rest. Returns the tree that all agree on.
    pub fn judge(&self) -> Result<View, String> {
        let (nodes, _) = self.server.nodes().map_err(|error| error.to_string())?;
        let tree = view::of_nodes(&nodes);
        self.all_see(&tree)?;
        self.bytes_are_there(&tree)?;
        self.nothing_is_missing(&tree)?;
        self.nothing_was_removed_by_itself(&nodes)?;
        if self.scenario.active == 1 || self.scenario.alike {
            no_copies(&tree)?;
        }
        Ok(tree)
    }

    fn all_see(&self, tree: &View) -> Result<(), String> {
        for (index, device) in self.devices.iter().enumerate() {
            let Some(engine) = &device.engine else { return Err(format!("device {index} is down")) };
            if let Some(difference) = view::difference(tree, &view::of_engine(engine, Some(&device.disk))) {
                return Err(format!("server and device {index} differ at {difference}"));
            }
            let left = device.disk.stagings();
            if !left.is_empty() {
                return Err(format!("device {index} leaves the staging files {left:?} behind"));
            }
        }
        Ok(())
    }

    fn bytes_are_there(&self, tree: &View) -> Result<(), String> {
        let current = tree.values().filter_map(|seen| match seen.inside {
            Inside::Bytes(hash) => Some(hash),
            _ => None,
        });
        for hash in current.chain(self.server.committed.iter().copied()).collect::<BTreeSet<_>>() {
            let bytes = self.server.bytes(hash).map_err(|error| format!("content {hash}: {error}"))?;
            if content_of(&bytes).hash != hash {
                return Err(format!("content {hash} has other bytes"));
            }
        }
        Ok(())
    }

    /// Every byte string that was declared ready is current somewhere unless a user who saw it did away with it.
    fn nothing_is_missing(&self, tree: &View) -> Result<(), String> {
        let current: BTreeSet<ContentHash> = tree
            .values()
            .filter_map(|seen| if let Inside::Bytes(hash) = seen.inside { Some(hash) } else { None })
            .collect();
        for (hash, bytes) in &self.ledger.declared {
            if !current.contains(hash) && !self.ledger.destroyed.contains(hash) {
                let fate = if self.server.committed.contains(hash) { "in the history only" } else { "nowhere" };
                return Err(format!("{:?} is {fate}, and nobody did away with it", String::from_utf8_lossy(bytes)));
            }
        }
        Ok(())
    }

    /// A node that is gone was removed by a user, or went up in another one that wanted the same name.
    fn nothing_was_removed_by_itself(&self, nodes: &[Node]) -> Result<(), String> {
        // Directories, and symlinks of one target, may have gone up in each other at a place that only one device ever knew;
        // what was in the directories is checked by itself.
        let judged = nodes.iter().filter(|node| node.kind == syncmount_common::NodeKind::File);
        for node in judged.filter(|node| node.deleted && !self.ledger.removed.contains(&node.id)) {
            let kind = node.kind.into();
            let rivals = |((of, _), ids): &(&(super::server::NodeKind2, _), &BTreeSet<NodeId>)| {
                *of == kind && ids.contains(&node.id) && ids.len() > 1
            };
            if !self.server.places.iter().any(|entry| rivals(&entry)) {
                return Err(format!("{:?} was removed, and nobody removed it", node.id));
            }
        }
        Ok(())
    }
}

fn no_copies(tree: &View) -> Result<(), String> {
    match tree.keys().find(|path| path.contains("(conflict")) {
        Some(path) => Err(format!("`{path}` is a conflict copy where there was no conflict")),
        None => Ok(()),
    }
}
