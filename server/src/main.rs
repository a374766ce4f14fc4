//! The server as a program.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    syncmount_server::cli::main()
}
