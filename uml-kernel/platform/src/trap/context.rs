//! A guest thread: kicks, registers, memory calls, thread and process creation.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uml_abi::{Errno, Result, errno};
use uml_stub::{cmd, slot};

use super::machine::Machine;
use super::space::{GONE, GuestSpace, await_turn, set_turn, turn};
use crate::api::{Context, DebugRegs, Event, Kick, MemOp, Regs, Runner, Space, Stance, Syscall};
use crate::debug::{self, Access};
use crate::hostcall::{self, Call};
use crate::paired::{self, Paired, Resumed};
use crate::pool::{Pool, Reservation};
use crate::process::HostProcess;
use crate::seat::Seat;
use crate::seccomp::arena::Slot;
use crate::seccomp::frame::Xstate;
use crate::seccomp::stopped::{self, Outcome, Place, Stopped, check_bases};
use crate::seccomp::zygote::INTERRUPT;
use crate::sys;
use crate::watch::Interrupted;

/// What others may know of a context.
#[derive(Default)]
struct State {
    /// Guest code runs, or is about to.
    running: bool,
    /// A kick came while it did not.
    kick: bool,
    /// When it was sent an interruption that has not led to an event yet.
    signalled: Option<Instant>,
    /// The host thread is gone, though its process may live.
    gone: bool,
}

pub struct Ctx {
    pub space: Arc<GuestSpace>,
    pub slot: Arc<Slot>,
    pub slot_addr: u64,
    pub position: usize,
    /// 0 before the host thread exists.
    tid: AtomicI32,
    seat: Arc<Seat>,
    state: Mutex<State>,
    _reservation: Reservation,
}

impl Ctx {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, signo: i32) -> bool {
        let tid = self.tid.load(Ordering::Relaxed);
        tid != 0 && self.space.process.with_pid(|pid| sys::tgkill(pid, tid, signo)) == Some(Ok(()))
    }

    /// Whether an interruption is under way, and since when.
    pub fn signalled(&self) -> Option<Instant> {
        self.lock().signalled
    }
}

impl Kick for Ctx {
    fn kick(&self) {
        let mut st = self.lock();
        if !st.running {
            st.kick = true;
        } else if self.signal(INTERRUPT) {
            st.signalled.get_or_insert_with(Instant::now);
            self.space.machine.watch.arm();
        } else {
            // It left without a word, as only guest code that jumped into the stub can.
            st.gone = true;
            set_turn(&self.slot, GONE);
        }
    }

    fn host_tid(&self) -> i32 {
        if self.lock().gone || self.space.process.is_gone() {
            return 0;
        }
        self.tid.load(Ordering::Relaxed)
    }

    fn confine(&self, cpus: &[usize]) -> Result<()> {
        match self.host_tid() {
            0 => Ok(()),
            _ => self.seat.confine(cpus),
        }
    }

    fn stance(&self) -> Stance {
        let st = self.lock();
        if st.running || st.gone {
            return Stance::Running;
        }
        let machine = &self.space.machine;
        let place = machine.place(&self.slot, self.slot_addr);
        stopped::glance(place, machine.base.xstate_size()).map_or(Stance::Running, Stance::Stopped)
    }
}

impl Interrupted for Ctx {
    fn process(&self) -> &HostProcess {
        &self.space.process
    }

    fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }
}

/// A stopped context, held exclusively.
pub struct Cx {
    pub machine: Arc<Machine>,
    pub cx: Arc<Ctx>,
    space: Arc<dyn Space>,
    pub state: Stopped,
    /// Made but never started: dropping it ends the process.
    pub unstarted: bool,
    /// The slot holds what the thread is to start with.
    prepared: bool,
}

impl Cx {
    /// A context without a host thread, whose slot is mapped at `position`. With `state`
    /// copied to the slot already, it is to be reloaded.
    pub fn new(
        space: &Arc<GuestSpace>,
        slot: Arc<Slot>,
        position: usize,
        reservation: Reservation,
        state: Stopped,
    ) -> Cx {
        let machine = space.machine.clone();
        let cx = Arc::new(Ctx {
            space: space.clone(),
            slot,
            slot_addr: machine.base.region.slot(position),
            position,
            tid: AtomicI32::new(0),
            seat: machine.seats.seat(),
            state: Mutex::default(),
            _reservation: reservation,
        });
        space.add_context(&cx);
        Cx { machine, cx, space: space.clone(), state, unstarted: false, prepared: false }
    }

    pub fn place(&self) -> Place<'_> {
        self.machine.place(&self.cx.slot, self.cx.slot_addr)
    }

    pub fn is_dead(&self) -> bool {
        self.cx.space.process.is_gone() || self.cx.lock().gone
    }

    fn check_alive(&self) -> Result<()> {
        if self.is_dead() { Err(errno::ESRCH) } else { Ok(()) }
    }

    /// Makes the host thread, which waits in the stub.
    pub fn launch(&self) -> Result<()> {
        let tid = self.cx.space.start_thread(&self.cx.slot, self.cx.slot_addr)?;
        self.cx.tid.store(tid, Ordering::Relaxed);
        self.cx.seat.set_guest(self.cx.space.process.raw_pid(), tid);
        Ok(())
    }

    /// Gives the host thread a command.
    fn command(&self, command: u64) {
        self.cx.slot.put(slot::COMMAND, command);
        set_turn(&self.cx.slot, 0);
    }

    /// Waits until it is the kernel's turn; false when there will be none.
    fn wait(&self) -> bool {
        let s = &self.cx.slot;
        while turn(s) == 0 && !self.cx.space.process.is_gone() {
            await_turn(s, 0, None);
        }
        let mut st = self.cx.lock();
        st.running = false;
        st.signalled = None;
        if st.gone {
            drop(st);
            self.cx.space.process.kill();
            return false;
        }
        !self.cx.space.process.is_gone()
    }

    /// Makes `access` to the debug registers of the thread, which waits for its turn.
    fn debug(&self, access: Access) -> Result<u64> {
        self.check_alive()?;
        let tid = self.cx.tid.load(Ordering::Relaxed);
        debug::visit(self.cx.space.process.raw_pid(), tid, access, || {})
    }

    /// Makes the pending call on the guest's behalf.
    fn pass(&mut self) -> i64 {
        let Some(c) = self.state.call else { return errno::ENOSYS.to_ret() };
        if c.nr == libc::SYS_arch_prctl as u64 {
            // On the kernel's copy of the registers: the mapper is another thread.
            let mut bases = self.state.bases();
            let result = hostcall::arch_prctl(&self.cx.space.process, &mut bases, c.args);
            self.state.set_bases(bases.0, bases.1);
            return result;
        }
        let call = Call::new(c.nr as i64, c.args);
        self.cx.space.run_calls(&[call]).map_or_else(Errno::to_ret, |(_, r)| r)
    }

    /// See [`Machine::boot`].
    pub fn capture_xstate(&mut self) -> Result<Vec<u8>> {
        self.launch()?;
        let p = self.machine.place(&self.cx.slot, self.cx.slot_addr);
        self.state.store(p);
        // Pending until the stub returns to the guest, before its first instruction.
        if !self.cx.signal(INTERRUPT) {
            return Err(errno::ESRCH);
        }
        self.cx.lock().running = true;
        self.command(cmd::RESUME);
        match self.next_event() {
            Event::Interrupted => {}
            _ => return Err(errno::EIO),
        }
        let at = self.state.fpstate().ok_or(errno::EIO)?;
        Xstate::capture(&self.cx.slot, at).ok_or(errno::EIO)
    }
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
        if self.cx.tid.load(Ordering::Relaxed) == 0 {
            self.launch()?;
        }
        self.cx.seat.sit();
        if std::mem::take(&mut self.prepared) {
            let p = self.machine.place(&self.cx.slot, self.cx.slot_addr);
            self.state.reload(p, self.machine.base.xstate_size()).ok_or(errno::ESRCH)?;
        }
        Ok(())
    }

    fn resume(&mut self) -> Resumed {
        if self.state.outcome == Outcome::Pass {
            let result = self.pass();
            self.state.outcome = Outcome::Value(result);
        }
        let p = self.machine.place(&self.cx.slot, self.cx.slot_addr);
        self.state.store(p);
        if self.is_dead() {
            return Resumed::Dead;
        }
        {
            let mut st = self.cx.lock();
            if std::mem::take(&mut st.kick) {
                return Resumed::Kicked;
            }
            st.running = true;
        }
        self.command(cmd::RESUME);
        Resumed::Running
    }

    fn next_event(&mut self) -> Event {
        let alive = self.wait();
        self.cx.seat.event();
        if alive {
            let p = self.machine.place(&self.cx.slot, self.cx.slot_addr);
            let loaded = self.state.load(p, self.machine.base.xstate_size());
            if let Some(e) = loaded.and_then(|()| self.state.event(p)) {
                return e;
            }
            self.cx.space.process.kill();
        }
        Event::Died
    }

    fn interrupted(&mut self) {
        self.state.call = None;
    }

    fn finish(&mut self) {
        self.unstarted = false;
        let cx = &self.cx;
        cx.seat.end();
        cx.lock().gone = true;
        if cx.space.leave() {
            cx.space.process.kill();
        } else {
            // The others may go on for long, also after an execve(2) or the death of this one (vfork(2)).
            cx.space.slots().release(cx.position, cx.slot.clone());
            self.command(cmd::EXIT);
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
        self.state.set_return(value);
    }

    fn pass_through(&mut self) {
        self.state.pass_through(self.machine.base.user_max());
    }

    fn complete(&mut self) -> Result<i64> {
        if self.state.outcome == Outcome::Pass {
            let result = self.pass();
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
        self.check_alive()?;
        Ok(self.state.regs())
    }

    fn set_regs(&mut self, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        self.check_alive()?;
        self.state.set_regs(regs);
        Ok(())
    }

    fn xstate(&mut self) -> Result<Vec<u8>> {
        let mut image = Vec::new();
        self.append_xstate(&mut image)?;
        Ok(image)
    }

    fn append_xstate(&mut self, out: &mut Vec<u8>) -> Result<()> {
        self.check_alive()?;
        self.state.append_xstate(self.place(), self.machine.base.xstate()?, out);
        Ok(())
    }

    fn set_xstate(&mut self, state: Option<&[u8]>) -> Result<()> {
        let x = self.machine.base.xstate()?;
        let image = state.map(|s| x.check(s)).transpose()?;
        self.check_alive()?;
        let p = self.machine.place(&self.cx.slot, self.cx.slot_addr);
        self.state.set_xstate(p, image.as_deref());
        Ok(())
    }

    fn mem_ops(&mut self, ops: &[MemOp]) -> Result<(), (usize, Errno)> {
        let user_max = self.machine.base.user_max();
        if let Some(bad) = ops.iter().position(|op| !hostcall::op_in_bounds(op, user_max)) {
            return Err((bad, errno::EINVAL));
        }
        let mut base = 0;
        for chunk in ops.chunks(slot::OPS_MAX) {
            let calls: Vec<Call> = chunk.iter().map(Call::of).collect();
            let (done, last) = self.cx.space.run_calls(&calls).map_err(|e| (base, e))?;
            if done < chunk.len() {
                return Err((base + done, Errno::from_raw(last.wrapping_neg() as i32)));
            }
            base += done;
        }
        Ok(())
    }

    fn cmpxchg32(&mut self, addr: u64, old: u32, new: u32) -> Result<u32> {
        if addr % 4 != 0 || addr >= self.machine.base.user_max() {
            return Err(errno::EFAULT);
        }
        self.check_alive()?;
        if self.cx.tid.load(Ordering::Relaxed) == 0 {
            self.launch()?;
        }
        let s = &self.cx.slot;
        s.put(slot::CMPXCHG_ADDR, addr);
        s.put(slot::CMPXCHG_OLD, old.into());
        s.put(slot::CMPXCHG_NEW, new.into());
        self.command(cmd::CMPXCHG);
        if !self.wait() {
            return Err(errno::ESRCH);
        }
        if s.get(slot::DONE) == 0 { Ok(s.get(slot::RESULT) as u32) } else { Err(errno::EFAULT) }
    }

    fn set_debug_registers(&mut self, regs: &DebugRegs) -> Result<()> {
        self.debug(Access::Set(*regs)).map(drop)
    }

    fn debug_status(&mut self) -> Result<u64> {
        self.debug(Access::Status)
    }

    fn spawn_thread(&mut self, runner: Arc<dyn Runner>, regs: &Regs) -> Result<()> {
        check_bases(regs)?;
        self.check_alive()?;
        let m = self.machine.clone();
        let reservation = m.pool.reserve()?;
        let space = self.cx.space.clone();
        let recycled = space.slots().take_free(|s| s.get(slot::TID) as u32 == 0);
        let (position, s) = match recycled {
            Some(s) => s,
            None => {
                let s = Arc::new(m.base.arena.alloc()?);
                let position = space.slots().reserve().ok_or(errno::EAGAIN)?;
                space.slots().add(&s);
                let addr = m.base.region.slot(position);
                let map = hostcall::map_slot(addr, m.base.arena.fd(), s.offset());
                let (done, result) = space.run_calls(&[map])?;
                if done != 1 {
                    return Err(Errno::from_raw(result.wrapping_neg() as i32));
                }
                (position, s)
            }
        };
        let to = m.place(&s, m.base.region.slot(position));
        self.state.copy_to(self.place(), to, regs, m.base.xstate_size());
        let mut child = Cx::new(&space, s.clone(), position, reservation, Stopped::new());
        child.prepared = true;
        if let Err(e) = child.launch() {
            space.slots().release(position, s);
            return Err(e);
        }
        space.live.fetch_add(1, Ordering::AcqRel);
        paired::start(child, runner);
        Ok(())
    }

    fn fork(
        &mut self,
        regs: &Regs,
        prepare: &mut dyn FnMut(Arc<dyn Space>) -> Arc<dyn Runner>,
    ) -> Result<()> {
        check_bases(regs)?;
        self.check_alive()?;
        let m = self.machine.clone();
        let reservation = m.pool.reserve()?;
        let arena = &m.base.arena;
        let (results, page, s) = (arena.alloc()?, arena.alloc()?, Arc::new(arena.alloc()?));
        let (results, page) = (Arc::new(results), Arc::new(page));
        let to = m.place(&s, self.cx.slot_addr);
        self.state.copy_to(self.place(), to, regs, m.base.xstate_size());
        let region = &m.base.region;
        let mut calls = vec![
            hostcall::map_slot(region.slot(0), arena.fd(), results.offset()),
            hostcall::map_page(region.request, arena.fd(), page.offset()),
        ];
        let others = region.slot(1)..region.slot(self.cx.space.slots().end());
        calls.extend(hostcall::fork_child_calls(self.cx.slot_addr, arena.fd(), s.offset(), others));
        let space = self.cx.space.fork(results, page, &s, &calls)?;
        space.slots().raise_end(self.cx.position + 1);
        space.slots().add(&s);
        let mut child = Cx::new(&space, s, self.cx.position, reservation, Stopped::new());
        child.prepared = true;
        let runner = prepare(space.clone());
        if let Err(e) = child.launch() {
            space.process.kill();
            return Err(e);
        }
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
