//! To which user and group a node belongs here: what is shown, what chown may do, and what a new node gets.
//!
//! The kernel has checked by then what the caller may do. Must not know callers beyond their numbers.

use super::{Result, SGID, VfsError};
use crate::cli::Owners;
use syncmount_common::{NodeId, Owner, Timestamp};
use syncmount_engine::{Engine, OwnerHere, State};

/// How the owners of a mount are shown and kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ownership {
    /// Whose they are, and where that is kept.
    pub owners: Owners,
    /// The user who mounts the folder, and the user's group: to whom belongs what belongs to no one else.
    pub mounter: Owner,
}

impl Ownership {
    /// The owner that is shown of a node that is there.
    pub(super) fn shown(&self, engine: &Engine, node: NodeId, state: &State) -> Owner {
        match self.owners {
            Owners::Synced => state.xattrs.owner().unwrap_or(self.mounter),
            Owners::User | Owners::Local => self.of(engine.owner_here(node)),
        }
    }

    fn of(&self, here: OwnerHere) -> Owner {
        let uid = here.uid.filter(|_| self.owners == Owners::Local).unwrap_or(self.mounter.uid);
        Owner { uid, gid: here.gid.unwrap_or(self.mounter.gid) }
    }

    fn here(&self, owner: Owner) -> OwnerHere {
        let uid = Some(owner.uid).filter(|uid| *uid != self.mounter.uid);
        OwnerHere { uid, gid: Some(owner.gid).filter(|gid| *gid != self.mounter.gid) }
    }

    /// What a node belongs to that `maker` makes in `parent`.
    pub(super) fn of_new(&self, engine: &Engine, parent: NodeId, maker: Owner) -> Owner {
        let maker = match self.owners {
            Owners::User if maker.uid != self.mounter.uid => self.mounter,
            _ => maker,
        };
        // What is made in a directory with the set-group-id bit belongs to the directory's group.
        let above = engine.local(parent).filter(|state| state.attrs.mode & SGID != 0);
        let gid = above.map_or(maker.gid, |state| self.shown(engine, parent, state).gid);
        Owner { gid, ..maker }
    }

    /// Gives a node to `owner`.
    pub(super) fn give(&self, engine: &mut Engine, node: NodeId, owner: Owner, now: Timestamp) -> Result<()> {
        match self.owners {
            Owners::Synced => engine.set_owner(node, owner, now)?,
            Owners::User if owner.uid != self.mounter.uid => return Err(VfsError::Owner),
            // What `local` has kept of it stays for that.
            Owners::User => {
                let here = OwnerHere { uid: engine.owner_here(node).uid, ..self.here(owner) };
                engine.set_owner_here(node, here, now)?;
            }
            Owners::Local => engine.set_owner_here(node, self.here(owner), now)?,
        }
        Ok(())
    }

    /// Gives a new node to `owner`: nothing is kept where that is so anyway.
    pub(super) fn give_new(&self, engine: &mut Engine, node: NodeId, owner: Owner, now: Timestamp) -> Result<()> {
        let is_so = self.owners != Owners::Synced && owner == self.mounter;
        if is_so { Ok(()) } else { self.give(engine, node, owner, now) }
    }
}
