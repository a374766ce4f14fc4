//! Manifests that do not travel inside nodes: one file each, under the name of the content.
//!
//! Promises: what is handed out has the hash that it is asked for by. A manifest that was remembered is here until nothing
//! refers to it: no file of the folder, no draft, no content of which bytes are in the cache. The others are removed at the
//! start, and whenever the manifests have doubled since.

use super::Client;
use crate::system::files::{self, stored_bytes};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::{ContentHash, Manifest, NodeId};
use syncmount_engine::Engine;

/// Manifests kept in memory.
const MANIFESTS_MAX: usize = 256;

/// Fewer bytes on the disk are not worth a look through the folder.
const PRUNED_MIN: u64 = 8 << 20;

/// What was remembered so lately is not removed.
const WANTED_FOR: Duration = Duration::from_secs(60);

/// Nodes that are looked at under one lock of the tree.
const STEP: usize = 1000;

/// The manifests of one client.
pub(super) struct Manifests {
    dir: PathBuf,
    recent: Mutex<LruCache<ContentHash, Arc<Manifest>>>,
    /// When each was remembered last, since the last look for superfluous ones.
    wanted: Mutex<HashMap<ContentHash, Instant>>,
    /// Bytes on the disk, about.
    bytes: AtomicU64,
    /// How many may be there before the next look.
    pruned_at: AtomicU64,
}

impl Manifests {
    /// Opens or makes the directory, and removes what a process left there that ended while it wrote.
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        let capacity = NonZeroUsize::new(MANIFESTS_MAX).unwrap_or(NonZeroUsize::MIN);
        let new = Self {
            dir,
            recent: Mutex::new(LruCache::new(capacity)),
            wanted: Mutex::default(),
            bytes: AtomicU64::new(0),
            pruned_at: AtomicU64::new(0),
        };
        for entry in fs::read_dir(&new.dir)? {
            let entry = entry?;
            if entry.file_name().to_str().and_then(|name| name.parse::<ContentHash>().ok()).is_some() {
                new.bytes.fetch_add(stored_bytes(&entry.path(), &entry.metadata()?), Ordering::Relaxed);
            } else {
                files::remove_if_there(&entry.path())?;
            }
        }
        Ok(new)
    }

    /// Bytes on the disk, about.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.dir.join(hash.to_string())
    }

    pub(super) fn known(&self, hash: &ContentHash) -> Option<Arc<Manifest>> {
        if let Some(manifest) = self.recent.lock().get(hash) {
            return Some(manifest.clone());
        }
        let bytes = fs::read(self.path(hash)).ok()?;
        let Some(manifest) = hash.matches(&bytes).then(|| Manifest::decode(&bytes).ok()).flatten() else {
            // A power cut left it half written. It must not be taken for the right one when that comes.
            if let Err(error) = self.remove(hash) {
                tracing::warn!(%error, %hash, "a damaged manifest cannot be removed");
            }
            return None;
        };
        let manifest = Arc::new(manifest);
        self.recent.lock().put(*hash, manifest.clone());
        Some(manifest)
    }

    pub(super) fn remember(&self, hash: ContentHash, manifest: Arc<Manifest>) -> io::Result<()> {
        let path = self.path(&hash);
        // Before the look at the disk: from now on it is not removed.
        self.wanted.lock().insert(hash, Instant::now());
        if !path.exists() {
            let fresh = path.with_extension(format!("{:?}", std::thread::current().id()));
            fs::write(&fresh, manifest.encode())?;
            files::rename(&fresh, &path)?;
            self.bytes.fetch_add(stored_bytes(&path, &fs::metadata(&path)?), Ordering::Relaxed);
        }
        self.recent.lock().put(hash, manifest);
        Ok(())
    }

    /// A draft that has just been cut is about to refer to its manifest. What is remembered from now on is written again.
    fn remove_unless_wanted(&self, hash: &ContentHash) -> io::Result<()> {
        let wanted = self.wanted.lock();
        if wanted.contains_key(hash) { Ok(()) } else { self.remove(hash) }
    }

    fn remove(&self, hash: &ContentHash) -> io::Result<()> {
        let path = self.path(hash);
        let bytes = fs::metadata(&path).map_or(0, |found| stored_bytes(&path, &found));
        if files::remove_if_there(&path)? {
            self.bytes.fetch_sub(bytes.min(self.bytes()), Ordering::Relaxed);
        }
        Ok(())
    }

    fn all(&self) -> io::Result<HashSet<ContentHash>> {
        let mut found = HashSet::new();
        for entry in fs::read_dir(&self.dir)? {
            found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<ContentHash>().ok()));
        }
        Ok(found)
    }
}

impl Client {
    /// Removes the manifests that nothing refers to, if they may have become many.
    pub(super) fn prune_manifests(&self) -> io::Result<()> {
        let manifests = &self.manifests;
        if manifests.bytes() > manifests.pruned_at.load(Ordering::Relaxed) {
            self.prune_manifests_now()?;
            manifests.pruned_at.store((manifests.bytes() * 2).max(PRUNED_MIN), Ordering::Relaxed);
        }
        Ok(())
    }

    fn prune_manifests_now(&self) -> io::Result<()> {
        let manifests = &self.manifests;
        let mut superfluous = manifests.all()?;
        superfluous.retain(|hash| self.cache.stored(hash).is_none());
        // The tree may change between two steps. A file that is passed over so costs another question to the server at most:
        // what is not sent yet is asked for at the end, at one moment.
        let mut todo = vec![NodeId::ROOT];
        while !todo.is_empty() && !superfluous.is_empty() {
            self.look(|engine| step(engine, &mut todo, &mut superfluous));
        }
        self.look(|engine| {
            for (_, draft) in engine.stagings() {
                for content in draft.prepared.iter().chain(&draft.base) {
                    superfluous.remove(&content.hash);
                }
            }
        });
        manifests.wanted.lock().retain(|_, since| since.elapsed() < WANTED_FOR);
        superfluous.iter().map(|hash| manifests.remove_unless_wanted(hash)).fold(Ok(()), Result::and)
    }
}

/// Looks at some directories: what their files are made of is not superfluous.
fn step(engine: &Engine, todo: &mut Vec<NodeId>, superfluous: &mut HashSet<ContentHash>) {
    let mut left = STEP;
    while left > 0
        && let Some(id) = todo.pop()
    {
        let body = engine.local(id).map(|state| &state.body);
        let contents = body.into_iter().flat_map(|body| {
            let draft = body.draft();
            body.content().into_iter().chain(draft.and_then(|draft| draft.base.as_ref()))
        });
        for content in contents {
            superfluous.remove(&content.hash);
        }
        todo.extend(engine.children(id).map(|(_, child)| child));
        left -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::super::recovery_tests;
    use super::*;
    use syncmount_common::{ChunkHash, Extent};
    use tokio::runtime::Runtime;

    fn manifest(number: u32) -> Arc<Manifest> {
        let chunk =
            |part: u32| Extent::Chunk { hash: ChunkHash::of(&[number, part].map(u32::to_le_bytes).concat()), len: 9 };
        Arc::new(Manifest::new((0..100).map(chunk).collect()).unwrap())
    }

    #[test]
    fn what_nothing_refers_to_is_removed_and_what_was_wanted_lately_is_not() {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let client = recovery_tests::open(dir.path(), &runtime);
        let (stale, cached, fresh) = (manifest(1), manifest(2), manifest(3));
        for manifest in [&stale, &cached, &fresh] {
            client.manifests.remember(manifest.content_hash(), manifest.clone()).unwrap();
        }
        assert!(client.manifests.bytes() > 3 * 3200, "{}", client.manifests.bytes());
        client.cache.entry(&cached.content_hash(), &cached).unwrap();
        let hashes = [&stale, &cached, &fresh].map(|manifest| manifest.content_hash());
        let here = || hashes.map(|hash| client.manifests.path(&hash).exists());
        client.prune_manifests_now().unwrap();
        assert_eq!(here(), [true; 3], "they may be about to be referred to");
        client.manifests.wanted.lock().retain(|hash, _| *hash == fresh.content_hash());
        client.prune_manifests_now().unwrap();
        assert_eq!(here(), [false, true, true]);
        let counted = client.manifests.bytes();
        let again = Manifests::open(dir.path().join("manifests")).unwrap();
        assert_eq!(again.bytes(), counted);
        assert!(again.known(&fresh.content_hash()).is_some());
    }

    #[test]
    fn what_a_process_left_that_ended_while_it_wrote_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let left = dir.path().join(format!("{}.ThreadId(7)", manifest(1).content_hash()));
        fs::write(&left, b"half").unwrap();
        assert_eq!(Manifests::open(dir.path().to_owned()).unwrap().bytes(), 0);
        assert!(!left.exists());
    }
}
