//! A guest thread: kicks, registers, memory calls, thread and process creation.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use uml_abi::{Errno, Result, errno};
use uml_stub::entry;

use super::machine::Machine;
use super::rseq;
use super::space::GuestSpace;
use super::tracee::{Go, Stop, Tracee};
use crate::api::{
    self, Context, DebugRegs, Event, Exception, Kick, MemOp, Regs, Runner, Space, Stance, Syscall,
};
use crate::debug::Access;
use crate::hostcall::{self, Call};
use crate::paired::{self, Paired, Resumed};
use crate::pool::{Pool, Reservation};
use crate::seat::Seat;
use crate::seccomp::filter::{ARCH, X32_BIT};
use crate::seccomp::frame::{self, Xstate};
use crate::seccomp::stopped::{ENOSYS, Outcome, check_bases};
use crate::sys;
use crate::zygote::INTERRUPT;

/// What others may know of a context.
#[derive(Default)]
struct State {
    /// Guest code runs, or is about to.
    running: bool,
    /// A kick came while it did not.
    kick: bool,
    /// The context is over, though its process may live.
    gone: bool,
    /// The guest's registers, when those that the host has may be the stub's.
    stopped: Option<api::Stopped>,
}

pub struct Ctx {
    pub space: Arc<GuestSpace>,
    tid: i32,
    seat: Arc<Seat>,
    state: Mutex<State>,
    _reservation: Reservation,
}

impl Ctx {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) {
        // An error means that it is dead, which its tracer hears from the host.
        self.space.process.with_pid(|pid| sys::tgkill(pid, self.tid, INTERRUPT).ok());
    }
}

impl Kick for Ctx {
    fn kick(&self) {
        let mut st = self.lock();
        if !st.running {
            st.kick = true;
        } else if !st.gone {
            self.signal();
        }
    }

    fn host_tid(&self) -> i32 {
        if self.lock().gone || self.space.process.is_gone() { 0 } else { self.tid }
    }

    fn confine(&self, cpus: &[usize]) -> Result<()> {
        match self.host_tid() {
            0 => Ok(()),
            _ => self.seat.confine(cpus),
        }
    }

    fn stance(&self) -> Stance {
        let st = self.lock();
        match st.stopped {
            _ if st.running || st.gone => Stance::Running,
            Some(s) => Stance::Stopped(s),
            None => Stance::InHostCall,
        }
    }
}

/// Where the guest thread is.
#[derive(Clone, Copy)]
enum At {
    /// Waiting in the stub, untraced.
    Parked,
    /// Stopped, traced by the thread that holds the context.
    Held(Tracee),
    /// Traced, killed, not seen dead yet.
    Dying(Tracee),
    Gone,
}

/// A stopped context, held exclusively.
pub struct Cx {
    machine: Arc<Machine>,
    pub cx: Arc<Ctx>,
    space: Arc<dyn Space>,
    at: At,
    call: Option<Syscall>,
    outcome: Outcome,
    /// Guest registers, unless they are still where the host keeps them.
    regs: Option<Regs>,
    /// `regs` differ from what the host has.
    dirty: bool,
    /// Return value to be put into registers that are not loaded.
    rax: Option<i64>,
    /// The extended state is the kernel process's, not a guest's.
    raw: bool,
    /// Made but never started: dropping it ends the process.
    unstarted: bool,
    /// The thread's registration with rseq(2).
    rseq: Option<rseq::Area>,
}

/// The registers the kernel above gave, made safe.
fn sanitised(r: &Regs) -> Regs {
    Regs {
        orig_rax: u64::MAX,
        cs: frame::USER_CS,
        ss: frame::USER_DS,
        eflags: r.eflags & frame::USER_FLAGS | frame::FLAGS_FIXED,
        ds: 0,
        es: 0,
        fs: 0,
        gs: 0,
        ..*r
    }
}

impl Cx {
    fn new(space: &Arc<GuestSpace>, tid: i32, regs: &Regs, reservation: Reservation) -> Cx {
        let machine = space.machine.clone();
        let seat = machine.seats.seat();
        seat.set_guest(space.process.raw_pid(), tid);
        let cx = Arc::new(Ctx {
            space: space.clone(),
            tid,
            seat,
            state: Mutex::default(),
            _reservation: reservation,
        });
        Cx {
            machine,
            cx,
            space: space.clone(),
            at: At::Parked,
            call: None,
            outcome: Outcome::None,
            regs: Some(sanitised(regs)),
            dirty: true,
            rax: None,
            raw: false,
            unstarted: false,
            rseq: None,
        }
    }

    /// The context of a process that the zygote made.
    pub fn fresh(space: &Arc<GuestSpace>, reservation: Reservation) -> Cx {
        let mut c = Cx::new(space, space.process.raw_pid(), &Regs::default(), reservation);
        c.raw = true;
        c.unstarted = true;
        c
    }

    fn entry(&self, offset: usize) -> u64 {
        self.machine.base.region.base + offset as u64
    }

    /// The thread is dead and, unless it is its process's first, reaped.
    fn gone(&mut self) -> Errno {
        self.at = At::Gone;
        errno::ESRCH
    }

    /// The thread is dying, or cannot be controlled any more and shall die.
    fn lost(&mut self, t: Tracee) -> Errno {
        self.cx.space.process.kill();
        self.at = At::Dying(t);
        errno::ESRCH
    }

    /// Follows a dying thread to its end, unless it is the first of a process with others,
    /// which ends only after them.
    fn see_off(&mut self, t: Tracee, alone: bool) {
        // It may be stopped on its way out. A failure means that it is not.
        t.resume(Go::Native, 0).ok();
        if alone || !self.is_first() {
            while t.wait() != Stop::Dead {
                t.resume(Go::Native, 0).ok();
            }
        }
        self.at = At::Gone;
    }

    /// Whether it is the first thread of its process.
    fn is_first(&self) -> bool {
        self.cx.tid == self.cx.space.process.raw_pid()
    }

    /// The thread, stopped and traced by the caller; `ESRCH` when it is dead.
    pub fn hold(&mut self) -> Result<Tracee> {
        match self.at {
            At::Held(t) => return Ok(t),
            At::Dying(_) | At::Gone => return Err(errno::ESRCH),
            At::Parked => {}
        }
        let tid = self.cx.tid;
        let process = &self.cx.space.process;
        let t = process.with_pid(|pid| Tracee::seize(pid, tid)).ok_or(errno::ESRCH)??;
        let may = |cpu: &usize| self.machine.seats.several() && self.cx.seat.allows(*cpu);
        if let Some(cpu) = sys::current_cpu().filter(may) {
            // Where it runs is a matter of speed only.
            sys::set_affinity_of(tid, &[cpu]).ok();
        }
        let mut done = t.interrupt();
        while done.is_ok() {
            match t.wait() {
                Stop::Attached => break,
                Stop::Dead => return Err(self.gone()),
                Stop::Exiting => return Err(self.lost(t)),
                // In the stub, where nothing is to be emulated.
                _ => done = t.resume(Go::Native, 0),
            }
        }
        done = done.and_then(|()| t.set_blocked(0));
        if std::mem::take(&mut self.raw) {
            done = done.and_then(|()| self.machine.reset_xstate(t));
        }
        if done.is_err() {
            return Err(self.lost(t));
        }
        self.at = At::Held(t);
        Ok(t)
    }

    /// Parks the thread again, for another thread to trace it.
    pub fn let_go(&mut self) -> Result<()> {
        let At::Held(t) = self.at else { return Ok(()) };
        self.load()?;
        self.dirty = true;
        if self.park(t).is_err() {
            return Err(self.lost(t));
        }
        self.at = At::Parked;
        Ok(())
    }

    fn park(&self, t: Tracee) -> Result<()> {
        let r = Regs { r12: sys::getpid() as u64, ..self.stub_regs(entry::park()) };
        self.leave_to_stub(t, &r)
    }

    /// Lets the thread go on in the stub, untraced.
    fn leave_to_stub(&self, t: Tracee, r: &Regs) -> Result<()> {
        t.set_regs(r)?;
        // No signal may lead it out of there, such as a kick that came too late.
        t.set_blocked(!0)?;
        t.detach()
    }

    /// Registers for running stub code. Segment bases stay the guest's.
    fn stub_regs(&self, offset: usize) -> Regs {
        let guest = self.regs.unwrap_or_default();
        Regs { rip: self.entry(offset), eflags: frame::FLAGS_FIXED, rsp: 0, ..sanitised(&guest) }
    }

    /// Loads the guest's registers.
    fn load(&mut self) -> Result<&mut Regs> {
        let t = self.hold()?;
        let mut r = match self.regs {
            Some(r) => r,
            None => {
                let r = t.regs().map_err(|_| self.lost(t))?;
                self.cx.lock().stopped = Some((&r).into());
                Regs { orig_rax: u64::MAX, ..r }
            }
        };
        if let Some(v) = self.rax.take() {
            r.rax = v as u64;
            self.dirty = true;
        }
        Ok(self.regs.insert(r))
    }

    fn set_rax(&mut self, v: i64) {
        match &mut self.regs {
            Some(r) => {
                r.rax = v as u64;
                self.dirty = true;
            }
            None => self.rax = Some(v),
        }
    }

    /// Makes the outcome of a pending call part of the registers.
    fn settle(&mut self) {
        match std::mem::replace(&mut self.outcome, Outcome::None) {
            Outcome::None | Outcome::Pass => {}
            Outcome::Open => self.set_rax(ENOSYS),
            Outcome::Value(v) => self.set_rax(v),
        }
    }

    fn note_kick(&self) {
        self.cx.lock().kick = true;
    }

    /// Runs stub code in the thread up to its breakpoint; returns rax. `EFAULT` for a fault
    /// on the way.
    fn native(&mut self, offset: usize, set: impl FnOnce(&mut Regs)) -> Result<i64> {
        self.load()?;
        let t = self.hold()?;
        let mut r = self.stub_regs(offset);
        set(&mut r);
        self.dirty = true;
        let mut go = t.set_regs(&r).and_then(|()| t.resume(Go::Native, 0));
        loop {
            if go.is_err() {
                return Err(self.lost(t));
            }
            match t.wait() {
                Stop::Dead => return Err(self.gone()),
                Stop::Exiting => return Err(self.lost(t)),
                Stop::Signal(libc::SIGTRAP) if by_host(t) => {
                    let r = t.regs().map_err(|_| self.lost(t))?;
                    return Ok(r.rax as i64);
                }
                Stop::Signal(libc::SIGSEGV | libc::SIGBUS) if by_host(t) => {
                    return Err(errno::EFAULT);
                }
                Stop::Signal(INTERRUPT) => self.note_kick(),
                _ => {}
            }
            go = t.resume(Go::Native, 0);
        }
    }

    /// Has the thread make a host call; its raw result.
    fn call(&mut self, c: &Call) -> Result<i64> {
        let [rdi, rsi, rdx, r10, r8, r9] = c.args;
        self.native(entry::call(), |r| {
            (r.rax, r.rdi, r.rsi, r.rdx) = (c.nr as u64, rdi, rsi, rdx);
            (r.r10, r.r8, r.r9) = (r10, r8, r9);
        })
    }

    /// clone(2): the new thread's id.
    fn clone_host(&mut self, flags: u64) -> Result<i32> {
        let tid = self.native(entry::clone(), |r| {
            (r.rax, r.rdi, r.rsi, r.rdx) = (libc::SYS_clone as u64, flags, 0, 0);
            (r.r10, r.r8, r.r12) = (0, 0, sys::getpid() as u64);
        })?;
        match i32::try_from(tid) {
            Ok(tid) if tid > 0 => Ok(tid),
            _ => Err(Errno::from_raw(tid.wrapping_neg() as i32)),
        }
    }

    /// Has the host deliver the signal the thread is stopped with to the stub, and returns
    /// the address of the frame's ucontext. Registers and extended state are the guest's
    /// no more.
    fn catch(&mut self, t: Tracee, signo: i32) -> Result<u64> {
        let top = self.machine.base.region.slots + self.machine.frames as u64;
        let mut r = self.regs.unwrap_or_default();
        r.rsp = top;
        let mut go = t.set_regs(&r).and_then(|()| t.resume(Go::Emulate, signo));
        loop {
            if go.is_err() {
                return Err(self.lost(t));
            }
            match t.wait() {
                Stop::Dead => return Err(self.gone()),
                Stop::Exiting => return Err(self.lost(t)),
                Stop::Call => break,
                Stop::Signal(INTERRUPT) => self.note_kick(),
                // No room for the frame: not a state that a guest can bring about.
                Stop::Signal(libc::SIGSEGV) if by_host(t) => return Err(self.lost(t)),
                _ => {}
            }
            go = t.resume(Go::Emulate, 0);
        }
        let uc = t.syscall_info().map_err(|_| self.lost(t))?.args[2];
        let frames = self.machine.base.region.slots..top;
        if frames.contains(&uc) { Ok(uc) } else { Err(self.lost(t)) }
    }

    /// Finds the x86 trap number and error code of an exception.
    fn exception(&mut self, t: Tracee, signo: i32, code: i32, addr: u64) -> Result<Exception> {
        self.load()?;
        self.dirty = true;
        let mut state = vec![0; self.machine.regset_room()];
        let len = self.machine.get_xstate(t, &mut state).map_err(|_| self.lost(t))?;
        let space = self.cx.space.clone();
        let mut words = [0; 16];
        {
            // Killed, it stops once more on its way out.
            let waits = || t.siginfo() == Ok((code, addr));
            let Some(_frame) = space.frame(waits) else { return Err(self.lost(t)) };
            let uc = self.catch(t, signo)?;
            // Another thread of the process may write here: it deceives its own process.
            space.process.read(&[(uc + frame::ERR_IN_UCONTEXT, 16)], &mut words);
        }
        self.machine.put_xstate(t, &state[..len]).map_err(|_| self.lost(t))?;
        let [err, trapno] =
            [0, 8].map(|i| words[i..i + 8].iter().rev().fold(0u64, |v, &b| v << 8 | u64::from(b)));
        Ok(Exception { signo, code, addr, trapno, err })
    }

    /// Reads the call at whose entry the thread is stopped.
    fn syscall(&mut self, t: Tracee) -> Result<Syscall> {
        let i = t.syscall_info().map_err(|_| self.lost(t))?;
        let nr = i.nr & 0xffff_ffff;
        let call = if i.arch != ARCH {
            let args = i.args.map(|a| a & 0xffff_ffff);
            Syscall { nr, args, ip: i.ip, foreign_abi: true }
        } else {
            let x32 = nr & u64::from(X32_BIT) != 0 && nr >> 31 == 0;
            let nr = if x32 { nr & !u64::from(X32_BIT) } else { nr };
            Syscall { nr, args: i.args, ip: i.ip, foreign_abi: x32 }
        };
        self.call = Some(call);
        self.outcome = Outcome::Open;
        Ok(call)
    }

    /// Turns a stop into an event, or lets the thread go on.
    fn event(&mut self, t: Tracee, stop: Stop) -> Result<Option<Event>> {
        Ok(Some(match stop {
            Stop::Call => Event::Syscall(self.syscall(t)?),
            Stop::Signal(INTERRUPT) => {
                self.end_critical_section()?;
                Event::Interrupted
            }
            Stop::Signal(
                signo
                @ (libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL | libc::SIGTRAP),
            ) => match t.siginfo() {
                Ok((code, addr)) if code > 0 => {
                    self.end_critical_section()?;
                    Event::Exception(self.exception(t, signo, code, addr)?)
                }
                // Sent by somebody outside.
                Ok(_) => {
                    self.end_critical_section()?;
                    Event::Interrupted
                }
                Err(_) => return Err(self.lost(t)),
            },
            Stop::Dead => return Err(self.gone()),
            Stop::Exiting => return Err(self.lost(t)),
            _ => {
                // A signal from outside, which is dropped.
                t.resume(Go::Emulate, 0).ok();
                return Ok(None);
            }
        }))
    }

    fn debug(&mut self, access: Access) -> Result<u64> {
        let t = self.hold()?;
        access.on(t)
    }

    /// Makes the pending call on the guest's behalf.
    fn pass(&mut self) -> i64 {
        let Some(c) = self.call else { return ENOSYS };
        if c.nr == libc::SYS_arch_prctl as u64 {
            let space = self.cx.space.clone();
            let Ok(r) = self.load() else { return errno::ESRCH.to_ret() };
            let mut bases = (r.fs_base, r.gs_base);
            let result = hostcall::arch_prctl(&space.process, &mut bases, c.args);
            (r.fs_base, r.gs_base) = bases;
            self.dirty = true;
            return result;
        }
        let result = self.call(&Call::new(c.nr as i64, c.args)).unwrap_or_else(Errno::to_ret);
        if c.nr == libc::SYS_rseq as u64 && result == 0 {
            self.rseq = rseq::registered(&c.args);
        }
        result
    }

    /// The thread was interrupted anywhere: that ends a critical section of rseq(2).
    fn end_critical_section(&mut self) -> Result<()> {
        let Some(area) = self.rseq else { return Ok(()) };
        let space = self.cx.space.clone();
        let r = self.load()?;
        if let Some(handler) = rseq::abort(area, &space.process, r) {
            r.rip = handler;
            self.dirty = true;
        }
        Ok(())
    }

    /// Interrupts a fresh context before its first instruction, to see what extended state
    /// the host puts into a signal frame.
    pub fn capture_xstate(&mut self) -> Result<Vec<u8>> {
        let t = self.hold()?;
        self.cx.signal();
        t.resume(Go::Native, 0)?;
        while t.wait() != Stop::Signal(INTERRUPT) {
            t.resume(Go::Native, 0)?;
        }
        let uc = self.catch(t, INTERRUPT)?;
        let mut at = [0; 8];
        self.space.read(uc + frame::FPSTATE_IN_UCONTEXT, &mut at);
        let at = u64::from_ne_bytes(at);
        let top = self.machine.base.region.slots + self.machine.frames as u64;
        let room = top.checked_sub(at).ok_or(errno::EIO)? as usize;
        let read = |buf: &mut [u8]| self.space.read(at, buf) == buf.len();
        Xstate::read_frame(room, read).ok_or(errno::EIO)
    }
}

/// Whether the signal a thread is stopped with comes from the host kernel.
fn by_host(t: Tracee) -> bool {
    t.siginfo().is_ok_and(|(code, _)| code > 0)
}

impl Paired for Cx {
    fn pool(&self) -> &Arc<Pool> {
        &self.machine.pool
    }

    fn seat(&self) -> &Arc<Seat> {
        &self.cx.seat
    }

    fn keep(&mut self) {
        self.unstarted = false;
    }

    fn begin(&mut self) -> Result<()> {
        self.cx.seat.sit();
        self.hold().map(drop)
    }

    fn resume(&mut self) -> Resumed {
        if self.outcome == Outcome::Pass {
            let result = self.pass();
            self.outcome = Outcome::Value(result);
        }
        self.settle();
        let At::Held(t) = self.at else { return Resumed::Dead };
        {
            let mut st = self.cx.lock();
            if std::mem::take(&mut st.kick) {
                return Resumed::Kicked;
            }
            st.running = true;
            st.stopped = None;
        }
        let ready = match (&self.regs, self.rax.take()) {
            (Some(r), _) if self.dirty => t.set_regs(r),
            (None, Some(v)) => t.set_rax(v),
            _ => Ok(()),
        };
        // When this fails it is dying; the wait will tell.
        ready.and_then(|()| t.resume(Go::Emulate, 0)).ok();
        self.regs = None;
        self.dirty = false;
        self.call = None;
        Resumed::Running
    }

    fn next_event(&mut self) -> Event {
        let event = loop {
            let At::Held(t) = self.at else { break Event::Died };
            let stop = t.wait();
            self.cx.seat.event();
            match self.event(t, stop) {
                Ok(Some(e)) => break e,
                Ok(None) => {}
                Err(_) => break Event::Died,
            }
        };
        self.cx.lock().running = false;
        event
    }

    fn interrupted(&mut self) {
        self.call = None;
    }

    fn finish(&mut self) {
        self.unstarted = false;
        self.cx.seat.end();
        self.cx.lock().gone = true;
        let space = self.cx.space.clone();
        // No other context can make one more.
        let alone = space.live.load(Ordering::Acquire) == 1;
        match self.at {
            At::Held(t) if !alone => {
                let left = if self.is_first() {
                    self.park(t)
                } else {
                    let nr = libc::SYS_exit as u64;
                    let r = Regs { rax: nr, rdi: 0, ..self.stub_regs(entry::call()) };
                    self.leave_to_stub(t, &r)
                };
                if left.is_err() {
                    space.process.kill();
                    self.see_off(t, false);
                }
            }
            At::Held(t) | At::Dying(t) => {
                space.process.kill();
                self.see_off(t, alone);
            }
            // A thread that nobody has attached to can be ended only with its process.
            At::Parked => space.process.kill(),
            At::Gone => {}
        }
        self.at = At::Gone;
        if space.leave() {
            space.process.kill();
            self.machine.children.bury(space.process.raw_pid());
        }
    }

    fn kill(&self) {
        self.cx.space.process.kill();
    }

    fn report_panic(&self, message: &str) {
        self.machine.report_panic(message);
    }
}

impl Context for Cx {
    fn space(&self) -> &Arc<dyn Space> {
        &self.space
    }

    fn kick_handle(&self) -> Arc<dyn Kick> {
        self.cx.clone()
    }

    fn set_return(&mut self, value: i64) {
        if self.outcome != Outcome::None {
            self.outcome = Outcome::Value(value);
        }
    }

    fn pass_through(&mut self) {
        let Some(c) = self.call else { return };
        if self.outcome == Outcome::None {
            return;
        }
        let user_max = self.machine.base.user_max();
        let may = !c.foreign_abi && hostcall::may_pass(c.nr, &c.args, user_max);
        self.outcome = if may { Outcome::Pass } else { Outcome::Value(errno::EINVAL.to_ret()) };
    }

    fn complete(&mut self) -> Result<i64> {
        if self.outcome == Outcome::Pass {
            let result = self.pass();
            self.outcome = Outcome::Value(result);
        }
        match self.outcome {
            Outcome::Value(v) => Ok(v),
            _ => Ok(self.load()?.rax as i64),
        }
    }

    fn set_call(&mut self, call: Syscall) {
        self.call = Some(call);
        self.outcome = Outcome::Open;
    }

    fn regs(&mut self) -> Result<Regs> {
        let mut r = *self.load()?;
        match self.outcome {
            Outcome::None => return Ok(r),
            Outcome::Value(v) => r.rax = v as u64,
            _ => r.rax = ENOSYS as u64,
        }
        r.orig_rax = self.call.map_or(u64::MAX, |c| c.nr);
        Ok(r)
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        if matches!(self.at, At::Dying(_) | At::Gone) {
            return Err(errno::ESRCH);
        }
        self.regs = Some(sanitised(regs));
        self.cx.lock().stopped = Some(regs.into());
        self.dirty = true;
        self.rax = None;
        self.outcome = Outcome::None;
        Ok(())
    }

    fn xstate(&mut self) -> Result<Vec<u8>> {
        let t = self.hold()?;
        let mut set = vec![0; self.machine.regset_room()];
        let len = self.machine.get_xstate(t, &mut set)?;
        Ok(self.machine.base.xstate()?.frame_image(&set[..len]))
    }

    fn set_xstate(&mut self, state: Option<&[u8]>) -> Result<()> {
        let x = self.machine.base.xstate()?;
        let image = state.map(|s| x.check(s)).transpose()?;
        let t = self.hold()?;
        match image {
            Some(image) => {
                let x = self.machine.base.xstate()?;
                let set = x.register_set(&image, self.machine.regset_len(t)?);
                self.machine.put_xstate(t, &set)
            }
            None => self.machine.reset_xstate(t),
        }
    }

    fn mem_ops(&mut self, ops: &[MemOp]) -> Result<(), (usize, Errno)> {
        let user_max = self.machine.base.user_max();
        if let Some(bad) = ops.iter().position(|op| !hostcall::op_in_bounds(op, user_max)) {
            return Err((bad, errno::EINVAL));
        }
        for (i, op) in ops.iter().enumerate() {
            let result = self.call(&Call::of(op)).map_err(|e| (i, e))?;
            if (-4095..0).contains(&result) {
                return Err((i, Errno::from_raw(-result as i32)));
            }
        }
        Ok(())
    }

    fn cmpxchg32(&mut self, addr: u64, old: u32, new: u32) -> Result<u32> {
        if addr % 4 != 0 || addr >= self.machine.base.user_max() {
            return Err(errno::EFAULT);
        }
        self.native(entry::cmpxchg(), |r| {
            (r.rcx, r.rax, r.rdx) = (addr, old.into(), new.into());
        })
        .map(|v| v as u32)
    }

    fn set_debug_registers(&mut self, regs: &DebugRegs) -> Result<()> {
        self.debug(Access::Set(*regs)).map(drop)
    }

    fn debug_status(&mut self) -> Result<u64> {
        self.debug(Access::Status)
    }

    fn spawn_thread(&mut self, runner: Arc<dyn Runner>, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        let reservation = self.machine.pool.reserve()?;
        let tid = self.clone_host(hostcall::THREAD_FLAGS)?;
        let space = self.cx.space.clone();
        space.live.fetch_add(1, Ordering::AcqRel);
        paired::start(Cx::new(&space, tid, regs, reservation), runner);
        Ok(())
    }

    fn fork(
        &mut self,
        regs: &Regs,
        prepare: &mut dyn FnMut(Arc<dyn Space>) -> Arc<dyn Runner>,
    ) -> Result<()> {
        check_bases(regs)?;
        let reservation = self.machine.pool.reserve()?;
        let since = self.machine.children.epoch();
        let pid = self.clone_host(hostcall::FORK_FLAGS)?;
        let space = Arc::new(GuestSpace::new(pid, self.machine.clone()));
        self.machine.children.register(&space, since);
        let runner = prepare(space.clone());
        let mut child = Cx::new(&space, pid, regs, reservation);
        child.rseq = self.rseq;
        paired::start(child, runner);
        Ok(())
    }
}

impl Drop for Cx {
    fn drop(&mut self) {
        if self.unstarted {
            self.finish();
        }
    }
}
