//! Text from elsewhere on its way to a terminal or a log: a server's message, a name, a device.
//!
//! Characters that would steer a terminal, or show what follows in another order, are written as escapes. This is the one place
//! that says which these are.

use std::fmt;
use std::io::{self, Write};

/// Whether a character may not reach a terminal as it is: control characters, and those that end lines or turn the direction of
/// the text around them.
pub fn steers(c: char) -> bool {
    let turns = matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || matches!(c, '\u{2028}' | '\u{2029}')
}

fn push(out: &mut String, c: char) {
    if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
}

fn escaped(bytes: &[u8], mut put: impl FnMut(&mut String, char)) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| put(&mut out, c));
        out.extend(chunk.invalid().iter().flat_map(|byte| std::ascii::escape_default(*byte)).map(char::from));
    }
    out
}

/// A text for a person's eyes, in one line.
pub fn shown(text: &str) -> String {
    shown_bytes(text.as_bytes())
}

/// The same of bytes; those that are not text are written as escapes too.
pub fn shown_bytes(bytes: &[u8]) -> String {
    escaped(bytes, push)
}

/// An error and its causes in one sentence; causes that it has named already are not repeated.
pub fn with_causes<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    chain.fold(String::new(), |said, cause| match (said.as_str(), cause.to_string()) {
        ("", cause) => cause,
        (_, cause) if said.contains(&cause) => said,
        (_, cause) => format!("{said}: {cause}"),
    })
}

/// The same of several lines with columns, whose parts from elsewhere are [`shown`] already.
pub fn shown_lines(text: &str) -> String {
    escaped(text.as_bytes(), |out, c| if matches!(c, '\n' | '\t') { out.push(c) } else { push(out, c) })
}

/// JSON with the same meaning that a terminal can show. In JSON such characters are only inside of strings.
pub fn shown_json(json: &str) -> String {
    let put = |out: &mut String, c: char| match c {
        '\n' => out.push(c),
        c if steers(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push(c),
    };
    escaped(json.as_bytes(), put)
}

/// A log: each write is one line, of which only the end may be one.
#[derive(Debug)]
pub struct LogLines<W> {
    to: W,
    colours: bool,
}

impl<W: Write> LogLines<W> {
    /// Writes to `to`. With `colours` the sequences that set colours pass.
    pub const fn new(to: W, colours: bool) -> Self {
        Self { to, colours }
    }
}

impl<W: Write> Write for LogLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut rest = line.strip_suffix(b"\n").unwrap_or(line);
        let mut out = String::with_capacity(line.len());
        while let Some(begin) = rest.iter().position(|byte| *byte == 0x1B).filter(|_| self.colours) {
            let (before, sequence) = rest.split_at(begin);
            let len = colour_len(sequence);
            out += &shown_bytes(before);
            match sequence.split_at(len.unwrap_or(1)) {
                (colour, after) if len.is_some() => {
                    out.extend(colour.iter().map(|byte| char::from(*byte)));
                    rest = after;
                }
                (escape, after) => {
                    out += &shown_bytes(escape);
                    rest = after;
                }
            }
        }
        out += &shown_bytes(rest);
        if line.ends_with(b"\n") {
            out.push('\n');
        }
        self.to.write_all(out.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// The length of the sequence that sets a colour at the begin of `bytes`: `ESC [`, digits and semicolons, `m`.
fn colour_len(bytes: &[u8]) -> Option<usize> {
    let inside = bytes.strip_prefix(b"\x1b[")?;
    let len = inside.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b';'))?;
    (inside[len] == b'm').then_some(len + 3)
}

impl<W: fmt::Display> fmt::Display for Shown<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0.to_string()))
    }
}

/// What is to be displayed, in one line and for a person's eyes.
#[derive(Debug, Clone, Copy)]
pub struct Shown<T>(pub T);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOSTILE: &str = "a\x1b[2J\x07\n\r\t\u{7f}\u{9b}1m\u{202e}txt.exe\u{2066}\u{2028}\u{2029}\u{200f}\u{61c}ä漢🙂";

    #[test]
    fn what_steers_a_terminal_is_written_as_escapes() {
        let expected = "a\\u{1b}[2J\\u{7}\\n\\r\\t\\u{7f}\\u{9b}1m\\u{202e}txt.exe\\u{2066}\\u{2028}\\u{2029}\\u{200f}\\u{61c}ä漢🙂";
        assert_eq!(shown(HOSTILE), expected);
        assert_eq!(Shown(HOSTILE).to_string(), expected);
        assert_eq!(shown_bytes(b"/\xff\x1b"), "/\\xff\\u{1b}");
        assert_eq!(shown_lines("a\tb\n\x1b"), "a\tb\n\\u{1b}");
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 7], "plain": null });
        let shown = shown_json(&serde_json::to_string_pretty(&value).unwrap());
        assert!(!shown.chars().any(|c| steers(c) && c != '\n'), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }

    fn logged(line: &[u8], colours: bool) -> String {
        let mut out = Vec::new();
        LogLines::new(&mut out, colours).write_all(line).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_log_has_one_line_for_each_event_and_colours_only_where_they_are_wanted() {
        assert_eq!(logged(b"one\nWARN two\n", false), "one\\nWARN two\n");
        assert_eq!(logged(b"\x1b[1;31mred\x1b[0m\n", true), "\x1b[1;31mred\x1b[0m\n");
        assert_eq!(logged(b"\x1b[1;31mred\n", false), "\\u{1b}[1;31mred\n");
        assert_eq!(logged(b"\x1b[2Jx\x1b", true), "\\u{1b}[2Jx\\u{1b}");
    }

    proptest! {
        #[test]
        fn no_bytes_at_all_steer_a_terminal(bytes in proptest::collection::vec(any::<u8>(), 0..100), text in "\\PC*|(?s).*") {
            prop_assert!(!shown_bytes(&bytes).chars().any(steers) && !shown(&text).chars().any(steers));
            let line = logged(&bytes, false);
            prop_assert!(!line.strip_suffix('\n').unwrap_or(&line).chars().any(steers));
        }
    }
}
