//! The platform object of the trap backend.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use uml_abi::{Errno, Result, errno};
use uml_stub::slot;

use super::context::Cx;
use super::space::{Grave, GuestSpace};
use crate::api::{Context, Limits, Platform, Runner};
use crate::children::Children;
use crate::hostcall;
use crate::paired;
use crate::pool::{PanicHook, Pool};
use crate::process::HostProcess;
use crate::seat::{self, Seats};
use crate::seccomp::arena::Slot;
use crate::seccomp::base::{Base, Setup};
use crate::seccomp::filter::{self, Role};
use crate::seccomp::frame::Xstate;
use crate::seccomp::stopped::{Place, Stopped};
use crate::seccomp::zygote::{Extra, Filters};
use crate::warm::Warm;
use crate::watch::{Interrupted, Overdue, Watch};

/// Processes kept ready for execve(2).
const WARM: usize = 3;
/// Failed forks remembered at most.
const GRAVES: usize = 256;

pub struct Machine {
    pub base: Base,
    pub pool: Arc<Pool>,
    pub children: Children<GuestSpace>,
    pub watch: Watch,
    pub seats: Arc<Seats>,
    warm: Warm<Box<Cx>>,
    graves: Mutex<VecDeque<Grave>>,
    nonces: (RandomState, AtomicU64),
    on_panic: PanicHook,
    me: Weak<Machine>,
}

impl Machine {
    /// Sets up, and probes the host by taking a process through its first events.
    pub fn boot(setup: &Setup) -> Result<Arc<Machine>> {
        let (base, reaper) = Base::new(setup, |region| Filters {
            first: filter::build(region.code.clone(), Role::Mapper),
            first_flags: 0,
            thread: Some(filter::build(region.code.clone(), Role::Thread)),
        })?;
        let machine = Arc::new_cyclic(|me| Machine {
            base,
            pool: Pool::new(),
            children: Children::new(),
            watch: Watch::default(),
            seats: Seats::new(setup.cpus.clone()),
            warm: Warm::new(1),
            graves: Mutex::default(),
            nonces: (RandomState::new(), AtomicU64::new(0)),
            on_panic: setup.on_panic.clone(),
            me: me.clone(),
        });
        let m = machine.clone();
        let reap = move || m.children.reap(m.base.zygote.pid);
        reaper.send(Box::new(reap)).map_err(|_| errno::EAGAIN)?;
        let m = machine.clone();
        let keeper = std::thread::Builder::new().name("uml-spawner".into());
        keeper.spawn(move || m.warm.keep(|| m.create()))?;
        let m = machine.clone();
        let watch = std::thread::Builder::new().name("uml-watch".into());
        watch.spawn(move || m.watch.run(|since| m.overdue(since)))?;
        let seats = machine.seats.clone();
        let host = std::thread::Builder::new().name("uml-seats".into());
        host.spawn(move || seats.run())?;
        machine.probe().inspect_err(|_| machine.shutdown())?;
        Ok(machine)
    }

    fn probe(&self) -> Result<()> {
        let mut cx = self.warm.take(|_| true)?;
        self.base.set_xstate(Xstate::from_host(cx.capture_xstate()?));
        let mut word = [0u8; 8];
        let code = self.base.region.code.start;
        if cx.space().read(code, &mut word) != 8 || word != uml_stub::code()[..8] {
            return Err(errno::EPERM);
        }
        drop(cx);
        self.warm.set_wanted(WARM);
        Ok(())
    }

    /// A number that a guest cannot guess.
    pub fn nonce(&self) -> u64 {
        let mut h = self.nonces.0.build_hasher();
        h.write_u64(self.nonces.1.fetch_add(1, Ordering::Relaxed));
        h.finish()
    }

    /// Keeps a grave until it is quiet. One whose child never came to be stays until it is
    /// the oldest of many.
    pub fn bury(&self, grave: Grave) {
        let mut graves = self.graves.lock().unwrap_or_else(PoisonError::into_inner);
        graves.retain(|g| !g.is_quiet());
        if graves.len() >= GRAVES {
            graves.pop_front();
        }
        graves.push_back(grave);
    }

    pub fn place<'a>(&self, s: &'a Slot, addr: u64) -> Place<'a> {
        let p = self.base.place(s, addr);
        Place { flags: p.flags | slot::FLAG_FUTEX, ..p }
    }

    pub fn report_panic(&self, message: &str) {
        (self.on_panic)(message);
    }

    fn overdue(&self, since: Instant) -> Overdue {
        let mut all: Overdue = (false, Vec::new());
        for cx in self.children.all().iter().flat_map(|s| s.contexts()) {
            let Some(at) = cx.signalled() else { continue };
            all.0 = true;
            if at < since {
                all.1.push(cx as Arc<dyn Interrupted>);
            }
        }
        all
    }

    /// Makes one process, with a mapper and the slot of its first guest thread.
    fn create(&self) -> Result<Box<Cx>> {
        let me = self.me.upgrade().ok_or(errno::EAGAIN)?;
        let reservation = self.pool.reserve()?;
        let arena = &self.base.arena;
        let page = Arc::new(arena.alloc()?);
        let extra = Extra { addr: self.base.region.request, offset: page.offset() };
        let since = self.children.epoch();
        let spawned = self.base.zygote.spawn(arena, &self.base.region, Some(extra))?;
        let pid = spawned.pid;
        let ready = spawned.listener(|| !self.children.is_orphan(pid, since));
        ready.inspect_err(|_| self.children.kill_unregistered(pid, since))?;
        let space = Arc::new(GuestSpace::new(pid, me, Arc::new(spawned.slot), page, 0));
        self.children.register(&space, since);
        let s = Arc::new(arena.alloc()?);
        let position = space.slots().reserve().ok_or(errno::EAGAIN)?;
        space.slots().add(&s);
        let map = hostcall::map_slot(self.base.region.slot(position), arena.fd(), s.offset());
        let (done, result) = space.run_calls(&[map])?;
        if done != 1 {
            space.process.kill();
            return Err(Errno::from_raw(result.wrapping_neg() as i32));
        }
        let mut cx = Cx::new(&space, s, position, reservation, Stopped::fresh());
        cx.unstarted = true;
        Ok(Box::new(cx))
    }
}

impl Platform for Machine {
    fn name(&self) -> &'static str {
        "trap"
    }

    fn limits(&self) -> Limits {
        // Host calls are made, and processes duplicated, by another thread than the guest's.
        Limits { rseq: false, ..self.base.limits() }
    }

    fn new_space(&self) -> Result<Box<dyn Context>> {
        Ok(self.warm.take(|c| !c.cx.space.process.is_gone())?)
    }

    fn start(&self, cx: Box<dyn Context>, runner: Arc<dyn Runner>) -> Result<()> {
        let cx = cx.into_any().downcast::<Cx>().map_err(|_| errno::EINVAL)?;
        paired::start(*cx, runner);
        Ok(())
    }

    fn blocking(&self, f: &mut dyn FnMut()) {
        // Every context has its own worker; only its seat is concerned.
        seat::asleep(f);
    }

    fn has_debug_registers(&self) -> bool {
        self.base.has_debug_registers()
    }

    fn shutdown(&self) {
        HostProcess::new(self.base.zygote.pid).kill();
        self.children.shut_down();
        self.watch.stop();
        self.seats.stop();
        self.warm.stop();
    }
}
