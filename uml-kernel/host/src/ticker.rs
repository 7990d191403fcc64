//! A timer that is waited for as a descriptor (timerfd_create(2)).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer without a date until [`Ticker::after`].
#[derive(Debug)]
pub struct Ticker {
    timer: TimerFd,
}

impl Ticker {
    /// Makes the timer.
    pub fn new() -> io::Result<Ticker> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Ticker { timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)? })
    }

    /// Becomes readable once, after `delay`.
    pub fn after(&self, delay: Duration) -> io::Result<()> {
        let once = Expiration::OneShot(TimeSpec::from_duration(delay));
        Ok(self.timer.set(once, TimerSetTimeFlags::empty())?)
    }

    /// Consumes the event.
    pub fn clear(&self) {
        // Not blocking: nothing to consume is no error to anybody.
        let _ = self.timer.wait();
    }
}

impl AsFd for Ticker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn it_is_readable_once() {
        let t = Ticker::new().expect("timer");
        let ready = |limit: PollTimeout| {
            poll(&mut [PollFd::new(t.as_fd(), PollFlags::POLLIN)], limit).expect("poll") == 1
        };
        assert!(!ready(PollTimeout::ZERO));
        t.after(Duration::from_millis(1)).expect("set");
        assert!(ready(PollTimeout::NONE));
        t.clear();
        assert!(!ready(PollTimeout::ZERO));
    }
}
