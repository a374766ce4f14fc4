//! The command without a word: mounts a folder, in this process or in one of its own.

use crate::watching::{self, remember, serve_in_background};
use std::process::ExitCode;
use syncmount::background;
use syncmount::cli::{Mode, MountArgs};
use syncmount::config::{Environment, MountConfig};
use syncmount::ready::Ready;
use syncmount::watch::{self, Options};
use syncmount::{logging, mount, mountpoint, terminal};

/// `syncmount FOLDER`: checks everything that can be checked here, then mounts in this process or in one of its own.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    if is_to_be_watched(args, true) {
        return watching::start(args, Options::default());
    }
    let env = Environment::of_process()?;
    let config = MountConfig::resolve(args, &env)?;
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
    Ok(background::start(&config, &arguments, |why| terminal::complain(format_args!("{why}")))?)
}

/// The same in the process that [`background::start`] has started.
pub(crate) fn run_in_background(args: &MountArgs) -> ExitCode {
    let watched = is_to_be_watched(args, false);
    serve_in_background(args.verbose, |config, ready| {
        if watched { watch::run(config, Options::default(), ready) } else { mount::run(config, ready) }
    })
}

/// Whether a folder that may be mounted or watched is to be watched, and says so.
fn is_to_be_watched(args: &MountArgs, says: bool) -> bool {
    match args.mode {
        Mode::Mount => false,
        Mode::Watch => true,
        Mode::Auto => mountpoint::why_no_fuse().is_some_and(|why| {
            if says {
                terminal::complain(format_args!("the folder is not mounted but watched, because {why}"));
            }
            true
        }),
    }
}
