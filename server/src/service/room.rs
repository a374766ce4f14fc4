//! Room on the server's disk. A full disk must not be a dead end: what gives room back (removals), and what needs hardly any
//! (renames, small files), always finds some.
//!
//! Bodies are refused while the disk has less free than a reserve; what goes into the database and not into a pack may use half
//! of that. A file of its own, the ballast, is given up once if other programs have filled the disk nevertheless.

use super::{Result, Service, ServiceError};
use parking_lot::Mutex;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The reserve if none is chosen, in bytes.
pub const RESERVE_DEFAULT: u64 = 64 << 20;

const BALLAST: &str = "ballast";

/// The size of the ballast, in bytes.
const BALLAST_LEN: u64 = 16 << 20;

/// With less than this free the ballast is given up, in bytes.
const LAST_BYTES: u64 = 4 << 20;

/// The disk is looked at again after so long …
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// … or after so many bytes.
const LOOK_BYTES: u64 = 16 << 20;

/// What is going to be stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// A pack.
    Pack,
    /// The database.
    Rows,
}

/// The disk of one data directory, if there is one.
pub(super) struct Room {
    directory: Option<PathBuf>,
    state: Mutex<State>,
}

struct State {
    reserve: u64,
    /// When the disk was looked at, and how many bytes may be stored until it is looked at again.
    looked: Option<(Instant, u64)>,
}

impl Room {
    pub(super) fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, state: Mutex::new(State { reserve: RESERVE_DEFAULT, looked: None }) }
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.directory.as_deref().and_then(free_bytes)
    }

    /// An error if storing so many bytes would leave less than the reserve.
    fn require(&self, bytes: u64, place: Place) -> Result<()> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let mut state = self.state.lock();
        let kept = if place == Place::Pack { state.reserve } else { state.reserve / 2 };
        if place == Place::Pack
            && let Some((at, left)) = &mut state.looked
            && at.elapsed() < LOOK_EVERY
            && let Some(less) = left.checked_sub(bytes)
        {
            *left = less;
            return Ok(());
        }
        // A disk that does not say how full it is shows it by an error when it is.
        let Some(free) = free_bytes(directory) else { return Ok(()) };
        if free < LAST_BYTES {
            give_up_ballast(directory);
        }
        let Some(left) = free.checked_sub(kept).and_then(|left| left.checked_sub(bytes)) else {
            state.looked = None;
            return Err(ServiceError::NoRoom { kept });
        };
        if place == Place::Pack {
            state.looked = Some((Instant::now(), left.min(LOOK_BYTES)));
        }
        Ok(())
    }
}

impl Service {
    /// Keeps so many bytes of the disk free of bodies.
    pub fn set_reserve(&self, bytes: u64) {
        *self.0.room.state.lock() = State { reserve: bytes, looked: None };
    }

    /// Lays the ballast down, if it is not there and the disk has plenty of room. Blocks.
    pub fn lay_ballast(&self) -> io::Result<()> {
        let Some(directory) = &self.0.room.directory else { return Ok(()) };
        let path = directory.join(BALLAST);
        let reserve = self.0.room.state.lock().reserve;
        if path.exists() || free_bytes(directory).is_none_or(|free| free < 2 * (reserve + BALLAST_LEN)) {
            return Ok(());
        }
        let laid = write_ballast(&path);
        if laid.is_err() {
            // What there is of it is no use to anything.
            fs::remove_file(&path)?;
        }
        laid
    }

    /// An error if so many bytes more would leave the disk without its reserve.
    pub(super) fn require_room(&self, bytes: u64, place: Place) -> Result<()> {
        self.0.room.require(bytes, place)
    }

    /// A transaction has found the disk full.
    pub(super) fn disk_is_full(&self) {
        if let Some(directory) = &self.0.room.directory {
            give_up_ballast(directory);
        }
    }
}

fn write_ballast(path: &Path) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    let block = vec![0x5a; 1 << 20];
    for _ in 0..BALLAST_LEN / block.len() as u64 {
        file.write_all(&block)?;
    }
    file.sync_all()
}

fn give_up_ballast(directory: &Path) {
    match fs::remove_file(directory.join(BALLAST)) {
        Ok(()) => tracing::error!(
            "the disk is full: the {} MiB that were kept for this moment are given up, so that what is removed can be \
             removed; make room on the disk",
            BALLAST_LEN >> 20
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::error!(%error, "the disk is full, and what was kept for this moment cannot be given up"),
    }
}

#[cfg(unix)]
fn free_bytes(directory: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(not(unix))]
fn free_bytes(_directory: &Path) -> Option<u64> {
    None
}
