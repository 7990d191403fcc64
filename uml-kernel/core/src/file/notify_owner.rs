//! Signals to the owner of an open file (fcntl(2) F_SETOWN, F_SETSIG).

use std::sync::Arc;

use crate::file::Owner;
use crate::kernel::Kernel;
use crate::landlock::scope;
use crate::signal::{self, SigFields, SigInfo};
use crate::task::{Process, Task};

/// F_OWNER_* of `struct f_owner_ex`.
pub const F_OWNER_TID: i32 = 0;
pub const F_OWNER_PID: i32 = 1;
pub const F_OWNER_PGRP: i32 = 2;

/// POLL_MSG and its kin: `si_code` of SIGIO, and the `si_band` that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: i32,
    pub band: i64,
}

/// A lease is being broken, or a directory changed.
pub const POLL_MSG: Reason =
    Reason { code: 3, band: (libc::POLLIN | libc::POLLRDNORM) as i64 | 0x400 };

/// May the owner that was set with these ids signal `target`?
fn allowed(o: &Owner, target: &Task) -> bool {
    let c = target.cred();
    if scope::forbids(o.landlock.as_ref(), c.landlock.as_ref(), scope::SIGNAL) {
        return false;
    }
    o.euid == 0 || o.euid == c.suid || o.euid == c.uid || o.uid == c.suid || o.uid == c.uid
}

/// Sends the owner SIGIO, or the signal of F_SETSIG with what happened to `fd`.
pub fn signal(kernel: &Kernel, o: &Owner, fd: i32, reason: Reason) {
    if o.id == 0 {
        return;
    }
    let info = match o.signo {
        0 => SigInfo::kernel(libc::SIGIO),
        signo => SigInfo {
            signo,
            errno: 0,
            code: reason.code,
            fields: SigFields::Poll { band: reason.band, fd },
        },
    };
    let (task, processes): (Option<Arc<Task>>, Vec<(Arc<Process>, Arc<Task>)>) = {
        let tree = kernel.tree.read();
        let of = |pid: i32| tree.get(pid).map(|p| (p.process.clone(), p.leader.clone()));
        match o.kind {
            F_OWNER_TID => (tree.task(o.id), Vec::new()),
            F_OWNER_PGRP => (None, tree.group(o.id).into_iter().filter_map(of).collect()),
            _ => (None, of(o.id).into_iter().collect()),
        }
    };
    // A queue that is full of the chosen signal: plain SIGIO instead.
    let plain = SigInfo::kernel(libc::SIGIO);
    if let Some(t) = task.filter(|t| allowed(o, t))
        && !signal::send_to_task(&t, info, false)
    {
        signal::send_to_task(&t, plain, false);
    }
    for (p, _) in processes.iter().filter(|(_, leader)| allowed(o, leader)) {
        if !signal::send_to_process(kernel, p, info, false) {
            signal::send_to_process(kernel, p, plain, false);
        }
    }
}
