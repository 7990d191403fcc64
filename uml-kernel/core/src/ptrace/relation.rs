//! Who traces whom.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;

use super::{SEIZED, STEP, SYSCALLS, TRACED, TRAP, option};
use crate::signal::{
    CLD_DUMPED, CLD_EXITED, CLD_KILLED, SigInfo, kill_process, notify_parent, send_to_task,
};
use crate::task::access::{Ids, may_access};
use crate::task::process::{DeadTracee, Usage};
use crate::task::{Task, usage};

fn link(tracee: &Task, tracer: &Task, flags: u32, options: u32) -> Result<()> {
    {
        let mut st = tracee.ptrace.state.lock();
        if st.tracer != 0 || tracee.run_state() == crate::task::RunState::Zombie {
            return Err(EPERM);
        }
        st.tracer = tracer.tid;
        st.tracer_process = tracer.process.pid;
        st.options = options;
    }
    tracee.ptrace.set_flag(TRACED | flags, true);
    tracer.process.tracees.lock().insert(tracee.tid);
    Ok(())
}

/// PTRACE_TRACEME: the parent becomes the tracer.
pub fn trace_me(task: &Task) -> Result<()> {
    let kernel = task.kernel();
    let parent = {
        let tree = kernel.tree.read();
        let parent = tree.get(task.process.pid).map_or(0, |p| p.parent);
        let creator = tree.task(task.process.creator.load(Ordering::Relaxed));
        creator.filter(|t| t.process.pid == parent).or_else(|| tree.leader(parent))
    };
    let parent = parent.ok_or(EPERM)?;
    if !crate::landlock::scope::may_trace(&parent.cred(), &task.cred()) {
        return Err(EPERM);
    }
    link(task, &parent, 0, 0)
}

/// PTRACE_ATTACH (which stops the tracee) and PTRACE_SEIZE (which does not).
pub fn attach(tracer: &Task, tracee: &Arc<Task>, seize: bool, options: u32) -> Result<()> {
    if tracee.process.pid == tracer.process.pid || !may_access(tracer, tracee, Ids::Real) {
        return Err(EPERM);
    }
    link(tracee, tracer, if seize { SEIZED } else { 0 }, options)?;
    if !seize {
        send_to_task(tracee, SigInfo::kernel(libc::SIGSTOP), true);
    }
    // A process that is stopped already reports that anew, to its tracer.
    if tracee.process.sighand.lock().stop.is_some() {
        tracee.notice();
    }
    Ok(())
}

/// The tracee `tid` if `tracer` traces it.
pub fn tracee_of(tracer: &Task, tid: i32) -> Result<Arc<Task>> {
    let tracee = tracer.kernel().tree.read().task(tid).ok_or(ESRCH)?;
    if tracee.ptrace.tracer() == tracer.tid { Ok(tracee) } else { Err(ESRCH) }
}

fn unlink(tracee: &Task, signal: i32) -> bool {
    let tracer = {
        let mut st = tracee.ptrace.state.lock();
        if st.tracer == 0 {
            return false;
        }
        st.tracer = 0;
        st.options = 0;
        if let Some(stop) = st.stop.take() {
            st.ended = Some((stop, super::Go { how: super::Resume::Cont, signal }));
        }
        std::mem::take(&mut st.tracer_process)
    };
    tracee.ptrace.set_flag(TRACED | SEIZED | TRAP | SYSCALLS, false);
    tracee.ptrace.note_group_stop(0);
    if let Some(p) = tracee.kernel().tree.read().get(tracer).map(|p| p.process.clone()) {
        p.tracees.lock().remove(&tracee.tid);
    }
    tracee.ptrace.queue.wake_all(uml_base::Events::ALL);
    tracee.notice();
    true
}

/// PTRACE_DETACH with a signal to deliver; false when nobody traced it.
pub fn detach(tracee: &Task, signal: i32) -> bool {
    unlink(tracee, signal)
}

/// A new task of a tracee: traced by the same tracer when it asked for that event, or when CLONE_PTRACE was given. Before
/// the task runs.
pub fn born(parent: &Task, child: &Arc<Task>, event: i32, clone_ptrace: bool) {
    if !parent.ptrace.traced() {
        return;
    }
    let options = parent.ptrace.state.lock().options;
    let wanted = event != 0 && options & (1 << event) != 0;
    if !wanted && !clone_ptrace {
        return;
    }
    let tracer = parent.kernel().tree.read().task(parent.ptrace.tracer());
    let Some(tracer) = tracer else { return };
    let seized = parent.ptrace.seized();
    if link(child, &tracer, if seized { SEIZED } else { 0 }, options).is_err() {
        return;
    }
    if seized {
        child.ptrace.set_flag(TRAP, true);
    } else {
        child.pending.lock().add(SigInfo::kernel(libc::SIGSTOP), u64::MAX);
    }
    child.attention.store(true, Ordering::SeqCst);
}

/// execve(2) by another thread than the leader: `new` continues as the process's leader.
pub fn exec_renames(old: &Task, new: &Task) {
    let (tracer, process, options) = {
        let st = old.ptrace.state.lock();
        (st.tracer, st.tracer_process, st.options)
    };
    if tracer == 0 {
        return;
    }
    let flags = old.ptrace.flags.load(Ordering::SeqCst);
    {
        let mut st = new.ptrace.state.lock();
        st.tracer = tracer;
        st.tracer_process = process;
        st.options = options;
    }
    new.ptrace.flags.store(flags & !STEP, Ordering::SeqCst);
    if let Some(p) = new.kernel().tree.read().get(process).map(|p| p.process.clone()) {
        let mut t = p.tracees.lock();
        t.remove(&old.tid);
        t.insert(new.tid);
    }
    old.ptrace.state.lock().tracer = 0;
    old.ptrace.flags.store(0, Ordering::SeqCst);
}

/// A tracee ended with `status`: its tracer hears of it, unless that is the parent, who hears of processes anyway.
pub(crate) fn thread_exited(task: &Arc<Task>, status: i32, last: bool) {
    let tracer = task.ptrace.state.lock().tracer_process;
    if tracer == 0 {
        return;
    }
    let kernel = task.kernel();
    let (parent, process) = {
        let tree = kernel.tree.read();
        let parent = tree.get(task.process.pid).map_or(0, |p| p.parent);
        (parent, tree.get(tracer).map(|p| p.process.clone()))
    };
    let Some(process) = process else {
        unlink(task, 0);
        return;
    };
    let uid = task.cred().uid;
    let usage: Usage = usage::of_task(task);
    let mut ended = Vec::new();
    if !task.is_leader() {
        ended.push(task.tid);
    }
    // The process as such; a leader whose threads live on is reported when they are gone.
    if last && parent != tracer {
        ended.push(task.process.pid);
    }
    // On the list before it leaves the other one: at no moment is there nothing to wait for.
    let record = |tid: &i32| DeadTracee { tid: *tid, status, uid, usage };
    process.dead_tracees.lock().extend(ended.iter().map(record));
    unlink(task, 0);
    let (code, value) = match status & 0x7f {
        0 => (CLD_EXITED, status >> 8 & 0xff),
        s if status & 0x80 != 0 => (CLD_DUMPED, s),
        s => (CLD_KILLED, s),
    };
    for tid in ended {
        notify_parent(&kernel, &process, tid, uid, code, value);
    }
}

/// Takes a record of an ended tracee that `wanted` accepts.
pub fn reap_dead(tracer: &Task, wanted: impl Fn(i32) -> bool, keep: bool) -> Option<DeadTracee> {
    let mut dead = tracer.process.dead_tracees.lock();
    let i = dead.iter().position(|d| wanted(d.tid))?;
    if keep { Some(dead[i].clone()) } else { Some(dead.remove(i)) }
}

/// A thread ends: what it traced is let go, or killed where PTRACE_O_EXITKILL asks for it.
pub fn tracer_exits(task: &Task) {
    let tids: Vec<i32> = task.process.tracees.lock().iter().copied().collect();
    for tid in tids {
        let kernel = task.kernel();
        let Some(tracee) = kernel.tree.read().task(tid) else { continue };
        if tracee.ptrace.tracer() != task.tid {
            continue;
        }
        if tracee.ptrace.has_option(option::EXITKILL) {
            kill_process(&kernel, &tracee.process);
        }
        unlink(&tracee, 0);
    }
}
