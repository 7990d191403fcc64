//! The end of tasks and processes (_exit(2), exit_group(2)).

use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use uml_base::{Events, pressure};
use uml_platform::Next;

use crate::ctx::Ctx;
use crate::kernel::Kernel;
use crate::ptrace;
use crate::signal::{
    CLD_DUMPED, CLD_EXITED, CLD_KILLED, SA_NOCLDWAIT, SIG_IGN, SigFields, SigInfo, kill_process,
    notify_parent, send_to_group, send_to_process, threads_of,
};
use crate::task::tree::ChildState;
use crate::task::{Cred, FsContext, Process, RunState, Task, WaitKind, usage};
use crate::vfs::MountNs;
use crate::vfs::anon::{self, AnonKind};

/// Wait status of a normal exit.
pub const fn exited(code: i32) -> i32 {
    (code & 0xff) << 8
}

/// Makes every thread of the task's process unwind and exit; the process ends with wait `status`
/// unless it is already ending.
pub fn begin_group_exit(task: &Task, status: i32) {
    let kernel = task.kernel();
    {
        let mut exit = task.process.group_exit.lock();
        if exit.is_none() {
            *exit = Some(status);
        }
    }
    let resume = {
        let mut hand = task.process.sighand.lock();
        hand.stop = None;
        hand.resume.clone()
    };
    task.dying.store(true, Ordering::SeqCst);
    for t in threads_of(&kernel, &task.process) {
        t.dying.store(true, Ordering::SeqCst);
        t.notice();
    }
    resume.wake_all(Events::ALL);
}

/// The task gives up its address space (exit, execve): a vfork(2) parent may go on.
pub fn release_mm(task: &Task) {
    if let Some(done) = task.vfork.lock().take() {
        done.done.store(true, Ordering::SeqCst);
        done.queue.wake_all(Events::ALL);
    }
}

/// Closes every descriptor of a table nobody else uses.
fn release_files(task: &Arc<Task>) {
    if let Some(table) = task.set_files(None)
        && let Some(table) = Arc::into_inner(table)
    {
        for f in table.take_all() {
            f.ops.flush(task);
        }
    }
}

/// The directories of a task that has none any more.
fn nowhere() -> Arc<FsContext> {
    static NOWHERE: OnceLock<Arc<FsContext>> = OnceLock::new();
    let make = || {
        let p = anon::path(AnonKind::Other("[none]"), &Cred::root());
        Arc::new(FsContext::new(p.clone(), MountNs::new(0, p.mnt)))
    };
    NOWHERE.get_or_init(make).clone()
}

/// Ends the task. `code` is the argument of _exit(2); a task that dies with its process has none. Sets
/// the context to end.
pub fn exit_task(cx: &mut Ctx<'_>, code: Option<i32>) {
    let task = cx.task.clone();
    let kernel = task.kernel();
    task.sleeper.leaving();
    let group = *task.process.group_exit.lock();
    let status = group.unwrap_or(exited(code.unwrap_or(0)));
    if task.ptrace.traced() {
        ptrace::event(cx, ptrace::EVENT_EXIT, status as u64);
    }
    // Another thread's exit_group(2) may have come in the meantime.
    let group = *task.process.group_exit.lock();
    let status = group.unwrap_or(status);
    task.exit_status.store(status, Ordering::SeqCst);
    kernel.hooks.exit_memory(cx);
    release_mm(&task);
    release_files(&task);
    // A zombie stays in the tree: it must not keep a mount or a directory busy.
    task.set_fs(nowhere());
    kernel.hooks.exit_task(&task);
    account(&kernel, &task);
    let (left, children) = {
        let mut tree = kernel.tree.write();
        (tree.remove_thread(&task), created_by(&tree, &task))
    };
    ptrace::thread_exited(&task, status, left == 0);
    ptrace::tracer_exits(&task);
    task.seccomp.clear();
    task.process.thread_wait.wake_all(Events::ALL);
    pressure::worked();
    task.pressure.ends();
    task.set_run_state(if task.is_leader() { RunState::Zombie } else { RunState::Dead });
    if left == 0 {
        // All other threads are gone. One of them may have called exit_group(2) since this one looked, woken by the
        // word that this one cleared on its way out (a join); from here nobody can change the status any more.
        let status = task.process.group_exit.lock().unwrap_or(status);
        exit_process(&kernel, &task, status);
    }
    parent_died(&kernel, &task, children);
    task.set_ns(kernel.namespaces.clone());
    task.set_mm(None);
    *task.kick.lock() = None;
    cx.next = Some(Next::Exit);
}

/// Page faults and peak memory, which the host counts for the process as a whole.
fn account_memory(task: &Task) {
    if let Ok(mm) = task.mm() {
        usage::add_host(&mut task.process.dead_usage.lock(), mm.space().host_pid());
    }
}

/// Children that this very thread created.
fn created_by(tree: &crate::task::Tree, task: &Task) -> Vec<Arc<Process>> {
    let Some(own) = tree.get(task.process.pid) else { return Vec::new() };
    let children = own.children.iter().filter_map(|c| tree.get(*c));
    let made = |p: &&Arc<Process>| p.creator.load(Ordering::Relaxed) == task.tid;
    children.map(|c| &c.process).filter(made).cloned().collect()
}

/// PR_SET_PDEATHSIG (prctl(2)): the thread that created these processes is gone, another one stands in as
/// their creator.
fn parent_died(kernel: &Arc<Kernel>, task: &Task, children: Vec<Arc<Process>>) {
    if children.is_empty() {
        return;
    }
    let heir = {
        let tree = kernel.tree.read();
        let next = |pid: i32| tree.leader(pid).map(|t| t.tid);
        children.first().and_then(|c| tree.get(c.pid)).and_then(|c| next(c.parent)).unwrap_or(1)
    };
    for c in children {
        c.creator.store(heir, Ordering::Relaxed);
        for t in threads_of(kernel, &c) {
            let signo = t.personal.lock().pdeath_signal;
            if signo != 0 {
                let info = SigInfo { code: crate::signal::SI_USER, ..SigInfo::user(signo, task) };
                send_to_process(kernel, &c, info, false);
            }
        }
    }
}

fn account(kernel: &Kernel, task: &Task) {
    let own = usage::of_task(task);
    kernel.cgroups.thread_ended(task, own);
    task.process.dead_usage.lock().add(&own);
    task.process.dead_io.add(&task.io);
    kernel.count_dead(&own);
}

/// The last thread of a process is gone: children get a new parent, the parent is told.
fn exit_process(kernel: &Arc<Kernel>, task: &Arc<Task>, status: i32) {
    let process = &task.process;
    if process.pid == 1 {
        kernel.init_exited(status);
        return;
    }
    if process.unkillable.load(Ordering::Relaxed) {
        end_pid_namespace(kernel, task);
    }
    process.timers.clear();
    account_memory(task);
    kernel.hooks.exit_process(task);
    kernel.cgroups.exited(process);
    *process.exe.lock() = None;
    *process.running.lock() = None;
    let uid = task.cred().uid;
    let (parent, heir, orphan_zombies, hangup) = {
        let mut tree = kernel.tree.write();
        let heir = find_heir(&tree, process.pid);
        let children: Vec<i32> =
            tree.get(process.pid).map(|p| p.children.iter().copied().collect()).unwrap_or_default();
        let child_groups: Vec<(i32, i32)> =
            children.iter().filter_map(|c| tree.get(*c)).map(|c| (c.pgrp, c.session)).collect();
        let own = tree.get(process.pid).map(|p| (p.pgrp, p.session, p.parent));
        let zombies = tree.reparent(process.pid, heir);
        if let Some(p) = tree.get_mut(process.pid) {
            p.state = ChildState::Zombie(status);
        }
        // Groups that lose their last link to the session outside them: stopped members are continued
        // and told (setpgid(2), "orphaned process group").
        let mut hangup = Vec::new();
        for (pgrp, session) in child_groups.into_iter().chain(own.map(|o| (o.0, o.1))) {
            let was_linked = own.is_some_and(|o| o.1 == session);
            let stopped = tree.group(pgrp).iter().any(|m| {
                tree.get(*m).is_some_and(|p| matches!(p.state, ChildState::Stopped { .. }))
            });
            if was_linked
                && stopped
                && tree.is_orphaned(pgrp, process.pid)
                && !hangup.contains(&pgrp)
            {
                hangup.push(pgrp);
            }
        }
        let parent = own.and_then(|o| tree.get(o.2)).map(|p| p.process.clone());
        let heir = tree.get(heir).map(|p| p.process.clone());
        (parent, heir, zombies, hangup)
    };
    for pgrp in hangup {
        send_to_group(kernel, pgrp, SigInfo::kernel(libc::SIGHUP));
        send_to_group(kernel, pgrp, SigInfo::kernel(libc::SIGCONT));
    }
    if let Some(heir) = heir
        && !orphan_zombies.is_empty()
    {
        for z in orphan_zombies {
            notify_parent(kernel, &heir, z, 0, CLD_EXITED, 0);
            reap_if_unwanted(kernel, &heir, z);
        }
    }
    if let Some(parent) = parent {
        announce(kernel, process, &parent, uid, status);
    }
    process.exit_wait.wake_all(Events::READABLE);
}

/// The init of a pid namespace is gone: everything in the namespace is killed, and gone before the init
/// can be waited for (pid_namespaces(7)).
fn end_pid_namespace(kernel: &Arc<Kernel>, task: &Arc<Task>) {
    let me = &task.process;
    let ns = &me.pid_ns;
    ns.close();
    let others = || -> Vec<Arc<Process>> {
        let tree = kernel.tree.read();
        let inside = |p: &Arc<Process>| p.pid != me.pid && p.pid_ns.is_within(ns);
        tree.processes().map(|(_, e)| e.process.clone()).filter(inside).collect()
    };
    for p in others() {
        kill_process(kernel, &p);
    }
    let all_gone = || {
        let mut left = false;
        for p in others() {
            let mut tree = kernel.tree.write();
            let Some(e) = tree.get(p.pid) else { continue };
            match e.state {
                ChildState::Zombie(_) if e.parent == me.pid => tree.remove_process(p.pid),
                // Whoever outside waits for it will find it.
                ChildState::Zombie(_) => {}
                _ => left = true,
            }
        }
        (!left).then_some(())
    };
    let kind = WaitKind::Uninterruptible;
    // No signal ends such a wait.
    let _ = task.wait(&me.child_wait, Events::ALL, kind, None, "zap_pid_ns_processes", all_gone);
}

/// The init of the pid namespace, or the nearest ancestor in it that is a child subreaper (prctl(2)).
fn find_heir(tree: &crate::task::Tree, pid: i32) -> i32 {
    let Some(me) = tree.get(pid) else { return 1 };
    let ns = &me.process.pid_ns;
    let init = ns.init().filter(|i| *i != pid && tree.get(*i).is_some());
    let mut at = me.parent;
    while at > 1 && Some(at) != init {
        match tree.get(at) {
            Some(p) if !Arc::ptr_eq(&p.process.pid_ns, ns) => break,
            Some(p) if p.process.subreaper.load(Ordering::Relaxed) && !p.threads.is_empty() => {
                return at;
            }
            Some(p) => at = p.parent,
            None => break,
        }
    }
    init.unwrap_or(1)
}

/// SIGCHLD (or the child's exit signal) to the parent; a parent that ignores it gets no zombie.
fn announce(
    kernel: &Arc<Kernel>,
    process: &Arc<Process>,
    parent: &Arc<Process>,
    uid: u32,
    status: i32,
) {
    let signo = process.exit_signal.load(Ordering::Relaxed);
    let (code, value) = match status & 0x7f {
        0 => (CLD_EXITED, status >> 8 & 0xff),
        s if status & 0x80 != 0 => (CLD_DUMPED, s),
        s => (CLD_KILLED, s),
    };
    if signo == libc::SIGCHLD {
        let a = parent.sighand.lock().action(libc::SIGCHLD);
        let auto_reap = a.handler == SIG_IGN || a.flags & SA_NOCLDWAIT != 0;
        if auto_reap {
            // Before the parent hears of it, whose wait must not find it.
            kernel.tree.write().remove_process(process.pid);
        }
        if a.handler != SIG_IGN {
            notify_parent(kernel, parent, process.pid, uid, code, value);
        }
    } else if signo != 0 {
        let fields = SigFields::Child { pid: process.pid, uid, status: value, utime: 0, stime: 0 };
        send_to_process(kernel, parent, SigInfo { signo, errno: 0, code, fields }, false);
    }
    parent.wake_child_waiters();
}

/// A zombie that came to a new parent which ignores SIGCHLD disappears.
fn reap_if_unwanted(kernel: &Kernel, heir: &Process, pid: i32) {
    let a = heir.sighand.lock().action(libc::SIGCHLD);
    if a.handler == SIG_IGN || a.flags & SA_NOCLDWAIT != 0 {
        kernel.tree.write().remove_process(pid);
    }
}
