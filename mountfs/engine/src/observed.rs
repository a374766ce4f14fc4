//! What was found in a plain folder: changes that somebody made to what was there, without asking.
//!
//! A folder shows the tree a moment late: who changes a file in it may not have seen yet what the feed has brought since.
//! So each change comes with what it was based on, and is merged with what the tree shows by the rules that merge a
//! change from the feed with what was done here. With nothing unseen it is simply done.

use crate::engine::Engine;
use crate::feed::{Aftermath, Before, Step, Steps, is_moved_dir};
use crate::news::{News, Writers};
use crate::reconcile::{Copy, Facts, merge};
use crate::state::{Body, FileBody, Names, State};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use syncmount_common::{DeviceId, NodeId, Timestamp};

/// How many authors are remembered; a conflict copy of a change by another says "another device".
const AUTHORS_MAX: usize = 100_000;

/// A node of the folder that is not as it was seen last.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Observation {
    /// Which one. What was never seen before has an id from [`Engine::fresh_id`].
    pub node: NodeId,
    /// As it was seen last; `None` if it was not there. Its bytes may be known by name only.
    pub base: Option<State>,
    /// As it was found; `None` if it is gone. A draft whose content is known has it as `prepared`, to be compared with what
    /// it may meet; it is prepared all the same.
    pub found: Option<State>,
}

/// What became of what was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    /// Nodes that are other nodes now: what was there already was the same, or is a directory that they went up in.
    pub became: BTreeMap<NodeId, NodeId>,
    /// Drafts of a node that are those of a conflict copy now.
    pub moved: Vec<(NodeId, NodeId)>,
}

/// Who wrote what the feed has brought, until whoever shows the tree has shown it.
#[derive(Default)]
pub(crate) struct Authors {
    wanted: bool,
    by_node: HashMap<NodeId, DeviceId>,
}

impl Authors {
    pub(crate) fn note(&mut self, news: &[News], writers: &Writers) {
        if self.wanted {
            let room = AUTHORS_MAX.saturating_sub(self.by_node.len());
            let author = |node: &News| Some((node.id, writers.device(node.content_author)?));
            self.by_node.extend(news.iter().rev().filter(|node| !node.deleted).take(room).filter_map(author));
        }
    }

    pub(crate) fn of(&self, id: NodeId) -> Option<DeviceId> {
        self.by_node.get(&id).copied()
    }
}

impl Engine {
    /// From now on it is remembered who wrote what the feed brings, until [`Engine::forget_author`].
    pub fn remember_authors(&mut self) {
        self.authors.wanted = true;
    }

    /// What the feed has brought of this node is shown.
    pub fn forget_author(&mut self, id: NodeId) {
        self.authors.by_node.remove(&id);
    }

    /// Whether any author is remembered.
    pub fn has_authors(&self) -> bool {
        !self.authors.by_node.is_empty()
    }

    /// An id for something that has none.
    pub fn fresh_id(&mut self, now: Timestamp) -> NodeId {
        self.new_id(now)
    }

    /// Takes what was found. The directories above whatever was found must be there or be found with it.
    pub fn observe(&mut self, batch: Vec<Observation>, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        let mut steps = Steps::new();
        for observation in batch {
            let found_as = observation.node;
            let (node, step) = self.step_of(observation, now);
            if node != found_as {
                taken.became.insert(found_as, node);
            }
            steps.insert(node, step);
        }
        self.keep_needed_dirs(&mut steps);
        let fresh = drafts_in(&steps);
        let Aftermath { became, moved } = self.carry_out_observed(steps, now);
        self.prepare_anew(fresh, &moved);
        taken.moved.extend(moved);
        taken.became.extend(became);
        taken
    }

    fn step_of(&mut self, observation: Observation, now: Timestamp) -> (NodeId, Step) {
        let Observation { node, base, found } = self.completed(observation);
        let entry = self.tree.get(node);
        let before = entry.and_then(|entry| entry.local.clone());
        let synced = entry.and_then(|entry| entry.synced.clone());
        let is_unseen = |base: &State, here: &State| base.body != here.body && !base.body.same_as(&here.body);
        let content_changed = base.as_ref().zip(before.as_deref()).is_some_and(|(base, here)| is_unseen(base, here));
        let facts = Facts { content_changed, ..Facts::default() };
        let merged = merge(base.as_ref(), found.as_ref(), before.as_deref(), facts);
        let after = merged.local.map(|after| match &before {
            Some(here) if here.body.same_as(&after.body) => State { body: here.body.clone(), ..after },
            _ => after,
        });
        let author = self.authors.of(node);
        let copy = merged.copy.map(|copy| (copy, author));
        let is_forgotten = entry.is_none() && base.is_some() && after.is_some();
        // The server has a tombstone of it, at a rev that is not known here any more.
        let node = if is_forgotten { self.new_id(now) } else { node };
        (node, Step { before, after: after.map(Arc::new), synced, copy, leftover: false, changed: None })
    }

    /// A folder shows one name of a file and none of its extended attributes, and its owner where owners are applied: what it does
    /// not show has not changed.
    fn completed(&self, observation: Observation) -> Observation {
        let Some(here) = self.tree.local(observation.node).cloned() else { return observation };
        let Observation { node, mut base, mut found } = observation;
        for state in [&mut base, &mut found].into_iter().flatten() {
            let seen = state.xattrs.owner().filter(|_| self.applies_owners());
            state.xattrs = here.xattrs.with_owner(seen.or(here.xattrs.owner()));
        }
        let shown = base.as_ref().and_then(|base| base.names.first().cloned());
        if let Some(shown) = shown.filter(|shown| here.names.len() > 1 && here.names.contains(shown)) {
            let others = here.names.iter().filter(|place| **place != shown).cloned();
            let mut names: Names =
                others.chain(found.as_ref().and_then(|found| found.names.first().cloned())).collect();
            names.sort_unstable();
            names.dedup();
            let gone = || base.clone().map(|base| State { attrs: here.attrs, ..base });
            found = found.or_else(gone).map(|found| State { names, ..found });
            base = base.map(|base| State { names: here.names.clone(), ..base });
        }
        Observation { node, base, found }
    }

    /// A directory that was removed stays if something unseen is in it.
    fn keep_needed_dirs(&self, steps: &mut Steps) {
        loop {
            let is_needed = |id: &NodeId, step: &Step| {
                let lies_here = |step: &Step| {
                    step.after.as_ref().is_some_and(|after| after.names.iter().any(|place| place.parent == *id))
                };
                step.after.is_none()
                    && step.before.as_ref().is_some_and(|before| before.body == Body::Dir)
                    && (self.tree.children(*id).any(|(_, child)| steps.get(&child).is_none_or(lies_here))
                        || steps.values().any(lies_here))
            };
            let dirs = steps.iter().filter(|(_, step)| step.after.is_none());
            let needed: Vec<NodeId> = dirs.filter(|(id, step)| is_needed(id, step)).map(|(id, _)| *id).collect();
            if needed.is_empty() {
                return;
            }
            for id in needed {
                if let Some(step) = steps.get_mut(&id) {
                    step.after.clone_from(&step.before);
                }
            }
        }
    }

    fn carry_out_observed(&mut self, steps: Steps, now: Timestamp) -> Aftermath {
        let mut before = Before::default();
        for (id, step) in &steps {
            before.note(*id, || step.before.clone());
            self.tree.detach(*id);
        }
        let moved = steps.iter().filter(|(_, step)| is_moved_dir(step)).map(|(id, _)| *id).collect();
        let (mut queue, mut copies) = (VecDeque::new(), Vec::new());
        for (id, step) in steps {
            let never_synced = step.synced.as_ref().is_none_or(|synced| synced.state.is_none());
            let may_be_sent = self.is_in_flight(id) || self.sent_before.contains(&id);
            if step.after.is_none() && step.before.is_some() && never_synced && may_be_sent {
                self.tree.set_offered(id, true);
            }
            self.put_detached(id, step.after.clone(), step.synced, now);
            if step.after.is_none() {
                self.failed.remove(&id);
            } else {
                queue.push_back(id);
            }
            copies.extend(step.copy.map(|copy| (id, copy)));
        }
        self.settle_places(queue, copies, moved, before, now)
    }

    /// What was found with new bytes is to be prepared, also if its content is known: nobody has sent its chunks.
    fn prepare_anew(&mut self, fresh: Vec<(NodeId, u64)>, moved: &[(NodeId, NodeId)]) {
        for (node, generation) in fresh {
            let node = moved.iter().find(|(from, _)| *from == node).map_or(node, |(_, to)| *to);
            let is_it = |id: NodeId| self.draft(id).is_some_and(|draft| draft.generation == generation);
            if !is_it(node) {
                continue;
            }
            self.edit_draft(node, |draft| draft.prepared = None);
            self.failed.remove(&node);
            self.to_prepare.push_back((node, false));
        }
    }
}

/// The drafts that nobody has had before.
fn drafts_in(steps: &Steps) -> Vec<(NodeId, u64)> {
    let old = |step: &Step| step.before.as_ref().and_then(|state| Some(state.body.draft()?.generation));
    let draft_of = |body: &Body| match body {
        Body::File(FileBody::Draft(draft)) => Some(draft.generation),
        _ => None,
    };
    let mut fresh = Vec::new();
    for (id, step) in steps {
        let kept = step.after.as_ref().and_then(|after| draft_of(&after.body));
        let copied = step.copy.as_ref().and_then(|(copy, _)| match copy {
            Copy::Local(state) => draft_of(&state.body),
            Copy::Remote { .. } => None,
        });
        fresh.extend(kept.or(copied).filter(|new| Some(*new) != old(step)).map(|new| (*id, new)));
    }
    fresh
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{NOW, Rig, content, id, name};
    use crate::state::Draft;
    use smallvec::smallvec;
    use syncmount_common::protocol::commit::Op;
    use syncmount_common::{Attrs, Placement};

    const ROOT: NodeId = NodeId::ROOT;

    fn at(parent: NodeId, text: &str, mtime: i64, body: Body) -> State {
        State {
            names: smallvec![Placement { parent, name: name(text) }],
            attrs: Attrs { mode: 0o644, mtime: Timestamp(mtime) },
            body,
            xattrs: syncmount_common::Xattrs::default(),
        }
    }

    fn clean(seed: u8) -> Body {
        Body::File(FileBody::Clean(Arc::new(content(seed))))
    }

    fn draft(seed: u8, generation: u64) -> Body {
        let prepared = Some(Arc::new(content(seed)));
        let draft = Draft { generation, size: 1, staging: Some(7), ready: true, prepared, ..Draft::empty() };
        Body::File(FileBody::Draft(Box::new(draft)))
    }

    /// A file that both sides have, as it was seen last.
    fn shared(rig: &mut Rig) -> (NodeId, State) {
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        (file, State::clone(rig.engine.local(file).unwrap()))
    }

    fn observe(rig: &mut Rig, node: NodeId, base: Option<&State>, found: Option<State>) -> Taken {
        let taken = rig.engine.observe(vec![Observation { node, base: base.cloned(), found }], NOW);
        rig.engine.check();
        taken
    }

    fn contents(rig: &Rig) -> Vec<(String, Option<u8>)> {
        let known =
            |id| (0..9).find(|seed| rig.engine.local(id).unwrap().body.content_hash() == Some(content(*seed).hash));
        rig.engine.children(ROOT).map(|(name, id)| (name.to_string(), known(id))).collect()
    }

    #[test]
    fn an_edit_of_what_was_seen_is_an_edit() {
        let mut rig = Rig::new();
        let (file, seen) = shared(&mut rig);
        observe(&mut rig, file, Some(&seen), Some(at(ROOT, "a", NOW.0 + 1, draft(2, 5))));
        assert!(rig.engine.local(file).unwrap().body.draft().is_some_and(|draft| draft.prepared.is_none()));
        rig.engine.prepared(file, 5, crate::PrepareAnswer::Ready(Arc::new(content(2))), NOW);
        assert!(matches!(rig.sync()[0][..], [Op::Update { id, .. }] if id == file));
        assert_eq!(contents(&rig), [("a".to_owned(), Some(2))]);
    }

    #[test]
    fn an_edit_that_crosses_an_unseen_one_is_kept_beside_it_or_it_beside_the_edit() {
        for (mtime, keeps_name) in [(NOW.0 - 9, false), (NOW.0 + 9, true)] {
            let mut rig = Rig::new();
            let (file, seen) = shared(&mut rig);
            rig.engine.remember_authors();
            rig.news(vec![rig.theirs(file, ROOT, "a", Some(3))]);
            let taken = observe(&mut rig, file, Some(&seen), Some(at(ROOT, "a", mtime, draft(2, 5))));
            let mine = if keeps_name { file } else { taken.moved[0].1 };
            rig.engine.prepared(mine, 5, crate::PrepareAnswer::Ready(Arc::new(content(2))), NOW);
            let mut found = contents(&rig);
            found.sort_by_key(|(name, _)| name.len());
            assert_eq!((found[0].0.as_str(), found[0].1), ("a", Some(if keeps_name { 2 } else { 3 })));
            assert_eq!(found[1].1, Some(if keeps_name { 3 } else { 2 }));
            assert!(
                found[1].0.contains(if keeps_name { "(conflict, there," } else { "(conflict, here," }),
                "{found:?}"
            );
        }
    }

    #[test]
    fn an_edit_to_the_unseen_bytes_is_no_conflict() {
        let mut rig = Rig::new();
        let (file, seen) = shared(&mut rig);
        rig.news(vec![rig.theirs(file, ROOT, "a", Some(3))]);
        observe(&mut rig, file, Some(&seen), Some(at(ROOT, "a", NOW.0 + 9, draft(3, 5))));
        assert_eq!(contents(&rig), [("a".to_owned(), Some(3))]);
    }

    #[test]
    fn an_unseen_edit_beats_a_removal_and_an_unseen_rename_does_not() {
        let mut rig = Rig::new();
        let (file, seen) = shared(&mut rig);
        rig.news(vec![rig.theirs(file, ROOT, "a", Some(3))]);
        observe(&mut rig, file, Some(&seen), None);
        assert_eq!(contents(&rig), [("a".to_owned(), Some(3))]);
        let seen = State::clone(rig.engine.local(file).unwrap());
        rig.news(vec![rig.theirs(file, ROOT, "b", Some(3))]);
        observe(&mut rig, file, Some(&seen), None);
        assert!(contents(&rig).is_empty());
    }

    #[test]
    fn an_edit_of_what_was_removed_unseen_is_a_new_file() {
        let mut rig = Rig::new();
        let (file, seen) = shared(&mut rig);
        rig.news(vec![rig.gone(file, syncmount_common::NodeKind::File)]);
        let taken = observe(&mut rig, file, Some(&seen), Some(at(ROOT, "a", NOW.0, draft(2, 5))));
        let new = taken.became[&file];
        rig.engine.prepared(new, 5, crate::PrepareAnswer::Ready(Arc::new(content(2))), NOW);
        assert!(matches!(rig.sync()[0][..], [Op::Create { id, base: 0, .. }] if id == new));
    }

    #[test]
    fn a_file_at_an_unseen_name_steps_aside_or_is_the_same() {
        for (seed, names) in [(2, 2), (3, 1)] {
            let mut rig = Rig::new();
            rig.news(vec![rig.theirs(id(9), ROOT, "a", Some(3))]);
            let new = rig.engine.fresh_id(NOW);
            let taken = observe(&mut rig, new, None, Some(at(ROOT, "a", NOW.0 - 100, draft(seed, 5))));
            assert_eq!(rig.names(ROOT).len(), names);
            assert_eq!(rig.engine.child(ROOT, b"a"), Some(id(9)));
            assert_eq!(taken.became.get(&new).copied(), (names == 1).then_some(id(9)));
        }
    }

    #[test]
    fn a_removed_directory_stays_for_what_was_not_seen_in_it() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "d");
        let old = rig.file(dir, "old", 1);
        rig.sync();
        let state = |rig: &Rig, id| State::clone(rig.engine.local(id).unwrap());
        let (seen_dir, seen_old) = (state(&rig, dir), state(&rig, old));
        rig.news(vec![rig.theirs(id(9), dir, "new", Some(3))]);
        let gone = |node, base: &State| Observation { node, base: Some(base.clone()), found: None };
        rig.engine.observe(vec![gone(dir, &seen_dir), gone(old, &seen_old)], NOW);
        rig.engine.check();
        assert_eq!((rig.names(ROOT), rig.names(dir)), (vec!["d".to_owned()], vec!["new".to_owned()]));
    }

    #[test]
    fn moves_that_need_each_others_names_are_one_step() {
        let mut rig = Rig::new();
        let (a, b) = (rig.file(ROOT, "a", 1), rig.file(ROOT, "b", 2));
        rig.sync();
        let state = |rig: &Rig, id| State::clone(rig.engine.local(id).unwrap());
        let (seen_a, seen_b) = (state(&rig, a), state(&rig, b));
        let to = |seen: &State, text: &str| at(ROOT, text, seen.attrs.mtime.0, seen.body.clone());
        let moves = [(a, &seen_a, "b"), (b, &seen_b, "a")].map(|(node, seen, text)| Observation {
            node,
            base: Some(seen.clone()),
            found: Some(to(seen, text)),
        });
        rig.engine.observe(moves.into(), NOW);
        rig.engine.check();
        assert_eq!(contents(&rig), [("a".to_owned(), Some(2)), ("b".to_owned(), Some(1))]);
        assert_eq!(rig.sync().len(), 1);
    }

    #[test]
    fn what_goes_while_its_creation_is_on_its_way_goes_at_the_server_too() {
        let mut rig = Rig::new();
        let new = rig.engine.fresh_id(NOW);
        let found = at(ROOT, "a", NOW.0, clean(1));
        observe(&mut rig, new, None, Some(found.clone()));
        let request = rig.send().expect("a commit");
        observe(&mut rig, new, Some(&found), None);
        rig.take(&request);
        assert!(matches!(rig.sync()[0][..], [Op::Remove { id, .. }] if id == new));
    }
}
