//! The state against a map in memory, with crashes in between.

use super::journal::tests::Faults;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering;

const NEVER: Duration = Duration::from_secs(3600);

type Rows = BTreeMap<[u8; 16], Vec<u8>>;

fn id(n: u8) -> [u8; 16] {
    [n; 16]
}

fn put(n: u8, data: &[u8]) -> Record {
    Record { rows: vec![(id(n), Some(data.to_vec()))], meta: Vec::new() }
}

fn open(dir: &Path) -> (State, Loaded) {
    State::open_with(dir, journal::files(), NEVER).unwrap()
}

fn rows(loaded: &Loaded) -> Rows {
    loaded.rows.iter().cloned().collect()
}

/// Length of the segments without the room ahead.
fn journal_len(dir: &Path) -> u64 {
    let segments = journal::segments(&dir.join("journal")).unwrap();
    // One may be folded and removed between the look at the directory and that at the file.
    let replays = segments.iter().filter_map(|segment| Replay::read(&segment.path).ok());
    replays.map(|replay| 8 + replay.records().map(|(_, payload)| 16 + payload.len() as u64).sum::<u64>()).sum()
}

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[test]
fn what_was_appended_is_there_after_a_crash_and_after_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let (state, loaded) = open(dir.path());
    assert!(loaded.rows.is_empty() && loaded.meta.is_empty() && !loaded.suspect);
    state.append(&put(1, b"one")).unwrap();
    state.append(&Record { rows: Vec::new(), meta: vec![("cursor".to_owned(), Some(b"7".to_vec()))] }).unwrap();
    drop(state);
    let (state, loaded) = open(dir.path());
    assert_eq!(rows(&loaded), Rows::from([(id(1), b"one".to_vec())]));
    assert_eq!(loaded.meta["cursor"], b"7");
    assert_eq!(loaded.repaired, [""; 0]);
    state.append(&Record { rows: vec![(id(1), None)], meta: vec![("cursor".to_owned(), None)] }).unwrap();
    state.close().unwrap();
    assert!(state.append(&put(2, b"late")).is_err());
    drop(state);
    let (_state, loaded) = open(dir.path());
    assert!(loaded.rows.is_empty() && loaded.meta.is_empty());
}

#[test]
fn cut_at_any_byte_a_prefix_of_the_records_is_left() {
    let origin = tempfile::tempdir().unwrap();
    let (state, _) = open(origin.path());
    let mut ends = Vec::new();
    for n in 0..6u8 {
        state.append(&put(n % 2, &[n])).unwrap();
        ends.push(journal_len(origin.path()));
    }
    drop(state);
    for cut in 0..=*ends.last().unwrap() {
        let copy = tempfile::tempdir().unwrap();
        copy_dir(origin.path(), copy.path());
        let segment = journal::segments(&copy.path().join("journal")).unwrap().remove(0);
        fs::OpenOptions::new().write(true).open(&segment.path).unwrap().set_len(cut).unwrap();
        let count = ends.iter().filter(|end| **end <= cut).count() as u8;
        let expected: Rows = (0..count).map(|n| (id(n % 2), vec![n])).collect();
        let (state, loaded) = open(copy.path());
        assert_eq!(rows(&loaded), expected, "cut at {cut}");
        assert_eq!(loaded.repaired.len(), usize::from(cut > 0 && cut != 8 && !ends.contains(&cut)), "cut at {cut}");
        state.append(&put(9, b"goes on")).unwrap();
        drop(state);
        assert!(rows(&open(copy.path()).1).contains_key(&id(9)));
    }
}

#[test]
fn a_record_that_has_become_zeros_is_missed() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = State::open_with(dir.path(), journal::files(), Duration::from_mins(1)).unwrap();
    state.append(&put(1, b"stays")).unwrap();
    let end = journal_len(dir.path());
    state.append(&put(2, b"goes")).unwrap();
    let segment = journal::segments(&dir.path().join("journal")).unwrap().remove(0);
    let file = fs::OpenOptions::new().write(true).open(&segment.path).unwrap();
    file.set_len(end).unwrap();
    file.set_len(end + 4096).unwrap();
    let error = state.checkpoint().unwrap_err();
    assert!(matches!(error, StateError::Damaged { .. }), "{error}");
}

#[test]
fn a_gap_between_segments_ends_the_replay_and_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let mut journal = Journal::begin(&dir.path().join("journal"), journal::files(), 1).unwrap();
    for n in 1..=3u8 {
        journal.append(&postcard::to_allocvec(&put(n, b"x")).unwrap()).unwrap();
        journal.rotate();
    }
    let segments = journal::segments(&dir.path().join("journal")).unwrap();
    drop(journal);
    fs::remove_file(&segments[1].path).unwrap();
    let (_state, loaded) = open(dir.path());
    assert_eq!(rows(&loaded).len(), 1);
    assert!(loaded.repaired[0].contains("00000003"), "{:?}", loaded.repaired);
    assert!(segments[2].path.with_extension("damaged").exists());
}

#[test]
fn a_crash_between_fold_and_removal_does_not_fold_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    state.append(&put(1, b"old")).unwrap();
    let segment = journal::segments(&dir.path().join("journal")).unwrap().remove(0);
    let bytes = fs::read(&segment.path).unwrap();
    state.checkpoint().unwrap();
    state.append(&put(1, b"new")).unwrap();
    state.checkpoint().unwrap();
    drop(state);
    fs::write(&segment.path, bytes).unwrap();
    let (_state, loaded) = open(dir.path());
    assert_eq!(rows(&loaded)[&id(1)], b"new");
    assert_eq!(loaded.repaired, [""; 0]);
}

#[test]
fn the_thread_folds_what_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = State::open_with(dir.path(), journal::files(), Duration::from_millis(10)).unwrap();
    state.append(&put(1, b"x")).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    while journal_len(dir.path()) > 0 {
        assert!(Instant::now() < until, "the journal is not folded");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_long_record_goes_past_the_journal_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    state.append(&put(1, b"before")).unwrap();
    let many = Record {
        rows: (0..5000u32).map(|n| (u128::from(n).to_be_bytes(), Some(vec![1]))).collect(),
        ..Record::default()
    };
    state.append(&many).unwrap();
    assert_eq!(journal_len(dir.path()), 0);
    state.append(&Record { rows: vec![(1u128.to_be_bytes(), None)], ..Record::default() }).unwrap();
    drop(state);
    let (_state, loaded) = open(dir.path());
    assert_eq!((loaded.rows.len(), loaded.repaired.len()), (5000, 0));
}

#[test]
fn a_full_disk_refuses_the_record_and_keeps_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::unlimited();
    let (state, _) = State::open_with(dir.path(), faults.media(), NEVER).unwrap();
    state.append(&put(1, b"kept")).unwrap();
    faults.room.store(20, Ordering::SeqCst);
    assert_eq!(state.append(&put(2, b"refused")).unwrap_err().kind(), io::ErrorKind::StorageFull);
    faults.room.store(u64::MAX, Ordering::SeqCst);
    state.append(&put(3, b"again")).unwrap();
    state.checkpoint().unwrap();
    drop(state);
    let found = rows(&open(dir.path()).1);
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [id(1), id(3)]);
}

#[test]
fn after_a_failed_sync_only_the_database_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::unlimited();
    let (state, _) = State::open_with(dir.path(), faults.media(), NEVER).unwrap();
    state.append(&put(1, b"x")).unwrap();
    faults.no_sync.store(true, Ordering::SeqCst);
    assert!(state.sync().is_err());
    state.sync().unwrap();
    assert_eq!(journal_len(dir.path()), 0, "the records were folded instead");
}

#[test]
fn syncs_that_come_together_share_one() {
    let dir = tempfile::tempdir().unwrap();
    let faults = Faults::unlimited();
    let (state, _) = State::open_with(dir.path(), faults.media(), NEVER).unwrap();
    std::thread::scope(|scope| {
        for n in 0..16u8 {
            let state = &state;
            scope.spawn(move || {
                state.append(&put(n, b"x")).unwrap();
                state.sync().unwrap();
                state.sync().unwrap();
            });
        }
    });
    assert!(faults.syncs.load(Ordering::SeqCst) <= 16);
    drop(state);
    assert_eq!(open(dir.path()).1.rows.len(), 16);
}

#[test]
fn many_writers_lose_nothing_while_it_folds() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = State::open_with(dir.path(), journal::files(), Duration::from_millis(1)).unwrap();
    std::thread::scope(|scope| {
        for n in 0..4u8 {
            let state = &state;
            scope.spawn(move || {
                for k in 0..200u8 {
                    let mut key = id(n);
                    key[1] = k;
                    state.append(&Record { rows: vec![(key, Some(vec![k]))], ..Record::default() }).unwrap();
                }
            });
        }
    });
    drop(state);
    let (_state, loaded) = open(dir.path());
    assert_eq!((loaded.rows.len(), loaded.repaired.len()), (800, 0));
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    assert!(matches!(State::open(dir.path()), Err(StateError::InUse { .. })));
    state.close().unwrap();
    drop(state);
    let file = dir.path().join("state.sqlite");
    let connection = rusqlite::Connection::open(&file).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let newer = State::open(dir.path()).err().unwrap();
    assert!(matches!(newer, StateError::Newer { found: 99, .. }), "{newer}");
    fs::write(&file, vec![7; 8192]).unwrap();
    let damaged = State::open(dir.path()).err().unwrap();
    assert!(matches!(damaged, StateError::Damaged { .. }), "{damaged}");
    let in_the_way = dir.path().join("file");
    fs::write(&in_the_way, b"").unwrap();
    assert!(State::open(&in_the_way).is_err());
}

#[test]
fn a_first_join_in_long_records_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    for part in 0..10u128 {
        let rows = (0..10_000).map(|n| ((part * 10_000 + n).to_be_bytes(), Some(vec![7; 150]))).collect();
        state.append(&Record { rows, ..Record::default() }).unwrap();
    }
    drop(state);
    let (_state, loaded) = open(dir.path());
    assert_eq!(loaded.rows.len(), 100_000);
}

#[test]
fn a_file_of_rows_that_are_gone_becomes_small_again() {
    let dir = tempfile::tempdir().unwrap();
    let (state, _) = open(dir.path());
    let rows = |data: Option<Vec<u8>>| (0..200_000u128).map(move |n| (n.to_be_bytes(), data.clone())).collect();
    state.append(&Record { rows: rows(Some(vec![7; 150])), ..Record::default() }).unwrap();
    state.append(&Record { rows: rows(None), ..Record::default() }).unwrap();
    state.append(&put(1, b"left")).unwrap();
    state.close().unwrap();
    let large = state.stored_bytes().unwrap();
    drop(state);
    let (state, loaded) = open(dir.path());
    assert_eq!(loaded.rows.len(), 1);
    state.close().unwrap();
    let small = state.stored_bytes().unwrap();
    assert!(large > 20 << 20 && small < 1 << 20, "{large} bytes, then {small}");
}

#[derive(Clone, Debug)]
enum Step {
    Append(Vec<(u8, Option<Vec<u8>>)>),
    Sync,
    Checkpoint,
    Crash,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    let row = (0u8..8, proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)));
    prop_oneof![
        8 => proptest::collection::vec(row, 0..5).prop_map(Step::Append),
        1 => Just(Step::Sync),
        1 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn it_is_a_map_whatever_happens(steps in proptest::collection::vec(step(), 0..40)) {
        let dir = tempfile::tempdir().unwrap();
        let mut model = Rows::new();
        let (mut state, _) = open(dir.path());
        for step in steps {
            match step {
                Step::Append(changes) => {
                    let rows = changes.iter().map(|(n, data)| (id(*n), data.clone())).collect();
                    state.append(&Record { rows, ..Record::default() }).unwrap();
                    for (n, data) in changes {
                        match data {
                            Some(data) => model.insert(id(n), data),
                            None => model.remove(&id(n)),
                        };
                    }
                }
                Step::Sync => state.sync().unwrap(),
                Step::Checkpoint => state.checkpoint().unwrap(),
                Step::Crash | Step::Close => {
                    if matches!(step, Step::Close) {
                        state.close().unwrap();
                    }
                    drop(state);
                    let (again, loaded) = open(dir.path());
                    prop_assert_eq!(&rows(&loaded), &model);
                    state = again;
                }
            }
        }
        drop(state);
        prop_assert_eq!(rows(&open(dir.path()).1), model);
    }
}

#[test]
fn rows_that_are_made_one_by_one_are_kept_all_or_not_at_all() {
    let key = |number: usize| {
        let mut key = [0; 16];
        key[..8].copy_from_slice(&number.to_be_bytes());
        key
    };
    for count in [DIRECT_ROWS, DIRECT_ROWS + 1] {
        let dir = tempfile::tempdir().unwrap();
        let (state, _) = open(dir.path());
        let before = Record {
            rows: vec![(key(3), Some(b"old".to_vec())), (key(4), Some(b"old".to_vec()))],
            ..Record::default()
        };
        state.append(&before).unwrap();
        let made = |number: usize| (key(number), (number != 4).then(|| number.to_le_bytes().to_vec()));
        let meta = || vec![("cursor".to_owned(), Some(b"7".to_vec()))];
        let one_fails = (0..count).map(|number| {
            if number == count - 1 { Err(io::Error::other("it cannot be made")) } else { Ok(made(number)) }
        });
        let error = state.append_rows(one_fails, meta()).unwrap_err();
        assert!(error.to_string().contains("it cannot be made"), "{error}");
        drop(state);
        let (state, loaded) = open(dir.path());
        assert_eq!(
            rows(&loaded),
            rows(&Loaded {
                rows: before.rows.into_iter().map(|(id, row)| (id, row.unwrap())).collect(),
                ..Loaded::default()
            })
        );
        assert!(loaded.meta.is_empty());

        state.append_rows((0..count).map(|number| Ok(made(number))), meta()).unwrap();
        drop(state);
        let (_, loaded) = open(dir.path());
        let expected: Rows = (0..count).map(made).filter_map(|(id, row)| Some((id, row?))).collect();
        assert_eq!(rows(&loaded), expected);
        assert_eq!(loaded.meta["cursor"], b"7");
    }
}
