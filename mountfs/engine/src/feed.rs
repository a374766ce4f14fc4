//! The change feed: pages are collected until they are a complete state, then merged into the tree in one step.
//!
//! Merging never waits for disks or networks. What it needs to know first (the hash of a draft that may turn out to be
//! the same bytes) it asks for, and holds the page meanwhile.

use crate::conflict::keeps_name;
use crate::engine::{Engine, is_dir};
use crate::news::{News, Told, ToldOf, Writers, latest, take_last};
use crate::output::{Effect, Queued};
use crate::reconcile::{Copy, Facts, merge, merge_names};
use crate::scope::Scope;
use crate::soundness::{self, Fault, Unsound};
use crate::state::{Body, Draft, FileBody, State};
use crate::tree::{Entry, Synced};
use smallvec::smallvec;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, PAGE_NODES_MAX};
use syncmount_common::protocol::commit::Committed;
use syncmount_common::{Attrs, DeviceId, Name, NodeId, NodeKind, Owner, Placement, Timestamp};

/// How often a page is held back for hashes before drafts that keep changing count as different.
const HELD_MAX: u32 = 3;

/// How many conflicts without news from the feed it takes to compare everything anew.
const FRUITLESS_MAX: u32 = 3;

/// How many states that are no folder it takes to compare everything again: what they do not go with may have been a lie.
const REFUSED_MAX: u32 = 3;

/// What has arrived of the feed.
pub(crate) struct Feed {
    cursor: Option<Cursor>,
    /// The end of the newest own commit, if the cursor could not follow it: the server has this position, too.
    ahead: Option<Cursor>,
    /// Nodes of pages so far, complete if `complete`.
    news: Vec<News>,
    /// Directories whose entries the pages so far have changed, and their mtimes.
    touched: BTreeMap<NodeId, Timestamp>,
    /// Whether all pages of the state so far are of a server that tells owners.
    tells_owners: bool,
    complete: Option<End>,
    /// The complete state has been checked: each of its nodes is in `news` once.
    checked: bool,
    /// What was wrong with the newest complete state. Until one is sound, none is merged and nothing is sent.
    unsound: Option<Unsound>,
    /// How many of them there were one after the other.
    refused: u32,
    /// Where the next page begins if some have arrived but more follow.
    partial: Option<Cursor>,
    devices: HashMap<DeviceId, String>,
    /// Who wrote the news.
    pub(crate) writers: Writers,
    /// Who changed last what is being merged, while it is: what is new here, and what is not.
    authors: [ToldOf; 2],
    /// The server said conflict: nothing is sent before the next page.
    awaits_page: bool,
    fruitless: u32,
    held: u32,
    /// The pages are the whole folder, not what changed since the cursor.
    whole: bool,
}

/// Where a complete state ends, and what is known of the history that it is of.
#[derive(Clone, Copy)]
struct End {
    cursor: Cursor,
    asked: Ask,
    own: Option<Cursor>,
}

impl End {
    /// Whether it is of a history that has `position`: the server has looked, or has given out the position itself.
    fn has(&self, position: Cursor) -> bool {
        [self.asked.since, self.asked.known, self.own, Some(self.cursor)].contains(&Some(position))
    }
}

impl Feed {
    pub(crate) fn new(cursor: Option<Cursor>, ahead: Option<Cursor>) -> Self {
        Self {
            cursor,
            ahead,
            news: Vec::new(),
            touched: BTreeMap::new(),
            tells_owners: false,
            complete: None,
            checked: false,
            unsound: None,
            refused: 0,
            partial: None,
            devices: HashMap::new(),
            writers: Writers::default(),
            authors: Default::default(),
            awaits_page: false,
            fruitless: 0,
            held: 0,
            whole: cursor.is_none(),
        }
    }

    pub(crate) fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }

    pub(crate) fn ahead(&self) -> Option<Cursor> {
        self.ahead
    }

    /// The newest position of the history that is known.
    pub(crate) fn known(&self) -> Option<Cursor> {
        self.ahead.or(if self.whole { None } else { self.cursor })
    }

    pub(crate) fn has_news(&self) -> bool {
        self.complete.is_some()
    }

    pub(crate) fn awaits_page(&self) -> bool {
        self.awaits_page
    }

    pub(crate) fn is_unsound(&self) -> bool {
        self.unsound.is_some()
    }

    pub(crate) fn await_page(&mut self) {
        self.awaits_page = true;
        self.fruitless += 1;
    }

    fn ask(&self) -> Ask {
        let since = self.partial.or(if self.whole { None } else { self.cursor });
        Ask { since, known: self.known().filter(|known| Some(*known) != since) }
    }

    /// Whether a page from `from` goes on where the pages so far end. Own commits may have moved the cursor on meanwhile;
    /// a page from before them has nothing less.
    fn fits(&self, from: Option<Cursor>) -> bool {
        match (self.partial, self.whole, from, self.cursor) {
            (Some(partial), _, from, _) => from == Some(partial),
            (None, true, from, _) => from.is_none(),
            (None, false, Some(from), Some(cursor)) => from.epoch == cursor.epoch && from.seq <= cursor.seq,
            (None, false, from, cursor) => from == cursor,
        }
    }

    /// The server has taken a commit from here. One right behind the cursor need not be read back; the feed must reach the
    /// end of any other. Returns whether the cursor has moved.
    pub(crate) fn note_own(&mut self, done: Committed) -> bool {
        self.fruitless = 0;
        let Some(cursor) = &mut self.cursor else { return false };
        let end = Cursor { epoch: cursor.epoch, seq: done.last_seq, tag: done.tag };
        let follows = !self.whole && self.ahead.is_none() && cursor.seq.checked_add(1) == Some(done.first_seq);
        if follows {
            *cursor = end;
        } else if self.ahead.is_none_or(|ahead| ahead.seq < end.seq) {
            self.ahead = Some(end);
        }
        follows
    }

    fn drop_pages(&mut self) {
        // A list that is emptied keeps its room.
        (self.news, self.writers, self.touched) = (Vec::new(), Writers::default(), BTreeMap::new());
        (self.complete, self.partial, self.checked) = (None, None, false);
    }

    /// Whether a page ends where or behind where it was asked for, in the same history, and has only what changed in between:
    /// a node that is told to be of later would be deaf to all that is said of it until then.
    fn goes_on(asked: Ask, page: &ChangesPage) -> bool {
        let (since, end) = (asked.since.map_or(0, |since| since.seq), page.cursor.seq);
        let is_same = asked.since.is_none_or(|since| since.epoch == page.cursor.epoch);
        let has_end = if page.more && asked.since.is_some() { since < end } else { since <= end };
        is_same && has_end && page.nodes.iter().all(|node| since < node.rev && node.rev <= end)
    }
}

/// What a device is called whose name is not known.
const SOMEBODY: &str = "another device";

/// One node's part of a step.
pub(crate) struct Step {
    pub(crate) before: Option<Arc<State>>,
    pub(crate) after: Option<Arc<State>>,
    pub(crate) synced: Option<Synced>,
    pub(crate) copy: Option<(Copy, Option<DeviceId>)>,
    /// A directory that is not in the folder any more and stays here for what is in it.
    pub(crate) leftover: bool,
    /// When it was changed where that was done, if it is now as it is there.
    pub(crate) changed: Option<Timestamp>,
}

pub(crate) type Steps = BTreeMap<NodeId, Step>;

/// What became of nodes that met at one place, and of bytes that lost theirs.
#[derive(Default)]
pub(crate) struct Aftermath {
    /// Nodes that have gone up in others.
    pub(crate) became: BTreeMap<NodeId, NodeId>,
    /// Drafts that are those of another node now.
    pub(crate) moved: Vec<(NodeId, NodeId)>,
}

impl Engine {
    /// From where the next page is to be asked for.
    pub fn next_page(&self) -> Ask {
        self.feed.ask()
    }

    /// Whether the next page should be asked for without holding it: something waits for it.
    pub fn wants_page_now(&self) -> bool {
        let feed = &self.feed;
        feed.awaits_page || feed.partial.is_some() || feed.whole || feed.ahead.is_some() || feed.is_unsound()
    }

    /// What is wrong with what the server has said last. As long as there is something, nothing that it says is merged and
    /// nothing is sent; pages are to be asked for with pauses, and the next complete state that is sound ends it.
    pub fn unsound(&self) -> Option<&Unsound> {
        self.feed.unsound.as_ref()
    }

    /// Whether the next page is the begin of a state, not another part of one.
    pub fn begins_state(&self) -> bool {
        self.feed.partial.is_none()
    }

    /// Whether a complete state waits to be merged; no further page should be asked for until then.
    pub fn has_news(&self) -> bool {
        self.feed.has_news()
    }

    /// A page that was asked for as [`Engine::next_page`] said then. One that does not fit any more is left out: taken for
    /// the whole folder, a part of it would make the rest look forgotten.
    pub fn page(&mut self, asked: Ask, page: ChangesPage) {
        if !self.feed.fits(asked.since) {
            return;
        }
        if !Feed::goes_on(asked, &page) {
            return self.refuse(Unsound { node: None, name: None, fault: Fault::Position });
        }
        self.feed.devices.extend(page.devices.into_iter().map(|device| (device.id, device.name)));
        let begins = self.begins_state();
        let Feed { news, writers, touched, tells_owners, .. } = &mut self.feed;
        *tells_owners = page.owners.is_some() && (begins || *tells_owners);
        // A directory that is told itself is newer than what earlier pages say of it.
        let told: BTreeSet<NodeId> =
            if touched.is_empty() { BTreeSet::new() } else { page.nodes.iter().map(|node| node.id).collect() };
        let owners: HashMap<NodeId, Owner> =
            page.owners.iter().flatten().take(PAGE_NODES_MAX).map(|owned| (owned.id, owned.owner)).collect();
        touched.retain(|dir, _| !told.contains(dir));
        touched.extend(page.touched.into_iter().map(|touched| (touched.dir, touched.mtime)));
        news.extend(page.nodes.iter().map(|node| News::of(node, owners.get(&node.id).copied(), writers)));
        if page.more {
            self.feed.partial = Some(page.cursor);
        } else {
            self.feed.partial = None;
            self.feed.complete = Some(End { cursor: page.cursor, asked, own: page.own });
        }
    }

    /// What the server says is no folder: nothing of it counts. Beside what it has said before, it may be one.
    fn refuse(&mut self, unsound: Unsound) {
        self.feed.drop_pages();
        self.feed.unsound = Some(unsound);
        self.feed.refused += 1;
        if self.feed.refused.is_multiple_of(REFUSED_MAX) {
            self.begin_resync();
        }
    }

    /// The server does not know our place in its history: read everything and compare.
    pub fn begin_resync(&mut self) {
        self.feed.drop_pages();
        self.feed.whole = true;
        self.feed.awaits_page = true;
        if self.feed.ahead.take().is_some() {
            self.touch_cursor();
        }
    }

    /// Nothing is sent before the next complete state from the server.
    pub fn look_first(&mut self) {
        self.feed.awaits_page = true;
    }

    /// What people call a device.
    pub fn device_name(&self, id: DeviceId) -> &str {
        if id == self.identity.device.id {
            return &self.identity.device.name;
        }
        self.feed.devices.get(&id).map_or(SOMEBODY, String::as_str)
    }

    pub(crate) fn apply_feed(&mut self, now: Timestamp) {
        if self.feed.complete.is_none() || self.in_flight.is_some() || self.reads_on() {
            return;
        }
        if !self.is_sound() || self.hold_for_hashes() {
            return;
        }
        let Some(End { cursor, .. }) = self.feed.complete.take() else { return };
        self.feed.checked = false;
        let news = std::mem::take(&mut self.feed.news);
        let other_life = self.feed.whole && self.feed.cursor.is_some();
        if news.is_empty() && self.feed.awaits_page && self.feed.fruitless >= FRUITLESS_MAX {
            self.feed.fruitless = 0;
            self.begin_resync();
            return;
        }
        if other_life {
            self.forget_agreements(&news);
        }
        if self.feed.whole {
            self.leave_ids_of_others(&news, now);
        }
        self.feed.held = 0;
        self.feed.whole = false;
        self.feed.awaits_page = false;
        // A directory's mtime moves without a rev.
        let is_known = |node: &&News| self.tree.get(node.id).is_some_and(|entry| entry.base_rev() == node.rev);
        let is_dir = |node: &&News| node.kind() == Some(NodeKind::Dir);
        let again = news.iter().filter(is_dir).filter(is_known).filter_map(|node| Some((node.id, node.mtime()?)));
        let mut touched: BTreeMap<NodeId, Timestamp> = again.collect();
        touched.extend(std::mem::take(&mut self.feed.touched));
        self.apply(news, now);
        self.touched_are_told(touched);
        if self.feed.cursor != Some(cursor) || self.feed.ahead.is_some() {
            self.feed.cursor = Some(cursor);
            self.feed.ahead = None;
            self.touch_cursor();
        }
    }

    /// Whether the complete state is one that a folder can have. One that is not is dropped.
    fn is_sound(&mut self) -> bool {
        let feed = &mut self.feed;
        if !feed.checked {
            feed.news = latest(std::mem::take(&mut feed.news));
            if let Err(unsound) = soundness::check(&feed.news, &self.tree, feed.whole) {
                self.refuse(unsound);
                return false;
            }
            (feed.checked, feed.unsound, feed.refused) = (true, None, 0);
        }
        true
    }

    /// Own commits that were answered while the pages were on their way say what the pages must tell: a state is merged
    /// only if it is of a history that has the newest of them, and goes as far. Until then it is read on, and the server
    /// looks whether its history has both, or was set back in between.
    fn reads_on(&mut self) -> bool {
        let (Some(end), Some(known)) = (self.feed.complete, self.feed.known()) else { return false };
        let is_behind = end.cursor.epoch == known.epoch && end.cursor.seq < known.seq;
        if end.has(known) && !is_behind {
            return false;
        }
        if is_behind && self.feed.ahead.is_none() {
            // All of it is known: the cursor has moved on with own commits.
            self.feed.drop_pages();
        } else {
            (self.feed.complete, self.feed.partial, self.feed.checked) = (None, Some(end.cursor), false);
            self.feed.awaits_page = true;
        }
        true
    }

    /// Drafts that might be the very bytes that arrived are hashed before anything is called a conflict.
    fn hold_for_hashes(&mut self) -> bool {
        if self.feed.held >= HELD_MAX {
            return false;
        }
        let wanted = self.unhashed_rivals();
        if wanted.is_empty() {
            return false;
        }
        for id in wanted.into_iter().rev() {
            if !self.to_prepare.iter().any(|(queued, _)| *queued == id) {
                self.to_prepare.push_front((id, false));
            }
        }
        true
    }

    /// Drafts that the news let meet a file of the same size under the same name: at its place, or in a directory that goes
    /// up in another one.
    fn unhashed_rivals(&self) -> Vec<NodeId> {
        if self.tree.drafts().next().is_none() {
            return Vec::new();
        }
        let news = self.feed.news.iter().filter(|node| !node.deleted);
        let told: HashMap<(NodeId, &Name), &News> =
            news.clone().flat_map(|node| node.names().map(move |place| ((place.parent, &place.name), node))).collect();
        let (mut wanted, mut merging, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for node in news {
            let size = node.size();
            wanted.extend(Some(node.id).filter(|id| self.is_unhashed(*id, size)));
            for place in node.names() {
                let Some(here) = self.tree.child(place.parent, place.name.as_bytes()) else { continue };
                wanted.extend(Some(here).filter(|id| *id != node.id && self.is_unhashed(*id, size)));
                merging.extend(Some((node.id, here)).filter(|_| node.kind() == Some(NodeKind::Dir)));
            }
        }
        while let Some((coming, here)) = merging.pop() {
            if coming == here || !self.tree.is_dir(here) || !seen.insert((coming, here)) {
                continue;
            }
            for (name, child) in self.tree.children(here) {
                let known = || {
                    let id = self.tree.child(coming, name.as_bytes())?;
                    let state = self.tree.local(id)?;
                    Some((id, Some(state.kind()), state.body.content().map(|content| content.size)))
                };
                let telling = |node: &&News| (node.id, node.kind(), node.size());
                let Some((id, kind, size)) = told.get(&(coming, name)).map(telling).or_else(known) else { continue };
                wanted.extend(Some(child).filter(|child| *child != id && self.is_unhashed(*child, size)));
                merging.extend(Some((id, child)).filter(|_| kind == Some(NodeKind::Dir)));
            }
        }
        wanted
    }

    /// Whether the node is a draft of this size that is not being written to, and of which it is not known what it is.
    fn is_unhashed(&self, id: NodeId, size: Option<u64>) -> bool {
        let unknown = |draft: &Draft| draft.ready && draft.prepared.is_none() && Some(draft.size) == size;
        self.draft(id).is_some_and(unknown) && !self.failed.contains_key(&id) && !self.stays_here(id)
    }

    /// In another life of the history no earlier agreement counts, and nothing that is absent was removed.
    fn forget_agreements(&mut self, news: &[News]) {
        let removed: BTreeSet<NodeId> = news.iter().filter(|node| node.deleted).map(|node| node.id).collect();
        // In order, so that the order of work does not depend on that of a hash table.
        let mut ids: Vec<NodeId> = self.tree.ids().filter(|id| *id != NodeId::ROOT).collect();
        ids.sort_unstable();
        for id in ids {
            let Some(entry) = self.tree.get(id) else { continue };
            let (local, changed) = (entry.local.clone(), entry.changed);
            // A tombstone of the other life still has a rev to base a new creation on.
            let synced = removed.contains(&id).then_some(Synced { rev: 0, content_rev: 0, state: None });
            self.tree.set_offered(id, false);
            self.put(id, local, synced, changed);
        }
        if let Some(root) = self.tree.get(NodeId::ROOT).cloned() {
            let synced = root.synced.map(|synced| Synced { rev: 0, content_rev: 0, ..synced });
            self.put(NodeId::ROOT, root.local, synced, root.changed);
        }
    }

    /// Nodes that are here as another kind of thing than the server has under their ids: it has lied about them before. What is
    /// here goes on as new nodes.
    fn leave_ids_of_others(&mut self, news: &[News], now: Timestamp) {
        let is_other = |node: &&News| {
            let here = self.tree.local(node.id).map(|local| local.kind());
            here.is_some() && node.kind().is_some() && here != node.kind()
        };
        let others: Vec<NodeId> = news.iter().filter(is_other).map(|node| node.id).collect();
        others.into_iter().for_each(|id| self.go_on_as_new(id, now));
    }

    fn go_on_as_new(&mut self, id: NodeId, now: Timestamp) {
        let Some(entry) = self.tree.get(id).filter(|_| id != NodeId::ROOT) else { return };
        let (Some(local), scope) = (entry.local.clone(), entry.scope) else { return };
        let new = self.new_id(now);
        let mut before = Before::default();
        before.note(id, || Some(local.clone()));
        before.note(new, || None);
        let inside: Vec<(Name, NodeId)> = self.tree.children(id).map(|(name, child)| (name.clone(), child)).collect();
        let mut queue = VecDeque::from([new]);
        for (name, child) in inside {
            before.note(child, || self.tree.local(child).cloned());
            self.tree.detach(child);
            let from = Placement { parent: id, name };
            let to = Placement { parent: new, ..from.clone() };
            self.set_place_detached(child, &from, &to, now);
            queue.push_back(child);
        }
        self.tree.detach(id);
        self.keep_owner_here(id, new);
        self.put_detached(id, None, None, now);
        self.put_detached(new, Some(local.clone()), None, now);
        self.set_scope(new, scope);
        self.failed.remove(&id);
        self.forget_unanswered(id);
        if let Some(draft) = local.body.draft() {
            self.queue(Effect::DraftMoved { from: id, to: new });
            if draft.ready && draft.prepared.is_none() {
                self.to_prepare.push_back((new, false));
            }
        }
        self.settle_places(queue, Vec::new(), Vec::new(), before, now);
    }

    fn apply(&mut self, news: Vec<News>, now: Timestamp) {
        self.authors.note(&news, &self.feed.writers);
        let (steps, arrived) = self.plan(news, now);
        self.carry_out(steps, arrived, now);
        self.feed.authors = Default::default();
        self.feed.writers = Writers::default();
    }

    /// Nodes that were removed here are again as the server has them.
    pub(crate) fn put_back(&mut self, ids: impl IntoIterator<Item = NodeId>, now: Timestamp) {
        let step = |id| {
            let synced = self.tree.get(id).filter(|entry| entry.local.is_none())?.synced.clone()?;
            let after = Some(synced.state.clone()?);
            Some((id, Step { before: None, after, synced: Some(synced), copy: None, leftover: false, changed: None }))
        };
        let steps = ids.into_iter().filter_map(step).collect();
        self.carry_out(steps, Vec::new(), now);
    }

    /// The nodes that have `arrived` are in the tree already and have no places yet.
    fn carry_out(&mut self, mut steps: Steps, mut arrived: Vec<Told>, now: Timestamp) {
        self.keep_parents(&mut steps, &arrived);
        self.leave_behind(&mut steps);
        self.leave_out_homeless(&mut steps, &mut arrived, now);
        let arrived = ToldOf::new(arrived);
        self.feed.authors[0] = arrived.clone();
        for id in arrived.ids() {
            self.note_names(id);
            self.release(id);
        }
        let mut before = Before::with(arrived.clone());
        for (id, step) in &steps {
            before.note(*id, || step.before.clone());
            self.tree.detach(*id);
        }
        self.touch_arrived(arrived);
        let moved: Vec<NodeId> = steps.iter().filter(|(_, step)| is_moved_dir(step)).map(|(id, _)| *id).collect();
        let mut queue = VecDeque::new();
        let (mut copies, mut unanswered) = (Vec::new(), Vec::new());
        for (id, step) in steps {
            unanswered.extend(self.unanswered.contains(&id).then_some(id));
            if let Some(after) = step.after.as_deref().filter(|after| is_dir(after)) {
                self.mtime_came(id, after.attrs.mtime);
            }
            let changed = step.changed.filter(|_| self.times.shown).unwrap_or(now);
            self.put_detached(id, step.after.clone(), step.synced, changed);
            self.set_scope(id, if step.leftover { Scope::Leftover } else { Scope::Shared });
            self.forget_unanswered(id);
            self.release(id);
            if self.failed.remove(&id).is_some() {
                // What was to be tried again later is tried now: nothing else would remember it.
                self.to_prepare.push_back((id, true));
            }
            if step.after.is_some() {
                queue.push_back(id);
            }
            copies.extend(step.copy.map(|copy| (id, copy)));
        }
        self.settle_places(queue, copies, moved, before, now);
        self.remove_copies(&unanswered, now);
    }

    /// Gives nodes that were put without their places these places, and bytes that have lost their node a node.
    pub(crate) fn settle_places(
        &mut self,
        mut queue: VecDeque<NodeId>,
        copies: Vec<(NodeId, (Copy, Option<DeviceId>))>,
        moved: Vec<NodeId>,
        mut before: Before,
        now: Timestamp,
    ) -> Aftermath {
        self.break_cycles(&mut queue, &mut before, now);
        moved.into_iter().for_each(|id| self.note_moved_dir(id));
        let mut aftermath = self.attach_all(queue, &mut before, now);
        for (id, (copy, author)) in copies {
            let to = self.keep_copy(id, copy, author, &aftermath.became, &mut before, now);
            aftermath.moved.extend(to.map(|to| (id, to)));
        }
        self.report(before);
        aftermath
    }

    /// What becomes of each node. Those that are new here, in a large folder that arrives nearly all, are as the server has
    /// them whatever else happens: they go into the tree at once, without their places.
    fn plan(&mut self, mut news: Vec<News>, now: Timestamp) -> (Steps, Vec<Told>) {
        let (mut steps, mut arrived, mut others) = (Steps::new(), Vec::new(), Vec::new());
        self.tree.reserve(news.iter().filter(|node| self.is_arrival(node)).count());
        while let Some(node) = take_last(&mut news) {
            let told = Told { id: node.id, author: node.author };
            if self.is_arrival(&node) {
                let synced = Synced { rev: node.rev, content_rev: node.content_rev, state: node.state.clone() };
                let changed = node.changed().filter(|_| self.times.shown).unwrap_or(now);
                self.tree.set_detached(node.id, node.state, Some(synced), changed);
                arrived.push(told);
            } else {
                others.push(told);
                steps.extend(self.step_of_news(node));
            }
        }
        self.feed.authors[1] = ToldOf::new(others);
        (steps, arrived)
    }

    /// Whether nothing is known here of a node that is there at the server.
    fn is_arrival(&self, node: &News) -> bool {
        let is_known = || self.unanswered.contains(&node.id) || self.failed.contains_key(&node.id);
        node.state.is_some() && self.tree.get(node.id).is_none() && !is_known()
    }

    fn step_of_news(&self, node: News) -> Option<(NodeId, Step)> {
        let entry = self.tree.get(node.id);
        if entry.is_some_and(|entry| entry.base_rev() >= node.rev) || entry.is_none() && node.deleted {
            return None;
        }
        let told = node.changed();
        let content_author = self.feed.writers.device(node.content_author);
        let me = Some(self.identity.device.id);
        let facts = Facts {
            content_changed: entry.is_none_or(|entry| node.content_rev > entry.content_rev()),
            content_mine: content_author == me && entry.is_some_and(Entry::is_shared),
            mine: self.feed.writers.device(node.author) == me && entry.is_some_and(Entry::is_shared),
            unanswered: self.unanswered.contains(&node.id),
        };
        let synced = entry.and_then(Entry::synced_state).map(Arc::as_ref);
        let local = entry.and_then(|entry| entry.local.as_ref());
        let known = (synced, local.map(Arc::as_ref));
        let remote = node.state.clone().map(|told| Self::with_known_owner(told, known));
        // What is certain to be known here only is told: to a server that was set back, or keeps owners only now.
        let there = if self.applies_owners() && self.feed.tells_owners { node.state } else { remote.clone() };
        let outgoing = entry.and_then(Entry::outgoing);
        let mut merged = merge(synced, outgoing.map(Arc::as_ref), remote.as_deref(), facts);
        if let (Some(sent), Some(here), Some(there)) = (self.sent_names.get(&node.id), outgoing, &remote)
            && let Some(after) = merged.local.as_mut().filter(|_| synced.is_none() && !facts.mine)
        {
            // It was sent under other names than it has here: what is sent decides which side has changed them since.
            after.names = merge_names(Some(sent), &here.names, &there.names, false);
        }
        let is_as_there =
            merged.local.as_ref().zip(remote.as_deref()).is_some_and(|(after, there)| after.agrees_with(there));
        let after = merged.local.map(|after| match &remote {
            // One allocation for both views of the ordinary case.
            Some(remote) if **remote == after => remote.clone(),
            _ => Arc::new(after),
        });
        let synced = Some(Synced { rev: node.rev, content_rev: node.content_rev, state: there });
        let copy = merged.copy.map(|copy| (copy, content_author));
        let step = match local.filter(|_| entry.is_some_and(|entry| !entry.is_shared())) {
            Some(local) => meet_what_stays(local, after, synced, content_author),
            None => Step {
                before: local.cloned(),
                after,
                synced,
                copy,
                leftover: false,
                changed: told.filter(|_| is_as_there),
            },
        };
        Some((node.id, step))
    }

    /// Whether a node will be there when the steps have been carried out.
    fn lives(&self, id: NodeId, steps: &Steps) -> bool {
        match steps.get(&id) {
            Some(step) => step.after.is_some(),
            None => self.tree.local(id).is_some(),
        }
    }

    /// Directories of what has arrived that will not be there.
    fn dead_parents(&self, arrived: NodeId, steps: &Steps) -> impl Iterator<Item = NodeId> {
        let names = self.tree.local(arrived).into_iter().flat_map(|state| &state.names);
        names.map(|place| place.parent).filter(|parent| !self.lives(*parent, steps))
    }

    /// A directory stays (or comes back) as long as something in it does.
    fn keep_parents(&self, steps: &mut Steps, arrived: &[Told]) {
        let mut todo: Vec<NodeId> = arrived.iter().flat_map(|told| self.dead_parents(told.id, steps)).collect();
        for (id, step) in steps.iter() {
            match &step.after {
                Some(after) => todo.extend(after.names.iter().map(|place| place.parent)),
                None if step.before.as_deref().is_some_and(is_dir) => {
                    let stays = self.tree.children(*id).any(|(_, child)| match steps.get(&child) {
                        Some(child) => child.after.as_ref().is_some_and(|after| lies_in(after, *id)),
                        None => !self.stays_here(child),
                    });
                    if stays {
                        todo.push(*id);
                    }
                }
                None => {}
            }
        }
        while let Some(id) = todo.pop() {
            let entry = self.tree.get(id);
            let step = steps.get(&id);
            let after = step.map_or_else(|| entry.and_then(|entry| entry.local.as_ref()), |step| step.after.as_ref());
            if after.is_some() {
                continue;
            }
            let synced = step.map_or_else(|| entry.and_then(|entry| entry.synced.clone()), |step| step.synced.clone());
            let before = step.map_or_else(|| entry.and_then(|entry| entry.local.clone()), |step| step.before.clone());
            let last = synced.as_ref().and_then(|synced| synced.state.clone());
            let former = entry.and_then(Entry::synced_state).cloned();
            let Some(state) = last.or_else(|| before.clone()).or(former) else { continue };
            todo.extend(state.names.iter().map(|place| place.parent));
            steps.insert(id, Step { before, after: Some(state), synced, copy: None, leftover: false, changed: None });
        }
    }

    /// A directory that goes stays on this machine as long as something is in it that does.
    fn leave_behind(&self, steps: &mut Steps) {
        let goes = |step: &Step| step.after.is_none() && step.before.as_deref().is_some_and(is_dir);
        let holds = |id: NodeId| self.tree.children(id).any(|(_, child)| self.stays_here(child));
        let mut todo: Vec<NodeId> =
            steps.iter().filter(|(id, step)| goes(step) && holds(**id)).map(|(id, _)| *id).collect();
        while let Some(id) = todo.pop() {
            let Some(step) = steps.get_mut(&id).filter(|step| goes(step)) else { continue };
            step.after.clone_from(&step.before);
            step.leftover = true;
            todo.extend(step.before.iter().flat_map(|state| state.names.iter().map(|place| place.parent)));
        }
    }

    /// A page from before a commit of ours may show entries of a directory that the commit has removed. The server took it,
    /// so they have left that directory since, and a later page says where to.
    fn leave_out_homeless(&mut self, steps: &mut Steps, arrived: &mut Vec<Told>, now: Timestamp) {
        loop {
            let is_homeless = |step: &Step| {
                step.after
                    .as_ref()
                    .is_some_and(|after| after.names.iter().any(|place| !self.lives(place.parent, steps)))
            };
            let homeless: Vec<NodeId> = steps.iter().filter(|(_, step)| is_homeless(step)).map(|(id, _)| *id).collect();
            let is_lost = |told: &Told| self.dead_parents(told.id, steps).next().is_some();
            let lost: BTreeSet<NodeId> = arrived.iter().filter(|told| is_lost(told)).map(|told| told.id).collect();
            if homeless.is_empty() && lost.is_empty() {
                return;
            }
            for id in homeless {
                steps.remove(&id);
            }
            arrived.retain(|told| !lost.contains(&told.id));
            for id in lost {
                self.tree.set_detached(id, None, None, now);
            }
        }
    }

    /// Moves here and moves there may have put directories into each other: the moves made here are undone.
    fn break_cycles(&mut self, queue: &mut VecDeque<NodeId>, before: &mut Before, now: Timestamp) {
        let mut dirs: VecDeque<NodeId> = queue.iter().copied().filter(|id| self.tree.is_dir(*id)).collect();
        while let Some(id) = dirs.pop_front() {
            while let Some(culprit) = self.moved_here_in_cycle(id) {
                let Some(entry) = self.tree.get(culprit) else { break };
                let (Some(local), Some(synced)) = (entry.local.clone(), entry.synced.clone()) else { break };
                let Some(agreed) = synced.state.clone() else { break };
                before.note(culprit, || Some(local.clone()));
                self.tree.detach(culprit);
                let back = State { names: agreed.names.clone(), ..State::clone(&local) };
                self.put_detached(culprit, Some(Arc::new(back)), Some(synced), now);
                if !queue.contains(&culprit) {
                    queue.push_back(culprit);
                }
                for parent in self.bring_back_parents(culprit, before, now) {
                    queue.push_back(parent);
                    dirs.push_back(parent);
                }
            }
        }
    }

    /// Directories above that were removed here come back, because something goes back to them. Returns them; they have no
    /// places yet.
    fn bring_back_parents(&mut self, id: NodeId, before: &mut Before, now: Timestamp) -> Vec<NodeId> {
        let (mut back, mut at) = (Vec::new(), id);
        while let Some(parent) = self.tree.local(at).and_then(|state| state.names.first()).map(|place| place.parent) {
            let removed = self.tree.get(parent).filter(|entry| entry.local.is_none());
            let Some(synced) = removed.and_then(|entry| entry.synced.clone()) else { break };
            let Some(state) = synced.state.clone() else { break };
            before.note(parent, || None);
            self.put_detached(parent, Some(state), Some(synced), now);
            back.push(parent);
            at = parent;
        }
        back
    }

    fn moved_here_in_cycle(&self, id: NodeId) -> Option<NodeId> {
        let mut seen = BTreeSet::new();
        let mut at = id;
        while seen.insert(at) {
            at = self.tree.local(at)?.names.first()?.parent;
        }
        let start = at;
        loop {
            let entry = self.tree.get(at)?;
            let local = entry.local.as_ref()?;
            if entry.synced_state().is_some_and(|synced| synced.names != local.names) {
                return Some(at);
            }
            at = local.names.first()?.parent;
            if at == start {
                return None;
            }
        }
    }

    /// Returns which nodes have gone up in which.
    fn attach_all(&mut self, steps: VecDeque<NodeId>, before: &mut Before, now: Timestamp) -> Aftermath {
        let (mut merged, mut became) = (HashMap::new(), BTreeMap::new());
        let arrived = before.arrived.ids();
        let mut queue: VecDeque<NodeId> = arrived.filter(|id| self.tree.attach(*id).is_err()).collect();
        queue.extend(steps);
        while let Some(id) = queue.pop_front() {
            self.follow_merged(id, &merged, now);
            while let Err(other) = self.tree.attach(id) {
                match self.settle_clash(id, other, before, now) {
                    Clash::Renamed(loser) if loser == id => {}
                    Clash::Renamed(loser) => {
                        if self.tree.attach(loser).is_err() {
                            queue.push_back(loser);
                        }
                    }
                    Clash::Merged { loser, winner } => {
                        merged.insert(loser, winner);
                        let children: Vec<NodeId> = self.tree.children(loser).map(|(_, child)| child).collect();
                        for child in children {
                            before.note(child, || self.tree.local(child).cloned());
                            self.tree.detach(child);
                            queue.push_back(child);
                        }
                        self.keep_owner_here(loser, winner);
                        self.vanish(loser, before, now);
                        if loser == id {
                            break;
                        }
                    }
                    Clash::Same { loser, winner, place } => {
                        if place.is_some_and(|place| self.give_up_place(loser, &place, now)) {
                            // It goes on under its other names.
                            if loser != id && self.tree.attach(loser).is_err() {
                                queue.push_back(loser);
                            }
                            continue;
                        }
                        became.insert(loser, winner);
                        self.keep_owner_here(loser, winner);
                        self.vanish(loser, before, now);
                        if loser == id {
                            break;
                        }
                    }
                }
            }
        }
        became.extend(merged);
        Aftermath { became, moved: Vec::new() }
    }

    /// Takes one of several names away; `false` if it is the only one. The node has no places then.
    fn give_up_place(&mut self, id: NodeId, place: &Placement, now: Timestamp) -> bool {
        let Some(entry) = self.tree.get(id) else { return false };
        let (Some(mut local), synced) = (entry.local.clone(), entry.synced.clone()) else { return false };
        if local.names.len() < 2 {
            return false;
        }
        self.tree.detach(id);
        Arc::make_mut(&mut local).names.retain(|other| other != place);
        self.put_detached(id, Some(local), synced, now);
        true
    }

    /// Entries of a directory that went up into another one go there.
    fn follow_merged(&mut self, id: NodeId, merged: &HashMap<NodeId, NodeId>, now: Timestamp) {
        let Some(local) = self.tree.local(id).cloned() else { return };
        for place in &local.names {
            let mut parent = place.parent;
            while let Some(winner) = merged.get(&parent) {
                parent = *winner;
            }
            if parent != place.parent {
                self.set_place_detached(id, place, &Placement { parent, name: place.name.clone() }, now);
            }
        }
    }

    fn settle_clash(&mut self, id: NodeId, other: NodeId, before: &mut Before, now: Timestamp) -> Clash {
        let (Some(a), Some(b)) = (self.tree.local(id).cloned(), self.tree.local(other).cloned()) else {
            return Clash::Same { loser: id, winner: other, place: None };
        };
        before.note(id, || Some(a.clone()));
        before.note(other, || Some(b.clone()));
        let Some(place) = a.names.iter().find(|place| b.names.contains(place)).cloned() else {
            return Clash::Same { loser: id, winner: other, place: None };
        };
        let at_server = |id: NodeId| {
            let synced = self.tree.get(id).and_then(Entry::synced_state);
            synced.is_some_and(|synced| synced.names.contains(&place))
        };
        let (a_there, b_there) = (at_server(id), at_server(other));
        // A name belongs to the folder before it belongs to this machine.
        let (a_stays, b_stays) = (self.stays_here(id), self.stays_here(other));
        let b_first = if a_stays == b_stays { b_there } else { a_stays };
        if is_dir(&a) && is_dir(&b) {
            let (winner, loser) = if b_first { (other, id) } else { (id, other) };
            return Clash::Merged { loser, winner };
        }
        if a.body.same_as(&b.body) {
            let (loser, winner) = if b_first { (id, other) } else { (other, id) };
            return Clash::Same { loser, winner, place: Some(place) };
        }
        let a_keeps = if a_there || !b_there { keeps_name(&a, &b, true) } else { !keeps_name(&b, &a, true) };
        let a_keeps = if a_stays == b_stays { a_keeps } else { b_stays };
        let (winner, loser) = if a_keeps { (id, other) } else { (other, id) };
        let is_file = self.tree.local(loser).is_some_and(|state| state.kind() == NodeKind::File);
        if is_file && self.is_at_server(loser) && self.is_made_again(&place) {
            self.copies_removed += 1;
            return Clash::Same { loser, winner, place: Some(place) };
        }
        let device = self.author_of(loser);
        self.tree.detach(loser);
        self.rename_aside(loser, &place, &device, now);
        Clash::Renamed(loser)
    }

    fn author_of(&self, id: NodeId) -> String {
        let here = self.tree.get(id).is_none_or(Entry::is_dirty);
        let told = self.feed.authors.iter().find_map(|authors| authors.author_of(id));
        let told = told.and_then(|author| self.feed.writers.device(author));
        let author = told.or_else(|| self.authors.of(id)).filter(|_| !here);
        author.map_or(&*self.identity.device.name, |author| self.device_name(author)).to_owned()
    }

    fn rename_aside(&mut self, id: NodeId, from: &Placement, device: &str, now: Timestamp) {
        let Some(state) = self.tree.local(id) else { return };
        let name = self.free_name(from.parent, &from.name, device, state.attrs.mtime);
        self.remember_copied(from);
        self.set_place_detached(id, from, &Placement { parent: from.parent, name }, now);
        if self.tree.get(id).is_some_and(|entry| entry.scope == Scope::Ignored) {
            self.set_scope(id, Scope::Aside);
        }
    }

    /// Gives a node that has no place a free name beside the one it wanted.
    pub(crate) fn step_aside(&mut self, id: NodeId, now: Timestamp) {
        let Some(state) = self.tree.local(id).cloned() else { return };
        let device = self.identity.device.name.clone();
        for place in &state.names {
            if self.tree.child(place.parent, place.name.as_bytes()).is_some_and(|other| other != id) {
                self.rename_aside(id, place, &device, now);
            }
        }
        let attached = self.tree.attach(id);
        debug_assert!(attached.is_ok(), "a free name was taken");
    }

    pub(crate) fn vanish(&mut self, id: NodeId, before: &mut Before, now: Timestamp) {
        let Some(entry) = self.tree.get(id) else { return };
        let (local, synced) = (entry.local.clone(), entry.synced.clone());
        before.note(id, || local);
        if self.is_in_flight(id) && synced.as_ref().is_none_or(|synced| synced.state.is_none()) {
            self.tree.set_offered(id, true);
        }
        self.tree.detach(id);
        self.put_detached(id, None, synced, now);
    }

    fn keep_copy(
        &mut self,
        id: NodeId,
        copy: Copy,
        author: Option<DeviceId>,
        became: &BTreeMap<NodeId, NodeId>,
        before: &mut Before,
        now: Timestamp,
    ) -> Option<NodeId> {
        // The version that kept the node may have been the same as another file of its name, and one with it now.
        let mut home = id;
        while let Some(other) = became.get(&home).filter(|_| self.tree.local(home).is_none()) {
            home = *other;
        }
        let place = self.tree.local(home).and_then(|state| state.names.first().cloned())?;
        if matches!(copy, Copy::Remote { .. }) && self.is_made_again(&place) {
            // The server has it as a version of the file already.
            self.copies_removed += 1;
            return None;
        }
        let (body, attrs, xattrs, device) = match copy {
            Copy::Local(state) => (state.body, state.attrs, state.xattrs, Some(self.identity.device.id)),
            Copy::Remote { content, attrs, xattrs } => (Body::File(FileBody::Clean(content)), attrs, xattrs, author),
        };
        let device = device.map_or(SOMEBODY, |device| self.device_name(device)).to_owned();
        let name = self.free_name(place.parent, &place.name, &device, attrs.mtime);
        self.remember_copied(&place);
        let to = self.new_id(now);
        let moved = body.draft().is_some();
        let unprepared = body.draft().is_some_and(|draft| draft.ready && draft.prepared.is_none());
        let attrs = Attrs { mode: attrs.mode, mtime: attrs.mtime };
        let state = State { names: smallvec![Placement { parent: place.parent, name }], attrs, body, xattrs };
        before.note(to, || None);
        self.put(to, Some(Arc::new(state)), None, now);
        self.keep_owner_here(home, to);
        if moved {
            self.queue(Effect::DraftMoved { from: id, to });
        }
        if unprepared {
            self.to_prepare.push_back((to, false));
        }
        moved.then_some(to)
    }

    /// Tells what changed, and lets go of staging files that nothing refers to any more.
    pub(crate) fn report(&mut self, before: Before) {
        let mut dropped = BTreeSet::new();
        let mut kept = BTreeSet::new();
        if !before.arrived.is_empty() {
            self.effects.push_back(Queued::Arrived { nodes: before.arrived, next: 0 });
        }
        for (id, before) in before.others {
            let after = self.tree.local(id).cloned();
            dropped.extend(staging_of(before.as_deref()));
            kept.extend(staging_of(after.as_deref()));
            // Also if nothing changed here: the feed may be what tells that an unanswered commit went through.
            self.settle_if_acknowledged(id);
            if before == after {
                continue;
            }
            self.effects.push_back(Queued::Changed { node: id, before, after });
        }
        for staging in dropped.difference(&kept) {
            self.retire(*staging);
        }
    }
}

/// What nodes were before a step.
#[derive(Default)]
pub(crate) struct Before {
    /// These were not there.
    arrived: ToldOf,
    others: BTreeMap<NodeId, Option<Arc<State>>>,
}

impl Before {
    fn with(arrived: ToldOf) -> Self {
        Self { arrived, others: BTreeMap::new() }
    }

    /// The node is not what it was any more, if that is not known yet.
    pub(crate) fn note(&mut self, id: NodeId, was: impl FnOnce() -> Option<Arc<State>>) {
        if !self.arrived.contains(id) {
            self.others.entry(id).or_insert_with(was);
        }
    }
}

enum Clash {
    Renamed(NodeId),
    Merged { loser: NodeId, winner: NodeId },
    Same { loser: NodeId, winner: NodeId, place: Option<Placement> },
}

/// The feed tells of a node that is on this machine only: a directory that was left over may be in the folder again.
fn meet_what_stays(
    local: &Arc<State>,
    after: Option<Arc<State>>,
    synced: Option<Synced>,
    author: Option<DeviceId>,
) -> Step {
    let before = Some(local.clone());
    match after {
        None => Step { after: before.clone(), before, synced, copy: None, leftover: true, changed: None },
        Some(after) => {
            let copy = Some((Copy::Local(Box::new(State::clone(local))), author)).filter(|_| !is_dir(local));
            Step { before, after: Some(after), synced, copy, leftover: false, changed: None }
        }
    }
}

fn lies_in(state: &State, parent: NodeId) -> bool {
    state.names.iter().any(|place| place.parent == parent)
}

pub(crate) fn is_moved_dir(step: &Step) -> bool {
    let is_dir = step.before.as_deref().is_some_and(is_dir);
    is_dir
        && step
            .after
            .as_ref()
            .is_some_and(|after| step.before.as_ref().is_some_and(|before| before.names != after.names))
}

fn staging_of(state: Option<&State>) -> Option<u64> {
    state?.body.draft()?.staging
}

#[cfg(test)]
mod tests {
    use crate::rig::{NOW, Rig, content, cursor, id, name};
    use crate::{Body, Draft, Effect, FileBody, PrepareAnswer, RenameMode, conflict_name};
    use std::sync::Arc;
    use syncmount_common::protocol::changes::{Ask, Cursor};
    use syncmount_common::{Attrs, Node, NodeId, NodeKind};

    const ROOT: NodeId = NodeId::ROOT;

    #[test]
    fn two_files_with_one_name_are_both_kept() {
        let mut rig = Rig::new();
        let mine = rig.file(ROOT, "a.txt", 1);
        rig.news(vec![rig.theirs(id(9), ROOT, "a.txt", Some(2))]);
        assert_eq!(rig.names(ROOT).len(), 2);
        assert_eq!(rig.engine.child(ROOT, b"a.txt"), Some(mine), "the newer one keeps the name");
    }

    #[test]
    fn an_equal_file_takes_one_name_of_several() {
        let mut rig = Rig::new();
        let mine = rig.file(ROOT, "a", 1);
        rig.engine.link(mine, ROOT, name("b"), NOW).unwrap();
        let theirs = rig.theirs(id(9), ROOT, "a", Some(1));
        rig.news(vec![theirs]);
        assert_eq!((rig.engine.child(ROOT, b"a"), rig.engine.child(ROOT, b"b")), (Some(id(9)), Some(mine)));
        rig.sync();
        assert_eq!(rig.names(ROOT), ["a", "b"]);
    }

    #[test]
    fn both_names_of_a_file_in_directories_that_become_one_are_one() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "d");
        rig.sync();
        let moved = rig.mkdir(ROOT, "e");
        let file = rig.file(dir, "f", 1);
        rig.engine.link(file, moved, name("f"), NOW).unwrap();
        // Elsewhere the one directory takes the other's name, which is not known here yet.
        let mut theirs = rig.theirs(dir, ROOT, "e", None);
        theirs.attrs = rig.engine.local(dir).unwrap().attrs;
        rig.news(vec![theirs]);
        assert_eq!(rig.names(ROOT), ["e"]);
        let left = rig.engine.child(ROOT, b"e").unwrap();
        assert_eq!((rig.names(left), rig.engine.local(file).unwrap().names.len()), (vec!["f".to_owned()], 1));
        rig.sync();
    }

    #[test]
    fn a_conflict_copy_whose_name_is_taken_gets_another() {
        let mut rig = Rig::new();
        let theirs = rig.theirs(id(9), ROOT, "x", Some(2));
        let taken = conflict_name(&name("a.txt"), "there", theirs.attrs.mtime, |_| false).to_string();
        let mine = rig.file(ROOT, &taken, 1);
        rig.news(vec![rig.theirs(id(9), ROOT, &taken, Some(2))]);
        assert_eq!(rig.engine.child(ROOT, taken.as_bytes()), Some(mine));
        assert_eq!(rig.names(ROOT).len(), 2);
    }

    #[test]
    fn equal_files_with_one_name_are_one() {
        let mut rig = Rig::new();
        rig.file(ROOT, "a.txt", 1);
        rig.news(vec![rig.theirs(id(9), ROOT, "a.txt", Some(1))]);
        assert_eq!(rig.names(ROOT), ["a.txt"]);
        assert_eq!(rig.engine.child(ROOT, b"a.txt"), Some(id(9)), "the one that others see already");
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn equal_files_in_directories_that_merge_are_one_even_if_that_is_not_known_yet() {
        let mut rig = Rig::new();
        let mine = rig.mkdir(ROOT, "dir");
        let body = Body::File(FileBody::Draft(Box::new(Draft { ready: true, size: 1, ..Draft::empty() })));
        let attrs = Attrs { mode: 0o644, mtime: NOW };
        let draft = rig.engine.create(mine, name("f"), attrs, body, NOW).unwrap();
        let (dir, theirs) = (rig.theirs(id(8), ROOT, "dir", None), rig.theirs(id(9), id(8), "f", Some(1)));
        rig.news(vec![dir, theirs]);
        rig.engine.prepared(draft, 0, PrepareAnswer::Ready(Arc::new(content(1))), NOW);
        rig.drive();
        assert_eq!(rig.names(id(8)), ["f"]);
        assert_eq!(rig.engine.child(id(8), b"f"), Some(id(9)));
    }

    #[test]
    fn directories_with_one_name_merge() {
        let mut rig = Rig::new();
        let mine = rig.mkdir(ROOT, "dir");
        let file = rig.file(mine, "mine", 1);
        let (dir, theirs) = (rig.theirs(id(8), ROOT, "dir", None), rig.theirs(id(9), id(8), "theirs", Some(2)));
        rig.news(vec![dir, theirs]);
        assert_eq!(rig.names(ROOT), ["dir"]);
        assert_eq!(rig.names(id(8)), ["mine", "theirs"]);
        assert_eq!(rig.engine.child(id(8), b"mine"), Some(file));
    }

    #[test]
    fn a_cycle_is_undone_here() {
        let mut rig = Rig::new();
        let (a, b) = (rig.mkdir(ROOT, "a"), rig.mkdir(ROOT, "b"));
        rig.sync();
        rig.engine.rename((ROOT, b"a"), (b, name("a")), RenameMode::Replace, NOW).unwrap();
        rig.news(vec![rig.theirs(b, a, "b", None)]);
        assert_eq!(rig.names(ROOT), ["a"]);
        assert_eq!(rig.names(a), ["b"]);
    }

    #[test]
    fn a_move_out_of_a_removed_directory_that_is_undone_brings_it_back() {
        let mut rig = Rig::new();
        let (a, dir) = (rig.mkdir(ROOT, "a"), rig.mkdir(ROOT, "dir"));
        let inner = rig.mkdir(dir, "inner");
        rig.sync();
        rig.engine.rename((dir, b"inner"), (a, name("inner")), RenameMode::Replace, NOW).unwrap();
        rig.engine.remove(ROOT, b"dir", true, NOW).unwrap();
        rig.news(vec![rig.theirs(a, inner, "a", None)]);
        assert_eq!(rig.names(ROOT), ["dir"]);
        assert_eq!(rig.engine.child(dir, b"inner"), Some(inner));
        assert_eq!(rig.engine.child(inner, b"a"), Some(a));
    }

    #[test]
    fn an_edit_there_beats_a_removal_here() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "file", 1);
        rig.sync();
        rig.engine.remove(ROOT, b"file", false, NOW).unwrap();
        rig.news(vec![rig.theirs(file, ROOT, "file", Some(2))]);
        assert_eq!(rig.engine.child(ROOT, b"file"), Some(file));
    }

    #[test]
    fn a_new_child_keeps_a_directory_that_was_removed_there() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "dir");
        rig.sync();
        let file = rig.file(dir, "file", 1);
        rig.news(vec![rig.gone(dir, NodeKind::Dir)]);
        assert_eq!(rig.engine.child(dir, b"file"), Some(file));
        assert_eq!(rig.engine.child(ROOT, b"dir"), Some(dir));
        assert_eq!(rig.sync().concat().len(), 2, "the directory comes back with its child");
    }

    #[test]
    fn of_a_folder_that_is_joined_nothing_is_shown_or_kept_before_it_is_complete() {
        let mut rig = Rig::unjoined();
        let file = rig.theirs(id(9), id(8), "file", Some(1));
        let dir = Node { rev: 2, ..rig.theirs(id(8), ROOT, "dir", None) };
        for _ in 0..2 {
            // The first time the process ends in the middle.
            rig.page(vec![file.clone()], 1, true);
            assert_eq!(rig.engine.poll(NOW), None);
            assert!(rig.engine.take_record().is_empty());
            assert!(!rig.engine.has_joined() && rig.engine.entry(id(9)).is_none());
            rig.restart();
            assert_eq!(rig.engine.next_page(), Ask::default(), "from the begin");
        }
        rig.page(vec![file], 1, true);
        rig.page(vec![dir], 2, false);
        for _ in 0..2 {
            rig.drive();
            assert_eq!((rig.names(ROOT), rig.names(id(8))), (vec!["dir".to_owned()], vec!["file".to_owned()]));
            assert!(rig.engine.has_joined() && !rig.engine.has_work());
            rig.restart();
        }
    }

    #[test]
    fn what_was_made_here_before_the_folder_was_joined_meets_what_arrives() {
        let mut rig = Rig::unjoined();
        let (mine, other) = (rig.mkdir(ROOT, "dir"), rig.file(ROOT, "a", 1));
        let inner = rig.file(mine, "inner", 2);
        rig.drive();
        let theirs = [(id(8), ROOT, "dir", None), (id(9), id(8), "inner", Some(2)), (id(7), ROOT, "a", Some(3))];
        let theirs = theirs.map(|(node, parent, text, inside)| rig.theirs(node, parent, text, inside));
        rig.news(theirs.into());
        assert_eq!((rig.engine.child(ROOT, b"dir"), rig.engine.child(id(8), b"inner")), (Some(id(8)), Some(id(9))));
        assert!(rig.engine.local(mine).is_none() && rig.engine.local(inner).is_none(), "they are one with theirs");
        assert_eq!(rig.engine.child(ROOT, b"a"), Some(other), "the newer one keeps the name");
        let beside = conflict_name(&name("a"), "there", rig.engine.local(id(7)).unwrap().attrs.mtime, |_| false);
        assert_eq!(rig.engine.child(ROOT, beside.as_bytes()), Some(id(7)), "whose it is, is known");
    }

    #[test]
    fn what_arrives_is_told_once_and_as_it_is_then() {
        let mut rig = Rig::new();
        let arriving = [(7, "a"), (8, "b"), (9, "c")].map(|(node, text)| rig.theirs(id(node), ROOT, text, Some(node)));
        rig.page(arriving.into(), 9, false);
        let mut told = Vec::new();
        while let Some(effect) = rig.engine.poll(NOW) {
            let Effect::Changed(changed) = effect else { continue };
            if told.is_empty() {
                rig.engine.remove(ROOT, b"b", false, NOW).unwrap();
                rig.engine.rename((ROOT, b"c"), (ROOT, name("d")), RenameMode::Replace, NOW).unwrap();
            }
            told.push((changed.node, changed.places[0].name.to_string(), changed.content, changed.removed));
        }
        assert_eq!(told, [(id(7), "a".to_owned(), false, false), (id(9), "d".to_owned(), false, false)]);
    }

    #[test]
    fn what_arrives_and_could_not_be_kept_is_in_the_next_record() {
        let mut rig = Rig::new();
        let arriving = [(7, "a"), (8, "b")].map(|(node, text)| rig.theirs(id(node), ROOT, text, Some(node)));
        rig.page(arriving.into(), 8, false);
        rig.engine.poll(NOW);
        let record = rig.engine.take_record();
        let rows = |rig: &Rig, record| rig.engine.rows(record).map(|(id, _)| id).collect::<Vec<_>>();
        assert_eq!(rows(&rig, &record), [id(7), id(8)]);
        rig.engine.keep_failed(record);
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        let more = [(5, "e"), (6, "f"), (9, "g")];
        let more = more.map(|(node, text)| Node { rev: 9, ..rig.theirs(id(node), ROOT, text, Some(node)) });
        rig.page(more.into(), 9, false);
        rig.drive();
        let mut kept = rig.kept();
        kept.retain(|node| *node != ROOT);
        assert_eq!(kept, [5, 6, 7, 8, 9].map(id), "each once, also what comes of several pages");
        rig.restart();
        assert_eq!(rig.names(ROOT), ["b", "e", "f", "g"]);
    }

    #[test]
    fn a_node_that_changes_between_two_pages_counts_once() {
        let mut rig = Rig::new();
        let made = rig.theirs(id(9), ROOT, "a", Some(1));
        rig.page(vec![made], 1, true);
        let mut gone = rig.gone(id(9), NodeKind::File);
        gone.rev = 2;
        rig.news(vec![gone]);
        assert!(rig.names(ROOT).is_empty(), "the tombstone is the later one");
    }

    /// A file that the server has taken as number 5 of its history, of which 1 to 4 are not known here.
    fn taken_far_ahead(rig: &mut Rig) -> NodeId {
        let file = rig.file(ROOT, "a", 1);
        rig.drive();
        let request = rig.send().expect("a commit");
        rig.take_until(&request, 5);
        file
    }

    /// Another history has the same numbers, and other tags.
    fn elsewhere(seq: u64) -> Cursor {
        Cursor { tag: 2, ..cursor(seq) }
    }

    #[test]
    fn the_end_of_an_own_commit_is_asked_for_with_the_next_page_by_the_next_start_too() {
        let mut rig = Rig::new();
        taken_far_ahead(&mut rig);
        let ask = Ask { since: Some(cursor(0)), known: Some(cursor(5)) };
        assert_eq!(rig.engine.next_page(), ask);
        rig.restart();
        assert!(rig.engine.wants_page_now());
        assert_eq!(rig.engine.next_page(), ask);
        rig.file(ROOT, "b", 2);
        rig.drive();
        assert_eq!(rig.send().expect("a commit").known, Some(cursor(5)), "and told with the next commit");
    }

    #[test]
    fn a_page_from_before_an_own_commit_is_merged_only_if_the_history_is_the_same() {
        for (own, is_same) in [(Some(cursor(5)), true), (None, false), (Some(elsewhere(5)), false)] {
            let mut rig = Rig::new();
            let before = rig.engine.next_page();
            let file = taken_far_ahead(&mut rig);
            let theirs = Node { rev: 7, content_rev: 7, ..rig.theirs(file, ROOT, "a", Some(2)) };
            let end = if is_same { cursor(7) } else { elsewhere(7) };
            rig.page_of(end, own, before, vec![theirs], false);
            rig.drive();
            let shown = rig.engine.local(file).unwrap().body.content_hash();
            assert_eq!(shown == Some(content(2).hash), is_same, "{own:?}");
            let next = Ask { since: Some(end), known: Some(cursor(5)) };
            assert_eq!(rig.engine.next_page() == next, !is_same, "the server is asked whether it has both");
            if !is_same {
                assert!(rig.send().is_none(), "nothing is sent before it has said so");
                rig.engine.begin_resync();
                assert_eq!(rig.engine.next_page(), Ask::default());
            }
        }
    }

    #[test]
    fn the_server_may_say_that_both_are_of_its_history() {
        let mut rig = Rig::new();
        let before = rig.engine.next_page();
        let file = taken_far_ahead(&mut rig);
        let theirs = Node { rev: 7, content_rev: 7, ..rig.theirs(file, ROOT, "a", Some(2)) };
        rig.page_of(cursor(7), None, before, vec![theirs], false);
        rig.drive();
        rig.page_of(cursor(7), None, rig.engine.next_page(), Vec::new(), false);
        rig.drive();
        assert_eq!(rig.engine.local(file).unwrap().body.content_hash(), Some(content(2).hash));
        assert_eq!(rig.engine.cursor(), Some(cursor(7)));
        assert!(!rig.engine.wants_page_now());
    }

    #[test]
    fn a_state_from_before_an_own_commit_is_read_on() {
        let mut rig = Rig::new();
        let (a, b) = (rig.mkdir(ROOT, "a"), rig.mkdir(ROOT, "b"));
        rig.sync();
        rig.engine.rename((ROOT, b"a"), (b, name("a")), RenameMode::Replace, NOW).unwrap();
        rig.drive();
        let request = rig.send().expect("a commit");
        rig.take_until(&request, 8);
        // Each was in the other then, had it not been for what follows.
        let was = Node { rev: 5, ..rig.theirs(b, a, "b", None) };
        rig.page(vec![was], 5, false);
        rig.drive();
        assert_eq!(rig.names(ROOT), ["b"]);
        let is = Node { rev: 6, ..rig.theirs(b, ROOT, "c", None) };
        let own = Node { rev: 8, ..Rig::mine(rig.theirs(a, b, "a", None)) };
        rig.page(vec![is, own], 8, false);
        rig.drive();
        assert_eq!((rig.names(ROOT), rig.names(b)), (vec!["c".to_owned()], vec!["a".to_owned()]));
    }

    #[test]
    fn a_removal_that_the_cursor_could_not_follow_leaves_nothing_behind() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        rig.drive();
        let request = rig.send().expect("a commit");
        let before = rig.engine.next_page();
        rig.take_until(&request, 5);
        assert_eq!(rig.engine.len(), 1);
        rig.restart();
        // From before the removal, and then the rest.
        rig.page_of(cursor(3), None, before, vec![Node { rev: 3, ..rig.theirs(file, ROOT, "a", Some(1)) }], false);
        rig.drive();
        assert_eq!(rig.engine.len(), 1);
        rig.page(vec![Node { rev: 5, ..Rig::mine(rig.gone(file, NodeKind::File)) }], 5, false);
        rig.drive();
        assert_eq!((rig.engine.len(), rig.engine.cursor()), (1, Some(cursor(5))));
    }

    #[test]
    fn a_page_has_only_what_changed_within_it() {
        for (rev, is_fine) in [(0, false), (3, false), (4, true), (5, true), (6, false), (u64::MAX, false)] {
            let mut rig = Rig::new();
            rig.is_lied_to = true;
            rig.page(Vec::new(), 3, false);
            rig.drive();
            let node = Node { rev, ..rig.theirs(id(9), ROOT, "a", Some(1)) };
            rig.page(vec![node], 5, false);
            rig.drive();
            assert_eq!((rig.engine.unsound().is_none(), rig.names(ROOT).len() == 1), (is_fine, is_fine), "{rev}");
        }
    }

    #[test]
    fn what_does_not_go_with_an_earlier_lie_is_read_from_the_begin() {
        let mut rig = Rig::new();
        // No such directory: the honest server has a file of that name.
        rig.page(vec![rig.theirs(id(8), ROOT, "a", None)], 1, false);
        rig.drive();
        let mine = rig.file(id(8), "mine", 7);
        rig.drive();
        rig.is_lied_to = true;
        let honest = Node { rev: 2, ..rig.theirs(id(9), ROOT, "a", Some(1)) };
        for refused in 1..=super::REFUSED_MAX {
            assert_eq!(rig.engine.next_page().since, Some(cursor(1)));
            rig.page(vec![honest.clone()], 2, false);
            rig.drive();
            assert!(rig.engine.unsound().is_some() && rig.send().is_none(), "{refused}");
        }
        assert_eq!(rig.engine.next_page(), Ask::default(), "everything is read");
        rig.page(vec![honest], 2, false);
        rig.drive();
        assert!(rig.engine.unsound().is_none());
        assert_eq!(rig.names(id(8)), ["mine"]);
        assert!(rig.names(ROOT).len() == 2 && rig.engine.child(id(8), b"mine") == Some(mine));
    }

    #[test]
    fn what_is_here_as_another_kind_of_thing_goes_on_as_a_new_node() {
        let mut rig = Rig::new();
        let nodes = vec![rig.theirs(id(8), ROOT, "a", None), rig.theirs(id(9), ROOT, "b", Some(1))];
        rig.page(nodes, 1, false);
        rig.drive();
        let mine = rig.file(id(8), "mine", 7);
        rig.edit(id(9), 5, NOW.0);
        rig.drive();
        // In truth the one is the file and the other the directory.
        rig.engine.begin_resync();
        rig.page(vec![rig.theirs(id(8), ROOT, "a", Some(3)), rig.theirs(id(9), ROOT, "b", None)], 1, false);
        rig.drive();
        let kind = |node: NodeId| rig.engine.local(node).map(|state| state.kind());
        assert_eq!((kind(id(8)), kind(id(9))), (Some(NodeKind::File), Some(NodeKind::Dir)));
        let parent = rig.engine.local(mine).unwrap().names[0].parent;
        assert!(parent != id(8) && kind(parent) == Some(NodeKind::Dir));
        let hashes: Vec<_> = rig.engine.ids().filter_map(|id| rig.engine.local(id)?.body.content_hash()).collect();
        assert!([content(3).hash, content(5).hash, content(7).hash].iter().all(|hash| hashes.contains(hash)));
        rig.engine.check();
        rig.restart();
        assert_eq!(rig.engine.local(mine).unwrap().names[0].parent, parent);
    }

    #[test]
    fn a_late_page_does_not_move_the_cursor_back() {
        let mut rig = Rig::new();
        let (before, asked) = (rig.engine.cursor(), rig.engine.next_page());
        rig.file(ROOT, "a", 1);
        rig.sync();
        let after = rig.engine.cursor();
        assert_ne!(before, after);
        rig.page_from(asked, Vec::new(), before.map_or(0, |cursor| cursor.seq), false);
        rig.drive();
        assert_eq!(rig.engine.cursor(), after);
    }

    #[test]
    fn a_late_page_does_not_bring_back_what_was_removed_here() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a", 1);
        rig.sync();
        let late = Rig::mine(rig.theirs(file, ROOT, "a", Some(1)));
        let seq = late.rev;
        rig.news(Vec::new());
        let asked = rig.engine.next_page();
        rig.engine.set_attrs(file, late.attrs, NOW).unwrap();
        rig.sync();
        rig.engine.remove(ROOT, b"a", false, NOW).unwrap();
        rig.sync();
        rig.page_from(asked, vec![late], seq, false);
        rig.drive();
        assert!(rig.names(ROOT).is_empty());
    }

    #[test]
    fn a_conflict_copy_is_listed_until_it_is_renamed_or_removed() {
        let mut rig = Rig::new();
        rig.file(ROOT, "a.txt", 1);
        rig.news(vec![rig.theirs(id(9), ROOT, "a.txt", Some(2))]);
        let listed: Vec<NodeId> = rig.engine.conflicts().collect();
        assert_eq!(listed, [id(9)]);
        rig.restart();
        assert_eq!(rig.engine.conflicts().collect::<Vec<_>>(), listed, "also by the next start");
        let copy = rig.engine.local(id(9)).unwrap().names[0].name.clone();
        rig.engine.rename((ROOT, copy.as_bytes()), (ROOT, name("b.txt")), RenameMode::Replace, NOW).unwrap();
        assert_eq!(rig.engine.conflicts().count(), 0);
    }

    #[test]
    fn what_is_shown_instead_of_an_abandoned_draft_is_not_sent_over_a_later_version() {
        let mut rig = Rig::new();
        let file = rig.file(ROOT, "a.txt", 1);
        rig.sync();
        rig.edit(file, 2, NOW.0 + 2);
        rig.send();
        rig.drive();
        rig.restart();
        rig.engine.abandon_draft(file, NOW);
        rig.news(vec![Rig::mine(rig.theirs(file, ROOT, "a.txt", Some(3)))]);
        let shown = rig.engine.local(file).unwrap().body.content_hash();
        assert_eq!(shown, Some(content(3).hash));
        assert!(rig.sync().is_empty());
    }

    #[test]
    fn a_draft_that_lost_its_file_is_kept_although_the_file_has_gone_up_in_an_equal_one() {
        for device in ["here", "there"] {
            let mut rig = Rig::new();
            let file = rig.file(ROOT, "a", 1);
            rig.sync();
            rig.edit(file, 2, NOW.0 - 100);
            // Elsewhere it was replaced and moved to where a directory is made here, and stood aside to an equal file there.
            rig.mkdir(ROOT, "d");
            let theirs = rig.theirs(file, ROOT, "d", Some(3));
            let aside = conflict_name(&name("d"), device, theirs.attrs.mtime, |_| false).to_string();
            let mut equal = rig.theirs(id(0xFF), ROOT, &aside, Some(3));
            equal.rev += 1;
            rig.news(vec![theirs, equal]);
            let states = rig.engine.children(ROOT).filter_map(|(_, child)| rig.engine.local(child));
            let hashes: Vec<_> = states.filter_map(|state| state.body.content_hash()).collect();
            assert!(hashes.contains(&content(2).hash), "{hashes:?} in {:?}", rig.names(ROOT));
        }
    }
}
