//! IOCB_CMD_POLL of io_submit(2): a request that completes when a descriptor is ready, once.
//!
//! It hangs on the file's queues. A wake-up comes with locks held that looking at the file and completing need, so both
//! happen a little later (`uml_core::file::async_notify`).

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_base::wait::WaitToken;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue, Wakeable};
use uml_core::file::File;
use uml_core::file::async_notify::{Deferred, defer};
use uml_core::task::Task;
use uml_core::time::{Timer, TimerTarget};

use super::{Context, IoEvent, Request};

/// A request that waits.
pub(super) struct Poll {
    me: Weak<Poll>,
    /// Open until the event is there, as on Linux.
    file: Arc<File>,
    notify: Option<Arc<File>>,
    context: Weak<Context>,
    data: u64,
    /// Address of the request.
    pub object: u64,
    wanted: Events,
    queues: Mutex<Vec<(Arc<WaitQueue>, WaitToken)>>,
    /// What it was woken for.
    noted: AtomicU32,
    done: AtomicBool,
    late: Timer,
}

struct Collector<'a> {
    poll: &'a Arc<Poll>,
    found: Vec<(Arc<WaitQueue>, WaitToken)>,
}

impl PollRegistrar for Collector<'_> {
    fn register(&mut self, queue: &Arc<WaitQueue>) {
        let token = queue.register(self.poll.clone(), self.poll.wanted, false);
        self.found.push((queue.clone(), token));
    }
}

impl Poll {
    /// Waits for what `request` asks for; completes at once when that is there.
    pub fn start(task: &Task, context: &Arc<Context>, request: Request, object: u64) {
        let wanted = Events(request.iocb.buf as u32) | Events::ERR | Events::HUP;
        let kernel = task.kernel();
        let poll = Arc::new_cyclic(|me: &Weak<Poll>| Poll {
            me: me.clone(),
            file: request.file,
            notify: request.notify,
            context: Arc::downgrade(context),
            data: request.iocb.data,
            object,
            wanted,
            queues: Mutex::new(Rank::LEAF, Vec::new()),
            noted: AtomicU32::new(0),
            done: AtomicBool::new(false),
            late: kernel.time.timer(me.clone()),
        });
        context.polls.lock().push(poll.clone());
        let mut c = Collector { poll: &poll, found: Vec::new() };
        let ready = poll.file.ops.poll_as(task, Some(&mut c)) & wanted;
        let found = c.found;
        *poll.queues.lock() = found;
        if !ready.is_empty() {
            poll.finish(ready.0.into());
        } else if poll.done.load(Ordering::SeqCst) {
            // Woken, and completed elsewhere, before the queues were known.
            poll.leave_queues();
        }
    }

    fn leave_queues(&self) {
        let queues = std::mem::take(&mut *self.queues.lock());
        for (q, t) in &queues {
            q.unregister(t);
        }
    }

    /// Completes it with `result`, unless that has happened; returns whether it did.
    fn finish(&self, result: i64) -> bool {
        if self.done.swap(true, Ordering::SeqCst) {
            return false;
        }
        self.leave_queues();
        let Some(context) = self.context.upgrade() else { return true };
        let own = {
            let mut polls = context.polls.lock();
            let at = polls.iter().position(|p| std::ptr::eq(&**p, self));
            at.map(|at| polls.swap_remove(at))
        };
        let event = IoEvent { data: self.data, object: self.object, result, result2: 0 };
        context.complete(event, self.notify.as_ref());
        // Perhaps the last reference to the file.
        drop(own);
        true
    }

    /// io_cancel(2): its event comes now, without any readiness.
    pub fn cancel(&self) -> bool {
        self.finish(0)
    }

    /// Its context is gone: no event.
    pub fn abandon(&self) {
        if !self.done.swap(true, Ordering::SeqCst) {
            self.leave_queues();
        }
    }
}

impl Wakeable for Poll {
    fn wake(&self, events: Events) -> bool {
        if self.done.load(Ordering::SeqCst) || self.noted.fetch_or(events.0, Ordering::SeqCst) != 0
        {
            return false;
        }
        if let Some(me) = self.me.upgrade() {
            defer(me);
        }
        false
    }
}

impl Deferred for Poll {
    fn run(&self) {
        let mut events = Events(self.noted.swap(0, Ordering::SeqCst));
        if events.intersects(Events::HUP | Events::ERR) {
            // More than new data: the file knows what.
            events = self.file.ops.poll(None) & self.wanted;
        }
        // What the waker says counts whole, as on Linux: POLLRDNORM comes with POLLIN.
        if events.intersects(self.wanted) {
            self.finish(events.0.into());
        }
    }

    fn timer(&self) -> &Timer {
        &self.late
    }
}

impl TimerTarget for Poll {
    fn expired(&self) {
        self.run();
    }
}

/// Checks of a request's own fields.
pub(super) fn check(iocb: &super::Iocb) -> Result<()> {
    // The events are 16 bits; the other fields have no meaning yet.
    let unused = iocb.offset != 0 || iocb.len != 0 || iocb.rw_flags != 0;
    if unused || iocb.buf > u64::from(u16::MAX) {
        return Err(uml_abi::errno::EINVAL);
    }
    Ok(())
}
