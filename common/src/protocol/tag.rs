//! History tags: 64 bits that the server gives each position in a history, so that a history that went another way is
//! recognised. They mean nothing to a client.
//!
//! As text a tag is 16 hexadecimal digits: a JSON number of 64 bits loses its last digits in many languages. 0 stands for
//! no tag.

use serde::{Deserialize, Deserializer, Serializer, de};

/// Serializes a tag as 16 hexadecimal digits, or (in binary formats) as a number.
pub fn serialize<S: Serializer>(tag: &u64, to: S) -> Result<S::Ok, S::Error> {
    if to.is_human_readable() { to.collect_str(&format_args!("{tag:016x}")) } else { to.serialize_u64(*tag) }
}

/// Reads what [`serialize`] wrote.
pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    if !from.is_human_readable() {
        return u64::deserialize(from);
    }
    let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
    parse(&text).ok_or_else(|| de::Error::custom("a tag is written as 16 hexadecimal digits"))
}

/// Reads 16 hexadecimal digits.
pub(super) fn parse(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| plain)
}
