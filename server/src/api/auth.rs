//! Who may ask: a bearer token with every request.

use super::State;
use super::error::{ApiError, Result, WrongCursor};
use crate::service::ServiceError;
use axum::extract::{Request, State as Extract};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::middleware::Next;
use axum::response::Response;
use syncmount_common::protocol::error::ErrorCode;

/// Lets a request pass that has a valid token, and notes which one it is.
pub(super) async fn require_token(
    Extract(state): Extract<State>,
    mut request: Request,
    next: Next,
) -> Result<Response> {
    let secret = bearer(request.headers()).ok_or_else(missing)?;
    let credential = state.service.credential(secret).await?.ok_or(ServiceError::Revoked)?;
    request.extensions_mut().insert(credential.clone());
    let response = next.run(request).await;
    if response.extensions().get::<WrongCursor>().is_some() {
        state.service.note_wrong_cursor(credential.name());
    }
    Ok(response)
}

pub(super) fn missing() -> ApiError {
    ApiError::new(ErrorCode::Unauthorized, "this server wants a token: `Authorization: Bearer TOKEN`")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(secret.trim())
}
