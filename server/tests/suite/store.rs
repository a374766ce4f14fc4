//! What the stores promise: small chunks move without a gap, faults leave nothing half done, damage is never served.

use crate::support::*;
use futures::{FutureExt as _, TryStreamExt as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use syncmount_common::envelope;
use syncmount_common::protocol::chunks::Alike;
use syncmount_common::protocol::error::ErrorCode;
use syncmount_server::Service;
use syncmount_server::blob::{Fault, FaultyPacks, ObjectPacks, Operation};
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::meta::{
    self, FolderKey, MetaError, MetaStore, PackId, PackSlice, PackedChunk, SmallChunk, Verdict, WriteJob,
};
use syncmount_server::service::{Offload, ServiceError};

#[tokio::test]
async fn small_chunks_are_found_before_and_after_they_move() {
    for world in worlds().await {
        let chunks: Vec<_> = (0..50u8).map(|byte| chunk(&[byte; 1000])).collect();
        let hashes: Vec<_> = chunks.iter().map(|chunk| chunk.0).collect();
        let reply = world.service.put(chunks.clone()).await.unwrap();
        assert_eq!((reply.received, reply.stored), (50, 50));
        assert_eq!(world.service.put(chunks.clone()).await.unwrap().stored, 0);
        let read = async |hash| world.service.chunk(hash).await.unwrap();
        assert_eq!(read(hashes[7]).await, chunks[7].1);
        assert!(world.service.measure_small_chunks().await.unwrap() > 0);
        assert_eq!(world.service.flush_small_chunks().await.unwrap(), 50);
        assert_eq!(world.service.measure_small_chunks().await.unwrap(), 0);
        assert_eq!(read(hashes[7]).await, chunks[7].1);
        assert!(world.service.missing(hashes).await.unwrap().missing.is_empty());
        assert_eq!(world.service.flush_small_chunks().await.unwrap(), 0);
        assert_eq!(world.service.put(chunks).await.unwrap().stored, 0);
    }
}

#[tokio::test]
async fn enough_small_chunks_are_due_for_a_pack() {
    let world = in_memory().await;
    let noise = |seed: u32| -> Vec<u8> {
        let mut state = seed.wrapping_mul(2_654_435_761) | 1;
        let next = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        (0..200_000).map(next).collect()
    };
    for seed in 0..45 {
        world.service.put(vec![chunk(&noise(seed))]).await.unwrap();
    }
    world.service.small_chunks_due().await;
    assert_eq!(world.service.flush_small_chunks().await.unwrap(), 45);
}

fn service(packs: FaultyPacks) -> Service {
    let meta = Arc::new(SqliteStore::in_memory().unwrap());
    Service::new(meta, Arc::new(packs), environment(), Offload::Inline, None)
}

fn large() -> Vec<(syncmount_common::ChunkHash, bytes::Bytes)> {
    let mut state = 1u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    vec![chunk(&(0..400_000).map(next).collect::<Vec<_>>())]
}

#[tokio::test]
async fn a_full_disk_is_told_and_nothing_is_stored() {
    let full = Arc::new(AtomicBool::new(true));
    let decide = Arc::clone(&full);
    let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), move |operation| {
        (operation == Operation::Put && decide.load(Ordering::Relaxed)).then_some(Fault::Full)
    });
    let (service, chunks) = (service(packs), large());
    let refused = service.put(chunks.clone()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InsufficientStorage);
    assert_eq!(service.missing(vec![chunks[0].0]).await.unwrap().missing.len(), 1);
    full.store(false, Ordering::Relaxed);
    assert_eq!(service.put(chunks).await.unwrap().stored, 1, "later there is room");
}

#[tokio::test]
async fn a_damaged_chunk_is_an_error_and_never_sent() {
    let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), |operation| {
        (operation == Operation::Read).then_some(Fault::Damage)
    });
    let (service, chunks) = (service(packs), large());
    service.put(chunks.clone()).await.unwrap();
    let refused = service.chunk(chunks[0].0).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Internal);
    assert!(matches!(refused, ServiceError::Damaged(hash) if hash == chunks[0].0));
}

#[tokio::test]
async fn a_chunk_that_stays_damaged_counts_as_missing_until_it_is_sent_again() {
    let damage = Arc::new(AtomicBool::new(true));
    let decide = Arc::clone(&damage);
    let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), move |operation| {
        (operation == Operation::Read && decide.load(Ordering::Relaxed)).then_some(Fault::Damage)
    });
    let (service, chunks) = (service(packs), large());
    let hash = chunks[0].0;
    service.put(chunks.clone()).await.unwrap();
    assert!(service.missing(vec![hash]).await.unwrap().missing.is_empty());
    assert!(matches!(service.chunk(hash).await, Err(ServiceError::Damaged(_))));
    assert_eq!(service.missing(vec![hash]).await.unwrap().missing, [hash]);
    assert!(matches!(service.chunk(hash).await, Err(ServiceError::UnknownChunks(_))));
    damage.store(false, Ordering::Relaxed);
    assert_eq!(service.put(chunks.clone()).await.unwrap().stored, 1);
    assert_eq!(service.chunk(hash).await.unwrap(), chunks[0].1);
}

#[tokio::test]
async fn a_chunk_that_is_damaged_keeps_no_other_from_being_told() {
    let reads = Arc::new(AtomicUsize::new(0));
    let packs = FaultyPacks::new(Arc::new(ObjectPacks::in_memory()), move |operation| {
        let is_second = operation == Operation::Read && reads.fetch_add(1, Ordering::Relaxed) == 1;
        is_second.then_some(Fault::Damage)
    });
    let (service, base) = (service(packs), large().remove(0));
    let mut raw = envelope::open(&base.0, &base.1).unwrap();
    raw[77] ^= 1;
    let changed = chunk(&raw);
    service.put(vec![base.clone()]).await.unwrap();
    service.put(vec![changed.clone()]).await.unwrap();
    let fetch = async || {
        let alike = vec![Alike { chunk: changed.0, base: base.0 }];
        let told = service.fetch_alike(vec![changed.0], alike).await.unwrap();
        told.try_collect::<Vec<_>>().await.unwrap()
    };
    assert_eq!(fetch().await, std::slice::from_ref(&changed), "the other one is damaged");
    let told = fetch().await.remove(0).1;
    assert_eq!(envelope::base(&told), Some(base.0), "and now it is right");
}

#[tokio::test]
async fn a_restarted_service_has_everything() {
    let meta = Arc::new(SqliteStore::in_memory().unwrap());
    let packs = Arc::new(ObjectPacks::in_memory());
    let start = || Service::new(meta.clone(), packs.clone(), environment(), Offload::Inline, None);
    let first = start();
    assert!(first.add_folder("photos").await.unwrap() && !first.add_folder("photos").await.unwrap());
    let chunks = large();
    first.put(chunks.clone()).await.unwrap();
    drop(first);
    let second = start();
    assert_eq!(second.chunk(chunks[0].0).await.unwrap(), chunks[0].1);
    let by_id = second.folders().await.unwrap().folders[0].id.to_string();
    assert_eq!(second.folder(&by_id).await.unwrap().name, "photos");
    for name in ["", "a/b", "..", "ü", &"x".repeat(65)] {
        assert!(matches!(second.add_folder(name).await, Err(ServiceError::Invalid(_))), "{name}");
    }
}

fn stores() -> [(Arc<dyn MetaStore>, tempfile::TempDir); 2] {
    let (memory, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = SqliteStore::open(&disk.path().join("meta.sqlite")).unwrap();
    [(Arc::new(SqliteStore::in_memory().unwrap()), memory), (Arc::new(file), disk)]
}

/// What every metadata store must do, whatever it is made of.
#[tokio::test]
async fn an_error_undoes_its_own_job_and_no_other() {
    for (store, _directory) in stores() {
        let device = device();
        let (good, bad) = (device.clone(), device.clone());
        let keep = meta::write(&*store, move |tx| tx.put_device(&good), |()| ());
        let undo = meta::write(
            &*store,
            move |tx| {
                tx.put_device(&syncmount_common::protocol::changes::Device { name: "wrong".to_owned(), ..bad })?;
                Err::<(), _>(MetaError::Damaged("on purpose"))
            },
            |()| panic!("a refused job is not durable"),
        );
        let (kept, undone) = futures::future::join(keep, undo).await;
        kept.unwrap();
        assert!(matches!(undone, Err(MetaError::Damaged("on purpose"))));
        let id = device.id;
        assert_eq!(meta::read(&*store, move |tx| tx.device(id)).await.unwrap(), Some(device));
    }
}

#[tokio::test]
async fn a_chunk_is_in_one_place() {
    for (store, _directory) in stores() {
        let (hash, envelope) = chunk(b"one");
        let small = SmallChunk { hash, raw_len: 3, envelope: envelope.clone() };
        let slice = PackSlice { pack: PackId([1; 16]), offset: 44, len: envelope.len() as u32 };
        let packed = PackedChunk { hash, raw_len: 3, slice };
        let job = move |tx: &dyn meta::WriteTx| {
            assert!(tx.add_small(&small)? && !tx.add_small(&small)? && !tx.add_packed(&packed)?);
            assert_eq!(tx.chunk(&hash)?, Some(meta::ChunkPlace::Small(envelope)));
            tx.move_small(&packed)?;
            assert!(!tx.add_small(&small)? && tx.small_bytes()? == 0);
            assert_eq!(tx.chunk(&hash)?, Some(meta::ChunkPlace::Packed(slice)));
            tx.chunk_len(&hash)
        };
        assert_eq!(meta::write(&*store, job, |_| ()).await.unwrap(), Some(3));
    }
}

#[tokio::test]
async fn old_answers_are_dropped_now_and_then() {
    for (store, _directory) in stores() {
        let job = |tx: &dyn meta::WriteTx| {
            let answer = syncmount_common::protocol::commit::Committed { first_seq: 1, last_seq: 1, tag: 1 };
            let ops: Vec<_> = (0..1000).map(|_| op_id()).collect();
            ops.iter().try_for_each(|op| tx.add_answer(FolderKey(1), *op, answer, 10))?;
            let kept = ops.iter().map(|op| tx.answer(FolderKey(1), *op)).collect::<Result<Vec<_>, _>>()?;
            Ok::<_, MetaError>(kept.into_iter().map(|answer| answer.is_some()).collect::<Vec<_>>())
        };
        let kept = meta::write(&*store, job, |_| ()).await.unwrap();
        assert_eq!(kept.iter().filter(|kept| **kept).count(), 10);
        assert!(kept[990..].iter().all(|kept| *kept), "the newest are kept");
    }
}

#[tokio::test]
async fn a_closed_store_refuses_and_does_not_hang() {
    let (store, _directory) = stores().into_iter().nth(1).unwrap();
    store.close().unwrap();
    let refused = meta::write(&*store, |_| Ok::<_, MetaError>(()), |()| ()).await;
    assert!(matches!(refused, Err(MetaError::Stopped)));
    let refused = meta::read(&*store, |_| Ok::<_, MetaError>(())).await;
    assert!(matches!(refused, Err(MetaError::Stopped)));
}

#[test]
fn a_service_in_memory_needs_no_runtime() {
    let now = |future: &mut dyn FnMut() -> bool| assert!(future(), "completes when it is first polled");
    let service = Service::in_memory(environment()).now_or_never().unwrap().unwrap();
    let epoch = service.folder(F).now_or_never().unwrap().unwrap().cursor.epoch;
    let ((body, small), big) = (content(b"small"), large());
    let mut commit = request(epoch, vec![create(id(), ROOT, "f", hash_of(&body))]);
    commit.contents.push(body);
    now(&mut || service.put(big.clone()).now_or_never().unwrap().is_ok());
    now(&mut || service.commit(F, commit.clone(), vec![small.clone()]).now_or_never().unwrap().is_ok());
    now(&mut || service.changes(F, None, 10, 65_536).now_or_never().unwrap().unwrap().chunks.len() == 1);
    now(&mut || service.chunk(big[0].0).now_or_never().unwrap().unwrap() == big[0].1);
    now(&mut || service.flush_small_chunks().now_or_never().unwrap().unwrap() == 1);
}

#[test]
fn a_job_may_be_the_last_owner_of_the_store() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(SqliteStore::open(&directory.path().join("meta.sqlite")).unwrap());
    let (owner, (released, wait), (tell, told)) = (Arc::clone(&store), mpsc::channel(), mpsc::channel());
    let done = move |result: meta::Result<()>| {
        wait.recv().unwrap();
        drop(owner);
        tell.send(result).unwrap();
    };
    store.write(WriteJob { run: Box::new(|_| Verdict::Keep), done: Box::new(done) });
    drop(store);
    released.send(()).unwrap();
    told.recv_timeout(std::time::Duration::from_secs(60)).unwrap().unwrap();
}
