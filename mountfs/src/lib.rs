//! The client of syncmount: a folder that several machines share, on this one.
//!
//! `engine` (a package of its own) decides; `driver` lets it meet the world; `store`, `remote`, `vfs` and `fuse` are that
//! world: what survives on this machine, the server, what POSIX means here, the kernel. `mount` puts them together; it and `fuse`
//! are there with the feature `mount`, on systems with FUSE. `system` knows which system this is.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(unix)]
pub mod background;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod driver;
pub mod files;
#[cfg(all(feature = "mount", unix))]
pub mod fuse;
pub mod ignore;
mod join;
pub mod logging;
pub mod login;
#[cfg(all(feature = "mount", unix))]
pub mod mount;
pub mod mountpoint;
pub mod ports;
pub mod progress;
pub mod ready;
pub mod remembered;
pub mod remote;
pub mod service;
pub mod status;
pub mod store;
pub mod system;
pub mod terminal;
pub mod verify_report;
pub mod vfs;
mod wall;
pub mod watch;
