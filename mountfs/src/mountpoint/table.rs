//! What is mounted where, by the kernel's own table.

use crate::config::StartError;
use std::path::{Path, PathBuf};

/// What a mount of ours gives as name and as subtype, so that it is recognised: the helper for ordinary users writes the
/// subtype into the kernel's table (`fuse.syncmount`), a mount by root itself only the name.
pub const FS_NAME: &str = "syncmount";

const FS_TYPE: &str = "fuse.syncmount";

/// The types under which the kernel may list what names itself.
const FUSE_TYPES: [&str; 2] = ["fuse", "macfuse"];

/// One line of the kernel's table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is.
    pub mountpoint: PathBuf,
    /// The type, like `ext4` or `fuse.syncmount`.
    pub fs_type: String,
    /// What is mounted: a device, or a name that the filesystem gave.
    pub source: String,
    /// Major and minor number, where the kernel tells them.
    pub device: Option<(u32, u32)>,
}

impl Mount {
    /// Whether this program made it.
    pub fn is_ours(&self) -> bool {
        self.fs_type == FS_TYPE || (self.source == FS_NAME && FUSE_TYPES.contains(&self.fs_type.as_str()))
    }
}

/// The mounts that this process sees, in the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct MountTable(Vec<Mount>);

impl MountTable {
    /// Reads the kernel's table; touches none of the mounts. Empty on systems where this program mounts nothing.
    pub fn read() -> Result<Self, StartError> {
        kernels::read().map(Self).map_err(StartError::io("read", "the table of mounts"))
    }

    /// The topmost mount exactly at `path`.
    pub fn at(&self, path: &Path) -> Option<&Mount> {
        self.0.iter().rfind(|mount| mount.mountpoint == path)
    }

    /// The mount that `path` belongs to.
    pub fn around(&self, path: &Path) -> Option<&Mount> {
        let depth = |mount: &&Mount| mount.mountpoint.as_os_str().len();
        self.0.iter().filter(|mount| path.starts_with(&mount.mountpoint)).max_by_key(depth)
    }

    /// All mounts of ours.
    pub fn ours(&self) -> impl Iterator<Item = &Mount> {
        self.0.iter().filter(|mount| mount.is_ours())
    }
}

#[cfg(target_os = "linux")]
mod kernels {
    //! `/proc/self/mountinfo`.

    use super::Mount;
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt as _;
    use std::path::PathBuf;
    use std::{fs, io};

    pub(super) fn read() -> io::Result<Vec<Mount>> {
        fs::read("/proc/self/mountinfo").map(|bytes| parse(&bytes))
    }

    pub(super) fn parse(bytes: &[u8]) -> Vec<Mount> {
        bytes.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
    }

    /// `36 35 98:0 /root /mount/point options [optional …] - type source options`
    fn parse_line(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|byte| *byte == b' ');
        let device = device(fields.nth(2)?);
        let mountpoint = unescape(fields.nth(1)?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let mut text = || Some(String::from_utf8_lossy(&unescape(fields.next()?)).into_owned());
        let (fs_type, source) = (text()?, text()?);
        Some(Mount { mountpoint: PathBuf::from(OsString::from_vec(mountpoint)), fs_type, source, device })
    }

    fn device(field: &[u8]) -> Option<(u32, u32)> {
        let (major, minor) = std::str::from_utf8(field).ok()?.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    }

    /// The kernel writes space, tab, newline, backslash and `#` as a backslash and three octal digits.
    pub(super) fn unescape(field: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(field.len());
        let mut rest = field;
        while let Some((first, tail)) = rest.split_first() {
            match tail {
                [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..] if *first == b'\\' => {
                    out.push(((a - b'0') << 6) | ((b - b'0') << 3) | (c - b'0'));
                    rest = after;
                }
                _ => {
                    out.push(*first);
                    rest = tail;
                }
            }
        }
        out
    }
}

#[cfg(target_os = "macos")]
mod kernels {
    //! `getfsstat`, without asking the file systems.

    use super::Mount;
    use std::ffi::{CStr, OsStr};
    use std::io;
    use std::os::unix::ffi::OsStrExt as _;

    /// Mounts may be added between counting and reading.
    const SPARE: usize = 16;

    pub(super) fn read() -> io::Result<Vec<Mount>> {
        // SAFETY: without a buffer the call only counts.
        let count = unsafe { libc::getfsstat(std::ptr::null_mut(), 0, libc::MNT_NOWAIT) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: a statfs is made of numbers and arrays of them, for which zero is a value.
        let mut table = vec![unsafe { std::mem::zeroed::<libc::statfs>() }; count + SPARE];
        let len = size_of_val(table.as_slice()) as libc::c_int;
        // SAFETY: `table` has the room of which `len` tells.
        let count = unsafe { libc::getfsstat(table.as_mut_ptr(), len, libc::MNT_NOWAIT) };
        table.truncate(usize::try_from(count).map_err(|_| io::Error::last_os_error())?);
        Ok(table.iter().map(mount_of).collect())
    }

    fn mount_of(found: &libc::statfs) -> Mount {
        let text = |chars: &[libc::c_char]| -> Vec<u8> {
            // SAFETY: signed and unsigned bytes have one layout.
            let bytes = unsafe { std::slice::from_raw_parts(chars.as_ptr().cast::<u8>(), chars.len()) };
            CStr::from_bytes_until_nul(bytes).map(|text| text.to_bytes().to_vec()).unwrap_or_default()
        };
        let lossy = |chars: &[libc::c_char]| String::from_utf8_lossy(&text(chars)).into_owned();
        Mount {
            mountpoint: OsStr::from_bytes(&text(&found.f_mntonname)).into(),
            fs_type: lossy(&found.f_fstypename),
            source: lossy(&found.f_mntfromname),
            device: None,
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod kernels {
    pub(super) fn read() -> std::io::Result<Vec<super::Mount>> {
        Ok(Vec::new())
    }
}

#[cfg(all(test, target_os = "linux"))]
pub(super) mod tests {
    use super::*;
    use std::path::Path;

    const TABLE: &str = "\
21 27 0:19 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 27 0:35 / /home/u/My\\040Files rw - fuse.sshfs host:/x rw,user_id=0
41 27 0:36 / /home/u/Sync rw,nosuid,nodev master:2 propagate_from:3 - fuse.syncmount syncmount rw,user_id=1000
42 27 0:37 / /mnt/a\\134b\\011c\\012d\\043 rw - tmpfs tmpfs rw
43 41 0:38 / /home/u/Sync/inner rw - tmpfs none rw
44 27 0:39 / /home/u/Sync rw - fuse syncmount rw,user_id=0,group_id=0
nonsense
45 27 0:39 / /cut rw
";

    pub(in crate::mountpoint) fn table() -> MountTable {
        MountTable(kernels::parse(TABLE.as_bytes()))
    }

    #[test]
    fn the_table_is_read_with_its_escapes() {
        let table = table();
        let paths: Vec<_> = table.0.iter().map(|mount| mount.mountpoint.to_str().unwrap()).collect();
        let expected =
            ["/sys", "/", "/home/u/My Files", "/home/u/Sync", "/mnt/a\\b\tc\nd#", "/home/u/Sync/inner", "/home/u/Sync"];
        assert_eq!(paths, expected);
        assert_eq!((table.0[3].fs_type.as_str(), table.0[3].source.as_str()), (FS_TYPE, FS_NAME));
        assert_eq!(table.ours().count(), 2);
        assert_eq!((table.0[1].device, table.0[3].device), (Some((8, 1)), Some((0, 36))));
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(kernels::unescape(b"a\\04"), b"a\\04");
        assert_eq!(kernels::unescape(b"\\"), b"\\");
        assert_eq!(kernels::unescape(b"\\999\\377"), b"\\999\xff");
        assert_eq!(kernels::unescape(b"\\\\040"), b"\\ ");
    }

    #[test]
    fn a_path_belongs_to_the_innermost_mount() {
        let table = table();
        let around = |path: &str| table.around(Path::new(path)).map(|mount| mount.fs_type.clone());
        assert_eq!(around("/home/u/Sync/x/y").as_deref(), Some("fuse"));
        assert_eq!(around("/home/u/Sync/inner/y").as_deref(), Some("tmpfs"));
        assert_eq!(around("/home/u/Sync2").as_deref(), Some("ext4"));
        assert!(table.at(Path::new("/home/u")).is_none());
    }

    #[test]
    fn this_machine_has_a_root() {
        assert!(MountTable::read().unwrap().at(Path::new("/")).is_some());
    }
}
