//! Worlds with a lying server and worlds with a lying client (`syncmount_tests::liars`).

use std::sync::atomic::{AtomicUsize, Ordering};
use syncmount_tests::liars::{Kind, Tally, run};
use syncmount_tests::sim::fresh_seed;
use syncmount_tests::support::sized;

const THREADS: u64 = 2;

/// How many worlds of each kind `./dev cases` has.
const CASES: u64 = 5_000;

/// After so many failures no more worlds are lived through.
const FAILURES_MAX: usize = 5;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Fresh worlds at each run. `SYNCMOUNT_LIARS_WORLDS` says how many, `SYNCMOUNT_LIARS_FROM` where they begin.
fn worlds(kind: Kind, test: &str, everyday: u64) {
    let worlds = setting("SYNCMOUNT_LIARS_WORLDS").unwrap_or_else(|| sized(everyday, CASES));
    let from = setting("SYNCMOUNT_LIARS_FROM").unwrap_or_else(fresh_seed);
    let again = |from: u64, worlds: u64| {
        format!(
            "SYNCMOUNT_LIARS_FROM={from} SYNCMOUNT_LIARS_WORLDS={worlds} cargo test -p syncmount-tests --test liars {test}"
        )
    };
    eprintln!("to repeat them: {}", again(from, worlds));
    let failures = AtomicUsize::new(0);
    let part = |first: u64| -> Tally {
        let mut tally = Tally::default();
        for seed in (from + first..from + worlds).step_by(THREADS as usize) {
            if failures.load(Ordering::Relaxed) >= FAILURES_MAX {
                break;
            }
            match run(kind, seed) {
                Ok(more) => tally = tally.and(more),
                Err(what) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    eprintln!("world {} of {worlds}: {what}\n    {}", seed - from, again(seed, 1));
                }
            }
        }
        tally
    };
    let tally = std::thread::scope(|scope| {
        let parts: Vec<_> = (0..THREADS).map(|first| scope.spawn(move || part(first))).collect();
        parts.into_iter().map(|part| part.join().unwrap()).fold(Tally::default(), Tally::and)
    });
    eprintln!("{worlds} worlds: {tally:?}");
    assert_eq!(failures.into_inner(), 0, "worlds failed; the lines above repeat them");
    let is_wild = tally.lies >= 4 * worlds && tally.refused >= worlds && tally.taken >= worlds;
    assert!(is_wild || worlds < 100, "the worlds are too tame: {tally:?}");
}

#[test]
fn worlds_with_a_lying_server_hold() {
    worlds(Kind::Server, "worlds_with_a_lying_server_hold", 700);
}

#[test]
fn worlds_with_a_lying_client_hold() {
    worlds(Kind::Client, "worlds_with_a_lying_client_hold", 400);
}

/// What a seed stands for does not depend on what was before, so that its line repeats it.
#[test]
fn the_same_seed_gives_the_same_world() {
    for (kind, seed) in [Kind::Server, Kind::Client].into_iter().flat_map(|kind| [1, 2, 3, 4].map(|seed| (kind, seed)))
    {
        let again = || run(kind, seed).map(|tally| (tally.lies, tally.refused, tally.taken));
        assert_eq!(again(), again(), "{kind:?} {seed}");
    }
}
