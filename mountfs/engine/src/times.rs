//! When nodes were changed, for a mount that shows it: the mtimes of directories move with their entries.
//!
//! The server keeps the mtime of a directory and moves it with each change of an entry, without a rev. What it says is part of
//! what both sides agreed on. A change made here shows at once, beside the tree, until the server has taken it. Folders that
//! are watched have times of their own on their disk: nothing here concerns them.

use crate::engine::{Engine, is_dir};
use crate::output::Effect;
use crate::state::State;
use crate::tree::{Entry, Synced};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use syncmount_common::node::TouchedDir;
use syncmount_common::protocol::commit::{Op, TOUCHED_MAX};
use syncmount_common::{Attrs, NodeId, Placement, Timestamp};

/// By how much the mtime of a directory grows at least with a change of its entries, in nanoseconds. A server does the same.
const STEP_NS: i64 = 1000;

/// What is known of times beside the tree.
#[derive(Default)]
pub(crate) struct Times {
    /// A mount shows them.
    pub(crate) shown: bool,
    /// Mtimes of directories because of changes that the server has not taken yet.
    here: HashMap<NodeId, Timestamp>,
    /// Directories whose mtime, with what `here` says, counts all that was done to their entries here, as long as something
    /// is to be sent. When a node was changed does not tell when its name was.
    settled: HashMap<NodeId, Settled>,
}

/// What the mtime of a directory comes from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settled {
    /// A change of its entries. Each commit with such changes moves it, so that all devices see that there are some.
    Entries,
    /// A program has set it after all of them, and it stays.
    Set,
}

/// An mtime behind another one.
fn behind(time: Timestamp) -> Timestamp {
    Timestamp(time.0.saturating_add(STEP_NS))
}

fn with_mtime(state: &State, mtime: Timestamp) -> Arc<State> {
    Arc::new(State { attrs: Attrs { mtime, ..state.attrs }, ..state.clone() })
}

/// Directories in which a node has another name, or none, than before.
fn dirs_between<'a>(before: &'a [Placement], after: &'a [Placement]) -> impl Iterator<Item = NodeId> + 'a {
    let gone = before.iter().filter(|place| !after.contains(place));
    gone.chain(after.iter().filter(|place| !before.contains(place))).map(|place| place.parent)
}

/// Directories in which what the server is to have of a node differs from what it has.
fn unsent_dirs(entry: &Entry) -> Vec<NodeId> {
    let (before, after) = (entry.synced_state(), entry.outgoing());
    dirs_between(before.map_or(&[], |state| &*state.names), after.map_or(&[], |state| &*state.names)).collect()
}

impl Engine {
    /// From now on a node that the feed brings has the time at which it was changed where that was done, and the mtimes of
    /// directories move with their entries. To be called before anything else.
    pub fn show_times(&mut self) {
        self.times.shown = true;
        let unsent: Vec<_> = self.tree.dirty().filter_map(|id| self.tree.get(id)).collect();
        let moved: Vec<(NodeId, Timestamp)> =
            unsent.iter().flat_map(|entry| unsent_dirs(entry).into_iter().map(|dir| (dir, entry.changed))).collect();
        for (dir, at) in moved {
            // What the server does not have is kept with its mtime.
            let is_there = self.tree.get(dir).is_some_and(|entry| entry.synced_state().is_some());
            if is_there && !self.is_set_since(dir, at) {
                self.entries_changed(dir, at);
            }
        }
    }

    /// The mtime that a directory shows if its entries have changes which the server has not taken yet.
    pub fn entries_mtime(&self, dir: NodeId) -> Option<Timestamp> {
        let here = *self.times.here.get(&dir)?;
        Some(self.tree.local(dir).map_or(here, |local| local.attrs.mtime.max(here)))
    }

    /// An entry of a directory came, went or was renamed here.
    pub(crate) fn entries_changed(&mut self, dir: NodeId, at: Timestamp) {
        if !self.times.shown {
            return;
        }
        let Some(entry) = self.tree.get(dir) else { return };
        let Some(local) = entry.local.clone().filter(|local| is_dir(local)) else { return };
        let at = at.max(behind(self.entries_mtime(dir).unwrap_or(local.attrs.mtime)));
        if entry.synced_state().is_none() && !self.is_in_flight(dir) {
            // It goes to the server with this mtime.
            self.tree.set_dir_mtime(dir, with_mtime(&local, at), at);
            self.touch(dir);
        } else {
            self.times.here.insert(dir, at);
        }
        self.times.settled.insert(dir, Settled::Entries);
    }

    /// Before a node changes: its names may, without a call that says when.
    pub(crate) fn unsettle(&mut self, id: NodeId, after: Option<&State>) {
        if self.times.settled.is_empty() {
            return;
        }
        let before = self.tree.get(id).and_then(|entry| entry.local.as_ref());
        let (before, after) =
            (before.map_or(&[][..], |state| &state.names), after.map_or(&[][..], |state| &state.names));
        for dir in dirs_between(before, after) {
            self.times.settled.remove(&dir);
        }
    }

    /// A program sets the mtime of a directory: changes of its entries before that do not count. Returns what the server will have
    /// before it hears of that.
    pub(crate) fn mtime_is_set(&mut self, dir: NodeId, to: Timestamp, synced: Option<Synced>) -> Option<Synced> {
        let shown = self.entries_mtime(dir).or_else(|| Some(self.tree.local(dir)?.attrs.mtime));
        self.times.here.remove(&dir);
        // A change of the mode alone leaves it.
        if self.times.shown && shown != Some(to) {
            self.times.settled.insert(dir, Settled::Set);
        }
        let on_its_way = self.in_flight.as_ref().and_then(|batch| batch.touches(dir));
        match (on_its_way, synced) {
            (Some(mtime), Some(Synced { state: Some(state), rev, content_rev })) => {
                let state = with_mtime(&state, mtime.max(behind(state.attrs.mtime)));
                Some(Synced { rev, content_rev, state: Some(state) })
            }
            (_, synced) => synced,
        }
    }

    /// A directory changes otherwise, and what shows of its entries goes with that: after a start it could not be told from what was
    /// set.
    pub(crate) fn keep_entries_mtime(&mut self, dir: NodeId) {
        let Some(shown) = self.entries_mtime(dir) else { return };
        self.times.here.remove(&dir);
        let Some(entry) = self.tree.get(dir) else { return };
        let Some(local) = entry.local.clone() else { return };
        let (synced, changed) = (entry.synced.clone(), entry.changed);
        self.put(dir, Some(with_mtime(&local, shown)), synced, changed);
    }

    /// Whether the mtime of a directory was set after the change of an entry at `at`, as far as can be known after a start.
    fn is_set_since(&self, dir: NodeId, at: Timestamp) -> bool {
        let set = |entry: &Entry| Some(entry.local.as_ref()?.attrs.mtime != entry.changed && entry.changed >= at);
        self.tree.get(dir).and_then(set).unwrap_or(false)
    }

    /// What the mtimes are of directories in which these operations make, move or remove entries.
    pub(crate) fn touched_by(&self, ops: &[Op]) -> Vec<TouchedDir> {
        if !self.times.shown {
            return Vec::new();
        }
        let set = |op: &&Op| matches!(op, Op::Create { .. } | Op::Update { attrs: Some(_), .. });
        let set: BTreeSet<NodeId> = ops.iter().filter(set).map(Op::id).collect();
        let mut dirs: BTreeMap<NodeId, Timestamp> = BTreeMap::new();
        for entry in ops.iter().filter_map(|op| self.tree.get(op.id())) {
            for dir in unsent_dirs(entry).into_iter().filter(|dir| !set.contains(dir)) {
                let at = dirs.entry(dir).or_insert(entry.changed);
                *at = (*at).max(entry.changed);
            }
        }
        let touched = dirs.into_iter().map(|(dir, at)| TouchedDir { dir, mtime: self.mtime_to_tell(dir, at) });
        touched.take(TOUCHED_MAX).collect()
    }

    /// The mtime of a directory with changes that are sent, the last of which was made at `at`: as it shows here, or what it was set
    /// to since if the server has that. A node that was changed after its name was is no change of its directory.
    fn mtime_to_tell(&self, dir: NodeId, at: Timestamp) -> Timestamp {
        let agreed = |entry: &Entry| {
            let local = entry.local.as_ref()?.attrs.mtime;
            entry.synced_state().filter(|synced| synced.attrs.mtime == local).map(|_| local)
        };
        let agreed = self.tree.get(dir).and_then(agreed);
        let told = match self.times.settled.get(&dir) {
            Some(Settled::Set) => agreed,
            Some(Settled::Entries) => agreed.map(behind),
            None => agreed.filter(|_| self.is_set_since(dir, at)),
        };
        self.times.here.get(&dir).copied().or(told).unwrap_or(at)
    }

    /// The server has taken changes with which these directories have these mtimes.
    pub(crate) fn touched_are_taken(&mut self, touched: &[TouchedDir]) {
        for TouchedDir { dir, mtime } in touched {
            if self.times.here.get(dir) == Some(mtime) {
                self.times.here.remove(dir);
            }
            let was = self.tree.get(*dir).and_then(Entry::synced_state).map(|state| state.attrs.mtime);
            if let Some(was) = was.filter(|was| was != mtime) {
                self.agree_on_mtime(*dir, (*mtime).max(behind(was)));
            }
        }
        if self.tree.dirty_len() == 0 {
            self.times.settled = HashMap::new();
        }
    }

    /// The server says that directories have these mtimes now.
    pub(crate) fn touched_are_told(&mut self, touched: BTreeMap<NodeId, Timestamp>) {
        if !self.times.shown {
            return;
        }
        for (dir, mtime) in touched {
            self.mtime_came(dir, mtime);
            if self.agree_on_mtime(dir, mtime) {
                let changed = crate::output::Changed {
                    node: dir,
                    places: Vec::new(),
                    content: false,
                    removed: false,
                    last_attrs: None,
                };
                self.queue(Effect::Changed(changed));
            }
        }
    }

    /// Both sides agree on the mtime of a directory, which stays what it was set to here if it was. Whether that changes anything.
    fn agree_on_mtime(&mut self, dir: NodeId, mtime: Timestamp) -> bool {
        let Some(entry) = self.tree.get(dir) else { return false };
        let (local, Some(synced)) = (entry.local.clone(), entry.synced.clone()) else { return false };
        let Some(agreed) = synced.state.clone().filter(|state| is_dir(state) && state.attrs.mtime != mtime) else {
            return false;
        };
        let changed = entry.changed.max(mtime);
        let new = with_mtime(&agreed, mtime);
        let Some(local) = local else {
            // It was removed here, and may come back as the server has it.
            let changed = entry.changed;
            self.put(dir, None, Some(Synced { state: Some(new), ..synced }), changed);
            return false;
        };
        let local = match &local {
            local if *local == agreed => new.clone(),
            local if local.attrs.mtime == agreed.attrs.mtime => with_mtime(local, mtime),
            local => local.clone(),
        };
        self.put(dir, Some(local), Some(Synced { state: Some(new), ..synced }), changed);
        true
    }

    /// The feed has brought another mtime of a directory. What is changed here and not sent is later.
    pub(crate) fn mtime_came(&mut self, dir: NodeId, mtime: Timestamp) {
        if let Some(here) = self.times.here.get_mut(&dir) {
            *here = (*here).max(behind(mtime));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::RenameMode;
    use crate::rig::{NOW, Rig, id, name};
    use std::sync::Arc;
    use syncmount_common::node::TouchedDir;
    use syncmount_common::protocol::commit::Op;
    use syncmount_common::{Attrs, NodeId, Timestamp};

    const ROOT: NodeId = NodeId::ROOT;

    fn later(by: i64) -> Timestamp {
        Timestamp(NOW.0 + by)
    }

    fn shown(rig: &Rig, dir: NodeId) -> Timestamp {
        rig.engine.entries_mtime(dir).unwrap_or(rig.engine.local(dir).unwrap().attrs.mtime)
    }

    fn make(rig: &mut Rig, dir: NodeId, text: &str, at: Timestamp) {
        rig.engine.create(dir, name(text), Attrs { mode: 0o755, mtime: at }, crate::Body::Dir, at).unwrap();
    }

    #[test]
    fn what_is_done_in_a_directory_shows_at_once_and_is_what_the_server_gets() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        make(&mut rig, dir, "a", later(5_000_000));
        assert_eq!(shown(&rig, dir), later(5_000_000));
        let request = rig.send().unwrap();
        assert_eq!(request.touched, [TouchedDir { dir, mtime: later(5_000_000) }]);
        assert_eq!(request.times, [later(5_000_000)]);
        // While that is on its way, by a clock that was set back.
        make(&mut rig, dir, "b", NOW);
        assert_eq!(shown(&rig, dir), later(5_001_000));
        rig.take(&request);
        assert_eq!(shown(&rig, dir), later(5_001_000));
        let request = rig.send().unwrap();
        assert_eq!((request.ops.len(), &*request.touched), (1, &[TouchedDir { dir, mtime: later(5_001_000) }][..]));
        rig.take(&request);
        assert!(rig.sync().is_empty() && rig.engine.entries_mtime(dir).is_none());
        rig.drive();
        rig.restart();
        assert_eq!(rig.engine.local(dir).unwrap().attrs.mtime, later(5_001_000), "kept");
    }

    #[test]
    fn a_directory_that_was_removed_here_comes_back_with_the_mtime_it_has_at_the_server() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        rig.engine.remove(ROOT, b"dir", true, NOW).unwrap();
        rig.touched(Vec::new(), vec![TouchedDir { dir, mtime: later(5000) }]);
        assert!(rig.engine.local(dir).is_none());
        let request = rig.send().unwrap();
        rig.hold(&request, true);
        assert_eq!(rig.engine.local(dir).unwrap().attrs.mtime, later(5000));
    }

    #[test]
    fn a_directory_that_the_server_does_not_have_goes_there_with_its_mtime() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        make(&mut rig, dir, "a", later(7000));
        let request = rig.send().unwrap();
        let sent = |op: &Op| matches!(op, Op::Create { id, attrs, .. } if *id == dir && attrs.mtime == later(7000));
        assert!(
            request.ops.iter().any(sent) && request.touched.iter().all(|touched| touched.dir == ROOT),
            "{request:?}"
        );
        make(&mut rig, dir, "b", later(9000));
        rig.take(&request);
        let batches = rig.sync();
        assert_eq!(batches.concat().len(), 1, "the directory itself has not changed: {batches:?}");
        assert_eq!(shown(&rig, dir), later(9000));
    }

    #[test]
    fn what_is_set_after_entries_goes_after_them_though_it_was_the_same_before() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        let attrs = rig.engine.local(dir).unwrap().attrs;
        make(&mut rig, dir, "a", later(7000));
        rig.engine.set_attrs(dir, attrs, later(8000)).unwrap();
        assert_eq!(shown(&rig, dir), attrs.mtime);
        let request = rig.send().unwrap();
        assert_eq!((request.ops.len(), &*request.touched), (1, &[TouchedDir { dir, mtime: attrs.mtime }][..]));
        rig.take(&request);
        assert_eq!(shown(&rig, dir), attrs.mtime);
        // Set while the entry is on its way.
        make(&mut rig, dir, "b", later(9000));
        let request = rig.send().unwrap();
        rig.engine.set_attrs(dir, attrs, later(9500)).unwrap();
        rig.take(&request);
        assert_eq!(shown(&rig, dir), attrs.mtime);
        let ops = rig.sync().concat();
        let is_set = |op: &Op| matches!(op, Op::Update { id, attrs: Some(to), .. } if *id == dir && *to == attrs);
        assert!(ops.len() == 1 && ops.iter().any(is_set), "{ops:?}");
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn what_is_set_before_the_entries_are_sent_stands() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        let attrs = rig.engine.local(dir).unwrap().attrs;
        // Its bytes are not ready to go.
        let draft = crate::Draft { ready: true, size: 1, ..crate::Draft::empty() };
        let body = crate::Body::File(crate::FileBody::Draft(Box::new(draft)));
        let file = rig.engine.create(dir, name("a"), attrs, body, later(7000)).unwrap();
        let attrs = Attrs { mtime: Timestamp(5), ..attrs };
        rig.engine.set_attrs(dir, attrs, later(8000)).unwrap();
        assert_eq!(rig.sync().concat().len(), 1, "the mtime goes first");
        rig.drive();
        rig.restart();
        rig.engine.show_times();
        assert_eq!(shown(&rig, dir), attrs.mtime);
        rig.engine.prepared(file, 0, crate::PrepareAnswer::Ready(Arc::new(crate::rig::content(1))), NOW);
        let request = rig.send().unwrap();
        assert_eq!(request.touched, [TouchedDir { dir, mtime: attrs.mtime }]);
        rig.take(&request);
        assert_eq!(shown(&rig, dir), attrs.mtime);
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn what_is_done_to_a_node_after_its_name_does_not_move_the_mtime_of_its_directory() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        let attrs = Attrs { mode: 0o755, mtime: Timestamp(5) };
        let within = rig.engine.create(dir, name("within"), attrs, crate::Body::Dir, later(7000)).unwrap();
        let request = rig.send().unwrap();
        rig.engine.set_attrs(dir, attrs, later(8000)).unwrap();
        rig.take(&request);
        // The time is sent alone, while what is in the directory is not ready to go.
        let draft = crate::Draft { ready: true, size: 1, ..crate::Draft::empty() };
        let body = crate::Body::File(crate::FileBody::Draft(Box::new(draft)));
        let file = rig.engine.create(dir, name("a"), attrs, body, later(7500)).unwrap();
        rig.engine.set_attrs(dir, attrs, later(8000)).unwrap();
        assert_eq!(rig.sync().concat().len(), 1);
        for (node, at) in [(file, 9000), (within, 9500)] {
            rig.engine.set_attrs(node, Attrs { mode: 0o700, mtime: Timestamp(6) }, later(at)).unwrap();
        }
        rig.engine.prepared(file, 0, crate::PrepareAnswer::Ready(Arc::new(crate::rig::content(1))), NOW);
        let request = rig.send().unwrap();
        assert_eq!(request.touched, [TouchedDir { dir, mtime: attrs.mtime }]);
        rig.take(&request);
        assert_eq!(shown(&rig, dir), attrs.mtime);
        assert!(rig.sync().is_empty());
        // Neither does that of one that was not set go on.
        make(&mut rig, dir, "b", later(10_000));
        let other = rig.engine.create(dir, name("c"), attrs, crate::Body::Dir, later(11_000)).unwrap();
        rig.engine.set_attrs(other, Attrs { mode: 0o700, mtime: Timestamp(6) }, later(12_000)).unwrap();
        assert_eq!(rig.send().unwrap().touched, [TouchedDir { dir, mtime: later(11_000) }]);
    }

    #[test]
    fn each_commit_with_new_entries_moves_the_mtime_of_their_directory() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        // The first is made before the second, and is ready after it.
        let draft = crate::Draft { ready: true, size: 1, ..crate::Draft::empty() };
        let body = crate::Body::File(crate::FileBody::Draft(Box::new(draft)));
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let slow = rig.engine.create(dir, name("slow"), attrs, body, later(7000)).unwrap();
        make(&mut rig, dir, "quick", later(8000));
        // A change of the mode alone sets no time.
        let attrs_of_dir = Attrs { mode: 0o700, mtime: shown(&rig, dir) };
        rig.engine.set_attrs(dir, attrs_of_dir, later(8500)).unwrap();
        rig.sync();
        let first = shown(&rig, dir);
        rig.engine.prepared(slow, 0, crate::PrepareAnswer::Ready(Arc::new(crate::rig::content(1))), NOW);
        let request = rig.send().unwrap();
        assert!(matches!(request.touched[..], [TouchedDir { mtime, .. }] if mtime > first), "{request:?}");
        rig.take(&request);
        assert!(shown(&rig, dir) > first);
    }

    #[test]
    fn a_copy_that_a_conflict_makes_moves_the_mtime_of_its_directory_though_that_was_set() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let dir = rig.mkdir(ROOT, "dir");
        let file = rig.file(dir, "a", 1);
        rig.sync();
        // Something is not ready to go, so that it is still known what was set.
        let draft = crate::Draft { ready: true, size: 1, ..crate::Draft::empty() };
        let body = crate::Body::File(crate::FileBody::Draft(Box::new(draft)));
        rig.engine.create(ROOT, name("waits"), Attrs { mode: 0o600, mtime: NOW }, body, NOW).unwrap();
        make(&mut rig, dir, "b", later(-9000));
        rig.engine.set_attrs(dir, Attrs { mode: 0o755, mtime: Timestamp(5) }, later(-8000)).unwrap();
        rig.sync();
        rig.edit(file, 2, NOW.0 + 1);
        rig.news(vec![rig.theirs(file, dir, "a", Some(3))]);
        assert_eq!(rig.names(dir).len(), 3, "{:?}", rig.names(dir));
        let touched: Vec<TouchedDir> = std::iter::from_fn(|| {
            let request = rig.send()?;
            rig.take(&request);
            Some(request.touched)
        })
        .flatten()
        .collect();
        assert!(touched.iter().any(|touched| touched.dir == dir && touched.mtime > Timestamp(5)), "{touched:?}");
    }

    #[test]
    fn what_is_told_shows_unless_it_was_set_here() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let (dir, other) = (rig.mkdir(ROOT, "dir"), rig.mkdir(ROOT, "other"));
        rig.sync();
        rig.drive();
        let attrs = Attrs { mode: 0o755, mtime: Timestamp(3) };
        rig.engine.set_attrs(other, attrs, later(1)).unwrap();
        let touched = [dir, other].map(|dir| TouchedDir { dir, mtime: later(50_000) });
        rig.touched(vec![rig.theirs(id(9), dir, "x", None)], touched.to_vec());
        assert_eq!((shown(&rig, dir), shown(&rig, other)), (later(50_000), Timestamp(3)));
        assert_eq!(rig.sync().concat().len(), 1, "what was set here is sent");
        // Never earlier than it was.
        make(&mut rig, dir, "y", later(20_000));
        assert_eq!(shown(&rig, dir), later(51_000));
        rig.drive();
        rig.restart();
        rig.engine.show_times();
        assert_eq!(shown(&rig, dir), later(51_000), "what is not sent yet counts after a start too");
    }

    #[test]
    fn moves_and_removals_move_the_mtimes_of_both_directories() {
        let mut rig = Rig::new();
        rig.engine.show_times();
        let (from, to) = (rig.mkdir(ROOT, "from"), rig.mkdir(ROOT, "to"));
        make(&mut rig, from, "a", NOW);
        rig.sync();
        let at = later(90_000);
        rig.engine.rename((from, b"a"), (to, name("b")), RenameMode::Replace, at).unwrap();
        assert_eq!((shown(&rig, from), shown(&rig, to)), (at, at));
        let request = rig.send().unwrap();
        assert_eq!(request.touched.len(), 2);
        rig.take(&request);
        rig.engine.remove(to, b"b", true, later(95_000)).unwrap();
        assert_eq!((shown(&rig, from), shown(&rig, to)), (at, later(95_000)));
        assert_eq!(rig.send().unwrap().touched, [TouchedDir { dir: to, mtime: later(95_000) }]);
    }
}
