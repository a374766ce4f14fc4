//! What every change to a folder is written as, once it is decided: rows, names, versions, the states replaced, the
//! counters, and the commit with its tag.

use super::commit::Step;
use super::hold::Marks;
use super::{Result, ServiceError, structure};
use crate::meta::{self, CommitRow, Counts, FOLDER_BYTES_MAX, FolderRow, Mark, Totals, VersionRow, WriteTx};
use std::collections::{BTreeMap, HashMap, HashSet};
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::commit::Committed;
use syncmount_common::{ContentHash, Name, Node, NodeId, OpId, Placement, Rev, Timestamp};

/// Answers kept per folder: a client that repeats a commit does so within seconds to days, not after 100,000 others.
const ANSWERS_KEPT: u64 = 100_000;

/// Who changes which folder, when, and under which names.
pub(super) struct Record<'a> {
    pub(super) tx: &'a dyn WriteTx,
    pub(super) folder: &'a FolderRow,
    pub(super) device: &'a Device,
    /// The name of the token that it came with.
    pub(super) token: Option<&'a str>,
    pub(super) op_id: OpId,
    pub(super) tag: u64,
    pub(super) now: Timestamp,
    pub(super) beside: &'a Beside,
}

/// What is said beside the steps.
#[derive(Default)]
pub(super) struct Beside {
    /// What the mtimes of directories have become where entries are changed, as far as that is told.
    pub(super) touched: HashMap<NodeId, Timestamp>,
    /// Directories whose mtimes are set: changes of the entries move them no more.
    pub(super) set: HashSet<NodeId>,
    /// Files that are removed -> the file in the same directory that what they had is a version of.
    pub(super) versions: HashMap<NodeId, Name>,
}

impl Record<'_> {
    /// Writes the steps, whose revs follow the folder's end. `marks`: what they mean to the stop for mass deletes.
    pub(super) fn write(&self, steps: &[Step], marks: &Marks) -> Result<Committed> {
        self.apply(steps, marks)?;
        self.finish(steps, marks)
    }

    fn apply(&self, steps: &[Step], marks: &Marks) -> Result<()> {
        let key = self.folder.key;
        self.tx.put_device(self.device)?;
        for step in steps {
            let mark = marks.of(step.after.id);
            self.tx.add_past(key, step.after.rev, step.after.id, step.before.as_ref(), mark)?;
            self.tx.put_node(key, &step.after)?;
            if step.renamed && step.before.is_some() {
                self.tx.clear_names(key, step.after.id)?;
            }
            self.add_version(step)?;
            self.become_version(step)?;
        }
        structure::place(self.tx, key, steps)?;
        self.touch_dirs(steps)
    }

    /// Moves the mtimes of directories whose entries came, went or were renamed, unless the steps set them.
    fn touch_dirs(&self, steps: &[Step]) -> Result<()> {
        let mut touched: BTreeMap<NodeId, (Timestamp, Rev)> = BTreeMap::new();
        for step in steps.iter().filter(|step| step.renamed) {
            let before = step.lived().map_or(&[][..], |node| &node.names);
            let after = step.lives().map_or(&[][..], |node| &node.names);
            let gone = before.iter().filter(|place| !after.contains(place));
            let new = after.iter().filter(|place| !before.contains(place));
            let (time, rev) = (step.after.changed.unwrap_or(self.now), step.after.rev);
            for dir in gone.chain(new).map(|place| place.parent).filter(|dir| !self.beside.set.contains(dir)) {
                let latest = touched.entry(dir).or_insert((time, rev));
                *latest = (latest.0.max(time), latest.1.max(rev));
            }
        }
        touched.into_iter().try_for_each(|(dir, (time, rev))| {
            let at = self.beside.touched.get(&dir).map_or(time, |at| *at);
            Ok(self.tx.touch_dir(self.folder.key, dir, at, rev)?)
        })
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

    /// What a removed file had goes among the versions of another one.
    fn become_version(&self, step: &Step) -> Result<()> {
        let (Some(before), Some(of)) = (step.lived(), self.beside.versions.get(&step.after.id)) else { return Ok(()) };
        let (Some(content), [place]) = (&before.content, &before.names[..]) else { return Ok(()) };
        let version = VersionRow {
            node: before.id,
            rev: step.after.rev,
            placement: Placement { parent: place.parent, name: of.clone() },
            content: content.hash,
            mtime: before.attrs.mtime,
            received: self.now,
            device: before.content_author,
        };
        Ok(self.tx.add_version(self.folder.key, &version)?)
    }

    fn finish(&self, steps: &[Step], marks: &Marks) -> Result<Committed> {
        let key = self.folder.key;
        let (first_seq, last_seq) = (self.folder.seq + 1, self.folder.seq + steps.len() as u64);
        let counted = steps.iter().filter(|step| marks.of(step.after.id) == Mark::Counted).count() as u64;
        let counts = Counts { counted, ..counts(steps) };
        self.tx.advance(key, last_seq, self.totals(steps, &counts)?)?;
        let tag = if steps.is_empty() { self.tx.tag_at(key, last_seq)? } else { self.tag };
        if !steps.is_empty() {
            let (time, device, token) = (self.now, self.device.id, self.token.map(str::to_owned));
            self.tx.add_commit(key, &CommitRow { first_seq, last_seq, tag, time, device, token, counts })?;
        }
        let committed = Committed { first_seq, last_seq, tag };
        self.tx.add_answer(key, self.op_id, committed, ANSWERS_KEPT)?;
        Ok(committed)
    }

    /// The folder's counters after the steps, which are written already. Counters that cannot be right, or that stand at
    /// their limit because an earlier version let the sum grow past it, are counted again.
    fn totals(&self, steps: &[Step], counts: &Counts) -> Result<Totals> {
        let (folder, growth) = (self.folder, self.growth(steps)?);
        let bytes = u64::try_from(i128::from(folder.bytes) + growth).ok();
        let nodes = (folder.nodes + counts.created).checked_sub(counts.removed);
        let is_full = |bytes: u64| bytes >= FOLDER_BYTES_MAX && growth > 0;
        let totals = match (nodes, bytes) {
            (_, Some(bytes)) if is_full(bytes) => return Err(full()),
            (Some(nodes), Some(bytes)) if folder.bytes < FOLDER_BYTES_MAX => Totals { nodes, bytes },
            _ => self.tx.totals(folder.key)?,
        };
        if is_full(totals.bytes) { Err(full()) } else { Ok(totals) }
    }

    /// By how many bytes the folder grows.
    fn growth(&self, steps: &[Step]) -> Result<i128> {
        let mut sizes = HashMap::new();
        let mut bytes = 0;
        for step in steps {
            let (before, after) = (self.size(step.lived(), &mut sizes)?, self.size(step.lives(), &mut sizes)?);
            bytes += i128::from(after) - i128::from(before);
        }
        Ok(bytes)
    }

    /// The size of a node's content in bytes.
    fn size(&self, node: Option<&Node>, sizes: &mut HashMap<ContentHash, u64>) -> Result<u64> {
        let Some(content) = node.and_then(|node| node.content.as_ref()) else { return Ok(0) };
        if let Some(size) = sizes.get(&content.hash) {
            return Ok(*size);
        }
        let row = self.tx.content(&content.hash)?.ok_or(meta::MetaError::Damaged("a content has no row"))?;
        sizes.insert(content.hash, row.size);
        Ok(row.size)
    }
}

fn full() -> ServiceError {
    ServiceError::Invalid(format!("the files would have more than a folder can hold, {FOLDER_BYTES_MAX} bytes in sum"))
}

/// How many nodes the steps make, change and remove.
pub(super) fn counts(steps: &[Step]) -> Counts {
    let mut counts = Counts::default();
    for step in steps {
        match (step.lived(), step.lives()) {
            (None, Some(_)) => counts.created += 1,
            (Some(_), None) => counts.removed += 1,
            (Some(_), Some(_)) | (None, None) => counts.changed += 1,
        }
    }
    counts
}
