//! Large files that take their time: what is written of them is at the server before they are closed, and whatever becomes
//! of it, the bytes are those that were written.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use syncmount_tests::support::*;

const MIB: u64 = 1 << 20;

/// Who has written so much waits for a server whose disk is slow, and goes on so that the file is not taken for finished.
const PLENTY: u64 = 128 * MIB;

/// A program that writes at the pace of one that computes what it writes.
struct Slow {
    path: PathBuf,
    writer: Writer,
}

impl Slow {
    /// Opens a new file, or empties it.
    #[track_caller]
    fn create(path: &Path) -> Self {
        Self { path: path.to_owned(), writer: Writer::begin(File::create(path).unwrap()) }
    }

    /// Writes noise until `sent` bytes have left the device. How much it wrote.
    #[track_caller]
    fn write_until_sent(&mut self, dice: &mut Dice, line: &Proxy, sent: u64) -> u64 {
        let (begin, enough) = (Instant::now(), line.sent() + sent);
        let mut written = 0;
        while line.sent() < enough {
            assert!(begin.elapsed() < PATIENCE, "{written} bytes are written and {} were sent", line.sent());
            self.writer.write(&bytes(dice, MIB as usize));
            written += MIB;
            std::thread::sleep(Duration::from_millis(if written < PLENTY { 20 } else { 500 }));
        }
        until("what was written to be in the file", || match fs::metadata(&self.path).map(|found| found.len()) {
            Ok(len) if len == written => Ok(()),
            other => Err(format!("{other:?} of {written}")),
        });
        written
    }
}

/// A device whose line is counted, and another.
fn two(world: &World) -> (Proxy, Device, Device) {
    let (line, a) = world.device_behind_proxy("A");
    a.mount();
    let b = world.mount("B");
    (line, a, b)
}

fn await_equal(a: &Path, b: &Path) {
    let expected = sha256(a).unwrap();
    until("the file at B", || match fs::metadata(b).map(|found| found.len()) {
        Ok(len) if len == fs::metadata(a).unwrap().len() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    until("its bytes", || {
        let found = sha256(b).unwrap();
        if found == expected { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

#[test]
fn a_file_that_is_written_slowly_is_at_the_server_but_for_its_end_when_it_is_closed() {
    let mut dice = Dice::new("a_file_that_is_written_slowly");
    let world = World::new();
    let (line, a, b) = two(&world);
    let before = line.sent();
    let mut file = Slow::create(&a.path("export"));
    let written = file.write_until_sent(&mut dice, &line, 24 * MIB);
    assert_eq!(fs::metadata(b.path("export")).map_or(0, |found| found.len()), 0, "it is not closed");
    file.writer.close();
    a.wait_synced();
    let sent = line.sent() - before;
    assert!(sent < written + written / 20 + MIB, "{sent} bytes were sent for {written}");
    await_equal(&a.path("export"), &b.path("export"));
    a.stop();
    a.mount();
    await_equal(&a.path("export"), &b.path("export"));
}

#[test]
fn a_header_that_is_written_at_the_end_is_the_one_that_arrives() {
    let mut dice = Dice::new("a_header_that_is_written_at_the_end");
    let world = World::new();
    let (line, a, b) = two(&world);
    let before = line.sent();
    let mut file = Slow::create(&a.path("movie.mp4"));
    let written = file.write_until_sent(&mut dice, &line, 16 * MIB);
    let header = File::options().write(true).open(a.path("movie.mp4")).unwrap();
    header.write_all_at(b"the length and the place of everything", 4).unwrap();
    header.write_all_at(&bytes(&mut dice, 5000), 9 * MIB).unwrap();
    drop(header);
    file.writer.close();
    a.wait_synced();
    let sent = line.sent() - before;
    assert!(sent < written + written / 20 + 4 * MIB, "{sent} bytes were sent for {written}");
    await_equal(&a.path("movie.mp4"), &b.path("movie.mp4"));
    let mut found = [0; 38];
    File::open(b.path("movie.mp4")).unwrap().read_exact_at(&mut found, 4).unwrap();
    assert_eq!(&found, b"the length and the place of everything");
}

#[test]
fn a_file_that_is_cut_in_the_middle_of_it_and_written_anew_is_the_new_one() {
    let mut dice = Dice::new("a_file_that_is_cut_in_the_middle_of_it");
    let world = World::new();
    let (line, a, b) = two(&world);
    let mut file = Slow::create(&a.path("log"));
    file.write_until_sent(&mut dice, &line, 16 * MIB);
    File::options().write(true).open(a.path("log")).unwrap().set_len(3 * MIB + 5).unwrap();
    let mut again = File::options().append(true).open(a.path("log")).unwrap();
    again.write_all(&bytes(&mut dice, 9 * MIB as usize)).unwrap();
    drop(again);
    file.writer.close();
    a.wait_synced();
    await_equal(&a.path("log"), &b.path("log"));

    let mut file = Slow::create(&a.path("log"));
    let written = file.write_until_sent(&mut dice, &line, 16 * MIB);
    file.writer.close();
    a.wait_synced();
    assert_eq!(fs::metadata(a.path("log")).unwrap().len(), written);
    await_equal(&a.path("log"), &b.path("log"));
}

#[test]
fn a_client_that_is_killed_in_the_middle_of_it_loses_nothing_that_was_written() {
    let mut dice = Dice::new("a_client_that_is_killed_in_the_middle_of_it");
    let world = World::new();
    let (line, a, b) = two(&world);
    let expected = world.path("expected");
    let mut file = Slow::create(&a.path("export"));
    let mut mirror = dice.fork();
    let mut dice = Dice::fixed(7);
    let written = file.write_until_sent(&mut dice, &line, 16 * MIB);
    File::options().write(true).open(a.path("export")).unwrap().write_all_at(b"a header", 0).unwrap();
    for pid in a.processes() {
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
    a.await_end();
    drop(file);
    let mut dice = Dice::fixed(7);
    let mut copy = File::create(&expected).unwrap();
    (0..written / MIB).for_each(|_| copy.write_all(&bytes(&mut dice, MIB as usize)).unwrap());
    copy.write_all_at(b"a header", 0).unwrap();
    a.mount();
    let (found, wanted) = (fs::read(a.path("export")).unwrap(), fs::read(&expected).unwrap());
    let differs = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
    assert!(found == wanted, "{} bytes of {}, the first that differs at {differs:?}", found.len(), wanted.len());
    a.wait_synced();
    await_equal(&expected, &b.path("export"));
    let more = bytes(&mut mirror, 5 * MIB as usize);
    File::options().append(true).open(a.path("export")).unwrap().write_all(&more).unwrap();
    a.wait_synced();
    await_equal(&a.path("export"), &b.path("export"));
    assert_eq!(a.status().problems, []);
}

#[test]
fn a_file_that_is_removed_or_replaced_before_it_is_closed_leaves_nothing_behind() {
    let mut dice = Dice::new("a_file_that_is_removed_or_replaced");
    let world = World::new();
    let (line, a, b) = two(&world);
    let mut file = Slow::create(&a.path("temporary"));
    file.write_until_sent(&mut dice, &line, 16 * MIB);
    fs::remove_file(a.path("temporary")).unwrap();
    let before = line.sent();
    for _ in 0..48 {
        file.writer.write(&bytes(&mut dice, MIB as usize));
        std::thread::sleep(Duration::from_millis(10));
    }
    file.writer.close();
    a.wait_synced();
    // What was on its way when it was removed.
    let sent = line.sent() - before;
    assert!(sent < 40 * MIB, "{sent} bytes were sent of a file that is gone");

    let mut file = Slow::create(&a.path("document.new"));
    file.write_until_sent(&mut dice, &line, 16 * MIB);
    fs::write(a.path("other"), "small").unwrap();
    fs::rename(a.path("other"), a.path("document.new")).unwrap();
    file.writer.close();
    a.wait_synced();
    assert_become_equal(&a.folder, &b.folder, DirTimes::Ignored);
    assert_eq!(fs::read(b.path("document.new")).unwrap(), b"small");
    assert!(!b.path("temporary").exists());
    assert_eq!(a.status().problems, []);
    drop((a, b));
    world.server().stop();
    world.server().assert_sound();
}
