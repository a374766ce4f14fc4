//! Files with holes: ranges that take no room and read as zeros.
//!
//! A file system without holes (FAT) stores zeros instead. Nothing is wrong then, only larger, and room inside of a file
//! cannot be given back.

use super::at::read_exact_at;
use std::fs::File;
use std::io;
use std::ops::Range;

/// Holes of the disk become holes of a content from this length on, in bytes.
pub(crate) const LEN_MIN: u64 = 64 * 1024;

/// The longest part of a file with data that is read at once, in bytes.
const PART_LEN: u64 = 1024 * 1024;

/// Says that what is not written to `file` shall take no room. Only Windows must be told so; where that is refused the file
/// is stored in full.
pub(crate) fn allow(file: &File) {
    #[cfg(unix)]
    let _ = file;
    #[cfg(windows)]
    if let Err(error) = super::windows::make_sparse(file) {
        tracing::debug!(%error, "a file is stored without holes");
    }
}

/// Gives the blocks of a range back; it reads as zeros afterwards. `Unsupported` from systems that cannot.
#[cfg(target_os = "linux")]
pub(crate) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    use rustix::fs::{FallocateFlags, fallocate};
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    Ok(fallocate(file, flags, range.start, range.end - range.start)?)
}

/// Gives the blocks of a range back; it reads as zeros afterwards. `Unsupported` from systems that cannot.
#[cfg(target_os = "macos")]
pub(crate) fn punch(file: &File, range: Range<u64>) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    const BLOCK: u64 = 4096;
    let whole = range.start.next_multiple_of(BLOCK)..range.end / BLOCK * BLOCK;
    let zero =
        |range: Range<u64>| super::at::write_all_at(file, &vec![0; (range.end - range.start) as usize], range.start);
    if whole.is_empty() {
        return zero(range);
    }
    zero(range.start..whole.start)?;
    zero(whole.end..range.end)?;
    let hole = libc::fpunchhole_t {
        fp_flags: 0,
        reserved: 0,
        fp_offset: whole.start as libc::off_t,
        fp_length: (whole.end - whole.start) as libc::off_t,
    };
    // SAFETY: F_PUNCHHOLE reads one fpunchhole_t, which lives until the call returns; the descriptor is open.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_PUNCHHOLE, &raw const hole) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Gives the blocks of a range back; it reads as zeros afterwards. `Unsupported` from systems that cannot.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
pub(crate) fn punch(_: &File, _: Range<u64>) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(windows)]
pub(crate) use super::windows::punch_hole as punch;

/// Where the next data begins at or after `from`; `None` if only a hole follows.
#[cfg(unix)]
pub(crate) fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
        Ok(at) => Ok(Some(at)),
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Where the next data begins at or after `from`; `None` if only a hole follows.
#[cfg(windows)]
pub(crate) fn next_data(file: &File, from: u64) -> io::Result<Option<u64>> {
    let len = file.metadata()?.len();
    match super::windows::next_data(file, from..len) {
        // Without knowing of holes everything counts as data.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok((from < len).then_some(from)),
        found => found,
    }
}

/// The parts of `range` in turn: whether each is a hole of at least [`LEN_MIN`] bytes, which costs one step however long
/// it is. Other parts have at most [`PART_LEN`] bytes.
pub(crate) fn parts(file: &File, range: Range<u64>) -> impl Iterator<Item = io::Result<(Range<u64>, bool)>> {
    let mut at = range.start;
    // Up to where there is data, as far as is known.
    let mut data_end = at;
    std::iter::from_fn(move || {
        if at >= range.end {
            return None;
        }
        if at >= data_end {
            let data = match next_data_or_here(file, at) {
                Ok(data) => data.map_or(range.end, |data| data.min(range.end)),
                Err(error) => {
                    at = range.end;
                    return Some(Err(error));
                }
            };
            if data - at >= LEN_MIN {
                let hole = at..data;
                at = data;
                return Some(Ok((hole, true)));
            }
            data_end = data.saturating_add(PART_LEN).min(range.end);
        }
        let part = at..data_end;
        at = data_end;
        Some(Ok((part, false)))
    })
}

/// A disk that does not tell has data everywhere.
fn next_data_or_here(file: &File, from: u64) -> io::Result<Option<u64>> {
    match next_data(file, from) {
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            Ok(Some(from))
        }
        found => found,
    }
}

/// Whether `range` of a file reads as zeros. Jumps over holes, however long.
pub(crate) fn is_zero(file: &File, range: Range<u64>) -> io::Result<bool> {
    let mut buf = vec![0; 64 * 1024];
    let mut at = range.start;
    while let Some(data) = next_data(file, at)?.filter(|data| *data < range.end) {
        let len = (range.end - data).min(buf.len() as u64) as usize;
        read_exact_at(file, &mut buf[..len], data)?;
        if buf[..len].iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at = data + len as u64;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::super::at::write_all_at;
    use super::*;

    /// Wine does not know of holes: there this must read them.
    const LEN: u64 = if cfg!(windows) { 1 << 25 } else { 1 << 40 };

    #[test]
    fn zeros_are_told_from_data_without_reading_holes() {
        let file = tempfile::tempfile().unwrap();
        allow(&file);
        file.set_len(LEN).unwrap();
        assert!(is_zero(&file, 0..LEN).unwrap());
        write_all_at(&file, &[0; 10], 1 << 24).unwrap();
        assert!(is_zero(&file, 0..LEN).unwrap());
        write_all_at(&file, &[1], (1 << 24) + 5).unwrap();
        assert!(!is_zero(&file, 0..LEN).unwrap());
        assert!(is_zero(&file, 0..(1 << 24) + 5).unwrap());
    }

    #[test]
    fn a_hole_reads_as_zeros_or_cannot_be_made() {
        let file = tempfile::tempfile().unwrap();
        allow(&file);
        write_all_at(&file, &vec![1; 300_000], 0).unwrap();
        match punch(&file, 1000..200_000) {
            Ok(()) => assert!(is_zero(&file, 1000..200_000).unwrap()),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::Unsupported),
        }
        assert!(!is_zero(&file, 999..1000).unwrap() && !is_zero(&file, 200_000..200_001).unwrap());
        assert_eq!(file.metadata().unwrap().len(), 300_000);
    }
}
