//! [`Remote`] over HTTP with one bearer token.
//!
//! Keeps the promise that every call ends: each request runs under a deadline that only progress extends. The held poll has
//! connections of its own, so that no transfer waits behind it and it waits behind no transfer. HTTP/1.1 on purpose: several
//! connections fill a long line better than one. Never shows the token.

use super::body::Outgoing;
use super::limit::BodyLimit;
use super::reply::{self, bad_chunk, bad_frames};
use super::stall::{ANSWER, Deadline, STALL};
use super::url::ServerUrl;
use crate::ports::{Changes, ChunkSink, Difference, Part, Remote, RemoteError, Reply, Speaker};
use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, Url};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use syncmount_common::delta;
use syncmount_common::envelope::{self, ENVELOPE_LEN_MAX};
use syncmount_common::frame::{self, Decoder, Frame};
use syncmount_common::manifest::{EXTENTS_MAX, ManifestError};
use syncmount_common::protocol::changes::{Ask, ChangesPage, INLINE_LEN_MAX, WAIT_S_MAX};
use syncmount_common::protocol::chunks::{
    Alike, ChunkList, FetchList, HASHES_MAX, MissingReply, PUT_LEN_MAX, PutReply,
};
use syncmount_common::protocol::commit::{COMMIT_LEN_MAX, CommitRequest, Committed};
use syncmount_common::protocol::features::{self, Feature, Features};
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_common::protocol::{VERSION, VERSION_HEADER};
use syncmount_common::{ChunkHash, Content, ContentHash, Manifest};

const CONNECT: Duration = Duration::from_secs(5);
const SMALL: Duration = Duration::from_secs(30);
/// What a held poll may take beyond the time it is held for.
const POLL_GRACE: Duration = Duration::from_secs(20);
/// Idle connections are closed before the usual proxies close them under us (nginx: 75 s).
const IDLE: Duration = Duration::from_secs(60);
/// The largest reply that is taken into memory as a whole: the longest header of a framed body, and some.
const REPLY_LEN_MAX: usize = 80 * 1024 * 1024;
/// The longest encoding of a manifest, at 37 bytes an extent and 4 of magic.
const MANIFEST_LEN_MAX: usize = 4 + 37 * EXTENTS_MAX;
/// All differences of one reply are held in memory: at most as much as some MiB of chunks can make.
const DIFFERENCES_LEN_MAX: usize = 16 * 1024 * 1024;
/// A longer chunk is verified on a thread that may block: hashing it takes longer than 100 us.
const OPEN_INLINE_MAX: usize = 64 * 1024;
/// What a hash takes in a JSON list, in bytes.
const HASH_JSON_LEN: usize = 67;
const JSON: &str = "application/json";

/// Why a connection to a server cannot even be set up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    /// The folder's name is empty, `.` or `..`.
    #[error("`{0}` cannot be the name of a folder")]
    Folder(String),
    /// The token has characters that no token has.
    #[error("the token is not one: it is a single line of visible characters")]
    Token,
    /// The system's certificates cannot be read, or similar.
    #[error("encrypted connections cannot be set up: {0}")]
    Tls(String),
}

/// What went over the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Requests.
    pub requests: u64,
    /// Bytes of bodies to the server.
    pub sent: u64,
    /// Bytes of bodies from the server.
    pub received: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    requests: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

impl Counters {
    pub(super) fn add_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn add_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The features that a reply names.
fn named_by(headers: &HeaderMap) -> Features {
    Features::parse(headers.get_all(features::HEADER).iter().filter_map(|named| named.to_str().ok()))
}

/// One folder of one server, over HTTP.
pub struct HttpRemote {
    base: ServerUrl,
    folder: String,
    poll: Client,
    data: Client,
    counters: Arc<Counters>,
    /// The bits of the [`Features`] that the server's last reply has named.
    features: AtomicU32,
    /// Whether any reply has come.
    has_answered: AtomicBool,
    limit: BodyLimit,
}

impl fmt::Debug for HttpRemote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpRemote").field("base", &self.base).field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl HttpRemote {
    /// Gets ready to talk about `folder`. Makes no connection yet. The proxy that the environment names is used for encrypted
    /// connections to other machines only.
    pub fn new(base: &ServerUrl, folder: &str, token: &str) -> Result<Self, SetupError> {
        Self::new_through(base, folder, token, false)
    }

    /// The same; with `proxy_reads` the proxy may be one that reads the token, since nothing is encrypted.
    pub fn new_through(base: &ServerUrl, folder: &str, token: &str, proxy_reads: bool) -> Result<Self, SetupError> {
        if matches!(folder, "" | "." | "..") {
            return Err(SetupError::Folder(folder.to_owned()));
        }
        let headers = common_headers(token)?;
        Ok(Self {
            base: base.clone(),
            folder: folder.to_owned(),
            poll: client(base, &headers, proxy_reads)?,
            data: client(base, &headers, proxy_reads)?,
            counters: Arc::default(),
            features: AtomicU32::default(),
            has_answered: AtomicBool::default(),
            limit: BodyLimit::default(),
        })
    }

    /// How much has gone over the wire since the start.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.counters.requests.load(Ordering::Relaxed),
            sent: self.counters.sent.load(Ordering::Relaxed),
            received: self.counters.received.load(Ordering::Relaxed),
        }
    }

    fn server_has(&self, feature: Feature) -> bool {
        Features::from_bits(self.features.load(Ordering::Relaxed)).has(feature)
    }

    fn folder_url(&self, rest: &[&str]) -> Url {
        self.base.join(&[&["v1", "folders", &self.folder], rest].concat())
    }

    async fn changes_page(
        &self,
        ask: Ask,
        wait: Duration,
        inline: u64,
        speaker: Option<Speaker>,
    ) -> Result<Changes, RemoteError> {
        let wait_s = wait.as_secs().min(WAIT_S_MAX);
        let inline = inline.min(INLINE_LEN_MAX);
        let mut query = vec![("wait", wait_s.to_string()), ("inline", inline.to_string())];
        query.extend(ask.since.map(|cursor| ("since", cursor.to_string())));
        query.extend(ask.known.map(|cursor| ("known", cursor.to_string())));
        if let Some(Speaker { device, session }) = speaker {
            query.extend([("device", device.to_string()), ("session", session.to_string())]);
        }
        let request = self.poll.get(self.folder_url(&["changes"])).query(&query);
        let deadline = Deadline::after(Duration::from_secs(wait_s) + POLL_GRACE);
        let call = self.call(request, &deadline, RemoteError::FolderNotFound);
        deadline.guard(async { call.await?.into_changes().await }).await
    }

    async fn send_commit(
        &self,
        batch: &CommitRequest,
        chunks: &[(ChunkHash, Bytes)],
    ) -> Result<Committed, RemoteError> {
        let json = encode(batch)?;
        if json.len() > COMMIT_LEN_MAX {
            return Err(too_large("the batch"));
        }
        self.limit.check_breaks(json.len() as u64)?;
        let url = self.folder_url(&["commit"]);
        let body = Outgoing::framed(Some(&json), chunks);
        if !chunks.is_empty() && self.limit.is_doubtful(body.len()) {
            self.put_all(chunks).await?;
        } else if !chunks.is_empty() {
            match self.post(url.clone(), body, frame::CONTENT_TYPE, RemoteError::FolderNotFound).await {
                // The chunks go before it, as many at a time as are taken.
                Err(RemoteError::TooLarge(_)) => self.put_all(chunks).await?,
                done => return done,
            };
        }
        self.post(url, Outgoing::plain(json), JSON, RemoteError::FolderNotFound).await
    }

    /// How many hashes one request names at most.
    fn hashes_max(&self) -> usize {
        (self.limit.room(PUT_LEN_MAX) / HASH_JSON_LEN).clamp(1, HASHES_MAX)
    }

    async fn ask_missing(&self, chunks: &[ChunkHash]) -> Result<Vec<ChunkHash>, RemoteError> {
        let mut missing = Vec::new();
        let mut rest = chunks;
        while !rest.is_empty() {
            let (part, later) = rest.split_at(self.hashes_max().min(rest.len()));
            let body = Outgoing::plain(encode(&ChunkList { chunks: part.to_vec() })?);
            let url = self.base.join(&["v1", "chunks", "missing"]);
            match self.post(url, body, JSON, RemoteError::NotFound).await {
                Ok(MissingReply { missing: told }) => missing.extend(told),
                Err(RemoteError::TooLarge(_)) if part.len() > self.hashes_max() => continue,
                Err(error) => return Err(error),
            }
            rest = later;
        }
        Ok(missing)
    }

    /// Bodies that are refused for their length are cut in two, down to one chunk.
    async fn put_all(&self, chunks: &[(ChunkHash, Bytes)]) -> Result<PutReply, RemoteError> {
        let mut sum = PutReply { received: 0, stored: 0 };
        let mut todo: Vec<_> = put_batches(chunks, self.limit.room(PUT_LEN_MAX)).collect();
        todo.reverse();
        while let Some(batch) = todo.pop() {
            let url = self.base.join(&["v1", "chunks"]);
            let body = Outgoing::framed(None, batch);
            match self.post::<PutReply>(url, body, frame::CONTENT_TYPE, RemoteError::NotFound).await {
                Ok(reply) => {
                    sum.received += reply.received;
                    sum.stored += reply.stored;
                }
                Err(RemoteError::TooLarge(_)) if batch.len() > 1 => {
                    let (first, second) = batch.split_at(batch.len() / 2);
                    todo.extend([second, first]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(sum)
    }

    async fn fetch_all(
        &self,
        chunks: &[ChunkHash],
        alike: &[Alike],
        sink: &mut ChunkSink<'_>,
    ) -> Result<Vec<Difference>, RemoteError> {
        let mut told =
            Told { asked: HashSet::new(), alike: HashMap::new(), differences: Vec::new(), room: DIFFERENCES_LEN_MAX };
        let distinct: Vec<_> = chunks.iter().copied().filter(|hash| told.asked.insert(*hash)).collect();
        if self.gives_deltas() {
            told.alike.extend(alike.iter().map(|alike| (alike.chunk, *alike)));
        }
        let mut rest = distinct.as_slice();
        while !rest.is_empty() {
            let (part, later) = rest.split_at((self.hashes_max() / 3).clamp(1, rest.len()));
            let alike = part.iter().filter_map(|chunk| told.alike.get(chunk).copied()).collect();
            let body = Outgoing::plain(encode(&FetchList { chunks: part.to_vec(), alike })?);
            let len = body.len();
            self.limit.check(len)?;
            let deadline = Deadline::after(ANSWER);
            let request = self.data.post(self.base.join(&["v1", "chunks", "fetch"]));
            let request = self.with_body(request, body, JSON, &deadline);
            let call = self.call(request, &deadline, RemoteError::Lacking(part.to_vec()));
            let done = deadline.guard(async { call.await?.into_chunks(&mut told, sink).await }).await;
            match self.learned(len, done) {
                Err(RemoteError::TooLarge(_)) if part.len() > (self.hashes_max() / 3).max(1) => continue,
                done => done?,
            }
            if let Some(absent) = part.iter().find(|hash| told.asked.contains(*hash)) {
                return Err(RemoteError::Protocol(format!("the server's reply lacks the chunk {absent}")));
            }
            rest = later;
        }
        Ok(told.differences)
    }

    async fn get_part(&self, chunk: &ChunkHash, range: Range<u32>) -> Result<Part, RemoteError> {
        let len = range.end.saturating_sub(range.start);
        let request = self.data.get(self.base.join(&["v1", "chunks", &chunk.to_string()]));
        let request = request.query(&[("from", range.start), ("len", len)]);
        let deadline = Deadline::after(SMALL);
        let call = self.call(request, &deadline, RemoteError::NotFound);
        deadline.guard(async { call.await?.into_part(*chunk, len).await }).await
    }

    async fn get_manifest(&self, hash: &ContentHash, base: Option<&Manifest>) -> Result<Manifest, RemoteError> {
        if let Some(base) = base.filter(|_| self.gives_deltas()) {
            match self.get_manifest_alike(hash, base).await {
                Err(error) if error.is_of_an_answer() => {
                    tracing::warn!(%error, "a manifest is fetched as a whole");
                }
                done => return done,
            }
        }
        whole_manifest(hash, &self.get_content(hash, None).await?.1)
    }

    async fn get_manifest_alike(&self, hash: &ContentHash, base: &Manifest) -> Result<Manifest, RemoteError> {
        let (media, bytes) = self.get_content(hash, Some(&base.content_hash())).await?;
        if media != delta::CONTENT_TYPE {
            return whole_manifest(hash, &bytes);
        }
        let bad = |error| RemoteError::Corrupt(format!("the manifest {hash}: {error}"));
        delta::apply(base, &bytes, hash, EXTENTS_MAX).map_err(bad)?.for_travel().map_err(|error| refused(hash, error))
    }

    async fn get_content(
        &self,
        hash: &ContentHash,
        base: Option<&ContentHash>,
    ) -> Result<(String, Bytes), RemoteError> {
        let request = self.data.get(self.base.join(&["v1", "contents", &hash.to_string()]));
        let request = match base {
            Some(base) => request.query(&[("base", base)]),
            None => request,
        };
        let deadline = Deadline::after(SMALL);
        let call = self.call(request, &deadline, RemoteError::NotFound);
        deadline
            .guard(async {
                let incoming = call.await?;
                Ok((incoming.media(), incoming.into_bytes(MANIFEST_LEN_MAX).await?))
            })
            .await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        url: Url,
        body: Outgoing,
        media: &'static str,
        absent: RemoteError,
    ) -> Result<T, RemoteError> {
        let len = body.len();
        self.limit.check(len)?;
        let deadline = Deadline::after(STALL);
        let request = self.with_body(self.data.post(url), body, media, &deadline);
        let call = self.call(request, &deadline, absent);
        let done = deadline.guard(async { call.await?.into_json().await }).await;
        self.learned(len, done)
    }

    /// A refusal of so many bytes is remembered, if it is not the server's: that one says why. So is a connection that broke.
    fn learned<T>(&self, len: u64, done: Result<T, RemoteError>) -> Result<T, RemoteError> {
        match &done {
            Ok(_) => self.limit.passed(len),
            Err(RemoteError::Unreachable(_)) => self.limit.broke(len),
            Err(_) => {}
        }
        match done {
            Err(RemoteError::TooLarge(reason)) if reason.is_empty() => Err(self.limit.refused(len)),
            done => done,
        }
    }

    fn with_body(&self, to: RequestBuilder, body: Outgoing, media: &'static str, by: &Deadline) -> RequestBuilder {
        to.header(CONTENT_TYPE, media)
            .header(CONTENT_LENGTH, body.len())
            .body(body.into_body(by.clone(), self.counters.clone()))
    }

    /// Sends a request and looks at the head of its reply.
    fn call<'a>(
        &'a self,
        request: RequestBuilder,
        deadline: &'a Deadline,
        absent: RemoteError,
    ) -> impl Future<Output = Result<Incoming, RemoteError>> + Send + 'a {
        // Boxed: the state of a request inside the client is larger than 4 KiB.
        async move {
            self.counters.requests.fetch_add(1, Ordering::Relaxed);
            let reply = request.send().await.map_err(|error| reply::broken(&error))?;
            deadline.extend(STALL);
            reply::check_server(reply.status(), reply.headers(), &self.base.to_string())?;
            let features = named_by(reply.headers());
            self.features.store(features.to_bits(), Ordering::Relaxed);
            self.has_answered.store(true, Ordering::Release);
            let status = reply.status();
            let incoming = Incoming { reply, features, deadline: deadline.clone(), counters: self.counters.clone() };
            if status.is_success() {
                return Ok(incoming);
            }
            let body = incoming.into_bytes(REPLY_LEN_MAX).await?;
            Err(reply::error_of(status, &body, features, absent))
        }
        .boxed()
    }
}

impl Remote for HttpRemote {
    fn folder(&self) -> Reply<'_, FolderInfo> {
        async move {
            let deadline = Deadline::after(SMALL);
            let call = self.call(self.data.get(self.folder_url(&[])), &deadline, RemoteError::FolderNotFound);
            deadline.guard(async { call.await?.into_json().await }).await
        }
        .boxed()
    }

    fn changes(&self, ask: Ask, wait: Duration, inline: u64, by: Option<Speaker>) -> Reply<'_, Changes> {
        self.changes_page(ask, wait, inline, by).boxed()
    }

    fn commit<'a>(&'a self, request: &'a CommitRequest, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed> {
        self.send_commit(request, chunks).boxed()
    }

    fn has_answered(&self) -> bool {
        self.has_answered.load(Ordering::Acquire)
    }

    fn ignores_unknown_fields(&self) -> bool {
        self.server_has(Feature::ExtraFields)
    }

    fn takes_owners(&self) -> bool {
        self.server_has(Feature::Owners)
    }

    fn takes_content_deltas(&self) -> bool {
        self.server_has(Feature::ContentDeltas)
    }

    fn takes_chunk_deltas(&self) -> bool {
        self.server_has(Feature::ChunkDeltas)
    }

    fn gives_deltas(&self) -> bool {
        self.server_has(Feature::FetchDeltas)
    }

    fn missing<'a>(&'a self, chunks: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
        self.ask_missing(chunks).boxed()
    }

    fn put<'a>(&'a self, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
        self.put_all(chunks).boxed()
    }

    fn fetch_alike<'a>(
        &'a self,
        chunks: &'a [ChunkHash],
        alike: &'a [Alike],
        sink: &'a mut ChunkSink<'_>,
    ) -> Reply<'a, Vec<Difference>> {
        self.fetch_all(chunks, alike, sink).boxed()
    }

    fn part<'a>(&'a self, chunk: &'a ChunkHash, range: Range<u32>) -> Reply<'a, Part> {
        self.get_part(chunk, range).boxed()
    }

    fn manifest<'a>(&'a self, hash: &'a ContentHash, base: Option<&'a Manifest>) -> Reply<'a, Manifest> {
        self.get_manifest(hash, base).boxed()
    }
}

/// A reply whose head was good and whose body is still on its way.
struct Incoming {
    reply: Response,
    features: Features,
    deadline: Deadline,
    counters: Arc<Counters>,
}

impl Incoming {
    async fn next(&mut self) -> Result<Option<Bytes>, RemoteError> {
        let piece = self.reply.chunk().await.map_err(|error| reply::cut_short(&error))?;
        self.deadline.extend(STALL);
        self.counters.add_received(piece.as_ref().map_or(0, Bytes::len));
        Ok(piece)
    }

    async fn into_bytes(mut self, len_max: usize) -> Result<Bytes, RemoteError> {
        let mut body = BytesMut::new();
        while let Some(piece) = self.next().await? {
            if body.len() + piece.len() > len_max {
                return Err(RemoteError::Protocol("the server's reply is too long".to_owned()));
            }
            body.extend_from_slice(&piece);
        }
        Ok(body.freeze())
    }

    async fn into_json<T: DeserializeOwned>(self) -> Result<T, RemoteError> {
        let features = self.features;
        reply::parse(&self.into_bytes(REPLY_LEN_MAX).await?, features)
    }

    /// The media type as it was sent, empty if there is none.
    fn media(&self) -> String {
        let media = self.reply.headers().get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
        media.unwrap_or_default().to_owned()
    }

    fn is_framed(&self) -> bool {
        self.media() == frame::CONTENT_TYPE
    }

    async fn into_changes(self) -> Result<Changes, RemoteError> {
        if !self.is_framed() {
            return Ok(Changes { page: checked(self.into_json().await?)?, chunks: Vec::new() });
        }
        let features = self.features;
        let mut frames = Frames::new(self);
        let Some(Frame::Header(json)) = frames.next().await? else {
            return Err(RemoteError::Protocol("the server's reply lacks its header".to_owned()));
        };
        let page = checked(reply::parse(&json, features)?)?;
        let mut chunks = Vec::new();
        while let Some(Frame::Chunk(hash, envelope)) = frames.next().await? {
            chunks.push((hash, open(hash, envelope).await?));
        }
        Ok(Changes { page, chunks })
    }

    /// A part of `len` bytes as a chunk of its own, or the envelope of the whole chunk.
    async fn into_part(self, chunk: ChunkHash, len: u32) -> Result<Part, RemoteError> {
        if !self.is_framed() {
            let envelope = self.into_bytes(ENVELOPE_LEN_MAX).await?;
            return Ok(Part::Whole(open(chunk, envelope).await?));
        }
        let mut frames = Frames::new(self);
        let Some(Frame::Chunk(name, envelope)) = frames.next().await? else {
            return Err(RemoteError::Protocol("the server's reply lacks the part of the chunk".to_owned()));
        };
        if envelope::raw_len(&envelope).map_err(bad_chunk)? != len || frames.next().await?.is_some() {
            return Err(RemoteError::Protocol(
                "the server sent another part of the chunk than was asked for".to_owned(),
            ));
        }
        Ok(Part::Alone(open(name, envelope).await?))
    }

    /// Hands over every chunk, keeps what tells a difference that was asked for, and takes both off the list of those asked for.
    async fn into_chunks(self, told: &mut Told, sink: &mut ChunkSink<'_>) -> Result<(), RemoteError> {
        let deadline = self.deadline.clone();
        let mut frames = Frames::new(self);
        while let Some(frame) = frames.next().await? {
            let Frame::Chunk(hash, envelope) = frame else { continue };
            if !told.asked.remove(&hash) {
                return Err(RemoteError::Protocol(format!("the server sent the chunk {hash}, which nobody asked for")));
            }
            match told.alike.get(&hash).filter(|alike| envelope::base(&envelope) == Some(alike.base)) {
                Some(alike) => {
                    let room = told.room.checked_sub(envelope.len());
                    told.room =
                        room.ok_or_else(|| RemoteError::Protocol("the server's differences are too long".to_owned()))?;
                    told.differences.push(Difference { alike: *alike, envelope });
                }
                None => sink(hash, open(hash, envelope).await?).map_err(RemoteError::Local)?,
            }
            // The time that storing the chunk took is not the server's.
            deadline.extend(STALL);
        }
        Ok(())
    }
}

/// What was asked for and has not come yet, and what has come as a difference.
struct Told {
    asked: HashSet<ChunkHash>,
    alike: HashMap<ChunkHash, Alike>,
    differences: Vec<Difference>,
    /// Bytes of differences that may still come.
    room: usize,
}

/// The frames of a reply, one at a time.
struct Frames {
    body: Incoming,
    decoder: Decoder,
}

impl Frames {
    fn new(body: Incoming) -> Self {
        Self { body, decoder: Decoder::default() }
    }

    /// The next frame; `None` after the end, which is reached only if the body was whole.
    async fn next(&mut self) -> Result<Option<Frame>, RemoteError> {
        loop {
            match self.decoder.next_frame().map_err(bad_frames)? {
                Some(Frame::End) => {}
                Some(frame) => return Ok(Some(frame)),
                None => match self.body.next().await? {
                    Some(piece) => self.decoder.push(&piece),
                    None => return std::mem::take(&mut self.decoder).finish().map_err(bad_frames).map(|()| None),
                },
            }
        }
    }
}

fn whole_manifest(hash: &ContentHash, bytes: &[u8]) -> Result<Manifest, RemoteError> {
    if !hash.matches(bytes) {
        return Err(RemoteError::Corrupt(format!("the manifest {hash} does not have the hash it is named by")));
    }
    Manifest::decode(bytes).and_then(Manifest::for_travel).map_err(|error| refused(hash, error))
}

fn refused(hash: &ContentHash, error: ManifestError) -> RemoteError {
    RemoteError::Corrupt(format!("the manifest {hash}: {error}"))
}

/// A page with no more of its contents than what can be checked.
fn checked(mut page: ChangesPage) -> Result<ChangesPage, RemoteError> {
    for node in &mut page.nodes {
        let content = node.content.take().map(Content::checked).transpose();
        node.content = content.map_err(|error| RemoteError::Corrupt(format!("the node {}: {error}", node.id)))?;
    }
    Ok(page)
}

async fn open(hash: ChunkHash, envelope: Bytes) -> Result<Vec<u8>, RemoteError> {
    let raw_len = envelope::raw_len(&envelope).map_err(bad_chunk)? as usize;
    let work = move || envelope::open(&hash, &envelope).map_err(bad_chunk);
    if raw_len <= OPEN_INLINE_MAX {
        return work();
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(RemoteError::Unreachable(format!("this program is stopping ({error})"))),
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, RemoteError> {
    serde_json::to_vec(value).map_err(|error| RemoteError::Protocol(format!("the request cannot be written: {error}")))
}

fn too_large(what: &str) -> RemoteError {
    RemoteError::TooLarge(format!("{what} is larger than one request may be"))
}

/// Cuts `chunks` where a body would become too long or have too many.
fn put_batches(chunks: &[(ChunkHash, Bytes)], len_max: usize) -> impl Iterator<Item = &[(ChunkHash, Bytes)]> {
    let mut rest = chunks;
    std::iter::from_fn(move || {
        let mut room = len_max.saturating_sub(frame::CHUNK_OVERHEAD);
        let fits = |(_, envelope): &&(ChunkHash, Bytes)| {
            let needed = frame::CHUNK_OVERHEAD + envelope.len();
            let fits = needed <= room;
            room = room.saturating_sub(needed);
            fits
        };
        let count = rest.iter().take(HASHES_MAX).take_while(fits).count().max(1);
        let (batch, later) = rest.split_at_checked(count)?;
        rest = later;
        Some(batch)
    })
}

fn common_headers(token: &str) -> Result<HeaderMap, SetupError> {
    let token = token.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SetupError::Token);
    }
    let mut bearer = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| SetupError::Token)?;
    bearer.set_sensitive(true);
    Ok(HeaderMap::from_iter([
        (AUTHORIZATION, bearer),
        (HeaderName::from_static(VERSION_HEADER), HeaderValue::from_static(VERSION)),
        (HeaderName::from_static(features::HEADER), HeaderValue::from_static(features::NAMED)),
    ]))
}

fn client(base: &ServerUrl, headers: &HeaderMap, proxy_reads: bool) -> Result<Client, SetupError> {
    // An error means that a provider is installed already, which is as good.
    drop(rustls::crypto::ring::default_provider().install_default());
    let builder = Client::builder()
        .default_headers(headers.clone())
        .user_agent(concat!("syncmount/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT)
        .pool_idle_timeout(IDLE)
        .tcp_nodelay(true)
        .tcp_keepalive(STALL)
        .http1_only();
    // Without encryption no certificates are needed, and a small container has none.
    let builder = if base.is_https() { builder } else { builder.tls_certs_only([]) };
    let goes_straight = base.is_loopback() || (base.is_in_clear() && !proxy_reads);
    let builder = if goes_straight { builder.no_proxy() } else { builder };
    builder.build().map_err(|error| SetupError::Tls(error.to_string()))
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
