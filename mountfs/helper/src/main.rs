//! See the library: this is only the order in which its parts are called.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("syncmount-helper: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(target_os = "linux")]
fn run() -> std::io::Result<()> {
    use syncmount_helper::{confine, rights, serve};
    let caller = rights::give_up()?;
    let socket = rights::socket_of(caller)?;
    confine::confine()?;
    serve::serve(&socket, caller)
}

#[cfg(not(target_os = "linux"))]
fn run() -> std::io::Result<()> {
    Err(std::io::Error::other("there is something to do for this program on Linux only"))
}
