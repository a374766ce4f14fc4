//! Worlds of engines and a server: fresh seeds, seeds that found something once, and bugs that must be found.

use std::sync::Mutex;
use syncmount_tests::sim::shrink::shrink;
use syncmount_tests::sim::{Planted, Setup, fresh_seed, run};

/// A few seconds of debug builds; a soak runs more.
const WORLDS: u64 = 500;
const THREADS: u64 = 2;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn holds(setup: &Setup) {
    if let Some(failure) = run(setup).failure {
        panic!("{failure}\n{:?}\n{}", setup.scenario, setup.reproduction());
    }
}

fn failures(from: u64, end: u64) -> usize {
    let mut count = 0;
    for seed in (from..end).step_by(THREADS as usize) {
        let setup = Setup::of(seed);
        if let Some(failure) = run(&setup).failure {
            let (small, _) = shrink(&setup);
            eprintln!("{failure}\n    {}\n    {}", setup.reproduction(), small.reproduction());
            count += 1;
        }
    }
    count
}

/// Fresh worlds at each run. `SYNCMOUNT_SIM_WORLDS` says how many, `SYNCMOUNT_SIM_FROM` where they begin.
#[test]
fn worlds_hold() {
    let worlds = setting("SYNCMOUNT_SIM_WORLDS").unwrap_or(WORLDS);
    let from = setting("SYNCMOUNT_SIM_FROM").unwrap_or_else(fresh_seed);
    eprintln!("worlds from seed {from} on: SYNCMOUNT_SIM_FROM={from} SYNCMOUNT_SIM_WORLDS={worlds} repeats them");
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
    let named = Setup::named(|name| std::env::var(format!("SYNCMOUNT_SIM_{name}")).ok());
    let setup = Setup { verbose: true, ..named.unwrap().unwrap_or_else(|| Setup::of(1)) };
    let report = run(&setup);
    eprintln!("{}\n{:?}, {} steps, {} nodes", report.trace, setup.scenario, report.lines, report.nodes);
    assert!(report.failure.is_none(), "{}\n{}", report.failure.unwrap_or_default(), setup.reproduction());
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in [1, 2, 3, 4, 5, 6, 7, 8] {
        let setup = Setup::of(seed);
        let (first, second) = (run(&setup), run(&setup));
        assert_eq!(first.digest, second.digest, "{}", setup.reproduction());
        assert!(first.lines > 100, "{first:?}");
    }
}

/// Seeds within which each planted bug must be found.
const SEEDS_MAX: u64 = 2_000;

/// The first seed whose world finds a bug.
fn finder(planted: Planted) -> Option<u64> {
    (0..SEEDS_MAX).find(|seed| run(&Setup::of(*seed).with(planted)).failure.is_some())
}

/// A judge that finds nothing where there is something is worth nothing.
#[test]
fn every_planted_bug_is_found() {
    let queue = Mutex::new(Planted::ALL.to_vec());
    let work = || {
        let mut missed = Vec::new();
        while let Some(planted) = { queue.lock().unwrap().pop() } {
            let found = finder(planted);
            eprintln!("{}: {found:?}", planted.name());
            missed.extend(found.is_none().then(|| planted.name()));
        }
        missed
    };
    let missed: Vec<&str> = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    });
    assert!(missed.is_empty(), "{missed:?} was not found in {SEEDS_MAX} worlds");
}

/// What is left of a world when nothing more can be left out: a few things that somebody does, and the faults it takes.
#[test]
fn a_failure_is_shrunk_to_what_it_takes() {
    let planted = Planted::CopySkipped;
    let seed = finder(planted).unwrap();
    let setup = Setup::of(seed).with(planted);
    let (small, report) = shrink(&setup);
    eprintln!("{}\n{}", setup.reproduction(), small.reproduction());
    assert!(report.failure.is_some());
    let left = small.entries().len();
    assert!(left < setup.entries().len() / 2 && left <= 12, "{left} of {} are left", setup.entries().len());
    let line = small.reproduction();
    let variable = |name: &str| {
        let word = line.split(' ').find_map(|word| word.strip_prefix(&format!("SYNCMOUNT_SIM_{name}=")));
        word.map(str::to_owned)
    };
    assert_eq!(Setup::named(variable).unwrap(), Some(small), "the line says all that it takes");
}

/// A fixed set beside the fresh ones. What a seed stands for changes with the simulation, so the bugs found so far have
/// unit tests in the engine where they could be said in a few lines.
#[test]
fn fixed_seeds() {
    for seed in [0, 8, 15, 37, 47, 103, 801_265] {
        holds(&Setup::of(seed));
    }
}
