//! From what was seen to what the user did: the difference between disk and index, told to the tree.
//!
//! An item that is at another place was renamed, with all that is in it. A file that took a known file's name and was never
//! seen before is a new version of it: so programs save. What has a new name and is nowhere known is new; what is gone is
//! gone once it was looked for a second time, in the directory in which it lay, wherever that is by now.

use super::distrust::Distrust;
use super::folder::{Folder, Report};
use super::hash;
use super::host::Host;
use super::index::{Belongs, DEPTH_MAX, Index, Item, Known, ROOT_ITEM};
use super::modes::Modes;
use super::names;
use super::platform::{self, PrintKind};
use super::scan::{self, Scope, Seen, Sighting};
use crate::driver::{ItemId, draft_of_item};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use syncmount_common::{Attrs, Content, Name, NodeId, Placement, Timestamp};
use syncmount_engine::{Body, Draft, Engine, FileBody, Names, Observation, State};

/// What was seen, with one answer for each item.
#[derive(Default)]
struct Finding {
    sightings: Vec<Sighting>,
    gone: Vec<ItemId>,
}

/// Which items may be told to be gone.
///
/// A directory that was renamed is not at its old place, and the hint of its new one may still be on its way: one look
/// cannot tell this from a removal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Removals<'a> {
    /// None: all are doubted.
    None,
    /// All that are found gone.
    All,
    /// These, since they were missing before and all hints up to then have been read.
    Of {
        /// The items.
        missing: &'a HashSet<ItemId>,
        /// Something of which there was a hint had gone on before that: it could be one of them, renamed twice.
        passed: bool,
        /// They are gone nevertheless.
        finally: bool,
    },
}

impl Removals<'_> {
    fn has(self, id: ItemId, doubts: &Doubts) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Of { missing, passed, finally } => {
                let may_be_elsewhere = passed || doubts.passed || doubts.renewed.contains(&id);
                missing.contains(&id) && (finally || !may_be_elsewhere)
            }
        }
    }
}

/// What could not be told yet: it is to be looked at once more.
#[derive(Default, Debug)]
pub(crate) struct Doubts {
    /// Items that were not found and may not be told to be gone yet.
    pub(crate) missing: HashSet<ItemId>,
    /// Where to look for them, once all hints up to now have been read.
    pub(crate) scope: Scope,
    /// Of these there was another hint: they may have been back for a while.
    pub(crate) renewed: HashSet<ItemId>,
    /// Items that were found.
    pub(crate) found: Vec<ItemId>,
    /// Something of which there was a hint was not there: it went on, and the hint of where to may be on its way.
    pub(crate) passed: bool,
    /// Paths of what was on its way from one place to another while it was looked at.
    pub(crate) unsettled: BTreeSet<PathBuf>,
    /// Something was to be told, and the folder was not what it was: it is all looked at again once it is.
    pub(crate) is_unproved: bool,
    /// Directories that are gone and in which a disk was mounted: nothing is known of what is in them.
    pub(crate) unmounted: BTreeSet<PathBuf>,
}

impl Doubts {
    /// These are there.
    pub(crate) fn refute(&mut self, found: &[ItemId]) {
        for id in found {
            self.missing.remove(id);
        }
    }
}

/// What files are whose bytes have to be known before they are told.
type Hashes = HashMap<ItemId, hash::Known>;

impl<H: Host> Folder<H> {
    /// Tells the tree what was seen. Returns whether anything was; what could not be told is left in `doubts`.
    pub(crate) fn take_seen(&mut self, seen: Seen, removals: Removals<'_>, doubts: &mut Doubts) -> io::Result<bool> {
        if seen.is_cut {
            return Ok(false);
        }
        self.report(&seen);
        self.find_put_aside(&seen);
        self.note_mounts(&seen);
        let finding = self.resolve(seen, removals, doubts);
        if let Some(distrust) = &mut self.distrust {
            let missing = finding.gone.iter().chain(&doubts.missing).copied();
            self.host.look(|engine| distrust.first_look(missing, &self.index.lock(), engine));
        }
        for path in std::mem::take(&mut doubts.unmounted) {
            // Which of them were in it does not matter: they are proved once more.
            self.proved_mounts.clear();
            self.reports.insert(path, Report::Unavailable(scan::NO_DISK.into()));
        }
        if finding.sightings.is_empty() && finding.gone.is_empty() {
            self.conclude_distrust();
            return Ok(false);
        }
        doubts.unsettled.extend(self.other_names(&finding));
        let hashes = self.hash_rivals(&finding);
        if !finding.gone.is_empty() && !self.is_reachable() {
            doubts.is_unproved = true;
            return Ok(false);
        }
        let generations: Vec<u64> = finding.sightings.iter().map(|_| self.host.next_generation()).collect();
        let (index, modes, distrust) = (self.index.clone(), self.modes, self.distrust.as_ref());
        let told = self.host.change(|engine, now| {
            let mut index = index.lock();
            let told = Telling::new(engine, &mut index, now, &hashes, modes, distrust).tell(&finding, &generations);
            (told, index.take_rows())
        });
        debug_assert!(
            finding.sightings.iter().all(|seen| self.index.lock().is_in_its_place(seen.id)),
            "one item per place"
        );
        match told {
            Ok(nodes) => {
                self.todo.extend(nodes);
                self.conclude_distrust();
                Ok(true)
            }
            Err(error) => {
                // The tree and the index have it; the record is written with the next one.
                let mut index = self.index.lock();
                let ids: Vec<ItemId> = finding.sightings.iter().map(|seen| seen.id).chain(finding.gone).collect();
                index.keep_failed(ids);
                Err(error)
            }
        }
    }

    fn conclude_distrust(&mut self) {
        let is_restless = !self.restless.is_empty();
        if let Some(distrust) = &mut self.distrust {
            distrust.conclude(is_restless);
        }
    }

    /// Where files that were touched have other names: the system gave a hint of one of them only.
    fn other_names(&self, finding: &Finding) -> Vec<PathBuf> {
        let (mut others, index) = (BTreeSet::new(), self.index.lock());
        for seen in finding.sightings.iter().filter(|seen| seen.print.kind == PrintKind::File) {
            let is_touched = |item: &Item| item.print != seen.print || item.touched != seen.touched;
            if index.get(seen.id).is_some_and(is_touched) {
                others.extend(index.linked(seen.print.file).filter(|other| *other != seen.id));
            }
        }
        others.into_iter().filter_map(|id| index.path(id)).collect()
    }

    fn report(&mut self, seen: &Seen) {
        for (path, reason) in &seen.unknown {
            self.reports.insert(path.clone(), Report::Unknown(reason.clone()));
        }
        for path in &seen.reserved {
            let why = "names that begin with `.syncmount-` are the program's own, so it stays on this machine; rename it to share it";
            self.reports.insert(path.clone(), Report::Aside(why.into()));
        }
        for (path, reason) in &seen.unavailable {
            self.reports.insert(path.clone(), Report::Unavailable((*reason).into()));
        }
    }

    /// What a killed process had put aside is still what it was.
    fn find_put_aside(&mut self, seen: &Seen) {
        let mut index = self.index.lock();
        for (id, dir, name) in &seen.aside {
            let label = index.get(*id).and_then(Item::tree_name);
            index.edit(*id, |item| (item.parent, item.name, item.label) = (*dir, name.clone(), label));
            self.todo.extend(index.node(*id));
        }
    }

    fn note_mounts(&mut self, seen: &Seen) {
        self.proved_mounts.extend(&seen.proved);
        self.proved_mounts.extend(seen.sightings.iter().filter(|seen| seen.is_mount_point).map(|seen| seen.id));
        for (path, _) in &seen.unavailable {
            let missing = self.item_at(path);
            self.proved_mounts.retain(|id| Some(*id) != missing);
        }
        let mut index = self.index.lock();
        for (id, is_mount_point) in &seen.mounts {
            index.edit(*id, |item| item.is_mount_point = Some(*is_mount_point));
            if *is_mount_point {
                self.proved_mounts.insert(*id);
            }
        }
    }

    /// Decides which item each sighting is, and which are gone.
    fn resolve(&self, seen: Seen, removals: Removals<'_>, doubts: &mut Doubts) -> Finding {
        let index = self.index.lock();
        doubts.passed |= seen.passed;
        doubts.renewed.extend(seen.hinted_missing.iter().copied());
        let is_elsewhere = |sighting: &Sighting| {
            let item = index.get(sighting.id);
            item.is_some_and(|item| (item.parent, &*item.name) != (sighting.dir, &*sighting.name))
        };
        let moved: HashSet<ItemId> =
            seen.sightings.iter().filter(|seen| is_elsewhere(seen)).map(|seen| seen.id).collect();
        let known: HashSet<ItemId> = seen.sightings.iter().map(|seen| seen.id).collect();
        let mut same = HashMap::new();
        let mut listed: HashMap<ItemId, HashSet<Arc<[u8]>>> = HashMap::new();
        let (mut sightings, mut missing) = (Vec::new(), seen.missing);
        for mut sighting in seen.sightings {
            let was_aliased = same.get(&sighting.dir).copied();
            if let Some(dir) = was_aliased {
                listed.entry(dir).or_default().insert(sighting.name.clone());
                sighting.dir = dir;
            }
            if index.get(sighting.id).is_none()
                && let Some(child) = index.child(sighting.dir, &sighting.name)
            {
                let item = index.get(child).filter(|item| item.print.kind == sighting.print.kind);
                match item {
                    Some(_) if !moved.contains(&child) && !known.contains(&child) => {
                        if sighting.print.kind == PrintKind::Dir {
                            listed.entry(child).or_default();
                        }
                        same.insert(sighting.id, child);
                        sighting.id = child;
                    }
                    _ => missing.push(child),
                }
            } else if let Some(child) = index.child(sighting.dir, &sighting.name)
                && child != sighting.id
            {
                missing.push(child);
            }
            sightings.push(sighting);
        }
        for (dir, names) in &listed {
            missing.extend(index.children(*dir).filter(|(name, _)| !names.contains(*name)).map(|(_, id)| id));
        }
        drop(index);
        let here: Here<'_> = sightings.iter().map(|seen| (seen.id, seen)).collect();
        let gone = self.confirm_gone(missing, &here, (&seen.restless_files, &seen.unavailable_files), doubts);
        let gone_set: HashSet<ItemId> = gone.iter().copied().collect();
        let (sightings, gone) = self.moved_by_content(sightings, gone, &gone_set);
        self.without_doubts(Finding { sightings, gone }, removals, doubts)
    }

    /// What is missing is looked for once more; deepest first.
    fn confirm_gone(
        &self,
        missing: Vec<ItemId>,
        here: &Here<'_>,
        (restless, unavailable): (&HashSet<u64>, &HashSet<u64>),
        doubts: &mut Doubts,
    ) -> Vec<ItemId> {
        let mut gone = Vec::new();
        let mut done = HashSet::new();
        let mut astray = Vec::new();
        for id in missing {
            if here.contains_key(&id) || done.contains(&id) {
                continue;
            }
            if self.index.lock().get(id).is_some_and(|item| restless.contains(&item.print.file)) {
                doubts.unsettled.extend(self.place_now(id, here));
                continue;
            }
            let is_unavailable = {
                let index = self.index.lock();
                index.get(id).is_some_and(|item| unavailable.contains(&item.print.file)) || index.has_mount_point(id)
            };
            if is_unavailable {
                doubts.unmounted.extend(self.place_now(id, here).filter(|_| self.index.lock().has_mount_point(id)));
                continue;
            }
            match self.last_place(id, here) {
                Place::Left => {}
                Place::Taken => continue,
                Place::Astray(dir) => {
                    astray.push((id, dir));
                    continue;
                }
            }
            done.insert(id);
            // What was moved out of it is not gone, and neither is what is in that.
            let below = self.index.lock().below(id, |inner| !here.contains_key(&inner));
            gone.push(id);
            gone.extend(below.into_iter().filter(|id| done.insert(*id)));
        }
        for (id, _) in astray.into_iter().filter(|(_, dir)| !done.contains(dir)) {
            // Its directory is looked at first.
            doubts.unsettled.extend(self.place_now(id, here));
        }
        gone.reverse();
        gone
    }

    /// What is where an item lay: in its directory, wherever that is.
    fn last_place(&self, id: ItemId, here: &Here<'_>) -> Place {
        let (item, above) = {
            let index = self.index.lock();
            let Some(item) = index.get(id).cloned() else { return Place::Taken };
            let above = here.get(&item.parent).map(|seen| seen.print);
            let above = above.or_else(|| index.get(item.parent).map(|dir| dir.print));
            (item, above)
        };
        let Some(dir) = self.path_of_sighting(item.parent, here) else { return Place::Taken };
        // It is looked for in the very directory that is proved to be its own, whatever is mounted or renamed meanwhile. That of
        // the folder itself is proved before anything is told.
        let Ok(dir) = self.root.dir(&dir) else { return Place::Astray(item.parent) };
        if above.is_some_and(|above| !dir.print().is_ok_and(|there| there.same_file(&above))) {
            return Place::Astray(item.parent);
        }
        match dir.spot(&platform::os_name(&item.name)).and_then(|spot| spot.print()) {
            Ok(None) => Place::Left,
            Ok(Some(there)) if !there.same_file(&item.print) => Place::Left,
            Ok(Some(_)) | Err(_) => Place::Taken,
        }
    }

    /// Where an item would be on the disk, below the root, if it had stayed in its directory.
    fn place_now(&self, id: ItemId, here: &Here<'_>) -> Option<PathBuf> {
        let (parent, name) = self.index.lock().get(id).map(|item| (item.parent, item.name.clone()))?;
        self.path_below(parent, &name, here)
    }

    fn path_below(&self, dir: ItemId, name: &[u8], here: &Here<'_>) -> Option<PathBuf> {
        let dir = self.path_of_sighting(dir, here)?;
        Some(dir.join(platform::os_name(name)))
    }

    /// Leaves out what may not be told to be gone yet, and what was seen in the place of that: one place has one item.
    fn without_doubts(&self, finding: Finding, removals: Removals<'_>, doubts: &mut Doubts) -> Finding {
        let here: Here<'_> = finding.sightings.iter().map(|seen| (seen.id, seen)).collect();
        let found_gone: HashSet<ItemId> = finding.gone.iter().copied().collect();
        let is_certain = |id: ItemId| {
            let index = self.index.lock();
            let above = |id: &ItemId| index.get(*id).map(|item| item.parent).filter(|dir| found_gone.contains(dir));
            std::iter::successors(Some(id), above).any(|id| removals.has(id, doubts))
        };
        let (gone, doubted): (Vec<ItemId>, Vec<ItemId>) = finding.gone.iter().partition(|id| is_certain(**id));
        let is_gone: HashSet<ItemId> = gone.iter().copied().collect();
        for id in doubted {
            // What lies in a directory that is missing is found with it.
            if self.index.lock().get(id).is_some_and(|item| !found_gone.contains(&item.parent)) {
                doubts.missing.insert(id);
                doubts.scope.again.extend(self.place_now(id, &here));
            }
        }
        let mut left_out = HashSet::new();
        loop {
            let before = left_out.len();
            for seen in &finding.sightings {
                let there = self.index.lock().child(seen.dir, &seen.name).filter(|there| *there != seen.id);
                let is_taken = there.is_some_and(|there| {
                    !is_gone.contains(&there) && (!here.contains_key(&there) || left_out.contains(&there))
                });
                let is_astray = left_out.contains(&seen.dir) || self.is_circle(seen, &here, &left_out);
                if !is_taken && !is_astray || !left_out.insert(seen.id) {
                    continue;
                }
                if is_astray || there.is_some_and(|there| !found_gone.contains(&there)) {
                    doubts.unsettled.extend(self.path_below(seen.dir, &seen.name, &here));
                }
            }
            if left_out.len() == before {
                break;
            }
        }
        let told: Here<'_> = here.into_iter().filter(|(id, _)| !left_out.contains(id)).collect();
        // It may be gone when it is looked for again: that is to be seen where it counts as being.
        doubts.unsettled.extend(left_out.iter().filter_map(|id| self.place_now(*id, &told)));
        doubts.found.extend(told.into_keys());
        let sightings = finding.sightings.into_iter().filter(|seen| !left_out.contains(&seen.id)).collect();
        Finding { sightings, gone }
    }

    /// Whether a directory would lie in itself, since what was seen of it and of those above it is not of one moment.
    fn is_circle(&self, seen: &Sighting, here: &Here<'_>, left_out: &HashSet<ItemId>) -> bool {
        let index = self.index.lock();
        if seen.print.kind != PrintKind::Dir || index.get(seen.id).is_none_or(|item| item.parent == seen.dir) {
            return false;
        }
        let above = |id: &ItemId| {
            let told = here.get(id).filter(|seen| !left_out.contains(&seen.id)).map(|seen| seen.dir);
            told.or_else(|| index.get(*id).map(|item| item.parent))
        };
        let way = std::iter::successors(Some(seen.dir), above).take(DEPTH_MAX);
        way.enumerate().any(|(hops, dir)| dir == seen.id || hops + 1 == DEPTH_MAX)
    }

    /// A file that is gone and one that is new with the same size and time: it was moved, by copying and removing.
    fn moved_by_content(
        &self,
        mut sightings: Vec<Sighting>,
        mut gone: Vec<ItemId>,
        gone_set: &HashSet<ItemId>,
    ) -> (Vec<Sighting>, Vec<ItemId>) {
        let index = self.index.lock();
        let mut by_look: HashMap<(u64, i64), Option<ItemId>> = HashMap::new();
        for id in gone_set {
            let Some(item) = index.get(*id).filter(|item| item.print.kind == PrintKind::File && item.print.size > 0)
            else {
                continue;
            };
            // Two that look the same cannot be told apart.
            by_look.entry((item.print.size, item.print.mtime)).and_modify(|it| *it = None).or_insert(Some(*id));
        }
        if by_look.is_empty() {
            return (sightings, gone);
        }
        let mut moved = HashSet::new();
        for sighting in &mut sightings {
            let is_new = sighting.print.kind == PrintKind::File && index.get(sighting.id).is_none();
            let Some(id) = by_look.get(&(sighting.print.size, sighting.print.mtime)).copied().flatten() else {
                continue;
            };
            if is_new && moved.insert(id) {
                sighting.id = id;
            }
        }
        gone.retain(|id| !moved.contains(id));
        (sightings, gone)
    }

    /// Files that may be the very bytes that the tree has there are read before anything is called a conflict.
    fn hash_rivals(&mut self, finding: &Finding) -> Hashes {
        let index = self.index.clone();
        let wanted: Vec<(ItemId, u64, Vec<Arc<Content>>)> = self.host.look(|engine| {
            let index = index.lock();
            let dirs = DirNodes::of(finding, &index, engine);
            finding
                .sightings
                .iter()
                .filter_map(|seen| {
                    let node = rival(seen, &index, engine, &dirs)?;
                    let body = engine.local(node).map(|state| &state.body);
                    let rivals = body.and_then(Body::content).cloned().into_iter().collect();
                    Some((seen.id, seen.print.size, rivals))
                })
                .collect()
        });
        let mut hashes = Hashes::new();
        let by_id: Here<'_> = finding.sightings.iter().map(|seen| (seen.id, seen)).collect();
        for (id, size, rivals) in wanted {
            let Some(path) = self.path_of_sighting(id, &by_id) else { continue };
            let manifest = |content: &Content| self.host.manifest(content);
            let opened = self.root.spot(&path).and_then(|spot| spot.open_to_read());
            let read = opened.and_then(|file| hash::Known::read(&file, size, &rivals, manifest, &|| self.is_over()));
            match read {
                Ok(known) => drop(hashes.insert(id, known)),
                Err(error) => tracing::debug!(path = %path.display(), %error, "not read to be compared"),
            }
        }
        hashes
    }

    fn path_of_sighting(&self, id: ItemId, by_id: &Here<'_>) -> Option<PathBuf> {
        let index = self.index.lock();
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT_ITEM {
            let (dir, name) = match by_id.get(&at) {
                Some(sighting) => (sighting.dir, &sighting.name),
                None => index.get(at).map(|item| (item.parent, &item.name))?,
            };
            if names.len() > DEPTH_MAX {
                return None;
            }
            names.push(platform::os_name(name));
            at = dir;
        }
        Some(names.iter().rev().collect())
    }
}

/// The sightings by their items.
type Here<'a> = HashMap<ItemId, &'a Sighting>;

/// What is found where an item lay.
enum Place {
    /// Nothing, or something else.
    Left,
    /// The item, or it cannot be told.
    Taken,
    /// Its directory, this one, is not where it was: that has to be looked at first.
    Astray(ItemId),
}

/// The nodes of directories that are seen, as far as the tree has them: new ones by their names.
struct DirNodes(HashMap<ItemId, NodeId>);

impl DirNodes {
    fn of(finding: &Finding, index: &Index, engine: &Engine) -> Self {
        let mut nodes = Self(HashMap::new());
        for seen in finding.sightings.iter().filter(|seen| seen.print.kind == PrintKind::Dir) {
            let known = index.node(seen.id).or_else(|| {
                let parent = nodes.node(seen.dir, index)?;
                engine.child(parent, names::tree_name(&seen.name)?.as_bytes())
            });
            if let Some(node) = known {
                nodes.0.insert(seen.id, node);
            }
        }
        nodes
    }

    fn node(&self, dir: ItemId, index: &Index) -> Option<NodeId> {
        self.0.get(&dir).copied().or_else(|| index.node(dir))
    }
}

/// The node whose bytes a file may have, if that has to be known before it is told.
fn rival(seen: &Sighting, index: &Index, engine: &Engine, dirs: &DirNodes) -> Option<NodeId> {
    if seen.print.kind != PrintKind::File {
        return None;
    }
    let Some(item) = index.get(seen.id) else {
        // Something of this name may be there that was not seen yet.
        let node = engine.child(dirs.node(seen.dir, index)?, names::tree_name(&seen.name)?.as_bytes())?;
        let body = &engine.local(node)?.body;
        return (matches!(body, Body::File(_)) && body.size() == seen.print.size).then_some(node);
    };
    let here = engine.local(item.node).map(|state| &state.body);
    let is_wanted = match (&item.known, here) {
        _ if item.print == seen.print => true,
        (Known::Draft, Some(body)) => body.draft().is_none(),
        _ if item.print.same_bytes(&seen.print) => false,
        (Known::Content(hash), Some(body)) => body.draft().is_none() && body.content_hash() != Some(*hash),
        _ => false,
    };
    is_wanted.then_some(item.node)
}

/// Tells the tree what was found, and enters it into the index.
struct Telling<'a> {
    engine: &'a mut Engine,
    index: &'a mut Index,
    now: Timestamp,
    hashes: &'a Hashes,
    modes: Modes,
    distrust: Option<&'a Distrust>,
    /// Nodes of items that are new or stand for another node from now on.
    nodes: HashMap<ItemId, NodeId>,
    /// Nodes that are new, or that new items stand for.
    new: HashSet<NodeId>,
    observations: Vec<Observation>,
    items: Vec<(ItemId, Item)>,
}

impl<'a> Telling<'a> {
    fn new(
        engine: &'a mut Engine,
        index: &'a mut Index,
        now: Timestamp,
        hashes: &'a Hashes,
        modes: Modes,
        distrust: Option<&'a Distrust>,
    ) -> Self {
        let (nodes, new) = (HashMap::new(), HashSet::new());
        Self { engine, index, now, hashes, modes, distrust, nodes, new, observations: Vec::new(), items: Vec::new() }
    }

    /// Returns the nodes that have to be compared with the disk.
    fn tell(mut self, finding: &Finding, generations: &[u64]) -> Vec<NodeId> {
        for (sighting, generation) in finding.sightings.iter().zip(generations) {
            rightful(self.engine, self.index, sighting.id);
            self.sighting(sighting, *generation);
        }
        for id in &finding.gone {
            rightful(self.engine, self.index, *id);
            self.gone(*id);
        }
        let touched: Vec<NodeId> = self.observations.iter().map(|observation| observation.node).collect();
        let taken = self.engine.observe(std::mem::take(&mut self.observations), self.now);
        let mut nodes: Vec<NodeId> = touched;
        nodes.extend(taken.became.values().copied());
        nodes.extend(taken.moved.iter().map(|(_, to)| *to));
        for id in &finding.gone {
            nodes.extend(self.index.node(*id));
            self.index.remove(*id);
        }
        for (id, mut item) in std::mem::take(&mut self.items) {
            let mut hops = 0;
            while let Some(node) = taken.became.get(&item.node).filter(|_| hops < 64) {
                item.node = *node;
                hops += 1;
            }
            if item.known == Known::Draft {
                self.settle_bytes(id, &mut item, &taken.moved);
            }
            nodes.push(item.node);
            self.index.insert(id, item);
        }
        nodes
    }

    /// Whose bytes a file is now, and whether they are a draft.
    fn settle_bytes(&self, id: ItemId, item: &mut Item, moved: &[(NodeId, NodeId)]) {
        let is_draft_of = |node: NodeId| draft_item(self.engine, node) == Some(id);
        if let Some((_, to)) = moved.iter().find(|(from, to)| *from == item.node && is_draft_of(*to)) {
            item.node = *to;
        }
        if is_draft_of(item.node) {
            return;
        }
        let here = self.engine.local(item.node).and_then(|state| state.body.content().cloned());
        if let (Some(here), Some(read)) = (here, self.hashes.get(&id))
            && read.is(&here)
        {
            item.known = Known::Content(here.hash);
        }
    }

    fn node_of(&self, dir: ItemId) -> Option<NodeId> {
        self.nodes.get(&dir).copied().or_else(|| self.index.node(dir))
    }

    fn sighting(&mut self, seen: &Sighting, generation: u64) {
        let Some(name) = names::tree_name(&seen.name) else { return };
        let old = self.index.get(seen.id).cloned();
        let keeps_label = |old: &&Item| {
            // What was put in its place, and the process was killed before it was noted.
            let is_put = || !names::TELLS_CASES || old.label == names::tree_name(&seen.name);
            old.name == seen.name || names::is_part(&old.name) && is_put()
        };
        // A name that was spelled otherwise here keeps its own.
        let label = old.as_ref().filter(keeps_label).and_then(|old| old.label.clone());
        let name = label.clone().unwrap_or(name);
        let attrs = attrs_of(seen, old.as_ref(), self.modes, self.now);
        let in_tree = old.as_ref().and_then(|old| self.engine.local(old.node)?.xattrs.owner());
        let belongs = Belongs::seen(old.as_ref(), seen.owner, in_tree);
        let Some(item) = old else {
            let Some(parent) = self.living_dir(seen.dir) else { return };
            let place = Placement { parent, name };
            if !self.bind(seen, &place) {
                let node = self.engine.fresh_id(self.now);
                let (known, body) = self.new_bytes(seen, generation);
                self.enter(seen, None, node, label, (attrs, belongs), known, (place, body));
            }
            return;
        };
        let base = self.base(seen.id, &item);
        let (known, body) = self.found_bytes(seen, &item, base.as_ref(), generation);
        let is_same = |parent: &NodeId| {
            let is_there = |base: &State| base.names[..] == [Placement { parent: *parent, name: name.clone() }];
            base.as_ref().is_some_and(|base| {
                is_there(base) && base.attrs == attrs && base.xattrs.owner() == belongs.tree && base.body == body
            })
        };
        // Only what was changed brings a directory back that is gone from the tree.
        let parent = self.node_of(seen.dir).filter(is_same).or_else(|| self.living_dir(seen.dir));
        let Some(parent) = parent else { return };
        let place = Placement { parent, name };
        if matches!((&item.known, &known), (Known::Symlink(a), Known::Symlink(b)) if a != b) {
            // A symlink never changes: another target is another node.
            self.observations.push(Observation { node: item.node, base, found: None });
            let node = self.engine.fresh_id(self.now);
            return self.enter(seen, None, node, label, (attrs, belongs), known, (place, body));
        }
        self.enter(seen, base, item.node, label, (attrs, belongs), known, (place, body));
    }

    /// What the bytes of a known item are now.
    fn found_bytes(&self, seen: &Sighting, item: &Item, base: Option<&State>, generation: u64) -> (Known, Body) {
        // A draft that the tree does not have any more is told once more: its bytes may be nowhere else.
        let is_told = item.known != Known::Draft || draft_item(self.engine, item.node) == Some(seen.id);
        let is_same = is_told && item.print.same_bytes(&seen.print) && !self.is_found_changed(seen, item);
        match base {
            Some(base) if is_same || seen.print.kind != PrintKind::File && item.known == known_of(seen) => {
                (item.known.clone(), base.body.clone())
            }
            _ => self.new_bytes(seen, generation),
        }
    }

    /// An item as it was seen last.
    fn base(&self, id: ItemId, item: &Item) -> Option<State> {
        let is_draft = draft_item(self.engine, item.node) == Some(id);
        let draft = self.engine.local(item.node).filter(|_| is_draft).map(|state| state.body.clone());
        let mut base = self.index.state(item, draft.as_ref())?;
        // That two directories of one name became one has moved nothing in them.
        if let (Some(heir), [place]) = (self.heir(item.parent), &mut base.names[..]) {
            place.parent = heir;
        }
        Some(base)
    }

    /// The directory of the tree that has taken the place of one which is gone from it; `None` if there is none, or if it is not
    /// gone.
    fn heir(&self, dir: ItemId) -> Option<NodeId> {
        let is_alive = |dir: ItemId| {
            dir == ROOT_ITEM || self.index.node(dir).is_some_and(|node| self.engine.local(node).is_some())
        };
        let (mut names, mut at) = (Vec::new(), dir);
        while !is_alive(at) {
            let item = self.index.get(at)?;
            names.push(item.tree_name()?);
            at = item.parent;
            if names.len() > DEPTH_MAX {
                return None;
            }
        }
        let living = self.index.node(at)?;
        let found = names.iter().rev().try_fold(living, |parent, name| {
            let child = self.engine.child(parent, name.as_bytes())?;
            self.engine.local(child).is_some_and(|state| state.body == Body::Dir).then_some(child)
        });
        found.filter(|_| !names.is_empty())
    }

    /// A file that looks as ever was read anew: whether its bytes are others.
    fn is_found_changed(&self, seen: &Sighting, item: &Item) -> bool {
        let Some(read) = self.hashes.get(&seen.id).filter(|_| item.print == seen.print) else { return false };
        match &item.known {
            Known::Content(hash) => {
                let agreed = self.engine.local(item.node).and_then(|state| state.body.content().cloned());
                read.content.hash != *hash && agreed.is_none_or(|agreed| agreed.hash != *hash || !read.is(&agreed))
            }
            Known::Draft => {
                let draft = self.engine.local(item.node).and_then(|state| state.body.draft()?.prepared.clone());
                draft.is_some_and(|prepared| !read.is(&prepared))
            }
            Known::Dir | Known::Symlink(_) => false,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one item")]
    fn enter(
        &mut self,
        seen: &Sighting,
        base: Option<State>,
        node: NodeId,
        label: Option<Name>,
        (attrs, belongs): (Attrs, Belongs),
        known: Known,
        (place, body): (Placement, Body),
    ) {
        self.nodes.insert(seen.id, node);
        if base.is_none() {
            self.new.insert(node);
        }
        let xattrs = base.as_ref().map(|base| base.xattrs.clone()).unwrap_or_default().with_owner(belongs.tree);
        let mut base = base;
        let mut found = State { names: Names::from_buf([place]), attrs, body, xattrs };
        if let Some(distrust) = self.distrust {
            distrust.edited(self.engine, node, &mut base, &mut found);
        }
        if base.as_ref() != Some(&found) {
            self.observations.push(Observation { node, base, found: Some(found) });
        }
        let (parent, name, print, touched) = (seen.dir, seen.name.clone(), seen.print, seen.touched);
        let is_mount_point = Some(seen.is_mount_point);
        self.items
            .push((seen.id, Item { parent, name, label, node, print, attrs, known, is_mount_point, touched, belongs }));
    }

    /// What the tree has at this place already and was not seen here yet is the same thing: nothing happened.
    fn bind(&mut self, seen: &Sighting, place: &Placement) -> bool {
        let Some(node) = self.engine.child(place.parent, place.name.as_bytes()) else { return false };
        let is_free = self.index.of_node(node).is_none() && !self.new.contains(&node);
        let Some(state) = self.engine.local(node).filter(|_| is_free) else { return false };
        let known = match (&state.body, seen.print.kind) {
            (Body::Dir, PrintKind::Dir) => Known::Dir,
            (Body::Symlink(target), PrintKind::Symlink) if Some(target) == seen.target.as_ref() => {
                Known::Symlink(target.clone())
            }
            (Body::File(FileBody::Clean(content)), PrintKind::File) => match self.hashes.get(&seen.id) {
                Some(read) if read.is(content) => Known::Content(content.hash),
                _ => return false,
            },
            _ => return false,
        };
        let attrs = match seen.print.kind {
            // What the disk has is made what the tree has.
            PrintKind::Dir => Attrs { mode: seen.print.mode, ..state.attrs },
            _ => Attrs { mode: seen.print.mode, mtime: Timestamp(seen.print.mtime) },
        };
        self.nodes.insert(seen.id, node);
        self.new.insert(node);
        let (parent, name, print, touched) = (seen.dir, seen.name.clone(), seen.print, seen.touched);
        let is_mount_point = Some(seen.is_mount_point);
        let label = None;
        let belongs = Belongs { disk: None, tree: None };
        self.items
            .push((seen.id, Item { parent, name, label, node, print, attrs, known, is_mount_point, touched, belongs }));
        true
    }

    /// The bytes of something new, as an item and as the tree has them.
    fn new_bytes(&self, seen: &Sighting, generation: u64) -> (Known, Body) {
        match known_of(seen) {
            Known::Dir => (Known::Dir, Body::Dir),
            Known::Symlink(target) => (Known::Symlink(target.clone()), Body::Symlink(target)),
            Known::Content(_) | Known::Draft => {
                let size = seen.print.size;
                let draft = Draft {
                    generation,
                    size,
                    staging: Some(draft_of_item(seen.id)),
                    present: if size > 0 { vec![(0, size)] } else { Vec::new() },
                    ready: true,
                    prepared: self.hashes.get(&seen.id).map(|known| known.content.clone()),
                    ..Draft::empty()
                };
                (Known::Draft, Body::File(FileBody::Draft(Box::new(draft))))
            }
        }
    }

    fn gone(&mut self, id: ItemId) {
        let Some(item) = self.index.get(id).cloned() else { return };
        // What had not come to its place yet was taken by no user: it is brought once more.
        if self.engine.local(item.node).is_none() || names::is_part(&item.name) {
            return;
        }
        let mut base = self.base(id, &item);
        if let Some(distrust) = self.distrust {
            distrust.gone(self.engine, id, item.node, &mut base);
        }
        self.observations.push(Observation { node: item.node, base, found: None });
    }

    /// The node of a directory in which something was found. One that is gone from the tree comes back, and those above it.
    fn living_dir(&mut self, dir: ItemId) -> Option<NodeId> {
        let (mut gone, mut at) = (Vec::new(), dir);
        let mut parent = loop {
            let node = self.node_of(at)?;
            if at == ROOT_ITEM || self.new.contains(&node) || self.engine.local(node).is_some() {
                break node;
            }
            let item = self.index.get(at).cloned()?;
            gone.push(at);
            at = item.parent;
            if gone.len() > DEPTH_MAX {
                return None;
            }
        };
        for dir in gone.into_iter().rev() {
            parent = self.bring_back(dir, parent)?;
        }
        Some(parent)
    }

    /// Brings a directory back that is gone from the tree, into one that is there.
    fn bring_back(&mut self, dir: ItemId, parent: NodeId) -> Option<NodeId> {
        let item = self.index.get(dir).cloned()?;
        let name = item.tree_name()?;
        let heir = self.engine.child(parent, name.as_bytes()).filter(|heir| {
            self.index.of_node(*heir).is_none() && self.engine.local(*heir).is_some_and(|state| state.body == Body::Dir)
        });
        let back = match heir {
            Some(heir) => heir,
            None => {
                let back = self.engine.fresh_id(self.now);
                let names = Names::from_buf([Placement { parent, name }]);
                let xattrs = syncmount_common::Xattrs::default();
                let found = State { names, attrs: item.attrs, body: Body::Dir, xattrs };
                self.observations.push(Observation { node: back, base: None, found: Some(found) });
                back
            }
        };
        self.nodes.insert(dir, back);
        self.new.insert(back);
        self.items.push((dir, Item { node: back, ..item }));
        Some(back)
    }
}

/// The item whose bytes are the draft of a node.
pub(crate) fn draft_item(engine: &Engine, node: NodeId) -> Option<ItemId> {
    engine.local(node)?.body.draft()?.staging.and_then(crate::driver::item_of_draft)
}

/// A draft may have become that of a conflict copy a moment ago: its item follows.
pub(crate) fn rightful(engine: &Engine, index: &mut Index, id: ItemId) {
    let Some(item) = index.get(id).filter(|item| item.known == Known::Draft) else { return };
    if draft_item(engine, item.node) == Some(id) {
        return;
    }
    if let Some(owner) = engine.conflicts().find(|node| draft_item(engine, *node) == Some(id)) {
        index.edit(id, |item| item.node = owner);
    }
}

fn known_of(seen: &Sighting) -> Known {
    match (&seen.target, seen.print.kind) {
        (Some(target), _) => Known::Symlink(target.clone()),
        (None, PrintKind::Dir) => Known::Dir,
        (None, _) => Known::Draft,
    }
}

/// What the user has set is what the disk shows otherwise than before.
fn attrs_of(seen: &Sighting, old: Option<&Item>, modes: Modes, now: Timestamp) -> Attrs {
    let mode = match old {
        Some(old) if old.print.mode == seen.print.mode => old.attrs.mode,
        Some(old) => modes.in_tree(seen.print.mode, old.attrs.mode),
        None => seen.print.mode,
    };
    let mtime = match (seen.print.kind, old) {
        (PrintKind::Dir, Some(old)) => old.attrs.mtime,
        (PrintKind::Dir, None) => now,
        (_, Some(old)) if old.print.mtime == seen.print.mtime => old.attrs.mtime,
        _ => Timestamp(seen.print.mtime),
    };
    // A disk has no modes of symlinks of its own.
    let mode = if seen.print.kind == PrintKind::Symlink { old.map_or(0o777, |old| old.attrs.mode) } else { mode };
    Attrs { mode, mtime }
}
