//! A folder of very many files: costs must grow with the changes, not with the folder.

use super::Bench;
use super::meter;
use super::pair::{Pair, Side, await_it};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

const PER_DIR: usize = 1_000;

pub(super) fn scale(bench: &mut Bench, side: Side) -> io::Result<()> {
    let (nodes, pair) = (bench.nodes, Pair::new(side)?);
    pair.b.stop();
    let begin = Instant::now();
    for number in 0..nodes {
        let dir = pair.a.path(format!("dir {:05}", number / PER_DIR));
        if number % PER_DIR == 0 {
            fs::create_dir(&dir)?;
        }
        fs::write(dir.join(format!("{number}")), b"")?;
    }
    bench.seconds(side, &format!("make {nodes} empty files at A"), begin.elapsed());
    await_it("all files at the server", Duration::from_secs(1), || {
        let status = pair.a.status();
        Ok((status.pending_files + status.pending_nodes == 0).then_some(()))
    })?;
    bench.seconds(side, "all at the server after", begin.elapsed());
    let begin = Instant::now();
    pair.b.mount();
    bench.seconds(side, "first join of B, to a live mount", begin.elapsed());
    let last = pair.b.path(format!("dir {:05}/{}", (nodes - 1) / PER_DIR, nodes - 1));
    fs::metadata(last)?;
    pair.rest()?;
    let of = |device: &crate::support::Device| device.processes().first().copied();
    for (name, pid) in [("server", Some(pair.world.server().pid())), ("A", of(&pair.a)), ("B", of(&pair.b))] {
        let pid = pid.ok_or_else(|| io::Error::other("the device has ended"))?;
        bench.amount(side, &format!("peak memory of {name}"), "MiB", meter::peak(pid)?);
    }
    pair.b.stop();
    let begin = Instant::now();
    pair.b.mount();
    bench.seconds(side, "restart of B, to a live mount", begin.elapsed());
    let pid = of(&pair.b).ok_or_else(|| io::Error::other("the device has ended"))?;
    bench.amount(side, "peak memory of B after the restart", "MiB", meter::peak(pid)?);
    Ok(())
}
