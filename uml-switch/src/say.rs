//! Messages of the running switch. They are written by a thread of their own, so that a reader of standard output
//! that stops reading never stops the switch; what does not fit in the queue is counted and told later.

use std::io::Write;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

const QUEUE: usize = 1024;

enum Line {
    Out(String),
    Err(String),
}

/// Where messages go.
pub struct Say {
    queue: Option<SyncSender<Line>>,
    writer: Option<JoinHandle<()>>,
    lost: u64,
}

fn write(line: Line) {
    // Nothing can be done about a closed standard output.
    let _ = match line {
        Line::Out(text) => writeln!(std::io::stdout(), "{text}"),
        Line::Err(text) => writeln!(std::io::stderr(), "{text}"),
    };
}

impl Say {
    /// Starts the writer.
    pub fn start() -> std::io::Result<Say> {
        let (queue, lines) = sync_channel(QUEUE);
        let writer = std::thread::Builder::new()
            .name("messages".into())
            .spawn(move || lines.into_iter().for_each(write))?;
        Ok(Say { queue: Some(queue), writer: Some(writer), lost: 0 })
    }

    fn push(&mut self, line: Line) {
        let Some(queue) = &self.queue else { return };
        if self.lost > 0
            && queue.try_send(Line::Err(format!("({} messages lost)", self.lost))).is_ok()
        {
            self.lost = 0;
        }
        if let Err(TrySendError::Full(_)) = queue.try_send(line) {
            self.lost += 1;
        }
    }

    /// A line on standard output.
    pub fn out(&mut self, text: impl Into<String>) {
        self.push(Line::Out(text.into()));
    }

    /// A line on standard error.
    pub fn err(&mut self, text: impl Into<String>) {
        self.push(Line::Err(text.into()));
    }

    /// Writes out what is queued and ends the writer.
    pub fn finish(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A panic of the writer has been reported by its own thread.
            let _ = writer.join();
        }
    }
}
