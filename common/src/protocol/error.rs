//! The one shape of every error.

use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// What went wrong, for programs. Each code has one HTTP status, chosen by the server in one place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is malformed: JSON of the wrong shape, an unknown field, a wrong type, a body cut short.
    BadRequest,
    /// A value is out of range: a name, a size, a mode, a cursor, a manifest whose lengths do not sum.
    Invalid,
    /// No token, or a wrong or revoked one.
    Unauthorized,
    /// There is no such folder, file, chunk or version.
    NotFound,
    /// The path exists but this method cannot be used on it.
    MethodNotAllowed,
    /// The state has moved on since the request's base; `details` say where.
    Conflict,
    /// Chunks or contents are missing; `details` name them.
    Missing,
    /// `If-Match` or `If-None-Match` does not hold.
    PreconditionFailed,
    /// A body, header or list is larger than allowed.
    TooLarge,
    /// Bytes do not have the hash that names them.
    HashMismatch,
    /// The range cannot be satisfied.
    RangeNotSatisfiable,
    /// The body has a media type that this endpoint does not take.
    UnsupportedMediaType,
    /// The cursor is of another epoch, or from the future: read the feed from the begin and merge.
    Resync,
    /// The device is in use in another session, or was set back to an older state of itself: go on as another device.
    Superseded,
    /// The device has removed so much of the folder that a person must allow it first; `details` say how much.
    Held,
    /// The request took too long.
    Timeout,
    /// The server is too busy or stopping; try again later.
    Busy,
    /// The server's disk or quota is full.
    InsufficientStorage,
    /// A fault of the server; its log has the details.
    Internal,
}

/// The body of every reply that is not a success.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct ErrorBody {
    /// For programs.
    pub code: ErrorCode,
    /// For people: what happened and what to do.
    pub message: String,
    /// Whether the same request may succeed later without a change.
    pub retryable: bool,
    /// More for programs; its shape depends on the code.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[cfg_attr(feature = "schema", schema(value_type = Option<Object>))]
    pub details: Option<serde_json::Value>,
}
