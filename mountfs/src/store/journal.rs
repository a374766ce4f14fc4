//! The journal: an append-only log of byte strings, cut into segments.
//!
//! Promises: when [`Journal::append`] returns, the record survives the death of this process; a record is there as a whole or
//! not at all; a failed append leaves the records before it as they were. One append is one `write`, a few microseconds.
//! Knows nothing of what a record means, and decides nothing about when to sync or to drop a segment.
//!
//! A segment is 8 bytes of magic, then frames: `length u32 | crc32 u32 | sequence number u64 | payload`, little endian. The
//! checksum covers all but itself. Behind the last frame lie zeros: a sync of what was written over them writes just that,
//! where one of a file that has grown must write its new length as well, several times as slow on a journalling file system.

use super::disk;
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A segment of this length is closed and a new one begun.
pub(super) const SEGMENT_LEN: u64 = 8 * 1024 * 1024;

/// How far zeros reach ahead of the frames.
const ROOM_LEN: usize = 128 * 1024;

const MAGIC: &[u8; 8] = b"smjrnl\x00\x01";
const HEAD_LEN: usize = 16;
const EXTENSION: &str = "log";

/// What a segment is written to: a file, or a file that fails where a test wants it to.
pub(super) trait Medium: Send + Sync {
    /// One `write` at an offset.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;
    /// Zeros from `offset`, the end, on. They may be fewer; it is only faster with them.
    fn make_room(&self, offset: u64, len: usize) -> io::Result<()>;
    /// Cuts off what is behind `len`.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// `fdatasync`.
    fn sync(&self) -> io::Result<()>;
}

impl Medium for File {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        disk::write_at(self, bytes, offset)
    }

    fn make_room(&self, offset: u64, len: usize) -> io::Result<()> {
        disk::write_at(self, &vec![0; len], offset).map(|_| ())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

/// Makes the medium of a new segment.
pub(super) type Media = Box<dyn Fn(&Path) -> io::Result<Arc<dyn Medium>> + Send + Sync>;

/// Segments in files.
pub(super) fn files() -> Media {
    Box::new(|path| Ok(Arc::new(OpenOptions::new().write(true).create_new(true).open(path)?)))
}

struct Segment {
    path: PathBuf,
    medium: Arc<dyn Medium>,
    len: u64,
    last_seq: u64,
    synced_len: u64,
    /// A failed write may have left bytes behind `len`.
    torn: bool,
    /// Where the zeros behind `len` end, or would if there had been room for them.
    room: u64,
}

/// The log. All records in it are newer than whatever was folded.
pub(super) struct Journal {
    dir: PathBuf,
    media: Media,
    active: Option<Segment>,
    closed: VecDeque<Segment>,
    next_seq: u64,
    next_number: u64,
    dir_synced: bool,
}

/// What a sync has to write, taken under the journal's lock and done outside of it.
pub(super) struct Unsynced {
    media: Vec<(PathBuf, Arc<dyn Medium>, u64)>,
    dir: Option<PathBuf>,
    /// The last record that the sync makes durable.
    pub(super) last_seq: u64,
}

impl Unsynced {
    pub(super) fn write(&self) -> io::Result<()> {
        self.media.iter().try_for_each(|(_, medium, _)| medium.sync())?;
        self.dir.as_deref().map_or(Ok(()), disk::sync_dir)
    }
}

impl Journal {
    /// An empty journal in `dir`, whose segments have been read or have never been. The first record gets `next_seq`.
    pub(super) fn begin(dir: &Path, media: Media, next_seq: u64) -> io::Result<Self> {
        let next_number = segments(dir)?.last().map_or(1, |last| last.number + 1);
        Ok(Self {
            dir: dir.to_owned(),
            media,
            active: None,
            closed: VecDeque::new(),
            next_seq,
            next_number,
            dir_synced: true,
        })
    }

    /// The sequence number that the next record gets.
    pub(super) const fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The number `seq` went to a record that is stored elsewhere. The journal must be empty.
    pub(super) fn skip(&mut self, seq: u64) {
        assert!(self.is_empty() && seq == self.next_seq, "records are stored in order");
        self.next_seq = seq + 1;
    }

    /// Whether no record waits to be folded.
    pub(super) fn is_empty(&self) -> bool {
        self.active.is_none() && self.closed.is_empty()
    }

    /// Whether a whole segment waits to be folded.
    pub(super) fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// How many segments wait to be folded.
    pub(super) fn closed_count(&self) -> usize {
        self.closed.len()
    }

    /// Appends one record and tells its sequence number.
    pub(super) fn append(&mut self, payload: &[u8]) -> io::Result<u64> {
        let frame = encode(self.next_seq, payload)?;
        let seq = self.next_seq;
        let segment = self.active_segment()?;
        segment.write(&frame)?;
        segment.last_seq = seq;
        self.next_seq += 1;
        if self.active.as_ref().is_some_and(|segment| segment.len >= SEGMENT_LEN) {
            self.rotate();
        }
        Ok(seq)
    }

    fn active_segment(&mut self) -> io::Result<&mut Segment> {
        if self.active.is_none() {
            self.active = Some(self.new_segment()?);
        }
        self.active.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn new_segment(&mut self) -> io::Result<Segment> {
        let path = segment_path(&self.dir, self.next_number);
        self.next_number += 1;
        self.dir_synced = false;
        let mut segment =
            Segment { medium: (self.media)(&path)?, path, len: 0, last_seq: 0, synced_len: 0, torn: false, room: 0 };
        if let Err(error) = segment.write(MAGIC) {
            // An empty segment is no harm; the number is never used again.
            drop(disk::remove_if_there(&segment.path));
            return Err(error);
        }
        Ok(segment)
    }

    /// Closes the segment that is being written, so that it can be folded.
    pub(super) fn rotate(&mut self) {
        self.closed.extend(self.active.take());
    }

    /// The oldest segment that is not written to any more, and its last record.
    pub(super) fn oldest_closed(&self) -> Option<(PathBuf, u64)> {
        self.closed.front().map(|segment| (segment.path.clone(), segment.last_seq))
    }

    /// Removes the oldest closed segment: all its records are durable elsewhere.
    pub(super) fn drop_oldest(&mut self) -> io::Result<()> {
        match self.closed.pop_front() {
            Some(segment) => disk::remove_if_there(&segment.path).map(|_| ()),
            None => Ok(()),
        }
    }

    /// What must be written so that every record so far survives a power cut.
    pub(super) fn unsynced(&self) -> Unsynced {
        let media = self.closed.iter().chain(&self.active).filter(|segment| segment.synced_len < segment.len);
        Unsynced {
            media: media.map(|segment| (segment.path.clone(), segment.medium.clone(), segment.len)).collect(),
            dir: (!self.dir_synced).then(|| self.dir.clone()),
            last_seq: self.next_seq - 1,
        }
    }

    /// `done` has been written.
    pub(super) fn synced(&mut self, done: &Unsynced) {
        for segment in self.closed.iter_mut().chain(&mut self.active) {
            if let Some((_, _, len)) = done.media.iter().find(|(path, _, _)| *path == segment.path) {
                segment.synced_len = segment.synced_len.max(*len);
            }
        }
        // A segment that was begun meanwhile is not synced at all, so it must not pass for one whose name is.
        self.dir_synced |=
            done.dir.is_some() && self.closed.iter().chain(&self.active).all(|segment| segment.synced_len > 0);
    }
}

impl Segment {
    /// One `write`. If it fails or falls short, the segment ends where it ended before.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.torn {
            self.medium.set_len(self.len)?;
            (self.torn, self.room) = (false, self.len);
        }
        let failure = match self.write_once(bytes) {
            Ok(count) if count == bytes.len() => {
                self.len += count as u64;
                self.look_ahead();
                return Ok(());
            }
            // The only reason for a regular file to take less than all.
            Ok(_) => io::ErrorKind::StorageFull.into(),
            Err(error) => error,
        };
        self.torn = self.medium.set_len(self.len).is_err();
        self.room = self.len;
        Err(failure)
    }

    fn look_ahead(&mut self) {
        if self.len < self.room {
            return;
        }
        self.room = self.len + ROOM_LEN as u64;
        if let Err(error) = self.medium.make_room(self.len, ROOM_LEN) {
            // The next record finds out whether there is room for it.
            tracing::debug!("{}: no room ahead: {error}", self.path.display());
        }
    }

    fn write_once(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.medium.write_at(bytes, self.len) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

fn encode(seq: u64, payload: &[u8]) -> io::Result<Vec<u8>> {
    let len = u32::try_from(payload.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut frame = Vec::with_capacity(HEAD_LEN + payload.len());
    frame.extend_from_slice(&len.to_le_bytes());
    frame.extend_from_slice(&checksum(len, seq, payload).to_le_bytes());
    frame.extend_from_slice(&seq.to_le_bytes());
    frame.extend_from_slice(payload);
    Ok(frame)
}

fn checksum(len: u32, seq: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len.to_le_bytes());
    hasher.update(&seq.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A segment as it lies in the directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SegmentFile {
    pub(super) number: u64,
    pub(super) path: PathBuf,
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.{EXTENSION}"))
}

/// The segments in `dir`, oldest first.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<SegmentFile>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(number) = number.filter(|_| path.extension().is_some_and(|extension| extension == EXTENSION)) {
            found.push(SegmentFile { number, path });
        }
    }
    found.sort_by_key(|segment| segment.number);
    Ok(found)
}

/// What could be read of a segment.
pub(super) struct Replay {
    bytes: Vec<u8>,
    records: Vec<(u64, std::ops::Range<usize>)>,
    /// Bytes behind the last whole record that are not zeros from there on.
    pub(super) torn_len: usize,
}

/// Why a segment cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReplayError {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It begins with another magic.
    #[error("a journal segment is in another format")]
    Format,
}

impl Replay {
    /// Reads every whole record from the begin on, up to the first that is not.
    pub(super) fn read(path: &Path) -> Result<Self, ReplayError> {
        let bytes = fs::read(path)?;
        if !bytes.starts_with(MAGIC) {
            // After a power cut the first block may be missing although later ones are there.
            let head = &bytes[..bytes.len().min(MAGIC.len())];
            let is_torn = MAGIC.starts_with(head) || head.iter().all(|byte| *byte == 0);
            let torn_len = bytes.len();
            return if is_torn { Ok(Self { bytes, records: Vec::new(), torn_len }) } else { Err(ReplayError::Format) };
        }
        let (mut records, mut at) = (Vec::new(), MAGIC.len());
        while let Some((seq, len)) = decode(&bytes[at..]) {
            records.push((seq, at + HEAD_LEN..at + HEAD_LEN + len));
            at += HEAD_LEN + len;
        }
        let behind = &bytes[at..];
        let torn_len = behind.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        Ok(Self { torn_len, bytes, records })
    }

    /// The records with their sequence numbers.
    pub(super) fn records(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.records.iter().map(|(seq, range)| (*seq, &self.bytes[range.clone()]))
    }
}

/// The sequence number and payload length of the frame that `bytes` begin with, if it is whole.
fn decode(bytes: &[u8]) -> Option<(u64, usize)> {
    let (len, rest) = bytes.split_first_chunk()?;
    let (crc, rest) = rest.split_first_chunk()?;
    let (seq, rest) = rest.split_first_chunk()?;
    let (len, seq) = (u32::from_le_bytes(*len), u64::from_le_bytes(*seq));
    let payload = rest.get(..len as usize)?;
    (checksum(len, seq, payload) == u32::from_le_bytes(*crc)).then_some((seq, len as usize))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    /// A disk of a limited size that can also refuse to truncate or to sync.
    #[derive(Default)]
    pub(in super::super) struct Faults {
        pub(in super::super) room: AtomicU64,
        pub(in super::super) no_truncate: AtomicBool,
        pub(in super::super) no_sync: AtomicBool,
        pub(in super::super) syncs: AtomicU64,
    }

    impl Faults {
        pub(in super::super) fn unlimited() -> Arc<Self> {
            let faults = Self::default();
            faults.room.store(u64::MAX, Ordering::SeqCst);
            Arc::new(faults)
        }

        pub(in super::super) fn media(self: &Arc<Self>) -> Media {
            let faults = self.clone();
            Box::new(move |path| {
                let file = OpenOptions::new().write(true).create_new(true).open(path)?;
                Ok(Arc::new(Limited { file, faults: faults.clone() }))
            })
        }
    }

    struct Limited {
        file: File,
        faults: Arc<Faults>,
    }

    impl Medium for Limited {
        fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
            let room = self.faults.room.load(Ordering::SeqCst);
            let count = bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
            if count == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.faults.room.fetch_sub(count as u64, Ordering::SeqCst);
            disk::write_at(&self.file, &bytes[..count], offset)
        }

        fn make_room(&self, _offset: u64, _len: usize) -> io::Result<()> {
            Ok(())
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            if self.faults.no_truncate.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::Other.into());
            }
            self.file.set_len(len)
        }

        fn sync(&self) -> io::Result<()> {
            self.faults.syncs.fetch_add(1, Ordering::SeqCst);
            if self.faults.no_sync.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::Other.into());
            }
            self.file.sync_data()
        }
    }

    fn read_all(dir: &Path) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        for segment in segments(dir).unwrap() {
            let replay = Replay::read(&segment.path).unwrap();
            all.extend(replay.records().map(|(seq, payload)| (seq, payload.to_vec())));
        }
        all
    }

    fn payload(seq: u64) -> Vec<u8> {
        vec![seq as u8; (seq * 7 % 50) as usize]
    }

    #[test]
    fn cut_at_any_byte_a_prefix_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), files(), 1).unwrap();
        let mut ends = vec![MAGIC.len()];
        for seq in 1..=20 {
            assert_eq!(journal.append(&payload(seq)).unwrap(), seq);
            ends.push(ends.last().unwrap() + HEAD_LEN + payload(seq).len());
        }
        let path = segments(dir.path()).unwrap()[0].path.clone();
        let whole = fs::read(&path).unwrap();
        let end = *ends.last().unwrap();
        assert!(whole.len() > end && whole[end..].iter().all(|byte| *byte == 0));
        for cut in 0..=end + 20 {
            fs::write(&path, &whole[..cut]).unwrap();
            let expected = ends[1..].iter().filter(|end| **end <= cut).count() as u64;
            let found = read_all(dir.path());
            assert_eq!(found, (1..=expected).map(|seq| (seq, payload(seq))).collect::<Vec<_>>());
        }
    }

    #[test]
    fn any_block_may_be_missing_after_a_power_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), files(), 1).unwrap();
        for seq in 1..=2000 {
            journal.append(&payload(seq)).unwrap();
        }
        let path = segments(dir.path()).unwrap()[0].path.clone();
        let (whole, good) = (fs::read(&path).unwrap(), read_all(dir.path()));
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        assert!(end > 5 * 4096);
        for block in 0..end / 4096 {
            let mut bytes = whole.clone();
            bytes[block * 4096..(block + 1) * 4096].fill(0);
            fs::write(&path, &bytes).unwrap();
            let found = read_all(dir.path());
            assert!(found.len() < good.len() && good.starts_with(&found), "block {block}");
            assert_eq!(found.is_empty(), block == 0);
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), files(), 1).unwrap();
        for seq in 1..=5 {
            journal.append(&payload(seq)).unwrap();
        }
        let path = segments(dir.path()).unwrap()[0].path.clone();
        let whole = fs::read(&path).unwrap();
        let good = read_all(dir.path());
        let last = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for at in MAGIC.len()..=last {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            fs::write(&path, &bytes).unwrap();
            let found = read_all(dir.path());
            assert!(found.len() < good.len() && good.starts_with(&found), "byte {at}");
        }
    }

    #[test]
    fn a_full_disk_loses_the_record_and_nothing_else() {
        for refuses_truncate in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let faults = Faults::unlimited();
            let mut journal = Journal::begin(dir.path(), faults.media(), 1).unwrap();
            journal.append(b"first").unwrap();
            faults.room.store(10, Ordering::SeqCst);
            faults.no_truncate.store(refuses_truncate, Ordering::SeqCst);
            assert_eq!(journal.append(b"lost").unwrap_err().kind(), io::ErrorKind::StorageFull);
            assert_eq!(read_all(dir.path()), [(1, b"first".to_vec())]);
            faults.room.store(1000, Ordering::SeqCst);
            assert_eq!(journal.append(b"next").is_err(), refuses_truncate);
            faults.no_truncate.store(false, Ordering::SeqCst);
            journal.append(b"last").unwrap();
            let found = read_all(dir.path());
            assert_eq!(found.first(), Some(&(1, b"first".to_vec())));
            assert_eq!(found.last().map(|(_, payload)| payload.as_slice()), Some(&b"last"[..]));
            assert!(found.iter().all(|(_, payload)| payload != b"lost"));
        }
    }

    #[test]
    fn a_disk_that_is_full_from_the_start_recovers() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Arc::new(Faults::default());
        let mut journal = Journal::begin(dir.path(), faults.media(), 4).unwrap();
        assert!(journal.append(b"x").is_err() && journal.is_empty());
        faults.room.store(100, Ordering::SeqCst);
        assert_eq!(journal.append(b"y").unwrap(), 4);
        assert_eq!(read_all(dir.path()), [(4, b"y".to_vec())]);
    }

    #[test]
    fn segments_are_closed_when_long_and_dropped_oldest_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), files(), 1).unwrap();
        let big = vec![1; SEGMENT_LEN as usize / 2];
        for _ in 0..5 {
            journal.append(&big).unwrap();
        }
        assert_eq!((journal.closed_count(), journal.active.is_some()), (2, true));
        journal.drop_oldest().unwrap();
        assert_eq!(read_all(dir.path()).iter().map(|(seq, _)| *seq).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[test]
    fn only_what_is_new_is_synced() {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::unlimited();
        let journal = Mutex::new(Journal::begin(dir.path(), faults.media(), 1).unwrap());
        let sync = || {
            let unsynced = journal.lock().unsynced();
            unsynced.write().unwrap();
            journal.lock().synced(&unsynced);
            (unsynced.last_seq, unsynced.dir.is_some(), faults.syncs.swap(0, Ordering::SeqCst))
        };
        journal.lock().append(b"1").unwrap();
        assert_eq!(sync(), (1, true, 1));
        assert_eq!(sync(), (1, false, 0));
        journal.lock().append(b"2").unwrap();
        journal.lock().rotate();
        journal.lock().append(b"3").unwrap();
        assert_eq!(sync(), (3, true, 2));
        assert_eq!(sync(), (3, false, 0));
    }
}
