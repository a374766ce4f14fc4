//! `./dev torture [ROUNDS [PARTY…]]`: the torture run, 200 rounds with two mounts and a watched folder unless told otherwise.

use std::process::ExitCode;
use syncmount_tests::torture::{PARTIES, Party, torture};

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1);
    let rounds = match given.next().as_deref().map(str::parse) {
        None => 200,
        Some(Ok(rounds)) => rounds,
        Some(Err(error)) => return refuse(&format!("the number of rounds is not a number: {error}")),
    };
    let parties = match given.map(|word| word.parse()).collect::<Result<Vec<Party>, _>>() {
        Ok(parties) if parties.is_empty() => PARTIES.to_vec(),
        Ok(parties) => parties,
        Err(error) => return refuse(&error),
    };
    torture("torture", rounds, &parties);
    eprintln!("torture: {rounds} rounds with {parties:?}, all equal to the books after each");
    ExitCode::SUCCESS
}

fn refuse(why: &str) -> ExitCode {
    eprintln!("torture: {why}");
    ExitCode::from(2)
}
