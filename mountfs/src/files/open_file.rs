//! One file that somebody has open, or whose writes the tree has not been told of.

use super::overlay::Overlay;
use super::shown::Shown;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::{Attrs, Content, NodeId, Owner, Timestamp};

/// Where an open file's bytes come from.
#[derive(Clone, Debug)]
pub enum Backing {
    /// A content that the server has.
    Clean(Arc<Content>),
    /// Bytes written here.
    Draft(Overlay),
}

/// How many bytes of a content are not in holes; all, if its manifest is not here.
pub fn allocated(content: &Content) -> u64 {
    let chunks = content.manifest.as_ref().map(|manifest| manifest.chunks().map(|(_, len)| u64::from(len)).sum());
    chunks.unwrap_or(content.size)
}

impl Backing {
    /// How many of these bytes are not in holes, as far as that is known without asking the server.
    pub fn allocated(&self) -> u64 {
        match self {
            Self::Clean(content) => allocated(content),
            Self::Draft(overlay) => {
                let beneath = overlay.base.as_ref().map_or(0, |base| allocated(base).min(overlay.base_len));
                overlay.size.min(overlay.present.covered().saturating_add(beneath))
            }
        }
    }

    /// The content that these bytes are, if they are one.
    pub fn content(&self) -> Option<&Arc<Content>> {
        match self {
            Self::Clean(content) => Some(content),
            Self::Draft(_) => None,
        }
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Clean(content) => content.size,
            Self::Draft(overlay) => overlay.size,
        }
    }
}

/// The last attributes of a node that was removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Last {
    /// Mode and mtime.
    pub attrs: Attrs,
    /// To whom it belonged, as it was shown; `None`: to the user who mounts the folder.
    pub owner: Option<Owner>,
}

/// The changing part of an open file.
#[derive(Debug)]
pub struct Inner {
    /// Whose bytes these are. Changes if they become a conflict copy.
    pub node: NodeId,
    /// Where they come from.
    pub backing: Backing,
    /// Grows with every change of the bytes.
    pub generation: u64,
    /// The generation that the tree knows.
    pub told: u64,
    /// Whether the tree was told that these bytes may be sent.
    pub told_ready: bool,
    /// When the bytes were last changed, for the user.
    pub mtime: Timestamp,
    /// When they were last changed, for waiting until the writer is quiet.
    pub written: Instant,
    /// When the oldest change that may not be sent yet was made.
    pub unsent_since: Option<Instant>,
    /// Set when the node was removed while it was open: its last attributes.
    pub orphan: Option<Last>,
    /// Set when another device's version took the node while somebody was writing to this one: what the attributes were.
    /// The next byte written makes this version a conflict copy.
    pub apart: Option<Attrs>,
    /// What the kernel shows of it by itself.
    pub shown: Vec<Arc<Shown>>,
}

impl Inner {
    /// The file that has the bytes where some of them may have been changed through a mapping.
    pub fn mapped(&self) -> Option<Arc<Shown>> {
        self.shown.iter().find(|shown| shown.is_mapped() && shown.is_in_step()).cloned()
    }
}

/// One file that is open.
#[derive(Debug)]
pub struct OpenFile {
    /// Under which node it is known; apart from `inner`, which is locked while bytes are written.
    key: Mutex<NodeId>,
    /// Locked for writing by every change of the bytes, for reading only while it is looked up where bytes are.
    pub inner: RwLock<Inner>,
    /// Number of open handles.
    opens: AtomicU32,
    /// Those of them that may write.
    writers: AtomicU32,
    /// Since when what was synced waits for its writer to be done with it.
    resting: Mutex<Option<Instant>>,
}

/// What was synced is sent when nobody has written to it for this long …
const REST: Duration = Duration::from_millis(100);
/// … or at the latest after this.
const REST_MAX: Duration = Duration::from_secs(1);

impl OpenFile {
    /// The bytes were synced and may be sent, and whoever writes them goes on. Programs that sync do so again and again, as
    /// databases with each transaction: it is sent when they pause.
    pub fn begin_rest(&self) {
        self.resting.lock().get_or_insert_with(Instant::now);
    }

    /// It is sent at once. Whether it was not before.
    pub fn end_rest(&self) -> bool {
        self.resting.lock().take().is_some()
    }

    /// How long these bytes are not to be sent yet, unless that changes meanwhile.
    pub fn rest(&self, generation: u64, now: Instant) -> Option<Duration> {
        let (written, latest) = {
            let inner = self.inner.read();
            (inner.written, inner.generation)
        };
        let mut resting = self.resting.lock();
        let since = (*resting)?;
        let until = (written + REST).min(since + REST_MAX);
        if until > now {
            return (latest == generation).then(|| until - now);
        }
        *resting = None;
        None
    }

    /// Whether somebody has it open.
    pub fn is_open(&self) -> bool {
        self.opens.load(Ordering::Acquire) > 0
    }

    /// Number of open handles.
    pub fn handles(&self) -> u32 {
        self.opens.load(Ordering::Acquire)
    }

    /// Whether somebody has it open for writing.
    pub fn has_writers(&self) -> bool {
        self.writers() > 0
    }

    /// How many handles may write.
    pub fn writers(&self) -> u32 {
        self.writers.load(Ordering::Acquire)
    }

    /// One of those who may write will not write any more.
    pub fn end_writing(&self) {
        self.writers.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All files that are open, by node.
#[derive(Debug, Default)]
pub struct OpenFiles {
    by_node: Mutex<HashMap<NodeId, Arc<OpenFile>>>,
}

impl OpenFiles {
    /// The open file of a node.
    pub fn get(&self, node: NodeId) -> Option<Arc<OpenFile>> {
        self.by_node.lock().get(&node).cloned()
    }

    /// Opens once more, with `make` if it is not open yet.
    pub fn open<E>(
        &self,
        node: NodeId,
        writer: bool,
        make: impl FnOnce() -> Result<Inner, E>,
    ) -> Result<Arc<OpenFile>, E> {
        let mut by_node = self.by_node.lock();
        let file = match by_node.get(&node) {
            Some(file) => file.clone(),
            None => {
                let file = Arc::new(OpenFile {
                    key: Mutex::new(node),
                    inner: RwLock::new(make()?),
                    opens: AtomicU32::new(0),
                    writers: AtomicU32::new(0),
                    resting: Mutex::new(None),
                });
                by_node.insert(node, file.clone());
                file
            }
        };
        file.opens.fetch_add(1, Ordering::AcqRel);
        file.writers.fetch_add(u32::from(writer), Ordering::AcqRel);
        Ok(file)
    }

    /// Closes one handle, after [`OpenFile::end_writing`] if it was a writer's; the file is forgotten with the last. Then
    /// answers with the node that it was.
    pub fn close(&self, file: &Arc<OpenFile>) -> Option<NodeId> {
        let mut by_node = self.by_node.lock();
        if file.opens.fetch_sub(1, Ordering::AcqRel) > 1 {
            return None;
        }
        let node = *file.key.lock();
        if by_node.get(&node).is_some_and(|known| Arc::ptr_eq(known, file)) {
            by_node.remove(&node);
        }
        Some(node)
    }

    /// The file is no longer that of its node: who opens the node from now on gets another.
    pub fn detach(&self, node: NodeId, file: &Arc<OpenFile>) {
        let mut by_node = self.by_node.lock();
        if by_node.get(&node).is_some_and(|known| Arc::ptr_eq(known, file)) {
            by_node.remove(&node);
        }
    }

    /// A file that was detached is that of `node` from now on.
    pub fn attach(&self, node: NodeId, file: &Arc<OpenFile>) {
        let mut by_node = self.by_node.lock();
        *file.key.lock() = node;
        by_node.insert(node, file.clone());
    }

    /// The bytes of `from` are those of `to` from now on.
    pub fn moved(&self, from: NodeId, to: NodeId) {
        let mut by_node = self.by_node.lock();
        if let Some(file) = by_node.remove(&from) {
            *file.key.lock() = to;
            by_node.insert(to, file.clone());
            drop(by_node);
            file.inner.write().node = to;
        }
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<OpenFile>> {
        self.by_node.lock().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_file(written: Instant) -> Arc<OpenFile> {
        let inner = || {
            Ok::<_, std::convert::Infallible>(Inner {
                node: NodeId::ROOT,
                backing: Backing::Draft(Overlay::empty()),
                generation: 3,
                told: 3,
                told_ready: true,
                mtime: Timestamp(0),
                written,
                unsent_since: None,
                orphan: None,
                apart: None,
                shown: Vec::new(),
            })
        };
        OpenFiles::default().open(NodeId::ROOT, true, inner).unwrap()
    }

    #[test]
    fn what_was_synced_rests_until_its_writer_pauses_or_is_done_and_not_for_ever() {
        let now = Instant::now();
        let file = open_file(now);
        assert_eq!(file.rest(3, now), None, "it was not synced");
        file.begin_rest();
        assert_eq!(file.rest(3, now), Some(REST));
        assert_eq!(file.rest(2, now), None, "nothing becomes of bytes that are not the latest");
        assert_eq!(file.rest(3, now + REST / 2), Some(REST / 2));
        assert_eq!(file.rest(3, now + REST), None);
        assert!(!file.end_rest(), "that was its end");
        file.begin_rest();
        assert!(file.end_rest());
        assert_eq!(file.rest(3, now), None);

        file.begin_rest();
        let later = Instant::now() + REST_MAX;
        file.inner.write().written = later;
        assert_eq!(file.rest(3, later), None, "a writer that never pauses");
    }
}
