//! Bounds on what a client can make the server hold: bytes of a body, time without progress, and how much of everything.

use super::State;
use super::error::{ApiError, Result};
use crate::service::{Allowance, Charge, FREE_LEN};
use axum::body::{Body, BodyDataStream};
use axum::extract::{Request, State as Extract};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures::StreamExt as _;
use std::net::IpAddr;
use std::time::Duration;
use syncmount_common::protocol::error::ErrorCode;
use tokio::time::Instant;

/// How much of everything is allowed at once.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Held polls.
    pub polls_max: usize,
    /// Other requests.
    pub requests_max: usize,
    /// Held polls of one credential.
    pub token_polls_max: usize,
    /// Other requests of one credential.
    pub token_requests_max: usize,
    /// Bytes of memory for large bodies, chunks, pages and manifests.
    pub memory_max: u64,
    /// The share of it that one credential may use, in bytes.
    pub token_memory_max: u64,
    /// Open connections; further ones wait to be accepted. Fewer if the process may not have so many file descriptors.
    pub connections_max: usize,
    /// Addresses of proxies, which may have all connections. Any other address may have half of them.
    pub proxies: Vec<IpAddr>,
    /// A request that moves no stream of bytes is given up after this time.
    pub request_time: Duration,
    /// A body that makes no progress for this time is given up, and one that is behind [`Self::body_rate`] by this time.
    pub stall_time: Duration,
    /// Bytes a second that a body must move on average. The first [`FREE_LEN`] bytes must be there within [`Self::stall_time`].
    pub body_rate: u64,
    /// The longest file that is put without its length announced, in bytes: it is cut as a short one, and must not fill the disk
    /// unseen.
    pub unannounced_len_max: u64,
    /// A connection's first byte must be there after this time.
    pub first_time: Duration,
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
            token_polls_max: 512,
            token_requests_max: 64,
            memory_max: 128 << 20,
            token_memory_max: 64 << 20,
            connections_max: 8192,
            proxies: Vec::new(),
            request_time: Duration::from_secs(60),
            stall_time: Duration::from_secs(60),
            body_rate: 1024,
            unannounced_len_max: 64 << 30,
            first_time: Duration::from_secs(10),
            head_time: Duration::from_secs(30),
            stop_time: Duration::from_secs(10),
        }
    }
}

/// Gives a request up that takes too long. Not for those that move streams of bytes.
pub(super) async fn time(Extract(state): Extract<State>, request: Request, next: Next) -> Response {
    let late = |_| ApiError::new(ErrorCode::Timeout, "the request took too long: try again").into_response();
    tokio::time::timeout(state.limits.request_time, next.run(request)).await.unwrap_or_else(late)
}

/// How far a stream of bytes may be behind its rate.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    rate: u64,
    most: Duration,
    left: Duration,
    free: u64,
}

impl Pace {
    /// `most` is the time that may pass without progress.
    pub(super) const fn new(rate: u64, most: Duration, free: u64) -> Self {
        Self { rate, most, left: most, free }
    }

    /// The time until the stream is too far behind.
    pub(super) const fn left(&self) -> Duration {
        self.left
    }

    /// So many bytes came after the stream was waited for so long.
    pub(super) fn moved(&mut self, bytes: u64, waited: Duration) {
        self.left = self.left.saturating_sub(waited);
        let counted = bytes.saturating_sub(self.free);
        self.free = self.free.saturating_sub(bytes);
        let gained = Duration::from_micros(counted.saturating_mul(1_000_000) / self.rate.max(1));
        self.left = self.left.saturating_add(gained).min(self.most);
    }
}

/// Reads a request's body under all limits.
pub(super) struct BodyReader {
    stream: BodyDataStream,
    received: u64,
    len_max: u64,
    pace: Pace,
    allowance: Allowance,
    /// Memory that is taken when the body turns out to be large.
    cost: u64,
    charge: Charge,
    charged: bool,
    oversize: bool,
}

impl BodyReader {
    /// For a body of at most `len_max` bytes, which takes `cost(length)` bytes of memory if it is large. A body that does not
    /// announce its length counts as the longest.
    pub(super) fn new(
        state: &State,
        headers: &HeaderMap,
        body: Body,
        len_max: u64,
        cost: impl FnOnce(u64) -> u64,
    ) -> Result<Self> {
        let announced = announced_len(headers);
        if announced.is_some_and(|len| len > len_max) {
            return Err(too_large(len_max));
        }
        Ok(Self {
            stream: body.into_data_stream(),
            received: 0,
            len_max,
            pace: Pace::new(state.limits.body_rate, state.limits.stall_time, FREE_LEN),
            allowance: state.allowance.clone(),
            cost: cost(announced.unwrap_or(len_max)),
            charge: Charge::default(),
            charged: false,
            oversize: false,
        })
    }

    /// The next bytes, none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let stalled = |_| ApiError::new(ErrorCode::Timeout, "the request's body comes too slowly: send it again");
        let begin = Instant::now();
        let next = tokio::time::timeout(self.pace.left(), self.stream.next()).await.map_err(stalled)?;
        let Some(bytes) = next.transpose().map_err(|_| cut_short())? else { return Ok(None) };
        self.pace.moved(bytes.len() as u64, begin.elapsed());
        self.received = self.received.saturating_add(bytes.len() as u64);
        if self.received > self.len_max {
            return Err(too_large(self.len_max));
        }
        if self.received > FREE_LEN && !self.charged {
            self.make_room(self.cost).await?;
        }
        Ok(Some(bytes))
    }

    /// Takes memory for `cost` bytes, instead of what was taken before. What is beyond the credential's share waits for its
    /// turn among such bodies.
    pub(super) async fn make_room(&mut self, cost: u64) -> Result<()> {
        self.charge = Charge::default();
        self.charged = true;
        self.cost = cost;
        self.oversize = !self.allowance.has(cost);
        self.charge = if self.oversize {
            self.allowance.charge_oversize(cost / PARSED_TIMES).await?
        } else {
            self.allowance.charge(cost).await?
        };
        Ok(())
    }

    /// The whole body, and its memory.
    pub(super) async fn all(mut self) -> Result<(Vec<u8>, Charge)> {
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok((all, self.received_whole().await?))
    }

    /// The memory of a body that is there and is to be parsed; one beyond the share waits for what it lacks.
    pub(super) async fn received_whole(&mut self) -> Result<Charge> {
        if std::mem::take(&mut self.oversize) {
            self.allowance.hold_rest(&self.charge, self.cost).await?;
        }
        Ok(std::mem::take(&mut self.charge))
    }
}

/// A body counts so many times while it is parsed.
pub(super) const PARSED_TIMES: u64 = 3;

/// The length that the request announces.
pub(super) fn announced_len(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

pub(super) fn too_large(len_max: u64) -> ApiError {
    ApiError::new(ErrorCode::TooLarge, format!("the request's body is longer than {len_max} bytes"))
}

fn cut_short() -> ApiError {
    ApiError::new(ErrorCode::BadRequest, "the request's body was cut short; nothing was stored")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_be_behind_its_pace_by_so_much() {
        let second = Duration::from_secs(1);
        let mut pace = Pace::new(1000, 10 * second, 500);
        pace.moved(500, 4 * second);
        assert_eq!(pace.left(), 6 * second, "the first bytes gain nothing");
        pace.moved(2000, second);
        assert_eq!(pace.left(), 7 * second);
        pace.moved(1_000_000, second);
        assert_eq!(pace.left(), 10 * second, "nothing is saved up");
        pace.moved(1, 11 * second);
        assert_eq!(pace.left(), Duration::from_millis(1));
        pace.moved(u64::MAX, Duration::MAX);
        assert_eq!(pace.left(), 10 * second);
    }
}
