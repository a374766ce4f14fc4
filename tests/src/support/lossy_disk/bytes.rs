//! The bytes of one file: what programs see, what is on the platter, and the writes in between.

use super::Cut;
use rand::RngExt;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

/// What a disk writes at a time.
pub(super) const BLOCK_LEN: u64 = 4096;

type Block = Arc<[u8; BLOCK_LEN as usize]>;

/// Blocks and holes. Bytes of a block behind the size are zeros.
#[derive(Clone, Default)]
struct Image {
    size: u64,
    blocks: BTreeMap<u64, Block>,
}

/// One step towards what programs see.
enum Step {
    /// The block as it was after a write.
    Block(u64, Block),
    /// The file became longer.
    Grow(u64),
    /// The file was cut.
    Cut(u64),
    /// Blocks were given back.
    Punch(Range<u64>),
}

/// A file's bytes.
#[derive(Default)]
pub(super) struct Bytes {
    seen: Image,
    durable: Image,
    unsynced: Vec<Step>,
}

impl Image {
    fn block_mut(&mut self, number: u64) -> &mut [u8; BLOCK_LEN as usize] {
        Arc::make_mut(self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK_LEN as usize])))
    }

    fn cut(&mut self, size: u64) {
        self.blocks.split_off(&size.div_ceil(BLOCK_LEN));
        let (last, within) = (size / BLOCK_LEN, (size % BLOCK_LEN) as usize);
        if within > 0 && self.blocks.contains_key(&last) {
            self.block_mut(last)[within..].fill(0);
        }
        self.size = size;
    }

    fn punch(&mut self, range: &Range<u64>) {
        let whole = range.start.div_ceil(BLOCK_LEN)..range.end / BLOCK_LEN;
        self.blocks.retain(|number, _| !whole.contains(number));
        let head = range.start..range.end.min(whole.start * BLOCK_LEN);
        // A range within one block has no tail.
        let tail = head.end.max(whole.end * BLOCK_LEN)..range.end;
        for edge in [head, tail].into_iter().filter(|edge| edge.start < edge.end) {
            let number = edge.start / BLOCK_LEN;
            if self.blocks.contains_key(&number) {
                let base = number * BLOCK_LEN;
                self.block_mut(number)[(edge.start - base) as usize..(edge.end - base) as usize].fill(0);
            }
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Block(number, block) => drop(self.blocks.insert(*number, block.clone())),
            Step::Grow(size) => self.size = *size,
            Step::Cut(size) => self.cut(*size),
            Step::Punch(range) => self.punch(range),
        }
    }
}

impl Bytes {
    pub(super) fn size(&self) -> u64 {
        self.seen.size
    }

    /// Bytes that take room.
    pub(super) fn stored(&self) -> u64 {
        self.seen.blocks.len() as u64 * BLOCK_LEN
    }

    pub(super) fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let end = self.seen.size.min(offset.saturating_add(len));
        let mut out = vec![0; end.saturating_sub(offset) as usize];
        if out.is_empty() {
            return out;
        }
        for (number, block) in self.seen.blocks.range(offset / BLOCK_LEN..end.div_ceil(BLOCK_LEN)) {
            let base = number * BLOCK_LEN;
            let (from, to) = (offset.max(base), end.min(base + BLOCK_LEN));
            out[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&block[(from - base) as usize..(to - base) as usize]);
        }
        out
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let end = offset + data.len() as u64;
        let mut at = offset;
        while at < end {
            let number = at / BLOCK_LEN;
            let base = number * BLOCK_LEN;
            let to = end.min(base + BLOCK_LEN);
            self.seen.block_mut(number)[(at - base) as usize..(to - base) as usize]
                .copy_from_slice(&data[(at - offset) as usize..(to - offset) as usize]);
            self.unsynced.push(Step::Block(number, self.seen.blocks[&number].clone()));
            at = to;
        }
        self.grow(end);
    }

    fn grow(&mut self, size: u64) {
        if size > self.seen.size {
            self.step(Step::Grow(size));
        }
    }

    fn step(&mut self, step: Step) {
        self.seen.take(&step);
        self.unsynced.push(step);
    }

    pub(super) fn set_size(&mut self, size: u64) {
        if size < self.seen.size {
            self.step(Step::Cut(size));
        }
        self.grow(size);
    }

    /// Gives the range back; it reads as zeros.
    pub(super) fn punch(&mut self, range: Range<u64>) {
        self.step(Step::Punch(range));
    }

    /// Where the next data begins, for SEEK_DATA.
    pub(super) fn next_data(&self, from: u64) -> Option<u64> {
        if from >= self.seen.size {
            return None;
        }
        let (number, _) = self.seen.blocks.range(from / BLOCK_LEN..).next()?;
        Some(from.max(number * BLOCK_LEN)).filter(|at| *at < self.seen.size)
    }

    /// Where the next hole begins, for SEEK_HOLE; the end of the file is one.
    pub(super) fn next_hole(&self, from: u64) -> Option<u64> {
        if from >= self.seen.size {
            return None;
        }
        let mut number = from / BLOCK_LEN;
        while self.seen.blocks.contains_key(&number) {
            number += 1;
        }
        Some(self.seen.size.min(from.max(number * BLOCK_LEN)))
    }

    /// fsync.
    pub(super) fn sync(&mut self) {
        for step in self.unsynced.drain(..) {
            self.durable.take(&step);
        }
    }

    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// The power goes.
    pub(super) fn power_cut(&mut self, cut: &mut Cut) {
        match *cut {
            Cut::Nothing => {}
            Cut::MetadataOnly => self.keep(self.unsynced.len(), |_, _| 0),
            Cut::Some { share, ref mut rng } => {
                let len = self.unsynced.len();
                let steps = if rng.random_bool(share) { len } else { rng.random_range(0..=len) };
                self.keep(
                    steps,
                    |_, writes| {
                        if rng.random_bool(share) { writes } else { rng.random_range(0..=writes) }
                    },
                );
            }
        }
        self.unsynced.clear();
        self.seen = self.durable.clone();
    }

    /// Makes durable: of the sizes, the first `steps` steps; of each block, as many of its writes as `of_block` says. A write
    /// into blocks that were given back before is lost when the giving back is.
    fn keep(&mut self, steps: usize, mut of_block: impl FnMut(u64, usize) -> usize) {
        let mut writes: BTreeMap<u64, usize> = BTreeMap::new();
        for step in &self.unsynced {
            if let Step::Block(number, _) = step {
                *writes.entry(*number).or_default() += 1;
            }
        }
        let mut left: HashMap<u64, usize> =
            writes.iter().map(|(number, count)| (*number, of_block(*number, *count))).collect();
        for (index, step) in self.unsynced.iter().enumerate() {
            match step {
                Step::Block(number, _) => {
                    let left = left.entry(*number).or_default();
                    if *left > 0 {
                        *left -= 1;
                        self.durable.take(step);
                    }
                }
                Step::Grow(_) if index >= steps => {}
                Step::Cut(_) | Step::Punch(_) if index >= steps => break,
                step => self.durable.take(step),
            }
        }
        // Blocks behind the size that was kept are not part of the file.
        let size = self.durable.size;
        self.durable.cut(size);
    }
}
