//! `POST /v1/folders/FOLDER/commit`.

use super::State;
use super::error::{ApiError, Result};
use super::request::{Folder, Frames, json, media_type, parse, peer};
use crate::service::Fresh;
use axum::Json;
use axum::extract::{Request, State as Extract};
use syncmount_common::frame::{self, Frame};
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
pub(super) async fn post(
    Extract(state): Extract<State>,
    Folder(folder): Folder,
    request: Request,
) -> Result<Json<Committed>> {
    let (commit, fresh) = if media_type(request.headers()) == frame::CONTENT_TYPE {
        framed(&state, request).await?
    } else {
        (json(&state, request, COMMIT_LEN_MAX).await?, Fresh::default())
    };
    Ok(Json(state.service.commit_fresh(&folder, commit, fresh).await?))
}

async fn framed(state: &State, request: Request) -> Result<(CommitRequest, Fresh)> {
    let (parts, body) = request.into_parts();
    let mut frames = Frames::new(state, &parts.headers, body, COMMIT_LEN_MAX)?;
    let malformed = || ApiError::new(ErrorCode::BadRequest, "a framed commit is one header and then chunks");
    let Some(Frame::Header(header)) = frames.next().await? else { return Err(malformed()) };
    let commit = parse(header, peer(&parts.headers)).await?;
    let mut ingest = state.service.ingest();
    while let Some(frame) = frames.next().await? {
        let Frame::Chunk(hash, envelope) = frame else { return Err(malformed()) };
        ingest.add(hash, envelope).await?;
    }
    Ok((commit, ingest.finish().await?))
}
