//! What a mount says to whoever has started it: that it needs time, that it is live, or why it is not.

use parking_lot::Mutex;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::Arc;

/// What is done once, at the moment when the mount is live.
pub type OnLive = Box<dyn FnOnce() + Send>;

/// The mount's word to whoever started it. Clones speak for the same mount; the first `live` or `failed` counts.
#[derive(Clone)]
pub struct Ready(Arc<Mutex<Word>>);

/// What is still to be said.
struct Word {
    /// The pipe to the one who waits; none in the foreground.
    pipe: Option<File>,
    on_live: Option<OnLive>,
    said: bool,
}

impl Ready {
    /// For a mount that stays in the foreground: nobody waits.
    pub fn foreground(on_live: OnLive) -> Self {
        Self::new(None, on_live)
    }

    /// For one that somebody waits for at the other end of `pipe`.
    pub fn over(pipe: File, on_live: OnLive) -> Self {
        Self::new(Some(pipe), on_live)
    }

    fn new(pipe: Option<File>, on_live: OnLive) -> Self {
        Self(Arc::new(Mutex::new(Word { pipe, on_live: Some(on_live), said: false })))
    }

    /// The start takes longer, for this reason. Say it at least every 30 s, or the starter gives up.
    pub fn wait(&self, why: &str) {
        let mut word = self.0.lock();
        if let Some(pipe) = &mut word.pipe {
            // That nobody listens any more is found and reported by `live`.
            let _ = pipe.write_all(format!("wait {}\n", one_line(why)).as_bytes());
        }
    }

    /// The mount is live. An error means that the one who started it has given up: take the mount down and end.
    pub fn live(&self) -> io::Result<()> {
        let mut word = self.0.lock();
        if word.said {
            return Ok(());
        }
        word.said = true;
        if let Some(mut pipe) = word.pipe.take() {
            pipe.write_all(b"live\n")?;
        }
        if let Some(on_live) = word.on_live.take() {
            on_live();
        }
        Ok(())
    }

    /// The mount has failed and the process ends. Answers whether somebody was told; if not, it is for the log.
    pub fn failed(&self, code: u8, sentence: &str) -> bool {
        let mut word = self.0.lock();
        if std::mem::replace(&mut word.said, true) {
            return false;
        }
        let line = format!("error {code} {}\n", one_line(sentence));
        word.pipe.take().is_some_and(|mut pipe| pipe.write_all(line.as_bytes()).is_ok())
    }
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready").field("said", &self.0.lock().said).finish_non_exhaustive()
    }
}

pub(crate) fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}
