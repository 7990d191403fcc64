//! Which host CPU a woken thread starts on.
//!
//! The host's scheduler sends a woken thread to an idle CPU where there is one, and waking an
//! idle CPU of a virtual machine takes 30 to 60 microseconds, many times what the woken thread
//! is going to do. A waker that is about to sleep itself therefore confines the sleeping
//! thread to its own CPU before it wakes it (0.3 us); the woken thread lifts that at once, so
//! that the host's load balancing stays free to move it.

use std::sync::OnceLock;

use crate::sys;

pub use sys::{CpuMask, my_tid};

static MACHINE: OnceLock<Option<CpuMask>> = OnceLock::new();

/// Begins to confine threads. Backends that keep their workers beside their guests' threads
/// by other means leave this out.
pub(crate) fn enable() {
    // The first thread of the process is never confined.
    MACHINE.get_or_init(|| CpuMask::of(sys::getpid()).ok().filter(|m| m.count() > 1));
}

/// The CPUs of the machine; `None` when there is nothing to choose.
fn machine() -> Option<&'static CpuMask> {
    MACHINE.get()?.as_ref()
}

/// Confines `tid` to the caller's CPU.
fn confine(tid: i32) -> bool {
    sys::current_cpu().is_some_and(|cpu| CpuMask::one(cpu).apply(tid).is_ok())
}

/// Confines the sleeping kernel thread `tid` to the caller's CPU; true when it has to be
/// released.
pub fn here(tid: i32) -> bool {
    machine().is_some_and(|_| confine(tid))
}

/// Lets the calling kernel thread run anywhere again.
pub fn release() {
    if let Some(all) = machine() {
        // Failure leaves a thread where it is: slower, not wrong.
        let _ = all.apply(my_tid());
    }
}

/// A guest thread that is confined to the caller's CPU while it makes another one, which
/// inherits that; released on drop.
pub struct Confined {
    tid: i32,
    mask: Option<CpuMask>,
}

impl Confined {
    /// Confines the stopped guest thread `tid`.
    pub fn here(tid: i32) -> Confined {
        let mask = machine().and_then(|_| CpuMask::of(tid).ok()).filter(|m| m.count() > 1);
        let mask = mask.filter(|_| confine(tid));
        Confined { tid, mask }
    }

    /// Gives the new guest thread `tid` what its maker may use.
    pub fn release_child(&self, tid: i32) {
        if let Some(m) = &self.mask {
            let _ = m.apply(tid);
        }
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        self.release_child(self.tid);
    }
}
