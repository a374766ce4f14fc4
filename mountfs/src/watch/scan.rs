//! Looking at the disk: what is not as the index has it.
//!
//! Three answers about everything: there, gone, not known. What cannot be read is not known, and nothing follows from it.
//! Looking changes nothing, here or there.

use super::beneath::{Dir, Found, Root, Spot};
use super::index::{DEPTH_MAX, Index, Item, ROOT_ITEM};
use super::names;
use super::platform::{self, Print, PrintKind};
use super::rules::Ignored;
use crate::driver::ItemId;
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use syncmount_common::node::LEVELS_MAX;
use syncmount_common::{Owner, SymlinkTarget};

/// Why nothing is concluded about a directory in which file systems are mounted and unmounted.
pub(crate) const NO_DISK: &str = "a disk was mounted here and is not any more, so nothing is concluded from what is missing; mount it \
     again, or run `syncmount accept` with this path if it is not to come back";
pub(crate) const NESTED: &str = "another watched folder lies here (it has the marker .syncmount-folder), which is not shared with this \
     one; if it is watched no more, remove its marker";
const OTHER_DISK: &str = "another disk is mounted here than before, so nothing is concluded from what is missing; mount the former \
     one, or run `syncmount accept` with this path if this one takes its place";
const DISK_ABOVE: &str = "a disk was mounted over a directory that had something in it, so what is shared of that cannot be seen; \
     unmount it, or run `syncmount accept` with this path if the disk is to be shared";

/// So many entries of a disk's root are looked at for one that was renamed.
const RENAMED_MAX: usize = 1000;

/// What is to be looked at.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Scope {
    /// Paths below the root of which there were hints. Their names are looked up.
    pub(crate) paths: BTreeSet<PathBuf>,
    /// Paths that are looked up for another reason.
    pub(crate) again: BTreeSet<PathBuf>,
    /// Directories below the root that are listed, with all below them.
    pub(crate) trees: BTreeSet<PathBuf>,
}

impl Scope {
    /// Everything.
    pub(crate) fn everything() -> Self {
        Self::of_trees(BTreeSet::from([PathBuf::new()]))
    }

    /// What is in these directories.
    pub(crate) fn of_trees(trees: BTreeSet<PathBuf>) -> Self {
        Self { trees, ..Self::default() }
    }

    /// What is at these paths, of which there was no hint.
    pub(crate) fn of_known(again: BTreeSet<PathBuf>) -> Self {
        Self { again, ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.paths.is_empty() && self.again.is_empty() && self.trees.is_empty()
    }

    pub(crate) fn is_everything(&self) -> bool {
        self.trees.contains(Path::new(""))
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.paths.extend(other.paths);
        self.again.extend(other.again);
        self.trees.extend(other.trees);
    }
}

/// Something on the disk that is not as the index has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Sighting {
    /// The directory in which it lies; one that is not in the index yet is a sighting itself.
    pub(crate) dir: ItemId,
    pub(crate) name: Arc<[u8]>,
    /// Which item it is. One that is not in the index was never seen before, under any name.
    pub(crate) id: ItemId,
    pub(crate) print: Print,
    /// When it was last touched in any way, in nanoseconds since 1970; 0 if it was touched since.
    pub(crate) touched: i64,
    /// Where a symlink points to.
    pub(crate) target: Option<SymlinkTarget>,
    /// It is the root of a file system that is mounted there.
    pub(crate) is_mount_point: bool,
    /// To whom it belongs, if that is looked at.
    pub(crate) owner: Option<Owner>,
}

/// What was seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Directories before what is in them.
    pub(crate) sightings: Vec<Sighting>,
    /// Items that are not where they were.
    pub(crate) missing: Vec<ItemId>,
    /// Items that were put aside in their directories, under these names.
    pub(crate) aside: Vec<(ItemId, ItemId, Arc<[u8]>)>,
    /// What cannot be looked at, and why.
    pub(crate) unknown: Vec<(PathBuf, String)>,
    /// What was touched a moment ago and is left to come to rest.
    pub(crate) restless: BTreeSet<PathBuf>,
    /// What the disk calls these files.
    pub(crate) restless_files: HashSet<u64>,
    /// Where nothing is known as long as a disk is missing, and why.
    pub(crate) unavailable: Vec<(PathBuf, &'static str)>,
    /// Names that are not shared because they begin as those of the program.
    pub(crate) reserved: Vec<PathBuf>,
    /// What the disk calls the things at these places.
    pub(crate) unavailable_files: HashSet<u64>,
    /// Mounted file systems that were proved to be those of the last look.
    pub(crate) proved: Vec<ItemId>,
    /// Directories that are as they were, except for whether a file system is mounted there.
    pub(crate) mounts: Vec<(ItemId, bool)>,
    /// Directories that hints named: what was made in them before the system began to tell of them has no hint of its own.
    pub(crate) dirs: BTreeSet<PathBuf>,
    /// Of these there was a hint, and they are not there.
    pub(crate) hinted_missing: Vec<ItemId>,
    /// Something of which there was a hint is not there: it went on, and the hint of where to may be on its way.
    pub(crate) passed: bool,
    /// How many things were looked at.
    pub(crate) looked_at: u64,
    /// The look was broken off: nothing follows from it.
    pub(crate) is_cut: bool,
}

/// How to look.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// What was touched later than this, in nanoseconds since 1970, has not come to rest; `i64::MAX` takes everything.
    pub(crate) rested_before: i64,
    /// Files that look the same are sightings too.
    pub(crate) all: bool,
    /// What a killed process was putting together is removed.
    pub(crate) clears: bool,
    /// It is looked to whom things belong.
    pub(crate) owners: bool,
}

/// What is known of directories of which something else is to be thought than of others.
#[derive(Clone, Copy)]
pub(crate) struct Apart<'a> {
    /// Whether another watched folder was found at a path.
    pub(crate) is_nested: &'a dyn Fn(&Path) -> bool,
    /// Mounted file systems that this process has proved to be those of the last look.
    pub(crate) proved: &'a HashSet<ItemId>,
}

/// One look at the disk.
pub(crate) struct Scan<'a> {
    root: &'a Root,
    index: &'a parking_lot::Mutex<Index>,
    rules: Rules,
    /// Directories in which files are being put together, by what the disk calls them: not left over.
    works: &'a HashSet<u64>,
    /// Asked between two entries: whether to break off.
    ends: &'a AtomicBool,
    /// Paths that count as rested, whatever their times say.
    rested: &'a BTreeSet<PathBuf>,
    ignored: &'a RwLock<Ignored>,
    apart: Apart<'a>,
    seen: Seen,
    /// Items that were seen, and the directories in which they are.
    claimed: HashMap<ItemId, ItemId>,
    /// Paths of sightings: hints may lead to one of them twice.
    told: HashSet<PathBuf>,
    /// Directories that were listed.
    listed: HashSet<ItemId>,
    /// What is looked up was named by a hint.
    is_hint: bool,
    /// Known directories, and whether they are at their paths.
    in_place: HashMap<ItemId, bool>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        root: &'a Root,
        index: &'a parking_lot::Mutex<Index>,
        rules: Rules,
        (works, ends): (&'a HashSet<u64>, &'a AtomicBool),
        rested: &'a BTreeSet<PathBuf>,
        (ignored, apart): (&'a RwLock<Ignored>, Apart<'a>),
    ) -> Self {
        Self {
            root,
            index,
            rules,
            works,
            ends,
            rested,
            ignored,
            apart,
            seen: Seen::default(),
            claimed: HashMap::new(),
            told: HashSet::new(),
            listed: HashSet::new(),
            is_hint: false,
            in_place: HashMap::new(),
        }
    }

    /// Looks at what `scope` names.
    pub(crate) fn run(mut self, scope: &Scope) -> Seen {
        let (listed, others): (Vec<&PathBuf>, Vec<&PathBuf>) = scope.trees.iter().partition(|tree| self.tree(tree));
        // What came into one of them while it was not listened to has gone on with it.
        self.seen.passed |= !others.is_empty();
        let mut by_dir: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
        for path in scope.paths.union(&scope.again) {
            // Of a hint it is to be known whether its thing has gone on.
            if !scope.paths.contains(path) && listed.iter().any(|tree| path.starts_with(tree) && path != *tree) {
                continue;
            }
            by_dir.entry(path.parent().unwrap_or(Path::new(""))).or_default().push(path);
        }
        for path in by_dir.into_values().flatten() {
            if self.is_over() {
                break;
            }
            self.is_hint = scope.paths.contains(path);
            self.path(path);
        }
        self.seen.is_cut = self.is_over();
        self.seen
    }

    fn is_over(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Looks up one name, and everything below it if it is new. If a directory above is not known, or is not at its path, it
    /// is looked up instead.
    fn path(&mut self, path: &Path) {
        if path.ancestors().skip(1).any(self.apart.is_nested) {
            // It is looked at again with all of that.
            return;
        }
        let Some(dirs) = self.known_dirs(path) else { return };
        let prefix = |len: usize| path.iter().take(len).collect::<PathBuf>();
        let above = path.iter().count().saturating_sub(1);
        let last = dirs.len() - 1;
        // Above one that is there all are.
        let astray = if self.is_in_place(dirs[last], &prefix(last)) {
            None
        } else {
            (1..last).find(|depth| !self.is_in_place(dirs[*depth], &prefix(*depth))).or(Some(last))
        };
        match astray {
            // What is at the path now does not lie in that directory.
            Some(depth) => {
                self.seen.passed |= self.is_hint;
                self.look_up(dirs[depth - 1], &prefix(depth));
            }
            // A directory above is not known yet: it is found with what is in it.
            None if last < above => self.look_up(dirs[last], &prefix(last + 1)),
            None => self.look_up(dirs[last], path),
        }
    }

    /// Looks up one name in a directory that is at its path.
    fn look_up(&mut self, dir: ItemId, path: &Path) {
        let Some(name) = path.file_name().and_then(platform::name_bytes) else { return };
        let spot = self.root.spot(path);
        let found = spot.and_then(|spot| Ok(spot.look()?.map(|found| (spot, found))));
        match found {
            // The system finds it under another spelling, of which it will tell as well.
            Ok(Some((spot, _))) if !spot.is_spelled_so() => {
                let child = self.index.lock().child(dir, name);
                self.seen.missing.extend(child);
            }
            Ok(Some((spot, found))) => {
                if found.print.kind == PrintKind::Dir {
                    self.seen.dirs.insert(path.to_path_buf());
                }
                self.entry(dir, name.into(), path, &spot, found, false);
            }
            Err(error) if !platform::is_absent(&error) => self.unknown(path, &error),
            Ok(None) | Err(_) => {
                let child = self.index.lock().child(dir, name);
                self.seen.passed |= self.is_hint && child.is_none();
                self.seen.hinted_missing.extend(child.filter(|_| self.is_hint));
                self.seen.missing.extend(child);
            }
        }
    }

    /// The known directories above a path, the root first.
    fn known_dirs(&self, path: &Path) -> Option<Vec<ItemId>> {
        let index = self.index.lock();
        let mut dirs = vec![ROOT_ITEM];
        for component in path.parent()?.components() {
            let name = platform::name_bytes(component.as_os_str())?;
            match index.child(*dirs.last()?, name).filter(|id| index.get(*id).is_some_and(Item::is_dir)) {
                Some(id) => dirs.push(id),
                None => break,
            }
        }
        Some(dirs)
    }

    /// Whether a known directory is at its path.
    fn is_in_place(&mut self, dir: ItemId, path: &Path) -> bool {
        if dir == ROOT_ITEM {
            return true;
        }
        let Some(print) = self.index.lock().get(dir).map(|item| item.print) else { return false };
        *self.in_place.entry(dir).or_insert_with(|| {
            // What cannot be looked at is reported with what is in it.
            self.root.print(path).map_or(true, |there| there.is_some_and(|there| there.same_file(&print)))
        })
    }

    /// Lists a directory with all below it. Returns whether there is one.
    fn tree(&mut self, path: &Path) -> bool {
        if path.as_os_str().is_empty() {
            self.list(ROOT_ITEM, path, true);
            return true;
        }
        let dir = self.known_dirs(path).and_then(|dirs| {
            let name = path.file_name().and_then(platform::name_bytes)?;
            let is_here = dirs.len() == path.iter().count();
            let index = self.index.lock();
            index.child(*dirs.last()?, name).filter(|id| is_here && index.get(*id).is_some_and(Item::is_dir))
        });
        self.path(path);
        let Some(dir) = dir.filter(|dir| self.is_in_place(*dir, path)) else { return self.told.contains(path) };
        if !self.listed.contains(&dir) {
            self.list(dir, path, true);
        }
        true
    }

    /// Lists a directory. With `deep` also what is in directories that are as they were.
    fn list(&mut self, dir: ItemId, path: &Path, deep: bool) {
        let mut todo = vec![(dir, path.to_path_buf())];
        while let Some((dir, path)) = todo.pop() {
            self.listed.insert(dir);
            if let Err(error) = self.list_one(dir, &path, deep, &mut todo) {
                self.unknown(&path, &error);
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Lists one directory. Directories that are to be listed too, as they are known, go to `todo`.
    fn list_one(&mut self, dir: ItemId, path: &Path, deep: bool, todo: &mut Vec<(ItemId, PathBuf)>) -> io::Result<()> {
        if path.components().count() > DEPTH_MAX {
            return Err(io::Error::other(format!("it lies deeper than {DEPTH_MAX} directories, and is not shared")));
        }
        let here = self.root.dir(path)?;
        self.ignored.write().look(&here, path);
        let mut names = Vec::new();
        let listed = here.names(|name| {
            names.push(name);
            !self.is_over()
        });
        if !path.as_os_str().is_empty() && names.iter().any(|name| name == names::MARKER) {
            self.seen.unavailable.push((path.to_path_buf(), NESTED));
            return Ok(());
        }
        let mut found = HashSet::new();
        for name in names {
            if self.is_over() {
                return Ok(());
            }
            let inner = path.join(&name);
            let Some(bytes) = platform::name_bytes(&name) else {
                self.unknown(&inner, &io::Error::other("its name cannot be spelled on other systems"));
                continue;
            };
            let (bytes, spot): (Arc<[u8]>, Spot) = (bytes.into(), here.spot(&name)?);
            match spot.look() {
                Ok(Some(look)) => {
                    found.insert(bytes.clone());
                    match self.unchanged_dir(dir, &bytes, &look) {
                        Some(known) if deep => todo.push((known, inner)),
                        Some(_) => {}
                        None => todo.extend(self.compare(dir, bytes, &inner, &spot, look, deep)),
                    }
                }
                Ok(None) => {}
                Err(error) => {
                    found.insert(bytes);
                    self.unknown(&inner, &error);
                }
            }
        }
        listed?;
        let index = self.index.lock();
        let gone = index.children(dir).filter(|(name, _)| !found.contains(*name));
        self.seen.missing.extend(gone.map(|(_, id)| id));
        Ok(())
    }

    fn unchanged_dir(&mut self, dir: ItemId, name: &[u8], found: &Found) -> Option<ItemId> {
        let Found { print, is_mount_point, owner, .. } = found;
        if print.kind != PrintKind::Dir {
            return None;
        }
        let index = self.index.lock();
        let id = index.child(dir, name)?;
        let is_proved = |item: &Item| item.is_mount_point != Some(true) || self.apart.proved.contains(&id);
        let is_as_before = |item: &Item| {
            let is_given = self.rules.owners && item.belongs.disk != *owner;
            item.print == *print && !is_given && is_proved(item) && !self.claimed.contains_key(&id)
        };
        let item = index.get(id).filter(|item| is_as_before(item));
        let same = item.is_some();
        if item.is_some_and(|item| item.is_mount_point != Some(*is_mount_point)) {
            self.seen.mounts.push((id, *is_mount_point));
        }
        self.seen.looked_at += u64::from(same);
        same.then_some(id)
    }

    /// Compares one entry with what is known, and lists it with all below it if it is a directory that is to be listed.
    fn entry(&mut self, dir: ItemId, name: Arc<[u8]>, path: &Path, spot: &Spot, found: Found, deep: bool) {
        if let Some((id, path)) = self.compare(dir, name, path, spot, found, deep) {
            self.list(id, &path, true);
        }
    }

    /// Compares one entry with what is known. Gives a directory that is to be listed.
    fn compare(
        &mut self,
        dir: ItemId,
        name: Arc<[u8]>,
        path: &Path,
        spot: &Spot,
        found: Found,
        deep: bool,
    ) -> Option<(ItemId, PathBuf)> {
        if self.told.contains(path) {
            return None;
        }
        self.seen.looked_at += 1;
        let Found { mut print, mut touched, is_mount_point, owner } = found;
        let owner = owner.filter(|_| self.rules.owners);
        let child = self.index.lock().child(dir, &name);
        if names::is_ours(&name) {
            let index = self.index.lock();
            let is_known = child.and_then(|id| index.get(id)).is_some_and(|item| item.print.same_file(&print));
            drop(index);
            if !is_known {
                self.left_over(dir, name, path, spot, &print);
                return None;
            }
        }
        if child.is_none() && names::is_reserved(&name) {
            self.seen.reserved.push(path.to_path_buf());
            return None;
        }
        // What is shared already goes on being shared, whatever the rules say now.
        if child.is_none() && self.ignored.read().is_ignored(path, print.kind == PrintKind::Dir) {
            return None;
        }
        if let Some(why) = child.and_then(|child| self.unavailable(child, spot, &found)) {
            self.seen.unavailable_files.insert(print.file);
            self.seen.unavailable.push((path.to_path_buf(), why));
            return None;
        }
        if print.kind == PrintKind::Dir && has_marker(spot) {
            self.seen.unavailable.push((path.to_path_buf(), NESTED));
            return None;
        }
        if print.kind == PrintKind::Other {
            // Pipes, sockets and devices live on this machine only.
            self.seen.missing.extend(child);
            return None;
        }
        let known = self.same_item(dir, &name, &print, child);
        let is_in_place = known.is_some() && known == child;
        // It looks as ever and was touched nevertheless: a program that sets the old time again has written to it, perhaps.
        let mut may_be_edited = false;
        if let Some(id) = known.filter(|_| is_in_place) {
            let mut index = self.index.lock();
            let item = index.get(id).filter(|item| item.print == print);
            let last = item.map(|item| item.touched);
            let is_given = owner.is_some() && item.is_some_and(|item| item.belongs.disk != owner);
            may_be_edited = print.kind == PrintKind::File && last.is_some_and(|last| last != 0 && last != touched);
            if last == Some(0) {
                index.note_touched(id, touched);
            }
            let is_to_be_seen = may_be_edited || is_given || self.rules.all && print.kind == PrintKind::File;
            if last.is_some() && !is_to_be_seen {
                // One that was proved just now is listed as those that have not changed are.
                return (deep && is_mount_point).then(|| (id, path.to_path_buf()));
            }
        }
        let is_moved_only =
            known.is_some_and(|id| self.index.lock().get(id).is_some_and(|item| item.print.same_bytes(&print)));
        if print.kind == PrintKind::File
            && (!is_moved_only || may_be_edited)
            && touched > self.rules.rested_before
            && !self.rested.contains(path)
        {
            self.seen.restless.insert(path.to_path_buf());
            self.seen.restless_files.insert(print.file);
            // A name does not wait for bytes: who has its old one by now would push it out of that.
            let before = known.filter(|_| !is_in_place).and_then(|id| self.index.lock().get(id).map(|item| item.print));
            (print, touched) = (before?, 0);
        }
        let target = match (print.kind, spot.read_link()) {
            (PrintKind::Symlink, Ok(target)) => Some(target),
            (PrintKind::Symlink, Err(error)) => {
                self.unknown(path, &error);
                return None;
            }
            _ => None,
        };
        if names::tree_name(&name).is_none() {
            self.unknown(path, &io::Error::other("its name is none that can be shared"));
            return None;
        }
        if known.is_none() && print.kind == PrintKind::Dir && path.iter().count() > LEVELS_MAX {
            let why = format!("at most {LEVELS_MAX} directories can lie in each other; it is not shared");
            self.unknown(path, &io::Error::other(why));
            return None;
        }
        let id = known.unwrap_or_else(|| self.index.lock().fresh_id());
        self.claimed.insert(id, dir);
        self.told.insert(path.to_path_buf());
        self.seen.sightings.push(Sighting { dir, name, id, print, touched, target, is_mount_point, owner });
        let is_listed = print.kind == PrintKind::Dir && (known.is_none() || !is_in_place || deep);
        is_listed.then(|| (id, path.to_path_buf()))
    }

    /// Why nothing is known of `child` and of what is in it, although something is in its place: a file system that was
    /// mounted there is not, or one is that was not. What that has or lacks says nothing about what is known.
    fn unavailable(&mut self, child: ItemId, spot: &Spot, found: &Found) -> Option<&'static str> {
        let index = self.index.lock();
        let item = index.get(child).filter(|item| item.is_dir())?;
        if item.print.same_file(&found.print) {
            if item.is_mount_point != Some(true) || self.apart.proved.contains(&child) {
                return None;
            }
            // Disks without times of birth call their roots the same: something that was on it must be there.
            let dir = spot.open_dir().ok()?;
            let is_there = |(name, id): (&Arc<[u8]>, ItemId)| {
                let there = dir.spot(&platform::os_name(name)).and_then(|inner| inner.print()).ok().flatten();
                there.zip(index.get(id)).is_some_and(|(there, known)| there.same_file(&known.print))
            };
            if index.has_children(child) && !index.children(child).any(is_there) && !has_renamed(&dir, child, &index) {
                return Some(OTHER_DISK);
            }
            self.seen.proved.push(child);
            return None;
        }
        match item.is_mount_point {
            Some(true) if found.is_mount_point => Some(OTHER_DISK),
            Some(true) => Some(NO_DISK),
            _ if found.is_mount_point && index.has_children(child) => Some(DISK_ABOVE),
            None if found.print.kind == PrintKind::Dir && index.has_children(child) => {
                // An earlier version did not note it. Where nothing mounted hides it, something of it is there.
                let Ok(dir) = spot.open_dir() else { return Some(NO_DISK) };
                let is_there = |name: &[u8]| {
                    let inner = dir.spot(&platform::os_name(name)).and_then(|inner| inner.print());
                    inner.is_ok_and(|inner| inner.is_some())
                };
                (!index.children(child).any(|(name, _)| is_there(name))).then_some(NO_DISK)
            }
            _ => None,
        }
    }

    /// The item that something on the disk is: the one of this name, or one that has left its place.
    fn same_item(&self, dir: ItemId, name: &[u8], print: &Print, child: Option<ItemId>) -> Option<ItemId> {
        let index = self.index.lock();
        if let Some(id) = child
            && index.get(id).is_some_and(|item| item.print.same_file(print))
        {
            return Some(id);
        }
        let id = index.of_file(print.file).filter(|id| !self.claimed.contains_key(id))?;
        let item = index.get(id).filter(|item| item.print.same_file(print))?;
        // A directory does not move into itself; a second name of a file is a file of its own.
        if (item.parent, &*item.name) == (dir, name) || (item.is_dir() && self.is_within(dir, id, &index)) {
            return None;
        }
        let path = index.path(id)?;
        drop(index);
        match self.root.spot(&path).and_then(|spot| Ok((spot.print()?, spot))) {
            Ok((there, spot)) => {
                let is_left = there.is_none_or(|there| !there.same_file(print)) || !spot.is_spelled_so();
                is_left.then_some(id)
            }
            Err(error) => platform::is_absent(&error).then_some(id),
        }
    }

    /// Whether the directory `dir`, as it was seen, is `id` or lies below it.
    fn is_within(&self, dir: ItemId, id: ItemId, index: &Index) -> bool {
        let parent = |at: &ItemId| self.claimed.get(at).copied().or_else(|| Some(index.get(*at)?.parent));
        // What was seen while it was moved about may lead in a circle.
        let way = std::iter::successors(Some(dir), parent).take(DEPTH_MAX);
        way.enumerate().any(|(hops, at)| at == id || hops + 1 == DEPTH_MAX)
    }

    /// What a process was putting together, or aside, when it was killed.
    fn left_over(&mut self, dir: ItemId, name: Arc<[u8]>, path: &Path, spot: &Spot, print: &Print) {
        if let Some(above) =
            path.parent().filter(|above| *name == *names::MARKER.as_bytes() && !above.as_os_str().is_empty())
        {
            self.seen.unavailable.push((above.to_path_buf(), NESTED));
        }
        if !names::is_part(&name) || self.works.contains(&print.file) {
            return;
        }
        if names::is_work(&name) && print.kind == PrintKind::Dir {
            // What a killed process had put aside lies where it was, never here.
            if let Err(error) = spot.open_dir().and_then(|work| self.clear(&work, path)) {
                tracing::debug!(path = %path.display(), %error, "a left-over directory cannot be cleared");
            }
        } else if let Some(id) = self.put_aside(print) {
            self.claimed.insert(id, dir);
            self.seen.aside.push((id, dir, name));
            return;
        }
        self.discard(spot, path, print);
    }

    fn clear(&mut self, work: &Dir, path: &Path) -> io::Result<()> {
        let mut names = Vec::new();
        work.names(|name| {
            names.push(name);
            !self.is_over()
        })?;
        for name in names {
            let spot = work.spot(&name)?;
            if let Some(print) = spot.print()? {
                self.discard(&spot, &path.join(name), &print);
            }
        }
        Ok(())
    }

    /// Removes what is left over, unless a program wrote to it.
    fn discard(&mut self, spot: &Spot, path: &Path, print: &Print) {
        if self.was_written_to(print) {
            let why =
                "a program wrote to it in the moment in which another version took its place; rename it to keep it";
            self.unknown(path, &io::Error::other(why));
        } else if self.rules.clears {
            // A directory goes if it is empty.
            let removed = if print.kind == PrintKind::Dir { spot.remove_dir() } else { spot.remove_file() };
            if let Err(error) = removed {
                tracing::debug!(path = %path.display(), %error, "a left-over part cannot be removed");
            }
        }
    }

    /// Whether something is what an item was, and was written to since.
    fn was_written_to(&self, print: &Print) -> bool {
        let index = self.index.lock();
        let item = index.of_file(print.file).and_then(|id| index.get(id));
        item.is_some_and(|item| item.print.same_file(print) && !item.print.same_bytes(print))
    }

    /// The item that was put aside, if nothing is in its place.
    fn put_aside(&self, print: &Print) -> Option<ItemId> {
        let index = self.index.lock();
        let id = index.of_file(print.file).filter(|id| !self.claimed.contains_key(id))?;
        index.get(id).filter(|item| item.print.same_file(print))?;
        let path = index.path(id)?;
        drop(index);
        self.root.print(&path).is_ok_and(|there| there.is_none()).then_some(id)
    }

    fn unknown(&mut self, path: &Path, error: &io::Error) {
        tracing::warn!(path = %path.display(), %error, "cannot be looked at");
        self.seen.unknown.push((path.to_path_buf(), error.to_string()));
    }
}

/// Whether a directory is the root of a folder that is watched by itself.
fn has_marker(spot: &Spot) -> bool {
    let marker = spot.open_dir().and_then(|dir| dir.spot(names::MARKER.as_ref())?.print());
    marker.is_ok_and(|marker| marker.is_some())
}

/// Whether something that was in the directory `item` is in it under another name. It is looked at more closely than what has its
/// name still: file, size and time have to be the same.
fn has_renamed(dir: &Dir, item: ItemId, index: &Index) -> bool {
    let (mut left, mut found) = (RENAMED_MAX, false);
    let listed = dir.names(|name| {
        let there = dir.spot(&name).and_then(|spot| spot.print()).ok().flatten();
        let known = there.as_ref().and_then(|there| index.get(index.of_file(there.file)?));
        found = known.is_some_and(|known| known.parent == item && Some(known.print) == there);
        left -= 1;
        left > 0 && !found
    });
    found && listed.is_ok()
}
