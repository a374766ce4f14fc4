//! The SHA-256 of a file: computed from the stored bytes when it is asked for, and kept with the content.
//!
//! Owns how much of that runs. One piece of one file is hashed at a time, for the whole server; the files take turns, so
//! that a small one does not wait for the end of a large one. A hash that a client tells is never kept: other clients would
//! take it for a proof.

use super::{Path, Result, Service, ServiceError};
use bytes::Bytes;
use futures::TryStreamExt as _;
use std::sync::Arc;
use syncmount_common::hash::FileHasher;
use syncmount_common::protocol::files::FileInfo;
use syncmount_common::{FileHash, Manifest};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes that are hashed in one turn.
const TURN_LEN: usize = 16 * 1024 * 1024;

/// Files that are hashed by turns. A request for another one is told to come back later.
const FILES_MAX: usize = 16;

/// The largest file that is hashed, in bytes: an hour's work. A hole costs as much time as other bytes.
const HASHED_SIZE_MAX: u64 = 1 << 40;

/// Permits to hash: for one piece at a time, and for few files.
pub(super) struct Hashing {
    running: Semaphore,
    files: Semaphore,
}

impl Default for Hashing {
    fn default() -> Self {
        Self { running: Semaphore::new(1), files: Semaphore::new(FILES_MAX) }
    }
}

impl Hashing {
    /// A place among the files that are hashed.
    fn enter(&self) -> Result<SemaphorePermit<'_>> {
        let busy = |_| ServiceError::Busy(format!("{FILES_MAX} other files are being hashed: try again later"));
        self.files.try_acquire().map_err(busy)
    }

    /// The next turn; they are given in the order in which they are asked for.
    async fn turn(&self) -> Result<SemaphorePermit<'_>> {
        self.running.acquire().await.map_err(|_| ServiceError::Panicked)
    }
}

impl Service {
    /// What is known about what is at a path, with the SHA-256 of a file: computed now, if it is not known.
    pub async fn info_with_hash(&self, folder: &str, path: &Path) -> Result<FileInfo> {
        let info = self.info(folder, path).await?;
        let (Some(content), None) = (info.content, info.sha256) else { return Ok(info) };
        if info.size > HASHED_SIZE_MAX {
            let text = format!("`{path}` has {} bytes, only files of up to {HASHED_SIZE_MAX} are hashed", info.size);
            return Err(ServiceError::TooLarge(text));
        }
        let _place = self.0.hashing.enter()?;
        let unknown = || ServiceError::NotFound(format!("the content {content} is not known"));
        let manifest = self.known_manifest(content).await?.ok_or_else(unknown)?;
        let sha256 = self.hash(&Arc::new(manifest)).await?;
        self.write(move |tx| Ok(tx.set_sha256(&content, &sha256)?)).await?;
        Ok(FileInfo { sha256: Some(sha256), ..info })
    }

    async fn hash(&self, manifest: &Arc<Manifest>) -> Result<FileHash> {
        let mut bytes = self.stream(manifest, 0..manifest.size());
        let mut hasher = FileHasher::default();
        loop {
            let turn = self.0.hashing.turn().await?;
            let (mut pieces, mut len) = (Vec::<Bytes>::new(), 0);
            while len < TURN_LEN
                && let Some(piece) = bytes.try_next().await?
            {
                len += piece.len();
                pieces.push(piece);
            }
            if pieces.is_empty() {
                return Ok(hasher.finish());
            }
            let job = move || {
                pieces.iter().for_each(|piece| hasher.update(piece));
                hasher
            };
            hasher = self.0.offload.run(job).await?;
            drop(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_runs_and_few_wait_in_their_order() {
        let hashing = Hashing::default();
        let places: Vec<_> = (0..FILES_MAX).map(|_| hashing.enter().unwrap()).collect();
        assert!(matches!(hashing.enter(), Err(ServiceError::Busy(_))));
        drop(places);
        drop(hashing.enter().unwrap());
        let running = hashing.turn().await.unwrap();
        let (mut first, mut second) = (Box::pin(hashing.turn()), Box::pin(hashing.turn()));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        drop(running);
        assert!(futures::poll!(&mut second).is_pending(), "the first comes first");
        assert!(futures::poll!(&mut first).is_ready());
    }
}
