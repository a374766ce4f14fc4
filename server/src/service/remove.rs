//! Removing what is at a path: a name of a file, an empty directory, or a whole tree.

use super::path::{Walk, existing};
use super::upload::{ATTEMPTS_MAX, too_busy};
use super::{Fresh, Path, Precondition, Result, Service, ServiceError};
use crate::meta::{FolderKey, ReadTx};
use std::collections::HashSet;
use syncmount_common::protocol::commit::{OPS_MAX, Op};
use syncmount_common::{Node, NodeId, NodeKind, Placement};

/// Entries of a directory read at once.
const PAGE: usize = 1000;

impl Service {
    /// Removes what is at a path. A tree of more than [`OPS_MAX`] nodes goes in several commits, from the leaves up.
    pub async fn remove(&self, folder: &str, path: &Path, recursive: bool, precondition: &Precondition) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let (name, way, condition) = (folder.to_owned(), path.clone(), precondition.clone());
            let (walk, ops) = self.read(move |tx| plan(tx, &name, &way, recursive, &condition)).await?;
            match self.remove_all(folder, &walk, ops).await {
                Err(ServiceError::Conflict(_)) => (),
                done => return done,
            }
        }
        Err(too_busy(path))
    }

    async fn remove_all(&self, folder: &str, walk: &Walk, ops: Vec<Op>) -> Result<()> {
        for batch in ops.chunks(OPS_MAX) {
            let request = self.web_request(walk, Vec::new(), batch.to_vec());
            self.commit_fresh(folder, request, Fresh::default()).await?;
        }
        Ok(())
    }
}

fn plan(
    tx: &dyn ReadTx,
    folder: &str,
    path: &Path,
    recursive: bool,
    precondition: &Precondition,
) -> Result<(Walk, Vec<Op>)> {
    let (walk, node) = existing(tx, folder, path)?;
    precondition.check(Some(&node))?;
    let Some(place) = walk.placement(path) else {
        return Err(ServiceError::MethodNotAllowed("the root cannot be removed".to_owned()));
    };
    if node.kind == NodeKind::Dir && !recursive && tx.has_children(walk.folder.key, node.id)? {
        let text = format!("the directory `{path}` is not empty; `?recursive` removes it with all that is in it");
        return Err(ServiceError::PathConflict(text));
    }
    let ops = if node.kind == NodeKind::Dir {
        tree(tx, walk.folder.key, node)?
    } else {
        vec![without(&node, |other| *other == place)]
    };
    Ok((walk, ops))
}

/// Takes names from a node: removes it if none is left.
fn without(node: &Node, gone: impl Fn(&Placement) -> bool) -> Op {
    let left: Vec<_> = node.names.iter().filter(|place| !gone(place)).cloned().collect();
    if left.is_empty() {
        return Op::Remove { id: node.id, base: node.rev };
    }
    Op::Update { id: node.id, base: node.rev, names: Some(left), attrs: None, xattrs: None, content: None }
}

/// Operations that remove a directory and all below it, children before parents.
fn tree(tx: &dyn ReadTx, folder: FolderKey, top: Node) -> Result<Vec<Op>> {
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
        next += 1;
    }
    let gone: HashSet<NodeId> = directories.iter().map(|node| node.id).collect();
    let mut seen = HashSet::new();
    let mut ops = Vec::with_capacity(leaves.len() + directories.len());
    for id in leaves.into_iter().filter(|id| seen.insert(*id)) {
        // Read again for all its names: some may lie outside the tree.
        let node = tx.node(folder, id)?;
        ops.extend(node.map(|node| without(&node, |place| gone.contains(&place.parent))));
    }
    // A directory was found after its parent, so that the reverse order removes children first.
    ops.extend(directories.iter().rev().map(|node| Op::Remove { id: node.id, base: node.rev }));
    Ok(ops)
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
