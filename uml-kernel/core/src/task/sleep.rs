//! The only way a task sleeps.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::wait::WaitToken;
use uml_base::{Events, PollRegistrar, WaitQueue, Wakeable};
use uml_platform::placement;

use crate::task::Task;

/// What may end a wait early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitKind {
    /// Any signal that is delivered: state `S`.
    Interruptible,
    /// Only a fatal signal: state `D`.
    Killable,
    /// The same, of a task that would run if it were let: state `R`.
    Throttled,
    /// The same, in the freezer: state `S`.
    Frozen,
    /// Nothing: host I/O that ends by itself. State `D`.
    Uninterruptible,
    /// Only death: the task is stopped by a job-control signal. State `T`.
    Stopped,
    /// Nothing by itself: the task is stopped for its tracer, and the condition knows of death. State `t`.
    Traced,
}

/// The wakeable side of a task.
pub struct Sleeper {
    bed: StdMutex<Bed>,
    woken: AtomicBool,
    habit: Habit,
    task: Weak<Task>,
}

/// The host thread that sleeps for the task.
#[derive(Default)]
struct Bed {
    thread: Option<Thread>,
    tid: i32,
    /// It is parked, or about to be.
    asleep: bool,
    /// Its waker confined it to a CPU.
    confined: bool,
}

/// Whether a task that wakes another goes to sleep right afterwards, as in a request to a server or at the end
/// of a child. The woken one then starts on the same CPU (see [`placement`]).
struct Habit {
    /// 0..=[`SCORE_MAX`]; from [`SCORE_SURE`] on the answer is yes.
    score: AtomicU8,
    /// When it last woke somebody without having slept since, in ns since [`start`]; 0 for never.
    last_wake: AtomicU64,
    /// The task is ending.
    leaving: AtomicBool,
}

const SCORE_MAX: u8 = 3;
const SCORE_SURE: u8 = 2;
/// A sleep that follows a wake-up within this time is "right afterwards": waking an idle CPU takes longer.
const SOON_NS: u64 = 25_000;

fn now_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}

impl Habit {
    fn adjust(&self, good: bool) {
        let old = self.score.load(Ordering::Relaxed);
        let new = if good { (old + 1).min(SCORE_MAX) } else { old.saturating_sub(1) };
        if new != old {
            self.score.store(new, Ordering::Relaxed);
        }
    }

    /// The task wakes somebody. Whether it is going to sleep then.
    fn wakes(&self) -> bool {
        if self.leaving.load(Ordering::Relaxed) {
            return true;
        }
        let now = now_ns();
        let before = self.last_wake.swap(now, Ordering::Relaxed);
        if before == 0 {
            return self.score.load(Ordering::Relaxed) >= SCORE_SURE;
        }
        // A second one: at most one of them can take over this CPU.
        if now - before > SOON_NS {
            self.adjust(false);
        }
        false
    }

    fn sleeps(&self) {
        let before = self.last_wake.swap(0, Ordering::Relaxed);
        if before != 0 {
            self.adjust(now_ns() - before <= SOON_NS);
        }
    }
}

thread_local! {
    /// The task whose kernel code this host thread runs, or ran last.
    static SERVED: RefCell<Option<Arc<Sleeper>>> = const { RefCell::new(None) };
}

/// The task whose kernel code the calling thread runs, or ran last.
pub fn served_task() -> Option<Arc<Task>> {
    SERVED.with_borrow(|s| s.as_ref().and_then(|s| s.task.upgrade()))
}

impl Sleeper {
    pub(crate) fn new(task: Weak<Task>) -> Arc<Sleeper> {
        Arc::new(Sleeper {
            task,
            bed: StdMutex::default(),
            woken: AtomicBool::new(false),
            habit: Habit {
                score: AtomicU8::new(SCORE_SURE),
                last_wake: AtomicU64::new(0),
                leaving: AtomicBool::new(false),
            },
        })
    }

    /// The calling host thread runs this task's kernel code from now on.
    pub(crate) fn serve(self: &Arc<Sleeper>) {
        SERVED.with_borrow_mut(|s| {
            if s.as_ref().is_none_or(|s| !Arc::ptr_eq(s, self)) {
                *s = Some(self.clone());
            }
        });
    }

    /// The task is ending: what it wakes can have its CPU.
    pub(crate) fn leaving(&self) {
        self.habit.leaving.store(true, Ordering::Relaxed);
    }

    fn bed(&self) -> MutexGuard<'_, Bed> {
        self.bed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a sleeping thread look at its deadline again: the clock went on after a stop.
    pub(crate) fn nudge(&self) {
        if let Some(t) = &self.bed().thread {
            t.unpark();
        }
    }

    fn lie_down(&self) {
        let mut bed = self.bed();
        bed.tid = placement::my_tid();
        if bed.thread.as_ref().is_none_or(|t| t.id() != std::thread::current().id()) {
            bed.thread = Some(std::thread::current());
        }
        bed.asleep = true;
    }

    fn get_up(&self) {
        let mut bed = self.bed();
        bed.asleep = false;
        if std::mem::take(&mut bed.confined) {
            drop(bed);
            placement::release();
        }
    }
}

impl Wakeable for Sleeper {
    fn wake(&self, _: Events) -> bool {
        // A sleeper that is on its way up already looks at everything: an exclusive wake-up goes to
        // the next one instead.
        if self.woken.swap(true, Ordering::SeqCst) {
            return false;
        }
        let mut bed = self.bed();
        if !bed.asleep {
            return true;
        }
        let Some(thread) = bed.thread.clone() else { return true };
        if SERVED.with_borrow(|s| s.as_ref().is_some_and(|s| s.habit.wakes())) {
            bed.confined |= placement::here(bed.tid);
        }
        drop(bed);
        uml_base::wait::unpark(thread);
        true
    }
}

/// Registrations on several queues for one sleeper; dropping it removes them.
pub struct WaitSet {
    target: Arc<dyn Wakeable>,
    mask: Events,
    entries: Vec<(Arc<WaitQueue>, WaitToken)>,
}

impl WaitSet {
    /// Collects queues on which `target` is woken for `mask`.
    pub fn new(target: Arc<dyn Wakeable>, mask: Events) -> WaitSet {
        WaitSet { target, mask, entries: Vec::new() }
    }

    /// Changes the mask for the registrations that follow.
    pub fn set_mask(&mut self, mask: Events) {
        self.mask = mask;
    }
}

impl PollRegistrar for WaitSet {
    fn register(&mut self, queue: &Arc<WaitQueue>) {
        let token = queue.register(self.target.clone(), self.mask, false);
        self.entries.push((queue.clone(), token));
    }
}

impl Drop for WaitSet {
    fn drop(&mut self) {
        for (q, t) in &self.entries {
            q.unregister(t);
        }
    }
}

/// Unregisters from a borrowed queue.
struct OneQueue<'a> {
    queue: &'a WaitQueue,
    token: WaitToken,
}

impl Drop for OneQueue<'_> {
    fn drop(&mut self) {
        self.queue.unregister(&self.token);
    }
}

impl Task {
    /// The handle by which wait queues wake this task.
    pub fn waker(&self) -> Arc<dyn Wakeable> {
        self.sleeper.clone()
    }

    /// Sleeps until `cond` yields a value, re-checking whenever somebody wakes the task. The caller
    /// has registered [`Task::waker`] where the condition's changes are announced. `Ok(None)` when
    /// `deadline` passed, `EINTR` when a signal ended the wait (`kind` says which do). `reason` shows
    /// in /proc/<pid>/wchan.
    pub fn sleep<T>(
        &self,
        kind: WaitKind,
        deadline: Option<Instant>,
        reason: &'static str,
        mut cond: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        debug_assert_eq!(uml_base::lock::locks_held(), 0, "sleeping with locks held in {reason}");
        crate::file::async_notify::flush();
        let sleeper = &self.sleeper;
        let _state = self.enter_sleep(kind, reason);
        let mut prepared = false;
        loop {
            sleeper.woken.store(false, Ordering::SeqCst);
            if let Some(v) = cond() {
                return Ok(Some(v));
            }
            let stop = match kind {
                WaitKind::Interruptible => self.signal_pending(),
                WaitKind::Killable | WaitKind::Throttled | WaitKind::Frozen | WaitKind::Stopped => {
                    self.fatal_signal_pending()
                }
                WaitKind::Uninterruptible | WaitKind::Traced => false,
            };
            if stop {
                return Err(EINTR);
            }
            if deadline.is_some_and(|d| uml_base::clock::now() >= d) {
                return Ok(None);
            }
            if !prepared {
                prepared = true;
                let kernel = self.kernel();
                if kernel.platform().is_some_and(|p| p.about_to_sleep()) {
                    continue;
                }
            }
            sleeper.habit.sleeps();
            sleeper.lie_down();
            self.kernel().blocking(&mut || {
                while !sleeper.woken.load(Ordering::SeqCst) {
                    match deadline {
                        None => std::thread::park(),
                        // No deadline comes nearer; resuming nudges every sleeper.
                        Some(_) if uml_base::clock::is_stopped() => std::thread::park(),
                        Some(d) => {
                            let now = uml_base::clock::now();
                            if now >= d {
                                break;
                            }
                            std::thread::park_timeout(d - now);
                        }
                    }
                }
            });
            sleeper.get_up();
        }
    }

    /// [`Task::sleep`] on one queue.
    pub fn wait<T>(
        &self,
        queue: &WaitQueue,
        mask: Events,
        kind: WaitKind,
        deadline: Option<Instant>,
        reason: &'static str,
        mut cond: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some(v) = cond() {
            return Ok(Some(v));
        }
        let token = queue.register(self.waker(), mask, false);
        let _entry = OneQueue { queue, token };
        self.sleep(kind, deadline, reason, cond)
    }

    /// As [`Task::wait`], but [`WaitQueue::wake_one`] wakes only one such waiter at a time. A caller
    /// that was woken and does not use up what it was woken for (another waiter could go on, or the
    /// wait ended by a signal) must pass the wake-up on.
    pub fn wait_exclusive<T>(
        &self,
        queue: &WaitQueue,
        mask: Events,
        kind: WaitKind,
        deadline: Option<Instant>,
        reason: &'static str,
        mut cond: impl FnMut() -> Option<T>,
    ) -> Result<Option<T>> {
        if let Some(v) = cond() {
            return Ok(Some(v));
        }
        let token = queue.register(self.waker(), mask, true);
        let entry = OneQueue { queue, token };
        let result = self.sleep(kind, deadline, reason, cond);
        drop(entry);
        // A wake-up after the last check was meant for somebody who still waits.
        if !matches!(result, Ok(Some(_))) || self.sleeper.woken.load(Ordering::SeqCst) {
            queue.wake_one(mask);
        }
        result
    }

    /// Runs `f` until it returns something else than `EAGAIN`, sleeping on `queue` in between: the
    /// shape of every blocking read, write, accept and connect. With `nonblock` the first
    /// `EAGAIN` is returned; a passed `deadline` returns `EAGAIN` too (SO_RCVTIMEO, socket(7)).
    pub fn retry<T>(
        &self,
        queue: &WaitQueue,
        mask: Events,
        nonblock: bool,
        deadline: Option<Instant>,
        reason: &'static str,
        mut f: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        match f() {
            Err(EAGAIN) if !nonblock => {}
            other => return other,
        }
        let done =
            self.wait(queue, mask, WaitKind::Interruptible, deadline, reason, || match f() {
                Err(EAGAIN) => None,
                other => Some(other),
            })?;
        done.unwrap_or(Err(EAGAIN))
    }
}
