//! What handlers take from a request. Whatever does not fit is answered in the one shape of errors.

use super::State;
use super::error::{ApiError, Result};
use super::limits::{BodyReader, PARSED_TIMES};
use crate::service::{self, BATCH_LEN, Charge, FREE_LEN, Ingest};
use axum::body::Body;
use axum::extract::{FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use std::str::FromStr;
use syncmount_common::frame::{self, Awaited, Decoder, Frame};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::features::{self, Features};
use syncmount_common::protocol::json as wire;

/// The folder that the path names: `/v1/folders/FOLDER/…`.
pub(super) struct Folder(pub(super) String);

/// The device that the path names: `/v1/folders/FOLDER/holds/DEVICE/…`.
pub(super) struct HeldDevice(pub(super) String);

/// The hash that the path ends with: `/v1/chunks/HASH`.
pub(super) struct Hash<T>(pub(super) T);

/// The path below `/v1/folders/FOLDER/files/`.
pub(super) struct FilePath(pub(super) service::Path);

/// The query, as named values.
pub(super) struct Params<T>(pub(super) T);

/// Component `index` of the path, still encoded. The first is 0.
fn component(parts: &Parts, index: usize) -> &str {
    parts.uri.path().split('/').nth(index + 1).unwrap_or_default()
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

impl<S: Sync> FromRequestParts<S> for Folder {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(String::from_utf8_lossy(&decoded(component(parts, 2))).into_owned()))
    }
}

impl<S: Sync> FromRequestParts<S> for HeldDevice {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        Ok(Self(String::from_utf8_lossy(&decoded(component(parts, 4))).into_owned()))
    }
}

impl<S: Sync, T: FromStr<Err: std::fmt::Display>> FromRequestParts<S> for Hash<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let parsed = component(parts, 2).parse();
        parsed.map(Self).map_err(|error: T::Err| ApiError::new(ErrorCode::Invalid, error.to_string()))
    }
}

impl<S: Sync> FromRequestParts<S> for FilePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let path = parts.uri.path().splitn(6, '/').nth(5).unwrap_or_default();
        let path = path.strip_suffix('/').unwrap_or(path);
        let components = path.split('/').map(decoded);
        let checked = if path.is_empty() { Ok(service::Path::default()) } else { service::Path::new(components) };
        Ok(Self(checked?))
    }
}

impl<S: Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let pairs = serde_urlencoded::Deserializer::new(form_urlencoded::parse(query));
        let refused = |error: serde_urlencoded::de::Error| {
            ApiError::new(ErrorCode::BadRequest, format!("the query is not what this request takes: {error}"))
        };
        wire::read(pairs, peer(&parts.headers)).map(Self).map_err(refused)
    }
}

/// What the client names in its request.
pub(super) fn peer(headers: &HeaderMap) -> Features {
    Features::parse(headers.get_all(features::HEADER).iter().filter_map(|named| named.to_str().ok()))
}

/// The media type without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

/// A body of another type than the endpoint takes.
pub(super) fn unsupported(wanted: &str) -> ApiError {
    ApiError::new(ErrorCode::UnsupportedMediaType, format!("this request takes a body of type {wanted}"))
}

/// A JSON body of at most `len_max` bytes, and its memory.
pub(super) async fn json<T>(state: &State, request: Request, len_max: usize) -> Result<(T, Charge)>
where
    T: DeserializeOwned + Send + 'static,
{
    if media_type(request.headers()) != "application/json" {
        return Err(unsupported("application/json"));
    }
    let (parts, body) = request.into_parts();
    let cost = |len| PARSED_TIMES * len;
    let (bytes, charge) = BodyReader::new(state, &parts.headers, body, len_max as u64, cost)?.all().await?;
    Ok((parse(bytes.into(), peer(&parts.headers)).await?, charge))
}

/// Parses JSON of a client that names `peer`; on a blocking thread if it is long.
pub(super) async fn parse<T: DeserializeOwned + Send + 'static>(json: bytes::Bytes, peer: Features) -> Result<T> {
    const LONG: usize = 64 * 1024;
    if json.len() < LONG {
        return Ok(wire::from_slice(&json, peer)?);
    }
    let parsed = tokio::task::spawn_blocking(move || wire::from_slice(&json, peer)).await;
    Ok(parsed.map_err(|_| ApiError::new(ErrorCode::Internal, "a job panicked"))??)
}

/// Takes a framed body apart as it comes. Memory is taken for a batch of chunks at first.
pub(super) struct Frames {
    body: BodyReader,
    decoder: Decoder,
    /// Memory that the header needs when it is parsed, in bytes, if it is large.
    header_cost: u64,
    /// The longest chunk that there is memory for, in bytes.
    room: usize,
}

/// What comes next in a framed body.
enum Next {
    /// A frame that is not the end.
    Frame(Frame),
    /// A chunk that is so long that there is no memory for it yet.
    Long(usize),
}

/// Chunks that are longer take memory of their own, in bytes.
const CHUNK_ROOM: usize = 1024 * 1024 + 1024;

/// Memory for chunks that are gathered and for the next one, in bytes.
const CHUNKS_COST: u64 = (BATCH_LEN + CHUNK_ROOM) as u64;

impl Frames {
    pub(super) fn new(state: &State, headers: &HeaderMap, body: Body, len_max: usize) -> Result<Self> {
        if media_type(headers) != frame::CONTENT_TYPE {
            return Err(unsupported(frame::CONTENT_TYPE));
        }
        let cost = |len: u64| len.min(CHUNKS_COST);
        let body = BodyReader::new(state, headers, body, len_max as u64, cost)?;
        Ok(Self { body, decoder: Decoder::default(), header_cost: 0, room: CHUNK_ROOM })
    }

    /// The header that the body begins with; `None` if it begins otherwise.
    pub(super) async fn header(&mut self) -> Result<Option<bytes::Bytes>> {
        match self.next().await? {
            Some(Next::Frame(Frame::Header(header))) => Ok(Some(header)),
            Some(_) | None => Ok(None),
        }
    }

    /// Takes in the chunks that are left. The body must have nothing else: `malformed` is what it is refused with.
    pub(super) async fn chunks_into(&mut self, ingest: &mut Ingest, malformed: impl Fn() -> ApiError) -> Result<()> {
        while let Some(next) = self.next().await? {
            match next {
                Next::Frame(Frame::Chunk(hash, envelope)) => ingest.add(hash, envelope).await?,
                Next::Frame(_) => return Err(malformed()),
                Next::Long(len) => {
                    // Nothing is gathered while this waits for memory.
                    ingest.flush().await?;
                    self.body.make_room(self.header_cost + len as u64 + CHUNKS_COST).await?;
                    self.room = len;
                }
            }
        }
        Ok(())
    }

    /// The memory that the header may be parsed with. The body is there.
    pub(super) async fn received_whole(mut self) -> Result<Charge> {
        self.body.received_whole().await
    }

    /// What comes next, none after the whole body. A body without its end is an error.
    async fn next(&mut self) -> Result<Option<Next>> {
        loop {
            match self.decoder.next_frame()? {
                Some(Frame::End) => continue,
                Some(frame) => return Ok(Some(Next::Frame(frame))),
                None => (),
            }
            match self.decoder.awaited() {
                Some(Awaited::Header(len)) if self.header_cost == 0 && len as u64 > FREE_LEN => {
                    self.header_cost = PARSED_TIMES * len as u64;
                    self.body.make_room(self.header_cost + CHUNKS_COST).await?;
                }
                Some(Awaited::Chunk(len)) if len > self.room => return Ok(Some(Next::Long(len))),
                Some(_) | None => (),
            }
            match self.body.next().await? {
                Some(bytes) => self.decoder.push(&bytes),
                None => {
                    std::mem::take(&mut self.decoder).finish()?;
                    return Ok(None);
                }
            }
        }
    }
}
