//! The command without a word, where nothing can be mounted.

use crate::watching;
use syncmount::cli::{Mode, MountArgs};
use syncmount::config::StartError;
use syncmount::terminal;
use syncmount::watch::Options;

/// `syncmount FOLDER`: the folder is watched.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let why = if cfg!(windows) { " on Windows" } else { ", because it was built without that" };
    if args.mode == Mode::Mount {
        return Err(StartError::CannotMount { why, folder: args.mountpoint.clone() }.into());
    }
    if args.mode == Mode::Auto {
        terminal::complain(format_args!("the folder is watched; it cannot be mounted{why}"));
    }
    watching::start(args, Options::default())
}

/// The same in the background.
#[cfg(unix)]
pub(crate) fn run_in_background(args: &MountArgs) -> std::process::ExitCode {
    watching::in_background(Options::default(), args.verbose)
}
