//! From error codes to HTTP: the one place with status codes, and the one shape of every error.

use crate::service::ServiceError;
use axum::Json;
use axum::http::header::{CONTENT_RANGE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use syncmount_common::frame::FrameError;
use syncmount_common::protocol::commit::ConflictDetails;
use syncmount_common::protocol::error::{ErrorBody, ErrorCode};

/// What a handler answers.
pub(super) type Result<T> = std::result::Result<T, ApiError>;

/// A reply that is not a success.
#[derive(Debug)]
pub(super) struct ApiError {
    body: Box<ErrorBody>,
    header: Option<(HeaderName, HeaderValue)>,
    mark: Option<WrongCursor>,
}

/// Marks a reply to a position that this server has never told, for what counts them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct WrongCursor;

impl ApiError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let body = ErrorBody { code, message: message.into(), retryable: retryable(code), details: None };
        Self { body: Box::new(body), header: default_header(code), mark: None }
    }

    /// The range lies outside the file, which has `size` bytes.
    pub(super) fn range(size: u64) -> Self {
        let mut error = Self::new(
            ErrorCode::RangeNotSatisfiable,
            format!("the range begins past the end of the file, which has {size} bytes"),
        );
        let value = HeaderValue::from_str(&format!("bytes */{size}"));
        error.header = value.ok().map(|value| (CONTENT_RANGE, value));
        error
    }

    fn with_details(mut self, details: impl serde::Serialize) -> Self {
        self.body.details = serde_json::to_value(details).ok();
        self
    }
}

/// The HTTP status of each code.
const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::BadRequest => StatusCode::BAD_REQUEST,
        ErrorCode::Invalid | ErrorCode::HashMismatch => StatusCode::UNPROCESSABLE_ENTITY,
        ErrorCode::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        ErrorCode::Conflict | ErrorCode::Missing | ErrorCode::Superseded => StatusCode::CONFLICT,
        ErrorCode::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        ErrorCode::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        ErrorCode::RangeNotSatisfiable => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorCode::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        ErrorCode::Resync => StatusCode::GONE,
        ErrorCode::Held => StatusCode::LOCKED,
        ErrorCode::Timeout => StatusCode::REQUEST_TIMEOUT,
        ErrorCode::Busy => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::InsufficientStorage => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whether the same request may succeed later.
const fn retryable(code: ErrorCode) -> bool {
    match code {
        ErrorCode::Held
        | ErrorCode::Timeout
        | ErrorCode::Busy
        | ErrorCode::InsufficientStorage
        | ErrorCode::Internal => true,
        ErrorCode::BadRequest
        | ErrorCode::Invalid
        | ErrorCode::Unauthorized
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Conflict
        | ErrorCode::Missing
        | ErrorCode::PreconditionFailed
        | ErrorCode::TooLarge
        | ErrorCode::HashMismatch
        | ErrorCode::RangeNotSatisfiable
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::Resync
        | ErrorCode::Superseded => false,
    }
}

fn default_header(code: ErrorCode) -> Option<(HeaderName, HeaderValue)> {
    match code {
        ErrorCode::Unauthorized => Some((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        ErrorCode::Busy => Some((RETRY_AFTER, HeaderValue::from_static("1"))),
        _ => None,
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (status(self.body.code), Json(*self.body)).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        if let Some(mark) = self.mark {
            response.extensions_mut().insert(mark);
        }
        response
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let code = error.code();
        match error {
            ServiceError::Conflict(conflicts) => {
                let message = ServiceError::Conflict(conflicts.clone()).to_string();
                Self::new(code, message).with_details(ConflictDetails { conflicts })
            }
            ServiceError::Missing(details) => {
                let message = ServiceError::Missing(details.clone()).to_string();
                Self::new(code, message).with_details(details)
            }
            ServiceError::Held(held) => Self::new(code, held.to_string()).with_details(held.details),
            ServiceError::UnknownChunks(chunks) => {
                let message = ServiceError::UnknownChunks(chunks.clone()).to_string();
                Self::new(code, message).with_details(json!({ "chunks": chunks }))
            }
            ServiceError::UnprovenCursor => {
                let error = Self::new(code, ServiceError::UnprovenCursor.to_string());
                Self { mark: Some(WrongCursor), ..error }
            }
            ServiceError::Later { seconds, .. } => {
                Self { header: Some((RETRY_AFTER, HeaderValue::from(seconds))), ..Self::new(code, error.to_string()) }
            }
            ServiceError::Damaged(_) => Self::new(code, error.to_string()),
            fault if code == ErrorCode::Internal => {
                tracing::error!(error = %fault, "a request failed");
                Self::new(code, "a fault of the server; its log has the details")
            }
            other => Self::new(code, other.to_string()),
        }
    }
}

impl From<FrameError> for ApiError {
    fn from(error: FrameError) -> Self {
        let code = match error {
            FrameError::Malformed | FrameError::Truncated => ErrorCode::BadRequest,
            FrameError::TooLong => ErrorCode::TooLarge,
        };
        Self::new(code, error.to_string())
    }
}

impl From<serde_json::Error> for ApiError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(json_code(&error), format!("the JSON is not what this request takes: {error}"))
    }
}

/// Tells JSON of the wrong shape from values that our own types refuse. serde reports both as text; those of the wrong
/// shape all begin with one of these words, which are part of serde's interface for custom formats.
fn json_code(error: &serde_json::Error) -> ErrorCode {
    const SHAPE: [&str; 6] = ["invalid ", "unknown ", "missing ", "duplicate ", "trailing ", "expected "];
    let text = error.to_string();
    let shape = !error.is_data() || SHAPE.iter().any(|word| text.starts_with(word));
    if shape { ErrorCode::BadRequest } else { ErrorCode::Invalid }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::Name;
    use syncmount_common::protocol::chunks::ChunkList;
    use syncmount_common::protocol::features::Features;
    use syncmount_common::protocol::json::from_slice;

    #[test]
    fn wrong_shapes_and_wrong_values_are_told_apart() {
        let strict = |text: &str| from_slice::<ChunkList>(text.as_bytes(), Features::default());
        let shape = |text| json_code(&strict(text).unwrap_err());
        for text in ["", "{", "[]", "{}", r#"{"chunks":[],"more":1}"#, r#"{"chunks":7}"#] {
            assert_eq!(shape(text), ErrorCode::BadRequest, "{text}");
        }
        assert_eq!(shape(r#"{"chunks":["00"]}"#), ErrorCode::Invalid);
        assert_eq!(json_code(&serde_json::from_str::<Name>(r#""..""#).unwrap_err()), ErrorCode::Invalid);
    }
}
