//! The timer queue: moments in order, one thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use uml_base::clock;

/// What a timer calls.
pub trait TimerTarget: Send + Sync {
    /// The moment has come. Runs on the timer thread, without locks: must be short and must not
    /// sleep. The timer may have been set again or stopped meanwhile, so the target looks at its own
    /// state.
    fn expired(&self);
}

#[derive(Default)]
struct State {
    armed: BTreeMap<(Instant, u64), Weak<dyn TimerTarget>>,
    running: bool,
}

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

impl Queue {
    pub fn new() -> Arc<Queue> {
        Arc::new(Queue { state: Mutex::new(State::default()), changed: Condvar::new() })
    }

    fn set(
        self: &Arc<Self>,
        id: u64,
        old: Option<Instant>,
        new: Option<Instant>,
        target: &Weak<dyn TimerTarget>,
    ) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = old {
            s.armed.remove(&(at, id));
        }
        let Some(at) = new else { return };
        let first = s.armed.first_key_value().is_none_or(|(k, _)| at < k.0);
        s.armed.insert((at, id), target.clone());
        if !s.running {
            s.running = true;
            let me = self.clone();
            // Without the thread no timer ever fires; that is reported where threads are watched.
            let spawned =
                std::thread::Builder::new().name("timers".into()).spawn(move || me.serve());
            if let Err(e) = spawned {
                s.running = false;
                uml_base::pr_err!("timers: the host refuses a thread: {e}");
            }
        } else if first {
            drop(s);
            self.changed.notify_one();
        }
    }

    /// The clock went on after a stop: the thread reckons anew.
    pub fn look(&self) {
        let _state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_one();
    }

    /// The moments for which timers are armed, in order.
    pub fn armed(&self) -> Vec<Instant> {
        let s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        s.armed.keys().map(|k| k.0).collect()
    }

    fn serve(&self) {
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let Some((&(at, id), _)) = s.armed.first_key_value() else {
                s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = clock::now();
            if at > now && clock::is_stopped() {
                // No moment comes nearer until `look`.
                s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if at > now {
                s = match self.changed.wait_timeout(s, at - now) {
                    Ok((s, _)) => s,
                    Err(e) => e.into_inner().0,
                };
                continue;
            }
            let target = s.armed.remove(&(at, id));
            drop(s);
            if let Some(t) = target.and_then(|t| t.upgrade()) {
                t.expired();
            }
            s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A timer: armed for one moment or not at all. Dropping it stops it.
pub struct Timer {
    id: u64,
    queue: Arc<Queue>,
    at: Mutex<Option<Instant>>,
    target: Weak<dyn TimerTarget>,
}

impl Timer {
    pub(super) fn new(queue: Arc<Queue>, target: Weak<dyn TimerTarget>) -> Timer {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Timer { id, queue, at: Mutex::new(None), target }
    }

    /// Arms it for `at`, or stops it.
    pub fn set(&self, at: Option<Instant>) {
        let mut cur = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        if *cur != at || at.is_some() {
            self.queue.set(self.id, *cur, at, &self.target);
            *cur = at;
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.set(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    struct Tell(u32, Mutex<Sender<u32>>);
    impl TimerTarget for Tell {
        fn expired(&self) {
            let _ = self.1.lock().map(|s| s.send(self.0));
        }
    }

    #[test]
    fn timers_fire_in_order_and_stop_when_dropped() {
        let q = Queue::new();
        let (tx, rx) = channel();
        let targets: Vec<Arc<dyn TimerTarget>> = (0..4)
            .map(|i| Arc::new(Tell(i, Mutex::new(tx.clone()))) as Arc<dyn TimerTarget>)
            .collect();
        let timers: Vec<_> =
            targets.iter().map(|t| Timer::new(q.clone(), Arc::downgrade(t))).collect();
        let t0 = Instant::now();
        let ms = |n| Some(t0 + Duration::from_millis(n));
        timers[0].set(ms(3));
        timers[1].set(ms(2));
        timers[2].set(ms(1));
        timers[1].set(ms(4));
        timers[3].set(ms(3));
        timers[3].set(None);
        let got: Vec<u32> = (0..3).filter_map(|_| rx.recv().ok()).collect();
        assert_eq!(got, [2, 0, 1]);
        assert!(t0.elapsed() >= Duration::from_millis(4));
        assert!(rx.try_recv().is_err());
    }
}
