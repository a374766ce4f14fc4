//! What lies around a folder and must stay as it is: files, directories and symlinks with their bytes, modes and times.

use super::device::Device;
use super::tree::{DirTimes, Tree};
use std::fs::{self, Permissions};
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
        let root = device.home.join("outside");
        for dir in names.iter().chain(&[""]) {
            let dir = root.join("in").join(dir);
            fs::create_dir_all(dir.join("sub")).expect("the temporary directory is writable");
            for name in ["keys", "sub/keys", "f0", "f1", "sub/f0", "sub/f1"] {
                fs::write(dir.join(name), format!("precious {name}")).expect("it is writable");
                fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).expect("it is this user's");
            }
            symlink("keys", dir.join("link")).expect("the disk has symlinks");
        }
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

fn read(root: &Path) -> Tree {
    Tree::read(root, DirTimes::Compared).expect("it can be read")
}
