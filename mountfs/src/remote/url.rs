//! The server's address as people write it, checked once.
//!
//! Holds the promise that whatever passed is an address that requests can be made from: every path segment that is added
//! later is percent-encoded here and nowhere else.

use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The base address of a server: `https://HOST[:PORT][/PREFIX]`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerUrl(Url);

/// Why a text is not the address of a server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Neither `http://` nor `https://`.
    #[error("the server's address begins with https:// or http://, for example https://sync.example.org")]
    Scheme,
    /// Not an address at all.
    #[error("`{text}` is not an address: {reason}")]
    Malformed {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A user name or password in it.
    #[error("the server's address must not contain a user name or password; the token has a place of its own")]
    Credentials,
    /// A `?query` or `#fragment` behind it.
    #[error("the server's address must end before `?` or `#`")]
    QueryOrFragment,
}

impl ServerUrl {
    /// The address of `segments` below the base, each percent-encoded as one segment.
    pub(crate) fn join(&self, segments: &[&str]) -> Url {
        let mut url = self.0.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    /// Whether the server is on this machine, so that nothing said to it leaves it: an address of the loopback network, or
    /// `localhost`.
    pub fn is_loopback(&self) -> bool {
        let host = self.0.host_str().unwrap_or_default();
        match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            Ok(address) => address.to_canonical().is_loopback(),
            Err(_) => host.strip_suffix('.').unwrap_or(host).eq_ignore_ascii_case("localhost"),
        }
    }

    /// Whether the token and all files go over a network in clear, where other machines can read them.
    pub fn is_in_clear(&self) -> bool {
        !self.is_https() && !self.is_loopback()
    }

    /// Whether connections are encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }
}

impl FromStr for ServerUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim();
        let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
        if !lower.starts_with("http://") && !lower.starts_with("https://") {
            return Err(UrlError::Scheme);
        }
        let url = Url::parse(text)
            .map_err(|error| UrlError::Malformed { text: without_credentials(text), reason: error.to_string() })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(UrlError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(UrlError::QueryOrFragment);
        }
        Ok(Self(url))
    }
}

/// A password must not get into a message or a log.
fn without_credentials(text: &str) -> String {
    text.rsplit_once('@').map_or_else(|| text.to_owned(), |(_, rest)| format!("…@{rest}"))
}

impl TryFrom<String> for ServerUrl {
    type Error = UrlError;

    fn try_from(text: String) -> Result<Self, UrlError> {
        text.parse()
    }
}

impl From<ServerUrl> for String {
    fn from(url: ServerUrl) -> Self {
        url.to_string()
    }
}

/// Without a slash at the end.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ServerUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn addresses_are_taken_with_or_without_prefix_and_slash() {
        for (text, joined) in [
            ("http://localhost:8080", "http://localhost:8080/v1/x"),
            ("http://[::1]:8080/", "http://[::1]:8080/v1/x"),
            ("HTTPS://sync.example.org/team/a/", "https://sync.example.org/team/a/v1/x"),
            (" https://sync.example.org/team ", "https://sync.example.org/team/v1/x"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.join(&["v1", "x"]).as_str(), joined);
            assert_eq!(parse(&url.to_string()).unwrap().join(&["v1", "x"]).as_str(), joined);
        }
    }

    #[test]
    fn what_leaves_this_machine_in_clear_is_told_apart() {
        for text in
            ["http://localhost:1", "http://LOCALHOST.", "http://127.9.9.9", "http://[::1]", "http://[::ffff:127.0.0.1]"]
        {
            assert!(parse(text).unwrap().is_loopback() && !parse(text).unwrap().is_in_clear(), "{text}");
        }
        for text in
            ["http://h", "http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example", "http://[::]"]
        {
            assert!(parse(text).unwrap().is_in_clear(), "{text}");
        }
        assert!(!parse("https://h").unwrap().is_in_clear());
    }

    #[test]
    fn segments_cannot_escape() {
        let url = parse("http://host").unwrap().join(&["v1", "folders", "a/b ?#%ä"]);
        assert_eq!(url.as_str(), "http://host/v1/folders/a%2Fb%20%3F%23%25%C3%A4");
    }

    #[test]
    fn anything_else_is_refused_with_the_reason() {
        for text in ["", "host", "localhost:8080", "ftp://host", "file:///x", "http:/x"] {
            assert_eq!(parse(text), Err(UrlError::Scheme), "{text}");
        }
        for text in ["http://", "https://host:99999", "http://ho st"] {
            assert!(matches!(parse(text), Err(UrlError::Malformed { .. })), "{text}");
        }
        assert_eq!(parse("http://me:secret@host"), Err(UrlError::Credentials));
        assert_eq!(parse("http://host/?a"), Err(UrlError::QueryOrFragment));
        assert_eq!(parse("http://host/#a"), Err(UrlError::QueryOrFragment));
        assert!(!parse("http://me:secret@host:99999").unwrap_err().to_string().contains("secret"));
    }
}
