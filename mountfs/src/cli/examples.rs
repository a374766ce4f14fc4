//! What the end of each `--help` shows: lines that can be typed.

pub(super) const WATCH: &str = "\
Examples:
  syncmount watch ~/Sync --server https://files.example.org
  syncmount watch ~/Sync --dry-run      # what would be done
  syncmount watch ~/Sync --once         # send and fetch everything, then end";

pub(super) const LOGIN: &str = "\
Examples:
  syncmount login https://files.example.org
  syncmount login https://files.example.org --token-file token.txt";

pub(super) const LOGOUT: &str = "\
Examples:
  syncmount logout https://files.example.org";

pub(super) const STATUS: &str = "\
Examples:
  syncmount status                      # all folders
  syncmount status ~/Sync --json";

pub(super) const PIN: &str = "\
Examples:
  syncmount pin ~/Sync/music
  syncmount pin --wait --timeout 1h ~/Sync/music
  syncmount pin --list ~/Sync";

pub(super) const UNPIN: &str = "\
Examples:
  syncmount unpin ~/Sync/music";

pub(super) const ACCEPT: &str = "\
Examples:
  syncmount accept ~/Sync               # another disk lies there on purpose";

pub(super) const UMOUNT: &str = "\
Examples:
  syncmount umount ~/Sync
  syncmount umount ~/Sync --timeout 30s
  syncmount umount ~/Sync --timeout 5s --force";

pub(super) const WAIT: &str = "\
Examples:
  syncmount wait ~/Sync --timeout 10m";

pub(super) const INSTALL: &str = "\
Examples:
  syncmount service install ~/Sync";

pub(super) const UNINSTALL: &str = "\
Examples:
  syncmount service uninstall ~/Sync";

pub(super) const VERIFY: &str = "\
Examples:
  syncmount cache verify ~/Sync";
