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

/// What happens to the watched folder meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meanwhile {
    /// It follows.
    Quiet,
    /// Somebody changes it, too.
    Changed,
    /// The process that keeps it in step is killed again and again, between any two of its records and after each.
    Killed,
}

/// Plays one run.
pub fn follow(seed: u64, meanwhile: Meanwhile) -> Result<(), String> {
    let pair = Pair::new((Shows::Mounted, Shows::Watched));
    let mut run = Run { dice: Dice::fixed(seed), pair, meanwhile, log: String::new() };
    run.pair.x.act("mkdir d; mkdir e")?;
    let done = (0..STEPS).try_for_each(|_| run.step()).and_then(|()| run.come_to_rest());
    done.map_err(|error| format!("seed {seed}: {error}\n{}", run.log))
}

struct Run {
    dice: Dice,
    pair: Pair,
    meanwhile: Meanwhile,
    log: String,
}

impl Run {
    fn note(&mut self, what: &str) {
        // Writing into a String cannot fail.
        let _ = writeln!(self.log, "  {what}");
    }

    fn step(&mut self) -> Result<(), String> {
        let Pair { server, library, x, y } = &mut self.pair;
        let now = x.shared.clock.get() + 1_000_000_000;
        x.shared.clock.set(now);
        y.shared.clock.set(now);
        if self.meanwhile == Meanwhile::Killed && y.shared.lives.get().is_none() {
            folder(y)?.shall_live(Some(self.dice.random_range(1..12)));
        }
        let mut done = Ok(());
        let note = match self.dice.random_range(0..12) {
            0..5 => {
                let line = random_line(&mut self.dice);
                // What cannot be done is not done.
                let done = x.act(&line);
                format!("x: {line}{}", if done.is_ok() { "" } else { " (refused)" })
            }
            5 if self.meanwhile == Meanwhile::Changed => {
                let line = random_line(&mut self.dice);
                let acted = y.act(&line);
                done = y.look();
                format!("y: {line}{}", if acted.is_ok() { "" } else { " (refused)" })
            }
            5 | 6 => {
                done = x.speak(server, library);
                "x sends".into()
            }
            7 | 8 => {
                done = y.speak(server, library);
                "y listens".into()
            }
            9 => {
                done = folder(y)?.begin_work();
                "y works".into()
            }
            _ => {
                let which = self.dice.random_range(0..8);
                done = folder(y)?.finish_one(which, library).map(drop);
                "a content arrives".into()
            }
        };
        if self.meanwhile == Meanwhile::Killed && self.dice.random_bool(0.1) {
            folder(y)?.shall_live(Some(0));
        }
        let was_killed = folder(y)?.restart_if_killed()?;
        self.note(&note);
        if was_killed {
            self.note("y was killed");
            self.go_on_meanwhile()?;
            folder(&mut self.pair.y)?.begin()?;
        }
        self.require_nothing_to_say()?;
        if was_killed { Ok(()) } else { done }
    }

    /// The tree is newer than the folder when it is looked at.
    fn go_on_meanwhile(&mut self) -> Result<(), String> {
        for _ in 0..self.dice.random_range(0..4) {
            let line = random_line(&mut self.dice);
            // What cannot be done is not done.
            let done = self.pair.x.act(&line);
            self.note(&format!("x: {line}{}", if done.is_ok() { "" } else { " (refused)" }));
        }
        let Pair { server, library, x, y } = &mut self.pair;
        x.speak(server, library)?;
        y.speak(server, library)?;
        self.note("x sends, y listens");
        Ok(())
    }

    /// Where nobody changes the folder, it never has anything to tell others.
    fn require_nothing_to_say(&self) -> Result<(), String> {
        match (self.meanwhile, self.pair.y.said.as_slice()) {
            (Meanwhile::Changed, _) | (_, []) => Ok(()),
            (_, said) => Err(format!("y takes something for a change that is none: {said:?}")),
        }
    }

    fn come_to_rest(&mut self) -> Result<(), String> {
        folder(&mut self.pair.y)?.shall_live(None);
        for _ in 0..ROUNDS_MAX {
            self.require_nothing_to_say()?;
            let Pair { server, library, x, y } = &mut self.pair;
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
        let Pair { server, x, y, .. } = &mut self.pair;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_two_directories_became_one_is_no_rename_of_what_is_in_them() {
        let mut pair = Pair::new((Shows::Mounted, Shows::Watched));
        {
            let Pair { server, library, x, y } = &mut pair;
            y.act("mkdir d; put d/a 1").unwrap();
            y.look().unwrap();
            x.act("mkdir d; put d/b 2").unwrap();
            x.speak(server, library).unwrap();
            // The folder has done nothing of it when its user goes on.
            y.speak(server, library).unwrap();
            y.act("mv d/a c").unwrap();
            y.look().unwrap();
        }
        let mut run = Run { dice: Dice::fixed(1), pair, meanwhile: Meanwhile::Changed, log: String::new() };
        run.come_to_rest().unwrap();
        let shown = run.pair.x.show((0, 0));
        let is_there = |path: &str| shown.iter().any(|line| line.starts_with(path));
        assert!(is_there("c=") && is_there("d/b=") && !is_there("d/a="), "{shown:?}");
    }
}
