//! Bytes that are nearly always text: a JSON string, or `{"hex": "…"}` where they are not UTF-8.

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap, Serializer};
use std::fmt;

/// Serializes `bytes` as a string, an object with `hex`, or (in binary formats) as bytes.
pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    if !to.is_human_readable() {
        return to.serialize_bytes(bytes);
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        return to.serialize_str(text);
    }
    let mut map = to.serialize_map(Some(1))?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    map.serialize_entry("hex", &hex)?;
    map.end()
}

/// Reads what [`serialize`] wrote.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    if from.is_human_readable() { from.deserialize_any(TextOrHex) } else { from.deserialize_byte_buf(TextOrHex) }
}

struct TextOrHex;

impl<'de> Visitor<'de> for TextOrHex {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or an object {\"hex\": …}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<u8>, E> {
        Ok(text.as_bytes().to_vec())
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
        Ok(bytes.to_vec())
    }

    fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
        Ok(bytes)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<u8>, A::Error> {
        let Some((key, digits)) = map.next_entry::<String, String>()? else {
            return Err(de::Error::missing_field("hex"));
        };
        if key != "hex" || map.next_key::<String>()?.is_some() {
            return Err(de::Error::custom("only the field `hex` is allowed here"));
        }
        from_hex(digits.as_bytes()).ok_or_else(|| de::Error::custom("`hex` needs pairs of hexadecimal digits"))
    }
}

fn from_hex(digits: &[u8]) -> Option<Vec<u8>> {
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    pairs
        .iter()
        .map(|[high, low]| Some((char::from(*high).to_digit(16)? * 16 + char::from(*low).to_digit(16)?) as u8))
        .collect()
}
