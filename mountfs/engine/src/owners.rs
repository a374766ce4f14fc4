//! Which user and which group a node belongs to: the owner that travels with it, and what this machine alone keeps of one.
//!
//! An owner is an attribute that a node may lack: then it belongs to the user who mounts the folder. A device that does not apply
//! owners keeps those that it is told, makes none up and takes none away. Must not know what a caller of the system may do.

use crate::engine::Engine;
use crate::local::Refusal;
use crate::state::State;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::Arc;
use syncmount_common::node::NodeOwner;
use syncmount_common::protocol::commit::Op;
use syncmount_common::{NodeId, Owner, Timestamp};

/// What this machine alone keeps of a node's owner; what is absent is the mounting user's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct OwnerHere {
    /// The user.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
}

impl OwnerHere {
    /// Whether nothing is kept.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// What the engine knows of owners beside the states of its nodes.
#[derive(Default)]
pub(crate) struct Owners {
    /// Whether this device applies the owners that travel. If it does, a server that lacks one that is known here is told it.
    applied: bool,
    /// Nodes of which this machine keeps an owner, those too that were removed here and may come back.
    here: HashMap<NodeId, OwnerHere>,
}

impl Owners {
    pub(crate) fn restore(&mut self, id: NodeId, here: OwnerHere) {
        self.here.insert(id, here);
    }

    /// Nothing is known of a node any more.
    pub(crate) fn forget(&mut self, id: NodeId) {
        if !self.here.is_empty() {
            self.here.remove(&id);
        }
    }

    pub(crate) fn of(&self, id: NodeId) -> OwnerHere {
        self.here.get(&id).copied().unwrap_or_default()
    }
}

impl Engine {
    /// Whether this device applies the owners that travel. At the beginning it does not.
    pub fn apply_owners(&mut self, applied: bool) {
        self.owners.applied = applied;
    }

    /// Whether it does.
    pub fn applies_owners(&self) -> bool {
        self.owners.applied
    }

    /// What this machine alone keeps of a node's owner.
    pub fn owner_here(&self, id: NodeId) -> OwnerHere {
        self.owners.of(id)
    }

    /// Sets the owner that travels.
    pub fn set_owner(&mut self, id: NodeId, owner: Owner, now: Timestamp) -> Result<(), Refusal> {
        let local = self.tree.local(id).ok_or(Refusal::NotFound)?;
        let xattrs = local.xattrs.with_owner(Some(owner));
        self.set_xattrs(id, xattrs, now)
    }

    /// Sets what this machine alone keeps. Nothing of it is sent.
    pub fn set_owner_here(&mut self, id: NodeId, here: OwnerHere, now: Timestamp) -> Result<(), Refusal> {
        let local = self.tree.local(id).cloned().ok_or(Refusal::NotFound)?;
        if here.is_empty() {
            self.owners.here.remove(&id);
        } else {
            self.owners.here.insert(id, here);
        }
        self.keep_entries_mtime(id);
        let synced = self.tree.get(id).and_then(|entry| entry.synced.clone());
        self.put(id, Some(local), synced, now);
        Ok(())
    }

    /// A node goes on as another one, or there is a copy of it.
    pub(crate) fn keep_owner_here(&mut self, from: NodeId, to: NodeId) {
        let here = self.owners.of(from);
        if !here.is_empty() && self.owners.of(to).is_empty() {
            self.owners.here.insert(to, here);
            self.touch(to);
        }
    }

    /// The owners that a commit of these operations tells.
    pub(crate) fn owners_told_by(&self, ops: &[Op]) -> Vec<NodeOwner> {
        // A device that does not apply owners has none that differ, but of what comes back or is a copy: that belongs to the owner
        // that was told.
        let told = |op: &Op| {
            let entry = self.tree.get(op.id())?;
            let owner = entry.outgoing()?.xattrs.owner()?;
            let agreed = entry.synced_state().and_then(|synced| synced.xattrs.owner());
            (agreed != Some(owner)).then_some(NodeOwner { id: op.id(), owner })
        };
        ops.iter().filter_map(told).collect()
    }

    /// A state that the server has told, with the owner that is known here if it tells none: that it tells none takes none away.
    pub(crate) fn with_known_owner(told: Arc<State>, (synced, local): (Option<&State>, Option<&State>)) -> Arc<State> {
        let owner = |state: Option<&State>| state.and_then(|state| state.xattrs.owner());
        match told.xattrs.owner().or_else(|| owner(synced)).or_else(|| owner(local)) {
            known if known == told.xattrs.owner() => told,
            known => Arc::new(State { xattrs: told.xattrs.with_owner(known), ..State::clone(&told) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{NOW, Rig, id};
    use syncmount_common::{Node, NodeKind};

    const ROOT: NodeId = NodeId::ROOT;

    fn owner(uid: u32) -> Owner {
        Owner { uid, gid: 100 + uid }
    }

    fn told(node: &Node, uid: u32) -> NodeOwner {
        NodeOwner { id: node.id, owner: owner(uid) }
    }

    fn of(rig: &Rig, id: NodeId) -> Option<u32> {
        rig.engine.local(id).unwrap().xattrs.owner().map(|owner| owner.uid)
    }

    fn applying() -> Rig {
        let mut rig = Rig::new();
        rig.engine.apply_owners(true);
        rig
    }

    #[test]
    fn an_owner_is_sent_once_and_with_what_it_belongs_to() {
        let mut rig = applying();
        let file = rig.file(ROOT, "f", 1);
        rig.engine.set_owner(file, owner(1), NOW).unwrap();
        let request = rig.send().unwrap();
        assert_eq!(request.owners, [NodeOwner { id: file, owner: owner(1) }]);
        rig.take(&request);
        rig.edit(file, 2, NOW.0 + 1);
        let request = rig.send().unwrap();
        assert_eq!(request.owners, []);
        rig.take(&request);
        rig.engine.set_owner(file, owner(2), NOW).unwrap();
        let request = rig.send().unwrap();
        assert_eq!(request.owners, [NodeOwner { id: file, owner: owner(2) }]);
        assert!(matches!(request.ops[..], [Op::Update { xattrs: None, attrs: None, content: None, names: None, .. }]));
        rig.take(&request);
        assert!(rig.send().is_none());
        rig.restart();
        rig.engine.apply_owners(true);
        assert_eq!((of(&rig, file), rig.send().is_none()), (Some(2), true));
    }

    #[test]
    fn a_device_that_does_not_apply_owners_makes_none_up_and_takes_none_away() {
        let mut rig = Rig::new();
        let node = rig.theirs(id(9), ROOT, "f", Some(1));
        rig.owned(vec![node.clone()], Some(vec![told(&node, 1)]));
        assert_eq!(of(&rig, node.id), Some(1));
        rig.edit(node.id, 2, NOW.0 + 1);
        let request = rig.send().unwrap();
        assert_eq!(request.owners, []);
        rig.take(&request);
        // Told again, by a server that does not keep owners.
        let again = rig.theirs(node.id, ROOT, "g", Some(3));
        rig.owned(vec![again], None);
        assert_eq!((of(&rig, node.id), rig.send().is_none()), (Some(1), true));
        // Edited here and removed there, it comes back with its owner.
        rig.edit(node.id, 4, NOW.0 + 2);
        let gone = rig.gone(node.id, NodeKind::File);
        rig.owned(vec![gone], Some(Vec::new()));
        assert_eq!(rig.send().unwrap().owners, [told(&node, 1)]);
    }

    #[test]
    fn that_a_server_tells_no_owner_takes_none_away() {
        for (applies, owners, is_told_again) in
            [(true, Some(Vec::new()), true), (true, None, false), (false, Some(Vec::new()), false)]
        {
            let mut rig = Rig::new();
            rig.engine.apply_owners(applies);
            let node = rig.theirs(id(9), ROOT, "f", Some(1));
            rig.owned(vec![node.clone()], Some(vec![told(&node, 1)]));
            // It was set back, or keeps owners only since a moment ago.
            let again = rig.theirs(node.id, ROOT, "f", Some(2));
            rig.owned(vec![again], owners);
            assert_eq!(of(&rig, node.id), Some(1));
            let request = rig.send();
            let sent = request.as_ref().map(|request| request.owners.clone());
            assert_eq!(sent, is_told_again.then(|| vec![told(&node, 1)]));
            if let Some(request) = request {
                rig.take(&request);
                assert!(rig.send().is_none(), "once");
            }
        }
    }

    #[test]
    fn what_was_given_away_is_told_although_owners_are_not_applied_any_more() {
        let mut rig = applying();
        let file = rig.file(ROOT, "f", 1);
        rig.sync();
        rig.engine.set_owner(file, owner(1), NOW).unwrap();
        rig.drive();
        rig.restart();
        rig.engine.apply_owners(false);
        rig.news(Vec::new());
        assert_eq!(rig.send().unwrap().owners, [NodeOwner { id: file, owner: owner(1) }]);
    }

    #[test]
    fn an_owner_here_and_an_edit_there_are_both_kept() {
        let mut rig = applying();
        let node = rig.theirs(id(9), ROOT, "f", Some(1));
        rig.owned(vec![node.clone()], Some(Vec::new()));
        rig.engine.set_owner(node.id, owner(5), NOW).unwrap();
        let again = rig.theirs(node.id, ROOT, "f", Some(2));
        rig.owned(vec![again], Some(Vec::new()));
        let request = rig.send().unwrap();
        assert_eq!(request.owners, [NodeOwner { id: node.id, owner: owner(5) }]);
        assert_eq!(rig.names(ROOT), ["f"]);
    }

    #[test]
    fn an_owner_that_cannot_be_is_none() {
        let mut rig = applying();
        let node = rig.theirs(id(9), ROOT, "f", Some(1));
        let owner = Owner { uid: 3, gid: u32::MAX };
        rig.owned(vec![node.clone()], Some(vec![NodeOwner { id: node.id, owner }]));
        assert_eq!(of(&rig, node.id), None);
    }

    #[test]
    fn what_this_machine_keeps_is_never_sent_and_stays_over_a_restart_until_the_node_goes() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "f", 1);
        rig.sync();
        let here = OwnerHere { uid: None, gid: Some(4) };
        rig.engine.set_owner_here(file, here, NOW).unwrap();
        rig.drive();
        assert!(rig.send().is_none());
        rig.restart();
        assert_eq!(rig.engine.owner_here(file), here);
        let again = rig.theirs(file, ROOT, "g", Some(2));
        rig.news(vec![again]);
        assert_eq!(rig.engine.owner_here(file), here);
        rig.engine.remove(ROOT, b"g", false, NOW).unwrap();
        rig.drive();
        rig.restart();
        assert_eq!(rig.engine.owner_here(file), here, "it may come back");
        rig.news(Vec::new());
        rig.sync();
        let gone = rig.gone(file, NodeKind::File);
        rig.news(vec![gone]);
        assert!(rig.engine.owner_here(file).is_empty());
        assert_eq!(rig.engine.set_owner_here(file, here, NOW), Err(Refusal::NotFound));
    }

    #[test]
    fn a_directory_that_goes_up_in_another_one_keeps_its_owner_here() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "d");
        let here = OwnerHere { uid: Some(1), gid: None };
        rig.engine.set_owner_here(dir, here, NOW).unwrap();
        let theirs = rig.theirs(id(9), ROOT, "d", None);
        rig.news(vec![theirs]);
        assert_eq!((rig.names(ROOT), rig.engine.owner_here(id(9))), (vec!["d".to_owned()], here));
    }
}
