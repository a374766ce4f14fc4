//! Changes to many nodes that one request asks for: done whole or refused whole, as one commit, however many there are.
//!
//! Planned on a consistent view, then judged and written in one transaction: a server that is killed has done all of it or
//! nothing, devices see it together, and the history has one entry. A node that has moved on since the plan makes the whole fail,
//! and it is planned again. Bounded by [`NODES_MAX`], since the transaction keeps other writers waiting.

use super::commit::Step;
use super::hold::{Held, Marks, Passage, Watch};
use super::record::{Beside, Record, counts};
use super::tokens::{Credential, admit};
use super::undo::hash;
use super::{Result, Service, ServiceError, folder};
use crate::meta::{Counts, FolderKey, WriteTx};
use syncmount_common::Node;
use syncmount_common::protocol::changes::Device;

/// The most nodes that one request changes: each takes some 700 bytes of memory until it is written, and the transaction keeps
/// other writers waiting for some 0.1 ms a node.
pub(super) const NODES_MAX: usize = 2_000_000;

/// Who changes something, and whose deed it is.
pub(super) struct Author {
    /// The device that it is told as.
    pub(super) device: Device,
    /// Whether the stop for mass deletes looks at it. If not, it is counted for no token either.
    pub(super) is_counted: bool,
}

/// How a transaction ends that is kept.
enum Outcome {
    Done(FolderKey),
    /// Nothing is stored but the hold.
    Held(Box<Held>),
}

impl Service {
    /// Does all the steps, or none: the error is [`ServiceError::Conflict`] if a node has moved on since they were planned.
    pub(super) async fn change_whole(&self, folder_name: &str, author: Author, steps: Vec<Step>) -> Result<Counts> {
        if steps.is_empty() {
            return Ok(Counts::default());
        }
        let counts = counts(&steps);
        let (name, credential, service) = (folder_name.to_owned(), self.2.clone(), self.clone());
        let (rule, environment) = (self.hold_rule(), &self.0.environment);
        let (op_id, tag, now) = (environment.op_id(), environment.tag(), environment.now());
        let change = |step: Step| Step { after: Node { changed: Some(now), ..step.after }, ..step };
        let steps: Vec<_> = steps.into_iter().map(change).collect();
        let set = steps.iter().filter(|step| step.lived().is_none()).map(|step| step.after.id).collect();
        let beside = Beside { set, ..Beside::default() };
        let job = move |tx: &dyn WriteTx| {
            admit(tx, credential.as_ref())?;
            let folder = &folder(tx, &name)?;
            let Author { device, is_counted } = &author;
            let token = credential.as_ref().filter(|_| *is_counted).map(Credential::name);
            let marks = if *is_counted {
                let watch = Watch { tx, folder, device, token, now, rule, concluded: false };
                match watch.look(steps.iter())? {
                    Passage::Free { marks } => marks,
                    Passage::Held(held) => return Ok(Outcome::Held(held)),
                }
            } else {
                Marks::default()
            };
            write(&Record { tx, folder, device, token, op_id, tag, now, beside: &beside }, steps, &marks)?;
            Ok(Outcome::Done(folder.key))
        };
        let then = move |outcome: &Outcome| {
            if let Outcome::Done(key) = outcome {
                service.0.wake.changed(*key);
            }
        };
        match self.transact(job, then).await? {
            Outcome::Done(_) => Ok(counts),
            Outcome::Held(held) => Err(ServiceError::Held(held)),
        }
    }
}

/// An error if a plan is about more nodes than one request may change.
pub(super) fn check_count(nodes: usize) -> Result<()> {
    if nodes <= NODES_MAX {
        return Ok(());
    }
    Err(ServiceError::TooLarge(format!(
        "this is about {nodes} files and directories, and one request changes at most {NODES_MAX}, all or none of them: ask for \
         parts of it"
    )))
}

fn write(record: &Record<'_>, mut steps: Vec<Step>, marks: &Marks) -> Result<()> {
    let (folder, author) = (record.folder, record.device.id);
    for (step, rev) in steps.iter_mut().zip(folder.seq + 1..) {
        let planned = step.before.as_ref().map(|node| node.rev);
        if record.tx.node(folder.key, step.after.id)?.map(|node| node.rev) != planned {
            return Err(ServiceError::Conflict(Vec::new()));
        }
        (step.after.rev, step.after.author) = (rev, author);
        let changed = step.before.as_ref().and_then(hash) != hash(&step.after);
        if changed && step.after.content.is_some() {
            (step.after.content_rev, step.after.content_author) = (rev, author);
        }
    }
    record.write(&steps, marks).map(drop)
}
