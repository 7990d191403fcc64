//! A context being served: registers, memory calls, thread and process creation.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use uml_abi::{Errno, Result, errno};
use uml_stub::{cmd, event, slot};

use super::confirm::{Origin, origin};
use super::group::{Ctx, Group};
use super::machine::Machine;
use super::park::PARKED;
use super::serve::{First, run_again};
use super::space::GuestSpace;
use crate::api::{Context, DebugRegs, Event, Kick, MemOp, Regs, Runner, Space, Syscall};
use crate::debug::{self, Access};
use crate::hostcall::{self, Call};
use crate::placement::Confined;
use crate::pool::Reservation;
use crate::seccomp::arena::Slot;
use crate::seccomp::frame::Xstate;
use crate::seccomp::notif::{Answer, Notif};
use crate::seccomp::slots::Slots;
use crate::seccomp::stopped::{ENOSYS, Outcome, Place, Stopped, check_bases};
use crate::seccomp::zygote::INTERRUPT;
use crate::sys;

/// Where the host thread is.
#[derive(Clone, Copy)]
pub enum At {
    /// In a notified call: number and arguments are known, registers are not.
    Call(Notif),
    /// In the stub's handler, at the event with this id; the registers are loaded.
    Handler(u64),
    Gone,
}

/// A stopped context, held exclusively.
pub struct Cx {
    pub cx: Arc<Ctx>,
    pub at: At,
    pub state: Stopped,
    /// The event is this call, which the stub proposes to make before guest code goes on.
    pub proposed: Option<Call>,
    /// The call to be made before guest code goes on.
    pub last: Option<Call>,
    /// Made but never started: dropping it ends the process.
    pub unstarted: bool,
}

impl Cx {
    pub fn new(cx: Arc<Ctx>) -> Cx {
        let (state, at) = (Stopped::new(), At::Gone);
        Cx { cx, at, state, proposed: None, last: None, unstarted: false }
    }

    /// The context of a process the zygote made, at its first event.
    pub fn adopt(
        machine: &Arc<Machine>,
        space: &Arc<GuestSpace>,
        slot: Arc<Slot>,
        event: u64,
        reservation: Reservation,
    ) -> Cx {
        let addr = machine.base.region.slot(0);
        let ctx = new_ctx(space.process.raw_pid(), space, slot, 0, addr, reservation);
        space.group.add(&ctx);
        space.add_context(&ctx);
        let mut c = Cx::new(ctx);
        c.set_at(At::Handler(event));
        c.state = Stopped::fresh();
        c.unstarted = true;
        c
    }

    pub fn set_at(&mut self, at: At) {
        self.at = at;
        self.cx.stand.set(at);
    }

    /// Takes note of what happened to the thread while its task slept.
    pub fn sync(&mut self) {
        if matches!(self.at, At::Gone | At::Handler(PARKED)) {
            return;
        }
        if self.cx.stand.is_gone() {
            self.rogue();
        } else if let Some(load) = self.cx.stand.parked() {
            self.proposed = None;
            if load {
                // Fails only for a rogue, which is gone then.
                self.load(PARKED).ok();
            } else {
                self.at = At::Handler(PARKED);
            }
        }
    }

    fn group(&self) -> &Arc<Group> {
        &self.cx.space.group
    }

    fn slot(&self) -> &Slot {
        &self.cx.slot
    }

    pub fn place(&self) -> Place<'_> {
        self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr)
    }

    /// The host thread or its report cannot be believed any more.
    pub fn rogue(&mut self) -> Errno {
        self.cx.space.process.kill();
        self.set_at(At::Gone);
        errno::ESRCH
    }

    /// Reads what the handler stored, after a handler-entry event.
    fn load(&mut self, event: u64) -> Result<()> {
        self.set_at(At::Handler(event));
        let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
        let loaded = self.state.load(p, self.cx.space.group.machine.base.xstate_size());
        loaded.ok_or_else(|| self.rogue())
    }

    /// Reads back what a resume that did not happen had prepared.
    pub fn reload(&mut self, event: u64) -> Result<()> {
        self.set_at(At::Handler(event));
        let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
        let loaded = self.state.reload(p, self.cx.space.group.machine.base.xstate_size());
        loaded.ok_or_else(|| self.rogue())
    }

    /// Finds the event in what was received.
    pub fn classify(&mut self, n: Notif) -> Event {
        match origin(&n, &self.cx.space.group.machine.base.region.code) {
            Origin::Guest => {
                let nr = n.nr as u32 as u64;
                let call = Syscall { nr, args: n.args, ip: n.ip, foreign_abi: false };
                self.set_at(At::Call(n));
                self.state.call = Some(call);
                self.state.outcome = Outcome::Open;
                return Event::Syscall(call);
            }
            Origin::Event if n.args[0] == event::UNDONE && self.load(n.id).is_ok() => {
                self.state.outcome = Outcome::Open;
                return Event::Undone(Errno::from_raw((n.args[2] as i64).wrapping_neg() as i32));
            }
            Origin::Stub if n.nr == libc::SYS_mmap as i32 && self.load(n.id).is_ok() => {
                let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
                if let Some(e @ Event::Syscall(c)) = self.state.event(p)
                    && c.nr == libc::SYS_mmap as u64
                {
                    self.proposed = Some(Call::new(libc::SYS_mmap, n.args));
                    return e;
                }
            }
            Origin::Event if self.load(n.id).is_ok() => {
                let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
                if let Some(e) = self.state.event(p) {
                    return e;
                }
            }
            _ => {}
        }
        self.rogue();
        Event::Died
    }

    fn talk(&mut self, id: u64, answer: Answer, expect: Vec<Call>) -> Result<Notif> {
        self.proposed = None;
        let r = self.group().talk(&self.cx, id, answer, expect);
        if r.is_err() {
            self.set_at(At::Gone);
        }
        r
    }

    /// Moves the host thread into the stub's handler; the event to answer there.
    pub fn enter_handler(&mut self) -> Result<u64> {
        self.sync();
        match self.at {
            At::Gone => Err(errno::ESRCH),
            At::Handler(id) if self.last.is_none() => Ok(id),
            // What was left for last comes before anything else.
            At::Handler(_) => {
                self.finish_ops()?;
                self.enter_handler()
            }
            At::Call(n) => {
                // The signal stays pending until the call is answered, because a received
                // call can be interrupted by nothing but death.
                if !self.interrupt() {
                    self.set_at(At::Gone);
                    return Err(errno::ESRCH);
                }
                let event = self.talk(n.id, Answer::Value(ENOSYS), Vec::new())?;
                self.load(event.id)?;
                Ok(event.id)
            }
        }
    }

    /// Sends the interruption signal; false when there is nobody left.
    pub fn interrupt(&self) -> bool {
        let tid = self.cx.tid;
        let sent = self.cx.space.process.with_pid(|pid| sys::tgkill(pid, tid, INTERRUPT));
        sent == Some(Ok(()))
    }

    /// Runs a list of host calls in the guest thread. Returns how many succeeded, and the
    /// result of the last one made.
    pub fn run_calls(&mut self, calls: Vec<Call>) -> Result<(usize, i64)> {
        let id = self.enter_handler()?;
        let n = calls.len();
        hostcall::put_calls(self.slot(), &calls);
        let event = self.talk(id, Answer::Value(n as i64), calls)?;
        self.set_at(At::Handler(event.id));
        Ok(((event.args[1] as usize).min(n), event.args[2] as i64))
    }

    fn give_birth(&mut self, command: u64, flags: u64, child: Vec<Call>) -> Result<Notif> {
        let id = self.enter_handler()?;
        self.proposed = None;
        let group = self.group().clone();
        let _one = group.births.lock().unwrap_or_else(PoisonError::into_inner);
        let confined = Confined::here(self.cx.tid);
        match group.give_birth(&self.cx, id, command, hostcall::clone_call(flags), child) {
            Ok((parent, child)) => {
                self.set_at(At::Handler(parent.id));
                if let Ok(child) = &child {
                    confined.release_child(child.pid as i32);
                }
                child
            }
            Err(e) => {
                self.set_at(At::Gone);
                Err(e)
            }
        }
    }

    /// Makes `access` to the thread's debug registers. It can be stopped when a call it waits in is answered: it comes
    /// back with an event after a call that changes nothing.
    fn debug(&mut self, access: Access) -> Result<u64> {
        let id = self.enter_handler()?;
        self.proposed = None;
        let nothing = Call::new(libc::SYS_getuid, [0; 6]);
        hostcall::put_calls(self.slot(), &[nothing]);
        let (cx, pid) = (self.cx.clone(), self.cx.space.process.raw_pid());
        let mut result = Err(errno::ESRCH);
        let event = self.group().talk_around(&cx, vec![nothing], |g| {
            let mut answered = Ok(());
            result = debug::visit(pid, cx.tid, access, || {
                answered = g.answer(&cx, id, Answer::Value(1));
            });
            answered
        });
        match event {
            Ok(n) => self.set_at(At::Handler(n.id)),
            Err(e) => {
                self.set_at(At::Gone);
                return Err(e);
            }
        }
        result
    }

    /// Registers and starts a thread that stopped at its first event.
    fn start_child(&self, child: &Arc<Ctx>, runner: Arc<dyn Runner>, event: u64) {
        *child.runner.lock().unwrap_or_else(PoisonError::into_inner) = Some(runner.clone());
        child.space.group.add(child);
        child.space.add_context(child);
        runner.attached(child.clone());
        let answer = Answer::Value(cmd::RESUME as i64);
        let resumed = child.space.group.resume(child, event, answer, None, false);
        run_again(child, resumed, First::Kicked(event));
    }

    /// Interrupts a fresh context before its first instruction, to see what extended state
    /// the host puts into a signal frame.
    pub fn capture_xstate(&mut self) -> Result<Vec<u8>> {
        let id = self.enter_handler()?;
        let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
        self.state.store(p);
        if !self.interrupt() {
            return Err(errno::ESRCH);
        }
        let event = self.talk(id, Answer::Value(cmd::RESUME as i64), Vec::new())?;
        self.load(event.id)?;
        let at = self.state.fpstate().ok_or(errno::EIO)?;
        Xstate::capture(self.slot(), at).ok_or(errno::EIO)
    }
}

fn new_ctx(
    tid: i32,
    space: &Arc<GuestSpace>,
    slot: Arc<Slot>,
    position: usize,
    slot_addr: u64,
    reservation: Reservation,
) -> Arc<Ctx> {
    Arc::new(Ctx {
        tid,
        space: space.clone(),
        dyn_space: space.clone(),
        slot,
        slot_addr,
        position,
        runner: Mutex::new(None),
        wake: Condvar::new(),
        stand: Default::default(),
        _reservation: reservation,
    })
}

impl Context for Cx {
    fn space(&self) -> &Arc<dyn Space> {
        &self.cx.dyn_space
    }

    fn kick_handle(&self) -> Arc<dyn Kick> {
        self.cx.clone()
    }

    fn set_return(&mut self, value: i64) {
        self.state.set_return(value);
    }

    fn pass_through(&mut self) {
        self.state.pass_through(self.cx.space.group.machine.base.user_max());
    }

    fn complete(&mut self) -> Result<i64> {
        self.enter_handler()?;
        if self.state.outcome == Outcome::Pass {
            let c = self.state.call.map(|c| Call::new(c.nr as i64, c.args)).ok_or(errno::ESRCH)?;
            let (_, result) = self.run_calls(vec![c])?;
            self.state.outcome = Outcome::Value(result);
        }
        match self.state.outcome {
            Outcome::Value(v) => Ok(v),
            _ => Ok(self.state.regs().rax as i64),
        }
    }

    fn set_call(&mut self, call: Syscall) {
        self.state.set_call(call);
    }

    fn regs(&mut self) -> Result<Regs> {
        self.enter_handler()?;
        Ok(self.state.regs())
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        self.enter_handler()?;
        self.state.set_regs(regs);
        Ok(())
    }

    fn xstate(&mut self) -> Result<Vec<u8>> {
        let mut image = Vec::new();
        self.append_xstate(&mut image)?;
        Ok(image)
    }

    fn append_xstate(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.enter_handler()?;
        self.state.append_xstate(self.place(), self.cx.space.group.machine.base.xstate()?, out);
        Ok(())
    }

    fn set_xstate(&mut self, state: Option<&[u8]>) -> Result<()> {
        let x = self.cx.space.group.machine.base.xstate()?;
        let image = state.map(|s| x.check(s)).transpose()?;
        self.enter_handler()?;
        let p = self.cx.space.group.machine.base.place(&self.cx.slot, self.cx.slot_addr);
        self.state.set_xstate(p, image.as_deref());
        Ok(())
    }

    fn mem_ops(&mut self, ops: &[MemOp]) -> Result<(), (usize, Errno)> {
        let user_max = self.cx.space.group.machine.base.user_max();
        if let Some(bad) = ops.iter().position(|op| !hostcall::op_in_bounds(op, user_max)) {
            return Err((bad, errno::EINVAL));
        }
        let mut base = 0;
        for chunk in ops.chunks(slot::OPS_MAX) {
            let calls = chunk.iter().map(Call::of).collect();
            let (done, last) = self.run_calls(calls).map_err(|e| (base, e))?;
            if done < chunk.len() {
                return Err((base + done, Errno::from_raw(last.wrapping_neg() as i32)));
            }
            base += done;
        }
        Ok(())
    }

    fn mem_op_last(&mut self, op: &MemOp) -> Result<bool> {
        self.sync();
        if !matches!(self.at, At::Handler(_)) {
            self.mem_ops(std::slice::from_ref(op)).map_err(|(_, e)| e)?;
            return Ok(false);
        }
        if !hostcall::op_in_bounds(op, self.cx.space.group.machine.base.user_max()) {
            return Err(errno::EINVAL);
        }
        self.finish_ops()?;
        self.last = Some(Call::of(op));
        Ok(true)
    }

    fn finish_ops(&mut self) -> Result<()> {
        let Some(call) = self.last.take() else { return Ok(()) };
        match self.run_calls(vec![call])? {
            (1, _) => Ok(()),
            (_, result) => Err(Errno::from_raw(result.wrapping_neg() as i32)),
        }
    }

    fn proposed_mapping(&self) -> Option<u64> {
        self.proposed.map(|c| c.args[0])
    }

    fn suggest_mappings_below(&mut self, top: u64) {
        self.slot().put(slot::MAP_TOP, top);
    }

    fn cmpxchg32(&mut self, addr: u64, old: u32, new: u32) -> Result<u32> {
        if addr % 4 != 0 || addr >= self.cx.space.group.machine.base.user_max() {
            return Err(errno::EFAULT);
        }
        let id = self.enter_handler()?;
        self.slot().put(slot::CMPXCHG_ADDR, addr);
        self.slot().put(slot::CMPXCHG_OLD, old.into());
        self.slot().put(slot::CMPXCHG_NEW, new.into());
        let event = self.talk(id, Answer::Value(cmd::CMPXCHG as i64), Vec::new())?;
        self.set_at(At::Handler(event.id));
        if event.args[1] == 0 { Ok(event.args[2] as u32) } else { Err(errno::EFAULT) }
    }

    fn set_debug_registers(&mut self, regs: &DebugRegs) -> Result<()> {
        self.debug(Access::Set(*regs)).map(drop)
    }

    fn debug_status(&mut self) -> Result<u64> {
        self.debug(Access::Status)
    }

    fn spawn_thread(&mut self, runner: Arc<dyn Runner>, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        self.enter_handler()?;
        let m = self.cx.space.group.machine.clone();
        let reservation = m.pool.reserve()?;
        let space = self.cx.space.clone();
        let recycled = space.slots().take_free(|_| true);
        let (position, s) = match recycled {
            Some(s) => s,
            None => {
                let s = Arc::new(m.base.arena.alloc()?);
                let position = space.slots().reserve().ok_or(errno::EAGAIN)?;
                let addr = m.base.region.slot(position);
                space.slots().add(&s);
                let map = hostcall::map_slot(addr, m.base.arena.fd(), s.offset());
                let (done, result) = self.run_calls(vec![map])?;
                if done != 1 {
                    // The position is lost, the thread is not made.
                    return Err(Errno::from_raw(result.wrapping_neg() as i32));
                }
                (position, s)
            }
        };
        let addr = m.base.region.slot(position);
        let to = m.base.place(&s, addr);
        self.state.copy_to(self.place(), to, regs, m.base.xstate_size());
        self.slot().put(slot::CLONE_FLAGS, hostcall::THREAD_FLAGS);
        self.slot().put(slot::CHILD_SLOT, addr);
        let child = match self.give_birth(cmd::THREAD, hostcall::THREAD_FLAGS, Vec::new()) {
            Ok(n) => n,
            Err(e) => {
                space.slots().release(position, s);
                return Err(e);
            }
        };
        space.live.fetch_add(1, Ordering::AcqRel);
        let ctx = new_ctx(child.pid as i32, &space, s, position, addr, reservation);
        self.start_child(&ctx, runner, child.id);
        Ok(())
    }

    fn fork(
        &mut self,
        regs: &Regs,
        prepare: &mut dyn FnMut(Arc<dyn Space>) -> Arc<dyn Runner>,
    ) -> Result<()> {
        check_bases(regs)?;
        self.enter_handler()?;
        let m = self.cx.space.group.machine.clone();
        let reservation = m.pool.reserve()?;
        let s = Arc::new(m.base.arena.alloc()?);
        let addr = self.cx.slot_addr;
        let to = m.base.place(&s, addr);
        self.state.copy_to(self.place(), to, regs, m.base.xstate_size());
        let slots = m.base.region.slots..m.base.region.slot(self.cx.space.slots().end());
        self.slot().put(slot::CLONE_FLAGS, hostcall::FORK_FLAGS);
        self.slot().put(slot::ARENA_FD, m.base.arena.fd() as u64);
        self.slot().put(slot::CHILD_SLOT, s.offset());
        self.slot().put(slot::KERNEL, sys::getpid() as u64);
        self.slot().put(slot::SLOTS_START, slots.start);
        self.slot().put(slot::SLOTS_END, slots.end);
        let calls = hostcall::fork_child_calls(addr, m.base.arena.fd(), s.offset(), slots);
        let since = m.children.epoch();
        let child = self.give_birth(cmd::FORK, hostcall::FORK_FLAGS, calls)?;
        let pid = child.pid as i32;
        let slots = Slots::with(self.cx.position, &s);
        let space = Arc::new(GuestSpace::new(pid, self.group().clone(), slots));
        m.children.register(&space, since);
        let runner = prepare(space.clone());
        let ctx = new_ctx(pid, &space, s, self.cx.position, addr, reservation);
        self.start_child(&ctx, runner, child.id);
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
