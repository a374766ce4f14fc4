//! What the folder's thread is told by others. Bounded: too many hints become one, to look at everything.

use super::folder::{Job, Told};
use super::names;
use super::part::Part;
use super::scan::Scope;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use syncmount_common::NodeId;

/// More paths than this are looked at by looking at everything.
pub(crate) const PATHS_MAX: usize = 50_000;

/// What came in.
#[derive(Default)]
pub(crate) struct Mail {
    pub(crate) hints: Scope,
    /// When the last hint came.
    pub(crate) hinted: Option<Instant>,
    pub(crate) nodes: BTreeSet<NodeId>,
    pub(crate) finished: Vec<(Job, Result<Part, String>)>,
    /// Sentences about hints that do not come any more.
    pub(crate) lost_hints: Vec<String>,
    /// The marks whose hints have come: everything before them has come too.
    pub(crate) marks: BTreeSet<PathBuf>,
    /// The newest number that was asked of the hints and has come back.
    pub(crate) settled: u64,
    /// The newest question of somebody who wants to be sure that everything up to then is seen.
    pub(crate) asked: u64,
    /// What is to be taken as it is now.
    pub(crate) accepts: Vec<Accept>,
    pub(crate) is_over: bool,
    is_new: bool,
}

/// A path below the root of which the user says that what is there is right. The answer is a sentence if it cannot be taken.
pub(crate) struct Accept {
    pub(crate) path: PathBuf,
    pub(crate) answer: mpsc::SyncSender<Result<(), String>>,
}

/// Where it is put.
#[derive(Default)]
pub(crate) struct Inbox {
    mail: Mutex<Mail>,
    arrived: Condvar,
    /// For loops that cannot wait for mail.
    ends: Arc<AtomicBool>,
}

impl Inbox {
    fn put(&self, put: impl FnOnce(&mut Mail)) {
        let mut mail = self.mail.lock();
        put(&mut mail);
        mail.is_new = true;
        drop(mail);
        self.arrived.notify_one();
    }

    /// Something happened at a path below the root.
    pub(crate) fn hint(&self, path: &Path) {
        let name = path.file_name().and_then(super::platform::name_bytes).unwrap_or_default();
        if names::is_mark(name) {
            return self.put(|mail| mail.marks.extend([path.to_path_buf()]));
        }
        if names::is_ours(name) && name != names::MARKER.as_bytes() {
            return;
        }
        self.put(|mail| {
            mail.hinted = Some(Instant::now());
            if mail.hints.is_everything() {
                return;
            }
            mail.hints.paths.insert(path.to_path_buf());
            if mail.hints.paths.len() > PATHS_MAX {
                mail.hints = Scope::everything();
            }
        });
    }

    /// Hints were lost.
    pub(crate) fn hint_everything(&self) {
        self.put(|mail| {
            mail.hinted = Some(Instant::now());
            mail.hints = Scope::everything();
        });
    }

    pub(crate) fn lose_hints(&self, why: String) {
        self.put(|mail| mail.lost_hints.push(why));
    }

    pub(crate) fn node(&self, node: NodeId) {
        self.put(|mail| mail.nodes.extend([node]));
    }

    pub(crate) fn told(&self, told: Told) {
        match told {
            Told::Path(path) => self.hint(&path),
            Told::Node(node) => self.node(node),
        }
    }

    pub(crate) fn finished(&self, job: Job, result: Result<Part, String>) {
        self.put(|mail| mail.finished.push((job, result)));
    }

    /// Directories of which hints have come before this number was asked for are listened to.
    pub(crate) fn settled(&self, number: u64) {
        self.put(|mail| mail.settled = mail.settled.max(number));
    }

    /// Somebody has to be told once everything up to now is seen. `question` is larger than every one before.
    pub(crate) fn ask(&self, question: u64) {
        self.put(|mail| mail.asked = mail.asked.max(question));
    }

    /// What is at a path is right. Gives what comes of it.
    pub(crate) fn accept(&self, path: PathBuf) -> mpsc::Receiver<Result<(), String>> {
        let (answer, answered) = mpsc::sync_channel(1);
        self.put(|mail| mail.accepts.push(Accept { path, answer }));
        answered
    }

    /// Set when the folder is to be left.
    pub(crate) fn ends(&self) -> Arc<AtomicBool> {
        self.ends.clone()
    }

    pub(crate) fn stop(&self) {
        self.ends.store(true, Ordering::Relaxed);
        self.put(|mail| mail.is_over = true);
    }

    /// What has come, as soon as something has or the time has come.
    pub(crate) fn wait(&self, until: Instant) -> Mail {
        let mut mail = self.mail.lock();
        while !mail.is_new {
            if self.arrived.wait_until(&mut mail, until).timed_out() {
                break;
            }
        }
        let is_over = mail.is_over;
        let taken = std::mem::take(&mut *mail);
        mail.is_over = is_over;
        taken
    }
}
