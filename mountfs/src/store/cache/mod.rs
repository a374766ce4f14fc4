//! The cache of contents, by content hash, within a limit of bytes.
//!
//! Promises: what it hands out was verified when it was written, and again if the machine went down since; the limit holds
//! whenever something is written; what somebody has open or what is to be kept is never evicted; a cache smaller than one file
//! still lets that file be read. May forget anything else at any time. Must not know nodes, or where bytes come from.
//!
//! Nothing is synced: after a power cut every whole content is read once before it counts, and partial ones are dropped.
//!
//! Locks, in the order in which they may be taken: the writing lock of one entry, one stripe, the index. A stripe covers the
//! files of the hashes that share it; nobody who holds one waits for a writing lock or another stripe.

mod claim;
mod entry;
mod index;
mod layout;
mod verify;

pub use claim::Claim;
pub use entry::Entry;
pub use verify::Verified;

use crate::store::disk;
use entry::Squeezed;
use index::Index;
use layout::{Found, Layout, charge_of_file};
use parking_lot::{Mutex, MutexGuard};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use syncmount_common::{ContentHash, Extent, Manifest};

const STRIPES: usize = 64;

/// The cache of one client. Everything else that is handed out by it stays usable when it is dropped, but cannot grow.
pub struct Cache {
    core: Arc<Core>,
    scan: Mutex<Option<JoinHandle<()>>>,
}

struct Core {
    layout: Layout,
    index: Index,
    stripes: [Mutex<()>; STRIPES],
    stopping: AtomicBool,
}

impl Cache {
    /// Opens or makes the cache in `dir`. `suspect` after the machine went down: nothing in it counts until it was read.
    /// What is on the disk is counted in the background; until that is done the cache may be larger than its limit.
    pub fn open(dir: &Path, limit: u64, suspect: bool) -> io::Result<Self> {
        Self::open_keeping(dir, limit, suspect, std::iter::empty())
    }

    /// The same with contents that are kept from the first moment on.
    pub fn open_keeping(
        dir: &Path,
        limit: u64,
        suspect: bool,
        kept: impl Iterator<Item = ContentHash>,
    ) -> io::Result<Self> {
        let layout = Layout::open(dir, suspect)?;
        let index = Index::new(limit);
        for hash in kept {
            index.keep(&hash);
        }
        for (hash, charge, map) in layout.settle_partials()? {
            index.add_older(&[(hash, charge)]);
            index.set_map(&hash, Some(map), None);
        }
        let stripes = std::array::from_fn(|_| Mutex::new(()));
        let core = Arc::new(Core { layout, index, stripes, stopping: AtomicBool::new(false) });
        let scanner = core.clone();
        let scan = std::thread::Builder::new().name("cache-scan".to_owned()).spawn(move || {
            if let Err(error) = scanner.count_all() {
                tracing::warn!(%error, "the cache cannot be counted; it may grow over its limit");
            }
        })?;
        Ok(Self { core, scan: Mutex::new(Some(scan)) })
    }

    /// A content of which at least a part is here. It counts as just used.
    pub fn get(&self, hash: &ContentHash) -> Option<Arc<Entry>> {
        match self.core.find(hash, None) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, %hash, "a cached content cannot be opened");
                None
            }
        }
    }

    /// A content, begun with no part if it is not here. One from before the machine went down is read and verified first.
    pub fn entry(&self, hash: &ContentHash, manifest: &Arc<Manifest>) -> io::Result<Arc<Entry>> {
        match self.core.find(hash, Some(manifest))? {
            Some(entry) => Ok(entry),
            None => self.core.begin(hash, manifest),
        }
    }

    /// Makes a finished local file the whole content `hash`, by renaming it. Its bytes are taken as they are. After an error
    /// (of the kind `StorageFull` if there is no room) the file is where it was.
    pub fn adopt(&self, hash: &ContentHash, size: u64, path: &Path) -> io::Result<Arc<Entry>> {
        let mut adoption = self.adoption(hash, size, path)?;
        adoption.take()?;
        adoption.finish()
    }

    /// The same in three steps: before, at one moment, and afterwards.
    pub fn adoption<'a>(&'a self, hash: &ContentHash, size: u64, path: &'a Path) -> io::Result<Adoption<'a>> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        if metadata.len() != size {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file does not have the content's size"));
        }
        let core = &self.core;
        let known = core.find(hash, None)?.filter(|entry| entry.is_whole());
        let charge = charge_of_file(path, &metadata);
        if known.is_none() {
            core.make_room_for_new(charge)?;
        }
        Ok(Adoption { core, hash: *hash, size, path, charge, file: Some(file), known })
    }

    /// Removes a content. Whoever has it open can go on.
    pub fn remove(&self, hash: &ContentHash) -> io::Result<()> {
        let _stripe = self.core.stripe(hash);
        self.core.index.detach(hash);
        self.core.layout.remove(hash)
    }

    /// Bytes that a content takes from the disk; `None` if nothing of it could be read now.
    pub fn stored(&self, hash: &ContentHash) -> Option<u64> {
        self.core.layout.stored(hash)
    }

    /// A content is kept from now on, whether it is here yet or not. False if it was said before in this round.
    pub fn keep(&self, hash: &ContentHash) -> bool {
        self.core.index.keep(hash)
    }

    /// Whether a content is kept.
    pub fn is_kept(&self, hash: &ContentHash) -> bool {
        self.core.index.is_kept(hash)
    }

    /// Begins a round in which it is said anew what is kept; what was kept before is kept until the round ends.
    pub fn begin_round(&self) {
        self.core.index.begin_round();
    }

    /// Ends the round: what was not said in it may be evicted.
    pub fn end_round(&self) {
        self.core.index.end_round();
    }

    /// What a content of this size takes from the disk, about.
    pub const fn charge(size: u64) -> u64 {
        layout::charge_of_len(size)
    }

    /// Bytes that the maps of what is partly here take from the disk.
    pub fn maps(&self) -> u64 {
        self.core.index.maps()
    }

    /// Bytes that contents take from the disk, as far as they have been counted.
    pub fn used(&self) -> u64 {
        self.core.index.used()
    }

    /// Bytes that it may take, together with what is [beside](Self::set_beside) it.
    pub fn limit(&self) -> u64 {
        self.core.index.limit()
    }

    /// Bytes of the limit that other files have. At least half of it is left to contents.
    pub fn set_beside(&self, bytes: u64) -> io::Result<()> {
        self.core.index.set_beside(bytes);
        self.core.shrink()
    }

    /// The part of the limit that contents may fill, in bytes.
    pub fn room(&self) -> u64 {
        self.core.index.room()
    }

    /// Bytes that this content may have at most beside what is in use or kept; `enough` if it is known to be no less.
    pub fn spare(&self, hash: &ContentHash, enough: u64) -> u64 {
        self.core.index.spare(hash, enough)
    }

    /// Evicts contents of at least so many bytes, because the disk has no room for what cannot be fetched again. Fewer if
    /// the others are in use or kept. Returns how many.
    pub fn give_up(&self, bytes: u64) -> io::Result<u64> {
        let before = self.used();
        let given = |cache: &Self| before.saturating_sub(cache.used());
        while given(self) < bytes && self.core.evict_one()? {}
        Ok(given(self))
    }

    /// Waits until everything on the disk has been counted and the limit holds.
    pub fn settle(&self) {
        if let Some(scan) = self.scan.lock().take()
            && scan.join().is_err()
        {
            tracing::error!("the thread that counts the cache has panicked");
        }
    }

    /// Writes down what is here of partial contents. To be called before [`crate::store::State::close`].
    pub fn close(&self) -> io::Result<()> {
        self.core.stopping.store(true, Ordering::Release);
        self.settle();
        self.core.index.all_open().iter().try_for_each(|entry| entry.save(&self.core))
    }
}

/// A finished local file on its way into the cache.
pub struct Adoption<'a> {
    core: &'a Arc<Core>,
    hash: ContentHash,
    size: u64,
    path: &'a Path,
    charge: u64,
    /// Until it is the content.
    file: Option<File>,
    /// The content; from the begin if it was here already.
    known: Option<Arc<Entry>>,
}

impl Adoption<'_> {
    /// Makes the file the content: one rename, or none if the content is here already. After an error the file is where it was.
    pub fn take(&mut self) -> io::Result<()> {
        if self.known.is_some() {
            return Ok(());
        }
        let _stripe = self.core.stripe(&self.hash);
        // Another file of the same bytes may have come first.
        self.known = self.core.index.touch(&self.hash).filter(|entry| entry.is_whole());
        if self.known.is_none()
            && let Some(file) = self.file.take()
        {
            self.core.layout.make_object(self.path, &self.hash)?;
            // Whoever reads a partial one of the same content can go on.
            self.core.index.detach(&self.hash);
            let entry = Arc::new(Entry::whole(self.hash, self.size, file, Arc::downgrade(self.core)));
            self.core.index.opened(&entry, self.charge);
            self.known = Some(entry);
        }
        Ok(())
    }

    /// Removes what is of no use beside the content any more.
    pub fn finish(self) -> io::Result<Arc<Entry>> {
        let Some(entry) = self.known else { return Err(io::Error::other("a file that was not taken into the cache")) };
        if self.file.is_some() {
            disk::remove_if_there(self.path)?;
            return Ok(entry);
        }
        disk::make_read_only(entry.file())?;
        {
            let _stripe = self.core.stripe(&self.hash);
            self.core.layout.remove_partial(&self.hash)?;
            disk::remove_if_there(&self.core.layout.unverified(&self.hash))?;
        }
        self.core.shrink()?;
        Ok(entry)
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "partly cached contents will be fetched again");
        }
    }
}

impl Core {
    fn stripe(&self, hash: &ContentHash) -> MutexGuard<'_, ()> {
        self.stripes[usize::from(hash.as_bytes()[0]) % STRIPES].lock()
    }

    fn find(self: &Arc<Self>, hash: &ContentHash, manifest: Option<&Manifest>) -> io::Result<Option<Arc<Entry>>> {
        if let Some(entry) = self.index.touch(hash) {
            return Ok(Some(entry));
        }
        let found = {
            let _stripe = self.stripe(hash);
            self.find_locked(hash, manifest)?
        };
        self.close_idle()?;
        Ok(found)
    }

    fn find_locked(
        self: &Arc<Self>,
        hash: &ContentHash,
        manifest: Option<&Manifest>,
    ) -> io::Result<Option<Arc<Entry>>> {
        // Somebody else may have opened it while this thread waited for the stripe.
        if let Some(entry) = self.index.touch(hash) {
            return Ok(Some(entry));
        }
        if let Some(entry) = self.find_whole(hash, manifest)? {
            return Ok(Some(entry));
        }
        self.find_partial(hash)
    }

    fn find_whole(self: &Arc<Self>, hash: &ContentHash, manifest: Option<&Manifest>) -> io::Result<Option<Arc<Entry>>> {
        if let Some(file) = disk::if_there(File::open(self.layout.object(hash)))? {
            if manifest.is_none_or(|manifest| file.metadata().is_ok_and(|it| it.len() == manifest.size())) {
                return self.open_whole(hash, file).map(Some);
            }
            tracing::warn!(%hash, "a cached content has another size than it should and is dropped");
            self.drop_files(hash)?;
            return Ok(None);
        }
        let Some(manifest) = manifest else { return Ok(None) };
        match self.accept_unverified(hash, manifest)? {
            Some(file) => self.open_whole(hash, file).map(Some),
            None => Ok(None),
        }
    }

    fn open_whole(self: &Arc<Self>, hash: &ContentHash, file: File) -> io::Result<Arc<Entry>> {
        let metadata = file.metadata()?;
        let entry = Arc::new(Entry::whole(*hash, metadata.len(), file, Arc::downgrade(self)));
        self.index.opened(&entry, charge_of_file(&self.layout.object(hash), &metadata));
        Ok(entry)
    }

    /// Reads a content from before the machine went down. It is moved to the others if it is good, dropped if not.
    fn accept_unverified(&self, hash: &ContentHash, manifest: &Manifest) -> io::Result<Option<File>> {
        let path = self.layout.unverified(hash);
        let Some(file) = disk::if_there(File::open(&path))? else { return Ok(None) };
        if !is_intact(&file, manifest, |_| Ok(()))? {
            tracing::warn!(%hash, "a cached content was damaged when the machine went down and is dropped");
            self.drop_files(hash)?;
            return Ok(None);
        }
        self.layout.make_object(&path, hash)?;
        Ok(Some(file))
    }

    fn drop_files(&self, hash: &ContentHash) -> io::Result<()> {
        self.index.detach(hash);
        self.layout.remove(hash)
    }

    fn find_partial(self: &Arc<Self>, hash: &ContentHash) -> io::Result<Option<Arc<Entry>>> {
        let path = self.layout.partial(hash);
        let Some(file) = disk::if_there(File::options().read(true).write(true).open(path))? else { return Ok(None) };
        let Some((manifest, map)) = self.layout.load_map(hash)? else {
            self.drop_files(hash)?;
            return Ok(None);
        };
        if file.metadata()?.len() != manifest.size() {
            self.drop_files(hash)?;
            return Ok(None);
        }
        let core = Arc::downgrade(self);
        let entry = Arc::new(Entry::partial(*hash, file, Arc::new(manifest), Some(map.present), core));
        entry.complete_if_all_there(self)?;
        entry.give_back_strays(self)?;
        self.index.opened(&entry, entry.charge());
        Ok(Some(entry))
    }

    fn begin(self: &Arc<Self>, hash: &ContentHash, manifest: &Arc<Manifest>) -> io::Result<Arc<Entry>> {
        if manifest.content_hash() != *hash {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the manifest is not the one of this content"));
        }
        let _stripe = self.stripe(hash);
        if let Some(entry) = self.find_locked(hash, Some(manifest))? {
            return Ok(entry);
        }
        let file = self.layout.create_partial(hash, manifest.size())?;
        let entry = Arc::new(Entry::partial(*hash, file, manifest.clone(), None, Arc::downgrade(self)));
        entry.complete_if_all_there(self)?;
        self.index.detach(hash);
        self.index.opened(&entry, 0);
        Ok(entry)
    }

    /// Evicts until `charge` more bytes would fit.
    fn make_room_for_new(&self, charge: u64) -> io::Result<()> {
        let full = || io::Error::new(io::ErrorKind::StorageFull, "everything in the cache is in use");
        // What has no room at all evicts nothing.
        if !self.index.can_hold(charge) {
            return Err(full());
        }
        while self.index.is_over(charge) {
            if !self.evict_one()? {
                return Err(full());
            }
        }
        Ok(())
    }

    /// Counts bytes that are about to be written, evicting what nobody uses. False if that is not enough.
    fn make_room(&self, hash: &ContentHash, charge: u64, entry: Option<&Entry>) -> io::Result<bool> {
        while !self.index.reserve(hash, charge, entry) {
            if !self.evict_one()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Removes the content that was not used for the longest time. False if everything is in use.
    fn evict_one(&self) -> io::Result<bool> {
        let Some(victim) = self.index.victim() else { return Ok(false) };
        let _stripe = self.stripe(&victim);
        if self.index.forget_unused(&victim) {
            self.layout.remove(&victim)?;
        }
        Ok(true)
    }

    /// Takes a part from an open content other than `asker` that has more than `more_than` of them: the largest first.
    fn squeeze_other(&self, asker: &Entry, more_than: usize) -> io::Result<Squeezed> {
        let mut others: Vec<_> =
            self.index.open_partial().into_iter().map(|entry| (entry.part_count(), entry)).collect();
        others.retain(|(count, entry)| *count > more_than && entry.hash() != asker.hash());
        others.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        let mut best = Squeezed::Nothing;
        for (_, entry) in others {
            match entry.try_give_back(self)? {
                Squeezed::Given => return Ok(Squeezed::Given),
                Squeezed::Busy => best = Squeezed::Busy,
                Squeezed::Nothing => {}
            }
        }
        Ok(best)
    }

    fn shrink(&self) -> io::Result<()> {
        while self.index.is_over(0) && self.evict_one()? {}
        Ok(())
    }

    fn close_idle(&self) -> io::Result<()> {
        while let Some(idle) = self.index.idle() {
            let _stripe = self.stripe(&idle);
            if let Some(entry) = self.index.take_idle(&idle) {
                entry.save(self)?;
            }
        }
        Ok(())
    }

    fn count_all(&self) -> io::Result<()> {
        let mut all: Vec<Found> = Vec::new();
        self.layout.scan(|found| {
            all.push(found);
            !self.stopping.load(Ordering::Acquire)
        })?;
        all.sort_by_key(|found| std::cmp::Reverse(found.accessed));
        for part in all.chunks(1024) {
            self.index.add_older(&part.iter().map(|found| (found.hash, found.charge)).collect::<Vec<_>>());
        }
        self.shrink()
    }
}

/// Whether a file has exactly the bytes that the manifest describes. `each` is told the length of every extent that was
/// read; its error ends the reading.
fn is_intact(file: &File, manifest: &Manifest, mut each: impl FnMut(u64) -> io::Result<()>) -> io::Result<bool> {
    if file.metadata()?.len() != manifest.size() {
        return Ok(false);
    }
    let mut raw = Vec::new();
    for (start, extent) in manifest.with_offsets() {
        let intact = match extent {
            Extent::Hole { len } => disk::holes::is_zero(file, start..start + len)?,
            Extent::Chunk { hash, len } => {
                raw.resize(len as usize, 0);
                disk::read_exact_at(file, &mut raw, start)?;
                hash.matches(&raw)
            }
        };
        each(extent.len())?;
        if !intact {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests;
