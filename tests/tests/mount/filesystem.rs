//! What else a program may ask of a filesystem: links, extended attributes, holes, copies, modes, times of directories.

use rustix::fs::{
    CWD, FallocateFlags, Mode, OFlags, RenameFlags, SeekFrom, XattrFlags, copy_file_range, fallocate, getxattr,
    listxattr, openat, removexattr, renameat_with, seek, setxattr, statvfs,
};
use rustix::io::Errno;
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;
use syncmount_tests::support::*;

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

fn both(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

fn links(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().nlink()
}

fn value(path: &Path, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut buf = vec![0; 100_000];
    let len = getxattr(path, name, &mut buf[..])?;
    buf.truncate(len);
    Ok(buf)
}

fn names(path: &Path) -> BTreeSet<String> {
    let mut buf = vec![0; 10_000];
    let len = listxattr(path, &mut buf[..]).unwrap();
    let names = buf[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_file_may_have_several_names() {
    on_two_devices(|a, b| {
        fs::create_dir(a.path("dir")).unwrap();
        fs::write(a.path("one"), "first").unwrap();
        fs::hard_link(a.path("one"), a.path("two")).unwrap();
        fs::hard_link(a.path("one"), a.path("dir/three")).unwrap();
        symlink("one", a.path("link")).unwrap();
        fs::hard_link(a.path("link"), a.path("same link")).unwrap();
        let ino = fs::metadata(a.path("one")).unwrap().ino();
        assert_eq!((fs::metadata(a.path("dir/three")).unwrap().ino(), links(&a.path("two"))), (ino, 3));
        let refused = fs::hard_link(a.path("dir"), a.path("dir 2")).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert_eq!(fs::hard_link(a.path("one"), a.path("two")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
        a.wait_synced();
        until("all names at B", || match fs::metadata(b.path("dir/three")) {
            Ok(found) if found.nlink() == 3 && found.ino() == fs::metadata(b.path("two")).unwrap().ino() => Ok(()),
            other => Err(format!("{:?}", other.map(|found| found.nlink()))),
        });
        // Bytes and mode belong to the file, whatever the name.
        let before = fs::metadata(a.path("one")).unwrap();
        fs::write(b.path("two"), "second").unwrap();
        fs::set_permissions(b.path("dir/three"), Permissions::from_mode(0o600)).unwrap();
        b.wait_synced();
        until("the bytes at A", || match fs::read_to_string(a.path("one")).unwrap().as_str() {
            "second" => Ok(()),
            other => Err(other.to_owned()),
        });
        until("the mode at A", || match fs::metadata(a.path("one")).unwrap().mode() & 0o777 {
            0o600 => Ok(()),
            other => Err(format!("{other:o}")),
        });
        // A name goes, the others stay; the rename of one name over another of the same file does nothing.
        fs::rename(a.path("one"), a.path("two")).unwrap();
        assert_eq!(links(&a.path("one")), 3);
        fs::remove_file(a.path("one")).unwrap();
        fs::remove_file(a.path("dir/three")).unwrap();
        fs::remove_dir(a.path("dir")).unwrap();
        let after = fs::metadata(a.path("two")).unwrap();
        assert_eq!((after.nlink(), after.ino()), (1, ino));
        assert!((after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()));
        a.wait_synced();
        until("one name at B", || match fs::metadata(b.path("two")).unwrap().nlink() {
            1 => Ok(()),
            other => Err(format!("{other}")),
        });
        assert!(fs::metadata(b.path("one")).is_err() && fs::metadata(b.path("dir")).is_err());
    });
}

#[test]
fn links_survive_a_remount() {
    let world = World::new();
    let a = world.mount("A");
    fs::write(a.path("one"), "content").unwrap();
    fs::hard_link(a.path("one"), a.path("two")).unwrap();
    setxattr(a.path("one"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    let ino = fs::metadata(a.path("one")).unwrap().ino();
    a.fusermount_u();
    a.mount();
    let found = fs::metadata(a.path("two")).unwrap();
    assert_eq!((found.ino(), found.nlink()), (ino, 2));
    assert_eq!(value(&a.path("two"), "user.note").unwrap(), b"kept");
}

#[test]
fn extended_attributes_travel() {
    on_two_devices(|a, b| {
        let (file, none) = (a.path("file"), XattrFlags::empty());
        fs::write(&file, "content").unwrap();
        fs::create_dir(a.path("dir")).unwrap();
        setxattr(&file, "user.note", b"value\0\xff", none).unwrap();
        setxattr(&file, "user.empty", b"", none).unwrap();
        setxattr(a.path("dir"), "user.of a directory", b"too", none).unwrap();
        assert_eq!(setxattr(&file, "user.note", b"x", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(setxattr(&file, "user.other", b"x", XattrFlags::REPLACE), Err(Errno::NODATA));
        assert_eq!(removexattr(&file, "user.other"), Err(Errno::NODATA));
        assert_eq!(value(&file, "user.other"), Err(Errno::NODATA));
        assert_eq!(getxattr(&file, "user.note", &mut [0; 3][..]), Err(Errno::RANGE));
        assert_eq!(value(&file, "user.note").unwrap(), b"value\0\xff");
        assert_eq!(names(&file), ["user.empty", "user.note"].map(str::to_owned).into());
        for name in ["security.selinux", "trusted.x"] {
            assert_eq!(setxattr(&file, name, b"x", none), Err(Errno::OPNOTSUPP), "{name}");
        }
        // Bounds: as long as Linux lets a value be, and twice that for a file.
        setxattr(&file, "user.long", &[7; 65_536], none).unwrap();
        assert_eq!(setxattr(&file, "user.too", &[7; 65_536], none), Err(Errno::NOSPC));
        assert_eq!(setxattr(&file, "user.too", &[7; 65_537], none), Err(Errno::TOOBIG));
        let long = format!("user.{}", "n".repeat(250));
        setxattr(&file, &*long, b"x", none).unwrap();
        assert_eq!(setxattr(&file, format!("{long}n"), b"x", none), Err(Errno::RANGE));
        a.wait_synced();
        until("the attributes at B", || match names(&b.path("file")).len() {
            4 => Ok(()),
            other => Err(format!("{other}")),
        });
        assert_eq!(value(&b.path("file"), "user.note").unwrap(), b"value\0\xff");
        assert_eq!(value(&b.path("file"), "user.long").unwrap(), [7; 65_536]);
        assert_eq!(value(&b.path("dir"), "user.of a directory").unwrap(), b"too");
        removexattr(b.path("file"), "user.long").unwrap();
        fs::write(b.path("file"), "other bytes").unwrap();
        b.wait_synced();
        until("the removal at A", || match value(&file, "user.long") {
            Err(Errno::NODATA) => Ok(()),
            other => Err(format!("{:?}", other.map(|value| value.len()))),
        });
        assert_eq!(names(&file).len(), 3);
    });
}

#[test]
fn a_file_tells_how_it_stands() {
    let world = World::new();
    let a = world.mount("A");
    let state = |device: &Device, name: &str| {
        value(&device.path(name), "user.syncmount.state").map(|value| String::from_utf8(value).unwrap())
    };
    let becomes = |device: &Device, name: &str, wanted: &str| {
        until("the state", || match state(device, name) {
            Ok(found) if found == wanted => Ok(()),
            other => Err(format!("{other:?}, not {wanted}")),
        });
    };
    let content = bytes(&mut Dice::new("a_file_tells_how_it_stands"), 9_000_000);
    fs::write(a.path("file"), &content).unwrap();
    a.wait_synced();
    becomes(&a, "file", "cached");
    let b = world.mount("B");
    assert_eq!(state(&b, "file").unwrap(), "remote");
    let hash = |device: &Device| value(&device.path("file"), "user.syncmount.sha256");
    assert_eq!(hash(&b), Err(Errno::NODATA), "no byte of it is here: nothing proves it");
    let mut begin = [0; 10];
    File::open(b.path("file")).unwrap().read_exact_at(&mut begin, 0).unwrap();
    assert_eq!(state(&b, "file").unwrap(), "partial");
    assert!(fs::read(b.path("file")).unwrap() == content);
    becomes(&b, "file", "cached");
    let expected = sha256(&a.path("file")).unwrap();
    for device in [&a, &b] {
        until("the hash", || match hash(device) {
            Ok(found) if found == expected.as_bytes() => Ok(()),
            other => Err(format!("{other:?}, not {expected}")),
        });
    }
    world.while_offline(|| {
        fs::write(b.path("file"), "here").unwrap();
        assert_eq!(state(&b, "file").unwrap(), "pending");
        fs::write(a.path("file"), "there").unwrap();
    });
    let copy = until("a conflict copy", || {
        let entries = fs::read_dir(&b.folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.into_iter().find(|name| name.contains("(conflict, ")).ok_or("none yet".to_owned())
    });
    becomes(&b, &copy, "conflict");
    // Told, not kept: not listed, so that no copy takes it along, and not to be set.
    assert!(names(&b.path("file")).is_empty());
    let refused = setxattr(b.path("file"), "user.syncmount.state", b"cached", XattrFlags::empty());
    assert_eq!(refused, Err(Errno::PERM));
}

#[test]
fn room_holes_and_zeros() {
    on_two_devices(|a, b| {
        let path = a.path("file");
        let file = both(&path);
        let size = || fs::metadata(&path).unwrap().len();
        fallocate(&file, FallocateFlags::empty(), 0, 100_000).unwrap();
        assert_eq!(size(), 100_000);
        fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1_000_000).unwrap();
        assert_eq!(size(), 100_000);
        file.write_all_at(&[1; 600_000], 0).unwrap();
        drop(file);
        a.wait_synced();
        let mut wanted = vec![1; 600_000];
        let file = both(&path);
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&file, hole, 100_000, 300_000).unwrap();
        wanted[100_000..400_000].fill(0);
        fallocate(&file, FallocateFlags::ZERO_RANGE, 590_000, 20_000).unwrap();
        wanted[590_000..].fill(0);
        wanted.resize(610_000, 0);
        fallocate(&file, hole, 600_000, 1_000_000).unwrap();
        for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
            assert_eq!(fallocate(&file, mode, 4096, 4096), Err(Errno::OPNOTSUPP));
        }
        assert!(fs::read(&path).unwrap() == wanted);
        drop(file);
        a.wait_synced();
        until(
            "the bytes at B",
            || if fs::read(b.path("file")).unwrap() == wanted { Ok(()) } else { Err("old".into()) },
        );
    });
}

#[test]
fn data_and_holes_are_found_and_a_sparse_terabyte_is_small() {
    on_two_devices(|a, b| {
        const TIB: u64 = 1 << 40;
        let (path, far) = (a.path("sparse"), TIB / 2);
        let file = both(&path);
        file.set_len(TIB).unwrap();
        file.write_all_at(b"in the middle", far).unwrap();
        assert_eq!(seek(&file, SeekFrom::Data(0)).unwrap(), far);
        assert_eq!(seek(&file, SeekFrom::Hole(0)).unwrap(), 0);
        assert!(seek(&file, SeekFrom::Hole(far)).unwrap() < far + 100_000);
        assert_eq!(seek(&file, SeekFrom::Data(TIB)), Err(Errno::NXIO));
        assert!(file.metadata().unwrap().blocks() < 4096, "while it is open");
        drop(file);
        assert!(fs::metadata(&path).unwrap().blocks() < 4096, "where it was written");
        a.wait_synced();
        let there = until("the file at B", || match File::open(b.path("sparse")) {
            Ok(file) if file.metadata().unwrap().len() == TIB => Ok(file),
            other => Err(format!("{other:?}")),
        });
        let data = seek(&there, SeekFrom::Data(0)).unwrap();
        assert!(data <= far && far - data < 1 << 20, "{data}");
        assert_eq!(seek(&there, SeekFrom::Hole(0)).unwrap(), 0);
        let mut text = [0; 13];
        there.read_exact_at(&mut text, far).unwrap();
        assert_eq!(&text, b"in the middle");
        assert!(fs::metadata(b.path("sparse")).unwrap().blocks() < 4096);
        assert!(fs::metadata(&path).unwrap().blocks() < 4096, "when it is sent");
        // Comparing the trees byte by byte would read a terabyte of zeros.
        drop(there);
        fs::remove_file(&path).unwrap();
    });
}

#[test]
fn copies_share_their_content() {
    on_two_devices(|a, _| {
        let content = bytes(&mut Dice::new("copies_share_their_content"), 5_000_000);
        fs::write(a.path("from"), &content).unwrap();
        a.wait_synced();
        until("its bytes in the cache", || match value(&a.path("from"), "user.syncmount.state").unwrap().as_slice() {
            b"cached" => Ok(()),
            other => Err(String::from_utf8_lossy(other).into_owned()),
        });
        let sent = a.status().bytes_sent;
        let (from, to) = (File::open(a.path("from")).unwrap(), both(&a.path("to")));
        let mut done = 0;
        while done < content.len() {
            let (mut at_from, mut at_to) = (done as u64, done as u64);
            let copied = copy_file_range(&from, Some(&mut at_from), &to, Some(&mut at_to), 3_000_000).unwrap();
            assert!(copied > 0);
            done += copied;
        }
        drop(to);
        assert!(fs::read(a.path("to")).unwrap() == content);
        // In the middle of others bytes are copied.
        let part = both(&a.path("part"));
        part.write_all_at(b"begin", 0).unwrap();
        let (mut at_from, mut at_to) = (1_000_000, 5);
        let copied = copy_file_range(&from, Some(&mut at_from), &part, Some(&mut at_to), 10).unwrap();
        assert_eq!(
            (copied, fs::read(a.path("part")).unwrap()),
            (10, [b"begin", &content[1_000_000..1_000_010]].concat())
        );
        drop(part);
        a.wait_synced();
        assert!(a.status().bytes_sent - sent < 100_000, "a copy sends no bytes");
    });
}

#[test]
fn modes_are_inherited_and_cleared() {
    on_two_devices(|a, _| {
        let mode = |name: &str| fs::metadata(a.path(name)).unwrap().mode() & 0o7777;
        fs::create_dir(a.path("dir")).unwrap();
        fs::set_permissions(a.path("dir"), Permissions::from_mode(0o2755)).unwrap();
        fs::create_dir(a.path("dir/below")).unwrap();
        fs::write(a.path("dir/file"), "").unwrap();
        assert_eq!((mode("dir/below") & 0o2000, mode("dir/file") & 0o2000), (0o2000, 0));
        // A change of owner takes the bits away, also one that changes nothing.
        fs::set_permissions(a.path("dir/file"), Permissions::from_mode(0o6755)).unwrap();
        let own = fs::metadata(a.path("dir/file")).unwrap();
        std::os::unix::fs::chown(a.path("dir/file"), Some(own.uid()), Some(own.gid())).unwrap();
        assert_eq!(mode("dir/file"), 0o755);
    });
}

#[test]
fn directories_count_and_date_their_entries() {
    on_two_devices(|a, b| {
        fs::create_dir(a.path("dir")).unwrap();
        assert_eq!(links(&a.path("dir")), 2);
        let times = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            ((found.mtime(), found.mtime_nsec()), (found.ctime(), found.ctime_nsec()))
        };
        let mut before = times(&a.path("dir"));
        let mut moved_on = |what: &str| {
            let now = times(&a.path("dir"));
            assert!(now.0 > before.0 && now.1 > before.1, "{what}: {before:?} {now:?}");
            before = now;
        };
        fs::create_dir(a.path("dir/one")).unwrap();
        moved_on("mkdir");
        fs::create_dir(a.path("dir/two")).unwrap();
        moved_on("mkdir");
        fs::write(a.path("dir/file"), "").unwrap();
        moved_on("create");
        fs::hard_link(a.path("dir/file"), a.path("dir/link")).unwrap();
        moved_on("link");
        fs::rename(a.path("dir/link"), a.path("dir/renamed")).unwrap();
        moved_on("rename");
        fs::remove_file(a.path("dir/renamed")).unwrap();
        moved_on("unlink");
        assert_eq!(links(&a.path("dir")), 4);
        fs::rename(a.path("dir/one"), a.path("one")).unwrap();
        moved_on("rename out");
        fs::remove_dir(a.path("dir/two")).unwrap();
        moved_on("rmdir");
        assert_eq!((links(&a.path("dir")), links(&a.folder)), (2, 4));
        a.wait_synced();
        until("the directories at B", || match fs::metadata(b.path("one")) {
            Ok(_) if links(&b.folder) == 4 => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let dots: BTreeSet<u64> =
            [".", "..", "../one/.."].map(|name| fs::metadata(a.path("one").join(name)).unwrap().ino()).into();
        assert_eq!(dots.len(), 2);
    });
}

#[test]
fn what_is_not_there_is_refused_so_that_programs_do_without() {
    on_two_devices(|a, _| {
        let nameless = openat(CWD, &a.folder, OFlags::TMPFILE | OFlags::RDWR, Mode::RUSR | Mode::WUSR);
        assert_eq!(nameless.map(drop), Err(Errno::OPNOTSUPP), "programs then make a file with a name");
        fs::write(a.path("file"), "content").unwrap();
        let whiteout = renameat_with(CWD, a.path("file"), CWD, a.path("other"), RenameFlags::WHITEOUT);
        assert_eq!(whiteout, Err(Errno::INVAL));
        let direct =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(a.path("file")).unwrap();
        direct.write_all_at(b"past the cache", 1).unwrap();
        assert_eq!(fs::read(a.path("file")).unwrap(), b"cpast the cache");
        symlink("t/".repeat(2047) + "x", a.path("longest")).unwrap();
        assert_eq!(fs::read_link(a.path("longest")).unwrap().as_os_str().len(), 4095);
        let space = statvfs(&a.folder).unwrap();
        let disk = statvfs(&a.home).unwrap();
        let (free, beneath) = (space.f_bavail * space.f_frsize, disk.f_bavail * disk.f_frsize);
        assert!(free < beneath && beneath - free < 2_000_000_000, "{free} {beneath}");
    });
}

#[test]
fn pipes_and_sockets_stay_on_this_machine() {
    use std::os::unix::fs::FileTypeExt;
    use std::os::unix::net::{UnixListener, UnixStream};
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount("B"));
    fs::create_dir(a.path("dir")).unwrap();
    rustix::fs::mkfifoat(CWD, a.path("pipe"), Mode::RUSR | Mode::WUSR).unwrap();
    let listener = UnixListener::bind(a.path("dir/socket")).unwrap();
    let mut kinds: Vec<bool> = Vec::new();
    for entry in fs::read_dir(a.path("dir")).unwrap() {
        kinds.push(entry.unwrap().file_type().unwrap().is_socket());
    }
    assert_eq!(kinds, [true]);
    std::thread::scope(|scope| {
        scope.spawn(|| fs::write(a.path("pipe"), "through a pipe").unwrap());
        assert_eq!(fs::read_to_string(a.path("pipe")).unwrap(), "through a pipe");
    });
    let _there = UnixStream::connect(a.path("dir/socket")).unwrap();
    drop(listener);
    fs::rename(a.path("pipe"), a.path("dir/renamed")).unwrap();
    fs::write(a.path("file"), "arrives").unwrap();
    a.wait_synced();
    until("the file at B", || fs::read(b.path("file")).map_err(|error| error.to_string()));
    assert_eq!(fs::read_dir(b.path("dir")).unwrap().count(), 0);
    a.fusermount_u();
    a.mount();
    assert!(fs::metadata(a.path("dir/renamed")).unwrap().file_type().is_fifo());
    fs::remove_file(a.path("dir/renamed")).unwrap();
    fs::remove_file(a.path("dir/socket")).unwrap();
    fs::remove_dir(a.path("dir")).unwrap();
    a.wait_synced();
    assert_eq!(a.status().problems, []);
}

#[test]
fn a_directory_can_be_listed_while_its_entries_come_and_go() {
    let world = World::new();
    let a = world.mount("A");
    let stay: BTreeSet<String> = (0..3000).map(|index| format!("stays {index:05}")).collect();
    stay.iter().for_each(|name| drop(File::create(a.path(name)).unwrap()));
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let name = a.path(format!("goes {}", round % 50));
                if fs::remove_file(&name).is_err() {
                    drop(File::create(&name).unwrap());
                }
                round += 1;
            }
        });
        for _ in 0..20 {
            let mut seen = BTreeSet::new();
            for entry in fs::read_dir(&a.folder).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                assert!(seen.insert(name.clone()), "{name} is there twice");
            }
            assert!(seen.is_superset(&stay), "{} missing", stay.difference(&seen).count());
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
