//! Listings that nobody has to open: a place in one is a number that stands for a name as long as the mount lasts, whatever
//! comes and goes meanwhile.
//!
//! Entries come in the order of a keyed hash of their names. So an entry that stays is listed exactly once, also if another
//! file takes its name, and nobody can choose names whose hashes meet. A part of a listing is remembered for a moment, so
//! that who reads on does not have everything put in order again.

use super::{DirEntry, Result, Vfs, VfsError};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::hash::{BuildHasher as _, RandomState};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::{Name, NodeId, NodeKind};
use syncmount_engine::{Engine, Refusal, State};

/// Behind the hash in a place is a number, for names of equal hash.
const TIE_BITS: u32 = 4;

/// Places of `.` and `..`, before those of all hashes.
const DOTS: [(u64, &[u8]); 2] = [(1, b"."), (2, b"..")];

/// Entries that are put in order at a time, or a 16th of the directory if that is more.
const WINDOW_MIN: usize = 16_384;

/// How long a part that was put in order serves those who read on.
const WINDOW_LASTS: Duration = Duration::from_secs(2);

/// How many of them are remembered.
const WINDOWS_MAX: usize = 8;

/// A part of a listing.
struct Window {
    dir: NodeId,
    /// The place behind which it begins.
    after: u64,
    /// Whether nothing comes behind it.
    ends: bool,
    entries: Vec<DirEntry>,
    taken: Instant,
}

impl Window {
    fn serves(&self, dir: NodeId, after: u64) -> bool {
        let reaches = || self.ends || self.entries.last().is_some_and(|last| after < last.next);
        self.dir == dir && self.after <= after && reaches()
    }
}

/// The entries behind a place, or the next of them; none only at the end. Derefs to a slice.
pub struct Listed {
    window: Arc<Window>,
    from: usize,
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
        (self.keys.hash_one(name.as_bytes()) >> (TIE_BITS + 1)).max(1)
    }

    fn known(&self, dir: NodeId, after: u64) -> Option<Listed> {
        let mut windows = self.windows.lock();
        windows.retain(|window| window.taken.elapsed() < WINDOW_LASTS);
        let at = windows.iter().position(|window| window.serves(dir, after))?;
        let listed = listed(windows[at].clone(), after);
        if listed.is_empty() {
            windows.remove(at);
        }
        Some(listed)
    }

    fn remember(&self, window: &Arc<Window>) {
        let mut windows = self.windows.lock();
        windows.retain(|known| (known.dir, known.after) != (window.dir, window.after));
        windows.push_front(window.clone());
        windows.truncate(WINDOWS_MAX);
    }

    fn window(&self, engine: &Engine, dir: NodeId, after: u64) -> Window {
        let keep = WINDOW_MIN.max(engine.children_len(dir) / 16);
        let (found, ends) = self.nearest(engine, dir, after >> TIE_BITS, keep);
        let parent = engine.local(dir).and_then(|state| state.names.first().map(|place| place.parent));
        let dots = DOTS.into_iter().zip([dir, parent.unwrap_or(NodeId::ROOT)]).map(|((next, name), node)| DirEntry {
            next,
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
                next: hash << TIE_BITS | before.1,
                name: name.as_bytes().to_vec(),
                node,
                kind: state.map_or(NodeKind::File, |state| State::kind(state)),
                special: state.and_then(|state| state.special()).unwrap_or(0),
            }
        });
        let entries = dots.chain(named).filter(|entry| entry.next > after).collect();
        Window { dir, after, ends, entries, taken: Instant::now() }
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

fn listed(window: Arc<Window>, after: u64) -> Listed {
    let from = window.entries.partition_point(|entry| entry.next <= after);
    Listed { window, from }
}

impl Vfs {
    /// The entries of a directory behind a place (0: all of them, as they are now), each with its own.
    pub fn readdir(&self, ino: u64, after: u64) -> Result<Listed> {
        let dir = self.node(ino)?;
        if after > 0
            && let Some(known) = self.listings.known(dir, after)
        {
            return Ok(known);
        }
        let window = self.client.look(|engine| match engine.local(dir).map(|state| state.kind()) {
            Some(NodeKind::Dir) => Ok(self.listings.window(engine, dir, after)),
            Some(NodeKind::File | NodeKind::Symlink) => Err(VfsError::from(Refusal::NotDir)),
            None => Err(Refusal::NotFound.into()),
        })?;
        let listed = listed(Arc::new(window), after);
        if !listed.is_empty() {
            self.listings.remember(&listed.window);
        }
        Ok(listed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Durability;
    use crate::driver::{Client, recovery_tests};
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
        let vfs = Vfs::new(client.clone(), false, Durability::Local);
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
    fn a_place_stands_for_a_name_also_if_that_is_gone() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let vfs = Vfs::new(client.clone(), false, Durability::Local);
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
        let vfs = Vfs::new(recovery_tests::open(dir.path(), &runtime), false, Durability::Local);
        let link = vfs.symlink(ROOT_INO, b"link", b"somewhere").unwrap().ino;
        assert!(matches!(vfs.readdir(link, 0), Err(VfsError::Refused(Refusal::NotDir))));
        let gone = vfs.mkdir(ROOT_INO, b"dir", 0o755).unwrap().ino;
        assert_eq!(vfs.readdir(gone, 0).unwrap().len(), 2);
        vfs.remove(ROOT_INO, b"dir", true).unwrap();
        assert!(matches!(vfs.readdir(gone, 0), Err(VfsError::Refused(Refusal::NotFound))));
        assert!(matches!(vfs.readdir(12345, 0), Err(VfsError::Gone)));
    }
}
