//! Pages of a lying server into an engine with a user at it. Whatever they say, the engine stays sound inside, goes on taking
//! what the user does, and forgets nothing that was not sent.

use super::Choices;
use std::collections::BTreeSet;
use std::sync::Arc;
use syncmount_common::node::{NodeOwner, TouchedDir};
use syncmount_common::protocol::changes::{ChangesPage, Cursor, Device};
use syncmount_common::protocol::commit::{Committed, ConflictDetails, MissingDetails};
use syncmount_common::{
    Attrs, Content, DeviceId, Epoch, Extent, FolderId, Manifest, Name, Node, NodeId, NodeKind, Owner, Placement,
    SymlinkTarget, Timestamp,
};
use syncmount_engine::{
    Body, CommitAnswer, Draft, DraftUpdate, Effect, Engine, Expected, FileBody, Identity, PrepareAnswer, RenameMode,
    Restored, State,
};

const STEPS_MAX: usize = 200;
const EFFECTS_MAX: usize = 10_000;
/// Nodes that the server talks about, the root among them.
const NODES: u8 = 10;
const NAMES: u8 = 5;

struct Play {
    engine: Engine,
    now: i64,
    seq: u64,
    epoch: u8,
    /// The staging files of what the user wrote and did not remove, until a commit has carried it.
    written: BTreeSet<u64>,
    stagings: u64,
}

pub(super) fn pages(data: &[u8]) {
    let mut choices = Choices(data);
    let device = Device { id: DeviceId::from_bytes([1; 16]), name: "here".to_owned() };
    let mut engine = Engine::new(Identity { device, seed: 7 }, Restored::default());
    engine.show_times();
    engine.apply_owners(data.len().is_multiple_of(2));
    let mut play = Play { engine, now: 1, seq: 0, epoch: 1, written: BTreeSet::new(), stagings: 0 };
    for _ in 0..STEPS_MAX {
        if choices.is_empty() {
            break;
        }
        play.step(&mut choices);
        play.settle(&mut choices);
        play.check_written();
    }
}

impl Play {
    fn now(&mut self) -> Timestamp {
        self.now += 1;
        Timestamp::from_parts(self.now, 0)
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        match choices.below(10) {
            0..=3 => self.page(choices),
            4 => self.create(choices),
            5 => self.rename(choices),
            6 => self.remove(choices),
            7 => self.commit(choices),
            8 => self.engine.begin_resync(),
            _ => {
                let later = i64::from(choices.byte());
                self.now += later;
                let now = self.now();
                self.engine.tick(now);
            }
        }
    }

    fn page(&mut self, choices: &mut Choices<'_>) {
        if self.engine.has_news() {
            return;
        }
        let nodes: Vec<Node> = (0..choices.below(6)).map(|_| self.node(choices)).collect();
        let devices = vec![Device { id: DeviceId::from_bytes([2; 16]), name: "\u{202e}\x1b[2J".to_owned() }];
        let more = choices.below(4) == 0;
        if choices.below(16) == 0 {
            self.epoch = choices.below(3);
        }
        let cursor = Cursor { epoch: Epoch::from_bytes([self.epoch; 16]), seq: self.seq, tag: 1 };
        let folder = FolderId::from_bytes([9; 16]);
        // Of what does not cost a choice, so that what was found before is found again.
        let mtime = Timestamp([0, i64::MAX, i64::MIN, self.now][(self.seq % 4) as usize]);
        let touched = vec![TouchedDir { dir: node_id((self.seq % u64::from(NODES)) as u8), mtime }];
        // In the same way: owners of nodes that the page has and has not, some that cannot be.
        let of = |id: u8| NodeOwner {
            id: node_id(id),
            owner: Owner { uid: [0, 1, u32::MAX][(self.seq % 3) as usize], gid: self.now as u32 },
        };
        let is_told = |id: &u8| (self.seq + u64::from(*id)).is_multiple_of(2);
        let owners = (!self.seq.is_multiple_of(5)).then(|| (0..NODES).filter(is_told).map(of).collect());
        let page = ChangesPage { folder, cursor, more, nodes, devices, own: None, wanted: Vec::new(), touched, owners };
        self.engine.page(self.engine.next_page(), page);
    }

    fn node(&mut self, choices: &mut Choices<'_>) -> Node {
        let id = node_id(choices.below(NODES));
        let rev = match choices.below(8) {
            0 => u64::from(choices.byte()),
            1 => u64::MAX,
            _ => self.seq + 1,
        };
        self.seq = self.seq.max(rev.min(1 << 20));
        let kind = [NodeKind::File, NodeKind::Dir, NodeKind::Dir, NodeKind::Symlink][usize::from(choices.below(4))];
        let deleted = choices.below(5) == 0;
        let mut names: Vec<_> = (0..choices.below(3)).map(|_| place(choices)).collect();
        if deleted && choices.below(8) != 0 {
            names.clear();
        }
        let content = (kind == NodeKind::File) != (choices.below(16) == 0);
        let target = (kind == NodeKind::Symlink) != (choices.below(16) == 0);
        let content = content.then(|| Content::of(Manifest::default(), None));
        let target = target.then(|| SymlinkTarget::new(*b"../outside").expect("a target"));
        let author = DeviceId::from_bytes([choices.below(2) + 1; 16]);
        let attrs = Attrs { mode: 0o7777, mtime: Timestamp::from_parts(i64::from(choices.byte()), 0) };
        let (xattrs, content_rev, content_author) = (Default::default(), rev, author);
        Node {
            id,
            rev,
            kind,
            deleted,
            names,
            attrs,
            xattrs,
            content,
            target,
            author,
            content_rev,
            content_author,
            changed: None,
        }
    }

    /// A directory that is there, or a node that may be anything.
    fn parent(&self, choices: &mut Choices<'_>) -> NodeId {
        let own = self.engine.ids().filter(|id| self.engine.local(*id).is_some_and(|state| state.body == Body::Dir));
        let mut own: Vec<NodeId> = own.filter(|id| id.as_bytes()[1] != id.as_bytes()[0]).collect();
        own.sort_unstable();
        own.get(usize::from(choices.below(8))).copied().unwrap_or_else(|| node_id(choices.below(NODES)))
    }

    /// The staging file whose bytes a node has.
    fn staging_at(&self, parent: NodeId, name: &Name) -> Option<u64> {
        staging_of(self.engine.local(self.engine.child(parent, name.as_bytes())?)?)
    }

    fn create(&mut self, choices: &mut Choices<'_>) {
        let (parent, now) = (self.parent(choices), self.now());
        let attrs = Attrs { mode: 0o755, mtime: now };
        let is_dir = choices.below(2) == 0;
        let body = if is_dir { Body::Dir } else { Body::File(FileBody::Draft(Box::new(Draft::empty()))) };
        let Ok(id) = self.engine.create(parent, name(choices.below(NAMES)), attrs, body, now) else { return };
        if is_dir {
            return;
        }
        self.stagings += 1;
        let size = self.stagings;
        let update = DraftUpdate {
            generation: 1,
            size,
            staging: Some(size),
            present: vec![(0, size)],
            base: None,
            base_len: 0,
            mtime: now,
            ready: true,
        };
        if self.engine.write_draft(id, Expected::Draft(None), update, now).is_ok() {
            self.written.insert(size);
        }
    }

    fn rename(&mut self, choices: &mut Choices<'_>) {
        let (from, to) = (self.parent(choices), self.parent(choices));
        let (old, new) = (name(choices.below(NAMES)), name(choices.below(NAMES)));
        let (mode, now) = (if choices.below(2) == 0 { RenameMode::Exchange } else { RenameMode::Replace }, self.now());
        let replaced = self.staging_at(to, &new);
        if let Ok(renamed) = self.engine.rename((from, old.as_bytes()), (to, new), mode, now)
            && renamed.replaced.is_some()
        {
            replaced.map(|staging| self.written.remove(&staging));
        }
    }

    fn remove(&mut self, choices: &mut Choices<'_>) {
        let (parent, name, now) = (self.parent(choices), name(choices.below(NAMES)), self.now());
        let removed = self.staging_at(parent, &name);
        if self.engine.remove(parent, name.as_bytes(), choices.below(2) == 0, now).is_ok() {
            removed.map(|staging| self.written.remove(&staging));
        }
    }

    fn commit(&mut self, choices: &mut Choices<'_>) {
        let now = self.now();
        let Some(request) = self.engine.next_commit(now) else { return };
        let carried = request.ops.iter().filter_map(|op| staging_of(self.engine.local(op.id())?));
        let carried: Vec<u64> = carried.collect();
        let first_seq = self.seq + 1;
        let answer = match choices.below(8) {
            0 => CommitAnswer::NotSent,
            1 => CommitAnswer::Conflict(ConflictDetails { conflicts: Vec::new() }),
            2 => CommitAnswer::Missing(MissingDetails::default()),
            3 => CommitAnswer::Rejected("no".to_owned()),
            4 => CommitAnswer::Resync,
            5 => CommitAnswer::Held { reason: "too much".to_owned(), denied: choices.below(2) == 0 },
            _ => {
                self.seq += request.ops.len() as u64;
                CommitAnswer::Committed(Committed { first_seq, last_seq: self.seq, tag: 1 })
            }
        };
        if matches!(answer, CommitAnswer::Committed(_)) {
            self.written.retain(|staging| !carried.contains(staging));
        }
        let now = self.now();
        self.engine.committed(request.op_id, answer, now);
    }

    /// Carries out what the engine wants, as a driver does.
    fn settle(&mut self, choices: &mut Choices<'_>) {
        for _ in 0..EFFECTS_MAX {
            let now = self.now();
            let Some(effect) = self.engine.poll(now) else {
                let record = self.engine.take_record();
                assert!(self.engine.rows(&record).count() <= self.engine.len() + usize::from(NODES) + 1_000);
                self.engine.check();
                return;
            };
            match effect {
                Effect::Prepare { node, generation, .. } => {
                    let answer = match choices.below(4) {
                        0 => PrepareAnswer::Failed("cannot be read".to_owned()),
                        _ => match self.engine.local(node).and_then(|state| staging_of(state)) {
                            Some(staging) => PrepareAnswer::Ready(Arc::new(content_of(staging))),
                            None => PrepareAnswer::Outdated,
                        },
                    };
                    self.engine.prepared(node, generation, answer, now);
                }
                Effect::Settle { node, generation, .. } => drop(self.engine.settle(node, generation)),
                Effect::ReadRules => {
                    let version = self.engine.rules_version();
                    self.engine.set_rules(Arc::new(|_: &[&Name], _| false), version);
                    while self.engine.rescope(100) {}
                }
                _ => {}
            }
        }
        panic!("effects without end");
    }

    fn check_written(&self) {
        let states = self.engine.ids().filter_map(|id| self.engine.local(id));
        let there: BTreeSet<u64> = states.filter_map(|state| staging_of(state)).collect();
        let lost: Vec<_> = self.written.difference(&there).collect();
        assert!(lost.is_empty(), "written here, never sent, and gone: {lost:?}");
    }
}

/// The staging file whose bytes a node has, also when they are a content by now: the size says which.
fn staging_of(state: &State) -> Option<u64> {
    if let Some(staging) = state.body.draft().and_then(|draft| draft.staging) {
        return Some(staging);
    }
    state.body.content().map(|content| content.size).filter(|size| *size > 0)
}

/// What the bytes of a staging file turn out to be. The server of this play has no content of that size.
fn content_of(staging: u64) -> Content {
    let manifest = Manifest::new(vec![Extent::Hole { len: staging }]).expect("a hole");
    Content::of(manifest, None)
}

fn node_id(index: u8) -> NodeId {
    if index == 0 { NodeId::ROOT } else { NodeId::from_bytes([index; 16]) }
}

fn name(index: u8) -> Name {
    Name::new([b'a' + index]).expect("a name")
}

fn place(choices: &mut Choices<'_>) -> Placement {
    let parent = node_id(choices.below(NODES));
    Placement { parent, name: name(choices.below(NAMES)) }
}
