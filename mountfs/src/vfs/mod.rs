//! What POSIX means here: names, attributes, handles, and what happens to a file that is removed while it is open.
//!
//! Knows the client, not the kernel's protocol: everything here can be driven without a mount. Metadata is answered from
//! memory; only [`Vfs::read_wait`] may wait for the network, and it ends at a deadline.

mod inodes;
mod lately;
mod listing;
mod owners;
mod ranges;
mod shown;
mod times;
mod xattr;

pub use inodes::{Inodes, ROOT_INO};
pub use listing::Listed;
pub use owners::Ownership;
pub use ranges::{Allocate, Sought};
pub use shown::{Access, Opening, Register, Way};

use crate::cli::{Durability, Owners};
use crate::driver::{Client, OpenAttrs, ReadError, WriteError};
use crate::files::{Backing, Last, OpenFile, Shown};
use crate::system::at;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_common::name::NameError;
use syncmount_common::node::{MODE_MASK, TYPE_MASK, TargetError};
use syncmount_common::{Attrs, Content, Name, NodeId, NodeKind, Owner, SymlinkTarget, Timestamp, XattrError};
use syncmount_engine::{Body, Draft, Engine, FileBody, Refusal, RenameMode, State};

/// How long a read waits for the server.
const READ_DEADLINE: Duration = Duration::from_secs(43);

/// … and for so long if the server is there, when the same reader has just waited in vain: together 45 s.
const READ_AGAIN: Duration = Duration::from_secs(2);

/// How long ago that may be.
const GAVE_UP: Duration = Duration::from_secs(5);

/// How long a close waits for the server where it has to.
const SEND_DEADLINE: Duration = Duration::from_secs(45);

/// A reader that goes on where it stopped gets this much fetched ahead at first …
const AHEAD_MIN: u64 = 1024 * 1024;
/// … and up to this much after a while.
const AHEAD_MAX: u64 = 16 * 1024 * 1024;

/// Why a call fails.
#[derive(Debug, thiserror::Error)]
pub enum VfsError {
    /// The tree refuses.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Not a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Not a target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The bytes cannot be had.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The disk.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// ESTALE: a number that stands for nothing any more.
    #[error("the file is gone")]
    Gone,
    /// EBADF: a handle that was not given out, or not for this.
    #[error("the handle is not open for this")]
    BadHandle,
    /// EPERM: files here belong to the user who mounted the folder.
    #[error("files belong to the user who mounted the folder; with --owners=local or --owners=synced they have owners")]
    Owner,
    /// EINVAL: not a symlink, or a flag that is not known.
    #[error("not possible for this kind of file")]
    Invalid,
    /// ENODATA.
    #[error("there is no such extended attribute")]
    NoXattr,
    /// EEXIST.
    #[error("the extended attribute exists")]
    XattrExists,
    /// EPERM: the client itself says what it is.
    #[error("what begins with `user.syncmount.` is told by syncmount and cannot be set")]
    StatusXattr,
    /// Not an extended attribute that can be kept.
    #[error(transparent)]
    Xattr(#[from] XattrError),
    /// EOPNOTSUPP.
    #[error("not supported here")]
    NotSupported,
    /// ENXIO: there is no data from there on.
    #[error("there is nothing behind this place")]
    NoData,
    /// EROFS.
    #[error("the folder is mounted read-only")]
    ReadOnly,
}

/// The attributes of a node, as `stat` shows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stat {
    /// The inode number.
    pub ino: u64,
    /// File, directory or symlink.
    pub kind: NodeKind,
    /// Of a pipe or a socket: the type bits of its mode; else 0.
    pub special: u32,
    /// Permission bits.
    pub mode: u32,
    /// The user and the group that it belongs to.
    pub owner: Owner,
    /// Size in bytes.
    pub size: u64,
    /// How many of them are not in holes, as far as is known.
    pub allocated: u64,
    /// Number of names; of a directory, 2 and one for each directory in it; 0 for a file that was removed while it is open.
    pub links: u32,
    /// When it was last read, if a program has said so since the mount began; else the mtime.
    pub atime: Timestamp,
    /// When its bytes were last changed.
    pub mtime: Timestamp,
    /// When anything of it was last changed here.
    pub ctime: Timestamp,
}

impl Stat {
    /// The same of a directory that shows this mtime, because its entries were changed.
    fn with_entries(self, mtime: Timestamp) -> Self {
        Self { atime: mtime, mtime, ctime: self.ctime.max(mtime), ..self }
    }
}

/// What `setattr` is to set.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttrs {
    /// Permission bits.
    pub mode: Option<u32>,
    /// The user that it is to belong to.
    pub uid: Option<u32>,
    /// The group.
    pub gid: Option<u32>,
    /// Size in bytes.
    pub size: Option<u64>,
    /// When it was last read.
    pub atime: Option<Timestamp>,
    /// When the bytes were last changed.
    pub mtime: Option<Timestamp>,
    /// The set-user-id and set-group-id bits go, as they do when somebody without privileges changes a file.
    pub kill_suid: bool,
}

/// A new node's permission bits, and the user and the group of the process that makes it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Making {
    /// The bits, with the type of a pipe or a socket.
    pub mode: u32,
    /// Whose process it is.
    pub by: Owner,
}

/// One entry of a listing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirEntry {
    /// The place behind it.
    pub next: u64,
    /// `.` and `..` too, so no [`Name`].
    pub name: Vec<u8>,
    /// What it is.
    pub node: NodeId,
    /// File, directory or symlink.
    pub kind: NodeKind,
    /// Of a pipe or a socket: the type bits of its mode; else 0.
    pub special: u32,
}

/// What an open handle stands for.
pub struct Opened(Arc<Handle>);

struct Handle {
    /// What was opened, and what the kernel takes the handle's bytes for.
    node: NodeId,
    /// The number under which the kernel has opened it.
    ino: u64,
    file: Arc<OpenFile>,
    writer: bool,
    /// What the kernel shows by itself to who has this handle.
    shown: Option<Arc<Shown>>,
    /// Whether that may be mapped for writing.
    maps: bool,
    /// Where the last read ended, and how far ahead the next may fetch.
    read_end: AtomicU64,
    ahead: AtomicU64,
    /// When a read last waited for the server in vain.
    gave_up: Mutex<Option<Instant>>,
}

/// The filesystem.
pub struct Vfs {
    client: Arc<Client>,
    read_only: bool,
    durability: Durability,
    ownership: Ownership,
    /// What the kernel knows.
    pub inodes: Inodes,
    handles: Mutex<HashMap<u64, Arc<Handle>>>,
    listings: listing::Listings,
    next_handle: AtomicU64,
    times: times::Times,
    lately: lately::Lately,
    doors: shown::Doors,
}

type Result<T, E = VfsError> = std::result::Result<T, E>;

impl Vfs {
    /// A filesystem over a client.
    pub fn new(client: Arc<Client>, read_only: bool, durability: Durability, ownership: Ownership) -> Self {
        Self {
            client,
            read_only,
            durability,
            ownership,
            inodes: Inodes::default(),
            handles: Mutex::default(),
            listings: listing::Listings::default(),
            next_handle: AtomicU64::new(1),
            times: times::Times::default(),
            lately: lately::Lately::default(),
            doors: shown::Doors::default(),
        }
    }

    /// The client beneath.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// To whom its nodes belong.
    pub fn ownership(&self) -> Ownership {
        self.ownership
    }

    fn node(&self, ino: u64) -> Result<NodeId> {
        self.inodes.node(ino).ok_or(VfsError::Gone)
    }

    fn require_writable(&self) -> Result<()> {
        if self.read_only {
            return Err(VfsError::ReadOnly);
        }
        self.client.require_room(4096)?;
        Ok(())
    }

    /// Finds a name in a directory and counts the answer as known to the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Stat> {
        let parent = self.node(parent)?;
        let node = self.client.look(|engine| match engine.local(parent) {
            None => Err(VfsError::Gone),
            Some(state) if state.kind() != NodeKind::Dir => Err(Refusal::NotDir.into()),
            Some(_) => {
                let node = engine.child(parent, name).ok_or(Refusal::NotFound)?;
                if let Some(state) = engine.local(node).filter(|state| state.kind() != NodeKind::Dir) {
                    self.lately.told(node, state);
                }
                Ok(node)
            }
        })?;
        self.remembered(node)
    }

    fn remembered(&self, node: NodeId) -> Result<Stat> {
        let stat = self.stat(node)?;
        self.inodes.remember(node);
        Ok(stat)
    }

    /// Attributes by inode number.
    pub fn getattr(&self, ino: u64) -> Result<Stat> {
        Ok(Stat { ino, ..self.stat(self.node(ino)?)? })
    }

    /// Attributes of a node.
    pub fn stat(&self, node: NodeId) -> Result<Stat> {
        let ino = self.inodes.number(node);
        let open = self.client.open_attrs(node);
        let known = self.client.look(|engine| {
            let entry = engine.entry(node)?;
            let state = entry.local.as_ref()?;
            let links = if state.kind() == NodeKind::Dir { 2 + engine.subdirs(node) } else { state.names.len() as u32 };
            let owner = self.ownership.shown(engine, node, state);
            let stat = stat_of((ino, owner), state, links, entry.changed);
            Some(engine.entries_mtime(node).map_or(stat, |mtime| stat.with_entries(mtime)))
        });
        let stat = match (known, open) {
            (Some(stat), None | Some(OpenAttrs { orphan: Some(_), .. })) => stat,
            (Some(stat), Some(OpenAttrs { size, allocated, mtime, orphan: None })) => {
                Stat { size, allocated, atime: mtime, mtime, ctime: stat.ctime.max(mtime), ..stat }
            }
            (None, Some(OpenAttrs { size, allocated, mtime, orphan: Some(Last { attrs, owner }) })) => {
                let (kind, mode, owner) = (NodeKind::File, attrs.mode, owner.unwrap_or(self.ownership.mounter));
                let (atime, ctime) = (mtime, mtime);
                Stat { ino, kind, special: 0, mode, owner, size, allocated, links: 0, atime, mtime, ctime }
            }
            (None, _) => self.stat_of_gone(ino, node)?,
        };
        Ok(self.times.of(node, stat))
    }

    /// The attributes of a node that was taken away just now.
    fn stat_of_gone(&self, ino: u64, node: NodeId) -> Result<Stat> {
        let was = self.lately.was(node).ok_or(VfsError::Gone)?;
        let owner = was.xattrs.owner().filter(|_| self.ownership.owners == Owners::Synced);
        Ok(stat_of((ino, owner.unwrap_or(self.ownership.mounter)), &was, 0, was.attrs.mtime))
    }

    /// Sets attributes. `fh` is the handle by which the file was cut, if it was one.
    pub fn setattr(&self, ino: u64, set: SetAttrs, fh: Option<u64>) -> Result<Stat> {
        self.require_writable()?;
        let node = self.node(ino)?;
        if set.uid.is_some() || set.gid.is_some() {
            self.chown(node, set.uid, set.gid, set.kill_suid && set.mode.is_none())?;
        }
        if let Some(size) = set.size {
            self.truncate(node, size, fh)?;
        }
        if set.kill_suid && set.mode.is_none() {
            self.kill_suid(node)?;
        }
        if set.mode.is_some() || set.mtime.is_some() || set.atime.is_some() {
            self.set_mode_and_times(node, set)?;
        }
        Ok(Stat { ino, ..self.stat(node)? })
    }

    /// Gives a node away. With `kill_suid` the bits go in the same step: they would mean the new owner.
    fn chown(&self, node: NodeId, uid: Option<u32>, gid: Option<u32>, kill_suid: bool) -> Result<()> {
        let mounter = self.ownership.mounter;
        if self.ownership.owners == Owners::User && uid.is_some_and(|uid| uid != mounter.uid) {
            return Err(VfsError::Owner);
        }
        let new = |now: Owner| Owner { uid: uid.unwrap_or(now.uid), gid: gid.unwrap_or(now.gid) };
        let given = self.client.change(|engine, now| {
            let state = engine.local(node).ok_or(Refusal::NotFound)?;
            let shown = self.ownership.shown(engine, node, state);
            let attrs = Attrs { mode: without_suid(state.attrs.mode), ..state.attrs };
            if kill_suid && state.kind() == NodeKind::File && attrs != state.attrs {
                engine.set_attrs(node, attrs, now)?;
            }
            self.ownership.give(engine, node, new(shown), now)
        })?;
        match (given, self.client.files.get(node)) {
            // Removed while it is open: the attributes end with the last handle.
            (Err(VfsError::Refused(Refusal::NotFound)), Some(file)) => {
                if let Some(last) = &mut file.inner.write().orphan {
                    last.owner = Some(new(last.owner.unwrap_or(mounter)));
                }
                Ok(())
            }
            (given, _) => given,
        }
    }

    /// Takes the set-user-id and set-group-id bits away from a file (the latter only if a group may execute it: otherwise
    /// it does not mean that).
    fn kill_suid(&self, node: NodeId) -> Result<()> {
        let mode = self.client.look(|engine| {
            engine.local(node).filter(|state| state.kind() == NodeKind::File).map(|state| state.attrs.mode)
        });
        match mode.map(|mode| (mode, without_suid(mode))) {
            Some((had, has)) if had != has => {
                self.set_mode_and_times(node, SetAttrs { mode: Some(has), ..SetAttrs::default() })
            }
            _ => Ok(()),
        }
    }

    fn set_mode_and_times(&self, node: NodeId, set: SetAttrs) -> Result<()> {
        let open = self.client.files.get(node);
        if let (Some(mtime), Some(file)) = (set.mtime, &open) {
            self.client.set_mtime(file, mtime);
        }
        let result = self.client.change(|engine, now| {
            let state = engine.local(node).ok_or(Refusal::NotFound)?;
            let mode = set.mode.map_or(state.attrs.mode, |mode| (mode & MODE_MASK) | (state.attrs.mode & TYPE_MASK));
            let shown = engine.entries_mtime(node).unwrap_or(state.attrs.mtime);
            let attrs = Attrs { mode, mtime: set.mtime.unwrap_or(shown) };
            engine.set_attrs(node, attrs, now)
        })?;
        self.times.set_atime(node, set.atime, set.mtime);
        match (result, open) {
            // Removed while it is open: the attributes end with the last handle.
            (Err(Refusal::NotFound), Some(file)) => {
                let mut inner = file.inner.write();
                if let (Some(last), Some(mode)) = (&mut inner.orphan, set.mode) {
                    last.attrs.mode = mode & MODE_MASK;
                }
                Ok(())
            }
            (result, _) => Ok(result?),
        }
    }

    fn truncate(&self, node: NodeId, size: u64, fh: Option<u64>) -> Result<()> {
        if let Some(handle) = fh.and_then(|fh| self.handles.lock().get(&fh).cloned()) {
            self.client.set_size(&handle.file, size)?;
            return Ok(());
        }
        let file = self.client.open(node, true)?;
        // open() with O_TRUNC comes here too, without its handle: who has the file open is about to write.
        let done = self.client.set_size(&file, size);
        let told = self.client.end_writing(&file);
        self.client.close_file(&file);
        Ok(done.and(told)?)
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let node = self.node(ino)?;
        self.client.look(|engine| match engine.local(node).map(|state| &state.body) {
            Some(Body::Symlink(target)) => Ok(target.as_bytes().to_vec()),
            Some(_) => Err(VfsError::Invalid),
            None => Err(VfsError::Gone),
        })
    }

    fn make(&self, parent: u64, name: &[u8], Making { mode, by }: Making, body: Body) -> Result<NodeId> {
        self.require_writable()?;
        let parent = self.node(parent)?;
        let name = Name::new(name)?;
        let (is_dir, is_file) = (body == Body::Dir, body.kind() == NodeKind::File);
        let create = |engine: &mut Engine, now| {
            // Only directories pass the set-group-id bit on.
            let inherited = attrs_of(engine, Some(parent)).map_or(0, |attrs| attrs.mode & SGID);
            let mode = (mode & MODE_MASK) | if is_dir { inherited } else { 0 };
            let owner = self.ownership.of_new(engine, parent, by);
            let node = engine.create(parent, name, Attrs { mode, mtime: now }, body, now)?;
            self.ownership.give_new(engine, node, owner, now)?;
            Ok(node)
        };
        // A new file is not sent before its writer is done.
        if is_file { self.client.change_quietly(create) } else { self.client.change(create) }?
    }

    /// Makes a directory.
    pub fn mkdir(&self, parent: u64, name: &[u8], making: Making) -> Result<Stat> {
        let node = self.make(parent, name, making, Body::Dir)?;
        self.remembered(node)
    }

    /// Makes a symlink.
    pub fn symlink(&self, parent: u64, name: &[u8], target: &[u8], by: Owner) -> Result<Stat> {
        let making = Making { mode: 0o777, by };
        let node = self.make(parent, name, making, Body::Symlink(SymlinkTarget::new(target)?))?;
        self.remembered(node)
    }

    /// Makes a pipe or a socket, for this machine only. The mode has its type bits.
    pub fn make_special(&self, parent: u64, name: &[u8], Making { mode, by }: Making) -> Result<Stat> {
        self.require_writable()?;
        let (parent, name) = (self.node(parent)?, Name::new(name)?);
        let mode = mode & (MODE_MASK | TYPE_MASK);
        let node = self.client.change(|engine, now| {
            let owner = self.ownership.of_new(engine, parent, by);
            let node = engine.create_special(parent, name, Attrs { mode, mtime: now }, now)?;
            self.ownership.give_new(engine, node, owner, now)?;
            Ok::<_, VfsError>(node)
        })??;
        self.remembered(node)
    }

    /// Gives a file or symlink one more name.
    pub fn link(&self, ino: u64, parent: u64, name: &[u8]) -> Result<Stat> {
        self.require_writable()?;
        let (node, parent) = (self.node(ino)?, self.node(parent)?);
        let name = Name::new(name)?;
        self.client.change(|engine, now| engine.link(node, parent, name, now))??;
        self.client.names_changed();
        self.remembered(node)
    }

    /// Makes an empty file without opening it.
    pub fn mknod(&self, parent: u64, name: &[u8], making: Making) -> Result<Stat> {
        let node = self.make(parent, name, making, Body::File(FileBody::Draft(Box::new(Draft::empty()))))?;
        let file = self.client.open(node, true)?;
        let told = self.client.end_writing(&file);
        self.client.close_file(&file);
        told?;
        self.remembered(node)
    }

    /// Makes an empty file and opens it for writing.
    pub fn create(&self, parent: u64, name: &[u8], making: Making) -> Result<(Stat, Opening)> {
        self.require_writable()?;
        // What is made is written as a rule: the tree is told of both at once.
        let staging = self.client.new_staging()?;
        let draft = Draft { staging: Some(staging.id), ..Draft::empty() };
        let node = match self.make(parent, name, making, Body::File(FileBody::Draft(Box::new(draft)))) {
            // After an error of the journal the tree refers to it, and says so with the next record.
            Err(error @ VfsError::Io(_)) => return Err(error),
            Err(error) => {
                self.client.staging().remove(staging.id)?;
                return Err(error);
            }
            Ok(node) => node,
        };
        self.client.note_made(self.node(parent)?, name, node);
        let file = self.client.open_made(node, staging)?;
        let opening = self.give_handle(node, self.inodes.number(node), file, Access::WRITE, None)?;
        Ok((self.remembered(node)?, opening))
    }

    /// Opens a file by name for writing, where a create found that it is there already.
    pub fn open_existing(&self, parent: u64, name: &[u8], access: Access, truncate: bool) -> Result<(Stat, Opening)> {
        let stat = self.lookup(parent, name)?;
        match self.open_as(stat.ino, access, truncate, true, None) {
            Ok(opening) => Ok((self.getattr(stat.ino)?, opening)),
            Err(error) => {
                self.inodes.forget(stat.ino, 1);
                Err(error)
            }
        }
    }

    /// Removes a name: of a directory with `dir`, else of anything else.
    pub fn remove(&self, parent: u64, name: &[u8], dir: bool) -> Result<()> {
        if self.read_only {
            return Err(VfsError::ReadOnly);
        }
        let parent = self.node(parent)?;
        let (node, last) = self.client.change(|engine, now| {
            let last = engine.child(parent, name).and_then(|node| self.last_of(engine, node));
            engine.remove(parent, name, dir, now).map(|node| (node, last))
        })??;
        self.orphan(node, last);
        if !dir {
            self.client.note_removed(parent, name);
        }
        Ok(())
    }

    /// A node that is gone lives on for those who have it open.
    fn orphan(&self, node: NodeId, last: Option<Last>) {
        if let (Some(file), Some(last)) = (self.client.files.get(node), last)
            && self.client.look(|engine| engine.local(node).is_none())
        {
            let mut inner = file.inner.write();
            let known = inner.orphan.get_or_insert(last);
            known.owner = known.owner.or(last.owner);
        }
    }

    fn last_of(&self, engine: &Engine, node: NodeId) -> Option<Last> {
        let state = engine.local(node)?;
        Some(Last { attrs: state.attrs, owner: Some(self.ownership.shown(engine, node, state)) })
    }

    /// Renames or moves.
    pub fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), mode: RenameMode) -> Result<()> {
        self.require_writable()?;
        let (from_dir, to_dir) = (self.node(from.0)?, self.node(to.0)?);
        let name = Name::new(to.1)?;
        let pair = self.client.look(|engine| {
            let other = engine.child(to_dir, to.1);
            engine.child(from_dir, from.1).zip(other.map(|other| (other, self.last_of(engine, other))))
        });
        let last = pair.and_then(|(_, (_, last))| last);
        if let Some((mover, (other, _))) = pair.filter(|_| mode != RenameMode::NoReplace) {
            self.client.sync_replacement(mover)?;
            if mode == RenameMode::Exchange {
                self.client.sync_replacement(other)?;
            }
        }
        let (renamed, attrs) = self.client.rename((from_dir, from.1), (to_dir, name), mode)?;
        let owner = last.and_then(|last| last.owner);
        self.client.names_changed();
        for (old, new) in renamed.became {
            self.inodes.moved(old, new);
        }
        if let Some(node) = renamed.replaced {
            self.orphan(node, attrs.map(|attrs| Last { attrs, owner }));
        }
        Ok(())
    }

    /// Opens a file. With `truncate` it is empty afterwards; with `kill_suid` who does that has no privileges that would keep
    /// the set-user-id bits.
    pub fn open(&self, ino: u64, writer: bool, truncate: bool, kill_suid: bool) -> Result<u64> {
        let access = if writer { Access::WRITE } else { Access::READ };
        Ok(self.open_as(ino, access, truncate, kill_suid, None)?.fh)
    }

    /// The same; says how the kernel has to open it. It may be told to show a file by itself if `register` asks it for that.
    pub fn open_as(
        &self,
        ino: u64,
        access: Access,
        truncate: bool,
        kill_suid: bool,
        register: Option<&Register<'_>>,
    ) -> Result<Opening> {
        let writer = access.write;
        if writer || truncate {
            self.require_writable()?;
        }
        let node = self.node(ino)?;
        if self.inodes.is_former(ino) {
            return Err(VfsError::Gone);
        }
        let file = match self.client.open(node, writer) {
            Err(WriteError::Refused(Refusal::NotFound)) => {
                // ESTALE makes the kernel look the name up anew, once: a file that was replaced elsewhere is never missing.
                let was = self.lately.was(node).filter(|_| !writer && !truncate).ok_or(VfsError::Gone)?;
                self.client.open_gone(node, &was).ok_or(VfsError::Gone)?
            }
            opened => opened?,
        };
        if truncate && let Err(error) = self.client.set_size(&file, 0) {
            if writer {
                file.end_writing();
            }
            self.client.close_file(&file);
            return Err(error.into());
        }
        if truncate && kill_suid {
            self.kill_suid(node)?;
        }
        self.give_handle(node, ino, file, access, register)
    }

    fn give_handle(
        &self,
        node: NodeId,
        ino: u64,
        file: Arc<OpenFile>,
        access: Access,
        register: Option<&Register<'_>>,
    ) -> Result<Opening> {
        let way = match self.enter(ino, &file, access, register) {
            Ok(way) => way,
            Err(error) => {
                if access.write {
                    file.end_writing();
                }
                self.client.close_file(&file);
                return Err(error);
            }
        };
        let fh = self.next_handle.fetch_add(1, Ordering::Relaxed);
        let handle = Handle {
            node,
            ino,
            file,
            writer: access.write,
            shown: way.shown().cloned(),
            maps: access.maps(),
            read_end: AtomicU64::new(0),
            ahead: AtomicU64::new(0),
            gave_up: Mutex::new(None),
        };
        self.handles.lock().insert(fh, Arc::new(handle));
        Ok(Opening { fh, way })
    }

    fn handle(&self, fh: u64) -> Result<Arc<Handle>> {
        self.handles.lock().get(&fh).cloned().ok_or(VfsError::BadHandle)
    }

    /// A handle that may write.
    fn writer(&self, fh: u64) -> Result<Arc<Handle>> {
        self.handle(fh).and_then(|handle| if handle.writer { Ok(handle) } else { Err(VfsError::BadHandle) })
    }

    /// Reads what is on this machine into the begin of `buf`, which is made as long as it has to be, and says how many bytes
    /// these are; `None` if [`Self::read_wait`] is needed. At most `len` bytes, fewer at the end only.
    pub fn read(&self, fh: u64, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<Option<usize>> {
        let handle = self.handle(fh)?;
        if let Some(got) = read_mapped(&handle, offset, len, buf)? {
            return Ok(Some(got));
        }
        on_one_state(&handle, |backing| {
            let room = room(backing, offset, len);
            if buf.len() < room {
                buf.resize(room, 0);
            }
            let buf = &mut buf[..room];
            let got = match backing {
                Backing::Clean(content) => self.client.read_local(content, offset, buf)?,
                Backing::Draft(overlay) => self.client.read_draft_local(overlay, offset, buf)?,
            };
            let Some(got) = got else { return Ok(None) };
            handle.read_end.store(offset + got as u64, Ordering::Relaxed);
            self.look_ahead(&handle, backing, offset + got as u64);
            Ok(Some(got))
        })
    }

    /// Reads, and waits for the server to send what is missing, for a limited time.
    pub fn read_wait(&self, fh: u64, offset: u64, len: usize) -> Result<Vec<u8>> {
        let handle = self.handle(fh)?;
        let deadline = Instant::now() + self.patience(&handle);
        on_one_state(&handle, |backing| {
            let mut buf = vec![0; room(backing, offset, len)];
            let got = match backing {
                Backing::Clean(content) => {
                    let ahead = handle.ahead(offset, content);
                    let got = self.client.read_content(content, offset, &mut buf, ahead, deadline);
                    self.client.note_read(handle.node, content, &got);
                    got
                }
                Backing::Draft(overlay) => self.client.read_draft(overlay, offset, &mut buf, deadline),
            };
            *handle.gave_up.lock() = matches!(got, Err(ReadError::Unreachable)).then(Instant::now);
            let got = got?;
            buf.truncate(got);
            handle.read_end.store(offset + got as u64, Ordering::Relaxed);
            Ok(buf)
        })
    }

    /// The kernel asks twice for what it does not get, once ahead and once in earnest: the second time the answer is known.
    fn patience(&self, handle: &Handle) -> Duration {
        let just_now = handle.gave_up.lock().is_some_and(|at| at.elapsed() < GAVE_UP);
        match (just_now, self.client.link.is_online()) {
            (true, false) => Duration::ZERO,
            (true, true) => READ_AGAIN,
            (false, _) => self.client.link.patience(READ_DEADLINE),
        }
    }

    /// A reader that goes on and on should find the next bytes here.
    fn look_ahead(&self, handle: &Handle, backing: &Backing, end: u64) {
        let ahead = handle.ahead.load(Ordering::Relaxed);
        if let Backing::Clean(content) = backing
            && ahead > 0
        {
            self.client.prefetch(content, end..content.size.min(end + ahead));
        }
    }

    /// Writes all of `data`; with `append` at the end of the file, of which the kernel may think as another one.
    /// With `kill_suid` the writer has no privileges that would keep the set-user-id bits.
    pub fn write(&self, fh: u64, offset: u64, data: &[u8], append: bool, kill_suid: bool) -> Result<()> {
        let handle = self.writer(fh)?;
        if kill_suid {
            self.kill_suid(handle.file.inner.read().node)?;
        }
        let own_end = || handle.file.inner.read().backing.size();
        // The kernel thinks of the end that it has last seen under this number.
        let has_others = || self.inodes.known_all(handle.node).len() > 1;
        let astray = append && (handle.shown.is_some() || has_others() || self.is_astray(&handle));
        let offset = if astray { own_end() } else { offset };
        self.client.write(&handle.file, offset, data)?;
        Ok(())
    }

    /// The inode that the kernel takes a handle's bytes for although they are those of another file by now. What it has
    /// just cached of them must go: others who have that inode open would see it.
    pub fn astray(&self, opened: &Opened) -> Option<u64> {
        let Opened(handle) = opened;
        let is_former = handle.shown.is_some() && self.inodes.is_former(handle.ino);
        if is_former || self.is_astray(handle) { self.inodes.known(handle.node) } else { None }
    }

    /// What a handle stands for, also after it was released: once a read is answered, its file may be closed at any moment.
    pub fn opened(&self, fh: u64) -> Option<Opened> {
        self.handle(fh).ok().map(Opened)
    }

    fn is_astray(&self, handle: &Handle) -> bool {
        let (elsewhere, orphan) = {
            let inner = handle.file.inner.read();
            (inner.node != handle.node || inner.apart.is_some(), inner.orphan.is_some())
        };
        // One that was removed and brought back has become that of somebody else.
        elsewhere || (orphan && self.client.look(|engine| engine.local(handle.node).is_some()))
    }

    /// close() of a descriptor: when this returns, what was written survives the end of this process.
    pub fn flush(&self, fh: u64) -> Result<()> {
        let handle = self.handle(fh)?;
        self.take_mapped(&handle)?;
        if handle.writer && self.awaits_server() {
            self.client.tell(&handle.file)?;
        } else if handle.writer {
            self.client.tell_closed(&handle.file)?;
        }
        Ok(())
    }

    /// Whether [`Self::flush`] and [`Self::fsync`] must be followed by [`Self::await_server`].
    pub fn awaits_server(&self) -> bool {
        self.durability == Durability::Server
    }

    /// Returns when the server has what was written by a handle so far, or with an error at a deadline. What was written is
    /// kept here either way.
    pub fn await_server(&self, fh: u64) -> Result<()> {
        let handle = self.handle(fh)?;
        if handle.writer {
            Ok(self.client.await_sent(&handle.file, self.client.link.deadline(SEND_DEADLINE))?)
        } else {
            Ok(())
        }
    }

    /// The last descriptor of a handle is gone.
    pub fn release(&self, fh: u64) -> Result<()> {
        let handle = self.handles.lock().remove(&fh).ok_or(VfsError::BadHandle)?;
        self.leave(&handle);
        if self.is_seen_still(&handle)? {
            self.doors.linger(handle);
            return Ok(());
        }
        self.end(&handle)
    }

    /// The end of a handle through which nothing happens any more.
    fn end(&self, handle: &Handle) -> Result<()> {
        let told = if handle.writer { self.client.end_writing(&handle.file) } else { Ok(()) };
        self.client.close_file(&handle.file);
        Ok(told?)
    }

    /// fsync(): when this returns, the file survives a power cut.
    pub fn fsync(&self, fh: u64) -> Result<()> {
        let handle = self.handle(fh)?;
        self.take_mapped(&handle)?;
        Ok(self.client.sync_file(&handle.file)?)
    }

    /// fsync() of a directory: when this returns, its entries survive a power cut.
    pub fn fsyncdir(&self) -> Result<()> {
        Ok(self.client.sync_journal()?)
    }

    /// Everything still open is told to the tree: for the end of a mount.
    pub fn release_all(&self) {
        let handles: Vec<u64> = self.handles.lock().keys().copied().collect();
        for fh in handles {
            if let Err(error) = self.release(fh) {
                tracing::error!("a file that was open at the end cannot be kept: {error}");
            }
        }
        self.end_lingering();
    }
}

impl Handle {
    fn ahead(&self, offset: u64, content: &Content) -> u64 {
        let goes_on = offset == self.read_end.load(Ordering::Relaxed);
        let before = self.ahead.load(Ordering::Relaxed);
        let ahead = if goes_on { (before * 2).clamp(AHEAD_MIN, AHEAD_MAX) } else { 0 };
        self.ahead.store(ahead, Ordering::Relaxed);
        ahead.min(content.size)
    }
}

/// What a state of the tree says of a node.
fn stat_of((ino, owner): (u64, Owner), state: &State, links: u32, ctime: Timestamp) -> Stat {
    let mtime = state.attrs.mtime;
    Stat {
        ino,
        kind: state.kind(),
        special: state.special().unwrap_or(0),
        mode: state.attrs.mode & MODE_MASK,
        owner,
        size: state.body.size(),
        allocated: ranges::allocated(&state.body),
        links,
        atime: mtime,
        mtime,
        ctime,
    }
}

/// Reads from one state of the file. Where it is cut shorter under the reader, what is left counts.
fn on_one_state<T>(handle: &Handle, mut read: impl FnMut(&Backing) -> Result<T>) -> Result<T> {
    loop {
        let (backing, generation) = {
            let inner = handle.file.inner.read();
            (inner.backing.clone(), inner.generation)
        };
        match read(&backing) {
            Err(error) if is_short(&error) && handle.file.inner.read().generation != generation => {}
            done => return done,
        }
    }
}

fn is_short(error: &VfsError) -> bool {
    matches!(error, VfsError::Io(error) | VfsError::Read(ReadError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof)
}

/// Reads from what the kernel shows where that may have been changed through a mapping.
fn read_mapped(handle: &Handle, offset: u64, len: usize, buf: &mut Vec<u8>) -> Result<Option<usize>> {
    let mapped = {
        let inner = handle.file.inner.read();
        inner.mapped().and_then(|shown| Some((shown.private()?, room(&inner.backing, offset, len))))
    };
    let Some((file, room)) = mapped else { return Ok(None) };
    if buf.len() < room {
        buf.resize(room, 0);
    }
    Ok(Some(at::read_at(&file, &mut buf[..room], offset)?))
}

fn room(backing: &Backing, offset: u64, len: usize) -> usize {
    backing.size().saturating_sub(offset).min(len as u64) as usize
}

/// The set-user-id and set-group-id bits of a mode.
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;

fn without_suid(mode: u32) -> u32 {
    let sgid = if mode & 0o010 != 0 { SGID } else { 0 };
    mode & !(SUID | sgid)
}

fn attrs_of(engine: &Engine, node: Option<NodeId>) -> Option<Attrs> {
    node.and_then(|node| engine.local(node)).map(|state| state.attrs)
}

#[cfg(test)]
impl Making {
    const TEST: Self = Self { mode: 0o644, by: Owner { uid: 0, gid: 0 } };
}

#[cfg(test)]
impl Vfs {
    fn for_tests(client: Arc<Client>) -> Self {
        Self::new(client, false, Durability::Local, Ownership { owners: Owners::User, mounter: Making::TEST.by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::recovery_tests;

    const MAKING: Making = Making::TEST;

    #[test]
    fn what_takes_a_files_place_survives_a_power_cut_although_it_is_open_still() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        for text in ["the new one", ""] {
            let dir = tempfile::tempdir().unwrap();
            let client = recovery_tests::open(dir.path(), &runtime);
            let vfs = Vfs::for_tests(client.clone());
            let write = |name: &[u8], text: &str| {
                let (_, Opening { fh, .. }) = vfs.create(ROOT_INO, name, MAKING).unwrap();
                vfs.write(fh, 0, text.as_bytes(), false, false).unwrap();
                fh
            };
            vfs.release(write(b"document", "the old one")).unwrap();
            write(b"beside it", text);
            vfs.rename((ROOT_INO, b"beside it"), (ROOT_INO, b"document"), RenameMode::Replace).unwrap();
            drop((vfs, client));
            recovery_tests::cut_power(dir.path());

            let client = recovery_tests::open(dir.path(), &runtime);
            let vfs = Vfs::for_tests(client);
            let found = vfs.lookup(ROOT_INO, b"document").unwrap();
            let mut buf = Vec::new();
            let len = vfs.read(vfs.open(found.ino, false, false, false).unwrap(), 0, 100, &mut buf).unwrap().unwrap();
            assert_eq!(&buf[..len], text.as_bytes());
        }
    }

    #[test]
    fn what_is_made_and_not_written_is_an_empty_file_whatever_ends_it() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let open = || Vfs::for_tests(recovery_tests::open(dir.path(), &runtime));
        let vfs = open();
        let (closed, Opening { fh, .. }) = vfs.create(ROOT_INO, b"closed", MAKING).unwrap();
        vfs.release(fh).unwrap();
        vfs.create(ROOT_INO, b"open", MAKING).unwrap();
        let (_, Opening { fh, .. }) = vfs.create(ROOT_INO, b"written later", MAKING).unwrap();
        vfs.fsync(fh).unwrap();
        vfs.write(fh, 0, b"text", false, false).unwrap();
        vfs.release(fh).unwrap();
        assert!(matches!(vfs.create(ROOT_INO, b"closed", MAKING), Err(VfsError::Refused(Refusal::Exists))));
        let staging_of = |vfs: &Vfs, ino| {
            let node = vfs.node(ino).unwrap();
            vfs.client.look(|engine| engine.local(node).unwrap().body.draft().unwrap().staging)
        };
        assert_eq!(staging_of(&vfs, closed.ino), None);
        drop(vfs);

        let vfs = open();
        let size = |vfs: &Vfs, name: &[u8]| vfs.lookup(ROOT_INO, name).map(|stat| stat.size).ok();
        assert_eq!(
            [&b"closed"[..], b"open", b"written later"].map(|name| size(&vfs, name)),
            [Some(0), Some(0), Some(4)]
        );
        let (_, Opening { fh, .. }) = vfs.create(ROOT_INO, b"closed again", MAKING).unwrap();
        vfs.release(fh).unwrap();
        drop(vfs);
        recovery_tests::cut_power(dir.path());
        let vfs = open();
        assert_eq!([&b"closed"[..], b"closed again"].map(|name| size(&vfs, name)), [Some(0), Some(0)]);
    }
}
