//! The stop for mass deletes.

use crate::client::{Client, good, refused, serve_here};
use crate::support::*;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::{CommitRequest, Committed, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::holds::{HeldDetails, Hold, HoldList, HoldState};
use syncmount_common::{DeviceId, Node, NodeId, Placement, Timestamp};
use syncmount_server::service::{HoldRule, Path, Precondition, ServiceError};
use syncmount_server::{Environment, Limits, Service};

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
        self.commit_as(false, device, ops).await
    }

    async fn commit_as(&self, concluded: bool, device: Device, ops: Vec<Op>) -> Result<Committed, ServiceError> {
        let epoch = self.service.folder(F).await.unwrap().cursor.epoch;
        let commit = CommitRequest {
            op_id: op_id(),
            epoch,
            device,
            session: None,
            known: None,
            contents: vec![empty()],
            changed: Vec::new(),
            concluded,
            times: Vec::new(),
            touched: Vec::new(),
            owners: Vec::new(),
            versions: Vec::new(),
            ops,
        };
        self.service.commit(F, commit, Vec::new()).await
    }

    /// Removes files, which still have their first revs.
    async fn remove(&self, device: Device, range: std::ops::Range<usize>) -> Result<Committed, ServiceError> {
        let ops = range.map(|index| remove(self.files[index], index as u64 + 1)).collect();
        self.commit(device, ops).await
    }

    /// The same folder on behalf of a token of that name, which is made if need be.
    async fn with_token(&self, name: &str) -> Self {
        let token = self.service.add_token(name).await.unwrap();
        let credential = self.service.credential(token.reveal()).await.unwrap().unwrap();
        let (clock, files) = (Arc::clone(&self.clock), self.files.clone());
        Self { service: self.service.acting_for(credential), clock, files }
    }

    /// What is in the folder: paths from the root.
    async fn paths(&self) -> BTreeSet<String> {
        let nodes = self.service.changes(F, None, 10_000, 0).await.unwrap().page.nodes;
        let live: HashMap<NodeId, Node> =
            nodes.into_iter().filter(|node| !node.deleted).map(|node| (node.id, node)).collect();
        let path = |node: &Node| {
            let (mut path, mut place) = (String::new(), node.names.first());
            while let Some(Placement { parent, name }) = place {
                path = format!("/{name}{path}");
                place = live.get(parent).and_then(|parent| parent.names.first());
            }
            path
        };
        live.values().filter(|node| node.id != ROOT).map(path).collect()
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

    assert_eq!(folder.service.deny_removes(F, "phone").await.unwrap().hold.state, HoldState::Denied);
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

fn fresh_device(number: u8) -> Device {
    Device { id: DeviceId::from_bytes([number; 16]), name: format!("device {number}") }
}

#[tokio::test]
async fn removes_count_by_token_whatever_devices_they_name() {
    let folder = folder(3000).await;
    folder.pass(61 * MINUTE);
    let (phone, laptop) = (folder.with_token("phone").await, folder.with_token("laptop").await);
    phone.remove(fresh_device(20), 0..1000).await.unwrap();
    let details = held(phone.remove(fresh_device(21), 1000..2000).await);
    assert_eq!(details, HeldDetails { device: fresh_device(21).id, removes: 2000, nodes: 3000, denied: false });
    for device in [fresh_device(20), fresh_device(22), device()] {
        assert_eq!(held(phone.remove(device, 1000..1001).await), details, "no other device of the token removes more");
    }
    laptop.remove(fresh_device(21), 2000..2001).await.unwrap();
    let present = folder.service.present_holds(F).await.unwrap();
    assert_eq!((present.len(), present[0].token.as_deref()), (1, Some("phone")));

    // The same device name under another token is another hold: one decision does not release both.
    folder.service.set_hold_rule(HoldRule { removes: 100, part: 0.1, ..HoldRule::default() });
    held(laptop.remove(fresh_device(21), 2001..2400).await);
    let unclear = folder.service.allow_removes(F, "device 21").await;
    assert!(matches!(unclear, Err(ServiceError::Invalid(_))), "{unclear:?}");
    folder.service.allow_removes(F, "token:phone").await.unwrap();
    phone.remove(fresh_device(23), 1000..2000).await.unwrap();
    held(laptop.remove(fresh_device(24), 2001..2002).await);
}

#[tokio::test]
async fn a_token_may_not_take_what_the_device_of_another_has_made_for_its_own() {
    let folder = folder(1).await;
    let (phone, laptop) = (folder.with_token("phone").await, folder.with_token("laptop").await);
    let files: Vec<_> = (0..1500).map(|_| id()).collect();
    let made = Folder { files: files.clone(), ..laptop };
    made.commit(other(), made.creations("g")).await.unwrap();
    let ops = || files.iter().zip(2..).map(|(file, rev)| remove(*file, rev)).collect::<Vec<_>>();
    held(phone.commit(other(), ops()).await);
    made.commit(other(), ops()).await.unwrap();
}

#[tokio::test]
async fn what_takes_the_place_of_others_files_is_not_free_to_go() {
    let folder = folder(2000).await;
    let phone = folder.with_token("phone").await;
    let removes = |range: std::ops::Range<usize>| range.map(|at| remove(folder.files[at], at as u64 + 1));
    // One file that takes a thousand names stands for one.
    let names = (0..1500).map(|index| at(ROOT, &format!("f{index}"))).collect();
    let Op::Create { id: link, base, kind, attrs, xattrs, content, target, .. } =
        create(id(), ROOT, "x", hash_of(&empty()))
    else {
        unreachable!("it creates")
    };
    let mut ops = vec![Op::Create { id: link, base, kind, names, attrs, xattrs, content, target }];
    ops.extend(removes(0..1500));
    assert_eq!(held(phone.commit(other(), ops).await).removes, 1499);
    folder.service.allow_removes(F, "token:phone").await.unwrap();
    folder.pass(61 * MINUTE);

    // Each replaced by a file of the phone's own is no remove; but then these are no more its own to remove.
    let fresh: Vec<_> = (0..1500).map(|_| id()).collect();
    let creations =
        fresh.iter().enumerate().map(|(at, file)| create(*file, ROOT, &format!("f{at}"), hash_of(&empty())));
    let first = phone.commit(other(), creations.chain(removes(0..1500)).collect()).await.unwrap().first_seq;
    let moved =
        fresh.iter().zip(first..).map(|(file, rev)| rename(*file, rev, ROOT, &format!("moved {rev}"))).collect();
    let first = phone.commit(other(), moved).await.unwrap().first_seq;
    let gone = fresh.iter().zip(first..).map(|(file, rev)| remove(*file, rev)).collect();
    assert_eq!(held(phone.commit(other(), gone).await).removes, 1500);
}

#[tokio::test]
async fn only_an_operator_decides() {
    let folder = folder(2000).await;
    let phone = folder.with_token("phone").await;
    held(phone.remove(other(), 0..1500).await);
    for decided in [
        phone.service.allow_removes(F, "phone").await,
        phone.service.deny_removes(F, "phone").await.map(|denied| denied.hold),
    ] {
        assert!(matches!(decided, Err(ServiceError::NotOperator)), "{decided:?}");
    }
    held(phone.remove(other(), 0..1500).await);
    folder.with_token("admin").await.service.allow_removes(F, "phone").await.unwrap();
    phone.remove(other(), 0..1500).await.unwrap();
}

#[tokio::test]
async fn a_no_puts_back_the_whole_burst_and_leaves_what_others_have_changed() {
    let folder = folder(2000).await;
    let (phone, laptop) = (folder.with_token("phone").await, folder.with_token("laptop").await);
    let (top, inner) = (id(), id());
    laptop.commit(device(), vec![mkdir(top, ROOT, "top"), mkdir(inner, top, "inner")]).await.unwrap();
    let moved = (0..10).map(|at| rename(folder.files[at], at as u64 + 1, inner, &format!("m{at}"))).collect();
    laptop.commit(device(), moved).await.unwrap();
    let before = folder.paths().await;
    // An hour later: the first of it is long past and stays away.
    folder.pass(61 * MINUTE);
    phone.remove(other(), 1990..1995).await.unwrap();
    folder.pass(61 * MINUTE);
    // The burst, under two device ids: a directory with what is in it, then 260 files, then too many.
    let mut tree: Vec<_> = (0..10).map(|at| remove(folder.files[at], 2003 + at as u64)).collect();
    tree.push(remove(inner, 2002));
    phone.commit(fresh_device(30), tree).await.unwrap();
    phone.remove(fresh_device(31), 100..360).await.unwrap();
    // What the token made itself within the hour is none of the burst.
    let temporary = id();
    let rev = phone.commit(other(), vec![mkdir(temporary, ROOT, "temporary")]).await.unwrap().last_seq;
    phone.commit(other(), vec![remove(temporary, rev)]).await.unwrap();
    held(phone.remove(fresh_device(32), 400..1500).await);
    // Others go on: they take a name, bring a file back under another, change one, and remove the empty directory above.
    let revs: HashMap<NodeId, u64> = folder
        .service
        .changes(F, None, 10_000, 0)
        .await
        .unwrap()
        .page
        .nodes
        .iter()
        .map(|node| (node.id, node.rev))
        .collect();
    let taker = id();
    let again = Op::Create {
        id: folder.files[101],
        base: revs[&folder.files[101]],
        kind: syncmount_common::NodeKind::File,
        names: vec![at(ROOT, "kept elsewhere")],
        attrs: ATTRS,
        xattrs: Default::default(),
        content: Some(hash_of(&empty())),
        target: None,
    };
    let ops = vec![
        create(taker, ROOT, "f100", hash_of(&empty())),
        again,
        remove(top, 2001),
        rename(folder.files[500], 501, ROOT, "renamed"),
    ];
    laptop.commit(device(), ops).await.unwrap();

    let denied = folder.service.deny_removes(F, "token:phone").await.unwrap();
    assert_eq!(denied.hold.state, HoldState::Denied);
    // 10 files, 2 directories (one of which others had removed), and 260 files without the one that came back by itself.
    assert_eq!(denied.back.created, 10 + 2 + 259);
    let mut expected = before;
    for gone in ["/f101", "/f500"].into_iter().map(str::to_owned).chain((1990..1995).map(|at| format!("/f{at}"))) {
        assert!(expected.remove(&gone), "{gone}");
    }
    expected.extend(["/f100 (restored)", "/kept elsewhere", "/renamed"].map(str::to_owned));
    let found = folder.paths().await;
    assert_eq!(found.symmetric_difference(&expected).collect::<Vec<_>>(), [] as [&String; 0]);
    assert_eq!(folder.nodes().await as usize, expected.len());
    assert_eq!(folder.service.history(F, 1).await.unwrap()[0].device, "undo");
    assert!(held(phone.remove(other(), 600..601).await).denied, "its removes stay refused");
    assert_eq!(folder.service.deny_removes(F, "token:phone").await.unwrap().back.created, 0, "all of it is back");
}

#[tokio::test]
async fn an_undo_that_an_ordinary_token_asks_for_is_held_like_a_commit() {
    let folder = folder(1500).await;
    let phone = folder.with_token("phone").await;
    assert_eq!(phone.service.undo(F, 0, true).await.unwrap().removed, 1500, "counting is free");
    let refused = phone.service.undo(F, 0, false).await;
    assert!(matches!(refused, Err(ServiceError::Held(_))), "{refused:?}");
    assert_eq!(folder.nodes().await, 1500);
    folder.with_token("admin").await.service.undo(F, 0, false).await.unwrap();
    assert_eq!(folder.nodes().await, 0);
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
    folder.files = (0..1500).map(|_| id()).collect();
    let first = folder.commit(other(), folder.creations("own")).await.unwrap().first_seq;
    let own = (first..).zip(&folder.files).map(|(rev, file)| remove(*file, rev)).collect();
    folder.commit(other(), own).await.unwrap();
    assert_eq!(folder.nodes().await, 1500, "what it has just made it may clear away");
}

/// A folder whose disk went away looks as if all had been removed that was written a moment ago.
#[tokio::test]
async fn what_was_only_found_missing_counts_also_if_the_device_has_just_made_it() {
    let folder = folder(1500).await;
    let ops =
        |range: std::ops::Range<usize>| range.map(|index| remove(folder.files[index], index as u64 + 1)).collect();
    folder.commit_as(true, device(), ops(0..500)).await.unwrap();
    let details = held(folder.commit_as(true, device(), ops(500..1500)).await);
    assert_eq!((details.removes, folder.nodes().await), (1500, 1000));
    // What a program has removed itself is no concern of the stop, were it not for the hold.
    folder.service.allow_removes(F, "laptop").await.unwrap();
    folder.commit_as(true, device(), ops(500..1500)).await.unwrap();
    assert_eq!(folder.nodes().await, 0);
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
    let served = serve_here(Limits::default()).await;
    served.server.service().set_hold_rule(HoldRule { removes: 2, ..HoldRule::default() });
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
    let laptop = served.server.service().add_token("laptop").await.unwrap();
    let laptop = Client { token: laptop.reveal().to_owned(), ..served.client.clone() };
    for what in ["allow", "deny"] {
        let asked = laptop.ask(reqwest::Method::POST, &format!("{holds}/phone/{what}"));
        assert!(refused(asked, 401, ErrorCode::Unauthorized).await.message.contains("`admin`"));
    }
    assert_eq!(good::<Hold>(decide("deny").send().await.unwrap()).await.state, HoldState::Denied);
    assert_eq!(good::<Hold>(decide("allow").send().await.unwrap()).await.state, HoldState::Allowed);
    good::<Committed>(served.post(&path, &commit).send().await.unwrap()).await;
    refused(served.ask(reqwest::Method::POST, &format!("{holds}/tablet/allow")), 404, ErrorCode::NotFound).await;
}
