//! What a measurement costs: bytes on the wire, processor time, memory. Asks the kernel, not the programs, so that every
//! program can be measured the same way.

use rustix::process::Pid;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::time::Duration;

/// Moves this process into a network of its own, in which nobody else talks: the bytes on its loopback are those of the
/// programs under test. Needs root, and must come before the first thread.
pub fn isolate() -> io::Result<()> {
    // SAFETY: no memory is involved; the process has one thread.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a socket is made and closed here; the request is a valid zeroed structure with a name that ends with NUL.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut request: libc::ifreq = MaybeUninit::zeroed().assume_init();
        (request.ifr_name[0], request.ifr_name[1]) = (b'l'.cast_signed(), b'o'.cast_signed());
        request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
        let done = libc::ioctl(socket, libc::SIOCSIFFLAGS, &request);
        let error = io::Error::last_os_error();
        libc::close(socket);
        if done == 0 { Ok(()) } else { Err(error) }
    }
}

/// Bytes that went over loopback since the machine (or this network) began: bodies, headers, acknowledgements.
pub(super) fn wire() -> io::Result<u64> {
    let table = fs::read_to_string("/proc/self/net/dev")?;
    let line = table.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let sent = line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
    sent.ok_or_else(|| io::Error::other("the kernel does not tell how much went over loopback"))
}

/// Processor time that a process has used, all its threads, also those that have ended.
pub(super) fn cpu(pid: Pid) -> io::Result<Duration> {
    let (mut clock, mut time) = (0, MaybeUninit::<libc::timespec>::uninit());
    // SAFETY: both functions only fill what they are given.
    unsafe {
        let refused = libc::clock_getcpuclockid(pid.as_raw_nonzero().get(), &raw mut clock);
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        if libc::clock_gettime(clock, time.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let time = time.assume_init();
        Ok(Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0)))
    }
}

/// The most memory that a process ever had, in MiB.
pub(super) fn peak(pid: Pid) -> io::Result<f64> {
    memory(pid, "VmHWM:")
}

/// The memory that a process has now, in MiB.
pub(super) fn resident(pid: Pid) -> io::Result<f64> {
    memory(pid, "VmRSS:")
}

fn memory(pid: Pid, which: &str) -> io::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(which));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib / 1024.0).ok_or_else(|| io::Error::other("the kernel does not tell how much memory was used"))
}

/// Lets a process, all its threads, run on one processor only.
pub(super) fn pin(pid: Pid, processor: usize) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero()))? {
        let Ok(thread) = thread?.file_name().to_string_lossy().parse::<libc::pid_t>() else { continue };
        set_processors(thread, processor..processor + 1)?;
    }
    Ok(())
}

/// Lets the calling thread and what it starts run on the first processor only, until this is dropped.
pub(super) struct Pinned(());

impl Pinned {
    pub(super) fn new() -> io::Result<Self> {
        set_processors(0, 0..1)?;
        Ok(Self(()))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // At worst the next workload runs on one processor, which its figures show.
        drop(set_processors(0, 0..all.max(2)));
    }
}

fn set_processors(thread: libc::pid_t, processors: Range<usize>) -> io::Result<()> {
    // SAFETY: the set is a plain bit field that lives as long as the call.
    let refused = unsafe {
        let mut set: libc::cpu_set_t = MaybeUninit::zeroed().assume_init();
        processors.for_each(|number| libc::CPU_SET(number, &mut set));
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
