//! A watched folder that loses its root, its disk or a disk in it at any moment, stepped by hand: the program's own code, real
//! directories, renames and mounts, thousands of histories. Nothing is removed that its users did not remove.

use super::disks::{Disk, Files, files_below};
use parking_lot::Mutex;
use rand::RngExt as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount::driver::Client;
use syncmount::remote::HttpRemote;
use syncmount::watch::{QUIET, Stepped};
use syncmount_server::server::Running;
use syncmount_server::service::Precondition;
use syncmount_tests::support::*;
use tokio::runtime::Runtime;

/// So many at a time: most of each is waiting for a disk or a socket.
const THREADS: u64 = 6;

/// What happens in one history before all comes to rest.
const ACTS: usize = 40;

/// How long it may take to come to rest: a file that could not be read is tried again after a minute.
const PATIENCE: Duration = Duration::from_secs(100);

const CACHE_SIZE: u64 = 16 << 20;

/// A server for many histories, and the disk on which everything lies.
struct Stage {
    runtime: Runtime,
    server: Option<Running>,
    token: String,
    base: PathBuf,
    _disk: Disk,
}

impl Stage {
    fn new(base: PathBuf) -> Self {
        let disk = Disk::new(base.clone());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let data = base.join("server");
        let config = syncmount_server::Config::new(&data).listening_on("127.0.0.1:0");
        let server = runtime.block_on(async { syncmount_server::server::Server::open(config).await.unwrap().spawn() });
        let token = fs::read_to_string(data.join("admin.token")).unwrap();
        Self { runtime, server: Some(server), token, base, _disk: disk }
    }

    fn server(&self) -> &Running {
        self.server.as_ref().unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            drop(self.runtime.block_on(server.stop()));
        }
    }
}

/// Where the folder is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    Here,
    /// Moved away; with `true` another directory is in its place.
    Away(bool),
}

struct History<'a> {
    stage: &'a Stage,
    name: String,
    home: PathBuf,
    place: Place,
    outer: Option<Disk>,
    inner: Disk,
    has_outer: bool,
    stepped: Option<Stepped>,
    /// What has to be in the folder and at the server.
    files: Files,
    dice: Dice,
    count: u64,
    log: Vec<String>,
}

fn server_path(path: &Path) -> syncmount_server::service::Path {
    let names = path.components().map(|part| part.as_os_str().as_encoded_bytes().to_vec());
    syncmount_server::service::Path::new(names).unwrap()
}

impl<'a> History<'a> {
    fn new(stage: &'a Stage, seed: u64) -> Self {
        let mut dice = Dice::fixed(seed);
        let (name, here) = (format!("h{seed}"), stage.base.join(format!("h{seed}")));
        let home = here.join("home");
        let root = home.join("Sync");
        fs::create_dir_all(&root).unwrap();
        let outer = dice.random_bool(0.5).then(|| Disk::new(here.join("outer")));
        let inner = Disk::new(here.join("inner"));
        let has_outer = outer.is_some();
        let mut new = Self {
            stage,
            name,
            home,
            place: Place::Here,
            outer,
            inner,
            has_outer,
            stepped: None,
            files: Files::new(),
            dice,
            count: 0,
            log: Vec::new(),
        };
        if let Some(outer) = &mut new.outer {
            outer.mount(&root);
        }
        fs::create_dir_all(root.join("dir/sub")).unwrap();
        fs::create_dir(root.join("disk")).unwrap();
        new.inner.mount(&root.join("disk"));
        // By something that is there the disk is known again, from the first look on: it has rested.
        fs::write(root.join("disk/kept"), "kept").unwrap();
        std::thread::sleep(QUIET + Duration::from_millis(10));
        new.files.insert("disk/kept".into(), b"kept".to_vec());
        assert!(stage.runtime.block_on(stage.server().service().add_folder(&new.name)).unwrap());
        new.start().unwrap();
        new
    }

    fn root(&self) -> PathBuf {
        self.home.join("Sync")
    }

    fn away(&self) -> PathBuf {
        self.home.with_file_name("away")
    }

    /// Where the user finds the folder, if anywhere.
    fn reachable(&self) -> Option<PathBuf> {
        let is_there = self.outer.as_ref().is_none_or(|outer| outer.at.is_some());
        let home = if self.place == Place::Here { self.home.clone() } else { self.away() };
        is_there.then(|| home.join("Sync"))
    }

    fn start(&mut self) -> Result<(), String> {
        let stage = self.stage;
        let url = format!("http://{}", stage.server().address()).parse().unwrap();
        let remote = Arc::new(HttpRemote::new(&url, &self.name, &stage.token).unwrap());
        let state = self.home.with_file_name("state");
        let handle = stage.runtime.handle().clone();
        let identity = format!("test {}", self.name);
        let client = Client::open_store(&state, CACHE_SIZE, &identity, "A", remote, handle.clone());
        let client = client.map_err(|error| error.to_string())?;
        match Stepped::start(client.clone(), &self.root(), handle) {
            Ok(stepped) => {
                self.stepped = Some(stepped);
                Ok(())
            }
            Err(error) => {
                client.close().map_err(|error| error.to_string())?;
                Err(format!("{error:#}"))
            }
        }
    }

    /// A name of the user's files or of the other device's: each changes its own only.
    fn fresh(&mut self, prefix: &str) -> PathBuf {
        self.count += 1;
        let dir = ["", "dir", "dir/sub", "disk"][self.dice.random_range(0..4)];
        Path::new(dir).join(format!("{prefix}{}", self.count))
    }

    fn one_of(&mut self, prefix: &str) -> Option<PathBuf> {
        let is_own = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(prefix);
        let own: Vec<PathBuf> = self.files.keys().filter(is_own).cloned().collect();
        (!own.is_empty()).then(|| own[self.dice.random_range(0..own.len())].clone())
    }

    fn edit(&mut self) {
        let Some(root) = self.reachable() else { return };
        let (fresh, one) = (self.fresh("a"), self.one_of("a"));
        let is_there = |path: &Path| !path.starts_with("disk") || self.inner.at.is_some();
        let bytes = format!("bytes {}", self.count).into_bytes();
        match (self.dice.random_range(0..10), one.filter(|one| is_there(one))) {
            (0..2, Some(path)) if is_there(&fresh) => {
                let (from, to) = (root.join(&path), root.join(&fresh));
                // The user may not have got it yet.
                if from.exists() {
                    fs::rename(&from, &to)
                        .or_else(|_| {
                            // From one disk to another.
                            fs::copy(&from, &to)?;
                            fs::remove_file(&from)
                        })
                        .unwrap();
                    let moved = self.files.remove(&path).unwrap();
                    self.log.push(format!("user: {path:?} becomes {fresh:?}"));
                    self.files.insert(fresh, moved);
                }
            }
            (2, Some(path)) => {
                fs::remove_file(root.join(&path)).unwrap();
                self.log.push(format!("user: {path:?} is removed"));
                self.files.remove(&path);
            }
            (3..6, Some(path)) => {
                fs::write(root.join(&path), &bytes).unwrap();
                self.log.push(format!("user: {path:?} is written"));
                self.files.insert(path, bytes);
            }
            _ if is_there(&fresh) => {
                fs::write(root.join(&fresh), &bytes).unwrap();
                self.log.push(format!("user: {fresh:?} is made"));
                self.files.insert(fresh, bytes);
            }
            _ => {}
        }
    }

    fn edit_elsewhere(&mut self) {
        let (fresh, one) = (self.fresh("x"), self.one_of("x"));
        let bytes = format!("bytes {}", self.count).into_bytes();
        let (service, runtime) = (self.stage.server().service().clone(), &self.stage.runtime);
        match (self.dice.random_range(0..4), one) {
            (0, Some(path)) => {
                let (from, precondition) = (server_path(&path), Precondition::default());
                runtime.block_on(service.remove(&self.name, &from, false, &precondition)).unwrap();
                self.log.push(format!("elsewhere: {path:?} is removed"));
                self.files.remove(&path);
            }
            (number, one) => {
                let path = one.filter(|_| number == 1).unwrap_or(fresh);
                runtime.block_on(async {
                    let to = server_path(&path);
                    // The user may not have sent the directory yet.
                    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
                        service.make_directory(&self.name, &server_path(dir)).await.unwrap();
                    }
                    let precondition = Precondition::default();
                    let size = Some(bytes.len() as u64);
                    let mut upload = service.upload(&self.name, &to, precondition, None, size).await.unwrap();
                    upload.push(&bytes).await.unwrap();
                    upload.finish().await.unwrap();
                });
                self.log.push(format!("elsewhere: {path:?} is written"));
                self.files.insert(path, bytes);
            }
        }
    }

    fn step(&mut self) {
        let passes = [0, 20, 100, 600, 2_100, 6_000, 700_000][self.dice.random_range(0..7)];
        let pause = [0, 0, 1, 5, 20][self.dice.random_range(0..5)];
        self.log.push(format!("{passes} ms pass"));
        std::thread::sleep(Duration::from_millis(pause));
        if let Some(stepped) = &mut self.stepped {
            stepped.step(Duration::from_millis(passes));
        }
    }

    fn move_root(&mut self) {
        match self.place {
            Place::Here => {
                fs::rename(&self.home, self.away()).unwrap();
                let is_replaced = self.dice.random_bool(0.6);
                if is_replaced {
                    fs::create_dir_all(self.root()).unwrap();
                    if self.dice.random_bool(0.5) {
                        fs::write(self.root().join("none of it"), "x").unwrap();
                    }
                }
                self.place = Place::Away(is_replaced);
            }
            Place::Away(is_replaced) => {
                if is_replaced {
                    fs::remove_dir_all(&self.home).unwrap();
                }
                fs::rename(self.away(), &self.home).unwrap();
                self.place = Place::Here;
            }
        }
        // Mounts move with it.
        let home = if self.place == Place::Here { self.home.clone() } else { self.away() };
        for (disk, at) in [(self.outer.as_mut(), "Sync"), (Some(&mut self.inner), "Sync/disk")] {
            if let Some(path) = disk.and_then(|disk| disk.at.as_mut()) {
                *path = home.join(at);
            }
        }
        self.log.push(format!("the root is {:?}", self.place));
    }

    fn change_inner(&mut self) {
        let Some(root) = self.reachable() else { return };
        if self.inner.at.is_some() {
            self.inner.unmount();
        } else {
            self.inner.mount(&root.join("disk"));
        }
        self.log.push(format!("the inner disk is at {:?}", self.inner.at));
    }

    fn change_outer(&mut self) {
        let home = if self.place == Place::Here { self.home.clone() } else { self.away() };
        let Some(outer) = &mut self.outer else { return };
        if outer.at.is_some() {
            // What is mounted in it goes with it.
            self.inner.at = None;
            outer.unmount();
        } else {
            outer.mount(&home.join("Sync"));
        }
        self.log.push(format!("the outer disk is at {:?}", outer.at));
    }

    fn end_or_start(&mut self) {
        match self.stepped.take() {
            Some(stepped) if self.dice.random_bool(0.5) => {
                self.log.push("it stops".into());
                stepped.stop().unwrap();
            }
            Some(stepped) => {
                self.log.push("it ends without a word".into());
                stepped.abandon().unwrap();
            }
            None => {
                let started = self.start();
                self.log.push(format!("it starts: {started:?}"));
            }
        }
    }

    fn act(&mut self) {
        match self.dice.random_range(0..20) {
            0..5 => self.edit(),
            5..7 => self.edit_elsewhere(),
            7..14 => self.step(),
            14 => {
                if let Some(stepped) = &mut self.stepped {
                    self.log.push("it is asked".into());
                    stepped.ask();
                }
            }
            15 | 16 => self.move_root(),
            17 => self.change_inner(),
            18 if self.has_outer => self.change_outer(),
            18 => self.change_inner(),
            _ => self.end_or_start(),
        }
    }

    fn put_right(&mut self) -> Result<(), String> {
        if self.place != Place::Here {
            self.move_root();
        }
        if self.outer.as_ref().is_some_and(|outer| outer.at.is_none()) {
            self.change_outer();
        }
        if self.inner.at.is_none() {
            self.change_inner();
        }
        let begin = Instant::now();
        while self.stepped.is_none() {
            // A task of the client that ended may hold its state for a moment.
            match self.start() {
                Err(error) if begin.elapsed() > PATIENCE => return Err(error),
                _ => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        Ok(())
    }

    fn at_server(&self) -> Files {
        let service = self.stage.server().service();
        let mut found = Files::new();
        let mut open = vec![PathBuf::new()];
        self.stage.runtime.block_on(async {
            while let Some(dir) = open.pop() {
                let listing = service.list(&self.name, &server_path(&dir), None, 1000).await.unwrap();
                for entry in listing.entries {
                    let path = dir.join(entry.name.unwrap().to_string());
                    match entry.sha256 {
                        Some(sha256) => drop(found.insert(path, sha256.to_string().into_bytes())),
                        None => open.push(path),
                    }
                }
            }
        });
        found
    }

    fn differs(&self) -> Option<String> {
        let disk = files_below(&self.root());
        let hash = |bytes: &Vec<u8>| syncmount_common::FileHash::of(bytes).to_string().into_bytes();
        let hashes: Files = self.files.iter().map(|(path, bytes)| (path.clone(), hash(bytes))).collect();
        let server = self.at_server();
        let apart = |found: &Files, expected: &Files| -> Vec<PathBuf> {
            let paths = found.keys().chain(expected.keys());
            paths.filter(|path| found.get(*path) != expected.get(*path)).cloned().collect()
        };
        let (here, there) = (apart(&disk, &self.files), apart(&server, &hashes));
        (!here.is_empty() || !there.is_empty())
            .then(|| format!("the folder differs at {here:?}, the server at {there:?}"))
    }

    /// Nothing is missing, and nothing is there that should not be.
    fn come_to_rest(&mut self) -> Result<(), String> {
        self.put_right()?;
        let begin = Instant::now();
        loop {
            let Some(stepped) = &mut self.stepped else { return Err("it does not run".into()) };
            stepped.ask();
            for _ in 0..20 {
                stepped.step(Duration::from_millis(1_100));
                if stepped.is_at_rest() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            let is_at_rest = stepped.is_at_rest();
            let told = stepped.told();
            match self.differs() {
                None if is_at_rest => return Ok(()),
                differs if begin.elapsed() > PATIENCE => {
                    return Err(format!("at rest: {is_at_rest}, {differs:?}, {told}"));
                }
                _ => {}
            }
        }
    }

    fn play(mut self) -> Result<(), String> {
        for _ in 0..ACTS {
            self.act();
        }
        let done = self.come_to_rest();
        if let Some(stepped) = self.stepped.take() {
            stepped.stop().map_err(|error| error.to_string())?;
        }
        let Self { home, outer, inner, log, .. } = self;
        drop((inner, outer));
        fs::remove_dir_all(home.parent().unwrap()).unwrap();
        done.map_err(|error| format!("{error}\n  {}", log.join("\n  ")))
    }
}

#[test]
fn nothing_counts_as_removed_that_went_away_with_its_root_or_disk() {
    let given = std::env::var("SYNCMOUNT_SEED").ok().map(|seed| seed.parse().expect("SYNCMOUNT_SEED is a number"));
    let seeds = given.map_or(0..sized(100, 10_000), |seed: u64| seed..seed + 1);
    let world = tempfile::Builder::new().prefix("syncmount-").tempdir().unwrap();
    let (next, failed) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (next, failed, seeds) = (&next, &failed, &seeds);
            let base = world.path().join(format!("stage{thread}"));
            scope.spawn(move || {
                let stage = Stage::new(base);
                while failed.lock().is_empty() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    if let Err(error) = History::new(&stage, seed).play() {
                        failed.lock().push(format!("seed {seed}: {error}"));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    eprintln!("{} histories", seeds.end - seeds.start);
}
