//! A guest address space: its host process and its context slots.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::group::{Ctx, Group};
use crate::children::Child;
use crate::process::HostProcess;
use crate::seccomp::slots::Slots;

pub struct GuestSpace {
    pub process: HostProcess,
    pub group: Arc<Group>,
    /// Contexts that have not ended.
    pub live: AtomicUsize,
    slots: Mutex<Slots>,
    contexts: Mutex<Vec<Weak<Ctx>>>,
}

impl GuestSpace {
    pub fn new(pid: i32, group: Arc<Group>, slots: Slots) -> GuestSpace {
        GuestSpace {
            process: HostProcess::new(pid),
            group,
            live: AtomicUsize::new(1),
            slots: Mutex::new(slots),
            contexts: Mutex::default(),
        }
    }

    pub fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_context(&self, cx: &Arc<Ctx>) {
        let mut list = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == list.capacity() {
            list.retain(|w| w.strong_count() > 0);
        }
        list.push(Arc::downgrade(cx));
    }

    pub fn contexts(&self) -> Vec<Arc<Ctx>> {
        let list = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(Weak::upgrade).collect()
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
        for cx in self.contexts() {
            self.group.died(&cx, true);
        }
        self.group.shed();
        *self.slots() = Slots::default();
    }
}

crate::process::impl_space!(GuestSpace);
