//! One side of a pair whose user has a plain folder: real files in a temporary directory, kept in step by the watch mode's
//! own code, step by step and without hints, clocks or threads.

use crate::sim::bytes::Library;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use syncmount::driver::{FolderBytes, ItemId, ItemRow, item_of_draft};
use syncmount::watch::{Folder, Host, Job, Look, Open, Part, Told};
use syncmount_common::{NodeId, Timestamp};
use syncmount_engine::Engine;
use tempfile::TempDir;

/// Where a watched folder has files on their way.
pub(crate) const WORK: &str = ".syncmount-work-0.part";

/// The tree of a side, which its folder looks at.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) engine: Rc<RefCell<Engine>>,
    pub(crate) clock: Rc<Cell<i64>>,
    pub(crate) next: Rc<Cell<u64>>,
    /// What is kept of the folder.
    pub(crate) kept: Rc<RefCell<BTreeMap<ItemId, Vec<u8>>>>,
    /// How many more records are kept before the process is killed.
    pub(crate) lives: Rc<Cell<Option<u32>>>,
}

impl Shared {
    /// One record. An error if the process has been killed.
    fn live(&self) -> io::Result<()> {
        match self.lives.get() {
            Some(0) => Err(io::Error::other("it was killed")),
            lives => {
                self.lives.set(lives.map(|lives| lives - 1));
                Ok(())
            }
        }
    }

    fn enter(&self, rows: Vec<ItemRow>) {
        let mut kept = self.kept.borrow_mut();
        for (id, row) in rows {
            match row {
                Some(row) => drop(kept.insert(id, row)),
                None => drop(kept.remove(&id)),
            }
        }
    }
}

impl Host for Shared {
    fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        look(&self.engine.borrow())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> (T, Vec<ItemRow>)) -> io::Result<T> {
        self.live()?;
        let (out, rows) = change(&mut self.engine.borrow_mut(), Timestamp(self.clock.get()));
        self.enter(rows);
        Ok(out)
    }

    fn keep(&self, rows: Vec<ItemRow>) -> io::Result<()> {
        if !rows.is_empty() {
            self.live()?;
            self.enter(rows);
        }
        Ok(())
    }

    fn next_generation(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }
}

/// A watched folder.
pub(crate) struct PlainFolder {
    root: TempDir,
    folder: Folder<Shared>,
    bytes: Arc<dyn FolderBytes>,
    told: Arc<Mutex<Vec<Told>>>,
    shared: Shared,
    /// Contents that are on their way.
    running: Vec<Job>,
}

impl PlainFolder {
    pub(crate) fn new(shared: Shared) -> Self {
        let root = tempfile::tempdir().expect("there is a temporary directory");
        fs::write(root.path().join(".syncmount-folder"), "").expect("it is writable");
        let folder = Folder::new(shared.clone(), root.path(), Vec::new()).expect("it can be read");
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let tell = told.clone();
        let bytes = folder.bytes(move |what| tell.lock().expect("nobody panics with it").push(what));
        Self { root, folder, bytes, told, shared, running: Vec::new() }
    }

    /// The bytes of a draft.
    pub(crate) fn read(&self, staging: u64) -> Result<Option<Arc<[u8]>>, String> {
        let Some(item) = item_of_draft(staging) else { return Ok(None) };
        let file = self.bytes.open(item).map_err(|error| error.to_string())?;
        let Some(mut file) = file else { return Err("a file is not as it was seen".into()) };
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes).map_err(|error| error.to_string())?;
        Ok(Some(bytes.into()))
    }

    pub(crate) fn settled(&self, staging: u64, hash: &syncmount_common::ContentHash) {
        if let Some(item) = item_of_draft(staging) {
            let rows = self.bytes.settled(item, hash);
            // The pump's records are its own, and it lives as long as the engine does here.
            self.shared.enter(rows);
        }
    }

    pub(crate) fn changed(&mut self, node: NodeId) {
        self.folder.node_changed(node);
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    /// Tells the tree what is to be seen.
    pub(crate) fn look_at(&mut self, look: Look, passed: bool, renewed: HashSet<ItemId>) -> Result<Open, String> {
        self.folder.look_at(look, passed, renewed).map_err(|error| error.to_string())
    }

    /// Tells the tree what the user has done.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        self.folder.look().map(drop).map_err(|error| error.to_string())
    }

    /// Brings the disk to what the tree shows. Returns whether anything was left to do.
    pub(crate) fn work(&mut self, library: &Library) -> Result<(), String> {
        for _ in 0..20 {
            self.folder.compare_all();
            self.begin_work()?;
            while self.finish_one(0, library)? {}
            self.look()?;
            self.folder.compare_all();
            if self.folder.is_at_rest() {
                return Ok(());
            }
            // What has to wait for something else waits for a moment.
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Err(format!("the folder does not come to rest: {:?}", self.folder.reasons()))
    }

    /// Does what can be done at once. Nothing is compared that was not told to be different.
    pub(crate) fn begin_work(&mut self) -> Result<(), String> {
        for told in std::mem::take(&mut *self.told.lock().map_err(|error| error.to_string())?) {
            if let Told::Node(node) = told {
                self.folder.node_changed(node);
            }
        }
        self.folder.work().map_err(|error| error.to_string())?;
        self.running.extend(self.folder.take_jobs());
        Ok(())
    }

    /// One of the contents that are on their way arrives. Returns whether there was one.
    pub(crate) fn finish_one(&mut self, which: usize, library: &Library) -> Result<bool, String> {
        if self.running.is_empty() {
            return Ok(false);
        }
        let job = self.running.swap_remove(which % self.running.len());
        let bytes = library.get(job.content.hash).ok_or("a content that nobody wrote")?;
        let made = Part::begin(&job).and_then(|mut file| {
            file.write_all(bytes)?;
            Part::finish(&job, &file)
        });
        self.folder.put_together(&job, &made.map_err(|error| error.to_string()));
        Ok(true)
    }

    /// What failed is tried again. Returns whether anything is known to be different.
    pub(crate) fn retry(&mut self) -> bool {
        self.folder.retry_all();
        !self.folder.is_at_rest()
    }

    /// From now on the process is killed after `lives` more records, or lives for ever.
    pub(crate) fn shall_live(&self, lives: Option<u32>) {
        self.shared.lives.set(lives);
    }

    /// If the process was killed, it starts again with what was kept.
    pub(crate) fn restart_if_killed(&mut self) -> Result<bool, String> {
        if self.shared.lives.get() != Some(0) {
            return Ok(false);
        }
        self.shared.lives.set(None);
        self.running.clear();
        let rows = self.shared.kept.borrow().iter().map(|(id, row)| (*id, row.clone())).collect();
        self.folder = Folder::new(self.shared.clone(), self.root.path(), rows).map_err(|e| e.to_string())?;
        let tell = self.told.clone();
        self.bytes = self.folder.bytes(move |what| tell.lock().expect("nobody panics with it").push(what));
        Ok(true)
    }

    /// What every start begins with: a look at everything, and a comparison.
    pub(crate) fn begin(&mut self) -> Result<(), String> {
        self.look()?;
        self.folder.compare_all();
        Ok(())
    }

    /// What waits, in words.
    pub(crate) fn waits(&self) -> String {
        format!("{:?}, {:?}", self.folder.backlog(), self.folder.reasons())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn stamp(&self, path: &Path) -> io::Result<()> {
        let (seconds, nanos) = Timestamp(self.shared.clock.get()).parts();
        crate::support::set_mtime(path, seconds, i64::from(nanos))
    }

    /// Does what a user does.
    pub(crate) fn act(&self, line: &str) -> Result<(), String> {
        self.try_act(line).map_err(|error| format!("`{line}`: {error}"))
    }

    fn try_act(&self, line: &str) -> io::Result<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["put", path, bytes] => {
                let path = self.at(path);
                let is_new = fs::symlink_metadata(&path).is_err();
                File::create(&path)?.write_all(bytes.as_bytes())?;
                if is_new {
                    fs::set_permissions(&path, Permissions::from_mode(0o644))?;
                }
                self.stamp(&path)
            }
            ["mkdir", path] => {
                fs::create_dir(self.at(path))?;
                fs::set_permissions(self.at(path), Permissions::from_mode(0o755))
            }
            ["ln", path, target] => {
                symlink(target, self.at(path))?;
                self.stamp(&self.at(path))
            }
            ["rm", path] if self.at(path).is_dir() => fs::remove_dir_all(self.at(path)),
            ["rm", path] => fs::remove_file(self.at(path)),
            ["mv", from, to] => fs::rename(self.at(from), self.at(to)),
            ["swap", a, b] => Ok(renameat_with(CWD, self.at(a), CWD, self.at(b), RenameFlags::EXCHANGE)?),
            ["chmod", path, mode] => {
                let mode = u32::from_str_radix(mode, 8).map_err(io::Error::other)?;
                fs::set_permissions(self.at(path), Permissions::from_mode(mode))
            }
            ["touch", path] => self.stamp(&self.at(path)),
            _ => Err(io::Error::other("what is that?")),
        }
    }

    /// What is on the disk, a line each: path, what it is, mode if it is not a symlink.
    pub(crate) fn on_disk(&self) -> io::Result<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let mut todo = vec![self.root.path().to_path_buf()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let name = path.strip_prefix(self.root.path()).map_err(io::Error::other)?.display().to_string();
                if name == ".syncmount-folder" {
                    continue;
                }
                if name == WORK {
                    // It stays; what is left in it would be found.
                    todo.push(path);
                    continue;
                }
                let metadata = fs::symlink_metadata(&path)?;
                let mode = metadata.mode() & 0o7777;
                found.insert(if metadata.is_dir() {
                    todo.push(path);
                    format!("{name}/ {mode:o}")
                } else if metadata.is_symlink() {
                    format!("{name}->{}", fs::read_link(path)?.display())
                } else {
                    format!("{name}={} {mode:o}", fs::read_to_string(path)?)
                });
            }
        }
        Ok(found)
    }
}
