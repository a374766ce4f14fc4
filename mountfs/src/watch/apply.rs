//! Bringing the disk to what the tree shows: the difference between index and tree, done step by step.
//!
//! Before anything of the user's is moved, replaced or removed it is looked at once more. What is not as it was seen is
//! left alone, looked at anew, and told to the tree; only then it is decided again.

use super::beneath::{Found, Spot};
use super::folder::{Folder, Job, Old};
use super::host::Host;
use super::index::{Belongs, Index, Item, Known};
use super::modes::without_setid;
use super::names;
use super::observe::{draft_item, rightful};
use super::part::{Part, clear_part};
use super::platform::{self, Print, PrintKind};
use crate::driver::ItemId;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use syncmount_common::{Attrs, Content, Name, NodeId, Owner};
use syncmount_engine::{Body, Engine, FileBody, State};

/// How many things are done before a record is kept of them.
const RECORD_AFTER: usize = 256;

/// How many things are done for each other's sake at a time: a longer row is taken up again from its other end.
const NESTED_MAX: usize = 128;

/// Contents that are on their way at the same time.
const RUNNING_MAX: usize = 64;

/// Something that is to take its place.
pub(super) struct Announced {
    pub(super) node: NodeId,
    /// The directory that it is to lie in.
    pub(super) dir: ItemId,
    /// Where it is until then, and what it looks like there.
    part: Spot,
    print: Print,
    attrs: Attrs,
    owner: Option<Owner>,
    known: Known,
}

/// What became of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// The disk shows it as the tree does.
    Done,
    /// Its content is on its way.
    Running,
    /// Not now, for a reason that its owner should know, if there is one.
    Later(Option<String>),
}

/// What is at a place that another node is to have.
enum Way {
    Free,
    /// It is the very same thing.
    Same(ItemId),
    /// A file that nobody wants any more: replaced in one step.
    Over(ItemId),
    Blocked(Option<String>),
}

/// Whether the disk has to be changed for a node.
pub(crate) fn differs(engine: &Engine, index: &Index, node: NodeId) -> bool {
    if node == NodeId::ROOT {
        return false;
    }
    let (state, id) = (engine.local(node), index.of_node(node));
    let (state, id) = match (state, id) {
        (None, None) => return false,
        (Some(state), Some(id)) => (state, id),
        _ => return true,
    };
    let Some(item) = index.get(id) else { return true };
    index.place(item).as_ref() != state.names.first()
        || !same_attrs(item, state)
        || engine.applies_owners() && is_to_be_given(item.belongs.tree, state)
        || !same_bytes(engine, item, id, node, state)
}

/// Gives something to an owner; whether it has that. A disk that has no owners, or does not let this process say so, is no reason to
/// lack it.
fn give(spot: &Spot, print: &Print, owner: Owner) -> io::Result<bool> {
    match spot.set_owner(print, owner) {
        Ok(()) => Ok(true),
        Err(error) if platform::is_absent(&error) => Err(error),
        Err(error) => {
            tracing::debug!(?spot, %error, "it cannot be given to {}:{}", owner.uid, owner.gid);
            Ok(false)
        }
    }
}

/// Whether it is to belong to another owner than it does as far as this folder knows.
fn is_to_be_given(has: Option<Owner>, state: &State) -> bool {
    let owner = state.xattrs.owner();
    owner.is_some() && owner != has
}

fn same_attrs(item: &Item, state: &State) -> bool {
    same_attrs_as(item.attrs, item.print.kind, state)
}

fn same_attrs_as(attrs: Attrs, kind: PrintKind, state: &State) -> bool {
    kind == PrintKind::Symlink && attrs.mtime == state.attrs.mtime || attrs == state.attrs
}

fn same_bytes(engine: &Engine, item: &Item, id: ItemId, node: NodeId, state: &State) -> bool {
    match (&item.known, &state.body) {
        (Known::Content(hash), Body::File(FileBody::Clean(content))) => *hash == content.hash,
        (Known::Draft, Body::File(FileBody::Draft(_))) => draft_item(engine, node) == Some(id),
        (Known::Dir, Body::Dir) => true,
        (Known::Symlink(a), Body::Symlink(b)) => a == b,
        _ => false,
    }
}

/// Whether what is at a place is what the index says. With `bytes` it must not have been written to either.
fn is_as_known(spot: &Spot, item: &Item, bytes: bool) -> io::Result<bool> {
    let there = spot.print()?;
    Ok(there.is_some_and(|there| if bytes { there.same_bytes(&item.print) } else { there.same_file(&item.print) }))
}

impl<H: Host> Folder<H> {
    /// Does what is to be done, as far as it can be done now.
    pub fn work(&mut self) -> io::Result<()> {
        self.retry_due(Instant::now());
        let mut done = 0;
        while self.running.len() < RUNNING_MAX && !self.is_over() {
            self.todo.extend(self.index.lock().take_ousted());
            let Some(node) = self.todo.pop_first() else { break };
            if self.running.contains_key(&node) {
                continue;
            }
            let outcome = self.apply(node, &mut Vec::new());
            self.enter(node, outcome);
            done += 1;
            if done % RECORD_AFTER == 0 {
                self.keep()?;
            }
        }
        // Where an open directory keeps its owner from moving it, none stays open.
        self.leave_works(|dir| dir.is_some() || cfg!(windows));
        self.keep()
    }

    fn enter(&mut self, node: NodeId, outcome: io::Result<Outcome>) {
        match outcome {
            Ok(Outcome::Done) => {
                self.later.remove(&node);
                self.pauses.remove(&node);
                // Where it went is not where it was to go, perhaps.
                self.todo.extend(self.heirs.remove(&node));
            }
            Ok(Outcome::Running) => {
                self.later.remove(&node);
            }
            Ok(Outcome::Later(reason)) => self.postpone(node, reason),
            Err(error) => {
                let reason = if platform::is_locked(&error) {
                    format!("a program has it open ({error}); it is tried again")
                } else {
                    format!("{error}; it is tried again")
                };
                self.postpone(node, Some(reason));
            }
        }
    }

    /// Brings one node to the disk. `stack` has the nodes for whose sake this is done.
    fn apply(&mut self, node: NodeId, stack: &mut Vec<NodeId>) -> io::Result<Outcome> {
        if node == NodeId::ROOT {
            return Ok(Outcome::Done);
        }
        if stack.len() > NESTED_MAX || stack.contains(&node) {
            return Ok(Outcome::Later(None));
        }
        let (state, id) = self.with(|engine, index| {
            if let Some(item) = draft_item(engine, node).filter(|item| index.get(*item).is_some()) {
                index.edit(item, |item| item.node = node);
            }
            if let Some(id) = index.of_node(node) {
                rightful(engine, index, id);
            }
            (engine.local(node).cloned(), index.of_node(node))
        });
        let dir = state.as_ref().and_then(|state| state.names.first()).map(|place| place.parent);
        if let Some(why) = self.unavailable_at(id, dir) {
            return Ok(Outcome::Later(Some(why)));
        }
        stack.push(node);
        let outcome = match (state, id) {
            (None, None) => Ok(Outcome::Done),
            (None, Some(id)) => self.take_away(id, stack),
            (Some(state), id) => self.show(node, &state, id, stack),
        };
        stack.pop();
        outcome
    }

    fn show(
        &mut self,
        node: NodeId,
        state: &Arc<State>,
        id: Option<ItemId>,
        stack: &mut Vec<NodeId>,
    ) -> io::Result<Outcome> {
        let Some(place) = state.names.first() else { return Ok(Outcome::Done) };
        if self.index.lock().of_node(place.parent).is_none() {
            self.show_above(place.parent, stack);
        }
        let Some(dir) = self.index.lock().of_node(place.parent) else { return Ok(Outcome::Later(None)) };
        let Some(name) = self.spelling(node, id, dir, &place.name) else {
            return Ok(Outcome::Later(Some("its name cannot be spelled on this system".into())));
        };
        let has_mount_points = self.index.lock().mount_points().next().is_some();
        if has_mount_points && !self.is_in_place(dir) {
            return Ok(self.in_the_way(&self.path_of(dir).unwrap_or_default()));
        }
        match id {
            Some(id) if self.is_another(id, state) => {
                let gone = self.disown(id)?;
                self.todo.insert(gone);
                self.bring(node, state, dir, &name, stack)
            }
            None => self.bring(node, state, dir, &name, stack),
            Some(id) => {
                let here = self.index.lock().get(id).map(|item| (item.parent, item.name.clone()));
                if here != Some((dir, name.clone()))
                    && let Some(later) = self.shift(id, state, dir, &name, stack)?
                {
                    return Ok(later);
                }
                self.refresh(node, id, state)
            }
        }
    }

    /// Whether an item can never become what its node is. An honest server tells of no other kind of a node, nor of another
    /// target, but what was told first may have been a lie.
    fn is_another(&self, id: ItemId, state: &State) -> bool {
        self.index.lock().get(id).is_some_and(|item| match (&item.known, &state.body) {
            (Known::Draft, _) | (Known::Dir, Body::Dir) | (Known::Content(_), Body::File(_)) => false,
            (Known::Symlink(here), Body::Symlink(there)) => here != there,
            _ => true,
        })
    }

    /// Parts an item from its node, and gives the node that it stands for then, which is gone: it makes way for the other as
    /// what was removed does. If this process is killed then, neither looks like a change of the user.
    pub(super) fn disown(&mut self, id: ItemId) -> io::Result<NodeId> {
        self.host.change(|engine, now| {
            let (gone, mut index) = (engine.fresh_id(now), self.index.lock());
            index.edit(id, |item| item.node = gone);
            (gone, index.rows_of(&[id]))
        })
    }

    /// Makes the directories above something that are not there yet, those further up first.
    fn show_above(&mut self, parent: NodeId, stack: &mut Vec<NodeId>) {
        let missing = self.with(|engine, index| {
            let above = |node: &NodeId| Some(engine.local(*node)?.names.first()?.parent);
            let is_missing = |node: &NodeId| *node != NodeId::ROOT && index.of_node(*node).is_none();
            std::iter::successors(Some(parent), above).take_while(is_missing).take(engine.len()).collect::<Vec<_>>()
        });
        for node in missing.into_iter().rev() {
            if self.is_over() || self.index.lock().of_node(node).is_some() {
                continue;
            }
            let outcome = self.apply(node, stack);
            let is_done = matches!(outcome, Ok(Outcome::Done));
            self.enter(node, outcome);
            if !is_done {
                return;
            }
        }
    }

    /// How a node's name is spelled on this disk. One that is there already stays spelled as it is.
    fn spelling(&self, node: NodeId, id: Option<ItemId>, dir: ItemId, name: &Name) -> Option<Arc<[u8]>> {
        let index = self.index.lock();
        let item = id.and_then(|id| index.get(id)).filter(|item| !names::is_part(&item.name));
        if let Some(item) = item.filter(|item| item.parent == dir && item.tree_name().as_ref() == Some(name)) {
            return Some(item.name.clone());
        }
        let path = index.path(dir)?;
        let is_taken = |local: &[u8]| {
            // Most names are free, and the disk knows that faster than all that is there is compared.
            let is_free = || self.root.print(&path.join(platform::os_name(local))).is_ok_and(|there| there.is_none());
            !names::TELLS_CASES
                && !is_free()
                && index.children(dir).any(|(other, other_id)| Some(other_id) != id && names::clash(other, local))
        };
        names::disk_name(name, node, is_taken).map(Arc::from)
    }

    /// Makes what is not there yet.
    fn bring(
        &mut self,
        node: NodeId,
        state: &State,
        dir: ItemId,
        name: &Arc<[u8]>,
        stack: &mut Vec<NodeId>,
    ) -> io::Result<Outcome> {
        let Some(path) = self.path_of(dir).map(|dir| dir.join(platform::os_name(name))) else {
            return Ok(Outcome::Later(None));
        };
        let other = self.index.lock().child(dir, name);
        if let Body::File(FileBody::Clean(content)) = &state.body
            && other.is_none_or(|other| !self.is_same_thing(other, state))
        {
            // What is there may have these bytes.
            if self.restless.contains_key(&path) {
                return Ok(Outcome::Later(None));
            }
            return self.start(node, content, state, dir, None);
        }
        match self.make_way(dir, name, state, stack)? {
            Way::Same(id) => {
                self.index.lock().edit(id, |item| item.node = node);
                return self.refresh(node, id, state);
            }
            Way::Blocked(reason) => return Ok(Outcome::Later(reason)),
            Way::Free | Way::Over(_) => {}
        }
        if let Body::File(FileBody::Draft(draft)) = &state.body
            && draft.staging.is_some_and(|id| crate::driver::item_of_draft(id).is_some())
        {
            // Bytes that were in the folder and are not any more: what the server has is shown.
            self.host.change(|engine, now| (engine.abandon_draft(node, now), Vec::new()))?;
            self.todo.insert(node);
        }
        let known = match &state.body {
            Body::Dir => Known::Dir,
            Body::Symlink(target) => Known::Symlink(target.clone()),
            Body::File(_) => return Ok(Outcome::Later(None)),
        };
        let Some(spot) = self.reach(&path, dir)? else { return Ok(Outcome::Later(None)) };
        let part = self.fresh_part(dir)?;
        let owner = self.owner_of(state);
        let made = self.make_at(&part, &known, state.attrs, owner).and_then(|(print, attrs)| {
            let new = Announced { node, dir, part: part.clone(), print, attrs, owner, known: known.clone() };
            self.put_new(&new, state, name, &spot, &path)
        });
        if !matches!(made, Ok(Outcome::Done)) {
            clear_part(&part, &known);
        }
        match made {
            Err(error) if platform::is_absent(&error) => Ok(self.in_the_way(path.parent().unwrap_or(&path))),
            made => made,
        }
    }

    /// Makes a directory or a symlink, and tells the attributes that it has there.
    fn make_at(
        &self,
        part: &Spot,
        known: &Known,
        mut attrs: Attrs,
        owner: Option<Owner>,
    ) -> io::Result<(Print, Attrs)> {
        match known {
            Known::Symlink(target) => part.make_link(target)?,
            _ => {
                part.make_dir()?;
                // Only what its owner may write to goes from one directory to another: the rest of it is done there.
                attrs.mode |= 0o300;
            }
        }
        let print = part.print()?.ok_or(io::ErrorKind::NotFound)?;
        let is_given = owner.map_or(Ok(true), |owner| give(part, &print, owner))?;
        self.set_attrs(part, &print, attrs, is_given)?;
        Ok((part.print()?.ok_or(io::ErrorKind::NotFound)?, attrs))
    }

    /// Says, before something takes its place, what it is: should this process be killed then, it is known again there and
    /// not taken for something that the user has made.
    fn announce(&mut self, new: &Announced, label: Option<Name>) -> io::Result<ItemId> {
        let name: Arc<[u8]> = platform::name_bytes(new.part.name()).unwrap_or_default().into();
        let rows = {
            let mut index = self.index.lock();
            let (id, former) = (index.fresh_id(), index.of_node(new.node));
            let Announced { node, dir, print, attrs, owner, .. } = *new;
            let (known, is_mount_point, touched) = (new.known.clone(), Some(false), 0);
            // What the disk says of it is not known before it is looked at.
            let belongs = Belongs { disk: None, tree: owner };
            let item = Item { parent: dir, name, label, node, print, attrs, known, is_mount_point, touched, belongs };
            index.insert(id, item);
            let ids: Vec<ItemId> = former.into_iter().chain([id]).collect();
            (id, former, index.rows_of(&ids))
        };
        let (id, former, rows) = rows;
        self.host.keep(rows).inspect_err(|_| self.take_back(id, former, new.node))?;
        Ok(id)
    }

    /// What was announced has not come.
    fn take_back(&self, id: ItemId, former: Option<ItemId>, node: NodeId) {
        let mut index = self.index.lock();
        index.remove(id);
        if let Some(former) = former {
            index.edit(former, |item| item.node = node);
        }
    }

    /// Puts something new in a place that is free: at `spot`, whose path is `path`.
    fn put_new(
        &mut self,
        new: &Announced,
        state: &State,
        name: &Arc<[u8]>,
        spot: &Spot,
        path: &Path,
    ) -> io::Result<Outcome> {
        let tree_name = state.names.first().map(|place| place.name.clone());
        let id = self.announce(new, tree_name.clone())?;
        let put = spot.dir().in_writable(|| new.part.rename_new(spot));
        match put.and_then(|()| spot.look()) {
            Ok(Some(Found { print, touched, owner, .. })) => {
                let owner = owner.filter(|_| self.owners);
                let label = tree_name.filter(|label| *label.as_bytes() != **name);
                self.index.lock().edit(id, |item| {
                    let belongs = Belongs { disk: owner, ..item.belongs };
                    *item = Item { name: name.clone(), label, print, touched, belongs, ..item.clone() };
                });
                self.note_dir(new.dir);
                if !same_attrs_as(new.attrs, new.print.kind, state) || self.owners && is_to_be_given(new.owner, state) {
                    self.todo.insert(new.node);
                }
                return Ok(Outcome::Done);
            }
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                self.take_back(id, None, new.node);
                return self.elsewhere(new, error);
            }
        }
        self.take_back(id, None, new.node);
        Ok(self.in_the_way(path))
    }

    fn note_dir(&mut self, dir: ItemId) {
        let path = self.path_of(dir);
        self.unsynced.extend(path);
    }

    fn is_same_thing(&self, id: ItemId, state: &State) -> bool {
        self.with(|engine, index| {
            let Some(item) = index.get(id) else { return false };
            let is_free = engine.local(item.node).is_none();
            let same = match (&item.known, &state.body) {
                (Known::Content(hash), Body::File(FileBody::Clean(content))) => *hash == content.hash,
                (Known::Dir, Body::Dir) => true,
                (Known::Symlink(a), Body::Symlink(b)) => a == b,
                _ => false,
            };
            is_free && same
        })
    }

    /// Sees to it that another node can have a place.
    fn make_way(&mut self, dir: ItemId, name: &[u8], state: &State, stack: &mut Vec<NodeId>) -> io::Result<Way> {
        let Some(other) = self.index.lock().child(dir, name) else { return Ok(Way::Free) };
        if self.is_same_thing(other, state) {
            return Ok(Way::Same(other));
        }
        let Some(item) = self.index.lock().get(other).cloned() else { return Ok(Way::Free) };
        let is_wanted = self.host.look(|engine| engine.local(item.node).is_some());
        let is_cycle = stack.contains(&item.node);
        match (is_wanted, item.is_dir()) {
            (false, false) if matches!(state.body, Body::File(_)) && item.print.kind == PrintKind::File => {
                return Ok(Way::Over(other));
            }
            (false, true) if self.index.lock().has_children(other) => self.park(other)?,
            (true, _) if is_cycle => self.park(other)?,
            _ => {
                let outcome = self.apply(item.node, stack);
                let reason = match &outcome {
                    Ok(Outcome::Later(reason)) => reason.clone(),
                    Err(error) => Some(error.to_string()),
                    _ => None,
                };
                self.enter(item.node, outcome);
                if self.index.lock().child(dir, name) == Some(other) {
                    return Ok(Way::Blocked(reason));
                }
            }
        }
        Ok(if self.index.lock().child(dir, name).is_some() { Way::Blocked(None) } else { Way::Free })
    }

    /// Puts something aside whose place another node is to have before its own is free.
    fn park(&mut self, id: ItemId) -> io::Result<()> {
        let Some((path, item)) = self.found(id) else { return Ok(()) };
        let Some(spot) = self.reach(&path, item.parent)? else { return Ok(()) };
        if !is_as_known(&spot, &item, false)? {
            self.look_again(&path);
            return Ok(());
        }
        let part = self.free_name(spot.dir())?;
        spot.dir().in_writable(|| spot.rename_new(&part))?;
        let label = item.tree_name();
        let name: Arc<[u8]> = platform::name_bytes(part.name()).unwrap_or_default().into();
        self.index.lock().edit(id, |item| {
            item.name = name;
            item.label = label;
        });
        self.note_dir(item.parent);
        self.todo.insert(item.node);
        Ok(())
    }

    /// Renames or moves. `Some` if it cannot be done now.
    fn shift(
        &mut self,
        id: ItemId,
        state: &State,
        dir: ItemId,
        name: &Arc<[u8]>,
        stack: &mut Vec<NodeId>,
    ) -> io::Result<Option<Outcome>> {
        if !self.leave(dir, id, stack) {
            return Ok(Some(Outcome::Later(None)));
        }
        match self.make_way(dir, name, state, stack)? {
            Way::Free => {}
            Way::Over(other) => {
                let over = self.remove_file(other)?;
                if over != Outcome::Done {
                    return Ok(Some(over));
                }
            }
            Way::Same(other) => {
                // Two of the same: a directory that both go up in is emptied first.
                if self.index.lock().has_children(other) {
                    self.park(other)?;
                } else {
                    let gone = self.take_away(other, stack)?;
                    if gone != Outcome::Done {
                        return Ok(Some(gone));
                    }
                }
            }
            Way::Blocked(reason) => return Ok(Some(Outcome::Later(reason))),
        }
        let (Some((from, item)), Some(to)) = (self.found(id), self.path_of(dir)) else {
            return Ok(Some(Outcome::Later(None)));
        };
        let to = to.join(platform::os_name(name));
        let (Some(old), Some(new)) = (self.reach(&from, item.parent)?, self.reach(&to, dir)?) else {
            return Ok(Some(Outcome::Later(None)));
        };
        if !is_as_known(&old, &item, false)? {
            return Ok(Some(self.in_the_way(&from)));
        }
        let rename = || new.dir().in_writable(|| old.rename_new(&new));
        match old.dir().in_writable(rename) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(Some(self.in_the_way(&to))),
            Err(error) if platform::is_absent(&error) => return Ok(Some(self.in_the_way(&from))),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => return self.carry_over(id, &item).map(Some),
            Err(error) => return Err(error),
        }
        self.note_dir(item.parent);
        let label = state.names.first().map(|place| place.name.clone()).filter(|label| *label.as_bytes() != **name);
        self.index.lock().edit(id, |item| {
            item.parent = dir;
            item.name = name.clone();
            item.label = label;
        });
        self.note_dir(dir);
        Ok(None)
    }

    /// A directory that something is to go into may still lie in it on the disk: it goes elsewhere first.
    fn leave(&mut self, dir: ItemId, from: ItemId, stack: &mut Vec<NodeId>) -> bool {
        let mut at = dir;
        while self.index.lock().is_within(dir, from) {
            let Some((node, parent)) = self.index.lock().get(at).map(|item| (item.node, item.parent)) else {
                return false;
            };
            if at == from {
                return false;
            }
            let outcome = self.apply(node, stack);
            self.enter(node, outcome);
            at = parent;
        }
        true
    }

    /// Something that nobody has looked at is where something was to be done.
    fn in_the_way(&mut self, path: &Path) -> Outcome {
        self.look_again(path);
        Outcome::Later(None)
    }

    /// Bytes, mode and mtime of something that is in its place.
    fn refresh(&mut self, node: NodeId, id: ItemId, state: &State) -> io::Result<Outcome> {
        let Some((path, item)) = self.found(id) else { return Ok(Outcome::Later(None)) };
        let same = self.with(|engine, _| same_bytes(engine, &item, id, node, state));
        if !same {
            return match &state.body {
                Body::File(FileBody::Clean(content)) if item.known != Known::Draft => {
                    let known = match item.known {
                        Known::Content(hash) => Some(hash),
                        _ => None,
                    };
                    let old = Old { root: self.root.clone(), path, known };
                    self.start(node, content, state, item.parent, Some(old))
                }
                Body::File(FileBody::Clean(_)) => {
                    // A draft that the tree does not have any more: whatever the file is, it is told.
                    self.distrust(id);
                    Ok(self.in_the_way(&path))
                }
                _ => Ok(Outcome::Later(None)),
            };
        }
        let given = state.xattrs.owner().filter(|_| self.owners && is_to_be_given(item.belongs.tree, state));
        if !same_attrs(&item, state) || given.is_some() {
            let Some(spot) = self.reach(&path, item.parent)? else { return Ok(Outcome::Later(None)) };
            if !is_as_known(&spot, &item, item.known != Known::Dir)? || self.is_given_away(&spot, &item)? {
                return Ok(self.in_the_way(&path));
            }
            let is_given = given.map_or(Ok(true), |owner| give(&spot, &item.print, owner))?;
            // To be given away takes the bits away with which a file is executed as its owner.
            let is_new_mode = item.attrs.mode != state.attrs.mode || given.is_some();
            if is_new_mode && item.print.kind != PrintKind::Symlink {
                spot.set_mode(&item.print, self.mode_of(state.attrs, is_given))?;
            }
            if item.attrs.mtime != state.attrs.mtime {
                spot.set_mtime(item.print.kind, state.attrs.mtime)?;
            }
            if let Some(found) = spot.look()?.filter(|found| found.print.same_file(&item.print)) {
                self.index.lock().edit(id, |item| {
                    (item.print, item.touched) = (found.print, found.touched);
                    item.attrs = state.attrs;
                    if given.is_some() {
                        item.belongs = Belongs { disk: found.owner, tree: given };
                    }
                });
            }
        }
        self.shown.push(node);
        Ok(Outcome::Done)
    }

    /// What a file is shall be found out by the next look at it.
    fn distrust(&mut self, id: ItemId) {
        self.index.lock().edit(id, |item| item.print.mtime ^= 1);
    }

    fn set_attrs(&self, spot: &Spot, print: &Print, attrs: Attrs, is_given: bool) -> io::Result<()> {
        let kind = print.kind;
        if kind != PrintKind::Symlink {
            spot.set_mode(print, self.mode_of(attrs, is_given))?;
        }
        match spot.set_mtime(kind, attrs.mtime) {
            // A time that this disk cannot hold is no reason to lack the file.
            Err(error) if kind == PrintKind::Symlink => {
                tracing::debug!(?spot, %error, "the time of a symlink cannot be set");
                Ok(())
            }
            set => set,
        }
    }

    /// The permission bits that something gets, which was given to its owner or could not be.
    fn mode_of(&self, attrs: Attrs, is_given: bool) -> u32 {
        let mode = self.modes.on_disk(attrs.mode);
        if is_given { mode } else { without_setid(mode) }
    }

    /// Whether what is at a place was given to another owner since it was looked at.
    fn is_given_away(&self, spot: &Spot, item: &Item) -> io::Result<bool> {
        let Some(known) = item.belongs.disk.filter(|_| self.owners) else { return Ok(false) };
        Ok(spot.look()?.is_some_and(|found| found.owner.is_some_and(|owner| owner != known)))
    }

    /// The owner that something gets on the disk.
    fn owner_of(&self, state: &State) -> Option<Owner> {
        state.xattrs.owner().filter(|_| self.owners)
    }

    /// Has a content put together.
    fn start(
        &mut self,
        node: NodeId,
        content: &Arc<Content>,
        state: &State,
        dir: ItemId,
        old: Option<Old>,
    ) -> io::Result<Outcome> {
        let part = match self.fresh_part(dir) {
            Err(error) if platform::is_absent(&error) => {
                let path = self.path_of(dir).unwrap_or_default();
                return Ok(self.in_the_way(&path));
            }
            part => part?,
        };
        let (attrs, mode) = (state.attrs, self.modes.on_disk(state.attrs.mode));
        let owner = self.owner_of(state);
        self.running.insert(node, content.hash);
        self.jobs.push(Job { node, content: content.clone(), attrs, mode, owner, part, old });
        Ok(Outcome::Running)
    }

    /// A content has been put together, durably, as a file that looks like this; or it could not be, and nothing is there.
    pub fn put_together(&mut self, job: &Job, result: &Result<Part, String>) {
        self.running.remove(&job.node);
        let outcome = match result {
            Ok(Part(print)) => self.place(job, *print),
            Err(reason) => Ok(Outcome::Later(Some(reason.clone()))),
        };
        if let Ok(Part(print)) = result
            && job.part.print().is_ok_and(|there| there.is_some_and(|there| there.same_file(print)))
            && let Err(error) = job.part.remove_file()
        {
            tracing::warn!(part = ?job.part, %error, "cannot be removed");
        }
        self.enter(job.node, outcome);
    }

    fn place(&mut self, job: &Job, print: Print) -> io::Result<Outcome> {
        let (state, id) = self.with(|engine, index| (engine.local(job.node).cloned(), index.of_node(job.node)));
        let is_wanted =
            |state: &Arc<State>| state.body.draft().is_none() && state.body.content_hash() == Some(job.content.hash);
        let Some(state) = state.filter(is_wanted) else {
            self.todo.insert(job.node);
            return Ok(Outcome::Later(None));
        };
        let Some(place) = state.names.first() else { return Ok(Outcome::Later(None)) };
        let dir = self.index.lock().of_node(place.parent);
        let Some(dir) = dir else { return Ok(Outcome::Later(None)) };
        let Some(name) = self.spelling(job.node, id, dir, &place.name) else { return Ok(Outcome::Later(None)) };
        let mut stack = vec![job.node];
        let new = Announced {
            node: job.node,
            dir,
            part: job.part.clone(),
            print,
            attrs: job.attrs,
            owner: job.owner,
            known: Known::Content(job.content.hash),
        };
        if let Some(id) = id {
            let here = self.index.lock().get(id).map(|item| (item.parent, item.name.clone()));
            if here != Some((dir, name.clone()))
                && let Some(later) = self.shift(id, &state, dir, &name, &mut stack)?
            {
                return Ok(later);
            }
            return self.put_over(&new, id, &state);
        }
        match self.make_way(dir, &name, &state, &mut stack)? {
            Way::Over(other) => self.put_over(&new, other, &state),
            Way::Same(other) => {
                self.index.lock().edit(other, |item| item.node = job.node);
                self.todo.insert(job.node);
                Ok(Outcome::Later(None))
            }
            Way::Blocked(reason) => Ok(Outcome::Later(reason)),
            Way::Free => {
                let Some(path) = self.path_of(dir).map(|dir| dir.join(platform::os_name(&name))) else {
                    return Ok(Outcome::Later(None));
                };
                self.todo.insert(job.node);
                let Some(spot) = self.reach(&path, dir)? else { return Ok(Outcome::Later(None)) };
                match self.put_new(&new, &state, &name, &spot, &path) {
                    Err(error) if platform::is_absent(&error) => Ok(self.in_the_way(path.parent().unwrap_or(&path))),
                    put => put,
                }
            }
        }
    }

    /// Puts a new version in the place of `old`, if that is as it was seen.
    fn put_over(&mut self, new: &Announced, old: ItemId, state: &State) -> io::Result<Outcome> {
        let Some((path, item)) = self.found(old) else { return Ok(Outcome::Later(None)) };
        let Some(spot) = self.reach(&path, item.parent)? else { return Ok(Outcome::Later(None)) };
        if !is_as_known(&spot, &item, true)? || self.is_given_away(&spot, &item)? {
            return Ok(self.in_the_way(&path));
        }
        let former = self.index.lock().of_node(new.node);
        let tree_name = state.names.first().map(|place| place.name.clone());
        let id = self.announce(new, tree_name.clone())?;
        let is_expected = |spot: &Spot| is_as_known(spot, &item, true);
        let replaced = match spot.dir().in_writable(|| new.part.replace(&spot, is_expected)) {
            Ok(true) => spot.look(),
            Ok(false) => Ok(None),
            Err(error) if platform::is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        };
        let Ok(Some(Found { print, touched, owner, .. })) = replaced else {
            self.take_back(id, former, new.node);
            return match replaced {
                Ok(_) => Ok(self.in_the_way(&path)),
                Err(error) => self.elsewhere(new, error),
            };
        };
        let label = tree_name.filter(|label| *label.as_bytes() != *item.name);
        let (dir, name) = (item.parent, item.name);
        let mut index = self.index.lock();
        index.remove(old);
        let belongs = Belongs { disk: owner.filter(|_| self.owners), tree: new.owner };
        index.edit(id, |item| *item = Item { parent: dir, name, label, print, touched, belongs, ..item.clone() });
        drop(index);
        self.note_dir(dir);
        self.todo.extend([new.node, item.node]);
        Ok(Outcome::Done)
    }

    /// Removes what the tree does not have any more.
    fn take_away(&mut self, id: ItemId, stack: &mut Vec<NodeId>) -> io::Result<Outcome> {
        let Some(item) = self.index.lock().get(id).cloned() else { return Ok(Outcome::Done) };
        if let Some(heir) = self.heir(&item) {
            let same = self
                .host
                .look(|engine| engine.local(heir).cloned())
                .is_some_and(|state| self.is_same_thing(id, &state));
            if same {
                self.index.lock().edit(id, |item| item.node = heir);
            }
            self.todo.insert(heir);
            if same {
                return Ok(Outcome::Done);
            }
            if item.print.kind == PrintKind::File && self.is_file(heir) {
                // It stays until the other takes its place in one step, or goes elsewhere before.
                self.heirs.insert(heir, item.node);
                return Ok(Outcome::Later(None));
            }
        }
        match item.print.kind {
            PrintKind::Dir => self.remove_dir(id, stack),
            _ => self.remove_file(id),
        }
    }

    fn is_file(&self, node: NodeId) -> bool {
        self.host
            .look(|engine| engine.local(node).is_some_and(|state| matches!(state.body, Body::File(FileBody::Clean(_)))))
    }

    /// The node that the tree has in the place of an item and that is not on the disk yet.
    fn heir(&self, item: &Item) -> Option<NodeId> {
        self.with(|engine, index| {
            let heir = engine.child(index.node(item.parent)?, item.tree_name()?.as_bytes())?;
            index.of_node(heir).is_none().then_some(heir)
        })
    }

    fn remove_dir(&mut self, id: ItemId, stack: &mut Vec<NodeId>) -> io::Result<Outcome> {
        // What lies deepest first: each directory is empty when it is its turn.
        let inside = self.with(|engine, index| {
            let children = |dir| index.children(dir).map(|(_, child)| child).collect::<Vec<_>>();
            let (mut inside, mut at) = (children(id), 0);
            while let Some(child) = inside.get(at).copied() {
                if index.node(child).is_some_and(|node| engine.local(node).is_none()) {
                    inside.extend(children(child));
                }
                at += 1;
            }
            inside
        });
        let mut why = None;
        for child in inside.into_iter().rev() {
            let Some(node) = self.index.lock().node(child) else { continue };
            if self.is_over() {
                return Ok(Outcome::Later(None));
            }
            let outcome = self.apply(node, stack);
            if let Ok(Outcome::Later(Some(reason))) = &outcome {
                why = Some(reason.clone());
            }
            self.enter(node, outcome);
        }
        if self.index.lock().has_children(id) {
            return Ok(Outcome::Later(why));
        }
        let Some((path, item)) = self.found(id) else { return Ok(Outcome::Done) };
        let Some(spot) = self.reach(&path, item.parent)? else { return Ok(Outcome::Later(None)) };
        if !is_as_known(&spot, &item, false)? {
            return Ok(self.in_the_way(&path));
        }
        match spot.dir().in_writable(|| spot.remove_dir()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                self.look_again.trees.insert(path);
                let reason = "it was removed on another device, and here something is in it that is not shared";
                return Ok(Outcome::Later(Some(reason.into())));
            }
            Err(error) => return Err(error),
        }
        self.note_dir(item.parent);
        self.index.lock().remove(id);
        Ok(Outcome::Done)
    }

    /// Removes a file, if it is as it was seen also in the moment in which it loses its name.
    fn remove_file(&mut self, id: ItemId) -> io::Result<Outcome> {
        let Some((path, item)) = self.found(id) else { return Ok(Outcome::Done) };
        let Some(spot) = self.reach(&path, item.parent)? else { return Ok(Outcome::Later(None)) };
        if !is_as_known(&spot, &item, true)? {
            return Ok(self.in_the_way(&path));
        }
        let part = self.free_name(spot.dir())?;
        let removed = spot.dir().in_writable(|| {
            spot.rename_new(&part)?;
            if matches!(is_as_known(&part, &item, true), Ok(true)) {
                return part.remove_file().map(|()| true);
            }
            part.rename_new(&spot).map(|()| false)
        });
        if !removed? {
            return Ok(self.in_the_way(&path));
        }
        self.note_dir(item.parent);
        self.index.lock().remove(id);
        Ok(Outcome::Done)
    }

    /// Paths of what waits, with the reason.
    pub fn reasons(&self) -> Vec<(PathBuf, String)> {
        let nodes = self.later.iter().filter_map(|(node, later)| Some((*node, later.reason.clone()?)));
        nodes
            .map(|(node, reason)| {
                let path = self.with(|engine, index| {
                    let shown = engine.path(node).map(PathBuf::from);
                    shown.or_else(|| index.of_node(node).and_then(|id| index.path(id)))
                });
                (path.unwrap_or_default(), reason)
            })
            .collect()
    }
}
