//! What programs do to files, one system call after the other, and that the other device sees the result.

use rustix::fs::{Access, AtFlags, CWD, FileType, Mode, RenameFlags, access, inotify, renameat_with, statvfs};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;
use syncmount_tests::support::*;

/// The call fails, and with this errno.
#[track_caller]
fn fails<T: std::fmt::Debug>(result: impl Into<Outcome<T>>, errno: i32) {
    let error = result.into().0.expect_err("this must fail");
    assert_eq!(error.raw_os_error(), Some(errno), "{error}");
}

/// The result of a call through `std` or through `rustix`.
struct Outcome<T>(io::Result<T>);

impl<T> From<io::Result<T>> for Outcome<T> {
    fn from(result: io::Result<T>) -> Self {
        Self(result)
    }
}

impl<T> From<rustix::io::Result<T>> for Outcome<T> {
    fn from(result: rustix::io::Result<T>) -> Self {
        Self(result.map_err(io::Error::from))
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> rustix::io::Result<()> {
    renameat_with(CWD, from, CWD, to, flags)
}

/// A world with two devices, and at the end the same on both.
fn on_two_devices(act: impl FnOnce(&Device, &Device)) {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    act(&a, &b);
    for device in [&a, &b] {
        device.wait_synced();
    }
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for device in [&a, &b] {
        assert_eq!(device.status().problems, []);
    }
}

#[test]
fn a_program_that_runs_is_not_cut() {
    on_two_devices(|a, _| {
        let path = a.path("program");
        fs::copy("/bin/sleep", &path).unwrap();
        let before = fs::read(&path).unwrap();
        let mut child = Command::new(&path).arg("60").spawn().unwrap();
        let opens = [
            OpenOptions::new().write(true).open(&path),
            OpenOptions::new().write(true).truncate(true).open(&path),
            OpenOptions::new().read(true).custom_flags(libc::O_TRUNC).open(&path),
        ];
        let left = fs::read(&path).unwrap();
        let ended = child.try_wait().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        for refused in opens.map(|open| open.map(drop)) {
            fails(refused, libc::ETXTBSY);
        }
        assert!(left == before, "{} of {} bytes are left", left.len(), before.len());
        assert!(ended.is_none(), "{ended:?}");
    });
}

#[test]
fn open_flags_do_what_they_say() {
    on_two_devices(|a, b| {
        let path = a.path("file");
        let exclusive = || OpenOptions::new().write(true).create_new(true).open(&path);
        exclusive().unwrap().write_all(b"first").unwrap();
        fails(exclusive(), libc::EEXIST);
        assert_eq!(fs::read(&path).unwrap(), b"first");

        File::create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0, "O_TRUNC");
        let mut append = OpenOptions::new().append(true).open(&path).unwrap();
        let mut other = OpenOptions::new().append(true).open(&path).unwrap();
        append.write_all(b"one ").unwrap();
        other.write_all(b"two ").unwrap();
        append.seek(SeekFrom::Start(0)).unwrap();
        append.write_all(b"three").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two three", "O_APPEND");
        fails((&File::open(&path).unwrap()).write(b"x"), libc::EBADF);
        fails(OpenOptions::new().write(true).open(&a.folder), libc::EISDIR);
        fails(File::open(a.path("file/below")), libc::ENOTDIR);
        fails(File::open(a.path("none")), libc::ENOENT);
        fails(OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&path), libc::ENOTDIR);

        // What was not there a moment ago and was asked for is found at once where it is made elsewhere.
        drop((append, other));
        a.wait_synced();
        until("the file at B", || match fs::read(b.path("file")) {
            Ok(bytes) if bytes == b"one two three" => Ok(()),
            other => Err(format!("{other:?}")),
        });
    });
}

#[test]
fn a_write_in_the_middle_of_a_file_leaves_its_other_bytes() {
    let mut dice = Dice::new("a_write_in_the_middle");
    on_two_devices(|a, b| {
        let mut expected = bytes(&mut dice, 5_000_000);
        fs::write(a.path("file"), &expected).unwrap();
        a.wait_synced();
        until("the file at B", || fs::metadata(b.path("file")).map_err(|error| error.to_string()));
        // B has none of its bytes yet.
        let file = OpenOptions::new().read(true).write(true).open(b.path("file")).unwrap();
        for at in [2_500_000, 0, 4_999_000, 1_048_575] {
            file.write_all_at(b"changed in place", at).unwrap();
            expected[at as usize..][..16].copy_from_slice(b"changed in place");
        }
        let mut near = [0; 100];
        file.read_exact_at(&mut near, 2_499_950).unwrap();
        assert_eq!(near, expected[2_499_950..][..100]);
        drop(file);
        assert!(fs::read(b.path("file")).unwrap() == expected, "at B, which wrote");
        b.wait_synced();
        until("the change at A", || match fs::read(a.path("file")) {
            Ok(bytes) if bytes == expected => Ok(()),
            other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
        });
    });
}

#[test]
fn files_become_shorter_and_longer() {
    let mut dice = Dice::new("files_become_shorter");
    on_two_devices(|a, b| {
        let original = bytes(&mut dice, 700_000);
        for (name, len) in [("shorter", 300_000), ("to nothing", 0), ("longer", 900_000), ("much longer", 50_000_000)] {
            fs::write(a.path(name), &original).unwrap();
            a.wait_synced();
            // On the device that has no bytes of it, and by path as well as by descriptor.
            until(name, || fs::metadata(b.path(name)).map_err(|error| error.to_string()));
            rustix::fs::ftruncate(OpenOptions::new().write(true).open(b.path(name)).unwrap(), len).unwrap();
            let mut expected = original.clone();
            expected.resize(len as usize, 0);
            assert!(fs::read(b.path(name)).unwrap() == expected, "{name} at B");
            b.wait_synced();
            until(name, || match fs::read(a.path(name)) {
                Ok(bytes) if bytes == expected => Ok(()),
                other => Err(format!("{:?}", other.map(|bytes| bytes.len()))),
            });
        }
        run(Command::new("truncate").args(["-s", "123"]).arg(a.path("shorter"))).good();
        assert!(fs::read(a.path("shorter")).unwrap() == original[..123]);
        fails(rustix::fs::ftruncate(File::open(a.path("longer")).unwrap(), 1), libc::EINVAL);
        // Written far beyond the end: zeros between.
        let sparse = File::create(a.path("sparse")).unwrap();
        sparse.write_all_at(b"end", 3_000_000).unwrap();
        drop(sparse);
        let content = fs::read(a.path("sparse")).unwrap();
        assert!(content.len() == 3_000_003 && content[..3_000_000].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn renames_replace_exchange_and_refuse() {
    on_two_devices(|a, _| {
        let path = |name: &str| a.path(name);
        let read = |name: &str| fs::read_to_string(path(name)).unwrap();
        for name in ["one", "two", "three"] {
            fs::write(path(name), name).unwrap();
        }
        for dir in ["dir", "dir/inner", "full", "empty", "other"] {
            fs::create_dir(path(dir)).unwrap();
        }
        fs::write(path("dir/inner/deep"), "deep").unwrap();
        fs::write(path("full/file"), "full").unwrap();

        fs::rename(path("one"), path("two")).unwrap();
        assert_eq!(read("two"), "one", "replaced");
        fails(fs::metadata(path("one")), libc::ENOENT);
        fails(rename(&path("two"), &path("three"), RenameFlags::NOREPLACE), libc::EEXIST);
        rename(&path("two"), &path("one"), RenameFlags::NOREPLACE).unwrap();
        rename(&path("one"), &path("three"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!((read("one"), read("three")), ("three".into(), "one".into()));
        rename(&path("one"), &path("dir"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!((read("dir"), read("one/inner/deep")), ("three".into(), "deep".into()), "a file and a directory");
        rename(&path("one"), &path("full"), RenameFlags::EXCHANGE).unwrap();
        assert_eq!((read("one/file"), read("full/inner/deep")), ("full".into(), "deep".into()), "two directories");
        fails(rename(&path("one"), &path("none"), RenameFlags::EXCHANGE), libc::ENOENT);

        fails(fs::rename(path("one"), path("full")), libc::ENOTEMPTY);
        fails(fs::rename(path("dir"), path("full")), libc::EISDIR);
        fails(fs::rename(path("full"), path("dir")), libc::ENOTDIR);
        fails(fs::rename(path("full"), path("full/inner/into")), libc::EINVAL);
        fails(fs::rename(path("none"), path("x")), libc::ENOENT);
        fs::rename(path("full"), path("empty")).unwrap();
        assert_eq!(read("empty/inner/deep"), "deep", "over an empty directory");
        fs::rename(path("empty/inner"), path("other/moved")).unwrap();
        assert_eq!(read("other/moved/deep"), "deep", "into another directory");
        fs::rename(path("dir"), path("dir")).unwrap();
        assert_eq!(read("dir"), "three", "onto itself");
    });
}

#[test]
fn a_file_that_is_removed_while_open_goes_on_for_who_has_it() {
    let mut dice = Dice::new("a_file_that_is_removed_while_open");
    on_two_devices(|a, b| {
        let content = bytes(&mut dice, 2_000_000);
        fs::write(a.path("synced"), &content).unwrap();
        a.wait_synced();
        until("the file at B", || fs::metadata(b.path("synced")).map_err(|error| error.to_string()));
        // One whose bytes are here, one whose bytes are not, and a new one.
        let open = |device: &Device, name: &str| {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(device.path(name)).unwrap()
        };
        // Before the first is removed: its removal would let the second make a new one.
        let opened =
            [(a, "synced"), (b, "synced"), (a, "new")].map(|(device, name)| (device, name, open(device, name)));
        for (device, name, mut file) in opened {
            if name == "new" {
                file.write_all(&content).unwrap();
            }
            match fs::remove_file(device.path(name)) {
                // A has removed it already.
                Err(error) if error.kind() == io::ErrorKind::NotFound && device.name == "B" => {}
                result => result.unwrap(),
            }
            fails(fs::metadata(device.path(name)), libc::ENOENT);
            // One that A has removed is gone at B as soon as the kernel there is told.
            until("no name left", || match file.metadata().unwrap().nlink() {
                0 => Ok(()),
                left => Err(format!("{name} at {} has {left} names", device.name)),
            });
            file.write_all_at(b"still written", 1_000_000).unwrap();
            file.seek(SeekFrom::Start(0)).unwrap();
            let mut read = Vec::new();
            file.read_to_end(&mut read).unwrap();
            let mut expected = content.clone();
            expected[1_000_000..][..13].copy_from_slice(b"still written");
            let differs = (0..expected.len()).find(|at| read.get(*at) != expected.get(*at));
            assert!(read == expected, "{name} at {}: {} bytes, from {differs:?}", device.name, read.len());
            file.set_permissions(Permissions::from_mode(0o600)).unwrap();
            assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o600);
            drop(file);
            fails(fs::metadata(device.path(name)), libc::ENOENT);
        }
        // The same by a rename over it.
        fs::write(a.path("old"), "old").unwrap();
        fs::write(a.path("new"), "new").unwrap();
        let mut open = File::open(a.path("old")).unwrap();
        fs::rename(a.path("new"), a.path("old")).unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), fs::read_to_string(a.path("old")).unwrap().as_str()), ("old", "new"));
    });
}

#[test]
fn directories_are_made_listed_and_removed() {
    on_two_devices(|a, b| {
        fs::create_dir_all(a.path("a/b/c")).unwrap();
        fails(fs::create_dir(a.path("a")), libc::EEXIST);
        fails(fs::create_dir(a.path("none/x")), libc::ENOENT);
        fails(fs::remove_dir(a.path("a")), libc::ENOTEMPTY);
        fails(fs::remove_file(a.path("a")), libc::EISDIR);
        fs::write(a.path("file"), "").unwrap();
        fails(fs::remove_dir(a.path("file")), libc::ENOTDIR);
        fails(fs::create_dir(a.path("file/x")), libc::ENOTDIR);
        fs::remove_dir(a.path("a/b/c")).unwrap();
        fails(fs::remove_dir(a.path("a/b/c")), libc::ENOENT);

        let many = a.path("many");
        fs::create_dir(&many).unwrap();
        let names: Vec<String> = (0..5000).map(|number| format!("entry {number:04} of a directory")).collect();
        for name in &names {
            File::create(many.join(name)).unwrap();
        }
        let listed = |dir: &Path| {
            let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut entries: Vec<String> = entries.collect();
            entries.sort();
            entries
        };
        assert!(listed(&many) == names);
        a.wait_synced();
        until("5,000 entries at B", || match fs::read_dir(b.path("many")).map(Iterator::count) {
            Ok(5000) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        assert!(listed(&b.path("many")) == names);
        // Removed while it is listed: nothing is listed twice, and in the end it is empty.
        let mut seen = Vec::new();
        for entry in fs::read_dir(&many).unwrap() {
            let path = entry.unwrap().path();
            fs::remove_file(&path).unwrap();
            seen.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
        seen.sort();
        assert!(seen == names);
        fs::remove_dir(&many).unwrap();
    });
}

#[test]
fn modes_times_and_owners() {
    on_two_devices(|a, b| {
        let made = "umask 027; mkdir dir; : > file; umask 000; mkdir open; : > all; mkdir -m 1777 sticky";
        run(Command::new("sh").args(["-ec", made]).current_dir(&a.folder)).good();
        let modes = [("dir", 0o750), ("file", 0o640), ("open", 0o777), ("all", 0o666), ("sticky", 0o1777)];
        let mode = |path: &Path| fs::metadata(path).map(|metadata| metadata.mode() & 0o7777);
        for (name, expected) in modes {
            assert_eq!(mode(&a.path(name)).unwrap(), expected, "{name}");
        }
        fs::set_permissions(a.path("file"), Permissions::from_mode(0o4751)).unwrap();
        assert_eq!(mode(&a.path("file")).unwrap(), 0o4751);
        fs::set_permissions(a.path("all"), Permissions::from_mode(0o400)).unwrap();

        assert!(access(a.path("file"), Access::EXEC_OK).is_ok());
        fails(access(a.path("all"), Access::EXEC_OK), libc::EACCES);
        assert!(access(a.path("all"), Access::READ_OK | Access::EXISTS).is_ok());
        fails(access(a.path("none"), Access::EXISTS), libc::ENOENT);

        symlink("file", a.path("link")).unwrap();
        for (name, seconds, nanos) in
            [("file", 1_234_567_890, 123_456_789), ("dir", 1, 1), ("link", -5, 999_999_999), ("all", 4_000_000_000, 7)]
        {
            set_mtime(&a.path(name), seconds, nanos).unwrap();
            let found = fs::symlink_metadata(a.path(name)).unwrap();
            assert_eq!((found.mtime(), found.mtime_nsec()), (seconds, nanos), "{name}");
        }
        let before = std::time::SystemTime::now();
        run(Command::new("touch").arg(a.path("open"))).good();
        let touched = fs::metadata(a.path("open")).unwrap().modified().unwrap();
        assert!(touched + std::time::Duration::from_secs(1) > before, "{touched:?}, {before:?}");
        // Writing sets it, also after it was set to something else.
        fs::write(a.path("file"), "now").unwrap();
        assert!(fs::metadata(a.path("file")).unwrap().modified().unwrap() + std::time::Duration::from_secs(1) > before);

        let own = fs::metadata(a.path("file")).unwrap();
        chown(a.path("file"), Some(own.uid()), Some(own.gid())).unwrap();

        a.wait_synced();
        until("the times at B", || {
            match fs::symlink_metadata(b.path("link")).map(|found| (found.mtime(), found.mtime_nsec())) {
                Ok((-5, 999_999_999)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
    });
}

#[test]
fn links_and_what_cannot_be_shared() {
    on_two_devices(|a, b| {
        fs::write(a.path("file"), "content").unwrap();
        let long = "x/".repeat(2000) + "end";
        for (name, target) in [("link", "file"), ("dangling", "../no/where"), ("long", &long), ("umlaut", "Größe\n")]
        {
            symlink(target, a.path(name)).unwrap();
            assert_eq!(fs::read_link(a.path(name)).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_to_string(a.path("link")).unwrap(), "content");
        fails(fs::metadata(a.path("dangling")), libc::ENOENT);
        fails(fs::read_link(a.path("file")), libc::EINVAL);
        fails(symlink("x", a.path("file")), libc::EEXIST);
        let node = rustix::fs::mknodat(CWD, a.path("device"), FileType::CharacterDevice, Mode::RWXU, 0);
        fails(node, libc::EPERM);
        rustix::fs::mknodat(CWD, a.path("plain"), FileType::RegularFile, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(fs::metadata(a.path("plain")).unwrap().mode(), libc::S_IFREG | 0o600);
        a.wait_synced();
        until("the link at B", || fs::read_to_string(b.path("link")).map_err(|error| error.to_string()));
        assert_eq!(Tree::read_names(&a.folder).unwrap().len(), 6);
    });
}

#[test]
fn names_have_255_bytes_and_no_more() {
    on_two_devices(|a, _| {
        let (fits, long) = ("ü".repeat(127) + "x", "x".repeat(256));
        fs::write(a.path(&fits), "fits").unwrap();
        fs::rename(a.path(&fits), a.path("y".repeat(255))).unwrap();
        fails(File::create(a.path(&long)), libc::ENAMETOOLONG);
        fails(fs::create_dir(a.path(&long)), libc::ENAMETOOLONG);
        fails(symlink("x", a.path(&long)), libc::ENAMETOOLONG);
        fails(fs::metadata(a.path(&long)), libc::ENAMETOOLONG);
        fails(fs::rename(a.path("y".repeat(255)), a.path(&long)), libc::ENAMETOOLONG);
        fails(fs::remove_file(a.path(&long)), libc::ENAMETOOLONG);
        assert_eq!(Tree::read_names(&a.folder).unwrap().len(), 1);
        let space = statvfs(&a.folder).unwrap();
        assert_eq!(space.f_namemax, 255);
        assert!(space.f_blocks > 0 && space.f_bavail > 0 && space.f_bavail <= space.f_blocks && space.f_files > 0);
    });
}

#[test]
fn what_is_synced_or_mapped_is_there() {
    let mut dice = Dice::new("what_is_synced_or_mapped");
    on_two_devices(|a, b| {
        let content = bytes(&mut dice, 3_000_001);
        let file = File::create(a.path("mapped")).unwrap();
        file.write_all_at(&content, 0).unwrap();
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        File::open(&a.folder).unwrap().sync_all().unwrap();
        drop(file);
        assert!(mapped(&a.path("mapped")) == content, "where it was written");
        a.wait_synced();
        until("the file at B", || fs::metadata(b.path("mapped")).map_err(|error| error.to_string()));
        assert!(mapped(&b.path("mapped")) == content, "where it must be fetched");
        // An advisory lock is among the programs of one machine.
        let (one, two) = (File::open(a.path("mapped")).unwrap(), File::open(a.path("mapped")).unwrap());
        one.lock().unwrap();
        assert!(matches!(two.try_lock(), Err(fs::TryLockError::WouldBlock)));
        one.unlock().unwrap();
        two.try_lock().unwrap();
    });
}

/// The bytes of a file, read through a mapping of it.
fn mapped(path: &Path) -> Vec<u8> {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len() as usize;
    // SAFETY: a new private mapping of a whole file that is open, at an address that the kernel chooses.
    let address =
        unsafe { libc::mmap(std::ptr::null_mut(), len, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    assert_ne!(address, libc::MAP_FAILED, "{}", io::Error::last_os_error());
    // SAFETY: the mapping has `len` readable bytes, and no one changes the file meanwhile.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), len) }.to_vec();
    // SAFETY: the mapping made above, whole, which nothing refers to any more.
    assert_eq!(unsafe { libc::munmap(address, len) }, 0);
    bytes
}

#[test]
fn a_file_that_is_not_there_is_found_as_soon_as_the_other_device_has_made_it() {
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    for round in 0..10 {
        let name = format!("file {round}");
        assert!(fs::metadata(b.path(&name)).is_err(), "asked for, so that the kernel remembers that there is none");
        fs::write(a.path(&name), &name).unwrap();
        until("the file at B", || match fs::read_to_string(b.path(&name)) {
            Ok(text) if text == name => Ok(()),
            other => Err(format!("{other:?}")),
        });
        fs::rename(a.path(&name), a.path("moved")).unwrap();
        until("its new name at B", || match (fs::metadata(b.path(&name)), fs::read_to_string(b.path("moved"))) {
            (Err(_), Ok(text)) if text == name => Ok(()),
            other => Err(format!("{other:?}")),
        });
        fs::remove_file(b.path("moved")).unwrap();
        until("its end at A", || fs::metadata(a.path("moved")).err().map(|_| ()).ok_or("still there".into()));
    }
    assert!(rustix::fs::statat(CWD, a.path("file 0"), AtFlags::empty()).is_err());
}

#[test]
fn locks_hold_among_the_programs_of_a_machine() {
    use std::fs::TryLockError;
    on_two_devices(|a, _| {
        fs::write(a.path("file"), "content").unwrap();
        let (first, second) = (File::open(a.path("file")).unwrap(), File::open(a.path("file")).unwrap());
        first.lock().unwrap();
        assert!(matches!(second.try_lock(), Err(TryLockError::WouldBlock)));
        first.unlock().unwrap();
        second.try_lock().unwrap();
        // Byte ranges, as databases use them.
        let (first, second) = [0, 1].map(|_| File::options().write(true).open(a.path("file")).unwrap()).into();
        let lock = |file: &File, kind: i32| {
            // SAFETY: zeros are a valid `flock`.
            let mut range: libc::flock = unsafe { std::mem::zeroed() };
            (range.l_type, range.l_len) = (kind as i16, 4);
            // SAFETY: the descriptor is open and the pointer is to a `flock`.
            let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &range) };
            if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        lock(&first, libc::F_WRLCK).unwrap();
        fails(lock(&second, libc::F_WRLCK), libc::EAGAIN);
        lock(&first, libc::F_UNLCK).unwrap();
        lock(&second, libc::F_WRLCK).unwrap();
    });
}

#[test]
fn what_is_not_kept_is_refused() {
    on_two_devices(|a, _| {
        fs::write(a.path("file"), "content").unwrap();
        let file = OpenOptions::new().write(true).open(a.path("file")).unwrap();
        fails(rustix::fs::ioctl_getflags(&file), libc::ENOTTY);
        fails(rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::IMMUTABLE), libc::ENOTTY);
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            let acl = [2, 0, 0, 0];
            let set = rustix::fs::setxattr(&a.folder, name, &acl, rustix::fs::XattrFlags::empty());
            fails(set, libc::EOPNOTSUPP);
        }
        let found = fs::metadata(a.path("file")).unwrap();
        assert_eq!((found.atime(), found.atime_nsec()), (found.mtime(), found.mtime_nsec()));
        let times = fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(5));
        file.set_times(times).unwrap();
        let set = fs::metadata(a.path("file")).unwrap();
        assert_eq!((set.atime(), set.atime_nsec()), (0, 5), "until the mount ends");
        assert_eq!((set.mtime(), set.mtime_nsec()), (found.mtime(), found.mtime_nsec()));
    });
}

#[test]
fn inotify_hears_this_machine_and_nothing_of_other_devices() {
    on_two_devices(|a, b| {
        fs::write(b.path("known"), "before").unwrap();
        b.wait_synced();
        until("the file at A", || fs::read(a.path("known")).map_err(|error| error.to_string()));
        let all = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::MODIFY
            | inotify::WatchFlags::MOVE
            | inotify::WatchFlags::CLOSE_WRITE;
        let ear = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
        inotify::add_watch(&ear, &b.folder, all).unwrap();
        fs::write(a.path("new"), "by A").unwrap();
        fs::write(a.path("known"), "by A, longer").unwrap();
        fs::rename(a.path("new"), a.path("renamed")).unwrap();
        until("what A did", || match (fs::read_to_string(b.path("known")), fs::metadata(b.path("renamed"))) {
            (Ok(text), Ok(_)) if text == "by A, longer" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        fs::write(b.path("own"), "by B").unwrap();
        let mut room = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&ear, &mut room);
        let mut heard = BTreeSet::new();
        while let Ok(event) = events.next() {
            heard.insert(event.file_name().unwrap().to_str().unwrap().to_owned());
        }
        assert_eq!(heard, BTreeSet::from(["own".to_owned()]));
    });
}

#[test]
fn inode_numbers_stay_over_a_remount() {
    let world = World::new();
    let a = world.mount("A");
    fs::create_dir(a.path("dir")).unwrap();
    fs::write(a.path("dir/file"), "content").unwrap();
    symlink("file", a.path("dir/link")).unwrap();
    let numbers = || ["dir", "dir/file", "dir/link"].map(|name| fs::symlink_metadata(a.path(name)).unwrap().ino());
    let before = numbers();
    a.wait_synced();
    a.fusermount_u();
    a.mount();
    assert_eq!(numbers(), before);
}

#[test]
fn a_reader_of_a_file_that_is_cut_shorter_sees_less_and_no_error() {
    on_two_devices(|a, _| {
        let path = a.path("file");
        fs::write(&path, vec![7; 400_000]).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                // Past the kernel's cache.
                let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(&path).unwrap();
                let mut buf = vec![0; 400_000];
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    let len = file.read_at(&mut buf, 0).unwrap();
                    assert!(buf[..len].iter().all(|byte| matches!(byte, 0 | 7)));
                    reads += 1;
                }
                reads
            });
            let file = OpenOptions::new().write(true).open(&path).unwrap();
            for round in 0..1500 {
                file.set_len(round % 7 * 10_000).unwrap();
                file.write_all_at(&[7; 70_000], 0).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(reader.join().unwrap() > 10);
        });
    });
}

#[test]
fn what_is_written_to_a_removed_file_ends_with_the_last_one_who_has_it_open() {
    let world = World::new();
    let cache = world.path("cache of A");
    let a = world.mount_with("A", &["--cache-dir".as_ref(), cache.as_os_str()]);
    fs::write(a.path("file"), "as it was").unwrap();
    a.wait_synced();
    let staged = || fs::read_dir(cache.join("staging")).unwrap().count();
    until("the file's bytes in the cache", || if staged() == 0 { Ok(()) } else { Err("still staged".into()) });
    let file = OpenOptions::new().read(true).write(true).open(a.path("file")).unwrap();
    fs::remove_file(a.path("file")).unwrap();
    file.write_all_at(b"AS", 0).unwrap();
    let mut text = [0; 9];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"AS it was");
    assert_eq!(staged(), 0, "no name that the next start would find without a file");
    drop(file);
    a.wait_synced();
    assert!(fs::metadata(a.path("file")).is_err());
}
