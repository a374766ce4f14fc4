//! `/v1/chunks…` and `/v1/contents/HASH`.

use super::error::{ApiError, Result};
use super::gates::Asked;
use super::request::{Frames, Hash, Params, json};
use crate::service::{ServiceError, ToldManifest};
use axum::Json;
use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse as _, Response};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde::Deserialize;
use std::convert::Infallible;
use syncmount_common::delta;
use syncmount_common::frame;
use syncmount_common::protocol::chunks::{ChunkList, FetchList, MissingReply, PUT_LEN_MAX, PutReply};
#[cfg(test)]
use syncmount_common::protocol::error::ErrorBody;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{ChunkHash, ContentHash};

/// A list of the most hashes allowed, with room for white space.
const LIST_LEN_MAX: usize = 1024 * 1024;

const IMMUTABLE: &str = "private, max-age=31536000, immutable";

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/chunks/missing", tag = "chunks", operation_id = "missing_chunks", request_body = ChunkList,
    responses((status = 200, body = MissingReply), (status = "default", body = ErrorBody)),
))]
pub(super) async fn missing(Asked(state): Asked, request: Request) -> Result<Json<MissingReply>> {
    let (list, _): (ChunkList, _) = json(&state, request, LIST_LEN_MAX).await?;
    Ok(Json(state.service.missing(list.chunks).await?))
}

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/chunks", tag = "chunks", operation_id = "put_chunks",
    request_body(content = Vec<u8>, content_type = "application/vnd.syncmount.frames", description = "chunks, framed"),
    responses((status = 200, body = PutReply), (status = "default", body = ErrorBody)),
))]
pub(super) async fn put(Asked(state): Asked, request: Request) -> Result<Json<PutReply>> {
    let (parts, body) = request.into_parts();
    let mut frames = Frames::new(&state, &parts.headers, body, PUT_LEN_MAX)?;
    let mut ingest = state.service.ingest();
    let malformed = || ApiError::new(ErrorCode::BadRequest, "a put has chunks only");
    frames.chunks_into(&mut ingest, malformed).await?;
    Ok(Json(state.service.put_fresh(ingest.finish().await?).await?))
}

#[cfg_attr(test, utoipa::path(
    post, path = "/v1/chunks/fetch", tag = "chunks", operation_id = "fetch_chunks", request_body = FetchList,
    responses(
        (status = 200, body = Vec<u8>, content_type = "application/vnd.syncmount.frames", description = "in the order asked; \
            each whole, or one of `alike` as its difference to its `base`, if that is smaller"),
        (status = 404, body = ErrorBody, description = "`details.chunks` are not known"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn fetch(Asked(state): Asked, request: Request) -> Result<Response> {
    let (list, _): (FetchList, _) = json(&state, request, LIST_LEN_MAX).await?;
    let mut told = Box::pin(state.service.fetch_alike(list.chunks, list.alike).await?.peekable());
    // Before the first byte damage can still be told; later on the next request tells it.
    match told.as_mut().peek().await {
        Some(Err(ServiceError::Damaged(hash))) => return Err(ServiceError::UnknownChunks(vec![*hash]).into()),
        Some(Err(error)) => return Err(error.clone().into()),
        Some(Ok(_)) | None => {}
    }
    let pieces = told.map_ok(|(hash, envelope)| stream::iter(chunk_frame(&hash, envelope).map(Ok))).try_flatten();
    let all = pieces.chain(stream::once(async { Ok::<_, ServiceError>(end_frame()) }));
    Ok(([(CONTENT_TYPE, frame::CONTENT_TYPE)], Body::from_stream(all)).into_response())
}

/// A frame in pieces: the chunk itself is not copied.
fn chunk_frame(hash: &ChunkHash, envelope: Bytes) -> [Bytes; 2] {
    let mut head = BytesMut::with_capacity(frame::CHUNK_OVERHEAD);
    frame::put_chunk_head(&mut head, hash, envelope.len());
    [head.freeze(), envelope]
}

fn end_frame() -> Bytes {
    let mut out = BytesMut::new();
    frame::put_end(&mut out);
    out.freeze()
}

/// Which part of a chunk is asked for.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct PartQuery {
    /// Where the part begins, in raw bytes; 0 if only `len` is given.
    from: Option<u32>,
    /// How many raw bytes it has, at least 1. Absent: the whole chunk is asked for.
    len: Option<u32>,
}

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/chunks/{hash}", tag = "chunks", operation_id = "get_chunk",
    params(("hash" = ChunkHash, Path, description = "SHA-256 of the chunk's raw bytes"), PartQuery),
    responses(
        (status = 200, content(
            (Vec<u8> = "application/octet-stream"),
            (Vec<u8> = "application/vnd.syncmount.frames"),
        ), description = "the envelope; of a part the frame of a chunk that is named by the SHA-256 of the part"),
        (status = 422, body = ErrorBody, description = "the part does not lie within the chunk"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn get(
    Asked(state): Asked,
    Hash(hash): Hash<ChunkHash>,
    Params(query): Params<PartQuery>,
) -> Result<Response> {
    let (from, len) = match query {
        PartQuery { from: None, len: None } => return Ok(immutable(state.service.chunk(hash).await?)),
        PartQuery { from, len: Some(len) } => (from.unwrap_or(0), len),
        PartQuery { from: Some(_), len: None } => {
            return Err(ApiError::new(ErrorCode::Invalid, "a part of a chunk needs its length: `len`"));
        }
    };
    let end = from.checked_add(len).ok_or_else(|| ApiError::new(ErrorCode::Invalid, "no chunk is so long"))?;
    let (name, envelope) = state.service.part(hash, from..end).await?;
    let [head, envelope] = chunk_frame(&name, envelope);
    let pieces = [head, envelope, end_frame()];
    let len = pieces.iter().map(Bytes::len).sum::<usize>();
    let body = Body::from_stream(stream::iter(pieces.map(Ok::<_, Infallible>)));
    let headers = [(CONTENT_TYPE, HeaderValue::from_static(frame::CONTENT_TYPE))];
    let mut response = (headers, [(CACHE_CONTROL, IMMUTABLE)], body).into_response();
    response.headers_mut().insert(CONTENT_LENGTH, len.into());
    Ok(response)
}

/// Which manifest whoever asks has.
#[derive(Deserialize)]
#[cfg_attr(test, derive(utoipa::IntoParams))]
#[cfg_attr(test, into_params(parameter_in = Query))]
pub(super) struct ManifestQuery {
    /// Names a content whose manifest is probably alike. Absent: the whole manifest is asked for.
    base: Option<ContentHash>,
}

#[cfg_attr(test, utoipa::path(
    get, path = "/v1/contents/{hash}", tag = "chunks", operation_id = "get_manifest",
    params(("hash" = ContentHash, Path, description = "names the manifest"), ManifestQuery),
    responses(
        (status = 200, content(
            (Vec<u8> = "application/octet-stream"),
            (Vec<u8> = "application/vnd.syncmount.manifest-difference"),
        ), description = "the manifest's encoding, or its difference to the manifest of `base`, if that is smaller"),
        (status = "default", body = ErrorBody),
    ),
))]
pub(super) async fn manifest(
    Asked(state): Asked,
    Hash(hash): Hash<ContentHash>,
    Params(query): Params<ManifestQuery>,
) -> Result<Response> {
    Ok(match state.service.manifest_alike(hash, query.base).await? {
        ToldManifest::Whole(manifest) => immutable(manifest.encode().into()),
        ToldManifest::Difference(told) => {
            ([(CONTENT_TYPE, delta::CONTENT_TYPE), (CACHE_CONTROL, IMMUTABLE)], told).into_response()
        }
    })
}

fn immutable(bytes: Bytes) -> Response {
    ([(CONTENT_TYPE, "application/octet-stream"), (CACHE_CONTROL, IMMUTABLE)], bytes).into_response()
}
