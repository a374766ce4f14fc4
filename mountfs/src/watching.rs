//! The command `watch`: keeps a plain folder in step, in this process or in one of its own.

#[cfg(unix)]
use crate::{exit_code, sentence};
#[cfg(unix)]
use std::process::ExitCode;
#[cfg(unix)]
use syncmount::background;
use syncmount::cli::{Durability, Mode, MountArgs, WatchArgs, WatchChoices};
use syncmount::config::{Dirs, Environment, MountConfig, StartError};
use syncmount::ready::{OnLive, Ready};
use syncmount::watch::{self, Options};
use syncmount::{logging, mountpoint, remembered, terminal};
use syncmount_common::text::Shown;

/// How a folder is watched, as far as that counts for later starts too.
pub(crate) fn habits(choices: &WatchChoices) -> Options {
    let usual = Options::default();
    Options {
        scan_interval: choices.scan_interval.unwrap_or(usual.scan_interval),
        confined: !choices.no_confinement.unwrap_or_default(),
        apply_setid: choices.apply_setid.unwrap_or_default(),
        ..usual
    }
}

/// How a folder is watched.
pub(crate) fn options(args: &WatchArgs, choices: &WatchChoices) -> Options {
    Options { once: args.once, verify: args.verify, accept: args.accept, ..habits(choices) }
}

/// The arguments with what an earlier start was given, and says that.
pub(crate) fn recall(args: &MountArgs) -> Result<MountArgs, StartError> {
    let (args, said) = remembered::recall(args, &Dirs::of_user()?)?;
    if !said.is_empty() {
        terminal::complain(format_args!("as at the last start here: {}", Shown(said.join(" "))));
    }
    Ok(args)
}

/// `syncmount watch FOLDER`.
pub(crate) fn run(args: &WatchArgs) -> anyhow::Result<()> {
    let mount = recall(&args.as_mount())?;
    if args.dry_run {
        return dry_run(&mount);
    }
    start(&mount, options(args, &mount.watch))
}

fn dry_run(args: &MountArgs) -> anyhow::Result<()> {
    let env = Environment::of_process()?;
    let config = MountConfig::resolve(args, &env)?;
    logging::init_quiet()?;
    for line in watch::dry_run(&config)? {
        // Names of files may have lines of their own.
        terminal::say(Shown(line))?;
    }
    Ok(())
}

/// Watches the folder that `args` name.
pub(crate) fn start(args: &MountArgs, options: Options) -> anyhow::Result<()> {
    refuse_mount_only(args)?;
    // What ends by itself stays, and where there is no background everything does.
    let asked_to_stay = args.foreground;
    let stays = asked_to_stay || options.once || cfg!(not(unix));
    let env = Environment::of_process()?;
    let args = &MountArgs { foreground: stays, mode: Some(Mode::Watch), ..args.clone() };
    let config = MountConfig::resolve(args, &env)?;
    if asked_to_stay || (stays && !options.once) {
        logging::init(config.log_file.as_deref(), args.verbose)?;
    } else {
        logging::init_quiet()?;
    }
    if mountpoint::prepare_watch(&config, &env.dirs)? {
        terminal::complain(format_args!("cleared a dead mount at {}", config.mountpoint.display()));
    }
    config.create_cache_dir()?;
    if stays {
        let ready = Ready::foreground(remember(&config, env.dirs));
        return watch::run(&config, options, &ready);
    }
    go_into_background(&config)
}

/// What a mount promises and a plain folder cannot keep.
fn refuse_mount_only(args: &MountArgs) -> Result<(), StartError> {
    match (args.read_only, args.durability) {
        (Some(true), _) => Err(StartError::MountOnly("--read-only")),
        (_, Some(Durability::Server)) => Err(StartError::MountOnly("--durability server")),
        _ => Ok(()),
    }
}

#[cfg(unix)]
fn go_into_background(config: &MountConfig) -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    background::start(config, &arguments, |why| terminal::complain(format_args!("{why}")))?;
    say_begun(config, "kept in step")
}

/// What there is now, and where its log is.
#[cfg(unix)]
pub(crate) fn say_begun(config: &MountConfig, how: &str) -> anyhow::Result<()> {
    let log = config.log_file.as_ref().map_or_else(String::new, |log| format!("; log: {}", log.display()));
    Ok(terminal::say(format_args!("{}: {how}{log}", config.mountpoint.display()))?)
}

#[cfg(not(unix))]
fn go_into_background(_: &MountConfig) -> anyhow::Result<()> {
    anyhow::bail!("there is no background on this system; give -f")
}

/// The same in the process that [`background::start`] has started.
#[cfg(unix)]
pub(crate) fn in_background(verbose: u8, args: &WatchArgs) -> ExitCode {
    serve_in_background(verbose, |config, ready| watch::run(config, options(args, &config.watch), ready))
}

/// Runs what was started in the background.
#[cfg(unix)]
pub(crate) fn serve_in_background(
    verbose: u8,
    run: impl FnOnce(&MountConfig, &Ready) -> anyhow::Result<()>,
) -> ExitCode {
    // What goes wrong here has been told to the one who waits.
    let Ok((config, pipe)) = background::adopt() else { return ExitCode::FAILURE };
    let (ready, dirs) = match Dirs::of_user() {
        Ok(dirs) => (pipe.ready(remember(&config, dirs)), Ok(())),
        Err(error) => (pipe.ready(Box::new(|| ())), Err(error)),
    };
    let result = dirs
        .and_then(|()| logging::init(config.log_file.as_deref(), verbose))
        .map_err(anyhow::Error::from)
        .and_then(|()| run(&config, &ready));
    let Err(error) = result else { return ExitCode::SUCCESS };
    let code = exit_code(&error);
    if !ready.failed(code, &sentence(&error)) {
        tracing::error!("{}", sentence(&error));
    }
    code.into()
}

/// Once it is live, it is remembered what is where.
pub(crate) fn remember(config: &MountConfig, dirs: Dirs) -> OnLive {
    let config = config.clone();
    Box::new(move || {
        if let Err(error) = config.remember(&dirs) {
            tracing::warn!(%error, "the next start here will need --server, --folder and other options again");
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount::cli::MountChoices;

    #[test]
    fn what_only_a_mount_can_do_is_refused_for_a_plain_folder() {
        refuse_mount_only(&MountArgs::default()).unwrap();
        let chosen = |choices| MountArgs::default().with(choices);
        let read_only = MountChoices { read_only: Some(true), ..MountChoices::default() };
        let read_only = refuse_mount_only(&chosen(read_only)).unwrap_err();
        assert!(read_only.exit_code() == 2 && read_only.to_string().contains("--read-only"), "{read_only}");
        let durable = MountChoices { durability: Some(Durability::Server), ..MountChoices::default() };
        assert!(refuse_mount_only(&chosen(durable)).unwrap_err().to_string().contains("--durability"));
    }
}
