//! The judgement: while a world lives, that the feed is a prefix of the server's history and that what was synced survives;
//! at its end, that nothing is lost, nothing was removed that nobody removed, and everybody sees the same.

use super::bytes::{content_of, is_unique};
use super::server::NodeKind2;
use super::view::{self, Inside, Seen, View};
use super::world::World;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::{Attrs, ContentHash, Node, NodeId, NodeKind, Timestamp};
use syncmount_engine::{Body, State};

/// What users did and fate allows, as far as it decides what may be missing at the end.
#[derive(Default)]
pub struct Ledger {
    /// Bytes that only one user wrote and that were declared ready, and kept, at a device: they survive its process.
    declared: BTreeMap<ContentHash, Arc<[u8]>>,
    /// Contents that a user who saw them overwrote or removed.
    pub destroyed: BTreeSet<ContentHash>,
    /// Nodes that a user who saw them removed or replaced.
    pub removed: BTreeSet<NodeId>,
    /// Contents that were only where a power was cut or a disk set back, and that were not synced there: after it nobody had
    /// them.
    pub excused: BTreeSet<ContentHash>,
    /// Contents of conflict copies that have become versions of their files.
    pub versioned: BTreeSet<ContentHash>,
    /// The bytes that a device has last found in a node, sent or not.
    pub found: BTreeMap<NodeId, ContentHash>,
    /// A device or the server has lost a part of its memory: what it did before may come back, and may conflict.
    pub upheaval: bool,
}

impl Ledger {
    /// A user has been told that these bytes are safe.
    pub fn declare(&mut self, hash: ContentHash, bytes: &Arc<[u8]>) {
        if is_unique(bytes) {
            self.declared.insert(hash, bytes.clone());
        }
    }
}

fn current(tree: &View) -> BTreeSet<ContentHash> {
    tree.values().filter_map(|seen| if let Inside::Bytes(hash) = seen.inside { Some(hash) } else { None }).collect()
}

impl World {
    /// Whether only one user did anything, and nobody lost any memory.
    pub fn is_undisturbed(&self) -> bool {
        self.scenario.active == 1 && !self.ledger.upheaval
    }

    /// The only active user sees what it has done and nothing else.
    pub fn check_expected(&mut self, index: usize) {
        let device = &self.devices[index];
        let (Some(expected), Some(engine)) = (&device.expected, &device.engine) else { return };
        if let Some(difference) = view::difference(
            &undated(expected),
            &undated(&view::of_engine(engine, Some((&device.disk, &self.library)))),
        ) {
            self.violated(format!("the only active device sees what its user did not do at {difference}"));
        }
    }

    /// After a power cut: what a user had synced is there.
    pub fn check_fsynced(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        let there = current(&view::of_engine(engine, Some((&device.disk, &self.library))));
        let lost = device.fsynced.iter().find(|(_, hash)| !there.contains(hash));
        if let Some((node, hash)) = lost {
            let bytes = self.library.get(*hash).map(|bytes| String::from_utf8_lossy(bytes).into_owned());
            self.violated(format!("device {index} has lost {bytes:?} of {node:?}, which was synced, to a power cut"));
        }
    }

    /// A rename that the cut has undone had given a synced file another id: its bytes are asked for by the one it has now.
    pub fn rename_fsynced(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        let seen = view::of_engine(engine, Some((&device.disk, &self.library)));
        let (mut fsynced, unknown): (BTreeMap<NodeId, ContentHash>, BTreeMap<NodeId, ContentHash>) = device
            .fsynced
            .iter()
            .map(|(node, hash)| (*node, *hash))
            .partition(|(node, _)| engine.local(*node).is_some());
        for hash in unknown.into_values() {
            let holds = |seen: &&Seen| seen.inside == Inside::Bytes(hash) && !fsynced.contains_key(&seen.id);
            let holder = seen.values().find(holds).map(|seen| (seen.id, hash));
            fsynced.extend(holder);
        }
        self.devices[index].fsynced = fsynced;
    }

    /// What a device has merged is what the server had at the device's position in the feed, and the position only moves on.
    pub fn check_feed(&mut self, index: usize) {
        let device = &self.devices[index];
        if let Some(unsound) = device.engine.as_ref().and_then(|engine| engine.unsound()) {
            return self.violated(format!("device {index} finds an honest server unsound: {unsound}"));
        }
        let Some(cursor) = device.engine.as_ref().and_then(|engine| engine.cursor()) else { return };
        let before = device.cursor;
        if before == Some(cursor) {
            return;
        }
        self.devices[index].cursor = Some(cursor);
        if self.server.set_backs > 0 {
            return;
        }
        if before.is_some_and(|before| before.epoch == cursor.epoch && before.seq > cursor.seq) {
            return self.violated(format!("device {index} went back in the feed, from {before:?} to {cursor:?}"));
        }
        if let Err(what) = self.is_prefix(index, cursor.seq) {
            self.violated(format!("device {index} at {}: {what}", cursor.seq));
        }
    }

    fn is_prefix(&self, index: usize, seq: u64) -> Result<(), String> {
        let Some(engine) = &self.devices[index].engine else { return Ok(()) };
        let mut newest = BTreeMap::new();
        for (rev, (id, state)) in self.server.revs().range(..=seq) {
            newest.insert(id, (*rev, state.is_some()));
        }
        // What has changed since may have been left out: it is told later.
        let changes = |id: &NodeId| self.server.revs().range(seq + 1..).any(|(_, (of, _))| of == id);
        for (id, (rev, lives)) in newest {
            let known = engine.entry(*id).map_or(0, syncmount_engine::Entry::base_rev);
            if known < rev && (lives || engine.entry(*id).is_some()) && !changes(id) {
                return Err(format!("{id:?} is known as of {known}, and {rev} is behind already"));
            }
        }
        for id in engine.ids().filter(|id| *id != NodeId::ROOT) {
            let Some(synced) = engine.entry(id).and_then(|entry| entry.synced.as_ref()) else { continue };
            let right = match (self.server.revs().get(&synced.rev), &synced.state) {
                (Some((of, Some(there))), Some(here)) => *of == id && agree(here, there),
                (Some((of, there)), here) => *of == id && there.is_none() == here.is_none(),
                (None, _) => false,
            };
            if !right {
                return Err(format!("{id:?} was never {:?} at {}", synced.state, synced.rev));
            }
        }
        Ok(())
    }

    /// Judges a world that has come to rest. Returns the tree that all agree on.
    pub fn judge(&self) -> Result<View, String> {
        let (nodes, _) = self.server.nodes().map_err(|error| error.to_string())?;
        let tree = view::of_nodes(&nodes);
        self.all_see(&tree)?;
        self.bytes_are_there(&tree)?;
        self.nothing_is_missing(&tree)?;
        self.nothing_was_removed_by_itself(&nodes)?;
        if self.is_undisturbed() || self.scenario.alike && !self.ledger.upheaval {
            no_copies(&tree)?;
        }
        no_copies_of_copies(&tree).and_then(|()| self.nothing_is_made_up(&tree)).map(|()| tree)
    }

    fn all_see(&self, tree: &View) -> Result<(), String> {
        for (index, device) in self.devices.iter().enumerate() {
            let Some(engine) = &device.engine else { return Err(format!("device {index} is down")) };
            let (seen, _) = view::parts(engine, &device.disk, &self.library);
            let difference = if engine.applies_owners() {
                view::difference(tree, &seen)
            } else {
                // What it does not apply it need not have heard of.
                view::difference(&view::without_owners(tree), &view::without_owners(&seen))
            };
            if let Some(difference) = difference {
                return Err(format!("server and device {index} differ at {difference}"));
            }
            let stays =
                |staging| engine.stagings().any(|(id, it)| it.staging == Some(staging) && engine.stays_here(id));
            let left: Vec<u64> = device.disk.stagings().into_iter().filter(|staging| !stays(*staging)).collect();
            if !left.is_empty() {
                return Err(format!("device {index} leaves the staging files {left:?} behind"));
            }
            if let Some(hash) = device.disk.wrong_byte() {
                return Err(format!("device {index} has other bytes than {hash} under that name in its cache"));
            }
        }
        Ok(())
    }

    fn bytes_are_there(&self, tree: &View) -> Result<(), String> {
        for hash in current(tree).union(self.server.committed()) {
            let bytes = self.server.bytes(*hash).map_err(|error| format!("content {hash}: {error}"))?;
            if content_of(&bytes).hash != *hash {
                return Err(format!("content {hash} has other bytes"));
            }
        }
        Ok(())
    }

    /// Every byte string that was declared ready is current somewhere unless a user who saw it did away with it.
    fn nothing_is_missing(&self, tree: &View) -> Result<(), String> {
        let mut current = current(tree);
        for device in &self.devices {
            let parts = device.engine.as_ref().map(|engine| view::parts(engine, &device.disk, &self.library));
            current.extend(parts.iter().flat_map(|(_, only_here)| self::current(only_here)));
        }
        // A server that was set back to a backup has no versions from after it.
        let is_version = |hash| {
            self.ledger.versioned.contains(hash)
                && (self.server.committed().contains(hash) || self.server.set_backs > 0)
        };
        let is_excused = |hash| self.ledger.destroyed.contains(hash) || self.ledger.excused.contains(hash);
        let fine = |hash| current.contains(hash) || is_excused(hash) || is_version(hash);
        match self.ledger.declared.iter().find(|(hash, _)| !fine(hash)) {
            None => Ok(()),
            Some((hash, bytes)) => {
                let fate = if self.server.committed().contains(hash) { "in the history only" } else { "nowhere" };
                Err(format!("{:?} is {fate}, and nobody did away with it", String::from_utf8_lossy(bytes)))
            }
        }
    }

    /// A node that is gone was removed by a user, or went up in another one that wanted the same name.
    fn nothing_was_removed_by_itself(&self, nodes: &[Node]) -> Result<(), String> {
        // Directories, and symlinks of one target, may have gone up in each other at a place that only one device ever knew;
        // what was in the directories is checked by itself.
        let judged = nodes.iter().filter(|node| node.kind == NodeKind::File);
        for node in judged.filter(|node| node.deleted && !self.ledger.removed.contains(&node.id)) {
            let kind = node.kind.into();
            let rivals = |((of, _), ids): &(&(NodeKind2, _), &BTreeSet<NodeId>)| {
                *of == kind && ids.contains(&node.id) && ids.len() > 1
            };
            if !self.server.places.iter().any(|entry| rivals(&entry)) && !self.has_an_equal(node.id) {
                return Err(format!("{:?} was removed, and nobody removed it", node.id));
            }
        }
        Ok(())
    }

    /// Whether another file had the bytes that this one had last, at the server or on a device: they may have been one at a
    /// place that only one device ever knew.
    fn has_an_equal(&self, node: NodeId) -> bool {
        let revs = || self.server.revs().values().rev();
        let hash = |state: &Option<State>| state.as_ref().and_then(|state| state.body.content_hash());
        let last = revs().find(|(id, state)| *id == node && state.is_some()).and_then(|(_, state)| hash(state));
        let found = self.ledger.found.get(&node).copied();
        let equals =
            |last: Option<ContentHash>| last.is_some() && revs().any(|(id, state)| *id != node && hash(state) == last);
        equals(last) || equals(found)
    }

    /// No byte string is in the folder that neither a user wrote nor a power cut left behind.
    fn nothing_is_made_up(&self, tree: &View) -> Result<(), String> {
        let known = |hash: &ContentHash| self.library.get(*hash).is_some();
        match current(tree).iter().find(|hash| !known(hash)) {
            Some(hash) => Err(format!("nobody has ever written {hash}")),
            None => Ok(()),
        }
    }
}

fn no_copies(tree: &View) -> Result<(), String> {
    match tree.keys().find(|path| path.contains("(conflict")) {
        Some(path) => Err(format!("`{path}` is a conflict copy where there was no conflict")),
        None => Ok(()),
    }
}

fn no_copies_of_copies(tree: &View) -> Result<(), String> {
    let marks = |path: &str| path.rsplit('/').next().unwrap_or_default().matches("(conflict, ").count();
    match tree.keys().find(|path| marks(path) > 1) {
        Some(path) => Err(format!("`{path}` is a copy of a copy")),
        None => Ok(()),
    }
}

/// The same without the mtimes of directories, which move with their entries.
fn undated(view: &View) -> View {
    let undated = |seen: &Seen| {
        let mtime = if seen.inside == Inside::Dir { Timestamp(0) } else { seen.attrs.mtime };
        Seen { attrs: Attrs { mtime, ..seen.attrs }, ..seen.clone() }
    };
    view.iter().map(|(path, seen)| (path.clone(), undated(seen))).collect()
}

/// Whether they are the same. The mtime of a directory moves without a rev; at rest it is that of the server, as all else.
fn agree(here: &State, there: &State) -> bool {
    let mtime = if here.body == Body::Dir { there.attrs.mtime } else { here.attrs.mtime };
    State { attrs: Attrs { mtime, ..here.attrs }, ..here.clone() }.agrees_with(there)
}
