//! Positions in a folder's history that a client can only have from this server.
//!
//! A position carries a tag of 64 bits. 32 are random and drawn for each commit; the other 32 are of an HMAC-SHA-256 over the
//! folder, the epoch, the sequence number and the random ones, made when the position is told. A position that the history
//! has is recognised by the random half, so it stays good if the key is lost. One that the history lacks proves that the
//! store was set back, but only if its MAC is right: the key lies beside the database and is not set back with it.
//!
//! Commits of earlier versions have tags of 64 random bits, which are told as they are. A position with such a tag proves
//! nothing by itself. It is believed for [`OLD_FORM_FOR`] after the key was made, and not often. A key that is made with a new
//! database has no such cursors before it, and is as if it had been made in 1970.

use super::{Service, ServiceError};
use crate::meta::{FolderKey, FolderRow};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::{Seq, Timestamp};

/// How long positions without a MAC are believed after the key was made.
const OLD_FORM_FOR: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// How often such a position may renew a folder's epoch.
const OLD_FORM_EVERY: Duration = Duration::from_secs(10 * 60);

/// The block of SHA-256 in bytes, which HMAC is defined by.
const BLOCK_LEN: usize = 64;

/// The key of the positions' MACs, and when it was made.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CursorKey {
    secret: [u8; 32],
    made: Timestamp,
}

impl fmt::Debug for CursorKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CursorKey").field("made", &self.made).finish_non_exhaustive()
    }
}

/// How far a position is to be believed that the history lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Proof {
    /// This server has told it: the store was set back.
    Right,
    /// An earlier version may have told it.
    OldForm,
    /// This server has never told it.
    Wrong,
}

impl CursorKey {
    /// A key that everyone knows, made a long time ago: for stores in memory.
    pub const KNOWN: Self = Self { secret: [0; 32], made: Timestamp(i64::MIN) };

    /// A key of these random bytes, made at `made`.
    pub const fn new(secret: [u8; 32], made: Timestamp) -> Self {
        Self { secret, made }
    }

    /// As it is kept in a file: 64 hexadecimal digits, a space, and when it was made, in nanoseconds since 1970.
    pub fn to_text(&self) -> String {
        let hex = self.secret.iter().fold(String::with_capacity(64), |text, byte| text + &format!("{byte:02x}"));
        format!("{hex} {}", self.made.0)
    }

    /// Reads what [`Self::to_text`] wrote.
    pub fn from_text(text: &str) -> Option<Self> {
        let (hex, made) = text.trim_end().split_once(' ')?;
        let digits = hex.as_bytes().iter().map(|digit| char::from(*digit).to_digit(16)).collect::<Option<Vec<_>>>()?;
        let (pairs, []) = digits.as_chunks::<2>() else { return None };
        let secret: Vec<_> = pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect();
        Some(Self { secret: secret.try_into().ok()?, made: Timestamp(made.parse().ok()?) })
    }

    /// A position of this folder's present history. `stored` is the tag of the commit that it belongs to.
    pub(super) fn cursor(&self, folder: &FolderRow, seq: Seq, stored: u64) -> Cursor {
        let tag = random_half(stored).map_or(stored, |random| self.tag(folder, seq, random));
        Cursor { epoch: folder.epoch, seq, tag }
    }

    /// What a position of this folder's epoch says that its history does not have.
    pub(super) fn proof(&self, folder: &FolderRow, cursor: Cursor, now: Timestamp) -> Proof {
        if cursor.tag != 0 && cursor.tag == self.tag(folder, cursor.seq, (cursor.tag >> 32) as u32) {
            return Proof::Right;
        }
        let age = now.0.saturating_sub(self.made.0);
        if age < nanos(OLD_FORM_FOR) { Proof::OldForm } else { Proof::Wrong }
    }

    fn tag(&self, folder: &FolderRow, seq: Seq, random: u32) -> u64 {
        let parts = [
            &b"syncmount cursor"[..],
            folder.id.as_bytes(),
            folder.epoch.as_bytes(),
            &seq.to_be_bytes(),
            &random.to_be_bytes(),
        ];
        let [a, b, c, d, ..] = hmac(&self.secret, &parts);
        u64::from(random) << 32 | u64::from(u32::from_be_bytes([a, b, c, d]))
    }
}

/// HMAC-SHA-256 (RFC 2104) with a key of at most one block.
fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let padded = |pad: u8| {
        let mut block = [pad; BLOCK_LEN];
        block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
        Sha256::new_with_prefix(block)
    };
    let inner = parts.iter().fold(padded(0x36), |hash, part| hash.chain_update(part)).finalize();
    padded(0x5c).chain_update(inner).finalize().into()
}

/// The tag that is stored with a commit: its random half, and nothing.
pub(super) const fn stored_tag(random: u32) -> u64 {
    (if random == 0 { 1 } else { random } as u64) << 32
}

/// The random half of a stored tag; none for a commit of an earlier version, whose tag is random as a whole.
const fn random_half(stored: u64) -> Option<u32> {
    if stored as u32 == 0 && stored != 0 { Some((stored >> 32) as u32) } else { None }
}

/// Whether a tag that a client tells is that of the commit whose tag is stored as `stored`. 0 matches any.
pub(super) fn is_same(told: u64, stored: u64) -> bool {
    told == 0 || told == stored || random_half(stored).is_some_and(|random| (told >> 32) as u32 == random)
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Renewals by positions that the history lacked, and the wrong ones of each credential.
#[derive(Default)]
pub(super) struct Strays {
    /// When one without a MAC last renewed the epoch of a folder.
    renewed: Mutex<HashMap<FolderKey, Timestamp>>,
    /// How many with a wrong MAC came with each credential.
    wrong: Mutex<HashMap<String, u64>>,
}

impl Strays {
    /// How long a position without a MAC has to wait until it may renew the folder's epoch; none if it may at once.
    pub(super) fn wait(&self, folder: FolderKey, now: Timestamp) -> Option<Duration> {
        let last = *self.renewed.lock().get(&folder)?;
        let since = now.0.saturating_sub(last.0);
        // A clock that was set back prolongs no wait.
        let left = nanos(OLD_FORM_EVERY) - since;
        (since >= 0 && left > 0).then(|| Duration::from_nanos(left.unsigned_abs()))
    }

    /// A position without a MAC has renewed the folder's epoch.
    pub(super) fn note_renewed(&self, folder: FolderKey, now: Timestamp) {
        self.renewed.lock().insert(folder, now);
    }
}

impl Service {
    /// Counts a position with a wrong MAC for the credential that it came with.
    pub fn note_wrong_cursor(&self, credential: &str) {
        let mut wrong = self.0.strays.wrong.lock();
        let count = wrong.entry(credential.to_owned()).or_default();
        *count += 1;
        // At 1, 10, 100 and so on: many of them do not fill the log.
        if 10_u64.checked_pow(count.ilog10()) == Some(*count) {
            tracing::warn!(
                credential,
                count = *count,
                "a client told a position in a history that this server never told"
            );
        }
    }

    /// How many positions with a wrong MAC came with a credential since this server was started.
    pub fn wrong_cursors(&self, credential: &str) -> u64 {
        self.0.strays.wrong.lock().get(credential).copied().unwrap_or(0)
    }
}

/// A position that may be genuine has come too soon after another one.
pub(super) fn too_soon(wait: Duration) -> ServiceError {
    ServiceError::Later {
        reason: "the folder's history was begun again a moment ago".to_owned(),
        seconds: wait.as_secs().max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use syncmount_common::{Epoch, FolderId};

    fn folder() -> FolderRow {
        let (id, epoch) = (FolderId::from_bytes([1; 16]), Epoch::from_bytes([2; 16]));
        FolderRow { key: FolderKey(1), id, name: "f".to_owned(), epoch, seq: 9, nodes: 0, bytes: 0 }
    }

    #[test]
    fn the_mac_is_that_of_the_standard() {
        let hex = |bytes: [u8; 32]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        // RFC 4231, test cases 1 and 2.
        assert_eq!(
            hex(hmac(&[0x0b; 20], &[b"Hi There"])),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
        assert_eq!(
            hex(hmac(b"Jefe", &[b"what do ya want ", b"for nothing?"])),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn a_position_proves_something_only_where_it_was_told() {
        let (key, folder) = (CursorKey::new([7; 32], Timestamp(0)), folder());
        let late = Timestamp(nanos(OLD_FORM_FOR));
        let told = key.cursor(&folder, 5, stored_tag(0xABCD_0123));
        assert_eq!(told.tag >> 32, 0xABCD_0123);
        assert_eq!(key.proof(&folder, told, late), Proof::Right);
        let elsewhere = [
            (folder.clone(), Cursor { seq: 6, ..told }),
            (folder.clone(), Cursor { tag: told.tag ^ 1, ..told }),
            (folder.clone(), Cursor { tag: told.tag ^ (1 << 40), ..told }),
            (folder.clone(), Cursor { tag: 0, ..told }),
            (FolderRow { id: FolderId::from_bytes([3; 16]), ..folder.clone() }, told),
            (FolderRow { epoch: Epoch::from_bytes([3; 16]), ..folder.clone() }, told),
        ];
        for (folder, cursor) in elsewhere {
            assert_eq!(key.proof(&folder, cursor, late), Proof::Wrong, "{cursor}");
            assert_eq!(key.proof(&folder, cursor, Timestamp(late.0 - 1)), Proof::OldForm, "{cursor}");
        }
        assert_eq!(CursorKey::new([8; 32], Timestamp(0)).proof(&folder, told, late), Proof::Wrong);
    }

    #[test]
    fn tags_of_earlier_versions_are_told_as_they_are_and_others_known_by_their_random_half() {
        let (key, folder, old) = (CursorKey::KNOWN, folder(), 0x0123_4567_89AB_CDEF);
        assert_eq!(key.cursor(&folder, 5, old).tag, old);
        assert!(is_same(old, old) && is_same(0, old) && !is_same(old ^ 1, old) && !is_same(old ^ 1, 0));
        let stored = stored_tag(77);
        let told = key.cursor(&folder, 5, stored).tag;
        let other_key = CursorKey::new([9; 32], Timestamp(0)).cursor(&folder, 5, stored).tag;
        assert!(told != other_key && is_same(told, stored) && is_same(other_key, stored));
        assert!(!is_same(told ^ (1 << 32), stored) && stored_tag(0) != 0);
        assert_eq!(key.cursor(&folder, 0, 0).tag, 0, "nothing has happened yet");
    }

    #[test]
    fn keys_round_trip_and_nothing_else_is_one() {
        let key = CursorKey::new([0xAB; 32], Timestamp(-5));
        assert_eq!(CursorKey::from_text(&format!("{}\n", key.to_text())), Some(key));
        assert!(!format!("{key:?}").contains("171"));
        for bad in ["", "00", " 5", &key.to_text()[1..], &key.to_text().replace('a', "g"), &"0".repeat(64)] {
            assert_eq!(CursorKey::from_text(bad), None, "{bad}");
        }
    }

    #[test]
    fn positions_without_a_mac_wait_ten_minutes() {
        let (strays, key, minute) = (Strays::default(), FolderKey(1), 60_000_000_000);
        assert_eq!(strays.wait(key, Timestamp(0)), None);
        strays.note_renewed(key, Timestamp(0));
        assert_eq!(strays.wait(key, Timestamp(minute)), Some(Duration::from_secs(9 * 60)));
        assert_eq!(strays.wait(FolderKey(2), Timestamp(minute)), None, "another folder");
        assert_eq!(strays.wait(key, Timestamp(10 * minute)), None);
        assert_eq!(strays.wait(key, Timestamp(-1)), None, "the clock was set back");
    }
}
