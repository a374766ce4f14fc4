//! Putting contents together, beside the folder's own thread: a few at a time, each in a file that only this process's user may reach.

use super::folder::Job;
use super::inbox::Inbox;
use super::part::Part;
use crate::driver::{Client, ReadError};
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Files that are put together at the same time.
const WORKERS: usize = 6;

/// How often a thread that waits for the server looks whether it is to end.
const AWAY_STEP: Duration = Duration::from_millis(200);

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    is_over: bool,
}

/// The threads that put files together. Dropping it ends them once they have finished what they are at.
pub(crate) struct Fetchers {
    queue: Arc<(Mutex<Queue>, Condvar)>,
    threads: Vec<JoinHandle<()>>,
}

impl Fetchers {
    pub(crate) fn start(client: &Arc<Client>, inbox: &Arc<Inbox>) -> std::io::Result<Self> {
        let queue: Arc<(Mutex<Queue>, Condvar)> = Arc::default();
        let threads = (0..WORKERS).map(|_| {
            let (client, inbox, queue) = (client.clone(), inbox.clone(), queue.clone());
            let name = std::thread::Builder::new().name("fetch".into());
            name.spawn(move || {
                while let Some(job) = next(&queue) {
                    // It is neither tried in vain nor late when the server is there again.
                    while !client.await_server(AWAY_STEP) {
                        if queue.0.lock().is_over {
                            return;
                        }
                    }
                    let result = put_together(&client, &job);
                    inbox.finished(job, result);
                }
            })
        });
        Ok(Self { threads: threads.collect::<Result<_, _>>()?, queue: queue.clone() })
    }

    pub(crate) fn take(&self, jobs: Vec<Job>) {
        if !jobs.is_empty() {
            self.queue.0.lock().jobs.extend(jobs);
            self.queue.1.notify_all();
        }
    }
}

impl Drop for Fetchers {
    fn drop(&mut self) {
        let mut queue = self.queue.0.lock();
        queue.is_over = true;
        queue.jobs.clear();
        drop(queue);
        self.queue.1.notify_all();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that puts files together panicked");
            }
        }
    }
}

fn next(queue: &(Mutex<Queue>, Condvar)) -> Option<Job> {
    let mut waiting = queue.0.lock();
    loop {
        if let Some(job) = waiting.jobs.pop_front() {
            return Some(job);
        }
        if waiting.is_over {
            return None;
        }
        queue.1.wait(&mut waiting);
    }
}

fn put_together(client: &Arc<Client>, job: &Job) -> Result<Part, String> {
    let file = Part::begin(job).map_err(|error| error.to_string())?;
    let old = job.old.as_ref().and_then(|old| old.open().ok());
    let known = job.old.as_ref().and_then(|old| old.known);
    let filled = client.write_content(job.node, &job.content, &file, old, known);
    let done = filled.and_then(|()| Part::finish(job, &file).map_err(ReadError::Io));
    drop(file);
    done.map_err(|error| {
        Part::clear(job);
        match error {
            ReadError::Unreachable => "its bytes are on their way; the server cannot be reached now".into(),
            error => error.to_string(),
        }
    })
}
