//! The server's tests: the service over every kind of store, the API over real sockets, the real binary.
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod chunks;
mod client;
mod commit;
mod differences;
mod feed;
mod files;
mod history;
mod holds;
mod hostile;
mod negotiation;
#[cfg(unix)]
mod process;
mod scrub;
mod sessions;
mod store;
mod support;
mod undo;
