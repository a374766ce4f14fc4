//! A manifest told by its difference to another one that both sides have: a small change of a huge file is a few bytes, not
//! forty for each of its chunks.
//!
//! A difference is only a way to say a manifest. Whoever receives one rebuilds the whole and checks its hash.
//!
//! Encoding: `smd` and a 1, then in file order `1 | first u32 LE | count u32 LE` for extents of the other manifest, or an extent
//! that is new, as a manifest has it behind the tags 2 (chunk) and 3 (hole).

use crate::hash::{ChunkHash, ContentHash, HASH_LEN};
use crate::manifest::{Extent, Manifest, ManifestError};
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::HashMap;

/// The media type of a difference where it stands alone.
pub const CONTENT_TYPE: &str = "application/vnd.syncmount.manifest-difference";

const MAGIC: [u8; 4] = *b"smd\x01";
const TAG_KEPT: u8 = 1;
const TAG_CHUNK: u8 = 2;
const TAG_HOLE: u8 = 3;

/// The largest number of extents that all differences of one request may stand for: they are small, and what they stand for
/// is not.
pub const EXTENTS_SUM_MAX: usize = crate::manifest::EXTENTS_MAX;

/// Manifests with fewer extents are not worth a difference.
pub const EXTENTS_MIN: usize = 32;

/// Why a difference is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// Cut short, or an unknown tag or version.
    #[error("the difference between two manifests is malformed")]
    Malformed,
    /// It keeps extents that the other manifest does not have.
    #[error("the difference refers to extents that the other manifest does not have")]
    OutOfRange,
    /// More extents than are allowed.
    #[error("the difference stands for too many extents")]
    TooLarge,
    /// What it stands for is no manifest.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// What it stands for is another manifest than it says.
    #[error("the difference does not lead to the content that it names")]
    HashMismatch,
}

/// An encoded difference, not looked at yet. In JSON it is base64.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Delta(pub Vec<u8>);

impl Serialize for Delta {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Delta {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Delta {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::Object::builder()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("base64 of the difference between two manifests"))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Delta {}

/// How `target` differs from `base`, if telling that takes at most half of what telling all of it takes.
pub fn between(base: &Manifest, target: &Manifest) -> Option<Vec<u8>> {
    if target.extents().len() < EXTENTS_MIN {
        return None;
    }
    let len_max = target.extents().len() * (5 + HASH_LEN) / 2;
    let kept = base.extents();
    let mut first: HashMap<&Extent, u32> = HashMap::with_capacity(kept.len());
    for (index, extent) in (0..).zip(kept) {
        if matches!(extent, Extent::Chunk { .. }) {
            first.entry(extent).or_insert(index);
        }
    }
    let mut out = MAGIC.to_vec();
    let mut run: Option<(u32, u32)> = None;
    for extent in target.extents() {
        let goes_on = run.filter(|(from, count)| kept.get((from + count) as usize) == Some(extent));
        run = match (goes_on, first.get(extent)) {
            (Some((from, count)), _) => Some((from, count + 1)),
            (None, found) => {
                put_run(&mut out, run);
                if found.is_none() {
                    put_extent(&mut out, extent);
                }
                found.map(|from| (*from, 1))
            }
        };
        if out.len() > len_max {
            return None;
        }
    }
    put_run(&mut out, run);
    (out.len() <= len_max).then_some(out)
}

fn put_run(out: &mut Vec<u8>, run: Option<(u32, u32)>) {
    if let Some((from, count)) = run {
        out.push(TAG_KEPT);
        out.extend_from_slice(&from.to_le_bytes());
        out.extend_from_slice(&count.to_le_bytes());
    }
}

fn put_extent(out: &mut Vec<u8>, extent: &Extent) {
    match extent {
        Extent::Chunk { hash, len } => {
            out.push(TAG_CHUNK);
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(hash.as_bytes());
        }
        Extent::Hole { len } => {
            out.push(TAG_HOLE);
            out.extend_from_slice(&len.to_le_bytes());
        }
    }
}

/// How many extents a difference stands for, as far as it is well-formed: they may be many more than it has bytes.
pub fn stands_for(delta: &[u8]) -> u64 {
    let mut rest = delta.strip_prefix(&MAGIC).unwrap_or_default();
    let mut sum = 0u64;
    while let Some((tag, after)) = rest.split_first() {
        let (count, len) = match *tag {
            TAG_KEPT => match after.get(4..).map(u32_of) {
                Some(Ok((count, _))) => (u64::from(count), 8),
                Some(Err(_)) | None => return sum,
            },
            TAG_CHUNK => (1, 4 + HASH_LEN),
            TAG_HOLE => (1, 8),
            _ => return sum,
        };
        sum = sum.saturating_add(count);
        rest = after.get(len..).unwrap_or_default();
    }
    sum
}

/// The manifest `name`, rebuilt from its difference to `base`, with at most `extents_max` extents.
pub fn apply(base: &Manifest, delta: &[u8], name: &ContentHash, extents_max: usize) -> Result<Manifest, DeltaError> {
    let mut rest = delta.strip_prefix(&MAGIC).ok_or(DeltaError::Malformed)?;
    let mut extents = Vec::new();
    while let Some((tag, after)) = rest.split_first() {
        let room = extents_max - extents.len();
        rest = match *tag {
            TAG_KEPT => {
                let (from, after) = u32_of(after)?;
                let (count, after) = u32_of(after)?;
                if count as usize > room {
                    return Err(DeltaError::TooLarge);
                }
                let end = from.checked_add(count).ok_or(DeltaError::OutOfRange)?;
                let kept = base.extents().get(from as usize..end as usize).ok_or(DeltaError::OutOfRange)?;
                extents.extend_from_slice(kept);
                after
            }
            _ if room == 0 => return Err(DeltaError::TooLarge),
            TAG_CHUNK => {
                let (len, after) = u32_of(after)?;
                let (hash, after) = after.split_first_chunk().ok_or(DeltaError::Malformed)?;
                extents.push(Extent::Chunk { hash: ChunkHash::from_bytes(*hash), len });
                after
            }
            TAG_HOLE => {
                let (len, after) = after.split_first_chunk().ok_or(DeltaError::Malformed)?;
                extents.push(Extent::Hole { len: u64::from_le_bytes(*len) });
                after
            }
            _ => return Err(DeltaError::Malformed),
        };
    }
    let manifest = Manifest::new(extents)?;
    if manifest.content_hash() == *name { Ok(manifest) } else { Err(DeltaError::HashMismatch) }
}

fn u32_of(bytes: &[u8]) -> Result<(u32, &[u8]), DeltaError> {
    let (number, after) = bytes.split_first_chunk().ok_or(DeltaError::Malformed)?;
    Ok((u32::from_le_bytes(*number), after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(n: u32) -> Extent {
        Extent::Chunk { hash: ChunkHash::of(&n.to_le_bytes()), len: n % 1000 + 1 }
    }

    fn manifest(numbers: impl IntoIterator<Item = u32>) -> Manifest {
        Manifest::new(numbers.into_iter().map(chunk).collect()).unwrap()
    }

    /// Chunks of few kinds, so that they repeat, and holes between them.
    fn extents() -> impl Strategy<Value = Vec<Extent>> {
        let extent =
            prop_oneof![4 => (0..60_u32).prop_map(chunk), 1 => (1..9_u64).prop_map(|len| Extent::Hole { len })];
        proptest::collection::vec(extent, 0..150).prop_map(|mut all| {
            all.dedup_by(|one, other| matches!((one, other), (Extent::Hole { .. }, Extent::Hole { .. })));
            all
        })
    }

    proptest! {
        #[test]
        fn what_is_told_by_its_difference_is_the_same(
            base in extents(),
            at in any::<prop::sample::Index>(),
            gone in 0..9_usize,
            new in extents(),
        ) {
            let (Ok(base), mut changed) = (Manifest::new(base.clone()), base) else { return Ok(()) };
            let at = at.index(changed.len() + 1);
            changed.splice(at..(at + gone).min(changed.len()), new);
            let Ok(target) = Manifest::new(changed) else { return Ok(()) };
            if let Some(delta) = between(&base, &target) {
                prop_assert!(delta.len() < target.encode().len());
                prop_assert_eq!(stands_for(&delta), target.extents().len() as u64);
                let name = target.content_hash();
                prop_assert_eq!(&apply(&base, &delta, &name, target.extents().len()).unwrap(), &target);
                let short = target.extents().len() - 1;
                prop_assert_eq!(apply(&base, &delta, &name, short), Err(DeltaError::TooLarge));
                prop_assert_eq!(apply(&base, &delta, &base.content_hash(), 999).is_ok(), base == target);
            }
        }

        #[test]
        fn anything_else_is_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let base = manifest(0..40);
            prop_assert!(apply(&base, &[&MAGIC[..], &bytes].concat(), &base.content_hash(), 50).is_err());
            prop_assert!(apply(&base, &bytes, &base.content_hash(), 50).is_err());
            stands_for(&[&MAGIC[..], &bytes].concat());
        }
    }

    #[test]
    fn one_chunk_of_thousands_is_a_few_bytes_and_other_contents_are_none() {
        let base = manifest(0..4000);
        let edited = manifest((0..4000).map(|n| if n == 2000 { 9999 } else { n }));
        assert_eq!(between(&base, &edited).unwrap().len(), 4 + 9 + 37 + 9);
        let inserted = manifest((0..1).map(|_| 9999).chain(0..4000));
        assert_eq!(between(&base, &inserted).unwrap().len(), 4 + 37 + 9);
        assert_eq!(between(&base, &manifest(5000..9000)), None);
        assert_eq!(between(&base, &manifest(0..5)), None, "short ones are told whole");
    }

    #[test]
    fn lies_are_found() {
        let base = manifest(0..40);
        let name = base.content_hash();
        let kept = |from: u32, count: u32| [&[TAG_KEPT][..], &from.to_le_bytes(), &count.to_le_bytes()].concat();
        let refused =
            |parts: &[Vec<u8>], max| apply(&base, &[&MAGIC[..], &parts.concat()].concat(), &name, max).unwrap_err();
        assert_eq!(refused(&[kept(0, 41)], 100), DeltaError::OutOfRange);
        assert_eq!(refused(&[kept(u32::MAX, 2)], 100), DeltaError::OutOfRange);
        assert_eq!(refused(&[kept(0, u32::MAX)], 100), DeltaError::TooLarge);
        assert_eq!(refused(&vec![kept(0, 40); 1000], 100), DeltaError::TooLarge);
        assert_eq!(refused(&[kept(0, 39)], 100), DeltaError::HashMismatch);
        assert_eq!(refused(&[kept(0, 40), vec![TAG_CHUNK; 9]], 100), DeltaError::Malformed);
        assert_eq!(refused(&[vec![9]], 100), DeltaError::Malformed);
        assert_eq!(
            refused(&[[&[TAG_HOLE][..], &0_u64.to_le_bytes()].concat()], 100),
            DeltaError::Manifest(ManifestError::BadLength)
        );
        assert_eq!(apply(&base, b"smd\x02", &name, 100), Err(DeltaError::Malformed));
    }
}
