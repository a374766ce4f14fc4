//! The command without a word, where nothing can be mounted.

use syncmount::cli::MountArgs;
use syncmount::config::StartError;

/// `syncmount FOLDER`: says what to do instead.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let why = if cfg!(windows) { " on Windows" } else { ", because it was built without that" };
    Err(StartError::CannotMount { why, folder: args.mountpoint.clone() }.into())
}
