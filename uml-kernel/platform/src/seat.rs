//! Keeps a guest thread and its worker on one CPU while they hand over often.
//!
//! Waking a thread on another CPU costs an order of magnitude more than a switch on the
//! same one, and the host's scheduler, left alone, puts the worker on an idle CPU. So a pair
//! is *seated*, both confined to one CPU, at its first event, and stands up again when it
//! hands over no more (the guest computes or sleeps): the host then balances as it
//! likes, and the next event seats the pair where the worker happens to be. A pair that has
//! to wait for its CPU while another one is free stands up too. Nothing here wakes up while no pair
//! is seated.
//!
//! Lock order: `Seats::seated`, then `Seat::st`.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::sys;

/// Time between looks at seated pairs.
const PERIOD: Duration = Duration::from_millis(10);
/// Looks between two at a pair whose CPU seems its own.
const SELDOM: u32 = 16;
/// Percentage of a period that a pair spends waiting for its CPU before it is moved. Handing
/// over alone makes for 30 or so.
const CROWDED: u64 = 50;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All pairs of a machine.
pub struct Seats {
    cpus: Vec<usize>,
    seated: Mutex<Vec<Arc<Seat>>>,
    changed: Condvar,
    /// Somebody is seated, so the host is looking.
    busy: AtomicBool,
    stopping: AtomicBool,
}

/// One pair's place.
pub struct Seat {
    seats: Arc<Seats>,
    /// CPU the pair is confined to, or -1.
    cpu: AtomicI32,
    events: AtomicU32,
    st: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: i32,
    guest: i32,
    worker: i32,
    ended: bool,
    /// In [`Seats::seated`].
    listed: bool,
    /// What the last look found: events, nanoseconds waited for a CPU, and when.
    seen: u32,
    waited: Option<(u64, Instant)>,
}

impl Seats {
    /// `cpus` are all CPUs of the machine; with a single one there is nothing to do.
    pub fn new(cpus: Vec<usize>) -> Arc<Seats> {
        Arc::new(Seats {
            cpus,
            seated: Mutex::default(),
            changed: Condvar::new(),
            busy: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        })
    }

    /// Whether there is more than one CPU.
    pub fn several(&self) -> bool {
        self.cpus.len() > 1
    }

    pub fn seat(self: &Arc<Seats>) -> Arc<Seat> {
        Arc::new(Seat {
            seats: self.clone(),
            cpu: AtomicI32::new(-1),
            events: AtomicU32::new(0),
            st: Mutex::default(),
        })
    }

    /// The thread that looks, until [`Seats::stop`].
    pub fn run(&self) {
        if self.cpus.len() < 2 {
            return;
        }
        let mut looks = 0u32;
        let mut list = lock(&self.seated);
        loop {
            while list.is_empty() && !self.stopping.load(Ordering::SeqCst) {
                self.busy.store(false, Ordering::SeqCst);
                list = self.changed.wait(list).unwrap_or_else(PoisonError::into_inner);
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let waited = self.changed.wait_timeout(list, PERIOD);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
            looks = looks.wrapping_add(1);
            let crowded = self.crowded(&list);
            list.retain(|s| {
                let look = looks % SELDOM == 0 || crowded.contains(&s.cpu.load(Ordering::Relaxed));
                !s.look(look)
            });
        }
    }

    /// CPUs with more than one pair while others have none.
    fn crowded(&self, list: &[Arc<Seat>]) -> Vec<i32> {
        let on = |cpu: i32| list.iter().filter(|s| s.cpu.load(Ordering::Relaxed) == cpu).count();
        if self.cpus.iter().all(|&c| on(c as i32) > 0) {
            return Vec::new();
        }
        self.cpus.iter().map(|&c| c as i32).filter(|&c| on(c) > 1).collect()
    }

    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _list = lock(&self.seated);
        self.changed.notify_all();
    }
}

impl Seat {
    /// Names the guest thread.
    pub fn set_guest(&self, process: i32, guest: i32) {
        let mut st = lock(&self.st);
        (st.process, st.guest) = (process, guest);
    }

    /// Names the calling thread as the worker.
    pub fn take_worker(&self) {
        lock(&self.st).worker = sys::my_tid();
    }

    /// On the worker, for every event.
    pub fn event(self: &Arc<Seat>) {
        if self.seats.cpus.len() < 2 {
            return;
        }
        self.events.store(self.events.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
        if self.cpu.load(Ordering::Relaxed) < 0 {
            self.sit();
        }
    }

    /// Confines the pair to the CPU the worker is on.
    pub fn sit(self: &Arc<Seat>) {
        if self.seats.cpus.len() < 2 {
            return;
        }
        let Some(cpu) = sys::current_cpu() else { return };
        let listed = {
            let mut st = lock(&self.st);
            if st.ended || st.guest == 0 {
                return;
            }
            // A refusal means a dead thread, or CPUs taken away: then the host places them.
            let seated = sys::set_affinity_of(st.guest, &[cpu]).is_ok()
                && sys::set_affinity_of(st.worker, &[cpu]).is_ok();
            if !seated {
                return;
            }
            self.cpu.store(cpu as i32, Ordering::Relaxed);
            std::mem::replace(&mut st.listed, true)
        };
        if listed {
            return;
        }
        lock(&self.seats.seated).push(self.clone());
        if !self.seats.busy.swap(true, Ordering::SeqCst) {
            self.seats.changed.notify_all();
        }
    }

    /// The context is over: its worker is another's, and its guest thread's id nobody's.
    pub fn end(&self) {
        lock(&self.st).ended = true;
        self.cpu.store(-1, Ordering::Relaxed);
    }

    /// Whether the pair need not be looked at again. `closely` asks how long it waits.
    fn look(&self, closely: bool) -> bool {
        let mut st = lock(&self.st);
        let events = self.events.load(Ordering::Relaxed);
        let quiet = events == std::mem::replace(&mut st.seen, events);
        if quiet && !st.ended {
            // The guest computes, or the worker sleeps.
            self.stand(&st, true);
        }
        if quiet || st.ended {
            st.listed = false;
            return true;
        }
        if closely && st.crowded() {
            // The guest follows its worker at the next event.
            self.stand(&st, false);
        }
        false
    }

    fn stand(&self, st: &State, both: bool) {
        self.cpu.store(-1, Ordering::Relaxed);
        sys::set_affinity_of(st.worker, &self.seats.cpus).ok();
        if both {
            sys::set_affinity_of(st.guest, &self.seats.cpus).ok();
        }
    }
}

impl State {
    /// Whether the pair has spent much of the time since the last call waiting for its CPU.
    fn crowded(&mut self) -> bool {
        let own = sys::getpid();
        let wait = waited(self.process, self.guest).zip(waited(own, self.worker));
        let Some(total) = wait.map(|(a, b)| a + b) else { return false };
        let now = Instant::now();
        let Some((before, then)) = self.waited.replace((total, now)) else { return false };
        let passed = now.duration_since(then);
        passed < PERIOD * 2 * SELDOM
            && u128::from(total.saturating_sub(before)) * 100
                > passed.as_nanos() * u128::from(CROWDED)
    }
}

/// Nanoseconds a thread has waited for a CPU (`/proc/PID/task/TID/schedstat`).
fn waited(pid: i32, tid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}
