//! Names that stay on this machine: which they are, and what happens where they and the folder's own names meet.
//!
//! A node whose name is ignored is there for the user and never for the server: it has no part in what is sent, and
//! nothing that the feed brings removes it. All that lies in such a directory stays here too. Where a node crosses the
//! border its other side sees a creation or a removal: one that the server knows goes on here as a new node, so that what
//! happens there to the old one never meets it.

use crate::engine::{Engine, is_dir, is_due};
use crate::local::{Refusal, RenameMode};
use crate::output::Effect;
use crate::state::{Body, FileBody, State};
use crate::tree::Entry;
use serde::{Deserialize, Serialize};
use smallvec::smallvec;
use std::sync::Arc;
use syncmount_common::{Name, NodeId, NodeKind, Placement, Timestamp};

/// What a file with rules is called. It always travels.
pub const RULES_NAME: &[u8] = b".syncignore";

/// How long the removal of a file that was renamed to a name that stays here waits for another to take its place: editors
/// keep the old version so while they write the new one, and others should never see neither.
const REST_NS: i64 = 2_000_000_000;

/// How many nodes may cross the border with their directory at once.
const CROSSING_MAX: usize = 10_000;

/// Where a node belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Scope {
    /// In the folder.
    #[default]
    Shared,
    /// On this machine: its name is ignored, or that of a directory above.
    Ignored,
    /// The same, but it had to leave its name to a node of the folder. It stays here until its owner renames it.
    Aside,
    /// A directory that was removed elsewhere and stays here for what is in it. It is in the folder again as soon as
    /// something is made in it that is.
    Leftover,
}

/// Which names stay on this machine.
pub trait Rules: Send + Sync {
    /// Whether the name at the end of `path`, which begins in the folder's root, is ignored, `dir` if it is a directory's.
    fn is_ignored(&self, path: &[&Name], dir: bool) -> bool;
}

impl<F: Fn(&[&Name], bool) -> bool + Send + Sync> Rules for F {
    fn is_ignored(&self, path: &[&Name], dir: bool) -> bool {
        self(path, dir)
    }
}

/// Nothing is ignored.
pub(crate) struct NoRules;

impl Rules for NoRules {
    fn is_ignored(&self, _: &[&Name], _: bool) -> bool {
        false
    }
}

impl Engine {
    /// From now on these names stay here. They are what the files said when [`Engine::rules_version`] was `version`. If
    /// that is still so, the nodes that are there already are to be looked at by [`Engine::rescope`] before anything is
    /// sent; else the files are asked for once more. Answers [`Effect::ReadRules`], and is to be called at the start.
    pub fn set_rules(&mut self, rules: Arc<dyn Rules>, version: u64) {
        self.rules = rules;
        if version == self.rules_version {
            self.rules_asked = false;
            self.rescope_all();
        } else if self.rules_asked {
            self.queue(Effect::ReadRules);
        }
    }

    /// Grows whenever files with rules come, go, change or move.
    pub fn rules_version(&self) -> u64 {
        self.rules_version
    }

    /// The files with rules that travel.
    pub fn rule_files(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.rule_files.iter().copied()
    }

    /// Whether a node is on this machine only.
    pub fn stays_here(&self, id: NodeId) -> bool {
        self.tree.get(id).is_some_and(|entry| !entry.is_shared())
    }

    /// How many nodes are on this machine only.
    pub fn staying(&self) -> u64 {
        self.tree.staying_len() as u64
    }

    /// Looks at up to `most` nodes whether they belong where they are since the rules or their directories changed.
    /// Returns whether more are left.
    pub fn rescope(&mut self, most: usize) -> bool {
        for _ in 0..most {
            let Some((id, deep)) = self.to_rescope.pop_front() else { return false };
            self.rescope_first = self.rescope_first.saturating_sub(1);
            if deep {
                let children: Vec<NodeId> = self.tree.children(id).map(|(_, child)| child).collect();
                self.to_rescope.extend(children.into_iter().map(|child| (child, true)));
            }
            self.rescope_one(id);
        }
        !self.to_rescope.is_empty()
    }

    /// Whether nodes wait for [`Engine::rescope`].
    pub fn is_rescoping(&self) -> bool {
        !self.to_rescope.is_empty()
    }

    pub(crate) fn rescope_all(&mut self) {
        // What the server does not have yet is as if it were made now, and comes first: it must not be sent before.
        let unsent = |id: &NodeId| self.tree.get(*id).is_some_and(|entry| entry.synced.is_none());
        self.to_rescope = self.tree.dirty().filter(unsent).map(|id| (id, false)).collect();
        self.rescope_first = self.to_rescope.len();
        self.to_rescope.extend(self.tree.staying().map(|id| (id, false)));
    }

    fn rescope_one(&mut self, id: NodeId) {
        let Some(entry) = self.tree.get(id) else { return };
        let (scope, Some(state)) = (entry.scope, entry.local.clone()) else { return };
        if state.names.is_empty() || state.special().is_some() {
            return;
        }
        // Of several names each has to be one of the folder.
        let is_shared = |place: &Placement| self.scope_at(place, is_dir(&state)) == Scope::Shared;
        let belongs = if state.names.iter().all(is_shared) { Scope::Shared } else { Scope::Ignored };
        match (scope, belongs) {
            (Scope::Ignored, Scope::Shared) => self.release_to_folder(id),
            (Scope::Shared, Scope::Ignored) if self.is_unknown(id, entry) => {
                if let Ok(crossing) = self.may_leave(id) {
                    self.keep_here(crossing);
                }
            }
            _ => {}
        }
    }

    /// The nodes that a rename would take from the folder to where names stay here. Their bytes have to be wholly in
    /// staging files, or it is refused.
    pub fn leaving(&self, from: (NodeId, &[u8]), to: (NodeId, &Name), mode: RenameMode) -> Vec<NodeId> {
        let Some(id) = self.tree.child(from.0, from.1) else { return Vec::new() };
        let other = self.tree.child(to.0, to.1.as_bytes());
        let to = Placement { parent: to.0, name: to.1.clone() };
        let mut moves = vec![(id, to, other)];
        if let (RenameMode::Exchange, Some(other), Ok(name)) = (mode, other, Name::new(from.1)) {
            moves.push((other, Placement { parent: from.0, name }, Some(id)));
        }
        let leaves = |(id, to, other): &(NodeId, Placement, Option<NodeId>)| {
            !self.stays_here(*id) && self.scope_after(*id, to, *other) != Scope::Shared
        };
        moves.iter().filter(|step| leaves(step)).map(|(id, ..)| *id).collect()
    }

    /// Where a node belongs at a place that it takes from `other`. A name that the folder has goes on to be the folder's.
    pub(crate) fn scope_after(&self, id: NodeId, to: &Placement, other: Option<NodeId>) -> Scope {
        if self.tree.local(id).is_some_and(|state| state.special().is_some()) {
            return Scope::Ignored;
        }
        let is_taken = other.is_some_and(|other| !self.stays_here(other));
        if is_taken { Scope::Shared } else { self.scope_at(to, self.tree.is_dir(id)) }
    }

    /// Where a new node of this name would belong.
    pub(crate) fn scope_at(&self, place: &Placement, dir: bool) -> Scope {
        let above = self.tree.get(place.parent).map_or(Scope::Shared, |parent| parent.scope);
        match above {
            Scope::Ignored | Scope::Aside => Scope::Ignored,
            Scope::Shared | Scope::Leftover => {
                let mut path = self.names_to(place.parent);
                path.push(&place.name);
                if self.rules.is_ignored(&path, dir) { Scope::Ignored } else { Scope::Shared }
            }
        }
    }

    pub(crate) fn names_to(&self, id: NodeId) -> Vec<&Name> {
        let place = |id: &NodeId| self.tree.local(*id)?.names.first();
        let first = place(&id);
        let steps = std::iter::successors(first, |step| place(&step.parent)).take(self.tree.len());
        let mut names: Vec<&Name> = steps.map(|step| &step.name).collect();
        names.reverse();
        names
    }

    pub(crate) fn set_scope(&mut self, id: NodeId, scope: Scope) {
        if self.tree.get(id).is_some_and(|entry| entry.scope != scope) {
            self.tree.set_scope(id, scope);
            self.touch(id);
        }
    }

    /// Something of the folder is made in a directory: if that was only left over, it is in the folder again.
    pub(crate) fn revive(&mut self, dir: NodeId) {
        let mut at = dir;
        while let Some(entry) = self.tree.get(at).filter(|entry| entry.scope == Scope::Leftover) {
            let Some(parent) = entry.local.as_ref().and_then(|local| local.names.first()).map(|place| place.parent)
            else {
                return;
            };
            self.set_scope(at, Scope::Shared);
            at = parent;
        }
    }

    /// A node that stayed here belongs to the folder from now on. What is in it is looked at later.
    pub(crate) fn release_to_folder(&mut self, id: NodeId) {
        self.set_scope(id, Scope::Shared);
        if let Some(place) = self.tree.local(id).and_then(|state| state.names.first()) {
            self.revive(place.parent);
        }
        if self.draft(id).is_some_and(|draft| draft.ready && draft.prepared.is_none()) {
            self.to_prepare.push_back((id, false));
        }
        let children: Vec<NodeId> = self.tree.children(id).map(|(_, child)| child).collect();
        self.to_rescope.extend(children.into_iter().map(|child| (child, false)));
    }

    /// Whether a node of the folder may go where names stay here, and which nodes go along. What the server may know goes
    /// one by one only, and no bytes go that are not wholly in a staging file: nobody would keep them.
    pub(crate) fn may_leave(&self, id: NodeId) -> Result<Vec<NodeId>, Refusal> {
        let mut all = vec![id];
        let mut at = 0;
        while let Some(id) = all.get(at).copied() {
            let entry = self.tree.get(id).ok_or(Refusal::NotFound)?;
            let local = entry.local.as_ref().ok_or(Refusal::NotFound)?;
            let alone = all.len() == 1 && self.tree.is_empty_dir(id);
            if local.names.len() > 1 || !has_own_bytes(&local.body) || !(alone || self.is_unknown(id, entry)) {
                return Err(Refusal::OtherScope);
            }
            all.extend(self.tree.children(id).map(|(_, child)| child));
            if all.len() > CROSSING_MAX {
                return Err(Refusal::OtherScope);
            }
            at += 1;
        }
        Ok(all)
    }

    /// Whether the server cannot know of the node.
    fn is_unknown(&self, id: NodeId, entry: &Entry) -> bool {
        entry.synced.is_none()
            && !entry.offered
            && !self.is_in_flight(id)
            && !self.sent_before.contains(&id)
            && !self.unanswered.contains(&id)
    }

    fn keep_here(&mut self, nodes: Vec<NodeId>) {
        for id in nodes {
            self.set_scope(id, Scope::Ignored);
            self.failed.remove(&id);
        }
    }

    /// A node that has no places at the moment goes to one where names stay here. Returns as which node it goes on.
    pub(crate) fn leave(&mut self, id: NodeId, from: &Placement, to: &Placement, now: Timestamp) -> NodeId {
        let unknown = self.tree.get(id).is_some_and(|entry| self.is_unknown(id, entry));
        if unknown {
            self.set_place_detached(id, from, to, now);
            let nodes = self.may_leave(id).unwrap_or_else(|_| vec![id]);
            self.keep_here(nodes);
            return id;
        }
        let Some(local) = self.tree.local(id).cloned() else { return id };
        let new = self.new_id(now);
        self.keep_owner_here(id, new);
        self.drop_local(id, now);
        self.resting.insert(id, Timestamp(now.0.saturating_add(REST_NS)));
        let state = State { names: smallvec![to.clone()], ..State::clone(&local) };
        self.put_detached(new, Some(Arc::new(state)), None, now);
        self.set_scope(new, Scope::Ignored);
        new
    }

    /// Removals that have waited for long enough wait no more; whether there were any.
    pub(crate) fn end_rests(&mut self, now: Timestamp) -> bool {
        let before = self.resting.len();
        self.resting.retain(|_, until| !is_due(*until, now));
        self.resting.len() < before
    }

    /// Whether the node's removal waits for another node to take its place.
    pub(crate) fn is_resting(&self, id: NodeId) -> bool {
        self.resting.contains_key(&id)
            && self.tree.get(id).is_some_and(|entry| {
                let is_free = |place: &Placement| self.tree.shared_child(place).is_none();
                entry.local.is_none() && entry.synced_state().is_some_and(|state| state.names.iter().all(is_free))
            })
    }

    /// A file with rules came, went, changed or moved.
    pub(crate) fn ask_for_rules(&mut self) {
        self.rules_version += 1;
        if !self.rules_asked {
            self.rules_asked = true;
            self.queue(Effect::ReadRules);
        }
    }

    pub(crate) fn note_rules(&mut self, id: NodeId) {
        let is_file = |state: &&Arc<State>| {
            state.kind() == NodeKind::File && state.names.iter().any(|place| place.name.as_bytes() == RULES_NAME)
        };
        let is_one = self.tree.get(id).and_then(Entry::outgoing).filter(is_file).is_some();
        let was_one = if is_one { !self.rule_files.insert(id) } else { self.rule_files.remove(&id) };
        if is_one || was_one {
            self.ask_for_rules();
        }
    }

    /// A directory has moved: its rules count elsewhere, and others count for what is in it. (Without files there are none
    /// that tell one directory from another.)
    pub(crate) fn note_moved_dir(&mut self, id: NodeId) {
        if self.rule_files.iter().any(|file| self.tree.is_within(*file, id)) {
            self.ask_for_rules();
        }
        if !self.rule_files.is_empty() && self.tree.staying_len() > 0 {
            self.to_rescope.push_back((id, true));
        }
    }
}

/// Whether the bytes are in a staging file or are none.
fn has_own_bytes(body: &Body) -> bool {
    match body {
        Body::Dir | Body::Symlink(_) => true,
        Body::File(FileBody::Clean(_)) => false,
        Body::File(FileBody::Draft(draft)) => {
            let beneath = draft.base_len.min(draft.size);
            draft.base.is_none()
                || beneath == 0
                || draft.present.iter().any(|(start, end)| *start == 0 && *end >= beneath)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Renamed;
    use crate::rig::{NOW, Rig, content, id, name};
    use syncmount_common::protocol::commit::Op;
    use syncmount_common::{Attrs, ContentHash};

    const ROOT: NodeId = NodeId::ROOT;

    fn later() -> Timestamp {
        Timestamp(NOW.0 + REST_NS)
    }

    /// Names that end in `~` stay here.
    fn rig() -> Rig {
        let mut rig = Rig::new();
        rig.ignore(|path, _| path.iter().any(|name| name.as_bytes().ends_with(b"~")));
        rig
    }

    fn mv(rig: &mut Rig, from: (NodeId, &str), to: (NodeId, &str)) -> Result<Renamed, Refusal> {
        let done = rig.engine.rename((from.0, from.1.as_bytes()), (to.0, name(to.1)), RenameMode::Replace, NOW);
        rig.engine.check();
        done
    }

    fn hash(rig: &Rig, id: NodeId) -> Option<ContentHash> {
        rig.engine.local(id).and_then(|state| state.body.content_hash())
    }

    /// The operations of one batch, in the order of removal, creation, rest.
    fn sent(rig: &mut Rig) -> Vec<(&'static str, NodeId)> {
        let batches = rig.sync();
        assert!(batches.len() < 2, "one batch: {batches:?}");
        let told = batches.concat().into_iter().map(|op| match op {
            Op::Remove { id, .. } => ("remove", id),
            Op::Create { id, .. } => ("create", id),
            Op::Update { id, .. } => ("update", id),
        });
        let mut told: Vec<_> = told.collect();
        told.sort_by_key(|(what, _)| std::cmp::Reverse(*what));
        told
    }

    #[test]
    fn what_is_ignored_is_never_sent_and_stays_over_a_restart() {
        let mut rig = rig();
        let dir = rig.mkdir(ROOT, "d~");
        let (file, inner) = (rig.file(ROOT, "f~", 1), rig.file(dir, "inner", 2));
        assert!(rig.sync().is_empty());
        rig.drive();
        assert_eq!((rig.engine.pending(), rig.engine.staying()), (crate::Pending::default(), 3));
        rig.restart();
        assert!(rig.sync().is_empty());
        assert!([dir, file, inner].into_iter().all(|id| rig.engine.stays_here(id)));
        rig.edit(file, 3, NOW.0 + 1);
        rig.engine.remove(dir, b"inner", false, NOW).unwrap();
        rig.engine.remove(ROOT, b"d~", true, NOW).unwrap();
        assert!(rig.sync().is_empty());
        assert_eq!(rig.names(ROOT), ["f~"]);
    }

    #[test]
    fn a_save_through_a_name_that_stays_is_one_replacement() {
        let mut rig = rig();
        let old = rig.file(ROOT, "doc", 1);
        rig.sync();
        let new = rig.file(ROOT, "save~", 2);
        assert!(rig.sync().is_empty());
        let renamed = mv(&mut rig, (ROOT, "save~"), (ROOT, "doc")).unwrap();
        assert_eq!(renamed, Renamed { replaced: Some(old), became: Vec::new() });
        assert_eq!(sent(&mut rig), [("remove", old), ("create", new)]);
        assert_eq!((rig.names(ROOT), rig.engine.staying()), (vec!["doc".to_owned()], 0));
    }

    #[test]
    fn a_backup_by_rename_waits_for_the_new_version() {
        let mut rig = rig();
        let old = rig.file(ROOT, "doc", 1);
        rig.sync();
        rig.edit(old, 1, NOW.0);
        let Renamed { became, .. } = mv(&mut rig, (ROOT, "doc"), (ROOT, "doc~")).unwrap();
        let [(was, backup)] = became[..] else { panic!("{became:?}") };
        assert_eq!((was, hash(&rig, backup)), (old, Some(content(1).hash)));
        assert!(rig.sync().is_empty(), "others still see the old version");
        let new = rig.file(ROOT, "doc", 2);
        assert_eq!(sent(&mut rig), [("remove", old), ("create", new)]);
        rig.engine.remove(ROOT, b"doc~", false, NOW).unwrap();
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn a_rename_to_a_name_that_stays_is_a_removal_after_a_while() {
        let mut rig = rig();
        let old = rig.file(ROOT, "doc", 1);
        rig.sync();
        rig.edit(old, 1, NOW.0);
        mv(&mut rig, (ROOT, "doc"), (ROOT, "doc~")).unwrap();
        assert!(rig.engine.next_commit(NOW).is_none());
        assert!(!rig.engine.tick(NOW) && rig.engine.tick(later()), "it is time that says when");
        let request = rig.engine.next_commit(later()).unwrap();
        assert!(matches!(request.ops[..], [Op::Remove { id, .. }] if id == old));
        rig.take(&request);
        assert!(!rig.engine.tick(later()));
        assert_eq!(rig.names(ROOT), ["doc~"]);
        mv(&mut rig, (ROOT, "doc~"), (ROOT, "doc")).unwrap();
        assert_eq!(rig.sync().concat().len(), 1, "and back it is a creation");
    }

    #[test]
    fn an_edit_elsewhere_of_what_was_renamed_here_comes_back_beside_it() {
        let mut rig = rig();
        let old = rig.file(ROOT, "doc", 1);
        rig.sync();
        rig.edit(old, 1, NOW.0);
        let backup = mv(&mut rig, (ROOT, "doc"), (ROOT, "doc~")).unwrap().became[0].1;
        rig.news(vec![rig.theirs(old, ROOT, "doc", Some(2))]);
        assert_eq!(rig.names(ROOT), ["doc", "doc~"]);
        assert_eq!((hash(&rig, old), hash(&rig, backup)), (Some(content(2).hash), Some(content(1).hash)));
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn what_has_several_names_crosses_with_none_of_them() {
        let mut rig = rig();
        let here = rig.file(ROOT, "a~", 1);
        rig.engine.link(here, ROOT, name("b~"), NOW).unwrap();
        let there = rig.file(ROOT, "a", 2);
        rig.engine.link(there, ROOT, name("b"), NOW).unwrap();
        assert_eq!(rig.engine.link(here, ROOT, name("c"), NOW), Err(Refusal::OtherScope));
        assert_eq!(mv(&mut rig, (ROOT, "a~"), (ROOT, "c")), Err(Refusal::OtherScope));
        assert_eq!(mv(&mut rig, (ROOT, "a"), (ROOT, "c~")), Err(Refusal::OtherScope));
        assert_eq!(sent(&mut rig), [("create", there)]);
        rig.ignore(|path, _| path.iter().any(|name| name.as_bytes() == b"a~"));
        assert!(rig.engine.stays_here(here), "as long as one of its names does");
        rig.ignore(|_, _| false);
        assert_eq!(sent(&mut rig), [("create", here)]);
    }

    #[test]
    fn what_nobody_would_keep_does_not_leave_the_folder() {
        let mut rig = rig();
        let (dir, full) = (rig.mkdir(ROOT, "d"), rig.mkdir(ROOT, "full"));
        rig.file(ROOT, "clean", 1);
        rig.file(full, "f", 2);
        rig.sync();
        assert_eq!(mv(&mut rig, (ROOT, "clean"), (ROOT, "clean~")), Err(Refusal::OtherScope), "bytes of the server");
        assert_eq!(mv(&mut rig, (ROOT, "full"), (ROOT, "full~")), Err(Refusal::OtherScope), "a tree of the server");
        let became = mv(&mut rig, (ROOT, "d"), (ROOT, "d~")).unwrap().became;
        assert!(became[0].0 == dir && rig.engine.stays_here(became[0].1));
        let fresh = rig.mkdir(ROOT, "fresh");
        let inner = rig.file(fresh, "inner", 3);
        assert_eq!(mv(&mut rig, (ROOT, "fresh"), (became[0].1, "moved")), Ok(Renamed::default()));
        assert!(rig.engine.stays_here(fresh) && rig.engine.stays_here(inner));
    }

    #[test]
    fn a_tree_that_moves_out_travels_but_for_what_is_ignored_there_too() {
        let mut rig = rig();
        let dir = rig.mkdir(ROOT, "d~");
        let inner = rig.mkdir(dir, "inner");
        let (file, backup) = (rig.file(inner, "f", 1), rig.file(inner, "f~", 2));
        mv(&mut rig, (dir, "inner"), (ROOT, "out")).unwrap();
        rig.drive();
        let sent: Vec<NodeId> = sent(&mut rig).into_iter().map(|(_, id)| id).collect();
        assert_eq!(std::collections::BTreeSet::from_iter(sent), [inner, file].into());
        assert!(rig.engine.stays_here(backup));
    }

    #[test]
    fn a_rule_is_for_names_that_the_folder_does_not_have() {
        let mut rig = Rig::new();
        let (old, dir) = (rig.file(ROOT, "old~", 1), rig.mkdir(ROOT, "d~"));
        rig.sync();
        let unsent = rig.file(ROOT, "unsent~", 2);
        rig.ignore(|path, _| path.iter().any(|name| name.as_bytes().ends_with(b"~")));
        assert!(rig.engine.stays_here(unsent) && !rig.engine.stays_here(old));
        rig.edit(old, 3, NOW.0 + 1);
        assert_eq!(sent(&mut rig), [("update", old)]);
        let fresh = rig.file(dir, "fresh", 4);
        assert!(rig.engine.stays_here(fresh), "new in a directory of that name");
        let save = rig.file(ROOT, "save~", 5);
        mv(&mut rig, (ROOT, "save~"), (ROOT, "old~")).unwrap();
        assert_eq!(sent(&mut rig), [("remove", old), ("create", save)], "the folder has the name");
        rig.news(vec![rig.theirs(id(9), ROOT, "theirs~", Some(6))]);
        assert!(!rig.engine.stays_here(id(9)), "what others have brought is in the folder");
        rig.ignore(|_, _| false);
        assert_eq!(rig.engine.staying(), 0);
        assert_eq!(rig.sync().concat().len(), 2, "a rule that goes lets names travel");
    }

    #[test]
    fn a_name_that_the_folder_claims_is_left_to_it() {
        let mut rig = rig();
        let dir = rig.mkdir(ROOT, "d~");
        let (file, inner) = (rig.file(ROOT, "f~", 1), rig.file(dir, "inner", 2));
        rig.news(vec![rig.theirs(id(9), ROOT, "f~", Some(3)), rig.theirs(id(8), ROOT, "d~", None)]);
        assert_eq!((rig.engine.child(ROOT, b"f~"), rig.engine.child(ROOT, b"d~")), (Some(id(9)), Some(id(8))));
        assert_eq!(rig.engine.child(id(8), b"inner"), Some(inner), "directories are one");
        let aside = rig.engine.local(file).unwrap().names[0].name.clone();
        assert!(aside.to_string().starts_with("f~ (conflict"), "{aside}");
        assert!(
            rig.engine.stays_here(file) && rig.engine.stays_here(inner) && hash(&rig, file) == Some(content(1).hash)
        );
        rig.restart();
        assert!(rig.sync().is_empty() && rig.engine.stays_here(file));
        mv(&mut rig, (ROOT, &aside.to_string()), (ROOT, "mine")).unwrap();
        assert_eq!(sent(&mut rig), [("create", file)], "its owner gave it a name");
    }

    #[test]
    fn a_directory_that_was_removed_elsewhere_stays_for_what_stays_in_it() {
        let mut rig = rig();
        let outer = rig.mkdir(ROOT, "outer");
        let dir = rig.mkdir(outer, "dir");
        let file = rig.file(dir, "file", 1);
        rig.sync();
        let backup = rig.file(dir, "file~", 2);
        let mut gone =
            vec![rig.gone(file, NodeKind::File), rig.gone(dir, NodeKind::Dir), rig.gone(outer, NodeKind::Dir)];
        gone.iter_mut().zip(0..).for_each(|(node, more)| node.rev += more);
        rig.news(gone);
        assert!(rig.sync().is_empty(), "others do not see it again");
        assert_eq!(rig.engine.child(dir, b"file~"), Some(backup));
        rig.restart();
        assert_eq!(rig.names(dir), ["file~"]);
        let new = rig.file(dir, "new", 3);
        let made: Vec<NodeId> = sent(&mut rig).into_iter().map(|(_, id)| id).collect();
        assert_eq!(std::collections::BTreeSet::from_iter(made), [outer, dir, new].into(), "it is in the folder again");
        assert!(rig.engine.stays_here(backup));
    }

    #[test]
    fn what_was_left_over_is_the_folders_again_when_that_has_it_again() {
        let mut rig = rig();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        let backup = rig.file(dir, "file~", 2);
        rig.news(vec![rig.gone(dir, NodeKind::Dir)]);
        assert!(rig.engine.stays_here(dir));
        rig.news(vec![rig.gone(dir, NodeKind::Dir)]);
        assert_eq!(rig.engine.child(dir, b"file~"), Some(backup));
        rig.news(vec![Rig::mine(rig.theirs(dir, ROOT, "dir", None))]);
        assert!(!rig.engine.stays_here(dir) && rig.engine.child(dir, b"file~") == Some(backup));
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn another_history_does_not_touch_what_stays() {
        let mut rig = rig();
        let dir = rig.mkdir(ROOT, "dir");
        let backup = rig.file(dir, "f~", 1);
        rig.sync();
        rig.engine.begin_resync();
        rig.page(Vec::new(), 3, false);
        rig.drive();
        assert_eq!(rig.engine.child(dir, b"f~"), Some(backup));
        assert!(rig.engine.stays_here(backup));
        assert_eq!(sent(&mut rig), [("create", dir)], "what the folder had is given back to it");
    }

    #[test]
    fn what_may_not_be_removed_comes_back_beside_what_stays() {
        let mut rig = rig();
        let file = rig.file(ROOT, "doc", 1);
        rig.file(ROOT, "other", 2);
        rig.sync();
        rig.edit(file, 1, NOW.0);
        let backup = mv(&mut rig, (ROOT, "doc"), (ROOT, "doc~")).unwrap().became[0].1;
        let refused = rig.engine.next_commit(later()).unwrap();
        rig.hold(&refused, true);
        assert_eq!(rig.names(ROOT), ["doc", "doc~", "other"]);
        assert!(hash(&rig, backup) == Some(content(1).hash) && rig.sync().is_empty());
    }

    #[test]
    fn a_swap_across_the_border_changes_both_sides() {
        let mut rig = rig();
        let file = rig.file(ROOT, "doc", 1);
        rig.sync();
        rig.edit(file, 1, NOW.0);
        let other = rig.file(ROOT, "doc~", 2);
        let done = rig.engine.rename((ROOT, b"doc"), (ROOT, name("doc~")), RenameMode::Exchange, NOW).unwrap();
        assert_eq!(
            (rig.engine.child(ROOT, b"doc"), rig.engine.child(ROOT, b"doc~")),
            (Some(other), Some(done.became[0].1))
        );
        assert_eq!(sent(&mut rig), [("remove", file), ("create", other)]);
    }

    #[test]
    fn what_was_sent_without_an_answer_and_renamed_then_goes_at_the_server_too() {
        let mut rig = rig();
        let file = rig.file(ROOT, "doc", 1);
        rig.drive();
        let request = rig.send().unwrap();
        let backup = mv(&mut rig, (ROOT, "doc"), (ROOT, "doc~")).unwrap().became[0].1;
        rig.take(&request);
        assert!(rig.sync().is_empty());
        let removal = rig.engine.next_commit(later()).unwrap();
        assert!(matches!(removal.ops[..], [Op::Remove { id, .. }] if id == file));
        assert_eq!(rig.engine.child(ROOT, b"doc~"), Some(backup));
    }

    #[test]
    fn files_with_rules_are_known_and_nothing_is_sent_before_they_are_read() {
        let mut rig = Rig::new();
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let rules = rig.engine.create(
            ROOT,
            name(".syncignore"),
            attrs,
            Body::File(FileBody::Draft(Box::new(crate::Draft::empty()))),
            NOW,
        );
        assert_eq!(rig.engine.rule_files().collect::<Vec<_>>(), [rules.unwrap()]);
        rig.file(ROOT, "a", 1);
        assert!(rig.send().is_none(), "they may say that it stays here");
        let asked = std::iter::from_fn(|| rig.engine.poll(NOW)).filter(|effect| *effect == Effect::ReadRules).count();
        assert_eq!(asked, 1);
        rig.ignore(|_, _| false);
        assert!(rig.send().is_some());
    }

    #[test]
    fn rules_of_a_place_count_for_what_moves_there_and_go_with_their_directory() {
        let mut rig = Rig::new();
        // Below a directory `in`, and in the one with the file, names that end in `~` stay here.
        rig.ignore(|path, _| {
            path.len() > 1 && path[0].as_bytes() == b"in" && path.last().unwrap().as_bytes().ends_with(b"~")
        });
        let (inside, dir) = (rig.mkdir(ROOT, "in"), rig.mkdir(ROOT, "dir"));
        rig.file(ROOT, ".syncignore", 9);
        rig.drive();
        let (kept, free) = (rig.file(inside, "kept~", 1), rig.file(dir, "free~", 2));
        rig.sync();
        assert!(rig.engine.stays_here(kept) && !rig.engine.stays_here(free));
        mv(&mut rig, (ROOT, "in"), (ROOT, "out")).unwrap();
        assert!(rig.engine.is_rescoping());
        while rig.engine.rescope(1) {}
        assert!(!rig.engine.stays_here(kept), "no rule keeps it here any more");
        rig.sync();
        mv(&mut rig, (ROOT, "dir"), (ROOT, "in")).unwrap();
        while rig.engine.rescope(1) {}
        assert!(!rig.engine.stays_here(free), "what the folder has stays in step");
    }
}
