//! Which session of a device may speak: the newest, and it must know all that the device has committed.
//!
//! A client that was set back to a backup, or that was copied, begins a session like any other, but what it knows ends
//! before the device's newest commit, or another session has its number already. It is refused, so that nobody takes the
//! commits of the one for earlier drafts of the other. An earlier session that is still about is refused as well, from the
//! moment on at which its successor was first heard of: nothing of it lands behind the successor's back.

use super::{Poll, Result, Service, ServiceError, folder};
use crate::meta::{FolderKey, ReadTx, SessionRow, WriteTx};
use syncmount_common::protocol::commit::Committed;
use syncmount_common::protocol::session::Session;
use syncmount_common::{DeviceId, Seq};

/// What is known of a session that may speak.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// It is the one that spoke last.
    Known,
    /// It is heard for the first time; the device's newest commit ends here, 0 if it is not known.
    New(Seq),
}

/// Whether a session of a device may speak.
pub(super) fn standing(tx: &dyn ReadTx, key: FolderKey, device: DeviceId, session: &Session) -> Result<Standing> {
    let Some(stored) = tx.session(key, device)? else { return Ok(Standing::New(0)) };
    if (stored.number, stored.nonce) == (session.number, session.nonce) {
        return Ok(Standing::Known);
    }
    if session.number > stored.number && knows(tx, key, stored.committed, session)? {
        return Ok(Standing::New(stored.committed));
    }
    Err(ServiceError::Superseded)
}

/// Whether the client knows the device's newest commit. One that knows of a later one comes to a server that was set back.
fn knows(tx: &dyn ReadTx, key: FolderKey, committed: Seq, session: &Session) -> Result<bool> {
    if committed <= session.acknowledged {
        return Ok(true);
    }
    let Some(op) = session.unanswered else { return Ok(false) };
    Ok(tx.answer(key, op)?.is_some_and(|answer| answer.last_seq == committed))
}

/// A session that may speak has committed.
pub(super) fn note_commit(
    tx: &dyn WriteTx,
    key: FolderKey,
    device: DeviceId,
    session: &Session,
    done: Committed,
) -> Result<()> {
    enter(tx, key, device, session, done.last_seq)
}

fn enter(tx: &dyn WriteTx, key: FolderKey, device: DeviceId, session: &Session, committed: Seq) -> Result<()> {
    let row = SessionRow { number: session.number, nonce: session.nonce, committed };
    Ok(tx.put_session(key, device, &row)?)
}

impl Service {
    /// Enters the session of a poll if it is new: from now on no earlier one is heard. A poll of a known one writes nothing.
    pub(super) async fn hear(&self, folder_name: &str, poll: Poll) -> Result<()> {
        let Some((device, session)) = poll.speaker()? else { return Ok(()) };
        let name = folder_name.to_owned();
        // A cursor that this history does not have says that the server was set back: it is answered first.
        let known = self.read(move |tx| {
            let folder = folder(tx, &name)?;
            Ok(!poll.fits(tx, &folder)? || standing(tx, folder.key, device, &session)? == Standing::Known)
        });
        if known.await? {
            return Ok(());
        }
        let name = folder_name.to_owned();
        self.write(move |tx| {
            let key = folder(tx, &name)?.key;
            match standing(tx, key, device, &session)? {
                Standing::Known => Ok(()),
                Standing::New(committed) => enter(tx, key, device, &session, committed),
            }
        })
        .await
    }
}
