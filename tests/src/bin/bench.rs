//! `./dev bench [WORKLOAD…] [--rounds N] [--nodes N] [--with rclone] [--json FILE]`: the whole-system bench.

use std::process::ExitCode;
use syncmount_tests::bench::{Options, isolate, run};

const USAGE: &str = "usage: bench [WORKLOAD…] [--rounds N] [--nodes N] [--with rclone] [--json FILE]";

fn options() -> Result<Options, String> {
    let mut options = Options { only: Vec::new(), rounds: 3, nodes: 1_000_000, with: Vec::new(), json: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value; {USAGE}"));
        let number = |text: String| text.parse().map_err(|error| format!("{text} is no number: {error}; {USAGE}"));
        match word.as_str() {
            "--rounds" => options.rounds = number(value()?)?,
            "--nodes" => options.nodes = number(value()?)?,
            "--with" => options.with.push(value()?),
            "--json" => options.json = Some(value()?.into()),
            option if option.starts_with('-') => return Err(format!("there is no option {option}; {USAGE}")),
            _ => options.only.push(word),
        }
    }
    if options.rounds == 0 || options.nodes == 0 {
        return Err(format!("nothing would be measured; {USAGE}"));
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(why) => {
            eprintln!("bench: {why}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = isolate() {
        eprintln!("bench: no network of its own ({error}): the wire counts all that goes over loopback meanwhile");
    }
    match run(&options, &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
