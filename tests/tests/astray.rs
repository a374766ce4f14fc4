//! The watch mode's own code in a real folder, against a lying server and a rogue on the same disk.

use syncmount_tests::astray::{Report, astray};
use syncmount_tests::support::sized;

/// So many threads play the runs.
const THREADS: u64 = 2;

/// The run that is repeated alone.
const SEED: &str = "SYNCMOUNT_SEED";

/// The runs of these seeds; the first failure, if any failed.
fn play(seeds: std::ops::Range<u64>) -> Vec<Report> {
    let part = |first: u64| {
        let seeds = seeds.clone().skip(first as usize).step_by(THREADS as usize);
        seeds.map(|seed| {
            astray(seed).unwrap_or_else(|error| {
                panic!("{error}\nrepeat with: {SEED}={seed} cargo test -p syncmount-tests --test astray")
            })
        })
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || part(first).collect::<Vec<_>>())).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("each run holds")).collect()
    })
}

#[test]
fn nothing_is_led_astray() {
    if let Ok(seed) = std::env::var(SEED) {
        let seed: u64 = seed.parse().expect("SYNCMOUNT_SEED is a number");
        eprintln!("{:?}", play(seed..seed + 1));
        return;
    }
    let reports = play(0..sized(60, 300));
    let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let (lies, swaps, written) = (sum(|run| run.lies), sum(|run| run.swaps), sum(|run| run.written));
    let rejoined = reports.iter().filter(|run| run.rejoined).count();
    let (disbelieved, kills) = (sum(|run| run.disbelieved), sum(|run| run.kills));
    let runs = reports.len() as u64;
    eprintln!(
        "{runs} runs: {lies} lies, {disbelieved} not believed, {swaps} swaps, {written} files to be found, {kills} kills, {rejoined} joined again"
    );
    assert!(lies > runs && disbelieved > runs / 4 && swaps > runs && written > runs, "it was led astray");
    assert!((rejoined as u64) < runs / 5, "{rejoined} of {runs} had to join again");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 1000..1005 {
        assert_eq!(astray(seed), astray(seed), "seed {seed}");
    }
}
