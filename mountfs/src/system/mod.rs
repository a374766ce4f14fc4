//! What the client asks of the operating system and what differs between Linux, macOS and Windows, or is missing in `std`.
//!
//! The only place that knows which system it is, beside mounting ([`crate::mountpoint`]) and the control channel. Promises
//! the same meaning everywhere, or says in its documentation what is weaker where. Must not know what the files are for.

pub(crate) mod alone;
pub(crate) mod at;
pub(crate) mod boot;
pub(crate) mod durable;
pub(crate) mod files;
pub(crate) mod holes;
pub(crate) mod private;
pub mod signals;
#[cfg(windows)]
pub(crate) mod windows;

/// The calling thread works in the background from now on: where processors are short, those for which somebody waits go
/// first. Does nothing where only whole processes have a priority.
#[cfg(all(feature = "mount", unix))]
pub(crate) fn give_way() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(10) {
        tracing::debug!("a background thread keeps its priority: {error}");
    }
}

/// Gives memory that this process does not use any more back to the system, where it keeps that for itself otherwise.
pub(crate) fn give_back_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it concerns only what has been freed.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    #[cfg(unix)]
    let is_root = rustix::process::geteuid().is_root();
    #[cfg(windows)]
    let is_root = false;
    is_root
}

/// What this machine calls itself; empty if it does not say.
pub(crate) fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(windows)]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    name
}
