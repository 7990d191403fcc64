//! Signals when input or output becomes possible (fcntl(2) O_ASYNC, F_SETOWN, F_SETSIG).
//!
//! A file with O_ASYNC has a watch on its queues, as an epoll instance would. Queues wake it with locks held that
//! sending a signal needs; so the thread that woke it sends the signal later, before it sleeps or when its system call
//! is done, and a thread that runs no system call leaves it to the timers' thread ([`defer`]).

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::wait::WaitToken;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue, Wakeable};

use super::File;
use super::notify_owner::{self, Reason};
use crate::kernel::Kernel;
use crate::task::Task;
use crate::time::{Timer, TimerTarget};

/// POLL_IN, POLL_OUT, POLL_ERR, POLL_PRI and POLL_HUP (sigaction(2)), in the order in which they are looked for.
const REASONS: [(Events, Reason); 5] = [
    (Events::IN, Reason { code: 1, band: (libc::POLLIN | libc::POLLRDNORM) as i64 }),
    (
        Events::OUT,
        Reason { code: 2, band: (libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND) as i64 },
    ),
    (Events::PRI, Reason { code: 5, band: (libc::POLLPRI | libc::POLLRDBAND) as i64 }),
    (Events::HUP, Reason { code: 6, band: (libc::POLLHUP | libc::POLLERR) as i64 }),
    (Events::ERR, Reason { code: 4, band: libc::POLLERR as i64 }),
];

/// The watch of one open file.
pub struct AsyncWatch {
    me: Weak<AsyncWatch>,
    file: Weak<File>,
    /// The descriptor that O_ASYNC was set on: `si_fd`.
    fd: i32,
    kernel: Weak<Kernel>,
    interest: Events,
    queues: Mutex<Vec<(Arc<WaitQueue>, WaitToken)>>,
    /// What it was woken for since the last signal.
    noted: AtomicU32,
    late: Timer,
}

struct Collector<'a> {
    watch: &'a Arc<AsyncWatch>,
    found: Vec<(Arc<WaitQueue>, WaitToken)>,
}

impl PollRegistrar for Collector<'_> {
    fn register(&mut self, queue: &Arc<WaitQueue>) {
        let token = queue.register(self.watch.clone(), self.watch.interest, false);
        self.found.push((queue.clone(), token));
    }
}

impl AsyncWatch {
    fn start(task: &Task, file: &Arc<File>, fd: i32) -> Arc<AsyncWatch> {
        let kernel = task.kernel();
        let mut interest = Events::HUP | Events::ERR | Events::RDHUP;
        if file.readable() {
            interest |= Events::READABLE | Events::PRI;
        }
        if file.writable() {
            interest |= Events::WRITABLE;
        }
        let watch = Arc::new_cyclic(|me: &Weak<AsyncWatch>| AsyncWatch {
            me: me.clone(),
            file: Arc::downgrade(file),
            fd,
            kernel: Arc::downgrade(&kernel),
            interest,
            queues: Mutex::new(Rank::LEAF, Vec::new()),
            noted: AtomicU32::new(0),
            late: kernel.time.timer(me.clone()),
        });
        let mut c = Collector { watch: &watch, found: Vec::new() };
        file.ops.poll_as(task, Some(&mut c));
        let found = c.found;
        *watch.queues.lock() = found;
        watch
    }

    fn stop(&self) {
        let queues = std::mem::take(&mut *self.queues.lock());
        for (q, t) in &queues {
            q.unregister(t);
        }
    }

    fn send(&self) {
        let mut events = Events(self.noted.swap(0, Ordering::SeqCst));
        let (Some(file), Some(kernel)) = (self.file.upgrade(), self.kernel.upgrade()) else {
            return;
        };
        if file.flags() & libc::O_ASYNC as u32 == 0 {
            return;
        }
        if events == Events::ALL {
            // Something changed; the file knows what.
            events = file.ops.poll(None);
        }
        let events = events & self.interest;
        let owner = file.owner.lock().clone();
        if let Some((_, reason)) = REASONS.iter().find(|(e, _)| e.intersects(events)) {
            notify_owner::signal(&kernel, &owner, self.fd, *reason);
        }
    }
}

impl Wakeable for AsyncWatch {
    fn wake(&self, events: Events) -> bool {
        if self.noted.fetch_or(events.0, Ordering::SeqCst) != 0 {
            return false;
        }
        if let Some(me) = self.me.upgrade() {
            defer(me);
        }
        false
    }
}

impl Deferred for AsyncWatch {
    fn run(&self) {
        self.send();
    }

    fn timer(&self) -> &Timer {
        &self.late
    }
}

impl TimerTarget for AsyncWatch {
    fn expired(&self) {
        self.send();
    }
}

thread_local! {
    static IN_CALL: Cell<bool> = const { Cell::new(false) };
    static DUE: RefCell<Vec<Arc<dyn Deferred>>> = const { RefCell::new(Vec::new()) };
}

/// Work that a wake-up causes and that cannot be done with the waker's locks held.
pub trait Deferred: Send + Sync {
    /// Does it. No lock is held.
    fn run(&self);

    /// A timer whose expiry does it too, for threads without a system call.
    fn timer(&self) -> &Timer;
}

/// Has `work` done soon: before the thread sleeps or when its system call is done.
pub fn defer(work: Arc<dyn Deferred>) {
    if IN_CALL.get() {
        DUE.with_borrow_mut(|d| d.push(work));
    } else {
        work.timer().set(Some(uml_base::clock::now()));
    }
}

/// While it lives the thread runs a system call; afterwards what was put off is done.
pub(crate) struct Call(());

impl Call {
    pub fn new() -> Call {
        IN_CALL.set(true);
        Call(())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        flush();
        IN_CALL.set(false);
    }
}

/// Does what this thread's wake-ups have caused so far. No lock may be held.
pub(crate) fn flush() {
    // That may cause more; whatever comes then is done as well.
    while let Some(work) = DUE.with_borrow_mut(Vec::pop) {
        work.run();
    }
}

impl File {
    /// Changes the flags of fcntl(2) F_SETFL; with O_ASYNC the owner is told through descriptor `fd`. Files that do not
    /// support it leave the flag clear.
    pub fn set_flags_of(self: &Arc<File>, task: &Task, fd: i32, new: u32) -> Result<()> {
        let bit = libc::O_ASYNC as u32;
        let new = if self.ops.signals_owner() { new } else { new & !bit };
        self.set_flags(new)?;
        if new & bit == 0 {
            self.stop_async();
            return Ok(());
        }
        if self.async_watch.lock().is_some() {
            return Ok(());
        }
        let watch = AsyncWatch::start(task, self, fd);
        let displaced = self.async_watch.lock().replace(watch);
        if let Some(w) = displaced {
            w.stop();
        }
        Ok(())
    }

    pub(super) fn stop_async(&self) {
        let watch = self.async_watch.lock().take();
        if let Some(w) = watch {
            w.stop();
        }
    }
}
