//! The stop for mass deletes: what removes most of a folder within an hour is held until an operator allows it.
//!
//! Removes are counted by token and folder, because a client chooses its device id itself; only without a token (in one
//! process, or from before tokens were noted) does the device count. What counts is a node that goes and that others could
//! miss. A move is no remove; a node whose name another one takes in the same batch is replaced; what the device itself made
//! with this token within the window (an unpacked archive, a build) it may clear away, unless that took the place of what
//! others could miss. That does not hold for what the commit says it has only found missing. The folder's size is the larger of
//! two: as it was when the window began, and as it would be had this token done nothing since. An undo passes here too,
//! unless an operator asks for it.

use super::commit::Step;
use super::put_back::Burst;
use super::tokens::{ADMIN_TOKEN, admit, is_operator};
use super::{Result, Service, ServiceError, folder};
use crate::meta::{Counts, FolderRow, HoldRow, Mark, Principal, WriteTx};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::time::Duration;
use syncmount_common::protocol::changes::Device;
use syncmount_common::protocol::holds::{HeldDetails, Hold, HoldList};
use syncmount_common::protocol::undo::UndoReply;
use syncmount_common::{Node, NodeId, Placement, Timestamp};

/// How long a permission lasts.
const ALLOWED_FOR: Duration = Duration::from_secs(60 * 60);

/// When removes are held back: more than so many removes and more than this part of the folder, both within the window.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct HoldRule {
    /// The number of removes that is always free. 0: none are ever held.
    pub removes: u64,
    /// The part of the folder that is always free, 0 to 1. 0: none are ever held.
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

/// Removes that are refused.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The folder's name.
    pub folder: String,
    /// The device whose removes were the first to be too many.
    pub device: Device,
    /// The token that it came with.
    pub token: Option<String>,
    /// For programs.
    pub details: HeldDetails,
}

impl std::error::Error for Held {}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, device: Device { id, name }, token, details } = self;
        let HeldDetails { removes, nodes, denied, .. } = details;
        write!(
            f,
            "`{name}` would have removed {removes} of {nodes} files and directories of this folder within an hour, so "
        )?;
        match token {
            Some(token) => write!(f, "the server holds back what devices with the token `{token}` remove")?,
            None => f.write_str("the server holds its removes back")?,
        }
        f.write_str(if *denied { ", as was decided" } else { "" })?;
        write!(
            f,
            "; if they are meant, allow them: `syncmount-server holds allow \"{name}\" --folder \"{folder}\"`, or, with the \
             token `{ADMIN_TOKEN}`, POST /v1/folders/{folder}/holds/{id}/allow"
        )
    }
}

/// What the changes of a batch mean to the stop for mass deletes.
#[derive(Clone, Default, Debug)]
pub(super) struct Marks {
    /// Nodes whose removes count.
    counted: HashSet<NodeId>,
    /// Nodes that take the names of others.
    heirs: HashSet<NodeId>,
}

impl Marks {
    pub(super) fn of(&self, node: NodeId) -> Mark {
        if self.counted.contains(&node) {
            Mark::Counted
        } else if self.heirs.contains(&node) {
            Mark::Heir
        } else {
            Mark::None
        }
    }
}

/// Whether a batch may go on.
pub(super) enum Passage {
    /// It may.
    Free { marks: Marks },
    /// It may not.
    Held(Box<Held>),
}

/// One batch before it is written.
pub(super) struct Watch<'a> {
    pub(super) tx: &'a dyn WriteTx,
    pub(super) folder: &'a FolderRow,
    pub(super) device: &'a Device,
    /// The name of the token that the batch came with.
    pub(super) token: Option<&'a str>,
    pub(super) now: Timestamp,
    pub(super) rule: HoldRule,
    /// What goes was found missing in a plain folder.
    pub(super) concluded: bool,
}

impl Watch<'_> {
    /// Whether the steps may be written; enters a hold if they may not.
    pub(super) fn look<'s>(&self, steps: impl Iterator<Item = &'s Step> + Clone) -> Result<Passage> {
        let marks = self.marks(steps)?;
        if marks.counted.is_empty() || self.rule.is_off() {
            return Ok(Passage::Free { marks });
        }
        let mut allowed = false;
        for principal in self.principals() {
            match self.tx.hold(self.folder.key, &principal)? {
                Some(hold) if hold.allows(self.now) => allowed = true,
                Some(hold) if hold.stops() => return self.held(&hold),
                Some(_) | None => {}
            }
        }
        // What was allowed is forgotten: it does not count when the permission has run out.
        if allowed { Ok(Passage::Free { marks: Marks::default() }) } else { self.judge(marks) }
    }

    /// Whose removes these are. Those of the device from before tokens were noted belong to the token now.
    fn principals(&self) -> impl Iterator<Item = Principal> {
        let token = self.token.map(|name| Principal::Token(name.to_owned()));
        token.into_iter().chain([Principal::Device(self.device.id)])
    }

    fn judge(&self, marks: Marks) -> Result<Passage> {
        let begin = before(self.now, self.rule.window);
        let mut done = Counts::default();
        for principal in self.principals() {
            let Counts { created, changed, removed, counted } =
                self.tx.counts_by(self.folder.key, &principal, begin)?;
            done.created += created;
            done.changed += changed;
            done.removed += removed;
            done.counted += counted;
        }
        let removes = done.counted + marks.counted.len() as u64;
        if removes <= self.rule.removes {
            return Ok(Passage::Free { marks });
        }
        let size = self.size(begin, done)?;
        if !self.rule.is_crossed(removes, size) {
            return Ok(Passage::Free { marks });
        }
        // What the token has made itself is no part of the size that counts, but people see it in the folder.
        let nodes = size.max(self.folder.nodes + done.removed);
        let hold =
            HoldRow { device: self.device.id, since: self.now, removes, nodes, denied: false, allowed_until: None };
        self.tx.put_device(self.device)?;
        if let Some(principal) = self.principals().next() {
            self.tx.put_hold(self.folder.key, &principal, &hold)?;
        }
        let (folder, device, token) = (&self.folder.name, &self.device.name, self.token);
        tracing::warn!(folder, device, token, removes, nodes, "removes are held back");
        self.held(&hold)
    }

    fn size(&self, begin: Timestamp, own: Counts) -> Result<u64> {
        let key = self.folder.key;
        let all = self.tx.counts_past(key, self.tx.seq_at(key, begin)?)?;
        let without = |counts: Counts| (self.folder.nodes + counts.removed).saturating_sub(counts.created);
        Ok(without(all).max(without(own)))
    }

    fn held(&self, hold: &HoldRow) -> Result<Passage> {
        let HoldRow { device: id, removes, nodes, denied, .. } = *hold;
        let details = HeldDetails { device: id, removes, nodes, denied };
        let device = self.tx.device(id)?.unwrap_or_else(|| Device { id, name: id.to_string() });
        let (folder, token) = (self.folder.name.clone(), self.token.map(str::to_owned));
        Ok(Passage::Held(Box::new(Held { folder, device, token, details })))
    }

    /// A node that takes a name stands for one that had it: one with many names does not replace many.
    fn marks<'s>(&self, steps: impl Iterator<Item = &'s Step> + Clone) -> Result<Marks> {
        let renamed = steps.clone().filter(|step| step.renamed);
        let takers: HashMap<&Placement, NodeId> =
            renamed.flat_map(|step| step.after.names.iter().map(|place| (place, step.after.id))).collect();
        let (mut marks, mut used) = (Marks::default(), HashSet::new());
        for node in steps.filter(|step| step.after.deleted).filter_map(Step::lived) {
            let mut takers = node.names.iter().filter_map(|place| takers.get(place));
            let heir = takers.find(|taker| used.insert(**taker)).copied();
            if !self.concluded && self.is_own(node)? {
                continue;
            }
            match heir {
                Some(heir) => marks.heirs.insert(heir),
                None => marks.counted.insert(node.id),
            };
        }
        Ok(marks)
    }

    /// Whether this device made the node with this token within the window, and not in the place of another's.
    fn is_own(&self, node: &Node) -> Result<bool> {
        let key = self.folder.key;
        let born = self.tx.born(key, node.id)?;
        let Some(origin) = self.tx.origin(key, born)?.filter(|_| born > 0) else { return Ok(false) };
        let same = origin.device == self.device.id && (origin.token.is_none() || origin.token.as_deref() == self.token);
        let fresh = origin.time > before(self.now, self.rule.window);
        Ok(same && fresh && !self.tx.is_heir(key, node.id)?)
    }
}

fn before(time: Timestamp, window: Duration) -> Timestamp {
    Timestamp(time.0.saturating_sub(i64::try_from(window.as_nanos()).unwrap_or(i64::MAX)))
}

/// A hold that is in force, or a permission that lasts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PresentHold {
    /// As it is told.
    pub hold: Hold,
    /// The token whose removes it is about; none for a hold of a device, from before tokens were noted.
    pub token: Option<String>,
}

/// What a no has done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denied {
    /// The hold as it is now.
    pub hold: Hold,
    /// What came back.
    pub back: UndoReply,
}

/// Whose removes a decision is about, and the hold as it is then.
struct Decision {
    principal: Principal,
    device: Device,
    row: HoldRow,
}

impl Service {
    /// Sets when removes are held back, from the next commit on.
    pub fn set_hold_rule(&self, rule: HoldRule) {
        *self.0.hold_rule.lock() = rule;
    }

    pub(super) fn hold_rule(&self) -> HoldRule {
        *self.0.hold_rule.lock()
    }

    /// What is held back in a folder, or allowed to go on at present.
    pub async fn holds(&self, folder: &str) -> Result<HoldList> {
        let present = self.present_holds(folder).await?;
        Ok(HoldList { holds: present.into_iter().map(|present| present.hold).collect() })
    }

    /// The same, with the tokens.
    pub async fn present_holds(&self, folder_name: &str) -> Result<Vec<PresentHold>> {
        let (name, now) = (folder_name.to_owned(), self.0.environment.now());
        self.read(move |tx| {
            let rows = tx.holds(folder(tx, &name)?.key)?.into_iter();
            let present = rows.filter(|(.., hold)| hold.stops() || hold.allows(now));
            let shown = |(principal, device, hold): (Principal, Device, HoldRow)| PresentHold {
                hold: hold.told(device),
                token: match principal {
                    Principal::Token(name) => Some(name),
                    Principal::Device(_) => None,
                },
            };
            Ok(present.map(shown).collect())
        })
        .await
    }

    /// Lets what is held back go on for the next hour. `wanted` is the id or name of its device, or `token:NAME`.
    pub async fn allow_removes(&self, folder: &str, wanted: &str) -> Result<Hold> {
        let lasts = i64::try_from(ALLOWED_FOR.as_nanos()).unwrap_or(i64::MAX);
        let until = Timestamp(self.0.environment.now().0.saturating_add(lasts));
        let allow = move |hold| HoldRow { denied: false, allowed_until: Some(until), ..hold };
        let Decision { device, row, .. } = self.decide(folder, wanted, allow).await?;
        Ok(row.told(device))
    }

    /// Keeps refusing the removes, or does so again, and puts back what those of the same burst took away before they were
    /// held. `wanted` as above. Done again, it puts back what is still away.
    pub async fn deny_removes(&self, folder: &str, wanted: &str) -> Result<Denied> {
        let deny = |hold| HoldRow { denied: true, allowed_until: None, ..hold };
        let Decision { principal, device, row } = self.decide(folder, wanted, deny).await?;
        let mut principals = vec![Principal::Device(row.device), principal];
        principals.dedup();
        let burst = Burst { principals, from: before(row.since, self.hold_rule().window), until: row.since };
        let back = self.put_back(folder, burst).await?;
        Ok(Denied { hold: row.told(device), back })
    }

    async fn decide(
        &self,
        folder_name: &str,
        wanted: &str,
        change: impl FnOnce(HoldRow) -> HoldRow + Send + 'static,
    ) -> Result<Decision> {
        let (name, wanted, credential) = (folder_name.to_owned(), wanted.to_owned(), self.2.clone());
        let now = self.0.environment.now();
        self.write(move |tx| {
            admit(tx, credential.as_ref())?;
            if !is_operator(credential.as_ref()) {
                return Err(ServiceError::NotOperator);
            }
            let key = folder(tx, &name)?.key;
            let (principal, device, row) = find(tx.holds(key)?, &name, &wanted, now)?;
            let row = change(row);
            tx.put_hold(key, &principal, &row)?;
            Ok(Decision { principal, device, row })
        })
        .await
    }
}

type Row = (Principal, Device, HoldRow);

/// The one hold that `wanted` names. Those that are over are meant only if no other is.
fn find(holds: Vec<Row>, folder: &str, wanted: &str, now: Timestamp) -> Result<Row> {
    let fits = |(principal, device, _): &Row| match wanted.strip_prefix("token:") {
        Some(token) => *principal == Principal::Token(token.to_owned()),
        None => device.id.to_string() == wanted || device.name == wanted,
    };
    let is_present = |hold: &HoldRow| hold.stops() || hold.allows(now);
    let found: Vec<_> = holds.into_iter().filter(fits).collect();
    let (present, over): (Vec<_>, Vec<_>) = found.into_iter().partition(|(.., hold)| is_present(hold));
    let mut meant = if present.is_empty() { over } else { present }.into_iter();
    match (meant.next(), meant.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(ServiceError::Invalid(format!(
            "several tokens are held in the folder `{folder}` for a device `{wanted}`: say which as `token:NAME`; \
             `syncmount-server holds list` lists them"
        ))),
        (None, _) => Err(ServiceError::NotFound(format!(
            "no device `{wanted}` is held in the folder `{folder}`; `syncmount-server holds list` lists those that are"
        ))),
    }
}
