//! Progress on stderr: a bar, lines for a log, JSON lines, or nothing.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressMode {
    /// A bar on a terminal, nothing otherwise.
    Auto,
    Plain,
    Json,
    None,
}

impl ProgressMode {
    /// The mode for a word on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "auto" => Self::Auto,
            "plain" => Self::Plain,
            "json" => Self::Json,
            "none" => Self::None,
            _ => return None,
        })
    }
}

enum Display {
    Bar(ProgressBar),
    Plain,
    Json,
    None,
}

/// Progress of one pass over the data; all amounts in bytes.
pub struct Progress {
    display: Display,
    step: &'static str,
    total: u64,
    done: u64,
    start: Instant,
    shown: Instant,
}

const INTERVAL: Duration = Duration::from_millis(500);

impl Progress {
    /// Starts a step named `step` over `total` bytes.
    pub fn new(mode: ProgressMode, step: &'static str, total: u64) -> Self {
        let display = match mode {
            ProgressMode::Auto if io::stderr().is_terminal() => Display::Bar(bar(step, total)),
            ProgressMode::Auto | ProgressMode::None => Display::None,
            ProgressMode::Plain => Display::Plain,
            ProgressMode::Json => Display::Json,
        };
        let now = Instant::now();
        Self { display, step, total, done: 0, start: now, shown: now }
    }

    /// Accounts for `bytes` more.
    pub fn advance(&mut self, bytes: u64) {
        self.done = self.done.saturating_add(bytes).min(self.total);
        match &self.display {
            Display::None => {}
            Display::Bar(bar) => bar.set_position(self.done),
            _ if self.shown.elapsed() < INTERVAL => {}
            _ => {
                self.shown = Instant::now();
                self.line(false);
            }
        }
    }

    /// Bytes per second so far.
    fn rate(&self) -> f64 {
        self.done as f64 / self.start.elapsed().as_secs_f64().max(1e-3)
    }

    fn line(&self, finished: bool) {
        let rate = self.rate();
        let eta = (self.total - self.done) as f64 / rate.max(1.0);
        let mut stderr = io::stderr().lock();
        // A closed stderr must not stop a merge.
        let _ = match self.display {
            Display::Json => {
                let line = serde_json::json!({
                    "event": if finished { "finished" } else { "progress" },
                    "step": self.step,
                    "done_bytes": self.done,
                    "total_bytes": self.total,
                    "bytes_per_second": rate as u64,
                    "eta_seconds": eta.ceil() as u64,
                    "elapsed_ms": self.start.elapsed().as_millis() as u64,
                });
                writeln!(stderr, "{line}")
            }
            Display::Plain => {
                let share = (self.done * 100).checked_div(self.total).unwrap_or(100);
                writeln!(
                    stderr,
                    "{}: {share}% ({} of {}), {}/s, {:.0} s left",
                    self.step,
                    HumanBytes(self.done),
                    HumanBytes(self.total),
                    HumanBytes(rate as u64),
                    eta.ceil()
                )
            }
            Display::Bar(_) | Display::None => Ok(()),
        };
    }

    /// Ends the step successfully.
    pub fn finish(mut self) {
        self.done = self.total;
        match &self.display {
            Display::Bar(bar) => bar.finish_and_clear(),
            _ => self.line(true),
        }
    }
}

fn bar(step: &'static str, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.with_message(step)
}
