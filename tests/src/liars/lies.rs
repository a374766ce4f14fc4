//! What a lying server makes of a page: lies that make no folder, and lies that do.

use super::user::{name, some_name};
use crate::sim::Rng;
use crate::sim::bytes::content_of;
use std::collections::BTreeMap;
use syncmount_common::protocol::changes::{ChangesPage, Device};
use syncmount_common::{
    Attrs, Content, DeviceId, Epoch, Extent, FolderId, Manifest, Node, NodeId, NodeKind, Placement, SymlinkTarget,
    Timestamp, Xattrs,
};

/// Made-up nodes have few ids, so that later lies meet earlier ones.
const MADE_UP: u64 = 6;

/// One liar's manner.
pub(super) struct Lies<'a> {
    pub(super) rng: &'a mut Rng,
    /// What the device has been told or could have been.
    pub(super) known: &'a BTreeMap<NodeId, Node>,
    /// The device that is lied to.
    pub(super) device: DeviceId,
    /// How many of 1,000 lies make no folder by themselves.
    pub(super) wild: u64,
}

impl Lies<'_> {
    /// Changes a page.
    pub(super) fn tell(&mut self, page: &mut ChangesPage) {
        for _ in 0..=self.rng.below(3) {
            if self.rng.chance(self.wild) {
                self.wild_lie(page);
            } else {
                self.plausible_lie(page);
            }
        }
    }

    fn some_known(&mut self, fits: impl Fn(&Node) -> bool) -> Option<Node> {
        let nodes: Vec<&Node> = self.known.values().filter(|node| node.id != NodeId::ROOT && fits(node)).collect();
        self.rng.pick(&nodes).map(|node| (*node).clone())
    }

    fn live_dir(&mut self) -> NodeId {
        let dir = self.some_known(|node| !node.deleted && node.kind == NodeKind::Dir);
        if self.rng.chance(300) { NodeId::ROOT } else { dir.map_or(NodeId::ROOT, |node| node.id) }
    }

    /// A node that may be anything.
    fn any_id(&mut self) -> NodeId {
        match self.rng.below(4) {
            0 => NodeId::ROOT,
            1 => made_up(self.rng.below(MADE_UP)),
            _ => self.some_known(|_| true).map_or(NodeId::ROOT, |node| node.id),
        }
    }

    /// Bytes that no party has, or those of another file.
    fn some_content(&mut self) -> Content {
        let other = self.some_known(|node| node.content.is_some()).and_then(|node| node.content);
        match (self.rng.below(3), other) {
            (0, Some(content)) => content,
            (1, _) => {
                let len = [1, 1 << 30, (1 << 53) - 1, 1 << 53, i64::MAX as u64][self.rng.index(5)];
                Content::of(Manifest::new(vec![Extent::Hole { len }]).unwrap_or_default(), None)
            }
            _ => content_of(format!("a lie {}", self.rng.below(20)).as_bytes()),
        }
    }

    fn invented(&mut self, rev: u64) -> Node {
        let kind = [NodeKind::File, NodeKind::Dir, NodeKind::Symlink][self.rng.index(3)];
        let place = Placement { parent: self.live_dir(), name: some_name(self.rng) };
        let content = (kind == NodeKind::File).then(|| self.some_content());
        let target = SymlinkTarget::new(&b"/etc/passwd"[..]).ok().filter(|_| kind == NodeKind::Symlink);
        let author = if self.rng.chance(300) { self.device } else { DeviceId::from_bytes([0xEE; 16]) };
        let mtime = Timestamp([0, i64::MAX, i64::MIN, super::host::BEGIN][self.rng.index(4)]);
        Node {
            id: made_up(self.rng.below(MADE_UP)),
            rev,
            kind,
            deleted: false,
            names: vec![place],
            attrs: Attrs { mode: 0o7777, mtime },
            xattrs: Xattrs::default(),
            content,
            target,
            author,
            content_rev: rev,
            content_author: author,
            changed: None,
        }
    }

    /// Something that an honest server could say; it may be no folder all the same, with what else is there.
    fn plausible_lie(&mut self, page: &mut ChangesPage) {
        // Told as the newest change, or slipped in at a position that the server does have.
        let rev = if self.rng.chance(500) { page.cursor.seq } else { page.cursor.seq.saturating_add(1) };
        let node = match self.rng.below(8) {
            0 => Some(self.invented(rev)),
            1 => self.some_known(|node| !node.deleted && node.kind != NodeKind::Dir).map(gone),
            2 => self.some_known(|node| !node.deleted).map(|node| {
                let place = Placement { parent: self.live_dir(), name: some_name(self.rng) };
                Node { names: vec![place], ..node }
            }),
            3 => self.some_known(|node| !node.deleted && node.content.is_some()).map(|node| {
                let content = Some(self.some_content());
                Node { content, content_rev: rev, content_author: DeviceId::from_bytes([0xEE; 16]), ..node }
            }),
            4 => self.some_known(|node| !node.deleted).map(|node| {
                let mtime = Timestamp(node.attrs.mtime.0.saturating_add(self.rng.number() as i64 >> 8));
                Node { attrs: Attrs { mode: 0o700, mtime }, ..node }
            }),
            5 => self.some_known(|node| !node.deleted && node.kind == NodeKind::Dir).map(gone),
            6 => {
                // An omission.
                let at = self.rng.index(page.nodes.len().max(1));
                if at < page.nodes.len() {
                    page.nodes.remove(at);
                }
                None
            }
            _ => {
                let position = self.rng.index(page.nodes.len().max(1));
                if let Some(node) = page.nodes.get_mut(position) {
                    node.author = self.device;
                }
                None
            }
        };
        if let Some(node) = node {
            let node = Node { rev, ..node };
            page.nodes.retain(|other| other.id != node.id || self.rng.chance(100));
            page.nodes.push(node);
            if rev > page.cursor.seq {
                page.cursor.seq = rev;
                page.cursor.tag = if self.rng.chance(500) { self.rng.number() } else { page.cursor.tag };
            }
        }
    }

    fn wild_lie(&mut self, page: &mut ChangesPage) {
        match self.rng.below(10) {
            0 | 1 => self.wild_position(page),
            2 => page.nodes.reverse(),
            3 => page.devices.push(Device { id: self.device, name: "\u{202e}\x1b[2J/../".to_owned() }),
            _ => {
                let rev = self.some_rev(page);
                let position = self.rng.index(page.nodes.len().max(1));
                let from_page = page.nodes.get(position).cloned().filter(|_| self.rng.chance(500));
                let node = from_page.or_else(|| self.some_known(|_| true)).unwrap_or_else(|| self.invented(rev));
                let rev = if self.rng.chance(500) { node.rev } else { rev };
                let node = self.twisted(Node { rev, ..node });
                page.nodes.push(node);
            }
        }
    }

    fn some_rev(&mut self, page: &ChangesPage) -> u64 {
        let seq = page.cursor.seq;
        [0, 1, seq, seq.saturating_add(1), u64::MAX, u64::MAX - 1, 1 << 63][self.rng.index(7)]
    }

    fn wild_position(&mut self, page: &mut ChangesPage) {
        match self.rng.below(7) {
            0 => page.more = !page.more,
            1 => page.cursor.seq = self.some_rev(page),
            2 => page.cursor.tag = self.rng.number(),
            3 => page.cursor.epoch = Epoch::from_bytes([self.rng.below(3) as u8; 16]),
            4 => page.own = None,
            5 => page.own = Some(page.cursor),
            _ => page.folder = FolderId::from_bytes([self.rng.below(3) as u8; 16]),
        }
    }

    /// The node with one thing about it that no folder has, or that may not go with the rest.
    fn twisted(&mut self, mut node: Node) -> Node {
        match self.rng.below(14) {
            0..=3 => {
                let parent = self.any_id();
                let name = node.names.first().map_or_else(|| some_name(self.rng), |place| place.name.clone());
                (node.names, node.deleted) = (vec![Placement { parent, name }], false);
            }
            4 => {
                let id = node.id;
                node.names.iter_mut().for_each(|place| place.parent = id);
            }
            5 => {
                // The name of another node.
                let other = self.some_known(|node| !node.names.is_empty());
                node.names = other.map_or_else(Vec::new, |other| other.names);
            }
            6 => node.names.clear(),
            7 => {
                let parent = self.live_dir();
                node.names.push(Placement { parent, name: name("twice") });
            }
            8 => node.kind = [NodeKind::File, NodeKind::Dir, NodeKind::Symlink][self.rng.index(3)],
            9 => node.deleted = !node.deleted,
            10 => (node.content, node.target) = (None, None),
            11 => {
                if let Some(content) = &mut node.content {
                    match self.rng.below(3) {
                        0 => content.size = [0, content.size.wrapping_sub(1), u64::MAX, 1 << 53][self.rng.index(4)],
                        1 => content.manifest = None,
                        _ => content.manifest = Some(Manifest::default()),
                    }
                }
            }
            12 => node.attrs.mode = [0o10_000, 0o140_644, u32::MAX][self.rng.index(3)],
            _ => node.content_rev = [0, u64::MAX, node.rev.saturating_add(1)][self.rng.index(3)],
        }
        node
    }
}

/// A node that no device made.
fn made_up(index: u64) -> NodeId {
    NodeId::from_bytes([0xA0 + index as u8; 16])
}

fn gone(mut node: Node) -> Node {
    node.deleted = true;
    (node.names, node.xattrs, node.content, node.target) = (Vec::new(), Xattrs::default(), None, None);
    node
}
