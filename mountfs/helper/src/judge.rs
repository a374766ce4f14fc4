//! Which descriptors the helper takes from its caller, and which it refuses.
//!
//! The kernel opens a file that it is told to show anew for each process that opens the file of the mount, for reading and for
//! writing, and asks for no rights then: it takes them as given by who told it. So all that could stand against the caller
//! opening the file for both is asked here. The owner of a file may give himself every right to it; what remains is what even
//! an owner cannot do, and files that are none.

use rustix::fs::{
    AtFlags, FileType, OFlags, StatxAttributes, StatxFlags, fcntl_get_seals, fcntl_getfl, fstat, fstatfs, major, minor,
    statx,
};
use rustix::io::Errno;
use rustix::process::Uid;
use std::os::fd::AsFd;

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
    // That it was opened for reading at least proves nothing about it that its owner needs, and yet costs nothing to ask.
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
    }
}
