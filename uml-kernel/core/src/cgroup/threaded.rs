//! Threaded groups (Documentation/admin-guide/cgroup-v2.rst, "Threads"): the threads of a process in several groups.
//!
//! A process is in a *domain*, a group that is not threaded, with everything that belongs to it as a whole (memory, I/O). A
//! thread is in its process's domain or in a threaded group below that; the process remembers those who are
//! ([`Membership`]). What such a thread uses counts in its own group and up to below the domain by itself, from there on as
//! part of the process. So only groups that are threaded ever look at single threads.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use super::{CPU, Cgroup, Cgroups, Membership, PIDS, difference};
use crate::kernel::Kernel;
use crate::task::process::Usage;
use crate::task::{Process, Task, usage};

/// Controllers that threads of one process can be under differently.
pub const THREADED: u32 = CPU | PIDS;

/// `cgroup.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Domain,
    /// The root of a threaded subtree.
    DomainThreaded,
    /// A domain inside a threaded subtree: of no use until it is threaded, too.
    DomainInvalid,
    Threaded,
}

impl Kind {
    /// As the file says it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Domain => "domain",
            Kind::DomainThreaded => "domain threaded",
            Kind::DomainInvalid => "domain invalid",
            Kind::Threaded => "threaded",
        }
    }
}

/// Where one thread of a process is, below the process's domain.
#[derive(Clone)]
pub(super) struct ThreadPlace {
    pub(super) group: Arc<Cgroup>,
    /// What it had used when it came.
    pub(super) before: Usage,
}

impl Cgroup {
    /// It was made threaded.
    pub fn is_threaded(&self) -> bool {
        self.threaded.load(Ordering::SeqCst)
    }

    /// The domain it belongs to: itself, or the nearest group above that is not threaded.
    pub(super) fn domain(self: &Arc<Cgroup>) -> Arc<Cgroup> {
        let mut at = self;
        while at.is_threaded() {
            match &at.parent {
                Some(p) => at = p,
                None => break,
            }
        }
        at.clone()
    }

    /// The group and those above it that are threaded, innermost first.
    fn threaded_chain(&self) -> impl Iterator<Item = &Cgroup> {
        self.chain().take_while(|g| g.is_threaded())
    }

    fn has_tasks(&self) -> bool {
        self.own.load(Ordering::SeqCst) != 0
    }

    fn is_thread_root(&self) -> bool {
        !self.is_threaded()
            && (self.children.lock().values().any(|c| c.is_threaded())
                || self.has_tasks() && self.subtree_control() & THREADED != 0)
    }

    fn is_valid_domain(&self) -> bool {
        let spoils = |g: &Cgroup| g.is_threaded() || g.parent.is_some() && g.is_thread_root();
        !self.is_threaded() && !self.chain().skip(1).any(spoils)
    }

    fn can_be_thread_root(&self) -> bool {
        if self.parent.is_none() {
            return true;
        }
        let populated = |c: &Arc<Cgroup>| !c.is_threaded() && c.populated();
        !self.is_threaded()
            && self.subtree_control() & !THREADED == 0
            && !self.children.lock().values().any(populated)
    }

    /// `cgroup.type`.
    pub fn kind(&self) -> Kind {
        if self.is_threaded() {
            Kind::Threaded
        } else if !self.is_valid_domain() {
            Kind::DomainInvalid
        } else if self.is_thread_root() {
            Kind::DomainThreaded
        } else {
            Kind::Domain
        }
    }

    /// May tasks enter? `ENODEV` when it was removed, `EOPNOTSUPP` where its domain is of no use, `EBUSY` when it
    /// hands out resources to groups below it that cannot compete with tasks.
    pub(super) fn check_target(self: &Arc<Cgroup>) -> Result<()> {
        if self.is_removed() {
            return Err(ENODEV);
        }
        if !self.domain().is_valid_domain() {
            return Err(EOPNOTSUPP);
        }
        if !self.is_threaded() && !self.can_be_thread_root() && self.subtree_control() != 0 {
            return Err(EBUSY);
        }
        Ok(())
    }

    /// May it hand out these controllers? `EOPNOTSUPP` for one that needs a domain where there are threads, `EBUSY` while it
    /// has tasks.
    pub(super) fn check_control(self: &Arc<Cgroup>, enable: u32) -> Result<()> {
        if enable == 0 {
            return Ok(());
        }
        if !self.domain().is_valid_domain() {
            return Err(EOPNOTSUPP);
        }
        if self.parent.is_none() {
            return Ok(());
        }
        if enable & !THREADED != 0 {
            if self.is_threaded() || self.is_thread_root() {
                return Err(EOPNOTSUPP);
            }
        } else if self.is_threaded() || self.can_be_thread_root() {
            return Ok(());
        }
        if self.has_tasks() { Err(EBUSY) } else { Ok(()) }
    }
}

impl Membership {
    /// The group of the thread `tid`.
    pub(super) fn of_thread(&self, tid: i32) -> Option<&Arc<Cgroup>> {
        self.threads.get(&tid).map(|p| &p.group).or(self.group.as_ref())
    }

    /// The process's domain and every other group that a thread of it is in.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<Cgroup>> {
        self.group.iter().chain(self.threads.values().map(|p| &p.group))
    }
}

impl Process {
    /// Some thread of it is in a group for which `f` holds, or below one.
    pub(super) fn any_group(&self, f: impl Fn(&Cgroup) -> bool) -> bool {
        self.cgroup.lock().groups().any(|g| g.chain().any(&f))
    }
}

impl Task {
    /// Its group or one above is such a one.
    pub(super) fn in_group(&self, f: impl FnMut(&Cgroup) -> bool) -> bool {
        let m = self.process.cgroup.lock();
        m.of_thread(self.tid).is_some_and(|g| g.chain().any(f))
    }

    /// It is to stop in the freezer.
    pub fn is_freezing(&self) -> bool {
        self.in_group(Cgroup::freeze)
    }
}

impl Cgroups {
    /// The group of a thread.
    pub fn of_task(&self, t: &Task) -> Arc<Cgroup> {
        let m = t.process.cgroup.lock();
        m.of_thread(t.tid).cloned().unwrap_or_else(|| self.root.clone())
    }

    /// Makes a group threaded (`cgroup.type`), for good. `ENODEV` when it was removed; `EOPNOTSUPP` for the root, while it
    /// has tasks or hands out controllers that need a domain, and where the group above cannot be the domain.
    pub fn make_threaded(&self, group: &Arc<Cgroup>) -> Result<()> {
        let _guard = self.lock.lock();
        if group.is_removed() {
            return Err(ENODEV);
        }
        if group.is_threaded() {
            return Ok(());
        }
        let domain = group.parent.as_ref().ok_or(EOPNOTSUPP)?.domain();
        if group.populated()
            || group.subtree_control() & !THREADED != 0
            || !domain.is_valid_domain()
            || !domain.can_be_thread_root()
        {
            return Err(EOPNOTSUPP);
        }
        group.threaded.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// Counts a thread in or out of a threaded group; true when that changed whether some group is populated.
    fn count_thread(group: &Cgroup, enter: bool) -> bool {
        let mut changed = false;
        for (n, g) in group.threaded_chain().enumerate() {
            let step = |c: &std::sync::atomic::AtomicUsize| match enter {
                true => c.fetch_add(1, Ordering::SeqCst) == 0,
                false => c.fetch_sub(1, Ordering::SeqCst) == 1,
            };
            if n == 0 {
                step(&g.own);
            }
            changed |= step(&g.all);
        }
        changed
    }

    /// The thread enters `group` if that is threaded. The hierarchy is locked.
    pub(super) fn place_thread(&self, t: &Task, group: &Arc<Cgroup>, before: Usage) -> bool {
        if !group.is_threaded() {
            return false;
        }
        let place = ThreadPlace { group: group.clone(), before };
        t.process.cgroup.lock().threads.insert(t.tid, place);
        Cgroups::count_thread(group, true)
    }

    /// The thread `tid` leaves the threaded group it is in, having used `now` in all; that group when something changed. The
    /// hierarchy is locked.
    pub(super) fn unplace_thread(
        &self,
        process: &Process,
        tid: i32,
        now: Usage,
    ) -> Option<Arc<Cgroup>> {
        let place = process.cgroup.lock().threads.remove(&tid)?;
        let spent = difference(now, &place.before);
        place.group.threaded_chain().for_each(|g| g.past.lock().add(&spent));
        Cgroups::count_thread(&place.group, false).then_some(place.group)
    }

    /// A thread ended, or did not come to be, having used `now` in all.
    pub(crate) fn thread_ended(&self, t: &Task, now: Usage) {
        if t.process.cgroup.lock().threads.is_empty() {
            return;
        }
        let changed = {
            let _guard = self.lock.lock();
            self.unplace_thread(&t.process, t.tid, now)
        };
        if let Some(g) = changed {
            self.announce(&g);
        }
    }

    /// execve(2) of another thread than the leader: `new` goes on with the leader's number where `old` was.
    pub(crate) fn renamed(&self, old: &Task, new: &Task) {
        let now = usage::of_task(old);
        let _guard = self.lock.lock();
        let charge = old.charge.lock().take();
        *new.charge.lock() = charge;
        let group = {
            let mut m = new.process.cgroup.lock();
            if let Some(place) = m.threads.remove(&old.tid) {
                let spent = difference(now, &place.before);
                place.group.threaded_chain().for_each(|g| g.past.lock().add(&spent));
                // Its CPU clock begins anew with the task.
                let place = ThreadPlace { before: Usage::default(), ..place };
                m.threads.insert(new.tid, place);
            }
            m.of_thread(new.tid).cloned()
        };
        if let Some(g) = group {
            new.pressure.move_to(&g.pressure);
        }
    }

    /// Moves one thread to another group of the same domain (`cgroup.threads`): `EOPNOTSUPP` for one of another domain, else as
    /// [`Cgroups::migrate`].
    pub fn migrate_thread(&self, kernel: &Kernel, t: &Arc<Task>, to: &Arc<Cgroup>) -> Result<()> {
        let from = {
            let _guard = self.lock.lock();
            to.check_target()?;
            if !Arc::ptr_eq(&self.of(&t.process), &to.domain()) {
                return Err(EOPNOTSUPP);
            }
            if kernel.tree.read().task(t.tid).is_none() {
                return Err(ESRCH);
            }
            let from = self.of_task(t);
            if Arc::ptr_eq(&from, to) {
                return Ok(());
            }
            let charge = to.charge(true)?;
            drop(t.charge.lock().replace(charge));
            t.pressure.move_to(&to.pressure);
            let now = usage::of_task(t);
            self.unplace_thread(&t.process, t.tid, now);
            self.place_thread(t, to, now);
            t.process.follow_limits();
            from
        };
        self.announce(&from);
        self.announce(to);
        t.recheck_signals();
        t.notice();
        from.thaw.wake_all(Events::ALL);
        self.bandwidth.moved(&t.process);
        Ok(())
    }

    /// Live threads in `group` itself, or in it and below.
    pub fn tasks(&self, kernel: &Kernel, group: &Arc<Cgroup>, below: bool) -> Vec<Arc<Task>> {
        let all: Vec<Arc<Task>> = {
            let tree = kernel.tree.read();
            tree.processes().flat_map(|(_, p)| p.threads.values().cloned()).collect()
        };
        let inside = |t: &Arc<Task>| {
            let g = self.of_task(t);
            if below { g.is_within(group) } else { Arc::ptr_eq(&g, group) }
        };
        all.into_iter().filter(inside).collect()
    }

    /// CPU time of threads in threaded groups within `group` whose process's domain is above it.
    pub(super) fn thread_usage(&self, kernel: &Kernel, group: &Arc<Cgroup>) -> Usage {
        let mut sum = Usage::default();
        if !group.is_threaded() {
            return sum;
        }
        for t in self.tasks(kernel, group, true) {
            let before = t.process.cgroup.lock().threads.get(&t.tid).map(|p| p.before);
            if let Some(before) = before {
                sum.add(&difference(usage::of_task(&t), &before));
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::super::MEMORY;
    use super::*;

    fn make(c: &Cgroups, parent: &Arc<Cgroup>, name: &[u8]) -> Arc<Cgroup> {
        c.create(parent, name).unwrap()
    }

    fn kinds(groups: &[&Arc<Cgroup>]) -> Vec<&'static str> {
        groups.iter().map(|g| g.kind().name()).collect()
    }

    #[test]
    fn types_follow_from_the_tree() {
        let c = Cgroups::default();
        let a = make(&c, c.root(), b"a");
        let (b, d) = (make(&c, &a, b"b"), make(&c, &a, b"d"));
        let e = make(&c, &b, b"e");
        assert_eq!(c.make_threaded(&b), Ok(()));
        assert_eq!(
            kinds(&[&a, &b, &d, &e]),
            ["domain threaded", "threaded", "domain invalid", "domain invalid"]
        );
        assert!(Arc::ptr_eq(&b.domain(), &a) && Arc::ptr_eq(&e.domain(), &e));
        assert_eq!(b.check_target(), Ok(()));
        assert_eq!(d.check_target(), Err(EOPNOTSUPP));
        assert_eq!(c.make_threaded(&e), Ok(()));
        // The domain of all of them moves up.
        assert_eq!(c.make_threaded(&a), Ok(()));
        assert!(Arc::ptr_eq(&e.domain(), c.root()));
        assert_eq!(kinds(&[c.root(), &a, &e]), ["domain threaded", "threaded", "threaded"]);
        assert_eq!(c.make_threaded(c.root()), Err(EOPNOTSUPP));
    }

    #[test]
    fn controllers_and_threads() {
        let c = Cgroups::default();
        let a = make(&c, c.root(), b"a");
        let b = make(&c, &a, b"b");
        c.control(c.root(), CPU | PIDS | MEMORY, 0).unwrap();
        c.control(&a, CPU | MEMORY, 0).unwrap();
        // A controller that needs domains is handed out.
        assert_eq!(c.make_threaded(&b), Err(EOPNOTSUPP));
        assert_eq!(a.check_target(), Err(EBUSY));
        c.control(&a, 0, MEMORY).unwrap();
        assert_eq!(a.check_target(), Ok(()));
        // With tasks and such a controller it is the root of a threaded subtree.
        Cgroups::count(&a, true);
        assert_eq!(kinds(&[&a, &b]), ["domain threaded", "domain invalid"]);
        assert_eq!(c.control(&a, MEMORY, 0), Err(EOPNOTSUPP));
        assert_eq!(c.control(&a, PIDS, 0), Ok(()));
        assert_eq!(c.make_threaded(&b), Ok(()));
        assert_eq!(b.controllers(), CPU | PIDS);
        assert_eq!(c.control(&b, MEMORY, 0), Err(ENOENT));
        assert_eq!(c.control(&b, CPU, 0), Ok(()));
        Cgroups::count(&a, false);
        // A populated child that is a domain stands in the way.
        let x = make(&c, c.root(), b"x");
        let (y, z) = (make(&c, &x, b"y"), make(&c, &x, b"z"));
        Cgroups::count(&y, true);
        assert_eq!(c.make_threaded(&z), Err(EOPNOTSUPP));
        assert_eq!(c.make_threaded(&y), Err(EOPNOTSUPP));
        Cgroups::count(&y, false);
        assert_eq!(c.make_threaded(&z), Ok(()));
        assert_eq!(x.check_target(), Ok(()));
        assert_eq!(y.check_target(), Err(EOPNOTSUPP));
    }

    #[test]
    fn a_domain_with_tasks_hands_out_nothing_that_needs_domains() {
        let c = Cgroups::default();
        let a = make(&c, c.root(), b"a");
        c.control(c.root(), CPU | MEMORY, 0).unwrap();
        Cgroups::count(&a, true);
        assert_eq!(c.control(&a, MEMORY, 0), Err(EBUSY));
        assert_eq!(c.control(&a, CPU, 0), Ok(()));
        assert_eq!(c.control(&a, 0, CPU), Ok(()));
        assert_eq!(a.kind(), Kind::Domain);
    }
}
