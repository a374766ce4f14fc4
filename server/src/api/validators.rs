//! Conditional requests and ranges (RFC 9110): headers that decide whether and how much is sent or done.

use super::error::{ApiError, Result};
use crate::service::{Precondition, Tag, Tags};
use axum::http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH, IF_RANGE, RANGE};
use axum::http::{HeaderMap, HeaderValue};
use std::ops::Range;
use syncmount_common::ContentHash;
use syncmount_common::protocol::error::ErrorCode;

/// `If-Match` and `If-None-Match` of a request that changes something.
pub(super) fn precondition(headers: &HeaderMap) -> Result<Precondition> {
    Ok(Precondition { if_match: tags(headers, &IF_MATCH)?, if_none_match: tags(headers, &IF_NONE_MATCH)? })
}

/// Whether the client has this content already.
pub(super) fn unchanged(headers: &HeaderMap, content: ContentHash) -> bool {
    match tags(headers, &IF_NONE_MATCH) {
        Ok(Some(Tags::Any)) => true,
        // For reading, a weak tag is as good: it names the same bytes.
        Ok(Some(Tags::Of(tags))) => tags.iter().any(|tag| tag.value == content.to_string()),
        Ok(None) | Err(_) => false,
    }
}

/// The part of the file that is asked for; none for the whole. What is no single range of bytes is ignored, as the
/// standard allows.
pub(super) fn range(headers: &HeaderMap, content: ContentHash, size: u64) -> Result<Option<Range<u64>>> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if text(IF_RANGE).is_some_and(|tag| tag.trim() != format!("\"{content}\"")) {
        return Ok(None);
    }
    match text(RANGE).and_then(parse_range) {
        None => Ok(None),
        Some(asked) => asked.within(size).map(Some).ok_or_else(|| ApiError::range(size)),
    }
}

enum Asked {
    From(u64),
    FromTo(u64, u64),
    Last(u64),
}

impl Asked {
    fn within(&self, size: u64) -> Option<Range<u64>> {
        let range = match *self {
            Self::From(first) => first..size,
            Self::FromTo(first, last) => first..size.min(last.saturating_add(1)),
            Self::Last(len) => size.saturating_sub(len)..size,
        };
        (range.start < range.end).then_some(range)
    }
}

fn parse_range(text: &str) -> Option<Asked> {
    let (first, last) = text.trim().strip_prefix("bytes=")?.split_once('-')?;
    match (first.trim(), last.trim()) {
        ("", len) => len.parse().ok().map(Asked::Last),
        (first, "") => first.parse().ok().map(Asked::From),
        (first, last) => {
            let (first, last) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last).then_some(Asked::FromTo(first, last))
        }
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>> {
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        let malformed = || ApiError::new(ErrorCode::BadRequest, format!("`{name}` is `*` or a list of quoted tags"));
        let text = value.to_str().map_err(|_| malformed())?.trim();
        if text == "*" {
            return Ok(Some(Tags::Any));
        }
        for tag in text.split(',') {
            all.push(parse_tag(tag.trim()).ok_or_else(malformed)?);
        }
    }
    Ok((!all.is_empty()).then_some(Tags::Of(all)))
}

fn parse_tag(text: &str) -> Option<Tag> {
    let (weak, quoted) = text.strip_prefix("W/").map_or((false, text), |rest| (true, rest));
    let value = quoted.strip_prefix('"')?.strip_suffix('"')?.to_owned();
    Some(Tag { value, weak })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> ContentHash {
        ContentHash::of(b"x")
    }

    fn asked(text: &str, size: u64) -> std::result::Result<Option<Range<u64>>, ()> {
        let headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_str(text).unwrap())]);
        range(&headers, content(), size).map_err(|_| ())
    }

    #[test]
    fn ranges_are_cut_to_the_file() {
        assert_eq!(asked("bytes=0-0", 10), Ok(Some(0..1)));
        assert_eq!(asked("bytes=3-", 10), Ok(Some(3..10)));
        assert_eq!(asked("bytes=-3", 10), Ok(Some(7..10)));
        assert_eq!(asked("bytes=-30", 10), Ok(Some(0..10)));
        assert_eq!(asked("bytes=5-99", 10), Ok(Some(5..10)));
        assert_eq!(asked("bytes=5-18446744073709551615", 10), Ok(Some(5..10)));
        for outside in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(asked(outside, 10), Err(()), "{outside}");
        }
        for ignored in ["bytes=5-3", "bytes=0-1,3-4", "lines=1-2", "bytes=x-", "bytes"] {
            assert_eq!(asked(ignored, 10), Ok(None), "{ignored}");
        }
    }

    #[test]
    fn a_range_of_an_older_content_is_not_served() {
        let mut headers = HeaderMap::from_iter([(RANGE, HeaderValue::from_static("bytes=0-0"))]);
        headers.insert(IF_RANGE, HeaderValue::from_static("\"other\""));
        assert_eq!(range(&headers, content(), 10).unwrap(), None);
        headers.insert(IF_RANGE, format!("\"{}\"", content()).parse().unwrap());
        assert_eq!(range(&headers, content(), 10).unwrap(), Some(0..1));
    }

    #[test]
    fn tags_are_read_as_the_standard_says() {
        let read = |text: &'static str| {
            tags(&HeaderMap::from_iter([(IF_MATCH, HeaderValue::from_static(text))]), &IF_MATCH).map_err(|_| ())
        };
        let tag = |value: &str, weak| Tag { value: value.to_owned(), weak };
        assert_eq!(read("*"), Ok(Some(Tags::Any)));
        assert_eq!(read("\"a\", W/\"b\""), Ok(Some(Tags::Of(vec![tag("a", false), tag("b", true)]))));
        assert_eq!(read("a"), Err(()));
        assert_eq!(tags(&HeaderMap::new(), &IF_MATCH).unwrap(), None);
    }
}
