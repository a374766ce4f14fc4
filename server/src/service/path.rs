//! Paths of the plain file API, and what the tree has at them. Only this API knows paths; the tree itself has names.

use super::{Result, ServiceError, folder};
use crate::meta::{FolderRow, ReadTx};
use std::fmt;
use syncmount_common::{Name, Node, NodeId, NodeKind, Placement};

/// A path from the root: valid names. Empty for the root itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path(Vec<Name>);

impl Path {
    /// Checks each component.
    pub fn new(components: impl IntoIterator<Item = Vec<u8>>) -> Result<Self> {
        let checked = components.into_iter().map(|bytes| {
            let shown = String::from_utf8_lossy(&bytes).into_owned();
            Name::new(bytes).map_err(|error| ServiceError::Invalid(format!("`{shown}` in the path: {error}")))
        });
        checked.collect::<Result<_>>().map(Self)
    }

    /// The last component; none for the root.
    pub fn name(&self) -> Option<&Name> {
        self.0.last()
    }

    pub(super) fn names(&self) -> &[Name] {
        &self.0
    }

    fn up_to(&self, depth: usize) -> Self {
        Self(self.0[..depth].to_vec())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

/// How far a path leads into the present tree.
pub(super) struct Walk {
    pub(super) folder: FolderRow,
    /// What is at the path, if anything is.
    pub(super) node: Option<Node>,
    /// The deepest directory on the way that exists (the parent, if the node does).
    pub(super) parent: NodeId,
    /// How many components lead to that directory.
    pub(super) depth: usize,
}

impl Walk {
    /// Where the node is or would be, if its parent exists.
    pub(super) fn placement(&self, path: &Path) -> Option<Placement> {
        let name = path.name()?.clone();
        (self.depth + 1 == path.names().len()).then_some(Placement { parent: self.parent, name })
    }
}

/// Follows a path. Fails where it leads through something that is no directory.
pub(super) fn walk(tx: &dyn ReadTx, folder_name: &str, path: &Path) -> Result<Walk> {
    let folder = folder(tx, folder_name)?;
    let mut walk = Walk { node: tx.node(folder.key, NodeId::ROOT)?, folder, parent: NodeId::ROOT, depth: 0 };
    for (depth, name) in path.names().iter().enumerate() {
        let Some(directory) = walk.node.take() else { break };
        if directory.kind != NodeKind::Dir {
            let way = path.up_to(depth);
            return Err(ServiceError::PathConflict(format!("`{way}` is no directory: nothing can be below it")));
        }
        (walk.parent, walk.depth) = (directory.id, depth);
        if let Some(id) = tx.child(walk.folder.key, directory.id, name)? {
            walk.node = tx.node(walk.folder.key, id)?;
        }
    }
    Ok(walk)
}

/// Follows a path to something that exists.
pub(super) fn existing(tx: &dyn ReadTx, folder: &str, path: &Path) -> Result<(Walk, Node)> {
    let mut walk = walk(tx, folder, path)?;
    let node = walk.node.take().ok_or_else(|| nothing_at(path))?;
    Ok((walk, node))
}

pub(super) fn nothing_at(path: &Path) -> ServiceError {
    ServiceError::NotFound(format!("there is nothing at `{path}`"))
}
