//! One component of a path.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::sync::Arc;

/// The longest name, in bytes, as on Linux.
pub const NAME_LEN_MAX: usize = 255;

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No byte at all.
    #[error("a name must not be empty")]
    Empty,
    /// More than 255 bytes.
    #[error("a name is at most 255 bytes long")]
    TooLong,
    /// `.` or `..`.
    #[error("`.` and `..` are not names")]
    Dots,
    /// A slash or a NUL byte.
    #[error("a name must not contain `/` or a NUL byte")]
    ForbiddenByte,
}

/// One valid path component: 1 to 255 bytes, not `.` or `..`, without `/` and NUL. Any other bytes are allowed, also
/// those that are not UTF-8. Names are equal if their bytes are. A copy shares them.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<[u8]>);

impl Name {
    /// Checks `bytes` and takes them as a name.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        match &*bytes {
            [] => Err(NameError::Empty),
            b"." | b".." => Err(NameError::Dots),
            long if long.len() > NAME_LEN_MAX => Err(NameError::TooLong),
            other if other.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(NameError::ForbiddenByte),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes of the name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name as text; bytes that are not UTF-8 are shown as U+FFFD.
    pub fn to_string_lossy(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_string_lossy())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string_lossy(), f)
    }
}

impl std::borrow::Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<&str> for Name {
    type Error = NameError;

    fn try_from(text: &str) -> Result<Self, NameError> {
        Self::new(text.as_bytes())
    }
}

/// In JSON a name is a string, or `{"hex": "…"}` if its bytes are not UTF-8; in binary formats it is its bytes.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        crate::protocol::text_or_hex::serialize(&self.0, to)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = crate::protocol::text_or_hex::deserialize(from)?;
        Self::new(bytes).map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Name {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::Object::builder()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("one path component; {\"hex\": \"…\"} instead where the bytes are not UTF-8"))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Name {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_one_path_component_is_refused() {
        let cases: [(&[u8], NameError); 7] = [
            (b"", NameError::Empty),
            (b".", NameError::Dots),
            (b"..", NameError::Dots),
            (b"a/b", NameError::ForbiddenByte),
            (b"/", NameError::ForbiddenByte),
            (b"a\0", NameError::ForbiddenByte),
            (&[b'x'; 256], NameError::TooLong),
        ];
        for (bytes, error) in cases {
            assert_eq!(Name::new(bytes), Err(error));
        }
        assert!(Name::new(vec![b'x'; 255]).is_ok());
        assert!(Name::new(&b"..."[..]).is_ok());
    }

    #[test]
    fn json_refuses_what_the_constructor_refuses() {
        for bad in [r#""..""#, r#""a/b""#, r#""""#, r#"{"hex":"2e2e"}"#, r#"{"hex":"0"}"#, "7", r#"{"bytes":"00"}"#] {
            assert!(serde_json::from_str::<Name>(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn json_keeps_every_byte(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::new(bytes) {
                let json = serde_json::to_string(&name).unwrap();
                prop_assert_eq!(serde_json::from_str::<Name>(&json).unwrap(), name);
            }
        }
    }
}
