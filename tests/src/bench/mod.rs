//! The whole-system bench: real programs, real kernel, one machine, and the disk beneath as the measure.
//!
//! Owns what is measured and how it is reported; knows of the programs only what their users see. Every measurement has a
//! server and two devices that were started for it. The sides of a workload are measured in turn, round by round, so that
//! what else the machine does meets all of them.

mod between;
mod disk;
mod local;
mod metadata;
mod meter;
mod pair;
mod report;
mod rival;
mod scale;
mod watching;

pub use meter::isolate;

use crate::support::Dice;
use pair::Side;
use report::Report;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What is measured, how often, and where the figures go.
pub struct Options {
    /// Names of workloads; all if empty.
    pub only: Vec<String>,
    /// How often each is measured.
    pub rounds: usize,
    /// Nodes of the large folder.
    pub nodes: usize,
    /// Other tools that are measured beside: `rclone`.
    pub with: Vec<String>,
    /// Where the figures are written as JSON.
    pub json: Option<PathBuf>,
}

/// One workload: what it is called, what it shows, and where it is measured.
struct Workload {
    name: &'static str,
    about: &'static str,
    sides: &'static [Side],
    run: fn(&mut Bench, Side) -> io::Result<()>,
}

const SYNCED: &[Side] = &[Side::Mount, Side::Watch];
const ON_DISK: &[Side] = &[Side::Native, Side::Mount];

const WORKLOADS: &[Workload] = &[
    Workload {
        name: "latency",
        about: "a 4 KiB file: made, renamed, removed at A; seen at B (a watched folder settles for 60 ms)",
        sides: SYNCED,
        run: between::latency,
    },
    Workload {
        name: "small",
        about: "1,000 files of 4 KiB from A to B",
        sides: SYNCED,
        run: |bench, side| between::small(bench, side, 1_000),
    },
    Workload {
        name: "many",
        about: "10,000 files of 4 KiB from A to B",
        sides: SYNCED,
        run: |bench, side| between::small(bench, side, 10_000),
    },
    Workload {
        name: "large",
        about: "1 GiB of noise from A to B, then small changes of it",
        sides: &[Side::Native, Side::Mount, Side::Watch],
        run: between::large,
    },
    Workload {
        name: "cold",
        about: "200 random reads of 4 KiB of a file of 1 GiB that is not here",
        sides: &[Side::Mount],
        run: between::cold,
    },
    Workload { name: "idle", about: "60 s of nothing, 10,000 files", sides: SYNCED, run: between::idle },
    Workload {
        name: "data",
        about: "reading and writing 1 GiB; passed: with --passthrough always",
        sides: &[Side::Native, Side::Mount, Side::Passed],
        run: local::data,
    },
    Workload {
        name: "metadata",
        about: "making, listing, renaming, removing; programs",
        sides: ON_DISK,
        run: metadata::metadata,
    },
    Workload { name: "listing", about: "a folder of 100,000 files", sides: ON_DISK, run: metadata::listing },
    Workload {
        name: "start",
        about: "a watched folder of 100,000 files: the scan at the start, then 60 s of nothing",
        sides: &[Side::Watch],
        run: watching::start,
    },
    Workload {
        name: "scale",
        about: "a folder of many files: first join, memory, restart",
        sides: &[Side::Mount],
        run: scale::scale,
    },
];

/// Workloads that take minutes and are measured once.
const ONCE: [&str; 3] = ["idle", "start", "scale"];

/// What a running bench has.
struct Bench {
    report: Report,
    dice: Dice,
    nodes: usize,
    workload: &'static str,
}

impl Bench {
    /// Enters seconds, to be compared with the disk beneath if that was measured too.
    fn seconds(&mut self, side: Side, what: &str, took: Duration) {
        self.report.enter(self.workload, side, what, "s", took.as_secs_f64());
    }

    /// Enters another quantity.
    fn amount(&mut self, side: Side, what: &str, unit: &'static str, amount: f64) {
        self.report.enter(self.workload, side, what, unit, amount);
    }
}

/// Runs what `options` name and writes the medians to `out`. An error says which step of which workload failed.
pub fn run(options: &Options, out: &mut impl Write) -> io::Result<()> {
    if let Some(unknown) = options.only.iter().find(|name| !WORKLOADS.iter().any(|known| known.name == *name)) {
        let known: Vec<String> = WORKLOADS.iter().map(|known| format!("  {:9} {}", known.name, known.about)).collect();
        return Err(io::Error::other(format!("there is no workload {unknown}; there are\n{}", known.join("\n"))));
    }
    let others = others(&options.with)?;
    let mut bench = Bench { report: Report::default(), dice: Dice::fixed(1), nodes: options.nodes, workload: "" };
    for workload in WORKLOADS {
        // The largest takes many minutes: only by its name.
        let asked = if options.only.is_empty() {
            workload.name != "scale"
        } else {
            options.only.iter().any(|name| name == workload.name)
        };
        if !asked {
            continue;
        }
        bench.workload = workload.name;
        let rounds = if ONCE.contains(&workload.name) { 1 } else { options.rounds };
        let measured = measure(&mut bench, workload, &others, rounds);
        // What was measured before something failed is worth its minutes too.
        writeln!(out, "\n{}: {}\n{}", workload.name, workload.about, bench.report.table(workload.name))?;
        measured?;
    }
    options.json.iter().try_for_each(|path| std::fs::write(path, bench.report.json()))
}

/// The sides that are named, if they can be measured here.
fn others(names: &[String]) -> io::Result<Vec<Side>> {
    let named = names.iter().map(|name| match name.as_str() {
        "rclone" => rival::check().map(|()| Side::Rclone),
        _ => Err(io::Error::other(format!("{name} cannot be measured; rclone can"))),
    });
    named.collect()
}

fn measure(bench: &mut Bench, workload: &Workload, others: &[Side], rounds: usize) -> io::Result<()> {
    // What is asked of this project's own only is not asked of others.
    let others = if ["start", "scale"].contains(&workload.name) { &[] } else { others };
    let sides: Vec<Side> = workload.sides.iter().chain(others).copied().collect();
    for round in 0..rounds {
        for at in 0..sides.len() {
            let side = sides[(at + round) % sides.len()];
            let begin = Instant::now();
            let done = (workload.run)(bench, side).map_err(|error| {
                let last = bench.report.last().map_or(String::new(), |last| format!(", after \"{last}\""));
                io::Error::new(error.kind(), format!("{} on {side}{last}: {error}", workload.name))
            });
            match done {
                Ok(()) => {}
                // What others cannot do is told, and the rest is measured.
                Err(error) if side.is_other() => eprintln!("bench: {error}"),
                Err(error) => return Err(error),
            }
            let took = begin.elapsed().as_secs_f64();
            eprintln!("{} {side}: round {} of {rounds}, {took:.1} s", workload.name, round + 1);
        }
    }
    Ok(())
}
