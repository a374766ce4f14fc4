//! Which names stay on this machine: `.syncignore` files, in the folder and in any directory below, and built-in defaults.
//!
//! Gitignore's syntax and its meaning: of the files from the name's own directory up to the folder the deepest that says
//! anything decides, in it the last line that matches; `!` takes back; what lies in an ignored directory is ignored, and
//! nothing in it can be taken back. The defaults come after all files, so a `!` in any file takes one of them back. The
//! files themselves always travel, and the program's own temporary names never do.
//!
//! Knows names and bytes; no disk, no tree. Names are the true ones, so that one rule means the same on every platform.

mod defaults;
mod file;

pub use defaults::DEFAULTS;
pub use file::{BadLine, FILE_LEN_MAX, LINE_LEN_MAX, LINES_MAX, RuleFile};

use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use syncmount_common::Name;

/// What a file with rules is called.
pub const FILE_NAME: &str = ".syncignore";

/// What the names begin with that this program makes for itself in a folder: temporary files, the marker of the root.
pub const OWN_PREFIX: &str = ".syncmount-";

/// How many directories are remembered with whether they are ignored.
const REMEMBERED_MAX: usize = 1 << 16;

/// A path as `a/b/c`.
type Joined = Vec<u8>;

/// The rules of a folder. Cheap to ask: a name costs one look-up for its directory and one match in each file above it.
pub struct Rules {
    files: BTreeMap<Joined, Arc<RuleFile>>,
    defaults: Arc<RuleFile>,
    dirs: Mutex<HashMap<Joined, bool>>,
}

impl Default for Rules {
    fn default() -> Self {
        Self::new([])
    }
}

impl Rules {
    /// The defaults, and files that were parsed before with the directories they lie in, each a path of names from the
    /// folder on.
    pub fn new(files: impl IntoIterator<Item = (Vec<Name>, Arc<RuleFile>)>) -> Self {
        let files = files.into_iter().map(|(dir, file)| (join(dir.iter()), file)).collect();
        Self { files, defaults: defaults::parsed(), dirs: Mutex::default() }
    }

    /// The `.syncignore` of a directory has these bytes from now on. Returns the lines that count for nothing.
    pub fn set(&mut self, dir: &[&Name], bytes: &[u8]) -> Vec<BadLine> {
        let (file, bad) = RuleFile::parse(bytes);
        self.files.insert(join(dir.iter().copied()), Arc::new(file));
        self.dirs.get_mut().clear();
        bad
    }

    /// A directory has no `.syncignore` any more.
    pub fn remove(&mut self, dir: &[&Name]) {
        self.files.remove(&join(dir.iter().copied()));
        self.dirs.get_mut().clear();
    }

    /// Whether a name stays on this machine: `path` from the folder on, at least one name; `is_dir` if it is a directory.
    pub fn is_ignored(&self, path: &[&Name], is_dir: bool) -> bool {
        let Some((_, parents)) = path.split_last() else { return false };
        self.dir_is_ignored(parents) || self.is_ignored_itself(path, is_dir)
    }

    fn dir_is_ignored(&self, dir: &[&Name]) -> bool {
        let (joined, ends) = join_with_ends(dir);
        let mut unknown = dir.len();
        let mut ignored = false;
        while unknown > 0 {
            if let Some(known) = self.dirs.lock().get(&joined[..ends[unknown - 1]]) {
                ignored = *known;
                break;
            }
            unknown -= 1;
        }
        for depth in unknown + 1..=dir.len() {
            ignored = ignored || self.is_ignored_itself(&dir[..depth], true);
            let mut dirs = self.dirs.lock();
            if dirs.len() >= REMEMBERED_MAX {
                dirs.clear();
            }
            dirs.insert(joined[..ends[depth - 1]].to_vec(), ignored);
        }
        ignored
    }

    /// Apart from the directories above.
    fn is_ignored_itself(&self, path: &[&Name], is_dir: bool) -> bool {
        let name = path[path.len() - 1].as_bytes();
        if name.starts_with(OWN_PREFIX.as_bytes()) {
            return true;
        }
        if name == FILE_NAME.as_bytes() {
            return false;
        }
        let from_files = || {
            let (joined, ends) = join_with_ends(path);
            (0..path.len()).rev().find_map(|depth| {
                let end = if depth == 0 { 0 } else { ends[depth - 1] };
                let file = self.files.get(&joined[..end])?;
                file.verdict(&path[depth..], is_dir)
            })
        };
        let said = if self.files.is_empty() { None } else { from_files() };
        said.or_else(|| self.defaults.verdict(path, is_dir)).unwrap_or(false)
    }
}

impl syncmount_engine::Rules for Rules {
    fn is_ignored(&self, path: &[&Name], dir: bool) -> bool {
        Self::is_ignored(self, path, dir)
    }
}

fn join<'a>(names: impl Iterator<Item = &'a Name>) -> Joined {
    join_with_ends(&names.collect::<Vec<_>>()).0
}

/// All names as a path, and where each of them ends in it.
fn join_with_ends(names: &[&Name]) -> (Joined, Vec<usize>) {
    let (mut joined, mut ends) = (Vec::new(), Vec::with_capacity(names.len()));
    for name in names {
        if !joined.is_empty() {
            joined.push(b'/');
        }
        joined.extend_from_slice(name.as_bytes());
        ends.push(joined.len());
    }
    (joined, ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str) -> Vec<Name> {
        path.split('/').filter(|part| !part.is_empty()).map(|part| Name::try_from(part).unwrap()).collect()
    }

    /// Rules from pairs of a directory and the text of its file.
    fn rules(files: &[(&str, &str)]) -> Rules {
        let mut rules = Rules::default();
        for (dir, text) in files {
            let dir = names(dir);
            assert_eq!(rules.set(&dir.iter().collect::<Vec<_>>(), text.as_bytes()), []);
        }
        rules
    }

    /// Whether a path is ignored; a directory if it ends in a slash.
    fn ignored(rules: &Rules, path: &str) -> bool {
        let names = names(path);
        rules.is_ignored(&names.iter().collect::<Vec<_>>(), path.ends_with('/'))
    }

    #[test]
    fn what_editors_and_systems_leave_behind_is_ignored_everywhere() {
        let rules = Rules::default();
        for name in [
            "~$Budget.xlsx",
            ".~lock.a.odt#",
            ".goutputstream-X7A1Z2",
            ".a.txt.swp",
            ".a.swo",
            ".a.swx",
            "4913",
            "a.txt~",
            ".#a.txt",
            "#a.txt#",
            "~WRD0001.tmp",
            "lu12345a6b.tmp",
            ".DS_Store",
            "Thumbs.db",
            "desktop.ini",
            ".Trash-1000/",
            ".fuse_hidden0000000100000002",
            ".nfs000000000123456700000001",
            ".syncmount-apply-1",
            ".syncmount-folder",
            "._a.jpg",
        ] {
            assert!(ignored(&rules, name), "{name}");
            assert!(ignored(&rules, &format!("deep/er/{name}")), "{name} below");
        }
        for path in [
            ".git/index.lock",
            "bare.git/HEAD.lock",
            "bare.git/refs/heads/main.lock",
            "a/.git/refs/heads/x/main.lock",
            ".git/modules/m/config.lock",
        ] {
            assert!(ignored(&rules, path), "{path}");
        }
    }

    #[test]
    fn what_people_keep_is_not() {
        let rules = Rules::default();
        for name in [
            ".git/",
            ".git/index",
            "Cargo.lock",
            "git/index.lock",
            "x.github/a.lock",
            "checkout.git/Cargo.lock",
            "checkout.git/src/yarn.lock",
            ".git/refs/heads/lock",
            "__pycache__/",
            "a.txt",
            "#hashtag",
            "C#",
            "~",
            "~/",
            "4913.txt",
            "14913",
            "a~b",
            ".swp.txt",
            "tmp/",
            "tmp/a",
            "template",
            ".syncignore",
            ".gitignore",
            ".nfsrc",
            "Thumbs",
            ".Trash",
            "node_modules/",
            "a.bak",
            "a.part",
            "a.tmp",
            ".syncmount",
        ] {
            assert!(!ignored(&rules, name), "{name}");
        }
    }

    #[test]
    fn a_file_means_what_it_means_to_git() {
        let rules = rules(&[(
            "",
            "# comment\n\n*.o\n!keep.o\n/only-here\nbuild/\ndoc/*.pdf\n**/cache\na/**/z\n\\#literal\nend\\ \n",
        )]);
        for path in [
            "x.o",
            "d/x.o",
            "only-here",
            "build/",
            "d/build/",
            "build/x",
            "build/keep.o",
            "doc/a.pdf",
            "cache",
            "d/e/cache",
            "a/z",
            "a/b/c/z",
            "#literal",
        ] {
            assert!(ignored(&rules, path), "{path}");
        }
        // Windows has no names that end in a space.
        assert!(ignored(&rules, "end ") || cfg!(windows));
        for path in ["keep.o", "d/keep.o", "d/only-here", "build", "doc/d/a.pdf", "d/doc/a.pdf", "comment", "end"] {
            assert!(!ignored(&rules, path), "{path}");
        }
    }

    #[test]
    fn the_deeper_file_decides_and_a_default_is_taken_back_anywhere() {
        let mut rules = rules(&[("", "*.log\n!*.swp\n"), ("d", "!*.log\nsecret\n"), ("d/e", "*.log\n")]);
        for (path, expected) in [
            ("a.log", true),
            ("d/a.log", false),
            ("d/e/a.log", true),
            ("d/e/f/a.log", true),
            ("secret", false),
            ("d/secret", true),
            ("d/e/secret", true),
            ("a.swp", false),
            ("d/e/a.swp", false),
            ("a~", true),
        ] {
            assert_eq!(ignored(&rules, path), expected, "{path}");
        }
        let dir = names("d");
        rules.remove(&dir.iter().collect::<Vec<_>>());
        assert!(ignored(&rules, "d/a.log") && !ignored(&rules, "d/secret"));
    }

    #[test]
    fn nothing_in_an_ignored_directory_is_taken_back_and_the_files_always_travel() {
        let rules = rules(&[("", "build/\n.*\n"), ("build", "!x\n")]);
        assert!(ignored(&rules, "build/x") && ignored(&rules, "build/.syncignore"));
        assert!(ignored(&rules, ".hidden") && !ignored(&rules, ".syncignore") && !ignored(&rules, "d/.syncignore"));
        let all = self::rules(&[("", "!.syncmount-*\n")]);
        assert!(ignored(&all, ".syncmount-x"), "the program's own names cannot be taken back");
    }

    #[test]
    fn what_was_asked_before_is_not_remembered_beyond_a_change() {
        let mut rules = Rules::default();
        assert!(!ignored(&rules, "d/x"));
        rules.set(&[], b"d/\n");
        assert!(ignored(&rules, "d/x"));
        rules.set(&[], b"");
        assert!(!ignored(&rules, "d/x"));
    }

    #[cfg(unix)]
    #[test]
    fn names_of_any_bytes_are_matched() {
        let rules = rules(&[("", "*.raw\n")]);
        let name = Name::new(&b"\xFF\xFE.raw"[..]).unwrap();
        assert!(rules.is_ignored(&[&name], false));
    }
}
