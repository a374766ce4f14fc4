//! The SHA-256 of whole files, as far as this machine can prove it: from the manifest alone, from cutting the file here, or from
//! its bytes in the cache, each chunk checked against its hash. What a peer tells of it is never taken.
//!
//! Computed only when asked for, one file at a time, some MiB between two looks at whether the client is to end.

use super::{Client, prepare::HASHED_HOLES_MAX};
use lru::LruCache;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use syncmount_common::hash::FileHasher;
use syncmount_common::{Content, ContentHash, Extent, FileHash, Manifest, NodeId};
use tokio::sync::Notify;

/// Hashes that are remembered.
const KNOWN_MAX: usize = 4096;

/// Contents that wait to be hashed; another one that is asked for is asked for again.
const WANTED_MAX: usize = 64;

/// Bytes that are hashed without a pause.
const STEP_LEN: u64 = 16 * 1024 * 1024;

/// What is known and what is wanted.
pub(super) struct Digests {
    known: Mutex<LruCache<ContentHash, FileHash>>,
    wanted: Mutex<VecDeque<(NodeId, Arc<Content>)>>,
    asked: Notify,
}

impl Default for Digests {
    fn default() -> Self {
        let known = LruCache::new(NonZeroUsize::new(KNOWN_MAX).unwrap_or(NonZeroUsize::MIN));
        Self { known: Mutex::new(known), wanted: Mutex::default(), asked: Notify::new() }
    }
}

impl Digests {
    fn want(&self, node: NodeId, content: Arc<Content>) {
        let mut wanted = self.wanted.lock();
        let is_known = wanted.iter().any(|(_, other)| other.hash == content.hash);
        if !is_known && wanted.len() < WANTED_MAX {
            wanted.push_back((node, content));
            self.asked.notify_one();
        }
    }
}

impl Client {
    /// The SHA-256 of a file as it is now, where it is proved. Where it is not and all bytes are here, they are hashed in the
    /// background for the next caller.
    pub fn file_hash(&self, node: NodeId) -> Option<FileHash> {
        let content = self.look(|engine| engine.local(node)?.body.content().cloned())?;
        let proved = content.sha256.or_else(|| self.digests.known.lock().get(&content.hash).copied());
        if proved.is_none() && self.cache.get(&content.hash).is_some_and(|entry| entry.is_whole()) {
            self.digests.want(node, content);
        }
        proved
    }

    /// Feeds `hasher` with the extents from the index `from` on, about [`STEP_LEN`] bytes; answers where to go on. `None` if
    /// bytes are not here, or are not what the manifest says.
    fn hash_some(
        &self,
        content: &Content,
        manifest: &Manifest,
        hasher: &mut FileHasher,
        from: usize,
    ) -> io::Result<Option<usize>> {
        let (mut done, mut index) = (0, from);
        for (offset, extent) in manifest.with_offsets().skip(from) {
            if done >= STEP_LEN {
                break;
            }
            let mut raw = vec![0; extent.len() as usize];
            if let Extent::Chunk { hash, .. } = extent
                && (self.read_local(content, offset, &mut raw)? != Some(raw.len()) || !hash.matches(&raw))
            {
                return Ok(None);
            }
            hasher.update(&raw);
            done += extent.len();
            index += 1;
        }
        Ok(Some(index))
    }
}

/// Hashes what was asked for, one after the other, without end.
pub(super) async fn run(client: Arc<Client>) {
    loop {
        let next = client.digests.wanted.lock().front().cloned();
        let Some((node, content)) = next else {
            client.digests.asked.notified().await;
            continue;
        };
        // Another version may have come since.
        let is_current = client.look(|engine| engine.local(node)?.body.content_hash()) == Some(content.hash);
        if is_current && let Some(hash) = whole(&client, &content).await {
            client.digests.known.lock().put(content.hash, hash);
        }
        client.digests.wanted.lock().pop_front();
    }
}

async fn whole(client: &Arc<Client>, content: &Arc<Content>) -> Option<FileHash> {
    let manifest = client.manifest_here(content)?;
    let holes: u64 =
        manifest.extents().iter().filter(|extent| matches!(extent, Extent::Hole { .. })).map(Extent::len).sum();
    if holes > HASHED_HOLES_MAX {
        return None;
    }
    let (mut hasher, mut index) = (FileHasher::default(), 0);
    while index < manifest.extents().len() {
        let (client, content, manifest) = (client.clone(), content.clone(), manifest.clone());
        let step = move || {
            let next = client.hash_some(&content, &manifest, &mut hasher, index);
            (hasher, next)
        };
        let next;
        (hasher, next) = tokio::task::spawn_blocking(step).await.ok()?;
        match next {
            Ok(next) => index = next?,
            Err(error) => {
                tracing::debug!(%error, "a cached file cannot be read to be hashed");
                return None;
            }
        }
    }
    Some(hasher.finish())
}
