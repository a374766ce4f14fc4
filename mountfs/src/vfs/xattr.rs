//! Extended attributes: those that programs keep, and two that tell how a file stands.

use super::{Result, Vfs, VfsError};
use crate::driver::Presence;
use syncmount_common::xattr::{XATTR_NAMESPACE, XATTR_RESERVED};
use syncmount_common::{NodeId, Xattrs};
use syncmount_engine::{Engine, Refusal};

/// How a file stands: `remote`, `partial`, `cached`, `pinned`, `pending` or `conflict`.
const STATE: &[u8] = b"user.syncmount.state";
/// The SHA-256 of the whole file as 64 hexadecimal digits, once this machine has proved it.
const SHA256: &[u8] = b"user.syncmount.sha256";

impl Vfs {
    /// A value.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        if !name.starts_with(XATTR_NAMESPACE) {
            return Err(VfsError::NotSupported);
        }
        let node = self.node(ino)?;
        match name {
            STATE => self.standing(node).map(|state| state.as_bytes().to_vec()),
            SHA256 => self.sha256(node),
            _ => self.xattrs(node)?.get(name).map(<[u8]>::to_vec).ok_or(VfsError::NoXattr),
        }
    }

    /// The names, each with a zero byte behind it. What tells how a file stands is not among them: who copies all attributes
    /// must not copy those.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let xattrs = self.xattrs(self.node(ino)?)?;
        Ok(xattrs.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect())
    }

    /// Sets a value. With `create` there must be none yet, with `replace` there must be one.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], create: bool, replace: bool) -> Result<()> {
        self.change_xattrs(ino, name, |xattrs| {
            match xattrs.get(name) {
                Some(_) if create => return Err(VfsError::XattrExists),
                None if replace => return Err(VfsError::NoXattr),
                Some(known) if known == value => return Ok(()),
                _ => {}
            }
            Ok(xattrs.set(name, value)?)
        })
    }

    /// Takes a value away.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.change_xattrs(ino, name, |xattrs| if xattrs.remove(name) { Ok(()) } else { Err(VfsError::NoXattr) })
    }

    fn change_xattrs(&self, ino: u64, name: &[u8], change: impl FnOnce(&mut Xattrs) -> Result<()>) -> Result<()> {
        if !name.starts_with(XATTR_NAMESPACE) {
            return Err(VfsError::NotSupported);
        }
        if name.starts_with(XATTR_RESERVED) {
            return Err(VfsError::StatusXattr);
        }
        self.require_writable()?;
        let node = self.node(ino)?;
        self.client.change(|engine, now| {
            let mut xattrs = local_xattrs(engine, node)?;
            change(&mut xattrs)?;
            Ok(engine.set_xattrs(node, xattrs, now)?)
        })?
    }

    fn xattrs(&self, node: NodeId) -> Result<Xattrs> {
        self.client.look(|engine| local_xattrs(engine, node)).or_else(|error| match error {
            // Removed while it is open: its attributes went with its last name.
            VfsError::Refused(Refusal::NotFound) if self.client.files.get(node).is_some() => Ok(Xattrs::default()),
            error => Err(error),
        })
    }

    fn standing(&self, node: NodeId) -> Result<&'static str> {
        let is_unsaid = self.client.open_attrs(node).is_some();
        let (pending, conflict) = self
            .client
            .look(|engine| Some((engine.entry(node)?.is_dirty(), engine.is_conflict_copy(node))))
            .ok_or(VfsError::NoXattr)?;
        if conflict {
            return Ok("conflict");
        }
        if pending || is_unsaid {
            return Ok("pending");
        }
        Ok(match self.client.presence(node) {
            Presence::Whole if self.client.is_pinned(node) => "pinned",
            Presence::Whole => "cached",
            Presence::Part => "partial",
            Presence::None => "remote",
        })
    }

    fn sha256(&self, node: NodeId) -> Result<Vec<u8>> {
        if self.client.open_attrs(node).is_some() {
            return Err(VfsError::NoXattr);
        }
        self.client.file_hash(node).map(|hash| hash.to_string().into_bytes()).ok_or(VfsError::NoXattr)
    }
}

fn local_xattrs(engine: &Engine, node: NodeId) -> Result<Xattrs> {
    engine.local(node).map(|state| state.xattrs.clone()).ok_or(Refusal::NotFound.into())
}
