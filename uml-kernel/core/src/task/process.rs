//! Processes: what the threads of a thread group share.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};

use uml_base::storage::Used;
use uml_base::{Events, Mutex, Rank, WaitQueue};

use crate::ns::PidNs;
use crate::signal::SigHand;
use crate::task::rlimit::Rlimits;
use crate::vfs::Path;
use crate::vfs::open::ExecGuard;

/// CPU time and counters of a process (getrusage(2)), nanoseconds where times.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub max_rss_kb: u64,
    pub minflt: u64,
    pub majflt: u64,
    pub nvcsw: u64,
    pub nivcsw: u64,
    /// Sectors of 512 bytes read from disks, and to be written there.
    pub in_sectors: u64,
    pub out_sectors: u64,
}

impl Usage {
    /// Adds another's counters.
    pub fn add(&mut self, o: &Usage) {
        self.user_ns += o.user_ns;
        self.system_ns += o.system_ns;
        self.max_rss_kb = self.max_rss_kb.max(o.max_rss_kb);
        self.minflt += o.minflt;
        self.majflt += o.majflt;
        self.nvcsw += o.nvcsw;
        self.nivcsw += o.nivcsw;
        self.in_sectors += o.in_sectors;
        self.out_sectors += o.out_sectors;
    }
}

/// Bytes and calls of read(2), write(2) and their like, and bytes of disks (proc_pid_io(5)).
#[derive(Debug, Default)]
pub struct IoCount {
    pub rchar: AtomicU64,
    pub wchar: AtomicU64,
    pub syscr: AtomicU64,
    pub syscw: AtomicU64,
    pub read_bytes: AtomicU64,
    pub write_bytes: AtomicU64,
    pub cancelled_write_bytes: AtomicU64,
}

impl IoCount {
    fn all(&self) -> [&AtomicU64; 7] {
        [
            &self.rchar,
            &self.wchar,
            &self.syscr,
            &self.syscw,
            &self.read_bytes,
            &self.write_bytes,
            &self.cancelled_write_bytes,
        ]
    }

    /// rchar, wchar, syscr, syscw, read_bytes, write_bytes, cancelled_write_bytes.
    pub fn get(&self) -> [u64; 7] {
        self.all().map(|n| n.load(Ordering::Relaxed))
    }

    /// Runs `f` on the task's behalf: what storage it uses on this thread is the task's.
    pub fn during<R>(&self, f: impl FnOnce() -> R) -> R {
        let before = Used::now();
        let r = f();
        self.storage(Used::take(before));
        r
    }

    /// Storage was used.
    pub fn storage(&self, u: Used) {
        if u != Used::default() {
            self.read_bytes.fetch_add(u.read, Ordering::Relaxed);
            self.write_bytes.fetch_add(u.written, Ordering::Relaxed);
            self.cancelled_write_bytes.fetch_add(u.cancelled, Ordering::Relaxed);
        }
    }

    /// A read of `n` bytes.
    pub fn read(&self, n: usize) {
        self.rchar.fetch_add(n as u64, Ordering::Relaxed);
        self.syscr.fetch_add(1, Ordering::Relaxed);
    }

    /// A write of `n` bytes.
    pub fn wrote(&self, n: usize) {
        self.wchar.fetch_add(n as u64, Ordering::Relaxed);
        self.syscw.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds another's counts.
    pub fn add(&self, o: &IoCount) {
        for (mine, more) in self.all().iter().zip(o.get()) {
            mine.fetch_add(more, Ordering::Relaxed);
        }
    }
}

/// Default of coredump_filter (core(5)): anonymous memory, ELF headers, private huge pages.
const COREDUMP_FILTER: u32 = 0x33;

/// A tracee that ended and was not yet waited for by its tracer.
#[derive(Clone, Debug)]
pub struct DeadTracee {
    pub tid: i32,
    pub status: i32,
    pub uid: u32,
    pub usage: Usage,
}

/// A thread group.
pub struct Process {
    pub pid: i32,
    /// Where it was born: the pids it sees.
    pub pid_ns: Arc<PidNs>,
    /// Signal actions and signals pending for the process; shared with CLONE_SIGHAND, which Linux
    /// allows across processes, so the actions sit behind their own `Arc`.
    pub sighand: Mutex<SigHand>,
    pub rlimits: Mutex<Rlimits>,
    /// The executed file (/proc/<pid>/exe).
    pub exe: Mutex<Option<Path>>,
    /// Tasks that threads of this process trace (ptrace(2)), and those of them that ended.
    pub(crate) tracees: Mutex<BTreeSet<i32>>,
    pub(crate) dead_tracees: Mutex<Vec<DeadTracee>>,
    /// Keeps that file from being written (ETXTBSY).
    pub(crate) running: Mutex<Option<ExecGuard>>,
    /// Waits of the parent (wait4(2)) and pidfd polls end here: woken when a child changes state.
    pub child_wait: Arc<WaitQueue>,
    /// Woken when a thread of this process is gone.
    pub thread_wait: Arc<WaitQueue>,
    /// Woken when a signal becomes pending (signalfd(2), sigtimedwait(2)).
    pub signal_wait: Arc<WaitQueue>,
    /// Woken when this process exits (pidfd readiness).
    pub exit_wait: Arc<WaitQueue>,
    /// Interval and POSIX timers.
    pub timers: crate::time::posix::ProcessTimers,
    /// Usage of exited threads.
    pub dead_usage: Mutex<Usage>,
    /// Usage of waited-for children.
    pub child_usage: Mutex<Usage>,
    /// Control group.
    pub(crate) cgroup: Mutex<crate::cgroup::Membership>,
    pub(crate) cpu: crate::cgroup::bandwidth::ProcessCpu,
    pub(crate) memory: crate::memory::high::ProcessMemory,
    /// I/O of exited threads.
    pub dead_io: IoCount,
    /// /proc/<pid>/loginuid and sessionid; `u32::MAX` until a login sets them.
    pub loginuid: AtomicU32,
    pub sessionid: AtomicU32,
    /// The process exits: no new threads, every thread unwinds. Holds the wait status.
    pub group_exit: Mutex<Option<i32>>,
    /// prctl(2) PR_SET_DUMPABLE: 0, 1 or 2.
    pub dumpable: AtomicI32,
    /// prctl(2) PR_SET_THP_DISABLE and PR_MCE_KILL (2 is the default).
    pub thp_disable: AtomicBool,
    pub mce_kill: AtomicI32,
    /// prctl(2) PR_SET_CHILD_SUBREAPER.
    pub subreaper: AtomicBool,
    /// The init of a pid namespace: signals from inside reach it only where it has handlers (kill(2) NOTES).
    pub unkillable: AtomicBool,
    /// /proc/<pid>/oom_score_adj.
    pub oom_score_adj: AtomicI32,
    /// /proc/<pid>/coredump_filter: kinds of mappings in a core dump (core(5)).
    pub coredump_filter: AtomicU32,
    /// personality(2).
    pub personality: AtomicU64,
    /// Has called execve since it was forked (setpgid(2) rule).
    pub did_exec: AtomicBool,
    /// Gave up the controlling terminal of its session (TIOCNOTTY); inherited by fork(2), cleared by
    /// setsid(2).
    pub no_terminal: AtomicBool,
    /// Thread of the parent that made this process: its end raises PR_SET_PDEATHSIG (prctl(2)).
    pub(crate) creator: AtomicI32,
    /// Signal sent to the parent on exit (clone(2)), 0 for none.
    pub exit_signal: AtomicI32,
}

impl Process {
    /// A process without threads.
    pub fn new(pid: i32, sighand: SigHand, rlimits: Rlimits, exit_signal: i32) -> Arc<Process> {
        Process::new_in(PidNs::initial(), pid, sighand, rlimits, exit_signal)
    }

    /// As [`Process::new`] in a pid namespace.
    pub fn new_in(
        pid_ns: Arc<PidNs>,
        pid: i32,
        sighand: SigHand,
        rlimits: Rlimits,
        exit_signal: i32,
    ) -> Arc<Process> {
        Arc::new(Process {
            pid,
            pid_ns,
            sighand: Mutex::new(Rank::SIGHAND, sighand),
            rlimits: Mutex::new(Rank::LEAF, rlimits),
            exe: Mutex::new(Rank::LEAF, None),
            tracees: Mutex::new(Rank::LEAF, BTreeSet::new()),
            dead_tracees: Mutex::new(Rank::LEAF, Vec::new()),
            running: Mutex::new(Rank::LEAF, None),
            child_wait: WaitQueue::shared(),
            exit_wait: WaitQueue::shared(),
            thread_wait: WaitQueue::shared(),
            signal_wait: WaitQueue::shared(),
            timers: Default::default(),
            dead_usage: Mutex::new(Rank::LEAF, Usage::default()),
            child_usage: Mutex::new(Rank::LEAF, Usage::default()),
            cgroup: Mutex::new(Rank::LEAF, Default::default()),
            cpu: Default::default(),
            memory: Default::default(),
            dead_io: IoCount::default(),
            loginuid: AtomicU32::new(u32::MAX),
            sessionid: AtomicU32::new(u32::MAX),
            group_exit: Mutex::new(Rank::LEAF, None),
            dumpable: AtomicI32::new(1),
            thp_disable: AtomicBool::new(false),
            mce_kill: AtomicI32::new(2),
            subreaper: AtomicBool::new(false),
            unkillable: AtomicBool::new(pid == 1),
            oom_score_adj: AtomicI32::new(0),
            coredump_filter: AtomicU32::new(COREDUMP_FILTER),
            personality: AtomicU64::new(0),
            did_exec: AtomicBool::new(false),
            no_terminal: AtomicBool::new(false),
            creator: AtomicI32::new(0),
            exit_signal: AtomicI32::new(exit_signal),
        })
    }

    /// Wakes waiters for a state change of a child.
    pub fn wake_child_waiters(&self) {
        self.child_wait.wake_all(Events::IN);
    }
}
