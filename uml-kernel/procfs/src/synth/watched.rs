//! Generated text whose changes poll(2) reports.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_base::{Events, PollRegistrar, WaitQueue};
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source};

use super::TextFile;

/// What counts as having seen a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The poll that reported it (mount tables).
    ByPoll,
    /// Reading the file from the start (kernfs files).
    ByRead,
}

/// An open file of generated text with a queue that is woken, and a number that grows, on changes.
pub struct WatchedText {
    text: TextFile,
    queue: Arc<WaitQueue>,
    generation: Box<dyn Fn() -> u64 + Send + Sync>,
    seen: AtomicU64,
    how: Seen,
}

impl WatchedText {
    /// `text`, as it is at `generation()` now.
    pub fn new(
        text: TextFile,
        queue: Arc<WaitQueue>,
        generation: impl Fn() -> u64 + Send + Sync + 'static,
        how: Seen,
    ) -> WatchedText {
        let seen = AtomicU64::new(generation());
        WatchedText { text, queue, generation: Box::new(generation), seen, how }
    }
}

impl FileOps for WatchedText {
    fn read(&self, io: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        if *off == 0 && self.how == Seen::ByRead {
            self.seen.store((self.generation)(), Ordering::SeqCst);
        }
        self.text.read(io, off, dst)
    }

    fn write(&self, io: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        self.text.write(io, off, src)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.queue);
        }
        let now = (self.generation)();
        let changed = self.seen.load(Ordering::SeqCst) != now;
        if self.how == Seen::ByPoll {
            self.seen.store(now, Ordering::SeqCst);
        }
        Events::READABLE | (Events::ERR | Events::PRI).when(changed)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        self.text.seek(cur, off, whence)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
