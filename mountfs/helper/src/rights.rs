//! What the helper may do, and how it gives up the rest.
//!
//! Nothing of the caller's is read or written before [`give_up`] has returned.

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};
use rustix::process::{
    DumpableBehavior, Resource, Rlimit, Uid, chdir, getgid, getuid, set_dumpable_behavior, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_res_gid, set_thread_res_uid,
};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The one right that is kept.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// How many descriptors it may have open: the socket, the connection, one file, standard output and error, and some to spare.
const DESCRIPTORS: u64 = 16;

/// Gives up every right but one and becomes its caller, who is returned. After an error nothing must be done any more.
pub fn give_up() -> io::Result<Uid> {
    let (caller, group) = (getuid(), getgid());
    if !capabilities(None)?.permitted.contains(KEPT) {
        return Err(io::Error::other(
            "it has to belong to root and be setuid: chown root:root syncmount-helper && chmod 4755 syncmount-helper",
        ));
    }
    set_keep_capabilities(true)?;
    // One thread, so what concerns the thread concerns the process.
    set_thread_res_gid(group, group, group)?;
    set_thread_res_uid(caller, caller, caller)?;
    set_keep_capabilities(false)?;
    let kept = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    set_capabilities(None, kept)?;
    set_no_new_privs(true)?;
    // Nobody looks into it or takes it over, although it is a process of the caller's.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    limit(Resource::Nofile, DESCRIPTORS)?;
    limit(Resource::Core, 0)?;
    close_inherited()?;
    chdir("/")?;
    if capabilities(None)? != kept {
        return Err(io::Error::other("the kernel has not taken back what was given up"));
    }
    Ok(caller)
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    Ok(setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?)
}

/// Closes what the caller has left open beside the three standard descriptors.
fn close_inherited() -> io::Result<()> {
    // SAFETY: this program has opened nothing yet, so no descriptor above is owned by anything in it.
    match unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The socket to the caller, which is standard input.
pub fn socket_of(caller: Uid) -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let is_of_caller = sockopt::socket_domain(&socket) == Ok(AddressFamily::UNIX)
        && sockopt::socket_type(&socket) == Ok(SocketType::SEQPACKET)
        && peer(&socket) == Ok(caller);
    if !is_of_caller {
        return Err(io::Error::other("this program is started by `syncmount`, and is of no use otherwise"));
    }
    Ok(socket)
}

fn peer(socket: &OwnedFd) -> Result<Uid, Errno> {
    sockopt::socket_peercred(socket).map(|peer| peer.uid)
}
