//! What the parts cost: cutting and hashing, sealing, merging, loading a tree, planning what is sent, and a server's commits and
//! pages.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, Device, PAGE_NODES_MAX};
use syncmount_common::protocol::commit::{CommitRequest, Committed, NewContent, Op};
use syncmount_common::{
    Attrs, ChunkHash, Content, DeviceId, Epoch, Extent, FolderId, Manifest, Name, Node, NodeId, NodeKind, OpId,
    Placement, Rev, Timestamp, envelope,
};
use syncmount_engine::{CommitAnswer, Engine, Facts, Identity, Restored, Row, RowSynced, Scope, State, merge};
use syncmount_server::FIRST_FOLDER;
use syncmount_server::blob::ObjectPacks;
use syncmount_server::meta::sqlite::SqliteStore;
use syncmount_server::service::{Environment, Offload, Service};

fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    (0..len / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

fn node(number: u64) -> Node {
    let mut random = [0; 10];
    // Other bits of the first bytes are the version's and the variant's.
    random[2..].copy_from_slice(&number.to_be_bytes());
    let extent = Extent::Chunk { hash: ChunkHash::of(&number.to_le_bytes()), len: 4096 };
    let content = Manifest::new(vec![extent]).map(|manifest| Content::of(manifest, None)).ok();
    let author = DeviceId::from_bytes([1; 16]);
    Node {
        id: NodeId::new_v7(1, &random),
        rev: number + 1,
        kind: NodeKind::File,
        deleted: false,
        names: vec![Placement {
            parent: NodeId::ROOT,
            name: Name::new(format!("file {number}").into_bytes()).unwrap(),
        }],
        attrs: Attrs { mode: 0o644, mtime: Timestamp(1) },
        content,
        target: None,
        author,
        content_rev: number + 1,
        content_author: author,
        changed: None,
        xattrs: syncmount_common::Xattrs::default(),
    }
}

fn page(nodes: u64) -> ChangesPage {
    ChangesPage {
        folder: FolderId::from_bytes([2; 16]),
        cursor: cursor(nodes),
        more: false,
        nodes: (0..nodes).map(node).collect(),
        devices: Vec::new(),
        own: None,
        wanted: Vec::new(),
        touched: Vec::new(),
        owners: None,
    }
}

fn device() -> Device {
    Device { id: DeviceId::from_bytes([4; 16]), name: "bench".into() }
}

fn engine(restored: Restored) -> Engine {
    Engine::new(Identity { device: device(), seed: 1 }, restored)
}

fn cursor(seq: u64) -> Cursor {
    Cursor { epoch: Epoch::from_bytes([3; 16]), seq, tag: 0 }
}

/// What a run keeps of a folder of so many files: all as the server has them, or all changed since.
fn kept(nodes: u64, changed: bool) -> Restored {
    let row = |number| {
        let node = node(number);
        let local = Arc::new(State::of_node(&node)?);
        let synced = State { attrs: Attrs { mode: 0o644, mtime: Timestamp(0) }, ..State::clone(&local) };
        let (rev, content_rev): (Rev, Rev) = (node.rev, node.content_rev);
        let synced = match changed {
            true => RowSynced::Differs { rev, content_rev, state: Some(Arc::new(synced)) },
            false => RowSynced::SameAsLocal { rev, content_rev },
        };
        let row = Row {
            local: Some(local),
            synced,
            changed: Timestamp(1),
            offered: false,
            scope: Scope::Shared,
            sent_names: None,
            owner_here: syncmount_engine::OwnerHere::default(),
        };
        Some((node.id, row))
    };
    Restored { rows: (0..nodes).filter_map(row).collect(), cursor: Some(cursor(nodes)), ..Restored::default() }
}

fn bytes(c: &mut Criterion) {
    let data = noise(64 << 20);
    let mut group = c.benchmark_group("64 MiB");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.sample_size(10);
    group.bench_function("cut and hash", |b| {
        b.iter(|| {
            let mut chunker = Chunker::new(ChunkSizes::for_content(data.len() as u64));
            let mut hash = |chunk: &[u8]| {
                black_box(ChunkHash::of(chunk));
                Ok::<_, Infallible>(())
            };
            chunker.push(&data, &mut hash).unwrap();
            chunker.finish(&mut hash).unwrap();
        });
    });
    group.bench_function("seal", |b| {
        b.iter(|| data.chunks(256 << 10).for_each(|chunk| drop(black_box(envelope::seal(chunk)))));
    });
    group.finish();
}

fn tree(c: &mut Criterion) {
    let states: Vec<State> = (0..10_000).filter_map(|number| State::of_node(&node(number))).collect();
    c.bench_function("merge of 10,000 nodes", |b| {
        b.iter(|| states.iter().for_each(|s| drop(black_box(merge(Some(s), Some(s), Some(s), Facts::default())))));
    });
    let mut group = c.benchmark_group("feed");
    group.sample_size(10);
    for nodes in [10_000, 100_000] {
        let page = page(nodes);
        group.bench_function(format!("first state of {nodes} nodes"), |b| {
            b.iter_batched(
                || page.clone(),
                |page| {
                    let mut engine = engine(Restored::default());
                    engine.page(Ask::default(), page);
                    while engine.poll(Timestamp(1)).is_some() {}
                    assert!(engine.len() as u64 >= nodes);
                    black_box(Arc::new(engine.take_record()));
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// Sends everything there is to send to a server that says yes. Returns how many changes these were.
fn send_all(engine: &mut Engine) -> usize {
    let mut sent = 0;
    let mut end = 1 << 32;
    loop {
        while engine.poll(Timestamp(2)).is_some() {}
        let Some(request) = engine.next_commit(Timestamp(2)) else { return sent };
        black_box(engine.take_record());
        let first_seq = end + 1;
        end += request.ops.len() as u64;
        sent += request.ops.len();
        let done = Committed { first_seq, last_seq: end, tag: 0 };
        engine.committed(request.op_id, CommitAnswer::Committed(done), Timestamp(2));
    }
}

fn kept_tree(c: &mut Criterion) {
    let mut group = c.benchmark_group("engine");
    group.sample_size(10);
    group.bench_function("load of a tree of 1,000,000 nodes", |b| {
        b.iter_batched(
            || kept(1_000_000, false),
            |kept| {
                let engine = engine(kept);
                // The root is one more.
                assert!(engine.len() >= 1_000_000);
                engine
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.bench_function("plan and commits of 10,000 changes", |b| {
        b.iter_batched(
            || engine(kept(10_000, true)),
            |mut engine| {
                assert_eq!(send_all(&mut engine), 10_000);
                engine
            },
            criterion::BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// A server on the disk, without its sockets.
struct Server {
    service: Service,
    runtime: tokio::runtime::Runtime,
    epoch: Epoch,
    made: u64,
    _dir: tempfile::TempDir,
}

impl Server {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let packs = dir.path().join("packs");
        std::fs::create_dir(&packs).unwrap();
        let meta = SqliteStore::open(&dir.path().join("meta.db")).unwrap();
        let packs = ObjectPacks::local(&packs).unwrap();
        let environment = Environment::system();
        let service = Service::new(Arc::new(meta), Arc::new(packs), environment, Offload::Blocking, None);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(service.add_folder(FIRST_FOLDER)).unwrap();
        let epoch = runtime.block_on(service.changes(FIRST_FOLDER, None, 1, 0)).unwrap().page.cursor.epoch;
        Self { service, runtime, epoch, made: 0, _dir: dir }
    }

    /// A batch of new files of 4 KiB of noise, with their bytes.
    fn batch(&mut self, files: u64) -> (CommitRequest, Vec<(ChunkHash, bytes::Bytes)>) {
        let numbers = self.made..self.made + files;
        self.made += files;
        let (mut chunks, mut contents, mut ops) = (Vec::new(), Vec::new(), Vec::new());
        for number in numbers {
            let raw: Vec<u8> = ChunkHash::of(&number.to_le_bytes()).as_bytes().repeat(4096 / 32);
            let hash = ChunkHash::of(&raw);
            let manifest = Manifest::new(vec![Extent::Chunk { hash, len: raw.len() as u32 }]).unwrap();
            let content = Some(Content::of(manifest.clone(), None).hash);
            chunks.push((hash, envelope::seal(&raw).into()));
            contents.push(NewContent { manifest, sha256: None });
            let Node { id, kind, names, attrs, xattrs, .. } = node(number);
            ops.push(Op::Create { id, base: 0, kind, names, attrs, xattrs, content, target: None });
        }
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.made.to_be_bytes());
        let (op_id, epoch, device) = (OpId::new_v7(1, &random), self.epoch, device());
        (
            CommitRequest {
                op_id,
                epoch,
                device,
                session: None,
                known: None,
                contents,
                changed: Vec::new(),
                concluded: false,
                times: Vec::new(),
                touched: Vec::new(),
                owners: Vec::new(),
                versions: Vec::new(),
                ops,
            },
            chunks,
        )
    }

    fn commit(&self, (request, chunks): (CommitRequest, Vec<(ChunkHash, bytes::Bytes)>)) {
        self.runtime.block_on(self.service.commit(FIRST_FOLDER, request, chunks)).unwrap();
    }
}

fn server(c: &mut Criterion) {
    let mut group = c.benchmark_group("server");
    group.sample_size(10);
    let mut server = Server::new();
    group.bench_function("durable commit of 1,000 files of 4 KiB", |b| {
        b.iter_custom(|times| {
            (0..times)
                .map(|_| {
                    let batch = server.batch(1_000);
                    let begin = Instant::now();
                    server.commit(batch);
                    begin.elapsed()
                })
                .sum()
        });
    });
    let mut server = Server::new();
    let batch = server.batch(10_000);
    server.commit(batch);
    group.bench_function("change page of 10,000 nodes", |b| {
        b.iter(|| {
            let page = server.service.changes(FIRST_FOLDER, None, PAGE_NODES_MAX, 0);
            let page = server.runtime.block_on(page).unwrap().page;
            assert_eq!(page.nodes.len(), PAGE_NODES_MAX);
            black_box(serde_json::to_vec(&page).unwrap())
        });
    });
    group.finish();
}

criterion_group!(benches, bytes, tree, kept_tree, server);
criterion_main!(benches);
