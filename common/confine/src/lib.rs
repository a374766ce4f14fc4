//! The wall around a process: which files, ports and system calls it can reach from now on.
//!
//! Owns the rules of the kernel (Landlock for files and ports, seccomp for system calls) and says which of them hold. Must not
//! know which paths a client or a server needs: its caller names them. The wall is a second one. Nothing may rely on it, since
//! older kernels and other systems have only a part of it or none.

#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::fmt;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
mod calls;
#[cfg(target_os = "linux")]
mod files;

/// What a process needs. Everything else is out of its reach.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Wall {
    /// Directories and files that it reads. Paths that do not exist are left out.
    pub readable: Vec<PathBuf>,
    /// Directories and files in which it may do everything but run programs. Paths that do not exist are left out.
    pub writable: Vec<PathBuf>,
    /// The TCP ports it may listen on.
    pub ports: Vec<u16>,
    /// Whether it may connect to other hosts.
    pub connects: bool,
}

/// Which parts of a [`Wall`] the system holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Other files cannot be opened, made, renamed or removed.
    pub files: bool,
    /// Other ports cannot be used.
    pub ports: bool,
    /// System calls that run programs or change the system are refused.
    pub calls: bool,
}

/// The wall could not be built although the system has what it needs.
#[derive(Debug, thiserror::Error)]
#[error("this process cannot be confined ({0}); fix that, or turn the confinement off")]
pub struct ConfineError(String);

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [("files", self.files), ("ports", self.ports), ("system calls", self.calls)];
        let held: Vec<&str> = parts.iter().filter(|(_, held)| *held).map(|(name, _)| *name).collect();
        if held.is_empty() { f.write_str("nothing") } else { f.write_str(&held.join(", ")) }
    }
}

impl Wall {
    /// A wall around nothing but what every process reads: name service, certificates, time zone, libraries, its own state.
    pub fn with_system_files() -> Self {
        const SYSTEM: [&str; 14] = [
            "/etc",
            "/usr",
            "/lib",
            "/lib64",
            "/nix/store",
            "/proc",
            "/sys/devices/system",
            "/sys/fs/cgroup",
            "/run/systemd/resolve",
            "/run/NetworkManager",
            "/run/resolvconf",
            "/dev/null",
            "/dev/random",
            "/dev/urandom",
        ];
        Self { readable: SYSTEM.map(PathBuf::from).to_vec(), ..Self::default() }
    }

    /// Adds the directory in which SQLite makes its temporary files, as it looks for it itself.
    #[must_use]
    pub fn with_temporary_files(mut self) -> Self {
        let named = ["SQLITE_TMPDIR", "TMPDIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
        let usual = ["/var/tmp", "/usr/tmp", "/tmp"].into_iter().map(PathBuf::from);
        self.writable.extend(named.chain(usual).find(|dir| dir.is_dir()));
        self
    }

    /// Adds a directory to read and write in.
    #[must_use]
    pub fn writing(mut self, path: impl Into<PathBuf>) -> Self {
        self.writable.push(path.into());
        self
    }

    /// Adds a directory or file to read.
    #[must_use]
    pub fn reading(mut self, path: impl Into<PathBuf>) -> Self {
        self.readable.push(path.into());
        self
    }

    /// Confines the calling thread and all that it starts later. There is no way back. Call it before other threads are there: those
    /// are not confined.
    ///
    /// # Errors
    /// The kernel has the means and refuses the rules. A kernel without the means is no error: see [`Held`].
    #[cfg(target_os = "linux")]
    pub fn enter(&self) -> Result<Held, ConfineError> {
        let (files, ports) = files::confine(self).map_err(|error| ConfineError(error.to_string()))?;
        let calls = calls::confine().map_err(|error| ConfineError(error.to_string()))?;
        Ok(Held { files, ports, calls })
    }

    /// The same where the system has nothing of it.
    ///
    /// # Errors
    /// None.
    #[cfg(not(target_os = "linux"))]
    pub fn enter(&self) -> Result<Held, ConfineError> {
        Ok(Held::default())
    }
}
