//! The index: what was in the folder when it was last looked at, item by item.
//!
//! An item is something on the disk (a file, a directory, a symlink) under a number of its own, with the node that it
//! stands for. Everything that is to be done follows from two comparisons: of the disk with the index (what the user did)
//! and of the index with the engine's tree (what is to be done on the disk). The index is kept with the nodes, so that
//! both can be made again after a crash. It has one name per item and no paths.

use super::names;
#[cfg(test)]
use super::platform::PrintKind;
use super::platform::{self, Print};
use crate::driver::{ItemId, ItemRow, OLD_LEN_MIN};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use syncmount_common::{Attrs, Content, ContentHash, Name, NodeId, Owner, Placement, SymlinkTarget};
use syncmount_engine::{Body, FileBody, Names, State};

/// Directories within each other.
pub(crate) const DEPTH_MAX: usize = 4096;

/// The folder itself.
pub(crate) const ROOT_ITEM: ItemId = 0;

/// What the folder itself is called, as its marker says. Kept as the folder's row.
pub(crate) fn folder_id(rows: &[(ItemId, Vec<u8>)]) -> Option<u64> {
    number(rows, 0)
}

/// What the disk called its root when it was last looked at. Earlier versions did not keep it.
pub(crate) fn folder_root(rows: &[(ItemId, Vec<u8>)]) -> Option<u64> {
    number(rows, 8)
}

fn number(rows: &[(ItemId, Vec<u8>)], at: usize) -> Option<u64> {
    let (_, row) = rows.iter().find(|(id, _)| *id == ROOT_ITEM)?;
    row.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The row that says what the folder is called, and what the disk calls its root.
pub(crate) fn folder_row(id: u64, root: u64) -> ItemRow {
    (ROOT_ITEM, Some([id.to_le_bytes(), root.to_le_bytes()].concat()))
}

/// What the bytes of an item are known to be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Known {
    /// A directory.
    Dir,
    /// A symlink to this.
    Symlink(SymlinkTarget),
    /// A file with this content, which the server has.
    Content(ContentHash),
    /// A file whose bytes are a draft of the tree.
    Draft,
}

/// One thing in the folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Item {
    /// The directory in which it lies.
    pub(crate) parent: ItemId,
    /// Its name on the disk, as this system spells names in bytes.
    #[serde(with = "bytes_as_arc")]
    pub(crate) name: Arc<[u8]>,
    /// Its name in the tree, where that is another one.
    pub(crate) label: Option<Name>,
    /// The node that it stands for.
    pub(crate) node: NodeId,
    /// What it looked like.
    pub(crate) print: Print,
    /// Mode and mtime that the tree has for what it looked like; a disk may keep less of them.
    pub(crate) attrs: Attrs,
    /// What its bytes are.
    pub(crate) known: Known,
    /// Whether it was the root of a file system that is mounted there; `None` if it was never looked at for that. Kept after
    /// the other fields, where earlier versions do not look.
    #[serde(skip)]
    pub(crate) is_mount_point: Option<bool>,
    /// When it was last touched in any way, as far as the system tells, in nanoseconds since 1970; 0 if that is not known: after
    /// this program has touched it. Kept in the same way.
    #[serde(skip)]
    pub(crate) touched: i64,
    /// To whom it belongs. Kept in the same way.
    #[serde(skip)]
    pub(crate) belongs: Belongs,
}

/// To whom something in the folder belongs, where owners are applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Belongs {
    /// What the disk said; `None` if it was not looked at for that.
    pub(crate) disk: Option<Owner>,
    /// What the tree has for that; a disk may keep another.
    pub(crate) tree: Option<Owner>,
}

impl Belongs {
    /// What it is when the disk says `disk`: what the user has set is what the disk shows otherwise than before. Of what was not
    /// looked at before, an owner counts that is not this process's and that the tree has not: nothing else says whose it is.
    pub(crate) fn seen(old: Option<&Item>, disk: Option<Owner>, in_tree: Option<Owner>) -> Self {
        let before = old.map(|old| old.belongs);
        let tree = match before {
            None => disk,
            Some(Self { disk: Some(before), .. }) if disk.is_some_and(|disk| disk != before) => disk,
            Some(Self { disk: None, tree: None }) if in_tree.is_none() => disk.filter(|disk| *disk != platform::own()),
            Some(Self { tree, .. }) => tree,
        };
        Self { disk, tree }
    }
}

mod bytes_as_arc {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::sync::Arc;

    pub(super) fn serialize<S: Serializer>(bytes: &Arc<[u8]>, to: S) -> Result<S::Ok, S::Error> {
        (**bytes).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<[u8]>, D::Error> {
        Vec::<u8>::deserialize(from).map(Arc::from)
    }
}

impl Item {
    /// An item as it was kept.
    fn of_row(row: &[u8]) -> Result<Self, postcard::Error> {
        let (item, rest): (Self, _) = postcard::take_from_bytes(row)?;
        let (is_mount_point, rest) = if rest.is_empty() { (None, rest) } else { postcard::take_from_bytes(rest)? };
        let (touched, rest) = if rest.is_empty() { (0, rest) } else { postcard::take_from_bytes(rest)? };
        let belongs = if rest.is_empty() { Belongs::default() } else { postcard::from_bytes(rest)? };
        Ok(Self { is_mount_point, touched, belongs, ..item })
    }

    /// What is kept of it.
    fn to_row(&self) -> Option<Vec<u8>> {
        let row = postcard::to_stdvec(self).ok()?;
        let is_plain = self.belongs == Belongs::default();
        if is_plain && self.is_mount_point.is_none() && self.touched == 0 {
            return Some(row);
        }
        let row = postcard::to_extend(&(self.is_mount_point, self.touched), row).ok()?;
        if is_plain { Some(row) } else { postcard::to_extend(&self.belongs, row).ok() }
    }

    /// Its name in the tree.
    pub(crate) fn tree_name(&self) -> Option<Name> {
        self.label.clone().or_else(|| names::tree_name(&self.name))
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.known == Known::Dir
    }

    /// Its content, if a copy of it is cheaper than asking for it.
    fn worth_copying(&self) -> Option<ContentHash> {
        match self.known {
            Known::Content(hash) if self.print.size >= OLD_LEN_MIN => Some(hash),
            _ => None,
        }
    }
}

/// All items.
#[derive(Default)]
pub(crate) struct Index {
    items: HashMap<ItemId, Item>,
    children: HashMap<ItemId, BTreeMap<Arc<[u8]>, ItemId>>,
    by_node: HashMap<NodeId, ItemId>,
    /// Files and directories by what the disk calls them, whatever their names.
    by_file: HashMap<u64, ItemId>,
    /// Items that are one file on the disk, of files with several names here.
    linked: HashMap<u64, BTreeSet<ItemId>>,
    /// One of the files with each content, those that are worth copying.
    by_content: HashMap<ContentHash, ItemId>,
    next: ItemId,
    /// Directories that were the roots of mounted file systems.
    mount_points: BTreeSet<ItemId>,
    touched: BTreeSet<ItemId>,
    /// What stands for items whose nodes others stand for by now.
    ousted: Vec<NodeId>,
}

/// Stands for an item that stands for nothing in the tree. The tree never has such a node: its own say that they are of
/// version 7.
fn nobody(id: ItemId) -> NodeId {
    let mut bytes = [0xFF; 16];
    bytes[8..].copy_from_slice(&id.to_be_bytes());
    NodeId::from_bytes(bytes)
}

impl Index {
    /// An index with nothing but the folder.
    pub(crate) fn new() -> Self {
        let mut index = Self { next: ROOT_ITEM + 1, ..Self::default() };
        index.by_node.insert(NodeId::ROOT, ROOT_ITEM);
        index
    }

    /// The index as it was kept.
    pub(crate) fn restore(rows: Vec<(ItemId, Vec<u8>)>) -> Result<Self, postcard::Error> {
        let mut index = Self::new();
        for (id, row) in rows.into_iter().filter(|(id, _)| *id != ROOT_ITEM) {
            index.next = index.next.max(id + 1);
            let mut item = Item::of_row(&row)?;
            if index.child(item.parent, &item.name).is_some() {
                // An earlier version let two items have one place. This one is not found then, and brought once more.
                item.label = item.tree_name();
                item.name = names::part_name(id).into_bytes().into();
            }
            index.insert(id, item);
        }
        // An earlier version let two items stand for one node: what is found of it here is kept with the next change.
        index.touched.clear();
        Ok(index)
    }

    /// What has changed since the last call, to be kept.
    pub(crate) fn take_rows(&mut self) -> Vec<ItemRow> {
        let touched = std::mem::take(&mut self.touched);
        let row = |id| {
            let item = self.items.get(&id);
            // Everything in an item can be written.
            Some((id, item.and_then(Item::to_row)))
        };
        touched.into_iter().filter_map(row).collect()
    }

    /// What is to be kept of these items by now. It counts as changed nevertheless.
    pub(crate) fn rows_of(&self, ids: &[ItemId]) -> Vec<ItemRow> {
        let row = |id: &ItemId| (*id, self.items.get(id).and_then(Item::to_row));
        ids.iter().map(row).collect()
    }

    /// What was taken could not be kept.
    pub(crate) fn keep_failed(&mut self, rows: impl IntoIterator<Item = ItemId>) {
        self.touched.extend(rows);
    }

    pub(crate) fn fresh_id(&mut self) -> ItemId {
        self.next += 1;
        self.next - 1
    }

    pub(crate) fn get(&self, id: ItemId) -> Option<&Item> {
        self.items.get(&id)
    }

    pub(crate) fn child(&self, dir: ItemId, name: &[u8]) -> Option<ItemId> {
        self.children.get(&dir)?.get(name).copied()
    }

    pub(crate) fn children(&self, dir: ItemId) -> impl Iterator<Item = (&Arc<[u8]>, ItemId)> + '_ {
        self.children.get(&dir).into_iter().flatten().map(|(name, id)| (name, *id))
    }

    pub(crate) fn has_children(&self, dir: ItemId) -> bool {
        self.children.contains_key(&dir)
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = ItemId> + '_ {
        self.items.keys().copied()
    }

    /// Whether an item, if there is such a one, is what its directory has under its name.
    pub(crate) fn is_in_its_place(&self, id: ItemId) -> bool {
        self.get(id).is_none_or(|item| self.child(item.parent, &item.name) == Some(id))
    }

    /// The item that stands for a node.
    pub(crate) fn of_node(&self, node: NodeId) -> Option<ItemId> {
        self.by_node.get(&node).copied()
    }

    /// The item that the disk calls this.
    pub(crate) fn of_file(&self, file: u64) -> Option<ItemId> {
        self.by_file.get(&file).copied()
    }

    /// The items that are this file on the disk, if it has several names here.
    pub(crate) fn linked(&self, file: u64) -> impl Iterator<Item = ItemId> + '_ {
        self.linked.get(&file).into_iter().flatten().copied()
    }

    /// A file with this content. Not every one is known.
    pub(crate) fn of_content(&self, content: &ContentHash) -> Option<ItemId> {
        self.by_content.get(content).copied()
    }

    /// Items that have these contents, whatever their sizes, one for each that there is. Looks at every item.
    pub(crate) fn holders(&self, contents: &HashSet<ContentHash>) -> HashMap<ContentHash, ItemId> {
        let known = self.items.iter().filter_map(|(id, item)| match item.known {
            Known::Content(hash) => Some((hash, *id)),
            _ => None,
        });
        known.filter(|(hash, _)| contents.contains(hash)).collect()
    }

    /// The node that an item stands for.
    pub(crate) fn node(&self, id: ItemId) -> Option<NodeId> {
        if id == ROOT_ITEM { Some(NodeId::ROOT) } else { self.items.get(&id).map(|item| item.node) }
    }

    /// All items below a directory, deepest last, without those that `is_wanted` leaves out and what is below them.
    pub(crate) fn below(&self, dir: ItemId, is_wanted: impl Fn(ItemId) -> bool) -> Vec<ItemId> {
        let inside = |dir| self.children(dir).map(|(_, id)| id).filter(|id| is_wanted(*id)).collect::<Vec<_>>();
        let mut found = inside(dir);
        let mut at = 0;
        while at < found.len() {
            let inner = inside(found[at]);
            found.extend(inner);
            at += 1;
        }
        found
    }

    /// Whether `id` is `dir` or lies below it.
    pub(crate) fn is_within(&self, id: ItemId, dir: ItemId) -> bool {
        let parent = |id: &ItemId| self.items.get(id).map(|item| item.parent);
        std::iter::successors(Some(id), parent).take(self.items.len() + 1).any(|id| id == dir)
    }

    /// Directories that were the roots of mounted file systems.
    pub(crate) fn mount_points(&self) -> impl Iterator<Item = ItemId> + '_ {
        self.mount_points.iter().copied()
    }

    /// Whether an item is, or has below it, the root of a file system that was mounted there.
    pub(crate) fn has_mount_point(&self, id: ItemId) -> bool {
        self.mount_points.iter().any(|mount_point| self.is_within(*mount_point, id))
    }

    /// The path of an item below the root. None if it is not known, or too long.
    pub(crate) fn path(&self, id: ItemId) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT_ITEM {
            let item = self.items.get(&at)?;
            debug_assert!(names.len() < DEPTH_MAX, "a directory lies in itself");
            if names.len() >= DEPTH_MAX {
                return None;
            }
            names.push(item.name.clone());
            at = item.parent;
        }
        Some(names.iter().rev().map(|name| platform::os_name(name)).collect())
    }

    /// Puts an item, in the place of what was known of it. Another one that stood for its node stands for nothing then.
    pub(crate) fn insert(&mut self, id: ItemId, item: Item) {
        self.unlink(id);
        if let Some(other) = self.of_node(item.node) {
            self.oust(other);
        }
        self.children.entry(item.parent).or_default().insert(item.name.clone(), id);
        self.by_node.insert(item.node, id);
        let first = self.by_file.insert(item.print.file, id).filter(|first| *first != id);
        if first.is_some() || self.linked.contains_key(&item.print.file) {
            self.linked.entry(item.print.file).or_default().extend(first.into_iter().chain([id]));
        }
        if let Some(hash) = item.worth_copying() {
            self.by_content.insert(hash, id);
        }
        if item.is_mount_point == Some(true) {
            self.mount_points.insert(id);
        }
        self.items.insert(id, item);
        self.touched.insert(id);
    }

    /// Changes an item.
    pub(crate) fn edit(&mut self, id: ItemId, edit: impl FnOnce(&mut Item)) {
        let Some(before) = self.items.get(&id) else { return };
        let mut item = before.clone();
        edit(&mut item);
        if *before == item {
            return;
        }
        let is_as_it_was = (before.parent, &before.name, before.print) == (item.parent, &item.name, item.print);
        if !is_as_it_was && before.touched == item.touched {
            item.touched = 0;
        }
        self.insert(id, item);
    }

    /// When an item that is as it was known was last touched: not worth a record of its own.
    pub(crate) fn note_touched(&mut self, id: ItemId, touched: i64) {
        if let Some(item) = self.items.get_mut(&id) {
            item.touched = touched;
        }
    }

    /// Forgets an item; what lies in it must have been forgotten or moved before.
    pub(crate) fn remove(&mut self, id: ItemId) {
        self.unlink(id);
        if self.items.remove(&id).is_some() {
            self.touched.insert(id);
        }
    }

    fn oust(&mut self, id: ItemId) {
        let Some(item) = self.items.get_mut(&id) else { return };
        item.node = nobody(id);
        if item.known == Known::Draft {
            // Its bytes may be nowhere else: it is looked at and told anew before anything is done to it.
            item.print.mtime ^= 1;
        }
        self.by_node.insert(item.node, id);
        self.ousted.push(item.node);
        self.touched.insert(id);
    }

    /// What stands for items that have come to stand for nothing since the last call.
    pub(crate) fn take_ousted(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.ousted)
    }

    pub(crate) fn has_ousted(&self) -> bool {
        !self.ousted.is_empty()
    }

    fn unlink(&mut self, id: ItemId) {
        let Some(item) = self.items.get(&id) else { return };
        self.mount_points.remove(&id);
        if let Some(names) = self.children.get_mut(&item.parent)
            && names.get(&item.name) == Some(&id)
        {
            names.remove(&item.name);
            if names.is_empty() {
                self.children.remove(&item.parent);
            }
        }
        if self.by_node.get(&item.node) == Some(&id) {
            self.by_node.remove(&item.node);
        }
        let others = self.linked.get_mut(&item.print.file).map(|linked| {
            linked.remove(&id);
            (linked.first().copied(), linked.len())
        });
        if self.by_file.get(&item.print.file) == Some(&id) {
            match others {
                Some((Some(other), _)) => drop(self.by_file.insert(item.print.file, other)),
                _ => drop(self.by_file.remove(&item.print.file)),
            }
        }
        if others.is_some_and(|(_, len)| len < 2) {
            self.linked.remove(&item.print.file);
        }
        if let Some(hash) = item.worth_copying()
            && self.by_content.get(&hash) == Some(&id)
        {
            self.by_content.remove(&hash);
        }
    }

    /// Where an item is, in the tree's terms.
    pub(crate) fn place(&self, item: &Item) -> Option<Placement> {
        Some(Placement { parent: self.node(item.parent)?, name: item.tree_name()? })
    }

    /// An item as a state of its node. `draft` is what the tree has for it if its bytes are a draft.
    pub(crate) fn state(&self, item: &Item, draft: Option<&Body>) -> Option<State> {
        let body = match &item.known {
            Known::Dir => Body::Dir,
            Known::Symlink(target) => Body::Symlink(target.clone()),
            Known::Content(hash) => {
                let content = Content { hash: *hash, size: item.print.size, sha256: None, manifest: None };
                Body::File(FileBody::Clean(Arc::new(content)))
            }
            Known::Draft => draft.cloned().unwrap_or_else(unknown_bytes),
        };
        let xattrs = syncmount_common::Xattrs::default().with_owner(item.belongs.tree);
        Some(State { names: Names::from_buf([self.place(item)?]), attrs: item.attrs, body, xattrs })
    }

    /// Panics if the look-ups disagree with the items. For tests.
    #[cfg(test)]
    pub(crate) fn check(&self) {
        for (id, item) in &self.items {
            assert_eq!(self.child(item.parent, &item.name), Some(*id), "{item:?}");
            assert_eq!(self.of_node(item.node), Some(*id), "{item:?}");
            assert!(item.parent == ROOT_ITEM || self.items.get(&item.parent).is_some_and(Item::is_dir), "{item:?}");
            assert_eq!(item.is_dir(), item.print.kind == PrintKind::Dir, "{item:?}");
        }
        let names: usize = self.children.values().map(BTreeMap::len).sum();
        assert_eq!(names, self.items.len());
    }
}

/// A file of which nothing is known: different from every other.
fn unknown_bytes() -> Body {
    Body::File(FileBody::Draft(Box::new(syncmount_engine::Draft {
        generation: u64::MAX,
        ..syncmount_engine::Draft::empty()
    })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::Timestamp;

    pub(super) fn item(parent: ItemId, name: &str, node: u8, known: Known) -> Item {
        let kind = if known == Known::Dir { PrintKind::Dir } else { PrintKind::File };
        let print = Print { kind, size: 1, mtime: 5, mode: 0o644, file: u64::from(node) };
        Item {
            parent,
            name: name.as_bytes().into(),
            label: None,
            node: NodeId::from_bytes([node; 16]),
            print,
            attrs: Attrs { mode: 0o644, mtime: Timestamp(5) },
            belongs: Belongs::default(),
            known,
            is_mount_point: None,
            touched: 0,
        }
    }

    #[test]
    fn what_was_kept_comes_back() {
        let mut index = Index::new();
        let (dir, file) = (index.fresh_id(), index.fresh_id());
        index.insert(dir, item(ROOT_ITEM, "d", 1, Known::Dir));
        index.insert(file, item(dir, "f", 2, Known::Draft));
        index.edit(dir, |item| (item.name, item.is_mount_point) = (b"e"[..].into(), Some(true)));
        let rows = index.take_rows().into_iter().map(|(id, row)| (id, row.unwrap())).collect();
        let back = Index::restore(rows).unwrap();
        back.check();
        assert_eq!(back.get(dir), index.get(dir));
        assert_eq!(back.path(file), Some(PathBuf::from("e/f")));
        assert_eq!(back.get(file), index.get(file));
        assert!(back.next > file);
    }

    #[test]
    fn one_item_stands_for_a_node_and_the_other_for_nothing() {
        let mut index = Index::new();
        let (a, b) = (index.fresh_id(), index.fresh_id());
        index.insert(a, item(ROOT_ITEM, "a", 1, Known::Draft));
        index.insert(b, item(ROOT_ITEM, "b", 2, Known::Draft));
        index.edit(b, |item| item.node = NodeId::from_bytes([1; 16]));
        index.check();
        assert_eq!(index.of_node(NodeId::from_bytes([1; 16])), Some(b));
        let ousted = index.take_ousted();
        assert!(ousted.len() == 1 && index.of_node(ousted[0]) == Some(a) && !index.has_ousted());
    }

    #[test]
    fn of_two_items_with_one_place_that_were_kept_one_is_brought_once_more() {
        let kept = |node| postcard::to_stdvec(&item(ROOT_ITEM, "a", node, Known::Draft)).unwrap();
        let index = Index::restore(vec![(1, kept(1)), (2, kept(2))]).unwrap();
        index.check();
        assert_eq!(index.child(ROOT_ITEM, b"a"), Some(1));
        let other = index.get(2).unwrap();
        assert!(names::is_part(&other.name));
        assert_eq!(other.tree_name().unwrap().as_bytes(), b"a");
    }

    #[test]
    fn an_item_that_takes_a_name_leaves_its_own() {
        let mut index = Index::new();
        let (a, b) = (index.fresh_id(), index.fresh_id());
        index.insert(a, item(ROOT_ITEM, "a", 1, Known::Draft));
        index.insert(b, item(ROOT_ITEM, "b", 2, Known::Draft));
        index.remove(b);
        index.edit(a, |item| item.name = b"b"[..].into());
        index.check();
        assert_eq!((index.child(ROOT_ITEM, b"a"), index.child(ROOT_ITEM, b"b")), (None, Some(a)));
        assert_eq!(index.take_rows().len(), 2, "the removal of what was never kept is kept too");
        assert!(index.take_rows().is_empty());
    }
}
