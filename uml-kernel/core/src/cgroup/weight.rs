//! Shares of CPU time: `cpu.weight` of cgroup v2 (Documentation/admin-guide/cgroup-v2.rst, "CPU").
//!
//! The host schedules threads and knows nothing of groups. Where weights of sibling groups differ, the thread that keeps limits
//! ([`super::bandwidth`]) compares what each of them used with its share of what all of them used, and has those that
//! are ahead rest at the edge of guest code while others run on every processor. The shares are of what the host gave, so they hold
//! on a loaded host too. Siblings whose weights are all the same compete as threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, clock};

use super::Cgroup;
use super::bandwidth::{Piece, Pieces, hold, total};
use crate::kernel::Kernel;
use crate::task::{RunState, Task};

/// The weight of a new group.
pub const DEFAULT: u64 = 100;
/// Bounds of weights.
const LEAST: u64 = 1;
const MOST: u64 = 10_000;
/// Between two looks while groups compete, and while a group runs that has no competition.
const WINDOW: Duration = Duration::from_millis(10);
const CALM: Duration = Duration::from_millis(100);
/// A group may be so far ahead of its share before it rests, and no group's claim is kept beyond [`CLAIM`].
const SLACK: i64 = 5_000_000;
const CLAIM: i64 = 200_000_000;

/// A group's part.
pub struct GroupWeight {
    weight: AtomicU64,
    /// Its tasks and those below rest for others.
    pub(super) yields: AtomicBool,
    /// The weights of the groups directly below differ.
    pub(super) contest: AtomicBool,
    account: Mutex<Account>,
}

impl Default for GroupWeight {
    fn default() -> Self {
        GroupWeight {
            weight: AtomicU64::new(DEFAULT),
            yields: AtomicBool::new(false),
            contest: AtomicBool::new(false),
            account: Mutex::new(Rank::LEAF, Account::default()),
        }
    }
}

impl GroupWeight {
    /// `cpu.weight`.
    pub fn get(&self) -> u64 {
        self.weight.load(Ordering::Relaxed)
    }
}

/// What the group used, and what it should have had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Account {
    /// CPU time at the last look, in ns; `None` before the first.
    seen: Option<u64>,
    /// Share less use; negative for a group that is ahead.
    credit: i64,
}

/// A competitor at one look.
#[derive(Clone, Copy, Debug)]
struct Rival {
    weight: u64,
    /// CPU time in ns so far.
    used: u64,
    /// Threads that run or would.
    width: usize,
    account: Account,
}

/// Settles the accounts of siblings.
fn settle(rivals: &mut [Rival]) {
    let spent = |r: &Rival| r.account.seen.map_or(0, |s| r.used.saturating_sub(s));
    let active = || rivals.iter().filter(|r| r.width > 0);
    let sum: u128 = active().map(|r| u128::from(spent(r))).sum();
    let weights: u128 = active().map(|r| u128::from(r.weight)).sum();
    for r in rivals {
        let spent = spent(r);
        r.account.seen = Some(r.used.max(r.account.seen.unwrap_or(0)));
        if r.width == 0 {
            // Who does not run has no claim.
            r.account.credit = 0;
            continue;
        }
        let share = i64::try_from(sum * u128::from(r.weight) / weights.max(1)).unwrap_or(CLAIM);
        let spent = i64::try_from(spent).unwrap_or(CLAIM);
        r.account.credit = (r.account.credit + share - spent).clamp(-CLAIM, CLAIM);
    }
}

/// Which of `rivals` rest, when `left` threads of the machine could run on `cpus` processors: those furthest ahead, as long as
/// every processor has something to do without them. `left` is without them then.
fn resting(rivals: &[Rival], resting_now: &[bool], left: &mut usize, cpus: usize) -> Vec<bool> {
    let mut order: Vec<usize> = (0..rivals.len()).collect();
    order.sort_by_key(|n| rivals[*n].account.credit);
    let mut rest = vec![false; rivals.len()];
    for n in order {
        let r = &rivals[n];
        let bound = if resting_now[n] { 0 } else { -SLACK };
        if r.account.credit < bound && *left >= r.width + cpus {
            rest[n] = true;
            *left -= r.width;
        }
    }
    rest
}

/// Groups whose children have different weights.
pub(super) struct Contests(Mutex<Vec<Weak<Cgroup>>>);

impl Default for Contests {
    fn default() -> Self {
        Contests(Mutex::new(Rank::LEAF, Vec::new()))
    }
}

/// Children that compete, in the order of their names.
fn children(parent: &Cgroup) -> Vec<Arc<Cgroup>> {
    parent.children.lock().values().cloned().collect()
}

impl Contests {
    /// Parents whose children's weights differ; where that is over, nobody rests any more.
    fn parents(&self, kernel: &Kernel) -> Vec<Arc<Cgroup>> {
        let all: Vec<Arc<Cgroup>> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        let (keep, over): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|g| !g.is_removed() && is_contest(g));
        for parent in &over {
            parent.weight.contest.store(false, Ordering::SeqCst);
            for c in children(parent) {
                c.weight.yields.store(false, Ordering::SeqCst);
                *c.weight.account.lock() = Account::default();
            }
            kernel.cgroups.bandwidth.release();
        }
        let gone = |g: &Weak<Cgroup>| {
            g.strong_count() == 0 || over.iter().any(|o| std::ptr::eq(g.as_ptr(), Arc::as_ptr(o)))
        };
        self.0.lock().retain(|g| !gone(g));
        keep
    }
}

/// Its children's weights are not all the default.
fn is_contest(parent: &Cgroup) -> bool {
    parent.children.lock().values().any(|c| c.weight.get() != DEFAULT)
}

/// Sets `cpu.weight`: `ERANGE` outside 1 to 10000. `EAGAIN` when the thread that keeps shares cannot be started.
pub fn set(kernel: &Arc<Kernel>, group: &Arc<Cgroup>, weight: u64) -> Result<()> {
    if !(LEAST..=MOST).contains(&weight) {
        return Err(ERANGE);
    }
    let Some(parent) = &group.parent else { return Err(EINVAL) };
    let bandwidth = &kernel.cgroups.bandwidth;
    if weight != DEFAULT {
        bandwidth.start(kernel)?;
    }
    group.weight.weight.store(weight, Ordering::Relaxed);
    parent.weight.contest.store(is_contest(parent), Ordering::SeqCst);
    {
        let mut list = bandwidth.contests.0.lock();
        if !list.iter().any(|g| std::ptr::eq(g.as_ptr(), Arc::as_ptr(parent))) {
            list.push(Arc::downgrade(parent));
        }
    }
    bandwidth.follow_again(kernel, parent);
    Ok(())
}

/// The weight of a nice value from -20 to 19: each step is a fourth more (sched(7)); `None` outside.
pub fn of_nice(nice: i64) -> Option<u64> {
    let steps = i32::try_from(nice).ok().filter(|n| (-20..=19).contains(n))?;
    Some((DEFAULT as f64 * 1.25_f64.powi(-steps)).round().max(1.0) as u64)
}

/// The nice value whose weight is closest.
pub fn nice(weight: u64) -> i64 {
    let distance = |n: &i64| of_nice(*n).map_or(u64::MAX, |w| w.abs_diff(weight));
    (-20..=19).min_by_key(distance).unwrap_or(0)
}

fn wants(task: &Task) -> bool {
    matches!(task.run_state(), RunState::Running | RunState::Throttled)
}

/// What every process does at one look, by group: its CPU time there, and its threads that run or would.
fn members(kernel: &Kernel) -> Vec<Piece> {
    let all: Vec<Pieces> = {
        let tree = kernel.tree.read();
        tree.processes().filter_map(|(_, p)| Pieces::of(p.threads.values())).collect()
    };
    all.iter().flat_map(|p| p.split(wants)).collect()
}

/// Looks at every contest: when to look again, `None` for once somebody runs.
pub(super) fn look(kernel: &Arc<Kernel>, contests: &Contests) -> Option<Instant> {
    // Outer contests first: who rests in one takes no part in those further in.
    let mut parents = contests.parents(kernel);
    parents.sort_by_key(|g| g.chain().count());
    if parents.is_empty() {
        return None;
    }
    let members = members(kernel);
    // Who has used up cpu.max does not compete.
    let held = |g: &Cgroup| g.chain().any(|g| g.cpu.is_throttled());
    let runnable: usize = members.iter().filter(|m| !held(&m.group)).map(|m| m.width).sum();
    let mut left = runnable;
    let mut next = None;
    for parent in parents {
        if parent.chain().any(|g| g.weight.yields.load(Ordering::SeqCst)) {
            continue;
        }
        let groups = children(&parent);
        let of = |g: &Arc<Cgroup>| {
            let inside = || members.iter().filter(|m| m.group.is_within(g));
            let width = if held(g) { 0 } else { inside().map(|m| m.width).sum() };
            let past = total(*g.past.lock());
            Rival {
                weight: g.weight.get(),
                used: past + inside().map(|m| m.used).sum::<u64>(),
                width,
                account: *g.weight.account.lock(),
            }
        };
        let mut rivals: Vec<Rival> = groups.iter().map(of).collect();
        settle(&mut rivals);
        let now: Vec<bool> =
            groups.iter().map(|g| g.weight.yields.load(Ordering::SeqCst)).collect();
        let rest = resting(&rivals, &now, &mut left, kernel.ncpus);
        for (n, g) in groups.iter().enumerate() {
            *g.weight.account.lock() = rivals[n].account;
            g.weight.yields.store(rest[n], Ordering::SeqCst);
            if rest[n] && !now[n] {
                hold(kernel, g);
            } else if now[n] && !rest[n] {
                kernel.cgroups.bandwidth.release();
            }
        }
        let competing = rivals.iter().filter(|r| r.width > 0).count();
        let pause = match competing {
            0 => continue,
            2.. if runnable > kernel.ncpus => WINDOW,
            _ => CALM,
        };
        let at = clock::now() + pause;
        next = Some(next.map_or(at, |n: Instant| n.min(at)));
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn rival(weight: u64, width: usize) -> Rival {
        let account = Account { seen: Some(0), credit: 0 };
        Rival { weight, used: 0, width, account }
    }

    /// Runs `rivals` on `cpus` processors in windows of 10 ms, threads sharing them evenly as the host does; what each used.
    fn contest(mut rivals: Vec<Rival>, cpus: usize, windows: usize) -> Vec<u64> {
        let mut rest = vec![false; rivals.len()];
        for _ in 0..windows {
            let running: usize =
                rivals.iter().zip(&rest).filter(|(_, r)| !**r).map(|(r, _)| r.width).sum();
            let each = (10 * MS * cpus as u64 / running.max(1) as u64).min(10 * MS);
            for (r, _) in rivals.iter_mut().zip(&rest).filter(|(_, r)| !**r) {
                r.used += each * r.width as u64;
            }
            settle(&mut rivals);
            let mut runnable = rivals.iter().map(|r| r.width).sum();
            rest = resting(&rivals, &rest, &mut runnable, cpus);
        }
        rivals.iter().map(|r| r.used).collect()
    }

    #[test]
    fn time_is_shared_by_weight() {
        let used = contest(vec![rival(50, 2), rival(100, 2), rival(150, 2)], 2, 1000);
        let sum: u64 = used.iter().sum();
        // But for the rounding of the windows' parts no processor was idle.
        assert!(sum.abs_diff(20_000 * MS) < MS, "{sum}");
        for (used, part) in used.iter().zip([1, 2, 3]) {
            let fair = sum * part / 6;
            assert!(used.abs_diff(fair) < fair / 20, "{used} of {fair}");
        }
    }

    #[test]
    fn no_processor_is_left_idle() {
        // One thread cannot use two processors, whatever its weight.
        let used = contest(vec![rival(10_000, 1), rival(1, 4)], 2, 100);
        assert_eq!(used.iter().sum::<u64>(), 2000 * MS);
        assert!(used[0] > 0 && used[1] > 0);
        // Without competition nobody rests.
        let used = contest(vec![rival(1, 2), rival(10_000, 0)], 2, 100);
        assert_eq!(used, [2000 * MS, 0]);
    }

    #[test]
    fn who_did_not_run_has_no_claim_afterwards() {
        let mut r = [rival(100, 2), rival(100, 0)];
        r[0].used = 500 * MS;
        settle(&mut r);
        assert_eq!((r[0].account.credit, r[1].account.credit), (0, 0));
    }

    #[test]
    fn nice_values_are_weights() {
        let pairs = [(0, 100), (-20, 8674), (19, 1), (1, 80), (-1, 125), (10, 11)];
        for (n, w) in pairs {
            assert_eq!(of_nice(n), Some(w), "{n}");
        }
        assert_eq!((of_nice(20), of_nice(-21)), (None, None));
        assert_eq!([100, 99, 10_000, 125, 50].map(nice), [0, 0, -20, -1, 3]);
    }
}
