//! The requests of the caller, one after the other, until it closes its end.

use crate::wire::{Answer, Request, encode_answer, receive, send};
use crate::{confine, judge};
use rustix::io::Errno;
use rustix::ioctl::Opcode;
use rustix::process::Uid;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// How many files may be shown at a time; the kernel does not count them for the caller.
const MOST_SHOWN: usize = 4096;

/// `struct fuse_backing_map` of the kernel.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Serves `caller` until the end of its socket. What is shown then stays so until the end of the mount: somebody may have it open,
/// and whoever has it open may open it once more.
pub fn serve(socket: &OwnedFd, caller: Uid) -> io::Result<()> {
    let Some((message, fd)) = receive(socket)? else { return Ok(()) };
    let (Some(Request::Connection), Some(fuse)) = (Request::decode(&message), fd) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the connection of a mount comes first"));
    };
    let taken = judge::connection(&fuse);
    send(socket, encode_answer(taken.map(|()| 0)), None)?;
    taken?;
    let mut shown = Shown { fuse, ids: BTreeSet::new() };
    while let Some((message, fd)) = receive(socket)? {
        let answer = match (Request::decode(&message), fd) {
            (Some(Request::Show), Some(file)) => shown.show(&file, caller),
            (Some(Request::End(id)), None) => shown.end(id),
            _ => Err(Errno::PROTO),
        };
        send(socket, encode_answer(answer), None)?;
    }
    Ok(())
}

/// What the kernel shows for the caller, by the kernel's ids.
struct Shown {
    fuse: OwnedFd,
    ids: BTreeSet<u32>,
}

impl Shown {
    fn show(&mut self, file: &OwnedFd, caller: Uid) -> Answer {
        judge::file(file, caller)?;
        if self.ids.len() >= MOST_SHOWN {
            return Err(Errno::MFILE);
        }
        let id = backing_open(&self.fuse, file)?;
        self.ids.insert(id);
        Ok(id)
    }

    /// Ends only what this process has begun.
    fn end(&mut self, id: u32) -> Answer {
        if !self.ids.remove(&id) {
            return Err(Errno::NOENT);
        }
        backing_close(&self.fuse, id).map(|()| 0)
    }
}

fn backing_open(fuse: &OwnedFd, file: &OwnedFd) -> Result<u32, Errno> {
    let map = BackingMap { fd: file.as_raw_fd(), flags: 0, padding: 0 };
    // SAFETY: the call reads a map of this form and changes nothing.
    match unsafe { call(fuse, confine::BACKING_OPEN, &map) }? {
        0 => Err(Errno::PROTO),
        id => Ok(id),
    }
}

fn backing_close(fuse: &OwnedFd, id: u32) -> Result<(), Errno> {
    // SAFETY: the call reads one number of this form and changes nothing.
    unsafe { call(fuse, confine::BACKING_CLOSE, &id) }.map(drop)
}

/// Makes one of the two calls.
///
/// # Safety
///
/// `with` must have the form that the call reads, which must change nothing in memory.
unsafe fn call<T>(fuse: &OwnedFd, request: Opcode, with: &T) -> Result<u32, Errno> {
    // SAFETY: the descriptor is open for as long as it is borrowed; the rest is as the caller says.
    let answer = unsafe { libc::ioctl(fuse.as_raw_fd(), request as _, &raw const *with) };
    let failed = || Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO);
    u32::try_from(answer).map_err(|_| failed())
}
