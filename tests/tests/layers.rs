//! Who may know what: SQL, HTTP, the kernel's protocol and the world outside each have one place in the source.

use std::fs;
use std::path::{Path, PathBuf};

/// What a source file must not contain, and where it may.
struct Rule {
    /// Where the rule holds.
    within: &'static [&'static str],
    words: &'static [&'static str],
    allowed: &'static [&'static str],
}

const RULES: &[Rule] = &[
    Rule {
        within: &["common", "mountfs", "server"],
        words: &["rusqlite", "SELECT ", "INSERT INTO", "UPDATE ", "DELETE FROM", "CREATE TABLE"],
        allowed: &["server/src/meta", "mountfs/src/store"],
    },
    Rule {
        within: &["common", "mountfs", "server"],
        words: &["axum", "StatusCode", "hyper::"],
        allowed: &["server/src/api", "server/src/server.rs", "mountfs/src/remote"],
    },
    Rule { within: &["mountfs"], words: &["axum", "hyper::"], allowed: &["mountfs/src/remote/http_tests.rs"] },
    Rule { within: &["common", "mountfs", "server"], words: &["reqwest"], allowed: &["mountfs/src/remote"] },
    Rule { within: &["common", "mountfs", "server"], words: &["fuser::"], allowed: &["mountfs/src/fuse"] },
    Rule {
        within: &["mountfs"],
        words: &["windows_sys", "std::os::windows"],
        allowed: &["mountfs/src/system", "mountfs/src/watch/beneath/windows.rs"],
    },
    Rule {
        within: &["common", "mountfs", "server"],
        words: &["notify::Config", "notify::Event"],
        allowed: &["mountfs/src/watch/hints.rs"],
    },
    Rule { within: &["server"], words: &["object_store::"], allowed: &["server/src/blob"] },
    // What is printed is escaped in one place of each program.
    Rule {
        within: &["common", "mountfs", "server"],
        words: &[
            "print!(",
            "println!(",
            "stdout().lock()",
            "stderr().lock()",
            "writeln!(io::std",
            "tracing_subscriber::fmt()",
        ],
        // The background process speaks over a pipe to the one that printed nothing yet.
        allowed: &[
            "mountfs/src/terminal.rs",
            "mountfs/src/logging.rs",
            "mountfs/src/background.rs",
            "server/src/cli.rs",
        ],
    },
    Rule {
        within: &["common", "mountfs/engine"],
        words: &["tokio", "std::fs", "std::net", "std::process", "SystemTime", "Instant::now", "std::thread"],
        allowed: &[],
    },
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// The sources below the `src` directories of a package, without generated and test directories.
fn sources(package: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![package.join("src")];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// Whether `line` is code that has `word` in it; what a comment says is no dependency.
fn uses(line: &str, word: &str) -> bool {
    let code = line.trim_start();
    !code.starts_with("//") && code.contains(word)
}

#[test]
fn every_layer_keeps_to_its_own() {
    let (root, mut broken, mut seen) = (root(), Vec::new(), 0);
    for rule in RULES {
        for package in rule.within {
            for path in sources(&root.join(package)) {
                seen += 1;
                let name = path.strip_prefix(&root).unwrap();
                if rule.allowed.iter().any(|allowed| name.starts_with(allowed)) {
                    continue;
                }
                for (number, line) in fs::read_to_string(&path).unwrap().lines().enumerate() {
                    let words = rule.words.iter().filter(|word| uses(line, word));
                    broken.extend(words.map(|word| format!("{}:{}: `{word}`", name.display(), number + 1)));
                }
            }
        }
    }
    assert!(seen > 100, "the sources were found");
    assert!(broken.is_empty(), "not allowed here:\n{}", broken.join("\n"));
}

#[test]
fn every_place_that_a_rule_allows_exists() {
    let missing: Vec<_> =
        RULES.iter().flat_map(|rule| rule.allowed).filter(|allowed| !root().join(allowed).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_engine_and_what_is_common_depend_on_nothing_that_does_io() {
    for package in ["common", "mountfs/engine"] {
        let manifest = fs::read_to_string(root().join(package).join("Cargo.toml")).unwrap();
        let (_, dependencies) = manifest.split_once("[dependencies]").expect("it has dependencies");
        let dependencies = dependencies.split("\n[").next().unwrap();
        for word in ["tokio", "reqwest", "rusqlite", "fuser", "axum", "rustix", "libc", "getrandom"] {
            let found = dependencies.lines().any(|line| line.starts_with(word));
            assert!(!found, "{package} depends on {word}");
        }
    }
}

/// What reaches something by a path, whatever was put in the place of its directories.
const BY_PATH: &[&str] = &[
    "fs::read",
    "fs::write",
    "fs::rename",
    "fs::remove",
    "fs::create",
    "fs::metadata",
    "fs::symlink",
    "fs::set_permissions",
    "fs::hard_link",
    "fs::copy",
    "fs::canonicalize",
    "fs::exists",
    "File::open",
    "File::create",
    "File::options",
    "OpenOptions",
    ".symlink_metadata(",
    ".canonicalize(",
    ".read_dir(",
    ".read_link(path",
    ".exists(",
    "rustix::fs",
    "CWD",
    "sync_dir(",
];

#[test]
fn watch_mode_touches_its_folder_by_handles_only() {
    // The first owns the handles. The second copies the state, which does not lie in the folder.
    let allowed = ["mountfs/src/watch/beneath", "mountfs/src/watch/dry_run.rs"];
    let (root, mut broken, mut seen) = (root(), Vec::new(), 0);
    for path in sources(&root.join("mountfs")) {
        let name = path.strip_prefix(&root).unwrap();
        if !name.starts_with("mountfs/src/watch") || allowed.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        seen += 1;
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
        for (number, line) in code.lines().enumerate() {
            let words = BY_PATH.iter().filter(|word| uses(line, word));
            broken.extend(words.map(|word| format!("{}:{}: `{word}`", name.display(), number + 1)));
        }
    }
    assert!(seen > 10, "the sources were found");
    assert!(broken.is_empty(), "by a path:\n{}", broken.join("\n"));
    // There, one path is given to the system: that of the root, which its owner has named.
    let unix = fs::read_to_string(root.join("mountfs/src/watch/beneath/unix.rs")).unwrap();
    let by_path = unix.lines().filter(|line| uses(line, "CWD") && !line.starts_with("use ")).count();
    assert_eq!(by_path, unix.matches("openat(CWD, path,").count() + unix.matches("openat(CWD, &self.path,").count());
}
