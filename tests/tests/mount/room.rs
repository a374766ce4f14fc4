//! What a device keeps on its disk: no more than it was given, and as much as it says.

use rand::RngExt as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 16 * MIB;
const NAMES: usize = 8;

/// Blocks of files, rounding of what is counted chunk by chunk, and what is written while it is counted.
const TOLERANCE: u64 = MIB;

fn on_disk(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => on_disk(&entry.path()),
        Ok(found) => found.blocks() * 512,
        // Removed while it is counted.
        Err(_) => 0,
    };
    entries.map(size).sum()
}

/// A device with a small cache, and a plain folder with what its files have to be.
struct Bench<'a> {
    device: &'a Device,
    kept: PathBuf,
    twin: PathBuf,
    pool: Vec<Vec<u8>>,
    dice: Dice,
    /// Files that are open for reading, each with what it has to be.
    open: Vec<(File, PathBuf)>,
    copies: usize,
}

impl Bench<'_> {
    fn name(&mut self) -> String {
        format!("file {}", self.dice.random_range(0..NAMES))
    }

    /// Makes a file of 0.1 to 3 times the limit, of parts that come again in others: the server need not keep them all.
    fn make(&mut self) -> PathBuf {
        let len = self.dice.random_range(LIMIT / 10..LIMIT * 3);
        self.copies += 1;
        let path = self.twin.join(format!("new {}", self.copies));
        let mut file = File::create(&path).unwrap();
        let mut left = len as usize;
        while left > 0 {
            let part = &self.pool[self.dice.random_range(0..self.pool.len())];
            let now = part.len().min(left);
            file.write_all(&part[..now]).unwrap();
            left -= now;
        }
        path
    }

    fn write(&mut self) {
        let (made, name) = (self.make(), self.name());
        if self.dice.random_bool(0.5) {
            let beside = self.device.path("beside");
            fs::copy(&made, &beside).unwrap();
            fs::rename(&beside, self.device.path(&name)).unwrap();
        } else {
            fs::copy(&made, self.device.path(&name)).unwrap();
        }
        fs::rename(&made, self.twin.join(&name)).unwrap();
    }

    fn edit(&mut self) -> io::Result<()> {
        let name = self.name();
        let Ok(found) = fs::metadata(self.twin.join(&name)) else { return Ok(()) };
        let at = self.dice.random_range(0..found.len());
        let part = self.pool[self.dice.random_range(0..self.pool.len())].clone();
        // Those who have the old version open in the plain folder keep it there, as the others do not.
        let fresh = self.twin.join("fresh");
        fs::copy(self.twin.join(&name), &fresh)?;
        for path in [&fresh, &self.device.path(&name)] {
            let mut file = File::options().write(true).open(path)?;
            file.seek(SeekFrom::Start(at))?;
            file.write_all(&part)?;
        }
        fs::rename(fresh, self.twin.join(&name))
    }

    fn read(&mut self) {
        let name = self.name();
        let (here, there) = (self.device.path(&name), self.twin.join(&name));
        if there.exists() {
            assert_eq!(sha256(&here).unwrap(), sha256(&there).unwrap(), "{name}");
        } else {
            assert_eq!(fs::metadata(&here).unwrap_err().kind(), io::ErrorKind::NotFound, "{name}");
        }
    }

    fn remove(&mut self) {
        let name = self.name();
        if fs::remove_file(self.twin.join(&name)).is_ok() {
            fs::remove_file(self.device.path(&name)).unwrap();
        }
    }

    /// Opens a file and leaves it open: it is written to in the place of its name only, never in place.
    fn hold(&mut self) {
        let name = self.name();
        if let Ok(mut file) = File::open(self.device.path(&name)) {
            assert!(file.read(&mut [0; 4096]).unwrap() > 0);
            self.open.push((file, self.device.path(&name)));
        }
        while self.open.len() > 2 {
            self.open.remove(0);
        }
    }

    /// What is pinned is fetched as far as there is room, and what has none is listed.
    fn pin(&mut self) {
        let path = self.device.path(self.name());
        if path.exists() {
            let pins = self.dice.random_bool(0.6);
            let said = self.device.syncmount(&[if pins { "pin" } else { "unpin" }.as_ref(), path.as_os_str()]);
            assert!(said.code == Some(0) || !pins && said.stderr.contains("is not pinned"), "{said:?}");
        }
    }

    fn restart(&mut self) {
        self.open.clear();
        if self.dice.random_bool(0.5) {
            // What was not sent yet is sent by the next process; what was not told yet by its writer's close is none of it.
            self.device.kill();
            run(std::process::Command::new("fusermount3").arg("-u").arg(&self.device.folder)).good();
        } else {
            self.device.stop();
        }
        self.device.mount();
    }

    fn step(&mut self) {
        match self.dice.random_range(0..22) {
            0..8 => self.write(),
            8..11 => self.edit().unwrap(),
            11..15 => self.read(),
            15..17 => self.remove(),
            17..19 => self.hold(),
            19..21 => self.pin(),
            _ => self.restart(),
        }
    }

    /// Within ten seconds of `wait` the disk holds what the limit allows, what is open, and nothing else; and `status` says so.
    #[track_caller]
    fn check(&mut self) {
        self.device.wait_synced();
        let waited = Instant::now();
        let open: u64 = self.open.iter().map(|(file, _)| file.metadata().map_or(0, |found| found.len())).sum();
        let judge = || {
            let (disk, status) = (on_disk(&self.kept), self.device.status());
            let allowed = LIMIT + open + TOLERANCE;
            if disk > allowed {
                return Err(format!("{disk} bytes on the disk, {allowed} allowed"));
            }
            let told = status.cache_used;
            let slack = TOLERANCE + told / 50;
            if disk.abs_diff(told) > slack { Err(format!("{disk} bytes on the disk, {told} told")) } else { Ok(()) }
        };
        loop {
            match judge() {
                Ok(()) => return,
                Err(_) if waited.elapsed() < Duration::from_secs(10) => std::thread::sleep(Duration::from_millis(200)),
                Err(why) => panic!("{why}; {open} of them open\n{}", listing(&self.kept)),
            }
        }
    }
}

fn listing(dir: &Path) -> String {
    String::from_utf8_lossy(&std::process::Command::new("du").arg("-a").arg(dir).output().unwrap().stdout).into_owned()
}

#[test]
fn what_is_kept_on_the_disk_stays_within_the_limit_and_is_what_status_says() {
    let mut dice = Dice::new("what_is_kept_on_the_disk_stays_within_the_limit");
    let world = World::lasting(Duration::from_secs(sized(300, 1_200)));
    let kept = world.path("kept");
    let options =
        ["--cache-size".into(), LIMIT.to_string().into(), "--cache-dir".into(), kept.clone().into_os_string()];
    let device = world.mount_with("A", &options);
    let twin = world.path("twin");
    fs::create_dir(&twin).unwrap();
    let pool = (0..24).map(|_| bytes(&mut dice, MIB as usize)).collect();
    let mut bench = Bench { device: &device, kept, twin, pool, dice, open: Vec::new(), copies: 0 };
    let end = Instant::now() + sized(Duration::from_secs(12), Duration::from_secs(600));
    let mut rounds = 0;
    while Instant::now() < end || rounds < 3 {
        for _ in 0..bench.dice.random_range(1..12) {
            bench.step();
        }
        bench.check();
        rounds += 1;
    }
    for name in 0..NAMES {
        let name = format!("file {name}");
        if bench.twin.join(&name).exists() {
            assert_eq!(sha256(&device.path(&name)).unwrap(), sha256(&bench.twin.join(&name)).unwrap(), "{name}");
        }
    }
    println!("{rounds} rounds");
}

/// Written, sent, and larger than all that may be kept: it goes, also after a restart, unless a program has it open.
#[test]
fn a_file_that_the_limit_has_no_room_for_leaves_nothing_behind() {
    let mut dice = Dice::new("a_file_that_the_limit_has_no_room_for");
    let world = World::new();
    let kept = world.path("kept");
    let options = ["--cache-size".into(), "8M".into(), "--cache-dir".into(), kept.clone().into_os_string()];
    let device = world.mount_with("A", &options);
    let staged = || on_disk(&kept.join("staging"));
    let content = bytes(&mut dice, 24 * MIB as usize);
    for name in ["one", "two"] {
        fs::write(device.path(name), &content[..]).unwrap();
    }
    device.wait_synced();
    until("the staging files to go", || if staged() == 0 { Ok(()) } else { Err(format!("{} bytes", staged())) });
    let mut open =
        File::options().read(true).write(true).create(true).truncate(true).open(device.path("open")).unwrap();
    open.write_all(&content).unwrap();
    open.sync_all().unwrap();
    device.wait_synced();
    until("what is open is counted", || match device.status().cache_used {
        used if used > 24 * MIB => Ok(()),
        used => Err(format!("{used} bytes")),
    });
    let mut found = vec![0; content.len()];
    open.seek(SeekFrom::Start(0)).unwrap();
    let received = device.status().bytes_received;
    open.read_exact(&mut found).unwrap();
    assert!(found == content && device.status().bytes_received < received + MIB, "what is open is read here");
    device.kill();
    drop(open);
    run(std::process::Command::new("fusermount3").arg("-u").arg(&device.folder)).good();
    device.mount();
    until("it goes after a restart", || if staged() == 0 { Ok(()) } else { Err(format!("{} bytes", staged())) });
    assert_eq!(fs::read(device.path("open")).unwrap(), content);
    until("what went is not counted", || match device.status().cache_used {
        used if used <= 8 * MIB + TOLERANCE => Ok(()),
        used => Err(format!("{used} bytes")),
    });
}

/// Contents that are open fill the limit: what else is read comes without the cache, at once and however often.
#[test]
fn what_has_no_room_beside_open_files_is_read_without_the_cache() {
    let mut dice = Dice::new("what_has_no_room_beside_open_files");
    let world = World::new();
    let (a, b) = (world.mount("A"), world.mount_with("B", &["--cache-size", "8M"]));
    for number in 0..8 {
        fs::write(a.path(format!("open {number}")), bytes(&mut dice, MIB as usize)).unwrap();
    }
    let content = bytes(&mut dice, 24 * MIB as usize);
    fs::write(a.path("large"), &content).unwrap();
    a.wait_synced();
    until("the files at B", || match fs::metadata(b.path("large")) {
        Ok(found) if found.len() == 24 * MIB => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let mut open = Vec::new();
    for number in 0..8 {
        let mut file = File::open(b.path(format!("open {number}"))).unwrap();
        io::copy(&mut file, &mut io::sink()).unwrap();
        open.push(file);
    }
    let mut file = File::open(b.path("large")).unwrap();
    let mut found = vec![0; MIB as usize];
    for _ in 0..40 {
        let at = dice.random_range(0..content.len() - found.len());
        file.seek(SeekFrom::Start(at as u64)).unwrap();
        file.read_exact(&mut found).unwrap();
        assert!(found == content[at..at + found.len()], "at {at}");
    }
    let received = b.status().bytes_received;
    file.rewind().unwrap();
    let mut part = vec![0; 64 << 10];
    for expected in content.chunks(part.len()) {
        file.read_exact(&mut part).unwrap();
        assert!(part == expected);
    }
    let received = b.status().bytes_received - received;
    assert!(received < 72 * MIB, "a file of 24 MiB, from its begin to its end, took {received} bytes");
}
