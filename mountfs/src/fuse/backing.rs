//! Asking the kernel to show files of the disk by itself: directly where this process may, else through `syncmount-helper` if
//! that is installed.
//!
//! Knows nothing of what is shown to whom. The first refusal that concerns more than one file counts for all: reads go through
//! this program from then on, as everywhere else.

#[cfg(target_os = "linux")]
use super::helper::Helper;
use crate::files::Pass;
use fuser::{BackingId, ReplyCreate, ReplyOpen};
use parking_lot::Mutex;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(not(target_os = "linux"))]
use without::Helper;

/// Elsewhere nothing is shown at all.
#[cfg(not(target_os = "linux"))]
mod without {
    use super::{File, OwnedFd, io};

    pub(super) enum Helper {}

    impl Helper {
        pub(super) fn start(_: &OwnedFd) -> io::Result<Self> {
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
    /// The connection to the kernel, once there is one.
    connection: Mutex<Option<OwnedFd>>,
    helper: Mutex<Option<Arc<Helper>>>,
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
        Self { allowed: AtomicBool::new(allowed), connection: Mutex::default(), helper: Mutex::default() }
    }

    /// The mount's connection to the kernel, for the helper.
    pub(super) fn connect(&self, connection: impl AsFd) -> io::Result<()> {
        *self.connection.lock() = Some(connection.as_fd().try_clone_to_owned()?);
        Ok(())
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
                self.forbid();
                tracing::info!("files that are whole in the cache are read through this program: {error}");
                None
            }
        }
    }

    fn ask(&self, file: &File, directly: impl FnOnce() -> io::Result<BackingId>) -> io::Result<Backing> {
        let mut started = self.helper.lock();
        if started.is_none() {
            match directly() {
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
                answer => return answer.map(Backing::Own),
            }
            let connection = self.connection.lock();
            *started = Some(Arc::new(Helper::start(connection.as_ref().ok_or(io::ErrorKind::NotConnected)?)?));
        }
        let helper = started.clone().ok_or(io::ErrorKind::NotConnected)?;
        drop(started);
        Ok(Backing::Lent(helper.show(file)?, helper))
    }
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
