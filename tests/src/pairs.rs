//! Two devices that change the same things while neither hears of the other: what the user finds afterwards.
//!
//! The real engine on both sides and the real service between them, without disks, sockets or chance. A pair is told in a
//! few words (`put f x; mv f g`) and played in every order: either device first at the server, either clock ahead or both
//! equal, either device the one that made what was there before.

use crate::pairs_folder::{PlainFolder, Shared};
use crate::sim::bytes::{Library, content_of, sealed};
use crate::sim::server::Server;
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use syncmount_common::protocol::changes::Device as Named;
use syncmount_common::protocol::commit::{ConflictDetails, Op};
use syncmount_common::{Attrs, DeviceId, Name, NodeId, NodeKind, Owner, Placement, SymlinkTarget, Timestamp};
use syncmount_engine::{
    Body, Changed, CommitAnswer, Draft, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, PrepareAnswer,
    RenameMode, Restored,
};
use syncmount_server::service::ServiceError;

/// When what was there before was made.
const BEFORE: i64 = 1_700_000_000_000_000_000;
const HOUR: i64 = 3_600_000_000_000;
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;
/// Rounds of sending and listening within which two devices must agree.
const ROUNDS_MAX: usize = 20;

/// Whose clock is ahead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ahead {
    X,
    Y,
    Nobody,
}

/// How a device shows the folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shows {
    /// Mounted: what its user does is known at once.
    Mounted,
    /// A plain folder that is looked at as soon as its user has done something.
    Watched,
    /// A plain folder that is looked at only when the tree knows what the other device has done, and the disk does not show
    /// it yet.
    WatchedLate,
}

/// X and Y.
type Both = (Shows, Shows);

const MOUNTED: Both = (Shows::Mounted, Shows::Mounted);

/// Everything with a watched folder in it.
const WATCHED: [Both; 5] = [
    (Shows::Watched, Shows::Mounted),
    (Shows::Mounted, Shows::Watched),
    (Shows::Watched, Shows::Watched),
    (Shows::WatchedLate, Shows::Mounted),
    (Shows::Mounted, Shows::WatchedLate),
];

/// In which order a pair is played.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Play {
    ahead: Ahead,
    /// X reaches the server first.
    x_first: bool,
    /// X made what was there before.
    x_made: bool,
    /// By how much one clock is ahead of the other.
    gap: i64,
    shows: Both,
}

impl Play {
    fn all(shows: Both) -> Vec<Self> {
        let mut plays = Vec::new();
        for ahead in [Ahead::X, Ahead::Y, Ahead::Nobody] {
            for gap in [HOUR, 50 * 365 * 24 * HOUR] {
                for (x_first, x_made) in [(true, true), (true, false), (false, true), (false, false)] {
                    plays.push(Self { ahead, x_first, x_made, gap, shows });
                }
            }
        }
        // Who looks late is second, whoever speaks first.
        plays.retain(|play| match shows {
            (Shows::WatchedLate, _) => !play.x_first,
            (_, Shows::WatchedLate) => play.x_first,
            _ => true,
        });
        plays
    }

    fn clocks(self) -> (i64, i64) {
        let base = BEFORE + 100 * HOUR;
        match self.ahead {
            Ahead::X => (base + self.gap, base),
            Ahead::Y => (base, base + self.gap),
            Ahead::Nobody => (base, base),
        }
    }

    /// Fills in who is newer and who was first. Of two that are equally new, the one that came first counts as newer.
    fn resolve(self, expected: &str) -> BTreeSet<String> {
        let x_newer = match self.ahead {
            Ahead::X => true,
            Ahead::Y => false,
            Ahead::Nobody => self.x_first,
        };
        let chosen = pick(pick(expected, " | ", self.x_first), " / ", x_newer);
        let who = |x: bool| if x { "x" } else { "y" };
        let (x, y) = if self.ahead == Ahead::Nobody { (" @=", " @=") } else { (" @x", " @y") };
        let filled = chosen
            .replace(" @x", x)
            .replace(" @y", y)
            .replace("{new}", who(x_newer))
            .replace("{old}", who(!x_newer))
            .replace("{first}", who(self.x_first))
            .replace("{made}", who(self.x_made));
        filled.split("; ").filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }
}

/// Of two lists the first or the second; the list itself if there is but one.
fn pick<'a>(lists: &'a str, separator: &str, first: bool) -> &'a str {
    match lists.split_once(separator) {
        Some((a, b)) => {
            if first {
                a
            } else {
                b
            }
        }
        None => lists,
    }
}

/// Plays a pair in every order. `expected` lists what both devices show at the end, separated by `; `: `d/` a directory,
/// `f=x` a file and its bytes, `g&f` another name of it, `l->t` a symlink, ` {a=x}` extended attributes, ` [600]` behind it a mode that is not the usual one,
/// ` (7)` an owner, ` @x` the mtime
/// that X has set; ` (conflict x)` in a name stands for a conflict note that names device x. `{new}` and `{old}` are `x` and
/// `y`, in the order of their clocks; `{first}` is the one that reaches the server first; `{made}` is
/// the device that made what was there before. Two lists separated by ` | ` are chosen by who came first, X or Y; two
/// separated by ` / ` by whose clock is ahead.
///
/// # Panics
/// If any order ends otherwise, if the devices do not agree, or if they do not come to rest.
pub fn play(before: &str, x: &str, y: &str, expected: &str) {
    play_all(Play::all(MOUNTED), before, x, y, expected);
}

/// The same with one or both of the devices watching a plain folder; `if_x_watches` is what is expected if X does.
///
/// # Panics
/// If any order ends otherwise, if the devices do not agree, if they do not come to rest, or if a disk shows something else
/// than its tree.
pub fn play_watched(before: &str, x: &str, y: &str, expected: &str, if_x_watches: &str) {
    // What is known of a node that a plain folder does not show (further names, attributes, rules of these tests) is not
    // its user's to change.
    let is_shown = |script: &str| !["link ", "attr ", "chown ", "~"].iter().any(|word| script.contains(word));
    let can = |shows, script| shows == Shows::Mounted || (is_shown(before) && is_shown(script));
    let plays = WATCHED.into_iter().flat_map(Play::all).filter(|play| play.gap == HOUR);
    let plays = plays.filter(|play| can(play.shows.0, x) && can(play.shows.1, y));
    let (mounts, watches): (Vec<Play>, Vec<Play>) = plays.partition(|play| play.shows.0 == Shows::Mounted);
    play_all(mounts, before, x, y, expected);
    play_all(watches, before, x, y, if_x_watches);
}

fn play_all(plays: Vec<Play>, before: &str, x: &str, y: &str, expected: &str) {
    let mut failures = Vec::new();
    for play in plays {
        let wanted = play.resolve(expected);
        match Pair::new(play.shows).play(play, before, x, y) {
            Ok(found) if found == wanted => {}
            Ok(found) => failures.push(format!("{play:?}\n    wanted {wanted:?}\n    found  {found:?}")),
            Err(error) => failures.push(format!("{play:?}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{x:?} and {y:?}\n{}", failures.join("\n"));
}

/// Plays a pair in every order and demands only what must hold for any: both agree, and what either has written is there.
///
/// # Panics
/// If it is not.
pub fn keeps_all(before: &str, x: &str, y: &str) {
    keeps_all_in(Play::all(MOUNTED).into_iter().filter(|play| play.gap == HOUR), before, x, y);
}

/// The same with watched folders.
///
/// # Panics
/// If it is not.
pub fn keeps_all_watched(before: &str, x: &str, y: &str) {
    let shows =
        [(Shows::Watched, Shows::Watched), (Shows::WatchedLate, Shows::Mounted), (Shows::Mounted, Shows::WatchedLate)];
    let is_shown = |script: &str| !["link ", "attr ", "chown ", "~"].iter().any(|word| script.contains(word));
    if !(is_shown(x) && is_shown(y)) {
        return;
    }
    let plays = shows.into_iter().flat_map(Play::all);
    keeps_all_in(plays.filter(|play| play.gap == HOUR && play.x_made && play.ahead != Ahead::Nobody), before, x, y);
}

fn keeps_all_in(plays: impl Iterator<Item = Play>, before: &str, x: &str, y: &str) {
    for play in plays {
        let found = Pair::new(play.shows)
            .play(play, before, x, y)
            .unwrap_or_else(|error| panic!("{x:?}, {y:?}, {play:?}: {error}"));
        for (script, written) in [(x, "x"), (y, "y")] {
            let holds = |part: &&String| {
                let (text, _) = part.split_once(" [").unwrap_or((part.as_str(), ""));
                [format!("={written}"), format!("->{written}")].iter().any(|end| text.ends_with(end.as_str()))
            };
            let there = found.iter().filter(holds).count();
            let wanted = script.contains(&format!(" {written}"));
            assert_eq!(there, usize::from(wanted), "{x:?}, {y:?}, {play:?}: `{written}` in {found:?}");
        }
    }
}

pub(crate) struct Side {
    pub(crate) shared: Shared,
    staging: BTreeMap<u64, Arc<[u8]>>,
    pub(crate) folder: Option<PlainFolder>,
    is_late: bool,
    /// What it has sent.
    pub(crate) said: Vec<Op>,
}

pub(crate) struct Pair {
    pub(crate) server: Server,
    pub(crate) library: Library,
    pub(crate) x: Side,
    pub(crate) y: Side,
}

impl Pair {
    pub(crate) fn new((x, y): Both) -> Self {
        let server = Server::new(1, BEFORE);
        Self { server, library: Library::default(), x: Side::new("x", 1, x), y: Side::new("y", 2, y) }
    }

    fn play(mut self, play: Play, before: &str, x: &str, y: &str) -> Result<BTreeSet<String>, String> {
        let maker = if play.x_made { &mut self.x } else { &mut self.y };
        maker.act(before)?;
        maker.look()?;
        self.agree(play.x_made)?;
        self.x.shared.clock.set(play.clocks().0);
        self.y.shared.clock.set(play.clocks().1);
        for (side, script) in [(&mut self.x, x), (&mut self.y, y)] {
            side.act(script)?;
            if !side.is_late {
                side.look()?;
            }
        }
        self.agree(play.x_first)?;
        self.x.check_disk()?;
        self.y.check_disk()?;
        let clocks = play.clocks();
        let (seen_x, seen_y) = (self.x.show(clocks), self.y.show(clocks));
        if seen_x != seen_y {
            return Err(format!("X shows {seen_x:?} and Y {seen_y:?}"));
        }
        Ok(seen_x)
    }

    /// Both send and listen until neither has anything left to say.
    fn agree(&mut self, x_first: bool) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let (first, second) = if x_first { (&mut self.x, &mut self.y) } else { (&mut self.y, &mut self.x) };
            first.sync(&mut self.server, &mut self.library)?;
            second.sync(&mut self.server, &mut self.library)?;
            if self.x.is_at_rest(&self.server) && self.y.is_at_rest(&self.server) {
                return Ok(());
            }
        }
        Err("they do not come to rest".to_owned())
    }
}

impl Side {
    pub(crate) fn new(name: &str, seed: u64, shows: Shows) -> Self {
        let id = DeviceId::new_v7(seed, &[seed as u8; 10]);
        let device = Named { id, name: name.to_owned() };
        let mut engine = Engine::new(Identity { device, seed }, Restored::default());
        apply_rules(&mut engine);
        engine.apply_owners(shows == Shows::Mounted);
        if shows == Shows::Mounted {
            engine.show_times();
        } else {
            engine.remember_authors();
        }
        let engine = Rc::new(RefCell::new(engine));
        let shared = Shared {
            engine,
            clock: Rc::new(Cell::new(BEFORE)),
            next: Rc::default(),
            kept: Rc::default(),
            lives: Rc::default(),
        };
        let folder = (shows != Shows::Mounted).then(|| PlainFolder::new(shared.clone()));
        Self { shared, staging: BTreeMap::new(), folder, is_late: shows == Shows::WatchedLate, said: Vec::new() }
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.shared.clock.get())
    }

    fn engine(&self) -> RefMut<'_, Engine> {
        self.shared.engine.borrow_mut()
    }

    pub(crate) fn tree(&self) -> Ref<'_, Engine> {
        self.shared.engine.borrow()
    }

    pub(crate) fn look(&mut self) -> Result<(), String> {
        self.folder.as_mut().map_or(Ok(()), PlainFolder::look)
    }

    /// The disk shows what the tree does.
    pub(crate) fn check_disk(&self) -> Result<(), String> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let found = folder.on_disk().map_err(|error| error.to_string())?;
        let engine = self.tree();
        let mut wanted = BTreeSet::new();
        for id in engine.ids().filter(|id| *id != NodeId::ROOT) {
            let (Some(path), Some(state)) = (engine.path(id), engine.local(id)) else { continue };
            wanted.insert(match &state.body {
                Body::Dir => format!("{path}/ {:o}", state.attrs.mode),
                Body::Symlink(target) => format!("{path}->{}", String::from_utf8_lossy(target.as_bytes())),
                Body::File(_) => format!("{path}={} {:o}", bytes_of(&state.body), state.attrs.mode),
            });
        }
        if found == wanted { Ok(()) } else { Err(format!("the disk shows {found:?}, the tree {wanted:?}")) }
    }

    pub(crate) fn is_at_rest(&self, server: &Server) -> bool {
        let engine = self.tree();
        !engine.has_work()
            && !engine.wants_page_now()
            && engine.cursor().is_some_and(|cursor| cursor.seq == server.end())
            && self.staging.keys().all(|staging| self.stays_here(*staging))
    }

    fn stays_here(&self, staging: u64) -> bool {
        let engine = self.tree();
        let is_its = |(id, draft): (NodeId, &Draft)| draft.staging == Some(staging) && engine.stays_here(id);
        engine.stagings().any(is_its)
    }

    /// Sends all there is to send, then reads the feed to its end.
    fn sync(&mut self, server: &mut Server, library: &mut Library) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            self.speak(server, library)?;
            let Some(folder) = &mut self.folder else { return Ok(()) };
            // What was done before is told before anything is done to the disk.
            if std::mem::take(&mut self.is_late) {
                folder.look()?;
            }
            folder.work(library)?;
            if !self.tree().has_work() {
                return Ok(());
            }
        }
        Err("the folder does not stop to change".to_owned())
    }

    pub(crate) fn speak(&mut self, server: &mut Server, library: &mut Library) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            self.carry_out(server, library)?;
            let now = self.now();
            let request = self.engine().next_commit(now);
            if let Some(request) = request {
                self.said.extend(request.ops.iter().cloned());
                let answer = match server.commit(&request, &[]) {
                    Ok(done) => CommitAnswer::Committed(done),
                    Err(ServiceError::Conflict(conflicts)) => CommitAnswer::Conflict(ConflictDetails { conflicts }),
                    Err(ServiceError::Missing(missing)) => CommitAnswer::Missing(missing),
                    Err(ServiceError::Resync(_)) => CommitAnswer::Resync,
                    Err(error) => return Err(error.to_string()),
                };
                self.engine().committed(request.op_id, answer, now);
                continue;
            }
            let ask = self.engine().next_page();
            let wanted = self.engine().wants_page_now();
            let page = match server.changes(ask, 3) {
                Err(ServiceError::Resync(_)) => {
                    self.engine().begin_resync();
                    continue;
                }
                page => page.map_err(|error| error.to_string())?,
            };
            if page.nodes.is_empty() && !wanted && ask.since == Some(page.cursor) {
                return Ok(());
            }
            self.engine().page(ask, page);
        }
        Err("it does not stop to send and to listen".to_owned())
    }

    fn carry_out(&mut self, server: &Server, library: &mut Library) -> Result<(), String> {
        let now = self.now();
        loop {
            let Some(effect) = self.engine().poll(now) else { break };
            match effect {
                Effect::Prepare { node, generation, .. } => {
                    let answer = self.prepare(node, generation, server, library)?;
                    self.engine().prepared(node, generation, answer, now);
                }
                Effect::Settle { node, generation, content } => {
                    let settled = self.engine().settle(node, generation);
                    if let Some(Some(staging)) = settled {
                        self.staging.remove(&staging);
                        if let Some(folder) = &self.folder {
                            folder.settled(staging, &content.hash);
                        }
                    }
                }
                Effect::Supply { node, content } => {
                    let bytes = library.get(content.hash).ok_or("a content that nobody wrote")?;
                    server.put(sealed(bytes).into_iter().collect()).map_err(|error| error.to_string())?;
                    self.engine().supplied(node, &Arc::new(content_of(bytes)));
                }
                Effect::DropStaging(id) => drop(self.staging.remove(&id)),
                Effect::ReadRules => apply_rules(&mut self.engine()),
                Effect::DraftMoved { to: node, .. } | Effect::Changed(Changed { node, .. }) => {
                    if let Some(folder) = &mut self.folder {
                        folder.changed(node);
                    }
                }
            }
        }
        self.engine().take_record();
        self.engine().check();
        Ok(())
    }

    fn prepare(
        &self,
        node: NodeId,
        generation: u64,
        server: &Server,
        library: &mut Library,
    ) -> Result<PrepareAnswer, String> {
        let draft = self.tree().local(node).and_then(|state| state.body.draft().cloned());
        let Some(draft) = draft.filter(|draft| draft.generation == generation) else {
            return Ok(PrepareAnswer::Outdated);
        };
        let in_folder = match (&self.folder, draft.staging) {
            (Some(folder), Some(id)) => folder.read(id)?,
            _ => None,
        };
        let staged = || draft.staging.and_then(|id| self.staging.get(&id).cloned());
        let bytes = in_folder.or_else(staged).unwrap_or_default();
        server.put(sealed(&bytes).into_iter().collect()).map_err(|error| error.to_string())?;
        Ok(PrepareAnswer::Ready(Arc::new(library.enter(&bytes))))
    }

    pub(crate) fn act(&mut self, script: &str) -> Result<(), String> {
        for line in script.split("; ").filter(|line| !line.is_empty()) {
            if let Some(folder) = &self.folder {
                folder.act(line)?;
                continue;
            }
            self.act_once(line).map_err(|error| format!("`{line}`: {error}"))?;
        }
        Ok(())
    }

    fn act_once(&mut self, line: &str) -> Result<(), String> {
        let words: Vec<&str> = line.split(' ').collect();
        let now = self.now();
        match words[..] {
            ["put", path, bytes] => self.put(path, bytes.as_bytes()),
            ["mkdir", path] => self.create(path, DIR_MODE, Body::Dir).map(drop),
            ["link", path, to] => {
                let (node, (parent, name)) = (self.find(path)?, self.place(to)?);
                self.engine().link(node, parent, name, now).map_err(|error| error.to_string())
            }
            ["attr", path, name, value] => self.set_xattr(path, name, value),
            ["chown", path, uid] => {
                let uid = uid.parse().map_err(|_| "no number")?;
                let node = self.find(path)?;
                self.engine().set_owner(node, Owner { uid, gid: uid }, now).map_err(|error| error.to_string())
            }
            ["ln", path, target] => {
                let target = SymlinkTarget::new(target.as_bytes()).map_err(|error| error.to_string())?;
                self.create(path, 0o777, Body::Symlink(target)).map(drop)
            }
            ["rm", path] => self.remove(path),
            ["mv", from, to] => self.rename(from, to, RenameMode::Replace),
            ["swap", a, b] => self.rename(a, b, RenameMode::Exchange),
            ["chmod", path, mode] => {
                let mode = u32::from_str_radix(mode, 8).map_err(|error| error.to_string())?;
                self.set_attrs(path, |attrs| Attrs { mode, ..attrs })
            }
            ["touch", path] => self.set_attrs(path, |attrs| Attrs { mtime: now, ..attrs }),
            _ => Err("what is that?".to_owned()),
        }
    }

    /// The first of a node's paths.
    fn first_path(&self, state: &syncmount_engine::State) -> String {
        let path = |place: &Placement| {
            let dir = self.tree().path(place.parent).unwrap_or_default();
            if dir.is_empty() { place.name.to_string() } else { format!("{dir}/{}", place.name) }
        };
        state.names.iter().map(path).min().unwrap_or_default()
    }

    fn find(&self, path: &str) -> Result<NodeId, String> {
        let step = |at, name: &str| self.tree().child(at, name.as_bytes()).ok_or(format!("no `{path}`"));
        path.split('/').try_fold(NodeId::ROOT, step)
    }

    fn place(&self, path: &str) -> Result<(NodeId, Name), String> {
        let (dir, name) = path.rsplit_once('/').map_or((None, path), |(dir, name)| (Some(dir), name));
        let parent = dir.map_or(Ok(NodeId::ROOT), |dir| self.find(dir))?;
        Ok((parent, Name::new(name.as_bytes()).map_err(|error| error.to_string())?))
    }

    fn create(&mut self, path: &str, mode: u32, body: Body) -> Result<NodeId, String> {
        let ((parent, name), now) = (self.place(path)?, self.now());
        self.engine().create(parent, name, Attrs { mode, mtime: now }, body, now).map_err(|error| error.to_string())
    }

    fn put(&mut self, path: &str, bytes: &[u8]) -> Result<(), String> {
        let node = match self.find(path) {
            Ok(node) => node,
            Err(_) => self.create(path, FILE_MODE, Body::File(FileBody::Draft(Box::new(Draft::empty()))))?,
        };
        let body = self.tree().local(node).map(|state| state.body.clone());
        let expected = match &body {
            Some(Body::File(FileBody::Clean(content))) => Expected::Clean(content.hash),
            Some(Body::File(FileBody::Draft(draft))) => Expected::Draft(draft.staging),
            _ => return Err("it is no file".to_owned()),
        };
        let number = self.shared.next.get() + 1;
        self.shared.next.set(number);
        if let Expected::Draft(Some(old)) = expected {
            self.staging.remove(&old);
        }
        self.staging.insert(number, bytes.into());
        let size = bytes.len() as u64;
        let update = DraftUpdate {
            generation: number,
            size,
            staging: Some(number),
            present: vec![(0, size)],
            base: None,
            base_len: 0,
            mtime: self.now(),
            ready: true,
        };
        self.engine().write_draft(node, expected, update, self.now()).map_err(|error| error.to_string())
    }

    /// Removes it and what is in it, as `rm -r` does.
    fn remove(&mut self, path: &str) -> Result<(), String> {
        let (node, (parent, name), now) = (self.find(path)?, self.place(path)?, self.now());
        let inside: Vec<String> = self.tree().children(node).map(|(name, _)| format!("{path}/{name}")).collect();
        inside.iter().try_for_each(|path| self.remove(path))?;
        let is_dir = self.tree().local(node).is_some_and(|state| state.kind() == NodeKind::Dir);
        self.engine().remove(parent, name.as_bytes(), is_dir, now).map(drop).map_err(|error| error.to_string())
    }

    fn rename(&mut self, from: &str, to: &str, mode: RenameMode) -> Result<(), String> {
        let ((parent, name), to, now) = (self.place(from)?, self.place(to)?, self.now());
        self.engine().rename((parent, name.as_bytes()), to, mode, now).map(drop).map_err(|error| error.to_string())
    }

    fn set_attrs(&mut self, path: &str, change: impl FnOnce(Attrs) -> Attrs) -> Result<(), String> {
        let (node, now) = (self.find(path)?, self.now());
        let attrs = self.tree().local(node).map(|state| state.attrs).ok_or("it is gone")?;
        self.engine().set_attrs(node, change(attrs), now).map_err(|error| error.to_string())
    }

    fn set_xattr(&mut self, path: &str, name: &str, value: &str) -> Result<(), String> {
        let (node, now) = (self.find(path)?, self.now());
        let mut xattrs = self.tree().local(node).map(|state| state.xattrs.clone()).ok_or("it is gone")?;
        xattrs.set(format!("user.{name}").as_bytes(), value.as_bytes()).map_err(|error| error.to_string())?;
        self.engine().set_xattrs(node, xattrs, now).map_err(|error| error.to_string())
    }

    pub(crate) fn show(&self, clocks: (i64, i64)) -> BTreeSet<String> {
        let engine = self.tree();
        let mut shown = BTreeSet::new();
        let mut todo = vec![(String::new(), NodeId::ROOT)];
        let mut first: BTreeMap<NodeId, String> = BTreeMap::new();
        while let Some((path, node)) = todo.pop() {
            for (name, child) in engine.children(node).filter(|(_, child)| !engine.stays_here(*child)) {
                let Some(state) = engine.local(child) else { continue };
                let path = if path.is_empty() { name.to_string() } else { format!("{path}/{name}") };
                let (text, usual) = match &state.body {
                    Body::Dir => (format!("{}/", plain(&path)), DIR_MODE),
                    Body::Symlink(target) => {
                        (format!("{}->{}", plain(&path), String::from_utf8_lossy(target.as_bytes())), 0o777)
                    }
                    Body::File(_) => (format!("{}={}", plain(&path), bytes_of(&state.body)), FILE_MODE),
                };
                if state.names.len() > 1 {
                    // The first path shows what it is, the others that they are names of the same.
                    let paths = first.entry(child).or_insert_with(|| self.first_path(state));
                    if *paths != path {
                        shown.insert(format!("{}&{}", plain(&path), plain(paths)));
                        continue;
                    }
                }
                let mode = if state.attrs.mode == usual { String::new() } else { format!(" [{:o}]", state.attrs.mode) };
                let owner = state.xattrs.owner().map(|owner| format!(" ({})", owner.uid)).unwrap_or_default();
                shown.insert(format!("{text}{mode}{owner}{}{}", shown_xattrs(state), touched(state, clocks)));
                todo.push((path, child));
            }
        }
        shown
    }
}

/// ` {name=value,…}` if there are any.
fn shown_xattrs(state: &syncmount_engine::State) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let shown = |(name, value): (&[u8], &[u8])| format!("{}={}", text(&name["user.".len()..]), text(value));
    let all: Vec<String> = state.xattrs.iter().map(shown).collect();
    if all.is_empty() { String::new() } else { format!(" {{{}}}", all.join(",")) }
}

/// Names that end in `~` stay on both devices.
fn apply_rules(engine: &mut Engine) {
    let is_ignored = |path: &[&Name], _: bool| path.iter().any(|name| name.as_bytes().ends_with(b"~"));
    engine.set_rules(Arc::new(is_ignored), engine.rules_version());
    while engine.rescope(1) {}
}

/// Who set the mtime of a file whose bytes are those from before.
fn touched(state: &syncmount_engine::State, (x, y): (i64, i64)) -> &'static str {
    let old = state.body.kind() == NodeKind::File && bytes_of(&state.body).chars().all(char::is_numeric);
    match state.attrs.mtime.0 {
        _ if !old => "",
        at if at == x && x == y => " @=",
        at if at == x => " @x",
        at if at == y => " @y",
        _ => "",
    }
}

/// The bytes of a content, which are one of few.
fn bytes_of(body: &Body) -> String {
    let known = ["x", "y", "z", "0", "1", "2", "3", "xx", "yy"];
    let hash = body.content_hash();
    let found = known.iter().find(|bytes| hash == Some(content_of(bytes.as_bytes()).hash));
    found.map_or_else(|| "?".to_owned(), |bytes| (*bytes).to_owned())
}

/// A path whose conflict notes name the device only.
fn plain(path: &str) -> String {
    let mut parts = path.split(" (conflict, ");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (note, rest) = part.split_once(')').unwrap_or((part, ""));
        let device = note.split(',').next().unwrap_or_default();
        plain = format!("{plain} (conflict {device}){rest}");
    }
    plain
}
