//! What a large folder needs in memory: joining it takes little more than it takes at rest.
//!
//! A program of its own, with one test: everything that it allocates is counted.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use syncmount_common::protocol::changes::{ChangesPage, Cursor, Device};
use syncmount_common::{
    Attrs, Content, DeviceId, Epoch, FileHash, FolderId, Manifest, Name, Node, NodeId, NodeKind, Placement, Timestamp,
    Xattrs,
};
use syncmount_engine::{Effect, Engine, Identity, Restored};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(more: usize, less: usize) {
    let live = LIVE.fetch_add(more, Ordering::SeqCst) + more - less;
    LIVE.fetch_sub(less, Ordering::SeqCst);
    PEAK.fetch_max(live, Ordering::SeqCst);
}

// SAFETY: everything is done by the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }

    /// What is large moves to its new place without being there twice.
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const NODES: u64 = 100_000;
const PER_PAGE: u64 = 1_000;
const PER_DIR: u64 = 100;
const NOW: Timestamp = Timestamp(1_795_342_530_000_000_000);

fn id(number: u64) -> NodeId {
    // Not in the order in which they come, but the same each time. The first is not the root's.
    let number = number + 1;
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    NodeId::from_bytes(bytes)
}

fn node(number: u64) -> Node {
    let (is_dir, author) = (number.is_multiple_of(PER_DIR), DeviceId::from_bytes([2; 16]));
    let parent = if is_dir { NodeId::ROOT } else { id(number - number % PER_DIR) };
    Node {
        id: id(number),
        rev: number + 1,
        kind: if is_dir { NodeKind::Dir } else { NodeKind::File },
        deleted: false,
        names: vec![Placement { parent, name: Name::try_from(format!("name {number}").as_str()).unwrap() }],
        attrs: Attrs { mode: 0o644, mtime: NOW },
        xattrs: Xattrs::default(),
        content: (!is_dir).then(|| Content::of(Manifest::default(), Some(FileHash::of(b"")))),
        target: None,
        author,
        content_rev: number + 1,
        content_author: author,
        changed: None,
    }
}

fn start(restored: Restored) -> Engine {
    let device = Device { id: DeviceId::from_bytes([1; 16]), name: "here".to_owned() };
    Engine::new(Identity { device, seed: 1 }, restored)
}

/// The most that was live in `work` beside what was before, and what of it is left, in bytes.
fn measured<T>(work: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = LIVE.load(Ordering::SeqCst);
    PEAK.store(before, Ordering::SeqCst);
    let out = work();
    (out, PEAK.load(Ordering::SeqCst) - before, LIVE.load(Ordering::SeqCst) - before)
}

fn join() -> Engine {
    let mut engine = start(Restored::default());
    for first in (0..NODES).step_by(PER_PAGE as usize) {
        let cursor = Cursor { epoch: Epoch::from_bytes([7; 16]), seq: first + PER_PAGE, tag: 1 };
        let page = ChangesPage {
            folder: FolderId::from_bytes([9; 16]),
            cursor,
            more: first + PER_PAGE < NODES,
            nodes: (first + 1..=first + PER_PAGE).map(|number| node(number - 1)).collect(),
            devices: Vec::new(),
            own: None,
            wanted: Vec::new(),
            touched: Vec::new(),
            owners: None,
        };
        engine.page(engine.next_page(), page);
    }
    let first = engine.poll(NOW);
    assert!(matches!(first, Some(Effect::Changed(_))) && engine.has_joined());
    // As a driver does it: the rows are kept while the effects wait.
    let record = engine.take_record();
    assert!(engine.rows(&record).size_hint().0 as u64 >= NODES && engine.rows(&record).all(|(_, row)| row.is_some()));
    drop(record);
    let told = 1 + std::iter::from_fn(|| engine.poll(NOW)).count();
    assert!(told as u64 >= NODES, "{told} were told");
    engine
}

#[test]
fn a_large_folder_is_joined_with_little_more_memory_than_it_needs_at_rest() {
    let (_engine, peak, rest) = measured(join);
    println!("joining: {} bytes a node at most, {} at rest", peak / NODES as usize, rest / NODES as usize);
    assert!(peak < rest + rest / 5, "{peak} bytes at most, {rest} at rest");
}
