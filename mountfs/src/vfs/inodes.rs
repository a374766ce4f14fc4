//! Inode numbers: which node a number of the kernel's stands for.
//!
//! A number is computed from the node's id, so it is the same after a restart; the table holds only what the kernel knows.

use parking_lot::Mutex;
use std::collections::HashMap;
use syncmount_common::NodeId;

/// The root's number, as the kernel has it.
pub const ROOT_INO: u64 = 1;

#[derive(Default)]
struct Table {
    by_ino: HashMap<u64, (NodeId, u64)>,
    by_node: HashMap<NodeId, u64>,
    /// Numbers that nodes had before, under which the kernel may know them still.
    former: HashMap<NodeId, Vec<u64>>,
}

/// The inodes that the kernel knows.
#[derive(Default)]
pub struct Inodes(Mutex<Table>);

impl Inodes {
    /// The node behind a number.
    pub fn node(&self, ino: u64) -> Option<NodeId> {
        if ino == ROOT_INO {
            return Some(NodeId::ROOT);
        }
        self.0.lock().by_ino.get(&ino).map(|(node, _)| *node)
    }

    /// The number of a node that the kernel knows.
    pub fn known(&self, node: NodeId) -> Option<u64> {
        if node == NodeId::ROOT { Some(ROOT_INO) } else { self.0.lock().by_node.get(&node).copied() }
    }

    /// All numbers under which the kernel knows a node.
    pub fn known_all(&self, node: NodeId) -> Vec<u64> {
        let former = self.0.lock().former.get(&node).cloned().unwrap_or_default();
        self.known(node).into_iter().chain(former).collect()
    }

    /// Whether a number is one that its node had before.
    pub fn is_former(&self, ino: u64) -> bool {
        let table = self.0.lock();
        !table.former.is_empty()
            && table.by_ino.get(&ino).is_some_and(|(node, _)| table.by_node.get(node).is_some_and(|now| *now != ino))
    }

    /// Who asks for the node behind a number from now on gets another number. Those who have the old one go on with it.
    pub fn renumber(&self, ino: u64) {
        let mut table = self.0.lock();
        let Some((node, _)) = table.by_ino.get(&ino).copied() else { return };
        if table.by_node.get(&node) != Some(&ino) {
            return;
        }
        let mut new = ino;
        while new <= ROOT_INO || table.by_ino.contains_key(&new) {
            new = (new + 1) & (u64::MAX >> 1);
        }
        table.by_ino.insert(new, (node, 0));
        table.by_node.insert(node, new);
        table.former.entry(node).or_default().push(ino);
    }

    /// The number that a node has or would get.
    pub fn number(&self, node: NodeId) -> u64 {
        if node == NodeId::ROOT {
            return ROOT_INO;
        }
        let table = self.0.lock();
        table.by_node.get(&node).copied().unwrap_or_else(|| table.free_number(node))
    }

    /// The kernel is told of a node once more.
    pub fn remember(&self, node: NodeId) -> u64 {
        if node == NodeId::ROOT {
            return ROOT_INO;
        }
        let mut table = self.0.lock();
        let ino = table.by_node.get(&node).copied().unwrap_or_else(|| table.free_number(node));
        table.by_node.insert(node, ino);
        table.by_ino.entry(ino).or_insert((node, 0)).1 += 1;
        ino
    }

    /// A node goes on as another one: the kernel's number for it stands for that now.
    pub fn moved(&self, from: NodeId, to: NodeId) {
        let mut table = self.0.lock();
        let Some(ino) = table.by_node.remove(&from) else { return };
        let former = table.former.remove(&from).unwrap_or_default();
        for ino in former.iter().chain([&ino]) {
            if let Some((node, _)) = table.by_ino.get_mut(ino) {
                *node = to;
            }
        }
        if !former.is_empty() {
            table.former.insert(to, former);
        }
        table.by_node.insert(to, ino);
    }

    /// The kernel has forgotten `count` of the times it was told.
    pub fn forget(&self, ino: u64, count: u64) {
        let mut table = self.0.lock();
        let Some((node, known)) = table.by_ino.get_mut(&ino) else { return };
        let node = *node;
        *known = known.saturating_sub(count);
        if *known > 0 {
            return;
        }
        table.by_ino.remove(&ino);
        if table.by_node.get(&node) == Some(&ino) {
            table.by_node.remove(&node);
        } else if let Some(former) = table.former.get_mut(&node) {
            former.retain(|number| *number != ino);
            if former.is_empty() {
                table.former.remove(&node);
            }
        }
    }
}

impl Table {
    fn free_number(&self, node: NodeId) -> u64 {
        let (high, low) = node.as_bytes().split_at(8);
        let part = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        // The random bits of the id count most; numbers above 2^63 confuse programs that keep them signed.
        let mut ino = (part(low) ^ part(high).rotate_left(29)) & (u64::MAX >> 1);
        while ino <= ROOT_INO || self.by_ino.get(&ino).is_some_and(|(other, _)| *other != node) {
            ino = (ino + 1) & (u64::MAX >> 1);
        }
        ino
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_follows_a_node_that_goes_on_as_another() {
        let inodes = Inodes::default();
        let (old, new) = (NodeId::new_v7(1, &[7; 10]), NodeId::new_v7(2, &[8; 10]));
        let ino = inodes.remember(old);
        inodes.moved(old, new);
        assert_eq!((inodes.node(ino), inodes.known(new), inodes.known(old)), (Some(new), Some(ino), None));
        assert_ne!(inodes.remember(old), ino, "the old one may come back");
        inodes.forget(ino, 1);
        assert_eq!(inodes.known(new), None);
    }

    #[test]
    fn a_node_may_get_another_number_while_somebody_has_the_old_one() {
        let inodes = Inodes::default();
        let node = NodeId::new_v7(1, &[7; 10]);
        let old = inodes.remember(node);
        inodes.renumber(old);
        let new = inodes.remember(node);
        assert!(new != old && inodes.is_former(old) && !inodes.is_former(new));
        assert_eq!((inodes.node(old), inodes.node(new)), (Some(node), Some(node)));
        assert_eq!(inodes.known_all(node), [new, old]);
        inodes.renumber(old);
        assert_eq!(inodes.known(node), Some(new), "it has another one already");
        inodes.forget(old, 1);
        assert_eq!((inodes.node(old), inodes.known_all(node)), (None, vec![new]));
        inodes.forget(new, 1);
        assert_eq!(inodes.remember(node), old);
    }

    #[test]
    fn numbers_stay_and_are_forgotten_when_the_kernel_forgets() {
        let inodes = Inodes::default();
        let node = NodeId::new_v7(1, &[7; 10]);
        let ino = inodes.remember(node);
        assert_eq!(inodes.remember(node), ino);
        assert_eq!(inodes.number(node), ino);
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino), Some(node));
        inodes.forget(ino, 1);
        assert_eq!(inodes.node(ino), None);
        assert_eq!(Inodes::default().remember(node), ino);
        assert_eq!(inodes.remember(NodeId::ROOT), ROOT_INO);
    }
}
