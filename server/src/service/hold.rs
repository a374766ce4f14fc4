//! The stop for mass deletes: a device that removes most of a folder within an hour is held until a person says yes.
//!
//! What counts is a node that goes and that others could miss. A move is no remove; a node whose name is taken over in the
//! same batch is replaced; what the device itself made within the window (an unpacked archive, a build) it may clear away.
//! The folder's size is the larger of two: as it was when the window began, and as it would be had this device done
//! nothing since. Undo does not pass here.

use super::commit::Step;
use super::{Result, Service, ServiceError, folder};
use crate::meta::{Counts, FolderKey, FolderRow, HoldRow, WriteTx};
use std::collections::HashSet;
use std::time::Duration;
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::holds::{HeldDetails, Hold, HoldList};
use syncmount_common::{Node, Placement, Timestamp};

/// How long a permission lasts.
const ALLOWED_FOR: Duration = Duration::from_secs(60 * 60);

/// When a device is held: more than so many removes and more than this part of the folder, both within the window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HoldRule {
    /// The number of removes that is always free. 0: nobody is ever held.
    pub removes: u64,
    /// The part of the folder that is always free, 0 to 1. 0: nobody is ever held.
    pub part: f64,
    /// How far back removes are counted.
    pub window: Duration,
}

impl Default for HoldRule {
    fn default() -> Self {
        Self { removes: 1000, part: 0.5, window: Duration::from_secs(60 * 60) }
    }
}

impl HoldRule {
    fn is_off(&self) -> bool {
        self.removes == 0 || self.part <= 0.0
    }

    fn is_crossed(&self, removes: u64, nodes: u64) -> bool {
        removes > self.removes && removes as f64 > self.part * nodes as f64
    }
}

/// A device whose commit is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "`{}` would have removed {} of {} files and directories of this folder within an hour, so the server holds its \
     removes back{}; if they are meant, allow them: `syncmount-server holds allow \"{}\" --folder \"{folder}\"` or \
     POST /v1/folders/{folder}/holds/{}/allow",
    .device.name, .details.removes, .details.nodes, if .details.denied { ", as was decided" } else { "" }, .device.name,
    .device.id
)]
pub struct Held {
    /// The folder's name.
    pub folder: String,
    /// Who.
    pub device: Device,
    /// For programs.
    pub details: HeldDetails,
}

/// Whether a batch may go on.
pub(super) enum Passage {
    /// It may; so many of its removes count.
    Free { counted: u64 },
    /// It may not.
    Held(Box<Held>),
}

/// One batch before it is written.
pub(super) struct Watch<'a> {
    pub(super) tx: &'a dyn WriteTx,
    pub(super) folder: &'a FolderRow,
    pub(super) device: &'a Device,
    pub(super) now: Timestamp,
    pub(super) rule: HoldRule,
}

impl Watch<'_> {
    /// Whether the steps may be written; enters a hold if they may not.
    pub(super) fn look(&self, steps: &[Step]) -> Result<Passage> {
        let counted = self.counted(steps)?;
        if counted == 0 || self.rule.is_off() {
            return Ok(Passage::Free { counted });
        }
        match self.tx.hold(self.folder.key, self.device.id)? {
            // What was allowed is forgotten: it does not count when the permission has run out.
            Some(hold) if hold.allows(self.now) => Ok(Passage::Free { counted: 0 }),
            Some(hold) if hold.stops() => Ok(self.held(&hold)),
            Some(_) | None => self.judge(counted),
        }
    }

    fn judge(&self, counted: u64) -> Result<Passage> {
        let begin = self.begin();
        let done = self.tx.device_counts(self.folder.key, self.device.id, begin)?;
        let removes = done.counted + counted;
        if removes <= self.rule.removes {
            return Ok(Passage::Free { counted });
        }
        let nodes = self.nodes(begin, done)?;
        if !self.rule.is_crossed(removes, nodes) {
            return Ok(Passage::Free { counted });
        }
        let hold = HoldRow { since: self.now, removes, nodes, denied: false, allowed_until: None };
        self.tx.put_device(self.device)?;
        self.tx.put_hold(self.folder.key, self.device.id, &hold)?;
        tracing::warn!(folder = self.folder.name, device = self.device.name, removes, nodes, "a device is held");
        Ok(self.held(&hold))
    }

    fn begin(&self) -> Timestamp {
        let window = i64::try_from(self.rule.window.as_nanos()).unwrap_or(i64::MAX);
        Timestamp(self.now.0.saturating_sub(window))
    }

    fn nodes(&self, begin: Timestamp, own: Counts) -> Result<u64> {
        let key = self.folder.key;
        let all = self.tx.counts_past(key, self.tx.seq_at(key, begin)?)?;
        let without = |counts: Counts| (self.folder.nodes + counts.removed).saturating_sub(counts.created);
        Ok(without(all).max(without(own)))
    }

    fn held(&self, hold: &HoldRow) -> Passage {
        let HoldRow { removes, nodes, denied, .. } = *hold;
        let details = HeldDetails { device: self.device.id, removes, nodes, denied };
        let (folder, device) = (self.folder.name.clone(), self.device.clone());
        Passage::Held(Box::new(Held { folder, device, details }))
    }

    fn counted(&self, steps: &[Step]) -> Result<u64> {
        let taken: HashSet<&Placement> =
            steps.iter().filter(|step| step.renamed).flat_map(|step| &step.after.names).collect();
        let mut count = 0;
        for node in steps.iter().filter(|step| step.after.deleted).filter_map(Step::lived) {
            let replaced = node.names.iter().any(|place| taken.contains(place));
            count += u64::from(!replaced && !self.is_own(node)?);
        }
        Ok(count)
    }

    /// Whether this device made the node within the window.
    fn is_own(&self, node: &Node) -> Result<bool> {
        let born = self.tx.born(self.folder.key, node.id)?;
        let origin = self.tx.origin(self.folder.key, born)?;
        Ok(born > 0 && origin.is_some_and(|(device, time)| device == self.device.id && time > self.begin()))
    }
}

impl Service {
    /// Sets when a device is held, from the next commit on.
    pub fn set_hold_rule(&self, rule: HoldRule) {
        *self.0.hold_rule.lock() = rule;
    }

    pub(super) fn hold_rule(&self) -> HoldRule {
        *self.0.hold_rule.lock()
    }

    /// The devices of a folder that are held, or allowed to go on at present.
    pub async fn holds(&self, folder_name: &str) -> Result<HoldList> {
        let (name, now) = (folder_name.to_owned(), self.0.environment.now());
        self.read(move |tx| {
            let rows = tx.holds(folder(tx, &name)?.key)?;
            let present = rows.into_iter().filter(|(_, hold)| hold.stops() || hold.allows(now));
            Ok(HoldList { holds: present.map(|(device, hold)| hold.told(device)).collect() })
        })
        .await
    }

    /// Lets a device remove what it likes for the next hour. `device` is its id or name.
    pub async fn allow_removes(&self, folder: &str, device: &str) -> Result<Hold> {
        let lasts = i64::try_from(ALLOWED_FOR.as_nanos()).unwrap_or(i64::MAX);
        let until = Timestamp(self.0.environment.now().0.saturating_add(lasts));
        self.decide(folder, device, move |hold| HoldRow { denied: false, allowed_until: Some(until), ..hold }).await
    }

    /// Keeps refusing a device's removes, or does so again. `device` is its id or name.
    pub async fn deny_removes(&self, folder: &str, device: &str) -> Result<Hold> {
        self.decide(folder, device, |hold| HoldRow { denied: true, allowed_until: None, ..hold }).await
    }

    async fn decide(
        &self,
        folder_name: &str,
        device: &str,
        change: impl FnOnce(HoldRow) -> HoldRow + Send + 'static,
    ) -> Result<Hold> {
        let (name, device) = (folder_name.to_owned(), device.to_owned());
        self.write(move |tx| {
            let key = folder(tx, &name)?.key;
            let (device, hold) = find(tx, key, &name, &device)?;
            let hold = change(hold);
            tx.put_hold(key, device.id, &hold)?;
            Ok(hold.told(device))
        })
        .await
    }
}

fn find(tx: &dyn WriteTx, key: FolderKey, folder: &str, wanted: &str) -> Result<(Device, HoldRow)> {
    let fits = |device: &Device| device.id.to_string() == wanted || device.name == wanted;
    let found = tx.holds(key)?.into_iter().find(|(device, _)| fits(device));
    found.ok_or_else(|| {
        ServiceError::NotFound(format!(
            "no device `{wanted}` is held in the folder `{folder}`; `syncmount-server holds list` lists those that are"
        ))
    })
}
