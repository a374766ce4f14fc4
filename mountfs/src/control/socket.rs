//! The channel where there are unix sockets: a socket per mount, in a directory of the user's own.

use rustix::process::Pid;
use std::fs;
use std::io;
#[cfg(feature = "mount")]
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
#[cfg(feature = "mount")]
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;

/// An address of a unix socket holds 108 bytes (macOS: 104), the last of them NUL.
const SOCKET_PATH_LEN_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// One side of a connection, as the mount sees it.
pub(super) type ServerStream = UnixStream;
/// One side of a connection, as a command sees it.
pub(super) type ClientStream = UnixStream;

/// Where channels can be if no better directory is to be had.
pub(super) fn last_resort() -> Option<PathBuf> {
    Some(PathBuf::from(format!("/tmp/syncmount-{}", rustix::process::geteuid().as_raw())))
}

/// Whether `path` can name a channel.
pub(super) fn fits(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_LEN_MAX
}

/// Takes connections.
pub(super) struct Listener(UnixListener);

impl Listener {
    pub(super) fn bind(runtime: &Handle, path: &Path) -> io::Result<Self> {
        let _guard = runtime.enter();
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self(listener))
    }

    pub(super) async fn accept(&mut self) -> io::Result<ServerStream> {
        self.0.accept().await.map(|(stream, _)| stream)
    }
}

/// An error unless the same user, or root, is at the other end.
pub(super) fn refuse_others(stream: &ServerStream) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != rustix::process::geteuid().as_raw() {
        return Err(io::Error::other(format!("refused user {peer}")));
    }
    Ok(())
}

pub(super) async fn connect(path: &Path) -> io::Result<ClientStream> {
    UnixStream::connect(path).await
}

/// Whether somebody answers `request`, one line, within `limit`.
#[cfg(feature = "mount")]
pub(super) fn answers(path: &Path, request: &[u8], limit: Duration) -> io::Result<bool> {
    let mut stream = std::os::unix::net::UnixStream::connect(path)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    stream.write_all(request)?;
    Ok(stream.read(&mut [0])? > 0)
}

/// The process at the other end. Taken while connected, so that it cannot be another one.
#[derive(Debug)]
pub(super) struct Process(Watched);

#[cfg(target_os = "linux")]
type Watched = tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>;
#[cfg(not(target_os = "linux"))]
type Watched = Pid;

impl Process {
    pub(super) fn serving(stream: &ClientStream) -> Option<Self> {
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid()).and_then(Pid::from_raw)?;
        Self::watch(pid)
    }

    #[cfg(target_os = "linux")]
    fn watch(pid: Pid) -> Option<Self> {
        use rustix::process::{PidfdFlags, pidfd_open};
        use tokio::io::{Interest, unix::AsyncFd};
        let fd = pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
        // SAFETY: an OwnedFd keeps the same descriptor open for as long as it lives, and the AsyncFd owns it.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok().map(Self)
    }

    #[cfg(not(target_os = "linux"))]
    fn watch(pid: Pid) -> Option<Self> {
        Some(Self(pid))
    }

    /// Waits until it has ended.
    #[cfg(target_os = "linux")]
    pub(super) async fn ended(self) -> io::Result<()> {
        self.0.readable().await.map(|_| ())
    }

    /// Waits until it has ended.
    #[cfg(not(target_os = "linux"))]
    pub(super) async fn ended(self) -> io::Result<()> {
        while rustix::process::test_kill_process(self.0) != Err(rustix::io::Errno::SRCH) {
            tokio::time::sleep(super::DRAIN_INTERVAL).await;
        }
        Ok(())
    }
}
