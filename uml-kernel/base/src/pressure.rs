//! Pressure stall information (Documentation/accounting/psi.rst): time in which tasks could not go on for want of a processor,
//! of memory or of storage.
//!
//! Every task that runs or could is counted in its group and those above; when it goes to sleep, waits for a disk or rests for
//! want of memory, their counts change by one atomic addition each. Only when that begins or ends a stall are clocks
//! read and a lock taken. As with the counters of storage, whoever waits says so here without knowing tasks.
//!
//! The host schedules and does not say when a task had no processor: as many tasks wait for one as there are more that
//! could run than the machine has processors. Tasks that their group's limit holds wait too. What the host itself takes from the
//! machine is not seen, as in any virtual machine.

mod account;
mod trigger;

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use account::Line;
pub use trigger::Trigger;

use crate::clock;
use account::Account;

/// What tasks wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
    Io,
}

impl Resource {
    /// Number of the kind: some tasks are stalled, or all that are not idle.
    fn kind(self, full: bool) -> usize {
        self as usize * 2 + usize::from(full)
    }
}

const KINDS: usize = 6;

// Counts of tasks, side by side in one word. A task takes two threads of the host, so there are never 65,536.
const RUNNABLE: u64 = 1;
const HELD: u64 = 1 << 16;
const IN_IO: u64 = 1 << 32;
const IN_MEMORY: u64 = 1 << 48;

static PROCESSORS: AtomicU32 = AtomicU32::new(u32::MAX);

fn count(counts: u64, unit: u64) -> u64 {
    (counts / unit) & 0xffff
}

/// Which kinds of stalls go on.
fn mask(counts: u64, processors: u32) -> u8 {
    let (runnable, held) = (count(counts, RUNNABLE), count(counts, HELD));
    let nobody = runnable + held == 0;
    let (io, memory) = (count(counts, IN_IO) != 0, count(counts, IN_MEMORY) != 0);
    let bit = |on: bool, r: Resource, full| u8::from(on) << r.kind(full);
    // That nobody has a processor is nothing that happens to a machine, and of groups only this one is shown.
    bit(held != 0 || runnable > u64::from(processors), Resource::Cpu, false)
        | bit(memory, Resource::Memory, false)
        | bit(memory && nobody, Resource::Memory, true)
        | bit(io, Resource::Io, false)
        | bit(io && nobody, Resource::Io, true)
}

/// The tasks that are counted together: of the whole machine or of a control group.
pub struct Group {
    parent: Option<Arc<Group>>,
    counts: AtomicU64,
    account: Mutex<Account<KINDS>>,
    /// False: stalls are not counted for now (`cgroup.pressure`).
    enabled: AtomicBool,
    /// Kinds whose beginning the thread that looks after triggers waits for.
    watched: AtomicU8,
}

/// The group of all tasks.
pub fn machine() -> &'static Arc<Group> {
    static MACHINE: OnceLock<Arc<Group>> = OnceLock::new();
    MACHINE.get_or_init(|| Group::new(None))
}

/// The machine has so many processors.
pub fn set_processors(n: usize) {
    PROCESSORS.store(u32::try_from(n).unwrap_or(u32::MAX), Ordering::Relaxed);
    machine().settle();
}

impl Group {
    fn new(parent: Option<Arc<Group>>) -> Arc<Group> {
        Arc::new(Group {
            parent,
            counts: AtomicU64::new(0),
            account: Mutex::new(Account::new(clock::now())),
            enabled: AtomicBool::new(true),
            watched: AtomicU8::new(0),
        })
    }

    /// A group directly below `parent`.
    pub fn below(parent: &Arc<Group>) -> Arc<Group> {
        Group::new(Some(parent.clone()))
    }

    /// Whether stalls are counted.
    pub fn is_enabled(&self) -> bool {
        self.enabled.load(Ordering::Relaxed)
    }

    /// Begins or ends to count stalls.
    pub fn enable(&self, on: bool) {
        self.enabled.store(on, Ordering::Relaxed);
        self.settle();
    }

    /// The lines of a resource at this moment: some tasks stalled, all stalled.
    pub fn lines(&self, resource: Resource) -> [Line; 2] {
        let a = self.account_until(clock::now());
        [false, true].map(|full| a.line(resource.kind(full)))
    }

    fn account(&self) -> MutexGuard<'_, Account<KINDS>> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account_until(&self, now: Instant) -> MutexGuard<'_, Account<KINDS>> {
        let mut a = self.account();
        let mask = a.mask();
        a.advance(now, mask);
        a
    }

    /// Stalled time of a kind, and whether it goes on.
    fn total(&self, kind: usize, now: Instant) -> (Duration, bool) {
        let a = self.account_until(now);
        (a.line(kind).total, a.mask() >> kind & 1 != 0)
    }

    /// Changes the counts of the group and those above by the sum of some units, which may be negative.
    fn change(&self, by: u64) {
        let processors = PROCESSORS.load(Ordering::Relaxed);
        let mut at = Some(self);
        while let Some(g) = at {
            let old = g.counts.fetch_add(by, Ordering::Relaxed);
            if mask(old, processors) != mask(old.wrapping_add(by), processors) {
                g.settle();
            }
            at = g.parent.as_deref();
        }
    }

    /// Something began or ended: what it is now is looked at with the lock, so that of two changes the later one counts.
    #[cold]
    fn settle(&self) {
        let mut a = self.account();
        let counts = self.counts.load(Ordering::SeqCst);
        let new = match self.is_enabled() {
            true => mask(counts, PROCESSORS.load(Ordering::Relaxed)),
            false => 0,
        };
        let began = new & !a.mask();
        a.advance(clock::now(), new);
        drop(a);
        if self.watched.load(Ordering::SeqCst) & began != 0 {
            trigger::look(self);
        }
    }
}

/// A task's place in the counts.
pub struct Member(Mutex<Place>);

struct Place {
    group: Arc<Group>,
    /// What it adds to the counts; 0 before its start, while it sleeps and after its end.
    adds: u64,
    /// It sleeps, and no signal ends that.
    stuck: bool,
}

impl Default for Member {
    fn default() -> Self {
        Member(Mutex::new(Place { group: machine().clone(), adds: 0, stuck: false }))
    }
}

impl Member {
    fn place(&self) -> MutexGuard<'_, Place> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, adds: u64, stuck: bool) {
        let mut p = self.place();
        let by = adds.wrapping_sub(p.adds);
        (p.adds, p.stuck) = (adds, stuck);
        if by != 0 {
            p.group.change(by);
        }
    }

    /// The task begins to run, or goes on to do so.
    pub fn runs(&self) {
        self.set(RUNNABLE, false);
    }

    /// The task is over.
    pub fn ends(&self) {
        self.set(0, false);
    }

    /// The task waits for storage or for something else that signals do not end ("disk sleep" of proc_pid_status(5)).
    pub fn is_stuck(&self) -> bool {
        let p = self.place();
        p.stuck || p.adds == IN_IO
    }

    /// The task is in `group` now.
    pub fn move_to(&self, group: &Arc<Group>) {
        let mut p = self.place();
        let old = std::mem::replace(&mut p.group, group.clone());
        if p.adds != 0 {
            group.change(p.adds);
            old.change(p.adds.wrapping_neg());
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A task that never came to its own end.
        self.ends();
    }
}

thread_local! {
    /// The task that this thread works for, or did last.
    static MEMBER: RefCell<Option<Arc<Member>>> = const { RefCell::new(None) };
    /// It does, and the task runs.
    static WORKS: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread works for `member`, which runs.
pub fn works_for(member: &Arc<Member>) {
    MEMBER.with_borrow_mut(|m| {
        if m.as_ref().is_none_or(|m| !Arc::ptr_eq(m, member)) {
            *m = Some(member.clone());
        }
    });
    WORKS.set(true);
}

/// The calling thread has worked for a task.
pub fn worked() {
    WORKS.set(false);
}

/// Ends when dropped.
pub struct Stall {
    works: bool,
}

impl Stall {
    fn begin(adds: u64, stuck: bool) -> Stall {
        let works = WORKS.replace(false);
        if works {
            MEMBER.with_borrow(|m| m.as_ref().inspect(|m| m.set(adds, stuck)).is_some());
        }
        Stall { works }
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        if self.works {
            MEMBER.with_borrow(|m| m.as_ref().inspect(|m| m.runs()).is_some());
            WORKS.set(true);
        }
    }
}

/// The task that the calling thread works for sleeps. Without a task, and within another stall, this and the following do
/// nothing.
pub fn sleep() -> Stall {
    Stall::begin(0, false)
}

/// As [`sleep`], and no signal ends that.
pub fn stuck() -> Stall {
    Stall::begin(0, true)
}

/// The task could run if its group's limit did not hold it.
pub fn held() -> Stall {
    Stall::begin(HELD, false)
}

/// The task waits for storage.
pub fn io() -> Stall {
    Stall::begin(IN_IO, false)
}

/// The task waits for memory, or works to get some back.
pub fn memory() -> Stall {
    Stall::begin(IN_MEMORY, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_told_by_the_counts() {
        let bits = |counts| {
            let m = mask(counts, 2);
            let names = ["cpu", "CPU", "memory", "MEMORY", "io", "IO"];
            let on = names.iter().enumerate().filter(|(n, _)| m >> n & 1 != 0);
            on.map(|(_, n)| *n).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(bits(0), "");
        assert_eq!(bits(2 * RUNNABLE), "");
        assert_eq!(bits(3 * RUNNABLE), "cpu");
        assert_eq!(bits(HELD), "cpu");
        assert_eq!(bits(IN_IO), "io IO");
        assert_eq!(bits(IN_IO + RUNNABLE), "io");
        assert_eq!(bits(5 * IN_MEMORY + 3 * IN_IO), "memory MEMORY io IO");
        assert_eq!(bits(IN_MEMORY + HELD), "cpu memory");
        assert_eq!(bits(65_535 * RUNNABLE + IN_IO), "cpu io");
    }

    #[test]
    fn a_task_stalls_in_one_way_at_a_time() {
        let top = Group::new(None);
        let group = Group::below(&top);
        let counts = || (top.counts.load(Ordering::SeqCst), group.counts.load(Ordering::SeqCst));
        drop(io());
        let member = Arc::new(Member::default());
        member.move_to(&group);
        assert_eq!(counts(), (0, 0));
        member.runs();
        works_for(&member);
        assert_eq!(counts(), (RUNNABLE, RUNNABLE));
        {
            let _outer = io();
            let _inner = sleep();
            assert_eq!(counts(), (IN_IO, IN_IO));
        }
        {
            let _sleep = sleep();
            assert_eq!(counts(), (0, 0));
            assert!(!member.is_stuck());
        }
        {
            let _stuck = stuck();
            assert_eq!(counts(), (0, 0));
            assert!(member.is_stuck());
        }
        assert!(!member.is_stuck());
        {
            let _io = io();
            // By the clock that stalls are measured with: others' tests stop it.
            let since = clock::now();
            while clock::now() - since < Duration::from_millis(20) {
                std::thread::yield_now();
            }
        }
        let stalled = group.lines(Resource::Io);
        assert!(stalled.iter().all(|l| l.total >= Duration::from_millis(20)), "{stalled:?}");
        worked();
        drop(memory());
        member.ends();
        assert_eq!(counts(), (0, 0));
        assert_eq!(group.lines(Resource::Memory)[0].total, Duration::ZERO);
    }

    #[test]
    fn a_stall_moves_with_its_task() {
        let top = Group::new(None);
        let groups = [Group::below(&top), Group::below(&top)];
        let full = |g: &Group| g.total(Resource::Io.kind(true), clock::now()).1;
        let (a, b) = (Member::default(), Member::default());
        a.move_to(&groups[0]);
        b.move_to(&groups[0]);
        a.set(IN_IO, false);
        b.runs();
        assert!(!full(&groups[0]) && !full(&top));
        a.move_to(&groups[1]);
        assert!(full(&groups[1]) && !full(&groups[0]) && !full(&top));
        groups[1].enable(false);
        assert!(!full(&groups[1]));
        groups[1].enable(true);
        drop(b);
        assert!(full(&groups[1]) && full(&top) && !full(&groups[0]));
        drop(a);
        assert!(!full(&groups[1]) && !full(&top));
    }

    #[test]
    fn a_trigger_tells_of_a_stall_that_goes_on() {
        let group = Group::new(None);
        let ms = Duration::from_millis;
        let t = Trigger::new(&group, Resource::Memory, false, ms(5), ms(500)).unwrap();
        let member = Member::default();
        member.move_to(&group);
        assert!(!t.take());
        member.set(IN_MEMORY, false);
        while !t.take() {
            std::thread::yield_now();
        }
        assert!(group.lines(Resource::Memory)[0].total >= ms(5));
    }
}
