//! Calls to Windows that have no safe wrapper elsewhere. Each takes and gives safe values.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::ops::Range;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::path::Path;
use std::time::Duration;
use windows_sys::Wdk::Storage::FileSystem::{FILE_ALL_INFORMATION, FileAllInformation, NtQueryInformationFile};
use windows_sys::Win32::Foundation::{
    ERROR_FILE_EXISTS, ERROR_INVALID_FUNCTION, ERROR_MORE_DATA, ERROR_NOT_SUPPORTED, ERROR_SUCCESS, GetLastError,
    HANDLE, INVALID_HANDLE_VALUE, LocalFree, RtlNtStatusToDosError, STATUS_BUFFER_OVERFLOW, WAIT_TIMEOUT,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertSidToStringSidW, ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{
    GetTokenInformation, PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES, TOKEN_QUERY, TOKEN_USER, TokenUser,
};
use windows_sys::Win32::Storage::FileSystem::{
    CreateDirectoryW, FILE_ATTRIBUTE_DIRECTORY, FILE_ATTRIBUTE_REPARSE_POINT, FILE_ATTRIBUTE_TAG_INFO,
    FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_READ_ATTRIBUTES, FileAttributeTagInfo, FindClose,
    FindExInfoBasic, FindExSearchNameMatch, FindFirstFileExW, GetCompressedFileSizeW, GetDiskFreeSpaceExW,
    GetFileInformationByHandleEx, INVALID_FILE_SIZE, MoveFileExW, WIN32_FIND_DATAW,
};
use windows_sys::Win32::System::IO::{DeviceIoControl, IO_STATUS_BLOCK};
use windows_sys::Win32::System::Ioctl::{
    FILE_ALLOCATED_RANGE_BUFFER, FILE_ZERO_DATA_INFORMATION, FSCTL_QUERY_ALLOCATED_RANGES, FSCTL_SET_SPARSE,
    FSCTL_SET_ZERO_DATA,
};
use windows_sys::Win32::System::Pipes::GetNamedPipeServerProcessId;
use windows_sys::Win32::System::Registry::{HKEY_LOCAL_MACHINE, RRF_RT_REG_DWORD, RegGetValueW};
use windows_sys::Win32::System::SystemInformation::GetTickCount64;
use windows_sys::Win32::System::Threading::{
    GetCurrentProcess, OpenProcess, OpenProcessToken, PROCESS_SYNCHRONIZE, WaitForSingleObject,
};
use windows_sys::core::BOOL;

/// From this length on a path needs the prefix that lifts the limit of 260 characters. Directories have 12 less.
const PLAIN_PATH_LEN_MAX: usize = 240;

/// The bit that reparse points have which stand for another place.
const NAME_SURROGATE: u32 = 0x2000_0000;

/// Files' times count from 1601, in steps of 100 ns. This is 1970.
const UNIX_EPOCH_TICKS: i64 = 116_444_736_000_000_000;
const NANOSECONDS_A_TICK: i64 = 100;

fn check(result: BOOL) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A string as the system takes it: UTF-16 with NUL at its end.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// A path as the system takes it, however long it is.
fn wide_path(path: &Path) -> io::Result<Vec<u16>> {
    let absolute = std::path::absolute(path)?;
    let plain: Vec<u16> = absolute.as_os_str().encode_wide().collect();
    if plain.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path contains NUL"));
    }
    let is = |prefix: &str| plain.starts_with(&prefix.encode_utf16().collect::<Vec<_>>());
    let (prefix, rest) = match &plain[..] {
        short if short.len() < PLAIN_PATH_LEN_MAX => ("", short),
        verbatim if is(r"\\?\") || is(r"\\.\") => ("", verbatim),
        network if is(r"\\") => (r"\\?\UNC\", &network[2..]),
        long => (r"\\?\", long),
    };
    Ok(prefix.encode_utf16().chain(rest.iter().copied()).chain([0]).collect())
}

/// What the system tells of an open file or directory.
pub(crate) struct Facts {
    /// Of something that is no symlink.
    pub(crate) is_dir: bool,
    /// A reparse point that stands for another place.
    pub(crate) is_link: bool,
    /// Bytes.
    pub(crate) size: u64,
    /// When it was last modified, in nanoseconds since 1970.
    pub(crate) modified: i64,
    /// Its number in its volume.
    pub(crate) id: u64,
}

/// All of it in one call. Those of the standard library and `GetFileInformationByHandle` ask for the volume too, which is
/// several times as slow.
pub(crate) fn facts(file: &File) -> io::Result<Facts> {
    let mut found = FILE_ALL_INFORMATION::default();
    let mut block = IO_STATUS_BLOCK::default();
    // SAFETY: the handle is open, and both have room for what is written. The end of the name is left out.
    let status = unsafe {
        NtQueryInformationFile(
            handle(file),
            &raw mut block,
            (&raw mut found).cast(),
            size_of_val(&found) as u32,
            FileAllInformation,
        )
    };
    if status < 0 && status != STATUS_BUFFER_OVERFLOW {
        // SAFETY: translates a number.
        return Err(io::Error::from_raw_os_error(unsafe { RtlNtStatusToDosError(status) } as i32));
    }
    let attributes = found.BasicInformation.FileAttributes;
    let is_link = attributes & FILE_ATTRIBUTE_REPARSE_POINT != 0 && is_elsewhere(file)?;
    Ok(Facts {
        is_dir: !is_link && attributes & FILE_ATTRIBUTE_DIRECTORY != 0,
        is_link,
        size: found.StandardInformation.EndOfFile.unsigned_abs(),
        modified: found
            .BasicInformation
            .LastWriteTime
            .saturating_sub(UNIX_EPOCH_TICKS)
            .saturating_mul(NANOSECONDS_A_TICK),
        id: found.InternalInformation.IndexNumber.cast_unsigned(),
    })
}

/// Whether a reparse point stands for another place. (Others are files whose bytes are kept in another way.)
fn is_elsewhere(file: &File) -> io::Result<bool> {
    let mut found = FILE_ATTRIBUTE_TAG_INFO::default();
    let (out, len) = ((&raw mut found).cast(), size_of_val(&found) as u32);
    // SAFETY: the handle is open, and `found` has room for what is written.
    check(unsafe { GetFileInformationByHandleEx(handle(file), FileAttributeTagInfo, out, len) })?;
    Ok(found.ReparseTag & NAME_SURROGATE != 0)
}

/// How the disk spells the last name of a path, which may differ in case; `None` if nothing is there.
pub(crate) fn spelling(path: &Path) -> io::Result<Option<OsString>> {
    let wide = wide_path(path)?;
    let mut found = WIN32_FIND_DATAW::default();
    // SAFETY: `wide` ends with NUL, and `found` has room for what is written.
    let search = unsafe {
        FindFirstFileExW(
            wide.as_ptr(),
            FindExInfoBasic,
            (&raw mut found).cast(),
            FindExSearchNameMatch,
            std::ptr::null(),
            0,
        )
    };
    if search == INVALID_HANDLE_VALUE {
        return match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(error),
        };
    }
    // SAFETY: the search was begun just now and is not used any more.
    unsafe { FindClose(search) };
    let len = found.cFileName.iter().position(|unit| *unit == 0).unwrap_or(found.cFileName.len());
    Ok(Some(OsString::from_wide(&found.cFileName[..len])))
}

/// Opens a file or directory, not what a symlink leads to, such that nobody else is disturbed.
pub(crate) fn open_for_attributes(path: &Path) -> io::Result<File> {
    let flags = FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT;
    File::options().access_mode(FILE_READ_ATTRIBUTES).custom_flags(flags).open(path)
}

fn handle(file: &File) -> HANDLE {
    file.as_raw_handle()
}

/// Bytes that this user may still write below `dir`, and the size of the disk for this user.
pub(crate) fn disk_space(dir: &Path) -> io::Result<(u64, u64)> {
    let path = wide_path(dir)?;
    let (mut free, mut size) = (0, 0);
    // SAFETY: `path` ends with NUL; both numbers have room for what is written; the third may be null.
    check(unsafe { GetDiskFreeSpaceExW(path.as_ptr(), &raw mut free, &raw mut size, std::ptr::null_mut()) })?;
    Ok((free, size))
}

/// Bytes that a file takes, without its holes.
pub(crate) fn allocated_bytes(path: &Path) -> io::Result<u64> {
    let path = wide_path(path)?;
    let mut high = 0;
    // SAFETY: `path` ends with NUL and `high` has room for what is written.
    let low = unsafe { GetCompressedFileSizeW(path.as_ptr(), &raw mut high) };
    // SAFETY: asks for a number of this thread.
    if low == INVALID_FILE_SIZE && unsafe { GetLastError() } != ERROR_SUCCESS {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// `input` to the file system; answers how many values of `output` it has filled.
fn control<I, O>(file: &File, code: u32, input: Option<&I>, output: &mut [O]) -> io::Result<usize> {
    let mut returned = 0;
    let (in_ptr, in_len) = input.map_or((std::ptr::null(), 0), |input| (&raw const *input, size_of::<I>() as u32));
    let (out_ptr, out_len) = (output.as_mut_ptr(), size_of_val(output) as u32);
    // SAFETY: input and output are valid for their lengths until the call returns: the handle was opened for synchronous
    // work. Callers choose types that are plain numbers.
    let result = unsafe {
        DeviceIoControl(
            handle(file),
            code,
            in_ptr.cast(),
            in_len,
            out_ptr.cast(),
            out_len,
            &raw mut returned,
            std::ptr::null_mut(),
        )
    };
    let filled = returned as usize / size_of::<O>().max(1);
    match check(result) {
        Err(error) if is_error(&error, ERROR_MORE_DATA) => Ok(filled),
        Err(error) if is_error(&error, ERROR_INVALID_FUNCTION) || is_error(&error, ERROR_NOT_SUPPORTED) => {
            Err(io::ErrorKind::Unsupported.into())
        }
        done => done.map(|()| filled),
    }
}

fn is_error(error: &io::Error, code: u32) -> bool {
    error.raw_os_error() == Some(code as i32)
}

/// Lets a file have holes.
pub(crate) fn make_sparse(file: &File) -> io::Result<()> {
    control::<(), u8>(file, FSCTL_SET_SPARSE, None, &mut []).map(|_| ())
}

/// Makes a range read as zeros and gives back what it took, in steps of 64 KiB.
pub(crate) fn punch_hole(file: &File, range: Range<u64>) -> io::Result<()> {
    let zero = FILE_ZERO_DATA_INFORMATION { FileOffset: range.start as i64, BeyondFinalZero: range.end as i64 };
    control::<_, u8>(file, FSCTL_SET_ZERO_DATA, Some(&zero), &mut []).map(|_| ())
}

/// Where the next data begins in `range`; `None` if it is all a hole.
pub(crate) fn next_data(file: &File, range: Range<u64>) -> io::Result<Option<u64>> {
    if range.is_empty() {
        return Ok(None);
    }
    let wanted =
        FILE_ALLOCATED_RANGE_BUFFER { FileOffset: range.start as i64, Length: (range.end - range.start) as i64 };
    let mut found = [FILE_ALLOCATED_RANGE_BUFFER::default()];
    let count = control(file, FSCTL_QUERY_ALLOCATED_RANGES, Some(&wanted), &mut found)?;
    Ok((count > 0).then(|| (found[0].FileOffset as u64).max(range.start)))
}

/// Renames to a name that must be free.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (wide_path(from)?, wide_path(to)?);
    // SAFETY: both paths end with NUL.
    match check(unsafe { MoveFileExW(from.as_ptr(), to.as_ptr(), 0) }) {
        Err(error) if is_error(&error, ERROR_FILE_EXISTS) => Err(io::ErrorKind::AlreadyExists.into()),
        renamed => renamed,
    }
}

/// How long the system runs, sleep included.
pub(crate) fn uptime() -> Duration {
    // SAFETY: asks for a number.
    Duration::from_millis(unsafe { GetTickCount64() })
}

/// The number of this run of the system; `None` if it counts none.
pub(crate) fn boot_number() -> Option<u32> {
    let key = wide(r"SYSTEM\CurrentControlSet\Control\Session Manager\Memory Management\PrefetchParameters");
    let name = wide("BootId");
    let (mut number, mut len) = (0_u32, size_of::<u32>() as u32);
    // SAFETY: both strings end with NUL, and `number` has the room of which `len` tells.
    let result = unsafe {
        RegGetValueW(
            HKEY_LOCAL_MACHINE,
            key.as_ptr(),
            name.as_ptr(),
            RRF_RT_REG_DWORD,
            std::ptr::null_mut(),
            (&raw mut number).cast(),
            &raw mut len,
        )
    };
    (result == ERROR_SUCCESS).then_some(number)
}

/// Makes a directory that only this user, the system and administrators may enter, with all that will be in it.
pub(crate) fn make_private_dir(dir: &Path) -> io::Result<()> {
    let path = wide_path(dir)?;
    let access = Access::of_user("OICI", &["SY", "BA"])?;
    // SAFETY: `path` ends with NUL; the attributes live until the call returns.
    check(unsafe { CreateDirectoryW(path.as_ptr(), access.attributes()) })
}

/// Who may use an object that is made.
pub(crate) struct Access {
    attributes: SECURITY_ATTRIBUTES,
}

impl Access {
    /// This user and nobody else.
    pub(crate) fn only_user() -> io::Result<Self> {
        Self::of_user("", &[])
    }

    /// This user, and `others` by their short names, with full rights that are handed down as `inherit` says.
    fn of_user(inherit: &str, others: &[&str]) -> io::Result<Self> {
        let user = user_sid()?;
        let grants = std::iter::once(user.as_str()).chain(others.iter().copied());
        let grants: String = grants.map(|who| format!("(A;{inherit};FA;;;{who})")).collect();
        let text = wide(&format!("D:P{grants}"));
        let mut descriptor: PSECURITY_DESCRIPTOR = std::ptr::null_mut();
        // SAFETY: `text` ends with NUL, and `descriptor` takes the pointer; its length is not asked for.
        check(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &raw mut descriptor,
                std::ptr::null_mut(),
            )
        })?;
        let attributes = SECURITY_ATTRIBUTES {
            nLength: size_of::<SECURITY_ATTRIBUTES>() as u32,
            lpSecurityDescriptor: descriptor,
            bInheritHandle: 0,
        };
        Ok(Self { attributes })
    }

    /// For calls that read it; valid as long as this lives.
    pub(crate) fn attributes(&self) -> *const SECURITY_ATTRIBUTES {
        &raw const self.attributes
    }
}

// SAFETY: the descriptor is plain memory that nobody changes.
unsafe impl Send for Access {}
// SAFETY: as above.
unsafe impl Sync for Access {}

impl Drop for Access {
    fn drop(&mut self) {
        // SAFETY: the descriptor was allocated by the system for us to free, and is freed once.
        unsafe { LocalFree(self.attributes.lpSecurityDescriptor) };
    }
}

/// The user who runs this process, in the form `S-1-5-…`.
pub(crate) fn user_sid() -> io::Result<String> {
    let mut token: HANDLE = std::ptr::null_mut();
    // SAFETY: the process is this one, and `token` takes the handle.
    check(unsafe { OpenProcessToken(GetCurrentProcess(), TOKEN_QUERY, &raw mut token) })?;
    // SAFETY: the handle was just opened and has no other owner.
    let token = unsafe { OwnedHandle::from_raw_handle(token) };
    // In words, so that the structure at its begin is aligned. A user's identity takes 68 bytes at most.
    let mut buffer = [0_u64; 32];
    let mut len = 0;
    // SAFETY: `buffer` has the room that is told.
    check(unsafe {
        GetTokenInformation(
            token.as_raw_handle(),
            TokenUser,
            buffer.as_mut_ptr().cast(),
            size_of_val(&buffer) as u32,
            &raw mut len,
        )
    })?;
    // SAFETY: the call has written a TOKEN_USER to the begin of the aligned buffer.
    let user = unsafe { buffer.as_ptr().cast::<TOKEN_USER>().read() };
    let mut text: *mut u16 = std::ptr::null_mut();
    // SAFETY: the identity lies in `buffer`, which lives; `text` takes the pointer.
    check(unsafe { ConvertSidToStringSidW(user.User.Sid, &raw mut text) })?;
    // SAFETY: the text ends with NUL.
    let len = (0..).take_while(|at| unsafe { *text.add(*at) } != 0).count();
    // SAFETY: `len` units of it were just read.
    let sid = String::from_utf16_lossy(unsafe { std::slice::from_raw_parts(text, len) });
    // SAFETY: the text was allocated by the system for us to free, and is freed once.
    unsafe { LocalFree(text.cast()) };
    Ok(sid)
}

/// A process of which the end can be seen.
#[derive(Debug)]
pub(crate) struct Process(OwnedHandle);

impl Process {
    /// The process at the other end of a pipe that is connected.
    pub(crate) fn serving(pipe: &impl std::os::windows::io::AsRawHandle) -> io::Result<Self> {
        let mut id = 0;
        // SAFETY: the handle is open, and `id` has room for what is written.
        check(unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle(), &raw mut id) })?;
        // SAFETY: takes numbers.
        let process = unsafe { OpenProcess(PROCESS_SYNCHRONIZE, 0, id) };
        if process.is_null() || process == INVALID_HANDLE_VALUE {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the handle was just opened and has no other owner.
        Ok(Self(unsafe { OwnedHandle::from_raw_handle(process) }))
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        // SAFETY: the handle is open; this does not wait.
        unsafe { WaitForSingleObject(self.0.as_raw_handle(), 0) != WAIT_TIMEOUT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_has_an_identity_and_can_have_a_directory_of_his_own() {
        let sid = user_sid().unwrap();
        assert!(sid.starts_with("S-1-5-"), "{sid}");
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("own");
        make_private_dir(&dir).unwrap();
        std::fs::write(dir.join("x"), "x").unwrap();
        assert_eq!(make_private_dir(&dir).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(make_private_dir(&root.path().join("none/x")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn long_paths_get_the_prefix_and_short_ones_stay() {
        let text = |path: &str| String::from_utf16(&wide_path(Path::new(path)).unwrap()).unwrap();
        let long = "x".repeat(250);
        assert_eq!(text(r"C:\a"), "C:\\a\0");
        assert_eq!(text(&format!(r"C:\{long}")), format!("\\\\?\\C:\\{long}\0"));
        assert_eq!(text(&format!(r"\\server\share\{long}")), format!("\\\\?\\UNC\\server\\share\\{long}\0"));
        assert_eq!(text(&format!(r"\\?\C:\{long}")), format!("\\\\?\\C:\\{long}\0"));
    }

    #[test]
    fn the_system_runs_for_some_time() {
        assert!(uptime() > Duration::ZERO);
    }
}
