//! Which chunk is named, and that the right bytes come whatever becomes of it.

use super::*;
use crate::ports::{Changes, Part, Remote, Reply, Speaker};
use bytes::Bytes;
use std::ops::Range;
use std::time::{Duration, Instant};
use syncmount_common::ContentHash;
use syncmount_common::protocol::changes::Ask;
use syncmount_common::protocol::chunks::PutReply;
use syncmount_common::protocol::commit::{CommitRequest, Committed};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::folders::FolderInfo;
use tokio::runtime::Runtime;

const LEN: usize = 100_000;

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(next).collect()
}

/// Extents from pairs: which chunk, 0 for a hole, and how long.
fn manifest(parts: &[(u8, u32)]) -> Manifest {
    let extent = |(number, len): &(u8, u32)| match number {
        0 => Extent::Hole { len: u64::from(*len) },
        number => Extent::Chunk { hash: ChunkHash::of(&[*number]), len: *len },
    };
    Manifest::new(parts.iter().map(extent).collect()).unwrap()
}

/// For each wanted chunk of a new version the one of the old that is named, 0 if none is.
fn named(old: &[(u8, u32)], new: &[(u8, u32)], wanted: &[u8]) -> Vec<u8> {
    let (old_manifest, new) = (manifest(old), manifest(new));
    let file = Arc::new(tempfile::tempfile().unwrap());
    let places = Arc::new(Places::new(&old_manifest));
    let former = [Former::new(Source::File(file), &old_manifest, places)];
    let lens: HashMap<_, _> = new.chunks().collect();
    let wanted: Vec<_> = wanted.iter().map(|number| ChunkHash::of(&[*number])).collect();
    let asked: Vec<_> = wanted.iter().map(|hash| (*hash, lens[hash])).collect();
    let found = likely(&new, &asked, &former, &Mutex::default(), |_, _| true);
    let number = |hash: &ChunkHash| old.iter().find(|(number, _)| ChunkHash::of(&[*number]) == *hash).unwrap().0;
    let of =
        |hash: &ChunkHash| found.iter().find(|likely| likely.chunk == *hash).map(|likely| number(&likely.base.hash));
    wanted.iter().map(|hash| of(hash).unwrap_or(0)).collect()
}

#[test]
fn the_chunk_that_stood_there_is_named() {
    const K: u32 = 100_000;
    let old = [(1, K), (2, K), (3, 2 * K), (4, K), (5, K), (6, K)];
    let edited = [(1, K), (2, K), (33, 2 * K), (4, K), (55, K), (6, K)];
    assert_eq!(named(&old, &edited, &[33, 55]), [3, 5], "in its place");
    let longer = [(99, 3 * K), (1, K), (2, K), (33, 2 * K + 9), (4, K), (5, K), (66, K)];
    assert_eq!(named(&old, &longer, &[33, 66]), [3, 6], "moved by what was put in front");
    let split = [(1, K), (2, K), (33, K), (34, K + 7), (4, K), (5, K), (6, K)];
    assert_eq!(named(&old, &split, &[33, 34]), [3, 3], "one has become two");
    let merged = [(1, K), (2, K), (3, 2 * K), (44, 2 * K), (6, K)];
    assert!([4, 5].contains(&named(&old, &merged, &[44])[0]), "two have become one");
    let all = [(11, K), (22, K), (33, 2 * K), (44, K), (55, K), (66, K)];
    assert_eq!(named(&old, &all, &[11, 22, 33, 44, 55, 66]), [1, 2, 3, 4, 5, 6], "changed everywhere, moved nowhere");
    let first = [(11, K - 9), (2, K), (3, 2 * K), (4, K), (5, K), (6, K)];
    assert_eq!(named(&old, &first, &[11]), [1]);
    let longer = [(1, K), (2, K), (3, 2 * K), (4, K), (5, K), (6, K), (77, K)];
    assert_eq!(named(&old, &longer, &[77]), [0], "nothing stood there");
}

#[test]
fn nothing_is_named_that_cannot_be_alike() {
    const K: u32 = 100_000;
    let around = |number, len| [(1, K), (number, len), (3, K)];
    assert_eq!(named(&around(2, K), &around(22, 1000), &[22]), [0], "too short for a difference");
    assert_eq!(named(&around(2, 1000), &around(22, K), &[22]), [0]);
    assert_eq!(named(&around(2, K), &around(22, 5 * K), &[22]), [0], "most of it is new");
    assert_eq!(named(&around(2, 9 * K), &around(22, K), &[22]), [0], "it was a part of much more");
    assert_eq!(named(&around(2, 5 << 20), &around(22, 4 << 20), &[22]), [0], "too long");
    assert_eq!(named(&[(1, K), (0, K), (3, K)], &around(22, K), &[22]), [0], "it was a hole");
    assert_eq!(named(&around(2, K), &[(1, K), (0, 7 * K), (22, K), (3, K)], &[22]), [2], "behind a hole");
    assert_eq!(named(&[], &around(22, K), &[22]), [0]);
}

#[test]
fn who_was_given_nothing_asks_no_more() {
    let mut credit = Credit::default();
    assert_eq!((credit.take(10), credit.take(100), credit.take(1)), (10, CREDIT - 10, 0));
    credit.paid();
    assert_eq!((credit.take(3), credit.take(3)), (2, 0));
    (0..CREDIT_MAX).for_each(|_| credit.paid());
    assert_eq!(credit.take(usize::MAX), CREDIT_MAX);
}

/// What a server makes of a request for differences.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    Right,
    /// Leads to other bytes.
    Lie,
    CutShort,
    Refused,
    /// Before anything comes the other version is evicted.
    Evicted,
}

/// A server that has some chunks.
struct Giving {
    chunks: HashMap<ChunkHash, Vec<u8>>,
    answer: Answer,
    evict: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    asked: Mutex<Vec<Alike>>,
    whole: Mutex<Vec<ChunkHash>>,
}

fn nowhere<'a, T: 'a>() -> Reply<'a, T> {
    Box::pin(async { Err(RemoteError::Unreachable(String::new())) })
}

impl Giving {
    fn tell(&self, chunk: &ChunkHash, alike: &[Alike]) -> Option<Difference> {
        let alike = *alike.iter().find(|alike| alike.chunk == *chunk)?;
        let (beneath, mut raw) = (self.chunks.get(&alike.base)?, self.chunks[chunk].clone());
        raw[7] ^= u8::from(self.answer == Answer::Lie);
        let mut envelope = envelope::seal_against(&alike.base, beneath, &raw)?;
        envelope.truncate(if self.answer == Answer::CutShort { 45 } else { usize::MAX });
        Some(Difference { alike, envelope: envelope.into() })
    }
}

impl Remote for Giving {
    fn folder(&self) -> Reply<'_, FolderInfo> {
        nowhere()
    }
    fn changes(&self, _: Ask, _: Duration, _: u64, _: Option<Speaker>) -> Reply<'_, Changes> {
        nowhere()
    }
    fn commit<'a>(&'a self, _: &'a CommitRequest, _: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed> {
        nowhere()
    }
    fn takes_content_deltas(&self) -> bool {
        false
    }
    fn takes_chunk_deltas(&self) -> bool {
        false
    }
    fn gives_deltas(&self) -> bool {
        true
    }
    fn missing<'a>(&'a self, _: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
        nowhere()
    }
    fn put<'a>(&'a self, _: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
        nowhere()
    }
    fn fetch_alike<'a>(
        &'a self,
        chunks: &'a [ChunkHash],
        alike: &'a [Alike],
        sink: &'a mut ChunkSink<'_>,
    ) -> Reply<'a, Vec<Difference>> {
        self.asked.lock().extend(alike);
        if let Some(evict) = self.evict.lock().take() {
            evict();
        }
        Box::pin(async move {
            let mut told = Vec::new();
            for chunk in chunks {
                if let Some(difference) = self.tell(chunk, alike) {
                    told.push(difference);
                    continue;
                }
                self.whole.lock().push(*chunk);
                sink(*chunk, self.chunks[chunk].clone()).map_err(RemoteError::Local)?;
            }
            match self.answer {
                Answer::Refused if !alike.is_empty() => {
                    Err(RemoteError::Rejected { code: ErrorCode::BadRequest, message: "no".into() })
                }
                _ => Ok(told),
            }
        })
    }
    fn part<'a>(&'a self, _: &'a ChunkHash, _: Range<u32>) -> Reply<'a, Part> {
        nowhere()
    }
    fn manifest<'a>(&'a self, _: &'a ContentHash, _: Option<&'a Manifest>) -> Reply<'a, Manifest> {
        nowhere()
    }
}

/// A version of so many chunks.
struct Version {
    content: Arc<Content>,
    manifest: Arc<Manifest>,
    chunks: Vec<Vec<u8>>,
}

impl Version {
    fn new(chunks: Vec<Vec<u8>>) -> Self {
        let extent = |raw: &Vec<u8>| Extent::Chunk { hash: ChunkHash::of(raw), len: raw.len() as u32 };
        let manifest = Manifest::new(chunks.iter().map(extent).collect()).unwrap();
        Self { content: Arc::new(Content::of(manifest.clone(), None)), manifest: Arc::new(manifest), chunks }
    }

    fn begin(&self, client: &Client) -> Arc<Entry> {
        client.cache.entry(&self.content.hash, &self.manifest).unwrap()
    }
}

struct Rig {
    client: Arc<Client>,
    server: Arc<Giving>,
    old: Version,
    new: Version,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Rig {
    fn new(answer: Answer, old: Version, new: Version) -> Self {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let chunks = old.chunks.iter().chain(&new.chunks).map(|raw| (ChunkHash::of(raw), raw.clone())).collect();
        let (evict, asked, whole) = (Mutex::default(), Mutex::default(), Mutex::default());
        let server = Arc::new(Giving { chunks, answer, evict, asked, whole });
        let remote: Arc<dyn Remote> = server.clone();
        let client = Client::open_store(dir.path(), 16 << 20, "here", "me", remote, runtime.handle().clone()).unwrap();
        client.cache.settle();
        client.formers.note(new.content.hash, vec![old.content.clone()], |_| Some(1));
        Self { client, server, old, new, _dir: dir, _runtime: runtime }
    }

    /// A version of which one chunk is changed a little in the next.
    fn edited(answer: Answer) -> Self {
        let old: Vec<_> = (0..5).map(|seed| noise(LEN, seed + 1)).collect();
        let mut new = old.clone();
        new[2][LEN / 2..LEN / 2 + 50].fill(9);
        Self::new(answer, Version::new(old), Version::new(new))
    }

    fn fill_old(&self, bad: Option<usize>) {
        let entry = self.old.begin(&self.client);
        for (index, raw) in self.old.chunks.iter().enumerate() {
            let (hash, mut raw) = (ChunkHash::of(raw), raw.clone());
            raw[LEN / 3] ^= u8::from(bad == Some(index));
            entry.put(&hash, &raw).unwrap();
        }
    }

    /// Reads the new version, and says how many chunks were asked for as differences and how many came whole.
    fn read(&self) -> (usize, usize) {
        let expected = self.new.chunks.concat();
        let mut found = vec![0; expected.len()];
        let deadline = Instant::now() + Duration::from_secs(60);
        let len = self.client.read_content(&self.new.content, 0, &mut found, 0, deadline).unwrap();
        assert!(len == expected.len() && found == expected, "other bytes");
        (self.server.asked.lock().len(), self.server.whole.lock().len())
    }
}

#[test]
fn a_chunk_is_made_of_the_one_that_stood_there_and_a_difference() {
    let rig = Rig::edited(Answer::Right);
    rig.fill_old(None);
    assert_eq!(rig.read(), (1, 0));
    let [asked] = rig.server.asked.lock().clone().try_into().unwrap();
    assert_eq!(asked.base, ChunkHash::of(&rig.old.chunks[2]));
}

#[test]
fn whatever_is_wrong_with_a_difference_the_chunk_comes_whole() {
    for answer in [Answer::Lie, Answer::CutShort, Answer::Refused] {
        let rig = Rig::edited(answer);
        rig.fill_old(None);
        assert_eq!(rig.read(), (1, 1), "{answer:?}");
    }
}

#[test]
fn what_became_of_the_chunk_that_was_named_does_no_harm() {
    let rig = Rig::edited(Answer::Right);
    rig.fill_old(Some(2));
    assert_eq!(rig.read(), (1, 1), "it went bad");

    let rig = Rig::edited(Answer::Evicted);
    rig.fill_old(None);
    let (client, old) = (rig.client.clone(), rig.old.content.hash);
    *rig.server.evict.lock() = Some(Box::new(move || client.cache.remove(&old).unwrap()));
    assert_eq!(rig.read(), (1, 1), "it was evicted after it was named");

    let rig = Rig::edited(Answer::Right);
    assert_eq!(rig.read(), (0, 5), "it was not there");
}

#[test]
fn of_a_file_that_is_another_few_differences_are_asked_for() {
    let version = |seed: u64| Version::new((0..60).map(|chunk| noise(LEN, seed + chunk)).collect());
    let rig = Rig::new(Answer::Right, version(1), version(1000));
    rig.fill_old(None);
    assert_eq!(rig.read(), (CREDIT, 60));
}

#[test]
fn of_a_file_that_is_changed_everywhere_many_differences_come() {
    let old: Vec<_> = (0..60).map(|seed| noise(LEN, seed + 1)).collect();
    let mut new = old.clone();
    new.iter_mut().for_each(|raw| raw[LEN / 2] ^= 1);
    let rig = Rig::new(Answer::Right, Version::new(old), Version::new(new));
    rig.fill_old(None);
    let (asked, whole) = rig.read();
    assert!(asked + whole == 60 && asked >= CREDIT, "{asked} asked for, {whole} whole");
}

#[test]
fn a_chunk_is_made_of_a_file_as_it_is_found() {
    let rig = Rig::edited(Answer::Right);
    let file = Arc::new(tempfile::tempfile().unwrap());
    let former = |file: &Arc<File>| {
        let places = Arc::new(Places::new(&rig.old.manifest));
        [Former::new(Source::File(file.clone()), &rig.old.manifest, places)]
    };
    let (wanted, credit) = ([(ChunkHash::of(&rig.new.chunks[2]), LEN as u32)], Mutex::default());
    let fetch = |file: &Arc<File>| {
        let likely = likely(&rig.new.manifest, &wanted, &former(file), &credit, |_, _| true);
        let mut came = Vec::new();
        let mut sink = |_, raw| {
            came = raw;
            Ok(())
        };
        let chunks = [wanted[0].0];
        rig.client.runtime.block_on(rig.client.fetch_told(&chunks, likely, &credit, &mut sink)).unwrap();
        assert!(came == rig.new.chunks[2], "other bytes");
        rig.server.whole.lock().len()
    };
    at::write_all_at(&file, &rig.old.chunks.concat(), 0).unwrap();
    assert_eq!(fetch(&file), 0);
    at::write_all_at(&file, b"written meanwhile", 2 * LEN as u64 + 5).unwrap();
    assert_eq!(fetch(&file), 1);
    file.set_len(2 * LEN as u64 + 1000).unwrap();
    assert_eq!(fetch(&file), 2);
}
