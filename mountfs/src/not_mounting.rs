//! The command without a word, where nothing can be mounted.

use crate::watching::{self, recall};
#[cfg(unix)]
use syncmount::cli::WatchArgs;
use syncmount::cli::{Mode, MountArgs};
use syncmount::config::StartError;
use syncmount::terminal;

/// `syncmount FOLDER`: the folder is watched.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let args = &recall(args)?;
    let why = if cfg!(windows) { " on Windows" } else { ", because it was built without that" };
    let mode = args.mode.unwrap_or_default();
    if mode == Mode::Mount {
        return Err(StartError::CannotMount { why, folder: args.mountpoint.clone() }.into());
    }
    if mode == Mode::Auto {
        terminal::complain(format_args!("the folder is watched; it cannot be mounted{why}"));
    }
    watching::start(args, watching::habits(&args.watch))
}

/// The same in the background.
#[cfg(unix)]
pub(crate) fn run_in_background(args: &MountArgs) -> std::process::ExitCode {
    watching::in_background(args.verbose, &WatchArgs::default())
}
