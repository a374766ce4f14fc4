//! What whoever runs a server does beside it: history, undo, holds, a restored backup, check and repair.

use super::{Unnamed, examples, say};
use crate::FIRST_FOLDER;
use crate::data::Data;
use crate::service::{Denied, PastCommit, PresentHold, Scrubbed};
use anyhow::Result;
use clap::{Args, Subcommand};
use std::process::ExitCode;
use syncmount_common::protocol::holds::{Hold, HoldState};
use syncmount_common::text::shown;
use syncmount_common::{Seq, Timestamp};

#[derive(Subcommand)]
pub(crate) enum Holds {
    /// Lists what is held back, or allowed to go on: device, its id, state, since when, how much, token
    #[command(after_help = examples::HOLDS_LIST)]
    List(InFolder),
    /// Lets a device, and all others with its token, remove what they like for the next hour
    #[command(after_help = examples::HOLDS_ALLOW)]
    Allow(OfDevice),
    /// Keeps refusing those removes, and puts back what they took away before they were held
    #[command(after_help = examples::HOLDS_DENY)]
    Deny(OfDevice),
}

#[derive(Args)]
pub(crate) struct InFolder {
    /// The folder's name
    #[arg(long, value_name = "NAME", default_value = FIRST_FOLDER)]
    folder: String,
    #[command(flatten)]
    place: Unnamed,
}

#[derive(Args)]
pub(crate) struct OfDevice {
    /// The device's name or id, or token:NAME
    device: String,
    #[command(flatten)]
    of: InFolder,
}

#[derive(Args)]
pub(crate) struct History {
    #[command(flatten)]
    of: InFolder,
    /// How many commits to list
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
}

#[derive(Args)]
pub(crate) struct Undo {
    #[command(flatten)]
    of: InFolder,
    /// Go back to the state after this change; `history` lists them
    #[arg(long, value_name = "SEQ", value_parser = seq)]
    to: Seq,
    /// Only count what would be done
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args)]
pub(crate) struct Check {
    /// The server's directory; the server must be stopped
    #[arg(long, value_name = "DIR")]
    data: std::path::PathBuf,
    /// Rebuild the index from the packs, set the folders' counters right, and forget chunks that are gone or wrong so that
    /// clients can send them again
    #[arg(long)]
    repair: bool,
}

/// Lists a folder's newest commits.
pub(crate) async fn history(command: History) -> Result<()> {
    let service = Data::visit(&command.of.place.data)?;
    let commits = service.history(&command.of.folder, command.limit).await?;
    commits.iter().try_for_each(|past| say(&line_of(past)))
}

/// `SEQ..SEQ`, time, device, counts: separated by tabs, for scripts too.
fn line_of(PastCommit { commit, device }: &PastCommit) -> String {
    let (time, device) = (time_text(commit.time), if device.is_empty() { "?".to_owned() } else { shown(device) });
    let counts = &commit.counts;
    let what = format!("+{} ~{} -{}", counts.created, counts.changed, counts.removed);
    format!("{}..{}\t{time}\t{device}\t{what}", commit.first_seq, commit.last_seq)
}

fn time_text(time: Timestamp) -> String {
    let (seconds, _) = time.parts();
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |time| time.to_string())
}

fn seq(text: &str) -> Result<Seq, &'static str> {
    text.parse().map_err(|_| "write the number of a change, as `syncmount-server history` lists them")
}

/// Brings a folder back.
pub(crate) async fn undo(command: Undo) -> Result<()> {
    let service = Data::visit(&command.of.place.data)?;
    let done = service.undo(&command.of.folder, command.to, command.dry_run).await?;
    let verb = match (command.dry_run, done.created) {
        (true, _) => "would be",
        (false, 1) => "is",
        (false, _) => "are",
    };
    let back = if done.created == 1 { "1 entry".to_owned() } else { format!("{} entries", done.created) };
    say(&format!("{back} {verb} back, {} changed, {} removed", done.changed, done.removed))
}

/// Tells every client that the store comes from a backup.
pub(crate) async fn restored(place: Unnamed) -> Result<()> {
    let count = Data::visit(&place.data)?.restored().await?;
    say(&format!("{count} folders begin a new history: every client reads them again and merges what it has"))
}

pub(crate) async fn holds(command: Holds) -> Result<()> {
    match command {
        Holds::List(of) => {
            let present = Data::visit(&of.place.data)?.present_holds(&of.folder).await?;
            present.iter().try_for_each(|PresentHold { hold, token }| {
                let token = token.as_ref().map_or_else(String::new, |name| format!("\ttoken:{name}"));
                say(&format!("{}{token}", line_of_hold(hold)))
            })
        }
        Holds::Allow(OfDevice { device, of }) => {
            let hold = Data::visit(&of.place.data)?.allow_removes(&of.folder, &device).await?;
            say(&line_of_hold(&hold))
        }
        Holds::Deny(OfDevice { device, of }) => {
            let Denied { hold, back } = Data::visit(&of.place.data)?.deny_removes(&of.folder, &device).await?;
            let back = match back.created {
                1 => "1 entry that it had removed is back".to_owned(),
                count => format!("{count} entries that it had removed are back"),
            };
            say(&format!("{}\n{back}", line_of_hold(&hold)))
        }
    }
}

fn line_of_hold(hold: &Hold) -> String {
    let state = match hold.state {
        HoldState::Waiting => "waiting".to_owned(),
        HoldState::Denied => "denied".to_owned(),
        HoldState::Allowed => format!("allowed until {}", hold.until.map_or_else(String::new, time_text)),
    };
    let (device, since) = (&hold.device, time_text(hold.since));
    format!("{}\t{}\t{state}\t{since}\tremoves {} of {}", shown(&device.name), device.id, hold.removes, hold.nodes)
}

/// Checks a server's whole store; the exit code says whether all is well.
pub(crate) async fn check(command: Check) -> Result<ExitCode> {
    let (service, _lock) = Data::visit_alone(&command.data)?;
    let found = service.scrub(command.repair).await?;
    found.problems.iter().try_for_each(|problem| say(&shown(problem)))?;
    say(&summary(&found, command.repair))?;
    tokio::task::spawn_blocking(move || service.close()).await??;
    Ok(if found.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn summary(found: &Scrubbed, repair: bool) -> String {
    let Scrubbed { problems, packs, bytes, chunks, contents, unnamed, unreadable, entered, dropped, asked, recounted } =
        found;
    let seen = format!("{packs} packs with {bytes} bytes, {chunks} sound chunks, {contents} contents");
    let rest = format!("{unnamed} chunks in packs are not in the index, {unreadable} bytes hold nothing readable");
    let mended = format!("{entered} index rows entered, {dropped} dropped, {recounted} folders recounted");
    match (repair, problems.len()) {
        (false, 0) => format!("all is well: {seen}; {rest}"),
        (false, count) => format!("{count} problems: {seen}; {rest}; `check --repair` mends what can be mended"),
        (true, 0) => format!("all is well now: {seen}; {mended}"),
        (true, count) => format!(
            "{count} problems remain: {seen}; {mended}; {asked} chunks are lost: devices that have them are asked for \
             them when the server runs"
        ),
    }
}
