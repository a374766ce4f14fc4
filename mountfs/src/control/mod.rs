//! The way to talk to a mount that is running: a unix socket per mount (on Windows a named pipe), one line of JSON each way.
//!
//! Owns where sockets are and who may speak to them. A lock file beside the socket is held as long as the process lives,
//! so a socket of a process that was killed is recognised without guessing, and two processes never serve one mount
//! point. Lines are bounded, every wait has an end, and only the same user (or root) is answered. Knows nothing of what
//! a mount does: that is the [`ControlHandler`].
//!
//! Requests: `{"request":"status"}`, `{"request":"drain","timeout_ms":5000}`, `{"request":"stop","force":false}`,
//! `{"request":"verify_cache"}`, `{"request":"pin","ino":7,"keep":true}`, `{"request":"pins"}`,
//! `{"request":"accept","path":"a/b"}`.
//! Replies: `{"reply":"status",…}`; for `drain` any number of `{"reply":"progress",…}`, then `drained` or `timed_out`, all
//! with the fields of [`Status`]; for `stop` `{"reply":"stopping"}`; for `verify_cache` any number of
//! `{"reply":"verifying",…}`, then `verified`, with the fields of [`VerifyReport`]; for `pin` `{"reply":"pinned"}`, for `pins`
//! `{"reply":"pins","pins":[…]}`, for `accept` `{"reply":"accepted"}`; and `{"reply":"error","message":"…"}`.

#[cfg(windows)]
mod pipe;
#[cfg(unix)]
mod socket;

#[cfg(windows)]
use pipe as channel;
#[cfg(unix)]
use socket as channel;

use crate::config::{Dirs, StartError, create_private_dir, short_hash};
use crate::status::{Pin, Status};
use crate::system::files::{is_at, patiently, remove_if_there};
use crate::system::private::{is_private_dir, no_follow, private};
use crate::verify_report::VerifyReport;
use channel::{ClientStream, Listener, Process, ServerStream};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const REQUEST_LEN_MAX: u64 = 4 << 10;
const REPLY_LEN_MAX: u64 = 8 << 20;
const CONNECTIONS_MAX: usize = 64;
/// How long a peer may take for one line.
const LINE_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at what is pending.
const DRAIN_INTERVAL: Duration = Duration::from_millis(50);
/// The longest silence of a drain.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Between two words about a check of the cache.
const VERIFY_INTERVAL: Duration = Duration::from_millis(200);
/// Unmounting can wait for the disk.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// Between taking the lock and listening a process may need this long.
const LISTEN_TIMEOUT: Duration = Duration::from_secs(5);

/// What a mount can be asked for. Called from the runtime's threads.
pub trait ControlHandler: Send + Sync + 'static {
    /// How it is. Must not wait for the network or the disk.
    fn status(&self) -> Status;
    /// Somebody begins to wait for everything to be sent that was done up to now: hurry, and show it as the phase. Called for
    /// each who waits.
    fn begin_drain(&self);
    /// Nobody waits any more.
    fn end_drain(&self);
    /// Unmounts, and lets the process end in order soon after; may take a while. With `force` even if files are open.
    /// If the mount has gone already, only the process ends. An error is one sentence for the user, and then everything
    /// goes on as before.
    fn stop(&self, force: bool) -> Result<(), String>;
    /// Reads everything in the cache and drops what is damaged; takes as long as reading the disk. `progress` is told how it
    /// goes and answers whether to go on. An error is one sentence for the user.
    fn verify_cache(&self, progress: &mut dyn FnMut(VerifyReport) -> bool) -> Result<VerifyReport, String>;
    /// Pins what has this inode number, or unpins it: durable when it returns. An error is one sentence for the user.
    fn pin(&self, ino: u64, keep: bool) -> Result<(), String>;
    /// What is pinned. Must not wait for the network or the disk.
    fn pins(&self) -> Vec<Pin>;
    /// What lies at this path below the root is right, whatever was there before. May wait for the disk. An error is one sentence
    /// for the user.
    fn accept(&self, _path: PathBuf) -> Result<(), String> {
        Err("this is a mount, in which nothing lies on a disk that could have been unmounted".into())
    }
}

/// A request, one line of JSON.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// [`ControlHandler::status`].
    Status,
    /// Wait until everything is sent.
    Drain {
        /// The longest wait in milliseconds; absent: no limit.
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// [`ControlHandler::stop`].
    Stop {
        /// Also if files are open.
        #[serde(default)]
        force: bool,
    },
    /// [`ControlHandler::verify_cache`].
    VerifyCache,
    /// [`ControlHandler::pin`].
    Pin {
        /// The inode number.
        ino: u64,
        /// `true`: pin; `false`: unpin.
        keep: bool,
    },
    /// [`ControlHandler::pins`].
    Pins,
    /// [`ControlHandler::accept`].
    Accept {
        /// The path below the root; empty for the root.
        path: PathBuf,
    },
}

impl Request {
    /// Reads a line without its end.
    ///
    /// # Errors
    /// The line is no request; the text says what is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|error| error.to_string())
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
enum Reply {
    Status(Box<Status>),
    Progress(Box<Status>),
    Drained(Box<Status>),
    TimedOut(Box<Status>),
    Stopping,
    Verifying(VerifyReport),
    Verified(VerifyReport),
    Pinned,
    Pins { pins: Vec<Pin> },
    Accepted,
    Error { message: String },
}

/// The directories in which sockets can be, the preferred first. All are searched, because a mount may have been started
/// where the variable of the runtime directory was not set.
pub fn run_dirs(dirs: &Dirs) -> Vec<PathBuf> {
    dirs.runtime.iter().cloned().chain([dirs.state.join("run")]).chain(channel::last_resort()).collect()
}

fn paths_in(dir: &Path, mountpoint: &Path) -> (PathBuf, PathBuf) {
    let name = short_hash(mountpoint.as_os_str().as_encoded_bytes());
    (dir.join(format!("{name}.sock")), dir.join(format!("{name}.lock")))
}

/// The right to serve one mount point: the lock, and where the socket will be. Given up when dropped.
#[derive(Debug)]
pub struct ControlSocket {
    socket: PathBuf,
    lock_path: PathBuf,
    /// Held for as long as this lives; the kernel gives it up when the process dies in whatever way.
    _lock: File,
}

impl ControlSocket {
    /// Takes the right to serve `mountpoint`, or says that another process has it. Sockets of dead processes are removed.
    pub fn claim(dirs: &Dirs, mountpoint: &Path) -> Result<Self, StartError> {
        if is_served(dirs, mountpoint)? {
            return Err(StartError::StillRunning(mountpoint.into()));
        }
        let mut refused = StartError::SocketPathTooLong;
        for dir in run_dirs(dirs) {
            let (socket, lock_path) = paths_in(&dir, mountpoint);
            if !channel::fits(&socket) {
                continue;
            }
            if let Err(error) = create_private_dir(&dir) {
                refused = StartError::io("make the directory for control sockets", &dir)(error);
                continue;
            }
            if !is_private_dir(&dir) {
                let error = io::Error::other("it belongs to another user or others may write to it");
                refused = StartError::io("use the directory for control sockets", &dir)(error);
                continue;
            }
            let lock = take_lock_patiently(&lock_path).map_err(StartError::io("lock", &lock_path))?;
            let lock = lock.ok_or_else(|| StartError::StillRunning(mountpoint.into()))?;
            remove_if_there(&socket).map_err(StartError::io("remove the stale socket", &socket))?;
            return Ok(Self { socket, lock_path, _lock: lock });
        }
        Err(refused)
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.socket
    }
}

impl Drop for ControlSocket {
    /// Removes socket and lock file while the lock is still held, so that nobody else's are hit.
    fn drop(&mut self) {
        for path in [&self.socket, &self.lock_path] {
            if let Err(error) = remove_if_there(path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove");
            }
        }
    }
}

/// Locks the file at `path`, which is made if it is missing. `None`: another process has the lock.
fn take_lock(path: &Path) -> io::Result<Option<File>> {
    loop {
        let mut options = File::options();
        no_follow(private(options.create(true).write(true).truncate(false)));
        // On Windows a file that is being removed cannot be opened until it has gone.
        let file = patiently(|| options.open(path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Its former holder may have removed the file between open and lock; then this lock protects nothing.
        if is_at(&file, path)? {
            return Ok(Some(file));
        }
    }
}

/// Others look at the lock for microseconds; only who keeps it serves.
fn take_lock_patiently(path: &Path) -> io::Result<Option<File>> {
    for _ in 0..10 {
        if let Some(lock) = take_lock(path)? {
            return Ok(Some(lock));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(None)
}

fn is_locked(path: &Path) -> io::Result<bool> {
    match patiently(|| File::open(path)) {
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => Ok(false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The socket of the process that serves `mountpoint`, whether it listens yet or not.
fn served_at(dirs: &Dirs, mountpoint: &Path) -> Result<Option<PathBuf>, StartError> {
    for dir in run_dirs(dirs).iter().filter(|dir| is_private_dir(dir)) {
        let (socket, lock) = paths_in(dir, mountpoint);
        if is_locked(&lock).map_err(StartError::io("look at", &lock))? {
            return Ok(Some(socket));
        }
    }
    Ok(None)
}

/// Whether a living process serves `mountpoint`.
pub fn is_served(dirs: &Dirs, mountpoint: &Path) -> Result<bool, StartError> {
    served_at(dirs, mountpoint).map(|socket| socket.is_some())
}

/// Whether the process that has the lock of `mountpoint` answers within `limit`. One that is being killed does not.
#[cfg(all(feature = "mount", unix))]
pub fn answers(dirs: &Dirs, mountpoint: &Path, limit: Duration) -> Result<bool, StartError> {
    let Some(socket) = served_at(dirs, mountpoint)? else { return Ok(false) };
    // Whatever the error is, nobody has answered.
    Ok(channel::answers(&socket, b"{\"request\":\"status\"}\n", limit).unwrap_or(false))
}

/// Answers on a mount's control socket until it is dropped.
#[derive(Debug)]
pub struct ControlServer {
    task: JoinHandle<()>,
    _socket: ControlSocket,
}

impl ControlServer {
    /// Listens and answers in tasks on `runtime`.
    pub fn start(
        runtime: &Handle,
        socket: ControlSocket,
        handler: Arc<dyn ControlHandler>,
    ) -> Result<Self, StartError> {
        let path = socket.path();
        let listener = Listener::bind(runtime, path).map_err(StartError::io("listen on", path))?;
        let server = Arc::new(Server { handler, drains: Mutex::new(0) });
        let task = runtime.spawn(accept(listener, server));
        Ok(Self { task, _socket: socket })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Server {
    handler: Arc<dyn ControlHandler>,
    /// How many connections wait in a drain.
    drains: Mutex<usize>,
}

/// One connection's part in [`Server::drains`].
struct Drain<'a>(&'a Server);

impl<'a> Drain<'a> {
    fn begin(server: &'a Server) -> Self {
        let mut drains = server.drains.lock();
        *drains += 1;
        server.handler.begin_drain();
        Self(server)
    }
}

impl Drop for Drain<'_> {
    fn drop(&mut self) {
        let mut drains = self.0.drains.lock();
        *drains -= 1;
        if *drains == 0 {
            self.0.handler.end_drain();
        }
    }
}

/// Takes connections until it is aborted; its connections end with it.
async fn accept(mut listener: Listener, server: Arc<Server>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let server = server.clone();
                connections.spawn(async move {
                    if let Err(error) = serve(stream, &server).await {
                        tracing::debug!(%error, "a control connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a control connection");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: ServerStream, server: &Server) -> io::Result<()> {
    channel::refuse_others(&stream)?;
    let mut stream = BufReader::new(stream);
    loop {
        let request = match timeout(LINE_TIMEOUT, read_line(&mut stream, REQUEST_LEN_MAX)).await? {
            Ok(Some(line)) => Request::parse(&line),
            Ok(None) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(error.to_string()),
            Err(error) => return Err(error),
        };
        match request {
            Ok(Request::Status) => send(&mut stream, &Reply::Status(Box::new(server.handler.status()))).await?,
            Ok(Request::Drain { timeout_ms }) => {
                drain(&mut stream, server, timeout_ms.map(Duration::from_millis)).await?;
            }
            Ok(Request::Stop { force }) => {
                let reply = stop(server.handler.clone(), force).await;
                send(&mut stream, &reply).await?;
            }
            Ok(Request::VerifyCache) => verify_cache(&mut stream, server.handler.clone()).await?,
            Ok(Request::Pin { ino, keep }) => {
                let reply = pin(server.handler.clone(), ino, keep).await;
                send(&mut stream, &reply).await?;
            }
            Ok(Request::Accept { path }) => {
                let reply = take_as_it_is(server.handler.clone(), path).await;
                send(&mut stream, &reply).await?;
            }
            Ok(Request::Pins) => send(&mut stream, &Reply::Pins { pins: server.handler.pins() }).await?,
            Err(error) => {
                let message = format!("the request is malformed: {error}");
                return send(&mut stream, &Reply::Error { message }).await;
            }
        }
    }
}

/// Tells how much is pending until nothing is, the time has run out, or nobody listens.
async fn drain(stream: &mut BufReader<ServerStream>, server: &Server, limit: Option<Duration>) -> io::Result<()> {
    let _drain = Drain::begin(server);
    let begin = Instant::now();
    let mut told: Option<(Status, Instant)> = None;
    loop {
        let status = server.handler.status();
        if status.is_drained() {
            return send(stream, &Reply::Drained(Box::new(status))).await;
        }
        if limit.is_some_and(|limit| begin.elapsed() >= limit) {
            return send(stream, &Reply::TimedOut(Box::new(status))).await;
        }
        let brief = Status { problems: Vec::new(), ..status };
        if told.as_ref().is_none_or(|(last, at)| *last != brief || at.elapsed() >= HEARTBEAT) {
            send(stream, &Reply::Progress(Box::new(brief.clone()))).await?;
            told = Some((brief, Instant::now()));
        }
        tokio::time::sleep(limit.map_or(DRAIN_INTERVAL, |limit| {
            DRAIN_INTERVAL.min(limit.saturating_sub(begin.elapsed())).max(Duration::from_millis(1))
        }))
        .await;
    }
}

async fn stop(handler: Arc<dyn ControlHandler>, force: bool) -> Reply {
    match tokio::task::spawn_blocking(move || handler.stop(force)).await {
        Ok(Ok(())) => Reply::Stopping,
        Ok(Err(message)) => Reply::Error { message },
        Err(error) => Reply::Error { message: format!("unmounting failed: {error}") },
    }
}

async fn pin(handler: Arc<dyn ControlHandler>, ino: u64, keep: bool) -> Reply {
    match tokio::task::spawn_blocking(move || handler.pin(ino, keep)).await {
        Ok(Ok(())) => Reply::Pinned,
        Ok(Err(message)) => Reply::Error { message },
        Err(error) => Reply::Error { message: format!("pinning failed: {error}") },
    }
}

async fn take_as_it_is(handler: Arc<dyn ControlHandler>, path: PathBuf) -> Reply {
    match tokio::task::spawn_blocking(move || handler.accept(path)).await {
        Ok(Ok(())) => Reply::Accepted,
        Ok(Err(message)) => Reply::Error { message },
        Err(error) => Reply::Error { message: format!("it failed: {error}") },
    }
}

/// Tells how it goes until it is done. If nobody listens any more, it ends early.
async fn verify_cache(stream: &mut BufReader<ServerStream>, handler: Arc<dyn ControlHandler>) -> io::Result<()> {
    let (tell, told) = tokio::sync::watch::channel(VerifyReport::default());
    let mut work = tokio::task::spawn_blocking(move || {
        handler.verify_cache(&mut |report| {
            tell.send_replace(report);
            !tell.is_closed()
        })
    });
    loop {
        let reply = match timeout(VERIFY_INTERVAL, &mut work).await {
            Err(_) => {
                let report = told.borrow().clone();
                send(stream, &Reply::Verifying(report)).await?;
                continue;
            }
            Ok(Ok(Ok(report))) => Reply::Verified(report),
            Ok(Ok(Err(message))) => Reply::Error { message },
            Ok(Err(error)) => Reply::Error { message: format!("the check of the cache failed: {error}") },
        };
        return send(stream, &reply).await;
    }
}

/// One line without its end; `None` if the peer has closed. Longer than `len_max` or cut off is `InvalidData`.
async fn read_line(stream: &mut BufReader<impl AsyncRead + Unpin>, len_max: u64) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    stream.take(len_max).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::new(io::ErrorKind::InvalidData, "the line is too long or cut off")),
    }
}

async fn send<S, T>(stream: &mut BufReader<S>, value: &T) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Serialize + Sync,
{
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    timeout(LINE_TIMEOUT, stream.write_all(&line)).await?
}

/// Why a mount could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Looking for it failed.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its process lives but does not answer.
    #[error("the process of {mountpoint} does not answer ({error}); if it stays so, end it and mount again")]
    Silent {
        /// The mount point.
        mountpoint: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// It answered with an error.
    #[error("{0}")]
    Refused(String),
    /// It answered with something else.
    #[error("the process of {0} gave an unexpected answer; is it of another version? Unmount it with `fusermount3 -u`")]
    Unexpected(PathBuf),
}

/// How a drain ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Drained {
    /// The server has everything.
    All(Box<Status>),
    /// The time has run out; this was left.
    TimedOut(Box<Status>),
    /// The process has ended meanwhile. What it had not sent is kept.
    Ended,
}

/// A connection to a mount that is running.
#[derive(Debug)]
pub struct ControlClient {
    mountpoint: PathBuf,
    socket: PathBuf,
    stream: BufReader<ClientStream>,
    process: Option<Process>,
}

impl ControlClient {
    /// Connects to the process that serves `mountpoint`; `None` if there is none.
    pub async fn connect(dirs: &Dirs, mountpoint: &Path) -> Result<Option<Self>, ControlError> {
        let begin = Instant::now();
        while let Some(socket) = served_at(dirs, mountpoint)? {
            match channel::connect(&socket).await {
                Ok(stream) => return Ok(Some(Self::new(mountpoint, socket, stream))),
                Err(error) if begin.elapsed() >= LISTEN_TIMEOUT => {
                    return Err(ControlError::Silent { mountpoint: mountpoint.into(), error });
                }
                // It has the lock but does not listen yet, or ends just now.
                Err(_) => tokio::time::sleep(DRAIN_INTERVAL).await,
            }
        }
        Ok(None)
    }

    fn new(mountpoint: &Path, socket: PathBuf, stream: ClientStream) -> Self {
        let process = Process::serving(&stream);
        Self { mountpoint: mountpoint.into(), socket, stream: BufReader::new(stream), process }
    }

    /// How the mount is.
    pub async fn status(&mut self) -> Result<Status, ControlError> {
        self.send(&Request::Status).await?;
        match self.receive(LINE_TIMEOUT).await? {
            Some(Reply::Status(status)) => Ok(*status),
            other => Err(self.unexpected(other)),
        }
    }

    /// Waits until everything is sent, at most `limit`; `progress` is called with what is left, at least every second.
    pub async fn drain(
        &mut self,
        limit: Option<Duration>,
        mut progress: impl FnMut(&Status),
    ) -> Result<Drained, ControlError> {
        let timeout_ms = limit.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX));
        self.send(&Request::Drain { timeout_ms }).await?;
        loop {
            match self.receive(LINE_TIMEOUT).await? {
                Some(Reply::Progress(status)) => progress(&status),
                Some(Reply::Drained(status)) => return Ok(Drained::All(status)),
                Some(Reply::TimedOut(status)) => return Ok(Drained::TimedOut(status)),
                None => return Ok(Drained::Ended),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Has it check its cache; `progress` is called with how it goes.
    pub async fn verify_cache(
        &mut self,
        mut progress: impl FnMut(&VerifyReport),
    ) -> Result<VerifyReport, ControlError> {
        self.send(&Request::VerifyCache).await?;
        loop {
            match self.receive(LINE_TIMEOUT).await? {
                Some(Reply::Verifying(report)) => progress(&report),
                Some(Reply::Verified(report)) => return Ok(report),
                other => return Err(self.unexpected(other)),
            }
        }
    }

    /// Has it pin what has this inode number, or unpin it.
    pub async fn pin(&mut self, ino: u64, keep: bool) -> Result<(), ControlError> {
        self.send(&Request::Pin { ino, keep }).await?;
        match self.receive(LINE_TIMEOUT).await? {
            Some(Reply::Pinned) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// What is pinned there.
    pub async fn pins(&mut self) -> Result<Vec<Pin>, ControlError> {
        self.send(&Request::Pins).await?;
        match self.receive(LINE_TIMEOUT).await? {
            Some(Reply::Pins { pins }) => Ok(pins),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has it take what lies at this path below the root, whatever was there before.
    pub async fn accept(&mut self, path: PathBuf) -> Result<(), ControlError> {
        self.send(&Request::Accept { path }).await?;
        match self.receive(LINE_TIMEOUT).await? {
            Some(Reply::Accepted) => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Has it unmounted. `Ok` means that the mount has gone or goes; the process ends a little later.
    pub async fn stop(&mut self, force: bool) -> Result<(), ControlError> {
        match send(&mut self.stream, &Request::Stop { force }).await {
            Err(error) if is_closed(&error) => return Ok(()),
            sent => sent.map_err(|error| self.silent(error))?,
        }
        match self.receive(STOP_TIMEOUT).await? {
            // A process that has ended before its answer was out has done what it was asked.
            Some(Reply::Stopping) | None => Ok(()),
            other => Err(self.unexpected(other)),
        }
    }

    /// Waits until the process has ended, at most `limit`; answers whether it has.
    pub async fn gone(self, limit: Option<Duration>) -> Result<bool, ControlError> {
        let Self { mountpoint, socket, stream, process } = self;
        drop(stream);
        let ended = async {
            match process {
                Some(process) => process.ended().await,
                None => lock_given_up(&socket.with_extension("lock")).await,
            }
        };
        let result = match limit {
            Some(limit) => timeout(limit, ended).await,
            None => Ok(ended.await),
        };
        match result {
            Ok(Ok(())) => Ok(true),
            Ok(Err(error)) => Err(ControlError::Silent { mountpoint, error }),
            Err(_) => Ok(false),
        }
    }

    async fn send(&mut self, request: &Request) -> Result<(), ControlError> {
        send(&mut self.stream, request).await.map_err(|error| self.silent(error))
    }

    async fn receive<T: DeserializeOwned>(&mut self, limit: Duration) -> Result<Option<T>, ControlError> {
        let line = match timeout(limit, read_line(&mut self.stream, REPLY_LEN_MAX)).await {
            Ok(Ok(line)) => line,
            Ok(Err(error)) if is_closed(&error) => None,
            Ok(Err(error)) => return Err(self.silent(error)),
            Err(late) => return Err(self.silent(late.into())),
        };
        match line.map(|line| serde_json::from_slice(&line)).transpose() {
            Ok(reply) => Ok(reply),
            Err(_) => Err(ControlError::Unexpected(self.mountpoint.clone())),
        }
    }

    fn silent(&self, error: io::Error) -> ControlError {
        ControlError::Silent { mountpoint: self.mountpoint.clone(), error }
    }

    fn unexpected(&self, reply: Option<Reply>) -> ControlError {
        match reply {
            Some(Reply::Error { message }) => ControlError::Refused(message),
            None => self.silent(io::Error::new(io::ErrorKind::UnexpectedEof, "it has closed the connection")),
            Some(_) => ControlError::Unexpected(self.mountpoint.clone()),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    // The number is what Windows says of a pipe whose other end has gone.
    let is_gone = cfg!(windows) && error.raw_os_error() == Some(233);
    is_gone || matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

async fn lock_given_up(lock: &Path) -> io::Result<()> {
    while is_locked(lock)? {
        tokio::time::sleep(DRAIN_INTERVAL).await;
    }
    Ok(())
}

/// The status of every running mount of this user, by mount point. Sockets of dead processes are removed; those that do
/// not answer are in the second list, with the reason.
pub async fn running(dirs: &Dirs) -> Result<(Vec<Status>, Vec<ControlError>), ControlError> {
    let (mut alive, mut silent) = (Vec::new(), Vec::new());
    for dir in run_dirs(dirs).iter().filter(|dir| is_private_dir(dir)) {
        for socket in channels_in(dir)? {
            if remove_if_stale(&socket)? {
                continue;
            }
            match ask(&socket).await {
                Ok(status) => alive.push(status),
                Err(error) => silent.push(error),
            }
        }
    }
    alive.sort_by(|a, b| a.mountpoint.cmp(&b.mountpoint));
    Ok((alive, silent))
}

fn channels_in(dir: &Path) -> Result<Vec<PathBuf>, StartError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        let paths = std::fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path()));
        let paths = paths.collect::<io::Result<Vec<_>>>()?;
        Ok(paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "sock")).collect())
    };
    read().map_err(StartError::io("list", dir))
}

fn remove_if_stale(socket: &Path) -> Result<bool, StartError> {
    let lock_path = socket.with_extension("lock");
    let Some(lock) = take_lock(&lock_path).map_err(StartError::io("lock", &lock_path))? else { return Ok(false) };
    drop(ControlSocket { socket: socket.into(), lock_path, _lock: lock });
    Ok(true)
}

async fn ask(socket: &Path) -> Result<Status, ControlError> {
    let stream = channel::connect(socket).await;
    let stream = stream.map_err(|error| ControlError::Silent { mountpoint: socket.into(), error })?;
    ControlClient::new(socket, socket.into(), stream).status().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::{Phase, tests::sample};
    use std::fs;
    #[cfg(unix)]
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    #[derive(Default)]
    struct Fake {
        pending: AtomicU64,
        draining: AtomicBool,
        busy: AtomicBool,
        stopped: AtomicBool,
    }

    impl ControlHandler for Fake {
        fn status(&self) -> Status {
            let pending_files = self.pending.load(Ordering::SeqCst);
            let draining = self.draining.load(Ordering::SeqCst);
            if draining && pending_files > 0 {
                self.pending.fetch_sub(1, Ordering::SeqCst);
            }
            let phase = if draining { Phase::Draining } else { Phase::Live };
            Status { pending_files, phase, ..sample() }
        }

        fn begin_drain(&self) {
            self.draining.store(true, Ordering::SeqCst);
        }

        fn end_drain(&self) {
            assert!(self.draining.swap(false, Ordering::SeqCst));
        }

        fn stop(&self, force: bool) -> Result<(), String> {
            if self.busy.load(Ordering::SeqCst) && !force {
                return Err("in use".into());
            }
            self.stopped.store(true, Ordering::SeqCst);
            Ok(())
        }

        fn pin(&self, ino: u64, keep: bool) -> Result<(), String> {
            if keep && ino == 7 { Ok(()) } else { Err("it is not pinned".into()) }
        }

        fn pins(&self) -> Vec<Pin> {
            vec![Pin { path: "film.mkv".into(), files: 1, ..Pin::default() }]
        }

        /// Goes on until nobody listens, if the fake is busy.
        fn verify_cache(&self, progress: &mut dyn FnMut(VerifyReport) -> bool) -> Result<VerifyReport, String> {
            let mut report = VerifyReport { contents: 9, ..VerifyReport::default() };
            while self.busy.load(Ordering::SeqCst) {
                report.good += 1;
                if !progress(report.clone()) {
                    self.stopped.store(true, Ordering::SeqCst);
                    return Err("nobody listens".into());
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(report)
        }
    }

    const MOUNTPOINT: &str = "/home/u/Sync";

    struct World {
        _root: tempfile::TempDir,
        dirs: Dirs,
        fake: Arc<Fake>,
    }

    impl World {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            let dirs = Dirs { runtime: Some(root.path().join("run")), ..Dirs::below(root.path()) };
            Self { _root: root, dirs, fake: Arc::default() }
        }

        fn claim(&self) -> Result<ControlSocket, StartError> {
            ControlSocket::claim(&self.dirs, Path::new(MOUNTPOINT))
        }

        fn serve(&self) -> ControlServer {
            ControlServer::start(&Handle::current(), self.claim().unwrap(), self.fake.clone()).unwrap()
        }

        async fn connect(&self) -> ControlClient {
            ControlClient::connect(&self.dirs, Path::new(MOUNTPOINT)).await.unwrap().unwrap()
        }

        async fn raw(&self, bytes: &[u8]) -> String {
            let (socket, _) = paths_in(&run_dirs(&self.dirs)[0], Path::new(MOUNTPOINT));
            let mut stream = channel::connect(&socket).await.unwrap();
            // The server may answer and close before it has read all of a hostile request.
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8(answer).unwrap()
        }
    }

    #[tokio::test]
    async fn status_over_the_socket() {
        let world = World::new();
        assert!(ControlClient::connect(&world.dirs, Path::new(MOUNTPOINT)).await.unwrap().is_none());
        let server = world.serve();
        let mut client = world.connect().await;
        assert_eq!(client.status().await.unwrap(), sample());
        assert_eq!(client.status().await.unwrap(), sample());
        let (alive, silent) = running(&world.dirs).await.unwrap();
        assert_eq!((alive.len(), silent.len()), (1, 0));
        drop(server);
        assert!(ControlClient::connect(&world.dirs, Path::new(MOUNTPOINT)).await.unwrap().is_none());
        assert_eq!(fs::read_dir(&run_dirs(&world.dirs)[0]).unwrap().count(), 0);
    }

    #[tokio::test]
    #[cfg(unix)] // A pipe is no file.
    async fn socket_and_directory_belong_to_their_owner() {
        let world = World::new();
        let _server = world.serve();
        let dir = &run_dirs(&world.dirs)[0];
        let (socket, lock) = paths_in(dir, Path::new(MOUNTPOINT));
        for (path, mode) in [(dir, 0o700), (&socket, 0o600), (&lock, 0o600)] {
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o777, mode, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_drain_tells_what_is_left_until_nothing_is() {
        let world = World::new();
        let _server = world.serve();
        world.fake.pending.store(3, Ordering::SeqCst);
        let mut seen = Vec::new();
        let mut client = world.connect().await;
        let drained = client.drain(None, |status| seen.push(status.pending_files)).await.unwrap();
        assert!(matches!(drained, Drained::All(status) if status.phase == Phase::Draining));
        assert_eq!(seen, [3, 2, 1]);
        assert_eq!(client.status().await.unwrap().phase, Phase::Live);
    }

    #[tokio::test]
    async fn a_drain_ends_with_its_time_and_with_its_client() {
        let world = World::new();
        let _server = world.serve();
        world.fake.pending.store(u64::MAX, Ordering::SeqCst);
        let mut client = world.connect().await;
        let drained = client.drain(Some(Duration::from_millis(120)), |_| ()).await.unwrap();
        assert!(matches!(drained, Drained::TimedOut(status) if status.pending_files > 0));
        assert!(!world.fake.draining.load(Ordering::SeqCst));

        let drain = client.drain(None, |_| ());
        assert!(timeout(Duration::from_millis(120), drain).await.is_err());
        assert!(world.fake.draining.load(Ordering::SeqCst));
        drop(client);
        let begin = Instant::now();
        while world.fake.draining.load(Ordering::SeqCst) {
            assert!(begin.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_check_of_the_cache_tells_how_it_goes_and_ends_with_its_client() {
        let world = World::new();
        let _server = world.serve();
        world.fake.busy.store(true, Ordering::SeqCst);
        let mut client = world.connect().await;
        let mut seen = 0;
        let fake = world.fake.clone();
        let verified = client.verify_cache(|report| {
            seen += u64::from(report.good > 0);
            fake.busy.store(seen < 2, Ordering::SeqCst);
        });
        assert!(verified.await.unwrap().good > 1);
        assert_eq!(seen, 2);

        world.fake.busy.store(true, Ordering::SeqCst);
        assert!(timeout(Duration::from_millis(300), client.verify_cache(|_| ())).await.is_err());
        drop(client);
        let begin = Instant::now();
        while !world.fake.stopped.load(Ordering::SeqCst) {
            assert!(begin.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_process_that_ends_in_between_has_been_stopped() {
        let world = World::new();
        let server = world.serve();
        let mut client = world.connect().await;
        world.fake.pending.store(u64::MAX, Ordering::SeqCst);
        let end = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            drop(server);
        };
        let (drained, ()) = tokio::join!(client.drain(None, |_| ()), end);
        assert_eq!(drained.unwrap(), Drained::Ended);
        client.stop(false).await.unwrap();
        assert!(!world.fake.stopped.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_busy_mount_is_stopped_only_by_force() {
        let world = World::new();
        let _server = world.serve();
        world.fake.busy.store(true, Ordering::SeqCst);
        let mut client = world.connect().await;
        assert!(matches!(client.stop(false).await, Err(ControlError::Refused(why)) if why == "in use"));
        assert!(!world.fake.stopped.load(Ordering::SeqCst));
        client.stop(true).await.unwrap();
        assert!(world.fake.stopped.load(Ordering::SeqCst));
        assert!(!client.gone(Some(Duration::from_millis(50))).await.unwrap(), "the process is this test");
    }

    #[tokio::test]
    async fn hostile_lines_get_an_error_and_no_more() {
        let world = World::new();
        let _server = world.serve();
        // A pipe cannot be closed in one direction: what is cut off there is only late.
        let cut_off = cfg!(unix).then_some("{\"request\":\"status\"");
        let lines = ["\n", "{}\n", "{\"request\":\"eat\"}\n", "{\"request\":\"stop\",\"x\":1}\n"];
        for bad in lines.into_iter().chain(cut_off) {
            let answer = world.raw(bad.as_bytes()).await;
            assert!(answer.contains("\"reply\":\"error\""), "{bad}: {answer}");
        }
        let answer = world.raw(&vec![b'x'; 1 << 20]).await;
        assert!(answer.is_empty() || answer.contains("too long"), "{answer}");
        assert_eq!(world.connect().await.status().await.unwrap(), sample());
    }

    #[tokio::test]
    async fn one_process_a_mount_point() {
        let world = World::new();
        let claimed = world.claim().unwrap();
        assert!(matches!(world.claim(), Err(StartError::StillRunning(_))));
        assert!(is_served(&world.dirs, Path::new(MOUNTPOINT)).unwrap());
        assert!(!is_served(&world.dirs, Path::new("/other")).unwrap());
        drop(claimed);
        world.claim().unwrap();
    }

    #[tokio::test]
    async fn a_mount_without_the_runtime_directory_is_found() {
        let world = World::new();
        let without = Dirs { runtime: None, ..world.dirs.clone() };
        let _claimed = ControlSocket::claim(&without, Path::new(MOUNTPOINT)).unwrap();
        assert!(is_served(&world.dirs, Path::new(MOUNTPOINT)).unwrap());
        assert!(matches!(world.claim(), Err(StartError::StillRunning(_))));
    }

    #[tokio::test]
    async fn what_a_killed_process_left_is_removed() {
        let world = World::new();
        let dir = &run_dirs(&world.dirs)[0];
        create_private_dir(dir).unwrap();
        let (socket, lock) = paths_in(dir, Path::new(MOUNTPOINT));
        let leave_behind = || {
            #[cfg(unix)]
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
            #[cfg(windows)]
            fs::write(&socket, r"\\.\pipe\syncmount-gone").unwrap();
            fs::write(&lock, "").unwrap();
        };
        leave_behind();
        assert!(ControlClient::connect(&world.dirs, Path::new(MOUNTPOINT)).await.unwrap().is_none());
        let (alive, silent) = running(&world.dirs).await.unwrap();
        assert_eq!((alive.len(), silent.len()), (0, 0));
        assert!(!socket.exists() && !lock.exists());
        leave_behind();
        let _server = world.serve();
        assert_eq!(world.connect().await.status().await.unwrap(), sample());
    }

    #[test]
    #[cfg(unix)] // A pipe's name is short.
    fn long_paths_fall_back_to_short_ones() {
        let world = World::new();
        let long = PathBuf::from(format!("/{}", "x".repeat(120)));
        let dirs = Dirs { runtime: Some(long), ..world.dirs.clone() };
        let claimed = ControlSocket::claim(&dirs, Path::new(MOUNTPOINT)).unwrap();
        assert!(claimed.path().starts_with(&world.dirs.state));
    }

    #[test]
    #[cfg(unix)] // Windows protects a user's directories from others.
    fn a_directory_of_others_is_not_used() {
        let world = World::new();
        let dir = world.dirs.runtime.clone().unwrap();
        create_private_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).unwrap();
        let claimed = world.claim().unwrap();
        assert!(claimed.path().starts_with(&world.dirs.state));
    }
}
