//! Delivering signals on the way back to guest code.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_base::Events;

use super::frame;
use super::*;
use crate::ctx::Ctx;
use crate::ptrace;
use crate::task::WaitKind;
use crate::task::exit::begin_group_exit;
use crate::task::tree::ChildState;

/// What a system call returned, as far as signal delivery must know it.
#[derive(Clone, Copy, Debug)]
pub struct SyscallReturn {
    /// Number, to run it again.
    pub nr: u64,
    /// Address after the instruction.
    pub ip: u64,
    /// It ended with EINTR because of a signal.
    pub interrupted: bool,
    pub rule: Restart,
}

/// Outcome of looking at the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Nothing changed the guest's course.
    Nothing,
    /// A handler frame was pushed: the registers are final.
    Handler,
}

/// Handles every deliverable signal, stop and death of the task. `ret` describes the system call being
/// left, if there is one.
pub fn deliver_pending(cx: &mut Ctx<'_>, ret: Option<SyscallReturn>) -> Delivered {
    let task = cx.task.clone();
    let mut ret = ret;
    // A tracer changed the registers: the guest goes on with them.
    let mut replaced = false;
    loop {
        if task.fatal_signal_pending() {
            return Delivered::Nothing;
        }
        if cx.trace_regs.take().is_some() {
            ret = None;
            replaced = true;
        }
        if ptrace::trap_pending(&task) {
            ptrace::interrupted(cx);
            task.recheck_signals();
            continue;
        }
        if take_part_in_stop(cx, &task) || crate::cgroup::rest_in_freezer(&task) {
            continue;
        }
        let next = {
            let mut hand = task.process.sighand.lock();
            let allowed = !task.blocked();
            let own = task.pending.lock().take(allowed);
            own.or_else(|| hand.pending.take(allowed))
        };
        task.recheck_signals();
        let Some(mut info) = next else {
            return if replaced { Delivered::Handler } else { Delivered::Nothing };
        };
        crate::time::posix::taken(&task.process, &mut info);
        if task.ptrace.traced() && info.signo != libc::SIGKILL {
            let Some(chosen) = ptrace::signal_stop(cx, info) else { continue };
            if cx.trace_regs.take().is_some() {
                ret = None;
                replaced = true;
            }
            info = chosen;
            if bit(info.signo) & task.blocked() != 0 {
                task.pending.lock().add(info, u64::MAX);
                task.recheck_signals();
                continue;
            }
        }
        let info = info.seen_by(&task);
        let action = task.process.sighand.lock().action(info.signo);
        match action.handler {
            SIG_IGN => continue,
            SIG_DFL => default_action(&task, &info),
            _ => {
                if push_handler(cx, &action, &info, ret) {
                    return Delivered::Handler;
                }
            }
        }
    }
}

fn default_action(task: &Arc<Task>, info: &SigInfo) {
    let b = bit(info.signo);
    if b & IGNORED_BY_DEFAULT != 0 {
        return;
    }
    // Init ignores what it has no handler for, unless it is a fault of its own.
    let fault = matches!(info.fields, SigFields::Fault { .. } | SigFields::Sys { .. });
    if task.process.unkillable.load(Ordering::Relaxed) && !fault && b & UNBLOCKABLE == 0 {
        return;
    }
    if b & STOPPING != 0 {
        if info.signo != libc::SIGSTOP {
            let kernel = task.kernel();
            let tree = kernel.tree.read();
            if tree.get(task.process.pid).is_some_and(|p| tree.is_orphaned(p.pgrp, 0)) {
                return;
            }
        }
        begin_stop(task, info.signo);
        return;
    }
    let mut status = info.signo;
    if b & CORE_DUMPING != 0 && task.rlimit(crate::task::Resource::Core) > 0 {
        status |= 0x80;
    }
    begin_group_exit(task, status);
}

/// Starts stopping the whole process.
fn begin_stop(task: &Arc<Task>, signo: i32) {
    let kernel = task.kernel();
    let threads = threads_of(&kernel, &task.process);
    {
        let mut hand = task.process.sighand.lock();
        if hand.stop.is_some() {
            return;
        }
        hand.stop = Some(signo);
        hand.stop_number += 1;
        hand.stop_left = threads.len();
    }
    for t in &threads {
        t.notice();
    }
}

/// Sleeps while the process is stopped; returns whether it was.
fn take_part_in_stop(cx: &mut Ctx<'_>, task: &Arc<Task>) -> bool {
    let kernel = task.kernel();
    let (signo, last, resume) = {
        let mut hand = task.process.sighand.lock();
        let Some(signo) = hand.stop else { return false };
        if task.ptrace.saw_group_stop(hand.stop_number) {
            return false;
        }
        task.ptrace.note_group_stop(hand.stop_number);
        let last = if hand.stop_left > 0 {
            hand.stop_left -= 1;
            hand.stop_left == 0
        } else {
            false
        };
        (signo, last, hand.resume.clone())
    };
    if last {
        let parent = {
            let mut tree = kernel.tree.write();
            let parent = tree.get_mut(task.process.pid).map(|p| {
                p.state = ChildState::Stopped { signal: signo, reported: false };
                p.parent
            });
            parent.and_then(|pp| tree.get(pp)).map(|p| p.process.clone())
        };
        if let Some(parent) = parent {
            notify_parent(&kernel, &parent, task.process.pid, task.cred().uid, CLD_STOPPED, signo);
        }
    }
    if task.ptrace.traced() {
        ptrace::group_stop(cx, signo);
        task.recheck_signals();
        return true;
    }
    let process = task.process.clone();
    let stopped = || {
        let over = process.sighand.lock().stop.is_none();
        // Somebody begins to trace: the stop is reported to the tracer instead.
        let traced = task.ptrace.traced();
        if traced && !over {
            task.ptrace.note_group_stop(0);
        }
        (over || traced).then_some(())
    };
    // Only SIGCONT and death end this; both change what is checked here or make the wait fail.
    let _ = task.wait(&resume, Events::ALL, WaitKind::Stopped, None, "do_signal_stop", stopped);
    true
}

/// Pushes a frame for a handler; on failure the process gets SIGSEGV. Returns whether a handler runs.
fn push_handler(
    cx: &mut Ctx<'_>,
    action: &SigAction,
    info: &SigInfo,
    ret: Option<SyscallReturn>,
) -> bool {
    let task = cx.task.clone();
    let Ok(mut regs) = cx.hw.regs() else {
        task.dying.store(true, Ordering::SeqCst);
        return false;
    };
    if let Some(r) = ret
        && r.interrupted
        && (r.rule == Restart::Always || r.rule == Restart::Sys && action.flags & SA_RESTART != 0)
    {
        // Back onto the two-byte instruction, with the number where it was.
        regs.rip = r.ip.wrapping_sub(2);
        regs.rax = r.nr;
    } else if ret.is_some_and(|r| r.interrupted) {
        regs.rax = uml_abi::errno::EINTR.to_ret() as u64;
    }
    ptrace::clear_step(&task, &mut regs);
    let restore_mask = task.saved_sigmask.lock().take().unwrap_or_else(|| task.blocked());
    match frame::push(cx, regs, action, info, restore_mask) {
        Ok(()) => {
            let mut mask = task.blocked() | action.mask;
            if action.flags & SA_NODEFER == 0 {
                mask |= bit(info.signo);
            }
            if action.flags & SA_RESETHAND != 0 {
                let hand = task.process.sighand.lock();
                hand.set_action(info.signo, SigAction { handler: SIG_DFL, ..*action });
            }
            task.set_blocked(mask);
            ptrace::step_into_handler(cx);
            true
        }
        Err(_) => {
            // No room for the frame: SIGSEGV, and if that was the signal, its default action.
            if info.signo == libc::SIGSEGV {
                let hand = task.process.sighand.lock();
                hand.set_action(libc::SIGSEGV, SigAction::default());
            }
            force_fault(&task, SigInfo::kernel(libc::SIGSEGV));
            false
        }
    }
}
