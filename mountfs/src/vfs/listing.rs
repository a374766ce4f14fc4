//! Listings that nobody has to open: a place in one is a number that stands for a name as long as the mount lasts, whatever
//! comes and goes meanwhile.
//!
//! Entries come in the order of a keyed hash of their names. So an entry that stays is listed exactly once, also if another
//! file takes its name, and names whose hashes meet cannot be chosen. A part of a listing is remembered for a moment, so
//! that a reader who goes on does not have everything put in order again.
//!
//! Behind the hash a place has the number of changes in the directory when its listing began. What is remembered of an older
//! listing never continues a newer one, neither here nor in the kernel, which adds an answer to what it remembers only where
//! the last entry's place is the one that was asked for.

use super::{DirEntry, Result, Vfs, VfsError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{Name, NodeId, NodeKind};
use syncmount_engine::{Engine, Refusal, State};

/// The last bits of a place: the changes in the directory before its listing began.
const CHANGES_BITS: u32 = 15;

/// Between them and the hash is a number, for names of equal hash.
const TIE_BITS: u32 = 4;

/// Spots of `.` and `..`, before those of all hashes.
const DOTS: [(u64, &[u8]); 2] = [(1, b"."), (2, b"..")];

/// Hash and tie: the same in all listings.
fn spot(place: u64) -> u64 {
    place >> CHANGES_BITS
}

/// How many changes there were when the listing with this place began.
fn changes(place: u64) -> u64 {
    place & ((1 << CHANGES_BITS) - 1)
}

/// Entries that are put in order at a time, or a 16th of the directory if that is more.
const WINDOW_MIN: usize = 16_384;

/// How long a part that was put in order serves those who read on.
const WINDOW_LASTS: Duration = Duration::from_secs(2);

/// How many of them are remembered.
const WINDOWS_MAX: usize = 8;

/// A part of a listing.
struct Window {
    dir: NodeId,
    /// The changes in the directory when the listing began.
    changes: u64,
    /// The spot behind which it begins.
    after: u64,
    /// Whether nothing comes behind it.
    ends: bool,
    entries: Vec<DirEntry>,
    taken: Instant,
}

impl Window {
    fn serves(&self, dir: NodeId, place: u64) -> bool {
        let after = spot(place);
        let reaches = || self.ends || self.entries.last().is_some_and(|last| after < spot(last.next));
        self.dir == dir && self.changes == changes(place) && self.after <= after && reaches()
    }
}

/// The entries behind a place, or the next of them; none only at the end. Derefs to a slice.
pub struct Listed {
    window: Arc<Window>,
    from: usize,
    /// Whether it is the end of a listing that began before the directory's last change.
    pub ends_outdated: bool,
}

impl Deref for Listed {
    type Target = [DirEntry];

    fn deref(&self) -> &[DirEntry] {
        &self.window.entries[self.from..]
    }
}

/// What is remembered of listings.
#[derive(Default)]
pub(super) struct Listings {
    keys: RandomState,
    /// The newest first.
    windows: Mutex<VecDeque<Arc<Window>>>,
}

impl Listings {
    /// Never 0, and short enough for a place to be a signed number.
    fn hash(&self, name: &Name) -> u64 {
        (self.keys.hash_one(name.as_bytes()) >> (CHANGES_BITS + TIE_BITS + 1)).max(1)
    }

    fn known(&self, dir: NodeId, place: u64) -> Option<Listed> {
        let mut windows = self.windows.lock();
        windows.retain(|window| window.taken.elapsed() < WINDOW_LASTS);
        let at = windows.iter().position(|window| window.serves(dir, place))?;
        let listed = listed(windows[at].clone(), place);
        if listed.is_empty() {
            windows.remove(at);
        }
        Some(listed)
    }

    fn remember(&self, window: &Arc<Window>) {
        let mut windows = self.windows.lock();
        let same =
            |known: &Window| (known.dir, known.changes, known.after) == (window.dir, window.changes, window.after);
        windows.retain(|known| !same(known));
        windows.push_front(window.clone());
        windows.truncate(WINDOWS_MAX);
    }

    fn window(&self, engine: &Engine, dir: NodeId, place: u64) -> Window {
        let after = spot(place);
        let changes = if place == 0 { changes(engine.entry_changes(dir).into()) } else { changes(place) };
        let keep = WINDOW_MIN.max(engine.children_len(dir) / 16);
        let (found, ends) = self.nearest(engine, dir, after >> TIE_BITS, keep);
        let parent = engine.local(dir).and_then(|state| state.names.first().map(|place| place.parent));
        let dots = DOTS.into_iter().zip([dir, parent.unwrap_or(NodeId::ROOT)]).map(|((spot, name), node)| DirEntry {
            next: spot << CHANGES_BITS | changes,
            name: name.to_vec(),
            node,
            kind: NodeKind::Dir,
            special: 0,
        });
        let mut before = (0, 0);
        let named = found.into_iter().map(|(hash, name, node)| {
            before = if before.0 == hash { (hash, before.1 + 1) } else { (hash, 0) };
            let state = engine.local(node);
            DirEntry {
                next: (hash << TIE_BITS | before.1) << CHANGES_BITS | changes,
                name: name.as_bytes().to_vec(),
                node,
                kind: state.map_or(NodeKind::File, |state| State::kind(state)),
                special: state.and_then(|state| state.special()).unwrap_or(0),
            }
        });
        let entries = dots.chain(named).filter(|entry| spot(entry.next) > after).collect();
        Window { dir, changes, after, ends, entries, taken: Instant::now() }
    }

    /// The first `keep` names from a hash on in their order, without the last of those if there are more; and whether these
    /// are all.
    fn nearest<'a>(
        &self,
        engine: &'a Engine,
        dir: NodeId,
        from: u64,
        keep: usize,
    ) -> (Vec<(u64, &'a Name, NodeId)>, bool) {
        let mut found = Vec::new();
        let mut bound = u64::MAX;
        for (name, node) in engine.children(dir) {
            let hash = self.hash(name);
            if (from..=bound).contains(&hash) {
                found.push((hash, name, node));
            }
            if found.len() >= 2 * keep {
                bound = found.select_nth_unstable(keep - 1).1.0;
                found.truncate(keep);
            }
        }
        found.sort_unstable();
        let ends = bound == u64::MAX && found.len() <= keep;
        if !ends {
            found.truncate(keep);
            // Others of the same hash may be behind it.
            let last = found.last().map(|(hash, ..)| *hash);
            found.retain(|(hash, ..)| Some(*hash) != last);
        }
        (found, ends)
    }
}

fn listed(window: Arc<Window>, place: u64) -> Listed {
    let from = window.entries.partition_point(|entry| spot(entry.next) <= spot(place));
    Listed { window, from, ends_outdated: false }
}

impl Vfs {
    /// The entries of a directory behind a place (0: all of them, as they are now), each with its own.
    pub fn readdir(&self, ino: u64, after: u64) -> Result<Listed> {
        let dir = self.node(ino)?;
        let known = if after > 0 { self.listings.known(dir, after) } else { None };
        let mut listed = match known {
            Some(known) => known,
            None => {
                let new = listed(Arc::new(self.window(dir, after)?), after);
                if !new.is_empty() {
                    self.listings.remember(&new.window);
                }
                new
            }
        };
        if listed.is_empty() {
            let now = self.client.look(|engine| engine.entry_changes(dir));
            listed.ends_outdated = changes(now.into()) != changes(after);
        }
        Ok(listed)
    }

    fn window(&self, dir: NodeId, after: u64) -> Result<Window> {
        self.client.look(|engine| match engine.local(dir).map(|state| state.kind()) {
            Some(NodeKind::Dir) => Ok(self.listings.window(engine, dir, after)),
            Some(NodeKind::File | NodeKind::Symlink) => Err(VfsError::from(Refusal::NotDir)),
            None => Err(Refusal::NotFound.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::{Client, recovery_tests};
    use crate::vfs::Making;
    use crate::vfs::ROOT_INO;
    use std::collections::BTreeSet;
    use syncmount_common::{Attrs, Timestamp};
    use syncmount_engine::Body;

    fn make(client: &Client, names: impl Iterator<Item = String>) {
        let attrs = Attrs { mode: 0o755, mtime: Timestamp(7) };
        let made = client.change(|engine, now| {
            let mut names = names.map(|name| Name::try_from(name.as_str()).unwrap());
            names.try_for_each(|name| engine.create(NodeId::ROOT, name, attrs, Body::Dir, now).map(drop))
        });
        made.unwrap().unwrap();
    }

    /// What a reader gets who takes `step` entries at a time.
    fn read(vfs: &Vfs, step: usize, mut between: impl FnMut(usize)) -> Vec<(u64, String)> {
        let mut seen: Vec<(u64, String)> = Vec::new();
        for round in 0.. {
            let after = seen.last().map_or(0, |(next, _)| *next);
            let entries = vfs.readdir(ROOT_INO, after).unwrap();
            if entries.is_empty() {
                break;
            }
            seen.extend(entries.iter().take(step).map(|it| (it.next, String::from_utf8(it.name.clone()).unwrap())));
            between(round);
        }
        assert!(seen.is_sorted_by(|a, b| a.0 < b.0) && seen.iter().all(|(next, _)| i64::try_from(*next).is_ok()));
        seen
    }

    #[test]
    fn what_stays_is_listed_once_whatever_is_remembered() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let vfs = Vfs::for_tests(client.clone());
        let count = 2 * WINDOW_MIN + 1000;
        make(&client, (0..count).map(|number| format!("stays {number}")));
        let mut expected: BTreeSet<String> = (0..count).map(|number| format!("stays {number}")).collect();
        expected.extend([".".to_owned(), "..".to_owned()]);
        let stays = |seen: Vec<(u64, String)>| -> Vec<String> {
            seen.into_iter().map(|(_, name)| name).filter(|name| !name.starts_with("goes")).collect()
        };
        for forgets in [false, true] {
            let seen = read(&vfs, 1000, |round| {
                make(&client, std::iter::once(format!("goes {forgets} {round}")));
                if forgets {
                    vfs.listings.windows.lock().clear();
                }
            });
            let names = stays(seen);
            assert_eq!(names.len(), expected.len(), "nothing twice");
            assert_eq!(names.into_iter().collect::<BTreeSet<_>>(), expected);
        }
        assert!(vfs.listings.windows.lock().iter().all(|window| !window.ends), "who is at the end needs it no more");
    }

    #[test]
    fn a_listing_has_what_was_there_when_it_began_whatever_is_remembered_of_others() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let vfs = Vfs::for_tests(client.clone());
        make(&client, (0..100).map(|number| format!("{number}")));
        let part = |after: u64, count: usize| {
            let listed = vfs.readdir(ROOT_INO, after).unwrap();
            let names = listed.iter().take(count).map(|it| String::from_utf8(it.name.clone()).unwrap());
            (names.collect::<Vec<_>>(), listed[..count.min(listed.len())].last().map_or(after, |last| last.next))
        };
        for round in 0..4 {
            // Two that are in the middle of their listings, and others that come to their ends.
            let (slow, other) = (part(0, 10).1, part(0, 20).1);
            read(&vfs, 50, |_| ());
            assert_eq!(part(slow, 5).0.len(), 5);
            assert_eq!(part(other, 5).0.len(), 5);
            make(&client, std::iter::once(format!("new {round}")));
            let (mut names, after) = part(0, 15);
            read(&vfs, 50, |_| ());
            names.extend(part(after, usize::MAX).0);
            assert_eq!(names.len(), 2 + 100 + round + 1);
            assert!(names.contains(&format!("new {round}")));
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "nothing twice");
        }
    }

    #[test]
    fn the_end_of_a_listing_tells_that_the_directory_changed_since_its_beginning() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let vfs = Vfs::for_tests(client.clone());
        make(&client, (0..100).map(|number| format!("{number}")));
        let ends_outdated = |between: &dyn Fn()| {
            let mut after = 0;
            loop {
                let listed = vfs.readdir(ROOT_INO, after).unwrap();
                match listed[..listed.len().min(40)].last() {
                    Some(last) => after = last.next,
                    None => return listed.ends_outdated,
                }
                between();
            }
        };
        assert!(!ends_outdated(&|| ()));
        let mut left = std::cell::Cell::new(1);
        let once = || {
            if left.replace(0) == 1 {
                make(&client, std::iter::once("new".to_owned()));
            }
        };
        assert!(ends_outdated(&once));
        assert!(!ends_outdated(&once));
        assert_eq!(left.get_mut(), &0);
        let elsewhere = vfs.mkdir(ROOT_INO, b"dir", Making::TEST).unwrap().ino;
        assert!(!ends_outdated(&|| drop(vfs.symlink(elsewhere, b"x", b"y", Making::TEST.by))));
    }

    #[test]
    fn a_place_stands_for_a_name_also_if_that_is_gone() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let vfs = Vfs::for_tests(client.clone());
        make(&client, (0..100).map(|number| format!("{number}")));
        let all = read(&vfs, 7, |_| ());
        assert_eq!(all.iter().take(2).map(|(_, name)| name.as_str()).collect::<Vec<_>>(), [".", ".."]);
        let (place, name) = all[50].clone();
        client.change(|engine, now| engine.remove(NodeId::ROOT, name.as_bytes(), true, now)).unwrap().unwrap();
        vfs.listings.windows.lock().clear();
        let behind = vfs.readdir(ROOT_INO, place).unwrap();
        let behind: Vec<_> = behind.iter().map(|entry| entry.next).collect();
        assert_eq!(behind, all[51..].iter().map(|(next, _)| *next).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_directory_or_gone_is_not_listed() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let vfs = Vfs::for_tests(recovery_tests::open(dir.path(), &runtime));
        let link = vfs.symlink(ROOT_INO, b"link", b"somewhere", Making::TEST.by).unwrap().ino;
        assert!(matches!(vfs.readdir(link, 0), Err(VfsError::Refused(Refusal::NotDir))));
        let gone = vfs.mkdir(ROOT_INO, b"dir", Making::TEST).unwrap().ino;
        assert_eq!(vfs.readdir(gone, 0).unwrap().len(), 2);
        vfs.remove(ROOT_INO, b"dir", true).unwrap();
        assert!(matches!(vfs.readdir(gone, 0), Err(VfsError::Refused(Refusal::NotFound))));
        assert!(matches!(vfs.readdir(12345, 0), Err(VfsError::Gone)));
    }
}
