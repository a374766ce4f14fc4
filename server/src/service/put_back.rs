//! What a denied burst of removes took away, put back by new changes.
//!
//! A node that others have changed since stays as it is, and so does what has its name now: what comes back then takes
//! another one. A directory that is gone comes back with what was in it. Written as an undo is, so it can be undone too.

use super::commit::Step;
use super::undo::{device, step, told};
use super::upload::ATTEMPTS_MAX;
use super::whole::{Author, check_count};
use super::{Result, Service, ServiceError, folder};
use crate::meta::{FolderKey, MetaError, Principal, ReadTx};
use std::collections::HashSet;
use syncmount_common::name::NAME_LEN_MAX;
use syncmount_common::protocol::undo::UndoReply;
use syncmount_common::{Name, Node, NodeId, Placement, Timestamp};

/// The counted removes of some principals in a span of time.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    pub(super) principals: Vec<Principal>,
    /// Removes after this moment.
    pub(super) from: Timestamp,
    /// Removes up to this moment.
    pub(super) until: Timestamp,
}

impl Service {
    /// Brings back what a burst took away.
    pub(super) async fn put_back(&self, folder: &str, burst: Burst) -> Result<UndoReply> {
        for _ in 0..ATTEMPTS_MAX {
            let (name, burst) = (folder.to_owned(), burst.clone());
            let plan = self.read(move |tx| plan(tx, &name, &burst)).await?;
            match self.change_whole(folder, Author { device: device(), is_counted: false }, plan).await {
                Err(ServiceError::Conflict(_)) => (),
                end => return end.map(told),
            }
        }
        Err(ServiceError::Busy(format!("others keep changing the folder `{folder}`: deny it again")))
    }
}

fn plan(tx: &dyn ReadTx, name: &str, burst: &Burst) -> Result<Vec<Step>> {
    let key = folder(tx, name)?.key;
    let mut back = Back { tx, key, nodes: Vec::new(), known: HashSet::new(), taken: HashSet::new() };
    for principal in &burst.principals {
        for (_, node) in tx.removed_by(key, principal, burst.from, burst.until)? {
            back.add(node);
        }
    }
    back.add_parents()?;
    check_count(back.nodes.len())?;
    let mut steps = Vec::with_capacity(back.nodes.len());
    for node in std::mem::take(&mut back.nodes) {
        let now = tx.node(key, node.id)?.ok_or(MetaError::Damaged("a node with a past has no row"))?;
        steps.extend(step(now, Some(back.placed(node)?)));
    }
    Ok(steps)
}

/// What comes back, as it was.
struct Back<'a> {
    tx: &'a dyn ReadTx,
    key: FolderKey,
    nodes: Vec<Node>,
    known: HashSet<NodeId>,
    /// Names that are given to what comes back.
    taken: HashSet<Placement>,
}

impl Back<'_> {
    fn add(&mut self, node: Node) {
        if self.known.insert(node.id) {
            self.nodes.push(node);
        }
    }

    /// Adds the directories above that are gone, also those that others removed: they were empty by then.
    fn add_parents(&mut self) -> Result<()> {
        let mut next = 0;
        while let Some(node) = self.nodes.get(next) {
            next += 1;
            let parents: Vec<_> = node.names.iter().map(|place| place.parent).collect();
            for id in parents.into_iter().filter(|id| !self.known.contains(id)).collect::<Vec<_>>() {
                if let Some(parent) = self.gone(id)? {
                    self.add(parent);
                }
            }
        }
        Ok(())
    }

    /// The directory as it was before it was removed; none if it is there.
    fn gone(&self, id: NodeId) -> Result<Option<Node>> {
        let now = self.tx.node(self.key, id)?.ok_or(MetaError::Damaged("a directory has no row"))?;
        if !now.deleted {
            return Ok(None);
        }
        let past = self.tx.past(self.key, now.rev)?.filter(|past| !past.deleted);
        past.map(Some).ok_or_else(|| MetaError::Damaged("a directory went without a trace").into())
    }

    /// The node with names that are free.
    fn placed(&mut self, node: Node) -> Result<Node> {
        let mut names = Vec::with_capacity(node.names.len());
        for place in &node.names {
            names.push(self.free(place)?);
        }
        Ok(Node { names, ..node })
    }

    fn free(&mut self, place: &Placement) -> Result<Placement> {
        for count in 0.. {
            let name = if count == 0 { Some(place.name.clone()) } else { numbered(&place.name, count) };
            let Some(name) = name else { break };
            let place = Placement { parent: place.parent, name };
            if self.tx.child(self.key, place.parent, &place.name)?.is_none() && self.taken.insert(place.clone()) {
                return Ok(place);
            }
        }
        Err(ServiceError::PathConflict(format!("no name is free for `{}`", place.name)))
    }
}

/// `report (restored).txt`, `report (restored 2).txt`, …; the extension stays, so that the file opens in its program.
fn numbered(name: &Name, count: u32) -> Option<Name> {
    let bytes = name.as_bytes();
    let dot = bytes.iter().rposition(|byte| *byte == b'.').filter(|dot| *dot > 0 && bytes.len() - dot <= 16);
    let (stem, extension) = bytes.split_at(dot.unwrap_or(bytes.len()));
    let note = if count == 1 { " (restored)".to_owned() } else { format!(" (restored {count})") };
    let mut end = stem.len().min(NAME_LEN_MAX - note.len() - extension.len());
    while end > 0 && stem.get(end).is_some_and(|byte| byte & 0xC0 == 0x80) {
        end -= 1;
    }
    Name::new([&stem[..end], note.as_bytes(), extension].concat()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_gets_a_number_before_its_extension() {
        let name = |text: &str| Name::try_from(text).unwrap();
        assert_eq!(numbered(&name("a.txt"), 1), Some(name("a (restored).txt")));
        assert_eq!(numbered(&name(".hidden"), 2), Some(name(".hidden (restored 2)")));
        let long = numbered(&name(&"\u{e4}".repeat(127)), 3).unwrap();
        assert!(long.as_bytes().len() <= NAME_LEN_MAX && long.to_string().ends_with("\u{e4} (restored 3)"), "{long}");
    }
}
