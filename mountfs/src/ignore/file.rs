//! One file of rules. Whatever is in it, reading it ends, takes bounded memory, and a line that means nothing is told and
//! left out.

use ignore::Match;
use ignore::gitignore::{Gitignore, GitignoreBuilder};
use std::borrow::Cow;
use std::path::PathBuf;
use syncmount_common::Name;
use syncmount_common::portable::{self, Platform};

/// The largest file that is read, in bytes.
pub const FILE_LEN_MAX: usize = 128 * 1024;
/// The longest line, in bytes.
pub const LINE_LEN_MAX: usize = 1024;
/// How many rules count.
pub const LINES_MAX: usize = 2000;

/// A line that counts for nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("line {line}: {reason}")]
pub struct BadLine {
    /// Its number, from 1; 0 if no line counts.
    pub line: usize,
    /// Why.
    pub reason: String,
}

/// The rules of one file.
#[derive(Clone, Debug)]
pub struct RuleFile(Gitignore);

impl RuleFile {
    /// Reads the bytes of a file. Returns the lines that count for nothing, too.
    pub fn parse(bytes: &[u8]) -> (Self, Vec<BadLine>) {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let mut bad = Vec::new();
        let mut rules = GitignoreBuilder::new("");
        let mut count = 0;
        if bytes.len() > FILE_LEN_MAX {
            bad.push(BadLine { line: 0, reason: format!("the file is larger than {} KiB", FILE_LEN_MAX / 1024) });
            return (Self(Gitignore::empty()), bad);
        }
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let mut refuse = |reason: String| bad.push(BadLine { line: index + 1, reason });
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            count += 1;
            if count > LINES_MAX {
                refuse(format!("only {LINES_MAX} rules count, this one and those below do not"));
                break;
            }
            match std::str::from_utf8(line) {
                _ if line.len() > LINE_LEN_MAX => refuse(format!("it is longer than {LINE_LEN_MAX} bytes")),
                Err(_) => refuse("it is not UTF-8".into()),
                Ok(text) => {
                    if let Err(error) = rules.add_line(None, &with_plain_braces(text)) {
                        refuse(error.to_string());
                    }
                }
            }
        }
        match rules.build() {
            Ok(rules) => (Self(rules), bad),
            Err(error) => {
                bad.push(BadLine { line: 0, reason: format!("the rules together cannot be used: {error}") });
                (Self(Gitignore::empty()), bad)
            }
        }
    }

    /// What the file says of a name, given by its path from the file's directory on; `None` if nothing.
    pub fn verdict(&self, path: &[&Name], is_dir: bool) -> Option<bool> {
        if self.0.is_empty() {
            return None;
        }
        match self.0.matched(path_of(path), is_dir) {
            Match::None => None,
            Match::Ignore(_) => Some(true),
            Match::Whitelist(_) => Some(false),
        }
    }
}

/// The line with braces that stand for themselves, as they do in git: the library takes them for a choice.
fn with_plain_braces(line: &str) -> Cow<'_, str> {
    if !line.contains(['{', '}']) {
        return line.into();
    }
    let (mut plain, mut chars) = (String::with_capacity(line.len() + 8), line.chars());
    // In a class they stand for themselves; its end may be its first character.
    let mut class_len = None;
    while let Some(char) = chars.next() {
        match (char, class_len) {
            ('\\', None) => {
                plain.push(char);
                plain.extend(chars.next());
                continue;
            }
            ('[', None) => class_len = Some(0),
            (']', Some(1..)) => class_len = None,
            ('!' | '^', Some(0)) => {}
            (_, Some(len)) => class_len = Some(len + 1),
            ('{' | '}', None) => plain.push('\\'),
            (_, None) => {}
        }
        plain.push(char);
    }
    plain.into()
}

/// The names as a path of this platform. What it cannot hold is spelled as it would be in a folder here.
fn path_of(names: &[&Name]) -> PathBuf {
    let spelled: Vec<Vec<u8>> = names
        .iter()
        .map(|name| portable::to_local(name, Platform::HERE).unwrap_or_else(|_| name.as_bytes().to_vec()))
        .collect();
    portable::os_string(spelled.join(&b'/')).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> (RuleFile, Vec<usize>) {
        let (file, bad) = RuleFile::parse(text);
        (file, bad.iter().map(|bad| bad.line).collect())
    }

    fn ignores(file: &RuleFile, name: &str) -> bool {
        file.verdict(&[&Name::try_from(name).unwrap()], false) == Some(true)
    }

    #[test]
    fn a_line_that_means_nothing_is_told_and_left_out() {
        let long = "x".repeat(LINE_LEN_MAX + 1);
        let text = [b"\xEF\xBB\xBFfirst\r\n[z-a]\n\xFF\n", long.as_bytes(), b"\nlast"].concat();
        let (file, bad) = parse(&text);
        assert_eq!(bad, [2, 3, 4]);
        assert!(ignores(&file, "first") && ignores(&file, "last"));
    }

    #[test]
    fn braces_stand_for_themselves() {
        let (file, bad) = parse(b"{x\n*.{a,b}\n\\{y}\n[{]z\n[]{]w\n");
        assert!(bad.is_empty(), "{bad:?}");
        for name in ["{x", "1.{a,b}", "{y}", "{z", "{w", "]w"] {
            assert!(ignores(&file, name), "{name}");
        }
        for name in ["x", "1.a", "1.b", "y", "z"] {
            assert!(!ignores(&file, name), "{name}");
        }
    }

    #[test]
    fn a_file_without_bounds_is_bounded() {
        let (file, bad) = parse(&vec![b'\n'; FILE_LEN_MAX + 1]);
        assert!(bad == [0] && !ignores(&file, "x"));
        let many: String = (0..=LINES_MAX + 5).map(|number| format!("name-{number}\n")).collect();
        let (file, bad) = parse(many.as_bytes());
        assert_eq!(bad, [LINES_MAX + 1]);
        assert!(ignores(&file, "name-7") && !ignores(&file, &format!("name-{LINES_MAX}")));
    }
}
