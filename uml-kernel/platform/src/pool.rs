//! The threads that run kernel code for guest threads.
//!
//! A worker is either doing a job or parked. The pool keeps at least as many workers as
//! there are reservations (one per context), so that handing out a job never needs a new
//! thread, whose creation the host could refuse.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use uml_abi::{Result, errno};

use crate::{placement, sys};

/// Stack of a worker: the kernel's deepest call chains (path walk into a filesystem with
/// its journal) stay far below; only touched pages cost memory.
const STACK: usize = 512 * 1024;
/// Parked workers kept beyond the reservations.
const SPARE: usize = 8;

pub type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    idle: Vec<Arc<Worker>>,
    queue: VecDeque<Job>,
    threads: usize,
    reserved: usize,
}

#[derive(Default)]
struct Worker {
    /// With it, whether the worker was confined to its waker's CPU.
    job: Mutex<Option<(Job, bool)>>,
    ready: Condvar,
    tid: AtomicI32,
}

/// Called with the message of a panic in kernel code.
pub type PanicHook = Arc<dyn Fn(&str) + Send + Sync>;

pub struct Pool {
    state: Mutex<State>,
    me: Weak<Pool>,
}

/// One context's claim on a worker.
pub struct Reservation(Arc<Pool>);

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut s = self.0.lock();
        s.reserved = s.reserved.saturating_sub(1);
    }
}

impl Pool {
    pub fn new() -> Arc<Pool> {
        Arc::new_cyclic(|me| Pool { state: Mutex::default(), me: me.clone() })
    }

    /// Makes sure that one more worker exists than before; `EAGAIN` when the host refuses.
    pub fn reserve(&self) -> Result<Reservation> {
        let me = self.me.upgrade().ok_or(errno::EAGAIN)?;
        let mut s = self.lock();
        s.reserved += 1;
        if s.threads < s.reserved {
            s.threads += 1;
            drop(s);
            if let Err(e) = self.spawn() {
                let mut s = self.lock();
                s.threads -= 1;
                s.reserved -= 1;
                return Err(e);
            }
        }
        Ok(Reservation(me))
    }

    /// Gives a job to a parked worker, or to the next one that has nothing to do. The caller goes
    /// to sleep soon: the worker starts on its CPU.
    pub fn run(&self, job: Job) {
        self.hand_out(job, false);
    }

    /// The same; the worker starts on the caller's CPU and stays there until it is told
    /// otherwise.
    pub fn run_here(&self, job: Job) {
        self.hand_out(job, true);
    }

    fn hand_out(&self, job: Job, here: bool) {
        let mut s = self.lock();
        if let Some(w) = s.idle.pop() {
            drop(s);
            let tid = w.tid.load(Ordering::Relaxed);
            let confined = if here {
                if let Some(cpu) = sys::current_cpu() {
                    // Where it runs is a matter of speed only.
                    sys::set_affinity_of(tid, &[cpu]).ok();
                }
                false
            } else {
                placement::here(tid)
            };
            *w.job.lock().unwrap_or_else(PoisonError::into_inner) = Some((job, confined));
            w.ready.notify_one();
            return;
        }
        // Every worker is on its way to the idle list, or there are more jobs than contexts
        // for a moment (a death being reported). One more thread serves as well; when the
        // host refuses it, the job waits for a worker.
        s.queue.push_back(job);
        s.threads += 1;
        drop(s);
        if self.spawn().is_err() {
            self.lock().threads -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self) -> Result<()> {
        let me = self.me.upgrade().ok_or(errno::EAGAIN)?;
        std::thread::Builder::new()
            .name("uml-worker".into())
            .stack_size(STACK)
            .spawn(move || me.work())
            .map(drop)
            .map_err(Into::into)
    }

    fn work(self: Arc<Pool>) {
        let worker = Arc::new(Worker::default());
        worker.tid.store(sys::my_tid(), Ordering::Relaxed);
        loop {
            let mut s = self.lock();
            if let Some(job) = s.queue.pop_front() {
                drop(s);
                job();
                continue;
            }
            if s.threads > s.reserved + SPARE {
                s.threads -= 1;
                return;
            }
            s.idle.push(worker.clone());
            drop(s);
            let mut slot = worker.job.lock().unwrap_or_else(PoisonError::into_inner);
            let (job, confined) = loop {
                match slot.take() {
                    Some(job) => break job,
                    None => slot = worker.ready.wait(slot).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(slot);
            if confined {
                placement::release();
            }
            job();
        }
    }
}

/// The text of a panic payload.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("panic without a message")
}
