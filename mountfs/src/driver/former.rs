//! Chunks that a new version shares with an earlier one are copied inside the cache instead of fetched.
//!
//! Owns what is remembered of which contents took the place of which: bounded, in memory only, and no more than a hint. Every
//! chunk is checked against its hash; what is not there any more, cannot be read or is damaged is fetched. An index of all
//! chunks in the cache would find more, but take some 64 MiB for a cache of 1 TiB, and all its manifests would have to be read
//! at each start.

use super::alike::Credit;
use super::known::{Prefix, prefix};
use super::{Client, OLD_LEN_MIN, pins};
use crate::store::Entry;
use lru::LruCache;
use parking_lot::Mutex;
use std::cmp::Reverse;
use std::collections::HashSet;
use std::io;
use std::iter;
use std::num::NonZeroUsize;
use std::sync::Arc;
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Manifest, Node};
use syncmount_engine::Engine;
use tokio::sync::Semaphore;

/// Contents of which it is remembered what they took the place of, and of how many each: some 6 MiB, 24 at most.
const CONTENTS_MAX: usize = 4096;
const FORMERS_MAX: usize = 4;

/// Contents of which it is kept at hand where their chunks are, at 16 bytes a chunk.
const PLACES_MAX: usize = 8;

/// Of a node with many names so many are looked at.
const NAMES_MAX: usize = 4;

/// Contents of which it is kept how much asking for differences has paid.
const CREDITS_MAX: usize = 256;

/// Batches of chunks that are copied at the same time.
const COPIES_MAX: usize = 2;

/// Where the chunks of a content are, ordered by prefix.
pub(super) struct Places(Box<[(Prefix, u64)]>);

impl Places {
    pub(super) fn new(manifest: &Manifest) -> Self {
        let chunk = |(start, extent)| match extent {
            Extent::Chunk { hash, .. } => Some((prefix(&hash), start)),
            Extent::Hole { .. } => None,
        };
        let mut places: Vec<_> = manifest.with_offsets().filter_map(chunk).collect();
        places.sort_unstable();
        Self(places.into())
    }

    pub(super) fn at(&self, chunk: &ChunkHash) -> Option<u64> {
        let wanted = prefix(chunk);
        let from = self.0.partition_point(|(found, _)| *found < wanted);
        self.0.get(from).filter(|(found, _)| *found == wanted).map(|(_, start)| *start)
    }
}

/// Which contents took the place of which.
pub(super) struct Formers {
    of: Mutex<LruCache<ContentHash, Arc<[Arc<Content>]>>>,
    places: Mutex<LruCache<ContentHash, Arc<Places>>>,
    copies: Semaphore,
    /// How many differences to earlier ones may be asked for of contents that are being fetched.
    credits: Mutex<LruCache<ContentHash, Arc<Mutex<Credit>>>>,
}

impl Default for Formers {
    fn default() -> Self {
        let capacity = |max| NonZeroUsize::new(max).unwrap_or(NonZeroUsize::MIN);
        Self {
            of: Mutex::new(LruCache::new(capacity(CONTENTS_MAX))),
            places: Mutex::new(LruCache::new(capacity(PLACES_MAX))),
            copies: Semaphore::new(COPIES_MAX),
            credits: Mutex::new(LruCache::new(capacity(CREDITS_MAX))),
        }
    }
}

impl Formers {
    /// A content takes the place of others, which may have done so before: who was away has a version that is not the last.
    /// Those count of which anything is `stored`; the more, the sooner they are looked into.
    pub(super) fn note(
        &self,
        content: ContentHash,
        before: Vec<Arc<Content>>,
        stored: impl Fn(&ContentHash) -> Option<u64>,
    ) {
        let mut found = before;
        {
            let of = self.of.lock();
            let hashes: Vec<ContentHash> = found.iter().map(|former| former.hash).chain([content]).collect();
            found.extend(hashes.iter().filter_map(|hash| of.peek(hash)).flat_map(|earlier| earlier.iter().cloned()));
        }
        let mut seen = HashSet::from([content]);
        found.retain(|former| seen.insert(former.hash));
        let mut here: Vec<_> = found.into_iter().filter_map(|former| Some((stored(&former.hash)?, former))).collect();
        here.sort_by_key(|(bytes, _)| Reverse(*bytes));
        here.truncate(FORMERS_MAX);
        if !here.is_empty() {
            self.of.lock().put(content, here.into_iter().map(|(_, former)| former).collect());
        }
    }

    pub(super) fn of(&self, content: &ContentHash) -> Option<Arc<[Arc<Content>]>> {
        self.of.lock().get(content).cloned()
    }

    /// How many differences to earlier ones may be asked for of a content.
    pub(super) fn credit(&self, content: &ContentHash) -> Arc<Mutex<Credit>> {
        self.credits.lock().get_or_insert(*content, Arc::default).clone()
    }
}

/// A large content that comes with a node, and what was there before: in the node, and in other nodes in its places, for so
/// programs save.
fn replaced(engine: &Engine, node: &Node) -> Option<(ContentHash, Vec<Arc<Content>>)> {
    let content = node.content.as_ref().filter(|content| content.size >= OLD_LEN_MIN)?;
    let names = node.names.iter().take(NAMES_MAX);
    let there = names.filter_map(|place| engine.child(place.parent, place.name.as_bytes()));
    let bodies = iter::once(node.id).chain(there).filter_map(|id| Some(&engine.local(id)?.body));
    let contents = bodies.flat_map(pins::contents_of);
    let before: Vec<_> =
        contents.filter(|former| former.size >= OLD_LEN_MIN && former.hash != content.hash).cloned().collect();
    (!before.is_empty()).then_some((content.hash, before))
}

impl Client {
    /// The feed tells of these nodes, and the tree does not have them yet.
    pub(super) fn note_formers(&self, nodes: &[Node]) {
        let replaced: Vec<_> = self.look(|engine| nodes.iter().filter_map(|node| replaced(engine, node)).collect());
        for (content, before) in replaced {
            self.formers.note(content, before, |hash| self.cache.stored(hash));
        }
    }

    /// Whether a chunk of a content can be copied, by what is known without reading it.
    pub(super) fn is_shared(&self, entry: &Entry, chunk: &ChunkHash, len: u32) -> bool {
        let has = |former: &Arc<Content>| {
            let at = self.places(former)?.at(chunk)?;
            self.cache.get(&former.hash).map(|source| source.missing(at..at + u64::from(len)).is_empty())
        };
        self.formers.of(entry.hash()).is_some_and(|formers| formers.iter().any(|former| has(former) == Some(true)))
    }

    /// Copies what it can of some chunks of a content, each with its length, and answers with the others.
    pub(super) async fn copy_shared(
        self: &Arc<Self>,
        entry: &Arc<Entry>,
        chunks: Vec<(ChunkHash, u32)>,
    ) -> Vec<(ChunkHash, u32)> {
        let Some(formers) = self.formers.of(entry.hash()) else { return chunks };
        // It is never closed; if it were, everything would be fetched.
        let Ok(_permit) = self.formers.copies.acquire().await else { return chunks };
        let (client, entry, wanted) = (self.clone(), entry.clone(), chunks.clone());
        let copied = tokio::task::spawn_blocking(move || client.copy_from(&formers, &entry, &wanted)).await;
        copied.unwrap_or_else(|error| {
            tracing::error!(%error, "chunks are fetched that may be here");
            chunks
        })
    }

    fn copy_from(&self, formers: &[Arc<Content>], entry: &Entry, chunks: &[(ChunkHash, u32)]) -> Vec<(ChunkHash, u32)> {
        let mut left = Vec::new();
        for (index, (hash, len)) in chunks.iter().enumerate() {
            let raw = formers.iter().find_map(|former| self.read_former(former, hash, *len));
            match raw.map(|raw| entry.put(hash, &raw)) {
                Some(Ok(())) => self.chunk_is_here(hash),
                None => left.push((*hash, *len)),
                Some(Err(error)) => {
                    // Whoever fetches them finds room, or says that there is none.
                    tracing::debug!(%error, "chunks that are here cannot be copied");
                    left.extend_from_slice(&chunks[index..]);
                    break;
                }
            }
        }
        left
    }

    /// A chunk as a former content has it, verified. That one is held no longer than it is read: it may be the next that has
    /// to go, also to make room for this chunk, or be taken away to be changed.
    pub(super) fn read_former(&self, former: &Content, chunk: &ChunkHash, len: u32) -> Option<Vec<u8>> {
        let at = self.places(former)?.at(chunk)?;
        let mut raw = vec![0; len as usize];
        let read = self.cache.get(&former.hash)?.read_at(&mut raw, at);
        match read {
            Ok(got) if got < raw.len() => None,
            Ok(_) if chunk.matches(&raw) => Some(raw),
            Ok(_) => {
                tracing::warn!(content = %former.hash, "a cached content is damaged; what is needed of it is fetched");
                None
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => {
                tracing::warn!(%error, content = %former.hash, "a cached content cannot be read; it is fetched");
                None
            }
        }
    }

    /// The manifest of an earlier version, to which that of a content is probably alike.
    pub(super) fn manifest_of_former(&self, content: &ContentHash) -> Option<Arc<Manifest>> {
        self.formers.of(content)?.iter().find_map(|former| self.manifest_here(former))
    }

    pub(super) fn places(&self, former: &Content) -> Option<Arc<Places>> {
        if let Some(places) = self.formers.places.lock().get(&former.hash) {
            return Some(places.clone());
        }
        let places = Arc::new(Places::new(&*self.manifest_here(former)?));
        self.formers.places.lock().put(former.hash, places.clone());
        Some(places)
    }
}

#[cfg(test)]
mod tests {
    use super::super::recovery_tests;
    use super::*;
    use std::time::{Duration, Instant};
    use syncmount_common::protocol::changes::{ChangesPage, Cursor};
    use syncmount_common::{Attrs, DeviceId, Epoch, FolderId, Name, NodeId, NodeKind, Placement, Timestamp, Xattrs};
    use tokio::runtime::Runtime;

    const LEN: usize = 100 * 1024;

    /// A content with a chunk for each letter.
    struct Version {
        content: Content,
        manifest: Arc<Manifest>,
        bytes: Vec<u8>,
    }

    fn raw(letter: u8) -> Vec<u8> {
        vec![letter; LEN]
    }

    fn version(letters: &str) -> Version {
        let extents =
            letters.bytes().map(|letter| Extent::Chunk { hash: ChunkHash::of(&raw(letter)), len: LEN as u32 });
        let manifest = Manifest::new(extents.collect()).unwrap();
        let bytes = letters.bytes().flat_map(raw).collect();
        Version { content: Content::of(manifest.clone(), None), manifest: Arc::new(manifest), bytes }
    }

    impl Version {
        fn begin(&self, client: &Client) -> Arc<Entry> {
            client.cache.entry(&self.content.hash, &self.manifest).unwrap()
        }

        fn fill(&self, client: &Client) {
            self.fill_but(client, "", "");
        }

        /// Puts it into the cache, but for some chunks that are absent, and some that go bad there.
        fn fill_but(&self, client: &Client, absent: &str, bad: &str) {
            let entry = self.begin(client);
            for ((hash, _), raw) in self.manifest.chunks().zip(self.bytes.chunks(LEN)) {
                let is_in = |letters: &str| letters.as_bytes().contains(&raw[0]);
                let mut raw = raw.to_vec();
                raw[LEN / 2] ^= u8::from(is_in(bad));
                if !is_in(absent) {
                    entry.put(&hash, &raw).unwrap();
                }
            }
        }

        fn as_node(&self, id: u8, name: &str) -> Node {
            let author = DeviceId::from_bytes([2; 16]);
            Node {
                id: NodeId::from_bytes([id; 16]),
                rev: 1,
                kind: NodeKind::File,
                deleted: false,
                names: vec![Placement { parent: NodeId::ROOT, name: Name::try_from(name).unwrap() }],
                attrs: Attrs { mode: 0o644, mtime: Timestamp(5) },
                xattrs: Xattrs::default(),
                content: Some(self.content.clone()),
                target: None,
                author,
                content_rev: 1,
                content_author: author,
                changed: None,
            }
        }

        fn formers(&self, client: &Client) -> Vec<ContentHash> {
            let formers = client.formers.of(&self.content.hash);
            formers.map_or(Vec::new(), |formers| formers.iter().map(|former| former.hash).collect())
        }
    }

    struct Rig {
        client: Arc<Client>,
        _dir: tempfile::TempDir,
        _runtime: Runtime,
    }

    /// A client of a server that cannot be reached, with a cache of 1 MiB.
    fn rig() -> Rig {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        client.cache.settle();
        Rig { client, _dir: dir, _runtime: runtime }
    }

    impl Rig {
        /// What the feed brings, one node at a time.
        fn news(&self, seq: u64, node: Node) {
            self.client.note_formers(std::slice::from_ref(&node));
            let mut engine = self.client.engine.write();
            let cursor = Cursor { epoch: Epoch::from_bytes([7; 16]), seq, tag: 1 };
            let folder = FolderId::from_bytes([9; 16]);
            let nodes = vec![Node { rev: seq, content_rev: seq, ..node }];
            let page = ChangesPage {
                folder,
                cursor,
                more: false,
                nodes,
                devices: Vec::new(),
                own: None,
                wanted: Vec::new(),
                touched: Vec::new(),
                owners: None,
            };
            let asked = engine.next_page();
            engine.page(asked, page);
            while engine.poll(Timestamp(9)).is_some() {}
        }

        /// Copies what it can, and says the letters of the chunks that it cannot.
        fn copy(&self, version: &Version) -> String {
            let Some(formers) = self.client.formers.of(&version.content.hash) else { return "nothing is known".into() };
            let chunks: Vec<_> = version.manifest.chunks().collect();
            let left = self.client.copy_from(&formers, &version.begin(&self.client), &chunks);
            let letter = |left: &(ChunkHash, u32)| chunks.iter().position(|chunk| chunk == left).unwrap();
            left.iter().map(|left| version.bytes[letter(left) * LEN] as char).collect()
        }

        /// The bytes that are here of a version, which must be its own.
        fn check(&self, version: &Version, missing: &str) {
            let entry = version.begin(&self.client);
            for (index, expected) in version.bytes.chunks(LEN).enumerate() {
                let mut found = vec![0; LEN];
                let read = entry.read_at(&mut found, (index * LEN) as u64);
                let is_missing = missing.as_bytes().contains(&expected[0]);
                assert_eq!(read.is_err(), is_missing, "chunk {index}");
                assert!(is_missing || found == expected, "chunk {index}");
            }
        }
    }

    #[test]
    fn the_fullest_come_first_and_what_an_absent_one_replaced_counts_for_it() {
        let formers = Formers::default();
        let versions: Vec<Arc<Content>> =
            ["a", "b", "c", "d", "e", "f", "g"].map(|letters| Arc::new(version(letters).content)).to_vec();
        let hash = |index: usize| versions[index].hash;
        let known = |index: usize| formers.of(&hash(index)).map(|found| Vec::from_iter(found.iter().map(|it| it.hash)));
        formers.note(hash(1), vec![versions[0].clone()], |_| None);
        assert_eq!(known(1), None, "nothing of it is here");
        formers.note(hash(1), vec![versions[0].clone()], |_| Some(5));
        formers.note(hash(2), vec![versions[1].clone()], |found| (*found == hash(0)).then_some(5));
        assert_eq!(known(2), Some(vec![hash(0)]), "the last is not here, the one before is");
        formers.note(hash(3), vec![versions[2].clone()], |found| Some(if *found == hash(0) { 5 } else { 1 }));
        assert_eq!(known(3), Some(vec![hash(0), hash(2)]));
        for index in 4..7 {
            formers.note(hash(index), vec![versions[index - 1].clone()], |found| {
                Some(if *found == hash(0) { 5 } else { 1 })
            });
        }
        let last = known(6).unwrap();
        assert_eq!((last.len(), last[0]), (FORMERS_MAX, hash(0)), "they are bounded, and the best of them stays");
        formers.note(hash(0), vec![versions[6].clone()], |_| Some(1));
        assert!(!known(0).unwrap().contains(&hash(0)), "nothing is made of itself");
        for number in 0..CONTENTS_MAX as u32 {
            formers.note(ContentHash::of(&number.to_le_bytes()), vec![versions[0].clone()], |_| Some(1));
        }
        assert_eq!(known(6), None);
    }

    #[test]
    fn a_new_version_and_a_new_file_in_its_place_take_chunks_of_what_was_there() {
        let rig = rig();
        let (old, new, saved) = (version("abcd"), version("abxcd"), version("dyxcba"));
        rig.news(1, old.as_node(1, "file"));
        assert_eq!(old.formers(&rig.client), []);
        old.fill(&rig.client);
        rig.news(2, new.as_node(1, "file"));
        assert_eq!(new.formers(&rig.client), [old.content.hash]);
        assert_eq!(rig.copy(&new), "x");
        rig.check(&new, "x");
        rig.news(3, saved.as_node(2, "saved"));
        assert_eq!(saved.formers(&rig.client), [], "it stands in nobody's place");
        rig.news(4, saved.as_node(2, "file"));
        assert_eq!(saved.formers(&rig.client).len(), 2);
        assert_eq!(rig.copy(&saved), "yx");
        rig.check(&saved, "yx");
        rig.client.cache.remove(&old.content.hash).unwrap();
        rig.client.cache.remove(&saved.content.hash).unwrap();
        assert_eq!(rig.copy(&saved), "yx", "of the second version the same parts are here");
    }

    #[test]
    fn small_files_and_versions_that_are_the_same_are_not_remembered() {
        let rig = rig();
        let (small, old) = (version("ab"), version("abc"));
        rig.news(1, small.as_node(1, "file"));
        small.fill(&rig.client);
        rig.news(2, old.as_node(1, "file"));
        assert_eq!(old.formers(&rig.client), []);
        old.fill(&rig.client);
        rig.news(3, old.as_node(1, "renamed"));
        assert_eq!(old.formers(&rig.client), []);
        rig.news(4, small.as_node(1, "renamed"));
        assert_eq!(small.formers(&rig.client), []);
    }

    #[test]
    fn who_reads_gets_what_is_here_without_a_server_and_asks_for_no_parts_of_it() {
        let rig = rig();
        let (old, new) = (version("abcd"), version("bcxd"));
        rig.news(1, old.as_node(1, "file"));
        old.fill_but(&rig.client, "d", "");
        rig.news(2, new.as_node(1, "file"));
        let entry = new.begin(&rig.client);
        let is_shared = |letter| rig.client.is_shared(&entry, &ChunkHash::of(&raw(letter)), LEN as u32);
        assert_eq!([b'b', b'c', b'x', b'd'].map(is_shared), [true, true, false, false]);
        let mut found = vec![0; 2 * LEN];
        let deadline = Instant::now() + Duration::from_secs(60);
        let len = rig.client.read_content(&new.content, 0, &mut found, 0, deadline).unwrap();
        assert!(len == found.len() && found == new.bytes[..2 * LEN]);
        assert!(rig.client.read_content(&new.content, 2 * LEN as u64, &mut found, 0, Instant::now()).is_err());
        rig.check(&new, "xd");
    }

    #[test]
    fn what_is_damaged_or_gone_is_not_copied() {
        let rig = rig();
        let (old, new) = (version("abcd"), version("abcdx"));
        rig.news(1, old.as_node(1, "file"));
        old.fill_but(&rig.client, "", "b");
        rig.news(2, new.as_node(1, "file"));
        assert_eq!(rig.copy(&new), "bx");
        rig.check(&new, "bx");
        rig.client.cache.remove(&new.content.hash).unwrap();
        rig.client.cache.remove(&old.content.hash).unwrap();
        assert_eq!(rig.copy(&new), "abcdx");
    }

    /// Two contents that are open, in a cache with room for one: each chunk of one takes the place of one of the other.
    #[test]
    fn a_read_beside_which_parts_go_gets_all_that_it_wants_or_nothing() {
        let rig = rig();
        let (one, other) = (version("abcdefgh"), version("ijklmnop"));
        let client = &rig.client;
        let _open = [one.begin(client), other.begin(client)];
        let done = std::sync::atomic::AtomicBool::new(false);
        let is_done = || done.load(std::sync::atomic::Ordering::Relaxed);
        std::thread::scope(|scope| {
            let readers = [&one, &other].map(|version| {
                scope.spawn(move || {
                    let (mut reads, mut buf) = (0, vec![0; 3 * LEN]);
                    while !is_done() {
                        for at in (0..5).map(|at| at * LEN) {
                            let Some(len) = client.read_local(&version.content, at as u64, &mut buf).unwrap() else {
                                continue;
                            };
                            assert!(len == buf.len() && buf == version.bytes[at..at + len], "{len} bytes at {at}");
                            reads += 1;
                        }
                    }
                    reads
                })
            });
            let end = Instant::now() + Duration::from_secs(1);
            while Instant::now() < end {
                one.fill(client);
                other.fill(client);
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let reads: Vec<u32> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
            assert!(reads.iter().any(|reads| *reads > 0), "{reads:?}");
        });
    }

    #[test]
    fn in_a_cache_for_one_of_them_the_old_version_makes_room_for_the_new_one() {
        let rig = rig();
        let (old, new) = (version("abcdefgh"), version("hgfedcba"));
        rig.news(1, old.as_node(1, "file"));
        old.fill(&rig.client);
        rig.news(2, new.as_node(1, "file"));
        // Two chunks fit beside the old version. The third is in hand when it goes.
        assert_eq!(rig.copy(&new), "edcba");
        rig.check(&new, "edcba");
        assert!(rig.client.cache.used() <= rig.client.cache.limit());
        assert_eq!(rig.client.cache.stored(&old.content.hash), None);
    }
}
