//! Whether what the server says is a folder at all: directories as parents, no cycles, no name twice, kinds that stay.
//!
//! Checked on a complete state before any of it is merged, and on the server's side alone: what was changed here and is
//! not sent yet has no part in it, so that no conflict is ever taken for a fault. The cost is that of what the pages
//! brought and of the directories above it.

use crate::news::News;
use crate::state::State;
use crate::tree::{Entry, Tree};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use syncmount_common::node::{MODE_MASK, NAMES_MAX};
use syncmount_common::{Name, NodeId, NodeKind, Placement};

/// What is wrong with what the server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A live node without what its kind needs: a target, a content.
    #[error("it lacks what its kind needs")]
    Incomplete,
    /// It has no name, too many, or several and is a directory; or it is the root and has one.
    #[error("it has a number of names that no such node has")]
    Names,
    /// Its mode has bits that are no permissions.
    #[error("its mode has bits that are no permissions")]
    Mode,
    /// Its content has another size than the manifest that comes with it.
    #[error("its size is not that of its content")]
    Size,
    /// The root is gone, or is no directory.
    #[error("the top of the folder is not a directory")]
    Root,
    /// It is known as something else: a node never changes its kind.
    #[error("it is known here as another kind of thing")]
    Kind,
    /// It lies in something that is not there.
    #[error("it lies in a directory that is not there")]
    ParentGone,
    /// It lies in a file or a symlink.
    #[error("it lies in something that is not a directory")]
    ParentNotDir,
    /// Two nodes have one name in one directory.
    #[error("another one has its name in the same directory")]
    NameTwice,
    /// It is a directory that lies in itself.
    #[error("it is a directory that lies in itself")]
    Cycle,
    /// A page ends before it begins, or is of another history than was asked for.
    #[error("a page of the change feed does not go on from where it was asked for")]
    Position,
}

/// A fault, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsound {
    /// The node; `None` if the fault is not one node's.
    pub node: Option<NodeId>,
    /// What the server calls it, if it has a name.
    pub name: Option<Name>,
    /// What is wrong.
    pub fault: Fault,
}

impl fmt::Display for Unsound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "node {node}: {}", self.fault),
            None => self.fault.fmt(f),
        }
    }
}

/// Checks a complete state: `news`, each node once and from the highest id to the lowest, over what the server has said
/// before. With `whole` the news are everything that there is.
pub(crate) fn check(news: &[News], tree: &Tree, whole: bool) -> Result<(), Unsound> {
    let view = View { news, tree, whole };
    view.check_each()?;
    view.check_names()?;
    view.check_removed()?;
    view.check_cycles()
}

/// What the server has, after its news.
struct View<'a> {
    news: &'a [News],
    tree: &'a Tree,
    whole: bool,
}

/// A node as the server has it.
#[derive(Clone, Copy)]
enum There<'a> {
    Gone,
    /// The root of a folder in which it has never changed.
    Root,
    Live(&'a State),
}

impl There<'_> {
    fn kind(&self) -> Option<NodeKind> {
        match self {
            There::Gone => None,
            There::Root => Some(NodeKind::Dir),
            There::Live(state) => Some(state.kind()),
        }
    }

    fn parent(&self) -> Option<NodeId> {
        match self {
            There::Live(state) => state.names.first().map(|place| place.parent),
            There::Gone | There::Root => None,
        }
    }
}

impl<'a> View<'a> {
    /// The news that count: not those that are older than what is known.
    fn told(&self) -> impl Iterator<Item = &'a News> + use<'_, 'a> {
        self.news.iter().filter(|node| self.counts(node))
    }

    fn counts(&self, node: &News) -> bool {
        self.whole || self.tree.get(node.id).is_none_or(|entry| entry.base_rev() < node.rev)
    }

    fn news_of(&self, id: NodeId) -> Option<&'a News> {
        let at = self.news.binary_search_by(|node| id.cmp(&node.id)).ok()?;
        self.news.get(at).filter(|node| self.counts(node))
    }

    fn known(&self, id: NodeId) -> Option<&'a Arc<State>> {
        self.tree.get(id).filter(|_| !self.whole).and_then(Entry::synced_state)
    }

    fn there(&self, id: NodeId) -> There<'a> {
        let state = match self.news_of(id) {
            Some(node) => node.state.as_deref(),
            None => self.known(id).map(Arc::as_ref),
        };
        match state {
            Some(state) => There::Live(state),
            None if id == NodeId::ROOT && self.news_of(id).is_none() => There::Root,
            None => There::Gone,
        }
    }

    /// What each node must be by itself, and the directories that it lies in.
    fn check_each(&self) -> Result<(), Unsound> {
        for node in self.told() {
            let fault = self.fault_of(node);
            fault.map_or(Ok(()), |fault| Err(unsound(node, fault)))?;
        }
        Ok(())
    }

    fn fault_of(&self, node: &News) -> Option<Fault> {
        let Some(state) = &node.state else {
            let lacks = (!node.deleted).then_some(Fault::Incomplete);
            return lacks.or_else(|| (node.id == NodeId::ROOT).then_some(Fault::Root));
        };
        if node.id == NodeId::ROOT && state.kind() != NodeKind::Dir {
            return Some(Fault::Root);
        }
        let names = match (node.id, state.kind()) {
            (NodeId::ROOT, _) => 0..=0,
            (_, NodeKind::Dir) => 1..=1,
            (_, NodeKind::File | NodeKind::Symlink) => 1..=NAMES_MAX,
        };
        if !names.contains(&state.names.len()) {
            return Some(Fault::Names);
        }
        if state.attrs.mode & !MODE_MASK != 0 {
            return Some(Fault::Mode);
        }
        let content = state.body.content().and_then(|content| Some((content.size, content.manifest.as_ref()?.size())));
        if content.is_some_and(|(size, of_manifest)| size != of_manifest) {
            return Some(Fault::Size);
        }
        // What was said before does not count beside the whole.
        let entry = self.tree.get(node.id).filter(|_| !self.whole);
        let known = entry.and_then(|entry| entry.synced_state().or(entry.local.as_ref()));
        if known.is_some_and(|known| known.kind() != state.kind()) {
            return Some(Fault::Kind);
        }
        state.names.iter().find_map(|place| match self.there(place.parent).kind() {
            Some(NodeKind::Dir) => None,
            Some(NodeKind::File | NodeKind::Symlink) => Some(Fault::ParentNotDir),
            None => Some(Fault::ParentGone),
        })
    }

    /// Each name in a directory belongs to one node.
    fn check_names(&self) -> Result<(), Unsound> {
        // Very many places are compared by a number first, which takes eight bytes each.
        let hasher = RandomState::new();
        let places = || self.told().flat_map(|node| node.names().map(move |place| (node, place)));
        let mut numbers: Vec<u64> = places().map(|(_, place)| hasher.hash_one(place)).collect();
        numbers.sort_unstable();
        let twice: HashSet<u64> = numbers.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
        drop(numbers);
        let mut seen = HashMap::new();
        for (node, place) in places() {
            let is_candidate = !twice.is_empty() && twice.contains(&hasher.hash_one(place));
            let other = if is_candidate { seen.insert(place, node.id) } else { None };
            if other.is_some() || self.is_taken(place, node.id) {
                return Err(unsound(node, Fault::NameTwice));
            }
        }
        Ok(())
    }

    /// Whether a node that the news do not tell of has a place.
    fn is_taken(&self, place: &Placement, by: NodeId) -> bool {
        if self.whole {
            return false;
        }
        let there = [self.tree.displaced_at(place), self.tree.child(place.parent, place.name.as_bytes())];
        let has_it = |id: NodeId| self.known(id).is_some_and(|state| state.names.contains(place));
        there.into_iter().flatten().any(|id| id != by && self.news_of(id).is_none() && has_it(id))
    }

    /// Nothing is left in a directory that is gone.
    fn check_removed(&self) -> Result<(), Unsound> {
        let is_dir = |id| self.known(id).is_some_and(|state| state.kind() == NodeKind::Dir);
        for dir in self.told().filter(|node| node.state.is_none() && is_dir(node.id)) {
            let seen_here = self.tree.children(dir.id).map(|(_, id)| id);
            for id in seen_here.chain(self.tree.displaced_from(dir.id)).filter(|id| self.news_of(*id).is_none()) {
                let Some(state) = self.known(id) else { continue };
                if let Some(place) = state.names.iter().find(|place| place.parent == dir.id) {
                    let name = Some(place.name.clone());
                    return Err(Unsound { node: Some(id), name, fault: Fault::ParentGone });
                }
            }
        }
        Ok(())
    }

    /// Each directory that came or moved leads to the root.
    fn check_cycles(&self) -> Result<(), Unsound> {
        let mut rooted = BTreeSet::from([NodeId::ROOT]);
        for dir in self.told().filter(|node| node.kind() == Some(NodeKind::Dir)) {
            let (mut way, mut at) = (BTreeSet::new(), Some(dir.id));
            while let Some(id) = at.filter(|id| !rooted.contains(id)) {
                if !way.insert(id) {
                    return Err(unsound(dir, Fault::Cycle));
                }
                at = self.there(id).parent();
            }
            rooted.append(&mut way);
        }
        Ok(())
    }
}

fn unsound(node: &News, fault: Fault) -> Unsound {
    Unsound { node: Some(node.id), name: node.names().next().map(|place| place.name.clone()), fault }
}

#[cfg(test)]
mod tests {
    use super::Fault;
    use crate::rig::{NOW, Rig, content, id, name};
    use crate::{Effect, RenameMode};
    use syncmount_common::node::{NAMES_MAX, SymlinkTarget};
    use syncmount_common::{Node, NodeId, NodeKind, Placement};

    const ROOT: NodeId = NodeId::ROOT;
    /// What every rig of these tests has: directories, the one in the other, and a file in each.
    const OUTER: u8 = 11;
    const INNER: u8 = 12;
    const FILE: u8 = 13;
    const LINK: u8 = 14;

    fn rig() -> Rig {
        let mut rig = Rig::new();
        let nodes = vec![
            rig.theirs(id(OUTER), ROOT, "outer", None),
            rig.theirs(id(INNER), id(OUTER), "inner", None),
            rig.theirs(id(FILE), id(INNER), "file", Some(1)),
            link(rig.theirs(id(LINK), ROOT, "link", None)),
        ];
        rig.news(nodes);
        rig.is_lied_to = true;
        rig
    }

    fn link(node: Node) -> Node {
        let target = Some(SymlinkTarget::new(&b"elsewhere"[..]).unwrap());
        Node { kind: NodeKind::Symlink, target, ..node }
    }

    /// The server says this, which is no folder: nothing of it is merged, nothing is sent, and what it says next counts.
    #[track_caller]
    fn refused(lie: impl FnOnce(&mut Rig) -> Vec<Node>, at: Option<NodeId>, fault: Fault) {
        let mut rig = rig();
        let mine = rig.file(ROOT, "mine", 7);
        let draft = rig.file(id(INNER), "draft", 8);
        rig.drive();
        let seen = |rig: &Rig| [ROOT, id(OUTER), id(INNER)].map(|dir| rig.names(dir));
        let (before, cursor) = (seen(&rig), rig.engine.cursor());
        let nodes = lie(&mut rig);
        rig.news(nodes);
        let unsound = rig.engine.unsound().expect("it is no folder").clone();
        assert_eq!((unsound.fault, unsound.node), (fault, at), "{unsound}");
        assert_eq!((seen(&rig), rig.engine.cursor()), (before, cursor), "what is here stays");
        assert!(rig.engine.wants_page_now() && rig.send().is_none() && !rig.engine.may_be_sent(draft));
        // Nothing that was said counts for what is said next.
        rig.is_lied_to = false;
        rig.news(vec![rig.theirs(id(99), id(OUTER), "honest", Some(3))]);
        assert_eq!(rig.names(id(OUTER)), ["honest", "inner"]);
        assert!(!rig.sync().is_empty());
        assert!(rig.engine.entry(mine).is_some_and(|entry| !entry.is_dirty()));
    }

    #[test]
    fn a_parent_that_is_a_file_or_a_symlink_is_refused() {
        for parent in [FILE, LINK] {
            let lie = |rig: &mut Rig| vec![rig.theirs(id(20), id(parent), "keys", Some(1))];
            refused(lie, Some(id(20)), Fault::ParentNotDir);
        }
        let both_new = |rig: &mut Rig| {
            vec![link(rig.theirs(id(20), ROOT, "new", None)), rig.theirs(id(21), id(20), "keys", Some(1))]
        };
        refused(both_new, Some(id(21)), Fault::ParentNotDir);
    }

    #[test]
    fn a_parent_that_is_not_there_is_refused() {
        let unknown = |rig: &mut Rig| vec![rig.theirs(id(20), id(99), "lost", None)];
        refused(unknown, Some(id(20)), Fault::ParentGone);
        let removed = |rig: &mut Rig| vec![rig.gone(id(INNER), NodeKind::Dir)];
        refused(removed, Some(id(FILE)), Fault::ParentGone);
        // Also if it is not seen here any more.
        let removed_here = |rig: &mut Rig| {
            rig.engine.rename((id(INNER), b"file"), (ROOT, name("moved")), RenameMode::Replace, NOW).unwrap();
            let gone = rig.gone(id(INNER), NodeKind::Dir);
            rig.engine.rename((ROOT, b"moved"), (id(INNER), name("file")), RenameMode::Replace, NOW).unwrap();
            vec![gone]
        };
        refused(removed_here, Some(id(FILE)), Fault::ParentGone);
    }

    #[test]
    fn cycles_are_refused() {
        let into_own_child = |rig: &mut Rig| vec![rig.theirs(id(OUTER), id(INNER), "outer", None)];
        refused(into_own_child, Some(id(OUTER)), Fault::Cycle);
        let into_itself = |rig: &mut Rig| vec![rig.theirs(id(20), id(20), "self", None)];
        refused(into_itself, Some(id(20)), Fault::Cycle);
        let island = |rig: &mut Rig| vec![rig.theirs(id(20), id(21), "a", None), rig.theirs(id(21), id(20), "b", None)];
        refused(island, Some(id(21)), Fault::Cycle);
    }

    #[test]
    fn a_name_twice_is_refused() {
        let as_known = |rig: &mut Rig| vec![rig.theirs(id(20), id(INNER), "file", Some(1))];
        refused(as_known, Some(id(20)), Fault::NameTwice);
        let both_new =
            |rig: &mut Rig| vec![rig.theirs(id(20), ROOT, "a", Some(1)), rig.theirs(id(21), ROOT, "a", None)];
        refused(both_new, Some(id(20)), Fault::NameTwice);
        // The one that has it there has another name here.
        let renamed_here = |rig: &mut Rig| {
            let node = rig.theirs(id(20), id(INNER), "file", Some(1));
            rig.engine.rename((ROOT, b"link"), (ROOT, name("other")), RenameMode::Replace, NOW).unwrap();
            let at_link = rig.theirs(id(21), ROOT, "link", Some(1));
            rig.engine.rename((ROOT, b"other"), (ROOT, name("link")), RenameMode::Replace, NOW).unwrap();
            vec![at_link, Node { names: vec![Placement { parent: ROOT, name: name("fine") }], ..node }]
        };
        refused(renamed_here, Some(id(21)), Fault::NameTwice);
    }

    #[test]
    fn a_name_that_is_another_ones_at_the_server_alone_is_refused() {
        let mut rig = rig();
        rig.engine.rename((ROOT, b"link"), (ROOT, name("other")), RenameMode::Replace, NOW).unwrap();
        rig.news(vec![rig.theirs(id(21), ROOT, "link", Some(1))]);
        assert_eq!(rig.engine.unsound().map(|unsound| unsound.fault), Some(Fault::NameTwice));
    }

    #[test]
    fn another_kind_is_refused() {
        let dir_to_link = |rig: &mut Rig| vec![link(rig.theirs(id(INNER), id(OUTER), "inner", None))];
        refused(dir_to_link, Some(id(INNER)), Fault::Kind);
        let file_to_dir = |rig: &mut Rig| vec![rig.theirs(id(FILE), id(INNER), "file", None)];
        refused(file_to_dir, Some(id(FILE)), Fault::Kind);
    }

    #[test]
    fn nodes_that_cannot_be_are_refused() {
        let edited = |edit: fn(&mut Node)| {
            move |rig: &mut Rig| {
                let mut node = rig.theirs(id(20), ROOT, "new", Some(1));
                edit(&mut node);
                vec![node]
            }
        };
        refused(edited(|node| node.content = None), Some(id(20)), Fault::Incomplete);
        refused(edited(|node| node.kind = NodeKind::Symlink), Some(id(20)), Fault::Incomplete);
        refused(edited(|node| node.names.clear()), Some(id(20)), Fault::Names);
        refused(edited(|node| node.attrs.mode |= 0o010_000), Some(id(20)), Fault::Mode);
        let longer = |node: &mut Node| node.content.as_mut().unwrap().size += 1;
        refused(edited(longer), Some(id(20)), Fault::Size);
        let two_names = |node: &mut Node| {
            node.kind = NodeKind::Dir;
            node.names.push(Placement { parent: ROOT, name: name("second") });
        };
        refused(edited(two_names), Some(id(20)), Fault::Names);
        let too_many = |node: &mut Node| {
            let numbers = 0..=NAMES_MAX;
            node.names = numbers.map(|n| Placement { parent: ROOT, name: name(&n.to_string()) }).collect();
        };
        refused(edited(too_many), Some(id(20)), Fault::Names);
    }

    #[test]
    fn the_root_is_a_directory_without_a_name() {
        let gone = |rig: &mut Rig| vec![rig.gone(ROOT, NodeKind::Dir)];
        refused(gone, Some(ROOT), Fault::Root);
        let file = |rig: &mut Rig| vec![Node { names: Vec::new(), ..rig.theirs(ROOT, ROOT, "x", Some(1)) }];
        refused(file, Some(ROOT), Fault::Root);
        let named = |rig: &mut Rig| vec![rig.theirs(ROOT, id(INNER), "root", None)];
        refused(named, Some(ROOT), Fault::Names);
    }

    #[test]
    fn a_page_that_does_not_go_on_is_refused() {
        let mut rig = rig();
        let end = rig.engine.cursor().unwrap().seq;
        rig.page(Vec::new(), end - 1, false);
        rig.drive();
        assert_eq!(rig.engine.unsound().map(|unsound| unsound.fault), Some(Fault::Position));
        // More of nothing, for ever.
        rig.page(Vec::new(), end, true);
        assert_eq!(rig.engine.unsound().map(|unsound| unsound.fault), Some(Fault::Position));
        rig.page(Vec::new(), end, false);
        rig.drive();
        assert_eq!(rig.engine.unsound(), None);
    }

    #[test]
    fn a_page_alone_is_not_judged() {
        let mut rig = rig();
        rig.is_lied_to = false;
        let child = rig.theirs(id(20), id(21), "child", Some(1));
        let parent = Node { rev: child.rev + 1, ..rig.theirs(id(21), ROOT, "parent", None) };
        rig.page(vec![child.clone()], child.rev, true);
        rig.drive();
        rig.news(vec![parent]);
        assert_eq!(rig.names(id(21)), ["child"]);
    }

    #[test]
    fn the_whole_folder_counts_without_what_was_known() {
        let mut rig = rig();
        rig.engine.begin_resync();
        let outer = rig.theirs(id(OUTER), ROOT, "outer", None);
        rig.news(vec![outer.clone(), rig.theirs(id(FILE), id(INNER), "file", Some(1))]);
        let unsound = rig.engine.unsound().cloned().unwrap();
        assert_eq!((unsound.node, unsound.fault), (Some(id(FILE)), Fault::ParentGone), "it was not told again");
        rig.is_lied_to = false;
        // In this life another node has a name that was known.
        rig.news(vec![outer, rig.theirs(id(22), id(OUTER), "inner", None)]);
        assert_eq!(rig.engine.child(id(OUTER), b"inner"), Some(id(22)));
    }

    #[test]
    fn a_size_that_a_manifest_refutes_is_corrected() {
        let mut rig = rig();
        let mut node = rig.theirs(id(20), ROOT, "new", Some(1));
        let honest = node.content.clone().unwrap();
        node.content = Some(syncmount_common::Content { size: honest.size + 1, manifest: None, ..honest.clone() });
        rig.news(vec![node]);
        let size = |rig: &Rig| rig.engine.local(id(20)).unwrap().body.size();
        assert_eq!(size(&rig), honest.size + 1, "nothing speaks against it yet");
        rig.engine.measured(&honest.hash, honest.size);
        assert_eq!(size(&rig), honest.size);
        assert!(matches!(rig.engine.poll(NOW), Some(Effect::Changed(changed)) if changed.node == id(20)));
        assert!(!rig.engine.entry(id(20)).unwrap().is_dirty(), "there is nothing to send");
    }

    #[test]
    fn what_was_done_here_is_no_fault_of_the_server() {
        let mut rig = rig();
        rig.is_lied_to = false;
        // Removed, moved and made here; there something came into what was removed, and the same names were taken.
        rig.engine.rename((ROOT, b"outer"), (ROOT, name("elsewhere")), RenameMode::Replace, NOW).unwrap();
        rig.engine.remove(ROOT, b"link", false, NOW).unwrap();
        rig.file(id(INNER), "both", 4);
        rig.engine.remove(id(INNER), b"file", false, NOW).unwrap();
        let dir = rig.mkdir(ROOT, "dir");
        let nodes = vec![
            rig.theirs(id(30), id(INNER), "both", Some(5)),
            rig.theirs(id(31), ROOT, "dir", None),
            rig.theirs(id(32), id(31), "in dir", Some(6)),
            rig.theirs(id(INNER), ROOT, "inner", None),
            rig.theirs(id(OUTER), id(INNER), "outer", None),
        ];
        rig.news(nodes);
        assert!(rig.engine.local(dir).is_some() || rig.engine.local(id(31)).is_some());
        rig.sync();
        assert_eq!(rig.engine.poll(NOW), None::<Effect>);
        // Names that change places in one step, and one whose former owner has gone.
        let nodes = vec![
            rig.theirs(id(30), id(31), "in dir", Some(5)),
            rig.theirs(id(32), ROOT, "inner", Some(6)),
            rig.theirs(id(INNER), ROOT, "free", None),
        ];
        rig.news(nodes);
        assert_eq!(rig.engine.local(id(30)).unwrap().body.content_hash(), Some(content(5).hash));
    }
}
