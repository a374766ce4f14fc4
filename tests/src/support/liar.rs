//! A server that lies: it stands between a device and an honest server, and changes what that one says.
//!
//! As long as nothing is said about lies it passes everything on. A lie is a closure over each reply, or over each page of
//! the change feed; it is told from the next reply on, for polls are not held for longer than [`HELD_MAX_S`] here.

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::BytesMut;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use syncmount_common::frame::{self, Decoder, Frame};
use syncmount_common::protocol::changes::ChangesPage;
use syncmount_common::{ChunkHash, Node, NodeId};
use tokio::runtime::Runtime;

/// The longest time in seconds that a poll is held.
const HELD_MAX_S: u64 = 1;

/// The longest body that is passed on, in bytes.
const BODY_LEN_MAX: usize = 256 * 1024 * 1024;

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: Method,
    /// The path, still percent-encoded.
    pub path: String,
    /// What follows the `?`; empty if there is none.
    pub query: String,
    /// Whether its body is framed: JSON and chunks, or chunks.
    pub is_framed: bool,
}

impl Asked {
    /// Whether it asks for a page of the change feed.
    pub fn is_changes(&self) -> bool {
        self.method == Method::GET && self.path.ends_with("/changes")
    }

    /// Whether it is a commit.
    pub fn is_commit(&self) -> bool {
        self.method == Method::POST && self.path.ends_with("/commit")
    }

    /// The value of a parameter of the query, as it was written.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// What is answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, without those that follow from the body's length.
    pub headers: HeaderMap,
    /// The body as a whole.
    pub body: Vec<u8>,
}

impl Answer {
    /// Whether the body is framed: a header of JSON, then chunks.
    pub fn is_framed(&self) -> bool {
        self.headers.get(header::CONTENT_TYPE).is_some_and(|media| media == frame::CONTENT_TYPE)
    }

    /// The JSON of the body, or of the header of a framed one; the chunks behind that stay as they are.
    ///
    /// # Panics
    /// If the honest server's body is none.
    pub fn edit_json(&mut self, edit: impl FnOnce(&mut serde_json::Value)) {
        let (json, chunks) = self.taken_apart();
        let mut value = serde_json::from_slice(&json).expect("an honest server sends JSON");
        edit(&mut value);
        let json = serde_json::to_vec(&value).expect("a value can be written");
        self.put_together(&json, &chunks);
    }

    /// The page of the change feed that the body is.
    ///
    /// # Panics
    /// If it is none.
    pub fn edit_page(&mut self, edit: impl FnOnce(&mut ChangesPage)) {
        self.edit_json(|value| {
            let mut page = serde_json::from_value(value.take()).expect("an honest server sends pages");
            edit(&mut page);
            *value = serde_json::to_value(page).expect("a page can be written");
        });
    }

    fn page(&self) -> ChangesPage {
        serde_json::from_slice(&self.taken_apart().0).expect("an honest server sends pages")
    }

    /// The chunks of a framed body: their names and envelopes.
    ///
    /// # Panics
    /// If the honest server's frames are malformed.
    pub fn edit_chunks(&mut self, edit: impl FnOnce(&mut Vec<(ChunkHash, Bytes)>)) {
        let (json, mut chunks) = self.taken_apart();
        edit(&mut chunks);
        self.put_together(&json, &chunks);
    }

    fn taken_apart(&self) -> (Vec<u8>, Vec<(ChunkHash, Bytes)>) {
        if !self.is_framed() {
            return (self.body.clone(), Vec::new());
        }
        let mut decoder = Decoder::default();
        decoder.push(&self.body);
        let (mut json, mut chunks) = (Vec::new(), Vec::new());
        while let Some(frame) = decoder.next_frame().expect("an honest server's frames are well formed") {
            match frame {
                Frame::Header(header) => json = header.to_vec(),
                Frame::Chunk(hash, envelope) => chunks.push((hash, envelope)),
                Frame::End => break,
            }
        }
        (json, chunks)
    }

    fn put_together(&mut self, json: &[u8], chunks: &[(ChunkHash, Bytes)]) {
        if !self.is_framed() {
            self.body = json.to_vec();
            return;
        }
        let mut out = BytesMut::new();
        if !json.is_empty() {
            frame::put_header(&mut out, json);
        }
        chunks.iter().for_each(|(hash, envelope)| frame::put_chunk(&mut out, hash, envelope));
        frame::put_end(&mut out);
        self.body = out.to_vec();
    }
}

type Lie = Box<dyn FnMut(&Asked, &mut Answer) + Send>;

/// A proxy in this process that changes replies. It goes with the test.
pub struct Liar {
    url: String,
    shared: Arc<Shared>,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    lie: Mutex<Option<Lie>>,
    asked: AtomicU64,
    polls: AtomicU64,
    commits: AtomicU64,
    /// Seconds.
    held_max: AtomicU64,
    /// What the honest server has told of, by the name.
    ids: Mutex<HashMap<Vec<u8>, NodeId>>,
}

impl Liar {
    /// One before the honest server at `upstream`, which is `HOST:PORT`. It passes everything on.
    ///
    /// # Panics
    /// If no port is free.
    pub fn new(upstream: &str) -> Self {
        let runtime = Runtime::new().expect("there are threads");
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("there is a free port");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        // It is an error if another part of the test has installed it already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        let http = http.build().expect("a client for plain connections");
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http,
            lie: Mutex::default(),
            asked: AtomicU64::new(0),
            polls: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            held_max: AtomicU64::new(HELD_MAX_S),
            ids: Mutex::default(),
        });
        let router = Router::new().fallback(pass_on).with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { url, shared, runtime: Some(runtime) }
    }

    /// What a device is told as its server.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// From the next reply on each goes through `lie`, with what was asked for.
    pub fn lie(&self, lie: impl FnMut(&Asked, &mut Answer) + Send + 'static) {
        *self.shared.lie.lock() = Some(Box::new(lie));
    }

    /// From the next reply on each page of the change feed goes through `lie`.
    pub fn lie_in_pages(&self, mut lie: impl FnMut(&mut ChangesPage) + Send + 'static) {
        self.lie(move |asked, answer| {
            if asked.is_changes() && answer.status.is_success() {
                answer.edit_page(&mut lie);
            }
        });
    }

    /// From the next reply on each node of the change feed goes through `lie`. One that is not in a page is not told of: the
    /// honest server must have changed it.
    pub fn lie_in_nodes(&self, mut lie: impl FnMut(&mut Node) + Send + 'static) {
        self.lie_in_pages(move |page| page.nodes.iter_mut().for_each(&mut lie));
    }

    /// The id of the node that was told of last under this name, wherever it lies.
    ///
    /// # Panics
    /// If none was.
    #[track_caller]
    pub fn id_of(&self, name: &str) -> NodeId {
        let known = self.shared.ids.lock().get(name.as_bytes()).copied();
        known.unwrap_or_else(|| panic!("the server has not told of {name}"))
    }

    /// From now on no poll is held.
    pub fn answer_polls_at_once(&self) {
        self.shared.held_max.store(0, Ordering::SeqCst);
    }

    /// It is honest again, and holds polls again.
    pub fn be_honest(&self) {
        self.shared.held_max.store(HELD_MAX_S, Ordering::SeqCst);
        *self.shared.lie.lock() = None;
    }

    /// How many requests there were.
    pub fn asked(&self) -> u64 {
        self.shared.asked.load(Ordering::SeqCst)
    }

    /// How many of them asked for pages of the change feed.
    pub fn polls(&self) -> u64 {
        self.shared.polls.load(Ordering::SeqCst)
    }

    /// How many of them were commits.
    pub fn commits(&self) -> u64 {
        self.shared.commits.load(Ordering::SeqCst)
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The node with this name in a page, wherever it lies.
pub fn node_named<'a>(page: &'a mut ChangesPage, name: &str) -> Option<&'a mut Node> {
    let is_it = |node: &&mut Node| node.names.iter().any(|place| place.name.as_bytes() == name.as_bytes());
    page.nodes.iter_mut().find(is_it)
}

/// The id of the node with this name in a page.
pub fn id_named(page: &ChangesPage, name: &str) -> Option<NodeId> {
    let is_it = |node: &&Node| node.names.iter().any(|place| place.name.as_bytes() == name.as_bytes());
    page.nodes.iter().find(is_it).map(|node| node.id)
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let uri = request.uri();
    let query = uri.query().unwrap_or_default().to_owned();
    let is_framed = request.headers().get(header::CONTENT_TYPE).is_some_and(|media| media == frame::CONTENT_TYPE);
    let asked = Asked { method: request.method().clone(), path: uri.path().to_owned(), query, is_framed };
    shared.asked.fetch_add(1, Ordering::SeqCst);
    shared.polls.fetch_add(u64::from(asked.is_changes()), Ordering::SeqCst);
    shared.commits.fetch_add(u64::from(asked.is_commit()), Ordering::SeqCst);
    let mut answer = match shared.ask(&asked, request).await {
        Ok(answer) => answer,
        Err(error) => {
            // As from a gateway whose server is away: the device tries again.
            let body = error.to_string().into_bytes();
            Answer { status: StatusCode::BAD_GATEWAY, headers: HeaderMap::new(), body }
        }
    };
    if asked.is_changes() && answer.status.is_success() {
        shared.note_ids(&answer.page());
    }
    if let Some(lie) = &mut *shared.lie.lock() {
        lie(&asked, &mut answer);
    }
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = answer.status;
    *response.headers_mut() = answer.headers;
    response
}

impl Shared {
    fn note_ids(&self, page: &ChangesPage) {
        let mut ids = self.ids.lock();
        for node in &page.nodes {
            ids.extend(node.names.iter().map(|place| (place.name.as_bytes().to_vec(), node.id)));
        }
    }

    async fn ask(&self, asked: &Asked, request: Request) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        // Bodies come as they are: a lie is not told in compressed bytes.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for own in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
            headers.remove(own);
        }
        let url = format!("http://{}{}{}", self.upstream, asked.path, self.query_with_short_wait(asked));
        let body = to_bytes(body, BODY_LEN_MAX).await?;
        let sent = self.http.request(asked.method.clone(), url).headers(headers).body(body);
        let reply = sent.timeout(Duration::from_secs(120)).send().await?;
        let (status, mut headers) = (reply.status(), reply.headers().clone());
        let body = reply.bytes().await?.to_vec();
        if asked.method != Method::HEAD {
            headers.remove(header::CONTENT_LENGTH);
        }
        for own in [header::TRANSFER_ENCODING, header::CONNECTION] {
            headers.remove(own);
        }
        Ok(Answer { status, headers, body })
    }

    fn query_with_short_wait(&self, asked: &Asked) -> String {
        let held_max = self.held_max.load(Ordering::SeqCst);
        let shorter = |pair: &str| match pair.split_once('=') {
            Some(("wait", seconds)) if asked.is_changes() => {
                format!("wait={}", seconds.parse::<u64>().unwrap_or(0).min(held_max))
            }
            _ => pair.to_owned(),
        };
        if asked.query.is_empty() {
            return String::new();
        }
        format!("?{}", asked.query.split('&').map(shorter).collect::<Vec<_>>().join("&"))
    }
}
