//! The program `syncmount`: reads the command line, calls the library, says what went wrong.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used))]

#[cfg(all(feature = "mount", unix))]
mod mounting;
#[cfg(not(all(feature = "mount", unix)))]
#[path = "not_mounting.rs"]
mod mounting;
mod watching;

use anyhow::Context;
use std::process::ExitCode;
use syncmount::cli::{CacheCommand, Cli, Command};
use syncmount::commands::{self, CommandError};
use syncmount::config::{Dirs, StartError};
use syncmount::login::{self, LoginError};
use syncmount::{logging, service, terminal};
use syncmount_common::text::with_causes;
use syncmount_common::usage;

/// Exit code of wrong usage.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    abort_on_panic();
    let cli = match Cli::of(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => match usage::sentence(&error) {
            Some(sentence) => {
                terminal::complain(sentence);
                return USAGE.into();
            }
            None => error.exit(),
        },
    };
    let result = match (cli.command, cli.mount) {
        #[cfg(unix)]
        (Some(Command::Watch(args)), _) if args.background_child => {
            return watching::in_background(args.verbose, &args);
        }
        (Some(Command::Watch(args)), _) => watching::run(&args),
        (Some(command), _) => run_command(&command),
        #[cfg(unix)]
        (None, Some(args)) if args.background_child => return mounting::run_in_background(&args),
        (None, Some(args)) => mounting::run(&args),
        (None, None) => unreachable!("clap asks for a folder or a command"),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            terminal::complain(sentence(&error));
            exit_code(&error).into()
        }
    }
}

/// A mount of which one thread is gone answers some and hangs others. It is better dead: what was written is in the
/// journal, and the next start clears the mount.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("{panic}");
        std::process::abort();
    }));
}

fn run_command(command: &Command) -> anyhow::Result<()> {
    logging::init_quiet()?;
    let dirs = Dirs::of_user()?;
    if let Command::Logout(args) = command {
        return Ok(login::logout(args, &dirs)?);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start")?.block_on(async {
        match command {
            Command::Watch(args) => watching::run(args)?,
            Command::Login(args) => login::login(args, &dirs).await?,
            Command::Logout(args) => login::logout(args, &dirs)?,
            Command::Status(args) => commands::status(args, &dirs).await?,
            Command::Pin(args) => commands::pin(args, &dirs).await?,
            Command::Unpin(args) => commands::unpin(args, &dirs).await?,
            Command::Accept(args) => commands::accept(args, &dirs).await?,
            Command::Umount(args) => commands::umount(args, &dirs).await?,
            Command::Wait(args) => commands::wait(args, &dirs).await?,
            Command::Service(command) => service::service(command, &dirs)?,
            Command::Cache(CacheCommand::Verify(args)) => commands::verify_cache(args, &dirs).await?,
        }
        Ok(())
    })
}

fn sentence(error: &anyhow::Error) -> String {
    with_causes(error.chain())
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let start = match (error.downcast_ref(), error.downcast_ref(), error.downcast_ref()) {
        (Some(start), _, _) => Some(start),
        (_, Some(LoginError::Start(start)), _) => Some(start),
        (_, _, Some(CommandError::Start(start))) => Some(start),
        _ => None,
    };
    start.map_or(1, StartError::exit_code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn causes_are_said_once() {
        let error = anyhow::Error::from(io::Error::other("no space")).context("cannot write x: no space");
        assert_eq!(sentence(&error), "cannot write x: no space");
        let error = anyhow::Error::from(io::Error::other("no space")).context("cannot write x");
        assert_eq!(sentence(&error), "cannot write x: no space");
    }

    #[test]
    fn wrong_usage_has_a_code_of_its_own() {
        let usage = || StartError::FolderName("..".into());
        assert_eq!(exit_code(&usage().into()), 2);
        assert_eq!(exit_code(&LoginError::Start(usage()).into()), 2);
        assert_eq!(exit_code(&CommandError::Start(usage()).into()), 2);
        assert_eq!(exit_code(&StartError::NoHome.into()), 1);
        assert_eq!(exit_code(&anyhow::anyhow!("x")), 1);
    }
}
