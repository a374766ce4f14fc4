//! What the kernel was told of a moment ago. If another device takes it away before the kernel comes back for it, whoever is
//! just opening it gets what it was: the same as if they had been a little faster, and no ESTALE.

use lru::LruCache;
use parking_lot::Mutex;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_common::NodeId;
use syncmount_engine::State;

/// How long a moment is: what lies between the look at a name and the open is a switch or two between processes.
const MOMENT: Duration = Duration::from_secs(5);
/// How many nodes are remembered.
const TOLD_MAX: usize = 1024;

pub(super) struct Lately(Mutex<LruCache<NodeId, (Instant, Arc<State>)>>);

impl Default for Lately {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(TOLD_MAX).unwrap_or(NonZeroUsize::MIN))))
    }
}

impl Lately {
    /// The kernel is told that a name stands for this node.
    pub(super) fn told(&self, node: NodeId, state: &Arc<State>) {
        self.0.lock().put(node, (Instant::now(), state.clone()));
    }

    /// What a node was that is gone by now.
    pub(super) fn was(&self, node: NodeId) -> Option<Arc<State>> {
        let told = self.0.lock().get(&node).cloned();
        told.filter(|(at, _)| at.elapsed() < MOMENT).map(|(_, state)| state)
    }
}

#[cfg(test)]
mod tests {
    use crate::driver::recovery_tests;
    use crate::vfs::{ROOT_INO, Vfs, VfsError};
    use std::sync::Arc;
    use syncmount_common::{Attrs, ChunkHash, Content, Extent, Manifest, Name, NodeId, Timestamp};
    use syncmount_engine::{Body, FileBody};

    #[test]
    fn what_is_taken_away_while_it_is_being_opened_can_be_read() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let client = recovery_tests::open(dir.path(), &runtime);
        let chunk = ChunkHash::of(b"bytes");
        let manifest = Arc::new(Manifest::new(vec![Extent::Chunk { hash: chunk, len: 5 }]).unwrap());
        let content = Content::of(Manifest::clone(&manifest), None);
        client.cache().entry(&content.hash, &manifest).unwrap().put(&chunk, b"bytes").unwrap();
        let body = Body::File(FileBody::Clean(Arc::new(content)));
        let attrs = Attrs { mode: 0o644, mtime: Timestamp(7) };
        let name = Name::try_from("file").unwrap();
        client.change(|engine, now| engine.create(NodeId::ROOT, name, attrs, body, now)).unwrap().unwrap();

        let vfs = Vfs::for_tests(client.clone());
        let ino = vfs.lookup(ROOT_INO, b"file").unwrap().ino;
        client.change(|engine, now| engine.remove(NodeId::ROOT, b"file", false, now)).unwrap().unwrap();
        let stat = vfs.getattr(ino).unwrap();
        assert_eq!((stat.size, stat.links, stat.mtime), (5, 0, Timestamp(7)));
        let fh = vfs.open(ino, false, false, false).unwrap();
        let mut buf = b"what was read before".to_vec();
        let len = vfs.read(fh, 0, 10, &mut buf).unwrap().unwrap();
        assert_eq!(&buf[..len], b"bytes");
        assert_eq!(vfs.getattr(ino).unwrap().links, 0);
        vfs.release(fh).unwrap();
        // Nobody writes into what is gone: the kernel looks the name up once more.
        assert!(matches!(vfs.open(ino, true, false, false), Err(VfsError::Gone)));
    }
}
