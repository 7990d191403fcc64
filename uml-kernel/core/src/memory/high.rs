//! `memory.high`: processes of a group that has more than that, and take still more, are slowed down
//! (Documentation/admin-guide/cgroup-v2.rst, "memory.high").
//!
//! There is no swap, and the page cache is not the group's: nothing can be taken back. So a process that a sample finds
//! grown rests at the edge of guest code, the longer the more it grew and the further its group is beyond the bound. Nobody is
//! killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use uml_base::{Events, Mutex, Rank, WaitQueue, clock, pressure};

use crate::kernel::Kernel;
use crate::task::{Task, WaitKind};

/// The longest rest for one growth, and that for each [`STEP`] of a group at twice its bound or beyond.
const LONGEST: Duration = Duration::from_secs(2);
/// What a sample finds depends on when it looks, so rests go by how much that is.
const STEP: u64 = 1 << 20;
/// The shortest.
const SHORTEST: Duration = Duration::from_millis(10);

/// A process's part in this.
pub struct ProcessMemory {
    /// Anonymous memory at the last sample; `u64::MAX` before the first.
    seen: AtomicU64,
    /// It rests until then.
    rest: Mutex<Option<Instant>>,
}

impl Default for ProcessMemory {
    fn default() -> Self {
        ProcessMemory { seen: AtomicU64::new(u64::MAX), rest: Mutex::new(Rank::LEAF, None) }
    }
}

impl ProcessMemory {
    /// A sample found `bytes`: how many more than the one before.
    pub(super) fn growth_to(&self, bytes: u64) -> u64 {
        bytes.saturating_sub(self.seen.swap(bytes, Ordering::Relaxed))
    }

    fn until(&self) -> Option<Instant> {
        let mut rest = self.rest.lock();
        if rest.is_some_and(|at| at <= clock::now()) {
            *rest = None;
        }
        *rest
    }
}

/// How long a process that grew by `more` bytes rests while its group uses `used` bytes of `high`.
fn penalty(used: u64, high: u64, more: u64) -> Duration {
    let over = used.saturating_sub(high) as f64 / high.max(1) as f64;
    let rest = LONGEST.mul_f64(over.min(1.0)).mul_f64(more as f64 / STEP as f64);
    rest.clamp(SHORTEST, LONGEST)
}

/// Has `tasks`, one of each process that grew and by how many bytes, rest. True when there was one.
pub(super) fn slow_down<'a>(
    kernel: &Kernel,
    tasks: impl Iterator<Item = (&'a Arc<Task>, u64)>,
    used: u64,
    high: u64,
) -> bool {
    let now = clock::now();
    let mut any = false;
    for (task, more) in tasks {
        any = true;
        *task.process.memory.rest.lock() = Some(now + penalty(used, high, more));
        task.process.cpu.check.store(true, Ordering::SeqCst);
        for thread in crate::signal::threads_of(kernel, &task.process) {
            thread.kick_out();
        }
    }
    any
}

/// Sleeps until the rest of the task's process is over. A task that is killed leaves at once.
pub(crate) fn rest(task: &Task) {
    let Some(until) = task.process.memory.until() else { return };
    let (queue, reason) = (WaitQueue::shared(), "mem_cgroup_handle_over_high");
    let never = || None::<()>;
    let _stall = pressure::memory();
    let _ = task.wait(&queue, Events::ALL, WaitKind::Killable, Some(until), reason, never);
}

/// The task's process has to rest.
pub(crate) fn is_resting(task: &Task) -> bool {
    task.process.memory.until().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rest_grows_with_what_is_too_much() {
        let mib = 1 << 20;
        assert_eq!(penalty(100 * mib + 1, 100 * mib, mib), SHORTEST);
        assert_eq!(penalty(110 * mib, 100 * mib, mib), Duration::from_millis(200));
        assert_eq!(penalty(110 * mib, 100 * mib, mib / 4), Duration::from_millis(50));
        assert_eq!(penalty(900 * mib, 100 * mib, mib), LONGEST);
        assert_eq!(penalty(900 * mib, 100 * mib, 50 * mib), LONGEST);
        assert_eq!(penalty(mib, 0, 1), SHORTEST);
    }

    #[test]
    fn growth_is_more_than_the_last_sample() {
        let p = ProcessMemory::default();
        assert_eq!([5, 5, 6, 4, 7].map(|b| p.growth_to(b)), [0, 0, 1, 0, 3]);
    }
}
