//! Extended attributes: small named values that travel with a node; and, kept with them, the node's owner, which few nodes have.
//!
//! Bounded by construction, so that no node makes a message or a row large: see the constants. Only the namespace `user.`
//! exists here; what begins with `user.syncmount.` is told by the client itself and is never kept.

use crate::node::Owner;
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The longest name, in bytes, `user.` included; as on Linux.
pub const XATTR_NAME_LEN_MAX: usize = 255;

/// The longest value, in bytes; as on Linux.
pub const XATTR_VALUE_LEN_MAX: usize = 64 * 1024;

/// Names and values of one node in sum, in bytes.
pub const XATTRS_LEN_MAX: usize = 128 * 1024;

/// What every name begins with.
pub const XATTR_NAMESPACE: &[u8] = b"user.";

/// What no kept name begins with.
pub const XATTR_RESERVED: &[u8] = b"user.syncmount.";

/// Why an attribute is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum XattrError {
    /// Not `user.` and something behind it, has a NUL byte, or is reserved.
    #[error("an extended attribute's name begins with `user.`, not with `user.syncmount.`, and has no NUL byte")]
    Name,
    /// More than 255 bytes.
    #[error("an extended attribute's name is at most 255 bytes long")]
    NameTooLong,
    /// More than 64 KiB.
    #[error("an extended attribute's value is at most 64 KiB long")]
    ValueTooLong,
    /// More than 128 KiB with all others.
    #[error("the extended attributes of one file are at most 128 KiB long together")]
    NoRoom,
    /// The encoding is cut short or out of order.
    #[error("the encoding of extended attributes is malformed")]
    Malformed,
}

type Map = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// Under this name the encoding has the owner: it is no name of an extended attribute, and stands before all of them.
const OWNER: &[u8] = b"owner";

#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Kept {
    owner: Option<Owner>,
    map: Map,
}

/// The extended attributes of a node, and its owner. Valid by construction; a node without any costs one word.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Xattrs(Option<Arc<Kept>>);

/// Whether a name may be kept.
pub fn check_name(name: &[u8]) -> Result<(), XattrError> {
    let behind = name.strip_prefix(XATTR_NAMESPACE).ok_or(XattrError::Name)?;
    if behind.is_empty() || behind.contains(&0) || name.starts_with(XATTR_RESERVED) {
        return Err(XattrError::Name);
    }
    if name.len() > XATTR_NAME_LEN_MAX { Err(XattrError::NameTooLong) } else { Ok(()) }
}

impl Xattrs {
    /// Whether there is none, and no owner.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The owner, if one is known.
    pub fn owner(&self) -> Option<Owner> {
        self.0.as_ref()?.owner
    }

    /// The same attributes, of a node with this owner. One that cannot be is none.
    #[must_use]
    pub fn with_owner(&self, owner: Option<Owner>) -> Self {
        let owner = owner.filter(|owner| owner.is_valid());
        if self.owner() == owner {
            return self.clone();
        }
        let mut kept = self.0.clone().unwrap_or_default();
        Arc::make_mut(&mut kept).owner = owner;
        Self(Some(kept).filter(|kept| kept.owner.is_some() || !kept.map.is_empty()))
    }

    /// Names and values in sum, in bytes.
    pub fn len(&self) -> usize {
        self.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    /// A value.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.as_ref()?.map.get(name).map(|value| &**value)
    }

    /// Names and values, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        self.0.iter().flat_map(|kept| kept.map.iter()).map(|(name, value)| (&**name, &**value))
    }

    /// Sets a value, or replaces it. Nothing changes with an error.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), XattrError> {
        check_name(name)?;
        if value.len() > XATTR_VALUE_LEN_MAX {
            return Err(XattrError::ValueTooLong);
        }
        let replaced = self.get(name).map_or(0, |value| name.len() + value.len());
        if self.len() - replaced + name.len() + value.len() > XATTRS_LEN_MAX {
            return Err(XattrError::NoRoom);
        }
        Arc::make_mut(self.0.get_or_insert_default()).map.insert(name.into(), value.into());
        Ok(())
    }

    /// Takes a value away; `false` if there is none of that name.
    pub fn remove(&mut self, name: &[u8]) -> bool {
        let Some(kept) = &mut self.0 else { return false };
        let removed = Arc::make_mut(kept).map.remove(name).is_some();
        if kept.map.is_empty() && kept.owner.is_none() {
            self.0 = None;
        }
        removed
    }

    /// What becomes of attributes that may have been changed on two sides: each name for itself, and the owner. Where both changed
    /// one, `there` counts; what was set here and does not fit beside what was set there is left out.
    pub fn merged(base: &Self, here: &Self, there: &Self) -> Self {
        let mut merged = there.clone();
        let changed_here = |name: &[u8]| here.get(name) != base.get(name) && there.get(name) == base.get(name);
        for (name, _) in base.iter().filter(|(name, _)| changed_here(name)) {
            merged.remove(name);
        }
        for (name, value) in here.iter().filter(|(name, _)| changed_here(name)) {
            if merged.set(name, value).is_err() {
                continue;
            }
        }
        if there.owner() == base.owner() { merged.with_owner(here.owner()) } else { merged }
    }

    /// The canonical encoding: for each, by name, `length u8, name, length u32 (little-endian), value`. An owner is one of them,
    /// named `owner`, with `uid u32, gid u32` as its value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.len() + 64);
        let owner = self.owner().map(|owner| [owner.uid.to_le_bytes(), owner.gid.to_le_bytes()].concat());
        for (name, value) in owner.iter().map(|value| (OWNER, &**value)).chain(self.iter()) {
            out.push(name.len() as u8);
            out.extend_from_slice(name);
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(value);
        }
        out
    }

    /// Reads the canonical encoding.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, XattrError> {
        let mut xattrs = Self::default();
        let mut last: &[u8] = &[];
        while let Some((len, rest)) = bytes.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(*len)).ok_or(XattrError::Malformed)?;
            let (len, rest) = rest.split_first_chunk().ok_or(XattrError::Malformed)?;
            let (value, rest) =
                rest.split_at_checked(u32::from_le_bytes(*len) as usize).ok_or(XattrError::Malformed)?;
            if name <= last {
                return Err(XattrError::Malformed);
            }
            if name == OWNER {
                xattrs = xattrs.with_owner(Some(owner_of(value).ok_or(XattrError::Malformed)?));
            } else {
                xattrs.set(name, value)?;
            }
            (last, bytes) = (name, rest);
        }
        Ok(xattrs)
    }
}

fn owner_of(value: &[u8]) -> Option<Owner> {
    let (uid, gid) = value.split_first_chunk()?;
    let owner = Owner { uid: u32::from_le_bytes(*uid), gid: u32::from_le_bytes(gid.try_into().ok()?) };
    owner.is_valid().then_some(owner)
}

/// One attribute as it is in JSON.
#[derive(Serialize, Deserialize)]
struct Told {
    #[serde(with = "crate::protocol::text_or_hex")]
    name: Vec<u8>,
    /// Base64.
    value: String,
}

/// In JSON a list of `{"name": …, "value": base64}` by name, without the owner, which travels in fields of its own; in binary
/// formats the canonical encoding.
impl Serialize for Xattrs {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if !to.is_human_readable() {
            return to.serialize_bytes(&self.encode());
        }
        to.collect_seq(self.iter().map(|(name, value)| Told {
            name: name.to_vec(),
            value: base64::engine::general_purpose::STANDARD.encode(value),
        }))
    }
}

impl<'de> Deserialize<'de> for Xattrs {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if !from.is_human_readable() {
            return Self::decode(&Vec::<u8>::deserialize(from)?).map_err(de::Error::custom);
        }
        let mut xattrs = Self::default();
        for Told { name, value } in Vec::<Told>::deserialize(from)? {
            let value = base64::engine::general_purpose::STANDARD.decode(value).map_err(de::Error::custom)?;
            if xattrs.get(&name).is_some() {
                return Err(de::Error::custom("an extended attribute is given twice"));
            }
            xattrs.set(&name, &value).map_err(de::Error::custom)?;
        }
        Ok(xattrs)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Xattrs {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ArrayBuilder::new()
            .items(utoipa::openapi::schema::Object::new())
            .description(Some("extended attributes by name, each {\"name\": …, \"value\": base64}; `user.` only"))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Xattrs {}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattrs(pairs: &[(&str, &str)]) -> Xattrs {
        let mut xattrs = Xattrs::default();
        for (name, value) in pairs {
            xattrs.set(format!("user.{name}").as_bytes(), value.as_bytes()).unwrap();
        }
        xattrs
    }

    #[test]
    fn names_and_sizes_are_bounded() {
        let mut own = Xattrs::default();
        for bad in ["", "user.", "note", "trusted.x", "user.a\0", "user.syncmount.state"] {
            assert_eq!(own.set(bad.as_bytes(), b""), Err(XattrError::Name), "{bad}");
        }
        assert_eq!(own.set(format!("user.{}", "x".repeat(251)).as_bytes(), b""), Err(XattrError::NameTooLong));
        assert_eq!(own.set(b"user.a", &[0; XATTR_VALUE_LEN_MAX + 1]), Err(XattrError::ValueTooLong));
        own.set(b"user.a", &[1; XATTR_VALUE_LEN_MAX]).unwrap();
        assert_eq!(own.set(b"user.b", &[1; XATTR_VALUE_LEN_MAX]), Err(XattrError::NoRoom));
        own.set(b"user.a", &[2; XATTR_VALUE_LEN_MAX]).unwrap();
        assert!(own.remove(b"user.a") && !own.remove(b"user.a") && own.is_empty());
        assert_eq!(own, Xattrs::default());
    }

    #[test]
    fn each_name_is_merged_for_itself() {
        let base = xattrs(&[("kept", "0"), ("gone here", "0"), ("gone there", "0"), ("both", "0"), ("here", "0")]);
        let here = xattrs(&[("kept", "0"), ("gone there", "0"), ("both", "x"), ("here", "x"), ("new", "x")]);
        let there = xattrs(&[("kept", "0"), ("gone here", "0"), ("both", "y"), ("here", "0"), ("new too", "y")]);
        let wanted = xattrs(&[("kept", "0"), ("both", "y"), ("here", "x"), ("new", "x"), ("new too", "y")]);
        assert_eq!(Xattrs::merged(&base, &here, &there), wanted);
        assert_eq!(Xattrs::merged(&base, &here, &base), here);
        assert_eq!(Xattrs::merged(&base, &base, &there), there);
    }

    #[test]
    fn an_owner_is_merged_and_encoded_and_is_no_attribute() {
        let owner = |uid| Some(Owner { uid, gid: 7 });
        let (none, note) = (Xattrs::default(), xattrs(&[("note", "x")]));
        let owned = note.with_owner(owner(1));
        assert_eq!((owned.owner(), owned.len(), owned.get(OWNER)), (owner(1), note.len(), None));
        assert_eq!(owned.with_owner(None), note);
        assert_eq!((none.with_owner(owner(1)).is_empty(), none.with_owner(owner(u32::MAX)).is_empty()), (false, true));
        let mut bare = owned.clone();
        assert!(bare.remove(b"user.note") && bare.owner() == owner(1));
        for whole in [&owned, &bare, &note] {
            assert_eq!(Xattrs::decode(&whole.encode()).as_ref(), Ok(whole));
        }
        assert_eq!(serde_json::to_string(&owned).unwrap(), serde_json::to_string(&note).unwrap());
        let mut cut = bare.encode();
        cut.pop();
        assert_eq!(Xattrs::decode(&cut), Err(XattrError::Malformed));
        let nobody = [&[5], OWNER, &8u32.to_le_bytes(), &[0xFF; 8]].concat();
        assert_eq!(Xattrs::decode(&nobody), Err(XattrError::Malformed));
        let of = |uid| note.with_owner(owner(uid)).owner();
        let merged = |base, here, there| {
            Xattrs::merged(&note.with_owner(base), &note.with_owner(here), &note.with_owner(there)).owner()
        };
        assert_eq!(merged(None, owner(1), None), of(1));
        assert_eq!(merged(owner(1), owner(1), owner(2)), of(2));
        assert_eq!(merged(owner(1), owner(3), owner(2)), of(2));
        assert_eq!(merged(owner(1), owner(3), owner(1)), of(3));
    }

    #[test]
    fn both_encodings_round_trip_and_refuse_what_is_malformed() {
        let mut own = xattrs(&[("a", ""), ("b", "value")]);
        own.set(b"user.\xff", &[0, 255]).unwrap();
        let json = serde_json::to_string(&own).unwrap();
        assert!(json.starts_with(r#"[{"name":"user.a","value":""},"#), "{json}");
        assert_eq!(serde_json::from_str::<Xattrs>(&json).unwrap(), own);
        let bytes = own.encode();
        assert_eq!(Xattrs::decode(&bytes).unwrap(), own);
        for len in 1..bytes.len() {
            let is_whole = [xattrs(&[("a", "")]), xattrs(&[("a", ""), ("b", "value")])].map(|x| x.encode().len());
            assert_eq!(Xattrs::decode(&bytes[..len]).is_ok(), is_whole.contains(&len), "{len}");
        }
        let twice = [bytes.clone(), bytes].concat();
        assert!(Xattrs::decode(&twice).is_err());
        assert!(
            serde_json::from_str::<Xattrs>(r#"[{"name":"user.a","value":""},{"name":"user.a","value":""}]"#).is_err()
        );
    }
}
