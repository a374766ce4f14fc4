//! What a file's bytes are, without sending them anywhere.

use std::fs::File;
use std::io::{self, Read};
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::hash::FileHasher;
use syncmount_common::{ChunkHash, Content, Extent, Manifest};

/// Bytes read at a time.
const READ_LEN: usize = 1024 * 1024;

/// Reads a file of `size` bytes. An error if it has another size by now.
pub(crate) fn content_of(mut file: &File, size: u64) -> io::Result<Content> {
    let (mut extents, mut hasher) = (Vec::new(), FileHasher::default());
    let mut chunker = Chunker::new(ChunkSizes::for_content(size));
    let mut take = |chunk: &[u8]| -> io::Result<()> {
        extents.push(Extent::Chunk { hash: ChunkHash::of(chunk), len: chunk.len() as u32 });
        Ok(())
    };
    let mut buf = vec![0; READ_LEN.min(size as usize + 1)];
    let mut read = 0;
    loop {
        let len = match file.read(&mut buf) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        read += len as u64;
        hasher.update(&buf[..len]);
        chunker.push(&buf[..len], &mut take)?;
    }
    chunker.finish(&mut take)?;
    if read != size {
        return Err(io::Error::other("it has another size by now"));
    }
    Ok(Content::of(Manifest::new(extents).map_err(io::Error::other)?, Some(hasher.finish())))
}

/// Whether two descriptions stand for the same bytes: holes may be described or not.
pub(crate) fn same_bytes(a: &Content, b: &Content) -> bool {
    a.hash == b.hash || (a.size == b.size && a.sha256.is_some() && a.sha256 == b.sha256)
}
