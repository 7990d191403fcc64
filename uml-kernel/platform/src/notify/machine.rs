//! The platform object: shared resources, process creation and shutdown.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use uml_abi::{Result, errno};

use super::context::Cx;
use super::group::Group;
use super::park;
use super::serve;
use super::space::GuestSpace;
use crate::api::{Context, Limits, Platform, Runner};
use crate::children::Children;
use crate::placement;
use crate::pool::{PanicHook, Pool};
use crate::process::HostProcess;
use crate::seccomp::base::{Base, Setup};
use crate::seccomp::filter::{self, Role};
use crate::seccomp::frame::Xstate;
use crate::seccomp::notif::Listener;
use crate::seccomp::slots::Slots;
use crate::seccomp::zygote::Filters;
use crate::warm::Warm;
use crate::watch::{Overdue, Watch};

/// Processes kept ready for execve(2).
const WARM: usize = 3;

const NEW_LISTENER: u64 = 1 << 3;
const WAIT_KILLABLE_RECV: u64 = 1 << 5;
/// Flags of seccomp(2) for the filter; the second needs Linux 5.19.
pub const FILTER_FLAGS: u64 = NEW_LISTENER | WAIT_KILLABLE_RECV;

/// Calls whose kernel code wants the caller's registers, so that it is cheaper to have
/// them at once: those that copy them (clone), replace them (rt_sigreturn), or make host
/// calls in the caller's address space; and those that send a signal, which most programs
/// send to themselves (raise(3), abort(3)).
const TRAP: [i64; 11] = [
    libc::SYS_mmap,
    libc::SYS_rt_sigreturn,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_brk,
    libc::SYS_mremap,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
];

pub struct Machine {
    pub base: Base,
    pub pool: Arc<Pool>,
    pub children: Children<GuestSpace>,
    pub watch: Watch,
    warm: Warm<Box<Cx>>,
    sync_wake_up: AtomicBool,
    on_panic: PanicHook,
    me: Weak<Machine>,
}

impl Machine {
    /// Sets up, and probes the host by taking a process through its first events.
    pub fn boot(setup: &Setup) -> Result<Arc<Machine>> {
        placement::enable();
        let mut trap: Vec<u32> = TRAP.iter().map(|&nr| nr as u32).collect();
        trap.extend(setup.hidden.iter().filter(|nr| !TRAP.contains(&i64::from(**nr))));
        let (base, reaper) = Base::new(setup, |region| Filters {
            first: filter::build(region.code.clone(), Role::Notify { trap: &trap }),
            first_flags: FILTER_FLAGS,
            thread: None,
        })?;
        let machine = Arc::new_cyclic(|me| Machine {
            base,
            pool: Pool::new(),
            children: Children::new(),
            watch: Watch::default(),
            warm: Warm::new(1),
            sync_wake_up: AtomicBool::new(false),
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
        machine.probe().inspect_err(|_| machine.shutdown())?;
        Ok(machine)
    }

    fn probe(&self) -> Result<()> {
        let mut cx = self.warm.take(|_| true)?;
        self.base.set_xstate(Xstate::from_host(cx.capture_xstate()?));
        // The kernel must be able to reach guest memory.
        let mut word = [0u8; 8];
        let code = self.base.region.code.start;
        if cx.space().read(code, &mut word) != 8 || word != uml_stub::code()[..8] {
            return Err(errno::EPERM);
        }
        drop(cx);
        self.warm.set_wanted(WARM);
        Ok(())
    }

    /// Whether the host wakes the other side of a notification on the same CPU.
    pub fn has_sync_wake_up(&self) -> bool {
        self.sync_wake_up.load(Ordering::Relaxed)
    }

    pub fn report_panic(&self, message: &str) {
        (self.on_panic)(message);
    }

    fn overdue(&self, since: Instant) -> Overdue {
        let mut groups: Vec<Arc<Group>> =
            self.children.all().iter().map(|s| s.group.clone()).collect();
        groups.sort_by_key(Arc::as_ptr);
        groups.dedup_by(|a, b| Arc::ptr_eq(a, b));
        let mut all: Overdue = (false, Vec::new());
        for g in groups {
            let (some, mut late) = g.overdue(since);
            all.0 |= some;
            all.1.append(&mut late);
        }
        all
    }

    /// Makes one process and brings it to its first event.
    fn create(&self) -> Result<Box<Cx>> {
        let me = self.me.upgrade().ok_or(errno::EAGAIN)?;
        let reservation = self.pool.reserve()?;
        let since = self.children.epoch();
        let spawned = self.base.zygote.spawn(&self.base.arena, &self.base.region, None)?;
        let pid = spawned.pid;
        let fd = spawned.listener(|| !self.children.is_orphan(pid, since));
        let fd = fd.inspect_err(|_| self.children.kill_unregistered(pid, since))?;
        let listener = Listener::adopt(fd);
        self.sync_wake_up.store(listener.set_sync_wake_up(), Ordering::Relaxed);
        let group = Group::new(me.clone(), listener);
        let slot = Arc::new(spawned.slot);
        let space = Arc::new(GuestSpace::new(pid, group.clone(), Slots::with(0, &slot)));
        self.children.register(&space, since);
        let event = loop {
            let (ready, hung_up) = group.listener.poll(100);
            if ready {
                match group.listener.recv() {
                    Ok(n) => break n,
                    Err(errno::EINTR | errno::ENOENT) => {}
                    Err(e) => return Err(e),
                }
            }
            if hung_up || space.process.is_gone() {
                return Err(errno::EAGAIN);
            }
        };
        if event.pid as i32 != pid {
            space.process.kill();
            return Err(errno::EAGAIN);
        }
        Ok(Box::new(Cx::adopt(&me, &space, slot, event.id, reservation)))
    }
}

impl Platform for Machine {
    fn name(&self) -> &'static str {
        "notify"
    }

    fn limits(&self) -> Limits {
        self.base.limits()
    }

    fn new_space(&self) -> Result<Box<dyn Context>> {
        Ok(self.warm.take(|c| !c.cx.space.process.is_gone())?)
    }

    fn start(&self, cx: Box<dyn Context>, runner: Arc<dyn Runner>) -> Result<()> {
        let cx = cx.into_any().downcast::<Cx>().map_err(|_| errno::EINVAL)?;
        serve::start(cx, runner);
        Ok(())
    }

    fn blocking(&self, f: &mut dyn FnMut()) {
        // A worker that serves an event is not counted as a receiver, so nothing depends
        // on how long it takes.
        f();
    }

    fn about_to_sleep(&self) -> bool {
        park::park_served()
    }

    fn has_debug_registers(&self) -> bool {
        self.base.has_debug_registers()
    }

    fn shutdown(&self) {
        HostProcess::new(self.base.zygote.pid).kill();
        self.children.shut_down();
        self.watch.stop();
        self.warm.stop();
    }
}
