//! What a file's bytes are, without sending them anywhere, and which contents they are proved to be.

use crate::system::{at, holes};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::sync::Arc;
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest};

/// A file that was read to be compared.
pub(crate) struct Known {
    /// What it is, cut here.
    pub(crate) content: Arc<Content>,
    /// Contents that were cut otherwise and whose bytes it has.
    proved: HashSet<ContentHash>,
}

impl Known {
    /// Reads a file of `size` bytes, and compares it with those of `rivals` that are as long. `manifest` gives the manifest of a
    /// content, if it can be had. An error if the file has another size by now, or `is_over` says so between two reads.
    pub(crate) fn read(
        file: &File,
        size: u64,
        rivals: &[Arc<Content>],
        manifest: impl Fn(&Content) -> Option<Arc<Manifest>>,
        is_over: &dyn Fn() -> bool,
    ) -> io::Result<Self> {
        let content = Arc::new(content_of(file, size, is_over)?);
        let mut proved = HashSet::new();
        for rival in rivals.iter().filter(|rival| rival.size == size && rival.hash != content.hash) {
            if let Some(manifest) = manifest(rival)
                && has_bytes_of(file, &manifest, is_over)?
            {
                proved.insert(rival.hash);
            }
        }
        Ok(Self { content, proved })
    }

    /// Whether the file is proved to have the bytes of a content. What a peer says of their SHA-256 proves nothing.
    pub(crate) fn is(&self, content: &Content) -> bool {
        self.content.hash == content.hash || self.proved.contains(&content.hash)
    }
}

fn go_on(is_over: &dyn Fn() -> bool) -> io::Result<()> {
    if is_over() { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
}

/// What a file of `size` bytes is. An error if it has another size by now.
fn content_of(file: &File, size: u64, is_over: &dyn Fn() -> bool) -> io::Result<Content> {
    let mut extents: Vec<Extent> = Vec::new();
    let mut chunker = Chunker::new(ChunkSizes::for_content(size));
    let take = |extents: &mut Vec<Extent>, chunk: &[u8]| -> io::Result<()> {
        extents.push(Extent::Chunk { hash: ChunkHash::of(chunk), len: chunk.len() as u32 });
        Ok(())
    };
    let mut buf = Vec::new();
    for part in holes::parts(file, 0..size) {
        go_on(is_over)?;
        let (part, is_hole) = part?;
        if is_hole {
            chunker.finish(|chunk| take(&mut extents, chunk))?;
            extents.push(Extent::Hole { len: part.end - part.start });
            continue;
        }
        buf.resize((part.end - part.start) as usize, 0);
        at::read_exact_at(file, &mut buf, part.start)?;
        chunker.push(&buf, |chunk| take(&mut extents, chunk))?;
    }
    chunker.finish(|chunk| take(&mut extents, chunk))?;
    if file.metadata()?.len() != size {
        return Err(io::Error::other("it has another size by now"));
    }
    let mut content = Content::of(Manifest::new(extents).map_err(io::Error::other)?, None);
    content.keep_proved();
    Ok(content)
}

/// Whether a file has exactly the bytes that `manifest` describes.
fn has_bytes_of(file: &File, manifest: &Manifest, is_over: &dyn Fn() -> bool) -> io::Result<bool> {
    if file.metadata()?.len() != manifest.size() {
        return Ok(false);
    }
    let mut raw = Vec::new();
    for (offset, extent) in manifest.with_offsets() {
        go_on(is_over)?;
        let is_same = match extent {
            Extent::Chunk { hash, len } => {
                raw.resize(len as usize, 0);
                at::read_exact_at(file, &mut raw, offset)?;
                hash.matches(&raw)
            }
            Extent::Hole { len } => holes::is_zero(file, offset..offset + len)?,
        };
        if !is_same {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    #[cfg(unix)]
    use std::io::{Seek as _, SeekFrom};
    use syncmount_common::FileHash;

    fn file_of(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    fn cut_at(bytes: &[u8], len: usize) -> Content {
        let chunk = |chunk: &[u8]| Extent::Chunk { hash: ChunkHash::of(chunk), len: chunk.len() as u32 };
        Content::of(Manifest::new(bytes.chunks(len).map(chunk).collect()).unwrap(), Some(FileHash::of(bytes)))
    }

    fn read(file: &File, rival: &Content) -> Known {
        let size = file.metadata().unwrap().len();
        let manifest = |content: &Content| content.manifest.clone().map(Arc::new);
        Known::read(file, size, &[Arc::new(rival.clone())], manifest, &|| false).unwrap()
    }

    #[test]
    fn a_told_hash_of_a_whole_file_proves_nothing() {
        let (ours, theirs) = (vec![1; 300_000], vec![2; 300_000]);
        let lie = Content { sha256: Some(FileHash::of(&ours)), ..cut_at(&theirs, 100_000) };
        assert!(!read(&file_of(&ours), &lie).is(&lie));
        let unseen = Content { manifest: None, ..lie };
        assert!(!read(&file_of(&ours), &unseen).is(&unseen), "nothing to compare with");
    }

    #[test]
    fn the_same_bytes_are_found_however_they_were_cut() {
        let mut bytes = vec![7; 700_000];
        bytes[200_000..500_000].fill(0);
        let file = file_of(&bytes);
        let cut = cut_at(&bytes, 1234);
        assert!(read(&file, &cut).is(&cut));
        let chunk = |bytes: &[u8]| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
        let extents = vec![chunk(&bytes[..200_000]), Extent::Hole { len: 300_000 }, chunk(&bytes[500_000..])];
        let with_hole = Content::of(Manifest::new(extents).unwrap(), None);
        assert!(read(&file, &with_hole).is(&with_hole));
        for at in [0, 199_999, 200_000, 350_000, 699_999] {
            let mut other = bytes.clone();
            other[at] ^= 1;
            let other = file_of(&other);
            assert!(!read(&other, &cut).is(&cut) && !read(&other, &with_hole).is(&with_hole), "at {at}");
        }
    }

    /// Wine does not know of holes.
    #[cfg(unix)]
    #[test]
    fn a_hole_costs_one_step_however_long_it_is() {
        const HOLE: u64 = 1 << 42;
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 100_000]).unwrap();
        file.seek(SeekFrom::Start(HOLE)).unwrap();
        file.write_all(b"end").unwrap();
        let found = content_of(&file, HOLE + 3, &|| false).unwrap();
        let extents = found.manifest.as_ref().unwrap().extents();
        assert!(matches!(extents, [Extent::Chunk { .. }, Extent::Hole { .. }, Extent::Chunk { .. }]), "{extents:?}");
        let other = Content::of(Manifest::new(vec![Extent::Hole { len: HOLE + 3 }]).unwrap(), None);
        assert!(!read(&file, &other).is(&other));
        file.seek(SeekFrom::Start(HOLE)).unwrap();
        file.write_all(&[0; 3]).unwrap();
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&[0; 100_000]).unwrap();
        assert!(read(&file, &other).is(&other));
    }
}
