//! What stays on a machine without being asked: temporary files of editors, and what systems leave in folders.

use super::file::RuleFile;
use std::sync::{Arc, LazyLock};

/// The built-in rules, in the form of a `.syncignore` file.
pub const DEFAULTS: &str = r"
# Microsoft Office, LibreOffice
~$*
~*.tmp
.~lock.*#
lu[0-9]*.tmp
# vim: swap files, the probe whether a directory can be written
*.swp
*.swo
*.swx
4913
# emacs: locks, automatic saves; backups as vim, nano and others make them, too
.#*
\#*#
?*~
# GNOME: what is being saved
.goutputstream-*
# git: locks, in repositories and bare ones
**/.git/**/*.lock
**/*.git/HEAD.lock
**/*.git/config.lock
**/*.git/packed-refs.lock
**/*.git/refs/**/*.lock
# Systems
.DS_Store
._*
Thumbs.db
desktop.ini
.Trash-*
.fuse_hidden*
.nfs0*
";

pub(super) fn parsed() -> Arc<RuleFile> {
    static PARSED: LazyLock<Arc<RuleFile>> = LazyLock::new(|| Arc::new(RuleFile::parse(DEFAULTS.as_bytes()).0));
    PARSED.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_understood() {
        assert_eq!(RuleFile::parse(DEFAULTS.as_bytes()).1, []);
    }
}
