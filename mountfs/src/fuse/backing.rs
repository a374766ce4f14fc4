//! Asking the kernel to show files of the disk by itself: directly where this process may, else through `syncmount-helper` if
//! that is installed.
//!
//! Knows nothing of what is shown to whom. The first refusal that concerns more than one file counts for all: reads go through
//! this program from then on, as everywhere else.

#[cfg(target_os = "linux")]
use super::helper::Helper;
use crate::files::Pass;
use fuser::{BackingId, ReplyCreate, ReplyOpen};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
#[cfg(not(target_os = "linux"))]
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

#[cfg(not(target_os = "linux"))]
use without::Helper;

/// Elsewhere nothing is shown at all.
#[cfg(not(target_os = "linux"))]
mod without {
    use super::{BorrowedFd, File, Path, io};

    pub(super) enum Helper {}

    impl Helper {
        pub(super) fn start(_: BorrowedFd<'_>, _: &Path) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(super) fn show(&self, _: &File) -> io::Result<u32> {
            match *self {}
        }

        pub(super) fn end(&self, _: u32) {
            match *self {}
        }
    }
}

/// The files of one mount that the kernel shows by itself.
pub(super) struct Backings {
    allowed: AtomicBool,
    /// Who asks the kernel in the place of this process.
    helper: OnceLock<Arc<Helper>>,
}

/// The kernel's leave to show one file; it ends when this is dropped.
enum Backing {
    /// Given to this process.
    Own(BackingId),
    /// Given to the helper.
    Lent(u32, Arc<Helper>),
}

impl Drop for Backing {
    fn drop(&mut self) {
        if let Self::Lent(id, helper) = self {
            helper.end(*id);
        }
    }
}

impl Backings {
    pub(super) fn new(allowed: bool) -> Self {
        Self { allowed: AtomicBool::new(allowed), helper: OnceLock::new() }
    }

    /// Starts the helper where this process may not ask the kernel itself. `connection` is the mount's, of which nothing may be
    /// served yet: the helper may lie in a file system that waits for others.
    pub(super) fn begin(&self, connection: impl AsFd, mountpoint: &Path) {
        if !self.is_allowed() || may_ask() {
            return;
        }
        match Helper::start(connection.as_fd(), mountpoint) {
            Ok(helper) => drop(self.helper.set(Arc::new(helper))),
            Err(error) => self.refused(&error),
        }
    }

    pub(super) fn is_allowed(&self) -> bool {
        self.allowed.load(Ordering::Relaxed)
    }

    pub(super) fn forbid(&self) {
        self.allowed.store(false, Ordering::Relaxed);
    }

    /// Asks for leave to show `file`; `directly` asks the kernel. `None` if it is to be read through this program.
    pub(super) fn register(&self, file: &File, directly: impl FnOnce() -> io::Result<BackingId>) -> Option<Pass> {
        match self.ask(file, directly) {
            Ok(backing) => Some(Arc::new(backing)),
            // As many are shown as can be.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) => None,
            Err(error) => {
                self.refused(&error);
                None
            }
        }
    }

    fn ask(&self, file: &File, directly: impl FnOnce() -> io::Result<BackingId>) -> io::Result<Backing> {
        match self.helper.get() {
            None => directly().map(Backing::Own),
            Some(helper) => Ok(Backing::Lent(helper.show(file)?, helper.clone())),
        }
    }

    fn refused(&self, error: &io::Error) {
        self.forbid();
        tracing::info!("files that are whole in the cache are read through this program: {error}");
    }
}

/// Whether the kernel listens to this process itself.
fn may_ask() -> bool {
    #[cfg(target_os = "linux")]
    let may = rustix::thread::capabilities(None)
        .is_ok_and(|rights| rights.effective.contains(rustix::thread::CapabilitySet::SYS_ADMIN));
    #[cfg(not(target_os = "linux"))]
    let may = false;
    may
}

/// An answer that takes an id.
pub(super) trait Wraps {
    /// An id that was lent, in the form that the answer takes.
    fn wrap(&self, id: u32) -> BackingId;
}

impl Wraps for ReplyOpen {
    fn wrap(&self, id: u32) -> BackingId {
        // SAFETY: the helper ends the id when the backing is dropped, which whoever answers holds.
        unsafe { self.wrap_backing(id) }
    }
}

impl Wraps for ReplyCreate {
    fn wrap(&self, id: u32) -> BackingId {
        // SAFETY: as above.
        unsafe { self.wrap_backing(id) }
    }
}

/// An id as an answer to the kernel takes it. One that was lent is not ended with it: only the helper may do that.
pub(super) enum Id<'a> {
    Own(&'a BackingId),
    Lent(Option<BackingId>),
}

impl<'a> Id<'a> {
    /// The id of a pass for `answer`; `None` if it is none of ours.
    pub(super) fn of(pass: &'a Pass, answer: &impl Wraps) -> Option<Self> {
        Some(match pass.downcast_ref()? {
            Backing::Own(id) => Self::Own(id),
            Backing::Lent(id, _) => Self::Lent(Some(answer.wrap(*id))),
        })
    }

    pub(super) fn get(&self) -> Option<&BackingId> {
        match self {
            Self::Own(id) => Some(id),
            Self::Lent(id) => id.as_ref(),
        }
    }
}

impl Drop for Id<'_> {
    fn drop(&mut self) {
        if let Self::Lent(id) = self
            && let Some(id) = id.take()
        {
            id.into_raw();
        }
    }
}
