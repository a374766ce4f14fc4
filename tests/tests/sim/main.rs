//! Worlds of engines and a server: fresh seeds at every run, and the seeds that found something once.

use std::time::{SystemTime, UNIX_EPOCH};
use syncmount_tests::sim::{Rng, Scenario, reproduction, run};

/// A few seconds of debug builds; a soak runs more.
const WORLDS: u64 = 100;
const THREADS: u64 = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn holds(seed: u64) {
    let report = run(seed, Scenario::of(seed), false);
    if let Some(failure) = report.failure {
        panic!("{failure}\n{:?}\n{}", report.scenario, reproduction(seed));
    }
}

fn failures(from: u64, end: u64) -> usize {
    let broken = |seed: &u64| match run(*seed, Scenario::of(*seed), false).failure {
        Some(failure) => {
            eprintln!("{failure}\n    {}", reproduction(*seed));
            true
        }
        None => false,
    };
    (from..end).step_by(THREADS as usize).filter(broken).count()
}

/// `SYNCMOUNT_SIM_WORLDS` worlds nobody has seen before; `SYNCMOUNT_SIM_FROM` fixes where they begin.
#[test]
fn fresh_seeds() {
    let worlds = setting("SYNCMOUNT_SIM_WORLDS").unwrap_or(WORLDS);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let from = setting("SYNCMOUNT_SIM_FROM").unwrap_or_else(|| Rng::new(since.as_nanos() as u64).below(1 << 40));
    eprintln!("worlds {from} to {}", from + worlds);
    let failures = std::thread::scope(|scope| {
        let parts: Vec<_> =
            (0..THREADS).map(|part| scope.spawn(move || failures(from + part, from + worlds))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).sum::<usize>()
    });
    assert_eq!(failures, 0, "of {worlds} worlds failed; the lines above repeat them");
}

/// The world of `SYNCMOUNT_SIM_SEED`, told step by step.
#[test]
fn one_seed() {
    let seed = setting("SYNCMOUNT_SIM_SEED").unwrap_or(1);
    let mut scenario = Scenario::of(seed);
    scenario.actions = setting("SYNCMOUNT_SIM_ACTIONS").map_or(scenario.actions, |actions| actions as u32);
    let report = run(seed, scenario, true);
    eprintln!("{}\n{:?}, {} steps, {} nodes", report.trace, report.scenario, report.lines, report.nodes);
    assert!(report.failure.is_none(), "{}\n{}", report.failure.unwrap_or_default(), reproduction(seed));
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in [1, 2, 3, 4, 5, 6, 7, 8] {
        let first = run(seed, Scenario::of(seed), false);
        let second = run(seed, Scenario::of(seed), false);
        assert_eq!(first.digest, second.digest, "{}", reproduction(seed));
        assert!(first.lines > 100, "{first:?}");
    }
}

/// A fixed set beside the fresh ones. What a seed stands for changes with the simulation, so the bugs found so far have
/// unit tests in the engine where they could be said in a few lines.
#[test]
fn fixed_seeds() {
    for seed in [0, 8, 15, 37, 47, 103] {
        holds(seed);
    }
}
