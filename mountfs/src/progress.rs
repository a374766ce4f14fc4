//! What a person sees while everything pending is sent or the cache is read: a bar on a terminal, a line where there is none.

use crate::status::{Pin, Status};
use crate::terminal;
use crate::verify_report::VerifyReport;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use syncmount_common::text::shown;

const VERIFY_TEMPLATE: &str = "Reading {wide_bar} {pos}/{len}, {msg}";
const TEMPLATE: &str = "Sending {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} to go, {msg}";
const PIN_TEMPLATE: &str = "Fetching {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} to go{msg}";

/// Shows how a drain goes, on stderr.
#[derive(Debug)]
pub struct DrainProgress {
    bar: Option<ProgressBar>,
    /// The most bytes that were ever pending: the bar's whole.
    bytes_max: u64,
    /// Said once: that it waits for the server.
    offline_said: bool,
}

impl DrainProgress {
    /// A bar if stderr is a terminal.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { bar, bytes_max: 0, offline_said: false }
    }

    /// Shows what is left.
    pub fn update(&mut self, status: &Status) {
        let (done, whole) = self.advance(status);
        if let Some(bar) = &self.bar {
            bar.set_length(whole);
            bar.set_position(done);
            bar.set_message(left(status));
        } else if let Some(line) = self.offline_line(status) {
            terminal::complain(line);
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// What has been sent and what there was to send. More may come while it goes on; the bar never runs backwards out of
    /// its frame.
    fn advance(&mut self, status: &Status) -> (u64, u64) {
        self.bytes_max = self.bytes_max.max(status.pending_bytes);
        (self.bytes_max - status.pending_bytes, self.bytes_max)
    }

    fn offline_line(&mut self, status: &Status) -> Option<String> {
        let first = !status.connected && !self.offline_said;
        self.offline_said |= first;
        first.then(|| format!("waiting for {}: {}; left: {}", status.server, trouble(status), status.pending()))
    }
}

impl Default for DrainProgress {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows how what is pinned arrives, on stderr.
#[derive(Debug)]
pub struct PinProgress {
    bar: Option<ProgressBar>,
    offline_said: bool,
}

impl PinProgress {
    /// A bar if stderr is a terminal.
    pub fn new() -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(PIN_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
        });
        Self { bar, offline_said: false }
    }

    /// Shows how much of a pin is here.
    pub fn update(&mut self, pin: &Pin, status: &Status) {
        let waits = !status.connected;
        if let Some(bar) = &self.bar {
            bar.set_length(pin.bytes);
            bar.set_position(pin.bytes - pin.missing_bytes.min(pin.bytes));
            bar.set_message(if waits {
                format!("; waiting for the server: {}", trouble(status))
            } else {
                String::new()
            });
        } else if waits && !std::mem::replace(&mut self.offline_said, true) {
            terminal::complain(format_args!("waiting for {}: {}", status.server, trouble(status)));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Default for PinProgress {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows how a check of the cache goes, on stderr, if that is a terminal.
#[derive(Debug)]
pub struct VerifyProgress(Option<ProgressBar>);

impl VerifyProgress {
    /// A bar if stderr is a terminal.
    pub fn new() -> Self {
        Self(io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(VERIFY_TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr()).with_style(style)
        }))
    }

    /// Shows how far it is.
    pub fn update(&self, report: &VerifyReport) {
        if let Some(bar) = &self.0 {
            bar.set_length(report.contents);
            bar.set_position(report.done());
            bar.set_message(format!("{}, {} damaged", HumanBytes(report.bytes), report.damaged));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Default for VerifyProgress {
    fn default() -> Self {
        Self::new()
    }
}

fn left(status: &Status) -> String {
    let waiting =
        if status.connected { String::new() } else { format!("; waiting for the server: {}", trouble(status)) };
    format!("left: {}{waiting}", status.pending())
}

fn trouble(status: &Status) -> String {
    status.trouble.as_deref().map_or_else(|| "it does not answer".to_owned(), shown)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::sample;

    fn progress() -> DrainProgress {
        DrainProgress { bar: None, bytes_max: 0, offline_said: false }
    }

    #[test]
    fn the_whole_grows_with_what_comes_in_between() {
        let mut progress = progress();
        let mut advance = |bytes| progress.advance(&Status { pending_bytes: bytes, ..sample() });
        assert_eq!(advance(100), (0, 100));
        assert_eq!(advance(40), (60, 100));
        assert_eq!(advance(120), (0, 120));
        assert_eq!(advance(0), (120, 120));
    }

    #[test]
    fn a_server_that_does_not_answer_is_said_once() {
        let mut progress = progress();
        let offline = Status { connected: false, pending_files: 2, ..sample() };
        assert_eq!(progress.offline_line(&sample()), None);
        assert!(progress.offline_line(&offline).unwrap().contains("2 files"));
        assert_eq!(progress.offline_line(&offline), None);
        assert!(left(&offline).contains("does not answer"));
        let refused = Status { trouble: Some("the token was revoked".into()), ..offline };
        assert!(left(&refused).contains("the token was revoked"));
        assert!(!left(&sample()).contains("does not answer"));
    }
}
