//! From the bytes of a draft to a content: cut, hash, and see to it that the server has the chunks.
//!
//! Runs on threads of its own with bounded memory: a file of any size passes through a few buffers. A file that was
//! written meanwhile is noticed by its generation and taken again.

use super::{
    Client,
    ahead::Ahead,
    content::ReadError,
    known::{Beneath, Similar},
};
use crate::files::{Backing, Overlay, Run, Segment};
use crate::ports::{RemoteError, Scope};
use crate::system::holes;
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::hash::FileHasher;
use syncmount_common::{ChunkHash, Content, Extent, FileHash, Manifest, NodeId, envelope};
use syncmount_engine::{Body, FileBody, INLINE_FILE_MAX, PrepareAnswer};

/// Bytes read at a time.
const READ_LEN: usize = 1024 * 1024;

/// Files of which it is remembered how much of them the server has.
const ADVANCES_MAX: usize = 4096;
/// Raw bytes of chunks that go into one upload.
const UPLOAD_LEN: usize = 4 * 1024 * 1024;

/// Uploads of one file that run at the same time.
const UPLOADS_MAX: usize = 3;

/// A file with more bytes in holes has no SHA-256 here: a hole costs one step, however long it is.
pub(super) const HASHED_HOLES_MAX: u64 = 256 * 1024 * 1024;

/// How long bytes beneath a draft are waited for, at a time.
const BASE_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub(super) enum PrepareError {
    #[error("it was written meanwhile")]
    Outdated,
    #[error("it is not as it was seen in the folder")]
    Moving,
    #[error(transparent)]
    Read(#[from] ReadError),
    #[error(transparent)]
    Remote(#[from] RemoteError),
    #[error("the server cannot be reached")]
    Away,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is too large to be described")]
    Manifest(#[from] syncmount_common::manifest::ManifestError),
}

impl Client {
    /// Does what [`syncmount_engine::Effect::Prepare`] asks for. Blocks; to be called on a thread that may.
    pub(super) fn prepare(self: &Arc<Self>, node: NodeId, generation: u64, upload: bool) -> PrepareAnswer {
        let result = self.snapshot(node, generation).and_then(|overlay| {
            let content = self.cut(node, generation, &overlay, upload)?;
            self.require_unchanged(node, generation)?;
            if self.is_as_seen(overlay.staging.as_ref()) { Ok(content) } else { Err(PrepareError::Moving) }
        });
        if result.is_err() {
            self.advances.lock().remove(&node);
        }
        match result {
            Ok(content) => PrepareAnswer::Ready(Arc::new(content)),
            Err(PrepareError::Moving) => PrepareAnswer::Moving,
            // Cut shorter while it was read, for example: what went wrong is not what will be sent.
            Err(_) if self.require_unchanged(node, generation).is_err() => PrepareAnswer::Outdated,
            Err(PrepareError::Remote(error)) => self.not_sent(&error),
            // A file that ended early although it is what it was is read again later, not at once.
            Err(PrepareError::Outdated | PrepareError::Away | PrepareError::Read(ReadError::Unreachable)) => {
                PrepareAnswer::Unreachable
            }
            Err(error) => PrepareAnswer::Failed(error.to_string()),
        }
    }

    /// What becomes of a draft whose bytes the server did not take.
    fn not_sent(&self, error: &RemoteError) -> PrepareAnswer {
        match error {
            error if error.scope() != Scope::Subject => {
                self.link.down(error);
                PrepareAnswer::Unreachable
            }
            RemoteError::StorageFull => PrepareAnswer::Full(error.to_string()),
            RemoteError::TooLarge(reason) => PrepareAnswer::TooLarge(reason.clone()),
            RemoteError::Busy | RemoteError::CutShort(_) => PrepareAnswer::Unreachable,
            error => PrepareAnswer::Failed(error.to_string()),
        }
    }

    /// After an attempt in vain a draft rests for a while, and until the server is there.
    pub(super) async fn rest_if_stumbled(&self, node: NodeId, answer: &PrepareAnswer) {
        if *answer != PrepareAnswer::Unreachable {
            self.stumbles.lock().remove(&node);
            return;
        }
        let random = self.random();
        let wait = self.stumbles.lock().entry(node).or_default().failed(random);
        tokio::time::sleep(wait).await;
        self.link.wait_reachable(super::pump::AWAY).await;
    }

    fn snapshot(&self, node: NodeId, generation: u64) -> Result<Overlay, PrepareError> {
        if let Some(file) = self.files.get(node) {
            let inner = file.inner.read();
            return match &inner.backing {
                Backing::Draft(overlay) if inner.generation == generation => Ok(overlay.clone()),
                _ => Err(PrepareError::Outdated),
            };
        }
        let state = self.look(|engine| engine.local(node).cloned()).ok_or(PrepareError::Outdated)?;
        let Body::File(FileBody::Draft(draft)) = &state.body else { return Err(PrepareError::Outdated) };
        if draft.generation != generation {
            return Err(PrepareError::Outdated);
        }
        let staging = match draft.staging {
            Some(id) => Some(self.draft_file(id)?.ok_or(PrepareError::Moving)?),
            None => None,
        };
        Ok(Overlay::restore(draft, staging))
    }

    fn require_unchanged(&self, node: NodeId, generation: u64) -> Result<(), PrepareError> {
        let current = match self.files.get(node) {
            Some(file) => Some(file.inner.read().generation),
            None => self.look(|engine| Some(engine.local(node)?.body.draft()?.generation)),
        };
        if current == Some(generation) { Ok(()) } else { Err(PrepareError::Outdated) }
    }

    fn cut(
        self: &Arc<Self>,
        node: NodeId,
        generation: u64,
        overlay: &Overlay,
        upload: bool,
    ) -> Result<Content, PrepareError> {
        if let Some(known) = overlay.is_all_of().filter(|_| !upload) {
            // A copy of what the server has.
            return Ok(Content::clone(known));
        }
        let upload_all = upload || overlay.size > INLINE_FILE_MAX;
        let beneath = overlay.base.as_ref().filter(|_| upload_all && !upload);
        let beneath = beneath.and_then(|base| self.manifest_here(base)).map(Beneath::new);
        if upload {
            // The server has said that it lacks something.
            self.known.forget();
            self.forget_ahead(overlay);
        }
        let unchanged = || self.require_unchanged(node, generation);
        let ahead = if upload_all && !upload { self.take_ahead(overlay, unchanged)? } else { None };
        let mut cutter = Cutter::new(self, overlay, upload_all, beneath);
        cutter.cut.advance = Some(Advance { client: self, node, generation });
        cutter.holes = self.holes_beneath(overlay)?;
        match (self.reusable(overlay)?, &ahead) {
            (Some(base), _) => cutter.change(&base, unchanged)?,
            (None, Some((ahead, _))) => cutter.rest(ahead, unchanged)?,
            (None, None) => cutter.whole(unchanged)?,
        }
        let (manifest, sha256) = cutter.finish()?;
        let content = Content::of(manifest, sha256);
        if let Some(manifest) = &content.manifest
            && manifest.extents().len() > syncmount_common::node::INLINE_EXTENTS_MAX
        {
            self.manifests.remember(content.hash, Arc::new(manifest.clone()))?;
        }
        Ok(content)
    }

    /// The long holes of the content beneath. A large one is not read without knowing them.
    pub(super) fn holes_beneath(&self, overlay: &Overlay) -> Result<Vec<Range<u64>>, PrepareError> {
        let Some(base) = overlay.base.as_ref().filter(|_| !overlay.is_self_contained()) else { return Ok(Vec::new()) };
        let manifest = match self.manifest_here(base) {
            None if base.size > HASHED_HOLES_MAX => Some(self.manifest(base, Instant::now() + BASE_PATIENCE)?),
            here => here,
        };
        Ok(manifest.map(|manifest| holes_of(&manifest)).unwrap_or_default())
    }

    /// The manifest beneath, if cutting only what changed spares fetching the rest.
    fn reusable(&self, overlay: &Overlay) -> Result<Option<Arc<Manifest>>, PrepareError> {
        let Some(base) = overlay.base.as_ref().filter(|_| !overlay.is_self_contained()) else { return Ok(None) };
        let whole_here = self.cache.get(&base.hash).is_some_and(|entry| entry.is_whole());
        if whole_here || ChunkSizes::for_content(base.size) != ChunkSizes::for_content(overlay.size) {
            return Ok(None);
        }
        Ok(Some(self.manifest(base, Instant::now() + BASE_PATIENCE)?))
    }
}

/// Cuts one draft.
pub(super) struct Cutter<'a> {
    client: &'a Arc<Client>,
    overlay: &'a Overlay,
    sizes: ChunkSizes,
    chunker: Chunker,
    hashed_holes: u64,
    /// The long holes of the content beneath, in order.
    pub(super) holes: Vec<Range<u64>>,
    cut: Cut<'a>,
}

/// What was cut so far.
struct Cut<'a> {
    extents: Vec<Extent>,
    /// Where the next extent begins.
    at: u64,
    hasher: Option<FileHasher>,
    /// How many bytes the hasher has been given; nothing before `at` is missing.
    hashed: u64,
    uploads: Uploads<'a>,
    /// Told how far the server has the file, if anything is to know.
    advance: Option<Advance<'a>>,
}

/// Says how many bytes from the start of a file the server has, from its begin on until it has the file.
struct Advance<'a> {
    client: &'a Client,
    node: NodeId,
    generation: u64,
}

impl Advance<'_> {
    fn note(&self, bytes: u64) {
        let mut advances = self.client.advances.lock();
        if advances.len() < ADVANCES_MAX || advances.contains_key(&self.node) {
            advances.insert(self.node, (self.generation, bytes));
        }
    }
}

impl Cut<'_> {
    fn chunk(&mut self, chunk: &[u8]) -> Result<(), PrepareError> {
        let hash = ChunkHash::of(chunk);
        self.feed(chunk);
        let at = self.at;
        self.at += chunk.len() as u64;
        self.extents.push(Extent::Chunk { hash, len: chunk.len() as u32 });
        self.uploads.take(hash, at, chunk)?;
        self.note_advance();
        Ok(())
    }

    /// Everything before `at` is at the server, but for what is on its way.
    fn note_advance(&self) {
        if let Some(advance) = self.advance.as_ref().filter(|_| self.uploads.upload) {
            advance.note(self.at.saturating_sub(self.uploads.on_their_way()));
        }
    }

    /// The next bytes of the file, as far as they are not hashed yet.
    fn feed(&mut self, bytes: &[u8]) {
        let known = self.hashed.saturating_sub(self.at).min(bytes.len() as u64);
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes[known as usize..]);
        }
        self.hashed = self.hashed.max(self.at + bytes.len() as u64);
    }

    fn feed_zeros(&mut self, len: u64) {
        if let Some(hasher) = &mut self.hasher {
            let zeros = vec![0; READ_LEN];
            let mut left = len - self.hashed.saturating_sub(self.at).min(len);
            while left > 0 {
                let now = left.min(READ_LEN as u64);
                hasher.update(&zeros[..now as usize]);
                left -= now;
            }
        }
        self.hashed = self.hashed.max(self.at + len);
    }

    /// An extent that is known without its bytes.
    fn known(&mut self, extent: Extent) {
        if let Extent::Chunk { hash, .. } = &extent {
            self.uploads.pass(hash, self.at);
        }
        self.at += extent.len();
        match (self.extents.last_mut(), extent) {
            (Some(Extent::Hole { len: before }), Extent::Hole { len }) => *before += len,
            (_, extent) => self.extents.push(extent),
        }
        self.note_advance();
    }
}

impl<'a> Cutter<'a> {
    pub(super) fn new(client: &'a Arc<Client>, overlay: &'a Overlay, upload: bool, beneath: Option<Beneath>) -> Self {
        let sizes = ChunkSizes::for_content(overlay.size);
        let hasher = (zeros_in(overlay) <= HASHED_HOLES_MAX).then(FileHasher::default);
        Self::at(client, overlay, sizes, 0, hasher, Uploads::new(client, overlay, upload, beneath))
    }

    /// For a part of a file that is still being written, from a cut point on.
    pub(super) fn ahead(
        client: &'a Arc<Client>,
        overlay: &'a Overlay,
        sizes: ChunkSizes,
        from: u64,
        hasher: Option<FileHasher>,
        beneath: Option<Beneath>,
    ) -> Self {
        Self::at(client, overlay, sizes, from, hasher, Uploads::new(client, overlay, true, beneath))
    }

    fn at(
        client: &'a Arc<Client>,
        overlay: &'a Overlay,
        sizes: ChunkSizes,
        at: u64,
        hasher: Option<FileHasher>,
        uploads: Uploads<'a>,
    ) -> Self {
        let cut = Cut { extents: Vec::new(), at, hasher, hashed: at, uploads, advance: None };
        Self { client, overlay, sizes, chunker: Chunker::new(sizes), hashed_holes: 0, holes: Vec::new(), cut }
    }

    /// All of it, in one pass that also computes the whole file's hash.
    fn whole(&mut self, unchanged: impl Fn() -> Result<(), PrepareError>) -> Result<(), PrepareError> {
        let mut at = self.cut.at;
        while at < self.overlay.size {
            unchanged()?;
            let end = match self.long_hole(at)? {
                Some(end) => {
                    self.hole(end - at)?;
                    end
                }
                None => {
                    let end = self.data_end(at);
                    self.bytes(at..end, &unchanged)?;
                    end
                }
            };
            at = end;
        }
        Ok(())
    }

    /// Up to where a long hole reaches that begins at `at`.
    pub(super) fn long_hole(&self, at: u64) -> Result<Option<u64>, PrepareError> {
        Ok(self.overlay.long_hole(at, &self.holes)?)
    }

    /// Up to where bytes are read at once from `at` on: not into what may have a long hole.
    pub(super) fn data_end(&self, at: u64) -> u64 {
        let limit = self.overlay.size.min(at + READ_LEN as u64);
        let mut end = at;
        while end < limit {
            let (run, next) = self.overlay.run(end, &self.holes);
            if end > at && run != Run::Base && next - end >= holes::LEN_MIN {
                break;
            }
            end = next.min(limit);
        }
        end
    }

    fn hole(&mut self, len: u64) -> Result<(), PrepareError> {
        self.end_chunk()?;
        self.hashed_holes = self.hashed_holes.saturating_add(len);
        if self.hashed_holes > HASHED_HOLES_MAX {
            self.cut.hasher = None;
        }
        self.cut.feed_zeros(len);
        self.cut.known(Extent::Hole { len });
        Ok(())
    }

    fn bytes(
        &mut self,
        range: Range<u64>,
        unchanged: &impl Fn() -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        let mut buf = vec![0; READ_LEN.min((range.end - range.start) as usize)];
        let mut at = range.start;
        while at < range.end {
            unchanged()?;
            let want = buf.len().min((range.end - at) as usize);
            let len = self.read(at, &mut buf[..want])?;
            self.push(&buf[..len])?;
            at += len as u64;
        }
        Ok(())
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<usize, PrepareError> {
        match self.client.read_draft_to_cut(self.overlay, at, buf, Instant::now() + BASE_PATIENCE) {
            Ok(0) => Err(PrepareError::Outdated),
            Ok(len) => Ok(len),
            // Cut shorter by the writer while it was being read.
            Err(ReadError::Io(error))
                if error.kind() == io::ErrorKind::UnexpectedEof
                    && !self.client.is_as_seen(self.overlay.staging.as_ref()) =>
            {
                Err(PrepareError::Moving)
            }
            Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(PrepareError::Outdated),
            Err(error) => Err(error.into()),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), PrepareError> {
        let Self { chunker, cut, .. } = self;
        chunker.push(bytes, |chunk| cut.chunk(chunk))
    }

    fn end_chunk(&mut self) -> Result<(), PrepareError> {
        let Self { chunker, cut, .. } = self;
        chunker.finish(|chunk| cut.chunk(chunk))
    }

    /// Only what changed and what the cut points around it need; other extents are those of the content beneath.
    pub(super) fn change(
        &mut self,
        base: &Manifest,
        unchanged: impl Fn() -> Result<(), PrepareError>,
    ) -> Result<(), PrepareError> {
        self.cut.hasher = None;
        self.holes = holes_of(base);
        let kept: Vec<(u64, Extent)> = base
            .with_offsets()
            .filter(|(start, extent)| {
                let range = *start..*start + extent.len();
                range.end <= self.overlay.base_len && self.overlay.segments(range.clone()) == [Segment::Base(range)]
            })
            .collect();
        let mut kept = kept.into_iter().peekable();
        let mut at = 0;
        while at < self.overlay.size {
            unchanged()?;
            if let Some((start, extent)) = kept.next_if(|(start, _)| *start == at) {
                at = start + extent.len();
                self.cut.known(extent);
                continue;
            }
            if let Some(end) = self.long_hole(at)? {
                self.cut.known(Extent::Hole { len: end - at });
                at = end;
                while kept.next_if(|(start, _)| *start < at).is_some() {}
                continue;
            }
            at = self.recut(at, &mut kept)?;
        }
        Ok(())
    }

    /// Cuts from `at` on until a cut point falls on the begin of an extent that is kept, or a long hole begins; returns that place.
    fn recut(
        &mut self,
        from: u64,
        kept: &mut std::iter::Peekable<impl Iterator<Item = (u64, Extent)>>,
    ) -> Result<u64, PrepareError> {
        let mut window: Vec<u8> = Vec::new();
        let mut at = from;
        let sizes = self.sizes;
        loop {
            while window.len() < sizes.max && at + (window.len() as u64) < self.overlay.size {
                let start = at + window.len() as u64;
                if self.long_hole(start)?.is_some() {
                    break;
                }
                let len = (self.data_end(start) - start) as usize;
                let filled = window.len();
                window.resize(filled + len, 0);
                let got = self.read(start, &mut window[filled..])?;
                window.truncate(filled + got);
            }
            if window.is_empty() {
                return Ok(at);
            }
            let len = first_chunk_len(&window, sizes);
            self.cut.chunk(&window[..len])?;
            window.drain(..len);
            at += len as u64;
            while kept.next_if(|(start, _)| *start < at).is_some() {}
            if kept.peek().is_some_and(|(start, _)| *start == at) {
                return Ok(at);
            }
        }
    }

    pub(super) fn finish(mut self) -> Result<(Manifest, Option<FileHash>), PrepareError> {
        self.end_chunk()?;
        self.cut.uploads.finish()?;
        let manifest = Manifest::new(self.cut.extents)?.for_travel()?;
        Ok((manifest, self.cut.hasher.map(FileHasher::finish)))
    }

    /// All of it, but for what was cut while it was being written.
    fn rest(&mut self, ahead: &Ahead, unchanged: impl Fn() -> Result<(), PrepareError>) -> Result<(), PrepareError> {
        // What was written without a gap is in the staging file, whatever lies beneath.
        let end = self.overlay.present.iter().next().filter(|first| first.start == 0).map_or(0, |first| first.end);
        if let Some(hasher) = ahead.hasher.as_ref().filter(|_| self.cut.hasher.is_some() && ahead.end <= end) {
            self.cut.hasher = Some(hasher.clone());
            self.cut.hashed = ahead.end;
        }
        while let Some((next, (hash, len))) = ahead.chunks.range(self.cut.at..).next() {
            if next + u64::from(*len) > end {
                break;
            }
            if *next != self.cut.at {
                if !self.cut_one(end, &unchanged)? {
                    break;
                }
                continue;
            }
            self.hash_known(*len, &unchanged)?;
            self.cut.known(Extent::Chunk { hash: *hash, len: *len });
        }
        self.whole(unchanged)
    }

    /// One more chunk; not, and `false`, where its end depends on what lies behind `end`.
    fn cut_one(&mut self, end: u64, unchanged: &impl Fn() -> Result<(), PrepareError>) -> Result<bool, PrepareError> {
        unchanged()?;
        if end < self.cut.at + self.sizes.max as u64 {
            return Ok(false);
        }
        let mut window = vec![0; self.sizes.max];
        self.read_exact(self.cut.at, &mut window)?;
        let len = first_chunk_len(&window, self.sizes);
        self.cut.chunk(&window[..len])?;
        Ok(true)
    }

    /// The chunk that comes next is known, and its bytes only have to be hashed as part of the file.
    fn hash_known(&mut self, len: u32, unchanged: &impl Fn() -> Result<(), PrepareError>) -> Result<(), PrepareError> {
        let at = self.cut.at;
        if self.cut.hasher.is_some() && self.cut.hashed < at + u64::from(len) {
            unchanged()?;
            let mut raw = vec![0; len as usize];
            self.read_exact(at, &mut raw)?;
            self.cut.feed(&raw);
        }
        Ok(())
    }

    fn read_exact(&self, at: u64, buf: &mut [u8]) -> Result<(), PrepareError> {
        let mut done = 0;
        while done < buf.len() {
            done += self.read(at + done as u64, &mut buf[done..])?;
        }
        Ok(())
    }

    /// A part that was written without a gap, up to the first hole that the disk knows there; whether there is none.
    pub(super) fn contiguous(&mut self, range: Range<u64>, is_wanted: impl Fn() -> bool) -> Result<bool, PrepareError> {
        let mut at = range.start;
        while at < range.end && !is_wanted() {
            let data = self.overlay.next_staged(at..range.end)?;
            if data.start - at >= holes::LEN_MIN || data.is_empty() {
                return Ok(false);
            }
            self.bytes(at..data.end, &|| Ok(()))?;
            at = data.end;
        }
        Ok(true)
    }

    /// What was cut of a file that is still being written, and whether all of it has arrived.
    pub(super) fn end_ahead(mut self, from: u64) -> (Ahead, Option<Beneath>, Result<(), PrepareError>) {
        let sent = self.cut.uploads.finish();
        let mut found = Ahead { end: from, hasher: self.cut.hasher, ..Ahead::default() };
        for extent in self.cut.extents {
            if let Extent::Chunk { hash, len } = extent {
                found.chunks.insert(found.end, (hash, len));
            }
            found.end += extent.len();
        }
        (found, self.cut.uploads.beneath, sent)
    }
}

/// The long holes of a content, in order.
pub(super) fn holes_of(manifest: &Manifest) -> Vec<Range<u64>> {
    let long = |(start, extent): (u64, Extent)| match extent {
        Extent::Hole { len } if len >= holes::LEN_MIN => Some(start..start + len),
        Extent::Hole { .. } | Extent::Chunk { .. } => None,
    };
    manifest.with_offsets().filter_map(long).collect()
}

/// How many bytes are zeros that nobody wrote, at least.
fn zeros_in(overlay: &Overlay) -> u64 {
    let beneath = if overlay.base.is_some() { overlay.base_len } else { 0 };
    overlay.size.saturating_sub(overlay.present.covered()).saturating_sub(beneath)
}

/// Length of the first chunk of `window`, which is at least one longest chunk or all there is.
fn first_chunk_len(window: &[u8], sizes: ChunkSizes) -> usize {
    let mut chunker = Chunker::new(sizes);
    let mut first = None;
    let mut emit = |chunk: &[u8]| {
        first.get_or_insert(chunk.len());
        Ok::<_, std::convert::Infallible>(())
    };
    let Ok(()) = chunker.push(&window[..window.len().min(sizes.max)], &mut emit);
    let Ok(()) = chunker.finish(&mut emit);
    first.unwrap_or(window.len())
}

/// Chunks on their way to the server: gathered, asked for, sent, a few batches at a time.
struct Uploads<'a> {
    client: &'a Arc<Client>,
    /// Whether chunks are uploaded at all, or held for the commit.
    upload: bool,
    /// The content beneath, and what the server has of it; absent: it has to be asked about every chunk.
    base: Option<Arc<Content>>,
    beneath: Option<Beneath>,
    gathered: Vec<Fresh>,
    bytes: usize,
    /// Those that are being sent, with their raw bytes.
    running: Vec<(tokio::task::JoinHandle<Result<(), RemoteError>>, usize)>,
}

/// A chunk that the server is not known to have.
struct Fresh {
    hash: ChunkHash,
    raw: Vec<u8>,
    /// What stood in its place.
    similar: Option<Similar>,
}

impl Client {
    /// Sends chunks that the server lacks; those that are like others that it has, as differences.
    async fn put_fresh(self: &Arc<Self>, base: Option<Arc<Content>>, chunks: Vec<Fresh>) -> Result<(), RemoteError> {
        let len = chunks.iter().map(|chunk| chunk.raw.len() as u64).sum();
        if !self.server_room.takes(len) {
            return Err(RemoteError::StorageFull);
        }
        let done = self.put_with_room(base, chunks).await;
        match &done {
            Ok(()) => self.server_room.stored(len),
            Err(RemoteError::StorageFull) => self.server_room.refused(len),
            Err(_) => {}
        }
        done
    }

    async fn put_with_room(
        self: &Arc<Self>,
        base: Option<Arc<Content>>,
        chunks: Vec<Fresh>,
    ) -> Result<(), RemoteError> {
        let client = self.clone();
        let seal = move || client.seal(base.as_deref(), chunks);
        let sealed = tokio::task::spawn_blocking(seal).await;
        let (mut sealed, again) = sealed.map_err(|error| RemoteError::Local(io::Error::other(error)))?;
        match self.remote.put(&sealed).await {
            // The server may lack what the differences refer to: once more with everything.
            Err(error) if !again.is_empty() && error.is_of_an_answer() => {
                tracing::debug!(%error, "chunks are sent again as a whole");
                sealed.retain(|(_, envelope)| envelope::base(envelope).is_none());
                sealed.extend(again.iter().map(|(hash, raw)| (*hash, Bytes::from(envelope::seal(raw)))));
                self.remote.put(&sealed).await?;
            }
            put => {
                put?;
            }
        }
        sealed.iter().for_each(|(hash, _)| self.known.note(hash));
        Ok(())
    }

    /// Envelopes, and the raw bytes of those that tell a difference.
    #[expect(clippy::type_complexity, reason = "two lists of the same shape")]
    fn seal(&self, base: Option<&Content>, chunks: Vec<Fresh>) -> (Vec<(ChunkHash, Bytes)>, Vec<(ChunkHash, Vec<u8>)>) {
        let (mut sealed, mut again) = (Vec::with_capacity(chunks.len()), Vec::new());
        for Fresh { hash, raw, similar } in chunks {
            let told = base.zip(similar).and_then(|(base, similar)| self.seal_against(base, similar, &raw));
            let whole = envelope::seal(&raw);
            match told.filter(|told| told.len() < whole.len()) {
                Some(told) => {
                    sealed.push((hash, told.into()));
                    again.push((hash, raw));
                }
                None => sealed.push((hash, whole.into())),
            }
        }
        (sealed, again)
    }

    /// The difference to a chunk of the content beneath, if that is here: it is not fetched for the purpose.
    fn seal_against(&self, base: &Content, similar: Similar, raw: &[u8]) -> Option<Vec<u8>> {
        let lens = envelope::DELTA_LENS;
        if !self.remote.takes_chunk_deltas() || !lens.contains(&raw.len()) || !lens.contains(&(similar.len as usize)) {
            return None;
        }
        let mut beneath = vec![0; similar.len as usize];
        let here = self.read_local(base, similar.at, &mut beneath).ok().flatten();
        if here != Some(beneath.len()) || !similar.hash.matches(&beneath) {
            return None;
        }
        envelope::seal_against(&similar.hash, &beneath, raw)
    }
}

impl<'a> Uploads<'a> {
    fn new(client: &'a Arc<Client>, overlay: &Overlay, upload: bool, beneath: Option<Beneath>) -> Self {
        let base = overlay.base.clone();
        Self { client, upload, base, beneath, gathered: Vec::new(), bytes: 0, running: Vec::new() }
    }

    /// A chunk of the draft goes by: whether the server has it from the content beneath.
    fn pass(&mut self, hash: &ChunkHash, at: u64) -> bool {
        self.beneath.as_mut().is_some_and(|beneath| beneath.has(hash, at))
    }

    fn take(&mut self, hash: ChunkHash, at: u64, raw: &[u8]) -> Result<(), PrepareError> {
        if !self.upload && self.client.outbox.hold(hash, &Bytes::from(envelope::seal(raw))) {
            return Ok(());
        }
        if self.pass(&hash, at) || self.client.known.has(&hash) {
            return Ok(());
        }
        let similar = self.beneath.as_mut().and_then(|beneath| beneath.similar(at, raw.len() as u64));
        self.gathered.push(Fresh { hash, raw: raw.to_vec(), similar });
        self.bytes += raw.len();
        if self.bytes >= UPLOAD_LEN { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), PrepareError> {
        if self.gathered.is_empty() {
            return Ok(());
        }
        if self.running.len() >= UPLOADS_MAX {
            self.wait_one()?;
        }
        if !self.client.link.is_reachable() {
            return Err(PrepareError::Away);
        }
        if self.client.server_room.is_closed() {
            return Err(RemoteError::StorageFull.into());
        }
        let bytes = std::mem::take(&mut self.bytes);
        let chunks = std::mem::take(&mut self.gathered);
        let (client, base) = (self.client.clone(), self.base.clone());
        let sent = self.client.runtime.spawn(async move {
            let hashes: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk.hash).collect();
            let missing: std::collections::HashSet<_> = client.remote.missing(&hashes).await?.into_iter().collect();
            hashes.iter().filter(|hash| !missing.contains(hash)).for_each(|hash| client.known.note(hash));
            let wanted: Vec<_> = chunks.into_iter().filter(|chunk| missing.contains(&chunk.hash)).collect();
            if wanted.is_empty() { Ok(()) } else { client.put_fresh(base, wanted).await }
        });
        self.running.push((sent, bytes));
        Ok(())
    }

    fn wait_one(&mut self) -> Result<(), PrepareError> {
        let (oldest, _) = self.running.remove(0);
        self.client.runtime.block_on(oldest).map_err(io::Error::other)??;
        Ok(())
    }

    /// Raw bytes of chunks that the server has not taken yet.
    fn on_their_way(&self) -> u64 {
        let running = self.running.iter().filter(|(sent, _)| !sent.is_finished()).map(|(_, bytes)| bytes);
        (self.bytes + running.sum::<usize>()) as u64
    }

    fn finish(&mut self) -> Result<(), PrepareError> {
        self.flush()?;
        while !self.running.is_empty() {
            self.wait_one()?;
        }
        Ok(())
    }
}
