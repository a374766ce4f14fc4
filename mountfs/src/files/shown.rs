//! A file of the disk that the kernel itself shows to those who have a file of the tree open: reads and mappings of theirs
//! never come here.
//!
//! It begins as the file of a cached content and is private from the first change on: then it is nobody else's, has no name,
//! and ends with those who look at it. Promises: it is never written to while it is in the cache. Whoever changes the bytes of
//! the open file changes it in the same step; where that fails, or another device's version came, it is *out of step* until it
//! has been written anew. Who has it mapped for writing changes it without a word; that is looked for.

use crate::store::Claim;
use crate::system::alone;
use parking_lot::Mutex;
use std::any::Any;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use syncmount_common::Content;

/// What the kernel gave for a file that it may show. Ends its right to when it is dropped.
pub type Pass = Arc<dyn Any + Send + Sync>;

/// Two changes of a file within this time may leave it with one and the same mtime.
const COARSE_MTIME: Duration = Duration::from_millis(50);

#[derive(Debug)]
enum Held {
    /// Still the cache's.
    Cached(Claim),
    /// Nobody else's.
    Private(Arc<File>),
    /// Nobody's any more.
    Over,
}

/// What has been taken over of changes through mappings.
#[derive(Debug, Default)]
pub struct Taken(Option<SystemTime>);

impl Taken {
    /// Whether nothing has changed since.
    pub fn is_all(&self, modified: SystemTime) -> bool {
        self.0 == Some(modified)
    }

    /// Everything up to `modified` has been taken over.
    pub fn note(&mut self, modified: SystemTime) {
        let is_sure = modified.elapsed().is_ok_and(|ago| ago > COARSE_MTIME);
        self.0 = is_sure.then_some(modified);
    }
}

/// One such file.
pub struct Shown {
    held: Mutex<Held>,
    pass: Mutex<Option<Pass>>,
    users: AtomicU32,
    /// Those of them that may map it for writing.
    mappers: AtomicU32,
    /// Somebody may have it mapped for writing.
    mapped: AtomicBool,
    in_step: AtomicBool,
    /// Grows whenever it gets out of step.
    epoch: AtomicU64,
    /// Out of step by one version only: the content that it has.
    has: Mutex<Option<Arc<Content>>>,
    following: AtomicBool,
    /// Locked while changes through mappings are taken over.
    pub taken: Mutex<Taken>,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (users, in_step) = (self.users(), self.is_in_step());
        f.debug_struct("Shown").field("users", &users).field("in_step", &in_step).finish_non_exhaustive()
    }
}

impl Shown {
    /// A cached content that nobody is shown yet.
    pub fn new(claim: Claim) -> Self {
        Self {
            held: Mutex::new(Held::Cached(claim)),
            pass: Mutex::default(),
            users: AtomicU32::new(0),
            mappers: AtomicU32::new(0),
            mapped: AtomicBool::new(false),
            in_step: AtomicBool::new(true),
            epoch: AtomicU64::new(0),
            has: Mutex::default(),
            following: AtomicBool::new(false),
            taken: Mutex::default(),
        }
    }

    /// One more handle is shown it, which may map it for writing if it `maps`. `register` asks the kernel for a pass if there is
    /// none; without one nothing has changed.
    pub fn enter(&self, maps: bool, register: impl FnOnce(&File) -> Option<Pass>) -> bool {
        let mut pass = self.pass.lock();
        if pass.is_none() {
            *pass = match &*self.held.lock() {
                Held::Cached(claim) => register(claim.file()),
                // The kernel keeps what it is given open, which must not pass for somebody who writes.
                Held::Private(file) => alone::open_again(file, false).ok().and_then(|file| register(&file)),
                Held::Over => None,
            };
        }
        if pass.is_some() {
            self.users.fetch_add(1, Ordering::AcqRel);
            if maps {
                self.mappers.fetch_add(1, Ordering::AcqRel);
                self.mapped.store(true, Ordering::Release);
            }
        }
        pass.is_some()
    }

    /// A handle is gone; what it has mapped may stay.
    pub fn leave(&self, maps: bool) {
        let mut pass = self.pass.lock();
        if maps {
            self.mappers.fetch_sub(1, Ordering::AcqRel);
        }
        if self.users.fetch_sub(1, Ordering::AcqRel) == 1 {
            *pass = None;
        }
    }

    /// The kernel's pass, as long as a handle is there.
    pub fn pass(&self) -> Option<Pass> {
        self.pass.lock().clone()
    }

    /// How many handles are shown it.
    pub fn users(&self) -> u32 {
        self.users.load(Ordering::Acquire)
    }

    /// Whether nobody sees it any more, through a handle or a mapping. Where the system does not say, somebody does. If so, it has
    /// ended: its file is the cache's alone again, or gone.
    pub fn end_if_left(&self) -> bool {
        let left = self.is_left();
        if left {
            *self.held.lock() = Held::Over;
        }
        left
    }

    /// The same without an end.
    pub fn is_left(&self) -> bool {
        let pass = self.pass.lock();
        if self.users() > 0 || pass.is_some() {
            return false;
        }
        let alone = match &*self.held.lock() {
            Held::Cached(claim) => alone::is_alone(claim.file()),
            Held::Private(file) => alone::is_alone(file),
            Held::Over => Ok(true),
        };
        alone.unwrap_or(false)
    }

    /// The file if it may be changed.
    pub fn private(&self) -> Option<Arc<File>> {
        match &*self.held.lock() {
            Held::Cached(_) | Held::Over => None,
            Held::Private(file) => Some(file.clone()),
        }
    }

    /// The file, made private by `take_away` if it is not yet.
    pub fn make_private(&self, take_away: impl FnOnce(&Claim) -> io::Result<File>) -> io::Result<Arc<File>> {
        let mut held = self.held.lock();
        let claim = match &*held {
            Held::Private(file) => return Ok(file.clone()),
            Held::Cached(claim) => claim,
            Held::Over => return Err(io::ErrorKind::NotFound.into()),
        };
        let file = Arc::new(take_away(claim)?);
        *held = Held::Private(file.clone());
        Ok(file)
    }

    /// Whether it has the bytes of the open file.
    pub fn is_in_step(&self) -> bool {
        self.in_step.load(Ordering::Acquire)
    }

    /// It has other bytes than the open file from now on: those of `has`, if that is known.
    pub fn step_out(&self, has: Option<Arc<Content>>) {
        let was_in_step = self.in_step.swap(false, Ordering::AcqRel);
        *self.has.lock() = has.filter(|_| was_in_step);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// How often it got out of step, and the content that it has, if that is known.
    pub fn behind(&self) -> (u64, Option<Arc<Content>>) {
        (self.epoch.load(Ordering::Acquire), self.has.lock().clone())
    }

    /// It was written anew. Counts unless it got out of step once more since [`Self::behind`].
    pub fn step_in(&self, epoch: u64) {
        if self.epoch.load(Ordering::Acquire) == epoch {
            self.in_step.store(true, Ordering::Release);
        }
    }

    /// Whether the caller is the one who writes it anew; until [`Self::end_following`].
    pub fn begin_following(&self) -> bool {
        !self.following.swap(true, Ordering::AcqRel)
    }

    /// The end of that.
    pub fn end_following(&self) {
        self.following.store(false, Ordering::Release);
    }

    /// Whether nobody can change it without a word any more, through a handle or a mapping; nobody can begin to while this is
    /// asked. What was changed so must be taken over before [`Self::end_mapped`].
    pub fn is_unmapped(&self) -> bool {
        if self.mappers.load(Ordering::Acquire) > 0 {
            return false;
        }
        let mut held = self.held.lock();
        let Held::Private(file) = &mut *held else { return true };
        // Whoever is just writing to it counts as a writer too, and so does this file itself.
        if Arc::strong_count(file) > 1 {
            return false;
        }
        let Ok(read_only) = alone::open_again(file, false) else { return false };
        *file = Arc::new(read_only);
        let unmapped = alone::is_only_read(file).unwrap_or(false);
        match alone::open_again(file, true) {
            Ok(writable) => *file = Arc::new(writable),
            Err(error) => tracing::error!("a file that is shown cannot be opened again: {error}"),
        }
        unmapped
    }

    /// Nobody has it mapped for writing any more.
    pub fn end_mapped(&self) {
        self.mapped.store(false, Ordering::Release);
    }

    /// Whether somebody may change it without a word.
    pub fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire)
    }
}
