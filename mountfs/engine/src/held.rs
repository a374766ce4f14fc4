//! Removals that the server holds back until a person allows them: set aside, so that everything else goes on.
//!
//! What replaces something is no removal and goes on too. When a person says no, what was removed comes back.

use crate::batch::InFlight;
use crate::engine::{Engine, RETRY_AFTER_NS, is_due};
use std::collections::BTreeSet;
use syncmount_common::{NodeId, Timestamp};

/// What is set aside, and why.
pub(crate) struct Held {
    nodes: BTreeSet<NodeId>,
    reason: String,
    again: Timestamp,
    /// It is time to ask again; still shown until the answer is there.
    asking: bool,
}

impl Held {
    /// Whether it is time to ask again.
    pub(crate) fn ask_if_due(&mut self, now: Timestamp) -> bool {
        self.asking |= is_due(self.again, now);
        self.asking
    }
}

impl Engine {
    /// How many removals the server holds back, and its own words about that.
    pub fn held(&self) -> Option<(u64, &str)> {
        self.held.as_ref().map(|held| (held.nodes.len() as u64, held.reason.as_str()))
    }

    /// Whether the node's removal has to wait until somebody allows it.
    pub(crate) fn is_held(&self, id: NodeId) -> bool {
        let held = self.held.as_ref().filter(|held| !held.asking);
        held.is_some_and(|held| held.nodes.contains(&id)) && self.is_plain_removal(id)
    }

    /// Whether it was removed here and nothing has taken its place.
    fn is_plain_removal(&self, id: NodeId) -> bool {
        let Some(entry) = self.tree.get(id).filter(|entry| entry.local.is_none()) else { return false };
        let is_taken = |state: &crate::State| state.names.iter().any(|place| self.tree.shared_child(place).is_some());
        entry.synced_state().is_some_and(|state| !is_taken(state))
    }

    /// The server has refused a batch because of its removals.
    pub(crate) fn hold_back(&mut self, batch: &InFlight, reason: String, denied: bool, now: Timestamp) {
        let plain = |engine: &Self| -> BTreeSet<NodeId> {
            engine.tree.dirty().filter(|id| engine.is_plain_removal(*id)).collect()
        };
        let mut nodes = plain(self);
        if !batch.nodes().any(|id| nodes.contains(&id)) {
            // Nothing here can be set aside so that the rest would be taken.
            return self.rejected(batch, &reason, now);
        }
        if denied {
            self.put_back(nodes, now);
            nodes = plain(self);
        }
        let again = Timestamp(now.0.saturating_add(RETRY_AFTER_NS));
        self.held = (!nodes.is_empty()).then_some(Held { nodes, reason, again, asking: false });
    }

    /// The server has taken a change of the node.
    pub(crate) fn release(&mut self, id: NodeId) {
        if let Some(held) = &mut self.held {
            held.nodes.remove(&id);
            if held.nodes.is_empty() {
                self.held = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::RenameMode;
    use crate::rig::{NOW, Rig, name};
    use syncmount_common::protocol::commit::Op;
    use syncmount_common::{NodeId, Timestamp};

    const ROOT: NodeId = NodeId::ROOT;

    fn later() -> Timestamp {
        Timestamp(NOW.0 + super::RETRY_AFTER_NS)
    }

    fn removes(ops: &[Op]) -> usize {
        ops.iter().filter(|op| matches!(op, Op::Remove { .. })).count()
    }

    /// Five files, three of them removed and held back.
    fn held_rig() -> Rig {
        let mut rig = Rig::new();
        for index in 0..5 {
            rig.file(ROOT, &format!("f{index}"), index);
        }
        rig.sync();
        for index in 0..3 {
            rig.engine.remove(ROOT, format!("f{index}").as_bytes(), false, NOW).unwrap();
        }
        let refused = rig.send().unwrap();
        assert_eq!(removes(&refused.ops), 3);
        rig.hold(&refused, false);
        rig
    }

    #[test]
    fn everything_else_goes_on() {
        let mut rig = held_rig();
        assert_eq!(rig.engine.held(), Some((3, "too much")));
        assert!(rig.sync().is_empty());
        let made = rig.file(ROOT, "new", 9);
        rig.engine.rename((ROOT, b"f3"), (ROOT, name("moved")), RenameMode::Replace, NOW).unwrap();
        rig.engine.rename((ROOT, b"moved"), (ROOT, name("f4")), RenameMode::Replace, NOW).unwrap();
        let sent = rig.sync().concat();
        assert!(sent.iter().any(|op| op.id() == made), "a new file");
        assert_eq!((sent.len(), removes(&sent)), (3, 1), "what is replaced is no removal");
        assert_eq!(rig.engine.held(), Some((3, "too much")));
        assert_eq!(rig.engine.pending().held, 3);
    }

    #[test]
    fn a_new_file_in_the_place_of_a_held_one_takes_it_along() {
        let mut rig = held_rig();
        rig.file(ROOT, "f1", 7);
        let sent = rig.sync().concat();
        assert_eq!((sent.len(), removes(&sent)), (2, 1));
        assert_eq!(rig.engine.held(), Some((2, "too much")));
    }

    #[test]
    fn it_is_asked_again_and_goes_once_it_is_allowed() {
        let mut rig = held_rig();
        rig.engine.tick(NOW);
        assert!(rig.send().is_none());
        rig.engine.tick(later());
        assert_eq!(rig.engine.held(), Some((3, "too much")), "shown until the answer is there");
        let again = rig.send().unwrap();
        rig.hold(&again, false);
        assert!(rig.send().is_none());
        rig.engine.tick(Timestamp(later().0 + super::RETRY_AFTER_NS));
        assert_eq!(removes(&rig.sync().concat()), 3);
        assert_eq!(rig.engine.held(), None);
    }

    #[test]
    fn what_was_refused_for_good_comes_back() {
        let mut rig = Rig::new();
        let dir = rig.mkdir(ROOT, "dir");
        let file = rig.file(dir, "file", 1);
        rig.file(ROOT, "other", 2);
        rig.sync();
        rig.engine.remove(dir, b"file", false, NOW).unwrap();
        rig.engine.remove(ROOT, b"dir", true, NOW).unwrap();
        rig.mkdir(ROOT, "dir");
        rig.engine.remove(ROOT, b"other", false, NOW).unwrap();
        let refused = rig.send().unwrap();
        rig.hold(&refused, true);
        assert_eq!(rig.names(ROOT), ["dir", "other"]);
        assert_eq!((rig.engine.child(ROOT, b"dir"), rig.engine.child(dir, b"file")), (Some(dir), Some(file)));
        assert!(rig.sync().is_empty());
        assert_eq!((rig.engine.held(), rig.engine.pending().nodes), (None, 0));
    }

    #[test]
    fn what_others_remove_is_not_held_any_more() {
        let mut rig = held_rig();
        let gone: Vec<_> = rig.removed().into_iter().map(|id| rig.gone(id, syncmount_common::NodeKind::File)).collect();
        assert_eq!(gone.len(), 3);
        rig.news(gone);
        assert_eq!((rig.engine.held(), rig.engine.pending().nodes), (None, 0));
    }
}
