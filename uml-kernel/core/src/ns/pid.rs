//! Pid namespaces (pid_namespaces(7)).
//!
//! Process ids inside the kernel are those of the initial namespace, which sees every process. Each further
//! namespace names the processes that live in it and below by numbers of its own.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};

use crate::ns::UserNs;

/// Depth of nesting (MAX_PID_NS_LEVEL).
pub const MAX_LEVEL: u32 = 32;
/// Numbers below this are not reused after the first round.
const RESERVED: i32 = 300;

/// Every namespace but the first.
static ALL: Mutex<Vec<Weak<PidNs>>> = Mutex::new(Rank::LEAF, Vec::new());

#[derive(Default)]
struct Numbers {
    to_kernel: BTreeMap<i32, i32>,
    from_kernel: HashMap<i32, i32>,
    last: i32,
    /// Its init is gone: nothing is started in it any more.
    dead: bool,
}

/// A pid namespace.
pub struct PidNs {
    pub id: u64,
    pub owner: Arc<UserNs>,
    pub parent: Option<Arc<PidNs>>,
    pub level: u32,
    numbers: Mutex<Numbers>,
}

impl PidNs {
    /// The namespace whose numbers the kernel uses.
    pub fn initial() -> Arc<PidNs> {
        static INITIAL: LazyLock<Arc<PidNs>> = LazyLock::new(|| {
            Arc::new(PidNs {
                id: 0xefff_fffc,
                owner: UserNs::initial(),
                parent: None,
                level: 0,
                numbers: Mutex::new(Rank::LEAF, Numbers::default()),
            })
        });
        INITIAL.clone()
    }

    /// A child of `parent`, owned by `owner`; `ENOSPC` below too many others.
    pub fn create(parent: &Arc<PidNs>, owner: &Arc<UserNs>) -> Result<Arc<PidNs>> {
        if parent.level >= MAX_LEVEL {
            return Err(ENOSPC);
        }
        let ns = Arc::new(PidNs {
            id: super::next_id(),
            owner: owner.clone(),
            parent: Some(parent.clone()),
            level: parent.level + 1,
            numbers: Mutex::new(Rank::LEAF, Numbers::default()),
        });
        ALL.lock().push(Arc::downgrade(&ns));
        Ok(ns)
    }

    /// The kernel pid `pid` is about to name something new: no namespace knows it any more.
    pub fn forget_everywhere(pid: i32) {
        let all: Vec<Arc<PidNs>> = {
            let mut all = ALL.lock();
            all.retain(|n| n.strong_count() != 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        for ns in all {
            ns.drop_number(pid);
        }
    }

    fn drop_number(&self, pid: i32) {
        let mut t = self.numbers.lock();
        if let Some(n) = t.from_kernel.remove(&pid) {
            t.to_kernel.remove(&n);
        }
    }

    /// The number that was given last; none in the initial namespace, whose numbers are the kernel's.
    pub fn last(&self) -> Option<i32> {
        (!self.is_initial()).then(|| self.numbers.lock().last)
    }

    /// True for the first one.
    pub fn is_initial(&self) -> bool {
        self.level == 0
    }

    /// The namespace and its ancestors, innermost first.
    pub fn chain(self: &Arc<PidNs>) -> impl Iterator<Item = &Arc<PidNs>> {
        std::iter::successors(Some(self), |n| n.parent.as_ref())
    }

    /// True when `self` is `other` or below it.
    pub fn is_within(self: &Arc<PidNs>, other: &Arc<PidNs>) -> bool {
        self.chain().any(|n| Arc::ptr_eq(n, other))
    }

    /// The number a kernel pid (of a process, thread, group or session) has here; 0 when it is not visible.
    pub fn show(&self, pid: i32) -> i32 {
        if self.is_initial() {
            return pid;
        }
        self.numbers.lock().from_kernel.get(&pid).copied().unwrap_or(0)
    }

    /// The kernel pid of number `n`; `None` when there is none.
    pub fn kernel_pid(&self, n: i32) -> Option<i32> {
        if self.is_initial() {
            return Some(n);
        }
        self.numbers.lock().to_kernel.get(&n).copied()
    }

    /// Kernel pid of its init; `None` before there was one.
    pub fn init(&self) -> Option<i32> {
        self.kernel_pid(1)
    }

    /// Gives `pid` a number here and in every ancestor but the first, as `wanted` says (innermost first, what is not there
    /// may be any). `live` tells which kernel pids are in use. `ENOMEM` once the namespace's init is gone, `EEXIST` when a
    /// wanted number is taken.
    pub fn enter(
        self: &Arc<PidNs>,
        pid: i32,
        wanted: &[i32],
        max: i32,
        live: &dyn Fn(i32) -> bool,
    ) -> Result<()> {
        for (n, ns) in self.chain().enumerate() {
            if !ns.is_initial() {
                ns.number(pid, wanted.get(n).copied().unwrap_or(0), max, live)
                    .inspect_err(|_| self.forget(pid))?;
            }
        }
        Ok(())
    }

    fn number(&self, pid: i32, wanted: i32, max: i32, live: &dyn Fn(i32) -> bool) -> Result<()> {
        let mut t = self.numbers.lock();
        if t.dead {
            return Err(ENOMEM);
        }
        // Numbers whose process is long gone are still in the tables: they are used again only when they come round.
        let taken =
            |t: &Numbers, n: i32| t.to_kernel.get(&n).is_some_and(|k| *k != pid && live(*k));
        let n = if wanted != 0 {
            if taken(&t, wanted) {
                return Err(EEXIST);
            }
            wanted
        } else {
            let mut n = t.last;
            let mut left = max;
            loop {
                n = if n + 1 >= max { RESERVED } else { n + 1 };
                left -= 1;
                if !taken(&t, n) {
                    break;
                }
                if left <= 0 {
                    return Err(EAGAIN);
                }
            }
            t.last = n;
            n
        };
        if let Some(old) = t.to_kernel.insert(n, pid)
            && old != pid
        {
            t.from_kernel.remove(&old);
        }
        if let Some(old) = t.from_kernel.insert(pid, n)
            && old != n
        {
            t.to_kernel.remove(&old);
        }
        Ok(())
    }

    /// Takes the numbers of `pid` away here and in the ancestors: it is about to name something else.
    pub fn forget(self: &Arc<PidNs>, pid: i32) {
        for ns in self.chain().filter(|n| !n.is_initial()) {
            ns.drop_number(pid);
        }
    }

    /// Its init is gone.
    pub fn close(&self) {
        self.numbers.lock().dead = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_has_numbers_of_its_own() {
        let first = PidNs::initial();
        let a = PidNs::create(&first, &UserNs::initial()).unwrap();
        let b = PidNs::create(&a, &UserNs::initial()).unwrap();
        let live = |_: i32| true;
        a.enter(100, &[], 32768, &live).unwrap();
        b.enter(101, &[], 32768, &live).unwrap();
        b.enter(102, &[], 32768, &live).unwrap();
        assert_eq!((a.show(100), a.show(101), a.show(102)), (1, 2, 3));
        assert_eq!((b.show(100), b.show(101), b.show(102)), (0, 1, 2));
        assert_eq!((b.kernel_pid(2), b.kernel_pid(3), first.show(102)), (Some(102), None, 102));
        assert_eq!(b.enter(103, &[2], 32768, &live), Err(EEXIST));
        b.forget(102);
        b.enter(103, &[2], 32768, &live).unwrap();
        assert_eq!((a.kernel_pid(3), b.kernel_pid(2)), (None, Some(103)));
        b.close();
        assert_eq!(b.enter(104, &[], 32768, &live), Err(ENOMEM));
    }

    #[test]
    fn numbers_of_the_dead_come_round() {
        let ns = PidNs::create(&PidNs::initial(), &UserNs::initial()).unwrap();
        for pid in 1..400 {
            ns.enter(1000 + pid, &[], 400, &|_| true).unwrap();
        }
        assert_eq!(ns.enter(5000, &[], 400, &|_| true), Err(EAGAIN));
        ns.enter(5000, &[], 400, &|p| p != 1350).unwrap();
        assert_eq!((ns.show(5000), ns.show(1350)), (350, 0));
    }
}
