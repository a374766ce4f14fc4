//! What users do: few names, shallow trees, on all devices at once, so that they get into each other's way.

use super::device::OpenFile;
use super::view;
use super::world::World;
use std::sync::Arc;
use syncmount_common::{Attrs, Content, Name, NodeId, NodeKind, SymlinkTarget, Timestamp};
use syncmount_engine::{Body, Draft, DraftUpdate, Engine, FileBody, Refusal, RenameMode};

const NAMES: [&str; 5] = ["a", "b", "c.txt", "d", "e"];
const DEPTH_MAX: usize = 4;

/// A node as a user finds it.
#[derive(Clone, Debug)]
struct Found {
    id: NodeId,
    parent: NodeId,
    name: Name,
    kind: NodeKind,
    depth: usize,
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

impl World {
    /// One action of the user of a device.
    pub fn act(&mut self, index: usize) {
        match self.rng.below(100) {
            0..22 => self.create_file(index),
            22..32 => self.make_directory(index),
            32..36 => self.link(index),
            36..56 => self.write_existing(index),
            56..76 => self.rename(index),
            76..86 => self.remove(index),
            86..89 => self.remove_tree(index),
            89..94 => self.set_attrs(index),
            _ => self.close_one(index),
        }
    }

    fn found(&self, index: usize) -> Vec<Found> {
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
        let name = NAMES[self.rng.index(NAMES.len())];
        (parent.unwrap_or(NodeId::ROOT), Name::new(name.as_bytes()).expect("a valid name"))
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
            device.expected = Some(view::of_engine(engine, Some(&device.disk)));
        }
    }

    fn create_file(&mut self, index: usize) {
        let ((parent, name), attrs) = (self.place(index), self.attrs(index));
        let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
        let shown = name.clone();
        let what = || format!("create {parent:?}/{shown}");
        let made = self.call(index, what, |engine, now| engine.create(parent, name, attrs, body, now));
        if let Some(id) = made
            && !self.rng.chance(30)
        {
            self.write(index, id);
        }
        self.changed(index);
    }

    fn make_directory(&mut self, index: usize) {
        let ((parent, name), attrs) = (self.place(index), self.attrs(index));
        let shown = name.clone();
        let what = || format!("mkdir {parent:?}/{shown}");
        self.call(index, what, |engine, now| engine.create(parent, name, attrs, Body::Dir, now));
        self.changed(index);
    }

    fn link(&mut self, index: usize) {
        let ((parent, name), attrs) = (self.place(index), self.attrs(index));
        let target = NAMES[self.rng.index(NAMES.len())].as_bytes();
        let body = Body::Symlink(SymlinkTarget::new(target).expect("a valid target"));
        let what = || format!("symlink {parent:?}");
        self.call(index, what, |engine, now| engine.create(parent, name, attrs, body, now));
        self.changed(index);
    }

    fn write_existing(&mut self, index: usize) {
        if let Some(found) = self.pick(index, |found| found.kind == NodeKind::File) {
            self.write(index, found.id);
            self.changed(index);
        }
    }

    /// Opens a file (unless it is open), replaces its bytes, and closes it, or does so later.
    fn write(&mut self, index: usize, node: NodeId) {
        let Ok(mut file) = self.devices[index].open(node) else { return };
        if file.needs_begin() && !self.begin_draft(index, node, &mut file) {
            return;
        }
        let Some(staging) = file.staging else { return };
        let bytes = self.library.invent(&mut self.rng, self.scenario.common);
        self.library.enter(&bytes);
        self.trace.line(|| format!("    user {index}: writes {:?} to {node:?}", String::from_utf8_lossy(&bytes)));
        file.generation = self.devices[index].disk.next_generation();
        file.mtime = self.mtime(index);
        self.devices[index].disk.write(staging, bytes);
        self.devices[index].files.insert(node, file);
        self.expect(index);
        match self.rng.below(100) {
            0..70 => self.close(index, node),
            70..80 => self.tell(index, node, false),
            80..85 => self.tell(index, node, true),
            _ => {}
        }
    }

    /// Makes the file a draft that the tree knows somebody is writing to.
    fn begin_draft(&mut self, index: usize, node: NodeId, file: &mut OpenFile) -> bool {
        self.ledger.destroyed.extend(self.devices[index].bytes_of(node));
        let expected = file.expected();
        let was_clean = file.clean.take();
        let base = was_clean.as_ref().and_then(|content| self.library.get(content.hash)).cloned().unwrap_or_default();
        let device = &mut self.devices[index];
        let fresh = file.staging.is_none();
        let staging = match file.staging {
            Some(id) => id,
            None => device.disk.stage(base),
        };
        let generation = if was_clean.is_some() { device.disk.next_generation() } else { file.generation };
        let size = device.disk.read(staging).map_or(0, |bytes| bytes.len() as u64);
        file.staging = Some(staging);
        (file.generation, file.told, file.told_ready) = (generation, generation, false);
        let update = update(file, size, was_clean, false);
        let what = || format!("begins to write {node:?}");
        let begun = self.call(index, what, |engine, now| engine.write_draft(node, expected, update, now)).is_some();
        let device = &mut self.devices[index];
        let refers = |engine: &Engine| engine.stagings().any(|(_, draft)| draft.staging == Some(staging));
        if fresh && !begun && device.engine.as_ref().is_some_and(|engine| !refers(engine)) {
            device.disk.unstage(staging);
        }
        begun
    }

    fn tell(&mut self, index: usize, node: NodeId, ready: bool) {
        let device = &mut self.devices[index];
        let Some(mut file) = device.files.get(&node).cloned() else { return };
        let news = file.generation != file.told || (ready && !file.told_ready);
        if !news || file.orphan || file.clean.is_some() {
            return;
        }
        let bytes = file.staging.and_then(|id| device.disk.read(id)).unwrap_or_default();
        (file.told, file.told_ready) = (file.generation, ready);
        let update = update(&file, bytes.len() as u64, None, ready);
        let what = || format!("tells of {node:?}, ready {ready}");
        let expected = file.expected();
        let told = self.call(index, what, |engine, now| engine.write_draft(node, expected, update, now));
        if told.is_some() {
            self.devices[index].files.insert(node, file.clone());
            if ready && let Some(staging) = file.staging {
                self.declare(index, staging, &bytes);
            }
        }
    }

    /// The user has been told that these bytes are safe.
    fn declare(&mut self, index: usize, staging: u64, bytes: &Arc<[u8]>) {
        let content = self.library.enter(bytes);
        self.devices[index].ready.insert(staging, content.hash);
        self.ledger.declare(content.hash, bytes);
    }

    /// After a start: all drafts count as closed.
    pub fn declare_all(&mut self, index: usize) {
        let device = &self.devices[index];
        let Some(engine) = &device.engine else { return };
        let stagings: std::collections::BTreeSet<u64> =
            engine.stagings().filter_map(|(_, draft)| draft.staging).collect();
        for staging in stagings {
            if let Some(bytes) = self.devices[index].disk.read(staging) {
                self.declare(index, staging, &bytes);
            }
        }
    }

    fn close(&mut self, index: usize, node: NodeId) {
        self.tell(index, node, true);
        let device = &mut self.devices[index];
        let staging = device.files.remove(&node).and_then(|file| file.staging);
        // The bytes of a file that was removed while it was open end with its last handle.
        if let (Some(staging), Some(engine)) = (staging, &device.engine)
            && !engine.stagings().any(|(_, draft)| draft.staging == Some(staging))
            && !device.disk.refers(staging)
        {
            device.disk.unstage(staging);
        }
    }

    fn close_one(&mut self, index: usize) {
        let open: Vec<NodeId> = self.devices[index].files.keys().copied().collect();
        if let Some(node) = self.rng.pick(&open).copied() {
            self.close(index, node);
            self.changed(index);
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
        self.changed(index);
    }

    fn unfinished(&self, index: usize) -> Vec<NodeId> {
        let Some(engine) = &self.devices[index].engine else { return Vec::new() };
        let drafts: std::collections::BTreeSet<NodeId> =
            engine.stagings().filter(|(_, draft)| !draft.ready).map(|(id, _)| id).collect();
        drafts.into_iter().collect()
    }

    fn destroy(&mut self, index: usize, node: NodeId) {
        self.ledger.destroyed.extend(self.devices[index].bytes_of(node));
        self.ledger.removed.insert(node);
    }

    fn remove(&mut self, index: usize) {
        let engine = &self.devices[index].engine;
        let empty = |id| engine.as_ref().is_none_or(|engine| engine.children(id).next().is_none());
        let removable: Vec<Found> =
            self.found(index).into_iter().filter(|found| found.kind != NodeKind::Dir || empty(found.id)).collect();
        if let Some(found) = self.rng.pick(&removable).cloned() {
            self.remove_found(index, &found);
            self.changed(index);
        }
    }

    fn remove_found(&mut self, index: usize, found: &Found) {
        self.destroy(index, found.id);
        let (parent, dir) = (found.parent, found.kind == NodeKind::Dir);
        let what = || format!("remove {parent:?}/{} {:?}", found.name, found.id);
        self.call(index, what, |engine, now| engine.remove(parent, found.name.as_bytes(), dir, now));
        if let Some(file) = self.devices[index].files.get_mut(&found.id) {
            file.orphan = true;
        }
    }

    fn remove_tree(&mut self, index: usize) {
        let Some(top) = self.pick(index, |found| found.kind == NodeKind::Dir) else { return };
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
        self.changed(index);
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
        let engine = self.devices[index].engine.as_ref();
        let target = engine.and_then(|engine| engine.child(to.0, to.1.as_bytes()));
        let lost = target.map(|id| (id, self.devices[index].bytes_of(id)));
        let what = || format!("rename {from:?} to {to:?} {mode:?}");
        let source = (from.parent, from.name.as_bytes());
        let mut replaced = None;
        self.call(index, what, |engine, now| {
            replaced = engine.rename(source, to.clone(), mode, now)?;
            Ok(())
        });
        if let (Some(id), Some((target, bytes))) = (replaced, lost)
            && id == target
        {
            self.ledger.destroyed.extend(bytes);
            self.ledger.removed.insert(id);
            if let Some(file) = self.devices[index].files.get_mut(&id) {
                file.orphan = true;
            }
        }
        self.changed(index);
    }

    fn set_attrs(&mut self, index: usize) {
        let Some(found) = self.pick(index, |_| true) else { return };
        let attrs = self.attrs(index);
        let what = || format!("set_attrs {:?} {attrs:?}", found.id);
        self.call(index, what, |engine, now| engine.set_attrs(found.id, attrs, now));
        self.changed(index);
    }
}

fn update(file: &OpenFile, size: u64, base: Option<Arc<Content>>, ready: bool) -> DraftUpdate {
    DraftUpdate {
        generation: file.generation,
        size,
        staging: file.staging,
        present: if base.is_some() { Vec::new() } else { vec![(0, size)] },
        base_len: if base.is_some() { size } else { 0 },
        base,
        mtime: file.mtime,
        ready,
    }
}
