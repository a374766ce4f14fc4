//! A real folder that a lying server and a rogue on the same machine lead astray: the watch mode's own code, step by step,
//! one seed for one run.
//!
//! Real files in a temporary directory are kept in step by [`syncmount::watch::Folder`] and the real engine against the real
//! service. A liar stands before that: by the seed it changes what is said of parents, kinds, names, sizes, hashes,
//! manifests, bodies, orders, epochs and positions. Between any two steps of the client, and wherever it turns to its tree in
//! the middle of one, a rogue swaps directories for symlinks that lead to the sentinels beside the folder, and an honest user
//! writes, renames and removes. In many runs the folder joins with files that the server has under the same names, of
//! the same size with other bytes.
//!
//! Then the liar and the rogue stop. What must hold: outside of the folder nothing has changed; what the user wrote is there,
//! or acknowledged by the honest server; the client could always say what it is at; folder and server agree.

mod client;
mod ground;
mod liar;

use crate::pairs::{Shows, Side};
use crate::sim::bytes::Library;
use crate::sim::server::Server;
use crate::sim::{Rng, view};
use client::{Both, Client, manifest_of};
use ground::{DIRS, Ground, some_bytes, some_path};
pub use liar::{DRIVEN, Liar, Lie, Refusal};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::rc::Rc;
use syncmount_common::{FileHash, Name, NodeId, Placement, Timestamp};
use syncmount_engine::{Body, Engine, RenameMode};

/// How many pages are read at once.
const PAGES_MAX: usize = 10;

/// How many commits are made at once: one that is refused must not keep the others back.
const COMMITS_MAX: usize = 8;

const BEGIN: i64 = 1_700_000_000_000_000_000;
const SECOND: i64 = 1_000_000_000;

/// Steps while the server lies.
const STEPS: usize = 120;

/// What lies outside is read after so many steps, and at the end.
const CHECK_EVERY: usize = 10;

/// How long all may take to come to rest, in rounds.
const ROUNDS_MAX: usize = 50;

/// What happened in a run.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Report {
    /// Lies that were told.
    pub lies: u64,
    /// How often what the server said was no folder, or no page.
    pub disbelieved: u64,
    /// What the rogue put in the place of something.
    pub swaps: u64,
    /// Files that the user wrote and that had to be found at the end.
    pub written: u64,
    /// How often the process was killed.
    pub kills: u64,
    /// Whether the user had to let the folder join again, since what had been believed did not fit what is true.
    pub rejoined: bool,
    /// What all agreed on at the end, a line each.
    pub tree: BTreeSet<String>,
}

/// Whether a watched folder uses such names itself.
fn is_reserved(name: &Name) -> bool {
    name.as_bytes().starts_with(b".syncmount-")
}

struct Run {
    rng: Rng,
    ground: Both<Ground>,
    server: Both<Server>,
    liar: Both<Liar>,
    /// An honest device that shows the folder otherwise.
    x: Side,
    library: Library,
    client: Client,
    count: u64,
    kills: u64,
    rejoined: bool,
}

/// Plays the run of a seed. An error says what is not as it must be, with all that was done.
pub fn astray(seed: u64) -> Result<Report, String> {
    let mut run = Run::new(seed).map_err(|error| error.to_string())?;
    let done = run.play(seed);
    let log = run.ground.borrow().log.join("\n  ");
    let kinds = format!("{:?}", run.liar.borrow().kinds());
    done.map_err(|error| format!("seed {seed}: {error}\n  lies about {kinds}\n  {log}"))
}

impl Run {
    fn new(seed: u64) -> std::io::Result<Self> {
        let ground = Rc::new(RefCell::new(Ground::new(seed, BEGIN)?));
        let server = Rc::new(RefCell::new(Server::new(1, BEGIN)));
        let liar = Rc::new(RefCell::new(Liar::new(seed)));
        let client = Client::new(seed, BEGIN, (ground.clone(), server.clone(), liar.clone()))?;
        let x = Side::new("x", 1, Shows::Mounted);
        let library = Library::default();
        Ok(Self {
            rng: Rng::of(&[seed]),
            ground,
            server,
            liar,
            x,
            library,
            client,
            count: 0,
            kills: 0,
            rejoined: false,
        })
    }

    fn note(&self, what: String) {
        self.ground.borrow_mut().log.push(what);
    }

    fn play(&mut self, seed: u64) -> Result<Report, String> {
        self.begin()?;
        for step in 0..STEPS {
            self.step()?;
            self.client.status();
            if step % CHECK_EVERY == 0 {
                self.ground.borrow().check_outside()?;
            }
        }
        self.calm()?;
        self.come_to_rest(seed)?;
        self.ground.borrow().check_outside()?;
        self.check_written()?;
        let ground = self.ground.borrow();
        Ok(Report {
            lies: self.liar.borrow().told,
            disbelieved: self.client.disbelieved,
            swaps: ground.swaps,
            written: ground.written.len() as u64,
            kills: self.kills,
            rejoined: self.rejoined,
            tree: self.agree()?,
        })
    }

    /// What the server has before, and what the folder has that joins.
    fn begin(&mut self) -> Result<(), String> {
        for dir in DIRS {
            self.x.act(&format!("mkdir {dir}; mkdir {dir}/sub"))?;
        }
        let mut theirs = BTreeMap::new();
        for _ in 0..6 {
            let path = some_path(&mut self.rng);
            self.count += 1;
            let bytes = some_bytes(&mut self.rng, "them", self.count);
            self.x.act(&format!("put {path} {bytes}"))?;
            theirs.insert(path, bytes);
        }
        self.x_speaks()?;
        if self.rng.chance(700) {
            self.join(&theirs)?;
        }
        self.change_mood();
        match self.rng.below(3) {
            0 => self.client_does("look", Client::look),
            1 => {}
            // As at a start of the client: it reads the feed to its end, then looks at the folder.
            _ => {
                for _ in 0..PAGES_MAX {
                    if !self.client.listen() {
                        break;
                    }
                    self.client.carry_out()?;
                }
                self.client_does("look", Client::look);
            }
        }
        Ok(())
    }

    /// The folder has files before it hears of the server: some are the same, some have the same size.
    fn join(&mut self, theirs: &BTreeMap<String, String>) -> Result<(), String> {
        for (path, bytes) in theirs {
            let mut ground = self.ground.borrow_mut();
            if let Some(dir) = Path::new(path).parent() {
                fs::create_dir_all(ground.root().join(dir)).map_err(|error| error.to_string())?;
            }
            let ours = match self.rng.below(4) {
                0 => continue,
                1 => bytes.clone(),
                _ => bytes.replace("them-", "mine-"),
            };
            let note = ground.write(path, ours.as_bytes(), true).map_err(|error| error.to_string())?;
            ground.log.push(format!("before: {note}"));
            self.liar.borrow_mut().note(path.rsplit('/').next().unwrap_or_default(), ours.as_bytes());
        }
        Ok(())
    }

    fn x_speaks(&mut self) -> Result<(), String> {
        self.x.speak(&mut self.server.borrow_mut(), &mut self.library)
    }

    fn pass_time(&mut self, by: i64) {
        let now = self.x.shared.clock.get() + by;
        self.x.shared.clock.set(now);
        self.client.shared.clock.set(now);
    }

    fn step(&mut self) -> Result<(), String> {
        self.pass_time(SECOND);
        match self.rng.below(24) {
            0 => self.change_mood(),
            1..4 => self.x_acts()?,
            4..7 => self.ground.borrow_mut().act(),
            7..9 => self.client_does("look", |client| client.look()),
            9..13 => self.client_does("work", Client::work),
            13..16 => {
                let which = self.rng.number();
                if self.client.fetch(which) {
                    self.note("client: fetch".to_owned());
                }
            }
            16..18 => {
                let is_lost = self.rng.chance(100);
                self.client.commit(is_lost);
            }
            18..22 => {
                if self.client.listen() {
                    self.note("client: listen".to_owned());
                }
            }
            22 => self.client.tick(),
            _ => {
                let lives = self.rng.below(8) as u32;
                self.client.shall_live(Some(lives).filter(|_| self.rng.chance(200)));
            }
        }
        self.client.carry_out()?;
        if self.client.restart_if_killed()? {
            self.kills += 1;
            self.note("client: killed and started again".to_owned());
            self.client_does("look", |client| client.look());
        }
        Ok(())
    }

    /// From now on it is lied to or not, the rogue is there or not, and acts more often or less.
    fn change_mood(&mut self) {
        let mut ground = self.ground.borrow_mut();
        ground.rate = [0, 30, 100, 300][self.rng.index(4)];
        ground.has_rogue = self.rng.chance(700);
        let mut liar = self.liar.borrow_mut();
        liar.is_lying = self.rng.chance(700);
        let what = format!("lies: {}, rogue: {}, in between: {}", liar.is_lying, ground.has_rogue, ground.rate);
        ground.log.push(what);
    }

    /// A step of the client that may fail: then it is made again later.
    fn client_does(&mut self, what: &str, act: impl FnOnce(&mut Client) -> std::io::Result<()>) {
        let done = act(&mut self.client);
        let error = done.err().map(|error| format!(": {error}")).unwrap_or_default();
        self.note(format!("client: {what}{error}"));
    }

    /// The honest device does something, and says so.
    fn x_acts(&mut self) -> Result<(), String> {
        let (path, to) = (some_path(&mut self.rng), some_path(&mut self.rng));
        self.count += 1;
        let line = match self.rng.below(10) {
            0..5 => format!("put {path} {}", some_bytes(&mut self.rng, "them", self.count)),
            5 => format!("rm {path}"),
            6 => format!("mv {path} {to}"),
            7 => format!("chmod {path} {}", ["600", "755", "4755"][self.rng.index(3)]),
            8 => {
                let dir = DIRS[self.rng.index(DIRS.len())];
                if self.rng.chance(300) { format!("rm {dir}/sub") } else { format!("mkdir {dir}/sub") }
            }
            _ => format!("ln {path} nowhere"),
        };
        // What cannot be done is not done.
        let done = self.x.act(&line);
        let line: String = line.chars().take(60).collect();
        self.note(format!("x: {line}{}", if done.is_ok() { "" } else { " (refused)" }));
        self.x_speaks()
    }

    /// The liar and the rogue stop. The server's keeper says that nothing told before counts.
    fn calm(&mut self) -> Result<(), String> {
        self.note("calm".to_owned());
        self.client.shall_live(None);
        self.ground.borrow_mut().calm();
        if self.kills > 0 {
            // Parts that a killed process has left, and that the rogue brings back where the next one works, go with a start.
            self.client.start()?;
        }
        self.liar.borrow_mut().is_lying = false;
        self.server.borrow().told_restored().map_err(|error| error.to_string())
    }

    fn come_to_rest(&mut self, seed: u64) -> Result<(), String> {
        self.client.compare();
        let mut why = String::new();
        for round in 0..ROUNDS_MAX {
            self.pass_time(1000 * SECOND);
            self.client_does("look", |client| client.look());
            self.client.tick();
            self.client.carry_out()?;
            for _ in 0..COMMITS_MAX {
                self.client.commit(false);
                self.client.carry_out()?;
            }
            for _ in 0..PAGES_MAX {
                if !self.client.listen() {
                    break;
                }
                self.client.carry_out()?;
            }
            self.client_does("work", Client::work);
            while self.client.fetch(0) {}
            self.client.carry_out()?;
            self.x_renames()?;
            self.x_speaks()?;
            let end = self.server.borrow().end();
            let is_at_rest = self.client.is_at_rest(end) && self.x.is_at_rest(&self.server.borrow());
            match self.agree() {
                Ok(_) if is_at_rest => return Ok(()),
                Ok(_) => {}
                Err(error) => why = error,
            }
            if round == ROUNDS_MAX / 2 && self.client.is_stuck() {
                self.note(format!("joins again: {}", self.client.status()));
                self.rejoined = true;
                self.client.join_anew()?;
            }
            if round + 1 == ROUNDS_MAX {
                let (status, end) = (self.client.status(), self.server.borrow().end());
                return Err(format!("it does not come to rest: {is_at_rest} {end} {status}; {why} (seed {seed})"));
            }
        }
        Ok(())
    }

    /// A name that the liar gave may be one that a watched folder cannot show, and its status says so. The user of another
    /// device gives it another one.
    fn x_renames(&mut self) -> Result<(), String> {
        let now = Timestamp(self.x.shared.clock.get());
        let mut engine = self.x.shared.engine.borrow_mut();
        let of = |id: NodeId| engine.local(id)?.names.first().filter(|place| is_reserved(&place.name)).cloned();
        let places: Vec<Placement> = engine.ids().filter_map(of).collect();
        for Placement { parent, name } in places {
            self.count += 1;
            let to = (NodeId::ROOT, Name::new(format!("renamed{}", self.count).as_bytes()).map_err(|e| e.to_string())?);
            let renamed = engine.rename((parent, name.as_bytes()), to, RenameMode::NoReplace, now);
            renamed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// What all of them show: the folder, its tree, the server and the honest device.
    fn agree(&self) -> Result<BTreeSet<String>, String> {
        let disk = self.on_disk().map_err(|error| error.to_string())?;
        let here = self.shown(&self.client.shared.engine.borrow());
        let there = self.shown(&self.x.tree());
        let differs = |what: &str, one: &BTreeSet<String>, other: &BTreeSet<String>| {
            let (left, right): (Vec<_>, Vec<_>) = (one.difference(other).collect(), other.difference(one).collect());
            format!("{what}: only the first has {left:#?}, only the second {right:#?}")
        };
        if disk != here {
            return Err(differs("disk and tree", &disk, &here));
        }
        if here != there {
            return Err(differs("the client and the honest device", &here, &there));
        }
        let (nodes, _) = self.server.borrow().nodes().map_err(|error| error.to_string())?;
        let live = nodes.iter().filter(|node| !node.deleted && !node.names.is_empty()).count();
        let known = view::of_engine(&self.x.tree(), None).len();
        if live != known {
            return Err(format!("the server has {live} nodes, the honest device {known}"));
        }
        Ok(disk)
    }

    fn shown(&self, engine: &Engine) -> BTreeSet<String> {
        let mut shown = BTreeSet::new();
        for id in engine.ids() {
            let (Some(path), Some(state)) = (engine.path(id), engine.local(id)) else { continue };
            let mode = state.attrs.mode & 0o1777;
            shown.insert(match &state.body {
                Body::Dir if path.is_empty() => continue,
                Body::Dir => format!("{path}/"),
                Body::Symlink(target) => format!("{path} -> {}", String::from_utf8_lossy(target.as_bytes())),
                body => {
                    let bytes = body.content_hash().and_then(|hash| self.server.borrow().bytes(hash).ok());
                    let bytes = bytes.map_or_else(|| "nothing".to_owned(), |bytes| FileHash::of(&bytes).to_string());
                    format!("{path} = {bytes} {mode:o}")
                }
            });
        }
        shown
    }

    fn on_disk(&self) -> std::io::Result<BTreeSet<String>> {
        let root = self.ground.borrow().root();
        let mut found = BTreeSet::new();
        let mut todo = vec![root.clone()];
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(dir)? {
                let path = entry?.path();
                let name = path.strip_prefix(&root).map_err(std::io::Error::other)?.display().to_string();
                let metadata = fs::symlink_metadata(&path)?;
                let is_work = metadata.is_dir() && name.starts_with(".syncmount-work-");
                if name == ".syncmount-folder" || is_work && fs::read_dir(&path)?.next().is_none() {
                    continue;
                }
                found.insert(if metadata.is_dir() {
                    todo.push(path);
                    format!("{name}/")
                } else if metadata.is_symlink() {
                    format!("{name} -> {}", fs::read_link(path)?.display())
                } else {
                    let mode = metadata.permissions().mode() & 0o1777;
                    format!("{name} = {} {mode:o}", FileHash::of(&fs::read(path)?))
                });
            }
        }
        Ok(found)
    }

    /// What the user wrote and did not destroy is there, or acknowledged by the honest server.
    fn check_written(&self) -> Result<(), String> {
        let (ground, server) = (self.ground.borrow(), self.server.borrow());
        let there = ground.bytes_there();
        let is_acknowledged = |bytes: &[u8]| {
            let is_it = |hash: &&syncmount_common::ContentHash| manifest_of(bytes, **hash).is_some();
            server.committed().iter().any(|hash| is_it(&hash))
        };
        let lost: Vec<String> = ground
            .written
            .iter()
            .filter(|bytes| !there.contains(*bytes) && !is_acknowledged(bytes))
            .map(|bytes| format!("{} bytes {}", bytes.len(), String::from_utf8_lossy(&bytes[..bytes.len().min(12)])))
            .collect();
        if lost.is_empty() { Ok(()) } else { Err(format!("the user wrote this, and it is nowhere: {lost:?}")) }
    }
}
