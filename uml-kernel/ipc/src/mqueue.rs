//! POSIX message queues (mq_overview(7)).

pub mod fs;

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};
use uml_core::file::{File, FileOps, Io};
use uml_core::io::Sink;
use uml_core::landlock::files::check_open_internal;
use uml_core::signal::{SigFields, SigInfo, send_to_process};
use uml_core::task::{Cap, Process, Resource, Task, WaitKind};
use uml_core::vfs::anon::{self, AnonKind};
use uml_core::vfs::{Timespec, now};

/// Limits of unprivileged processes (`/proc/sys/fs/mqueue/{msg_max,msgsize_max}`) and hard ones.
const MSG_MAX: i64 = 10;
const MSGSIZE_MAX: i64 = 8192;
const HARD_MSG_MAX: i64 = 65536;
const HARD_MSGSIZE_MAX: i64 = 16 << 20;
/// Most queues (`queues_max`).
const QUEUES_MAX: usize = 256;
/// Largest priority plus one.
pub const MQ_PRIO_MAX: u32 = 32768;
/// `si_code` of a notification.
const SI_MESGQ: i32 = -3;
/// Bookkeeping per message that counts against RLIMIT_MSGQUEUE.
const MESSAGE_COST: u64 = 80;

/// What mq_notify(3) asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// Only be registered.
    None,
    /// This signal with this value.
    Signal(i32, u64),
}

struct State {
    mode: u32,
    uid: u32,
    gid: u32,
    /// By descending priority, then age.
    messages: BTreeMap<(Reverse<u32>, u64), Vec<u8>>,
    next: u64,
    receivers: usize,
    notify: Option<(Weak<Process>, Notify)>,
}

/// A queue.
struct Queue {
    ino: u64,
    made: Timespec,
    max: usize,
    size: usize,
    bytes: u64,
    owner: u32,
    state: Mutex<State>,
    wait: Arc<WaitQueue>,
}

/// The queues of an ipc namespace by name.
struct Names(Mutex<BTreeMap<Vec<u8>, Arc<Queue>>>);

impl Default for Names {
    fn default() -> Names {
        Names(Mutex::new(Rank::SOCKET_TABLE, BTreeMap::new()))
    }
}

/// Bytes of live queues by user.
static USED: Mutex<BTreeMap<u32, u64>> = Mutex::new(Rank::LEAF, BTreeMap::new());

impl Drop for Queue {
    fn drop(&mut self) {
        let mut used = USED.lock();
        if let Some(n) = used.get_mut(&self.owner) {
            *n = n.saturating_sub(self.bytes);
            if *n == 0 {
                used.remove(&self.owner);
            }
        }
    }
}

/// An open queue.
pub struct MqFile {
    queue: Arc<Queue>,
}

/// Queue attributes (mq_getattr(3)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    pub max: i64,
    pub size: i64,
    pub current: i64,
}

fn check_name(name: &[u8]) -> Result<()> {
    match name {
        [] => Err(EINVAL),
        b"." | b".." => Err(EACCES),
        n if n.contains(&b'/') => Err(EACCES),
        n if n.len() > 255 => Err(ENAMETOOLONG),
        _ => Ok(()),
    }
}

/// mq_open(3): `name` is without the slash; `attr` is the number and size of messages.
pub fn open(
    task: &Task,
    name: &[u8],
    flags: i32,
    mode: u32,
    attr: Option<(i64, i64)>,
) -> Result<Arc<File>> {
    check_name(name)?;
    let cred = task.cred();
    let table = task.ns().ipc.parts.get::<Names>();
    let mut names = table.0.lock();
    let queue = match names.get(name) {
        Some(_) if flags & libc::O_CREAT != 0 && flags & libc::O_EXCL != 0 => return Err(EEXIST),
        Some(q) => {
            let want = match flags & libc::O_ACCMODE {
                libc::O_RDONLY => 4,
                libc::O_WRONLY => 2,
                libc::O_RDWR => 6,
                _ => return Err(EINVAL),
            };
            let s = q.state.lock();
            let shift = if cred.fsuid == s.uid {
                6
            } else if cred.in_group(s.gid) {
                3
            } else {
                0
            };
            if want & !(s.mode >> shift) & 7 != 0 && !cred.capable_here(Cap::DacOverride) {
                return Err(EACCES);
            }
            q.clone()
        }
        None if flags & libc::O_CREAT == 0 => return Err(ENOENT),
        None => {
            let privileged = cred.capable(Cap::SysResource);
            if names.len() >= QUEUES_MAX && !privileged {
                return Err(ENOSPC);
            }
            let q = create(task, mode & !task.fs().umask(), attr, privileged)?;
            names.insert(name.to_vec(), q.clone());
            q
        }
    };
    drop(names);
    check_open_internal(&cred, flags as u32)?;
    let path = anon::path(AnonKind::Other("[mqueue]"), &cred);
    let status = flags & (libc::O_ACCMODE | libc::O_NONBLOCK);
    Ok(File::new(Box::new(MqFile { queue }), path, status as u32, cred))
}

fn create(
    task: &Task,
    mode: u32,
    attr: Option<(i64, i64)>,
    privileged: bool,
) -> Result<Arc<Queue>> {
    let (max, size) = attr.unwrap_or((MSG_MAX, MSGSIZE_MAX));
    let (top, top_size) =
        if privileged { (HARD_MSG_MAX, HARD_MSGSIZE_MAX) } else { (MSG_MAX, MSGSIZE_MAX) };
    if !(1..=top).contains(&max) || !(1..=top_size).contains(&size) {
        return Err(EINVAL);
    }
    let cred = task.cred();
    let bytes = max as u64 * (size as u64 + MESSAGE_COST);
    let limit = task.rlimit(Resource::Msgqueue);
    {
        let mut used = USED.lock();
        let n = used.entry(cred.uid).or_default();
        if *n + bytes > limit {
            return Err(EMFILE);
        }
        *n += bytes;
    }
    Ok(Queue::new(mode, (cred.fsuid, cred.fsgid), cred.uid, (max, size), bytes))
}

impl Queue {
    /// A queue of `max` messages of `size` bytes; `bytes` are charged to `user` already.
    fn new(
        mode: u32,
        (uid, gid): (u32, u32),
        user: u32,
        (max, size): (i64, i64),
        bytes: u64,
    ) -> Arc<Queue> {
        Arc::new(Queue {
            ino: fs::next_ino(),
            made: now(),
            max: max as usize,
            size: size as usize,
            bytes,
            owner: user,
            state: Mutex::new(
                Rank::IPC,
                State {
                    mode: mode & 0o777,
                    uid,
                    gid,
                    messages: BTreeMap::new(),
                    next: 0,
                    receivers: 0,
                    notify: None,
                },
            ),
            wait: WaitQueue::shared(),
        })
    }
}

/// mq_unlink(3): open descriptors go on working.
pub fn unlink(task: &Task, name: &[u8]) -> Result<()> {
    check_name(name)?;
    let cred = task.cred();
    let table = task.ns().ipc.parts.get::<Names>();
    let mut names = table.0.lock();
    let q = names.get(name).ok_or(ENOENT)?;
    // The directory of queues is sticky: only owners remove.
    if q.state.lock().uid != cred.fsuid && !cred.capable(Cap::Fowner) {
        return Err(EACCES);
    }
    let old = names.remove(name);
    drop(names);
    drop(old);
    Ok(())
}

/// Ends a registration for notification; a sleeping receiver counts while it sleeps.
struct Receiving<'a>(&'a Queue);

impl Drop for Receiving<'_> {
    fn drop(&mut self) {
        self.0.state.lock().receivers -= 1;
    }
}

impl MqFile {
    /// The queue behind an open file; `EBADF` when it is something else.
    pub fn of(file: &File) -> Result<&MqFile> {
        file.downcast::<MqFile>().ok_or(EBADF)
    }

    /// mq_getattr(3), but for the flags.
    pub fn attr(&self) -> Attr {
        let q = &self.queue;
        let current = q.state.lock().messages.len() as i64;
        Attr { max: q.max as i64, size: q.size as i64, current }
    }

    /// Largest message.
    pub fn message_size(&self) -> usize {
        self.queue.size
    }

    fn wait<T>(
        &self,
        task: &Task,
        mask: Events,
        nonblock: bool,
        deadline: Option<Instant>,
        mut attempt: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        if let Some(v) = attempt() {
            return Ok(v);
        }
        if nonblock {
            return Err(EAGAIN);
        }
        let kind = WaitKind::Interruptible;
        let got = task.wait(&self.queue.wait, mask, kind, deadline, "wq_sleep", attempt)?;
        got.ok_or(ETIMEDOUT)
    }

    /// mq_timedsend(3).
    pub fn send(
        &self,
        task: &Task,
        text: &[u8],
        priority: u32,
        nonblock: bool,
        deadline: Option<Instant>,
    ) -> Result<()> {
        let q = &self.queue;
        if text.len() > q.size {
            return Err(EMSGSIZE);
        }
        let attempt = || {
            let mut s = q.state.lock();
            if s.messages.len() >= q.max {
                return None;
            }
            let notify =
                if s.messages.is_empty() && s.receivers == 0 { s.notify.take() } else { None };
            let n = s.next;
            s.next += 1;
            s.messages.insert((Reverse(priority), n), text.to_vec());
            Some(notify)
        };
        let notify = self.wait(task, Events::WRITABLE, nonblock, deadline, attempt)?;
        q.wait.wake_all(Events::READABLE);
        if let Some((process, Notify::Signal(signo, value))) = notify
            && let Some(p) = process.upgrade()
        {
            let fields = SigFields::Queue { pid: task.process.pid, uid: task.cred().uid, value };
            let info = SigInfo { signo, errno: 0, code: SI_MESGQ, fields };
            send_to_process(&task.kernel(), &p, info, true);
        }
        Ok(())
    }

    /// mq_timedreceive(3): text and priority of the first message.
    pub fn receive(
        &self,
        task: &Task,
        nonblock: bool,
        deadline: Option<Instant>,
    ) -> Result<(Vec<u8>, u32)> {
        let q = &self.queue;
        let attempt = || {
            let ((Reverse(p), _), text) = q.state.lock().messages.pop_first()?;
            Some((text, p))
        };
        q.state.lock().receivers += 1;
        let receiving = Receiving(q);
        let got = self.wait(task, Events::READABLE, nonblock, deadline, attempt)?;
        drop(receiving);
        q.wait.wake_all(Events::WRITABLE);
        Ok(got)
    }

    /// mq_notify(3): one process at a time (`EBUSY`); `None` ends the task's own registration.
    pub fn notify(&self, task: &Task, what: Option<Notify>) -> Result<()> {
        let mut s = self.queue.state.lock();
        let holder = s.notify.as_ref().and_then(|(p, _)| p.upgrade());
        let own = holder.as_ref().is_some_and(|p| Arc::ptr_eq(p, &task.process));
        match what {
            Some(_) if holder.is_some() => Err(EBUSY),
            Some(n) => {
                s.notify = Some((Arc::downgrade(&task.process), n));
                Ok(())
            }
            None => {
                if own {
                    s.notify = None;
                }
                Ok(())
            }
        }
    }
}

impl FileOps for MqFile {
    /// The status line that reading a queue gives (mq_overview(7)).
    fn read(&self, _io: &Io<'_>, _off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let text = {
            let s = self.queue.state.lock();
            let bytes: usize = s.messages.values().map(Vec::len).sum();
            let holder = s.notify.as_ref().and_then(|(p, n)| Some((p.upgrade()?.pid, *n)));
            let (pid, kind, signo) = match holder {
                Some((pid, Notify::Signal(n, _))) => (pid, 0, n),
                Some((pid, Notify::None)) => (pid, 1, 0),
                None => (0, 0, 0),
            };
            format!("QSIZE:{bytes:<10} NOTIFY:{kind:<5} SIGNO:{signo:<5} NOTIFY_PID:{pid:<6}\n")
        };
        dst.put(text.as_bytes())
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.queue.wait);
        }
        let n = self.queue.state.lock().messages.len();
        Events::READABLE.when(n > 0) | Events::WRITABLE.when(n < self.queue.max)
    }

    fn pollable(&self) -> bool {
        true
    }

    /// Any close by the registered process ends its registration.
    fn flush(&self, task: &Task) {
        let _ = self.notify(task, None);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
