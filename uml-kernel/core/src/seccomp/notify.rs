//! A supervisor's end of SECCOMP_RET_USER_NOTIF (seccomp_unotify(2)).

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank, WaitQueue};

use super::bpf::DATA_SIZE;
use crate::ctx::Ctx;
use crate::file::{File, FileOps};
use crate::task::{Task, WaitKind};
use crate::user;
use crate::vfs::anon::{self, AnonKind};

/// What the supervisor decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// SECCOMP_USER_NOTIF_FLAG_CONTINUE.
    Continue,
    Value(i64),
}

struct Request {
    /// Kernel tid of the caller.
    tid: i32,
    data: [u8; DATA_SIZE],
    received: bool,
    answer: Option<Answer>,
}

#[derive(Default)]
struct State {
    next: u64,
    requests: BTreeMap<u64, Request>,
    /// The descriptor was closed.
    closed: bool,
}

/// Calls on their way to a supervisor.
pub struct Listener {
    state: Mutex<State>,
    /// The supervisor waits and polls here.
    supervisor: Arc<WaitQueue>,
    /// Callers wait here.
    callers: WaitQueue,
    wait_killable: bool,
    /// No task has the filter any more.
    orphan: AtomicBool,
}

impl Listener {
    /// A listener without requests.
    pub fn new(wait_killable: bool) -> Arc<Listener> {
        Arc::new(Listener {
            state: Mutex::new(Rank::LEAF, State::default()),
            supervisor: WaitQueue::shared(),
            callers: WaitQueue::new(),
            wait_killable,
            orphan: AtomicBool::new(false),
        })
    }

    /// The descriptor's file.
    pub fn file(self: &Arc<Listener>, task: &Task) -> Arc<File> {
        let cred = task.cred();
        let path = anon::path(AnonKind::Other("seccomp notify"), &cred);
        File::new(Box::new(Supervisor(self.clone())), path, libc::O_RDWR as u32, cred)
    }

    pub(super) fn nobody_left(&self) {
        self.orphan.store(true, Ordering::SeqCst);
        self.supervisor.wake_all(Events::ALL);
    }

    /// Has the supervisor decide about a call. `ENOSYS` when there is none any more, `EINTR` for a signal.
    pub(super) fn ask(&self, task: &Task, data: [u8; DATA_SIZE]) -> Result<Answer> {
        let id = {
            let mut st = self.state.lock();
            if st.closed {
                return Err(ENOSYS);
            }
            if st.next == 0 {
                // Ids must not be guessed from other listeners'.
                st.next = uml_host::random::u64() >> 1 | 1;
            }
            st.next += 1;
            let id = st.next;
            let new = Request { tid: task.tid, data, received: false, answer: None };
            st.requests.insert(id, new);
            id
        };
        self.supervisor.wake_all(Events::READABLE);
        let mut kind = WaitKind::Interruptible;
        let result = loop {
            let received = || {
                let st = self.state.lock();
                let r = st.requests.get(&id)?;
                if let Some(a) = r.answer {
                    return Some(Ok(a));
                }
                if st.closed {
                    return Some(Err(ENOSYS));
                }
                // From here on only death counts.
                let firm = self.wait_killable && r.received && kind == WaitKind::Interruptible;
                firm.then_some(Err(EAGAIN))
            };
            match task.wait(
                &self.callers,
                Events::ALL,
                kind,
                None,
                "seccomp_do_user_notification",
                received,
            ) {
                Ok(Some(Err(EAGAIN))) => kind = WaitKind::Killable,
                Ok(Some(r)) => break r,
                Ok(None) => {}
                Err(e) => break Err(e),
            }
        };
        let gone = self.state.lock().requests.remove(&id);
        // An answer that came together with the signal counts.
        match (result, gone.and_then(|r| r.answer)) {
            (Err(EINTR), Some(a)) => Ok(a),
            (r, _) => r,
        }
    }
}

struct Supervisor(Arc<Listener>);

const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ID_VALID_WRONG_DIR: u32 = 0x8008_2102;
/// Without the size, which may grow, and the direction.
const ADDFD: u32 = 0x2103;
const SIZE: u32 = 0x3fff_0000;
const DIRECTION: u32 = 0xc000_0000;
const SET_FLAGS: u32 = 0x4008_2104;

impl Supervisor {
    fn receive(&self, task: &Task, arg: u64, nonblock: bool) -> Result<u64> {
        let before = user::read_bytes(task, arg, 80)?;
        if before.iter().any(|b| *b != 0) {
            return Err(EINVAL);
        }
        let take = || {
            let mut st = self.0.state.lock();
            if let Some((id, r)) = st.requests.iter_mut().find(|(_, r)| !r.received) {
                r.received = true;
                return Ok((*id, r.tid, r.data));
            }
            if self.0.orphan.load(Ordering::SeqCst) { Err(ENOENT) } else { Err(EAGAIN) }
        };
        let queue = self.0.supervisor.clone();
        let (id, tid, data) =
            task.retry(&queue, Events::READABLE, nonblock, None, "seccomp_notify_recv", take)?;
        let mut out = [0u8; 80];
        out[..8].copy_from_slice(&id.to_le_bytes());
        out[8..12].copy_from_slice(&task.show_pid(tid).to_le_bytes());
        out[16..].copy_from_slice(&data);
        if let Err(e) = user::write_bytes(task, arg, &out) {
            if let Some(r) = self.0.state.lock().requests.get_mut(&id) {
                r.received = false;
            }
            return Err(e);
        }
        self.0.callers.wake_all(Events::ALL);
        Ok(0)
    }

    fn answer(&self, task: &Task, arg: u64) -> Result<u64> {
        let b = user::read_bytes(task, arg, 24)?;
        let word = |at: usize| {
            let mut w = [0; 8];
            w.copy_from_slice(&b[at..at + 8]);
            u64::from_le_bytes(w)
        };
        let (id, val, tail) = (word(0), word(8) as i64, word(16));
        let (error, flags) = (tail as u32 as i32, (tail >> 32) as u32);
        const CONTINUE: u32 = 1;
        if flags & !CONTINUE != 0 || flags & CONTINUE != 0 && (error != 0 || val != 0) {
            return Err(EINVAL);
        }
        {
            let mut st = self.0.state.lock();
            let r = st.requests.get_mut(&id).ok_or(ENOENT)?;
            if !r.received || r.answer.is_some() {
                return Err(EINPROGRESS);
            }
            r.answer = Some(match flags & CONTINUE {
                0 if error != 0 => Answer::Value(error.into()),
                0 => Answer::Value(val),
                _ => Answer::Continue,
            });
        }
        self.0.callers.wake_all(Events::ALL);
        Ok(0)
    }

    /// Puts a descriptor of the supervisor into the caller's table. `size` is the structure's: `E2BIG` where what is behind
    /// the part that is known is not zero.
    fn add_fd(&self, task: &Task, arg: u64, size: usize) -> Result<u64> {
        const SETFD: u32 = 1;
        const SEND_TOO: u32 = 2;
        const KNOWN: usize = 24;
        if !(KNOWN..4096).contains(&size) {
            return Err(EINVAL);
        }
        let b = user::read_bytes(task, arg, size)?;
        if b[KNOWN..].iter().any(|x| *x != 0) {
            return Err(E2BIG);
        }
        let int = |at: usize| u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
        let id = u64::from(int(0)) | u64::from(int(4)) << 32;
        let (flags, src, new, new_flags) = (int(8), int(12) as i32, int(16) as i32, int(20));
        if flags & !(SETFD | SEND_TOO) != 0
            || new_flags & !(libc::O_CLOEXEC as u32) != 0
            || new != 0 && flags & SETFD == 0
        {
            return Err(EINVAL);
        }
        let file = task.file_any(src)?;
        let tid = {
            let st = self.0.state.lock();
            let r = st.requests.get(&id).ok_or(ENOENT)?;
            if !r.received || r.answer.is_some() {
                return Err(EINPROGRESS);
            }
            r.tid
        };
        let target = task.kernel().tree.read().task(tid).ok_or(ENOENT)?;
        let cloexec = new_flags != 0;
        let fd = if flags & SETFD != 0 {
            let limit = target.rlimit(crate::task::Resource::NoFile);
            drop(target.files().replace(new, file, cloexec, limit)?);
            new
        } else {
            target.install_fd(file, cloexec)?
        };
        if flags & SEND_TOO != 0 {
            if let Some(r) = self.0.state.lock().requests.get_mut(&id) {
                r.answer = Some(Answer::Value(fd.into()));
            }
            self.0.callers.wake_all(Events::ALL);
        }
        Ok(fd as u64)
    }
}

impl FileOps for Supervisor {
    fn ioctl(&self, cx: &mut Ctx<'_>, file: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        let task = cx.task.clone();
        match cmd {
            RECV => {
                let nonblock = file.flags() & libc::O_NONBLOCK as u32 != 0;
                self.receive(&task, arg, nonblock)
            }
            SEND => self.answer(&task, arg),
            ID_VALID | ID_VALID_WRONG_DIR => {
                let id: u64 = user::read_obj(&task, arg)?;
                let st = self.0.state.lock();
                let waits = st.requests.get(&id).is_some_and(|r| r.received && r.answer.is_none());
                if waits { Ok(0) } else { Err(ENOENT) }
            }
            // SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP only asks for a faster hand-over.
            SET_FLAGS if arg & !1 == 0 => Ok(0),
            _ if cmd & !(SIZE | DIRECTION) == ADDFD => {
                self.add_fd(&task, arg, ((cmd & SIZE) >> 16) as usize)
            }
            _ => Err(EINVAL),
        }
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.0.supervisor);
        }
        let st = self.0.state.lock();
        let readable = st.requests.values().any(|r| !r.received);
        let writable = st.requests.values().any(|r| r.received && r.answer.is_none());
        Events::READABLE.when(readable)
            | Events::WRITABLE.when(writable)
            | Events::HUP.when(self.0.orphan.load(Ordering::SeqCst))
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.0.state.lock().closed = true;
        self.0.callers.wake_all(Events::ALL);
    }
}
