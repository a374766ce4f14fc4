//! A commit against the folder's state: compare-and-set per operation, then the whole, then the answer. All or nothing.
//!
//! The transaction writes first and checks the shape of the tree afterwards, on the final state: in between names may
//! clash and directories hang loose, which is what lets two files swap names in one batch.

use super::batch::{Batch, names_fault};
use super::changes::strays;
use super::hold::{Held, HoldRule, Passage, Watch};
use super::ingest::Fresh;
use super::presence::Presence;
use super::record::Record;
use super::tokens::{Credential, admit};
use super::{CursorKey, Result, Service, ServiceError, folder, session};
use crate::meta::{self, FolderRow, WriteTx};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::Arc;
use syncmount_common::protocol::changes::Cursor;
use syncmount_common::protocol::commit::{CommitRequest, Committed, Conflict, ConflictReason, MissingDetails, Op};
use syncmount_common::{ChunkHash, Content, ContentHash, Node, NodeKind, Rev, Timestamp, Xattrs};

/// Conflicts told in one answer.
pub(super) const CONFLICTS_MAX: usize = 100;

/// Extended attributes of the nodes that one batch is about, in bytes: all their states are in memory at the same time.
const XATTRS_SUM_MAX: usize = 16 * 1024 * 1024;

impl Service {
    /// Does a batch of operations, all or none. `chunks` ride along; each is a hash and an envelope.
    pub async fn commit(
        &self,
        folder: &str,
        request: CommitRequest,
        chunks: Vec<(ChunkHash, Bytes)>,
    ) -> Result<Committed> {
        let mut ingest = self.ingest();
        for (hash, envelope) in chunks {
            ingest.add(hash, envelope).await?;
        }
        self.commit_fresh(folder, request, ingest.finish().await?).await
    }

    /// The same, with chunks that have been taken in.
    pub async fn commit_fresh(&self, folder_name: &str, request: CommitRequest, fresh: Fresh) -> Result<Committed> {
        let request = self.with_whole_contents(request).await?;
        let batch = Arc::new(self.0.offload.run(move || Batch::check(request)).await??);
        let presence = self.presence(&batch).await?;
        let (name, now, tag) = (folder_name.to_owned(), self.0.environment.now(), self.0.environment.tag());
        let (service, entering, small_bytes, rule) =
            (self.clone(), self.clone(), fresh.small_bytes(), self.hold_rule());
        let (credential, cursor_key) = (self.2.clone(), self.0.environment.cursor_key());
        let job = move |tx: &dyn WriteTx| {
            admit(tx, credential.as_ref())?;
            let folder = folder(tx, &name)?;
            let token = credential.as_ref().map(Credential::name);
            let (fresh, presence, drops) = (&fresh, &presence, entering.0.losses.drops());
            let outcome =
                Application { tx, folder: &folder, batch: &batch, fresh, presence, drops, token, now, tag, rule }
                    .run()?;
            Ok::<_, ServiceError>((folder.key, outcome.told(&folder, &cursor_key)))
        };
        let then = move |(key, outcome): &(meta::FolderKey, Outcome)| {
            if matches!(outcome, Outcome::Committed(_)) {
                service.0.small.add(small_bytes);
                service.0.wake.changed(*key);
            }
        };
        match self.transact(job, then).await? {
            (_, Outcome::Committed(committed)) => Ok(committed),
            (_, Outcome::Held(held)) => Err(ServiceError::Held(held)),
            (_, Outcome::Strayed(proof)) => Err(self.strayed(folder_name, proof).await),
        }
    }
}

/// How a transaction ends that is kept.
enum Outcome {
    Committed(Committed),
    /// Nothing is stored but the hold.
    Held(Box<Held>),
    /// Nothing is stored: the batch is based on a history that has this position, and this one does not.
    Strayed(Cursor),
}

impl Outcome {
    /// With the tag of the history as clients are told it.
    fn told(self, folder: &FolderRow, key: &CursorKey) -> Self {
        match self {
            Self::Committed(done) => {
                Self::Committed(Committed { tag: key.cursor(folder, done.last_seq, done.tag).tag, ..done })
            }
            other => other,
        }
    }
}

/// One batch on its way into one folder.
#[derive(Clone, Copy)]
struct Application<'a> {
    tx: &'a dyn WriteTx,
    folder: &'a FolderRow,
    batch: &'a Batch,
    fresh: &'a Fresh,
    presence: &'a Presence,
    /// How often chunks have been taken out of the index.
    drops: u64,
    token: Option<&'a str>,
    now: Timestamp,
    tag: u64,
    rule: HoldRule,
}

/// A node before and after one operation.
#[derive(Clone)]
pub(super) struct Step {
    pub(super) before: Option<Node>,
    pub(super) after: Node,
    pub(super) renamed: bool,
}

impl Step {
    /// The node as it was, if it was there.
    pub(super) fn lived(&self) -> Option<&Node> {
        self.before.as_ref().filter(|node| !node.deleted)
    }

    /// The node as it is then, if it is there.
    pub(super) fn lives(&self) -> Option<&Node> {
        Some(&self.after).filter(|node| !node.deleted)
    }
}

impl Application<'_> {
    fn run(&self) -> Result<Outcome> {
        if self.batch.epoch != self.folder.epoch {
            return Err(ServiceError::Resync(
                "the batch is based on another epoch: read the feed from the begin and merge".to_owned(),
            ));
        }
        if let Some(answer) = self.tx.answer(self.folder.key, self.batch.op_id)? {
            return Ok(Outcome::Committed(answer));
        }
        if let Some(known) = self.batch.known
            && strays(self.tx, self.folder, known)?
        {
            return Ok(Outcome::Strayed(known));
        }
        let (Self { tx, folder, token, now, tag, rule, .. }, Batch { device, op_id, session, concluded, .. }) =
            (*self, self.batch);
        if let Some(session) = session {
            session::standing(tx, folder.key, device.id, session)?;
        }
        let steps = self.steps(self.load()?)?;
        match (Watch { tx, folder, device, token, now, rule, concluded: *concluded }).look(steps.iter())? {
            Passage::Held(held) => Ok(Outcome::Held(held)),
            Passage::Free { marks } => {
                self.enter_contents()?;
                let beside = &self.batch.beside;
                let record = Record { tx, folder, device, token, op_id: *op_id, tag, now, beside };
                let done = record.write(&steps, &marks)?;
                if let Some(session) = session {
                    session::note_commit(tx, folder.key, device.id, session, done)?;
                }
                Ok(Outcome::Committed(done))
            }
        }
    }

    /// The present states; fails if any of them is not the one that its operation was based on.
    fn load(&self) -> Result<Vec<Option<Node>>> {
        let mut states = Vec::with_capacity(self.batch.ops.len());
        let mut conflicts = Vec::new();
        let mut xattrs = 0;
        for (index, op) in (0..).zip(&self.batch.ops) {
            let current = self.tx.node(self.folder.key, op.id())?;
            xattrs += current.as_ref().map_or(0, |node| node.xattrs.len());
            if xattrs > XATTRS_SUM_MAX {
                let text = "the nodes of this batch have too many extended attributes: send fewer at a time";
                return Err(ServiceError::TooLarge(text.to_owned()));
            }
            if !fits(op, current.as_ref()) && conflicts.len() < CONFLICTS_MAX {
                let current = current.clone().map(for_conflict);
                conflicts.push(Conflict { index, reason: ConflictReason::Rev, current });
            }
            states.push(current);
        }
        if conflicts.is_empty() { Ok(states) } else { Err(ServiceError::Conflict(conflicts)) }
    }

    /// Enters the chunks that ride along and the contents that operations name.
    fn enter_contents(&self) -> Result<()> {
        self.fresh.enter(self.tx)?;
        let mut missing = MissingDetails::default();
        let mut seen = HashSet::new();
        for hash in self.batch.ops.iter().filter_map(named_content).filter(|hash| seen.insert(*hash)) {
            self.enter_content(hash, &mut missing)?;
        }
        if missing.chunks.is_empty() && missing.contents.is_empty() {
            return Ok(());
        }
        let mut seen = HashSet::new();
        missing.chunks.retain(|hash| seen.insert(*hash));
        Err(ServiceError::Missing(missing))
    }

    fn enter_content(&self, hash: &ContentHash, missing: &mut MissingDetails) -> Result<()> {
        let known = self.tx.content(hash)?;
        let Some(described) = self.batch.contents.get(hash) else {
            if known.is_none() {
                missing.contents.push(*hash);
            }
            return Ok(());
        };
        // Also for a content that is known: a repair may have found that some of its chunks are gone.
        self.presence.check(self.tx, self.drops, hash, &described.manifest, missing)?;
        let sha256 = described.sha256.or_else(|| self.fresh.sha256_of(hash));
        if known.is_none_or(|known| known.sha256.is_none() && sha256.is_some()) {
            self.tx.add_content(hash, &described.manifest, sha256)?;
        }
        Ok(())
    }

    fn steps(&self, before: Vec<Option<Node>>) -> Result<Vec<Step>> {
        let revs = self.folder.seq + 1..;
        let ops = self.batch.ops.iter().zip(before).zip(revs).enumerate();
        ops.map(|(index, ((op, before), rev))| {
            let fault = |fault| ServiceError::Invalid(format!("operation {index} on node {}: {fault}", op.id()));
            let step = self.step(op, before, rev).map_err(fault)?;
            Ok(Step { after: Node { changed: Some(self.time(index)), ..step.after }, ..step })
        })
        .collect()
    }

    /// When an operation was done.
    fn time(&self, index: usize) -> Timestamp {
        self.batch.times.get(index).copied().unwrap_or(self.now)
    }

    fn step(&self, op: &Op, before: Option<Node>, rev: Rev) -> std::result::Result<Step, &'static str> {
        let author = self.batch.device.id;
        let (after, renamed) = match (op, &before) {
            (Op::Create { id, kind, names, attrs, xattrs, content, target, .. }, before) => {
                if before.as_ref().is_some_and(|node| node.kind != *kind) {
                    return Err("a node keeps its kind when it comes back");
                }
                let (content, target, names) = (content.map(reference), target.clone(), names.clone());
                let (content_rev, content_author, deleted) = (rev, author, false);
                let xattrs = xattrs.with_owner(self.batch.owners.get(id).copied());
                let (id, kind, attrs) = (*id, *kind, *attrs);
                let node = Node {
                    id,
                    rev,
                    kind,
                    deleted,
                    names,
                    attrs,
                    xattrs,
                    content,
                    target,
                    author,
                    content_rev,
                    content_author,
                    changed: None,
                };
                (node, true)
            }
            (Op::Update { id, names, attrs, xattrs, content, .. }, Some(node)) => {
                let node = Node { rev, author, ..node.clone() };
                let owner = self.batch.owners.get(id).copied().or(node.xattrs.owner());
                let xattrs = xattrs.as_ref().unwrap_or(&node.xattrs).with_owner(owner);
                let node = Node { xattrs, ..node };
                (updated(node, names.as_deref(), attrs.as_ref(), content.as_ref())?, names.is_some())
            }
            (Op::Remove { .. }, Some(node)) => {
                let (names, xattrs, content, target) = (Vec::new(), Xattrs::default(), None, None);
                (Node { rev, author, deleted: true, names, xattrs, content, target, ..node.clone() }, true)
            }
            (Op::Update { .. } | Op::Remove { .. }, None) => return Err("there is no such node"),
        };
        Ok(Step { before, after, renamed })
    }
}

/// Whether the node is in the state that the operation was based on.
fn fits(op: &Op, current: Option<&Node>) -> bool {
    match (op, current) {
        (Op::Create { base, .. }, None) => *base == 0,
        (Op::Create { base, .. }, Some(node)) => node.deleted && node.rev == *base,
        (Op::Update { .. } | Op::Remove { .. }, None) => false,
        (Op::Update { base, .. } | Op::Remove { base, .. }, Some(node)) => !node.deleted && node.rev == *base,
    }
}

fn updated(
    mut node: Node,
    names: Option<&[syncmount_common::Placement]>,
    attrs: Option<&syncmount_common::Attrs>,
    content: Option<&ContentHash>,
) -> std::result::Result<Node, &'static str> {
    if let Some(names) = names {
        names_fault(names, node.kind).map_or(Ok(()), Err)?;
        node.names = names.to_vec();
    }
    if let Some(attrs) = attrs {
        node.attrs = *attrs;
    }
    if let Some(hash) = content {
        if node.kind != NodeKind::File {
            return Err("only a file has a content");
        }
        node.content = Some(reference(*hash));
        (node.content_rev, node.content_author) = (node.rev, node.author);
    }
    Ok(node)
}

/// A content as a node's row names it: by its hash. The rest is in the content's own row.
pub(super) fn reference(hash: ContentHash) -> Content {
    Content { hash, size: 0, sha256: None, manifest: None }
}

fn named_content(op: &Op) -> Option<&ContentHash> {
    match op {
        Op::Create { content, .. } | Op::Update { content, .. } => content.as_ref(),
        Op::Remove { .. } => None,
    }
}

/// A node in an error, which goes to clients of any age.
pub(super) fn for_conflict(node: Node) -> Node {
    for_travel(Node { changed: None, ..node })
}

pub(super) fn for_travel(node: Node) -> Node {
    Node { content: node.content.map(Content::for_travel), ..node }
}
