//! Load averages (proc_loadavg(5), getloadavg(3)): tasks that run, can run or sleep uninterruptibly, over 1, 5 and 15 minutes.
//!
//! They are counted every five seconds by a thread that sleeps while nothing does: what an idle machine's averages have
//! come down to since is worked out when somebody asks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use uml_base::{Mutex, Rank, clock};

use crate::kernel::Kernel;
use crate::task::RunState;

/// Between two counts.
const PERIOD: Duration = Duration::from_secs(5);
/// What the averages are over.
const MINUTES: [f64; 3] = [1.0, 5.0, 15.0];

/// The counting thread sleeps until a task goes on. One set serves the process.
static PARKED: AtomicBool = AtomicBool::new(false);
static THREAD: OnceLock<Thread> = OnceLock::new();

/// Exponentially damped averages.
#[derive(Clone, Copy, Debug)]
struct Averages {
    values: [f64; 3],
    /// Until when they are counted.
    until: Instant,
}

impl Averages {
    /// Goes on to `now`: `active` tasks at the end of the first period, none in those after it.
    fn advance(&mut self, now: Instant, active: usize) {
        let mut active = active as f64;
        while now.saturating_duration_since(self.until) >= PERIOD {
            for (v, minutes) in self.values.iter_mut().zip(MINUTES) {
                let keep = (-PERIOD.as_secs_f64() / (60.0 * minutes)).exp();
                *v = *v * keep + active * (1.0 - keep);
            }
            self.until += PERIOD;
            active = 0.0;
            if self.values.iter().all(|v| *v < 1e-6) {
                // Nothing is left to come down, however long it was.
                let periods =
                    now.saturating_duration_since(self.until).as_secs() / PERIOD.as_secs();
                self.until += Duration::from_secs(periods * PERIOD.as_secs());
            }
        }
    }
}

/// The machine's averages.
pub struct Load(Mutex<Averages>);

impl Load {
    pub(crate) fn new(now: Instant) -> Load {
        Load(Mutex::new(Rank::LEAF, Averages { values: [0.0; 3], until: now }))
    }

    /// Over 1, 5 and 15 minutes.
    pub fn averages(&self) -> [f64; 3] {
        let mut a = *self.0.lock();
        a.advance(clock::now(), 0);
        a.values
    }

    /// Counts; false when nothing is active.
    fn count(&self, kernel: &Kernel) -> bool {
        let active = active(kernel);
        self.0.lock().advance(clock::now(), active);
        active != 0
    }

    fn next(&self) -> Duration {
        (self.0.lock().until + PERIOD).saturating_duration_since(clock::now())
    }
}

fn active(kernel: &Kernel) -> usize {
    let counts = |s: RunState| matches!(s, RunState::Running | RunState::Blocked);
    kernel.tree.read().tasks().filter(|t| counts(t.run_state())).count()
}

/// A task goes on after a sleep: costs a load while anything is active.
pub(crate) fn wake() {
    if PARKED.load(Ordering::Relaxed)
        && PARKED.swap(false, Ordering::SeqCst)
        && let Some(t) = THREAD.get()
    {
        t.unpark();
    }
}

/// Starts the counting. The thread ends when `kernel` is dropped and something wakes it.
pub fn start(kernel: &Arc<Kernel>) -> std::io::Result<()> {
    let kernel = Arc::downgrade(kernel);
    let t = std::thread::Builder::new().name("uml-load".into()).spawn(move || run(&kernel))?;
    // A second machine in one process (tests) goes without.
    let _ = THREAD.set(t.thread().clone());
    Ok(())
}

fn run(kernel: &Weak<Kernel>) {
    loop {
        let Some(k) = kernel.upgrade() else { return };
        if k.load.count(&k) {
            // While the machine is stopped its clock does not get to the next count; looking at that now and then is enough.
            let pause = if clock::is_stopped() { PERIOD } else { k.load.next() };
            drop(k);
            std::thread::sleep(pause);
            continue;
        }
        PARKED.store(true, Ordering::SeqCst);
        // Who woke up before the mark was there is seen here.
        let idle = active(&k) == 0;
        drop(k);
        while idle && PARKED.load(Ordering::SeqCst) {
            std::thread::park();
        }
        PARKED.store(false, Ordering::SeqCst);
        if let Some(k) = kernel.upgrade() {
            k.load.0.lock().advance(clock::now(), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 0.01
    }

    #[test]
    fn averages_rise_and_fall_as_documented() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut a = Averages { values: [0.0; 3], until: start };
        a.advance(at(4), 7);
        assert_eq!(a.values, [0.0; 3], "the first period is not over");
        for s in (5..=60).step_by(5) {
            a.advance(at(s), 2);
        }
        // 1 - 1/e after the first minute.
        assert!(near(a.values[0], 2.0 * 0.632) && near(a.values[1], 2.0 * 0.181), "{a:?}");
        let mut b = a;
        for s in (65..=300).step_by(5) {
            a.advance(at(s), 0);
        }
        b.advance(at(300), 0);
        assert!(
            near(a.values[2], b.values[2]),
            "idle periods can be caught up with at once: {a:?} {b:?}"
        );
        assert_eq!(a.until, b.until);
        b.advance(at(300 + 1_000_000_000), 0);
        assert!(b.values.iter().all(|v| *v < 1e-6));
        assert!(at(1_000_000_300).duration_since(b.until) < PERIOD);
    }
}
