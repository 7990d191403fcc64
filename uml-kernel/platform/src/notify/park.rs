//! Parking: where a thread waits whose system call takes long.
//!
//! The host keeps the unanswered calls of a filter in one list and goes through it for each that is
//! received or answered. Where many threads sleep, the next ones to sleep therefore leave the list:
//! they wait in the stub, by futex, for the command that would have been the answer.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use uml_stub::{cmd, slot};

use super::context::At;
use super::group::Ctx;
use crate::seccomp::notif::Answer;
use crate::seccomp::stopped::ENOSYS;
use crate::seccomp::zygote::INTERRUPT;
use crate::sys;

/// Stands for the event of a parked thread.
pub const PARKED: u64 = u64::MAX;

/// Unanswered calls in one list before threads are parked. Going through them takes some microseconds
/// then, as parking does.
const CROWD: usize = 64;

const GONE: u8 = 0;
const CALL: u8 = 1;
const HANDLER: u8 = 2;
/// Parked, from a call or from the handler.
const FROM_CALL: u8 = 3;
const FROM_HANDLER: u8 = 4;

/// What a context's worker knows about its host thread, where the platform finds it without the
/// [`crate::Context`]. Only that worker changes it.
#[derive(Default)]
pub struct Stand {
    kind: AtomicU8,
    event: AtomicU64,
}

impl Stand {
    pub fn set(&self, at: At) {
        let (kind, event) = match at {
            At::Gone => (GONE, 0),
            At::Call(n) => (CALL, n.id),
            At::Handler(id) => (HANDLER, id),
        };
        self.kind.store(kind, Ordering::Relaxed);
        self.event.store(event, Ordering::Relaxed);
    }

    /// Whether the thread was parked since [`Stand::set`], and whether its registers are to be loaded.
    pub fn parked(&self) -> Option<bool> {
        match self.kind.load(Ordering::Relaxed) {
            FROM_CALL => Some(true),
            FROM_HANDLER => Some(false),
            _ => None,
        }
    }

    /// Whether it waits in a notified call. For others than the worker this is a sample.
    pub fn in_call(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == CALL
    }

    /// Whether it turned out to be gone.
    pub fn is_gone(&self) -> bool {
        self.kind.load(Ordering::Relaxed) == GONE
    }
}

thread_local! {
    /// The context this worker serves.
    static SERVED: RefCell<Option<Arc<Ctx>>> = const { RefCell::new(None) };
}

/// Notes whom the calling worker serves, usually the same as last time; `None` before it parks.
pub fn serving(cx: Option<&Arc<Ctx>>) {
    SERVED.with_borrow_mut(|s| {
        if s.as_ref().map(Arc::as_ptr) != cx.map(Arc::as_ptr) {
            *s = cx.cloned();
        }
    });
}

/// Parks the thread that the calling worker serves, if its group is crowded; whether it did.
pub fn park_served() -> bool {
    SERVED.with_borrow(|s| s.clone()).is_some_and(|cx| cx.park())
}

impl Ctx {
    fn park(self: &Arc<Ctx>) -> bool {
        let group = &self.space.group;
        if group.blocked() <= CROWD {
            return false;
        }
        let event = self.stand.event.load(Ordering::Relaxed);
        let kind = self.stand.kind.load(Ordering::Relaxed);
        let (event, parked) = match kind {
            CALL => {
                // As when its registers are wanted.
                let sent = self.space.process.with_pid(|pid| sys::tgkill(pid, self.tid, INTERRUPT));
                let entered = match sent {
                    Some(Ok(())) => group.talk(self, event, Answer::Value(ENOSYS), Vec::new()).ok(),
                    _ => None,
                };
                let Some(n) = entered else {
                    self.stand.set(At::Gone);
                    return true;
                };
                (n.id, FROM_CALL)
            }
            HANDLER if event != PARKED => (event, FROM_HANDLER),
            _ => return false,
        };
        self.turn().store(1, Ordering::Release);
        group.set_parked(self, true);
        // A thread that is gone is missed when it is to be woken.
        group.listener.send(event, Answer::Value(cmd::PARK as i64)).ok();
        self.stand.kind.store(parked, Ordering::Relaxed);
        true
    }

    fn turn(&self) -> &std::sync::atomic::AtomicU32 {
        // SAFETY: the word is aligned and in the mapping of the slot, which lives as long as `self`.
        unsafe { &*self.slot.word(slot::TURN) }
    }

    /// Wakes the parked thread with a command.
    pub fn unpark(&self, answer: Answer) {
        let command = match answer {
            Answer::Value(command) => command,
            // Nobody proposes a call from here.
            Answer::Continue => cmd::RESUME as i64,
        };
        self.slot.put(slot::COMMAND, command as u64);
        self.turn().store(0, Ordering::Release);
        // SAFETY: as in `turn`.
        unsafe { sys::futex_wake(self.slot.word(slot::TURN).cast()) };
    }
}
