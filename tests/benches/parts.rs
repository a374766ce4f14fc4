//! What the parts cost: cutting and hashing, sealing, merging, and a batch of a thousand small files.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::convert::Infallible;
use std::hint::black_box;
use std::sync::Arc;
use syncmount_common::chunker::{ChunkSizes, Chunker};
use syncmount_common::protocol::changes::{Ask, ChangesPage, Cursor, Device};
use syncmount_common::{
    Attrs, ChunkHash, Content, DeviceId, Epoch, Extent, FolderId, Manifest, Name, Node, NodeId, NodeKind, Placement,
    Timestamp, envelope,
};
use syncmount_engine::{Engine, Facts, Identity, Restored, State, merge};

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
    random[..8].copy_from_slice(&number.to_le_bytes());
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
        xattrs: syncmount_common::Xattrs::default(),
    }
}

fn page(nodes: u64) -> ChangesPage {
    ChangesPage {
        folder: FolderId::from_bytes([2; 16]),
        cursor: Cursor { epoch: Epoch::from_bytes([3; 16]), seq: nodes, tag: 0 },
        more: false,
        nodes: (0..nodes).map(node).collect(),
        devices: Vec::new(),
        own: None,
    }
}

fn engine() -> Engine {
    let device = Device { id: DeviceId::from_bytes([4; 16]), name: "bench".into() };
    Engine::new(Identity { device, seed: 1 }, Restored::default())
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
                    let mut engine = engine();
                    engine.page(Ask::default(), page);
                    while engine.poll(Timestamp(1)).is_some() {}
                    black_box(Arc::new(engine.take_record()));
                },
                criterion::BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, bytes, tree);
criterion_main!(benches);
