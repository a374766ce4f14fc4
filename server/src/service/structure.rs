//! The shape of the tree after a batch: unique names, living directories as parents, no cycles, nothing left in what is
//! removed. The cost is that of the batch, not of the folder.

use super::commit::{CONFLICTS_MAX, Step, for_travel};
use super::{Result, ServiceError};
use crate::meta::{FolderKey, WriteTx};
use std::collections::{HashMap, HashSet};
use syncmount_common::protocol::commit::{Conflict, ConflictReason};
use syncmount_common::{NodeId, NodeKind, Placement};

/// Gives the batch's nodes their new names and checks the result. The rows are written, the old names are gone.
pub(super) fn place(tx: &dyn WriteTx, folder: FolderKey, steps: &[Step]) -> Result<()> {
    let mut shape = Shape { tx, folder, states: HashMap::new(), rooted: HashSet::from([NodeId::ROOT]) };
    let mut reasons = vec![None; steps.len()];
    for (step, reason) in steps.iter().zip(&mut reasons) {
        *reason = shape.add_names(step)?;
    }
    for (step, reason) in steps.iter().zip(&mut reasons) {
        if reason.is_none() {
            *reason = shape.fault(step)?;
        }
    }
    let conflicts: Vec<_> = (0..)
        .zip(steps.iter().zip(reasons))
        .filter_map(|(index, (step, reason))| {
            Some(Conflict { index, reason: reason?, current: step.before.clone().map(for_travel) })
        })
        .take(CONFLICTS_MAX)
        .collect();
    if conflicts.is_empty() { Ok(()) } else { Err(ServiceError::Conflict(conflicts)) }
}

/// What the checks know of a node.
#[derive(Clone)]
enum State {
    Gone,
    Live(NodeKind, Option<NodeId>),
}

struct Shape<'a> {
    tx: &'a dyn WriteTx,
    folder: FolderKey,
    states: HashMap<NodeId, State>,
    /// Directories whose parents lead to the root.
    rooted: HashSet<NodeId>,
}

impl Shape<'_> {
    fn add_names(&self, step: &Step) -> Result<Option<ConflictReason>> {
        let names: &[Placement] = if step.renamed { &step.after.names } else { &[] };
        for place in names {
            if !self.tx.add_name(self.folder, step.after.id, place)? {
                return Ok(Some(ConflictReason::NameTaken));
            }
        }
        Ok(None)
    }

    fn fault(&mut self, step: &Step) -> Result<Option<ConflictReason>> {
        let node = &step.after;
        if node.deleted {
            let left = node.kind == NodeKind::Dir && self.tx.has_children(self.folder, node.id)?;
            return Ok(left.then_some(ConflictReason::NotEmpty));
        }
        if !step.renamed {
            return Ok(None);
        }
        for place in &node.names {
            let fault = self.parent_fault(place.parent)?;
            if fault.is_some() {
                return Ok(fault);
            }
        }
        let looped = node.kind == NodeKind::Dir && !self.leads_to_root(node.id)?;
        Ok(looped.then_some(ConflictReason::Cycle))
    }

    fn parent_fault(&mut self, parent: NodeId) -> Result<Option<ConflictReason>> {
        Ok(match self.state(parent)? {
            State::Live(NodeKind::Dir, _) => None,
            State::Live(NodeKind::File | NodeKind::Symlink, _) => Some(ConflictReason::ParentNotDir),
            State::Gone => Some(ConflictReason::ParentGone),
        })
    }

    /// Whether the way up from `start` ends. A way that ends at something removed is not a cycle; the operation that put
    /// something there is told so itself.
    fn leads_to_root(&mut self, start: NodeId) -> Result<bool> {
        let mut path = HashSet::new();
        let mut next = Some(start);
        while let Some(node) = next.filter(|node| !self.rooted.contains(node)) {
            if !path.insert(node) {
                return Ok(false);
            }
            next = match self.state(node)? {
                State::Live(_, parent) => parent,
                State::Gone => None,
            };
        }
        self.rooted.extend(path);
        Ok(true)
    }

    fn state(&mut self, id: NodeId) -> Result<State> {
        if let Some(state) = self.states.get(&id) {
            return Ok(state.clone());
        }
        let node = self.tx.node(self.folder, id)?.filter(|node| !node.deleted);
        let state =
            node.map_or(State::Gone, |node| State::Live(node.kind, node.names.first().map(|place| place.parent)));
        self.states.insert(id, state.clone());
        Ok(state)
    }
}
