//! The order in which many steps can be done in several commits, each of which leaves a valid tree.
//!
//! A step needs others first: the one that takes its name away from another node, the one that brings its parent back, for
//! a directory the nearest one above it that is placed (then its way up is the final one: no cycle can arise), and for a
//! directory that goes, everything that leaves it. Steps that need each other, such as two that swap their names, stay in
//! one commit. Whatever is done first, all that it needs is done: so each cut between such groups is a valid tree.

use super::Result;
use super::commit::Step;
use crate::meta::{FolderKey, ReadTx};
use std::collections::{HashMap, HashSet};
use syncmount_common::{NodeId, NodeKind};

/// Cuts steps that lead from the present to a valid tree into commits of about `len` steps.
pub(super) fn commits(tx: &dyn ReadTx, folder: FolderKey, steps: Vec<Step>, len: usize) -> Result<Vec<Vec<Step>>> {
    let index = steps.iter().enumerate().map(|(at, step)| (step.after.id, at)).collect();
    let needs = Needs { tx, folder, steps: &steps, index }.all()?;
    let mut steps: Vec<_> = steps.into_iter().map(Some).collect();
    let mut commits: Vec<Vec<Step>> = Vec::new();
    for group in groups(&needs) {
        let group = group.into_iter().filter_map(|at| steps[at].take());
        match commits.last_mut() {
            Some(commit) if commit.len() < len => commit.extend(group),
            _ => commits.push(group.collect()),
        }
    }
    Ok(commits)
}

struct Needs<'a> {
    tx: &'a dyn ReadTx,
    folder: FolderKey,
    steps: &'a [Step],
    index: HashMap<NodeId, usize>,
}

impl Needs<'_> {
    /// For each step, those that it needs first.
    fn all(&self) -> Result<Vec<Vec<usize>>> {
        let mut needs = vec![Vec::new(); self.steps.len()];
        for (at, step) in self.steps.iter().enumerate().filter(|(_, step)| step.renamed) {
            if step.lives().is_some() {
                needs[at].extend(self.placing(step)?);
            }
            for directory in self.left(step) {
                needs[directory].push(at);
            }
        }
        Ok(needs)
    }

    /// What a node needs to be placed.
    fn placing(&self, step: &Step) -> Result<Vec<usize>> {
        let mut needs = Vec::new();
        for place in &step.after.names {
            let holder = self.tx.child(self.folder, place.parent, &place.name)?;
            needs.extend(holder.filter(|id| *id != step.after.id).and_then(|id| self.index.get(&id)));
            let parent = self.index.get(&place.parent);
            needs.extend(parent.filter(|at| self.steps[**at].lived().is_none()));
        }
        if step.after.kind == NodeKind::Dir {
            needs.extend(self.above(step)?);
        }
        Ok(needs)
    }

    /// The nearest directory above, in the final tree, that is placed by a step.
    fn above(&self, step: &Step) -> Result<Option<usize>> {
        let mut seen = HashSet::new();
        let mut next = step.after.names.first().map(|place| place.parent);
        while let Some(id) = next.filter(|id| seen.insert(*id)) {
            next = match self.index.get(&id) {
                Some(at) if self.steps[*at].renamed => return Ok(Some(*at)),
                Some(at) => self.steps[*at].after.names.first().map(|place| place.parent),
                None => self.tx.node(self.folder, id)?.and_then(|node| Some(node.names.first()?.parent)),
            };
        }
        Ok(None)
    }

    /// The directories that a node leaves and that go.
    fn left(&self, step: &Step) -> Vec<usize> {
        let places = step.lived().map_or(&[][..], |node| &node.names);
        let parents = places.iter().filter_map(|place| self.index.get(&place.parent));
        parents.copied().filter(|at| self.steps[*at].after.deleted).collect()
    }
}

/// Groups of steps that need each other, each group after those that it needs (Tarjan's strongly connected components,
/// without recursion: a chain of needs may be as long as a tree is deep).
fn groups(needs: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let count = needs.len();
    let mut search = Search {
        needs,
        found: vec![None; count],
        low: vec![0; count],
        open: Vec::new(),
        is_open: vec![false; count],
        groups: Vec::new(),
        next: 0,
    };
    for start in 0..count {
        if search.found[start].is_none() {
            search.visit(start);
        }
    }
    search.groups
}

struct Search<'a> {
    needs: &'a [Vec<usize>],
    /// When each step was found.
    found: Vec<Option<usize>>,
    /// The earliest open step that each leads back to.
    low: Vec<usize>,
    open: Vec<usize>,
    is_open: Vec<bool>,
    groups: Vec<Vec<usize>>,
    next: usize,
}

impl Search<'_> {
    fn visit(&mut self, start: usize) {
        let mut path = vec![self.enter(start)];
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            if let Some(need) = self.needs[at].get(*next) {
                *next += 1;
                match self.found[*need] {
                    None => path.push(self.enter(*need)),
                    Some(found) if self.is_open[*need] => self.low[at] = self.low[at].min(found),
                    Some(_) => (),
                }
            } else {
                path.pop();
                self.leave(at, path.last().map(|(above, _)| *above));
            }
        }
    }

    fn enter(&mut self, at: usize) -> (usize, usize) {
        self.found[at] = Some(self.next);
        self.low[at] = self.next;
        self.next += 1;
        self.open.push(at);
        self.is_open[at] = true;
        (at, 0)
    }

    fn leave(&mut self, at: usize, above: Option<usize>) {
        if let Some(above) = above {
            self.low[above] = self.low[above].min(self.low[at]);
        }
        if self.found[at] != Some(self.low[at]) {
            return;
        }
        let begin = self.open.iter().rposition(|open| *open == at).unwrap_or(0);
        let group = self.open.split_off(begin);
        group.iter().for_each(|member| self.is_open[*member] = false);
        self.groups.push(group);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_circles_stay_together() {
        let needs = [vec![1], vec![2, 3], vec![1], vec![], vec![0]];
        let groups: Vec<Vec<usize>> = groups(&needs)
            .into_iter()
            .map(|mut group| {
                group.sort_unstable();
                group
            })
            .collect();
        assert_eq!(groups, [vec![3], vec![1, 2], vec![0], vec![4]]);
    }

    #[test]
    fn long_chains_need_no_stack() {
        let needs: Vec<_> = (0..200_000).map(|at: usize| if at == 0 { vec![] } else { vec![at - 1] }).rev().collect();
        let needs: Vec<Vec<usize>> = needs.into_iter().rev().collect();
        assert_eq!(groups(&needs).len(), 200_000);
    }
}
