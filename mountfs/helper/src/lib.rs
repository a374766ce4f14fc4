//! `syncmount-helper`: two calls to the kernel that only root may make, for the mount of whoever starts it.
//!
//! The kernel lets only a process with `CAP_SYS_ADMIN` tell it which file of the disk it is to show in the place of a file of a
//! FUSE mount (`FUSE_DEV_IOC_BACKING_OPEN` and `…_CLOSE`). A client that an ordinary user runs starts this program, which is
//! installed setuid root, hands it its connection to the kernel and then file after file, over a socket.
//!
//! It is a privileged program, and built as one:
//! - It keeps one capability, of the caller's real user and groups, and gives up everything else before it reads the first
//!   byte ([`rights`]): then a filter of the kernel's lets it make no call that it does not need ([`confine`]).
//! - The kernel opens what it is told to show without asking for rights again, for writing too. So a file is shown only if its
//!   caller could open it for reading and writing anyway ([`judge`]).
//! - It reads no file, no argument and no variable, takes eight bytes and one descriptor a message, starts nothing, waits for
//!   nothing but its socket, and ends with it.
//!
//! What it does not prevent: what is shown when it ends stays open in the kernel until the end of that mount, where no list of
//! open files has it and nothing but the system's limit on open files counts it; whoever starts it again and again gets by its
//! own limit. Where not everybody is to be trusted with that, it can be left to a group (mode 4750). Must not know what the files
//! are for.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(target_os = "linux")]
pub mod confine;
#[cfg(target_os = "linux")]
pub mod judge;
#[cfg(target_os = "linux")]
pub mod rights;
#[cfg(target_os = "linux")]
pub mod serve;
#[cfg(target_os = "linux")]
pub mod wire;
