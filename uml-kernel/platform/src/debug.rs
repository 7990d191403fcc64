//! Debug registers of a guest's host thread: hardware breakpoints and watchpoints (ptrace(2), PTRACE_POKEUSER).
//!
//! The host keeps them with the thread, and raises SIGTRAP there whether or not a tracer is attached. So a backend that does
//! not trace its threads attaches to one for as long as it takes to set them ([`visit`]).

use uml_abi::{Result, errno};

use crate::api::DebugRegs;
use crate::ptrace::tracee::{Go, Stop, Tracee};

/// Control register's number, and that of the status register.
const CONTROL: usize = 7;
const STATUS: usize = 6;

/// What is wanted of the registers of a stopped thread.
#[derive(Clone, Copy)]
pub enum Access {
    Set(DebugRegs),
    /// The status register (DR6), which the host sets at each debug exception.
    Status,
}

impl Access {
    /// Does it; the status, or 0.
    pub fn on(self, t: Tracee) -> Result<u64> {
        match self {
            Access::Status => t.debug_register(STATUS),
            Access::Set(r) => {
                // Off first: an address is checked against the length that is in force.
                t.set_debug_register(CONTROL, 0)?;
                for (i, a) in r.address.into_iter().enumerate() {
                    t.set_debug_register(i, a)?;
                }
                t.set_debug_register(CONTROL, r.control)?;
                Ok(0)
            }
        }
    }
}

/// Stops thread `tid` of process `pid`, which nobody traces, before it goes on with guest or stub code, has `access` made, and lets it
/// go on. `release` is called when the stop is pending: it ends a wait of the thread that only death interrupts.
/// `ESRCH` when the thread dies; whatever ptrace(2) says when the host refuses to attach.
pub fn visit(pid: i32, tid: i32, access: Access, release: impl FnOnce()) -> Result<u64> {
    let t = match Tracee::visit(pid, tid) {
        Ok(t) => t,
        Err(e) => {
            release();
            return Err(e);
        }
    };
    let asked = t.interrupt();
    release();
    asked?;
    loop {
        match t.wait() {
            Stop::Attached => break,
            Stop::Dead => return Err(errno::ESRCH),
            // It goes on to the stop that was asked for, or dies.
            Stop::Signal(signo) => t.resume(Go::Native, signo)?,
            Stop::Call | Stop::Exiting => t.resume(Go::Native, 0)?,
        }
    }
    let result = access.on(t);
    t.detach()?;
    result
}
