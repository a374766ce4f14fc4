//! What survives a crash of one device: rows, feed position, staging files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use syncmount_common::NodeId;
use syncmount_common::protocol::changes::Cursor;
use syncmount_engine::{Record, Restored, Row};

/// The disk of a device.
#[derive(Default)]
pub struct Disk {
    rows: BTreeMap<NodeId, Row>,
    cursor: Option<Cursor>,
    unanswered: Vec<NodeId>,
    retired: BTreeSet<u64>,
    staging: BTreeMap<u64, Arc<[u8]>>,
    next_staging: u64,
    generation: u64,
}

impl Disk {
    /// Keeps a record, all of it.
    pub fn keep(&mut self, record: Record) {
        for (id, row) in record.rows {
            match row {
                Some(row) => self.rows.insert(id, row),
                None => self.rows.remove(&id),
            };
        }
        if let Some(cursor) = record.cursor {
            self.cursor = cursor;
        }
        if let Some(unanswered) = record.unanswered {
            self.unanswered = unanswered;
        }
        self.retired.extend(record.retired);
    }

    /// What an engine starts from. Staging files that were on their way out are gone.
    pub fn restore(&mut self) -> Restored {
        for id in std::mem::take(&mut self.retired) {
            self.staging.remove(&id);
        }
        let rows = self.rows.iter().map(|(id, row)| (*id, row.clone())).collect();
        Restored { rows, cursor: self.cursor, unanswered: self.unanswered.clone() }
    }

    /// A number that no state of any draft has had on this device, as in the driver. Far apart, because a restart counts on
    /// by ones.
    pub fn next_generation(&mut self) -> u64 {
        self.generation += 1000;
        self.generation
    }

    /// A new staging file with these bytes.
    pub fn stage(&mut self, bytes: Arc<[u8]>) -> u64 {
        self.next_staging += 1;
        self.staging.insert(self.next_staging, bytes);
        self.next_staging
    }

    /// Replaces the bytes of a staging file.
    pub fn write(&mut self, staging: u64, bytes: Arc<[u8]>) {
        self.staging.insert(staging, bytes);
    }

    /// The bytes of a staging file.
    pub fn read(&self, staging: u64) -> Option<Arc<[u8]>> {
        self.staging.get(&staging).cloned()
    }

    /// A staging file is not needed any more.
    pub fn unstage(&mut self, staging: u64) {
        self.retired.remove(&staging);
        self.staging.remove(&staging);
    }

    /// Whether a kept row or a retirement still needs the staging file.
    pub fn refers(&self, staging: u64) -> bool {
        let needs = |row: &Row| {
            let draft = row.local.as_ref().and_then(|local| local.body.draft());
            draft.is_some_and(|draft| draft.staging == Some(staging))
        };
        self.retired.contains(&staging) || self.rows.values().any(needs)
    }

    /// Ids of all staging files, without those that go at the next start.
    pub fn stagings(&self) -> BTreeSet<u64> {
        self.staging.keys().copied().filter(|id| !self.retired.contains(id)).collect()
    }
}
