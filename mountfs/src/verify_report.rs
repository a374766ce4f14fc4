//! What `syncmount cache verify` says: the one shape that `--json` prints and the control socket carries, and how a person
//! reads it.

use crate::store::Verified;
use indicatif::{HumanBytes, HumanCount};
use serde::{Deserialize, Serialize};

/// How a check of the cache has gone so far, or how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Contents in the cache, whole or in part.
    pub contents: u64,
    /// Those that have been read and are right.
    pub good: u64,
    /// Damaged ones. They were dropped, and are fetched again when somebody reads them.
    pub damaged: u64,
    /// Contents that no file of the folder has any more and that could not be checked. They were dropped.
    pub unknown: u64,
    /// Bytes that have been read.
    pub bytes: u64,
}

impl From<&Verified> for VerifyReport {
    fn from(verified: &Verified) -> Self {
        let Verified { total: contents, good, damaged, unknown, bytes } = verified;
        let (contents, good, unknown, bytes) = (*contents, *good, *unknown, *bytes);
        Self { contents, good, damaged: damaged.len() as u64, unknown, bytes }
    }
}

impl VerifyReport {
    /// How many contents are done.
    pub const fn done(&self) -> u64 {
        self.good + self.damaged + self.unknown
    }

    /// The report as a person reads it.
    pub fn describe(&self) -> String {
        let right = match self.damaged {
            0 => "all that was read is right".to_owned(),
            1 => "1 content was damaged and was dropped; it is fetched again when it is read".to_owned(),
            more => {
                let count = HumanCount(more);
                format!("{count} contents were damaged and were dropped; they are fetched again when they are read")
            }
        };
        let read = format!("{} contents, {} read: {right}", HumanCount(self.contents), HumanBytes(self.bytes));
        match self.unknown {
            0 => read,
            count => format!("{read}; {} that no file of the folder has any more were dropped", HumanCount(count)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_person_reads_it() {
        let good = VerifyReport { contents: 1200, good: 1200, damaged: 0, unknown: 0, bytes: 1 << 20 };
        assert_eq!(good.describe(), "1,200 contents, 1.00 MiB read: all that was read is right");
        let bad = VerifyReport { good: 1196, damaged: 2, unknown: 2, ..good };
        let expected = "1,200 contents, 1.00 MiB read: 2 contents were damaged and were dropped; they are fetched again \
                        when they are read; 2 that no file of the folder has any more were dropped";
        assert_eq!((bad.describe().as_str(), bad.done()), (expected, 1200));
    }
}
