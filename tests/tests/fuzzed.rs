//! The corpus of the fuzz targets: every input runs again, and random changes of it.

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};
use std::path::{Path, PathBuf};
use std::{fs, panic};
use syncmount_tests::fuzzed::TARGETS;

/// Changed inputs of each target.
const CHANGED: usize = 300;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

fn change(bytes: &mut Vec<u8>, rng: &mut SmallRng) {
    for _ in 0..rng.random_range(1..8) {
        let at = rng.random_range(0..=bytes.len());
        match rng.random_range(0..4) {
            0 => bytes.insert(at, rng.random()),
            1 => bytes.truncate(at.max(bytes.len() / 2)),
            2 if at < bytes.len() => bytes[at] = rng.random(),
            _ => {
                let piece = bytes[at..].iter().take(16).copied().collect::<Vec<_>>();
                let to = rng.random_range(0..=bytes.len());
                bytes.splice(to..to, piece);
            }
        }
    }
}

#[test]
fn each_target_has_a_corpus_and_holds_it() {
    for target in TARGETS {
        let inputs = corpus(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        (target.run)(b"");
        for (path, bytes) in &inputs {
            let outcome = panic::catch_unwind(|| (target.run)(bytes));
            assert!(outcome.is_ok(), "{} on {}", target.name, path.display());
        }
    }
}

#[test]
fn changed_inputs_are_held_too() {
    for target in TARGETS {
        let inputs = corpus(target.name);
        let mut rng = SmallRng::seed_from_u64(1);
        for index in 0..CHANGED {
            let mut bytes = inputs[index % inputs.len()].1.clone();
            change(&mut bytes, &mut rng);
            let outcome = panic::catch_unwind(|| (target.run)(&bytes));
            assert!(outcome.is_ok(), "{} on {bytes:?}", target.name);
        }
    }
}

#[test]
fn random_pages_are_held() {
    let mut rng = SmallRng::seed_from_u64(2);
    for _ in 0..3_000 {
        let mut bytes = vec![0; rng.random_range(0..400)];
        rng.fill_bytes(&mut bytes);
        let outcome = panic::catch_unwind(|| syncmount_tests::fuzzed::run("pages", &bytes));
        assert!(outcome.is_ok(), "{bytes:?}");
    }
}
