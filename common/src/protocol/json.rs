//! Reading JSON of a peer: what happens to fields that this program does not know.

use super::features::{Feature, Features};
use serde::de::{DeserializeOwned, Deserializer, Error};

/// Reads a whole JSON text. Unknown fields, at any depth, are an error unless `peer` has named [`Feature::ExtraFields`].
pub fn from_slice<T: DeserializeOwned>(json: &[u8], peer: Features) -> serde_json::Result<T> {
    let mut from = serde_json::Deserializer::from_slice(json);
    let value = read(&mut from, peer)?;
    from.end()?;
    Ok(value)
}

/// Reads a JSON value by the same rule.
pub fn from_value<T: DeserializeOwned>(json: serde_json::Value, peer: Features) -> serde_json::Result<T> {
    read(json, peer)
}

/// Reads from any format by the same rule.
pub fn read<'de, T: DeserializeOwned, D: Deserializer<'de>>(from: D, peer: Features) -> Result<T, D::Error> {
    if peer.has(Feature::ExtraFields) {
        return T::deserialize(from);
    }
    let mut unknown = None;
    let value = serde_ignored::deserialize(from, |path| {
        unknown.get_or_insert_with(|| path.to_string());
    })?;
    match unknown {
        None => Ok(value),
        Some(path) => Err(D::Error::custom(format_args!("unknown field `{}`", path.escape_debug()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::commit::{CommitRequest, Op};
    use crate::protocol::features::NAMED;

    const ID: &str = "01927000-0000-7000-8000-000000000001";

    fn both<T: DeserializeOwned + PartialEq + std::fmt::Debug>(json: &str) -> (T, String) {
        let known = from_slice(json.as_bytes(), Features::parse([NAMED])).expect("ignored");
        let refused = from_slice::<T>(json.as_bytes(), Features::default()).expect_err("refused");
        (known, refused.to_string())
    }

    #[test]
    fn unknown_fields_are_refused_or_ignored_at_any_depth() {
        let plain = format!(r#"{{"op":"remove","id":"{ID}","base":7}}"#);
        let expected = from_slice::<Op>(plain.as_bytes(), Features::default()).unwrap();
        let (op, refused) = both::<Op>(&plain.replace("7}", r#"7,"changed":{"at":1}}"#));
        assert_eq!((op, refused.as_str()), (expected, "unknown field `changed`"));
        let attrs = |more| format!(r#"{{"op":"update","id":"{ID}","base":7,"attrs":{{"mode":420,"mtime":1{more}}}}}"#);
        let expected = from_slice::<Op>(attrs("").as_bytes(), Features::default()).unwrap();
        let (op, refused) = both::<Op>(&attrs(r#","uid":1000"#));
        assert_eq!((op, refused.as_str()), (expected, "unknown field `attrs.?.uid`"));
        let batch =
            |more| format!(r#"{{"op_id":"{ID}","epoch":"{ID}","device":{{"id":"{ID}","name":"a"{more}}},"ops":[]}}"#);
        from_slice::<CommitRequest>(batch("").as_bytes(), Features::default()).unwrap();
        let (_, refused) = both::<CommitRequest>(&batch(r#","os":"x""#));
        assert_eq!(refused, "unknown field `device.os`");
    }

    #[test]
    fn a_field_of_another_operation_is_refused_in_any_case() {
        for fields in [
            r#""op":"remove","names":[]"#,
            r#""op":"update","kind":"file""#,
            r#""op":"create","kind":"file","names":[]"#,
            r#""op":"of_tomorrow""#,
        ] {
            let json = format!(r#"{{"id":"{ID}","base":0,{fields}}}"#);
            for peer in [Features::default(), Features::parse([NAMED])] {
                assert!(from_slice::<Op>(json.as_bytes(), peer).is_err(), "{json}");
            }
        }
    }

    #[test]
    fn nothing_may_follow_the_text() {
        assert!(from_slice::<u32>(b"7 8", Features::parse([NAMED])).is_err());
        assert_eq!(from_slice::<u32>(b" 7 ", Features::default()).unwrap(), 7);
    }
}
