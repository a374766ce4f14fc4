//! File descriptors: as many as the system allows, and some kept for the stores.

/// Descriptors that are kept for the database, packs, the log and what else the process opens: 9 connections to the database
/// have two each, 32 packs are read at a time, and files that the allowance for a process starts with.
const RESERVED: usize = 96;

/// A server takes at least so many connections, whatever the limit is.
const CONNECTIONS_MIN: usize = 16;

/// More are never asked for: each costs memory in some kernels.
#[cfg(unix)]
const WANTED_MAX: u64 = 1 << 20;

/// Raises the limit of this process as far as it may.
#[cfg(unix)]
pub fn raise() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(WANTED_MAX).min(WANTED_MAX);
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    limit.current = Some(wanted);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit on open files cannot be raised");
    }
}

/// There is no such limit here.
#[cfg(not(unix))]
pub fn raise() {}

/// How many connections leave room for the stores.
#[cfg(unix)]
pub fn connections_max() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit
        .map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
        .saturating_sub(RESERVED)
        .max(CONNECTIONS_MIN)
}

/// How many connections leave room for the stores: any number.
#[cfg(not(unix))]
pub fn connections_max() -> usize {
    usize::MAX.saturating_sub(RESERVED).max(CONNECTIONS_MIN)
}
