//! Which names of the disk stay on this machine, by the `.syncignore` files that lie in the folder.

use super::beneath::Dir;
use super::platform::{self, Print, PrintKind};
use crate::ignore::{FILE_LEN_MAX, FILE_NAME, Rules};
use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use syncmount_common::Name;

/// The rules as they were read last.
#[derive(Default)]
pub(crate) struct Ignored {
    rules: Rules,
    files: HashMap<PathBuf, Print>,
}

impl Ignored {
    /// Reads the rules in a directory, which lies at `dir`, again if they look otherwise than before.
    pub(crate) fn look(&mut self, here: &Dir, dir: &Path) {
        let Ok(spot) = here.spot(FILE_NAME.as_ref()) else { return };
        let names = names_of(dir);
        let names: Vec<&Name> = names.iter().collect();
        match spot.print() {
            Ok(Some(print)) if print.kind == PrintKind::File => {
                if self.files.get(dir) == Some(&print) {
                    return;
                }
                let mut bytes = Vec::new();
                let read = spot.open_to_read().and_then(|file| read_to(file, &mut bytes));
                if let Err(error) = read {
                    tracing::warn!(dir = %dir.display(), %error, "the rules cannot be read; they stay as they were");
                    return;
                }
                for bad in self.rules.set(&names, &bytes) {
                    tracing::warn!(dir = %dir.display(), line = bad.line, "means nothing: {}", bad.reason);
                }
                self.files.insert(dir.to_path_buf(), print);
            }
            Ok(_) if self.files.remove(dir).is_some() => self.rules.remove(&names),
            // What cannot be looked at is as it was.
            Ok(_) | Err(_) => {}
        }
    }

    /// Whether what is at `path` below the root stays on this machine.
    pub(crate) fn is_ignored(&self, path: &Path, is_dir: bool) -> bool {
        let names = names_of(path);
        let names: Vec<&Name> = names.iter().collect();
        self.rules.is_ignored(&names, is_dir)
    }
}

fn read_to(file: File, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    file.take(FILE_LEN_MAX as u64 + 1).read_to_end(bytes).map(drop)
}

fn names_of(path: &Path) -> Vec<Name> {
    let bytes = path.iter().filter_map(platform::name_bytes);
    bytes.filter_map(super::names::tree_name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_rules_counts_from_the_moment_it_is_there_until_it_goes() {
        let dir = tempfile::tempdir().unwrap();
        let here = super::super::beneath::Root::open(dir.path()).unwrap().dir(Path::new("")).unwrap();
        let mut ignored = Ignored::default();
        ignored.look(&here, Path::new(""));
        assert!(!ignored.is_ignored(Path::new("a/x.log"), false));
        assert!(ignored.is_ignored(Path::new("a/~$x.docx"), false), "by the defaults");
        std::fs::write(dir.path().join(FILE_NAME), "*.log\n").unwrap();
        ignored.look(&here, Path::new(""));
        assert!(ignored.is_ignored(Path::new("a/x.log"), false));
        std::fs::remove_file(dir.path().join(FILE_NAME)).unwrap();
        ignored.look(&here, Path::new(""));
        assert!(!ignored.is_ignored(Path::new("a/x.log"), false));
    }
}
