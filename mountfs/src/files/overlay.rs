//! A file that is written here: where its staging file has bytes those count, else those of the content beneath, else
//! zeros. So one written byte in a huge file costs one byte, whatever of it is on this machine.

use crate::store::RangeSet;
use crate::system::{at, holes};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use syncmount_common::Content;
use syncmount_engine::Draft;

/// Bytes copied at a time.
const COPY_LEN: usize = 1024 * 1024;

/// The staging file of a draft.
#[derive(Clone, Debug)]
pub struct StagingFile {
    /// Its id in the staging folder.
    pub id: u64,
    /// Open for reading and writing.
    pub file: Arc<File>,
}

/// Where a piece of the file is to be read from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Segment {
    /// The staging file, at the same offset.
    Staging(Range<u64>),
    /// The content beneath, at the same offset.
    Base(Range<u64>),
    /// Nowhere: zeros.
    Zero(Range<u64>),
}

impl Segment {
    /// The range of the file.
    pub fn range(&self) -> Range<u64> {
        match self {
            Self::Staging(range) | Self::Base(range) | Self::Zero(range) => range.clone(),
        }
    }
}

/// What a part of a file consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Run {
    /// Bytes that were written.
    Staging,
    /// Bytes of the content beneath.
    Base,
    /// Zeros that no write made, or that are a hole of the content beneath.
    Zero,
}

/// The bytes of a draft. A copy of it is a snapshot of where the bytes are, not of the bytes.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// Size of the file in bytes.
    pub size: u64,
    /// The staging file, once something has been written.
    pub staging: Option<StagingFile>,
    /// What the staging file holds.
    pub present: RangeSet,
    /// What lies beneath.
    pub base: Option<Arc<Content>>,
    /// How much of that counts.
    pub base_len: u64,
}

impl Overlay {
    /// A draft over nothing.
    pub fn empty() -> Self {
        Self { size: 0, staging: None, present: RangeSet::new(), base: None, base_len: 0 }
    }

    /// A draft over a content, nothing written yet.
    pub fn over(content: Arc<Content>) -> Self {
        let size = content.size;
        Self { size, staging: None, present: RangeSet::new(), base: Some(content), base_len: size }
    }

    /// A draft as it was kept, with its staging file opened.
    pub fn restore(draft: &Draft, staging: Option<StagingFile>) -> Self {
        let mut present = RangeSet::new();
        for (start, end) in &draft.present {
            present.insert(*start..*end);
        }
        Self { size: draft.size, staging, present, base: draft.base.clone(), base_len: draft.base_len }
    }

    /// Whether it is the same as [`Self::empty`] but for a staging file.
    pub fn is_blank(&self) -> bool {
        self.size == 0 && self.present.covered() == 0 && self.base.is_none()
    }

    /// Where the bytes of `range` (cut at the end of the file) are.
    pub fn segments(&self, range: Range<u64>) -> Vec<Segment> {
        let range = range.start..range.end.min(self.size);
        let mut out = Vec::new();
        let mut at = range.start;
        for gap in self.present.gaps(&range) {
            if at < gap.start {
                out.push(Segment::Staging(at..gap.start));
            }
            self.beneath(gap.clone(), &mut out);
            at = gap.end;
        }
        if at < range.end {
            out.push(Segment::Staging(at..range.end));
        }
        out
    }

    /// What is at `at`, which lies before the end of the file, and up to where. `holes` are those of the content beneath, in order.
    pub fn run(&self, at: u64, holes: &[Range<u64>]) -> (Run, u64) {
        let (is_staged, end) = self.present.run_at(at);
        let end = end.min(self.size);
        if is_staged {
            return (Run::Staging, end);
        }
        let base_end = if self.base.is_some() { self.base_len } else { 0 };
        if at >= base_end {
            return (Run::Zero, end);
        }
        let end = end.min(base_end);
        match holes.get(holes.partition_point(|hole| hole.end <= at)) {
            Some(hole) if hole.start <= at => (Run::Zero, end.min(hole.end)),
            Some(hole) => (Run::Base, end.min(hole.start)),
            None => (Run::Base, end),
        }
    }

    /// Up to where the zeros reach that begin at `at`, if they are long enough to be a hole. One step, however long that is: holes
    /// of the disk that were punched count too. `holes` are those of the content beneath, in order.
    pub fn long_hole(&self, at: u64, holes: &[Range<u64>]) -> io::Result<Option<u64>> {
        let mut end = at;
        while end < self.size {
            let (run, next) = self.run(end, holes);
            let zeros = match run {
                Run::Zero => next,
                Run::Staging if next - end >= holes::LEN_MIN => self.next_staged(end..next)?.start,
                Run::Staging | Run::Base => end,
            };
            end = zeros;
            if zeros < next {
                break;
            }
        }
        Ok((end - at >= holes::LEN_MIN).then_some(end))
    }

    fn beneath(&self, range: Range<u64>, out: &mut Vec<Segment>) {
        let base_end = if self.base.is_some() { self.base_len } else { 0 };
        let split = base_end.clamp(range.start, range.end);
        if range.start < split {
            out.push(Segment::Base(range.start..split));
        }
        if split < range.end {
            out.push(Segment::Zero(split..range.end));
        }
    }

    /// Bytes were written to the staging file.
    pub fn wrote(&mut self, range: Range<u64>) {
        self.size = self.size.max(range.end);
        self.present.insert(range);
    }

    /// The file was cut or extended.
    pub fn set_size(&mut self, size: u64) -> io::Result<()> {
        if size < self.size {
            self.present.truncate(size);
            self.base_len = self.base_len.min(size);
            if let Some(staging) = &self.staging {
                staging.file.set_len(size)?;
            }
        }
        self.size = size;
        Ok(())
    }

    /// A range reads as zeros from now on, and takes no room where that can be had. What lies behind the end stays away.
    pub fn zero(&mut self, range: Range<u64>) -> io::Result<()> {
        let range = range.start..range.end.min(self.size);
        if range.is_empty() {
            return Ok(());
        }
        let staging = self.staging.as_ref().ok_or_else(|| io::Error::other("a draft without a staging file"))?;
        clear(&staging.file, range.clone())?;
        let base_end = if self.base.is_some() { self.base_len } else { 0 };
        self.present.remove(range.clone());
        if base_end <= range.end {
            self.base_len = self.base_len.min(range.start);
        } else if range.start < base_end {
            // Zeros over the content beneath, which goes on behind them.
            if staging.file.metadata()?.len() < range.end {
                staging.file.set_len(range.end)?;
            }
            self.present.insert(range);
        }
        Ok(())
    }

    /// The next part of `range`, of bounded length, of which the disk says that the staging file has data there; empty and at
    /// the end if it has none.
    pub fn next_staged(&self, range: Range<u64>) -> io::Result<Range<u64>> {
        let staging = self.staging.as_ref().ok_or_else(|| io::Error::other("a draft without a staging file"))?;
        let start = match holes::next_data(&staging.file, range.start) {
            Ok(found) => found.map_or(range.end, |start| start.min(range.end)),
            // A disk that does not tell has data everywhere.
            Err(error) if is_unknown(&error) => range.start,
            Err(error) => return Err(error),
        };
        Ok(start..range.end.min(start.saturating_add(COPY_LEN as u64)))
    }

    /// The bytes are those of a content from now on, up to `len`.
    pub fn share(&mut self, content: Arc<Content>, len: u64) {
        self.base = Some(content);
        (self.base_len, self.size) = (len, len);
    }

    /// Whether a range may be taken from `content` by [`Self::share`]: what is there already is its begin.
    pub fn is_begin_of(&self, content: &Content, len: u64) -> bool {
        self.present.is_empty()
            && self.size == len
            && (len == 0 || (self.base_len == len && self.base.as_ref().is_some_and(|base| base.hash == content.hash)))
    }

    /// The content that this is, byte for byte, if it is known without reading it.
    pub fn is_all_of(&self) -> Option<&Arc<Content>> {
        self.base.as_ref().filter(|base| self.is_begin_of(base, base.size) && base.size > 0)
    }

    /// The same with its own bytes in another staging file, which is empty. The overlay's may have lost its name.
    pub fn copied_to(&self, to: &File) -> io::Result<Self> {
        let mut buf = Vec::new();
        if let Some(from) = &self.staging {
            for part in self.present.iter().flat_map(|range| holes::parts(&from.file, range)) {
                let (part, is_hole) = part?;
                if is_hole {
                    if to.metadata()?.len() < part.end {
                        to.set_len(part.end)?;
                    }
                    continue;
                }
                buf.resize((part.end - part.start) as usize, 0);
                at::read_exact_at(&from.file, &mut buf, part.start)?;
                at::write_all_at(to, &buf, part.start)?;
            }
        }
        Ok(Self { staging: None, ..self.clone() })
    }

    /// Whether the staging file alone is the whole file.
    pub fn is_self_contained(&self) -> bool {
        self.base_len == 0 || self.present.contains(&(0..self.base_len.min(self.size)))
    }

    /// Bytes of the staging file that count.
    pub fn written_bytes(&self) -> u64 {
        self.present.iter().map(|range| range.end - range.start).sum()
    }

    /// The ranges in the form in which they are kept.
    pub fn present_pairs(&self) -> Vec<(u64, u64)> {
        self.present.iter().map(|range| (range.start, range.end)).collect()
    }
}

/// Makes a part of a file zeros: a hole where the disk has them.
pub(crate) fn clear(file: &File, range: Range<u64>) -> io::Result<()> {
    let end = range.end.min(file.metadata()?.len());
    if range.start >= end {
        return Ok(());
    }
    match holes::punch(file, range.start..end) {
        Err(error) if is_unknown(&error) => write_zeros(file, range.start..end),
        done => done,
    }
}

/// Whether the disk knows of no holes.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

fn write_zeros(file: &File, range: Range<u64>) -> io::Result<()> {
    let zeros = vec![0; COPY_LEN];
    let mut at = range.start;
    while at < range.end {
        let part = &zeros[..(range.end - at).min(COPY_LEN as u64) as usize];
        at::write_all_at(file, part, at)?;
        at += part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::{ChunkHash, Extent, Manifest};

    fn over(size: u32) -> Overlay {
        let extent = Extent::Chunk { hash: ChunkHash::of(b"x"), len: size };
        Overlay::over(Arc::new(Content::of(Manifest::new(vec![extent]).unwrap(), None)))
    }

    #[test]
    fn written_bytes_lie_over_the_base_and_the_rest_is_zeros() {
        let mut overlay = over(100);
        overlay.wrote(10..20);
        overlay.wrote(150..160);
        assert_eq!(
            overlay.segments(0..1000),
            [
                Segment::Base(0..10),
                Segment::Staging(10..20),
                Segment::Base(20..100),
                Segment::Zero(100..150),
                Segment::Staging(150..160),
            ]
        );
        assert_eq!(overlay.segments(12..15), [Segment::Staging(12..15)]);
        assert!(overlay.segments(160..170).is_empty());
        assert!(!overlay.is_self_contained());
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let mut overlay = over(100);
        overlay.wrote(80..90);
        overlay.set_size(50).unwrap();
        overlay.set_size(100).unwrap();
        assert_eq!(overlay.segments(0..100), [Segment::Base(0..50), Segment::Zero(50..100)]);
        overlay.wrote(0..50);
        assert!(overlay.is_self_contained());
    }

    fn staged(size: u32) -> Overlay {
        let staging = StagingFile { id: 1, file: Arc::new(tempfile::tempfile().unwrap()) };
        Overlay { staging: Some(staging), ..over(size) }
    }

    #[test]
    fn zeros_hide_what_lies_beneath_and_what_was_written() {
        let mut overlay = staged(100);
        overlay.zero(20..40).unwrap();
        assert_eq!(overlay.segments(0..100), [Segment::Base(0..20), Segment::Staging(20..40), Segment::Base(40..100)]);
        let file = overlay.staging.clone().unwrap().file;
        at::write_all_at(&file, b"bytes", 10).unwrap();
        overlay.wrote(10..15);
        overlay.zero(12..200).unwrap();
        assert_eq!(overlay.segments(0..100), [Segment::Base(0..10), Segment::Staging(10..12), Segment::Zero(12..100)]);
        let mut bytes = [9; 20];
        at::read_exact_at(&file, &mut bytes, 10).unwrap();
        assert_eq!(&bytes[..5], b"by\0\0\0");
        assert_eq!(overlay.size, 100);
    }

    #[test]
    fn a_content_is_shared_where_its_begin_is_all_there_is() {
        let content = over(100).base.unwrap();
        let mut overlay = Overlay::empty();
        assert!(overlay.is_begin_of(&content, 0) && !overlay.is_begin_of(&content, 10));
        overlay.share(content.clone(), 60);
        assert!(overlay.is_begin_of(&content, 60) && overlay.is_all_of().is_none());
        overlay.share(content.clone(), 100);
        assert_eq!(overlay.is_all_of(), Some(&content));
        overlay.wrote(5..6);
        assert!(overlay.is_all_of().is_none() && !overlay.is_begin_of(&content, 100));
    }
}
