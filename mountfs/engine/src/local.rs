//! What a user's process does to the tree here: create, write, rename, remove. Checked and done at once, in memory.

use crate::engine::{Engine, is_dir};
use crate::output::{Changed, Effect};
use crate::scope::Scope;
use crate::state::{Body, Draft, FileBody, Names, State, in_order};
use smallvec::smallvec;
use std::sync::Arc;
use syncmount_common::node::{LEVELS_MAX, NAMES_MAX};
use syncmount_common::{Attrs, Content, ContentHash, Name, NodeId, NodeKind, Placement, Timestamp, Xattrs};

/// Why a change of the tree is refused. The names are POSIX's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// ENOENT.
    #[error("there is no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("the name is taken")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDir,
    /// EISDIR.
    #[error("is a directory")]
    IsDir,
    /// ENOTEMPTY.
    #[error("the directory is not empty")]
    NotEmpty,
    /// EMLINK.
    #[error("the file has as many names as it can have")]
    TooManyNames,
    /// EPERM: a second name for a directory.
    #[error("a directory has one name")]
    OneName,
    /// EINVAL: a directory into itself.
    #[error("a directory cannot be moved into itself")]
    IntoItself,
    /// ENAMETOOLONG: too many directories would lie in each other.
    #[error("at most 2,048 directories can lie in each other")]
    TooDeep,
    /// EXDEV: from the folder to where names stay on this machine, of what cannot simply change sides. A copy can.
    #[error("it cannot be moved where names stay on this machine; it can be copied")]
    OtherScope,
    /// No errno: the feed has just changed the file under the writer, who must look again before telling.
    #[error("the file has just become another one")]
    Stale,
}

/// What the writer believes the tree knows about the file: a guard against changes that crossed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// This content.
    Clean(ContentHash),
    /// A draft with this staging file.
    Draft(Option<u64>),
}

/// What a rename does with a node that has the new name already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// Takes its place; it is removed.
    Replace,
    /// Refuses.
    NoReplace,
    /// Gets the old name in turn. Both must exist.
    Exchange,
}

/// What became of a rename.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Renamed {
    /// The node that was removed to make place.
    pub replaced: Option<NodeId>,
    /// Nodes that went from the folder to where names stay here, and as which nodes they go on there. Whoever has them
    /// open follows.
    pub became: Vec<(NodeId, NodeId)>,
}

/// What a rename is to where a node belongs.
#[derive(Clone, Copy)]
enum Crossing {
    /// Nothing: it is the folder's and stays so.
    None,
    /// It stays on this machine, as this.
    Stays(Scope),
    /// It becomes the folder's.
    Into,
    /// It was the folder's and stays on this machine from now on.
    OutOf,
}

/// How far a file has been written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DraftUpdate {
    /// Larger than at the last call if any byte or the size changed.
    pub generation: u64,
    /// Size in bytes.
    pub size: u64,
    /// The staging file.
    pub staging: Option<u64>,
    /// Ranges that it holds.
    pub present: Vec<(u64, u64)>,
    /// What lies beneath.
    pub base: Option<Arc<Content>>,
    /// How much of that counts.
    pub base_len: u64,
    /// When it was last written.
    pub mtime: Timestamp,
    /// Whether it may be sent.
    pub ready: bool,
}

fn draft_of(update: DraftUpdate, prepared: Option<Arc<Content>>) -> Body {
    Body::File(FileBody::Draft(Box::new(Draft {
        generation: update.generation,
        size: update.size,
        staging: update.staging,
        present: update.present,
        base: update.base,
        base_len: update.base_len,
        ready: update.ready,
        prepared,
    })))
}

impl Engine {
    /// Makes a node. A file begins as an empty draft that is not ready to be sent.
    pub fn create(
        &mut self,
        parent: NodeId,
        name: Name,
        attrs: Attrs,
        body: Body,
        now: Timestamp,
    ) -> Result<NodeId, Refusal> {
        self.require_dir(parent)?;
        if self.tree.child(parent, name.as_bytes()).is_some() {
            return Err(Refusal::Exists);
        }
        if body == Body::Dir {
            self.require_level(parent)?;
        }
        let id = self.new_id(now);
        let place = Placement { parent, name };
        let scope = self.scope_at(&place, body.kind() == NodeKind::Dir);
        let state = State { names: smallvec![place], attrs, body, xattrs: Xattrs::default() };
        self.put(id, Some(Arc::new(state)), None, now);
        self.entries_changed(parent, now);
        match scope {
            Scope::Shared => self.revive(parent),
            scope => self.set_scope(id, scope),
        }
        Ok(id)
    }

    /// Makes a pipe or a socket: `attrs` has its type bits. It means nothing on another machine, and stays on this one whatever
    /// it is called and wherever it goes.
    pub fn create_special(
        &mut self,
        parent: NodeId,
        name: Name,
        attrs: Attrs,
        now: Timestamp,
    ) -> Result<NodeId, Refusal> {
        self.require_dir(parent)?;
        if self.tree.child(parent, name.as_bytes()).is_some() {
            return Err(Refusal::Exists);
        }
        let (id, body) = (self.new_id(now), Body::File(FileBody::Draft(Box::new(Draft::empty()))));
        let state = State { names: smallvec![Placement { parent, name }], attrs, body, xattrs: Xattrs::default() };
        self.put(id, Some(Arc::new(state)), None, now);
        self.set_scope(id, Scope::Ignored);
        self.entries_changed(parent, now);
        Ok(id)
    }

    /// Gives a file or symlink one more name.
    pub fn link(&mut self, id: NodeId, parent: NodeId, name: Name, now: Timestamp) -> Result<(), Refusal> {
        self.require_dir(parent)?;
        let entry = self.tree.get(id).ok_or(Refusal::NotFound)?;
        let mut local = entry.local.clone().ok_or(Refusal::NotFound)?;
        let synced = entry.synced.clone();
        if is_dir(&local) {
            return Err(Refusal::OneName);
        }
        if self.tree.child(parent, name.as_bytes()).is_some() {
            return Err(Refusal::Exists);
        }
        if local.names.len() >= NAMES_MAX {
            return Err(Refusal::TooManyNames);
        }
        let stays = !entry.is_shared();
        let place = Placement { parent, name };
        if local.special().is_none() && stays != (self.scope_at(&place, false) != Scope::Shared) {
            return Err(Refusal::OtherScope);
        }
        let state = Arc::make_mut(&mut local);
        state.names.push(place);
        state.names.sort_unstable();
        self.put(id, Some(local), synced, now);
        self.entries_changed(parent, now);
        if !stays {
            self.revive(parent);
        }
        Ok(())
    }

    /// Takes a name away, and with its last name the node. `dir` says which call it was: rmdir or unlink.
    pub fn remove(&mut self, parent: NodeId, name: &[u8], dir: bool, now: Timestamp) -> Result<NodeId, Refusal> {
        self.require_dir(parent)?;
        let id = self.tree.child(parent, name).ok_or(Refusal::NotFound)?;
        let state = self.tree.local(id).ok_or(Refusal::NotFound)?;
        match (is_dir(state), dir) {
            (true, false) => return Err(Refusal::IsDir),
            (false, true) => return Err(Refusal::NotDir),
            (true, true) if !self.tree.is_empty_dir(id) => return Err(Refusal::NotEmpty),
            _ => {}
        }
        self.remove_name(id, parent, name, now);
        self.entries_changed(parent, now);
        Ok(id)
    }

    fn remove_name(&mut self, id: NodeId, parent: NodeId, name: &[u8], now: Timestamp) {
        let Some(entry) = self.tree.get(id) else { return };
        let synced = entry.synced.clone();
        let Some(local) = entry.local.clone() else { return };
        let names: Names = local
            .names
            .iter()
            .filter(|place| place.parent != parent || place.name.as_bytes() != name)
            .cloned()
            .collect();
        if !names.is_empty() {
            self.put(id, Some(Arc::new(State { names, ..State::clone(&local) })), synced, now);
            return;
        }
        self.drop_local(id, now);
        if let Some(staging) = local.body.draft().and_then(|draft| draft.staging) {
            self.retire(staging);
        }
    }

    /// The user does not see the node any more. Its places are taken from it.
    pub(crate) fn drop_local(&mut self, id: NodeId, now: Timestamp) {
        let Some(synced) = self.tree.get(id).map(|entry| entry.synced.clone()) else { return };
        if (self.is_in_flight(id) || self.sent_before.contains(&id))
            && synced.as_ref().is_none_or(|synced| synced.state.is_none())
        {
            self.tree.set_offered(id, true);
        }
        self.put(id, None, synced, now);
    }

    /// Renames or moves.
    pub fn rename(
        &mut self,
        from: (NodeId, &[u8]),
        to: (NodeId, Name),
        mode: RenameMode,
        now: Timestamp,
    ) -> Result<Renamed, Refusal> {
        self.require_dir(from.0)?;
        self.require_dir(to.0)?;
        let id = self.tree.child(from.0, from.1).ok_or(Refusal::NotFound)?;
        let target = self.tree.child(to.0, to.1.as_bytes());
        let from = Placement { parent: from.0, name: Name::new(from.1).map_err(|_| Refusal::NotFound)? };
        let to = Placement { parent: to.0, name: to.1 };
        if self.tree.is_dir(id) && self.tree.is_within(to.parent, id) {
            return Err(Refusal::IntoItself);
        }
        if self.tree.is_dir(id) && from.parent != to.parent {
            self.require_level(to.parent)?;
        }
        let dirs = [from.parent, to.parent];
        let renamed = match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return Err(Refusal::Exists),
            (RenameMode::Exchange, None) => return Err(Refusal::NotFound),
            (_, Some(other)) if other == id => return Ok(Renamed::default()),
            (RenameMode::Exchange, Some(other)) => self.exchange((id, from), (other, to), now)?,
            (RenameMode::Replace, Some(other)) => {
                self.may_replace(id, other)?;
                let crossing = self.crossing(id, &to, Some(other))?;
                self.remove_name(other, to.parent, to.name.as_bytes(), now);
                let became = self.replace_place(id, &from, &to, crossing, now);
                Renamed { replaced: Some(other), became }
            }
            (_, None) => {
                let crossing = self.crossing(id, &to, None)?;
                Renamed { replaced: None, became: self.replace_place(id, &from, &to, crossing, now) }
            }
        };
        let both = if dirs[0] == dirs[1] { &dirs[..1] } else { &dirs[..] };
        both.iter().for_each(|dir| self.entries_changed(*dir, now));
        Ok(renamed)
    }

    /// There may be a directory in `parent`, which is not too far below the root for that.
    fn require_level(&self, parent: NodeId) -> Result<(), Refusal> {
        let above = |id: &NodeId| self.tree.local(*id)?.names.first().map(|place| place.parent);
        let levels = std::iter::successors(Some(parent), above).take(LEVELS_MAX + 1).count();
        // The root is one of them and counts for the directory itself.
        if levels > LEVELS_MAX { Err(Refusal::TooDeep) } else { Ok(()) }
    }

    /// What a node becomes at a place, which it takes from `other`.
    fn crossing(&self, id: NodeId, to: &Placement, other: Option<NodeId>) -> Result<Crossing, Refusal> {
        match (self.stays_here(id), self.scope_after(id, to, other)) {
            (false, Scope::Shared) => Ok(Crossing::None),
            // Its other names would have to go along.
            (true, Scope::Shared) if self.tree.local(id).is_some_and(|state| state.names.len() > 1) => {
                Err(Refusal::OtherScope)
            }
            (true, Scope::Shared) => Ok(Crossing::Into),
            (true, scope) => Ok(Crossing::Stays(scope)),
            (false, _) => self.may_leave(id).map(|_| Crossing::OutOf),
        }
    }

    fn may_replace(&self, id: NodeId, other: NodeId) -> Result<(), Refusal> {
        match (self.tree.is_dir(id), self.tree.is_dir(other)) {
            (true, false) => Err(Refusal::NotDir),
            (false, true) => Err(Refusal::IsDir),
            (true, true) if !self.tree.is_empty_dir(other) => Err(Refusal::NotEmpty),
            _ => Ok(()),
        }
    }

    fn exchange(
        &mut self,
        (a, place_a): (NodeId, Placement),
        (b, place_b): (NodeId, Placement),
        now: Timestamp,
    ) -> Result<Renamed, Refusal> {
        if self.tree.is_dir(b) && self.tree.is_within(place_a.parent, b) {
            return Err(Refusal::IntoItself);
        }
        if self.tree.is_dir(b) && place_a.parent != place_b.parent {
            self.require_level(place_a.parent)?;
        }
        let (to_b, to_a) = (self.crossing(a, &place_b, Some(b))?, self.crossing(b, &place_a, Some(a))?);
        [a, b].into_iter().for_each(|id| self.keep_entries_mtime(id));
        self.tree.detach(a);
        self.tree.detach(b);
        let new_a = self.cross(a, &place_a, &place_b, to_b, now);
        let new_b = self.cross(b, &place_b, &place_a, to_a, now);
        self.attach_or_step_aside(new_a, now);
        self.attach_or_step_aside(new_b, now);
        let pairs = [(a, new_a), (b, new_b)];
        Ok(Renamed { replaced: None, became: pairs.into_iter().filter(|(old, new)| old != new).collect() })
    }

    /// Returns what the node has become, if it goes on as another one.
    fn replace_place(
        &mut self,
        id: NodeId,
        from: &Placement,
        to: &Placement,
        crossing: Crossing,
        now: Timestamp,
    ) -> Vec<(NodeId, NodeId)> {
        self.keep_entries_mtime(id);
        self.tree.detach(id);
        let new = self.cross(id, from, to, crossing, now);
        self.attach_or_step_aside(new, now);
        if new == id { Vec::new() } else { vec![(id, new)] }
    }

    /// Gives a node that has no places another one, on whichever side of the folder's border.
    fn cross(&mut self, id: NodeId, from: &Placement, to: &Placement, crossing: Crossing, now: Timestamp) -> NodeId {
        if let Crossing::OutOf = crossing {
            return self.leave(id, from, to, now);
        }
        self.set_place_detached(id, from, to, now);
        match crossing {
            Crossing::Into => self.release_to_folder(id),
            Crossing::Stays(scope) => self.set_scope(id, scope),
            Crossing::None => self.revive(to.parent),
            Crossing::OutOf => {}
        }
        if self.tree.is_dir(id) {
            self.note_moved_dir(id);
        }
        id
    }

    pub(crate) fn set_place_detached(&mut self, id: NodeId, from: &Placement, to: &Placement, now: Timestamp) {
        let Some(entry) = self.tree.get(id) else { return };
        let Some(mut local) = entry.local.clone() else { return };
        let synced = entry.synced.clone();
        let names = local.names.iter().map(|place| if place == from { to } else { place }).cloned();
        let names = in_order(names);
        Arc::make_mut(&mut local).names = names;
        self.put_detached(id, Some(local), synced, now);
    }

    fn attach_or_step_aside(&mut self, id: NodeId, now: Timestamp) {
        if self.tree.attach(id).is_err() {
            self.step_aside(id, now);
            self.tell_names(id);
        }
    }

    /// Sets mode and mtime.
    pub fn set_attrs(&mut self, id: NodeId, attrs: Attrs, now: Timestamp) -> Result<(), Refusal> {
        let entry = self.tree.get(id).ok_or(Refusal::NotFound)?;
        let mut local = entry.local.clone().ok_or(Refusal::NotFound)?;
        let synced = entry.synced.clone();
        let synced = self.mtime_is_set(id, attrs.mtime, synced);
        Arc::make_mut(&mut local).attrs = attrs;
        self.put(id, Some(local), synced, now);
        Ok(())
    }

    /// Replaces the extended attributes.
    pub fn set_xattrs(&mut self, id: NodeId, xattrs: Xattrs, now: Timestamp) -> Result<(), Refusal> {
        self.keep_entries_mtime(id);
        let entry = self.tree.get(id).ok_or(Refusal::NotFound)?;
        let mut local = entry.local.clone().ok_or(Refusal::NotFound)?;
        let synced = entry.synced.clone();
        Arc::make_mut(&mut local).xattrs = xattrs;
        self.put(id, Some(local), synced, now);
        Ok(())
    }

    /// A file has been written to (or cut): it is a draft from now on, with these bytes.
    pub fn write_draft(
        &mut self,
        id: NodeId,
        expected: Expected,
        update: DraftUpdate,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let entry = self.tree.get(id).ok_or(Refusal::NotFound)?;
        let local = entry.local.clone().ok_or(Refusal::NotFound)?;
        let synced = entry.synced.clone();
        // Not the time of this call: what `stat` shows must not change again after the last write.
        let changed = entry.changed.max(update.mtime.min(now));
        match local.kind() {
            NodeKind::File => {}
            NodeKind::Dir => return Err(Refusal::IsDir),
            NodeKind::Symlink => return Err(Refusal::NotFound),
        }
        let old = local.body.draft();
        let as_expected = match (expected, old) {
            (Expected::Draft(staging), Some(draft)) => draft.staging == staging,
            (Expected::Clean(hash), None) => local.body.content_hash() == Some(hash),
            _ => false,
        };
        if !as_expected {
            return Err(Refusal::Stale);
        }
        let unchanged = old.filter(|draft| draft.generation == update.generation);
        let prepared = unchanged.and_then(|draft| draft.prepared.clone());
        let old_staging = old.and_then(|draft| draft.staging).filter(|id| Some(*id) != update.staging);
        let unprepared = prepared.is_none();
        let ready = update.ready;
        let attrs = Attrs { mtime: update.mtime, ..local.attrs };
        let body = draft_of(update, prepared);
        self.put(id, Some(Arc::new(State { attrs, body, ..State::clone(&local) })), synced, changed);
        if let Some(staging) = old_staging {
            self.retire(staging);
        }
        if !unprepared {
            // What was to settle it may have found the writer at it.
            self.settle_if_acknowledged(id);
        }
        if ready && unprepared {
            self.failed.remove(&id);
            self.to_prepare.push_back((id, false));
        }
        Ok(())
    }

    /// Somebody goes on writing to a version of the file that another device's has replaced: it becomes a conflict copy
    /// beside it. Returns the copy.
    pub fn write_beside(&mut self, id: NodeId, update: DraftUpdate, now: Timestamp) -> Result<NodeId, Refusal> {
        let local = self.tree.local(id).cloned().ok_or(Refusal::NotFound)?;
        let place = local.names.first().ok_or(Refusal::NotFound)?;
        let device = self.identity.device.name.clone();
        self.remember_copied(place);
        let name = self.free_name(place.parent, &place.name, &device, update.mtime);
        let names = smallvec![Placement { parent: place.parent, name }];
        let attrs = Attrs { mtime: update.mtime, ..local.attrs };
        let (copy, ready) = (self.new_id(now), update.ready);
        let state = State { names, attrs, body: draft_of(update, None), xattrs: local.xattrs.clone() };
        self.put(copy, Some(Arc::new(state)), None, now);
        self.keep_owner_here(id, copy);
        if ready {
            self.to_prepare.push_back((copy, false));
        }
        self.tell_names(copy);
        Ok(copy)
    }

    /// The node has names that nobody asked for.
    fn tell_names(&mut self, id: NodeId) {
        let places = self.tree.local(id).map(|state| state.names.to_vec()).unwrap_or_default();
        let changed = Changed { node: id, places, content: false, removed: false, last_attrs: None };
        self.queue(Effect::Changed(changed));
    }

    fn require_dir(&self, id: NodeId) -> Result<(), Refusal> {
        match self.tree.local(id) {
            Some(state) if is_dir(state) => Ok(()),
            Some(_) => Err(Refusal::NotDir),
            None => Err(Refusal::NotFound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{NOW, Rig, name};

    const ROOT: NodeId = NodeId::ROOT;

    #[test]
    fn renames_are_refused_as_posix_refuses_them() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "dir");
        let inner = rig.mkdir(dir, "inner");
        rig.file(ROOT, "file", 1);
        let mut rename = |from: &str, parent, to: &str, mode| {
            rig.engine.rename((ROOT, from.as_bytes()), (parent, name(to)), mode, NOW)
        };
        assert_eq!(rename("dir", inner, "x", RenameMode::Replace), Err(Refusal::IntoItself));
        assert_eq!(rename("file", ROOT, "dir", RenameMode::Replace), Err(Refusal::IsDir));
        assert_eq!(rename("dir", ROOT, "file", RenameMode::Replace), Err(Refusal::NotDir));
        assert_eq!(rename("file", ROOT, "dir", RenameMode::NoReplace), Err(Refusal::Exists));
        assert_eq!(rename("file", ROOT, "no", RenameMode::Exchange), Err(Refusal::NotFound));
        assert_eq!(rename("dir", ROOT, "dir", RenameMode::Replace), Ok(Renamed::default()));
        assert_eq!(rig.engine.remove(ROOT, b"dir", true, NOW), Err(Refusal::NotEmpty));
    }

    #[test]
    fn directories_lie_in_each_other_up_to_a_depth() {
        let mut rig = Rig::new();
        let mut last = ROOT;
        for _ in 0..LEVELS_MAX {
            last = rig.mkdir(last, "d");
        }
        rig.file(last, "f", 1);
        let other = rig.mkdir(ROOT, "other");
        rig.mkdir(other, "inner");
        let attrs = Attrs { mode: 0o755, mtime: NOW };
        assert_eq!(rig.engine.create(last, name("x"), attrs, Body::Dir, NOW), Err(Refusal::TooDeep));
        let mut rename = |to| rig.engine.rename((ROOT, b"other"), (to, name("x")), RenameMode::Replace, NOW);
        assert_eq!(rename(last), Err(Refusal::TooDeep));
        // What lies in something that is moved is not counted.
        let above = rig.engine.local(last).unwrap().names[0].parent;
        let mut rename = |to| rig.engine.rename((ROOT, b"other"), (to, name("x")), RenameMode::Replace, NOW);
        assert!(rename(above).is_ok());
        rig.sync();
    }

    fn place(text: &str) -> Placement {
        Placement { parent: ROOT, name: name(text) }
    }

    #[test]
    fn a_file_may_have_several_names_and_goes_with_the_last() {
        let mut rig = Rig::new();
        let (file, dir) = (rig.file(ROOT, "b", 1), rig.mkdir(ROOT, "dir"));
        assert_eq!(rig.engine.link(dir, ROOT, name("x"), NOW), Err(Refusal::OneName));
        assert_eq!(rig.engine.link(file, ROOT, name("dir"), NOW), Err(Refusal::Exists));
        assert_eq!(rig.engine.link(file, file, name("x"), NOW), Err(Refusal::NotDir));
        rig.engine.link(file, ROOT, name("a"), NOW).unwrap();
        rig.engine.link(file, dir, name("c"), NOW).unwrap();
        let ops = rig.sync().concat();
        assert_eq!(ops.len(), 2, "one node, made with all its names");
        rig.engine.rename((ROOT, b"a"), (ROOT, name("b")), RenameMode::Replace, NOW).unwrap();
        assert_eq!(rig.names(ROOT), ["a", "b", "dir"], "two names of one file: nothing happens");
        rig.engine.remove(ROOT, b"b", false, NOW).unwrap();
        rig.engine.rename((dir, b"c"), (ROOT, name("z")), RenameMode::Replace, NOW).unwrap();
        let [syncmount_common::protocol::commit::Op::Update { names: Some(names), .. }] = &rig.sync().concat()[..]
        else {
            panic!("one update");
        };
        assert_eq!(names, &[place("a"), place("z")]);
        rig.restart();
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        assert!(rig.engine.local(file).is_some());
        rig.engine.remove(ROOT, b"z", false, NOW).unwrap();
        assert!(rig.engine.local(file).is_none());
        assert_eq!(rig.sync().concat().len(), 1);
        rig.engine.check();
    }

    #[test]
    fn a_file_has_at_most_ten_thousand_names() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "0", 1);
        rig.sync();
        let mut theirs = rig.theirs(file, ROOT, "0", Some(1));
        theirs.names = (0..10_000).map(|number| place(&number.to_string())).collect();
        theirs.names.sort();
        rig.news(vec![theirs]);
        assert_eq!(rig.engine.link(file, ROOT, name("one more"), NOW), Err(Refusal::TooManyNames));
        rig.engine.remove(ROOT, b"0", false, NOW).unwrap();
        rig.engine.link(file, ROOT, name("one more"), NOW).unwrap();
    }

    #[test]
    fn a_link_that_takes_a_name_sends_away_what_the_server_has_there() {
        let mut rig = Rig::new();
        let (file, other) = (rig.file(ROOT, "a", 1), rig.file(ROOT, "b", 2));
        rig.sync();
        rig.engine.ops_max = 1;
        rig.engine.remove(ROOT, b"b", false, NOW).unwrap();
        rig.engine.link(file, ROOT, name("b"), NOW).unwrap();
        let batches = rig.sync();
        assert_eq!(batches.len(), 1);
        let ids: Vec<NodeId> = batches[0].iter().map(syncmount_common::protocol::commit::Op::id).collect();
        assert!(ids.contains(&file) && ids.contains(&other));
    }

    #[test]
    fn extended_attributes_are_sent_and_kept() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        let mut xattrs = Xattrs::default();
        xattrs.set(b"user.note", b"value").unwrap();
        rig.engine.set_xattrs(file, xattrs.clone(), NOW).unwrap();
        let [syncmount_common::protocol::commit::Op::Update { xattrs: sent, content: None, .. }] =
            &rig.sync().concat()[..]
        else {
            panic!("one update");
        };
        assert_eq!(sent.as_ref(), Some(&xattrs));
        let mut theirs = rig.theirs(file, ROOT, "a", Some(2));
        xattrs.set(b"user.other", b"").unwrap();
        theirs.xattrs = xattrs.clone();
        rig.news(vec![theirs]);
        assert_eq!(rig.engine.local(file).unwrap().xattrs, xattrs);
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn a_pipe_stays_here_whatever_it_is_called() {
        let mut rig = Rig::new();
        let (dir, file) = (rig.mkdir(ROOT, "dir"), rig.file(ROOT, "file", 1));
        let attrs = Attrs { mode: 0o010_644, mtime: NOW };
        let pipe = rig.engine.create_special(ROOT, name("pipe"), attrs, NOW).unwrap();
        assert_eq!(rig.engine.create_special(ROOT, name("file"), attrs, NOW), Err(Refusal::Exists));
        assert_eq!(rig.sync().concat().len(), 2);
        rig.engine.rename((ROOT, b"pipe"), (dir, name("other")), RenameMode::Replace, NOW).unwrap();
        rig.engine.link(pipe, ROOT, name("link"), NOW).unwrap();
        rig.drive();
        rig.restart();
        assert!(rig.engine.stays_here(pipe) && rig.sync().is_empty());
        assert_eq!(rig.engine.local(pipe).unwrap().special(), Some(0o010_000));
        rig.engine.rename((ROOT, b"link"), (ROOT, name("file")), RenameMode::Replace, NOW).unwrap();
        let [syncmount_common::protocol::commit::Op::Remove { id, .. }] = &rig.sync().concat()[..] else {
            panic!("what it took the place of is gone");
        };
        assert_eq!(*id, file);
        assert!(rig.engine.stays_here(pipe));
        assert_eq!(rig.engine.remove(ROOT, b"dir", true, NOW), Err(Refusal::NotEmpty));
    }

    #[test]
    fn what_was_made_and_removed_unsent_leaves_nothing() {
        let mut rig = Rig::new();
        rig.file(ROOT, "a", 1);
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        assert!(rig.sync().is_empty());
        assert_eq!(rig.engine.len(), 1);
    }

    #[test]
    fn a_writer_whose_file_has_become_another_one_must_look_again() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.news(vec![rig.theirs(file, ROOT, "a", Some(2))]);
        let update = DraftUpdate {
            generation: 1,
            size: 1,
            staging: Some(1),
            present: vec![(0, 1)],
            base: None,
            base_len: 0,
            mtime: NOW,
            ready: false,
        };
        let expected = Expected::Clean(crate::rig::content(1).hash);
        assert_eq!(rig.engine.write_draft(file, expected, update, NOW), Err(Refusal::Stale));
    }

    #[test]
    fn a_creation_sent_before_a_crash_stays_removed() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.drive();
        assert!(rig.send().is_some());
        rig.restart();
        // The same is sent again, found there already, and removed before the feed tells why.
        let again = rig.send().expect("a commit");
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        rig.conflict(&again);
        rig.news(vec![Rig::mine(rig.theirs(file, ROOT, "a", Some(1)))]);
        assert!(rig.names(ROOT).is_empty());
        assert_eq!(rig.sync(), [[syncmount_common::protocol::commit::Op::Remove { id: file, base: 1 }]]);
    }

    /// The client was cut off while a creation was on its way, and goes on as another device, so that its own commit looks like
    /// that of another one. What it replaced must not be removed without it.
    #[test]
    fn a_creation_that_has_replaced_a_file_since_it_was_sent_stays_in_its_place() {
        for is_renamed_after_the_start in [false, true] {
            let mut rig = Rig::new();
            let old = rig.file(ROOT, "f", 1);
            rig.sync();
            let new = rig.file(ROOT, "save", 2);
            rig.drive();
            assert!(rig.send().is_some());
            let rename = |rig: &mut Rig| {
                rig.engine.rename((ROOT, b"save"), (ROOT, name("f")), RenameMode::Replace, NOW).unwrap();
                rig.drive();
            };
            if !is_renamed_after_the_start {
                rename(&mut rig);
            }
            rig.restart();
            rig.become_another();
            if is_renamed_after_the_start {
                rename(&mut rig);
            }
            rig.restart();
            rig.news(vec![rig.theirs(new, ROOT, "save", Some(2))]);
            assert_eq!((rig.names(ROOT), rig.engine.child(ROOT, b"f")), (vec!["f".to_owned()], Some(new)));
            let batches = rig.sync();
            let sent: Vec<NodeId> = batches[0].iter().map(syncmount_common::protocol::commit::Op::id).collect();
            assert!(batches.len() == 1 && sent.contains(&old) && sent.contains(&new), "{batches:?}");
            assert!(rig.engine.sent_names.is_empty() && rig.rows.values().all(|row| row.sent_names.is_none()));
        }
    }

    /// A commit that was not sent tells nothing: the next one sends other names.
    #[test]
    fn names_that_did_not_reach_the_server_decide_nothing() {
        let mut rig = Rig::new();
        rig.file(ROOT, "f", 1);
        rig.sync();
        let new = rig.file(ROOT, "one", 2);
        rig.drive();
        let request = rig.send().unwrap();
        rig.engine.rename((ROOT, b"one"), (ROOT, name("two")), RenameMode::Replace, NOW).unwrap();
        rig.engine.committed(request.op_id, crate::output::CommitAnswer::NotSent, NOW);
        rig.drive();
        assert!(rig.engine.sent_names.is_empty() && rig.rows.values().all(|row| row.sent_names.is_none()));
        assert!(rig.send().is_some());
        rig.engine.rename((ROOT, b"two"), (ROOT, name("f")), RenameMode::Replace, NOW).unwrap();
        rig.drive();
        rig.restart();
        rig.become_another();
        rig.news(vec![rig.theirs(new, ROOT, "two", Some(2))]);
        assert_eq!((rig.names(ROOT), rig.engine.child(ROOT, b"f")), (vec!["f".to_owned()], Some(new)));
    }

    /// The same where what was done after it was sent is forgotten.
    #[test]
    fn a_creation_whose_later_name_was_forgotten_has_it_from_the_server() {
        let mut rig = Rig::new();
        let old = rig.file(ROOT, "f", 1);
        rig.sync();
        let new = rig.file(ROOT, "save", 2);
        let backup = rig.backup();
        rig.sync();
        rig.engine.rename((ROOT, b"save"), (ROOT, name("f")), RenameMode::Replace, NOW).unwrap();
        rig.drive();
        rig.sync();
        rig.set_back(backup);
        rig.news(vec![rig.theirs(new, ROOT, "f", Some(2)), rig.gone(old, NodeKind::File)]);
        assert_eq!((rig.names(ROOT), rig.engine.child(ROOT, b"f")), (vec!["f".to_owned()], Some(new)));
        assert!(rig.sync().is_empty());
    }
}
