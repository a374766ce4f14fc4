//! What the feed tells of nodes until it is merged, in little room: there may be millions before they are a complete state.
//!
//! Knows nothing of the tree, nor of how anything is merged.

use crate::state::State;
use indexmap::IndexSet;
use std::cmp::Reverse;
use std::sync::Arc;
use syncmount_common::{DeviceId, Node, NodeId, NodeKind, Owner, Placement, Rev, Timestamp};

/// A device by its number in [`Writers`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Writer(u32);

/// The devices that news name as authors, each once.
#[derive(Default)]
pub(crate) struct Writers(IndexSet<DeviceId>);

impl Writers {
    fn number(&mut self, device: DeviceId) -> Writer {
        Writer(self.0.insert_full(device).0 as u32)
    }

    /// The device behind a number that was given out here.
    pub(crate) fn device(&self, writer: Writer) -> Option<DeviceId> {
        self.0.get_index(writer.0 as usize).copied()
    }
}

/// No time. In an option it would take twice the room.
const UNKNOWN: Timestamp = Timestamp(i64::MIN);

/// What the feed tells of one node.
pub(crate) struct News {
    pub(crate) id: NodeId,
    pub(crate) rev: Rev,
    pub(crate) content_rev: Rev,
    /// `None` for a tombstone.
    pub(crate) state: Option<Arc<State>>,
    pub(crate) author: Writer,
    pub(crate) content_author: Writer,
    /// When it was changed where that was done; [`UNKNOWN`] if that is not told.
    changed: Timestamp,
    pub(crate) deleted: bool,
}

impl News {
    /// The same in less room; who wrote it gets a number.
    pub(crate) fn of(node: &Node, owner: Option<Owner>, writers: &mut Writers) -> Self {
        let owned = |state: State| State { xattrs: state.xattrs.with_owner(owner), ..state };
        Self {
            id: node.id,
            rev: node.rev,
            content_rev: node.content_rev,
            state: State::of_node(node).map(owned).map(Arc::new),
            author: writers.number(node.author),
            content_author: writers.number(node.content_author),
            changed: node.changed.unwrap_or(UNKNOWN),
            deleted: node.deleted,
        }
    }

    /// When it was changed where that was done, if that is told.
    pub(crate) fn changed(&self) -> Option<Timestamp> {
        Some(self.changed).filter(|changed| *changed != UNKNOWN)
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &Placement> {
        self.state.iter().flat_map(|state| &state.names)
    }

    pub(crate) fn kind(&self) -> Option<NodeKind> {
        self.state.as_ref().map(|state| state.kind())
    }

    pub(crate) fn mtime(&self) -> Option<Timestamp> {
        self.state.as_ref().map(|state| state.attrs.mtime)
    }

    /// Of a file.
    pub(crate) fn size(&self) -> Option<u64> {
        self.state.as_ref()?.body.content().map(|content| content.size)
    }
}

/// Nodes, each once, to be taken by [`take_last`] in the order of their ids. Pages that were asked for one after the other may
/// have a node twice, if it changed in between.
pub(crate) fn latest(mut news: Vec<News>) -> Vec<News> {
    // In its place: the whole of a large folder may be in it.
    news.sort_unstable_by_key(|node| Reverse((node.id, node.rev)));
    news.dedup_by_key(|node| node.id);
    news
}

/// Of a list that is taken apart, at most this part of its room is empty: what is made of it needs that.
const EMPTY_PART: usize = 8;

/// Lists shorter than this keep their room.
const SHORT: usize = 4096;

/// Takes the last of many, and gives back the room that they do not need any more: a list and what is made of it never are
/// in memory both as a whole.
pub(crate) fn take_last<T>(from: &mut Vec<T>) -> Option<T> {
    let last = from.pop();
    let room = from.capacity();
    if room > SHORT && room - from.len() > room / EMPTY_PART {
        from.shrink_to_fit();
    }
    last
}

/// A node and who changed it last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Told {
    pub(crate) id: NodeId,
    pub(crate) author: Writer,
}

/// Nodes that the feed told of, in the order of their ids. A copy shares them.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct ToldOf(Arc<Vec<Told>>);

impl ToldOf {
    /// They must be in the order of their ids, each once.
    pub(crate) fn new(told: Vec<Told>) -> Self {
        debug_assert!(told.is_sorted_by(|a, b| a.id < b.id), "in order, each once");
        Self(Arc::new(told))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn ids(&self) -> impl ExactSizeIterator<Item = NodeId> + '_ {
        self.0.iter().map(|told| told.id)
    }

    /// The one at this place in the order.
    pub(crate) fn at(&self, index: usize) -> Option<NodeId> {
        self.0.get(index).map(|told| told.id)
    }

    pub(crate) fn contains(&self, id: NodeId) -> bool {
        self.author_of(id).is_some()
    }

    pub(crate) fn author_of(&self, id: NodeId) -> Option<Writer> {
        let at = self.0.binary_search_by_key(&id, |told| told.id).ok()?;
        Some(self.0[at].author)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_taken_apart_gives_its_room_back() {
        let mut list: Vec<u64> = (0..100_000).collect();
        let mut taken = Vec::new();
        while let Some(last) = take_last(&mut list) {
            taken.push(last);
            let room = list.capacity();
            assert!(
                room <= SHORT || room <= list.len() + list.len() / (EMPTY_PART - 1) + 1,
                "{room} for {}",
                list.len()
            );
        }
        assert!(taken.into_iter().rev().eq(0..100_000));
    }

    #[test]
    fn news_are_small() {
        // A million of them wait for the last page: each byte is a MiB.
        assert!(size_of::<News>() <= 64 && size_of::<Told>() <= 20);
    }

    #[test]
    fn who_wrote_what_is_found_again() {
        let mut writers = Writers::default();
        let device = |seed| DeviceId::from_bytes([seed; 16]);
        let numbers = [1, 2, 1].map(|seed| writers.number(device(seed)));
        let told = |(seed, author): (u8, Writer)| Told { id: NodeId::from_bytes([seed; 16]), author };
        let told_of = ToldOf::new([3, 5, 9].into_iter().zip(numbers).map(told).collect());
        let author = |seed| told_of.author_of(NodeId::from_bytes([seed; 16])).and_then(|writer| writers.device(writer));
        assert_eq!([3, 5, 9, 4].map(author), [Some(device(1)), Some(device(2)), Some(device(1)), None]);
    }
}
