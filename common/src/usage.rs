//! What is wrong with a command line, in one sentence each.
//!
//! The parser's own words take several lines and speak of arguments and subcommands; the programs here say what is wrong and what to
//! type instead, like all their other errors.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::error::Error as _;

/// The sentence about a command line that cannot be read; `None` if the parser has no complaint but something to show: help, or the
/// version.
pub fn sentence(error: &Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let (arg, value) = (text(ContextKind::InvalidArg), text(ContextKind::InvalidValue));
    let said = match (error.kind(), arg, value) {
        (
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            | ErrorKind::MissingSubcommand,
            ..,
        ) => return None,
        (ErrorKind::UnknownArgument, Some(arg), _) if arg.starts_with('-') => {
            let near = text(ContextKind::SuggestedArg).map(|near| format!("; did you mean `{near}`?"));
            format!("there is no option `{arg}`{}", near.unwrap_or_default())
        }
        (ErrorKind::UnknownArgument, Some(arg), _) => format!("`{arg}` is one word too many"),
        (ErrorKind::InvalidSubcommand, ..) if text(ContextKind::InvalidSubcommand).is_some() => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let near = text(ContextKind::SuggestedSubcommand).map(|near| format!("; did you mean `{near}`?"));
            format!("there is no command `{word}`{}", near.unwrap_or_default())
        }
        (ErrorKind::InvalidValue, Some(arg), value) if value.as_deref().is_none_or(str::is_empty) => {
            format!("a value is missing: {arg}")
        }
        (ErrorKind::InvalidValue, Some(arg), Some(value)) => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => {
                format!("`{value}` is no value for {}; write {}", option(&arg), choice(valid))
            }
            _ => format!("`{value}` is no value for {}", option(&arg)),
        },
        (ErrorKind::ValueValidation, Some(arg), value) => {
            let why = error.source().map(ToString::to_string).unwrap_or_default();
            format!("`{}` is no value for {}: {why}", value.unwrap_or_default(), option(&arg))
        }
        (ErrorKind::MissingRequiredArgument, Some(args), _) => format!("what is missing: {args}"),
        (ErrorKind::ArgumentConflict, Some(arg), _) => match text(ContextKind::PriorArg) {
            Some(other) if other == arg => format!("{} is given twice", option(&arg)),
            Some(other) => format!("{} and {other} do not go together", option(&arg)),
            None => format!("{} does not go with the other words", option(&arg)),
        },
        (ErrorKind::ArgumentConflict, None, _) if text(ContextKind::InvalidSubcommand).is_some() => {
            let word = text(ContextKind::InvalidSubcommand).unwrap_or_default();
            let before = text(ContextKind::PriorArg).unwrap_or_default();
            return Some(if before.starts_with('-') {
                format!("{} stands before the command `{word}`, whose options come behind it", option(&before))
            } else {
                format!("`{word}` is one word too many behind {before}{}", hint(error))
            });
        }
        _ => {
            // One of the program's own, or one that needs no other words.
            let whole = error.to_string();
            let first = whole.lines().next().unwrap_or_default();
            return Some(first.strip_prefix("error: ").unwrap_or(first).to_owned());
        }
    };
    // A question is answered by its own words.
    Some(if said.ends_with('?') { said } else { format!("{said}{}", hint(error)) })
}

/// An option without the name of its value.
fn option(arg: &str) -> &str {
    if arg.starts_with('-') { arg.split_whitespace().next().unwrap_or(arg) } else { arg }
}

/// `a, b or c`.
fn choice(valid: &[String]) -> String {
    match valid {
        [many @ .., last] if !many.is_empty() => format!("{} or {last}", many.join(", ")),
        one => one.concat(),
    }
}

/// Where to read on.
fn hint(error: &Error) -> String {
    let command = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => command_in(&usage.to_string()),
        _ => None,
    };
    command.map(|command| format!("; see `{command} --help`")).unwrap_or_default()
}

/// The words of a command at the start of its usage: `syncmount pin` of `Usage: syncmount pin [OPTIONS] <PATH>...`.
fn command_in(usage: &str) -> Option<String> {
    let line = usage.lines().next()?.trim_start_matches("Usage:");
    let is_name = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
    // On Windows the program's name ends in `.exe`.
    let mut words = line.split_whitespace();
    let program = words.next()?;
    Some([program].into_iter().chain(words.take_while(is_name)).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, ArgAction, Command};

    fn program() -> Command {
        let how = Arg::new("how").long("how").value_name("HOW").value_parser(["a", "b", "c"]);
        let size = Arg::new("size")
            .long("size")
            .value_name("SIZE")
            .value_parser(|text: &str| text.parse::<u8>().map_err(|_| "write a number"));
        let both = [
            Arg::new("x").long("x").action(ArgAction::SetTrue).conflicts_with("y"),
            Arg::new("y").long("y").action(ArgAction::SetTrue),
        ];
        let pin = Command::new("pin").arg(Arg::new("path").value_name("PATH").required(true)).args(both);
        Command::new("program").args([how, size]).subcommand(pin).args_conflicts_with_subcommands(true)
    }

    #[test]
    fn each_is_one_sentence_that_says_what_to_type() {
        let said = |words: &str| {
            let words = ["program"].into_iter().chain(words.split_whitespace());
            sentence(&program().try_get_matches_from(words).unwrap_err())
        };
        for (words, expected) in [
            ("--siz 1", "there is no option `--siz`; did you mean `--size`?"),
            ("pin p q", "`q` is one word too many; see `program pin --help`"),
            ("pinn", "there is no command `pinn`; did you mean `pin`?"),
            ("--how", "a value is missing: --how <HOW>"),
            ("--how d", "`d` is no value for --how; write a, b or c"),
            ("--size much", "`much` is no value for --size: write a number"),
            ("pin", "what is missing: <PATH>; see `program pin --help`"),
            ("pin p --x --y", "--x and --y do not go together; see `program pin --help`"),
            ("--how a pin p", "--how stands before the command `pin`, whose options come behind it"),
        ] {
            assert_eq!(said(words).as_deref(), Some(expected), "{words}");
        }
        assert_eq!(said("--help"), None);
        let own = program().error(ErrorKind::InvalidSubcommand, "no such word");
        assert_eq!(sentence(&own).as_deref(), Some("no such word"));
    }
}
