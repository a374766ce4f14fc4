use super::*;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;

fn with_disk(ordering: Ordering, test: impl FnOnce(&mut LossyDisk)) {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = LossyDisk::new(dir.path().join("disk"), ordering);
    test(&mut disk);
}

fn write(path: &Path, bytes: &[u8]) -> File {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn sync_dir(path: &Path) {
    File::open(path).unwrap().sync_all().unwrap();
}

fn some(share: f64, seed: u64) -> Cut {
    Cut::Some { share, rng: Box::new(StdRng::seed_from_u64(seed)) }
}

#[test]
fn without_a_cut_it_is_a_filesystem() {
    with_disk(Ordering::Loose, |disk| {
        let dir = disk.path().join("dir");
        fs::create_dir(&dir).unwrap();
        let path = dir.join("file");
        let bytes: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
        let file = write(&path, &bytes);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        file.set_len(1 << 40).unwrap();
        let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap();
        assert_eq!(hole, 300_000_u64.next_multiple_of(4096));
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(hole)), Err(rustix::io::Errno::NXIO));
        file.set_len(100).unwrap();
        file.set_len(200).unwrap();
        assert_eq!(fs::read(&path).unwrap(), [&bytes[..100], &[0; 100]].concat(), "what was cut off is gone");
        drop(file);
        fs::rename(&path, dir.join("other")).unwrap();
        assert_eq!(fs::remove_dir(&dir).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
        std::os::unix::fs::symlink("other", dir.join("link")).unwrap();
        assert_eq!(fs::read(dir.join("link")).unwrap().len(), 200);
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["link", "other"]);
        fs::remove_dir_all(&dir).unwrap();
        assert!(!dir.exists());
    });
}

#[test]
fn what_was_synced_stays_and_what_was_not_goes() {
    with_disk(Ordering::Loose, |disk| {
        let synced = disk.path().join("synced");
        write(&synced, b"first").sync_all().unwrap();
        write(&disk.path().join("bytes not synced"), b"lost");
        sync_dir(disk.path());
        write(&disk.path().join("name not synced"), b"lost").sync_all().unwrap();
        OpenOptions::new().append(true).open(&synced).unwrap().write_all(b" second").unwrap();
        assert!(!disk.is_all_durable());
        disk.cut(Cut::Nothing);
        assert!(disk.is_all_durable());
        assert_eq!(fs::read(&synced).unwrap(), b"first");
        assert_eq!(fs::read(disk.path().join("bytes not synced")).unwrap(), b"");
        assert!(!disk.path().join("name not synced").exists());
    });
}

#[test]
fn a_journalled_disk_keeps_the_names_with_any_sync() {
    with_disk(Ordering::Journalled, |disk| {
        fs::create_dir(disk.path().join("dir")).unwrap();
        write(&disk.path().join("dir/file"), b"kept").sync_all().unwrap();
        disk.cut(Cut::Nothing);
        assert_eq!(fs::read(disk.path().join("dir/file")).unwrap(), b"kept");
    });
}

#[test]
fn sizes_without_bytes_are_holes() {
    with_disk(Ordering::Loose, |disk| {
        let path = disk.path().join("file");
        let file = write(&path, &[1; 4096]);
        file.sync_all().unwrap();
        file.write_all_at(&[2; 8192], 0).unwrap();
        drop(file);
        disk.cut(Cut::MetadataOnly);
        assert_eq!(fs::read(&path).unwrap(), [[1; 4096], [0; 4096]].concat());
        let file = File::open(&path).unwrap();
        assert_eq!(rustix::fs::seek(&file, rustix::fs::SeekFrom::Hole(0)).unwrap(), 4096);
    });
}

#[test]
fn a_rename_is_there_wholly_or_not_at_all() {
    let mut outcomes = std::collections::BTreeSet::new();
    for seed in 0..12 {
        with_disk(Ordering::Loose, |disk| {
            let (old, new) = (disk.path().join("old"), disk.path().join("new"));
            write(&old, b"old").sync_all().unwrap();
            write(&new, b"new").sync_all().unwrap();
            sync_dir(disk.path());
            fs::rename(&new, &old).unwrap();
            disk.cut(some(0.5, seed));
            let found = (fs::read(&old).unwrap(), new.exists());
            assert!(found == (b"new".to_vec(), false) || found == (b"old".to_vec(), true), "{found:?}");
            outcomes.insert(found);
        });
    }
    assert_eq!(outcomes.len(), 2, "both happen");
}

#[test]
fn blocks_are_kept_or_lost_each_for_itself() {
    with_disk(Ordering::Loose, |disk| {
        let path = disk.path().join("file");
        let file = write(&path, &vec![1; 64 * 4096]);
        file.sync_all().unwrap();
        sync_dir(disk.path());
        file.write_all_at(&vec![2; 64 * 4096], 0).unwrap();
        drop(file);
        disk.cut(some(0.5, 1));
        let found = fs::read(&path).unwrap();
        let blocks: std::collections::BTreeSet<&[u8]> = found.chunks(4096).collect();
        assert_eq!(blocks.into_iter().collect::<Vec<_>>(), [&[1; 4096][..], &[2; 4096][..]]);
    });
}

#[test]
fn sqlite_keeps_its_word_on_it() {
    for seed in 0..12 {
        with_disk(if seed % 2 == 0 { Ordering::Loose } else { Ordering::Journalled }, |disk| {
            let path = disk.path().join("db");
            let open = || {
                let db = rusqlite::Connection::open(&path).unwrap();
                // Without the exclusive mode it would map shared memory, and a process that serves a disk must not map
                // that disk's files: it would wait for itself.
                db.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA journal_mode = WAL").unwrap();
                // Closing leaves everything as a process does that is killed.
                db.set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
                db
            };
            let db = open();
            db.execute_batch("CREATE TABLE t (n INTEGER)").unwrap();
            for n in 0..50 {
                db.execute("INSERT INTO t VALUES (?1)", [n]).unwrap();
            }
            drop(db);
            disk.power_cut(seed);
            let kept: i64 = open().query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(kept, 50);
        });
    }
}
