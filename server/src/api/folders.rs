//! `GET /v1/folders`, `GET /v1/folders/FOLDER`.

use super::error::Result;
use super::gates::Asked;
use super::request::Folder;
use axum::Json;
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::folders::{FolderInfo, FolderList};

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/folders", tag = "folders", operation_id = "list_folders",
    responses((status = 200, body = FolderList), (status = "default", body = ErrorBody)),
))]
pub(super) async fn list(Asked(state): Asked) -> Result<Json<FolderList>> {
    Ok(Json(state.service.folders().await?))
}

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/folders/{folder}", tag = "folders", operation_id = "get_folder",
    params(("folder" = String, Path, description = "name or id of the folder")),
    responses((status = 200, body = FolderInfo), (status = "default", body = ErrorBody)),
))]
pub(super) async fn get(Asked(state): Asked, Folder(folder): Folder) -> Result<Json<FolderInfo>> {
    Ok(Json(state.service.folder(&folder).await?))
}
