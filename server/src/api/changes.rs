//! `GET /v1/folders/FOLDER/changes`.

use super::State;
use super::error::{ApiError, Result};
use super::gates::Asked;
use super::request::{Folder, Params, peer};
use crate::service::{Changes, Poll};
use axum::Json;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use bytes::BytesMut;
use serde::Deserialize;
use std::time::Duration;
#[cfg(test)]
use syncmount_common::protocol::changes::ChangesPage;
use syncmount_common::protocol::changes::{Cursor, PAGE_NODES_MAX, ParseCursorError, WAIT_S_MAX};
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::features::Feature;
use syncmount_common::protocol::session::Session;
use syncmount_common::{DeviceId, frame};

/// The query.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct ChangesQuery {
    /// `EPOCH:SEQ:TAG`; absent: from the begin.
    since: Option<String>,
    /// `EPOCH:SEQ:TAG`: a position past `since` that is known too.
    known: Option<String>,
    /// Seconds to hold the answer until there is a change, at most 55.
    #[serde(default)]
    wait: u64,
    /// The largest number of nodes, 1 to 10,000.
    limit: Option<usize>,
    /// Chunks of contents up to this size ride along, at most 65,536.
    #[serde(default)]
    inline: u64,
    /// The device that asks: contents that it wrote itself do not ride along.
    device: Option<DeviceId>,
    /// The session in which it asks.
    #[cfg_attr(test, param(value_type = Option<String>))]
    session: Option<Session>,
}

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/folders/{folder}/changes", tag = "changes", operation_id = "get_changes",
    params(("folder" = String, Path, description = "name or id of the folder"), ChangesQuery),
    responses(
        (status = 200, body = ChangesPage, description = "framed with chunks behind it if `inline` is above 0"),
        (status = 409, body = ErrorBody, description = "`superseded`: the device has another session now"),
        (status = 410, body = ErrorBody, description = "`resync`: the cursor is not of this history"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn get(
    Asked(state): Asked,
    Folder(folder): Folder,
    Params(query): Params<ChangesQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    let invalid = |error: ParseCursorError| ApiError::new(ErrorCode::Invalid, error.to_string());
    let position = |text: Option<&str>| text.map(str::parse::<Cursor>).transpose().map_err(invalid);
    let (since, known) = (position(query.since.as_deref())?, position(query.known.as_deref())?);
    let ChangesQuery { limit, inline, device, session, .. } = query;
    let extra = peer(&headers).has(Feature::ExtraFields);
    let poll = Poll { since, known, limit: limit.unwrap_or(PAGE_NODES_MAX), inline, device, session, extra };
    let wait = Duration::from_secs(query.wait.min(WAIT_S_MAX));
    let late = |_| ApiError::new(ErrorCode::Timeout, "the request took too long: try again");
    let held = state.service.poll(&folder, poll, over(&state, wait));
    let changes = tokio::time::timeout(wait + state.limits.request_time, held).await.map_err(late)??;
    Ok(reply(&changes, query.inline > 0))
}

/// Ends when a held poll is to be answered: the time is up, or the server stops.
async fn over(state: &State, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => (),
        () = state.stopping.cancelled() => (),
    }
}

fn reply(changes: &Changes, framed: bool) -> Response {
    if !framed {
        return Json(&changes.page).into_response();
    }
    let json = match serde_json::to_vec(&changes.page) {
        Ok(json) => json,
        Err(error) => return ApiError::from(error).into_response(),
    };
    let bodies: usize = changes.chunks.iter().map(|(_, body)| body.len() + frame::CHUNK_OVERHEAD).sum();
    let mut out = BytesMut::with_capacity(json.len() + bodies + 16);
    frame::put_header(&mut out, &json);
    for (hash, envelope) in &changes.chunks {
        frame::put_chunk(&mut out, hash, envelope);
    }
    frame::put_end(&mut out);
    ([(CONTENT_TYPE, frame::CONTENT_TYPE)], out.freeze()).into_response()
}
