//! `syncmount-helper`, which makes for an ordinary user's mount the two calls that only root may make.
//!
//! Where it is, how it is started, and what is asked of it. Whatever goes wrong with it is an error for one caller and the end
//! of the helper, and never a long wait: what it had shown stays so until the end of the mount.

use parking_lot::Mutex;
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use syncmount_helper::wire::{self, Answer, Request};

const NAME: &str = "syncmount-helper";

/// Where it may be, beside the directory of this program.
const PLACES: [&str; 4] = ["/usr/local/libexec", "/usr/local/lib/syncmount", "/usr/libexec", "/usr/lib/syncmount"];

/// How long an answer is waited for, which takes some microseconds.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often it is looked whether it has ended, a millisecond apart, before it is killed.
const LOOKS_AT_THE_END: u32 = 500;

/// A helper that runs, or that did.
pub(super) struct Helper(Mutex<Option<Running>>);

struct Running {
    /// `None` from the begin of the end.
    socket: Option<OwnedFd>,
    child: Child,
}

impl Helper {
    /// Starts it for the mount at `mountpoint` of this connection to the kernel.
    pub(super) fn start(connection: BorrowedFd<'_>, mountpoint: &Path) -> io::Result<Self> {
        let program = find(mountpoint).ok_or_else(|| {
            io::Error::new(io::ErrorKind::PermissionDenied, "only root may, or an installed syncmount-helper")
        })?;
        let (here, there) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        for direction in [Timeout::Recv, Timeout::Send] {
            sockopt::set_socket_timeout(&here, direction, Some(PATIENCE))?;
        }
        // A process group of its own: it is not for it that somebody presses Ctrl-C.
        let child = Command::new(&program).stdin(there).stdout(Stdio::null()).env_clear().process_group(0).spawn()?;
        let helper = Self(Mutex::new(Some(Running { socket: Some(here), child })));
        helper.ask(Request::Connection, Some(connection))?;
        tracing::debug!("{} shows files", program.display());
        Ok(helper)
    }

    /// Makes the kernel show `file`; the id of that.
    pub(super) fn show(&self, file: &File) -> io::Result<u32> {
        self.ask(Request::Show, Some(file.as_fd()))
    }

    /// Ends what was shown under an id.
    pub(super) fn end(&self, id: u32) {
        if let Err(error) = self.ask(Request::End(id), None) {
            tracing::debug!("the kernel goes on to show a file: {error}");
        }
    }

    fn ask(&self, request: Request, with: Option<BorrowedFd<'_>>) -> io::Result<u32> {
        let mut running = self.0.lock();
        let socket = running.as_ref().and_then(|running| running.socket.as_ref());
        let socket = socket.ok_or_else(|| io::Error::new(io::ErrorKind::NotConnected, format!("{NAME} has ended")))?;
        match exchange(socket, request, with) {
            Ok(answer) => Ok(answer?),
            Err(error) => {
                // Later answers would belong to earlier questions.
                if let Some(running) = running.take() {
                    give_up(running);
                }
                Err(io::Error::new(error.kind(), format!("{NAME}: {error}")))
            }
        }
    }
}

fn exchange(socket: &OwnedFd, request: Request, with: Option<BorrowedFd<'_>>) -> io::Result<Answer> {
    wire::send(socket, request.encode(), with)?;
    let (message, _) = wire::receive(socket)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    wire::decode_answer(&message).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Nobody waits for the end of one that has not answered in time.
fn give_up(mut running: Running) {
    if let Err(error) = running.child.kill() {
        tracing::debug!("{NAME} cannot be ended: {error}");
    }
    if let Err(error) = std::thread::Builder::new().name("helper".into()).spawn(move || drop(running)) {
        tracing::debug!("{NAME} is left to itself: {error}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // This tells it to end.
        self.socket = None;
        for _ in 0..LOOKS_AT_THE_END {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::warn!("{NAME} does not end: {error}");
        }
    }
}

/// The helper that is installed so that it can help. Nothing below `mountpoint` is asked for: nobody would answer yet.
fn find(mountpoint: &Path) -> Option<PathBuf> {
    let own = std::env::current_exe().ok().and_then(|program| Some(program.parent()?.to_path_buf()));
    own.into_iter()
        .chain(PLACES.map(PathBuf::from))
        .map(|dir| dir.join(NAME))
        .find(|path| !path.starts_with(mountpoint) && can_help(path))
}

/// Whether the program at `path` is root's, setuid, and nobody else's to change.
fn can_help(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| {
        found.is_file() && found.uid() == 0 && found.mode() & 0o4000 != 0 && found.mode() & 0o022 == 0
    })
}
