//! Chunks that are lost are asked for, and chunks that nothing came to need are dropped.

use crate::client::serve_here;
use crate::support::*;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::protocol::changes::WantedContent;
use syncmount_common::protocol::commit::NewContent;
use syncmount_common::protocol::features::HEADER;
use syncmount_common::{ChunkHash, DeviceId, Extent, Manifest, Timestamp};
use syncmount_server::blob::{Fault, FaultyPacks, ObjectPacks, Operation, PackStore};
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::service::{Offload, Poll, ServiceError};
use syncmount_server::{Environment, Limits, Service};

const DAY_NS: i64 = 24 * 3_600_000_000_000;

/// A service whose packs give damaged bytes when told to, with a clock that is set by hand.
struct Store {
    service: Service,
    packs: Arc<ObjectPacks>,
    damages: Arc<AtomicBool>,
    clock: Arc<AtomicI64>,
}

async fn store() -> Store {
    let (damages, clock) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(1_700_000_000_000_000_000)));
    let packs = Arc::new(ObjectPacks::in_memory());
    let (is_damaged, time) = (Arc::clone(&damages), Arc::clone(&clock));
    let decide =
        move |operation| (operation == Operation::Read && is_damaged.load(Ordering::Relaxed)).then_some(Fault::Damage);
    let faulty = Arc::new(FaultyPacks::new(Arc::clone(&packs) as Arc<dyn PackStore>, decide));
    let random = environment();
    let environment = Environment::new(
        move || Timestamp(time.fetch_add(1_000_000, Ordering::Relaxed)),
        move |bytes: &mut [u8]| bytes.iter_mut().for_each(|byte| *byte = random.random::<1>()[0]),
    );
    let meta = Arc::new(SqliteStore::in_memory().unwrap());
    let service = Service::new(meta, faulty, environment, Offload::Inline, None);
    service.add_folder(F).await.unwrap();
    Store { service, packs, damages, clock }
}

/// A chunk that goes into a pack.
fn large(seed: u32) -> Vec<u8> {
    some_bytes(seed, 300_000)
}

impl Store {
    async fn send(&self, names: &[(&str, &[u8])]) {
        send(&self.service, names).await;
    }

    async fn lose(&self, bytes: &[u8]) {
        self.damages.store(true, Ordering::Relaxed);
        let lost = self.service.chunk(ChunkHash::of(bytes)).await;
        self.damages.store(false, Ordering::Relaxed);
        assert!(matches!(lost, Err(ServiceError::Damaged(_))));
        assert!(matches!(self.service.chunk(ChunkHash::of(bytes)).await, Err(ServiceError::UnknownChunks(_))));
    }

    async fn wanted(&self) -> Vec<WantedContent> {
        let poll = Poll { extra: true, ..ask() };
        let mut wanted = self.service.page(F, poll).await.unwrap().page.wanted;
        wanted.sort_by_key(|wanted| wanted.content);
        wanted
    }

    async fn put(&self, bytes: &[u8]) {
        self.service.put(vec![chunk(bytes)]).await.unwrap();
    }

    fn later(&self, days: i64) {
        self.clock.fetch_add(days * DAY_NS, Ordering::Relaxed);
    }

    async fn count(&self) -> usize {
        self.packs.list().await.unwrap().len()
    }

    async fn has(&self, bytes: &[u8]) -> bool {
        self.service.missing(vec![ChunkHash::of(bytes)]).await.unwrap().missing.is_empty()
    }
}

fn ask() -> Poll {
    Poll { since: None, known: None, limit: 100, inline: 0, device: None, session: None, extra: false }
}

fn told(of: &[u8]) -> WantedContent {
    let (body, (chunk, _)) = content(of);
    WantedContent { content: hash_of(&body), size: of.len() as u64, chunks: vec![chunk] }
}

#[tokio::test]
async fn what_is_lost_is_asked_for_until_it_is_there_again() {
    let store = store().await;
    let [one, two, other] = [1, 2, 3].map(large);
    store.send(&[("one", &one), ("two", &two), ("other", &other)]).await;
    assert_eq!(store.service.survey_losses().await.unwrap(), 0);
    store.lose(&one).await;
    store.lose(&two).await;
    assert_eq!(store.wanted().await, [], "it is not known yet which contents these are");
    let end = store.service.folder(F).await.unwrap().cursor;
    let device = Some(device().id);
    let held = Poll { since: Some(end), extra: true, device, ..ask() };
    let held_poll = held;
    let deaf = Poll { extra: false, ..held };
    {
        let (mut held, mut deaf) = (
            Box::pin(store.service.poll(F, held, std::future::pending())),
            Box::pin(store.service.poll(F, deaf, std::future::pending())),
        );
        let soon = Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, &mut held).await.is_err(), "there is nothing to tell");
        assert_eq!(store.service.survey_losses().await.unwrap(), 2);
        let page = (&mut held).await.unwrap().page;
        assert_eq!((page.nodes.len(), page.wanted.len()), (0, 2));
        drop(held);
        assert!(tokio::time::timeout(soon, &mut deaf).await.is_err(), "a device that does not ask is not told");
        let again = store.service.poll(F, held_poll, std::future::pending());
        assert!(tokio::time::timeout(soon, again).await.is_err(), "it has been told");
        let other = Poll { device: Some(DeviceId::from_bytes([9; 16])), ..held_poll };
        let page = store.service.poll(F, other, std::future::pending()).await.unwrap().page;
        assert_eq!((page.nodes.len(), page.wanted.len()), (0, 2), "another one has not");
    }
    let mut both = [told(&one), told(&two)];
    both.sort_by_key(|wanted| wanted.content);
    assert_eq!(store.wanted().await, both);
    assert_eq!(store.service.page(F, ask()).await.unwrap().page.wanted, []);
    store.put(&one).await;
    assert_eq!(store.wanted().await, [told(&two)]);
    store.send(&[("two again", &two)]).await;
    assert_eq!(store.wanted().await, [], "a commit brings it back too");
    assert_eq!(store.service.survey_losses().await.unwrap(), 0);
    // What came back is not loose, although it came without a commit.
    store.later(30);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0);
    assert!(store.has(&one).await && store.has(&two).await);
}

#[tokio::test]
async fn what_comes_back_before_the_survey_is_not_asked_for() {
    let store = store().await;
    let one = large(1);
    store.send(&[("one", &one)]).await;
    store.lose(&one).await;
    store.put(&one).await;
    assert_eq!(store.service.survey_losses().await.unwrap(), 0);
    assert_eq!(store.wanted().await, []);
    // It came as a loose chunk, and a content names it.
    store.later(30);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0);
    assert!(store.has(&one).await);
}

#[tokio::test]
async fn what_is_lost_keeps_no_page_from_being_told() {
    let store = store().await;
    let (small, other) = (large(1)[..60_000].to_vec(), large(2));
    // Small chunks lie in the database unless something large comes with them.
    store.send(&[("small", &small), ("other", &other)]).await;
    let poll = Poll { inline: 64 * 1024, ..ask() };
    assert_eq!(store.service.page(F, poll).await.unwrap().chunks.len(), 1);
    store.damages.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let changes = store.service.page(F, poll).await.unwrap();
        assert_eq!((changes.page.nodes.len(), changes.chunks.len()), (2, 0));
    }
    store.damages.store(false, Ordering::Relaxed);
    assert!(!store.has(&small).await);
    let changes = store.service.page(F, poll).await.unwrap();
    assert_eq!((changes.page.nodes.len(), changes.chunks.len()), (2, 0));
    store.put(&small).await;
    assert_eq!(store.service.page(F, poll).await.unwrap().chunks.len(), 1);
}

#[tokio::test]
async fn a_folder_is_not_told_of_the_contents_of_another() {
    let store = store().await;
    let one = large(1);
    store.send(&[("one", &one)]).await;
    store.service.add_folder("other").await.unwrap();
    store.lose(&one).await;
    store.service.survey_losses().await.unwrap();
    let poll = Poll { extra: true, ..ask() };
    assert_eq!(store.service.page("other", poll).await.unwrap().page.wanted, []);
    assert_eq!(store.wanted().await, [told(&one)]);
}

#[tokio::test]
async fn what_was_uploaded_and_never_used_goes_after_a_week() {
    let store = store().await;
    let [used, given_up, fresh] = [1, 2, 3].map(large);
    store.put(&used).await;
    store.put(&given_up).await;
    store.send(&[("used", &used)]).await;
    assert_eq!(store.count().await, 2);
    store.later(6);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0);
    assert!(store.has(&given_up).await);
    store.later(1);
    store.put(&fresh).await;
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0, "the upload goes on");
    store.later(2);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 1);
    assert!(store.has(&used).await && store.has(&fresh).await && !store.has(&given_up).await);
    assert_eq!(store.count().await, 2);
    // It can be sent again, and is kept if it is needed.
    store.put(&given_up).await;
    store.send(&[("given up", &given_up)]).await;
    store.later(30);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 1, "what nothing came of");
    assert!(store.has(&used).await && store.has(&given_up).await && !store.has(&fresh).await);
    assert_eq!(store.service.scrub(false).await.unwrap().problems, [""; 0]);
}

#[tokio::test]
async fn a_store_that_was_set_back_keeps_what_is_loose_for_another_week() {
    let store = store().await;
    let one = large(1);
    store.put(&one).await;
    store.later(8);
    store.service.restored().await.unwrap();
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0);
    store.later(8);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 1);
}

/// So many extents are looked up before the transaction.
#[tokio::test]
async fn a_large_content_keeps_all_the_packs_that_it_came_in() {
    let store = store().await;
    let bytes = |index: u32| Bytes::from([&index.to_le_bytes()[..], &large(index)[..6000]].concat());
    let all: Vec<_> = (0..1500).map(bytes).collect();
    for part in all.chunks(100) {
        store.service.put(part.iter().map(|bytes| chunk(bytes)).collect()).await.unwrap();
    }
    let extents = all.iter().map(|bytes| Extent::Chunk { hash: ChunkHash::of(bytes), len: bytes.len() as u32 });
    let body = NewContent { manifest: Manifest::new(extents.collect()).unwrap(), sha256: None };
    let mut commit = request(store.service.folder(F).await.unwrap().cursor.epoch, Vec::new());
    commit.ops.push(create(id(), ROOT, "large", hash_of(&body)));
    commit.contents.push(body);
    store.service.commit(F, commit, Vec::new()).await.unwrap();
    let packs = store.count().await;
    assert!(packs > 5);
    store.later(30);
    assert_eq!(store.service.drop_given_up().await.unwrap(), 0);
    assert_eq!(store.count().await, packs);
    let hashes = all.iter().map(|bytes| ChunkHash::of(bytes)).collect();
    assert_eq!(store.service.missing(hashes).await.unwrap().missing, []);
}

#[tokio::test]
async fn only_a_client_that_ignores_what_it_does_not_know_is_told_what_is_lost() {
    let served = serve_here(Limits::default()).await;
    let one = large(1);
    send(served.server.service(), &[("one", &one)]).await;
    for pack in packs(&served.directory.path().join("data")) {
        let mut bytes = std::fs::read(&pack).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(pack, bytes).unwrap();
    }
    assert!(served.server.service().chunk(ChunkHash::of(&one)).await.is_err());
    let told = async |features: &'static str| -> serde_json::Value {
        let asked = served.changes(None, "wait=0").header(HEADER, features).send().await.unwrap();
        asked.json().await.unwrap()
    };
    let begin = Instant::now();
    let page = loop {
        let page = told("extra-fields").await;
        if page.get("wanted").is_some() {
            break page;
        }
        assert!(begin.elapsed() < Duration::from_secs(20), "{page}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(page["wanted"][0]["chunks"], serde_json::json!([ChunkHash::of(&one).to_string()]));
    for features in ["", "content-deltas, chunk-deltas, fetch-deltas"] {
        assert_eq!(told(features).await.get("wanted"), None, "{features}");
    }
}
