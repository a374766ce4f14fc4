//! What a reply means: status, headers and error body on one side, [`RemoteError`] on the other. The one place of the
//! client that knows status codes.

use crate::ports::RemoteError;
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use syncmount_common::ChunkHash;
use syncmount_common::envelope::EnvelopeError;
use syncmount_common::frame::FrameError;
use syncmount_common::protocol::error::{ErrorBody, ErrorCode};
use syncmount_common::protocol::features::Features;
use syncmount_common::protocol::holds::HeldDetails;
use syncmount_common::protocol::{VERSION, VERSION_HEADER, json};

/// Checks that a syncmount server of this version answered. `whom` is its address, for messages.
pub(super) fn check_server(status: StatusCode, headers: &HeaderMap, whom: &str) -> Result<(), RemoteError> {
    match headers.get(VERSION_HEADER).map(|version| version.to_str().unwrap_or("?")) {
        Some(VERSION) => Ok(()),
        Some(other) => Err(RemoteError::Stranger(format!(
            "{whom} speaks version {other} of the protocol, this program version {VERSION}: update the older of the two"
        ))),
        None => Err(not_a_server(status, headers, whom)),
    }
}

fn not_a_server(status: StatusCode, headers: &HeaderMap, whom: &str) -> RemoteError {
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        return RemoteError::TooLarge(String::new());
    }
    if status.is_server_error() {
        return RemoteError::Unreachable(format!("a gateway in front of it answers {status}"));
    }
    match headers.get(LOCATION).and_then(|to| to.to_str().ok()) {
        Some(to) if status.is_redirection() => RemoteError::Stranger(format!(
            "{whom} is not a syncmount server, it redirects to {to}: if that is the server, use its address"
        )),
        _ => RemoteError::Stranger(format!("{whom} is not a syncmount server (it answers {status})")),
    }
}

/// The error that a reply's body describes. `missing_thing` is what a 404 stands for at this endpoint.
/// `peer` is what the reply names: the parts of the body that this program does not know are ignored if it allows that.
pub(super) fn error_of(status: StatusCode, body: &[u8], peer: Features, missing_thing: RemoteError) -> RemoteError {
    let Ok(error) = json::from_slice::<ErrorBody>(body, peer) else {
        return unknown_error(status, body);
    };
    match error.code {
        ErrorCode::Unauthorized => RemoteError::Unauthorized,
        ErrorCode::NotFound => match (missing_thing, error.details.map(|details| json::from_value(details, peer))) {
            (RemoteError::Lacking(_), Some(Ok(UnknownChunks { chunks }))) => RemoteError::Lacking(chunks),
            (missing_thing, _) => missing_thing,
        },
        ErrorCode::Conflict => details(error, peer, RemoteError::Conflict),
        ErrorCode::Missing => details(error, peer, RemoteError::Missing),
        ErrorCode::Resync => RemoteError::Resync,
        ErrorCode::Superseded => RemoteError::Superseded,
        ErrorCode::Held => {
            let reason = error.message.clone();
            details(error, peer, |held: HeldDetails| RemoteError::Held { reason, denied: held.denied })
        }
        ErrorCode::Busy | ErrorCode::Timeout => RemoteError::Busy,
        ErrorCode::InsufficientStorage => RemoteError::StorageFull,
        ErrorCode::TooLarge => RemoteError::TooLarge(error.message),
        ErrorCode::BadRequest
        | ErrorCode::Invalid
        | ErrorCode::MethodNotAllowed
        | ErrorCode::PreconditionFailed
        | ErrorCode::HashMismatch
        | ErrorCode::RangeNotSatisfiable
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::Internal => RemoteError::Rejected { code: error.code, message: error.message },
    }
}

/// Details of an error about chunks that the server does not have.
#[derive(Deserialize)]
struct UnknownChunks {
    chunks: Vec<ChunkHash>,
}

/// An error body that cannot be read as one of version 1. An unknown code comes only by a server's mistake: servers send newer
/// codes to clients that have named them.
fn unknown_error(status: StatusCode, body: &[u8]) -> RemoteError {
    const CODE_LEN_MAX: usize = 40;

    #[derive(Deserialize)]
    struct AnyError {
        code: String,
        retryable: bool,
    }

    let is_word = |code: &str| {
        let mut bytes = code.bytes();
        (1..=CODE_LEN_MAX).contains(&code.len()) && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_known = |code: &str| serde_json::from_value::<ErrorCode>(code.into()).is_ok();
    match serde_json::from_slice::<AnyError>(body) {
        Ok(AnyError { code, .. }) if is_known(&code) => RemoteError::Protocol(format!(
            "the server answers {status} with the error `{code}` in another shape: update the older of the two"
        )),
        Ok(AnyError { retryable: true, .. }) => RemoteError::Busy,
        Ok(AnyError { code, .. }) if is_word(&code) => RemoteError::Protocol(format!(
            "the server answers {status} with the error `{code}`, which this program does not know: update it"
        )),
        _ => RemoteError::Protocol(format!("the server answers {status} without saying why")),
    }
}

fn details<T: DeserializeOwned>(error: ErrorBody, peer: Features, wrap: impl FnOnce(T) -> RemoteError) -> RemoteError {
    match json::from_value(error.details.unwrap_or_default(), peer) {
        Ok(details) => wrap(details),
        Err(reason) => RemoteError::Protocol(format!("the server's error has details of another shape: {reason}")),
    }
}

/// The value that a successful reply's body stands for. `peer` is what the reply names.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8], peer: Features) -> Result<T, RemoteError> {
    json::from_slice(body, peer)
        .map_err(|reason| RemoteError::Protocol(format!("the server's reply has another shape: {reason}")))
}

/// A request that got no reply, or a reply that broke off.
pub(super) fn broken(error: &reqwest::Error) -> RemoteError {
    match (error.is_connect(), error.is_timeout()) {
        (true, true) => RemoteError::NotConnected("no connection was made in time".to_owned()),
        (true, false) => RemoteError::NotConnected(format!("no connection: {}", innermost(error))),
        (false, true) => RemoteError::Unreachable("it did not answer in time".to_owned()),
        (false, false) => RemoteError::Unreachable(innermost(error)),
    }
}

/// A reply that got a head and then no more.
pub(super) fn cut_short(error: &reqwest::Error) -> RemoteError {
    RemoteError::CutShort(innermost(error))
}

/// The outer errors only say that sending a request failed, and repeat the address.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

/// A framed body that does not hold to the format.
pub(super) fn bad_frames(error: FrameError) -> RemoteError {
    if error == FrameError::Truncated {
        return RemoteError::CutShort(error.to_string());
    }
    RemoteError::Protocol(format!("the server's reply is broken: {error}"))
}

/// A chunk that is not what its name says.
pub(super) fn bad_chunk(error: EnvelopeError) -> RemoteError {
    match error {
        EnvelopeError::Unsupported => {
            RemoteError::Protocol("the server sent a chunk in a format that this program is too old for".to_owned())
        }
        EnvelopeError::Malformed | EnvelopeError::BadLength | EnvelopeError::Damaged | EnvelopeError::HashMismatch => {
            RemoteError::Corrupt(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(code: &str, details: &str) -> Vec<u8> {
        format!(r#"{{"code":"{code}","message":"m","retryable":false,"details":{details}}}"#).into_bytes()
    }

    fn error(code: &str, details: &str) -> RemoteError {
        error_of(StatusCode::CONFLICT, &body(code, details), Features::default(), RemoteError::FolderNotFound)
    }

    #[test]
    fn codes_become_errors() {
        assert!(matches!(error("unauthorized", "null"), RemoteError::Unauthorized));
        assert!(matches!(error("not_found", "null"), RemoteError::FolderNotFound));
        assert!(matches!(error("resync", "null"), RemoteError::Resync));
        assert!(matches!(error("busy", "null"), RemoteError::Busy));
        assert!(matches!(error("insufficient_storage", "null"), RemoteError::StorageFull));
        assert!(matches!(error("conflict", r#"{"conflicts":[]}"#), RemoteError::Conflict(_)));
        assert!(matches!(error("missing", r#"{"chunks":[],"contents":[]}"#), RemoteError::Missing(_)));
        assert!(matches!(error("superseded", "null"), RemoteError::Superseded));
        let held = r#"{"device":"01927000-0000-7000-8000-000000000000","removes":5,"nodes":6,"denied":true}"#;
        assert!(matches!(error("held", held), RemoteError::Held { denied: true, reason } if reason == "m"));
        assert!(matches!(error("conflict", "7"), RemoteError::Protocol(_)));
        assert!(matches!(error("internal", "null"), RemoteError::Rejected { code: ErrorCode::Internal, .. }));
        assert!(matches!(error("of the future", "null"), RemoteError::Protocol(_)));
    }

    #[test]
    fn what_a_later_server_says_is_taken_as_far_as_it_allows() {
        use syncmount_common::protocol::features::{Feature, NAMED};

        let later = br#"{"code":"busy","message":"m","retryable":true,"details":null,"retry_after_ms":5}"#;
        let of = |body: &[u8], peer| error_of(StatusCode::CONFLICT, body, peer, RemoteError::FolderNotFound);
        let (older, newer) = (Features::default(), Features::parse([NAMED]));
        assert!(newer.has(Feature::ExtraFields));
        assert!(matches!(of(later, newer), RemoteError::Busy));
        // The same from a server that does not allow it: refused, and not taken for a code of tomorrow.
        assert!(matches!(of(later, older), RemoteError::Protocol(text) if text.contains("`busy` in another shape")));
        let missing = body("missing", r#"{"chunks":[],"contents":[],"leaves":[]}"#);
        assert!(matches!(of(&missing, newer), RemoteError::Missing(_)));
        assert!(matches!(of(&missing, older), RemoteError::Protocol(text) if text.contains("`leaves`")));
        // A code that was not negotiated: clear, and tried again only if the server says so.
        assert!(matches!(error("quota", "null"), RemoteError::Protocol(text) if text.contains("the error `quota`")));
        let again = br#"{"code":"quota","message":"m","retryable":true}"#;
        assert!(matches!(of(again, newer), RemoteError::Busy));
        assert!(matches!(error("\\u001b[2J", "null"), RemoteError::Protocol(text) if text.contains("without saying")));

        #[derive(Deserialize, Debug)]
        struct One {
            one: u32,
        }
        assert_eq!(parse::<One>(br#"{"one":1,"two":2}"#, newer).unwrap().one, 1);
        let refused = parse::<One>(br#"{"one":1,"two":2}"#, older).unwrap_err().to_string();
        assert!(refused.contains("unknown field `two`"), "{refused}");
    }

    #[test]
    fn what_is_not_a_server_is_told_apart_from_one_that_is_away() {
        let mut headers = HeaderMap::new();
        let check = |status, headers: &HeaderMap| check_server(status, headers, "http://x");
        assert!(matches!(check(StatusCode::BAD_GATEWAY, &headers), Err(RemoteError::Unreachable(_))));
        assert!(matches!(check(StatusCode::OK, &headers), Err(RemoteError::Stranger(_))));
        headers.insert(LOCATION, "https://login.example".parse().unwrap());
        let portal = check(StatusCode::FOUND, &headers).unwrap_err().to_string();
        assert!(portal.contains("redirects to https://login.example"), "{portal}");
        headers.insert(VERSION_HEADER, "2".parse().unwrap());
        assert!(check(StatusCode::OK, &headers).unwrap_err().to_string().contains("version 2"));
        headers.insert(VERSION_HEADER, VERSION.parse().unwrap());
        check(StatusCode::OK, &headers).unwrap();
    }
}
