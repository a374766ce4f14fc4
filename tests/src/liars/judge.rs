//! What must hold of one engine at any time, and of all of them at the end.

use super::device::Device;
use super::host::Host;
use crate::sim::bytes::content_of;
use crate::sim::view::{self, Inside, View};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::{ContentHash, NodeId, NodeKind, Placement, envelope};
use syncmount_engine::{Engine, Entry, State};
use syncmount_server::FIRST_FOLDER;

/// Both views of an engine's tree are folders: what its user sees, and what it believes the server to have.
pub(super) fn sound(engine: &Engine) -> Result<(), String> {
    let local = |id: NodeId| engine.local(id);
    let synced = |id: NodeId| engine.entry(id).and_then(Entry::synced_state);
    let ids: Vec<NodeId> = engine.ids().filter(|id| *id != NodeId::ROOT).collect();
    is_folder(&ids, &local).map_err(|fault| format!("what the user sees is no folder: {fault}"))?;
    is_folder(&ids, &synced).map_err(|fault| format!("what the server is believed to have is no folder: {fault}"))?;
    for id in ids {
        for place in local(id).iter().flat_map(|state| &state.names) {
            if engine.child(place.parent, place.name.as_bytes()) != Some(id) {
                return Err(format!("{id:?} is not found under its name {}", place.name));
            }
        }
    }
    Ok(())
}

fn is_folder<'a>(ids: &[NodeId], of: &dyn Fn(NodeId) -> Option<&'a Arc<State>>) -> Result<(), String> {
    let mut places: BTreeMap<&Placement, NodeId> = BTreeMap::new();
    let is_dir = |id: NodeId| id == NodeId::ROOT || of(id).is_some_and(|state| state.kind() == NodeKind::Dir);
    for (id, state) in ids.iter().filter_map(|id| Some((*id, of(*id)?))) {
        if state.names.is_empty() || state.kind() == NodeKind::Dir && state.names.len() != 1 {
            return Err(format!("{id:?} has {} names", state.names.len()));
        }
        for place in &state.names {
            if !is_dir(place.parent) {
                return Err(format!("{id:?}, named {}, lies in {:?}, which is no directory", place.name, place.parent));
            }
            if let Some(other) = places.insert(place, id) {
                return Err(format!("{id:?} and {other:?} have the name {}", place.name));
            }
        }
        let (mut at, mut steps) = (id, 0);
        while at != NodeId::ROOT {
            let parent = of(at).and_then(|state| state.names.first()).map(|place| place.parent);
            at = parent.ok_or_else(|| format!("the way up from {id:?} ends at {at:?}"))?;
            steps += 1;
            if steps > ids.len() {
                return Err(format!("{id:?} lies in itself"));
            }
        }
    }
    Ok(())
}

fn current(tree: &View) -> BTreeSet<ContentHash> {
    tree.values().filter_map(|seen| if let Inside::Bytes(hash) = seen.inside { Some(hash) } else { None }).collect()
}

/// What users have written that must outlive the lies: with whether it must be in the folder, or in its history at least.
#[derive(Default)]
pub(super) struct Owed {
    current: BTreeMap<ContentHash, String>,
    kept: BTreeMap<ContentHash, String>,
}

impl Owed {
    /// Notes what a device shows and has the bytes of. What the service has taken already, others may have done away with.
    pub(super) fn note(&mut self, device: &Device, host: &Host) {
        for (_, draft) in device.engine.stagings() {
            let Some(bytes) = draft.staging.and_then(|id| device.staging.get(&id)) else { continue };
            let hash = content_of(bytes).hash;
            let owed = if host.has_acknowledged(hash) { &mut self.kept } else { &mut self.current };
            owed.insert(hash, String::from_utf8_lossy(bytes).into_owned());
        }
        for (_, content) in device.engine.contents() {
            let Some(bytes) = device.cache.get(&content.hash) else { continue };
            self.kept.insert(content.hash, String::from_utf8_lossy(bytes).into_owned());
        }
    }

    /// What is owed is there, with its bytes.
    pub(super) fn check(&self, host: &Host) -> Result<(), String> {
        let nodes = host.nodes(FIRST_FOLDER).map_err(|error| error.to_string())?;
        let current = current(&view::of_nodes(&nodes));
        if let Some((_, bytes)) = self.current.iter().find(|(hash, _)| !current.contains(hash)) {
            return Err(format!("{bytes:?} was not sent when the lies ended, and is not in the folder"));
        }
        let lost = self.kept.iter().find(|(hash, _)| !current.contains(hash) && !host.has_acknowledged(**hash));
        if let Some((_, bytes)) = lost {
            return Err(format!(
                "{bytes:?} was shown when the lies ended, and is neither in the folder nor in its history"
            ));
        }
        Ok(())
    }
}

/// Whatever the service has acknowledged can be had from it, byte by byte.
pub(super) fn acknowledged_is_there(host: &Host, small: u64) -> Result<(), String> {
    for hash in host.acknowledged() {
        let (manifest, chunks) = host.told(*hash).map_err(|error| format!("content {hash}: {error}"))?;
        if manifest.content_hash() != *hash {
            return Err(format!("content {hash} has another manifest"));
        }
        if manifest.size() > small {
            continue;
        }
        for (chunk, sealed) in chunks {
            envelope::open(&chunk, &sealed).map_err(|error| format!("content {hash}: chunk {chunk}: {error}"))?;
        }
    }
    Ok(())
}

/// All devices show what the folder has, and have nothing left to send.
pub(super) fn all_agree(devices: &[Device], host: &Host) -> Result<(), String> {
    let nodes = host.nodes(FIRST_FOLDER).map_err(|error| error.to_string())?;
    let tree = view::of_nodes(&nodes);
    for device in devices {
        let name = &device.named.name;
        if let Some(difference) = view::difference(&tree, &view::of_engine(&device.engine, None)) {
            return Err(format!("the folder and {name} differ at {difference}"));
        }
        if device.engine.has_work() || device.is_waiting() {
            return Err(format!("{name} has {:?} left to send", device.engine.pending()));
        }
        if !device.staging.is_empty() || !device.unacknowledged.is_empty() {
            return Err(format!("{name} leaves staging files behind"));
        }
    }
    Ok(())
}
