//! `GET /healthz`: whether the server can do its work. Needs no token.

use super::State;
use super::error::Result;
use axum::extract::State as Extract;
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;

#[cfg_attr(test, utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "health", security(()),
    responses((status = 200, body = String, description = "the store answers"), (status = "default", body = ErrorBody)),
))]
pub(super) async fn get(Extract(state): Extract<State>) -> Result<&'static str> {
    state.service.check().await?;
    Ok("ok")
}
