//! Simulated worlds, fresh ones, on all cores: `soak MINUTES`, or `soak --from SEED --worlds COUNT`.

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use std::io::{Write as _, stdout};
use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use syncmount_tests::sim::shrink::shrink;
use syncmount_tests::sim::{Setup, fresh_seed, run};

/// How often it is told how far it is.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// A world takes milliseconds, and to shrink it some seconds: what takes ten minutes has run into an endless loop.
const STUCK_AFTER: Duration = Duration::from_secs(600);

/// Failures that are shrunk; more are only told.
const SHRUNK_MAX: u64 = 10;

/// The worlds to live through, and how far that is.
struct Soak {
    from: u64,
    /// The first seed that is not lived through.
    end: u64,
    until: Option<Instant>,
    next: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
}

/// What a thread is at; `None` once it has ended.
type Present = Mutex<Option<(u64, Instant)>>;

fn number(words: &mut impl Iterator<Item = String>, name: &str) -> Result<u64> {
    words.next().and_then(|word| word.parse().ok()).with_context(|| format!("{name} is followed by a number"))
}

fn orders() -> Result<Soak> {
    let mut from = fresh_seed();
    let (mut worlds, mut minutes) = (None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--from" => from = number(&mut words, "--from")?,
            "--worlds" => worlds = Some(number(&mut words, "--worlds")?),
            _ => minutes = Some(word.parse::<f64>().with_context(|| format!("`{word}` is no number of minutes"))?),
        }
    }
    if worlds.is_none() && minutes.is_none() {
        bail!("usage: soak MINUTES | soak [--from SEED] --worlds COUNT");
    }
    let until = minutes.map(|minutes| Instant::now() + Duration::from_secs_f64(minutes * 60.0));
    let end = from.saturating_add(worlds.unwrap_or(u64::MAX));
    let (next, done, failed) = (AtomicU64::new(from), AtomicU64::new(0), AtomicU64::new(0));
    Ok(Soak { from, end, until, next, done, failed })
}

fn say(text: &str) {
    // Nobody listens: then there is nothing to be told.
    let _ = writeln!(stdout(), "{text}");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn main() -> Result<()> {
    let soak = Arc::new(orders()?);
    let threads = std::thread::available_parallelism().map_or(1, NonZero::get);
    say(&format!("worlds from seed {} on {threads} threads", soak.from));
    // A world that panics is told as one that failed.
    std::panic::set_hook(Box::new(|_| {}));
    let begin = Instant::now();
    let presents: Vec<Arc<Present>> = (0..threads).map(|_| Arc::new(Mutex::new(Some((soak.from, begin))))).collect();
    for present in &presents {
        let (soak, present) = (soak.clone(), present.clone());
        std::thread::spawn(move || soak.work(&present));
    }
    let mut told = begin;
    while presents.iter().any(|present| present.lock().is_some()) {
        std::thread::sleep(Duration::from_millis(100));
        let stuck =
            presents.iter().filter_map(|present| *present.lock()).find(|(_, since)| since.elapsed() > STUCK_AFTER);
        if let Some((seed, _)) = stuck {
            // Its thread ends with the program.
            bail!("a world does not end:\n    {}", Setup::of(seed).reproduction());
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            soak.sum_up(begin);
        }
    }
    say(&format!("the last seed was {}", (soak.from + soak.done.load(Ordering::Relaxed)).saturating_sub(1)));
    soak.sum_up(begin);
    match soak.failed.load(Ordering::Relaxed) {
        0 => Ok(()),
        count => bail!("{count} worlds failed; the lines above repeat them"),
    }
}

impl Soak {
    fn work(&self, present: &Present) {
        while self.until.is_none_or(|until| Instant::now() < until) {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end {
                break;
            }
            *present.lock() = Some((seed, Instant::now()));
            let setup = Setup::of(seed);
            if let Some(failure) = run(&setup).failure {
                self.tell(&setup, &failure);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        *present.lock() = None;
    }

    fn tell(&self, setup: &Setup, failure: &str) {
        let before = self.failed.fetch_add(1, Ordering::Relaxed);
        say(&format!("FAILED: {}\n    {}", first_line(failure), setup.reproduction()));
        if before < SHRUNK_MAX {
            let (small, report) = shrink(setup);
            let what = report.failure.unwrap_or_default();
            say(&format!("  smaller: {}\n    {}", first_line(&what), small.reproduction()));
        }
    }

    fn sum_up(&self, begin: Instant) {
        let (done, failed) = (self.done.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        let seconds = begin.elapsed().as_secs_f64();
        let rate = done as f64 / seconds.max(0.001);
        say(&format!("{done} worlds in {seconds:.0} s, {rate:.0} a second; {failed} failed"));
    }
}
