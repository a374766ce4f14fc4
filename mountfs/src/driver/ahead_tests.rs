//! Files that are followed end as the same contents as others, and nothing of them is sent twice.

use super::*;
use crate::files::OpenFile;
use crate::ports::{Changes, ChunkSink, Difference, Part, Remote, RemoteError, Reply, Speaker};
use bytes::Bytes;
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use syncmount_common::protocol::changes::Ask;
use syncmount_common::protocol::chunks::{Alike, PutReply};
use syncmount_common::protocol::commit::{CommitRequest, Committed};
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_common::{Attrs, ContentHash, Extent, Manifest, Name, Timestamp, envelope};
use syncmount_engine::{Body, Draft, FileBody, PrepareAnswer};
use tokio::runtime::Runtime;

const MIB: u64 = 1024 * 1024;

type Hook = Box<dyn FnOnce() + Send>;

/// A server that takes chunks.
#[derive(Default)]
struct Taking {
    /// How often each was sent.
    sent: Mutex<HashMap<ChunkHash, u32>>,
    is_away: AtomicBool,
    /// Done once, before the next chunks are taken.
    on_put: Mutex<Option<Hook>>,
}

impl Taking {
    fn count(&self) -> usize {
        self.sent.lock().len()
    }

    fn assert_nothing_twice(&self) {
        assert!(self.sent.lock().values().all(|times| *times == 1), "a chunk was sent twice");
    }

    fn answer<T: Send + 'static>(&self, answer: T) -> Reply<'_, T> {
        let away = self.is_away.load(Ordering::SeqCst);
        let answer = if away { Err(RemoteError::Unreachable(String::new())) } else { Ok(answer) };
        Box::pin(async { answer })
    }
}

fn nowhere<'a, T: 'a>() -> Reply<'a, T> {
    Box::pin(async { Err(RemoteError::Unreachable(String::new())) })
}

impl Remote for Taking {
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
        false
    }
    fn missing<'a>(&'a self, chunks: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
        let sent = self.sent.lock();
        self.answer(chunks.iter().filter(|hash| !sent.contains_key(hash)).copied().collect())
    }
    fn put<'a>(&'a self, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
        if let Some(act) = self.on_put.lock().take() {
            act();
        }
        if !self.is_away.load(Ordering::SeqCst) {
            for (hash, sealed) in chunks {
                envelope::open(hash, sealed).unwrap();
                *self.sent.lock().entry(*hash).or_default() += 1;
            }
        }
        self.answer(PutReply { received: 0, stored: 0 })
    }
    fn fetch_alike<'a>(
        &'a self,
        _: &'a [ChunkHash],
        _: &'a [Alike],
        _: &'a mut ChunkSink<'_>,
    ) -> Reply<'a, Vec<Difference>> {
        nowhere()
    }
    fn part<'a>(&'a self, _: &'a ChunkHash, _: Range<u32>) -> Reply<'a, Part> {
        nowhere()
    }
    fn manifest<'a>(&'a self, _: &'a ContentHash, _: Option<&'a Manifest>) -> Reply<'a, Manifest> {
        nowhere()
    }
}

fn noise(len: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = vec![0; len.next_multiple_of(8) as usize];
    for piece in bytes.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        piece.copy_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len as usize);
    bytes
}

/// One client and one file that somebody writes.
struct Desk {
    file: Arc<OpenFile>,
    client: Arc<Client>,
    server: Arc<Taking>,
    _dir: tempfile::TempDir,
    _runtime: Runtime,
}

impl Desk {
    fn new() -> Self {
        Self::of("video.mp4")
    }

    fn of(name: &str) -> Self {
        let (runtime, dir) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
        let server = Arc::new(Taking::default());
        let client = open(dir.path(), &server, &runtime);
        let file = make(&client, name);
        Self { file, client, server, _dir: dir, _runtime: runtime }
    }

    fn write(&self, at: u64, data: &[u8]) {
        for (number, piece) in data.chunks(MIB as usize).enumerate() {
            self.client.write(&self.file, at + number as u64 * MIB, piece).unwrap();
        }
    }

    fn staging(&self) -> StagingFile {
        match &self.file.inner.read().backing {
            Backing::Draft(overlay) => overlay.staging.clone().unwrap(),
            Backing::Clean(_) => panic!("it is no draft"),
        }
    }

    fn followed(&self) -> Arc<Followed> {
        self.client.followers.get(self.staging().id).expect("it is followed")
    }

    /// A look at what was written so far, whoever is waited for.
    fn look(&self) {
        self.client.look_ahead(&self.followed());
    }

    fn end(&self) -> u64 {
        self.followed().state.lock().ahead.end
    }

    fn prepare(&self, upload: bool) -> Arc<Content> {
        self.client.tell(&self.file).unwrap();
        let (node, generation) = {
            let inner = self.file.inner.read();
            (inner.node, inner.generation)
        };
        match self.client.prepare(node, generation, upload) {
            PrepareAnswer::Ready(content) => content,
            other => panic!("{other:?}"),
        }
    }

    /// It is prepared as a file is that nobody has followed.
    fn assert_as_ever(&self) {
        let content = self.prepare(false);
        let staging = self.staging().id;
        assert!(self.client.followers.files.lock().remove(&staging).is_some(), "it was followed");
        let expected = self.prepare(false);
        assert_eq!(content.hash, expected.hash);
        assert_eq!(content.sha256, expected.sha256);
        assert!(content.sha256.is_some() || content.size > 6 << 30, "only of one with a long hole it is not known");
        self.server.assert_nothing_twice();
        let sent = self.server.sent.lock();
        assert!(self.manifest(&content).chunks().all(|(hash, _)| sent.contains_key(&hash)), "not all was sent");
    }

    fn manifest(&self, content: &Content) -> Arc<Manifest> {
        self.client.manifest_here(content).unwrap()
    }
}

fn open(dir: &Path, server: &Arc<Taking>, runtime: &Runtime) -> Arc<Client> {
    let client = Client::open_store(dir, 1 << 20, "here", "me", server.clone(), runtime.handle().clone()).unwrap();
    client.link.up();
    client
}

fn make(client: &Arc<Client>, name: &str) -> Arc<OpenFile> {
    let body = Body::File(FileBody::Draft(Box::new(Draft::empty())));
    let attrs = Attrs { mode: 0o644, mtime: Timestamp(0) };
    let name = Name::try_from(name).unwrap();
    let node = client.change(|engine, now| engine.create(NodeId::ROOT, name, attrs, body, now)).unwrap().unwrap();
    client.open(node, true).unwrap()
}

#[test]
fn what_was_cut_while_it_was_written_is_not_read_again() {
    let desk = Desk::new();
    let bytes = noise(30 * MIB + 12_345, 1);
    desk.write(0, &bytes[..20 * MIB as usize]);
    desk.look();
    let early = desk.server.count();
    assert!((20 * MIB - 1024 * 1024..=20 * MIB).contains(&desk.end()) && early > 40, "{early} chunks");
    desk.write(20 * MIB, &bytes[20 * MIB as usize..]);
    // Nobody does this: who read the file here again would find it.
    crate::system::at::write_all_at(&desk.staging().file, &[0; 4096], 5 * MIB).unwrap();
    let content = desk.prepare(false);
    let mut whole = FileHasher::default();
    whole.update(&bytes);
    assert_eq!(content.sha256, Some(whole.finish()));
    desk.server.assert_nothing_twice();
    assert!(desk.server.count() > early);
    crate::system::at::write_all_at(&desk.staging().file, &bytes[5 * MIB as usize..][..4096], 5 * MIB).unwrap();
    desk.assert_as_ever();
}

#[test]
fn a_head_that_is_written_anew_costs_its_chunks_only() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 2));
    desk.look();
    let (end, early) = (desk.end(), desk.server.count());
    for number in 0..100 {
        desk.write(8, &[number; 32]);
        desk.look();
    }
    assert_eq!((desk.end(), desk.server.count()), (end, early), "it is not cut again");
    desk.write(20 * MIB, &noise(12 * MIB, 3));
    desk.look();
    assert!(desk.end() > end, "what comes behind is");
    desk.write(32 * MIB, b"the end");
    let before = desk.server.count();
    desk.assert_as_ever();
    assert!(desk.server.count() - before < 10, "the first chunk and the last ones");
}

#[test]
fn what_is_cut_off_or_made_zeros_is_not_known_any_more() {
    let desk = Desk::new();
    desk.write(0, &noise(24 * MIB, 4));
    desk.look();
    desk.client.set_size(&desk.file, 9 * MIB + 77).unwrap();
    desk.write(9 * MIB + 77, &noise(3 * MIB, 5));
    desk.client.zero(&desk.file, 2 * MIB..5 * MIB).unwrap();
    desk.assert_as_ever();
}

#[test]
fn a_file_that_is_cut_and_written_anew_is_the_new_one() {
    let desk = Desk::new();
    desk.write(0, &noise(24 * MIB, 6));
    desk.look();
    desk.client.set_size(&desk.file, 0).unwrap();
    desk.write(0, &noise(40 * MIB, 7));
    desk.look();
    desk.assert_as_ever();
}

#[test]
fn what_is_changed_while_it_is_sent_counts_as_changed() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 8));
    let (client, file) = (desk.client.clone(), desk.file.clone());
    let change = move || client.write(&file, 3 * MIB, b"other bytes").unwrap();
    *desk.server.on_put.lock() = Some(Box::new(change));
    desk.look();
    assert!(desk.server.on_put.lock().is_none());
    let followed = desk.followed();
    let (end, known) = {
        let state = followed.state.lock();
        let at = state.ahead.chunks.range(..=3 * MIB).next_back().map(|(start, (_, len))| start + u64::from(*len));
        (state.ahead.end, at)
    };
    assert!(end > 18 * MIB && known.is_some_and(|known| known <= 3 * MIB), "{known:?}");
    desk.assert_as_ever();
}

#[test]
fn who_prepares_it_waits_for_what_is_on_its_way() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 9));
    desk.client.tell(&desk.file).unwrap();
    let followed = desk.followed();
    let until_wanted = move || {
        while followed.state.lock().preparing == 0 {
            std::thread::yield_now();
        }
    };
    *desk.server.on_put.lock() = Some(Box::new(until_wanted));
    std::thread::scope(|scope| {
        scope.spawn(|| desk.look());
        while desk.followed().state.lock().changed.is_none() {
            std::thread::yield_now();
        }
        desk.prepare(false);
    });
    desk.assert_as_ever();
}

#[test]
fn what_could_not_be_sent_is_sent_when_the_file_is_prepared() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 10));
    desk.server.is_away.store(true, Ordering::SeqCst);
    desk.look();
    desk.server.is_away.store(false, Ordering::SeqCst);
    assert!(desk.followed().state.lock().ahead.chunks.is_empty());
    let end = desk.end();
    desk.write(20 * MIB, &noise(10 * MIB, 11));
    desk.look();
    assert!(end > 0 && desk.end() > end && desk.server.count() > 0, "it is not read again, and it goes on");
    desk.assert_as_ever();
}

#[test]
fn what_the_server_has_lost_meanwhile_is_sent_again() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 12));
    desk.look();
    desk.server.sent.lock().clear();
    let content = desk.prepare(true);
    let sent = desk.server.sent.lock();
    assert!(desk.manifest(&content).chunks().all(|(hash, _)| sent.contains_key(&hash)));
}

#[test]
fn what_stays_here_or_is_gone_is_not_sent() {
    let desk = Desk::of(".video.swp");
    desk.write(0, &noise(20 * MIB, 13));
    desk.look();
    assert_eq!(desk.server.count(), 0);

    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 14));
    let followed = desk.followed();
    let remove = |engine: &mut Engine, now| engine.remove(NodeId::ROOT, b"video.mp4", false, now);
    desk.client.change(remove).unwrap().unwrap();
    desk.client.look_ahead(&followed);
    assert_eq!(desk.server.count(), 0);
    desk.client.leave_ended();
    assert!(desk.client.followers.files.lock().is_empty());
}

#[test]
fn a_file_with_a_gap_is_followed_up_to_it_and_a_small_one_not() {
    let desk = Desk::new();
    desk.write(0, &noise(4 * MIB, 15));
    assert!(desk.client.followers.files.lock().is_empty());
    desk.write(4 * MIB, &noise(9 * MIB, 16));
    desk.write(30 * MIB, &noise(9 * MIB, 17));
    desk.look();
    assert!(desk.end() <= 13 * MIB);
    desk.assert_as_ever();
}

#[test]
fn a_file_that_grows_beyond_a_class_of_sizes_is_cut_as_larger_ones_are() {
    let desk = Desk::new();
    desk.write(0, &noise(20 * MIB, 18));
    desk.look();
    desk.client.set_size(&desk.file, 7 << 30).unwrap();
    desk.write(20 * MIB, &noise(MIB, 19));
    desk.look();
    assert_eq!(desk.followed().state.lock().sizes, ChunkSizes::for_content(7 << 30));
    assert!(desk.end() > 15 * MIB);
    desk.assert_as_ever();
}

#[test]
fn many_files_are_not_followed_at_once() {
    let desk = Desk::new();
    let bytes = noise(8 * MIB, 20);
    let files: Vec<_> = (0..FILES_MAX + 3).map(|number| make(&desk.client, &number.to_string())).collect();
    files.iter().for_each(|file| desk.client.write(file, 0, &bytes).unwrap());
    assert_eq!(desk.client.followers.files.lock().len(), FILES_MAX);
}

#[test]
fn who_writes_fast_is_not_followed() {
    let begin = Instant::now();
    let after = |ms| begin + Duration::from_millis(ms);
    let mut pace = Pace { since: begin, at: 0 };
    assert_eq!(pace.is_slow(500 * MIB, after(100)), None, "a moment says nothing");
    assert_eq!(pace.is_slow(500 * MIB, after(500)), Some(false));
    assert_eq!(pace.is_slow(550 * MIB, after(1500)), Some(true));
    assert_eq!(pace.is_slow(10 * MIB, after(2000)), Some(true), "it has become shorter");
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Write(u64, u64),
    Cut(u64),
    Zero(u64, u64),
    Look,
    Prepare,
}

fn step() -> impl Strategy<Value = Step> {
    let at = 0..30 * MIB;
    prop_oneof![
        4 => (1..9 * MIB).prop_map(Step::Append),
        2 => (at.clone(), 1..300_000u64).prop_map(|(at, len)| Step::Write(at, len)),
        1 => at.clone().prop_map(Step::Cut),
        1 => (at, 1..3 * MIB).prop_map(|(at, len)| Step::Zero(at, len)),
        4 => Just(Step::Look),
        1 => Just(Step::Prepare),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn whatever_is_done_meanwhile_the_content_is_the_same(steps in proptest::collection::vec(step(), 4..16)) {
        let desk = Desk::new();
        desk.write(0, &noise(17 * MIB, 99));
        desk.look();
        for (number, step) in (100..).zip(steps) {
            let size = desk.file.inner.read().backing.size();
            match step {
                Step::Append(len) => desk.write(size, &noise(len, number)),
                Step::Write(at, len) => desk.write(at.min(size), &noise(len, number)),
                Step::Cut(at) => desk.client.set_size(&desk.file, at.min(size)).unwrap(),
                Step::Zero(at, len) => desk.client.zero(&desk.file, at..at + len).unwrap(),
                Step::Look => desk.look(),
                Step::Prepare => drop(desk.prepare(false)),
            }
        }
        let content = desk.prepare(false);
        let staging = desk.staging().id;
        desk.client.followers.files.lock().remove(&staging);
        let expected = desk.prepare(false);
        prop_assert_eq!((content.hash, content.sha256), (expected.hash, expected.sha256));
        desk.server.assert_nothing_twice();
    }
}

impl Desk {
    /// Makes the file as long as no disk could hold it.
    fn stretch(&self, size: u64) {
        let stretch = |inner: &mut Inner| {
            let Backing::Draft(overlay) = &mut inner.backing else { panic!("a draft") };
            overlay.size = size;
            Ok(())
        };
        self.client.edit(&self.file, &Change::Size(size), stretch).unwrap();
    }

    fn extents(&self, content: &Content) -> Vec<Extent> {
        self.manifest(content).extents().to_vec()
    }
}

#[test]
fn a_hole_costs_one_step_however_long_it_is() {
    const LARGEST: u64 = syncmount_common::manifest::FILE_SIZE_MAX;
    let desk = Desk::new();
    desk.write(0, b"begin");
    desk.stretch(LARGEST);
    let content = desk.prepare(false);
    assert_eq!((content.size, content.sha256), (LARGEST, None));
    let begin = Extent::Chunk { hash: ChunkHash::of(b"begin"), len: 5 };
    assert_eq!(desk.extents(&content), [begin, Extent::Hole { len: LARGEST - 5 }]);
    // More than may travel is refused, and takes no longer.
    desk.stretch(5 << 60);
    desk.client.tell(&desk.file).unwrap();
    let (node, generation) = {
        let inner = desk.file.inner.read();
        (inner.node, inner.generation)
    };
    let refused = desk.client.prepare(node, generation, false);
    assert!(matches!(&refused, PrepareAnswer::Failed(why) if why.contains("too large")), "{refused:?}");
}

#[test]
fn a_hole_of_the_content_beneath_costs_one_step() {
    const LEN: u64 = 1 << 52;
    const AT: u64 = 1 << 40;
    let desk = Desk::new();
    let chunk = |bytes: &[u8]| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 };
    let manifest = Manifest::new(vec![chunk(b"base"), Extent::Hole { len: LEN }]).unwrap();
    let mut overlay = Overlay::over(Arc::new(Content::of(manifest.clone(), None)));
    desk.write(0, b"a staging file");
    crate::system::at::write_all_at(&desk.staging().file, &[1; 10], AT).unwrap();
    (overlay.staging, overlay.size) = (Some(desk.staging()), LEN + 4 + 100_000);
    overlay.wrote(AT..AT + 10);
    let mut cutter = Cutter::new(&desk.client, &overlay, false, None);
    cutter.change(&manifest, || Ok(())).unwrap();
    let (changed, sha256) = cutter.finish().unwrap();
    assert_eq!(sha256, None);
    let behind = Extent::Hole { len: overlay.size - AT - 10 };
    assert_eq!(changed.extents(), [chunk(b"base"), Extent::Hole { len: AT - 4 }, chunk(&[1; 10]), behind]);
    // A reader of everything, since it is all here, passes over it too.
    let mut cutter = Cutter::new(&desk.client, &overlay, false, None);
    cutter.holes = desk.client.holes_beneath(&overlay).unwrap();
    assert_eq!((cutter.data_end(0), cutter.long_hole(4).unwrap()), (4, Some(AT)));
    assert_eq!((cutter.data_end(AT), cutter.long_hole(AT + 10).unwrap()), (AT + 10, Some(overlay.size)));
}
