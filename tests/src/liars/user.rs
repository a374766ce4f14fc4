//! What the user of a device does to the tree that it sees.

use super::device::Device;
use super::host::SECOND;
use crate::sim::bytes::{PIECE, common};
use std::sync::Arc;
use syncmount_common::{Attrs, Name, NodeId, NodeKind, SymlinkTarget, Timestamp};
use syncmount_engine::{Body, Draft, Expected, FileBody, RenameMode};

const NAMES: [&str; 6] = ["a", "b", "c.txt", "d", "e", "caf\u{e9}"];

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a name")
}

/// One of the few names that everything in these worlds has.
pub(super) fn some_name(rng: &mut crate::sim::Rng) -> Name {
    name(NAMES[rng.index(NAMES.len())])
}

impl Device {
    /// Does one thing. What the tree refuses has no effect.
    pub(super) fn act(&mut self) {
        self.now += self.rng.below(3) as i64 * SECOND;
        match self.rng.below(16) {
            0..=3 => self.put_new(),
            4..=6 => self.overwrite(),
            7 => self.make(Body::Dir),
            8 => self.make(Body::Symlink(SymlinkTarget::new(&b"../outside"[..]).expect("a target"))),
            9 | 10 => self.remove_one(),
            11 | 12 => self.rename_one(RenameMode::Replace),
            13 => self.rename_one(RenameMode::Exchange),
            14 => self.link_one(),
            _ => self.change_attrs(),
        }
    }

    /// The nodes of a kind that the user sees, in a fixed order.
    pub(super) fn seen(&self, kind: NodeKind) -> Vec<NodeId> {
        let of_kind = |id: &NodeId| self.engine.local(*id).is_some_and(|state| state.kind() == kind);
        let mut ids: Vec<NodeId> = self.engine.ids().filter(of_kind).collect();
        ids.sort_unstable();
        ids
    }

    fn some_dir(&mut self) -> NodeId {
        let dirs = self.seen(NodeKind::Dir);
        self.rng.pick(&dirs).copied().unwrap_or(NodeId::ROOT)
    }

    /// An entry of some directory.
    fn some_entry(&mut self) -> Option<(NodeId, Name, NodeId)> {
        let dir = self.some_dir();
        let entries: Vec<(Name, NodeId)> = self.engine.children(dir).map(|(name, id)| (name.clone(), id)).collect();
        self.rng.pick(&entries).map(|(name, id)| (dir, name.clone(), *id))
    }

    fn make(&mut self, body: Body) {
        let (dir, name, now) = (self.some_dir(), some_name(&mut self.rng), self.now());
        let attrs = Attrs { mode: 0o755, mtime: now };
        let _ = self.engine.create(dir, name, attrs, body, now);
    }

    fn put_new(&mut self) {
        let (dir, name, now) = (self.some_dir(), some_name(&mut self.rng), self.now());
        let (attrs, body) = (Attrs { mode: 0o644, mtime: now }, Body::File(FileBody::Draft(Box::new(Draft::empty()))));
        if let Ok(node) = self.engine.create(dir, name, attrs, body, now) {
            self.write(node);
        }
    }

    fn overwrite(&mut self) {
        let files = self.seen(NodeKind::File);
        if let Some(node) = self.rng.pick(&files).copied() {
            self.write(node);
        }
    }

    fn invent(&mut self) -> Arc<[u8]> {
        if self.rng.chance(100) {
            return common(&mut self.rng);
        }
        let fill = [0, 0, PIECE, 2 * PIECE][self.rng.index(4)];
        let text = format!("unique {} {}", self.named.name, self.next) + &"x".repeat(fill);
        text.into_bytes().into()
    }

    /// Writes a whole file.
    fn write(&mut self, node: NodeId) {
        let expected = match self.engine.local(node).map(|state| &state.body) {
            Some(Body::File(FileBody::Clean(content))) => Expected::Clean(content.hash),
            Some(Body::File(FileBody::Draft(draft))) => Expected::Draft(draft.staging),
            _ => return,
        };
        let (bytes, id, now) = (self.invent(), self.number(), self.now());
        let ready = self.rng.chance(900);
        let update = self.update(Some(id), bytes.len() as u64, now, ready);
        if self.engine.write_draft(node, expected, update, now).is_err() {
            return;
        }
        if let Expected::Draft(Some(old)) = expected {
            self.forget(old);
        }
        self.staging.insert(id, bytes);
        self.unacknowledged.insert(id);
    }

    /// The user has done away with what a staging file has.
    fn forget(&mut self, staging: u64) {
        self.staging.remove(&staging);
        self.unacknowledged.remove(&staging);
    }

    fn staging_of(&self, node: NodeId) -> Option<u64> {
        self.engine.local(node)?.body.draft()?.staging
    }

    fn remove_one(&mut self) {
        if let Some((dir, name, node)) = self.some_entry() {
            self.remove(dir, &name, node);
        }
    }

    /// Removes an entry and what is in it.
    pub(super) fn remove(&mut self, dir: NodeId, name: &Name, node: NodeId) {
        let entries: Vec<(Name, NodeId)> = self.engine.children(node).map(|(name, id)| (name.clone(), id)).collect();
        entries.into_iter().for_each(|(name, child)| self.remove(node, &name, child));
        let (staging, now) = (self.staging_of(node), self.now());
        let is_dir = self.engine.local(node).is_some_and(|state| state.kind() == NodeKind::Dir);
        if self.engine.remove(dir, name.as_bytes(), is_dir, now).is_ok() {
            self.forget_if_gone(node, staging);
        }
    }

    fn forget_if_gone(&mut self, node: NodeId, staging: Option<u64>) {
        if self.engine.local(node).is_none() {
            staging.into_iter().for_each(|id| self.forget(id));
        }
    }

    fn rename_one(&mut self, mode: RenameMode) {
        let Some((dir, from, _)) = self.some_entry() else { return };
        let (to_dir, to) = match self.some_entry() {
            Some((dir, name, _)) if mode == RenameMode::Exchange || self.rng.chance(300) => (dir, name),
            _ => (self.some_dir(), some_name(&mut self.rng)),
        };
        let replaced = self.engine.child(to_dir, to.as_bytes());
        let (staging, now) = (replaced.and_then(|node| self.staging_of(node)), self.now());
        let done = self.engine.rename((dir, from.as_bytes()), (to_dir, to), mode, now);
        if let (Ok(_), Some(replaced)) = (done, replaced) {
            self.forget_if_gone(replaced, staging);
        }
    }

    fn link_one(&mut self) {
        let files = self.seen(NodeKind::File);
        if let Some(node) = self.rng.pick(&files).copied() {
            let (dir, name, now) = (self.some_dir(), some_name(&mut self.rng), self.now());
            let _ = self.engine.link(node, dir, name, now);
        }
    }

    fn change_attrs(&mut self) {
        let Some((_, _, node)) = self.some_entry() else { return };
        let Some(state) = self.engine.local(node).cloned() else { return };
        let now = self.now();
        if self.rng.chance(300) {
            let mut xattrs = state.xattrs.clone();
            let value = [self.rng.below(4) as u8];
            if xattrs.set(b"user.note", &value).is_ok() {
                let _ = self.engine.set_xattrs(node, xattrs, now);
            }
            return;
        }
        let mode = [0o600, 0o644, 0o755][self.rng.index(3)];
        let mtime = if self.rng.chance(500) { now } else { Timestamp(state.attrs.mtime.0.saturating_sub(SECOND)) };
        let _ = self.engine.set_attrs(node, Attrs { mode, mtime }, now);
    }
}
