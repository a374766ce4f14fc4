//! Who may ask: a bearer token with every request.

use super::State;
use super::error::{ApiError, Result};
use axum::extract::{Request, State as Extract};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use syncmount_common::protocol::error::ErrorCode;

/// Lets a request pass that has a valid token.
pub(super) async fn require_token(Extract(state): Extract<State>, request: Request, next: Next) -> Result<Response> {
    let missing = || ApiError::new(ErrorCode::Unauthorized, "this server wants a token: `Authorization: Bearer TOKEN`");
    let secret = bearer(request.headers()).ok_or_else(missing)?;
    let wrong = || ApiError::new(ErrorCode::Unauthorized, "the token is wrong or has been revoked");
    state.service.token(secret).await?.ok_or_else(wrong)?;
    Ok(next.run(request).await)
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}
