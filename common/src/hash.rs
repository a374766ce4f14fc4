//! SHA-256 digests, one newtype per meaning so that they cannot be mixed up.
//!
//! A [`ChunkHash`] names the raw bytes of one chunk, a [`ContentHash`] names a [`crate::Manifest`] (and so a whole
//! content), a [`FileHash`] is what `sha256sum` prints for the file.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Length of a SHA-256 digest in bytes.
pub const HASH_LEN: usize = 32;

/// A text is not 64 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 hash is written as 64 hexadecimal digits")]
pub struct ParseHashError;

/// Hashes are written very often: in requests, answers and the names of cached contents.
fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8; HASH_LEN]) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0; 2 * HASH_LEN];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
    }
    f.write_str(str::from_utf8(&digits).map_err(|_| fmt::Error)?)
}

fn parse_hex(text: &str) -> Result<[u8; HASH_LEN], ParseHashError> {
    let digits = text.as_bytes();
    if digits.len() != 2 * HASH_LEN {
        return Err(ParseHashError);
    }
    let mut out = [0; HASH_LEN];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (nibble(pair[0])? << 4) | nibble(pair[1])?;
    }
    Ok(out)
}

fn nibble(digit: u8) -> Result<u8, ParseHashError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseHashError),
    }
}

macro_rules! hash_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; HASH_LEN]);

        impl $name {
            /// Hashes `bytes`.
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// Wraps a digest that was computed elsewhere.
            pub const fn from_bytes(bytes: [u8; HASH_LEN]) -> Self {
                Self(bytes)
            }

            /// The digest itself.
            pub const fn as_bytes(&self) -> &[u8; HASH_LEN] {
                &self.0
            }

            /// Whether `bytes` have this hash.
            pub fn matches(&self, bytes: &[u8]) -> bool {
                *self == Self::of(bytes)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(f, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl FromStr for $name {
            type Err = ParseHashError;

            fn from_str(text: &str) -> Result<Self, ParseHashError> {
                parse_hex(text).map(Self)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    <[u8; HASH_LEN]>::deserialize(from).map(Self)
                }
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                utoipa::openapi::schema::Object::builder()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .description(Some("SHA-256, 64 hexadecimal digits"))
                    .pattern(Some("^[0-9a-f]{64}$"))
                    .into()
            }
        }

        #[cfg(feature = "schema")]
        impl utoipa::ToSchema for $name {}
    };
}

hash_type! {
    /// The SHA-256 of the raw (not encoded) bytes of one chunk.
    ChunkHash
}
hash_type! {
    /// The SHA-256 of the canonical encoding of a [`crate::Manifest`]. Equal content hashes mean equal bytes.
    ContentHash
}
hash_type! {
    /// The SHA-256 of all bytes of a file, holes read as zeros: what `sha256sum` prints.
    FileHash
}

/// Computes a [`FileHash`] while the bytes pass by.
#[derive(Clone, Default)]
pub struct FileHasher(Sha256);

impl FileHasher {
    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all bytes added.
    pub fn finish(self) -> FileHash {
        FileHash(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn hashes_as_the_standard_says() {
        assert_eq!(ChunkHash::of(b"abc").to_string(), ABC);
        let mut hasher = FileHasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish().to_string(), ABC);
    }

    #[test]
    fn text_form_round_trips_and_rejects_everything_else() {
        let hash: ChunkHash = ABC.parse().unwrap();
        assert_eq!(serde_json::to_string(&hash).unwrap(), format!("\"{ABC}\""));
        assert_eq!(serde_json::from_str::<ChunkHash>(&format!("\"{}\"", ABC.to_uppercase())).unwrap(), hash);
        for bad in ["", "00", &ABC[1..], &format!("{ABC}0"), &ABC.replace('b', "g")] {
            assert_eq!(bad.parse::<ChunkHash>(), Err(ParseHashError), "{bad}");
        }
    }
}
