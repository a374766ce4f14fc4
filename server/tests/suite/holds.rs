//! The stop for mass deletes.

use crate::client::{good, refused, serve};
use crate::support::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::{CommitRequest, Committed, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::holds::{HeldDetails, Hold, HoldList, HoldState};
use syncmount_common::{DeviceId, NodeId, Timestamp};
use syncmount_server::service::{HoldRule, Path, Precondition, ServiceError};
use syncmount_server::{Environment, Service};

const MINUTE: i64 = 60_000_000_000;

struct Folder {
    service: Service,
    clock: Arc<AtomicI64>,
    files: Vec<NodeId>,
}

fn other() -> Device {
    Device { id: DeviceId::from_bytes([8; 16]), name: "phone".to_owned() }
}

/// `count` files that `laptop` has just made.
async fn folder(count: usize) -> Folder {
    let clock = Arc::new(AtomicI64::new(1_700_000_000_000_000_000));
    let (time, state) = (Arc::clone(&clock), AtomicI64::new(1));
    let random = move |bytes: &mut [u8]| {
        for byte in bytes {
            *byte = (state.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x1E37_79B9_7F4A_7C15) >> 56) as u8;
        }
    };
    let environment = Environment::new(move || Timestamp(time.load(Ordering::Relaxed)), random);
    let service = Service::in_memory(environment).await.unwrap();
    let files: Vec<_> = (0..count).map(|_| id()).collect();
    let folder = Folder { service, clock, files };
    folder.commit(device(), folder.creations("f")).await.unwrap();
    folder
}

impl Folder {
    fn creations(&self, prefix: &str) -> Vec<Op> {
        let name = |index| format!("{prefix}{index}");
        self.files
            .iter()
            .enumerate()
            .map(|(index, file)| create(*file, ROOT, &name(index), hash_of(&empty())))
            .collect()
    }

    fn pass(&self, time: i64) {
        self.clock.fetch_add(time, Ordering::Relaxed);
    }

    async fn commit(&self, device: Device, ops: Vec<Op>) -> Result<Committed, ServiceError> {
        let epoch = self.service.folder(F).await.unwrap().cursor.epoch;
        let commit = CommitRequest {
            op_id: op_id(),
            epoch,
            device,
            session: None,
            known: None,
            contents: vec![empty()],
            changed: Vec::new(),
            ops,
        };
        self.service.commit(F, commit, Vec::new()).await
    }

    /// Removes files, which still have their first revs.
    async fn remove(&self, device: Device, range: std::ops::Range<usize>) -> Result<Committed, ServiceError> {
        let ops = range.map(|index| remove(self.files[index], index as u64 + 1)).collect();
        self.commit(device, ops).await
    }

    async fn nodes(&self) -> u64 {
        self.service.folder(F).await.unwrap().nodes
    }
}

fn held(result: Result<Committed, ServiceError>) -> HeldDetails {
    match result {
        Err(ServiceError::Held(held)) => held.details,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_batch_that_crosses_is_held_until_somebody_says_yes() {
    let folder = folder(2000).await;
    folder.remove(other(), 0..400).await.unwrap();
    folder.remove(other(), 400..800).await.unwrap();
    let details = held(folder.remove(other(), 800..1200).await);
    assert_eq!(details, HeldDetails { device: other().id, removes: 1200, nodes: 2000, denied: false });
    assert_eq!(folder.nodes().await, 1200, "nothing of the batch is done");
    assert_eq!(held(folder.remove(other(), 800..801).await), details, "a single one is held as well");
    folder.commit(other(), vec![rename(folder.files[800], 801, ROOT, "renamed")]).await.unwrap();
    folder.remove(device(), 1999..2000).await.unwrap();
    folder.pass(90 * MINUTE);
    held(folder.remove(other(), 900..1000).await);
    let info = folder.service.folder(F).await.unwrap();
    assert_eq!(info.held, folder.service.holds(F).await.unwrap().holds);
    assert_eq!((info.held.len(), info.held[0].state, info.held[0].device.clone()), (1, HoldState::Waiting, other()));

    assert_eq!(folder.service.deny_removes(F, "phone").await.unwrap().state, HoldState::Denied);
    assert_eq!(held(folder.remove(other(), 900..1000).await), HeldDetails { denied: true, ..details });
    for _ in 0..2 {
        let allowed = folder.service.allow_removes(F, &other().id.to_string()).await.unwrap();
        assert_eq!(allowed.state, HoldState::Allowed);
        assert_eq!(allowed.until, Some(Timestamp(folder.clock.load(Ordering::Relaxed) + 60 * MINUTE)));
    }
    assert!(folder.service.folder(F).await.unwrap().held.is_empty());
    folder.remove(other(), 900..1300).await.unwrap();
    folder.remove(other(), 1300..1900).await.unwrap();
    folder.pass(61 * MINUTE);
    folder.remove(other(), 1900..1999).await.unwrap();
    assert!(folder.service.holds(F).await.unwrap().holds.is_empty(), "what was allowed is forgotten");
    let unknown = folder.service.allow_removes(F, "nobody").await;
    assert!(matches!(unknown, Err(ServiceError::NotFound(_))));
}

#[tokio::test]
async fn slow_removes_moves_replacements_and_ones_own_are_free() {
    let folder = folder(2000).await;
    for step in 0..3 {
        folder.remove(other(), step * 400..(step + 1) * 400).await.unwrap();
        folder.pass(40 * MINUTE);
    }
    folder.pass(40 * MINUTE);
    let into = id();
    folder.commit(other(), vec![mkdir(into, ROOT, "into")]).await.unwrap();
    let moves = (1200..2000).map(|at| rename(folder.files[at], at as u64 + 1, into, &format!("m{at}")));
    folder.commit(other(), moves.collect()).await.unwrap();

    let mut folder = self::folder(1500).await;
    let old = std::mem::replace(&mut folder.files, (0..1500).map(|_| id()).collect());
    let replaced = folder.creations("f").into_iter().chain((1..).zip(old).map(|(rev, file)| remove(file, rev)));
    folder.commit(other(), replaced.collect()).await.unwrap();
    let own = (3001 - 1500..).zip(&folder.files).map(|(rev, file)| remove(*file, rev)).collect();
    folder.commit(other(), own).await.unwrap();
    assert_eq!(folder.nodes().await, 0, "what it has just made it may clear away");
}

#[tokio::test]
async fn a_small_part_of_a_large_folder_is_free() {
    let folder = folder(4000).await;
    folder.remove(other(), 0..1900).await.unwrap();
    assert_eq!(held(folder.remove(other(), 1900..2001).await).nodes, 4000);
    folder.service.set_hold_rule(HoldRule { removes: 0, ..HoldRule::default() });
    folder.remove(other(), 1900..2001).await.unwrap();
}

#[tokio::test]
async fn the_file_api_is_held_and_undo_is_not() {
    let folder = folder(1001).await;
    let top = id();
    folder.commit(device(), vec![mkdir(top, ROOT, "top")]).await.unwrap();
    let moves = (1..).zip(&folder.files).map(|(rev, file)| rename(*file, rev, top, &format!("f{rev}")));
    folder.commit(device(), moves.collect()).await.unwrap();
    let path = Path::new([b"top".to_vec()]).unwrap();
    let refused = folder.service.remove(F, &path, true, &Precondition::default()).await;
    assert!(matches!(refused, Err(ServiceError::Held(_))), "{refused:?}");
    assert_eq!(folder.service.holds(F).await.unwrap().holds[0].device.name, "web");
    folder.service.undo(F, 0, false).await.unwrap();
    assert_eq!(folder.nodes().await, 0);
}

#[tokio::test]
async fn the_api_tells_and_decides() {
    let served = serve().await;
    served.running.service().set_hold_rule(HoldRule { removes: 2, ..HoldRule::default() });
    let files: Vec<_> = (0..4).map(|_| id()).collect();
    let made = (0..).zip(&files).map(|(index, file)| mkdir(*file, ROOT, &format!("d{index}"))).collect();
    served.commit(made).await;
    let ops = (1..).zip(&files).map(|(rev, file)| remove(*file, rev)).collect();
    let commit = CommitRequest { device: other(), ..served.request(ops).await };
    let path = format!("/v1/folders/{F}/commit");
    let body = refused(served.post(&path, &commit), 423, ErrorCode::Held).await;
    assert!(
        body.retryable && body.message.contains("phone") && body.message.contains("holds allow"),
        "{}",
        body.message
    );
    let details: HeldDetails = serde_json::from_value(body.details.unwrap()).unwrap();
    assert_eq!(details, HeldDetails { device: other().id, removes: 4, nodes: 4, denied: false });
    assert_eq!(served.folder().await.held.len(), 1);
    let holds = format!("/v1/folders/{F}/holds");
    let list: HoldList = good(served.get(&holds).send().await.unwrap()).await;
    assert_eq!(list.holds, served.folder().await.held);
    let decide = |what| served.ask(reqwest::Method::POST, &format!("{holds}/phone/{what}"));
    assert_eq!(good::<Hold>(decide("deny").send().await.unwrap()).await.state, HoldState::Denied);
    assert_eq!(good::<Hold>(decide("allow").send().await.unwrap()).await.state, HoldState::Allowed);
    good::<Committed>(served.post(&path, &commit).send().await.unwrap()).await;
    refused(served.ask(reqwest::Method::POST, &format!("{holds}/tablet/allow")), 404, ErrorCode::NotFound).await;
}
