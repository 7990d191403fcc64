//! `/proc/<pid>/{sched,schedstat}`. The host schedules guest threads, so the times are its own.

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_core::task::Task;

use super::Target;
use crate::synth::Text;

/// Kernel priority of a task as `sched` and `stat` show it: 120 + nice, or 99 - real-time priority.
pub fn priority(policy: i32, rt: i32, nice: i32) -> i32 {
    match policy {
        libc::SCHED_FIFO | libc::SCHED_RR => 99 - rt,
        _ => 120 + nice,
    }
}

pub fn show(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let p = task.personal.lock().clone();
    let threads = t.members()?.len();
    let name = String::from_utf8_lossy(&task.comm()).into_owned();
    writeln!(out, "{name} ({}, #threads: {threads})", t.mnt.pid_ns.show(task.tid));
    writeln!(out, "{:-<67}", "");
    let run = uml_core::task::usage::of_task(&task);
    let ns = run.user_ns + run.system_ns;
    let (v, nv) = (task.nvcsw.load(Ordering::Relaxed), task.nivcsw.load(Ordering::Relaxed));
    let mut line = |name: &str, value: String| writeln!(out, "{name:<45}:{value:>21}");
    line("se.sum_exec_runtime", format!("{}.{:06}", ns / 1_000_000, ns % 1_000_000));
    line("nr_switches", (v + nv).to_string());
    line("nr_voluntary_switches", v.to_string());
    line("nr_involuntary_switches", nv.to_string());
    line("policy", p.sched_policy.to_string());
    line("prio", priority(p.sched_policy, p.sched_priority, p.nice).to_string());
    Ok(())
}

/// Nanoseconds on a CPU, nanoseconds waiting for one, number of times.
pub fn stat(t: &Target, _: &Task, out: &mut Text) -> Result<()> {
    let task = t.task()?;
    let [run, wait, slices] = uml_host::procinfo::schedstat(task.host_tid());
    writeln!(out, "{} {wait} {slices}", run + task.system_ns.load(Ordering::Relaxed));
    Ok(())
}
