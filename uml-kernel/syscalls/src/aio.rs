//! Linux's native asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2), io_cancel(2), io_destroy(2).
//!
//! As on Linux, what would wait is in progress when io_submit(2) returns where that can be done: reading with O_DIRECT,
//! writing with O_DIRECT what is to be durable, fsync ([`workers`]), and what waits for readiness ([`poll`]). Everything
//! else, and direct reads of what the host has in memory, are carried out by the call itself: that costs less than to
//! tell another thread. Events wait in the context. The context's id is the address of a page in the program's memory,
//! as libraries look there for a ring of events first: ours says that there is none, and they make the call.

mod poll;
mod workers;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, PoisonError, Weak};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::ctx::Ctx;
use uml_core::file::{File, Io};
use uml_core::kernel::Kernel;
use uml_core::task::{Task, WaitKind};
use uml_core::user::{self, UserIo};
use uml_ipc::eventfd::EventFd;
use uml_mm::vma::{PROT_READ, PROT_WRITE};
use uml_mm::{MapRequest, Mm, PAGE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;
use crate::timespec::{read_timeout, with_mask};
use poll::Poll;

/// Lines of the table.
pub const TABLE: &[Entry] = &[
    call!(206, "io_setup", io_setup(Int, Ptr)),
    call!(207, "io_destroy", io_destroy(Addr)),
    call!(208, "io_getevents", io_getevents(Addr, Off, Off, Out, Ptr)),
    call!(
        209,
        "io_submit",
        io_submit(Addr, Off, Ptr),
        Never,
        Partial(
            "writes are not in progress when it returns but complete, unless O_DIRECT and O_DSYNC say that they wait"
        )
    ),
    call!(210, "io_cancel", io_cancel(Addr, Ptr, Out)),
    call!(333, "io_pgetevents", io_pgetevents(Addr, Off, Off, Out, Ptr, Ptr)),
];

/// `struct iocb`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: u32,
    opcode: u16,
    priority: i16,
    fd: i32,
    buf: u64,
    len: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: i32,
}

/// `struct io_event`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct IoEvent {
    data: u64,
    object: u64,
    result: i64,
    result2: i64,
}

/// `struct __aio_sigset` of io_pgetevents(2).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct SigSet {
    mask: u64,
    size: u64,
}

const _: () = assert!(size_of::<Iocb>() == 64 && size_of::<IoEvent>() == 32);

const PREAD: u16 = 0;
const PWRITE: u16 = 1;
const FSYNC: u16 = 2;
const FDSYNC: u16 = 3;
const POLL: u16 = 5;
const NOOP: u16 = 6;
const PREADV: u16 = 7;
const PWRITEV: u16 = 8;
/// IOCB_FLAG_RESFD: an eventfd is told of the completion. Other flags have no effect.
const RESFD: u32 = 1;

/// Events nobody took yet.
#[derive(Default)]
struct Finished {
    events: VecDeque<IoEvent>,
    /// Number of events that workers will add.
    coming: usize,
}

/// A context.
struct Context {
    mm: Weak<Mm>,
    capacity: usize,
    finished: Mutex<Finished>,
    /// Requests that wait for readiness.
    polls: Mutex<Vec<Arc<Poll>>>,
    /// Number of requests that [`workers`] have not let go.
    held: std::sync::Mutex<usize>,
    let_go: Condvar,
    queue: Arc<WaitQueue>,
}

impl Context {
    /// A request is complete.
    fn complete(&self, event: IoEvent, notify: Option<&Arc<File>>) {
        self.finished.lock().events.push_back(event);
        self.tell(notify);
    }

    /// A request that a worker has is complete.
    fn complete_coming(&self, event: IoEvent, notify: Option<&Arc<File>>) {
        {
            let mut f = self.finished.lock();
            f.coming -= 1;
            f.events.push_back(event);
        }
        self.tell(notify);
    }

    fn tell(&self, notify: Option<&Arc<File>>) {
        self.queue.wake_all(Events::READABLE);
        if let Some(e) = notify.and_then(|f| f.downcast::<EventFd>()) {
            e.signal(1);
        }
    }

    /// It is full: every request that waits needs room for its event.
    fn is_full(&self) -> bool {
        let waiting = self.polls.lock().len();
        let f = self.finished.lock();
        f.events.len() + f.coming + waiting >= self.capacity
    }

    fn held(&self) -> std::sync::MutexGuard<'_, usize> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what workers have of it: they use the program's memory.
    fn wait_for_workers(&self, kernel: &Kernel) {
        if *self.held() == 0 {
            return;
        }
        kernel.blocking(&mut || {
            let busy = self.let_go.wait_while(self.held(), |n| *n > 0);
            drop(busy.unwrap_or_else(PoisonError::into_inner));
        });
    }

    /// Nobody takes events any more.
    fn end(&self) {
        let polls = std::mem::take(&mut *self.polls.lock());
        polls.iter().for_each(|p| p.abandon());
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        REQUESTS.fetch_sub(self.capacity as u64, Ordering::Relaxed);
    }
}

type Key = (usize, u64);

/// Contexts by address space and id.
static CONTEXTS: LazyLock<Mutex<HashMap<Key, Arc<Context>>>> =
    LazyLock::new(|| Mutex::new(Rank::LEAF, HashMap::new()));
/// What they may hold together.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Requests that all contexts may hold (/proc/sys/fs/aio-nr).
pub fn requests() -> u64 {
    REQUESTS.load(Ordering::Relaxed)
}

fn key(mm: &Arc<Mm>, id: u64) -> Key {
    (Arc::as_ptr(mm) as usize, id)
}

fn context(cx: &Ctx<'_>, id: u64) -> Result<Arc<Context>> {
    let mm = cx.task.mm()?;
    let found = CONTEXTS.lock().get(&key(&mm, id)).cloned().ok_or(EINVAL)?;
    // The address may be that of an earlier address space.
    if found.mm.upgrade().is_some_and(|m| Arc::ptr_eq(&m, &mm)) { Ok(found) } else { Err(EINVAL) }
}

fn io_setup(cx: &mut Ctx<'_>, capacity: u32, out: u64) -> Result<u64> {
    let old: u64 = user::read_obj(&cx.task, out)?;
    // The largest number that Linux can size a ring for.
    const MOST: u32 = 0x1000_0000;
    if old != 0 || capacity == 0 || capacity > MOST {
        return Err(EINVAL);
    }
    let mm = cx.task.mm()?;
    end_orphans();
    let max = cx.task.kernel().sysctl.fs_aio_max_nr.unsigned();
    REQUESTS
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| {
            n.checked_add(u64::from(capacity)).filter(|n| *n <= max)
        })
        .map_err(|_| EAGAIN)?;
    let context = Arc::new(Context {
        mm: Arc::downgrade(&mm),
        capacity: capacity as usize,
        finished: Mutex::new(Rank::LEAF, Finished::default()),
        polls: Mutex::new(Rank::LEAF, Vec::new()),
        held: std::sync::Mutex::new(0),
        let_go: Condvar::new(),
        queue: WaitQueue::shared(),
    });
    let id = mm.mmap(cx.hw, &MapRequest::anonymous(PAGE, PROT_READ | PROT_WRITE))?;
    CONTEXTS.lock().insert(key(&mm, id), context);
    if let Err(e) = user::write_obj(&cx.task, out, &id) {
        let _ = io_destroy(cx, id);
        return Err(e);
    }
    Ok(0)
}

fn io_destroy(cx: &mut Ctx<'_>, id: u64) -> Result<u64> {
    context(cx, id)?;
    let mm = cx.task.mm()?;
    let gone = CONTEXTS.lock().remove(&key(&mm, id));
    if let Some(c) = gone {
        c.end();
        c.wait_for_workers(&cx.task.kernel());
        c.queue.wake_all(Events::ALL);
    }
    mm.unmap(cx.hw, id, PAGE)?;
    Ok(0)
}

/// A request whose parts were found good.
struct Request {
    file: Arc<File>,
    iocb: Iocb,
    notify: Option<Arc<File>>,
}

/// Checks a request: what is wrong here makes io_submit(2) fail, what goes wrong later is in the event.
fn prepare(cx: &Ctx<'_>, at: u64) -> Result<Request> {
    let iocb: Iocb = user::read_obj(&cx.task, at)?;
    if iocb.reserved != 0 {
        return Err(EINVAL);
    }
    if i64::try_from(iocb.len).is_err() {
        return Err(EINVAL);
    }
    let file = cx.task.file(iocb.fd)?;
    let notify = if iocb.flags & RESFD != 0 {
        let f = cx.task.file(iocb.event_fd)?;
        f.downcast::<EventFd>().ok_or(EINVAL)?;
        Some(f)
    } else {
        None
    };
    match iocb.opcode {
        PREAD | PREADV if !file.readable() => return Err(EBADF),
        PWRITE | PWRITEV if !file.writable() => return Err(EBADF),
        PREAD | PREADV | PWRITE | PWRITEV if file.ops.seekable() && iocb.offset < 0 => {
            return Err(EINVAL);
        }
        PREAD | PREADV | PWRITE | PWRITEV | NOOP => {}
        POLL => poll::check(&iocb)?,
        FSYNC | FDSYNC => {
            if iocb.buf != 0 || iocb.offset != 0 || iocb.len != 0 || iocb.rw_flags != 0 {
                return Err(EINVAL);
            }
        }
        _ => return Err(EINVAL),
    }
    user::write_obj(&cx.task, at.wrapping_add(8), &0u32)?;
    Ok(Request { file, iocb, notify })
}

impl Request {
    /// The program's memory that it names.
    fn buffers(&self, task: &Task) -> Result<UserIo> {
        let c = &self.iocb;
        let len = usize::try_from(c.len).map_err(|_| EINVAL)?;
        match c.opcode {
            PREADV | PWRITEV => UserIo::from_iovec(task, c.buf, len),
            _ => UserIo::new(task, c.buf, len),
        }
    }

    fn writes(&self) -> bool {
        matches!(self.iocb.opcode, PWRITE | PWRITEV)
    }

    fn transfers(&self) -> bool {
        self.writes() || matches!(self.iocb.opcode, PREAD | PREADV)
    }

    fn io<'a>(&'a self, task: &'a Task) -> Result<Io<'a>> {
        crate::file_io::flagged(&self.file, task, self.iocb.rw_flags, self.writes())
    }

    fn move_data(&self, io: &Io<'_>, mut data: UserIo) -> Result<u64> {
        let file = &self.file;
        let at = || u64::try_from(self.iocb.offset).map_err(|_| EINVAL);
        let n = match (self.writes(), file.ops.seekable()) {
            (false, true) => file.read_at_io(io, at()?, &mut data)?,
            (false, false) => file.read_io(io, &mut data)?,
            (true, true) => file.write_at_io(io, at()?, &mut data)?,
            (true, false) => file.write_io(io, &mut data)?,
        };
        Ok(n as u64)
    }

    /// Carries it out as far as that needs no waiting that others could do; `None`: the rest is for [`Request::finish`].
    fn start(&self, task: &Task) -> Option<Result<u64>> {
        match self.iocb.opcode {
            FSYNC | FDSYNC => return None,
            _ if !self.transfers() => return Some(Ok(0)),
            _ => {}
        }
        let prepared = self.io(task).and_then(|io| Ok((io, self.buffers(task)?)));
        let (mut io, data) = match prepared {
            Ok(p) => p,
            Err(e) => return Some(Err(e)),
        };
        if !io.direct || io.nowait || !self.file.ops.seekable() {
            return Some(self.move_data(&io, data));
        }
        if self.writes() {
            return if io.dsync || io.sync { None } else { Some(self.move_data(&io, data)) };
        }
        io.nowait = true;
        let whole = data.len() as u64;
        match self.move_data(&io, data) {
            Err(EAGAIN) => None,
            // Perhaps only the end of the file; perhaps the rest is to be waited for.
            Ok(n) if n < whole && n > 0 => None,
            done => Some(done),
        }
    }

    /// Carries it out on another thread than its task's. `data` are its buffers.
    fn finish(&self, task: &Task, data: Option<UserIo>) -> Result<u64> {
        task.io.during(|| match data {
            Some(d) => self.move_data(&self.io(task)?, d),
            None => self.file.ops.fsync(task, self.iocb.opcode == FDSYNC).map(|()| 0),
        })
    }

    fn event(&self, object: u64, result: Result<u64>) -> IoEvent {
        let result = match result {
            Ok(n) => n as i64,
            Err(e) => e.to_ret(),
        };
        IoEvent { data: self.iocb.data, object, result, result2: 0 }
    }
}

fn io_submit(cx: &mut Ctx<'_>, id: u64, count: i64, list: u64) -> Result<u64> {
    if count < 0 {
        return Err(EINVAL);
    }
    let context = context(cx, id)?;
    let count = (count as usize).min(context.capacity);
    let mut done = 0;
    while done < count {
        let one = |at: u64| -> Result<()> {
            if context.is_full() {
                return Err(EAGAIN);
            }
            let object: u64 = user::read_obj(&cx.task, at)?;
            let r = prepare(cx, object)?;
            if r.iocb.opcode == POLL {
                Poll::start(&cx.task, &context, r, object);
                return Ok(());
            }
            match r.start(&cx.task) {
                Some(result) => context.complete(r.event(object, result), r.notify.as_ref()),
                None => workers::hand_over(&cx.task, &context, r, object),
            }
            Ok(())
        };
        match one(list.wrapping_add(done as u64 * 8)) {
            Ok(()) => done += 1,
            Err(e) if done == 0 => return Err(e),
            Err(_) => break,
        }
    }
    Ok(done as u64)
}

/// Takes at least `min` events, at most `max`, waiting for them up to `timeout`.
fn events(
    cx: &mut Ctx<'_>,
    id: u64,
    min: i64,
    max: i64,
    out: u64,
    timeout: Option<Duration>,
) -> Result<u64> {
    let context = context(cx, id)?;
    if min < 0 || max < min {
        return Err(EINVAL);
    }
    let deadline = timeout.and_then(|t| cx.deadline_in(t));
    let task = cx.task.clone();
    let mm = task.mm()?;
    let live = || CONTEXTS.lock().contains_key(&key(&mm, id));
    let mut done = 0i64;
    let mut take = || -> Option<Result<()>> {
        while done < max {
            let Some(e) = context.finished.lock().events.pop_front() else { break };
            if let Err(fault) = user::write_obj(&task, out.wrapping_add(done as u64 * 32), &e) {
                context.finished.lock().events.push_front(e);
                return Some(if done == 0 { Err(fault) } else { Ok(()) });
            }
            done += 1;
        }
        (done >= min || !live()).then_some(Ok(()))
    };
    let now = timeout.is_some_and(|t| t.is_zero());
    let first = take();
    if first.is_none() && !now {
        let kind = WaitKind::Interruptible;
        let r = task.wait(&context.queue, Events::ALL, kind, deadline, "read_events", take);
        match r {
            Ok(Some(r)) => r?,
            Ok(None) => {}
            Err(e) if done == 0 => return Err(e),
            Err(_) => {}
        }
    } else if let Some(r) = first {
        r?;
    }
    Ok(done as u64)
}

fn io_getevents(
    cx: &mut Ctx<'_>,
    id: u64,
    min: i64,
    max: i64,
    out: u64,
    timeout: u64,
) -> Result<u64> {
    let timeout = read_timeout(&cx.task, timeout)?;
    events(cx, id, min, max, out, timeout)
}

fn io_pgetevents(
    cx: &mut Ctx<'_>,
    id: u64,
    min: i64,
    max: i64,
    out: u64,
    timeout: u64,
    mask: u64,
) -> Result<u64> {
    let timeout = read_timeout(&cx.task, timeout)?;
    let set = if mask == 0 { SigSet::default() } else { user::read_obj(&cx.task, mask)? };
    let size = usize::try_from(set.size).unwrap_or(usize::MAX);
    with_mask(cx, set.mask, size, |cx| events(cx, id, min, max, out, timeout))
}

/// What workers have cannot be cancelled, as on Linux.
fn io_cancel(cx: &mut Ctx<'_>, id: u64, iocb: u64, _: u64) -> Result<u64> {
    let _: u32 = user::read_obj(&cx.task, iocb.wrapping_add(8))?;
    let context = context(cx, id)?;
    let found = context.polls.lock().iter().find(|p| p.object == iocb).cloned();
    // The result is in the event, not in the argument (io_cancel(2)).
    if found.is_some_and(|p| p.cancel()) { Err(EINPROGRESS) } else { Err(EINVAL) }
}

/// Contexts that `over` picks end: what waits in them holds no files any more. Returns them.
fn end_contexts(over: impl Fn(&Key, &Context) -> bool) -> Vec<Arc<Context>> {
    let gone: Vec<_> = {
        let mut all = CONTEXTS.lock();
        let keys: Vec<Key> = all.iter().filter(|(k, c)| over(k, c)).map(|(k, _)| *k).collect();
        keys.iter().filter_map(|k| all.remove(k)).collect()
    };
    gone.iter().for_each(|c| c.end());
    gone
}

/// Contexts of address spaces that are gone.
fn end_orphans() {
    end_contexts(|_, c| c.mm.strong_count() == 0);
}

/// The last thread of a process is gone.
fn exit_process(task: &Arc<Task>) {
    let Ok(mm) = task.mm() else { return };
    let at = Arc::as_ptr(&mm) as usize;
    if !CONTEXTS.lock().keys().any(|k| k.0 == at) {
        return;
    }
    // Another process may share the memory (vfork(2)).
    let kernel = task.kernel();
    let tasks: Vec<Arc<Task>> = kernel.tree.read().tasks().cloned().collect();
    let shared = |t: &Arc<Task>| t.tid != task.tid && t.mm().is_ok_and(|m| Arc::ptr_eq(&m, &mm));
    if !tasks.iter().any(shared) {
        let gone = end_contexts(|k, _| k.0 == at);
        gone.iter().for_each(|c| c.wait_for_workers(&kernel));
    }
}

/// Contexts end with the programs that made them.
pub fn install(kernel: &uml_core::kernel::Kernel) {
    kernel.hooks.on_exit_process.add(exit_process);
    kernel.hooks.on_exec.add(|_| end_orphans());
}
