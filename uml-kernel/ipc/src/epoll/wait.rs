//! Waiting (epoll_wait(2)).

use std::sync::Arc;
use std::time::Instant;

use uml_abi::Result;
use uml_base::Events;
use uml_core::task::{Task, WaitKind};

use super::item::Item;
use super::{EPOLLET, EPOLLONESHOT, Epoll, EpollEvent};

/// Events looked at in one go; more are found by the next round.
const BATCH: usize = 256;

impl Epoll {
    /// Waits until at least one event is there and hands up to `max` of them to `emit`, in
    /// portions. 0 when `deadline` passed, `EINTR` on a signal. When `emit` fails, the events of its portion
    /// stay.
    pub fn wait(
        &self,
        task: &Task,
        max: usize,
        deadline: Option<Instant>,
        mut emit: impl FnMut(&[EpollEvent]) -> Result<()>,
    ) -> Result<usize> {
        let mut collect = || match self.collect(task, max, &mut emit) {
            Ok(0) => None,
            other => Some(other),
        };
        if let Some(r) = collect() {
            return r;
        }
        if deadline.is_some_and(|d| uml_base::clock::now() >= d) {
            return Ok(0);
        }
        let kind = WaitKind::Interruptible;
        let mask = Events::READABLE;
        let r = task.wait_exclusive(&self.queue, mask, kind, deadline, "ep_poll", collect)?;
        r.unwrap_or(Ok(0))
    }

    /// Takes what is ready now.
    fn collect(
        &self,
        task: &Task,
        max: usize,
        emit: &mut impl FnMut(&[EpollEvent]) -> Result<()>,
    ) -> Result<usize> {
        // Level-triggered items go back to the end of the list: look at each one once.
        let mut left = self.ready.lock().len();
        let mut total = 0;
        let mut keep: Vec<Arc<Item>> = Vec::new();
        let mut result = Ok(());
        while total < max && left > 0 && result.is_ok() {
            let mut events = Vec::new();
            let mut items = Vec::new();
            let portion = (max - total).min(BATCH);
            while events.len() < portion && left > 0 {
                let Some(item) = self.ready.lock().pop_front() else {
                    left = 0;
                    break;
                };
                left -= 1;
                // Off the list before the check: a change after it lists the item again.
                item.leave_ready();
                if !item.is_live() {
                    continue;
                }
                let Some(file) = item.file.upgrade() else { continue };
                let ready = item.readiness(Some(task), &file);
                if ready.is_empty() {
                    continue;
                }
                events.push(EpollEvent { events: ready.0, data: item.data() });
                items.push(item);
            }
            if events.is_empty() {
                break;
            }
            result = emit(&events);
            for item in items {
                let mask = item.mask();
                if result.is_err() {
                    keep.push(item);
                } else if mask & EPOLLONESHOT != 0 {
                    item.disable();
                } else if mask & EPOLLET == 0 {
                    keep.push(item);
                }
            }
            if result.is_ok() {
                total += events.len();
            }
        }
        let more = {
            let mut ready = self.ready.lock();
            for item in keep {
                if item.enter_ready() {
                    ready.push_back(item);
                }
            }
            !ready.is_empty()
        };
        if more {
            // Others may have found the list empty meanwhile.
            self.queue.wake_one(Events::READABLE);
        }
        match result {
            Err(e) if total == 0 => Err(e),
            _ => Ok(total),
        }
    }

    /// Whether a wait would return at once; drops listed items that are not ready any more.
    pub(super) fn has_ready(&self) -> bool {
        let mut left = self.ready.lock().len();
        while left > 0 {
            let Some(item) = self.ready.lock().pop_front() else { return false };
            left -= 1;
            item.leave_ready();
            let ready = item.file.upgrade().is_some_and(|f| !item.readiness(None, &f).is_empty());
            if ready {
                if item.enter_ready() {
                    self.ready.lock().push_front(item);
                }
                return true;
            }
        }
        false
    }
}
