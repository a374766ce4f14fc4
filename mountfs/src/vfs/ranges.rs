//! Parts of files: making room and holes, finding data, copying from one file to another.

use super::{Handle, READ_DEADLINE, Result, Vfs, VfsError, on_one_state, room};
use crate::driver::Client;
use crate::files::{self, Backing, Overlay, Run, Segment};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use syncmount_common::{Content, Extent};
use syncmount_engine::{Body, FileBody};

/// How much one call of `copy_file_range` copies at most: who asks for more asks again.
const COPY_MAX: u64 = 16 * 1024 * 1024;

/// Bytes copied at a time.
const COPY_LEN: u64 = 1024 * 1024;

/// Segments of a draft are looked at in pieces: a file written in a million places has a million of them.
const PIECE: u64 = 1024 * 1024 * 1024;

/// What `fallocate` does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Allocate {
    /// Makes room; with `true` the size stays.
    Room(bool),
    /// A hole inside the file.
    Hole,
    /// Zeros; with `true` the size stays.
    Zeros(bool),
}

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sought {
    /// The next byte that is in no hole.
    Data,
    /// The next byte that is in one; the end of the file counts.
    Hole,
}

/// How many bytes of a file are not in holes, as far as that is known without asking anybody.
pub(super) fn allocated(body: &Body) -> u64 {
    match body {
        Body::Dir | Body::Symlink(_) => 0,
        Body::File(FileBody::Clean(content)) => files::allocated(content),
        Body::File(FileBody::Draft(draft)) => {
            let staged: u64 = draft.present.iter().map(|(start, end)| end - start).sum();
            let beneath = draft.base.as_ref().map_or(0, |base| files::allocated(base).min(draft.base_len));
            draft.size.min(staged.saturating_add(beneath))
        }
    }
}

impl Vfs {
    /// Makes room, holes or zeros in a range of a file.
    pub fn fallocate(&self, fh: u64, range: Range<u64>, what: Allocate) -> Result<()> {
        let handle = self.writer(fh)?;
        let size = handle.file.inner.read().backing.size();
        self.client.require_size(range.end)?;
        match what {
            Allocate::Room(keep_size) => {
                self.client.require_room(range.end - range.start)?;
                if !keep_size && range.end > size {
                    self.client.set_size(&handle.file, range.end)?;
                }
            }
            Allocate::Hole | Allocate::Zeros(true) => self.client.zero(&handle.file, range)?,
            Allocate::Zeros(false) => {
                if range.end > size {
                    self.client.set_size(&handle.file, range.end)?;
                }
                self.client.zero(&handle.file, range)?;
            }
        }
        Ok(())
    }

    /// Where the next data or hole begins, at `from` or behind it.
    pub fn seek(&self, fh: u64, from: u64, sought: Sought) -> Result<u64> {
        let handle = self.handle(fh)?;
        let backing = handle.file.inner.read().backing.clone();
        let size = backing.size();
        if from >= size {
            return Err(VfsError::NoData);
        }
        let found = match &backing {
            Backing::Clean(content) => find(&data_of(&self.client, content, from..size), from, size, sought),
            Backing::Draft(overlay) => seek_draft(&self.client, overlay, from, sought),
        };
        found.ok_or(VfsError::NoData)
    }

    /// Copies a range of one file to another; answers how much, which may be less than `len`. Where it can be, the content
    /// is shared and no byte is copied. May wait for the server.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64) -> Result<u64> {
        let (source, target) = (self.handle(from.0)?, self.writer(to.0)?);
        self.take_mapped(&source)?;
        self.take_mapped(&target)?;
        let backing = source.file.inner.read().backing.clone();
        let len = len.min(backing.size().saturating_sub(from.1));
        if len == 0 {
            return Ok(0);
        }
        if let Backing::Clean(content) = &backing
            && from.1 == to.1
            && self.client.share(&target.file, content, from.1..from.1 + len)?
        {
            return Ok(len);
        }
        self.copy_bytes(&source, from.1, &target, to.1, len.min(COPY_MAX))
    }

    fn copy_bytes(&self, source: &Arc<Handle>, from: u64, target: &Handle, to: u64, len: u64) -> Result<u64> {
        let deadline = Instant::now() + self.client.link.patience(READ_DEADLINE);
        let mut done = 0;
        while done < len {
            let want = (len - done).min(COPY_LEN) as usize;
            let bytes = on_one_state(source, |backing| {
                let mut buf = vec![0; room(backing, from + done, want)];
                let got = match backing {
                    Backing::Clean(content) => {
                        self.client.read_content(content, from + done, &mut buf, len, deadline)?
                    }
                    Backing::Draft(overlay) => self.client.read_draft(overlay, from + done, &mut buf, deadline)?,
                };
                buf.truncate(got);
                Ok(buf)
            });
            let written = bytes.and_then(|bytes| {
                if !bytes.is_empty() {
                    self.client.write(&target.file, to + done, &bytes)?;
                }
                Ok(bytes.len() as u64)
            });
            match written {
                Ok(0) => break,
                Ok(len) => done += len,
                // What has been copied is told; the error comes with the next call.
                Err(_) if done > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}

/// The parts of `range` of a content that are in no hole, in order. All of it if that is not known here.
fn data_of(client: &Client, content: &Content, range: Range<u64>) -> Vec<Range<u64>> {
    let Some(manifest) = client.manifest_here(content) else { return vec![range] };
    let mut data: Vec<Range<u64>> = Vec::new();
    for (start, extent) in manifest.with_offsets() {
        let part = start.max(range.start)..(start + extent.len()).min(range.end);
        if part.is_empty() || matches!(extent, Extent::Hole { .. }) {
            continue;
        }
        match data.last_mut().filter(|last| last.end == part.start) {
            Some(last) => last.end = part.end,
            None => data.push(part),
        }
    }
    data
}

/// `data` is in order and lies in a piece that begins at or before `from` and ends at `end`.
fn find(data: &[Range<u64>], from: u64, end: u64, sought: Sought) -> Option<u64> {
    let mut at = from;
    for part in data.iter().filter(|part| part.end > from) {
        match sought {
            Sought::Data => return Some(part.start.max(from)),
            Sought::Hole if part.start > at => return Some(at),
            Sought::Hole => at = part.end,
        }
    }
    match sought {
        Sought::Data => None,
        Sought::Hole => Some(at.min(end)),
    }
}

fn seek_draft(client: &Client, overlay: &Overlay, from: u64, sought: Sought) -> Option<u64> {
    let mut at = from;
    while at < overlay.size {
        let (run, run_end) = overlay.run(at, &[]);
        if run == Run::Zero {
            if sought == Sought::Hole {
                return Some(at);
            }
            at = run_end;
            continue;
        }
        let end = overlay.size.min(at.saturating_add(PIECE));
        let mut data = Vec::new();
        for segment in overlay.segments(at..end) {
            match (segment, &overlay.base) {
                (Segment::Staging(range), _) => data.push(range),
                (Segment::Base(range), Some(base)) => data.extend(data_of(client, base, range)),
                (Segment::Base(_), None) | (Segment::Zero(_), _) => {}
            }
        }
        match find(&data, at, end, sought) {
            Some(found) if found < end => return Some(found),
            _ => at = end,
        }
    }
    match sought {
        Sought::Data => None,
        Sought::Hole => Some(overlay.size),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_and_holes_are_found() {
        let data = [10..20, 20..30, 50..60];
        for (from, next_data, next_hole) in [
            (0, Some(10), 0),
            (10, Some(10), 30),
            (25, Some(25), 30),
            (30, Some(50), 30),
            (55, Some(55), 60),
            (60, None, 60),
        ] {
            assert_eq!(find(&data, from, 100, Sought::Data), next_data, "{from}");
            assert_eq!(find(&data, from, 100, Sought::Hole), Some(next_hole), "{from}");
        }
        assert_eq!(find(&data, 55, 60, Sought::Hole), Some(60));
    }
}
