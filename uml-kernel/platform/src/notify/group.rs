//! A filter, its listener, the contexts under it and the workers that serve them.
//!
//! Invariant: while a context may raise an event, somebody is receiving. Receivers are
//! plain workers, or one *talker*: a worker that, inside its own context's kernel code,
//! waits for that context's next event and hands other contexts' events to the pool.

mod death;
mod talk;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use uml_abi::{Result, errno};

use super::confirm::{self, Origin, origin};
use super::machine::Machine;
use super::park::{self, PARKED, Stand};
use super::serve::{First, serve};
use super::space::GuestSpace;
use crate::api::{Runner, Space};
use crate::hostcall::Call;
use crate::pool::Reservation;
use crate::seccomp::arena::Slot;
use crate::seccomp::notif::{Answer, Listener, Notif};
use crate::sys;

/// A guest thread.
pub struct Ctx {
    pub tid: i32,
    pub space: Arc<GuestSpace>,
    /// The same, for the kernel above.
    pub dyn_space: Arc<dyn Space>,
    pub slot: Arc<Slot>,
    pub slot_addr: u64,
    pub position: usize,
    pub runner: Mutex<Option<Arc<dyn Runner>>>,
    /// With [`Group::st`]: something this context's worker waits for has happened.
    pub wake: Condvar,
    /// Where the host thread is, for the worker that serves it.
    pub stand: Stand,
    pub _reservation: Reservation,
}

/// What a context's host thread is doing, as far as the kernel knows.
enum Run {
    /// Guest code; the next event is a new one.
    Running,
    /// Stopped at an event that a worker is handling.
    Served,
    /// Making host calls for its worker.
    Talk(Talk),
    /// About to make this host call, then guest code.
    Last(Call),
    /// Making its last host call.
    Leaving(Call),
}

struct Talk {
    expect: Vec<Call>,
    next: usize,
    /// The worker waits as the group's talker.
    receiving: bool,
}

/// How a conversation ended.
#[derive(Clone, Copy)]
pub enum Ended {
    Event(Notif),
    Died,
}

struct Member {
    cx: Arc<Ctx>,
    run: Run,
    /// A kick came while the context was served.
    kick: bool,
    /// When an interruption was sent that has not led to an event yet.
    signalled: Option<Instant>,
    ended: Option<Ended>,
    /// It waits by futex, not in a notified call.
    parked: bool,
}

/// A host thread being created.
struct Birth {
    parent: Arc<Ctx>,
    /// The parent's worker waits as the group's talker.
    receiving: bool,
    /// Its tid, once the parent has told it.
    tid: Option<i32>,
    /// Events of unknown threads that came before; at most [`HELD_MAX`].
    held: Vec<Notif>,
    expect: Vec<Call>,
    next: usize,
    state: BirthState,
}

/// More unknown threads than this are not waited for: only one can be the child.
const HELD_MAX: usize = 16;

impl Birth {
    /// Takes the child's next call; the id of a call the host may execute.
    fn step(&mut self, n: &Notif, from: Origin) -> Option<u64> {
        match from {
            Origin::Stub if self.expect.get(self.next).is_some_and(|c| confirm::is(c, n)) => {
                self.next += 1;
                return Some(n.id);
            }
            Origin::Event if self.next == self.expect.len() && n.args[0] == 0 => {
                self.state = BirthState::Ready(*n)
            }
            _ => self.fail(n.pid as i32),
        }
        None
    }

    fn fail(&mut self, tid: i32) {
        self.state = BirthState::Failed;
        sys::kill(tid, libc::SIGKILL).ok();
    }
}

enum BirthState {
    Pending,
    Ready(Notif),
    Failed,
}

/// Host thread ids are as good as random, and looked up twice for each event.
#[derive(Default)]
struct ByTid(u64);

impl Hasher for ByTid {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.write_i32(i32::from(*b)));
    }

    fn write_i32(&mut self, tid: i32) {
        // The table takes bits from both ends.
        self.0 = (self.0 ^ u64::from(tid as u32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

#[derive(Default)]
struct State {
    members: HashMap<i32, Member, BuildHasherDefault<ByTid>>,
    /// Contexts and births that may raise an event.
    unserved: usize,
    /// Contexts that wait by futex.
    parked: usize,
    /// Workers receiving or on their way to it.
    receivers: usize,
    /// Host tids of workers inside the receive call, or just before or after it.
    tids: Vec<i32>,
    talker: Option<i32>,
    birth: Option<Birth>,
}

pub struct Group {
    pub machine: Arc<Machine>,
    pub listener: Listener,
    /// One thread creation at a time, so that an unknown tid can only be its child.
    pub births: Mutex<()>,
    st: Mutex<State>,
}

/// What to do with a received notification.
enum Taken {
    Serve(Arc<Ctx>, Notif),
    Continue,
    Nothing,
}

/// Where a worker goes after an event.
pub enum Onward {
    /// Back to the group whose context it served, where it is counted as a receiver.
    Same,
    /// Likewise to another one: the context was switched (execve(2)).
    Other(Arc<Group>),
    Park,
}

/// What came of a resume.
pub enum Resumed {
    /// The guest runs; the worker goes there.
    Running(Onward),
    /// A kick came while the context was served; it is still stopped.
    Kicked,
    /// The context is dead and the caller has to report it.
    Dead,
}

impl State {
    /// After a change: whether another receiver is needed; counts it in.
    fn wants_receiver(&mut self) -> bool {
        let wants = self.unserved > 0 && self.receivers == 0 && self.talker.is_none();
        if wants {
            self.receivers = 1;
        }
        wants
    }

    fn surplus(&self) -> bool {
        self.receivers > self.unserved || self.talker.is_some()
    }

    fn stop_receiving(&mut self, tid: i32) {
        self.receivers -= 1;
        if let Some(i) = self.tids.iter().position(|&t| t == tid) {
            self.tids.swap_remove(i);
        }
    }
}

impl Group {
    pub fn new(machine: Arc<Machine>, listener: Listener) -> Arc<Group> {
        Arc::new(Group { machine, listener, births: Mutex::new(()), st: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.st.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn code(&self) -> &Range<u64> {
        &self.machine.base.region.code
    }

    /// Adds a stopped context.
    pub fn add(&self, cx: &Arc<Ctx>) {
        let m = Member {
            cx: cx.clone(),
            run: Run::Served,
            kick: false,
            signalled: None,
            ended: None,
            parked: false,
        };
        self.lock().members.insert(cx.tid, m);
    }

    fn promote(self: &Arc<Group>) {
        let g = self.clone();
        self.machine.pool.run(Box::new(move || work(g, false)));
    }

    // ---- receiving ---------------------------------------------------------------

    /// Receives until an event of some context wants serving; `None` when this worker is
    /// not needed here any more. The caller is counted in `receivers`, and with `listed` in `tids`.
    fn receive(self: &Arc<Group>, listed: bool) -> Option<(Arc<Ctx>, Notif)> {
        let me = sys::my_tid();
        if !listed {
            let mut st = self.lock();
            if st.surplus() {
                st.receivers -= 1;
                return None;
            }
            st.tids.push(me);
        }
        loop {
            match self.listener.recv() {
                Ok(n) => match self.take(&n, Some(me)) {
                    Taken::Serve(cx, n) => return Some((cx, n)),
                    Taken::Continue => drop(self.listener.send(n.id, Answer::Continue)),
                    Taken::Nothing => {}
                },
                Err(e) => {
                    // Woken, or a caller died. With no process left under the filter the call
                    // would fail for ever; the reaper delivers what remains to be said.
                    let over = e != errno::EINTR && self.listener.poll(0).1;
                    let mut st = self.lock();
                    if over || st.surplus() {
                        st.stop_receiving(me);
                        return None;
                    }
                }
            }
        }
    }

    /// Sorts a notification. `receiver` is the calling worker when it would serve itself.
    fn take(self: &Arc<Group>, n: &Notif, receiver: Option<i32>) -> Taken {
        let tid = n.pid as i32;
        let from = origin(n, self.code());
        let mut guard = self.lock();
        let st = &mut *guard;
        let Some(m) = st.members.get_mut(&tid) else {
            return Self::take_birth(st, n, from);
        };
        m.signalled = None;
        match &mut m.run {
            Run::Running => {
                m.run = Run::Served;
                let cx = m.cx.clone();
                st.unserved -= 1;
                if let Some(me) = receiver {
                    st.stop_receiving(me);
                }
                let promote = st.wants_receiver();
                drop(guard);
                if promote {
                    self.promote();
                }
                Taken::Serve(cx, *n)
            }
            Run::Last(call) => {
                if from == Origin::Stub && confirm::is(call, n) {
                    m.run = Run::Running;
                    Taken::Continue
                } else {
                    m.cx.space.process.kill();
                    Taken::Nothing
                }
            }
            Run::Talk(t) => match from {
                Origin::Stub if t.expect.get(t.next).is_some_and(|c| confirm::is(c, n)) => {
                    t.next += 1;
                    Taken::Continue
                }
                Origin::Event => {
                    m.ended = Some(Ended::Event(*n));
                    // The talker for this context is the caller itself.
                    if !t.receiving {
                        m.cx.wake.notify_one();
                    }
                    m.run = Run::Served;
                    st.unserved -= 1;
                    Taken::Nothing
                }
                _ => {
                    m.cx.space.process.kill();
                    Taken::Nothing
                }
            },
            Run::Leaving(call) => {
                if from == Origin::Stub && confirm::is(call, n) {
                    let cx = m.cx.clone();
                    st.members.remove(&tid);
                    st.unserved -= 1;
                    cx.space.slots().release(cx.position, cx.slot.clone());
                    Taken::Continue
                } else {
                    m.cx.space.process.kill();
                    Taken::Nothing
                }
            }
            // A parked thread makes no calls.
            Run::Served if m.parked => {
                m.cx.space.process.kill();
                Taken::Nothing
            }
            // Only after its death was noticed elsewhere.
            Run::Served => Taken::Nothing,
        }
    }

    fn take_birth(st: &mut State, n: &Notif, from: Origin) -> Taken {
        let tid = n.pid as i32;
        match &mut st.birth {
            Some(b) if matches!(b.state, BirthState::Pending) => match b.tid {
                Some(t) if t == tid => {
                    if b.step(n, from).is_some() {
                        return Taken::Continue;
                    }
                    st.unserved -= 1;
                    if !b.receiving {
                        b.parent.wake.notify_one();
                    }
                }
                // Who it is cannot be told before the parent has spoken, and an impostor
                // (left behind by a process that lied about its child) must not be given
                // the child's slot.
                None if b.held.len() < HELD_MAX => b.held.push(*n),
                _ => drop(sys::kill(tid, libc::SIGKILL)),
            },
            // Nobody we asked for.
            _ => drop(sys::kill(tid, libc::SIGKILL)),
        }
        Taken::Nothing
    }

    // ---- leaving an event ----------------------------------------------------------

    /// Marks the context running, after it has made the call `last`, and answers its event, unless a
    /// kick came since the event.
    pub fn resume(
        self: &Arc<Group>,
        cx: &Ctx,
        id: u64,
        answer: Answer,
        last: Option<Call>,
        worker: bool,
    ) -> Resumed {
        let mut onward = Onward::Park;
        let mut promote = false;
        {
            let mut st = self.lock();
            let Some(m) = st.members.get_mut(&cx.tid) else { return Resumed::Dead };
            if std::mem::take(&mut m.kick) {
                return Resumed::Kicked;
            }
            m.run = last.map_or(Run::Running, Run::Last);
            st.unserved += 1;
            if !worker {
                promote = st.wants_receiver();
            } else if st.talker.is_none() && st.receivers < st.unserved {
                st.receivers += 1;
                st.tids.push(sys::my_tid());
                onward = Onward::Same;
            }
        }
        if promote {
            self.promote();
        }
        if self.answer(cx, id, answer).is_ok() {
            return Resumed::Running(onward);
        }
        let mut st = self.lock();
        let st = &mut *st;
        match st.members.get_mut(&cx.tid) {
            Some(m) if matches!(m.run, Run::Running | Run::Last(_)) => {
                m.run = Run::Served;
                st.unserved -= 1;
                if matches!(onward, Onward::Same) {
                    st.stop_receiving(sys::my_tid());
                }
                Resumed::Dead
            }
            // The reaper was faster and has it reported.
            _ => Resumed::Running(onward),
        }
    }

    /// Lets the context make its last call, answering event `id` with `answer`.
    pub fn leave(self: &Arc<Group>, cx: &Ctx, id: u64, answer: Answer, call: Call) {
        let promote = {
            let mut st = self.lock();
            let Some(m) = st.members.get_mut(&cx.tid) else { return };
            m.run = Run::Leaving(call);
            st.unserved += 1;
            st.wants_receiver()
        };
        if promote {
            self.promote();
        }
        // A failure means that it is gone already; the reaper sorts it out.
        self.answer(cx, id, answer).ok();
    }

    /// Forgets a context.
    pub fn remove(&self, cx: &Ctx) {
        let mut st = self.lock();
        if st.members.remove(&cx.tid).is_some_and(|m| m.parked) {
            st.parked -= 1;
        }
    }

    // ---- parking -------------------------------------------------------------------

    /// Calls that were received and not answered yet: the host goes through all of them to find one.
    pub fn blocked(&self) -> usize {
        let st = self.lock();
        st.members.len().saturating_sub(st.unserved + st.parked)
    }

    /// Notes that a stopped context waits by futex from now on, or does not any more.
    pub fn set_parked(&self, cx: &Ctx, parked: bool) {
        let mut st = self.lock();
        let st = &mut *st;
        if let Some(m) = st.members.get_mut(&cx.tid)
            && m.parked != parked
        {
            m.parked = parked;
            st.parked = if parked { st.parked + 1 } else { st.parked - 1 };
        }
    }

    /// Answers the context's event, or wakes it with a command when it is parked.
    pub fn answer(&self, cx: &Ctx, id: u64, answer: Answer) -> Result<()> {
        if id != PARKED {
            return self.listener.send(id, answer);
        }
        self.set_parked(cx, false);
        // Who finds the process alive now hears of its death later.
        if cx.space.process.is_gone() {
            return Err(errno::ESRCH);
        }
        cx.unpark(answer);
        Ok(())
    }
}

/// A worker's life between two parkings: it receives for `group`, see [`Group::receive`].
pub fn work(mut group: Arc<Group>, mut listed: bool) {
    while let Some((cx, n)) = group.receive(listed) {
        match serve(cx, First::Notified(n)) {
            Onward::Same => {}
            Onward::Other(new) => group = new,
            Onward::Park => break,
        }
        listed = true;
    }
    park::serving(None);
}
