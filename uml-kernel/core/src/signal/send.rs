//! Generating signals (kill(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use super::*;
use crate::kernel::Kernel;
use crate::landlock::scope;
use crate::task::exit::begin_group_exit;
use crate::task::rlimit::Resource;
use crate::task::tree::ChildState;
use crate::task::{Cap, Process};

/// Whether `sender` may send `signo` to `target` (kill(2)): same real or saved user, CAP_KILL, or
/// SIGCONT inside one session; and no scope of landlock(7) keeps them apart.
pub fn may_signal(sender: &Task, target: &Task, signo: i32) -> bool {
    if Arc::ptr_eq(&sender.process, &target.process) {
        return true;
    }
    let c = sender.cred();
    let t = target.cred();
    if scope::forbids(c.landlock.as_ref(), t.landlock.as_ref(), scope::SIGNAL) {
        return false;
    }
    if c.capable_in(&t.user_ns, Cap::Kill) {
        return true;
    }
    if [c.euid, c.uid].iter().any(|u| *u == t.suid || *u == t.uid) {
        return true;
    }
    if signo == libc::SIGCONT {
        let k = sender.kernel();
        let tree = k.tree.read();
        let session = |pid| tree.get(pid).map(|p| p.session);
        return session(sender.process.pid) == session(target.process.pid);
    }
    false
}

/// Effects a signal has when it is generated, before any queueing: SIGCONT wakes a stopped process and
/// drops pending stops, a stop signal drops pending SIGCONTs. Returns false when the signal is ignored
/// and nothing more is to be done.
fn prepare(kernel: &Kernel, process: &Process, target: Option<&Task>, signo: i32) -> bool {
    let threads = threads_of(kernel, process);
    let mut continued = false;
    let ignored = {
        let mut hand = process.sighand.lock();
        if bit(signo) & STOPPING != 0 {
            hand.pending.flush(bit(libc::SIGCONT));
            for t in &threads {
                t.pending.lock().flush(bit(libc::SIGCONT));
            }
        } else if signo == libc::SIGCONT {
            hand.pending.flush(STOPPING);
            for t in &threads {
                t.pending.lock().flush(STOPPING);
            }
            continued = hand.stop.take().is_some();
            hand.stop_left = 0;
        } else if signo == libc::SIGKILL {
            hand.stop = None;
        }
        let action = hand.action(signo);
        // A blocked signal stays pending even when ignored: the disposition may change.
        let blocked = match target {
            Some(t) => t.blocked() & bit(signo) != 0,
            None => !threads.is_empty() && threads.iter().all(|t| t.blocked() & bit(signo) != 0),
        };
        let ignores = action.handler == SIG_IGN
            || action.handler == SIG_DFL && bit(signo) & IGNORED_BY_DEFAULT != 0;
        // A tracer gets to see even what is ignored.
        let traced = match target {
            Some(t) => t.ptrace.traced(),
            None => threads.iter().any(|t| t.ptrace.traced()),
        };
        ignores && !blocked && !traced && bit(signo) & UNBLOCKABLE == 0
    };
    if continued {
        continue_process(kernel, process, &threads);
    }
    !ignored
}

/// The process was stopped and goes on: wakes its threads and tells the parent.
fn continue_process(kernel: &Kernel, process: &Process, threads: &[Arc<Task>]) {
    let parent = {
        let mut tree = kernel.tree.write();
        let Some(p) = tree.get_mut(process.pid) else { return };
        if !matches!(p.state, ChildState::Stopped { .. }) {
            None
        } else {
            p.state = ChildState::Continued;
            let parent = p.parent;
            tree.get(parent).map(|p| p.process.clone())
        }
    };
    let resume = process.sighand.lock().resume.clone();
    resume.wake_all(Events::ALL);
    for t in threads {
        t.trace_wake_listener();
        t.notice();
    }
    if let Some(parent) = parent {
        let uid = threads.first().map_or(0, |t| t.cred().uid);
        notify_parent(kernel, &parent, process.pid, uid, CLD_CONTINUED, libc::SIGCONT);
    }
}

/// SIGCHLD for a child's state change, unless the parent does not want it, and a wake-up for its wait
/// calls.
pub(crate) fn notify_parent(
    kernel: &Kernel,
    parent: &Process,
    pid: i32,
    uid: u32,
    code: i32,
    status: i32,
) {
    let wants = {
        let hand = parent.sighand.lock();
        let a = hand.action(libc::SIGCHLD);
        let stop = matches!(code, CLD_STOPPED | CLD_CONTINUED | CLD_TRAPPED);
        a.handler != SIG_IGN && !(stop && a.flags & SA_NOCLDSTOP != 0)
    };
    if wants {
        let fields = SigFields::Child { pid, uid, status, utime: 0, stime: 0 };
        let info = SigInfo { signo: libc::SIGCHLD, errno: 0, code, fields };
        send_to_process(kernel, parent, info, false);
    }
    parent.wake_child_waiters();
}

/// The live threads of a process.
pub(crate) fn threads_of(kernel: &Kernel, process: &Process) -> Vec<Arc<Task>> {
    let tree = kernel.tree.read();
    tree.get(process.pid).map(|p| p.threads.values().cloned().collect()).unwrap_or_default()
}

/// Init gets only signals it has handlers for (kill(2) NOTES); a blocked one stays pending, since it may be
/// read from a signalfd or get a handler before it is unblocked. SIGKILL and SIGSTOP never reach it.
fn init_ignores(kernel: &Kernel, process: &Process, target: Option<&Task>, signo: i32) -> bool {
    if !process.unkillable.load(Ordering::Relaxed) {
        return false;
    }
    if process.sighand.lock().action(signo).handler != SIG_DFL {
        return false;
    }
    let blocks = |t: &Task| bit(signo) & !UNBLOCKABLE & t.blocked() != 0;
    match target {
        Some(t) => !blocks(t),
        None => !threads_of(kernel, process).iter().all(|t| blocks(t)),
    }
}

/// SIGKILL and SIGSTOP of a process that the target's pid namespace does not see reach even its init.
fn from_outside(process: &Process, info: &SigInfo) -> bool {
    let (SigFields::Kill { pid, .. } | SigFields::Queue { pid, .. }) = info.fields else {
        return false;
    };
    bit(info.signo) & UNBLOCKABLE != 0 && pid > 0 && process.pid_ns.show(pid) == 0
}

/// Sends a signal to a process as a whole; some thread that does not block it handles it. With
/// `forced` (sent by the kernel) it reaches init too.
pub fn send_to_process(kernel: &Kernel, process: &Process, info: SigInfo, forced: bool) -> bool {
    let forced = forced || from_outside(process, &info);
    if !forced && init_ignores(kernel, process, None, info.signo) {
        return true;
    }
    if !prepare(kernel, process, None, info.signo) {
        return true;
    }
    let limit = process.rlimits.lock().get(Resource::Sigpending).soft;
    if !process.sighand.lock().pending.add(info, limit) {
        return false;
    }
    let threads = threads_of(kernel, process);
    let wanted = |t: &&Arc<Task>| t.blocked() & bit(info.signo) == 0 && !t.fatal_signal_pending();
    let chosen =
        threads.iter().find(|t| t.is_leader() && wanted(t)).or_else(|| threads.iter().find(wanted));
    if let Some(t) = chosen {
        // A fatal signal ends the process at once, even if its threads sleep uninterruptibly in the
        // eyes of ordinary signals.
        if is_fatal(t, &info) {
            begin_group_exit(t, info.signo);
        }
        t.notice();
    }
    signalfd_wake(process);
    true
}

/// Sends a signal to one thread (tgkill(2)). `forced`: by the kernel on the thread's own behalf.
pub fn send_to_task(task: &Task, info: SigInfo, forced: bool) -> bool {
    let kernel = task.kernel();
    let forced = forced || from_outside(&task.process, &info);
    if !forced && init_ignores(&kernel, &task.process, Some(task), info.signo) {
        return true;
    }
    if !prepare(&kernel, &task.process, Some(task), info.signo) {
        return true;
    }
    let limit = task.rlimit(Resource::Sigpending);
    if !task.pending.lock().add(info, limit) {
        return false;
    }
    if task.blocked() & bit(info.signo) == 0 {
        if is_fatal(task, &info) {
            begin_group_exit(task, info.signo);
        }
        task.notice();
    }
    signalfd_wake(&task.process);
    true
}

/// A blocked signal may make a signalfd(2) readable.
fn signalfd_wake(process: &Process) {
    process.signal_wait.wake_all(Events::READABLE);
}

fn is_fatal(task: &Task, info: &SigInfo) -> bool {
    info.signo == libc::SIGKILL || {
        let hand = task.process.sighand.lock();
        let a = hand.action(info.signo);
        // A tracer decides about what its tracee gets. A stopped process takes only SIGKILL; the rest waits for SIGCONT.
        hand.stop.is_none()
            && !task.ptrace.traced()
            && a.handler == SIG_DFL
            && bit(info.signo) & (IGNORED_BY_DEFAULT | STOPPING | CORE_DUMPING) == 0
    }
}

/// Sends a signal to every member of a process group on behalf of the kernel (terminals); init gets it
/// only if it has a handler, so that Ctrl-C does not end the machine.
pub fn send_to_group(kernel: &Kernel, pgrp: i32, info: SigInfo) {
    let members: Vec<Arc<Process>> = {
        let tree = kernel.tree.read();
        tree.group(pgrp)
            .iter()
            .filter_map(|pid| tree.get(*pid))
            .map(|p| p.process.clone())
            .collect()
    };
    for p in members {
        send_to_process(kernel, &p, info, false);
    }
}

/// Sends a signal to every process but init and the sender's (kill(-1)); returns how many
/// there were that could be signalled, `EPERM` when none could.
pub fn broadcast(sender: &Arc<Task>, info: Option<SigInfo>, signo: i32) -> Result<usize> {
    let kernel = sender.kernel();
    let targets: Vec<Arc<Task>> = {
        let tree = kernel.tree.read();
        tree.processes()
            .filter(|(pid, p)| {
                let visible = p.process.pid_ns.is_within(&sender.process.pid_ns);
                visible && sender.show_pid(*pid) != 1 && *pid != sender.process.pid
            })
            .filter_map(|(pid, _)| tree.leader(pid))
            .collect()
    };
    if targets.is_empty() {
        return Err(ESRCH);
    }
    let mut sent = 0;
    for t in targets {
        if may_signal(sender, &t, signo) {
            if let Some(info) = info {
                send_to_process(&kernel, &t.process, info, false);
            }
            sent += 1;
        }
    }
    if sent == 0 { Err(EPERM) } else { Ok(sent) }
}

/// Makes a process end with SIGKILL whatever it does.
pub fn kill_process(kernel: &Kernel, process: &Process) {
    send_to_process(kernel, process, SigInfo::kernel(libc::SIGKILL), true);
}

/// A fault of the task's own: delivered even when blocked or ignored, in which case the process dies of
/// it (as Linux's forced signals).
pub fn force_fault(task: &Task, info: SigInfo) {
    {
        let hand = task.process.sighand.lock();
        let mut a = hand.action(info.signo);
        let blocked = task.blocked() & bit(info.signo) != 0;
        if blocked || a.handler == SIG_IGN {
            a.handler = SIG_DFL;
            hand.set_action(info.signo, a);
            task.blocked.fetch_and(!bit(info.signo), Ordering::SeqCst);
        }
    }
    task.pending.lock().add(info, u64::MAX);
    task.attention.store(true, Ordering::SeqCst);
}
