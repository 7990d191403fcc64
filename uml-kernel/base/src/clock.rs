//! The machine's clock: host time without the time during which the machine was stopped.
//!
//! Every deadline in the kernel is a moment of this clock, so that a stop (the management console's
//! `stop`) moves all of them at once and no timer is late when the machine goes on. Only what really
//! sleeps on the host turns a moment into a host's wait, and while the machine is stopped there is
//! no such wait ([`is_stopped`]).
//!
//! The clock belongs to the process, as the host's does.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::lock::{Mutex, Rank};

/// Length of all finished stops.
static STOPPED_NS: AtomicU64 = AtomicU64::new(0);
/// The host's time at which the present stop began.
static SINCE: Mutex<Option<Instant>> = Mutex::new(Rank::LEAF, None);
/// Mirrors `SINCE`, so that the common case takes no lock.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// The present moment. Stands still while the machine is stopped.
pub fn now() -> Instant {
    let since = if STOPPED.load(Ordering::SeqCst) { *SINCE.lock() } else { None };
    let finished = Duration::from_nanos(STOPPED_NS.load(Ordering::SeqCst));
    let host = since.unwrap_or_else(Instant::now);
    // Stops are shorter than the host's uptime.
    host.checked_sub(finished).unwrap_or(host)
}

/// Time since `at`, a moment of this clock.
pub fn since(at: Instant) -> Duration {
    now().saturating_duration_since(at)
}

/// True between [`stop`] and [`resume`]: no moment of this clock comes any nearer, so a sleeper with a
/// deadline sleeps until it is woken.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// How long the machine has been stopped in all, the present stop included.
pub fn stopped() -> Duration {
    let since = *SINCE.lock();
    let finished = Duration::from_nanos(STOPPED_NS.load(Ordering::SeqCst));
    finished + since.map_or(Duration::ZERO, |at| at.elapsed())
}

/// Stops the clock; nothing happens when it is stopped already.
pub fn stop() {
    let mut since = SINCE.lock();
    if since.is_none() {
        *since = Some(Instant::now());
        STOPPED.store(true, Ordering::SeqCst);
    }
}

/// Lets the clock go on from where it was stopped. Whoever sleeps with a deadline must be woken then.
pub fn resume() {
    let mut since = SINCE.lock();
    if let Some(at) = since.take() {
        let ns = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
        STOPPED_NS.fetch_add(ns, Ordering::SeqCst);
        STOPPED.store(false, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_stands_still_while_stopped_and_goes_on_from_there() {
        let before = now();
        stop();
        let at = now();
        assert!(at >= before && is_stopped());
        let host = Instant::now();
        while host.elapsed() < Duration::from_millis(5) {
            assert_eq!(now(), at);
        }
        assert!(stopped() >= Duration::from_millis(5));
        resume();
        let after = now();
        assert!(after >= at && since(at) < host.elapsed());
        assert!(stopped() >= Duration::from_millis(5) && !is_stopped());
    }
}
