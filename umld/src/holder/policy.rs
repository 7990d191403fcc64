//! Whether an instance that ended is started again, and when.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use crate::spec::vm::{Restart, RestartPolicy};

/// How a kernel process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Halted or powered off with this exit status.
    Exit(i32),
    /// By a signal; SIGABRT is a panic.
    Signal(i32),
    /// Nobody saw its status.
    Unseen,
}

impl Ended {
    /// By what wait(2) says.
    pub fn of(status: ExitStatus) -> Ended {
        match (status.code(), status.signal()) {
            (Some(n), _) => Ended::Exit(n),
            (None, Some(n)) => Ended::Signal(n),
            (None, None) => Ended::Unseen,
        }
    }

    /// The status a shell would show.
    pub fn status(self) -> Option<i32> {
        match self {
            Ended::Exit(n) => Some(n),
            Ended::Signal(n) => Some(128 + n),
            Ended::Unseen => None,
        }
    }

    /// True for everything but an orderly halt with status 0.
    pub fn is_failure(self) -> bool {
        self != Ended::Exit(0)
    }
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays down.
    Stay,
    /// Start it after this time.
    Again(Duration),
    /// It failed too often in the window.
    CrashLoop,
}

/// The recent restarts.
#[derive(Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    recent: VecDeque<Instant>,
}

impl Restarts {
    /// None so far.
    pub fn new(policy: RestartPolicy) -> Restarts {
        Restarts { policy, recent: VecDeque::new() }
    }

    /// Decides after an end that nobody asked for.
    pub fn decide(&mut self, ended: Ended, now: Instant) -> Verdict {
        let wanted = match self.policy.when {
            Restart::No => false,
            Restart::OnFailure => ended.is_failure(),
            Restart::Always => true,
        };
        if !wanted {
            return Verdict::Stay;
        }
        while self.recent.front().is_some_and(|t| now.duration_since(*t) > self.policy.window) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.policy.limit as usize {
            return Verdict::CrashLoop;
        }
        let factor = 1u32 << self.recent.len().min(20);
        self.recent.push_back(now);
        Verdict::Again(self.policy.delay.saturating_mul(factor).min(self.policy.delay_max))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(when: Restart) -> RestartPolicy {
        RestartPolicy {
            when,
            delay: Duration::from_secs(1),
            delay_max: Duration::from_secs(5),
            limit: 4,
            window: Duration::from_secs(60),
        }
    }

    #[test]
    fn delays_double_up_to_the_limit_and_a_loop_is_seen() {
        let mut r = Restarts::new(policy(Restart::OnFailure));
        let t = Instant::now();
        let next: Vec<Verdict> = (0..5).map(|_| r.decide(Ended::Signal(6), t)).collect();
        let s = |n| Verdict::Again(Duration::from_secs(n));
        assert_eq!(next, [s(1), s(2), s(4), s(5), Verdict::CrashLoop]);
        // Later the window is empty again.
        assert_eq!(r.decide(Ended::Exit(1), t + Duration::from_secs(120)), s(1));
    }

    #[test]
    fn policies() {
        let t = Instant::now();
        let stay = |when, ended| Restarts::new(policy(when)).decide(ended, t) == Verdict::Stay;
        assert!(stay(Restart::No, Ended::Signal(9)));
        assert!(stay(Restart::OnFailure, Ended::Exit(0)));
        assert!(!stay(Restart::Always, Ended::Exit(0)));
        assert!(!stay(Restart::OnFailure, Ended::Unseen));
    }
}
