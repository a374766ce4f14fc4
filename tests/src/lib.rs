//! Worlds, models and end-to-end tests of syncmount.

pub mod astray;
pub mod bench;
pub mod follow;
pub mod fuzzed;
pub mod hinted;
pub mod liars;
pub mod pairs;
mod pairs_folder;
pub mod sim;
pub mod support;
pub mod torture;
