//! The folder's own thread: waits for hints and news, lets what was touched come to rest, looks, and works.
//!
//! A file is told to the tree [`QUIET`] after it was touched last, and a batch of hints is looked at as long after the last
//! one, but no later than [`QUIET_MAX`] after the first. What was written within the grain of the disk's clock could look
//! the same after it is written again; what has rested for this long cannot.

use super::distrust::Distrust;
use super::fetch::Fetchers;
use super::folder::{Backlog, Folder, Report};
use super::hints::Hints;
use super::host::Host;
use super::inbox::{Inbox, Mail, PATHS_MAX};
use super::index::{ROOT_ITEM, folder_row};
use super::marker::Marker;
use super::names;
use super::observe::{Doubts, Removals};
use super::root::Standing;
use super::scan::{Rules, Scope};
use crate::driver::Client;
use crate::status::{Problem, ProblemKind};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a file must not have been touched before it is taken.
pub const QUIET: Duration = Duration::from_millis(60);

/// How long a batch of hints waits at most for the end of hints, and a file that is touched all the time for its rest.
pub(crate) const QUIET_MAX: Duration = Duration::from_secs(2);

/// A directory that a hint named is listed this much later, and after that until it is listened to: the system tells of
/// what happens in a new or renamed directory only once it has begun to watch that.
const LIST_AGAIN: Duration = Duration::from_millis(500);

/// More directories than this are listed by listing everything.
const LIST_MAX: usize = 1000;

/// How often the folder is scanned where no hints come.
const SCAN_WITHOUT_HINTS: Duration = Duration::from_secs(60);

/// How often it is looked whether the folder still is there.
const ROOT_INTERVAL: Duration = Duration::from_secs(5);

/// How often it is looked whether it is back.
const PAUSED_INTERVAL: Duration = Duration::from_secs(1);

/// A mark whose hint has not come after this long will not come.
const MARK_PATIENCE: Duration = Duration::from_secs(2);

/// What is missing with so many marks is gone, however much is made and removed meanwhile.
const DOUBTFUL_MAX: u32 = 8;

/// The longest pause between such marks.
const DOUBT_AGAIN_MAX: Duration = Duration::from_secs(1);

/// The pause after the state could not be written.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// How the folder does, for others.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    /// The first look is over.
    pub(crate) has_looked: bool,
    /// There are hints of what has not been looked at yet.
    pub(crate) is_looking: bool,
    /// The newest question up to which everything has been seen.
    pub(crate) seen: u64,
    pub(crate) backlog: Backlog,
    /// What its owner should know.
    pub(crate) reports: Vec<Problem>,
    /// About the folder as a whole.
    pub(crate) note: Option<String>,
    /// The folder is not what it was, so nothing is done until it is.
    pub(crate) paused: Option<String>,
}

/// What the thread does apart from its work.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Habits {
    /// How often everything is looked at without a hint.
    pub(crate) scan_interval: Duration,
    /// The first look reads every file.
    pub(crate) verify: bool,
}

pub(crate) struct Runner {
    folder: Folder<Arc<Client>>,
    standing: Standing,
    inbox: Arc<Inbox>,
    shared: Arc<Mutex<State>>,
    habits: Habits,
    fetchers: Fetchers,
    hints: Option<Hints>,
    /// Some directories are not listened to, so that a hint that has come says nothing about what happened before.
    is_partly_deaf: bool,
    pending: Scope,
    first_hint: Option<Instant>,
    last_hint: Option<Instant>,
    /// Directories to be listed, and when.
    listings: BTreeSet<PathBuf>,
    listings_due: Option<Instant>,
    /// Those of them of which it was asked whether they are listened to.
    settling: Option<Settling>,
    settlings: u64,
    /// Items that were not found, where to look for them, and those for which the mark was made.
    doubts: Doubts,
    marked: Doubts,
    /// With how many marks in a row something was still doubted, and when the next one is made for it.
    doubtful: u32,
    doubts_due: Instant,
    next_scan: Instant,
    next_root: Instant,
    next_mounts: Instant,
    mark: Option<Mark>,
    marks: u64,
    /// The newest question whether everything is seen, and the newest that is answered.
    asked: u64,
    seen: u64,
    /// A question that is answered with the next mark, once what was missing for it has been looked for.
    half_answered: Option<u64>,
    /// How far its clock is ahead: it is stepped by hand.
    passed: Duration,
}

/// Directories of which it is asked whether they are listened to.
struct Settling {
    number: u64,
    trees: BTreeSet<PathBuf>,
}

/// A mark whose hint is waited for.
struct Mark {
    path: PathBuf,
    since: Instant,
    /// The question that is answered once it has come.
    question: u64,
}

impl Runner {
    pub(crate) fn new(
        (folder, marker): (Folder<Arc<Client>>, Marker),
        inbox: Arc<Inbox>,
        shared: Arc<Mutex<State>>,
        habits: Habits,
        client: &Arc<Client>,
    ) -> std::io::Result<Self> {
        let fetchers = Fetchers::start(client, &inbox)?;
        let now = Instant::now();
        let standing = Standing::new(marker, folder.root_file()?);
        Ok(Self {
            folder,
            standing,
            inbox,
            shared,
            habits,
            fetchers,
            hints: None,
            is_partly_deaf: false,
            pending: Scope::default(),
            first_hint: None,
            last_hint: None,
            listings: BTreeSet::new(),
            listings_due: None,
            settling: None,
            settlings: 0,
            doubts: Doubts::default(),
            marked: Doubts::default(),
            doubtful: 0,
            doubts_due: now,
            next_scan: now,
            next_root: now + ROOT_INTERVAL,
            next_mounts: now + ROOT_INTERVAL,
            mark: None,
            marks: 0,
            asked: 0,
            seen: 0,
            half_answered: None,
            passed: Duration::ZERO,
        })
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self) {
        self.begin();
        loop {
            let mail = self.inbox.wait(self.next_step());
            if mail.is_over {
                break;
            }
            self.turn(mail);
        }
        self.end();
    }

    /// The first look.
    pub(crate) fn begin(&mut self) {
        self.listen();
        self.scan_everything(self.habits.verify);
        self.folder.compare_all();
        self.work();
        self.answer();
        // After an error, or a look that was broken off, the next start looks once more.
        if self.folder.distrust.as_ref().is_some_and(Distrust::has_looked)
            && let Err(error) = self.folder.host.has_looked()
        {
            tracing::error!("that the folder was looked at cannot be noted: {error}");
        }
        self.shared.lock().has_looked = true;
        self.show();
    }

    /// Takes what has come, and does what is due.
    pub(crate) fn turn(&mut self, mail: Mail) {
        self.take(mail);
        if self.is_proved() {
            self.step();
        }
        self.show();
    }

    /// What is known stays.
    pub(crate) fn end(&mut self) {
        self.take_mark();
        self.folder.leave_works(|_| true);
        if let Err(error) = self.folder.keep() {
            tracing::error!("what is known of the folder cannot be kept: {error}");
        }
    }

    /// The time, as far as this thread's own pauses go.
    fn now(&self) -> Instant {
        Instant::now() + self.passed
    }

    /// So much time passes at once. After a second, what would be tried again some time is tried.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.passed += time;
        if time >= Duration::from_secs(1) {
            self.folder.retry_all();
        }
    }

    /// Hints begin before the first look, so that there is no gap between them.
    fn listen(&mut self) {
        self.is_partly_deaf = false;
        match Hints::start(self.folder.root.path(), &self.inbox) {
            Ok(hints) => self.hints = Some(hints),
            Err(why) => self.without_hints(why),
        }
    }

    fn without_hints(&mut self, why: String) {
        let mut shared = self.shared.lock();
        if shared.note.is_none() {
            tracing::warn!("{why}");
            shared.note = Some(why);
        }
        self.habits.scan_interval = self.habits.scan_interval.min(SCAN_WITHOUT_HINTS);
        self.next_scan = self.next_scan.min(self.now() + self.habits.scan_interval);
    }

    fn next_step(&self) -> Instant {
        if self.standing.paused.is_some() {
            return self.next_root;
        }
        let mut next = self.next_scan.min(self.next_root).min(self.next_mounts);
        next = self.hints_due().map_or(next, |due| next.min(due));
        next = self.listings_due.map_or(next, |due| next.min(due));
        next = self.rest_due().map_or(next, |due| next.min(due));
        next = self.folder.next_retry().map_or(next, |due| next.min(due));
        if !self.doubts.missing.is_empty() && self.mark.is_none() {
            next = next.min(self.doubts_due);
        }
        self.mark.as_ref().map_or(next, |mark| next.min(mark.since + MARK_PATIENCE))
    }

    fn hints_due(&self) -> Option<Instant> {
        let (first, last) = self.first_hint.zip(self.last_hint)?;
        Some((last + QUIET).min(first + QUIET_MAX))
    }

    fn rest_due(&self) -> Option<Instant> {
        (!self.folder.restless.is_empty()).then(|| self.last_looked() + QUIET)
    }

    fn last_looked(&self) -> Instant {
        self.folder.restless.values().copied().max().unwrap_or_else(|| self.now())
    }

    fn take(&mut self, mail: Mail) {
        if let Some(at) = mail.hinted {
            self.first_hint.get_or_insert(at + self.passed);
            self.last_hint = Some(at + self.passed);
            self.pending.add(mail.hints);
        }
        for node in mail.nodes {
            self.folder.node_changed(node);
        }
        for (job, result) in mail.finished {
            // What is open may not be the folder.
            let result = self.standing.paused.clone().map_or(result, Err);
            self.folder.put_together(&job, &result);
        }
        for why in mail.lost_hints {
            self.is_partly_deaf = true;
            self.without_hints(why);
        }
        self.asked = self.asked.max(mail.asked);
        for accept in mail.accepts {
            // Without an ear there is nothing to be told.
            drop(accept.answer.send(self.accept(&accept.path)));
        }
        if self.settling.as_ref().is_some_and(|settling| mail.settled >= settling.number)
            && let Some(settling) = self.settling.take()
        {
            self.list(settling.trees);
        }
        // Not even that of a mark: its patience ends in a look at everything.
        if !self.is_partly_deaf
            && self.mark.as_ref().is_some_and(|mark| mail.marks.contains(&mark.path))
            && let Some(question) = self.take_mark()
        {
            self.take_answer(question);
        }
    }

    /// All that happened before the mark was made has been hinted at.
    fn take_answer(&mut self, question: u64) {
        let former = self.half_answered.take();
        let mut marked = std::mem::take(&mut self.marked);
        self.pending.add(std::mem::take(&mut marked.scope));
        // What is missing may be in a directory that is not listened to yet.
        let trees = self.listings.iter().chain(self.settling.iter().flat_map(|settling| &settling.trees)).cloned();
        self.pending.trees.extend(bounded(trees.collect()));
        self.look_at_pending(&marked);
        let is_doubted_again = self.doubts.missing.iter().any(|id| marked.missing.contains(id));
        self.doubtful = if is_doubted_again { self.doubtful + 1 } else { 0 };
        if is_doubted_again {
            self.doubts_due = self.now() + (QUIET * (1 << self.doubtful.min(DOUBTFUL_MAX))).min(DOUBT_AGAIN_MAX);
        }
        self.seen = self.seen.max(former.unwrap_or(0));
        if self.doubts.missing.is_empty() {
            self.seen = question;
        } else {
            self.half_answered = Some(question);
        }
    }

    /// Hints come in the order in which things happened: once that of the mark is here, all before it are. A question that
    /// came after the mark was made needs the next one. So does a removal: what was renamed has a hint of its new place.
    fn answer(&mut self) {
        let is_asked = self.asked != self.seen && self.half_answered != Some(self.asked);
        let is_in_doubt = !self.doubts.missing.is_empty() && self.now() >= self.doubts_due;
        if self.mark.is_some() || !is_asked && !is_in_doubt || !self.folder.is_reachable() {
            return;
        }
        if is_asked {
            self.check_mounts();
        }
        self.marks += 1;
        let path = PathBuf::from(names::mark_name(self.marks));
        // One that is there already is none of this process's, or was put there by another user.
        let make = || self.folder.root.spot(&path)?.create_private();
        let is_made = self.hints.is_some() && !self.is_partly_deaf && make().is_ok();
        if is_made {
            self.mark = Some(Mark { path, since: self.now(), question: self.asked });
            self.marked = std::mem::take(&mut self.doubts);
        } else if is_asked {
            self.doubts = Doubts::default();
            self.look_at_everything(false, Removals::All);
            self.seen = self.asked;
        } else {
            let doubts = std::mem::take(&mut self.doubts);
            self.look(&doubts.scope, false, Removals::All);
        }
    }

    /// The mark's hint does not come: what everything looks like now is the answer.
    fn answer_by_scan(&mut self) {
        let marked = std::mem::take(&mut self.marked);
        self.look_at_everything(false, Removals::Of { missing: &marked.missing, passed: false, finally: true });
        self.half_answered = None;
        if self.doubts.missing.is_empty() {
            self.seen = self.asked;
        } else {
            self.half_answered = Some(self.asked);
        }
    }

    /// Takes the mark away, and gives its question.
    fn take_mark(&mut self) -> Option<u64> {
        let mark = self.mark.take()?;
        // One that is left is cleared by the next look at everything.
        drop(self.folder.root.spot(&mark.path).and_then(|spot| spot.remove_file()));
        Some(mark.question)
    }

    /// `marked` is what was in doubt before all hints up to now were read.
    fn look_at_pending(&mut self, marked: &Doubts) {
        let mut scope = std::mem::take(&mut self.pending);
        if scope
            .paths
            .iter()
            .chain(&scope.again)
            .any(|path| path.file_name() == Some(crate::ignore::FILE_NAME.as_ref()))
        {
            // Other names are shared from now on, wherever they are.
            scope = Scope::everything();
        }
        (self.first_hint, self.last_hint) = (None, None);
        if !scope.is_empty() {
            let Doubts { missing, passed, .. } = marked;
            let finally = self.doubtful >= DOUBTFUL_MAX;
            self.look(&scope, false, Removals::Of { missing, passed: *passed, finally });
        }
    }

    /// Lists what hints named, once it is listened to. As long as that is not known it is listed now and then.
    fn list_again(&mut self) {
        self.listings_due = None;
        let trees = std::mem::take(&mut self.listings);
        let Some(hints) = &self.hints else { return self.list(trees) };
        match &mut self.settling {
            Some(settling) => {
                let waiting = settling.trees.clone();
                self.listings = trees;
                let begin = Instant::now();
                self.list(waiting);
                // Most of the time is for other things, however much there is to list.
                self.listings_due = Some(self.now() + LIST_AGAIN.max(begin.elapsed() * 4));
            }
            None if trees.is_empty() => {}
            None => {
                self.settlings += 1;
                hints.settle(self.settlings);
                self.settling = Some(Settling { number: self.settlings, trees });
                self.listings_due = Some(self.now() + LIST_AGAIN);
            }
        }
    }

    fn list(&mut self, trees: BTreeSet<PathBuf>) {
        if !trees.is_empty() {
            self.look(&Scope::of_trees(bounded(trees)), false, Removals::None);
        }
    }

    fn step(&mut self) {
        let now = self.now();
        if self.listings_due.is_some_and(|due| now >= due) {
            self.list_again();
        }
        if self.mark.as_ref().is_some_and(|mark| now >= mark.since + MARK_PATIENCE) {
            self.take_mark();
            self.answer_by_scan();
        }
        self.answer();
        if now >= self.next_mounts {
            self.check_mounts();
        }
        if now >= self.next_scan {
            self.scan_everything(false);
        }
        if self.hints_due().is_some_and(|due| now >= due) {
            self.look_at_pending(&Doubts::default());
        }
        if self.rest_due().is_some_and(|due| now >= due) {
            let scope = Scope::of_known(self.folder.restless.keys().cloned().collect());
            self.look(&scope, false, Removals::None);
        }
        self.work();
        // What is missing in what was looked at just now is marked at once.
        self.answer();
    }

    fn scan_everything(&mut self, verify: bool) {
        self.look_at_everything(verify, Removals::None);
    }

    fn look_at_everything(&mut self, verify: bool, removals: Removals<'_>) {
        (self.first_hint, self.last_hint) = (None, None);
        self.pending = Scope::default();
        let begin = Instant::now();
        self.look(&Scope::everything(), verify, removals);
        tracing::debug!("a look at everything took {:?}", begin.elapsed());
        self.next_scan = self.now() + self.habits.scan_interval;
    }

    fn look(&mut self, scope: &Scope, verify: bool, removals: Removals<'_>) {
        let removals = if self.hints.is_none() { Removals::All } else { removals };
        let now = self.now();
        // What never rests is taken as it is: it is noticed if it is written while it is read.
        let rested: BTreeSet<PathBuf> = self
            .folder
            .restless
            .iter()
            .filter(|(_, since)| now.duration_since(**since) >= QUIET_MAX)
            .map(|(path, _)| path.clone())
            .collect();
        let rules = Rules { rested_before: rested_before(), all: verify, clears: true, owners: false };
        self.folder.reports.retain(|path, _| !is_in(scope, path));
        let seen = self.folder.scan(scope, rules, &rested);
        self.folder.restless.retain(|path, _| !is_in(scope, path) || seen.restless.contains(path));
        // What is found in those that are listed has been listed with them.
        let new = seen.dirs.iter().filter(|dir| scope.paths.contains(*dir) || !is_in(scope, dir));
        let before = self.listings.len();
        self.listings.extend(new.cloned());
        if self.listings.len() > before {
            self.listings_due.get_or_insert(now + LIST_AGAIN);
        }
        for path in &seen.restless {
            self.folder.restless.entry(path.clone()).or_insert(now);
        }
        if let Err(error) = self.folder.take_seen(seen, removals, &mut self.doubts) {
            tracing::error!("what was seen cannot be kept: {error}");
            self.retry_store();
        }
        if std::mem::take(&mut self.doubts.is_unproved) {
            self.next_scan = now;
        }
        let found = std::mem::take(&mut self.doubts.found);
        self.doubts.refute(&found);
        self.marked.refute(&found);
        for path in std::mem::take(&mut self.doubts.unsettled) {
            self.folder.restless.entry(path).or_insert(now);
        }
        if self.doubts.scope.again.len() > PATHS_MAX {
            self.doubts.scope = Scope::everything();
        }
    }

    fn retry_store(&mut self) {
        self.next_scan = self.next_scan.min(self.now() + STORE_RETRY);
    }

    fn work(&mut self) {
        for _ in 0..8 {
            if let Err(error) = self.folder.work() {
                tracing::error!("what was done cannot be kept: {error}");
                self.retry_store();
                return;
            }
            self.fetchers.take(self.folder.take_jobs());
            let again = std::mem::take(&mut self.folder.look_again);
            if again.is_empty() {
                return;
            }
            self.look(&again, false, Removals::None);
        }
    }

    /// Whether the folder is proved to be what it was. As long as it is not, nothing follows from what lies there, nothing is
    /// put there, and questions are answered with that.
    fn is_proved(&mut self) -> bool {
        let was_paused = self.standing.paused.is_some();
        let interval = if was_paused { PAUSED_INTERVAL } else { ROOT_INTERVAL };
        if !was_paused || self.now() >= self.next_root {
            self.standing.check(&self.folder.root);
            self.next_root = self.now() + interval;
        }
        match &self.standing.paused {
            None if was_paused => self.go_on(),
            None => {}
            Some(why) => {
                if !was_paused {
                    tracing::error!("{why}");
                    self.pause();
                }
                self.seen = self.asked;
                return false;
            }
        }
        true
    }

    /// The system does not tell of disks that come and go.
    fn check_mounts(&mut self) {
        self.next_mounts = self.now() + ROOT_INTERVAL;
        let (lost, known) = self.folder.missing_mounts();
        let again: BTreeSet<PathBuf> = lost.union(&known).cloned().collect();
        if again.is_empty() {
            return;
        }
        self.look(&Scope::of_known(again), false, Removals::None);
        let missing: BTreeSet<&Path> = self.folder.unavailable().collect();
        if known.iter().all(|path| missing.contains(path.as_path())) {
            return;
        }
        // What is on it is not listened to, and was not looked at since.
        self.folder.retry_all();
        match &self.hints {
            Some(hints) => hints.renew(),
            None => self.next_scan = self.now(),
        }
    }

    /// What was to be looked at is nowhere; it is all looked at again later.
    fn pause(&mut self) {
        self.take_mark();
        self.hints = None;
        self.pending = Scope::default();
        (self.first_hint, self.last_hint, self.half_answered) = (None, None, None);
        (self.doubts, self.marked, self.doubtful) = (Doubts::default(), Doubts::default(), 0);
        self.listings.clear();
        (self.listings_due, self.settling) = (None, None);
        self.folder.restless.clear();
        self.next_root = self.now() + PAUSED_INTERVAL;
    }

    fn go_on(&mut self) {
        tracing::info!("{} is what it was again", self.folder.root.path().display());
        self.listen();
        self.scan_everything(false);
        self.folder.compare_all();
    }

    /// The user says that what is at a path is right, whatever was known of it. Nothing of what is missing there counts as
    /// removed: it is compared with what the tree has, as in a folder that joins.
    fn accept(&mut self, path: &Path) -> Result<(), String> {
        if path.as_os_str().is_empty() {
            let root_file = self.standing.accept(&self.folder).inspect_err(|_| self.pause())?;
            self.folder.forget(ROOT_ITEM);
            self.pause();
            self.go_on();
            let row = folder_row(self.standing.id(), root_file);
            return self.folder.host.keep(vec![row]).map_err(|error| format!("the state cannot be written: {error}"));
        }
        if let Some(why) = &self.standing.paused {
            return Err(why.clone());
        }
        let known = self.folder.item_at(path);
        let item = known.ok_or_else(|| "nothing is known of it, so there is nothing to be accepted".to_owned())?;
        self.folder.forget(item);
        self.folder.reports.retain(|reported, _| !reported.starts_with(path));
        self.look(&Scope::of_known(BTreeSet::from([path.to_path_buf()])), false, Removals::None);
        Ok(())
    }

    fn show(&self) {
        let mut shared = self.shared.lock();
        shared.backlog = self.folder.backlog();
        shared.is_looking = !self.folder.restless.is_empty()
            || !self.pending.is_empty()
            || !self.folder.look_again.is_empty()
            || !self.listings.is_empty()
            || self.settling.is_some()
            || !self.doubts.missing.is_empty()
            || !self.marked.missing.is_empty();
        shared.seen = self.seen;
        shared.reports = reports(&self.folder);
        shared.paused.clone_from(&self.standing.paused);
        if shared.paused.is_some() {
            shared.is_looking = false;
            shared.backlog.failed = shared.backlog.nodes;
        }
    }
}

fn reports<H: Host>(folder: &Folder<H>) -> Vec<Problem> {
    let problem = |kind, path: PathBuf, reason| Problem { kind, path: path.to_string_lossy().into_owned(), reason };
    let looked = folder.reports.iter().map(|(path, report)| match report {
        Report::Unknown(reason) => {
            problem(ProblemKind::Unsent, path.clone(), format!("it cannot be read: {reason}; it is tried again"))
        }
        Report::Unavailable(reason) => problem(ProblemKind::Unsent, path.clone(), reason.clone()),
        Report::Aside(reason) => problem(ProblemKind::Note, path.clone(), reason.clone()),
        Report::Unapplied(reason) => problem(ProblemKind::Unapplied, path.clone(), reason.clone()),
    });
    let waits = folder.reasons().into_iter();
    looked.chain(waits.map(|(path, reason)| problem(ProblemKind::Unapplied, path, reason))).collect()
}

fn is_in(scope: &Scope, path: &Path) -> bool {
    scope.paths.contains(path) || scope.again.contains(path) || scope.trees.iter().any(|tree| path.starts_with(tree))
}

/// Directories to be listed, or all.
fn bounded(trees: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    if trees.len() > LIST_MAX { BTreeSet::from([PathBuf::new()]) } else { trees }
}

fn rested_before() -> i64 {
    let now = crate::status::now().0;
    now - i64::try_from(QUIET.as_nanos()).unwrap_or(0)
}
