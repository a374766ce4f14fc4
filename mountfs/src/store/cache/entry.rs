//! One content in the cache, whole or in parts.
//!
//! Promises: a byte that can be read was verified; an extent that is given back is never read at the same time; once whole,
//! the file is never written to again. Parts arrive in any order, from any thread.

use super::Core;
use super::layout::{charge_of_file, charge_of_len};
use crate::store::disk;
use parking_lot::{Mutex, RwLock};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use syncmount_common::{ChunkHash, ContentHash, Extent, Manifest};

/// How many of the last requests for missing parts are remembered.
const WANTED_MAX: usize = 16;
/// The map is saved after this many new bytes, or a 64th of the content if that is more.
const SAVE_AFTER: u64 = 64 * 1024 * 1024;

/// How often to look again whether somebody who writes has finished, and how long to wait in between.
const BUSY_TRIES: u32 = 1000;
const BUSY_WAIT: Duration = Duration::from_millis(1);

/// What came of asking other open contents for room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Squeezed {
    Given,
    /// Only those could give that are being written to at this moment.
    Busy,
    Nothing,
}

/// How much a chunk is needed at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Need {
    /// Somewhere it has to go.
    Must,
    /// Somebody asked for it lately.
    Wants,
    /// Only if there is room anyway.
    May,
}

impl Need {
    /// Only who has no part yet waits for others to finish writing: two that have some could wait for each other.
    const fn busy_tries(self) -> u32 {
        match self {
            Self::Must => BUSY_TRIES,
            Self::Wants | Self::May => 0,
        }
    }
}

/// One content.
pub struct Entry {
    hash: ContentHash,
    size: u64,
    whole: OnceLock<File>,
    parts: Option<Parts>,
    /// Removed from the cache while somebody uses it.
    detached: AtomicBool,
    /// Somebody may take its file away.
    pub(super) claimed: AtomicBool,
    core: Weak<Core>,
}

struct Parts {
    file: File,
    manifest: Arc<Manifest>,
    starts: Box<[u64]>,
    /// Chunk extents, ordered by hash.
    by_hash: Box<[u32]>,
    /// Held while bytes are written or given back, so that these two never meet.
    writing: Mutex<Unsaved>,
    /// Read-locked while bytes are read, so that they are not given back meanwhile.
    present: RwLock<Present>,
    wanted: Mutex<VecDeque<Range<u64>>>,
}

#[derive(Default)]
struct Unsaved {
    bytes: u64,
    has_map: bool,
}

struct Present {
    bits: Vec<u64>,
    absent: usize,
    /// Present extents, the oldest first.
    arrived: VecDeque<u32>,
    /// How many went again.
    given_back: u64,
}

impl Present {
    fn has(&self, index: usize) -> bool {
        self.bits[index / 64] & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: u32) {
        self.bits[index as usize / 64] |= 1 << (index % 64);
        self.arrived.push_back(index);
        self.absent -= 1;
    }

    fn give_back_oldest(&mut self) {
        if let Some(index) = self.arrived.pop_front() {
            self.bits[index as usize / 64] &= !(1 << (index % 64));
            self.absent += 1;
            self.given_back += 1;
        }
    }
}

impl Parts {
    fn new(file: File, manifest: Arc<Manifest>, bits: Vec<u64>, has_map: bool) -> Self {
        let starts = manifest.with_offsets().map(|(start, _)| start).collect();
        let extents = manifest.extents();
        let chunks = (0..extents.len() as u32).filter(|index| chunk_at(extents, *index).is_some());
        let mut by_hash: Box<[u32]> = chunks.collect();
        let mut present = Present { bits, absent: by_hash.len(), arrived: VecDeque::new(), given_back: 0 };
        for index in &by_hash {
            if present.has(*index as usize) {
                present.absent -= 1;
                present.arrived.push_back(*index);
            }
        }
        by_hash.sort_by_key(|index| chunk_at(extents, *index));
        Self {
            file,
            starts,
            by_hash,
            writing: Mutex::new(Unsaved { bytes: 0, has_map }),
            present: RwLock::new(present),
            wanted: Mutex::default(),
            manifest,
        }
    }

    fn places(&self, hash: &ChunkHash) -> &[u32] {
        let of = |index: &u32| chunk_at(self.manifest.extents(), *index).map(|(hash, _)| hash);
        let start = self.by_hash.partition_point(|index| of(index) < Some(*hash));
        let len = self.by_hash[start..].partition_point(|index| of(index) == Some(*hash));
        &self.by_hash[start..start + len]
    }

    fn range(&self, index: u32) -> Range<u64> {
        let start = self.starts[index as usize];
        start..start + self.manifest.extents()[index as usize].len()
    }

    /// The first extent that ends behind `offset`.
    fn extent_at(&self, offset: u64) -> usize {
        self.starts.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    fn is_here(&self, present: &Present, index: usize) -> bool {
        matches!(self.manifest.extents()[index], Extent::Hole { .. }) || present.has(index)
    }

    /// How far the present bytes reach from `offset` on, up to `end`.
    fn reach(&self, present: &Present, offset: u64, end: u64) -> u64 {
        let mut at = offset;
        for index in self.extent_at(offset)..self.starts.len() {
            if at >= end || !self.is_here(present, index) {
                break;
            }
            at = self.range(index as u32).end;
        }
        at.min(end)
    }

    /// How many requests ago the extent was asked for, if it was lately.
    fn wanted_rank(&self, index: u32) -> Option<usize> {
        let range = self.range(index);
        self.wanted.lock().iter().rev().position(|wanted| wanted.start < range.end && range.start < wanted.end)
    }
}

fn chunk_at(extents: &[Extent], index: u32) -> Option<(ChunkHash, u32)> {
    match extents[index as usize] {
        Extent::Chunk { hash, len } => Some((hash, len)),
        Extent::Hole { .. } => None,
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("hash", &self.hash)
            .field("size", &self.size)
            .field("whole", &self.is_whole())
            .finish_non_exhaustive()
    }
}

impl Entry {
    pub(super) fn whole(hash: ContentHash, size: u64, file: File, core: Weak<Core>) -> Self {
        let detached = AtomicBool::new(false);
        let claimed = AtomicBool::new(false);
        Self { hash, size, whole: OnceLock::from(file), parts: None, detached, claimed, core }
    }

    pub(super) fn partial(
        hash: ContentHash,
        file: File,
        manifest: Arc<Manifest>,
        bits: Option<Vec<u64>>,
        core: Weak<Core>,
    ) -> Self {
        let size = manifest.size();
        let has_map = bits.is_some();
        let bits = bits.unwrap_or_else(|| vec![0; manifest.extents().len().div_ceil(64)]);
        let parts = Some(Parts::new(file, manifest, bits, has_map));
        let (detached, claimed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { hash, size, whole: OnceLock::new(), parts, detached, claimed, core }
    }

    /// Names the content.
    pub const fn hash(&self) -> &ContentHash {
        &self.hash
    }

    /// What the content consists of, unless all of it was here from the begin.
    pub fn manifest(&self) -> Option<Arc<Manifest>> {
        self.parts.as_ref().map(|parts| parts.manifest.clone())
    }

    /// The content's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Whether every byte is here, for good.
    pub fn is_whole(&self) -> bool {
        self.whole.get().is_some()
    }

    /// Whether nothing of this process may write to its file any more.
    pub(super) fn is_only_read(&self) -> bool {
        self.is_whole() && self.parts.is_none()
    }

    /// The file itself. It may be read anywhere only if the content is whole; it must never be written to.
    pub fn file(&self) -> &File {
        match (self.whole.get(), &self.parts) {
            (Some(file), _) => file,
            (None, Some(parts)) => &parts.file,
            (None, None) => unreachable!("an entry is made whole or of parts"),
        }
    }

    /// Reads what is here at `offset`, as much as `buf` takes. 0 at the end of the content. Less than `buf` takes if a part
    /// that is missing follows; an error of the kind `WouldBlock` if one is at `offset` itself.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let end = offset.saturating_add(buf.len() as u64).min(self.size);
        if offset >= end {
            return Ok(0);
        }
        if let Some(file) = self.whole.get() {
            let len = (end - offset) as usize;
            disk::read_exact_at(file, &mut buf[..len], offset)?;
            return Ok(len);
        }
        let parts = self.parts()?;
        let present = parts.present.read();
        let len = (parts.reach(&present, offset, end) - offset) as usize;
        if len == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        disk::read_exact_at(&parts.file, &mut buf[..len], offset)?;
        Ok(len)
    }

    /// The chunks that reading `range` needs and that are not here: index of the extent, name, length. They come first when
    /// there is not room for every place that a chunk has.
    pub fn missing(&self, range: Range<u64>) -> Vec<(usize, ChunkHash, u32)> {
        let Some(parts) = self.parts.as_ref().filter(|_| !self.is_whole()) else { return Vec::new() };
        let range = range.start..range.end.min(self.size);
        if range.is_empty() {
            return Vec::new();
        }
        let (first, last) = (parts.extent_at(range.start), parts.extent_at(range.end - 1));
        let present = parts.present.read();
        let absent = (first..=last).filter(|index| !present.has(*index));
        let extents = parts.manifest.extents();
        let missing: Vec<_> =
            absent.filter_map(|index| chunk_at(extents, index as u32).map(|(hash, len)| (index, hash, len))).collect();
        drop(present);
        if !missing.is_empty() {
            remember(&mut parts.wanted.lock(), range);
        }
        missing
    }

    /// Where the next chunk lies that is not here, at `from` or behind it. Holes are passed over.
    pub fn next_missing(&self, from: u64) -> Option<Range<u64>> {
        let parts = self.parts.as_ref().filter(|_| !self.is_whole() && from < self.size)?;
        let present = parts.present.read();
        let extents = parts.manifest.extents();
        let is_missing = |index: &u32| !present.has(*index as usize) && chunk_at(extents, *index).is_some();
        let index = (parts.extent_at(from) as u32..extents.len() as u32).find(is_missing)?;
        Some(parts.range(index))
    }

    /// Bytes of the chunks that are not here, at each place that they have.
    pub fn missing_bytes(&self) -> u64 {
        let Some(parts) = self.parts.as_ref().filter(|_| !self.is_whole()) else { return 0 };
        let present = parts.present.read();
        let extents = parts.manifest.extents().iter().enumerate();
        let absent = extents.filter(|(index, extent)| matches!(extent, Extent::Chunk { .. }) && !present.has(*index));
        absent.map(|(_, extent)| extent.len()).sum()
    }

    /// Where the extent `index` of [`Self::missing`] lies.
    pub fn place(&self, index: usize) -> Option<Range<u64>> {
        let parts = self.parts.as_ref().filter(|parts| index < parts.starts.len())?;
        Some(parts.range(index as u32))
    }

    /// Stores a chunk at every place that the content has it, as far as there is room: at least at one. `raw` is verified by
    /// the caller. With the last chunk the content becomes whole. An error of the kind `StorageFull` means that everything
    /// in the cache is in use.
    pub fn put(&self, chunk: &ChunkHash, raw: &[u8]) -> io::Result<()> {
        if self.is_whole() {
            return Ok(());
        }
        let parts = self.parts()?;
        let places = parts.places(chunk);
        let fits =
            places.first().is_some_and(|index| parts.manifest.extents()[*index as usize].len() == raw.len() as u64);
        if !fits {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the content has no such chunk"));
        }
        let core = self.core.upgrade().ok_or_else(|| io::Error::other("the cache has been closed"))?;
        let mut unsaved = parts.writing.lock();
        let mut own_left = if core.index.is_kept(&self.hash) { 0 } else { parts.present.read().arrived.len() };
        for (count, index) in self.absent_places(parts, places).into_iter().enumerate() {
            let need = match count {
                0 => Need::Must,
                _ if parts.wanted_rank(index).is_some() => Need::Wants,
                _ => Need::May,
            };
            if !self.make_room(&core, parts, &mut unsaved, raw.len() as u64, need, &mut own_left)? {
                if need == Need::Must {
                    return Err(io::Error::new(io::ErrorKind::StorageFull, "everything in the cache is in use"));
                }
                break;
            }
            self.store(&core, parts, index, raw)?;
            unsaved.bytes += raw.len() as u64;
        }
        self.settle(&core, parts, &mut unsaved)
    }

    /// Places where the chunk is not yet, those that somebody asked for last first.
    fn absent_places(&self, parts: &Parts, places: &[u32]) -> Vec<u32> {
        let present = parts.present.read();
        let mut absent: Vec<u32> = places.iter().copied().filter(|index| !present.has(*index as usize)).collect();
        drop(present);
        if absent.len() > 1 {
            absent.sort_by_cached_key(|index| parts.wanted_rank(*index).unwrap_or(usize::MAX));
        }
        absent
    }

    /// Counts `len` more bytes: where there is room, then in place of contents that nobody uses, then (unless it only
    /// `May`) in place of the oldest part of whichever open content has the most. False if that is not enough. Of this
    /// content only `own_left` parts may go, and none if it is kept: what a call stores must not push out what it stored
    /// before.
    fn make_room(
        &self,
        core: &Core,
        parts: &Parts,
        unsaved: &mut Unsaved,
        len: u64,
        need: Need,
        own_left: &mut usize,
    ) -> io::Result<bool> {
        let mut tries = need.busy_tries();
        while !core.make_room(&self.hash, charge_of_len(len), Some(self))? {
            if need == Need::May {
                return Ok(false);
            }
            match core.squeeze_other(self, *own_left)? {
                Squeezed::Given => {}
                Squeezed::Busy if *own_left == 0 && tries > 0 => {
                    tries -= 1;
                    std::thread::sleep(BUSY_WAIT);
                }
                Squeezed::Busy | Squeezed::Nothing => {
                    if *own_left == 0 || !self.give_back_oldest(core, parts, unsaved)? {
                        return Ok(false);
                    }
                    *own_left -= 1;
                }
            }
        }
        Ok(true)
    }

    /// How many parts went again to make room.
    pub fn given_back(&self) -> u64 {
        self.parts.as_ref().map_or(0, |parts| parts.present.read().given_back)
    }

    /// How many parts could be given back.
    pub(super) fn part_count(&self) -> usize {
        match &self.parts {
            Some(parts) if !self.is_whole() => parts.present.read().arrived.len(),
            _ => 0,
        }
    }

    /// Gives the oldest part back, unless somebody is writing: whoever asks is writing to another content, and two that
    /// waited for each other would wait for ever.
    pub(super) fn try_give_back(&self, core: &Core) -> io::Result<Squeezed> {
        let Some(parts) = &self.parts else { return Ok(Squeezed::Nothing) };
        let Some(mut unsaved) = parts.writing.try_lock() else { return Ok(Squeezed::Busy) };
        if !self.is_whole() && !self.is_detached() && self.give_back_oldest(core, parts, &mut unsaved)? {
            return Ok(Squeezed::Given);
        }
        Ok(Squeezed::Nothing)
    }

    fn give_back_oldest(&self, core: &Core, parts: &Parts, unsaved: &mut Unsaved) -> io::Result<bool> {
        // A map that says more than there is must not survive a crash.
        if std::mem::take(&mut unsaved.has_map) && !self.is_detached() {
            core.layout.remove_map(&self.hash)?;
            core.index.set_map(&self.hash, None, Some(self));
        }
        let mut present = parts.present.write();
        let Some(oldest) = present.arrived.front().copied() else { return Ok(false) };
        let range = parts.range(oldest);
        let len = range.end - range.start;
        match disk::holes::punch(&parts.file, range) {
            // A file system without holes: the bytes take room until the content goes, and so long the cache is larger.
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            punched => punched?,
        }
        present.give_back_oldest();
        drop(present);
        core.index.release(&self.hash, charge_of_len(len), Some(self));
        Ok(true)
    }

    fn store(&self, core: &Core, parts: &Parts, index: u32, raw: &[u8]) -> io::Result<()> {
        loop {
            match disk::write_all_at(&parts.file, raw, parts.starts[index as usize]) {
                Ok(()) => break,
                // The disk is smaller than the limit says.
                Err(error) if error.kind() == io::ErrorKind::StorageFull && core.evict_one()? => {}
                Err(error) => {
                    core.index.release(&self.hash, charge_of_len(raw.len() as u64), Some(self));
                    return Err(error);
                }
            }
        }
        parts.present.write().set(index);
        Ok(())
    }

    fn settle(&self, core: &Core, parts: &Parts, unsaved: &mut Unsaved) -> io::Result<()> {
        if parts.present.read().absent == 0 {
            return self.complete(core, parts);
        }
        if unsaved.bytes >= SAVE_AFTER.max(self.size / 64) {
            self.save_locked(core, parts, unsaved)?;
        }
        Ok(())
    }

    /// The last part is there: the content gets its final name.
    fn complete(&self, core: &Core, parts: &Parts) -> io::Result<()> {
        disk::make_read_only(&parts.file)?;
        let path = core.layout.partial(&self.hash);
        let attached = if self.is_detached() { None } else { disk::if_there(File::open(&path))? };
        let file = match attached {
            Some(file) => {
                // Not there any more: it was removed or replaced by the same content meanwhile.
                disk::if_there(core.layout.make_object(&path, &self.hash))?;
                core.layout.remove_map(&self.hash)?;
                core.index.set_map(&self.hash, None, Some(self));
                // Parts share blocks. Where the disk has no holes, what was not counted part by part is not counted now
                // either: there would be no room that was made for it.
                let (counted, stored) =
                    (self.charge(), charge_of_file(&core.layout.object(&self.hash), &file.metadata()?));
                core.index.recharge(&self.hash, counted, stored.min(counted), self);
                file
            }
            None => parts.file.try_clone()?,
        };
        // Only the holder of the lock on writing gets here, so it is not set yet.
        drop(self.whole.set(file));
        Ok(())
    }

    /// Completes a content that has no chunks, or all of them.
    pub(super) fn complete_if_all_there(&self, core: &Core) -> io::Result<()> {
        let Some(parts) = self.parts.as_ref().filter(|_| !self.is_whole()) else { return Ok(()) };
        let unsaved = parts.writing.lock();
        if parts.present.read().absent == 0 {
            self.complete(core, parts)?;
        }
        drop(unsaved);
        Ok(())
    }

    /// Gives back what lies where no part is: a process that was killed had put it there and not written it down.
    pub(super) fn give_back_strays(&self, core: &Core) -> io::Result<()> {
        let Some(parts) = self.parts.as_ref().filter(|_| !self.is_whole()) else { return Ok(()) };
        if charge_of_file(&core.layout.partial(&self.hash), &parts.file.metadata()?) <= self.charge() {
            return Ok(());
        }
        let present = parts.present.read();
        let mut absent: Option<Range<u64>> = None;
        for index in 0..=parts.starts.len() {
            let range = (index < parts.starts.len() && !present.has(index)).then(|| parts.range(index as u32));
            match (&mut absent, range) {
                (Some(absent), Some(range)) => absent.end = range.end,
                (None, Some(range)) => absent = Some(range),
                (Some(run), None) => {
                    match disk::holes::punch(&parts.file, run.clone()) {
                        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
                        punched => punched?,
                    }
                    absent = None;
                }
                (None, None) => {}
            }
        }
        Ok(())
    }

    /// Whether the parts that are here have the bytes that their names say. `each` is told the length of every part that
    /// was read; its error ends the reading.
    pub(super) fn is_intact(&self, each: &mut dyn FnMut(u64) -> io::Result<()>) -> io::Result<bool> {
        let Some(parts) = &self.parts else { return Ok(true) };
        let mut raw = Vec::new();
        for (index, extent) in parts.manifest.extents().iter().enumerate() {
            let Extent::Chunk { hash, len } = extent else { continue };
            let present = parts.present.read();
            if !self.is_whole() && !present.has(index) {
                continue;
            }
            raw.resize(*len as usize, 0);
            disk::read_exact_at(&parts.file, &mut raw, parts.starts[index])?;
            drop(present);
            if !hash.matches(&raw) {
                return Ok(false);
            }
            each(u64::from(*len))?;
        }
        Ok(true)
    }

    /// Writes down which parts are here.
    pub(super) fn save(&self, core: &Core) -> io::Result<()> {
        match &self.parts {
            Some(parts) => self.save_locked(core, parts, &mut parts.writing.lock()),
            None => Ok(()),
        }
    }

    fn save_locked(&self, core: &Core, parts: &Parts, unsaved: &mut Unsaved) -> io::Result<()> {
        let is_saved = unsaved.has_map && unsaved.bytes == 0;
        if self.is_whole() || self.is_detached() || is_saved {
            return Ok(());
        }
        let bits = parts.present.read().bits.clone();
        let map = core.layout.save_map(&self.hash, &parts.manifest, &bits)?;
        core.index.set_map(&self.hash, Some(map), Some(self));
        *unsaved = Unsaved { bytes: 0, has_map: true };
        Ok(())
    }

    /// What the parts that are here cost, without the map.
    pub(super) fn charge(&self) -> u64 {
        let Some(parts) = &self.parts else { return 0 };
        let present = parts.present.read();
        present.arrived.iter().map(|index| parts.manifest.extents()[*index as usize].len()).map(charge_of_len).sum()
    }

    pub(super) fn detach(&self) {
        self.detached.store(true, Ordering::Release);
    }

    pub(super) fn is_detached(&self) -> bool {
        self.detached.load(Ordering::Acquire)
    }

    fn parts(&self) -> io::Result<&Parts> {
        self.parts.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn remember(wanted: &mut VecDeque<Range<u64>>, range: Range<u64>) {
    if wanted.back() != Some(&range) {
        wanted.push_back(range);
    }
    if wanted.len() > WANTED_MAX {
        wanted.pop_front();
    }
}
