//! A guest address space: its host process and the place for signal frames.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::machine::Machine;
use crate::children::Child;
use crate::process::HostProcess;

pub struct GuestSpace {
    pub process: HostProcess,
    pub machine: Arc<Machine>,
    /// Contexts that have not ended.
    pub live: AtomicUsize,
    frame: Mutex<()>,
}

crate::process::impl_space!(GuestSpace);

impl GuestSpace {
    pub fn new(pid: i32, machine: Arc<Machine>) -> GuestSpace {
        GuestSpace {
            process: HostProcess::new(pid),
            machine,
            live: AtomicUsize::new(1),
            frame: Mutex::default(),
        }
    }

    /// The right to have the host write a signal frame.
    pub fn frame(&self) -> MutexGuard<'_, ()> {
        self.frame.lock().unwrap_or_else(PoisonError::into_inner)
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
