//! For the tests of this crate: an engine that has joined a folder, and the shortest ways to say what happens to it.

use crate::{
    Body, CommitAnswer, Draft, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, Position, PrepareAnswer,
    Restored, Row, Rules,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use syncmount_common::node::{NodeOwner, TouchedDir};
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, Device};
use syncmount_common::protocol::commit::{CommitRequest, Committed, ConflictDetails, Op};
use syncmount_common::{
    Attrs, ChunkHash, Content, DeviceId, Epoch, Extent, FolderId, Manifest, Name, Node, NodeId, NodeKind, Placement,
    Timestamp,
};

pub(crate) const NOW: Timestamp = Timestamp(1_795_342_530_000_000_000);
const ME: DeviceId = DeviceId::from_bytes([1; 16]);
const OTHER: DeviceId = DeviceId::from_bytes([2; 16]);

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) rows: BTreeMap<NodeId, Row>,
    seq: u64,
    unanswered: Vec<NodeId>,
    position: Position,
    /// The end of this device's newest commit.
    own: Option<Cursor>,
    rules: Option<Arc<dyn Rules>>,
    /// What the server says may be no folder.
    pub(crate) is_lied_to: bool,
}

/// What a device has kept at some time.
pub(crate) struct Backup {
    rows: BTreeMap<NodeId, Row>,
    position: Position,
    unanswered: Vec<NodeId>,
}

pub(crate) fn name(text: &str) -> Name {
    Name::try_from(text).unwrap()
}

pub(crate) fn content(seed: u8) -> Content {
    let extent = Extent::Chunk { hash: ChunkHash::of(&[seed]), len: 1 };
    Content::of(Manifest::new(vec![extent]).unwrap(), None)
}

/// A position of the history in which all tags are 1.
pub(crate) fn cursor(seq: u64) -> Cursor {
    Cursor { epoch: Epoch::from_bytes([7; 16]), seq, tag: 1 }
}

impl Rig {
    pub(crate) fn new() -> Self {
        let mut rig = Self::unjoined();
        rig.news(Vec::new());
        rig
    }

    /// One that has heard nothing of its folder yet.
    pub(crate) fn unjoined() -> Self {
        Self {
            engine: Self::start(Restored::default()),
            rows: BTreeMap::new(),
            seq: 0,
            unanswered: Vec::new(),
            position: Position::default(),
            own: None,
            rules: None,
            is_lied_to: false,
        }
    }

    fn start(restored: Restored) -> Engine {
        let device = Device { id: ME, name: "here".to_owned() };
        Engine::new(Identity { device, seed: restored.rows.len() as u64 + 1 }, restored)
    }

    /// Carries out what is to be done: drafts turn out to be what they were written as.
    pub(crate) fn drive(&mut self) {
        loop {
            match self.engine.poll(NOW) {
                Some(Effect::Settle { node, generation, .. }) => drop(self.engine.settle(node, generation)),
                Some(Effect::ReadRules) => self.apply_rules(),
                Some(_) => {}
                None if self.engine.is_rescoping() => _ = self.engine.rescope(1),
                None => break,
            }
        }
        let record = self.engine.take_record();
        for (id, row) in self.engine.rows(&record) {
            match row {
                Some(row) => self.rows.insert(id, row),
                None => self.rows.remove(&id),
            };
        }
        self.unanswered = record.unanswered.unwrap_or_else(|| self.unanswered.clone());
        self.position = record.position.unwrap_or(self.position);
        self.engine.check();
        assert!(self.is_lied_to || self.engine.unsound().is_none(), "{:?}", self.engine.unsound());
    }

    /// These names stay here from now on.
    pub(crate) fn ignore(&mut self, rules: impl Fn(&[&Name], bool) -> bool + Send + Sync + 'static) {
        self.rules = Some(Arc::new(rules));
        self.apply_rules();
        self.drive();
    }

    fn apply_rules(&mut self) {
        if let Some(rules) = &self.rules {
            self.engine.set_rules(rules.clone(), self.engine.rules_version());
            while self.engine.rescope(1) {}
        }
    }

    /// The process ends and another one goes on with what was kept.
    pub(crate) fn restart(&mut self) {
        self.engine = Self::start(self.restored());
        self.apply_rules();
        self.drive();
    }

    fn restored(&self) -> Restored {
        let rows = self.rows.iter().map(|(id, row)| (*id, row.clone())).collect();
        let Position { cursor, ahead } = self.position;
        Restored { rows, cursor, ahead, unanswered: self.unanswered.clone() }
    }

    pub(crate) fn mkdir(&mut self, parent: NodeId, text: &str) -> NodeId {
        let attrs = Attrs { mode: 0o755, mtime: NOW };
        self.engine.create(parent, name(text), attrs, Body::Dir, NOW).unwrap()
    }

    /// A file with one byte, closed and hashed.
    pub(crate) fn file(&mut self, parent: NodeId, text: &str, seed: u8) -> NodeId {
        let body = Body::File(FileBody::Draft(Box::new(Draft { ready: true, size: 1, ..Draft::empty() })));
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let id = self.engine.create(parent, name(text), attrs, body, NOW).unwrap();
        self.engine.prepared(id, 0, PrepareAnswer::Ready(Arc::new(content(seed))), NOW);
        id
    }

    /// The file is written anew: one byte, closed and hashed.
    pub(crate) fn edit(&mut self, id: NodeId, seed: u8, mtime: i64) {
        let body = &self.engine.local(id).unwrap().body;
        let (expected, generation) = match body.draft() {
            Some(draft) => (Expected::Draft(draft.staging), draft.generation + 1),
            None => (Expected::Clean(body.content_hash().unwrap()), 1),
        };
        let update = DraftUpdate {
            generation,
            size: 1,
            staging: None,
            present: Vec::new(),
            base: None,
            base_len: 0,
            mtime: Timestamp(mtime),
            ready: true,
        };
        self.engine.write_draft(id, expected, update, NOW).unwrap();
        self.engine.prepared(id, generation, PrepareAnswer::Ready(Arc::new(content(seed))), NOW);
    }

    /// The next commit, left without an answer.
    pub(crate) fn send(&mut self) -> Option<CommitRequest> {
        self.engine.next_commit(NOW)
    }

    /// Everything goes to the server and is taken. Returns the operations, batch by batch.
    pub(crate) fn sync(&mut self) -> Vec<Vec<Op>> {
        let mut batches = Vec::new();
        while let Some(request) = self.send() {
            batches.push(request.ops.clone());
            self.take(&request);
        }
        batches
    }

    pub(crate) fn take(&mut self, request: &CommitRequest) {
        self.seq += request.ops.len() as u64;
        self.take_until(request, self.seq);
    }

    /// The commit is taken, and ends at `last_seq`.
    pub(crate) fn take_until(&mut self, request: &CommitRequest, last_seq: u64) {
        let first_seq = last_seq + 1 - request.ops.len() as u64;
        self.own = Some(cursor(last_seq));
        let done = Committed { first_seq, last_seq, tag: 1 };
        self.engine.committed(request.op_id, CommitAnswer::Committed(done), NOW);
        self.drive();
    }

    pub(crate) fn hold(&mut self, request: &CommitRequest, denied: bool) {
        let answer = CommitAnswer::Held { reason: "too much".to_owned(), denied };
        self.engine.committed(request.op_id, answer, NOW);
        self.drive();
    }

    /// What was removed here and is still at the server.
    pub(crate) fn removed(&self) -> Vec<NodeId> {
        self.engine.ids().filter(|id| self.engine.local(*id).is_none()).collect()
    }

    /// The client goes on as another device.
    pub(crate) fn become_another(&mut self) {
        self.engine.become_device(DeviceId::from_bytes([3; 16]));
        self.drive();
    }

    /// A past of the device that it does not remember: what it keeps is of an earlier time.
    pub(crate) fn set_back(&mut self, to: Backup) {
        (self.rows, self.unanswered, self.position) = (to.rows, to.unanswered, to.position);
        self.engine = Self::start(self.restored());
        self.drive();
        self.become_another();
    }

    /// The nodes of which something is kept.
    pub(crate) fn kept(&self) -> Vec<NodeId> {
        self.rows.keys().copied().collect()
    }

    /// What is kept at present.
    pub(crate) fn backup(&mut self) -> Backup {
        self.drive();
        Backup { rows: self.rows.clone(), position: self.position, unanswered: self.unanswered.clone() }
    }

    pub(crate) fn conflict(&mut self, request: &CommitRequest) {
        let answer = CommitAnswer::Conflict(ConflictDetails { conflicts: Vec::new() });
        self.engine.committed(request.op_id, answer, NOW);
        self.drive();
    }

    /// The whole of what is new arrives.
    pub(crate) fn news(&mut self, nodes: Vec<Node>) {
        self.seq = nodes.iter().map(|node| node.rev).max().unwrap_or(0).max(self.seq);
        self.page(nodes, self.seq, false);
        self.drive();
    }

    pub(crate) fn page(&mut self, nodes: Vec<Node>, to: u64, more: bool) {
        self.page_from(self.engine.next_page(), nodes, to, more);
    }

    /// A page that was asked for like that.
    pub(crate) fn page_from(&mut self, asked: Ask, nodes: Vec<Node>, to: u64, more: bool) {
        let own = self.own.filter(|own| own.seq <= to);
        self.page_of(cursor(to), own, asked, nodes, more);
    }

    /// The same with directories that are touched.
    pub(crate) fn touched(&mut self, nodes: Vec<Node>, touched: Vec<TouchedDir>) {
        self.seq = nodes.iter().map(|node| node.rev).max().unwrap_or(0).max(self.seq);
        let (asked, folder) = (self.engine.next_page(), FolderId::from_bytes([9; 16]));
        let own = self.own.filter(|own| own.seq <= self.seq);
        let page = ChangesPage {
            folder,
            cursor: cursor(self.seq),
            more: false,
            nodes,
            devices: Vec::new(),
            own,
            wanted: Vec::new(),
            touched,
            owners: None,
        };
        self.engine.page(asked, page);
        self.drive();
    }

    /// The whole of what is new, from a server that tells these owners; `None`: from one that keeps none.
    pub(crate) fn owned(&mut self, nodes: Vec<Node>, owners: Option<Vec<NodeOwner>>) {
        self.seq = nodes.iter().map(|node| node.rev).max().unwrap_or(0).max(self.seq);
        let (cursor, folder) = (cursor(self.seq), FolderId::from_bytes([9; 16]));
        let own = self.own.filter(|own| own.seq <= self.seq);
        let (devices, wanted, touched) = (Vec::new(), Vec::new(), Vec::new());
        let page = ChangesPage { folder, cursor, more: false, nodes, devices, own, wanted, touched, owners };
        self.engine.page(self.engine.next_page(), page);
        self.drive();
    }

    /// A page that ends at `end`, of a history in which `own` is the end of this device's newest commit.
    pub(crate) fn page_of(&mut self, end: Cursor, own: Option<Cursor>, asked: Ask, nodes: Vec<Node>, more: bool) {
        let folder = FolderId::from_bytes([9; 16]);
        let devices = vec![Device { id: OTHER, name: "there".to_owned() }];
        self.engine.page(
            asked,
            ChangesPage {
                folder,
                cursor: end,
                more,
                nodes,
                devices,
                own,
                wanted: Vec::new(),
                touched: Vec::new(),
                owners: None,
            },
        );
    }

    /// A node as another device has made or changed it.
    pub(crate) fn theirs(&self, id: NodeId, parent: NodeId, text: &str, inside: Option<u8>) -> Node {
        let rev = self.seq + 1;
        Node {
            id,
            rev,
            kind: if inside.is_some() { NodeKind::File } else { NodeKind::Dir },
            deleted: false,
            names: vec![Placement { parent, name: name(text) }],
            attrs: Attrs { mode: 0o644, mtime: Timestamp(NOW.0 - 5) },
            xattrs: syncmount_common::Xattrs::default(),
            content: inside.map(content),
            target: None,
            author: OTHER,
            content_rev: rev,
            content_author: OTHER,
            changed: None,
        }
    }

    pub(crate) fn gone(&self, id: NodeId, kind: NodeKind) -> Node {
        let node = self.theirs(id, NodeId::ROOT, "gone", None);
        Node { kind, deleted: true, names: Vec::new(), content_rev: 0, ..node }
    }

    /// The same as this device's own commit, told by the feed.
    pub(crate) fn mine(node: Node) -> Node {
        Node { author: ME, content_author: ME, ..node }
    }

    /// The names in a directory.
    pub(crate) fn names(&self, parent: NodeId) -> Vec<String> {
        self.engine.children(parent).map(|(name, _)| name.to_string()).collect()
    }
}

pub(crate) fn id(seed: u8) -> NodeId {
    NodeId::from_bytes([seed; 16])
}
