//! One watched folder from begin to end: state, server, marker, the folder's thread, control socket, and the way out.

use super::beneath::Root;
use super::folder::Folder;
use super::inbox::Inbox;
use super::index::{ROOT_ITEM, folder_id, folder_root, folder_row};
use super::marker::{Marker, MarkerError};
use super::modes::Modes;
use super::runner::{Habits, QUIET_MAX, Runner, State};
use crate::cli::Owners;
use crate::config::{Dirs, MountConfig, StartError, create_private_dir};
use crate::control::{ControlHandler, ControlServer, ControlSocket};
use crate::driver::{Client, OpenError, Pump};
use crate::join::{await_first_state, check_server, open_client, problems_of, say_now_and_then};
use crate::ready::Ready;
use crate::remote::{HttpRemote, ServerUrl};
use crate::status::{LastError, Mode, PROBLEMS_MAX, Phase, Pin, Problem, ProblemKind, Status};
use crate::system::signals::EndRequests;
use crate::verify_report::VerifyReport;
use crate::wall;
use anyhow::Context;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::{NodeId, Timestamp};
use syncmount_confine::Held;
use syncmount_engine::Engine;

/// How long after a stop what is pending is still sent. What is left then goes with the next start.
const LINGER: Duration = Duration::from_secs(10);

/// How long a run that ends by itself waits for a server that cannot be reached.
const ONCE_PATIENCE: Duration = Duration::from_secs(30);

/// How long a caller waits at most for what it has accepted to be looked at.
const ACCEPT_PATIENCE: Duration = Duration::from_secs(8);

/// The stack of the folder's thread, in bytes: one thing is done for another's sake, some of them in a row.
const STACK_LEN: usize = 8 << 20;

/// Content that came with the feed is kept this long in bytes until it is in the folder.
const CACHE_SIZE: u64 = 256 << 20;

/// How a folder is watched.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Ends when everything is sent and fetched.
    pub once: bool,
    /// Reads every file at the start.
    pub verify: bool,
    /// How often everything is looked at without a hint.
    pub scan_interval: Duration,
    /// Whether the process reaches no other files than it needs, where the kernel can hold that.
    pub confined: bool,
    /// What is in the folder is right although it is not what it was.
    pub accept: bool,
    /// Files get the bits with which they are executed as their owner or group.
    pub apply_setid: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            once: false,
            verify: false,
            scan_interval: Duration::from_secs(600),
            confined: true,
            accept: false,
            apply_setid: false,
        }
    }
}

struct Running {
    client: Arc<Client>,
    remote: Arc<HttpRemote>,
    config: MountConfig,
    confined: Held,
    since: Timestamp,
    phase: Mutex<Phase>,
    inbox: Arc<Inbox>,
    shared: Arc<Mutex<State>>,
    /// The newest question whether everything is seen.
    asked: AtomicU64,
    stop: AtomicBool,
    /// Does not linger any more.
    leave: AtomicBool,
}

/// Keeps the folder in step as `config` and `options` say until it is stopped. Says `ready.live()` after the first look.
pub fn run(config: &MountConfig, options: Options, ready: &Ready) -> anyhow::Result<()> {
    let dirs = Dirs::of_user()?;
    let socket = ControlSocket::claim(&dirs, &config.mountpoint)?;
    let confined = confine(config, options, &dirs)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let config = &MountConfig { cache_size: config.cache_size.min(CACHE_SIZE), ..config.clone() };
    let url: ServerUrl = config.server.parse().map_err(StartError::ServerUrl)?;
    let remote = Arc::new(config.remote(&url)?);
    let patience = runtime.spawn(say_now_and_then(ready.clone(), "looking at the folder"));
    let client = open_client(config, remote.clone(), runtime.handle())?;
    client.apply_owners(config.owners == Owners::Synced);
    let first = !client.look(Engine::has_joined);
    if first {
        runtime.block_on(check_server(&remote, config))?;
    }
    let Taken { folder, marker, inbox, shared } = take(&client, &config.mountpoint, options)?;
    let pump = Pump::start(&client);
    if first {
        await_first_state(&client, ready)?;
    }
    let habits = Habits { scan_interval: options.scan_interval, verify: options.verify || client.was_cut() };
    let runner = Runner::new((folder, marker), inbox.clone(), shared.clone(), habits, &client)?;
    let thread = std::thread::Builder::new().name("folder".into()).stack_size(STACK_LEN).spawn(move || runner.run())?;
    let running = Arc::new(Running {
        client: client.clone(),
        remote,
        config: config.clone(),
        confined,
        since: client.now(),
        phase: Mutex::new(Phase::Starting),
        inbox: inbox.clone(),
        shared,
        asked: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        leave: AtomicBool::new(false),
    });
    let control = ControlServer::start(runtime.handle(), socket, running.clone());
    let signals = runtime.spawn(stop_on_signal(running.clone()));
    let ended = match &control {
        Ok(_) => serve(&running, options, ready),
        Err(_) => Ok(()),
    };
    patience.abort();
    linger(&running);
    inbox.stop();
    let joined = thread.join();
    signals.abort();
    runtime.block_on(pump.stop());
    let closed = client.close();
    drop(control?);
    runtime.shutdown_timeout(Duration::from_secs(5));
    ended?;
    anyhow::ensure!(joined.is_ok(), "the thread that watches the folder panicked");
    closed.map_err(OpenError::State)?;
    Ok(())
}

/// A folder that is this client's, before it is looked at.
pub(super) struct Taken {
    pub(super) folder: Folder<Arc<Client>>,
    pub(super) marker: Marker,
    pub(super) inbox: Arc<Inbox>,
    pub(super) shared: Arc<Mutex<State>>,
}

/// Takes the directory `at` as the folder of this client, if it is that or may become it. What happens to the tree is told to the
/// inbox from then on.
pub(super) fn take(client: &Arc<Client>, at: &Path, options: Options) -> anyhow::Result<Taken> {
    let rows = client.take_items();
    let (known, known_root) = (folder_id(&rows), folder_root(&rows));
    let id = known.map_or_else(|| getrandom::u64().context("no randomness"), Ok)?;
    let root = Root::open(at).context("the folder cannot be opened")?;
    let mut folder = Folder::at(client.clone(), root.clone(), rows).context("the folder cannot be read")?;
    let marker = match Marker::take(&root, id, known.is_some()) {
        Err(MarkerError::Missing(_) | MarkerError::Other(_)) if options.accept => Marker::take(&root, id, false)?,
        Err(MarkerError::Missing(_)) if folder.has_what_was_in_its_root() => {
            tracing::warn!("the marker of {} was taken away, and is made again", at.display());
            Marker::take(&root, id, false)?
        }
        marker => marker?,
    };
    let root_file = folder.root_file().context("the folder cannot be read")?;
    let is_another = known_root.is_some_and(|known| known != root_file);
    if is_another {
        tracing::warn!(
            "{} is another directory than before, as after a restore: what is in it is compared with what the server has, and \
             nothing counts as removed",
            at.display()
        );
    }
    if is_another || options.accept {
        folder.forget(ROOT_ITEM);
        folder.keep().context("the state cannot be written")?;
    }
    client.keep_items(vec![folder_row(id, root_file)]).context("the state cannot be written")?;
    let (inbox, shared) = (Arc::new(Inbox::default()), Arc::new(Mutex::new(State::default())));
    folder.set_modes(Modes::applying_setid(options.apply_setid));
    if client.was_cut() {
        folder.after_a_cut(client.now());
    }
    folder.end_with(inbox.ends());
    let told = inbox.clone();
    client.attach_folder(folder.bytes(move |what| told.told(what)));
    let changed = inbox.clone();
    client.set_on_changed(Some(Box::new(move |change| changed.node(change.node))));
    client.change(|engine, _| engine.remember_authors()).context("the state cannot be written")?;
    Ok(Taken { folder, marker, inbox, shared })
}

/// Confines this process, which has no other threads yet.
fn confine(config: &MountConfig, options: Options, dirs: &Dirs) -> anyhow::Result<Held> {
    let MountConfig { mountpoint, cache_dir, log_file, .. } = config;
    // What is not there cannot be reached later either.
    create_private_dir(&dirs.state).map_err(StartError::io("make the state directory", &dirs.state))?;
    let wall = wall::around(mountpoint, cache_dir, log_file.as_deref(), dirs);
    let held = if options.confined { wall.enter()? } else { Held::default() };
    tracing::info!("confined: {held}");
    Ok(held)
}

/// Returns when the folder is not to be watched any more, or cannot be.
fn serve(running: &Running, options: Options, ready: &Ready) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut at_rest = 0;
    let mut is_live = false;
    let mut once = Once::Asks;
    while !running.stop.load(Ordering::Acquire) {
        let state = running.shared.lock().clone();
        if let Some(why) = state.paused.clone().filter(|_| options.once) {
            anyhow::bail!(why);
        }
        if state.has_looked && !is_live {
            is_live = true;
            *running.phase.lock() = Phase::Live;
            ready.live().context("nobody waits for this folder")?;
        }
        if options.once && is_live {
            at_rest = if once.is_over(running, &state) { at_rest + 1 } else { 0 };
            if at_rest > 4 {
                return once_is_over(running);
            }
            let online = running.client.link.is_online();
            if !online && begin.elapsed() > ONCE_PATIENCE {
                let why = running.client.link.last_error().map_or_else(String::new, |(_, why)| why);
                anyhow::bail!("not everything could be sent and fetched: {why}");
            }
        }
        std::thread::sleep(if options.once || !is_live {
            Duration::from_millis(20)
        } else {
            Duration::from_millis(250)
        });
    }
    Ok(())
}

/// How far a run has come that ends by itself. It owes what was in the folder when it had looked at it: a log that is written all the
/// time keeps it no longer.
enum Once {
    Asks,
    /// All that happened before this question is to be seen.
    Asked(u64),
    /// It was; what is being written comes to rest, or is taken as it is.
    Seen(Instant),
    /// These states of drafts are to be sent.
    Owes(HashSet<(NodeId, u64)>),
}

impl Once {
    fn is_over(&mut self, running: &Running, state: &State) -> bool {
        match self {
            Self::Asks => *self = Self::Asked(running.ask()),
            Self::Asked(question) if state.seen >= *question => *self = Self::Seen(Instant::now()),
            Self::Seen(since) if !running.is_looking(state) || since.elapsed() >= 3 * QUIET_MAX => {
                *self = Self::Owes(running.client.look(|engine| unsent(engine).collect()));
            }
            Self::Asked(_) | Self::Seen(_) => {}
            Self::Owes(owed) => {
                let later = running.client.look(|engine| unsent(engine).filter(|draft| !owed.contains(draft)).count());
                return running.is_sent(state, later as u64);
            }
        }
        false
    }
}

/// Drafts that are to be sent, with their generations.
fn unsent(engine: &Engine) -> impl Iterator<Item = (NodeId, u64)> {
    let is_unsent = |id: NodeId| engine.entry(id).is_some_and(|entry| entry.is_dirty() && entry.is_shared());
    engine.stagings().filter(move |(id, _)| is_unsent(*id)).map(|(id, draft)| (id, draft.generation))
}

fn once_is_over(running: &Running) -> anyhow::Result<()> {
    let status = running.status();
    if running.client.pending().files > 0 {
        tracing::info!(
            "files that were being written meanwhile: {}; what they are now is left to the next run",
            running.client.pending().files
        );
    }
    let left = status
        .problems
        .iter()
        .filter(|problem| matches!(problem.kind, ProblemKind::Unsent | ProblemKind::Held | ProblemKind::Unapplied));
    match left.clone().next() {
        None => Ok(()),
        Some(first) => {
            anyhow::bail!("{} of the changes remain, the first is {}: {}", left.count(), first.path, first.reason)
        }
    }
}

async fn stop_on_signal(running: Arc<Running>) {
    let mut requests = match EndRequests::listen() {
        Ok(requests) => requests,
        Err(error) => {
            tracing::error!("signals cannot be handled ({error}); stop with `syncmount umount`");
            return;
        }
    };
    loop {
        requests.next().await;
        if running.stop.swap(true, Ordering::AcqRel) {
            running.leave.store(true, Ordering::Release);
        }
    }
}

/// After a stop the rest is sent as long as the server takes it, but not for long.
fn linger(running: &Running) {
    *running.phase.lock() = Phase::Draining;
    let begin = Instant::now();
    let is_pending = || {
        let pending = running.client.pending();
        pending.nodes > pending.held
    };
    while is_pending()
        && running.client.link.is_online()
        && !running.leave.load(Ordering::Acquire)
        && begin.elapsed() < LINGER
    {
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Running {
    /// Something was done in the folder, perhaps, that the tree has not been told.
    fn is_looking(&self, state: &State) -> bool {
        state.is_looking || state.seen < self.asked.load(Ordering::Acquire)
    }

    /// Asks for a look at all that has happened up to now.
    fn ask(&self) -> u64 {
        let question = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.inbox.ask(question);
        question
    }

    /// Nothing is known to be different on either side but so many files that were written to later, and the server was heard.
    fn is_sent(&self, state: &State, later: u64) -> bool {
        let is_done = state.backlog.nodes == state.backlog.failed;
        let pending = self.client.pending();
        let failed = self.client.problems().len() as u64;
        let is_sent = pending.nodes <= pending.held + failed + later;
        let is_current =
            self.client.link.is_online() && !self.client.look(|engine| engine.has_news() || engine.wants_page_now());
        is_done && is_sent && is_current
    }
}

impl ControlHandler for Running {
    fn status(&self) -> Status {
        // What has been seen is in the tree by then, and counted there.
        let state = self.shared.lock().clone();
        let looking = self.is_looking(&state);
        let pending = self.client.pending();
        let traffic = self.remote.traffic();
        let is_paused = state.paused.is_some();
        let paused = state.paused.map(|reason| Problem { kind: ProblemKind::Unsent, path: String::new(), reason });
        let mut problems: Vec<Problem> = paused.into_iter().chain(problems_of(&self.client)).collect();
        problems.extend(state.note.map(|reason| Problem { kind: ProblemKind::Note, path: String::new(), reason }));
        problems.extend(state.reports);
        let problems_more = problems.len().saturating_sub(PROBLEMS_MAX) as u64;
        problems.truncate(PROBLEMS_MAX);
        Status {
            mode: Mode::Watch,
            confined: self.confined.to_string(),
            phase: *self.phase.lock(),
            connected: self.client.link.is_online(),
            trouble: self.client.link.trouble(),
            pending_files: pending.files,
            pending_bytes: pending.bytes,
            pending_nodes: pending.nodes - pending.held,
            incoming: state.backlog.nodes - state.backlog.failed,
            looking,
            paused: is_paused,
            cache_used: self.client.kept_bytes(),
            cache_limit: self.client.cache().limit(),
            last_error: self.client.link.last_error().map(|(at, message)| LastError { at, message }),
            problems,
            problems_more,
            copies_removed: self.client.look(Engine::copies_removed),
            requests: traffic.requests,
            bytes_sent: traffic.sent,
            bytes_received: traffic.received,
            ..Status::starting(&self.config, self.since)
        }
    }

    fn begin_drain(&self) {
        self.ask();
        self.client.hurry();
        let mut phase = self.phase.lock();
        if *phase == Phase::Live {
            *phase = Phase::Draining;
        }
    }

    fn end_drain(&self) {
        let mut phase = self.phase.lock();
        if *phase == Phase::Draining && !self.stop.load(Ordering::Acquire) {
            *phase = Phase::Live;
        }
    }

    fn verify_cache(&self, progress: &mut dyn FnMut(VerifyReport) -> bool) -> Result<VerifyReport, String> {
        let verified = self.client.verify_cache(&mut |verified| progress(verified.into()));
        verified.map(|verified| (&verified).into()).map_err(|error| format!("the cache cannot be checked: {error}"))
    }

    fn pin(&self, _: u64, _: bool) -> Result<(), String> {
        Err("everything in a folder that is watched is on this machine anyhow; there is nothing to pin".into())
    }

    fn pins(&self) -> Vec<Pin> {
        Vec::new()
    }

    fn accept(&self, path: PathBuf) -> Result<(), String> {
        let answer = self.inbox.accept(path).recv_timeout(ACCEPT_PATIENCE);
        answer.map_err(|_| "it takes long; `syncmount status` says how it goes".to_owned())?
    }

    /// The first call stops; a call after that ends the sending of the rest too.
    fn stop(&self, force: bool) -> Result<(), String> {
        let again = self.stop.swap(true, Ordering::AcqRel);
        if force || again {
            self.leave.store(true, Ordering::Release);
        }
        Ok(())
    }
}
