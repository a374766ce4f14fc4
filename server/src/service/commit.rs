//! A commit against the folder's state: compare-and-set per operation, then the whole, then the answer. All or nothing.
//!
//! The transaction writes first and checks the shape of the tree afterwards, on the final state: in between names may
//! clash and directories hang loose, which is what lets two files swap names in one batch.

use super::batch::{Batch, names_fault};
use super::ingest::Fresh;
use super::{Result, Service, ServiceError, folder, structure};
use crate::meta::{self, FolderRow, VersionRow, WriteTx};
use bytes::Bytes;
use std::collections::{HashMap, HashSet};
use syncmount_common::protocol::commit::{CommitRequest, Committed, Conflict, ConflictReason, MissingDetails, Op};
use syncmount_common::{ChunkHash, Content, ContentHash, Extent, Node, NodeKind, Rev, Timestamp};

/// Answers kept per folder: a client that repeats a commit does so within seconds to days, not after 100,000 others.
const ANSWERS_KEPT: u64 = 100_000;

/// Conflicts told in one answer.
pub(super) const CONFLICTS_MAX: usize = 100;

/// Missing hashes told in one answer.
const MISSING_MAX: usize = 10_000;

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
        let batch = self.0.offload.run(move || Batch::check(request)).await??;
        let (name, now) = (folder_name.to_owned(), self.0.environment.now());
        let (service, small_bytes) = (self.clone(), fresh.small_bytes());
        let job = move |tx: &dyn WriteTx| {
            let folder = folder(tx, &name)?;
            let committed = Application { tx, folder: &folder, batch: &batch, fresh: &fresh, now }.run()?;
            Ok::<_, ServiceError>((folder.key, committed))
        };
        let then = move |(key, _): &(meta::FolderKey, Committed)| {
            service.0.small.add(small_bytes);
            service.0.wake.changed(*key);
        };
        meta::write(&*self.0.meta, job, then).await.map(|(_, committed)| committed)
    }
}

/// One batch on its way into one folder.
struct Application<'a> {
    tx: &'a dyn WriteTx,
    folder: &'a FolderRow,
    batch: &'a Batch,
    fresh: &'a Fresh,
    now: Timestamp,
}

/// A node before and after one operation.
pub(super) struct Step {
    pub(super) before: Option<Node>,
    pub(super) after: Node,
    pub(super) renamed: bool,
}

impl Application<'_> {
    fn run(&self) -> Result<Committed> {
        if self.batch.epoch != self.folder.epoch {
            return Err(ServiceError::Resync(
                "the batch is based on another epoch: read the feed from the begin and merge".to_owned(),
            ));
        }
        if let Some(answer) = self.tx.answer(self.folder.key, self.batch.op_id)? {
            return Ok(answer);
        }
        let before = self.load()?;
        self.enter_contents()?;
        let steps = self.steps(before)?;
        self.apply(&steps)?;
        self.finish(&steps)
    }

    /// The present states; fails if any of them is not the one that its operation was based on.
    fn load(&self) -> Result<Vec<Option<Node>>> {
        let mut states = Vec::with_capacity(self.batch.ops.len());
        let mut conflicts = Vec::new();
        for (index, op) in (0..).zip(&self.batch.ops) {
            let current = self.tx.node(self.folder.key, op.id())?;
            if !fits(op, current.as_ref()) && conflicts.len() < CONFLICTS_MAX {
                let current = current.clone().map(for_travel);
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
        if known.is_none() {
            self.check_chunks(described.manifest.extents(), missing)?;
        }
        if known.is_none_or(|known| known.sha256.is_none()) {
            self.tx.add_content(hash, &described.manifest, described.sha256)?;
        }
        Ok(())
    }

    fn check_chunks(&self, extents: &[Extent], missing: &mut MissingDetails) -> Result<()> {
        for extent in extents {
            let Extent::Chunk { hash, len } = extent else { continue };
            match self.tx.chunk_len(hash)? {
                Some(found) if found == *len => (),
                Some(found) => {
                    let text = format!("chunk {hash} has {found} bytes, the manifest says {len}");
                    return Err(ServiceError::Invalid(text));
                }
                None if missing.chunks.len() < MISSING_MAX => missing.chunks.push(*hash),
                None => (),
            }
        }
        Ok(())
    }

    fn steps(&self, before: Vec<Option<Node>>) -> Result<Vec<Step>> {
        let revs = self.folder.seq + 1..;
        let ops = self.batch.ops.iter().zip(before).zip(revs).enumerate();
        ops.map(|(index, ((op, before), rev))| {
            let fault = |fault| ServiceError::Invalid(format!("operation {index} on node {}: {fault}", op.id()));
            self.step(op, before, rev).map_err(fault)
        })
        .collect()
    }

    fn step(&self, op: &Op, before: Option<Node>, rev: Rev) -> std::result::Result<Step, &'static str> {
        let author = self.batch.device.id;
        let (after, renamed) = match (op, &before) {
            (Op::Create { id, kind, names, attrs, content, target, .. }, before) => {
                if before.as_ref().is_some_and(|node| node.kind != *kind) {
                    return Err("a node keeps its kind when it comes back");
                }
                let (content, target, names) = (content.map(reference), target.clone(), names.clone());
                let (content_rev, content_author, deleted) = (rev, author, false);
                let (id, kind, attrs) = (*id, *kind, *attrs);
                let node =
                    Node { id, rev, kind, deleted, names, attrs, content, target, author, content_rev, content_author };
                (node, true)
            }
            (Op::Update { names, attrs, content, .. }, Some(node)) => {
                let node = Node { rev, author, ..node.clone() };
                (updated(node, names.as_deref(), attrs.as_ref(), content.as_ref())?, names.is_some())
            }
            (Op::Remove { .. }, Some(node)) => {
                let (names, content, target) = (Vec::new(), None, None);
                (Node { rev, author, deleted: true, names, content, target, ..node.clone() }, true)
            }
            (Op::Update { .. } | Op::Remove { .. }, None) => return Err("there is no such node"),
        };
        Ok(Step { before, after, renamed })
    }

    fn apply(&self, steps: &[Step]) -> Result<()> {
        let key = self.folder.key;
        self.tx.put_device(&self.batch.device)?;
        for step in steps {
            self.tx.put_node(key, &step.after)?;
            if step.renamed && step.before.is_some() {
                self.tx.clear_names(key, step.after.id)?;
            }
            self.add_version(step)?;
        }
        structure::place(self.tx, key, steps)
    }

    fn add_version(&self, step: &Step) -> Result<()> {
        let Node { id, rev, attrs, content, author, names, .. } = &step.after;
        let before = step.before.as_ref().and_then(|node| node.content.as_ref());
        let (Some(content), Some(placement)) = (content, names.first()) else { return Ok(()) };
        if before.is_some_and(|before| before.hash == content.hash) {
            return Ok(());
        }
        let (placement, content, mtime) = (placement.clone(), content.hash, attrs.mtime);
        let version =
            VersionRow { node: *id, rev: *rev, placement, content, mtime, received: self.now, device: *author };
        Ok(self.tx.add_version(self.folder.key, &version)?)
    }

    fn finish(&self, steps: &[Step]) -> Result<Committed> {
        let first_seq = self.folder.seq + 1;
        let last_seq = self.folder.seq + steps.len() as u64;
        let (nodes, bytes) = self.growth(steps)?;
        self.tx.advance(self.folder.key, last_seq, nodes, bytes)?;
        let committed = Committed { first_seq, last_seq };
        self.tx.add_answer(self.folder.key, self.batch.op_id, committed, ANSWERS_KEPT)?;
        Ok(committed)
    }

    /// By how much the folder's counters change.
    fn growth(&self, steps: &[Step]) -> Result<(i64, i64)> {
        let mut sizes = HashMap::new();
        let (mut nodes, mut bytes) = (0, 0_i64);
        for step in steps {
            let before = step.before.as_ref().filter(|node| !node.deleted);
            let after = Some(&step.after).filter(|node| !node.deleted);
            nodes += i64::from(after.is_some()) - i64::from(before.is_some());
            bytes = bytes.saturating_add(self.size(after, &mut sizes)?).saturating_sub(self.size(before, &mut sizes)?);
        }
        Ok((nodes, bytes))
    }

    fn size(&self, node: Option<&Node>, sizes: &mut HashMap<ContentHash, i64>) -> Result<i64> {
        let Some(content) = node.and_then(|node| node.content.as_ref()) else { return Ok(0) };
        if let Some(size) = sizes.get(&content.hash) {
            return Ok(*size);
        }
        let row = self.tx.content(&content.hash)?.ok_or(meta::MetaError::Damaged("a content has no row"))?;
        let size = i64::try_from(row.size).unwrap_or(i64::MAX);
        sizes.insert(content.hash, size);
        Ok(size)
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
fn reference(hash: ContentHash) -> Content {
    Content { hash, size: 0, sha256: None, manifest: None }
}

fn named_content(op: &Op) -> Option<&ContentHash> {
    match op {
        Op::Create { content, .. } | Op::Update { content, .. } => content.as_ref(),
        Op::Remove { .. } => None,
    }
}

pub(super) fn for_travel(node: Node) -> Node {
    Node { content: node.content.map(Content::for_travel), ..node }
}
