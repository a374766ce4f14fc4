//! Removing what is at a path: a name of a file, an empty directory, or a whole tree.

use super::commit::Step;
use super::path::existing;
use super::undo::step;
use super::upload::{ATTEMPTS_MAX, too_busy, web_device};
use super::whole::{Author, check_count};
use super::{Path, Precondition, Result, Service, ServiceError};
use crate::meta::{FolderKey, ReadTx};
use std::collections::HashSet;
use syncmount_common::{Node, NodeId, NodeKind, Placement};

/// Entries of a directory read at once.
const PAGE: usize = 1000;

impl Service {
    /// Removes what is at a path, with all that is in it or not at all.
    pub async fn remove(&self, folder: &str, path: &Path, recursive: bool, precondition: &Precondition) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let (name, way, condition) = (folder.to_owned(), path.clone(), precondition.clone());
            let steps = self.read(move |tx| plan(tx, &name, &way, recursive, &condition)).await?;
            match self.change_whole(folder, Author { device: web_device(), is_counted: true }, steps).await {
                Err(ServiceError::Conflict(_)) => (),
                done => return done.map(drop),
            }
        }
        Err(too_busy(path))
    }
}

fn plan(tx: &dyn ReadTx, folder: &str, path: &Path, recursive: bool, precondition: &Precondition) -> Result<Vec<Step>> {
    let (walk, node) = existing(tx, folder, path)?;
    precondition.check(Some(&node))?;
    let Some(place) = walk.placement(path) else {
        return Err(ServiceError::MethodNotAllowed("the root cannot be removed".to_owned()));
    };
    if node.kind == NodeKind::Dir && !recursive && tx.has_children(walk.folder.key, node.id)? {
        let text = format!("the directory `{path}` is not empty; `?recursive` removes it with all that is in it");
        return Err(ServiceError::PathConflict(text));
    }
    if node.kind == NodeKind::Dir {
        return tree(tx, walk.folder.key, node);
    }
    Ok(without(node, |other| *other == place).into_iter().collect())
}

/// Takes names from a node: removes it if none is left.
fn without(node: Node, gone: impl Fn(&Placement) -> bool) -> Option<Step> {
    let names: Vec<_> = node.names.iter().filter(|place| !gone(place)).cloned().collect();
    let left = (!names.is_empty()).then(|| Node { names, ..node.clone() });
    step(node, left)
}

/// Steps that remove a directory and all below it, children before parents.
fn tree(tx: &dyn ReadTx, folder: FolderKey, top: Node) -> Result<Vec<Step>> {
    let mut directories = vec![top];
    let mut leaves: Vec<NodeId> = Vec::new();
    let mut next = 0;
    while next < directories.len() {
        for node in entries(tx, folder, directories[next].id)? {
            if node.kind == NodeKind::Dir {
                directories.push(node);
            } else {
                leaves.push(node.id);
            }
        }
        check_count(directories.len() + leaves.len())?;
        next += 1;
    }
    let gone: HashSet<NodeId> = directories.iter().map(|node| node.id).collect();
    let mut seen = HashSet::new();
    let mut steps = Vec::with_capacity(leaves.len() + directories.len());
    for id in leaves.into_iter().filter(|id| seen.insert(*id)) {
        // Read again for all its names: some may lie outside the tree.
        let node = tx.node(folder, id)?;
        steps.extend(node.and_then(|node| without(node, |place| gone.contains(&place.parent))));
    }
    // A directory was found after its parent, so that the reverse order removes children first.
    steps.extend(directories.into_iter().rev().filter_map(|node| step(node, None)));
    Ok(steps)
}

fn entries(tx: &dyn ReadTx, folder: FolderKey, directory: NodeId) -> Result<Vec<Node>> {
    let mut nodes = Vec::new();
    let mut after = None;
    loop {
        let page = tx.children(folder, directory, after.as_ref(), PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(nodes) };
        after = Some(last.clone());
        nodes.extend(page.into_iter().map(|(_, node)| node));
    }
}
