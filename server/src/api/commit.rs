//! `POST /v1/folders/FOLDER/commit`.

use super::State;
use super::error::{ApiError, Result};
use super::gates::Asked;
use super::request::{Folder, Frames, json, media_type, parse, peer};
use crate::service::Fresh;
use axum::Json;
use axum::extract::Request;
use syncmount_common::frame;
use syncmount_common::protocol::commit::{COMMIT_LEN_MAX, CommitRequest, Committed};
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::error::ErrorCode;

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/folders/{folder}/commit", tag = "commit", operation_id = "commit",
    params(("folder" = String, Path, description = "name or id of the folder")),
    request_body(content = CommitRequest, description = "as JSON, or framed with chunks behind it"),
    responses(
        (status = 200, body = Committed),
        (status = 409, body = ErrorBody, description = "`conflict` or `missing`; `details` say what. Or `superseded`"),
        (status = 410, body = ErrorBody, description = "`resync`: another epoch"),
        (status = 423, body = ErrorBody, description = "`held`: the device removes too much; `details` say how much"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn post(Asked(state): Asked, Folder(folder): Folder, request: Request) -> Result<Json<Committed>> {
    let (commit, fresh) = if media_type(request.headers()) == frame::CONTENT_TYPE {
        framed(&state, request).await?
    } else {
        let (commit, charge) = json(&state, request, COMMIT_LEN_MAX).await?;
        state.allowance.keep(charge);
        (commit, Fresh::default())
    };
    Ok(Json(state.service.commit_fresh(&folder, commit, fresh).await?))
}

async fn framed(state: &State, request: Request) -> Result<(CommitRequest, Fresh)> {
    let (parts, body) = request.into_parts();
    let mut frames = Frames::new(state, &parts.headers, body, COMMIT_LEN_MAX)?;
    let malformed = || ApiError::new(ErrorCode::BadRequest, "a framed commit is one header and then chunks");
    let header = frames.header().await?.ok_or_else(malformed)?;
    let mut ingest = state.service.ingest();
    frames.chunks_into(&mut ingest, malformed).await?;
    let fresh = ingest.finish().await?;
    // Parsed when the body is there, so that its memory is not held for a client that sends slowly.
    state.allowance.keep(frames.received_whole().await?);
    Ok((parse(header, peer(&parts.headers)).await?, fresh))
}
