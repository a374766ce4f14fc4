//! HTTP: from requests to the service and back. The one place with status codes, headers and media types.
//!
//! Owns what a client may make the server hold ([`Limits`]) and the shape of every error. Has no rules about folders,
//! nodes or chunks; a handler reads the request, asks the service once, and writes the reply.

mod auth;
mod changes;
mod chunks;
mod commit;
mod connections;
mod error;
mod files;
mod folders;
mod gates;
mod health;
mod holds;
mod limits;
mod openapi;
mod request;
mod undo;
mod validators;

pub use connections::serve;
pub use limits::Limits;

use crate::service::{Allowance, Service};
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Router, middleware::Next};
use error::ApiError;
use std::any::Any;
use std::sync::Arc;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::{VERSION, VERSION_HEADER, features};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

/// What every handler may use.
#[derive(Clone)]
pub struct State {
    service: Service,
    limits: Arc<Limits>,
    gates: gates::Gates,
    /// The memory that the request may take.
    allowance: Allowance,
    /// Cancelled when the server stops: held polls are then answered at once.
    stopping: CancellationToken,
}

impl State {
    /// State over a service.
    pub fn new(service: Service, limits: Limits, stopping: CancellationToken) -> Self {
        let limits = Arc::new(limits);
        let gates = gates::Gates::new(&limits);
        Self { service, limits, gates, allowance: Allowance::default(), stopping }
    }
}

/// Every path that is described, as OpenAPI writes it.
#[cfg(test)]
const ROUTES: &[&str] = &[
    "/healthz",
    "/v1/folders",
    "/v1/folders/{folder}",
    "/v1/folders/{folder}/changes",
    "/v1/folders/{folder}/commit",
    "/v1/folders/{folder}/undo",
    "/v1/folders/{folder}/holds",
    "/v1/folders/{folder}/holds/{device}/allow",
    "/v1/folders/{folder}/holds/{device}/deny",
    "/v1/folders/{folder}/files/{path}",
    "/v1/chunks",
    "/v1/chunks/missing",
    "/v1/chunks/fetch",
    "/v1/chunks/{hash}",
    "/v1/contents/{hash}",
];

/// The table of contents.
pub fn router(state: State) -> Router {
    let held = Router::new()
        .route("/v1/folders/{folder}/changes", get(changes::get))
        .route_layer(from_fn_with_state(state.clone(), gates::poll))
        .route_layer(from_fn_with_state(state.clone(), auth::require_token));
    let short = Router::new()
        .route("/v1/folders", get(folders::list))
        .route("/v1/folders/{folder}", get(folders::get))
        .route("/v1/folders/{folder}/holds", get(holds::list))
        .route("/v1/folders/{folder}/holds/{device}/allow", post(holds::allow))
        .route("/v1/folders/{folder}/holds/{device}/deny", post(holds::deny))
        .route("/v1/chunks/missing", post(chunks::missing))
        .route("/v1/chunks/{hash}", get(chunks::get))
        .route("/v1/contents/{hash}", get(chunks::manifest))
        .route_layer(from_fn_with_state(state.clone(), limits::time));
    // These move streams of bytes, or go over a whole folder: they have a limit on stalls instead of one on time.
    let streams = Router::new()
        .route("/v1/folders/{folder}/commit", post(commit::post))
        .route("/v1/folders/{folder}/undo", post(undo::post))
        .route("/v1/chunks", post(chunks::put))
        .route("/v1/chunks/fetch", post(chunks::fetch))
        .route("/v1/folders/{folder}/files", get(files::get).put(files::put).delete(files::delete))
        .route("/v1/folders/{folder}/files/", get(files::get).put(files::put).delete(files::delete))
        .route("/v1/folders/{folder}/files/{*path}", get(files::get).put(files::put).delete(files::delete));
    let counted = short
        .merge(streams)
        .route_layer(from_fn_with_state(state.clone(), gates::request))
        .route_layer(from_fn_with_state(state.clone(), auth::require_token));
    Router::new()
        .route("/healthz", get(health::get))
        .route("/openapi.json", get(openapi::get))
        .merge(held)
        .merge(counted)
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(log))
        .with_state(state)
}

async fn unknown_route(request: Request) -> ApiError {
    let path = request.uri().path();
    ApiError::new(ErrorCode::NotFound, format!("`{path}` is no part of this API; `/openapi.json` describes it"))
}

async fn unknown_method(request: Request) -> ApiError {
    let (method, path) = (request.method(), request.uri().path());
    ApiError::new(ErrorCode::MethodNotAllowed, format!("`{path}` does not take `{method}`; see `/openapi.json`"))
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("without a message"), "a handler panicked");
    ApiError::new(ErrorCode::Internal, "a fault of the server; its log has the details").into_response()
}

/// Logs each request, never its headers: they carry the token. Every reply tells the protocol's version and what is taken
/// beyond, that browsers must not guess what it is, and that nothing keeps a copy unless it never changes.
async fn log(request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let begin = tokio::time::Instant::now();
    let mut response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), begin.elapsed().as_millis());
    tracing::debug!(%method, path, status, ms, "request");
    // What changes is kept by nothing on the way; what never changes says so itself.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(VERSION_HEADER, HeaderValue::from_static(VERSION));
    response.headers_mut().insert(features::HEADER, HeaderValue::from_static(features::NAMED));
    response
}
