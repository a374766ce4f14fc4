//! The client of syncmount: a folder that several machines share, on this one.
//!
//! `engine` (a package of its own) decides; `driver` lets it meet the world; `store`, `remote`, `vfs` and `fuse` are that
//! world: what survives on this machine, the server, what POSIX means here, the kernel. `mount` puts them together.

pub mod background;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod driver;
pub mod files;
pub mod fuse;
pub mod ignore;
pub mod logging;
pub mod login;
pub mod mount;
pub mod mountpoint;
pub mod ports;
pub mod progress;
pub mod remote;
pub mod status;
pub mod store;
pub mod verify_report;
pub mod vfs;
