//! The shape of the tree after a batch: unique names, living directories as parents, no cycles, nothing left in what is
//! removed. The cost is that of the batch, not of the folder.

use super::commit::{CONFLICTS_MAX, Step, for_conflict};
use super::{Result, ServiceError};
use crate::meta::{FolderKey, WriteTx};
use std::collections::{HashMap, HashSet};
use syncmount_common::node::LEVELS_MAX;
use syncmount_common::protocol::commit::{Conflict, ConflictReason};
use syncmount_common::{NodeId, NodeKind, Placement};

/// Gives the batch's nodes their new names and checks the result. The rows are written, the old names are gone.
pub(super) fn place(tx: &dyn WriteTx, folder: FolderKey, steps: &[Step]) -> Result<()> {
    let mut shape = Shape { tx, folder, states: HashMap::new(), rooted: HashMap::from([(NodeId::ROOT, 0)]) };
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
            Some(Conflict { index, reason: reason?, current: step.before.clone().map(for_conflict) })
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
    /// Directories whose parents lead to the root, and how far below it they are.
    rooted: HashMap<NodeId, usize>,
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
        if node.kind != NodeKind::Dir {
            return Ok(None);
        }
        match self.level(node.id)? {
            None => Ok(Some(ConflictReason::Cycle)),
            Some(level) if level > LEVELS_MAX => {
                let id = node.id;
                let text =
                    format!("node {id}: at most {LEVELS_MAX} directories lie in each other, and it is the {level}th");
                Err(ServiceError::Invalid(text))
            }
            Some(_) => Ok(None),
        }
    }

    fn parent_fault(&mut self, parent: NodeId) -> Result<Option<ConflictReason>> {
        Ok(match self.state(parent)? {
            State::Live(NodeKind::Dir, _) => None,
            State::Live(NodeKind::File | NodeKind::Symlink, _) => Some(ConflictReason::ParentNotDir),
            State::Gone => Some(ConflictReason::ParentGone),
        })
    }

    /// How far below the root `start` is; `None` if the way up does not end. A way that ends at something removed is not a
    /// cycle; the operation that put something there is told so itself.
    fn level(&mut self, start: NodeId) -> Result<Option<usize>> {
        let (mut way, mut seen) = (Vec::new(), HashSet::new());
        let mut next = Some(start);
        let mut level = 0;
        while let Some(node) = next {
            if let Some(known) = self.rooted.get(&node) {
                level = *known;
                break;
            }
            if !seen.insert(node) {
                return Ok(None);
            }
            way.push(node);
            next = match self.state(node)? {
                State::Live(_, parent) => parent,
                State::Gone => None,
            };
        }
        for node in way.into_iter().rev() {
            level += 1;
            self.rooted.insert(node, level);
        }
        Ok(Some(level))
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
