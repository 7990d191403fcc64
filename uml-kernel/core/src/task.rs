//! Tasks (threads) and processes (thread groups).

pub mod access;
pub mod clone;
pub mod cred;
pub mod dispatch;
pub mod exit;
pub mod fsctx;
pub mod load;
pub mod process;
pub mod rlimit;
pub mod run;
pub mod sleep;
pub mod spawn;
pub mod standing;
pub mod terminal;
pub mod tree;
pub mod usage;
pub mod wait;

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, RwLock, pressure};
use uml_mm::Mm;
use uml_platform::Kick;

pub use cred::{Cap, Cred};
pub use fsctx::FsContext;
pub use process::{IoCount, Process};
pub use rlimit::{Resource, Rlimit};
pub use sleep::{Sleeper, WaitKind, WaitSet};
pub use terminal::Terminals;
pub use tree::{Tree, TreeEntry};

use crate::file::File;
use crate::file::fdtable::FdTable;
use crate::kernel::Kernel;
use crate::ns::NsSet;
use crate::signal::{Pending, SigAltStack, SigHand};

/// Length of a command name including the NUL (prctl(2) PR_SET_NAME).
pub const COMM_LEN: usize = 16;

/// What a task is doing, for `/proc/<pid>/stat` and `/proc/<pid>/wchan`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RunState {
    /// Running guest or kernel code (`R`).
    Running = 0,
    /// Interruptible sleep (`S`).
    Sleeping = 1,
    /// Killable or uninterruptible sleep (`D`).
    Blocked = 2,
    /// Stopped by a job-control signal (`T`).
    Stopped = 3,
    /// Stopped by a tracer (`t`).
    Traced = 4,
    /// Exited, not yet waited for (`Z`).
    Zombie = 5,
    /// Gone (`X`).
    Dead = 6,
    /// Would run if its group had any time left (`R`).
    Throttled = 7,
}

impl RunState {
    fn from_u8(v: u8) -> RunState {
        match v {
            0 => RunState::Running,
            1 => RunState::Sleeping,
            2 => RunState::Blocked,
            3 => RunState::Stopped,
            4 => RunState::Traced,
            5 => RunState::Zombie,
            7 => RunState::Throttled,
            _ => RunState::Dead,
        }
    }

    /// The letter of `/proc/<pid>/stat`.
    pub fn letter(self) -> char {
        match self {
            RunState::Running | RunState::Throttled => 'R',
            RunState::Sleeping => 'S',
            RunState::Blocked => 'D',
            RunState::Stopped => 'T',
            RunState::Traced => 't',
            RunState::Zombie => 'Z',
            RunState::Dead => 'X',
        }
    }
}

/// State that only the task's own events touch, or that is read rarely.
#[derive(Clone, Debug, Default)]
pub struct Personal {
    /// set_tid_address(2)/CLONE_CHILD_CLEARTID.
    pub clear_child_tid: u64,
    /// set_robust_list(2).
    pub robust_list: u64,
    /// rseq(2) registration: address, length, signature.
    pub rseq: Option<(u64, u32, u32)>,
    /// prctl(2) PR_SET_PDEATHSIG.
    pub pdeath_signal: i32,
    /// prctl(2) PR_SET_TIMERSLACK, nanoseconds.
    pub timer_slack: u64,
    /// Scheduling policy, priority, nice (sched(7)); -20..19.
    pub sched_policy: i32,
    pub sched_priority: i32,
    pub nice: i32,
    pub reset_on_fork: bool,
    /// Allowed CPUs as a bit mask, one bit a CPU; empty means all.
    pub affinity: Vec<u64>,
    /// I/O priority (ioprio_set(2)).
    pub ioprio: i32,
    /// prctl(2) PR_SET_SYSCALL_USER_DISPATCH.
    pub user_dispatch: Option<dispatch::UserDispatch>,
}

/// A guest thread.
pub struct Task {
    pub tid: i32,
    pub process: Arc<Process>,
    kernel: Weak<Kernel>,
    comm: Mutex<[u8; COMM_LEN]>,
    cred: RwLock<Arc<Cred>>,
    mm: RwLock<Option<Arc<Mm>>>,
    files: RwLock<Option<Arc<FdTable>>>,
    fs: RwLock<Arc<FsContext>>,
    ns: RwLock<Arc<NsSet>>,
    pub(crate) sleeper: Arc<Sleeper>,
    pub(crate) kick: Mutex<Option<Arc<dyn Kick>>>,
    run_state: AtomicU8,
    /// What it sleeps for; empty when it does not.
    wchan: Mutex<&'static str>,
    /// Signals directed at this thread.
    pub pending: Mutex<Pending>,
    /// Blocked signals; bit n-1 is signal n.
    pub(crate) blocked: AtomicU64,
    /// A deliverable signal, stop, or death may be waiting: checked before returning to guest code.
    pub(crate) attention: AtomicBool,
    /// A fatal signal was accepted; the task unwinds and exits.
    pub(crate) dying: AtomicBool,
    pub altstack: Mutex<SigAltStack>,
    pub personal: Mutex<Personal>,
    /// wait status of the thread once it exited.
    pub exit_status: AtomicI32,
    pub start_time: Instant,
    /// CPU time of host threads the task had before its last execve, nanoseconds.
    pub(crate) user_ns_before: AtomicU64,
    /// The most that was told of it: the host's two counts differ by what is not counted yet, and no clock goes back.
    pub(crate) user_ns_told: AtomicU64,
    /// The system call it makes, or made last before it went back to guest code; -1 for other events.
    last_call: AtomicI64,
    /// CPU time in kernel code, nanoseconds.
    pub system_ns: AtomicU64,
    /// Its place in the counts of the pids controller.
    pub(crate) charge: Mutex<Option<crate::cgroup::PidCharge>>,
    /// It rests until then for `io.max`.
    pub(crate) io_rest: Mutex<Option<std::time::Instant>>,
    /// It rests in the freezer (cgroups(7)).
    pub(crate) frozen: AtomicBool,
    /// What read and write calls moved (/proc/<pid>/io).
    pub io: IoCount,
    /// Per-call override of the syscall table's restart rule.
    pub restart: crate::signal::RestartCell,
    pub nvcsw: AtomicU64,
    pub nivcsw: AtomicU64,
    /// Mask to come back when the present call returns (ppoll(2), sigsuspend(2)).
    pub saved_sigmask: Mutex<Option<u64>>,
    /// There may be such a mask.
    pub(crate) mask_saved: AtomicBool,
    /// Its place in the counts of who runs and who waits for what.
    pub(crate) pressure: Arc<pressure::Member>,
    /// Its vDSO has the clocks of another time namespace.
    pub(crate) stale_clocks: AtomicBool,
    /// The context runs guest code (or is about to): a kick is needed to get its attention.
    pub(crate) in_guest: AtomicBool,
    /// A host call that unmaps memory was let through; the next event proves that it is done.
    pub unsettled: AtomicBool,
    /// System calls may be intercepted, see [`dispatch`].
    pub(crate) user_dispatch: AtomicBool,
    /// Restrictions on its system calls.
    pub seccomp: crate::seccomp::Seccomp,
    /// Its side of being traced.
    pub ptrace: crate::ptrace::Ptrace,
    /// Facts of the last fault, for the next handler frame.
    pub(crate) trap: Mutex<crate::signal::Trap>,
    /// Completed when the task no longer uses its parent's memory (vfork(2)).
    pub(crate) vfork: Mutex<Option<Arc<VforkDone>>>,
}

/// What a vfork(2) parent waits for.
pub struct VforkDone {
    pub(crate) done: AtomicBool,
    pub(crate) queue: uml_base::WaitQueue,
}

/// Leaves the sleeping state when dropped.
pub(crate) struct SleepState<'a> {
    task: &'a Task,
    _waiting: usage::Waiting,
    _stall: pressure::Stall,
}

impl Drop for SleepState<'_> {
    fn drop(&mut self) {
        self.task.set_run_state(RunState::Running);
        *self.task.wchan.lock() = "";
        crate::memory::grown();
        if self.task.process.cpu.is_limited() {
            self.task.kernel().cgroups.bandwidth.runs(&self.task.process);
        }
        load::wake();
    }
}

/// What a new task starts with.
pub struct TaskInit {
    pub tid: i32,
    pub process: Arc<Process>,
    pub comm: [u8; COMM_LEN],
    pub cred: Arc<Cred>,
    pub mm: Option<Arc<Mm>>,
    pub files: Arc<FdTable>,
    pub fs: Arc<FsContext>,
    pub blocked: u64,
}

impl Task {
    /// A task that is not yet in the tree and has no context.
    pub fn new(kernel: &Arc<Kernel>, init: TaskInit) -> Arc<Task> {
        Arc::new_cyclic(|me| Task {
            tid: init.tid,
            process: init.process,
            kernel: Arc::downgrade(kernel),
            comm: Mutex::new(Rank::LEAF, init.comm),
            cred: RwLock::new(Rank::CRED, init.cred),
            mm: RwLock::new(Rank::LEAF, init.mm),
            files: RwLock::new(Rank::LEAF, Some(init.files)),
            fs: RwLock::new(Rank::LEAF, init.fs),
            ns: RwLock::new(Rank::LEAF, kernel.namespaces.clone()),
            sleeper: Sleeper::new(me.clone()),
            kick: Mutex::new(Rank::LEAF, None),
            run_state: AtomicU8::new(RunState::Running as u8),
            wchan: Mutex::new(Rank::LEAF, ""),
            pending: Mutex::new(Rank::LEAF, Pending::default()),
            blocked: AtomicU64::new(init.blocked),
            attention: AtomicBool::new(false),
            dying: AtomicBool::new(false),
            altstack: Mutex::new(Rank::LEAF, SigAltStack::default()),
            personal: Mutex::new(
                Rank::LEAF,
                Personal { timer_slack: 50_000, ..Personal::default() },
            ),
            exit_status: AtomicI32::new(0),
            start_time: uml_base::clock::now(),
            user_ns_before: AtomicU64::new(0),
            user_ns_told: AtomicU64::new(0),
            last_call: AtomicI64::new(-1),
            system_ns: AtomicU64::new(0),
            charge: Mutex::new(Rank::LEAF, None),
            io_rest: Mutex::new(Rank::LEAF, None),
            frozen: AtomicBool::new(false),
            io: IoCount::default(),
            restart: Default::default(),
            nvcsw: AtomicU64::new(0),
            nivcsw: AtomicU64::new(0),
            saved_sigmask: Mutex::new(Rank::LEAF, None),
            mask_saved: AtomicBool::new(false),
            pressure: Default::default(),
            stale_clocks: AtomicBool::new(false),
            in_guest: AtomicBool::new(false),
            unsettled: AtomicBool::new(false),
            user_dispatch: AtomicBool::new(false),
            seccomp: Default::default(),
            ptrace: Default::default(),
            trap: Mutex::new(Rank::LEAF, Default::default()),
            vfork: Mutex::new(Rank::LEAF, None),
        })
    }

    /// A task of the kernel itself: root's credentials, no program, in no tree. `fs` is what it sees.
    pub fn of_kernel(kernel: &Arc<Kernel>, name: &str, fs: FsContext) -> Arc<Task> {
        let process = Process::new(0, SigHand::default(), rlimit::Rlimits::initial(1024), 0);
        let task = Task::new(
            kernel,
            TaskInit {
                tid: 0,
                process,
                comm: [0; COMM_LEN],
                cred: Arc::new(Cred::root()),
                mm: None,
                files: Arc::new(FdTable::new()),
                fs: Arc::new(fs),
                blocked: 0,
            },
        );
        task.set_comm(name.as_bytes());
        task
    }

    /// The machine the task lives in.
    pub fn kernel(&self) -> Arc<Kernel> {
        // Tasks are only reached through their kernel, which outlives them.
        match self.kernel.upgrade() {
            Some(k) => k,
            None => unreachable!("task outlived its kernel"),
        }
    }

    /// Credentials.
    pub fn cred(&self) -> Arc<Cred> {
        self.cred.read().clone()
    }

    /// Replaces the credentials.
    pub fn set_cred(&self, cred: Arc<Cred>) {
        *self.cred.write() = cred;
    }

    /// `EPERM` unless the effective capability set has `cap`.
    pub fn require(&self, cap: Cap) -> Result<()> {
        if self.cred.read().capable(cap) { Ok(()) } else { Err(EPERM) }
    }

    /// The address space; kernel tasks and exited tasks have none (`EFAULT`).
    pub fn mm(&self) -> Result<Arc<Mm>> {
        self.mm.read().clone().ok_or(EFAULT)
    }

    /// True when another task uses the same address space (threads, vfork(2), CLONE_VM).
    pub fn shares_memory(&self) -> bool {
        let Ok(mm) = self.mm() else { return false };
        // The task's own reference and the one just taken: nobody else.
        if Arc::strong_count(&mm) <= 2 {
            return false;
        }
        // Somebody only looks at it, perhaps.
        let kernel = self.kernel();
        let tree = kernel.tree.read();
        tree.tasks().any(|t| t.tid != self.tid && t.mm().is_ok_and(|o| Arc::ptr_eq(&o, &mm)))
    }

    /// Replaces the address space (execve, exit) and returns the old one.
    pub fn set_mm(&self, mm: Option<Arc<Mm>>) -> Option<Arc<Mm>> {
        std::mem::replace(&mut *self.mm.write(), mm)
    }

    /// The descriptor table; empty once the task exits.
    pub fn files(&self) -> Arc<FdTable> {
        self.files.read().clone().unwrap_or_default()
    }

    /// Replaces the descriptor table and returns the old one.
    pub fn set_files(&self, files: Option<Arc<FdTable>>) -> Option<Arc<FdTable>> {
        std::mem::replace(&mut *self.files.write(), files)
    }

    /// The open file behind `fd` (`EBADF` also for O_PATH ones).
    pub fn file(&self, fd: i32) -> Result<Arc<File>> {
        self.files().get_io(fd)
    }

    /// The open file behind `fd`, O_PATH or not.
    pub fn file_any(&self, fd: i32) -> Result<Arc<File>> {
        self.files().get(fd)
    }

    /// Installs `file` at the lowest free descriptor under RLIMIT_NOFILE.
    pub fn install_fd(&self, file: Arc<File>, cloexec: bool) -> Result<i32> {
        self.files().install(file, cloexec, 0, self.rlimit(Resource::NoFile))
    }

    /// Root, working directory and umask.
    pub fn fs(&self) -> Arc<FsContext> {
        self.fs.read().clone()
    }

    /// Replaces root, working directory and umask (unshare(2) CLONE_FS).
    pub fn set_fs(&self, fs: Arc<FsContext>) {
        // The old one may be the last of a mount namespace: it goes after the lock.
        let old = std::mem::replace(&mut *self.fs.write(), fs);
        drop(old);
    }

    /// Its namespaces.
    pub fn ns(&self) -> Arc<NsSet> {
        self.ns.read().clone()
    }

    /// Changes its namespaces (unshare(2), setns(2)).
    pub fn set_ns(&self, ns: Arc<NsSet>) {
        let old = std::mem::replace(&mut *self.ns.write(), ns);
        drop(old);
    }

    /// It is in another time namespace than its memory's vDSO: before the next instruction of its program that changes.
    pub(crate) fn clocks_moved(&self) {
        self.stale_clocks.store(true, Ordering::SeqCst);
        self.notice();
    }

    /// A kernel pid (of a process, thread, group or session) as the task's programs see it; 0 when they do not.
    pub fn show_pid(&self, pid: i32) -> i32 {
        self.process.pid_ns.show(pid)
    }

    /// The kernel pid that the task's programs call `n`; `ESRCH` when there is none.
    pub fn kernel_pid(&self, n: i32) -> Result<i32> {
        self.process.pid_ns.kernel_pid(n).ok_or(ESRCH)
    }

    /// It still uses the memory of its vfork(2) parent.
    pub fn vfork_pending(&self) -> bool {
        self.vfork.lock().is_some()
    }

    /// Soft limit of `resource` (RLIM_INFINITY is `u64::MAX`).
    pub fn rlimit(&self, resource: Resource) -> u64 {
        self.process.rlimits.lock().get(resource).soft
    }

    /// Command name, without padding.
    pub fn comm(&self) -> Vec<u8> {
        let c = self.comm.lock();
        let len = c.iter().position(|b| *b == 0).unwrap_or(COMM_LEN);
        c[..len].to_vec()
    }

    /// The raw command name.
    pub fn comm_raw(&self) -> [u8; COMM_LEN] {
        *self.comm.lock()
    }

    /// Sets the command name, cut to 15 bytes.
    pub fn set_comm(&self, name: &[u8]) {
        let mut comm = [0; COMM_LEN];
        let n = name.iter().position(|b| *b == 0).unwrap_or(name.len()).min(COMM_LEN - 1);
        comm[..n].copy_from_slice(&name[..n]);
        *self.comm.lock() = comm;
    }

    /// Host thread that runs the task's guest code; 0 when there is none.
    pub fn host_tid(&self) -> i32 {
        self.kick.lock().as_ref().map_or(0, |k| k.host_tid())
    }

    /// True for the thread that carries the process id.
    pub fn is_leader(&self) -> bool {
        self.tid == self.process.pid
    }

    /// CPUs it may run on, as mask words for `ncpus` CPUs.
    pub fn affinity(&self, ncpus: usize) -> Vec<u64> {
        let set = self.personal.lock().affinity.clone();
        if !set.is_empty() {
            return set;
        }
        let mut all = vec![0u64; ncpus.div_ceil(64).max(1)];
        for c in 0..ncpus {
            all[c / 64] |= 1 << (c % 64);
        }
        all
    }

    /// Restricts the task to the CPUs of `mask`; its host thread follows.
    pub fn set_affinity(&self, mask: &[u64]) -> Result<()> {
        self.confine(mask)?;
        self.personal.lock().affinity = mask.to_vec();
        Ok(())
    }

    fn confine(&self, mask: &[u64]) -> Result<()> {
        let host = uml_host::sched::machine_cpus().iter().enumerate();
        let chosen = host.filter(|(i, _)| mask.get(i / 64).is_some_and(|w| w >> (i % 64) & 1 != 0));
        let cpus: Vec<usize> = chosen.map(|(_, c)| *c).collect();
        let kick = self.kick.lock().clone();
        match kick.filter(|_| !cpus.is_empty()) {
            Some(k) => k.confine(&cpus),
            None => Ok(()),
        }
    }

    /// It has another host thread, which is to be where the task may be.
    pub(crate) fn follow_affinity(&self) {
        let mask = self.personal.lock().affinity.clone();
        if !mask.is_empty() {
            // A thread that is gone already has no place.
            let _ = self.confine(&mask);
        }
    }

    /// What the task is doing.
    pub fn run_state(&self) -> RunState {
        RunState::from_u8(self.run_state.load(Ordering::Relaxed))
    }

    /// What the task is doing as others see it: a stop begins when it can be waited for and ends with the call that ends
    /// it, whenever the task's thread comes to that.
    pub fn seen_state(&self) -> RunState {
        match self.run_state() {
            state @ (RunState::Zombie | RunState::Dead) => state,
            _ if self.ptrace.at_rest() => RunState::Traced,
            RunState::Running if self.pressure.is_stuck() => RunState::Blocked,
            RunState::Traced => RunState::Running,
            RunState::Stopped if self.process.sighand.lock().stop.is_none() => RunState::Running,
            state => state,
        }
    }

    /// Records what the task is doing.
    pub fn set_run_state(&self, s: RunState) {
        self.run_state.store(s as u8, Ordering::Relaxed);
    }

    /// True while it runs guest code.
    pub fn runs_guest_code(&self) -> bool {
        self.in_guest.load(Ordering::Relaxed)
    }

    /// Number of the system call it is in, `None` in guest code or before the first one.
    pub fn current_call(&self) -> Option<u64> {
        let nr = self.last_call.load(Ordering::Relaxed);
        if self.runs_guest_code() { None } else { u64::try_from(nr).ok() }
    }

    /// What happens to it is no system call.
    pub(crate) fn enter_other(&self) {
        self.last_call.store(-1, Ordering::Relaxed);
    }

    pub(crate) fn enter_call(&self, nr: u64) {
        self.last_call.store(i64::try_from(nr).unwrap_or(-1), Ordering::Relaxed);
    }

    /// Why it sleeps; empty when it does not.
    pub fn wchan(&self) -> &'static str {
        *self.wchan.lock()
    }

    pub(crate) fn enter_sleep(&self, kind: WaitKind, reason: &'static str) -> SleepState<'_> {
        self.nvcsw.fetch_add(1, Ordering::Relaxed);
        *self.wchan.lock() = reason;
        self.set_run_state(match kind {
            WaitKind::Interruptible | WaitKind::Frozen => RunState::Sleeping,
            WaitKind::Throttled => RunState::Throttled,
            WaitKind::Stopped => RunState::Stopped,
            WaitKind::Traced => RunState::Traced,
            _ => RunState::Blocked,
        });
        let stall = match kind {
            WaitKind::Throttled => pressure::held(),
            _ => pressure::sleep(),
        };
        SleepState { task: self, _waiting: usage::Waiting::sleep(), _stall: stall }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_time_is_runnable_and_who_is_frozen_sleeps() {
        let letter = |v: RunState| RunState::from_u8(v as u8).letter();
        assert_eq!(letter(RunState::Throttled), 'R');
        assert_ne!(RunState::Throttled, RunState::Running, "it uses no processor");
        assert_eq!(letter(RunState::Dead), 'X');
    }
}
