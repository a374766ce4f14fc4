//! Which errno each failure is: one table, no wildcard.

use crate::driver::{ReadError, WriteError};
use crate::vfs::VfsError;
use fuser::Errno;
use std::io;
use syncmount_common::XattrError;
use syncmount_common::name::NameError;
use syncmount_engine::Refusal;

pub(super) fn errno(error: &VfsError) -> Errno {
    match error {
        VfsError::Refused(refusal) => of_refusal(*refusal),
        VfsError::Name(name) => of_name(*name),
        VfsError::Target(_) => Errno::ENAMETOOLONG,
        VfsError::Write(error) => of_write(error),
        VfsError::Read(error) => of_read(error),
        VfsError::Io(error) => of_io(error),
        VfsError::Gone => Errno::ESTALE,
        VfsError::BadHandle => Errno::EBADF,
        VfsError::Owner => Errno::EPERM,
        VfsError::Invalid => Errno::EINVAL,
        VfsError::NoXattr => Errno::NO_XATTR,
        VfsError::XattrExists => Errno::EEXIST,
        VfsError::StatusXattr => Errno::EPERM,
        VfsError::Xattr(error) => of_xattr(*error),
        VfsError::NotSupported => Errno::EOPNOTSUPP,
        VfsError::NoData => Errno::ENXIO,
        VfsError::ReadOnly => Errno::EROFS,
    }
}

fn of_refusal(refusal: Refusal) -> Errno {
    match refusal {
        Refusal::NotFound => Errno::ENOENT,
        Refusal::Exists => Errno::EEXIST,
        Refusal::NotDir => Errno::ENOTDIR,
        Refusal::IsDir => Errno::EISDIR,
        Refusal::NotEmpty => Errno::ENOTEMPTY,
        Refusal::IntoItself => Errno::EINVAL,
        Refusal::OtherScope => Errno::EXDEV,
        Refusal::TooDeep => Errno::ENAMETOOLONG,
        Refusal::TooManyNames => Errno::EMLINK,
        Refusal::OneName => Errno::EPERM,
        Refusal::Stale => Errno::EIO,
    }
}

fn of_xattr(error: XattrError) -> Errno {
    match error {
        XattrError::Name => Errno::EOPNOTSUPP,
        XattrError::NameTooLong => Errno::ERANGE,
        XattrError::ValueTooLong => Errno::E2BIG,
        XattrError::NoRoom => Errno::ENOSPC,
        XattrError::Malformed => Errno::EIO,
    }
}

fn of_name(error: NameError) -> Errno {
    match error {
        NameError::Empty => Errno::ENOENT,
        NameError::TooLong => Errno::ENAMETOOLONG,
        NameError::Dots | NameError::ForbiddenByte => Errno::EINVAL,
    }
}

fn of_write(error: &WriteError) -> Errno {
    match error {
        WriteError::Refused(refusal) => of_refusal(*refusal),
        WriteError::Io(error) => of_io(error),
        WriteError::Read(error) => of_read(error),
        WriteError::TooLarge => Errno::EFBIG,
    }
}

fn of_read(error: &ReadError) -> Errno {
    match error {
        ReadError::Unreachable => Errno::ETIMEDOUT,
        ReadError::Unavailable(_) => Errno::EIO,
        ReadError::NoRoom(_) => Errno::ENOSPC,
        ReadError::Io(error) => of_io(error),
    }
}

fn of_io(error: &io::Error) -> Errno {
    match error.raw_os_error() {
        Some(code) => Errno::from_i32(code),
        None if error.kind() == io::ErrorKind::StorageFull => Errno::ENOSPC,
        None => Errno::EIO,
    }
}
