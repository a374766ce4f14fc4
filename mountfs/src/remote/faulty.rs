//! A [`Remote`] whose network fails where a test wants it to.
//!
//! The two losses that matter differ: a lost request was never executed, a lost reply was. Whoever calls cannot tell them
//! apart, and must be right either way.

use crate::ports::{Changes, ChunkSink, Difference, Part, Remote, RemoteError, Reply, Speaker};
use bytes::Bytes;
use futures::FutureExt as _;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;
use syncmount_common::protocol::changes::Ask;
use syncmount_common::protocol::chunks::{Alike, PutReply};
use syncmount_common::protocol::commit::{CommitRequest, Committed};
use syncmount_common::protocol::folders::FolderInfo;
use syncmount_common::{ChunkHash, ContentHash, Manifest};

/// Which call is about to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Call {
    /// [`Remote::folder`]
    Folder,
    /// [`Remote::changes`]
    Changes,
    /// [`Remote::commit`]
    Commit,
    /// [`Remote::missing`]
    Missing,
    /// [`Remote::put`]
    Put,
    /// [`Remote::fetch`]
    Fetch,
    /// [`Remote::part`]
    Part,
    /// [`Remote::manifest`]
    Manifest,
}

/// What happens to a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It goes through.
    None,
    /// It never reaches the server.
    LoseRequest,
    /// The server executes it; the reply never arrives.
    LoseReply,
    /// The reply breaks off: a fetch hands over this many chunks before. Other calls lose their reply.
    CutReply(usize),
}

/// Passes calls on to another [`Remote`] except where `decide` says otherwise.
pub struct FaultyRemote<R> {
    inner: R,
    decide: Box<dyn Fn(Call) -> Fault + Send + Sync>,
}

impl<R: fmt::Debug> fmt::Debug for FaultyRemote<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyRemote").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<R: Remote> FaultyRemote<R> {
    /// `decide` is asked once for every call, when it is made.
    pub fn new(inner: R, decide: impl Fn(Call) -> Fault + Send + Sync + 'static) -> Self {
        Self { inner, decide: Box::new(decide) }
    }

    /// The remote behind it.
    pub const fn inner(&self) -> &R {
        &self.inner
    }

    fn pass<'a, T: 'a>(
        &'a self,
        call: Call,
        run: impl Future<Output = Result<T, RemoteError>> + Send + 'a,
    ) -> Reply<'a, T> {
        let fault = (self.decide)(call);
        async move {
            match fault {
                Fault::None => run.await,
                Fault::LoseRequest => Err(lost()),
                Fault::LoseReply | Fault::CutReply(_) => run.await.and_then(|_| Err(lost())),
            }
        }
        .boxed()
    }
}

fn lost() -> RemoteError {
    RemoteError::Unreachable("the connection was lost".to_owned())
}

impl<R: Remote> Remote for FaultyRemote<R> {
    fn folder(&self) -> Reply<'_, FolderInfo> {
        self.pass(Call::Folder, self.inner.folder())
    }

    fn changes(&self, ask: Ask, wait: Duration, inline: u64, by: Option<Speaker>) -> Reply<'_, Changes> {
        self.pass(Call::Changes, self.inner.changes(ask, wait, inline, by))
    }

    fn commit<'a>(&'a self, request: &'a CommitRequest, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed> {
        self.pass(Call::Commit, self.inner.commit(request, chunks))
    }

    fn has_answered(&self) -> bool {
        self.inner.has_answered()
    }

    fn ignores_unknown_fields(&self) -> bool {
        self.inner.ignores_unknown_fields()
    }

    fn takes_owners(&self) -> bool {
        self.inner.takes_owners()
    }

    fn takes_content_deltas(&self) -> bool {
        self.inner.takes_content_deltas()
    }

    fn takes_chunk_deltas(&self) -> bool {
        self.inner.takes_chunk_deltas()
    }

    fn gives_deltas(&self) -> bool {
        self.inner.gives_deltas()
    }

    fn missing<'a>(&'a self, chunks: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
        self.pass(Call::Missing, self.inner.missing(chunks))
    }

    fn put<'a>(&'a self, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
        self.pass(Call::Put, self.inner.put(chunks))
    }

    fn fetch_alike<'a>(
        &'a self,
        chunks: &'a [ChunkHash],
        alike: &'a [Alike],
        sink: &'a mut ChunkSink<'_>,
    ) -> Reply<'a, Vec<Difference>> {
        let arrive = match (self.decide)(Call::Fetch) {
            Fault::None => return self.inner.fetch_alike(chunks, alike, sink),
            Fault::LoseRequest => return async { Err(lost()) }.boxed(),
            Fault::LoseReply => 0,
            Fault::CutReply(count) => count,
        };
        async move {
            let mut left = arrive;
            let mut until_cut = |hash: ChunkHash, raw: Vec<u8>| {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                sink(hash, raw)
            };
            self.inner.fetch_alike(chunks, alike, &mut until_cut).await?;
            Err(lost())
        }
        .boxed()
    }

    fn part<'a>(&'a self, chunk: &'a ChunkHash, range: Range<u32>) -> Reply<'a, Part> {
        self.pass(Call::Part, self.inner.part(chunk, range))
    }

    fn manifest<'a>(&'a self, hash: &'a ContentHash, base: Option<&'a Manifest>) -> Reply<'a, Manifest> {
        self.pass(Call::Manifest, self.inner.manifest(hash, base))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use std::collections::VecDeque;

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    /// Counts what reaches it.
    #[derive(Default)]
    struct Counting(Mutex<Vec<Call>>);

    impl Counting {
        fn reached<T: Send + 'static>(&self, call: Call, reply: T) -> Reply<'static, T> {
            self.0.lock().push(call);
            async move { Ok(reply) }.boxed()
        }
    }

    impl Remote for Counting {
        fn folder(&self) -> Reply<'_, FolderInfo> {
            async { Err(RemoteError::FolderNotFound) }.boxed()
        }
        fn changes(&self, _: Ask, _: Duration, _: u64, _: Option<Speaker>) -> Reply<'_, Changes> {
            async { Err(RemoteError::Resync) }.boxed()
        }
        fn commit<'a>(&'a self, _: &'a CommitRequest, _: &'a [(ChunkHash, Bytes)]) -> Reply<'a, Committed> {
            self.reached(Call::Commit, Committed { first_seq: 1, last_seq: 1, tag: 1 })
        }
        fn takes_content_deltas(&self) -> bool {
            false
        }
        fn takes_chunk_deltas(&self) -> bool {
            false
        }
        fn gives_deltas(&self) -> bool {
            false
        }
        fn missing<'a>(&'a self, chunks: &'a [ChunkHash]) -> Reply<'a, Vec<ChunkHash>> {
            self.reached(Call::Missing, chunks.to_vec())
        }
        fn put<'a>(&'a self, chunks: &'a [(ChunkHash, Bytes)]) -> Reply<'a, PutReply> {
            let count = chunks.len() as u64;
            async move {
                self.0.lock().push(Call::Put);
                Ok(PutReply { received: count, stored: count })
            }
            .boxed()
        }
        fn fetch_alike<'a>(
            &'a self,
            chunks: &'a [ChunkHash],
            _: &'a [Alike],
            sink: &'a mut ChunkSink<'_>,
        ) -> Reply<'a, Vec<Difference>> {
            let mut hand_over = move || chunks.iter().try_for_each(|hash| sink(*hash, vec![1]));
            async move { hand_over().map(|()| Vec::new()).map_err(RemoteError::Local) }.boxed()
        }
        fn part<'a>(&'a self, _: &'a ChunkHash, range: Range<u32>) -> Reply<'a, Part> {
            self.reached(Call::Part, Part::Alone(vec![1; range.len()]))
        }
        fn manifest<'a>(&'a self, _: &'a ContentHash, _: Option<&'a Manifest>) -> Reply<'a, Manifest> {
            self.reached(Call::Manifest, Manifest::default())
        }
    }

    fn faulty(faults: &[Fault]) -> FaultyRemote<Counting> {
        let faults = Mutex::new(VecDeque::from(faults.to_vec()));
        FaultyRemote::new(Counting::default(), move |_| faults.lock().pop_front().unwrap_or(Fault::None))
    }

    #[test]
    fn a_lost_request_is_not_executed_and_a_lost_reply_was() {
        let remote = faulty(&[Fault::LoseRequest, Fault::LoseReply, Fault::None]);
        let outcomes = block_on(async {
            [remote.put(&[]).await.is_ok(), remote.put(&[]).await.is_ok(), remote.put(&[]).await.is_ok()]
        });
        assert_eq!(outcomes, [false, false, true]);
        assert_eq!(*remote.inner().0.lock(), [Call::Put, Call::Put]);
    }

    #[test]
    fn a_cut_fetch_hands_over_what_came_before() {
        let chunks: Vec<_> = (0u8..5).map(|n| ChunkHash::of(&[n])).collect();
        let remote = faulty(&[Fault::CutReply(2), Fault::LoseReply, Fault::None]);
        for expected in [2, 0, 5] {
            let mut seen = Vec::new();
            let done = block_on(remote.fetch(&chunks, &mut |hash, _| {
                seen.push(hash);
                Ok(())
            }));
            assert_eq!(seen, chunks[..expected]);
            assert_eq!(done.is_ok(), expected == 5);
        }
    }

    #[test]
    fn the_inner_errors_come_through() {
        let remote = faulty(&[Fault::LoseReply]);
        assert!(matches!(block_on(remote.folder()), Err(RemoteError::FolderNotFound)));
    }
}
