//! Hints from the system that something happened in the folder. They may be late, doubled or lost: they say where to look,
//! never what is there. The only place that knows `notify`.

use super::inbox::Inbox;
use super::platform;
use notify::{Config, ErrorKind, Event, EventKindMask, RecommendedWatcher, RecursiveMode, Watcher as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// Hints come as long as this lives.
pub(crate) struct Hints {
    requests: mpsc::Sender<Request>,
    renewal: Renewal,
}

/// Asks for [`Request::Renew`], once until that is begun: a system that loses hints loses many.
#[derive(Clone)]
struct Renewal {
    requests: mpsc::Sender<Request>,
    is_asked: Arc<AtomicBool>,
}

impl Renewal {
    fn ask(&self) {
        if !self.is_asked.swap(true, Ordering::SeqCst) {
            // Without the thread there are no hints any more.
            drop(self.requests.send(Request::Renew));
        }
    }

    fn begin(&self) {
        self.is_asked.store(false, Ordering::SeqCst);
    }
}

enum Request {
    /// Say this number once everything is listened to of which a hint has come up to now.
    Settle(u64),
    /// Hints were lost, and with them that of new directories, perhaps: listen to all of them, and say so.
    Renew,
    End,
}

impl Hints {
    /// Begins to listen, before anything is looked at. An error is a sentence about what is done without hints.
    pub(crate) fn start(root: &Path, inbox: &Arc<Inbox>) -> Result<Self, String> {
        let (requests, requested) = mpsc::channel();
        let renewal = Renewal { requests: requests.clone(), is_asked: Arc::default() };
        let handler = {
            let (root, inbox, renewal) = (root.to_path_buf(), inbox.clone(), renewal.clone());
            move |event: notify::Result<Event>| take(&root, &inbox, &renewal, event)
        };
        let kinds = EventKindMask::CORE | EventKindMask::ACCESS_CLOSE;
        let config = Config::default().with_follow_symlinks(false).with_event_kinds(kinds);
        let mut watcher = RecommendedWatcher::new(handler, config).map_err(|error| sentence(&error))?;
        watcher.watch(root, RecursiveMode::Recursive).map_err(|error| sentence(&error))?;
        let (root, inbox) = (root.to_path_buf(), inbox.clone());
        let again = renewal.clone();
        let serve = move || serve(watcher, &root, &inbox, &requested, &again);
        std::thread::Builder::new().name("hints".into()).spawn(serve).map_err(|error| error.to_string())?;
        Ok(Self { requests, renewal })
    }

    /// Asks for [`Inbox::settled`] with this number: every directory of which a hint has come before is listened to then,
    /// so that what happens in it later has hints of its own.
    pub(crate) fn settle(&self, number: u64) {
        // Without the thread there are no hints either, which is looked after by listing everything now and then.
        drop(self.requests.send(Request::Settle(number)));
    }
}

impl Hints {
    /// Listens to everything once more, and has everything looked at.
    pub(crate) fn renew(&self) {
        self.renewal.ask();
    }
}

impl Drop for Hints {
    fn drop(&mut self) {
        drop(self.requests.send(Request::End));
    }
}

/// Asks the watcher, which may keep its caller waiting. Ends with [`Hints`], and the watcher with it.
fn serve(
    mut watcher: RecommendedWatcher,
    root: &Path,
    inbox: &Inbox,
    requested: &mpsc::Receiver<Request>,
    renewal: &Renewal,
) {
    while let Ok(request) = requested.recv() {
        match request {
            Request::Settle(number) => {
                // The watcher answers between two batches of events, and listens to the new directories of a batch at its
                // end.
                if let Err(error) = watcher.watched_paths() {
                    tracing::debug!(%error, "the watcher does not say what it watches");
                }
                inbox.settled(number);
            }
            Request::Renew => {
                // What is lost from now on is lost again.
                renewal.begin();
                let renewed = watcher.unwatch(root).and_then(|()| watcher.watch(root, RecursiveMode::Recursive));
                if let Err(error) = renewed {
                    inbox.lose_hints(sentence(&error));
                }
                inbox.hint_everything();
            }
            Request::End => return,
        }
    }
}

/// Only puts it into the inbox: whoever dawdles here loses hints.
fn take(root: &Path, inbox: &Inbox, renewal: &Renewal, event: notify::Result<Event>) {
    match event {
        Ok(event) if event.need_rescan() => renewal.ask(),
        Ok(event) => below(root, &event.paths).for_each(|path| inbox.hint(&path)),
        Err(error) => match error.kind {
            ErrorKind::MaxFilesWatch => inbox.lose_hints(sentence(&error)),
            _ => inbox.hint_everything(),
        },
    }
}

/// Some systems tell of paths that are not in the folder.
fn below<'a>(root: &'a Path, paths: &'a [PathBuf]) -> impl Iterator<Item = PathBuf> + 'a {
    let inner = paths.iter().filter_map(move |path| path.strip_prefix(root).ok());
    inner.filter(|path| !path.as_os_str().is_empty()).map(Path::to_path_buf)
}

fn sentence(error: &notify::Error) -> String {
    let why = match &error.kind {
        ErrorKind::MaxFilesWatch => {
            return format!(
                "the system's limit of watched directories is reached, so the folder is scanned every minute instead; {}",
                platform::WATCH_LIMIT
            );
        }
        ErrorKind::Io(error) => error.to_string(),
        ErrorKind::Generic(text) => text.clone(),
        other => format!("{other:?}"),
    };
    format!("the system tells of no changes here ({why}), so the folder is scanned every minute instead")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_lie_in_the_folder_is_no_hint() {
        let paths = ["/root/a/b", "/root", "a:b", "/other/x"].map(PathBuf::from);
        let found: Vec<_> = below(Path::new("/root"), &paths).collect();
        assert_eq!(found, [PathBuf::from("a/b")]);
    }

    #[test]
    fn lost_hints_are_asked_for_once_until_that_is_begun() {
        let (requests, requested) = mpsc::channel();
        let renewal = Renewal { requests, is_asked: Arc::default() };
        let lost = || Ok(Event::new(notify::EventKind::Other).set_flag(notify::event::Flag::Rescan));
        let count = || requested.try_iter().filter(|request| matches!(request, Request::Renew)).count();
        let inbox = Inbox::default();
        (0..1000).for_each(|_| take(Path::new("/root"), &inbox, &renewal, lost()));
        assert_eq!(count(), 1);
        renewal.begin();
        take(Path::new("/root"), &inbox, &renewal, lost());
        assert_eq!(count(), 1);
    }

    #[test]
    fn a_limit_is_said_with_its_remedy() {
        let said = sentence(&notify::Error::new(ErrorKind::MaxFilesWatch));
        assert!(said.contains("scanned") && (!cfg!(target_os = "linux") || said.contains("sysctl")), "{said}");
    }
}
