//! `/v1/folders/FOLDER/files/PATH`: the plain file API, for people and scripts.

use super::State;
use super::error::{ApiError, Result};
use super::gates::Asked;
use super::limits::{BodyReader, announced_len};
use super::request::{FilePath, Folder, Params};
use super::validators::{precondition, range, unchanged};
use crate::service::{Opened, Path, Precondition, Upload};
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use futures::StreamExt as _;
use serde::Deserialize;
use syncmount_common::manifest::FILE_SIZE_MAX;
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::files::{FileInfo, Listing, Versions};
use syncmount_common::{Name, NodeKind, Timestamp};

/// The value of `info` that asks for the file's SHA-256 as well.
const INFO_WITH_HASH: &str = "sha256";

/// Entries in one page of a listing if the query does not say.
const ENTRIES: usize = 10_000;

/// The query of a `GET`. A name without a value (`?info`) is a switch.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct GetQuery {
    /// Answers what is known about the entry instead of its bytes; `info=sha256` with the SHA-256 of a file, computed if need be.
    info: Option<String>,
    /// Answers the versions of the file.
    versions: Option<String>,
    /// Answers the bytes of the version that this rev made.
    version: Option<u64>,
    /// Entries of a directory after this name.
    after: Option<String>,
    /// The largest number of entries, 1 to 10,000.
    limit: Option<usize>,
}

/// What a `GET` answers as JSON, depending on the query. For the API's description only.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
#[expect(dead_code, reason = "describes, is never made")]
#[serde(untagged)]
enum FilesReply {
    Listing(Listing),
    Info(FileInfo),
    Versions(Versions),
}

/// The query of a `PUT`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct PutQuery {
    /// Makes a directory.
    dir: Option<String>,
    /// When the file was last changed, in nanoseconds since 1970; absent: now.
    mtime: Option<i64>,
}

/// The query of a `DELETE`.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct DeleteQuery {
    /// Removes a directory with all that is in it.
    recursive: Option<String>,
}

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/folders/{folder}/files/{path}", tag = "files", operation_id = "get_file",
    params(
        ("folder" = String, Path, description = "name or id of the folder"),
        ("path" = String, Path, description = "percent-encoded; empty for the root"),
        GetQuery,
        ("Range" = Option<String>, Header, description = "one range of bytes"),
        ("If-None-Match" = Option<String>, Header, description = "304 if the content is one of these"),
    ),
    responses(
        (status = 200, description = "the bytes of a file; a `Listing` of a directory; `FileInfo` for `?info`; `Versions` \
            for `?versions`", content(
            (Vec<u8> = "application/octet-stream"), (FilesReply = "application/json"),
        )),
        (status = 206, body = Vec<u8>, content_type = "application/octet-stream", description = "a part of them"),
        (status = 304, description = "the content is one of `If-None-Match`"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn get(
    Asked(state): Asked,
    Folder(folder): Folder,
    FilePath(path): FilePath,
    Params(query): Params<GetQuery>,
    headers: HeaderMap,
) -> Result<Response> {
    if query.versions.is_some() {
        return Ok(Json::<Versions>(state.service.versions(&folder, &path).await?).into_response());
    }
    let Some(rev) = query.version else { return get_present(&state, &folder, &path, &query, &headers).await };
    let opened = state.service.open(&folder, &path, Some(rev)).await?;
    bytes(&state, &opened, &headers).await
}

async fn get_present(
    state: &State,
    folder: &str,
    path: &Path,
    query: &GetQuery,
    headers: &HeaderMap,
) -> Result<Response> {
    if query.info.as_deref() == Some(INFO_WITH_HASH) {
        return Ok(tagged(StatusCode::OK, &state.service.info_with_hash(folder, path).await?));
    }
    let info = state.service.info(folder, path).await?;
    if query.info.is_some() {
        return Ok(tagged(StatusCode::OK, &info));
    }
    if info.kind == NodeKind::Dir {
        let after = query.after.as_deref().map(after_name).transpose()?;
        let limit = query.limit.unwrap_or(ENTRIES);
        return Ok(Json::<Listing>(state.service.list(folder, path, after, limit).await?).into_response());
    }
    bytes(state, &state.service.open(folder, path, None).await?, headers).await
}

fn after_name(text: &str) -> Result<Name> {
    Name::try_from(text).map_err(|error| ApiError::new(ErrorCode::Invalid, format!("`after`: {error}")))
}

/// The bytes of a file or of a part of it.
async fn bytes(state: &State, opened: &Opened, headers: &HeaderMap) -> Result<Response> {
    let tag = etag(opened.content);
    if unchanged(headers, opened.content) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let size = opened.manifest.size();
    let part = range(headers, opened.content, size)?;
    let whole = part.is_none();
    let part = part.unwrap_or(0..size);
    let mut stream = Box::pin(state.service.stream(&opened.manifest, part.clone()).peekable());
    // Before the first byte an error can still be told.
    if let Some(Err(error)) = stream.as_mut().peek().await {
        return Err(error.clone().into());
    }
    let body = Body::from_stream(stream);
    let status = if whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
    let mut response = (status, body).into_response();
    let out = response.headers_mut();
    out.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    out.insert(CONTENT_LENGTH, HeaderValue::from(part.end - part.start));
    out.insert(ETAG, tag);
    if !whole && let Ok(value) = format!("bytes {}-{}/{size}", part.start, part.end - 1).parse() {
        out.insert(CONTENT_RANGE, value);
    }
    Ok(response)
}

fn etag(content: syncmount_common::ContentHash) -> HeaderValue {
    HeaderValue::from_str(&format!("\"{content}\"")).unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

fn tagged(status: StatusCode, info: &FileInfo) -> Response {
    let mut response = (status, Json(info)).into_response();
    if let Some(content) = info.content {
        response.headers_mut().insert(ETAG, etag(content));
    }
    response
}

#[cfg_attr(test, utoipa::path(
    put, path = "/v1/folders/{folder}/files/{path}", tag = "files", operation_id = "put_file",
    params(
        ("folder" = String, Path, description = "name or id of the folder"),
        ("path" = String, Path, description = "percent-encoded; missing directories are made"),
        PutQuery,
        ("If-Match" = Option<String>, Header, description = "only if the content is one of these"),
        ("If-None-Match" = Option<String>, Header, description = "`*`: only if there is nothing yet"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the file's bytes"),
    responses(
        (status = 200, body = FileInfo, description = "replaced, or the directory was there"),
        (status = 201, body = FileInfo, description = "new"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn put(
    Asked(state): Asked,
    Folder(folder): Folder,
    FilePath(path): FilePath,
    Params(query): Params<PutQuery>,
    request: Request,
) -> Result<Response> {
    let (info, new) = if query.dir.is_some() {
        state.service.make_directory(&folder, &path).await?
    } else {
        let (parts, body) = request.into_parts();
        let mtime = query.mtime.map(Timestamp);
        let size = announced_len(&parts.headers);
        let len_max = if size.is_some() { FILE_SIZE_MAX } else { state.limits.unannounced_len_max };
        let body = BodyReader::new(&state, &parts.headers, body, len_max, |_| Upload::cost(size))?;
        let condition = precondition(&parts.headers)?;
        upload(&state, &folder, &path, condition, (mtime, size), body).await?
    };
    Ok(tagged(if new { StatusCode::CREATED } else { StatusCode::OK }, &info))
}

async fn upload(
    state: &State,
    folder: &str,
    path: &Path,
    condition: Precondition,
    (mtime, size): (Option<Timestamp>, Option<u64>),
    mut body: BodyReader,
) -> Result<(FileInfo, bool)> {
    let mut upload = state.service.upload(folder, path, condition, mtime, size).await?;
    while let Some(bytes) = body.next().await? {
        upload.push(&bytes).await?;
    }
    Ok(upload.finish().await?)
}

#[cfg_attr(test, utoipa::path(
    delete, path = "/v1/folders/{folder}/files/{path}", tag = "files", operation_id = "delete_file",
    params(
        ("folder" = String, Path, description = "name or id of the folder"),
        ("path" = String, Path, description = "percent-encoded"),
        DeleteQuery,
        ("If-Match" = Option<String>, Header, description = "only if the content is one of these"),
    ),
    responses((status = 204, description = "removed"), (status = "default", body = ErrorBody)),
))]
pub(super) async fn delete(
    Asked(state): Asked,
    Folder(folder): Folder,
    FilePath(path): FilePath,
    Params(query): Params<DeleteQuery>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    let condition = precondition(&headers)?;
    state.service.remove(&folder, &path, query.recursive.is_some(), &condition).await?;
    Ok(StatusCode::NO_CONTENT)
}
