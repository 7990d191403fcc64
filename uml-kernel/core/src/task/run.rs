//! The loop of a task: one event from guest code, served; then signals; then guest code again.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Errno;
use uml_abi::errno::*;
use uml_mm::Fault;
use uml_platform::{Context, Event, Exception, Kick, Next, Runner, Syscall};

use crate::cgroup::bandwidth::rest_while_throttled;
use crate::ctx::{Ctx, Reply};
use crate::kernel::{CallResult, Kernel};
use crate::ptrace;
use crate::seccomp::{self, Verdict};
use crate::signal::{
    self, Delivered, Restart, SEGV_ACCERR, SEGV_MAPERR, SigInfo, SyscallReturn, Trap,
    deliver_pending, force_fault,
};
use crate::task::Resource;
use crate::task::usage::Work;
use crate::task::{RunState, Task, dispatch, exit};

impl Runner for Task {
    fn attached(&self, kick: Arc<dyn Kick>) {
        self.pressure.runs();
        self.in_guest.store(true, Ordering::SeqCst);
        let old = self.kick.lock().replace(kick);
        if let Some(tid) = old.map(|k| k.host_tid()).filter(|t| *t != 0) {
            let spent = uml_host::sched::thread_cpu_ns(tid);
            self.user_ns_before.fetch_add(spent, Ordering::Relaxed);
        }
        self.follow_affinity();
        // What waits for it (a first stop for a tracer) comes before its first instruction.
        let held = self.process.cpu.check.load(Ordering::SeqCst);
        if self.kernel().gate.is_closed() || held || self.attention.load(Ordering::SeqCst) {
            self.kick_out();
        }
    }

    fn on_event(self: Arc<Self>, hw: &mut dyn Context, event: Event) -> Next {
        // Who sees it late kicks once too often.
        self.in_guest.store(false, Ordering::Release);
        self.sleeper.serve();
        let work = Work::begin(&self);
        if !matches!(event, Event::Undone(_)) {
            self.settled();
        }
        let mut cx = Ctx::new(self.clone(), hw);
        let mut ret = None;
        match event {
            Event::Syscall(call) => ret = cx.system_call(call),
            Event::Exception(e) => {
                cx.task.enter_other();
                exception(&mut cx, &e);
            }
            Event::Interrupted => cx.task.enter_other(),
            Event::Undone(error) => cx.undo(error),
            Event::Died => {
                // Outside forces took the host process: the guest sees a SIGKILL.
                exit::begin_group_exit(&cx.task, libc::SIGKILL);
            }
        }
        let next = cx.leave(ret);
        work.end(&self);
        next
    }
}

impl Task {
    /// A host call that was let through, or left for last, is done.
    fn settled(&self) {
        if self.unsettled.load(Ordering::Relaxed) {
            self.unsettled.store(false, Ordering::Relaxed);
            if let Ok(mm) = self.mm() {
                mm.settled(self.tid);
            }
        }
    }
}

/// What is made for `call`: restart_syscall(2) is the call that a signal interrupted.
fn resumed(call: Syscall, begun: Option<Syscall>) -> Syscall {
    match begun {
        Some(b) if call.nr == libc::SYS_restart_syscall as u64 => b,
        _ => call,
    }
}

impl Ctx<'_> {
    /// The host refused the call that was left for last.
    fn undo(&mut self, error: Errno) {
        if self.task.unsettled.swap(false, Ordering::Relaxed)
            && let Ok(mm) = self.task.mm()
        {
            let value = mm.undo(self.hw, self.task.tid, error);
            self.hw.set_return(value);
        }
    }

    /// Runs one system call; what signal delivery needs to know comes back when the return value was
    /// set in the ordinary way.
    fn system_call(&mut self, mut call: Syscall) -> Option<SyscallReturn> {
        let _signals = crate::file::async_notify::Call::new();
        let dispatched = self.task.user_dispatch.load(Ordering::Relaxed);
        if dispatched && let Some(value) = dispatch::intercept(self, &call) {
            self.hw.set_return(value);
            let rule = Restart::Never;
            return Some(SyscallReturn { nr: call.nr, ip: call.ip, interrupted: false, rule });
        }
        // The call that restart_syscall(2) goes on with.
        let mut begun = None;
        loop {
            self.task.enter_call(call.nr);
            self.task.restart.set(Restart::Table);
            self.reply = Reply::Value;
            self.call = Some(call);
            let traced = self.task.ptrace.minds_calls();
            let mut skipped = None;
            if traced {
                match ptrace::syscall_enter(self, call) {
                    Ok(c) => call = c,
                    Err(value) => skipped = Some(value),
                }
                self.call = Some(call);
                if self.task.fatal_signal_pending() {
                    return None;
                }
            }
            let result = match skipped {
                None if self.task.seccomp.mode() == seccomp::DISABLED => {
                    Kernel::system_call(self, resumed(call, begun))
                }
                None => match seccomp::check(self, call) {
                    Verdict::Allow(c) => {
                        call = c;
                        self.call = Some(c);
                        Kernel::system_call(self, resumed(c, begun))
                    }
                    Verdict::Return(v) => CallResult { value: Ok(v as u64), rule: Restart::Never },
                    Verdict::Interrupted => CallResult { value: Err(EINTR), rule: Restart::Sys },
                    Verdict::Done => return None,
                },
                Some(v) => CallResult { value: Ok(v as u64), rule: Restart::Never },
            };
            match self.reply {
                Reply::Value => {}
                Reply::PassThrough if self.task.ptrace.minds_calls() => {
                    // The host makes the call now, so that its result shows in the stop.
                    self.hw.pass_through();
                    let value = self.hw.complete().unwrap_or(0);
                    self.task.settled();
                    self.reply = Reply::Value;
                    ptrace::syscall_exit(self, value);
                    return None;
                }
                Reply::PassThrough => {
                    self.hw.pass_through();
                    return None;
                }
                Reply::Registers => {
                    if self.next.is_none() && self.task.ptrace.minds_calls() {
                        let value = self.hw.regs().map_or(0, |r| r.rax as i64);
                        ptrace::syscall_exit(self, value);
                    }
                    return None;
                }
            }
            if self.next.is_some() {
                return None;
            }
            let value = match result.value {
                Ok(v) => v as i64,
                Err(e) => e.to_ret(),
            };
            let rule = match self.task.restart.get() {
                Restart::Table => result.rule,
                other => other,
            };
            let interrupted = value == EINTR.to_ret() && rule != Restart::Never;
            let shown = match interrupted && self.task.ptrace.traced() {
                true => ptrace::restart_value(rule),
                false => value,
            };
            self.hw.set_return(shown);
            if self.task.ptrace.minds_calls() {
                ptrace::syscall_exit(self, shown);
                if self.reply == Reply::Registers {
                    return None;
                }
            }
            let ret = SyscallReturn { nr: call.nr, ip: call.ip, interrupted, rule };
            if !interrupted || self.task.fatal_signal_pending() {
                return Some(ret);
            }
            // If no handler runs for what interrupted the call, the call simply goes on.
            match deliver_pending(self, Some(ret)) {
                Delivered::Handler => {
                    self.reply = Reply::Registers;
                    return None;
                }
                Delivered::Nothing => {
                    self.task.end_temporary_mask(false);
                    if self.task.fatal_signal_pending() {
                        return Some(ret);
                    }
                    if rule == Restart::Block {
                        begun.get_or_insert(call);
                        call.nr = libc::SYS_restart_syscall as u64;
                    }
                    self.hw.set_call(call);
                }
            }
        }
    }

    /// The vDSO's page of clocks is that of the task's time namespace again.
    fn renew_clocks(&mut self) {
        if !self.task.stale_clocks.swap(false, Ordering::SeqCst) {
            return;
        }
        let ns = self.task.ns();
        if let (Some(v), Ok(mm)) = (self.kernel.vdso.get(), self.task.mm())
            && let Err(e) = v.renew(self.hw, &mm, &ns.time)
        {
            // A program with wrong clocks must not go on.
            uml_base::pr_err!(
                "time namespace: process {} cannot have its clocks: {e}",
                self.task.process.pid
            );
            exit::begin_group_exit(&self.task, libc::SIGKILL);
        }
    }

    /// The way back to guest code.
    fn leave(mut self, mut ret: Option<SyscallReturn>) -> Next {
        loop {
            if let Some(next) = self.next.take() {
                if let Next::Switch(mut hw) = next {
                    if self.task.ptrace.traced() {
                        let mut new = Ctx::new(self.task.clone(), &mut *hw);
                        ptrace::after_exec(&mut new, self.task.tid);
                        deliver_pending(&mut new, None);
                    }
                    if !self.task.fatal_signal_pending() {
                        return Next::Switch(hw);
                    }
                    continue;
                }
                if matches!(next, Next::Exit) {
                    return next;
                }
            }
            if self.task.fatal_signal_pending() {
                exit::exit_task(&mut self, None);
                return Next::Exit;
            }
            let stopped = self.kernel.gate.is_closed();
            let throttled = self.task.process.cpu.check.load(Ordering::SeqCst);
            let rests = stopped || throttled;
            if self.reply != Reply::PassThrough
                && self.task.unsettled.load(Ordering::Relaxed)
                && (rests || self.task.attention.load(Ordering::SeqCst))
            {
                // So must this one, and then it has happened.
                match self.hw.finish_ops() {
                    Ok(()) => self.task.settled(),
                    Err(e) => self.undo(e),
                }
            }
            if self.reply == Reply::PassThrough
                && (rests || self.task.attention.load(Ordering::SeqCst))
            {
                // The host call must happen first; the kick makes it come back at once.
                self.task.in_guest.store(true, Ordering::SeqCst);
                self.hw.kick_handle().kick();
                return Next::Resume;
            }
            if stopped {
                self.kernel.blocking(&mut || self.kernel.gate.pass());
                continue;
            }
            if throttled {
                rest_while_throttled(&self.task);
                continue;
            }
            if self.task.attention.load(Ordering::SeqCst) {
                self.renew_clocks();
                if deliver_pending(&mut self, ret) == Delivered::Handler {
                    // A further signal may push a frame on top of this one.
                    self.reply = Reply::Registers;
                    ret = None;
                }
                self.task.recheck_signals();
                if self.task.fatal_signal_pending() {
                    continue;
                }
            }
            self.task.end_temporary_mask(false);
            self.task.set_run_state(RunState::Running);
            self.task.in_guest.store(true, Ordering::SeqCst);
            let held = self.task.process.cpu.check.load(Ordering::SeqCst);
            if !self.task.attention.load(Ordering::SeqCst) && !held && !self.kernel.gate.is_closed()
            {
                return Next::Resume;
            }
            self.task.in_guest.store(false, Ordering::SeqCst);
        }
    }
}

/// A processor exception: a page fault the memory map can resolve, or a signal.
fn exception(cx: &mut Ctx<'_>, e: &Exception) {
    let task = cx.task.clone();
    let mut code = e.code;
    const PAGE_FAULT: u64 = 14;
    if e.trapno == PAGE_FAULT && e.signo == libc::SIGSEGV {
        let Ok(mm) = task.mm() else { return };
        let (write, exec) = (e.err & 2 != 0, e.err & 16 != 0);
        match mm.fault(cx.hw, e.addr, write, exec) {
            Fault::Resolved => return,
            Fault::NotMapped => {
                let (stack, space) = (task.rlimit(Resource::Stack), task.rlimit(Resource::As));
                if mm.grow_down(cx.hw, e.addr, stack, space) {
                    return;
                }
                code = SEGV_MAPERR;
            }
            Fault::Access => code = SEGV_ACCERR,
        }
    }
    if e.signo == libc::SIGTRAP {
        crate::ptrace::trapped(cx, code);
    }
    *task.trap.lock() =
        Trap { trapno: e.trapno, err: e.err, cr2: if e.trapno == PAGE_FAULT { e.addr } else { 0 } };
    // A general-protection fault has no address: SI_KERNEL, as on Linux.
    let info = if code == signal::SI_KERNEL {
        SigInfo { fields: signal::SigFields::Fault { addr: 0 }, ..SigInfo::kernel(e.signo) }
    } else {
        SigInfo::fault(e.signo, code, e.addr)
    };
    force_fault(&task, info);
}
