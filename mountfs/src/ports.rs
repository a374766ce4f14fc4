//! The ports: what the client needs from the world outside, as traits with one implementation for work and others for
//! tests.
//!
//! [`Remote`] is all network that the client does. Its promise to the callers: every call ends (there is no wait without a
//! deadline), every byte that comes back was verified (but for parts of chunks and differences, which say so), and an error says whether the
//! same request may succeed later. It must not know how requests travel.

use bytes::Bytes;
use futures::future::BoxFuture;
use std::io;
use std::ops::Range;
use std::time::Duration;
use syncmount_common::protocol::changes::{Ask, ChangesPage};
use syncmount_common::protocol::chunks::{Alike, PutReply};
use syncmount_common::protocol::commit::{CommitRequest, Committed, ConflictDetails, MissingDetails};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_common::protocol::session::Session;
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Manifest};

/// A page of the feed and the small contents that came along.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Changes {
    /// The changed nodes and where to go on from.
    pub page: ChangesPage,
    /// Raw, verified bytes of chunks that the page's nodes refer to.
    pub chunks: Vec<(ChunkHash, Vec<u8>)>,
}

/// Who speaks to the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Speaker {
    /// The device.
    pub device: DeviceId,
    /// Which start of it.
    pub session: Session,
}

/// Takes each fetched chunk: its name and its raw, verified bytes. An error ends the fetch.
pub type ChunkSink<'a> = dyn FnMut(ChunkHash, Vec<u8>) -> io::Result<()> + Send + 'a;

/// What came of asking for a part of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    /// The part, as the server says that it is: only the whole chunk could prove it.
    Alone(Vec<u8>),
    /// The whole chunk, verified, of a server that gives no parts.
    Whole(Vec<u8>),
}

/// A chunk that came as its difference to another one: not verified, for only whoever has the other one can do that.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Which chunk is wanted, and to which other one it differs.
    pub alike: Alike,
    /// To be opened against the other chunk.
    pub envelope: Bytes,
}

/// What a call to the server comes back with.
pub type Reply<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;

/// One folder of one server.
pub trait Remote: Send + Sync + 'static {
    /// What the server knows about the folder.
    fn folder(&self) -> Reply<'_, FolderInfo>;

    /// What changed after what `ask` says is known. Held by the server for up to `wait` until there is something.
    /// Contents of up to `inline` bytes come along, but for those that `speaker`, who asks, has written itself.
    fn changes(&self, ask: Ask, wait: Duration, inline: u64, speaker: Option<Speaker>) -> Reply<'_, Changes>;

    /// Commits a batch, all or nothing, with the envelopes of small chunks in the same request.
    fn commit<'a>(&'a self, request: &'a CommitRequest, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed>;

    /// Whether the server takes contents told by their differences; it is not known before the first answer, and then not so.
    fn takes_content_deltas(&self) -> bool;

    /// Whether the server has answered anything: what it takes is known.
    fn has_answered(&self) -> bool {
        true
    }

    /// Whether the server ignores fields that it does not know; as above.
    fn ignores_unknown_fields(&self) -> bool {
        false
    }

    /// Whether the server keeps owners; as above.
    fn takes_owners(&self) -> bool {
        false
    }

    /// The same of chunks: whether envelopes may tell a difference to a chunk that the server has.
    fn takes_chunk_deltas(&self) -> bool;

    /// Whether the server answers with differences: to chunks and manifests that whoever asks has.
    fn gives_deltas(&self) -> bool;

    /// Which of the chunks the server lacks, in the order given. Any number may be asked for.
    fn missing<'a>(&'a self, chunks: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>>;

    /// Stores envelopes. They are durable when this returns. Any number may be given.
    fn put<'a>(&'a self, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply>;

    /// Gets chunks, each handed to `sink` exactly once as it arrives. After an error some may have been handed over; those
    /// are good. Holds one chunk in memory at a time. `sink` runs between two network reads: it should not take long.
    fn fetch<'a>(&'a self, chunks: &'a [ChunkHash], sink: &'a mut ChunkSink<'_>) -> Reply<'a, ()> {
        Box::pin(async move { self.fetch_alike(chunks, &[], sink).await.map(drop) })
    }

    /// The same; but chunks of `alike` (at most [`DELTAS_MAX`]) may come as differences to others that are here. These are
    /// returned. A server that gives none sends the chunks.
    ///
    /// [`DELTAS_MAX`]: syncmount_common::protocol::chunks::DELTAS_MAX
    fn fetch_alike<'a>(
        &'a self,
        chunks: &'a [ChunkHash],
        alike: &'a [Alike],
        sink: &'a mut ChunkSink<'_>,
    ) -> Reply<'a, Vec<Difference>>;

    /// A part of a chunk that is at least as long. Of its bytes only that they have not changed on the way is certain.
    fn part<'a>(&'a self, chunk: &'a ChunkHash, range: Range<u32>) -> Reply<'a, Part>;

    /// The manifest that `hash` names. It may travel as its difference to `base`, which is probably alike.
    fn manifest<'a>(&'a self, hash: &'a ContentHash, base: Option<&'a Manifest>) -> Reply<'a, Manifest>;
}

/// Why a call to the server failed.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// There is no connection: the request was not sent.
    #[error("the server cannot be reached: {0}")]
    NotConnected(String),
    /// No answer in time, a connection that broke, or a gateway without a server behind it. Whether the
    /// request was executed is not known.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// The server has too much to do or is stopping.
    #[error("the server is busy")]
    Busy,
    /// The token is missing, wrong or revoked.
    #[error("the server refuses the token: it is wrong or was revoked")]
    Unauthorized,
    /// The server has no such folder, or the token may not use it.
    #[error("the server has no such folder")]
    FolderNotFound,
    /// The server has no such chunk or content.
    #[error("the server does not have what was asked for")]
    NotFound,
    /// The cursor or epoch belongs to another history: read the feed from the begin.
    #[error("the folder's history on the server is another one now")]
    Resync,
    /// The folder has moved on since the state that the batch was based on.
    #[error("{} of the operations conflict with newer changes", .0.conflicts.len())]
    Conflict(ConflictDetails),
    /// The batch refers to chunks or contents that the server lacks.
    #[error("the server still needs {} chunks and {} contents", .0.chunks.len(), .0.contents.len())]
    Missing(MissingDetails),
    /// Another session speaks for this device, or this one does not know what the device has committed.
    #[error("the server knows this device in another session")]
    Superseded,
    /// The server keeps this device from removing more of the folder until somebody allows it.
    #[error("{reason}")]
    Held {
        /// The server's own words.
        reason: String,
        /// Somebody has said no.
        denied: bool,
    },
    /// The server's disk or quota is full.
    #[error("the server has no space left")]
    StorageFull,
    /// The request is longer than the server, or a proxy before it, takes.
    #[error("{0}")]
    TooLarge(String),
    /// The server does not have these chunks, or not as they were. All others that were asked for have been handed over.
    #[error("{}", told_of(.0))]
    Lacking(Vec<ChunkHash>),
    /// The server understood the request and refuses it.
    #[error("the server refuses the request: {message}")]
    Rejected {
        /// For programs.
        code: ErrorCode,
        /// For people.
        message: String,
    },
    /// What answers is not a syncmount server, or one of another version.
    #[error("{0}")]
    Stranger(String),
    /// A reply that broke off after its head had come.
    #[error("the server's reply broke off: {0}")]
    CutShort(String),
    /// The server's reply is not one that this program understands.
    #[error("{0}")]
    Protocol(String),
    /// Bytes came that are not what their name says.
    #[error("the server sent damaged data: {0}")]
    Corrupt(String),
    /// What arrived could not be stored on this machine.
    #[error("what the server sent cannot be stored here: {0}")]
    Local(#[source] io::Error),
}

fn told_of(chunks: &[ChunkHash]) -> String {
    match chunks {
        [] => "the server does not have what was asked for".to_owned(),
        [one] => format!("the server does not have the chunk {one}, or has it damaged"),
        [first, ..] => {
            format!(
                "the server does not have {} of the chunks, or has them damaged, the first is {first}",
                chunks.len()
            )
        }
    }
}

/// What has failed, and therefore what has to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// The way to the server: nothing can be sent before it is there again.
    Link,
    /// The token or the folder: nothing can be sent before the server takes it again.
    Credential,
    /// The request: others may succeed.
    Subject,
}

impl RemoteError {
    /// What the error is about.
    pub const fn scope(&self) -> Scope {
        match self {
            Self::NotConnected(_) | Self::Unreachable(_) | Self::Stranger(_) => Scope::Link,
            Self::Unauthorized | Self::FolderNotFound => Scope::Credential,
            Self::Busy
            | Self::NotFound
            | Self::Resync
            | Self::Conflict(_)
            | Self::Missing(_)
            | Self::Superseded
            | Self::Held { .. }
            | Self::StorageFull
            | Self::TooLarge(_)
            | Self::Lacking(_)
            | Self::Rejected { .. }
            | Self::CutShort(_)
            | Self::Protocol(_)
            | Self::Corrupt(_)
            | Self::Local(_) => Scope::Subject,
        }
    }

    /// Whether a server has answered and this is what is wrong with the answer: another request for the same may succeed.
    pub const fn is_of_an_answer(&self) -> bool {
        matches!(self, Self::Rejected { .. } | Self::Protocol(_) | Self::Corrupt(_) | Self::NotFound | Self::Lacking(_))
    }

    /// Whether the same request may succeed later without a change to it.
    ///
    /// `Stranger` counts: the login page of a hotel's network answers in the server's place until a guest logs in.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::NotConnected(_)
            | Self::Unreachable(_)
            | Self::Busy
            | Self::StorageFull
            | Self::Stranger(_)
            | Self::CutShort(_)
            | Self::Protocol(_) => true,
            Self::Rejected { code, .. } => matches!(code, ErrorCode::Internal | ErrorCode::Timeout | ErrorCode::Busy),
            Self::Unauthorized
            | Self::FolderNotFound
            | Self::NotFound
            | Self::Resync
            | Self::Superseded
            | Self::Held { .. }
            | Self::Conflict(_)
            | Self::Missing(_)
            | Self::TooLarge(_)
            | Self::Lacking(_)
            | Self::Corrupt(_)
            | Self::Local(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_succeed_later_is_retryable() {
        assert!(RemoteError::Unreachable(String::new()).is_retryable());
        assert!(RemoteError::NotConnected(String::new()).is_retryable());
        assert!(RemoteError::Rejected { code: ErrorCode::Internal, message: String::new() }.is_retryable());
        assert!(!RemoteError::Rejected { code: ErrorCode::Invalid, message: String::new() }.is_retryable());
        assert!(!RemoteError::Resync.is_retryable());
    }
}
