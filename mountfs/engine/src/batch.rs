//! From differences to commits: which nodes go into the next batch, and what becomes of it.
//!
//! A node drags along what it needs: new directories above it, the node that has its name at the server, the former
//! entries of a directory that is removed. So a prefix of the work, in the order in which it was done here, is always a
//! batch that the server can take as a whole.

use crate::copies::WaitingRepositories;
use crate::engine::Engine;
use crate::output::{CommitAnswer, Effect};
use crate::state::{Body, FileBody, State};
use crate::tree::{Entry, Synced};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use syncmount_common::node::TouchedDir;
use syncmount_common::protocol::commit::{CommitRequest, Committed, MissingDetails, NewContent, Op};
use syncmount_common::{ChunkHash, Content, ContentHash, Manifest, NodeId, OpId, Rev, Timestamp};

/// How many operations a batch has at most, apart from what the last one drags along.
pub(crate) const OPS_PER_BATCH: usize = 1000;

/// How many bytes of small files a batch may carry: two of the largest batches fit into the memory set aside for them.
const INLINE_PER_BATCH: u64 = 4 * 1024 * 1024;

/// What an extent of a manifest takes in JSON, in bytes: a server wants no more than 16 MiB of JSON in one commit that can be
/// two.
const EXTENT_LEN: usize = 50;

/// Files up to this size ride inside commits.
pub const INLINE_FILE_MAX: u64 = 64 * 1024;

/// How many nodes are looked at for one batch: drafts that are still being prepared must not make each batch cost as
/// much as all the work there is.
const LOOK_MAX: usize = 50_000;

/// How long a node that the server refuses is left alone.
const REJECTED_RETRY_NS: i64 = 600_000_000_000;

/// How long a content is left alone of which the server has said twice that it lacks bytes; then twice as long each time, up to
/// [`REJECTED_RETRY_NS`].
const SUPPLY_RETRY_NS: i64 = 60_000_000_000;

/// A batch that has been handed out and not been answered.
pub(crate) struct InFlight {
    op_id: OpId,
    sent: Vec<Sent>,
    touched: Vec<TouchedDir>,
    /// Those of its nodes that no earlier commit has left unanswered.
    fresh: Vec<NodeId>,
}

impl InFlight {
    /// The nodes that it is about.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.sent.iter().map(|sent| sent.node)
    }

    /// The mtime that it gives a directory by changes of its entries.
    pub(crate) fn touches(&self, dir: NodeId) -> Option<Timestamp> {
        self.touched.iter().find(|touched| touched.dir == dir).map(|touched| touched.mtime)
    }

    /// What the server has of a node after it.
    pub(crate) fn after(&self, node: NodeId) -> Option<&State> {
        self.sent.iter().find(|sent| sent.node == node)?.after.as_deref()
    }
}

struct Sent {
    node: NodeId,
    /// What the server has after it.
    after: Option<Arc<State>>,
    content: bool,
}

struct Batch {
    ops: Vec<Op>,
    sent: Vec<Sent>,
    contents: Vec<NewContent>,
    known: HashSet<ContentHash>,
    inline: u64,
}

impl Engine {
    /// The next commit, if there is work and none is in flight. Keep the record, then hand it to the server until there is
    /// an answer, always with the same op id, then call [`Engine::committed`]. If no attempt has reached the server,
    /// [`CommitAnswer::NotSent`] is an answer too. Whose session it is, the driver knows.
    pub fn next_commit(&mut self, now: Timestamp) -> Option<CommitRequest> {
        let feed = &self.feed;
        let listens_first = feed.has_news() || feed.awaits_page() || feed.is_unsound();
        if self.in_flight.is_some() || listens_first || self.tree.dirty_len() == 0 {
            return None;
        }
        self.end_rests(now);
        if self.rules_asked || self.rescope_first > 0 {
            return None;
        }
        let known = self.feed.known()?;
        let batch = self.gather();
        if batch.ops.is_empty() {
            return None;
        }
        let mut random = [0; 10];
        random[..8].copy_from_slice(&self.next_random().to_le_bytes());
        let op_id = OpId::new_v7(now.unix_ms(), &random);
        let sent_ids = batch.sent.iter().map(|sent| sent.node);
        let fresh = sent_ids.filter(|id| self.unanswered.insert(*id)).collect();
        self.unanswered_touched = true;
        let touched = self.touched_by(&batch.ops);
        let versions = self.become_versions(&batch.ops);
        let owners = self.owners_told_by(&batch.ops);
        let changed = |op: &Op| self.tree.get(op.id()).map_or(now, |entry| entry.changed);
        let times = batch.ops.iter().map(changed).collect();
        self.in_flight = Some(InFlight { op_id, sent: batch.sent, touched: touched.clone(), fresh });
        let device = self.identity.device.clone();
        let (epoch, known, contents) = (known.epoch, Some(known), batch.contents);
        Some(CommitRequest {
            op_id,
            epoch,
            device,
            session: None,
            known,
            contents,
            changed: Vec::new(),
            concluded: false,
            times,
            touched,
            versions,
            owners,
            ops: batch.ops,
        })
    }

    /// Whether a commit is waiting for its answer.
    pub fn is_committing(&self) -> bool {
        self.in_flight.is_some()
    }

    pub(crate) fn is_in_flight(&self, id: NodeId) -> bool {
        self.in_flight.as_ref().is_some_and(|batch| batch.sent.iter().any(|sent| sent.node == id))
    }

    fn gather(&self) -> Batch {
        let mut batch =
            Batch { ops: Vec::new(), sent: Vec::new(), contents: Vec::new(), known: HashSet::new(), inline: 0 };
        let (mut decided, mut waiting) = (HashMap::new(), WaitingRepositories::new());
        let mut looked = 0;
        for id in self.tree.dirty().filter(|id| !self.is_held(*id) && !self.is_resting(*id)) {
            if batch.ops.len() >= self.ops_max || batch.inline >= INLINE_PER_BATCH {
                break;
            }
            if waiting.hold(self, id) {
                continue;
            }
            looked += 1;
            if looked > LOOK_MAX {
                break;
            }
            let mut group = Vec::new();
            if self.collect(id, &mut group, &mut decided) {
                for id in group {
                    self.add(id, &mut batch);
                }
            } else {
                // What it dragged along may go with another node.
                for id in group {
                    decided.remove(&id);
                }
                decided.insert(id, false);
                waiting.note(self, id);
            }
        }
        batch
    }

    /// Adds `id` and all it needs to `group`; `false` if any of it cannot go yet. `decided` holds the nodes that are in the
    /// batch or a group already (`true`) or cannot go (`false`).
    fn collect(&self, id: NodeId, group: &mut Vec<NodeId>, decided: &mut HashMap<NodeId, bool>) -> bool {
        let mut todo = vec![id];
        while let Some(id) = todo.pop() {
            match decided.get(&id) {
                Some(true) => continue,
                Some(false) => return false,
                None => {}
            }
            let Some(entry) = self.tree.get(id) else { continue };
            if !entry.is_dirty() {
                continue;
            }
            if self.failed.contains_key(&id) || self.is_held(id) || self.is_resting(id) || !self.can_go(entry) {
                return false;
            }
            decided.insert(id, true);
            group.push(id);
            self.needs(id, entry, &mut todo);
        }
        true
    }

    fn can_go(&self, entry: &Entry) -> bool {
        match (entry.outgoing(), entry.synced_state()) {
            (Some(local), None) => local.body.draft().is_none_or(|draft| draft.prepared.is_some()),
            (Some(local), Some(synced)) => {
                local.names != synced.names
                    || local.attrs.mode != synced.attrs.mode
                    || local.xattrs != synced.xattrs
                    || local.body.draft().is_none_or(|draft| draft.prepared.is_some())
            }
            // Other devices should see the new file in the place of the old one, not nothing in between.
            (None, Some(synced)) => synced.names.iter().all(|place| {
                self.tree.shared_child(place).and_then(|heir| self.tree.get(heir)).is_none_or(|heir| self.can_go(heir))
            }),
            (None, None) => false,
        }
    }

    fn needs(&self, id: NodeId, entry: &Entry, todo: &mut Vec<NodeId>) {
        let Some(local) = entry.outgoing() else {
            todo.extend(self.tree.displaced_from(id));
            if let Some(synced) = entry.synced_state() {
                todo.extend(synced.names.iter().filter_map(|place| self.tree.shared_child(place)));
            }
            return;
        };
        let synced = entry.synced_state();
        // The version that this replaces was put beside it here: until that is sent, this device alone has it there.
        let replaced =
            synced.filter(|synced| !local.body.same_as(&synced.body)).and_then(|synced| synced.body.content_hash());
        todo.extend(replaced.and_then(|hash| self.copies.get(&hash)?.first().copied()));
        for place in &local.names {
            if self.tree.get(place.parent).is_some_and(|parent| parent.synced_state().is_none()) {
                todo.push(place.parent);
            }
            if !synced.is_some_and(|synced| synced.names.contains(place)) {
                todo.extend(self.tree.displaced_at(place).filter(|other| *other != id));
                // Moved below a directory that the server still has inside this one: that one has to go first.
                todo.extend(self.displaced_above(place.parent));
            }
        }
    }

    /// Directories above that the user has moved and the server has not.
    fn displaced_above(&self, from: NodeId) -> Vec<NodeId> {
        let mut out = Vec::new();
        let mut at = from;
        while at != NodeId::ROOT {
            let Some(entry) = self.tree.get(at) else { break };
            let Some(place) = entry.local.as_ref().and_then(|local| local.names.first()) else { break };
            if entry.synced_state().is_some_and(|synced| !synced.names.contains(place)) {
                out.push(at);
            }
            at = place.parent;
        }
        out
    }

    fn add(&self, id: NodeId, batch: &mut Batch) {
        let Some(entry) = self.tree.get(id) else { return };
        let base = entry.base_rev();
        let (op, after, content) = match (entry.outgoing(), entry.synced_state()) {
            (Some(local), None) => create_op(id, base, local),
            (Some(local), Some(synced)) => update_op(id, base, local, synced),
            (None, _) => (Op::Remove { id, base }, None, None),
        };
        batch.inline += entry.local.as_ref().map_or(0, |local| weight(local));
        batch.ops.push(op);
        batch.sent.push(Sent { node: id, after: after.map(Arc::new), content: content.is_some() });
        if let Some(content) = content
            && batch.known.insert(content.hash)
        {
            if content.size <= INLINE_FILE_MAX {
                batch.inline += content.size;
            }
            // A content without its manifest came from the server, which therefore has it.
            if let Some(manifest) = &content.manifest {
                batch.inline += (manifest.extents().len() * EXTENT_LEN) as u64;
                batch.contents.push(NewContent { manifest: Manifest::clone(manifest), sha256: content.sha256 });
            }
        }
    }

    /// The answer to the commit in flight.
    pub fn committed(&mut self, op_id: OpId, answer: CommitAnswer, now: Timestamp) {
        let Some(batch) = self.in_flight.take_if(|batch| batch.op_id == op_id) else { return };
        match answer {
            CommitAnswer::Committed(done) if fits(done, batch.sent.len()) => self.acknowledge(&batch, done, now),
            // No server has done that. Whether it has taken any of it, the feed says.
            CommitAnswer::Committed(_) => self.begin_resync(),
            CommitAnswer::NotSent => self.forget_offers(&batch),
            CommitAnswer::Conflict(_) => {
                self.forget_offers(&batch);
                self.feed.await_page();
            }
            CommitAnswer::Missing(missing) => {
                self.forget_offers(&batch);
                self.supply(&batch, &missing, now);
            }
            CommitAnswer::Rejected(reason) => {
                self.forget_offers(&batch);
                self.rejected(&batch, &reason, now);
            }
            CommitAnswer::TooLarge(reason) | CommitAnswer::Full(reason) => {
                self.forget_offers(&batch);
                if !self.halve(&batch) {
                    batch.nodes().for_each(|node| self.fail_until_room(node, reason.clone(), now));
                }
            }
            CommitAnswer::Held { reason, denied } => {
                self.forget_offers(&batch);
                self.hold_back(&batch, reason, denied, now);
            }
            CommitAnswer::Resync => {
                self.forget_offers(&batch);
                self.begin_resync();
            }
        }
    }

    fn acknowledge(&mut self, batch: &InFlight, done: Committed, now: Timestamp) {
        let mut named = Vec::new();
        for (sent, rev) in batch.sent.iter().zip(done.first_seq..) {
            let entry = self.tree.get(sent.node);
            let local = entry.and_then(|entry| entry.local.clone());
            let changed = entry.map_or(now, |entry| entry.changed);
            let before = entry.and_then(Entry::synced_state);
            if sent.after.as_ref().is_some_and(|after| before.is_none_or(|before| before.names != after.names)) {
                named.push(sent.node);
            }
            let content_rev = if sent.content { rev } else { entry.map_or(0, Entry::content_rev) };
            self.tree.set_offered(sent.node, false);
            self.sent_before.remove(&sent.node);
            self.setbacks.remove(&sent.node);
            self.release(sent.node);
            self.forget_unanswered(sent.node);
            self.put(sent.node, local, Some(Synced { rev, content_rev, state: sent.after.clone() }), changed);
            self.settle_if_acknowledged(sent.node);
        }
        self.touched_are_taken(&batch.touched);
        self.remove_copies(&named, now);
        self.ops_top = (self.ops_top + self.ops_top / 8 + 1).min(OPS_PER_BATCH);
        self.ops_max = (self.ops_max * 2).min(self.ops_top);
        self.feed.note_own(done);
        self.touch_cursor();
    }

    pub(crate) fn forget_offers(&mut self, batch: &InFlight) {
        for id in &batch.fresh {
            self.forget_unanswered(*id);
        }
        for sent in batch.sent.iter().filter(|sent| !self.sent_before.contains(&sent.node)).collect::<Vec<_>>() {
            if self.tree.get(sent.node).is_some_and(|entry| entry.offered) {
                self.tree.set_offered(sent.node, false);
                self.touch(sent.node);
            }
        }
    }

    /// Of the contents of a batch those are sent again that the server lacks; all of them if it is not clear which these are.
    /// The others must not wait for one whose bytes are not to be had.
    fn supply(&mut self, batch: &InFlight, missing: &MissingDetails, now: Timestamp) {
        let lacks = Lacks::new(missing);
        let mut wanted: Vec<&Sent> = batch.sent.iter().filter(|sent| sent.content).collect();
        if wanted.iter().any(|sent| self.is_lacking(sent, &lacks)) {
            wanted.retain(|sent| self.is_lacking(sent, &lacks));
        }
        for sent in wanted {
            let before = self.note_setback(sent.node);
            let wait = SUPPLY_RETRY_NS.saturating_mul(1 << before.saturating_sub(1).min(10)).min(REJECTED_RETRY_NS);
            if self.draft(sent.node).is_some_and(|draft| draft.prepared.is_some()) {
                self.edit_draft(sent.node, |draft| draft.prepared = None);
                if before == 0 {
                    self.to_prepare.push_back((sent.node, true));
                } else {
                    self.fail(sent.node, LACKING.to_owned(), wait, now);
                }
            } else if let Some(Body::File(FileBody::Clean(content))) =
                self.tree.local(sent.node).map(|state| &state.body)
            {
                self.queue(Effect::Supply { node: sent.node, content: content.clone() });
                self.fail(sent.node, LACKING.to_owned(), wait, now);
            }
        }
    }

    /// One more answer that bytes of a node are lacking; how many there were before in a row.
    fn note_setback(&mut self, node: NodeId) -> u32 {
        let count = self.setbacks.entry(node).or_default();
        let before = *count;
        *count = count.saturating_add(1);
        before
    }

    /// The next commits have half as many operations; `false` if this one cannot be cut.
    fn halve(&mut self, batch: &InFlight) -> bool {
        let can_be_cut = batch.sent.len() > 1 && self.ops_max > 1;
        if can_be_cut {
            self.ops_max = (batch.sent.len().min(self.ops_max) / 2).max(1);
            self.ops_top = self.ops_max;
        }
        can_be_cut
    }

    fn is_lacking(&self, sent: &Sent, lacks: &Lacks) -> bool {
        let content = sent.after.as_ref().and_then(|after| after.body.content());
        let here = self.tree.local(sent.node).and_then(|local| local.body.content());
        content.is_some_and(|content| {
            lacks.is_of(content) || here.is_some_and(|here| here.hash == content.hash && lacks.is_of(here))
        })
    }

    /// The answer to [`Effect::Supply`] if the server has all chunks now: the content with its manifest, so that the next
    /// commit can describe it.
    pub fn supplied(&mut self, node: NodeId, content: &Arc<Content>) {
        self.failed.remove(&node);
        let Some(entry) = self.tree.get(node) else { return };
        let Some(local) = entry.local.clone() else { return };
        let (synced, changed) = (entry.synced.clone(), entry.changed);
        if let Body::File(FileBody::Clean(known)) = &local.body
            && known.hash == content.hash
        {
            let body = Body::File(FileBody::Clean(content.clone()));
            self.put(node, Some(Arc::new(State { body, ..State::clone(&local) })), synced, changed);
        }
    }

    pub(crate) fn rejected(&mut self, batch: &InFlight, reason: &str, now: Timestamp) {
        if batch.sent.len() > 1 && self.ops_max > 1 {
            // One bad node must not stop the others: find it.
            self.ops_max = 1;
            return;
        }
        for sent in &batch.sent {
            self.fail(sent.node, reason.to_owned(), REJECTED_RETRY_NS, now);
        }
    }
}

/// What the server lacks.
struct Lacks {
    chunks: HashSet<ChunkHash>,
    contents: HashSet<ContentHash>,
}

impl Lacks {
    fn new(missing: &MissingDetails) -> Self {
        Self { chunks: missing.chunks.iter().copied().collect(), contents: missing.contents.iter().copied().collect() }
    }

    fn is_of(&self, content: &Content) -> bool {
        let mut chunks = content.manifest.iter().flat_map(|manifest| manifest.chunks());
        self.contents.contains(&content.hash) || chunks.any(|(hash, _)| self.chunks.contains(&hash))
    }
}

/// Whether an answer gives each of so many operations its rev.
fn fits(done: Committed, ops: usize) -> bool {
    let end = done.last_seq.checked_add(1);
    done.first_seq > 0 && end.and_then(|end| end.checked_sub(done.first_seq)) == Some(ops as u64)
}

/// What an operation is long because of, in bytes.
fn weight(state: &State) -> u64 {
    let names: usize = state.names.iter().skip(1).map(|place| 64 + place.name.as_bytes().len()).sum();
    (names + state.xattrs.len()) as u64
}

/// Why a node waits whose bytes the server lacks.
const LACKING: &str = "the server lacks its bytes";

type Part = (Op, Option<State>, Option<Arc<Content>>);

/// The body as it is once the server has it.
fn settled(body: &Body) -> Body {
    match body.content() {
        Some(content) => Body::File(FileBody::Clean(Arc::new(Content::clone(content).for_travel()))),
        None => body.clone(),
    }
}

fn create_op(id: NodeId, base: Rev, local: &State) -> Part {
    let content = local.body.content().cloned();
    let target = match &local.body {
        Body::Symlink(target) => Some(target.clone()),
        _ => None,
    };
    let op = Op::Create {
        id,
        base,
        kind: local.kind(),
        names: local.names.to_vec(),
        attrs: local.attrs,
        xattrs: local.xattrs.with_owner(None),
        content: content.as_ref().map(|content| content.hash),
        target,
    };
    (op, Some(State { body: settled(&local.body), ..local.clone() }), content)
}

fn update_op(id: NodeId, base: Rev, local: &State, synced: &State) -> Part {
    let names = (local.names != synced.names).then(|| local.names.to_vec());
    let unknown = local.body.draft().is_some_and(|draft| draft.prepared.is_none());
    let content = local.body.content().filter(|_| !local.body.same_as(&synced.body)).cloned();
    // The mtime belongs to bytes that are not known yet: it goes with them.
    let mut attrs = local.attrs;
    if unknown {
        attrs.mtime = synced.attrs.mtime;
    }
    let body = if content.is_some() { settled(&local.body) } else { synced.body.clone() };
    let own = local.xattrs.with_owner(None);
    let xattrs = (own != synced.xattrs.with_owner(None)).then_some(own);
    let after = State { names: local.names.clone(), attrs, body, xattrs: local.xattrs.clone() };
    let op = Op::Update {
        id,
        base,
        names,
        attrs: (attrs != synced.attrs).then_some(attrs),
        xattrs,
        content: content.as_ref().map(|content| content.hash),
    };
    (op, Some(after), content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Rig, id as rig_id, name};
    use crate::{Draft, PrepareAnswer, RenameMode};
    use syncmount_common::{Attrs, Extent};

    const ROOT: NodeId = NodeId::ROOT;

    fn ids(batch: &[Op]) -> HashSet<NodeId> {
        batch.iter().map(Op::id).collect()
    }

    #[test]
    fn a_swap_goes_as_one_even_if_batches_are_small() {
        let mut rig = Rig::new();
        let (a, b) = (rig.file(ROOT, "a", 1), rig.file(ROOT, "b", 2));
        rig.sync();
        rig.engine.ops_max = 1;
        rig.engine.rename((ROOT, b"a"), (ROOT, name("b")), RenameMode::Exchange, crate::rig::NOW).unwrap();
        let batches = rig.sync();
        assert_eq!(batches.len(), 1);
        assert_eq!(ids(&batches[0]), HashSet::from([a, b]));
    }

    #[test]
    fn files_of_many_extents_go_one_after_another() {
        let mut rig = Rig::new();
        let count = (INLINE_PER_BATCH as usize).div_ceil(EXTENT_LEN);
        for seed in 1..=3 {
            let body = Body::File(FileBody::Draft(Box::new(Draft { ready: true, size: 1, ..Draft::empty() })));
            let attrs = Attrs { mode: 0o644, mtime: crate::rig::NOW };
            let file = rig.engine.create(ROOT, name(&format!("f{seed}")), attrs, body, crate::rig::NOW).unwrap();
            let chunk = Extent::Chunk { hash: ChunkHash::of(&[seed]), len: 1 };
            let content = Content::of(Manifest::new(vec![chunk; count]).unwrap(), None);
            rig.engine.prepared(file, 0, PrepareAnswer::Ready(Arc::new(content)), crate::rig::NOW);
        }
        let batches = rig.sync();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn what_was_not_sent_goes_as_it_is_when_it_can_be_sent() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        let request = rig.send().unwrap();
        let dated = |mtime| Attrs { mtime: Timestamp(mtime), ..rig.engine.local(file).unwrap().attrs };
        let attrs = dated(crate::rig::NOW.0 - 5);
        rig.engine.set_attrs(file, attrs, crate::rig::NOW).unwrap();
        assert_eq!(rig.send(), None, "one is in flight");
        rig.engine.committed(request.op_id, CommitAnswer::NotSent, crate::rig::NOW);
        let batches = rig.sync();
        assert_eq!(batches.len(), 1, "{batches:?}");
        assert!(
            matches!(batches[0].as_slice(), [Op::Create { attrs: sent, .. }] if sent.mtime == attrs.mtime),
            "{batches:?}"
        );
        assert!(rig.engine.unanswered.is_empty());
    }

    #[test]
    fn a_content_that_is_not_to_be_had_keeps_no_other_waiting() {
        let mut rig = Rig::new();
        let (a, b) = (rig.theirs(rig_id(8), ROOT, "a", Some(1)), rig.theirs(rig_id(9), ROOT, "b", Some(2)));
        rig.news(vec![a, b]);
        rig.engine.begin_resync();
        rig.news(Vec::new());
        let request = rig.send().unwrap();
        assert_eq!(request.ops.len(), 2, "the server has lost both");
        let missing = MissingDetails { chunks: vec![ChunkHash::of(&[1])], contents: Vec::new() };
        rig.engine.committed(request.op_id, CommitAnswer::Missing(missing), crate::rig::NOW);
        let waiting: Vec<NodeId> = rig.engine.problems().map(|(node, _)| node).collect();
        assert_eq!(waiting, [rig_id(8)]);
        assert_eq!(ids(&rig.sync().concat()), HashSet::from([rig_id(9)]));
    }

    /// Drafts that are to be prepared turn out to be one byte.
    fn prepare(rig: &mut Rig, seed: u8) {
        while let Some(effect) = rig.engine.poll(crate::rig::NOW) {
            if let Effect::Prepare { node, generation, .. } = effect {
                let answer = PrepareAnswer::Ready(Arc::new(crate::rig::content(seed)));
                rig.engine.prepared(node, generation, answer, crate::rig::NOW);
            }
        }
    }

    fn second(count: i64) -> Timestamp {
        Timestamp(crate::rig::NOW.0 + count * 1_000_000_000)
    }

    #[test]
    fn what_is_lacking_again_and_again_is_sent_more_and_more_seldom() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.drive();
        let mut at = 0;
        let mut waits = Vec::new();
        for _ in 0..9 {
            let request = rig.engine.next_commit(second(at)).unwrap();
            let missing = MissingDetails { chunks: vec![ChunkHash::of(&[1])], contents: Vec::new() };
            rig.engine.committed(request.op_id, CommitAnswer::Missing(missing), second(at));
            let since = at;
            while rig.engine.problems().next().is_some() {
                at += 1;
                rig.engine.tick(second(at));
            }
            waits.push(at - since);
            prepare(&mut rig, 1);
        }
        assert_eq!(waits, [0, 60, 120, 240, 480, 600, 600, 600, 600]);
        let request = rig.engine.next_commit(second(at)).unwrap();
        let done = Committed { first_seq: 1, last_seq: 1, tag: 1 };
        rig.engine.committed(request.op_id, CommitAnswer::Committed(done), second(at));
        assert!(rig.engine.setbacks.is_empty() && !rig.engine.entry(file).unwrap().is_dirty());
    }

    #[test]
    fn a_commit_that_is_too_long_is_cut_down_to_the_file_that_is_listed() {
        let mut rig = Rig::new();
        let files: Vec<NodeId> = (0..100).map(|count| rig.file(ROOT, &format!("{count:03}"), count)).collect();
        rig.drive();
        let (mut refused, mut sent) = (0, 0);
        while let Some(request) = rig.send() {
            let is_bad = ids(&request.ops).contains(&files[42]);
            if request.ops.len() > 10 || is_bad {
                refused += 1;
                rig.engine.committed(request.op_id, CommitAnswer::TooLarge("10 bytes".into()), crate::rig::NOW);
            } else {
                sent += request.ops.len();
                rig.take(&request);
            }
        }
        assert_eq!(sent, 99);
        assert!(refused < 20, "{refused} refused");
        let problems: Vec<_> = rig.engine.problems().collect();
        assert_eq!(problems, [(files[42], "10 bytes")]);
        rig.engine.tick(second(49));
        assert!(rig.send().is_none());
        rig.engine.tick(second(60));
        assert_eq!(rig.send().unwrap().ops.len(), 1);
    }

    #[test]
    fn without_room_at_the_server_what_needs_none_is_sent_and_the_rest_is_asked_about_every_minute() {
        let mut rig = Rig::new();
        let old = rig.file(ROOT, "old", 200);
        rig.sync();
        let files: Vec<NodeId> = (0..20).map(|count| rig.file(ROOT, &format!("{count:03}"), count)).collect();
        rig.engine.remove(ROOT, b"old", false, crate::rig::NOW).unwrap();
        rig.drive();
        let mut removed = false;
        while let Some(request) = rig.send() {
            if request.contents.is_empty() {
                removed |= ids(&request.ops).contains(&old);
                rig.take(&request);
            } else {
                rig.engine.committed(request.op_id, CommitAnswer::Full("full".into()), crate::rig::NOW);
            }
        }
        assert!(removed);
        assert_eq!(rig.engine.problems().count(), files.len());
        rig.engine.tick(second(49));
        assert_eq!(rig.engine.problems().count(), files.len());
        rig.engine.tick(second(60));
        assert_eq!(rig.engine.problems().count(), 0);
    }

    #[test]
    fn an_answer_that_does_not_fit_the_commit_acknowledges_nothing() {
        for (first_seq, last_seq) in [(u64::MAX, u64::MAX), (u64::MAX - 1, 0), (0, 0), (5, 4), (5, 6), (1, u64::MAX)] {
            let mut rig = Rig::new();
            let file = rig.file(ROOT, "a", 1);
            rig.drive();
            let request = rig.send().unwrap();
            let done = Committed { first_seq, last_seq, tag: 1 };
            rig.engine.committed(request.op_id, CommitAnswer::Committed(done), crate::rig::NOW);
            rig.drive();
            assert!(rig.engine.entry(file).unwrap().synced.is_none(), "{first_seq} to {last_seq}");
            assert!(rig.send().is_none(), "the feed is read first");
            rig.news(Vec::new());
            assert_eq!(rig.sync().concat().len(), 1);
        }
    }

    #[test]
    fn new_directories_above_go_along() {
        let mut rig = Rig::new();
        let outer = rig.mkdir(ROOT, "outer");
        let inner = rig.mkdir(outer, "inner");
        let file = rig.file(inner, "file", 1);
        rig.engine.set_attrs(outer, rig.engine.local(outer).unwrap().attrs, crate::rig::NOW).unwrap();
        rig.engine.ops_max = 1;
        // The directories were touched last, and still the file cannot go without them.
        rig.engine.set_attrs(inner, rig.engine.local(inner).unwrap().attrs, crate::rig::NOW).unwrap();
        let batches = rig.sync();
        assert_eq!(ids(&batches[0]), HashSet::from([outer, inner, file]));
    }

    #[test]
    fn what_is_replaced_by_a_rename_goes_in_the_same_batch() {
        let mut rig = Rig::new();
        let (old, new) = (rig.file(ROOT, "file", 1), rig.file(ROOT, "file.tmp", 2));
        rig.sync();
        rig.engine.ops_max = 1;
        rig.engine.rename((ROOT, b"file.tmp"), (ROOT, name("file")), RenameMode::Replace, crate::rig::NOW).unwrap();
        let batches = rig.sync();
        assert_eq!(batches.len(), 1);
        assert_eq!(ids(&batches[0]), HashSet::from([old, new]));
    }

    #[test]
    fn a_version_that_is_replaced_goes_with_the_copy_of_it() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.edit(file, 2, crate::rig::NOW.0 + 10);
        rig.news(vec![rig.theirs(file, ROOT, "a", Some(3))]);
        rig.engine.ops_max = 1;
        let batches = rig.sync();
        assert_eq!((batches.len(), batches[0].len()), (1, 2), "{batches:?}");
        assert_eq!(rig.names(ROOT).len(), 2);
    }

    #[test]
    fn a_removed_directory_takes_its_moved_children_along() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "dir");
        let file = rig.file(dir, "file", 1);
        rig.sync();
        rig.engine.ops_max = 1;
        rig.engine.rename((dir, b"file"), (ROOT, name("file")), RenameMode::Replace, crate::rig::NOW).unwrap();
        rig.engine.remove(ROOT, b"dir", true, crate::rig::NOW).unwrap();
        rig.engine.set_attrs(file, rig.engine.local(file).unwrap().attrs, crate::rig::NOW).unwrap();
        let batches = rig.sync();
        assert_eq!(ids(&batches[0]), HashSet::from([dir, file]));
    }
}
