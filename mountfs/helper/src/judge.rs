//! Which descriptors the helper takes from its caller, and which it refuses.
//!
//! The kernel opens a file that it is told to show anew for each process that opens the file of the mount, for reading and for
//! writing, and asks for no rights then: it takes them as given by who told it. So all that could stand against the caller
//! opening the file for both is asked here: first of the kernel, because a file system may have rules of its own (a read-only
//! snapshot), then what the kernel does not count among these rights, and what is no file of bytes at all. An owner whom only the
//! mode keeps from writing could change that; whether this is the owner, the kernel says as well, when the mode is set to what it
//! is (a mount with mapped owners may say so of a file of somebody else).

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags, fchmod, fcntl_get_seals, fcntl_getfl, fstat, fstatfs,
    major, minor, statx,
};
use rustix::io::Errno;
use rustix::process::Uid;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// The device through which a mount speaks with the kernel.
const FUSE_DEVICE: (u32, u32) = (10, 229);

/// File systems whose files are bytes and nothing else, by their magic numbers: ext, XFS, Btrfs, F2FS, ZFS, bcachefs, tmpfs.
const PLAIN: [u32; 7] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010, 0x2FC1_2FC1, 0xCA45_1A4E, 0x0102_1994];

/// Takes what is a connection to the kernel.
pub fn connection(fd: impl AsFd) -> Result<(), Errno> {
    let found = fstat(&fd)?;
    let device = (major(found.st_rdev), minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || device != FUSE_DEVICE {
        return Err(Errno::NODEV);
    }
    Ok(())
}

/// Takes a file that `caller` could open for reading and writing.
pub fn file(fd: impl AsFd, caller: Uid) -> Result<(), Errno> {
    let flags = fcntl_getfl(&fd)?;
    // Who cannot read it has no use for it, and a descriptor that is only a name is no proof of anything.
    if flags.contains(OFlags::PATH) || flags & OFlags::RWMODE == OFlags::WRONLY {
        return Err(Errno::BADF);
    }
    let found = fstat(&fd)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL);
    }
    if found.st_uid != caller.as_raw() {
        return Err(Errno::ACCESS);
    }
    if !PLAIN.contains(&(fstatfs(&fd)?.f_type as u32)) {
        return Err(Errno::OPNOTSUPP);
    }
    let more = statx(&fd, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND | StatxAttributes::VERITY;
    if more.stx_attributes.intersects(fixed) {
        return Err(Errno::ROFS);
    }
    match fcntl_get_seals(&fd) {
        // What cannot be sealed says that it does not know the question.
        Err(Errno::INVAL) => Ok(()),
        Ok(seals) if seals.is_empty() || seals == rustix::fs::SealFlags::SEAL => Ok(()),
        Ok(_) => Err(Errno::ROFS),
        Err(error) => Err(error),
    }?;
    match may_read_and_write(&fd) {
        Err(Errno::ACCESS) => fchmod(&fd, Mode::from_raw_mode(found.st_mode)).map_err(|_| Errno::ACCESS),
        answer => answer,
    }
}

/// Asks the kernel for the caller's right to both, which is this process's too.
fn may_read_and_write(fd: impl AsFd) -> Result<(), Errno> {
    let (fd, flags) = (fd.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH | libc::AT_EACCESS);
    // SAFETY: the descriptor is open for as long as it is borrowed, the path ends with NUL, and nothing is written to.
    match unsafe { libc::syscall(libc::SYS_faccessat2, fd, c"".as_ptr(), libc::R_OK | libc::W_OK, flags) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::getuid;
    use std::fs::{File, Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn an_own_file_is_taken_and_one_of_somebody_else_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "bytes").unwrap();
        let other = Uid::from_raw(getuid().as_raw() + 1);
        for mode in [0o600, 0o400, 0o644, 0o000] {
            let open = File::open(&path).unwrap();
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(file(&open, getuid()), Ok(()), "{mode:o}");
            assert_eq!(file(&open, other), Err(Errno::ACCESS), "{mode:o}");
            assert_eq!(open.metadata().unwrap().permissions().mode() & 0o7777, mode);
            set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        }
        assert_eq!(file(File::open(dir.path()).unwrap(), getuid()), Err(Errno::INVAL));
        assert_eq!(file(File::options().write(true).open(&path).unwrap(), getuid()), Err(Errno::BADF));
        assert_eq!(file(File::open("/proc/self/status").unwrap(), getuid()), Err(Errno::OPNOTSUPP));
    }
}
