//! What a large watched folder costs that nobody changes.

use super::Bench;
use super::disk::Disk;
use super::pair::Side;
use crate::support::World;
use std::fs;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

const DIRS: usize = 100;
const FILES: usize = 100_000;

pub(super) fn start(bench: &mut Bench, side: Side) -> io::Result<()> {
    let disk = Disk::new()?;
    let world = World::lasting_in(disk.path(), Duration::from_secs(3600));
    let device = world.device("A").watched();
    for number in 0..FILES {
        let dir = device.path(format!("dir {:02}", number % DIRS));
        fs::create_dir_all(&dir)?;
        fs::write(dir.join(format!("{number}")), number.to_string())?;
    }
    let begin = Instant::now();
    device.mount();
    device.wait_synced();
    bench.seconds(side, "first join: all at the server", begin.elapsed());
    device.stop();
    let begin = Instant::now();
    device.mount();
    bench.seconds(side, "start with nothing changed, to the end of the scan", begin.elapsed());
    device.wait_synced();
    let pid = device.processes().first().copied().ok_or_else(|| io::Error::other("the device has ended"))?;
    thread::sleep(Duration::from_secs(10));
    let (requests, cpu) = (device.status().requests, super::meter::cpu(pid)?);
    thread::sleep(Duration::from_mins(1));
    let used = super::meter::cpu(pid)? - cpu;
    bench.amount(side, "idle for 60 s: processor", "%", used.as_secs_f64() / 60.0 * 100.0);
    bench.amount(side, "idle for 60 s: requests that began", "", (device.status().requests - requests) as f64);
    bench.amount(side, "peak memory", "MiB", super::meter::peak(pid)?);
    device.stop();
    Ok(())
}
