//! The life of a folder's history: whether a cursor belongs to it, when it begins anew, and what it consists of.
//!
//! A server that was restored from an older backup gives out sequence numbers a second time. A client that was ahead is
//! told so by what its cursor says: a position past the end, or a tag that the commit there does not have. Such a cursor
//! proves that the store was set back, so the folder gets a new epoch: every other client resyncs too, by merging.

use super::{Result, Service, ServiceError, folder};
use crate::meta::{self, CommitRow, FolderKey, FolderRow, ReadTx, WriteTx};
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::{Epoch, Seq};

/// A commit and the name of the device that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastCommit {
    /// What it did.
    pub commit: CommitRow,
    /// What people call the device; empty if nobody told.
    pub device: String,
}

/// The end of a folder's feed.
pub(super) fn end(tx: &dyn ReadTx, folder: &FolderRow) -> Result<Cursor> {
    cursor_at(tx, folder, folder.seq)
}

/// A position in a folder's present history.
pub(super) fn cursor_at(tx: &dyn ReadTx, folder: &FolderRow, seq: Seq) -> Result<Cursor> {
    Ok(Cursor { epoch: folder.epoch, seq, tag: tx.tag_at(folder.key, seq)? })
}

/// Whether this history has the cursor's position. The epoch is known to be the same.
pub(super) fn has(tx: &(impl ReadTx + ?Sized), folder: &FolderRow, cursor: Cursor) -> Result<bool> {
    let within = cursor.seq <= folder.seq;
    Ok(within && (cursor.tag == 0 || cursor.tag == tx.tag_at(folder.key, cursor.seq)?))
}

impl Service {
    /// Begins a new life of a folder's history because of a cursor that proves that it was set back; once, however many
    /// clients come with such a cursor.
    pub(super) async fn begin_anew(&self, folder_name: &str, proof: Cursor) -> Result<()> {
        let (name, epoch, service) = (folder_name.to_owned(), self.0.environment.epoch(), self.clone());
        let job = move |tx: &dyn WriteTx| renew(tx, &name, proof, epoch);
        let then = move |begun: &Option<FolderKey>| {
            if let Some(key) = begun {
                service.0.wake.changed(*key);
            }
        };
        meta::write(&*self.0.meta, job, then).await.map(drop)
    }

    /// Begins a new life of every folder's history; answers how many there are. All clients read everything again and merge.
    pub async fn restored(&self) -> Result<usize> {
        let service = self.clone();
        let job = move |tx: &dyn WriteTx| {
            let folders = tx.folders()?;
            folders.iter().try_for_each(|folder| tx.set_epoch(folder.key, service.0.environment.epoch()))?;
            Ok(folders)
        };
        let folders = self.write(job).await?;
        folders.iter().for_each(|folder| self.0.wake.changed(folder.key));
        Ok(folders.len())
    }

    /// The newest commits of a folder, newest first.
    pub async fn history(&self, folder_name: &str, limit: usize) -> Result<Vec<PastCommit>> {
        let name = folder_name.to_owned();
        self.read(move |tx| {
            let commits = tx.commits(folder(tx, &name)?.key, limit)?;
            let named = |commit: CommitRow| {
                let device = tx.device(commit.device)?.map_or_else(String::new, |device| device.name);
                Ok(PastCommit { commit, device })
            };
            commits.into_iter().map(named).collect()
        })
        .await
    }
}

fn renew(tx: &dyn WriteTx, name: &str, proof: Cursor, epoch: Epoch) -> Result<Option<FolderKey>> {
    let folder = folder(tx, name)?;
    if folder.epoch != proof.epoch || has(tx, &folder, proof)? {
        return Ok(None);
    }
    tx.set_epoch(folder.key, epoch)?;
    tracing::warn!(folder = folder.name, known = %proof, end = folder.seq, %epoch,
        "a client knows a later history than this store: it was set back, and all clients are told to read it again");
    Ok(Some(folder.key))
}

/// The answer to a cursor that is not of this history.
pub(super) fn resync(reason: &str) -> ServiceError {
    ServiceError::Resync(format!("{reason}: read the feed from the begin and merge"))
}
