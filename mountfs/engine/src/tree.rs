//! The tree by node id, with the indexes that make every look-up cost the same in any folder.
//!
//! Owns the invariants: a name in a directory belongs to one node; an entry is in the order of work exactly while what the
//! user sees differs from what both sides agreed on. Knows nothing of feeds, commits or conflicts.

use crate::scope::Scope;
use crate::state::{Names, State};
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use syncmount_common::{Attrs, Name, NodeId, NodeKind, Placement, Rev, Timestamp};

/// What both sides last agreed on about a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Synced {
    /// The rev at which they agreed.
    pub rev: Rev,
    /// The rev of the content then.
    pub content_rev: Rev,
    /// The state; `None` for a tombstone.
    pub state: Option<Arc<State>>,
}

/// Everything known about one node.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What the user sees; `None` if it was removed here.
    pub local: Option<Arc<State>>,
    /// What both sides agreed on; `None` if the server has never answered about it.
    pub synced: Option<Synced>,
    /// When it last changed here.
    pub changed: Timestamp,
    /// Whether it is to be known although it is not there: its creation may have reached the server without an answer, or
    /// the feed has not told yet of its removal.
    pub offered: bool,
    /// Whether it is part of the folder.
    pub scope: Scope,
    /// Place in the order of work, 0 if there is none.
    order: u64,
}

impl Entry {
    /// Whether it is part of the folder.
    pub fn is_shared(&self) -> bool {
        self.scope == Scope::Shared
    }

    /// What the server is to have: what the user sees, if it is part of the folder.
    pub fn outgoing(&self) -> Option<&Arc<State>> {
        self.local.as_ref().filter(|_| self.is_shared())
    }

    /// Whether something has to be sent.
    pub fn is_dirty(&self) -> bool {
        match (self.outgoing(), self.synced.as_ref().and_then(|synced| synced.state.as_ref())) {
            (None, None) => false,
            (Some(local), Some(synced)) => !Arc::ptr_eq(local, synced) && !local.agrees_with(synced),
            _ => true,
        }
    }

    /// The state that the server has, as far as is known here.
    pub fn synced_state(&self) -> Option<&Arc<State>> {
        self.synced.as_ref().and_then(|synced| synced.state.as_ref())
    }

    /// The rev to base an operation on.
    pub fn base_rev(&self) -> Rev {
        self.synced.as_ref().map_or(0, |synced| synced.rev)
    }

    /// The rev of the content that both sides agreed on.
    pub fn content_rev(&self) -> Rev {
        self.synced.as_ref().map_or(0, |synced| synced.content_rev)
    }
}

type Children = BTreeMap<Name, NodeId>;

/// Directories share this many counters of changes.
const COUNTERS: usize = 4096;

/// The last bytes of an id are random.
fn counter(dir: NodeId) -> usize {
    let [.., high, low] = *dir.as_bytes();
    usize::from(u16::from_be_bytes([high, low])) % COUNTERS
}

/// All nodes.
pub(crate) struct Tree {
    /// One beside the other: a table with room to grow would cost half as much again.
    entries: IndexMap<NodeId, Entry>,
    /// Directory -> name -> node, as the user sees it.
    children: HashMap<NodeId, Children>,
    /// Directory -> number of directories in it, as the user sees it; none: 0.
    subdirs: HashMap<NodeId, u32>,
    /// Directory -> name -> node, on the server's side, for nodes that are not there for the user any more.
    displaced: HashMap<NodeId, Children>,
    /// Nodes with work, in the order in which they were last changed.
    dirty: BTreeMap<u64, NodeId>,
    /// Nodes that are on this machine only.
    staying: BTreeSet<NodeId>,
    /// Files whose bytes are a draft here.
    drafts: BTreeSet<NodeId>,
    next_order: u64,
    /// How often entries came or went, in the directories that share a counter.
    entry_changes: Box<[u32]>,
}

impl Tree {
    /// A tree with nothing but its root.
    pub(crate) fn new() -> Self {
        let root = Arc::new(State {
            names: Names::new(),
            attrs: Attrs { mode: 0o755, mtime: Timestamp(0) },
            body: crate::state::Body::Dir,
            xattrs: syncmount_common::Xattrs::default(),
        });
        let entry = Entry {
            local: Some(root.clone()),
            synced: Some(Synced { rev: 0, content_rev: 0, state: Some(root) }),
            changed: Timestamp(0),
            offered: false,
            scope: Scope::Shared,
            order: 0,
        };
        Self {
            entries: IndexMap::from([(NodeId::ROOT, entry)]),
            children: HashMap::new(),
            subdirs: HashMap::new(),
            displaced: HashMap::new(),
            dirty: BTreeMap::new(),
            staying: BTreeSet::new(),
            drafts: BTreeSet::new(),
            next_order: 1,
            entry_changes: vec![0; COUNTERS].into(),
        }
    }

    /// Room for so many more: a table that grows by itself is there twice for a moment.
    pub(crate) fn reserve(&mut self, more: usize) {
        self.entries.reserve(more);
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// Another number after each change of a directory's entries; it may become another without one.
    pub(crate) fn entry_changes(&self, dir: NodeId) -> u32 {
        self.entry_changes[counter(dir)]
    }

    /// The state that the user sees.
    pub(crate) fn local(&self, id: NodeId) -> Option<&Arc<State>> {
        self.entries.get(&id)?.local.as_ref()
    }

    pub(crate) fn is_dir(&self, id: NodeId) -> bool {
        self.local(id).is_some_and(|state| state.kind() == NodeKind::Dir)
    }

    pub(crate) fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.children.get(&parent)?.get(name).copied()
    }

    /// The node of the folder at a place: not one that is on this machine only.
    pub(crate) fn shared_child(&self, place: &Placement) -> Option<NodeId> {
        let child = self.child(place.parent, place.name.as_bytes())?;
        self.get(child).filter(|entry| entry.is_shared()).map(|_| child)
    }

    pub(crate) fn children(&self, parent: NodeId) -> impl Iterator<Item = (&Name, NodeId)> + '_ {
        self.children.get(&parent).into_iter().flatten().map(|(name, id)| (name, *id))
    }

    /// How many entries `parent` has.
    pub(crate) fn children_len(&self, parent: NodeId) -> usize {
        self.children.get(&parent).map_or(0, BTreeMap::len)
    }

    /// How many directories lie in `parent`.
    pub(crate) fn subdirs(&self, parent: NodeId) -> u32 {
        self.subdirs.get(&parent).copied().unwrap_or(0)
    }

    fn count_subdir(&mut self, parent: NodeId, more: bool) {
        let count = self.subdirs(parent);
        match if more { count + 1 } else { count.saturating_sub(1) } {
            0 => self.subdirs.remove(&parent),
            count => self.subdirs.insert(parent, count),
        };
    }

    pub(crate) fn is_empty_dir(&self, id: NodeId) -> bool {
        self.children.get(&id).is_none_or(BTreeMap::is_empty)
    }

    /// The node that the server has at a place where the user sees something else or nothing.
    pub(crate) fn displaced_at(&self, place: &Placement) -> Option<NodeId> {
        self.displaced.get(&place.parent)?.get(&place.name).copied()
    }

    /// All nodes that the server has in `parent` and that the user does not see there any more.
    pub(crate) fn displaced_from(&self, parent: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.displaced.get(&parent).into_iter().flatten().map(|(_, id)| *id)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.entries.keys().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nodes with work in the order of their last change.
    pub(crate) fn dirty(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.dirty.values().copied()
    }

    pub(crate) fn dirty_len(&self) -> usize {
        self.dirty.len()
    }

    /// Nodes that are on this machine only.
    pub(crate) fn staying(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.staying.iter().copied()
    }

    /// Files whose bytes are a draft here.
    pub(crate) fn drafts(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.drafts.iter().copied()
    }

    pub(crate) fn staying_len(&self) -> usize {
        self.staying.len()
    }

    /// Whether `id` is `ancestor` or lies below it.
    pub(crate) fn is_within(&self, id: NodeId, ancestor: NodeId) -> bool {
        let mut at = id;
        for _ in 0..=self.entries.len() {
            if at == ancestor {
                return true;
            }
            match self.local(at).and_then(|state| state.names.first()) {
                Some(place) => at = place.parent,
                None => return false,
            }
        }
        true
    }

    /// Replaces what is known about a node. Its places must be free; see [`Self::attach`].
    pub(crate) fn set(&mut self, id: NodeId, local: Option<Arc<State>>, synced: Option<Synced>, changed: Timestamp) {
        self.detach(id);
        self.set_detached(id, local, synced, changed);
        let attached = self.attach(id);
        debug_assert!(attached.is_ok(), "{id:?} was put where {attached:?} is");
    }

    /// The same without giving it its places in the directories: for moves of many nodes at once.
    pub(crate) fn set_detached(
        &mut self,
        id: NodeId,
        local: Option<Arc<State>>,
        synced: Option<Synced>,
        changed: Timestamp,
    ) {
        self.drop_displaced(id);
        let old = self.entries.get(&id);
        let (old_order, offered) = old.map_or((0, false), |entry| (entry.order, entry.offered));
        let scope = old.map_or(Scope::Shared, |entry| entry.scope);
        if old_order != 0 {
            self.dirty.remove(&old_order);
        }
        // What is not there is nowhere else either.
        let scope = if local.is_some() { scope } else { Scope::Shared };
        let mut entry = Entry { local, synced, changed, offered, scope, order: 0 };
        if entry.is_shared() {
            self.staying.remove(&id);
        } else {
            self.staying.insert(id);
        }
        if entry.local.as_ref().is_some_and(|local| local.body.draft().is_some()) {
            self.drafts.insert(id);
        } else {
            self.drafts.remove(&id);
        }
        if entry.is_dirty() {
            entry.order = self.next_order;
            self.next_order += 1;
            self.dirty.insert(entry.order, id);
        }
        if entry.local.is_none() && entry.synced_state().is_none() && !entry.offered {
            self.entries.swap_remove(&id);
            self.children.remove(&id);
            self.subdirs.remove(&id);
        } else {
            self.entries.insert(id, entry);
            self.note_displaced(id);
        }
    }

    /// The mtime of a directory that is to be sent as a whole is another one.
    pub(crate) fn set_dir_mtime(&mut self, id: NodeId, state: Arc<State>, changed: Timestamp) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.local = Some(state);
            entry.changed = entry.changed.max(changed);
        }
    }

    /// Its place in the order of work, 0 if there is none.
    pub(crate) fn order(&self, id: NodeId) -> u64 {
        self.entries.get(&id).map_or(0, |entry| entry.order)
    }

    /// Gives a node with work its former place in the order back.
    pub(crate) fn set_order(&mut self, id: NodeId, order: u64) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.order != 0 && order != 0) else { return };
        self.dirty.remove(&entry.order);
        entry.order = order;
        self.dirty.insert(order, id);
    }

    /// Marks whether the node's creation may have reached the server without an answer.
    pub(crate) fn set_offered(&mut self, id: NodeId, offered: bool) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.offered = offered;
            if !offered && entry.local.is_none() && entry.synced_state().is_none() {
                self.entries.swap_remove(&id);
            }
        }
    }

    /// Moves a node that is there across the border of the folder; its places stay.
    pub(crate) fn set_scope(&mut self, id: NodeId, scope: Scope) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.scope = scope;
        let (local, synced, changed) = (entry.local.clone(), entry.synced.clone(), entry.changed);
        self.set_detached(id, local, synced, changed);
    }

    /// Takes a node's names out of the directories.
    pub(crate) fn detach(&mut self, id: NodeId) {
        let Some(state) = self.local(id).cloned() else { return };
        for place in &state.names {
            if let Some(names) = self.children.get_mut(&place.parent)
                && names.get(&place.name) == Some(&id)
            {
                names.remove(&place.name);
                if names.is_empty() {
                    self.children.remove(&place.parent);
                }
                let changes = &mut self.entry_changes[counter(place.parent)];
                *changes = changes.wrapping_add(1);
                if state.kind() == NodeKind::Dir {
                    self.count_subdir(place.parent, false);
                }
            }
        }
    }

    /// Puts a node's names into the directories; `Err` with the node that already is at one of them.
    pub(crate) fn attach(&mut self, id: NodeId) -> Result<(), NodeId> {
        let Some(state) = self.local(id).cloned() else { return Ok(()) };
        for place in &state.names {
            match self.child(place.parent, place.name.as_bytes()) {
                Some(other) if other != id => return Err(other),
                _ => {}
            }
        }
        for place in &state.names {
            let before = self.children.entry(place.parent).or_default().insert(place.name.clone(), id);
            let changes = &mut self.entry_changes[counter(place.parent)];
            *changes = changes.wrapping_add(1);
            if before.is_none() && state.kind() == NodeKind::Dir {
                self.count_subdir(place.parent, true);
            }
        }
        Ok(())
    }

    fn drop_displaced(&mut self, id: NodeId) {
        let Some(state) = self.entries.get(&id).and_then(Entry::synced_state).cloned() else { return };
        for place in &state.names {
            if let Some(names) = self.displaced.get_mut(&place.parent)
                && names.get(&place.name) == Some(&id)
            {
                names.remove(&place.name);
                if names.is_empty() {
                    self.displaced.remove(&place.parent);
                }
            }
        }
    }

    fn note_displaced(&mut self, id: NodeId) {
        let Some(entry) = self.entries.get(&id) else { return };
        let Some(synced) = entry.synced_state().cloned() else { return };
        let local = entry.local.clone();
        for place in &synced.names {
            if !local.as_ref().is_some_and(|local| local.names.contains(place)) {
                self.displaced.entry(place.parent).or_default().insert(place.name.clone(), id);
            }
        }
    }

    fn leads_to_root(&self, id: NodeId) -> bool {
        let parent = |id: &NodeId| self.local(*id)?.names.first().map(|place| place.parent);
        std::iter::successors(Some(id), parent).take(self.entries.len()).any(|id| id == NodeId::ROOT)
    }

    /// Panics if an index disagrees with the entries. For tests.
    pub(crate) fn check(&self) {
        let mut places = 0;
        for (id, entry) in &self.entries {
            assert_eq!(entry.order != 0, entry.is_dirty(), "{id:?} in the order of work");
            if entry.order != 0 {
                assert_eq!(self.dirty.get(&entry.order), Some(id));
            }
            assert_eq!(entry.is_shared(), !self.staying.contains(id), "{id:?} among those that stay here");
            let is_draft = entry.local.as_ref().is_some_and(|local| local.body.draft().is_some());
            assert_eq!(is_draft, self.drafts.contains(id), "{id:?} among the drafts");
            let Some(local) = &entry.local else { continue };
            assert!(entry.is_shared() || entry.synced_state().is_none(), "{id:?} stays here and is not at the server");
            assert_eq!(local.names.is_empty(), *id == NodeId::ROOT, "{id:?} has a name");
            assert!(local.names.is_sorted_by(|a, b| a < b), "{id:?} has its names in order");
            assert!(local.names.len() < 2 || local.kind() != NodeKind::Dir, "{id:?} has one name");
            for place in &local.names {
                places += 1;
                assert_eq!(self.child(place.parent, place.name.as_bytes()), Some(*id), "{id:?} at {place:?}");
                assert!(self.is_dir(place.parent), "{id:?} lies in a directory");
                let above = self.get(place.parent).is_some_and(Entry::is_shared);
                assert!(above || !entry.is_shared(), "{id:?} is in the folder and lies in what is not");
            }
            assert!(self.leads_to_root(*id), "{id:?} hangs below the root");
        }
        assert_eq!(places, self.children.values().map(BTreeMap::len).sum::<usize>(), "no name without a node");
        let mut subdirs: HashMap<NodeId, u32> = HashMap::new();
        for (parent, names) in &self.children {
            let count = names.values().filter(|id| self.is_dir(**id)).count() as u32;
            if count > 0 {
                subdirs.insert(*parent, count);
            }
        }
        assert_eq!(subdirs, self.subdirs, "directories in directories are counted");
        assert_eq!(self.dirty.len(), self.entries.values().filter(|entry| entry.order != 0).count());
    }
}
