//! A watched folder that is stepped by hand: all that a program runs but its thread, with a clock that is moved on.
//!
//! For histories with many moments at which something can happen: nothing is done between two steps, and no time is lost with
//! waiting. Hints come from the system, and the client talks to its server, as ever.

use super::inbox::Inbox;
use super::runner::{Habits, Runner, State};
use super::start::{Options, Taken, take};
use crate::driver::{Client, Pump};
use crate::join::{await_first_state, problems_of};
use crate::ready::Ready;
use crate::status::{Problem, ProblemKind};
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use syncmount_engine::Engine;
use tokio::runtime::Handle;

/// A folder and its client.
pub struct Stepped {
    client: Arc<Client>,
    pump: Pump,
    runner: Runner,
    inbox: Arc<Inbox>,
    shared: Arc<Mutex<State>>,
    runtime: Handle,
    asked: u64,
}

impl Stepped {
    /// Takes the directory `at` as the folder of the client, as a program does at its start, and looks at it once. `runtime` is
    /// the client's.
    ///
    /// # Errors
    /// The directory is not the folder that it was, or the server does not tell what is in it.
    pub fn start(client: Arc<Client>, at: &Path, runtime: Handle) -> anyhow::Result<Self> {
        let Taken { folder, marker, inbox, shared } = take(&client, at, Options::default())?;
        let first = !client.look(Engine::has_joined);
        let pump = Pump::start(&client);
        if first {
            await_first_state(&client, &Ready::foreground(Box::new(|| ())))?;
        }
        let habits = Habits { scan_interval: Options::default().scan_interval, verify: client.was_cut() };
        let mut runner = Runner::new((folder, marker), inbox.clone(), shared.clone(), habits, &client)?;
        runner.begin();
        Ok(Self { client, pump, runner, inbox, shared, runtime, asked: 0 })
    }

    /// Time passes; then what has come is taken, and what is due is done.
    pub fn step(&mut self, passes: Duration) {
        self.runner.pass(passes);
        let mail = self.inbox.wait(Instant::now());
        self.runner.turn(mail);
    }

    /// Asks for a look at all that has happened up to now, as `syncmount wait` does.
    pub fn ask(&mut self) {
        self.asked += 1;
        self.inbox.ask(self.asked);
        self.client.hurry();
    }

    /// Why nothing is done in the folder.
    pub fn paused(&self) -> Option<String> {
        self.shared.lock().paused.clone()
    }

    /// All that was asked for is seen, sent and carried out, but for what waits because something is wrong with it.
    pub fn is_at_rest(&self) -> bool {
        let state = self.shared.lock().clone();
        let pending = self.client.pending();
        let is_current =
            self.client.link.is_online() && !self.client.look(|engine| engine.has_news() || engine.wants_page_now());
        state.paused.is_none()
            && !state.is_looking
            && state.seen >= self.asked
            && state.backlog.nodes == state.backlog.failed
            && pending.nodes <= pending.held + self.client.problems().len() as u64
            && is_current
    }

    /// What it is at, for a message about a history that does not come to rest.
    pub fn told(&self) -> String {
        let (pending, linked) = (self.client.pending(), self.client.link.is_online());
        let problems = problems_of(&self.client);
        format!("{:?}, asked {}, online {linked}, {pending:?}, {problems:?}", *self.shared.lock(), self.asked)
    }

    /// What needs a person's eye.
    pub fn problems(&self) -> Vec<Problem> {
        let state = self.shared.lock().clone();
        let paused = state.paused.map(|reason| Problem { kind: ProblemKind::Unsent, path: String::new(), reason });
        paused.into_iter().chain(problems_of(&self.client)).chain(state.reports).collect()
    }

    /// Ends as a program does that is told to stop. What is not sent goes with the next start.
    ///
    /// # Errors
    /// What is known cannot be written.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.runner.end();
        self.leave()
    }

    /// Ends without a word about the folder.
    ///
    /// # Errors
    /// What is known of the tree cannot be written.
    pub fn abandon(self) -> anyhow::Result<()> {
        self.leave()
    }

    fn leave(self) -> anyhow::Result<()> {
        let Self { client, pump, runner, inbox, runtime, .. } = self;
        inbox.stop();
        drop(runner);
        runtime.block_on(pump.stop());
        client.close()?;
        Ok(())
    }
}
