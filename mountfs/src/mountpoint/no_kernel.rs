//! Without the means to mount there is nothing to clear.

use crate::config::StartError;
use std::path::Path;

/// Nothing of ours is mounted, so nothing is dead.
pub fn clear_if_dead(_: &Path) -> Result<bool, StartError> {
    Ok(false)
}

/// Nothing of ours is mounted, so nothing is dead.
pub fn is_dead_mount(_: &Path) -> bool {
    false
}
