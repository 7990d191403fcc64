//! Semaphore sets (semget(2), semop(2), semctl(2)).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_core::task::{Task, WaitKind};

use super::{IPC_NOWAIT, Object, Perm, Table, now};

/// Limits (`/proc/sys/kernel/sem`): semaphores in a set, operations in a call, largest value.
pub const SEMMSL: usize = 32000;
pub const SEMOPM: usize = 500;
pub const SEMVMX: i32 = 32767;
const SEM_UNDO: i16 = 0x1000;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug)]
pub struct SemOp {
    pub num: u16,
    pub op: i16,
    pub flags: i16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sem {
    value: i32,
    pid: i32,
    /// Sleepers that wait for an increase and for zero.
    ncnt: u32,
    zcnt: u32,
}

struct State {
    perm: Perm,
    sems: Vec<Sem>,
    /// SEM_UNDO adjustments by process.
    undo: BTreeMap<i32, Vec<i32>>,
    otime: i64,
    ctime: i64,
    removed: bool,
}

/// A set of semaphores.
pub struct SemSet {
    state: Mutex<State>,
    queue: WaitQueue,
}

impl Object for SemSet {
    fn perm(&self) -> Perm {
        self.state.lock().perm
    }
}

/// What IPC_STAT reports.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    pub perm: Perm,
    pub otime: i64,
    pub ctime: i64,
    pub count: u64,
}

/// The sets of the task's ipc namespace.
pub fn table(task: &Task) -> Arc<Table<SemSet>> {
    task.ns().ipc.parts.get()
}

/// semget(2).
pub fn get(task: &Task, key: i32, count: i32, flags: i32) -> Result<i32> {
    let count = usize::try_from(count).map_err(|_| EINVAL)?;
    if count > SEMMSL {
        return Err(EINVAL);
    }
    let check = |s: &SemSet| {
        if count > s.state.lock().sems.len() { Err(EINVAL) } else { Ok(()) }
    };
    table(task).get(task, key, flags, check, |_, perm| {
        if count == 0 {
            return Err(EINVAL);
        }
        Ok(SemSet {
            state: Mutex::new(
                Rank::IPC,
                State {
                    perm,
                    sems: vec![Sem::default(); count],
                    undo: BTreeMap::new(),
                    otime: 0,
                    ctime: now(task),
                    removed: false,
                },
            ),
            queue: WaitQueue::new(),
        })
    })
}

/// Why a list of operations cannot be done now.
enum Blocked {
    /// By this operation; it may wait.
    At(usize),
    Fail(Errno),
}

impl State {
    /// Does all operations or none.
    fn perform(&mut self, ops: &[SemOp], pid: i32) -> std::result::Result<(), Blocked> {
        let mut changed: Vec<(usize, i32)> = Vec::with_capacity(ops.len());
        let mut undo = self.undo.get(&pid).cloned();
        let mut result = Ok(());
        for (i, op) in ops.iter().enumerate() {
            let n = usize::from(op.num);
            let old = self.sems[n].value;
            let new = old + i32::from(op.op);
            if (op.op == 0 && old != 0) || new < 0 {
                result = Err(Blocked::At(i));
                break;
            }
            if new > SEMVMX {
                result = Err(Blocked::Fail(ERANGE));
                break;
            }
            if op.flags & SEM_UNDO != 0 && op.op != 0 {
                let adj = undo.get_or_insert_with(|| vec![0; self.sems.len()]);
                adj[n] -= i32::from(op.op);
                if !(-SEMVMX - 1..=SEMVMX).contains(&adj[n]) {
                    result = Err(Blocked::Fail(ERANGE));
                    break;
                }
            }
            changed.push((n, old));
            self.sems[n].value = new;
        }
        if result.is_err() {
            for (n, old) in changed.into_iter().rev() {
                self.sems[n].value = old;
            }
            return result;
        }
        for op in ops {
            self.sems[usize::from(op.num)].pid = pid;
        }
        if let Some(u) = undo {
            self.undo.insert(pid, u);
        }
        Ok(())
    }

    fn count_waiter(&mut self, op: &SemOp, add: bool) {
        let s = &mut self.sems[usize::from(op.num)];
        let field = if op.op == 0 { &mut s.zcnt } else { &mut s.ncnt };
        *field = if add { *field + 1 } else { field.saturating_sub(1) };
    }
}

impl SemSet {
    /// semtimedop(2).
    pub fn operate(&self, task: &Task, ops: &[SemOp], deadline: Option<Instant>) -> Result<()> {
        let pid = task.process.pid;
        let mut waiting: Option<SemOp> = None;
        let mut attempt = || {
            let mut s = self.state.lock();
            if let Some(op) = waiting.take() {
                s.count_waiter(&op, false);
            }
            if s.removed {
                return Some(Err(EIDRM));
            }
            match s.perform(ops, pid) {
                Ok(()) => {
                    s.otime = now(task);
                    Some(Ok(()))
                }
                Err(Blocked::Fail(e)) => Some(Err(e)),
                Err(Blocked::At(i)) if i32::from(ops[i].flags) & IPC_NOWAIT != 0 => {
                    Some(Err(EAGAIN))
                }
                Err(Blocked::At(i)) => {
                    s.count_waiter(&ops[i], true);
                    waiting = Some(ops[i]);
                    None
                }
            }
        };
        let kind = WaitKind::Interruptible;
        let result =
            task.wait(&self.queue, Events::ALL, kind, deadline, "do_semtimedop", &mut attempt);
        if let Some(op) = waiting {
            let mut s = self.state.lock();
            if !s.removed {
                s.count_waiter(&op, false);
            }
        }
        match result? {
            Some(Ok(())) => {
                if ops.iter().any(|o| o.op != 0) {
                    self.queue.wake_all(Events::ALL);
                }
                Ok(())
            }
            Some(Err(e)) => Err(e),
            None => Err(EAGAIN),
        }
    }

    /// Checks an operation list against the set: `EFBIG` for a number out of range, `EACCES`.
    pub fn check(&self, task: &Task, ops: &[SemOp]) -> Result<()> {
        let s = self.state.lock();
        if ops.iter().any(|o| usize::from(o.num) >= s.sems.len()) {
            return Err(EFBIG);
        }
        let alters = ops.iter().any(|o| o.op != 0);
        s.perm.check(task, if alters { 2 } else { 4 })
    }

    /// IPC_STAT.
    pub fn stat(&self) -> Stat {
        let s = self.state.lock();
        Stat { perm: s.perm, otime: s.otime, ctime: s.ctime, count: s.sems.len() as u64 }
    }

    /// IPC_SET.
    pub fn set(&self, task: &Task, uid: u32, gid: u32, mode: u32) -> Result<()> {
        let mut s = self.state.lock();
        s.perm.check_owner(task)?;
        s.perm.set(task, uid, gid, mode)?;
        s.ctime = now(task);
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

    /// GETALL: every value.
    pub fn values(&self) -> Vec<u16> {
        self.state.lock().sems.iter().map(|s| s.value as u16).collect()
    }

    /// GETVAL, GETPID, GETNCNT and GETZCNT of one semaphore.
    pub fn one(&self, num: i32) -> Result<(i32, i32, u32, u32)> {
        let s = self.state.lock();
        let sem = usize::try_from(num).ok().and_then(|n| s.sems.get(n)).ok_or(EINVAL)?;
        Ok((sem.value, sem.pid, sem.ncnt, sem.zcnt))
    }

    /// SETVAL.
    pub fn set_value(&self, task: &Task, num: i32, value: i32) -> Result<()> {
        if !(0..=SEMVMX).contains(&value) {
            return Err(ERANGE);
        }
        {
            let mut s = self.state.lock();
            let n = usize::try_from(num).map_err(|_| EINVAL)?;
            let sem = s.sems.get_mut(n).ok_or(EINVAL)?;
            (sem.value, sem.pid) = (value, task.process.pid);
            // Adjustments for it are cleared in every process.
            s.undo.values_mut().for_each(|u| u[n] = 0);
            s.ctime = now(task);
        }
        self.queue.wake_all(Events::ALL);
        Ok(())
    }

    /// SETALL.
    pub fn set_values(&self, task: &Task, values: &[u16]) -> Result<()> {
        if values.iter().any(|v| i32::from(*v) > SEMVMX) {
            return Err(ERANGE);
        }
        {
            let mut s = self.state.lock();
            if s.removed || values.len() != s.sems.len() {
                return Err(EIDRM);
            }
            for (sem, v) in s.sems.iter_mut().zip(values) {
                (sem.value, sem.pid) = (i32::from(*v), task.process.pid);
            }
            s.undo.clear();
            s.ctime = now(task);
        }
        self.queue.wake_all(Events::ALL);
        Ok(())
    }

    fn undo(&self, pid: i32, time: i64) {
        {
            let mut s = self.state.lock();
            let Some(adjust) = s.undo.remove(&pid) else { return };
            for (sem, a) in s.sems.iter_mut().zip(adjust) {
                if a != 0 {
                    // As far as the range allows (semop(2) BUGS).
                    sem.value = (sem.value + a).clamp(0, SEMVMX);
                    sem.pid = pid;
                }
            }
            s.otime = time;
        }
        self.queue.wake_all(Events::ALL);
    }
}

/// Whether the task's process has SEM_UNDO adjustments anywhere.
pub fn has_undo(task: &Task) -> bool {
    let pid = task.process.pid;
    table(task).list().iter().any(|(_, set)| set.state.lock().undo.contains_key(&pid))
}

/// A process ends: its SEM_UNDO adjustments are applied.
pub fn exit_process(task: &Arc<Task>) {
    for (_, set) in table(task).list() {
        set.undo(task.process.pid, now(task));
    }
    super::shm::reap();
}
