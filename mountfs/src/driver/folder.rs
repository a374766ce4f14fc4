//! Drafts whose bytes lie in a plain folder of the user's, and what is kept of that folder.
//!
//! Such a draft names an *item* of the folder in the place of a staging file. Its bytes are read where they are and copied
//! nowhere; whoever watches the folder says whether they still are what was seen. Items are kept beside the nodes, in the
//! same records, so that after a crash both fit each other.

use super::alike::{self, Credit, Former, Likely, Source};
use super::former::Places;
use super::{Client, ReadError, rows};
use crate::files::StagingFile;
use crate::store::{Record, STAGING_ID_MAX};
use crate::system::{at, files, holes};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::manifest::EXTENTS_MAX;
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest, NodeId, Timestamp};
use syncmount_engine::Engine;

/// Bytes of chunks that are asked for at a time.
const FETCH_LEN: u64 = 4 * 1024 * 1024;

/// How long one request for chunks may take.
const FETCH_PATIENCE: Duration = Duration::from_secs(120);

/// Files of which it is kept where their chunks are while another is put together.
const FORMERS_MAX: usize = 2;

/// What smaller contents consist of is told in a few hundred bytes.
const ALIKE_LEN_MIN: u64 = 4 * 1024 * 1024;

/// Older versions that are smaller are not worth reading.
pub(crate) const OLD_LEN_MIN: u64 = 256 * 1024;

/// A number of an item of a folder.
pub type ItemId = u64;

/// What is kept of an item: `None` removes it.
pub type ItemRow = (ItemId, Option<Vec<u8>>);

/// The folder, as far as reading drafts goes.
pub trait FolderBytes: Send + Sync {
    /// Opens an item for reading; `None` if it is not as it was seen, which will be told.
    fn open(&self, item: ItemId) -> io::Result<Option<File>>;
    /// Whether a file that [`FolderBytes::open`] gave is still the item, as it was seen. If not, it will be told.
    fn is_as_seen(&self, item: ItemId, file: &File) -> bool;
    /// The bytes of an item are this content, which the server has. Returns what is to be kept of that. Called under the
    /// engine's lock.
    fn settled(&self, item: ItemId, content: &ContentHash) -> Vec<ItemRow>;
    /// The bytes of an item are those of another node now.
    fn look_again(&self, node: NodeId);
    /// Files in which chunks of a content may be found that comes into the directory `dir`: one that is known to have all
    /// of them, and a few beside it of about its size. The likeliest first.
    fn alike(&self, dir: NodeId, content: &Content) -> Vec<(ItemId, ContentHash)>;
    /// Files that are known to have these contents, one for each that there is. Looks at every item.
    fn holders(&self, contents: &HashSet<ContentHash>) -> HashMap<ContentHash, ItemId>;
    /// A file that is known to have this content.
    fn content(&self, node: NodeId, content: &ContentHash) -> io::Result<Option<File>>;
}

/// The number that stands for an item in the place of a staging file.
pub const fn draft_of_item(item: ItemId) -> u64 {
    item | !STAGING_ID_MAX
}

/// The item that a draft's number stands for; `None` if it is a staging file.
pub const fn item_of_draft(id: u64) -> Option<ItemId> {
    if id > STAGING_ID_MAX { Some(id & STAGING_ID_MAX) } else { None }
}

impl Client {
    /// Says where the bytes of items are. To be called before the tasks are started, once.
    pub fn attach_folder(&self, folder: Arc<dyn FolderBytes>) {
        // A second folder for one client cannot be: its items are the first one's.
        let _ = self.folder.set(folder);
    }

    /// What was kept of items. Given out once.
    pub fn take_items(&self) -> Vec<(ItemId, Vec<u8>)> {
        std::mem::take(&mut *self.items.lock())
    }

    /// Changes the tree, with something of items in the same record. When this returns `Ok` both survive the end of this
    /// process.
    pub fn change_with_items<T>(
        &self,
        change: impl FnOnce(&mut Engine, Timestamp) -> (T, Vec<ItemRow>),
    ) -> io::Result<T> {
        let mut engine = self.engine.write();
        let (out, items) = change(&mut engine, super::now());
        let own = Record { rows: items.into_iter().map(rows::item).collect(), meta: Vec::new() };
        self.keep_with(&mut engine, own)?;
        drop(engine);
        self.woken();
        Ok(out)
    }

    /// Keeps something of items.
    pub fn keep_items(&self, items: Vec<ItemRow>) -> io::Result<()> {
        if items.is_empty() {
            return Ok(());
        }
        self.state.append(&Record { rows: items.into_iter().map(rows::item).collect(), meta: Vec::new() })
    }

    /// The next number of a state of a draft.
    pub fn draft_generation(&self) -> u64 {
        self.next_generation()
    }

    /// Reads the feed to its end, once, and merges it, without a word of this client to the server.
    pub fn read_feed(&self) -> Result<(), crate::ports::RemoteError> {
        loop {
            let ask = self.look(Engine::next_page);
            let changes = async { self.remote.changes(ask, Duration::ZERO, 0, None).await };
            let changes = self.runtime.block_on(changes)?;
            let mut engine = self.engine.write();
            let more = changes.page.more;
            engine.page(ask, changes.page);
            self.link.up();
            while engine.poll(super::now()).is_some() {}
            if let Some(unsound) = engine.unsound() {
                let why = format!("what the server says is no folder: {unsound}");
                return Err(crate::ports::RemoteError::Protocol(why));
            }
            if !more {
                return Ok(());
            }
        }
    }

    /// Waits until the server can be reached, or for so long; whether it can. Blocks.
    pub fn await_server(&self, limit: Duration) -> bool {
        self.link.is_reachable() || self.runtime.block_on(self.link.wait_reachable(limit))
    }

    /// Whether the last session ended with the machine, so that files may have lost what was not synced.
    pub fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// All that a power cut may have damaged has been looked at.
    pub fn end_suspicion(&self) -> io::Result<()> {
        if self.was_cut { self.state.end_suspicion() } else { Ok(()) }
    }

    /// Opens the bytes of a draft; `None` if they lie in the folder and are not what was seen.
    pub(super) fn draft_file(&self, id: u64) -> io::Result<Option<StagingFile>> {
        let Some(item) = item_of_draft(id) else {
            return Ok(Some(StagingFile { id, file: Arc::new(self.staging.file(id)?) }));
        };
        let Some(folder) = self.folder.get() else {
            return Err(io::Error::other("its bytes are in a folder that is not watched now"));
        };
        Ok(folder.open(item)?.map(|file| StagingFile { id, file: Arc::new(file) }))
    }

    /// Whether what was read of a draft is what was seen.
    pub(super) fn is_as_seen(&self, staging: Option<&StagingFile>) -> bool {
        let item = staging.and_then(|staging| Some((item_of_draft(staging.id)?, staging)));
        item.is_none_or(|(item, staging)| {
            self.folder.get().is_some_and(|folder| folder.is_as_seen(item, &staging.file))
        })
    }

    /// A draft of the folder whose bytes the server has is a clean file of the folder.
    pub(super) fn settle_item(&self, node: NodeId, generation: u64, content: &Content) -> io::Result<bool> {
        let draft = self.look(|engine| engine.local(node)?.body.draft().map(|draft| (draft.generation, draft.staging)));
        let Some((known, Some(id))) = draft else { return Ok(false) };
        let (Some(item), Some(folder)) = (item_of_draft(id), self.folder.get()) else { return Ok(false) };
        if known != generation {
            return Ok(true);
        }
        let settled = self.change_with_items(|engine, _| match engine.settle(node, generation) {
            Some(_) => (true, folder.settled(item, &content.hash)),
            None => (false, Vec::new()),
        })?;
        if settled {
            self.state.append(&rows::removed(id))?;
        }
        Ok(true)
    }

    pub(super) fn look_again(&self, node: NodeId) {
        if let Some(folder) = self.folder.get() {
            folder.look_again(node);
        }
    }

    /// Files of the folder that are known to have these contents, one for each that there is. Looks at every item.
    pub(super) fn holders(&self, contents: &HashSet<ContentHash>) -> HashMap<ContentHash, ItemId> {
        self.folder.get().map_or_else(HashMap::new, |folder| folder.holders(contents))
    }

    /// An item of the folder, if it is as it was seen.
    pub(super) fn open_item(&self, item: ItemId) -> io::Result<Option<File>> {
        self.folder.get().map_or(Ok(None), |folder| folder.open(item))
    }

    /// A file of the folder that has this content.
    pub(super) fn folder_file(&self, node: NodeId, content: &ContentHash) -> io::Result<Option<File>> {
        self.folder.get().map_or(Ok(None), |folder| folder.content(node, content))
    }
}

/// The chunks that a file still lacks, where each belongs, and what was seen of other files meanwhile.
struct Lacking {
    places: HashMap<ChunkHash, (u32, Vec<u64>)>,
    /// What has nothing more to give may be alike.
    formers: Vec<Former>,
}

impl Lacking {
    /// Writes a chunk wherever it belongs. Answers whether it was wanted.
    fn put(&mut self, mut out: &File, hash: &ChunkHash, raw: &[u8]) -> io::Result<bool> {
        let Some((_, offsets)) = self.places.remove(hash) else { return Ok(false) };
        for offset in offsets {
            out.seek(io::SeekFrom::Start(offset))?;
            out.write_all(raw)?;
        }
        Ok(true)
    }
}

impl Client {
    /// Writes a content into an empty file: chunks that an older version has are taken from it, others from the cache or the
    /// server. Every chunk is checked. Nothing of it goes into the cache. `known` is the content of the older version.
    pub fn write_content(
        self: &Arc<Self>,
        node: NodeId,
        content: &Content,
        out: &File,
        old: Option<File>,
        known: Option<ContentHash>,
    ) -> Result<(), ReadError> {
        let base = || self.manifest_alike(node, content, known);
        let manifest = self.manifest_like(content, base, Instant::now() + FETCH_PATIENCE)?;
        let mut lacking = Lacking { places: HashMap::new(), formers: Vec::new() };
        for (offset, extent) in manifest.with_offsets() {
            if let Extent::Chunk { hash, len } = extent {
                lacking.places.entry(hash).or_insert((len, Vec::new())).1.push(offset);
            }
        }
        let data = manifest.chunks().map(|(_, len)| u64::from(len)).sum();
        let _room = self.folder_space.promise(data, files::free_bytes_beside(out)?).map_err(ReadError::NoRoom)?;
        out.set_len(content.size)?;
        if let Some(old) = old {
            take_from_old(old, content.size, out, &mut lacking);
        }
        self.take_from_cache(content, &manifest, out, &mut lacking)?;
        if content.size >= OLD_LEN_MIN && !lacking.places.is_empty() {
            self.take_from_alike(node, content, out, &mut lacking);
        }
        self.fetch_lacking(&manifest, out, &mut lacking)
    }

    /// The manifest of the older version, or of a file beside it that may be the one that is replaced.
    fn manifest_alike(&self, node: NodeId, content: &Content, known: Option<ContentHash>) -> Option<Arc<Manifest>> {
        if content.size < ALIKE_LEN_MIN || !self.remote.gives_deltas() {
            return None;
        }
        let older = known.and_then(|hash| self.manifests.known(&hash));
        older.or_else(|| self.alike(node, content).into_iter().find_map(|(_, hash)| self.manifests.known(&hash)))
    }

    fn alike(&self, node: NodeId, content: &Content) -> Vec<(ItemId, ContentHash)> {
        let Some(folder) = self.folder.get() else { return Vec::new() };
        let dir = self.look(|engine| Some(engine.local(node)?.names.first()?.parent));
        dir.map_or(Vec::new(), |dir| folder.alike(dir, content))
    }

    /// Copies, and what programs save by writing it beside the old version, need not come over the wire.
    fn take_from_alike(&self, node: NodeId, content: &Content, out: &File, lacking: &mut Lacking) {
        let Some(folder) = self.folder.get() else { return };
        for (item, hash) in self.alike(node, content) {
            let shares = hash == content.hash
                || self
                    .manifests
                    .known(&hash)
                    .is_some_and(|manifest| manifest.chunks().any(|(chunk, _)| lacking.places.contains_key(&chunk)));
            match shares.then(|| folder.open(item)) {
                Some(Ok(Some(file))) => take_from_old(file, content.size, out, lacking),
                Some(Err(error)) => tracing::debug!(%error, "chunks cannot be taken from a file that has them"),
                Some(Ok(None)) | None => {}
            }
            if lacking.places.is_empty() {
                break;
            }
        }
    }

    fn take_from_cache(
        &self,
        content: &Content,
        manifest: &Manifest,
        out: &File,
        lacking: &mut Lacking,
    ) -> io::Result<()> {
        if self.cache.get(&content.hash).is_none() {
            return Ok(());
        }
        for (offset, extent) in manifest.with_offsets() {
            let Extent::Chunk { hash, len } = extent else { continue };
            if !lacking.places.contains_key(&hash) {
                continue;
            }
            let mut raw = vec![0; len as usize];
            if self.read_local(content, offset, &mut raw)? == Some(raw.len()) && hash.matches(&raw) {
                lacking.put(out, &hash, &raw)?;
            }
        }
        Ok(())
    }

    fn fetch_lacking(
        self: &Arc<Self>,
        manifest: &Manifest,
        out: &File,
        lacking: &mut Lacking,
    ) -> Result<(), ReadError> {
        let wanted: Vec<(ChunkHash, u32)> = manifest.chunks().collect();
        let credit = Mutex::default();
        let mut at = 0;
        while !lacking.places.is_empty() {
            let (mut chunks, mut hashes, mut bytes) = (Vec::new(), HashSet::new(), 0);
            while at < wanted.len() && bytes < FETCH_LEN {
                let (hash, len) = wanted[at];
                if lacking.places.contains_key(&hash) && hashes.insert(hash) {
                    chunks.push((hash, len));
                    bytes += u64::from(len);
                }
                at += 1;
            }
            if chunks.is_empty() {
                return Err(ReadError::Unavailable("it did not send all of the bytes".into()));
            }
            let likely = match self.remote.gives_deltas() {
                true => alike::likely(manifest, &chunks, &lacking.formers, &credit, |_, _| true),
                false => Vec::new(),
            };
            self.fetch_batch(&chunks, likely, &credit, out, lacking)?;
        }
        Ok(())
    }

    fn fetch_batch(
        self: &Arc<Self>,
        chunks: &[(ChunkHash, u32)],
        likely: Vec<Likely>,
        credit: &Mutex<Credit>,
        out: &File,
        lacking: &mut Lacking,
    ) -> Result<(), ReadError> {
        let chunks: Vec<ChunkHash> = chunks.iter().map(|(hash, _)| *hash).collect();
        let mut sink = |hash: ChunkHash, raw: Vec<u8>| lacking.put(out, &hash, &raw).map(drop);
        let fetch = async {
            let fetch = self.fetch_told(&chunks, likely, credit, &mut sink);
            tokio::time::timeout(FETCH_PATIENCE, fetch).await
        };
        match self.runtime.block_on(fetch) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(crate::ports::RemoteError::Local(error))) => Err(error.into()),
            Ok(Err(error)) if error.is_retryable() => {
                self.note_failed(&error);
                Err(ReadError::Unreachable)
            }
            Ok(Err(error)) => Err(ReadError::Unavailable(error.to_string())),
            Err(_) => Err(ReadError::Unreachable),
        }
    }
}

/// Takes the chunks that are wanted from another file. One that cannot be read, on a disk that fails perhaps, must not keep
/// the new one away: what it does not give is fetched.
fn take_from_old(old: File, new_len: u64, out: &File, lacking: &mut Lacking) {
    match cut_anew(&old, new_len, out, lacking) {
        Ok(extents) if lacking.places.is_empty() || lacking.formers.len() >= FORMERS_MAX || extents.is_empty() => {}
        Ok(extents) => match Manifest::new(extents) {
            Ok(manifest) => {
                let places = Arc::new(Places::new(&manifest));
                lacking.formers.push(Former::new(Source::File(Arc::new(old)), &manifest, places));
            }
            Err(error) => tracing::debug!(%error, "a file that has chunks of another is not compared with it"),
        },
        Err(error) => {
            tracing::warn!(%error, "a file that has chunks of another cannot be read; they are fetched");
        }
    }
}

/// Answers with all chunks of the other file, none if it is not worth reading.
fn cut_anew(old: &File, new_len: u64, out: &File, lacking: &mut Lacking) -> io::Result<Vec<Extent>> {
    let mut extents = Vec::new();
    if old.metadata()?.len() < OLD_LEN_MIN {
        return Ok(extents);
    }
    let mut chunker = Chunker::new(ChunkSizes::for_content(new_len));
    let mut take = |extents: &mut Vec<Extent>, chunk: &[u8]| {
        let hash = ChunkHash::of(chunk);
        if extents.len() < EXTENTS_MAX {
            extents.push(Extent::Chunk { hash, len: chunk.len() as u32 });
        }
        lacking.put(out, &hash, chunk).map(drop)
    };
    let mut buf = Vec::new();
    for part in holes::parts(old, 0..old.metadata()?.len()) {
        let (part, is_hole) = part?;
        if is_hole {
            // What lies behind it was cut as the begin of a file is.
            chunker.finish(|chunk| take(&mut extents, chunk))?;
            if extents.len() < EXTENTS_MAX {
                extents.push(Extent::Hole { len: part.end - part.start });
            }
            continue;
        }
        buf.resize((part.end - part.start) as usize, 0);
        at::read_exact_at(old, &mut buf, part.start)?;
        chunker.push(&buf, |chunk| take(&mut extents, chunk))?;
    }
    chunker.finish(|chunk| take(&mut extents, chunk))?;
    Ok(extents)
}
