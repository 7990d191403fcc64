//! Tracing (ptrace(2)): who traces whom, the stops of a tracee, and what happens when it goes on.
//!
//! A tracee stops on its own kernel thread. When it enters a stop it leaves a copy of its registers in
//! [`Stop`]; its tracer reads and changes that copy, and what was changed is loaded when the tracee goes on. So a request
//! never has to wait for the tracee. Memory is reached through the address space.
//!
//! The requests themselves are in `uml-syscalls::ptrace`; here is what signals, clone, execve and exit call.

mod debug;
mod relation;
mod stop;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use uml_base::{Mutex, Rank, WaitQueue};
use uml_platform::Regs;

use crate::signal::SigInfo;
use crate::task::Task;

pub use debug::set_debug_register;
pub(crate) use debug::trapped;
pub(crate) use relation::thread_exited;
pub use relation::{
    attach, born, detach, exec_renames, reap_dead, trace_me, tracee_of, tracer_exits,
};
pub use stop::{
    after_exec, clear_step, event, event_registers, group_stop, interrupted, restart_value,
    signal_stop, step_into_handler, syscall_enter, syscall_exit, trap_pending,
};

/// PTRACE_O_* bits.
pub mod option {
    pub const TRACESYSGOOD: u32 = 1;
    pub const TRACEFORK: u32 = 1 << 1;
    pub const TRACEVFORK: u32 = 1 << 2;
    pub const TRACECLONE: u32 = 1 << 3;
    pub const TRACEEXEC: u32 = 1 << 4;
    pub const TRACEVFORKDONE: u32 = 1 << 5;
    pub const TRACEEXIT: u32 = 1 << 6;
    pub const TRACESECCOMP: u32 = 1 << 7;
    pub const EXITKILL: u32 = 1 << 20;
    pub const SUSPEND_SECCOMP: u32 = 1 << 21;
    /// Every option.
    pub const OFFERED: u32 = 0xff | EXITKILL | SUSPEND_SECCOMP;
}

/// PTRACE_EVENT_* numbers.
pub const EVENT_FORK: i32 = 1;
pub const EVENT_VFORK: i32 = 2;
pub const EVENT_CLONE: i32 = 3;
pub const EVENT_EXEC: i32 = 4;
pub const EVENT_VFORK_DONE: i32 = 5;
pub const EVENT_EXIT: i32 = 6;
pub const EVENT_SECCOMP: i32 = 7;
pub const EVENT_STOP: i32 = 128;

/// Bits of [`Ptrace::flags`].
const TRACED: u32 = 1;
const SYSCALLS: u32 = 2;
const STEP: u32 = 4;
const EMULATE: u32 = 8;
const SEIZED: u32 = 16;
/// A stop that is not a signal is due (PTRACE_INTERRUPT, an attached child's first).
const TRAP: u32 = 32;
/// Debug registers were set.
const DEBUG: u32 = 64;

/// Trap flag of eflags.
const TF: u64 = 0x100;

/// How a stopped tracee goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    Cont,
    Syscall,
    Step,
    Sysemu,
    SysemuStep,
}

/// Where a tracee stopped, for PTRACE_GET_SYSCALL_INFO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Place {
    #[default]
    Other,
    Entry {
        nr: u64,
        args: [u64; 6],
    },
    Exit {
        value: i64,
    },
    Seccomp {
        nr: u64,
        args: [u64; 6],
        data: u32,
    },
}

/// A tracee at rest.
#[derive(Clone, Debug)]
pub struct Stop {
    /// What wait(2) reports: the signal, with the event in the second byte.
    pub code: i32,
    /// Not yet reported to a wait of the tracer.
    pub unreported: bool,
    pub regs: Regs,
    pub regs_changed: bool,
    /// Extended state in the layout of signal frames.
    pub xstate: Vec<u8>,
    pub xstate_changed: bool,
    /// PTRACE_GETSIGINFO; `None` in group stops.
    pub info: Option<SigInfo>,
    pub place: Place,
    /// PTRACE_LISTEN: at rest, but not for requests.
    pub listening: bool,
    /// It is a group stop of a seized tracee.
    pub group: bool,
}

/// What a tracee is told to do.
#[derive(Clone, Copy, Debug)]
struct Go {
    how: Resume,
    signal: i32,
}

#[derive(Default)]
struct State {
    /// Thread that traces, 0 for none, and its process.
    tracer: i32,
    tracer_process: i32,
    options: u32,
    /// PTRACE_GETEVENTMSG.
    message: u64,
    stop: Option<Stop>,
    /// The stop that was ended, with what its tracer made of it, until the tracee's own thread has come to it. From that
    /// moment the tracee is not at rest any more, wherever its thread is.
    ended: Option<(Stop, Go)>,
    /// PTRACE_LISTEN ends: there is something new to report.
    wake: bool,
    debug: debug::Debug,
}

/// The tracee's side of a task.
pub struct Ptrace {
    flags: AtomicU32,
    /// Counter of group stops that were reported.
    seen_stop: AtomicU64,
    state: Mutex<State>,
    /// The tracee sleeps here.
    queue: WaitQueue,
}

impl Default for Ptrace {
    fn default() -> Self {
        Ptrace {
            flags: AtomicU32::new(0),
            seen_stop: AtomicU64::new(0),
            state: Mutex::new(Rank::LEAF, State::default()),
            queue: WaitQueue::new(),
        }
    }
}

impl Ptrace {
    fn flag(&self, bit: u32) -> bool {
        self.flags.load(Ordering::SeqCst) & bit != 0
    }

    fn set_flag(&self, bit: u32, on: bool) {
        if on {
            self.flags.fetch_or(bit, Ordering::SeqCst);
        } else {
            self.flags.fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// True while somebody traces the task.
    pub fn traced(&self) -> bool {
        self.flag(TRACED)
    }

    /// True when system calls have to be looked at: they stop, or a step ends after them.
    pub fn minds_calls(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & (SYSCALLS | STEP | EMULATE) != 0
    }

    /// PTRACE_SEIZE was used.
    pub fn seized(&self) -> bool {
        self.flag(SEIZED)
    }

    /// A trap is due.
    pub(crate) fn trap_due(&self) -> bool {
        self.flag(TRAP)
    }

    /// Kernel tid of the tracer, 0 for none.
    pub fn tracer(&self) -> i32 {
        self.state.lock().tracer
    }

    /// Kernel pid of the tracer's process, 0 for none.
    pub fn tracer_process(&self) -> i32 {
        self.state.lock().tracer_process
    }

    /// PTRACE_SETOPTIONS.
    pub fn set_options(&self, options: u32) {
        self.state.lock().options = options;
    }

    /// PTRACE_O_SUSPEND_SECCOMP: the filters of this thread do nothing while its tracer wants it so.
    pub fn suspends_seccomp(&self) -> bool {
        self.has_option(option::SUSPEND_SECCOMP)
    }

    fn has_option(&self, bit: u32) -> bool {
        self.traced() && self.state.lock().options & bit != 0
    }

    /// PTRACE_GETEVENTMSG.
    pub fn message(&self) -> u64 {
        self.state.lock().message
    }

    /// The stop, if the tracee is in one that requests may work on.
    pub fn stopped(&self) -> Option<Stop> {
        self.state.lock().stop.clone().filter(|s| !s.listening)
    }

    /// Changes the stop; `None` when the tracee is not in one.
    pub fn change<T>(&self, f: impl FnOnce(&mut Stop) -> T) -> Option<T> {
        self.state.lock().stop.as_mut().filter(|s| !s.listening).map(f)
    }

    /// True while it is at rest for its tracer.
    pub(crate) fn at_rest(&self) -> bool {
        self.traced() && self.state.lock().stop.is_some()
    }

    /// The registers it goes on with, while it is at rest for its tracer.
    pub(crate) fn regs_at_rest(&self) -> Option<Regs> {
        if !self.traced() {
            return None;
        }
        self.state.lock().stop.as_ref().map(|s| s.regs)
    }

    /// Takes what a wait of the tracer reports: the stop's code.
    pub(crate) fn take_report(&self, keep: bool) -> Option<i32> {
        let mut st = self.state.lock();
        let s = st.stop.as_mut().filter(|s| s.unreported)?;
        s.unreported = keep;
        Some(s.code)
    }

    /// The present group stop, number `n`, was reported: the tracee may run in spite of it.
    pub(crate) fn note_group_stop(&self, n: u64) {
        self.seen_stop.store(n, Ordering::SeqCst);
    }

    /// True when a tracee has already reported group stop `n`.
    pub(crate) fn saw_group_stop(&self, n: u64) -> bool {
        self.traced() && self.seen_stop.load(Ordering::SeqCst) == n
    }
}

impl Task {
    /// Lets a stopped tracee go on; false when it is not stopped.
    pub fn trace_resume(&self, how: Resume, signal: i32) -> bool {
        {
            let mut st = self.ptrace.state.lock();
            let Some(stop) = st.stop.take_if(|s| !s.listening) else { return false };
            st.ended = Some((stop, Go { how, signal }));
        }
        self.ptrace.queue.wake_all(uml_base::Events::ALL);
        true
    }

    /// PTRACE_LISTEN; false when the tracee is not in a group stop of a seized one.
    pub fn trace_listen(&self) -> bool {
        let mut st = self.ptrace.state.lock();
        let Some(s) = st.stop.as_mut().filter(|s| s.group && !s.listening) else { return false };
        s.listening = true;
        drop(st);
        // The stop may have ended in the meantime.
        let over = self.process.sighand.lock().stop.is_none();
        if over {
            self.trace_wake_listener();
        }
        true
    }

    /// A listening tracee reports again: SIGCONT came, or PTRACE_INTERRUPT.
    pub(crate) fn trace_wake_listener(&self) {
        let wake = {
            let mut st = self.ptrace.state.lock();
            let listens = st.stop.as_ref().is_some_and(|s| s.listening);
            st.wake |= listens;
            listens
        };
        if wake {
            self.ptrace.set_flag(TRAP, true);
            self.ptrace.queue.wake_all(uml_base::Events::ALL);
        }
    }

    /// PTRACE_INTERRUPT of a seized tracee.
    pub fn trace_interrupt(&self) {
        let stopped = {
            let st = self.ptrace.state.lock();
            st.stop.as_ref().map(|s| s.listening)
        };
        match stopped {
            Some(true) => self.trace_wake_listener(),
            // It stops again when it is let go.
            Some(false) => self.ptrace.set_flag(TRAP, true),
            None => {
                self.ptrace.set_flag(TRAP, true);
                self.notice();
            }
        }
    }
}
