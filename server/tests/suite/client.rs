//! A server and a client for it, over real sockets.

use crate::program::{FILES, Program, limited};
use crate::support::{F, empty, request};
use bytes::{Bytes, BytesMut};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::de::DeserializeOwned;
use std::sync::Once;
use syncmount_common::ChunkHash;
use syncmount_common::frame::{self, Decoder, Frame};
use syncmount_common::protocol::changes::{ChangesPage, Cursor};
use syncmount_common::protocol::chunks::{ChunkList, MissingReply};
use syncmount_common::protocol::commit::{CommitRequest, Committed, Op};
use syncmount_common::protocol::error::{ErrorBody, ErrorCode};
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_server::{Config, Limits, Running, Server};

/// A client without a server of its own.
#[derive(Clone)]
pub struct Client {
    pub http: reqwest::Client,
    pub url: String,
    pub token: String,
}

/// A server on a free port over a directory that goes away with it: the real program, or one in this process.
pub struct Served<S = Program> {
    pub server: S,
    pub client: Client,
    pub directory: tempfile::TempDir,
}

impl<S> std::ops::Deref for Served<S> {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

pub async fn serve() -> Served {
    serve_with(&[]).await
}

pub async fn serve_with(options: &[&str]) -> Served {
    serve_limited(FILES, options).await
}

/// The real program with this limit on open files.
pub async fn serve_limited(files: u32, options: &[&str]) -> Served {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let start = move || Program::start(limited(files), &data, &options.iter().map(String::as_str).collect::<Vec<_>>());
    let (server, client) = tokio::task::spawn_blocking(start).await.unwrap();
    Served { server, client, directory }
}

/// A server in this process.
pub async fn serve_here(limits: Limits) -> Served<Running> {
    serve_over(tempfile::tempdir().unwrap(), limits).await
}

/// A server in this process whose data is in `data` of this directory, which goes away with it.
pub async fn serve_over(directory: tempfile::TempDir, limits: Limits) -> Served<Running> {
    let config = Config { limits, ..Config::new(directory.path().join("data")).listening_on("127.0.0.1:0") };
    let server = Server::open(config).await.unwrap();
    let token = std::fs::read_to_string(server.admin_token()).unwrap().trim().to_owned();
    let client = Client::new(format!("http://{}", server.address()), token);
    Served { server: server.spawn(), client, directory }
}

impl Client {
    pub fn new(url: String, token: String) -> Self {
        static PROVIDER: Once = Once::new();
        PROVIDER.call_once(|| rustls::crypto::ring::default_provider().install_default().unwrap());
        Self { http: reqwest::Client::builder().no_proxy().build().unwrap(), url, token }
    }

    pub fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.ask(Method::GET, path)
    }

    pub fn post(&self, path: &str, json: &impl serde::Serialize) -> RequestBuilder {
        self.ask(Method::POST, path).json(json)
    }

    pub fn framed(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.ask(Method::POST, path).header("content-type", frame::CONTENT_TYPE).body(body)
    }

    pub async fn folder(&self) -> FolderInfo {
        good(self.get(&format!("/v1/folders/{F}")).send().await.unwrap()).await
    }

    pub async fn request(&self, ops: Vec<Op>) -> CommitRequest {
        let contents = vec![empty()];
        CommitRequest { contents, ..request(self.folder().await.cursor.epoch, ops) }
    }

    /// Commits operations that refer to the empty content or to none.
    pub async fn commit(&self, ops: Vec<Op>) -> Committed {
        let request = self.request(ops).await;
        good(self.post(&format!("/v1/folders/{F}/commit"), &request).send().await.unwrap()).await
    }

    pub async fn missing(&self, chunks: &[ChunkHash]) -> Vec<ChunkHash> {
        let list = ChunkList { chunks: chunks.to_vec() };
        good::<MissingReply>(self.post("/v1/chunks/missing", &list).send().await.unwrap()).await.missing
    }

    pub fn changes(&self, since: Option<Cursor>, rest: &str) -> RequestBuilder {
        let since = since.map(|cursor| format!("since={cursor}&")).unwrap_or_default();
        self.get(&format!("/v1/folders/{F}/changes?{since}{rest}"))
    }

    pub async fn page(&self, since: Option<Cursor>, rest: &str) -> ChangesPage {
        good(self.changes(since, rest).send().await.unwrap()).await
    }
}

/// A success and its JSON.
pub async fn good<T: DeserializeOwned>(response: Response) -> T {
    assert_eq!(response.headers()["syncmount-protocol"], "1");
    let (status, text) = (response.status(), response.text().await.unwrap());
    assert!(status.is_success(), "{status}: {text}");
    serde_json::from_str(&text).unwrap()
}

/// A refusal in the one shape.
pub async fn refused(request: RequestBuilder, status: u16, code: ErrorCode) -> ErrorBody {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["syncmount-protocol"], "1");
    let (got, text) = (response.status(), response.text().await.unwrap());
    let body: ErrorBody = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {got} {text}"));
    assert_eq!((got, body.code), (StatusCode::from_u16(status).unwrap(), code), "{text}");
    assert!(!body.message.is_empty());
    body
}

/// A framed body.
pub fn frames(header: Option<&[u8]>, chunks: &[(ChunkHash, Bytes)]) -> BytesMut {
    let mut out = BytesMut::new();
    if let Some(json) = header {
        frame::put_header(&mut out, json);
    }
    for (hash, envelope) in chunks {
        frame::put_chunk(&mut out, hash, envelope);
    }
    frame::put_end(&mut out);
    out
}

/// What a whole framed body holds.
pub fn unframed(bytes: &[u8]) -> Vec<Frame> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    let mut all = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        all.push(frame);
    }
    decoder.finish().unwrap();
    all
}

impl Served {
    /// The same server with another token, which is made for it.
    pub async fn another(&self, name: &str) -> Client {
        let mut command = limited(FILES);
        command.args(["token", "add", name, "--data"]).arg(self.directory.path().join("data"));
        let made = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Client { token: String::from_utf8(made.stdout).unwrap().trim().to_owned(), ..self.client.clone() }
    }
}
