//! The begin of a client, whether it mounts or watches: its store, its server, the first state of the folder; and what of it
//! needs a person's eye.

use crate::config::MountConfig;
use crate::driver::{Client, KEPT_TENTHS, OpenError};
use crate::ports::{Remote, RemoteError};
use crate::ready::Ready;
use crate::remote::{HttpRemote, ServerUrl};
use crate::status::{Problem, ProblemKind};
use indicatif::HumanBytes;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the start says that it is still at it.
const PATIENCE_STEP: Duration = Duration::from_secs(10);

/// Why a folder cannot be joined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JoinError {
    #[error(
        "{server} cannot be reached ({reason}); the first mount of a folder needs its server, later ones do not. Check the \
         address and whether the server runs"
    )]
    FirstNeedsServer { server: String, reason: String },
    #[error(
        "{server} refuses the token; get one with `syncmount-server token add NAME` and run `syncmount login {server}`"
    )]
    Token { server: String },
    #[error("{server} has no folder `{folder}`; `syncmount-server folder list` shows what there is, --folder chooses")]
    NoFolder { server: String, folder: String },
    #[error("{server} answers, but not as it should: {reason}")]
    Server { server: String, reason: String },
}

/// Whoever waits for a start hears that it goes on.
pub(crate) async fn say_now_and_then(ready: Ready, what: &'static str) {
    loop {
        tokio::time::sleep(PATIENCE_STEP).await;
        ready.wait(what);
    }
}

pub(crate) fn open_client(
    config: &MountConfig,
    remote: Arc<HttpRemote>,
    runtime: &tokio::runtime::Handle,
) -> Result<Arc<Client>, OpenError> {
    let identity = format!("{} at {}", config.folder, config.server);
    let name = &config.device_name;
    let client = Client::open_store(&config.cache_dir, config.cache_size, &identity, name, remote, runtime.clone())?;
    if config.server.parse().is_ok_and(|url: ServerUrl| url.is_in_clear()) {
        client.note(in_clear(&config.server));
    }
    Ok(client)
}

/// What is said of a server that is reached without encryption, over a network.
fn in_clear(server: &str) -> String {
    format!(
        "nothing that goes to {server} and comes from there is encrypted: the token and all files can be read on the way. Use \
         https://. A proxy is only used for it with --insecure-http"
    )
}

pub(crate) async fn check_server(remote: &HttpRemote, config: &MountConfig) -> Result<(), JoinError> {
    let server = config.server.clone();
    match remote.folder().await {
        Ok(_) => Ok(()),
        Err(RemoteError::Unauthorized) => Err(JoinError::Token { server }),
        Err(RemoteError::FolderNotFound) => Err(JoinError::NoFolder { server, folder: config.folder.clone() }),
        Err(RemoteError::NotConnected(reason) | RemoteError::Unreachable(reason)) => {
            Err(JoinError::FirstNeedsServer { server, reason })
        }
        Err(error) => Err(JoinError::Server { server, reason: error.to_string() }),
    }
}

/// A first mount shows the folder only once it is known whole: half a folder would look like lost files.
pub(crate) fn await_first_state(client: &Client, ready: &Ready) -> anyhow::Result<()> {
    let begin = Instant::now();
    let mut said = begin;
    while !client.look(syncmount_engine::Engine::has_joined) {
        std::thread::sleep(Duration::from_millis(2));
        if said.elapsed() > PATIENCE_STEP {
            said = Instant::now();
            ready.wait("reading the list of files from the server");
        }
        if let Some((_, why)) = client.unsound() {
            anyhow::bail!("{why}");
        }
        if !client.link.is_online() && begin.elapsed() > Duration::from_secs(60) {
            let why = client.link.last_error().map_or_else(String::new, |(_, why)| why);
            anyhow::bail!("the list of files could not be read from the server: {why}");
        }
    }
    Ok(())
}

/// What needs a person's eye, what concerns everything first.
pub(crate) fn problems_of(client: &Client) -> Vec<Problem> {
    let about_all = |kind, reason| Problem { kind, path: String::new(), reason };
    let mut problems: Vec<Problem> =
        client.notes().into_iter().map(|note| about_all(ProblemKind::Note, note)).collect();
    problems.extend(client.unsound().map(|(path, reason)| Problem { kind: ProblemKind::Note, path, reason }));
    problems.extend(client.held().map(|(count, reason)| {
        let removals = if count == 1 { "1 removal".into() } else { format!("{count} removals") };
        about_all(ProblemKind::Held, format!("{removals}: {reason}"))
    }));
    problems.extend(client.lost().into_iter().map(|lost| {
        let reason = format!("{}; {} bytes of it lie in {}", lost.reason, lost.len, lost.path.display());
        Problem { kind: ProblemKind::SetAside, path: lost.label, reason }
    }));
    let pinned = client.pinned_all();
    if pinned.left_out > 0 {
        let room = HumanBytes(client.cache().limit() / 10 * KEPT_TENTHS);
        let reason = format!(
            "what is pinned takes more than the {room} of the cache that it may have; files left out: {}. Mount with a \
             larger --cache-size or unpin something",
            pinned.left_out
        );
        problems.push(about_all(ProblemKind::Note, reason));
    }
    if let Some((files, bytes)) = client.pins_waiting_for_room() {
        let reason = format!(
            "the disk of the cache has no room for all that is pinned; files that wait: {files}, of which one needs {} more. \
             They are fetched when there is room",
            HumanBytes(bytes)
        );
        problems.push(about_all(ProblemKind::Note, reason));
    }
    let bad_rule = |(path, reason)| Problem { kind: ProblemKind::Note, path, reason };
    problems.extend(client.bad_rules().into_iter().map(bad_rule));
    let unsent = |(path, reason)| Problem { kind: ProblemKind::Unsent, path, reason };
    problems.extend(client.problems().into_iter().map(unsent));
    let unreadable = |(path, reason)| Problem { kind: ProblemKind::Note, path, reason };
    problems.extend(client.unreadable().into_iter().map(unreadable));
    problems.extend(client.conflicts().into_iter().map(|path| Problem {
        kind: ProblemKind::Conflict,
        path,
        reason: "it was changed on two devices; keep what you want of it and of the file beside it".into(),
    }));
    problems
}
