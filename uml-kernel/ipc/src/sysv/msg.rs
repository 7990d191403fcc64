//! Message queues (msgget(2), msgop(2), msgctl(2)).

use std::collections::VecDeque;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::task::{Cap, Task, WaitKind};

use super::{IPC_NOWAIT, Object, Perm, Table, now};

/// Largest message and default size of a queue in bytes (`/proc/sys/kernel/msgmax`, `msgmnb`).
pub const MSGMAX: usize = 8192;
pub const MSGMNB: u64 = 16384;
const MSG_NOERROR: i32 = 0o10000;
const MSG_EXCEPT: i32 = 0o20000;
const MSG_COPY: i32 = 0o40000;

struct State {
    perm: Perm,
    messages: VecDeque<(i64, Vec<u8>)>,
    bytes: u64,
    limit: u64,
    stime: i64,
    rtime: i64,
    ctime: i64,
    lspid: i32,
    lrpid: i32,
    removed: bool,
}

/// A message queue.
pub struct MsgQueue {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Object for MsgQueue {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// What IPC_STAT reports.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub perm: Perm,
    pub stime: i64,
    pub rtime: i64,
    pub ctime: i64,
    pub cbytes: u64,
    pub qnum: u64,
    pub qbytes: u64,
    pub lspid: i32,
    pub lrpid: i32,
}

/// The queues of the task's ipc namespace.
pub fn table(task: &Task) -> Arc<Table<MsgQueue>> {
    task.ns().ipc.parts.get()
}

/// msgget(2).
pub fn get(task: &Task, key: i32, flags: i32) -> Result<i32> {
    table(task).get(
        task,
        key,
        flags,
        |_| Ok(()),
        |_, perm| {
            Ok(MsgQueue {
                state: Mutex::new(
                    Rank::IPC,
                    State {
                        perm,
                        messages: VecDeque::new(),
                        bytes: 0,
                        limit: MSGMNB,
                        stime: 0,
                        rtime: 0,
                        ctime: now(task),
                        lspid: 0,
                        lrpid: 0,
                        removed: false,
                    },
                ),
                queue: WaitQueue::new(),
            })
        },
    )
}

impl State {
    /// Position of the message that a receive of `kind` takes (msgop(2)).
    fn select(&self, kind: i64, flags: i32) -> Option<usize> {
        let m = &self.messages;
        if flags & MSG_COPY != 0 {
            return usize::try_from(kind).ok().filter(|i| *i < m.len());
        }
        match kind {
            0 => (!m.is_empty()).then_some(0),
            k if k > 0 && flags & MSG_EXCEPT != 0 => m.iter().position(|x| x.0 != k),
            k if k > 0 => m.iter().position(|x| x.0 == k),
            k => {
                let max = k.saturating_neg();
                let low = m.iter().map(|x| x.0).filter(|t| *t <= max).min()?;
                m.iter().position(|x| x.0 == low)
            }
        }
    }
}

impl MsgQueue {
    /// msgsnd(2).
    pub fn send(&self, task: &Task, kind: i64, text: &[u8], flags: i32) -> Result<()> {
        if text.len() > MSGMAX || kind < 1 {
            return Err(EINVAL);
        }
        let attempt = || {
            let mut s = self.state.lock();
            if s.removed {
                return Some(Err(EIDRM));
            }
            if let Err(e) = s.perm.check(task, 2) {
                return Some(Err(e));
            }
            let fits =
                s.bytes + text.len() as u64 <= s.limit && (s.messages.len() as u64) < s.limit;
            if !fits {
                return (flags & IPC_NOWAIT != 0).then_some(Err(EAGAIN));
            }
            s.bytes += text.len() as u64;
            s.messages.push_back((kind, text.to_vec()));
            (s.stime, s.lspid) = (now(task), task.process.pid);
            Some(Ok(()))
        };
        self.wait(task, Events::WRITABLE, "do_msgsnd", attempt)?;
        self.queue.wake_all(Events::READABLE);
        Ok(())
    }

    /// msgrcv(2) into at most `max` bytes: type and text.
    pub fn receive(
        &self,
        task: &Task,
        kind: i64,
        max: usize,
        flags: i32,
    ) -> Result<(i64, Vec<u8>)> {
        if flags & MSG_COPY != 0 && (flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0) {
            return Err(EINVAL);
        }
        let attempt = || {
            let mut s = self.state.lock();
            if s.removed {
                return Some(Err(EIDRM));
            }
            if let Err(e) = s.perm.check(task, 4) {
                return Some(Err(e));
            }
            let Some(i) = s.select(kind, flags) else {
                return (flags & IPC_NOWAIT != 0).then_some(Err(ENOMSG));
            };
            if s.messages[i].1.len() > max && flags & MSG_NOERROR == 0 {
                return Some(Err(E2BIG));
            }
            let (t, mut text) = if flags & MSG_COPY != 0 {
                s.messages[i].clone()
            } else {
                let m = s.messages.remove(i)?;
                s.bytes -= m.1.len() as u64;
                (s.rtime, s.lrpid) = (now(task), task.process.pid);
                m
            };
            text.truncate(max);
            Some(Ok((t, text)))
        };
        let got = self.wait(task, Events::READABLE, "do_msgrcv", attempt)?;
        self.queue.wake_all(Events::WRITABLE);
        Ok(got)
    }

    fn wait<T>(
        &self,
        task: &Task,
        mask: Events,
        reason: &'static str,
        attempt: impl FnMut() -> Option<Result<T>>,
    ) -> Result<T> {
        let kind = WaitKind::Interruptible;
        task.wait(&self.queue, mask, kind, None, reason, attempt)?.unwrap_or(Err(EAGAIN))
    }

    /// IPC_STAT.
    pub fn stat(&self) -> Stat {
        let s = self.state.lock();
        Stat {
            perm: s.perm,
            stime: s.stime,
            rtime: s.rtime,
            ctime: s.ctime,
            cbytes: s.bytes,
            qnum: s.messages.len() as u64,
            qbytes: s.limit,
            lspid: s.lspid,
            lrpid: s.lrpid,
        }
    }

    /// IPC_SET; only privileged users may raise the size beyond the default.
    pub fn set(&self, task: &Task, uid: u32, gid: u32, mode: u32, limit: u64) -> Result<()> {
        let mut s = self.state.lock();
        s.perm.check_owner(task)?;
        if limit > MSGMNB {
            task.require_in(&task.ns().ipc.owner, Cap::SysResource)?;
        }
        s.perm.set(task, uid, gid, mode)?;
        s.limit = limit;
        s.ctime = now(task);
        drop(s);
        self.queue.wake_all(Events::ALL);
        Ok(())
    }

    /// IPC_RMID.
    pub fn remove(&self, task: &Task, id: i32) -> Result<()> {
        self.perm().check_owner(task)?;
        drop(table(task).remove(id));
        self.state.lock().removed = true;
        self.queue.wake_all(Events::ALL);
        Ok(())
    }
}
