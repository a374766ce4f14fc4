//! The tasks that keep a client going: effects of the engine, commits, the feed, and the clock.

use super::{Client, ahead, clock, digest, heal, pins};
use crate::files::Last;
use crate::ports::{RemoteError, Scope, Speaker};
use bytes::Bytes;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::protocol::commit::{CommitRequest, Op};
use syncmount_common::{ChunkHash, Content, Extent, Manifest, NodeId};
use syncmount_engine::backoff::Backoff;
use syncmount_engine::{CommitAnswer, Effect, Engine, INLINE_FILE_MAX, PrepareAnswer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the server may hold a poll.
const POLL_WAIT: Duration = Duration::from_secs(55);

/// Between two questions whether the server is there, while there is something to send and nothing was heard of it yet; the poll of
/// changes asks as well.
const FIRST_ANSWER_PAUSE: Duration = Duration::from_secs(2);

/// How long the first change after a pause waits for others to share its commit.
const GATHER: Duration = Duration::from_micros(300);
/// … and never longer than this.
const GATHER_MAX: Duration = Duration::from_millis(1);

/// A commit of at least so many operations is part of a stream of changes, and of at most so many it does not fill a commit.
const STREAM_OPS: std::ops::RangeInclusive<usize> = 8..=1000;

/// When so many commits have come one upon the other, there is more to send each time that one is answered: a stream as well.
/// A program that saves a file again and again would have every version of it sent, and wait for its turn at the disk.
const STREAM_COMMITS: u32 = 8;

/// In a stream of changes the time from one commit to the next: each costs server and devices as much as some ten files.
const STREAM_GATHER: Duration = Duration::from_millis(100);

/// Drafts that are cut and hashed at the same time: two cores, and a third while one waits for a disk.
const PREPARE_THREADS: usize = 3;

/// Drafts that become cached contents at the same time.
const SETTLE_THREADS: usize = 2;

/// After so many in one go the memory that was needed for them is given back.
const MANY_EFFECTS: usize = 20_000;

/// How long the server is waited for at a time.
pub(super) const AWAY: Duration = Duration::from_secs(3600);

/// A server without room is asked again so often whether it takes a commit that needs none.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// So often in a row the server may fail at a commit before the commit is cut down to what it fails at, and half as often at
/// that.
const FAULTS_MAX: u32 = 4;

/// So many answers in a row may change nothing before the next question has to wait.
const IDLE_ANSWERS_MAX: u32 = 3;

/// … which is one every so often.
const IDLE_EVERY: Duration = Duration::from_secs(4);

/// A poll that is held for so long has not come back early.
const HELD_MIN: Duration = Duration::from_secs(1);

/// How often a refused session asks again while a commit waits for its answer.
const REFUSED_MAX: u32 = 50;

/// Inline bytes from which it pays to ask first which of them the server has.
const ASK_FIRST_BYTES: usize = 32 * 1024;

/// The running tasks. Dropping it stops them.
pub struct Pump {
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Pump {
    /// Starts the tasks.
    pub fn start(client: &Arc<Client>) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let runtime = client.runtime.clone();
        for task in [
            boxed(work(client.clone())),
            boxed(commits(client.clone())),
            boxed(feed(client.clone())),
            boxed(clock::run(client.clone())),
            boxed(ahead::run(client.clone())),
            boxed(digest::run(client.clone())),
            boxed(heal::run(client.clone())),
            boxed(pins::keep_pinned(client.clone())),
        ] {
            let stop = stop.clone();
            tasks.spawn_on(
                async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = task => {}
                    }
                },
                &runtime,
            );
        }
        client.wake.notify_one();
        Self { stop, tasks }
    }

    /// Stops the tasks and waits for them.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type Task = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

fn boxed(task: impl Future<Output = ()> + Send + 'static) -> Task {
    Box::pin(task)
}

/// Carries out effects, each after the record it belongs to has been kept.
async fn work(client: Arc<Client>) {
    let prepares = Arc::new(Semaphore::new(PREPARE_THREADS));
    let settles = Arc::new(Semaphore::new(SETTLE_THREADS));
    let mut done = 0;
    loop {
        let effects = match collect(&client) {
            Ok(effects) => effects,
            Err(error) => {
                client.link.failed(&format!("the journal cannot be written: {error}"));
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        if effects.is_empty() {
            if std::mem::take(&mut done) >= MANY_EFFECTS {
                client.runtime.spawn_blocking(crate::system::give_back_memory);
            }
            match client.rescope_some() {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => client.link.failed(&format!("the journal cannot be written: {error}")),
            }
            client.commit_wake.notify_one();
            client.wake.notified().await;
            continue;
        }
        done += effects.len();
        for effect in effects {
            run(&client, effect, &prepares, &settles);
        }
    }
}

fn collect(client: &Client) -> io::Result<Vec<Effect>> {
    let mut engine = client.engine.write();
    let mut effects = client.unkept.lock();
    while effects.len() < 4096 {
        match engine.poll(super::now()) {
            Some(effect) => effects.push(effect),
            None => break,
        }
    }
    client.keep(&mut engine)?;
    Ok(std::mem::take(&mut effects))
}

fn run(client: &Arc<Client>, effect: Effect, prepares: &Arc<Semaphore>, settles: &Arc<Semaphore>) {
    match effect {
        Effect::Prepare { node, generation, upload } => {
            let (client, prepares) = (client.clone(), prepares.clone());
            client.runtime.clone().spawn(async move {
                client.rest(node, generation).await;
                let Ok(_permit) = prepares.acquire_owned().await else { return };
                let worker = client.clone();
                let answer = tokio::task::spawn_blocking(move || worker.prepare(node, generation, upload)).await;
                let answer = answer.unwrap_or_else(|error| PrepareAnswer::Failed(error.to_string()));
                client.rest_if_stumbled(node, &answer).await;
                let kept = client.change(|engine, now| engine.prepared(node, generation, answer, now));
                client.report("the state cannot be kept", kept);
            });
        }
        Effect::Supply { node, content } => {
            let client = client.clone();
            client.runtime.clone().spawn(async move {
                let worker = client.clone();
                match tokio::task::spawn_blocking(move || worker.supply(node, &content)).await {
                    Ok(Ok(whole)) => {
                        let kept = client.change(|engine, _| engine.supplied(node, &whole));
                        client.report("the state cannot be kept", kept);
                    }
                    Ok(Err(error)) => client.link.failed(&error),
                    Err(error) => client.link.failed(&error.to_string()),
                }
            });
        }
        Effect::Settle { node, generation, content } => {
            let (client, settles) = (client.clone(), settles.clone());
            client.runtime.clone().spawn(async move {
                let Ok(_permit) = settles.acquire_owned().await else { return };
                let worker = client.clone();
                let settled = tokio::task::spawn_blocking(move || worker.settle(node, generation, &content)).await;
                let settled = settled.unwrap_or_else(|error| Err(io::Error::other(error)));
                client.report("what was sent cannot be moved to the cache", settled);
            });
        }
        Effect::ReadRules => {
            client.runtime.spawn(read_rules(client.clone()));
        }
        Effect::DropStaging(id) => client.report("a staging file cannot be removed", client.drop_staging(id)),
        Effect::DraftMoved { from, to } => {
            client.files.moved(from, to);
            client.look_again(to);
        }
        Effect::Changed(changed) => {
            client.refresh_open(&changed);
            client.keep_if_pinned(&changed);
            if let Some(on_changed) = &*client.on_changed.lock() {
                on_changed(&changed);
            }
        }
    }
}

/// Until it is done: nothing is sent before.
async fn read_rules(client: Arc<Client>) {
    loop {
        let worker = client.clone();
        let read = tokio::task::spawn_blocking(move || worker.read_rules()).await;
        match read.unwrap_or_else(|error| Err(io::Error::other(error).into())) {
            Ok(()) => return,
            Err(error) => client.link.failed(&format!("the .syncignore files cannot be read: {error}")),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        client.link.wait_online(Duration::from_secs(30)).await;
    }
}

/// Sends commits, one at a time, each until it is answered.
async fn commits(client: Arc<Client>) {
    let mut pauses = Pauses::default();
    loop {
        client.commit_wake.notified().await;
        if !client.engine.read().has_work() {
            continue;
        }
        gather().await;
        hear_first(&client).await;
        let mut in_a_row = 0;
        while let Some((request, speaker)) = client.next_commit() {
            let began = tokio::time::Instant::now();
            keep_before_sending(&client, &request, speaker).await;
            let answer = send(&client, &request, &mut pauses.attempts).await;
            let wait = pauses.after(answer.as_ref(), || client.random());
            answered(&client, &request, speaker, answer).await;
            if let Some(wait) = wait {
                tokio::time::sleep(wait).await;
            }
            in_a_row += 1;
            if STREAM_OPS.contains(&request.ops.len()) || in_a_row >= STREAM_COMMITS {
                tokio::select! {
                    () = tokio::time::sleep_until(began + STREAM_GATHER) => {}
                    () = client.hurried.notified() => {}
                }
            }
        }
    }
}

/// Returns when the server has answered anything: what it takes beyond version 1 must be known before the first commit, or a part of
/// that would never be told.
async fn hear_first(client: &Client) {
    while !client.remote.has_answered() {
        if let Err(error) = client.remote.folder().await
            && !client.remote.has_answered()
        {
            client.link.failed(&error.to_string());
            tokio::time::sleep(FIRST_ANSWER_PAUSE).await;
        }
    }
}

/// Waits for [`GATHER`].
async fn gather() {
    // The runtime's own clock counts in milliseconds, and rounds up; but a thread may be long in coming, when many wait for a
    // network that is gone.
    tokio::select! {
        _ = tokio::task::spawn_blocking(|| std::thread::sleep(GATHER)) => {}
        () = tokio::time::sleep(GATHER_MAX) => {}
    }
}

/// A commit may reach the server and its answer not come back: the next start must know.
///
/// That something is gone from a watched folder survives a power cut before others hear of it: the cut may bring the file
/// back, and it would be taken for one that has been removed elsewhere.
async fn keep_before_sending(client: &Arc<Client>, request: &CommitRequest, speaker: Speaker) {
    let removes = client.folder.get().is_some() && request.ops.iter().any(|op| matches!(op, Op::Remove { .. }));
    loop {
        let kept = match client.keep_unanswered(request, speaker) {
            Ok(()) if removes => {
                let syncing = client.clone();
                tokio::task::spawn_blocking(move || syncing.sync_journal())
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error)))
            }
            kept => kept,
        };
        let Err(error) = kept else { return };
        client.link.failed(&format!("the journal cannot be written: {error}"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// How long the next commit waits after what became of the last ones.
#[derive(Default)]
struct Pauses {
    /// Of a commit that is sent again.
    attempts: Backoff,
    /// Of commits that are answered, and of which nothing comes.
    answers: Backoff,
    in_vain: u32,
}

impl Pauses {
    /// A refusal or two are the ordinary way to learn of news; a server that refuses everything is not asked without end.
    fn after(&mut self, answer: Option<&CommitAnswer>, random: impl FnOnce() -> u64) -> Option<Duration> {
        match answer {
            Some(CommitAnswer::Committed(_)) => {
                self.attempts.succeeded();
                self.answers.succeeded();
                self.in_vain = 0;
                None
            }
            // These are cut down or set aside, and never without an end: what comes next is another commit.
            Some(CommitAnswer::TooLarge(_) | CommitAnswer::Full(_)) => {
                self.attempts.succeeded();
                None
            }
            Some(CommitAnswer::NotSent) => None,
            Some(
                CommitAnswer::Rejected(_)
                | CommitAnswer::Conflict(_)
                | CommitAnswer::Missing(_)
                | CommitAnswer::Held { .. }
                | CommitAnswer::Resync,
            )
            | None => {
                self.in_vain = self.in_vain.saturating_add(1);
                (self.in_vain > IDLE_ANSWERS_MAX).then(|| self.answers.failed(random()))
            }
        }
    }
}

/// Sends a commit until it is answered. `None`: the session is over, and nothing waits for the answer any more.
async fn send(client: &Arc<Client>, request: &CommitRequest, backoff: &mut Backoff) -> Option<CommitAnswer> {
    let held = held_chunks(client, request);
    let len: u64 = held.iter().map(|(_, envelope)| envelope.len() as u64).sum();
    if len > 0 && !client.server_room.takes(len) {
        return Some(CommitAnswer::Full(RemoteError::StorageFull.to_string()));
    }
    let mut told = client.told_by_differences(request).await;
    // Whether an attempt may have reached the server: then only its answer says what became of the commit.
    let mut sent = false;
    // A refusal that says nothing about an earlier attempt: the server is asked once more, without the bytes that it refuses. It
    // knows the commit if that has landed.
    let mut refused = None;
    let (mut faults, mut full) = (0, false);
    loop {
        let wanted = if refused.is_some() { &[][..] } else { &held };
        let chunks = match unknown_chunks(client, wanted).await {
            Ok(chunks) => chunks,
            Err(error) => {
                pause(client, &error, backoff).await;
                if !sent {
                    return Some(CommitAnswer::NotSent);
                }
                continue;
            }
        };
        let answered = client.remote.commit(told.as_ref().unwrap_or(request), &chunks).await;
        let is_over = matches!(
            answered,
            Err(RemoteError::Missing(_)
                | RemoteError::Conflict(_)
                | RemoteError::Held { .. }
                | RemoteError::TooLarge(_)
                | RemoteError::StorageFull)
        );
        if let Some(refusal) = refused.take_if(|_| is_over) {
            return Some(refusal);
        }
        match answered {
            Ok(done) => {
                client.server_room.stored(len);
                return Some(CommitAnswer::Committed(done));
            }
            // The server may lack what the differences refer to: once more with everything.
            Err(RemoteError::Missing(_) | RemoteError::Rejected { .. }) if told.take().is_some() => {}
            Err(RemoteError::Conflict(details)) => return Some(CommitAnswer::Conflict(details)),
            Err(RemoteError::Missing(details)) => return Some(CommitAnswer::Missing(details)),
            Err(RemoteError::Held { reason, denied }) => return Some(CommitAnswer::Held { reason, denied }),
            Err(RemoteError::Resync) => return Some(CommitAnswer::Resync),
            Err(RemoteError::TooLarge(reason)) if sent => refused = Some(CommitAnswer::TooLarge(reason)),
            Err(RemoteError::TooLarge(reason)) => return Some(CommitAnswer::TooLarge(reason)),
            Err(RemoteError::Superseded) => return None,
            Err(error @ RemoteError::StorageFull) if len > 0 => {
                client.server_room.refused(len);
                let refusal = CommitAnswer::Full(error.to_string());
                if !sent {
                    return Some(refusal);
                }
                refused = Some(refusal);
            }
            // Not even what needs no room.
            Err(error @ RemoteError::StorageFull) => {
                client.link.failed(&error.to_string());
                // At its last moment a server finds a little more.
                let wait = if full { FULL_PAUSE } else { backoff.failed(client.random()) };
                (sent, full) = (true, true);
                tokio::time::sleep(wait).await;
            }
            Err(RemoteError::Rejected { code, message }) => {
                let error = RemoteError::Rejected { code, message };
                faults += 1;
                let most = if request.ops.len() == 1 { FAULTS_MAX / 2 } else { FAULTS_MAX };
                if !error.is_retryable() || faults >= most {
                    client.link.failed(&error.to_string());
                    return Some(CommitAnswer::Rejected(error.to_string()));
                }
                sent = true;
                pause(client, &error, backoff).await;
            }
            Err(error) => {
                sent |= !matches!(error, RemoteError::NotConnected(_));
                pause(client, &error, backoff).await;
                if !sent {
                    return Some(CommitAnswer::NotSent);
                }
            }
        }
    }
}

/// Hands an answer on; without one the client goes on as another device.
async fn answered(client: &Arc<Client>, request: &CommitRequest, speaker: Speaker, answer: Option<CommitAnswer>) {
    let Some(answer) = answer else {
        client.link.up();
        // Nothing of it has arrived, and nothing waits for an answer to it any more.
        return client.become_other(speaker).await;
    };
    if answer == CommitAnswer::NotSent {
        return not_sent(client, request);
    }
    // A server that fails at everything proves nothing.
    if !matches!(answer, CommitAnswer::Rejected(_)) {
        client.link.up();
    }
    let wants_page = matches!(answer, CommitAnswer::Conflict(_) | CommitAnswer::Missing(_) | CommitAnswer::Resync);
    match &answer {
        CommitAnswer::Committed(done) => {
            client.note_acknowledged(speaker, done.last_seq);
            held_chunks(client, request).iter().for_each(|(hash, _)| client.outbox.done(hash));
        }
        CommitAnswer::Resync => client.forget_acknowledged(),
        CommitAnswer::Held { denied, .. } => client.note_held(*denied),
        _ => {}
    }
    if let Err(error) = client.change(|engine, now| engine.committed(request.op_id, answer, now)) {
        // The engine has taken the answer; only the record is late, and the next one includes it.
        client.link.failed(&format!("the journal cannot be written: {error}"));
    }
    if wants_page {
        client.page_wanted.notify_one();
    }
}

/// What is sent when the server is there again is what is true then: a file that was made and dated while it was not
/// arrives with that date.
fn not_sent(client: &Client, request: &CommitRequest) {
    if let Err(error) = client.change(|engine, now| engine.committed(request.op_id, CommitAnswer::NotSent, now)) {
        // The record that is late says that the commit may have been sent, which is always allowed.
        client.link.failed(&format!("the journal cannot be written: {error}"));
    }
}

/// Waits after a failed request: until the server is there again if it was the link that failed, and never no time at all.
async fn pause(client: &Client, error: &RemoteError, backoff: &mut Backoff) {
    let is_away = error.scope() != Scope::Subject;
    if is_away {
        client.link.down(error);
    } else {
        client.link.failed(&error.to_string());
    }
    let wait = backoff.failed(client.random());
    // Where polls are answered with errors too, there is little hope.
    tokio::time::sleep(if client.link.is_online() { wait } else { 2 * wait }).await;
    client.link.wait_reachable(AWAY).await;
}

fn held_chunks(client: &Client, request: &CommitRequest) -> Vec<(ChunkHash, Bytes)> {
    let mut seen = HashSet::new();
    let chunks = request.contents.iter().filter(|content| content.manifest.size() <= INLINE_FILE_MAX);
    let chunks = chunks.flat_map(|content| content.manifest.extents()).filter_map(|extent| match extent {
        Extent::Chunk { hash, .. } => Some(*hash),
        Extent::Hole { .. } => None,
    });
    chunks
        .filter(|hash| seen.insert(*hash))
        .filter_map(|hash| client.outbox.get(&hash).map(|envelope| (hash, envelope)))
        .collect()
}

/// Of many small chunks only those are sent that the server lacks.
async fn unknown_chunks(client: &Client, held: &[(ChunkHash, Bytes)]) -> Result<Vec<(ChunkHash, Bytes)>, RemoteError> {
    let bytes: usize = held.iter().map(|(_, envelope)| envelope.len()).sum();
    if bytes < ASK_FIRST_BYTES {
        return Ok(held.to_vec());
    }
    let hashes: Vec<ChunkHash> = held.iter().map(|(hash, _)| *hash).collect();
    let missing: HashSet<ChunkHash> = client.remote.missing(&hashes).await?.into_iter().collect();
    Ok(held.iter().filter(|(hash, _)| missing.contains(hash)).cloned().collect())
}

/// Follows the change feed, and finds the server again when it is lost.
async fn feed(client: Arc<Client>) {
    let mut idle = Idle::default();
    let mut disbelief = Disbelief::default();
    let mut refused = 0;
    loop {
        let (ask, now, busy, speaker) = {
            let engine = client.engine.read();
            (engine.next_page(), engine.wants_page_now(), engine.has_news(), client.speaker())
        };
        if busy && client.link.is_online() {
            client.wake.notify_one();
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        }
        if let Some(wait) = client.link.pause(client.random()) {
            tokio::time::sleep(wait).await;
        }
        if busy {
            // What has come may wait for the answer to a commit, which waits for the server.
            match client.remote.folder().await {
                Ok(_) => client.link.polled(),
                Err(error) => client.link.poll_failed(&error),
            }
            continue;
        }
        disbelief.pause(&client).await;
        let online = client.link.is_online();
        let wait = if now || !online { Duration::ZERO } else { POLL_WAIT };
        let inline = if ask.since.is_some() { INLINE_FILE_MAX } else { 0 };
        let began = Instant::now();
        let poll = client.remote.changes(ask, wait, inline, Some(speaker));
        let answer = tokio::select! {
            answer = poll => answer,
            // A commit has found the server gone, or wants news at once: a held poll would sit it out.
            () = client.link.wait_offline(), if online => continue,
            // Commits that are answered in vain have pauses of their own.
            () = client.page_wanted.notified() => continue,
        };
        match answer {
            Ok(mut changes) => {
                client.link.polled();
                refused = 0;
                let is_new = ask.since != Some(changes.page.cursor);
                let has_nodes = !changes.page.nodes.is_empty();
                let news = has_nodes || changes.page.more || is_new || now;
                client.take_inline(&changes);
                client.is_asked_for(std::mem::take(&mut changes.page.wanted));
                if news {
                    client.note_formers(&changes.page.nodes);
                    client.engine.write().page(ask, changes.page);
                    client.wake.notify_one();
                }
                // One that was to find the server again was not to be held.
                if online && !(is_new && has_nodes) {
                    idle.note(&client, began).await;
                }
            }
            Err(RemoteError::Resync) => {
                tracing::warn!("the folder's history on the server is another one now; everything is compared again");
                client.link.polled();
                client.forget_acknowledged();
                client.engine.write().begin_resync();
                idle.note(&client, began).await;
            }
            Err(RemoteError::Superseded) => {
                client.link.polled();
                refused += 1;
                // A commit on its way is refused as well, or it has arrived before and its answer is worth waiting for.
                if client.look(Engine::is_committing) && refused < REFUSED_MAX {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                } else {
                    refused = 0;
                    client.become_other(speaker).await;
                    idle.note(&client, began).await;
                }
            }
            Err(error) => client.link.poll_failed(&error),
        }
    }
}

/// Polls that come back early with nothing follow each other with pauses: a few are free, and then there is one every
/// [`IDLE_EVERY`].
struct Idle {
    left: u32,
    /// When the last one that is free again became so.
    since: Instant,
}

impl Default for Idle {
    fn default() -> Self {
        Self { left: IDLE_ANSWERS_MAX, since: Instant::now() }
    }
}

impl Idle {
    /// How long the next poll has to wait after one that has brought nothing and took so long.
    fn pause(&mut self, took: Duration, now: Instant) -> Duration {
        if took >= HELD_MIN {
            return Duration::ZERO;
        }
        let freed = (now.duration_since(self.since).as_millis() / IDLE_EVERY.as_millis()) as u32;
        self.since += IDLE_EVERY * freed;
        self.left = self.left.saturating_add(freed).min(IDLE_ANSWERS_MAX);
        match self.left.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Duration::ZERO
            }
            None => {
                let wait = IDLE_EVERY.saturating_sub(now.duration_since(self.since));
                // The one that becomes free then is taken.
                self.since += IDLE_EVERY;
                wait
            }
        }
    }

    /// Waits after a poll, begun at `began`, that brought nothing; no longer than the server is there.
    async fn note(&mut self, client: &Client, began: Instant) {
        let now = Instant::now();
        let pause = self.pause(now.duration_since(began), now);
        if pause.is_zero() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = client.link.wait_offline() => {}
        }
    }
}

/// What the server says is no folder: it is asked again, with pauses.
#[derive(Default)]
struct Disbelief {
    backoff: Backoff,
    told: Option<String>,
}

impl Disbelief {
    /// Waits before a state is asked for again, if the last one was unsound. The log gets each fault once.
    async fn pause(&mut self, client: &Client) {
        let fault_of = |engine: &Engine| engine.unsound().map(ToString::to_string);
        let (unsound, begins) = client.look(|engine| (fault_of(engine), engine.begins_state()));
        match &unsound {
            Some(fault) if self.told.as_ref() != Some(fault) => {
                tracing::warn!("what the server says is no folder ({fault}): nothing of it is taken, nothing is sent");
                client.link.failed(&format!("what the server says is no folder: {fault}"));
            }
            None if self.told.is_some() => {
                tracing::info!("what the server says is a folder again");
                self.backoff.succeeded();
                client.commit_wake.notify_one();
            }
            _ => {}
        }
        self.told = unsound;
        if self.told.is_some() && begins {
            tokio::time::sleep(self.backoff.failed(client.random())).await;
        }
    }
}

/// Reads all of `buf`, or up to the end of the file.
fn read_at(mut file: &std::fs::File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    use std::io::{Read as _, Seek as _};
    file.seek(io::SeekFrom::Start(offset))?;
    let mut filled = 0;
    while filled < buf.len() {
        match file.read(&mut buf[filled..])? {
            0 => break,
            len => filled += len,
        }
    }
    Ok(filled)
}

impl Client {
    /// Small contents that came with the feed are readable without asking for them.
    fn take_inline(&self, changes: &crate::ports::Changes) {
        let chunks: std::collections::HashMap<_, _> =
            changes.chunks.iter().map(|(hash, raw)| (*hash, raw.as_slice())).collect();
        if chunks.is_empty() {
            return;
        }
        for content in changes.page.nodes.iter().filter_map(|node| node.content.as_ref()) {
            let Some(manifest) = &content.manifest else { continue };
            let here = manifest.chunks().all(|(hash, _)| chunks.contains_key(&hash));
            if manifest.extents().is_empty() || !here {
                continue;
            }
            let stored = self.cache.entry(&content.hash, &Arc::new(manifest.clone())).and_then(|entry| {
                manifest
                    .chunks()
                    .try_for_each(|(hash, _)| chunks.get(&hash).map_or(Ok(()), |raw| entry.put(&hash, raw)))
            });
            if let Err(error) = stored {
                // They can still be fetched when somebody reads them.
                tracing::debug!("a content that came with the feed was not cached: {error}");
            }
        }
    }

    /// An open file follows its node: to the new bytes, or on its own once the node is gone.
    fn refresh_open(&self, changed: &syncmount_engine::Changed) {
        let Some(file) = self.files.get(changed.node) else { return };
        let mut inner = file.inner.write();
        if inner.node != changed.node {
            return;
        }
        match self.engine.read().local(changed.node) {
            None => inner.orphan = inner.orphan.or(changed.last_attrs.map(|attrs| Last { attrs, owner: None })),
            // Removed here and brought back by an edit elsewhere: those who had it open go on with what they have.
            Some(_) if inner.orphan.is_some() => {
                drop(inner);
                self.files.detach(changed.node, &file);
            }
            Some(state) => {
                if let syncmount_engine::Body::File(syncmount_engine::FileBody::Clean(content)) = &state.body
                    && changed.content
                {
                    if file.has_writers() && (inner.generation > 0 || inner.mapped().is_some()) {
                        // Its writer goes on with its own bytes, and others find the new ones.
                        inner.apart = Some(state.attrs);
                        drop(inner);
                        return self.files.detach(changed.node, &file);
                    }
                    let before = inner.backing.clone();
                    inner.backing = crate::files::Backing::Clean(content.clone());
                    for shown in &inner.shown {
                        shown.step_out(before.content().cloned());
                    }
                    inner.told = inner.generation;
                    inner.told_ready = true;
                    inner.unsent_since = None;
                    inner.mtime = state.attrs.mtime;
                }
            }
        }
    }

    /// A chunk of a content, by its place, hash and length: from `file` if that is given, else from the cache. `None` if it is not
    /// there, or not as its hash says.
    pub(super) fn sealed_here(
        &self,
        file: Option<&std::fs::File>,
        content: &Content,
        (offset, hash, len): (u64, &ChunkHash, u32),
    ) -> io::Result<Option<Bytes>> {
        let mut raw = vec![0; len as usize];
        let here = match file {
            Some(file) => Some(read_at(file, offset, &mut raw)?),
            None => self.read_local(content, offset, &mut raw)?,
        };
        let is_here = here == Some(raw.len()) && hash.matches(&raw);
        Ok(is_here.then(|| syncmount_common::envelope::seal(&raw).into()))
    }

    /// Uploads what the server lacks of a content that is in the cache here, or in the watched folder.
    fn supply(self: &Arc<Self>, node: NodeId, content: &Content) -> Result<Arc<Content>, String> {
        let file = self.folder_file(node, &content.hash).map_err(|error| error.to_string())?;
        let deadline = Instant::now() + Duration::from_secs(30);
        let manifest = self.manifest(content, deadline).map_err(|error| error.to_string())?;
        for (offset, extent) in manifest.with_offsets() {
            let Extent::Chunk { hash, len } = extent else { continue };
            let here = self.sealed_here(file.as_ref(), content, (offset, &hash, len));
            let Some(sealed) = here.map_err(|error| error.to_string())? else {
                return Err("the server lacks bytes that are not on this machine either".into());
            };
            let sealed = [(hash, sealed)];
            self.runtime.block_on(self.remote.put(&sealed)).map_err(|error| error.to_string())?;
        }
        Ok(Arc::new(Content { manifest: Some(Manifest::clone(&manifest)), ..content.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_that_bring_nothing_are_few_and_those_that_are_held_are_free() {
        let (mut idle, begin) = (Idle::default(), Instant::now());
        let (mut now, mut polls) = (begin, 0);
        while now.duration_since(begin) < Duration::from_secs(60) {
            now += idle.pause(Duration::from_millis(2), now) + Duration::from_millis(2);
            polls += 1;
        }
        assert!((15..20).contains(&polls), "{polls} polls in a minute");
        assert_eq!(idle.pause(Duration::from_secs(55), now), Duration::ZERO);
    }

    #[test]
    fn commits_of_which_nothing_comes_follow_each_other_with_pauses() {
        let mut pauses = Pauses::default();
        let in_vain = CommitAnswer::Rejected("no".into());
        let waits: Vec<_> = (0..9).map(|_| pauses.after(Some(&in_vain), || u64::MAX)).collect();
        assert!(waits[..3].iter().all(Option::is_none), "{waits:?}");
        assert!(waits[8].is_some_and(|wait| wait > Duration::from_secs(1)), "{waits:?}");
        let done = syncmount_common::protocol::commit::Committed { first_seq: 1, last_seq: 1, tag: 1 };
        assert!(pauses.after(Some(&CommitAnswer::Committed(done)), || 0).is_none());
        assert!(pauses.after(Some(&in_vain), || 0).is_none());
    }
}
