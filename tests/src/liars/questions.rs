//! What clients ask a service for, after each commit of a liar: everything must be answered, and be right.

use super::host::Host;
use crate::sim::server::at_once;
use std::collections::BTreeSet;
use syncmount_common::protocol::changes::{ChangesPage, PAGE_NODES_MAX};
use syncmount_common::{Node, NodeId, NodeKind, Placement};
use syncmount_server::service::{Path, Service};

/// Entries of one listing.
const LIST_MAX: usize = 1_000;

/// Files of the root that are asked about one by one.
const ASKED_MAX: usize = 8;

type Answer<T> = Result<T, String>;

fn answered<T>(what: &str, result: syncmount_server::service::Result<T>) -> Answer<T> {
    result.map_err(|error| format!("no answer about {what}: {error}"))
}

/// Asks about a folder.
pub(super) fn ask(host: &Host, folder: &str) -> Answer<()> {
    let service = &host.service;
    answered("health", at_once(service.check()))?;
    answered("the folders", at_once(service.folders()))?;
    let info = answered("the folder", at_once(service.folder(folder)))?;
    answered("the history", at_once(service.history(folder, 100)))?;
    answered("what is held", at_once(service.holds(folder)))?;
    answered("what undo would do", at_once(service.undo(folder, 0, true)))?;
    let nodes = answered("the nodes", host.nodes(folder))?;
    sums(&nodes, info.nodes, info.bytes)?;
    is_folder(&nodes)?;
    let page = answered("the feed", at_once(service.changes(folder, None, PAGE_NODES_MAX, 64 << 10)))?.page;
    travels(&page)?;
    listing(service, folder, &page.nodes)
}

/// What the folder counts is what is there.
fn sums(nodes: &[Node], counted: u64, bytes: u64) -> Answer<()> {
    let live = || nodes.iter().filter(|node| !node.deleted && node.id != NodeId::ROOT);
    let sum: u128 = live().filter_map(|node| node.content.as_ref()).map(|content| u128::from(content.size)).sum();
    if sum != u128::from(bytes) {
        return Err(format!("the folder counts {bytes} bytes, and there are {sum}"));
    }
    let there = live().count() as u64;
    if there != counted && there + 1 != counted {
        return Err(format!("the folder counts {counted} nodes, and there are {there}"));
    }
    Ok(())
}

/// Each live node lies in a live directory, under a name of its own.
fn is_folder(nodes: &[Node]) -> Answer<()> {
    let live = || nodes.iter().filter(|node| !node.deleted);
    let dirs: BTreeSet<NodeId> =
        live().filter(|node| node.kind == NodeKind::Dir).map(|node| node.id).chain([NodeId::ROOT]).collect();
    let mut places: BTreeSet<&Placement> = BTreeSet::new();
    for place in live().flat_map(|node| &node.names) {
        if !dirs.contains(&place.parent) || !places.insert(place) {
            return Err(format!("{place:?} is not the name of one node in a live directory"));
        }
    }
    Ok(())
}

/// The page is the same after it has travelled.
fn travels(page: &ChangesPage) -> Answer<()> {
    let json = serde_json::to_vec(page).map_err(|error| error.to_string())?;
    let read: ChangesPage =
        serde_json::from_slice(&json).map_err(|error| format!("the feed cannot be read: {error}"))?;
    if read == *page { Ok(()) } else { Err("the feed is another one after it has travelled".to_owned()) }
}

fn listing(service: &Service, folder: &str, nodes: &[Node]) -> Answer<()> {
    let root = Path::new([]).map_err(|error| error.to_string())?;
    let listing = answered("the root", at_once(service.list(folder, &root, None, LIST_MAX)))?;
    let in_root = |node: &&Node| node.names.iter().any(|place| place.parent == NodeId::ROOT);
    if nodes.iter().filter(in_root).count() > 0 && listing.entries.is_empty() {
        return Err("the root has entries, and its listing has none".to_owned());
    }
    for entry in listing.entries.into_iter().take(ASKED_MAX) {
        let name = entry.name.ok_or("an entry has no name")?;
        let path = Path::new([name.as_bytes().to_vec()]).map_err(|error| error.to_string())?;
        answered("what is listed", at_once(service.info(folder, &path)))?;
        if entry.kind == NodeKind::File {
            answered("the versions of a file", at_once(service.versions(folder, &path)))?;
        }
    }
    Ok(())
}
