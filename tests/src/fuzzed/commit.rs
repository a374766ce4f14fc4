//! Commits as JSON against the real service. What is accepted must leave a folder that answers everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use syncmount_common::protocol::changes::PAGE_NODES_MAX;
use syncmount_common::protocol::commit::CommitRequest;
use syncmount_common::protocol::features::Features;
use syncmount_common::protocol::json;
use syncmount_common::{ChunkHash, Timestamp, envelope};
use syncmount_server::FIRST_FOLDER;
use syncmount_server::service::{Environment, Path, Service};

/// Commits of one input: one for each line.
const COMMITS_MAX: usize = 16;

/// Each line of the input is a commit. The folder is always the same, so that a corpus can name its epoch.
pub(super) fn commit(data: &[u8]) {
    let service = at_once(Service::in_memory(environment())).expect("a service in memory");
    let chunks = [&b"a"[..], b"bb"].map(|raw| (ChunkHash::of(raw), envelope::seal(raw).into()));
    at_once(service.put(chunks.to_vec())).expect("two chunks");
    for line in data.split(|byte| *byte == b'\n').take(COMMITS_MAX) {
        let Ok(request) = json::from_slice::<CommitRequest>(line, Features::default()) else { continue };
        if at_once(service.commit(FIRST_FOLDER, request, Vec::new())).is_ok() {
            answers(&service);
        }
    }
}

/// Asks what clients ask for.
fn answers(service: &Service) {
    at_once(service.check()).expect("health");
    let folders = at_once(service.folders()).expect("the folders");
    assert_eq!(folders.folders.len(), 1);
    at_once(service.folder(FIRST_FOLDER)).expect("the folder");
    at_once(service.history(FIRST_FOLDER, 100)).expect("the history");
    at_once(service.holds(FIRST_FOLDER)).expect("what is held");
    let root = Path::new([]).expect("the root");
    let listing = at_once(service.list(FIRST_FOLDER, &root, None, 1_000)).expect("a listing");
    let page = at_once(service.changes(FIRST_FOLDER, None, PAGE_NODES_MAX, 64 << 10)).expect("the feed").page;
    assert!(!page.more && page.nodes.len() >= listing.entries.len());
    for entry in listing.entries {
        let name = entry.name.expect("an entry has a name");
        let path = Path::new([name.as_bytes().to_vec()]).expect("a name of the listing");
        at_once(service.info(FIRST_FOLDER, &path)).expect("what is listed");
    }
    assert_eq!(serde_json::from_slice(&serde_json::to_vec(&page).expect("JSON")).ok(), Some(page));
    at_once(service.undo(FIRST_FOLDER, 0, true)).expect("what undo would do");
}

/// A clock that stands still, and numbers that count.
fn environment() -> Environment {
    let next = Arc::new(AtomicU64::new(1));
    let fill = move |bytes: &mut [u8]| {
        let number = next.fetch_add(1, Ordering::Relaxed).to_le_bytes();
        bytes.iter_mut().zip(number.iter().cycle()).for_each(|(byte, number)| *byte = *number);
    };
    Environment::new(|| Timestamp::from_parts(1_700_000_000, 0), fill)
}

/// The result of a future of a service in memory, which never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => done,
        Poll::Pending => unreachable!("a service in memory does not wait"),
    }
}
