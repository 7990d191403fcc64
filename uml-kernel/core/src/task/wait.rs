//! Waiting for children (wait4(2), waitid(2)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use crate::ptrace;
use crate::signal::{CLD_CONTINUED, CLD_DUMPED, CLD_EXITED, CLD_KILLED, CLD_STOPPED, CLD_TRAPPED};
use crate::task::process::Usage;
use crate::task::tree::ChildState;
use crate::task::{Task, WaitKind};

/// Which children a wait is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Any,
    Pid(i32),
    Group(i32),
}

/// What a wait found.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub pid: i32,
    pub uid: u32,
    /// Wait status as wait4(2) reports it.
    pub status: i32,
    /// CLD_* and si_status of waitid(2).
    pub code: i32,
    pub value: i32,
    pub usage: Usage,
}

const WNOHANG: i32 = libc::WNOHANG;
const WUNTRACED: i32 = libc::WUNTRACED;
const WEXITED: i32 = libc::WEXITED;
const WCONTINUED: i32 = libc::WCONTINUED;
const WNOWAIT: i32 = libc::WNOWAIT;
const WALL: i32 = libc::__WALL;
const WCLONE: i32 = libc::__WCLONE;

/// Waits as `options` (waitid(2) bits) say. `None` with WNOHANG when nothing is to report.
pub fn wait_child(task: &Arc<Task>, which: Which, options: i32) -> Result<Option<Found>> {
    let queue = task.process.child_wait.clone();
    let look = || match scan(task, which, options) {
        Ok(None) => None,
        other => Some(other),
    };
    if options & WNOHANG != 0 {
        return look().unwrap_or(Ok(None));
    }
    let found = task.wait(&queue, Events::ALL, WaitKind::Interruptible, None, "do_wait", look)?;
    found.unwrap_or(Ok(None))
}

/// Looks through the tasks that the caller's process traces: stops and ends are reported whatever the options say of
/// children. `None` when there are none; `Some(None)` when none has anything to report.
fn scan_tracees(task: &Arc<Task>, which: Which, options: i32) -> Option<Option<Found>> {
    let kernel = task.kernel();
    let own = options & libc::__WNOTHREAD != 0;
    let keep = options & WNOWAIT != 0;
    let matches = |tid: i32, pgrp: i32| match which {
        Which::Any => true,
        Which::Pid(p) => p == tid,
        Which::Group(g) => g == pgrp,
    };
    if options & WEXITED != 0
        && let Some(d) = ptrace::reap_dead(task, |tid| matches(tid, -1), keep)
    {
        let (code, value) = exit_code(d.status);
        let (pid, uid, status, usage) = (d.tid, d.uid, d.status, d.usage);
        return Some(Some(Found { pid, uid, status, code, value, usage }));
    }
    let tids: Vec<i32> = task.process.tracees.lock().iter().copied().collect();
    let mut any = None;
    for tid in tids {
        let (tracee, pgrp) = {
            let tree = kernel.tree.read();
            let Some(t) = tree.task(tid) else {
                // On its way out: its end is about to be on record.
                if matches(tid, -1) {
                    any = Some(None);
                }
                continue;
            };
            let pgrp = tree.get(t.process.pid).map_or(0, |p| p.pgrp);
            (t, pgrp)
        };
        if !matches(tid, pgrp) || own && tracee.ptrace.tracer() != task.tid {
            continue;
        }
        any = Some(None);
        if let Some(code) = tracee.ptrace.take_report(keep) {
            return Some(Some(Found {
                pid: tid,
                uid: tracee.cred().uid,
                status: code << 8 | 0x7f,
                code: CLD_TRAPPED,
                value: code,
                usage: Usage::default(),
            }));
        }
    }
    any
}

fn exit_code(status: i32) -> (i32, i32) {
    match status & 0x7f {
        0 => (CLD_EXITED, status >> 8 & 0xff),
        s if status & 0x80 != 0 => (CLD_DUMPED, s),
        s => (CLD_KILLED, s),
    }
}

fn scan(task: &Arc<Task>, which: Which, options: i32) -> Result<Option<Found>> {
    let kernel = task.kernel();
    let traced = scan_tracees(task, which, options);
    if let Some(Some(found)) = traced {
        return Ok(Some(found));
    }
    let mut tree = kernel.tree.write();
    let me = tree.get(task.process.pid).ok_or(ECHILD)?;
    let children: Vec<i32> = match which {
        Which::Pid(pid) => me.children.get(&pid).copied().into_iter().collect(),
        _ => me.children.iter().copied().collect(),
    };
    let mut candidates = traced.is_some();
    for pid in children {
        let Some(c) = tree.get_mut(pid) else { continue };
        if matches!(which, Which::Group(g) if c.pgrp != g) {
            continue;
        }
        let is_clone =
            c.process.exit_signal.load(std::sync::atomic::Ordering::Relaxed) != libc::SIGCHLD;
        if options & WALL == 0 && is_clone != (options & WCLONE != 0) {
            continue;
        }
        candidates = true;
        let uid = c.leader.cred().uid;
        let usage = *c.process.dead_usage.lock();
        let found = |status, code, value| Found { pid, uid, status, code, value, usage };
        match c.state {
            ChildState::Zombie(status) if options & WEXITED != 0 => {
                let (code, value) = exit_code(status);
                let f = found(status, code, value);
                if options & WNOWAIT == 0 {
                    let children = *c.process.child_usage.lock();
                    let mut total = task.process.child_usage.lock();
                    total.add(&usage);
                    total.add(&children);
                    drop(total);
                    tree.remove_process(pid);
                }
                return Ok(Some(f));
            }
            ChildState::Stopped { signal, reported: false } if options & WUNTRACED != 0 => {
                if options & WNOWAIT == 0 {
                    c.state = ChildState::Stopped { signal, reported: true };
                }
                return Ok(Some(found(signal << 8 | 0x7f, CLD_STOPPED, signal)));
            }
            ChildState::Continued if options & WCONTINUED != 0 => {
                if options & WNOWAIT == 0 {
                    c.state = ChildState::Running;
                }
                return Ok(Some(found(0xffff, CLD_CONTINUED, libc::SIGCONT)));
            }
            _ => {}
        }
    }
    if candidates { Ok(None) } else { Err(ECHILD) }
}
