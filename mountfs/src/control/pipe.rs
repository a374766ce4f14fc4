//! The channel on Windows: a named pipe per start, which only the same user may open. Where a socket would be lies a file with
//! the pipe's name, which nobody can guess: names of pipes belong to whoever takes them first.

use crate::system::files::patiently;
use crate::system::private::private;
use crate::system::windows::{self, Access};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use tokio::runtime::Handle;

/// One side of a connection, as the mount sees it.
pub(super) type ServerStream = NamedPipeServer;
/// One side of a connection, as a command sees it.
pub(super) type ClientStream = NamedPipeClient;

const NAME_BEGIN: &str = r"\\.\pipe\syncmount-";
const NAME_LEN_MAX: u64 = 128;

fn random_name() -> io::Result<String> {
    let random = [getrandom::u64(), getrandom::u64()];
    let [a, b] = random.map(|random| random.map_err(|error| io::Error::other(error.to_string())));
    Ok(format!("{NAME_BEGIN}{:016x}{:016x}", a?, b?))
}

fn name_at(path: &Path) -> io::Result<OsString> {
    let mut name = String::new();
    patiently(|| File::open(path))?.take(NAME_LEN_MAX).read_to_string(&mut name)?;
    if name.starts_with(NAME_BEGIN) { Ok(name.into()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Where channels can be if no better directory is to be had.
pub(super) fn last_resort() -> Option<PathBuf> {
    None
}

/// Whether `path` can name a channel.
pub(super) fn fits(_: &Path) -> bool {
    true
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
        let name = random_name()?;
        let mut listener = Self { name: name.clone().into(), access: Access::only_user()?, next: None };
        listener.next = Some(listener.make(true)?);
        private(File::options().write(true).create_new(true)).open(path)?.write_all(name.as_bytes())?;
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
    ClientOptions::new().open(name_at(path)?)
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
