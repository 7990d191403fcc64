//! Where a task stopped, for `/proc/<pid>/syscall`: found out from outside, so that the task sleeps on.

use std::sync::atomic::Ordering;

use uml_platform::{Stance, Stopped};

use super::{RunState, Task};

/// What can be said of a task's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It runs, or went on while it was looked at.
    Running,
    /// It is stopped or sleeps in the system call with this number.
    InCall(i64, Stopped),
    /// It is stopped or sleeps, but makes no call; all zeros once it has exited.
    Outside(Stopped),
}

impl Task {
    /// Where the task is. It must sleep for that, unless it asks itself (`own`).
    pub fn standing(&self, own: bool) -> Standing {
        if matches!(self.run_state(), RunState::Zombie | RunState::Dead) {
            return Standing::Outside(Stopped::default());
        }
        if let Some(regs) = self.ptrace.regs_at_rest() {
            let stopped = Stopped::from(&regs);
            return match regs.orig_rax as i64 {
                nr if nr >= 0 => Standing::InCall(nr, stopped),
                _ => Standing::Outside(stopped),
            };
        }
        if !self.stays(own) {
            return Standing::Running;
        }
        let kick = self.kick.lock().clone();
        let Some(kick) = kick else { return Standing::Running };
        let nr = self.last_call.load(Ordering::Relaxed);
        let stopped = match kick.stance() {
            Stance::Running => None,
            Stance::Stopped(s) => Some(s),
            Stance::InHostCall => uml_host::procinfo::waits_in(kick.host_tid())
                .map(|(args, sp, pc)| Stopped { args, sp, pc }),
        };
        match stopped {
            Some(s) if self.stays(own) && nr == self.last_call.load(Ordering::Relaxed) => {
                if nr >= 0 { Standing::InCall(nr, s) } else { Standing::Outside(s) }
            }
            _ => Standing::Running,
        }
    }

    fn stays(&self, own: bool) -> bool {
        let asleep = !matches!(self.seen_state(), RunState::Running | RunState::Throttled);
        (own || asleep) && !self.runs_guest_code()
    }
}
