//! What every backend stands on: the stub's region, the zygote, the limits that follow
//! from them, and the shape of the extended state.

use std::sync::{OnceLock, mpsc};

use uml_abi::{Result, errno};

use crate::api::{DebugRegs, Limits};
use crate::debug::{self, Access};
use crate::pool::PanicHook;
use crate::region::{HostVdso, Region, host_maps, user_end};
use crate::seccomp::frame::Xstate;
use crate::sys;
use crate::zygote::{Hold, Zygote};

/// What boot decides for a backend.
#[derive(Clone)]
pub struct Setup {
    /// Host CPUs of the machine.
    pub cpus: Vec<usize>,
    pub user_min: u64,
    pub on_panic: PanicHook,
    /// Calls that an outer filter would answer before they could notify.
    pub hidden: Vec<u32>,
}

pub struct Foundation {
    pub region: Region,
    pub zygote: Zygote,
    limits: Limits,
    xstate: OnceLock<Xstate>,
    debug: OnceLock<bool>,
}

/// Tells the reaper thread what to do once the machine exists.
pub type ReaperStart = mpsc::Sender<Box<dyn FnOnce() + Send>>;

impl Foundation {
    /// Makes the zygote on a new thread, which becomes the reaper. `hold` says how guests
    /// are held in the region chosen; what it maps does not stand in the way of the region.
    pub fn new(
        setup: &Setup,
        hold: impl FnOnce(&Region) -> Result<Hold>,
    ) -> Result<(Foundation, ReaperStart)> {
        sys::install_wake_handler()?;
        let maps = host_maps()?;
        let region = Region::choose(&maps, uml_stub::code().len(), user_end(sys::mappable))?;
        let vdso = HostVdso::find(&maps);
        let hold = hold(&region)?;
        let (made, zygote) = mpsc::channel();
        let (start, started) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (r, v) = (region.clone(), vdso.clone());
        std::thread::Builder::new().name("uml-reaper".into()).spawn(move || {
            let z = Zygote::make(&r, &v, &hold);
            if made.send(z).is_err() {
                return;
            }
            drop(made);
            // Without a machine the zygote dies with this thread, its parent.
            if let Ok(reap) = started.recv() {
                reap();
            }
        })?;
        let zygote = zygote.recv().map_err(|_| errno::EAGAIN)??;
        let vdso_at = if zygote.vdso_moved { region.vdso } else { vdso.start() };
        let function = |off: u64| if off == 0 { 0 } else { vdso_at + off };
        let limits = Limits {
            user_min: setup.user_min,
            user_max: if zygote.vdso_moved || vdso_at == 0 {
                region.base
            } else {
                region.base.min(vdso_at)
            },
            xstate_size: 0,
            host_clock_gettime: function(vdso.clock_gettime),
            host_getcpu: function(vdso.getcpu),
            ncpus: setup.cpus.len(),
            rseq: true,
        };
        Ok((
            Foundation { region, zygote, limits, xstate: OnceLock::new(), debug: OnceLock::new() },
            start,
        ))
    }

    pub fn limits(&self) -> Limits {
        Limits { xstate_size: self.xstate_size(), ..self.limits }
    }

    pub fn user_max(&self) -> u64 {
        self.limits.user_max
    }

    /// Bytes of extended state in a frame; the smallest possible before it is known.
    pub fn xstate_size(&self) -> usize {
        self.xstate.get().map_or(512, Xstate::size)
    }

    pub fn xstate(&self) -> Result<&Xstate> {
        self.xstate.get().ok_or(errno::EINVAL)
    }

    /// Whether the host lets this process set hardware breakpoints of its children; tried on the zygote.
    pub fn has_debug_registers(&self) -> bool {
        *self.debug.get_or_init(|| {
            let pid = self.zygote.pid;
            // Four bytes that nobody writes, in the page that no process has.
            let some = DebugRegs { address: [8, 0, 0, 0], control: 1 | 0xd << 16 };
            let set = |r| debug::visit(pid, pid, Access::Set(r), || {});
            set(some).is_ok() && set(DebugRegs::default()).is_ok()
        })
    }

    /// Notes the image of the initial state, once.
    pub fn set_xstate(&self, x: Xstate) {
        let _ = self.xstate.set(x);
    }
}
