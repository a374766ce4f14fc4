//! The channel on Windows: a named pipe per mount, which only the same user may open. Its name stands for the path at which
//! a socket would be, and that lies in a directory of the user's own.

use crate::config::short_hash;
use crate::system::windows::{self, Access};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use tokio::runtime::Handle;

/// One side of a connection, as the mount sees it.
pub(super) type ServerStream = NamedPipeServer;
/// One side of a connection, as a command sees it.
pub(super) type ClientStream = NamedPipeClient;

fn name_of(path: &Path) -> OsString {
    format!(r"\\.\pipe\syncmount-{}", short_hash(path.as_os_str().as_encoded_bytes())).into()
}

/// Where channels can be if no better directory is to be had.
pub(super) fn last_resort() -> Option<PathBuf> {
    None
}

/// Whether `path` can name a channel.
pub(super) fn fits(_: &Path) -> bool {
    true
}

/// The channels in a directory, those of dead processes too: a pipe leaves nothing behind, but its lock file does.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let paths = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()?;
    let locks = paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "lock"));
    Ok(locks.map(|path| path.with_extension("sock")).collect())
}

/// Takes connections.
pub(super) struct Listener {
    name: OsString,
    access: Access,
    /// What the next client connects to; made before it comes, or it would find nothing.
    next: Option<NamedPipeServer>,
}

impl Listener {
    pub(super) fn bind(runtime: &Handle, path: &Path) -> io::Result<Self> {
        let _guard = runtime.enter();
        let mut listener = Self { name: name_of(path), access: Access::only_user()?, next: None };
        // The first: if somebody else has made a pipe of this name, this is an error.
        listener.next = Some(listener.make(true)?);
        Ok(listener)
    }

    fn make(&self, first: bool) -> io::Result<NamedPipeServer> {
        let mut options = ServerOptions::new();
        options.first_pipe_instance(first).reject_remote_clients(true);
        let attributes = self.access.attributes().cast_mut().cast();
        // SAFETY: the attributes are those of a live `Access`, and the call only reads them.
        unsafe { options.create_with_security_attributes_raw(&self.name, attributes) }
    }

    pub(super) async fn accept(&mut self) -> io::Result<ServerStream> {
        let server = match self.next.take() {
            Some(server) => server,
            None => self.make(false)?,
        };
        server.connect().await?;
        // Should it fail, the next call tries again and tells.
        self.next = self.make(false).ok();
        Ok(server)
    }
}

/// An error unless the same user is at the other end: nobody else can open the pipe.
pub(super) fn refuse_others(_: &ServerStream) -> io::Result<()> {
    Ok(())
}

pub(super) async fn connect(path: &Path) -> io::Result<ClientStream> {
    ClientOptions::new().open(name_of(path))
}

/// The process at the other end. Taken while connected, so that it cannot be another one.
#[derive(Debug)]
pub(super) struct Process(windows::Process);

impl Process {
    pub(super) fn serving(stream: &ClientStream) -> Option<Self> {
        windows::Process::serving(stream).ok().map(Self)
    }

    /// Waits until it has ended.
    pub(super) async fn ended(self) -> io::Result<()> {
        while !self.0.has_ended() {
            tokio::time::sleep(super::DRAIN_INTERVAL).await;
        }
        Ok(())
    }
}
