//! The platform object of the ptrace backend.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak, mpsc};

use uml_abi::{Result, errno};

use super::context::Cx;
use super::space::GuestSpace;
use super::tracee::{NT_PRFPREG, NT_X86_XSTATE, Tracee};
use crate::api::{Context, Limits, Platform, Runner};
use crate::children::Children;
use crate::foundation::{Foundation, Setup};
use crate::paired;
use crate::pool::{PanicHook, Pool};
use crate::process::HostProcess;
use crate::seat::{self, Seats};
use crate::seccomp::frame::Xstate;
use crate::sys;
use crate::warm::Warm;
use crate::zygote::Hold;

/// Processes kept ready for execve(2).
const WARM: usize = 3;

pub struct Machine {
    pub base: Foundation,
    pub pool: Arc<Pool>,
    pub children: Children<GuestSpace>,
    pub seats: Arc<Seats>,
    /// Bytes of memory for signal frames in each process.
    pub frames: usize,
    /// Which register set holds the extended state, the room it may need, and its length.
    note: usize,
    regset_room: usize,
    regset_len: OnceLock<usize>,
    warm: Warm<Box<Cx>>,
    /// Dropped to end the reaper.
    end: Mutex<Option<mpsc::Sender<()>>>,
    on_panic: PanicHook,
    me: Weak<Machine>,
}

impl Machine {
    /// Sets up, and probes the host by taking a process through its first events.
    pub fn boot(setup: &Setup) -> Result<Arc<Machine>> {
        sys::ignore_child_stops()?;
        let frames = frame_room();
        let xsave = std::is_x86_feature_detected!("xsave");
        let (base, reaper) = Foundation::new(setup, |_| Ok(Hold::Tracer { frames }))?;
        let (end, ended) = mpsc::channel();
        let machine = Arc::new_cyclic(|me| Machine {
            base,
            pool: Pool::new(),
            children: Children::new(),
            seats: Seats::new(setup.cpus.clone()),
            frames,
            note: if xsave { NT_X86_XSTATE } else { NT_PRFPREG },
            regset_room: if xsave { cpu_xstate() } else { 512 },
            regset_len: OnceLock::new(),
            warm: Warm::new(1),
            end: Mutex::new(Some(end)),
            on_panic: setup.on_panic.clone(),
            me: me.clone(),
        });
        // Each process is buried by who ends it, see `Children::bury`; the reaper is a parent
        // that waits for nothing but the end of the machine.
        let zygote = machine.base.zygote.pid;
        let stay = move || {
            ended.recv().ok();
            sys::reap(zygote);
        };
        reaper.send(Box::new(stay)).map_err(|_| errno::EAGAIN)?;
        let m = machine.clone();
        let keeper = std::thread::Builder::new().name("uml-spawner".into());
        keeper.spawn(move || m.warm.keep(|| m.create()))?;
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

    /// Room for the extended state as a register set.
    pub fn regset_room(&self) -> usize {
        self.regset_room
    }

    /// Reads the extended state of a stopped thread; its length.
    pub fn get_xstate(&self, t: Tracee, buf: &mut [u8]) -> Result<usize> {
        t.xstate(self.note, buf)
    }

    pub fn put_xstate(&self, t: Tracee, set: &[u8]) -> Result<()> {
        t.set_xstate(self.note, set)
    }

    /// The length of the register set, which is the host's to say.
    pub fn regset_len(&self, t: Tracee) -> Result<usize> {
        if let Some(&len) = self.regset_len.get() {
            return Ok(len);
        }
        let len = self.get_xstate(t, &mut vec![0; self.regset_room])?;
        // The initial state is written into its first 32 bytes.
        if len < 512 {
            return Err(errno::EIO);
        }
        Ok(*self.regset_len.get_or_init(|| len))
    }

    /// Gives a thread the extended state of a new program.
    pub fn reset_xstate(&self, t: Tracee) -> Result<()> {
        self.put_xstate(t, &Xstate::initial_regset(self.regset_len(t)?))
    }

    pub fn report_panic(&self, message: &str) {
        (self.on_panic)(message);
    }

    /// Makes one process, which waits to be traced by whoever uses it first.
    fn create(&self) -> Result<Box<Cx>> {
        let me = self.me.upgrade().ok_or(errno::EAGAIN)?;
        let reservation = self.pool.reserve()?;
        let since = self.children.epoch();
        let pid = self.base.zygote.spawn_traced()?;
        let space = Arc::new(GuestSpace::new(pid, me));
        self.children.register(&space, since);
        Ok(Box::new(Cx::fresh(&space, reservation)))
    }
}

/// Room for a signal frame of this CPU, with what the host keeps free around it.
fn frame_room() -> usize {
    // SAFETY: reads the auxiliary vector only. Hosts before Linux 5.14 lack the entry.
    let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
    (frame.max(cpu_xstate()) + 4096).next_multiple_of(4096)
}

/// Bytes of all extended state this CPU knows (CPUID leaf 0xd), enabled or not.
fn cpu_xstate() -> usize {
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};
    let xsave = if __get_cpuid_max(0).0 >= 0xd { __cpuid_count(0xd, 0).ecx as usize } else { 0 };
    // Never less than the legacy area and the header.
    xsave.max(512 + 64)
}

impl Platform for Machine {
    fn name(&self) -> &'static str {
        "ptrace"
    }

    fn limits(&self) -> Limits {
        self.base.limits()
    }

    fn new_space(&self) -> Result<Box<dyn Context>> {
        // One that was killed from outside while it waited is known only by trying.
        loop {
            let mut cx = self.warm.take(|_| true)?;
            match cx.hold() {
                Ok(_) => return Ok(cx),
                Err(errno::ESRCH) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn start(&self, cx: Box<dyn Context>, runner: Arc<dyn Runner>) -> Result<()> {
        let mut cx = cx.into_any().downcast::<Cx>().map_err(|_| errno::EINVAL)?;
        cx.let_go()?;
        paired::start(*cx, runner);
        Ok(())
    }

    fn blocking(&self, f: &mut dyn FnMut()) {
        // Every context has its own worker; only its seat is concerned.
        seat::asleep(f);
    }

    /// The tracers of the threads are there already; the zygote has none.
    fn has_debug_registers(&self) -> bool {
        self.base.has_debug_registers()
    }

    fn shutdown(&self) {
        HostProcess::new(self.base.zygote.pid).kill();
        self.children.shut_down();
        self.seats.stop();
        self.warm.stop();
        drop(self.end.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
