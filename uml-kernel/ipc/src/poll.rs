//! Waiting for several files at once (poll(2), select(2)).

use std::sync::Arc;
use std::time::Instant;

use uml_abi::Result;
use uml_base::{Events, PollRegistrar};
use uml_core::file::File;
use uml_core::task::{Task, WaitKind, WaitSet};

/// One file that is waited for.
pub struct PollItem {
    /// `None` when the descriptor is not open: reported as POLLNVAL.
    pub file: Option<Arc<File>>,
    /// What is asked for; errors and hang-ups are always reported.
    pub events: Events,
    /// What is there.
    pub ready: Events,
}

impl PollItem {
    /// Asks `file` for `events`.
    pub fn new(file: Option<Arc<File>>, events: Events) -> PollItem {
        PollItem { file, events, ready: Events::NONE }
    }

    fn wanted(&self) -> Events {
        self.events | Events::ERR | Events::HUP
    }

    fn check(&mut self, task: &Task, reg: Option<&mut dyn PollRegistrar>) -> bool {
        self.ready = match &self.file {
            Some(f) => f.ops.poll_as(task, reg) & self.wanted(),
            None => Events::NVAL,
        };
        !self.ready.is_empty()
    }
}

/// Waits until at least one item is ready and returns how many are; 0 when `deadline` passed, `EINTR` on a
/// signal.
pub fn poll(task: &Task, items: &mut [PollItem], deadline: Option<Instant>) -> Result<usize> {
    let scan = |items: &mut [PollItem]| {
        items.iter_mut().map(|i| i.check(task, None)).filter(|ready| *ready).count()
    };
    let n = scan(items);
    if n > 0 || deadline.is_some_and(|d| uml_base::clock::now() >= d) {
        return Ok(n);
    }
    let mut set = WaitSet::new(task.waker(), Events::NONE);
    for item in items.iter_mut() {
        set.set_mask(item.wanted());
        if item.check(task, Some(&mut set)) {
            break;
        }
    }
    let found = task.sleep(WaitKind::Interruptible, deadline, "do_poll", || {
        let n = scan(items);
        (n > 0).then_some(n)
    })?;
    Ok(found.unwrap_or(0))
}
