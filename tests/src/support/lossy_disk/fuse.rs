//! The kernel's protocol of the disk that forgets.

use super::bytes::{BLOCK_LEN, Bytes};
use super::{Disk, ROOT};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Everything goes through one kernel, so it may remember what it knows.
const TTL: Duration = Duration::from_secs(3600);
const GENERATION: Generation = Generation(0);
const MAX_WRITE: u32 = 1024 * 1024;
/// How large the disk says that it is, in blocks: 16 GiB.
const BLOCKS: u64 = 4 * 1024 * 1024;

/// What an inode is.
pub(super) enum InodeKind {
    Dir,
    File(Bytes),
    Symlink(OsString),
}

struct Inode {
    kind: InodeKind,
    mode: u16,
    uid: u32,
    gid: u32,
    atime: SystemTime,
    mtime: SystemTime,
    ctime: SystemTime,
    /// How often the kernel was told of it and has not forgotten it.
    lookups: u64,
}

/// All inodes, by number.
pub(super) struct Inodes {
    all: HashMap<u64, Inode>,
    next: u64,
}

impl Inodes {
    pub(super) fn new() -> Self {
        let mut new = Self { all: HashMap::new(), next: ROOT };
        new.add(InodeKind::Dir, 0o755, 0, 0);
        new
    }

    fn add(&mut self, kind: InodeKind, mode: u32, uid: u32, gid: u32) -> u64 {
        let (number, now) = (self.next, SystemTime::now());
        self.next += 1;
        let mode = (mode & 0o7777) as u16;
        let inode = Inode { kind, mode, uid, gid, atime: now, mtime: now, ctime: now, lookups: 0 };
        self.all.insert(number, inode);
        number
    }

    fn get(&self, number: u64) -> Result<&Inode, Errno> {
        self.all.get(&number).ok_or(Errno::ENOENT)
    }

    fn get_mut(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.all.get_mut(&number).ok_or(Errno::ENOENT)
    }

    pub(super) fn kind_mut(&mut self, number: u64) -> Option<&mut InodeKind> {
        self.all.get_mut(&number).map(|inode| &mut inode.kind)
    }

    pub(super) fn files_mut(&mut self) -> impl Iterator<Item = &mut Bytes> {
        // In an order that the seed alone decides.
        let mut inodes: Vec<_> = self.all.iter_mut().collect();
        inodes.sort_by_key(|(number, _)| **number);
        inodes.into_iter().filter_map(|(_, inode)| match &mut inode.kind {
            InodeKind::File(bytes) => Some(bytes),
            InodeKind::Dir | InodeKind::Symlink(_) => None,
        })
    }

    pub(super) fn keep_only(&mut self, keep: impl Fn(u64) -> bool) {
        self.all.retain(|number, _| keep(*number));
        for inode in self.all.values_mut() {
            inode.lookups = 0;
        }
    }

    fn bytes(&self, number: u64) -> Result<&Bytes, Errno> {
        match &self.get(number)?.kind {
            InodeKind::File(bytes) => Ok(bytes),
            InodeKind::Dir | InodeKind::Symlink(_) => Err(Errno::EISDIR),
        }
    }

    /// The bytes of a file that is about to be changed.
    fn change(&mut self, number: u64) -> Result<&mut Bytes, Errno> {
        let inode = self.get_mut(number)?;
        inode.mtime = SystemTime::now();
        inode.ctime = inode.mtime;
        match &mut inode.kind {
            InodeKind::File(bytes) => Ok(bytes),
            InodeKind::Dir | InodeKind::Symlink(_) => Err(Errno::EISDIR),
        }
    }
}

impl Disk {
    fn attr(&self, number: u64) -> Result<FileAttr, Errno> {
        let inode = self.inodes.get(number)?;
        let is_named = number == ROOT || self.names.place(number).is_some();
        let (kind, size, stored, nlink) = match &inode.kind {
            InodeKind::Dir => (FileType::Directory, BLOCK_LEN, BLOCK_LEN, 2),
            InodeKind::File(bytes) => (FileType::RegularFile, bytes.size(), bytes.stored(), 1),
            InodeKind::Symlink(target) => (FileType::Symlink, target.len() as u64, 0, 1),
        };
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: stored / 512,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            crtime: inode.ctime,
            kind,
            perm: inode.mode,
            nlink: if is_named { nlink } else { 0 },
            uid: inode.uid,
            gid: inode.gid,
            rdev: 0,
            blksize: BLOCK_LEN as u32,
            flags: 0,
        })
    }

    /// The attributes of what the kernel is told a name of.
    fn told(&mut self, number: u64) -> Result<FileAttr, Errno> {
        self.inodes.get_mut(number)?.lookups += 1;
        self.attr(number)
    }

    fn lookup(&mut self, dir: u64, name: &OsStr) -> Result<FileAttr, Errno> {
        let number = self.names.inode(dir, name).ok_or(Errno::ENOENT)?;
        self.told(number)
    }

    fn make(&mut self, req: &Request, dir: u64, name: &OsStr, kind: InodeKind, mode: u32) -> Result<FileAttr, Errno> {
        if name.len() > 255 {
            return Err(Errno::ENAMETOOLONG);
        }
        if self.names.inode(dir, name).is_some() {
            return Err(Errno::EEXIST);
        }
        let number = self.inodes.add(kind, mode, req.uid(), req.gid());
        self.names.put(number, Some((dir, name.to_owned())));
        self.changed_dir(dir)?;
        self.told(number)
    }

    fn changed_dir(&mut self, dir: u64) -> Result<(), Errno> {
        let inode = self.inodes.get_mut(dir)?;
        inode.mtime = SystemTime::now();
        inode.ctime = inode.mtime;
        Ok(())
    }

    fn is_dir(&self, number: u64) -> Result<bool, Errno> {
        Ok(matches!(self.inodes.get(number)?.kind, InodeKind::Dir))
    }

    /// What may be replaced or removed: a directory only by a directory, and only an empty one.
    fn require_replaceable(&self, number: u64, by_dir: bool) -> Result<(), Errno> {
        match (self.is_dir(number)?, by_dir) {
            (true, false) => Err(Errno::EISDIR),
            (false, true) => Err(Errno::ENOTDIR),
            (true, true) if self.names.entries(number).next().is_some() => Err(Errno::ENOTEMPTY),
            _ => Ok(()),
        }
    }

    fn remove(&mut self, dir: u64, name: &OsStr, as_dir: bool) -> Result<(), Errno> {
        let number = self.names.inode(dir, name).ok_or(Errno::ENOENT)?;
        self.require_replaceable(number, as_dir)?;
        self.names.put(number, None);
        self.changed_dir(dir)
    }

    fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), flags: RenameFlags) -> Result<(), Errno> {
        let number = self.names.inode(from.0, from.1).ok_or(Errno::ENOENT)?;
        if let Some(there) = self.names.inode(to.0, to.1) {
            if flags == RenameFlags::RENAME_NOREPLACE {
                return Err(Errno::EEXIST);
            }
            self.require_replaceable(there, self.is_dir(number)?)?;
        }
        self.names.put(number, Some((to.0, to.1.to_owned())));
        self.changed_dir(from.0)?;
        self.changed_dir(to.0)
    }

    fn forget(&mut self, number: u64, lookups: u64) {
        let Ok(inode) = self.inodes.get_mut(number) else { return };
        inode.lookups = inode.lookups.saturating_sub(lookups);
        if inode.lookups == 0 && number != ROOT && self.names.is_forgotten(number) {
            self.inodes.all.remove(&number);
        }
    }
}

/// What the kernel talks to.
pub(super) struct Translator(Arc<Mutex<Disk>>);

impl Translator {
    pub(super) fn new(disk: Arc<Mutex<Disk>>) -> Self {
        Self(disk)
    }

    fn entry(result: Result<FileAttr, Errno>, reply: ReplyEntry) {
        match result {
            Ok(attr) => reply.entry(&TTL, &attr, GENERATION),
            Err(error) => reply.error(error),
        }
    }

    fn empty(result: Result<(), Errno>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(error),
        }
    }
}

fn moment(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

impl Filesystem for Translator {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS;
        config.add_capabilities(wanted).map_err(|missing| io::Error::other(format!("{missing:?}")))?;
        config.set_max_write(MAX_WRITE).map_err(|nearest| io::Error::other(format!("writes of {nearest} bytes")))?;
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        Self::entry(self.0.lock().lookup(parent.0, name), reply);
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.0.lock().forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.0.lock().attr(ino.0) {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut disk = self.0.lock();
        let done = (|| {
            if let Some(size) = size {
                disk.inodes.change(ino.0)?.set_size(size);
            }
            let inode = disk.inodes.get_mut(ino.0)?;
            inode.mode = mode.map_or(inode.mode, |mode| (mode & 0o7777) as u16);
            inode.uid = uid.unwrap_or(inode.uid);
            inode.gid = gid.unwrap_or(inode.gid);
            inode.atime = atime.map_or(inode.atime, moment);
            inode.mtime = mtime.map_or(inode.mtime, moment);
            inode.ctime = SystemTime::now();
            disk.attr(ino.0)
        })();
        match done {
            Ok(attr) => reply.attr(&TTL, &attr),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.0.lock().inodes.get(ino.0).map(|inode| &inode.kind) {
            Ok(InodeKind::Symlink(target)) => reply.data(target.as_bytes()),
            Ok(_) => reply.error(Errno::EINVAL),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        Self::entry(self.0.lock().make(req, parent.0, name, InodeKind::Dir, mode & !umask), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(self.0.lock().remove(parent.0, name, false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(self.0.lock().remove(parent.0, name, true), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let kind = InodeKind::Symlink(target.as_os_str().to_owned());
        Self::entry(self.0.lock().make(req, parent.0, name, kind, 0o777), reply);
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() && flags != RenameFlags::RENAME_NOREPLACE {
            return reply.error(Errno::EINVAL);
        }
        Self::empty(self.0.lock().rename((parent.0, name), (newparent.0, newname), flags), reply);
    }

    fn open(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let kind = InodeKind::File(Bytes::default());
        match self.0.lock().make(req, parent.0, name, kind, mode & !umask) {
            Ok(attr) => reply.created(&TTL, &attr, GENERATION, FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let read = self.0.lock().inodes.bytes(ino.0).map(|bytes| bytes.read(offset, u64::from(size)));
        match read {
            Ok(data) => reply.data(&data),
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.0.lock().inodes.change(ino.0).map(|bytes| bytes.write(offset, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.lock().sync_file(ino.0);
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.0.lock().sync_dir(ino.0);
        reply.ok();
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let disk = self.0.lock();
        let parent = disk.names.place(ino.0).map_or(ROOT, |(parent, _)| *parent);
        let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), parent)].map(|(name, inode)| (inode, inode, name));
        // An entry's inode number is its cookie, so that none is left out when others go while somebody lists.
        let mut entries: Vec<_> = disk.names.entries(ino.0).map(|(name, inode)| (inode + 2, inode, name)).collect();
        entries.sort_unstable();
        let all = (1..).zip(dots).map(|(cookie, (_, inode, name))| (cookie, inode, name)).chain(entries);
        for (cookie, inode, name) in all.filter(|(cookie, _, _)| *cookie > offset) {
            let kind = match disk.inodes.get(inode).map(|inode| &inode.kind) {
                Ok(InodeKind::File(_)) => FileType::RegularFile,
                Ok(InodeKind::Symlink(_)) => FileType::Symlink,
                Ok(InodeKind::Dir) | Err(_) => FileType::Directory,
            };
            if reply.add(INodeNo(inode), cookie, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let used = self.0.lock().inodes.files_mut().map(|bytes| bytes.stored() / BLOCK_LEN).sum();
        let free = BLOCKS.saturating_sub(used);
        reply.statfs(BLOCKS, free, free, BLOCKS, free, BLOCK_LEN as u32, 255, BLOCK_LEN as u32);
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let mut disk = self.0.lock();
        let result = match (mode, disk.inodes.change(ino.0)) {
            (_, Err(error)) => Err(error),
            (0, Ok(bytes)) => {
                bytes.set_size(bytes.size().max(offset + length));
                Ok(())
            }
            (mode, Ok(bytes)) if mode == libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE => {
                bytes.punch(offset..offset + length);
                Ok(())
            }
            _ => Err(Errno::EOPNOTSUPP),
        };
        Self::empty(result, reply);
    }

    fn lseek(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let disk = self.0.lock();
        let found = match (u64::try_from(offset), disk.inodes.bytes(ino.0)) {
            (Err(_), _) => Err(Errno::ENXIO),
            (_, Err(error)) => Err(error),
            (Ok(from), Ok(bytes)) if whence == libc::SEEK_DATA => bytes.next_data(from).ok_or(Errno::ENXIO),
            (Ok(from), Ok(bytes)) if whence == libc::SEEK_HOLE => bytes.next_hole(from).ok_or(Errno::ENXIO),
            _ => Err(Errno::EINVAL),
        };
        match found {
            Ok(at) => reply.offset(at.cast_signed()),
            Err(error) => reply.error(error),
        }
    }
}
