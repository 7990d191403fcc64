//! A guest address space: its host process and the place for signal frames.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::machine::Machine;
use crate::children::Child;
use crate::process::HostProcess;

pub struct GuestSpace {
    pub process: HostProcess,
    pub machine: Arc<Machine>,
    /// Contexts that have not ended.
    pub live: AtomicUsize,
    /// Whether a thread has the place for signal frames.
    frame: Mutex<bool>,
    frame_free: Condvar,
}

/// Time between looks at a thread whose tracer waits for the place for signal frames.
const LOOK: Duration = Duration::from_millis(10);

/// The place for signal frames.
pub struct Frame<'a>(&'a GuestSpace);

impl Drop for Frame<'_> {
    fn drop(&mut self) {
        *self.0.frame_taken() = false;
        self.0.frame_free.notify_one();
    }
}

crate::process::impl_space!(GuestSpace);

impl GuestSpace {
    pub fn new(pid: i32, machine: Arc<Machine>) -> GuestSpace {
        GuestSpace {
            process: HostProcess::new(pid),
            machine,
            live: AtomicUsize::new(1),
            frame: Mutex::default(),
            frame_free: Condvar::new(),
        }
    }

    fn frame_taken(&self) -> MutexGuard<'_, bool> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The right to have the host write a signal frame; `None` once `waits` says that the caller's thread does not wait for it
    /// any more. Who has the right may wait for the end of the first thread, of which the host tells only when no other is left:
    /// so a killed process must be able to end its other threads meanwhile.
    pub fn frame(&self, waits: impl Fn() -> bool) -> Option<Frame<'_>> {
        let mut taken = self.frame_taken();
        while *taken {
            let free = self.frame_free.wait_timeout(taken, LOOK);
            let (now, late) = free.unwrap_or_else(PoisonError::into_inner);
            if late.timed_out() && *now && !waits() {
                return None;
            }
            taken = now;
        }
        *taken = true;
        Some(Frame(self))
    }

    /// Counts a context out; true when it was the last.
    pub fn leave(&self) -> bool {
        self.live.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Child for GuestSpace {
    fn process(&self) -> &HostProcess {
        &self.process
    }

    fn ended(self: Arc<Self>) {
        // Each context's tracer hears of it from the host.
    }
}
