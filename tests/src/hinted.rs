//! A watched folder that learns of changes by hints alone: a model of how a system tells of them, with all that is late or
//! missing in that.
//!
//! As inotify has it: a directory is listened to or not; what happens in one that is not leaves no trace. Events are read
//! in batches. Paths of events are those that the listener knows, which are old ones after a rename in the same batch. It
//! begins to listen to new and renamed directories, and to all in them, at the end of a batch. Within these bounds the
//! order is any: the user goes on while events wait, and the folder looks at any part of the hints.

use crate::pairs::{Shows, Side};
use crate::pairs_folder::WORK;
use crate::support::Dice;
use rand::RngExt as _;
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use syncmount::driver::ItemId;
use syncmount::watch::Look;
use syncmount_common::NodeId;
use syncmount_engine::Body;

/// What the system has noted.
struct Event {
    /// The directory in which it happened.
    dir: u64,
    name: String,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Changed,
    /// A directory came: made or renamed.
    DirCame,
    /// A directory went.
    DirWent,
}

/// The listener: what is listened to, under which paths.
#[derive(Default)]
struct Listener {
    queue: VecDeque<Event>,
    paths: BTreeMap<u64, PathBuf>,
    add: Vec<PathBuf>,
    remove: Vec<PathBuf>,
}

/// What is to be looked at, as the folder's thread keeps it.
#[derive(Default)]
struct Attention {
    pending: BTreeSet<PathBuf>,
    /// Items that were not found, and where to look for them.
    missing: HashSet<ItemId>,
    again: BTreeSet<PathBuf>,
    /// Where to look again, since something was on its way.
    unsettled: BTreeSet<PathBuf>,
    /// Something had gone on since the mark was made.
    passed: bool,
    renewed: HashSet<ItemId>,
    /// A mark was made, after these were missing.
    marked: Option<(HashSet<ItemId>, BTreeSet<PathBuf>, bool)>,
    listings: BTreeSet<PathBuf>,
    /// It was asked whether these are listened to.
    settling: Option<BTreeSet<PathBuf>>,
}

const MARK: &str = "mark";

/// What is there before: directories first.
const MADE_BEFORE: u32 = 14;
const DIRS_BEFORE: u32 = 6;

struct Run {
    dice: Dice,
    side: Side,
    root: PathBuf,
    listener: Listener,
    attention: Attention,
    made: u32,
    /// What the disk called things that are gone: it calls others so again.
    removed: HashSet<u64>,
    log: Vec<String>,
}

/// Plays `steps` random steps, then lets all hints arrive. The tree is then what the disk is, and what was only renamed is
/// still the same node. An error says what is not, with all that was done.
pub fn hinted(seed: u64, steps: u32) -> Result<(), String> {
    let mut run = Run::new(seed).map_err(|error| error.to_string())?;
    let told = run.play(steps);
    told.map_err(|error| format!("seed {seed}: {error}\n{}", run.log.join("\n")))
}

impl Run {
    fn new(seed: u64) -> io::Result<Self> {
        let side = Side::new("x", 1, Shows::Watched);
        let root = side.folder.as_ref().map(|folder| folder.root().to_path_buf()).unwrap_or_default();
        let mut run = Self {
            dice: Dice::fixed(seed),
            side,
            root,
            listener: Listener::default(),
            attention: Attention::default(),
            made: 0,
            removed: HashSet::new(),
            log: Vec::new(),
        };
        while run.made < MADE_BEFORE {
            if run.made < DIRS_BEFORE { run.make_dir()? } else { run.put_new()? }
        }
        run.listener.queue.clear();
        run.listener.listen(&run.root, Path::new(""))?;
        Ok(run)
    }

    fn play(&mut self, steps: u32) -> Result<(), String> {
        self.side.look()?;
        let before = self.nodes_by_file()?;
        for _ in 0..steps {
            match self.dice.random_range(0..10) {
                0..5 => self.act().map_err(|error| error.to_string())?,
                5 | 6 => self.read_event(),
                7 => self.end_batch().map_err(|error| error.to_string())?,
                _ => self.attend()?,
            }
        }
        for _ in 0..200 {
            if self.is_done() {
                break;
            }
            self.end_batch().map_err(|error| error.to_string())?;
            self.attend()?;
        }
        if !self.is_done() {
            return Err("it does not come to rest".into());
        }
        self.compare().map_err(|error| error.to_string())??;
        let after = self.nodes_by_file()?;
        for (file, node) in before.into_iter().filter(|(file, _)| !self.removed.contains(file)) {
            if let Some(now) = after.get(&file).filter(|now| **now != node) {
                let path = self.side.tree().path(*now);
                return Err(format!("what is {path:?} now was only renamed, and counts as removed and made again"));
            }
        }
        Ok(())
    }

    /// The tree has what the disk has: directories, and files of these sizes.
    fn compare(&self) -> io::Result<Result<(), String>> {
        let (dirs, files) = self.entries()?;
        let mut there: BTreeMap<String, Option<u64>> = BTreeMap::new();
        for path in dirs.into_iter().skip(1) {
            there.insert(path.display().to_string(), None);
        }
        for path in files {
            there.insert(path.display().to_string(), Some(fs::symlink_metadata(self.root.join(&path))?.len()));
        }
        let engine = self.side.tree();
        let of = |id: NodeId| {
            let body = &engine.local(id)?.body;
            Some((engine.path(id)?, (*body != Body::Dir).then(|| body.size())))
        };
        let told: BTreeMap<_, _> = engine.ids().filter(|id| *id != NodeId::ROOT).filter_map(of).collect();
        Ok(if there == told { Ok(()) } else { Err(format!("the disk has {there:?}, the tree {told:?}")) })
    }

    fn is_done(&self) -> bool {
        let attention = &self.attention;
        let is_listened = self.listener.queue.is_empty() && self.listener.add.is_empty();
        is_listened
            && attention.pending.is_empty()
            && attention.unsettled.is_empty()
            && attention.missing.is_empty()
            && attention.marked.is_none()
            && attention.listings.is_empty()
            && attention.settling.is_none()
    }

    /// The nodes of what is on the disk, by what the disk calls it.
    fn nodes_by_file(&self) -> Result<BTreeMap<u64, NodeId>, String> {
        let engine = self.side.tree();
        let of = |id: NodeId| {
            let path = self.root.join(engine.path(id)?);
            fs::symlink_metadata(path).ok().map(|metadata| (metadata.ino(), id))
        };
        Ok(engine.ids().filter(|id| *id != NodeId::ROOT).filter_map(of).collect())
    }

    /// Directories, then all others.
    fn entries(&self) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let (mut dirs, mut files) = (vec![PathBuf::new()], Vec::new());
        let mut at = 0;
        while at < dirs.len() {
            let dir = dirs[at].clone();
            let mut inside: Vec<_> = fs::read_dir(self.root.join(&dir))?.collect::<io::Result<_>>()?;
            inside.sort_by_key(fs::DirEntry::file_name);
            for entry in inside {
                let path = dir.join(entry.file_name());
                match entry.file_type()?.is_dir() {
                    true if path == Path::new(WORK) => {}
                    true => dirs.push(path),
                    false if path == Path::new(".syncmount-folder") => {}
                    false => files.push(path),
                }
            }
            at += 1;
        }
        Ok((dirs, files))
    }

    fn some(&mut self, of: &[PathBuf]) -> Option<PathBuf> {
        (!of.is_empty()).then(|| of[self.dice.random_range(0..of.len())].clone())
    }

    /// One thing that the user does.
    fn act(&mut self) -> io::Result<()> {
        let (dirs, files) = self.entries()?;
        match self.dice.random_range(0..12) {
            0 => self.make_dir(),
            1 => self.put_new(),
            2 | 3 => {
                let Some(file) = self.some(&files) else { return Ok(()) };
                self.made += 1;
                self.log.push(format!("write {}", file.display()));
                fs::write(self.root.join(&file), "x".repeat(self.made as usize % 5000 + 10))?;
                self.note(&file, Kind::Changed);
                Ok(())
            }
            4 => {
                let Some(file) = self.some(&files) else { return Ok(()) };
                self.log.push(format!("rm {}", file.display()));
                self.note(&file, Kind::Changed);
                self.removed.insert(fs::symlink_metadata(self.root.join(&file))?.ino());
                fs::remove_file(self.root.join(&file))
            }
            5 => {
                let Some(dir) = self.some(&dirs[1..]) else { return Ok(()) };
                let is_empty = fs::read_dir(self.root.join(&dir))?.next().is_none();
                if is_empty {
                    self.log.push(format!("rmdir {}", dir.display()));
                    self.note(&dir, Kind::DirWent);
                    self.removed.insert(fs::symlink_metadata(self.root.join(&dir))?.ino());
                    fs::remove_dir(self.root.join(&dir))?;
                }
                Ok(())
            }
            6 | 7 => {
                let Some(file) = self.some(&files) else { return Ok(()) };
                self.rename(&file, &dirs, Kind::Changed, Kind::Changed)
            }
            _ => {
                let Some(dir) = self.some(&dirs[1..]) else { return Ok(()) };
                let free: Vec<PathBuf> = dirs.into_iter().filter(|to| !to.starts_with(&dir)).collect();
                self.rename(&dir, &free, Kind::DirWent, Kind::DirCame)
            }
        }
    }

    fn rename(&mut self, from: &Path, dirs: &[PathBuf], went: Kind, came: Kind) -> io::Result<()> {
        let Some(dir) = self.some(dirs) else { return Ok(()) };
        // What is new and takes a known name counts as the known one: so programs save.
        let number = from.file_name().and_then(|name| name.to_str()?.get(1..)?.parse().ok());
        if number.is_some_and(|number: u32| number > MADE_BEFORE) {
            return Ok(());
        }
        // Few names, so that a place is taken again by something else.
        let to = dir.join(format!("n{}", self.dice.random_range(0..6)));
        if fs::symlink_metadata(self.root.join(&to)).is_ok() {
            return Ok(());
        }
        self.log.push(format!("mv {} {}", from.display(), to.display()));
        self.note(from, went);
        fs::rename(self.root.join(from), self.root.join(&to))?;
        self.note(&to, came);
        Ok(())
    }

    fn make_dir(&mut self) -> io::Result<()> {
        let (dirs, _) = self.entries()?;
        self.made += 1;
        let Some(dir) = self.some(&dirs) else { return Ok(()) };
        let path = dir.join(format!("d{}", self.made));
        self.log.push(format!("mkdir {}", path.display()));
        fs::create_dir(self.root.join(&path))?;
        self.note(&path, Kind::DirCame);
        Ok(())
    }

    fn put_new(&mut self) -> io::Result<()> {
        let (dirs, _) = self.entries()?;
        self.made += 1;
        let Some(dir) = self.some(&dirs) else { return Ok(()) };
        let path = dir.join(format!("f{}", self.made));
        self.log.push(format!("put {}", path.display()));
        // Two of one size and time would be taken for one that was copied and removed.
        fs::write(self.root.join(&path), "n".repeat(self.made as usize + 10_000))?;
        self.note(&path, Kind::Changed);
        Ok(())
    }

    /// The system notes what happens at a path, if it listens there.
    fn note(&mut self, path: &Path, kind: Kind) {
        let dir = self.root.join(path.parent().unwrap_or(Path::new("")));
        let Ok(dir) = fs::metadata(dir).map(|metadata| metadata.ino()) else { return };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.listener.paths.contains_key(&dir) {
            self.listener.queue.push_back(Event { dir, name, kind });
        }
    }

    /// The listener reads one event.
    fn read_event(&mut self) {
        if let Some(path) = self.listener.read() {
            self.hint(path);
        }
    }

    fn end_batch(&mut self) -> io::Result<()> {
        while !self.listener.queue.is_empty() {
            self.read_event();
        }
        for path in std::mem::take(&mut self.listener.remove) {
            self.listener.paths.retain(|_, known| !known.starts_with(&path));
        }
        for path in std::mem::take(&mut self.listener.add) {
            self.listener.listen(&self.root, &path)?;
        }
        // It is asked between two batches.
        if let Some(trees) = self.attention.settling.take() {
            self.log.push(format!("  settled {trees:?}"));
            self.look(Look { trees, ..Look::default() }, false).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn hint(&mut self, path: PathBuf) {
        self.log.push(format!("  hint {}", path.display()));
        if path == Path::new(MARK) {
            if let Some((missing, known, passed)) = self.attention.marked.take() {
                let pending = std::mem::take(&mut self.attention.pending);
                // What is missing may be in a directory that is not listened to yet.
                let waiting = self.attention.listings.iter().chain(self.attention.settling.iter().flatten());
                let trees = waiting.cloned().collect();
                let looked = self.look(Look { hinted: pending, known, trees, missing, passed }, true);
                looked.expect("the disk can be read");
            }
            return;
        }
        self.attention.pending.insert(path);
    }

    /// What the folder's thread does when it has time.
    fn attend(&mut self) -> Result<(), String> {
        let pending = std::mem::take(&mut self.attention.pending);
        let known = std::mem::take(&mut self.attention.unsettled);
        self.look(Look { hinted: pending, known, ..Look::default() }, true)?;
        let attention = &mut self.attention;
        if attention.settling.is_none() && !attention.listings.is_empty() {
            attention.settling = Some(std::mem::take(&mut attention.listings));
        }
        if attention.marked.is_none() && !attention.missing.is_empty() {
            let (missing, again) = (std::mem::take(&mut attention.missing), std::mem::take(&mut attention.again));
            attention.marked = Some((missing, again, attention.passed));
            attention.passed = false;
            attention.renewed.clear();
            let root = fs::metadata(&self.root).map_err(|error| error.to_string())?.ino();
            self.listener.queue.push_back(Event { dir: root, name: MARK.into(), kind: Kind::Changed });
        }
        Ok(())
    }

    fn look(&mut self, look: Look, lists: bool) -> Result<(), String> {
        let Some(folder) = &mut self.side.folder else { return Ok(()) };
        self.log.push(format!("  {look:?}"));
        let renewed = std::mem::take(&mut self.attention.renewed);
        let open = folder.look_at(look, self.attention.passed, renewed)?;
        self.log.push(format!("  {open:?}"));
        let attention = &mut self.attention;
        attention.passed = open.passed;
        attention.renewed = open.renewed;
        attention.missing.extend(open.missing);
        for id in open.found {
            attention.missing.remove(&id);
            attention.marked.iter_mut().for_each(|(missing, ..)| _ = missing.remove(&id));
        }
        attention.again.extend(open.paths);
        attention.unsettled.extend(open.unsettled);
        if lists {
            attention.listings.extend(open.dirs);
        }
        Ok(())
    }
}

impl Listener {
    fn read(&mut self) -> Option<PathBuf> {
        let event = self.queue.pop_front()?;
        let path = self.paths.get(&event.dir)?.join(&event.name);
        match event.kind {
            Kind::Changed => {}
            Kind::DirCame => self.add.push(path.clone()),
            Kind::DirWent => self.remove.push(path.clone()),
        }
        Some(path)
    }

    /// Listens to a directory, if it is one, and to all below it.
    fn listen(&mut self, root: &Path, path: &Path) -> io::Result<()> {
        let mut todo = vec![path.to_path_buf()];
        while let Some(path) = todo.pop() {
            let Ok(entries) = fs::read_dir(root.join(&path)) else { continue };
            self.paths.insert(fs::metadata(root.join(&path))?.ino(), path.clone());
            for entry in entries {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    todo.push(path.join(entry.file_name()));
                }
            }
        }
        Ok(())
    }
}
