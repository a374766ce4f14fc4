//! What would be done: everything is decided as ever, on a copy of the state, and nothing is carried out.

use super::beneath::Root;
use super::folder::Folder;
use super::index::{ROOT_ITEM, folder_id, folder_root};
use super::marker::MarkerError;
use super::names;
use super::observe::{Doubts, Removals};
use super::scan::{Rules, Scope};
use crate::cli::Owners;
use crate::config::{Dirs, MountConfig, StartError};
use crate::control::ControlSocket;
use crate::driver::Client;
use crate::join::open_client;
use crate::remote::ServerUrl;
use crate::terminal;
use anyhow::Context;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use syncmount_common::NodeId;

/// A directory that goes with its owner.
struct Copied(PathBuf);

impl Drop for Copied {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            terminal::complain(format_args!("{} cannot be removed: {error}", self.0.display()));
        }
    }
}

/// Says what `watch` would do with this folder now, a line each. Changes nothing, here or at the server.
pub fn dry_run(config: &MountConfig) -> anyhow::Result<Vec<String>> {
    let dirs = Dirs::of_user()?;
    let _claim = ControlSocket::claim(&dirs, &config.mountpoint)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let url: ServerUrl = config.server.parse().map_err(StartError::ServerUrl)?;
    let remote = Arc::new(config.remote(&url)?);
    let copy = copy_state(&config.cache_dir)?;
    let config = &MountConfig { cache_dir: copy.0.clone(), cache_size: 1 << 20, ..config.clone() };
    let client = open_client(config, remote, runtime.handle())?;
    client.apply_owners(config.owners == Owners::Synced);
    let rows = client.take_items();
    let root = Root::open(&config.mountpoint)?;
    let (is_known, known_root) = (folder_id(&rows).is_some(), folder_root(&rows));
    let has_marker = root.print(Path::new(names::MARKER))?.is_some();
    let mut folder = Folder::at(client.clone(), root, rows)?;
    if is_known && !has_marker && !folder.has_what_was_in_its_root() {
        return Err(MarkerError::missing(&config.mountpoint).into());
    }
    if known_root.is_some_and(|known| folder.root_file().is_ok_and(|found| found != known)) {
        folder.forget(ROOT_ITEM);
    }
    client.read_feed().with_context(|| format!("{} cannot be asked", config.server))?;
    let rules = Rules { rested_before: i64::MAX, all: false, clears: false, owners: false };
    let seen = folder.scan(&Scope::everything(), rules, &BTreeSet::new());
    folder.take_seen(seen, Removals::All, &mut Doubts::default())?;
    folder.compare_all();
    let mut lines = outgoing(&client);
    lines.extend(incoming(&folder));
    drop(folder);
    client.close().context("the copy of the state")?;
    drop(client);
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    Ok(lines)
}

/// The state without what is cached or staged.
fn copy_state(from: &Path) -> io::Result<Copied> {
    let name = format!("syncmount-dry-run-{}-{:x}", std::process::id(), getrandom::u64().map_err(io::Error::other)?);
    let copy = Copied(std::env::temp_dir().join(name));
    crate::system::private::create_dir_all(&copy.0)?;
    for dir in ["", "journal", "manifests"] {
        let entries = match fs::read_dir(from.join(dir)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        crate::system::private::create_dir_all(&copy.0.join(dir))?;
        for entry in entries {
            let entry = entry?;
            if entry.file_type()?.is_file() {
                fs::copy(entry.path(), copy.0.join(dir).join(entry.file_name()))?;
            }
        }
    }
    Ok(copy)
}

fn outgoing(client: &Client) -> Vec<String> {
    client.look(|engine| {
        let path = |id| engine.path(id).unwrap_or_else(|| "(removed)".into());
        let mut lines: Vec<String> = Vec::new();
        for id in engine.ids() {
            let Some(entry) = engine.entry(id).filter(|entry| entry.is_dirty()) else { continue };
            let old = entry.synced_state().and_then(|state| {
                let place = state.names.first()?;
                let above = path(place.parent);
                Some(if above.is_empty() { place.name.to_string() } else { format!("{above}/{}", place.name) })
            });
            let line = match (&entry.local, entry.synced_state()) {
                (Some(_), None) => format!("send {}", path(id)),
                (None, _) => format!("remove {} elsewhere", old.unwrap_or_default()),
                (Some(local), Some(synced)) => {
                    if local.names != synced.names {
                        lines.push(format!("rename {} to {} elsewhere", old.unwrap_or_default(), path(id)));
                    }
                    if local.body.same_as(&synced.body) && local.attrs == synced.attrs {
                        continue;
                    }
                    let what = if local.body.same_as(&synced.body) { "send mode and time of" } else { "send" };
                    format!("{what} {}", path(id))
                }
            };
            lines.push(line);
        }
        lines.sort();
        lines
    })
}

fn incoming(folder: &Folder<Arc<Client>>) -> Vec<String> {
    let line = |node: &NodeId| {
        folder.with(|engine, index| {
            let here = index.of_node(*node).and_then(|id| index.path(id));
            let here = here.map(|path| path.display().to_string());
            match (engine.local(*node), here) {
                (None, None) => None,
                (None, Some(here)) => Some(format!("remove {here} here")),
                (Some(_), None) => Some(format!("fetch {}", engine.path(*node)?)),
                (Some(_), Some(here)) => {
                    let there = engine.path(*node)?;
                    let is_there = here == there;
                    super::apply::differs(engine, index, *node).then(|| {
                        if is_there { format!("change {here} here") } else { format!("rename {here} to {there} here") }
                    })
                }
            }
        })
    };
    let mut lines: Vec<String> = folder.todo.iter().filter_map(line).collect();
    lines.sort();
    lines
}
