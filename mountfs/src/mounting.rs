//! The command without a word: mounts a folder, in this process or in one of its own.

use crate::{exit_code, sentence};
use std::process::ExitCode;
use syncmount::background;
use syncmount::cli::MountArgs;
use syncmount::config::{Dirs, Environment, MountConfig};
use syncmount::ready::{OnLive, Ready};
use syncmount::{logging, mount, mountpoint};

/// `syncmount FOLDER`: checks everything that can be checked here, then mounts in this process or in one of its own.
pub(crate) fn run(args: &MountArgs) -> anyhow::Result<()> {
    let env = Environment::of_process()?;
    let config = MountConfig::resolve(args, &env)?;
    if args.foreground {
        logging::init(config.log_file.as_deref(), args.verbose)?;
    } else {
        logging::init_quiet()?;
    }
    if mountpoint::prepare(&config, &env.dirs)? {
        eprintln!("syncmount: cleared a dead mount at {}", config.mountpoint.display());
    }
    config.create_cache_dir()?;
    if args.foreground {
        let ready = Ready::foreground(remember(&config, env.dirs));
        return mount::run(&config, &ready);
    }
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    Ok(background::start(&config, &arguments, |why| eprintln!("syncmount: {why}"))?)
}

/// The same in the process that [`background::start`] has started.
pub(crate) fn run_in_background(args: &MountArgs) -> ExitCode {
    // What goes wrong here has been told to the one who waits.
    let Ok((config, pipe)) = background::adopt() else { return ExitCode::FAILURE };
    let (ready, dirs) = match Dirs::of_user() {
        Ok(dirs) => (pipe.ready(remember(&config, dirs)), Ok(())),
        Err(error) => (pipe.ready(Box::new(|| ())), Err(error)),
    };
    let result = dirs
        .and_then(|()| logging::init(config.log_file.as_deref(), args.verbose))
        .map_err(anyhow::Error::from)
        .and_then(|()| mount::run(&config, &ready));
    let Err(error) = result else { return ExitCode::SUCCESS };
    let code = exit_code(&error);
    if !ready.failed(code, &sentence(&error)) {
        tracing::error!("{}", sentence(&error));
    }
    code.into()
}

fn remember(config: &MountConfig, dirs: Dirs) -> OnLive {
    let config = config.clone();
    Box::new(move || {
        if let Err(error) = config.remember(&dirs) {
            tracing::warn!(%error, "the next mount here will need --server and --folder again");
        }
    })
}
