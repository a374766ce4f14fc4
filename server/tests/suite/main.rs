//! The server's tests: the service over every kind of store, the API over real sockets, the real binary.
#![allow(unreachable_pub, reason = "modules of one test binary")]

mod any_commit;
#[cfg(target_os = "linux")]
mod attacks;
mod chunks;
mod client;
mod commit;
#[cfg(target_os = "linux")]
mod confined;
mod copies;
#[cfg(target_os = "linux")]
mod crowds;
mod differences;
mod feed;
mod files;
mod folders;
mod history;
mod holds;
mod hostile;
#[cfg(target_os = "linux")]
mod liar;
mod losses;
mod negotiation;
mod owners;
#[cfg(unix)]
mod process;
mod program;
mod room;
mod scrub;
mod sessions;
mod store;
mod support;
mod times;
mod tokens;
mod undo;
#[cfg(unix)]
mod upgrade;
mod whole;
