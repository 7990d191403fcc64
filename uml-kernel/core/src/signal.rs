//! Signals (signal(7)): sending, masks, delivery, job-control stops.
//!
//! `send` decides and queues, `deliver` takes what is deliverable on the way back to guest
//! code, `frame` builds and undoes handler frames.

mod deliver;
mod frame;
mod info;
mod send;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use uml_base::{Events, Mutex, Rank, WaitQueue, Wakeable};

use crate::kernel::Kernel;
use crate::task::{Process, Task};

pub use deliver::{Delivered, SyscallReturn, deliver_pending};
pub use frame::{SS_AUTODISARM, Trap, sigreturn};
pub use info::*;
pub use send::{
    broadcast, force_fault, kill_process, may_signal, send_to_group, send_to_process, send_to_task,
};
pub(crate) use send::{notify_parent, threads_of};

/// Highest signal number.
pub const NSIG: usize = 64;
/// First real-time signal of the kernel ABI.
pub const SIGRTMIN: i32 = 32;

/// The bit of signal `n` in a signal set.
pub const fn bit(signo: i32) -> u64 {
    1 << (signo - 1)
}

/// Signals that cannot be blocked, caught or ignored.
pub const UNBLOCKABLE: u64 = bit(libc::SIGKILL) | bit(libc::SIGSTOP);
/// Signals whose default action is to stop.
pub const STOPPING: u64 =
    bit(libc::SIGSTOP) | bit(libc::SIGTSTP) | bit(libc::SIGTTIN) | bit(libc::SIGTTOU);
/// Signals whose default action is nothing.
pub const IGNORED_BY_DEFAULT: u64 =
    bit(libc::SIGCHLD) | bit(libc::SIGCONT) | bit(libc::SIGWINCH) | bit(libc::SIGURG);
/// Signals whose default action dumps core (the core bit of the wait status).
pub const CORE_DUMPING: u64 = bit(libc::SIGQUIT)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGABRT)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGSYS)
    | bit(libc::SIGXCPU)
    | bit(libc::SIGXFSZ);
/// Raised by the program's own instructions: delivered before others.
const SYNCHRONOUS: u64 = bit(libc::SIGSEGV)
    | bit(libc::SIGBUS)
    | bit(libc::SIGILL)
    | bit(libc::SIGTRAP)
    | bit(libc::SIGFPE)
    | bit(libc::SIGSYS);

/// SIG_DFL and SIG_IGN.
pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;

/// sa_flags (sigaction(2)).
pub const SA_NOCLDSTOP: u64 = 1;
pub const SA_NOCLDWAIT: u64 = 2;
pub const SA_SIGINFO: u64 = 4;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;
pub const SA_RESTORER: u64 = 0x0400_0000;

/// Flags that are kept; others read back as zero so that programs can probe (sigaction(2), "Dynamically
/// probing for flag bit support"). The last but one is SA_EXPOSE_TAGBITS.
pub const SA_KNOWN: u64 = SA_NOCLDSTOP
    | SA_NOCLDWAIT
    | SA_SIGINFO
    | SA_ONSTACK
    | SA_RESTART
    | SA_NODEFER
    | SA_RESETHAND
    | 0x800
    | SA_RESTORER;

/// Signals that have been generated and not delivered.
#[derive(Default)]
pub struct Pending {
    pub set: u64,
    pub queue: VecDeque<SigInfo>,
}

impl Pending {
    /// Adds a signal. Standard signals are pending once; real-time signals queue up to `limit`
    /// (RLIMIT_SIGPENDING), beyond which false is returned.
    pub fn add(&mut self, info: SigInfo, limit: u64) -> bool {
        let b = bit(info.signo);
        if info.code == SI_TIMER {
            // Every timer has its own entry, as signals of several timers may be pending at once.
            self.queue.push_back(info);
        } else if info.signo < SIGRTMIN {
            if self.set & b == 0 {
                self.queue.push_back(info);
            }
        } else {
            if self.queue.len() as u64 >= limit {
                return false;
            }
            self.queue.push_back(info);
        }
        self.set |= b;
        true
    }

    /// Takes the next signal of `allowed`: faults first, then the lowest number, oldest first.
    pub fn take(&mut self, allowed: u64) -> Option<SigInfo> {
        let ready = self.set & allowed;
        if ready == 0 {
            return None;
        }
        let pick = if ready & SYNCHRONOUS != 0 { ready & SYNCHRONOUS } else { ready };
        let signo = pick.trailing_zeros() as i32 + 1;
        let i = self.queue.iter().position(|s| s.signo == signo);
        let info = match i.and_then(|i| self.queue.remove(i)) {
            Some(info) => info,
            // The queue was full when it came: it is delivered without details.
            None => SigInfo { code: SI_USER, ..SigInfo::kernel(signo) },
        };
        if !self.queue.iter().any(|s| s.signo == signo) {
            self.set &= !bit(signo);
        }
        Some(info)
    }

    /// Drops every signal of `set`.
    pub fn flush(&mut self, set: u64) {
        self.set &= !set;
        self.queue.retain(|s| bit(s.signo) & set == 0);
    }
}

/// sigaltstack(2) state.
#[derive(Clone, Copy, Debug)]
pub struct SigAltStack {
    pub sp: u64,
    pub size: u64,
    pub flags: i32,
}

impl Default for SigAltStack {
    fn default() -> Self {
        SigAltStack { sp: 0, size: 0, flags: libc::SS_DISABLE }
    }
}

impl SigAltStack {
    /// True when `sp` is on the stack.
    pub fn contains(&self, sp: u64) -> bool {
        self.flags & libc::SS_DISABLE == 0 && sp > self.sp && sp - self.sp <= self.size
    }
}

/// `struct kernel_sigaction`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: u64,
}

/// The actions of a process; shared with CLONE_SIGHAND.
pub type Actions = Arc<Mutex<[SigAction; NSIG]>>;

/// What a process does with signals, and those pending for it as a whole.
pub struct SigHand {
    pub actions: Actions,
    pub pending: Pending,
    /// A stop is in force or being entered: the signal.
    pub stop: Option<i32>,
    /// Which stop it is, counted from 1.
    pub stop_number: u64,
    /// Threads that have yet to notice the stop.
    pub stop_left: usize,
    /// Stopped threads sleep here until SIGCONT or death.
    pub resume: Arc<WaitQueue>,
}

impl Default for SigHand {
    fn default() -> Self {
        SigHand::with_actions(Arc::new(Mutex::new(Rank::LEAF, [SigAction::default(); NSIG])))
    }
}

impl SigHand {
    /// No pending signals, the given actions.
    pub fn with_actions(actions: Actions) -> SigHand {
        SigHand {
            actions,
            pending: Pending::default(),
            stop: None,
            stop_number: 0,
            stop_left: 0,
            resume: WaitQueue::shared(),
        }
    }

    /// A copy of the actions for fork(2).
    pub fn fork_actions(&self) -> Actions {
        let copy = *self.actions.lock();
        Arc::new(Mutex::new(Rank::LEAF, copy))
    }

    /// The action for `signo`.
    pub fn action(&self, signo: i32) -> SigAction {
        self.actions.lock()[signo as usize - 1]
    }

    /// Replaces the action for `signo`.
    pub fn set_action(&self, signo: i32, a: SigAction) {
        self.actions.lock()[signo as usize - 1] = a;
    }
}

/// What happens to a system call that a signal interrupted (signal(7), "Interruption of system
/// calls").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// As the syscall table says.
    #[default]
    Table,
    /// Restarted when the handler has SA_RESTART, or when no handler runs.
    Sys,
    /// Restarted only when no handler runs (pause, sigsuspend).
    NoHand,
    /// The same, and then tracers and filters see restart_syscall(2), which ends when the first call would have ended.
    Block,
    /// Restarted always (FUTEX_WAIT_REQUEUE_PI).
    Always,
    /// Fails with EINTR, always.
    Never,
}

/// A [`Restart`] that its task alone changes, at every system call.
#[derive(Debug, Default)]
pub struct RestartCell(AtomicU8);

impl RestartCell {
    /// Replaces the rule.
    pub fn set(&self, rule: Restart) {
        self.0.store(rule as u8, Ordering::Relaxed);
    }

    /// The rule set last.
    pub fn get(&self) -> Restart {
        let all = [
            Restart::Table,
            Restart::Sys,
            Restart::NoHand,
            Restart::Block,
            Restart::Always,
            Restart::Never,
        ];
        all.into_iter().find(|r| *r as u8 == self.0.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

impl Task {
    /// True when a signal is to be handled before the task may sleep interruptibly.
    pub fn signal_pending(&self) -> bool {
        self.attention.load(Ordering::SeqCst)
    }

    /// True when the task is to die.
    pub fn fatal_signal_pending(&self) -> bool {
        self.dying.load(Ordering::SeqCst)
    }

    /// Blocked signals; bit n-1 is signal n.
    pub fn blocked(&self) -> u64 {
        self.blocked.load(Ordering::SeqCst)
    }

    /// Replaces the blocked set (SIGKILL and SIGSTOP stay unblocked) and returns the old one.
    pub fn set_blocked(&self, mask: u64) -> u64 {
        let old = self.blocked.swap(mask & !UNBLOCKABLE, Ordering::SeqCst);
        self.recheck_signals();
        old
    }

    /// Blocks `mask` for the duration of a call (ppoll(2), pselect(2), epoll_pwait(2), sigsuspend(2)).
    /// When a signal ends the call, the handler's frame restores the former mask.
    pub fn begin_temporary_mask(&self, mask: u64) {
        let old = self.blocked();
        self.saved_sigmask.lock().get_or_insert(old);
        self.mask_saved.store(true, Ordering::Relaxed);
        self.set_blocked(mask);
    }

    /// Ends [`Task::begin_temporary_mask`]. With `interrupted` the mask stays until the signal has been
    /// dealt with on the way back to guest code.
    pub fn end_temporary_mask(&self, interrupted: bool) {
        // Taken first: signal state may not be locked while the saved mask is.
        let mask = if interrupted { None } else { self.take_saved_mask() };
        if let Some(m) = mask {
            self.set_blocked(m);
        }
    }

    /// The mask to return to after the present call, when it differs from the blocked set.
    pub fn take_saved_mask(&self) -> Option<u64> {
        if !self.mask_saved.load(Ordering::Relaxed) {
            return None;
        }
        self.mask_saved.store(false, Ordering::Relaxed);
        self.saved_sigmask.lock().take()
    }

    /// Signals pending for the thread or its process, blocked or not.
    pub fn pending_set(&self) -> u64 {
        let shared = self.process.sighand.lock().pending.set;
        shared | self.pending.lock().set
    }

    /// Takes a pending signal of `set`, the thread's own first (sigtimedwait(2), signalfd(2)).
    pub fn dequeue_signal(&self, set: u64) -> Option<SigInfo> {
        let mut hand = self.process.sighand.lock();
        let own = self.pending.lock().take(set);
        let mut got = own.or_else(|| hand.pending.take(set));
        drop(hand);
        if let Some(info) = &mut got {
            crate::time::posix::taken(&self.process, info);
        }
        self.recheck_signals();
        got.map(|i| i.seen_by(self))
    }

    /// Recomputes whether the task must look at its signals.
    pub fn recheck_signals(&self) {
        let hand = self.process.sighand.lock();
        let ready = (hand.pending.set | self.pending.lock().set) & !self.blocked();
        let on = ready != 0
            || hand.stop.is_some() && !self.ptrace.saw_group_stop(hand.stop_number)
            || self.ptrace.trap_due()
            || self.is_freezing()
            || self.dying.load(Ordering::SeqCst)
            || self.stale_clocks.load(Ordering::SeqCst);
        self.attention.store(on, Ordering::SeqCst);
    }

    /// Makes the task look at its signals soon, wherever it is.
    pub fn notice(&self) {
        self.attention.store(true, Ordering::SeqCst);
        self.sleeper.wake(Events::ALL);
        self.kick_out();
    }

    /// Interrupts guest code of the task, if it runs any.
    pub(crate) fn kick_out(&self) {
        if self.in_guest.load(Ordering::SeqCst) {
            let kick = self.kick.lock().clone();
            if let Some(k) = kick {
                k.kick();
            }
        }
    }

    /// Generates a signal for this thread (tgkill(2), faults, SIGPIPE). False when the queue of a
    /// real-time signal is full or the number is none.
    pub fn send_signal(&self, info: SigInfo) -> bool {
        (1..=NSIG as i32).contains(&info.signo) && send_to_task(self, info, true)
    }
}

impl Process {
    /// Generates a signal for the process as a whole on the kernel's behalf (timers, terminals).
    /// False when the queue of a real-time signal is full or the number is none.
    pub fn send_signal(&self, kernel: &Kernel, info: SigInfo) -> bool {
        (1..=NSIG as i32).contains(&info.signo) && send_to_process(kernel, self, info, true)
    }

    /// True when the process would ignore `signo` if nobody blocked it.
    pub fn ignores(&self, signo: i32) -> bool {
        let a = self.sighand.lock().action(signo);
        a.handler == SIG_IGN || a.handler == SIG_DFL && bit(signo) & IGNORED_BY_DEFAULT != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_signals_collapse_and_realtime_ones_queue() {
        let mut p = Pending::default();
        for _ in 0..3 {
            assert!(p.add(SigInfo::kernel(libc::SIGUSR1), 8));
            assert!(p.add(SigInfo::kernel(40), 4));
        }
        assert!(!p.add(SigInfo::kernel(40), 4));
        assert_eq!(p.take(!0).map(|i| i.signo), Some(libc::SIGUSR1));
        assert_eq!(p.take(!0).map(|i| i.signo), Some(40));
        assert_eq!(p.take(bit(41)), None);
        assert_eq!(p.take(!0).map(|i| i.signo), Some(40));
        assert_ne!(p.set, 0);
    }

    #[test]
    fn faults_come_before_other_signals() {
        let mut p = Pending::default();
        p.add(SigInfo::kernel(libc::SIGHUP), 8);
        p.add(SigInfo::kernel(libc::SIGSEGV), 8);
        assert_eq!(p.take(!0).map(|i| i.signo), Some(libc::SIGSEGV));
    }
}
