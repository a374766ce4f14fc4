//! The life of a folder's history: whether a cursor belongs to it, when it begins anew, and what it consists of.
//!
//! A server that was restored from an older backup gives out sequence numbers a second time. A client that was ahead is
//! told so by what its cursor says: a position past the end, or a tag that the commit there does not have. If this server has
//! told that cursor ([`super::cursor`]), it proves that the store was set back, so the folder gets a new epoch: every other
//! client resyncs too, by merging. Any other cursor changes nothing.

use super::cursor::{Proof, is_same, too_soon};
use super::{CursorKey, Result, Service, ServiceError, folder};
use crate::meta::{CommitRow, FolderKey, FolderRow, ReadTx, WriteTx};
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::{Epoch, Seq, Timestamp};

/// A commit and the name of the device that made it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PastCommit {
    /// What it did.
    pub commit: CommitRow,
    /// What people call the device; empty if nobody told.
    pub device: String,
}

/// The end of a folder's feed.
pub(super) fn end(tx: &dyn ReadTx, folder: &FolderRow, key: &CursorKey) -> Result<Cursor> {
    cursor_at(tx, folder, folder.seq, key)
}

/// A position in a folder's present history.
pub(super) fn cursor_at(tx: &dyn ReadTx, folder: &FolderRow, seq: Seq, key: &CursorKey) -> Result<Cursor> {
    Ok(key.cursor(folder, seq, tx.tag_at(folder.key, seq)?))
}

/// Whether this history has the cursor's position. The epoch is known to be the same.
pub(super) fn has(tx: &(impl ReadTx + ?Sized), folder: &FolderRow, cursor: Cursor) -> Result<bool> {
    let within = cursor.seq <= folder.seq;
    Ok(within && is_same(cursor.tag, tx.tag_at(folder.key, cursor.seq)?))
}

impl Service {
    /// The answer to a position that this history does not have. If it proves that the store was set back, the history
    /// begins a new life; a position that this server has not told writes nothing.
    pub(super) async fn strayed(&self, folder_name: &str, cursor: Cursor) -> ServiceError {
        match self.judge(folder_name, cursor).await {
            Ok(()) => resync("the cursor is not of this history, the server's store was set back"),
            Err(error) => error,
        }
    }

    async fn judge(&self, folder_name: &str, cursor: Cursor) -> Result<()> {
        let (name, key, now) = (folder_name.to_owned(), self.0.environment.cursor_key(), self.0.environment.now());
        let look = move |tx: &dyn ReadTx| {
            let folder = folder(tx, &name)?;
            if folder.epoch != cursor.epoch {
                return Err(resync("the cursor is of another epoch"));
            }
            Ok((folder.key, key.proof(&folder, cursor, now)))
        };
        let (folder, proof) = self.read(look).await?;
        match (proof, self.0.strays.wait(folder, now)) {
            (Proof::Wrong, _) => Err(ServiceError::UnprovenCursor),
            (Proof::OldForm, Some(wait)) => Err(too_soon(wait)),
            (Proof::OldForm | Proof::Right, _) => self.begin_again(folder_name, cursor, proof, now).await,
        }
    }

    /// Begins a new life of a folder's history; once, however many clients come with a position of the former one.
    async fn begin_again(&self, folder_name: &str, cursor: Cursor, proof: Proof, now: Timestamp) -> Result<()> {
        let (name, epoch, service) = (folder_name.to_owned(), self.0.environment.epoch(), self.clone());
        let job = move |tx: &dyn WriteTx| renew(tx, &name, cursor, epoch, now);
        let then = move |begun: &Option<FolderKey>| {
            let Some(key) = begun else { return };
            if proof == Proof::OldForm {
                service.0.strays.note_renewed(*key, now);
            }
            service.0.wake.changed(*key);
        };
        self.transact(job, then).await.map(drop)
    }

    /// Begins a new life of every folder's history; answers how many there are. All clients read everything again and merge.
    pub async fn restored(&self) -> Result<usize> {
        let service = self.clone();
        let job = move |tx: &dyn WriteTx| {
            let folders = tx.folders()?;
            folders.iter().try_for_each(|folder| tx.set_epoch(folder.key, service.0.environment.epoch()))?;
            tx.renew_loose(service.0.environment.now())?;
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

fn renew(tx: &dyn WriteTx, name: &str, proof: Cursor, epoch: Epoch, now: Timestamp) -> Result<Option<FolderKey>> {
    let folder = folder(tx, name)?;
    if folder.epoch != proof.epoch || has(tx, &folder, proof)? {
        return Ok(None);
    }
    tx.set_epoch(folder.key, epoch)?;
    // What devices have committed since may need what is loose here.
    tx.renew_loose(now)?;
    tracing::warn!(folder = folder.name, known = %proof, end = folder.seq, %epoch,
        "a client knows a later history than this store: it was set back, and all clients are told to read it again");
    Ok(Some(folder.key))
}

/// The answer to a cursor that is not of this history.
pub(super) fn resync(reason: &str) -> ServiceError {
    ServiceError::Resync(format!("{reason}: read the feed from the begin and merge"))
}
