//! `/v1/folders/FOLDER/holds`: devices that are kept from removing more, and what is decided about them.

use super::error::Result;
use super::gates::Asked;
use super::request::{Folder, HeldDevice};
use axum::Json;
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::holds::{Hold, HoldList};

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/folders/{folder}/holds", tag = "holds", operation_id = "list_holds",
    params(("folder" = String, Path, description = "name or id of the folder")),
    responses((status = 200, body = HoldList), (status = "default", body = ErrorBody)),
))]
pub(super) async fn list(Asked(state): Asked, Folder(folder): Folder) -> Result<Json<HoldList>> {
    Ok(Json(state.service.holds(&folder).await?))
}

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/folders/{folder}/holds/{device}/allow", tag = "holds", operation_id = "allow_removes",
    params(
        ("folder" = String, Path, description = "name or id of the folder"),
        ("device" = String, Path, description = "id or name of the device, or `token:NAME`"),
    ),
    responses(
        (status = 200, body = Hold, description = "it may remove what it likes for the next hour"),
        (status = 401, body = ErrorBody, description = "only the token `admin` may decide this"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn allow(
    Asked(state): Asked,
    Folder(folder): Folder,
    HeldDevice(device): HeldDevice,
) -> Result<Json<Hold>> {
    Ok(Json(state.service.allow_removes(&folder, &device).await?))
}

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/folders/{folder}/holds/{device}/deny", tag = "holds", operation_id = "deny_removes",
    params(
        ("folder" = String, Path, description = "name or id of the folder"),
        ("device" = String, Path, description = "id or name of the device, or `token:NAME`"),
    ),
    responses(
        (status = 401, body = ErrorBody, description = "only the token `admin` may decide this"),
        (status = 200, body = Hold, description = "its removes stay refused, and what those before took away comes back"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn deny(
    Asked(state): Asked,
    Folder(folder): Folder,
    HeldDevice(device): HeldDevice,
) -> Result<Json<Hold>> {
    Ok(Json(state.service.deny_removes(&folder, &device).await?.hold))
}
