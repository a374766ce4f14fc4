//! Reading and writing the bytes of a large file: the mount against the disk beneath.

use super::Bench;
use super::between::{LARGE, PIECE};
use super::pair::{Ground, Side};
use crate::support::bytes;
use rand::RngExt as _;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Bytes that are written 4 KiB at a time.
const BY_PAGES: u64 = 256 << 20;

/// Reads of 4 KiB at random places.
const RANDOM_READS: u64 = 20_000;

/// Fills a file with noise that does not repeat.
pub(super) fn fill(bench: &mut Bench, mut file: &File, len: u64) -> io::Result<()> {
    for _ in 0..len / PIECE as u64 {
        let noise = bytes(&mut bench.dice, PIECE);
        file.write_all(&noise)?;
    }
    Ok(())
}

/// Copies a file by reading and writing.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let (mut from, mut to, mut piece) = (File::open(from)?, File::create(to)?, vec![0; PIECE]);
    loop {
        match from.read(&mut piece)? {
            0 => return Ok(()),
            len => to.write_all(&piece[..len])?,
        }
    }
}

pub(super) fn read_through(path: &Path) -> io::Result<Duration> {
    let begin = Instant::now();
    let (mut file, mut piece) = (File::open(path)?, vec![0; PIECE]);
    while file.read(&mut piece)? > 0 {}
    Ok(begin.elapsed())
}

fn write(path: &Path, piece: &[u8], len: u64, sync: bool) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut file = File::create(path)?;
    for _ in 0..len / piece.len() as u64 {
        file.write_all(piece)?;
    }
    if sync {
        file.sync_all()?;
    }
    drop(file);
    Ok(begin.elapsed())
}

/// Until what was written is sent, so that sending it does not disturb what comes next.
fn rest(ground: &Ground) -> io::Result<()> {
    ground.pair.as_ref().map_or(Ok(()), super::pair::Pair::rest)
}

pub(super) fn data(bench: &mut Bench, side: Side) -> io::Result<()> {
    let mut ground = Ground::new(side)?;
    let (noise, large) = (bytes(&mut bench.dice, PIECE), ground.dir.join("large"));
    let took = write(&ground.dir.join("first"), &noise, LARGE, false)?;
    bench.seconds(side, "write 1 GiB and close", took);
    rest(&ground)?;
    let took = write(&ground.dir.join("second"), &noise, LARGE, true)?;
    bench.seconds(side, "write 1 GiB, fsync and close", took);
    rest(&ground)?;
    let took = write(&ground.dir.join("pages"), &noise[..4096], BY_PAGES, false)?;
    bench.seconds(side, "write 256 MiB by 4 KiB", took);
    for name in ["first", "second", "pages"] {
        fs::remove_file(ground.dir.join(name))?;
    }
    fill(bench, &File::create(&large)?, LARGE)?;
    rest(&ground)?;
    // Nothing of it is on its way to the disk while it is read.
    rustix::fs::sync();
    if let Some(pair) = &mut ground.pair {
        pair.a.stop()?;
        pair.a.mount()?;
        bench.seconds(side, "read 1 GiB, mount cold, cache warm", read_through(&large)?);
    } else {
        read_through(&large)?;
        bench.seconds(side, "read 1 GiB, mount cold, cache warm", read_through(&large)?);
    }
    read_through(&large)?;
    bench.seconds(side, "read 1 GiB again", read_through(&large)?);
    let (file, mut piece) = (File::open(&large)?, [0; 4096]);
    let begin = Instant::now();
    for _ in 0..RANDOM_READS {
        file.read_exact_at(&mut piece, bench.dice.random_range(0..LARGE / 4096) * 4096)?;
    }
    bench.seconds(side, "20,000 random reads of 4 KiB, warm", begin.elapsed());
    Ok(())
}
