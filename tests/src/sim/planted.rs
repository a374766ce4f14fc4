//! Bugs to be found: each is planted at a seam of the model (between engine and disk, device and network, network and
//! server), so that the engine and the server see exactly what a program with this bug would make them see, and the
//! shipped code has no switch. What belongs to the driver and the store is planted in the model of these.

use super::plan::{Faults, Scenario};

/// A bug.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Planted {
    /// The server answers commits that a cut of its power then takes back.
    AckBeforeSync,
    /// `fsync` answers before the journal is synced.
    FsyncBeforeJournal,
    /// `fsync` syncs the journal and not the staging file.
    FsyncWithoutBytes,
    /// The feed leaves out every eighth removal.
    TombstoneLost,
    /// The loser of a conflict is not kept beside the winner.
    CopySkipped,
    /// The feed position is kept before what came with it.
    CursorFirst,
    /// Staging files are renamed into the cache, or removed, before the news of it is synced.
    RenamedBeforeSync,
    /// Contents that were renamed into the cache before they were synced are trusted after a power cut.
    CacheTrusted,
    /// A commit that is sent again has another op id.
    RetryWithNewOpId,
    /// Drafts are not compared with what is known of them after a power cut.
    SuspectUnchecked,
    /// When everything is compared anew, what the server does not have counts as removed.
    AbsentTakenForRemoved,
    /// The feed tells a device of its own changes as if another had made them.
    EchoTakenForForeign,
    /// What the network brings is cached without a look at its hash.
    BytesUnverified,
    /// A device that has lost a part of its memory keeps its id.
    IdentityKept,
    /// A draft that was written while it was being sent counts as sent.
    GenerationIgnored,
}

impl Planted {
    /// The world in which it is looked for: one that is common enough in the others leaves it as it is.
    pub fn scenario(self, scenario: Scenario) -> Scenario {
        match self {
            // It takes a cut of the power within a moment.
            Self::RenamedBeforeSync => Scenario { faults: Faults { cut: 500, ..Faults::CUTS }, ..scenario },
            _ => scenario,
        }
    }

    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::AckBeforeSync,
        Self::FsyncBeforeJournal,
        Self::FsyncWithoutBytes,
        Self::TombstoneLost,
        Self::CopySkipped,
        Self::CursorFirst,
        Self::RenamedBeforeSync,
        Self::CacheTrusted,
        Self::RetryWithNewOpId,
        Self::SuspectUnchecked,
        Self::AbsentTakenForRemoved,
        Self::EchoTakenForForeign,
        Self::BytesUnverified,
        Self::IdentityKept,
        Self::GenerationIgnored,
    ];

    /// What it is called on a command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeSync => "ack-before-sync",
            Self::FsyncBeforeJournal => "fsync-before-journal",
            Self::FsyncWithoutBytes => "fsync-without-bytes",
            Self::TombstoneLost => "tombstone-lost",
            Self::CopySkipped => "copy-skipped",
            Self::CursorFirst => "cursor-first",
            Self::RenamedBeforeSync => "renamed-before-sync",
            Self::CacheTrusted => "cache-trusted",
            Self::RetryWithNewOpId => "retry-with-new-op-id",
            Self::SuspectUnchecked => "suspect-unchecked",
            Self::AbsentTakenForRemoved => "absent-taken-for-removed",
            Self::EchoTakenForForeign => "echo-taken-for-foreign",
            Self::BytesUnverified => "bytes-unverified",
            Self::IdentityKept => "identity-kept",
            Self::GenerationIgnored => "generation-ignored",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|planted| planted.name() == name)
    }
}
