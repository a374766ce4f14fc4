//! A database that an earlier version wrote becomes one of today's: whatever it holds, and wherever that is interrupted.

use crate::support::*;
use rusqlite::{Connection, params};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::{CommitRequest, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{Attrs, Epoch, Extent, FileHash, Manifest, NodeId, Timestamp};
use syncmount_server::Service;
use syncmount_server::data::Data;
use syncmount_server::meta::FOLDER_BYTES_MAX;
use syncmount_server::service::{Path as FolderPath, ServiceError};

/// The tables as they were before they became STRICT.
const FORMAT_5: &str = include_str!("format_5.sql");

/// The size of a file that an earlier version took, in bytes.
const HUGE: u64 = 5 << 60;

fn database(data: &Path) -> Connection {
    Connection::open(data.join("meta.sqlite")).unwrap()
}

fn format(data: &Path) -> i64 {
    database(data).query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap()
}

/// A data directory of an earlier version with an empty folder.
fn old_directory() -> (tempfile::TempDir, Connection) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("packs")).unwrap();
    let database = database(directory.path());
    database.execute_batch(FORMAT_5).unwrap();
    let folder = "INSERT INTO folders VALUES (1, ?, 'default', ?, 0, 0, 0, 0)";
    database.execute(folder, params![[1_u8; 16], [2_u8; 16]]).unwrap();
    add_node(&database, [0; 16], 0, 1, None);
    (directory, database)
}

fn add_node(database: &Connection, id: [u8; 16], rev: i64, kind: i64, content: Option<&Manifest>) {
    let sql = "INSERT INTO nodes (folder, id, rev, kind, deleted, mode, mtime, content, author, content_rev, \
               content_author, born) VALUES (1, ?1, ?2, ?3, 0, 420, 5, ?4, ?5, ?2, ?5, ?2)";
    let content = content.map(|manifest| manifest.content_hash());
    let content = content.as_ref().map(|hash| hash.as_bytes());
    database.execute(sql, params![id, rev, kind, content, [7_u8; 16]]).unwrap();
}

fn add_file(database: &Connection, name: &str, rev: i64, manifest: &Manifest, told: Option<FileHash>) {
    let id = [rev as u8; 16];
    add_node(database, id, rev, 0, Some(manifest));
    let sql = "INSERT INTO names VALUES (1, zeroblob(16), ?, ?)";
    database.execute(sql, params![name.as_bytes(), id]).unwrap();
    let sql = "INSERT OR IGNORE INTO contents (hash, size, sha256, manifest) VALUES (?, ?, ?, ?)";
    let (hash, told) = (manifest.content_hash(), told.as_ref().map(|told| told.as_bytes()));
    database.execute(sql, params![hash.as_bytes(), manifest.size() as i64, told, manifest.encode()]).unwrap();
    let sql = "UPDATE folders SET seq = ?, nodes = nodes + 1, bytes = bytes + ?";
    database.execute(sql, params![rev, manifest.size() as i64]).unwrap();
}

fn add_chunk(database: &Connection, bytes: &[u8]) -> Extent {
    let (hash, envelope) = chunk(bytes);
    let sql = "INSERT INTO small_chunks (hash, raw_len, envelope) VALUES (?, ?, ?)";
    database.execute(sql, params![hash.as_bytes(), bytes.len() as i64, &envelope[..]]).unwrap();
    Extent::Chunk { hash, len: bytes.len() as u32 }
}

/// Two files of 5 EiB, which made the sum a REAL, and two small ones with what a client told of their bytes.
fn damaged() -> tempfile::TempDir {
    let (directory, database) = old_directory();
    let hole = |len| Manifest::new(vec![Extent::Hole { len }]).unwrap();
    let (one, two) = (add_chunk(&database, b"one"), add_chunk(&database, b"two"));
    add_file(&database, "huge-1", 1, &hole(HUGE), Some(FileHash::of(b"a lie")));
    add_file(&database, "huge-2", 2, &hole(HUGE + 1), None);
    add_file(&database, "short", 3, &Manifest::new(vec![one]).unwrap(), Some(FileHash::of(b"one")));
    let many = Manifest::new(vec![one, two]).unwrap();
    add_file(&database, "many", 4, &many, Some(FileHash::of(b"another lie")));
    let kind: String = database.query_row("SELECT typeof(bytes) FROM folders", [], |row| row.get(0)).unwrap();
    assert_eq!(kind, "real", "this is what the earlier version left");
    directory
}

fn path(name: &str) -> FolderPath {
    FolderPath::new([name.as_bytes().to_vec()]).unwrap()
}

async fn commit(service: &Service, ops: Vec<Op>) -> Result<u64, ServiceError> {
    let epoch = service.folder(F).await?.cursor.epoch;
    let commit = CommitRequest { contents: vec![content(b"one").0], ..request(epoch, ops) };
    Ok(service.commit(F, commit, vec![chunk(b"one")]).await?.first_seq)
}

#[tokio::test]
async fn a_folder_that_one_commit_had_ended_goes_on() {
    let directory = damaged();
    let data = Data::take(directory.path()).await.unwrap();
    let service = &data.service;
    service.check().await.unwrap();
    let info = service.folder(F).await.unwrap();
    assert_eq!((info.nodes, info.bytes), (4, FOLDER_BYTES_MAX));
    assert_eq!(service.folders().await.unwrap().folders.len(), 1);
    assert_eq!(service.changes(F, None, 100, 65_536).await.unwrap().page.nodes.len(), 4);
    assert_eq!(service.list(F, &FolderPath::default(), None, 10).await.unwrap().entries.len(), 4);
    service.history(F, 10).await.unwrap();
    service.undo(F, 4, true).await.unwrap();
    assert_eq!(service.scrub(false).await.unwrap().problems, [] as [String; 0]);

    // What was there may be changed and removed, but the folder does not grow.
    let small = create(id(), ROOT, "more", hash_of(&content(b"one").0));
    let refused = commit(service, vec![small.clone()]).await;
    assert!(matches!(&refused, Err(ServiceError::Invalid(text)) if text.contains("folder can hold")), "{refused:?}");
    let touch = Op::Update {
        id: NodeId::from_bytes([1; 16]),
        base: 1,
        names: None,
        attrs: Some(Attrs { mode: 0o600, mtime: Timestamp(9) }),
        xattrs: None,
        content: None,
    };
    assert_eq!(commit(service, vec![touch]).await.unwrap(), 5);
    commit(service, vec![remove(NodeId::from_bytes([2; 16]), 2)]).await.unwrap();
    let info = service.folder(F).await.unwrap();
    assert_eq!((info.nodes, info.bytes), (3, HUGE + 3 + 6), "now the sum is exact again");
    commit(service, vec![small]).await.unwrap();
    assert_eq!(service.folder(F).await.unwrap().bytes, HUGE + 3 + 6 + 3);
    service.restored().await.unwrap();
    assert_eq!(service.scrub(false).await.unwrap().problems, [] as [String; 0]);
}

#[tokio::test]
async fn what_a_client_told_of_a_file_of_several_chunks_is_forgotten() {
    let directory = damaged();
    let data = Data::take(directory.path()).await.unwrap();
    let told = async |name| data.service.info(F, &path(name)).await.unwrap().sha256;
    assert_eq!((told("huge-1").await, told("many").await), (None, None));
    assert_eq!(told("short").await, Some(FileHash::of(b"one")), "it is the hash of its one chunk");
    let nodes = data.service.changes(F, None, 100, 0).await.unwrap().page.nodes;
    assert_eq!(nodes.iter().filter(|node| node.content.as_ref().is_some_and(|it| it.sha256.is_some())).count(), 1);
}

#[tokio::test]
async fn no_column_takes_a_value_of_another_type_any_more() {
    let directory = damaged();
    drop(Data::take(directory.path()).await.unwrap());
    let database = database(directory.path());
    let sql = "SELECT count(*), sum(strict) FROM pragma_table_list WHERE schema = 'main' AND name NOT LIKE 'sqlite%'";
    let (tables, strict): (i64, i64) = database.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert!(tables >= 15 && tables == strict, "{strict} of {tables}");
    for sql in ["UPDATE folders SET bytes = 1.5", "UPDATE nodes SET mode = 'x'", "UPDATE names SET name = 'text'"] {
        assert!(database.execute(sql, []).is_err(), "{sql}");
    }
    assert!(
        database
            .execute(
                "INSERT INTO nodes SELECT 9, id, rev, kind, deleted, mode, mtime, content, target, author, \
        content_rev, content_author, born, xattrs FROM nodes LIMIT 1",
                []
            )
            .is_err(),
        "of a folder that is not there"
    );
}

#[tokio::test]
async fn values_of_a_wrong_type_anywhere_keep_no_server_from_starting() {
    let directory = damaged();
    {
        let database = database(directory.path());
        let wrong = "UPDATE contents SET size = 1e300 WHERE key = 1; UPDATE nodes SET mtime = 'then' WHERE rev = 3; \
                     UPDATE names SET name = 'short' WHERE name = CAST('short' AS BLOB); \
                     INSERT INTO devices VALUES (zeroblob(16), x'6162')";
        database.execute_batch(wrong).unwrap();
    }
    let data = Data::take(directory.path()).await.unwrap();
    assert_eq!(data.service.changes(F, None, 100, 0).await.unwrap().page.nodes.len(), 4);
    assert_eq!(data.service.info(F, &path("short")).await.unwrap().mtime, Timestamp(0));
    let problems = data.service.scrub(false).await.unwrap().problems;
    assert!(problems.len() == 1 && problems[0].contains("its row says"), "{problems:?}");
}

fn add_commit(database: &Connection, seq: i64, tag: i64) {
    let sql = "INSERT INTO commits VALUES (1, ?1, ?1, ?2, 0, ?3, 1, 0, 0, 0)";
    database.execute(sql, params![seq, tag, [7_u8; 16]]).unwrap();
}

/// Puts another database in the place of a stopped server's.
fn put_back(data: &Path, backup: &Path) {
    for name in ["meta.sqlite-wal", "meta.sqlite-shm"] {
        // A server that has ended well leaves none.
        drop(std::fs::remove_file(data.join(name)));
    }
    std::fs::copy(backup, data.join("meta.sqlite")).unwrap();
}

async fn is_refused(service: &Service, cursor: Cursor) -> bool {
    match service.changes(F, Some(cursor), 10, 0).await {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.code(), ErrorCode::Resync, "{error}");
            true
        }
    }
}

#[tokio::test]
async fn a_backup_of_before_the_upgrade_that_is_put_back_is_noticed() {
    let (directory, database) = old_directory();
    let data = directory.path();
    let manifest = Manifest::new(vec![add_chunk(&database, b"one")]).unwrap();
    add_file(&database, "first", 1, &manifest, None);
    add_commit(&database, 1, 0x1111_2222_3333_4444);
    let backup = data.join("backup");
    std::fs::copy(data.join("meta.sqlite"), &backup).unwrap();
    add_file(&database, "second", 2, &manifest, None);
    add_commit(&database, 2, 0x5555_6666_7777_0001);
    drop(database);

    // An old client has read up to here, and the server is upgraded.
    let epoch = Epoch::from_bytes([2; 16]);
    let early = Cursor { epoch, seq: 1, tag: 0x1111_2222_3333_4444 };
    let of_old = Cursor { epoch, seq: 2, tag: 0x5555_6666_7777_0001 };
    let taken = Data::take(data).await.unwrap();
    assert_eq!(taken.service.folder(F).await.unwrap().cursor, of_old, "old tags are told as before");
    commit(&taken.service, vec![mkdir(id(), ROOT, "third")]).await.unwrap();
    let of_new = taken.service.folder(F).await.unwrap().cursor;
    assert!(!is_refused(&taken.service, early).await && !is_refused(&taken.service, of_old).await);
    taken.service.close().unwrap();
    drop(taken);

    let key = std::fs::read_to_string(data.join("cursor.key")).unwrap();
    let long_ago = format!("{} 0\n", key.split_once(' ').unwrap().0);
    // (the first client that comes, what is left of the key, whether it renews the epoch)
    let cases = [
        (of_new, Some(&key), true),
        (of_old, Some(&key), true),
        (of_new, Some(&long_ago), true),
        (of_old, Some(&long_ago), false),
        (of_new, None, true),
        (of_old, None, true),
    ];
    for (first, key, renews) in cases {
        put_back(data, &backup);
        match key {
            Some(key) => std::fs::write(data.join("cursor.key"), key).unwrap(),
            None => std::fs::remove_file(data.join("cursor.key")).unwrap(),
        }
        let taken = Data::take(data).await.unwrap();
        let service = &taken.service;
        assert_eq!(service.folder(F).await.unwrap().cursor, early);
        assert!(!is_refused(service, early).await, "a client that knows no more goes on");
        assert!(is_refused(service, first).await);
        let cursor = service.folder(F).await.unwrap().cursor;
        assert_eq!(cursor.epoch != epoch, renews, "{first} {key:?}");
        if renews {
            for late in [early, of_old, of_new] {
                assert!(is_refused(service, late).await, "every other client reads again");
            }
            assert_eq!(service.folder(F).await.unwrap().cursor, cursor, "but once is enough");
        } else {
            assert!(is_refused(service, of_new).await, "a client of today proves it");
            assert_ne!(service.folder(F).await.unwrap().cursor.epoch, epoch);
        }
        service.close().unwrap();
    }
}

#[tokio::test]
async fn a_key_that_is_damaged_is_told_and_none_is_made_by_a_command() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = damaged();
    let key = directory.path().join("cursor.key");
    Data::visit(directory.path()).unwrap().close().unwrap();
    assert!(!key.exists());
    // A start that was cut short leaves such a file; another user may have put a link there.
    let elsewhere = directory.path().join("elsewhere");
    std::fs::write(&elsewhere, "mine").unwrap();
    std::os::unix::fs::symlink(&elsewhere, directory.path().join("cursor.new")).unwrap();
    Data::take(directory.path()).await.unwrap().service.close().unwrap();
    assert_eq!(std::fs::read(&elsewhere).unwrap(), b"mine");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let made = std::fs::read(&key).unwrap();
    Data::take(directory.path()).await.unwrap().service.close().unwrap();
    assert_eq!(std::fs::read(&key).unwrap(), made, "it is made once");
    for damaged in [&b"short 5"[..], b"\xff\xfe", b""] {
        std::fs::write(&key, damaged).unwrap();
        let refused = Data::take(directory.path()).await.err().unwrap().to_string();
        assert!(refused.contains("cursor.key is damaged"), "{refused}");
    }
}

fn list_folders(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_syncmount-server"));
    command.args(["folder", "list", "--data"]).arg(data).stdin(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn an_upgrade_that_is_killed_in_its_middle_is_done_by_the_next_start() {
    const ROWS: i64 = 120;
    const LEN: i64 = 700_000;
    let directory = damaged();
    let data = directory.path();
    {
        let database = database(data);
        database.pragma_update(None, "journal_mode", "WAL").unwrap();
        for row in 0..ROWS {
            let sql = "INSERT INTO small_chunks (hash, raw_len, envelope) VALUES (randomblob(32), ?, randomblob(?))";
            database.execute(sql, params![row, LEN]).unwrap();
        }
    }
    let log = data.join("meta.sqlite-wal");
    let mut killed = 0;
    for _ in 0..3 {
        let before = std::fs::metadata(&log).map_or(0, |log| log.len());
        let mut child = list_folders(data).stdout(Stdio::null()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        // Once its cache is full, what it has written but not committed lies in the log.
        while std::fs::metadata(&log).map_or(0, |log| log.len()) < before + 4_000_000
            && child.try_wait().unwrap().is_none()
        {
            assert!(Instant::now() < deadline, "it hangs");
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        if format(data) > 5 {
            break;
        }
        killed += 1;
    }
    assert!(killed > 0, "it was never killed in its middle");
    let listed = list_folders(data).output().unwrap();
    assert!(listed.status.success());
    assert!(String::from_utf8(listed.stdout).unwrap().starts_with("default\t"));
    let database = database(data);
    let sum = "SELECT count(*), sum(length(envelope)) FROM small_chunks WHERE raw_len >= 0 AND length(envelope) > 1000";
    let sum: (i64, i64) = database.query_row(sum, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(sum, (ROWS, ROWS * LEN));
    let folder = "SELECT nodes, bytes FROM folders";
    let folder: (i64, i64) = database.query_row(folder, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!(folder, (4, i64::MAX));
    let left = "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'strict\\_%' ESCAPE '\\'";
    assert_eq!(database.query_row(left, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}
