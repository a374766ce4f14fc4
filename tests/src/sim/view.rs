//! What somebody sees of the folder, in a form that can be compared: paths and what is there.

use super::disk::Disk;
use super::server::NodeKind2;
use std::collections::BTreeMap;
use syncmount_common::{Attrs, ContentHash, Node, NodeId, Placement};
use syncmount_engine::{Body, Engine, FileBody};

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The node.
    pub id: NodeId,
    /// Mode and mtime.
    pub attrs: Attrs,
    /// What is inside.
    pub inside: Inside,
}

/// What is inside a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Inside {
    /// Entries.
    Dir,
    /// A symlink's target.
    Link(Vec<u8>),
    /// The bytes of this content.
    Bytes(ContentHash),
    /// The bytes of this staging file, whatever they are.
    Staged(Option<u64>),
    /// A node of the feed without what its kind needs.
    Broken,
}

/// A tree by path.
pub type View = BTreeMap<String, Seen>;

/// What the user of an engine sees. Drafts are told as the bytes in their staging files, or, without a disk, as the
/// staging files themselves.
pub fn of_engine(engine: &Engine, disk: Option<&Disk>) -> View {
    let mut view = View::new();
    let mut todo = vec![(String::new(), NodeId::ROOT)];
    while let Some((path, id)) = todo.pop() {
        for (name, child) in engine.children(id) {
            let path = format!("{path}/{name}");
            let Some(state) = engine.local(child) else { continue };
            let inside = inside(&state.body, disk);
            view.insert(path.clone(), Seen { id: child, attrs: state.attrs, inside });
            todo.push((path, child));
        }
    }
    view
}

fn inside(body: &Body, disk: Option<&Disk>) -> Inside {
    match body {
        Body::Dir => Inside::Dir,
        Body::Symlink(target) => Inside::Link(target.as_bytes().to_vec()),
        Body::File(FileBody::Clean(content)) => Inside::Bytes(content.hash),
        Body::File(FileBody::Draft(draft)) => match disk {
            None => Inside::Staged(draft.staging),
            Some(disk) => {
                let bytes = draft.staging.and_then(|id| disk.read(id)).unwrap_or_default();
                Inside::Bytes(super::bytes::content_of(&bytes).hash)
            }
        },
    }
}

/// What the nodes of a whole feed make up. A node whose directories do not lead to the root has the path `?`.
pub fn of_nodes(nodes: &[Node]) -> View {
    let live: BTreeMap<NodeId, &Node> = nodes.iter().filter(|node| !node.deleted).map(|node| (node.id, node)).collect();
    let mut view = View::new();
    for node in live.values().filter(|node| node.id != NodeId::ROOT) {
        for place in &node.names {
            let path = path(&live, place).unwrap_or_else(|| format!("?/{:?}", node.id));
            view.insert(path, Seen { id: node.id, attrs: node.attrs, inside: inside_node(node) });
        }
    }
    view
}

fn inside_node(node: &Node) -> Inside {
    match (NodeKind2::from(node.kind), &node.content, &node.target) {
        (NodeKind2::Dir, None, None) => Inside::Dir,
        (NodeKind2::File, Some(content), None) => Inside::Bytes(content.hash),
        (NodeKind2::Symlink, None, Some(target)) => Inside::Link(target.as_bytes().to_vec()),
        _ => Inside::Broken,
    }
}

fn path(live: &BTreeMap<NodeId, &Node>, place: &Placement) -> Option<String> {
    let mut path = format!("/{}", place.name);
    let mut at = place.parent;
    for _ in 0..=live.len() {
        if at == NodeId::ROOT {
            return Some(path);
        }
        let place = live.get(&at)?.names.first()?;
        path = format!("/{}{path}", place.name);
        at = place.parent;
    }
    None
}

/// The first difference between two trees, for people.
pub fn difference(a: &View, b: &View) -> Option<String> {
    let paths = a.keys().chain(b.keys());
    let differs = paths.into_iter().find(|path| a.get(*path) != b.get(*path))?;
    Some(format!("`{differs}`: {:?} and {:?}", a.get(differs), b.get(differs)))
}
