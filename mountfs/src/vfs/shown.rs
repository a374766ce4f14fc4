//! Which files the kernel shows by itself, and how long somebody may see them.
//!
//! The kernel's rules, by inode: it is open either through this program, with pages that the kernel caches, or shown, and then
//! every handle is shown one and the same file of the disk; but what writes, and reads of who may write, still come here. A
//! mapping outlives its handle without a word, so a handle lingers until the system says that nothing sees its file any more.

use super::{Handle, Result, Vfs, VfsError};
use crate::files::{OpenFile, Pass, Shown};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Asks the kernel to show a file of the disk; `None` if it does not.
pub type Register<'a> = dyn Fn(&File) -> Option<Pass> + 'a;

/// What an open asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// It may read.
    pub read: bool,
    /// It may write.
    pub write: bool,
    /// It goes around caches, with offsets and lengths of any kind.
    pub direct: bool,
}

impl Access {
    /// Reading only.
    pub const READ: Self = Self { read: true, write: false, direct: false };
    /// Writing only.
    pub const WRITE: Self = Self { read: false, write: true, direct: false };

    /// Whether it may map the file for writing.
    pub(super) const fn maps(self) -> bool {
        self.read && self.write
    }
}

/// A file was opened.
#[derive(Debug)]
pub struct Opening {
    /// The handle.
    pub fh: u64,
    /// How the kernel has to open it.
    pub way: Way,
}

/// How the kernel opens a file.
#[derive(Debug)]
pub enum Way {
    /// Everything comes here, and is cached.
    Cached,
    /// The kernel shows a file of the disk: nothing comes here.
    Shown(Arc<Shown>),
    /// The kernel maps a file of the disk; reads and writes come here and are not cached.
    Beside(Arc<Shown>),
}

impl Way {
    /// The file of the disk, if there is one.
    pub fn shown(&self) -> Option<&Arc<Shown>> {
        match self {
            Self::Cached => None,
            Self::Shown(shown) | Self::Beside(shown) => Some(shown),
        }
    }

    fn to(shown: Arc<Shown>, access: Access) -> Self {
        if access.write || access.direct { Self::Beside(shown) } else { Self::Shown(shown) }
    }
}

/// How an inode is open. What the kernel counts is never more: it hears of a handle later, and tells of its end earlier.
#[derive(Default)]
struct Door {
    cached: u64,
    shown: u64,
    what: Option<Arc<Shown>>,
}

#[derive(Default)]
pub(super) struct Doors {
    by_ino: Mutex<HashMap<u64, Arc<Mutex<Door>>>>,
    /// Handles that are gone, and what they were shown may be seen still.
    lingering: Mutex<Vec<Arc<Handle>>>,
    shown: AtomicU64,
}

impl Doors {
    fn of(&self, ino: u64) -> Arc<Mutex<Door>> {
        self.by_ino.lock().entry(ino).or_default().clone()
    }

    fn forget_if_closed(&self, ino: u64) {
        let mut by_ino = self.by_ino.lock();
        // Who has it beside the table is about to open or to close.
        let is_closed = by_ino.get(&ino).is_some_and(|door| {
            Arc::strong_count(door) == 1 && {
                let door = door.lock();
                door.cached == 0 && door.shown == 0
            }
        });
        if is_closed {
            by_ino.remove(&ino);
        }
    }

    pub(super) fn linger(&self, handle: Arc<Handle>) {
        self.lingering.lock().push(handle);
    }
}

impl Vfs {
    /// How often a file was opened that the kernel then read by itself.
    pub fn shown(&self) -> u64 {
        self.doors.shown.load(Ordering::Relaxed)
    }

    /// Decides how an inode is opened once more.
    pub(super) fn enter(
        &self,
        ino: u64,
        file: &OpenFile,
        access: Access,
        register: Option<&Register<'_>>,
    ) -> Result<Way> {
        let door = self.doors.of(ino);
        let way = self.enter_by(&mut door.lock(), file, access, register);
        drop(door);
        let way = way.inspect_err(|_| self.doors.forget_if_closed(ino));
        if matches!(way, Err(VfsError::Gone)) {
            // The kernel asks for the name once more and gets a number that is open in no way.
            self.inodes.renumber(ino);
        }
        let way = way?;
        if let Way::Shown(_) = way {
            self.doors.shown.fetch_add(1, Ordering::Relaxed);
        }
        if let (true, Some(shown)) = (access.write, way.shown()) {
            // Mapped for writing it would be changed before anything is written.
            if let Err(error) = self.client.make_private(shown) {
                self.leave_door(ino, Some(shown), access.maps());
                return Err(error.into());
            }
        }
        Ok(way)
    }

    fn enter_by(
        &self,
        door: &mut Door,
        file: &OpenFile,
        access: Access,
        register: Option<&Register<'_>>,
    ) -> Result<Way> {
        if door.shown > 0 {
            let shown = door.what.clone().ok_or(VfsError::Gone)?;
            let inner = file.inner.read();
            let is_this = shown.is_in_step() && inner.shown.iter().any(|other| Arc::ptr_eq(other, &shown));
            if !is_this || !shown.enter(access.maps(), |_| None) {
                return Err(VfsError::Gone);
            }
            door.shown += 1;
            return Ok(Way::to(shown, access));
        }
        if door.cached == 0
            && let Some(register) = register
            && let Some(shown) = self.show(file, access, register)?
        {
            door.shown = 1;
            door.what = Some(shown.clone());
            return Ok(Way::to(shown, access));
        }
        door.cached += 1;
        Ok(Way::Cached)
    }

    /// What an open of an inode that nobody has open may be shown: what somebody sees still, or a whole content of the cache
    /// for who reads only.
    fn show(&self, file: &OpenFile, access: Access, register: &Register<'_>) -> Result<Option<Arc<Shown>>> {
        let mut inner = file.inner.write();
        if access.write {
            inner.shown.retain(|shown| shown.is_mapped() || !shown.end_if_left());
        }
        if let Some(shown) = inner.shown.iter().find(|shown| shown.is_in_step()) {
            return Ok(shown.enter(access.maps(), register).then(|| shown.clone()));
        }
        if access.write || access.direct {
            return Ok(None);
        }
        let Some(shown) = self.client.to_show(&inner)? else { return Ok(None) };
        let shown = Arc::new(shown);
        if !shown.enter(false, register) {
            return Ok(None);
        }
        inner.shown.push(shown.clone());
        Ok(Some(shown))
    }

    pub(super) fn leave(&self, handle: &Handle) {
        self.leave_door(handle.ino, handle.shown.as_ref(), handle.maps);
    }

    fn leave_door(&self, ino: u64, shown: Option<&Arc<Shown>>, maps: bool) {
        let door = self.doors.of(ino);
        {
            let mut door = door.lock();
            match shown {
                None => door.cached = door.cached.saturating_sub(1),
                Some(shown) => {
                    shown.leave(maps);
                    door.shown = door.shown.saturating_sub(1);
                    if door.shown == 0 {
                        door.what = None;
                    }
                }
            }
        }
        drop(door);
        self.doors.forget_if_closed(ino);
    }

    /// Whether something that was shown through a handle that is gone may be seen still. What was changed meanwhile is taken
    /// over.
    pub(super) fn is_seen_still(&self, handle: &Handle) -> Result<bool> {
        let Some(shown) = &handle.shown else { return Ok(false) };
        if shown.users() > 0 {
            // Others have it open; only who may have mapped it for writing stays a writer.
            return Ok(handle.maps && self.is_mapped_still(handle, shown)?);
        }
        if !shown.is_left() {
            return Ok(true);
        }
        self.take_mapped(handle)?;
        let mut inner = handle.file.inner.write();
        // Somebody may have opened it meanwhile.
        if shown.end_if_left() {
            inner.shown.retain(|other| !Arc::ptr_eq(other, shown));
            return Ok(false);
        }
        Ok(true)
    }

    fn is_mapped_still(&self, handle: &Handle, shown: &Shown) -> Result<bool> {
        let door = self.doors.of(handle.ino);
        // Nobody opens it meanwhile.
        let unopened = door.lock();
        let mapped = !shown.is_unmapped();
        if !mapped {
            self.take_mapped(handle)?;
            shown.end_mapped();
        }
        drop(unopened);
        Ok(mapped)
    }

    /// Takes over what was changed through mappings of a file.
    pub(super) fn take_mapped(&self, handle: &Handle) -> Result<()> {
        Ok(self.client.take_mapped(&handle.file)?)
    }

    /// Looks after what is shown, every now and then: what is out of step is written anew, what was changed through mappings is
    /// taken over, and who lingers goes when nobody sees anything of it.
    pub fn tend(&self) {
        let lingering = std::mem::take(&mut *self.doors.lingering.lock());
        let open = self.handles.lock().values().filter(|handle| handle.shown.is_some()).cloned().collect::<Vec<_>>();
        for handle in open.iter().chain(&lingering) {
            let shown = handle.file.inner.read().shown.clone();
            for shown in shown.into_iter().filter(|shown| !shown.is_in_step()) {
                self.client.follow_later(&handle.file, &shown);
            }
            if let Err(error) = self.take_mapped(handle) {
                tracing::warn!("what was changed through a mapping cannot be kept yet: {error}");
            }
        }
        for handle in lingering {
            match self.is_seen_still(&handle) {
                Ok(false) => {
                    if let Err(error) = self.end(&handle) {
                        tracing::warn!("{error}");
                    }
                }
                Ok(true) => self.doors.linger(handle),
                Err(error) => {
                    tracing::warn!("what was changed through a mapping cannot be kept yet: {error}");
                    self.doors.linger(handle);
                }
            }
        }
    }

    /// The end of the mount: what is mapped still is seen no more from here.
    pub(super) fn end_lingering(&self) {
        let lingering = std::mem::take(&mut *self.doors.lingering.lock());
        for handle in lingering {
            if let Err(error) = self.take_mapped(&handle).and_then(|()| self.end(&handle)) {
                tracing::error!("a file that was open at the end cannot be kept: {error}");
            }
        }
    }
}
