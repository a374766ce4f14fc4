//! The sync engine: what the folder looks like here, what the server was told, and what follows from the difference.
//!
//! Sans-IO: facts come in through method calls, each with the time it happened; what is to be done comes out of
//! [`Engine::poll`] and [`Engine::take_record`]. No thread, socket, file or clock is used here, so a simulation can drive
//! whole worlds of engines from one seed.
//!
//! Observations are kept, work is derived: a node carries what the user sees (`local`) and what both sides last agreed on
//! (`synced`); whatever differs is work. There is no queue of operations that could disagree with the tree.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod backoff;
mod batch;
mod conflict;
mod copies;
mod device;
mod engine;
mod feed;
mod held;
mod local;
mod news;
mod observed;
mod output;
mod owners;
mod reconcile;
#[cfg(test)]
mod rig;
mod scope;
mod soundness;
mod state;
mod times;
mod tree;

pub use batch::INLINE_FILE_MAX;
pub use conflict::conflict_name;
pub use copies::COPIES_MAX;
pub use engine::{Engine, Identity, Pending, Restored};
pub use local::{DraftUpdate, Expected, Refusal, RenameMode, Renamed};
pub use observed::{Observation, Taken};
pub use output::{Changed, CommitAnswer, Effect, Position, PrepareAnswer, Record};
pub use owners::OwnerHere;
pub use reconcile::{Copy, Facts, Kept, Merged, merge};
pub use scope::{RULES_NAME, Rules, Scope};
pub use soundness::{Fault, Unsound};
pub use state::{Body, Draft, FileBody, Names, Row, RowSynced, State};
pub use tree::{Entry, Synced};
