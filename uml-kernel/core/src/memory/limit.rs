//! Limits on the memory of control groups: what the memory controller of cgroup v2 keeps
//! (Documentation/admin-guide/cgroup-v2.rst, "Memory").
//!
//! What counts is the anonymous memory of a group's processes, which only their end gives back. The page cache is
//! shared by all groups and gives way by itself. As with `mem=` a limit is watched, not charged: a group can exceed it
//! until the next sample. Beyond `memory.high` processes that grow are slowed down ([`super::high`]). There is no swap, so
//! nothing takes memory from a group, and what `memory.min` and `memory.low` promise is kept.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use uml_base::{Events, Mutex, Rank, WaitQueue};
use uml_mm::Mm;

use super::{anonymous, exact, spaces};
use crate::cgroup::Cgroup;
use crate::kernel::Kernel;
use crate::task::Task;

/// What happened in a group: rows of `memory.events`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A sample found more than the limit.
    Max,
    /// The limit could not be kept without killing.
    Oom,
    /// A process was killed.
    OomKill,
    /// The group was killed as a whole.
    OomGroupKill,
    /// A sample found more than `memory.high`, and processes were slowed down.
    High,
}

/// How many kinds of events there are.
const EVENTS: usize = 5;

/// Settings of a group, in bytes; `u64::MAX` for no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Max,
    High,
    Low,
    Min,
    SwapMax,
    SwapHigh,
}

impl Setting {
    /// What it is in a new group.
    fn initial(self) -> u64 {
        if matches!(self, Setting::Low | Setting::Min) { 0 } else { u64::MAX }
    }

    const ALL: [Setting; 6] = [
        Setting::Max,
        Setting::High,
        Setting::Low,
        Setting::Min,
        Setting::SwapMax,
        Setting::SwapHigh,
    ];
}

/// The memory controller's state of one group.
pub struct GroupMemory {
    settings: [AtomicU64; Setting::ALL.len()],
    /// The most that was seen in use.
    peak: AtomicU64,
    oom_group: AtomicBool,
    /// Of the group itself, and of it with all groups below.
    own: [AtomicU64; EVENTS],
    all: [AtomicU64; EVENTS],
    /// Woken when `memory.events` changes.
    pub changes: Arc<WaitQueue>,
}

impl Default for GroupMemory {
    fn default() -> Self {
        GroupMemory {
            settings: Setting::ALL.map(|s| AtomicU64::new(s.initial())),
            peak: AtomicU64::new(0),
            oom_group: AtomicBool::new(false),
            own: Default::default(),
            all: Default::default(),
            changes: WaitQueue::shared(),
        }
    }
}

impl GroupMemory {
    /// A setting in bytes; `None` for no limit.
    pub fn get(&self, setting: Setting) -> Option<u64> {
        let bytes = self.settings[setting as usize].load(Ordering::Relaxed);
        Some(bytes).filter(|b| *b != u64::MAX)
    }

    /// `memory.max` in bytes; `None` for no limit.
    pub fn max(&self) -> Option<u64> {
        self.get(Setting::Max)
    }

    /// The lower of `memory.max` and `memory.high`: where something happens first.
    fn first(&self) -> Option<u64> {
        [self.get(Setting::Max), self.get(Setting::High)].into_iter().flatten().min()
    }

    /// The most bytes that a sample or a reader ever found in use. Only groups with a limit are sampled.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// `memory.oom.group`: its processes live or die together.
    pub fn oom_group(&self) -> bool {
        self.oom_group.load(Ordering::Relaxed)
    }

    /// Changes `memory.oom.group`.
    pub fn set_oom_group(&self, on: bool) {
        self.oom_group.store(on, Ordering::Relaxed);
    }

    /// How often `event` happened in the group itself, or (`below`) in it and the groups below.
    pub fn count(&self, event: Event, below: bool) -> u64 {
        let cells = if below { &self.all } else { &self.own };
        cells[event as usize].load(Ordering::SeqCst)
    }

    /// All events so far, as a generation number.
    pub fn generation(&self) -> u64 {
        self.all.iter().map(|c| c.load(Ordering::SeqCst)).sum()
    }
}

/// Groups that have a limit.
pub(super) struct Limited(Mutex<Vec<Weak<Cgroup>>>);

impl Default for Limited {
    fn default() -> Self {
        Limited(Mutex::new(Rank::LEAF, Vec::new()))
    }
}

impl Limited {
    /// All of them; those that lost their limit or were removed are forgotten.
    pub(super) fn groups(&self) -> Vec<Arc<Cgroup>> {
        let mut list = self.0.lock();
        list.retain(|g| g.upgrade().is_some_and(|g| !g.is_removed() && g.memory.first().is_some()));
        list.iter().filter_map(Weak::upgrade).collect()
    }

    fn add(&self, group: &Arc<Cgroup>) {
        let mut list = self.0.lock();
        if !list.iter().any(|g| std::ptr::eq(g.as_ptr(), Arc::as_ptr(group))) {
            list.push(Arc::downgrade(group));
        }
    }
}

/// Changes a setting to `bytes`, rounded down to whole pages. More than a limit may be in use: the group is looked at now.
pub fn set(kernel: &Kernel, group: &Arc<Cgroup>, setting: Setting, bytes: Option<u64>) {
    let value = bytes.filter(|b| *b != u64::MAX).map_or(u64::MAX, |b| b & !(uml_mm::PAGE - 1));
    group.memory.settings[setting as usize].store(value, Ordering::Relaxed);
    if !matches!(setting, Setting::Max | Setting::High) {
        return;
    }
    if value != u64::MAX {
        kernel.memory.limited.add(group);
    }
    super::watch::reconsider();
}

/// The controller was taken from the group: its limits go.
pub fn reset(kernel: &Kernel, group: &Arc<Cgroup>) {
    for setting in Setting::ALL {
        set(kernel, group, setting, Some(setting.initial()));
    }
    group.memory.set_oom_group(false);
}

/// Bytes in use by the group and those below, pages that forks share counted once. The host walks page tables for this.
pub fn current(kernel: &Kernel, group: &Arc<Cgroup>) -> u64 {
    let bytes = members(kernel, group).iter().map(|(_, mm)| exact(mm)).sum();
    group.memory.peak.fetch_max(bytes, Ordering::Relaxed);
    bytes
}

/// Address spaces of the processes of the group and those below.
pub(super) fn members(kernel: &Kernel, group: &Arc<Cgroup>) -> Vec<(Arc<Task>, Arc<Mm>)> {
    let mut all = spaces(kernel);
    all.retain(|(t, _)| kernel.cgroups.of(&t.process).is_within(group));
    all
}

/// The lowest limit of `groups`: while programs cannot touch as much as that, none of them needs to be watched.
pub(super) fn lowest(groups: &[Arc<Cgroup>]) -> u64 {
    groups.iter().filter_map(|g| g.memory.first()).min().unwrap_or(u64::MAX)
}

/// Looks at `groups` and acts on what it finds. The least that any of them has left, in bytes.
pub(super) fn check(kernel: &Arc<Kernel>, groups: &[Arc<Cgroup>]) -> u64 {
    if groups.is_empty() {
        return u64::MAX;
    }
    let mut used = vec![0_u64; groups.len()];
    let mut grown = Vec::new();
    for (task, mm) in spaces(kernel) {
        let own = kernel.cgroups.of(&task.process);
        let mut bytes = None;
        for (n, g) in groups.iter().enumerate() {
            if own.is_within(g) {
                used[n] += *bytes.get_or_insert_with(|| anonymous(&mm));
            }
        }
        let more = bytes.map_or(0, |b| task.process.memory.growth_to(b));
        if more > 0 {
            grown.push((task, own, more));
        }
    }
    let left = groups.iter().zip(used).filter_map(|(g, used)| {
        let first = g.memory.first()?;
        // Pages that forks share were counted more than once.
        let used = if used > first { current(kernel, g) } else { used };
        if g.memory.max().is_some_and(|max| used > max) {
            super::oom::out_of_group(kernel, g);
        } else {
            g.memory.peak.fetch_max(used, Ordering::Relaxed);
        }
        if let Some(high) = g.memory.get(Setting::High).filter(|high| used > *high) {
            let of = grown.iter().filter(|(_, own, _)| own.is_within(g));
            if super::high::slow_down(kernel, of.map(|(t, _, more)| (t, *more)), used, high) {
                tell(kernel, g, Event::High);
            }
            // The next limit above is the one to watch for.
            return Some(g.memory.max()?.saturating_sub(used));
        }
        Some(first.saturating_sub(used))
    });
    left.min().unwrap_or(u64::MAX)
}

/// Counts an event of `group`.
pub(super) fn tell(kernel: &Kernel, group: &Arc<Cgroup>, event: Event) {
    group.memory.own[event as usize].fetch_add(1, Ordering::SeqCst);
    for g in group.chain() {
        g.memory.all[event as usize].fetch_add(1, Ordering::SeqCst);
        g.memory.changes.wake_all(Events::PRI | Events::ERR);
    }
    kernel.cgroups.tell(group, "memory.events.local", false);
    kernel.cgroups.tell(group, "memory.events", true);
}
