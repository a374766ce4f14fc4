//! What survives a crash on this machine: the state of the sync, the user's unsent bytes, and a cache of everybody's.
//!
//! - [`State`]: rows and settings, in a journal and SQLite behind it. Small, precious, never lost.
//! - [`StagingDir`]: files with bytes that nobody else has yet. Precious.
//! - [`Cache`]: contents that the server has. Bounded, may be lost at any time, never wrong.
//!
//! Nothing here knows nodes, trees or the network.

mod cache;
mod db;
mod disk;
mod journal;
mod ranges;
mod session;
mod staging;
mod state;

pub use cache::{Cache, Claim, Entry, Verified};
pub use db::RowChange;
pub use ranges::RangeSet;
pub use staging::{Lost, STAGING_ID_MAX, Staged, StagingDir};
pub use state::{Loaded, Record, State, StateError};
