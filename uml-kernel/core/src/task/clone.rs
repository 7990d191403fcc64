//! New tasks (clone(2), fork(2), vfork(2)).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use uml_abi::errno::*;
use uml_abi::{Errno, Result};
use uml_base::{Events, WaitQueue, klog, pr_warn};

use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::ns::{PidNs, change};
use crate::ptrace;
use crate::signal::SigHand;
use crate::task::process::Process;
use crate::task::{Cap, Cred, Resource, Task, TaskInit, VforkDone, WaitKind};
use crate::time::cpulimit::CpuLimit;
use crate::user;
use crate::vfs::open::ExecGuard;

/// What clone(2) and clone3(2) ask for.
#[derive(Clone, Debug, Default)]
pub struct CloneArgs {
    /// CLONE_* without the exit signal.
    pub flags: u64,
    pub exit_signal: i32,
    /// Stack pointer of the child; 0 keeps the parent's.
    pub stack: u64,
    pub tls: u64,
    pub parent_tid: u64,
    pub child_tid: u64,
    pub pidfd: u64,
    /// clone3(2) set_tid: the tids wanted in the new task's pid namespace and those around it, innermost first.
    pub set_tid: Vec<i32>,
    /// clone3(2) CLONE_INTO_CGROUP: a descriptor of the control group's directory.
    pub cgroup: i32,
}

const VM: u64 = libc::CLONE_VM as u64;
const FS: u64 = libc::CLONE_FS as u64;
const FILES: u64 = libc::CLONE_FILES as u64;
const SIGHAND: u64 = libc::CLONE_SIGHAND as u64;
const PIDFD: u64 = libc::CLONE_PIDFD as u64;
const VFORK: u64 = libc::CLONE_VFORK as u64;
const PARENT: u64 = libc::CLONE_PARENT as u64;
const THREAD: u64 = libc::CLONE_THREAD as u64;
const SETTLS: u64 = libc::CLONE_SETTLS as u64;
const PARENT_SETTID: u64 = libc::CLONE_PARENT_SETTID as u64;
const CHILD_CLEARTID: u64 = libc::CLONE_CHILD_CLEARTID as u64;
const CHILD_SETTID: u64 = libc::CLONE_CHILD_SETTID as u64;
/// clone3(2) only.
pub const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
pub const INTO_CGROUP: u64 = 0x2_0000_0000;
const NEWNS: u64 = libc::CLONE_NEWNS as u64;
const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;
const NEWPID: u64 = libc::CLONE_NEWPID as u64;
const NEWIPC: u64 = libc::CLONE_NEWIPC as u64;
const SYSVSEM: u64 = libc::CLONE_SYSVSEM as u64;

fn check(a: &CloneArgs, parent: &Task) -> Result<()> {
    let f = a.flags;
    let (sighand, without_vm) = (f & SIGHAND != 0, f & VM == 0);
    let bad = sighand && (without_vm || f & CLEAR_SIGHAND != 0)
        || f & THREAD != 0 && !sighand
        || f & PIDFD != 0 && f & THREAD != 0
        || f & FS != 0 && f & (NEWNS | NEWUSER) != 0
        || f & PARENT != 0 && parent.process.unkillable.load(Ordering::Relaxed)
        || !(0..=64).contains(&a.exit_signal);
    // A thread lives where its process does.
    let elsewhere = f & (NEWUSER | NEWPID) != 0
        || !Arc::ptr_eq(&parent.ns().pid_for_children, &parent.process.pid_ns);
    if bad || f & THREAD != 0 && elsewhere {
        return Err(EINVAL);
    }
    Ok(())
}

/// Checks the numbers that clone3(2) set_tid asks for; the one in the initial pid namespace when that is among them.
fn check_tids(parent: &Task, flags: u64, cred: &Cred, wanted: &[i32]) -> Result<Option<i32>> {
    let max = parent.kernel().sysctl.kernel_pid_max.get() as i32;
    let mut namespaces = Vec::new();
    if flags & NEWPID != 0 {
        namespaces.push(None);
    }
    namespaces.extend(parent.ns().pid_for_children.chain().map(|n| Some(n.clone())));
    if wanted.len() > namespaces.len() {
        return Err(EINVAL);
    }
    let mut outermost = None;
    for (n, ns) in wanted.iter().zip(&namespaces) {
        if !(1..max).contains(n) {
            return Err(EINVAL);
        }
        // The first process of a namespace is its init.
        let has_init = ns.as_ref().is_some_and(|ns| ns.is_initial() || ns.init().is_some());
        if *n != 1 && !has_init {
            return Err(EINVAL);
        }
        let owner = ns.as_ref().map_or(&cred.user_ns, |ns| &ns.owner);
        let may = |cap| cred.capable_in(owner, cap);
        if !may(Cap::CheckpointRestore) && !may(Cap::SysAdmin) {
            return Err(EPERM);
        }
        if ns.as_ref().is_some_and(|ns| ns.is_initial()) {
            outermost = Some(*n);
        }
    }
    Ok(outermost)
}

/// A pid that was asked for, until its task has it.
struct Reserved<'a> {
    kernel: &'a Kernel,
    pid: i32,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.kernel.tree.write().unreserve(self.pid);
    }
}

/// Takes a task that did not come to be out of its control group again.
struct Uncount<'a> {
    kernel: &'a Kernel,
    child: &'a Task,
    /// With its process.
    process: bool,
    on: bool,
}

impl Uncount<'_> {
    fn keep(mut self) {
        self.on = false;
    }
}

impl Drop for Uncount<'_> {
    fn drop(&mut self) {
        if self.on {
            self.kernel.cgroups.thread_ended(self.child, Default::default());
            if self.process {
                self.kernel.cgroups.exited(&self.child.process);
            }
        }
    }
}

/// Creates a task as `args` say and returns its tid to the parent.
pub fn clone_task(cx: &mut Ctx<'_>, args: &CloneArgs) -> Result<i32> {
    let parent = cx.task.clone();
    check(args, &parent)?;
    let kernel = parent.kernel();
    let flags = args.flags;
    let cred = match flags & NEWUSER {
        0 => parent.cred(),
        _ => Arc::new(change::new_user(&parent)?),
    };
    if flags & NEWIPC != 0 && flags & SYSVSEM != 0 {
        return Err(if cred.capable_here(Cap::SysAdmin) { EINVAL } else { EPERM });
    }
    let group = match flags & INTO_CGROUP {
        0 => None,
        _ => {
            let dir = parent.file_any(args.cgroup)?;
            Some(kernel.hooks.cgroup_to_join(&parent, &dir)?)
        }
    };
    let wanted_outermost = check_tids(&parent, flags, &cred, &args.set_tid)?;
    let privileged = cred.capable(Cap::SysResource) || cred.capable(Cap::SysAdmin);
    let tid = {
        let mut tree = kernel.tree.write();
        if tree.task_count() >= kernel.max_tasks() {
            return Err(EAGAIN);
        }
        let limit = parent.rlimit(Resource::Nproc);
        if !privileged && cred.uid != 0 && limit != u64::MAX {
            let owned = tree.tasks().filter(|t| t.cred().uid == cred.uid).count() as u64;
            if owned >= limit {
                return Err(EAGAIN);
            }
        }
        let max = kernel.sysctl.kernel_pid_max.get() as i32;
        match wanted_outermost {
            Some(n) => tree.reserve(n)?,
            None => tree.alloc_pid(max)?,
        }
    };
    let _reserved = wanted_outermost.map(|pid| Reserved { kernel: &kernel, pid });
    let fs = if flags & FS != 0 { parent.fs() } else { Arc::new(parent.fs().duplicate()) };
    let namespaces = change::new_set(&parent, flags, &cred, &fs)?;
    let pid_ns = namespaces.pid_for_children.clone();
    {
        let tree = kernel.tree.read();
        let max = kernel.sysctl.kernel_pid_max.get() as i32;
        pid_ns.enter(tid, &args.set_tid, max, &|pid| tree.in_use(pid))?;
    }
    let shown = parent.show_pid(tid);

    let process = if flags & THREAD != 0 {
        if parent.process.group_exit.lock().is_some() {
            return Err(EAGAIN);
        }
        parent.process.clone()
    } else {
        new_process(&parent, &pid_ns, tid, args)
    };
    let files =
        if flags & FILES != 0 { parent.files() } else { Arc::new(parent.files().duplicate()) };
    let child = Task::new(
        &kernel,
        TaskInit {
            tid,
            process: process.clone(),
            comm: parent.comm_raw(),
            cred,
            mm: None,
            files,
            fs,
            blocked: parent.blocked(),
        },
    );
    let moved = if flags & VM == 0 { change::enter_time(&namespaces) } else { None };
    if moved.is_some() {
        child.clocks_moved();
    }
    child.set_ns(moved.unwrap_or(namespaces));
    inherit(&parent, &child, args);
    kernel.cgroups.forked(&parent, group, &child, flags & THREAD == 0)?;
    let process_too = flags & THREAD == 0;
    let membership = Uncount { kernel: &kernel, child: &child, process: process_too, on: true };

    let mut regs = cx.hw.regs()?;
    regs.rax = 0;
    regs.orig_rax = u64::MAX;
    if args.stack != 0 {
        regs.rsp = args.stack;
    }
    if flags & SETTLS != 0 {
        if args.tls >= parent.mm()?.user_max() {
            return Err(EPERM);
        }
        regs.fs_base = args.tls;
    }
    if flags & PARENT_SETTID != 0 {
        user::write_obj(&parent, args.parent_tid, &shown)?;
    }
    let vfork = (flags & VFORK != 0).then(|| {
        let d = Arc::new(VforkDone { done: AtomicBool::new(false), queue: WaitQueue::new() });
        *child.vfork.lock() = Some(d.clone());
        d
    });
    let pidfd = if flags & PIDFD != 0 {
        let file = kernel.hooks.pidfd(&parent, &process)?;
        let fd = parent.install_fd(file, true)?;
        if let Err(e) = user::write_obj(&parent, args.pidfd, &fd) {
            let _ = parent.files().remove(fd);
            return Err(e);
        }
        Some(fd)
    } else {
        None
    };
    let event = trace_event(args);
    // In the tree before it runs: it may exit, signal, or be waited for at once.
    enter_tree(&parent, &child, flags)?;
    ptrace::born(&parent, &child, event, flags & libc::CLONE_PTRACE as u64 != 0);
    let started = if flags & VM != 0 {
        let mm = parent.mm()?;
        mm.share();
        child.set_mm(Some(mm));
        if flags & CHILD_SETTID != 0 {
            user::write_obj(&parent, args.child_tid, &child.show_pid(tid))?;
        }
        cx.hw.spawn_thread(child.clone(), &regs)
    } else {
        fork_space(cx, &child, &regs, (flags & CHILD_SETTID != 0).then_some(args.child_tid))
    };
    if let Err(e) = started {
        tell_of_refusal(e);
        let mut tree = kernel.tree.write();
        tree.remove_thread(&child);
        if flags & THREAD == 0 {
            tree.remove_process(tid);
        }
        drop(tree);
        if let Some(fd) = pidfd {
            let _ = parent.files().remove(fd);
        }
        return Err(e);
    }
    membership.keep();
    if child.is_freezing() {
        child.notice();
    }
    kernel.count_fork();
    if event != 0 && parent.ptrace.traced() {
        ptrace::event(cx, event, shown as u64);
    }
    if let Some(done) = vfork {
        let finished = || done.done.load(Ordering::SeqCst).then_some(());
        // It counts as frozen: the child may rest in the freezer.
        parent.frozen.store(true, Ordering::SeqCst);
        // Killed meanwhile: the parent dies on its way out, the child keeps the memory.
        let _ = parent.wait(&done.queue, Events::ALL, WaitKind::Killable, None, "vfork", finished);
        parent.frozen.store(false, Ordering::SeqCst);
        if parent.ptrace.traced() {
            ptrace::event(cx, ptrace::EVENT_VFORK_DONE, shown as u64);
        }
    }
    Ok(shown)
}

/// Seconds between two looks at the limits of the host, which read its /proc.
const TOLD_EVERY: u64 = 5;

/// Says in the log which limit of the host a task could not be made for, if it was one.
fn tell_of_refusal(e: Errno) {
    /// When it was said last, in seconds since boot; one more, as 0 is never.
    static LAST: AtomicU64 = AtomicU64::new(0);
    if ![EAGAIN, ENOMEM, EMFILE].contains(&e) {
        return;
    }
    let now = klog::boot_instant().elapsed().as_secs() + 1;
    let last = LAST.load(Ordering::Relaxed);
    let due = last == 0 || now >= last + TOLD_EVERY;
    if due && LAST.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        for s in uml_host::limits::short() {
            pr_warn!("no new task: {s}");
        }
    }
}

/// The event a tracer may have asked for (ptrace(2), PTRACE_O_TRACEFORK and its kin); 0 with CLONE_UNTRACED.
fn trace_event(args: &CloneArgs) -> i32 {
    if args.flags & libc::CLONE_UNTRACED as u64 != 0 {
        0
    } else if args.flags & VFORK != 0 {
        ptrace::EVENT_VFORK
    } else if args.flags & THREAD != 0 || args.exit_signal != libc::SIGCHLD {
        ptrace::EVENT_CLONE
    } else {
        ptrace::EVENT_FORK
    }
}

fn new_process(
    parent: &Arc<Task>,
    pid_ns: &Arc<PidNs>,
    pid: i32,
    args: &CloneArgs,
) -> Arc<Process> {
    let p = &parent.process;
    let actions = {
        let hand = p.sighand.lock();
        if args.flags & SIGHAND != 0 { hand.actions.clone() } else { hand.fork_actions() }
    };
    if args.flags & CLEAR_SIGHAND != 0 {
        for a in actions.lock().iter_mut().filter(|a| a.handler > 1) {
            *a = Default::default();
        }
    }
    let limits = p.rlimits.lock().clone();
    let exit_signal = if args.flags & PARENT != 0 {
        p.exit_signal.load(Ordering::Relaxed)
    } else {
        args.exit_signal
    };
    let hand = SigHand::with_actions(actions);
    let new = Process::new_in(pid_ns.clone(), pid, hand, limits, exit_signal);
    if pid_ns.show(pid) == 1 {
        new.unkillable.store(true, Ordering::Relaxed);
    }
    let exe = p.exe.lock().clone();
    *new.running.lock() = exe.as_ref().map(|e| ExecGuard::new(e.inode()));
    *new.exe.lock() = exe;
    let creator =
        if args.flags & PARENT != 0 { p.creator.load(Ordering::Relaxed) } else { parent.tid };
    new.creator.store(creator, Ordering::Relaxed);
    new.dumpable.store(p.dumpable.load(Ordering::Relaxed), Ordering::Relaxed);
    new.oom_score_adj.store(p.oom_score_adj.load(Ordering::Relaxed), Ordering::Relaxed);
    new.coredump_filter.store(p.coredump_filter.load(Ordering::Relaxed), Ordering::Relaxed);
    new.personality.store(p.personality.load(Ordering::Relaxed), Ordering::Relaxed);
    new.loginuid.store(p.loginuid.load(Ordering::Relaxed), Ordering::Relaxed);
    new.thp_disable.store(p.thp_disable.load(Ordering::Relaxed), Ordering::Relaxed);
    new.mce_kill.store(p.mce_kill.load(Ordering::Relaxed), Ordering::Relaxed);
    CpuLimit::watch(&new, &parent.kernel());
    new.sessionid.store(p.sessionid.load(Ordering::Relaxed), Ordering::Relaxed);
    new.no_terminal.store(p.no_terminal.load(Ordering::Relaxed), Ordering::Relaxed);
    new
}

/// Thread attributes that a child starts with.
fn inherit(parent: &Task, child: &Task, args: &CloneArgs) {
    child.seccomp.inherit(&parent.seccomp);
    let from = parent.personal.lock().clone();
    let mut to = child.personal.lock();
    to.timer_slack = from.timer_slack;
    to.sched_policy = from.sched_policy;
    to.sched_priority = from.sched_priority;
    to.nice = from.nice;
    to.affinity = from.affinity;
    to.ioprio = from.ioprio;
    if from.reset_on_fork {
        to.sched_policy = libc::SCHED_OTHER;
        to.sched_priority = 0;
        to.nice = to.nice.max(0);
    }
    if args.flags & CHILD_CLEARTID != 0 {
        to.clear_child_tid = args.child_tid;
    }
    // rseq survives fork, not thread creation (rseq(2)).
    if args.flags & VM == 0 {
        to.rseq = from.rseq;
    }
    drop(to);
    // The alternate stack survives fork and vfork, not a thread's creation (sigaltstack(2)).
    if args.flags & (VM | VFORK) != VM {
        *child.altstack.lock() = *parent.altstack.lock();
    }
}

fn enter_tree(parent: &Arc<Task>, child: &Arc<Task>, flags: u64) -> Result<()> {
    let kernel = parent.kernel();
    let mut tree = kernel.tree.write();
    if flags & THREAD != 0 {
        // exit_group may have started since: such a thread would never hear of it.
        if parent.process.group_exit.lock().is_some() {
            return Err(EAGAIN);
        }
        return tree.add_thread(child);
    }
    let me = tree.get(parent.process.pid).ok_or(ESRCH)?;
    let (pgrp, session) = (me.pgrp, me.session);
    let ppid = if flags & PARENT != 0 { me.parent } else { parent.process.pid };
    tree.add_process(child, ppid, pgrp, session);
    Ok(())
}

/// A child with its own copy of the memory.
fn fork_space(
    cx: &mut Ctx<'_>,
    child: &Arc<Task>,
    regs: &uml_platform::Regs,
    child_tid: Option<u64>,
) -> Result<()> {
    let parent_mm = cx.task.mm()?;
    // Mode 2 counts the whole copy; otherwise what the parent has is there for a child too.
    if !crate::memory::commit::noreserve_counts(&cx.task.kernel()) {
        let copy = parent_mm.map().vmas.committed();
        crate::memory::commit::check(&cx.task, copy)?;
    }
    let task = child.clone();
    cx.hw.fork(regs, &mut |space| {
        let mm = parent_mm.fork_into(space);
        if let Some(addr) = child_tid {
            // A bad pointer is ignored (clone(2)).
            let _ = mm.write(addr, &task.show_pid(task.tid).to_ne_bytes());
        }
        task.set_mm(Some(Arc::new(mm)));
        task.clone()
    })
}
