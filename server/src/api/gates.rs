//! Places for requests: so many for all, so many for each credential, and the memory that they share.

use super::State;
use super::auth::missing;
use super::error::ApiError;
use super::limits::Limits;
use crate::service::{Account, Allowance, Budget, Credential};
use axum::body::Body;
use axum::extract::{FromRequestParts, Request, State as Extract};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use hyper::body as http_body;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use syncmount_common::protocol::error::ErrorCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Credentials that are remembered while they have no request. Which those are is for the owner of the server to say.
const IDLE_MAX: usize = 1024;

/// The limits as they are counted.
#[derive(Clone)]
pub(super) struct Gates {
    all: Arc<Places>,
    budget: Budget,
    credentials: Arc<Mutex<HashMap<String, Arc<Share>>>>,
    limits: Arc<Limits>,
}

/// Places for requests.
struct Places {
    polls: Arc<Semaphore>,
    requests: Arc<Semaphore>,
}

/// What one credential may use.
struct Share {
    places: Places,
    account: Account,
}

/// Which places a request needs.
#[derive(Clone, Copy)]
enum Kind {
    Poll,
    Request,
}

impl Places {
    fn new(polls: usize, requests: usize) -> Self {
        Self { polls: Arc::new(Semaphore::new(polls)), requests: Arc::new(Semaphore::new(requests)) }
    }

    fn take(&self, kind: Kind) -> Option<OwnedSemaphorePermit> {
        let places = match kind {
            Kind::Poll => &self.polls,
            Kind::Request => &self.requests,
        };
        Arc::clone(places).try_acquire_owned().ok()
    }
}

impl Gates {
    pub(super) fn new(limits: &Arc<Limits>) -> Self {
        Self {
            all: Arc::new(Places::new(limits.polls_max, limits.requests_max)),
            budget: Budget::new(limits.memory_max, limits.token_memory_max, limits.stall_time),
            credentials: Arc::default(),
            limits: Arc::clone(limits),
        }
    }

    fn share(&self, credential: &str) -> Arc<Share> {
        let mut credentials = self.credentials.lock();
        if let Some(share) = credentials.get(credential) {
            return Arc::clone(share);
        }
        if credentials.len() >= IDLE_MAX {
            credentials.retain(|_, share| Arc::strong_count(share) > 1);
        }
        let places = Places::new(self.limits.token_polls_max, self.limits.token_requests_max);
        let share = Arc::new(Share { places, account: self.budget.account() });
        credentials.insert(credential.to_owned(), Arc::clone(&share));
        share
    }

    /// A place among those of the credential, and one among all.
    fn admit(&self, kind: Kind, credential: &str) -> Result<Admitted, ApiError> {
        let busy = |text| ApiError::new(ErrorCode::Busy, text);
        let share = self.share(credential);
        let own = share.places.take(kind);
        let own = own.ok_or_else(|| busy("this token has as many requests as it may have: try again in a moment"))?;
        let all = self.all.take(kind);
        let all = all.ok_or_else(|| busy("the server has as many requests as it takes: try again in a moment"))?;
        let allowance = share.account.allowance();
        Ok(Admitted { allowance, _places: [own, all], _share: share })
    }
}

/// What a request holds until its reply is sent.
struct Admitted {
    allowance: Allowance,
    _places: [OwnedSemaphorePermit; 2],
    _share: Arc<Share>,
}

/// A place among the held polls, until the reply is sent.
pub(super) async fn poll(Extract(state): Extract<State>, mut request: Request, next: Next) -> Response {
    match admit(&state, Kind::Poll, &mut request) {
        Ok(admitted) => held(next.run(request).await, admitted),
        Err(busy) => busy.into_response(),
    }
}

/// A place among the other requests, until the reply is sent. A client that goes away does not free what its request uses:
/// the work goes on to its end.
pub(super) async fn request(Extract(state): Extract<State>, mut request: Request, next: Next) -> Response {
    let admitted = match admit(&state, Kind::Request, &mut request) {
        Ok(admitted) => admitted,
        Err(busy) => return busy.into_response(),
    };
    let waits = Waits(Some(admitted.allowance.clone()));
    let work = tokio::spawn(async move { held(next.run(request).await, admitted) });
    let done = work.await;
    waits.end();
    match done {
        Ok(response) => response,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => ApiError::new(ErrorCode::Busy, "the server is stopping").into_response(),
    }
}

/// A client that waits for its answer. What is asked for one that no longer does, waits for no memory.
struct Waits(Option<Allowance>);

impl Waits {
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        if let Some(allowance) = &self.0 {
            allowance.give_up();
        }
    }
}

fn admit(state: &State, kind: Kind, request: &mut Request) -> Result<Admitted, ApiError> {
    let credential = request.extensions().get::<Credential>().ok_or_else(missing)?;
    let admitted = state.gates.admit(kind, credential.name())?;
    request.extensions_mut().insert(admitted.allowance.clone());
    Ok(admitted)
}

fn held(response: Response, admitted: Admitted) -> Response {
    response.map(|body| Body::new(Held { body, admitted: Arc::new(admitted) }))
}

/// A reply's body that holds what its request holds until it is sent or dropped: each piece does, because pieces wait to be
/// sent after the body has given the last one away.
struct Held {
    body: Body,
    admitted: Arc<Admitted>,
}

struct Piece {
    bytes: Bytes,
    _admitted: Arc<Admitted>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = |bytes| Bytes::from_owner(Piece { bytes, _admitted: Arc::clone(&self.admitted) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The state for one request: its service works on behalf of the request's token, and takes memory only as far as the request may.
pub(super) struct Asked(pub(super) State);

impl FromRequestParts<State> for Asked {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &State) -> Result<Self, ApiError> {
        let credential = parts.extensions.get::<Credential>().cloned().ok_or_else(missing)?;
        let allowance = parts.extensions.get::<Allowance>().cloned().unwrap_or_default();
        let service = state.service.acting_for(credential).within(allowance.clone());
        Ok(Self(State { service, allowance, ..state.clone() }))
    }
}
