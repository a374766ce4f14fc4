//! The promises in `mountfs/SEMANTICS.md` and the tests that hold them.

use std::fs;
use std::path::{Path, PathBuf};

/// What a reference begins with, where its file is, and whether it names a file below that.
const SUITES: [(&str, &str, bool); 11] = [
    ("mount", "tests/tests/mount", true),
    ("watch", "tests/tests/watch", true),
    ("server", "server/tests/suite", true),
    ("engine", "mountfs/engine/src", true),
    ("store", "mountfs/src/store", true),
    ("driver", "mountfs/src/driver", true),
    ("vfs", "mountfs/src/vfs", true),
    ("pairs", "tests/tests/pairs.rs", false),
    ("sim", "tests/tests/sim/main.rs", false),
    ("liars", "tests/tests/liars.rs", false),
    ("promises", "tests/tests/promises.rs", false),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The bullets and the table rows, each on one line.
fn promises(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let is_head = ["| one device |", "| beyond the limit "].iter().any(|head| line.starts_with(head));
        let row = line.starts_with("| ") && !is_head;
        match line {
            _ if row || line.starts_with("- ") => found.push(line.to_owned()),
            _ if open && line.starts_with("  ") => {
                found.last_mut().unwrap().push_str(line);
                continue;
            }
            _ => {}
        }
        open = line.starts_with("- ");
    }
    found
}

/// Whether a source has a test of this name: a function under `#[test]`, or a row of a table of tests.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim).collect();
    let is_head = |line: &str| {
        [format!("fn {name}("), format!("async fn {name}(")].iter().any(|head| line.starts_with(head.as_str()))
    };
    let is_test =
        |at: usize| lines[..at].iter().rev().take(4).any(|line| line.starts_with("#[") && line.contains("test"));
    let is_row = |line: &str| line.starts_with(&format!("{name}: \""));
    lines.iter().enumerate().any(|(at, line)| is_row(line) || (is_head(line) && is_test(at)))
}

fn problem(reference: &str) -> Option<String> {
    let (suite, rest) = reference.split_once("::")?;
    let (_, place, has_files) = SUITES.iter().find(|(name, ..)| *name == suite)?;
    let (path, test) = match rest.rsplit_once("::") {
        Some((file, test)) if *has_files => (root().join(place).join(format!("{}.rs", file.replace("::", "/"))), test),
        None if !has_files => (root().join(place), rest),
        _ => return Some(format!("`{reference}` does not lead to a test")),
    };
    match fs::read_to_string(&path) {
        Err(error) => Some(format!("`{reference}`: {}: {error}", path.display())),
        Ok(source) if !has_test(&source, test) => Some(format!("`{reference}`: {} has no such test", path.display())),
        Ok(_) => None,
    }
}

#[test]
fn each_names_a_test() {
    let text = fs::read_to_string(root().join("mountfs/SEMANTICS.md")).unwrap();
    let promises = promises(&text);
    assert!(promises.len() > 80, "the promises were found");
    let known = |quoted: &&str| SUITES.iter().any(|(suite, ..)| quoted.starts_with(&format!("{suite}::")));
    let mut problems = Vec::new();
    for promise in &promises {
        let references: Vec<&str> = promise.split('`').skip(1).step_by(2).filter(known).collect();
        if references.is_empty() {
            problems.push(format!("no test is named: {promise}"));
        }
        problems.extend(references.into_iter().filter_map(problem));
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Every row of the table of pairs is told to people.
#[test]
fn every_pair_is_told() {
    let text = fs::read_to_string(root().join("mountfs/SEMANTICS.md")).unwrap();
    let source = fs::read_to_string(root().join("tests/tests/pairs.rs")).unwrap();
    let rows = source.lines().filter_map(|line| line.strip_prefix("    ")?.split_once(": \"").map(|(name, _)| name));
    let untold: Vec<&str> = rows.filter(|name| !text.contains(&format!("`pairs::{name}`"))).collect();
    assert!(untold.is_empty(), "{untold:?}");
}
