//! `POST /v1/folders/FOLDER/undo`.

use super::error::Result;
use super::gates::Asked;
use super::request::{Folder, json};
use axum::Json;
use axum::extract::Request;
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::undo::{UndoReply, UndoRequest};

const LEN_MAX: usize = 4096;

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/folders/{folder}/undo", tag = "history", operation_id = "undo", request_body = UndoRequest,
    params(("folder" = String, Path, description = "name or id of the folder")),
    responses(
        (status = 200, body = UndoReply, description = "how many nodes were created, changed and removed"),
        (status = 422, body = ErrorBody, description = "`invalid`: the history does not go back to there"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn post(Asked(state): Asked, Folder(folder): Folder, request: Request) -> Result<Json<UndoReply>> {
    let (UndoRequest { to, dry_run }, _) = json(&state, request, LEN_MAX).await?;
    Ok(Json(state.service.undo(&folder, to, dry_run).await?))
}
