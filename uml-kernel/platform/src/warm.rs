//! Things made ahead of time by a thread of their own, because making one takes longer
//! than execve(2) should.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use uml_abi::{Result, errno};

struct State<T> {
    ready: VecDeque<Result<T>>,
    wanted: usize,
    /// Callers of [`Warm::take`] that found nothing.
    waiting: usize,
    /// The last attempt failed: try again only for somebody.
    failed: bool,
    stopping: bool,
}

impl<T> State<T> {
    fn idle(&self) -> bool {
        !self.stopping && (self.ready.len() >= self.wanted || self.failed && self.waiting == 0)
    }
}

/// A small stock of `T`.
pub struct Warm<T> {
    state: Mutex<State<T>>,
    /// For the keeper: less is there than wanted, or somebody waits.
    needed: Condvar,
    /// For those who wait: one piece, or a failure to make one, is there.
    made: Condvar,
}

impl<T> Warm<T> {
    /// A stock that its keeper holds at `wanted` pieces.
    pub fn new(wanted: usize) -> Warm<T> {
        let state =
            State { ready: VecDeque::new(), wanted, waiting: 0, failed: false, stopping: false };
        Warm { state: Mutex::new(state), needed: Condvar::new(), made: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn set_wanted(&self, wanted: usize) {
        self.lock().wanted = wanted;
        self.needed.notify_one();
    }

    /// The keeper's life.
    pub fn keep(&self, make: impl Fn() -> Result<T>) {
        let mut s = self.lock();
        loop {
            while s.idle() {
                s = self.needed.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
            if s.stopping {
                return;
            }
            drop(s);
            let made = make();
            s = self.lock();
            s.failed = made.is_err();
            // A failure is for one who waits now; it is not kept.
            if !s.failed || s.waiting > 0 {
                s.ready.push_back(made);
                self.made.notify_one();
            }
        }
    }

    /// The next piece that is still `good`, or why none could be made.
    pub fn take(&self, good: impl Fn(&T) -> bool) -> Result<T> {
        let mut s = self.lock();
        loop {
            if s.stopping {
                return Err(errno::EAGAIN);
            }
            match s.ready.pop_front() {
                Some(Ok(t)) if !good(&t) => {}
                Some(t) => {
                    self.needed.notify_one();
                    return t;
                }
                None => {
                    s.waiting += 1;
                    self.needed.notify_one();
                    s = self.made.wait(s).unwrap_or_else(PoisonError::into_inner);
                    s.waiting -= 1;
                }
            }
        }
    }

    /// Ends the keeper and drops the stock.
    pub fn stop(&self) {
        let mut s = self.lock();
        s.stopping = true;
        let ready = std::mem::take(&mut s.ready);
        drop(s);
        self.needed.notify_all();
        self.made.notify_all();
        drop(ready);
    }
}
