//! Files that the kernel reads by itself, past the program: whoever reads, maps or writes finds what it would find without.
//!
//! Each test is played with files passed through, for which it must be run as root, and again without.

use crate::cache_verify::cached_files;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use syncmount::verify_report::VerifyReport;
use syncmount_tests::support::*;

const LEN: usize = 1_000_000;

/// How files are read in a test.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum How {
    Passed,
    Here,
}

impl How {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Passed => &["--passthrough", "always"],
            Self::Here => &["--passthrough", "never"],
        }
    }

    fn both(mut test: impl FnMut(Self)) {
        test(Self::Passed);
        test(Self::Here);
    }

    /// Opens a file for reading that is clean and whole at `device`, in this way.
    fn open(self, device: &Device, name: &str) -> File {
        until("the file to be opened so", || {
            let before = device.status().passed_through;
            let file = File::open(device.path(name)).map_err(|error| error.to_string())?;
            // The first bytes may have to be fetched.
            let mut first = vec![0; 1 << 20];
            let _ = file.read_at(&mut first, 0).map_err(|error| error.to_string())?;
            let passed = device.status().passed_through > before;
            if passed == (self == Self::Passed) { Ok(file) } else { Err(format!("passed: {passed}")) }
        })
    }
}

/// A part of a file in memory.
struct Mapping(*mut u8, usize);

impl Mapping {
    fn new(file: &File, len: usize, writable: bool) -> Self {
        let access = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        // SAFETY: a new mapping at a place that the kernel chooses; the descriptor is open.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert_ne!(at, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        Self(at.cast(), len)
    }

    fn get(&self, at: usize) -> u8 {
        assert!(at < self.1);
        // SAFETY: inside of the mapping, and the file is not shorter where this is used. Others change it meanwhile.
        unsafe { self.0.add(at).read_volatile() }
    }

    fn set(&self, at: usize, byte: u8) {
        assert!(at < self.1);
        // SAFETY: as above.
        unsafe { self.0.add(at).write_volatile(byte) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length and nobody borrows from it.
        unsafe { libc::munmap(self.0.cast(), self.1) };
    }
}

fn read_all(file: &File) -> Vec<u8> {
    let mut found = vec![0; LEN * 3];
    let mut len = 0;
    loop {
        match file.read_at(&mut found[len..], len as u64).unwrap() {
            0 => break,
            got => len += got,
        }
    }
    found.truncate(len);
    found
}

#[track_caller]
fn assert_bytes(found: &[u8], expected: &[u8]) {
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert!(found == expected, "{} for {} bytes, the first that differs at {differs:?}", found.len(), expected.len());
}

/// One device with the file `file`, synced.
fn one(name: &str, how: How) -> (World, Device, Vec<u8>) {
    let world = World::new();
    let device = world.mount_with("A", how.options());
    let content = bytes(&mut Dice::new(name), LEN);
    fs::write(device.path("file"), &content).unwrap();
    device.wait_synced();
    (world, device, content)
}

/// Two devices with the same, also at the second.
fn two(name: &str, how: How) -> (World, Device, Device, Vec<u8>) {
    let (world, a, content) = one(name, how);
    let b = world.mount_with("B", how.options());
    await_bytes(&b.path("file"), &content);
    (world, a, b, content)
}

fn await_bytes(path: &Path, content: &[u8]) {
    until("the bytes", || match fs::read(path) {
        Ok(found) if found == content => Ok(()),
        other => Err(format!("{:?}", other.map(|found| found.len()))),
    });
}

/// The cache of a device has nothing that is damaged, and a new device gets what it shows.
fn assert_sound(world: &World, device: &Device, content: &[u8]) {
    device.wait_synced();
    await_bytes(&device.path("file"), content);
    let folder = device.folder.to_str().unwrap();
    let said = device.syncmount(&["cache", "verify", folder, "--json"]);
    let report: VerifyReport = serde_json::from_str(said.good()).unwrap();
    assert_eq!(report.damaged, 0, "{said:?}");
    let other = world.mount("another");
    await_bytes(&other.path("file"), content);
    assert_eq!(device.status().problems, []);
}

fn sh(script: &str, path: &Path) {
    run(Command::new("sh").args(["-ec", script, "sh"]).arg(path)).good();
}

#[test]
fn who_reads_and_who_has_it_mapped_see_every_byte_that_is_written_beside() {
    How::both(|how| {
        let (world, device, mut content) = one("who_reads_and_who_has_it_mapped", how);
        let path = device.path("file");
        let (first, second) = (how.open(&device, "file"), how.open(&device, "file"));
        let mapping = Mapping::new(&first, LEN, false);
        assert_bytes(&read_all(&first), &content);
        let see = |content: &[u8]| {
            for reader in [&first, &second, &File::open(&path).unwrap()] {
                assert_bytes(&read_all(reader), content);
                assert_eq!(reader.metadata().unwrap().len(), content.len() as u64);
            }
            let seen: Vec<u8> = (0..content.len().min(LEN)).step_by(1000).map(|at| mapping.get(at)).collect();
            let there: Vec<u8> = content.iter().copied().take(LEN).step_by(1000).collect();
            assert_eq!(seen, there);
        };
        see(&content);

        sh("printf appended >> \"$1\"", &path);
        content.extend_from_slice(b"appended");
        see(&content);

        let writer = File::options().write(true).open(&path).unwrap();
        for at in [0, 5_000, 998_000] {
            writer.write_all_at(&[b'x'; 2_000], at as u64).unwrap();
            content[at..at + 2_000].fill(b'x');
            see(&content);
        }
        let both = File::options().read(true).write(true).open(&path).unwrap();
        both.write_all_at(b"by another", 70_000).unwrap();
        content[70_000..70_010].copy_from_slice(b"by another");
        assert_bytes(&read_all(&both), &content);
        see(&content);
        rustix::fs::fallocate(&both, punch(), 100_000, 50_000).unwrap();
        content[100_000..150_000].fill(0);
        see(&content);
        both.set_len(1_500_000).unwrap();
        content.resize(1_500_000, 0);
        see(&content);
        drop(writer);
        see(&content);
        device.wait_synced();
        see(&content);
        // What was sent is clean again, and the next change is seen all the same.
        both.write_all_at(b"once more", 10).unwrap();
        content[10..19].copy_from_slice(b"once more");
        see(&content);
        drop((both, second));
        fs::copy(&path, device.path("copy")).unwrap();
        assert_bytes(&fs::read(device.path("copy")).unwrap(), &content);

        drop(mapping);
        sh("truncate -s 300000 \"$1\"", &path);
        content.truncate(300_000);
        assert_bytes(&read_all(&first), &content);
        sh("printf new > \"$1\"", &path);
        assert_bytes(&read_all(&first), b"new");
        drop(first);
        assert_sound(&world, &device, b"new");
    });
}

fn punch() -> rustix::fs::FallocateFlags {
    rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE
}

#[test]
fn a_mapping_that_outlives_its_descriptor_shows_what_is_written_later() {
    How::both(|how| {
        let (world, device, mut content) = one("a_mapping_that_outlives", how);
        let path = device.path("file");
        let file = how.open(&device, "file");
        let mapping = Mapping::new(&file, LEN, false);
        drop(file);
        assert_eq!(mapping.get(7), content[7]);
        for (at, read) in [(7, false), (600_000, true)] {
            let writer = File::options().read(read).write(true).open(&path).unwrap();
            writer.write_all_at(&[!content[at]], at as u64).unwrap();
            content[at] = !content[at];
            assert_eq!(mapping.get(at), content[at]);
            assert_bytes(&fs::read(&path).unwrap(), &content);
            drop(writer);
            device.wait_synced();
        }
        assert_eq!(mapping.get(7), content[7]);
        drop(mapping);
        assert_sound(&world, &device, &content);
    });
}

#[test]
fn what_is_written_through_a_mapping_is_seen_by_who_reads_and_is_sent() {
    How::both(|how| {
        let (world, device, mut content) = one("what_is_written_through_a_mapping", how);
        let path = device.path("file");
        let reader = how.open(&device, "file");
        let writer = File::options().read(true).write(true).open(&path).unwrap();
        let mapping = Mapping::new(&writer, LEN, true);
        let mut change = |at: usize| {
            mapping.set(at, !content[at]);
            content[at] = !content[at];
            content.clone()
        };
        let now = change(3);
        for file in [&reader, &writer, &File::open(&path).unwrap()] {
            assert_bytes(&read_all(file), &now);
        }
        // A write beside it, to the same page and to another.
        writer.write_all_at(b"written", 100).unwrap();
        writer.write_all_at(b"written", 900_000).unwrap();
        for at in [100, 900_000] {
            assert_eq!(mapping.get(at), b'w');
        }
        let mut now = now;
        now[100..107].copy_from_slice(b"written");
        now[900_000..900_007].copy_from_slice(b"written");
        assert_bytes(&read_all(&reader), &now);
        writer.sync_all().unwrap();
        device.wait_synced();
        let other = world.mount("B");
        await_bytes(&other.path("file"), &now);
        // While it is open, without a word.
        mapping.set(500_000, !now[500_000]);
        now[500_000] = !now[500_000];
        assert_bytes(&read_all(&reader), &now);
        drop(writer);
        mapping.set(4_096, !now[4_096]);
        now[4_096] = !now[4_096];
        assert_bytes(&read_all(&reader), &now);
        drop(reader);
        mapping.set(8_192, !now[8_192]);
        now[8_192] = !now[8_192];
        drop(mapping);
        await_bytes(&other.path("file"), &now);
        drop(other);
        assert_sound(&world, &device, &now);
    });
}

#[test]
fn what_is_renamed_over_or_removed_goes_on_for_who_reads_it() {
    How::both(|how| {
        let (world, device, content) = one("what_is_renamed_over", how);
        let path = device.path("file");
        let reader = how.open(&device, "file");
        fs::write(device.path("new"), b"another").unwrap();
        fs::rename(device.path("new"), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"another");
        assert_bytes(&read_all(&reader), &content);
        assert_eq!((reader.metadata().unwrap().nlink(), reader.metadata().unwrap().len()), (0, LEN as u64));
        fs::write(&path, &content).unwrap();
        device.wait_synced();
        let again = how.open(&device, "file");
        fs::remove_file(&path).unwrap();
        assert_bytes(&read_all(&again), &content);
        assert_bytes(&read_all(&reader), &content);
        fs::write(&path, &content).unwrap();
        assert_sound(&world, &device, &content);
    });
}

#[test]
fn who_reads_sees_what_another_device_writes() {
    How::both(|how| {
        let (world, a, b, mut content) = two("who_reads_sees_what_another_device", how);
        let reader = how.open(&b, "file");
        let mapping = Mapping::new(&reader, LEN, false);
        assert_bytes(&read_all(&reader), &content);
        for round in 0..4 {
            let writer = File::options().write(true).open(a.path("file")).unwrap();
            let at = 1_000 + round * 200_000;
            writer.write_all_at(b"from the other", at as u64).unwrap();
            content[at..at + 14].copy_from_slice(b"from the other");
            writer.write_all_at(b"and its end", content.len() as u64).unwrap();
            content.extend_from_slice(b"and its end");
            drop(writer);
            // Who opens it never sees the old bytes once the new ones were seen, and is never refused.
            await_bytes(&b.path("file"), &content);
            let opened = File::open(b.path("file")).unwrap();
            assert_bytes(&read_all(&opened), &content);
            until("the new bytes for who has it open", || match read_all(&reader) {
                found if found == content => Ok(()),
                found => Err(format!("{} bytes", found.len())),
            });
            assert_eq!(mapping.get(at), b'f');
            assert_eq!(reader.metadata().unwrap().len(), content.len() as u64);
        }
        // And what is written here afterwards.
        sh("printf here >> \"$1\"", &b.path("file"));
        content.extend_from_slice(b"here");
        assert_bytes(&read_all(&reader), &content);
        await_bytes(&a.path("file"), &content);
        fs::write(a.path("file"), b"short").unwrap();
        until("the short version", || match read_all(&reader) {
            found if found == b"short" => Ok(()),
            found => Err(format!("{} bytes", found.len())),
        });
        drop((reader, mapping));
        assert_sound(&world, &b, b"short");
    });
}

#[test]
fn who_is_killed_in_the_middle_of_it_has_lost_nothing_and_damaged_nothing() {
    How::both(|how| {
        let (world, device, mut content) = one("who_is_killed_in_the_middle", how);
        let path = device.path("file");
        for round in 0..6_usize {
            let reader = how.open(&device, "file");
            let mapping = Mapping::new(&reader, LEN, false);
            let writer = File::options().read(round % 2 == 0).write(true).open(&path).unwrap();
            if round % 3 > 0 {
                writer.write_all_at(&[round as u8; 3000], 1000 * round as u64).unwrap();
                content[1000 * round..1000 * round + 3000].fill(round as u8);
            }
            device.kill();
            // What is seen of the dead mount stays as it was, and nobody else sees it.
            assert_eq!(mapping.get(1000 * round), content[1000 * round]);
            drop((reader, writer, mapping));
            device.mount();
            assert_bytes(&fs::read(&path).unwrap(), &content);
            device.wait_synced();
        }
        assert_sound(&world, &device, &content);
    });
}

#[test]
fn bytes_that_went_bad_are_right_again_for_who_reads_them() {
    How::both(|how| {
        let world = World::new();
        let cache = world.path("cache of B");
        let options: Vec<&str> =
            how.options().iter().copied().chain(["--cache-dir", cache.to_str().unwrap()]).collect();
        let a = world.mount("A");
        let content = bytes(&mut Dice::new("bytes_that_went_bad"), LEN);
        fs::write(a.path("file"), &content).unwrap();
        let b = world.mount_with("B", &options);
        await_bytes(&b.path("file"), &content);
        let reader = how.open(&b, "file");
        let files = cached_files(&cache.join("cache/objects"));
        let object = files.iter().find(|path| fs::metadata(path).unwrap().len() == LEN as u64).unwrap();
        fs::set_permissions(object, fs::Permissions::from_mode(0o600)).unwrap();
        let damage = File::options().write(true).open(object).unwrap();
        damage.write_all_at(&[!content[1000]], 1000).unwrap();
        drop(damage);
        let said = b.syncmount(&["cache", "verify", b.folder.to_str().unwrap(), "--json"]);
        let report: VerifyReport = serde_json::from_str(&said.stdout).unwrap();
        assert_eq!((said.code, report.damaged), (Some(1), 1), "{said:?}");
        await_bytes(&b.path("file"), &content);
        until("the right bytes for who has it open", || match read_all(&reader) {
            found if found == content => Ok(()),
            _ => Err("damaged".into()),
        });
        drop(reader);
        assert_sound(&world, &b, &content);
    });
}

/// A `sqlite3` that stays, with the database open for reading only.
struct Query(std::process::Child, BufReader<std::process::ChildStdout>);

impl Query {
    fn new(database: &Path) -> Self {
        let mut command = Command::new("sqlite3");
        let mut child = command
            .arg("-readonly")
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sqlite3 is installed");
        let out = BufReader::new(child.stdout.take().unwrap());
        Self(child, out)
    }

    fn ask(&mut self, query: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{query}").unwrap();
        let mut line = String::new();
        self.1.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Query {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

#[test]
fn who_has_a_database_open_for_reading_sees_what_others_commit() {
    for how in [How::Passed, How::Here] {
        for journal in ["delete", "wal"] {
            let world = World::new();
            let device = world.mount_with("A", how.options());
            let database = device.path("file");
            let sqlite =
                |script: &str| run(Command::new("sqlite3").arg(&database).arg(script)).good().trim().to_owned();
            let fill = "with recursive n(i) as (select 1 union all select i + 1 from n where i < 20000) \
                        insert into t select i, hex(randomblob(20)) from n;";
            sqlite(&format!("pragma journal_mode={journal}; create table t(i integer, x text); {fill}"));
            device.wait_synced();
            drop(how.open(&device, "file"));
            let before = device.status().passed_through;
            let mut query = Query::new(&database);
            query.ask("pragma mmap_size=268435456;");
            assert_eq!(query.ask("select count(*) from t;"), "20000");
            let passed = device.status().passed_through > before;
            assert!(passed == (how == How::Passed) || journal == "wal", "{how:?} {journal}");
            for round in 1..6 {
                sqlite("insert into t values (0, 'more'); update t set x = 'changed' where i = 12345;");
                assert_eq!(query.ask("select count(*) from t;"), (20000 + round).to_string(), "{how:?} {journal}");
                assert_eq!(query.ask("select x from t where i = 12345;"), "changed");
            }
            assert_eq!(query.ask("pragma integrity_check;"), "ok");
            drop(query);
            assert_eq!(sqlite("pragma wal_checkpoint(truncate); pragma integrity_check;").lines().last(), Some("ok"));
            device.wait_synced();
            let found = fs::read(&database).unwrap();
            assert_sound(&world, &device, &found);
        }
    }
}

#[test]
fn a_cache_that_is_too_small_for_what_is_open_shows_right_bytes() {
    How::both(|how| {
        let mut dice = Dice::new("a_cache_that_is_too_small");
        let world = World::new();
        let a = world.mount("A");
        let contents: Vec<Vec<u8>> = (0..12).map(|_| bytes(&mut dice, LEN)).collect();
        for (number, content) in contents.iter().enumerate() {
            fs::write(a.path(number.to_string()), content).unwrap();
        }
        a.wait_synced();
        let options: Vec<&str> = how.options().iter().copied().chain(["--cache-size", "4M"]).collect();
        let b = world.mount_with("B", &options);
        await_bytes(&b.path("0"), &contents[0]);
        let reader = how.open(&b, "0");
        for _ in 0..2 {
            for (number, content) in contents.iter().enumerate() {
                await_bytes(&b.path(number.to_string()), content);
            }
            assert_bytes(&read_all(&reader), &contents[0]);
        }
        let readers: Vec<File> = (0..12).map(|number| File::open(b.path(number.to_string())).unwrap()).collect();
        for (reader, content) in readers.iter().zip(&contents) {
            assert_bytes(&read_all(reader), content);
        }
        sh("printf appended >> \"$1\"", &b.path("0"));
        let now = [&contents[0][..], b"appended"].concat();
        assert_bytes(&read_all(&reader), &now);
        await_bytes(&a.path("0"), &now);
        drop((reader, readers));
        until("the cache to be within its limit", || match b.status() {
            status if status.cache_used <= status.cache_limit => Ok(()),
            status => {
                await_bytes(&b.path("3"), &contents[3]);
                Err(format!("{} of {}", status.cache_used, status.cache_limit))
            }
        });
    });
}

/// A small disk of its own.
struct SmallDisk(PathBuf);

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).output());
    }
}

#[test]
fn a_full_disk_is_told_to_who_opens_for_writing_what_others_are_shown() {
    let mut dice = Dice::new("a_full_disk_is_told_to_who_opens");
    let world = World::new();
    let disk = SmallDisk(world.path("disk"));
    fs::create_dir(&disk.0).unwrap();
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&disk.0)).good();
    let cache = disk.0.join("cache");
    let options = ["--passthrough", "always", "--cache-size", "60M", "--cache-dir", cache.to_str().unwrap()];
    let device = world.mount_with("A", &options);
    let mut content = bytes(&mut dice, 40_000_000);
    fs::write(device.path("file"), &content).unwrap();
    device.wait_synced();
    let reader = How::Passed.open(&device, "file");
    let append = || File::options().append(true).open(device.path("file"));
    assert_eq!(append().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    let mut found = vec![0; 1000];
    reader.read_exact_at(&mut found, 39_000_000).unwrap();
    assert_eq!(found, content[39_000_000..39_001_000]);
    drop(reader);
    // The end of a handle reaches the program a moment after close() has returned.
    let mut writer = until("nobody to be shown it", || append().map_err(|error| error.to_string()));
    writer.write_all(b"end").unwrap();
    drop(writer);
    content.extend_from_slice(b"end");
    device.wait_synced();
    assert_bytes(&fs::read(device.path("file")).unwrap(), &content);
    drop(device);
    drop(disk);
}

#[test]
fn a_file_of_two_nodes_with_the_same_bytes_is_changed_in_one_of_them_only() {
    How::both(|how| {
        let (world, device, content) = one("a_file_of_two_nodes", how);
        fs::copy(device.path("file"), device.path("copy")).unwrap();
        device.wait_synced();
        let (one, two) = (how.open(&device, "file"), File::open(device.path("copy")).unwrap());
        let mapped = [Mapping::new(&one, LEN, false), Mapping::new(&two, LEN, false)];
        sh("printf x | dd of=\"$1\" conv=notrunc status=none", &device.path("copy"));
        let changed = [b"x", &content[1..]].concat();
        assert_bytes(&read_all(&one), &content);
        assert_bytes(&read_all(&two), &changed);
        assert_eq!((mapped[0].get(0), mapped[1].get(0)), (content[0], b'x'));
        sh("printf y | dd of=\"$1\" conv=notrunc status=none", &device.path("file"));
        let changed_too = [b"y", &content[1..]].concat();
        assert_bytes(&read_all(&one), &changed_too);
        assert_bytes(&read_all(&two), &changed);
        drop((one, two, mapped));
        assert_sound(&world, &device, &changed_too);
    });
}

#[test]
fn small_files_and_what_is_being_written_are_read_through_the_program() {
    let world = World::new();
    let device = world.mount_with("A", How::Passed.options());
    fs::write(device.path("small"), [7; 10_000]).unwrap();
    device.wait_synced();
    let writer = File::options().append(true).create(true).open(device.path("file")).unwrap();
    (&writer).write_all(&[7; LEN]).unwrap();
    for name in ["small", "file"] {
        assert_eq!(fs::read(device.path(name)).unwrap()[0], 7);
    }
    assert_eq!(device.status().passed_through, 0);
    drop(writer);
    device.wait_synced();
    drop(How::Passed.open(&device, "file"));
}

#[test]
fn a_folder_that_is_mounted_read_only_is_passed_through_unless_that_is_refused() {
    let (world, a, mut content) = one("a_folder_that_is_mounted_read_only", How::Here);
    for (name, options, how) in [
        ("B", &["--read-only"][..], How::Passed),
        ("C", &["--read-only", "--passthrough", "never"], How::Here),
        ("D", &[], How::Here),
    ] {
        let device = world.mount_with(name, options);
        await_bytes(&device.path("file"), &content);
        let reader = how.open(&device, "file");
        assert_bytes(&read_all(&reader), &content);
        sh("printf more >> \"$1\"", &a.path("file"));
        content.extend_from_slice(b"more");
        until("the new bytes for who has it open", || match read_all(&reader) {
            found if found == content => Ok(()),
            found => Err(format!("{} bytes", found.len())),
        });
        await_bytes(&device.path("file"), &content);
    }
}
