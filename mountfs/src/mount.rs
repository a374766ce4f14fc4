//! One mount from begin to end: store, server, kernel, control socket, and the way out.

use crate::cli::Owners;
use crate::config::{Dirs, MountConfig, StartError};
use crate::control::{ControlHandler, ControlServer, ControlSocket};
use crate::driver::{Client, OpenError, Pinned, Pump};
use crate::fuse::{self, Mount};
use crate::join::{await_first_state, check_server, open_client, problems_of, say_now_and_then};
use crate::mountpoint;
use crate::ready::Ready;
use crate::remote::{HttpRemote, ServerUrl};
use crate::status::{LastError, PROBLEMS_MAX, Phase, Pin, PinnedSum, Status};
use crate::system::signals::EndRequests;
use crate::verify_report::VerifyReport;
use crate::vfs::{Ownership, Vfs};
use anyhow::Context;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};
use syncmount_common::{Owner, Timestamp};

/// How long after an unmount what is pending is still sent. What is left then goes with the next mount.
const LINGER: Duration = Duration::from_secs(60);

/// How often is looked whether the mount is still there.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why a mount cannot begin, beyond what [`StartError`] says.
#[derive(Debug, thiserror::Error)]
enum MountError {
    #[error("the kernel refuses the mount at {mountpoint}: {error}")]
    Kernel { mountpoint: String, error: std::io::Error },
}

struct Running {
    client: Arc<Client>,
    vfs: Arc<Vfs>,
    remote: Arc<HttpRemote>,
    config: MountConfig,
    since: Timestamp,
    phase: Mutex<Phase>,
    /// The mount has ended.
    unmounted: AtomicBool,
    /// Do not linger any more.
    leave: AtomicBool,
}

/// Mounts as `config` says and serves the mount until it ends. Says `ready.live()` once it is live.
pub fn run(config: &MountConfig, ready: &Ready) -> anyhow::Result<()> {
    let dirs = Dirs::of_user()?;
    let socket = ControlSocket::claim(&dirs, &config.mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(crate::system::give_way)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let url: ServerUrl = config.server.parse().map_err(StartError::ServerUrl)?;
    let remote = Arc::new(config.remote(&url)?);
    let patience = runtime.spawn(say_now_and_then(ready.clone(), "checking the cache folder"));
    let client = open_client(config, remote.clone(), runtime.handle());
    patience.abort();
    let client = client?;
    client.end_suspicion().map_err(OpenError::Io)?;
    let first = !client.look(syncmount_engine::Engine::has_joined);
    if first {
        runtime.block_on(check_server(&remote, config))?;
    }
    client.show_times().map_err(OpenError::Io)?;
    let mounter = Owner { uid: rustix::process::geteuid().as_raw(), gid: rustix::process::getegid().as_raw() };
    let ownership = Ownership { owners: config.owners, mounter };
    client.apply_owners(config.owners == Owners::Synced);
    let pump = Pump::start(&client);
    if first {
        await_first_state(&client, ready)?;
    }
    let vfs = Arc::new(Vfs::new(client.clone(), config.read_only, config.durability, ownership));
    let options =
        fuse::Options { read_only: config.read_only, allow_other: config.allow_other, passthrough: config.passthrough };
    let mount = fuse::mount(vfs.clone(), &config.mountpoint, runtime.handle().clone(), options)
        .map_err(|error| MountError::Kernel { mountpoint: config.mountpoint.display().to_string(), error })?;
    let running = Arc::new(Running {
        client: client.clone(),
        vfs,
        remote,
        config: config.clone(),
        since: client.now(),
        phase: Mutex::new(Phase::Live),
        unmounted: AtomicBool::new(false),
        leave: AtomicBool::new(false),
    });
    let control = ControlServer::start(runtime.handle(), socket, running.clone());
    let signals = runtime.spawn(unmount_on_signal(running.clone()));
    let served = match control.as_ref().map(|_| ready.live()) {
        Ok(Ok(())) => serve(mount, config),
        Ok(Err(error)) => unmount(config, mount).and(Err(error).context("nobody waits for this mount")),
        Err(_) => unmount(config, mount),
    };
    linger(&running);
    signals.abort();
    runtime.block_on(pump.stop());
    let closed = client.close();
    drop(control?);
    runtime.shutdown_timeout(Duration::from_secs(5));
    served?;
    closed.map_err(OpenError::State)?;
    Ok(())
}

/// Returns when the mount is gone, whoever took it away.
fn serve(mount: Mount, config: &MountConfig) -> anyhow::Result<()> {
    let (ended, end) = channel();
    let waiter = std::thread::Builder::new().name("session".into()).spawn(move || {
        let result = mount.wait();
        // The receiver may have left already, below.
        drop(ended.send(result));
    })?;
    let mut gone = 0;
    loop {
        match end.recv_timeout(LOOK_INTERVAL) {
            Ok(result) => {
                if waiter.join().is_err() {
                    tracing::error!("the thread that waits for the mount's end panicked");
                }
                return result.context("the mount ended with an error");
            }
            Err(RecvTimeoutError::Disconnected) => anyhow::bail!("the thread that serves the mount panicked"),
            Err(RecvTimeoutError::Timeout) => {
                // A copy of the mount in another namespace keeps the kernel's side alive; here it is gone all the same.
                gone = if mountpoint::is_mounted(&config.mountpoint)? { 0 } else { gone + 1 };
                if gone > 1 {
                    tracing::warn!("the mount is gone here, but another namespace still has it");
                    return Ok(());
                }
            }
        }
    }
}

fn unmount(config: &MountConfig, mount: Mount) -> anyhow::Result<()> {
    mountpoint::unmount(&config.mountpoint, true).context("cannot take the mount down again")?;
    serve(mount, config)
}

async fn unmount_on_signal(running: Arc<Running>) {
    let Ok(mut requests) = EndRequests::listen() else {
        tracing::error!("signals cannot be handled; end the mount with `syncmount umount`");
        return;
    };
    loop {
        requests.next().await;
        running.leave.store(true, Ordering::Release);
        if let Err(error) = mountpoint::unmount(&running.config.mountpoint, true) {
            tracing::error!("{error}");
        }
    }
}

/// After an unmount the rest is sent as long as the server takes it.
fn linger(running: &Running) {
    running.unmounted.store(true, Ordering::Release);
    *running.phase.lock() = Phase::Draining;
    let begin = Instant::now();
    let client = &running.client;
    let is_pending = || {
        let pending = client.pending();
        pending.nodes > pending.held
    };
    while is_pending() && client.link.is_online() && !running.leave.load(Ordering::Acquire) && begin.elapsed() < LINGER
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl ControlHandler for Running {
    fn status(&self) -> Status {
        let pending = self.client.pending();
        let traffic = self.remote.traffic();
        let pinned = self.client.pinned_all();
        let mut problems = problems_of(&self.client);
        let problems_more = problems.len().saturating_sub(PROBLEMS_MAX) as u64;
        problems.truncate(PROBLEMS_MAX);
        Status {
            phase: *self.phase.lock(),
            connected: self.client.link.is_online(),
            trouble: self.client.link.trouble(),
            pending_files: pending.files,
            pending_bytes: pending.bytes,
            pending_nodes: pending.nodes - pending.held,
            only_here: self.client.look(syncmount_engine::Engine::staying),
            cache_used: self.client.kept_bytes(),
            cache_limit: self.client.cache().limit(),
            pinned: PinnedSum { files: pinned.files, bytes: pinned.bytes, missing_bytes: pinned.missing_bytes },
            last_error: self.client.link.last_error().map(|(at, message)| LastError { at, message }),
            problems,
            problems_more,
            passed_through: self.vfs.shown(),
            copies_removed: self.client.look(syncmount_engine::Engine::copies_removed),
            requests: traffic.requests,
            bytes_sent: traffic.sent,
            bytes_received: traffic.received,
            ..Status::starting(&self.config, self.since)
        }
    }

    fn begin_drain(&self) {
        self.vfs.tend();
        self.client.hurry();
        *self.phase.lock() = Phase::Draining;
    }

    fn end_drain(&self) {
        let mut phase = self.phase.lock();
        if !self.unmounted.load(Ordering::Acquire) {
            *phase = Phase::Live;
        }
    }

    fn verify_cache(&self, progress: &mut dyn FnMut(VerifyReport) -> bool) -> Result<VerifyReport, String> {
        let verified = self.client.verify_cache(&mut |verified| progress(verified.into()));
        verified.map(|verified| (&verified).into()).map_err(|error| format!("the cache cannot be checked: {error}"))
    }

    fn pin(&self, ino: u64, keep: bool) -> Result<(), String> {
        let node = self.vfs.inodes.node(ino).ok_or("it is gone; try again")?;
        let done = if keep { self.client.pin(node) } else { self.client.unpin(node) };
        done.map_err(|error| error.to_string())
    }

    fn pins(&self) -> Vec<Pin> {
        let pins = self.client.pinned();
        pins.into_iter()
            .map(|Pinned { path, files, bytes, missing_files, missing_bytes, left_out, counted }| Pin {
                path,
                files,
                bytes,
                missing_files,
                missing_bytes,
                left_out,
                counted: Some(counted),
            })
            .collect()
    }

    /// The first call unmounts; a call after the unmount ends the sending of the rest too.
    fn stop(&self, force: bool) -> Result<(), String> {
        match mountpoint::is_mounted(&self.config.mountpoint) {
            Ok(false) => self.leave.store(true, Ordering::Release),
            Ok(true) => mountpoint::unmount(&self.config.mountpoint, force).map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        }
        if force {
            self.leave.store(true, Ordering::Release);
        }
        Ok(())
    }
}
