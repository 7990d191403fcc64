//! Who may look at or change another process (ptrace(2), "Ptrace access mode checking").

use std::sync::atomic::Ordering;

use crate::landlock::scope;
use crate::task::{Cap, Cred, Task};

/// Which ids of the caller count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// PTRACE_MODE_FSCREDS: filesystem ids (/proc).
    Fs,
    /// PTRACE_MODE_REALCREDS: real ids (ptrace(2), process_vm_readv(2), kcmp(2)).
    Real,
}

/// Whether someone with `cred` may access `target`, a task of another process.
pub fn may_access_as(cred: &Cred, target: &Task, ids: Ids) -> bool {
    let t = target.cred();
    let capable = cred.capable_in(&t.user_ns, Cap::SysPtrace);
    let (uid, gid) = match ids {
        Ids::Fs => (cred.fsuid, cred.fsgid),
        Ids::Real => (cred.uid, cred.gid),
    };
    let same = [t.uid, t.euid, t.suid].iter().all(|u| *u == uid)
        && [t.gid, t.egid, t.sgid].iter().all(|g| *g == gid);
    if !same && !capable {
        return false;
    }
    // Without an address space nothing can be dumped.
    if target.mm().is_ok() && target.process.dumpable.load(Ordering::Relaxed) != 1 && !capable {
        return false;
    }
    let own = match ids {
        Ids::Fs => cred.cap_effective,
        Ids::Real => cred.cap_permitted,
    };
    let here = std::sync::Arc::ptr_eq(&t.user_ns, &cred.user_ns);
    (here && t.cap_permitted & !own == 0 || capable) && scope::may_trace(cred, &t)
}

/// Whether `caller` may access `target`; threads of one process always may.
pub fn may_access(caller: &Task, target: &Task, ids: Ids) -> bool {
    caller.process.pid == target.process.pid || may_access_as(&caller.cred(), target, ids)
}
