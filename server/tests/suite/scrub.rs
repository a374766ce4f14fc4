//! Check and repair: what is damaged is found, what can be mended is.

use crate::support::*;
use rusqlite::Connection;
use syncmount_common::ChunkHash;
use syncmount_server::data::Data;
use syncmount_server::service::{Scrubbed, ServiceError};

const LEN: usize = 300_000;

/// A stopped server's directory with two files of one packed chunk each, in one pack, and a small one.
struct Stopped {
    directory: tempfile::TempDir,
    hashes: [ChunkHash; 2],
}

fn noise(seed: u32) -> Vec<u8> {
    some_bytes(seed, LEN)
}

async fn stopped() -> Stopped {
    let directory = tempfile::tempdir().unwrap();
    let data = Data::take(directory.path()).await.unwrap();
    send(&data.service, &[("one", &noise(1)), ("two", &noise(2))]).await;
    send(&data.service, &[("small", b"small")]).await;
    data.service.close().unwrap();
    Stopped { directory, hashes: [ChunkHash::of(&noise(1)), ChunkHash::of(&noise(2))] }
}

impl Stopped {
    async fn scrub(&self, repair: bool) -> Scrubbed {
        let (service, _lock) = Data::visit_alone(self.directory.path()).unwrap();
        let found = service.scrub(repair).await.unwrap();
        service.close().unwrap();
        found
    }

    fn database(&self) -> Connection {
        Connection::open(self.directory.path().join("meta.sqlite")).unwrap()
    }

    fn change_pack(&self, change: impl FnOnce(&mut Vec<u8>)) {
        let [pack] = &packs(self.directory.path())[..] else { panic!("one pack") };
        let mut bytes = std::fs::read(pack).unwrap();
        change(&mut bytes);
        std::fs::write(pack, bytes).unwrap();
    }

    /// Where the chunk's envelope begins in the pack.
    fn offset(&self, hash: ChunkHash) -> usize {
        let sql = "SELECT offset FROM chunks WHERE hash = ?";
        self.database().query_row(sql, [hash.as_bytes()], |row| row.get::<_, i64>(0)).unwrap() as usize
    }

    async fn missing(&self) -> Vec<ChunkHash> {
        let service = Data::visit(self.directory.path()).unwrap();
        let missing = service.missing(self.hashes.to_vec()).await.unwrap().missing;
        service.close().unwrap();
        missing
    }
}

#[tokio::test]
async fn a_sound_store_has_no_problems_and_a_repair_changes_nothing() {
    let store = stopped().await;
    for repair in [false, true] {
        let found = store.scrub(repair).await;
        assert_eq!((&found.problems[..], found.packs, found.chunks, found.contents), (&[][..], 1, 3, 3));
        assert_eq!((found.unnamed, found.unreadable, found.entered, found.dropped), (0, 0, 0, 0));
    }
    let _running = Data::take(store.directory.path()).await.unwrap();
    let refused = Data::visit_alone(store.directory.path()).err().unwrap().to_string();
    assert!(refused.contains("stop it first"), "{refused}");
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_the_chunk_is_asked_for_again() {
    let store = stopped().await;
    let at = store.offset(store.hashes[0]) + 1000;
    store.change_pack(|bytes| bytes[at] ^= 1);
    let found = store.scrub(false).await;
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert!(
        found.problems[0].contains(&store.hashes[0].to_string()) && found.problems[1].contains("default:/one: 1 of")
    );
    assert_eq!((found.chunks, store.missing().await), (2, Vec::new()));
    let mended = store.scrub(true).await;
    assert_eq!((mended.dropped, mended.problems.len()), (1, 1), "the file is still damaged");
    assert_eq!(store.missing().await, [store.hashes[0]]);
    let service = Data::visit(store.directory.path()).unwrap();
    let body = content(&noise(1)).0;
    let ops = vec![create(id(), ROOT, "again", hash_of(&body))];
    let mut commit = request(service.folder(F).await.unwrap().cursor.epoch, ops);
    commit.contents.push(body);
    match service.commit(F, commit.clone(), Vec::new()).await {
        Err(ServiceError::Missing(details)) => assert_eq!(details.chunks, [store.hashes[0]]),
        other => panic!("{other:?}"),
    }
    service.commit(F, commit, vec![chunk(&noise(1))]).await.unwrap();
    service.close().unwrap();
    assert!(store.scrub(false).await.problems.is_empty(), "somebody has sent it again");
}

#[tokio::test]
async fn a_cut_pack_is_found() {
    let store = stopped().await;
    store.change_pack(|bytes| bytes.truncate(LEN + 100));
    let (found, mended) = (store.scrub(false).await, store.scrub(true).await);
    assert_eq!(found.problems.len(), 2, "{:?}", found.problems);
    assert_eq!((mended.dropped, mended.problems.len(), store.missing().await.len()), (1, 1, 1));
    std::fs::remove_file(&packs(store.directory.path())[0]).unwrap();
    let (found, mended) = (store.scrub(false).await, store.scrub(true).await);
    assert_eq!((found.problems.len(), mended.problems.len()), (3, 2), "{:?}", found.problems);
    assert_eq!(store.missing().await.len(), 2);
}

#[tokio::test]
async fn dropped_index_rows_are_rebuilt_from_packs() {
    let store = stopped().await;
    store.database().execute("DELETE FROM chunks", []).unwrap();
    let found = store.scrub(false).await;
    assert_eq!((found.problems.len(), found.unnamed), (2, 2), "{:?}", found.problems);
    let mended = store.scrub(true).await;
    assert_eq!((mended.problems.len(), mended.entered), (0, 2));
    assert!(store.scrub(false).await.problems.is_empty() && store.missing().await.is_empty());
}

#[tokio::test]
async fn what_an_upload_that_was_given_up_has_left_in_packs_is_not_entered() {
    let store = stopped().await;
    let service = Data::visit(store.directory.path()).unwrap();
    let mut ingest = service.ingest();
    let (given_up, envelope) = chunk(&noise(3));
    ingest.add(given_up, envelope).await.unwrap();
    drop(ingest.finish().await.unwrap());
    service.close().unwrap();
    // With and without damage that the repair mends meanwhile.
    for lost in [0, 2] {
        if lost > 0 {
            store.database().execute("DELETE FROM chunks", []).unwrap();
        }
        let (found, mended) = (store.scrub(false).await, store.scrub(true).await);
        assert_eq!((found.unnamed, found.packs), (1 + lost, 2));
        assert_eq!((mended.entered, mended.unnamed, mended.problems.len()), (lost, 1, 0));
        let service = Data::visit(store.directory.path()).unwrap();
        assert_eq!(service.missing(vec![given_up]).await.unwrap().missing, [given_up]);
        service.close().unwrap();
    }
}

#[tokio::test]
async fn a_row_that_leads_elsewhere_is_set_right_and_a_damaged_head_moved() {
    let store = stopped().await;
    store
        .database()
        .execute("UPDATE chunks SET offset = offset + 1 WHERE hash = ?", [store.hashes[1].as_bytes()])
        .unwrap();
    assert_eq!(store.scrub(false).await.problems.len(), 2);
    let mended = store.scrub(true).await;
    assert_eq!((mended.problems.len(), mended.dropped, mended.entered), (0, 1, 1));
    let at = store.offset(store.hashes[0]) - 10;
    store.change_pack(|bytes| bytes[at] ^= 1);
    assert!(store.scrub(false).await.problems[0].contains("head"));
    assert!(store.scrub(true).await.problems.is_empty());
    let after = store.scrub(false).await;
    assert_eq!((after.problems.len(), after.packs, after.chunks), (0, 2, 3));
    assert!(after.unreadable > LEN as u64);
}

#[tokio::test]
async fn damage_in_the_database_is_told() {
    let store = stopped().await;
    let database = store.database();
    database.execute("UPDATE small_chunks SET envelope = zeroblob(13)", []).unwrap();
    database.execute("UPDATE contents SET size = size + 1 WHERE size > 1000 AND key = 1", []).unwrap();
    drop(database);
    let found = store.scrub(false).await;
    assert_eq!(found.problems.len(), 4, "{:?}", found.problems);
    assert!(found.problems[0].contains("has 3 nodes with 600006 bytes"), "{:?}", found.problems);
    assert!(found.problems.iter().any(|line| line.starts_with("default:/small: 1 of its 1 chunks")));
    assert!(found.problems.iter().any(|line| line.contains("its row says 300001")));
}

#[tokio::test]
async fn wrong_counters_are_told_and_recounted() {
    let store = stopped().await;
    store.database().execute("UPDATE folders SET nodes = 7, bytes = bytes - 1", []).unwrap();
    let found = store.scrub(false).await;
    let told = "the folder `default` has 3 nodes with 600005 bytes, its row says 7 nodes with 600004 bytes";
    assert_eq!(found.problems, [told]);
    let mended = store.scrub(true).await;
    assert_eq!((mended.problems.len(), mended.recounted), (0, 1));
    assert!(store.scrub(false).await.problems.is_empty());
}

#[tokio::test]
async fn every_row_of_every_table_is_read() {
    let broken = [
        ("UPDATE folders SET epoch = x'01'", "`folders`, row 1"),
        ("UPDATE folders SET history_from = -1", "`folders`, row 1"),
        ("UPDATE nodes SET mode = -1 WHERE rev = 2", "`nodes`, row"),
        ("UPDATE nodes SET content = zeroblob(32) WHERE rev = 2", "names a content that is not there"),
        ("UPDATE nodes SET xattrs = x'ff' WHERE rev = 2", "`nodes`, row"),
        ("UPDATE nodes SET deleted = 1 WHERE rev = 2", "has a name, but is not there"),
        ("UPDATE nodes SET rev = 99 WHERE rev = 2", "was changed after the folder's last change"),
        ("UPDATE nodes SET kind = 0 WHERE rev = 0", "lies in what is no directory"),
        ("UPDATE names SET name = x'2e2e' WHERE name = CAST('one' AS BLOB)", "`names`, row"),
        ("DELETE FROM names WHERE name = CAST('one' AS BLOB)", "has no name"),
        ("UPDATE versions SET content = zeroblob(32)", "whose content is not there"),
        ("UPDATE versions SET device = x''", "`versions`, row 1"),
        ("UPDATE contents SET sha256 = x'00' WHERE key = 1", "`contents`, row 1"),
        ("UPDATE packs SET id = x'00'", "`packs`, row 1"),
        ("UPDATE chunks SET offset = -5", "`chunks`, row 1"),
        ("UPDATE small_chunks SET raw_len = -5", "`small_chunks`, row 1"),
        ("UPDATE devices SET id = x'00'", "`devices`, row 1"),
        ("UPDATE answers SET last_seq = -1", "`answers`, row 1"),
        ("UPDATE tokens SET hash = x'00'", "`tokens`, row 1"),
        ("UPDATE commits SET created = -1", "`commits`, row 1"),
        ("UPDATE history SET state = x'00'", "`history`, row 1"),
        (
            "INSERT INTO holds (folder, device, since, removes, nodes, denied) VALUES (1, x'00', 0, 0, 0, 0)",
            "`holds`, row 1",
        ),
        ("INSERT INTO sessions VALUES (1, zeroblob(16), -1, 0, 0)", "`sessions`, row 1"),
    ];
    for (sql, told) in broken {
        let store = stopped().await;
        assert!(store.database().execute(sql, []).unwrap() > 0, "{sql}");
        for repair in [false, true] {
            let problems = store.scrub(repair).await.problems;
            assert!(problems.iter().any(|problem| problem.contains(told)), "{sql}: {problems:?}");
        }
    }
}

#[tokio::test]
async fn the_health_check_reads_no_folder() {
    let store = stopped().await;
    store.database().execute("UPDATE folders SET epoch = x'01'", []).unwrap();
    let service = Data::visit(store.directory.path()).unwrap();
    assert!(service.folders().await.is_err());
    service.check().await.unwrap();
}
