//! Triggers: who wants to know of stalls that are longer than so much within a time, and the thread that looks.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use super::{Group, Resource};
use crate::{Events, WaitQueue, clock};

/// Looks in each window, as Linux has it.
const LOOKS: u32 = 10;
/// How often the thread looks whether the machine goes on after a stop.
const STOPPED: Duration = Duration::from_secs(1);

/// Tells of stalls of one kind.
pub struct Trigger {
    group: Arc<Group>,
    kind: usize,
    threshold: Duration,
    window: Duration,
    seen: Mutex<Seen>,
    /// It happened and nobody was told yet.
    event: AtomicBool,
    queue: Arc<WaitQueue>,
}

struct Seen {
    /// Totals at moments of the last window and one before it.
    samples: VecDeque<(Instant, Duration)>,
    last_event: Option<Instant>,
}

impl Seen {
    /// Adds a total; how much it grew in the last `window`.
    fn growth(&mut self, now: Instant, total: Duration, window: Duration) -> Duration {
        self.samples.push_back((now, total));
        let from = now.checked_sub(window);
        while self.samples.len() > 2 && from.is_some_and(|f| self.samples[1].0 <= f) {
            self.samples.pop_front();
        }
        let (a, b) = (self.samples[0], self.samples[1.min(self.samples.len() - 1)]);
        let Some(from) = from.filter(|f| *f > a.0 && b.0 > a.0) else {
            return total.saturating_sub(a.1);
        };
        // Between two samples it is taken to have grown evenly.
        let part = (from - a.0).as_secs_f64() / (b.0 - a.0).as_secs_f64();
        let then = a.1 + b.1.saturating_sub(a.1).mul_f64(part.min(1.0));
        total.saturating_sub(then)
    }
}

/// All triggers.
static TRIGGERS: Mutex<Vec<Weak<Trigger>>> = Mutex::new(Vec::new());
static THREAD: OnceLock<Thread> = OnceLock::new();

impl Trigger {
    /// An event whenever stalls of the kind amount to `threshold` within `window`.
    pub fn new(
        group: &Arc<Group>,
        resource: Resource,
        full: bool,
        threshold: Duration,
        window: Duration,
    ) -> std::io::Result<Arc<Trigger>> {
        let kind = resource.kind(full);
        let now = clock::now();
        let trigger = Arc::new(Trigger {
            group: group.clone(),
            kind,
            threshold,
            window,
            seen: Mutex::new(Seen {
                samples: VecDeque::from([(now, group.total(kind, now).0)]),
                last_event: None,
            }),
            event: AtomicBool::new(false),
            queue: WaitQueue::shared(),
        });
        let mut all = TRIGGERS.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|t| t.strong_count() != 0);
        all.push(Arc::downgrade(&trigger));
        match THREAD.get() {
            Some(t) => t.unpark(),
            None => {
                let made = std::thread::Builder::new().name("psimon".into()).spawn(run)?;
                let _ = THREAD.set(made.thread().clone());
            }
        }
        Ok(trigger)
    }

    /// Where waiters for the event register.
    pub fn queue(&self) -> &Arc<WaitQueue> {
        &self.queue
    }

    /// Takes the event, if it happened.
    pub fn take(&self) -> bool {
        self.event.swap(false, Ordering::SeqCst)
    }

    /// Looks; true while there is something to look for.
    fn look(&self, now: Instant) -> bool {
        let (total, goes_on) = self.group.total(self.kind, now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let growth = seen.growth(now, total, self.window);
        let again = seen.last_event.is_none_or(|at| now >= at + self.window);
        if growth >= self.threshold && again {
            seen.last_event = Some(now);
            drop(seen);
            // Who has not taken the last one is not told twice.
            if !self.event.swap(true, Ordering::SeqCst) {
                self.queue.wake_all(Events::PRI);
            }
        }
        goes_on || growth > Duration::ZERO
    }
}

/// Something began in `group` that the thread waits for.
pub(super) fn look(group: &Group) {
    if group.watched.swap(0, Ordering::SeqCst) != 0
        && let Some(t) = THREAD.get()
    {
        t.unpark();
    }
}

fn run() {
    loop {
        let all: Vec<Arc<Trigger>> = {
            let mut all = TRIGGERS.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|t| t.strong_count() != 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        // What begins from here on wakes this thread.
        for t in &all {
            t.group.watched.fetch_or(1 << t.kind, Ordering::SeqCst);
        }
        let now = clock::now();
        let mut pause: Option<Duration> = None;
        for t in &all {
            if t.look(now) {
                let step = t.window / LOOKS;
                pause = Some(pause.map_or(step, |p| p.min(step)));
                // It looks anyway.
                t.group.watched.fetch_and(!(1 << t.kind), Ordering::SeqCst);
            }
        }
        drop(all);
        match pause {
            None => std::thread::park(),
            Some(_) if clock::is_stopped() => std::thread::park_timeout(STOPPED),
            Some(p) => std::thread::park_timeout(p),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_that_of_the_last_window() {
        let start = Instant::now() + Duration::from_secs(100);
        let at = |ms: u64| start + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let window = ms(1000);
        let first = VecDeque::from([(start, ms(0))]);
        let mut s = Seen { samples: first, last_event: None };
        assert_eq!(s.growth(at(100), ms(50), window), ms(50));
        assert_eq!(s.growth(at(900), ms(50), window), ms(50));
        // Half of what grew in the first tenth of a second is out of the window.
        assert_eq!(s.growth(at(1050), ms(50), window), ms(25));
        assert_eq!(s.growth(at(1200), ms(80), window), ms(30));
        assert_eq!(s.growth(at(5000), ms(80), window), ms(0));
        assert!(s.samples.len() <= 3, "{:?}", s.samples);
    }
}
