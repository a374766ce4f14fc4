//! `./dev torture [ROUNDS]`: the torture run, 200 rounds unless told otherwise.

use std::process::ExitCode;

fn main() -> ExitCode {
    let given = std::env::args().nth(1);
    let rounds = match given.as_deref().map(str::parse) {
        None => 200,
        Some(Ok(rounds)) => rounds,
        Some(Err(error)) => {
            eprintln!("torture: the number of rounds is not a number: {error}");
            return ExitCode::from(2);
        }
    };
    syncmount_tests::torture::torture("torture", rounds);
    eprintln!("torture: {rounds} rounds, both mounts equal to the books after each");
    ExitCode::SUCCESS
}
