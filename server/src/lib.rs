//! The syncmount server: holds shared folders and serves them over HTTP.
//!
//! `api` translates HTTP, `service` has the rules, `meta` and `blob` keep what must survive, `wake` tells held polls of
//! changes, `descriptors` bounds open files, `cli` is the program's command line. Everything can be used as a library:
//! [`Server`] for a whole server in this process, [`Service`] for one without sockets.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

pub mod api;
pub mod blob;
pub mod cli;
pub mod config;
pub mod confine;
pub mod data;
pub mod descriptors;
pub mod meta;
mod private;
pub mod server;
pub mod service;
pub mod wake;

pub use config::{Config, HoldRule, Limits};
pub use server::{Running, Server, ServerError};
pub use service::{Environment, Service};

/// The folder that every new server has.
pub const FIRST_FOLDER: &str = "default";
