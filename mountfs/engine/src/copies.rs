//! Conflict copies beside their files: what they are called, and which of them become versions of their files.
//!
//! Programs take every name in some directories for theirs. In a directory that git uses, the name of a copy begins with a
//! dot, which git passes over; and of files that git makes again by itself no copy stays: it is removed once the server has
//! it. Of other files so many copies stay as a person can look through, and the device that makes more removes the oldest.
//! What is removed so goes among the versions of the file that it was a copy of.

use crate::conflict::{conflict_name, is_of_time, original_name};
use crate::engine::Engine;
use crate::feed::Before;
use crate::state::State;
use crate::tree::Entry;
use std::collections::{BTreeMap, BTreeSet};
use syncmount_common::name::NAME_LEN_MAX;
use syncmount_common::protocol::commit::{BecomesVersion, Op};
use syncmount_common::{Name, NodeId, NodeKind, Placement, Timestamp};

/// How many conflict copies of a file stay.
pub const COPIES_MAX: usize = 10;

/// How many files are remembered of which copies were made here. Of others the copies stay.
const COPIED_MAX: usize = 1000;

/// A place in a directory that git uses.
pub(crate) struct GitPlace<'a> {
    /// The directory with `HEAD`, `objects` and `refs`.
    pub(crate) repository: NodeId,
    /// The names from there to the directory of the place.
    path: Vec<&'a Name>,
}

impl GitPlace<'_> {
    /// Whether it lies in the store of objects, which name each other and never change.
    pub(crate) fn is_in_objects(&self) -> bool {
        self.path.first().is_some_and(|name| name.as_bytes() == b"objects")
    }

    /// Whether a file of this name there is one that git makes again, or that has nothing but what was done last.
    fn is_made_again(&self, name: &Name) -> bool {
        let path: Vec<&[u8]> = self.path.iter().map(|name| name.as_bytes()).collect();
        let path = match &path[..] {
            [b"worktrees", _, rest @ ..] => rest,
            whole => whole,
        };
        // The log of the stash is the list of what was stashed.
        if let [b"logs", ..] = path {
            return name.as_bytes() != b"stash";
        }
        matches!(
            (path, name.as_bytes()),
            ([], b"index" | b"FETCH_HEAD" | b"ORIG_HEAD" | b"COMMIT_EDITMSG" | b"gc.log")
                | ([b"objects", b"info"], b"commit-graph" | b"packs")
                | ([b"objects", b"info", b"commit-graphs"], _)
                | ([b"objects", b"pack"], b"multi-pack-index")
                | ([b"info"], b"refs")
        )
    }
}

impl Engine {
    /// What git uses the directory for, if it does.
    pub(crate) fn git_place(&self, dir: NodeId) -> Option<GitPlace<'_>> {
        let mut path = Vec::new();
        let mut at = dir;
        for _ in 0..self.len() {
            if self.is_repository(at) {
                path.reverse();
                return Some(GitPlace { repository: at, path });
            }
            let place = self.tree.get(at).and_then(known_state)?.names.first()?;
            path.push(&place.name);
            at = place.parent;
        }
        None
    }

    fn is_repository(&self, dir: NodeId) -> bool {
        let kind = |name: &[u8]| Some(self.tree.local(self.tree.child(dir, name)?)?.kind());
        let is_dir = |name: &[u8]| kind(name) == Some(NodeKind::Dir);
        is_dir(b"objects") && is_dir(b"refs") && kind(b"HEAD").is_some_and(|kind| kind != NodeKind::Dir)
    }

    /// A name for a conflict copy that is not taken.
    pub(crate) fn free_name(&self, parent: NodeId, name: &Name, device: &str, at: Timestamp) -> Name {
        let named = if self.git_place(parent).is_some() { hidden(name) } else { name.clone() };
        conflict_name(&named, device, at, |candidate| {
            let place = Placement { parent, name: candidate.clone() };
            // A copy may be in the way of another one: its own name is not free, whatever node has it at this moment.
            candidate == name
                || self.tree.child(parent, candidate.as_bytes()).is_some()
                || self.tree.displaced_at(&place).is_some()
        })
    }

    /// Whether what loses this place, a file, is only a version of what is there: git makes it again.
    pub(crate) fn is_made_again(&self, place: &Placement) -> bool {
        self.git_place(place.parent).is_some_and(|at| at.is_made_again(&place.name))
    }

    /// The server has these nodes, which are new to it or have new names there. Of those that are conflict copies of what git makes
    /// again none stays.
    pub(crate) fn remove_copies(&mut self, nodes: &[NodeId], now: Timestamp) {
        let is_copy = |id: &NodeId| self.is_conflict_copy(*id) && self.is_at_server(*id);
        let made_again = |id: &NodeId| self.copy_of(*id).is_some_and(|original| self.is_made_again(&original));
        let gone = nodes.iter().copied().filter(is_copy).filter(made_again).collect();
        self.become_versions_of_files(gone, now);
    }

    /// This device makes a conflict copy of what stands, or stood, at this place.
    pub(crate) fn remember_copied(&mut self, original: &Placement) {
        if self.copied_here.len() < COPIED_MAX {
            self.copied_here.insert(original.clone());
        }
    }

    /// Of conflict copies of files of which this device has made one, those beyond `max` of each file, the oldest first: the server
    /// has them as they were made. Others stay, and count.
    pub fn surplus_copies(&self, max: usize) -> Vec<NodeId> {
        if self.copied_here.is_empty() || self.conflicts.len() <= max {
            return Vec::new();
        }
        let mut copies: BTreeMap<Placement, Vec<(Timestamp, &Name, NodeId)>> = BTreeMap::new();
        for id in self.conflicts.iter().copied() {
            let Some(original) = self.copy_of(id).filter(|original| self.copied_here.contains(original)) else {
                continue;
            };
            let Some(state) = self.tree.local(id) else { continue };
            copies.entry(original).or_default().push((state.attrs.mtime, &state.names[0].name, id));
        }
        let mut surplus = Vec::new();
        for (original, mut all) in copies {
            let is_there = self.tree.child(original.parent, original.name.as_bytes()).is_some();
            let Some(older) = all.len().checked_sub(max).filter(|_| is_there) else { continue };
            all.sort_unstable();
            let is_as_made =
                |(at, name, id): &&(Timestamp, &Name, NodeId)| is_of_time(name, *at) && self.is_at_server(*id);
            surplus.extend(all[..older].iter().filter(is_as_made).map(|(_, _, id)| *id));
        }
        surplus
    }

    /// Removes conflict copies that the server has: what is in them goes among the versions of the files that they are copies of.
    pub fn become_versions_of_files(&mut self, gone: Vec<NodeId>, now: Timestamp) {
        if gone.is_empty() {
            return;
        }
        self.copies_removed += gone.len() as u64;
        let mut before = Before::default();
        for id in gone {
            self.vanish(id, &mut before, now);
        }
        self.report(before);
    }

    /// How many conflict copies have been removed since the start because they are versions of their files.
    pub fn copies_removed(&self) -> u64 {
        self.copies_removed
    }

    /// The place of the file that this one, which has one name, is a copy of.
    fn copy_of(&self, id: NodeId) -> Option<Placement> {
        let state = self.tree.local(id).filter(|state| state.kind() == NodeKind::File)?;
        let [place] = &state.names[..] else { return None };
        self.original_of(place)
    }

    /// The place of the file that a conflict copy was made of.
    fn original_of(&self, copy: &Placement) -> Option<Placement> {
        let named = original_name(&copy.name)?;
        let plain = named.as_bytes().strip_prefix(b".").and_then(|bytes| Name::new(bytes).ok());
        let is_there = |name: &Name| self.tree.child(copy.parent, name.as_bytes()).is_some();
        let plain = plain.filter(|_| !is_there(&named) && self.git_place(copy.parent).is_some());
        Some(Placement { parent: copy.parent, name: plain.unwrap_or(named) })
    }

    /// Whether the server has all that is to be known of a node.
    pub(crate) fn is_at_server(&self, id: NodeId) -> bool {
        self.tree.get(id).is_some_and(|entry| entry.is_shared() && entry.synced_state().is_some() && !entry.is_dirty())
    }

    /// Of the conflict copies that a batch removes: whose versions they become.
    pub(crate) fn become_versions(&self, ops: &[Op]) -> Vec<BecomesVersion> {
        let removed = ops.iter().filter(|op| matches!(op, Op::Remove { .. })).map(Op::id);
        let version = |id: NodeId| {
            let state = self.tree.get(id)?.synced_state()?;
            let [place] = &state.names[..] else { return None };
            (state.kind() == NodeKind::File).then_some(())?;
            Some(BecomesVersion { id, of: self.original_of(place)?.name })
        };
        removed.filter_map(version).collect()
    }
}

/// What the user sees of it, or saw.
fn known_state(entry: &Entry) -> Option<&State> {
    entry.local.as_deref().or(entry.synced_state().map(|state| &**state))
}

fn hidden(name: &Name) -> Name {
    if name.as_bytes().starts_with(b".") {
        return name.clone();
    }
    let cut = &name.as_bytes()[..name.as_bytes().len().min(NAME_LEN_MAX - 1)];
    Name::new([b".", cut].concat()).unwrap_or_else(|_| name.clone())
}

/// What keeps refs from going before the objects that they name: repositories with objects that cannot go yet.
pub(crate) struct WaitingRepositories {
    /// Directory -> its repository, and whether it is in the store of objects there.
    known: BTreeMap<NodeId, Option<(NodeId, bool)>>,
    waiting: BTreeSet<NodeId>,
}

impl WaitingRepositories {
    pub(crate) fn new() -> Self {
        Self { known: BTreeMap::new(), waiting: BTreeSet::new() }
    }

    /// Whether a node must not go because objects that were made before it have not gone.
    pub(crate) fn hold(&mut self, engine: &Engine, id: NodeId) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let is_there = engine.tree.get(id).is_some_and(|entry| entry.outgoing().is_some());
        // New objects do not wait for others, but a removal of old ones may mean that they are in the new.
        self.of(engine, id)
            .is_some_and(|(repository, objects)| self.waiting.contains(&repository) && !(objects && is_there))
    }

    /// The node cannot go now. What an object is made of before it has its name is no object.
    pub(crate) fn note(&mut self, engine: &Engine, id: NodeId) {
        let name = engine.tree.get(id).and_then(known_state).and_then(|state| Some(&state.names.first()?.name));
        if name.is_none_or(|name| name.as_bytes().starts_with(b"tmp_")) {
            return;
        }
        if let Some((repository, true)) = self.of(engine, id) {
            self.waiting.insert(repository);
        }
    }

    fn of(&mut self, engine: &Engine, id: NodeId) -> Option<(NodeId, bool)> {
        let parent = engine.tree.get(id).and_then(known_state)?.names.first()?.parent;
        *self.known.entry(parent).or_insert_with(|| {
            let place = engine.git_place(parent)?;
            Some((place.repository, place.is_in_objects()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{NOW, Rig, content, id, name};
    use crate::{Body, Draft, FileBody, PrepareAnswer};
    use std::sync::Arc;
    use syncmount_common::{Attrs, Node};

    const ROOT: NodeId = NodeId::ROOT;
    const NEWER: Timestamp = Timestamp(NOW.0 + 5);

    /// A rig with a directory that git uses.
    fn rig() -> (Rig, NodeId) {
        let mut rig = Rig::new();
        let git = rig.mkdir(ROOT, ".git");
        rig.file(git, "HEAD", 100);
        rig.mkdir(git, "objects");
        rig.mkdir(git, "refs");
        rig.sync();
        (rig, git)
    }

    fn newer(node: Node) -> Node {
        Node { attrs: Attrs { mtime: NEWER, ..node.attrs }, ..node }
    }

    fn sync_all(rig: &mut Rig) -> Vec<(Vec<Op>, Vec<BecomesVersion>)> {
        let mut batches = Vec::new();
        while let Some(request) = rig.send() {
            batches.push((request.ops.clone(), request.versions.clone()));
            rig.take(&request);
        }
        batches
    }

    fn is_removal(op: &Op) -> bool {
        matches!(op, Op::Remove { .. })
    }

    #[test]
    fn where_git_is_the_name_of_a_copy_begins_with_a_dot() {
        let (mut rig, git) = rig();
        let refs = rig.engine.child(git, b"refs").unwrap();
        let heads = rig.mkdir(refs, "heads");
        rig.sync();
        for (dir, dot) in [(heads, true), (git, true), (refs, true), (ROOT, false)] {
            let mine = rig.file(dir, "main", 1);
            rig.news(vec![rig.theirs(id(9), dir, "main", Some(2))]);
            let copy = rig.names(dir).into_iter().find(|name| name.contains("(conflict")).unwrap();
            assert_eq!(copy.starts_with(".main (conflict, there, "), dot, "{copy}");
            assert_eq!(rig.engine.child(dir, b"main"), Some(mine));
            rig.sync();
            rig.news(vec![rig.gone(id(9), NodeKind::File)]);
        }
    }

    #[test]
    fn a_copy_of_a_copy_has_one_dot_and_the_longest_name_still_has_it() {
        let (rig, git) = rig();
        let free = |text: &str| rig.engine.free_name(git, &name(text), "here", NOW).to_string();
        let copy = free("main");
        assert_eq!(free(&copy).strip_suffix(" 2)"), copy.strip_suffix(")"), "the same note with another number");
        assert!(free(&"x".repeat(255)).starts_with(".xxx"));
    }

    #[test]
    fn of_an_index_that_loses_here_a_version_stays_and_no_copy() {
        let (mut rig, git) = rig();
        let mine = rig.file(git, "index", 1);
        rig.news(vec![newer(rig.theirs(id(9), git, "index", Some(2)))]);
        assert_eq!(rig.engine.child(git, b"index"), Some(id(9)));
        let batches = sync_all(&mut rig);
        let (made, removed) = (&batches[0].0, &batches[1]);
        assert!(matches!(&made[..], [Op::Create { id, .. }] if *id == mine), "{made:?}");
        assert!(matches!(&removed.0[..], [Op::Remove { id, .. }] if *id == mine), "{removed:?}");
        assert_eq!(removed.1, [BecomesVersion { id: mine, of: name("index") }]);
        assert_eq!(rig.names(git), ["HEAD", "index", "objects", "refs"]);
        assert_eq!((rig.engine.copies_removed(), rig.engine.conflicts().count()), (1, 0));
    }

    #[test]
    fn of_an_index_that_loses_there_no_copy_is_made() {
        let (mut rig, git) = rig();
        let mine = rig.file(git, "index", 1);
        rig.news(vec![rig.theirs(id(9), git, "index", Some(2))]);
        assert_eq!(rig.names(git), ["HEAD", "index", "objects", "refs"]);
        assert_eq!(rig.engine.child(git, b"index"), Some(mine));
        let [(ops, versions)] = &sync_all(&mut rig)[..] else { panic!("one batch") };
        assert!(ops.iter().any(|op| is_removal(op) && op.id() == id(9)) && ops.len() == 2, "{ops:?}");
        assert!(versions.is_empty(), "it is a version of its name already");
        // The same where both have written into one file.
        rig.edit(mine, 3, NOW.0 + 9);
        let theirs = Node { content_rev: 100, ..rig.theirs(mine, git, "index", Some(4)) };
        rig.news(vec![theirs]);
        rig.sync();
        assert_eq!(rig.names(git), ["HEAD", "index", "objects", "refs"]);
        assert_eq!(rig.engine.local(mine).unwrap().body.content_hash(), Some(content(3).hash));
        assert_eq!(rig.engine.copies_removed(), 2);
    }

    #[test]
    fn a_copy_of_which_the_feed_tells_first_that_the_server_has_it_goes_too() {
        let (mut rig, git) = rig();
        let mine = rig.file(git, "index", 1);
        rig.news(vec![newer(rig.theirs(id(9), git, "index", Some(2)))]);
        let request = rig.send().unwrap();
        let copy = rig.engine.local(mine).unwrap().names[0].name.to_string();
        // The answer does not come before the end.
        rig.restart();
        assert_eq!(rig.names(git).len(), 5, "the server may not have it");
        assert_eq!(request.ops.len(), 1);
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        rig.news(vec![Rig::mine(Node { attrs, ..rig.theirs(mine, git, &copy, Some(1)) })]);
        assert_eq!(rig.names(git), ["HEAD", "index", "objects", "refs"]);
        let [(ops, versions)] = &sync_all(&mut rig)[..] else { panic!("one batch") };
        assert!(is_removal(&ops[0]) && versions.len() == 1, "{ops:?}");
        // What another device makes, that one removes.
        let theirs = rig.theirs(id(8), git, &copy, Some(3));
        rig.news(vec![theirs]);
        assert_eq!(rig.names(git).len(), 5);
    }

    #[test]
    fn a_file_that_was_sent_under_another_name_before_it_lost_goes_too() {
        let (mut rig, git) = rig();
        let mine = rig.file(git, "index.new", 1);
        rig.sync();
        rig.engine.rename((git, b"index.new"), (git, name("index")), crate::RenameMode::Replace, NOW).unwrap();
        rig.news(vec![newer(rig.theirs(id(9), git, "index", Some(2)))]);
        assert_eq!(rig.names(git).len(), 5);
        rig.sync();
        assert_eq!(rig.names(git), ["HEAD", "index", "objects", "refs"]);
        assert!(rig.engine.local(mine).is_none());
    }

    #[test]
    fn what_only_git_s_own_files_have_and_what_is_no_file_stays() {
        let (mut rig, git) = rig();
        let logs = rig.mkdir(git, "logs");
        let refs = rig.mkdir(logs, "refs");
        let objects = rig.engine.child(git, b"objects").unwrap();
        let info = rig.mkdir(objects, "info");
        let of_refs = rig.engine.child(git, b"refs").unwrap();
        let branches = rig.mkdir(of_refs, "logs");
        let worktrees = rig.mkdir(git, "worktrees");
        let of_worktree = rig.mkdir(worktrees, "w");
        let logs_of_worktree = rig.mkdir(of_worktree, "logs");
        rig.sync();
        for (dir, name, stays) in [
            (refs, "stash", true),
            (info, "alternates", true),
            (git, "packed-refs", true),
            // A branch may be called like the directory of logs.
            (branches, "main", true),
            (of_worktree, "HEAD", true),
            (of_worktree, "index", false),
            (logs_of_worktree, "HEAD", false),
            (logs, "HEAD", false),
        ] {
            rig.file(dir, name, 1);
            rig.news(vec![newer(rig.theirs(id(9), dir, name, Some(2)))]);
            rig.sync();
            let copy = format!(".{name} (conflict, ");
            assert_eq!(rig.names(dir).iter().any(|name| name.starts_with(&copy)), stays, "{name}");
            rig.news(vec![rig.gone(id(9), NodeKind::File)]);
        }
        // A directory that is called like a copy.
        let dir = rig.mkdir(logs, "HEAD (conflict, x, 2026-11-22 10.15.30)");
        rig.sync();
        assert!(rig.engine.local(dir).is_some());
    }

    /// A file, and `count` conflict copies of it that this device has made.
    fn with_copies(rig: &mut Rig, count: u8) -> NodeId {
        let file = rig.file(ROOT, "notes.txt", 0);
        rig.sync();
        for round in 1..=count {
            rig.edit(file, round, NOW.0 + 1_000_000_000 * i64::from(round));
            let mut theirs = rig.theirs(file, ROOT, "notes.txt", Some(100 + round));
            theirs.attrs.mtime = Timestamp(NOW.0 + 1_000_000_000 * i64::from(round) + 1);
            rig.news(vec![theirs]);
            assert!(sync_all(rig).iter().all(|(_, versions)| versions.is_empty()));
        }
        file
    }

    fn copies(rig: &Rig) -> Vec<String> {
        rig.names(ROOT).into_iter().filter(|name| name.contains("(conflict")).collect()
    }

    #[test]
    fn of_other_files_ten_copies_stay_and_older_ones_become_versions() {
        let mut rig = Rig::new();
        let file = with_copies(&mut rig, 13);
        let made = copies(&rig);
        assert_eq!((made.len(), rig.engine.surplus_copies(COPIES_MAX).len()), (13, 3));
        let surplus = rig.engine.surplus_copies(COPIES_MAX);
        rig.engine.become_versions_of_files(surplus, NOW);
        rig.drive();
        assert_eq!(copies(&rig), made[3..], "the oldest are gone");
        let versions: Vec<BecomesVersion> = sync_all(&mut rig).into_iter().flat_map(|(_, versions)| versions).collect();
        assert_eq!(versions.iter().map(|version| version.of.to_string()).collect::<Vec<_>>(), ["notes.txt"; 3]);
        assert!(rig.engine.surplus_copies(COPIES_MAX).is_empty() && rig.engine.local(file).is_some());
        assert_eq!(rig.engine.copies_removed(), 3);
        // What its user removes is a version of its file all the same.
        rig.engine.remove(ROOT, made[5].as_bytes(), false, NOW).unwrap();
        let versions: Vec<BecomesVersion> = sync_all(&mut rig).into_iter().flat_map(|(_, versions)| versions).collect();
        assert_eq!(versions.iter().map(|version| version.of.to_string()).collect::<Vec<_>>(), ["notes.txt"]);
    }

    #[test]
    fn copies_stay_that_were_changed_or_that_the_server_lacks_or_that_others_made() {
        let mut rig = Rig::new();
        let file = with_copies(&mut rig, 13);
        let named = |rig: &Rig, number: usize| rig.engine.child(ROOT, copies(rig)[number].as_bytes()).unwrap();
        // One that its user goes on with, sent and not sent.
        let (edited, unsent, dated) = (named(&rig, 0), named(&rig, 1), named(&rig, 2));
        rig.edit(edited, 70, NOW.0 + 90_000_000_000);
        rig.sync();
        rig.edit(unsent, 71, rig.engine.local(unsent).unwrap().attrs.mtime.0);
        assert_eq!(
            rig.engine.surplus_copies(COPIES_MAX),
            [dated, named(&rig, 3)],
            "the one that was changed is the newest now"
        );
        rig.sync();
        // Its name is another one.
        rig.engine
            .rename((ROOT, copies(&rig)[2].as_bytes()), (ROOT, name("mine.txt")), crate::RenameMode::Replace, NOW)
            .unwrap();
        rig.sync();
        assert!(!rig.engine.surplus_copies(COPIES_MAX).contains(&dated));
        // Without the file there is nothing that they could be versions of.
        rig.engine.remove(ROOT, b"notes.txt", false, NOW).unwrap();
        assert!(rig.engine.local(file).is_none() && rig.engine.surplus_copies(COPIES_MAX).is_empty());
        // A device that has made none of them removes none.
        let mut other = Rig::new();
        other.file(ROOT, "notes.txt", 0);
        other.sync();
        let theirs = (1..=13_u8).map(|round| {
            let at = Timestamp(NOW.0 + 1_000_000_000 * i64::from(round));
            let called = conflict_name(&name("notes.txt"), "other", at, |_| false).to_string();
            let node = other.theirs(id(round + 100), ROOT, &called, Some(round));
            Node { attrs: Attrs { mtime: at, ..node.attrs }, ..node }
        });
        let theirs = theirs.collect();
        other.news(theirs);
        assert_eq!((copies(&other).len(), other.engine.surplus_copies(COPIES_MAX).len()), (13, 0));
    }

    #[test]
    fn refs_go_after_their_objects_batch_by_batch() {
        let (mut rig, git) = rig();
        let (objects, refs) = (rig.engine.child(git, b"objects").unwrap(), rig.engine.child(git, b"refs").unwrap());
        let body = || Body::File(FileBody::Draft(Box::new(Draft { ready: true, size: 1, ..Draft::empty() })));
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let pack = rig.engine.create(objects, name("pack"), attrs, body(), NOW).unwrap();
        let main = rig.file(refs, "main", 1);
        rig.engine.prepared(pack, 0, PrepareAnswer::Ready(Arc::new(content(4))), NOW);
        rig.engine.ops_max = 1;
        let order: Vec<NodeId> = rig.sync().into_iter().flatten().map(|op| op.id()).collect();
        assert_eq!(order, [pack, main], "that it was prepared later does not put it behind");
    }

    #[test]
    fn refs_go_when_the_objects_before_them_can() {
        let (mut rig, git) = rig();
        let (objects, refs) = (rig.engine.child(git, b"objects").unwrap(), rig.engine.child(git, b"refs").unwrap());
        let old = rig.file(objects, "loose", 50);
        rig.sync();
        let body = || Body::File(FileBody::Draft(Box::new(Draft { ready: true, size: 1, ..Draft::empty() })));
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let pack = rig.engine.create(objects, name("pack"), attrs, body(), NOW).unwrap();
        let main = rig.file(refs, "main", 1);
        let other = rig.file(ROOT, "other", 2);
        let small = rig.file(objects, "small", 3);
        rig.engine.remove(objects, b"loose", false, NOW).unwrap();
        let sent = |batches: Vec<Vec<Op>>| batches.into_iter().flatten().map(|op| op.id()).collect::<BTreeSet<_>>();
        assert_eq!(sent(rig.sync()), BTreeSet::from([other, small]), "also no removal of what may be in the pack");
        rig.engine.prepared(pack, 0, PrepareAnswer::Ready(Arc::new(content(4))), NOW);
        assert_eq!(sent(rig.sync()), BTreeSet::from([pack, main, old]));
    }
}
