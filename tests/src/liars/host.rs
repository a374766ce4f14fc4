//! The real service over a database in memory, and the ways to it: honest ones, and those that the lying server changes.

use crate::sim::Rng;
use crate::sim::server::at_once;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use syncmount_common::protocol::changes::{Ask, ChangesPage, PAGE_NODES_MAX};
use syncmount_common::protocol::commit::{CommitRequest, Committed, ConflictDetails, Op};
use syncmount_common::protocol::error::ErrorCode;
use syncmount_common::{ChunkHash, ContentHash, DeviceId, Epoch, Manifest, Node, Timestamp};
use syncmount_engine::CommitAnswer;
use syncmount_server::FIRST_FOLDER;
use syncmount_server::service::{CursorKey, Environment, Poll, Result, Service, ServiceError};

/// Nanoseconds in a second.
pub(super) const SECOND: i64 = 1_000_000_000;

/// When every world begins.
pub(super) const BEGIN: i64 = 1_700_000_000 * SECOND;

/// The answer to a request for a page.
pub(super) enum PageAnswer {
    /// A page.
    Page(Box<ChangesPage>),
    /// The position is of no history that the server has.
    Resync,
    /// None, or one that a client's HTTP layer refuses.
    Lost,
}

/// A content as a peer tells it: the manifest, and the chunks as they travel.
pub(super) type Told = (Manifest, Vec<(ChunkHash, Bytes)>);

/// What a device talks to.
pub(super) trait Wire {
    /// The answer to a commit; `None`: none came.
    fn commit(&mut self, request: &CommitRequest) -> Option<CommitAnswer>;
    /// A page of the feed.
    fn page(&mut self, ask: Ask, limit: usize, device: DeviceId) -> PageAnswer;
    /// Takes chunks.
    fn put(&mut self, chunks: Vec<(ChunkHash, Bytes)>);
    /// A content; `None` if there is none.
    fn content(&mut self, hash: ContentHash) -> Option<Told>;
    /// The service behind it.
    fn host(&self) -> &Host;
}

/// The service of a world, and what it has acknowledged.
pub(super) struct Host {
    pub(super) service: Service,
    clock: Arc<AtomicI64>,
    /// Contents that a commit named which the service has taken.
    acknowledged: BTreeSet<ContentHash>,
    /// The commits that it has taken: one that comes again gets the first answer, whatever is in it.
    answered: BTreeSet<[u8; 16]>,
}

impl Host {
    /// An empty folder. Positions are proved with a key that no client knows.
    pub(super) fn new(seed: u64) -> Self {
        let clock = Arc::new(AtomicI64::new(BEGIN));
        let rng = Mutex::new(Rng::of(&[seed, 1]));
        let now = clock.clone();
        let environment = Environment::new(
            move || Timestamp(now.load(Ordering::Relaxed)),
            move |bytes| bytes.iter_mut().for_each(|byte| *byte = rng.lock().number() as u8),
        );
        let mut secret = [0; 32];
        let mut key = Rng::of(&[seed, 2]);
        secret.iter_mut().for_each(|byte| *byte = key.number() as u8);
        // Made long ago: positions in the form of earlier versions prove nothing any more.
        let environment = environment.with_cursor_key(CursorKey::new(secret, Timestamp(0)));
        let service = at_once(Service::in_memory(environment)).expect("a service in memory");
        Self { service, clock, acknowledged: BTreeSet::new(), answered: BTreeSet::new() }
    }

    /// Sets the server's clock.
    pub(super) fn set_clock(&self, now: i64) {
        self.clock.store(now, Ordering::Relaxed);
    }

    /// Whether the service has taken a commit with this content: its bytes are in the folder or in its history.
    pub(super) fn has_acknowledged(&self, hash: ContentHash) -> bool {
        self.acknowledged.contains(&hash)
    }

    /// All that it has acknowledged.
    pub(super) const fn acknowledged(&self) -> &BTreeSet<ContentHash> {
        &self.acknowledged
    }

    /// A commit arrives on behalf of `service`.
    pub(super) fn take(&mut self, service: &Service, folder: &str, request: CommitRequest) -> Result<Committed> {
        let named: Vec<ContentHash> = request.ops.iter().filter_map(content_of_op).collect();
        let op_id = *request.op_id.as_bytes();
        let done = at_once(service.commit(folder, request, Vec::new()))?;
        if self.answered.insert(op_id) && folder == FIRST_FOLDER {
            self.acknowledged.extend(named);
        }
        Ok(done)
    }

    /// The epoch and the end of a folder's history.
    pub(super) fn end(&self, folder: &str) -> (Epoch, u64) {
        let cursor = at_once(self.service.folder(folder)).expect("the folder").cursor;
        (cursor.epoch, cursor.seq)
    }

    /// All nodes that were ever there, in their present state.
    pub(super) fn nodes(&self, folder: &str) -> Result<Vec<Node>> {
        let (mut nodes, mut since) = (Vec::new(), None);
        loop {
            let page = at_once(self.service.changes(folder, since, PAGE_NODES_MAX, 0))?.page;
            nodes.extend(page.nodes);
            since = Some(page.cursor);
            if !page.more {
                return Ok(nodes);
            }
        }
    }

    /// A content as the service tells it.
    pub(super) fn told(&self, hash: ContentHash) -> Result<Told> {
        let manifest = at_once(self.service.manifest(hash))?;
        let chunks = manifest.chunks().map(|(chunk, _)| Ok((chunk, at_once(self.service.chunk(chunk))?)));
        let chunks = chunks.collect::<Result<_>>()?;
        Ok((manifest, chunks))
    }
}

/// The content that an operation names.
pub(super) const fn content_of_op(op: &Op) -> Option<ContentHash> {
    match op {
        Op::Create { content, .. } | Op::Update { content, .. } => *content,
        Op::Remove { .. } => None,
    }
}

/// The answer to a commit as a client's driver passes it on; `Err` if a client would try again or give up.
pub(super) fn answer_of(result: Result<Committed>) -> std::result::Result<CommitAnswer, ServiceError> {
    Ok(match result {
        Ok(done) => CommitAnswer::Committed(done),
        Err(ServiceError::Conflict(conflicts)) => CommitAnswer::Conflict(ConflictDetails { conflicts }),
        Err(ServiceError::Missing(missing)) => CommitAnswer::Missing(missing),
        Err(ServiceError::Held(held)) => CommitAnswer::Held { reason: held.to_string(), denied: held.details.denied },
        Err(error) if error.code() == ErrorCode::Resync => CommitAnswer::Resync,
        Err(error) if matches!(error.code(), ErrorCode::Invalid | ErrorCode::TooLarge | ErrorCode::HashMismatch) => {
            CommitAnswer::Rejected(error.to_string())
        }
        Err(error) => return Err(error),
    })
}

/// The straight way to the folder, with a token or without.
pub(super) struct Straight<'a> {
    host: &'a mut Host,
    service: Service,
}

impl<'a> Straight<'a> {
    pub(super) fn new(host: &'a mut Host, service: Service) -> Self {
        Self { host, service }
    }
}

impl Wire for Straight<'_> {
    fn commit(&mut self, request: &CommitRequest) -> Option<CommitAnswer> {
        let result = self.host.take(&self.service, FIRST_FOLDER, request.clone());
        Some(answer_of(result).unwrap_or_else(|error| panic!("the service refuses an honest commit: {error}")))
    }

    fn page(&mut self, ask: Ask, limit: usize, device: DeviceId) -> PageAnswer {
        let poll = Poll {
            since: ask.since,
            known: ask.known,
            limit,
            inline: 0,
            device: Some(device),
            session: None,
            extra: true,
        };
        match at_once(self.service.page(FIRST_FOLDER, poll)) {
            Ok(changes) => PageAnswer::Page(Box::new(changes.page)),
            Err(error) if error.code() == ErrorCode::Resync => PageAnswer::Resync,
            Err(error) => panic!("the service refuses an honest poll: {error}"),
        }
    }

    fn put(&mut self, chunks: Vec<(ChunkHash, Bytes)>) {
        at_once(self.service.put(chunks)).expect("chunks are taken");
    }

    fn content(&mut self, hash: ContentHash) -> Option<Told> {
        self.host.told(hash).ok()
    }

    fn host(&self) -> &Host {
        self.host
    }
}
