//! Sessions: how a server tells a device from an older copy of it.
//!
//! A device is a cache folder. One that was set back to a backup, or that is used on two machines, speaks as a device that
//! has done more than it remembers. So each start of a client is a session of its own: a number that grows, a random nonce,
//! and what the client knows of its own commits. The server keeps the newest session of each device and folder, takes the
//! requests of that one only, and accepts the next one if it knows all that the device has committed. Whoever is refused
//! (error `superseded`) goes on as another device. A request without a session is not checked.

use crate::ids::{OpId, Seq};
use crate::protocol::tag;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::str::FromStr;

/// The largest number of a session, and of what it has acknowledged.
const NUMBER_MAX: u64 = i64::MAX.cast_unsigned();

/// One start of one device.
///
/// As text, in JSON too, `NUMBER:NONCE:ACKNOWLEDGED` or `NUMBER:NONCE:ACKNOWLEDGED:UNANSWERED`; the nonce is 16 hexadecimal
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Session {
    /// Grows with each start of the device; the first is 1.
    pub number: u64,
    /// Drawn at each start.
    pub nonce: u64,
    /// The last change of the newest commit of this device that it has an answer to; 0: there is none.
    pub acknowledged: Seq,
    /// The commit after it, if it was sent before this start and the answer to it is not known.
    pub unanswered: Option<OpId>,
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}:{}", self.number, self.nonce, self.acknowledged)?;
        self.unanswered.map_or(Ok(()), |op| write!(f, ":{op}"))
    }
}

/// A text is not a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a session is written NUMBER:NONCE:ACKNOWLEDGED or NUMBER:NONCE:ACKNOWLEDGED:UNANSWERED, a number from 1, 16 \
     hexadecimal digits, a number and an op id"
)]
pub struct ParseSessionError;

impl FromStr for Session {
    type Err = ParseSessionError;

    fn from_str(text: &str) -> Result<Self, ParseSessionError> {
        let mut parts = text.splitn(4, ':');
        let mut part = || parts.next().ok_or(ParseSessionError);
        let number = number(part()?).filter(|number| *number > 0).ok_or(ParseSessionError)?;
        let nonce = tag::parse(part()?).ok_or(ParseSessionError)?;
        let acknowledged = self::number(part()?).ok_or(ParseSessionError)?;
        let unanswered = parts.next().map(str::parse).transpose().map_err(|_| ParseSessionError)?;
        Ok(Self { number, nonce, acknowledged, unanswered })
    }
}

/// Digits only: Rust's own parser takes a plus sign.
fn number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|digit| digit.is_ascii_digit());
    text.parse().ok().filter(|number| plain && *number <= NUMBER_MAX)
}

impl Serialize for Session {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Session {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_round_trip_and_nothing_else_is_one() {
        let first = Session { number: 1, nonce: 0xABC, acknowledged: 0, unanswered: None };
        let later = Session { number: 7, acknowledged: 4711, unanswered: Some(OpId::from_bytes([9; 16])), ..first };
        for session in [first, later] {
            assert_eq!(session.to_string().parse(), Ok(session));
            let json = serde_json::to_string(&session).unwrap();
            assert_eq!(serde_json::from_str::<Session>(&json).unwrap(), session);
        }
        assert_eq!(first.to_string(), "1:0000000000000abc:0");
        let bad = [
            "",
            "1",
            "1:0000000000000abc",
            "0:0000000000000abc:0",
            "+1:0000000000000abc:0",
            "1:abc:0",
            "1:0000000000000abc:",
            "1:0000000000000abc:-1",
            "1:0000000000000abc:0:",
            "1:0000000000000abc:0:x",
            "9223372036854775808:0000000000000abc:0",
            "1:0000000000000abc:0:x:y",
            " 1:0000000000000abc:0",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Session>(), Err(ParseSessionError), "{bad}");
        }
        assert!(serde_json::from_str::<Session>("7").is_err());
    }
}
