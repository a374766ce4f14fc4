//! What the end of each `--help` shows: lines that can be typed.

pub(crate) const SERVE: &str = "\
Examples:
  syncmount-server --data /srv/syncmount
  syncmount-server --data /srv/syncmount --listen 0.0.0.0:8080 --behind-proxy";

pub(crate) const TOKEN_ADD: &str = "\
Examples:
  syncmount-server token add laptop --data /srv/syncmount";

pub(crate) const TOKEN_LIST: &str = "\
Examples:
  syncmount-server token list --data /srv/syncmount";

pub(crate) const TOKEN_REVOKE: &str = "\
Examples:
  syncmount-server token revoke laptop --data /srv/syncmount";

pub(crate) const FOLDER_ADD: &str = "\
Examples:
  syncmount-server folder add photos --data /srv/syncmount";

pub(crate) const FOLDER_LIST: &str = "\
Examples:
  syncmount-server folder list --data /srv/syncmount";

pub(crate) const HISTORY: &str = "\
Examples:
  syncmount-server history --data /srv/syncmount --folder photos --limit 10";

pub(crate) const UNDO: &str = "\
Examples:
  syncmount-server undo --data /srv/syncmount --to 1234 --dry-run
  syncmount-server undo --data /srv/syncmount --to 1234";

pub(crate) const RESTORED: &str = "\
Examples:
  syncmount-server restored --data /srv/syncmount";

pub(crate) const CHECK: &str = "\
Examples:
  syncmount-server check --data /srv/syncmount";

pub(crate) const HOLDS_LIST: &str = "\
Examples:
  syncmount-server holds list --data /srv/syncmount";

pub(crate) const HOLDS_ALLOW: &str = "\
Examples:
  syncmount-server holds allow laptop --data /srv/syncmount";

pub(crate) const HOLDS_DENY: &str = "\
Examples:
  syncmount-server holds deny laptop --data /srv/syncmount";
