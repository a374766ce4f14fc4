//! The same random operations on a mount and on a directory of the disk beneath: each call must end the same way, and both
//! must look the same after each.
//!
//! `SYNCMOUNT_MODEL_RUNS` and `SYNCMOUNT_MODEL_OPS` make it longer (`./dev model`); a failure prints the last operations and
//! the seed of its run.

use rand::RngExt;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, RenameFlags, SeekFrom, Timespec, Timestamps, XattrFlags, copy_file_range, fallocate,
    listxattr, removexattr, renameat_with, seek, setxattr, utimensat,
};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;
use syncmount_tests::support::*;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "\u{e4}", "a long name with spaces.txt"];
const FILE_MAX: u64 = 200_000;
const OPEN_MAX: usize = 4;

fn number(variable: &str, otherwise: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

/// What one operation is, with all that it needs: it is done twice.
#[derive(Clone, Debug)]
enum Op {
    Create(PathBuf, i32, u32),
    Append(PathBuf, Vec<u8>),
    Mkdir(PathBuf, u32),
    Symlink(PathBuf, String),
    Link(PathBuf, PathBuf),
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Rename(PathBuf, PathBuf, u32),
    Chmod(PathBuf, u32),
    Truncate(PathBuf, u64),
    Times(PathBuf, Option<i64>, Option<i64>),
    SetXattr(PathBuf, &'static str, Vec<u8>, u32),
    RemoveXattr(PathBuf, &'static str),
    Open(PathBuf, i32),
    Close(usize),
    WriteAt(usize, u64, Vec<u8>),
    ReadAt(usize, u64, usize),
    SetLen(usize, u64),
    Allocate(usize, u32, u64, u64),
    Copy(usize, u64, usize, u64, usize),
    Sync(usize),
    SeekEnd(usize),
}

/// One of the two places.
struct Side {
    root: PathBuf,
    open: Vec<File>,
}

fn errno(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), |code| format!("errno {code}"))
}

fn time(at: Option<i64>) -> Timespec {
    match at {
        Some(nanos) => Timespec { tv_sec: nanos / 1_000_000_000, tv_nsec: nanos % 1_000_000_000 },
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    }
}

impl Side {
    fn path(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }

    /// Does it and says what came of it.
    fn act(&mut self, op: &Op) -> Result<String, String> {
        self.try_act(op).map_err(|error| errno(&error))
    }

    fn try_act(&mut self, op: &Op) -> io::Result<String> {
        let mut said = String::new();
        match op {
            Op::Create(path, flags, mode) => {
                let mut options = OpenOptions::new();
                options.write(true).create(true).custom_flags(*flags).mode(*mode);
                drop(options.open(self.path(path))?);
            }
            Op::Append(path, bytes) => OpenOptions::new().append(true).open(self.path(path))?.write_all(bytes)?,
            Op::Mkdir(path, mode) => {
                use std::os::unix::fs::DirBuilderExt as _;
                fs::DirBuilder::new().mode(*mode).create(self.path(path))?;
            }
            Op::Symlink(path, target) => symlink(target, self.path(path))?,
            Op::Link(from, to) => fs::hard_link(self.path(from), self.path(to))?,
            Op::Unlink(path) => rustix::fs::unlinkat(CWD, self.path(path), AtFlags::empty())?,
            Op::Rmdir(path) => fs::remove_dir(self.path(path))?,
            Op::Rename(from, to, flags) => {
                let flags = RenameFlags::from_bits_retain(*flags);
                renameat_with(CWD, self.path(from), CWD, self.path(to), flags)?;
            }
            Op::Chmod(path, mode) => fs::set_permissions(self.path(path), Permissions::from_mode(*mode))?,
            Op::Truncate(path, len) => OpenOptions::new().write(true).open(self.path(path))?.set_len(*len)?,
            Op::Times(path, accessed, modified) => {
                let times = Timestamps { last_access: time(*accessed), last_modification: time(*modified) };
                utimensat(CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW)?;
                let found = fs::symlink_metadata(self.path(path))?;
                if accessed.is_some() {
                    said = format!("{}.{}", found.atime(), found.atime_nsec());
                }
                if modified.is_some() {
                    said = format!("{said} {}.{}", found.mtime(), found.mtime_nsec());
                }
            }
            Op::SetXattr(path, name, value, flags) => {
                setxattr(self.path(path), *name, value, XattrFlags::from_bits_retain(*flags))?;
            }
            Op::RemoveXattr(path, name) => removexattr(self.path(path), *name)?,
            Op::Open(path, flags) => {
                let file = OpenOptions::new().read(true).write(true).custom_flags(*flags).open(self.path(path))?;
                self.open.push(file);
            }
            Op::Close(index) => drop(self.open.remove(*index)),
            Op::WriteAt(index, at, bytes) => self.open[*index].write_all_at(bytes, *at)?,
            Op::ReadAt(index, at, len) => {
                let mut buf = vec![0; *len];
                let got = self.open[*index].read_at(&mut buf, *at)?;
                said = format!("{got} bytes, {:?}", sum(&buf[..got]));
            }
            Op::SetLen(index, len) => self.open[*index].set_len(*len)?,
            Op::Allocate(index, mode, at, len) => {
                fallocate(&self.open[*index], FallocateFlags::from_bits_retain(*mode), *at, *len)?;
            }
            Op::Copy(from, at, to, target, len) => said = self.copy(*from, *at, *to, *target, *len)?,
            Op::Sync(index) => self.open[*index].sync_all()?,
            Op::SeekEnd(index) => {
                // Where data begins may differ, where all of it ends may not.
                let len = self.open[*index].metadata()?.len();
                let hole = seek(&self.open[*index], SeekFrom::Hole(len.saturating_sub(1)));
                said = format!("{len} {:?}", hole.map(|hole| hole <= len));
            }
        }
        Ok(said)
    }

    /// All of it, in as many calls as it takes.
    fn copy(&self, from: usize, mut at: u64, to: usize, mut target: u64, len: usize) -> io::Result<String> {
        let mut done = 0;
        while done < len {
            match copy_file_range(&self.open[from], Some(&mut at), &self.open[to], Some(&mut target), len - done)? {
                0 => break,
                copied => done += copied,
            }
        }
        Ok(format!("{done} bytes"))
    }

    /// Everything that is there.
    fn look(&self) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut firsts: BTreeMap<u64, PathBuf> = BTreeMap::new();
        let mut todo = vec![PathBuf::new()];
        while let Some(dir) = todo.pop() {
            let mut names: Vec<_> =
                fs::read_dir(self.path(&dir)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            for name in names {
                let path = dir.join(name);
                let stat = fs::symlink_metadata(self.path(&path)).unwrap();
                let first = firsts.entry(stat.ino()).or_insert_with(|| path.clone()).clone();
                found.insert(path.clone(), format!("{} {}", describe(&self.path(&path), &stat), first.display()));
                if stat.is_dir() {
                    todo.push(path);
                }
            }
        }
        for (index, file) in self.open.iter().enumerate() {
            let stat = file.metadata().unwrap();
            let text =
                format!("{:o} {} {} {}", stat.mode(), stat.nlink(), stat.len(), sum(&contents(file, stat.len())));
            found.insert(PathBuf::from(format!("/open {index}")), text);
        }
        found
    }
}

fn contents(file: &File, len: u64) -> Vec<u8> {
    let mut buf = vec![0; len as usize];
    file.read_exact_at(&mut buf, 0).unwrap();
    buf
}

/// Bytes in a few words.
fn sum(bytes: &[u8]) -> String {
    let sum = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
    format!("{sum:x}")
}

fn describe(path: &Path, stat: &fs::Metadata) -> String {
    let inside = if stat.is_file() {
        format!("{} {}", stat.len(), sum(&fs::read(path).unwrap()))
    } else if stat.is_symlink() {
        fs::read_link(path).unwrap().display().to_string()
    } else {
        String::new()
    };
    let mut names = Vec::new();
    if !stat.is_symlink() {
        let mut buf = vec![0; 4096];
        let len = listxattr(path, &mut buf[..]).unwrap();
        let found = buf[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
        names = found
            .map(|name| {
                let mut value = vec![0; 4096];
                let len = rustix::fs::getxattr(path, name, &mut value[..]).unwrap();
                format!("{}={}", String::from_utf8_lossy(name), sum(&value[..len]))
            })
            .collect();
        names.sort();
    }
    format!("{:o} {} {inside} {names:?}", stat.mode(), stat.nlink())
}

/// Draws operations.
struct Player<'a> {
    dice: &'a mut Dice,
    /// Which of the open files may be what.
    open: usize,
}

impl Player<'_> {
    fn path(&mut self) -> PathBuf {
        let depth = [1, 1, 1, 2, 2, 3][self.dice.random_range(0..6)];
        (0..depth).map(|_| NAMES[self.dice.random_range(0..NAMES.len())]).collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let len = [0, 1, 10, 4096, 5000, 70_000][self.dice.random_range(0..6)];
        bytes(self.dice, len)
    }

    fn offset(&mut self) -> u64 {
        match self.dice.random_range(0..4) {
            0 => 0,
            1 => self.dice.random_range(0..16) * 4096,
            _ => self.dice.random_range(0..FILE_MAX / 2),
        }
    }

    fn file(&mut self) -> usize {
        self.dice.random_range(0..self.open)
    }

    fn time(&mut self) -> Option<i64> {
        self.dice.random_bool(0.7).then(|| self.dice.random_range(0..2_000_000_000_000_000_000))
    }

    fn op(&mut self) -> Op {
        let kind = self.dice.random_range(0..100);
        if self.open > 0 && kind >= 55 {
            return self.op_on_open(kind);
        }
        let (path, other) = (self.path(), self.path());
        let mode = [0o644, 0o600, 0o755, 0o1777, 0o2755, 0o640][self.dice.random_range(0..6)];
        let name = ["user.a", "user.b", "user.name with spaces"][self.dice.random_range(0..3)];
        match kind % 55 {
            0..8 => Op::Create(path, [0, libc::O_EXCL, libc::O_TRUNC][self.dice.random_range(0..3)], mode),
            8..12 => Op::Append(path, self.bytes()),
            12..18 => Op::Mkdir(path, mode & !0o2000),
            18..20 => Op::Symlink(path, other.display().to_string()),
            20..24 => Op::Link(path, other),
            24..28 => Op::Unlink(path),
            28..31 => Op::Rmdir(path),
            31..38 => Op::Rename(path, other, [0, 0, 0, 1, 2][self.dice.random_range(0..5)]),
            38..40 => Op::Chmod(path, mode),
            40..42 => Op::Truncate(path, self.offset()),
            42..44 => Op::Times(path, self.time(), self.time()),
            44..46 => Op::SetXattr(path, name, bytes(self.dice, 100), self.dice.random_range(0..3)),
            46..47 => Op::RemoveXattr(path, name),
            _ if self.open < OPEN_MAX => {
                Op::Open(path, [0, libc::O_TRUNC, libc::O_APPEND][self.dice.random_range(0..3)])
            }
            _ => Op::Close(self.file()),
        }
    }

    fn op_on_open(&mut self, kind: u32) -> Op {
        let index = self.file();
        match kind {
            55..70 => Op::WriteAt(index, self.offset(), self.bytes()),
            70..80 => Op::ReadAt(index, self.offset(), self.dice.random_range(0..100_000)),
            80..84 => Op::SetLen(index, self.offset()),
            84..90 => {
                let mode = [0, 1, 3, 16, 17][self.dice.random_range(0..5)];
                Op::Allocate(index, mode, self.offset(), self.dice.random_range(1..50_000))
            }
            90..93 => Op::Copy(index, self.offset(), self.file(), self.offset(), self.dice.random_range(1..100_000)),
            93..95 => Op::Sync(index),
            95..97 => Op::SeekEnd(index),
            _ => Op::Close(index),
        }
    }
}

/// Whether the outcome of a copy is the disk's own business: of a file into itself, disks differ about what overlaps.
fn is_free(op: &Op) -> bool {
    matches!(op, Op::Copy(from, _, to, ..) if from == to)
}

fn run(world: &World, device: &Device, dice: &mut Dice, index: u64, ops: u64) {
    let name = format!("run {index}");
    let native = world.path(&name);
    let mount = device.path(&name);
    fs::create_dir(&native).unwrap();
    fs::create_dir(&mount).unwrap();
    let mut sides = [Side { root: native, open: Vec::new() }, Side { root: mount, open: Vec::new() }];
    let mut recent = VecDeque::new();
    for step in 0..ops {
        let op = Player { dice, open: sides[0].open.len() }.op();
        if is_free(&op) {
            continue;
        }
        if recent.len() == 30 {
            recent.pop_front();
        }
        let [native, mount] = [0, 1].map(|side| sides[side].act(&op));
        recent.push_back(format!("{step}: {} -> {native:?}", short(&op)));
        assert_eq!(
            native,
            mount,
            "run {index}: native and mount; before that\n{}",
            Vec::from(recent.clone()).join("\n")
        );
        let [native, mount] = [0, 1].map(|side| sides[side].look());
        if native != mount {
            let keys = native.keys().chain(mount.keys());
            let differences: Vec<String> = keys
                .filter(|key| native.get(*key) != mount.get(*key))
                .map(|key| format!("{}\n  native {:?}\n  mount  {:?}", key.display(), native.get(key), mount.get(key)))
                .collect();
            panic!("run {index}\n{}\nafter\n{}", differences.join("\n"), Vec::from(recent).join("\n"));
        }
    }
}

fn short(op: &Op) -> String {
    let text = format!("{op:?}");
    let cut = text.char_indices().nth(160).map_or(text.len(), |(at, _)| at);
    text[..cut].to_owned()
}

#[test]
fn a_mount_behaves_like_the_disk_beneath() {
    let (runs, ops) = (number("SYNCMOUNT_MODEL_RUNS", 2), number("SYNCMOUNT_MODEL_OPS", 1000));
    let world = World::lasting(Duration::from_secs(120 + runs * ops / 10));
    let (a, b) = (world.mount("A"), world.mount("B"));
    let mut dice = Dice::new("a_mount_behaves_like_the_disk_beneath");
    rustix::process::umask(rustix::fs::Mode::from_bits_retain(0o022));
    for index in 0..runs {
        run(&world, &a, &mut dice.fork(), index, ops);
        if index % 5 == 4 {
            a.fusermount_u();
            a.mount();
        }
    }
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    for device in [&a, &b] {
        assert_eq!(device.status().problems, []);
    }
}
