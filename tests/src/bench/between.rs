//! From one device to the other: how long it takes, and what it costs.

use super::meter;
use super::pair::{Ground, Pair, Side, await_it, read_if_there};
use super::report::quantile;
use super::{Bench, local};
use crate::support::bytes;
use rand::RngExt as _;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How often latencies are taken in a round.
const TIMES: usize = 100;

/// The same where one takes a second.
const OTHERS_TIMES: usize = 10;

/// How often the other side is asked whether something has come.
const GLANCE: Duration = Duration::from_micros(200);

/// Bytes of a small file.
const SMALL: usize = 4096;

/// Bytes of the large file.
pub(super) const LARGE: u64 = 1 << 30;

/// What is read and written at a time.
pub(super) const PIECE: usize = 1 << 20;

pub(super) fn latency(bench: &mut Bench, side: Side) -> io::Result<()> {
    let pair = Pair::new(side)?;
    let mut samples: [Vec<f64>; 3] = Default::default();
    let times = if side.is_other() { OTHERS_TIMES } else { TIMES };
    for number in 0..times {
        let content = bytes(&mut bench.dice, SMALL);
        let (name, other) = (format!("file {number}"), format!("renamed {number}"));
        let mut file = File::create(pair.a.path(&name))?;
        file.write_all(&content)?;
        let begin = Instant::now();
        drop(file);
        await_it("the new file", GLANCE, || Ok(read_if_there(&pair.b.path(&name))?.filter(|found| *found == content)))?;
        samples[0].push(begin.elapsed().as_secs_f64());
        thread::sleep(Duration::from_millis(5));

        fs::rename(pair.a.path(&name), pair.a.path(&other))?;
        let begin = Instant::now();
        await_it("the new name", GLANCE, || {
            Ok((pair.b.path(&other).try_exists()? && !pair.b.path(&name).try_exists()?).then_some(()))
        })?;
        samples[1].push(begin.elapsed().as_secs_f64());
        thread::sleep(Duration::from_millis(5));

        fs::remove_file(pair.a.path(&other))?;
        let begin = Instant::now();
        await_it("the removal", GLANCE, || Ok((!pair.b.path(&other).try_exists()?).then_some(())))?;
        samples[2].push(begin.elapsed().as_secs_f64());
        thread::sleep(Duration::from_millis(5));
    }
    for (what, samples) in ["made", "renamed", "removed"].into_iter().zip(&samples) {
        for (name, part) in [("median", 0.5), ("p99", 0.99)] {
            let figure = quantile(samples, part).unwrap_or_default() * 1000.0;
            bench.amount(side, &format!("{what}: {name}"), "ms", figure);
        }
    }
    Ok(())
}

/// Reads every file of a directory as it comes, until there are `count` whole ones.
fn read_all(dir: &Path, count: usize) -> io::Result<()> {
    let mut seen: HashSet<OsString> = HashSet::new();
    await_it("all files", Duration::from_millis(1), || {
        let names = match fs::read_dir(dir) {
            Ok(entries) => entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        for name in names {
            // A watched folder has a file under another name until all its bytes are there.
            let is_final = name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
            let whole = |content: Vec<u8>| content.len() == SMALL;
            if is_final && !seen.contains(&name) && read_if_there(&dir.join(&name))?.is_some_and(whole) {
                seen.insert(name);
            }
        }
        Ok((seen.len() >= count).then_some(()))
    })
}

pub(super) fn small(bench: &mut Bench, side: Side, count: usize) -> io::Result<()> {
    let pair = Pair::new(side)?;
    let contents: Vec<Vec<u8>> = (0..count).map(|_| bytes(&mut bench.dice, SMALL)).collect();
    fs::create_dir(pair.a.path("d"))?;
    pair.rest()?;
    let meter = pair.meter()?;
    let there = pair.b.path("d");
    let begin = Instant::now();
    let (written, all) = thread::scope(|scope| {
        let reader = scope.spawn(|| read_all(&there, count).map(|()| begin.elapsed()));
        for (number, content) in contents.iter().enumerate() {
            fs::write(pair.a.path(format!("d/{number:05}")), content)?;
        }
        let written = begin.elapsed();
        let all = reader.join().map_err(|_| io::Error::other("the reader has panicked"))??;
        io::Result::Ok((written, all))
    })?;
    let what = format!("{count} files");
    bench.seconds(side, &format!("{what}: written at A"), written);
    bench.seconds(side, &format!("{what}: all read at B"), all);
    meter.enter(bench, side, &what)?;
    for (number, content) in contents.iter().enumerate() {
        if fs::read(there.join(format!("{number:05}")))? != *content {
            return Err(io::Error::other(format!("file {number} has other bytes at B")));
        }
    }
    Ok(())
}

pub(super) fn large(bench: &mut Bench, side: Side) -> io::Result<()> {
    let source = tempfile::Builder::new().prefix("syncmount-bench-").tempfile()?;
    local::fill(bench, source.as_file(), LARGE)?;
    if side == Side::Native {
        return copied_twice_and_hashed(bench, source.path());
    }
    let pair = Pair::new(side)?;
    let (from, to) = (pair.a.path("large"), pair.b.path("large"));
    let meter = pair.meter()?;
    let begin = Instant::now();
    local::copy(source.path(), &from)?;
    bench.seconds(side, "1 GiB: written and closed at A", begin.elapsed());
    let closed = Instant::now();
    await_it("the large file", Duration::from_millis(1), || {
        Ok(fs::metadata(&to).ok().filter(|found| found.len() == LARGE))
    })?;
    compare(source.path(), &to)?;
    bench.seconds(side, "1 GiB: from close at A to whole at B", closed.elapsed());
    bench.seconds(side, "1 GiB: from first byte at A to whole at B", begin.elapsed());
    meter.enter(bench, side, "1 GiB")?;
    pair.rest()?;

    let change = bytes(&mut bench.dice, SMALL);
    let changed = "4 KiB changed in the middle of 1 GiB";
    of_a_change(bench, &pair, side, changed, || {
        OpenOptions::new().write(true).open(&from)?.write_all_at(&change, LARGE / 2 + 12_345)
    })?;
    of_a_change(bench, &pair, side, &format!("{changed}, all of it read at B"), || local::read_through(&to).map(drop))?;
    compare(&from, &to)?;
    of_a_change(bench, &pair, side, "1 byte put in front of 1 GiB", || {
        let saved = pair.a.path("large.new");
        let mut out = File::create(&saved)?;
        out.write_all(b"x")?;
        io::copy(&mut File::open(source.path())?, &mut out)?;
        drop(out);
        fs::rename(&saved, &from)
    })?;
    of_a_change(bench, &pair, side, "cp of 1 GiB inside the folder", || {
        copy_range(&File::open(&from)?, &File::create(pair.a.path("copy"))?)
    })
}

/// Does something and counts what goes over the wire until both rest.
fn of_a_change(
    bench: &mut Bench,
    pair: &Pair,
    side: Side,
    what: &str,
    change: impl FnOnce() -> io::Result<()>,
) -> io::Result<()> {
    let meter = pair.meter()?;
    let begin = Instant::now();
    change()?;
    bench.seconds(side, what, begin.elapsed());
    pair.rest()?;
    let wire = meter.wire()?;
    bench.amount(side, &format!("{what}: wire"), "KiB", wire as f64 / 1024.0);
    Ok(())
}

fn copy_range(from: &File, to: &File) -> io::Result<()> {
    let mut left = from.metadata()?.len();
    while left > 0 {
        let part = usize::try_from(left).unwrap_or(usize::MAX).min(1 << 30);
        match rustix::fs::copy_file_range(from.as_fd(), None, to.as_fd(), None, part)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            done => left -= done as u64,
        }
    }
    Ok(())
}

/// The same on the disk beneath: two copies and one pass of SHA-256 are what nobody can do without.
fn copied_twice_and_hashed(bench: &mut Bench, source: &Path) -> io::Result<()> {
    use sha2::{Digest as _, Sha256};
    let ground = Ground::new(Side::Native)?;
    let begin = Instant::now();
    local::copy(source, &ground.dir.join("a"))?;
    bench.seconds(Side::Native, "1 GiB: written and closed at A", begin.elapsed());
    local::copy(&ground.dir.join("a"), &ground.dir.join("b"))?;
    let (mut file, mut piece, mut hash) = (File::open(ground.dir.join("b"))?, vec![0; PIECE], Sha256::new());
    loop {
        match file.read(&mut piece)? {
            0 => break,
            len => hash.update(&piece[..len]),
        }
    }
    std::hint::black_box(hash.finalize());
    bench.seconds(Side::Native, "1 GiB: from first byte at A to whole at B", begin.elapsed());
    Ok(())
}

fn compare(one: &Path, other: &Path) -> io::Result<()> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut here, mut there) = (vec![0; PIECE], vec![0; PIECE]);
    for _ in 0..LARGE / PIECE as u64 {
        one.read_exact(&mut here)?;
        other.read_exact(&mut there)?;
        if here != there {
            return Err(io::Error::other("the large file has other bytes at B"));
        }
    }
    Ok(())
}

pub(super) fn cold(bench: &mut Bench, side: Side) -> io::Result<()> {
    const READS: u64 = 200;
    let pair = Pair::new(side)?;
    local::fill(bench, &File::create(pair.a.path("large"))?, LARGE)?;
    await_it("the large file", Duration::from_millis(5), || {
        Ok(fs::metadata(pair.b.path("large")).ok().filter(|found| found.len() == LARGE))
    })?;
    pair.rest()?;
    let meter = pair.meter()?;
    let file = File::open(pair.b.path("large"))?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Random)?;
    let mut piece = [0; SMALL];
    let begin = Instant::now();
    for _ in 0..READS {
        let at = bench.dice.random_range(0..LARGE / SMALL as u64) * SMALL as u64;
        file.read_exact_at(&mut piece, at)?;
    }
    bench.seconds(side, "200 reads", begin.elapsed());
    pair.rest()?;
    let asked = (READS * SMALL as u64) as f64;
    bench.amount(side, "wire, as a multiple of what was asked", "×", meter.wire()? as f64 / asked);
    meter.enter(bench, side, "200 reads")
}

pub(super) fn idle(bench: &mut Bench, side: Side) -> io::Result<()> {
    let pair = Pair::new(side)?;
    fs::create_dir(pair.a.path("d"))?;
    for number in 0..10_000 {
        fs::write(pair.a.path(format!("d/file {number}")), number.to_string())?;
    }
    await_it("all files", Duration::from_millis(100), || {
        Ok(fs::read_dir(pair.b.path("d")).is_ok_and(|entries| entries.count() == 10_000).then_some(()))
    })?;
    pair.rest()?;
    thread::sleep(Duration::from_secs(10));
    let before = meter::wire()?;
    let meter = pair.meter()?;
    thread::sleep(Duration::from_mins(1));
    bench.amount(side, "wire, with headers and acknowledgements", "KiB", (meter::wire()? - before) as f64 / 1024.0);
    meter.enter(bench, side, "60 s")
}
