//! Bounds on everything that a client can make the server hold: requests at once, bytes of a body, time without progress.

use super::State;
use super::error::{ApiError, Result};
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State as Extract};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use hyper::body as http_body;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use syncmount_common::protocol::error::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much of everything is allowed at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Held polls.
    pub polls_max: usize,
    /// Other requests.
    pub requests_max: usize,
    /// Requests with a body beyond [`LARGE_LEN`] that are read at the same time; further ones wait.
    pub large_bodies_max: usize,
    /// Open connections; further ones wait to be accepted.
    pub connections_max: usize,
    /// A request that moves no stream of bytes is given up after this time.
    pub request_time: Duration,
    /// A body that makes no progress for this time is given up.
    pub stall_time: Duration,
    /// A request's head must be complete after this time.
    pub head_time: Duration,
    /// How long running requests may take to finish after the server was told to stop.
    pub stop_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            polls_max: 4096,
            requests_max: 256,
            large_bodies_max: 8,
            connections_max: 8192,
            request_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
            head_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(10),
        }
    }
}

/// A body beyond this length needs a place among the large ones.
pub const LARGE_LEN: usize = 1024 * 1024;

/// The limits as they are counted.
#[derive(Clone)]
pub(super) struct Gates {
    polls: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Gates {
    pub(super) fn new(limits: &Limits) -> Self {
        let gate = |places| Arc::new(Semaphore::new(places));
        Self {
            polls: gate(limits.polls_max),
            requests: gate(limits.requests_max),
            large: gate(limits.large_bodies_max),
        }
    }
}

/// A place among the held polls, until the reply is sent.
pub(super) async fn poll(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    within(Arc::clone(&state.gates.polls), request, next).await
}

/// A place among the other requests, until the reply is sent.
pub(super) async fn request(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    within(Arc::clone(&state.gates.requests), request, next).await
}

/// Gives a request up that takes too long. Not for those that move streams of bytes.
pub(super) async fn time(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let late = |_| ApiError::new(ErrorCode::Timeout, "the request took too long: try again").into_response();
    tokio::time::timeout(state.limits.request_time, next.run(request)).await.unwrap_or_else(late)
}

async fn within(gate: Arc<Semaphore>, request: Request, next: Next) -> Response {
    let Ok(permit) = gate.try_acquire_owned() else {
        let text = "the server has as many requests as it takes: try again in a moment";
        return ApiError::new(ErrorCode::Busy, text).into_response();
    };
    let response = next.run(request).await;
    response.map(|body| Body::new(Held { body, _permit: permit }))
}

/// A reply's body that holds its request's place until it is sent or dropped.
struct Held {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// Reads a request's body under all limits.
pub(super) struct BodyReader {
    stream: BodyDataStream,
    received: usize,
    len_max: usize,
    stall_time: Duration,
    large: Option<Arc<Semaphore>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl BodyReader {
    /// For a body that is held in memory: at most `len_max` bytes.
    pub(super) fn new(state: &State, headers: &HeaderMap, body: Body, len_max: usize) -> Result<Self> {
        if announced_len(headers).is_some_and(|len| len > len_max as u64) {
            return Err(too_large(len_max));
        }
        let large = Some(Arc::clone(&state.gates.large));
        Ok(Self { large, len_max, ..Self::streamed(state, body) })
    }

    /// For a body of any length that passes through.
    pub(super) fn streamed(state: &State, body: Body) -> Self {
        let (stream, stall_time) = (body.into_data_stream(), state.limits.stall_time);
        Self { stream, received: 0, len_max: usize::MAX, stall_time, large: None, permit: None }
    }

    /// The next bytes, none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let stalled = |_| ApiError::new(ErrorCode::Timeout, "the request's body stopped coming: send it again");
        let next = tokio::time::timeout(self.stall_time, self.stream.next()).await.map_err(stalled)?;
        let Some(bytes) = next.transpose().map_err(|_| cut_short())? else { return Ok(None) };
        self.received = self.received.saturating_add(bytes.len());
        if self.received > self.len_max {
            return Err(too_large(self.len_max));
        }
        if self.received > LARGE_LEN && self.permit.is_none() {
            self.wait_for_place().await?;
        }
        Ok(Some(bytes))
    }

    /// The whole body.
    pub(super) async fn all(mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }

    async fn wait_for_place(&mut self) -> Result<()> {
        let Some(large) = self.large.clone() else { return Ok(()) };
        let busy = || ApiError::new(ErrorCode::Busy, "too many large requests at once: try again in a moment");
        let place = tokio::time::timeout(self.stall_time, large.acquire_owned()).await.map_err(|_| busy())?;
        self.permit = Some(place.map_err(|_| busy())?);
        Ok(())
    }
}

/// The length that the request announces.
pub(super) fn announced_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(len_max: usize) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("the request's body is longer than {len_max} bytes"))
}

fn cut_short() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the request's body was cut short; nothing was stored")
}
