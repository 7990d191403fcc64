//! Control groups (cgroups(7), version 2): the hierarchy, who is in which group, and what tasks need of it: the pids
//! controller, the freezer, accounting. The files are procfs's (`uml-procfs`, cgroup).
//!
//! A process belongs to one group with all its threads, unless that is the root of threaded ones ([`threaded`]). Controllers
//! that are offered work; a limit that nothing would enforce has no file.
//!
//! Lock order: the hierarchy's lock is taken before the process tree.

pub mod bandwidth;
pub mod io;
pub mod threaded;
pub mod weight;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, Rank, WaitQueue, pressure};

use crate::kernel::Kernel;
use crate::memory::limit::GroupMemory;
use crate::task::process::Usage;
use crate::task::{Process, RunState, Task, WaitKind, usage};
use bandwidth::{Bandwidth, GroupCpu};

/// Controllers by name, with their bits; the order of `cgroup.controllers`.
pub const CONTROLLERS: [(&str, u32); 4] =
    [("cpu", CPU), ("io", IO), ("memory", MEMORY), ("pids", PIDS)];
/// Accounting and limits of memory ([`crate::memory::limit`]).
pub const MEMORY: u32 = 1 << 0;
/// Limit on the number of tasks.
pub const PIDS: u32 = 1 << 1;
/// Limits of CPU time ([`bandwidth`]).
pub const CPU: u32 = 1 << 2;

/// Accounts of block devices ([`io`]).
pub const IO: u32 = 1 << 3;

/// No limit.
const UNLIMITED: i64 = i64::MAX;

/// The pids controller of a group; counts include the groups below.
pub struct Pids {
    current: AtomicI64,
    peak: AtomicI64,
    max: AtomicI64,
    /// Times a fork failed on this group's limit (`pids.events`).
    refused: AtomicU64,
}

impl Pids {
    /// Tasks in the group and below, and the most there ever were.
    pub fn current(&self) -> (i64, i64) {
        (self.current.load(Ordering::SeqCst), self.peak.load(Ordering::Relaxed))
    }

    /// The limit; `None` for none.
    pub fn max(&self) -> Option<i64> {
        Some(self.max.load(Ordering::Relaxed)).filter(|m| *m != UNLIMITED)
    }

    /// Changes the limit. Tasks that are there stay.
    pub fn set_max(&self, max: Option<i64>) {
        self.max.store(max.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// Forks that the limit refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// A control group.
pub struct Cgroup {
    /// Inode number of its directory; never reused.
    pub id: u64,
    pub name: Vec<u8>,
    /// `None` for the root.
    pub parent: Option<Arc<Cgroup>>,
    pub pids: Pids,
    pub memory: GroupMemory,
    pub cpu: GroupCpu,
    pub io: io::GroupIo,
    pub weight: weight::GroupWeight,
    /// Stalls of its tasks and those below.
    pub pressure: Arc<pressure::Group>,
    children: Mutex<BTreeMap<Vec<u8>, Arc<Cgroup>>>,
    /// Controllers enabled for the children (`cgroup.subtree_control`).
    subtree_control: AtomicU32,
    /// `cgroup.freeze`.
    freeze: AtomicBool,
    /// Threads of the processes of the domain above may be in it.
    threaded: AtomicBool,
    /// Live processes in the group itself, and with all groups below; threads in threaded groups.
    own: AtomicUsize,
    all: AtomicUsize,
    /// CPU time of processes that left or ended, groups below included.
    past: Mutex<Usage>,
    /// `cgroup.max.descendants` and `cgroup.max.depth`; negative for none.
    pub max_descendants: AtomicI64,
    pub max_depth: AtomicI64,
    removed: AtomicBool,
    /// Frozen tasks sleep here.
    thaw: Arc<WaitQueue>,
    /// Woken when `cgroup.events` changes.
    pub events: Arc<WaitQueue>,
    /// Counts those changes.
    pub events_seen: AtomicU64,
}

impl Cgroup {
    fn new(id: u64, name: &[u8], parent: Option<Arc<Cgroup>>) -> Arc<Cgroup> {
        let pressure = match &parent {
            Some(p) => pressure::Group::below(&p.pressure),
            None => pressure::machine().clone(),
        };
        Arc::new(Cgroup {
            id,
            name: name.to_vec(),
            parent,
            pressure,
            pids: Pids {
                current: AtomicI64::new(0),
                peak: AtomicI64::new(0),
                max: AtomicI64::new(UNLIMITED),
                refused: AtomicU64::new(0),
            },
            memory: GroupMemory::default(),
            cpu: GroupCpu::default(),
            io: io::GroupIo::default(),
            weight: weight::GroupWeight::default(),
            children: Mutex::new(Rank::LEAF, BTreeMap::new()),
            subtree_control: AtomicU32::new(0),
            freeze: AtomicBool::new(false),
            threaded: AtomicBool::new(false),
            own: AtomicUsize::new(0),
            all: AtomicUsize::new(0),
            past: Mutex::new(Rank::LEAF, Usage::default()),
            max_descendants: AtomicI64::new(-1),
            max_depth: AtomicI64::new(-1),
            removed: AtomicBool::new(false),
            thaw: WaitQueue::shared(),
            events: WaitQueue::shared(),
            events_seen: AtomicU64::new(0),
        })
    }

    /// The group and its ancestors, innermost first.
    pub fn chain(&self) -> impl Iterator<Item = &Cgroup> {
        std::iter::successors(Some(self), |g| g.parent.as_deref())
    }

    /// Path from the root (`/system.slice/a.service`).
    pub fn path(&self) -> Vec<u8> {
        let names: Vec<&Cgroup> = self.chain().filter(|g| g.parent.is_some()).collect();
        let mut out = Vec::new();
        for g in names.iter().rev() {
            out.push(b'/');
            out.extend_from_slice(&g.name);
        }
        if out.is_empty() {
            out.push(b'/');
        }
        out
    }

    /// Path from `root` (cgroup_namespaces(7)): with `/..` for each level above it.
    pub fn path_from(&self, root: &Cgroup) -> Vec<u8> {
        let own: Vec<&Cgroup> = self.chain().collect();
        let Some((up, common)) = root
            .chain()
            .enumerate()
            .find_map(|(n, g)| own.iter().position(|o| std::ptr::eq(*o, g)).map(|at| (n, at)))
        else {
            return self.path();
        };
        let mut out = b"/..".repeat(up);
        for g in own[..common].iter().rev() {
            out.push(b'/');
            out.extend_from_slice(&g.name);
        }
        if out.is_empty() {
            out.push(b'/');
        }
        out
    }

    /// The groups directly below.
    pub fn children(&self) -> Vec<Arc<Cgroup>> {
        self.children.lock().values().cloned().collect()
    }

    /// The group `name` directly below.
    pub fn child(&self, name: &[u8]) -> Option<Arc<Cgroup>> {
        self.children.lock().get(name).cloned()
    }

    /// The group and every group below it, parents first.
    pub fn subtree(self: &Arc<Cgroup>) -> Vec<Arc<Cgroup>> {
        let mut out = vec![self.clone()];
        let mut i = 0;
        while i < out.len() {
            let below = out[i].children();
            out.extend(below);
            i += 1;
        }
        out
    }

    /// True when `self` is `top` or below it.
    pub fn is_within(&self, top: &Cgroup) -> bool {
        self.chain().any(|g| std::ptr::eq(g, top))
    }

    /// Controllers the group may enable for its children (`cgroup.controllers`).
    pub fn controllers(&self) -> u32 {
        let threaded = if self.is_threaded() { threaded::THREADED } else { u32::MAX };
        match &self.parent {
            Some(p) => p.subtree_control.load(Ordering::Relaxed) & threaded,
            None => CONTROLLERS.iter().map(|c| c.1).sum(),
        }
    }

    /// `cgroup.subtree_control`.
    pub fn subtree_control(&self) -> u32 {
        self.subtree_control.load(Ordering::Relaxed)
    }

    /// True while a live process is in the group or below.
    pub fn populated(&self) -> bool {
        self.all.load(Ordering::SeqCst) != 0
    }

    /// `cgroup.freeze` of the group itself.
    pub fn freeze(&self) -> bool {
        self.freeze.load(Ordering::SeqCst)
    }

    /// True when its tasks are to be frozen, by itself or an ancestor.
    pub fn is_freezing(&self) -> bool {
        self.chain().any(Cgroup::freeze)
    }

    /// True once it was removed.
    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    /// Charges a task to the group and its ancestors; `EAGAIN` beyond a limit unless `forced`.
    fn charge(self: &Arc<Cgroup>, forced: bool) -> Result<PidCharge> {
        for (n, g) in self.chain().enumerate() {
            let now = g.pids.current.fetch_add(1, Ordering::SeqCst) + 1;
            if now > g.pids.max.load(Ordering::Relaxed) && !forced {
                g.pids.refused.fetch_add(1, Ordering::Relaxed);
                for back in self.chain().take(n + 1) {
                    back.pids.current.fetch_sub(1, Ordering::SeqCst);
                }
                return Err(EAGAIN);
            }
            g.pids.peak.fetch_max(now, Ordering::Relaxed);
        }
        Ok(PidCharge(self.clone()))
    }
}

/// A task's place in the pids counts; given back when dropped.
pub struct PidCharge(Arc<Cgroup>);

impl Drop for PidCharge {
    fn drop(&mut self) {
        for g in self.0.chain() {
            g.pids.current.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

/// A process's group, and the CPU time it had spent when it came.
#[derive(Default)]
pub struct Membership {
    /// Never a threaded one.
    group: Option<Arc<Cgroup>>,
    before: Usage,
    /// By number, the threads that are in threaded groups below.
    threads: BTreeMap<i32, threaded::ThreadPlace>,
    /// Counted in the group's processes.
    counted: bool,
}

/// Told when the file `file` of a group changes by itself; called without locks.
pub trait CgroupListener: Send + Sync {
    fn changed(&self, group: &Arc<Cgroup>, file: &'static str);
}

/// The machine's hierarchy.
pub struct Cgroups {
    root: Arc<Cgroup>,
    /// Held while groups come and go and processes move.
    lock: Mutex<()>,
    next_id: AtomicU64,
    listener: OnceLock<Arc<dyn CgroupListener>>,
    pub(crate) bandwidth: Bandwidth,
}

impl Default for Cgroups {
    fn default() -> Self {
        Cgroups {
            root: Cgroup::new(1, b"", None),
            lock: Mutex::new(Rank::CGROUP, ()),
            next_id: AtomicU64::new(2),
            listener: OnceLock::new(),
            bandwidth: Bandwidth::default(),
        }
    }
}

fn difference(now: Usage, before: &Usage) -> Usage {
    Usage {
        user_ns: now.user_ns.saturating_sub(before.user_ns),
        system_ns: now.system_ns.saturating_sub(before.system_ns),
        minflt: now.minflt.saturating_sub(before.minflt),
        majflt: now.majflt.saturating_sub(before.majflt),
        ..Usage::default()
    }
}

impl Cgroups {
    /// The root group.
    pub fn root(&self) -> &Arc<Cgroup> {
        &self.root
    }

    /// Sets who is told of events, once.
    pub fn set_listener(&self, l: Arc<dyn CgroupListener>) {
        let _ = self.listener.set(l);
    }

    /// The group of a process as a whole: its domain.
    pub fn of(&self, p: &Process) -> Arc<Cgroup> {
        p.cgroup.lock().group.clone().unwrap_or_else(|| self.root.clone())
    }

    fn announce(&self, group: &Cgroup) {
        for g in group.chain() {
            g.events_seen.fetch_add(1, Ordering::SeqCst);
            g.events.wake_all(Events::PRI | Events::ERR);
        }
        self.tell(group, "cgroup.events", true);
    }

    /// Tells who watches that a file of the group changed, and (`above`) the same file of every group above.
    pub(crate) fn tell(&self, group: &Cgroup, file: &'static str, above: bool) {
        let Some(l) = self.listener.get() else { return };
        let mut at = self.find(group);
        while let Some(g) = at {
            l.changed(&g, file);
            at = g.parent.clone().filter(|_| above);
        }
    }

    fn find(&self, group: &Cgroup) -> Option<Arc<Cgroup>> {
        let mut at = self.root.clone();
        let path = group.path();
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at = at.child(name)?;
        }
        Some(at)
    }

    /// Counts a process in or out of the group; true when that changed whether some group is populated.
    fn count(group: &Cgroup, enter: bool) -> bool {
        let mut changed = false;
        for (n, g) in group.chain().enumerate() {
            let cells = if n == 0 { &[&g.own, &g.all][..] } else { &[&g.all][..] };
            for (i, c) in cells.iter().enumerate() {
                let was = if enter {
                    c.fetch_add(1, Ordering::SeqCst)
                } else {
                    c.fetch_sub(1, Ordering::SeqCst)
                };
                let total = i + 1 == cells.len();
                changed |= total && was == usize::from(!enter);
            }
        }
        changed
    }

    /// A task was made by `parent`, in a process of its own when `new_process`, which may start in another group (`into`).
    /// `EAGAIN` when a limit of the pids controller is reached (fork(2)); for another group as [`Cgroups::migrate`], and
    /// `EOPNOTSUPP` for a thread that would leave its process's domain.
    pub(crate) fn forked(
        &self,
        parent: &Task,
        into: Option<Arc<Cgroup>>,
        child: &Task,
        new_process: bool,
    ) -> Result<()> {
        let changed = {
            let _guard = self.lock.lock();
            let own = self.of_task(parent);
            let group = into.unwrap_or_else(|| own.clone());
            let domain = group.domain();
            if !Arc::ptr_eq(&group, &own) {
                group.check_target()?;
                if !new_process && !Arc::ptr_eq(&self.of(&parent.process), &domain) {
                    return Err(EOPNOTSUPP);
                }
            }
            *child.charge.lock() = Some(group.charge(false)?);
            child.pressure.move_to(&group.pressure);
            let mut changed = false;
            if new_process {
                let mut m = child.process.cgroup.lock();
                m.group = Some(domain.clone());
                m.counted = true;
                drop(m);
                changed = Cgroups::count(&domain, true);
            }
            changed |= self.place_thread(child, &group, Usage::default());
            if new_process || group.is_threaded() {
                child.process.follow_limits();
                self.bandwidth.runs(&child.process);
            }
            changed.then_some(group)
        };
        if let Some(g) = changed {
            self.announce(&g);
        }
        Ok(())
    }

    /// The first process of the machine joins the root.
    pub fn enter_root(&self, task: &Task) {
        let _guard = self.lock.lock();
        let mut m = task.process.cgroup.lock();
        if !m.counted {
            m.counted = true;
            m.group = Some(self.root.clone());
            drop(m);
            Cgroups::count(&self.root, true);
        }
    }

    /// The last thread of a process is gone.
    pub(crate) fn exited(&self, process: &Process) {
        let spent = *process.dead_usage.lock();
        let changed = {
            let _guard = self.lock.lock();
            let left: Vec<i32> = process.cgroup.lock().threads.keys().copied().collect();
            for tid in left {
                self.unplace_thread(process, tid, Usage::default());
            }
            let (group, before) = {
                let mut m = process.cgroup.lock();
                if !std::mem::take(&mut m.counted) {
                    return;
                }
                (m.group.clone().unwrap_or_else(|| self.root.clone()), m.before)
            };
            let spent = difference(spent, &before);
            group.chain().for_each(|g| g.past.lock().add(&spent));
            Cgroups::count(&group, false).then_some(group)
        };
        if let Some(g) = changed {
            self.announce(&g);
        }
    }

    /// Moves a process with all its threads. `EBUSY` when `to` has controllers enabled for its children (a group
    /// has processes or hands out resources, not both, but for threaded ones), `ENODEV` when it was removed, `EOPNOTSUPP` when
    /// it is an invalid domain.
    pub fn migrate(&self, kernel: &Kernel, task: &Task, to: &Arc<Cgroup>) -> Result<()> {
        let process = &task.process;
        let (from, threads) = {
            let _guard = self.lock.lock();
            to.check_target()?;
            let threads = crate::signal::threads_of(kernel, process);
            if threads.is_empty() {
                return Err(ESRCH);
            }
            let (from, domain) = (self.of(process), to.domain());
            let mut sources = vec![from.clone()];
            for t in threads.iter().filter(|t| !Arc::ptr_eq(&self.of_task(t), to)) {
                let new = to.charge(true)?;
                let old = t.charge.lock().replace(new);
                drop(old);
                t.pressure.move_to(&to.pressure);
                let now = usage::of_task(t);
                sources.push(self.of_task(t));
                self.unplace_thread(process, t.tid, now);
                self.place_thread(t, to, now);
            }
            process.follow_limits();
            if Arc::ptr_eq(&from, &domain) {
                (sources, threads)
            } else {
                let mut now = usage::of_process(task);
                if let Ok(mm) = task.mm() {
                    usage::add_host(&mut now, mm.space().host_pid());
                }
                let spent = {
                    let mut m = process.cgroup.lock();
                    let spent = difference(now, &m.before);
                    m.group = Some(domain.clone());
                    m.before = now;
                    if !std::mem::replace(&mut m.counted, true) {
                        // Made without fork (tests, the first process): nowhere counted yet.
                        drop(m);
                        Cgroups::count(&from, true);
                    }
                    spent
                };
                from.chain().for_each(|g| g.past.lock().add(&spent));
                Cgroups::count(&from, false);
                Cgroups::count(&domain, true);
                process.follow_limits();
                (sources, threads)
            }
        };
        from.iter().for_each(|g| self.announce(g));
        self.announce(to);
        // Into a frozen group, or out of one.
        for t in threads {
            t.recheck_signals();
            t.notice();
        }
        from.iter().for_each(|g| g.thaw.wake_all(Events::ALL));
        self.bandwidth.moved(process);
        Ok(())
    }

    /// Makes a group below `parent` (mkdir(2)): `EEXIST`, `ENODEV` when the parent was removed, `EAGAIN` beyond
    /// the limits of an ancestor.
    pub fn create(&self, parent: &Arc<Cgroup>, name: &[u8]) -> Result<Arc<Cgroup>> {
        // A name in the form of an interface file could hide one.
        let reserved = ["cgroup.", "cpu.", "memory.", "pids.", "io."];
        if reserved.iter().any(|r| name.starts_with(r.as_bytes())) || name.contains(&b'\n') {
            return Err(EINVAL);
        }
        let _guard = self.lock.lock();
        if parent.is_removed() {
            return Err(ENODEV);
        }
        if parent.child(name).is_some() {
            return Err(EEXIST);
        }
        // Only groups whose limits are set are counted through.
        for (depth, g) in std::iter::successors(Some(parent), |g| g.parent.as_ref()).enumerate() {
            let deepest = g.max_depth.load(Ordering::Relaxed);
            let most = g.max_descendants.load(Ordering::Relaxed);
            let below = || g.subtree().len() as i64 - 1;
            if deepest >= 0 && depth as i64 + 1 > deepest || most >= 0 && below() + 1 > most {
                return Err(EAGAIN);
            }
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let g = Cgroup::new(id, name, Some(parent.clone()));
        parent.children.lock().insert(name.to_vec(), g.clone());
        Ok(g)
    }

    /// Removes an empty group (rmdir(2)); `EBUSY` while it has processes or groups.
    pub fn remove(&self, group: &Arc<Cgroup>) -> Result<()> {
        let parent = group.parent.as_ref().ok_or(EBUSY)?;
        let _guard = self.lock.lock();
        if group.populated() || !group.children.lock().is_empty() {
            return Err(EBUSY);
        }
        group.removed.store(true, Ordering::SeqCst);
        let gone = parent.children.lock().remove(&group.name);
        drop(gone);
        group.io.hand_over(&parent.io);
        Ok(())
    }

    /// Changes `cgroup.subtree_control`: `ENOENT` for a controller that the group itself has not got, `EBUSY` when the
    /// group has processes of its own or a child still hands the controller on, `EOPNOTSUPP` in a threaded subtree for what
    /// needs domains.
    pub fn control(&self, group: &Arc<Cgroup>, enable: u32, disable: u32) -> Result<()> {
        let _guard = self.lock.lock();
        let enable = enable & !group.subtree_control();
        if enable & !group.controllers() != 0 {
            return Err(ENOENT);
        }
        group.check_control(enable)?;
        let new = (group.subtree_control() | enable) & !disable;
        if group.children().iter().any(|c| c.subtree_control() & disable != 0) {
            return Err(EBUSY);
        }
        group.subtree_control.store(new, Ordering::Relaxed);
        Ok(())
    }

    /// One live thread of each process whose domain is `group` itself, or in it and below.
    pub fn members(&self, kernel: &Kernel, group: &Arc<Cgroup>, below: bool) -> Vec<Arc<Task>> {
        let all: Vec<Arc<Task>> = {
            let tree = kernel.tree.read();
            tree.processes().filter_map(|(_, p)| p.threads.values().next().cloned()).collect()
        };
        all.into_iter()
            .filter(|t| {
                let g = self.of(&t.process);
                if below { g.is_within(group) } else { Arc::ptr_eq(&g, group) }
            })
            .collect()
    }

    /// Page faults of the group and those below: all, and those that waited for a device.
    pub fn faults(&self, kernel: &Kernel, group: &Arc<Cgroup>) -> (u64, u64) {
        let mut u = *group.past.lock();
        for t in self.members(kernel, group, true) {
            let before = t.process.cgroup.lock().before;
            let mut now = *t.process.dead_usage.lock();
            if let Ok(mm) = t.mm() {
                usage::add_host(&mut now, mm.space().host_pid());
            }
            u.add(&difference(now, &before));
        }
        (u.minflt + u.majflt, u.majflt)
    }

    /// CPU time of the group and those below.
    pub fn usage(&self, kernel: &Kernel, group: &Arc<Cgroup>) -> Usage {
        let mut u = *group.past.lock();
        u.add(&self.thread_usage(kernel, group));
        for t in self.members(kernel, group, true) {
            let before = t.process.cgroup.lock().before;
            u.add(&difference(usage::of_process(&t), &before));
        }
        u
    }

    /// Freezes or thaws (`cgroup.freeze`).
    pub fn set_freeze(&self, kernel: &Kernel, group: &Arc<Cgroup>, on: bool) {
        group.freeze.store(on, Ordering::SeqCst);
        for t in self.tasks(kernel, group, true) {
            t.recheck_signals();
            if on {
                t.notice();
            }
        }
        if !on {
            for g in group.subtree() {
                g.thaw.wake_all(Events::ALL);
            }
        }
        self.announce(group);
    }

    /// True when every task of the group and below has come to rest: in the freezer, stopped, or stopped for its tracer
    /// (cgroup-v2.rst, "cgroup.freeze").
    pub fn is_frozen(&self, kernel: &Kernel, group: &Arc<Cgroup>) -> bool {
        let rests = |th: &Arc<Task>| {
            th.frozen.load(Ordering::SeqCst)
                || matches!(th.run_state(), RunState::Stopped | RunState::Traced)
        };
        group.is_freezing() && self.tasks(kernel, group, true).iter().all(rests)
    }

    /// Kills every process of the group and below (`cgroup.kill`).
    pub fn kill(&self, kernel: &Kernel, group: &Arc<Cgroup>) {
        for t in self.members(kernel, group, true) {
            crate::signal::kill_process(kernel, &t.process);
        }
    }
}

/// Sleeps while the task's group is frozen; returns whether it was. A tracer's interruption ends it for the stop, after which
/// the task comes back here.
pub(crate) fn rest_in_freezer(task: &Arc<Task>) -> bool {
    if !task.is_freezing() {
        // It may have thawed while a tracer had the task.
        task.frozen.store(false, Ordering::SeqCst);
        return false;
    }
    let kernel = task.kernel();
    task.frozen.store(true, Ordering::SeqCst);
    kernel.cgroups.announce(&kernel.cgroups.of_task(task));
    loop {
        // A task that is moved sleeps on its new group's queue.
        let group = kernel.cgroups.of_task(task);
        let over = || {
            let moved = !Arc::ptr_eq(&kernel.cgroups.of_task(task), &group);
            let trap = crate::ptrace::trap_pending(task);
            (moved || trap || !task.is_freezing()).then_some(())
        };
        let r =
            task.wait(&group.thaw, Events::ALL, WaitKind::Frozen, None, "do_freezer_trap", over);
        if r.is_err() || !task.is_freezing() {
            break;
        }
        if crate::ptrace::trap_pending(task) {
            // The group stays frozen meanwhile.
            return true;
        }
    }
    task.frozen.store(false, Ordering::SeqCst);
    kernel.cgroups.announce(&kernel.cgroups.of_task(task));
    true
}
