//! All that the program prints: the one place that writes to stdout and stderr. Nothing that it is given can steer a terminal.

use serde::Serialize;
use std::fmt::Display;
use std::io::{self, Write as _};
use syncmount_common::text::{shown, shown_json, shown_lines};

/// Prints lines on stdout. What of them comes from elsewhere and could have lines of its own is
/// [`shown`] by the caller.
pub fn say(lines: impl Display) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{}", shown_lines(&lines.to_string()))
}

/// Prints a value as JSON on stdout.
pub fn say_json(value: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_string_pretty(value).map_err(io::Error::from)?;
    writeln!(io::stdout().lock(), "{}", shown_json(&json))
}

/// Prints one sentence on stderr. A stderr that cannot be written to changes nothing else.
pub fn complain(sentence: impl Display) {
    let _ = writeln!(io::stderr().lock(), "syncmount: {}", shown(&sentence.to_string()));
}
