//! The torture run: two mounts and a server as real processes, several writers, and `kill -9` of any of the three at any
//! moment. After each round both mounts must show what the writers' own books say.
//!
//! Each writer has a directory to itself, so its book is exact. Only the operation that a kill cut off may have happened
//! or not; what it may have left behind is checked too, and then entered into the book.

use crate::support::{Device, Dice, World, bytes, until};
use rand::RngExt;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

/// Operations of one writer in one round.
const OPS: usize = 25;

/// Writers: two at A, one at B.
const WRITERS: [(&str, usize); 3] = [("w0", 0), ("w1", 0), ("w2", 1)];

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
    name: &'static str,
    device: usize,
    dice: Dice,
    book: Book,
    cut_off: Option<Op>,
}

impl Writer {
    fn work(&mut self, folder: &Path) {
        let dir = folder.join(self.name);
        for _ in 0..OPS {
            let op = Op::random(&mut self.dice, &self.book);
            match op.run(&dir) {
                Ok(()) => op.enter(&mut self.book),
                Err(error) if is_of_the_kill(&error) => {
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
        let found = read(&folder.join(self.name)).expect("what only this writer changes can be read");
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
                short(&op),
                self.book.get(name).map(Vec::len)
            );
        }
        self.book = found;
    }
}

fn short(op: &Op) -> String {
    let text = format!("{op:?}");
    text.chars().take(60).collect()
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

/// Runs `rounds` rounds and panics at the first broken promise. The seed is printed.
pub fn torture(name: &str, rounds: usize) {
    let mut dice = Dice::new(name);
    let world = World::lasting(Duration::from_secs(60 + 60 * rounds as u64));
    let devices = [world.mount("A"), world.mount("B")];
    let mut writers = WRITERS.map(|(name, device)| {
        fs::create_dir(devices[device].path(name)).expect("the mount is writable");
        Writer { name, device, dice: dice.fork(), book: Book::new(), cut_off: None }
    });
    for round in 0..rounds {
        let victim = dice.random_range(0..4);
        let delay = Duration::from_millis(dice.random_range(0..300));
        let folders: Vec<PathBuf> = devices.iter().map(|device| device.folder.clone()).collect();
        thread::scope(|scope| {
            for writer in &mut writers {
                let folder = &folders[writer.device];
                scope.spawn(move || writer.work(folder));
            }
            thread::sleep(delay);
            kill(&world, &devices, victim);
        });
        revive(&world, &devices, victim);
        for writer in &mut writers {
            writer.recover(&devices[writer.device].folder);
        }
        settle(&devices, &writers, round);
    }
}

fn kill(world: &World, devices: &[Device; 2], victim: usize) {
    match victim {
        0 | 1 => devices[victim].kill(),
        2 => world.server().kill(),
        _ => {}
    }
}

fn revive(world: &World, devices: &[Device; 2], victim: usize) {
    match victim {
        0 | 1 => devices[victim].mount(),
        2 => world.server().start(),
        _ => {}
    }
}

fn settle(devices: &[Device; 2], writers: &[Writer; 3], round: usize) {
    for device in devices {
        device.wait_synced();
    }
    for device in devices {
        for writer in writers {
            until(&format!("{} at {} in round {round}", writer.name, device.name), || {
                let found = read(&device.path(writer.name)).map_err(|error| error.to_string())?;
                difference(&writer.book, &found).map_or(Ok(()), Err)
            });
        }
    }
}
