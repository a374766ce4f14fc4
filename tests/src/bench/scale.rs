//! A folder of very many files: costs must grow with the changes, not with the folder.

use super::Bench;
use super::meter;
use super::pair::{Pair, Party, Side, await_it};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

const PER_DIR: usize = 1_000;

pub(super) fn scale(bench: &mut Bench, side: Side) -> io::Result<()> {
    let (nodes, mut pair) = (bench.nodes, Pair::new(side)?);
    pair.b.stop()?;
    let begin = Instant::now();
    for number in 0..nodes {
        let dir = pair.a.path(format!("dir {:05}", number / PER_DIR));
        if number % PER_DIR == 0 {
            fs::create_dir(&dir)?;
        }
        fs::write(dir.join(format!("{number}")), b"")?;
    }
    bench.seconds(side, &format!("make {nodes} empty files at A"), begin.elapsed());
    await_it("all files at the server", Duration::from_secs(1), || Ok((pair.a.pending()? == 0).then_some(())))?;
    bench.seconds(side, "all at the server after", begin.elapsed());
    let last = format!("dir {:05}/{}", (nodes - 1) / PER_DIR, nodes - 1);
    let mut fresh = pair.another("C")?;
    let begin = Instant::now();
    fresh.mount()?;
    bench.seconds(side, "first join, to a live mount", begin.elapsed());
    fs::metadata(fresh.path(&last))?;
    let begin = Instant::now();
    pair.b.mount()?;
    await_it("all files at B", Duration::from_millis(20), || Ok(pair.b.path(&last).try_exists()?.then_some(())))?;
    bench.seconds(side, "B, which was away while they were made, has them", begin.elapsed());
    pair.rest()?;
    let server = meter::peak(pair.server())?;
    let joined = meter::peak(fresh.pid()?)?;
    for (name, peak) in [("server", server), ("A", meter::peak(pair.a.pid()?)?), ("who has joined", joined)] {
        bench.amount(side, &format!("peak memory of {name}"), "MiB", peak);
    }
    bench.amount(side, "its memory at rest", "MiB", meter::resident(fresh.pid()?)?);
    fresh.stop()?;
    let begin = Instant::now();
    fresh.mount()?;
    bench.seconds(side, "its restart, to a live mount", begin.elapsed());
    fs::metadata(fresh.path(&last))?;
    bench.amount(side, "its peak memory after the restart", "MiB", meter::peak(fresh.pid()?)?);
    idle(bench, side, &fresh)
}

/// Cost must grow with the changes, not with the folder.
fn idle(bench: &mut Bench, side: Side, device: &Party) -> io::Result<()> {
    let pid = device.pid()?;
    std::thread::sleep(Duration::from_secs(10));
    let before = meter::cpu(pid)?;
    std::thread::sleep(Duration::from_mins(1));
    bench.seconds(side, "60 s of nothing: its CPU", meter::cpu(pid)? - before);
    Ok(())
}
