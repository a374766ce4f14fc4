//! A world that fails is made smaller: entries of its plan are left out and faults switched off as long as it still fails.

use super::plan::{SWITCHES, plan};
use super::{Report, Setup, run};
use std::collections::BTreeSet;

/// Worlds that are tried at most.
const TRIES_MAX: usize = 250;

/// A smaller world that fails too, and what is broken there.
pub fn shrink(setup: &Setup) -> (Setup, Report) {
    let report = run(setup);
    let mut shrinker = Shrinker { best: setup.clone(), report, tries: 0 };
    if shrinker.report.failure.is_some() {
        shrinker.best.keep = Some(setup.entries().iter().map(|(number, _)| *number).collect());
        shrinker.switch_off();
        shrinker.leave_out();
        shrinker.switch_off();
        shrinker.leave_out();
    }
    (shrinker.best, shrinker.report)
}

struct Shrinker {
    best: Setup,
    report: Report,
    tries: usize,
}

impl Shrinker {
    /// Takes a world in place of the best if it fails.
    fn try_out(&mut self, setup: Setup) -> bool {
        if self.tries >= TRIES_MAX {
            return false;
        }
        self.tries += 1;
        let report = run(&setup);
        let fails = report.failure.is_some();
        if fails {
            (self.best, self.report) = (setup, report);
        }
        fails
    }

    fn switch_off(&mut self) {
        for (name, _) in SWITCHES {
            let mut setup = self.best.clone();
            let mut rates = setup.faults();
            let on = SWITCHES.iter().any(|(switch, rate)| *switch == name && *rate(&mut rates) > 0);
            if on && setup.calm.insert(name) {
                self.try_out(setup);
            }
        }
    }

    /// Delta debugging (Zeller, Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", 2002), with complements only.
    fn leave_out(&mut self) {
        let mut len = self.entries().len().div_ceil(2).max(1);
        loop {
            let mut at = 0;
            let mut shrunk = false;
            while at < self.entries().len() {
                let entries = self.entries();
                let out: BTreeSet<usize> = entries.iter().skip(at).take(len).copied().collect();
                let keep = entries.into_iter().filter(|number| !out.contains(number)).collect();
                if self.try_out(Setup { keep: Some(keep), ..self.best.clone() }) {
                    shrunk = true;
                } else {
                    at += len;
                }
            }
            if len == 1 && !shrunk || self.tries >= TRIES_MAX {
                return;
            }
            len = len.div_ceil(2).min(len.saturating_sub(1).max(1));
        }
    }

    fn entries(&self) -> Vec<usize> {
        self.best.entries().iter().map(|(number, _)| *number).collect()
    }
}

/// Numbers as `3,7,9-12`.
pub fn ranges(numbers: &BTreeSet<usize>) -> String {
    let mut parts: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => parts.push((*number, *number)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    parts.iter().map(text).collect::<Vec<_>>().join(",")
}

/// What [`ranges`] wrote. `None` if that is something else.
pub fn parse_ranges(text: &str) -> Option<BTreeSet<usize>> {
    let mut numbers = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

impl Setup {
    /// The world that the variables of a command line name; see [`Setup::reproduction`]. `Err` with what is not understood.
    pub fn named(variable: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, String> {
        let Some(seed) = variable("SEED") else { return Ok(None) };
        let mut setup = Self::of(seed.parse().map_err(|_| format!("`{seed}` is no seed"))?);
        if let Some(keep) = variable("KEEP") {
            setup.keep = Some(parse_ranges(&keep).ok_or_else(|| format!("`{keep}` are no numbers"))?);
        }
        for name in variable("CALM").iter().flat_map(|calm| calm.split(',')) {
            let switch = SWITCHES.iter().find(|(switch, _)| *switch == name);
            setup.calm.insert(switch.ok_or_else(|| format!("there is no fault `{name}`"))?.0);
        }
        if let Some(name) = variable("PLANTED") {
            let planted = super::Planted::named(&name);
            setup = setup.with(planted.ok_or_else(|| format!("there is no bug `{name}`"))?);
        }
        Ok(Some(setup))
    }

    /// How many entries its plan has before anything is left out.
    pub fn plan_len(&self) -> usize {
        plan(self.seed, &self.scenario).len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_and_read() {
        let numbers = BTreeSet::from([3, 7, 9, 10, 11, 12]);
        assert_eq!(ranges(&numbers), "3,7,9-12");
        assert_eq!(parse_ranges("3,7,9-12"), Some(numbers));
        assert_eq!(parse_ranges(""), Some(BTreeSet::new()));
        assert_eq!(parse_ranges("x"), None);
    }
}
