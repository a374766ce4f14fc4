//! What users do: few names, shallow trees, on all devices at once, so that they get into each other's way.

use super::bytes::{self, PIECE};
use super::device::{Backing, OpenFile, update};
use super::view;
use super::world::{Event, World};
use std::sync::Arc;
use syncmount_common::{Attrs, Name, NodeId, NodeKind, Owner, SymlinkTarget, Timestamp};
use syncmount_engine::{Body, Draft, Engine, FileBody, Refusal, RenameMode, Renamed};

const NAMES: [&str; 5] = ["a", "b", "c.txt", "d", "e"];
const DEPTH_MAX: usize = 4;

/// A node as a user finds it.
#[derive(Clone, Debug)]
pub struct Found {
    /// The node.
    pub id: NodeId,
    /// Where it is.
    pub parent: NodeId,
    /// What it is called there.
    pub name: Name,
    /// What it is.
    pub kind: NodeKind,
    /// How deep.
    pub depth: usize,
}

/// What is written.
#[derive(Clone, Debug)]
pub enum Write {
    /// All of it, anew.
    Whole(Arc<[u8]>),
    /// Some bytes in the middle; the rest stays.
    Part,
}

/// Everything below the root, in the order of paths.
fn walk(engine: &Engine) -> Vec<Found> {
    let mut found = Vec::new();
    let mut todo = vec![(NodeId::ROOT, 0)];
    while let Some((parent, depth)) = todo.pop() {
        for (name, id) in engine.children(parent) {
            let Some(state) = engine.local(id) else { continue };
            found.push(Found { id, parent, name: name.clone(), kind: state.kind(), depth: depth + 1 });
            if state.kind() == NodeKind::Dir {
                todo.push((id, depth + 1));
            }
        }
    }
    found
}

/// One of the names that everybody uses.
pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes()).expect("a valid name")
}

impl World {
    /// One action of the user of a device.
    pub fn act(&mut self, index: usize) {
        let twins = self.scenario.devices..self.devices.len();
        let index =
            if !twins.is_empty() && self.rng.chance(300) { twins.start + self.rng.index(twins.len()) } else { index };
        if self.devices[index].engine.is_none() {
            return;
        }
        if self.scenario.alike {
            return self.make_alike(index);
        }
        match self.rng.below(100) {
            0..18 => self.create_file(index),
            18..28 => self.make_directory(index),
            28..30 => self.link(index),
            30..34 => self.hard_link(index),
            34..36 => self.set_xattr(index),
            36..49 => self.write_existing(index),
            49..65 => self.rename(index),
            65..69 => self.replace_by_rename(index),
            69..77 => self.remove(index),
            77..80 => self.remove_tree(index),
            80..83 => self.change_type(index),
            83..87 => self.set_attrs(index),
            87..91 => self.sync_one(index),
            91..95 => self.read_one(index),
            _ => self.close_one(index),
        }
        self.changed(index);
    }

    /// Everything that is there for the user of a device.
    pub fn found(&self, index: usize) -> Vec<Found> {
        self.devices[index].engine.as_ref().map(walk).unwrap_or_default()
    }

    fn pick(&mut self, index: usize, of: impl Fn(&Found) -> bool) -> Option<Found> {
        let found: Vec<Found> = self.found(index).into_iter().filter(of).collect();
        self.rng.pick(&found).cloned()
    }

    fn place(&mut self, index: usize) -> (NodeId, Name) {
        let dirs: Vec<NodeId> = self
            .found(index)
            .iter()
            .filter(|found| found.kind == NodeKind::Dir && found.depth < DEPTH_MAX)
            .map(|found| found.id)
            .collect();
        let parent = if self.rng.chance(350) { None } else { self.rng.pick(&dirs).copied() };
        let plain = NAMES[self.rng.index(NAMES.len())];
        let ignored = self.scenario.ignores && self.rng.chance(300);
        let text = if ignored { format!("{plain}~") } else { plain.to_owned() };
        (parent.unwrap_or(NodeId::ROOT), name(&text))
    }

    /// A byte string for a user to write: now and then a common one, else one that nobody has written before.
    pub fn invent(&mut self) -> Arc<[u8]> {
        if self.rng.chance(self.scenario.common) {
            return bytes::common(&mut self.rng);
        }
        self.tag.1 += 1;
        bytes::unique(&mut self.rng, self.tag)
    }

    fn attrs(&mut self, index: usize) -> Attrs {
        let mode = [0o644, 0o755, 0o600][self.rng.index(3)];
        Attrs { mode, mtime: self.mtime(index) }
    }

    /// Mostly the present by the device's clock, now and then one that others use too.
    fn mtime(&mut self, index: usize) -> Timestamp {
        if self.rng.chance(150) { Timestamp(1_000_000_000_000_000_000) } else { self.clock(index) }
    }

    /// A call of the user: done in memory, kept, answered.
    fn call<T>(
        &mut self,
        index: usize,
        what: impl FnOnce() -> String,
        call: impl FnOnce(&mut Engine, Timestamp) -> Result<T, Refusal>,
    ) -> Option<T> {
        let now = self.clock(index);
        let device = &mut self.devices[index];
        let engine = device.engine.as_mut()?;
        let done = call(engine, now);
        let outcome = done.as_ref().map(|_| ()).map_err(|error| *error);
        self.trace.line(|| format!("    user {index}: {} -> {outcome:?}", what()));
        let done = done.ok()?;
        self.expect(index);
        if self.keep(index) { Some(done) } else { None }
    }

    /// What the only active user sees from now on is what it has just made.
    fn expect(&mut self, index: usize) {
        let device = &mut self.devices[index];
        if let (Some(_), Some(engine)) = (&device.expected, &device.engine) {
            device.expected = Some(view::of_engine(engine, Some((&device.disk, &self.library))));
        }
    }

    /// Makes a node.
    pub fn make(&mut self, index: usize, parent: NodeId, name: Name, body: Body) -> Option<NodeId> {
        let attrs = self.attrs(index);
        let (shown, kind) = (name.clone(), body.kind());
        let what = || format!("makes a {kind:?} {parent:?}/{shown}");
        self.call(index, what, |engine, now| engine.create(parent, name, attrs, body, now))
    }

    /// Makes a file with these bytes, and closes it mostly.
    pub fn make_file(&mut self, index: usize, (parent, name): (NodeId, Name), bytes: Arc<[u8]>) -> Option<NodeId> {
        if self.devices[index].full {
            return None;
        }
        let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
        let id = self.make(index, parent, name, body)?;
        if !self.rng.chance(30) {
            self.write(index, id, &Write::Whole(bytes));
        }
        Some(id)
    }

    fn create_file(&mut self, index: usize) {
        let (place, bytes) = (self.place(index), self.invent());
        self.make_file(index, place, bytes);
    }

    fn make_directory(&mut self, index: usize) {
        let (parent, name) = self.place(index);
        self.make(index, parent, name, Body::Dir);
    }

    fn target(&mut self) -> Body {
        let target = NAMES[self.rng.index(NAMES.len())].as_bytes();
        Body::Symlink(SymlinkTarget::new(target).expect("a valid target"))
    }

    /// Gives a file one more name.
    fn hard_link(&mut self, index: usize) {
        let Some(found) = self.pick(index, |found| found.kind != NodeKind::Dir) else { return };
        let (parent, name) = self.place(index);
        let what = || format!("links {:?} to {parent:?}/{name}", found.id);
        let to = name.clone();
        self.call(index, what, |engine, now| engine.link(found.id, parent, to, now));
    }

    fn set_xattr(&mut self, index: usize) {
        let Some(found) = self.pick(index, |_| true) else { return };
        let (name, value) = (["user.a", "user.b"][self.rng.index(2)], [self.rng.index(3) as u8]);
        let what = || format!("sets {name} of {:?} to {value:?}", found.id);
        self.call(index, what, |engine, now| {
            let mut xattrs = engine.local(found.id).map(|state| state.xattrs.clone()).unwrap_or_default();
            if name == "user.b" && value[0] > 0 && engine.applies_owners() {
                xattrs = xattrs.with_owner(Some(Owner { uid: value[0].into(), gid: 7 }));
            } else if value[0] == 0 {
                xattrs.remove(name.as_bytes());
            } else if xattrs.set(name.as_bytes(), &value).is_err() {
                return Err(Refusal::NotFound);
            }
            engine.set_xattrs(found.id, xattrs, now)
        });
    }

    fn link(&mut self, index: usize) {
        let ((parent, name), body) = (self.place(index), self.target());
        self.make(index, parent, name, body);
    }

    /// What is at a path is the same whoever makes it.
    fn make_alike(&mut self, index: usize) {
        let (parent, name) = self.place(index);
        let Some(engine) = &self.devices[index].engine else { return };
        let path = format!("{}/{name}", engine.path(parent).unwrap_or_default());
        let sum: usize = path.bytes().map(usize::from).sum();
        match sum % 5 {
            0 | 1 => drop(self.make(index, parent, name, Body::Dir)),
            2 => {
                let target = SymlinkTarget::new(path.as_bytes()).expect("a valid target");
                self.make(index, parent, name, Body::Symlink(target));
            }
            _ => {
                let bytes: Arc<[u8]> = path.repeat(1 + sum % 60).into_bytes().into();
                let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
                if let Some(id) = self.make(index, parent, name, body) {
                    self.write_and(index, id, &Write::Whole(bytes), After::Close);
                }
            }
        }
        self.changed(index);
    }

    fn write_existing(&mut self, index: usize) {
        let Some(found) = self.pick(index, |found| found.kind == NodeKind::File) else { return };
        let what = if self.rng.chance(300) { Write::Part } else { Write::Whole(self.invent()) };
        self.write(index, found.id, &what);
    }

    /// Opens a file (unless it is open), writes, and closes it, or does so later.
    pub fn write(&mut self, index: usize, node: NodeId, what: &Write) {
        let after = match self.rng.below(100) {
            0..65 => After::Close,
            65..75 => After::Tell(false),
            75..78 => After::Tell(true),
            78..90 => After::Sync,
            _ => After::Nothing,
        };
        self.write_and(index, node, what, after);
    }

    fn write_and(&mut self, index: usize, node: NodeId, what: &Write, after: After) {
        let full = self.devices[index].full;
        let Ok(mut file) = self.devices[index].open(node) else { return };
        // What is written to a removed file ends with those who have it open.
        if file.orphan || full && self.rng.chance(700) {
            return;
        }
        if let (Write::Part, Backing::Clean(content)) = (what, &file.backing)
            && self.devices[index].disk.cached(content.hash).is_none()
            && content.size > 0
        {
            return self.fetch(index, content.hash);
        }
        if file.needs_begin() && !self.begin_draft(index, node, &mut file) {
            return;
        }
        if !full && self.put_bytes(index, node, &mut file, what) {
            match after {
                After::Close => self.close(index, node),
                After::Tell(ready) => drop(self.tell(index, node, ready)),
                After::Sync => self.sync(index, node),
                After::Nothing => {}
            }
        } else {
            self.devices[index].files.insert(node, file);
            self.close(index, node);
        }
    }

    /// Writes into the staging file. `false` if the bytes beneath are nowhere.
    fn put_bytes(&mut self, index: usize, node: NodeId, file: &mut OpenFile, what: &Write) -> bool {
        let Backing::Draft(draft) = &mut file.backing else { return false };
        let Some(staging) = draft.staging else { return false };
        let base = draft.base.as_ref().and_then(|base| self.library.get(base.hash)).cloned();
        let disk = &mut self.devices[index].disk;
        // Whoever else has written the same loses it here, by the hand of a user who sees it.
        let old = disk.draft_bytes(draft, base.as_deref());
        self.ledger.destroyed.extend(old.map(|old| bytes::content_of(&old).hash));
        match what {
            Write::Whole(bytes) => {
                disk.truncate(staging, 0);
                disk.write(staging, 0, bytes);
                let size = bytes.len() as u64;
                let present = if bytes.is_empty() { Vec::new() } else { vec![(0, size)] };
                **draft = Draft { size, present, base: None, base_len: 0, staging: Some(staging), ..Draft::empty() };
            }
            Write::Part => {
                self.tag.1 += 1;
                let mark = bytes::mark(self.tag);
                let at = (self.rng.index(3) * PIECE) as u64;
                let at = if at < draft.size { at } else { 0 };
                disk.write(staging, at as usize, mark.as_bytes());
                let end = at + mark.len() as u64;
                draft.size = draft.size.max(end);
                draft.present = merged(&draft.present, (at, end));
            }
        }
        let Some(bytes) = disk.draft_bytes(draft, base.as_deref()) else { return false };
        self.library.enter(&bytes);
        self.trace.line(|| format!("    user {index}: writes {:?} to {node:?}", String::from_utf8_lossy(&bytes)));
        file.generation = self.devices[index].disk.next_generation();
        file.mtime = self.mtime(index);
        self.devices[index].files.insert(node, file.clone());
        self.devices[index].fsynced.remove(&node);
        self.expect(index);
        true
    }

    /// Makes the file a draft that the tree knows somebody is writing to.
    fn begin_draft(&mut self, index: usize, node: NodeId, file: &mut OpenFile) -> bool {
        self.ledger.destroyed.extend(self.devices[index].bytes_of(node, &self.library));
        let (expected, mut draft) = (file.expected(), file.draft());
        let device = &mut self.devices[index];
        let fresh = draft.staging.is_none();
        let staging = draft.staging.unwrap_or_else(|| device.disk.stage());
        draft.staging = Some(staging);
        // The writer has given the promise up, also if there is no room for the new bytes.
        device.fsynced.remove(&node);
        device.disk.unmark(staging);
        let was_clean = matches!(file.backing, Backing::Clean(_));
        let generation = if was_clean { device.disk.next_generation() } else { file.generation };
        let update = update(&draft, generation, file.mtime, false);
        file.backing = Backing::Draft(Box::new(draft));
        (file.generation, file.told, file.told_ready) = (generation, generation, false);
        let what = || format!("begins to write {node:?}");
        let begun = self.call(index, what, |engine, now| engine.write_draft(node, expected, update, now)).is_some();
        let device = &mut self.devices[index];
        let refers = |engine: &Engine| engine.stagings().any(|(_, draft)| draft.staging == Some(staging));
        if fresh && !begun && device.engine.as_ref().is_some_and(|engine| !refers(engine)) {
            device.disk.unstage(staging);
        }
        begun
    }

    /// Tells the tree how far a file has been written; `true` if it knows.
    fn tell(&mut self, index: usize, node: NodeId, ready: bool) -> bool {
        let device = &mut self.devices[index];
        let Some(mut file) = device.files.get(&node).cloned() else { return false };
        let Backing::Draft(draft) = &file.backing else { return true };
        if file.orphan {
            return false;
        }
        if file.generation == file.told && (!ready || file.told_ready) {
            return true;
        }
        let base = draft.base.as_ref().and_then(|base| self.library.get(base.hash));
        let bytes = device.disk.draft_bytes(draft, base.map(|bytes| &**bytes));
        let update = update(draft, file.generation, file.mtime, ready);
        (file.told, file.told_ready) = (file.generation, ready);
        let what = || format!("tells of {node:?}, ready {ready}");
        let expected = file.expected();
        let told = self.call(index, what, |engine, now| engine.write_draft(node, expected, update, now)).is_some();
        if told {
            self.devices[index].files.insert(node, file.clone());
            if let (true, Some(bytes)) = (ready, bytes) {
                self.declare(&bytes);
            }
        } else if ready && self.devices[index].has_draft(node, file.generation) {
            // It could not be kept, and the next record says it all the same.
            file.told = u64::MAX;
            self.devices[index].files.insert(node, file);
        }
        told
    }

    /// The user has been told that these bytes are safe.
    fn declare(&mut self, bytes: &Arc<[u8]>) {
        let content = self.library.enter(bytes);
        self.ledger.declare(content.hash, bytes);
    }

    /// After a start: all drafts count as closed.
    pub fn declare_all(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        let drafts: std::collections::BTreeMap<NodeId, Draft> =
            engine.stagings().map(|(id, draft)| (id, draft.clone())).collect();
        for draft in drafts.into_values() {
            let base = draft.base.as_ref().and_then(|base| self.library.get(base.hash));
            let bytes = self.devices[index].disk.draft_bytes(&draft, base.map(|bytes| &**bytes));
            if let Some(bytes) = bytes {
                self.declare(&bytes);
            }
        }
    }

    fn close(&mut self, index: usize, node: NodeId) {
        self.tell(index, node, true);
        let device = &mut self.devices[index];
        let staging = device.files.remove(&node).and_then(|file| file.staging());
        // The bytes of a file that was removed while it was open end with its last handle.
        if let (Some(staging), Some(engine)) = (staging, &device.engine)
            && !engine.stagings().any(|(_, draft)| draft.staging == Some(staging))
            && !device.disk.refers(staging)
        {
            device.disk.unstage(staging);
        }
    }

    /// fsync() of an open file: its bytes, its name, the news of it.
    fn sync(&mut self, index: usize, node: NodeId) {
        // What could not be kept before is kept now, or this is an error too.
        if !self.tell(index, node, true) || !self.keep(index) {
            return;
        }
        self.sync_draft(index, node);
        let device = &mut self.devices[index];
        if self.planted != Some(super::Planted::FsyncBeforeJournal) {
            device.disk.sync_journal();
        }
        let Some(Backing::Draft(draft)) = device.files.get(&node).map(|file| &file.backing) else { return };
        let base = draft.base.as_ref().and_then(|base| self.library.get(base.hash));
        let bytes = device.disk.draft_bytes(draft, base.map(|bytes| &**bytes));
        let hash = bytes.map(|bytes| bytes::content_of(&bytes).hash);
        if self.rng.chance(3 * self.faults().cut) {
            let soon = self.rng.delay_ms(100, 20_000);
            self.at(soon, Event::Cut(index));
        }
        self.trace.line(|| format!("    user {index}: has synced {hash:?} in {node:?}"));
        self.devices[index].fsynced.extend(hash.map(|hash| (node, hash)));
    }

    /// Some program syncs a file that it or another one has written.
    fn sync_one(&mut self, index: usize) {
        let Some(found) = self.pick(index, |found| found.kind == NodeKind::File) else { return };
        let was_open = self.devices[index].files.contains_key(&found.id);
        let Ok(file) = self.devices[index].open(found.id) else { return };
        self.devices[index].files.insert(found.id, file);
        self.sync(index, found.id);
        if !was_open {
            self.close(index, found.id);
        }
    }

    fn read_one(&mut self, index: usize) {
        let Some(found) = self.pick(index, |found| found.kind == NodeKind::File) else { return };
        if let Ok(OpenFile { backing: Backing::Clean(content), .. }) = self.devices[index].open(found.id)
            && self.devices[index].disk.cached(content.hash).is_none()
        {
            self.fetch(index, content.hash);
        }
    }

    fn close_one(&mut self, index: usize) {
        let open: Vec<NodeId> = self.devices[index].files.keys().copied().collect();
        if let Some(node) = self.rng.pick(&open).copied() {
            self.close(index, node);
        }
    }

    /// All processes on a device end in an orderly way.
    pub fn close_all(&mut self, index: usize) {
        let open: Vec<NodeId> = self.devices[index].files.keys().copied().collect();
        for node in open {
            self.close(index, node);
        }
        // Calls whose record could not be kept have left drafts that nobody has open: the next one to open them ends that.
        for node in self.unfinished(index) {
            if let Ok(file) = self.devices[index].open(node) {
                self.devices[index].files.insert(node, file);
                self.close(index, node);
            }
        }
    }

    fn unfinished(&self, index: usize) -> Vec<NodeId> {
        let Some(engine) = &self.devices[index].engine else { return Vec::new() };
        let drafts: std::collections::BTreeSet<NodeId> =
            engine.stagings().filter(|(_, draft)| !draft.ready).map(|(id, _)| id).collect();
        drafts.into_iter().collect()
    }

    fn remove(&mut self, index: usize) {
        let found = self.found(index).into_iter().filter(|found| self.is_removable(index, found));
        let removable: Vec<Found> = found.collect();
        if let Some(found) = self.rng.pick(&removable).cloned() {
            self.remove_found(index, &found);
        }
    }

    fn is_removable(&self, index: usize, found: &Found) -> bool {
        let engine = self.devices[index].engine.as_ref();
        found.kind != NodeKind::Dir || engine.is_none_or(|engine| engine.children(found.id).next().is_none())
    }

    /// A name of a node is gone for the user, who did away with it, and with the last one the node.
    fn destroyed(&mut self, index: usize, node: NodeId, bytes: Vec<syncmount_common::ContentHash>) {
        let state = self.devices[index].engine.as_ref().and_then(|engine| engine.local(node));
        if state.is_some_and(|state| state.names.len() > 1) {
            return;
        }
        self.ledger.destroyed.extend(bytes);
        self.ledger.removed.insert(node);
        let device = &mut self.devices[index];
        device.fsynced.remove(&node);
        if let Some(file) = device.files.get_mut(&node) {
            file.orphan = true;
        }
    }

    /// Removes a file or an empty directory.
    pub fn remove_found(&mut self, index: usize, found: &Found) {
        let bytes = self.devices[index].bytes_of(found.id, &self.library);
        let (parent, dir) = (found.parent, found.kind == NodeKind::Dir);
        let what = || format!("remove {parent:?}/{} {:?}", found.name, found.id);
        // Also if it could not be kept: it may have been done.
        self.destroyed(index, found.id, bytes);
        self.call(index, what, |engine, now| engine.remove(parent, found.name.as_bytes(), dir, now));
    }

    /// A file that nobody has the bytes of goes.
    pub fn remove_lost(&mut self, index: usize, node: NodeId) {
        let found = self.found(index).into_iter().find(|found| found.id == node);
        if let Some(found) = found.filter(|found| found.kind == NodeKind::File) {
            self.remove_found(index, &found);
            self.changed(index);
        }
    }

    fn remove_tree(&mut self, index: usize) {
        if let Some(top) = self.pick(index, |found| found.kind == NodeKind::Dir) {
            self.remove_all(index, top);
        }
    }

    /// Removes a directory with everything that is in it now.
    pub fn remove_all(&mut self, index: usize, top: Found) {
        let within = |found: &Found, ids: &[NodeId]| ids.contains(&found.parent);
        let mut ids = vec![top.id];
        let mut below = vec![top];
        loop {
            let more: Vec<Found> =
                self.found(index).into_iter().filter(|found| within(found, &ids) && !ids.contains(&found.id)).collect();
            if more.is_empty() {
                break;
            }
            ids.extend(more.iter().map(|found| found.id));
            below.extend(more);
        }
        for found in below.iter().rev() {
            self.remove_found(index, found);
        }
    }

    fn rename(&mut self, index: usize) {
        let Some(from) = self.pick(index, |_| true) else { return };
        let mode = match self.rng.below(10) {
            0..7 => RenameMode::Replace,
            7..8 => RenameMode::NoReplace,
            _ => RenameMode::Exchange,
        };
        let onto = if mode == RenameMode::Exchange || self.rng.chance(300) { self.pick(index, |_| true) } else { None };
        let to = onto.map_or_else(|| self.place(index), |found| (found.parent, found.name));
        self.move_to(index, &from, &to, mode);
    }

    /// Renames or moves.
    pub fn move_to(&mut self, index: usize, from: &Found, to: &(NodeId, Name), mode: RenameMode) {
        let engine = self.devices[index].engine.as_ref();
        let target = engine.and_then(|engine| engine.child(to.0, to.1.as_bytes()));
        let lost = target.map(|id| (id, self.devices[index].bytes_of(id, &self.library)));
        if let Some(other) = target.filter(|_| mode != RenameMode::NoReplace) {
            self.sync_replacement(index, from.id);
            if mode == RenameMode::Exchange {
                self.sync_replacement(index, other);
            }
        }
        let what = || format!("rename {from:?} to {to:?} {mode:?}");
        let source = (from.parent, from.name.as_bytes());
        let mut renamed = Renamed::default();
        self.call(index, what, |engine, now| {
            renamed = engine.rename(source, to.clone(), mode, now)?;
            Ok(())
        });
        for (old, new) in renamed.became {
            // For all others that is a removal.
            self.ledger.removed.insert(old);
            self.devices[index].moved(old, new);
        }
        let replaced = renamed.replaced;
        if let (Some(id), Some((target, bytes))) = (replaced, lost)
            && id == target
            && self.devices[index].engine.as_ref().is_none_or(|engine| engine.local(id).is_none())
        {
            self.destroyed(index, id, bytes);
        }
    }

    /// What takes the place of a file survives a power cut before the place is taken.
    fn sync_replacement(&mut self, index: usize, node: NodeId) {
        let device = &self.devices[index];
        let draft = device.engine.as_ref().and_then(|engine| engine.local(node)?.body.draft());
        if draft.is_some_and(|draft| draft.ready && !device.disk.is_marked(draft)) {
            self.sync_draft(index, node);
            self.devices[index].disk.sync_journal();
        }
    }

    /// What editors do: a new file beside the old one, then in its place.
    pub fn replace_by_rename(&mut self, index: usize) {
        if let Some(old) = self.pick(index, |found| found.kind == NodeKind::File) {
            self.replace_file(index, &old);
        }
    }

    /// The same with a certain file.
    pub fn replace_file(&mut self, index: usize, old: &Found) {
        let (bytes, fresh) = (self.invent(), name(".save~"));
        let Some(id) = self.make_file(index, (old.parent, fresh.clone()), bytes) else { return };
        let new = Found { id, name: fresh, ..old.clone() };
        self.move_to(index, &new, &(old.parent, old.name.clone()), RenameMode::Replace);
    }

    fn change_type(&mut self, index: usize) {
        if let Some(old) = self.pick(index, |_| true).filter(|old| self.is_removable(index, old)) {
            self.change_type_of(index, &old);
        }
    }

    /// Something of another kind gets a node's name.
    pub fn change_type_of(&mut self, index: usize, old: &Found) {
        self.remove_found(index, old);
        let place = (old.parent, old.name.clone());
        match (old.kind, self.rng.below(2)) {
            (NodeKind::Dir, 0) | (NodeKind::Symlink, 1) => {
                let bytes = self.invent();
                self.make_file(index, place, bytes);
            }
            (NodeKind::File | NodeKind::Symlink, 0) => drop(self.make(index, place.0, place.1, Body::Dir)),
            _ => {
                let body = self.target();
                self.make(index, place.0, place.1, body);
            }
        }
    }

    fn set_attrs(&mut self, index: usize) {
        if let Some(found) = self.pick(index, |_| true) {
            self.set_attrs_of(index, found.id);
        }
    }

    /// Mode and mtime of a node become others.
    pub fn set_attrs_of(&mut self, index: usize, node: NodeId) {
        let attrs = self.attrs(index);
        let what = || format!("set_attrs {node:?} {attrs:?}");
        self.call(index, what, |engine, now| engine.set_attrs(node, attrs, now));
    }
}

/// What becomes of a file after a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum After {
    /// It is closed.
    Close,
    /// It stays open, and the tree is told, perhaps that it may be sent.
    Tell(bool),
    /// It stays open and is synced.
    Sync,
    /// It stays open.
    Nothing,
}

/// Ranges with one more, sorted and disjoint.
fn merged(ranges: &[(u64, u64)], new: (u64, u64)) -> Vec<(u64, u64)> {
    let mut all = ranges.to_vec();
    all.push(new);
    all.sort_unstable();
    let mut out: Vec<(u64, u64)> = Vec::new();
    for (start, end) in all {
        match out.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => out.push((start, end)),
        }
    }
    out
}
