//! Parts of chunks, for who reads a little here and there in a large file: 4 KiB cost 4 KiB, not the chunk that they lie in.
//!
//! Owns when a part is asked for. Nothing proves a part but the server's word (it has verified the whole chunk), so it goes
//! to its reader and nowhere else: the cache takes whole chunks only. Whatever goes wrong here, the chunk is fetched instead.

use super::Client;
use crate::ports::Part;
use crate::store::Entry;
use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::ChunkHash;

/// Who reads more at a time reads on, or maps a program: whole chunks serve it better.
const READ_LEN_MAX: u64 = 64 * 1024;

/// Of smaller files and smaller chunks the whole is fetched: it costs hardly more than one part, and less than two.
const FILE_LEN_MIN: u64 = 4 * 1024 * 1024;
const CHUNK_LEN_MIN: u32 = 64 * 1024;

/// So many parts of a chunk are asked for before the whole of it is.
const PARTS_MAX: u8 = 2;

/// Chunks of which it is remembered how often a part was asked for.
const CHUNKS_MAX: usize = 8192;

/// How long a part is waited for before the whole chunk is.
const PATIENCE: Duration = Duration::from_secs(10);

/// What was asked of one chunk.
#[derive(Clone, Copy, Default)]
struct Asked {
    times: u8,
    end: u32,
}

/// Which chunks parts were asked of.
pub(super) struct Parts(Mutex<LruCache<ChunkHash, Asked>>);

impl Default for Parts {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(CHUNKS_MAX).unwrap_or(NonZeroUsize::MIN))))
    }
}

impl Parts {
    /// Whether to ask for this part; if not, the whole chunk is due. A chunk that was evicted begins anew.
    fn ask(&self, chunk: &ChunkHash, part: &Range<u32>) -> bool {
        let mut asked = self.0.lock();
        let before = asked.get_or_insert_mut(*chunk, Asked::default);
        let goes_on = before.times > 0 && before.end == part.start;
        if before.times >= PARTS_MAX || goes_on {
            asked.pop(chunk);
            return false;
        }
        *before = Asked { times: before.times + 1, end: part.end };
        true
    }
}

/// A part that is missing: of which chunk, which of its bytes, and where they begin in the content.
struct Missing {
    chunk: ChunkHash,
    part: Range<u32>,
    at: u64,
}

impl Client {
    /// Reads `wanted` into `buf`, which is as long, and asks the server for what is missing of it and no more. `None` if
    /// whole chunks are due, or if it does not work that way.
    pub(super) fn read_parts(
        &self,
        entry: &Arc<Entry>,
        wanted: &Range<u64>,
        buf: &mut [u8],
        deadline: Instant,
    ) -> Option<usize> {
        if buf.len() as u64 > READ_LEN_MAX || entry.size() < FILE_LEN_MIN || self.cache.is_kept(entry.hash()) {
            return None;
        }
        let missing = self.due_parts(entry, wanted)?;
        let mut at = wanted.start;
        for Missing { chunk, part, at: begin } in missing {
            let (len, from) = (part.len(), (begin - wanted.start) as usize);
            read_here(entry, at, &mut buf[(at - wanted.start) as usize..from])?;
            self.take_part(entry, chunk, part, &mut buf[from..from + len], deadline)?;
            at = begin + len as u64;
        }
        read_here(entry, at, &mut buf[(at - wanted.start) as usize..])?;
        Some(buf.len())
    }

    fn due_parts(&self, entry: &Entry, wanted: &Range<u64>) -> Option<Vec<Missing>> {
        let missing = entry.missing(wanted.clone());
        let is_whole_due = |(_, hash, len): &(usize, ChunkHash, u32)| {
            *len < CHUNK_LEN_MIN || self.is_coming(hash) || self.is_shared(entry, hash, *len)
        };
        if missing.is_empty() || missing.iter().any(is_whole_due) {
            return None;
        }
        let due = |(index, chunk, _): &(usize, ChunkHash, u32)| {
            let place = entry.place(*index)?;
            let (from, to) = (wanted.start.max(place.start), wanted.end.min(place.end));
            let part = (from - place.start) as u32..(to - place.start) as u32;
            self.parts.ask(chunk, &part).then_some(Missing { chunk: *chunk, part, at: from })
        };
        missing.iter().map(due).collect()
    }

    fn take_part(
        &self,
        entry: &Entry,
        chunk: ChunkHash,
        part: Range<u32>,
        buf: &mut [u8],
        deadline: Instant,
    ) -> Option<()> {
        let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE);
        let call = async { tokio::time::timeout(patience, self.remote.part(&chunk, part.clone())).await };
        match self.runtime.block_on(call) {
            Ok(Ok(Part::Alone(bytes))) if bytes.len() == buf.len() => buf.copy_from_slice(&bytes),
            Ok(Ok(Part::Whole(raw))) => {
                buf.copy_from_slice(raw.get(part.start as usize..part.end as usize)?);
                if let Err(error) = entry.put(&chunk, &raw) {
                    // It can still be fetched when somebody reads it again.
                    tracing::debug!(%error, "a chunk that came in the place of its part was not cached");
                }
            }
            Ok(Ok(Part::Alone(_))) | Err(_) => return None,
            Ok(Err(error)) => {
                tracing::debug!(%error, %chunk, "a part of a chunk cannot be had; the whole is fetched");
                return None;
            }
        }
        self.link.up();
        Some(())
    }
}

/// Reads what is here; `None` if it was evicted meanwhile.
fn read_here(entry: &Entry, at: u64, buf: &mut [u8]) -> Option<()> {
    let len = if buf.is_empty() { 0 } else { entry.read_at(buf, at).ok()? };
    (len == buf.len()).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_third_part_of_a_chunk_or_one_that_goes_on_is_the_whole() {
        let parts = Parts::default();
        let (one, other) = (ChunkHash::of(b"one"), ChunkHash::of(b"other"));
        assert!(parts.ask(&one, &(0..10)) && parts.ask(&one, &(500..510)));
        assert!(!parts.ask(&one, &(1000..1010)), "the third");
        assert!(parts.ask(&one, &(0..10)), "it was fetched, and evicted");
        assert!(parts.ask(&other, &(0..10)));
        assert!(!parts.ask(&other, &(10..20)), "it goes on");
    }
}
