//! The cache with contents of a few blocks, and limits that make it sweat.

use super::*;
use crate::store::disk::write_all_at;
use proptest::prelude::*;
use std::collections::HashMap;
use std::fs;
use syncmount_common::ChunkHash;

const BLOCK: usize = 4096;

/// Wine knows nothing of holes: there a partial content counts in full, and what is given back stays in the file.
const HOLES: bool = cfg!(unix);

/// A content that a test knows all about.
#[derive(Clone)]
struct Content {
    hash: ContentHash,
    manifest: Arc<Manifest>,
    chunks: HashMap<ChunkHash, Vec<u8>>,
    bytes: Vec<u8>,
}

/// One letter an extent: a space is a hole, every other letter a chunk of one block of it.
fn content(letters: &str) -> Content {
    let (mut extents, mut chunks, mut bytes) = (Vec::new(), HashMap::new(), Vec::new());
    for letter in letters.bytes() {
        let raw = vec![if letter == b' ' { 0 } else { letter }; BLOCK];
        bytes.extend_from_slice(&raw);
        if letter == b' ' {
            extents.push(Extent::Hole { len: BLOCK as u64 });
        } else {
            let hash = ChunkHash::of(&raw);
            extents.push(Extent::Chunk { hash, len: BLOCK as u32 });
            chunks.insert(hash, raw);
        }
    }
    let manifest = Manifest::new(extents).unwrap();
    Content { hash: manifest.content_hash(), manifest: Arc::new(manifest), chunks, bytes }
}

impl Content {
    fn begin(&self, cache: &Cache) -> Arc<Entry> {
        cache.entry(&self.hash, &self.manifest).unwrap()
    }

    fn fill(&self, cache: &Cache) -> Arc<Entry> {
        let entry = self.begin(cache);
        self.chunks.iter().for_each(|(hash, raw)| entry.put(hash, raw).unwrap());
        entry
    }

    /// Reads as a client does: what is missing is fetched, then it is there.
    fn read(&self, entry: &Entry, range: std::ops::Range<usize>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < range.len() {
            let at = range.start + out.len();
            for (_, chunk, _) in entry.missing(at as u64..at as u64 + 1) {
                entry.put(&chunk, &self.chunks[&chunk])?;
            }
            let mut buf = vec![0; range.end - at];
            let count = entry.read_at(&mut buf, at as u64)?;
            assert!(count > 0);
            out.extend_from_slice(&buf[..count]);
        }
        Ok(out)
    }
}

fn cache(dir: &Path, blocks: u64) -> Cache {
    let cache = Cache::open(dir, blocks * BLOCK as u64, false).unwrap();
    cache.settle();
    cache
}

fn blocks(cache: &Cache) -> u64 {
    cache.used() / BLOCK as u64
}

fn kind<T: std::fmt::Debug>(result: io::Result<T>) -> io::ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn parts_arrive_in_any_order_and_make_a_whole() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let file = content("ab ca");
    assert!(cache.get(&file.hash).is_none());
    let entry = file.begin(&cache);
    assert_eq!((entry.size(), entry.is_whole()), (5 * BLOCK as u64, false));
    let missing = entry.missing(0..u64::MAX);
    assert_eq!(missing.iter().map(|(index, ..)| *index).collect::<Vec<_>>(), [0, 1, 3, 4]);
    let mut buf = vec![1; 2 * BLOCK];
    assert_eq!(kind(entry.read_at(&mut buf, 0)), io::ErrorKind::WouldBlock);
    assert_eq!(entry.read_at(&mut buf, 2 * BLOCK as u64 + 5).unwrap(), BLOCK - 5, "the hole is there by nature");
    assert!(buf[..BLOCK - 5].iter().all(|byte| *byte == 0));
    let a = missing[0].1;
    entry.put(&a, &file.chunks[&a]).unwrap();
    assert_eq!(entry.missing(0..u64::MAX).len(), 2, "it was written at both of its places");
    assert_eq!(entry.read_at(&mut buf, 0).unwrap(), BLOCK, "as far as the first part that is missing");
    assert_eq!(blocks(&cache), 2);
    file.fill(&cache);
    assert!(entry.is_whole() && entry.missing(0..u64::MAX).is_empty());
    assert_eq!(fs::read(cache.core.layout.object(&file.hash)).unwrap(), file.bytes);
    assert!(!cache.core.layout.partial(&file.hash).exists());
    assert_eq!(entry.read_at(&mut buf, 5 * BLOCK as u64).unwrap(), 0);
    assert_eq!(file.read(&entry, 100..5 * BLOCK - 1).unwrap(), file.bytes[100..5 * BLOCK - 1]);
    assert_eq!(entry.file().metadata().unwrap().permissions().readonly(), cfg!(unix));
}

#[test]
fn equal_contents_share_one_entry_and_what_does_not_belong_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let (one, other) = (content("ab"), content("cd"));
    assert!(Arc::ptr_eq(&one.begin(&cache), &one.begin(&cache)));
    let (stranger, raw) = other.chunks.iter().next().unwrap();
    assert_eq!(kind(one.begin(&cache).put(stranger, raw)), io::ErrorKind::InvalidInput);
    let known = one.chunks.keys().next().unwrap();
    assert_eq!(kind(one.begin(&cache).put(known, b"short")), io::ErrorKind::InvalidInput);
    assert_eq!(kind(cache.entry(&other.hash, &one.manifest)), io::ErrorKind::InvalidInput);
}

#[test]
fn contents_without_chunks_are_whole_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 0);
    for letters in ["", " "] {
        let file = content(letters);
        let entry = file.begin(&cache);
        assert!(entry.is_whole());
        assert_eq!(file.read(&entry, 0..file.bytes.len()).unwrap(), file.bytes);
    }
}

#[test]
fn the_longest_unused_goes_first_and_what_is_open_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 6);
    let (a, b, c, d) = (content("ab"), content("cd"), content("ef"), content("gh"));
    let held = a.fill(&cache);
    drop(b.fill(&cache));
    drop(c.fill(&cache));
    assert!(cache.get(&b.hash).is_some(), "now c is the longest unused that nobody holds");
    drop(d.fill(&cache));
    assert!(cache.get(&c.hash).is_none() && cache.get(&b.hash).is_some() && held.is_whole());
    assert_eq!(blocks(&cache), 6);
    let all = [a.fill(&cache), b.fill(&cache), d.fill(&cache)];
    let first = ChunkHash::of(&c.bytes[..BLOCK]);
    assert_eq!(kind(c.begin(&cache).put(&first, &c.bytes[..BLOCK])), io::ErrorKind::StorageFull);
    drop(all);
    c.begin(&cache).put(&first, &c.bytes[..BLOCK]).unwrap();
}

#[test]
fn a_file_larger_than_the_cache_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 3);
    let file = content("abcdefghij aaaaaaaa");
    let entry = file.begin(&cache);
    for _ in 0..2 {
        assert_eq!(file.read(&entry, 0..file.bytes.len()).unwrap(), file.bytes);
        assert!(cache.used() <= cache.limit() && !entry.is_whole());
    }
    let at = 15 * BLOCK;
    assert_eq!(file.read(&entry, at..at + 10).unwrap(), file.bytes[at..at + 10], "a repeated chunk where it is wanted");
    let path = cache.core.layout.partial(&file.hash);
    let metadata = fs::metadata(&path).unwrap();
    assert!(!HOLES || charge_of_file(&path, &metadata) <= 3 * BLOCK as u64, "what was given back takes no space");
}

#[test]
fn a_large_file_that_is_open_does_not_keep_others_from_being_read() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 4);
    let (large, small) = (content("abcdefgh"), content("xy"));
    let (large_entry, small_entry) = (large.begin(&cache), small.begin(&cache));
    large.read(&large_entry, 0..large.bytes.len()).unwrap();
    assert_eq!(small.read(&small_entry, 0..small.bytes.len()).unwrap(), small.bytes);
    assert!(small_entry.is_whole());
    assert_eq!(large.read(&large_entry, 0..large.bytes.len()).unwrap(), large.bytes);
    assert_eq!(blocks(&cache), 4);
}

#[test]
fn everything_is_found_again_after_a_clean_end() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, part) = (content("abc"), content("de f"));
    {
        let cache = cache(dir.path(), 100);
        whole.fill(&cache);
        let d = ChunkHash::of(&part.bytes[..BLOCK]);
        part.begin(&cache).put(&d, &part.bytes[..BLOCK]).unwrap();
    }
    let cache = cache(dir.path(), 100);
    assert_eq!(blocks(&cache), if HOLES { 4 } else { 7 });
    assert!(cache.get(&whole.hash).unwrap().is_whole());
    let entry = cache.get(&part.hash).unwrap();
    assert_eq!(entry.missing(0..u64::MAX).len(), 2);
    assert_eq!(part.read(&entry, 0..part.bytes.len()).unwrap(), part.bytes);
    assert!(entry.is_whole());
    assert_eq!(blocks(&cache), 6);
}

#[test]
fn what_is_kept_is_never_evicted_nor_made_smaller_until_another_round_leaves_it_out() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, part, other) = (content("abc"), content("defg"), content("hijk"));
    let cache = cache(dir.path(), 6);
    assert!(cache.keep(&kept.hash) && !cache.keep(&kept.hash));
    kept.fill(&cache);
    cache.keep(&part.hash);
    let entry = part.begin(&cache);
    part.read(&entry, 0..2 * BLOCK).unwrap();
    // One block is left: others come and go in that, whether they are open or not, and take nothing from what is kept.
    let reader = other.begin(&cache);
    for _ in 0..2 {
        assert_eq!(other.read(&reader, 0..4 * BLOCK).unwrap(), other.bytes);
    }
    assert!(cache.get(&kept.hash).unwrap().is_whole());
    assert_eq!(entry.missing(0..4 * BLOCK as u64).len(), 2);
    assert!(blocks(&cache) <= 6);
    // Where there is no room it does not give up one part for another either.
    part.read(&entry, 2 * BLOCK..3 * BLOCK).unwrap();
    let last = &part.bytes[3 * BLOCK..];
    assert_eq!(kind(entry.put(&ChunkHash::of(last), last)), io::ErrorKind::StorageFull);
    assert_eq!(entry.missing(0..4 * BLOCK as u64).len(), 1);
    cache.begin_round();
    assert!(cache.keep(&part.hash));
    assert!(cache.is_kept(&kept.hash), "until the round ends");
    cache.end_round();
    assert!(!cache.is_kept(&kept.hash) && cache.is_kept(&part.hash));
    part.read(&entry, 3 * BLOCK..4 * BLOCK).unwrap();
    assert!(entry.is_whole() && cache.get(&kept.hash).is_none());
}

#[test]
fn what_is_kept_from_the_first_moment_on_survives_a_smaller_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, other) = (content("abc"), content("de"));
    {
        let cache = cache(dir.path(), 100);
        kept.fill(&cache);
        other.fill(&cache);
    }
    let limit = 3 * BLOCK as u64;
    let cache = Cache::open_keeping(dir.path(), limit, false, std::iter::once(kept.hash)).unwrap();
    cache.settle();
    assert!(cache.get(&kept.hash).is_some() && cache.get(&other.hash).is_none());
    assert_eq!(cache.used(), limit);
}

#[test]
fn a_content_that_was_begun_fits_after_a_restart_where_it_fitted_before() {
    let dir = tempfile::tempdir().unwrap();
    let file = content("f");
    drop(file.begin(&cache(dir.path(), 1)));
    let cache = cache(dir.path(), 1);
    assert!(file.fill(&cache).is_whole() && blocks(&cache) == 1);
}

#[test]
fn a_partial_content_without_a_map_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let part = content("ab");
    {
        let cache = cache(dir.path(), 100);
        part.begin(&cache).put(&ChunkHash::of(&part.bytes[..BLOCK]), &part.bytes[..BLOCK]).unwrap();
    }
    let map = dir.path().join(format!("partial/{}.map", part.hash));
    let mut bytes = fs::read(&map).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&map, bytes).unwrap();
    assert!(cache(dir.path(), 100).get(&part.hash).is_none(), "a damaged map is none");
    fs::write(dir.path().join(format!("partial/{}", part.hash)), b"x").unwrap();
    let cache = cache(dir.path(), 100);
    assert_eq!(cache.used(), 0);
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
}

#[test]
#[cfg(unix)] // Without holes a partial content counts in full, and this one is too large then.
fn the_map_never_promises_what_was_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let part = content("abcdef");
    {
        let cache = cache(dir.path(), 2);
        part.read(&part.begin(&cache), 0..2 * BLOCK).unwrap();
        cache.close().unwrap();
    }
    let map = dir.path().join(format!("partial/{}.map", part.hash));
    {
        let cache = cache(dir.path(), 2);
        let entry = cache.get(&part.hash).unwrap();
        assert!(map.exists() && entry.missing(0..2 * BLOCK as u64).is_empty());
        part.read(&entry, 3 * BLOCK..4 * BLOCK).unwrap();
        assert!(!map.exists());
    }
    let cache = cache(dir.path(), 2);
    let entry = cache.get(&part.hash).unwrap();
    assert_eq!(entry.missing(0..2 * BLOCK as u64).len(), 1);
    assert_eq!(part.read(&entry, 0..6 * BLOCK).unwrap(), part.bytes);
}

#[test]
fn after_the_machine_went_down_nothing_counts_until_it_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let (good, torn, part) = (content("ab c"), content("de"), content("fg"));
    {
        let cache = cache(dir.path(), 100);
        good.fill(&cache);
        torn.fill(&cache);
        part.begin(&cache).put(&ChunkHash::of(&part.bytes[..BLOCK]), &part.bytes[..BLOCK]).unwrap();
        let object = cache.core.layout.object(&torn.hash);
        let mut bytes = fs::read(&object).unwrap();
        bytes[BLOCK..].fill(0);
        fs::remove_file(&object).unwrap();
        fs::write(&object, bytes).unwrap();
    }
    drop(Cache::open(dir.path(), 1 << 30, true).unwrap());
    // The suspicion is about the files: it outlives the session that had it.
    let cache = cache(dir.path(), 100);
    assert!(cache.get(&good.hash).is_none() && cache.get(&part.hash).is_none());
    assert!(good.begin(&cache).is_whole(), "it was read and is good");
    assert!(cache.get(&good.hash).is_some());
    let entry = torn.begin(&cache);
    assert!(!entry.is_whole(), "it was read and dropped");
    assert_eq!(torn.read(&entry, 0..2 * BLOCK).unwrap(), torn.bytes);
    assert_eq!(blocks(&cache), if HOLES { 5 } else { 6 });
}

#[test]
fn verifying_drops_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let (good, bad, unknown) = (content("ab"), content("cd"), content("ef"));
    for file in [&good, &bad, &unknown] {
        file.fill(&cache);
    }
    let object = cache.core.layout.object(&bad.hash);
    fs::remove_file(&object).unwrap();
    fs::write(&object, &good.bytes).unwrap();
    let manifests = HashMap::from([(good.hash, good.manifest.clone()), (bad.hash, bad.manifest.clone())]);
    let mut calls = 0;
    let mut progress = |_: &Verified| {
        calls += 1;
        true
    };
    let found = cache.verify_all(&mut |hash| manifests.get(hash).cloned(), &mut progress).unwrap();
    let bytes = 2 * good.bytes.len() as u64;
    assert_eq!((found.total, found.good, found.unknown), (3, 1, 1));
    assert_eq!(found.damaged, [bad.hash]);
    assert!(found.bytes <= bytes && found.bytes > bytes / 2 && calls > 1, "{found:?}");
    assert!(cache.get(&bad.hash).is_none() && cache.get(&unknown.hash).is_none() && cache.get(&good.hash).is_some());
    assert_eq!(blocks(&cache), 2);
    let stopped = cache.verify_all(&mut |hash| manifests.get(hash).cloned(), &mut |_| false);
    assert_eq!(kind(stopped), io::ErrorKind::Interrupted);
    assert!(cache.get(&good.hash).is_some());
}

#[test]
fn verifying_reads_the_parts_that_are_here() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let (good, bad) = (content("abc"), content("def"));
    for file in [&good, &bad] {
        file.read(&file.begin(&cache), BLOCK..2 * BLOCK).unwrap();
    }
    let verify = || cache.verify_all(&mut |_| None, &mut |_| true).unwrap();
    let found = verify();
    assert_eq!((found.total, found.good, found.damaged.len()), (2, 2, 0));
    let path = cache.core.layout.partial(&bad.hash);
    let at = bad.manifest.with_offsets().nth(1).unwrap().0;
    write_all_at(&File::options().write(true).open(path).unwrap(), b"!", at).unwrap();
    let found = verify();
    assert_eq!((found.good, found.damaged.as_slice()), (1, &[bad.hash][..]));
    assert!(cache.get(&bad.hash).is_none());
    bad.fill(&cache);
    assert!(bad.begin(&cache).is_whole());
}

#[test]
fn an_object_of_another_size_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let file = content("ab");
    file.fill(&cache(dir.path(), 100));
    let cache = cache(dir.path(), 100);
    let object = cache.core.layout.object(&file.hash);
    fs::remove_file(&object).unwrap();
    fs::write(&object, b"short").unwrap();
    assert!(!file.begin(&cache).is_whole());
    assert!(!object.exists());
}

#[test]
fn a_finished_file_becomes_a_whole_content() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir.path().join("cache"), 4);
    let (file, big) = (content("ab"), content("cdefg"));
    let path = dir.path().join("finished");
    let finish = |content: &Content| fs::write(&path, &content.bytes).unwrap();
    finish(&file);
    assert_eq!(kind(cache.adopt(&file.hash, 7, &path)), io::ErrorKind::InvalidInput);
    let partial = file.begin(&cache);
    partial.put(&ChunkHash::of(&file.bytes[..BLOCK]), &file.bytes[..BLOCK]).unwrap();
    let entry = cache.adopt(&file.hash, file.bytes.len() as u64, &path).unwrap();
    assert!(entry.is_whole() && !path.exists());
    assert_eq!(blocks(&cache), 2);
    assert_eq!(file.read(&partial, 0..2 * BLOCK).unwrap(), file.bytes, "who had the partial one goes on with it");
    assert_eq!(blocks(&cache), 2);
    assert!(Arc::ptr_eq(&cache.get(&file.hash).unwrap(), &entry));
    finish(&file);
    cache.adopt(&file.hash, file.bytes.len() as u64, &path).unwrap();
    assert!(!path.exists(), "the same content again is one");
    finish(&big);
    assert_eq!(kind(cache.adopt(&big.hash, big.bytes.len() as u64, &path)), io::ErrorKind::StorageFull);
    assert_eq!(fs::read(&path).unwrap(), big.bytes, "it is where it was");
}

#[test]
fn of_two_equal_files_that_finish_at_once_one_becomes_the_content() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(&dir.path().join("cache"), 4);
    let file = content("ab");
    let paths = ["one", "two", "three"].map(|name| dir.path().join(name));
    paths.iter().for_each(|path| fs::write(path, &file.bytes).unwrap());
    let mut begun = paths.each_ref().map(|path| cache.adoption(&file.hash, file.bytes.len() as u64, path).unwrap());
    begun[0].take().unwrap();
    begun[1].take().unwrap();
    let [first, second, not_taken] = begun;
    assert!(not_taken.finish().is_err(), "it has its name still");
    let (first, second) = (first.finish().unwrap(), second.finish().unwrap());
    assert!(Arc::ptr_eq(&first, &second) && first.is_whole());
    assert_eq!(paths.each_ref().map(|path| path.exists()), [false, false, true]);
    assert_eq!(blocks(&cache), 2);
    let readonly = fs::metadata(cache.core.layout.object(&file.hash)).unwrap().permissions().readonly();
    assert_eq!(readonly, cfg!(unix), "Windows could not remove it then");
}

#[test]
fn what_is_removed_can_still_be_read_by_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let (whole, part) = (content("ab"), content("cd"));
    let (whole_entry, part_entry) = (whole.fill(&cache), part.begin(&cache));
    cache.remove(&whole.hash).unwrap();
    cache.remove(&part.hash).unwrap();
    assert_eq!(whole.read(&whole_entry, 0..2 * BLOCK).unwrap(), whole.bytes);
    assert_eq!(part.read(&part_entry, 0..2 * BLOCK).unwrap(), part.bytes);
    assert_eq!(cache.used(), 0);
    assert!(cache.get(&whole.hash).is_none() && cache.get(&part.hash).is_none());
}

#[test]
fn a_cache_that_shrank_is_cut_to_its_limit_the_longest_unused_first() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<_> = (b'a'..=b'h').map(|letter| content(&char::from(letter).to_string())).collect();
    {
        let cache = cache(dir.path(), 100);
        for (age, file) in files.iter().enumerate() {
            let entry = file.fill(&cache);
            let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 + age as u64);
            entry.file().set_times(fs::FileTimes::new().set_accessed(time)).unwrap();
        }
    }
    let cache = cache(dir.path(), 3);
    let left: Vec<_> = files.iter().map(|file| cache.get(&file.hash).is_some()).collect();
    assert_eq!(left, [false, false, false, false, false, true, true, true]);
}

#[test]
fn more_contents_than_files_may_be_open() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 10_000);
    let files: Vec<_> = (0..400u32)
        .map(|n| {
            let mut file = content("ab");
            let raw = n.to_le_bytes().repeat(BLOCK / 4);
            let hash = ChunkHash::of(&raw);
            let second = file.manifest.extents()[1];
            let manifest = Manifest::new(vec![Extent::Chunk { hash, len: BLOCK as u32 }, second]).unwrap();
            file.chunks.insert(hash, raw);
            file.hash = manifest.content_hash();
            file.manifest = Arc::new(manifest);
            let (hash, _) = file.manifest.chunks().next().unwrap();
            file.begin(&cache).put(&hash, &file.chunks[&hash]).unwrap();
            file
        })
        .collect();
    assert!(cache.core.index.all_open().len() <= 130);
    for file in &files {
        assert_eq!(cache.get(&file.hash).unwrap().missing(0..u64::MAX).len(), 1);
    }
}

#[test]
fn many_threads_read_right_bytes_from_a_cache_that_is_too_small() {
    let dir = tempfile::tempdir().unwrap();
    // Three threads can hold a whole file of eight blocks each; the fourth always finds room for a part.
    let cache = cache(dir.path(), 26);
    let files: Vec<_> =
        ["abcdefgh", "ijklmnop", "qrst uvw", "abcabcab", "zzzzzzzz", "AB", "CDEFGHIJ", ""].map(content).into();
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (cache, files) = (&cache, &files);
            scope.spawn(move || {
                for round in 0..150 {
                    let file = &files[(thread * 7 + round * 5) % files.len()];
                    match file.read(&file.begin(cache), 0..file.bytes.len()) {
                        Ok(bytes) => assert_eq!(bytes, file.bytes),
                        // Another thread's part took the room between the fetch and the read: a client asks again.
                        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
                    }
                    if round % 20 == thread {
                        cache.remove(&file.hash).unwrap();
                    }
                    assert!(cache.used() <= cache.limit());
                }
            });
        }
    });
}

#[test]
fn a_damaged_hole_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let file = content("a b");
    let path = dir.path().join("x");
    fs::write(&path, &file.bytes).unwrap();
    let open = File::options().read(true).write(true).open(&path).unwrap();
    assert!(is_intact(&open, &file.manifest, |_| Ok(())).unwrap());
    write_all_at(&open, &[1], BLOCK as u64 + 9).unwrap();
    assert!(!is_intact(&open, &file.manifest, |_| Ok(())).unwrap());
}

#[derive(Clone, Debug)]
enum Step {
    Read(usize, usize),
    Fill(usize),
    Remove(usize),
    Reopen,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0usize..5, 0usize..8).prop_map(|(file, block)| Step::Read(file, block)),
        2 => (0usize..5).prop_map(Step::Fill),
        1 => (0usize..5).prop_map(Step::Remove),
        1 => Just(Step::Reopen),
        1 => Just(Step::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_it_reads_right_and_keeps_its_limit(
        steps in proptest::collection::vec(step(), 0..60),
        limit in 1u64..12,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let files = ["abcd", "abab cd", "eeeeeeee", "f", "ghij klm"].map(content);
        let mut now = cache(dir.path(), limit);
        for step in steps {
            match step {
                Step::Read(file, block) => {
                    let file = &files[file];
                    let start = (block * BLOCK).min(file.bytes.len());
                    let end = (start + BLOCK + 7).min(file.bytes.len());
                    prop_assert_eq!(&file.read(&file.begin(&now), start..end).unwrap(), &file.bytes[start..end]);
                }
                Step::Fill(file) => drop(files[file].fill(&now)),
                Step::Remove(file) => now.remove(&files[file].hash).unwrap(),
                Step::Reopen => {
                    drop(now);
                    now = cache(dir.path(), limit);
                }
                Step::PowerCut => {
                    drop(now);
                    now = Cache::open(dir.path(), limit * BLOCK as u64, true).unwrap();
                    now.settle();
                }
            }
            prop_assert!(now.used() <= now.limit());
        }
        for file in &files {
            prop_assert_eq!(&file.read(&file.begin(&now), 0..file.bytes.len()).unwrap(), &file.bytes);
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_taken_away_is_nobody_elses_and_the_content_stays() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 100);
    let file = content("ab ca");
    assert!(cache.claim(&file.hash).unwrap().is_none(), "nothing of it is here");
    let entry = file.begin(&cache);
    assert!(cache.claim(&file.hash).unwrap().is_none(), "it is not whole");
    drop(entry);
    let entry = file.fill(&cache);
    assert!(cache.claim(&file.hash).unwrap().is_none(), "it is open for writing, and used");
    drop(entry);
    for copy in [true, false] {
        let claim = cache.claim(&file.hash).unwrap().unwrap();
        assert!(cache.claim(&file.hash).unwrap().is_none(), "it is claimed");
        assert!(crate::system::alone::is_alone(claim.file()).unwrap());
        assert_eq!((claim.size(), claim.hash()), (file.bytes.len() as u64, &file.hash));
        let reader = cache.get(&file.hash).unwrap();
        let taken = std::thread::scope(|scope| {
            let taking = scope.spawn(|| cache.take_away(&claim, copy).unwrap());
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert!(!taking.is_finished(), "somebody reads it as this content");
            drop(reader);
            taking.join().unwrap()
        });
        write_all_at(&taken, b"other bytes", 0).unwrap();
        drop(claim);
        match cache.get(&file.hash) {
            Some(entry) => assert!(copy && file.read(&entry, 0..file.bytes.len()).unwrap() == file.bytes),
            None => assert!(!copy && blocks(&cache) == 0),
        }
        assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    }
}

#[cfg(target_os = "linux")]
#[test]
fn what_is_claimed_is_not_evicted_and_can_be_claimed_again_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 4);
    let (one, two) = (content("abc"), content("defg"));
    drop(one.fill(&cache));
    let claim = cache.claim(&one.hash).unwrap().unwrap();
    assert_eq!(two.read(&two.begin(&cache), 0..BLOCK * 4).map(|bytes| bytes == two.bytes).ok(), Some(true));
    assert!(cache.get(&one.hash).is_some_and(|entry| entry.is_whole()));
    drop(claim);
    drop(cache.claim(&one.hash).unwrap().unwrap());
    assert!(cache.claim(&one.hash).unwrap().is_some());
}

#[test]
fn what_the_disk_needs_is_given_up_unless_it_is_in_use_or_kept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 8);
    let (kept, used, idle, other) = (content("ab"), content("cd"), content("ef"), content("gh"));
    cache.keep(&kept.hash);
    for content in [&kept, &idle, &other] {
        content.fill(&cache);
    }
    let open = used.fill(&cache);
    assert_eq!(blocks(&cache), 8);
    assert_eq!(cache.give_up(1).unwrap(), 2 * BLOCK as u64, "one content is enough");
    assert_eq!((cache.stored(&idle.hash), cache.stored(&other.hash).is_some()), (None, true), "the one used first");
    assert_eq!(cache.give_up(u64::MAX).unwrap(), 2 * BLOCK as u64);
    assert_eq!(cache.give_up(1).unwrap(), 0);
    assert!(cache.stored(&kept.hash).is_some() && cache.stored(&used.hash).is_some());
    drop(open);
}

#[test]
fn what_lies_beside_has_its_part_of_the_limit_and_never_more_than_half() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 20);
    for letters in ["abcde", "fghij", "klmno", "pqrst"] {
        content(letters).fill(&cache);
    }
    assert_eq!(blocks(&cache), 20);
    cache.set_beside(3 * BLOCK as u64).unwrap();
    assert_eq!((blocks(&cache), cache.room() / BLOCK as u64), (15, 17));
    cache.set_beside(u64::MAX).unwrap();
    assert_eq!((blocks(&cache), cache.room() / BLOCK as u64), (10, 10));
    let pinned = content("ABCDEFGHIJ");
    cache.keep(&pinned.hash);
    pinned.fill(&cache);
    let other = content("uv");
    assert_eq!(
        other.read(&other.begin(&cache), 0..BLOCK).unwrap(),
        other.bytes[..BLOCK],
        "a tenth is left to the others"
    );
    assert!(blocks(&cache) <= 12);
}

#[test]
fn a_file_without_room_evicts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cache = cache(dir.path(), 4);
    content("abc").fill(&cache);
    let (large, path) = (content("defghi"), dir.path().join("large"));
    fs::write(&path, &large.bytes).unwrap();
    assert_eq!(kind(cache.adopt(&large.hash, large.bytes.len() as u64, &path)), io::ErrorKind::StorageFull);
    assert!(path.exists());
    assert_eq!(blocks(&cache), 3);
}

#[test]
fn what_a_killed_process_had_not_written_down_takes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let part = content("abcdefgh");
    {
        let cache = cache(dir.path(), 100);
        part.begin(&cache).put(&ChunkHash::of(&part.bytes[..BLOCK]), &part.bytes[..BLOCK]).unwrap();
    }
    let path = dir.path().join("partial").join(part.hash.to_string());
    let file = File::options().write(true).open(&path).unwrap();
    write_all_at(&file, &part.bytes[2 * BLOCK..6 * BLOCK], 2 * BLOCK as u64).unwrap();
    drop(file);
    let cache = cache(dir.path(), 100);
    let entry = cache.get(&part.hash).unwrap();
    assert_eq!(blocks(&cache), 1);
    assert!(!HOLES || charge_of_file(&path, &fs::metadata(&path).unwrap()) == BLOCK as u64);
    assert_eq!(part.read(&entry, 0..part.bytes.len()).unwrap(), part.bytes);
}
