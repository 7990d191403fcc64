//! Secure computing (seccomp(2)): restrictions a thread puts on its own system calls.
//!
//! The filters are the guest's own and are run here, for every call of a thread that has some; they have nothing to do with
//! the host's filter that brings guest calls to this kernel.

pub mod bpf;
pub mod notify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_platform::Syscall;

use crate::ctx::Ctx;
use crate::ptrace::{self, Place};
use crate::signal::{Restart, SigFields, SigInfo, force_fault, threads_of};
use crate::task::{Task, exit};
use bpf::{DATA_SIZE, Program};
use notify::Listener;

/// SECCOMP_MODE_*.
pub const DISABLED: u8 = 0;
pub const STRICT: u8 = 1;
pub const FILTER: u8 = 2;

/// SECCOMP_RET_* actions.
pub const RET_KILL_PROCESS: u32 = 0x8000_0000;
pub const RET_KILL_THREAD: u32 = 0;
pub const RET_TRAP: u32 = 0x0003_0000;
pub const RET_ERRNO: u32 = 0x0005_0000;
pub const RET_USER_NOTIF: u32 = 0x7fc0_0000;
pub const RET_TRACE: u32 = 0x7ff0_0000;
pub const RET_LOG: u32 = 0x7ffc_0000;
pub const RET_ALLOW: u32 = 0x7fff_0000;
/// Every action, for SECCOMP_GET_ACTION_AVAIL.
pub const ACTIONS: [u32; 8] = [
    RET_KILL_PROCESS,
    RET_KILL_THREAD,
    RET_TRAP,
    RET_ERRNO,
    RET_USER_NOTIF,
    RET_TRACE,
    RET_LOG,
    RET_ALLOW,
];
const ACTION: u32 = 0xffff_0000;
const DATA: u32 = 0x0000_ffff;

/// AUDIT_ARCH_X86_64.
const ARCH: u32 = 0xc000_003e;
/// si_code of SIGSYS.
const SYS_SECCOMP: i32 = 1;
/// Instructions all filters of a thread may have together, each with an overhead of four.
const MAX_PATH: usize = 32768;

/// A filter and those installed before it, all of which count.
pub struct Filter {
    program: Program,
    previous: Option<Arc<Filter>>,
    /// SECCOMP_FILTER_FLAG_LOG.
    log: bool,
    listener: Option<Arc<Listener>>,
}

impl Filter {
    /// The filter and its predecessors, newest first.
    fn chain(self: &Arc<Filter>) -> impl Iterator<Item = &Arc<Filter>> {
        std::iter::successors(Some(self), |f| f.previous.as_ref())
    }

    /// True when `other` is this one or was installed before it.
    fn has(self: &Arc<Filter>, other: Option<&Arc<Filter>>) -> bool {
        other.is_none_or(|o| self.chain().any(|f| Arc::ptr_eq(f, o)))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(l) = &self.listener {
            l.nobody_left();
        }
        // Long chains come apart one by one.
        let mut next = self.previous.take();
        while let Some(f) = next {
            next = Arc::into_inner(f).and_then(|mut f| f.previous.take());
        }
    }
}

/// The restrictions of a thread.
pub struct Seccomp {
    mode: AtomicU8,
    filter: Mutex<Option<Arc<Filter>>>,
}

impl Default for Seccomp {
    fn default() -> Self {
        Seccomp { mode: AtomicU8::new(DISABLED), filter: Mutex::new(Rank::LEAF, None) }
    }
}

impl Seccomp {
    /// SECCOMP_MODE_* in force.
    pub fn mode(&self) -> u8 {
        self.mode.load(Ordering::Relaxed)
    }

    /// Number of filters.
    pub fn count(&self) -> usize {
        self.filter.lock().as_ref().map_or(0, |f| f.chain().count())
    }

    fn filter(&self) -> Option<Arc<Filter>> {
        self.filter.lock().clone()
    }

    /// Filter `n`, the oldest being 0: its program as it was given, and its SECCOMP_FILTER_FLAG_*.
    pub fn describe(&self, n: usize) -> Option<(Vec<u8>, u64)> {
        const LOG: u64 = 2;
        let newest = self.filter()?;
        let behind = newest.chain().count().checked_sub(n + 1)?;
        let f = newest.chain().nth(behind)?;
        Some((f.program.bytes(), if f.log { LOG } else { 0 }))
    }

    fn set(&self, mode: u8, filter: Option<Arc<Filter>>) {
        let old = std::mem::replace(&mut *self.filter.lock(), filter);
        drop(old);
        self.mode.store(mode, Ordering::SeqCst);
    }

    /// A new task has its parent's restrictions.
    pub(crate) fn inherit(&self, parent: &Seccomp) {
        if parent.mode() != DISABLED {
            self.set(parent.mode(), parent.filter());
        }
    }

    /// The thread is gone.
    pub(crate) fn clear(&self) {
        drop(self.filter.lock().take());
    }
}

/// SECCOMP_SET_MODE_STRICT.
pub fn set_strict(task: &Task) -> Result<()> {
    if task.seccomp.mode() == FILTER {
        return Err(EINVAL);
    }
    task.seccomp.set(STRICT, None);
    Ok(())
}

/// What SECCOMP_SET_MODE_FILTER asks for besides the program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Install {
    /// SECCOMP_FILTER_FLAG_TSYNC: for all threads.
    pub all_threads: bool,
    pub log: bool,
    /// Killable only, once a supervisor received the notification.
    pub wait_killable: bool,
}

/// Installs `program`. `Err(Ok(tid))` names a thread that cannot follow (TSYNC).
pub fn install(
    task: &Arc<Task>,
    program: Program,
    how: Install,
    listener: Option<Arc<Listener>>,
) -> std::result::Result<(), Result<i32, Errno>> {
    if task.seccomp.mode() == STRICT {
        return Err(Err(EINVAL));
    }
    let previous = task.seccomp.filter();
    let used: usize = previous.iter().flat_map(|f| f.chain()).map(|f| f.program.len() + 4).sum();
    if used + program.len() > MAX_PATH {
        return Err(Err(ENOMEM));
    }
    let threads = threads_of(&task.kernel(), &task.process);
    if how.all_threads {
        for t in threads.iter().filter(|t| t.tid != task.tid) {
            let follows = match t.seccomp.mode() {
                DISABLED => true,
                FILTER => previous.as_ref().is_some_and(|p| p.has(t.seccomp.filter().as_ref())),
                _ => false,
            };
            if !follows {
                return Err(Ok(t.tid));
            }
        }
    }
    if listener.is_some()
        && previous.as_ref().is_some_and(|f| f.chain().any(|f| f.listener.is_some()))
    {
        // One supervisor a chain (seccomp_unotify(2): EBUSY).
        return Err(Err(EBUSY));
    }
    let filter = Arc::new(Filter { program, previous, log: how.log, listener });
    task.seccomp.set(FILTER, Some(filter.clone()));
    if how.all_threads {
        let strict = task.cred().no_new_privs;
        for t in threads.iter().filter(|t| t.tid != task.tid) {
            if strict && !t.cred().no_new_privs {
                let mut c = (*t.cred()).clone();
                c.no_new_privs = true;
                t.set_cred(Arc::new(c));
            }
            t.seccomp.set(FILTER, Some(filter.clone()));
        }
    }
    Ok(())
}

/// What becomes of a call.
pub enum Verdict {
    /// It is made, perhaps with what a tracer changed.
    Allow(Syscall),
    /// It is not made and returns this.
    Return(i64),
    /// The registers are final, or the task ends.
    Done,
    /// The call was interrupted while its supervisor thought.
    Interrupted,
}

fn data_of(call: &Syscall) -> [u8; DATA_SIZE] {
    let mut d = [0; DATA_SIZE];
    d[0..4].copy_from_slice(&(call.nr as u32).to_le_bytes());
    d[4..8].copy_from_slice(&ARCH.to_le_bytes());
    d[8..16].copy_from_slice(&call.ip.to_le_bytes());
    for (i, a) in call.args.iter().enumerate() {
        d[16 + 8 * i..24 + 8 * i].copy_from_slice(&a.to_le_bytes());
    }
    d
}

/// Runs every filter; the action that takes precedence, with its data and the filter that said so.
fn evaluate(filter: &Arc<Filter>, call: &Syscall) -> (u32, Arc<Filter>) {
    let data = data_of(call);
    let mut best = (RET_ALLOW, filter.clone());
    for f in filter.chain() {
        let ret = f.program.run(&data);
        // The lowest as a signed number, the newest among equals.
        if ((ret & ACTION) as i32) < ((best.0 & ACTION) as i32) {
            best = (ret, f.clone());
        }
    }
    best
}

/// Ends the thread, and with the last one the process, by `signo`.
fn kill(cx: &mut Ctx<'_>, signo: i32, whole: bool) -> Verdict {
    let task = cx.task.clone();
    let alone = threads_of(&task.kernel(), &task.process).len() <= 1;
    if whole || alone {
        let core = signo == libc::SIGSYS && task.rlimit(crate::task::Resource::Core) > 0;
        exit::begin_group_exit(&task, signo | if core { 0x80 } else { 0 });
    } else {
        exit::exit_task(cx, Some(0));
    }
    Verdict::Done
}

/// Decides about `call` of a thread with restrictions.
pub fn check(cx: &mut Ctx<'_>, call: Syscall) -> Verdict {
    let task = cx.task.clone();
    if task.ptrace.suspends_seccomp() {
        return Verdict::Allow(call);
    }
    if task.seccomp.mode() == STRICT {
        let allowed = [libc::SYS_read, libc::SYS_write, libc::SYS_exit, libc::SYS_rt_sigreturn];
        return if allowed.contains(&(call.nr as i64)) {
            Verdict::Allow(call)
        } else {
            kill(cx, libc::SIGKILL, false)
        };
    }
    decide(cx, call, false)
}

fn decide(cx: &mut Ctx<'_>, call: Syscall, again: bool) -> Verdict {
    let task = cx.task.clone();
    let Some(filter) = task.seccomp.filter() else { return Verdict::Allow(call) };
    let (ret, by) = evaluate(&filter, &call);
    let data = ret & DATA;
    let action = ret & ACTION;
    let logged = match action {
        RET_ALLOW => false,
        RET_LOG | RET_KILL_PROCESS | RET_KILL_THREAD => true,
        _ => by.log,
    };
    if logged {
        let name = String::from_utf8_lossy(&task.comm()).into_owned();
        uml_base::pr_info!(
            "seccomp: pid={} comm=\"{name}\" syscall={} code={action:#x}",
            task.process.pid,
            call.nr
        );
    }
    match action {
        RET_ALLOW | RET_LOG => Verdict::Allow(call),
        RET_ERRNO => Verdict::Return(-i64::from(data.min(4095))),
        RET_TRAP => {
            let fields = SigFields::Sys { addr: call.ip, nr: call.nr as i32, arch: ARCH };
            let info =
                SigInfo { signo: libc::SIGSYS, errno: data as i32, code: SYS_SECCOMP, fields };
            force_fault(&task, info);
            // The handler finds the registers as they were before the call.
            Verdict::Return(call.nr as i64)
        }
        RET_TRACE if again => Verdict::Allow(call),
        RET_TRACE => {
            cx.trace_place = Some(Place::Seccomp { nr: call.nr, args: call.args, data });
            let stopped = ptrace::event_registers(cx, ptrace::EVENT_SECCOMP, data.into());
            cx.trace_place = None;
            let Some(changed) = stopped else { return Verdict::Return(ENOSYS.to_ret()) };
            if task.fatal_signal_pending() {
                return Verdict::Done;
            }
            let Some(r) = changed else { return decide(cx, call, true) };
            let nr = r.orig_rax;
            if nr as i32 == -1 {
                return Verdict::Return(r.rax as i64);
            }
            let args = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
            let call = Syscall { nr: u64::from(nr as u32), args, ..call };
            cx.hw.set_call(call);
            // What the tracer made of the call is judged anew.
            decide(cx, call, true)
        }
        RET_USER_NOTIF => match &by.listener {
            None => Verdict::Return(ENOSYS.to_ret()),
            Some(l) => match l.ask(&task, data_of(&call)) {
                Ok(notify::Answer::Continue) => Verdict::Allow(call),
                Ok(notify::Answer::Value(v)) => Verdict::Return(v),
                Err(EINTR) => {
                    task.restart.set(Restart::Sys);
                    Verdict::Interrupted
                }
                Err(e) => Verdict::Return(e.to_ret()),
            },
        },
        RET_KILL_THREAD => kill(cx, libc::SIGSYS, false),
        _ => kill(cx, libc::SIGSYS, true),
    }
}
