//! Names on platforms that cannot hold every [`Name`]: what a file is called there, and what such a file is called here.
//!
//! A true name is 1 to 255 bytes of any kind. Windows has no names with `<>:"|?*\` or control characters, none that end in
//! a dot or a space, none of its devices' (`CON`, `nul.txt`), and none that are not Unicode; macOS has none that are not
//! UTF-8. Such a name is spelled with look-alikes that hardly anybody types (`a:b` becomes `a﹕b`), and back. Both
//! directions are exact: every true name comes back as it was, and a name of the platform that is not spelled by this
//! module's rules is refused, never guessed. Names without anything of the kind are spelled as they are.
//!
//! A look-alike that is part of the true name is told from one that stands for something by the mark `‛` (U+201B) before
//! it; marks that stand directly before a look-alike are doubled first, as backslashes before a quote are. So marks
//! anywhere else stay as they are.
//!
//! What cannot be inverted (a name that clashes with another one there, or is too long for the platform) is spelled with a
//! note; whoever uses [`noted`] has to remember which name it stands for.

use crate::ids::NodeId;
use crate::name::{NAME_LEN_MAX, Name, NameError};
use icu_casemap::CaseMapper;
use icu_normalizer::{ComposingNormalizerBorrowed, DecomposingNormalizerBorrowed};
use std::borrow::Cow;
use std::ffi::OsString;

/// Says that the look-alike behind it is meant as it is.
const MARK: char = '\u{201B}';

/// What Windows forbids, and what it is spelled with. The small forms of CJK compatibility, not the fullwidth ones, which
/// people who write Chinese and Japanese do type. Control characters have pictures of their own.
const LOOK_ALIKES: [(char, char); 8] = [
    ('<', '\u{FE64}'),
    ('>', '\u{FE65}'),
    (':', '\u{FE55}'),
    ('"', '\u{02EE}'),
    ('|', '\u{01C0}'),
    ('?', '\u{FE56}'),
    ('*', '\u{FE61}'),
    ('\\', '\u{FE68}'),
];
const PICTURES: u32 = 0x2400;
const LAST_DOT: char = '\u{FE52}';
const LAST_SPACE: char = '\u{2420}';
/// A byte that is no part of UTF-8, 0x80 to 0xFF, is U+EF80 to U+EFFF, as MirBSD has it.
const BYTES: u32 = 0xEF00;
/// Of an ASCII letter to its fullwidth form.
const TO_FULLWIDTH: u32 = 0xFEE0;

/// A path on Windows, in UTF-16 units with its prefix `\\?\` and the NUL behind it.
const WINDOWS_PATH_MAX: usize = 32_767;
const MACOS_PATH_MAX: usize = 1024;
const POSIX_PATH_MAX: usize = 4096;

/// What the names of a machine are like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Platform {
    /// Any bytes, as on Linux.
    Posix,
    /// UTF-8 in any case and form, of which names that differ in nothing else are one.
    MacOs,
    /// UTF-16 without some characters and names; names that differ in case only are one.
    Windows,
}

/// Why a true name has no invertible spelling on a platform.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unholdable {
    /// Its spelling would be too long: use [`noted`] and remember which name it stands for.
    #[error("the name is too long for this system")]
    TooLong,
}

/// Why a name of a platform stands for no true name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Foreign {
    /// It is not Unicode (on Windows a lone surrogate).
    #[error("the name is not Unicode")]
    NotText,
    /// It is none that the platform can have.
    #[error("this system has no such names")]
    NotThere,
    /// It stands for nothing, or for what is spelled otherwise.
    #[error("the name has characters with which this program stands in for others, and they stand for nothing here")]
    NotSpelled,
    /// What it stands for is no name: above all, more than 255 bytes.
    #[error(transparent)]
    NoName(#[from] NameError),
}

/// Why a name is spelled with a note.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Note {
    /// Another name in the directory is the same one to the platform.
    Clash,
    /// The platform has no names of this length.
    Shortened,
}

impl Platform {
    /// The platform that this program was built for.
    pub const HERE: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Posix
    };

    /// The longest name, in units of [`Self::len`].
    pub const fn name_len_max(self) -> usize {
        NAME_LEN_MAX
    }

    /// The length of a spelling as the platform counts it: UTF-16 units on Windows, else bytes.
    pub fn len(self, local: &[u8]) -> usize {
        match self {
            Self::Windows => String::from_utf8_lossy(local).encode_utf16().count(),
            Self::Posix | Self::MacOs => local.len(),
        }
    }

    /// Whether the platform can hold a path: `root_len` units of the folder's own absolute path, then these names, each
    /// behind a separator.
    pub fn path_fits<'a>(self, root_len: usize, names: impl IntoIterator<Item = &'a [u8]>) -> bool {
        let (most, around) = match self {
            Self::Windows => (WINDOWS_PATH_MAX, r"\\?\".len() + 1),
            Self::MacOs => (MACOS_PATH_MAX, 1),
            Self::Posix => (POSIX_PATH_MAX, 1),
        };
        let names = names.into_iter().map(|name| self.len(name) + 1);
        names.fold(root_len + around, usize::saturating_add) <= most
    }

    /// Whether the platform can have a file of this name.
    pub fn holds(self, local: &[u8]) -> bool {
        let fits = self.len(local) <= self.name_len_max();
        if !matches!(Name::new(local), Ok(_) | Err(NameError::TooLong)) {
            return false;
        }
        match self {
            Self::Posix => fits,
            Self::MacOs => fits && std::str::from_utf8(local).is_ok(),
            Self::Windows => {
                fits && std::str::from_utf8(local).is_ok_and(|text| {
                    !text.chars().any(is_forbidden) && !text.ends_with(['.', ' ']) && !is_device(text)
                })
            }
        }
    }
}

/// How a name is spelled on a platform: UTF-8 on macOS and Windows, on Posix its own bytes.
pub fn to_local(name: &Name, platform: Platform) -> Result<Vec<u8>, Unholdable> {
    let local = match platform {
        Platform::Posix => return Ok(name.as_bytes().to_vec()),
        Platform::MacOs => spell(name.as_bytes(), |_| None, |_| None),
        Platform::Windows => spell_device(spell_end(spell(name.as_bytes(), look_alike, looked_alike))),
    };
    let fits = platform.len(local.as_bytes()) <= platform.name_len_max();
    if fits { Ok(local.into_bytes()) } else { Err(Unholdable::TooLong) }
}

/// Which true name a spelling stands for. Whatever this returns is spelled by [`to_local`] as it was given.
pub fn from_local(local: &[u8], platform: Platform) -> Result<Name, Foreign> {
    if platform == Platform::Posix {
        return Ok(Name::new(local)?);
    }
    let text = std::str::from_utf8(local).map_err(|_| Foreign::NotText)?;
    if !platform.holds(local) {
        return Err(Foreign::NotThere);
    }
    let bytes = match platform {
        Platform::Posix | Platform::MacOs => read(text, |_| None),
        Platform::Windows => read(&read_end(&read_device(text)), looked_alike),
    };
    let name = match Name::new(bytes) {
        Ok(name) => name,
        Err(NameError::TooLong) => return Err(NameError::TooLong.into()),
        Err(_) => return Err(Foreign::NotSpelled),
    };
    // Bytes that were given one by one may together be a character, which is spelled as itself.
    if to_local(&name, platform).as_deref() == Ok(local) { Ok(name) } else { Err(Foreign::NotSpelled) }
}

/// A spelling on [`Platform::HERE`] in the form that the system's calls take; the other way it is
/// [`OsStr::as_encoded_bytes`](std::ffi::OsStr::as_encoded_bytes).
pub fn os_string(local: Vec<u8>) -> OsString {
    #[cfg(unix)]
    return std::os::unix::ffi::OsStringExt::from_vec(local);
    #[cfg(not(unix))]
    return String::from_utf8(local)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        .into();
}

/// What all spellings that are one and the same name to a platform have in common, and no two others.
///
/// By canonical caseless matching (Unicode, D145): full case folding of the decomposed text, composed again. APFS does so;
/// NTFS compares letter by letter and tells composed from decomposed, so of the names that this puts together it could
/// hold some, and of those that it cannot none is missed.
pub fn fold_key(local: &[u8], platform: Platform) -> Vec<u8> {
    match (platform, std::str::from_utf8(local)) {
        (Platform::MacOs | Platform::Windows, Ok(text)) => {
            let plain = DecomposingNormalizerBorrowed::new_nfd().normalize(text);
            let folded = CaseMapper::new().fold_string(&plain);
            ComposingNormalizerBorrowed::new_nfc().normalize(&folded).into_owned().into_bytes()
        }
        _ => local.to_vec(),
    }
}

/// The spelling of a name with a note: `Report (case clash 3f9a1c).txt`. The same for a node each time; `attempt`, from 0,
/// tells further ones apart if that is taken too. It fits the platform. It is no inverse of anything: it has to be
/// remembered which name it stands for.
pub fn noted(name: &Name, note: Note, node: NodeId, attempt: u32, platform: Platform) -> Vec<u8> {
    let word = match note {
        Note::Clash => "case clash",
        Note::Shortened => "shortened",
    };
    let id: String = node.as_bytes().iter().rev().take(3).map(|byte| format!("{byte:02x}")).collect();
    let again = if attempt == 0 { String::new() } else { format!(" {}", attempt + 1) };
    let note = format!(" ({word} {id}{again})");
    let (stem, extension) = split(name.as_bytes());
    let mut len = stem.len();
    loop {
        let cut = [&stem[..len], note.as_bytes(), extension].concat();
        let spelled = match platform {
            Platform::Posix => cut,
            Platform::MacOs => spell(&cut, |_| None, |_| None).into_bytes(),
            Platform::Windows => spell_device(spell_end(spell(&cut, look_alike, looked_alike))).into_bytes(),
        };
        if platform.len(&spelled) <= platform.name_len_max() || len == 0 {
            return spelled;
        }
        len -= 1;
        while len > 0 && stem[len] & 0xC0 == 0x80 {
            len -= 1;
        }
    }
}

/// Stem and extension (with its dot, at most 16 bytes, the stem not empty).
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|byte| *byte == b'.') {
        Some(dot) if dot > 0 && name.len() - dot <= 16 => name.split_at(dot),
        _ => (name, &[]),
    }
}

fn is_forbidden(c: char) -> bool {
    look_alike(c).is_some() || matches!(c, '\0' | '/')
}

/// What a character that Windows forbids is spelled with.
fn look_alike(c: char) -> Option<char> {
    match c {
        '\u{1}'..='\u{1F}' => char::from_u32(PICTURES + u32::from(c)),
        _ => LOOK_ALIKES.iter().find(|(from, _)| *from == c).map(|(_, to)| *to),
    }
}

/// What a look-alike stands for.
fn looked_alike(c: char) -> Option<char> {
    match c {
        '\u{2401}'..='\u{241F}' => char::from_u32(u32::from(c) - PICTURES),
        _ => LOOK_ALIKES.iter().find(|(_, to)| *to == c).map(|(from, _)| *from),
    }
}

fn byte_of(c: char) -> Option<u8> {
    u8::try_from(u32::from(c).checked_sub(BYTES)?).ok().filter(|byte| *byte >= 0x80)
}

fn spelled_byte(byte: u8) -> char {
    char::from_u32(BYTES + u32::from(byte)).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Spells characters for which there is a look-alike, and bytes that are no character.
fn spell(bytes: &[u8], to: impl Fn(char) -> Option<char>, from: impl Fn(char) -> Option<char>) -> String {
    let mut out = String::with_capacity(bytes.len() + 8);
    let mut marks = 0;
    let mut push = |c: char, stands: bool, literal: bool| {
        if stands || literal {
            out.extend(std::iter::repeat_n(MARK, marks + usize::from(literal)));
        }
        out.push(c);
        marks = if c == MARK { marks + 1 } else { 0 };
    };
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match to(c) {
                Some(spelled) => push(spelled, true, false),
                None => push(c, false, from(c).is_some() || byte_of(c).is_some()),
            }
        }
        chunk.invalid().iter().for_each(|byte| push(spelled_byte(*byte), true, false));
    }
    out
}

/// The inverse of [`spell`].
fn read(text: &str, from: impl Fn(char) -> Option<char>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut marks = 0;
    for c in text.chars() {
        let stands_for = from(c).map(|c| c.to_string().into_bytes()).or_else(|| byte_of(c).map(|byte| vec![byte]));
        match stands_for {
            Some(instead) => {
                // Of marks before a look-alike the first half says nothing but that they are marks.
                out.truncate(out.len() - (marks - marks / 2) * MARK.len_utf8());
                let literal = marks % 2 == 1;
                out.extend(if literal { c.to_string().into_bytes() } else { instead });
            }
            None => out.extend(c.to_string().into_bytes()),
        }
        marks = if c == MARK { marks + 1 } else { 0 };
    }
    out
}

const ENDS: [(char, char); 2] = [('.', LAST_DOT), (' ', LAST_SPACE)];

/// Spells a dot or a space at the end.
fn spell_end(mut text: String) -> String {
    let Some(last) = text.pop() else { return text };
    let marks = text.chars().rev().take_while(|c| *c == MARK).count();
    let stands = ENDS.iter().find(|(from, _)| *from == last).map(|(_, to)| *to);
    let literal = ENDS.iter().any(|(_, to)| *to == last);
    if stands.is_some() || literal {
        text.extend(std::iter::repeat_n(MARK, marks + usize::from(literal)));
    }
    text.push(stands.unwrap_or(last));
    text
}

/// The inverse of [`spell_end`].
fn read_end(text: &str) -> Cow<'_, str> {
    let stands_for = |last: char| ENDS.iter().find(|(_, to)| *to == last).map(|(from, _)| *from);
    let Some((last, instead)) = text.chars().next_back().and_then(|last| Some((last, stands_for(last)?))) else {
        return Cow::Borrowed(text);
    };
    let before = &text[..text.len() - last.len_utf8()];
    let marks = before.chars().rev().take_while(|c| *c == MARK).count();
    let mut out = before[..before.len() - (marks - marks / 2) * MARK.len_utf8()].to_owned();
    out.push(if marks % 2 == 1 { last } else { instead });
    Cow::Owned(out)
}

/// Whether Windows takes the name for one of its devices', whatever comes behind the first dot.
fn is_device(text: &str) -> bool {
    let stem = text.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let upper = stem.to_ascii_uppercase();
    let is_numbered = |prefix| {
        let number = upper.strip_prefix(prefix).map(|rest| rest.chars().collect::<Vec<char>>());
        matches!(number.as_deref(), Some(['1'..='9' | '\u{B9}' | '\u{B2}' | '\u{B3}']))
    };
    let is_named = ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&&*upper);
    is_named || is_numbered("COM") || is_numbered("LPT")
}

/// Spells the first letter of a device's name.
fn spell_device(text: String) -> String {
    if is_device(&text) {
        let (first, rest) = text.split_at(1);
        let spelled = first.chars().filter_map(|c| char::from_u32(u32::from(c) + TO_FULLWIDTH));
        return spelled.collect::<String>() + rest;
    }
    if without_marks(&text).is_some() { format!("{MARK}{text}") } else { text }
}

/// The device's name that a text would stand for if it had no marks before it.
fn without_marks(text: &str) -> Option<String> {
    let spelled = text.trim_start_matches(MARK);
    let first = spelled.chars().next().filter(|c| matches!(c, '\u{FF21}'..='\u{FF3A}' | '\u{FF41}'..='\u{FF5A}'))?;
    let device = char::from_u32(u32::from(first) - TO_FULLWIDTH)?.to_string() + &spelled[first.len_utf8()..];
    is_device(&device).then_some(device)
}

/// The inverse of [`spell_device`].
fn read_device(text: &str) -> Cow<'_, str> {
    match (without_marks(text), text.strip_prefix(MARK)) {
        (Some(_), Some(less)) => Cow::Borrowed(less),
        (Some(device), None) => Cow::Owned(device),
        (None, _) => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: [Platform; 3] = [Platform::Posix, Platform::MacOs, Platform::Windows];

    fn spelled(name: &[u8], platform: Platform) -> String {
        String::from_utf8(to_local(&Name::new(name).unwrap(), platform).unwrap()).unwrap()
    }

    fn on_windows(name: &str) -> String {
        spelled(name.as_bytes(), Platform::Windows)
    }

    #[test]
    fn what_windows_cannot_hold_is_spelled_with_look_alikes() {
        let cases = [
            ("what: \"a\\b|c\" <d> *?", "what﹕ ˮa﹨bǀcˮ ﹤d﹥ ﹡﹖"),
            ("tab\there\u{1F}", "tab␉here␟"),
            ("dot.", "dot﹒"),
            ("dots..", "dots.﹒"),
            ("space ", "space␠"),
            ("CON", "ＣON"),
            ("nul.txt", "ｎul.txt"),
            ("Aux .tar.gz", "Ａux .tar.gz"),
            ("com\u{b9}", "ｃom\u{b9}"),
            ("LPT9.", "LPT9﹒"),
            ("conout$", "ｃonout$"),
            ("a﹕b:c", "a‛﹕b﹕c"),
            ("a‛﹕", "a‛‛‛﹕"),
            ("a‛:", "a‛‛﹕"),
            ("end﹒", "end‛﹒"),
            ("ＣON", "‛ＣON"),
            ("‛ＣON", "‛‛ＣON"),
        ];
        for (name, local) in cases {
            assert_eq!(on_windows(name), local, "{name:?}");
            assert!(Platform::Windows.holds(local.as_bytes()) && !Platform::Windows.holds(b"CON"));
            assert_eq!(from_local(local.as_bytes(), Platform::Windows), Ok(Name::try_from(name).unwrap()), "{local}");
        }
    }

    #[test]
    fn ordinary_names_are_spelled_as_they_are() {
        let names = [
            "Report 2026.pdf",
            ".bashrc",
            "...x",
            "COM0",
            "console",
            "a‛b",
            "“quoted‛",
            "日本語：資料？.txt",
            "café",
            "cafe\u{301}",
            "﹒hidden",
            "x␠y",
            "ＣONSOLE",
            "lpt10",
        ];
        for name in names {
            for platform in ALL {
                assert_eq!(spelled(name.as_bytes(), platform), name);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_text_come_back() {
        for platform in [Platform::MacOs, Platform::Windows] {
            assert_eq!(spelled(b"latin-\xE9.txt", platform), "latin-\u{EFE9}.txt");
            assert_eq!(spelled("pua-\u{EFE9}".as_bytes(), platform), "pua-‛\u{EFE9}");
            assert_eq!(from_local("\u{EFC3}\u{EFA9}".as_bytes(), platform), Err(Foreign::NotSpelled), "that is an é");
        }
        let long = Name::new([0xFF; 255]).unwrap();
        assert_eq!(to_local(&long, Platform::MacOs), Err(Unholdable::TooLong));
        assert!(to_local(&long, Platform::Windows).is_ok());
    }

    #[test]
    fn names_of_the_platform_that_stand_for_nothing_are_refused() {
        let windows = |local: &str| from_local(local.as_bytes(), Platform::Windows);
        assert_eq!(windows("nul"), Err(Foreign::NotThere));
        assert_eq!(windows("a:b"), Err(Foreign::NotThere));
        assert_eq!(windows("﹒"), Err(Foreign::NotSpelled), "`.` is no name");
        assert_eq!(windows(&"語".repeat(255)), Err(Foreign::NoName(NameError::TooLong)));
        assert_eq!(from_local(b"\xFF", Platform::Windows), Err(Foreign::NotText));
        assert_eq!(from_local(b"\xED\xA0\x80", Platform::Windows), Err(Foreign::NotText), "a lone surrogate");
    }

    #[test]
    fn keys_are_equal_where_names_clash() {
        let clash = |a: &str, b: &str, platform| fold_key(a.as_bytes(), platform) == fold_key(b.as_bytes(), platform);
        for platform in [Platform::MacOs, Platform::Windows] {
            for (a, b) in [
                ("Report", "rePORT"),
                ("caf\u{e9}", "CAFE\u{301}"),
                ("ΣΊΣΥΦΟΣ", "σίσυφος"),
                ("Å", "\u{212B}"),
                ("ǅ", "ǆ"),
            ] {
                assert!(clash(a, b, platform), "{a} and {b}");
            }
            assert!(!clash("ı", "i", platform) && !clash("a", "a ", platform) && !clash("ﬁ", "f1", platform));
        }
        assert!(!clash("a", "A", Platform::Posix));
    }

    #[test]
    fn a_note_keeps_the_extension_and_fits() {
        let node = NodeId::from_bytes([0xAB; 16]);
        let noted =
            |name: &[u8], note, attempt, platform| noted(&Name::new(name).unwrap(), note, node, attempt, platform);
        assert_eq!(noted(b"Report.txt", Note::Clash, 0, Platform::Windows), b"Report (case clash ababab).txt");
        assert_eq!(noted(b"a:b", Note::Clash, 1, Platform::Windows), "a﹕b (case clash ababab 2)".as_bytes());
        let long = noted(&[0xFF; 255], Note::Shortened, 0, Platform::MacOs);
        assert!(Platform::MacOs.holds(&long) && long.len() > 240 && long.ends_with(b" (shortened ababab)"));
    }

    #[test]
    fn a_path_is_as_long_as_windows_counts_it() {
        let name = [b'x'; 254];
        assert!(Platform::Windows.path_fits(255, [&name[..]; 127]));
        assert!(!Platform::Windows.path_fits(255, [&name[..]; 128]));
        assert!(!Platform::MacOs.path_fits(100, [&name[..]; 4]) && Platform::Posix.path_fits(100, [&name[..]; 4]));
        assert_eq!((Platform::Windows.len("é𝄞".as_bytes()), Platform::MacOs.len("é𝄞".as_bytes())), (3, 6));
    }

    /// Names in which everything that is special meets everything else.
    fn knotty() -> impl Strategy<Value = Vec<u8>> {
        let pieces: Vec<&[u8]> = vec![
            b"CON",
            "ＣON".as_bytes(),
            b"aux",
            b"lpt1",
            b".",
            b" ",
            b":",
            b"?",
            b"x",
            "‛".as_bytes(),
            "‛".as_bytes(),
            "﹕".as_bytes(),
            "﹒".as_bytes(),
            "␠".as_bytes(),
            "␁".as_bytes(),
            b"\x01",
            b"\xFF",
            b"\xC3",
            b"\xA9",
            "\u{EFC3}".as_bytes(),
            "\u{EFA9}".as_bytes(),
            "é".as_bytes(),
            "𝄞".as_bytes(),
        ];
        prop_oneof![
            proptest::collection::vec(proptest::sample::select(pieces), 1..9).prop_map(|pieces| pieces.concat()),
            proptest::collection::vec(any::<u8>(), 1..256),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_name_comes_back(bytes in knotty()) {
            let Ok(name) = Name::new(bytes) else { return Ok(()) };
            for platform in ALL {
                match to_local(&name, platform) {
                    Ok(local) => {
                        prop_assert!(platform.holds(&local), "{:?}", String::from_utf8_lossy(&local));
                        prop_assert_eq!(from_local(&local, platform), Ok(name.clone()));
                    }
                    Err(Unholdable::TooLong) => prop_assert_eq!(platform, Platform::MacOs),
                }
            }
        }

        #[test]
        fn every_spelling_comes_back_or_is_refused(bytes in knotty()) {
            for platform in ALL {
                if let Ok(name) = from_local(&bytes, platform) {
                    prop_assert_eq!(to_local(&name, platform), Ok(bytes.clone()));
                }
            }
        }

        #[test]
        fn names_that_differ_are_spelled_differently(a in knotty(), b in knotty()) {
            let (Ok(a), Ok(b)) = (Name::new(a), Name::new(b)) else { return Ok(()) };
            for platform in ALL {
                let (x, y) = (to_local(&a, platform), to_local(&b, platform));
                prop_assert!(x.is_err() || (x == y) == (a == b));
            }
        }

        #[test]
        fn a_noted_name_is_one(bytes in knotty(), attempt in 0u32..20) {
            let Ok(name) = Name::new(bytes) else { return Ok(()) };
            for platform in ALL {
                let local = noted(&name, Note::Clash, NodeId::from_bytes([7; 16]), attempt, platform);
                prop_assert!(platform.holds(&local), "{:?}", String::from_utf8_lossy(&local));
            }
        }
    }
}
