//! Which calls of the kernel the helper can make at all: a filter that ends it at any other.
//!
//! The filter sees numbers, not what they mean: of `ioctl` it lets the two requests pass for which this program is there.

use rustix::ioctl::{Opcode, opcode};
use std::io;

/// `FUSE_DEV_IOC_BACKING_OPEN`.
pub const BACKING_OPEN: Opcode = opcode::write::<[u64; 2]>(229, 1);
/// `FUSE_DEV_IOC_BACKING_CLOSE`.
pub const BACKING_CLOSE: Opcode = opcode::write::<u32>(229, 2);

/// What is called: messages, what is asked about descriptors, memory, the end, and its reason for standard error.
const CALLS: [libc::c_long; 21] = [
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_fcntl,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_statx,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_close,
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_write,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// `AUDIT_ARCH_X86_64` or `AUDIT_ARCH_AARCH64`: numbers of calls mean something only together with this.
#[cfg(target_arch = "x86_64")]
const ARCH: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const ARCH: u32 = 0xC000_00B7;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("the numbers of this processor's calls are not known to the filter");

/// Where the kernel has what is looked at, in `struct seccomp_data`.
const AT_CALL: u32 = 0;
const AT_ARCH: u32 = 4;
/// The lower half of the second argument.
const AT_REQUEST: u32 = 24;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const IS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

/// Puts the filter in force, which nothing can take off again.
pub fn confine() -> io::Result<()> {
    let filter = filter();
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the kernel copies the program, which lives until the call returns, and changes nothing of it.
    match unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn filter() -> Vec<libc::sock_filter> {
    let mut filter = vec![load(AT_ARCH), skip_unless(ARCH, 1), skip(1), END, load(AT_CALL)];
    for call in CALLS {
        filter.extend([skip_unless(call as u32, 1), PASS]);
    }
    filter.extend([skip_unless(libc::SYS_ioctl as u32, 5), load(AT_REQUEST)]);
    for request in [BACKING_OPEN, BACKING_CLOSE] {
        filter.extend([skip_unless(request, 1), PASS]);
    }
    filter.push(END);
    filter
}

const PASS: libc::sock_filter = libc::sock_filter { code: ANSWER, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
const END: libc::sock_filter = libc::sock_filter { code: ANSWER, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS };

const fn load(at: u32) -> libc::sock_filter {
    libc::sock_filter { code: LOAD, jt: 0, jf: 0, k: at }
}

/// Goes on behind the next `steps` instructions unless what was loaded is `value`.
const fn skip_unless(value: u32, steps: u8) -> libc::sock_filter {
    libc::sock_filter { code: IS, jt: 0, jf: steps, k: value }
}

/// Goes on behind the next `steps` instructions.
const fn skip(steps: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JA) as u16, jt: 0, jf: 0, k: steps }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    /// What the filter says of a call.
    fn says(arch: u32, call: libc::c_long, request: u32) -> u32 {
        let filter = filter();
        let (mut at, mut loaded) = (0, 0);
        loop {
            let step = filter[at];
            at += 1;
            match step.code {
                LOAD => {
                    loaded = match step.k {
                        AT_CALL => call as u32,
                        AT_ARCH => arch,
                        AT_REQUEST => request,
                        other => panic!("{other}"),
                    }
                }
                IS => at += usize::from(if loaded == step.k { step.jt } else { step.jf }),
                ANSWER => return step.k,
                _ => at += step.k as usize,
            }
        }
    }

    #[test]
    fn what_is_needed_passes_and_nothing_else() {
        assert_eq!((BACKING_OPEN, BACKING_CLOSE), (0x4010_e501, 0x4004_e502));
        for call in 0..1024 {
            let passes = says(ARCH, call, 0) == libc::SECCOMP_RET_ALLOW;
            assert_eq!(passes, CALLS.contains(&call), "{call}");
        }
        for call in CALLS.into_iter().chain([libc::SYS_ioctl]) {
            assert_eq!(says(ARCH, call | 0x4000_0000, BACKING_OPEN), libc::SECCOMP_RET_KILL_PROCESS);
            assert_eq!(says(ARCH + 1, call, BACKING_OPEN), libc::SECCOMP_RET_KILL_PROCESS);
        }
        for request in [BACKING_OPEN, BACKING_CLOSE] {
            assert_eq!(says(ARCH, libc::SYS_ioctl, request), libc::SECCOMP_RET_ALLOW);
            assert_eq!(says(ARCH, libc::SYS_ioctl, request + 1), libc::SECCOMP_RET_KILL_PROCESS);
        }
        assert_eq!(says(ARCH, libc::SYS_ioctl, libc::TIOCSTI as u32), libc::SECCOMP_RET_KILL_PROCESS);
    }

    /// This test again, in a process of its own that may be ended.
    fn again(what: &str) -> std::process::ExitStatus {
        let name = "confine::tests::who_calls_for_anything_else_is_ended";
        let program = std::env::current_exe().unwrap();
        Command::new(program)
            .args([name, "--exact", "--nocapture", "--test-threads=1"])
            .env(PART, what)
            .status()
            .unwrap()
    }

    const PART: &str = "SYNCMOUNT_HELPER_TEST_PART";

    #[test]
    fn who_calls_for_anything_else_is_ended() {
        let Ok(part) = std::env::var(PART) else {
            assert_eq!(again("allowed").code(), Some(7));
            assert_eq!(again("open").signal(), Some(libc::SIGSYS));
            assert_eq!(again("ioctl").signal(), Some(libc::SIGSYS));
            return;
        };
        let file = tempfile::tempfile().unwrap();
        rustix::thread::set_no_new_privs(true).unwrap();
        confine().unwrap();
        match part.as_str() {
            "open" => drop(std::fs::File::open("/")),
            // SAFETY: the call would fill in a number.
            "ioctl" => drop(unsafe { libc::ioctl(file.as_raw_fd(), libc::FIONREAD as _, &mut 0) }),
            _ => drop(rustix::fs::fstat(&file)),
        }
        // SAFETY: nothing has to be put in order; and more than this the filter may not let pass.
        unsafe { libc::_exit(7) }
    }
}
