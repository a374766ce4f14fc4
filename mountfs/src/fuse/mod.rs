//! The kernel's protocol: decode, call the vfs, reply. A few lines an operation; no rule of its own.
//!
//! Handlers answer from memory and local disks. A read that needs the network and every fsync are answered from another
//! thread, so that no number of them can stop the others.

mod backing;
mod errno;
#[cfg(target_os = "linux")]
mod helper;
mod killed;
mod notify;

use crate::driver::RESERVE_BYTES;
use crate::files::Shown;
#[cfg(target_os = "linux")]
use crate::mountpoint::MountTable;
use crate::vfs::{Access, Allocate, DirEntry, Making, Opening, Register, SetAttrs, Sought, Stat, Vfs, VfsError, Way};
use backing::{Backings, Id, Wraps};
use errno::errno;
use fuser::{
    AccessFlags, BackgroundSession, BackingId, BsdFileFlags, Config, CopyFileRangeFlags, Errno, FileAttr, FileHandle,
    FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, MountOption,
    OpenAccMode, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};
use killed::Waiting;
use notify::{Invalidations, ListingEnd};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use syncmount_common::{NodeKind, Owner, Timestamp};
use syncmount_engine::{Refusal, RenameMode};

/// How long the kernel may believe what it was told: until it is told otherwise.
const TTL: Duration = Duration::from_secs(86_400);
/// For what the kernel is to ask for again each time.
const TTL_NONE: Duration = Duration::ZERO;
/// For answers to `setattr` and `link`: the kernel takes their attributes without a look at what it was told since they were made
/// (unlike those of `lookup` and `getattr`). If a version of another device comes in between, its size and time show a second later.
const TTL_SHORT: Duration = Duration::from_secs(1);

const GENERATION: Generation = Generation(0);
const MAX_WRITE: u32 = 1024 * 1024;
const THREADS: usize = 3;
/// How often it is looked whether what the kernel shows by itself is as it should be.
const TEND_PAUSE: Duration = Duration::from_millis(500);

/// A live mount.
pub struct Mount {
    session: Option<BackgroundSession>,
    vfs: Arc<Vfs>,
}

/// How the kernel is to mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// Every change is refused.
    pub read_only: bool,
    /// Other users may come in, as far as modes let them.
    pub allow_other: bool,
    /// The kernel shows files that are whole in the cache by itself, where it may.
    pub passthrough: bool,
}

/// Mounts `vfs` at `mountpoint`. The kernel has agreed when this returns.
pub fn mount(vfs: Arc<Vfs>, mountpoint: &Path, runtime: tokio::runtime::Handle, options: Options) -> io::Result<Mount> {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName("syncmount".into()),
        MountOption::Subtype("syncmount".into()),
        MountOption::DefaultPermissions,
        MountOption::NoDev,
        MountOption::NoSuid,
        MountOption::NoAtime,
        if options.read_only { MountOption::RO } else { MountOption::RW },
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    let passthrough = options.passthrough && vfs.client().cache().tells_who_looks();
    let (invalidations, queue) = Invalidations::new();
    let invalidations: notify::Shared = Arc::new(invalidations);
    let backings = Arc::new(Backings::new(passthrough));
    let translator = Translator {
        vfs: vfs.clone(),
        runtime,
        invalidations: invalidations.clone(),
        backings: backings.clone(),
        nowhere: vfs.ownership().mounter,
        opens_directories: true,
    };
    let session = Session::new(translator, mountpoint, &config)?;
    backings.begin(&session, mountpoint);
    notify::spawn(queue, [session.notifier(), session.notifier()])?;
    let seen_by = Arc::downgrade(&vfs);
    vfs.client().set_on_changed(Some(Box::new(move |changed| {
        if let Some(vfs) = seen_by.upgrade() {
            invalidations.push(&vfs, changed);
        }
    })));
    let session = session.spawn()?;
    if passthrough {
        tend(Arc::downgrade(&vfs))?;
    }
    if let Err(error) = read_further_ahead(mountpoint) {
        tracing::debug!("the kernel reads ahead as far as it does by itself: {error}");
    }
    Ok(Mount { session: Some(session), vfs })
}

/// Looks after what the kernel shows until the mount is gone.
fn tend(vfs: Weak<Vfs>) -> io::Result<()> {
    let tend = move || {
        while let Some(vfs) = vfs.upgrade() {
            vfs.tend();
            drop(vfs);
            std::thread::sleep(TEND_PAUSE);
        }
    };
    std::thread::Builder::new().name("shown".into()).spawn(tend).map(drop)
}

/// Makes the kernel read further ahead of who reads on and on than its 128 KiB: a request costs the same for eight times the
/// bytes. Only root may.
#[cfg(target_os = "linux")]
fn read_further_ahead(mountpoint: &Path) -> io::Result<()> {
    let table = MountTable::read().map_err(io::Error::other)?;
    let device = table.at(mountpoint).and_then(|mount| mount.device);
    let (major, minor) = device.ok_or_else(|| io::Error::other("the mount is not in the kernel's table"))?;
    std::fs::write(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"), (MAX_WRITE / 1024).to_string())
}

#[cfg(not(target_os = "linux"))]
fn read_further_ahead(_mountpoint: &Path) -> io::Result<()> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}

impl Mount {
    /// Returns when the mount has ended, whoever ended it.
    pub fn wait(mut self) -> io::Result<()> {
        let ended = match self.session.take() {
            Some(session) => session.join(),
            None => Ok(()),
        };
        self.vfs.client().set_on_changed(None);
        self.vfs.release_all();
        ended
    }
}

thread_local! {
    /// What a thread of the session reads into: a fresh one for each request would be zeroed, and often mapped, anew.
    static READ_BUFFER: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

struct Translator {
    vfs: Arc<Vfs>,
    runtime: tokio::runtime::Handle,
    invalidations: notify::Shared,
    /// Whether the kernel shows files by itself, as far as is known.
    backings: Arc<Backings>,
    /// Of what is not there.
    nowhere: Owner,
    /// Whether the kernel insists on opening directories.
    opens_directories: bool,
}

fn time(timestamp: Timestamp) -> SystemTime {
    let (seconds, nanos) = timestamp.parts();
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds >= 0 { UNIX_EPOCH + whole } else { UNIX_EPOCH - whole };
    base + Duration::from_nanos(u64::from(nanos))
}

fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => Timestamp(i64::try_from(after.as_nanos()).unwrap_or(i64::MAX)),
        // fuser (0.18) counts the nanoseconds backwards too; in the kernel's form they always count forwards.
        Err(before) => {
            let before = before.duration();
            Timestamp::from_parts(-i64::try_from(before.as_secs()).unwrap_or(i64::MAX), before.subsec_nanos())
        }
    }
}

#[cfg(target_os = "linux")]
fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    match flags {
        RenameFlags::RENAME_NOREPLACE => Some(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Some(RenameMode::Exchange),
        none => none.is_empty().then_some(RenameMode::Replace),
    }
}

#[cfg(not(target_os = "linux"))]
fn rename_mode(flags: RenameFlags) -> Option<RenameMode> {
    flags.is_empty().then_some(RenameMode::Replace)
}

#[cfg(target_os = "linux")]
fn allocation(mode: i32) -> Option<Allocate> {
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Some(Allocate::Room(keep_size)),
        libc::FALLOC_FL_PUNCH_HOLE if keep_size => Some(Allocate::Hole),
        libc::FALLOC_FL_ZERO_RANGE => Some(Allocate::Zeros(keep_size)),
        _ => None,
    }
}

#[cfg(not(target_os = "linux"))]
fn allocation(mode: i32) -> Option<Allocate> {
    (mode == 0).then_some(Allocate::Room(false))
}

// In the width in which FUSE has them; the system's own differs.
const S_IFMT: u32 = 0o170_000;
const S_IFREG: u32 = 0o100_000;
const S_IFIFO: u32 = 0o010_000;
const S_IFSOCK: u32 = 0o140_000;

fn file_type(kind: NodeKind, special: u32) -> FileType {
    match kind {
        NodeKind::File if special == S_IFIFO => FileType::NamedPipe,
        NodeKind::File if special == S_IFSOCK => FileType::Socket,
        NodeKind::File => FileType::RegularFile,
        NodeKind::Dir => FileType::Directory,
        NodeKind::Symlink => FileType::Symlink,
    }
}

impl Translator {
    fn attr(&self, stat: &Stat) -> FileAttr {
        FileAttr {
            ino: INodeNo(stat.ino),
            size: stat.size,
            blocks: stat.allocated.div_ceil(512),
            atime: time(stat.atime),
            mtime: time(stat.mtime),
            ctime: time(stat.ctime),
            crtime: UNIX_EPOCH,
            kind: file_type(stat.kind, stat.special),
            perm: stat.mode as u16,
            nlink: stat.links,
            uid: stat.owner.uid,
            gid: stat.owner.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    fn entry(&self, result: Result<Stat, VfsError>, reply: ReplyEntry) {
        match result {
            Ok(stat) => reply.entry(&TTL, &self.attr(&stat), GENERATION),
            Err(error) => reply.error(logged(&error)),
        }
    }

    /// Adds entries with their attributes until the reply is full; none only if there are no more.
    /// Returns whether this is the end of a listing that the directory has changed since.
    fn add_entries(&self, ino: u64, mut after: u64, reply: &mut ReplyDirectoryPlus) -> Result<bool, VfsError> {
        let mut added = false;
        while !added {
            let entries = self.vfs.readdir(ino, after)?;
            let Some(last) = entries.last() else { return Ok(entries.ends_outdated) };
            after = last.next;
            for DirEntry { next, name, node, .. } in entries.iter() {
                // Removed since the listing began: a name without attributes cannot be told in this form.
                let Ok(stat) = self.vfs.stat(*node) else { continue };
                let ino = INodeNo(stat.ino);
                let dots = name == b"." || name == b"..";
                let ttl = if dots { TTL_NONE } else { TTL };
                if reply.add(ino, *next, OsStr::from_bytes(name), &ttl, &self.attr(&stat), GENERATION) {
                    return Ok(false);
                }
                added = true;
                if !dots {
                    self.vfs.inodes.remember(*node);
                }
            }
        }
        Ok(false)
    }

    fn empty(result: Result<(), VfsError>, reply: ReplyEmpty) {
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(logged(&error)),
        }
    }
}

fn logged(error: &VfsError) -> Errno {
    let errno = errno(error);
    if errno.code() == libc::EIO || errno.code() == libc::ENOSPC || errno.code() == libc::ETIMEDOUT {
        tracing::warn!("{error}");
    }
    errno
}

/// The flags for who reads and writes here and maps a file of the disk.
fn flags_beside(writer: bool) -> FopenFlags {
    let flags = FopenFlags::FOPEN_DIRECT_IO;
    if writer { flags } else { flags | FopenFlags::FOPEN_NOFLUSH }
}

/// Gives `reply` the id of what is shown, which stays valid until the handle is released.
fn with_id<R: Wraps>(shown: &Shown, reply: R, answer: impl FnOnce(R, &BackingId)) {
    let pass = shown.pass();
    let id = pass.as_ref().and_then(|pass| Id::of(pass, &reply));
    match id.as_ref().and_then(Id::get) {
        Some(id) => answer(reply, id),
        // An open that is not answered fails.
        None => tracing::error!("a file is shown without the kernel's leave"),
    }
}

/// The user and the group of a caller.
fn maker(req: &Request) -> Owner {
    Owner { uid: req.uid(), gid: req.gid() }
}

fn making(req: &Request, mode: u32, umask: u32) -> Making {
    Making { mode: mode & !umask, by: maker(req) }
}

fn access(flags: OpenFlags) -> Access {
    Access {
        read: flags.acc_mode() != OpenAccMode::O_WRONLY,
        write: flags.acc_mode() != OpenAccMode::O_RDONLY,
        direct: flags.0 & O_DIRECT != 0,
    }
}

#[cfg(target_os = "linux")]
const O_DIRECT: i32 = libc::O_DIRECT;
#[cfg(not(target_os = "linux"))]
const O_DIRECT: i32 = 0;

fn open_flags(writer: bool) -> FopenFlags {
    // A reader's close has nothing to say; a writer's close is where its bytes are kept.
    let mut flags = FopenFlags::FOPEN_KEEP_CACHE;
    if !writer {
        flags |= FopenFlags::FOPEN_NOFLUSH;
    }
    flags
}

impl Filesystem for Translator {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // No FUSE_ATOMIC_O_TRUNC: with it, a running program would be cut before the kernel says ETXTBSY.
        let wanted = InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_CACHE_SYMLINKS
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            // Otherwise the kernel asks for `security.capability` before every write.
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        if let Err(missing) = config.add_capabilities(wanted) {
            let offered = wanted & !missing;
            if let Err(refused) = config.add_capabilities(offered) {
                tracing::warn!("the kernel does not offer {refused:?}");
            }
        }
        self.opens_directories = !config.capabilities().contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        if self.backings.is_allowed() {
            // One file system beneath: with two, no overlay could lie on this one.
            let offered = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok();
            let offered = offered && config.set_max_stack_depth(1).is_ok();
            if !offered {
                self.backings.forbid();
            }
        }
        if let Err(nearest) = config.set_max_write(MAX_WRITE) {
            tracing::debug!("the largest write is {nearest} bytes");
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.vfs.lookup(parent.0, name.as_bytes()) {
            Ok(stat) => reply.entry(&TTL, &self.attr(&stat), GENERATION),
            // An inode number of 0 says "no such name, and you may remember that".
            Err(VfsError::Refused(Refusal::NotFound)) if name.len() <= 255 => {
                let nothing = Stat {
                    ino: 0,
                    kind: NodeKind::File,
                    special: 0,
                    mode: 0,
                    owner: self.nowhere,
                    size: 0,
                    allocated: 0,
                    links: 0,
                    atime: Timestamp(0),
                    mtime: Timestamp(0),
                    ctime: Timestamp(0),
                };
                reply.entry(&TTL, &self.attr(&nothing), GENERATION);
            }
            Err(VfsError::Refused(Refusal::NotFound)) => reply.error(Errno::ENAMETOOLONG),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        self.vfs.inodes.forget(ino.0, nlookup);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.vfs.getattr(ino.0) {
            Ok(stat) => reply.attr(&TTL, &self.attr(&stat)),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let now = self.vfs.client().now();
        let chosen = |time: TimeOrNow| match time {
            TimeOrNow::SpecificTime(time) => timestamp(time),
            TimeOrNow::Now => now,
        };
        let (atime, mtime) = (atime.map(chosen), mtime.map(chosen));
        // A change of owner takes these bits away from everybody's file, a change of size from that of others than root.
        let kill_suid = uid.is_some() || gid.is_some() || (size.is_some() && req.uid() != 0);
        match self.vfs.setattr(ino.0, SetAttrs { mode, uid, gid, size, atime, mtime, kill_suid }, fh.map(|fh| fh.0)) {
            Ok(stat) => reply.attr(&TTL_SHORT, &self.attr(&stat)),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.vfs.readlink(ino.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        match mode & S_IFMT {
            0 | S_IFREG => {}
            S_IFIFO | S_IFSOCK => {
                return self.entry(self.vfs.make_special(parent.0, name.as_bytes(), making(req, mode, umask)), reply);
            }
            // Devices are for root's own disks.
            _ => return reply.error(Errno::EPERM),
        }
        self.entry(self.vfs.mknod(parent.0, name.as_bytes(), making(req, mode, umask)), reply);
    }

    fn mkdir(&self, req: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.entry(self.vfs.mkdir(parent.0, name.as_bytes(), making(req, mode, umask)), reply);
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(self.vfs.remove(parent.0, name.as_bytes(), false), reply);
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(self.vfs.remove(parent.0, name.as_bytes(), true), reply);
    }

    fn symlink(&self, req: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let target = target.as_os_str().as_bytes();
        self.entry(self.vfs.symlink(parent.0, name.as_bytes(), target, maker(req)), reply);
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
        let Some(mode) = rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (from, to) = ((parent.0, name.as_bytes()), (newparent.0, newname.as_bytes()));
        Self::empty(self.vfs.rename(from, to, mode), reply);
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let access = access(flags);
        let truncate = flags.0 & libc::O_TRUNC != 0;
        let opened = {
            let register = |file: &File| self.backings.register(file, || reply.open_backing(file));
            let register = self.backings.is_allowed().then_some(&register as &Register<'_>);
            self.vfs.open_as(ino.0, access, truncate, req.uid() != 0, register)
        };
        match opened {
            Ok(Opening { fh, way: Way::Cached }) => reply.opened(FileHandle(fh), open_flags(access.write)),
            Ok(Opening { fh, way: Way::Shown(shown) }) => {
                let flags = FopenFlags::FOPEN_NOFLUSH;
                with_id(&shown, reply, |reply, id| reply.opened_passthrough(FileHandle(fh), flags, id));
            }
            Ok(Opening { fh, way: Way::Beside(shown) }) => {
                let flags = flags_beside(access.write);
                with_id(&shown, reply, |reply, id| reply.opened_passthrough(FileHandle(fh), flags, id));
            }
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let created = match self.vfs.create(parent.0, name.as_bytes(), making(req, mode, umask)) {
            // It came from another device since the kernel looked.
            Err(VfsError::Refused(Refusal::Exists)) if flags & libc::O_EXCL == 0 => {
                let access = Access { write: true, ..access(OpenFlags(flags)) };
                self.vfs.open_existing(parent.0, name.as_bytes(), access, flags & libc::O_TRUNC != 0)
            }
            created => created,
        };
        match created {
            Ok((stat, Opening { fh, way })) => {
                let (attr, fh) = (self.attr(&stat), FileHandle(fh));
                match way.shown() {
                    None => reply.created(&TTL, &attr, GENERATION, fh, open_flags(true)),
                    Some(shown) => with_id(shown, reply, |reply, id| {
                        reply.created_passthrough(&TTL, &attr, GENERATION, fh, flags_beside(true), id);
                    }),
                }
            }
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let opened = self.vfs.opened(fh.0);
        let waits = READ_BUFFER.with_borrow_mut(|buf| match self.vfs.read(fh.0, offset, size as usize, buf) {
            Ok(Some(len)) => {
                reply.data(&buf[..len]);
                None
            }
            Ok(None) => Some(reply),
            Err(error) => {
                reply.error(logged(&error));
                None
            }
        });
        let Some(reply) = waits else { return self.invalidations.push_astray(&self.vfs, opened.as_ref()) };
        let (vfs, invalidations) = (self.vfs.clone(), self.invalidations.clone());
        let reply = Waiting::of(req.pid(), reply, &self.runtime);
        self.runtime.spawn_blocking(move || {
            let read = vfs.read_wait(fh.0, offset, size as usize);
            match (reply.take(), read) {
                (Some(reply), Ok(data)) => reply.data(&data),
                (Some(reply), Err(error)) => reply.error(logged(&error)),
                (None, _) => {}
            }
            invalidations.push_astray(&vfs, opened.as_ref());
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let append = flags.0 & libc::O_APPEND != 0;
        let kill_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let opened = self.vfs.opened(fh.0);
        match self.vfs.write(fh.0, offset, data, append, kill_suid) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(logged(&error)),
        }
        self.invalidations.push_astray(&self.vfs, opened.as_ref());
    }

    fn flush(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        let flushed = self.vfs.flush(fh.0);
        if flushed.is_err() || !self.vfs.awaits_server() {
            return Self::empty(flushed, reply);
        }
        let vfs = self.vfs.clone();
        let reply = Waiting::of(req.pid(), reply, &self.runtime);
        self.runtime.spawn_blocking(move || {
            let sent = vfs.await_server(fh.0);
            if let Some(reply) = reply.take() {
                Self::empty(sent, reply);
            }
        });
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        Self::empty(self.vfs.release(fh.0), reply);
    }

    fn fsync(&self, req: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        if !vfs.awaits_server() {
            self.runtime.spawn_blocking(move || Self::empty(vfs.fsync(fh.0), reply));
            return;
        }
        let reply = Waiting::of(req.pid(), reply, &self.runtime);
        self.runtime.spawn_blocking(move || {
            let synced = vfs.fsync(fh.0);
            let sent = synced.and_then(|()| vfs.await_server(fh.0));
            if let Some(reply) = reply.take() {
                Self::empty(sent, reply);
            }
        });
    }

    /// ENOSYS is understood as "no directory needs to be opened, and what was listed may be remembered".
    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if self.opens_directories {
            reply.opened(FileHandle(0), FopenFlags::empty());
        } else {
            reply.error(Errno::ENOSYS);
        }
    }

    fn readdir(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = match self.vfs.readdir(ino.0, offset) {
            Ok(entries) => entries,
            Err(error) => return reply.error(logged(&error)),
        };
        for DirEntry { next, name, node, kind, special } in entries.iter() {
            let ino = INodeNo(self.vfs.inodes.number(*node));
            if reply.add(ino, *next, file_type(*kind, *special), OsStr::from_bytes(name)) {
                break;
            }
        }
        if entries.ends_outdated {
            self.invalidations.end_listing(ino.0, ListingEnd::Plain(reply));
        } else {
            reply.ok();
        }
    }

    fn readdirplus(&self, _req: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        match self.add_entries(ino.0, offset, &mut reply) {
            Ok(false) => reply.ok(),
            Ok(true) => self.invalidations.end_listing(ino.0, ListingEnd::Plus(reply)),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn releasedir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsyncdir(&self, _req: &Request, _ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.runtime.spawn_blocking(move || Self::empty(vfs.fsyncdir(), reply));
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        match rustix::fs::statvfs(self.vfs.client().staging().lost_and_found()) {
            Ok(stat) => {
                let nodes = self.vfs.client().look(|engine| engine.len() as u64);
                let free = stat.f_ffree;
                let size = stat.f_frsize as u32;
                // What is left to the client itself is not there for programs.
                let reserve = RESERVE_BYTES.div_ceil(stat.f_frsize.max(1));
                let left = |blocks: u64| blocks.saturating_sub(reserve);
                let (bfree, bavail) = (left(stat.f_bfree), left(stat.f_bavail));
                reply.statfs(stat.f_blocks, bfree, bavail, nodes + free, free, size, 255, size);
            }
            Err(error) => reply.error(Errno::from_i32(error.raw_os_error())),
        }
    }

    fn link(&self, _req: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        match self.vfs.link(ino.0, newparent.0, newname.as_bytes()) {
            Ok(stat) => reply.entry(&TTL_SHORT, &self.attr(&stat), GENERATION),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        Self::empty(self.vfs.setxattr(ino.0, name.as_bytes(), value, create, replace), reply);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        xattr(self.vfs.getxattr(ino.0, name.as_bytes()), size, reply);
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        xattr(self.vfs.listxattr(ino.0), size, reply);
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        Self::empty(self.vfs.removexattr(ino.0, name.as_bytes()), reply);
    }

    // What follows is refused without a word in the log; the kernel or the program then does without.

    /// Asked only where the kernel does not check permissions itself, as it does here.
    fn access(&self, _req: &Request, ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        Self::empty(self.vfs.getattr(ino.0).map(|_| ()), reply);
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _ph: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Programs then move or write the bytes themselves.
        let Some(what) = allocation(mode) else { return reply.error(Errno::EOPNOTSUPP) };
        let Some(end) = offset.checked_add(length) else { return reply.error(Errno::EFBIG) };
        Self::empty(self.vfs.fallocate(fh.0, offset..end, what), reply);
    }

    fn lseek(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let sought = match whence {
            libc::SEEK_DATA => Sought::Data,
            libc::SEEK_HOLE => Sought::Hole,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        match self.vfs.seek(fh.0, offset, sought) {
            Ok(found) => reply.offset(i64::try_from(found).unwrap_or(i64::MAX)),
            Err(error) => reply.error(logged(&error)),
        }
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let (vfs, invalidations) = (self.vfs.clone(), self.invalidations.clone());
        // The answer has room for 32 bits.
        let len = len.min(u64::from(u32::MAX) & !0xFFFF);
        let opened = vfs.opened(fh_out.0);
        self.runtime.spawn_blocking(move || {
            // Not for who was killed meanwhile: what is still written would come after the end of the file's last writer.
            match vfs.copy_range((fh_in.0, offset_in), (fh_out.0, offset_out), len) {
                Ok(copied) => reply.written(copied as u32),
                Err(error) => reply.error(logged(&error)),
            }
            invalidations.push_astray(&vfs, opened.as_ref());
        });
    }
}

/// Answers with the length if that is asked for, else with the bytes if there is room for them.
fn xattr(result: Result<Vec<u8>, VfsError>, room: u32, reply: ReplyXattr) {
    match result {
        Ok(bytes) if room == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(logged(&error)),
    }
}
