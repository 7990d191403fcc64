//! A guest address space: its host process, its slots and its mapper.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use uml_abi::{Errno, Result, errno};
use uml_stub::{request, slot};

use super::context::Ctx;
use super::machine::Machine;
use crate::children::{Child, Epoch};
use crate::hostcall::{self, Call};
use crate::process::HostProcess;
use crate::seccomp::arena::Slot;
use crate::seccomp::slots::Slots;
use crate::sys::{self, futex_wait, futex_wake};

/// Where the request page carries the nonce that identifies a new process.
const NONCE: usize = 0x40;
/// Written to a slot's turn word when its process is gone.
pub const GONE: u32 = u32::MAX;

/// The mapper's request page and the number of the last request.
pub struct Mapper {
    page: Arc<Slot>,
    seq: u32,
    /// The CPU it was last confined to.
    cpu: Option<usize>,
}

pub struct GuestSpace {
    pub process: HostProcess,
    pub machine: Arc<Machine>,
    /// Contexts that have not ended.
    pub live: AtomicUsize,
    slots: Mutex<Slots>,
    contexts: Mutex<Vec<Weak<Ctx>>>,
    mapper: Mutex<Mapper>,
    /// The mapper's slot, where it reports.
    results: Arc<Slot>,
}

crate::process::impl_space!(GuestSpace);

/// Reads a turn word.
pub fn turn(s: &Slot) -> u32 {
    s.get(slot::TURN) as u32
}

/// Writes a turn word and wakes who waits for it.
pub fn set_turn(s: &Slot, v: u32) {
    // SAFETY: the word is in the slot's mapping, which `s` keeps.
    unsafe {
        (*s.word(slot::TURN)).store(v, Ordering::Release);
        futex_wake(s.word(slot::TURN).cast());
    }
}

/// Sleeps until the turn word is not `seen`, or for no reason.
pub fn await_turn(s: &Slot, seen: u32, timeout: Option<Duration>) {
    // SAFETY: the word is in the slot's mapping, which `s` keeps.
    unsafe { futex_wait(s.word(slot::TURN).cast(), seen, timeout) }
}

impl GuestSpace {
    /// The space of a process whose mapper has served requests up to `seq`.
    pub fn new(
        pid: i32,
        machine: Arc<Machine>,
        results: Arc<Slot>,
        page: Arc<Slot>,
        seq: u32,
    ) -> GuestSpace {
        GuestSpace {
            process: HostProcess::new(pid),
            machine,
            live: AtomicUsize::new(1),
            slots: Mutex::new(Slots::with(0, &results)),
            contexts: Mutex::default(),
            mapper: Mutex::new(Mapper { page, seq, cpu: None }),
            results,
        }
    }

    pub fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add_context(&self, cx: &Arc<Ctx>) {
        let mut list = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() == list.capacity() {
            list.retain(|w| w.strong_count() > 0);
        }
        list.push(Arc::downgrade(cx));
    }

    pub fn contexts(&self) -> Vec<Arc<Ctx>> {
        let list = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        list.iter().filter_map(Weak::upgrade).collect()
    }

    /// Counts a context out; true when it was the last.
    pub fn leave(&self) -> bool {
        self.live.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn mapper(&self) -> MutexGuard<'_, Mapper> {
        self.mapper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the mapper make calls, at most [`slot::OPS_MAX`]. Returns how many succeeded and
    /// the result of the last one made.
    pub fn run_calls(&self, calls: &[Call]) -> Result<(usize, i64)> {
        let mut m = self.mapper();
        m.put_calls(calls);
        let (done, result) = self.request(&mut m, 0)?;
        Ok((done.min(calls.len()), result))
    }

    /// Has the mapper start a guest thread in the slot at `addr`; its tid.
    pub fn start_thread(&self, s: &Slot, addr: u64) -> Result<i32> {
        let mut m = self.mapper();
        let flags = hostcall::THREAD_FLAGS | libc::CLONE_CHILD_CLEARTID as u64;
        m.page.put(request::CLONE_FLAGS, flags);
        m.page.put(request::CHILD_SLOT, addr);
        m.page.put(request::FPROG, self.machine.base.zygote.thread);
        s.put(slot::TID, 1);
        set_turn(s, 1);
        let (_, tid) = self.request(&mut m, uml_stub::cmd::THREAD)?;
        if tid <= 0 {
            return Err(Errno::from_raw(tid.wrapping_neg() as i32));
        }
        // A thread of another process is not believed.
        let own = self.process.with_pid(|pid| crate::sys::tgkill(pid, tid as i32, 0));
        if own == Some(Ok(())) { Ok(tid as i32) } else { Err(errno::ESRCH) }
    }

    /// Has the mapper duplicate the process. `calls` set up the child, beginning with its
    /// mapper's slot (`results`) and request page; `slot` is its thread's. Returns its space.
    pub fn fork(
        &self,
        results: Arc<Slot>,
        page: Arc<Slot>,
        slot: &Arc<Slot>,
        calls: &[Call],
    ) -> Result<Arc<GuestSpace>> {
        let machine = self.machine.clone();
        let nonce = machine.nonce();
        let since = machine.children.epoch();
        let mut m = self.mapper();
        let seq = m.seq.wrapping_add(1);
        let mut child = Mapper { page: page.clone(), seq, cpu: None };
        child.put_calls(calls);
        child.page.put(request::SEQ, seq.into());
        child.page.put(NONCE, nonce);
        m.put_calls(calls);
        m.page.put(request::KERNEL, crate::sys::getpid() as u64);
        m.page.put(request::CLONE_FLAGS, hostcall::FORK_FLAGS);
        let inherited = self.slots().all();
        // Our page must not change before the child has its own, hence the lock.
        let pid = self.request(&mut m, uml_stub::cmd::FORK).and_then(|(_, pid)| match pid {
            1.. => self.await_child(pid as i32, &results, seq, since),
            _ => Err(Errno::from_raw(pid.wrapping_neg() as i32)),
        });
        drop(m);
        let space = pid.and_then(|pid| {
            let seen = results.clone();
            let space = Arc::new(GuestSpace::new(pid, machine.clone(), seen, page, seq));
            let mut seen = [0; 8];
            let at = machine.base.region.request + NONCE as u64;
            if space.process.read(&[(at, 8)], &mut seen) == 8 && u64::from_ne_bytes(seen) == nonce {
                return Ok(space);
            }
            // Not the child, whatever it is: not ours to touch. A forged result.
            self.process.kill();
            Err(errno::ESRCH)
        });
        match space {
            Ok(space) => {
                machine.children.register(&space, since);
                Ok(space)
            }
            Err(e) => {
                // A child may exist or not; if so, it shall end, and until then its slots
                // are not for others.
                child.send(uml_stub::cmd::QUIT);
                let mut others = inherited;
                others.extend([slot.clone(), self.results.clone(), self.mapper().page.clone()]);
                machine.bury(Grave { mapper: child, results, _others: others });
                Err(e)
            }
        }
    }

    /// Waits for a child's report, which only it can write. It may die before that.
    fn await_child(&self, pid: i32, results: &Slot, seq: u32, since: Epoch) -> Result<i32> {
        loop {
            let now = turn(results);
            if now == seq {
                return Ok(pid);
            }
            if self.machine.children.is_orphan(pid, since) || self.process.is_gone() {
                return Err(errno::EAGAIN);
            }
            await_turn(results, now, Some(Duration::from_millis(50)));
        }
    }

    /// Has the mapper, which sleeps, wake up on the caller's CPU.
    fn bring_here(&self, m: &mut Mapper) {
        if !self.machine.seats.several() {
            return;
        }
        let here = sys::current_cpu();
        if let Some(cpu) = here.filter(|_| here != m.cpu) {
            // Where it runs is a matter of speed only.
            self.process.with_pid(|pid| sys::set_affinity_of(pid, &[cpu]).ok());
            m.cpu = here;
        }
    }

    fn request(&self, m: &mut Mapper, command: u64) -> Result<(usize, i64)> {
        self.bring_here(m);
        m.send(command);
        loop {
            let now = turn(&self.results);
            if self.process.is_gone() {
                return Err(errno::ESRCH);
            }
            if now == m.seq {
                break;
            }
            await_turn(&self.results, now, None);
        }
        Ok((self.results.get(slot::DONE) as usize, self.results.get(slot::RESULT) as i64))
    }
}

/// What is kept of a fork that failed until its child, if there is one, has ended.
pub struct Grave {
    mapper: Mapper,
    results: Arc<Slot>,
    /// Its thread's slot, and everything it has inherited and not unmapped yet.
    _others: Vec<Arc<Slot>>,
}

impl Grave {
    /// The child has acknowledged and touches its slots no more.
    pub fn is_quiet(&self) -> bool {
        turn(&self.results) == self.mapper.seq
    }
}

impl Mapper {
    fn send(&mut self, command: u64) {
        self.seq = self.seq.wrapping_add(1);
        self.page.put(request::COMMAND, command);
        let word = self.page.word(request::SEQ);
        // SAFETY: the word is in the page's mapping, which `self` keeps.
        unsafe {
            (*word).store(self.seq, Ordering::Release);
            futex_wake(word.cast());
        }
    }

    fn put_calls(&self, calls: &[Call]) {
        hostcall::put_calls(&self.page, calls);
        self.page.put(request::COUNT, calls.len() as u64);
    }
}

impl Child for GuestSpace {
    fn process(&self) -> &HostProcess {
        &self.process
    }

    fn ended(self: Arc<Self>) {
        set_turn(&self.results, GONE);
        for cx in self.contexts() {
            set_turn(&cx.slot, GONE);
        }
        *self.slots() = Slots::default();
    }
}
