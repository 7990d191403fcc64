//! Stopping and resuming the whole machine (the management console's `stop` and `go`).
//!
//! Every task passes the [`Gate`] on its way back to guest code. A stop closes it, kicks the tasks that run
//! guest code, waits for them to arrive, and only then stops the clock, so that no program ever sees
//! time go back. Kernel code, and with it the management console, goes on: calls in progress are
//! finished, and their tasks wait at the gate.
//!
//! The machine resumes as a computer does after a suspend: CLOCK_MONOTONIC, CLOCK_BOOTTIME and relative timers go
//! on from where they stood, CLOCK_REALTIME shows the true time again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uml_base::clock;

use crate::kernel::Kernel;
use crate::task::Task;

/// How long a stop waits for tasks to leave guest code. Only a task whose host thread the host does
/// not run (uninterruptible I/O of a page fault) takes longer than a few microseconds.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where tasks wait while the machine is stopped.
#[derive(Default)]
pub struct Gate {
    closed: AtomicBool,
    lock: Mutex<()>,
    /// Notified when the gate opens and when a task arrives at it.
    changed: Condvar,
}

impl Gate {
    /// True while the machine is stopped.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    /// Waits until the gate is open. The caller's task is out of guest code.
    pub(crate) fn pass(&self) {
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
        while self.is_closed() {
            guard = self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn open(&self) {
        let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.closed.store(false, Ordering::SeqCst);
        self.changed.notify_all();
    }

    /// Waits until `done`, looking again whenever a task arrives.
    fn wait_until(&self, done: impl Fn() -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            drop(guard);
            if done() {
                return;
            }
            guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // An arrival between the look and the wait costs one such step.
            let step = left.min(Duration::from_millis(5));
            guard = match self.changed.wait_timeout(guard, step) {
                Ok((g, _)) => g,
                Err(e) => e.into_inner().0,
            };
        }
    }
}

impl Kernel {
    fn every_task(&self) -> Vec<Arc<Task>> {
        self.tree.read().tasks().cloned().collect()
    }

    /// Halts every guest task and the machine's clocks. False when that is so already.
    pub fn stop_machine(&self) -> bool {
        if self.gate.closed.swap(true, Ordering::SeqCst) {
            return false;
        }
        let tasks = self.every_task();
        for t in &tasks {
            t.kick_out();
        }
        let running = |t: &Arc<Task>| t.in_guest.load(Ordering::SeqCst);
        self.gate.wait_until(|| !tasks.iter().any(running));
        clock::stop();
        true
    }

    /// Lets the machine go on. False when it is not stopped.
    pub fn resume_machine(&self) -> bool {
        if !self.gate.is_closed() {
            return false;
        }
        clock::resume();
        self.time.resumed();
        for t in self.every_task() {
            t.sleeper.nudge();
        }
        self.gate.open();
        true
    }
}
