//! What lies around a folder and must stay as it is: files, directories and symlinks with their bytes, modes and times.

use super::device::Device;
use super::dice::set_mtime;
use super::tree::Tree;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

/// Sentinels beside a folder.
pub struct Around {
    root: PathBuf,
    before: Tree,
}

impl Around {
    /// Where they lie, as a symlink in the folder's top says it. Only from the folder of their own device something is there.
    pub const FROM_FOLDER: &str = "../outside/in";

    /// Beside the folder of `device`. `names` are those of directories that have entries called like those of the folder.
    pub fn of(device: &Device, names: &[&str]) -> Self {
        Self::beside(&device.home, names)
    }

    /// The same beside a folder that lies in `home`.
    pub fn beside(home: &Path, names: &[&str]) -> Self {
        let root = home.join("outside");
        for dir in names.iter().chain(&[""]) {
            let dir = root.join("in").join(dir);
            fs::create_dir_all(dir.join("sub")).expect("the temporary directory is writable");
            for (name, mode) in FILES {
                fs::write(dir.join(name), format!("precious {name}")).expect("it is writable");
                fs::set_permissions(dir.join(name), Permissions::from_mode(mode)).expect("it is this user's");
            }
            symlink("keys", dir.join("link")).expect("the disk has symlinks");
        }
        age(&root).expect("it is this user's");
        let before = read(&root);
        Self { root, before }
    }

    /// Where they lie.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What has changed about them, one line each.
    pub fn changes(&self) -> Vec<String> {
        self.before.differences(&read(&self.root))
    }

    /// Nothing has.
    ///
    /// # Panics
    /// If something has.
    #[track_caller]
    pub fn assert_untouched(&self) {
        assert_eq!(self.changes(), Vec::<String>::new(), "outside of the folder");
    }
}

/// What is in each of its directories. The last two have names of the client's own: it must not clear them up there.
const FILES: [(&str, u32); 8] = [
    ("keys", 0o600),
    ("sub/keys", 0o440),
    ("f0", 0o600),
    ("f1", 0o755),
    ("sub/f0", 0o600),
    ("sub/f1", 0o4711),
    (".syncmount-0000000000000000.part", 0o600),
    ("sub/.syncmount-0000000000000001.part", 0o600),
];

/// Everything was made long ago, so that a change shows however fast it comes.
fn age(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { age(&entry.path())? } else { set_mtime(&entry.path(), LONG_AGO, 7)? }
    }
    set_mtime(dir, LONG_AGO, 7)
}

const LONG_AGO: i64 = 1_500_000_000;

fn read(root: &Path) -> Tree {
    Tree::read_whole(root).expect("it can be read")
}
