//! A lying client: commits with whatever it likes in them, and positions that it made up.

use super::host::BEGIN;
use super::user::some_name;
use crate::sim::Rng;
use crate::sim::bytes::content_of;
use std::collections::BTreeMap;
use syncmount_common::protocol::changes::{Cursor, Device};
use syncmount_common::protocol::commit::{CommitRequest, NewContent, Op};
use syncmount_common::{
    Attrs, ChunkHash, Content, ContentHash, DeviceId, Epoch, Extent, FileHash, Manifest, Node, NodeId, NodeKind, OpId,
    Placement, SymlinkTarget, Timestamp, Xattrs,
};
use syncmount_server::service::{UNDO_DEVICE, WEB_DEVICE};

/// Nodes that it makes up have few ids.
const MADE_UP: u64 = 8;

/// The largest file.
const LARGEST: u64 = syncmount_common::manifest::FILE_SIZE_MAX;

/// As many of the largest files as make more bytes than a folder can count.
const OVERFLOWING: u64 = (1 << 10) + 2;

/// What it knows and has done.
pub(super) struct Forger {
    pub(super) rng: Rng,
    /// Op ids that it has used or heard of.
    pub(super) op_ids: Vec<OpId>,
    /// The devices of others.
    pub(super) devices: Vec<DeviceId>,
    /// Contents of which the service has all chunks, and others.
    contents: BTreeMap<ContentHash, Manifest>,
}

impl Forger {
    pub(super) fn new(seed: u64, devices: Vec<DeviceId>) -> Self {
        let mut forger = Self { rng: Rng::of(&[seed, 30]), op_ids: Vec::new(), devices, contents: BTreeMap::new() };
        forger.invent_contents();
        forger
    }

    fn invent_contents(&mut self) {
        let hole = |len| vec![Extent::Hole { len }];
        let chunk = |text: &[u8], len| Extent::Chunk { hash: ChunkHash::of(text), len };
        let forms = [
            Vec::new(),
            hole(LARGEST),
            hole(LARGEST - 1),
            hole(LARGEST + 1),
            hole(i64::MAX as u64),
            hole(1),
            vec![chunk(b"here", 4), Extent::Hole { len: LARGEST - 4 }],
            vec![chunk(b"here", 4)],
            vec![chunk(b"here", 5)],
            vec![chunk(b"nowhere", 7)],
            [vec![chunk(b"here", 4)], hole(1 << 52)].concat().repeat(2),
        ];
        let manifests = forms.into_iter().filter_map(|extents| Manifest::new(extents).ok());
        self.contents = manifests.map(|manifest| (manifest.content_hash(), manifest)).collect();
    }

    /// The chunk that its contents have and the service gets.
    pub(super) const CHUNK: &'static [u8] = b"here";

    fn some_hash(&mut self, nodes: &[Node]) -> ContentHash {
        let known: Vec<ContentHash> =
            nodes.iter().filter_map(|node| node.content.as_ref()).map(|content| content.hash).collect();
        let own: Vec<ContentHash> = self.contents.keys().copied().collect();
        match self.rng.below(8) {
            0 => content_of(b"described by nobody").hash,
            1 | 2 => self.rng.pick(&known).copied().unwrap_or(own[0]),
            _ => own[self.rng.index(own.len())],
        }
    }

    fn made_up(&mut self) -> NodeId {
        NodeId::from_bytes([0xC0 + self.rng.below(MADE_UP) as u8; 16])
    }

    fn any_id(&mut self, nodes: &[Node]) -> NodeId {
        match self.rng.below(6) {
            0 => NodeId::ROOT,
            1 => self.made_up(),
            _ => self.rng.pick(nodes).map_or(NodeId::ROOT, |node| node.id),
        }
    }

    fn some_place(&mut self, nodes: &[Node]) -> Placement {
        let dirs: Vec<NodeId> =
            nodes.iter().filter(|node| !node.deleted && node.kind == NodeKind::Dir).map(|node| node.id).collect();
        let parent = match self.rng.below(6) {
            0 => self.any_id(nodes),
            1 | 2 => NodeId::ROOT,
            _ => self.rng.pick(&dirs).copied().unwrap_or(NodeId::ROOT),
        };
        let name = some_name(&mut self.rng);
        // Names of others, so that it meets them.
        let taken = self.rng.pick(nodes).and_then(|node| node.names.first().cloned());
        taken.filter(|_| self.rng.chance(200)).unwrap_or(Placement { parent, name })
    }

    fn some_base(&mut self, right: u64) -> u64 {
        if self.rng.chance(850) {
            return right;
        }
        [0, 1, right.wrapping_sub(1), right.saturating_add(1), u64::MAX, 1 << 63][self.rng.index(6)]
    }

    fn some_attrs(&mut self) -> Attrs {
        let mode = if self.rng.chance(900) { 0o644 } else { [0o7777, 0o10_000, u32::MAX][self.rng.index(3)] };
        let mtime = [BEGIN, 0, i64::MIN, i64::MAX][self.rng.index(4)];
        Attrs { mode, mtime: Timestamp(mtime) }
    }

    fn some_names(&mut self, nodes: &[Node]) -> Vec<Placement> {
        let count = if self.rng.chance(850) { 1 } else { self.rng.index(4) };
        (0..count).map(|_| self.some_place(nodes)).collect()
    }

    fn create(&mut self, nodes: &[Node]) -> Op {
        let gone: Vec<&Node> = nodes.iter().filter(|node| node.deleted).collect();
        let again = self.rng.pick(&gone).map(|node| (node.id, node.rev, node.kind)).filter(|_| self.rng.chance(300));
        let kind = [NodeKind::File, NodeKind::File, NodeKind::Dir, NodeKind::Symlink][self.rng.index(4)];
        let (id, base, kind) = again.unwrap_or_else(|| (self.made_up(), 0, kind));
        let told = if self.rng.chance(950) { kind } else { NodeKind::Symlink };
        let content = (told == NodeKind::File).then(|| self.some_hash(nodes));
        let target = SymlinkTarget::new(&b"../../etc"[..]).ok().filter(|_| told == NodeKind::Symlink);
        let (base, names) = (self.some_base(base), self.some_names(nodes));
        Op::Create { id, base, kind, names, attrs: self.some_attrs(), xattrs: Xattrs::default(), content, target }
    }

    fn update(&mut self, nodes: &[Node]) -> Op {
        let live: Vec<&Node> = nodes.iter().filter(|node| !node.deleted).collect();
        let (id, rev, kind) = match self.rng.pick(&live) {
            Some(node) if self.rng.chance(900) => (node.id, node.rev, node.kind),
            _ => (self.any_id(nodes), 0, NodeKind::File),
        };
        let names = self.rng.chance(500).then(|| self.some_names(nodes));
        let attrs = self.rng.chance(500).then(|| self.some_attrs());
        let content = (kind == NodeKind::File && self.rng.chance(600)).then(|| self.some_hash(nodes));
        let mut xattrs = Xattrs::default();
        let xattrs = (self.rng.chance(200) && xattrs.set(b"user.note", b"forged").is_ok()).then_some(xattrs);
        Op::Update { id, base: self.some_base(rev), names, attrs, xattrs, content }
    }

    fn remove(&mut self, nodes: &[Node]) -> Op {
        let (id, rev) = self.rng.pick(nodes).map_or((NodeId::ROOT, 0), |node| (node.id, node.rev));
        Op::Remove { id, base: self.some_base(rev) }
    }

    /// Puts two directories into each other.
    fn knot(&mut self, nodes: &[Node]) -> Vec<Op> {
        let dirs: Vec<&Node> = nodes.iter().filter(|node| !node.deleted && node.kind == NodeKind::Dir).collect();
        let (Some(a), Some(b)) = (self.rng.pick(&dirs).copied(), self.rng.pick(&dirs).copied()) else {
            return Vec::new();
        };
        let into = |node: &Node, parent: NodeId| {
            let name = node.names.first().map(|place| place.name.clone());
            let names = name.map(|name| vec![Placement { parent, name }]);
            Op::Update { id: node.id, base: node.rev, names, attrs: None, xattrs: None, content: None }
        };
        vec![into(a, b.id), into(b, a.id)]
    }

    /// Files whose sizes add up to more than a folder can count, or to just as much.
    fn flood(&mut self) -> Vec<Op> {
        let manifest = Manifest::new(vec![Extent::Hole { len: LARGEST }]).unwrap_or_default();
        let count = OVERFLOWING - self.rng.below(4);
        let file = |index: u64| {
            let mut id = [0xF1; 16];
            id[8..].copy_from_slice(&index.to_be_bytes());
            let name = syncmount_common::Name::new(format!("flood {index}").into_bytes()).expect("a name");
            Op::Create {
                id: NodeId::from_bytes(id),
                base: 0,
                kind: NodeKind::File,
                names: vec![Placement { parent: NodeId::ROOT, name }],
                attrs: Attrs { mode: 0o644, mtime: Timestamp(BEGIN) },
                xattrs: Xattrs::default(),
                content: Some(manifest.content_hash()),
                target: None,
            }
        };
        (0..count).map(file).collect()
    }

    fn some_op_id(&mut self) -> OpId {
        let repeated = self.rng.pick(&self.op_ids).copied();
        if let Some(op_id) = repeated.filter(|_| self.rng.chance(100)) {
            return op_id;
        }
        let mut bytes = [0; 16];
        bytes.iter_mut().for_each(|byte| *byte = self.rng.number() as u8);
        self.op_ids.push(OpId::from_bytes(bytes));
        OpId::from_bytes(bytes)
    }

    fn some_device(&mut self) -> Device {
        let id = match self.rng.below(8) {
            0 => self.rng.pick(&self.devices).copied().unwrap_or(UNDO_DEVICE.0),
            1 => UNDO_DEVICE.0,
            2 => WEB_DEVICE.0,
            3 => DeviceId::from_bytes([0; 16]),
            _ => DeviceId::from_bytes([0xDD; 16]),
        };
        let odd = ["", "\u{7}", "device 0", "../../x"];
        let name = if self.rng.chance(800) { "forger".to_owned() } else { odd[self.rng.index(4)].to_owned() };
        Device { id, name }
    }

    /// A position that the service has never told.
    pub(super) fn forged(&mut self, end: Cursor) -> Cursor {
        let seq = [end.seq, end.seq + 1, end.seq + 1_000, 1, u64::MAX, i64::MAX as u64, 1 << 63][self.rng.index(7)];
        let tag = match self.rng.below(4) {
            0 => end.tag ^ 1,
            1 => end.tag ^ (1 << 40),
            2 => end.tag,
            _ => self.rng.number() | 1,
        };
        Cursor { epoch: end.epoch, seq, tag }
    }

    fn some_known(&mut self, end: Cursor) -> Option<Cursor> {
        match self.rng.below(6) {
            0..=2 => None,
            3 | 4 => Some(end),
            _ => Some(self.forged(end)),
        }
    }

    /// The next commit. `end` is that of the folder, `nodes` are what is in it. `floods`: it may fill the folder.
    pub(super) fn commit(&mut self, nodes: &[Node], end: Cursor, floods: bool) -> CommitRequest {
        let mut ops = match self.rng.below(12) {
            0 => self.knot(nodes),
            1 if floods => self.flood(),
            _ => {
                let count = [1, 1, 1, 2, 4][self.rng.index(5)];
                (0..count).map(|_| self.op(nodes)).collect()
            }
        };
        if self.rng.chance(950) {
            let mut seen = std::collections::BTreeSet::new();
            ops.retain(|op| seen.insert(op.id()));
        }
        let named: Vec<ContentHash> = ops.iter().filter_map(super::host::content_of_op).collect();
        let is_described = |hash: &&ContentHash| named.contains(hash);
        let mut contents: Vec<NewContent> = self
            .contents
            .iter()
            .filter(|(hash, _)| is_described(hash))
            .map(|(_, manifest)| NewContent { manifest: manifest.clone(), sha256: None })
            .collect();
        if self.rng.chance(50) {
            contents.iter_mut().for_each(|content| content.sha256 = Some(FileHash::of(b"another")));
        }
        if self.rng.chance(50) {
            contents.clear();
        }
        let epoch = if self.rng.chance(970) { end.epoch } else { Epoch::from_bytes([9; 16]) };
        CommitRequest {
            op_id: self.some_op_id(),
            epoch,
            device: self.some_device(),
            session: None,
            known: self.some_known(end),
            contents,
            changed: Vec::new(),
            concluded: false,
            times: Vec::new(),
            touched: Vec::new(),
            owners: Vec::new(),
            versions: Vec::new(),
            ops,
        }
    }

    fn op(&mut self, nodes: &[Node]) -> Op {
        match self.rng.below(7) {
            0..=2 => self.create(nodes),
            3..=5 => self.update(nodes),
            _ => self.remove(nodes),
        }
    }
}

/// Whether a node is one that only a liar would make: no disk has the room for it.
pub(super) fn is_flood(node: &Node) -> bool {
    let size = |content: &Content| content.size;
    !node.deleted && node.content.as_ref().map_or(0, size) >= LARGEST / 2
}
