//! Which names of the disk are whose: ours, the user's, and how a name of the tree is spelled here.

use syncmount_common::portable::{Note, Platform, from_local, noted, to_local};
use syncmount_common::{Name, NodeId};

/// The marker in the root of a watched folder.
pub(crate) const MARKER: &str = ".syncmount-folder";

/// What the names of files begin with that are being put together.
pub(crate) const PART_PREFIX: &str = ".syncmount-";

/// What the names of marks begin with.
const MARK_PREFIX: &str = ".syncmount-mark-";

/// What the names of directories begin with in which files are put together.
const WORK_PREFIX: &str = ".syncmount-work-";

/// What they end with.
pub(crate) const PART_SUFFIX: &str = ".part";

/// Whether a name is one that watch mode uses itself; it is never shared.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name == MARKER.as_bytes() || is_part(name)
}

/// Whether a name is that of a file which is being put together: exactly as they are made here, since what is left over of them
/// is removed.
pub(crate) fn is_part(name: &[u8]) -> bool {
    let middle = name.strip_prefix(PART_PREFIX.as_bytes()).and_then(|rest| rest.strip_suffix(PART_SUFFIX.as_bytes()));
    let is_number = |digits: &[u8]| !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    middle.is_some_and(|middle| match middle {
        b"case" => true,
        [b'm', b'a', b'r', b'k', b'-', number @ ..] | [b'w', b'o', b'r', b'k', b'-', number @ ..] => is_number(number),
        number => number.len() == 16 && number.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')),
    })
}

/// Whether a name is none of ours and begins as they do. It is not shared, whatever the rules say.
pub(crate) fn is_reserved(name: &[u8]) -> bool {
    name.starts_with(PART_PREFIX.as_bytes()) && !is_ours(name)
}

/// Whether a name is that of a mark, which is made to hear when its hint comes.
pub(crate) fn is_mark(name: &[u8]) -> bool {
    is_part(name) && name.starts_with(MARK_PREFIX.as_bytes())
}

/// A name for a mark.
pub(crate) fn mark_name(number: u64) -> String {
    format!("{MARK_PREFIX}{number}{PART_SUFFIX}")
}

/// What a directory for files that are being put together is called, if this many other names are taken. Programs of before
/// take it for such a file.
pub(crate) fn work_name(number: u32) -> String {
    format!("{WORK_PREFIX}{number}{PART_SUFFIX}")
}

/// Whether a name is that of such a directory.
pub(crate) fn is_work(name: &[u8]) -> bool {
    is_part(name) && name.starts_with(WORK_PREFIX.as_bytes())
}

/// A name for a file that is being put together.
pub(crate) fn part_name(number: u64) -> String {
    format!("{PART_PREFIX}{number:016x}{PART_SUFFIX}")
}

/// The name in the tree of what is called so on the disk; `None` if the tree cannot hold it.
pub(crate) fn tree_name(disk: &[u8]) -> Option<Name> {
    from_local(disk, Platform::HERE).ok()
}

/// How a name of the tree is spelled on this disk: as it is, with look-alikes, or with a note if `is_taken` says that this
/// system cannot tell it from another. `None` if it is one of ours.
pub(crate) fn disk_name(name: &Name, node: NodeId, is_taken: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    if is_ours(name.as_bytes()) {
        return None;
    }
    let (plain, note) = match to_local(name, Platform::HERE) {
        Ok(local) => (Some(local), Note::Clash),
        Err(_) => (None, Note::Shortened),
    };
    let with_note = (0..).map(|attempt| noted(name, note, node, attempt, Platform::HERE));
    plain.into_iter().chain(with_note).find(|local| !is_taken(local))
}

/// Whether names that differ in case only are two on this system.
pub(crate) const TELLS_CASES: bool = matches!(Platform::HERE, Platform::Posix);

/// Whether two spellings are one name to this system although they differ.
pub(crate) fn clash(a: &[u8], b: &[u8]) -> bool {
    use syncmount_common::portable::fold_key;
    Platform::HERE != Platform::Posix && a != b && fold_key(a, Platform::HERE) == fold_key(b, Platform::HERE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_ours_are_nobodys() {
        assert!(is_ours(MARKER.as_bytes()) && is_ours(part_name(7).as_bytes()) && is_mark(mark_name(7).as_bytes()));
        assert!(
            is_ours(work_name(0).as_bytes()) && is_work(work_name(3).as_bytes()) && !is_work(part_name(7).as_bytes())
        );
        assert!(!is_ours(b".syncmount-folder2") && !is_mark(part_name(7).as_bytes()));
        let name = Name::try_from(MARKER).unwrap();
        assert_eq!(disk_name(&name, NodeId::ROOT, |_| false), None);
    }

    #[test]
    fn a_name_that_is_taken_gets_a_note() {
        let name = Name::try_from("report.txt").unwrap();
        assert_eq!(disk_name(&name, NodeId::ROOT, |_| false), Some(b"report.txt".to_vec()));
        let other = disk_name(&name, NodeId::ROOT, |taken| taken == b"report.txt").unwrap();
        assert!(other.starts_with(b"report (") && other.ends_with(b".txt"));
    }
}
