//! The command line of the server: what its words mean, and what is said of what came of them.
//!
//! A part of the library so that the server is compiled once, not for the program again.

mod admin;

use crate::config::LISTEN_DEFAULT;
use crate::data::Data;
use crate::{Config, HoldRule, Server};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Holds shared folders and serves them to syncmount clients.
#[derive(Parser)]
#[command(name = "syncmount-server", version, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
}

#[derive(Args)]
struct Serve {
    /// Directory that holds everything; made if it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address and port to listen on; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = LISTEN_DEFAULT)]
    listen: String,
    /// Hold a device that removes more nodes than this within an hour, and more than --hold-part; 0: never
    #[arg(long, value_name = "N", default_value_t = HoldRule::default().removes)]
    hold_removes: u64,
    /// Hold it only if that is more than this part of the folder; 0: never hold
    #[arg(long, value_name = "PART", default_value_t = HoldRule::default().part, value_parser = part)]
    hold_part: f64,
}

#[derive(Subcommand)]
enum Command {
    /// Who may use the server
    #[command(subcommand)]
    Token(Token),
    /// What it holds
    #[command(subcommand)]
    Folder(Folder),
    /// Lists the newest commits of a folder: which changes, when, by whom, how many nodes made (+), changed (~), removed (-)
    History(admin::History),
    /// Brings a folder back to an earlier state, as new changes; an undo can be undone
    Undo(admin::Undo),
    /// Devices that are kept from removing a large part of a folder
    #[command(subcommand)]
    Holds(admin::Holds),
    /// Says that DIR was restored from a backup
    ///
    /// Every folder begins a new history, so that every client reads it again and merges what it has; nothing that is
    /// missing here is taken for removed. A server notices by itself when a client knows more than it does; this command
    /// makes sure before the first one comes.
    Restored(Unnamed),
    /// Checks every chunk, the index and the database; exit code 0 if all is well, 1 if not
    Check(admin::Check),
}

#[derive(Subcommand)]
enum Token {
    /// Makes a token and prints it, once
    Add(Named),
    /// Lists the tokens' names
    List(Unnamed),
    /// Makes a token worthless
    Revoke(Named),
}

#[derive(Subcommand)]
enum Folder {
    /// Makes a folder
    Add(Named),
    /// Lists the folders
    List(Unnamed),
}

#[derive(Args)]
struct Named {
    /// What people call it
    name: String,
    #[command(flatten)]
    place: Unnamed,
}

#[derive(Args)]
struct Unnamed {
    /// The server's directory; the server may be running
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "a part is a number from 0 to 1".to_owned())
}

/// Does what the words that this process was started with say.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_private();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("syncmount-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whatever this process makes is for its user only, also in a directory that others may enter.
fn keep_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

fn run(cli: Cli) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match (cli.command, cli.serve) {
            (Some(command), _) => administer(command).await,
            (None, Some(options)) => serve(options).await.map(|()| ExitCode::SUCCESS),
            (None, None) => anyhow::bail!("--data DIR is missing: it names the directory that holds everything"),
        }
    })
}

async fn administer(command: Command) -> Result<ExitCode> {
    match command {
        Command::Token(command) => token(command).await?,
        Command::Folder(command) => folder(command).await?,
        Command::History(command) => admin::history(command).await?,
        Command::Undo(command) => admin::undo(command).await?,
        Command::Holds(command) => admin::holds(command).await?,
        Command::Restored(place) => admin::restored(place).await?,
        Command::Check(command) => return admin::check(command).await,
    }
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: Serve) -> Result<()> {
    let stop = stop_signal().context("cannot listen for signals")?;
    let hold = HoldRule { removes: options.hold_removes, part: options.hold_part, ..HoldRule::default() };
    let config = Config { hold, ..Config::new(options.data).listening_on(options.listen) };
    let server = Server::open(config).await?;
    say(&format!("token in {}\nlistening on http://{}", server.admin_token().display(), server.address()))?;
    Ok(server.run(stop).await?)
}

async fn token(command: Token) -> Result<()> {
    match command {
        Token::Add(named) => {
            let token = Data::visit(&named.place.data)?.add_token(&named.name).await?;
            say(token.reveal())
        }
        Token::List(place) => {
            let tokens = Data::visit(&place.data)?.tokens().await?;
            tokens.iter().try_for_each(|token| say(&token.name))
        }
        Token::Revoke(named) => Ok(Data::visit(&named.place.data)?.revoke_token(&named.name).await?),
    }
}

async fn folder(command: Folder) -> Result<()> {
    match command {
        Folder::Add(named) => {
            let added = Data::visit(&named.place.data)?.add_folder(&named.name).await?;
            anyhow::ensure!(added, "there is a folder `{}` already", named.name);
            Ok(())
        }
        Folder::List(place) => {
            let list = Data::visit(&place.data)?.folders().await?;
            list.folders.iter().try_for_each(|folder| say(&format!("{}\t{}", folder.name, folder.id)))
        }
    }
}

/// One line for people and scripts; at once, also into a pipe.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("cannot write to stdout")
}

#[cfg(unix)]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => (),
            _ = interrupt.recv() => (),
        }
    })
}

#[cfg(not(unix))]
fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send> {
    Ok(async {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    })
}
