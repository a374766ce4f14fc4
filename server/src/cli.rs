//! The command line of the server: what its words mean, and what is said of what came of them.
//!
//! A part of the library so that the server is compiled once, not for the program again.

mod admin;
mod examples;

use crate::config::LISTEN_DEFAULT;
use crate::config::RESERVE_DEFAULT;
use crate::data::Data;
use crate::{Config, HoldRule, Limits, Server, ServerError, confine, descriptors};

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};
use std::io::{IsTerminal as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::ExitCode;
use syncmount_common::text::{LogLines, shown, shown_lines, with_causes};
use syncmount_common::usage;
use syncmount_confine::Held;
use tracing_subscriber::EnvFilter;

/// Holds shared folders and serves them to syncmount clients.
#[derive(Parser)]
#[command(
    name = "syncmount-server",
    version,
    after_help = examples::SERVE,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Option<Serve>,
    // Not within the other: options that may be missing all together have no others in them.
    #[command(flatten)]
    limits: LimitOptions,
}

#[derive(Args)]
struct Serve {
    /// Directory that holds everything; made if it does not exist
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address and port to listen on, or a port of this machine alone; port 0 takes any free one
    #[arg(long, value_name = "ADDR", default_value = LISTEN_DEFAULT, value_parser = address)]
    listen: String,
    /// A proxy that adds TLS stands before --listen: other machines may reach the address
    #[arg(long)]
    behind_proxy: bool,
    /// Other machines may reach --listen over plain HTTP, which shows tokens and files to everyone on the way
    #[arg(long)]
    insecure_http: bool,
    /// Space of the disk that is left free, in MiB: below it nothing is stored, and what is removed still is; 0: none
    #[arg(long, value_name = "MIB", default_value_t = RESERVE_DEFAULT >> 20, value_parser = reserve)]
    reserve: u64,
    /// Hold back what a token removes beyond this many nodes within an hour, and beyond --hold-part; 0: never
    #[arg(long, value_name = "N", default_value_t = HoldRule::default().removes)]
    hold_removes: u64,
    /// Hold it back only if that is more than this part of the folder; 0: never
    #[arg(long, value_name = "PART", default_value_t = HoldRule::default().part, value_parser = part)]
    hold_part: f64,
    /// Do not confine the process to its data directory and port where the kernel can (Landlock, seccomp)
    #[arg(long)]
    no_confinement: bool,
}

impl Serve {
    fn config(&self, limits: &LimitOptions) -> Config {
        let hold = HoldRule { removes: self.hold_removes, part: self.hold_part, ..HoldRule::default() };
        let Self { behind_proxy, insecure_http, .. } = *self;
        let mut limits = limits.limits();
        if behind_proxy && limits.proxies.is_empty() {
            // Which one it is was not said: the one on this machine, if it is there.
            limits.proxies = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
        }
        let reserve = self.reserve << 20;
        Config {
            reserve,
            hold,
            limits,
            behind_proxy,
            insecure_http,
            ..Config::new(&self.data).listening_on(&self.listen)
        }
    }
}

/// What clients may make the server hold.
#[derive(Args)]
struct LimitOptions {
    /// Polls that one token may have held at a time
    #[arg(long, value_name = "N", default_value_t = Limits::default().token_polls_max)]
    token_polls: usize,
    /// Other requests that one token may have at a time
    #[arg(long, value_name = "N", default_value_t = Limits::default().token_requests_max)]
    token_requests: usize,
    /// Memory for large bodies, chunks, listings and manifests, in MiB
    #[arg(long, value_name = "MIB", default_value_t = Limits::default().memory_max >> 20, value_parser = mib)]
    memory: u64,
    /// How much of --memory one token may use, in MiB; half of it if not given
    #[arg(long, value_name = "MIB", value_parser = mib)]
    token_memory: Option<u64>,
    /// Bytes a second that each body, sent or received, must move on average; one that is a minute behind is given up
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().body_rate)]
    body_rate: u64,
    /// Connections at a time; fewer if the limit on open files says so
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_max, value_parser = places)]
    connections: usize,
    /// Address of a proxy before this server, also several with commas: it may have all connections, any other address half of them
    #[arg(long, value_name = "IP", value_delimiter = ',')]
    trusted_proxy: Vec<IpAddr>,
}

impl LimitOptions {
    fn limits(&self) -> Limits {
        Limits {
            token_polls_max: self.token_polls,
            token_requests_max: self.token_requests,
            memory_max: self.memory << 20,
            token_memory_max: self.token_memory.map_or(self.memory << 19, |memory| memory << 20),
            body_rate: self.body_rate,
            connections_max: self.connections,
            proxies: self.trusted_proxy.clone(),
            ..Limits::default()
        }
    }
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
    #[command(after_help = examples::HISTORY)]
    History(admin::History),
    /// Brings a folder back to an earlier state, as new changes; an undo can be undone
    #[command(after_help = examples::UNDO)]
    Undo(admin::Undo),
    /// Devices that are kept from removing a large part of a folder
    #[command(subcommand)]
    Holds(admin::Holds),
    /// Says that DIR was restored from a backup
    ///
    /// Every folder begins a new history, so that every client reads it again and merges what it has; nothing that is
    /// missing here is taken for removed. A server notices by itself when a client knows more than it does; this command
    /// makes sure before the first one comes.
    #[command(after_help = examples::RESTORED)]
    Restored(Unnamed),
    /// Checks every chunk, the index and every row of the database; exit code 0 if all is well, 1 if not
    #[command(after_help = examples::CHECK)]
    Check(admin::Check),
}

#[derive(Subcommand)]
enum Token {
    /// Makes a token and prints it, once
    #[command(after_help = examples::TOKEN_ADD)]
    Add(Named),
    /// Lists the tokens' names
    #[command(after_help = examples::TOKEN_LIST)]
    List(Unnamed),
    /// Makes a token worthless
    #[command(after_help = examples::TOKEN_REVOKE)]
    Revoke(Named),
}

#[derive(Subcommand)]
enum Folder {
    /// Makes a folder
    #[command(after_help = examples::FOLDER_ADD)]
    Add(Named),
    /// Lists the folders
    #[command(after_help = examples::FOLDER_LIST)]
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

/// At least what the largest chunk takes on its way out, at most what is counted.
fn reserve(text: &str) -> Result<u64, String> {
    let mib = text.parse().ok().filter(|mib| *mib <= 1 << 20);
    mib.ok_or_else(|| "write a number of MiB from 0 to 1048576".to_owned())
}

fn mib(text: &str) -> Result<u64, String> {
    let memory = text.parse::<u64>().ok().filter(|memory| (64..=65_536).contains(memory));
    memory.ok_or_else(|| "write a number of MiB from 64 to 65536".to_owned())
}

fn places(text: &str) -> Result<usize, String> {
    let places = text.parse::<usize>().ok().filter(|places| (2..=1_000_000).contains(places));
    places.ok_or_else(|| "write a number from 2 to 1000000".to_owned())
}

fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "write a number from 0 to 1".to_owned())
}

/// Exit code of wrong usage.
const USAGE: u8 = 2;

/// Does what the words that this process was started with say.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match usage::sentence(&error) {
            Some(sentence) => {
                complain(&sentence);
                return USAGE.into();
            }
            None => error.exit(),
        },
    };
    keep_private();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal();
    let log = move || LogLines::new(std::io::stderr(), colours);
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours).with_writer(log).init();
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            complain(&with_causes(error.chain()));
            ExitCode::FAILURE
        }
    }
}

/// Whatever this process makes is for its user only, also in a directory that others may enter.
fn keep_private() {
    #[cfg(unix)]
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
}

/// An address with its port. A port alone is one of this machine that no other machine reaches.
fn address(text: &str) -> Result<String, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(format!("{}:{port}", Ipv4Addr::LOCALHOST));
    }
    let has_port = text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    let form = || "write ADDRESS:PORT, like 127.0.0.1:8080, or a port of this machine, from 0 to 65535".to_owned();
    has_port.then(|| text.to_owned()).ok_or_else(form)
}

fn run(cli: Cli) -> Result<ExitCode> {
    // Before any thread is there: those that are would be left out.
    let held = match (&cli.command, &cli.serve) {
        (None, Some(options)) => {
            // Before anything is made: confining needs the data directory.
            can_listen(&options.listen)?;
            if options.no_confinement { Held::default() } else { confine::enter(&options.config(&cli.limits))? }
        }
        _ => Held::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start threads")?;
    runtime.block_on(async {
        match (cli.command, cli.serve) {
            (Some(command), _) => administer(command).await,
            (None, Some(options)) => serve(options.config(&cli.limits), held).await.map(|()| ExitCode::SUCCESS),
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

/// Whether the address is one, and free.
fn can_listen(listen: &str) -> Result<(), ServerError> {
    let bound = std::net::TcpListener::bind(listen).map(drop);
    bound.map_err(|source| ServerError::Listen { listen: listen.to_owned(), source })
}

async fn serve(config: Config, held: Held) -> Result<()> {
    let stop = stop_signal().context("cannot listen for signals")?;
    descriptors::raise();
    let server = Server::open(config).await?;
    tracing::info!("confined: {held}");
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
            tokens.iter().try_for_each(|token| say(&shown(&token.name)))
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
            list.folders.iter().try_for_each(|folder| say(&format!("{}\t{}", shown(&folder.name), folder.id)))
        }
    }
}

/// One sentence on stderr. A stderr that cannot be written to changes nothing else.
fn complain(sentence: &str) {
    let _ = writeln!(std::io::stderr().lock(), "syncmount-server: {}", shown(sentence));
}

/// One line or several for people and scripts; at once, also into a pipe. Names in it that come from elsewhere are [`shown`] by the
/// caller; nothing else of it can steer a terminal.
fn say(line: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", shown_lines(line)).and_then(|()| out.flush()).context("cannot write to stdout")
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

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn each_help_has_examples_that_can_be_typed() {
        fn look(command: &clap::Command, path: &str) -> usize {
            let inner: Vec<&clap::Command> =
                command.get_subcommands().filter(|inner| inner.get_name() != "help").collect();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let lines: Vec<&str> = help.lines().filter_map(|line| line.strip_prefix("  ")).collect();
            assert!(!lines.is_empty() || !inner.is_empty(), "{path} has no examples");
            for line in &lines {
                assert!(line.starts_with(path) && help.starts_with("Examples:"), "{path}: {line}");
                if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
                    panic!("{line}: {error}");
                }
            }
            inner.iter().map(|inner| look(inner, &format!("{path} {}", inner.get_name()))).sum::<usize>() + lines.len()
        }
        assert!(look(&Cli::command(), "syncmount-server") > 12);
    }
}
