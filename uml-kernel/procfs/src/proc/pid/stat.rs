//! `/proc/<pid>/stat` (proc_pid_stat(5)).

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_core::signal::{SIG_DFL, SIG_IGN};
use uml_core::task::access::{Ids, may_access};
use uml_core::task::rlimit::Resource;
use uml_core::task::tree::ChildState;
use uml_core::task::{RunState, Task};
use uml_core::time::Clock;

use super::super::stat::TICK;
use super::{Target, sched, status};
use crate::synth::Text;

/// Signals that are ignored and caught, as masks.
pub fn dispositions(task: &Task) -> (u64, u64) {
    let hand = task.process.sighand.lock();
    let (mut ignored, mut caught) = (0, 0);
    for signo in 1..=64 {
        let bit = 1u64 << (signo - 1);
        match hand.action(signo).handler {
            SIG_DFL => {}
            SIG_IGN => ignored |= bit,
            _ => caught |= bit,
        }
    }
    (ignored, caught)
}

/// State letter: a stop recorded for the process counts even when its threads still sleep.
pub fn state(t: &Target, task: &Task) -> Result<RunState> {
    let process = t.kernel()?.tree.read().get(t.pid).map(|e| e.state);
    Ok(match process {
        Some(ChildState::Zombie(_)) => RunState::Zombie,
        _ => task.seen_state(),
    })
}

/// PF_FORKNOEXEC and PF_RANDOMIZE, the flags that mean something here.
const PF_FORKNOEXEC: u64 = 0x40;
const PF_RANDOMIZE: u64 = 0x40_0000;

pub fn show(t: &Target, reader: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let kernel = t.kernel()?;
    let process = &task.process;
    let permitted = may_access(reader, &task, Ids::Fs);
    let state = state(t, &task)?;
    let (ppid, pgrp, session, threads, exit_code) = {
        let tree = kernel.tree.read();
        match tree.get(t.pid) {
            Some(e) => {
                let code = match e.state {
                    ChildState::Zombie(s) => s,
                    _ => 0,
                };
                let show = |pid| t.mnt.pid_ns.show(pid);
                (show(e.parent), show(e.pgrp), show(e.session), e.members().count(), code)
            }
            None => return Err(uml_abi::errno::ESRCH),
        }
    };
    let (tty, tpgid) = match kernel.terminals().and_then(|k| k.controlling(&task)) {
        Some((dev, pgrp)) => (dev.encode() as i32, t.mnt.pid_ns.show(pgrp)),
        None => (0, -1),
    };
    let own = t.usage(&task);
    let (children, dead) = (*process.child_usage.lock(), *process.dead_usage.lock());
    let mm = task.mm().ok();
    let host_tid = task.host_tid();
    let host = match (&mm, t.is_thread()) {
        (_, true) => uml_host::procinfo::thread_stat(host_tid),
        (Some(mm), false) => uml_host::procinfo::stat(mm.space().host_pid()),
        (None, false) => None,
    }
    .unwrap_or_default();
    let (minflt, majflt) = match &mm {
        Some(_) => (host.minflt, host.majflt),
        None => (dead.minflt, dead.majflt),
    };
    let p = task.personal.lock().clone();
    let layout = mm.as_ref().map(|m| m.map().layout).unwrap_or_default();
    let (vsize, rss) = match &mm {
        Some(mm) => {
            let resident = uml_host::procinfo::statm(mm.space().host_pid()).unwrap_or_default();
            (status::Sizes::of(mm).total, resident.resident)
        }
        None => (0, 0),
    };
    // Addresses help an attacker: they are for those who may look into the process.
    let gated = |v: u64| if permitted { v } else { 0 };
    let (ignored, caught) = dispositions(&task);
    let pending = task.pending.lock().set;
    let low = |set: u64| set & 0x7fff_ffff;
    let start = task.start_time.saturating_duration_since(kernel.boot);
    let start = reader.ns().time.shown(Clock::Boottime, start).as_nanos() as u64 / TICK;
    let mut flags = 0;
    if !process.did_exec.load(Ordering::Relaxed) {
        flags |= PF_FORKNOEXEC;
    }
    if process.personality.load(Ordering::Relaxed) & libc::ADDR_NO_RANDOMIZE as u64 == 0 {
        flags |= PF_RANDOMIZE;
    }

    write!(out, "{} (", task_id(t, &task));
    status::escaped_name(&task, out);
    write!(out, ") {} {ppid} {pgrp} {session} {tty} {tpgid} {flags}", state.letter());
    write!(out, " {minflt} {} {majflt} {}", children.minflt, children.majflt);
    write!(out, " {} {}", own.user_ns / TICK, own.system_ns / TICK);
    write!(out, " {} {}", children.user_ns / TICK, children.system_ns / TICK);
    let prio = sched::priority(p.sched_policy, p.sched_priority, p.nice) - 100;
    write!(out, " {prio} {} {threads} 0 {start}", p.nice);
    write!(out, " {vsize} {rss} {}", task.rlimit(Resource::Rss));
    let code = |v: u64| if mm.is_none() || permitted { v } else { 1 };
    write!(out, " {} {}", code(layout.start_code), code(layout.end_code));
    write!(out, " {} 0 0", gated(layout.start_stack));
    write!(out, " {} {} {} {}", low(pending), low(task.blocked()), low(ignored), low(caught));
    let sleeping = u64::from(!task.wchan().is_empty());
    write!(out, " {} 0 0", gated(sleeping));
    let exit_signal = process.exit_signal.load(Ordering::Relaxed);
    let exit_signal = if t.names_thread() && !task.is_leader() { -1 } else { exit_signal };
    let cpu = u64::from(host.processor).min(kernel.ncpus as u64 - 1);
    write!(out, " {exit_signal} {cpu} {} {} 0 0 0", p.sched_priority, p.sched_policy);
    for v in [
        layout.start_data,
        layout.end_data,
        layout.start_brk,
        layout.arg_start,
        layout.arg_end,
        layout.env_start,
        layout.env_end,
    ] {
        write!(out, " {}", gated(v));
    }
    writeln!(out, " {}", if permitted { exit_code } else { 0 });
    Ok(())
}

/// The number the file is about: the process, or the thread below `task/`.
pub fn task_id(t: &Target, task: &Task) -> i32 {
    t.mnt.pid_ns.show(if t.is_thread() { task.tid } else { t.tid })
}
