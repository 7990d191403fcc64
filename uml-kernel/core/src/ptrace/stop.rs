//! The stops of a tracee.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_base::Events;
use uml_platform::Syscall;

use super::{
    EMULATE, EVENT_EXEC, EVENT_STOP, Go, Place, Resume, STEP, SYSCALLS, Stop, TF, TRAP, option,
};
use crate::ctx::Ctx;
use crate::signal::{CLD_TRAPPED, SI_USER, SigFields, SigInfo, force_fault, notify_parent};
use crate::task::{Task, WaitKind};

/// si_code of a trap by a single step.
const TRAP_TRACE: i32 = 2;

/// What kind of stop it is, besides its code.
#[derive(Default)]
struct Kind {
    info: Option<SigInfo>,
    place: Place,
    group: bool,
    /// Not even death by another thread's exit_group(2) cuts it short (PTRACE_EVENT_EXIT).
    last: bool,
}

fn killed(task: &Task) -> bool {
    task.process.group_exit.lock().is_some_and(|s| s & 0x7f == libc::SIGKILL)
}

/// Rests until the tracer lets the tracee go on. `None` when it dies or is not traced any more; then a signal
/// that was to be delivered is.
fn rest(cx: &mut Ctx<'_>, code: i32, message: u64, kind: Kind) -> Option<Go> {
    let task = cx.task.clone();
    let kernel = task.kernel();
    let (Ok(mut regs), Ok(xstate)) = (cx.hw.regs(), cx.hw.xstate()) else { return None };
    // The flag was set for one step; a program's own stays.
    let mut regs_changed = false;
    if task.ptrace.flag(STEP) {
        regs_changed = regs.eflags & TF != 0;
        regs.eflags &= !TF;
    }
    let tracer = {
        let mut st = task.ptrace.state.lock();
        if st.tracer == 0 {
            return None;
        }
        st.message = message;
        st.ended = None;
        st.wake = false;
        st.stop = Some(Stop {
            code,
            unreported: true,
            regs,
            regs_changed,
            xstate,
            xstate_changed: false,
            info: kind.info,
            place: kind.place,
            listening: false,
            group: kind.group,
        });
        st.tracer_process
    };
    let tracer = kernel.tree.read().get(tracer).map(|p| p.process.clone());
    if let Some(p) = tracer {
        let uid = task.cred().uid;
        notify_parent(&kernel, &p, task.tid, uid, CLD_TRAPPED, code & 0x7f);
    }
    let over = || {
        let st = task.ptrace.state.lock();
        let go = st.ended.is_some() || st.tracer == 0 || st.wake;
        drop(st);
        let dies = if kind.last { killed(&task) } else { task.fatal_signal_pending() };
        (go || dies).then_some(())
    };
    let none = WaitKind::Traced;
    let _ = task.wait(&task.ptrace.queue, Events::ALL, none, None, "ptrace_stop", over);
    let (stop, go) = {
        let mut st = task.ptrace.state.lock();
        st.wake = false;
        match st.ended.take() {
            Some((stop, go)) => (Some(stop), Some(go)),
            None => (st.stop.take(), None),
        }
    };
    let how = go.map_or(Resume::Cont, |g| g.how);
    task.ptrace.set_flag(SYSCALLS, how == Resume::Syscall);
    task.ptrace.set_flag(STEP, matches!(how, Resume::Step | Resume::SysemuStep));
    task.ptrace.set_flag(EMULATE, matches!(how, Resume::Sysemu | Resume::SysemuStep));
    super::debug::apply(cx);
    let mut stop = stop?;
    if task.ptrace.flag(STEP) {
        stop.regs.eflags |= TF;
        stop.regs_changed = true;
    }
    if stop.xstate_changed {
        let _ = cx.hw.set_xstate(Some(&stop.xstate));
    }
    if stop.regs_changed {
        restart_call(&mut stop.regs);
        let _ = cx.hw.set_regs(&stop.regs);
    }
    cx.trace_regs = stop.regs_changed.then_some(stop.regs);
    if let Some(info) = stop.info {
        cx.trace_info = Some(info);
    }
    go
}

/// Registers that say "inside a call that is to be restarted" (a debugger put them back, or steps) point at the call's
/// instruction again, as the kernel does on the way back from a stop.
fn restart_call(regs: &mut uml_platform::Regs) {
    let restarts = RESTARTS.contains(&(regs.rax as i64));
    if regs.orig_rax as i64 >= 0 && restarts {
        regs.rax = regs.orig_rax;
        regs.rip = regs.rip.wrapping_sub(2);
        regs.orig_rax = u64::MAX;
    }
}

/// What a tracer sees of a call that a signal interrupted: ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND and
/// ERESTART_RESTARTBLOCK of the kernel.
const RESTARTS: [i64; 4] = [-512, -513, -514, -516];

/// The value that shows in the registers while an interrupted call's fate is open.
pub fn restart_value(rule: crate::signal::Restart) -> i64 {
    match rule {
        crate::signal::Restart::Always => RESTARTS[1],
        crate::signal::Restart::NoHand => RESTARTS[2],
        crate::signal::Restart::Block => RESTARTS[3],
        _ => RESTARTS[0],
    }
}

fn trap_info(task: &Task, code: i32) -> SigInfo {
    SigInfo { code, ..SigInfo::user(libc::SIGTRAP, task) }
}

/// A signal is about to be delivered: the tracer decides which (0: none). Gives the signal that goes on.
pub fn signal_stop(cx: &mut Ctx<'_>, info: SigInfo) -> Option<SigInfo> {
    let task = cx.task.clone();
    cx.trace_info = None;
    let kind = Kind { info: Some(info), ..Kind::default() };
    let go = rest(cx, info.signo, 0, kind);
    cx.trace_regs = None;
    let changed = cx.trace_info.take().unwrap_or(info);
    match go {
        // Not traced any more, or dying: as if nobody had asked.
        None => Some(info),
        Some(Go { signal: 0, .. }) => None,
        Some(Go { signal, .. }) if signal == changed.signo => Some(changed),
        Some(Go { signal, .. }) => {
            let tracer = task.ptrace.tracer_process();
            let fields = SigFields::Kill { pid: tracer, uid: task.cred().uid };
            Some(SigInfo { signo: signal, errno: 0, code: SI_USER, fields })
        }
    }
}

/// The process is stopped by `signo`: a tracee reports that to its tracer, once.
pub fn group_stop(cx: &mut Ctx<'_>, signo: i32) {
    let seized = cx.task.ptrace.seized();
    let (code, info) = if seized {
        (EVENT_STOP << 8 | signo, Some(trap_info(&cx.task, EVENT_STOP << 8 | signo)))
    } else {
        (signo, None)
    };
    // A stop for which the tracer was told to look again is part of this one.
    cx.task.ptrace.set_flag(TRAP, false);
    rest(cx, code, 0, Kind { info, group: seized, ..Kind::default() });
}

/// True when a stop that is not a signal is due.
pub fn trap_pending(task: &Task) -> bool {
    task.ptrace.traced() && task.ptrace.flag(TRAP)
}

/// The stop that PTRACE_INTERRUPT asked for, the first of an automatically attached child, or the end of a
/// group stop that is listened to.
pub fn interrupted(cx: &mut Ctx<'_>) {
    let task = cx.task.clone();
    task.ptrace.set_flag(TRAP, false);
    let stopped = task.process.sighand.lock().stop;
    let signo = stopped.unwrap_or(libc::SIGTRAP);
    let code = EVENT_STOP << 8 | signo;
    let info = Some(trap_info(&task, code));
    rest(cx, code, 0, Kind { info, group: stopped.is_some(), ..Kind::default() });
}

/// PTRACE_EVENT_* `number`, if its option is set. True when it stopped.
pub fn event(cx: &mut Ctx<'_>, number: i32, message: u64) -> bool {
    event_registers(cx, number, message).is_some()
}

/// As [`event`]; gives the registers if the tracer changed them.
pub fn event_registers(
    cx: &mut Ctx<'_>,
    number: i32,
    message: u64,
) -> Option<Option<uml_platform::Regs>> {
    let bit = 1 << number;
    if !cx.task.ptrace.has_option(bit) {
        return None;
    }
    let code = number << 8 | libc::SIGTRAP;
    let info = Some(trap_info(&cx.task, code));
    let last = number == super::EVENT_EXIT;
    let place = cx.trace_place.take().unwrap_or_default();
    rest(cx, code, message, Kind { info, place, last, ..Kind::default() });
    // Inside a call: what it returns is still to come.
    let changed = cx.trace_regs.take();
    if changed.is_some()
        && let Some(call) = cx.call
    {
        cx.hw.set_call(call);
    }
    Some(changed)
}

fn syscall_code(task: &Task) -> i32 {
    if task.ptrace.has_option(option::TRACESYSGOOD) { libc::SIGTRAP | 0x80 } else { libc::SIGTRAP }
}

/// Before a system call. Gives the call to make, which the tracer may have changed; `Err` with the value to
/// return when it is not to be made.
pub fn syscall_enter(cx: &mut Ctx<'_>, call: Syscall) -> Result<Syscall, i64> {
    let task = cx.task.clone();
    let emulate = task.ptrace.flag(EMULATE);
    if !task.ptrace.flag(SYSCALLS) && !emulate {
        return Ok(call);
    }
    const ENTRY: u64 = 1;
    let code = syscall_code(&task);
    let info = Some(trap_info(&task, code));
    let place = Place::Entry { nr: call.nr, args: call.args };
    rest(cx, code, ENTRY, Kind { info, place, ..Kind::default() });
    let changed = cx.trace_regs.take();
    let call = match changed {
        None => call,
        Some(r) => {
            let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
            let new = Syscall { nr: u64::from(r.orig_rax as u32), args, ..call };
            cx.hw.set_call(new);
            if r.orig_rax as i64 == -1 || r.orig_rax as u32 == u32::MAX {
                return Err(r.rax as i64);
            }
            new
        }
    };
    if emulate {
        return Err(changed.map_or(uml_abi::errno::ENOSYS.to_ret(), |r| r.rax as i64));
    }
    Ok(call)
}

/// After a system call that returned `value` (the codes of restarts included).
pub fn syscall_exit(cx: &mut Ctx<'_>, value: i64) {
    let task = cx.task.clone();
    if task.ptrace.flag(SYSCALLS) {
        const EXIT: u64 = 2;
        let code = syscall_code(&task);
        let info = Some(trap_info(&task, code));
        rest(cx, code, EXIT, Kind { info, place: Place::Exit { value }, ..Kind::default() });
        if cx.trace_regs.take().is_some() {
            cx.reply = crate::ctx::Reply::Registers;
        }
    } else if task.ptrace.flag(STEP) {
        // The processor would take one more instruction before it traps.
        let ip = cx.hw.regs().map_or(0, |r| r.rip);
        force_fault(&task, SigInfo::fault(libc::SIGTRAP, TRAP_TRACE, ip));
    }
}

/// A single-stepped tracee enters a handler.
pub fn step_into_handler(cx: &mut Ctx<'_>) {
    if cx.task.ptrace.traced() && cx.task.ptrace.flag(STEP) {
        let info = Some(trap_info(&cx.task, libc::SIGTRAP));
        rest(cx, libc::SIGTRAP, 0, Kind { info, ..Kind::default() });
        cx.trace_regs = None;
    }
}

/// The task runs a new program, whose context `cx` has; `former` is the tid that called execve(2).
pub fn after_exec(cx: &mut Ctx<'_>, former: i32) {
    let task: Arc<Task> = cx.task.clone();
    if !task.ptrace.traced() {
        return;
    }
    cx.call = None;
    let stepping = task.ptrace.flag(STEP);
    if !event(cx, EVENT_EXEC, former as u64) && !task.ptrace.seized() {
        let info = SigInfo { code: SI_USER, ..SigInfo::user(libc::SIGTRAP, &task) };
        task.pending.lock().add(info, u64::MAX);
        task.attention.store(true, Ordering::SeqCst);
    }
    if task.ptrace.flag(SYSCALLS) || stepping {
        syscall_exit(cx, 0);
    }
}

/// Takes the trap flag of a single step out of registers that a handler's frame will keep.
pub fn clear_step(task: &Task, regs: &mut uml_platform::Regs) {
    if task.ptrace.flag(STEP) {
        regs.eflags &= !TF;
    }
}
