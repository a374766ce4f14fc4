//! A plain folder that is kept in step with the tree: its index, and what is to be compared with the disk next.
//!
//! Everything here happens when it is called for, on one thread: [`Folder::look`] finds what the user did, and
//! [`Folder::work`] brings the disk to what the tree shows. Contents are fetched elsewhere, by whoever takes the
//! [`Job`]s, and put in place here. After a crash both comparisons are made again, and nothing else is needed.

use super::beneath::{Dir, Root, Spot};
use super::distrust::Distrust;
use super::host::Host;
use super::index::{Index, Item, ROOT_ITEM};
use super::modes::Modes;
use super::names;
use super::observe::{Doubts, Removals};
use super::platform::{self, Print};
use super::rules::Ignored;
use super::scan::{self, Rules, Scan, Scope, Seen};
use crate::driver::{FolderBytes, ItemId, ItemRow};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::{Attrs, Content, ContentHash, NodeId, Owner, Timestamp};
use syncmount_engine::Engine;

/// The pause before something that failed is tried again, at first and at last.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Something about one path that its owner should know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Report {
    /// It cannot be looked at, so nothing is known of it.
    Unknown(String),
    /// A disk that was mounted there is not, or another one is, so nothing is known of it.
    Unavailable(String),
    /// What another device did to it cannot be done here yet.
    Unapplied(String),
    /// It stays on this machine.
    Aside(String),
}

/// What to look at.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// Paths of which there were hints.
    pub hinted: BTreeSet<PathBuf>,
    /// Other paths.
    pub known: BTreeSet<PathBuf>,
    /// Directories, with all that is in them.
    pub trees: BTreeSet<PathBuf>,
    /// Items that an earlier look left open, and since which all hints have been read.
    pub missing: HashSet<ItemId>,
    /// Something had gone on before those hints.
    pub passed: bool,
}

/// What a look has left open.
#[derive(Clone, Debug, Default)]
pub struct Open {
    /// Items that were not found.
    pub missing: HashSet<ItemId>,
    /// Where to look for them once all hints up to now have been read.
    pub paths: BTreeSet<PathBuf>,
    /// Items that were not found although there was a hint of them.
    pub renewed: HashSet<ItemId>,
    /// Items that were found: they are not missing any more.
    pub found: Vec<ItemId>,
    /// Something of which there was a hint had gone on.
    pub passed: bool,
    /// Where to look again, since something was on its way from one place to another.
    pub unsettled: BTreeSet<PathBuf>,
    /// Directories that were named: to be listed once they are listened to.
    pub dirs: BTreeSet<PathBuf>,
}

/// A content that is to be put together.
#[derive(Clone, Debug)]
pub struct Job {
    /// Whose it is.
    pub node: NodeId,
    /// The content.
    pub content: Arc<Content>,
    /// Mode and mtime that the tree has.
    pub attrs: Attrs,
    /// The permission bits that the file gets.
    pub(crate) mode: u32,
    /// To whom it is given, if it is.
    pub(crate) owner: Option<Owner>,
    /// Where it is put together; nothing is there yet.
    pub(crate) part: Spot,
    /// An earlier version, of which chunks may be taken.
    pub(crate) old: Option<Old>,
}

/// An earlier version of a file.
#[derive(Clone)]
pub(crate) struct Old {
    pub(crate) root: Root,
    /// Where it was below that.
    pub(crate) path: PathBuf,
    /// Its content, if that is known.
    pub(crate) known: Option<ContentHash>,
}

impl Old {
    /// Opens what is there now.
    pub(crate) fn open(&self) -> io::Result<File> {
        self.root.spot(&self.path)?.open_to_read()
    }
}

impl std::fmt::Debug for Old {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Old").field("path", &self.path).field("known", &self.known).finish_non_exhaustive()
    }
}

/// A directory in which files are put together before they take their places. Only this process's user may enter it, so
/// that no other user can put anything in the place of one.
struct Work {
    above: Dir,
    name: OsString,
    dir: Dir,
    /// What the disk calls it.
    file: u64,
}

impl Work {
    /// The same directory, reached through `above`, if it is there. The disk may have been mounted again since, and no rename leads
    /// from one mount to another, not even of the same disk.
    fn again(&self, above: &Dir) -> Option<Dir> {
        let dir = above.spot(&self.name).and_then(|spot| spot.open_dir()).ok()?;
        dir.print().is_ok_and(|there| there.file == self.file).then_some(dir)
    }

    /// Goes if it is empty.
    fn leave(self) {
        let Self { above, name, dir, .. } = self;
        drop(dir);
        let removed = above.spot(&name).and_then(|spot| above.in_writable(|| spot.remove_dir()));
        if let Err(error) = removed {
            tracing::debug!(%error, "a directory for files on their way is left");
        }
    }
}

/// How many entries of the root are looked at to prove that it is what it was.
const PROOF_MAX: usize = 1000;

/// How many entries of a directory are looked at for one that is like a file which comes into it.
const BESIDE_MAX: usize = 10_000;

/// How many of them are taken into account.
const ALIKE_MAX: usize = 8;

/// What waits to be done on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Backlog {
    /// Nodes that have to be compared or whose content is on its way.
    pub nodes: u64,
    /// Of these, what failed and is tried again later.
    pub failed: u64,
}

pub(crate) struct Later {
    pub(crate) at: Instant,
    pub(crate) reason: Option<String>,
}

/// A watched folder.
pub struct Folder<H> {
    pub(crate) host: H,
    pub(crate) root: Root,
    pub(crate) modes: Modes,
    /// Whether it applies the owners that travel, and tells those that the disk has: as the engine does from its start on.
    pub(crate) owners: bool,
    pub(crate) distrust: Option<Distrust>,
    pub(crate) index: Arc<Mutex<Index>>,
    /// Nodes to compare with the disk.
    pub(crate) todo: BTreeSet<NodeId>,
    /// Nodes that could not be brought to the disk.
    pub(crate) later: HashMap<NodeId, Later>,
    /// How long each has waited last that is not done yet.
    pub(crate) pauses: HashMap<NodeId, Duration>,
    /// Nodes whose place on the disk has something that is to stay until they take it, by what it stood for.
    pub(crate) heirs: HashMap<NodeId, NodeId>,
    /// Contents on their way.
    pub(crate) running: HashMap<NodeId, ContentHash>,
    pub(crate) jobs: Vec<Job>,
    /// What turned out not to be as the index has it while something was to be done.
    pub(crate) look_again: Scope,
    pub(crate) reports: BTreeMap<PathBuf, Report>,
    /// Files that were being written when they were looked at, and since when. They are looked at once more.
    pub(crate) restless: BTreeMap<PathBuf, Instant>,
    /// Nodes that the disk shows.
    pub(crate) shown: Vec<NodeId>,
    /// Directories whose names changed since the last record.
    pub(crate) unsynced: BTreeSet<PathBuf>,
    ignored: RwLock<Ignored>,
    /// Mounted file systems that were proved to be those of the last look, and have not been missing since.
    pub(crate) proved_mounts: HashSet<ItemId>,
    /// Where files are put together: those for one directory alone, and for all others.
    works: HashMap<Option<ItemId>, Work>,
    /// Directories that need a place of their own for that.
    pub(crate) foreign: HashSet<ItemId>,
    next_part: u64,
    /// Loops over many things end when this is set.
    ends: Arc<AtomicBool>,
}

impl<H: Host> Folder<H> {
    /// The folder at `root` with what was kept of it.
    pub fn new(host: H, root: &Path, rows: Vec<(ItemId, Vec<u8>)>) -> io::Result<Self> {
        Self::at(host, Root::open(root)?, rows)
    }

    pub(crate) fn at(host: H, root: Root, rows: Vec<(ItemId, Vec<u8>)>) -> io::Result<Self> {
        let index = Index::restore(rows).map_err(io::Error::other)?;
        let owners = host.look(Engine::applies_owners);
        Ok(Self {
            host,
            root,
            modes: Modes::default(),
            owners,
            distrust: None,
            index: Arc::new(Mutex::new(index)),
            todo: BTreeSet::new(),
            later: HashMap::new(),
            heirs: HashMap::new(),
            pauses: HashMap::new(),
            running: HashMap::new(),
            jobs: Vec::new(),
            look_again: Scope::default(),
            reports: BTreeMap::new(),
            restless: BTreeMap::new(),
            shown: Vec::new(),
            unsynced: BTreeSet::new(),
            ignored: RwLock::default(),
            proved_mounts: HashSet::new(),
            works: HashMap::new(),
            foreign: HashSet::new(),
            next_part: std::process::id().into(),
            ends: Arc::default(),
        })
    }

    /// The last session ended with the machine.
    pub(crate) fn after_a_cut(&mut self, now: Timestamp) {
        self.distrust = Some(self.host.look(|engine| Distrust::new(engine, now)));
    }

    /// Which permission bits it takes part in.
    pub(crate) fn set_modes(&mut self, modes: Modes) {
        self.modes = modes;
    }

    /// Loops over many things end soon after `ends` is set.
    pub(crate) fn end_with(&mut self, ends: Arc<AtomicBool>) {
        self.ends = ends;
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ends.load(Ordering::Relaxed)
    }

    /// Where the bytes of its files are, for whoever sends them. `tell` is told of items that are not as they were seen,
    /// by path, and of nodes whose bytes are those of another file now.
    pub fn bytes(&self, tell: impl Fn(Told) + Send + Sync + 'static) -> Arc<dyn FolderBytes> {
        Arc::new(Bytes { root: self.root.clone(), index: self.index.clone(), tell: Box::new(tell) })
    }

    /// Whether the root is what it was: there, the same, with its marker.
    pub(crate) fn is_reachable(&self) -> bool {
        self.root.is_reachable()
    }

    /// What the disk calls the root that is open.
    pub(crate) fn root_file(&self) -> io::Result<u64> {
        Ok(self.root.dir(Path::new(""))?.print()?.file)
    }

    /// Whether at least half of what was in the root is there: the same things, not others of their names.
    pub(crate) fn has_what_was_in_its_root(&self) -> bool {
        let index = self.index.lock();
        let known: Vec<_> = index
            .children(ROOT_ITEM)
            .take(PROOF_MAX)
            .filter_map(|(name, id)| Some((name.clone(), index.get(id)?.print)))
            .collect();
        drop(index);
        let is_there = |name: &[u8], print: &Print| {
            let there = self.root.print(Path::new(&platform::os_name(name)));
            there.is_ok_and(|there| there.is_some_and(|there| there.same_file(print)))
        };
        known.iter().filter(|(name, print)| is_there(name, print)).count() * 2 >= known.len()
    }

    /// Where a disk was mounted that is not any more, and where that is known already: paths to be looked at.
    pub(crate) fn missing_mounts(&self) -> (BTreeSet<PathBuf>, BTreeSet<PathBuf>) {
        let mount_points: Vec<ItemId> = self.index.lock().mount_points().collect();
        let lost =
            mount_points.into_iter().filter(|id| !self.is_in_place(*id)).filter_map(|id| self.path_of(id)).collect();
        (lost, self.unavailable().map(Path::to_path_buf).collect())
    }

    /// Why nothing is done where an item lies, or in a directory into which it is to go.
    pub(crate) fn unavailable_at(&self, id: Option<ItemId>, dir: Option<NodeId>) -> Option<String> {
        if self.reports.is_empty() {
            return None;
        }
        let dir = dir.and_then(|dir| self.index.lock().of_node(dir));
        let paths = id.into_iter().chain(dir).filter_map(|id| self.path_of(id));
        let is_reported = |path: &Path| match self.reports.get(path) {
            Some(Report::Unavailable(why)) => Some(format!("{}: {why}", path.display())),
            _ => None,
        };
        paths.into_iter().find_map(|path| path.ancestors().find_map(is_reported))
    }

    /// Of these nothing is known as long as their disks are missing.
    pub(crate) fn unavailable(&self) -> impl Iterator<Item = &Path> {
        let reports = self.reports.iter().filter(|(_, report)| matches!(report, Report::Unavailable(_)));
        reports.map(|(path, _)| path.as_path())
    }

    /// Forgets what was seen in a directory, and that itself. What is found there is compared with the tree as in a folder that
    /// joins, and what is missing is brought: nothing of it counts as removed.
    pub(crate) fn forget(&mut self, dir: ItemId) {
        let mut index = self.index.lock();
        let below = index.below(dir, |_| true);
        for id in below.into_iter().rev().chain((dir != ROOT_ITEM).then_some(dir)) {
            self.todo.extend(index.node(id));
            index.remove(id);
        }
    }

    /// The item at a path, as it was last seen.
    pub(crate) fn item_at(&self, path: &Path) -> Option<ItemId> {
        let index = self.index.lock();
        path.iter().try_fold(ROOT_ITEM, |dir, name| index.child(dir, platform::name_bytes(name)?))
    }

    /// Looks at the disk.
    pub(crate) fn scan(&self, scope: &Scope, rules: Rules, rested: &BTreeSet<PathBuf>) -> Seen {
        let rules = Rules { owners: self.owners, ..rules };
        let works = self.works.values().map(|work| work.file).collect();
        let is_nested =
            |path: &Path| matches!(self.reports.get(path), Some(Report::Unavailable(why)) if why == scan::NESTED);
        let apart = scan::Apart { is_nested: &is_nested, proved: &self.proved_mounts };
        Scan::new(&self.root, &self.index, rules, (&works, &self.ends), rested, (&self.ignored, apart)).run(scope)
    }

    /// Looks at everything, whatever was touched when, and tells the tree. For whoever does this step by step.
    pub fn look(&mut self) -> io::Result<bool> {
        self.look_again = Scope::default();
        let seen = self.scan(
            &Scope::everything(),
            Rules { rested_before: i64::MAX, all: false, clears: true, owners: false },
            &BTreeSet::new(),
        );
        let mut doubts = Doubts::default();
        let told = self.take_seen(seen, Removals::All, &mut doubts);
        self.look_again.again.extend(doubts.unsettled);
        told
    }

    /// Looks at what [`Look`] says, and tells the tree. `passed` and `renewed` go on with what was found since the hints
    /// were last known to be read. For a caller that does this step by step.
    pub fn look_at(&mut self, look: Look, passed: bool, renewed: HashSet<ItemId>) -> io::Result<Open> {
        let Look { hinted, known, trees, missing, passed: passed_before } = look;
        let (mut scope, mut dirs) = (Scope { paths: hinted, again: known, trees }, BTreeSet::new());
        let mut doubts = Doubts { passed, renewed, ..Doubts::default() };
        let removals = Removals::Of { missing: &missing, passed: passed_before, finally: false };
        while !scope.is_empty() {
            let rules = Rules { rested_before: i64::MAX, all: false, clears: true, owners: false };
            let seen = self.scan(&scope, rules, &BTreeSet::new());
            dirs.extend(seen.dirs.iter().cloned());
            self.take_seen(seen, removals, &mut doubts)?;
            scope = std::mem::take(&mut self.look_again);
        }
        let Doubts { missing, scope, renewed, found, passed, unsettled, .. } = doubts;
        Ok(Open { missing, paths: scope.again, renewed, found, passed, unsettled, dirs })
    }

    /// All nodes and items that differ are to be brought to the disk.
    pub fn compare_all(&mut self) {
        let index = self.index.clone();
        let todo = self.host.look(|engine| {
            let index = index.lock();
            let mut differing: BTreeSet<NodeId> =
                engine.ids().filter(|id| super::apply::differs(engine, &index, *id)).collect();
            let gone = index.ids().filter_map(|id| index.node(id)).filter(|node| engine.local(*node).is_none());
            differing.extend(gone);
            differing
        });
        self.todo.extend(todo);
    }

    /// A node may look otherwise in the tree.
    pub fn node_changed(&mut self, node: NodeId) {
        self.later.remove(&node);
        self.todo.insert(node);
    }

    /// How much waits.
    pub fn backlog(&self) -> Backlog {
        let failed = self.later.values().filter(|later| later.reason.is_some()).count() as u64;
        let nodes = self.todo.len() + self.later.len() + self.running.len();
        Backlog { nodes: nodes as u64, failed }
    }

    /// Nothing is known to be different, and nothing is on its way.
    pub fn is_at_rest(&self) -> bool {
        let is_done = self.todo.is_empty() && self.running.is_empty() && self.later.is_empty();
        is_done && self.look_again.is_empty() && !self.index.lock().has_ousted()
    }

    /// Contents that somebody has to put together.
    pub fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// A name for something on its way into a directory, where no other user can reach it.
    pub(crate) fn fresh_part(&mut self, dir: ItemId) -> io::Result<Spot> {
        let work = self.work_for(dir)?;
        self.free_name(&work)
    }

    /// A name of ours that is free.
    pub(crate) fn free_name(&mut self, dir: &Dir) -> io::Result<Spot> {
        loop {
            self.next_part = self.next_part.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
            let spot = dir.spot(names::part_name(self.next_part).as_ref())?;
            if spot.print()?.is_none() {
                return Ok(spot);
            }
        }
    }

    fn work_for(&mut self, dir: ItemId) -> io::Result<Dir> {
        let path = self.path_of(dir).ok_or(io::ErrorKind::NotFound)?;
        let (top, target) = (self.root.dir(Path::new(""))?, self.root.dir(&path)?);
        let is_foreign = self.foreign.contains(&dir) || target.family()? != top.family()?;
        let (key, above) = if is_foreign { (Some(dir), target) } else { (None, top) };
        if let Some(work) = self.works.get_mut(&key)
            && let Some(dir) = work.again(&above)
        {
            (work.above, work.dir) = (above, dir.clone());
            return Ok(dir);
        }
        let (name, dir) = above.private()?;
        let file = dir.print()?.file;
        self.works.insert(key, Work { above, name, dir: dir.clone(), file });
        Ok(dir)
    }

    /// Removes directories in which files were put together, if nothing is on its way.
    pub(crate) fn leave_works(&mut self, is_left: impl Fn(&Option<ItemId>) -> bool) {
        if self.running.is_empty() && !self.works.is_empty() {
            let left: Vec<_> = self.works.extract_if(|dir, _| is_left(dir)).collect();
            left.into_iter().for_each(|(_, work)| work.leave());
        }
    }

    /// When the next of what failed is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        self.later.values().map(|later| later.at).min()
    }

    pub(crate) fn retry_due(&mut self, now: Instant) {
        let due: Vec<NodeId> = self.later.iter().filter(|(_, later)| later.at <= now).map(|(node, _)| *node).collect();
        self.todo.extend(due);
    }

    /// Tries everything again that failed, whatever is said of when. For whoever does this step by step.
    pub fn retry_all(&mut self) {
        self.todo.extend(self.later.keys());
    }

    pub(crate) fn postpone(&mut self, node: NodeId, reason: Option<String>) {
        let pause = self.pauses.get(&node).map_or(RETRY_MIN, |pause| (*pause * 2).min(RETRY_MAX));
        self.pauses.insert(node, pause);
        self.later.insert(node, Later { at: Instant::now() + pause, reason });
    }

    /// Keeps what has changed of the index; names before that.
    pub(crate) fn keep(&mut self) -> io::Result<()> {
        for dir in std::mem::take(&mut self.unsynced) {
            match self.root.dir(&dir).and_then(|dir| dir.sync()) {
                Err(error) if !platform::is_absent(&error) => return Err(error),
                _ => {}
            }
        }
        let rows = self.index.lock().take_rows();
        let ids: Vec<ItemId> = rows.iter().map(|(id, _)| *id).collect();
        let shown = std::mem::take(&mut self.shown);
        let kept = if self.host.look(Engine::has_authors) && !shown.is_empty() {
            self.host.change(|engine, _| (shown.iter().for_each(|node| engine.forget_author(*node)), rows))
        } else {
            self.host.keep(rows)
        };
        kept.inspect_err(|_| self.index.lock().keep_failed(ids))
    }

    /// Looks at the tree together with the index.
    pub(crate) fn with<T>(&self, look: impl FnOnce(&Engine, &mut Index) -> T) -> T {
        self.host.look(|engine| look(engine, &mut self.index.lock()))
    }

    pub(crate) fn path_of(&self, id: ItemId) -> Option<PathBuf> {
        self.index.lock().path(id)
    }

    /// Where an item is below the root.
    pub(crate) fn found(&self, id: ItemId) -> Option<(PathBuf, Item)> {
        let index = self.index.lock();
        Some((index.path(id)?, index.get(id)?.clone()))
    }

    /// Whether what is at the path of a directory is that directory.
    pub(crate) fn is_in_place(&self, dir: ItemId) -> bool {
        let known = self.index.lock().get(dir).map(|item| item.print);
        let there = self.path_of(dir).map(|path| self.root.dir(&path).and_then(|dir| dir.print()));
        dir == ROOT_ITEM
            || known.zip(there).is_some_and(|(known, there)| there.is_ok_and(|there| there.same_file(&known)))
    }

    /// The place at a path, which lies in `dir`. `None` if what is above is not there as directories, or something else is
    /// where that directory was: it is looked at again.
    pub(crate) fn reach(&mut self, path: &Path, dir: ItemId) -> io::Result<Option<Spot>> {
        let known = self.index.lock().get(dir).map(|item| item.print);
        let spot = match self.root.spot(path) {
            Err(error) if platform::is_absent(&error) => {
                self.look_again(path);
                return Ok(None);
            }
            spot => spot?,
        };
        if known.is_some_and(|known| !spot.dir().print().is_ok_and(|there| there.same_file(&known))) {
            self.look_again(path.parent().unwrap_or(path));
            return Ok(None);
        }
        Ok(Some(spot))
    }

    /// A path is not as the index has it.
    pub(crate) fn look_again(&mut self, path: &Path) {
        self.look_again.again.insert(path.to_path_buf());
    }
}

/// Something that whoever reads files has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    /// What is at this path below the root is not what was seen.
    Path(PathBuf),
    /// A node has other bytes now.
    Node(NodeId),
}

struct Bytes {
    root: Root,
    index: Arc<Mutex<Index>>,
    tell: Box<dyn Fn(Told) + Send + Sync>,
}

impl Bytes {
    fn found(&self, item: ItemId) -> Option<(PathBuf, Print)> {
        let index = self.index.lock();
        Some((index.path(item)?, index.get(item)?.print))
    }

    fn is_at(&self, path: &Path, is_it: impl Fn(&Print) -> bool) -> bool {
        self.root.print(path).is_ok_and(|there| there.is_some_and(|there| is_it(&there)))
    }

    fn moving(&self, path: PathBuf) {
        (self.tell)(Told::Path(path));
    }
}

impl FolderBytes for Bytes {
    fn open(&self, item: ItemId) -> io::Result<Option<File>> {
        let Some((path, print)) = self.found(item) else { return Ok(None) };
        let opened = self.root.spot(&path).and_then(|spot| spot.open_to_read());
        let is_same = |file: &File| Print::of_file(file).is_ok_and(|found| found.same_bytes(&print));
        match opened {
            Ok(file) if is_same(&file) => Ok(Some(file)),
            // Another thing may be in its place, which cannot be opened as a file.
            Err(error) if self.is_at(&path, |there| there.same_file(&print)) => Err(error),
            Ok(_) | Err(_) => {
                self.moving(path);
                Ok(None)
            }
        }
    }

    fn is_as_seen(&self, item: ItemId, file: &File) -> bool {
        let Some((path, print)) = self.found(item) else { return false };
        let is_same = Print::of_file(file).is_ok_and(|found| found.same_bytes(&print));
        let is_there = self.is_at(&path, |there| there.same_bytes(&print));
        if !(is_same && is_there) {
            self.moving(path);
        }
        is_same && is_there
    }

    fn settled(&self, item: ItemId, content: &ContentHash) -> Vec<ItemRow> {
        let mut index = self.index.lock();
        index.edit(item, |item| item.known = super::index::Known::Content(*content));
        index.take_rows()
    }

    fn look_again(&self, node: NodeId) {
        (self.tell)(Told::Node(node));
    }

    fn alike(&self, dir: NodeId, content: &Content) -> Vec<(ItemId, ContentHash)> {
        let index = self.index.lock();
        let equal = index.of_content(&content.hash).map(|item| (item, content.hash));
        let near = |size: u64| size >= content.size / 4 && size / 4 <= content.size;
        let beside = index.of_node(dir).into_iter().flat_map(|dir| index.children(dir)).take(BESIDE_MAX);
        let mut beside: Vec<(u64, (ItemId, ContentHash))> = beside
            .filter_map(|(_, id)| {
                let item = index.get(id).filter(|item| near(item.print.size))?;
                let super::index::Known::Content(hash) = item.known else { return None };
                Some((item.print.size.abs_diff(content.size), (id, hash)))
            })
            .collect();
        beside.sort_unstable_by_key(|(apart, _)| *apart);
        equal.into_iter().chain(beside.into_iter().map(|(_, found)| found).take(ALIKE_MAX)).collect()
    }

    fn holders(&self, contents: &HashSet<ContentHash>) -> HashMap<ContentHash, ItemId> {
        self.index.lock().holders(contents)
    }

    fn content(&self, node: NodeId, content: &ContentHash) -> io::Result<Option<File>> {
        let item = {
            let index = self.index.lock();
            let known = super::index::Known::Content(*content);
            index.of_node(node).filter(|id| index.get(*id).is_some_and(|item| item.known == known))
        };
        item.map_or(Ok(None), |item| self.open(item))
    }
}
