//! The command line of the server.

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use syncmount_server::config::LISTEN_DEFAULT;
use syncmount_server::data::Data;
use syncmount_server::{Config, Server};
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
}

#[derive(Subcommand)]
enum Command {
    /// Who may use the server
    #[command(subcommand)]
    Token(Token),
    /// What it holds
    #[command(subcommand)]
    Folder(Folder),
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

fn main() -> ExitCode {
    let cli = Cli::parse();
    keep_private();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
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

fn run(cli: Cli) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match (cli.command, cli.serve) {
            (Some(Command::Token(command)), _) => token(command).await,
            (Some(Command::Folder(command)), _) => folder(command).await,
            (None, Some(options)) => serve(options).await,
            (None, None) => anyhow::bail!("--data DIR is missing: it names the directory that holds everything"),
        }
    })
}

async fn serve(options: Serve) -> Result<()> {
    let stop = stop_signal().context("cannot listen for signals")?;
    let server = Server::open(Config::new(options.data).listening_on(options.listen)).await?;
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
