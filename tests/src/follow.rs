//! A watched folder that follows a device on which much is done, step by step: changes come while others are half carried
//! out, contents arrive late and in any order. Nothing is ever compared as a whole, so what the folder forgets to do stays
//! undone and is found at the end.

use crate::pairs::{Pair, Shows};
use crate::support::Dice;
use rand::RngExt;
use std::fmt::Write as _;

/// What is done before all comes to rest.
const STEPS: usize = 60;

/// How long all may take to come to rest, in rounds.
const ROUNDS_MAX: usize = 60;

const PATHS: [&str; 9] = ["a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "e/d"];

/// Plays one run. If `busy`, somebody changes the watched folder, too.
pub fn follow(seed: u64, busy: bool) -> Result<(), String> {
    let mut run =
        Run { dice: Dice::fixed(seed), pair: Pair::new((Shows::Mounted, Shows::Watched)), busy, log: String::new() };
    run.pair.x.act("mkdir d; mkdir e")?;
    let done = (0..STEPS).try_for_each(|_| run.step()).and_then(|()| run.come_to_rest());
    done.map_err(|error| format!("seed {seed}: {error}\n{}", run.log))
}

struct Run {
    dice: Dice,
    pair: Pair,
    busy: bool,
    log: String,
}

impl Run {
    fn step(&mut self) -> Result<(), String> {
        let Pair { server, library, x, y } = &mut self.pair;
        let now = x.shared.clock.get() + 1_000_000_000;
        x.shared.clock.set(now);
        y.shared.clock.set(now);
        let mut note = |what: &str| {
            // Writing into a String cannot fail.
            let _ = writeln!(self.log, "  {what}");
        };
        match self.dice.random_range(0..12) {
            0..5 => {
                let line = random_line(&mut self.dice);
                // What cannot be done is not done.
                let done = x.act(&line);
                note(&format!("x: {line}{}", if done.is_ok() { "" } else { " (refused)" }));
            }
            5 if self.busy => {
                let line = random_line(&mut self.dice);
                let done = y.act(&line);
                note(&format!("y: {line}{}", if done.is_ok() { "" } else { " (refused)" }));
                y.look()?;
            }
            5 | 6 => {
                note("x sends");
                x.speak(server, library)?;
            }
            7 | 8 => {
                note("y listens");
                y.speak(server, library)?;
            }
            9 => {
                note("y works");
                folder(y)?.begin_work()?;
            }
            _ => {
                note("a content arrives");
                let which = self.dice.random_range(0..8);
                folder(y)?.finish_one(which, library)?;
            }
        }
        Ok(())
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        let Pair { server, library, x, y } = &mut self.pair;
        for _ in 0..ROUNDS_MAX {
            x.speak(server, library)?;
            y.speak(server, library)?;
            folder(y)?.begin_work()?;
            while folder(y)?.finish_one(0, library)? {}
            y.look()?;
            let is_busy = folder(y)?.retry();
            if !is_busy && x.is_at_rest(server) && y.is_at_rest(server) {
                y.check_disk()?;
                let clocks = (x.shared.clock.get(), y.shared.clock.get());
                let (seen_x, seen_y) = (x.show(clocks), y.show(clocks));
                return if seen_x == seen_y { Ok(()) } else { Err(format!("x shows {seen_x:?}, y {seen_y:?}")) };
            }
        }
        let check = y.check_disk();
        let rest = (x.is_at_rest(server), y.is_at_rest(server), folder(y)?.waits());
        Err(format!("it does not come to rest: {check:?}, {rest:?}"))
    }
}

fn folder(side: &mut crate::pairs::Side) -> Result<&mut crate::pairs_folder::PlainFolder, String> {
    side.folder.as_mut().ok_or_else(|| "it has no folder".into())
}

fn random_line(dice: &mut Dice) -> String {
    let path = |dice: &mut Dice| PATHS[dice.random_range(0..PATHS.len())];
    let (one, other) = (path(dice), path(dice));
    match dice.random_range(0..16) {
        0..5 => format!("put {one} {}", ["x", "y", "z", "0", "1", "2", "3", "xx", "yy"][dice.random_range(0..9)]),
        5..8 => format!("rm {one}"),
        8..12 => format!("mv {one} {other}"),
        12 => format!("swap {one} {other}"),
        13 => format!("mkdir {one}"),
        14 => format!("ln {one} target"),
        _ => format!("chmod {one} {}", if one.len() == 1 { "755" } else { "600" }),
    }
}
