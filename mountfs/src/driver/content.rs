//! Reading contents: from the cache, and what it lacks from earlier versions there or from the server, each chunk once however
//! many wait for it.
//!
//! Every wait ends: with the bytes, with an error, or at its deadline.

use super::Client;
use super::troubles::{Failure, Troubles};
use crate::files::{Overlay, Segment};
use crate::ports::{RemoteError, Scope};
use crate::store::Entry;
use crate::system::at;
use indicatif::HumanBytes;
use parking_lot::{Condvar, Mutex};
use std::collections::HashSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::manifest::FILE_SIZE_MAX;
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest, NodeId};
use syncmount_engine::backoff::Backoff;
use syncmount_engine::{Body, FileBody};

/// How often a part is fetched that goes again before it is read, in a cache that others fill.
const ROUNDS_MAX: u32 = 2;

/// What is fetched ahead is at most this part of what the content may have in the cache.
const AHEAD_PARTS: u64 = 4;

/// How many bytes one request asks for, about.
const REQUEST_BYTES: u64 = 2 * 1024 * 1024;

/// How many requests for chunks run at the same time.
const REQUESTS_MAX: usize = 6;

/// How long a manifest is waited for that a local file is to be compared with.
const COMPARE_PATIENCE: Duration = Duration::from_secs(20);

/// Why bytes of a content cannot be had now.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The server could not be reached before the deadline.
    #[error("the bytes are not on this machine and the server cannot be reached")]
    Unreachable,
    /// The server does not have them, or has damaged ones.
    #[error("the server cannot give the bytes: {0}")]
    Unavailable(String),
    /// The disk cannot hold them: it lacks so many bytes. Nothing was fetched.
    #[error("the disk has no room for it: {} more are needed; it is fetched when they are there", HumanBytes(*.0))]
    NoRoom(u64),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// How much of a file is on this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Every byte.
    Whole,
    /// Some.
    Part,
    /// None.
    None,
}

#[derive(Default)]
struct Running {
    chunks: HashSet<ChunkHash>,
    /// What became of chunks that could not be had, for those who wait for them.
    failed: Troubles<ChunkHash>,
    /// Contents of which a request for chunks has brought none: further requests have to wait, whichever chunks they are for.
    contents: Troubles<ContentHash>,
    /// Manifests that could not be had.
    manifests: Troubles<ContentHash>,
}

/// Chunks on their way here.
pub(super) struct Downloads {
    running: Mutex<Running>,
    arrived: Condvar,
    permits: Arc<tokio::sync::Semaphore>,
}

impl Default for Downloads {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
            arrived: Condvar::new(),
            permits: Arc::new(tokio::sync::Semaphore::new(REQUESTS_MAX)),
        }
    }
}

impl Client {
    /// How much of a node is on this machine. What has no bytes is always here.
    pub fn presence(&self, node: NodeId) -> Presence {
        let state = self.look(|engine| engine.local(node).cloned());
        let Some(Body::File(FileBody::Clean(content))) = state.as_ref().map(|state| &state.body) else {
            return Presence::Whole;
        };
        if content.size == 0 {
            return Presence::Whole;
        }
        let Some(entry) = self.cache.get(&content.hash) else { return Presence::None };
        let missing: u64 = entry.missing(0..content.size).iter().map(|(_, _, len)| u64::from(*len)).sum();
        match missing {
            _ if entry.is_whole() => Presence::Whole,
            0 => Presence::Whole,
            missing if missing >= entry.size() => Presence::None,
            _ => Presence::Part,
        }
    }

    /// Reads what is on this machine already; `None` if any of it is not. Never waits for the network.
    pub fn read_local(&self, content: &Content, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        if content.size == 0 || offset >= content.size {
            return Ok(Some(0));
        }
        let Some(entry) = self.cache.get(&content.hash) else { return Ok(None) };
        let end = content.size.min(offset + buf.len() as u64);
        if !entry.is_whole() && !entry.missing(offset..end).is_empty() {
            return Ok(None);
        }
        match entry.read_at(buf, offset) {
            // A part has gone since: what is short would pass for the end of the file.
            Ok(len) if (len as u64) < end - offset => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            read => read.map(Some),
        }
    }

    /// Reads, and fetches what is missing: `buf` at once, up to `ahead` bytes more in the background. Who reads little and
    /// nothing ahead gets parts of chunks.
    pub fn read_content(
        self: &Arc<Self>,
        content: &Content,
        offset: u64,
        buf: &mut [u8],
        ahead: u64,
        deadline: Instant,
    ) -> Result<usize, ReadError> {
        let end = content.size.min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        if ahead == 0 {
            let entry = self.cached(content, deadline)?;
            let buf = &mut buf[..(end - offset) as usize];
            if let Some(len) = self.read_parts(&entry, &(offset..end), buf, deadline) {
                return Ok(len);
            }
        }
        self.read_chunks(content, offset, buf, ahead, deadline)
    }

    /// The same with whole chunks in any case.
    fn read_chunks(
        self: &Arc<Self>,
        content: &Content,
        offset: u64,
        buf: &mut [u8],
        ahead: u64,
        deadline: Instant,
    ) -> Result<usize, ReadError> {
        let end = content.size.min(offset.saturating_add(buf.len() as u64));
        if offset >= end {
            return Ok(0);
        }
        let entry = self.cached(content, deadline)?;
        let buf = &mut buf[..(end - offset) as usize];
        let mut got = 0;
        // In a cache that is smaller than what is being read, parts may go between two lines. What was read before is kept: a
        // read that ended early would pass for the end of the file.
        while got < buf.len() {
            let wanted = offset + got as u64..end;
            match self.fetch(&entry, wanted.clone(), ahead, deadline) {
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::StorageFull => {
                    return Ok(got + self.read_around_cache(content, wanted, &mut buf[got..], deadline)?);
                }
                fetched => fetched?,
            }
            match entry.read_at(&mut buf[got..], wanted.start) {
                Ok(len) => got += len,
                Err(_) if !entry.missing(wanted).is_empty() && Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(got)
    }

    /// Reads straight from the server: the cache is full of files that are open.
    fn read_around_cache(
        &self,
        content: &Content,
        wanted: Range<u64>,
        buf: &mut [u8],
        deadline: Instant,
    ) -> Result<usize, ReadError> {
        buf.fill(0);
        let manifest = self.manifest(content, deadline)?;
        for (start, extent) in manifest.with_offsets() {
            let from = wanted.start.max(start);
            let to = wanted.end.min(start + extent.len());
            let Extent::Chunk { hash, .. } = extent else { continue };
            if from >= to {
                continue;
            }
            let raw = match self.around.get(&hash) {
                Some(raw) => raw,
                None => self.around.remember(hash, self.until(deadline, || Box::pin(self.fetch_one(hash)))?),
            };
            let part = &mut buf[(from - wanted.start) as usize..(to - wanted.start) as usize];
            part.copy_from_slice(&raw[(from - start) as usize..(to - start) as usize]);
        }
        Ok((wanted.end - wanted.start) as usize)
    }

    async fn fetch_one(&self, hash: ChunkHash) -> Result<Vec<u8>, RemoteError> {
        let mut got = Vec::new();
        let mut sink = |_, raw| {
            got = raw;
            Ok(())
        };
        self.remote.fetch(&[hash], &mut sink).await?;
        Ok(got)
    }

    /// The cache entry of a content, begun if it is not there.
    pub(super) fn cached(&self, content: &Content, deadline: Instant) -> Result<Arc<Entry>, ReadError> {
        if let Some(entry) = self.cache.get(&content.hash) {
            return Ok(entry);
        }
        let manifest = self.manifest(content, deadline)?;
        Ok(self.cache.entry(&content.hash, &manifest)?)
    }

    /// The manifest of a content.
    pub(super) fn manifest(&self, content: &Content, deadline: Instant) -> Result<Arc<Manifest>, ReadError> {
        self.manifest_like(content, || self.manifest_of_former(&content.hash), deadline)
    }

    /// The same, told by its difference to another one if that is smaller.
    pub(super) fn manifest_like(
        &self,
        content: &Content,
        base: impl FnOnce() -> Option<Arc<Manifest>>,
        deadline: Instant,
    ) -> Result<Arc<Manifest>, ReadError> {
        if let Some(manifest) = self.manifest_here(content) {
            return Ok(manifest);
        }
        let failure = self.downloads.running.lock().manifests.failure(&content.hash, Instant::now()).cloned();
        if let Some(Failure::Refused(reason)) = failure {
            return Err(ReadError::Unavailable(reason));
        }
        let base = base();
        let told = self.until(deadline, || self.remote.manifest(&content.hash, base.as_deref()));
        self.note_told(&content.hash, &told);
        let manifest = match told {
            Err(ReadError::Unavailable(_)) if content.size > FILE_SIZE_MAX => {
                return Err(ReadError::Unavailable("it says that the file is larger than a file can be".into()));
            }
            told => Arc::new(told?),
        };
        self.manifests.remember(content.hash, manifest.clone())?;
        if manifest.size() != content.size {
            // The hash proves the manifest, and nothing the size.
            self.change(|engine, _| engine.measured(&content.hash, manifest.size()))?;
            return Err(ReadError::Unavailable("its description is of another size".into()));
        }
        Ok(manifest)
    }

    fn note_told(&self, content: &ContentHash, told: &Result<Manifest, ReadError>) {
        let random = self.random();
        let mut running = self.downloads.running.lock();
        match told {
            Err(ReadError::Unavailable(reason)) => {
                running.manifests.note(*content, Failure::Refused(reason.clone()), random);
            }
            _ => running.manifests.end(content),
        }
    }

    /// The manifest of a content, if it is on this machine.
    pub fn manifest_here(&self, content: &Content) -> Option<Arc<Manifest>> {
        // Earlier versions took what came inside of a node without a look at it.
        let inside = content.manifest.as_ref().filter(|manifest| manifest.content_hash() == content.hash);
        let here = inside.cloned().map(Arc::new).or_else(|| self.manifests.known(&content.hash));
        here.filter(|manifest| manifest.size() == content.size)
    }

    /// The manifest of a content that a local file is compared with: what is here, or what the server gives soon.
    pub fn manifest_to_compare(&self, content: &Content) -> Option<Arc<Manifest>> {
        let deadline = Instant::now() + if self.link.is_online() { COMPARE_PATIENCE } else { Duration::ZERO };
        self.manifest_like(content, || None, deadline)
            .inspect_err(|error| tracing::debug!(%error, "a file cannot be compared with what the server has"))
            .ok()
    }

    /// Repeats a request until it is answered or the time is up. While the server cannot be reached it is waited for, not asked.
    fn until<'a, T>(
        &'a self,
        deadline: Instant,
        call: impl Fn() -> crate::ports::Reply<'a, T>,
    ) -> Result<T, ReadError> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let mut backoff = Backoff::default();
        self.runtime.block_on(async {
            loop {
                if !self.link.wait_reachable(left()).await {
                    return Err(ReadError::Unreachable);
                }
                match tokio::time::timeout(left(), call()).await {
                    Ok(Ok(done)) => return Ok(done),
                    Ok(Err(error)) if error.is_retryable() => {
                        self.note_failed(&error);
                        tokio::time::sleep(backoff.failed(self.random()).min(left())).await;
                    }
                    Ok(Err(error)) => return Err(ReadError::Unavailable(error.to_string())),
                    Err(_) => return Err(ReadError::Unreachable),
                }
            }
        })
    }

    /// A request for bytes failed.
    pub(super) fn note_failed(&self, error: &RemoteError) {
        if error.scope() == Scope::Subject {
            self.link.failed(&error.to_string());
        } else {
            self.link.down(error);
        }
    }

    pub(super) fn fetch(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        wanted: Range<u64>,
        ahead: u64,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let started = Instant::now();
        let ahead = self.ahead_in_room(entry.hash(), ahead);
        let reach = wanted.start..wanted.end.saturating_add(ahead).min(entry.size());
        self.start_missing(entry, reach);
        let (mut rounds, mut given_back) = (0, entry.given_back());
        loop {
            let missing = entry.missing(wanted.clone());
            if missing.is_empty() {
                return Ok(());
            }
            let mut running = self.downloads.running.lock();
            let chunks: Vec<ChunkHash> = missing.iter().map(|(_, hash, _)| *hash).collect();
            // Whichever chunks it was about: there is nothing to wait for, they can be read without the cache.
            if running.contents.failure(entry.hash(), started) == Some(&Failure::NoRoom) {
                return Err(io::Error::from(io::ErrorKind::StorageFull).into());
            }
            match chunks.iter().find_map(|hash| running.failed.failure(hash, started)) {
                Some(Failure::Refused(reason)) => return Err(ReadError::Unavailable(reason.clone())),
                Some(Failure::NoRoom) => return Err(io::Error::from(io::ErrorKind::StorageFull).into()),
                Some(Failure::Later) | None => {}
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(ReadError::Unreachable);
            }
            if chunks.iter().any(|hash| running.chunks.contains(hash)) {
                self.downloads.arrived.wait_until(&mut running, deadline);
                continue;
            }
            let due = chunks.iter().filter_map(|hash| running.failed.due(hash)).min();
            let due = due.max(running.contents.due(entry.hash()));
            drop(running);
            if let Some(due) = due {
                std::thread::sleep(due.min(deadline).saturating_duration_since(now));
            } else if entry.given_back() != given_back {
                // It came, and had to go again before it was read. What did not come has nothing to do with room.
                (rounds, given_back) = (rounds + 1, entry.given_back());
                if rounds > ROUNDS_MAX {
                    return Err(io::Error::from(io::ErrorKind::StorageFull).into());
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.runtime.block_on(self.link.wait_reachable(left)) {
                return Err(ReadError::Unreachable);
            }
            self.start_missing(entry, wanted.clone());
        }
    }

    /// Whether a chunk is on its way here.
    pub(super) fn is_coming(&self, chunk: &ChunkHash) -> bool {
        self.downloads.running.lock().chunks.contains(chunk)
    }

    fn start_missing(self: &Arc<Self>, entry: &Arc<Entry>, range: Range<u64>) {
        let mut running = self.downloads.running.lock();
        if running.contents.due(entry.hash()).is_some() {
            return;
        }
        // One request finds out whether there is any use in others.
        let most = if running.contents.has(entry.hash()) { 1 } else { usize::MAX };
        let Running { chunks, failed, .. } = &mut *running;
        let fresh: Vec<(ChunkHash, u32)> = entry
            .missing(range)
            .into_iter()
            .filter(|(_, hash, _)| failed.due(hash).is_none())
            .filter_map(|(_, hash, len)| chunks.insert(hash).then_some((hash, len)))
            .take(most)
            .collect();
        // What has failed is asked for alone: it may be what the others of its request have failed at.
        let (alone, fresh): (Vec<_>, Vec<_>) = fresh.into_iter().partition(|(hash, _)| running.failed.has(hash));
        drop(running);
        for chunk in alone {
            self.start(entry.clone(), vec![chunk]);
        }
        let mut batch = Vec::new();
        let mut bytes = 0;
        for (hash, len) in fresh {
            batch.push((hash, len));
            bytes += u64::from(len);
            if bytes >= REQUEST_BYTES {
                self.start(entry.clone(), std::mem::take(&mut batch));
                bytes = 0;
            }
        }
        if !batch.is_empty() {
            self.start(entry.clone(), batch);
        }
    }

    fn start(self: &Arc<Self>, entry: Arc<Entry>, chunks: Vec<(ChunkHash, u32)>) {
        let client = self.clone();
        self.runtime.spawn(async move {
            let left = client.copy_shared(&entry, chunks).await;
            if left.is_empty() {
                return;
            }
            // Whoever waits for it asks again when the server is there.
            if client.link.is_lost() {
                return client.not_asked(&left);
            }
            let permit = client.downloads.permits.clone().acquire_owned().await;
            let credit = client.formers.credit(entry.hash());
            let likely = client.likely_in_cache(&entry, &left, &credit).await;
            let chunks: Vec<ChunkHash> = left.into_iter().map(|(hash, _)| hash).collect();
            let result = {
                let mut sink = |hash: ChunkHash, raw: Vec<u8>| {
                    entry.put(&hash, &raw)?;
                    client.known.note(&hash);
                    client.chunk_is_here(&hash);
                    Ok(())
                };
                client.fetch_told(&chunks, likely, &credit, &mut sink).await
            };
            drop(permit);
            client.fetched(entry.hash(), &chunks, result);
        });
    }

    /// These chunks are not on their way any more.
    fn not_asked(&self, chunks: &[(ChunkHash, u32)]) {
        let mut running = self.downloads.running.lock();
        for (hash, _) in chunks {
            running.chunks.remove(hash);
        }
        drop(running);
        self.downloads.arrived.notify_all();
    }

    /// A chunk was put into the cache.
    pub(super) fn chunk_is_here(&self, chunk: &ChunkHash) {
        let mut running = self.downloads.running.lock();
        running.chunks.remove(chunk);
        running.failed.end(chunk);
        drop(running);
        self.downloads.arrived.notify_all();
    }

    fn fetched(&self, content: &ContentHash, chunks: &[ChunkHash], result: Result<(), RemoteError>) {
        let random = self.random();
        let mut running = self.downloads.running.lock();
        if let Err(error) = &result {
            let failure = match error {
                RemoteError::Local(error) if error.kind() == io::ErrorKind::StorageFull => Failure::NoRoom,
                error if error.is_retryable() => Failure::Later,
                error => Failure::Refused(error.to_string()),
            };
            let came: Vec<_> = chunks.iter().filter(|hash| !running.chunks.contains(*hash)).copied().collect();
            let is_answer = matches!(error, RemoteError::Lacking(_)) || error.scope() != Scope::Subject;
            if !came.is_empty() {
                running.contents.end(content);
            } else if !is_answer && running.contents.due(content).is_none() {
                let of_all = if failure == Failure::NoRoom { Failure::NoRoom } else { Failure::Later };
                running.contents.note(*content, of_all, random);
            }
            // A refusal that names nothing of what was asked for is about all of it.
            let lacking = match error {
                RemoteError::Lacking(lacking) if chunks.iter().any(|hash| lacking.contains(hash)) => lacking.as_slice(),
                _ => &[],
            };
            for hash in chunks.iter().filter(|hash| !came.contains(hash)) {
                match error {
                    // Those that it has can be asked for without these.
                    _ if !lacking.is_empty() && !lacking.contains(hash) => {}
                    // It is the link that has to wait.
                    error if error.scope() != Scope::Subject => {}
                    _ => running.failed.note(*hash, failure.clone(), random),
                }
            }
        } else {
            running.contents.end(content);
        }
        for hash in chunks {
            running.chunks.remove(hash);
        }
        drop(running);
        // Before those that wait look again.
        match result {
            Ok(()) => self.link.up(),
            Err(error) => self.note_failed(&error),
        }
        self.downloads.arrived.notify_all();
    }

    /// Reads from a draft. `None` if bytes beneath are not on this machine.
    pub fn read_draft_local(&self, overlay: &Overlay, offset: u64, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let beneath = |base: &Content, at: u64, part: &mut [u8]| {
            let all = part.len();
            self.read_local(base, at, part)?.filter(|len| *len == all).ok_or(Absent::NotHere)
        };
        match read_draft_over(overlay, offset, buf, beneath) {
            Ok(len) => Ok(Some(len)),
            Err(Absent::NotHere) => Ok(None),
            Err(Absent::Io(error)) => Err(error),
        }
    }

    /// Reads from a draft, and fetches what is missing beneath.
    pub fn read_draft(
        self: &Arc<Self>,
        overlay: &Overlay,
        offset: u64,
        buf: &mut [u8],
        deadline: Instant,
    ) -> Result<usize, ReadError> {
        let beneath = |base: &Content, at: u64, part: &mut [u8]| self.read_content(base, at, part, 0, deadline);
        read_draft_over(overlay, offset, buf, beneath)
    }

    /// The same with whole chunks in any case, for who will need all of them.
    pub(super) fn read_draft_to_cut(
        self: &Arc<Self>,
        overlay: &Overlay,
        offset: u64,
        buf: &mut [u8],
        deadline: Instant,
    ) -> Result<usize, ReadError> {
        let beneath = |base: &Content, at: u64, part: &mut [u8]| self.read_chunks(base, at, part, 0, deadline);
        read_draft_over(overlay, offset, buf, beneath)
    }
}

/// Why bytes beneath a draft cannot be read without the network.
enum Absent {
    NotHere,
    Io(io::Error),
}

impl From<io::Error> for Absent {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn read_draft_over<E: From<io::Error>>(
    overlay: &Overlay,
    offset: u64,
    buf: &mut [u8],
    beneath: impl Fn(&Content, u64, &mut [u8]) -> Result<usize, E>,
) -> Result<usize, E> {
    let end = overlay.size.min(offset.saturating_add(buf.len() as u64));
    for segment in overlay.segments(offset..end) {
        let range = segment.range();
        let part = &mut buf[(range.start - offset) as usize..(range.end - offset) as usize];
        match segment {
            Segment::Staging(_) => read_staging(overlay, part, range.start)?,
            Segment::Zero(_) => part.fill(0),
            Segment::Base(_) => {
                let base = overlay.base.as_ref().ok_or_else(|| io::Error::other("a base without a content"))?;
                let len = beneath(base, range.start, part)?;
                if len < part.len() {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
            }
        }
    }
    Ok(end.saturating_sub(offset) as usize)
}

/// What the staging file says it has must be there; a file that is shorter (it was written sparsely at its end) is not.
fn read_staging(overlay: &Overlay, buf: &mut [u8], offset: u64) -> io::Result<()> {
    let staging = overlay.staging.as_ref().ok_or_else(|| io::Error::other("a draft without a staging file"))?;
    at::read_exact_at(&staging.file, buf, offset)
}

impl Client {
    /// Fetches in the background what a reader will probably want next.
    pub fn prefetch(self: &Arc<Self>, content: &Content, range: Range<u64>) {
        if range.is_empty() || !self.link.is_online() {
            return;
        }
        if let Some(entry) = self.cache.get(&content.hash)
            && !entry.is_whole()
        {
            let ahead = self.ahead_in_room(&content.hash, range.end - range.start);
            self.start_missing(&entry, range.start..range.start + ahead);
        }
    }

    /// How much of `ahead` may be fetched: what comes too early must not push out what is about to be read.
    fn ahead_in_room(&self, content: &ContentHash, ahead: u64) -> u64 {
        let enough = ahead.saturating_mul(AHEAD_PARTS);
        ahead.min(self.cache.spare(content, enough) / AHEAD_PARTS)
    }
}
