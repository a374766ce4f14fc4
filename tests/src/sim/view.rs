//! What somebody sees of the folder, in a form that can be compared: paths and what is there.

use super::bytes::{Library, content_of};
use super::device::left_behind;
use super::disk::Disk;
use super::server::NodeKind2;
use std::collections::BTreeMap;
use syncmount_common::{Attrs, ContentHash, Node, NodeId, Placement, Xattrs};
use syncmount_engine::{Body, Draft, Engine, FileBody};

/// What is at a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// The node.
    pub id: NodeId,
    /// Mode and mtime.
    pub attrs: Attrs,
    /// Its extended attributes.
    pub xattrs: Xattrs,
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
    /// The bytes that this draft stands for, whatever they are.
    Staged(Box<Draft>),
    /// A draft whose bytes are not all to be had.
    Lacking,
    /// A node of the feed without what its kind needs.
    Broken,
}

/// A tree by path.
pub type View = BTreeMap<String, Seen>;

/// What the user of an engine sees. Drafts are told as the bytes that they stand for, or, without a disk, as what they are
/// made up from.
pub fn of_engine(engine: &Engine, disk: Option<(&Disk, &Library)>) -> View {
    let mut view = View::new();
    let mut todo = vec![(String::new(), NodeId::ROOT)];
    while let Some((path, id)) = todo.pop() {
        for (name, child) in engine.children(id) {
            let path = format!("{path}/{name}");
            let Some(state) = engine.local(child) else { continue };
            let inside = inside(&state.body, disk);
            view.insert(path.clone(), Seen { id: child, attrs: state.attrs, xattrs: state.xattrs.clone(), inside });
            todo.push((path, child));
        }
    }
    view
}

/// The part of it that is in the folder, and the part that is on this machine only.
pub fn parts(engine: &Engine, disk: &Disk, library: &Library) -> (View, View) {
    of_engine(engine, Some((disk, library))).into_iter().partition(|(_, seen)| !engine.stays_here(seen.id))
}

fn inside(body: &Body, disk: Option<(&Disk, &Library)>) -> Inside {
    match (body, disk) {
        (Body::Dir, _) => Inside::Dir,
        (Body::Symlink(target), _) => Inside::Link(target.as_bytes().to_vec()),
        (Body::File(FileBody::Clean(content)), _) => Inside::Bytes(content.hash),
        (Body::File(FileBody::Draft(draft)), Some((disk, library))) => bytes_inside(draft, disk, library),
        (Body::File(FileBody::Draft(draft)), None) => {
            // What it is, not how far it has got on its way to the server.
            Inside::Staged(Box::new(Draft { prepared: None, generation: 0, ..Draft::clone(draft) }))
        }
    }
}

fn bytes_inside(draft: &Draft, disk: &Disk, library: &Library) -> Inside {
    let base = draft.base.as_ref().and_then(|base| library.get(base.hash));
    let bytes = disk.draft_bytes(draft, base.map(|bytes| &**bytes));
    bytes.map_or(Inside::Lacking, |bytes| Inside::Bytes(content_of(&bytes).hash))
}

/// What will be seen after the process has ended: the same with the bytes of drafts.
pub fn resolved(view: &View, disk: &Disk, library: &Library) -> View {
    let resolve = |seen: &Seen| match &seen.inside {
        Inside::Staged(draft) => {
            Seen { inside: bytes_inside(&left_behind(draft, disk), disk, library), ..seen.clone() }
        }
        _ => seen.clone(),
    };
    view.iter().map(|(path, seen)| (path.clone(), resolve(seen))).collect()
}

/// What the nodes of a whole feed make up. A node whose directories do not lead to the root has the path `?`.
pub fn of_nodes(nodes: &[Node]) -> View {
    let live: BTreeMap<NodeId, &Node> = nodes.iter().filter(|node| !node.deleted).map(|node| (node.id, node)).collect();
    let mut view = View::new();
    for node in live.values().filter(|node| node.id != NodeId::ROOT) {
        for place in &node.names {
            let path = path(&live, place).unwrap_or_else(|| format!("?/{:?}", node.id));
            view.insert(
                path,
                Seen { id: node.id, attrs: node.attrs, xattrs: node.xattrs.clone(), inside: inside_node(node) },
            );
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

/// The same tree as it is where owners are not applied.
pub fn without_owners(view: &View) -> View {
    let plain = |seen: &Seen| Seen { xattrs: seen.xattrs.with_owner(None), ..seen.clone() };
    view.iter().map(|(path, seen)| (path.clone(), plain(seen))).collect()
}

/// The first difference between two trees, for people.
pub fn difference(a: &View, b: &View) -> Option<String> {
    let paths = a.keys().chain(b.keys());
    let differs = paths.into_iter().find(|path| a.get(*path) != b.get(*path))?;
    Some(format!("`{differs}`: {:?} and {:?}", a.get(differs), b.get(differs)))
}
