//! The names of a disk: what programs see, what is on the platter, and the operations in between.
//!
//! An inode has at most one name: there are no hard links.

use super::Cut;
use rand::RngExt;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};

/// A directory's inode, and a name in it.
pub(super) type Place = (u64, OsString);

#[derive(Clone, Default)]
struct Map {
    inodes: BTreeMap<Place, u64>,
    places: HashMap<u64, Place>,
}

impl Map {
    fn put(&mut self, inode: u64, to: Option<Place>) {
        if let Some(from) = self.places.remove(&inode) {
            self.inodes.remove(&from);
        }
        let Some(to) = to else { return };
        if let Some(replaced) = self.inodes.insert(to.clone(), inode) {
            self.places.remove(&replaced);
        }
        self.places.insert(inode, to);
    }
}

/// Create, unlink, rename, mkdir and rmdir are all this: an inode gets, changes or loses its place.
#[derive(Clone)]
struct Move {
    inode: u64,
    from: Option<Place>,
    to: Option<Place>,
}

impl Move {
    fn places(&self) -> impl Iterator<Item = &Place> {
        self.from.iter().chain(&self.to)
    }

    fn touches(&self, dir: u64) -> bool {
        self.places().any(|(parent, _)| *parent == dir)
    }

    fn meets(&self, other: &Self) -> bool {
        self.inode == other.inode || self.places().any(|place| other.places().any(|theirs| theirs == place))
    }
}

/// All names.
#[derive(Default)]
pub(super) struct Names {
    seen: Map,
    durable: Map,
    unsynced: Vec<Move>,
}

impl Names {
    pub(super) fn inode(&self, dir: u64, name: &OsStr) -> Option<u64> {
        self.seen.inodes.get(&(dir, name.to_owned())).copied()
    }

    pub(super) fn place(&self, inode: u64) -> Option<&Place> {
        self.seen.places.get(&inode)
    }

    /// The entries of a directory, sorted.
    pub(super) fn entries(&self, dir: u64) -> impl Iterator<Item = (&OsStr, u64)> {
        let from = (dir, OsString::new());
        self.seen
            .inodes
            .range(from..)
            .take_while(move |((parent, _), _)| *parent == dir)
            .map(|((_, name), inode)| (name.as_os_str(), *inode))
    }

    /// Gives an inode another place, or none. What has that place loses it.
    pub(super) fn put(&mut self, inode: u64, to: Option<Place>) {
        let from = self.seen.places.get(&inode).cloned();
        if from == to {
            return;
        }
        self.seen.put(inode, to.clone());
        self.unsynced.push(Move { inode, from, to });
    }

    /// fsync of a directory: its operations, and what they build upon.
    pub(super) fn sync(&mut self, dir: u64) {
        let mut kept: BTreeSet<usize> =
            (0..self.unsynced.len()).filter(|index| self.unsynced[*index].touches(dir)).collect();
        for index in (0..self.unsynced.len()).rev() {
            let needed = kept.range(index + 1..).any(|later| self.unsynced[*later].meets(&self.unsynced[index]));
            if needed {
                kept.insert(index);
            }
        }
        for index in &kept {
            let Move { inode, to, .. } = &self.unsynced[*index];
            self.durable.put(*inode, to.clone());
        }
        let mut index = 0;
        self.unsynced.retain(|_| {
            index += 1;
            !kept.contains(&(index - 1))
        });
    }

    /// Everything is durable.
    pub(super) fn sync_all(&mut self) {
        self.unsynced.clear();
        self.durable = self.seen.clone();
    }

    pub(super) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    /// Whether nothing names the inode any more, now or after a power cut.
    pub(super) fn is_forgotten(&self, inode: u64) -> bool {
        !self.seen.places.contains_key(&inode)
            && !self.durable.places.contains_key(&inode)
            && self.unsynced.iter().all(|change| change.inode != inode)
    }

    /// The power goes.
    pub(super) fn power_cut(&mut self, cut: &mut Cut) {
        for Move { inode, to, .. } in std::mem::take(&mut self.unsynced) {
            let kept = match cut {
                Cut::Nothing => false,
                Cut::MetadataOnly => true,
                Cut::Some { share, rng } => rng.random_bool(*share),
            };
            if kept {
                self.durable.put(inode, to);
            }
        }
        self.seen = self.durable.clone();
    }
}
