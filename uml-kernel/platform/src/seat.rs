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
//! How long a pair waits is what remains of the time it was not asleep once the CPU time of both is taken away. The host's own
//! figure, `/proc/PID/task/TID/schedstat`, must not be asked for: it leaves directory entries behind, which a thread that ends and
//! the parent that reaps its process then throw away at the same moment, the one spinning until the other has had a CPU. Two machines
//! with 64 threads each stood still for more than a minute in that.
//!
//! Lock order: `Seats::seated`, then `Seat::st`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use uml_abi::Result;

use crate::sys;

/// Time between looks at seated pairs.
const PERIOD: Duration = Duration::from_millis(10);
/// Looks in a stretch at whose end pairs are judged.
const LOOKS: u32 = 16;
/// The same while pairs share a CPU and another has none.
const LOOKS_CROWDED: u32 = 4;
/// Percentage of a stretch that a pair spends waiting for its CPU before it is moved: two that never sleep wait for half of it,
/// two that take turns hardly ever.
const CROWDED: u64 = 30;

thread_local! {
    /// The pair whose worker the thread is.
    static OWN: RefCell<Option<Arc<Seat>>> = const { RefCell::new(None) };
}

/// Runs `f`, in which the calling worker sleeps for its guest thread: the pair wants no CPU meanwhile.
pub fn asleep(f: &mut dyn FnMut()) {
    let note = |v| OWN.with_borrow(|s| s.iter().for_each(|s| s.asleep.store(v, Ordering::Relaxed)));
    note(true);
    f();
    note(false);
}

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
    /// The worker sleeps for its guest thread.
    asleep: AtomicBool,
    st: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: i32,
    guest: i32,
    worker: i32,
    ended: bool,
    /// Where the guest wants to be (sched_setaffinity(2)); empty for anywhere.
    allowed: Vec<usize>,
    /// In [`Seats::seated`].
    listed: bool,
    /// The events that the last look found.
    seen: u32,
    /// Looks of the present stretch that found it not asleep.
    wanting: u32,
    /// CPU time of the worker in nanoseconds when the stretch began.
    used: Option<u64>,
}

/// A number of looks, at whose end it is told which pairs wait for a CPU.
struct Stretch {
    begun: Instant,
    looks: u32,
    /// CPU time of the guests' processes when it began, in nanoseconds.
    used: HashMap<i32, u64>,
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
            asleep: AtomicBool::new(false),
            st: Mutex::default(),
        })
    }

    /// The thread that looks, until [`Seats::stop`].
    pub fn run(&self) {
        if self.cpus.len() < 2 {
            return;
        }
        let mut list = lock(&self.seated);
        let mut stretch = Stretch::begin(&list);
        loop {
            if list.is_empty() {
                while list.is_empty() && !self.stopping.load(Ordering::SeqCst) {
                    self.busy.store(false, Ordering::SeqCst);
                    list = self.changed.wait(list).unwrap_or_else(PoisonError::into_inner);
                }
                stretch = Stretch::begin(&list);
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let waited = self.changed.wait_timeout(list, PERIOD);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
            list.retain(|s| !s.look());
            stretch.looks += 1;
            if stretch.looks >= if self.crowded(&list) { LOOKS_CROWDED } else { LOOKS } {
                stretch.judge(&list);
                stretch = Stretch::begin(&list);
            }
        }
    }

    /// Whether a CPU has more than one pair while another has none.
    fn crowded(&self, list: &[Arc<Seat>]) -> bool {
        let on = |&cpu: &usize| {
            list.iter().filter(|s| s.cpu.load(Ordering::Relaxed) == cpu as i32).count()
        };
        self.cpus.iter().any(|c| on(c) == 0) && self.cpus.iter().any(|c| on(c) > 1)
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
    pub fn take_worker(self: &Arc<Seat>) {
        lock(&self.st).worker = sys::my_tid();
        OWN.set(Some(self.clone()));
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
            if st.ended || st.guest == 0 || st.worker == 0 {
                return;
            }
            // The worker follows its guest where that may not be here.
            let cpu = match st.allowed.first() {
                Some(first) if !st.allowed.contains(&cpu) => *first,
                _ => cpu,
            };
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

    /// Confines the guest to `cpus`, host CPUs, until the next call. Its worker goes along while they hand over often.
    pub fn confine(&self, cpus: &[usize]) -> Result<()> {
        let mut st = lock(&self.st);
        let everywhere = self.seats.cpus.iter().all(|c| cpus.contains(c));
        st.allowed = if everywhere { Vec::new() } else { cpus.to_vec() };
        if st.ended || st.guest == 0 {
            return Ok(());
        }
        sys::set_affinity_of(st.guest, cpus)?;
        if self.cpu.load(Ordering::Relaxed) >= 0 {
            // The next event seats them anew.
            self.stand(&st, false);
        }
        Ok(())
    }

    /// The guest may be on `cpu`.
    pub fn allows(&self, cpu: usize) -> bool {
        let st = lock(&self.st);
        st.allowed.is_empty() || st.allowed.contains(&cpu)
    }

    /// The context is over: its worker is another's, and its guest thread's id nobody's.
    pub fn end(&self) {
        lock(&self.st).ended = true;
        self.cpu.store(-1, Ordering::Relaxed);
    }

    /// Whether the pair need not be looked at again.
    fn look(&self) -> bool {
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
        st.wanting += u32::from(!self.asleep.load(Ordering::Relaxed));
        false
    }

    fn stand(&self, st: &State, both: bool) {
        self.cpu.store(-1, Ordering::Relaxed);
        sys::set_affinity_of(st.worker, &self.seats.cpus).ok();
        if both {
            let home = if st.allowed.is_empty() { &self.seats.cpus } else { &st.allowed };
            sys::set_affinity_of(st.guest, home).ok();
        }
    }
}

impl Stretch {
    fn begin(list: &[Arc<Seat>]) -> Stretch {
        let mut used = HashMap::new();
        for s in list {
            let mut st = lock(&s.st);
            (st.wanting, st.used) = (0, sys::thread_cpu_ns(st.worker));
            used.extend(sys::process_cpu_ns(st.process).map(|t| (st.process, t)));
        }
        Stretch { begun: Instant::now(), looks: 0, used }
    }

    /// Has the pairs stand up that spend much of their time waiting. CPU time of guests is known by process, so those of
    /// one process are judged together.
    fn judge(&self, list: &[Arc<Seat>]) {
        let passed = self.begun.elapsed().as_nanos() as u64;
        // Pairs, what they wanted, what their workers used.
        let mut processes: HashMap<i32, (u64, u64, u64)> = HashMap::new();
        for s in list {
            let st = lock(&s.st);
            let used =
                sys::thread_cpu_ns(st.worker).zip(st.used).map(|(now, t)| now.saturating_sub(t));
            if let Some(used) = used {
                let p = processes.entry(st.process).or_default();
                p.0 += 1;
                p.1 += passed / u64::from(self.looks) * u64::from(st.wanting);
                p.2 += used;
            }
        }
        processes.retain(|&pid, (pairs, wanted, used)| {
            let guests = sys::process_cpu_ns(pid).zip(self.used.get(&pid));
            let Some(guests) = guests.map(|(now, t)| now.saturating_sub(*t)) else { return false };
            wanted.saturating_sub(*used + guests) > passed / 100 * CROWDED * *pairs
        });
        for s in list {
            let st = lock(&s.st);
            if !st.ended && processes.contains_key(&st.process) {
                // The guest follows its worker at the next event.
                s.stand(&st, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::thread;

    use super::*;

    struct Idle(Child);

    impl Drop for Idle {
        fn drop(&mut self) {
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }

    /// Who spins on a CPU that two others spin on as well is sent elsewhere, who sleeps stays.
    #[test]
    fn pairs_that_wait_for_their_cpu_stand_up() {
        let cpus = sys::affinity().unwrap();
        let Some(&cpu) = cpus.first().filter(|_| cpus.len() > 1) else { return };
        // The guests of both do nothing, whatever their workers do.
        let guest = || Idle(Command::new("sleep").arg("1000").spawn().unwrap());
        let (guests, seats) = ([guest(), guest()], Seats::new(cpus));
        let pair = |of: usize| {
            let (seat, pid) = (seats.seat(), guests[of].0.id() as i32);
            seat.set_guest(pid, pid);
            seat
        };
        let (busy, sleeping) = (pair(0), pair(1));
        let seated = |seat: &Seat| seat.cpu.load(Ordering::Relaxed) == cpu as i32;
        let over = &AtomicBool::new(false);
        let on_cpu = |seat: Option<&Arc<Seat>>| {
            sys::set_affinity(&[cpu]).unwrap();
            if let Some(seat) = seat {
                seat.take_worker();
                seat.sit();
            }
        };
        let spin = || {
            while !over.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        };
        let doze = || {
            while !over.load(Ordering::Relaxed) {
                thread::park_timeout(PERIOD);
            }
        };
        let (moved, woken) = thread::scope(|s| {
            s.spawn(|| (on_cpu(Some(&busy)), spin()));
            s.spawn(|| (on_cpu(Some(&sleeping)), asleep(&mut || doze())));
            for _ in 0..2 {
                s.spawn(|| (on_cpu(None), spin()));
            }
            while lock(&seats.seated).len() < 2 || !sleeping.asleep.load(Ordering::Relaxed) {
                thread::sleep(PERIOD / 10);
            }
            let mut list = lock(&seats.seated).clone();
            // A few stretches, since the spinners may not all have begun.
            let mut stretches = 0;
            while stretches < 100 && seated(&busy) && seated(&sleeping) {
                let mut stretch = Stretch::begin(&list);
                for _ in 0..LOOKS {
                    thread::sleep(PERIOD);
                    list.iter().for_each(|seat| seat.event());
                    list.retain(|seat| !seat.look());
                    stretch.looks += 1;
                }
                stretch.judge(&list);
                stretches += 1;
            }
            over.store(true, Ordering::Relaxed);
            (!seated(&busy), !seated(&sleeping))
        });
        assert!(moved && !woken, "the waiting pair moved: {moved}, the sleeping one: {woken}");
    }
}
