//! The command without a word: mounts a folder, in this process or in one of its own.

use crate::watching::{self, recall, remember, serve_in_background};
use std::process::ExitCode;
use syncmount::background;
use syncmount::cli::{Mode, MountArgs};
use syncmount::config::{Environment, MountConfig, StartError};
use syncmount::ready::Ready;
use syncmount::watch;
use syncmount::{logging, mount, mountpoint, terminal};

/// `syncmount FOLDER`: checks everything that can be checked here, then mounts in this process or in one of its own.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let given = args.mode;
    let args = &recall(args)?;
    if given.is_none()
        && args.mode == Some(Mode::Mount)
        && let Some(why) = mountpoint::why_no_fuse()
    {
        return Err(StartError::MountedBefore(Box::new(why)).into());
    }
    if is_to_be_watched(args) {
        return watching::start(args, watching::habits(&args.watch));
    }
    let env = Environment::of_process()?;
    let config = MountConfig::resolve(&MountArgs { mode: Some(Mode::Mount), ..args.clone() }, &env)?;
    if args.foreground {
        logging::init(config.log_file.as_deref(), args.verbose)?;
    } else {
        logging::init_quiet()?;
    }
    if mountpoint::prepare(&config, &env.dirs)? {
        terminal::complain(format_args!("cleared a dead mount at {}", config.mountpoint.display()));
    }
    config.create_cache_dir()?;
    if args.foreground {
        let ready = Ready::foreground(remember(&config, env.dirs));
        return mount::run(&config, &ready);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    background::start(&config, &arguments, |why| terminal::complain(format_args!("{why}")))?;
    watching::say_begun(&config, "mounted")
}

/// The same in the process that [`background::start`] has started.
pub(crate) fn run_in_background(args: &MountArgs) -> ExitCode {
    serve_in_background(args.verbose, |config, ready| match config.choices.mode {
        Some(Mode::Watch) => watch::run(config, watching::habits(&config.watch), ready),
        _ => mount::run(config, ready),
    })
}

/// Whether a folder that may be mounted or watched is to be watched, and says so.
fn is_to_be_watched(args: &MountArgs) -> bool {
    match args.mode.unwrap_or_default() {
        Mode::Mount => false,
        Mode::Watch => true,
        Mode::Auto => mountpoint::why_no_fuse().is_some_and(|why| {
            terminal::complain(format_args!("the folder is not mounted but watched, because {why}"));
            true
        }),
    }
}
