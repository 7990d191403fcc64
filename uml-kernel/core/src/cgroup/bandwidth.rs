//! CPU time that groups may use at most: `cpu.max` of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst, "CPU").
//!
//! The host schedules, and needs no control groups of its own for this: one thread reads the CPU clocks of limited
//! groups' tasks when they could have used up what a period allows them, and has the tasks of a group that did rest at
//! the edge of guest code until the next period. What a group used beyond its share is taken from the periods that
//! follow, so the average is kept whatever the distance of two looks. While no limited task runs the thread sleeps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::thread::Thread;
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue, clock};

use super::{Cgroup, difference, io, weight};
use crate::kernel::Kernel;
use crate::memory::high;
use crate::task::{Process, RunState, Task, WaitKind, usage};

/// Default length of a period.
const PERIOD: Duration = Duration::from_millis(100);
/// Bounds of a period, and the least that can be granted in one.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(1);
/// Two looks are at least this far apart while a group runs.
const STEP: Duration = Duration::from_micros(500);

/// `cpu.max`: CPU time in each period; `None` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Max {
    pub quota: Option<Duration>,
    pub period: Duration,
}

impl Default for Max {
    fn default() -> Self {
        Max { quota: None, period: PERIOD }
    }
}

/// What `cpu.stat` says of the limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Periods that passed while the group ran, and those of them in which it was held.
    pub periods: u64,
    pub throttled: u64,
    /// How long it was held in all.
    pub throttled_time: Duration,
}

/// The limit of one group and how much of it is used.
#[derive(Default)]
struct State {
    max: Max,
    /// When the present period ends; `None` while the group is idle.
    end: Option<Instant>,
    /// The group's CPU time at the last look.
    seen: u64,
    /// Nanoseconds left in this period; negative for what was used too much.
    left: i64,
    /// Since when it is held.
    held: Option<Instant>,
    /// It was held in this period.
    hit: bool,
    stat: Stat,
}

/// What a look decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Decision {
    hold: bool,
    release: bool,
    /// When to look again; `None`: once somebody runs.
    next: Option<Instant>,
}

fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

impl State {
    /// The group has used `used` nanoseconds so far and `running` of its threads run, at most `cpus` of them at a time.
    fn look(&mut self, now: Instant, used: u64, running: usize, cpus: usize) -> Decision {
        let Some(quota) = self.max.quota.map(nanos) else {
            let release = self.let_go(now);
            return Decision { release, ..Decision::default() };
        };
        let delta = used.saturating_sub(self.seen);
        // A process that ends is missing for a moment: what was seen was used.
        self.seen = self.seen.max(used);
        let end = match self.end {
            None if running == 0 => return Decision::default(),
            None => {
                // What it used on the way from idleness to this look counts.
                self.left = quota.saturating_sub(i64::try_from(delta).unwrap_or(i64::MAX));
                self.hit = false;
                now + self.max.period
            }
            Some(end) => {
                self.left = self.left.saturating_sub(i64::try_from(delta).unwrap_or(i64::MAX));
                self.periods_until(now, end, quota)
            }
        };
        self.end = Some(end);
        let release = self.left > 0 && self.let_go(now);
        let hold = self.held.is_none() && self.left <= 0;
        if hold {
            self.held = Some(now);
            self.hit = true;
        }
        if self.held.is_none() && running == 0 && self.left >= quota {
            self.end = None;
            return Decision { hold, release, next: None };
        }
        let next = if self.held.is_some() || running == 0 {
            end
        } else {
            let soonest = self.left.unsigned_abs() / running.min(cpus).max(1) as u64;
            end.min(now + Duration::from_nanos(soonest).max(STEP))
        };
        Decision { hold, release, next: Some(next) }
    }

    /// Counts the periods that are over; the end of the present one.
    fn periods_until(&mut self, now: Instant, end: Instant, quota: i64) -> Instant {
        let Some(late) = now.checked_duration_since(end) else { return end };
        let n = late.as_nanos() / self.max.period.as_nanos() + 1;
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        self.stat.periods += u64::from(n);
        if self.hit {
            self.stat.throttled += if self.held.is_some() { u64::from(n) } else { 1 };
        }
        self.hit = self.held.is_some();
        self.left = self.left.saturating_add(quota.saturating_mul(i64::from(n))).min(quota);
        end + self.max.period.saturating_mul(n)
    }

    /// It is held no longer; returns whether it was.
    fn let_go(&mut self, now: Instant) -> bool {
        let Some(since) = self.held.take() else { return false };
        self.stat.throttled_time += now.saturating_duration_since(since);
        // The period that begins now is a new one.
        self.hit = false;
        true
    }
}

/// The CPU controller's state of a group.
pub struct GroupCpu {
    state: Mutex<State>,
    /// There is a limit.
    limited: AtomicBool,
    /// Its tasks and those below rest.
    throttled: AtomicBool,
}

impl Default for GroupCpu {
    fn default() -> Self {
        GroupCpu {
            state: Mutex::new(Rank::LEAF, State::default()),
            limited: AtomicBool::new(false),
            throttled: AtomicBool::new(false),
        }
    }
}

impl GroupCpu {
    /// `cpu.max`.
    pub fn max(&self) -> Max {
        self.state.lock().max
    }

    /// The group has used up what it may in this period.
    pub(super) fn is_throttled(&self) -> bool {
        self.throttled.load(Ordering::SeqCst)
    }

    /// What was counted; a group that is held now counts up to now.
    pub fn stat(&self) -> Stat {
        let s = self.state.lock();
        let mut stat = s.stat;
        if let Some(since) = s.held {
            stat.throttled_time += clock::since(since);
        }
        stat
    }
}

/// A process's part in this.
pub struct ProcessCpu {
    /// Its group or one above has a limit, or competes by weight.
    limited: AtomicBool,
    /// Its tasks may have to rest: they look before they go back to guest code.
    pub(crate) check: AtomicBool,
    /// The latest of its threads' rests for `io.max`.
    pub(super) io_rest: Mutex<Option<Instant>>,
}

impl Default for ProcessCpu {
    fn default() -> Self {
        ProcessCpu {
            limited: AtomicBool::new(false),
            check: AtomicBool::new(false),
            io_rest: Mutex::new(Rank::LEAF, None),
        }
    }
}

impl ProcessCpu {
    /// A group it is in has a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Relaxed)
    }
}

impl Process {
    /// The process, or a thread of it, is in another group now, or limits changed.
    pub(super) fn follow_limits(&self) {
        let limited = |g: &Cgroup| {
            [&g.cpu.limited, &g.weight.contest].iter().any(|f| f.load(Ordering::SeqCst))
        };
        self.cpu.limited.store(self.any_group(limited), Ordering::SeqCst);
        self.cpu.check.store(self.any_group(rests), Ordering::SeqCst);
    }
}

/// The tasks of the group and those below have to rest.
fn rests(group: &Cgroup) -> bool {
    group.cpu.is_throttled() || group.weight.yields.load(Ordering::SeqCst)
}

/// Looks after all limited groups of the machine.
pub struct Bandwidth {
    groups: Mutex<Vec<Weak<Cgroup>>>,
    pub(super) contests: weight::Contests,
    thread: Mutex<Option<Thread>>,
    /// The thread sleeps until somebody runs.
    parked: AtomicBool,
    /// Held tasks sleep here.
    pub(super) released: Arc<WaitQueue>,
}

impl Default for Bandwidth {
    fn default() -> Self {
        Bandwidth {
            groups: Mutex::new(Rank::LEAF, Vec::new()),
            contests: weight::Contests::default(),
            thread: Mutex::new(Rank::LEAF, None),
            parked: AtomicBool::new(false),
            released: WaitQueue::shared(),
        }
    }
}

/// Sets `cpu.max`: `EINVAL` for a period outside 1 ms to 1 s, or less than 1 ms in one. `EAGAIN` when the thread that
/// keeps limits cannot be started.
pub fn set_max(kernel: &Arc<Kernel>, group: &Arc<Cgroup>, max: Max) -> Result<()> {
    let too_little =
        max.quota.is_some_and(|q| q < SHORTEST || i64::try_from(q.as_nanos()).is_err());
    if !(SHORTEST..=LONGEST).contains(&max.period) || too_little {
        return Err(EINVAL);
    }
    let bandwidth = &kernel.cgroups.bandwidth;
    if max.quota.is_some() {
        bandwidth.start(kernel)?;
    }
    let used = total(kernel.cgroups.usage(kernel, group));
    {
        let mut s = group.cpu.state.lock();
        s.max = max;
        s.seen = used;
        s.end = None;
    }
    group.cpu.limited.store(max.quota.is_some(), Ordering::SeqCst);
    {
        let mut list = bandwidth.groups.lock();
        if !list.iter().any(|g| std::ptr::eq(g.as_ptr(), Arc::as_ptr(group))) {
            list.push(Arc::downgrade(group));
        }
    }
    bandwidth.follow_again(kernel, group);
    Ok(())
}

/// CPU time in ns.
pub(super) fn total(u: crate::task::process::Usage) -> u64 {
    u.user_ns + u.system_ns
}

/// The live threads of a process.
pub(super) struct Pieces(Vec<Arc<Task>>);

/// What a process does in one group.
pub(super) struct Piece {
    pub group: Arc<Cgroup>,
    /// CPU time there, in ns.
    pub used: u64,
    /// Threads that count.
    pub width: usize,
}

impl Pieces {
    /// `None` for a process without any.
    pub(super) fn of<'a>(threads: impl Iterator<Item = &'a Arc<Task>>) -> Option<Pieces> {
        let all: Vec<Arc<Task>> = threads.cloned().collect();
        (!all.is_empty()).then_some(Pieces(all))
    }

    /// What it does in each of its groups: in its domain all that is not done in a threaded group. `counts` says which threads
    /// count for [`Piece::width`].
    pub(super) fn split(&self, counts: impl Fn(&Task) -> bool) -> Vec<Piece> {
        let one = &self.0[0];
        let (domain, before, places) = {
            let m = one.process.cgroup.lock();
            let Some(g) = m.group.clone() else { return Vec::new() };
            (g, m.before, m.threads.clone())
        };
        let mut rest = Piece {
            group: domain,
            used: total(difference(usage::of_process(one), &before)),
            width: 0,
        };
        let mut out = Vec::new();
        for t in &self.0 {
            let width = usize::from(counts(t));
            let Some(place) = places.get(&t.tid) else {
                rest.width += width;
                continue;
            };
            let used = total(difference(usage::of_task(t), &place.before));
            rest.used = rest.used.saturating_sub(used);
            out.push(Piece { group: place.group.clone(), used, width });
        }
        out.push(rest);
        out
    }
}

/// A group with a limit and what its tasks do.
struct Sample {
    group: Arc<Cgroup>,
    used: u64,
    running: usize,
}

impl Bandwidth {
    /// A task runs: its group may have to be watched again.
    pub(crate) fn runs(&self, process: &Process) {
        if process.cpu.is_limited() && self.parked.load(Ordering::SeqCst) {
            self.look_now();
        }
    }

    /// A process changed its group.
    pub(super) fn moved(&self, process: &Process) {
        self.release();
        self.runs(process);
    }

    fn look_now(&self) {
        self.parked.store(false, Ordering::SeqCst);
        let thread = self.thread.lock().clone();
        if let Some(t) = thread {
            t.unpark();
        }
    }

    /// Limits of `group` changed.
    pub(super) fn follow_again(&self, kernel: &Kernel, group: &Arc<Cgroup>) {
        for t in kernel.cgroups.tasks(kernel, group, true) {
            t.process.follow_limits();
        }
        self.look_now();
    }

    /// Those who rest look whether they still must.
    pub(super) fn release(&self) {
        self.released.wake_all(Events::ALL);
    }

    pub(super) fn start(&self, kernel: &Arc<Kernel>) -> Result<()> {
        let mut thread = self.thread.lock();
        if thread.is_none() {
            let kernel = Arc::downgrade(kernel);
            let b = std::thread::Builder::new().name("cpu bandwidth".into());
            let handle = b.spawn(move || run(&kernel)).map_err(|_| EAGAIN)?;
            *thread = Some(handle.thread().clone());
        }
        Ok(())
    }

    /// The groups to look at; those without a limit are forgotten once they hold nobody.
    fn groups(&self) -> Vec<Arc<Cgroup>> {
        let mut list = self.groups.lock();
        list.retain(|g| {
            g.upgrade().is_some_and(|g| {
                let c = &g.cpu;
                let flags = [&c.limited, &c.throttled];
                !g.is_removed() && flags.iter().any(|f| f.load(Ordering::SeqCst))
            })
        });
        list.iter().filter_map(Weak::upgrade).collect()
    }

    fn sample(&self, kernel: &Kernel) -> Vec<Sample> {
        let groups = self.groups();
        if groups.is_empty() {
            return Vec::new();
        }
        let of = |group: Arc<Cgroup>| {
            let used = total(*group.past.lock());
            Sample { group, used, running: 0 }
        };
        let mut samples: Vec<Sample> = groups.into_iter().map(of).collect();
        let members: Vec<Pieces> = {
            let tree = kernel.tree.read();
            let limited = tree.processes().filter(|(_, p)| {
                p.process.cpu.limited.load(Ordering::Relaxed)
                    || p.process.cpu.check.load(Ordering::Relaxed)
            });
            limited.filter_map(|(_, p)| Pieces::of(p.threads.values())).collect()
        };
        let running = |t: &Task| t.run_state() == RunState::Running;
        for piece in members.iter().flat_map(|m| m.split(running)) {
            for s in samples.iter_mut().filter(|s| piece.group.is_within(&s.group)) {
                s.used += piece.used;
                s.running += piece.width;
            }
        }
        samples
    }

    /// Looks at every limited group; when to look again.
    fn look(&self, kernel: &Arc<Kernel>) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for s in self.sample(kernel) {
            let cpu = &s.group.cpu;
            let d = cpu.state.lock().look(clock::now(), s.used, s.running, kernel.ncpus);
            if d.release {
                cpu.throttled.store(false, Ordering::SeqCst);
                self.release();
            }
            if d.hold {
                cpu.throttled.store(true, Ordering::SeqCst);
                hold(kernel, &s.group);
            }
            next = [next, d.next].into_iter().flatten().min();
        }
        let shares = weight::look(kernel, &self.contests);
        [next, shares].into_iter().flatten().min()
    }
}

/// Gets the tasks of a group out of guest code. Those that sleep in the kernel find out when they go back.
pub(super) fn hold(kernel: &Kernel, group: &Arc<Cgroup>) {
    for t in kernel.cgroups.tasks(kernel, group, true) {
        t.process.cpu.check.store(true, Ordering::SeqCst);
        t.kick_out();
    }
}

/// Sleeps while a group of the task has used up its CPU time or what it may do to a disk, or has more memory than it should.
pub(crate) fn rest_while_throttled(task: &Task) {
    let process = &task.process;
    high::rest(task);
    io::rest(task);
    let queue = &task.kernel().cgroups.bandwidth.released;
    let over = || (!task.in_group(rests)).then_some(());
    // A task that is killed leaves at once.
    let _ = task.wait(queue, Events::ALL, WaitKind::Throttled, None, "throttle_cfs_rq", over);
    process.cpu.check.store(false, Ordering::SeqCst);
    // The group may have been held again in between, or holds another thread.
    if process.any_group(rests) || high::is_resting(task) || io::is_resting(task) {
        process.cpu.check.store(true, Ordering::SeqCst);
    }
}

fn run(kernel: &Weak<Kernel>) {
    loop {
        let Some(k) = kernel.upgrade() else { return };
        let b = &k.cgroups.bandwidth;
        let mut next = b.look(&k);
        if next.is_none() {
            b.parked.store(true, Ordering::SeqCst);
            // Who began to run before the mark was there is seen here.
            next = b.look(&k);
            if next.is_some() {
                b.parked.store(false, Ordering::SeqCst);
            }
        }
        drop(k);
        match next {
            None => std::thread::park(),
            // No moment comes nearer while the machine stands still; nobody uses anything either.
            Some(_) if clock::is_stopped() => std::thread::park_timeout(LONGEST),
            Some(at) => {
                std::thread::park_timeout(at.saturating_duration_since(clock::now()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn limited(quota_ms: u64) -> State {
        let max = Max { quota: Some(Duration::from_millis(quota_ms)), period: PERIOD };
        State { max, ..State::default() }
    }

    #[test]
    fn a_busy_group_gets_its_share_and_pays_for_what_it_took_too_much() {
        let mut s = limited(20);
        let t = Instant::now();
        let at = |ms: u64| t + Duration::from_millis(ms);
        let d = s.look(at(0), 0, 1, 2);
        assert_eq!((d.hold, d.next), (false, Some(at(20))));
        // The look came late: 30 ms were used.
        let d = s.look(at(30), 30 * MS, 1, 2);
        assert_eq!((d.hold, d.next), (true, Some(at(100))));
        let d = s.look(at(100), 30 * MS, 0, 2);
        assert!(d.release && !d.hold);
        // The debt is taken from the second period.
        let d = s.look(at(100), 30 * MS, 1, 2);
        assert_eq!(d.next, Some(at(110)));
        let d = s.look(at(110), 40 * MS, 1, 2);
        assert!(d.hold);
        let d = s.look(at(200), 40 * MS, 0, 2);
        assert!(d.release);
        let stat = Stat { periods: 2, throttled: 2, throttled_time: Duration::from_millis(160) };
        assert_eq!(s.stat, stat);
    }

    #[test]
    fn an_idle_group_wakes_nobody() {
        let mut s = limited(50);
        let t = Instant::now();
        assert_eq!(s.look(t, 5, 0, 2), Decision::default());
        assert!(s.look(t, 5, 1, 2).next.is_some());
        let d = s.look(t + PERIOD, 10, 0, 2);
        // All of it is there again: nothing to look for.
        assert_eq!(d, Decision::default());
        assert_eq!(s.stat.periods, 1);
    }

    #[test]
    fn several_threads_use_it_up_sooner_and_no_limit_lets_go() {
        let mut s = limited(40);
        let t = Instant::now();
        let d = s.look(t, 0, 8, 2);
        assert_eq!(d.next, Some(t + Duration::from_millis(20)));
        assert!(s.look(t + Duration::from_millis(30), 60 * MS, 8, 2).hold);
        s.max.quota = None;
        assert!(s.look(t + Duration::from_millis(40), 60 * MS, 0, 2).release);
        assert_eq!(s.stat.throttled_time, Duration::from_millis(10));
    }

    #[test]
    fn a_long_debt_holds_for_several_periods() {
        let mut s = limited(10);
        let t = Instant::now();
        s.look(t, 0, 1, 1);
        assert!(s.look(t + PERIOD / 2, 45 * MS, 1, 1).hold);
        for n in 1..=3 {
            let d = s.look(t + PERIOD * n, 45 * MS, 0, 1);
            assert!(!d.release, "period {n}");
        }
        assert!(s.look(t + PERIOD * 4, 45 * MS, 0, 1).release);
        assert_eq!((s.stat.periods, s.stat.throttled), (4, 4));
    }
}
