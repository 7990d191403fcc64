//! Signals: actions, masks, sending, waiting for them.

use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::ctx::{Ctx, Reply};
use uml_core::signal::{
    self, NSIG, SI_TKILL, SI_USER, SIG_DFL, SIG_IGN, SIGINFO_SIZE, SS_AUTODISARM, SigAction,
    SigAltStack, SigInfo, UNBLOCKABLE, bit, broadcast, force_fault, may_signal, send_to_process,
    send_to_task,
};
use uml_core::task::{Task, WaitKind};
use uml_core::user;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::call;
use crate::table::Entry;

pub const TABLE: &[Entry] = &[
    call!(13, "rt_sigaction", rt_sigaction(Sig, Ptr, Ptr, Size)),
    call!(14, "rt_sigprocmask", rt_sigprocmask(Int, Ptr, Ptr, Size)),
    call!(15, "rt_sigreturn", rt_sigreturn()),
    call!(34, "pause", pause(), NoHand),
    call!(62, "kill", kill(Pid, Sig)),
    call!(127, "rt_sigpending", rt_sigpending(Ptr, Size)),
    call!(128, "rt_sigtimedwait", rt_sigtimedwait(Ptr, Ptr, Ptr, Size)),
    call!(129, "rt_sigqueueinfo", rt_sigqueueinfo(Pid, Sig, Ptr)),
    call!(130, "rt_sigsuspend", rt_sigsuspend(Ptr, Size), NoHand),
    call!(131, "sigaltstack", sigaltstack(Ptr, Ptr)),
    call!(200, "tkill", tkill(Pid, Sig)),
    call!(219, "restart_syscall", restart_syscall()),
    call!(234, "tgkill", tgkill(Pid, Pid, Sig)),
    call!(297, "rt_tgsigqueueinfo", rt_tgsigqueueinfo(Pid, Pid, Sig, Ptr)),
];

/// Made by a program itself there is nothing to go on with.
fn restart_syscall(_: &mut Ctx<'_>) -> Result<u64> {
    Err(EINTR)
}

/// `struct kernel_sigaction` on x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawAction {
    handler: u64,
    flags: u64,
    restorer: u64,
    mask: u64,
}
const _: () = assert!(size_of::<RawAction>() == 32);

fn check_set_size(size: usize) -> Result<()> {
    if size == 8 { Ok(()) } else { Err(EINVAL) }
}

fn valid(signo: i32) -> bool {
    (1..=NSIG as i32).contains(&signo)
}

fn rt_sigaction(cx: &mut Ctx<'_>, signo: i32, new: u64, old: u64, size: usize) -> Result<u64> {
    check_set_size(size)?;
    if !valid(signo) || new != 0 && bit(signo) & UNBLOCKABLE != 0 {
        return Err(EINVAL);
    }
    let wanted: Option<RawAction> =
        if new != 0 { Some(user::read_obj(&cx.task, new)?) } else { None };
    let task = cx.task.clone();
    let previous = {
        let mut hand = task.process.sighand.lock();
        let previous = hand.action(signo);
        if let Some(w) = wanted {
            let action = SigAction {
                handler: w.handler,
                flags: w.flags & signal::SA_KNOWN,
                restorer: w.restorer,
                mask: w.mask & !UNBLOCKABLE,
            };
            hand.set_action(signo, action);
            // Setting a signal to ignored discards it where it is pending (sigaction(2)).
            let ignored = action.handler == SIG_IGN
                || action.handler == SIG_DFL && bit(signo) & signal::IGNORED_BY_DEFAULT != 0;
            if ignored {
                hand.pending.flush(bit(signo));
                task.pending.lock().flush(bit(signo));
            }
        }
        previous
    };
    if old != 0 {
        let raw = RawAction {
            handler: previous.handler,
            flags: previous.flags,
            restorer: previous.restorer,
            mask: previous.mask,
        };
        user::write_obj(&cx.task, old, &raw)?;
    }
    Ok(0)
}

fn rt_sigprocmask(cx: &mut Ctx<'_>, how: i32, new: u64, old: u64, size: usize) -> Result<u64> {
    check_set_size(size)?;
    let before = cx.task.blocked();
    if new != 0 {
        let set: u64 = user::read_obj(&cx.task, new)?;
        let mask = match how {
            libc::SIG_BLOCK => before | set,
            libc::SIG_UNBLOCK => before & !set,
            libc::SIG_SETMASK => set,
            _ => return Err(EINVAL),
        };
        cx.task.set_blocked(mask);
    }
    if old != 0 {
        user::write_obj(&cx.task, old, &before)?;
    }
    Ok(0)
}

fn rt_sigreturn(cx: &mut Ctx<'_>) -> Result<u64> {
    if signal::sigreturn(cx).is_err() {
        force_fault(&cx.task, SigInfo::kernel(libc::SIGSEGV));
    }
    cx.reply = Reply::Registers;
    Ok(0)
}

fn pause(cx: &mut Ctx<'_>) -> Result<u64> {
    let never = || None::<()>;
    cx.task.sleep(WaitKind::Interruptible, None, "sys_pause", never)?;
    Err(EINTR)
}

fn rt_sigsuspend(cx: &mut Ctx<'_>, set: u64, size: usize) -> Result<u64> {
    check_set_size(size)?;
    let mask: u64 = user::read_obj(&cx.task, set)?;
    cx.task.begin_temporary_mask(mask);
    let never = || None::<()>;
    cx.task.sleep(WaitKind::Interruptible, None, "sigsuspend", never)?;
    Err(EINTR)
}

fn rt_sigpending(cx: &mut Ctx<'_>, set: u64, size: usize) -> Result<u64> {
    if size > 8 {
        return Err(EINVAL);
    }
    let pending = cx.task.pending_set() & cx.task.blocked();
    user::write_bytes(&cx.task, set, &pending.to_le_bytes()[..size])?;
    Ok(0)
}

fn rt_sigtimedwait(
    cx: &mut Ctx<'_>,
    set: u64,
    info: u64,
    timeout: u64,
    size: usize,
) -> Result<u64> {
    check_set_size(size)?;
    let set: u64 = user::read_obj::<u64>(&cx.task, set)? & !UNBLOCKABLE;
    let deadline = if timeout == 0 {
        None
    } else {
        let t: [i64; 2] = user::read_obj(&cx.task, timeout)?;
        if t[0] < 0 || !(0..1_000_000_000).contains(&t[1]) {
            return Err(EINVAL);
        }
        let d = Duration::new(t[0] as u64, t[1] as u32);
        uml_base::clock::now().checked_add(d)
    };
    let task = cx.task.clone();
    // While waiting, the signals of the set count as unblocked so that sending them wakes the task.
    let queue = task.process.signal_wait.clone();
    let take = || task.dequeue_signal(set);
    let got =
        task.wait(&queue, Events::ALL, WaitKind::Interruptible, deadline, "sigtimedwait", take);
    let got = match got {
        Ok(Some(got)) => got,
        Ok(None) => return Err(EAGAIN),
        // The signal that ended the wait may be one of the set.
        Err(e) => task.dequeue_signal(set).ok_or(e)?,
    };
    if info != 0 {
        user::write_bytes(&cx.task, info, &got.to_bytes())?;
    }
    Ok(got.signo as u64)
}

/// kill(2) rules for one process; signal 0 only checks.
fn kill_one(cx: &Ctx<'_>, pid: i32, signo: i32, info: SigInfo) -> Result<()> {
    let k = cx.task.kernel();
    let (leader, process) = {
        let tree = k.tree.read();
        // A thread id works too (kill(2) BUGS aside, Linux accepts it).
        let pid = tree.task(pid).map_or(pid, |t| t.process.pid);
        let p = tree.get(pid).ok_or(ESRCH)?;
        (tree.leader(pid), p.process.clone())
    };
    // A zombie can be signalled without effect.
    let Some(leader) = leader else {
        return if signo == 0 || valid(signo) { Ok(()) } else { Err(EINVAL) };
    };
    if signo != 0 && !valid(signo) {
        return Err(EINVAL);
    }
    if !may_signal(&cx.task, &leader, signo) {
        return Err(EPERM);
    }
    if signo != 0 && !send_to_process(&k, &process, info, false) {
        return Err(EAGAIN);
    }
    Ok(())
}

fn kill(cx: &mut Ctx<'_>, pid: i32, signo: i32) -> Result<u64> {
    let info = SigInfo::user(signo, &cx.task);
    if pid > 0 {
        kill_one(cx, cx.task.kernel_pid(pid)?, signo, info)?;
        return Ok(0);
    }
    if pid == -1 {
        if signo != 0 && !valid(signo) {
            return Err(EINVAL);
        }
        broadcast(&cx.task, (signo != 0).then_some(info), signo)?;
        return Ok(0);
    }
    if pid == i32::MIN {
        return Err(ESRCH);
    }
    let k = cx.task.kernel();
    let members = {
        let tree = k.tree.read();
        let group = match pid {
            0 => tree.get(cx.task.process.pid).map_or(0, |p| p.pgrp),
            _ => cx.task.kernel_pid(-pid)?,
        };
        tree.group(group)
    };
    let mut result = Err(ESRCH);
    for m in members {
        match kill_one(cx, m, signo, info) {
            Ok(()) => result = Ok(0),
            Err(e) if result.is_err() => result = Err(e),
            Err(_) => {}
        }
    }
    result
}

fn thread_kill(
    cx: &Ctx<'_>,
    tgid: Option<i32>,
    tid: i32,
    signo: i32,
    info: SigInfo,
) -> Result<u64> {
    if tid <= 0 || tgid.is_some_and(|t| t <= 0) {
        return Err(EINVAL);
    }
    let kernel_tid = cx.task.kernel_pid(tid)?;
    let target = cx.task.kernel().tree.read().task(kernel_tid).ok_or(ESRCH)?;
    if tgid.is_some_and(|t| t != cx.task.show_pid(target.process.pid)) {
        return Err(ESRCH);
    }
    if signo != 0 && !valid(signo) {
        return Err(EINVAL);
    }
    if !may_signal(&cx.task, &target, signo) {
        return Err(EPERM);
    }
    if signo != 0 && !send_to_task(&target, info, false) {
        return Err(EAGAIN);
    }
    Ok(0)
}

fn tkill_info(task: &Task, signo: i32) -> SigInfo {
    SigInfo { code: SI_TKILL, ..SigInfo::user(signo, task) }
}

fn tkill(cx: &mut Ctx<'_>, tid: i32, signo: i32) -> Result<u64> {
    thread_kill(cx, None, tid, signo, tkill_info(&cx.task, signo))
}

fn tgkill(cx: &mut Ctx<'_>, tgid: i32, tid: i32, signo: i32) -> Result<u64> {
    thread_kill(cx, Some(tgid), tid, signo, tkill_info(&cx.task, signo))
}

fn read_info(cx: &Ctx<'_>, signo: i32, addr: u64, own: bool) -> Result<SigInfo> {
    let b: [u8; SIGINFO_SIZE] = user::read_obj(&cx.task, addr)?;
    let mut info = SigInfo::from_bytes(&b);
    info.signo = signo;
    // Nobody else may be told a signal came from the kernel or kill(2) (rt_sigqueueinfo(2)).
    if !own && (info.code >= SI_USER || info.code == SI_TKILL) {
        return Err(EPERM);
    }
    Ok(info)
}

fn rt_sigqueueinfo(cx: &mut Ctx<'_>, pid: i32, signo: i32, addr: u64) -> Result<u64> {
    let info = read_info(cx, signo, addr, pid == cx.task.show_pid(cx.task.process.pid))?;
    if pid <= 0 {
        return Err(ESRCH);
    }
    kill_one(cx, cx.task.kernel_pid(pid)?, signo, info)?;
    Ok(0)
}

fn rt_tgsigqueueinfo(cx: &mut Ctx<'_>, tgid: i32, tid: i32, signo: i32, addr: u64) -> Result<u64> {
    let info = read_info(cx, signo, addr, tgid == cx.task.show_pid(cx.task.process.pid))?;
    thread_kill(cx, Some(tgid), tid, signo, info)
}

/// `stack_t`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct RawStack {
    sp: u64,
    flags: i32,
    pad: i32,
    size: u64,
}

fn sigaltstack(cx: &mut Ctx<'_>, new: u64, old: u64) -> Result<u64> {
    let task = cx.task.clone();
    let current = *task.altstack.lock();
    let enabled = current.flags & libc::SS_DISABLE == 0;
    let on_stack = enabled && current.flags & SS_AUTODISARM == 0 && {
        // Only this needs the registers: a program that has no alternate stack pays nothing.
        let sp = cx.hw.regs()?.rsp;
        current.contains(sp)
    };
    if new != 0 {
        let raw: RawStack = user::read_obj(&task, new)?;
        if on_stack {
            return Err(EPERM);
        }
        let mode = raw.flags & !SS_AUTODISARM;
        if mode != 0 && mode != libc::SS_DISABLE && mode != libc::SS_ONSTACK {
            return Err(EINVAL);
        }
        let stack = if mode == libc::SS_DISABLE {
            SigAltStack { flags: raw.flags, ..SigAltStack::default() }
        } else {
            if raw.size < libc::MINSIGSTKSZ as u64 {
                return Err(ENOMEM);
            }
            SigAltStack { sp: raw.sp, size: raw.size, flags: raw.flags & SS_AUTODISARM }
        };
        *task.altstack.lock() = stack;
    }
    if old != 0 {
        let flags = if !enabled {
            libc::SS_DISABLE
        } else if on_stack {
            libc::SS_ONSTACK
        } else {
            current.flags & SS_AUTODISARM
        };
        let raw = RawStack { sp: current.sp, flags, pad: 0, size: current.size };
        user::write_obj(&task, old, &raw)?;
    }
    Ok(0)
}
