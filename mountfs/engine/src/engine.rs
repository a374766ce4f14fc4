//! The engine's state and the calls by which facts come in; dispatch, no policy.

use crate::batch::InFlight;
use crate::conflict::is_conflict_copy;
use crate::feed::Feed;
use crate::held::Held;
use crate::news::{ToldOf, take_last};
use crate::output::{Changed, Effect, Position, PrepareAnswer, Queued, Record};
use crate::owners::{OwnerHere, Owners};
use crate::scope::{NoRules, Rules, Scope};
use crate::state::{Body, Draft, FileBody, Names, Row, RowSynced, State};
use crate::times::Times;
use crate::tree::{Entry, Synced, Tree};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use syncmount_common::protocol::changes::{Cursor, Device};
use syncmount_common::{Content, ContentHash, Name, NodeId, NodeKind, Timestamp};

/// How many drafts may be prepared at the same time; more wait here without costing anything.
const PREPARING_MAX: usize = 64;

/// How long a node that failed is left alone.
pub(crate) const RETRY_AFTER_NS: i64 = 30_000_000_000;

/// When a server without room is asked again, at the latest.
const FULL_RETRY_NS: i64 = 60_000_000_000;

/// How long a file that is written while it is read is left alone, unless somebody tells that it has come to rest.
const MOVING_RETRY_NS: i64 = 2_000_000_000;

/// What is to be tried again later than this from now was noted before the clock was set back.
const RETRY_LAST_NS: i64 = 3600 * 1_000_000_000;

/// Who this engine is, and its randomness.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The device that commits are made as.
    pub device: Device,
    /// Seeds the ids of new nodes: must differ at every start.
    pub seed: u64,
}

/// What was kept from an earlier run.
#[derive(Clone, Debug, Default)]
pub struct Restored {
    /// The rows.
    pub rows: Vec<(NodeId, Row)>,
    /// The feed position.
    pub cursor: Option<Cursor>,
    /// The end of the newest own commit, if it is past that.
    pub ahead: Option<Cursor>,
    /// Nodes of commits that may have reached the server without an answer.
    pub unanswered: Vec<NodeId>,
}

/// How much is not at the server yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Nodes with any work.
    pub nodes: u64,
    /// Files whose bytes are to be sent.
    pub files: u64,
    /// The sizes of these files.
    pub bytes: u64,
    /// Of the nodes, removals that the server holds back until somebody allows them.
    pub held: u64,
}

/// The sync engine of one folder on one device.
pub struct Engine {
    pub(crate) identity: Identity,
    pub(crate) tree: Tree,
    pub(crate) feed: Feed,
    pub(crate) in_flight: Option<InFlight>,
    pub(crate) effects: VecDeque<Queued>,
    /// Drafts to be prepared, with whether everything must be uploaded.
    pub(crate) to_prepare: VecDeque<(NodeId, bool)>,
    preparing: HashMap<NodeId, u64>,
    /// Nodes that could not be sent: when to try again, and why.
    pub(crate) failed: BTreeMap<NodeId, (Timestamp, String)>,
    /// How often in a row the server has said of a node's commit that it lacks bytes.
    pub(crate) setbacks: HashMap<NodeId, u32>,
    /// Removals that the server holds back.
    pub(crate) held: Option<Held>,
    /// With 1, groups are sent one by one to find the one that the server refuses.
    pub(crate) ops_max: usize,
    /// What `ops_max` grows to: less than ever while longer commits are refused for their length.
    pub(crate) ops_top: usize,
    /// Nodes restored without an agreement: an earlier run may have sent their creation and not lived to hear the answer.
    pub(crate) sent_before: BTreeSet<NodeId>,
    /// Nodes of the commit in flight, and of commits that an earlier run sent and did not live to hear the answer of.
    pub(crate) unanswered: BTreeSet<NodeId>,
    pub(crate) unanswered_touched: bool,
    /// The names with which creations may have reached the server, of nodes that have had others since. What the server has
    /// then is earlier than what is here, whichever device it names: a client that was cut off goes on as another one.
    pub(crate) sent_names: HashMap<NodeId, Names>,
    /// Nodes whose name has a conflict note.
    pub(crate) conflicts: BTreeSet<NodeId>,
    /// Nodes without an agreement whose bytes came from the server, by content: copies of versions that were replaced here.
    pub(crate) copies: BTreeMap<ContentHash, BTreeSet<NodeId>>,
    copied: BTreeMap<NodeId, ContentHash>,
    touched: BTreeSet<NodeId>,
    /// More of them, which have arrived with the feed.
    arrived: ToldOf,
    cursor_touched: bool,
    retired: Vec<u64>,
    random: u64,
    /// Who wrote what the feed has brought.
    pub(crate) authors: crate::observed::Authors,
    /// Drafts by what they still need, for the status.
    unsent: BTreeMap<NodeId, u64>,
    pub(crate) rules: Arc<dyn Rules>,
    /// The rules have to be read before anything is sent.
    pub(crate) rules_asked: bool,
    pub(crate) rules_version: u64,
    /// Files with rules that travel.
    pub(crate) rule_files: BTreeSet<NodeId>,
    /// Nodes that may be on the wrong side of the folder's border, with whether all below them may be.
    pub(crate) to_rescope: VecDeque<(NodeId, bool)>,
    /// How many of the first of them must have been looked at before anything is sent.
    pub(crate) rescope_first: usize,
    /// Removals that wait until then for another node to take their place.
    pub(crate) resting: BTreeMap<NodeId, Timestamp>,
    pub(crate) times: Times,
    pub(crate) copies_removed: u64,
    /// Files of which this device has made conflict copies since the start.
    pub(crate) copied_here: BTreeSet<syncmount_common::Placement>,
    pub(crate) owners: Owners,
}

/// Effects for which room is kept.
const EFFECTS_ROOM: usize = 4096;

impl Engine {
    /// An engine with what was kept from an earlier run, or with nothing.
    pub fn new(identity: Identity, restored: Restored) -> Self {
        let random = identity.seed;
        let mut engine = Self {
            identity,
            tree: Tree::new(),
            feed: Feed::new(restored.cursor, restored.ahead),
            in_flight: None,
            effects: VecDeque::new(),
            to_prepare: VecDeque::new(),
            preparing: HashMap::new(),
            failed: BTreeMap::new(),
            setbacks: HashMap::new(),
            held: None,
            ops_max: crate::batch::OPS_PER_BATCH,
            ops_top: crate::batch::OPS_PER_BATCH,
            sent_before: BTreeSet::new(),
            unanswered: restored.unanswered.into_iter().collect(),
            unanswered_touched: false,
            sent_names: HashMap::new(),
            conflicts: BTreeSet::new(),
            copies: BTreeMap::new(),
            copied: BTreeMap::new(),
            touched: BTreeSet::new(),
            arrived: ToldOf::default(),
            cursor_touched: false,
            retired: Vec::new(),
            random,
            authors: crate::observed::Authors::default(),
            unsent: BTreeMap::new(),
            rules: Arc::new(NoRules),
            rules_asked: false,
            rules_version: 0,
            rule_files: BTreeSet::new(),
            to_rescope: VecDeque::new(),
            rescope_first: 0,
            resting: BTreeMap::new(),
            times: Times::default(),
            copies_removed: 0,
            copied_here: BTreeSet::new(),
            owners: Owners::default(),
        };
        engine.restore(restored.rows);
        engine
    }

    fn restore(&mut self, mut rows: Vec<(NodeId, Row)>) {
        // The order of work is the order of the changes; ids break ties so that a restart is repeatable.
        rows.sort_unstable_by_key(|(id, row)| Reverse((row.changed, *id)));
        let ids: Vec<NodeId> = rows.iter().rev().map(|(id, _)| *id).collect();
        self.tree.reserve(rows.len());
        while let Some((id, row)) = take_last(&mut rows) {
            let local = row.local.map(distrust_unfinished);
            let synced = match row.synced {
                RowSynced::Never => None,
                RowSynced::SameAsLocal { rev, content_rev } => Some(Synced { rev, content_rev, state: local.clone() }),
                RowSynced::Differs { rev, content_rev, state } => Some(Synced { rev, content_rev, state }),
            };
            if row.offered {
                // Kept alive by the flag, which must be set before the tree may forget it.
                self.tree.set_detached(id, local.clone().or_else(|| Some(placeholder())), None, row.changed);
                self.tree.set_offered(id, true);
            }
            let may_be_sent = row.scope == Scope::Shared;
            if may_be_sent && local.is_some() && synced.as_ref().is_none_or(|synced| synced.state.is_none()) {
                self.sent_before.insert(id);
            }
            if let Some(names) = row.sent_names.filter(|_| synced.is_none()) {
                self.sent_names.insert(id, names);
            }
            if !row.owner_here.is_empty() {
                self.owners.restore(id, row.owner_here);
            }
            self.tree.set_detached(id, local, synced, row.changed);
            self.tree.set_scope(id, row.scope);
            if self.tree.get(id).is_some_and(Entry::is_dirty) {
                self.unanswered.insert(id);
            }
        }
        for id in ids {
            if self.tree.attach(id).is_err() {
                // Two nodes with one name cannot come from this program; neither is lost if the later one steps aside.
                self.step_aside(id, Timestamp::default());
            }
            self.note_draft(id);
            self.note_copy(id);
            self.note_rules(id);
            self.note_copied(id);
            if self.draft(id).is_some_and(|draft| draft.ready && draft.prepared.is_none()) {
                self.to_prepare.push_back((id, false));
            }
            self.settle_if_acknowledged(id);
        }
    }

    /// Work for the driver, until `None`. Call it after every other call.
    pub fn poll(&mut self, now: Timestamp) -> Option<Effect> {
        self.apply_feed(now);
        if let Some(effect) = self.next_effect() {
            return Some(effect);
        }
        // A large folder that has arrived leaves room for as many.
        self.effects.shrink_to(EFFECTS_ROOM);
        if self.feed.is_unsound() {
            // Preparing sends what a commit cannot carry.
            return None;
        }
        while self.preparing.len() < PREPARING_MAX {
            let (node, upload) = self.to_prepare.pop_front()?;
            let Some(draft) = self.draft(node) else { continue };
            let generation = draft.generation;
            let wanted = draft.ready && draft.prepared.is_none() && !self.stays_here(node);
            if wanted && !self.preparing.contains_key(&node) {
                self.preparing.insert(node, generation);
                return Some(Effect::Prepare { node, generation, upload });
            }
        }
        None
    }

    fn next_effect(&mut self) -> Option<Effect> {
        while let Some(queued) = self.effects.pop_front() {
            match queued {
                Queued::Effect(effect) => return Some(*effect),
                Queued::Changed { node, before, after } => {
                    return Some(Effect::Changed(Changed::between(node, before.as_deref(), after.as_deref())));
                }
                Queued::Arrived { nodes, next } => {
                    let Some(node) = nodes.at(next) else { continue };
                    self.effects.push_front(Queued::Arrived { nodes, next: next + 1 });
                    if let Some(local) = self.tree.local(node) {
                        return Some(Effect::Changed(Changed::between(node, None, Some(local))));
                    }
                }
            }
        }
        None
    }

    pub(crate) fn queue(&mut self, effect: Effect) {
        self.effects.push_back(Queued::Effect(Box::new(effect)));
    }

    /// Whether bytes of a node may go to the server, as far as names and their rules are known by now.
    pub fn may_be_sent(&self, node: NodeId) -> bool {
        let is_shared = self.tree.get(node).is_some_and(Entry::is_shared);
        is_shared && !self.rules_asked && self.rescope_first == 0 && !self.feed.is_unsound()
    }

    /// Whether [`Self::poll`] may have work, beside what was to be done before the last call.
    pub fn wants_poll(&self) -> bool {
        !(self.effects.is_empty() && self.to_prepare.is_empty() && self.to_rescope.is_empty())
    }

    /// What must be kept before anything that follows from it is done or said.
    pub fn take_record(&mut self) -> Record {
        let arrived = std::mem::take(&mut self.arrived);
        let touched = std::mem::take(&mut self.touched).into_iter();
        let nodes = touched.filter(|id| !arrived.contains(*id)).collect();
        let position = std::mem::take(&mut self.cursor_touched)
            .then(|| Position { cursor: self.feed.cursor(), ahead: self.feed.ahead() });
        let unanswered =
            std::mem::take(&mut self.unanswered_touched).then(|| self.unanswered.iter().copied().collect());
        Record { nodes, arrived, position, unanswered, retired: std::mem::take(&mut self.retired) }
    }

    /// The rows of a record that was taken just now, one by one, `None` to delete: very many need no memory at once. The
    /// iterator knows how many.
    pub fn rows(&self, record: &Record) -> impl Iterator<Item = (NodeId, Option<Row>)> {
        let nodes = record.nodes.iter().copied().chain(record.arrived.ids());
        nodes.map(|id| {
            let (sent_names, owner_here) = (self.sent_names.get(&id).cloned(), self.owners.of(id));
            (id, self.tree.get(id).map(|entry| Row { sent_names, owner_here, ..row_of(entry) }))
        })
    }

    /// A record could not be kept: it is part of the next one.
    pub fn keep_failed(&mut self, record: Record) {
        self.touched.extend(record.nodes);
        self.touch_arrived(record.arrived);
        self.cursor_touched |= record.position.is_some();
        self.unanswered_touched |= record.unanswered.is_some();
        self.retired.extend(record.retired);
    }

    /// The staging file of a draft is lost: the node falls back to what both sides agreed on, or goes if there is nothing.
    pub fn abandon_draft(&mut self, node: NodeId, now: Timestamp) {
        let Some(entry) = self.tree.get(node) else { return };
        let Some(local) = entry.local.clone().filter(|local| local.body.draft().is_some()) else { return };
        let synced = entry.synced.clone();
        let agreed = synced.as_ref().and_then(|synced| synced.state.clone());
        let back = agreed.map(|agreed| Arc::new(State { names: local.names.clone(), ..State::clone(&agreed) }));
        self.put(node, back, synced, now);
        // What is shown now is what both agreed on, not an answer to what was sent since.
        self.forget_unanswered(node);
    }

    /// The answer to [`Effect::Prepare`].
    pub fn prepared(&mut self, node: NodeId, generation: u64, answer: PrepareAnswer, now: Timestamp) {
        self.preparing.remove(&node);
        self.failed.remove(&node);
        let current = self.draft(node).is_some_and(|draft| draft.generation == generation);
        match answer {
            PrepareAnswer::Ready(content) if current => {
                self.edit_draft(node, |draft| draft.prepared = Some(content));
                self.settle_if_acknowledged(node);
            }
            PrepareAnswer::Moving if current => {
                self.fail(node, "it is being written".to_owned(), MOVING_RETRY_NS, now);
            }
            PrepareAnswer::Ready(_) | PrepareAnswer::Moving | PrepareAnswer::Outdated | PrepareAnswer::Unreachable => {
                self.to_prepare.push_back((node, false));
            }
            // What was wrong with bytes that are gone is nobody's problem any more.
            PrepareAnswer::Failed(_) | PrepareAnswer::Full(_) | PrepareAnswer::TooLarge(_)
                if self.stays_here(node) || self.tree.local(node).is_none() => {}
            PrepareAnswer::Failed(reason) => self.fail(node, reason, RETRY_AFTER_NS, now),
            PrepareAnswer::Full(reason) | PrepareAnswer::TooLarge(reason) => self.fail_until_room(node, reason, now),
        }
    }

    /// The server has no room for a node's bytes, or does not take so many at a time: until its owner has done something about
    /// it. Those of many nodes do not come back at the same moment.
    pub(crate) fn fail_until_room(&mut self, node: NodeId, reason: String, now: Timestamp) {
        let early = self.next_random() % (FULL_RETRY_NS as u64 / 6);
        self.fail(node, reason, FULL_RETRY_NS - early as i64, now);
    }

    pub(crate) fn fail(&mut self, node: NodeId, reason: String, retry_after_ns: i64, now: Timestamp) {
        self.failed.insert(node, (Timestamp(now.0.saturating_add(retry_after_ns)), reason));
    }

    /// To be called now and then: what failed earlier is tried again. Whether there is something to try.
    pub fn tick(&mut self, now: Timestamp) -> bool {
        let asks = self.held.as_mut().is_some_and(|held| held.ask_if_due(now));
        let due: Vec<NodeId> = self.failed.iter().filter(|(_, (at, _))| is_due(*at, now)).map(|(id, _)| *id).collect();
        let tries = self.end_rests(now) || asks || !due.is_empty();
        for id in due {
            self.failed.remove(&id);
            self.to_prepare.push_back((id, true));
        }
        let tree = &self.tree;
        self.setbacks.retain(|id, _| tree.get(*id).is_some_and(Entry::is_dirty));
        tries
    }

    /// The staging file of `node` has become the cached `content`: the draft is over. `None` if it was written again.
    /// Returns the staging file that nobody refers to from now on, once the record is kept.
    pub fn settle(&mut self, node: NodeId, generation: u64) -> Option<Option<u64>> {
        let entry = self.tree.get(node)?;
        let (local, synced, changed) = (entry.local.clone()?, entry.synced.clone()?, entry.changed);
        let draft = local.body.draft().filter(|draft| draft.generation == generation)?;
        let agreed = synced.state.as_ref().filter(|state| state.body.same_as(&local.body))?;
        let staging = draft.staging;
        let local = if local.names == agreed.names && local.attrs == agreed.attrs && local.xattrs == agreed.xattrs {
            agreed.clone()
        } else {
            Arc::new(State { body: agreed.body.clone(), ..State::clone(&local) })
        };
        self.put(node, Some(local), Some(synced), changed);
        self.retired.extend(staging);
        Some(staging)
    }

    /// Asks once more for [`Effect::Settle`] of a file, if the server has what was written to it.
    pub fn settle_again(&mut self, node: NodeId) {
        self.settle_if_acknowledged(node);
    }

    pub(crate) fn settle_if_acknowledged(&mut self, node: NodeId) {
        let Some(entry) = self.tree.get(node) else { return };
        let (Some(local), Some(synced)) = (&entry.local, entry.synced_state()) else { return };
        if let (Some(draft), Some(content)) = (local.body.draft(), synced.body.content())
            && local.body.same_as(&synced.body)
        {
            let effect = Effect::Settle { node, generation: draft.generation, content: content.clone() };
            self.queue(effect);
        }
    }

    /// The manifest that `hash` names describes `size` bytes: a server that told another size was wrong. Files with that
    /// content have this size from now on.
    pub fn measured(&mut self, hash: &ContentHash, size: u64) {
        let is_wrong = |state: &Arc<State>| {
            state.body.content().is_some_and(|content| content.hash == *hash && content.size != size)
        };
        let corrected = |state: Arc<State>| match &state.body {
            Body::File(FileBody::Clean(content)) if is_wrong(&state) => {
                let content = Arc::new(Content { size, ..Content::clone(content) });
                Arc::new(State { body: Body::File(FileBody::Clean(content)), ..State::clone(&state) })
            }
            _ => state,
        };
        let states =
            |entry: &Entry| [entry.local.clone(), entry.synced_state().cloned()].into_iter().flatten().collect();
        let is_told = |id: &NodeId| self.tree.get(*id).map(states).is_some_and(|all: Vec<_>| all.iter().any(is_wrong));
        let mut ids: Vec<NodeId> = self.tree.ids().filter(is_told).collect();
        ids.sort_unstable();
        for id in ids {
            let Some(entry) = self.tree.get(id) else { continue };
            let (before, changed) = (entry.local.clone(), entry.changed);
            let synced = entry.synced.clone();
            let synced = synced.map(|synced| Synced { state: synced.state.map(corrected), ..synced });
            let local = before.clone().map(corrected);
            let news = Changed::between(id, before.as_deref(), local.as_deref());
            self.put(id, local, synced, changed);
            self.queue(Effect::Changed(news));
        }
    }

    /// Everything known about a node.
    pub fn entry(&self, id: NodeId) -> Option<&Entry> {
        self.tree.get(id)
    }

    /// What the user sees of a node.
    pub fn local(&self, id: NodeId) -> Option<&Arc<State>> {
        self.tree.local(id)
    }

    /// The node with a name in a directory.
    pub fn child(&self, parent: NodeId, name: &[u8]) -> Option<NodeId> {
        self.tree.child(parent, name)
    }

    /// The entries of a directory by name.
    pub fn children(&self, parent: NodeId) -> impl Iterator<Item = (&Name, NodeId)> + '_ {
        self.tree.children(parent)
    }

    /// How many entries a directory has.
    pub fn children_len(&self, parent: NodeId) -> usize {
        self.tree.children_len(parent)
    }

    /// A number that is another one after each change of a directory's entries. It may also become another without one.
    pub fn entry_changes(&self, dir: NodeId) -> u32 {
        self.tree.entry_changes(dir)
    }

    /// The names from the root to a node; none for the root.
    pub fn names(&self, id: NodeId) -> Vec<Name> {
        self.names_to(id).into_iter().cloned().collect()
    }

    /// How many directories lie in a directory.
    pub fn subdirs(&self, parent: NodeId) -> u32 {
        self.tree.subdirs(parent)
    }

    /// Whether one of the node's names has a conflict note.
    pub fn is_conflict_copy(&self, id: NodeId) -> bool {
        self.conflicts.contains(&id)
    }

    /// The path of a node from the root, for people; `None` if it is gone.
    pub fn path(&self, id: NodeId) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = id;
        while at != NodeId::ROOT {
            let place = self.tree.local(at)?.names.first()?;
            parts.push(place.name.to_string());
            at = place.parent;
            if parts.len() > self.tree.len() {
                return None;
            }
        }
        parts.reverse();
        Some(parts.join("/"))
    }

    /// The end of the feed as far as it is known here.
    pub fn cursor(&self) -> Option<Cursor> {
        self.feed.cursor()
    }

    /// The newest position of the folder's history that is known here.
    pub fn known(&self) -> Option<Cursor> {
        self.feed.known()
    }

    /// Whether the folder has been read from the server at least once.
    pub fn has_joined(&self) -> bool {
        self.feed.cursor().is_some()
    }

    /// Number of nodes, with the root.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Never true: the root is always there.
    pub fn is_empty(&self) -> bool {
        self.tree.len() == 0
    }

    /// How much is not at the server yet.
    pub fn pending(&self) -> Pending {
        Pending {
            nodes: self.tree.dirty_len() as u64,
            files: self.unsent.len() as u64,
            bytes: self.unsent.values().sum(),
            held: self.held().map_or(0, |(count, _)| count),
        }
    }

    /// The bytes of a file if they are to be sent.
    pub fn unsent_bytes(&self, id: NodeId) -> u64 {
        self.unsent.get(&id).copied().unwrap_or(0)
    }

    /// Files that could not be sent, with the reason.
    pub fn problems(&self) -> impl Iterator<Item = (NodeId, &str)> + '_ {
        self.failed.iter().map(|(id, (_, reason))| (*id, reason.as_str()))
    }

    /// Conflict copies, made here or elsewhere, until somebody renames or removes them.
    pub fn conflicts(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.conflicts.iter().copied()
    }

    /// Staging files that nodes refer to.
    pub fn stagings(&self) -> impl Iterator<Item = (NodeId, &Draft)> + '_ {
        self.tree.drafts().filter_map(|id| Some((id, self.draft(id)?)))
    }

    /// Contents that nodes refer to, for checks.
    pub fn contents(&self) -> impl Iterator<Item = (NodeId, &Arc<Content>)> + '_ {
        self.tree.ids().filter_map(|id| Some((id, self.tree.local(id)?.body.content()?)))
    }

    /// All nodes, the root too.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.tree.ids()
    }

    /// Panics if the engine's indexes disagree with its tree. For tests and simulations.
    pub fn check(&self) {
        self.tree.check();
    }

    pub(crate) fn draft(&self, id: NodeId) -> Option<&Draft> {
        self.tree.local(id)?.body.draft()
    }

    /// Replaces what is known about a node whose places are free.
    pub(crate) fn put(&mut self, id: NodeId, local: Option<Arc<State>>, synced: Option<Synced>, now: Timestamp) {
        self.note_sent_names(id, local.as_deref(), synced.as_ref());
        self.unsettle(id, local.as_deref());
        self.tree.set(id, local, synced, now);
        self.touch(id);
    }

    /// The same before its places are.
    pub(crate) fn put_detached(
        &mut self,
        id: NodeId,
        local: Option<Arc<State>>,
        synced: Option<Synced>,
        now: Timestamp,
    ) {
        self.note_sent_names(id, local.as_deref(), synced.as_ref());
        self.unsettle(id, local.as_deref());
        self.tree.set_detached(id, local, synced, now);
        self.touch(id);
    }

    /// It is known whether the server has taken what was sent of a node.
    pub(crate) fn forget_unanswered(&mut self, id: NodeId) {
        self.unanswered_touched |= self.unanswered.remove(&id);
        if self.sent_names.remove(&id).is_some() {
            self.touched.insert(id);
        }
    }

    /// Before a node changes: a creation whose answer is not known may be at the server under the names of now.
    fn note_sent_names(&mut self, id: NodeId, after: Option<&State>, synced: Option<&Synced>) {
        if synced.is_some() || after.is_none() {
            if !self.sent_names.is_empty() {
                self.sent_names.remove(&id);
            }
            return;
        }
        if !self.unanswered.contains(&id) || self.sent_names.contains_key(&id) {
            return;
        }
        let Some(before) =
            self.tree.get(id).filter(|entry| entry.synced.is_none()).and_then(|entry| entry.local.as_ref())
        else {
            return;
        };
        if after.is_some_and(|after| after.names != before.names) {
            let sent = self.in_flight.as_ref().and_then(|batch| batch.after(id)).unwrap_or(before);
            self.sent_names.insert(id, sent.names.clone());
        }
    }

    pub(crate) fn touch(&mut self, id: NodeId) {
        self.touched.insert(id);
        if self.tree.get(id).is_none() {
            self.owners.forget(id);
        }
        self.note_draft(id);
        self.note_names(id);
        self.note_copied(id);
    }

    /// These are to be kept too. Of several lists before the next record the longest costs nothing.
    pub(crate) fn touch_arrived(&mut self, mut arrived: ToldOf) {
        if arrived.ids().len() > self.arrived.ids().len() {
            std::mem::swap(&mut arrived, &mut self.arrived);
        }
        self.touched.extend(arrived.ids());
    }

    /// What follows from what a node is called.
    pub(crate) fn note_names(&mut self, id: NodeId) {
        self.note_copy(id);
        self.note_rules(id);
    }

    pub(crate) fn touch_cursor(&mut self) {
        self.cursor_touched = true;
    }

    /// No row refers to this staging file any more.
    pub(crate) fn retire(&mut self, staging: u64) {
        self.retired.push(staging);
        self.queue(Effect::DropStaging(staging));
    }

    /// Changes what is known about a draft, not what the user sees of it.
    pub(crate) fn edit_draft(&mut self, id: NodeId, edit: impl FnOnce(&mut Draft)) {
        let Some(entry) = self.tree.get(id) else { return };
        let Some(mut local) = entry.local.clone() else { return };
        let (synced, changed) = (entry.synced.clone(), entry.changed);
        if let Body::File(FileBody::Draft(draft)) = &mut Arc::make_mut(&mut local).body {
            edit(draft);
            // What is known about its bytes is no change of it: what was done later still goes later.
            let order = self.tree.order(id);
            self.put(id, Some(local), synced, changed);
            self.tree.set_order(id, order);
        }
    }

    /// A new id: the time and 80 random bits.
    pub(crate) fn new_id(&mut self, now: Timestamp) -> NodeId {
        loop {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&self.next_random().to_le_bytes());
            random[8..].copy_from_slice(&self.next_random().to_le_bytes()[..2]);
            let id = NodeId::new_v7(now.unix_ms(), &random);
            if self.tree.get(id).is_none() {
                return id;
            }
        }
    }

    /// A number from the engine's own randomness.
    pub fn random(&mut self) -> u64 {
        self.next_random()
    }

    /// Whether anything is to be sent.
    pub fn has_work(&self) -> bool {
        self.tree.dirty_len() > 0
    }

    /// SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
    pub(crate) fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn note_copy(&mut self, id: NodeId) {
        let is_copy = |state: &Arc<State>| state.names.iter().any(|place| is_conflict_copy(&place.name));
        if self.tree.local(id).is_some_and(is_copy) {
            self.conflicts.insert(id);
        } else {
            self.conflicts.remove(&id);
        }
    }

    fn note_copied(&mut self, id: NodeId) {
        let unsent = self.tree.get(id).filter(|entry| entry.synced_state().is_none());
        let hash = unsent.and_then(|entry| match &entry.outgoing()?.body {
            Body::File(FileBody::Clean(content)) => Some(content.hash),
            _ => None,
        });
        let before = match hash {
            Some(hash) => self.copied.insert(id, hash),
            None => self.copied.remove(&id),
        };
        if before == hash {
            return;
        }
        if let Some(before) = before
            && let Some(ids) = self.copies.get_mut(&before)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.copies.remove(&before);
            }
        }
        if let Some(hash) = hash {
            self.copies.entry(hash).or_default().insert(id);
        }
    }

    fn note_draft(&mut self, id: NodeId) {
        let Some(entry) = self.tree.get(id) else {
            self.unsent.remove(&id);
            return;
        };
        let unsent = entry.outgoing().filter(|local| {
            local.body.draft().is_some() && entry.synced_state().is_none_or(|synced| !local.body.same_as(&synced.body))
        });
        match unsent {
            Some(local) => self.unsent.insert(id, local.body.size()),
            None => self.unsent.remove(&id),
        };
    }
}

/// Whether the time `at` has come. Also if it lies "in the future": the clock may have been set back.
pub(crate) fn is_due(at: Timestamp, now: Timestamp) -> bool {
    at <= now || at.0.saturating_sub(now.0) > RETRY_LAST_NS
}

/// A file that was being written when the record was made has had other bytes since: what they turned out to be, and
/// their generation, do not count any more.
fn distrust_unfinished(mut state: Arc<State>) -> Arc<State> {
    if state.body.draft().is_some_and(|draft| !draft.ready)
        && let Body::File(FileBody::Draft(draft)) = &mut Arc::make_mut(&mut state).body
    {
        draft.generation += 1;
        draft.prepared = None;
    }
    state
}

fn placeholder() -> Arc<State> {
    Arc::new(State {
        names: Names::new(),
        attrs: syncmount_common::Attrs { mode: 0, mtime: Timestamp(0) },
        body: Body::Dir,
        xattrs: syncmount_common::Xattrs::default(),
    })
}

fn row_of(entry: &Entry) -> Row {
    let synced = match &entry.synced {
        None => RowSynced::Never,
        Some(synced) if entry.local.is_some() && entry.local == synced.state => {
            RowSynced::SameAsLocal { rev: synced.rev, content_rev: synced.content_rev }
        }
        Some(synced) => {
            RowSynced::Differs { rev: synced.rev, content_rev: synced.content_rev, state: synced.state.clone() }
        }
    };
    Row {
        local: entry.local.clone(),
        synced,
        changed: entry.changed,
        offered: entry.offered,
        scope: entry.scope,
        sent_names: None,
        owner_here: OwnerHere::default(),
    }
}

/// Whether a state is a directory's.
pub(crate) fn is_dir(state: &State) -> bool {
    state.kind() == NodeKind::Dir
}
