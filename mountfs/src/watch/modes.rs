//! Which permission bits a plain folder takes part in.
//!
//! A file that is executed as its owner or its group is a different thing on each machine: a user who can write to the folder
//! elsewhere could make one here that runs as this user, or as root. So these bits are kept in the tree and not set on the
//! disk, and that the disk lacks them says nothing. Its owner may say otherwise.

/// Set user id, set group id.
const SETID: u32 = 0o6000;

/// The mode of what could not be given to its owner.
pub(crate) const fn without_setid(mode: u32) -> u32 {
    mode & !SETID
}

/// How permission bits travel between tree and disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Modes {
    /// The disk gets all bits.
    applies_setid: bool,
}

impl Modes {
    /// With `true` the disk gets all bits, and what it lacks its owner has taken away.
    pub(crate) const fn applying_setid(applies_setid: bool) -> Self {
        Self { applies_setid }
    }

    /// What the disk gets of the mode that the tree has.
    pub(crate) const fn on_disk(self, mode: u32) -> u32 {
        if self.applies_setid { mode } else { mode & !SETID }
    }

    /// The mode that the tree gets when the disk has `found`, and the tree had `before` until now.
    pub(crate) const fn in_tree(self, found: u32, before: u32) -> u32 {
        if self.applies_setid { found } else { found | before & SETID }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_that_are_not_applied_are_not_missed() {
        let plain = Modes::default();
        assert_eq!((plain.on_disk(0o4755), plain.on_disk(0o1777)), (0o755, 0o1777));
        assert_eq!(plain.in_tree(0o700, 0o6755), 0o6700, "what the user changed, and what the disk never had");
        assert_eq!(plain.in_tree(0o4700, 0o755), 0o4700, "what the user has set is set");
        let all = Modes::applying_setid(true);
        assert_eq!((all.on_disk(0o6755), all.in_tree(0o755, 0o6755)), (0o6755, 0o755));
    }
}
