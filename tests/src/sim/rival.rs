//! Two users who do, at about the same time, things to one node or name that do not go together: all hard cases in pairs.

use super::user::{Found, Write, name};
use super::world::{Event, World};
use syncmount_common::{Name, NodeId, NodeKind};
use syncmount_engine::{Body, RenameMode};

/// The longest time that a rival stays offline, so that both act before they hear of each other.
const APART_MS: u64 = 4_000_000;

/// What one of them does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Doing {
    Edit,
    EditEqual,
    EditPart,
    Remove,
    RemoveAll,
    Rename,
    Take,
    NewChild,
    ReplaceByRename,
    Swap,
    ChangeType,
    Attrs,
}

/// Pairs on one file.
const ON_FILES: [(Doing, Doing); 16] = [
    (Doing::Edit, Doing::Edit),
    (Doing::EditPart, Doing::Edit),
    (Doing::EditPart, Doing::EditPart),
    (Doing::EditEqual, Doing::EditEqual),
    (Doing::Edit, Doing::Remove),
    (Doing::Edit, Doing::Rename),
    (Doing::Edit, Doing::ReplaceByRename),
    (Doing::ReplaceByRename, Doing::ReplaceByRename),
    (Doing::Rename, Doing::Rename),
    (Doing::Rename, Doing::Remove),
    (Doing::Swap, Doing::Swap),
    (Doing::Swap, Doing::Remove),
    (Doing::ChangeType, Doing::Edit),
    (Doing::ChangeType, Doing::ChangeType),
    (Doing::Attrs, Doing::Attrs),
    (Doing::Attrs, Doing::Remove),
];

/// Pairs on one directory.
const ON_DIRS: [(Doing, Doing); 8] = [
    (Doing::RemoveAll, Doing::NewChild),
    (Doing::RemoveAll, Doing::Rename),
    (Doing::RemoveAll, Doing::Take),
    (Doing::Rename, Doing::Rename),
    (Doing::Rename, Doing::Take),
    (Doing::Swap, Doing::Rename),
    (Doing::ChangeType, Doing::NewChild),
    (Doing::Attrs, Doing::RemoveAll),
];

impl World {
    /// Two devices come to do something that does not go together.
    pub fn rivals(&mut self) {
        let mut up: Vec<usize> =
            (0..self.devices.len()).filter(|index| self.devices[*index].engine.is_some()).collect();
        if up.len() < 2 {
            return;
        }
        let a = up.swap_remove(self.rng.index(up.len()));
        let b = up[self.rng.index(up.len())];
        let apart = if self.rng.chance(400) { vec![a, b] } else { vec![a] };
        for index in apart {
            self.devices[index].online = false;
            let spell = self.rng.delay_ms(1, APART_MS);
            self.at(spell, Event::Online(index));
        }
        match self.rng.below(10) {
            0..2 => self.create_both(a, b),
            2..4 => self.tie_a_knot(a, b),
            4..6 => self.on_common(a, b, NodeKind::Dir, &ON_DIRS),
            _ => self.on_common(a, b, NodeKind::File, &ON_FILES),
        }
        self.changed(a);
        self.changed(b);
    }

    /// What both see, as each sees it.
    fn common(&self, a: usize, b: usize, kind: NodeKind) -> Vec<(Found, Found)> {
        let there = self.found(b);
        let of_kind = self.found(a).into_iter().filter(|found| found.kind == kind);
        of_kind
            .filter_map(|here| Some((here.clone(), there.iter().find(|there| there.id == here.id)?.clone())))
            .collect()
    }

    fn on_common(&mut self, a: usize, b: usize, kind: NodeKind, pairs: &[(Doing, Doing)]) {
        let common = self.common(a, b, kind);
        let (Some((here, there)), Some((first, second))) = (self.rng.pick(&common).cloned(), self.rng.pick(pairs))
        else {
            return self.create_both(a, b);
        };
        self.trace.line(|| format!("    rivals {a} {first:?} and {b} {second:?} at {:?}", here.id));
        let other = common.iter().find(|(found, _)| found.id != here.id).cloned();
        self.do_move(a, *first, &here, other.as_ref().map(|other| &other.0));
        self.do_move(b, *second, &there, other.as_ref().map(|other| &other.1));
    }

    fn create_both(&mut self, a: usize, b: usize) {
        let dirs = self.common(a, b, NodeKind::Dir);
        let parent = self.rng.pick(&dirs).map_or(NodeId::ROOT, |(found, _)| found.id);
        let what = name(["a", "b", "c.txt", "d"][self.rng.index(4)]);
        let bytes = self.invent();
        let equal = self.rng.chance(400);
        for index in [a, b] {
            let place = (parent, what.clone());
            match self.rng.below(6) {
                0 => drop(self.make(index, place.0, place.1, Body::Dir)),
                _ if equal => drop(self.make_file(index, place, bytes.clone())),
                _ => {
                    let bytes = self.invent();
                    self.make_file(index, place, bytes);
                }
            }
        }
    }

    /// Two directories are moved into each other.
    fn tie_a_knot(&mut self, a: usize, b: usize) {
        let dirs = self.common(a, b, NodeKind::Dir);
        let (Some(one), Some(two)) = (self.rng.pick(&dirs).cloned(), self.rng.pick(&dirs).cloned()) else {
            return self.create_both(a, b);
        };
        self.move_to(a, &one.0, &(two.0.id, one.0.name.clone()), RenameMode::Replace);
        self.move_to(b, &two.1, &(one.1.id, two.1.name.clone()), RenameMode::Replace);
    }

    fn do_move(&mut self, index: usize, what: Doing, found: &Found, other: Option<&Found>) {
        if self.devices[index].engine.is_none() {
            return;
        }
        let fresh = |text: &str| -> Name { name(text) };
        match what {
            Doing::NewChild => {
                let bytes = self.invent();
                self.make_file(index, (found.id, fresh("new")), bytes);
            }
            Doing::Edit => {
                let bytes = self.invent();
                self.write(index, found.id, &Write::Whole(bytes));
            }
            Doing::EditEqual => {
                let bytes = format!("unique {:04} equal", self.tag.0).into_bytes();
                self.write(index, found.id, &Write::Whole(bytes.into()));
            }
            Doing::EditPart => self.write(index, found.id, &Write::Part),
            Doing::Remove => self.remove_found(index, found),
            Doing::RemoveAll => self.remove_all(index, found.clone()),
            Doing::Rename => {
                let to = fresh(["moved", "a", "b"][self.rng.index(3)]);
                self.move_to(index, found, &(NodeId::ROOT, to), RenameMode::Replace);
            }
            Doing::Take => {
                let into = other.filter(|other| other.id != found.id);
                if let Some(other) = into {
                    self.move_to(index, other, &(found.id, other.name.clone()), RenameMode::NoReplace);
                }
            }
            Doing::ReplaceByRename => self.replace_file(index, found),
            Doing::Swap => {
                if let Some(other) = other {
                    self.move_to(index, found, &(other.parent, other.name.clone()), RenameMode::Exchange);
                }
            }
            Doing::ChangeType => {
                if found.kind == NodeKind::Dir {
                    self.remove_all(index, found.clone());
                }
                self.change_type_of(index, found);
            }
            Doing::Attrs => self.set_attrs_of(index, found.id),
        }
    }
}
