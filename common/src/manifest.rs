//! What a content consists of: an ordered list of chunks and holes.

use crate::hash::{ChunkHash, ContentHash, FileHash, FileHasher, HASH_LEN};
use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The largest number of extents in one manifest. With the chunk sizes of [`crate::chunker`] this is more than 1 TiB.
pub const EXTENTS_MAX: usize = 1 << 20;

/// The longest chunk, in raw bytes.
pub const CHUNK_LEN_MAX: u32 = 16 * 1024 * 1024;

/// The largest file, in bytes: every program can hold its size exactly, as JSON's numbers do, and the sizes of a thousand of
/// them can be added up. A server takes no content that is larger.
pub const FILE_SIZE_MAX: u64 = (1 << 53) - 1;

/// The largest size that the encoding can say, in bytes. Earlier versions took contents up to it, so that stored ones and
/// those in a feed stay readable.
pub const ENCODED_SIZE_MAX: u64 = i64::MAX as u64;

const MAGIC: [u8; 4] = *b"smm\x01";
const TAG_CHUNK: u8 = 1;
const TAG_HOLE: u8 = 2;

/// One piece of a content.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Extent {
    /// `len` bytes (1 to [`CHUNK_LEN_MAX`]) that the chunk `hash` holds.
    Chunk {
        /// Names the bytes.
        hash: ChunkHash,
        /// Their number.
        len: u32,
    },
    /// `len` (at least 1) bytes that read as zeros and are stored nowhere.
    Hole {
        /// Their number.
        len: u64,
    },
}

impl Extent {
    /// Number of bytes of the file that this extent stands for.
    pub const fn len(&self) -> u64 {
        match self {
            Self::Chunk { len, .. } => *len as u64,
            Self::Hole { len } => *len,
        }
    }

    /// Never true in a valid manifest.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why a list of extents or its encoding is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The encoding is cut short, has bytes left over, or has an unknown tag or version.
    #[error("the manifest's encoding is malformed")]
    Malformed,
    /// An extent of no bytes, or a chunk longer than [`CHUNK_LEN_MAX`].
    #[error("an extent's length is out of range")]
    BadLength,
    /// Two holes side by side: one content would have two encodings.
    #[error("two holes side by side must be one")]
    AdjacentHoles,
    /// More than [`EXTENTS_MAX`] extents, or more than [`ENCODED_SIZE_MAX`] bytes.
    #[error("the manifest describes more than a file can hold")]
    TooLarge,
}

/// An ordered list of extents. Valid by construction: every length in range, no two holes side by side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Manifest {
    extents: Vec<Extent>,
    size: u64,
}

impl Manifest {
    /// Checks `extents` and takes them.
    pub fn new(extents: Vec<Extent>) -> Result<Self, ManifestError> {
        if extents.len() > EXTENTS_MAX {
            return Err(ManifestError::TooLarge);
        }
        let mut size = 0u64;
        let mut after_hole = false;
        for extent in &extents {
            let hole = matches!(extent, Extent::Hole { .. });
            if extent.is_empty() || (!hole && extent.len() > u64::from(CHUNK_LEN_MAX)) {
                return Err(ManifestError::BadLength);
            }
            if hole && after_hole {
                return Err(ManifestError::AdjacentHoles);
            }
            after_hole = hole;
            size =
                size.checked_add(extent.len()).filter(|sum| *sum <= ENCODED_SIZE_MAX).ok_or(ManifestError::TooLarge)?;
        }
        Ok(Self { extents, size })
    }

    /// The same manifest if its file may travel, which has at most [`FILE_SIZE_MAX`] bytes.
    pub fn for_travel(self) -> Result<Self, ManifestError> {
        if self.size <= FILE_SIZE_MAX { Ok(self) } else { Err(ManifestError::TooLarge) }
    }

    /// The SHA-256 of the whole file where the manifest alone proves it: a file of one chunk, or of nothing.
    pub fn file_hash(&self) -> Option<FileHash> {
        match self.extents[..] {
            [] => Some(FileHash::of(b"")),
            [Extent::Chunk { hash, .. }] => Some(FileHash::from_bytes(*hash.as_bytes())),
            _ => None,
        }
    }

    /// The extents in file order.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The file's size in bytes: the sum of the extents' lengths.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The chunks that the content needs, in file order, repeated where the file repeats.
    pub fn chunks(&self) -> impl Iterator<Item = (ChunkHash, u32)> + '_ {
        self.extents.iter().filter_map(|extent| match extent {
            Extent::Chunk { hash, len } => Some((*hash, *len)),
            Extent::Hole { .. } => None,
        })
    }

    /// Extents with the offset at which each begins.
    pub fn with_offsets(&self) -> impl Iterator<Item = (u64, Extent)> + '_ {
        self.extents.iter().scan(0, |offset, extent| {
            let start = *offset;
            *offset += extent.len();
            Some((start, *extent))
        })
    }

    /// The canonical encoding: equal manifests have equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(MAGIC.len() + self.extents.len() * (5 + HASH_LEN));
        out.extend_from_slice(&MAGIC);
        put_extents(&self.extents, &mut out);
        out
    }

    /// Reads the canonical encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut rest = bytes.strip_prefix(&MAGIC).ok_or(ManifestError::Malformed)?;
        let mut extents = Vec::new();
        while let Some((tag, after)) = rest.split_first() {
            let (extent, after) = match *tag {
                TAG_CHUNK => {
                    let (len, after) = after.split_first_chunk().ok_or(ManifestError::Malformed)?;
                    let (hash, after) = after.split_first_chunk().ok_or(ManifestError::Malformed)?;
                    (Extent::Chunk { hash: ChunkHash::from_bytes(*hash), len: u32::from_le_bytes(*len) }, after)
                }
                TAG_HOLE => {
                    let (len, after) = after.split_first_chunk().ok_or(ManifestError::Malformed)?;
                    (Extent::Hole { len: u64::from_le_bytes(*len) }, after)
                }
                _ => return Err(ManifestError::Malformed),
            };
            if extents.len() == EXTENTS_MAX {
                return Err(ManifestError::TooLarge);
            }
            extents.push(extent);
            rest = after;
        }
        Self::new(extents)
    }

    /// The name of this content.
    pub fn content_hash(&self) -> ContentHash {
        let mut hasher = FileHasher::default();
        hasher.update(&MAGIC);
        // In pieces: the encoding of a large manifest takes as much memory as the manifest.
        let mut piece = Vec::with_capacity(self.extents.len().min(PIECE_EXTENTS) * (5 + HASH_LEN));
        for extents in self.extents.chunks(PIECE_EXTENTS) {
            piece.clear();
            put_extents(extents, &mut piece);
            hasher.update(&piece);
        }
        ContentHash::from_bytes(*hasher.finish().as_bytes())
    }
}

/// Extents that are encoded at once to be hashed.
const PIECE_EXTENTS: usize = 1024;

fn put_extents(extents: &[Extent], out: &mut Vec<u8>) {
    for extent in extents {
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
}

/// In JSON a manifest is the base64 of its canonical encoding; in binary formats it is that encoding.
impl Serialize for Manifest {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let bytes = self.encode();
        if to.is_human_readable() {
            to.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
        } else {
            to.serialize_bytes(&bytes)
        }
    }
}

impl<'de> Deserialize<'de> for Manifest {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let bytes = if from.is_human_readable() {
            let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
            base64::engine::general_purpose::STANDARD.decode(text.as_bytes()).map_err(de::Error::custom)?
        } else {
            Vec::<u8>::deserialize(from)?
        };
        Self::decode(&bytes).map_err(de::Error::custom)
    }
}

#[cfg(feature = "schema")]
impl utoipa::PartialSchema for Manifest {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::Object::builder()
            .schema_type(utoipa::openapi::schema::Type::String)
            .description(Some("base64 of the manifest's canonical encoding"))
            .into()
    }
}

#[cfg(feature = "schema")]
impl utoipa::ToSchema for Manifest {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent() -> impl Strategy<Value = Extent> {
        prop_oneof![
            (any::<[u8; 32]>(), 1..=CHUNK_LEN_MAX)
                .prop_map(|(hash, len)| Extent::Chunk { hash: ChunkHash::from_bytes(hash), len }),
            (1..1u64 << 40).prop_map(|len| Extent::Hole { len }),
        ]
    }

    proptest! {
        #[test]
        fn encoding_round_trips_and_lengths_sum(extents in proptest::collection::vec(extent(), 0..20)) {
            let sum: u64 = extents.iter().map(Extent::len).sum();
            if let Ok(manifest) = Manifest::new(extents) {
                prop_assert_eq!(manifest.size(), sum);
                prop_assert_eq!(&Manifest::decode(&manifest.encode()).unwrap(), &manifest);
                let json = serde_json::to_string(&manifest).unwrap();
                prop_assert_eq!(serde_json::from_str::<Manifest>(&json).unwrap().content_hash(), manifest.content_hash());
            }
        }

        #[test]
        fn decoding_anything_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut framed = MAGIC.to_vec();
            framed.extend_from_slice(&bytes);
            if let Ok(manifest) = Manifest::decode(&framed) {
                prop_assert_eq!(manifest.encode(), framed);
            }
        }
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let hash = ChunkHash::of(b"");
        assert_eq!(Manifest::new(vec![Extent::Chunk { hash, len: 0 }]), Err(ManifestError::BadLength));
        assert_eq!(Manifest::new(vec![Extent::Chunk { hash, len: CHUNK_LEN_MAX + 1 }]), Err(ManifestError::BadLength));
        assert_eq!(
            Manifest::new(vec![Extent::Hole { len: 1 }, Extent::Hole { len: 1 }]),
            Err(ManifestError::AdjacentHoles)
        );
        assert_eq!(
            Manifest::new(vec![Extent::Hole { len: u64::MAX }, Extent::Chunk { hash, len: 1 }]),
            Err(ManifestError::TooLarge)
        );
    }

    #[test]
    fn larger_files_than_every_program_can_count_are_read_and_do_not_travel() {
        let hole = |len| Manifest::new(vec![Extent::Hole { len }]).unwrap();
        let (largest, larger) = (hole(FILE_SIZE_MAX), hole(FILE_SIZE_MAX + 1));
        assert_eq!(largest.clone().for_travel(), Ok(largest));
        assert_eq!(larger.clone().for_travel(), Err(ManifestError::TooLarge));
        assert_eq!(Manifest::decode(&larger.encode()).unwrap(), larger, "what was stored before is read");
    }

    #[test]
    fn a_manifest_proves_the_hash_of_files_of_one_chunk_only() {
        let chunk = |bytes: &[u8]| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
        let proved = |extents| Manifest::new(extents).unwrap().file_hash();
        assert_eq!(proved(vec![]), Some(FileHash::of(b"")));
        assert_eq!(proved(vec![chunk(b"abc")]), Some(FileHash::of(b"abc")));
        assert_eq!(proved(vec![chunk(b"abc"), chunk(b"def")]), None);
        assert_eq!(proved(vec![Extent::Hole { len: 3 }]), None);
    }

    #[test]
    fn the_name_is_the_hash_of_the_encoding() {
        let chunk = |n: u32| Extent::Chunk { hash: ChunkHash::of(&n.to_le_bytes()), len: n + 1 };
        let pieces = PIECE_EXTENTS as u32;
        for count in [0, 1, pieces - 1, pieces, pieces + 1, 3 * pieces] {
            let manifest = Manifest::new((0..count).map(chunk).collect()).unwrap();
            assert_eq!(manifest.content_hash(), ContentHash::of(&manifest.encode()), "{count}");
        }
    }

    #[test]
    fn the_empty_content_has_a_name() {
        assert_eq!(
            Manifest::default().content_hash().to_string(),
            ContentHash::of(&MAGIC).to_string(),
            "the format of a manifest is part of the protocol"
        );
    }
}
