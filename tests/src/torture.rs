//! The torture run: several devices and a server as real processes, a writer or two at each device, and `kill -9` of any of
//! them at any moment. After each round all devices must show what the writers' own books say.
//!
//! Each writer has a directory to itself, so its book is exact. Only the operation that a kill of its mount cut off may
//! have happened or not; what it may have left behind is checked too, and then entered into the book. Who writes into a
//! watched folder is never interrupted: that folder is a plain directory, whoever watches it.

use crate::support::{Device, Dice, World, bytes, until};
use rand::RngExt;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

/// Operations of one writer in one round.
const OPS: usize = 25;

/// How a device takes part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Party {
    /// With a mount.
    Mount,
    /// With a plain folder that is watched.
    Watch,
}

/// Who takes part unless told otherwise.
pub const PARTIES: [Party; 3] = [Party::Mount, Party::Mount, Party::Watch];

impl FromStr for Party {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "mount" => Ok(Self::Mount),
            "watch" => Ok(Self::Watch),
            other => Err(format!("a party is `mount` or `watch`, not `{other}`")),
        }
    }
}

impl Party {
    fn join(self, world: &World, name: &str) -> Device {
        match self {
            Self::Mount => world.mount(name),
            Self::Watch => world.watch(name),
        }
    }
}

type Book = BTreeMap<String, Vec<u8>>;

#[derive(Clone, Debug)]
enum Op {
    Write(String, Vec<u8>),
    Save(String, Vec<u8>),
    Append(String, Vec<u8>),
    Rename(String, String),
    Remove(String),
}

impl Op {
    fn random(dice: &mut Dice, book: &Book) -> Self {
        let name = |dice: &mut Dice| format!("f{}", dice.random_range(0..12));
        let known = |dice: &mut Dice| book.keys().nth(dice.random_range(0..book.len().max(1))).cloned();
        let len = if dice.random_bool(0.1) { 300_000 } else { 6000 };
        let len = dice.random_range(0..len);
        let content = bytes(dice, len);
        match (dice.random_range(0..10), known(dice)) {
            (0..3, Some(name)) => Self::Append(name, content),
            (3 | 4, Some(from)) => Self::Rename(from, name(dice)),
            (5, Some(name)) => Self::Remove(name),
            (6 | 7, _) => Self::Save(name(dice), content),
            _ => Self::Write(name(dice), content),
        }
    }

    fn run(&self, dir: &Path) -> io::Result<()> {
        match self {
            Self::Write(name, content) => write(File::create(dir.join(name))?, content),
            Self::Save(name, content) => {
                write(File::create(dir.join("save.tmp"))?, content)?;
                fs::rename(dir.join("save.tmp"), dir.join(name))
            }
            Self::Append(name, more) => write(OpenOptions::new().append(true).open(dir.join(name))?, more),
            Self::Rename(from, to) => fs::rename(dir.join(from), dir.join(to)),
            Self::Remove(name) => fs::remove_file(dir.join(name)),
        }
    }

    fn enter(&self, book: &mut Book) {
        match self {
            Self::Write(name, content) => {
                book.insert(name.clone(), content.clone());
            }
            Self::Save(name, content) => {
                // One that an earlier save left behind when it was cut off goes up in this one.
                book.remove("save.tmp");
                book.insert(name.clone(), content.clone());
            }
            Self::Append(name, more) => book.entry(name.clone()).or_default().extend_from_slice(more),
            Self::Rename(from, to) => {
                if let Some(content) = book.remove(from) {
                    book.insert(to.clone(), content);
                }
            }
            Self::Remove(name) => {
                book.remove(name);
            }
        }
    }

    /// Without the bytes.
    fn brief(&self) -> String {
        match self {
            Self::Write(name, content) => format!("write {name}, {} bytes", content.len()),
            Self::Save(name, content) => format!("save {name}, {} bytes", content.len()),
            Self::Append(name, more) => format!("append {name}, {} bytes", more.len()),
            Self::Rename(from, to) => format!("rename {from} to {to}"),
            Self::Remove(name) => format!("remove {name}"),
        }
    }

    /// Whether `found` may be what a cut-off operation left of `name`.
    fn may_leave(&self, book: &Book, name: &str, found: Option<&Vec<u8>>) -> bool {
        let before = book.get(name);
        let mut after = book.clone();
        self.enter(&mut after);
        if found == before || found == after.get(name) {
            return true;
        }
        match (self, found) {
            (Self::Write(written, content), Some(found)) => name == written && content.starts_with(found),
            (Self::Append(written, _), Some(found)) => {
                let whole = after.get(name).map_or(&[][..], Vec::as_slice);
                name == written && whole.starts_with(found) && found.len() >= before.map_or(0, Vec::len)
            }
            (Self::Save(_, content), Some(found)) => name == "save.tmp" && content.starts_with(found),
            _ => false,
        }
    }
}

/// Writes and closes. What close says counts: before it has returned, nothing is promised.
fn write(mut file: File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    // SAFETY: the descriptor is owned here, and nobody uses it afterwards.
    let closed = unsafe { libc::close(file.into_raw_fd()) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

struct Writer {
    name: String,
    device: usize,
    /// Whether a kill of its device can cut off what it does.
    is_mounted: bool,
    dice: Dice,
    book: Book,
    cut_off: Option<Op>,
    /// What it did in this round, and when.
    done: Vec<String>,
}

impl Writer {
    fn work(&mut self, folder: &Path) {
        let (dir, begin) = (folder.join(&self.name), Instant::now());
        self.done.clear();
        for _ in 0..OPS {
            let op = Op::random(&mut self.dice, &self.book);
            let ran = op.run(&dir);
            self.done.push(format!("{:?} {}", begin.elapsed(), op.brief()));
            match ran {
                Ok(()) => op.enter(&mut self.book),
                Err(error) if self.is_mounted && is_of_the_kill(&error) => {
                    self.cut_off = Some(op);
                    return;
                }
                Err(error) => panic!("{}: {op:?} failed: {error}", self.name),
            }
            if self.dice.random_bool(0.3) {
                thread::sleep(Duration::from_millis(self.dice.random_range(0..20)));
            }
        }
    }

    /// After a kill: what is there must be what the book allows.
    fn recover(&mut self, folder: &Path) {
        let found = read(&folder.join(&self.name)).expect("what only this writer changes can be read");
        let Some(op) = self.cut_off.take() else {
            assert_books_equal(&self.book, &found, &format!("{} after a restart", self.name));
            return;
        };
        for name in self.book.keys().chain(found.keys()) {
            let left = found.get(name);
            assert!(
                op.may_leave(&self.book, name, left),
                "{}/{name}: {:?} bytes after {} was cut off, {:?} in the book",
                self.name,
                left.map(Vec::len),
                op.brief(),
                self.book.get(name).map(Vec::len)
            );
        }
        self.book = found;
    }
}

/// The daemon is gone, and everything that was going on in it.
fn is_of_the_kill(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED | libc::EIO | libc::ENODEV | libc::EINTR))
}

/// What lies in a directory; an error if it changes meanwhile.
fn read(dir: &Path) -> io::Result<Book> {
    fs::read_dir(dir)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?))
        })
        .collect()
}

fn difference(book: &Book, found: &Book) -> Option<String> {
    let names = book.keys().chain(found.keys());
    let wrong = |name: &&String| book.get(*name) != found.get(*name);
    names
        .filter(wrong)
        .map(|name| {
            let len =
                |book: &Book| book.get(name).map_or("nothing".to_owned(), |bytes| format!("{} bytes", bytes.len()));
            format!("{name}: {} in the book, {} found", len(book), len(found))
        })
        .reduce(|all, one| format!("{all}; {one}"))
}

fn assert_books_equal(book: &Book, found: &Book, what: &str) {
    if let Some(difference) = difference(book, found) {
        panic!("{what}: {difference}");
    }
}

/// What a kill hits in a round.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Device(usize),
    Server,
    Nobody,
}

impl Victim {
    fn random(dice: &mut Dice, devices: usize) -> Self {
        match dice.random_range(0..devices + 2) {
            device if device < devices => Self::Device(device),
            other if other == devices => Self::Server,
            _ => Self::Nobody,
        }
    }

    fn kill(self, world: &World, devices: &[Device]) {
        match self {
            Self::Device(victim) => devices[victim].kill(),
            Self::Server => world.server().kill(),
            Self::Nobody => {}
        }
    }

    fn revive(self, world: &World, devices: &[Device]) {
        match self {
            Self::Device(victim) => devices[victim].mount(),
            Self::Server => world.server().start(),
            Self::Nobody => {}
        }
    }
}

/// Runs `rounds` rounds with one device for each of `parties` and panics at the first broken promise. The seed is printed.
pub fn torture(name: &str, rounds: usize, parties: &[Party]) {
    let mut dice = Dice::new(name);
    let world = World::lasting(Duration::from_secs(60 + 60 * rounds as u64));
    let devices: Vec<Device> =
        ('A'..).zip(parties).map(|(name, party)| party.join(&world, &name.to_string())).collect();
    let mut writers = writers(&mut dice, parties);
    for writer in &writers {
        fs::create_dir(devices[writer.device].path(&writer.name)).expect("the folder is writable");
    }
    for round in 0..rounds {
        let victim = Victim::random(&mut dice, devices.len());
        let delay = Duration::from_millis(dice.random_range(0..300));
        let folders: Vec<PathBuf> = devices.iter().map(|device| device.folder.clone()).collect();
        thread::scope(|scope| {
            for writer in &mut writers {
                let folder = &folders[writer.device];
                scope.spawn(move || writer.work(folder));
            }
            thread::sleep(delay);
            victim.kill(&world, &devices);
        });
        victim.revive(&world, &devices);
        for writer in &mut writers {
            writer.recover(&devices[writer.device].folder);
        }
        settle(&devices, &writers, &format!("round {round}, {victim:?} was killed"));
    }
}

/// Two at the first device, one at each of the others.
fn writers(dice: &mut Dice, parties: &[Party]) -> Vec<Writer> {
    let places = [0].into_iter().chain(0..parties.len()).enumerate();
    let writer = |(number, device): (usize, usize)| {
        let (name, is_mounted) = (format!("w{number}"), parties[device] == Party::Mount);
        Writer { name, device, is_mounted, dice: dice.fork(), book: Book::new(), cut_off: None, done: Vec::new() }
    };
    places.map(writer).collect()
}

fn settle(devices: &[Device], writers: &[Writer], when: &str) {
    for device in devices {
        device.wait_synced();
    }
    for device in devices {
        for writer in writers {
            until(&format!("{} at {} ({when})", writer.name, device.name), || {
                let found = read(&device.path(&writer.name)).map_err(|error| error.to_string())?;
                let did = || writer.done.join("\n  ");
                difference(&writer.book, &found).map_or(Ok(()), |what| Err(format!("{what}\nit did\n  {}", did())))
            });
        }
    }
}
