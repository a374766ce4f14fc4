//! Worlds, models and end-to-end tests of syncmount.

pub mod pairs;
pub mod sim;
pub mod support;
pub mod torture;
