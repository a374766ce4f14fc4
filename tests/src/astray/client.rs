//! The client of a run, one step at a time: the watch mode's own code and the engine. What the driver does between them and
//! the server is retold here.

use super::ground::Ground;
use super::liar::{Liar, Refusal};
use crate::pairs_folder::Shared;
use crate::sim::bytes::{content_of, sealed};
use crate::sim::server::Server;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use syncmount::driver::{FolderBytes, ItemRow, item_of_draft};
use syncmount::watch::{Folder, Host, Job, Part, Told};
use syncmount_common::protocol::changes::{ChangesPage, Device};
use syncmount_common::protocol::commit::{CommitRequest, ConflictDetails};
use syncmount_common::{ChunkHash, Content, ContentHash, DeviceId, Extent, Manifest, NodeId, Timestamp, envelope};
use syncmount_engine::{CommitAnswer, Effect, Engine, Identity, PrepareAnswer, Restored};
use syncmount_server::service::ServiceError;

/// Effects that are carried out in one step.
const EFFECTS_MAX: usize = 200;

/// What the run and its client have in common.
pub(super) type Both<T> = Rc<RefCell<T>>;

/// Between any two things that the folder does with its tree, something may happen on the disk.
#[derive(Clone)]
struct Watched {
    shared: Shared,
    ground: Both<Ground>,
    server: Both<Server>,
    liar: Both<Liar>,
}

impl Watched {
    fn between(&self) {
        self.ground.borrow_mut().between();
    }
}

impl Host for Watched {
    fn look<T>(&self, look: impl FnOnce(&Engine) -> T) -> T {
        self.between();
        self.shared.look(look)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Engine, Timestamp) -> (T, Vec<ItemRow>)) -> io::Result<T> {
        self.between();
        self.shared.change(change)
    }

    fn keep(&self, rows: Vec<ItemRow>) -> io::Result<()> {
        self.between();
        let kept = self.shared.keep(rows);
        self.between();
        kept
    }

    fn next_generation(&self) -> u64 {
        self.shared.next_generation()
    }

    fn manifest(&self, content: &Content) -> Option<Arc<Manifest>> {
        self.between();
        let told = content.manifest.clone().map(Arc::new);
        told.or_else(|| {
            let bytes = self.server.borrow().bytes(content.hash).ok();
            let bytes = bytes.filter(|_| self.liar.borrow_mut().has_manifest())?;
            manifest_of(&bytes, content.hash).map(Arc::new)
        })
    }
}

/// The same bytes as one chunk, as the watch mode itself cuts what is short.
fn whole(bytes: &[u8]) -> Manifest {
    let chunk = Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
    let extents = if bytes.is_empty() { Vec::new() } else { vec![chunk] };
    Manifest::new(extents).unwrap_or_default()
}

/// Bytes as a content of this name, if they can be cut so.
pub(super) fn manifest_of(bytes: &[u8], hash: ContentHash) -> Option<Manifest> {
    [content_of(bytes).manifest, Some(whole(bytes))].into_iter().flatten().find(|cut| cut.content_hash() == hash)
}

/// What is on its way into the folder.
struct Coming {
    job: Job,
    file: Option<io::Result<File>>,
}

fn engine(number: u64) -> Engine {
    let device = Device { id: DeviceId::new_v7(number, &[2; 10]), name: "y".to_owned() };
    let mut engine = Engine::new(Identity { device, seed: number }, Restored::default());
    engine.remember_authors();
    engine
}

/// One client.
pub(super) struct Client {
    pub(super) shared: Shared,
    host: Watched,
    folder: Folder<Watched>,
    bytes: Arc<dyn FolderBytes>,
    told: Arc<Mutex<Vec<Told>>>,
    coming: Vec<Coming>,
    /// A commit without an answer so far.
    sending: Option<CommitRequest>,
    root: PathBuf,
    /// The pages keep what they tell of the SHA-256 of whole files, as states of earlier versions do.
    keeps_told: bool,
    /// How often what the server said was no folder, or no page.
    pub(super) disbelieved: u64,
}

impl Client {
    pub(super) fn new(
        seed: u64,
        now: i64,
        (ground, server, liar): (Both<Ground>, Both<Server>, Both<Liar>),
    ) -> io::Result<Self> {
        let shared = Shared {
            engine: Rc::new(RefCell::new(engine(2))),
            clock: Rc::new(Cell::new(now)),
            next: Rc::default(),
            kept: Rc::default(),
            lives: Rc::default(),
        };
        let root = ground.borrow().root();
        let host = Watched { shared: shared.clone(), ground, server, liar };
        let folder = Folder::new(host.clone(), &root, Vec::new())?;
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let tell = told.clone();
        let bytes = folder.bytes(move |what| tell.lock().expect("the lock is never poisoned").push(what));
        let keeps_told = !seed.is_multiple_of(4);
        let (coming, sending, disbelieved) = (Vec::new(), None, 0);
        let client = Self { shared, host, folder, bytes, told, coming, sending, root, keeps_told, disbelieved };
        client.apply_rules();
        Ok(client)
    }

    /// Everything is shared.
    fn apply_rules(&self) {
        let mut engine = self.shared.engine.borrow_mut();
        let version = engine.rules_version();
        engine.set_rules(Arc::new(|_: &[&syncmount_common::Name], _| false), version);
        while engine.rescope(1) {}
    }

    fn now(&self) -> Timestamp {
        Timestamp(self.shared.clock.get())
    }

    /// It can always say what it is at, whatever it was told.
    pub(super) fn status(&self) -> String {
        let engine = self.shared.engine.borrow();
        let problems: Vec<_> = engine.problems().map(|(_, why)| why.to_owned()).collect();
        let unsound = engine.unsound().map(ToString::to_string);
        format!(
            "{:?} {:?} {:?} {:?} {problems:?} {unsound:?}",
            self.folder.backlog(),
            self.folder.reasons(),
            engine.pending(),
            engine.cursor().map(|cursor| cursor.seq)
        )
    }

    /// Looks at everything, and tells the tree.
    pub(super) fn look(&mut self) -> io::Result<()> {
        self.folder.look().map(drop)
    }

    /// Brings the disk to what the tree shows, as far as that can be done now.
    pub(super) fn work(&mut self) -> io::Result<()> {
        for told in std::mem::take(&mut *self.told.lock().map_err(|error| io::Error::other(error.to_string()))?) {
            if let Told::Node(node) = told {
                self.folder.node_changed(node);
            }
        }
        self.folder.retry_all();
        let worked = self.folder.work();
        self.coming.extend(self.folder.take_jobs().into_iter().map(|job| Coming { job, file: None }));
        worked
    }

    pub(super) fn compare(&mut self) {
        self.folder.compare_all();
    }

    /// One of the contents on their way goes one step on: its file is made, or it is filled and takes its place. Returns
    /// whether there was one.
    pub(super) fn fetch(&mut self, which: u64) -> bool {
        if self.coming.is_empty() {
            return false;
        }
        let which = which as usize % self.coming.len();
        if self.coming[which].file.is_none() {
            self.coming[which].file = Some(Part::begin(&self.coming[which].job));
            return true;
        }
        let Coming { job, file } = self.coming.swap_remove(which);
        let result = match file {
            Some(Ok(file)) => {
                let filled = self.fill(&job, &file);
                self.host.between();
                let made = filled.and_then(|()| Part::finish(&job, &file).map_err(|error| error.to_string()));
                made.inspect_err(|_| Part::clear(&job))
            }
            Some(Err(error)) => Err(error.to_string()),
            None => return true,
        };
        self.host.between();
        self.folder.put_together(&job, &result);
        true
    }

    /// As the driver does: each chunk is checked against the manifest, which is what names the content.
    fn fill(&self, job: &Job, mut file: &File) -> Result<(), String> {
        let honest = self.host.server.borrow().bytes(job.content.hash).map_err(|error| error.to_string())?;
        let manifest = job.content.manifest.clone().or_else(|| manifest_of(&honest, job.content.hash));
        let manifest = manifest.ok_or("its manifest cannot be had")?;
        if manifest.size() != job.content.size {
            self.shared.engine.borrow_mut().measured(&job.content.hash, manifest.size());
            return Err("its manifest has another size".to_owned());
        }
        let bytes = self.host.liar.borrow_mut().body(honest);
        for (offset, extent) in manifest.with_offsets() {
            let Extent::Chunk { hash, len } = extent else { continue };
            let end = offset as usize + len as usize;
            let chunk = bytes.get(offset as usize..end).ok_or("it is too short")?;
            if !hash.matches(chunk) {
                return Err("a chunk does not have the hash it is named by".to_owned());
            }
            file.write_all(chunk).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Does what the engine wants to be done.
    pub(super) fn carry_out(&mut self) -> Result<(), String> {
        let now = self.now();
        for _ in 0..EFFECTS_MAX {
            let effect = self.shared.engine.borrow_mut().poll(now);
            let Some(effect) = effect else { break };
            match effect {
                Effect::Prepare { node, generation, upload } => {
                    let answer = self.prepare(node, generation, upload);
                    self.shared.engine.borrow_mut().prepared(node, generation, answer, now);
                }
                Effect::Settle { node, generation, content } => {
                    let settled = self.shared.engine.borrow_mut().settle(node, generation);
                    if let Some(Some(staging)) = settled
                        && let Some(item) = item_of_draft(staging)
                    {
                        let rows = self.bytes.settled(item, &content.hash);
                        self.enter(rows);
                    }
                }
                Effect::Supply { node, content } => self.supply(node, &content),
                Effect::DropStaging(_) => {}
                Effect::ReadRules => self.apply_rules(),
                Effect::DraftMoved { to: node, .. } => self.folder.node_changed(node),
                Effect::Changed(changed) => self.folder.node_changed(changed.node),
            }
        }
        let mut engine = self.shared.engine.borrow_mut();
        engine.take_record();
        engine.check();
        Ok(())
    }

    fn enter(&self, rows: Vec<ItemRow>) {
        let mut kept: std::cell::RefMut<'_, BTreeMap<_, _>> = self.shared.kept.borrow_mut();
        for (id, row) in rows {
            match row {
                Some(row) => drop(kept.insert(id, row)),
                None => drop(kept.remove(&id)),
            }
        }
    }

    fn prepare(&self, node: NodeId, generation: u64, upload: bool) -> PrepareAnswer {
        let draft = self.shared.engine.borrow().local(node).and_then(|state| state.body.draft().cloned());
        let Some(draft) = draft.filter(|draft| draft.generation == generation) else { return PrepareAnswer::Outdated };
        let Some(item) = draft.staging.and_then(item_of_draft) else {
            return PrepareAnswer::Failed("it is no file of the folder".to_owned());
        };
        let mut bytes = Vec::new();
        let is_read = match self.bytes.open(item) {
            Ok(Some(mut file)) => file.read_to_end(&mut bytes).is_ok() && self.bytes.is_as_seen(item, &file),
            _ => false,
        };
        if !is_read || bytes.len() as u64 != draft.size {
            return PrepareAnswer::Moving;
        }
        let content = match draft.prepared.filter(|_| !upload) {
            Some(content) if manifest_of(&bytes, content.hash).is_some() => Content::clone(&content),
            _ => content_of(&bytes),
        };
        match self.put(&bytes) {
            Ok(()) => PrepareAnswer::Ready(Arc::new(content)),
            Err(error) => PrepareAnswer::Failed(error.to_string()),
        }
    }

    /// The server gets the chunks of these bytes, however they are cut.
    fn put(&self, bytes: &[u8]) -> Result<(), ServiceError> {
        let mut chunks = sealed(bytes);
        if !bytes.is_empty() {
            chunks.push((ChunkHash::of(bytes), Bytes::from(envelope::seal(bytes))));
        }
        let once: BTreeMap<_, _> = chunks.into_iter().collect();
        self.host.server.borrow().put(once.into_iter().collect())
    }

    fn supply(&self, node: NodeId, content: &Content) {
        let known = self.host.server.borrow().bytes(content.hash).ok();
        let here = || {
            let mut bytes = Vec::new();
            let mut file = self.bytes.content(node, &content.hash).ok()??;
            file.read_to_end(&mut bytes).ok().map(|_| bytes)
        };
        let Some(bytes) = known.or_else(here) else { return };
        let Some(manifest) = manifest_of(&bytes, content.hash) else { return };
        if self.put(&bytes).is_ok() {
            let content = Content { manifest: Some(manifest), ..content.clone() };
            self.shared.engine.borrow_mut().supplied(node, &Arc::new(content));
        }
    }

    /// Sends what there is to send, once. `is_lost`: the answer does not arrive.
    pub(super) fn commit(&mut self, is_lost: bool) {
        let now = self.now();
        let fresh = || self.shared.engine.borrow_mut().next_commit(now);
        let Some(request) = self.sending.take().or_else(fresh) else { return };
        let answer = self.host.server.borrow_mut().commit(&request, &[]);
        if is_lost {
            self.sending = Some(request);
            return;
        }
        let answer = match answer {
            Ok(done) => CommitAnswer::Committed(done),
            Err(ServiceError::Conflict(conflicts)) => CommitAnswer::Conflict(ConflictDetails { conflicts }),
            Err(ServiceError::Missing(missing)) => CommitAnswer::Missing(missing),
            Err(ServiceError::Resync(_) | ServiceError::UnprovenCursor) => CommitAnswer::Resync,
            Err(error) => CommitAnswer::Rejected(error.to_string()),
        };
        let answer = self.host.liar.borrow_mut().answer(answer);
        self.shared.engine.borrow_mut().committed(request.op_id, answer, now);
    }

    /// Asks for one page. Returns whether the server had something to say.
    pub(super) fn listen(&mut self) -> bool {
        if self.shared.engine.borrow().has_news() {
            return false;
        }
        let ask = self.shared.engine.borrow().next_page();
        let answered = self.host.server.borrow().changes(ask, 5);
        let Ok(page) = answered else {
            self.shared.engine.borrow_mut().begin_resync();
            return true;
        };
        match self.host.liar.borrow_mut().page(page) {
            Err(Refusal::Silence) => return false,
            Err(Refusal::Resync) => self.shared.engine.borrow_mut().begin_resync(),
            Ok(page) => {
                let is_news = !page.nodes.is_empty() || ask.since != Some(page.cursor) || page.more;
                let wanted = self.shared.engine.borrow().wants_page_now();
                if !is_news && !wanted {
                    return false;
                }
                let Some(page) = self.checked(page) else {
                    self.disbelieved += 1;
                    return false;
                };
                self.shared.engine.borrow_mut().page(ask, page);
            }
        }
        self.disbelieved += u64::from(self.shared.engine.borrow().unsound().is_some());
        true
    }

    /// What the client's remote side leaves of a page.
    fn checked(&self, mut page: ChangesPage) -> Option<ChangesPage> {
        for node in &mut page.nodes {
            let Some(content) = node.content.take() else { continue };
            let told = content.sha256.filter(|_| self.keeps_told && content.manifest.is_none());
            let content = content.checked().ok()?;
            node.content = Some(Content { sha256: told.or(content.sha256), ..content });
        }
        Some(page)
    }

    /// What failed is due again.
    pub(super) fn tick(&self) {
        let now = self.now();
        self.shared.engine.borrow_mut().tick(now);
    }

    /// The process is killed after `lives` more records.
    pub(super) fn shall_live(&self, lives: Option<u32>) {
        self.shared.lives.set(lives);
    }

    /// If the process was killed, it starts again with what was kept.
    pub(super) fn restart_if_killed(&mut self) -> Result<bool, String> {
        if self.shared.lives.get() != Some(0) {
            return Ok(false);
        }
        self.shared.lives.set(None);
        self.start().map(|()| true)
    }

    /// Starts with what was kept.
    pub(super) fn start(&mut self) -> Result<(), String> {
        self.coming.clear();
        let rows = self.shared.kept.borrow().iter().map(|(id, row)| (*id, row.clone())).collect();
        self.folder = Folder::new(self.host.clone(), &self.root, rows).map_err(|error| error.to_string())?;
        let tell = self.told.clone();
        self.bytes = self.folder.bytes(move |what| tell.lock().expect("the lock is never poisoned").push(what));
        self.folder.compare_all();
        Ok(())
    }

    /// What the server said, and what was believed of it, keeps the client from going on: its status says so.
    pub(super) fn is_stuck(&self) -> bool {
        let engine = self.shared.engine.borrow();
        let is_told = |why: &str| why.contains("lacks its bytes") || why.contains("keeps its kind");
        engine.unsound().is_some() || engine.problems().any(|(_, why)| is_told(why))
    }

    /// Its user starts again: the folder as it is joins, and nothing that was told before is known.
    pub(super) fn join_anew(&mut self) -> Result<(), String> {
        *self.shared.engine.borrow_mut() = engine(3);
        self.apply_rules();
        self.shared.kept.borrow_mut().clear();
        (self.sending, self.coming) = (None, Vec::new());
        self.start()
    }

    /// Nothing is left to be done or said, with the server's history ending at `end`.
    pub(super) fn is_at_rest(&self, end: u64) -> bool {
        let engine = self.shared.engine.borrow();
        let has_said_all = !engine.has_work() && !engine.wants_page_now() && self.sending.is_none();
        has_said_all
            && self.coming.is_empty()
            && self.folder.is_at_rest()
            && engine.cursor().is_some_and(|at| at.seq == end)
    }
}
