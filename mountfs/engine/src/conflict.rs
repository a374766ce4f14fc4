//! Who keeps a name that two nodes claim, and what the other is called.

use crate::state::State;
use jiff::tz::TimeZone;
use syncmount_common::name::NAME_LEN_MAX;
use syncmount_common::text::steers;
use syncmount_common::{Name, NodeKind, Timestamp};

/// Whether `a` keeps a name that `b` claims too: a directory does, else the newer mtime, else the one that the server
/// already has there.
pub(crate) fn keeps_name(a: &State, b: &State, a_at_server: bool) -> bool {
    match (a.kind() == NodeKind::Dir, b.kind() == NodeKind::Dir) {
        (true, false) => true,
        (false, true) => false,
        _ if a.attrs.mtime == b.attrs.mtime => a_at_server,
        _ => a.attrs.mtime > b.attrs.mtime,
    }
}

/// The name of a conflict copy: `report (conflict, DEVICE, 2026-11-22 10.15.30).txt`, with ` 2`, ` 3`, … inside the
/// parentheses until `taken` says no. A copy of a copy keeps one note only. The extension stays, so that the file opens
/// in its program; what is too long is cut at a character's boundary.
pub fn conflict_name(name: &Name, device: &str, at: Timestamp, taken: impl Fn(&Name) -> bool) -> Name {
    // A note without an extension behind it has dots of its own.
    let (stem, extension) = split(without_note(name.as_bytes()));
    let stem = without_note(stem);
    let is_plain = |c: char| !"/\\:*?\"<>|()".contains(c) && !steers(c);
    let device: String = device.chars().map(|c| if is_plain(c) { c } else { '-' }).take(40).collect();
    let time = time_text(at);
    (1u32..)
        .find_map(|count| {
            let again = if count == 1 { String::new() } else { format!(" {count}") };
            let note = format!(" (conflict, {device}, {time}{again})");
            let room = NAME_LEN_MAX.saturating_sub(note.len() + extension.len());
            let mut bytes = cut(stem, room).to_vec();
            bytes.extend_from_slice(note.as_bytes());
            bytes.extend_from_slice(extension);
            Name::new(bytes).ok().filter(|candidate| !taken(candidate))
        })
        .unwrap_or_else(|| name.clone())
}

/// Whether a name has a conflict note.
pub(crate) fn is_conflict_copy(name: &Name) -> bool {
    original_name(name).is_some()
}

/// The name that a conflict copy was made of, as far as it was not cut.
pub(crate) fn original_name(copy: &Name) -> Option<Name> {
    let whole = copy.as_bytes();
    let plain = without_note(whole);
    if plain.len() < whole.len() {
        return Name::new(plain).ok();
    }
    let (stem, extension) = split(whole);
    let plain = without_note(stem);
    if plain.len() < stem.len() { Name::new([plain, extension].concat()).ok() } else { None }
}

/// Whether a conflict copy's name tells this time.
pub(crate) fn is_of_time(copy: &Name, at: Timestamp) -> bool {
    let time = time_text(at);
    copy.as_bytes().windows(time.len()).any(|part| part == time.as_bytes())
}

fn time_text(at: Timestamp) -> String {
    let (seconds, _) = at.parts();
    jiff::Timestamp::from_second(seconds)
        .map(|time| time.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H.%M.%S").to_string())
        .unwrap_or_else(|_| seconds.to_string())
}

/// Stem and extension (with its dot, at most 16 bytes, the stem not empty).
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => name.split_at(dot),
        _ => (name, &[]),
    }
}

fn without_note(stem: &[u8]) -> &[u8] {
    const MARK: &[u8] = b" (conflict, ";
    match stem.windows(MARK.len()).position(|window| window == MARK) {
        Some(at) if at > 0 && stem.ends_with(b")") => &stem[..at],
        _ => stem,
    }
}

fn cut(stem: &[u8], room: usize) -> &[u8] {
    let mut end = stem.len().min(room);
    while end > 0 && end < stem.len() && stem[end] & 0xC0 == 0x80 {
        end -= 1;
    }
    &stem[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(name: &str, taken: &[&str]) -> String {
        let name = Name::try_from(name).unwrap();
        conflict_name(&name, "anna's laptop", Timestamp(1_795_342_530_000_000_000), |candidate| {
            taken.contains(&&*candidate.to_string_lossy())
        })
        .to_string()
    }

    #[test]
    fn keeps_the_extension_and_never_piles_up_notes() {
        let first = "report (conflict, anna's laptop, 2026-11-22 10.15.30).txt";
        assert_eq!(named("report.txt", &[]), first);
        assert_eq!(named(first, &[]), first);
        assert_eq!(named("report.txt", &[first]), "report (conflict, anna's laptop, 2026-11-22 10.15.30 2).txt");
        assert_eq!(named(".bashrc", &[]), ".bashrc (conflict, anna's laptop, 2026-11-22 10.15.30)");
        let plain = "Makefile (conflict, anna's laptop, 2026-11-22 10.15.30)";
        assert_eq!(named("Makefile", &[]), plain);
        assert_eq!(named(plain, &[]), plain);
        assert_eq!(named(plain, &[plain]), "Makefile (conflict, anna's laptop, 2026-11-22 10.15.30 2)");
    }

    #[test]
    fn a_device_cannot_steer_a_terminal_by_its_name() {
        let name = Name::try_from("a.txt").unwrap();
        let copy = conflict_name(&name, "x\u{202e}\x1b[2J\u{2028}", Timestamp(0), |_| false).to_string();
        assert_eq!(copy, "a (conflict, x--[2J-, 1970-01-01 00.00.00).txt");
    }

    proptest! {
        #[test]
        fn always_a_valid_name(bytes in proptest::collection::vec(any::<u8>(), 1..300), device in ".{0,80}", at: i64) {
            if let Ok(name) = Name::new(bytes) {
                let copy = conflict_name(&name, &device, Timestamp(at), |_| false);
                prop_assert!(copy != name || copy.to_string_lossy().contains("(conflict, "));
            }
        }
    }
}
