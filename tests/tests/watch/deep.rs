//! Directories that lie in each other, very many of them.

use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::process::{Signal, kill_process};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use syncmount_common::node::LEVELS_MAX;
use syncmount_tests::support::*;

/// Makes directories in each other; no path is as long as the way to the last one.
fn nest(top: &Path, levels: usize) {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, top, flags, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&dir, "d", Mode::RWXU).unwrap();
        dir = openat(&dir, "d", flags, Mode::empty()).unwrap();
    }
}

/// Removes them again: the last one first.
fn unnest(top: &Path, levels: usize) {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let mut dir = openat(CWD, top, flags, Mode::empty()).unwrap();
    // Some at a time: each takes a handle.
    let mut left = levels;
    while left > 0 {
        let step = left.min(500);
        let mut at = dir.try_clone().unwrap();
        for _ in 0..left - step {
            at = openat(&at, "d", flags, Mode::empty()).unwrap();
        }
        let mut way = vec![at];
        for _ in 0..step - 1 {
            way.push(openat(way.last().unwrap(), "d", flags, Mode::empty()).unwrap());
        }
        for above in way.iter().rev() {
            unlinkat(above, "d", rustix::fs::AtFlags::REMOVEDIR).unwrap();
        }
        left -= step;
        dir = openat(CWD, top, flags, Mode::empty()).unwrap();
    }
}

#[test]
fn a_watch_ends_within_seconds_in_front_of_six_thousand_nested_directories() {
    let world = World::new();
    let a = world.watch("A");
    nest(&a.folder, 6000);
    let mut slowest = Duration::ZERO;
    // While it looks at them, and after a start that has found some of them.
    for meanwhile in [700, 100] {
        std::thread::sleep(Duration::from_millis(meanwhile));
        let begin = Instant::now();
        for pid in a.processes() {
            kill_process(pid, Signal::TERM).unwrap();
        }
        a.await_end();
        slowest = slowest.max(begin.elapsed());
        a.mount();
    }
    a.kill();
    unnest(&a.folder, 6000);
    assert!(slowest < Duration::from_secs(8), "it took {slowest:?}");
}

#[test]
fn what_lies_too_deep_is_told_and_the_rest_is_shared() {
    let world = World::new();
    let a = world.watch("A");
    nest(&a.folder, LEVELS_MAX + 2);
    fs::write(a.path("beside"), "1").unwrap();
    until("the sentence about what is too deep", || {
        let problems = a.status().problems;
        let told = problems.iter().any(|problem| problem.reason.contains("2048 directories"));
        if told { Ok(()) } else { Err(format!("{} problems", problems.len())) }
    });
    let b = world.watch("B");
    until("what lies beside", || fs::read(b.path("beside")).map(drop).map_err(|error| error.to_string()));
    a.kill();
    unnest(&a.folder, LEVELS_MAX + 2);
}
